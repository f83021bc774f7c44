//! The fields of COPY text.

/// Takes the escapes out of a field; `None` is NULL.
pub(crate) fn unescape(field: &[u8]) -> Option<Vec<u8>> {
    if field == br"\N" {
        return None;
    }
    let mut value = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        value.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(&other) => other,
                None => b'\\',
            },
            other => other,
        });
    }
    Some(value)
}

/// Writes a field as the server does.
pub(super) fn escape(value: Option<&[u8]>, line: &mut Vec<u8>) {
    let Some(value) = value else { return line.extend_from_slice(br"\N") };
    for &byte in value {
        let escaped = match byte {
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            11 => b'v',
            b'\\' => b'\\',
            other => {
                line.push(other);
                continue;
            }
        };
        line.extend([b'\\', escaped]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40))) {
            let mut line = Vec::new();
            escape(value.as_deref(), &mut line);
            prop_assert_eq!(unescape(&line), value);
            prop_assert!(!line.contains(&b'\n') && !line.contains(&b'\t'));
        }
    }
}
