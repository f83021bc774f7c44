//! What makes a golden copy whole at the end of a replay.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt, pin_mut};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::apply::{Applier, ROWS, as_parameters, keys};
use super::layout::Table;
use super::map::{Mapped, Place, Target};
use super::net::{Cell, Effect, Fate, Key, parts};
use super::rescue::new_in;
use super::route::{Conversion, Meant, ReadAs, Told};
use super::sql;
use super::state::{self, SetAside};
use super::touched::State;
use crate::capture::Name;
use crate::error::Doing;
use crate::{DbError, quote};

/// What a replay has ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// How many rows others than the migration have written since the backup, each as often as it was written.
    pub written: u64,
    /// Rows that the old structure does not hold as they were written last.
    pub aside: Vec<Aside>,
}

/// A row of the live database that has no place in the golden copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// The golden copy's table, quoted.
    pub table: String,
    /// The columns of the row's key, as text; of a table without a key the whole row as one text.
    pub key: Vec<String>,
    /// Why.
    pub why: String,
}

impl From<SetAside> for Aside {
    fn from(row: SetAside) -> Self {
        Self { table: row.place, key: parts(&row.key).map(str::to_owned).collect(), why: row.why }
    }
}

/// Partitions with rows of their own that are none of these tables, each with the table of which it is a part in the end.
const ATTACHED: &str = "
    select c.oid, n.nspname::text, c.relname::text, pg_catalog.pg_partition_root(c.oid)::oid
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relispartition and c.relkind = 'r' and c.oid <> all($1)
    order by c.oid";

impl Applier {
    /// Does all of it in the open transaction.
    pub(super) async fn finish(&mut self, live: &Client) -> Result<Finished, DbError> {
        self.flush().await?;
        self.routes.end();
        for place in 0..self.routes.map.places.len() {
            if self.is_in_no_log(place) {
                self.copy_whole(live, place).await?;
            }
        }
        self.copy_attached(live).await?;
        self.retry(live).await?;
        self.take_out_broken(live).await?;
        let aside = state::aside(&self.client).await?.into_iter().map(Aside::from).collect();
        self.move_sequences(live).await?;
        state::switch_on(&self.client).await?;
        Ok(Finished { written: 0, aside })
    }

    /// Tells whether the log has not told of all that was written to a place.
    fn is_in_no_log(&self, place: usize) -> bool {
        let map = &self.routes.map;
        (0..map.stages.len()).any(|stage| map.sources(stage, place).any(|(table, _)| table.unlogged))
    }

    /// Copies what the live database has of a place in the end.
    async fn copy_whole(&mut self, live: &Client, place: usize) -> Result<(), DbError> {
        self.empty(place, None).await?;
        for (table, mapped) in self.last_sources(place) {
            self.copy(live, &table, &table.own_rows(), &mapped).await?;
        }
        Ok(())
    }

    /// Copies the rows of a live table, or of what has its columns.
    async fn copy(
        &mut self,
        live: &Client,
        table: &Table,
        from: &str,
        mapped: &Mapped,
    ) -> Result<(), DbError> {
        let meant = self.routes.meant(table, mapped);
        let number = self.routes.form_number(meant.form.clone());
        let (texts, told) = texts(table, &meant);
        let sql = format!("select 0{texts} from {from} l");
        let what = || format!("read the rows of {from}");
        let none: [&str; 0] = [];
        let rows = live.query_raw(&sql, none).await.doing(what)?;
        pin_mut!(rows);
        while let Some(row) = rows.next().await {
            self.put_row(mapped.place, number, cells(&row.doing(what)?, &told)).await?;
        }
        self.flush().await
    }

    fn last_sources(&self, place: usize) -> Vec<(Table, Mapped)> {
        let sources = self.routes.map.last_sources(place).into_iter();
        sources.map(|(table, mapped)| (table.clone(), mapped.clone())).collect()
    }

    /// Copies what the live database has of partitions that were made and filled behind the migration and attached only then: as long as
    /// nobody knew where they belong, none of their rows was replayed.
    async fn copy_attached(&mut self, live: &Client) -> Result<(), DbError> {
        let Some(last) = self.routes.map.stages.last() else { return Ok(()) };
        let what = || "look for partitions that were attached since".to_owned();
        let oids: Vec<u32> = last.tables.iter().map(|table| table.oid).collect();
        for row in live.query(ATTACHED, &[&oids]).await.doing(what)? {
            let (oid, root): (u32, u32) = (row.get(0), row.get(3));
            let map = &self.routes.map;
            let Target::Place(mapped) = map.target(map.stages.len() - 1, root) else { continue };
            let Some(whole) = map.stages.last().and_then(|last| last.table(root)) else { continue };
            let name = Name { schema: row.get(1), name: row.get(2) };
            let partition = quote::qualified(&name.schema, &name.name);
            match self.routes.read_as(oid) {
                ReadAs::Part => {}
                // What was written to it was read as that of the one whose name it has taken, which it is not.
                ReadAs::Nobody if self.routes.is_named(&name) => {
                    let whole = whole.clone();
                    self.touch_all(live, &whole, &partition).await?;
                }
                ReadAs::Another if map.places[mapped.place].key.is_none() && self.routes.is_named(&name) => {
                    // Some of it was read, and nothing tells what.
                    return Err(DbError::Replay(format!(
                        "{partition} has taken another one's place since the migration"
                    )));
                }
                ReadAs::Nobody | ReadAs::Another => {
                    let (whole, mapped) = (whole.clone(), mapped.clone());
                    self.copy(live, &whole, &partition, &mapped).await?;
                    self.touch_all(live, &whole, &partition).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes note of what is new in all rows of a partition.
    async fn touch_all(&mut self, live: &Client, whole: &Table, partition: &str) -> Result<(), DbError> {
        let map = &self.routes.map;
        let new = new_in(map, map.stages.len() - 1, whole);
        let Some(key) = new.and_then(|new| new.key) else { return Ok(()) };
        let texts: Vec<String> = key.iter().map(|name| format!("l.{}::text", quote::ident(name))).collect();
        let sql = format!("select array[{}] from {partition} l", texts.join(", "));
        let what = || format!("read the keys of {partition}");
        let none: [&str; 0] = [];
        let rows = live.query_raw(&sql, none).await.doing(what)?;
        pin_mut!(rows);
        for read in 1.. {
            let Some(row) = rows.next().await else { break };
            let key: Vec<String> = row.doing(what)?.get(0);
            self.touched.note(whole.oid, key.join("\0"), State::Made);
            if read % ROWS == 0 {
                self.touched.flush(&self.client).await?;
            }
        }
        self.flush().await
    }

    /// Writes the rows that were set aside as they are in the end; those that the migration has made stay aside.
    ///
    /// What does not fit one by one goes first and then comes together, because two rows may have changed places. What does not fit even
    /// so is left as the golden copy had it.
    async fn retry(&mut self, live: &Client) -> Result<(), DbError> {
        let (of_migration, rows): (Vec<_>, Vec<_>) =
            state::aside(&self.client).await?.into_iter().partition(|row| row.of_migration);
        let clear = "delete from piton_replay.aside";
        self.client.batch_execute(clear).await.doing(|| "take up what was set aside".into())?;
        self.forget_all_aside();
        let mut by_place: HashMap<usize, Vec<SetAside>> = HashMap::new();
        for row in rows {
            if let Some(place) = self.place_named(&row.place) {
                by_place.entry(place).or_default().push(row);
            }
        }
        for (place, rows) in by_place {
            let keys: Vec<Key> = rows.iter().map(|row| row.key.clone()).collect();
            let sources = self.last_sources(place);
            if sources.iter().any(|(table, mapped)| self.routes.meant(table, mapped).is_unclear) {
                state::set_aside(&self.client, &rows).await?;
                continue;
            }
            let last = self.read_live(live, place, &keys).await?;
            let (mut again, gone): (Vec<Key>, Vec<Key>) =
                keys.into_iter().partition(|key| last.contains_key(key));
            // Those that are removed only to come again are there in the end.
            gone.iter().for_each(|key| self.since_look(place, key, true, false));
            self.remove(place, &gone).await?;
            again = self.write_all(place, &again, &last).await?.into_iter().map(|row| row.key).collect();
            let mut stay: Vec<SetAside> = Vec::new();
            while !again.is_empty() {
                self.client.batch_execute("savepoint retry").await.doing(|| "begin to retry".into())?;
                self.remove(place, &again).await?;
                let failed = self.write_all(place, &again, &last).await?;
                if failed.is_empty() {
                    let done = "release retry";
                    self.client.batch_execute(done).await.doing(|| "end the retry".into())?;
                    break;
                }
                self.client
                    .batch_execute("rollback to retry; release retry")
                    .await
                    .doing(|| "take a retry back".into())?;
                let no: HashSet<&Key> = failed.iter().map(|row| &row.key).collect();
                again.retain(|key| !no.contains(key));
                stay.extend(failed);
            }
            state::set_aside(&self.client, &stay).await?;
        }
        state::set_aside(&self.client, &of_migration).await
    }

    /// Writes rows as they are in the end; returns those that do not fit.
    async fn write_all(
        &mut self,
        place: usize,
        rows: &[Key],
        last: &HashMap<Key, (usize, Vec<Cell>)>,
    ) -> Result<Vec<SetAside>, DbError> {
        let effect = |key: &Key| {
            let (form, cells) = last.get(key)?;
            Some((key.clone(), Effect::new(Fate::Put, *form, cells.clone(), 0)))
        };
        self.flush_place(place, rows.iter().filter_map(effect).collect()).await?;
        self.forget_all_aside();
        let name = self.routes.map.places[place].table.quoted();
        state::forget_aside(&self.client, &name, rows.iter()).await
    }

    /// Reads rows of a place as the live database has them now.
    async fn read_live(
        &mut self,
        live: &Client,
        place: usize,
        rows: &[Key],
    ) -> Result<HashMap<Key, (usize, Vec<Cell>)>, DbError> {
        let key = self.routes.map.places[place].key.clone().unwrap_or_default();
        let mut found = HashMap::new();
        for (table, mapped) in self.last_sources(place) {
            let meant = self.routes.meant(&table, &mapped);
            let number = self.routes.form_number(meant.form.clone());
            let (texts, from) = texts(&table, &meant);
            let same = same_key(&self.routes.map.places[place], &key, &table, &mapped, &meant.form);
            let sql = format!(
                "select n.i{texts} from {} join {} l on {same}",
                sql::rows(&key, &[]),
                table.own_rows()
            );
            let parameters = keys(key.len(), rows.iter().map(String::as_str));
            let read = || format!("read rows of {}", table.quoted());
            for row in live.query(&sql, &as_parameters(&parameters)).await.doing(read)? {
                let Some(at) = usize::try_from(row.get::<_, i64>(0) - 1).ok().and_then(|at| rows.get(at))
                else {
                    continue;
                };
                found.insert(at.clone(), (number, cells(&row, &from)));
            }
        }
        Ok(found)
    }

    /// Moves each sequence on to where the live database's stands, or behind the numbers that are used, where there is none any more: no
    /// number is given twice.
    async fn move_sequences(&mut self, live: &Client) -> Result<(), DbError> {
        let golden = &self.routes.map.golden;
        for sequence in &golden.sequences {
            match self.live_sequence(sequence) {
                Some(other) => {
                    let at = format!("select last_value, is_called from {other}");
                    let row =
                        live.query_one(&at, &[]).await.doing(|| format!("look where {other} stands"))?;
                    if row.get(1) {
                        sequence.move_behind(&self.client, row.get(0)).await?;
                    }
                }
                None => sequence.move_behind_used(&self.client, golden).await?,
            }
        }
        Ok(())
    }

    /// Finds the live sequence that goes on where a golden one stood.
    fn live_sequence(&self, golden: &super::layout::Sequence) -> Option<String> {
        let map = &self.routes.map;
        let (first, last) = (map.stages.first()?, map.stages.last()?);
        let named = |layout: &super::layout::Layout| {
            let same = |s: &&super::layout::Sequence| s.schema == golden.schema && s.name == golden.name;
            layout.sequences.iter().find(same).cloned()
        };
        let same = named(first).and_then(|was| last.sequences.iter().find(|s| s.oid == was.oid).cloned());
        let found = same.or_else(|| named(last))?;
        Some(quote::qualified(&found.schema, &found.name))
    }

    pub(super) fn place_named(&self, name: &str) -> Option<usize> {
        self.routes.map.places.iter().position(|place| place.table.quoted() == name)
    }
}

/// Returns the columns of a live table, `l`, that are read, and where among them is what becomes of each column of the place.
fn texts(live: &Table, meant: &Meant) -> (String, Vec<Told>) {
    let (needed, from) = meant.needed();
    let text = |at: &usize| format!(", l.{}::text", quote::ident(&live.columns[*at].name));
    (needed.iter().map(text).collect(), from)
}

/// Takes a row's texts, which follow its first column, for the columns that are written.
fn cells(row: &tokio_postgres::Row, from: &[Told]) -> Vec<Cell> {
    let text = |at: usize| row.get::<_, Option<String>>(at + 1).map_or(Cell::Null, Cell::Text);
    from.iter().map(|told| told.cell(text)).collect()
}

/// Returns the condition that a row of a live table, `l`, has the key of a place's row, `n`.
fn same_key(
    place: &Place,
    key: &[usize],
    live: &Table,
    mapped: &Mapped,
    form: &[Option<Conversion>],
) -> String {
    let source = |at: usize| mapped.columns[at].map(|at| &live.columns[at]);
    let same = key.iter().enumerate().filter_map(|(number, at)| {
        let column = source(*at)?;
        let name = format!("l.{}", quote::ident(&column.name));
        Some(match &form[*at] {
            Some(Conversion::Same) => column.same(&name, &format!("n.k{number}::{}", column.bare)),
            Some(Conversion::Cast { back: true, .. }) => {
                let own = &place.table.columns[*at].bare;
                column.same(&name, &format!("n.k{number}::{own}::{}", column.bare))
            }
            _ => format!("{name}::text = n.k{number}"),
        })
    });
    same.collect::<Vec<_>>().join(" and ")
}
