//! Rows that the migration itself has written, as far as the app's later writes have to be told from them.
//!
//! A whole row of the app's carries along what the migration has put into it. What the migration filled where nothing was stays out
//! of the golden copy as long as nobody writes another value.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Client;

use super::apply::{as_parameters, keys};
use super::map::Place;
use super::net::{Cell, Key};
use super::sql;
use super::state::{loaded, stored};
use crate::DbError;
use crate::error::Doing;

/// What is known of one row.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// The columns that were NULL, with what they were given.
    filled: BTreeMap<String, String>,
    changed: bool,
}

impl Row {
    /// Returns what the migration has put into a column that was NULL.
    pub(super) fn filled(&self, column: &str) -> Option<&str> {
        self.filled.get(column).map(String::as_str)
    }

    /// The app has written another value.
    pub(super) fn written(&mut self, column: &str) {
        self.filled.remove(column);
        self.changed = true;
    }

    /// The row is gone.
    pub(super) fn forget(&mut self) {
        *self = Self { changed: true, ..Self::default() };
    }
}

/// What is known of several rows of a place.
#[derive(Debug)]
pub(super) struct Own(HashMap<Key, Row>);

impl Own {
    pub(super) async fn of(client: &Client, place: &str, keys: &[&str]) -> Result<Self, DbError> {
        let asked: Vec<String> = keys.iter().map(|key| stored(key)).collect();
        let rows = client
            .query(
                "select o.key, o.filled from piton_replay.own o
                 join unnest($2::text[]) asked(key) on asked.key = o.key where o.place = $1",
                &[&place, &asked],
            )
            .await
            .doing(|| "read what the migration has written".into())?;
        let mut known = HashMap::new();
        for row in rows {
            let filled: String = row.get(1);
            let filled = serde_json::from_str(&filled).map_err(|error| DbError::Replay(error.to_string()))?;
            known.insert(loaded(row.get(0))?, Row { filled, changed: false });
        }
        Ok(Self(known))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Option<&mut Row> {
        self.0.get_mut(key)
    }

    /// Writes down what has changed.
    pub(super) async fn store(&self, client: &Client, place: &str) -> Result<(), DbError> {
        let (mut gone, mut kept) = (Vec::new(), (Vec::new(), Vec::new()));
        for (key, row) in self.0.iter().filter(|(_, row)| row.changed) {
            gone.push(stored(key));
            if !row.filled.is_empty() {
                kept.0.push(stored(key));
                let filled = serde_json::to_string(&row.filled);
                kept.1.push(filled.map_err(|error| DbError::Replay(error.to_string()))?);
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let what = || "note what the migration has written".to_owned();
        client
            .execute(
                "delete from piton_replay.own o using unnest($2::text[]) gone(key)
                 where o.place = $1 and o.key = gone.key",
                &[&place, &gone],
            )
            .await
            .doing(what)?;
        client
            .execute(
                "insert into piton_replay.own
                 select $1, u.* from unnest($2::text[], $3::text[]) u(key, filled)",
                &[&place, &kept.0, &kept.1],
            )
            .await
            .map(drop)
            .doing(what)
    }
}

/// Notes rows as the migration has left them; `None` where it has removed one.
pub(super) async fn note(
    client: &Client,
    place: &Place,
    images: &[(Key, Option<Vec<Cell>>)],
) -> Result<(), DbError> {
    let Some(key) = &place.key else { return Ok(()) };
    let columns: Vec<usize> = (0..place.table.columns.len()).filter(|at| !key.contains(at)).collect();
    let names: Vec<&str> = images.iter().map(|(key, _)| key.as_str()).collect();
    let parameters = keys(key.len(), names.iter().copied());
    let rows = client
        .query(&sql::read(place, key, &columns), &as_parameters(&parameters))
        .await
        .doing(|| "read rows of the golden copy".into())?;
    let before: HashMap<i64, &tokio_postgres::Row> = rows.iter().map(|row| (row.get(0), row)).collect();
    let name = place.table.quoted();
    let mut own = Own::of(client, &name, &names).await?;
    for (at, (key, image)) in (1_i64..).zip(images) {
        let row = own.0.entry(key.clone()).or_default();
        row.changed = true;
        match (before.get(&at), image) {
            (None, _) | (_, None) => row.forget(),
            (Some(golden), Some(cells)) => {
                for (at, column) in (1..).zip(&columns) {
                    let is_null = golden.get::<_, Option<&str>>(at).is_none();
                    let column_name = &place.table.columns[*column].name;
                    match &cells[*column] {
                        Cell::Text(text) if is_null => {
                            row.filled.insert(column_name.clone(), text.clone());
                        }
                        Cell::Null => drop(row.filled.remove(column_name)),
                        _ => {}
                    }
                }
            }
        }
    }
    own.store(client, &name).await
}

/// Forgets all rows of a place.
pub(super) async fn forget_all(client: &Client, place: &str) -> Result<(), DbError> {
    client
        .execute("delete from piton_replay.own where place = $1", &[&place])
        .await
        .map(drop)
        .doing(|| "forget what the migration has written".into())
}

/// Lists the places of which something is known.
pub(super) async fn places(client: &Client) -> Result<Vec<String>, DbError> {
    let rows = client
        .query("select distinct place from piton_replay.own", &[])
        .await
        .doing(|| "read what the migration has written".into())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
