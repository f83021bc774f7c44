//! Brings definitions that mean the same into one form.
//!
//! `CHECK (status IN ('a', 'b'))` on a varchar column is printed as `(ARRAY['a'::character varying, ...])::text[]` where it was
//! first made, and as `ARRAY[('a'::character varying)::text, ...]` after a dump and a restore. The cast of an array is moved
//! to its elements here; nothing else is touched.

/// Returns the definition with every cast of an array literal moved to its elements.
pub(crate) fn definition(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(start) = rest.find("(ARRAY[") {
        let (before, from) = rest.split_at(start);
        // Within a string literal it is no array: quotes before it do not pair up.
        let in_literal = (out.matches('\'').count() + before.matches('\'').count()) % 2 == 1;
        out.push_str(before);
        match (!in_literal).then(|| cast_array(from)).flatten() {
            Some((moved, after)) => {
                out.push_str(&moved);
                rest = after;
            }
            None => {
                out.push_str("(ARRAY[");
                rest = &from["(ARRAY[".len()..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Reads `(ARRAY[a, b])::type[]` at the start of the text; returns `ARRAY[(a)::type, (b)::type]` and what follows.
fn cast_array(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix("(ARRAY[")?;
    let (mut depth, mut quoted, mut start) = (0_u32, false, 0);
    let mut elements = Vec::new();
    let mut end = None;
    for (at, c) in inside.char_indices() {
        match c {
            '\'' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' => depth += 1,
            ']' if depth == 0 => {
                elements.push(inside[start..at].trim());
                end = Some(at + 1);
                break;
            }
            ')' | ']' => depth = depth.checked_sub(1)?,
            ',' if depth == 0 => {
                elements.push(inside[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    let after = inside[end?..].strip_prefix(")::")?;
    let (kind, after) = after.split_once("[]")?;
    if kind.is_empty() || !kind.chars().all(|c| c.is_alphanumeric() || " _.\"".contains(c)) {
        return None;
    }
    let cast: Vec<String> = elements.iter().map(|element| format!("({element})::{kind}")).collect();
    Some((format!("ARRAY[{}]", cast.join(", ")), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_check_are_one() {
        let first = "CHECK (((s)::text = ANY ((ARRAY['a,b'::character varying, 'it''s]'::character varying])::text[])))";
        let later = "CHECK (((s)::text = ANY (ARRAY[('a,b'::character varying)::text, ('it''s]'::character varying)::text])))";
        assert_eq!(definition(first), definition(later));
        assert_eq!(definition(later), later);
    }

    #[test]
    fn nothing_else_is_touched() {
        for text in
            ["'(ARRAY[1])::text[]'", "(ARRAY[1, 2])[1]", "(ARRAY[", "f((ARRAY[1,2]) , 3)", "ü(ARRAY[ü"]
        {
            assert_eq!(definition(text), text);
        }
    }
}
