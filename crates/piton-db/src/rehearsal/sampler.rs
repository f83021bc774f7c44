use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use super::{Begun, Blocks, Mode, Order, Relations, SAMPLE_MS, step_at};
use crate::error::Doing;
use crate::{Database, DbError, Session};

/// How many tables are probed at once, with a session for reads and one for writes each, where the server has sessions to spare.
const PROBED_AT_ONCE: usize = 4;

/// How long a probe waits before it tries again.
///
/// Shorter than the server's `deadlock_timeout` and than what a migration waits for a lock: where the two would wait for each
/// other, it is always the probe that gives up.
const PATIENCE_MS: u64 = 500;

/// The longest wait for the last probes, once nothing holds a lock any more.
const LAST_PROBES: Duration = Duration::from_secs(2);

/// What a probe stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Read,
    Write,
}

/// What was seen; steps by their place, relations by their oid.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The longest time that a lock was held: step, table, index, mode.
    pub(super) held: BTreeMap<(usize, u32, Option<u32>, Mode), Duration>,
    /// The longest wait of a probe.
    pub(super) waits: BTreeMap<(usize, u32, Kind), Duration>,
    /// How the database stood as each migration began, and at the end.
    pub(super) stands: Vec<Stand>,
    /// Whether the server had no session to spare for a probe.
    pub(super) unprobed: bool,
}

/// Where the server and the relations' files stood.
#[derive(Debug)]
pub(super) struct Stand {
    /// How much the server has written ahead, in bytes.
    pub(super) wal: u64,
    /// The file number of each table.
    pub(super) files: BTreeMap<u32, u32>,
    /// The indexes.
    pub(super) indexes: BTreeMap<u32, Index>,
    /// The tables that were redefined since the stand before, each with the lock that takes; empty where it is not asked for.
    pub(super) redefined: BTreeSet<(u32, Mode)>,
}

/// An index as it stood.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) table: u32,
    pub(super) name: String,
    /// Whether it was built concurrently: then it was made in one transaction and found valid in another.
    pub(super) concurrently: bool,
}

/// A row of the catalogue about a table.
#[derive(Debug, PartialEq, Eq)]
struct Definition {
    table: u32,
    /// The row's version: a statement that redefines something writes a new one.
    version: String,
    /// A sum over what only a statement with the strongest lock changes.
    strict: String,
    /// A sum over the rest.
    mild: String,
    /// The lock of a statement that adds the row; the strongest when there is none.
    adding: Option<Mode>,
    /// The lock of one that changes the rest alone, if it takes any.
    mending: Option<Mode>,
}

/// Lists the catalogue's rows about each table, but for its indexes.
///
/// `CREATE INDEX`, `VACUUM` and `ANALYZE` write no new versions, they change the row in place. `GRANT` locks no table, and a
/// trigger's lock follows from its own row.
const DEFINITIONS: &str = "
    select key, relation, version, pg_catalog.md5(strict), pg_catalog.md5(mild), adding, mending
    from (
        select 'c' || oid, oid, xmin::text,
               pg_catalog.concat_ws(',', relname, relnamespace, relowner, relam, reltablespace, relpersistence, relnatts, relchecks,
                                    relhasrules, relhassubclass, relrowsecurity, relforcerowsecurity, relreplident, reloptions),
               pg_catalog.concat_ws(',', relhastriggers, relacl), null, null
        from pg_catalog.pg_class where relkind in ('r', 'p', 'm', 'v')
        union all
        select 'a' || attrelid || '.' || attnum, attrelid, a.xmin::text,
               pg_catalog.concat_ws(',', attname, atttypid, atttypmod, attnotnull, atthasdef, attisdropped, attidentity, attgenerated,
                                    attstorage, attcollation),
               attacl::text, null, null
        from pg_catalog.pg_attribute a
        join pg_catalog.pg_class c on c.oid = attrelid and relkind in ('r', 'p', 'm', 'v')
        where attnum > 0
        union all
        select 'd' || oid, adrelid, xmin::text, null, null, null, null from pg_catalog.pg_attrdef
        union all
        select 'k' || oid, conrelid, xmin::text,
               pg_catalog.concat_ws(',', conname, condeferrable, condeferred, connoinherit), convalidated::text,
               case when contype in ('f', 't') then 'ShareRowExclusiveLock' end, 'ShareUpdateExclusiveLock'
        from pg_catalog.pg_constraint
        union all
        select 'f' || oid, confrelid, xmin::text,
               pg_catalog.concat_ws(',', conname, condeferrable, condeferred, connoinherit), convalidated::text,
               'ShareRowExclusiveLock', null
        from pg_catalog.pg_constraint
        union all
        select 't' || oid, tgrelid, xmin::text, pg_catalog.concat_ws(',', tgname, tgfoid, tgtype, tgdeferrable, tginitdeferred),
               tgenabled::text, 'ShareRowExclusiveLock', 'ShareRowExclusiveLock'
        from pg_catalog.pg_trigger
        union all
        select 'r' || oid, ev_class, xmin::text, null, null, null, null from pg_catalog.pg_rewrite
        union all
        select 'p' || oid, polrelid, xmin::text, null, null, null, null from pg_catalog.pg_policy
    ) v(key, relation, version, strict, mild, adding, mending)
    where relation >= 16384";

/// A lock on a relation that others have.
type Held = (u32, Option<u32>, Mode);

struct Probed {
    session: Session,
    key: (usize, u32, Kind),
    waited: Duration,
}

/// What a sampler works on.
pub(super) struct Task {
    pub(super) copy: Database,
    pub(super) relations: Arc<Relations>,
    pub(super) begun: Begun,
    /// The number of the observer's own session.
    pub(super) watch: i32,
    /// Whether definitions are compared.
    pub(super) definitions: bool,
}

struct Sampler {
    client: Session,
    locks: Statement,
    database: u32,
    /// Our own sessions, whose locks are nobody's business.
    ours: Vec<i32>,
    task: Task,
    free: Vec<Session>,
    probes: JoinSet<Probed>,
    in_flight: BTreeSet<(u32, Kind)>,
    open: BTreeMap<Held, (Option<usize>, Instant)>,
    last: Instant,
    /// As the last stand found them.
    definitions: BTreeMap<String, Definition>,
    seen: Seen,
}

impl Task {
    /// Begins to look, in a thread of its own: whatever else keeps the caller's busy, the looks come in time.
    pub(super) async fn start(
        self,
        orders: UnboundedReceiver<Order>,
    ) -> Result<oneshot::Receiver<Result<Seen, DbError>>, DbError> {
        let (opened, is_open) = oneshot::channel();
        let (ended, seen) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let look = async move {
            match Sampler::open(self).await {
                Ok(sampler) => {
                    let _ = opened.send(Ok(()));
                    let _ = ended.send(sampler.run(orders).await);
                }
                Err(error) => _ = opened.send(Err(error)),
            }
        };
        std::thread::Builder::new().name("rehearsal".into()).spawn(move || runtime.block_on(look))?;
        match is_open.await {
            Ok(opened) => opened.map(|()| seen),
            Err(_) => Err(std::io::Error::other("the thread that watches locks has died").into()),
        }
    }
}

impl Sampler {
    async fn open(task: Task) -> Result<Self, DbError> {
        let copy = &task.copy;
        let what = || "prepare to watch locks".to_owned();
        let client = copy.connect().await?;
        let locks = client
            .prepare(
                "select l.relation, l.mode from pg_catalog.pg_locks l
                 join pg_catalog.pg_stat_activity a on a.pid = l.pid
                 where l.locktype = 'relation' and l.granted and l.database = $1 and l.relation >= 16384
                   and l.mode <> 'AccessShareLock' and a.backend_type in ('client backend', 'parallel worker')
                   and l.pid <> all ($2)",
            )
            .await
            .doing(what)?;
        let mut ours = vec![task.watch, pid(&client).await?];
        let wanted = PROBED_AT_ONCE.min(task.relations.tables.len());
        let sessions = 2 * wanted.min(spare_sessions(&client).await? / 2);
        let opened = try_join_all((0..sessions).map(|_| probing_session(copy))).await?;
        let (pids, free): (Vec<i32>, Vec<Session>) = opened.into_iter().unzip();
        ours.extend(pids);
        let row = client
            .query_one(
                "select oid from pg_catalog.pg_database where datname = pg_catalog.current_database()",
                &[],
            )
            .await
            .doing(what)?;
        let seen = Seen { unprobed: sessions == 0 && wanted > 0, ..Seen::default() };
        Ok(Self {
            client,
            locks,
            database: row.get(0),
            ours,
            task,
            free,
            probes: JoinSet::new(),
            in_flight: BTreeSet::new(),
            open: BTreeMap::new(),
            last: Instant::now(),
            definitions: BTreeMap::new(),
            seen,
        })
    }

    /// Looks until it is told to stop, or whoever began it is gone.
    async fn run(mut self, mut orders: UnboundedReceiver<Order>) -> Result<Seen, DbError> {
        let mut ticks = tokio::time::interval(Duration::from_millis(SAMPLE_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::Stand(noted)) => {
                        self.stand().await?;
                        let _ = noted.send(());
                    }
                    Some(Order::Stop) | None => break,
                },
                Some(Ok(probed)) = self.probes.join_next() => self.probed(probed),
                _ = ticks.tick() => self.sample().await?,
            }
        }
        self.sample().await?;
        self.stand().await?;
        // Those that still wait are let in now; the longest wait is among them.
        let from = Instant::now();
        while let Ok(Some(Ok(probed))) = tokio::time::timeout(LAST_PROBES, self.probes.join_next()).await {
            self.probed(probed);
            if from.elapsed() > LAST_PROBES {
                break;
            }
        }
        Ok(self.seen)
    }

    /// Notes how the database stands.
    async fn stand(&mut self) -> Result<(), DbError> {
        let what = || "list the tables' files".to_owned();
        let wal = "select (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::int8";
        let wal: i64 = self.client.query_one(wal, &[]).await.doing(what)?.get(0);
        let rows = self
            .client
            .query(
                "select c.oid, c.relfilenode, i.indrelid, c.relname::text, coalesce(i.xmin::text <> a.xmin::text, false)
                 from pg_catalog.pg_class c
                 left join pg_catalog.pg_index i on i.indexrelid = c.oid
                 left join pg_catalog.pg_attribute a on a.attrelid = i.indexrelid and a.attnum = 1
                 where c.oid >= 16384 and c.relkind in ('r', 'm', 'i', 'I')",
                &[],
            )
            .await
            .doing(what)?;
        let (mut files, mut indexes) = (BTreeMap::new(), BTreeMap::new());
        for row in &rows {
            match row.get::<_, Option<u32>>(2) {
                Some(table) => {
                    let index = Index { table, name: row.get(3), concurrently: row.get(4) };
                    indexes.insert(row.get(0), index);
                }
                None => _ = files.insert(row.get(0), row.get::<_, u32>(1)),
            }
        }
        let mut redefined = BTreeSet::new();
        if self.task.definitions {
            let rows = self.client.query(DEFINITIONS, &[]).await.doing(what)?;
            let now = rows.iter().map(|row| (row.get(0), Definition::read(row))).collect();
            let before = std::mem::replace(&mut self.definitions, now);
            redefined = redefined_since(&before, &self.definitions);
        }
        let wal = u64::try_from(wal).unwrap_or(0);
        self.seen.stands.push(Stand { wal, files, indexes, redefined });
        Ok(())
    }

    /// Looks who holds locks now, and sends probes to the tables.
    async fn sample(&mut self) -> Result<(), DbError> {
        let asked = Instant::now();
        let rows = self
            .client
            .query(&self.locks, &[&self.database, &self.ours])
            .await
            .doing(|| "look which locks are held".into())?;
        let step = {
            let begun = self.task.begun.lock().unwrap_or_else(PoisonError::into_inner);
            step_of_look(&begun, asked, Instant::now())
        };
        let mut held: BTreeSet<Held> = BTreeSet::new();
        for row in &rows {
            let Some((table, index)) = self.task.relations.find(row.get(0)) else { continue };
            held.extend(Mode::of(row.get(1)).map(|mode| (table, index, mode)));
        }
        for gone in self.open.keys().filter(|lock| !held.contains(*lock)).copied().collect::<Vec<_>>() {
            self.close(gone, asked);
        }
        let Ok(step) = step else {
            // What lasts is seen again.
            self.last = asked;
            return Ok(());
        };
        // A lock that is seen for the first time was taken after the look before.
        let since = self.last;
        for lock in &held {
            self.open.entry(*lock).or_insert((step, since));
        }
        for table in held.iter().map(|(table, ..)| *table).collect::<BTreeSet<_>>() {
            for kind in [Kind::Read, Kind::Write] {
                self.probe(step, table, kind, asked);
            }
        }
        self.last = asked;
        Ok(())
    }

    fn close(&mut self, lock: Held, at: Instant) {
        let Some((Some(step), since)) = self.open.remove(&lock) else { return };
        let (table, index, mode) = lock;
        let longest = self.seen.held.entry((step, table, index, mode)).or_default();
        *longest = (*longest).max(at.duration_since(since));
    }

    /// Sends a probe to a table, unless one is there or no session is free.
    fn probe(&mut self, step: Option<usize>, table: u32, kind: Kind, now: Instant) {
        let (Some(step), Some(relation)) = (step, self.task.relations.tables.get(&table)) else { return };
        if self.in_flight.contains(&(table, kind)) {
            return;
        }
        let Some(session) = self.free.pop() else { return };
        // Whoever came right after the lock was taken has waited since then.
        let blocking = |mode: Mode| match kind {
            Kind::Read => mode.blocks() == Blocks::ReadsAndWrites,
            Kind::Write => mode.blocks() >= Blocks::Writes,
        };
        let since = self.open.iter().filter(|((of, _, mode), _)| *of == table && blocking(*mode));
        let since = since.map(|(_, (_, since))| *since).max().unwrap_or(now).max(self.last);
        // Planned and not run: that takes every lock of a read or a write, on the indexes as well, and fires no trigger.
        let statement = match kind {
            Kind::Read => format!("explain select from {}", relation.name),
            Kind::Write => format!("explain delete from {}", relation.name),
        };
        self.in_flight.insert((table, kind));
        self.probes.spawn(async move {
            let is_locked =
                |error: &tokio_postgres::Error| error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
            // Any other refusal lets the app go on as well, if not happily: the table is gone, or is a view.
            while session.batch_execute(&statement).await.is_err_and(|error| is_locked(&error)) {}
            Probed { session, key: (step, table, kind), waited: since.elapsed() }
        });
    }

    fn probed(&mut self, probed: Probed) {
        let (_, table, kind) = probed.key;
        self.in_flight.remove(&(table, kind));
        if !probed.session.is_closed() {
            self.free.push(probed.session);
        }
        let longest = self.seen.waits.entry(probed.key).or_default();
        *longest = (*longest).max(probed.waited);
    }
}

impl Definition {
    fn read(row: &tokio_postgres::Row) -> Self {
        let text = |column: usize| row.get::<_, Option<String>>(column).unwrap_or_default();
        let mode = |column: usize| row.get::<_, Option<&str>>(column).and_then(Mode::of);
        Self {
            table: row.get(1),
            version: text(2),
            strict: text(3),
            mild: text(4),
            adding: mode(5),
            mending: mode(6),
        }
    }

    /// Returns the lock of the statement that made this row of another one, if it takes any.
    fn lock_since(&self, before: &Self) -> Option<Mode> {
        if self.version == before.version {
            return None;
        }
        match self.strict == before.strict && self.mild != before.mild {
            true => self.mending,
            false => Some(Mode::AccessExclusive),
        }
    }
}

/// A look that began in one step and ended in another: the server may have looked in either.
#[derive(Debug, PartialEq, Eq)]
struct OfNeither;

/// Returns the step of a look; nothing before the first.
fn step_of_look(
    begun: &[(String, Instant)],
    asked: Instant,
    answered: Instant,
) -> Result<Option<usize>, OfNeither> {
    let step = step_at(begun, asked);
    if step == step_at(begun, answered) { Ok(step) } else { Err(OfNeither) }
}

/// Lists the tables whose rows in the catalogue have changed, each with the lock that this takes.
fn redefined_since(
    before: &BTreeMap<String, Definition>,
    now: &BTreeMap<String, Definition>,
) -> BTreeSet<(u32, Mode)> {
    let gone = before.iter().filter(|(key, _)| !now.contains_key(*key));
    let gone = gone.map(|(_, definition)| (definition.table, Mode::AccessExclusive));
    let changed = now.iter().filter_map(|(key, definition)| {
        let lock = match before.get(key) {
            Some(before) => definition.lock_since(before),
            None => Some(definition.adding.unwrap_or(Mode::AccessExclusive)),
        };
        Some((definition.table, lock?))
    });
    gone.chain(changed).collect()
}

/// Counts the sessions that the server can spare: a quarter of those that are free is left to the app, which may be on it.
async fn spare_sessions(client: &Client) -> Result<usize, DbError> {
    let row = client
        .query_one(
            "select (3 * greatest(0, all_of_them - for_superusers - for_others - used) / 4)::int8
             from (select pg_catalog.current_setting('max_connections')::int,
                          pg_catalog.current_setting('superuser_reserved_connections')::int,
                          coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0),
                          (select coalesce(sum(numbackends), 0) from pg_catalog.pg_stat_database))
                  s (all_of_them, for_superusers, for_others, used)",
            &[],
        )
        .await
        .doing(|| "count the server's free sessions".into())?;
    Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or(0))
}

/// Opens a session that gives up on a lock, and returns its number as well.
async fn probing_session(copy: &Database) -> Result<(i32, Session), DbError> {
    let session = copy.connect().await?;
    // A server may have its `deadlock_timeout` set lower than the default of a second.
    let patience = format!(
        "select pg_catalog.set_config('lock_timeout', least({PATIENCE_MS}, pg_catalog.floor(
            500 * extract(epoch from pg_catalog.current_setting('deadlock_timeout')::interval)))::text, false)"
    );
    session.batch_execute(&patience).await.doing(|| "prepare a probe".into())?;
    Ok((pid(&session).await?, session))
}

pub(super) async fn pid(client: &Client) -> Result<i32, DbError> {
    let row = client.query_one("select pg_catalog.pg_backend_pid()", &[]).await;
    row.doing(|| "ask for the session's number".into()).map(|row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_spans_two_steps_is_of_neither() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let begun = [("one".to_owned(), at(10)), ("two".to_owned(), at(30))];
        for (asked, answered, step) in [
            (0, 5, Ok(None)),
            (5, 15, Err(OfNeither)),
            (10, 29, Ok(Some(0))),
            (29, 30, Err(OfNeither)),
            (30, 90, Ok(Some(1))),
            (5, 90, Err(OfNeither)),
        ] {
            assert_eq!(step_of_look(&begun, at(asked), at(answered)), step, "{asked} to {answered}");
        }
    }
}
