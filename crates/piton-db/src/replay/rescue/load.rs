//! How a rescue file is loaded.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::super::apply::refusal;
use super::super::layout::{Column, Generated, Layout, Table};
use super::super::session;
use super::checks::{self, Checks};
use super::{Kind, Line, is_key, lines_of, write};
use crate::error::{Doing, SqlError};
use crate::{Database, DbError, Session, quote};

/// How long a row that is locked is waited for.
const LOCK_WAIT: &str = "2s";

/// How often it is looked whether a session has ended.
const LOOK: Duration = Duration::from_millis(100);

/// What came of loading a rescue file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Rows that were put in or completed.
    pub loaded: u64,
    /// Rows that are there already, just so.
    pub there: u64,
    /// What could not be loaded without overwriting something, in words: the file still has it.
    pub left: Vec<String>,
    /// Whether triggers have fired once more, because the role may not keep them from it.
    pub fired: bool,
    /// The same as what was left, as the file has it.
    lines: Vec<Line>,
}

impl Loaded {
    /// Keeps a line for a later release. By then people have used what is there: nothing of the line goes over that.
    fn leave(&mut self, mut line: Line, why: &str) {
        line.unsure = line.values.keys().cloned().collect();
        self.leave_as_it_is(line, why);
    }

    fn leave_as_it_is(&mut self, line: Line, why: &str) {
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

/// What a rescue file holds, put into a database by a transaction that is still open: dropped, nothing of it is in.
#[derive(Debug)]
#[must_use = "nothing is in before it is committed"]
pub struct Loading {
    /// What comes of it.
    pub loaded: Loaded,
    /// The transaction, which [`is_committed`] knows.
    pub transaction: u64,
    client: Session,
}

impl Loading {
    /// Ends it.
    ///
    /// # Errors
    /// When the server is away: all of it is in, or nothing, as [`is_committed`] tells.
    pub async fn commit(self) -> Result<Loaded, DbError> {
        self.client.batch_execute("commit").await.doing(|| "load a rescue file".into())?;
        Ok(self.loaded)
    }
}

/// Tells whether a transaction has been committed; waits for one whose session has not ended yet.
///
/// # Errors
/// When the server cannot be asked.
pub async fn is_committed(database: &Database, transaction: u64) -> Result<bool, DbError> {
    let client = session(database).await?;
    loop {
        let status = "select pg_catalog.pg_xact_status($1::text::xid8)";
        let row = client.query_one(status, &[&transaction.to_string()]).await;
        let row = row.doing(|| "look whether a rescue file was loaded".into())?;
        match row.get(0) {
            Some("in progress") => tokio::time::sleep(LOOK).await,
            status => return Ok(status == Some("committed")),
        }
    }
}

/// Puts what a rescue file holds into a database that has been migrated again.
///
/// Done again, it finds all there that a key names; a row that nothing names but itself would come in once more.
///
/// Nothing that is there is overwritten but what the migration itself has put into new columns: nobody else can have written them
/// before the release is started. A row that does not fit is left and named. Triggers do not fire, where the role may keep them from it:
/// what they did when the row was written first is in the file, or has gone back with the rest.
///
/// # Errors
/// [`DbError::Replay`] when the file is of another format or damaged; or when the database cannot be written.
pub async fn load(database: &Database, file: &Path) -> Result<Loading, DbError> {
    let client = session(database).await?;
    let lines = lines_of(file)?;
    let what = || format!("load {}", file.display());
    let is_quiet = client.batch_execute("set session_replication_role = replica").await.is_ok();
    // Who keeps a row locked keeps that one from coming in, and no more.
    let begin = format!("begin; set local lock_timeout = '{LOCK_WAIT}'");
    client.batch_execute(&begin).await.doing(what)?;
    if !is_quiet {
        // Otherwise the last statement would fail for one row.
        let at_once = "set constraints all immediate";
        client.batch_execute(at_once).await.doing(what)?;
    }
    let layout = Layout::read(&client).await?;
    let tables: BTreeSet<_> = lines.iter().map(|line| (line.schema.clone(), line.table.clone())).collect();
    let tables: Vec<&Table> = tables.iter().filter_map(|(schema, name)| layout.named(schema, name)).collect();
    let fired = !is_quiet && checks::have_triggers(&client, &tables).await?;
    let checks = match is_quiet {
        true => Checks::read(&client, &layout, &tables).await?,
        false => Checks::default(),
    };
    let mut result = Loaded { fired, ..Loaded::default() };
    let mut loader = Loader { client, layout: &layout, checks, statements: HashMap::new() };
    // A row may refer to a later one.
    let mut waiting = lines;
    loop {
        let mut refused = Vec::new();
        let before = waiting.len();
        for line in waiting {
            loader.client.batch_execute("savepoint line").await.doing(what)?;
            let put = loader.put(&line).await;
            // One that is not released would keep a lock of its own to the end, of which a server has thousands for all.
            let is_in =
                matches!(put, Ok(Put::Loaded | Put::There | Put::Partly(..) | Put::Left(_) | Put::Later(_)));
            let end = if is_in { "release line" } else { "rollback to line; release line" };
            match put {
                Ok(Put::Loaded) => result.loaded += 1,
                Ok(Put::There) => result.there += 1,
                Ok(Put::Partly(rest, why)) => {
                    result.loaded += 1;
                    result.leave(rest, &why);
                }
                Ok(Put::Left(why)) => result.leave(line, &why),
                Ok(Put::Later(why)) => result.leave_as_it_is(line, &why),
                Ok(Put::Refused(why)) => refused.push((line, why)),
                Err(error) => {
                    let Some(why) = refused_row(&error) else { return Err(error) };
                    refused.push((line, why));
                }
            }
            loader.client.batch_execute(end).await.doing(what)?;
        }
        if refused.is_empty() || refused.len() == before {
            refused.into_iter().for_each(|(line, why)| result.leave(line, &why));
            break;
        }
        waiting = refused.into_iter().map(|(line, _)| line).collect();
    }
    let is_loaded = |(table, _): &(u32, String)| tables.iter().any(|loaded| loaded.oid == *table);
    for sequence in layout.sequences.iter().filter(|sequence| sequence.numbers.iter().any(is_loaded)) {
        sequence.move_behind_used(&loader.client, &layout).await?;
    }
    let number = "select pg_catalog.pg_current_xact_id()::text";
    let number: String = loader.client.query_one(number, &[]).await.doing(what)?.get(0);
    let transaction = number.parse().map_err(|_| DbError::Replay(format!("{number} is no transaction")))?;
    Ok(Loading { loaded: result, transaction, client: loader.client })
}

/// Says why a row was refused, by the server or by what people have made in it; `None` where the server itself is in trouble.
fn refused_row(error: &DbError) -> Option<String> {
    const TROUBLE: [&str; 6] = ["08", "40", "53", "57", "58", "XX"];
    let DbError::Sql { source: SqlError(source), .. } = error else { return None };
    let code = source.as_db_error()?.code().code();
    let is_trouble = TROUBLE.iter().any(|class| code.starts_with(class));
    (!is_trouble).then(|| refusal(error).unwrap_or_else(|| format!("the server refuses it ({code})")))
}

/// What came of one line.
enum Put {
    Loaded,
    There,
    /// Some of it is in, and this is left.
    Partly(Line, String),
    Left(String),
    /// There is no place for it yet.
    Later(String),
    /// It may fit when others are in.
    Refused(String),
}

/// Puts lines into a migrated database.
struct Loader<'a> {
    client: Session,
    layout: &'a Layout,
    checks: Checks,
    /// By their text: the lines of one table ask for the same.
    statements: HashMap<String, Statement>,
}

/// A line's place in the table, and the parameters by which a statement tells it.
struct Spot<'a> {
    table: &'a Table,
    /// The columns of the line's values, those of the key left out.
    columns: Vec<&'a Column>,
    values: Vec<Option<&'a str>>,
    key: Vec<(&'a Column, &'a str)>,
}

impl<'a> Spot<'a> {
    /// Finds it; `None` where a column is not there.
    fn of(table: &'a Table, line: &'a Line) -> Option<Self> {
        let column = |name: &String| table.column(name);
        let key = line.key.iter().map(|(name, value)| Some((column(name)?, value.as_str())));
        let besides = line.values.iter().filter(|(name, _)| !line.key.contains_key(*name));
        let values = besides.map(|(name, value)| Some((column(name)?, value.as_deref())));
        let (columns, values) = values.collect::<Option<Vec<_>>>()?.into_iter().unzip();
        Some(Self { table, columns, values, key: key.collect::<Option<_>>()? })
    }

    /// Returns the condition that a row is the line's, of which [`Spot::naming`] are the parameters.
    fn here(&self) -> String {
        let is_key = |(at, (column, _)): (usize, &(&Column, &str))| {
            is_key(column, &quote::ident(&column.name), &parameter(at, column))
        };
        let is_so = |(at, column): (usize, &&Column)| {
            let name = quote::ident(&column.name);
            format!("{name}::text is not distinct from ({})::text", parameter(at, column))
        };
        let here: Vec<String> = match self.key.is_empty() {
            true => self.columns.iter().enumerate().map(is_so).collect(),
            false => self.key.iter().enumerate().map(is_key).collect(),
        };
        here.join(" and ")
    }

    /// Returns the parameters that tell the row: its key, or all of it where it has none.
    fn naming(&self) -> Vec<Option<&'a str>> {
        match self.key.is_empty() {
            true => self.values.clone(),
            false => self.parameters([].iter()),
        }
    }

    /// Returns the parameters of the key and of these values.
    fn parameters<'b>(&'b self, values: impl Iterator<Item = &'b Option<&'a str>>) -> Vec<Option<&'a str>> {
        self.key.iter().map(|(_, value)| Some(*value)).chain(values.copied()).collect()
    }

    /// Numbers columns behind the key.
    fn numbered<'b>(&self, columns: &'b [&'a Column]) -> impl Iterator<Item = (usize, &'b &'a Column)> {
        (self.key.len()..).zip(columns)
    }
}

/// Returns a text parameter as a value of a column's type.
fn parameter(at: usize, column: &Column) -> String {
    format!("${}::text::{}", at + 1, column.bare)
}

impl Loader<'_> {
    async fn query(
        &mut self,
        table: &Table,
        sql: &str,
        parameters: &[Option<&str>],
    ) -> Result<Vec<Row>, DbError> {
        let what = || format!("load a row of {}", table.quoted());
        let statement = match self.statements.get(sql) {
            Some(statement) => statement.clone(),
            None => {
                let statement = self.client.prepare(sql).await.doing(what)?;
                self.statements.insert(sql.to_owned(), statement.clone());
                statement
            }
        };
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.client.query(&statement, &parameters).await.doing(what)
    }

    async fn put(&mut self, line: &Line) -> Result<Put, DbError> {
        let layout = self.layout;
        let Some(table) = layout.named(&line.schema, &line.table) else {
            return Ok(Put::Later("there is no such table".into()));
        };
        let Some(spot) = Spot::of(table, line) else {
            return Ok(Put::Later("a column of it is not there".into()));
        };
        match line.kind {
            Kind::Row if line.key.is_empty() => self.insert(&spot).await,
            Kind::Row | Kind::NewColumns => self.put_named(line, &spot).await,
            Kind::Changed => Ok(Put::Left("the row was changed, and another state of it is there".into())),
            Kind::Deleted => {
                let look = format!("select 1 from {} where {}", table.own_rows(), spot.here());
                let found = self.query(table, &look, &spot.naming()).await?;
                Ok(match found.is_empty() {
                    true => Put::There,
                    false => Put::Left("the row was removed, and is there again".into()),
                })
            }
        }
    }

    /// Puts a row in that its key names, or writes what of it somebody had written.
    async fn put_named(&mut self, line: &Line, spot: &Spot<'_>) -> Result<Put, DbError> {
        // Of each column whether it is just so, and what it holds.
        let compared = spot.numbered(&spot.columns).map(|(at, column)| {
            let name = quote::ident(&column.name);
            format!("{name}::text is not distinct from ({})::text, {name}::text", parameter(at, column))
        });
        let texts: Vec<String> = std::iter::once("true".to_owned()).chain(compared).collect();
        let look =
            format!("select {} from {} where {}", texts.join(", "), spot.table.own_rows(), spot.here());
        let found = self.query(spot.table, &look, &spot.parameters(spot.values.iter())).await?;
        let Some(found) = found.first() else {
            return match line.kind {
                Kind::NewColumns => Ok(Put::Left("the row is gone".into())),
                _ => self.insert(spot).await,
            };
        };
        let is_so = |at: usize| found.get::<_, bool>(1 + 2 * at);
        let name = |at: usize| &spot.columns[at].name;
        let others: Vec<usize> = (0..spot.columns.len()).filter(|at| !is_so(*at)).collect();
        if others.is_empty() {
            return Ok(Put::There);
        }
        if line.kind == Kind::Row && others.iter().any(|at| !line.written.contains(name(*at))) {
            return Ok(Put::Left("another row has its key".into()));
        }
        // What may be the earlier migration's own must not go over what this one has made.
        let is_free = |at: usize| {
            let now = found.get::<_, Option<&str>>(2 + 2 * at);
            let Column { missing, constant, .. } = spot.columns[at];
            now.is_none() || [missing, constant].contains(&&now.map(str::to_owned))
        };
        let is_taken = |at: &usize| line.unsure.contains(name(*at)) && !is_free(*at);
        let (taken, rest): (Vec<usize>, Vec<usize>) = others.into_iter().partition(is_taken);
        let (given, set): (Vec<usize>, Vec<usize>) =
            rest.into_iter().partition(|at| spot.columns[*at].is_given());
        if !set.is_empty()
            && let Some(refused) = self.update(spot, &set).await?
        {
            return Ok(refused);
        }
        let why = if taken.is_empty() {
            "only the server itself gives it a value"
        } else {
            "the migration has put another value there, and nobody knows whether the file's is not an earlier migration's"
        };
        let left: Vec<usize> = [taken, given].concat();
        if left.is_empty() {
            return Ok(Put::Loaded);
        }
        let named: Vec<String> = left.iter().map(|at| quote::ident(name(*at))).collect();
        let why = format!("{}: {why}", named.join(", "));
        if set.is_empty() {
            return Ok(Put::Left(why));
        }
        let is_left = |column: &String| left.iter().any(|at| name(*at) == column);
        let mut rest = line.clone();
        if line.kind == Kind::NewColumns {
            rest.values.retain(|column, _| is_left(column));
        }
        rest.written.retain(is_left);
        rest.unsure.retain(is_left);
        Ok(Put::Partly(rest, why))
    }

    /// Writes columns of the row that is there; tells why it may not be.
    async fn update(&mut self, spot: &Spot<'_>, set: &[usize]) -> Result<Option<Put>, DbError> {
        let columns: Vec<&Column> = set.iter().map(|at| spot.columns[*at]).collect();
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let here = spot.here();
        for referred in self.checks.referred(spot.table, &names, &here) {
            let found = self.query(spot.table, &referred.sql, &spot.naming()).await?;
            if !found.is_empty() {
                return Ok(Some(Put::Left(format!("a row refers to what it holds now ({})", referred.name))));
            }
        }
        let assigned: Vec<String> = spot
            .numbered(&columns)
            .map(|(at, column)| format!("{} = {}", quote::ident(&column.name), parameter(at, column)))
            .collect();
        let update = format!("update {} set {} where {here}", spot.table.own_rows(), assigned.join(", "));
        let values = set.iter().map(|at| &spot.values[*at]);
        self.query(spot.table, &update, &spot.parameters(values)).await?;
        self.check(spot, &names).await
    }

    async fn insert(&mut self, spot: &Spot<'_>) -> Result<Put, DbError> {
        let key: Vec<&Column> = spot.key.iter().map(|(column, _)| *column).collect();
        let all: Vec<&Column> = key.into_iter().chain(spot.columns.iter().copied()).collect();
        let is_computed = |column: &&&Column| column.generated != Generated::No;
        if let Some(computed) = all.iter().find(is_computed) {
            return Ok(Put::Left(format!("{} is computed now", quote::ident(&computed.name))));
        }
        let names: Vec<String> = all.iter().map(|column| quote::ident(&column.name)).collect();
        let values: Vec<String> = all.iter().enumerate().map(|(at, column)| parameter(at, column)).collect();
        let insert = match all.is_empty() {
            true => format!("insert into {} default values", spot.table.quoted()),
            false => format!(
                "insert into {} ({}) overriding system value values ({})",
                spot.table.quoted(),
                names.join(", "),
                values.join(", ")
            ),
        };
        self.query(spot.table, &insert, &spot.parameters(spot.values.iter())).await?;
        let names: Vec<&str> = all.iter().map(|column| column.name.as_str()).collect();
        Ok(self.check(spot, &names).await?.unwrap_or(Put::Loaded))
    }

    /// Looks for what only a trigger of the server's own would have noticed.
    async fn check(&mut self, spot: &Spot<'_>, columns: &[&str]) -> Result<Option<Put>, DbError> {
        for check in self.checks.of(spot.table, columns, &spot.here()) {
            let found = self.query(spot.table, &check.sql, &spot.naming()).await?;
            if found.is_empty() == check.is_needed {
                let why = format!("it violates {} ({})", quote::ident(&check.name), check.code);
                return Ok(Some(Put::Refused(why)));
            }
        }
        Ok(None)
    }
}
