//! Expressions that give a column's old values back, where a migration has changed what they mean: told by people, and proved on a
//! rehearsed copy before they are used.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::layout::{Column, Generated, Layout, Table};
use super::map::{Map, whole_source};
use super::session;
use crate::error::Doing;
use crate::{Database, DbError, Session, quote};

/// What a column was before a migration, as an expression over the row as it is afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// The migration, as its tool names it.
    pub migration: String,
    /// The table as it was called before: `schema.table`, or `table` in `public`.
    pub table: String,
    /// The column as it was called before.
    pub column: String,
    /// The expression.
    pub is: String,
}

/// An expression that has given every old value back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Proved {
    /// The golden table, quoted.
    pub(super) table: String,
    /// The golden column's name.
    pub(super) column: String,
    pub(super) is: String,
    /// The live columns that it reads.
    pub(super) inputs: Vec<String>,
    /// What it returns, as if it were a column of the live table.
    pub(super) returns: Column,
    /// Whether the migration changes the table in a single transaction, so that its end is where the meaning changes.
    pub(super) at_once: bool,
}

/// What of a down expression cannot be right, whatever its migration does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// There is no such table.
    Table {
        /// Those that there are.
        known: Vec<String>,
    },
    /// The table has no such column.
    Column {
        /// Those that it has.
        known: Vec<String>,
    },
    /// It is no expression.
    Expression {
        /// What the server says of it.
        said: String,
    },
}

impl Down {
    /// Says what of it cannot be right, as far as the database tells before its migration has run.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn misfit(&self, database: &Database) -> Result<Option<Misfit>, DbError> {
        let client = session(database).await?;
        let layout = Layout::read(&client).await?;
        let (schema, name) = self.table();
        let Some(table) = layout.named(schema, name) else {
            let people = layout.tables.iter().filter(|table| table.schema != "piton");
            let known = people.map(|table| format!("{}.{}", table.schema, table.name)).collect();
            return Ok(Some(Misfit::Table { known }));
        };
        if table.column(&self.column).is_none() {
            let known = table.columns.iter().map(|column| column.name.clone()).collect();
            return Ok(Some(Misfit::Column { known }));
        }
        // What it reads may be there after the migration alone: only what is parsed before anything is looked up counts.
        match client.prepare(&format!("select ({}\n) as v", self.is)).await {
            Err(error) if error.code() == Some(&SqlState::SYNTAX_ERROR) => {
                Ok(Some(Misfit::Expression { said: said(error)? }))
            }
            Err(error) if error.as_db_error().is_none() => {
                Err(error).doing(|| "look at a down expression".into())
            }
            _ => Ok(None),
        }
    }

    /// Returns the schema and the name of its table.
    fn table(&self) -> (&str, &str) {
        self.table.split_once('.').unwrap_or(("public", &self.table))
    }

    fn label(&self) -> String {
        format!(
            "piton.toml, [[database.down]] of {} for {}.{}: `{}`",
            self.migration, self.table, self.column, self.is
        )
    }
}

impl Proved {
    /// Returns what joins the value, as `NAME.v`, to the rows of a live table that are called `g`.
    pub(super) fn beside(&self, name: &str, live: &Table) -> String {
        let input = |input: &String| format!("g.{0} as {0}", quote::ident(input));
        let inputs = self.inputs.iter().map(input).collect::<Vec<_>>().join(", ");
        format!(
            " cross join lateral (select ({}\n) as v from (select {inputs}) as {}) as {name}",
            self.is,
            quote::ident(&live.name)
        )
    }

    /// Returns the statement that computes the values of many rows, from one list of texts for each input.
    pub(super) fn statement(&self, live: &Table) -> String {
        let input = |(at, input): (usize, &String)| {
            let full = live.column(input).map_or("text", |column| &column.full);
            format!("n.c{at}::{full} as {}", quote::ident(input))
        };
        let inputs = self.inputs.iter().enumerate().map(input).collect::<Vec<_>>().join(", ");
        // One without inputs takes as many as there are rows.
        let count = self.inputs.len().max(1);
        let parameters: Vec<String> = (1..=count).map(|at| format!("${at}::text[]")).collect();
        let names: Vec<String> = (0..count).map(|at| format!("c{at}")).collect();
        format!(
            "select d.v::text from rows from (unnest({})) with ordinality n({}, i)
             cross join lateral (select ({}\n) as v from (select {inputs}) as {}) as d order by n.i",
            parameters.join(", "),
            names.join(", "),
            self.is,
            quote::ident(&live.name)
        )
    }
}

/// Looks at an expression on a migrated copy, and at what it is to be used for; the error says in words why it is of no use.
///
/// `writers` are the transactions in which the migration has written to the table or changed it.
pub(super) async fn look(
    copy: &Session,
    map: &Map,
    down: &Down,
    writers: impl Fn(usize) -> BTreeSet<u32>,
) -> Result<Result<Proved, String>, DbError> {
    let refuse = |why: &str| Ok(Err(format!("{} {why}", down.label())));
    let (schema, name) = down.table();
    let Some(golden) = map.golden.named(schema, name) else {
        return refuse(&format!("is for a table that is not there before the migration: {}", down.table));
    };
    let Some(at) = golden.columns.iter().position(|column| column.name == down.column) else {
        let column = quote::ident(&down.column);
        return refuse(&format!("is for a column that is not there before the migration: {column}"));
    };
    let Some(place) = map.places.iter().position(|place| place.table.oid == golden.oid) else {
        return refuse(
            "is for a partition or for the tool's record: name the table that rows are written to",
        );
    };
    let column = &golden.columns[at];
    if column.generated != Generated::No {
        return refuse("is for a column that is computed: nobody writes it");
    }
    let Some((live, _)) = whole_source(map, 1, place) else {
        return refuse("is for a table that no table goes on for");
    };
    if live.unlogged || golden.unlogged {
        return refuse("is for an unlogged table, of which the log does not tell when the meaning changes");
    }
    match &map.places[place].key {
        None => return refuse("is for a table without a key that goes on, by which its rows would be known"),
        Some(key) if key.contains(&at) => {
            return refuse("is for a part of the key by which the table's rows are known");
        }
        Some(_) => {}
    }
    let seen = match inspect(copy, live, &down.is).await? {
        Ok(seen) => seen,
        Err(why) => return refuse(&why),
    };
    let is_virtual =
        |input: &String| live.column(input).is_some_and(|column| column.generated == Generated::Virtual);
    if let Some(input) = seen.inputs.iter().find(|input| is_virtual(input)) {
        return refuse(&format!("reads {}, which is in no log", quote::ident(input)));
    }
    let proved = Proved {
        table: golden.quoted(),
        column: column.name.clone(),
        is: down.is.clone(),
        inputs: seen.inputs,
        returns: seen.returns,
        at_once: writers(place).len() <= 1,
    };
    // Computed from columns alone, it must mean the same.
    if let Err(error) = copy.prepare(&proved.statement(live)).await {
        return Ok(Err(format!("{} reads more than columns: {}", down.label(), said(error)?)));
    }
    let run = format!("select count(d.v) from {} g{}", live.quoted(), proved.beside("d", live));
    let what = || format!("try a down expression of {}", golden.quoted());
    copy.batch_execute("begin read only").await.doing(what)?;
    let ran = copy.query(&run, &[]).await;
    copy.batch_execute("rollback").await.doing(what)?;
    match ran {
        Ok(_) => Ok(Ok(proved)),
        Err(error) => Ok(Err(format!("{} fails: {}", down.label(), said(error)?))),
    }
}

/// What PostgreSQL makes of an expression.
struct Seen {
    inputs: Vec<String>,
    returns: Column,
}

/// Has the server parse an expression over a table's row; the error says what it may not do.
///
/// A view of it is made for a moment: what it reads and calls stands in the catalogue then.
async fn inspect(copy: &Client, live: &Table, is: &str) -> Result<Result<Seen, String>, DbError> {
    let view = "pg_temp.piton_down";
    let what = || "look at a down expression".to_owned();
    // As a prepared statement it can be no more than one.
    let make = format!("create temporary view piton_down as select ({is}\n) as v from {}", live.quoted());
    if let Err(error) = copy.execute(&make, &[]).await {
        return Ok(Err(format!("cannot be understood: {}", said(error)?)));
    }
    let row = copy.query_one(SEEN, &[&view, &live.oid]).await.doing(what)?;
    copy.batch_execute(&format!("drop view {view}")).await.doing(what)?;
    let (columns, reads_rows): (i64, bool) = (row.get(0), row.get(1));
    if columns != 1 {
        return Ok(Err("is more than one expression".into()));
    }
    if reads_rows {
        return Ok(Err("reads other rows: it may use the columns of its own row alone".into()));
    }
    if let Some(volatile) = row.get::<_, Option<String>>(2) {
        return Ok(Err(format!("calls {volatile}, which is volatile: it may give another value each time")));
    }
    let returns = Column {
        number: 0,
        name: String::new(),
        type_name: row.get(4),
        bare: row.get(5),
        full: row.get(6),
        made_of: None,
        builtin: row.get(7),
        not_null: false,
        missing: None,
        constant: None,
        has_default: false,
        generated: Generated::No,
        always_identity: false,
        equal: None,
    };
    Ok(Ok(Seen { inputs: row.get(3), returns }))
}

/// How many columns a view has, whether it reads more than single rows of a table, a volatile function that it calls, the table's
/// columns that it reads, and the type of its own.
const SEEN: &str = "
    select (select count(*) from pg_catalog.pg_attribute c where c.attrelid = v.oid and c.attnum > 0),
           r.ev_action::text ~ ':(hasAggs|hasWindowFuncs|hasTargetSRFs|hasSubLinks) true'
             or exists (select from pg_catalog.pg_depend d
                        where d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
                          and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid not in (v.oid, $2)),
           (select min(p.oid::regprocedure::text)
            from pg_catalog.regexp_matches(r.ev_action::text, ':(?:funcid|opfuncid) (\\d+)', 'g') f(id)
            join pg_catalog.pg_proc p on p.oid = f.id[1]::oid
            where p.provolatile = 'v'),
           array(select i.attname::text from pg_catalog.pg_depend d
                 join pg_catalog.pg_attribute i on i.attrelid = d.refobjid and i.attnum = d.refobjsubid
                 where d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
                   and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjid = $2 and d.refobjsubid > 0
                 order by i.attnum),
           pg_catalog.format_type(a.atttypid, null), pg_catalog.format_type(a.atttypid, -1),
           pg_catalog.format_type(a.atttypid, a.atttypmod), t.typnamespace = 'pg_catalog'::regnamespace
    from pg_catalog.pg_class v
    join pg_catalog.pg_rewrite r on r.ev_class = v.oid
    join pg_catalog.pg_attribute a on a.attrelid = v.oid and a.attnum = 1
    join pg_catalog.pg_type t on t.oid = a.atttypid
    where v.oid = $1::text::regclass";

/// Says what the server has against an expression; of a row's fault no value is told.
fn said(error: tokio_postgres::Error) -> Result<String, DbError> {
    let Some(said) = error.as_db_error() else {
        return Err(error).doing(|| "look at a down expression".into());
    };
    Ok(match said.code().code().starts_with("22") {
        true => format!("a row is no good for it ({})", said.code().code()),
        false => said.message().to_owned(),
    })
}
