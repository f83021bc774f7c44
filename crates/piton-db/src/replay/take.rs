//! What the changes of the stream mean for a golden copy, one by one.

use std::collections::HashMap;
use std::sync::Arc;

use super::apply::{Applier, ROWS};
use super::left::Left;
use super::net::{Cell, Effect, Fate, Key, key_of};
use super::own;
use super::route::Route;
use super::state;
use super::touched::State;
use crate::capture::{Change, Column, Name, Tuple, Value};
use crate::{DbError, quote};

/// A change with the row's columns in the order of its place.
enum Told {
    /// It has none.
    Nothing,
    Row {
        place: usize,
        form: usize,
        cells: Vec<Cell>,
        is_unclear: bool,
    },
}

/// The table and the key of a row in which something is new.
type Named = (u32, Key);

impl Told {
    fn of(route: &Route, tuple: &Tuple) -> Self {
        let Route::Place { place, form, sources, is_unclear, .. } = route else { return Self::Nothing };
        let value = |at: usize| match tuple.values.get(at) {
            Some(Value::Text(text)) => Cell::Text(text.clone()),
            Some(Value::Null) => Cell::Null,
            Some(Value::Unchanged) | None => Cell::Kept,
        };
        let cells = sources.iter().map(|source| source.cell(value)).collect();
        Self::Row { place: *place, form: *form, cells, is_unclear: *is_unclear }
    }
}

impl Applier {
    /// Tells whether a change writes the record of the tool that migrates.
    pub(super) fn is_record(&mut self, change: &Change) -> Result<bool, DbError> {
        let (table, tuple) = match change {
            Change::Insert { table, new } | Change::Update { table, new, .. } => (table, new),
            Change::Delete { table, old: Some(old) } => (table, old),
            _ => return Ok(false),
        };
        let whole = !matches!(change, Change::Delete { .. });
        Ok(matches!(*self.routes.find(table, &tuple.columns, whole)?, Route::Record))
    }

    /// Finds what a row of the app's means, and what of it is new; asks the live database about a table that no stage has.
    async fn told(
        &mut self,
        table: &Arc<Name>,
        tuple: &Tuple,
        whole: bool,
    ) -> Result<(Told, Option<Named>), DbError> {
        let told = self.told_at_once(table, tuple, whole)?;
        if !matches!(told, (Told::Nothing, None)) || !self.routes.is_unknown(table) {
            return Ok(told);
        }
        self.learn(table, &tuple.columns).await?;
        self.told_at_once(table, tuple, whole)
    }

    /// Finds out what a table is that was made after the migration.
    async fn learn(&mut self, name: &Name, columns: &[Column]) -> Result<(), DbError> {
        let later = self.evaluator.look_up(name).await?;
        if later.oid.is_none()
            && let Some(table) = self.routes.divided_like(columns).filter(|_| !columns.is_empty())
        {
            return Err(DbError::Replay(format!(
                "{} was made after the migration, written to and removed, and may have been a partition of {}",
                quote::qualified(&name.schema, &name.name),
                table.quoted()
            )));
        }
        self.routes.learn(name, later);
        Ok(())
    }

    fn told_at_once(
        &mut self,
        table: &Arc<Name>,
        tuple: &Tuple,
        whole: bool,
    ) -> Result<(Told, Option<Named>), DbError> {
        let route = self.routes.find(table, &tuple.columns, whole)?;
        let named = route.what_is_new().and_then(|new| Some((new.oid, new.key_of(tuple)?)));
        Ok((Told::of(&route, tuple), named))
    }

    fn touch(&mut self, row: Option<Named>, state: State) {
        if let Some((table, key)) = row {
            // Of rows that nothing names it counts that there may be any.
            let state = if key.is_empty() { State::Made } else { state };
            self.touched.note(table, key, state);
        }
    }

    /// Takes up a change of the app's.
    pub(super) async fn take(&mut self, change: &Change) -> Result<(), DbError> {
        self.order += 1;
        self.bytes += change.size();
        match change {
            Change::Insert { table, new } => {
                let (told, named) = self.told(table, new, true).await?;
                self.touch(named, State::Made);
                if let Told::Row { place, form, cells, is_unclear } = told {
                    if is_unclear {
                        return self.leave_unclear(place, &cells).await;
                    }
                    let Some(key) = self.key(place, &cells) else {
                        self.flush().await?;
                        return self.without_key(place, form, None, Some(&cells)).await;
                    };
                    self.add(place, key, form, Fate::Put, cells).await?;
                }
            }
            Change::Update { table, old, new } => {
                let (old, was) = match old {
                    Some(old) => {
                        let (old, was) = self.told(table, old, false).await?;
                        (Some(old), was)
                    }
                    None => (None, None),
                };
                let (told, named) = self.told(table, new, true).await?;
                if was != named {
                    self.touch(was, State::Gone);
                }
                self.touch(named, State::Changed);
                let Told::Row { place, form, mut cells, is_unclear } = told else { return Ok(()) };
                // A key has the types of the whole row.
                let old = match old {
                    Some(Told::Row { cells, .. }) => Some(cells),
                    _ => None,
                };
                if is_unclear {
                    if let Some(key) = old.as_ref().and_then(|old| self.key(place, old))
                        && Some(&key) != self.key(place, &cells).as_ref()
                    {
                        self.add(place, key, form, Fate::Gone, old.unwrap_or_default()).await?;
                    }
                    return self.leave_unclear(place, &cells).await;
                }
                let Some(key) = self.key(place, &cells) else {
                    self.flush().await?;
                    let Some(old) = old else { return Err(self.no_identity(place)) };
                    return self.without_key(place, form, Some(&old), Some(&cells)).await;
                };
                if let Some(old) = old {
                    let old_key = self.key(place, &old).ok_or_else(|| self.no_identity(place))?;
                    if old_key != key {
                        self.flush().await?;
                        return self.rekey(place, form, &old_key, &key, cells).await;
                    }
                    // What was told of before and is as before has not been written.
                    for (cell, old) in cells.iter_mut().zip(&old) {
                        if *old == *cell {
                            *cell = Cell::Kept;
                        }
                    }
                }
                self.add(place, key, form, Fate::Patched, cells).await?;
            }
            Change::Delete { table, old } => {
                let Some(old) = old else {
                    return match self.routes.has_place(table) {
                        Some(place) => Err(self.no_identity(place)),
                        None => Ok(()),
                    };
                };
                let (told, named) = self.told(table, old, false).await?;
                self.touch(named, State::Gone);
                if let Told::Row { place, form, cells, .. } = told {
                    let Some(key) = self.key(place, &cells) else {
                        self.flush().await?;
                        return self.without_key(place, form, Some(&cells), None).await;
                    };
                    self.add(place, key, form, Fate::Gone, cells).await?;
                }
            }
            Change::Truncate { tables } => {
                self.flush().await?;
                for table in tables {
                    if self.routes.is_unknown(table) {
                        self.learn(table, &[]).await?;
                    }
                }
                self.forget_new(tables).await?;
                for (place, leaf) in self.routes.emptied(tables)? {
                    self.empty(place, leaf).await?;
                }
            }
        }
        Ok(())
    }

    /// Leaves a row of which nobody knows what it means to the end, when the live database has it as the migration has left it.
    async fn leave_unclear(&mut self, place: usize, cells: &[Cell]) -> Result<(), DbError> {
        let Some(key) = self.key(place, cells) else { return Err(self.no_identity(place)) };
        let why = "it was written while the migration was changing what the table's columns mean";
        self.set_aside(place, &key, why, false).await
    }

    pub(super) fn key(&self, place: usize, cells: &[Cell]) -> Option<Key> {
        key_of(cells, self.routes.map.places[place].key.as_ref()?)
    }

    fn no_identity(&self, place: usize) -> DbError {
        let table = self.routes.map.places[place].table.quoted();
        DbError::Replay(format!(
            "a row of {table} was changed or removed, and the log does not tell which; ALTER TABLE {table} REPLICA IDENTITY FULL \
             before a backup makes it tell"
        ))
    }

    pub(super) async fn add(
        &mut self,
        place: usize,
        key: Key,
        form: usize,
        fate: Fate,
        cells: Vec<Cell>,
    ) -> Result<(), DbError> {
        if self.nets[place].speaks_otherwise(&key, form) {
            self.flush().await?;
        }
        self.nets[place].add(key, Effect::new(fate, form, cells, self.order));
        self.waiting += 1;
        Ok(())
    }

    async fn forget_new(&self, tables: &[Arc<Name>]) -> Result<(), DbError> {
        let emptied: Vec<u32> = tables.iter().filter_map(|table| self.routes.oid(table)).collect();
        state::forget_new(&self.client, &emptied).await
    }

    /// Takes note of rows that the migration itself has written: nothing of them is replayed, but what the app does to them later
    /// has to be told from what was in them before.
    pub(super) async fn note_own(&mut self, changes: &[Change]) -> Result<(), DbError> {
        self.flush().await?;
        let mut left = Left::default();
        let mut images: HashMap<usize, HashMap<Key, Option<Vec<Cell>>>> = HashMap::new();
        for change in changes {
            let (table, tuple, goes) = match change {
                Change::Insert { table, new } | Change::Update { table, new, .. } => (table, new, false),
                Change::Delete { table, old: Some(old) } => (table, old, true),
                Change::Truncate { tables } => {
                    left.flush(&self.client).await?;
                    self.forget_new(tables).await?;
                    continue;
                }
                Change::Delete { .. } => continue,
            };
            let route = self.routes.find_in_between(table, &tuple.columns, !goes);
            if let Some(new) = route.what_is_new() {
                left.note(&self.client, new, tuple, !goes).await?;
            }
            let told = Told::of(&route, tuple);
            if let Told::Row { place, .. } = &told {
                self.routes.altered(*place);
            }
            if let Told::Row { place, cells, .. } = told
                && let Some(key) = self.key(place, &cells)
                && !self.aside.contains(&(place, key.clone()))
            {
                let rows = images.entry(place).or_default();
                match rows.get_mut(&key) {
                    // A large value that was not touched is as it was told before.
                    Some(Some(before)) if !goes => {
                        for (before, cell) in before.iter_mut().zip(cells) {
                            if cell != Cell::Kept {
                                *before = cell;
                            }
                        }
                    }
                    _ => drop(rows.insert(key, (!goes).then_some(cells))),
                }
            }
        }
        left.flush(&self.client).await?;
        for (place, images) in images {
            if self.own_places.insert(place) {
                state::note_own(&self.client, &self.name(place)).await?;
            }
            let images: Vec<_> = images.into_iter().collect();
            for block in images.chunks(ROWS) {
                own::note(&self.client, &self.routes.map.places[place], block).await?;
            }
        }
        Ok(())
    }
}
