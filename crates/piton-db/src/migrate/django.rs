//! Django: a folder of migrations in each app, and a table with those that were applied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use piton_exec::Command;

use super::adapter::{
    Adapter, At, IN_PARTS, Known, NO_DOWN, Row, by_name, is_newer, leaves_transaction, program,
};
use super::tool::Files;
use super::{Migration, MigrationError, State, python};
use crate::quote;

const TABLE: &str = "django_migrations";
/// Where an app may give itself a label of its own.
const CONFIG: &str = "apps.py";

pub(super) struct Django;

fn manage(app: &Path, folder: &Path) -> Command {
    program(app, "python3").arg(folder.join("manage.py").display().to_string())
}

/// The first migration of nearly every app: it tells none from another one.
const FIRST: &str = "0001_initial";

/// The apps that come with Django.
const CONTRIB: [&str; 7] = ["admin", "auth", "contenttypes", "flatpages", "redirects", "sessions", "sites"];

/// Splits `apps/shop/migrations/0001_initial.py` into the app's folder and the migration's name.
fn parts(path: &str) -> Option<(&str, &str)> {
    let (folder, name) = path.strip_suffix(".py")?.rsplit_once('/')?;
    let app = folder.strip_suffix("/migrations")?;
    (name != "__init__").then_some((app, name))
}

/// Reads `shop/migrations/0001_initial.py` as `shop.0001_initial`, under the label that the app has of its own if it has one.
fn name_of(path: &str, files: &Files) -> Option<String> {
    let (app, name) = parts(path)?;
    let own = files.get(&format!("{app}/{CONFIG}")).and_then(|text| label(text));
    let label = own.unwrap_or_else(|| app.rsplit('/').next().unwrap_or(app));
    Some(format!("{label}.{name}"))
}

/// Reads an app's `label = "accounts"`; `None` where it is not one plain literal.
fn label(config: &str) -> Option<&str> {
    let mut labels = config.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("label")?.trim_start();
        let rest = rest
            .strip_prefix(':')
            .map_or(rest, |rest| rest.trim_start().trim_start_matches("str").trim_start());
        rest.strip_prefix('=').map(|value| value.split('#').next().unwrap_or(value).trim())
    });
    let (value, None) = (labels.next()?, labels.next()) else { return None };
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let name = value.strip_prefix(quote)?.strip_suffix(quote)?;
    let is_plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_plain.then_some(name)
}

fn app_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(app, _)| app)
}

/// The names of migrations, without their apps, by those.
type Apps<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn names_of(known: &[Known]) -> Apps<'_> {
    by_app(known.iter().map(|known| known.name.as_str()))
}

/// Gathers names like `shop.0001_initial` by their apps.
fn by_app<'a>(names: impl Iterator<Item = &'a str>) -> Apps<'a> {
    let mut apps = Apps::new();
    for (app, name) in names.filter_map(|name| name.split_once('.')) {
        apps.entry(app).or_default().insert(name);
    }
    apps
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
        parts(path).is_some() || path.ends_with(&format!("/{CONFIG}"))
    }

    fn known(&self, files: &Files) -> Result<Vec<Known>, MigrationError> {
        let mut known: Vec<Known> = files
            .iter()
            .filter_map(|(path, text)| {
                let spaceless: String = text.chars().filter(|c| !c.is_whitespace()).collect();
                let atomic = !spaceless.contains("atomic=False") && !leaves_transaction(text);
                Some(Known {
                    name: name_of(path, files)?,
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
        let mut all = by_name(known, &own);
        // An app may be recorded under a label that nothing but its settings tell.
        let (filed, of_others) = (names_of(known), by_app(others.iter().map(|row| row.name.as_str())));
        let labels =
            || of_others.iter().filter(|(label, _)| !CONTRIB.contains(label)).map(|(_, names)| names);
        for one in all.iter_mut().filter(|one| one.state == State::Pending) {
            let Some((app, name)) = one.name.split_once('.') else { continue };
            let Some(files) = filed.get(app).filter(|_| own.iter().all(|row| app_of(&row.name) != app))
            else {
                continue;
            };
            // The first of an app says nothing; one more in common does, where it is all that is recorded, or not the only one.
            let may_be_its = |names: &BTreeSet<&str>| {
                names.contains(name)
                    && (names.is_subset(files) || names.intersection(files).count() > 1)
                    && names.intersection(files).any(|name| *name != FIRST)
            };
            if labels().any(may_be_its) {
                one.state = State::Unknown;
            }
        }
        let others = others.into_iter().map(|row| Migration { name: row.name, state: State::Applied });
        others.chain(all).collect()
    }

    /// An app that the list has not got is the one with the same migrations under another label.
    fn relabelled(&self, mut known: Vec<Known>, listed: &[String]) -> Vec<Known> {
        let copy = known.clone();
        let (filed, listed) = (names_of(&copy), by_app(listed.iter().map(String::as_str)));
        // The only one with these migrations that one of both has alone.
        let only = |these: &Apps<'_>, others: &Apps<'_>, names: &BTreeSet<&str>| {
            let is_it = |(app, its): &(&&str, &BTreeSet<&str>)| *its == names && !others.contains_key(*app);
            let mut apps = these.iter().filter(is_it).map(|(app, _)| (*app).to_owned());
            apps.next().filter(|_| apps.next().is_none())
        };
        for one in &mut known {
            let Some((app, name)) = one.name.split_once('.') else { continue };
            let says_more = |names: &&BTreeSet<&str>| names.iter().any(|name| *name != FIRST);
            let Some(names) = filed.get(app).filter(says_more) else { continue };
            if only(&filed, &listed, names).as_deref() == Some(app)
                && let Some(label) = only(&listed, &filed, names)
            {
                one.name = format!("{label}.{name}");
            }
        }
        known
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

    /// Django itself says whether all operations can be undone, before it undoes the first one.
    fn revert(&self, at: &At<'_>) -> Result<Command, &'static str> {
        let (label, _) = at.one.name.split_once('.').ok_or(NO_DOWN)?;
        if !at.one.atomic {
            return Err(IN_PARTS);
        }
        let own = at.rows.iter().filter(|row| app_of(&row.name) == label);
        let before = own.take_while(|row| row.name != at.one.name).last();
        let before = before.and_then(|row| row.name.split_once('.')).map_or("zero", |(_, name)| name);
        Ok(manage(at.app, at.folder).args(["migrate", label, before, "--noinput"]))
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

    fn leaves_unknown(&self) -> bool {
        true
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

    #[test]
    fn an_app_goes_by_its_own_label() {
        for (config, own) in [
            (
                "class Users(AppConfig):\n    name = 'apps.users'\n    label = \"accounts\"  # as ever\n",
                "accounts",
            ),
            (
                "class Users(AppConfig):\n    label: str = 'accounts'\n    verbose_name = 'Users'\n",
                "accounts",
            ),
            ("class Users(AppConfig):\n    label = PREFIX + 'accounts'\n", "users"),
            (
                "class Users(AppConfig):\n    label = 'a'\nclass Others(AppConfig):\n    label = 'b'\n",
                "users",
            ),
            ("", "users"),
        ] {
            let files = [("apps/users/migrations/0001_initial.py", ""), ("apps/users/apps.py", config)];
            assert!(files.iter().all(|(path, _)| Django.reads(path)));
            let files = files.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
            let known = Django.known(&files).unwrap();
            assert_eq!(
                known.into_iter().map(|known| known.name).collect::<Vec<_>>(),
                [format!("{own}.0001_initial")]
            );
        }
    }

    #[test]
    fn what_may_be_recorded_under_another_label_is_not_pending() {
        let files = |paths: &[&str]| paths.iter().map(|path| ((*path).to_owned(), String::new())).collect();
        let paths = [
            "users/migrations/0001_initial.py",
            "users/migrations/0002_email.py",
            "new/migrations/0001_initial.py",
        ];
        let known = Django.known(&files(&paths)).unwrap();
        let states = |rows: &[&str]| -> Vec<String> {
            let rows: Vec<Row> = rows.iter().map(|name| row(name)).collect();
            let own = Django.join(&known, &rows).into_iter().filter(|one| !one.is_applied());
            own.map(|one| {
                format!("{} {}", one.name, one.state.in_words().split(':').next().unwrap_or_default())
            })
            .collect()
        };
        let pending = ["new.0001_initial pending", "users.0001_initial pending", "users.0002_email pending"];
        // Nearly every app has a first one, and those of Django are known.
        assert_eq!(states(&["sessions.0001_initial", "tags.0001_initial", "tags.0002_slug"]), pending);
        assert_eq!(states(&["tags.0001_initial"])[..], pending);
        let unknown = ["users.0001_initial applied or pending", "users.0002_email applied or pending"];
        let rows = ["accounts.0001_initial", "accounts.0002_email"];
        assert_eq!(states(&[&rows[..], &["accounts.0003_newer"]].concat())[1..], unknown);
        assert_eq!(states(&[&rows[..], &["users.0001_initial"]].concat()), [pending[0], pending[2]]);

        let relabelled = |listed: &[&str]| -> Vec<String> {
            let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
            Django.relabelled(known.clone(), &listed).into_iter().map(|known| known.name).collect()
        };
        let listed = ["new.0001_initial", "accounts.0001_initial", "accounts.0002_email"];
        assert_eq!(relabelled(&listed), ["new.0001_initial", "accounts.0001_initial", "accounts.0002_email"]);
        // Two that may be it are neither; nor is one with a first migration alone.
        let two = ["accounts.0001_initial", "accounts.0002_email", "x.0001_initial", "x.0002_email"];
        let own = ["new.0001_initial", "users.0001_initial", "users.0002_email"];
        assert_eq!(relabelled(&two), own);
        assert_eq!(relabelled(&["y.0001_initial", "users.0001_initial", "users.0002_email"]), own);
    }
}
