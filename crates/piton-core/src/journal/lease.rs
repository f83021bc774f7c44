use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Journal, JournalError, Operator, begin, now, wrap};

/// How often a holder says that it lives.
const BEAT: Duration = Duration::from_secs(5);
/// How long a holder may be silent before another may take over.
const EXPIRY: Duration = Duration::from_secs(30);
/// How long a silent holder that may live is listened for before its lease is taken: a clock that jumped, and a machine that
/// was suspended, look like silence.
const LISTEN: Duration = Duration::from_secs(6);

/// The right to append to the releases of one environment.
///
/// The token grows by one at every take-over; an append with an older token is refused, so that a holder that slept
/// through its expiry can do no harm to the journal when it wakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The environment.
    pub environment: String,
    /// The fencing token.
    pub token: i64,
}

/// Who holds an environment.
#[derive(Clone, Debug)]
pub struct LeaseInfo {
    /// The person and the process.
    pub operator: Operator,
    /// Since when.
    pub since: Timestamp,
    /// When it last said that it lives.
    pub beat: Timestamp,
}

impl LeaseInfo {
    /// Tells whether another may take over: the process is gone from this machine, or silent for 30 s.
    pub fn is_over(&self) -> bool {
        let silent = now().as_millisecond() - self.beat.as_millisecond();
        self.operator.is_gone() || silent > i64::try_from(EXPIRY.as_millis()).unwrap_or(i64::MAX)
    }

    /// Tells whether silence alone speaks against it.
    fn may_live(&self) -> bool {
        self.is_over() && !self.operator.is_gone()
    }
}

impl Journal {
    /// Takes the lease on an environment; waits 6 s for a sign of life of a holder that is silent.
    ///
    /// # Errors
    /// [`JournalError::Held`] with the holder's name while somebody else holds it.
    pub fn acquire(&mut self, environment: &str, operator: &Operator) -> Result<Lease, JournalError> {
        let before = read(&self.db, environment).map_err(wrap(&self.path))?;
        if before.is_some_and(|(_, held, holder)| held && holder.may_live() && holder.operator != *operator) {
            std::thread::sleep(LISTEN);
        }
        let tx = begin(&mut self.db, &self.path)?;
        let current = read(&tx, environment).map_err(wrap(&self.path))?;
        if let Some((_, true, holder)) = &current
            && !holder.is_over()
            && holder.operator != *operator
        {
            return Err(JournalError::Held {
                environment: environment.to_owned(),
                holder: Box::new(holder.clone()),
            });
        }
        let token = current.map_or(1, |(token, _, _)| token + 1);
        hold(&tx, environment, token, operator).map_err(wrap(&self.path))?;
        tx.commit().map_err(wrap(&self.path))?;
        Ok(Lease { environment: environment.to_owned(), token })
    }

    /// Takes the lease over from a living process that hands it on by telling its token: at no time is it free.
    ///
    /// # Errors
    /// [`JournalError::Held`] when somebody else has taken it meanwhile.
    pub fn take_over(
        &mut self,
        environment: &str,
        token: i64,
        operator: &Operator,
    ) -> Result<Lease, JournalError> {
        let tx = begin(&mut self.db, &self.path)?;
        match read(&tx, environment).map_err(wrap(&self.path))? {
            Some((current, true, _)) if current == token => {}
            // Whoever handed it on has died since, and others may have come and gone.
            _ => {
                drop(tx);
                return self.acquire(environment, operator);
            }
        }
        hold(&tx, environment, token + 1, operator).map_err(wrap(&self.path))?;
        tx.commit().map_err(wrap(&self.path))?;
        Ok(Lease { environment: environment.to_owned(), token: token + 1 })
    }

    /// Tells whether the lease is still this one.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn is_ours(&self, lease: &Lease) -> Result<bool, JournalError> {
        Ok(check(&self.db, lease).map_err(wrap(&self.path))?.is_some())
    }

    /// Gives the lease back; does nothing when it was lost.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn give_back(&mut self, lease: &Lease) -> Result<(), JournalError> {
        self.db
            .execute(
                "UPDATE leases SET held = 0 WHERE environment = ?1 AND token = ?2",
                params![lease.environment, lease.token],
            )
            .map(|_| ())
            .map_err(wrap(&self.path))
    }

    /// Returns who holds an environment now.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn holder(&self, environment: &str) -> Result<Option<LeaseInfo>, JournalError> {
        let current = read(&self.db, environment).map_err(wrap(&self.path))?;
        Ok(current.and_then(|(_, held, holder)| (held && !holder.is_over()).then_some(holder)))
    }

    /// Keeps the lease alive from a thread of its own until the heartbeat is dropped.
    ///
    /// # Errors
    /// When the journal cannot be opened once more.
    pub fn keep_alive(&self, lease: &Lease) -> Result<Heartbeat, JournalError> {
        Heartbeat::start(self.reopen()?, lease.clone(), BEAT)
    }
}

fn hold(db: &Connection, environment: &str, token: i64, operator: &Operator) -> rusqlite::Result<usize> {
    let stamp = now().to_string();
    let operator = serde_json::to_string(operator).unwrap_or_default();
    db.execute(
        "INSERT INTO leases (environment, token, operator, since, beat, held) VALUES (?1, ?2, ?3, ?4, ?4, 1)
         ON CONFLICT (environment) DO UPDATE SET token = ?2, operator = ?3, since = ?4, beat = ?4, held = 1",
        params![environment, token, operator, stamp],
    )
}

fn read(db: &Connection, environment: &str) -> rusqlite::Result<Option<(i64, bool, LeaseInfo)>> {
    db.query_row(
        "SELECT token, held, operator, since, beat FROM leases WHERE environment = ?1",
        [environment],
        |row| {
            let text = |index: usize| row.get::<_, String>(index);
            let conversion = |index: usize, error: Box<dyn std::error::Error + Send + Sync>| {
                rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, error)
            };
            let info = LeaseInfo {
                operator: serde_json::from_str(&text(2)?).map_err(|e| conversion(2, e.into()))?,
                since: text(3)?.parse().map_err(|e: jiff::Error| conversion(3, e.into()))?,
                beat: text(4)?.parse().map_err(|e: jiff::Error| conversion(4, e.into()))?,
            };
            Ok((row.get(0)?, row.get(1)?, info))
        },
    )
    .optional()
}

/// Returns `None` when the lease is no longer ours.
pub(super) fn check(db: &Connection, lease: &Lease) -> rusqlite::Result<Option<()>> {
    db.prepare_cached("SELECT 1 FROM leases WHERE environment = ?1 AND token = ?2 AND held")?
        .query_row(params![lease.environment, lease.token], |_| Ok(()))
        .optional()
}

/// Says every 5 s that the holder lives, whatever the holder's own thread is busy with.
#[derive(Debug)]
pub struct Heartbeat {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    lost: Arc<AtomicBool>,
}

impl Heartbeat {
    pub(super) fn start(journal: Journal, lease: Lease, every: Duration) -> Result<Self, JournalError> {
        let (stop, stopped) = mpsc::channel::<()>();
        let lost = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&lost);
        let beat = move || {
            while matches!(stopped.recv_timeout(every), Err(mpsc::RecvTimeoutError::Timeout)) {
                let updated = journal.db.execute(
                    "UPDATE leases SET beat = ?3 WHERE environment = ?1 AND token = ?2 AND held",
                    params![lease.environment, lease.token, now().to_string()],
                );
                // A full disk or a busy file is tried again at the next beat; a row that is not ours is final.
                if updated == Ok(0) {
                    flag.store(true, Ordering::Relaxed);
                    return;
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("heartbeat".into()).spawn(beat).map_err(JournalError::Folder)?;
        Ok(Self { stop: Some(stop), thread: Some(thread), lost })
    }

    /// Tells whether another process has taken the environment over.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread neither panics nor returns anything of use.
            let _ = thread.join();
        }
    }
}
