//! A golden copy kept in step with later writes: each is carried back through the migrations into the structure of before.
//!
//! [`offer`] tells on a rehearsed copy whether that can be done without a loss. [`prepare`] notes, right before a migration, how the
//! live tables are laid out, [`note_layout`] after each revision, and [`note_applied`] after the last. A [`Replay`] reads the live database's log through a slot that
//! is older than the backup, leaves out what the backup holds and what the migration itself has written, and applies the rest.
//! Where it stands lies in the golden copy, in the transaction of the rows: whatever dies, it goes on from there.

mod ahead;
mod apply;
mod broken;
mod down;
mod evaluate;
mod finish;
mod layout;
mod left;
mod map;
mod net;
mod offer;
mod own;
mod rescue;
pub mod reverse;
mod route;
mod sequences;
mod sql;
mod state;
mod take;
mod touched;
mod watch;

use std::collections::HashSet;

use tokio_postgres::Client;

use self::ahead::Ahead;
use self::apply::Applier;
use self::evaluate::Evaluator;
use self::layout::Layout;
use self::map::Map;
use self::route::{Castable, Routes};
use self::state::Mark;
use crate::capture::{Change, Lsn, Message, Snapshot, Source};
use crate::error::Doing;
use crate::migrate::RecordTables;
use crate::target::pin;
use crate::{Database, DbError, Session};

pub use self::down::{Down, Misfit};
pub use self::finish::{Aside, Finished};
pub use self::map::Way;
pub use self::offer::{ChangedColumn, Offer, offer};
pub(crate) use self::rescue::{Head, Kind as LineKind, Line};
pub use self::rescue::{Load, Loaded, Part, Progress, Rescued, doubt, is_committed, rescue};
pub use self::watch::{Own, Watch};

/// How many changes are written in one transaction, at least.
const BLOCK: usize = 5_000;

/// How many changes of one transaction are held in memory.
const HELD: usize = 50_000;

/// How many bytes of rows are held in memory: of one transaction, of one block, and of what is read on meanwhile.
const HELD_BYTES: usize = 64 << 20;

/// Makes a golden copy ready to be kept in step, right before the first migration; done again, it changes nothing.
///
/// `sees` is what the backup's snapshot sees; `way` is what the rehearsal decided.
///
/// # Errors
/// When either database cannot be read or the golden copy not be written.
pub async fn prepare(
    golden: &Database,
    live: &Database,
    sees: &Snapshot,
    record: &RecordTables,
    way: &Way,
) -> Result<(), DbError> {
    let client = session(golden).await?;
    if state::is_made(&client).await? {
        return Ok(());
    }
    let live = session(live).await?;
    be_quiet(&client).await;
    let what = || "prepare the golden copy for a replay".to_owned();
    client.batch_execute("begin").await.doing(what)?;
    state::make(&client, sees, record, way).await?;
    state::note_next(&client, &Layout::read(&live).await?).await?;
    client.batch_execute("commit").await.doing(what)
}

/// Notes how the live tables are laid out after one more revision; done again, it does no harm.
///
/// # Errors
/// As [`prepare`].
pub async fn note_layout(golden: &Database, live: &Database) -> Result<(), DbError> {
    let (golden, live) = (session(golden).await?, session(live).await?);
    state::note_next(&golden, &Layout::read(&live).await?).await
}

/// Notes that all of the migration is applied, behind the last [`note_layout`]; done again, it does no harm.
///
/// # Errors
/// When the golden copy cannot be written.
pub async fn note_applied(golden: &Database) -> Result<(), DbError> {
    state::note_applied(&*session(golden).await?).await
}

/// Opens a session whose settings are pinned.
async fn session(database: &Database) -> Result<Session, DbError> {
    let client = database.connect().await?;
    pin(&client).await?;
    Ok(client)
}

/// A golden copy that follows its live database.
#[derive(Debug)]
pub struct Replay {
    golden: Database,
    live: Database,
    source: Source,
    applier: Applier,
    /// `None` between two sessions.
    stream: Option<Ahead>,
    sees: Snapshot,
    /// Transactions of the migration that were told from the app's only after a part of them was written.
    own: HashSet<u32>,
    /// How many rows others than the migration have written.
    written: i64,
    open: bool,
    reached: Lsn,
}

/// A transaction as far as it was read.
#[derive(Debug)]
struct Under {
    xid: u32,
    changes: Vec<Change>,
    bytes: usize,
    /// Whether the backup holds it.
    seen: bool,
    /// Whether it is the migration's.
    own: bool,
    /// Whether a part of it is written.
    written: bool,
}

/// How a part of the log ended.
enum Read {
    Reached,
    /// This transaction is the migration's, and a part of it was taken for the app's.
    Again(u32),
}

impl Replay {
    /// Takes a replay up where it stands.
    ///
    /// # Errors
    /// When the golden copy was not prepared, or the source is gone.
    pub async fn resume(golden: &Database, live: &Database, source: &Source) -> Result<Self, DbError> {
        Self::open(golden, live, source, HashSet::new()).await
    }

    async fn open(
        golden: &Database,
        live: &Database,
        source: &Source,
        own: HashSet<u32>,
    ) -> Result<Self, DbError> {
        let client = session(golden).await?;
        // Every row is found by its key, whatever the planner believes of a copy that nobody has analyzed. And the server is told to
        // forget what it told only when the golden copy has it on the disk.
        let replaying = "set session_replication_role = replica; set application_name = 'piton replay'; set enable_seqscan = off;
                         set enable_mergejoin = off; set synchronous_commit = local";
        client.batch_execute(replaying).await.needing(
            || "replay into the golden copy".into(),
            || {
                format!(
                    "GRANT SET ON PARAMETER session_replication_role TO {}",
                    crate::quote::ident(&golden.user)
                )
            },
        )?;
        state::switch_off(&client).await?;
        let (layout, stages) = state::layouts(&client).await?;
        let Mark { reached, seen, altered, later, applied, written, sees, way, record } =
            state::mark(&client).await?;
        let map = Map::new(layout, stages, &way, &record);
        let castable = castable(&client, &map).await?;
        let routes = Routes::new(map, castable, seen, altered, applied, later);
        let applier = Applier::new(client, routes, Evaluator::new(live)).await?;
        let stream = Some(Ahead::new(source.open(live, reached).await?));
        let (golden, live, source) = (golden.clone(), live.clone(), source.clone());
        Ok(Self { golden, live, source, applier, stream, sees, own, written, open: false, reached })
    }

    /// Returns the place in the live database's log up to which the golden copy has followed.
    pub fn reached(&self) -> Lsn {
        self.reached
    }

    /// Follows up to a place in the live database's log.
    ///
    /// # Errors
    /// [`DbError::Replay`] when a write cannot be carried back by any means; or when a server is away.
    pub async fn reach(&mut self, upto: Lsn) -> Result<(), DbError> {
        loop {
            match self.read(upto).await? {
                Read::Reached => return Ok(()),
                Read::Again(xid) => {
                    let mut own = std::mem::take(&mut self.own);
                    own.insert(xid);
                    // Both make room for their successors.
                    let rolled_back = self.applier.client.batch_execute("rollback").await;
                    rolled_back.doing(|| "take a transaction back".into())?;
                    self.stream = None;
                    *self = Self::open(&self.golden, &self.live, &self.source, own).await?;
                }
            }
        }
    }

    async fn read(&mut self, upto: Lsn) -> Result<Read, DbError> {
        let mut under: Option<Under> = None;
        if let Some(stream) = &mut self.stream {
            stream.ask();
        }
        while self.reached < upto || under.is_some() {
            let Some(stream) = &mut self.stream else {
                return Err(DbError::Replay("its reading of the log was cut off".into()));
            };
            match stream.next().await? {
                Message::Begin { xid, own } => {
                    let own = own || self.own.contains(&xid) || self.applier.routes.changes_layout(xid);
                    let seen = self.sees.sees(xid);
                    under = Some(Under { xid, changes: Vec::new(), bytes: 0, seen, own, written: false });
                }
                Message::Change { lsn, change } => {
                    let Some(under) = under.as_mut().filter(|under| !under.seen) else { continue };
                    if self.applier.routes.at(lsn) {
                        tracing::debug!(%lsn, "another layout is valid");
                    }
                    if !under.own && self.applier.routes.migrates() && self.applier.is_record(&change)? {
                        if under.written {
                            return Ok(Read::Again(under.xid));
                        }
                        under.own = true;
                    }
                    under.bytes += change.size();
                    under.changes.push(change);
                    if under.changes.len() >= HELD || under.bytes >= HELD_BYTES {
                        under.written = true;
                        self.write(under).await?;
                    }
                }
                Message::Commit { xid, end } => {
                    if let Some(mut under) = under.take().filter(|under| !under.seen) {
                        self.write(&mut under).await?;
                    }
                    self.applier.routes.committed(xid);
                    self.reached = self.reached.max(end);
                    if self.applier.waiting >= BLOCK || self.applier.bytes >= HELD_BYTES {
                        self.commit().await?;
                    }
                }
                Message::UpTo(lsn) if under.is_none() => self.reached = self.reached.max(lsn),
                Message::UpTo(_) => {}
            }
        }
        self.commit().await?;
        Ok(Read::Reached)
    }

    /// Writes what was read of a transaction into the one that is open in the golden copy.
    async fn write(&mut self, under: &mut Under) -> Result<(), DbError> {
        if under.changes.is_empty() {
            return Ok(());
        }
        self.begin().await?;
        let changes = std::mem::take(&mut under.changes);
        under.bytes = 0;
        if under.own {
            return self.applier.note_own(&changes).await;
        }
        for change in &changes {
            self.applier.take(change).await?;
            self.written += 1;
        }
        if under.written {
            self.applier.flush().await?;
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), DbError> {
        if !self.open {
            self.applier.client.batch_execute("begin").await.doing(|| "begin a block".into())?;
            self.open = true;
        }
        Ok(())
    }

    /// Commits what waits, together with the mark, and lets the server forget it.
    async fn commit(&mut self) -> Result<(), DbError> {
        self.begin().await?;
        let (applier, reached, written) = (&mut self.applier, self.reached, self.written);
        let block = async {
            applier.flush().await?;
            state::advance(&applier.client, reached, &applier.routes, written).await?;
            applier.client.batch_execute("commit").await.doing(|| "commit a block".into())
        };
        match &mut self.stream {
            Some(stream) => stream.during(block).await?,
            None => block.await?,
        }
        self.open = false;
        if let Some(stream) = &mut self.stream {
            stream.confirm(self.reached);
        }
        Ok(())
    }

    /// Looks ahead, when it has followed to a moment: for what [`Replay::finish`] would otherwise look at whole tables, while all wait.
    ///
    /// It takes as long as it takes, and nothing is read or written meanwhile.
    ///
    /// # Errors
    /// When either database cannot be read.
    pub async fn look_ahead(&mut self) -> Result<(), DbError> {
        let live = session(&self.live).await?;
        self.begin().await?;
        self.applier.look(&live).await?;
        self.commit().await
    }

    /// Makes the golden copy fit to take the live database's place, when it has followed to the end and nobody writes any more.
    ///
    /// What was set aside is tried again with what became of it, sequences are moved on, and what only a foreign key's own trigger
    /// would have noticed is looked for. Nothing has changed before [`Ready::commit`]; and even after it a replay may be taken up
    /// again, until [`give_up`] has removed its notes.
    ///
    /// # Errors
    /// When either database cannot be read or the golden copy not be written.
    pub async fn finish(mut self) -> Result<Ready, DbError> {
        let live = session(&self.live).await?;
        self.begin().await?;
        let finished = self.applier.finish(&live).await?;
        let written = u64::try_from(self.written).unwrap_or_default();
        Ok(Ready { finished: Finished { written, ..finished }, applier: self.applier })
    }
}

/// A golden copy that is fit to take the live database's place, if that is wanted: dropped, it goes on following.
#[derive(Debug)]
#[must_use = "nothing has changed before it is committed"]
pub struct Ready {
    /// What the replay ends with.
    pub finished: Finished,
    applier: Applier,
}

impl Ready {
    /// Makes it so.
    ///
    /// # Errors
    /// When the golden copy's server is away: it is as before, or ready.
    pub async fn commit(self) -> Result<Finished, DbError> {
        self.applier.client.batch_execute("commit").await.doing(|| "end the replay".into())?;
        Ok(self.finished)
    }
}

/// Ends a replay where it stands, and removes its notes; a golden copy without any is left as it is.
///
/// # Errors
/// When the golden copy cannot be written.
pub async fn give_up(golden: &Database) -> Result<(), DbError> {
    let client = session(golden).await?;
    if !state::is_made(&client).await? {
        return Ok(());
    }
    be_quiet(&client).await;
    let what = || "end the replay in the golden copy".to_owned();
    client.batch_execute("begin").await.doing(what)?;
    state::unmake(&client).await?;
    client.batch_execute("commit").await.doing(what)
}

/// Looks at a golden copy that is followed while what its replay has switched off is as before.
///
/// Nothing may be written to it meanwhile.
///
/// # Errors
/// When the golden copy cannot be written.
pub async fn as_before<T>(golden: &Database, look: impl Future<Output = T>) -> Result<T, DbError> {
    let client = session(golden).await?;
    be_quiet(&client).await;
    let what = || "look at the golden copy".to_owned();
    client.batch_execute("begin").await.doing(what)?;
    state::switch_on(&client).await?;
    client.batch_execute("commit").await.doing(what)?;
    let seen = look.await;
    client.batch_execute("begin").await.doing(what)?;
    state::switch_off(&client).await?;
    client.batch_execute("commit").await.doing(what)?;
    Ok(seen)
}

/// Keeps triggers on what is done to the structure from firing, where the role may.
async fn be_quiet(client: &Client) {
    let quiet = client.batch_execute("set session_replication_role = replica").await;
    if let Err(error) = quiet {
        tracing::debug!(%error, "what is done to the structure may fire triggers");
    }
}

/// Tells whether a golden copy was prepared for a replay that has not ended.
///
/// # Errors
/// When it cannot be read.
pub async fn is_prepared(golden: &Database) -> Result<bool, DbError> {
    state::is_made(&*session(golden).await?).await
}

/// Finds out between which of the types in question the server casts.
async fn castable(client: &Client, map: &Map) -> Result<Castable, DbError> {
    let mut castable = Castable::new();
    for (from, to) in route::pairs(map) {
        match client.prepare(&format!("select null::{from}::{to}")).await {
            Ok(_) => {
                castable.insert((from, to));
            }
            Err(error) if error.as_db_error().is_some() => {}
            Err(error) => return Err(error).doing(|| "look which types can be cast".into()),
        }
    }
    Ok(castable)
}

/// Says how many rows, in words.
fn rows(count: u64) -> String {
    match count {
        1 => "1 row".to_owned(),
        count => format!("{count} rows"),
    }
}
