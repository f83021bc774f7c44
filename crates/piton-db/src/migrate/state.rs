//! How migrations stand in a database, whichever tool applies them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How migrations are applied.
#[derive(Clone, Copy, Debug)]
pub struct MigrateOptions {
    /// How long a statement may wait for a lock, and everybody else behind it.
    pub lock_timeout: Duration,
    /// How often a migration is tried when a lock was not to be had.
    pub attempts: u32,
    /// How long to wait for another migrating session to end.
    pub wait_for_other: Duration,
}

impl Default for MigrateOptions {
    fn default() -> Self {
        Self { lock_timeout: Duration::from_secs(2), attempts: 8, wait_for_other: Duration::from_secs(10) }
    }
}

/// One migration of the folder or of the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// Its name: the file's, or what the tool calls it.
    pub name: String,
    /// How it stands.
    #[serde(flatten)]
    pub state: State,
}

/// How a migration stands in a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// Applied, from the file as it is.
    Applied,
    /// Not applied.
    Pending,
    /// It failed or was interrupted and left nothing but, at most, an invalid index; it can be run again.
    Failed {
        /// What the server said.
        error: String,
    },
    /// It stopped in the middle: some of its statements are committed, or may be.
    HalfApplied {
        /// How many statements are surely done; 0 where the tool does not count.
        done: u32,
        /// Of how many; 0 where the tool does not count.
        of: u32,
        /// Whether it is not known what became of the next statement.
        running: bool,
        /// Whether the file was edited since, or is gone.
        edited: bool,
        /// What the server said.
        error: Option<String>,
    },
    /// Applied, and the file was edited since.
    Changed,
    /// Applied, and the file is gone from the folder.
    Missing,
    /// Nothing tells: the record names one that no file has, which may stand for this one as well.
    Unknown,
}

/// What a database has of one migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The file's name.
    pub name: String,
    /// Whether it has all of it.
    pub finished: bool,
    /// How many statements are surely done, of a file that runs statement by statement.
    pub done: u32,
}

impl State {
    /// Returns the state as it is said of a migration.
    pub fn in_words(&self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Pending => "pending",
            Self::Failed { .. } => "pending: it failed, and nothing of it was kept",
            Self::HalfApplied { .. } => "half applied",
            Self::Changed => "applied, and was edited since",
            Self::Missing => "applied, and its file is gone",
            Self::Unknown => {
                "applied or pending: the record names one that no file has, which may stand for it"
            }
        }
    }
}

/// What was applied at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The migrations' names, in order.
    pub migrations: Vec<String>,
    /// How long their statements took together, in milliseconds.
    pub millis: u64,
    /// Invalid indexes, constraints that are not validated and partitions that are still being detached, in words, as the whole
    /// database has them.
    pub unfinished: Vec<String>,
}

impl Migration {
    /// Tells whether the database has it, from whichever version of the file.
    pub fn is_applied(&self) -> bool {
        matches!(self.state, State::Applied | State::Changed | State::Missing)
    }
}
