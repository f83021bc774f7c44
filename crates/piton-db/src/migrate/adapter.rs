//! What a migration tool of its own has to tell: its files, its table, its commands. Nothing in here does anything.

use std::path::Path;

use piton_exec::Command;

use super::tool::Files;
use super::{Migration, MigrationError, State, script};

/// A migration as the folder has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// What the tool calls it.
    pub(super) name: String,
    /// The checksums that the tool may have noted of it; empty where it notes none.
    pub(super) checksums: Vec<String>,
    /// Whether it runs in one transaction: of what the server has refused of it, nothing was kept.
    pub(super) one_transaction: bool,
    /// Whether the same structure, and the same tables with it, before and after a failure tell that nothing of it was kept.
    pub(super) atomic: bool,
    /// Whether the structure tells that alone, another database's as well.
    pub(super) shows: bool,
    /// Whether a failure that the tool has noted left nothing for sure.
    pub(super) whole: bool,
    /// Whether it waits for others in nobody's way: a lock timeout would only leave an invalid index.
    pub(super) waits_harmlessly: bool,
    /// The migrations that it needs, where the tool has a graph of them.
    pub(super) needs: Vec<String>,
    /// The migrations that were squashed into it.
    pub(super) replaces: Vec<String>,
}

/// A row of the tool's own table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    /// Whether it stands for all of the migration; else it began, and nothing tells how it ended.
    pub(super) finished: bool,
    pub(super) checksum: Option<String>,
    /// What the server said.
    pub(super) said: Option<String>,
}

/// What a tool says that has no down migrations, or none that Piton calls.
pub(super) const NO_WAY_BACK: &str = "its tool has no command that takes one migration back";

/// What is said of a migration without one.
pub(super) const NO_DOWN: &str = "it has no down migration";

/// What is said of a down migration of which a failure could leave a part.
pub(super) const IN_PARTS: &str = "its down migration does not surely run in one transaction";

/// A migration that is to be taken back.
pub(super) struct At<'a> {
    pub(super) app: &'a Path,
    pub(super) folder: &'a Path,
    pub(super) files: &'a Files,
    pub(super) known: &'a [Known],
    pub(super) rows: &'a [Row],
    pub(super) one: &'a Known,
}

impl At<'_> {
    /// Reads a down script and wants it to be one transaction.
    pub(super) fn script(&self, file: &str, is_whole: fn(&str) -> bool) -> Result<(), &'static str> {
        let text = fs_err::read_to_string(self.folder.join(file)).map_err(|_| NO_DOWN)?;
        if script::split(&text).is_ok_and(|statements| script::stays_within(&statements).is_err()) {
            return Err("its down migration changes what all databases of the server share");
        }
        if is_whole(&text) { Ok(()) } else { Err(IN_PARTS) }
    }
}

/// One tool.
pub(super) trait Adapter: Send + Sync {
    /// Returns the schema, or the table in whichever schema, that is the tool's own record.
    fn record(&self) -> (Option<&'static str>, Option<&'static str>);

    /// Returns the table to look for, and the query that reads it as [`Row`]: name, finished, checksum, said. `None` without a table.
    fn rows(&self, files: &Files) -> Option<(&'static str, String)>;

    /// Tells whether a file says something about the migrations.
    fn reads(&self, path: &str) -> bool;

    /// Lists the folder's migrations in the order in which they are applied.
    fn known(&self, files: &Files) -> Result<Vec<Known>, MigrationError>;

    /// Joins files and record.
    fn join(&self, known: &[Known], rows: &[Row]) -> Vec<Migration> {
        by_name(known, rows)
    }

    /// Tells whether a migration is in the way of the next run.
    fn minds(&self, one: &Migration, _known: &[Known], _rows: &[Row]) -> bool {
        !matches!(one.state, State::Applied | State::Pending)
    }

    /// Tells whether one run applies everything that is pending.
    fn applies_all(&self) -> bool {
        false
    }

    /// Tells whether the tool's record has a migration that began and did not end.
    fn notes_failures(&self) -> bool {
        true
    }

    /// Tells whether a failure was the script's own, and not one of what the tool notes after it; `noted` says whether the record
    /// has anything new.
    fn is_of_script(&self, _name: &str, _said: &str, _noted: bool) -> bool {
        false
    }

    /// Tells whether a person may say of one that is [`State::Unknown`] how it stands: its row stands for it alone.
    fn leaves_unknown(&self) -> bool {
        false
    }

    /// Tells whether the tool's driver may know nothing of libpq's variables, and has to find everything in the URL.
    fn reads_url_alone(&self) -> bool {
        false
    }

    /// Returns a command that lists all migrations in their order, those of packages as well, and changes nothing.
    fn listing(&self, _app: &Path, _folder: &Path) -> Option<Command> {
        None
    }

    /// Reads a line of that list.
    fn listed(&self, _line: &str) -> Option<String> {
        None
    }

    /// Calls the folder's migrations as that list does.
    fn relabelled(&self, known: Vec<Known>, _listed: &[String]) -> Vec<Known> {
        known
    }

    /// Builds the command that applies a migration, and as few others as the tool can.
    fn apply(&self, app: &Path, folder: &Path, name: &str) -> Command;

    /// Builds the command that takes back the migration that was applied last, or says why there is none.
    fn revert(&self, _at: &At<'_>) -> Result<Command, &'static str> {
        Err(NO_WAY_BACK)
    }

    /// Builds a command that asks the database how it stands, and changes nothing.
    fn look(&self, app: &Path, folder: &Path) -> Command;

    /// Says what makes the tool use the database that `DATABASE_URL` names.
    fn mend(&self) -> &'static str;

    /// Names the tool's own command that records a migration as applied.
    fn by_hand(&self) -> &'static str;

    /// Returns the statements that record a migration as applied or as not applied; none where the tool cannot.
    fn mark(&self, files: &Files, known: &[Known], rows: &[Row], name: &str, applied: bool) -> Vec<String>;
}

/// Finds the app's own program where its packages are, or else leaves it to `PATH`.
pub(super) fn program(app: &Path, name: &str) -> Command {
    let own = ["node_modules/.bin", ".venv/bin", "venv/bin"].map(|folder| app.join(folder).join(name));
    let own = own.into_iter().find(|program| program.is_file());
    Command::new(own.map_or_else(|| name.to_owned(), |program| program.display().to_string()))
}

/// Joins by name: each row stands for its own migration alone.
pub(super) fn by_name(known: &[Known], rows: &[Row]) -> Vec<Migration> {
    let mut all: Vec<Migration> = known
        .iter()
        .map(|one| {
            let of_it = || rows.iter().filter(|row| row.name == one.name);
            let row = of_it().find(|row| row.finished).or_else(|| of_it().next_back());
            Migration { name: one.name.clone(), state: state(Some(one), row) }
        })
        .collect();
    for row in rows {
        if all.iter().all(|migration| migration.name != row.name) {
            all.push(Migration { name: row.name.clone(), state: state(None, Some(row)) });
        }
    }
    all
}

pub(super) fn state(known: Option<&Known>, row: Option<&Row>) -> State {
    let Some(row) = row else { return State::Pending };
    if !row.finished {
        if let Some(error) = row.said.clone().filter(|_| known.is_some_and(|known| known.whole)) {
            return State::Failed { error };
        }
        return State::HalfApplied { done: 0, of: 0, running: true, edited: false, error: row.said.clone() };
    }
    match (known, &row.checksum) {
        (None, _) => State::Missing,
        (Some(known), Some(sum)) if !known.checksums.is_empty() && !known.checksums.contains(sum) => {
            State::Changed
        }
        _ => State::Applied,
    }
}

/// Tells whether a newer release has brought a migration that the folder has not: none of the folder's was recorded after it.
///
/// What was squashed stays in the record, before the one that replaces it.
pub(super) fn is_newer<'a>(name: &str, known: &[Known], rows: impl Iterator<Item = &'a Row>) -> bool {
    let replaced = known.iter().any(|known| known.replaces.iter().any(|replaced| replaced == name));
    let mut after = rows.skip_while(|row| row.name != name);
    !replaced && after.all(|row| known.iter().all(|known| known.name != row.name))
}

/// Tells whether a migration in Python has a word by which it may leave the transaction that it runs in.
pub(super) fn leaves_transaction(text: &str) -> bool {
    words(text).any(|word| word == "commit") || sets_isolation(text)
}

/// Tells whether a file in Python has a word by which what follows may run outside of a transaction.
pub(super) fn sets_isolation(text: &str) -> bool {
    let signs = ["isolation_level", "transactional_ddl", "set_autocommit"];
    words(text).any(|word| signs.contains(&word.as_str()) || word.starts_with("autocommit"))
}

fn words(text: &str) -> impl Iterator<Item = String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    words.map(str::to_ascii_lowercase)
}

/// Tells whether a script's statements all change structure, so that what was carried out of it shows.
pub(super) fn is_structure_alone(script: &str) -> bool {
    script::split(script).is_ok_and(|statements| changes_structure_alone(&statements))
}

fn changes_structure_alone(statements: &[script::Statement]) -> bool {
    statements.iter().all(|statement| statement.is_structure() || statement.sets_session())
}

/// Tells whether a script that runs in one transaction, and is recorded in another, shows when it was carried out.
pub(super) fn shows_as_a_whole(script: &str) -> bool {
    let Ok((statements, script::Mode::OneTransaction)) = script::read(script) else { return false };
    changes_structure_alone(&statements) || script::shows(&statements)
}

/// Tells whether a script may change values, and leave the structure as it was.
pub(super) fn hides(script: &str) -> bool {
    script::split(script).map_or(true, |statements| script::hides(&statements))
}

/// Tells whether a script runs in one transaction when it is sent to the server as a whole.
pub(super) fn is_one_transaction(script: &str) -> bool {
    let Ok((statements, script::Mode::OneTransaction)) = script::read(script) else { return false };
    // What is sent alone may commit before its end; among others it may not.
    is_wrapped(script) || statements.len() > 1 || !statements.iter().any(script::Statement::commits_within)
}

/// Tells whether a script is one transaction by its own `BEGIN` and `COMMIT`.
pub(super) fn is_wrapped(script: &str) -> bool {
    matches!(script::read(script), Ok((_, script::Mode::OneTransaction)))
        && script::split(script)
            .is_ok_and(|statements| statements.first().is_some_and(script::Statement::begins_transaction))
}

/// Tells whether all that a script does waits for others in nobody's way.
pub(super) fn waits_harmlessly(script: &str) -> bool {
    let Ok(statements) = script::split(script) else { return false };
    statements.iter().any(script::Statement::waits_harmlessly)
        && statements.iter().all(|statement| statement.waits_harmlessly() || statement.sets_session())
}

/// Counts a script's statements.
pub(super) fn statements(script: &str) -> Option<usize> {
    script::split(script).ok().map(|statements| statements.len())
}
