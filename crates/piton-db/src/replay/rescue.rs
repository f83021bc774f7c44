//! What the old structure has no place for: written to a file when a migration has gone back, and loaded when it comes again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Statement};

use super::apply::{as_parameters, keys};
use super::layout::{Column, Generated, Identity, Layout, Table};
use super::map::{Map, Mapped, Target};
use super::net::Key;
use super::state::{self, Mark};
use super::{session, sql, touched};
use crate::error::Doing;
use crate::{Database, DbError, files, quote};

/// The version of the file's format; newer ones are refused.
const FORMAT: u32 = 1;

/// The first line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    format: u32,
    rows: u64,
}

impl Head {
    /// Returns the head of a file with so many lines behind it.
    pub(crate) fn of(rows: u64) -> Self {
        Self { format: FORMAT, rows }
    }
}

/// One line of the file: a row of the new structure, or what is new in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) kind: Kind,
    /// The columns that name the row, as text; none of a table without a key.
    pub(crate) key: BTreeMap<String, String>,
    /// What it held, as text.
    pub(crate) values: BTreeMap<String, Option<String>>,
}

/// What a line saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A whole row, for which there was no table or which did not fit.
    Row,
    /// The new columns of a row that went back without them.
    NewColumns,
    /// A row that somebody had changed, as it was then: another one has its key now.
    Changed,
    /// A row that somebody had removed, and that came back.
    Deleted,
}

/// What a rescue file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescued {
    /// Whole rows.
    pub rows: u64,
    /// Rows whose new columns are in it.
    pub values: u64,
}

/// What came of loading a rescue file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Rows that were put in or completed.
    pub loaded: u64,
    /// Rows that are there already, just so.
    pub there: u64,
    /// What could not be loaded without overwriting something, in words: the file still has it.
    pub left: Vec<String>,
    /// The same, as the file has it.
    #[serde(skip)]
    lines: Vec<Line>,
}

impl Loaded {
    fn leave(&mut self, line: Line, why: &str) {
        self.left.push(line.words(why));
        self.lines.push(line);
    }

    /// Writes what was left into a file that a later release loads: what is in must not be put in once more, over what is written then.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_left(&self, file: &Path) -> Result<(), DbError> {
        write(&self.lines, file).map(drop)
    }
}

/// Writes down what of the replaced database has no place in the one that has taken its place; `None` when there is nothing.
///
/// `now` is the golden copy under its new name, which has the replay's notes until [`give_up`](super::give_up). Done again, the file
/// is written anew.
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

/// Writes lines to a file and reads them again; `None`, and no file, where there are none.
pub(super) fn write(lines: &[Line], file: &Path) -> Result<Option<Rescued>, DbError> {
    let count = |kind: Kind| lines.iter().filter(|line| line.kind == kind).count() as u64;
    let rescued = Rescued { rows: count(Kind::Row), values: count(Kind::NewColumns) };
    if lines.is_empty() {
        return Ok(None);
    }
    let mut text = Vec::new();
    let head = Head::of(lines.len() as u64);
    write_line(&mut text, &head)?;
    for line in lines {
        write_line(&mut text, line)?;
    }
    files::write(file, &text)?;
    if lines_of(file)? != lines {
        return Err(DbError::Replay(format!("{} does not hold what was written to it", file.display())));
    }
    Ok(Some(rescued))
}

fn write_line(text: &mut Vec<u8>, line: &impl Serialize) -> Result<(), DbError> {
    serde_json::to_writer(&mut *text, line).map_err(std::io::Error::from)?;
    Ok(text.write_all(b"\n")?)
}

/// Reads the rows of new tables, and the new columns of others, that somebody has written to.
async fn new_things(now: &Client, replaced: &Client, map: &Map) -> Result<Vec<Line>, DbError> {
    let mut lines = Vec::new();
    let last = map.stages.len() - 1;
    for (oid, rows) in touched::all(now).await? {
        let rows: Vec<Key> = rows.into_iter().collect();
        let Some(table) = map.stages[last].table(oid) else { continue };
        let (kind, columns) = match map.target(last, oid) {
            Target::Record => continue,
            Target::Nowhere => (Kind::Row, written(table).collect::<Vec<_>>()),
            Target::Place(mapped) => (Kind::NewColumns, new_columns(map, table, mapped)),
        };
        // What was noted before a migration gave a column another type is text of the old one.
        let always = |column: &Column| {
            let then = map.stages.iter().filter_map(|stage| stage.table(oid)?.column(&column.name));
            then.into_iter().all(|then| then.bare == column.bare)
        };
        lines.extend(read(replaced, table, always, &columns, &rows, kind).await?);
    }
    Ok(lines)
}

/// Returns the columns of a live table that have no place in the golden copy.
pub(super) fn new_columns<'a>(map: &Map, table: &'a Table, mapped: &Mapped) -> Vec<&'a Column> {
    let is_new = |(at, column): &(usize, &Column)| {
        !mapped.columns.contains(&Some(*at)) && !map.is_input(mapped.place, column)
    };
    let numbered = table.columns.iter().enumerate().filter(is_new).map(|(_, column)| column);
    numbered.filter(|column| column.generated == Generated::No).collect()
}

fn written(table: &Table) -> impl Iterator<Item = &Column> {
    table.columns.iter().filter(|column| column.generated == Generated::No)
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
            let own: Option<Vec<String>> =
                key.iter().map(|at| Some(table.columns[mapped.columns[*at]?].name.clone())).collect();
            let Some(own) = own else { continue };
            // The key is asked for by the columns that have become of it.
            let asked = Table { identity: Identity::Columns(own), ..table.clone() };
            let columns: Vec<&Column> = written(&asked).collect();
            let alike = |column: &Column| {
                let became = |at: &&usize| {
                    mapped.columns[**at].is_some_and(|at| table.columns[at].name == column.name)
                };
                let was = key.iter().find(became);
                was.is_some_and(|was| map.places[place].table.columns[*was].bare == column.bare)
            };
            lines.extend(read(replaced, &asked, alike, &columns, &rows, Kind::Row).await?);
        }
    }
    Ok(lines)
}

/// Reads columns of rows by their keys; `is_its_text` tells whether a key's text is of the type that its column has.
async fn read(
    client: &Client,
    table: &Table,
    is_its_text: impl Fn(&Column) -> bool,
    columns: &[&Column],
    rows: &[Key],
    kind: Kind,
) -> Result<Vec<Line>, DbError> {
    let Identity::Columns(names) = &table.identity else { return Ok(Vec::new()) };
    let key: Vec<&Column> = names.iter().filter_map(|name| table.column(name)).collect();
    if columns.is_empty() || key.is_empty() {
        return Ok(Vec::new());
    }
    let text = |column: &&Column| format!("g.{}::text", quote::ident(&column.name));
    let texts: Vec<String> = key.iter().chain(columns).map(text).collect();
    let same = key.iter().enumerate().map(|(at, column)| {
        let name = format!("g.{}", quote::ident(&column.name));
        match is_its_text(column) {
            true => is_key(column, &name, &format!("n.k{at}::{}", column.bare)),
            false => format!("{name}::text = n.k{at}"),
        }
    });
    let positions: Vec<usize> = (0..key.len()).collect();
    let sql = format!(
        "select {} from {} join {} g on {}",
        texts.join(", "),
        sql::rows(&positions, &[]),
        table.quoted(),
        same.collect::<Vec<_>>().join(" and ")
    );
    let parameters = keys(key.len(), rows.iter().map(String::as_str));
    let found = client
        .query(&sql, &as_parameters(&parameters))
        .await
        .doing(|| format!("read rows of {}", table.quoted()))?;
    let line = |row: &tokio_postgres::Row| Line {
        schema: table.schema.clone(),
        table: table.name.clone(),
        kind,
        key: (0..).zip(&key).map(|(at, column)| (column.name.clone(), row.get(at))).collect(),
        values: (key.len()..).zip(columns).map(|(at, column)| (column.name.clone(), row.get(at))).collect(),
    };
    Ok(found.iter().map(line).collect())
}

/// Returns the condition that a key's column has a value of its type: as values, which an index finds, where no other schema is needed
/// to compare them.
fn is_key(column: &Column, name: &str, value: &str) -> String {
    match column.builtin {
        true => format!("{name} = {value}"),
        false => format!("{name}::text = ({value})::text"),
    }
}

/// Puts what a rescue file holds into a database that has been migrated again, in one transaction; done again, it finds all there.
///
/// Nothing that is there is overwritten but what the migration itself has put into new columns: nobody else can have written them
/// before the release is started. A row that does not fit is left and named.
///
/// # Errors
/// [`DbError::Replay`] when the file is of another format or damaged; or when the database cannot be written.
pub async fn load(database: &Database, file: &Path) -> Result<Loaded, DbError> {
    let client = session(database).await?;
    let lines = lines_of(file)?;
    let what = || format!("load {}", file.display());
    client.batch_execute("begin").await.doing(what)?;
    let layout = Layout::read(&client).await?;
    let mut result = Loaded::default();
    let mut statements = Statements::default();
    let tables: Vec<_> = lines.iter().map(|line| (line.schema.clone(), line.table.clone())).collect();
    // A row may refer to a later one.
    let mut waiting = lines;
    loop {
        let mut refused = Vec::new();
        let before = waiting.len();
        for line in waiting {
            client.batch_execute("savepoint line").await.doing(what)?;
            let put = put(&client, &mut statements, &layout, &line).await;
            // One that is not released would keep a lock of its own to the end, of which a server has thousands for all.
            let end = if put.is_ok() { "release line" } else { "rollback to line; release line" };
            match put {
                Ok(Put::Loaded) => result.loaded += 1,
                Ok(Put::There) => result.there += 1,
                Ok(Put::Left(why)) => result.leave(line, &why),
                Err(error) => {
                    let Some(why) = super::apply::refusal(&error) else { return Err(error) };
                    refused.push((line, why));
                }
            }
            client.batch_execute(end).await.doing(what)?;
        }
        if refused.is_empty() || refused.len() == before {
            refused.into_iter().for_each(|(line, why)| result.leave(line, &why));
            break;
        }
        waiting = refused.into_iter().map(|(line, _)| line).collect();
    }
    let tables: BTreeSet<(String, String)> = tables.into_iter().collect();
    for (schema, table) in tables {
        if let Some(table) = layout.named(&schema, &table) {
            move_sequences(&client, &layout, table).await?;
        }
    }
    client.batch_execute("commit").await.doing(what)?;
    Ok(result)
}

/// Moves the sequences of a table's columns on behind what stands in them, so that no number is given twice.
async fn move_sequences(client: &Client, layout: &Layout, table: &Table) -> Result<(), DbError> {
    for sequence in &layout.sequences {
        let Some((_, column)) = sequence.owner.as_ref().filter(|(owner, _)| *owner == table.oid) else {
            continue;
        };
        let name = quote::qualified(&sequence.schema, &sequence.name);
        let (end, further) = if sequence.ascends { ("max", ">") } else { ("min", "<") };
        let sql = format!(
            "select pg_catalog.setval({}::regclass, used) from (select {end}({})::bigint as used from {}) t, {name} s
             where used {further} s.last_value or used = s.last_value and not s.is_called",
            quote::literal(&name),
            quote::ident(column),
            table.quoted(),
        );
        client.execute(&sql, &[]).await.doing(|| format!("move the sequence {name} on"))?;
    }
    Ok(())
}

fn lines_of(file: &Path) -> Result<Vec<Line>, DbError> {
    let damaged = |why: String| DbError::Replay(format!("{} cannot be loaded: {why}", file.display()));
    let mut lines = BufReader::new(fs::File::open(file)?).lines();
    let head = lines.next().transpose()?.unwrap_or_default();
    let head: Head = serde_json::from_str(&head).map_err(|error| damaged(error.to_string()))?;
    if head.format > FORMAT {
        return Err(damaged(format!("its format is {}, this Piton reads up to {FORMAT}", head.format)));
    }
    let mut read = Vec::new();
    for line in lines {
        read.push(serde_json::from_str(&line?).map_err(|error| damaged(error.to_string()))?);
    }
    match read.len() as u64 == head.rows {
        true => Ok(read),
        false => Err(damaged("it has been cut off".into())),
    }
}

/// What came of one line.
enum Put {
    Loaded,
    There,
    Left(String),
}

impl Line {
    fn words(&self, why: &str) -> String {
        let key: Vec<String> = self.key.iter().map(|(name, value)| format!("{name} {value}")).collect();
        format!("{} of {}: {why}", key.join(", "), quote::qualified(&self.schema, &self.table))
    }
}

/// Statements by their text: the lines of one table ask for the same.
#[derive(Default)]
struct Statements(HashMap<String, Statement>);

impl Statements {
    async fn of(&mut self, client: &Client, sql: String) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.0.get(&sql) {
            return Ok(statement.clone());
        }
        let statement = client.prepare(&sql).await?;
        self.0.insert(sql, statement.clone());
        Ok(statement)
    }
}

async fn put(
    client: &Client,
    statements: &mut Statements,
    layout: &Layout,
    line: &Line,
) -> Result<Put, DbError> {
    let Some(table) = layout.named(&line.schema, &line.table) else {
        return Ok(Put::Left("there is no such table".into()));
    };
    match line.kind {
        // Done again, nobody would know whether it is in.
        _ if line.key.is_empty() => return Ok(Put::Left("its table has no key".into())),
        Kind::Changed => {
            return Ok(Put::Left("the row was changed, and another state of it is there".into()));
        }
        Kind::Deleted => return Ok(Put::Left("the row was removed, and is there again".into())),
        Kind::Row | Kind::NewColumns => {}
    }
    let mut values = line.values.clone();
    if line.kind == Kind::Row {
        values.extend(line.key.iter().map(|(name, value)| (name.clone(), Some(value.clone()))));
    }
    let columns: Option<Vec<&Column>> = values.keys().map(|name| table.column(name)).collect();
    let key: Option<Vec<&Column>> = line.key.keys().map(|name| table.column(name)).collect();
    let (Some(columns), Some(key)) = (columns, key) else {
        return Ok(Put::Left("a column of it is not there".into()));
    };
    let mut parameters: Vec<Option<&str>> = values.values().map(Option::as_deref).collect();
    parameters.extend(line.key.values().map(|value| Some(value.as_str())));
    let parameter = |at: usize, column: &&Column| format!("${at}::text::{}", column.bare);
    let here = (columns.len() + 1..)
        .zip(&key)
        .map(|(at, column)| is_key(column, &quote::ident(&column.name), &parameter(at, column)));
    let here = here.collect::<Vec<_>>().join(" and ");
    let just_so = (1..).zip(&columns).map(|(at, column)| {
        let name = quote::ident(&column.name);
        format!("{name}::text is not distinct from ({})::text", parameter(at, column))
    });
    let just_so = just_so.collect::<Vec<_>>().join(" and ");
    let look = format!("select {just_so} from {} where {here}", table.quoted());
    let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
        parameters.iter().map(|value| value as &(dyn tokio_postgres::types::ToSql + Sync)).collect();
    let what = || format!("load a row of {}", table.quoted());
    let look = statements.of(client, look).await.doing(what)?;
    let found: Option<bool> = client.query_opt(&look, &parameters).await.doing(what)?.map(|row| row.get(0));
    let names: Vec<String> = columns.iter().map(|column| quote::ident(&column.name)).collect();
    let texts: Vec<String> = (1..).zip(&columns).map(|(at, column)| parameter(at, column)).collect();
    match (found, line.kind == Kind::NewColumns) {
        (Some(true), _) => Ok(Put::There),
        (Some(false), false) => Ok(Put::Left("another row has its key".into())),
        (None, true) => Ok(Put::Left("the row is gone".into())),
        (Some(false), true) => {
            let set = names.iter().zip(&texts).map(|(name, text)| format!("{name} = {text}"));
            let set = set.collect::<Vec<_>>().join(", ");
            let update = format!("update {} set {set} where {here}", table.quoted());
            let update = statements.of(client, update).await.doing(what)?;
            client.execute(&update, &parameters).await.doing(what)?;
            Ok(Put::Loaded)
        }
        (None, false) => {
            let insert = format!(
                "insert into {} ({}) overriding system value select {} where {}",
                table.quoted(),
                names.join(", "),
                texts.join(", "),
                // Every parameter has to be of use.
                (columns.len() + 1..=parameters.len())
                    .map(|at| format!("${at}::text is not null"))
                    .collect::<Vec<_>>()
                    .join(" and ")
            );
            let insert = statements.of(client, insert).await.doing(what)?;
            client.execute(&insert, &parameters).await.doing(what)?;
            Ok(Put::Loaded)
        }
    }
}
