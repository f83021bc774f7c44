use std::time::Instant;

use tokio::time::{Duration, sleep};
use tokio_postgres::Client;

use super::wire::Refusal;
use crate::DbError;
use crate::error::Doing as _;

/// How long a reader that was told to end may take.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Ends the readings of a database by slots that go with their sessions, which keep it from being dropped.
///
/// # Errors
/// [`DbError::Replication`] when one does not end; [`DbError::Sql`] when the user may not end it.
pub(crate) async fn end_readings(client: &Client, database: &str) -> Result<(), DbError> {
    let doing = || format!("end the readings of the log of {database}");
    let begun = Instant::now();
    loop {
        let rows = client
            .query(
                "select active_pid is not null and pg_catalog.pg_terminate_backend(active_pid)
                 from pg_catalog.pg_replication_slots
                 where database = $1 and temporary and pg_catalog.starts_with(slot_name, 'piton_t_')",
                &[&database],
            )
            .await
            .doing(doing)?;
        if rows.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > END_WITHIN {
            return Err(Refusal::new("its reader does not end").while_doing(doing()));
        }
        sleep(Duration::from_millis(20)).await;
    }
}
