//! What a migration in Python calls, as far as its text tells.

use std::ops::Range;

use super::{adapter, script};

/// What a call says about a migration: `None` is nothing.
type Says = Option<bool>;

/// Tells whether all that a revision of Alembic does is done concurrently: it waits for others in nobody's way.
///
/// Whatever this does not know makes it false.
pub(super) fn revision_is_concurrent(text: &str) -> bool {
    let code = Code::of(text);
    let begin = code.blanked.find("def upgrade");
    let body = begin.map_or(0..text.len(), |at| {
        let end = code.blanked[at..].find("\ndef ").map_or(text.len(), |length| at + length);
        at..end
    });
    code.is_concurrent(body, |name, call| match name {
        "op.create_index" | "op.drop_index" => {
            let words: String = code.blanked[call].chars().filter(|c| !c.is_whitespace()).collect();
            Some(words.contains("postgresql_concurrently=True"))
        }
        "op.execute" => code.executes(call),
        "upgrade" | "text" | "sqlalchemy.text" | "op.f" | "op.get_context" => None,
        name if [".autocommit_block", ".format"].iter().any(|end| name.ends_with(end)) => None,
        name if name.starts_with("sa.") => None,
        _ => Some(false),
    })
}

/// The kinds of indexes that Django, its package for PostgreSQL and pgvector know: they describe one, and do nothing.
const INDEXES: [&str; 11] = [
    "Index",
    "PostgresIndex",
    "BloomIndex",
    "BrinIndex",
    "BTreeIndex",
    "GinIndex",
    "GistIndex",
    "HashIndex",
    "SpGistIndex",
    "HnswIndex",
    "IvfflatIndex",
];

/// The words of Python before a bracket that is no call's.
const WORDS: [&str; 16] = [
    "and", "as", "assert", "await", "elif", "else", "for", "from", "if", "in", "is", "not", "or", "return",
    "while", "with",
];

/// Tells it of a migration of Django.
pub(super) fn operations_are_concurrent(text: &str) -> bool {
    let code = Code::of(text);
    let assigns = |line: &str| {
        let rest = line.trim_start().strip_prefix("operations").map(str::trim_start);
        rest.is_some_and(|rest| rest.starts_with(['=', ':']))
    };
    let mut lines = code.blanked.split_inclusive('\n').scan(0, |at, line| {
        *at += line.len();
        Some((*at - line.len(), line))
    });
    let Some((begin, _)) = lines.find(|(_, line)| assigns(line)) else { return false };
    let state_alone = code.lists("state_operations");
    code.is_concurrent(begin..text.len(), |name, call| {
        // What is done to Django's own picture of the models touches no database.
        if state_alone.iter().any(|list| list.contains(&call.start)) {
            return None;
        }
        let (above, name) = name.rsplit_once('.').unwrap_or(("", name));
        match name {
            "AddIndexConcurrently" | "RemoveIndexConcurrently" => Some(true),
            "RunSQL" => code.executes(call),
            "Q" | "F" | "OpClass" | "Lower" | "Upper" | "SeparateDatabaseAndState" | "format" => None,
            name if above == "models" || INDEXES.contains(&name) => None,
            _ => Some(false),
        }
    })
}

/// A text with its code alone: comments and what stands in quotes are blank, at the same places.
struct Code<'a> {
    text: &'a str,
    blanked: String,
    /// Where strings stand, with their quotes.
    strings: Vec<Range<usize>>,
}

impl<'a> Code<'a> {
    fn of(text: &'a str) -> Self {
        let mut blanked = text.as_bytes().to_vec();
        let bytes = text.as_bytes();
        let (mut at, mut strings) = (0, Vec::new());
        while at < bytes.len() {
            let end = match bytes[at] {
                b'#' => text[at..].find('\n').map_or(bytes.len(), |length| at + length),
                quote @ (b'"' | b'\'') => {
                    let end = string_end(bytes, at, quote);
                    strings.push(at..end);
                    end
                }
                _ => {
                    at += 1;
                    continue;
                }
            };
            blanked[at..end].fill(b' ');
            at = end;
        }
        // Letters beyond ASCII are blank only as a whole: comments and strings end at ASCII.
        Self { text, blanked: String::from_utf8(blanked).unwrap_or_default(), strings }
    }

    /// Asks of each call by its name and its place whether it is concurrent.
    fn is_concurrent(&self, within: Range<usize>, says: impl Fn(&str, Range<usize>) -> Says) -> bool {
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        let Some(body) = self.blanked.get(within.clone()) else { return false };
        let mut found = false;
        for (at, _) in body.match_indices('(') {
            let before = body[..at].trim_end();
            let name = &before[before.trim_end_matches(is_name).len()..];
            // What another call or a list has returned may be called, too.
            let is_called =
                if name.is_empty() { before.ends_with([')', ']']) } else { !WORDS.contains(&name) };
            if !is_called {
                continue;
            }
            let opened = within.start + at;
            match says(name, opened..self.end(opened + 1, |byte, depth| byte == b')' && depth == 0)) {
                Some(false) => return false,
                Some(true) => found = true,
                None => {}
            }
        }
        found
    }

    /// Returns where the lists stand that are passed by this name.
    fn lists(&self, name: &str) -> Vec<Range<usize>> {
        let of = |(at, _): (usize, &str)| {
            let is_end_of_another = self.blanked[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if is_end_of_another {
                return None;
            }
            let rest = self.blanked[at + name.len()..].trim_start().strip_prefix('=')?.trim_start();
            let opened = self.blanked.len() - rest.strip_prefix('[')?.len();
            Some(opened..self.end(opened, |byte, depth| byte == b']' && depth == 0))
        };
        self.blanked.match_indices(name).filter_map(of).collect()
    }

    /// Tells of a call that runs SQL, by its first argument, whether all of that is concurrent.
    fn executes(&self, call: Range<usize>) -> Says {
        let begin = call.start + 1;
        let end = self.end(begin, |byte, depth| depth == 0 && matches!(byte, b',' | b')'));
        // By its name the second may come first.
        if self.blanked[begin..end].trim_start().starts_with("reverse") {
            return Some(false);
        }
        let scripts = self.scripts(begin..end);
        let passes = |text: &String| {
            let statements = script::split(text).unwrap_or_default();
            let only_sets = |one: &script::Statement| one.sets_session() || one.ends_transaction();
            !statements.is_empty() && statements.iter().all(only_sets)
        };
        if scripts.is_empty() {
            return Some(false);
        }
        let rest: Vec<&String> = scripts.iter().filter(|text| !passes(text)).collect();
        (!rest.is_empty()).then(|| rest.into_iter().all(|text| adapter::waits_harmlessly(text)))
    }

    /// Returns the texts of the strings there; those that stand side by side are one.
    fn scripts(&self, within: Range<usize>) -> Vec<String> {
        let mut scripts: Vec<String> = Vec::new();
        let mut last = within.start;
        for string in self.strings.iter().filter(|string| within.contains(&string.start)) {
            let quoted = &self.text[string.clone()];
            let quotes = if quoted.len() >= 6 && (quoted.starts_with("\"\"\"") || quoted.starts_with("'''")) {
                3
            } else {
                1
            };
            let text = quoted.get(quotes..quoted.len().saturating_sub(quotes)).unwrap_or_default();
            match scripts.last_mut().filter(|_| self.blanked[last..string.start].trim().is_empty()) {
                Some(before) => before.push_str(text),
                None => scripts.push(text.to_owned()),
            }
            last = string.end;
        }
        scripts
    }

    /// Returns where the first byte stands that ends it, at this depth of brackets; the text's end without one.
    fn end(&self, begin: usize, ends: impl Fn(u8, u32) -> bool) -> usize {
        let mut depth = 0_u32;
        for (at, byte) in self.blanked.bytes().enumerate().skip(begin) {
            if ends(byte, depth) {
                return at;
            }
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        self.blanked.len()
    }
}

/// Returns where a string ends that begins there, of one or of three quotes.
fn string_end(bytes: &[u8], begin: usize, quote: u8) -> usize {
    let three = [quote; 3];
    let (mut at, quotes) = if bytes[begin..].starts_with(&three) {
        (begin + 3, three.as_slice())
    } else {
        (begin + 1, &three[..1])
    };
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            _ if bytes[at..].starts_with(quotes) => return at + quotes.len(),
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_concurrent_when_all_of_it_is() {
        let upgrade = |body: &str| format!("revision = 'ä'\ndef upgrade() -> None:\n    {body}\n");
        for (body, yes) in [
            ("op.create_index(op.f('ix_t'), 't', [sa.text('a')], postgresql_concurrently=True)", true),
            ("op.execute('CREATE INDEX CONCURRENTLY i ON t(a)')", true),
            (
                "with op.get_context().autocommit_block():\n        op.drop_index('i', postgresql_concurrently = True)",
                true,
            ),
            ("op.add_column('t', sa.Column('a', sa.Integer()))", false),
            ("op.create_index('i', 't', ['a']  # postgresql_concurrently=True\n    )", false),
            ("\"\"\"Not CONCURRENTLY (small).\"\"\"\n    op.create_index('i', 't', ['a'])", false),
            (
                "op.add_column('t', c)\n    op.create_index('i', 't', ['a'], postgresql_concurrently=True)",
                false,
            ),
            ("columns()\n    op.create_index('i', 't', ['a'], postgresql_concurrently=True)", false),
            ("pass\n\ndef downgrade():\n    op.drop_index('i', postgresql_concurrently=True)", false),
            ("pass", false),
            ("op.execute(text(\"CREATE INDEX CONCURRENTLY i \"\n        'ON t (a)'))", true),
            (
                "op.execute('COMMIT')\n    op.execute('set statement_timeout = 0')\n    op.execute('VACUUM t')",
                true,
            ),
            ("op.execute('set statement_timeout = 0')", false),
            ("op.execute(  # not CONCURRENTLY\n        'CREATE INDEX i ON t (a)  -- CONCURRENTLY')", false),
            ("op.execute(statement, 'CREATE INDEX CONCURRENTLY i ON t (a)')", false),
            ("op.add_column ('t', c)\n    op.execute('CREATE INDEX CONCURRENTLY i ON t (a)')", false),
            ("steps[0]('t')\n    op.execute('CREATE INDEX CONCURRENTLY i ON t (a)')", false),
            ("for name in ('a', 'b'):\n        op.drop_index(name, postgresql_concurrently=True)", true),
            ("op.execute (('CREATE INDEX CONCURRENTLY i '\n        'ON t (a)'))", true),
        ] {
            assert_eq!(revision_is_concurrent(&upgrade(body)), yes, "{body}");
        }
    }

    #[test]
    fn operations_are_concurrent_when_all_of_them_are() {
        let migration = |operations: &str| {
            format!(
                "class Migration(migrations.Migration):\n    atomic = False\n    operations = [{operations}]\n"
            )
        };
        for (operations, yes) in [
            ("AddIndexConcurrently('item', models.Index(fields=['a'], name='i'))", true),
            ("migrations.RunSQL('create index concurrently i on t (a)', migrations.RunSQL.noop)", true),
            ("AddIndexConcurrently('item', GinIndex(fields=['a'])), migrations.AddField('item', f)", false),
            ("migrations.RunPython(forwards)", false),
            (
                "AddIndexConcurrently('item', GinIndex(fields=['a'])), migrations.RemoveIndex('item', 'old')",
                false,
            ),
            (
                "AddIndexConcurrently('item', i), migrations.AddIndex('item', models.Index(fields=['b']))",
                false,
            ),
            ("AddIndexConcurrently('item', i), migrations.RenameIndex('item', 'a', 'b')", false),
            (
                "SeparateDatabaseAndState(database_operations=[AddIndexConcurrently('item', i)],\n  \
                 state_operations = [migrations.AddIndex('item', BTreeIndex(fields=['b']))])",
                true,
            ),
            (
                "SeparateDatabaseAndState(state_operations=[migrations.AddIndex('item', i)],\n  \
                 database_operations=[AddIndexConcurrently('item', i), migrations.AddIndex('item', i)])",
                false,
            ),
            ("SeparateDatabaseAndState(state_operations=[AddIndexConcurrently('item', i)])", false),
            ("migrations.RunSQL('alter table t add a int')", false),
            ("", false),
            (
                "migrations.RunSQL(sql='create index i on t (a)', reverse_sql='drop index concurrently i')",
                false,
            ),
            (
                "migrations.RunSQL(reverse_sql='drop index concurrently i', sql='create index i on t (a)')",
                false,
            ),
            (
                "migrations.RunSQL(['create unique index concurrently i on t (a)', 'alter table t add unique using index i'])",
                false,
            ),
            ("migrations.RunSQL(['set lock_timeout = 0', 'create index concurrently i on t (a)'])", true),
        ] {
            assert_eq!(operations_are_concurrent(&migration(operations)), yes, "{operations}");
        }
    }
}
