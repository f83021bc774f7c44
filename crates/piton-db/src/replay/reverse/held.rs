//! The tables that lose something, kept from being written while a migration goes back in place.

use std::path::Path;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::super::apply::refusal;
use super::super::layout::Layout;
use super::super::rescue::{self, Line, Rescued};
use super::super::session;
use super::rows::saved;
use super::{Reverse, SCHEMA};
use crate::capture::triggers::MIGRATING;
use crate::capture::{Snapshot, is_since};
use crate::error::Doing;
use crate::{Database, DbError, Session, quote};

/// The advisory lock by which a writer sees that somebody keeps the tables: "piton" and "re".
const LOCK: i64 = 0x0070_6974_6f6e_7265;

/// How long one table's writers are waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often a table's readers are waited for.
const ATTEMPTS: u32 = 8;

/// Tables that nobody but a migration's session writes until this is dropped, or its process ends.
///
/// A lock would stand in the way of the down migration itself. So each table has a trigger that refuses a statement, but only while
/// the session of this holds a lock, or a migration's session is there: whoever died keeps nobody from writing.
#[derive(Debug)]
#[must_use = "dropping it lets others write"]
pub struct Held {
    session: Session,
}

impl Held {
    /// Begins; `None` when writers stood in the way. Done again, it makes all of it anew.
    ///
    /// # Errors
    /// [`DbError::Privilege`] when the user may not make a schema or a trigger; or when the server is away.
    pub async fn begin(database: &Database, reverse: &Reverse) -> Result<Option<Self>, DbError> {
        let session = session(database).await?;
        let what = || "keep the tables from being written".to_owned();
        remove(&session).await?;
        let (setting, on) = MIGRATING;
        let mut sql = format!(
            "begin; set local lock_timeout = {};
             create schema {SCHEMA}; grant usage on schema {SCHEMA} to public;
             create function {SCHEMA}.refuse() returns trigger language plpgsql as $$ begin
               if pg_catalog.current_setting('{setting}', true) is distinct from '{on}'
                  and (not pg_catalog.pg_try_advisory_xact_lock_shared({LOCK}) or exists (
                    select from pg_catalog.pg_stat_activity
                    where datname = pg_catalog.current_database() and application_name = 'piton migration')) then
                 raise exception '% goes back to its structure of before: try again', tg_relid::pg_catalog.regclass
                   using errcode = '55006';
               end if;
               return null;
             end $$;",
            PATIENCE.as_millis()
        );
        for table in reverse.tables() {
            sql.push_str(&format!(
                "create trigger \"!{SCHEMA}\" before insert or update or delete or truncate on {table}
                 for each statement execute function {SCHEMA}.refuse();"
            ));
        }
        sql.push_str("commit");
        if let Err(error) = session.batch_execute(&sql).await {
            let busy = matches!(
                error.code(),
                Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED)
            );
            let _ = session.batch_execute("rollback").await;
            if busy {
                return Ok(None);
            }
            let database = quote::ident(&database.dbname);
            return Err(error).needing(what, || format!("GRANT CREATE ON DATABASE {database} TO the user"));
        }
        // Whoever was let through holds it shared until the end of its transaction.
        let lock = format!(
            "set lock_timeout = {}; select pg_catalog.pg_advisory_lock({LOCK}); set lock_timeout = 0",
            PATIENCE.as_millis()
        );
        match session.batch_execute(&lock).await {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                remove(&session).await?;
                Ok(None)
            }
            locked => locked.doing(what).map(|()| Some(Self { session })),
        }
    }

    /// Says what would be lost although it was rehearsed; nothing when nothing would.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn obstacle(&self, reverse: &Reverse, backup: &Snapshot) -> Result<Option<String>, DbError> {
        self.obstacle_since(reverse, backup.oldest()).await
    }

    pub(super) async fn obstacle_since(
        &self,
        reverse: &Reverse,
        since: u64,
    ) -> Result<Option<String>, DbError> {
        for refill in &reverse.refill {
            let sql = format!(
                "select exists (select from {} g where {})",
                refill.migrated,
                is_since("g.xmin", since)
            );
            let what = || format!("look whether {} was written to", refill.table);
            if self.session.query_one(&sql, &[]).await.doing(what)?.get(0) {
                return Ok(Some(format!(
                    "somebody wrote to {} since the backup, and the migration has removed what was in a column of it",
                    refill.table
                )));
            }
        }
        for one in &reverse.narrowed {
            let name = quote::ident(&one.column);
            let sql = format!(
                "select count(*) from {} g where (g.{name}::{})::{}::text is distinct from g.{name}::text",
                one.table, one.before, one.after
            );
            let found = self.session.query_one(&sql, &[]).await;
            let found = found.doing(|| format!("look whether {} fits its type of before", one.table));
            let fits = match found {
                Ok(row) => row.get::<_, i64>(0) == 0,
                Err(error) if refusal(&error).is_some() => false,
                Err(error) => return Err(error),
            };
            if !fits {
                return Ok(Some(format!(
                    "a value of {}.{name} does not fit its type of before, {}",
                    one.table, one.before
                )));
            }
        }
        Ok(None)
    }

    /// Writes down what the down migration destroys, and reads the file again; `None` when there is nothing.
    ///
    /// # Errors
    /// When the database cannot be read, or the file not be written.
    pub async fn save(
        &self,
        reverse: &Reverse,
        backup: &Snapshot,
        file: &Path,
    ) -> Result<Option<Rescued>, DbError> {
        rescue::write(&self.lines(reverse, backup.oldest()).await?, file)
    }

    pub(super) async fn lines(&self, reverse: &Reverse, since: u64) -> Result<Vec<Line>, DbError> {
        let layout = Layout::read(&self.session).await?;
        let mut lines = Vec::new();
        for one in &reverse.rescue {
            lines.extend(saved(&self.session, &layout, one, since).await?);
        }
        Ok(lines)
    }
}

/// Takes away what a [`Held`] has put into a database, whichever process has begun it; done again, it does no harm.
///
/// # Errors
/// When the database cannot be written.
pub async fn let_go(database: &Database) -> Result<(), DbError> {
    remove(&*session(database).await?).await
}

pub(super) async fn remove(client: &Client) -> Result<(), DbError> {
    // Others wait behind it while it waits for a table's readers.
    let limit = PATIENCE.as_millis();
    let sql =
        format!("begin; set local lock_timeout = {limit}; drop schema if exists {SCHEMA} cascade; commit");
    let mut left = ATTEMPTS;
    loop {
        let Err(error) = client.batch_execute(&sql).await else { return Ok(()) };
        let _ = client.batch_execute("rollback").await;
        left -= 1;
        if left == 0 || error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
            return Err(error).doing(|| "let the tables be written again".into());
        }
        tokio::time::sleep(PATIENCE / 10).await;
    }
}
