//! What a migration itself has left in what is new, as far as somebody's later writes have to be told from it.
//!
//! A row that somebody writes to carries along what the migration has put into its new columns. That is not to be saved, or a later
//! release would put it back over what a better migration has put there.

use std::collections::HashMap;

use futures_util::{StreamExt, pin_mut};
use tokio_postgres::Client;

use super::layout::Column;
use super::net::Key;
use super::offer::hash_of;
use super::route::New;
use super::touched;
use crate::DbError;
use crate::capture::{Tuple, Value};
use crate::error::Doing;

/// What stands for a value: NULL is 0, and nothing else is.
pub(super) fn mark(text: Option<&str>) -> i64 {
    text.map_or(0, |text| hash_of(text).cast_signed())
}

/// Returns the key of a row that nothing names but itself.
pub(super) fn whole_row<'a>(values: impl Iterator<Item = Option<&'a str>>) -> Key {
    values.map(|value| mark(value).to_string()).collect::<Vec<_>>().join(" ")
}

/// What the migration has written since the last block.
#[derive(Debug, Default)]
pub(super) struct Left(HashMap<u32, Noted>);

/// Of one table.
#[derive(Debug, Default)]
struct Noted {
    columns: Vec<String>,
    /// The marks of the columns, `None` for one that was left as it was; or nothing, of a row that it has removed.
    rows: HashMap<Key, Option<Vec<Option<i64>>>>,
    /// Rows that nothing names but themselves, each as often as it was put there.
    nameless: Vec<Key>,
}

impl Left {
    /// Takes note of a row as the migration has left it, or of one that it has removed.
    pub(super) async fn note(
        &mut self,
        client: &Client,
        new: &New,
        tuple: &Tuple,
        is_there: bool,
    ) -> Result<(), DbError> {
        let names = new.columns.iter().map(|(_, name)| name);
        let noted = self.0.get(&new.oid);
        // A row that is removed is told by its key alone.
        if is_there
            && noted.is_some_and(|noted| !noted.columns.is_empty() && !noted.columns.iter().eq(names.clone()))
        {
            self.flush(client).await?;
        }
        let noted = self.0.entry(new.oid).or_default();
        let text = |at: &usize| match tuple.values.get(*at) {
            Some(Value::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        if new.key.is_none() {
            if is_there {
                noted.columns = names.cloned().collect();
                noted.nameless.push(whole_row(new.columns.iter().map(|(at, _)| text(at))));
            }
            return Ok(());
        }
        let Some(key) = new.key_of(tuple) else { return Ok(()) };
        let marks = is_there.then(|| {
            noted.columns = names.cloned().collect();
            let marked = |(at, _): &(usize, String)| match tuple.values.get(*at) {
                Some(Value::Unchanged) | None => None,
                Some(_) => Some(mark(text(at))),
            };
            new.columns.iter().map(marked).collect::<Vec<_>>()
        });
        match (noted.rows.get_mut(&key), marks) {
            (Some(Some(before)), Some(marks)) => {
                for (before, mark) in before.iter_mut().zip(marks) {
                    *before = mark.or(*before);
                }
            }
            (_, marks) => drop(noted.rows.insert(key, marks)),
        }
        Ok(())
    }

    /// Adds them to the lists, in the transaction that is open; what is touched has to be there already.
    pub(super) async fn flush(&mut self, client: &Client) -> Result<(), DbError> {
        for (table, noted) in self.0.drain() {
            let keys: Vec<Vec<u8>> = noted.rows.keys().map(|key| key.clone().into_bytes()).collect();
            let mixed = touched::among(client, table, &keys).await?;
            let (mut there, mut others, mut gone) = (Rows::default(), Rows::default(), Rows::default());
            for (key, marks) in noted.rows {
                let rows = match &marks {
                    None => &mut gone,
                    Some(_) if mixed.contains(&key) => &mut others,
                    Some(_) => &mut there,
                };
                rows.keys.push(key.into_bytes());
                rows.marks.extend(marks.unwrap_or_default());
            }
            for key in noted.nameless {
                there.keys.push(key.into_bytes());
            }
            let lists = [(there, true, false), (others, true, true), (gone, false, false)];
            for (rows, is_there, mixed) in lists.into_iter().filter(|(rows, ..)| !rows.keys.is_empty()) {
                let columns: &[String] = if is_there { &noted.columns } else { &[] };
                client
                    .execute(
                        "insert into piton_replay.left_by (tab, is_there, mixed, columns, keys, marks)
                         values ($1, $2, $3, $4, $5, $6)",
                        &[&table, &is_there, &mixed, &columns, &rows.keys, &rows.marks],
                    )
                    .await
                    .doing(|| "note what the migration has written".into())?;
            }
        }
        Ok(())
    }
}

/// One list, as it is kept.
#[derive(Default)]
struct Rows {
    keys: Vec<Vec<u8>>,
    /// Of each key, one for each column.
    marks: Vec<Option<i64>>,
}

/// A row as the migration has left it.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// By column: the mark of its value.
    pub(super) marks: HashMap<String, i64>,
    /// Whether somebody else had written to it before, so that some of it may be theirs.
    pub(super) mixed: bool,
}

/// Reads what is known of some rows of a table.
pub(super) async fn rows(
    client: &Client,
    table: u32,
    is_asked: impl Fn(&str) -> bool,
) -> Result<HashMap<Key, Row>, DbError> {
    let what = || "read what the migration has written".to_owned();
    let sql = "select is_there, mixed, columns, keys, marks from piton_replay.left_by where tab = $1 order by number";
    let lists = client.query_raw(sql, [&table]).await.doing(what)?;
    pin_mut!(lists);
    let mut known: HashMap<Key, Row> = HashMap::new();
    while let Some(list) = lists.next().await {
        let list = list.doing(what)?;
        let (is_there, mixed): (bool, bool) = (list.get(0), list.get(1));
        let (columns, marks): (Vec<String>, Vec<Option<i64>>) = (list.get(2), list.get(4));
        for (at, key) in list.get::<_, Vec<Vec<u8>>>(3).into_iter().enumerate() {
            let key = touched::key_of(key)?;
            if !is_asked(&key) {
                continue;
            }
            if !is_there {
                known.remove(&key);
                continue;
            }
            let row = known.entry(key).or_default();
            row.mixed |= mixed;
            for (column, mark) in columns.iter().zip(marks.iter().skip(at * columns.len())) {
                if let Some(mark) = mark {
                    row.marks.insert(column.clone(), *mark);
                }
            }
        }
    }
    Ok(known)
}

/// Counts the rows that were put into a table without a key, by the hash of what [`whole_row`] calls them, of these columns.
pub(super) async fn counts(
    client: &Client,
    table: u32,
    columns: &[&Column],
) -> Result<HashMap<u64, u64>, DbError> {
    let what = || "read what the migration has written".to_owned();
    let sql = "select keys, columns from piton_replay.left_by where tab = $1";
    let lists = client.query_raw(sql, [&table]).await.doing(what)?;
    pin_mut!(lists);
    let mut counts = HashMap::new();
    while let Some(list) = lists.next().await {
        let list = list.doing(what)?;
        let told: Vec<String> = list.get(1);
        // One that came later holds what it has where nothing was written.
        let missing: Vec<String> =
            columns.iter().map(|column| mark(column.missing.as_deref()).to_string()).collect();
        let at: Vec<Option<usize>> =
            columns.iter().map(|column| told.iter().position(|told| *told == column.name)).collect();
        for key in list.get::<_, Vec<Vec<u8>>>(0) {
            let key = touched::key_of(key)?;
            let marks: Vec<&str> = key.split(' ').collect();
            let mark = |(at, missing): (&Option<usize>, &'_ String)| {
                at.and_then(|at| marks.get(at).copied()).map_or_else(|| missing.clone(), str::to_owned)
            };
            let row: Vec<String> = at.iter().zip(&missing).map(mark).collect();
            *counts.entry(hash_of(&row.join(" "))).or_default() += 1;
        }
    }
    Ok(counts)
}
