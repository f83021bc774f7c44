//! What would leave with a live database if an older one took its place: counted row by row, and written down.

mod file;
mod merge;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use self::file::Spool;
use self::merge::{Known, Sides};
use crate::capture::is_since;
use crate::changes::{self, Presence};
use crate::error::Doing;
use crate::fingerprint::{Change, Structure};
use crate::migrate::RecordTables;
use crate::progress::{OnProgress, Progress};
use crate::rowsum::RowSum;
use crate::tables::{self, Table};
use crate::target::pin;
use crate::{Database, DbError, Session, quote};

pub use self::file::Exported;

/// What would leave with a live database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The tables in which something was written.
    pub tables: Vec<TableLoss>,
    /// Large objects that the other database has not, or not just so.
    pub large_objects: u64,
    /// What becomes of objects of the structure that the two do not share, each in words.
    pub objects: Vec<String>,
}

/// What was written to one table. A row is told by its key; where there is none, a changed one counts as removed and inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableLoss {
    /// The table, quoted.
    pub table: String,
    /// Where it stands.
    pub presence: Presence,
    /// Rows that the live database alone has.
    pub inserted: u64,
    /// Rows that it has otherwise.
    pub changed: u64,
    /// Rows that it has no more: they come back.
    pub deleted: u64,
}

impl TableLoss {
    fn none(table: &str, presence: Presence) -> Self {
        Self { table: table.to_owned(), presence, inserted: 0, changed: 0, deleted: 0 }
    }

    fn total(&self) -> u64 {
        self.inserted + self.changed + self.deleted
    }
}

impl Loss {
    /// Returns how many rows, large objects and objects of the structure these are.
    pub fn total(&self) -> u64 {
        let rows: u64 = self.tables.iter().map(TableLoss::total).sum();
        rows + self.large_objects + self.objects.len() as u64
    }
}

/// One look at both databases, which a later one goes on from.
#[derive(Debug)]
pub struct Look {
    /// What would leave.
    pub loss: Loss,
    /// The rows themselves, when they were wanted.
    spool: Option<Spool>,
    /// How each table stood, by its quoted name.
    stood: BTreeMap<String, Stood>,
    /// The oldest transaction that this look may not have seen the end of.
    since: u64,
}

/// How a table stood when it was looked at.
#[derive(Clone, Debug)]
struct Stood {
    oid: u32,
    columns: Vec<String>,
    /// The older one's columns.
    older: Vec<String>,
    rows: u64,
    loss: TableLoss,
}

impl Look {
    /// Writes the rows into a file, whole or not at all, and reads it back.
    ///
    /// # Errors
    /// When it cannot be written, or does not hold what was written.
    pub async fn export(self, file: &Path) -> Result<Exported, DbError> {
        let Some(spool) = self.spool else { return Ok(Exported::default()) };
        let file = file.to_owned();
        // A large one takes its time, and a freeze has to be kept up meanwhile.
        let written = tokio::task::spawn_blocking(move || spool.export(&file)).await;
        written.map_err(std::io::Error::other)?
    }
}

/// Looks what would leave with the live database, in one snapshot of it; with `rows_in` the rows are kept in a nameless file of
/// that folder, for [`Look::export`].
///
/// Rows are compared as text, in the columns that both tables have; a value in a column that only the live one has is lost, too.
/// The tool's record of migrations is left out, and so are sequences: see [`move_sequences`]. Of a table to which nobody has written
/// since the look `before`, that one's result holds.
///
/// # Errors
/// When either cannot be read, or the rows not be kept.
pub async fn look(
    older: &Database,
    live: &Database,
    record: &RecordTables,
    rows_in: Option<&Path>,
    before: Option<&Look>,
    progress: OnProgress<'_>,
) -> Result<Look, DbError> {
    let (older, live) = (session(older).await?, session(live).await?);
    let since = "select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::int8";
    let row = live.query_one(since, &[]).await.doing(|| "note the transactions under way".into())?;
    let since = row.get::<_, i64>(0).unsigned_abs();
    let mut pairs: BTreeMap<String, (Option<Table>, Option<Table>)> = BTreeMap::new();
    for table in written_tables(&older, record).await? {
        let name = table.quoted();
        pairs.entry(name).or_default().0 = Some(table);
    }
    for table in written_tables(&live, record).await? {
        let name = table.quoted();
        pairs.entry(name).or_default().1 = Some(table);
    }
    let known = (Known::read(&older).await?, Known::read(&live).await?);
    let total = pairs.len() as u64;
    let mut look = Look {
        loss: Loss::default(),
        spool: rows_in.map(Spool::in_folder).transpose()?,
        stood: BTreeMap::new(),
        since,
    };
    for (done, (name, pair)) in (1..).zip(pairs) {
        let loss = match &pair {
            (Some(_), Some(b)) | (None, Some(b)) => {
                let a = pair.0.as_ref();
                match look.untouched(&live, &name, a, b, before).await? {
                    Some(stood) => stood,
                    None => {
                        let sides = Sides { older: (&older, a, &known.0), live: (&live, b, &known.1) };
                        let (loss, rows) = sides.compare(look.spool.as_mut()).await?;
                        look.note(&name, a, b, rows, &loss);
                        loss
                    }
                }
            }
            (Some(a), None) => {
                let RowSum { rows, .. } = tables::sum(&older, a, &a.columns).await?;
                // They are in the older one, and nowhere else.
                TableLoss { deleted: rows, ..TableLoss::none(&name, Presence::Golden) }
            }
            (None, None) => continue,
        };
        if loss.total() > 0 {
            look.loss.tables.push(loss);
        }
        progress(Progress { doing: "compare", what: name, done, total });
    }
    look.loss.large_objects = changes::large_objects_differing(&older, &live).await?;
    let (of_older, of_live) = (Structure::read(&older).await?, Structure::read(&live).await?);
    look.loss.objects = of_older.changes_to(&of_live).iter().map(becomes).collect();
    look.spool.iter_mut().try_for_each(Spool::flush)?;
    Ok(look)
}

/// Says what becomes of an object when the older structure comes back.
fn becomes(change: &Change) -> String {
    match change {
        Change::Added { object, .. } => format!("{object} goes"),
        Change::Removed { object, .. } => format!("{object} comes back"),
        Change::Changed { object, .. } => format!("{object} is as before again"),
    }
}

impl Look {
    /// Returns what an earlier look has found in a table, if nobody has written to it since.
    async fn untouched(
        &mut self,
        live: &Client,
        name: &str,
        a: Option<&Table>,
        b: &Table,
        before: Option<&Look>,
    ) -> Result<Option<TableLoss>, DbError> {
        let Some((before, stood)) = before.and_then(|look| Some((look, look.stood.get(name)?))) else {
            return Ok(None);
        };
        let older = a.map(|table| table.columns.clone()).unwrap_or_default();
        if stood.oid != b.oid || stood.columns != b.columns || stood.older != older {
            return Ok(None);
        }
        // A row that was written since is of a later transaction, and a row that went is missing from the count. What one of
        // an older epoch looks like is later, too, and looked at again.
        let sql = format!(
            "select count(*), count(*) filter (where {}) from only {} {}",
            is_since("xmin", before.since),
            b.quoted(),
            b.filter.as_deref().unwrap_or("")
        );
        let row = live.query_one(&sql, &[]).await.doing(|| format!("look at {name} again"))?;
        let (rows, fresh): (i64, i64) = (row.get(0), row.get(1));
        if fresh > 0 || rows.unsigned_abs() != stood.rows {
            return Ok(None);
        }
        if let (Some(spool), Some(kept)) = (&mut self.spool, &before.spool) {
            spool.take_over(kept, name)?;
        }
        self.stood.insert(name.to_owned(), stood.clone());
        Ok(Some(stood.loss.clone()))
    }

    fn note(&mut self, name: &str, a: Option<&Table>, b: &Table, rows: u64, loss: &TableLoss) {
        let older = a.map(|table| table.columns.clone()).unwrap_or_default();
        let stood = Stood { oid: b.oid, columns: b.columns.clone(), older, rows, loss: loss.clone() };
        self.stood.insert(name.to_owned(), stood);
    }
}

async fn session(database: &Database) -> Result<Session, DbError> {
    let client = database.connect().await?;
    pin(&client).await?;
    let begin = "begin isolation level repeatable read read only";
    client.batch_execute(begin).await.doing(|| "begin to compare".into())?;
    Ok(client)
}

async fn written_tables(client: &Client, record: &RecordTables) -> Result<Vec<Table>, DbError> {
    let mut tables = tables::list(client).await?;
    tables.retain(|table| !record.covers(&table.schema, &table.name));
    Ok(tables)
}

/// Moves the sequences of the older database on to where those of the live one are, so that no number is given out twice: what
/// leaves has some, people have read them, and it may be loaded again.
///
/// # Errors
/// When either cannot be read, or the older one not be written.
pub async fn move_sequences(older: &Database, live: &Database) -> Result<(), DbError> {
    let (older, live) = (older.connect().await?, live.connect().await?);
    let read = async |client: &Client| {
        client
            .query(
                "select schemaname::text, sequencename::text, last_value, increment_by > 0, cycle
                 from pg_catalog.pg_sequences where schemaname !~ '^pg_'",
                &[],
            )
            .await
            .doing(|| "read the sequences".into())
    };
    let own: BTreeMap<String, Option<i64>> = read(&older)
        .await?
        .iter()
        .map(|row| (quote::qualified(row.get(0), row.get(1)), row.get(2)))
        .collect();
    for row in read(&live).await? {
        let name = quote::qualified(row.get(0), row.get(1));
        let (Some(at), Some(own)) = (row.get::<_, Option<i64>>(2), own.get(&name)) else { continue };
        let (ascends, cycles): (bool, bool) = (row.get(3), row.get(4));
        let is_behind = own.is_none_or(|own| cycles || if ascends { own < at } else { own > at });
        if is_behind {
            older
                .execute("select pg_catalog.setval($1::text::regclass, $2)", &[&name, &at])
                .await
                .needing(|| format!("move {name} on"), || format!("GRANT UPDATE ON {name} TO the user"))?;
        }
    }
    Ok(())
}
