//! What tells that a failure has left a database as it was.

use super::adapter::{Adapter, Known};
use super::tool::RecordTables;
use crate::error::Doing;
use crate::fingerprint::Structure;
use crate::{Database, DbError};

/// What a failure that kept nothing leaves as it was.
#[derive(PartialEq)]
pub(super) struct Stood {
    structure: Structure,
    /// The tables themselves, where the structure alone may be as before.
    tables: Vec<String>,
}

impl Stood {
    /// Looks at it before the run, or after it.
    pub(super) async fn of(
        adapter: &dyn Adapter,
        database: &Database,
        at_once: &[Known],
    ) -> Result<Self, DbError> {
        let record = RecordTables::of(adapter);
        let tables = match at_once.iter().all(|known| known.shows || !known.atomic) {
            true => Vec::new(),
            false => tables(&record, database).await?,
        };
        Ok(Self { structure: structure(&record, database).await?, tables })
    }
}

/// Tells each table, sequence and enumeration from another one of the same definition, and from itself before its values were
/// written anew or its columns changed places.
async fn tables(record: &RecordTables, database: &Database) -> Result<Vec<String>, DbError> {
    let client = database.connect().await?;
    let rows = client
        .query(
            // A materialized view that is refreshed has other files and the same to say.
            "select n.nspname::text, c.relname::text,
                    pg_catalog.concat_ws(' ', n.nspname, c.relname, c.oid, case when c.relkind <> 'm' then c.relfilenode end,
                      (select pg_catalog.string_agg(case when attisdropped then '' else attname end, ',' order by attnum)
                       from pg_catalog.pg_attribute where attrelid = c.oid and attnum > 0))
             from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where c.relkind in ('r', 'p', 'f', 'm', 'S') and c.relpersistence <> 't' and c.oid >= 16384
               and n.nspname <> 'pg_toast'
             union all
             select '', '', pg_catalog.concat_ws(' ', enumtypid, oid, enumlabel) from pg_catalog.pg_enum
             order by 3",
            &[],
        )
        .await
        .doing(|| "tell the tables apart".into())?;
    let own = rows.iter().filter(|row| !record.covers(row.get(0), row.get(1)));
    Ok(own.map(|row| row.get(2)).collect())
}

/// Returns the structure without what the tool's own record is made of, which a failure may have made as well.
pub(super) async fn structure(record: &RecordTables, database: &Database) -> Result<Structure, DbError> {
    let mut structure = Structure::of(database).await?;
    structure.0.retain(|object, definition| !record.hold(object, definition));
    Ok(structure)
}
