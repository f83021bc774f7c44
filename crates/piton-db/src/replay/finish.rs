//! What makes a golden copy whole at the end of a replay.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt, pin_mut};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::apply::{Applier, as_parameters, keys};
use super::layout::{ForeignKey, Table};
use super::map::{Mapped, Place};
use super::net::{Cell, Effect, Fate, Key, parts};
use super::route::{Conversion, Meant, Told};
use super::sql;
use super::state::{self, SetAside};
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
        self.retry(live).await?;
        // What follows looks at whole tables.
        let looking = "reset enable_seqscan; reset enable_mergejoin";
        self.client.batch_execute(looking).await.doing(|| "look at whole tables".into())?;
        let mut finished = Finished::default();
        finished.aside.extend(state::aside(&self.client).await?.into_iter().map(Aside::from));
        loop {
            let orphans = self.take_out_orphans(!finished.aside.is_empty()).await?;
            if orphans.is_empty() {
                break;
            }
            finished.aside.extend(orphans);
        }
        finished.aside.extend(self.take_out_twins().await?);
        self.move_sequences(live).await?;
        state::switch_on(&self.client).await?;
        Ok(finished)
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
            let meant = self.routes.meant(&table, &mapped);
            let number = self.routes.form_number(meant.form.clone());
            let (texts, from) = texts(&table, &meant);
            let only = if table.partitioned { "" } else { "only " };
            let sql = format!("select 0{texts} from {only}{} l", table.quoted());
            let what = || format!("read the rows of {}", table.quoted());
            let none: [&str; 0] = [];
            let rows = live.query_raw(&sql, none).await.doing(what)?;
            pin_mut!(rows);
            while let Some(row) = rows.next().await {
                self.put_row(place, number, cells(&row.doing(what)?, &from)).await?;
            }
            self.flush().await?;
        }
        Ok(())
    }

    /// Returns the tables whose rows are a place's in the end, each row once.
    fn last_sources(&self, place: usize) -> Vec<(Table, Mapped)> {
        let map = &self.routes.map;
        let all: Vec<_> = map.sources(map.stages.len() - 1, place).collect();
        let whole: Vec<_> = all.iter().filter(|(table, _)| table.root.is_none()).copied().collect();
        let chosen = if whole.is_empty() { all } else { whole };
        chosen.into_iter().map(|(table, mapped)| (table.clone(), mapped.clone())).collect()
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
                for row in &rows {
                    state::set_aside(&self.client, row).await?;
                }
                continue;
            }
            let last = self.read_live(live, place, &keys).await?;
            let (mut again, gone): (Vec<Key>, Vec<Key>) =
                keys.into_iter().partition(|key| last.contains_key(key));
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
                again.retain(|key| failed.iter().all(|row| row.key != *key));
                stay.extend(failed);
            }
            for row in &stay {
                state::set_aside(&self.client, row).await?;
            }
        }
        for row in &of_migration {
            state::set_aside(&self.client, row).await?;
        }
        Ok(())
    }

    /// Writes rows as they are in the end; returns those that do not fit.
    async fn write_all(
        &mut self,
        place: usize,
        rows: &[Key],
        last: &HashMap<Key, (usize, Vec<Cell>)>,
    ) -> Result<Vec<SetAside>, DbError> {
        for key in rows {
            if let Some((form, cells)) = last.get(key) {
                let (form, cells) = (*form, cells.clone());
                self.write_one(place, key.clone(), Effect::new(Fate::Put, form, cells, 0)).await?;
            }
        }
        let name = self.routes.map.places[place].table.quoted();
        let mut failed = state::aside(&self.client).await?;
        failed.retain(|row| row.place == name && rows.contains(&row.key));
        for row in &failed {
            state::forget_aside(&self.client, &row.place, &row.key).await?;
        }
        self.forget_all_aside();
        Ok(failed)
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
                table.quoted()
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

    /// Takes rows out of the golden copy that refer to what is not there, where the live database did not watch over it.
    async fn take_out_orphans(&mut self, some_are_aside: bool) -> Result<Vec<Aside>, DbError> {
        let mut found = Vec::new();
        let golden_keys: Vec<ForeignKey> =
            self.routes.map.golden.foreign_keys.iter().filter(|key| key.valid).cloned().collect();
        for foreign in golden_keys {
            if !some_are_aside && !self.has_own() && self.is_kept_live(&foreign) {
                continue;
            }
            let golden = &self.routes.map.golden;
            let (Some(table), Some(to)) = (golden.table(foreign.table), golden.table(foreign.to)) else {
                continue;
            };
            let and = |texts: Vec<String>| texts.join(" and ");
            let set =
                and(foreign.columns.iter().map(|c| format!("g.{} is not null", quote::ident(c))).collect());
            let condition =
                format!("{set} and not exists (select from {} p where {})", to.own_rows(), foreign.refers());
            let why = format!("it refers to a row that is not there ({})", quote::ident(&foreign.name));
            found.extend(self.take_out(&table.clone(), &condition, &why).await?);
        }
        Ok(found)
    }

    /// Takes rows out that have the same key, where only a deferred constraint would have noticed and the live database has none.
    async fn take_out_twins(&mut self) -> Result<Vec<Aside>, DbError> {
        let what = || "look for deferred unique constraints".to_owned();
        let rows = self
            .client
            .query(
                "select i.indrelid, c.relname::text,
                        array(select a.attname::text from pg_catalog.unnest(i.indkey) with ordinality k(number, at)
                              join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number
                              where k.at <= i.indnkeyatts order by k.at)
                 from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
                 where i.indisunique and not i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null",
                &[],
            )
            .await
            .doing(what)?;
        let mut found = Vec::new();
        for row in rows {
            let (oid, name, columns): (u32, String, Vec<String>) = (row.get(0), row.get(1), row.get(2));
            let Some(table) = self.routes.map.golden.table(oid).cloned() else { continue };
            let same = columns.iter().filter_map(|name| {
                let quoted = quote::ident(name);
                Some(table.column(name)?.same(&format!("o.{quoted}"), &format!("g.{quoted}")))
            });
            let same = same.collect::<Vec<_>>().join(" and ");
            let condition = format!(
                "exists (select from {} o where {same} and (o.tableoid, o.ctid) < (g.tableoid, g.ctid))",
                table.own_rows()
            );
            let why = format!("another row has the same values ({})", quote::ident(&name));
            found.extend(self.take_out(&table, &condition, &why).await?);
        }
        Ok(found)
    }

    /// Removes the rows of a golden table that meet a condition on `g`, and returns them.
    async fn take_out(&mut self, table: &Table, condition: &str, why: &str) -> Result<Vec<Aside>, DbError> {
        let key = table.keys.first().cloned().unwrap_or_default();
        let told = match key.is_empty() {
            true => "array[g::text]".to_owned(),
            false => {
                let texts = key.iter().map(|column| format!("g.{}::text", quote::ident(column)));
                format!("array[{}]", texts.collect::<Vec<_>>().join(", "))
            }
        };
        let sql = format!("delete from {} g where {condition} returning {told}", table.own_rows());
        let what = || format!("look for broken rows of {}", table.quoted());
        let mut aside = Vec::new();
        for row in self.client.query(&sql, &[]).await.doing(what)? {
            let key = row.get::<_, Vec<String>>(0).join("\0");
            let (place, why) = (table.quoted(), why.to_owned());
            let row = SetAside { place, key, why, of_migration: false };
            state::set_aside(&self.client, &row).await?;
            aside.push(row.into());
        }
        Ok(aside)
    }

    /// Tells whether the live database has watched over a foreign key to its end.
    fn is_kept_live(&self, foreign: &ForeignKey) -> bool {
        let map = &self.routes.map;
        let Some(last) = map.stages.len().checked_sub(1) else { return false };
        let place = |oid: u32| {
            let top = map.golden.table(oid).map(|table| map.golden.top(table).oid)?;
            map.places.iter().position(|place| place.table.oid == top)
        };
        let (Some(from), Some(to)) = (place(foreign.table), place(foreign.to)) else { return false };
        let live = |place: usize, columns: &[String]| -> Option<Vec<(u32, Vec<String>)>> {
            map.sources(last, place)
                .map(|(table, mapped)| {
                    let column = |name: &String| {
                        let at = map.places[place].table.columns.iter().position(|c| c.name == *name)?;
                        if map.places[place].downs.contains_key(&at) {
                            return None;
                        }
                        mapped.columns[at].map(|at| table.columns[at].name.clone())
                    };
                    Some((table.oid, columns.iter().map(column).collect::<Option<Vec<_>>>()?))
                })
                .collect()
        };
        let (Some(from), Some(to)) = (live(from, &foreign.columns), live(to, &foreign.to_columns)) else {
            return false;
        };
        map.stages[last].foreign_keys.iter().any(|kept| {
            let pairs = |columns: &[String], others: &[String]| -> HashSet<(String, String)> {
                columns.iter().cloned().zip(others.iter().cloned()).collect()
            };
            kept.valid
                && from.iter().any(|(oid, columns)| {
                    *oid == kept.table
                        && to.iter().any(|(oid, to_columns)| {
                            *oid == kept.to
                                && pairs(columns, to_columns) == pairs(&kept.columns, &kept.to_columns)
                        })
                })
        })
    }

    /// Moves each sequence on to where the live database's stands, so that no number is given twice.
    async fn move_sequences(&mut self, live: &Client) -> Result<(), DbError> {
        let what = || "move the sequences on".to_owned();
        for sequence in self.routes.map.golden.sequences.clone() {
            let name = quote::qualified(&sequence.schema, &sequence.name);
            let at = |text: &str| format!("select last_value, is_called from {text}");
            let row = self.client.query_one(&at(&name), &[]).await.doing(what)?;
            let (mut value, mut called): (i64, bool) = (row.get(0), row.get(1));
            let further = |a: i64, b: i64| if sequence.ascends { a > b } else { a < b };
            if let Some(other) = self.live_sequence(&sequence) {
                let row = live.query_one(&at(&other), &[]).await.doing(what)?;
                let (theirs, theirs_called): (i64, bool) = (row.get(0), row.get(1));
                if theirs_called && (further(theirs, value) || theirs == value) {
                    (value, called) = (theirs, true);
                }
            } else if let Some((table, column)) = &sequence.owner
                && let Some(table) = self.routes.map.golden.table(*table)
            {
                let end = if sequence.ascends { "max" } else { "min" };
                let column = quote::ident(column);
                let sql = format!("select {end}({column})::bigint from {}", table.quoted());
                let row = self.client.query_one(&sql, &[]).await.doing(what)?;
                if let Some(used) = row.get::<_, Option<i64>>(0)
                    && (further(used, value) || used == value)
                {
                    (value, called) = (used, true);
                }
            }
            // A narrower sequence ends earlier.
            let set = "select pg_catalog.setval($1::text::regclass, least(greatest($2, seqmin), seqmax), $3)
                       from pg_catalog.pg_sequence where seqrelid = $1::text::regclass";
            self.client.query_one(set, &[&name, &value, &called]).await.doing(what)?;
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

    fn place_named(&self, name: &str) -> Option<usize> {
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
