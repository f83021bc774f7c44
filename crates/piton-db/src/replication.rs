//! Logical replication that a database takes part in: it is bound to this one, and to no copy of it.

use tokio_postgres::Client;

use crate::error::Doing;
use crate::{DbError, capture};

/// Returns what of logical replication would stay behind when a copy took the database's place, each in words.
///
/// A slot follows the database through a renaming, and its consumer finds it by name under the wrong database; a copy's
/// subscriptions are off and without their slots. Piton's own slots bind nobody: each goes with its release.
///
/// # Errors
/// When the database cannot be asked.
pub async fn bound(client: &Client) -> Result<Vec<String>, DbError> {
    let rows = client
        .query(
            "select 'the logical replication slot ' || slot_name from pg_catalog.pg_replication_slots
             where database = pg_catalog.current_database() and not temporary
               and not pg_catalog.starts_with(slot_name::text, $1)
             union all
             select 'the subscription ' || s.subname from pg_catalog.pg_subscription s
             join pg_catalog.pg_database d on d.oid = s.subdbid
             where d.datname = pg_catalog.current_database()
             order by 1",
            &[&capture::PREFIX],
        )
        .await
        .doing(|| "look for logical replication".into())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
