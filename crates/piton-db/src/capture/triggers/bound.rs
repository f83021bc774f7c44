use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::install::{is_installed, session};
use crate::capture::Snapshot;
use crate::error::Doing as _;
use crate::{Database, DbError};

/// How the store of a database's writes stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// How much disk it takes, in bytes.
    pub bytes: u64,
    /// How much of the log may still be written before nothing more is noted, in bytes; negative when that has come.
    pub left: i64,
    /// Why nothing more is noted, when somebody has decided so.
    pub ended: Option<String>,
}

impl State {
    /// Says why later writes cannot be followed any more; `None` while they can.
    pub fn lost(&self) -> Option<&str> {
        match &self.ended {
            Some(why) => Some(why),
            None if self.left <= 0 => Some("more was written than the store of writes may hold"),
            None => None,
        }
    }
}

/// Tells how the store stands; `None` when there is none.
///
/// # Errors
/// When the server cannot be asked.
pub async fn state(database: &Database) -> Result<Option<State>, DbError> {
    let client = session(database).await?;
    if !is_installed(&client).await? {
        return Ok(None);
    }
    of(&client).await.map(Some)
}

pub(super) async fn of(client: &Client) -> Result<State, DbError> {
    let row = client
        .query_one(
            "select pg_catalog.pg_total_relation_size('piton_capture.change'),
                    (bound - pg_catalog.pg_current_wal_insert_lsn())::int8,
                    (select min(why) from piton_capture.ended)
             from piton_capture.state",
            &[],
        )
        .await
        .doing(|| "look at the store of the database's writes".into())?;
    Ok(State { bytes: row.get::<_, i64>(0).unsigned_abs(), left: row.get(1), ended: row.get(2) })
}

/// Stops noting a database's writes at once, without a lock on any table: the way back is lost, and no app waits.
///
/// What was noted stays until [`remove`](super::remove).
///
/// # Errors
/// When the server cannot be asked.
pub async fn give_up(database: &Database, why: &str) -> Result<(), DbError> {
    let client = session(database).await?;
    if is_installed(&client).await? { end(&client, why).await } else { Ok(()) }
}

async fn end(client: &Client, why: &str) -> Result<(), DbError> {
    let doing = || "stop noting the database's writes".to_owned();
    client
        // Told first: what is not noted any more must not be taken for nothing written.
        .execute("insert into piton_capture.ended values ($1)", &[&why])
        .await
        .doing(doing)?;
    lay_all(client, "0/0").await.map(drop)
}

/// Writes a bound into the function of each table; tells whether all have it.
async fn lay_all(client: &Client, bound: &str) -> Result<bool, DbError> {
    let doing = || "move the bound of the store of writes".to_owned();
    let tables = client
        .query(
            "select distinct l.tab from piton_capture.layout l join pg_catalog.pg_class c on c.oid = l.tab",
            &[],
        )
        .await
        .doing(doing)?;
    let mut all = true;
    for table in tables {
        // A migration that has altered the table keeps its function until its end.
        let sql = format!(
            "begin; set local lock_timeout = 100; select piton_capture.lay({}, '{bound}'); commit",
            table.get::<_, u32>(0)
        );
        if let Err(error) = client.batch_execute(&sql).await {
            client.batch_execute("rollback").await.doing(doing)?;
            match error.code() {
                Some(&SqlState::LOCK_NOT_AVAILABLE) => all = false,
                _ => return Err(error).doing(doing),
            }
        }
    }
    Ok(all)
}

/// Keeps the store small, and its bound ahead, while somebody reads.
#[derive(Debug)]
pub(super) struct Tender {
    client: crate::Session,
    /// The window up to which rows were removed.
    pruned: i64,
    /// How many rows were removed since the last vacuum.
    removed: u64,
}

/// After how many removed rows their room is given free.
const VACUUM_AFTER: u64 = 20_000;

/// How often it looks.
const PAUSE: Duration = Duration::from_secs(1);

impl Tender {
    pub(super) async fn open(database: &Database) -> Result<Self, DbError> {
        Ok(Self { client: session(database).await?, pruned: 0, removed: 0 })
    }

    /// Tends the store until nobody reads any more.
    pub(super) async fn run(mut self, mut confirmed: tokio::sync::watch::Receiver<i64>) {
        loop {
            let window = *confirmed.borrow_and_update();
            if let Err(error) = self.tend(window).await {
                tracing::debug!(%error, "the store of writes is not tended");
                if self.client.is_closed() {
                    return;
                }
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                // Nothing but its end is news.
                () = ended(&mut confirmed) => return,
            }
        }
    }

    async fn tend(&mut self, confirmed: i64) -> Result<(), DbError> {
        if confirmed > self.pruned {
            self.prune(confirmed).await?;
        }
        let state = of(&self.client).await?;
        if state.ended.is_some() {
            return Ok(());
        }
        let budget: i64 = self
            .client
            .query_one("select budget from piton_capture.state", &[])
            .await
            .doing(|| "look at the store of the database's writes".into())?
            .get(0);
        if state.bytes > budget.unsigned_abs() {
            return end(&self.client, "the store of writes has grown beyond its budget").await;
        }
        if state.left < budget / 2 && state.left > 0 {
            self.renew(budget).await?;
        }
        Ok(())
    }

    /// Removes what was confirmed.
    async fn prune(&mut self, window: i64) -> Result<(), DbError> {
        let doing = || "remove the writes that were followed".to_owned();
        let row = self
            .client
            .query_opt("select snapshot::text from piton_capture.\"window\" where number = $1", &[&window])
            .await
            .doing(doing)?;
        let Some(row) = row else { return Ok(()) };
        let snapshot: Snapshot = row.get::<_, &str>(0).parse().map_err(DbError::Replay)?;
        let seen = "xid < pg_catalog.pg_snapshot_xmax($1::text::pg_snapshot)
                    and pg_catalog.pg_visible_in_snapshot(xid, $1::text::pg_snapshot) and layout <> -1";
        self.removed += self
            .client
            .execute(&format!("delete from piton_capture.change where {seen}"), &[&snapshot.to_string()])
            .await
            .doing(doing)?;
        self.client
            .execute("delete from piton_capture.\"window\" where number < $1", &[&window])
            .await
            .doing(doing)?;
        self.pruned = window;
        if self.removed > VACUUM_AFTER {
            self.removed = 0;
            self.client
                .batch_execute("vacuum piton_capture.change, piton_capture.\"window\"")
                .await
                .doing(doing)?;
        }
        Ok(())
    }

    /// Moves the bound on: first in every function, then where it is read, so that it never says more than all functions do.
    async fn renew(&self, budget: i64) -> Result<(), DbError> {
        let doing = || "move the bound of the store of writes".to_owned();
        let bound: String = self
            .client
            .query_one(
                "select (pg_catalog.pg_current_wal_insert_lsn() + $1::int8::numeric)::text",
                &[&budget],
            )
            .await
            .doing(doing)?
            .get(0);
        if !lay_all(&self.client, &bound).await? {
            return Ok(());
        }
        // Behind the old bound some functions have noted nothing more: it stays, and tells.
        // A migration that has read the bound holds it; one that did so before may have written the old one into a function.
        let sql = format!(
            "begin; set local lock_timeout = 100; select from piton_capture.state for update;
             update piton_capture.state set bound = '{bound}' where bound > pg_catalog.pg_current_wal_insert_lsn() and not exists (
                 select from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
                 where p.pronamespace = 'piton_capture'::regnamespace and t.tgname = '!piton_capture_row'
                   and pg_catalog.strpos(p.prosrc, '''{bound}''') = 0); commit"
        );
        match self.client.batch_execute(&sql).await {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                self.client.batch_execute("rollback").await.doing(doing)
            }
            other => other.doing(doing),
        }
    }
}

async fn ended(confirmed: &mut tokio::sync::watch::Receiver<i64>) {
    while confirmed.changed().await.is_ok() {}
}
