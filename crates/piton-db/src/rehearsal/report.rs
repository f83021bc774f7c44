use std::fmt;

use serde::{Deserialize, Serialize};

/// What a rehearsed migration did to whoever used the database meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The migrations, in their order.
    pub steps: Vec<Step>,
    /// How much was sorted or joined on disk, in bytes.
    pub temp_bytes: u64,
    /// Whether every lock of a statement that changes the structure was noted, however short it was held.
    pub complete: bool,
    /// Whether the looks ended before the migrations did: how long locks were held and others waited is not known then.
    #[serde(default)]
    pub unwatched: bool,
    /// What of the report could not be had, and why.
    pub missing: Vec<String>,
}

/// What one migration did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The migration's name.
    pub name: String,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What the whole server wrote ahead meanwhile, in bytes, no less than the migration's own; `None` when nobody looked.
    pub wal_bytes: Option<u64>,
    /// The tables that it locked or rewrote; not those that it made itself.
    pub tables: Vec<Impact>,
}

/// What a migration did to one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impact {
    /// The table, quoted.
    pub table: String,
    /// Its rows in the backup; `None` for a view.
    pub rows: Option<u64>,
    /// Its size with indexes before the migrations, in bytes.
    pub bytes: u64,
    /// The locks on it and on its indexes, the strongest first; reading ones are left out.
    pub locks: Vec<Lock>,
    /// Whether all of its rows were written anew, or removed with their file.
    pub rewritten: bool,
    /// How long the longest read waited, in milliseconds; `None` when none was tried: the locks were too short, or too many.
    pub read_wait_ms: Option<u64>,
    /// How long the longest write waited, as above.
    pub write_wait_ms: Option<u64>,
    /// How long a write waited at most for a row that the migration changed, in milliseconds; `None` when it changed none, or
    /// so shortly that it was not seen. A probe meets no row: it is as long as the lock that the change took.
    #[serde(default)]
    pub row_wait_ms: Option<u64>,
    /// Whether an index of it was built concurrently: that waits for every older snapshot of the database.
    #[serde(default)]
    pub concurrently: bool,
}

/// A lock on a table or on one of its indexes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The index, quoted, when it is not the table itself.
    pub index: Option<String>,
    /// The lock's mode.
    pub mode: Mode,
    /// What waits for its end.
    pub blocks: Blocks,
    /// Whether nobody saw it, and it follows from what has changed.
    pub inferred: bool,
    /// How long it was seen, in milliseconds, to within two samples; `None` when it was gone before it could be, or nobody
    /// looked.
    pub held_ms: Option<u64>,
}

/// A lock's mode, as PostgreSQL's manual calls it; from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// `SELECT`.
    AccessShare,
    /// `SELECT ... FOR UPDATE`.
    RowShare,
    /// `INSERT`, `UPDATE`, `DELETE`.
    RowExclusive,
    /// `VACUUM`, `CREATE INDEX CONCURRENTLY`, `VALIDATE CONSTRAINT`.
    ShareUpdateExclusive,
    /// `CREATE INDEX`.
    Share,
    /// `CREATE TRIGGER`, `ADD FOREIGN KEY`.
    ShareRowExclusive,
    /// `REFRESH MATERIALIZED VIEW CONCURRENTLY`.
    Exclusive,
    /// Most of `ALTER TABLE`, `DROP`, `TRUNCATE`, `VACUUM FULL`.
    AccessExclusive,
}

/// What waits while a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blocks {
    /// Nothing that an app does, but for writes to a row that the migration has written.
    Nothing,
    /// Every write to the table.
    Writes,
    /// Every read as well.
    ReadsAndWrites,
}

impl Mode {
    /// Reads the mode as `pg_locks` names it: `AccessShareLock`.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "AccessShareLock" => Self::AccessShare,
            "RowShareLock" => Self::RowShare,
            "RowExclusiveLock" => Self::RowExclusive,
            "ShareUpdateExclusiveLock" => Self::ShareUpdateExclusive,
            "ShareLock" => Self::Share,
            "ShareRowExclusiveLock" => Self::ShareRowExclusive,
            "ExclusiveLock" => Self::Exclusive,
            "AccessExclusiveLock" => Self::AccessExclusive,
            _ => return None,
        })
    }

    /// Tells whether one session waits for the mode while another holds the other one.
    pub fn conflicts(self, other: Self) -> bool {
        let weakest = match self {
            Self::AccessShare => Self::AccessExclusive,
            Self::RowShare => Self::Exclusive,
            Self::RowExclusive => Self::Share,
            Self::ShareUpdateExclusive => Self::ShareUpdateExclusive,
            // It goes along with itself alone, of those that are stronger than ROW SHARE.
            Self::Share => return other >= Self::RowExclusive && other != Self::Share,
            Self::ShareRowExclusive => Self::RowExclusive,
            Self::Exclusive => Self::RowShare,
            Self::AccessExclusive => Self::AccessShare,
        };
        other >= weakest
    }

    /// Returns what waits while the lock is held on a table.
    pub fn blocks(self) -> Blocks {
        match self {
            Self::AccessExclusive => Blocks::ReadsAndWrites,
            mode if mode >= Self::Share => Blocks::Writes,
            _ => Blocks::Nothing,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AccessShare => "ACCESS SHARE",
            Self::RowShare => "ROW SHARE",
            Self::RowExclusive => "ROW EXCLUSIVE",
            Self::ShareUpdateExclusive => "SHARE UPDATE EXCLUSIVE",
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::Exclusive => "EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        })
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nothing => "nothing",
            Self::Writes => "writes",
            Self::ReadsAndWrites => "reads and writes",
        })
    }
}

impl Impact {
    /// Returns what waited for the table's strongest lock.
    pub fn blocks(&self) -> Blocks {
        self.locks.iter().map(|lock| lock.blocks).max().unwrap_or(Blocks::Nothing)
    }

    /// Returns the longest wait that a lock or a probe shows, of writes alone or of reads as well; `None` when nothing waits.
    fn longest(&self, kind: Blocks) -> Option<u64> {
        let blocking = self.locks.iter().filter(|lock| lock.blocks >= kind);
        let held = blocking.map(|lock| lock.held_ms.unwrap_or(0)).max();
        let probed = if kind == Blocks::Writes { self.write_wait_ms } else { self.read_wait_ms };
        // Below a sample it is the probe's own time.
        held.max(probed.filter(|ms| *ms >= super::SAMPLE_MS))
    }
}

impl Report {
    /// Returns how long all migrations took together, in milliseconds.
    pub fn ms(&self) -> u64 {
        self.steps.iter().map(|step| step.ms).sum()
    }

    /// Returns how long a read waited at most, in milliseconds; `None` when nothing made reads wait.
    pub fn reads_waited(&self) -> Option<u64> {
        self.waited(Blocks::ReadsAndWrites)
    }

    /// Returns how long a write waited at most, in milliseconds; `None` when nothing made writes wait.
    pub fn writes_waited(&self) -> Option<u64> {
        self.waited(Blocks::Writes)
    }

    /// Returns the longest wait for a row that a migration changed, in milliseconds, and the row's table, where it is longer than
    /// that of any other write.
    pub fn rows_waited(&self) -> Option<(u64, &str)> {
        let impacts = self.steps.iter().flat_map(|step| &step.tables);
        let longest = impacts.filter_map(|impact| Some((impact.row_wait_ms?, impact.table.as_str()))).max();
        longest.filter(|(ms, _)| self.writes_waited().is_none_or(|writes| *ms > writes))
    }

    fn waited(&self, kind: Blocks) -> Option<u64> {
        let impacts = self.steps.iter().flat_map(|step| &step.tables);
        let longest = impacts.filter_map(|impact| impact.longest(kind)).max();
        // What is shorter than a sample could not be measured, and without the event triggers not even be seen.
        let seen = if self.complete || self.steps.is_empty() { longest } else { longest.or(Some(0)) };
        seen.map(|ms| ms.max(super::SAMPLE_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [Mode; 8] = [
        Mode::AccessShare,
        Mode::RowShare,
        Mode::RowExclusive,
        Mode::ShareUpdateExclusive,
        Mode::Share,
        Mode::ShareRowExclusive,
        Mode::Exclusive,
        Mode::AccessExclusive,
    ];

    /// The table of the manual: a row each for the mode that is asked for, a column for the one that is held.
    #[test]
    fn modes_conflict_as_the_manual_has_it() {
        let table = MODES.map(|asked| MODES.map(|held| if asked.conflicts(held) { 'x' } else { '-' }));
        let rows = table.map(|row| row.iter().collect::<String>());
        let manual =
            ["-------x", "------xx", "----xxxx", "---xxxxx", "--xx-xxx", "--xxxxxx", "-xxxxxxx", "xxxxxxxx"];
        assert_eq!(rows, manual);
    }

    #[test]
    fn what_a_mode_blocks_is_what_conflicts_with_a_read_or_a_write() {
        for mode in MODES {
            let expected = match (mode.conflicts(Mode::AccessShare), mode.conflicts(Mode::RowExclusive)) {
                (true, _) => Blocks::ReadsAndWrites,
                (false, true) => Blocks::Writes,
                (false, false) => Blocks::Nothing,
            };
            assert_eq!(mode.blocks(), expected, "{mode}");
        }
    }
}
