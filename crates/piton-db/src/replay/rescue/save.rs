//! What of a replaced database is saved.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::{StreamExt, pin_mut};
use tokio_postgres::{Client, Row};

use super::super::apply::{as_parameters, keys};
use super::super::layout::{Column, Generated, Layout, Table};
use super::super::left::{self, mark, whole_row};
use super::super::map::{Map, Mapped, Place, Target};
use super::super::net::{Key, parts};
use super::super::offer::hash_of;
use super::super::route::Castable;
use super::super::state::{self, Mark};
use super::super::touched::{self, State};
use super::super::{castable, session, sql};
use super::{Kind, Line, Rescued, is_key, write};
use crate::error::Doing;
use crate::{Database, DbError, Session, quote};

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
    let (map, there) = (Map::new(golden, stages, &way, &record), Layout::read(&replaced).await?);
    let castable = castable(&now, &map).await?;
    let saver = Saver { now, replaced, map, there, castable };
    let mut lines = saver.new_things().await?;
    lines.extend(saver.rows_aside().await?);
    write(&lines, file)
}

/// Reads what is to be saved.
struct Saver {
    now: Session,
    replaced: Session,
    map: Map,
    /// The replaced database as it is: somebody may have changed it by hand since the migration has ended.
    there: Layout,
    castable: Castable,
}

/// A table as the migration has left it, which a file speaks of, and as it is.
#[derive(Clone, Copy)]
struct Source<'a> {
    left: &'a Table,
    is: &'a Table,
}

/// A column of it.
#[derive(Clone, Copy)]
struct Read<'a> {
    left: &'a Column,
    is: &'a Column,
    /// Whether what is noted of it is text of the type that it has.
    is_as_noted: bool,
    /// The type through which what is noted becomes one of that, where that can be done.
    through: Option<&'a str>,
}

impl Saver {
    /// Finds a table of the last stage; `None` when it is gone.
    fn source<'a>(&'a self, left: &'a Table) -> Option<Source<'a>> {
        Some(Source { left, is: self.there.table(left.oid)? })
    }

    /// Finds a column of a table; `None` when it is gone.
    fn column<'a>(&self, source: Source<'a>, left: &'a Column) -> Option<Read<'a>> {
        let is = source.is.numbered(left.number)?;
        // What was noted before a migration gave a column another type is text of the old one.
        let then =
            |stage: &'_ Layout| Some(stage.table(source.left.oid)?.column(&left.name)?.bare == is.bare);
        let is_as_noted = self.map.stages.iter().filter_map(then).all(|same| same);
        Some(Read { left, is, is_as_noted, through: None })
    }

    fn columns<'a>(&self, source: Source<'a>, left: &[&'a Column]) -> Vec<Read<'a>> {
        left.iter().filter_map(|column| self.column(source, column)).collect()
    }

    /// Reads the rows of new tables, and the new columns of others, that somebody has written to.
    async fn new_things(&self) -> Result<Vec<Line>, DbError> {
        let mut lines = Vec::new();
        let last = self.map.stages.len() - 1;
        for (oid, rows) in touched::all(&self.now).await? {
            let Some(table) = self.map.stages[last].table(oid) else { continue };
            let Some((new, source)) = new_in(&self.map, last, table).zip(self.source(table)) else {
                continue;
            };
            lines.extend(match &new.key {
                None => self.nameless(source, &new).await?,
                Some(key) => self.written(source, &new, key, &rows).await?,
            });
        }
        Ok(lines)
    }

    /// Reads what is new in the rows of one table that were touched.
    async fn written(
        &self,
        source: Source<'_>,
        new: &NewIn<'_>,
        key: &[String],
        rows: &BTreeMap<Key, State>,
    ) -> Result<Vec<Line>, DbError> {
        let table = source.left;
        let column = |name: &String| self.column(source, table.column(name)?);
        // Without a column of its key nothing names a row any more.
        let Some(key) = key.iter().map(column).collect::<Option<Vec<_>>>() else { return Ok(Vec::new()) };
        let named = Named { source, key };
        let columns = self.columns(source, &new.columns);
        let left = left::rows(&self.now, table.oid, |key| rows.contains_key(key)).await?;
        let first = self.map.stages.iter().find_map(|stage| stage.table(table.oid));
        let is_rewritten = first.is_some_and(|first| first.file != table.file);
        let rows: Vec<(&Key, State)> = rows.iter().map(|(key, state)| (key, *state)).collect();
        let mut lines = Vec::new();
        for some in rows.chunks(ROWS) {
            let keys: Vec<&str> = some.iter().map(|(key, _)| key.as_str()).collect();
            let found = named.read(&self.replaced, &columns, &keys).await?;
            for ((noted, state), found) in some.iter().zip(found) {
                let (state, left) = (*state, left.get(*noted));
                lines.extend(match found {
                    Some(found) => {
                        let left = left.filter(|left| left.mixed || state != State::Made);
                        line_of(table, new.kind, found, &columns, &Known { left, state, is_rewritten })
                    }
                    // A row of the migration's own that somebody has removed: the next one makes it again.
                    None => (left.is_some_and(|left| !left.mixed) && new.kind == Kind::Row)
                        .then(|| line(table, Kind::Deleted, named.told(noted), BTreeMap::new())),
                });
            }
        }
        Ok(lines)
    }

    /// Reads the rows of a new table of which nothing but itself names one; what the migration has put there is left out.
    async fn nameless(&self, source: Source<'_>, new: &NewIn<'_>) -> Result<Vec<Line>, DbError> {
        let columns = self.columns(source, &new.columns);
        let kept: Vec<&Column> = columns.iter().map(|column| column.left).collect();
        let mut left = left::counts(&self.now, source.left.oid, &kept).await?;
        let what = || format!("read the rows of {}", source.is.quoted());
        let texts: Vec<String> =
            columns.iter().map(|column| format!("g.{}::text", quote::ident(&column.is.name))).collect();
        let sql = format!("select {} from {} g", texts.join(", "), source.is.own_rows());
        let none: [&str; 0] = [];
        let rows = self.replaced.query_raw(&sql, none).await.doing(what)?;
        pin_mut!(rows);
        let mut lines = Vec::new();
        while let Some(row) = rows.next().await {
            let row = row.doing(what)?;
            let value = |at: usize| row.get::<_, Option<&str>>(at);
            let whole = whole_row((0..columns.len()).map(value));
            if let Some(count) = left.get_mut(&hash_of(&whole)).filter(|count| **count > 0) {
                *count -= 1;
                continue;
            }
            let values = columns.iter().enumerate();
            let values = values.map(|(at, column)| (column.left.name.clone(), value(at).map(str::to_owned)));
            lines.push(line(source.left, Kind::Row, BTreeMap::new(), values.collect()));
        }
        Ok(lines)
    }

    /// Reads the rows that did not go back.
    async fn rows_aside(&self) -> Result<Vec<Line>, DbError> {
        let mut by_place: BTreeMap<usize, Vec<Key>> = BTreeMap::new();
        for row in state::aside(&self.now).await? {
            if let Some(place) = self.map.places.iter().position(|place| place.table.quoted() == row.place) {
                by_place.entry(place).or_default().push(row.key);
            }
        }
        let mut lines = Vec::new();
        for (place, rows) in by_place {
            let sources = self.map.last_sources(place);
            let Some(key) = &self.map.places[place].key else {
                if let Some((table, mapped)) = sources.first() {
                    lines.extend(self.nameless_aside(place, table, mapped, &rows).await?);
                }
                continue;
            };
            for (table, mapped) in sources {
                lines.extend(self.named_aside(place, key, table, mapped, &rows).await?);
            }
        }
        Ok(lines)
    }

    /// Reads rows of a place as they are in a table that has rows of it.
    async fn named_aside(
        &self,
        place: usize,
        key: &[usize],
        table: &Table,
        mapped: &Mapped,
        rows: &[Key],
    ) -> Result<Vec<Line>, DbError> {
        let place = &self.map.places[place];
        let Some(source) = self.source(table) else { return Ok(Vec::new()) };
        // The key is asked for by the columns that have become of it.
        let own = |at: &usize| {
            let own = self.column(source, &table.columns[mapped.columns[*at]?])?;
            let (was, is) = (place.table.columns[*at].bare.as_str(), own.is.bare.as_str());
            let can = |from: &str, to: &str| self.castable.contains(&(from.to_owned(), to.to_owned()));
            let through = (was != is && can(was, is) && can(is, was)).then_some(was);
            Some(Read { is_as_noted: was == is, through, ..own })
        };
        let Some(own) = key.iter().map(own).collect::<Option<Vec<_>>>() else { return Ok(Vec::new()) };
        let named = Named { source, key: own };
        let mut columns: Vec<&Column> = written(table).collect();
        columns.retain(|column| named.key.iter().all(|key| key.left.name != column.name));
        let columns = self.columns(source, &columns);
        let mut lines = Vec::new();
        for some in rows.chunks(ROWS) {
            let keys: Vec<&str> = some.iter().map(String::as_str).collect();
            let there = there(&self.now, place, key, &keys).await?;
            let found = named.read(&self.replaced, &columns, &keys).await?.into_iter().zip(there);
            lines.extend(found.filter_map(|(found, is_there)| {
                let (key, values) = found?;
                // What goes on as it was before may be removed by the next load: then it is not to come back.
                let kind = if is_there { Kind::Changed } else { Kind::Row };
                Some(line(table, kind, key, values))
            }));
        }
        Ok(lines)
    }

    /// Reads rows of a place without a key, which are noted as the golden copy had them.
    async fn nameless_aside(
        &self,
        place: usize,
        table: &Table,
        mapped: &Mapped,
        rows: &[Key],
    ) -> Result<Vec<Line>, DbError> {
        let place = &self.map.places[place];
        let went_on = |(at, column): (usize, &'_ Column)| {
            let became = &table.columns[mapped.columns[at]?];
            let is_same = column.generated == Generated::No && !place.downs.contains_key(&at);
            is_same.then(|| (quote::ident(&column.name), became.name.clone()))
        };
        let columns: Vec<(String, String)> =
            place.table.columns.iter().enumerate().filter_map(went_on).collect();
        let texts = columns.iter().map(|(name, _)| format!(", g.{name}::text"));
        let sql = format!(
            "select 0{} from pg_catalog.unnest($1::text[]) n(row) cross join lateral (select (n.row::{}).*) g",
            texts.collect::<String>(),
            place.table.quoted()
        );
        let what = || format!("read rows of {}", place.table.quoted());
        let found = self.now.query(&sql, &[&rows]).await.doing(what)?;
        let values = |row: &Row| {
            let value = |(at, (_, name)): (usize, &(String, String))| (name.clone(), row.get(1 + at));
            columns.iter().enumerate().map(value).collect()
        };
        Ok(found.iter().map(|row| line(table, Kind::Row, BTreeMap::new(), values(row))).collect())
    }
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

/// Who has written what a column holds.
enum Whose {
    Migrations,
    Somebodys,
    /// Nothing tells.
    Nobodys,
}

/// What is known of a row that somebody has written to.
struct Known<'a> {
    /// What the migration has left in it, if it has written it.
    left: Option<&'a left::Row>,
    state: State,
    /// Whether its table's rows were written anew by the migration.
    is_rewritten: bool,
}

impl Known<'_> {
    /// Tells whose a value of it is.
    fn whose(&self, column: &Read<'_>, value: Option<&str>) -> Whose {
        let Self { left, state, is_rewritten } = *self;
        let Read { left: column, is_as_noted, .. } = *column;
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
}

/// Makes a line of a row, of what in it is not the migration's; `None` when nothing is.
fn line_of(
    table: &Table,
    kind: Kind,
    (key, values): Found,
    columns: &[Read<'_>],
    known: &Known<'_>,
) -> Option<Line> {
    let mut line = line(table, kind, key, values);
    // A whole row is somebody's as a whole, if the migration has not made it.
    if kind == Kind::Row && known.left.is_none() {
        return Some(line);
    }
    let (mut written, mut unsure) = (Vec::new(), Vec::new());
    for column in columns {
        let name = &column.left.name;
        match known.whose(column, line.values.get(name).and_then(Option::as_deref)) {
            Whose::Migrations => {}
            Whose::Somebodys => written.push(name.clone()),
            Whose::Nobodys => unsure.push(name.clone()),
        }
    }
    if written.is_empty() && unsure.is_empty() {
        return None;
    }
    match kind {
        Kind::NewColumns => line.values.retain(|name, _| written.contains(name) || unsure.contains(name)),
        _ => line.written = [written, unsure.clone()].concat(),
    }
    line.unsure = unsure;
    Some(line)
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
    source: Source<'a>,
    key: Vec<Read<'a>>,
}

impl Named<'_> {
    /// Reads the key and the columns of rows, in the order in which these are asked for; `None` for one that is not there.
    async fn read(
        &self,
        client: &Client,
        columns: &[Read<'_>],
        rows: &[&str],
    ) -> Result<Vec<Option<Found>>, DbError> {
        let table = self.source.is;
        let same = self.key.iter().enumerate().map(|(at, Read { is, is_as_noted, through, .. })| {
            let name = format!("g.{}", quote::ident(&is.name));
            match (is_as_noted, through) {
                (true, _) => is_key(is, &name, &format!("n.k{at}::{}", is.bare)),
                (false, Some(through)) => is_key(is, &name, &format!("n.k{at}::{through}::{}", is.bare)),
                (false, None) => format!("{name}::text = n.k{at}"),
            }
        });
        let texts = self.key.iter().chain(columns);
        let texts = texts.map(|column| format!(", g.{}::text", quote::ident(&column.is.name)));
        let positions: Vec<usize> = (0..self.key.len()).collect();
        let sql = format!(
            "select n.i{} from {} join {} g on {}",
            texts.collect::<String>(),
            sql::rows(&positions, &[]),
            table.own_rows(),
            same.collect::<Vec<_>>().join(" and ")
        );
        let parameters = keys(self.key.len(), rows.iter().copied());
        let what = || format!("read rows of {}", table.quoted());
        let mut found = vec![None; rows.len()];
        for row in client.query(&sql, &as_parameters(&parameters)).await.doing(what)? {
            let at = usize::try_from(row.get::<_, i64>(0) - 1).ok();
            let key = (1..).zip(&self.key).map(|(at, column)| (column.left.name.clone(), row.get(at)));
            let values = (1 + self.key.len()..)
                .zip(columns)
                .map(|(at, column)| (column.left.name.clone(), row.get(at)));
            if let Some(found) = at.and_then(|at| found.get_mut(at)) {
                *found = Some((key.collect(), values.collect()));
            }
        }
        Ok(found)
    }

    /// Returns a key as it was noted.
    fn told(&self, key: &str) -> BTreeMap<String, String> {
        self.key.iter().map(|column| column.left.name.clone()).zip(parts(key).map(str::to_owned)).collect()
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
