//! Which rows of live tables may hold what the golden copy has no place for.
//!
//! Each block adds what it has touched as a list, which costs next to nothing; what the lists come to is worked out when they have grown.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Client;

use super::net::Key;
use crate::DbError;
use crate::error::Doing;

/// How many keys are added, at least, before the lists are worked out.
const MANY: u64 = 500_000;

/// What somebody other than the migration has done to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It was put there: all that it holds is theirs.
    Made,
    /// It was written to.
    Changed,
    /// It was removed.
    Gone,
}

impl State {
    /// Returns the number by which it is kept.
    fn number(self) -> i16 {
        match self {
            Self::Made => 1,
            Self::Changed => 2,
            Self::Gone => 3,
        }
    }

    fn of(number: i16) -> Result<Self, DbError> {
        [Self::Made, Self::Changed, Self::Gone]
            .into_iter()
            .find(|state| state.number() == number)
            .ok_or_else(|| DbError::Replay("its notes of rows that were written anew cannot be read".into()))
    }

    /// Returns what a row is that was in this state before, if in any, and came into another one.
    fn after(self, before: Option<Self>) -> Self {
        match (before, self) {
            (Some(Self::Made), Self::Changed) => Self::Made,
            (_, state) => state,
        }
    }
}

/// The rows that were touched since the last block, and how far the lists in the golden copy have grown.
#[derive(Debug)]
pub(super) struct Touched {
    /// By table and key; with whether it was made and nothing was noted of it before.
    rows: HashMap<(u32, Key), (State, bool)>,
    /// How many keys were added since the lists were worked out.
    added: u64,
    /// How many there were then.
    kept: u64,
}

impl Touched {
    /// Takes up what the golden copy has noted.
    pub(super) async fn read(client: &Client) -> Result<Self, DbError> {
        let count = "select coalesce(sum(pg_catalog.cardinality(keys)), 0)::int8 from piton_replay.touched";
        let row =
            client.query_one(count, &[]).await.doing(|| "count the rows that were written anew".into())?;
        Ok(Self { rows: HashMap::new(), added: row.get::<_, i64>(0).unsigned_abs(), kept: 0 })
    }

    /// Takes note of what came to a row.
    pub(super) fn note(&mut self, table: u32, key: Key, state: State) {
        match self.rows.entry((table, key)) {
            // It came and went, and what was known of it before holds.
            Entry::Occupied(row) if *row.get() == (State::Made, true) && state == State::Gone => {
                row.remove();
            }
            Entry::Occupied(mut row) => {
                let (before, is_fresh) = *row.get();
                row.insert((state.after(Some(before)), is_fresh));
            }
            Entry::Vacant(row) => drop(row.insert((state, state == State::Made))),
        }
    }

    /// Adds them to the lists, in the transaction that is open.
    pub(super) async fn flush(&mut self, client: &Client) -> Result<(), DbError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.added += self.rows.len() as u64;
        let mut lists: BTreeMap<(u32, State), Vec<Vec<u8>>> = BTreeMap::new();
        for ((table, key), (state, _)) in self.rows.drain() {
            lists.entry((table, state)).or_default().push(key.into_bytes());
        }
        let add = "insert into piton_replay.touched (tab, state, keys) values ($1, $2, $3)";
        for ((table, state), keys) in lists {
            client
                .execute(add, &[&table, &state.number(), &keys])
                .await
                .doing(|| "note rows that were written anew".into())?;
        }
        if self.added > MANY.max(self.kept) {
            self.kept = condense(client).await?;
            self.added = 0;
        }
        Ok(())
    }
}

/// Works out what the lists come to, as [`State::after`] has it, and puts that in their place; returns how many rows it is.
///
/// A row that is gone says something only where the migration had written it.
async fn condense(client: &Client) -> Result<u64, DbError> {
    let row = client
        .query_one(
            "with lists as (delete from piton_replay.touched returning *),
             rows as (
                select l.tab, k.key,
                       (pg_catalog.array_agg(l.state order by l.number desc))[1] as last,
                       (pg_catalog.array_agg(l.state order by l.number desc) filter (where l.state <> $2))[1] as before
                from lists l cross join pg_catalog.unnest(l.keys) k(key) group by l.tab, k.key),
             states as (
                select tab, key, case when last = $2 and before = $1 then $1 else last end as state from rows
                where last <> $3 or exists (select from piton_replay.left_by w where w.tab = rows.tab)),
             counted as (
                select tab, state, key, pg_catalog.row_number() over (partition by tab, state order by key) / 5000 as part
                from states),
             put as (
                insert into piton_replay.touched (tab, state, keys)
                select tab, state, pg_catalog.array_agg(key) from counted group by tab, state, part)
             select count(*) from counted",
            &[&State::Made.number(), &State::Changed.number(), &State::Gone.number()],
        )
        .await
        .doing(|| "work out which rows were written anew".into())?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// Reads them, by table.
pub(super) async fn all(client: &Client) -> Result<BTreeMap<u32, BTreeMap<Key, State>>, DbError> {
    let lists = client
        .query("select tab, state, keys from piton_replay.touched order by number", &[])
        .await
        .doing(|| "read which rows were written anew".into())?;
    let mut touched: BTreeMap<u32, BTreeMap<Key, State>> = BTreeMap::new();
    for list in lists {
        let rows = touched.entry(list.get(0)).or_default();
        let state = State::of(list.get(1))?;
        for key in list.get::<_, Vec<Vec<u8>>>(2) {
            let key = key_of(key)?;
            let before = rows.get(&key).copied();
            rows.insert(key, state.after(before));
        }
    }
    Ok(touched)
}

/// Tells which of these rows of a table are noted.
pub(super) async fn among(client: &Client, table: u32, keys: &[Vec<u8>]) -> Result<Vec<Key>, DbError> {
    let rows = client
        .query(
            "select distinct k.key from piton_replay.touched l cross join pg_catalog.unnest(l.keys) k(key)
             where l.tab = $1 and k.key = any($2)",
            &[&table, &keys],
        )
        .await
        .doing(|| "read which rows were written anew".into())?;
    rows.iter().map(|row| key_of(row.get(0))).collect()
}

/// Reads a key as it is kept.
pub(super) fn key_of(kept: Vec<u8>) -> Result<Key, DbError> {
    Key::from_utf8(kept).map_err(|error| DbError::Replay(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_row_that_came_and_went_nothing_is_noted() {
        use State::{Changed, Gone, Made};
        let noted = |states: &[State]| {
            let mut touched = Touched { rows: HashMap::new(), added: 0, kept: 0 };
            states.iter().for_each(|state| touched.note(1, "1".into(), *state));
            touched.rows.values().next().map(|(state, _)| *state)
        };
        assert_eq!(noted(&[Made, Changed, Gone]), None);
        assert_eq!(noted(&[Made, Gone, Made, Changed]), Some(Made));
        // It may be one of the migration's own, which somebody has removed.
        assert_eq!(noted(&[Gone, Made, Gone]), Some(Gone));
        assert_eq!(noted(&[Changed, Gone]), Some(Gone));
    }
}
