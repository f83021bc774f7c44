//! Takes an SQL script apart into its statements, as psql does.
//!
//! Quotes, dollar quotes, nested comments, parentheses and the bodies of SQL-standard functions (`BEGIN ATOMIC ... END`) are
//! followed, because a semicolon within them ends nothing.

use super::alter::{Part, parts};

/// One statement of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// Its text, without the semicolon.
    pub(super) text: String,
    /// The line it begins on, from 1.
    pub(super) line: u32,
    /// Its words outside quotes and comments, in capitals; enough of them to tell what it is.
    words: Vec<String>,
}

/// A piece of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A word or a quoted name, as the server folds it.
    Name(String),
    /// Any other character.
    Other(char),
}

/// Why a script cannot be taken apart: where, and what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) line: u32,
    pub(super) why: &'static str,
}

/// How a script is run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// In one transaction, together with its record.
    OneTransaction,
    /// Statement by statement, because one of them cannot run in a transaction.
    OneByOne,
}

/// Splits a script, takes off a `BEGIN` and `COMMIT` around the whole, and tells how to run it.
pub(super) fn read(script: &str) -> Result<(Vec<Statement>, Mode), Unreadable> {
    let mut statements = split(script)?;
    let wrapped = statements.len() >= 2
        && statements.first().is_some_and(Statement::begins_transaction)
        && statements.last().is_some_and(Statement::ends_transaction);
    if wrapped {
        let end = statements.pop();
        let begin = statements.remove(0);
        if let Some(end) = end.filter(|end| !end.is_plain(&["COMMIT", "END"])) {
            return Err(Unreadable {
                line: end.line,
                why: "it does not keep what the file does, and Piton keeps every migration that runs; write COMMIT",
            });
        }
        if !begin.is_plain(&["BEGIN", "START"]) {
            return Err(Unreadable {
                line: begin.line,
                why: "Piton begins the transaction itself, without these options; write BEGIN, and the options in a SET TRANSACTION after it",
            });
        }
    }
    if let Some(control) = statements.iter().find(|s| s.begins_transaction() || s.ends_transaction()) {
        return Err(Unreadable {
            line: control.line,
            why: "it begins or ends a transaction in the middle of the file; take it out, or split the file there",
        });
    }
    if let Some(copy) = statements.iter().find(|s| s.reads_stdin()) {
        return Err(Unreadable { line: copy.line, why: "COPY FROM STDIN needs psql; write INSERT" });
    }
    if let Some(index) = statements.iter().find(|s| s.builds_unnamed_index()) {
        return Err(Unreadable {
            line: index.line,
            why: "give the index a name: what a failed build leaves is found by it",
        });
    }
    stays_within(&statements)?;
    let alone = statements.iter().find(|s| s.needs_to_be_alone());
    match alone {
        Some(alone) if wrapped => Err(Unreadable {
            line: alone.line,
            why: "it cannot run between the file's BEGIN and COMMIT; take them out",
        }),
        Some(_) => Ok((statements, Mode::OneByOne)),
        None => Ok((statements, Mode::OneTransaction)),
    }
}

/// Tells whether a script is run statement by statement.
pub(crate) fn runs_one_by_one(script: &str) -> bool {
    matches!(read(script), Ok((_, Mode::OneByOne)))
}

/// Refuses a statement that changes what all databases of the server share.
pub(super) fn stays_within(statements: &[Statement]) -> Result<(), Unreadable> {
    let Some(shared) = statements.iter().find(|statement| statement.reaches_beyond()) else { return Ok(()) };
    Err(Unreadable {
        line: shared.line,
        why: "it changes what all databases of the server share, so that trying it on a copy would change production; run it by hand",
    })
}

impl Statement {
    fn starts(&self, words: &[&str]) -> bool {
        self.words.len() >= words.len() && self.words.iter().zip(words).all(|(a, b)| a == b)
    }

    pub(super) fn begins_transaction(&self) -> bool {
        self.starts(&["BEGIN"]) || self.starts(&["START", "TRANSACTION"])
    }

    pub(super) fn ends_transaction(&self) -> bool {
        ["COMMIT", "END", "ABORT"].iter().any(|word| self.starts(&[word]))
            || self.starts(&["PREPARE", "TRANSACTION"])
            // ROLLBACK TO SAVEPOINT stays within the transaction.
            || (self.starts(&["ROLLBACK"]) && !self.words.iter().any(|word| word == "TO"))
    }

    /// Tells whether the statement is one of these words, and says no more of the transaction.
    fn is_plain(&self, words: &[&str]) -> bool {
        match self.words.as_slice() {
            [word] => words.contains(&word.as_str()),
            [word, noise] => {
                words.contains(&word.as_str()) && ["WORK", "TRANSACTION"].contains(&noise.as_str())
            }
            _ => false,
        }
    }

    fn reads_stdin(&self) -> bool {
        self.starts(&["COPY"]) && self.words.windows(2).any(|pair| pair[0] == "FROM" && pair[1] == "STDIN")
    }

    fn builds_unnamed_index(&self) -> bool {
        self.starts(&["CREATE", "INDEX", "CONCURRENTLY", "ON"])
            || self.starts(&["CREATE", "UNIQUE", "INDEX", "CONCURRENTLY", "ON"])
    }

    /// Tells whether the statement changes more than the database that it runs in: a copy of it is no place to try that.
    fn reaches_beyond(&self) -> bool {
        const SHARED: [&str; 6] = ["ROLE", "USER", "GROUP", "DATABASE", "TABLESPACE", "SUBSCRIPTION"];
        let word = |at: usize| self.words.get(at).map_or("", String::as_str);
        let is_shared =
            |at: usize| SHARED.contains(&word(at)) && !(word(at) == "USER" && word(at + 1) == "MAPPING");
        let on_shared =
            || self.words.windows(2).any(|pair| pair[0] == "ON" && SHARED.contains(&pair[1].as_str()));
        // A table may be called so.
        let on_parameter = || {
            let ends = |word: &str| word == "TO" || word == "FROM";
            self.words.windows(3).any(|w| w[0] == "ON" && w[1] == "PARAMETER" && !ends(&w[2]))
        };
        match word(0) {
            "CREATE" | "DROP" => is_shared(1) || (word(1) == "OWNED" && word(2) == "BY"),
            "ALTER" => is_shared(1) || word(1) == "SYSTEM",
            "REASSIGN" => word(1) == "OWNED",
            // Without ON it makes a role a member of another one.
            "GRANT" | "REVOKE" => {
                on_shared() || on_parameter() || !self.words.iter().any(|word| word == "ON")
            }
            "COMMENT" => word(1) == "ON" && is_shared(2),
            "SECURITY" => word(1) == "LABEL" && on_shared(),
            _ => false,
        }
    }

    /// Tells whether the server refuses the statement within a transaction.
    fn needs_to_be_alone(&self) -> bool {
        let concurrently = self.has("CONCURRENTLY");
        match self.words.first().map(String::as_str) {
            Some("VACUUM") => true,
            Some("CREATE" | "DROP") => concurrently && self.has("INDEX"),
            Some("REINDEX") => {
                concurrently || self.has("DATABASE") || self.has("SYSTEM") || self.has("SCHEMA")
            }
            Some("ALTER") => concurrently && self.has("DETACH"),
            // Without a table it goes through all of them, each in its own transaction.
            Some("CLUSTER") => self.words.len() == 1,
            _ => false,
        }
    }

    /// Tells whether the statement changes structure, and values only along with it.
    pub(super) fn is_structure(&self) -> bool {
        let kinds = ["CREATE", "ALTER", "DROP", "COMMENT", "GRANT", "REVOKE"];
        self.words.first().is_some_and(|word| kinds.contains(&word.as_str()))
    }

    /// Tells whether the structure is surely another one once the statement was carried out.
    fn shows(&self) -> bool {
        let pair = |a: &str, b: &str| self.words.windows(2).any(|pair| pair[0] == a && pair[1] == b);
        let may_do_nothing = pair("OR", "REPLACE") || pair("IF", "NOT") || pair("IF", "EXISTS");
        let alters = || {
            let shows = |part: &Part| part.does("rename") || (part.does("add") && !part.is_of_column);
            self.starts(&["ALTER", "TABLE"]) && parts(self).iter().any(shows)
        };
        !may_do_nothing && (self.starts(&["CREATE"]) || self.starts(&["DROP"]) || alters())
    }

    /// Tells whether the statement takes away what another one may give back.
    fn takes(&self) -> bool {
        self.starts(&["DROP"]) || parts(self).iter().any(|part| part.does("drop") || part.moves())
    }

    /// Tells whether the statement gives what another one may have taken away.
    fn gives(&self) -> bool {
        let gives = |part: &Part| part.does("add") || part.does("set") || part.moves();
        self.starts(&["CREATE"]) || parts(self).iter().any(gives)
    }

    /// Tells whether the statement may change values and leave the definition as it is.
    fn changes_values(&self) -> bool {
        let restarts =
            |part: &Part| part.has("restart") && (part.is_of_column || self.starts(&["ALTER", "SEQUENCE"]));
        parts(self).iter().any(|part| part.changes_type() || restarts(part))
    }

    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|other| other == word)
    }

    /// Tells whether the statement may run twice: it changes only its session, or nothing that is seen.
    pub(super) fn is_repeatable(&self) -> bool {
        let rebuilds = self.starts(&["CLUSTER"]) || self.starts(&["REINDEX"]);
        // A concurrent REINDEX that fails leaves a second index.
        let leaves_an_index = || self.has("CONCURRENTLY");
        self.sets_session() || self.starts(&["VACUUM"]) || (rebuilds && !leaves_an_index())
    }

    /// Tells whether the statement may commit some of its work before its end; any other is a transaction as a whole.
    pub(super) fn commits_within(&self) -> bool {
        let says = |word: &str| self.text.to_ascii_lowercase().contains(word);
        let through_many = ["REINDEX", "CLUSTER", "VACUUM"];
        self.starts(&["CALL"])
            // A block in whichever language commits by this word, or calls what does.
            || (self.starts(&["DO"]) && (says("commit") || says("call")))
            || through_many.iter().any(|word| self.starts(&[word]))
            // A view is refreshed in one.
            || (self.has("CONCURRENTLY") && !self.starts(&["REFRESH"]))
    }

    /// Tells whether the statement sets something for those that follow it in its session.
    pub(super) fn sets_session(&self) -> bool {
        self.starts(&["SET"]) || self.starts(&["RESET"])
    }

    /// Takes the statement apart, up to its first parenthesis.
    pub(super) fn tokens(&self) -> Vec<Token> {
        self.all_tokens().into_iter().take_while(|token| *token != Token::Other('(')).collect()
    }

    /// Takes the statement apart, without the texts in it.
    pub(super) fn all_tokens(&self) -> Vec<Token> {
        let mut reader = Reader { text: &self.text, at: 0, line: 1 };
        let mut tokens = Vec::new();
        while let Some(c) = reader.peek() {
            let (rest, from) = (reader.rest(), reader.at);
            let escapes = self.text[..from].ends_with(['e', 'E'])
                && matches!(tokens.last(), Some(Token::Name(name)) if name == "e");
            if rest.starts_with("--") {
                reader.skip(rest.find('\n').unwrap_or(rest.len()));
            } else if (rest.starts_with("/*") && reader.comment().is_ok())
                || (c == '\'' && reader.quoted('\'', escapes).is_ok())
                || (c == '$' && reader.dollar_tag().is_some() && reader.dollar_quoted().is_ok())
            {
            } else if c == '"' && reader.quoted('"', false).is_ok() {
                let name = &self.text[from + 1..reader.at - 1];
                tokens.push(Token::Name(name.replace("\"\"", "\"")));
            } else if is_word_start(c) {
                tokens.push(Token::Name(reader.word().to_ascii_lowercase()));
            } else if c.is_ascii_digit() {
                reader.word();
                tokens.push(Token::Other(c));
            } else {
                reader.skip(c.len_utf8());
                if !c.is_whitespace() {
                    tokens.push(Token::Other(c));
                }
            }
        }
        tokens
    }

    /// Tells whether the statement builds an index while others write, for which it waits for every older snapshot.
    pub(super) fn builds_concurrently(&self) -> bool {
        let builds = self.starts(&["CREATE"]) || self.starts(&["REINDEX"]);
        builds && self.has("CONCURRENTLY")
    }

    /// Tells whether the statement waits for others without standing in anybody's way.
    pub(super) fn waits_harmlessly(&self) -> bool {
        // FULL rewrites the table, and whoever reads it queues behind the one that waits for it.
        self.has("CONCURRENTLY") || (self.starts(&["VACUUM"]) && !self.has("FULL"))
    }
}

/// Tells whether the structure shows that a script was carried out as a whole: it has a statement that does.
pub(super) fn shows(statements: &[Statement]) -> bool {
    // What is temporary shows nowhere, and may be what a DROP means.
    let is_temporary =
        |statement: &Statement| ["TEMP", "TEMPORARY", "PG_TEMP"].iter().any(|word| statement.has(word));
    statements.iter().any(Statement::shows) && !hides(statements) && !statements.iter().any(is_temporary)
}

/// Tells whether a script may change values, and leave the structure as it was.
pub(super) fn hides(statements: &[Statement]) -> bool {
    let gives_back = || statements.iter().any(Statement::takes) && statements.iter().any(Statement::gives);
    statements.iter().any(Statement::changes_values) || gives_back()
}

/// Where the reading stands.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

/// Cuts a script at the semicolons that end a statement.
pub(super) fn split(script: &str) -> Result<Vec<Statement>, Unreadable> {
    let mut reader = Reader { text: script.strip_prefix('\u{feff}').unwrap_or(script), at: 0, line: 1 };
    let mut statements = Vec::new();
    while let Some(statement) = reader.statement()? {
        statements.push(statement);
    }
    Ok(statements)
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip(&mut self, bytes: usize) {
        let skipped = &self.rest()[..bytes];
        self.line += u32::try_from(skipped.matches('\n').count()).unwrap_or(0);
        self.at += bytes;
    }

    /// Reads to the end of the next statement; empty ones are passed over.
    fn statement(&mut self) -> Result<Option<Statement>, Unreadable> {
        let mut begin: Option<(usize, u32)> = None;
        let mut words: Vec<String> = Vec::new();
        // Parentheses, and BEGIN ATOMIC with the CASEs in it, within which a semicolon ends nothing.
        let (mut parentheses, mut blocks) = (0_u32, 0_u32);
        while let Some(c) = self.peek() {
            let rest = self.rest();
            if c.is_whitespace() {
                self.skip(c.len_utf8());
                continue;
            }
            if rest.starts_with("--") {
                self.skip(rest.find('\n').unwrap_or(rest.len()));
                continue;
            }
            if rest.starts_with("/*") {
                self.comment()?;
                continue;
            }
            if c == ';' && parentheses == 0 && blocks == 0 {
                if let Some((from, line)) = begin {
                    let text = self.text[from..self.at].trim_end().to_owned();
                    self.skip(1);
                    return Ok(Some(Statement { text, line, words }));
                }
                self.skip(1);
                continue;
            }
            if c == '\\' && begin.is_none() {
                return Err(Unreadable { line: self.line, why: "a psql command; only SQL runs here" });
            }
            begin.get_or_insert((self.at, self.line));
            match c {
                '\'' => self.quoted('\'', false)?,
                '"' => {
                    self.quoted('"', false)?;
                    // A quoted name is a word that is never a keyword.
                    words.push(String::new());
                }
                '$' if self.dollar_tag().is_some() => self.dollar_quoted()?,
                '(' => {
                    parentheses += 1;
                    self.skip(1);
                }
                ')' => {
                    parentheses = parentheses.saturating_sub(1);
                    self.skip(1);
                }
                c if is_word_start(c) => {
                    let word = self.word();
                    if matches!(word, "e" | "E") && self.peek() == Some('\'') {
                        self.quoted('\'', true)?;
                        continue;
                    }
                    let word = word.to_uppercase();
                    match word.as_str() {
                        "ATOMIC" if makes_function(&words) && words.last().is_some_and(|w| w == "BEGIN") => {
                            blocks = 1;
                        }
                        "CASE" if blocks > 0 => blocks += 1,
                        "END" if blocks > 0 => blocks -= 1,
                        _ => {}
                    }
                    words.push(word);
                }
                c if c.is_ascii_digit() => {
                    // Digits and what is glued to them, so that 1e5 leaves no word and 1$2 no dollar quote.
                    self.word();
                }
                _ => self.skip(c.len_utf8()),
            }
        }
        Ok(begin.map(|(from, line)| Statement { text: self.text[from..].trim_end().to_owned(), line, words }))
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c: char| !is_word_part(c)).unwrap_or(rest.len());
        self.skip(end);
        &rest[..end]
    }

    /// Reads a comment, which may hold others.
    fn comment(&mut self) -> Result<(), Unreadable> {
        let line = self.line;
        let mut depth = 0_u32;
        loop {
            let rest = self.rest();
            if rest.starts_with("/*") {
                depth += 1;
                self.skip(2);
            } else if rest.starts_with("*/") {
                depth -= 1;
                self.skip(2);
                if depth == 0 {
                    return Ok(());
                }
            } else if let Some(c) = self.peek() {
                self.skip(c.len_utf8());
            } else {
                return Err(Unreadable { line, why: "a comment is not closed" });
            }
        }
    }

    /// Reads a quoted text; the quote doubled stands for itself, and after a backslash too where those escape.
    fn quoted(&mut self, quote: char, backslashes: bool) -> Result<(), Unreadable> {
        let line = self.line;
        self.skip(1);
        while let Some(c) = self.peek() {
            self.skip(c.len_utf8());
            if c == '\\' && backslashes {
                if let Some(escaped) = self.peek() {
                    self.skip(escaped.len_utf8());
                }
            } else if c == quote {
                if self.peek() != Some(quote) {
                    return Ok(());
                }
                self.skip(1);
            }
        }
        Err(Unreadable { line, why: "a quote is not closed" })
    }

    /// Returns the `$tag$` that begins here.
    fn dollar_tag(&self) -> Option<&'a str> {
        let rest = self.rest();
        let end = rest[1..].find('$')? + 1;
        let tag = &rest[1..end];
        let fits =
            tag.chars().next().is_none_or(is_word_start) && tag.chars().all(|c| is_word_part(c) && c != '$');
        fits.then(|| &rest[..=end])
    }

    fn dollar_quoted(&mut self) -> Result<(), Unreadable> {
        let line = self.line;
        let Some(tag) = self.dollar_tag() else { return Ok(()) };
        self.skip(tag.len());
        match self.rest().find(tag) {
            Some(end) => {
                self.skip(end + tag.len());
                Ok(())
            }
            None => Err(Unreadable { line, why: "a dollar quote is not closed" }),
        }
    }
}

fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn is_word_part(c: char) -> bool {
    is_word_start(c) || c.is_ascii_digit() || c == '$'
}

/// Tells whether the words begin `CREATE [OR REPLACE] FUNCTION` or `PROCEDURE`.
fn makes_function(words: &[String]) -> bool {
    words.first().is_some_and(|word| word == "CREATE")
        && words.iter().take(4).any(|word| word == "FUNCTION" || word == "PROCEDURE")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(script: &str) -> Vec<String> {
        split(script).unwrap().into_iter().map(|s| s.text).collect()
    }

    #[test]
    fn a_semicolon_within_something_ends_nothing() {
        for one in [
            "select ';', \"a;b\", e'\\';', $$;$$, $x$;$$;$x$, 1 /* ; /* ; */ ; */ -- ;\n, 2",
            "create rule r as on insert to t do also (insert into u values (1); insert into u values (2))",
            "create function f() returns int begin atomic select case when true then 1 end; select 2; end",
            "create or replace procedure \"p\"() language sql begin atomic insert into t values (1); end",
            "do $do$ begin perform 1; end $do$",
            "select 'it''s;', U&'d\\0061;t', B'1', $1, a$b$c, 1$2",
            "select 'a\\'",
        ] {
            assert_eq!(texts(&format!("{one};\n;; {one}")), [one, one], "{one}");
        }
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let lines: Vec<u32> = split("-- head\n\nselect 1;\n/* two\nlines */ select '\n';\nselect 3")
            .unwrap()
            .iter()
            .map(|s| s.line)
            .collect();
        assert_eq!(lines, [3, 5, 7]);
    }

    #[test]
    fn what_is_not_closed_is_named() {
        for (script, line) in
            [("select 1;\n'a", 2), ("/* /* */", 1), ("\n$a$ $b$", 2), ("\"a\"\"", 1), ("\\d t", 1)]
        {
            assert_eq!(split(script).unwrap_err().line, line, "{script}");
        }
    }

    #[test]
    fn statements_that_need_to_be_alone_are_known() {
        for alone in [
            "create unique index concurrently if not exists i on t (a)",
            "Create Index /* really */ Concurrently i on t (a)",
            "drop index concurrently i",
            "reindex (verbose) table concurrently t",
            "vacuum full t",
            "alter table t detach partition p concurrently",
        ] {
            assert_eq!(read(alone).unwrap().1, Mode::OneByOne, "{alone}");
        }
        for together in [
            "create index i on t (a)",
            "create table \"concurrently\" (\"index\" int)",
            "create index i on t (a) where x = 'concurrently'",
            "refresh materialized view concurrently v",
            "alter type e add value 'x'",
            "-- create index concurrently\nselect 1",
            "drop table database",
            "begin; create table t (); savepoint a; rollback to savepoint a; commit;",
        ] {
            assert_eq!(read(together).unwrap().1, Mode::OneTransaction, "{together}");
        }
    }

    #[test]
    fn what_the_whole_server_shares_is_refused() {
        for shared in [
            "create role r",
            "CREATE USER u PASSWORD 'x'",
            "drop owned by r",
            "reassign owned by r to s",
            "alter database \"shop\" set search_path = x",
            "alter role r set work_mem = '1MB'",
            "alter system set work_mem = '1MB'",
            "create database x",
            "drop tablespace t",
            "create subscription s connection 'x' publication p",
            "grant r to s",
            "revoke admin option for r from s",
            "grant connect on database shop to r",
            "grant set on parameter work_mem to r",
            "revoke alter system on parameter work_mem from r",
            "comment on role r is 'x'",
            "select 1; /* */ create /* */ group g",
        ] {
            assert!(read(shared).unwrap_err().why.contains("by hand"), "{shared}");
        }
        for own in [
            "grant select on users to r",
            "grant select on parameter to r",
            "create user mapping for r server s",
            "drop user mapping for r server s",
            "create table role (database int)",
            "alter table users owner to r",
            "comment on table users is 'on database'",
            "create index on role (database)",
            "revoke all on all tables in schema public from r",
        ] {
            assert!(read(own).is_ok(), "{own}");
        }
    }

    #[test]
    fn what_may_stand_and_not_show_is_known() {
        for (script, shown, hidden) in [
            ("create table a (n int); insert into a values (1)", true, false),
            ("alter table a add b int; update a set b = 1", true, false),
            ("drop table a; delete from b", true, false),
            ("insert into a values (1)", false, false),
            ("create table if not exists a (n int); insert into a values (1)", false, false),
            ("alter table a alter b add generated always as identity; update a set c = 1", false, false),
            ("create temp table x (n int); create table y (n int); drop table x", false, true),
            ("create temp table x (n int); insert into a select * from x", false, false),
            ("drop table a; create table a (n int)", false, true),
            ("alter table a drop column b, add column b int", false, true),
            ("alter table a rename to b; alter table c rename to a", false, true),
            ("create table c (n int); alter table a alter b type text using lower(b)", false, true),
            ("alter sequence s restart with 5", false, true),
            ("alter table a alter n set generated always restart", false, true),
            ("alter table a alter column b set data type text", false, true),
            ("alter type t alter attribute b type text", false, true),
            ("alter foreign table a drop column b; alter foreign table a add column b int", false, true),
            // What is called so does nothing of it.
            ("alter table items add column type text, add \"set\" int, add restart int", true, false),
            ("alter table type alter type set default 'a, type b', alter restart drop not null", false, true),
            ("alter table only s.set drop column type, drop column if exists add", false, false),
            (
                "alter table a drop constraint c, drop set; alter table a validate constraint add",
                false,
                false,
            ),
            ("alter table a add constraint c check (type in ('a') or drop)", true, false),
            ("alter table a alter add drop default", false, false),
            ("alter type e add value 'x'", false, false),
            ("alter trigger t on a rename to u", false, true),
        ] {
            let statements = split(script).unwrap();
            assert_eq!((shows(&statements), hides(&statements)), (shown, hidden), "{script}");
        }
    }

    #[test]
    fn what_may_commit_before_its_end_is_known() {
        let commits = |sql: &str| split(sql).unwrap()[0].commits_within();
        for within in [
            "call p()",
            "do $$ begin insert into a values (1); Commit; end $$",
            "do 'begin call p(); end'",
            "drop index concurrently i",
            "alter table a detach partition p concurrently",
            "reindex schema s",
            "cluster",
            "vacuum a",
        ] {
            assert!(commits(within), "{within}");
        }
        for whole in [
            "insert into commits values ('call')",
            "do $$ begin perform 1/0; end $$",
            "create table call (n int)",
            "refresh materialized view concurrently v",
            "alter table a add n int",
        ] {
            assert!(!commits(whole), "{whole}");
        }
    }

    #[test]
    fn a_full_vacuum_stands_in_the_way_of_others() {
        let waits = |sql: &str| split(sql).unwrap()[0].waits_harmlessly();
        assert!(waits("vacuum t") && waits("create index concurrently i on t (a)"));
        assert!(!waits("vacuum (full) t") && !waits("VACUUM FULL t"));
    }

    #[test]
    fn a_concurrent_index_has_a_name() {
        assert!(read("create unique index concurrently on t (a)").is_err());
        assert!(read("create index concurrently \"on\" on t (a)").is_ok());
        assert!(read("create index on t (a)").is_ok());
    }

    #[test]
    fn transactions_within_a_file_are_refused() {
        for bad in [
            "create table a (); commit; create table b ()",
            "begin; create table a (); rollback; create table b (); commit",
            "begin; create index concurrently i on t (a); commit",
            "copy t from stdin",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for plain in ["begin", "begin work", "BEGIN TRANSACTION", "start transaction"] {
            for end in ["end", "commit work", "COMMIT /* it */ TRANSACTION"] {
                assert_eq!(read(&format!("{plain}; select 1; {end};")).unwrap().0.len(), 1, "{plain} {end}");
            }
        }
    }

    #[test]
    fn what_would_not_be_kept_is_not_committed() {
        for end in [
            "rollback",
            "ROLLBACK WORK",
            "abort",
            "prepare transaction 'x'",
            "rollback prepared 'x'",
            "commit and chain",
        ] {
            let error = read(&format!("begin;\nselect 1;\n{end};")).unwrap_err();
            assert!(error.line == 3 && error.why.contains("write COMMIT"), "{end}: {error:?}");
        }
        let error = read("\nbegin isolation level serializable;\nselect 1;\ncommit;").unwrap_err();
        assert!(error.line == 2 && error.why.contains("SET TRANSACTION"), "{error:?}");
    }

    /// Pieces that each hold a semicolon which ends nothing.
    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z ;'ü]{0,9}".prop_map(|s| format!("'{}'", s.replace('\'', "''"))),
            "[a-z ;\"$]{1,9}".prop_map(|s| format!("\"{}\"", s.replace('"', "\"\""))),
            "[a-z ;'\"$]{0,9}".prop_map(|s| format!("$q${}$q$", s.replace('$', ""))),
            "[a-z ;'\"$-]{0,9}".prop_map(|s| format!("/* {s} /* ; */ */")),
            "[a-z ;'\"$*]{0,9}".prop_map(|s| format!("--{s}\n")),
            "[a-z ;\\\\]{0,9}".prop_map(|s| format!("e'{}'", s.replace('\\', "\\\\"))),
            Just("(;)".to_owned()),
            "[a-z_0-9]{1,5}",
            "[-+*/<>=,.:]{1,1}",
        ]
    }

    proptest! {
        #[test]
        fn statements_come_back_as_they_were_joined(
            statements in prop::collection::vec(prop::collection::vec(piece(), 1..6), 1..6),
        ) {
            let statements: Vec<String> =
                statements.iter().map(|pieces| format!("select {} x", pieces.join(" "))).collect();
            prop_assert_eq!(texts(&statements.join("; ")), statements);
        }

        #[test]
        fn no_text_is_lost_and_nothing_panics(script in r"[a-z'$;()/*\-\\ \n\x22ü0-9]{0,60}") {
            if let Ok(statements) = split(&script) {
                let mut rest = script.as_str();
                for statement in &statements {
                    let at = rest.find(&statement.text);
                    prop_assert!(at.is_some());
                    rest = &rest[at.unwrap() + statement.text.len()..];
                    let _ = statement.all_tokens();
                }
            }
        }
    }
}
