//! Locks among Piton's own sessions of a database.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::DbError;
use crate::error::Doing;

/// Takes an advisory lock for the session's life; says who holds it when `wait` has passed.
///
/// The lock also proves that an interrupted predecessor's session is gone, with whatever it had not committed.
pub(crate) async fn take(client: &Client, key: i64, wait: Duration) -> Result<Result<(), String>, DbError> {
    let begin = Instant::now();
    loop {
        let row = client
            .query_one("select pg_catalog.pg_try_advisory_lock($1)", &[&key])
            .await
            .doing(|| "take Piton's lock".into())?;
        if row.get(0) {
            return Ok(Ok(()));
        }
        if begin.elapsed() >= wait {
            let by = client
                .query_opt(
                    "select pg_catalog.concat_ws(' ', 'session', a.pid, 'of', a.usename, 'from ' || a.client_addr,
                            'since ' || date_trunc('second', a.backend_start))
                     from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a using (pid)
                     where l.locktype = 'advisory' and l.granted and l.objsubid = 1
                       and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
                       and (l.classid::bigint << 32 | l.objid::bigint) = $1",
                    &[&key],
                )
                .await
                .doing(|| "find the session that holds Piton's lock".into())?;
            return Ok(Err(by.map_or_else(|| "one that has just ended".to_owned(), |row| row.get(0))));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
