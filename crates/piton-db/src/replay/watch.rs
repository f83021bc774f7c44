//! What a migration itself writes: seen on a rehearsed copy, where nobody else does.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::session;
use crate::capture::{self, Change, Message, Name, Reading, Source};
use crate::migrate::RecordTables;
use crate::{Database, DbError, quote};

/// Reads along while a migration runs on a copy.
#[derive(Debug)]
pub struct Watch {
    copy: Database,
    source: Source,
    stream: Reading,
    before: Layout,
}

/// The rows that a migration writes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// By table, quoted, under the name that it had at that moment.
    pub(super) tables: BTreeMap<String, Writes>,
    /// Tables that it writes to in transactions which nothing tells from the app's: they neither change a table nor write its record.
    pub(super) untold: BTreeSet<String>,
}

/// What it does to one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Writes {
    pub(super) inserted: u64,
    pub(super) updated: u64,
    pub(super) deleted: u64,
    /// Rows that get another key.
    pub(super) rekeyed: u64,
    pub(super) emptied: bool,
    /// In which transactions, by 32 bits of their numbers.
    #[serde(default)]
    pub(super) by: BTreeSet<u32>,
}

impl Watch {
    /// Begins before the migration; a slot that it makes goes with its session, triggers stay with the copy.
    ///
    /// # Errors
    /// When the server has no room for one more slot, or the user may not make one.
    pub async fn begin(copy: &Database, source: &Source) -> Result<Self, DbError> {
        let stream = source.temporary(copy).await?;
        let before = Layout::read(&*session(copy).await?).await?;
        Ok(Self { copy: copy.clone(), source: source.clone(), stream, before })
    }

    /// Ends after it, and tells what it has written.
    ///
    /// # Errors
    /// When the server is away.
    pub async fn end(mut self, record: &RecordTables) -> Result<Own, DbError> {
        let client = session(&self.copy).await?;
        let after = Layout::read(&client).await?;
        let old: HashSet<u32> = self.before.tables.iter().flat_map(|table| &table.made_by).copied().collect();
        let made: HashSet<u32> = after
            .tables
            .iter()
            .filter(|table| self.before.table(table.oid).is_none_or(|before| !before.looks_like(table)))
            .flat_map(|table| table.made_by.iter().copied())
            .filter(|xid| !old.contains(xid))
            .collect();
        let upto = self.source.now(&client).await?;
        let mut own = Own::default();
        let mut written: BTreeSet<String> = BTreeSet::new();
        let (mut told, mut under_way, mut reached) = (false, false, capture::Lsn::default());
        let mut number = 0;
        self.stream.ask();
        while reached < upto || under_way {
            match self.stream.next().await? {
                Message::Begin { xid, own } => {
                    (under_way, number) = (true, xid);
                    told = own || made.contains(&xid);
                    written.clear();
                }
                Message::Change { change, .. } => {
                    for name in tables_of(&change) {
                        if record.covers(&name.schema, &name.name) {
                            told = true;
                            continue;
                        }
                        let table = quote::qualified(&name.schema, &name.name);
                        own.tables.entry(table.clone()).or_default().count(&change, number);
                        written.insert(table);
                    }
                }
                Message::Commit { end, .. } => {
                    under_way = false;
                    reached = reached.max(end);
                    if !told {
                        own.untold.append(&mut written);
                    }
                }
                Message::UpTo(lsn) => reached = reached.max(lsn),
            }
        }
        drop(self.stream);
        capture::end_readings(&client, &self.copy.dbname).await?;
        Ok(own)
    }
}

fn tables_of(change: &Change) -> Vec<&Name> {
    match change {
        Change::Insert { table, .. } | Change::Update { table, .. } | Change::Delete { table, .. } => {
            vec![table]
        }
        Change::Truncate { tables } => tables.iter().map(|table| &**table).collect(),
    }
}

impl Writes {
    fn count(&mut self, change: &Change, by: u32) {
        self.by.insert(by);
        match change {
            Change::Insert { .. } => self.inserted += 1,
            Change::Update { old, new, .. } => {
                self.updated += 1;
                // A key is told of before only where it has changed; a whole row always.
                let moves = old.as_ref().is_some_and(|old| old.columns.len() < new.columns.len());
                self.rekeyed += u64::from(moves);
            }
            Change::Delete { .. } => self.deleted += 1,
            Change::Truncate { .. } => self.emptied = true,
        }
    }
}
