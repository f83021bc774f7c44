//! What a plan has to know about a database before anything is done to it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::{Database, DbError};

/// The size of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSize {
    /// `schema.name`, quoted where SQL needs it.
    pub name: String,
    /// The planner's estimate; 0 before the first ANALYZE.
    pub estimated_rows: u64,
    /// Table, indexes and TOAST.
    pub bytes: u64,
}

/// The measures of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Bytes on disk.
    pub size: u64,
    /// The tables outside the system's schemas, largest first.
    pub tables: Vec<TableSize>,
    /// Sessions of others on the database.
    pub sessions: u32,
    /// Whether writes are possible: neither a standby nor read-only by setting.
    pub writable: bool,
    /// Such as `15.18`.
    pub server_version: String,
    /// Where the server keeps its files, for those who may know.
    pub data_directory: Option<PathBuf>,
}

/// Measures the database that the session is on.
///
/// # Errors
/// When a catalogue cannot be read.
pub async fn read(client: &Client) -> Result<Facts, DbError> {
    // A table's size waits for whoever holds it exclusively: a plan says so instead of hanging.
    client.batch_execute("set lock_timeout = '3s'").await.doing(|| "limit the wait for locks".into())?;
    let row = client
        .query_one(
            "select pg_catalog.pg_database_size(oid),
                    (select count(*) from pg_catalog.pg_stat_activity a where a.datid = d.oid
                       and a.pid <> pg_catalog.pg_backend_pid() and a.usesysid is not null),
                    not pg_catalog.pg_is_in_recovery()
                      and current_setting('default_transaction_read_only') = 'off',
                    split_part(current_setting('server_version'), ' ', 1),
                    (select setting from pg_catalog.pg_settings where name = 'data_directory')
             from pg_catalog.pg_database d where datname = current_database()",
            &[],
        )
        .await
        .doing(|| "measure the database".into())?;
    let tables = client
        .query(
            "select pg_catalog.format('%I.%I', n.nspname, c.relname), greatest(c.reltuples, 0)::bigint,
                    pg_catalog.pg_total_relation_size(c.oid)
             from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where c.relkind in ('r', 'm') and c.relpersistence <> 't'
               and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
             order by 3 desc, 1",
            &[],
        )
        .await
        .doing(|| "measure the tables".into())?;
    let size = |bytes: i64| bytes.unsigned_abs();
    Ok(Facts {
        size: size(row.get(0)),
        tables: tables
            .iter()
            .map(|row| TableSize {
                name: row.get(0),
                estimated_rows: size(row.get(1)),
                bytes: size(row.get(2)),
            })
            .collect(),
        sessions: u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX),
        writable: row.get(2),
        server_version: row.get(3),
        data_directory: row.get::<_, Option<String>>(4).map(PathBuf::from),
    })
}

/// Lists everything that somebody has put into the database that the session is on, such as `sequence public.numbers`.
///
/// A database as `createdb` makes it from an untouched template has nothing. What belongs to the database and not to its
/// contents (owner, privileges, settings, comment) is not listed; a swap keeps it.
///
/// # Errors
/// When a catalogue cannot be read.
pub async fn contents(client: &Client) -> Result<Vec<String>, DbError> {
    let rows = client
        .query(include_str!("contents.sql"), &[])
        .await
        .doing(|| "list what is in the database".into())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Tells whether the database exists, without opening a session on it.
///
/// # Errors
/// When the server cannot be reached.
pub async fn exists(database: &Database) -> Result<bool, DbError> {
    let client = database.maintenance().await?;
    exists_on(&client, &database.dbname).await
}

pub(crate) async fn exists_on(client: &Client, name: &str) -> Result<bool, DbError> {
    let row = client
        .query_one("select exists (select from pg_catalog.pg_database where datname = $1)", &[&name])
        .await
        .doing(|| format!("look for the database {name}"))?;
    Ok(row.get(0))
}
