//! Migrations, by the tool that an app uses.

mod adapter;
mod alembic;
mod alter;
mod back;
mod commands;
mod django;
mod foreign;
mod golang;
mod index;
mod prisma;
mod probe;
mod python;
mod run;
mod script;
mod sqitch;
pub mod sql;
mod state;
mod stood;
mod tool;

use std::time::Duration;

pub use foreign::{Around, seed};
pub(crate) use script::runs_one_by_one;
pub use state::{Applied, MigrateOptions, Migration, Recorded, State};
pub use tool::{Migrations, RecordTables, Tool};

use crate::Trouble;
use crate::blockers::Blocker;

/// Why a migration was not run, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// Another session migrates the same database.
    #[error("another session migrates this database: {by}; wait for it, or end it")]
    Busy {
        /// The session, in words.
        by: String,
    },
    /// A file that was applied has been edited since.
    #[error(
        "{name} was edited after it had been applied; put it back as it was, and write a new migration for the new change"
    )]
    Changed {
        /// The file.
        name: String,
    },
    /// A file that was applied has another name since.
    #[error("{name} is {from}, which was applied, under another name, and would be applied again")]
    Renamed {
        /// The file.
        name: String,
        /// What it was called.
        from: String,
    },
    /// A file cannot be taken apart or holds what only psql understands.
    #[error("{name}, line {line}: {why}")]
    Script {
        /// The file.
        name: String,
        /// The line.
        line: u32,
        /// What is wrong.
        why: String,
    },
    /// A statement failed.
    #[error("{}: {said}; {left}", place(name, *line))]
    Failed {
        /// The file.
        name: String,
        /// The line of the statement; 0 where the tool does not tell.
        line: u32,
        /// What the server said.
        said: String,
        /// What of the file stands in the database, in words.
        left: String,
        /// Whether some of it may stand there and the tool's record does not tell.
        unnoted: bool,
        /// Whether nothing of it stands there for sure.
        clean: bool,
        /// Set when the surroundings failed, and not the statement.
        trouble: Option<Trouble>,
    },
    /// A table stayed locked through every attempt.
    #[error("{}: a lock was not to be had in {attempts} attempts of {}; held by {holders}; nothing of it was kept", place(name, *line), seconds(*each))]
    Locked {
        /// The file.
        name: String,
        /// The line of the statement; 0 where the tool does not tell.
        line: u32,
        /// How often it was tried.
        attempts: u32,
        /// How long each attempt waited.
        each: Duration,
        /// Who holds locks, in words.
        holders: String,
    },
    /// A file whose statements cannot share a transaction stopped in the middle, and cannot be carried on.
    #[error(
        "{name} is half applied: {done} of its {of} statements are done, and {why}; look at the database, finish or undo the rest by hand, then record it as applied or as not applied"
    )]
    HalfApplied {
        /// The file.
        name: String,
        /// How many statements are surely done.
        done: u32,
        /// Of how many.
        of: u32,
        /// Why it cannot be carried on.
        why: Obstacle,
    },
    /// What a tool of its own applies stopped, and nothing tells how much of it the database has.
    #[error(
        "{name} may be half applied: {why}; look at the database, finish or undo the rest by hand, then record it as applied or as not applied"
    )]
    Unclear {
        /// The migration.
        name: String,
        /// Why it is not known.
        why: String,
    },
    /// The database has a migration that the folder has not, and the tool does not go on with that.
    #[error(
        "the database has the migration {name}, and this commit does not; release a commit that has it, or take it out by hand and record it as not applied"
    )]
    NotInFolder {
        /// The migration.
        name: String,
    },
    /// The tool was not seen to use the database that it is given.
    #[error("`{command}` {how}; {mend}{said}")]
    Deaf {
        /// The command.
        command: String,
        /// What it did instead.
        how: String,
        /// What makes the tool obey.
        mend: String,
        /// The tool's last words, or nothing.
        said: String,
    },
    /// The tool ended well, and its record is as before.
    #[error(
        "`{command}` ended well, and {table} does not have {name}; Piton reads that table alone, in the schema that the URL names"
    )]
    NotRecorded {
        /// The migration.
        name: String,
        /// The command.
        command: String,
        /// The tool's own table.
        table: &'static str,
    },
    /// A migration has no way back that could be tried.
    #[error("{name} cannot be taken back: {why}")]
    NoWayBack {
        /// The migration.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// Only the tool itself can record it.
    #[error("{name} is recorded by the tool itself alone: {command}")]
    ByTheTool {
        /// The migration.
        name: String,
        /// The tool's command.
        command: &'static str,
    },
    /// A file of the tool's cannot be understood.
    #[error("{file}: {why}")]
    Unreadable {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// Only what stopped in the middle is recorded by a person.
    #[error("{name} is not half applied: it is {stands}")]
    NotHalfApplied {
        /// The file.
        name: String,
        /// How it stands, in words.
        stands: &'static str,
    },
    /// Others hold what the next migration waits for; it was not begun.
    #[error("others hold what the migration has to lock: {}", .0.iter().map(|blocker| blocker.who.as_str()).collect::<Vec<_>>().join("; "))]
    InTheWay(Vec<Blocker>),
    /// A migration of this name is neither in the folder nor in the record.
    #[error("there is no migration {name}")]
    Unknown {
        /// The name.
        name: String,
    },
}

impl MigrationError {
    /// Tells whether a migration cannot be taken back because nobody has written a down migration for it.
    pub fn is_without_down(&self) -> bool {
        let absent = [adapter::NO_WAY_BACK, adapter::NO_DOWN];
        matches!(self, Self::NoWayBack { why, .. } if absent.contains(why))
    }

    /// Tells whether the migration was begun, ended, and has surely left nothing.
    pub fn left_nothing(&self) -> bool {
        matches!(self, Self::Failed { clean: true, .. } | Self::Locked { .. })
    }
}

/// Why a half-applied file cannot be carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The session was lost while the next statement ran, or it failed after a part of it; nothing tells what it has left.
    Uncertain,
    /// The file was edited since, or is gone.
    Edited,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Uncertain => "the next one may be, or a part of it: the session was lost, or it failed after it had committed some of its work",
            Self::Edited => "the file was edited since, or is gone",
        })
    }
}

fn place(name: &str, line: u32) -> String {
    match line {
        0 => name.to_owned(),
        line => format!("{name}, line {line}"),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
