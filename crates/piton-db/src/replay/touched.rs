//! Which rows of live tables may hold what the golden copy has no place for.
//!
//! Each block adds what it has touched as a list, which costs next to nothing; what the lists come to is worked out when they have grown.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::Client;

use super::net::Key;
use crate::DbError;
use crate::error::Doing;

/// How many keys are added, at least, before the lists are worked out.
const MANY: u64 = 100_000;

/// The rows that were touched since the last block, and how far the lists in the golden copy have grown.
#[derive(Debug)]
pub(super) struct Touched {
    /// By table and key, and whether they are there.
    rows: HashMap<(u32, Key), bool>,
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

    /// Takes note of a row that was written, or is there no more.
    pub(super) fn note(&mut self, table: u32, key: Key, is_there: bool) {
        self.rows.insert((table, key), is_there);
    }

    /// Adds them to the lists, in the transaction that is open.
    pub(super) async fn flush(&mut self, client: &Client) -> Result<(), DbError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.added += self.rows.len() as u64;
        let mut lists: BTreeMap<(u32, bool), Vec<Vec<u8>>> = BTreeMap::new();
        for ((table, key), is_there) in self.rows.drain() {
            lists.entry((table, is_there)).or_default().push(key.into_bytes());
        }
        let add = "insert into piton_replay.touched (tab, is_there, keys) values ($1, $2, $3)";
        for ((table, is_there), keys) in lists {
            client
                .execute(add, &[&table, &is_there, &keys])
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

/// Works out what the lists come to, and puts that in their place; returns how many rows it is.
async fn condense(client: &Client) -> Result<u64, DbError> {
    let row = client
        .query_one(
            "with lists as (delete from piton_replay.touched returning *),
             rows as (
                select distinct on (l.tab, k.key) l.tab, k.key, l.is_there
                from lists l cross join pg_catalog.unnest(l.keys) k(key) order by l.tab, k.key, l.number desc),
             counted as (select tab, key, pg_catalog.row_number() over (partition by tab order by key) / 5000 as part from rows where is_there),
             put as (
                insert into piton_replay.touched (tab, is_there, keys)
                select tab, true, pg_catalog.array_agg(key) from counted group by tab, part)
             select count(*) from counted",
            &[],
        )
        .await
        .doing(|| "work out which rows were written anew".into())?;
    Ok(row.get::<_, i64>(0).unsigned_abs())
}

/// Forgets all rows of a table that was emptied.
pub(super) async fn forget(client: &Client, table: u32) -> Result<(), DbError> {
    client
        .execute("delete from piton_replay.touched where tab = $1", &[&table])
        .await
        .map(drop)
        .doing(|| "forget rows of a table that was emptied".into())
}

/// Reads them, by table.
pub(super) async fn all(client: &Client) -> Result<BTreeMap<u32, BTreeSet<Key>>, DbError> {
    let lists = client
        .query("select tab, is_there, keys from piton_replay.touched order by number", &[])
        .await
        .doing(|| "read which rows were written anew".into())?;
    let mut touched: BTreeMap<u32, BTreeSet<Key>> = BTreeMap::new();
    for list in lists {
        let rows = touched.entry(list.get(0)).or_default();
        for key in list.get::<_, Vec<Vec<u8>>>(2) {
            let key = Key::from_utf8(key).map_err(|error| DbError::Replay(error.to_string()))?;
            match list.get(1) {
                true => rows.insert(key),
                false => rows.remove(&key),
            };
        }
    }
    Ok(touched)
}
