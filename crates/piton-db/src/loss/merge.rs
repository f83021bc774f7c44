//! Two tables side by side, row by row, in the order of a key.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;

use futures_util::StreamExt;
use tokio_postgres::{Client, CopyOutStream};

use super::TableLoss;
use super::file::Spool;
use crate::changes::Presence;
use crate::error::Doing;
use crate::mask::copy::unescape;
use crate::replay::{Line, LineKind};
use crate::rowsum::Lines;
use crate::tables::{self, Table};
use crate::{DbError, quote};

/// What has to be known of a database before its rows are read in order.
pub(super) struct Known {
    /// The unique keys of each table, by oid: the columns with their types, the primary key first.
    keys: HashMap<u32, Vec<Key>>,
    /// Whether bytes are ordered on the server as they come here.
    as_sent: bool,
}

/// The columns of a key with their types.
type Key = Vec<(String, String)>;

/// The types whose own order is the one of their numbers.
const NUMBERS: [&str; 3] = ["smallint", "integer", "bigint"];

impl Known {
    /// Reads it; keys that are checked at once and hold no NULL.
    pub(super) async fn read(client: &Client) -> Result<Self, DbError> {
        let rows = client
        .query(
            "select i.indrelid,
                    array(select a.attname::text from pg_catalog.unnest(i.indkey) with ordinality k(number, at)
                          join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                          where k.at <= i.indnkeyatts order by k.at),
                    array(select pg_catalog.format_type(a.atttypid, null) from pg_catalog.unnest(i.indkey) with ordinality k(number, at)
                          join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                          where k.at <= i.indnkeyatts order by k.at)
             from pg_catalog.pg_index i
             join pg_catalog.pg_class c on c.oid = i.indrelid and c.relkind = 'r'
             where i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
               and not exists (select from pg_catalog.unnest(i.indkey) with ordinality k(number, at)
                               join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                               where k.at <= i.indnkeyatts and not a.attnotnull)
             order by i.indrelid, i.indisprimary desc, i.indexrelid",
            &[],
        )
        .await
        .doing(|| "read the keys of the tables".into())?;
        let mut keys: HashMap<u32, Vec<Key>> = HashMap::new();
        for row in &rows {
            let columns: Vec<String> = row.get(1);
            let types: Vec<String> = row.get(2);
            keys.entry(row.get(0)).or_default().push(columns.into_iter().zip(types).collect());
        }
        let encoding = client.query_one("select pg_catalog.current_setting('server_encoding')", &[]).await;
        let encoding: String = encoding.doing(|| "read the encoding".into())?.get(0);
        Ok(Self { keys, as_sent: ["UTF8", "SQL_ASCII"].contains(&encoding.as_str()) })
    }
}

/// A table of the live database and, when it has one, that of the older one.
pub(super) struct Sides<'a> {
    pub(super) older: (&'a Client, Option<&'a Table>, &'a Known),
    pub(super) live: (&'a Client, &'a Table, &'a Known),
}

impl Sides<'_> {
    /// Compares them; returns with it how many rows the live one has.
    pub(super) async fn compare(&self, spool: Option<&mut Spool>) -> Result<(TableLoss, u64), DbError> {
        let (live, b, known) = self.live;
        let Some(a) = self.older.1 else { return self.all_new(spool).await };
        let shape = Shape::of(a, b, self.key(a, b));
        let sums = futures_util::try_join!(
            tables::sum(self.older.0, a, &shape.common),
            tables::sum(live, b, &shape.common)
        )?;
        if sums.0 == sums.1 && shape.new.is_empty() {
            return Ok((TableLoss::none(&b.quoted(), Presence::Both), sums.1.rows));
        }
        let mut written = Written::new(b, &shape, spool);
        let mut ours = Side::open((self.older.0, a, self.older.2), &shape, &[]).await?;
        let mut theirs = Side::open((live, b, known), &shape, &shape.new).await?;
        let (mut old, mut new) = (ours.next(&shape).await?, theirs.next(&shape).await?);
        loop {
            let order = match (&old, &new) {
                (Some(old), Some(new)) => old.key.cmp(&new.key),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            match (order, &old, &new) {
                (Ordering::Less, Some(old), _) => written.row(LineKind::Deleted, old)?,
                (Ordering::Greater, _, Some(new)) => written.row(LineKind::Row, new)?,
                (_, Some(old), Some(new)) => written.pair(old, new)?,
                _ => {}
            }
            if order != Ordering::Greater {
                old = ours.next(&shape).await?;
            }
            if order != Ordering::Less {
                new = theirs.next(&shape).await?;
            }
        }
        Ok((written.loss, sums.1.rows))
    }

    /// Takes every row of a table that the older database has not.
    async fn all_new(&self, spool: Option<&mut Spool>) -> Result<(TableLoss, u64), DbError> {
        let (live, b, known) = self.live;
        let keys = known.keys.get(&b.oid);
        let key = keys.and_then(|keys| keys.iter().find(|key| is_within(key, &b.columns)));
        let shape = Shape::of(b, b, key.cloned().unwrap_or_default());
        let mut written = Written::new(b, &shape, spool);
        written.loss.presence = Presence::Live;
        let mut side = Side::open((live, b, known), &shape, &[]).await?;
        while let Some(row) = side.next(&shape).await? {
            written.row(LineKind::Row, &row)?;
        }
        let rows = written.loss.inserted;
        Ok((written.loss, rows))
    }

    /// Returns a key that both have, of columns that both have with these types; empty when there is none.
    fn key(&self, a: &Table, b: &Table) -> Key {
        let (older, live) = (self.older.2.keys.get(&a.oid), self.live.2.keys.get(&b.oid));
        let (Some(older), Some(live)) = (older, live) else { return Key::new() };
        let both =
            |key: &&Key| older.contains(key) && is_within(key, &a.columns) && is_within(key, &b.columns);
        live.iter().find(both).cloned().unwrap_or_default()
    }
}

fn is_within(key: &[(String, String)], columns: &[String]) -> bool {
    key.iter().all(|(column, _)| columns.contains(column))
}

/// What of two tables is compared, and in which order.
struct Shape {
    /// The columns of the key with their types; of a table without one the whole row is its own.
    key: Key,
    /// The columns that both have.
    common: Vec<String>,
    /// The columns that only the live one has.
    new: Vec<String>,
}

impl Shape {
    fn of(a: &Table, b: &Table, key: Key) -> Self {
        let is_common = |column: &&String| a.columns.contains(column);
        let (common, new): (Vec<_>, Vec<_>) = b.columns.iter().partition(is_common);
        let owned = |columns: Vec<&String>| columns.into_iter().cloned().collect();
        Self { key, common: owned(common), new: owned(new) }
    }

    /// Returns what the rows are ordered by, which goes before them.
    fn ordered_by(&self) -> Vec<Order> {
        if self.key.is_empty() {
            let texts: Vec<String> = self.common.iter().map(|column| text_of(column)).collect();
            return vec![Order::Text(format!("array[{}]::text[]::text", texts.join(", ")))];
        }
        let order = |(column, type_name): &(String, String)| match NUMBERS.contains(&type_name.as_str()) {
            true => Order::Number(format!("t.{}", quote::ident(column))),
            false => Order::Text(text_of(column)),
        };
        self.key.iter().map(order).collect()
    }
}

fn text_of(column: &str) -> String {
    format!("t.{}::text", quote::ident(column))
}

/// An expression that rows are ordered by, alike on the server and here.
enum Order {
    Number(String),
    Text(String),
}

/// A part of a row's key.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(i64),
    Text(Vec<u8>),
}

/// A row as COPY has written it, with its key taken apart.
struct Row {
    key: Vec<Part>,
    line: Vec<u8>,
    /// Where the columns begin, behind the key.
    columns: usize,
}

impl Row {
    fn fields(&self) -> impl Iterator<Item = &[u8]> {
        let rest = &self.line[self.columns..];
        rest.split(|byte| *byte == b'\t')
    }

    /// Returns the columns that both tables have, and those behind them.
    fn parted(&self, new: usize) -> (&[u8], &[u8]) {
        let rest = &self.line[self.columns..];
        let ends = rest.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\t');
        match new.checked_sub(1).and_then(|behind| ends.map(|(at, _)| at).nth(behind)) {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            // Without a column in common there is no tab before the first new one.
            None if new > 0 => (&[], rest),
            None => (rest, &[]),
        }
    }
}

/// The rows of one table, as they come.
struct Side {
    stream: Pin<Box<CopyOutStream>>,
    lines: Lines,
    waiting: VecDeque<Vec<u8>>,
    order: Vec<bool>,
    table: String,
}

impl Side {
    async fn open(
        (client, table, known): (&Client, &Table, &Known),
        shape: &Shape,
        new: &[String],
    ) -> Result<Self, DbError> {
        let order = shape.ordered_by();
        let keys = order.iter().map(|order| match order {
            Order::Number(text) | Order::Text(text) => text.clone(),
        });
        let columns = shape.common.iter().chain(new).map(|column| format!("t.{}", quote::ident(column)));
        let by = order.iter().map(|order| match order {
            Order::Number(text) => text.clone(),
            Order::Text(text) if known.as_sent => format!("{text} collate \"C\""),
            Order::Text(text) => format!("pg_catalog.convert_to({text}, 'UTF8')"),
        });
        let sql = format!(
            "copy (select {} from only {} t {} order by {}) to stdout",
            keys.chain(columns).collect::<Vec<_>>().join(", "),
            table.quoted(),
            table.filter.as_deref().unwrap_or(""),
            by.collect::<Vec<_>>().join(", ")
        );
        let table = table.quoted();
        let stream = client.copy_out(&sql).await.doing(|| format!("read the rows of {table}"))?;
        let order = order.iter().map(|order| matches!(order, Order::Number(_))).collect();
        let (lines, waiting) = (Lines::default(), VecDeque::new());
        Ok(Self { stream: Box::pin(stream), lines, waiting, order, table })
    }

    async fn next(&mut self, shape: &Shape) -> Result<Option<Row>, DbError> {
        while self.waiting.is_empty() {
            let Some(piece) = self.stream.next().await else { return Ok(None) };
            let piece = piece.doing(|| format!("read the rows of {}", self.table))?;
            self.lines.push(&piece, |row| self.waiting.push_back(row.to_vec()));
        }
        let Some(line) = self.waiting.pop_front() else { return Ok(None) };
        let (mut key, mut at) = (Vec::with_capacity(self.order.len()), 0);
        for is_number in &self.order {
            let field = line[at..].split(|byte| *byte == b'\t').next().unwrap_or_default();
            at += field.len() + 1;
            let number = std::str::from_utf8(field).ok().filter(|_| *is_number).and_then(|n| n.parse().ok());
            // The escapes are not as they are ordered.
            let text = || Part::Text(unescape(field).unwrap_or_default());
            key.push(number.map_or_else(text, Part::Number));
        }
        // Of no column there is no tab.
        let columns = if shape.common.is_empty() && at > line.len() { line.len() } else { at };
        Ok(Some(Row { key, line, columns }))
    }
}

/// What was found to have been written.
struct Written<'a> {
    table: &'a Table,
    shape: &'a Shape,
    loss: TableLoss,
    spool: Option<&'a mut Spool>,
}

impl<'a> Written<'a> {
    fn new(table: &'a Table, shape: &'a Shape, spool: Option<&'a mut Spool>) -> Self {
        Self { table, shape, loss: TableLoss::none(&table.quoted(), Presence::Both), spool }
    }

    /// Takes a row that only one has.
    fn row(&mut self, kind: LineKind, row: &Row) -> Result<(), DbError> {
        match kind {
            LineKind::Deleted => self.loss.deleted += 1,
            _ => self.loss.inserted += 1,
        }
        let new: &[String] = if kind == LineKind::Deleted { &[] } else { &self.shape.new };
        let values = values(self.shape.common.iter().chain(new), row.fields());
        self.add(kind, row, values)
    }

    /// Takes a row that both have, by its key.
    fn pair(&mut self, old: &Row, new: &Row) -> Result<(), DbError> {
        let (common, more) = new.parted(self.shape.new.len());
        if old.parted(0).0 != common {
            self.loss.changed += 1;
            let values = values(self.shape.common.iter().chain(&self.shape.new), new.fields());
            return self.add(LineKind::Changed, new, values);
        }
        let mut more = more.split(|byte| *byte == b'\t');
        if self.shape.new.is_empty() || more.clone().all(|field| field == br"\N") {
            return Ok(());
        }
        self.loss.changed += 1;
        let values = values(self.shape.new.iter(), &mut more);
        self.add(LineKind::NewColumns, new, values)
    }

    fn add(
        &mut self,
        kind: LineKind,
        row: &Row,
        values: BTreeMap<String, Option<String>>,
    ) -> Result<(), DbError> {
        let Some(spool) = &mut self.spool else { return Ok(()) };
        let key = self.shape.key.iter().zip(&row.key).map(|((column, _), part)| {
            let text = match part {
                Part::Number(number) => number.to_string(),
                Part::Text(text) => text_from(text),
            };
            (column.clone(), text)
        });
        let line = Line {
            schema: self.table.schema.clone(),
            table: self.table.name.clone(),
            kind,
            key: key.collect(),
            values,
            written: Vec::new(),
            // Nothing tells whether a migration or somebody has filled a new column.
            unsure: if kind == LineKind::NewColumns { self.shape.new.clone() } else { Vec::new() },
        };
        spool.add(&self.table.quoted(), &line)
    }
}

fn values<'a, 'b>(
    columns: impl Iterator<Item = &'a String>,
    fields: impl Iterator<Item = &'b [u8]>,
) -> BTreeMap<String, Option<String>> {
    columns.cloned().zip(fields.map(|field| unescape(field).as_deref().map(text_from))).collect()
}

/// Only a database without an encoding holds what is no UTF-8; a line of JSON cannot.
fn text_from(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
