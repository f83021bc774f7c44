//! Who holds locks that a migration would wait for, and everybody else behind it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::error::Doing;
use crate::rehearsal::{Mode, Report};
use crate::{Database, DbError, quote};

/// How often holders are looked for.
const LOOK: Duration = Duration::from_millis(250);

/// A transaction that holds a lock which a migration needs, and does not soon let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// Who it is and since when, in words.
    pub who: String,
    /// The tables that it holds, each with the lock's mode.
    pub holds: Vec<String>,
    /// The statement that ends it.
    pub end: String,
}

/// A lock that somebody holds.
struct Holder {
    /// The transaction, of which there is one on the server.
    transaction: String,
    who: String,
    end: String,
    table: String,
    mode: Mode,
    /// How old the transaction is; `None` where the user may not see it.
    age: Option<Duration>,
}

/// Waits until nobody holds a lock for long on what the migrations of a rehearsal lock; returns who still does when the time is over.
///
/// Long is longer than `patience`, or as long as it is watched where the user may not see the age of a transaction.
///
/// # Errors
/// When the database cannot be asked.
pub async fn wait(
    database: &Database,
    report: &Report,
    patience: Duration,
    at_most: Duration,
    mut waiting: impl FnMut(&[Blocker]),
) -> Result<Vec<Blocker>, DbError> {
    let wanted = wanted(report);
    let client = database.connect().await?;
    let from = Instant::now();
    let mut seen: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        let now = Instant::now();
        let holders = holders(&client, &wanted).await?;
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

/// Lists the locks that the migrations take, by table.
fn wanted(report: &Report) -> BTreeMap<String, Vec<Mode>> {
    let mut wanted: BTreeMap<String, Vec<Mode>> = BTreeMap::new();
    for impact in report.steps.iter().flat_map(|step| &step.tables) {
        let modes = wanted.entry(impact.table.clone()).or_default();
        modes.extend(impact.locks.iter().map(|lock| lock.mode));
    }
    wanted
}

/// Lists who holds a lock that conflicts with a wanted one.
async fn holders(client: &Client, wanted: &BTreeMap<String, Vec<Mode>>) -> Result<Vec<Holder>, DbError> {
    let tables: Vec<&str> = wanted.keys().map(String::as_str).collect();
    let rows = client
        .query(
            "select t.name, l.mode, l.virtualtransaction, l.pid, p.gids,
                    pg_catalog.concat_ws(' ', 'session', l.pid, 'of', a.usename, '(' || nullif(a.application_name, '') || ')', a.state),
                    extract(epoch from pg_catalog.clock_timestamp() - coalesce(a.xact_start, p.prepared))::float8
             from pg_catalog.unnest($1::text[]) t(name)
             join pg_catalog.pg_locks l on l.relation = pg_catalog.to_regclass(t.name)
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
               -- It gives way to whoever waits for it.
               and a.backend_type is distinct from 'autovacuum worker'
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
            (Some(pid), _) => (row.get(5), format!("select pg_terminate_backend({pid})")),
            (None, [gid]) => {
                (format!("prepared transaction {gid}"), format!("rollback prepared {}", quote::literal(gid)))
            }
            // It ended between the two looks.
            (None, []) => continue,
            // Their sessions have counted alike; which of them it is cannot be told.
            (None, gids) => (
                format!("prepared transaction {}", gids.join(" or ")),
                "select * from pg_prepared_xacts".into(),
            ),
        };
        let age = row.get::<_, Option<f64>>(6);
        let age = age.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
        holders.push(Holder { transaction: row.get(2), who, end, table, mode, age });
    }
    Ok(holders)
}

/// Puts the locks of each transaction together.
fn blockers(holders: Vec<Holder>) -> Vec<Blocker> {
    let mut blockers: Vec<Blocker> = Vec::new();
    for holder in holders {
        let who = match holder.age {
            Some(age) => format!("{}, for {} s", holder.who, age.as_secs()),
            None => holder.who,
        };
        let holds = format!("{} on {}", holder.mode, holder.table);
        match blockers.iter_mut().find(|blocker| blocker.end == holder.end) {
            Some(blocker) => blocker.holds.push(holds),
            None => blockers.push(Blocker { who, holds: vec![holds], end: holder.end }),
        }
    }
    blockers
}
