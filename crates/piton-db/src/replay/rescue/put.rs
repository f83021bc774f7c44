//! How one line of a rescue file is put into a database.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::super::layout::{Column, Generated, Layout, Table};
use super::checks::Checks;
use super::load::Rest;
use super::{Kind, Line, is_key};
use crate::error::Doing;
use crate::{DbError, Session, quote};

/// What came of one line.
pub(super) enum Put {
    Loaded,
    There,
    /// Some of it was put in; these columns stay in the file, and why.
    Partly(Vec<String>, String),
    /// Nothing was put in, and so much stays in the file, and why.
    Left(Rest, String),
    /// It may fit when others are in.
    Refused(String),
}

impl Put {
    fn left(why: impl Into<String>) -> Self {
        Self::Left(Rest::All, why.into())
    }

    /// Says that there is no place for it yet.
    fn later(why: &str) -> Self {
        Self::Left(Rest::AsItIs, why.into())
    }
}

/// Puts lines into a migrated database.
#[derive(Debug)]
pub(super) struct Loader {
    pub(super) client: Session,
    pub(super) layout: Arc<Layout>,
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

impl Loader {
    pub(super) fn new(client: Session, layout: Layout, checks: Checks) -> Self {
        Self { client, layout: Arc::new(layout), checks, statements: HashMap::new() }
    }

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

    pub(super) async fn put(&mut self, line: &Line) -> Result<Put, DbError> {
        let layout = self.layout.clone();
        let Some(table) = layout.named(&line.schema, &line.table) else {
            return Ok(Put::later("there is no such table"));
        };
        let Some(spot) = Spot::of(table, line) else { return self.put_part(table, line).await };
        self.put_at(line, &spot).await
    }

    /// Puts in what there are columns for of the new columns of a row.
    async fn put_part(&mut self, table: &Table, line: &Line) -> Result<Put, DbError> {
        const WHY: &str = "a column of it is not there";
        let (mut part, mut missing) = (line.clone(), Vec::new());
        part.values.retain(|name, _| {
            let is_there = table.column(name).is_some();
            if !is_there {
                missing.push(name.clone());
            }
            is_there
        });
        let spot =
            Spot::of(table, &part).filter(|_| line.kind == Kind::NewColumns && !part.values.is_empty());
        let Some(spot) = spot else { return Ok(Put::left(WHY)) };
        Ok(match self.put_at(&part, &spot).await? {
            Put::Loaded => Put::Partly(missing, WHY.into()),
            Put::There => Put::Left(Rest::Columns(missing), WHY.into()),
            Put::Partly(left, why) => Put::Partly([left, missing].concat(), format!("{why}; {WHY}")),
            other => other,
        })
    }

    async fn put_at(&mut self, line: &Line, spot: &Spot<'_>) -> Result<Put, DbError> {
        let table = spot.table;
        match line.kind {
            Kind::Row if line.key.is_empty() => self.insert(spot).await,
            Kind::Row | Kind::NewColumns => self.put_named(line, spot).await,
            Kind::Changed => Ok(Put::left("the row was changed, and another state of it is there")),
            Kind::Deleted => {
                let look = format!("select 1 from {} where {}", table.own_rows(), spot.here());
                let found = self.query(table, &look, &spot.naming()).await?;
                Ok(match found.is_empty() {
                    true => Put::There,
                    false => Put::left("the row was removed, and is there again"),
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
                Kind::NewColumns => Ok(Put::left("the row is gone")),
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
            return Ok(Put::left("another row has its key"));
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
            return Ok(Put::left(why));
        }
        Ok(Put::Partly(left.iter().map(|at| name(*at).clone()).collect(), why))
    }

    /// Writes columns of the row that is there; tells why it may not be.
    async fn update(&mut self, spot: &Spot<'_>, set: &[usize]) -> Result<Option<Put>, DbError> {
        let columns: Vec<&Column> = set.iter().map(|at| spot.columns[*at]).collect();
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let here = spot.here();
        for referred in self.checks.referred(spot.table, &names, &here) {
            let found = self.query(spot.table, &referred.sql, &spot.naming()).await?;
            if !found.is_empty() {
                return Ok(Some(Put::left(format!("a row refers to what it holds now ({})", referred.name))));
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
            return Ok(Put::left(format!("{} is computed now", quote::ident(&computed.name))));
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
