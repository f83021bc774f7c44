//! Finds the rows in which a restored table differs from its dump.
//!
//! Both are read twice, and neither is kept in memory: the first time each row's hash is added to one of 4,096 sums, chosen by the
//! row's key, the second time only the rows of sums that differ are looked at one by one, and not more of them than fit.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::manifest::Manifest;
use crate::rowsum::RowSum;
use crate::target::pin;
use crate::{Database, DbError, Table, dumpfile, tables};

/// How many sums a table is split into.
const BUCKETS: usize = 4096;
/// In how many of those that differ rows are looked at one by one, when they hold no more rows than [`LOOKED_AT_ROWS`].
const LOOKED_AT: usize = 64;
/// How many rows are looked at one by one; those of a single sum always are.
const LOOKED_AT_ROWS: u64 = 250_000;
/// How many rows of each kind are named.
const EXAMPLES: usize = 5;

/// In which rows a restored table differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// The columns that name a row: its primary key, empty where there is none.
    pub key: Vec<String>,
    /// How many rows of the dump the copy has not.
    pub missing: Rows,
    /// How many rows of the copy the dump has not.
    pub strange: Rows,
    /// How many rows the two have under the same key with other contents.
    pub altered: Rows,
    /// False where so much differs that only a part of it was looked at, and the counts are the least.
    pub whole: bool,
}

/// Rows that differ in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// How many.
    pub count: u64,
    /// The keys of some, in the order of `key`, as COPY writes them.
    pub examples: Vec<Vec<String>>,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds =
            [("missing", &self.missing), ("not in the dump", &self.strange), ("altered", &self.altered)];
        let least = if self.whole { "" } else { "at least " };
        let mut first = true;
        for (what, rows) in kinds.into_iter().filter(|(_, rows)| rows.count > 0) {
            let plural = if rows.count == 1 { "" } else { "s" };
            write!(f, "{}{least}{} row{plural} {what}", if first { "" } else { "; " }, rows.count)?;
            first = false;
            let named: Vec<String> = rows.examples.iter().map(|example| self.named(example)).collect();
            if !named.is_empty() {
                write!(f, ": {}", named.join(", "))?;
            }
        }
        Ok(())
    }
}

impl Located {
    fn named(&self, example: &[String]) -> String {
        let pairs: Vec<String> =
            self.key.iter().zip(example).map(|(column, value)| format!("{column}={value}")).collect();
        pairs.join(" ")
    }
}

/// Finds the rows in which a table of a restored copy differs from its dump; `table` is its quoted name.
///
/// Nobody may write to the copy meanwhile.
///
/// # Errors
/// When the dump or the copy cannot be read, or one of them has no such table.
pub async fn rows(
    dir: &Path,
    manifest: &Manifest,
    golden: &Database,
    table: &str,
) -> Result<Located, DbError> {
    let bad = |why: String| DbError::BadDump { file: dir.to_owned(), why };
    let Some(dumped) = manifest.tables.iter().find(|dumped| dumped.quoted() == table) else {
        return Err(bad(format!("it has no table {table}")));
    };
    let file = manifest.files.iter().find(|(_, sum)| sum.table.as_deref() == Some(table));
    let (file, _) = file.ok_or_else(|| bad(format!("its manifest does not name the file of {table}")))?;
    let file = dir.join(file);
    let client = golden.connect().await?;
    pin(&client).await?;
    let mut key = primary_key(&client, table).await?;
    let place = |name: &String| dumped.columns.iter().position(|column| column == name);
    // No dump holds a generated column.
    let places: Vec<usize> = key.iter().map(place).collect::<Option<_>>().unwrap_or_default();
    if places.is_empty() {
        key.clear();
    }

    let mut sums = [vec![RowSum::default(); BUCKETS], vec![RowSum::default(); BUCKETS]];
    let mut add = |side: usize, row: &[u8]| {
        sums[side][bucket(row, &places)].add(&blake3::hash(row));
    };
    read(&file, &client, dumped, &mut add).await?;
    let differing: Vec<usize> = (0..BUCKETS).filter(|&at| sums[0][at] != sums[1][at]).collect();
    let mut rows = 0;
    let fitting = differing.iter().take(LOOKED_AT).take_while(|&&at| {
        let first = rows == 0;
        rows += sums.iter().map(|side| side[at].rows).max().unwrap_or_default();
        first || rows <= LOOKED_AT_ROWS
    });
    let looked_at = &differing[..fitting.count()];

    // How many more of each row the dump has, and the row's key.
    let mut surplus: HashMap<[u8; 32], (i64, Vec<String>)> = HashMap::new();
    let mut count = |side: usize, row: &[u8]| {
        if looked_at.binary_search(&bucket(row, &places)).is_ok() {
            let hash = blake3::hash(row);
            let more = if side == 0 { 1 } else { -1 };
            match surplus.entry(*hash.as_bytes()) {
                Entry::Vacant(entry) => _ = entry.insert((more, fields(row, &places))),
                Entry::Occupied(entry) if entry.get().0 + more == 0 => _ = entry.remove(),
                Entry::Occupied(mut entry) => entry.get_mut().0 += more,
            }
        }
    };
    read(&file, &client, dumped, &mut count).await?;
    let mut located = sort(surplus.into_values(), !key.is_empty());
    located.key = key;
    located.whole = looked_at.len() == differing.len();
    Ok(located)
}

/// Reads a table's rows from the dump, side 0, and from the copy, side 1.
async fn read(
    file: &Path,
    client: &Client,
    dumped: &Table,
    row: &mut (impl FnMut(usize, &[u8]) + Send),
) -> Result<(), DbError> {
    dumpfile::each_row(file, |line| row(0, line))?;
    tables::each_row(client, dumped, &dumped.columns, |line| row(1, line)).await
}

/// Chooses a row's sum by its key, so that both contents of an altered row are in one; without a key by the whole row.
fn bucket(row: &[u8], key: &[usize]) -> usize {
    let mut hasher = blake3::Hasher::new();
    if key.is_empty() {
        hasher.update(row);
    }
    let fields: Vec<&[u8]> = row.split(|&byte| byte == b'\t').collect();
    for field in key.iter().filter_map(|place| fields.get(*place)) {
        hasher.update(field).update(b"\t");
    }
    let hash = hasher.finalize();
    let bytes = hash.as_bytes();
    usize::from(u16::from_le_bytes([bytes[0], bytes[1]])) % BUCKETS
}

/// Sorts what is on one side alone into missing, strange and, where a key tells, altered rows.
fn sort(surplus: impl Iterator<Item = (i64, Vec<String>)>, keyed: bool) -> Located {
    let mut sides: [BTreeMap<Vec<String>, u64>; 2] = Default::default();
    for (count, key) in surplus.filter(|(count, _)| *count != 0) {
        *sides[usize::from(count < 0)].entry(key).or_default() += count.unsigned_abs();
    }
    let [mut missing, mut strange] = sides;
    let mut altered = BTreeMap::new();
    if keyed {
        missing.retain(|key, count| match strange.remove(key) {
            Some(_) => {
                altered.insert(key.clone(), *count);
                false
            }
            None => true,
        });
    }
    let rows = |found: BTreeMap<Vec<String>, u64>| Rows {
        count: found.values().sum(),
        examples: found.into_keys().filter(|_| keyed).take(EXAMPLES).collect(),
    };
    Located { missing: rows(missing), strange: rows(strange), altered: rows(altered), ..Located::default() }
}

/// Returns the fields at these places of a row of COPY text, as they are written there.
fn fields(row: &[u8], places: &[usize]) -> Vec<String> {
    let all: Vec<&[u8]> = row.split(|&byte| byte == b'\t').collect();
    let text =
        |place: &usize| String::from_utf8_lossy(all.get(*place).copied().unwrap_or_default()).into_owned();
    places.iter().map(text).collect()
}

async fn primary_key(client: &Client, table: &str) -> Result<Vec<String>, DbError> {
    let rows = client
        .query(
            "select a.attname::text
             from pg_catalog.pg_index i, unnest(i.indkey::int2[]) with ordinality k(attnum, place)
             join pg_catalog.pg_attribute a on a.attnum = k.attnum
             where i.indrelid = $1::text::regclass and a.attrelid = i.indrelid and i.indisprimary
             order by k.place",
            &[&table],
        )
        .await
        .doing(|| format!("read the key of {table}"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn a_row_on_both_sides_under_one_key_is_altered() {
        let surplus = [(1, key("1")), (-1, key("1")), (2, key("2")), (-1, key("3")), (0, key("4"))];
        let located = sort(surplus.clone().into_iter(), true);
        assert_eq!((located.missing.count, located.strange.count, located.altered.count), (2, 1, 1));
        assert_eq!(located.altered.examples, [key("1")]);
        // Without a key nothing says that two rows are one.
        let located = sort(surplus.into_iter(), false);
        assert_eq!((located.missing.count, located.strange.count, located.altered.count), (3, 2, 0));
        assert!(located.missing.examples.is_empty());
    }

    #[test]
    fn what_was_found_is_said_with_the_keys() {
        let located = Located {
            key: vec!["id".into(), "part".into()],
            missing: Rows { count: 1, examples: vec![vec!["7".into(), "a".into()]] },
            altered: Rows { count: 3, examples: vec![vec!["8".into(), "b".into()]] },
            whole: true,
            ..Located::default()
        };
        assert_eq!(located.to_string(), "1 row missing: id=7 part=a; 3 rows altered: id=8 part=b");
        let part =
            Located { whole: false, missing: Rows { count: 9, examples: vec![] }, ..Located::default() };
        assert_eq!(part.to_string(), "at least 9 rows missing");
    }
}
