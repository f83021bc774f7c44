//! What a migration does to whoever uses the database meanwhile, observed on a copy, whatever tool runs it.
//!
//! Three sources complete each other. Event triggers note the locks of every statement that changes the structure, however
//! short. Samples of `pg_locks` see what fires no trigger (`VACUUM FULL`, `CREATE INDEX CONCURRENTLY`) and how long it lasts. Probes
//! plan a read and a write of each locked table and wait as the app's would. File numbers before and after each migration show
//! what was rewritten behind all of them; where the event triggers may not be made, catalogue rows show what was redefined.
//! A probe meets no row: how long a write waits for one that a migration has changed is as long as the change's own lock.

mod report;
mod sampler;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_postgres::Client;

pub use report::{Blocks, Impact, Lock, Mode, Report, Step};
use sampler::{Kind, Seen};

use crate::error::{Doing, chain};
use crate::progress::millis;
use crate::{Database, DbError, Session, quote};

/// How often locks are looked at, in milliseconds; what is shorter is not measured.
pub const SAMPLE_MS: u64 = 20;

const RECORDER: &str = include_str!("recorder.sql");

/// How long a migration waits for the look at how the database stands before it.
const STAND: Duration = Duration::from_secs(5);

/// How long a session that has ended may take to hand in its statistics.
const STATISTICS: Duration = Duration::from_secs(2);

/// A table or view that stood before the migrations: what others may be waiting for.
#[derive(Clone, Debug)]
struct Relation {
    /// Quoted.
    name: String,
    bytes: u64,
    /// Whether it holds rows.
    holds_rows: bool,
}

/// The relations of a database before the migrations.
#[derive(Clone, Debug, Default)]
struct Relations {
    tables: BTreeMap<u32, Relation>,
    /// An index's table, and its name, quoted.
    indexes: BTreeMap<u32, (u32, String)>,
}

/// The migrations that have begun, each with the time.
type Begun = Arc<Mutex<Vec<(String, Instant)>>>;

/// What the sampler is told.
#[derive(Debug)]
enum Order {
    /// To note how the database stands, and to say so then.
    Stand(std::sync::mpsc::SyncSender<()>),
    /// To end.
    Stop,
}

/// An observer of a copy, from before the first migration to after the last.
#[derive(Debug)]
pub struct Watch {
    client: Session,
    relations: Arc<Relations>,
    begun: Begun,
    clock: Clock,
    temp_bytes: i64,
    /// Why the event triggers could not be made.
    no_recorder: Option<String>,
    orders: UnboundedSender<Order>,
    seen: oneshot::Receiver<Result<Seen, DbError>>,
}

/// The server's time at a moment of ours.
#[derive(Clone, Copy, Debug)]
struct Clock {
    ours: Instant,
    /// Seconds since 1970.
    servers: f64,
}

impl Watch {
    /// Puts what notes locks into the copy and begins to look.
    ///
    /// What it puts there is in a schema of its own and goes with [`Watch::end`]. It opens two sessions, and two more for each
    /// of up to four tables, as long as a quarter of the server's free ones is left.
    ///
    /// # Errors
    /// When the copy cannot be reached. A missing privilege is no error but a part that the report misses.
    pub async fn begin(copy: &Database) -> Result<Self, DbError> {
        let client = copy.connect().await?;
        let relations = Arc::new(Relations::read(&client).await?);
        let clock = Clock::read(&client).await?;
        let temp_bytes = temp_bytes(&client).await?;
        let begun = Begun::default();
        // One implicit transaction: all of it or nothing.
        let no_recorder = client.batch_execute(RECORDER).await.err();
        let no_recorder = no_recorder.map(|error| crate::SqlError(error).to_string());
        let task = sampler::Task {
            copy: copy.clone(),
            relations: Arc::clone(&relations),
            begun: Arc::clone(&begun),
            watch: sampler::pid(&client).await?,
            definitions: no_recorder.is_some(),
        };
        let (orders, taken) = unbounded_channel();
        let seen = task.start(taken).await?;
        Ok(Self { client, relations, begun, clock, temp_bytes, no_recorder, orders, seen })
    }

    /// Notes that a migration begins now.
    ///
    /// Blocks until it is noted how the database stands: what changes from now on is the migration's.
    pub fn step(&self, name: &str) {
        let (noted, wait) = std::sync::mpsc::sync_channel(1);
        if self.orders.send(Order::Stand(noted)).is_ok() {
            // A sampler that has failed says so in the end.
            let _ = wait.recv_timeout(STAND);
        }
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), Instant::now()));
    }

    /// Ends the look, removes what was put into the copy, and tells what was seen; `golden` is what the copy was made from.
    ///
    /// # Errors
    /// When what was put into the copy cannot be read or removed.
    pub async fn end(self, golden: &Database) -> Result<Report, DbError> {
        let ended = Instant::now();
        let _ = self.orders.send(Order::Stop);
        let mut missing = Vec::new();
        let mut unwatched = false;
        let seen = match self.seen.await {
            Ok(Ok(seen)) => seen,
            failed => {
                let why = failed.map_or_else(
                    |error| error.to_string(),
                    |seen| seen.err().map_or(String::new(), |error| chain(&error)),
                );
                missing.push(format!("how long locks were held and waited for: {why}"));
                unwatched = true;
                Seen::default()
            }
        };
        if seen.unprobed {
            missing.push("how long reads and writes waited: the server had no session to spare".into());
        }
        let mut begun = std::mem::take(&mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner));
        begun.push((String::new(), ended));
        let mut draft = Draft { relations: &self.relations, begun: &begun, steps: BTreeMap::new() };
        match &self.no_recorder {
            None => draft.take_recorded(&self.client, self.clock).await?,
            // Nobody could wait for a table that is not there yet.
            Some(_) if self.relations.tables.is_empty() => {}
            Some(why) => missing.push(format!(
                "the modes of locks shorter than {SAMPLE_MS} ms, inferred from what has changed: a superuser may note them, and {why}"
            )),
        }
        draft.take_seen(&seen, self.no_recorder.is_none());
        let changed = match settle(&self.client).await? {
            true => changed_tables(&self.client).await?,
            false => None,
        };
        let steps = draft.finish(&seen, golden, changed.as_ref()).await;
        let temp_bytes = (temp_bytes(&self.client).await? - self.temp_bytes).try_into().unwrap_or(0);
        let complete = !unwatched && (self.no_recorder.is_none() || self.relations.tables.is_empty());
        Ok(Report { steps, temp_bytes, complete, unwatched, missing })
    }
}

impl Relations {
    async fn read(client: &Client) -> Result<Self, DbError> {
        let rows = client
            .query(
                "select c.oid, coalesce(i.indrelid, c.oid), n.nspname::text, c.relname::text, c.relkind::text,
                        case when i.indrelid is null and c.relkind in ('r', 'm', 'p')
                             then coalesce(pg_catalog.pg_total_relation_size(c.oid), 0) else 0 end
                 from pg_catalog.pg_class c
                 join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                 left join pg_catalog.pg_index i on i.indexrelid = c.oid
                 where c.relkind in ('r', 'p', 'm', 'v', 'i', 'I') and c.relpersistence <> 't'
                   and n.nspname not in ('information_schema', 'piton') and n.nspname !~ '^pg_'",
                &[],
            )
            .await
            .doing(|| "list the tables before the migrations".into())?;
        let mut relations = Self::default();
        for row in rows {
            let (oid, table): (u32, u32) = (row.get(0), row.get(1));
            let name = quote::qualified(row.get(2), row.get(3));
            if matches!(row.get(4), "i" | "I") {
                relations.indexes.insert(oid, (table, name));
            } else {
                let bytes = u64::try_from(row.get::<_, i64>(5)).unwrap_or(0);
                relations
                    .tables
                    .insert(oid, Relation { name, bytes, holds_rows: row.get::<_, &str>(4) != "v" });
            }
        }
        Ok(relations)
    }

    /// Returns the table that a relation is or belongs to, and the index if it is one.
    fn find(&self, oid: u32) -> Option<(u32, Option<u32>)> {
        match self.indexes.get(&oid) {
            Some((table, _)) => self.tables.contains_key(table).then_some((*table, Some(oid))),
            None => self.tables.contains_key(&oid).then_some((oid, None)),
        }
    }
}

impl Clock {
    /// Takes the quickest of a few answers: it is the least in doubt.
    async fn read(client: &Client) -> Result<Self, DbError> {
        let mut best: Option<(Duration, Self)> = None;
        for _ in 0..5 {
            let asked = Instant::now();
            let row = client
                .query_one("select extract(epoch from pg_catalog.clock_timestamp())::float8", &[])
                .await
                .doing(|| "read the server's time".into())?;
            let took = asked.elapsed();
            if best.is_none_or(|(quickest, _)| took < quickest) {
                best = Some((took, Self { ours: asked + took / 2, servers: row.get(0) }));
            }
        }
        Ok(best.map_or(Self { ours: Instant::now(), servers: 0.0 }, |(_, clock)| clock))
    }

    /// Returns when it was, by our clock, a time of the server's.
    fn ours(self, servers: f64) -> Instant {
        let later = servers - self.servers;
        let apart = Duration::try_from_secs_f64(later.abs()).unwrap_or_default();
        let at = if later < 0.0 { self.ours.checked_sub(apart) } else { self.ours.checked_add(apart) };
        at.unwrap_or(self.ours)
    }
}

/// Returns the place of the migration that ran at a time; nothing before the first.
fn step_at(begun: &[(String, Instant)], at: Instant) -> Option<usize> {
    begun.iter().rposition(|(_, began)| *began <= at)
}

async fn temp_bytes(client: &Client) -> Result<i64, DbError> {
    let sql =
        "select temp_bytes from pg_catalog.pg_stat_database where datname = pg_catalog.current_database()";
    client.query_one(sql, &[]).await.doing(|| "read how much was sorted on disk".into()).map(|row| row.get(0))
}

/// Lists the tables of which rows were changed or removed; `None` when the server does not tell.
///
/// Before 15 what a session hands in takes its time to be seen.
async fn changed_tables(client: &Client) -> Result<Option<BTreeSet<u32>>, DbError> {
    let what = || "look which rows were changed".to_owned();
    let counts = "select pg_catalog.current_setting('track_counts')::bool
                  and pg_catalog.current_setting('server_version_num')::int >= 150000";
    if !client.query_one(counts, &[]).await.doing(what)?.get::<_, bool>(0) {
        return Ok(None);
    }
    let changed = "select relid from pg_catalog.pg_stat_user_tables where n_tup_upd + n_tup_del > 0";
    let rows = client.query(changed, &[]).await.doing(what)?;
    Ok(Some(rows.iter().map(|row| row.get(0)).collect()))
}

/// Waits until the migrating session is gone, which hands in its statistics when it goes; tells whether it went.
async fn settle(client: &Client) -> Result<bool, DbError> {
    let others = "select exists (select from pg_catalog.pg_stat_activity
                  where datname = pg_catalog.current_database() and pid <> pg_catalog.pg_backend_pid()
                    and backend_type = 'client backend')";
    let from = Instant::now();
    while from.elapsed() < STATISTICS {
        let row = client.query_one(others, &[]).await.doing(|| "look who is on the copy".into())?;
        if !row.get::<_, bool>(0) {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(SAMPLE_MS)).await;
    }
    Ok(false)
}

/// What is known of one table in one step.
#[derive(Debug, Default)]
struct Known {
    /// How long each lock was seen, by index and mode.
    locks: BTreeMap<(Option<u32>, Mode), Option<Duration>>,
    /// Those of the table that nobody saw.
    inferred: BTreeSet<Mode>,
    waits: BTreeMap<Kind, Duration>,
    rewritten: bool,
    /// Whether an index was built concurrently.
    concurrently: bool,
}

/// The report while it is put together.
struct Draft<'a> {
    relations: &'a Relations,
    /// The migrations, and the end.
    begun: &'a [(String, Instant)],
    steps: BTreeMap<(usize, u32), Known>,
}

impl Draft<'_> {
    fn known(&mut self, step: usize, table: u32) -> &mut Known {
        self.steps.entry((step, table)).or_default()
    }

    /// Takes over what the event triggers have noted, and removes them.
    async fn take_recorded(&mut self, client: &Client, clock: Clock) -> Result<(), DbError> {
        let rows = client
            .query(
                "select relation, mode, extract(epoch from at)::float8 from piton_rehearsal.locks
                 union all
                 select relation, 'rewrite', extract(epoch from at)::float8 from piton_rehearsal.rewrites",
                &[],
            )
            .await
            .doing(|| "read which locks the migrations took".into())?;
        for row in &rows {
            let Some((table, index)) = self.relations.find(row.get(0)) else { continue };
            let Some(step) = step_at(self.begun, clock.ours(row.get(2))) else { continue };
            let known = self.known(step, table);
            match Mode::of(row.get(1)) {
                Some(Mode::AccessShare) => {}
                Some(mode) => _ = known.locks.entry((index, mode)).or_default(),
                None => known.rewritten = true,
            }
        }
        client
            .batch_execute(
                "drop event trigger piton_rehearsal_locks; drop event trigger piton_rehearsal_rewrites;
                 drop schema piton_rehearsal cascade",
            )
            .await
            .doing(|| "remove what noted the locks".into())
    }

    /// Takes over what samples and probes have shown, and infers from what has changed which locks there were.
    fn take_seen(&mut self, seen: &Seen, recorded: bool) {
        for (&(step, table, index, mode), held) in &seen.held {
            let lock = self.known(step, table).locks.entry((index, mode)).or_default();
            *lock = (*lock).max(Some(*held));
        }
        for (&(step, table, kind), waited) in &seen.waits {
            self.known(step, table).waits.insert(kind, *waited);
        }
        let relations = self.relations;
        let is_old = |table: u32| relations.tables.contains_key(&table);
        for (step, pair) in seen.stands.windows(2).enumerate() {
            let [before, after] = pair else { continue };
            for (table, file) in &after.files {
                if before.files.get(table).is_some_and(|was| was != file) && is_old(*table) {
                    let known = self.known(step, *table);
                    known.rewritten = true;
                    known.infer(Mode::AccessExclusive);
                }
            }
            let made = missing_in(&before.indexes, &after.indexes);
            for index in made.clone().filter(|index| is_old(index.table)) {
                let known = self.known(step, index.table);
                known.concurrently |= index.concurrently;
                known.infer(if index.concurrently { Mode::ShareUpdateExclusive } else { Mode::Share });
            }
            for &(table, mode) in after.redefined.iter().filter(|(table, _)| is_old(*table)) {
                self.known(step, table).infer(mode);
            }
            if recorded {
                continue;
            }
            for index in missing_in(&after.indexes, &before.indexes).filter(|index| is_old(index.table)) {
                let rebuilt = made.clone().any(|made| made.concurrently && made.name == index.name);
                let known = self.known(step, index.table);
                if !rebuilt && !known.drops_concurrently() {
                    known.infer(Mode::AccessExclusive);
                }
            }
        }
    }

    /// Puts the steps together; rows are counted in the golden copy, which stands as the migrations found it.
    ///
    /// `changed` are the tables of which rows were changed; all may be without it.
    async fn finish(self, seen: &Seen, golden: &Database, changed: Option<&BTreeSet<u32>>) -> Vec<Step> {
        let rows = self.rows(golden).await;
        let mut steps = Vec::new();
        for (number, pair) in self.begun.windows(2).enumerate() {
            let [(name, from), (_, to)] = pair else { continue };
            let of_step = self.steps.iter().filter(|((step, _), _)| *step == number);
            let mut tables: Vec<Impact> = of_step
                .filter_map(|((_, table), known)| {
                    let impact =
                        known.impact(self.relations, self.relations.tables.get(table)?, rows.get(table));
                    let changed = changed.is_none_or(|changed| changed.contains(table));
                    Some(Impact { row_wait_ms: impact.row_wait_ms.filter(|_| changed), ..impact })
                })
                .collect();
            tables.retain(|impact| impact.rewritten || !impact.locks.is_empty());
            tables.sort_by(|a, b| a.table.cmp(&b.table));
            let wal = seen.stands.get(number).zip(seen.stands.get(number + 1));
            steps.push(Step {
                name: name.clone(),
                ms: millis(to.duration_since(*from)),
                wal_bytes: wal.map(|(before, after)| after.wal.saturating_sub(before.wal)),
                tables,
            });
        }
        steps
    }

    async fn rows(&self, golden: &Database) -> BTreeMap<u32, u64> {
        let mut rows = BTreeMap::new();
        let Ok(client) = golden.connect().await else { return rows };
        let touched: BTreeSet<u32> = self.steps.keys().map(|(_, table)| *table).collect();
        for oid in touched {
            let Some(table) = self.relations.tables.get(&oid).filter(|table| table.holds_rows) else {
                continue;
            };
            let counted = client.query_one(&format!("select count(*) from {}", table.name), &[]).await;
            // A materialized view without data has none to count.
            if let Ok(row) = counted {
                rows.insert(oid, u64::try_from(row.get::<_, i64>(0)).unwrap_or(0));
            }
        }
        rows
    }
}

/// Lists the entries of the second that the first has not.
fn missing_in<'a>(
    first: &'a BTreeMap<u32, sampler::Index>,
    second: &'a BTreeMap<u32, sampler::Index>,
) -> impl Iterator<Item = &'a sampler::Index> + Clone {
    second.iter().filter(|(oid, _)| !first.contains_key(oid)).map(|(_, index)| index)
}

impl Known {
    /// Notes a lock that nobody saw, unless a stronger one is known.
    fn infer(&mut self, mode: Mode) {
        if self.locks.keys().all(|(index, known)| index.is_some() || *known < mode) {
            self.locks.insert((None, mode), None);
            self.inferred.insert(mode);
        }
    }

    /// Tells whether an index that is gone went without a lock that holds others off: no build explains the weaker one.
    fn drops_concurrently(&self) -> bool {
        let seen = self.locks.get(&(None, Mode::ShareUpdateExclusive)).is_some_and(Option::is_some);
        seen && !self.concurrently
    }

    fn impact(&self, relations: &Relations, table: &Relation, rows: Option<&u64>) -> Impact {
        let lock = |(&(index, mode), held): (&(Option<u32>, Mode), &Option<Duration>)| Lock {
            index: index.and_then(|index| relations.indexes.get(&index)).map(|(_, name)| name.clone()),
            mode,
            blocks: mode.blocks(),
            inferred: index.is_none() && self.inferred.contains(&mode),
            held_ms: held.map(millis),
        };
        let mut locks: Vec<Lock> = self.locks.iter().map(lock).collect();
        locks.sort_by(|a, b| (b.mode, &a.index).cmp(&(a.mode, &b.index)));
        let row_wait = self.locks.get(&(None, Mode::RowExclusive)).copied().flatten();
        Impact {
            table: table.name.clone(),
            rows: rows.copied(),
            bytes: table.bytes,
            locks,
            rewritten: self.rewritten,
            read_wait_ms: self.waits.get(&Kind::Read).copied().map(millis),
            write_wait_ms: self.waits.get(&Kind::Write).copied().map(millis),
            row_wait_ms: row_wait.map(millis).filter(|ms| *ms > SAMPLE_MS),
            concurrently: self.concurrently,
        }
    }
}
