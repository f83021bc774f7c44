//! golang-migrate: numbered pairs of `.up.sql` and `.down.sql`, and a table with one version and whether it is dirty.

use std::path::Path;

use piton_exec::Command;

use super::adapter::{
    Adapter, At, Known, Row, hides, is_one_transaction, program, shows_as_a_whole, waits_harmlessly,
};
use super::tool::Files;
use super::{Migration, MigrationError, State};

const TABLE: &str = "schema_migrations";
const ENDING: &str = ".up.sql";

pub(super) struct GolangMigrate;

/// Builds a call; the password goes along in the environment, where no list of processes shows it.
fn migrate(app: &Path, folder: &Path) -> Command {
    let folder = folder.display().to_string();
    program(app, "migrate").args(["-path", &folder, "-database", "postgres:///"])
}

fn version(name: &str) -> Option<u64> {
    name.split_once('_')?.0.parse().ok()
}

impl Adapter for GolangMigrate {
    fn record(&self) -> (Option<&'static str>, Option<&'static str>) {
        (None, Some(TABLE))
    }

    fn rows(&self, _files: &Files) -> Option<(&'static str, String)> {
        let query = "select version::text, not dirty, null::text, null::text from schema_migrations";
        Some((TABLE, query.into()))
    }

    fn reads(&self, path: &str) -> bool {
        !path.contains('/') && path.strip_suffix(ENDING).and_then(version).is_some()
    }

    fn known(&self, files: &Files) -> Result<Vec<Known>, MigrationError> {
        let mut known: Vec<(u64, Known)> = Vec::new();
        for (path, text) in files {
            let name = path.trim_end_matches(ENDING);
            let Some(version) = version(name) else { continue };
            if let Some((_, other)) = known.iter().find(|(other, _)| *other == version) {
                let why = format!("{} has the version {version}, too", other.name);
                return Err(MigrationError::Unreadable { file: path.clone(), why });
            }
            let one = Known {
                name: name.to_owned(),
                checksums: Vec::new(),
                // A file is sent to the server as a whole.
                one_transaction: is_one_transaction(text),
                // What ends it well is recorded after its commit.
                atomic: shows_as_a_whole(text),
                shows: shows_as_a_whole(text) && !hides(text),
                waits_harmlessly: waits_harmlessly(text),
                ..Known::default()
            };
            known.push((version, one));
        }
        known.sort_by_key(|(version, _)| *version);
        Ok(known.into_iter().map(|(_, known)| known).collect())
    }

    fn join(&self, known: &[Known], rows: &[Row]) -> Vec<Migration> {
        let row = rows.first();
        let at = row.and_then(|row| row.name.parse::<u64>().ok());
        let state = |known: &Known| match (at, row) {
            (Some(at), Some(row)) if version(&known.name) == Some(at) => {
                super::adapter::state(Some(known), Some(row))
            }
            (Some(at), _) if version(&known.name) < Some(at) => State::Applied,
            _ => State::Pending,
        };
        let mut all: Vec<Migration> =
            known.iter().map(|known| Migration { name: known.name.clone(), state: state(known) }).collect();
        if let Some(row) = row.filter(|_| known.iter().all(|known| version(&known.name) != at)) {
            all.push(Migration { name: row.name.clone(), state: State::Missing });
        }
        all
    }

    /// The record is dirty before the script begins; of what fails in writing the record, the tool does not say that it is a migration's.
    ///
    /// What the server has said stands behind a colon; of a session that was lost, which may have committed, it has said nothing.
    fn is_of_script(&self, _name: &str, said: &str, noted: bool) -> bool {
        !noted || said.lines().any(|line| line.trim_start().starts_with("error: migration failed: "))
    }

    fn apply(&self, app: &Path, folder: &Path, _name: &str) -> Command {
        migrate(app, folder).args(["up", "1"])
    }

    fn revert(&self, at: &At<'_>) -> Result<Command, &'static str> {
        at.script(&format!("{}.down.sql", at.one.name), is_one_transaction)?;
        Ok(migrate(at.app, at.folder).args(["down", "1"]))
    }

    fn look(&self, app: &Path, folder: &Path) -> Command {
        migrate(app, folder).arg("version")
    }

    fn mend(&self) -> &'static str {
        "let `migrate` be golang-migrate's own program, built with -tags postgres"
    }

    fn by_hand(&self) -> &'static str {
        "migrate force VERSION"
    }

    fn mark(&self, _: &Files, known: &[Known], rows: &[Row], name: &str, applied: bool) -> Vec<String> {
        let at = rows.first().and_then(|row| row.name.parse::<u64>().ok());
        let one = version(name).or_else(|| name.parse().ok());
        let next =
            known.iter().find(|known| version(&known.name) > at).and_then(|known| version(&known.name));
        // The version stands for all below it: only the one that it names or the next can be told apart.
        if one.is_none() || !(one == at || (applied && one == next)) {
            return Vec::new();
        }
        let before = known.iter().filter_map(|known| version(&known.name)).rfind(|other| Some(*other) < one);
        let mut statements = vec!["delete from schema_migrations".to_owned()];
        statements.extend(if applied { one } else { before }.map(|version| {
            format!("insert into schema_migrations (version, dirty) values ({version}, false)")
        }));
        statements
    }
}
