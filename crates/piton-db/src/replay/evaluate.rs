//! What only the live database tells: old values by down expressions, which it computes because the new types are there, and what a
//! table is that was made after the migration.

use std::collections::HashMap;

use tokio_postgres::Statement;

use super::apply::Applier;
use super::net::{Cell, Effect, Fate, Key};
use super::route::{Conversion, Later};
use super::session;
use crate::capture::Name;
use crate::error::Doing;
use crate::{Database, DbError, Session};

/// How many rows go with one statement.
const ROWS: usize = 5_000;

/// Asks the live database, and can change nothing.
#[derive(Debug)]
pub(super) struct Evaluator {
    live: Database,
    session: Option<Session>,
    statements: HashMap<String, Statement>,
}

/// What came of one row: its value, or why there is none.
type Outcome = Result<Option<String>, String>;

impl Evaluator {
    pub(super) fn new(live: &Database) -> Self {
        Self { live: live.clone(), session: None, statements: HashMap::new() }
    }

    /// Computes one value a row, from the texts of its inputs.
    async fn evaluate(&mut self, sql: &str, rows: &[Vec<Option<&str>>]) -> Result<Vec<Outcome>, DbError> {
        let mut outcomes = Vec::with_capacity(rows.len());
        // What fails is halved until the row is found that fails.
        let mut blocks: Vec<&[Vec<Option<&str>>]> = rows.chunks(ROWS).rev().collect();
        while let Some(block) = blocks.pop() {
            let width = block.first().map_or(0, Vec::len).max(1);
            let column = |at: usize| block.iter().map(|row| row.get(at).copied().flatten()).collect();
            let parameters: Vec<Vec<Option<&str>>> = (0..width).map(column).collect();
            let parameters = super::apply::as_parameters(&parameters);
            let (session, statement) = self.prepared(sql).await?;
            match session.query(&statement, &parameters).await {
                Ok(found) => outcomes.extend(found.iter().map(|row| Ok(row.get(0)))),
                Err(error) => match (fault_of_row(&error), block.len()) {
                    (None, _) => return Err(error).doing(evaluating),
                    (Some(why), 1) => outcomes.push(Err(why)),
                    (Some(_), many) => {
                        let (first, second) = block.split_at(many / 2);
                        blocks.extend([second, first]);
                    }
                },
            }
        }
        Ok(outcomes)
    }

    /// Tells what a table is: its oid, and that of the table of which it is a partition, if it is any.
    pub(super) async fn look_up(&mut self, name: &Name) -> Result<Later, DbError> {
        let sql = "select c.oid, case when c.relispartition then pg_catalog.pg_partition_root(c.oid)::oid end
                   from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                   where n.nspname = $1 and c.relname = $2";
        let (session, statement) = self.prepared(sql).await?;
        let what = || format!("look what {} is", crate::quote::qualified(&name.schema, &name.name));
        let row = session.query_opt(&statement, &[&name.schema, &name.name]).await.doing(what)?;
        Ok(match row {
            Some(row) => Later { oid: Some(row.get(0)), whole: row.get(1) },
            None => Later { oid: None, whole: None },
        })
    }

    async fn prepared(&mut self, sql: &str) -> Result<(&Session, Statement), DbError> {
        let session = match self.session.take() {
            Some(session) => session,
            None => {
                let session = session(&self.live).await?;
                let only_read = "set default_transaction_read_only = on";
                session.batch_execute(only_read).await.doing(evaluating)?;
                session
            }
        };
        let session = self.session.insert(session);
        let statement = match self.statements.get(sql) {
            Some(statement) => statement.clone(),
            None => {
                let statement = session.prepare(sql).await.doing(evaluating)?;
                self.statements.insert(sql.to_owned(), statement.clone());
                statement
            }
        };
        Ok((session, statement))
    }
}

fn evaluating() -> String {
    "compute old values by a down expression".to_owned()
}

/// Says why the server refused to compute a value; `None` when that was not the row's fault.
fn fault_of_row(error: &tokio_postgres::Error) -> Option<String> {
    /// A connection, a rollback, resources, an operator, the system, the server's own faults.
    const NOT_OF_ROWS: [&str; 7] = ["08", "40", "53", "57", "58", "F0", "XX"];
    let code = error.as_db_error()?.code().code();
    (!NOT_OF_ROWS.iter().any(|class| code.starts_with(class)))
        .then(|| format!("its down expression fails ({code})"))
}

impl Applier {
    /// Computes what is told of rows as inputs of down expressions; those for which that cannot be done are set aside.
    pub(super) async fn evaluate(
        &mut self,
        place: usize,
        mut rows: Vec<(Key, Effect)>,
    ) -> Result<Vec<(Key, Effect)>, DbError> {
        if self.routes.map.places[place].downs.is_empty() {
            return Ok(rows);
        }
        let mut failed: HashMap<usize, String> = HashMap::new();
        // By form and column, the rows for which it is computed.
        let mut wanted: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
        for (number, (_, effect)) in
            rows.iter().enumerate().filter(|(_, (_, effect))| effect.fate != Fate::Gone)
        {
            for (at, cell) in effect.cells.iter().enumerate() {
                let Cell::Inputs(inputs) = cell else { continue };
                match inputs.contains(&Cell::Kept) {
                    true => drop(failed.insert(
                        number,
                        "a large value that its down expression needs was not written with it".into(),
                    )),
                    false => wanted.entry((effect.form, at)).or_default().push(number),
                }
            }
        }
        for ((form, at), numbers) in wanted {
            let Some(Conversion::Down { sql, .. }) = &self.routes.form(form)[at] else { continue };
            let sql = sql.clone();
            let inputs = |number: &usize| match &rows[*number].1.cells[at] {
                Cell::Inputs(inputs) => inputs.iter().map(Cell::text).collect(),
                _ => Vec::new(),
            };
            let told: Vec<Vec<Option<&str>>> = numbers.iter().map(inputs).collect();
            let outcomes = self.evaluator.evaluate(&sql, &told).await?;
            for (number, outcome) in numbers.into_iter().zip(outcomes) {
                match outcome {
                    Ok(value) => rows[number].1.cells[at] = value.map_or(Cell::Null, Cell::Text),
                    Err(why) => drop(failed.insert(number, why)),
                }
            }
        }
        if failed.is_empty() {
            return Ok(rows);
        }
        let mut left = Vec::with_capacity(rows.len());
        for (number, (key, effect)) in rows.into_iter().enumerate() {
            match failed.get(&number) {
                Some(why) => self.set_aside(place, &key, why, false).await?,
                None => left.push((key, effect)),
            }
        }
        Ok(left)
    }
}
