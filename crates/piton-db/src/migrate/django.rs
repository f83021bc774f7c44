//! Django: a folder of migrations in each app, and a table with those that were applied.

use std::path::Path;

use piton_exec::Command;

use super::adapter::{Adapter, Known, Row, by_name, is_newer, leaves_transaction, program};
use super::tool::Files;
use super::{Migration, MigrationError, State, python};
use crate::quote;

const TABLE: &str = "django_migrations";

pub(super) struct Django;

fn manage(app: &Path, folder: &Path) -> Command {
    program(app, "python3").arg(folder.join("manage.py").display().to_string())
}

/// Reads `shop/migrations/0001_initial.py` as `shop.0001_initial`.
fn name_of(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.strip_suffix(".py")?.split('/').collect();
    let [.., app, "migrations", name] = parts[..] else { return None };
    (name != "__init__").then(|| format!("{app}.{name}"))
}

fn app_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(app, _)| app)
}

/// Reads `replaces=[("shop","0001_initial"),...]` of a text without spaces.
fn replaced(spaceless: &str) -> Vec<String> {
    let list = spaceless.split_once("replaces=[").and_then(|(_, rest)| rest.split_once(']'));
    let texts: Vec<&str> = list.map_or_else(Vec::new, |(list, _)| list.split(['"', '\'']).collect());
    // Every other piece stands between quotes: an app, and its migration.
    let texts: Vec<&str> = texts.into_iter().skip(1).step_by(2).collect();
    texts.chunks_exact(2).map(|pair| pair.join(".")).collect()
}

impl Adapter for Django {
    fn record(&self) -> (Option<&'static str>, Option<&'static str>) {
        (None, Some(TABLE))
    }

    fn rows(&self, _files: &Files) -> Option<(&'static str, String)> {
        let query = "select app::text || '.' || name::text, true, null::text, null::text from django_migrations order by id";
        Some((TABLE, query.into()))
    }

    fn reads(&self, path: &str) -> bool {
        name_of(path).is_some()
    }

    fn known(&self, files: &Files) -> Result<Vec<Known>, MigrationError> {
        let mut known: Vec<Known> = files
            .iter()
            .filter_map(|(path, text)| {
                let spaceless: String = text.chars().filter(|c| !c.is_whitespace()).collect();
                let atomic = !spaceless.contains("atomic=False") && !leaves_transaction(text);
                Some(Known {
                    name: name_of(path)?,
                    checksums: Vec::new(),
                    atomic,
                    // The record is written in it, too, but after what shows.
                    shows: atomic,
                    waits_harmlessly: python::operations_are_concurrent(text),
                    replaces: replaced(&spaceless),
                    ..Known::default()
                })
            })
            .collect();
        known.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(known)
    }

    /// What packages bring is not in the folder: it is applied, and no more is known of it without the tool's own list.
    fn join(&self, known: &[Known], rows: &[Row]) -> Vec<Migration> {
        let is_own = |row: &Row| known.iter().any(|known| app_of(&known.name) == app_of(&row.name));
        let (own, others): (Vec<Row>, Vec<Row>) = rows.iter().cloned().partition(is_own);
        let others = others.into_iter().map(|row| Migration { name: row.name, state: State::Applied });
        others.chain(by_name(known, &own)).collect()
    }

    fn minds(&self, one: &Migration, known: &[Known], rows: &[Row]) -> bool {
        let app = app_of(&one.name);
        let rows = rows.iter().filter(|row| app_of(&row.name) == app);
        one.state == State::Missing && is_newer(&one.name, known, rows)
    }

    fn listing(&self, app: &Path, folder: &Path) -> Option<Command> {
        Some(self.look(app, folder))
    }

    fn listed(&self, line: &str) -> Option<String> {
        let line = line.trim_start();
        let rest = line.strip_prefix("[X]").or_else(|| line.strip_prefix("[ ]"))?;
        rest.split_whitespace().next().filter(|name| name.contains('.')).map(str::to_owned)
    }

    fn apply(&self, app: &Path, folder: &Path, name: &str) -> Command {
        let (label, migration) = name.split_once('.').unwrap_or((name, ""));
        manage(app, folder).args(["migrate", label, migration, "--noinput"])
    }

    fn look(&self, app: &Path, folder: &Path) -> Command {
        manage(app, folder).args(["showmigrations", "--plan"])
    }

    fn mend(&self) -> &'static str {
        "let DATABASES[\"default\"] in the settings come from os.environ[\"DATABASE_URL\"], its OPTIONS as well"
    }

    fn by_hand(&self) -> &'static str {
        "manage.py migrate --fake APP NAME"
    }

    fn notes_failures(&self) -> bool {
        false
    }

    fn mark(&self, _: &Files, _: &[Known], _: &[Row], name: &str, applied: bool) -> Vec<String> {
        let Some((app, migration)) = name.split_once('.') else { return Vec::new() };
        let (app, migration) = (quote::literal(app), quote::literal(migration));
        vec![match applied {
            true => {
                format!(
                    "insert into django_migrations (app, name, applied) values ({app}, {migration}, now())"
                )
            }
            false => format!("delete from django_migrations where app = {app} and name = {migration}"),
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Row {
        Row { name: name.into(), finished: true, checksum: None, said: None }
    }

    #[test]
    fn what_was_squashed_is_no_newer_release() {
        let squashed = "class Migration(migrations.Migration):\n    replaces = [(\"shop\", \"0001_initial\"), ('shop', '0002_more')]\n";
        let known = |text: &str| {
            let file = ("shop/migrations/0001_squashed.py".to_owned(), text.to_owned());
            Django.known(&[file].into()).unwrap()
        };
        let minded = |known: &[Known], rows: &[Row]| -> Vec<String> {
            let states = Django.join(known, rows).into_iter();
            states.filter(|one| Django.minds(one, known, rows)).map(|one| one.name).collect()
        };
        let old = ["auth.0001_initial", "shop.0001_initial", "shop.0002_more"].map(row);
        assert_eq!(minded(&known(squashed), &old), [""; 0]);
        assert_eq!(minded(&known(""), &old), ["shop.0001_initial", "shop.0002_more"]);
        let recorded = [&old[..], &[row("shop.0001_squashed"), row("auth.0002_more")]].concat();
        assert_eq!(minded(&known(""), &recorded), [""; 0]);
        let newer = [&recorded[..], &[row("shop.0003_newer")]].concat();
        assert_eq!(minded(&known(squashed), &newer), ["shop.0003_newer"]);
    }
}
