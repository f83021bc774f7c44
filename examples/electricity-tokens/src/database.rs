//! The pool, and statements that outlive the loss of a connection.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Config, NoTls, Row};

/// How long a request waits for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub struct Database {
    pool: Pool,
}

impl Database {
    /// Prepares the pool; connections are opened when they are first needed.
    pub fn new(url: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let mut config: Config = url.parse()?;
        config.application_name("electricity-tokens").options("-c timezone=UTC");
        // A pooled connection is tried before it is handed out: the database may have been replaced since.
        let manager = Manager::from_config(
            config,
            NoTls,
            ManagerConfig { recycling_method: RecyclingMethod::Verified },
        );
        let pool = Pool::builder(manager)
            .max_size(10)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(PATIENCE))
            .create_timeout(Some(PATIENCE))
            .recycle_timeout(Some(PATIENCE))
            .build()?;
        Ok(Self { pool })
    }

    /// Runs one statement in a transaction of its own, which has been committed when this returns.
    ///
    /// A statement whose connection is lost is sent once more. It may have taken effect the first time, so each statement
    /// of this app can be repeated: inserts carry their id and skip a row that is there, updates set values, deletes are
    /// content with nothing to delete.
    pub async fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, PoolError> {
        match self.attempt(sql, params).await {
            Err(error) if lost_connection(&error) => self.attempt(sql, params).await,
            ended => ended,
        }
    }

    async fn attempt(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, PoolError> {
        let client = self.pool.get().await?;
        Ok(client.query(sql, params).await?)
    }
}

fn lost_connection(error: &PoolError) -> bool {
    let PoolError::Backend(error) = error else { return false };
    error.is_closed()
        || error.code().is_some_and(|code| {
            [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW].contains(code)
        })
}
