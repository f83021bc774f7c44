//! What of a replaced database is saved.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use futures_util::{StreamExt, pin_mut};
use tokio_postgres::Client;

use super::super::apply::{as_parameters, keys};
use super::super::layout::{Column, Generated, Table};
use super::super::left::{self, mark, whole_row};
use super::super::map::{Map, Mapped, Place, Target};
use super::super::net::{Key, parts};
use super::super::state::{self, Mark};
use super::super::touched::{self, State};
use super::super::{session, sql};
use super::{Kind, Line, Rescued, is_key, write};
use crate::error::Doing;
use crate::{Database, DbError, quote};

/// How many rows are asked for at once.
const ROWS: usize = 5_000;

/// Writes down what of the replaced database has no place in the one that has taken its place; `None` when there is nothing.
///
/// `now` is the golden copy under its new name, which has the replay's notes until [`give_up`](crate::replay::give_up). Done again, the
/// file is written anew.
///
/// # Errors
/// When either database cannot be read, or the file not be written.
pub async fn rescue(now: &Database, replaced: &Database, file: &Path) -> Result<Option<Rescued>, DbError> {
    let (now, replaced) = (session(now).await?, session(replaced).await?);
    if !state::is_made(&now).await? {
        return Ok(None);
    }
    let (golden, stages) = state::layouts(&now).await?;
    let Mark { way, record, .. } = state::mark(&now).await?;
    let map = Map::new(golden, stages, &way, &record);
    let mut lines = new_things(&now, &replaced, &map).await?;
    lines.extend(rows_aside(&now, &replaced, &map).await?);
    write(&lines, file)
}

/// What is new in a table of the live database.
#[derive(Debug)]
pub(in super::super) struct NewIn<'a> {
    kind: Kind,
    /// The columns that name its rows; `None` of a table without a key.
    pub(in super::super) key: Option<Vec<String>>,
    /// The columns besides the key.
    pub(in super::super) columns: Vec<&'a Column>,
}

/// Finds what is new in a table at a stage; `None` where nothing is, or nothing would name the row that it is in.
pub(in super::super) fn new_in<'a>(map: &Map, stage: usize, table: &'a Table) -> Option<NewIn<'a>> {
    let (kind, key, mut columns) = match map.target(stage, table.oid) {
        Target::Record => return None,
        Target::Nowhere => (Kind::Row, table.names().map(<[_]>::to_vec), written(table).collect()),
        Target::Place(mapped) => {
            let name = |at: &usize| Some(table.columns[mapped.columns[*at]?].name.clone());
            let key = map.places[mapped.place].key.as_ref()?;
            let key = key.iter().map(name).collect::<Option<Vec<_>>>()?;
            (Kind::NewColumns, Some(key), new_columns(map, table, mapped))
        }
    };
    let is_in_key = |column: &&Column| key.as_ref().is_some_and(|key| key.contains(&column.name));
    columns.retain(|column| !is_in_key(column));
    (kind == Kind::Row || !columns.is_empty()).then_some(NewIn { kind, key, columns })
}

/// Returns the columns of a live table that have no place in the golden copy.
pub(in super::super) fn new_columns<'a>(map: &Map, table: &'a Table, mapped: &Mapped) -> Vec<&'a Column> {
    let is_new = |(at, column): &(usize, &Column)| {
        !mapped.columns.contains(&Some(*at)) && !map.is_input(mapped.place, column)
    };
    let numbered = table.columns.iter().enumerate().filter(is_new).map(|(_, column)| column);
    numbered.filter(|column| column.generated == Generated::No).collect()
}

fn written(table: &Table) -> impl Iterator<Item = &Column> {
    table.columns.iter().filter(|column| column.generated == Generated::No)
}

/// Reads the rows of new tables, and the new columns of others, that somebody has written to.
async fn new_things(now: &Client, replaced: &Client, map: &Map) -> Result<Vec<Line>, DbError> {
    let mut lines = Vec::new();
    let last = map.stages.len() - 1;
    for (oid, rows) in touched::all(now).await? {
        let Some(table) = map.stages[last].table(oid) else { continue };
        let Some(new) = new_in(map, last, table) else { continue };
        let Some(key) = &new.key else {
            lines.extend(nameless(now, replaced, table, &new).await?);
            continue;
        };
        // What was noted before a migration gave a column another type is text of the old one.
        let is_as_noted = |column: &Column| {
            let then = map.stages.iter().filter_map(|stage| stage.table(oid)?.column(&column.name));
            then.into_iter().all(|then| then.bare == column.bare)
        };
        let key: Vec<&Column> = key.iter().filter_map(|name| table.column(name)).collect();
        let named = Named { table, is_its_text: key.iter().map(|column| is_as_noted(column)).collect(), key };
        let left = left::rows(now, oid, |key| rows.contains_key(key)).await?;
        let first = map.stages.iter().find_map(|stage| stage.table(oid));
        let is_rewritten = first.is_some_and(|first| first.file != table.file);
        let rows: Vec<(&Key, State)> = rows.iter().map(|(key, state)| (key, *state)).collect();
        for some in rows.chunks(ROWS) {
            let keys: Vec<&str> = some.iter().map(|(key, _)| key.as_str()).collect();
            let found = named.read(replaced, &new.columns, &keys).await?;
            for ((noted, state), found) in some.iter().zip(found) {
                let Some((key, values)) = found else {
                    // A row of the migration's own that somebody has removed: the next one makes it again.
                    if left.get(*noted).is_some_and(|left| !left.mixed) && new.kind == Kind::Row {
                        lines.push(line(table, Kind::Deleted, named.told(noted), BTreeMap::new()));
                    }
                    continue;
                };
                let mut line = line(table, new.kind, key, values);
                let left = left.get(*noted).filter(|left| left.mixed || *state != State::Made);
                let (mut written, mut unsure) = (Vec::new(), Vec::new());
                for column in &new.columns {
                    let value = line.values.get(&column.name).and_then(Option::as_deref);
                    match whose(left, *state, column, value, is_rewritten, is_as_noted(column)) {
                        Whose::Migrations => {}
                        Whose::Somebodys => written.push(column.name.clone()),
                        Whose::Nobodys => unsure.push(column.name.clone()),
                    }
                }
                // A whole row is somebody's as a whole, if the migration has not made it.
                if new.kind == Kind::Row && left.is_none() {
                    lines.push(line);
                    continue;
                }
                if written.is_empty() && unsure.is_empty() {
                    continue;
                }
                match new.kind {
                    Kind::NewColumns => {
                        line.values.retain(|name, _| written.contains(name) || unsure.contains(name));
                    }
                    _ => line.written = [written, unsure.clone()].concat(),
                }
                line.unsure = unsure;
                lines.push(line);
            }
        }
    }
    Ok(lines)
}

/// Who has written what a column holds.
enum Whose {
    Migrations,
    Somebodys,
    /// Nothing tells.
    Nobodys,
}

/// Tells whose a value is in a row that somebody has written to.
fn whose(
    left: Option<&left::Row>,
    state: State,
    column: &Column,
    value: Option<&str>,
    is_rewritten: bool,
    is_as_noted: bool,
) -> Whose {
    if let Some(left) = left
        && let Some(known) = left.marks.get(&column.name)
    {
        return match is_as_noted {
            true if *known != mark(value) => Whose::Somebodys,
            true if !left.mixed => Whose::Migrations,
            _ => Whose::Nobodys,
        };
    }
    if left.is_none() && state == State::Made {
        return Whose::Somebodys;
    }
    let is_filled = is_rewritten && column.has_default && value.is_none();
    if column.missing.as_deref() == value && !is_filled {
        return Whose::Migrations;
    }
    // No log tells what was put into rows that were written anew: a default that is the same for all, or one by one.
    let is_told = column.constant.is_some() || !column.has_default && !column.not_null;
    match is_rewritten {
        true if !is_told || column.constant.as_deref() == value => Whose::Nobodys,
        _ if !is_as_noted => Whose::Nobodys,
        _ => Whose::Somebodys,
    }
}

/// Reads the rows of a new table of which nothing but itself names one; what the migration has put there is left out.
async fn nameless(
    now: &Client,
    replaced: &Client,
    table: &Table,
    new: &NewIn<'_>,
) -> Result<Vec<Line>, DbError> {
    let mut left: HashMap<Key, u64> =
        left::rows(now, table.oid, |_| true).await?.into_iter().map(|(key, row)| (key, row.count)).collect();
    let what = || format!("read the rows of {}", table.quoted());
    let texts: Vec<String> =
        new.columns.iter().map(|column| format!("g.{}::text", quote::ident(&column.name))).collect();
    let sql = format!("select {} from {} g", texts.join(", "), table.own_rows());
    let none: [&str; 0] = [];
    let rows = replaced.query_raw(&sql, none).await.doing(what)?;
    pin_mut!(rows);
    let mut lines = Vec::new();
    while let Some(row) = rows.next().await {
        let row = row.doing(what)?;
        let value = |at: usize| row.get::<_, Option<&str>>(at);
        let whole = whole_row((0..new.columns.len()).map(value));
        if let Some(count) = left.get_mut(&whole).filter(|count| **count > 0) {
            *count -= 1;
            continue;
        }
        let values = new.columns.iter().enumerate();
        let values = values.map(|(at, column)| (column.name.clone(), value(at).map(str::to_owned)));
        lines.push(line(table, Kind::Row, BTreeMap::new(), values.collect()));
    }
    Ok(lines)
}

/// Reads the rows that did not go back.
async fn rows_aside(now: &Client, replaced: &Client, map: &Map) -> Result<Vec<Line>, DbError> {
    let last = map.stages.len() - 1;
    let mut by_place: BTreeMap<usize, Vec<Key>> = BTreeMap::new();
    for row in state::aside(now).await? {
        if let Some(place) = map.places.iter().position(|place| place.table.quoted() == row.place) {
            by_place.entry(place).or_default().push(row.key);
        }
    }
    let mut lines = Vec::new();
    for (place, rows) in by_place {
        let Some(key) = &map.places[place].key else { continue };
        for (table, mapped) in map.sources(last, place).filter(|(table, _)| table.root.is_none()) {
            // The key is asked for by the columns that have become of it.
            let own: Option<Vec<&Column>> =
                key.iter().map(|at| Some(&table.columns[mapped.columns[*at]?])).collect();
            let Some(own) = own else { continue };
            let is_its_text =
                key.iter().zip(&own).map(|(at, own)| map.places[place].table.columns[*at].bare == own.bare);
            let named = Named { table, is_its_text: is_its_text.collect(), key: own };
            let mut columns: Vec<&Column> = written(table).collect();
            columns.retain(|column| named.key.iter().all(|key| key.name != column.name));
            for some in rows.chunks(ROWS) {
                let keys: Vec<&str> = some.iter().map(String::as_str).collect();
                let there = there(now, &map.places[place], key, &keys).await?;
                let found = named.read(replaced, &columns, &keys).await?.into_iter().zip(there);
                lines.extend(found.filter_map(|(found, is_there)| {
                    let (key, values) = found?;
                    // What goes on as it was before may be removed by the next load: then it is not to come back.
                    let kind = if is_there { Kind::Changed } else { Kind::Row };
                    Some(line(table, kind, key, values))
                }));
            }
        }
    }
    Ok(lines)
}

/// Tells of each key whether a place has its row.
async fn there(now: &Client, place: &Place, key: &[usize], rows: &[&str]) -> Result<Vec<bool>, DbError> {
    let parameters = keys(key.len(), rows.iter().copied());
    let what = || format!("read rows of {}", place.table.quoted());
    let mut there = vec![false; rows.len()];
    for row in now.query(&sql::read(place, key, &[]), &as_parameters(&parameters)).await.doing(what)? {
        let at = usize::try_from(row.get::<_, i64>(0) - 1).ok();
        if let Some(there) = at.and_then(|at| there.get_mut(at)) {
            *there = true;
        }
    }
    Ok(there)
}

/// A row's key, and columns of it.
type Found = (BTreeMap<String, String>, BTreeMap<String, Option<String>>);

/// A table whose rows are asked for by a key.
struct Named<'a> {
    table: &'a Table,
    key: Vec<&'a Column>,
    /// Of each column of the key, whether a key's text is of the type that it has.
    is_its_text: Vec<bool>,
}

impl Named<'_> {
    /// Reads the key and the columns of rows, in the order in which these are asked for; `None` for one that is not there.
    async fn read(
        &self,
        client: &Client,
        columns: &[&Column],
        rows: &[&str],
    ) -> Result<Vec<Option<Found>>, DbError> {
        let same = self.key.iter().zip(&self.is_its_text).enumerate().map(|(at, (column, is_its_text))| {
            let name = format!("g.{}", quote::ident(&column.name));
            match is_its_text {
                true => is_key(column, &name, &format!("n.k{at}::{}", column.bare)),
                false => format!("{name}::text = n.k{at}"),
            }
        });
        let texts =
            self.key.iter().chain(columns).map(|column| format!(", g.{}::text", quote::ident(&column.name)));
        let positions: Vec<usize> = (0..self.key.len()).collect();
        let sql = format!(
            "select n.i{} from {} join {} g on {}",
            texts.collect::<String>(),
            sql::rows(&positions, &[]),
            self.table.own_rows(),
            same.collect::<Vec<_>>().join(" and ")
        );
        let parameters = keys(self.key.len(), rows.iter().copied());
        let what = || format!("read rows of {}", self.table.quoted());
        let mut found = vec![None; rows.len()];
        for row in client.query(&sql, &as_parameters(&parameters)).await.doing(what)? {
            let at = usize::try_from(row.get::<_, i64>(0) - 1).ok();
            let key = (1..).zip(&self.key).map(|(at, column)| (column.name.clone(), row.get(at)));
            let values =
                (1 + self.key.len()..).zip(columns).map(|(at, column)| (column.name.clone(), row.get(at)));
            if let Some(found) = at.and_then(|at| found.get_mut(at)) {
                *found = Some((key.collect(), values.collect()));
            }
        }
        Ok(found)
    }

    /// Returns a key as it was noted.
    fn told(&self, key: &str) -> BTreeMap<String, String> {
        self.key.iter().map(|column| column.name.clone()).zip(parts(key).map(str::to_owned)).collect()
    }
}

fn line(
    table: &Table,
    kind: Kind,
    key: BTreeMap<String, String>,
    values: BTreeMap<String, Option<String>>,
) -> Line {
    let (schema, table) = (table.schema.clone(), table.name.clone());
    Line { schema, table, kind, key, values, written: Vec::new(), unsure: Vec::new() }
}
