//! What makes the log tell of a table without a key which row was changed.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::Doing as _;
use crate::{Database, DbError, quote};

/// How long one table is waited for: whoever comes behind waits as long.
const LOCK_WAIT: &str = "1s";

/// What a table is called that is meant by its oid or by its name, where it has no key and its log tells what it should not any more.
const NOW: &str = "
    select q.name from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    cross join lateral (select pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)) q(name)
    where c.relkind = 'r' and c.relreplident::text = $3
      and (c.oid = $1 or c.oid = pg_catalog.to_regclass($2)::oid)
      and not exists (select from pg_catalog.pg_index i 
                      where i.indrelid = c.oid and i.indisprimary and i.indimmediate and i.indisvalid)";

/// A table without a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyless {
    /// Its oid, by which it is known when it has another name since.
    pub oid: u32,
    /// Its name, quoted, by which it is known in a copy.
    pub name: String,
}

/// Lists the tables of which the log tells neither a key nor the row before a change.
///
/// # Errors
/// When the database cannot be asked.
pub async fn without_identity(client: &Client) -> Result<Vec<Keyless>, DbError> {
    let rows = client
        .query(
            "select c.oid, n.nspname::text, c.relname::text
             from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'r' and c.relpersistence = 'p' and c.relreplident = 'd'
               and n.nspname not in ('information_schema', 'piton_replay') and n.nspname !~ '^pg_'
               and not exists (
                 select from pg_catalog.pg_index i
                 where i.indrelid = c.oid and i.indisprimary and i.indimmediate and i.indisvalid)
               and not exists (select from pg_catalog.pg_depend d
                 where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
             order by 2, 3",
            &[],
        )
        .await
        .doing(|| "look for tables without a key".into())?;
    let keyless = |row: &tokio_postgres::Row| Keyless {
        oid: row.get(0),
        name: quote::qualified(row.get(1), row.get(2)),
    };
    Ok(rows.iter().map(keyless).collect())
}

/// Lets the log tell the whole row before a change of these tables, or with `whole` false no more than it usually does.
///
/// A table that is locked, gone or another's is left as it is: one each, so that none is held while another is waited for. Where it tells
/// less again, one is known by its oid, if it has another name since, or by its name, in a copy that was restored; one that has a key
/// since, or tells something else, is left as it is, too. Returns those that were locked, quoted.
///
/// # Errors
/// When the database is away.
pub async fn tell_whole(
    database: &Database,
    tables: &[Keyless],
    whole: bool,
) -> Result<Vec<String>, DbError> {
    let client = database.connect().await?;
    let limit = format!("set lock_timeout = '{LOCK_WAIT}'");
    client.batch_execute(&limit).await.doing(|| "limit the wait for locks".into())?;
    let mut locked = Vec::new();
    for Keyless { oid, name } in tables {
        let (before, identity) = if whole { ("d", "full") } else { ("f", "default") };
        let rows = client.query(NOW, &[oid, name, &before]).await.doing(|| format!("look for {name}"))?;
        for row in rows {
            let table: &str = row.get(0);
            let alter = format!("alter table {table} replica identity {identity}");
            let passable = [SqlState::UNDEFINED_TABLE, SqlState::INSUFFICIENT_PRIVILEGE];
            let altered = client.batch_execute(&alter).await;
            match altered.as_ref().err().and_then(tokio_postgres::Error::code) {
                Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => locked.push(table.to_owned()),
                Some(code) if passable.contains(code) => tracing::debug!(table, "its log tells as before"),
                _ => altered.doing(|| format!("let the log tell of {table}"))?,
            }
        }
    }
    Ok(locked)
}
