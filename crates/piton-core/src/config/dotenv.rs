//! Reads an environment's file of variables.
//!
//! The dotenv libraries fill `$NAME` in values from the operator's shell, change passwords that hold a `$`, and lose the
//! line numbers: none of that may happen to the file that says which database is production's.

use std::collections::BTreeMap;

/// A variable's value and the line it stands on.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) value: String,
    /// Counted from 1.
    pub(super) line: usize,
}

/// A line that cannot be read; never says what the value is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub(super) struct DotenvError {
    line: usize,
    what: String,
}

/// Reads `NAME=value` lines, with `#` comments, an optional `export`, and values bare, in `'…'` or in `"…"`.
///
/// Quoted values may go over several lines; `\n`, `\r`, `\t`, `\"`, `\\` and `\$` mean something in `"…"` alone.
/// Nothing is filled in.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Variable>, DotenvError> {
    let mut variables: BTreeMap<String, Variable> = BTreeMap::new();
    let mut rest = text.trim_start_matches('\u{feff}');
    let mut line = 1;
    while !rest.is_empty() {
        let (entry, below) = rest.split_once('\n').unwrap_or((rest, ""));
        let fail = |what: String| DotenvError { line, what };
        let begin = entry.trim_start();
        if begin.trim_end().is_empty() || begin.starts_with('#') {
            (rest, line) = (below, line + 1);
            continue;
        }
        let begin = begin.strip_prefix("export ").unwrap_or(begin);
        let Some((name, value)) = begin.split_once('=') else {
            return Err(fail("it is not of the form NAME=value".to_owned()));
        };
        let (name, value) = (name.trim(), value.trim_start());
        if !is_name(name) {
            return Err(fail("the name before `=` may hold letters, digits and `_` only".to_owned()));
        }
        if let Some(first) = variables.get(name) {
            return Err(fail(format!("`{name}` is set already on line {}", first.line)));
        }
        let (value, below) = if value.starts_with(['"', '\'']) {
            // A quoted value may go on below its line: it is read from the text that is left.
            let from_quote = &rest[entry.len() - value.len()..];
            quoted(from_quote).map_err(|what| fail(format!("the value of `{name}` {what}")))?
        } else {
            (bare(value).to_owned(), below)
        };
        variables.insert(name.to_owned(), Variable { value, line });
        line += rest[..rest.len() - below.len()].matches('\n').count();
        rest = below;
    }
    Ok(variables)
}

/// Tells whether the text can be a variable's name.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Takes the comment and the spaces from the end of a value without quotes.
fn bare(value: &str) -> &str {
    let comment = value.match_indices('#').find(|&(at, _)| at == 0 || value[..at].ends_with([' ', '\t']));
    value[..comment.map_or(value.len(), |(at, _)| at)].trim_end()
}

/// Reads a value from its opening quote; returns it with the text below its last line.
fn quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.chars();
    let quote = chars.next();
    loop {
        match chars.next() {
            None => return Err("has no closing quote"),
            end if end == quote => break,
            Some('\\') if quote == Some('"') => match chars.next() {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                Some(sign @ ('"' | '\\' | '$')) => value.push(sign),
                Some(other) => value.extend(['\\', other]),
                None => return Err("has no closing quote"),
            },
            Some(sign) => value.push(sign),
        }
    }
    let (tail, below) = chars.as_str().split_once('\n').unwrap_or((chars.as_str(), ""));
    let tail = tail.trim();
    if tail.is_empty() || tail.starts_with('#') {
        Ok((value, below))
    } else {
        Err("goes on after its closing quote")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> String {
        parse(text).unwrap().remove("A").unwrap().value
    }

    fn wrong(text: &str) -> String {
        parse(text).err().unwrap().to_string()
    }

    #[test]
    fn values_are_read_as_they_are_meant() {
        assert_eq!(one("A=b"), "b");
        assert_eq!(one("\u{feff}export A = b c  # comment\r\n"), "b c");
        assert_eq!(one("A=b#c"), "b#c");
        assert_eq!(one("A=#c"), "");
        assert_eq!(one("A="), "");
        assert_eq!(one("A=\"b # c\" # d"), "b # c");
        assert_eq!(one(r#"A="a\"b\\c\n\d""#), "a\"b\\c\n\\d");
        assert_eq!(one(r"A='a\nb'"), r"a\nb");
        assert_eq!(one("A=postgres://u:p$HOME@h/d?x=y"), "postgres://u:p$HOME@h/d?x=y");
        assert_eq!(one("A=\"p${HOME}\""), "p${HOME}");
    }

    #[test]
    fn lines_are_counted_over_quoted_values() {
        let variables = parse("# c\n\nA='1\n2\n3'\n  B=x\nC=\"y\"").unwrap();
        let lines: Vec<_> = variables.iter().map(|(name, v)| (name.as_str(), v.line)).collect();
        assert_eq!(lines, [("A", 3), ("B", 6), ("C", 7)]);
        assert_eq!(variables["A"].value, "1\n2\n3");
    }

    #[test]
    fn mistakes_name_the_line_and_no_value() {
        assert_eq!(wrong("A=1\nhunter2"), "line 2: it is not of the form NAME=value");
        assert_eq!(wrong("A B=hunter2"), "line 1: the name before `=` may hold letters, digits and `_` only");
        assert_eq!(wrong("A=1\n\nA=2"), "line 3: `A` is set already on line 1");
        assert_eq!(wrong("\nA=\"hunter2\nB=1"), "line 2: the value of `A` has no closing quote");
        assert_eq!(wrong("A='hunter2'x"), "line 1: the value of `A` goes on after its closing quote");
    }

    proptest! {
        #[test]
        fn any_value_in_double_quotes_comes_back(value in any::<String>()) {
            let quoted: String = value.chars().flat_map(|c| match c {
                '"' | '\\' | '$' => vec!['\\', c],
                c => vec![c],
            }).collect();
            prop_assert_eq!(one(&format!("A=\"{quoted}\"")), value);
        }

        #[test]
        fn any_text_is_answered(text in any::<String>()) {
            let _ = parse(&text).is_ok();
        }
    }
}
