//! What an `ALTER` does, one after the other.

use super::script::{Statement, Token};

/// One thing that an `ALTER` does: its words, from the verb on.
#[derive(Debug)]
pub(super) struct Part {
    words: Vec<String>,
    /// Whether a column is altered by it, or an attribute, and not the table.
    pub(super) is_of_column: bool,
}

impl Part {
    pub(super) fn does(&self, verb: &str) -> bool {
        self.words.first().is_some_and(|word| word == verb)
    }

    pub(super) fn has(&self, word: &str) -> bool {
        self.words.iter().any(|other| other == word)
    }

    fn sets(&self, what: &str) -> bool {
        self.does("set") && self.words.get(1).is_some_and(|word| word == what)
    }

    /// Tells whether what is altered is found elsewhere afterwards.
    pub(super) fn moves(&self) -> bool {
        self.does("rename") || (self.sets("schema") && !self.is_of_column)
    }

    /// Tells whether values are written anew as those of another type.
    pub(super) fn changes_type(&self) -> bool {
        self.is_of_column && (self.does("type") || self.sets("data"))
    }
}

/// Takes an `ALTER` apart; what stands in parentheses says nothing of what it does.
pub(super) fn parts(statement: &Statement) -> Vec<Part> {
    let tokens = outside(statement.all_tokens());
    let mut rest = tokens.as_slice();
    if !skip(&mut rest, &["alter"]) {
        return Vec::new();
    }
    // What a name is of the others, and what a word of theirs, is not looked at: any word may be the verb.
    if !["table", "sequence", "type", "view", "index"].iter().any(|kind| skip(&mut rest, &[kind])) {
        let words = words(rest);
        return (0..words.len())
            .map(|at| Part { words: words[at..].to_vec(), is_of_column: false })
            .collect();
    }
    skip(&mut rest, &["if", "exists"]);
    skip(&mut rest, &["only"]);
    skip_name(&mut rest);
    let part = |mut part: &[Token]| {
        let is_of_column = skip(&mut part, &["alter"]);
        if is_of_column {
            let _ = skip(&mut part, &["column"]) || skip(&mut part, &["attribute"]);
            skip_name(&mut part);
        }
        Part { words: words(part), is_of_column }
    };
    rest.split(|token| *token == Token::Other(',')).map(part).collect()
}

/// Leaves out what stands in parentheses.
fn outside(tokens: Vec<Token>) -> Vec<Token> {
    let mut depth = 0_u32;
    let is_outside = |token: &Token| {
        match token {
            Token::Other('(') => depth += 1,
            Token::Other(')') => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    };
    tokens.into_iter().filter(is_outside).collect()
}

fn words(tokens: &[Token]) -> Vec<String> {
    let word = |token: &Token| match token {
        Token::Name(word) => Some(word.clone()),
        Token::Other(_) => None,
    };
    tokens.iter().filter_map(word).collect()
}

/// Steps over the words when they come next.
fn skip(rest: &mut &[Token], words: &[&str]) -> bool {
    let fit = rest.len() >= words.len()
        && rest.iter().zip(words).all(|(token, word)| matches!(token, Token::Name(name) if name == word));
    if fit {
        *rest = &rest[words.len()..];
    }
    fit
}

/// Steps over a name, with its schema when it has one.
fn skip_name(rest: &mut &[Token]) {
    while let [Token::Name(_), Token::Other('.'), after @ ..] = rest {
        *rest = after;
    }
    if let [Token::Name(_), after @ ..] = rest {
        *rest = after;
    }
    if let [Token::Other('*'), after @ ..] = rest {
        *rest = after;
    }
}
