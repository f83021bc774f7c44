//! The tables whose rows a dump holds, and the reading of their rows as a dump writes them.

use futures_util::{StreamExt, pin_mut};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::rowsum::{Lines, RowSum};
use crate::{DbError, quote};

/// A table that holds rows of its own: an ordinary table or a leaf partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The schema's name.
    pub schema: String,
    /// The table's name.
    pub name: String,
    /// The oid in the database it was listed in.
    pub oid: u32,
    /// The columns that COPY writes, in its order: all but generated ones. May be empty.
    pub columns: Vec<String>,
    /// The `WHERE` clause of an extension's configuration table, of which pg_dump writes only the user's rows.
    pub filter: Option<String>,
}

impl Table {
    /// Returns `"schema"."name"`.
    pub fn quoted(&self) -> String {
        quote::qualified(&self.schema, &self.name)
    }

    /// Returns the statement that writes the table's rows as pg_dump does, or only the given columns of them.
    pub(crate) fn copy_statement(&self, columns: &[String]) -> String {
        let columns: Vec<String> = columns.iter().map(|column| quote::ident(column)).collect();
        let (table, columns) = (self.quoted(), columns.join(", "));
        // COPY takes no empty column list; a SELECT does, and gives one empty line a row.
        match &self.filter {
            None if !columns.is_empty() => format!("copy {table} ({columns}) to stdout"),
            filter => format!(
                "copy (select {columns} from only {table} {}) to stdout",
                filter.as_deref().unwrap_or("")
            ),
        }
    }
}

/// Lists the tables whose rows pg_dump writes, by name.
///
/// Left out, as pg_dump does, or because no dump has it: system schemas, a replay's and a capture's, temporary and foreign tables, and tables of extensions that are not marked
/// as their configuration.
pub(crate) async fn list(client: &Client) -> Result<Vec<Table>, DbError> {
    let rows = client
        .query(
            "select n.nspname::text, c.relname::text, c.oid,
                    array(select a.attname::text from pg_catalog.pg_attribute a
                          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                          order by a.attnum),
                    x.condition
             from pg_catalog.pg_class c
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             left join (select e.oid, t.oid as config, nullif(t.condition, '') as condition
                        from pg_catalog.pg_extension e, unnest(e.extconfig, e.extcondition) t(oid, condition)) x
               on x.config = c.oid
             where c.relkind = 'r' and c.relpersistence <> 't'
               and n.nspname not in ('information_schema', 'piton_replay', 'piton_capture') and n.nspname !~ '^pg_'
               and (x.oid is not null or not exists (
                 select from pg_catalog.pg_depend d
                 where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'))
             order by 1, 2",
            &[],
        )
        .await
        .doing(|| "list the tables".into())?;
    Ok(rows
        .iter()
        .map(|row| Table {
            schema: row.get(0),
            name: row.get(1),
            oid: row.get(2),
            columns: row.get(3),
            filter: row.get(4),
        })
        .collect())
}

/// Streams a table's rows, each as its line of COPY text; the session must have its settings pinned.
pub(crate) async fn each_row(
    client: &Client,
    table: &Table,
    columns: &[String],
    mut row: impl FnMut(&[u8]),
) -> Result<(), DbError> {
    let what = || format!("read the rows of {}", table.quoted());
    let stream = client.copy_out(&table.copy_statement(columns)).await.needing(what, || {
        "GRANT pg_read_all_data TO the user; for tables with row security: ALTER ROLE the user BYPASSRLS"
            .into()
    })?;
    pin_mut!(stream);
    let mut lines = Lines::default();
    while let Some(piece) = stream.next().await {
        lines.push(&piece.doing(what)?, &mut row);
    }
    Ok(())
}

/// Returns the row count and row sum of a table, over the given columns.
pub(crate) async fn sum(client: &Client, table: &Table, columns: &[String]) -> Result<RowSum, DbError> {
    let mut sum = RowSum::default();
    each_row(client, table, columns, |row| sum.add(&blake3::hash(row))).await?;
    Ok(sum)
}
