//! Runs one migration file and keeps its record.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::MigrationError::{Busy, Failed, HalfApplied, Locked};
use super::index::{self, ConcurrentIndex, Standing};
use super::script::{self, Mode, Statement};
use super::sql::{Record, checksum, unfinished};
use super::{MigrateOptions, MigrationError, Obstacle};
use crate::error::{Doing, SqlError};
use crate::{DbError, Trouble, quote};

/// The advisory lock that every migrating session of a database holds: "piton" and "mi".
const LOCK: i64 = 0x0070_6974_6f6e_6d69;

/// Notes that a migration has all of its statements in the database.
const FINISHED: &str = "update piton.migrations set finished_at = now() where name = $1";

/// A file, taken apart.
pub(super) struct Script {
    pub(super) name: String,
    blake3: String,
    statements: Vec<Statement>,
    mode: Mode,
}

/// Takes the lock for the session's life, so that a migration and its record have one writer.
pub(super) async fn lock(client: &Client, wait: Duration) -> Result<(), DbError> {
    Ok(crate::lock::take(client, LOCK, wait).await?.map_err(|by| Busy { by })?)
}

impl Script {
    /// Takes a file's text apart.
    pub(super) fn read(name: &str, text: &str) -> Result<Self, MigrationError> {
        let (statements, mode) = script::read(text).map_err(|unreadable| MigrationError::Script {
            name: name.to_owned(),
            line: unreadable.line,
            why: unreadable.why.to_owned(),
        })?;
        Ok(Self { name: name.to_owned(), blake3: checksum(text), statements, mode })
    }

    /// Runs the file, or the rest of it by the record of an earlier run; returns how long its last attempt took.
    pub(super) async fn run(
        &self,
        client: &mut Client,
        options: MigrateOptions,
        earlier: Option<&Record>,
    ) -> Result<Duration, DbError> {
        start_anew(client).await?;
        let from = match earlier {
            Some(record) => self.take_up(client, record).await?,
            None => 0,
        };
        self.begin_record(client, from).await?;
        let ended = match self.mode {
            Mode::OneTransaction => self.in_one_transaction(client, options, FINISHED, &self.name).await,
            Mode::OneByOne => self.one_by_one(client, options, from).await,
        };
        if let Err(error) = &ended {
            self.record_failure(client, error).await;
        }
        ended
    }

    /// Writes the record before anything runs, in a transaction of its own.
    async fn begin_record(&self, client: &Client, done: u32) -> Result<(), DbError> {
        let of = i32::try_from(self.statements.len()).unwrap_or(i32::MAX);
        record(
            client,
            "insert into piton.migrations (name, blake3, started_at, of, done) values ($1, $2, now(), $3, $4)
             on conflict (name) do update
             set blake3 = $2, started_at = now(), of = $3, error = null, done = $4, running = false, building = null",
            &[&self.name, &self.blake3, &of, &i32::try_from(done).unwrap_or(i32::MAX)],
        )
        .await
        .doing(|| format!("record the start of {}", self.name))
    }

    async fn record_failure(&self, client: &Client, error: &DbError) {
        let text = crate::error::chain(error);
        // Without a session to write it the record says "interrupted", which is as true.
        let failed = "update piton.migrations set error = $2 where name = $1";
        let _ = record(client, failed, &[&self.name, &text]).await;
    }

    /// Tells whether all of it runs in one transaction.
    pub(super) fn is_one_transaction(&self) -> bool {
        self.mode == Mode::OneTransaction
    }

    /// Runs the file of a down migration, and takes the migration out of the record in its transaction; returns how long it took.
    pub(super) async fn take_back(
        &self,
        client: &mut Client,
        options: MigrateOptions,
        migration: &str,
    ) -> Result<Duration, DbError> {
        start_anew(client).await?;
        let gone = "delete from piton.migrations where name = $1";
        self.in_one_transaction(client, options, gone, migration).await
    }

    /// Runs the file in one transaction, which ends with the statement that notes so in the record of a migration.
    async fn in_one_transaction(
        &self,
        client: &mut Client,
        options: MigrateOptions,
        noting: &str,
        of: &str,
    ) -> Result<Duration, DbError> {
        let mut attempt = 1;
        loop {
            let begin = Instant::now();
            match self.attempt(client, options.lock_timeout, noting, of).await? {
                Ok(()) => return Ok(begin.elapsed()),
                Err((_, error)) if worth_another_attempt(&error) && attempt < options.attempts => {
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                Err((statement, error)) => {
                    return Err(self.failure(client, statement, error, attempt, options).await);
                }
            }
        }
    }

    /// Runs every statement and the record's end in one transaction; a refused statement is the inner error.
    async fn attempt(
        &self,
        client: &mut Client,
        lock_timeout: Duration,
        noting: &str,
        of: &str,
    ) -> Result<Result<(), (&Statement, tokio_postgres::Error)>, DbError> {
        let what = || format!("run {} in a transaction", self.name);
        let transaction = client.transaction().await.doing(what)?;
        transaction
            .batch_execute(&format!("set local lock_timeout = {}", lock_timeout.as_millis()))
            .await
            .doing(what)?;
        for statement in &self.statements {
            if let Err(error) = transaction.batch_execute(&statement.text).await {
                // A lost session has rolled back by itself.
                let _ = transaction.rollback().await;
                return Ok(Err((statement, error)));
            }
        }
        // The file may have taken on a role that may not write the record.
        let ended = match transaction.batch_execute("reset session authorization; reset role").await {
            Ok(()) => transaction.execute(noting, &[&of]).await.map(drop),
            Err(error) => Err(error),
        };
        let last = self.statements.last();
        match (ended, last) {
            (Err(error), _) => Err(error).doing(what)?,
            // Deferred constraints speak at the commit; the last statement stands for the whole file.
            (Ok(()), Some(last)) => Ok(transaction.commit().await.map_err(|error| (last, error))),
            (Ok(()), None) => Ok(Ok(transaction.commit().await.doing(what)?)),
        }
    }

    async fn failure(
        &self,
        client: &Client,
        statement: &Statement,
        error: tokio_postgres::Error,
        attempts: u32,
        options: MigrateOptions,
    ) -> DbError {
        let (name, line) = (self.name.clone(), statement.line);
        if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            let holders = holders(client).await;
            return Locked { name, line, attempts, each: options.lock_timeout, holders }.into();
        }
        let clean = !lost(client, &error);
        let left = if clean {
            "nothing of it was kept"
        } else {
            "the session is gone, with whatever was not committed; the record tells"
        };
        let trouble = Trouble::of(&error);
        let said = SqlError(error).to_string();
        Failed { name, line, said, left: left.into(), unnoted: false, clean, trouble }.into()
    }

    /// Returns the statement to carry on with, when what became of the one before it can be told.
    async fn take_up(&self, client: &Client, record: &Record) -> Result<u32, DbError> {
        let done = record.done;
        for statement in self.statements.iter().zip(0..done).map(|(s, _)| s).filter(|s| s.sets_session()) {
            client.batch_execute(&statement.text).await.doing(|| format!("take up {}", self.name))?;
        }
        if let Some(index) = &record.building {
            match index::standing(client, index).await? {
                // Built before the session was lost, or by a person since. Another version of the file may mean another one.
                Standing::Valid if record.blake3 == self.blake3 => return Ok(done + 1),
                Standing::Invalid => index::drop_invalid(client, index, Duration::ZERO).await?,
                Standing::Valid | Standing::Absent => {}
            }
        }
        self.is_certain(record)?;
        if record.running
            && let Some(index) = self.after(done).and_then(index::dropped)
            && index::standing(client, &index).await? == Standing::Absent
        {
            return Ok(done + 1);
        }
        Ok(done)
    }

    /// Returns the statement that comes after so many.
    fn after(&self, done: u32) -> Option<&Statement> {
        self.statements.iter().zip(0..).find_map(|(next, number)| (number == done).then_some(next))
    }

    /// Wants it to be known, or to be possible to find out, what became of the statement after those that are done.
    pub(super) fn is_certain(&self, record: &Record) -> Result<(), DbError> {
        if record.running && self.after(record.done).is_some_and(|next| !can_be_told(next)) {
            return Err(self.uncertain(record.done));
        }
        Ok(())
    }

    fn uncertain(&self, done: u32) -> DbError {
        let of = u32::try_from(self.statements.len()).unwrap_or(u32::MAX);
        HalfApplied { name: self.name.clone(), done, of, why: Obstacle::Uncertain }.into()
    }

    async fn one_by_one(
        &self,
        client: &Client,
        options: MigrateOptions,
        from: u32,
    ) -> Result<Duration, DbError> {
        let begin = Instant::now();
        for (done, statement) in (0_u32..).zip(&self.statements).filter(|(number, _)| *number >= from) {
            let index = match ConcurrentIndex::of(statement) {
                Some(index) => index.name(client).await?,
                None => None,
            };
            // What is there before the statement is none of its making, whatever becomes of it.
            let building = match index.as_deref() {
                Some(index) if index::standing(client, index).await? == Standing::Absent => Some(index),
                _ => None,
            };
            self.note(client, done, true, building).await?;
            let mut attempt = 1;
            while let Err(Refused { error, in_part }) =
                self.alone(client, statement, options.lock_timeout).await
            {
                if lost(client, &error) && !can_be_told(statement) {
                    return Err(self.uncertain(done));
                }
                let in_part = in_part && leaves_a_part(statement);
                // A concurrent statement that failed leaves an invalid index; again would only fail on its name.
                let again = worth_another_attempt(&error) && !statement.waits_harmlessly() && !in_part;
                if !again || attempt >= options.attempts {
                    let trouble = Trouble::of(&error);
                    let said = SqlError(error).to_string();
                    return Err(self.stopped(client, done, statement, said, in_part, trouble).await);
                }
                tokio::time::sleep(backoff(attempt)).await;
                attempt += 1;
            }
            // IF NOT EXISTS is content with an index of that name that no build has finished.
            if let Some(index) = &index
                && index::standing(client, index).await? == Standing::Invalid
            {
                let said = format!("{index} was there before and is invalid, so nothing was built");
                return Err(self.stopped(client, done, statement, said, false, None).await);
            }
            self.note(client, done + 1, false, None).await?;
        }
        record(client, "update piton.migrations set finished_at = now() where name = $1", &[&self.name])
            .await
            .doing(|| format!("record the end of {}", self.name))?;
        Ok(begin.elapsed())
    }

    /// Says that a statement failed, and what of the file stands; records whether that may be a part of this one.
    async fn stopped(
        &self,
        client: &Client,
        done: u32,
        statement: &Statement,
        said: String,
        in_part: bool,
        trouble: Option<Trouble>,
    ) -> DbError {
        // A session that is gone leaves it as it was noted before: running.
        let running = "update piton.migrations set running = $2 where name = $1";
        let _ = record(client, running, &[&self.name, &in_part]).await;
        let (name, line, of) = (self.name.clone(), statement.line, self.statements.len());
        let mut left = match in_part && !can_be_told(statement) {
            true => format!(
                "{done} of its {of} statements stand, and perhaps a part of this one, which had committed some of its work; \
                 finish or undo that by hand"
            ),
            false => format!(
                "{done} of its {of} statements stand: they cannot share a transaction; run again, it carries on with this one"
            ),
        };
        for more in unfinished(client).await.unwrap_or_default() {
            left.push_str("; ");
            left.push_str(&more);
        }
        Failed { name, line, said, left, unnoted: false, clean: false, trouble }.into()
    }

    /// Runs one statement in a transaction of its own.
    async fn alone(
        &self,
        client: &Client,
        statement: &Statement,
        lock_timeout: Duration,
    ) -> Result<(), Refused> {
        let whole = |error| Refused { error, in_part: false };
        // A concurrent build waits for every older transaction, in nobody's way: a lock timeout would only leave it invalid.
        let timeout = if statement.waits_harmlessly() { 0 } else { lock_timeout.as_millis() };
        client.batch_execute(&format!("set lock_timeout = {timeout}")).await.map_err(whole)?;
        // What is a transaction as a whole may have taken more than one number: a session that was idle for long takes one to catch up.
        if !statement.commits_within() {
            return client.batch_execute(&statement.text).await.map_err(whole);
        }
        let before = transaction(client).await.map_err(whole)?;
        let Err(error) = client.batch_execute(&statement.text).await else { return Ok(()) };
        // One that committed nothing was a single transaction.
        let in_part = !matches!(transaction(client).await, Ok(now) if now <= before + 2);
        Err(Refused { error, in_part })
    }

    async fn note(
        &self,
        client: &Client,
        done: u32,
        running: bool,
        building: Option<&str>,
    ) -> Result<(), DbError> {
        record(
            client,
            "update piton.migrations set done = $2, running = $3, building = $4 where name = $1",
            &[&self.name, &i32::try_from(done).unwrap_or(i32::MAX), &running, &building],
        )
        .await
        .doing(|| format!("record how far {} is", self.name))
    }
}

/// A statement that failed.
struct Refused {
    error: tokio_postgres::Error,
    /// Whether it had committed some of what it did.
    in_part: bool,
}

/// Returns the number of the session's transaction that asks for it; each has the next one.
async fn transaction(client: &Client) -> Result<u64, tokio_postgres::Error> {
    // The simple protocol takes a single transaction for it.
    let asked = client
        .simple_query(
            "select pg_catalog.split_part(virtualtransaction, '/', 2) from pg_catalog.pg_locks
             where pid = pg_catalog.pg_backend_pid() and locktype = 'virtualxid' and virtualxid = virtualtransaction",
        )
        .await?;
    let number = asked.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    Ok(number.unwrap_or_default())
}

/// Changes the record as the user of the session, and gives the session back whom the file has made it.
///
/// A role that a file takes on may create an index and not write the record.
async fn record(
    client: &Client,
    statement: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<(), tokio_postgres::Error> {
    let row = client.query_one("select session_user::text, pg_catalog.current_setting('role')", &[]).await?;
    let (user, role): (&str, &str) = (row.get(0), row.get(1));
    client.batch_execute("reset session authorization; reset role").await?;
    client.execute(statement, values).await?;
    let row = client.query_one("select session_user::text", &[]).await?;
    let mut back = String::new();
    if row.get::<_, &str>(0) != user {
        back.push_str(&format!("set session authorization {};", quote::ident(user)));
    }
    if role != "none" {
        back.push_str(&format!("set role {}", quote::ident(role)));
    }
    client.batch_execute(&back).await
}

/// Tells whether it can be found out later what became of the statement, or does not matter.
fn can_be_told(statement: &Statement) -> bool {
    !leaves_a_part(statement) || index::dropped(statement).is_some()
}

/// Tells whether what the statement commits before it fails has to be completed or undone; an invalid index is known by its name.
fn leaves_a_part(statement: &Statement) -> bool {
    !statement.is_repeatable() && ConcurrentIndex::of(statement).is_none()
}

/// Prepares the session for a file: what the one before has set holds for that one alone, as if each had a session of its own.
async fn start_anew(client: &Client) -> Result<(), DbError> {
    client
        .batch_execute("reset session authorization; reset all")
        .await
        .doing(|| "clear the session's settings".into())?;
    crate::target::set_for_migrating(client).await.doing(|| "prepare the session".into())
}

/// Tells whether the statement lost to other sessions and may win the next time.
fn worth_another_attempt(error: &tokio_postgres::Error) -> bool {
    matches!(
        error.code(),
        Some(
            &SqlState::LOCK_NOT_AVAILABLE
                | &SqlState::T_R_DEADLOCK_DETECTED
                | &SqlState::T_R_SERIALIZATION_FAILURE
        )
    )
}

/// Tells whether the session ended with the error: class 57P is the server's shutdown or an administrator's order.
fn lost(client: &Client, error: &tokio_postgres::Error) -> bool {
    client.is_closed() || error.code().is_some_and(|code| code.code().starts_with("57P"))
}

/// Waits longer after each attempt, so that those who queued behind us get through.
pub(super) fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(250 * u64::from(1_u32 << attempt.min(5)))
}

/// Describes others' transactions, of which one holds the lock: those that have locked a table, the oldest first.
///
/// Of whose age may not be seen, any may be the oldest.
pub(super) async fn holders(client: &Client) -> String {
    let rows = client
        .query(
            "select pg_catalog.concat_ws(' ', coalesce('session ' || l.pid, 'a prepared transaction'), 'of ' || a.usename,
                    '(' || nullif(a.application_name, '') || ')', a.state, 'since ' || date_trunc('second', a.xact_start),
                    'with ' || pg_catalog.string_agg(distinct c.relname::text, ', ' order by c.relname::text)
                               filter (where c.relkind in ('r', 'p', 'm', 'v')))
             from pg_catalog.pg_locks l
             left join pg_catalog.pg_stat_activity a on a.pid = l.pid
             left join pg_catalog.pg_class c on c.oid = l.relation and c.oid >= 16384
             -- Autovacuum is known by having no user; it gives way.
             where l.granted and l.pid is distinct from pg_catalog.pg_backend_pid() and (l.pid is null or a.usesysid is not null)
               and (l.locktype = 'virtualxid' and a.datname = current_database() or l.locktype = 'relation' and
                    l.database = (select oid from pg_catalog.pg_database where datname = current_database()))
             group by l.virtualtransaction, l.pid, a.usename, a.application_name, a.state, a.xact_start
             order by count(c.oid) = 0, a.xact_start nulls first limit 3",
            &[],
        )
        .await
        .unwrap_or_default();
    if rows.is_empty() {
        return "nobody any more".into();
    }
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("; ")
}
