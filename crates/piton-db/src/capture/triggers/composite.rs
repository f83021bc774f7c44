//! The text of a whole row, as the server's `record_out` writes it, taken apart.

use crate::capture::Value;

/// Takes a row apart into the values of its columns; `None` when it is no row of that many.
///
/// A value that is empty, or holds a parenthesis, a comma, a quote, a backslash or a blank, stands in quotes; within them quotes and
/// backslashes are doubled. Nothing at all is NULL. A row without columns, and one whose only column is NULL, are both `()`.
pub(super) fn values(text: &str, count: usize) -> Option<Vec<Value>> {
    let inner = text.strip_prefix('(')?.strip_suffix(')')?;
    let mut values = Vec::with_capacity(count);
    if count == 0 {
        return inner.is_empty().then_some(values);
    }
    let mut rest = inner;
    loop {
        let (value, after) = value(rest)?;
        values.push(value);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return (after.is_empty() && values.len() == count).then_some(values),
        }
    }
}

/// Takes the first value off.
fn value(text: &str) -> Option<(Value, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = memchr::memchr(b',', text.as_bytes()).unwrap_or(text.len());
        let (value, after) = text.split_at(end);
        let value = if value.is_empty() { Value::Null } else { Value::Text(value.to_owned()) };
        return Some((value, after));
    };
    let mut value = String::with_capacity(quoted.len().min(64));
    let mut rest = quoted;
    loop {
        let at = memchr::memchr2(b'"', b'\\', rest.as_bytes())?;
        let (plain, from) = rest.split_at(at);
        value.push_str(plain);
        // What is no pair ends the value: a backslash never stands alone.
        if let Some(after) = from.strip_prefix("\"\"") {
            value.push('"');
            rest = after;
        } else if let Some(after) = from.strip_prefix("\\\\") {
            value.push('\\');
            rest = after;
        } else {
            return Some((Value::Text(value), from.strip_prefix('"')?));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_taken_apart() {
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(values("()", 0), Some(vec![]));
        assert_eq!(values("()", 1), Some(vec![Value::Null]));
        assert_eq!(values("(\"\")", 1), Some(vec![text("")]));
        assert_eq!(values("(,,)", 3), Some(vec![Value::Null, Value::Null, Value::Null]));
        let hard = values("(1,\"a,\"\"b\\\\\n)\",,\"(\"\"x y\"\",)\")", 4);
        assert_eq!(hard, Some(vec![text("1"), text("a,\"b\\\n)"), Value::Null, text("(\"x y\",)")]));
        for (bad, count) in [("(1)", 2), ("(1,2)", 1), ("1", 1), ("(\"1)", 1), ("(\"1\"2)", 1), ("(1)", 0)] {
            assert_eq!(values(bad, count), None, "{bad}");
        }
    }
}
