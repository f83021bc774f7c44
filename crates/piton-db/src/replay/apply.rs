//! Applies changes to the golden copy: in blocks, one net effect a row.

use std::collections::{BTreeSet, HashMap, HashSet};

use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::broken::Looked;
use super::evaluate::Evaluator;
use super::net::{Cell, Effect, Fate, Key, Net, parts};
use super::own::{self, Own};
use super::route::Routes;
use super::sql::{self, Shape};
use super::state::{self, SetAside};
use super::touched::Touched;
use crate::error::{Doing, SqlError};
use crate::{DbError, Session, quote};

/// How many rows go with one statement.
pub(super) const ROWS: usize = 5_000;

/// How many bytes of them: the server takes less than a gigabyte at once.
const BYTES: usize = 16 << 20;

/// The golden copy and what is about to be written to it.
#[derive(Debug)]
pub(super) struct Applier {
    pub(super) client: Session,
    pub(super) routes: Routes,
    pub(super) evaluator: Evaluator,
    pub(super) nets: Vec<Net>,
    /// How many changes are waiting in the nets.
    pub(super) waiting: usize,
    /// How many bytes these have.
    pub(super) bytes: usize,
    pub(super) order: u64,
    pub(super) aside: HashSet<(usize, Key)>,
    pub(super) touched: Touched,
    /// The places in which the migration has written rows of its own.
    pub(super) own_places: HashSet<usize>,
    /// What a look for broken rows has found.
    pub(super) looked: Option<Looked>,
    pub(super) statements: HashMap<String, Statement>,
}

impl Applier {
    /// Takes up what the golden copy knows of it.
    pub(super) async fn new(client: Session, routes: Routes, evaluator: Evaluator) -> Result<Self, DbError> {
        let places = &routes.map.places;
        let place_of = |name: &str| places.iter().position(|place| place.table.quoted() == name);
        let aside = state::aside(&client).await?;
        let aside = aside.into_iter().filter_map(|row| Some((place_of(&row.place)?, row.key))).collect();
        let own_places = own::places(&client).await?.iter().filter_map(|name| place_of(name)).collect();
        let nets = places.iter().map(|_| Net::default()).collect();
        let (waiting, bytes, order, statements) = (0, 0, 0, HashMap::new());
        let touched = Touched::read(&client).await?;
        Ok(Self {
            client,
            routes,
            evaluator,
            nets,
            waiting,
            bytes,
            order,
            aside,
            touched,
            own_places,
            looked: None,
            statements,
        })
    }

    /// Writes all that waits into the open transaction.
    pub(super) async fn flush(&mut self) -> Result<(), DbError> {
        for place in 0..self.nets.len() {
            if !self.nets[place].rows.is_empty() {
                let rows = std::mem::take(&mut self.nets[place].rows);
                self.flush_place(place, rows).await?;
            }
        }
        (self.waiting, self.bytes) = (0, 0);
        self.touched.flush(&self.client).await
    }

    pub(super) async fn flush_place(
        &mut self,
        place: usize,
        rows: HashMap<Key, Effect>,
    ) -> Result<(), DbError> {
        let mut rows: Vec<(Key, Effect)> = rows.into_iter().collect();
        rows.sort_unstable_by_key(|(_, effect)| effect.order);
        // What is set aside is read from the live table in the end; but a row that went needs no place any more.
        if !self.aside.is_empty() {
            let mut left = Vec::with_capacity(rows.len());
            for (key, effect) in rows {
                let id = (place, key);
                let is_aside = self.aside.contains(&id);
                if is_aside && effect.fate == Fate::Gone {
                    state::forget_aside(&self.client, &self.name(place), [&id.1].into_iter()).await?;
                    self.aside.remove(&id);
                }
                if !is_aside || effect.fate == Fate::Gone {
                    left.push((id.1, effect));
                }
            }
            rows = left;
        }
        let mut rows = Box::pin(self.evaluate(place, rows)).await?;
        if self.own_places.contains(&place) {
            self.leave_own(place, &mut rows).await?;
        }
        let key = self.routes.map.places[place].key.clone().unwrap_or_default();
        let mut groups: HashMap<(Fate, Shape), Vec<(Key, Effect)>> = HashMap::new();
        for (row, effect) in rows {
            let (goes, stands) = (effect.fate == Fate::Gone || effect.replaces, effect.fate != Fate::Gone);
            self.since_look(place, &row, goes, stands);
            let told = |at: &usize| effect.cells[*at] != Cell::Kept && !key.contains(at);
            let columns: Vec<usize> = match effect.fate {
                Fate::Gone => Vec::new(),
                _ => (0..effect.cells.len()).filter(told).collect(),
            };
            let rewritten = match effect.fate {
                Fate::Patched => effect.rewritten.clone(),
                _ => BTreeSet::new(),
            };
            let form = if effect.fate == Fate::Gone { 0 } else { effect.form };
            let shape = Shape { form, columns, rewritten };
            if effect.replaces {
                let gone = Effect::new(Fate::Gone, 0, Vec::new(), effect.order);
                groups.entry((Fate::Gone, Shape::default())).or_default().push((row.clone(), gone));
            }
            groups.entry((effect.fate, shape)).or_default().push((row, effect));
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by(|((a, _), rows), ((b, _), others)| {
            a.cmp(b).then(rows[0].1.order.cmp(&others[0].1.order))
        });
        for ((fate, shape), rows) in groups {
            for block in blocks(&rows) {
                self.write(place, fate, &shape, block).await?;
            }
        }
        Ok(())
    }

    /// Leaves out what is only the migration's own value, which a whole row of the app's carries along.
    async fn leave_own(&mut self, place: usize, rows: &mut [(Key, Effect)]) -> Result<(), DbError> {
        let name = self.name(place);
        let keys: Vec<&str> = rows.iter().map(|(key, _)| key.as_str()).collect();
        let mut own = Own::of(&self.client, &name, &keys).await?;
        if own.is_empty() {
            return Ok(());
        }
        let table = &self.routes.map.places[place].table;
        for (key, effect) in rows.iter_mut() {
            let Some(row) = own.get_mut(key) else { continue };
            if effect.fate == Fate::Gone || effect.replaces {
                row.forget();
                continue;
            }
            for (at, (cell, column)) in effect.cells.iter_mut().zip(&table.columns).enumerate() {
                if *cell == Cell::Kept {
                    continue;
                }
                let rewritten = effect.rewritten.contains(&at);
                match row.filled(&column.name) {
                    Some(value) if Some(value) == cell.text() && !rewritten => *cell = Cell::Kept,
                    Some(_) => row.written(&column.name),
                    None => {}
                }
            }
        }
        own.store(&self.client, &name).await
    }

    /// Writes rows of one shape; what fails is halved until the row is found that fails, which is set aside.
    async fn write(
        &mut self,
        place: usize,
        fate: Fate,
        shape: &Shape,
        rows: &[(Key, Effect)],
    ) -> Result<(), DbError> {
        let mut blocks = vec![rows];
        while let Some(block) = blocks.pop() {
            self.client.batch_execute("savepoint block").await.doing(|| "begin a block of rows".into())?;
            match self.try_write(place, fate, shape, block).await {
                Ok(aside) => {
                    self.client
                        .batch_execute("release block")
                        .await
                        .doing(|| "end a block of rows".into())?;
                    let row = |(at, why, own): (usize, String, bool)| (block[at].0.clone(), why, own);
                    self.set_all_aside(place, aside.into_iter().map(row).collect()).await?;
                }
                Err(error) => {
                    let Some(why) = refusal(&error) else { return Err(error) };
                    self.client
                        .batch_execute("rollback to block; release block")
                        .await
                        .doing(|| "take a block of rows back".into())?;
                    match block.len() {
                        1 => self.set_aside(place, &block[0].0, &why, false).await?,
                        many => {
                            let (first, second) = block.split_at(many / 2);
                            blocks.extend([second, first]);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes rows of one shape; returns the positions of those that have to be set aside, why, and whether they are the migration's.
    async fn try_write(
        &mut self,
        place: usize,
        fate: Fate,
        shape: &Shape,
        rows: &[(Key, Effect)],
    ) -> Result<Vec<(usize, String, bool)>, DbError> {
        let key = self.routes.map.places[place].key.clone().unwrap_or_default();
        let mut parameters = keys(key.len(), rows.iter().map(|(key, _)| key.as_str()));
        if fate == Fate::Gone {
            self.execute(&sql::delete(&self.routes.map.places[place], &key), &parameters).await?;
            return Ok(Vec::new());
        }
        let cells = |at: &usize| rows.iter().map(|(_, effect)| effect.cells[*at].text()).collect::<Vec<_>>();
        parameters.extend(shape.columns.iter().map(cells));
        let mut aside = Vec::new();
        let form = self.routes.form(shape.form).clone();
        if let Some(lossy) = sql::lossy(&self.routes.map.places[place], &key, shape, &form) {
            for at in self.positions(&lossy, &parameters).await? {
                aside.push((at, "the value does not go back into its old type".to_owned(), false));
            }
            if !aside.is_empty() {
                let lost: HashSet<usize> = aside.iter().map(|(at, ..)| *at).collect();
                for parameter in &mut parameters {
                    let mut at = 0;
                    parameter.retain(|_| {
                        at += 1;
                        !lost.contains(&(at - 1))
                    });
                }
            }
        }
        let left: Vec<usize> = {
            let lost: HashSet<usize> = aside.iter().map(|(at, ..)| *at).collect();
            (0..rows.len()).filter(|at| !lost.contains(at)).collect()
        };
        if left.is_empty() {
            return Ok(aside);
        }
        let place_of = &self.routes.map.places[place];
        match fate {
            Fate::Put => {
                self.execute(&sql::put(place_of, &key, shape, &form), &parameters).await?;
            }
            _ => {
                let changed = match shape.columns.is_empty() {
                    true => 0,
                    false => self.execute(&sql::update(place_of, &key, shape, &form), &parameters).await?,
                };
                if (changed as usize) < left.len() {
                    // What the app has made is in the golden copy, or set aside.
                    let missing = sql::missing(&self.routes.map.places[place], &key);
                    for at in self.positions(&missing, &parameters[..key.len()]).await? {
                        aside.push((left[at], "the migration has made the row".to_owned(), true));
                    }
                }
            }
        }
        Ok(aside)
    }

    /// Gives one row another key.
    pub(super) async fn rekey(
        &mut self,
        place: usize,
        form: usize,
        old: &str,
        new: &str,
        cells: Vec<Cell>,
    ) -> Result<(), DbError> {
        self.since_look(place, old, true, false);
        self.since_look(place, new, false, true);
        let is_aside = self.aside.remove(&(place, old.to_owned()));
        if is_aside {
            state::forget_aside(&self.client, &self.name(place), [&old.to_owned()].into_iter()).await?;
            // What the golden copy has of it goes: under its old key it is no more.
            self.remove(place, &[old.to_owned()]).await?;
            return self.set_aside(place, new, "it was set aside under another key", false).await;
        }
        let effect = Effect::new(Fate::Patched, form, cells, self.order);
        let Some((_, effect)) = self.evaluate(place, vec![(new.to_owned(), effect)]).await?.pop() else {
            // Under its old key it is no more.
            return self.remove(place, &[old.to_owned()]).await;
        };
        // The key's new values are among the columns that are set.
        let is_told = |at: &usize| effect.cells[*at] != Cell::Kept;
        let columns: Vec<usize> = (0..effect.cells.len()).filter(is_told).collect();
        let shape = Shape { form, columns, rewritten: BTreeSet::new() };
        self.client.batch_execute("savepoint block").await.doing(|| "begin a block of rows".into())?;
        match self.try_write(place, Fate::Patched, &shape, &[(old.to_owned(), effect)]).await {
            Ok(aside) => {
                self.client.batch_execute("release block").await.doing(|| "end a block of rows".into())?;
                for (_, why, of_migration) in aside {
                    self.set_aside(place, new, &why, of_migration).await?;
                }
            }
            Err(error) => {
                let Some(why) = refusal(&error) else { return Err(error) };
                self.client
                    .batch_execute("rollback to block; release block")
                    .await
                    .doing(|| "take a block of rows back".into())?;
                self.remove(place, &[old.to_owned()]).await?;
                self.set_aside(place, new, &why, false).await?;
            }
        }
        Ok(())
    }

    /// Changes one row of a place without a key, found by all that is told of it.
    pub(super) async fn without_key(
        &mut self,
        place: usize,
        form: usize,
        old: Option<&[Cell]>,
        new: Option<&[Cell]>,
    ) -> Result<(), DbError> {
        self.all_since_look(place);
        let told = |cells: &[Cell]| -> Vec<usize> {
            (0..cells.len()).filter(|at| cells[*at] != Cell::Kept).collect()
        };
        let form_of = self.routes.form(form).clone();
        // Of a row as it was, the stream leaves out what was NULL.
        let old: Option<Vec<Cell>> = old.map(|old| {
            let cell = |(cell, form): (&Cell, &Option<_>)| match cell {
                Cell::Kept if form.is_some() => Cell::Null,
                told => told.clone(),
            };
            old.iter().zip(&form_of).map(cell).collect()
        });
        let old = old.as_deref();
        let to = &self.routes.map.places[place];
        let sql = match (old, new) {
            (None, Some(new)) => {
                let columns = told(new);
                if columns.is_empty() {
                    format!("insert into {} default values", to.table.quoted())
                } else {
                    sql::put(to, &[], &Shape { form, columns, rewritten: BTreeSet::new() }, &form_of)
                }
            }
            (Some(old), new) => {
                let alike: Vec<_> = told(old).into_iter().map(|at| (at, old[at] == Cell::Null)).collect();
                sql::one_like(to, &alike, &form_of, new.map(told).as_deref())
            }
            (None, None) => return Ok(()),
        };
        self.client.batch_execute("savepoint block").await.doing(|| "begin a block of rows".into())?;
        let written = match old {
            None => {
                let cells = new.unwrap_or_default();
                let column = |at: usize| vec![cells[at].text()];
                let parameters: Vec<_> = told(cells).into_iter().map(column).collect();
                self.execute(&sql, &parameters).await
            }
            Some(old) => {
                let cells = told(old).into_iter().map(|at| old[at].text());
                let new = new.into_iter().flat_map(|new| told(new).into_iter().map(|at| new[at].text()));
                let values: Vec<Option<&str>> = cells.chain(new).collect();
                let parameters: Vec<&(dyn ToSql + Sync)> =
                    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
                let statement = self.statement(&sql).await?;
                self.client.execute(&statement, &parameters).await.doing(writing)
            }
        };
        let why = match written {
            Ok(0) if old.is_some() => "there is no such row in the old structure".to_owned(),
            Ok(_) => {
                return self.client.batch_execute("release block").await.doing(|| "end a row".into());
            }
            Err(error) => match refusal(&error) {
                Some(why) => why,
                None => return Err(error),
            },
        };
        self.client
            .batch_execute("rollback to block; release block")
            .await
            .doing(|| "take a row back".into())?;
        // Without a key nothing names it but itself.
        Err(DbError::Replay(format!(
            "a row of {}, which has no key, cannot be written: {why}",
            self.name(place)
        )))
    }

    /// Puts one whole row, with others of its block.
    pub(super) async fn put_row(
        &mut self,
        place: usize,
        form: usize,
        cells: Vec<Cell>,
    ) -> Result<(), DbError> {
        self.order += 1;
        match self.key(place, &cells) {
            Some(key) => self.add(place, key, form, Fate::Put, cells).await?,
            None => self.without_key(place, form, None, Some(&cells)).await?,
        }
        if self.waiting >= ROWS {
            self.flush().await?;
        }
        Ok(())
    }

    /// Empties a place or one partition of it.
    pub(super) async fn empty(&mut self, place: usize, leaf: Option<u32>) -> Result<(), DbError> {
        self.all_since_look(place);
        let map = &self.routes.map;
        let leaf = leaf.and_then(|leaf| map.golden.table(leaf));
        let table = leaf.unwrap_or(&map.places[place].table).own_rows();
        // No TRUNCATE: tables that refer to it would refuse, or go with it.
        self.client
            .batch_execute(&format!("delete from {table}"))
            .await
            .doing(|| format!("empty {table}"))?;
        if leaf.is_none() {
            own::forget_all(&self.client, &self.name(place)).await?;
            self.aside.retain(|(of, _)| *of != place);
            let name = self.name(place);
            self.client
                .execute("delete from piton_replay.aside where place = $1", &[&name])
                .await
                .doing(|| "forget rows that were set aside".into())?;
        }
        Ok(())
    }

    pub(super) async fn set_aside(
        &mut self,
        place: usize,
        key: &str,
        why: &str,
        of_migration: bool,
    ) -> Result<(), DbError> {
        self.set_all_aside(place, vec![(key.to_owned(), why.to_owned(), of_migration)]).await
    }

    async fn set_all_aside(&mut self, place: usize, rows: Vec<(Key, String, bool)>) -> Result<(), DbError> {
        let mut new = Vec::new();
        for (key, why, of_migration) in rows {
            if self.aside.insert((place, key.clone())) {
                new.push(SetAside { place: self.name(place), key, why, of_migration });
            }
        }
        state::set_aside(&self.client, &new).await
    }

    /// Removes rows by their keys.
    pub(super) async fn remove(&mut self, place: usize, rows: &[Key]) -> Result<(), DbError> {
        let to = &self.routes.map.places[place];
        let key = to.key.clone().unwrap_or_default();
        let sql = sql::delete(to, &key);
        self.execute(&sql, &keys(key.len(), rows.iter().map(String::as_str))).await.map(drop)
    }

    pub(super) fn forget_all_aside(&mut self) {
        self.aside.clear();
    }

    /// Tells whether the migration has written rows of a place, or may have.
    pub(super) fn is_own(&self, place: usize) -> bool {
        self.own_places.contains(&place) || self.routes.map.is_made_anew(place)
    }

    pub(super) fn name(&self, place: usize) -> String {
        self.routes.map.places[place].table.quoted()
    }

    async fn statement(&mut self, sql: &str) -> Result<Statement, DbError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await.doing(writing)?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    async fn execute(&mut self, sql: &str, columns: &[Vec<Option<&str>>]) -> Result<u64, DbError> {
        let statement = self.statement(sql).await?;
        self.client.execute(&statement, &as_parameters(columns)).await.doing(writing)
    }

    /// Runs a query of row positions, which begin at 1.
    async fn positions(&mut self, sql: &str, columns: &[Vec<Option<&str>>]) -> Result<Vec<usize>, DbError> {
        let statement = self.statement(sql).await?;
        let rows = self.client.query(&statement, &as_parameters(columns)).await.doing(writing)?;
        Ok(rows.iter().filter_map(|row| usize::try_from(row.get::<_, i64>(0) - 1).ok()).collect())
    }
}

/// Divides rows into those that go with one statement.
fn blocks(mut rows: &[(Key, Effect)]) -> impl Iterator<Item = &[(Key, Effect)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(_, effect): &&(Key, Effect)| {
            let fits = bytes < BYTES;
            bytes += effect.size();
            fits
        };
        let count = rows.iter().take(ROWS).take_while(fits).count();
        let (block, rest) = rows.split_at(count);
        rows = rest;
        (count > 0).then_some(block)
    })
}

fn writing() -> String {
    "write rows into the golden copy".to_owned()
}

pub(super) fn as_parameters<'a>(columns: &'a [Vec<Option<&'a str>>]) -> Vec<&'a (dyn ToSql + Sync)> {
    columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect()
}

/// Takes keys apart into their columns.
pub(super) fn keys<'a>(width: usize, keys: impl Iterator<Item = &'a str>) -> Vec<Vec<Option<&'a str>>> {
    let mut columns = vec![Vec::new(); width];
    for key in keys {
        for (column, part) in columns.iter_mut().zip(parts(key)) {
            column.push(Some(part));
        }
    }
    columns
}

/// Says why the server refused rows for what they are; `None` when it was not their fault. No value is told.
pub(super) fn refusal(error: &DbError) -> Option<String> {
    let DbError::Sql { source: SqlError(source), .. } = error else { return None };
    let said = source.as_db_error()?;
    let class = said.code().code().get(..2)?;
    if !matches!(class, "22" | "23") {
        return None;
    }
    let what = match (said.constraint(), said.column()) {
        (Some(constraint), _) => format!("it violates {}", quote::ident(constraint)),
        (None, Some(column)) => format!("{} has no value that fits", quote::ident(column)),
        (None, None) if *said.code() == SqlState::CHECK_VIOLATION => "no partition takes it".to_owned(),
        (None, None) => "a value does not fit its old type".to_owned(),
    };
    Some(format!("{what} ({})", said.code().code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_statement_has_too_many_rows_or_bytes() {
        let row = |bytes: usize| {
            (Key::new(), Effect::new(Fate::Put, 0, vec![Cell::Text("x".repeat(bytes)), Cell::Null], 0))
        };
        let counts = |rows: &[(Key, Effect)]| blocks(rows).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(counts(&vec![row(1); 2 * ROWS + 1]), [ROWS, ROWS, 1]);
        assert_eq!(counts(&[row(1), row(BYTES), row(2 * BYTES), row(1)]), [2, 1, 1]);
        assert_eq!(counts(&[]), [0; 0]);
    }
}
