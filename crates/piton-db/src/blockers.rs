//! Who holds what a migration would wait for: locks, and everybody else behind it, or a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Row};

use crate::error::Doing;
use crate::rehearsal::{Mode, Step};
use crate::{Database, DbError, quote};

/// How often holders are looked for.
const LOOK: Duration = Duration::from_millis(250);

/// A transaction that holds what a migration waits for, and does not soon let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// Who it is and since when, in words.
    pub who: String,
    /// The tables that it holds, each with the lock's mode, and its snapshot.
    pub holds: Vec<String>,
    /// The statement that ends it; `None` for what would only begin again.
    pub end: Option<String>,
}

/// What migrations wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The locks that they take, by table.
    locks: BTreeMap<String, Vec<Mode>>,
    /// Whether they build an index concurrently, which waits for every older snapshot of the database.
    snapshots: bool,
}

/// A lock or a snapshot that somebody holds.
struct Holder {
    /// The transaction, of which there is one on the server.
    transaction: String,
    who: String,
    end: Option<String>,
    holds: String,
    /// How old the transaction is; `None` where the user may not see it.
    age: Option<Duration>,
}

impl Wanted {
    /// Puts together what some migrations of a rehearsal have locked.
    pub fn of<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Self {
        let mut wanted = Self::default();
        for impact in steps.into_iter().flat_map(|step| &step.tables) {
            let modes = wanted.locks.entry(impact.table.clone()).or_default();
            modes.extend(impact.locks.iter().map(|lock| lock.mode));
            // It waits, too, for whoever has written to the table.
            modes.extend(impact.concurrently.then_some(Mode::Share));
            wanted.snapshots |= impact.concurrently;
        }
        wanted
    }

    /// Waits for older snapshots as well, where `waits` says so.
    #[must_use]
    pub fn with_snapshots(self, waits: bool) -> Self {
        Self { snapshots: self.snapshots || waits, ..self }
    }

    async fn holders(&self, client: &Client) -> Result<Vec<Holder>, DbError> {
        let mut holders = lockers(client, &self.locks).await?;
        if self.snapshots {
            holders.extend(snapshots(client).await?);
        }
        holders.sort_by(|a, b| a.transaction.cmp(&b.transaction));
        Ok(holders)
    }
}

/// Waits until nobody holds for long what migrations wait for; returns who still does when the time is over.
///
/// Long is longer than `patience`, or as long as it is watched where the user may not see the age of a transaction.
///
/// # Errors
/// When the database cannot be asked.
pub async fn wait(
    database: &Database,
    wanted: &Wanted,
    patience: Duration,
    at_most: Duration,
    mut waiting: impl FnMut(&[Blocker]),
) -> Result<Vec<Blocker>, DbError> {
    let client = database.connect().await?;
    let from = Instant::now();
    let mut seen: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let now = Instant::now();
        let holders = wanted.holders(&client).await?;
        let first = seen.is_empty();
        for holder in &holders {
            seen.entry(holder.transaction.clone()).or_insert(if first { from } else { now });
        }
        let age = |holder: &Holder| {
            let watched = now.duration_since(seen[&holder.transaction]);
            holder.age.map_or(watched, |age| age.max(watched))
        };
        // On a busy table there is always somebody: those who came later go as they came.
        let found_first = holders.iter().any(|holder| seen[&holder.transaction] == from);
        let old: Vec<Holder> = holders.into_iter().filter(|holder| age(holder) >= patience).collect();
        if old.is_empty() && !found_first {
            return Ok(Vec::new());
        }
        let blockers = blockers(old);
        if from.elapsed() >= at_most {
            return Ok(blockers);
        }
        if !blockers.is_empty() {
            waiting(&blockers);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Lists who holds a lock that conflicts with a wanted one.
async fn lockers(client: &Client, wanted: &BTreeMap<String, Vec<Mode>>) -> Result<Vec<Holder>, DbError> {
    let tables: Vec<&str> = wanted.keys().map(String::as_str).collect();
    let rows = client
        .query(
            "select t.name, l.mode, l.virtualtransaction, l.pid, p.gids,
                    pg_catalog.concat_ws(' ', 'session', l.pid, 'of', a.usename, '(' || nullif(a.application_name, '') || ')', a.state),
                    extract(epoch from pg_catalog.clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8,
                    l.pid is not null and a.usesysid is null
             from pg_catalog.unnest($1::text[]) t(name)
             join pg_catalog.pg_locks l on l.relation = pg_catalog.to_regclass(t.name)
             join pg_catalog.pg_class c on c.oid = l.relation
             left join lateral (
               select min(option_value::int) filter (where option_name = 'autovacuum_freeze_max_age') as xid,
                      min(option_value::int) filter (where option_name = 'autovacuum_multixact_freeze_max_age') as mxid
               from pg_catalog.pg_options_to_table(c.reloptions)
               where option_name in ('autovacuum_freeze_max_age', 'autovacuum_multixact_freeze_max_age')
             ) own on true
             left join pg_catalog.pg_stat_activity a on a.pid = l.pid
             -- A prepared transaction has no session; what it has in common with its locks is the lock on its own number.
             left join lateral (
               select pg_catalog.array_agg(x.gid) as gids, min(x.prepared) as prepared
               from pg_catalog.pg_locks n join pg_catalog.pg_prepared_xacts x on x.transaction = n.transactionid
               where l.pid is null and n.pid is null and n.locktype = 'transactionid'
                 and n.virtualtransaction = l.virtualtransaction
             ) p on true
             where l.locktype = 'relation' and l.granted and l.pid is distinct from pg_catalog.pg_backend_pid()
               and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())
               -- Autovacuum is known by having no user, which everybody may see. It gives way to whoever waits for it, but for the
               -- one that keeps transactions' numbers from running out; its table is older than others may be.
               and (l.pid is null or a.usesysid is not null or a.query like '%(to prevent wraparound)'
                    or pg_catalog.age(c.relfrozenxid) > least(own.xid, pg_catalog.current_setting('autovacuum_freeze_max_age')::int)
                    or pg_catalog.mxid_age(c.relminmxid) >
                       least(own.mxid, pg_catalog.current_setting('autovacuum_multixact_freeze_max_age')::int))
             order by 3, 1",
            &[&tables],
        )
        .await
        .doing(|| "look who holds locks on the tables".into())?;
    let mut holders = Vec::new();
    for row in &rows {
        let table: String = row.get(0);
        let Some(mode) = Mode::of(row.get(1)) else { continue };
        if !wanted[&table].iter().any(|wanted| wanted.conflicts(mode)) {
            continue;
        }
        let gids: Vec<String> = row.get::<_, Option<_>>(4).unwrap_or_default();
        let (who, end) = match (row.get::<_, Option<i32>>(3), gids.as_slice()) {
            (Some(pid), _) if row.get(7) => {
                (format!("autovacuum {pid}, which never gives way (to prevent wraparound)"), None)
            }
            (Some(pid), _) => (row.get(5), Some(terminate(pid))),
            (None, [gid]) => {
                let end = format!("rollback prepared {}", quote::literal(gid));
                (format!("prepared transaction {gid}"), Some(end))
            }
            // It ended between the two looks.
            (None, []) => continue,
            // Their sessions have counted alike; which of them it is cannot be told.
            (None, gids) => (
                format!("prepared transaction {}", gids.join(" or ")),
                Some("select * from pg_prepared_xacts".into()),
            ),
        };
        let holds = format!("{mode} on {table}");
        holders.push(Holder { transaction: row.get(2), who, end, holds, age: age(row, 6) });
    }
    Ok(holders)
}

/// Lists who holds a snapshot of the database, for which a concurrent build waits.
///
/// Everybody may see who is in a transaction; whose snapshot may not be seen may have one.
async fn snapshots(client: &Client) -> Result<Vec<Holder>, DbError> {
    let rows = client
        .query(
            "select l.virtualtransaction, a.pid,
                    pg_catalog.concat_ws(' ', 'session', a.pid, 'of', a.usename, '(' || nullif(a.application_name, '') || ')', a.state),
                    extract(epoch from pg_catalog.clock_timestamp() - a.xact_start)::float8
             from pg_catalog.pg_stat_activity a
             join pg_catalog.pg_locks l on l.pid = a.pid and l.granted and l.virtualxid = l.virtualtransaction
             where a.datname = pg_catalog.current_database() and a.pid <> pg_catalog.pg_backend_pid()
               and a.usesysid is not null and (a.backend_xmin is not null or a.xact_start is null)
               -- Nobody waits for a vacuum's snapshot.
               and not exists (select from pg_catalog.pg_stat_progress_vacuum v where v.pid = a.pid)",
            &[],
        )
        .await
        .doing(|| "look who holds snapshots".into())?;
    let holder = |row: &Row| Holder {
        transaction: row.get(0),
        who: row.get(2),
        end: Some(terminate(row.get(1))),
        holds: "a snapshot".into(),
        age: age(row, 3),
    };
    Ok(rows.iter().map(holder).collect())
}

/// Lists whose transaction on this server has written, is not over, and is as old as this or older, but for one session's; one whose
/// age the user may not see is among them.
pub(crate) async fn writers(client: &Client, least: Duration, but: i32) -> Result<Vec<Blocker>, DbError> {
    let rows = client
        .query(
            "select l.virtualtransaction, l.pid, x.gid,
                    pg_catalog.concat_ws(' ', 'session', l.pid, 'of', a.usename, '(' || nullif(a.application_name, '') || ')', a.state,
                                         'on', a.datname),
                    extract(epoch from pg_catalog.clock_timestamp() - coalesce(a.xact_start, x.prepared))::float8
             from pg_catalog.pg_locks l
             left join pg_catalog.pg_stat_activity a on a.pid = l.pid
             left join pg_catalog.pg_prepared_xacts x on l.pid is null and x.transaction = l.transactionid
             where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
               and l.pid is distinct from pg_catalog.pg_backend_pid() and l.pid is distinct from $1
             order by 5 desc nulls last, 1",
            &[&but],
        )
        .await
        .doing(|| "look whose transactions are under way".into())?;
    let holder = |row: &Row| {
        let (who, end) = match (row.get::<_, Option<i32>>(1), row.get::<_, Option<String>>(2)) {
            (Some(pid), _) => (row.get(3), Some(terminate(pid))),
            (None, Some(gid)) => {
                let end = format!("rollback prepared {}", quote::literal(&gid));
                (format!("prepared transaction {gid}"), Some(end))
            }
            (None, None) => return None,
        };
        let holds = "an open transaction that has written".to_owned();
        Some(Holder { transaction: row.get(0), who, end, holds, age: age(row, 4) })
    };
    let mut holders: Vec<Holder> = rows.iter().filter_map(holder).collect();
    holders.retain(|holder| holder.age.is_none_or(|age| age >= least));
    // A subtransaction has a number of its own.
    let mut seen = BTreeSet::new();
    holders.retain(|holder| seen.insert(holder.transaction.clone()));
    Ok(blockers(holders))
}

fn terminate(pid: i32) -> String {
    format!("select pg_terminate_backend({pid})")
}

fn age(row: &Row, column: usize) -> Option<Duration> {
    let seconds = row.get::<_, Option<f64>>(column)?;
    Some(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// Puts together what each transaction holds; those of one follow one another.
fn blockers(holders: Vec<Holder>) -> Vec<Blocker> {
    let mut blockers: Vec<Blocker> = Vec::new();
    let mut last = None;
    for holder in holders {
        let who = match holder.age {
            Some(age) => format!("{}, for {} s", holder.who, age.as_secs()),
            None => holder.who,
        };
        match blockers.last_mut().filter(|_| last.as_ref() == Some(&holder.transaction)) {
            Some(blocker) => blocker.holds.push(holder.holds),
            None => blockers.push(Blocker { who, holds: vec![holder.holds], end: holder.end }),
        }
        last = Some(holder.transaction);
    }
    blockers
}
