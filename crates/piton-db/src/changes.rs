//! What has been written to a live database since its golden copy was made.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::Doing;
use crate::fingerprint::Rows;
use crate::large_objects::{self, LargeObject};
use crate::migrate::RecordTables;
use crate::progress::{OnProgress, Progress};
use crate::rowsum::RowSum;
use crate::tables::{self, Table};
use crate::target::{SILENCE, pin};
use crate::{Database, DbError, Session, quote};

/// How many rows are held in memory at once while rows are matched; about 50 bytes each.
const ROWS_PER_PASS: u64 = 2_000_000;

/// How one table, one sequence, or the large objects differ.
///
/// An updated row counts once in each direction: its new form is only in the live database, its old one only in the golden copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableChange {
    /// What it is.
    #[serde(default)]
    pub kind: Kind,
    /// The table or sequence, quoted.
    pub table: String,
    /// Where the table stands.
    pub presence: Presence,
    /// Rows inserted or changed: they would leave with the live database.
    pub only_in_live: u64,
    /// Rows deleted or changed: they would come back with the golden copy.
    pub only_in_golden: u64,
    /// Columns that only the live table has; their values would leave, and are not counted above.
    pub new_columns: Vec<String>,
    /// Columns that only the golden copy has; what was written into them before they went cannot be seen any more.
    #[serde(default)]
    pub gone_columns: Vec<String>,
}

/// What can be written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A table: rows are counted.
    #[default]
    Table,
    /// A sequence that stands elsewhere: 1 on either side.
    Sequence,
    /// All large objects together: objects are counted.
    LargeObjects,
}

/// Which of the two databases has a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// Both.
    Both,
    /// The live one: the table is new.
    Live,
    /// The golden copy: the table was dropped.
    Golden,
}

/// What migrations alone make of the golden copy: the contents of a copy on which nobody else has written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// The row count and row sum of each table over all of its columns, by quoted name.
    rows: Rows,
    /// What [`unfrozen`] returns.
    loose: String,
    /// The tables of the golden copy of which the migrations change or remove what was there. What somebody wrote into one
    /// after the backup, and before the migrations, cannot be seen afterwards.
    overwritten: Vec<String>,
    /// The record of the tool that ran them, which is left out.
    #[serde(default)]
    record: RecordTables,
}

impl Expected {
    /// Compares a migrated copy with the golden copy that it was made from; the tool's own record says nothing about rows.
    ///
    /// # Errors
    /// When either cannot be read.
    pub async fn of(golden: &Database, copy: &Database, record: RecordTables) -> Result<Self, DbError> {
        let (golden, copy) = (golden.connect().await?, copy.connect().await?);
        pin(&golden).await?;
        pin(&copy).await?;
        let (before, after) = (tables_of(&golden, &record).await?, tables_of(&copy, &record).await?);
        let mut rows = Rows::new();
        for table in &after {
            rows.insert(table.quoted(), tables::sum(&copy, table, &table.columns).await?);
        }
        let mut overwritten = Vec::new();
        for table in &before {
            let name = table.quoted();
            let same = after.iter().find(|other| other.quoted() == name);
            let change = match same {
                Some(other) => {
                    both(&golden, &copy, table, other, rows.get(&name).copied(), ROWS_PER_PASS).await?
                }
                None => Some(alone(&name, Presence::Golden)),
            };
            let adds_alone = |change: &TableChange| {
                change.presence == Presence::Both
                    && change.only_in_golden == 0
                    && change.gone_columns.is_empty()
            };
            if change.as_ref().is_none_or(adds_alone) {
                continue;
            }
            let whole = tables::sum(&golden, table, &table.columns).await?;
            let mut made = rows.iter().filter(|(made, _)| {
                same.is_some() == (**made == name)
                    && before.iter().all(|old| same.is_some() || old.quoted() != **made)
            });
            // A table or a column with another name holds what it held. An empty table is like every other empty one.
            if whole.rows == 0 || !made.any(|(_, sum)| *sum == whole) {
                overwritten.push(name);
            }
        }
        let loose = hash_of(&Loose::of(&copy, &record).await?);
        Ok(Self { rows, loose, overwritten, record })
    }

    /// Returns the tables in which the migrations change or remove what was there.
    pub fn overwritten(&self) -> &[String] {
        &self.overwritten
    }
}

/// Lists what differs from the golden copy, each row counted exactly, in one snapshot of the live database.
///
/// Rows are compared as text, on the columns that both tables have by name. A table is read once when nothing changed in it,
/// and once more for every two million rows when something did. Piton's own record of migrations is left out, and so is what
/// stands just as `expected`: nobody but the migration has written there. A table that was renamed is known by its contents.
///
/// # Errors
/// When either cannot be read.
pub async fn since(
    golden: &Database,
    live: &Database,
    expected: Option<&Expected>,
    progress: OnProgress<'_>,
) -> Result<Vec<TableChange>, DbError> {
    count_since(golden, live, expected, ROWS_PER_PASS, progress).await
}

pub(crate) async fn count_since(
    golden: &Database,
    live: &Database,
    expected: Option<&Expected>,
    rows_per_pass: u64,
    progress: OnProgress<'_>,
) -> Result<Vec<TableChange>, DbError> {
    let (golden, live) = (golden.connect().await?, live.connect().await?);
    for client in [&*golden, &*live] {
        pin(client).await?;
        client
            .batch_execute("begin isolation level repeatable read read only")
            .await
            .doing(|| "begin to compare".into())?;
    }
    let record = expected.map(|expected| expected.record.clone()).unwrap_or_default();
    compare((&golden, &live), expected, &record, rows_per_pass, progress).await
}

/// Lists in which tables two databases differ, but for the record of a tool that migrates.
pub(crate) async fn apart(
    golden: &Client,
    other: &Client,
    record: &RecordTables,
) -> Result<Vec<TableChange>, DbError> {
    compare((golden, other), None, record, ROWS_PER_PASS, &mut |_| {}).await
}

async fn compare(
    (golden, live): (&Client, &Client),
    expected: Option<&Expected>,
    record: &RecordTables,
    rows_per_pass: u64,
    progress: OnProgress<'_>,
) -> Result<Vec<TableChange>, DbError> {
    let mut pairs: BTreeMap<String, (Option<Table>, Option<Table>)> = BTreeMap::new();
    for table in tables_of(golden, record).await? {
        let name = table.quoted();
        pairs.entry(name).or_default().0 = Some(table);
    }
    for table in tables_of(live, record).await? {
        let name = table.quoted();
        pairs.entry(name).or_default().1 = Some(table);
    }
    let total = pairs.len() as u64;
    let mut changes = Vec::new();
    let (mut gone, mut made) = (Vec::new(), Vec::new());
    for (done, (name, pair)) in (1..).zip(pairs) {
        let wanted = expected.and_then(|expected| expected.rows.get(&name));
        match pair {
            (Some(a), Some(b)) => {
                let whole = match wanted {
                    Some(_) => Some(tables::sum(live, &b, &b.columns).await?),
                    None => None,
                };
                if whole.is_none() || whole.as_ref() != wanted {
                    changes.extend(both(golden, live, &a, &b, whole, rows_per_pass).await?);
                }
            }
            (Some(a), None) => gone.push((name.clone(), tables::sum(golden, &a, &a.columns).await?)),
            (None, Some(b)) => {
                let sum = tables::sum(live, &b, &b.columns).await?;
                if wanted != Some(&sum) {
                    changes.push(TableChange { only_in_live: sum.rows, ..alone(&name, Presence::Live) });
                }
                made.push((sum, wanted == Some(&sum)));
            }
            (None, None) => {}
        }
        progress(Progress { doing: "compare", what: name, done, total });
    }
    for (name, sum) in gone {
        // An empty table is like every other empty one: nothing tells that it was renamed.
        let renamed = sum.rows > 0 && made.iter().any(|(made, as_expected)| *as_expected && *made == sum);
        if !renamed {
            changes.push(TableChange { only_in_golden: sum.rows, ..alone(&name, Presence::Golden) });
        }
    }
    changes.sort_by(|a, b| a.table.cmp(&b.table));
    let loose = Loose::of(live, record).await?;
    if expected.is_none_or(|expected| expected.loose != hash_of(&loose)) {
        changes.extend(Loose::of(golden, record).await?.changes_to(&loose));
    }
    Ok(changes)
}

/// Lists the tables that people write: all but the records of migrations, Piton's own and the tool's.
async fn tables_of(client: &Client, record: &RecordTables) -> Result<Vec<Table>, DbError> {
    let mut tables = tables::list(client).await?;
    tables.retain(|table| !record.covers(&table.schema, &table.name));
    Ok(tables)
}

fn alone(table: &str, presence: Presence) -> TableChange {
    TableChange {
        kind: Kind::Table,
        table: table.to_owned(),
        presence,
        only_in_live: 0,
        only_in_golden: 0,
        new_columns: Vec::new(),
        gone_columns: Vec::new(),
    }
}

/// Returns one hash over what a [freeze](freeze) cannot hold still: where the sequences stand, and the large objects.
///
/// # Errors
/// When either cannot be read.
pub async fn unfrozen(database: &Database) -> Result<String, DbError> {
    let client = database.connect().await?;
    Ok(hash_of(&Loose::of(&client, &RecordTables::default()).await?))
}

/// Counts the large objects that two databases do not both have just so: no log tells of them.
///
/// # Errors
/// When either cannot be read.
pub async fn large_objects_apart(golden: &Database, live: &Database) -> Result<u64, DbError> {
    large_objects_differing(&*golden.connect().await?, &*live.connect().await?).await
}

/// As [`large_objects_apart`], on sessions that are open.
pub(crate) async fn large_objects_differing(golden: &Client, live: &Client) -> Result<u64, DbError> {
    let (before, now) = (large_objects::read(golden).await?, large_objects::read(live).await?);
    let numbers: BTreeSet<&u32> = before.keys().chain(now.keys()).collect();
    Ok(numbers.iter().filter(|number| before.get(number) != now.get(number)).count() as u64)
}

fn hash_of(loose: &Loose) -> String {
    blake3::hash(format!("{loose:?}").as_bytes()).to_hex().to_string()
}

/// What is written without a table.
#[derive(Debug)]
struct Loose {
    /// Where each sequence stands; `None` before its first value.
    sequences: BTreeMap<String, Option<i64>>,
    /// Each large object.
    objects: BTreeMap<u32, LargeObject>,
}

impl Loose {
    async fn of(client: &Client, record: &RecordTables) -> Result<Self, DbError> {
        let sequences = client
            .query(
                "select pg_catalog.format('%I.%I', schemaname, sequencename), last_value, schemaname::text, sequencename::text
                 from pg_catalog.pg_sequences where schemaname !~ '^pg_' and schemaname <> 'piton_capture'",
                &[],
            )
            .await
            .doing(|| "read the sequences".into())?;
        Ok(Self {
            sequences: sequences
                .iter()
                .filter(|row| !record.covers(row.get(2), row.get(3)))
                .map(|row| (row.get(0), row.get(1)))
                .collect(),
            objects: large_objects::read(client).await?,
        })
    }

    fn changes_to(&self, live: &Self) -> Vec<TableChange> {
        let mut changes = Vec::new();
        let names: BTreeSet<&String> = self.sequences.keys().chain(live.sequences.keys()).collect();
        for name in names {
            let (in_golden, in_live) = (self.sequences.get(name), live.sequences.get(name));
            let presence = match (in_golden, in_live) {
                (Some(_), None) => Presence::Golden,
                (None, Some(_)) => Presence::Live,
                _ => Presence::Both,
            };
            // A sequence that only one has, and that never gave a number, is structure alone.
            if in_golden.copied().flatten() != in_live.copied().flatten() {
                changes.push(TableChange {
                    kind: Kind::Sequence,
                    table: name.clone(),
                    presence,
                    only_in_live: u64::from(presence != Presence::Golden),
                    only_in_golden: u64::from(presence != Presence::Live),
                    new_columns: Vec::new(),
                    gone_columns: Vec::new(),
                });
            }
        }
        let missing = |from: &Self, other: &Self| {
            let differs = |(oid, object): &(&u32, &LargeObject)| other.objects.get(*oid) != Some(*object);
            from.objects.iter().filter(differs).count() as u64
        };
        let (only_in_live, only_in_golden) = (missing(live, self), missing(self, live));
        if only_in_live + only_in_golden > 0 {
            changes.push(TableChange {
                kind: Kind::LargeObjects,
                table: "large objects".into(),
                presence: Presence::Both,
                only_in_live,
                only_in_golden,
                new_columns: Vec::new(),
                gone_columns: Vec::new(),
            });
        }
        changes
    }
}

/// The name by which a swap knows the freezing session.
pub(crate) const FREEZER: &str = "piton freeze";

/// The first attempt at a freeze is shorter than the server's wait for a deadlock, so that no writer is ended as one's victim;
/// the later ones are longer, because it is that wait which makes autovacuum give way.
const FIRST_ATTEMPT: Duration = Duration::from_millis(500);

/// How long autovacuum is waited for before a freeze, in all.
const MAINTENANCE: Duration = Duration::from_secs(3);

/// Sends autovacuum away from the tables while nobody waits yet; returns whether it was at one.
///
/// It gives way to whoever has waited for a second, and would let a [freeze] be that one. It takes three seconds at most: what does
/// not give way, a freeze will tell.
///
/// # Errors
/// When the server cannot be asked.
pub async fn send_autovacuum_away(live: &Database) -> Result<bool, DbError> {
    let session = live.connect().await?;
    let begin = Instant::now();
    let mut was_there = false;
    while let Some(table) = vacuumed(&session).await?
        && begin.elapsed() < MAINTENANCE
    {
        was_there = true;
        let left = MAINTENANCE.saturating_sub(begin.elapsed()).as_millis().max(1);
        // Nothing else is locked while it waits, and no writer waits behind it.
        let wait = format!(
            "begin; set local lock_timeout = {left}; lock table only {table} in share update exclusive mode; rollback"
        );
        if session.batch_execute(&wait).await.is_err() {
            break;
        }
    }
    Ok(was_there)
}

/// Returns a table, quoted, at which autovacuum is; it is known by having no user, which everybody may see.
async fn vacuumed(client: &Client) -> Result<Option<String>, DbError> {
    let row = client
        .query_opt(
            "select n.nspname::text, c.relname::text
             from pg_catalog.pg_locks l
             join pg_catalog.pg_stat_activity a on a.pid = l.pid and a.usesysid is null
             join pg_catalog.pg_database d on d.oid = l.database and d.datname = pg_catalog.current_database()
             join pg_catalog.pg_class c on c.oid = l.relation and c.relkind in ('r', 'p')
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where l.granted and l.mode = 'ShareUpdateExclusiveLock' and n.nspname !~ '^pg_'
             order by c.oid limit 1",
            &[],
        )
        .await
        .doing(|| "look for autovacuum".into())?;
    Ok(row.map(|row| quote::qualified(row.get(0), row.get(1))))
}

/// A database in which no row is written until this is dropped, its process ends, or a swap takes the database away.
#[derive(Debug)]
#[must_use = "dropping it ends the freeze"]
pub struct Frozen {
    session: Session,
}

impl Frozen {
    /// Makes sure that the freeze has held until now.
    ///
    /// # Errors
    /// When its session was ended: rows may have been written since.
    pub async fn check(&self) -> Result<(), DbError> {
        self.session.batch_execute("select").await.doing(|| "keep the database frozen".into())
    }
}

/// Keeps every row of a live database as it is: writers wait, readers go on; `None` when writers stood in the way for `wait`.
///
/// One transaction holds a SHARE lock on every table outside the system's schemas. Not held are sequences and large objects, which
/// [`unfrozen`] tells about, and a table that is created meanwhile. `None` leaves nothing locked. While a swap is under way it keeps the writers waiting until
/// none of them is left; they are told that their session was ended, and nothing of theirs was written.
///
/// # Errors
/// [`DbError::Privilege`] when the user may not write one of the tables; or when the server cannot be asked.
pub async fn freeze(live: &Database, wait: Duration) -> Result<Option<Frozen>, DbError> {
    let session = live.connect().await?;
    session
        .batch_execute(&format!(
            "set application_name = {}; set idle_in_transaction_session_timeout = '{SILENCE}'; set lock_timeout = 0;
             select pg_catalog.set_config('transaction_timeout', '0', false)
             where pg_catalog.current_setting('server_version_num')::int >= 170000",
            quote::literal(FREEZER)
        ))
        .await
        .doing(|| "prepare to freeze the database".into())?;
    let begin = Instant::now();
    let mut attempt = FIRST_ATTEMPT;
    loop {
        let left = wait.saturating_sub(begin.elapsed());
        match lock_tables(&session, attempt.min(left)).await {
            Ok(()) => return Ok(Some(Frozen { session })),
            Err(error) if !loses_to_others(&error) => {
                return Err(error).needing(
                    || "freeze the database".into(),
                    || format!("GRANT UPDATE ON the table TO {}", quote::ident(&live.user)),
                );
            }
            Err(_) if begin.elapsed() >= wait => return Ok(None),
            Err(_) => {
                session.batch_execute("rollback").await.doing(|| "let the writers go on".into())?;
                attempt *= 2;
            }
        }
    }
}

/// Tells whether another session stood in the way, or dropped a table before it was locked.
fn loses_to_others(error: &tokio_postgres::Error) -> bool {
    matches!(
        error.code(),
        Some(
            &SqlState::QUERY_CANCELED
                | &SqlState::T_R_DEADLOCK_DETECTED
                | &SqlState::UNDEFINED_TABLE
                | &SqlState::INVALID_SCHEMA_NAME
        )
    )
}

/// Locks every table against writers, in a transaction that stays open.
async fn lock_tables(client: &Client, within: Duration) -> Result<(), tokio_postgres::Error> {
    // 0 would be no limit at all.
    let limit = within.as_millis().max(1);
    client
        .batch_execute(&format!(
            "begin isolation level read committed; set local statement_timeout = {limit}"
        ))
        .await?;
    let mut locked: Vec<String> = Vec::new();
    loop {
        // While it waited for its locks, others may have created tables.
        let tables = lockable(client).await?;
        let new: Vec<&str> =
            tables.iter().map(String::as_str).filter(|t| !locked.iter().any(|l| l == t)).collect();
        if new.is_empty() {
            break;
        }
        client.batch_execute(&format!("lock table only {} in share mode", new.join(", only "))).await?;
        locked = tables;
    }
    client.batch_execute("set local statement_timeout = 0").await
}

/// Lists the tables, quoted; an extension's own are left out where the user could not write them either.
async fn lockable(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = client
        .query(
            "select n.nspname::text, c.relname::text
             from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where c.relkind in ('r', 'p') and c.relpersistence <> 't'
               and n.nspname not in ('information_schema', 'piton_capture') and n.nspname !~ '^pg_'
               and (pg_catalog.has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE') or not exists (
                 select from pg_catalog.pg_depend d
                 where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'))
             order by c.relkind, c.oid",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| quote::qualified(row.get(0), row.get(1))).collect())
}

/// Compares a table that both have; `None` when it is the same.
///
/// `whole` is the live one's sum over all of its columns, where it is known.
async fn both(
    golden: &Client,
    live: &Client,
    a: &Table,
    b: &Table,
    whole: Option<RowSum>,
    rows_per_pass: u64,
) -> Result<Option<TableChange>, DbError> {
    let without = |these: &Table, those: &Table| -> Vec<String> {
        these.columns.iter().filter(|column| !those.columns.contains(column)).cloned().collect()
    };
    let mut change = TableChange {
        new_columns: without(b, a),
        gone_columns: without(a, b),
        ..alone(&b.quoted(), Presence::Both)
    };
    let columns: Vec<String> =
        a.columns.iter().filter(|column| b.columns.contains(column)).cloned().collect();
    let of_live = async {
        match whole {
            Some(sum) if columns == b.columns => Ok(sum),
            _ => tables::sum(live, b, &columns).await,
        }
    };
    let (in_golden, in_live) = futures_util::try_join!(tables::sum(golden, a, &columns), of_live)?;
    if in_golden == in_live {
        let same_columns = change.new_columns.is_empty() && change.gone_columns.is_empty();
        return Ok((!same_columns).then_some(change));
    }
    let passes = in_golden.rows.max(in_live.rows).div_ceil(rows_per_pass).max(1);
    for pass in 0..passes {
        let share = Share { pass, passes };
        let (only_in_golden, only_in_live) =
            unmatched((golden, a, &columns), (live, b, &columns), share).await?;
        change.only_in_golden += only_in_golden;
        change.only_in_live += only_in_live;
    }
    Ok(Some(change))
}

/// Counts the rows of a table that another one has not got, on columns that have other names there.
pub(crate) async fn missing(
    (a, table, columns): (&Client, &Table, &[String]),
    (b, other, others): (&Client, &Table, &[String]),
) -> Result<u64, DbError> {
    let (here, there) =
        futures_util::try_join!(tables::sum(a, table, columns), tables::sum(b, other, others))?;
    if here == there {
        return Ok(0);
    }
    let passes = here.rows.max(there.rows).div_ceil(ROWS_PER_PASS).max(1);
    let mut count = 0;
    for pass in 0..passes {
        let share = Share { pass, passes };
        count += unmatched((a, table, columns), (b, other, others), share).await?.0;
    }
    Ok(count)
}

/// The rows that one pass looks at.
#[derive(Clone, Copy)]
struct Share {
    pass: u64,
    passes: u64,
}

impl Share {
    /// Returns the row's key when it is of this share: equal rows always are of the same one.
    fn key(self, row: &[u8]) -> Option<[u8; 16]> {
        let hash = blake3::hash(row);
        let (chunks, _) = hash.as_bytes().as_chunks::<8>();
        let mut key = [0; 16];
        key.copy_from_slice(&hash.as_bytes()[..16]);
        (u64::from_le_bytes(chunks[3]) % self.passes == self.pass).then_some(key)
    }
}

/// Counts the rows of a share that have no partner on the other side: in the golden copy, in the live database.
async fn unmatched(
    (golden, a, columns): (&Client, &Table, &[String]),
    (live, b, others): (&Client, &Table, &[String]),
    share: Share,
) -> Result<(u64, u64), DbError> {
    let mut surplus: HashMap<[u8; 16], i64> = HashMap::new();
    let mut add = |row: &[u8], by: i64| {
        if let Some(key) = share.key(row) {
            *surplus.entry(key).or_default() += by;
        }
    };
    tables::each_row(golden, a, columns, |row| add(row, 1)).await?;
    tables::each_row(live, b, others, |row| add(row, -1)).await?;
    let count = |sign: i64| surplus.values().map(|n| (n * sign).max(0).unsigned_abs()).sum();
    Ok((count(1), count(-1)))
}

#[cfg(test)]
mod tests {
    use piton_exec::Secret;
    use piton_testkit::postgres::Cluster;

    use super::*;

    /// Counts by the server itself what is only on one side.
    const ORACLE: &str = "select (select count(*) from (table live.t except all table golden.t) x),
                                 (select count(*) from (table golden.t except all table live.t) x)";

    #[tokio::test]
    async fn changes_are_counted_as_the_server_counts_them() {
        let Some(cluster) = Cluster::shared() else { return };
        let client = cluster.connect("postgres").await;
        cluster.create_database("counted").await;
        let live = Database::parse(&Secret::from(cluster.url("counted"))).unwrap();
        let run = async |sql: &str| cluster.connect("counted").await.batch_execute(sql).await.unwrap();
        run("create table t (a int, b text); insert into t select i % 50, md5((i % 70)::text) from generate_series(1, 900) i;
             create table same (a int); insert into same values (1); create table gone (a int); insert into gone values (1), (2);
             create table grown (a int); insert into grown values (1);
             create schema piton; create table piton.migrations (name text)")
            .await;
        client.batch_execute("create database counted_golden template counted").await.unwrap();
        let golden = live.with_name("counted_golden");
        assert_eq!(since(&golden, &live, None, &mut |_| {}).await.unwrap(), []);

        run("insert into t select a, b from t where a < 5; delete from t where ctid in (select ctid from t where a = 7 limit 9);
             update t set b = 'x' where a = 9; insert into t values (null, '\\N'), (null, null);
             alter table t add note text default 'n'; drop table gone; create table fresh (); insert into fresh default values;
             alter table grown add b int; insert into piton.migrations values ('1')")
            .await;
        // The oracle wants both tables in one database.
        run("create schema live; create table live.t as select a, b from public.t; create schema golden")
            .await;
        let copy = cluster.connect("counted_golden").await;
        let rows = copy.query("select a, b from t", &[]).await.unwrap();
        drop(copy);
        let oracle = cluster.connect("counted").await;
        oracle.batch_execute("create table golden.t (a int, b text)").await.unwrap();
        for row in &rows {
            let (a, b) = (row.get::<_, Option<i32>>(0), row.get::<_, Option<&str>>(1));
            oracle.execute("insert into golden.t values ($1, $2)", &[&a, &b]).await.unwrap();
        }
        let counted = oracle.query_one(ORACLE, &[]).await.unwrap();
        oracle.batch_execute("drop schema live, golden cascade").await.unwrap();

        let change = |table: &str, presence, live, gone, new: &[&str]| TableChange {
            kind: Kind::Table,
            table: format!("\"public\".\"{table}\""),
            presence,
            only_in_live: live,
            only_in_golden: gone,
            new_columns: new.iter().map(|&c| c.to_owned()).collect(),
            gone_columns: Vec::new(),
        };
        let count = |column| counted.get::<_, i64>(column).unsigned_abs();
        assert!(count(0) > 80 && count(1) > 20);
        let wanted = [
            change("fresh", Presence::Live, 1, 0, &[]),
            change("gone", Presence::Golden, 0, 2, &[]),
            change("grown", Presence::Both, 0, 0, &["b"]),
            change("t", Presence::Both, count(0), count(1), &["note"]),
        ];
        for rows_per_pass in [ROWS_PER_PASS, 100, 7] {
            assert_eq!(count_since(&golden, &live, None, rows_per_pass, &mut |_| {}).await.unwrap(), wanted);
        }
    }
    #[tokio::test]
    async fn sequences_and_large_objects_are_told_apart() {
        let Some(cluster) = Cluster::shared() else { return };
        cluster.create_database("loose").await;
        let run = async |sql: &str| cluster.connect("loose").await.batch_execute(sql).await.unwrap();
        run("create sequence \"My Seq\" increment -3 maxvalue 100 start 77; create sequence still; create sequence unused;
             select nextval('\"My Seq\"'), nextval('still');
             select lo_from_bytea(4242, '\\xcafebabe'), lo_from_bytea(17, ''), lo_from_bytea(18, decode(repeat('ab', 17 << 20), 'hex'))")
            .await;
        let client = cluster.connect("postgres").await;
        client.batch_execute("create database loose_golden template loose").await.unwrap();
        let live = Database::parse(&Secret::from(cluster.url("loose"))).unwrap();
        let golden = live.with_name("loose_golden");
        assert_eq!(since(&golden, &live, None, &mut |_| {}).await.unwrap(), []);
        assert_eq!(unfrozen(&golden).await.unwrap(), unfrozen(&live).await.unwrap());

        let changed = async || {
            let changes = since(&golden, &live, None, &mut |_| {}).await.unwrap();
            assert_ne!(unfrozen(&golden).await.unwrap(), unfrozen(&live).await.unwrap());
            changes.into_iter().map(|c| (c.table, c.only_in_live, c.only_in_golden)).collect::<Vec<_>>()
        };
        // Behind the first piece alone.
        run("select lo_put(18, 17 << 20, '\\x01')").await;
        assert_eq!(changed().await, [("large objects".to_owned(), 1, 1)]);
        run("select nextval('\"My Seq\"'), nextval('unused'), lo_unlink(17), lo_create(778);
             create sequence fresh; create sequence fresh_too; select nextval('fresh')")
        .await;
        let wanted = [
            ("public.\"My Seq\"", 1, 1),
            ("public.fresh", 1, 0),
            ("public.unused", 1, 1),
            ("large objects", 2, 2),
        ];
        assert_eq!(changed().await, wanted.map(|(name, live, gone)| (name.to_owned(), live, gone)));
    }
}
