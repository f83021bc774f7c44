//! What has been written to a live database since its golden copy was made.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::migrate::sql;
use crate::progress::{OnProgress, Progress};
use crate::tables::{self, Table};
use crate::target::pin;
use crate::{Database, DbError};

/// How many rows are held in memory at once while rows are matched; about 50 bytes each.
const ROWS_PER_PASS: u64 = 2_000_000;

/// How the rows of one table differ.
///
/// An updated row counts once in each direction: its new form is only in the live database, its old one only in the golden copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableChange {
    /// The table, quoted.
    pub table: String,
    /// Where the table stands.
    pub presence: Presence,
    /// Rows inserted or changed: they would leave with the live database.
    pub only_in_live: u64,
    /// Rows deleted or changed: they would come back with the golden copy.
    pub only_in_golden: u64,
    /// Columns that only the live table has; their values would leave, and are not counted above.
    pub new_columns: Vec<String>,
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

/// Lists the tables whose rows differ from the golden copy, each counted exactly, in one snapshot of the live database.
///
/// Rows are compared as text, on the columns that both tables have by name. A table is read once when nothing changed in it,
/// and once more for every two million rows when something did. Piton's own record of migrations is left out.
///
/// # Errors
/// When either cannot be read.
pub async fn since(
    golden: &Database,
    live: &Database,
    progress: OnProgress<'_>,
) -> Result<Vec<TableChange>, DbError> {
    count_since(golden, live, ROWS_PER_PASS, progress).await
}

pub(crate) async fn count_since(
    golden: &Database,
    live: &Database,
    rows_per_pass: u64,
    progress: OnProgress<'_>,
) -> Result<Vec<TableChange>, DbError> {
    let (golden, live) = (golden.connect().await?, live.connect().await?);
    for client in [&golden, &live] {
        pin(client).await?;
        client
            .batch_execute("begin isolation level repeatable read read only")
            .await
            .doing(|| "begin to compare".into())?;
    }
    let mut pairs: BTreeMap<String, (Option<Table>, Option<Table>)> = BTreeMap::new();
    for table in tables::list(&golden).await? {
        let name = table.quoted();
        pairs.entry(name).or_default().0 = Some(table);
    }
    for table in tables::list(&live).await? {
        let name = table.quoted();
        pairs.entry(name).or_default().1 = Some(table);
    }
    pairs.retain(|_, (a, b)| a.as_ref().or(b.as_ref()).is_some_and(|table| table.schema != sql::SCHEMA));
    let total = pairs.len() as u64;
    let mut changes = Vec::new();
    for (done, (name, pair)) in (1..).zip(pairs) {
        let change = match pair {
            (Some(a), Some(b)) => both(&golden, &live, &a, &b, rows_per_pass).await?,
            (Some(a), None) => Some(alone(&golden, &a, Presence::Golden).await?),
            (None, Some(b)) => Some(alone(&live, &b, Presence::Live).await?),
            (None, None) => None,
        };
        changes.extend(change);
        progress(Progress { doing: "compare", what: name, done, total });
    }
    Ok(changes)
}

async fn alone(client: &Client, table: &Table, presence: Presence) -> Result<TableChange, DbError> {
    let row = client
        .query_one(&format!("select count(*) from only {}", table.quoted()), &[])
        .await
        .doing(|| format!("count the rows of {}", table.quoted()))?;
    let rows = row.get::<_, i64>(0).unsigned_abs();
    let (only_in_live, only_in_golden) = if presence == Presence::Live { (rows, 0) } else { (0, rows) };
    Ok(TableChange { table: table.quoted(), presence, only_in_live, only_in_golden, new_columns: Vec::new() })
}

async fn both(
    golden: &Client,
    live: &Client,
    a: &Table,
    b: &Table,
    rows_per_pass: u64,
) -> Result<Option<TableChange>, DbError> {
    let columns: Vec<String> =
        a.columns.iter().filter(|column| b.columns.contains(column)).cloned().collect();
    let new_columns: Vec<String> =
        b.columns.iter().filter(|column| !a.columns.contains(column)).cloned().collect();
    let (in_golden, in_live) =
        futures_util::try_join!(tables::sum(golden, a, &columns), tables::sum(live, b, &columns))?;
    let mut change = TableChange {
        table: b.quoted(),
        presence: Presence::Both,
        only_in_live: 0,
        only_in_golden: 0,
        new_columns,
    };
    if in_golden != in_live {
        let passes = in_golden.rows.max(in_live.rows).div_ceil(rows_per_pass).max(1);
        for pass in 0..passes {
            let share = Share { pass, passes };
            let (only_in_golden, only_in_live) = unmatched((golden, a), (live, b), &columns, share).await?;
            change.only_in_golden += only_in_golden;
            change.only_in_live += only_in_live;
        }
    }
    let differs = in_golden != in_live || !change.new_columns.is_empty();
    Ok(differs.then_some(change))
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
    (golden, a): (&Client, &Table),
    (live, b): (&Client, &Table),
    columns: &[String],
    share: Share,
) -> Result<(u64, u64), DbError> {
    let mut surplus: HashMap<[u8; 16], i64> = HashMap::new();
    let mut add = |row: &[u8], by: i64| {
        if let Some(key) = share.key(row) {
            *surplus.entry(key).or_default() += by;
        }
    };
    tables::each_row(golden, a, columns, |row| add(row, 1)).await?;
    tables::each_row(live, b, columns, |row| add(row, -1)).await?;
    let count = |sign: i64| surplus.values().map(|n| (n * sign).max(0).unsigned_abs()).sum();
    Ok((count(1), count(-1)))
}
