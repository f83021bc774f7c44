//! Rows that are saved before a down migration, and filled again after it.

use std::collections::BTreeMap;

use futures_util::{StreamExt, pin_mut};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::super::layout::Layout;
use super::super::rescue::{Kind, Line};
use super::super::session;
use super::{Refill, Reverse, Saved};
use crate::capture::{Snapshot, is_since};
use crate::error::Doing;
use crate::{Database, DbError, quote};

/// How many rows are filled again by one statement.
const BATCH: usize = 5_000;

/// Reads what somebody has written since the backup of what is new.
///
/// What the transaction has written that made the table as it is, is the migration's own; where there were several, nothing tells.
pub(super) async fn saved(
    client: &Client,
    layout: &Layout,
    one: &Saved,
    since: u64,
) -> Result<Vec<Line>, DbError> {
    let table = one.quoted();
    let made_by =
        layout.named(&one.schema, &one.table).map(|table| table.made_by.clone()).unwrap_or_default();
    let what = || format!("read what was written into {table}");
    let mut own = Vec::new();
    for xid in made_by {
        let newer = format!("select {}", is_since(&format!("'{xid}'::xid"), since));
        if client.query_one(&newer, &[]).await.doing(what)?.get(0) {
            own.push(xid);
        }
    }
    let own = match &own[..] {
        [xid] => format!("and g.xmin::text <> '{xid}'"),
        _ => String::new(),
    };
    let rest: Vec<&String> = one.columns.iter().filter(|column| !one.key.contains(column)).collect();
    let texts: Vec<String> = one
        .key
        .iter()
        .chain(rest.iter().copied())
        .map(|name| format!("g.{}::text", quote::ident(name)))
        .collect();
    let sql = format!("select {} from {table} g where {} {own}", texts.join(", "), is_since("g.xmin", since));
    let none: [&str; 0] = [];
    let rows = client.query_raw(&sql, none).await.doing(what)?;
    pin_mut!(rows);
    let mut lines = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row.doing(what)?;
        let key: BTreeMap<String, String> =
            one.key.iter().enumerate().map(|(at, name)| (name.clone(), row.get(at))).collect();
        let values = rest.iter().enumerate().map(|(at, name)| ((*name).clone(), row.get(one.key.len() + at)));
        let kind = if one.whole { Kind::Row } else { Kind::NewColumns };
        let (schema, table, values) = (one.schema.clone(), one.table.clone(), values.collect());
        // A row that somebody has written to has the migration's values as well.
        let unsure = if one.whole { Vec::new() } else { rest.iter().map(|name| (*name).clone()).collect() };
        lines.push(Line { schema, table, kind, key, values, written: Vec::new(), unsure });
    }
    Ok(lines)
}

/// Fills columns that a migration has removed, and its down migration has made again, from the golden copy; returns how many rows.
///
/// Only what nobody has written since the backup is filled: done again, and when the app is on it already, it changes nothing of
/// anybody's.
///
/// # Errors
/// When the golden copy cannot be read, or the database not be written.
pub async fn refill(
    golden: &Database,
    live: &Database,
    reverse: &Reverse,
    backup: &Snapshot,
) -> Result<u64, DbError> {
    let (golden, live) = (session(golden).await?, session(live).await?);
    refill_since(&golden, &live, reverse, backup.oldest()).await
}

pub(super) async fn refill_since(
    golden: &Client,
    live: &Client,
    reverse: &Reverse,
    since: u64,
) -> Result<u64, DbError> {
    let what = || "fill columns again from the golden copy".to_owned();
    let mut filled = 0;
    live.batch_execute("begin").await.doing(what)?;
    for refill in &reverse.refill {
        let names: Vec<String> =
            refill.key.iter().chain(&refill.columns).map(|(name, _)| name.clone()).collect();
        let texts: Vec<String> = names.iter().map(|name| format!("g.{}::text", quote::ident(name))).collect();
        let none: [&str; 0] = [];
        let sql = format!("select {} from {} g", texts.join(", "), refill.table);
        let rows = golden.query_raw(&sql, none).await.doing(what)?;
        pin_mut!(rows);
        let mut batch: Vec<Vec<Option<String>>> = vec![Vec::new(); names.len()];
        while let Some(row) = rows.next().await {
            let row = row.doing(what)?;
            for (at, column) in batch.iter_mut().enumerate() {
                column.push(row.get(at));
            }
            if batch[0].len() == BATCH {
                filled += put(live, refill, &batch, since).await?;
                batch.iter_mut().for_each(Vec::clear);
            }
        }
        filled += put(live, refill, &batch, since).await?;
    }
    live.batch_execute("commit").await.doing(what)?;
    Ok(filled)
}

async fn put(
    live: &Client,
    refill: &Refill,
    batch: &[Vec<Option<String>>],
    since: u64,
) -> Result<u64, DbError> {
    let width = refill.key.len();
    let typed = |at: usize, full: &str| format!("n.v{at}::{full}");
    let is_it = refill.key.iter().enumerate();
    let is_it: Vec<String> =
        is_it.map(|(at, (name, full))| format!("g.{} = {}", quote::ident(name), typed(at, full))).collect();
    let columns = (width..).zip(&refill.columns);
    let set: Vec<String> = columns
        .clone()
        .map(|(at, (name, full))| format!("{} = {}", quote::ident(name), typed(at, full)))
        .collect();
    let differs: Vec<String> = columns
        .map(|(at, (name, _))| format!("g.{}::text is distinct from n.v{at}", quote::ident(name)))
        .collect();
    let lists: Vec<String> = (1..=batch.len()).map(|at| format!("${at}::text[]")).collect();
    let names: Vec<String> = (0..batch.len()).map(|at| format!("v{at}")).collect();
    let sql = format!(
        "update {} g set {} from unnest({}) n({}) where {} and ({}) and not ({})",
        refill.table,
        set.join(", "),
        lists.join(", "),
        names.join(", "),
        is_it.join(" and "),
        differs.join(" or "),
        is_since("g.xmin", since)
    );
    let parameters: Vec<&(dyn ToSql + Sync)> =
        batch.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
    live.execute(&sql, &parameters).await.doing(|| format!("fill {} again", refill.table))
}
