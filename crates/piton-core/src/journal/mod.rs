//! The journal: append-only events in SQLite, the only truth about a release.
//!
//! Each append is one transaction that checks the lease's fencing token, extends the hash chain and is on disk
//! (`synchronous=FULL`) before it returns. Nothing in the file is ever updated but leases and requests.

mod event;
mod lease;
mod request;
mod state;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

pub(crate) use event::boot_id;
pub use event::{Back, Event, Operator, Outcome, Request};
pub use lease::{Heartbeat, Lease, LeaseInfo};
pub use request::Pending;
pub use state::{GoOn, Illegal, Progress, State, StepState, Turned};

/// The newest layout of the file that this version reads and writes.
const FORMAT: i64 = 1;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    db: Connection,
    path: PathBuf,
}

/// An event as it stands in the journal.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the whole journal, from 1.
    pub seq: i64,
    /// The release that it belongs to.
    pub release: String,
    /// When it was appended.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// Why the journal could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file belongs to a newer Piton.
    #[error("the journal {} has format {found}; this Piton knows {FORMAT}: use the newer Piton that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// SQLite failed.
    #[error("the journal {} cannot be used", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's reason.
        #[source]
        source: rusqlite::Error,
    },
    /// The folder could not be made.
    #[error("the journal's folder cannot be made")]
    Folder(#[source] std::io::Error),
    /// An event cannot be read back.
    #[error("event {seq} of the journal is damaged: {why}")]
    Damaged {
        /// The event's place.
        seq: i64,
        /// What is wrong with it.
        why: String,
    },
    /// An event may not follow.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// Another process holds the environment.
    #[error("{environment} is held by {}, since {}", holder.operator, holder.since)]
    Held {
        /// The environment.
        environment: String,
        /// Who holds it.
        holder: Box<LeaseInfo>,
    },
    /// The lease was lost to another process: this one must stop.
    #[error("the lease on {environment} was taken over by another process")]
    LeaseLost {
        /// The environment.
        environment: String,
    },
    /// A name is not that of a release.
    #[error("there is no release {0}")]
    NoRelease(String),
}

impl Journal {
    /// Opens the journal, and makes it when there is none.
    ///
    /// # Errors
    /// When the file cannot be made or read, or belongs to a newer Piton.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder).map_err(JournalError::Folder)?;
        }
        let wrap = |source| JournalError::Sqlite { path: path.to_owned(), source };
        let db = Connection::open(path).map_err(wrap)?;
        db.busy_timeout(Duration::from_secs(10)).map_err(wrap)?;
        db.pragma_update(None, "journal_mode", "wal").map_err(wrap)?;
        db.pragma_update(None, "synchronous", "full").map_err(wrap)?;
        let mut journal = Self { db, path: path.to_owned() };
        journal.prepare()?;
        Ok(journal)
    }

    fn prepare(&mut self) -> Result<(), JournalError> {
        // Who only reads does not wait for who writes.
        if self.format()? == FORMAT {
            return Ok(());
        }
        let tx = begin(&mut self.db, &self.path)?;
        let found: i64 =
            tx.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(wrap(&self.path))?;
        if found > FORMAT {
            return Err(JournalError::Newer { path: self.path.clone(), found });
        }
        if found == 0 {
            tx.execute_batch(LAYOUT).map_err(wrap(&self.path))?;
            tx.pragma_update(None, "user_version", FORMAT).map_err(wrap(&self.path))?;
        }
        tx.commit().map_err(wrap(&self.path))
    }

    fn format(&self) -> Result<i64, JournalError> {
        self.db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(wrap(&self.path))
    }

    /// Opens the same journal once more, for another thread.
    ///
    /// # Errors
    /// As [`Journal::open`].
    fn reopen(&self) -> Result<Self, JournalError> {
        Self::open(&self.path)
    }

    /// Appends an event to a release under a lease.
    ///
    /// The event is on disk when this returns.
    ///
    /// # Errors
    /// [`JournalError::LeaseLost`] when the lease is no longer ours; nothing is appended then.
    pub fn append(&mut self, lease: &Lease, release: &str, event: &Event) -> Result<Timestamp, JournalError> {
        let at = now();
        let body = serde_json::to_string(event)
            .map_err(|error| JournalError::Damaged { seq: 0, why: error.to_string() })?;
        let tx = begin(&mut self.db, &self.path)?;
        lease::check(&tx, lease)
            .map_err(wrap(&self.path))?
            .ok_or_else(|| JournalError::LeaseLost { environment: lease.environment.clone() })?;
        let last: Option<(i64, Vec<u8>)> = tx
            .prepare_cached("SELECT seq, hash FROM events ORDER BY seq DESC LIMIT 1")
            .and_then(|mut query| query.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional())
            .map_err(wrap(&self.path))?;
        let (seq, previous) = last.map_or((1, Vec::new()), |(seq, hash)| (seq + 1, hash));
        crash_point(seq, event, "before");
        let stamp = at.to_string();
        let kind = event.kind();
        let hash = chain(&previous, seq, lease.token, [release, &stamp, kind, &body]);
        tx.prepare_cached(
            "INSERT INTO events (seq, release, at, token, kind, body, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )
        .and_then(|mut insert| {
            insert.execute(params![seq, release, stamp, lease.token, kind, body, hash.as_bytes()])
        })
        .map_err(wrap(&self.path))?;
        tx.commit().map_err(wrap(&self.path))?;
        crash_point(seq, event, "after");
        Ok(at)
    }

    /// Reads a release's events that come after `seq`.
    ///
    /// # Errors
    /// When the file cannot be read or an event in it is damaged.
    pub fn entries(&self, release: &str, after: i64) -> Result<Vec<Entry>, JournalError> {
        self.select(
            "SELECT seq, release, at, body FROM events WHERE release = ?1 AND seq > ?2 ORDER BY seq",
            params![release, after],
        )
    }

    /// Folds a release into where it stands.
    ///
    /// # Errors
    /// [`JournalError::NoRelease`], or when the journal is damaged.
    pub fn state(&self, release: &str) -> Result<State, JournalError> {
        let entries = self.entries(release, 0)?;
        if entries.is_empty() {
            return Err(JournalError::NoRelease(release.to_owned()));
        }
        Ok(State::fold(entries.into_iter().map(|entry| (entry.at, entry.event)))?)
    }

    /// Lists the releases of an environment (or of all), oldest first, with where each stands.
    ///
    /// # Errors
    /// When the journal is damaged.
    pub fn releases(&self, environment: Option<&str>) -> Result<Vec<State>, JournalError> {
        let mut states = Vec::new();
        for id in self.release_ids()? {
            // What is noted and run does not decide where a release stands, and a long watch notes a lot.
            let entries = self.select(
                "SELECT seq, release, at, body FROM events
                 WHERE release = ?1 AND kind NOT IN ('noted', 'ran') ORDER BY seq",
                [&id],
            )?;
            let state = State::fold(entries.into_iter().map(|entry| (entry.at, entry.event)))?;
            if environment.is_none_or(|wanted| wanted == state.plan.environment) {
                states.push(state);
            }
        }
        Ok(states)
    }

    /// Finds the one release whose identifier ends with `part`, as people see it, or begins with it.
    ///
    /// # Errors
    /// [`JournalError::NoRelease`] when there is none or more than one.
    pub fn find(&self, part: &str) -> Result<String, JournalError> {
        let wanted = part.to_ascii_uppercase();
        let fits = |id: &String| id.ends_with(&wanted) || id.starts_with(&wanted);
        let mut found = self.release_ids()?.into_iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            _ => Err(JournalError::NoRelease(part.to_owned())),
        }
    }

    fn release_ids(&self) -> Result<Vec<String>, JournalError> {
        let wrap = wrap(&self.path);
        let mut statement = self
            .db
            .prepare_cached("SELECT release FROM events WHERE kind = 'created' ORDER BY seq")
            .map_err(&wrap)?;
        statement.query_map([], |row| row.get(0)).and_then(Iterator::collect).map_err(&wrap)
    }

    fn select(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Entry>, JournalError> {
        let wrap = wrap(&self.path);
        let mut statement = self.db.prepare_cached(sql).map_err(&wrap)?;
        let rows = statement
            .query_map(values, |row| {
                Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
            })
            .map_err(&wrap)?;
        let mut entries = Vec::new();
        for row in rows {
            let (seq, release, at, body) = row.map_err(&wrap)?;
            let damaged = |why: String| JournalError::Damaged { seq, why };
            let at = at.parse().map_err(|error: jiff::Error| damaged(error.to_string()))?;
            let event = serde_json::from_str(&body).map_err(|error| damaged(error.to_string()))?;
            entries.push(Entry { seq, release, at, event });
        }
        Ok(entries)
    }

    /// Walks the hash chain and returns how many events it holds.
    ///
    /// Events cut off at the end leave a whole chain behind them; only somebody who knows the count notices.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] with the first event that was altered, removed or inserted.
    pub fn verify(&self) -> Result<i64, JournalError> {
        let wrap = wrap(&self.path);
        let mut statement = self
            .db
            .prepare("SELECT seq, token, hash, release, at, kind, body FROM events ORDER BY seq")
            .map_err(&wrap)?;
        let mut rows = statement.query([]).map_err(&wrap)?;
        let (mut count, mut previous) = (0, Vec::new());
        while let Some(row) = rows.next().map_err(&wrap)? {
            let read = || -> rusqlite::Result<(i64, i64, Vec<u8>, [String; 4])> {
                let texts = [row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, texts))
            };
            let (seq, token, hash, texts) = read().map_err(&wrap)?;
            count += 1;
            let expected = chain(&previous, seq, token, texts.each_ref().map(String::as_str));
            if seq != count || expected.as_bytes() != hash.as_slice() {
                return Err(JournalError::Damaged {
                    seq: count,
                    why: "its hash does not follow from the events before it".into(),
                });
            }
            previous = hash;
        }
        Ok(count)
    }
}

/// Begins to write at once, so that two writers wait for each other instead of failing half-way.
fn begin<'db>(db: &'db mut Connection, path: &Path) -> Result<rusqlite::Transaction<'db>, JournalError> {
    db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrap(path))
}

fn wrap(path: &Path) -> impl Fn(rusqlite::Error) -> JournalError + use<> {
    let path = path.to_owned();
    move |source| JournalError::Sqlite { path: path.clone(), source }
}

/// Returns the present, cut to microseconds so that what is stored reads back equal.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// Hashes an event's columns (`texts` are its release, time, kind and body) onto the event before it.
fn chain(previous: &[u8], seq: i64, token: i64, texts: [&str; 4]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous).update(&seq.to_le_bytes()).update(&token.to_le_bytes());
    for text in texts {
        // The length in front keeps two texts from being read as two others.
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize()
}

/// Dies by SIGKILL when the tests ask for it at this point: `PITON_CRASH_AT=SEQ:before|after`, or `EVENT STEP:before|after`.
#[cfg(feature = "crash-points")]
fn crash_point(seq: i64, event: &Event, side: &str) {
    let points = [format!("{seq}:{side}"), format!("{} {}:{side}", event.kind(), event.step().unwrap_or(""))];
    if std::env::var("PITON_CRASH_AT").is_ok_and(|at| points.contains(&at)) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(not(feature = "crash-points"))]
fn crash_point(_seq: i64, _event: &Event, _side: &str) {}

const LAYOUT: &str = "
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    release TEXT NOT NULL,
    at TEXT NOT NULL,
    token INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX events_of_release ON events (release, seq);
CREATE INDEX events_created ON events (seq) WHERE kind = 'created';
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_remain BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TABLE leases (
    environment TEXT PRIMARY KEY,
    token INTEGER NOT NULL,
    operator TEXT NOT NULL,
    since TEXT NOT NULL,
    beat TEXT NOT NULL,
    held INTEGER NOT NULL
) STRICT;
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    release TEXT NOT NULL,
    at TEXT NOT NULL,
    operator TEXT NOT NULL,
    body TEXT NOT NULL,
    taken INTEGER NOT NULL DEFAULT 0
) STRICT;
";
