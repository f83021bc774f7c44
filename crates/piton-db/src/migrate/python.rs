//! What a migration in Python calls, as far as its text tells.

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
    let harmless =
        |name: &str| name.starts_with("sa.") || matches!(name, "upgrade" | "op.f" | "op.get_context");
    code.is_concurrent(body, |name, code, said| match name {
        "op.create_index" | "op.drop_index" => Some(code.contains("postgresql_concurrently=true")),
        "op.execute" => Some(said.contains("concurrently")),
        name if harmless(name) || name.ends_with(".autocommit_block") || name == "autocommit_block" => None,
        _ => Some(false),
    })
}

/// Tells it of a migration of Django.
pub(super) fn operations_are_concurrent(text: &str) -> bool {
    let code = Code::of(text);
    let Some(begin) = code.blanked.find("operations") else { return false };
    code.is_concurrent(begin..text.len(), |name, _, said| {
        let (above, name) = name.rsplit_once('.').unwrap_or(("", name));
        match name {
            "AddIndexConcurrently" | "RemoveIndexConcurrently" => Some(true),
            "RunSQL" => Some(said.contains("concurrently")),
            name if above == "models" || name.ends_with("Index") => None,
            _ => Some(false),
        }
    })
}

/// A text with its code alone: comments and what stands in quotes are blank, at the same places.
struct Code<'a> {
    text: &'a str,
    blanked: String,
}

impl<'a> Code<'a> {
    fn of(text: &'a str) -> Self {
        let mut blanked = text.as_bytes().to_vec();
        let bytes = text.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let end = match bytes[at] {
                b'#' => text[at..].find('\n').map_or(bytes.len(), |length| at + length),
                quote @ (b'"' | b'\'') => string_end(bytes, at, quote),
                _ => {
                    at += 1;
                    continue;
                }
            };
            blanked[at..end].fill(b' ');
            at = end;
        }
        // Letters beyond ASCII are blank only as a whole: comments and strings end at ASCII.
        Self { text, blanked: String::from_utf8(blanked).unwrap_or_default() }
    }

    /// Asks of each call by its name, and by what stands in it, without what is quoted and with it, whether it is concurrent; `None`
    /// says nothing about it.
    fn is_concurrent(
        &self,
        within: std::ops::Range<usize>,
        is_concurrent: impl Fn(&str, &str, &str) -> Option<bool>,
    ) -> bool {
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        let opened = self.blanked[within.clone()].match_indices('(').map(|(at, _)| within.start + at);
        let mut found = false;
        for at in opened {
            let before = &self.blanked[within.start..at];
            let name = &before[before.trim_end_matches(is_name).len()..];
            if name.is_empty() {
                continue;
            }
            let [code, said] = [&self.blanked, self.text].map(|text| {
                let within = text[at..self.closed(at)].to_ascii_lowercase();
                within.chars().filter(|c| !c.is_whitespace()).collect::<String>()
            });
            match is_concurrent(name, &code, &said) {
                Some(false) => return false,
                Some(true) => found = true,
                None => {}
            }
        }
        found
    }

    /// Returns where what is opened there is closed.
    fn closed(&self, opened: usize) -> usize {
        let mut depth = 0_u32;
        for (at, byte) in self.blanked.bytes().enumerate().skip(opened) {
            match byte {
                b'(' => depth += 1,
                b')' if depth == 1 => return at,
                b')' => depth -= 1,
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
            ("migrations.RunSQL('alter table t add a int')", false),
            ("", false),
        ] {
            assert_eq!(operations_are_concurrent(&migration(operations)), yes, "{operations}");
        }
    }
}
