use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::wire::Refusal;
use super::{Lsn, Snapshot};
use crate::blockers::{self, Blocker};
use crate::error::Doing as _;
use crate::{Database, DbError, Session};

/// What the names of our slots begin with; no other is ever touched.
pub(crate) const PREFIX: &str = "piton_";

/// The plugin that each of our slots is read through.
const PLUGIN: &str = "test_decoding";

/// How long a slot may be in the middle of being made by a session that has just died, and how long its reader may take to end.
const LET_GO_WITHIN: Duration = Duration::from_secs(20);

/// How long others' transactions may take before they are named.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often it is looked for them.
const LOOK: Duration = Duration::from_millis(500);

/// How long to wait for the server to write its log to the disk by itself; it does so every 0.2 s for transactions that do not wait.
const WRITTEN_WITHIN: Duration = Duration::from_millis(500);

/// How far a slot's reader is behind, and what the server keeps for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// How much of the log was written since the place that was confirmed last, in bytes.
    pub behind: u64,
    /// What the server says of the log that the slot needs.
    pub wal_status: WalStatus,
    /// How much may still be written before the slot is in danger, in bytes; negative when it is. `None` where the server has no
    /// bound, and for a slot that is lost.
    pub safe_wal_size: Option<i64>,
}

/// What the server keeps of the log for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// All of it, within what it keeps anyway.
    Reserved,
    /// All of it, beyond that.
    Extended,
    /// What is there now, and no longer after the next checkpoint.
    Unreserved,
    /// No longer all of it: the slot cannot be read any more.
    Lost,
}

/// Returns the name of a release's slot.
pub fn slot_name(release_id: &str) -> String {
    let plain = release_id.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase());
    PREFIX.chars().chain(plain).take(63).collect()
}

/// Makes a slot on the database, and returns the place behind which it has every commit; one that is there already is kept.
///
/// It waits until every transaction that has written and was under way is over, which is as long as the longest of them takes; so
/// a snapshot that is taken afterwards sees each one that the slot does not have.
///
/// # Errors
/// [`DbError::Replication`] when the name belongs to another database's slot, or to one with another plugin;
/// [`DbError::Privilege`] when the user may not make one; [`DbError::Sql`] when the server cannot, as with `wal_level` below `logical`.
pub async fn create_slot(database: &Database, name: &str) -> Result<Lsn, DbError> {
    let mut patience = Patience::new(database, Duration::MAX, |_| ());
    match make(database, name, &mut patience).await? {
        Ok(place) => Ok(place),
        Err(_) => Err(Refusal::new("it was given up").while_doing(doing_for(name))),
    }
}

/// As [`create_slot`]; tells whom it waits for, and gives up when that takes longer than `at_most`: the inner error is who they are.
///
/// # Errors
/// As [`create_slot`].
pub async fn create_slot_within(
    database: &Database,
    name: &str,
    at_most: Duration,
    waiting: impl FnMut(&[Blocker]),
) -> Result<Result<Lsn, Vec<Blocker>>, DbError> {
    make(database, name, &mut Patience::new(database, at_most, waiting)).await
}

fn doing_for(name: &str) -> String {
    format!("make the replication slot {name}")
}

/// Waits for others' transactions, and looks whose they are.
struct Patience<'a, F> {
    database: &'a Database,
    begun: Instant,
    at_most: Duration,
    waiting: F,
    /// The session that looks; there is none before somebody has to be named.
    looks: Option<Session>,
}

impl<'a, F: FnMut(&[Blocker])> Patience<'a, F> {
    fn new(database: &'a Database, at_most: Duration, waiting: F) -> Self {
        Self { database, begun: Instant::now(), at_most, waiting, looks: None }
    }

    /// Says who does not end; returns them once that has taken too long. `own` is the session that waits.
    async fn look(&mut self, own: i32) -> Result<Option<Vec<Blocker>>, DbError> {
        if self.begun.elapsed() < PATIENCE.min(self.at_most) {
            return Ok(None);
        }
        let looks = match self.looks.take() {
            Some(looks) => looks,
            None => self.database.connect().await?,
        };
        let blockers = blockers::writers(&looks, PATIENCE.min(self.at_most), own).await?;
        self.looks = Some(looks);
        if self.begun.elapsed() >= self.at_most {
            return Ok(Some(blockers));
        }
        if !blockers.is_empty() {
            (self.waiting)(&blockers);
        }
        Ok(None)
    }

    /// Ends what the session that waits is doing.
    async fn cancel(&self, own: i32) -> Result<(), DbError> {
        let Some(looks) = &self.looks else { return Ok(()) };
        let canceled = looks.execute("select pg_catalog.pg_cancel_backend($1)", &[&own]).await;
        canceled.doing(|| "give up making a replication slot".into()).map(drop)
    }
}

async fn make<F: FnMut(&[Blocker])>(
    database: &Database,
    name: &str,
    patience: &mut Patience<'_, F>,
) -> Result<Result<Lsn, Vec<Blocker>>, DbError> {
    let client = database.connect().await?;
    let begun = Instant::now();
    let own = client.query_one("select pg_catalog.pg_backend_pid()", &[]).await;
    let own: i32 = own.doing(|| doing_for(name))?.get(0);
    let doing = || doing_for(name);
    let refused = |why: String| Refusal::new(why).while_doing(doing());
    let place = loop {
        let found = client
            .query_opt(
                "select confirmed_flush_lsn::text, plugin::text, database::text,
                        database = pg_catalog.current_database()
                 from pg_catalog.pg_replication_slots where slot_name = $1",
                &[&name],
            )
            .await
            .doing(doing)?;
        if let Some(row) = found {
            if row.get::<_, Option<&str>>(1) != Some(PLUGIN) || row.get::<_, Option<bool>>(3) != Some(true) {
                let of: Option<&str> = row.get(2);
                return Err(refused(format!(
                    "there is one of that name, with the plugin {} on the database {}",
                    row.get::<_, Option<&str>>(1).unwrap_or("none"),
                    of.unwrap_or("none"),
                )));
            }
            match row.get::<_, Option<String>>(0) {
                Some(place) => break place,
                // One that a session has begun to make goes with it. The one that made it for this release is not there any more: its
                // server does not notice that before whoever it waits for ends.
                None if begun.elapsed() < LET_GO_WITHIN => {
                    let end = "select pg_catalog.pg_terminate_backend(active_pid) from pg_catalog.pg_replication_slots
                               where slot_name = $1 and confirmed_flush_lsn is null and active_pid is not null";
                    client.execute(end, &[&name]).await.doing(doing)?;
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
                None => return Err(refused("another session is still making it".into())),
            }
        }
        let create = "select lsn::text from pg_catalog.pg_create_logical_replication_slot($1, $2)";
        let parameters: [&(dyn ToSql + Sync); 2] = [&name, &PLUGIN];
        let making = client.query_one(create, &parameters);
        // It waits within the server for every transaction that has written.
        let mut making = std::pin::pin!(making);
        let made = loop {
            if let Ok(made) = timeout(LOOK, &mut making).await {
                break made;
            }
            if let Some(blockers) = patience.look(own).await? {
                patience.cancel(own).await?;
                match making.await {
                    Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                        return Ok(Err(blockers));
                    }
                    made => break made,
                }
            }
        };
        match made {
            Ok(row) => break row.get(0),
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_OBJECT) => {}
            Err(error) => {
                let mend = || format!("ALTER ROLE {} REPLICATION", crate::quote::ident(&database.user));
                return Err(error).needing(doing, mend);
            }
        }
    };
    if let Some(blockers) = settle(&client, own, patience).await? {
        return Ok(Err(blockers));
    }
    place.parse().map(Ok).map_err(refused)
}

/// Waits until each transaction that is under way here is over.
///
/// One whose commit stands in the log before the slot's place may not be visible yet: for a moment, or as long as it waits for a
/// standby. Neither the slot nor a snapshot would have it. They are known by the locks on their own numbers, which go after they
/// are visible; a snapshot does not name those that are younger than all that have ended. Returns who does not end in time.
async fn settle<F: FnMut(&[Blocker])>(
    client: &Client,
    own: i32,
    patience: &mut Patience<'_, F>,
) -> Result<Option<Vec<Blocker>>, DbError> {
    let doing = || "wait for the transactions that are under way".to_owned();
    let under_way = "from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a on a.pid = l.pid
        where l.locktype = 'transactionid' and l.mode = 'ExclusiveLock' and l.granted
          and (l.pid is null or a.datname = pg_catalog.current_database())";
    let row = client
        .query_one(
            &format!("select coalesce(pg_catalog.array_agg(l.transactionid::text), '{{}}') {under_way}"),
            &[],
        )
        .await
        .doing(doing)?;
    let before: Vec<String> = row.get(0);
    let left = format!("select count(*) {under_way} and l.transactionid::text = any ($1)");
    while client.query_one(&left, &[&before]).await.doing(doing)?.get::<_, i64>(0) > 0 {
        sleep(Duration::from_millis(20)).await;
        if let Some(blockers) = patience.look(own).await? {
            return Ok(Some(blockers));
        }
    }
    Ok(None)
}

/// Removes a slot, after its reader was ended; one that is not there is as good as removed.
///
/// # Errors
/// [`DbError::Replication`] when the name is none of ours, or the reader does not end; [`DbError::Privilege`] when the user may not.
pub async fn drop_slot(database: &Database, name: &str) -> Result<(), DbError> {
    let doing = || format!("remove the replication slot {name}");
    if !name.starts_with(PREFIX) {
        return Err(Refusal::new("it is none of Piton's").while_doing(doing()));
    }
    let client = match database.connect().await {
        // The slot stays on its database through a swap.
        Err(DbError::NoDatabase { .. }) => database.maintenance().await?,
        other => other?,
    };
    let begun = Instant::now();
    loop {
        // The number of a session that ends between looking and ending could be another one's.
        let ended = client
            .query_opt(
                "select active_pid is not null and pg_catalog.pg_terminate_backend(active_pid)
                 from pg_catalog.pg_replication_slots where slot_name = $1",
                &[&name],
            )
            .await
            .needing(doing, || {
                format!("GRANT pg_signal_backend TO {}", crate::quote::ident(&database.user))
            })?;
        if ended.is_none() {
            return Ok(());
        }
        match client.execute("select pg_catalog.pg_drop_replication_slot($1)", &[&name]).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_OBJECT) => return Ok(()),
            Err(error)
                if error.code() == Some(&SqlState::OBJECT_IN_USE) && begun.elapsed() < LET_GO_WITHIN =>
            {
                sleep(Duration::from_millis(20)).await;
            }
            Err(error) => {
                let mend = || format!("ALTER ROLE {} REPLICATION", crate::quote::ident(&database.user));
                return Err(error).needing(doing, mend);
            }
        }
    }
}

/// Tells how far a slot's reader is behind; `None` when there is no such slot on this database.
///
/// # Errors
/// When the server cannot be asked.
pub async fn lag(database: &Database, name: &str) -> Result<Option<Lag>, DbError> {
    let client = database.connect().await?;
    let row = client
        .query_opt(
            "select coalesce(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), confirmed_flush_lsn), 0)::int8,
                    wal_status, safe_wal_size
             from pg_catalog.pg_replication_slots
             where slot_name = $1 and database = pg_catalog.current_database()",
            &[&name],
        )
        .await
        .doing(|| format!("look at the replication slot {name}"))?;
    Ok(row.map(|row| Lag {
        // What was confirmed may be written a moment later than it was sent.
        behind: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
        wal_status: match row.get::<_, Option<&str>>(1) {
            Some("reserved") => WalStatus::Reserved,
            Some("extended") => WalStatus::Extended,
            Some("unreserved") => WalStatus::Unreserved,
            // An older server says nothing of one that is lost.
            _ => WalStatus::Lost,
        },
        safe_wal_size: row.get(2),
    }))
}

/// Returns a place that no commit before this call lies behind, and that a stream gets to.
///
/// A transaction of a session with `synchronous_commit = off` is visible before its commit is on the disk, and no stream is sent
/// what is not. So it waits for the disk: the server writes such commits within 0.2 s by itself. Nobody writes what an open
/// transaction has logged since; after half a second an empty transaction of ours has the server write that too. In a
/// transaction of the caller's it cannot, and the wait may take 15 s.
///
/// # Errors
/// When the server cannot be asked.
pub async fn now(client: &Client) -> Result<Lsn, DbError> {
    let doing = || "read the end of the server's log".to_owned();
    let row = client
        .query_one(
            "select (pg_catalog.pg_current_wal_insert_lsn() - '0/0')::int8,
                    pg_catalog.current_setting('wal_block_size')::int8,
                    pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))",
            &[],
        )
        .await
        .doing(doing)?;
    let [inserted, block, segment] = [0, 1, 2].map(|at| row.get::<_, i64>(at).unsigned_abs());
    let wanted = end_of_record(inserted, block, segment);
    let (begun, mut pushed) = (Instant::now(), false);
    loop {
        let row = client
            .query_one("select (pg_catalog.pg_current_wal_flush_lsn() - '0/0')::int8", &[])
            .await
            .doing(doing)?;
        if row.get::<_, i64>(0).unsigned_abs() >= wanted {
            return Ok(Lsn(wanted));
        }
        if !pushed && begun.elapsed() > WRITTEN_WITHIN {
            pushed = true;
            client.batch_execute("select pg_catalog.pg_current_xact_id()").await.doing(doing)?;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Returns where the last record ends, from where the next one begins.
///
/// Between them lies a page's header, when the last one ended with its page. A stream that has told everything is before it.
fn end_of_record(next: u64, block: u64, segment: u64) -> u64 {
    let within = next % block;
    let header = if (next - within).is_multiple_of(segment) { 40 } else { 24 };
    if within == header { next - within } else { next }
}

/// Returns which transactions are visible now.
///
/// # Errors
/// When the server cannot be asked.
pub async fn snapshot(client: &Client) -> Result<Snapshot, DbError> {
    let doing = || "read which transactions are visible".to_owned();
    let row = client.query_one("select pg_catalog.pg_current_snapshot()::text", &[]).await.doing(doing)?;
    row.get::<_, &str>(0).parse().map_err(|why: String| Refusal::new(why).while_doing(doing()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slots_name_is_one_that_the_server_takes() {
        assert_eq!(slot_name("01JABC-def_Ü9"), "piton_01jabcdef9");
        assert_eq!(slot_name(&"X".repeat(80)).len(), 63);
    }

    #[test]
    fn the_header_of_a_page_is_no_part_of_the_log() {
        let (block, segment) = (8192, 16 * 1024 * 1024);
        for (next, end) in [
            (5 * block + 24, 5 * block),
            (5 * block + 40, 5 * block + 40),
            (5 * block + 32, 5 * block + 32),
            (segment + 40, segment),
            (segment + 24, segment + 24),
            (5 * block, 5 * block),
        ] {
            assert_eq!(end_of_record(next, block, segment), end, "{next}");
        }
    }
}
