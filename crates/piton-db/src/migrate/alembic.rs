//! Alembic: a graph of revisions in Python files, and a table of its heads.
//!
//! The graph is read from the files, not asked of `alembic history`: the guard looks at a commit that is not built, where no
//! Python could run. What is not written as a plain literal is refused, never guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use piton_exec::Command;

use super::adapter::{
    Adapter, At, IN_PARTS, Known, NO_DOWN, Row, leaves_transaction, program, sets_isolation,
};
use super::tool::Files;
use super::{Migration, MigrationError, State, python};
use crate::quote;

const TABLE: &str = "alembic_version";
/// Where Alembic connects, and begins the transaction.
const ENV: &str = "env.py";

pub(super) struct Alembic;

impl Adapter for Alembic {
    fn record(&self) -> (Option<&'static str>, Option<&'static str>) {
        (None, Some(TABLE))
    }

    fn rows(&self, _files: &Files) -> Option<(&'static str, String)> {
        Some((
            TABLE,
            "select version_num::text, true, null::text, null::text from alembic_version order by 1".into(),
        ))
    }

    fn reads(&self, path: &str) -> bool {
        let is_revision = path.split('/').any(|part| part == "versions") && !path.ends_with("__init__.py");
        path == ENV || (path.ends_with(".py") && is_revision)
    }

    fn known(&self, files: &Files) -> Result<Vec<Known>, MigrationError> {
        let mut revisions = BTreeMap::new();
        let outside = files.get(ENV).is_some_and(|text| sets_isolation(text));
        for (path, text) in files.iter().filter(|(path, _)| *path != ENV) {
            let wrong = |why: String| MigrationError::Unreadable { file: path.clone(), why };
            let Some(revision) = literal(text, "revision").map_err(wrong)? else { continue };
            let [name] = &revision[..] else { return Err(wrong("`revision` is not one name".into())) };
            let mut needs = literal(text, "down_revision").map_err(wrong)?.unwrap_or_default();
            needs.extend(literal(text, "depends_on").map_err(wrong)?.unwrap_or_default());
            // Whatever runs outside of the migration's transaction says so in its file, or in `env.py`.
            let atomic = !outside && !leaves_transaction(text);
            let known = Known {
                name: name.clone(),
                checksums: Vec::new(),
                atomic,
                // The record is written in it, too.
                shows: atomic,
                waits_harmlessly: python::revision_is_concurrent(text),
                needs,
                ..Known::default()
            };
            if revisions.insert(name.clone(), known).is_some() {
                return Err(wrong(format!("another file has the revision {name}, too")));
            }
        }
        if revisions.is_empty() {
            return Err(MigrationError::Unreadable {
                file: "versions".into(),
                why: "there is no revision below a folder of this name, where Piton looks for them whatever version_locations \
                      says; move them there, or write the first one (alembic revision)"
                    .into(),
            });
        }
        in_order(revisions)
    }

    fn join(&self, known: &[Known], rows: &[Row]) -> Vec<Migration> {
        let applied = ancestors(known, rows.iter().map(|row| row.name.as_str()));
        let is_missing = |row: &&Row| known.iter().all(|known| known.name != row.name);
        let missing: Vec<&Row> = rows.iter().filter(is_missing).collect();
        let one = |known: &Known| Migration {
            name: known.name.clone(),
            state: match applied.contains(known.name.as_str()) {
                true => State::Applied,
                false if missing.is_empty() => State::Pending,
                // A head stands for all that it needs, and what this one needs stands in its file alone.
                false => State::Unknown,
            },
        };
        let mut all: Vec<Migration> = known.iter().map(one).collect();
        all.extend(missing.iter().map(|row| Migration { name: row.name.clone(), state: State::Missing }));
        all
    }

    fn minds(&self, one: &Migration, _known: &[Known], _rows: &[Row]) -> bool {
        one.state == State::Missing
    }

    fn notes_failures(&self) -> bool {
        false
    }

    fn apply(&self, app: &Path, _folder: &Path, name: &str) -> Command {
        program(app, "alembic").args(["upgrade", name])
    }

    /// A merge of two branches has no one revision before it.
    fn revert(&self, at: &At<'_>) -> Result<Command, &'static str> {
        let is_it = |text: &&String| {
            literal(text, "revision").ok().flatten().is_some_and(|names| names.first() == Some(&at.one.name))
        };
        let text = at.files.values().find(is_it).ok_or(NO_DOWN)?;
        if !text.lines().any(|line| line.starts_with("def downgrade")) {
            return Err(NO_DOWN);
        }
        let before = match &at.one.needs[..] {
            [] if at.known.iter().filter(|known| known.needs.is_empty()).count() == 1 => "base",
            [before] => before,
            _ => return Err("it stands behind more than one revision"),
        };
        if at.rows.len() > 1 {
            return Err("the database has more than one head");
        }
        if !at.one.atomic {
            return Err(IN_PARTS);
        }
        Ok(program(at.app, "alembic").args(["downgrade", before]))
    }

    fn look(&self, app: &Path, _folder: &Path) -> Command {
        program(app, "alembic").arg("current")
    }

    fn mend(&self) -> &'static str {
        "let env.py take its URL from os.environ[\"DATABASE_URL\"]"
    }

    fn by_hand(&self) -> &'static str {
        "alembic stamp REVISION"
    }

    fn mark(&self, _: &Files, known: &[Known], rows: &[Row], name: &str, applied: bool) -> Vec<String> {
        let Some(one) = known.iter().find(|known| known.name == name) else { return Vec::new() };
        let heads: BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        let there = ancestors(known, heads.iter().copied());
        if !applied || one.needs.iter().any(|need| !there.contains(need.as_str())) {
            return Vec::new();
        }
        let mut statements = vec![
            "create table if not exists alembic_version
             (version_num varchar(32) not null, constraint alembic_version_pkc primary key (version_num))"
                .to_owned(),
        ];
        let gone = one.needs.iter().filter(|need| heads.contains(need.as_str()));
        statements.extend(
            gone.map(|need| {
                format!("delete from alembic_version where version_num = {}", quote::literal(need))
            }),
        );
        statements.push(format!("insert into alembic_version values ({})", quote::literal(name)));
        statements
    }
}

/// Sorts the revisions so that each comes after those that it needs.
fn in_order(mut revisions: BTreeMap<String, Known>) -> Result<Vec<Known>, MigrationError> {
    let names: BTreeSet<String> = revisions.keys().cloned().collect();
    let mut order: Vec<Known> = Vec::new();
    while !revisions.is_empty() {
        let ready =
            |known: &Known| known.needs.iter().all(|need| order.iter().any(|done| done.name == *need));
        let Some(next) = revisions.values().find(|known| ready(known)).map(|known| known.name.clone()) else {
            let stuck = revisions.values().find_map(|known| {
                let missing = known.needs.iter().find(|need| !names.contains(*need))?;
                Some((known.name.clone(), format!("it needs the revision {missing}, which no file has")))
            });
            let (file, why) = stuck.unwrap_or_else(|| {
                let name = revisions.keys().next().cloned().unwrap_or_default();
                (name, "it needs itself, by way of others".into())
            });
            return Err(MigrationError::Unreadable { file, why });
        };
        order.extend(revisions.remove(&next));
    }
    Ok(order)
}

/// Lists revisions and all that they need.
fn ancestors<'a>(known: &'a [Known], from: impl Iterator<Item = &'a str>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&str> = from.collect();
    while let Some(name) = next.pop() {
        if let Some(one) = known.iter().find(|known| known.name == name)
            && found.insert(one.name.as_str())
        {
            next.extend(one.needs.iter().map(String::as_str));
        }
    }
    found
}

/// Reads what a module sets a name to: texts in quotes, alone, in a tuple or in a list, or nothing for `None`.
fn literal(module: &str, name: &str) -> Result<Option<Vec<String>>, String> {
    let mut from = 0;
    for line in module.split_inclusive('\n') {
        let rest = line.strip_prefix(name).map(str::trim_start).filter(|rest| rest.starts_with([':', '=']));
        if let Some((_, value)) = rest.and_then(|rest| rest.split_once('=')) {
            let at = from + line.len() - value.len();
            return texts(&module[at..]).map(Some).ok_or_else(|| {
                format!("`{name}` is not written as a text, a tuple or None: the files are read without running them")
            });
        }
        from += line.len();
    }
    Ok(None)
}

fn texts(value: &str) -> Option<Vec<String>> {
    let value = value.trim_start();
    if value.starts_with("None") {
        return Some(Vec::new());
    }
    let Some(list) = value.strip_prefix(['(', '[']) else {
        return Some(vec![text(value)?.0]);
    };
    let (mut found, mut rest) = (Vec::new(), list);
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        if rest.starts_with([')', ']']) {
            return Some(found);
        }
        let (one, after) = text(rest)?;
        found.push(one);
        rest = after;
    }
}

/// Reads a text in quotes, and returns what follows it.
fn text(value: &str) -> Option<(String, &str)> {
    let quote = value.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let (inner, rest) = value[1..].split_once(quote)?;
    let plain = !inner.is_empty() && !inner.contains(['\\', '\n']);
    plain.then(|| (inner.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_read_as_alembic_writes_them() {
        for (text, wanted) in [
            ("revision = 'a1'\n", vec!["a1"]),
            ("x = 1\nrevision: str = \"a1\"  # it\n", vec!["a1"]),
            ("revision: Union[str, None] = (\n  'a1',\n  \"b2\",\n)\n", vec!["a1", "b2"]),
            ("revision = None", vec![]),
            ("revision = ['a']", vec!["a"]),
        ] {
            assert_eq!(literal(text, "revision").unwrap().unwrap(), wanted, "{text}");
        }
        assert_eq!(literal("down_revision = 'a'\n  revision = 'b'", "revision").unwrap(), None);
        for wrong in ["revision = f'a{n}'", "revision = PREFIX + 'a'", "revision = ('a', b)", "revision = 'a"]
        {
            assert!(literal(wrong, "revision").is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_may_leave_its_transaction_is_not_atomic() {
        let revision =
            |body: &str| format!("revision = 'a'\ndown_revision = None\ndef upgrade():\n    {body}\n");
        let atomic = |env: &str, body: &str| {
            let files = [(ENV.to_owned(), env.to_owned()), ("versions/a.py".to_owned(), revision(body))];
            Alembic.known(&files.into()).unwrap()[0].atomic
        };
        let plain = "op.add_column('t', sa.Column('committed_at', sa.DateTime))";
        assert!(atomic("connection.commit()", plain));
        assert!(!atomic("engine = create_engine(url, isolation_level='AUTOCOMMIT')", plain));
        for body in [
            "op.execute('COMMIT')",
            "with op.get_context().autocommit_block(): pass",
            "op.get_bind().execution_options(isolation_level=\"AUTOCOMMIT\")",
        ] {
            assert!(!atomic("", body), "{body}");
        }
    }

    #[test]
    fn revisions_come_after_what_they_need() {
        let file = |name: &str, needs: &str| {
            (format!("versions/{name}.py"), format!("revision = '{name}'\ndown_revision = {needs}\n"))
        };
        let known = |files: &[(String, String)]| Alembic.known(&files.iter().cloned().collect());
        let all = known(&[file("a", "('c', 'd')"), file("b", "None"), file("c", "'b'"), file("d", "'b'")]);
        let names: Vec<String> = all.unwrap().into_iter().map(|known| known.name).collect();
        assert_eq!(names, ["b", "c", "d", "a"]);
        assert!(known(&[]).unwrap_err().to_string().contains("version_locations"));
        assert!(known(&[file("a", "'gone'")]).unwrap_err().to_string().contains("gone"));
        assert!(known(&[file("a", "'b'"), file("b", "'a'")]).unwrap_err().to_string().contains("itself"));
    }
}
