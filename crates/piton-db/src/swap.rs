//! Puts one database in another's place, by name, in one transaction.
//!
//! Renames, properties and marks are ordinary catalogue changes and commit together: whatever dies, the databases are as before
//! or swapped, never between, and no database is left closed. While the transaction is open the renamed database's lock holds new
//! sessions off; the sessions that are on it are ended until the server finds none, a freezing one last.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Transaction};

use crate::error::{Doing, SqlError};
use crate::identity::{self, Label, Purpose};
use crate::properties::Properties;
use crate::target::{APPLICATION, SILENCE};
use crate::{Database, DbError, Session, changes, facts, made, quote};

/// How often it is looked for who keeps a renaming session from its lock.
const PATROL: Duration = Duration::from_millis(20);

/// How often sessions are ended when it has its lock, and nobody gets in.
const LAST_PATROL: Duration = Duration::from_millis(5);

/// The channel on which a renaming session is woken.
const CHANNEL: &str = "piton swap";

/// How long a swap waits for a lock on a database's name: meanwhile nobody gets into the live database.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What a swap has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// From the first ended session to the commit; zero when it had been done before.
    pub took: Duration,
    /// Whether this call did it.
    pub now: bool,
}

/// Where a swap stands. There is no state between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapState {
    /// Live and replacement stand under their own names.
    NotDone,
    /// The replacement is live and the old database stands under its new name.
    Done,
}

/// Tells whether the swap has happened.
///
/// # Errors
/// [`DbError::Swap`] when the names that exist fit neither state.
pub async fn observe(live: &Database, replacement: &str, keep_old_as: &str) -> Result<SwapState, DbError> {
    let client = live.maintenance().await?;
    state(&client, &live.dbname, replacement, keep_old_as).await
}

async fn state(client: &Client, live: &str, replacement: &str, old: &str) -> Result<SwapState, DbError> {
    let mut there = [false; 3];
    for (there, name) in there.iter_mut().zip([live, replacement, old]) {
        *there = facts::exists_on(client, name).await?;
    }
    match there {
        [true, true, false] => Ok(SwapState::NotDone),
        [true, false, true] if identity::read_mark(client, old).await?.valid().is_some() => {
            Ok(SwapState::Done)
        }
        [live_there, replacement_there, old_there] => {
            let word = |there| if there { "is there" } else { "is not" };
            Err(DbError::Swap(format!(
                "{live} {}, {replacement} {}, {old} {}; before a swap the first two are there, after it the first and the last",
                word(live_there),
                word(replacement_there),
                word(old_there)
            )))
        }
    }
}

/// Renames `live` to `keep_old_as` and `replacement` to `live`, ending the sessions on both.
///
/// The replacement takes over owner, privileges, connection limit, settings and comment of the live database, and a mark that
/// protects it from [`made::drop_made`] unless the live database was itself Piton's clone or an adopted one. Done already, it does nothing. Swapping
/// back is a swap with the names exchanged. Prepared transactions stop it before any session is ended. When the live database is
/// [frozen](changes::freeze), its freeze ends after every other session on it. A session of another database that holds a lock on
/// one of the names, as `COMMENT ON DATABASE` does, is waited for during five seconds.
///
/// # Errors
/// [`DbError::Swap`], [`DbError::InUse`] when a session cannot be ended or keeps its lock, [`DbError::Privilege`]; nothing has changed then.
pub async fn swap(live: &Database, replacement: &str, keep_old_as: &str) -> Result<Swapped, DbError> {
    made::check_name(keep_old_as)?;
    let mut client = live.maintenance().await?;
    let patrol = Patrol::on(live).await?;
    let name = live.dbname.as_str();
    if state(&client, name, replacement, keep_old_as).await? == SwapState::Done {
        return Ok(Swapped { took: Duration::ZERO, now: false });
    }
    let (for_new, for_old) = labels(&client, name, replacement).await?;
    refuse_prepared(&client, &[name, replacement]).await?;
    let properties = Properties::read(&client, name).await?;

    let what = || format!("swap {replacement} in for {name}");
    let begin = Instant::now();
    let transaction = begin_renaming(&mut client).await.doing(what)?;
    rename(&transaction, &patrol, name, keep_old_as).await?;
    rename(&transaction, &patrol, replacement, name).await?;
    let inside = transaction.client();
    properties.apply(inside, name).await?;
    identity::set_own_comment(inside, name, properties.comment.as_deref()).await?;
    identity::write_mark(inside, name, &for_new).await?;
    identity::write_mark(inside, keep_old_as, &for_old).await?;
    transaction.commit().await.doing(what)?;
    Ok(Swapped { took: begin.elapsed(), now: true })
}

/// Begins a transaction that renames databases, and neither waits nor is silent without end; its session can be woken.
async fn begin_renaming(client: &mut Client) -> Result<Transaction<'_>, tokio_postgres::Error> {
    // Of several tries at the sessions each notification uses one up: others', in the same database, would leave too few.
    let alone = "select count(*) = 0 from pg_catalog.pg_stat_activity
                 where datname = pg_catalog.current_database() and usesysid is not null and application_name is distinct from $1";
    if client.query_one(alone, &[&APPLICATION]).await?.get(0) {
        client.batch_execute(&format!("LISTEN {}", quote::ident(CHANNEL))).await?;
    }
    let transaction = client.transaction().await?;
    let limits = format!(
        "set local lock_timeout = {}; set local idle_in_transaction_session_timeout = '{SILENCE}'",
        LOCK_WAIT.as_millis()
    );
    transaction.batch_execute(&limits).await?;
    Ok(transaction)
}

/// Renames a live database and marks it, ending the sessions on it; nothing takes its place. Done already, it does nothing.
///
/// # Errors
/// As [`swap`].
pub async fn put_aside(live: &Database, name: &str, label: &Label) -> Result<(), DbError> {
    made::check_name(name)?;
    let mut client = live.maintenance().await?;
    let there = (facts::exists_on(&client, &live.dbname).await?, facts::exists_on(&client, name).await?);
    match there {
        (false, true) => return Ok(()),
        (true, false) => {}
        (true, true) => return Err(DbError::Swap(format!("{} and {name} are both there", live.dbname))),
        (false, false) => {
            return Err(DbError::NoDatabase { name: live.dbname.clone(), server: live.server() });
        }
    }
    let patrol = Patrol::on(live).await?;
    refuse_prepared(&client, &[&live.dbname]).await?;
    let what = || format!("put {} aside", live.dbname);
    let transaction = begin_renaming(&mut client).await.doing(what)?;
    rename(&transaction, &patrol, &live.dbname, name).await?;
    identity::write_mark(transaction.client(), name, label).await?;
    transaction.commit().await.doing(what)
}

/// Says what both databases will be after the swap.
async fn labels(client: &Client, live: &str, replacement: &str) -> Result<(Label, Label), DbError> {
    let mark = identity::read_mark(client, replacement).await?;
    let Some(own) = mark.valid() else {
        return Err(DbError::Swap(format!(
            "{replacement} is not a database that Piton prepared: {}",
            mark.in_words()
        )));
    };
    let live_mark = identity::read_mark(client, live).await?;
    let base = live_mark.valid().unwrap_or(own).label.clone();
    let (new, old) = match (live_mark.valid().map(|mark| mark.label.purpose), own.label.purpose) {
        // One that people made stays theirs under whatever name.
        (Some(Purpose::Clone), Purpose::Adopted) => (Purpose::Adopted, Purpose::Clone),
        (Some(Purpose::Adopted), _) => (Purpose::Clone, Purpose::Adopted),
        (Some(Purpose::Clone), _) => (Purpose::Clone, Purpose::Clone),
        _ => (Purpose::Live, Purpose::Replaced),
    };
    Ok((Label { purpose: new, ..base.clone() }, Label { purpose: old, ..base }))
}

async fn refuse_prepared(client: &Client, databases: &[&str]) -> Result<(), DbError> {
    let rows = client
        .query(
            "select gid, database::text from pg_catalog.pg_prepared_xacts where database = any($1)",
            &[&databases],
        )
        .await
        .doing(|| "look for prepared transactions".into())?;
    match rows.first() {
        None => Ok(()),
        Some(row) => Err(DbError::Swap(format!(
            "{} has the prepared transaction {gid}; COMMIT PREPARED or ROLLBACK PREPARED {gid} first",
            row.get::<_, &str>(1),
            gid = quote::literal(row.get(0)),
        ))),
    }
}

/// Renames one database, ending the sessions on it for as long as the server counts any.
async fn rename(transaction: &Transaction<'_>, patrol: &Patrol, from: &str, to: &str) -> Result<(), DbError> {
    let what = || format!("rename {from}");
    let row = transaction.query_one("select pg_catalog.pg_backend_pid()", &[]).await.doing(what)?;
    let renamer: i32 = row.get(0);
    let statement = format!("ALTER DATABASE {} RENAME TO {}", quote::ident(from), quote::ident(to));
    let renaming = transaction.batch_execute(&statement);
    tokio::pin!(renaming);
    let mut is_closed = false;
    let ended = loop {
        let round = async {
            tokio::time::sleep(if is_closed { LAST_PATROL } else { PATROL }).await;
            is_closed = is_closed || patrol.is_closed(from, renamer).await?;
            match is_closed {
                true => patrol.clear(from).await,
                false => patrol.end_blockers(from, renamer).await,
            }
        };
        // The statement is sent first: its lock closes the database, and only then can the last session be known.
        tokio::select! {
            biased;
            ended = &mut renaming => break ended,
            done = round => if let Err(error) = done {
                patrol.cancel(renamer).await;
                return Err(error);
            }
        }
    };
    match ended {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            Err(DbError::InUse { name: from.to_owned(), sessions: patrol.holders(from).await? })
        }
        Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => {
            let sessions = made::sessions(&patrol.0, from).await?;
            if sessions.is_empty() {
                return Err(DbError::Sql { doing: what(), source: SqlError(error) });
            }
            Err(DbError::InUse { name: from.to_owned(), sessions })
        }
        other => other.needing(what, || {
            format!("ALTER DATABASE {} OWNER TO the user; ALTER ROLE the user CREATEDB", quote::ident(from))
        }),
    }
}

/// Ends the sessions on a database that is being renamed, a freezing one last.
struct Patrol(Session);

impl Patrol {
    async fn on(live: &Database) -> Result<Self, DbError> {
        let session = live.maintenance().await?;
        // What wakes a session need not last, and shall not wait for a standby.
        let quick = "set synchronous_commit = off";
        session.batch_execute(quick).await.doing(|| "prepare to rename a database".into())?;
        Ok(Self(session))
    }

    /// Tells whether the renaming session has its lock: nobody comes in any more, and whoever came in is listed.
    async fn is_closed(&self, database: &str, renamer: i32) -> Result<bool, DbError> {
        let row = self
            .0
            .query_one(
                "select exists (
                   select from pg_catalog.pg_locks l join pg_catalog.pg_database d on d.oid = l.objid
                   where l.locktype = 'object' and l.classid = 'pg_catalog.pg_database'::regclass
                     and l.mode = 'AccessExclusiveLock' and l.granted and l.pid = $2 and d.datname = $1)",
                &[&database, &renamer],
            )
            .await
            .doing(|| format!("look for the lock on {database}"))?;
        Ok(row.get(0))
    }

    /// Ends the sessions on the database that keep the renaming session from its lock.
    async fn end_blockers(&self, database: &str, renamer: i32) -> Result<(), DbError> {
        self.end(database, "pid = any(pg_catalog.pg_blocking_pids($2))", &renamer).await
    }

    /// Ends the sessions, and wakes the renaming one when none is left: the server looks for them only ten times a second.
    async fn clear(&self, database: &str) -> Result<(), DbError> {
        self.end_sessions(database).await?;
        let wake = "select pg_catalog.pg_notify($2, '')
                    where not exists (select from pg_catalog.pg_stat_activity where datname = $1)";
        // Not woken, it sees by itself, later.
        if let Err(error) = self.0.execute(wake, &[&database, &CHANNEL]).await {
            tracing::debug!(%error, "the renaming session was not woken");
        }
        Ok(())
    }

    /// Ends every session; a freezing one only when no other is left, so that no write that waits for it gets through.
    async fn end_sessions(&self, database: &str) -> Result<(), DbError> {
        self.end(
            database,
            "(application_name is distinct from $2 or not exists (
               select from pg_catalog.pg_stat_activity other
               where other.datname = $1 and other.application_name is distinct from $2 and other.usesysid is not null))",
            &changes::FREEZER,
        )
        .await
    }

    /// Autovacuum is known by having no user, which everybody may see; the server ends it by itself.
    async fn end(&self, database: &str, which: &str, by: &(dyn ToSql + Sync)) -> Result<(), DbError> {
        let statement = format!(
            "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity
             where datname = $1 and pid <> pg_catalog.pg_backend_pid() and usesysid is not null and {which}"
        );
        self.0.execute(&statement, &[&database, by]).await.needing(
            || format!("end the sessions on {database}"),
            || "GRANT pg_signal_backend TO the user (a superuser's sessions need a superuser)".into(),
        )?;
        Ok(())
    }

    /// Describes the sessions that have locked a database itself, whichever one they are on.
    async fn holders(&self, database: &str) -> Result<Vec<String>, DbError> {
        let rows = self
            .0
            .query(
                "select pg_catalog.concat_ws(' ', 'session', a.pid, 'of', a.usename, 'on', coalesce(a.datname, 'no database'),
                        '(' || nullif(a.application_name, '') || ')', a.state,
                        'since ' || date_trunc('second', coalesce(a.xact_start, a.backend_start)))
                 from pg_catalog.pg_locks l
                 join pg_catalog.pg_database d on d.oid = l.objid
                 join pg_catalog.pg_stat_activity a on a.pid = l.pid
                 where l.locktype = 'object' and l.classid = 'pg_catalog.pg_database'::regclass and l.granted
                   and d.datname = $1 and l.pid <> pg_catalog.pg_backend_pid()
                 order by a.pid",
                &[&database],
            )
            .await
            .doing(|| format!("find who has locked {database}"))?;
        if rows.is_empty() {
            return Ok(vec!["one that has just ended".into()]);
        }
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Lets new sessions in again at once; without it the server would look for the old ones for seconds.
    async fn cancel(&self, renamer: i32) {
        let _ = self.0.execute("select pg_catalog.pg_cancel_backend($1)", &[&renamer]).await;
    }
}
