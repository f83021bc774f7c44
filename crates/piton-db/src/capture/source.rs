use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::{Lsn, Message, Stream, WalStatus, drop_slot, lag, triggers};
use crate::{Database, DbError};

/// Where the writes of a live database are read from.
///
/// An enumeration and no trait: there are two, a release remembers which one it has, and what reads from it need not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Source {
    /// The server's log.
    Log {
        /// The slot that keeps it.
        slot: String,
    },
    /// What triggers note.
    Triggers,
}

/// The writes of one database, as they come.
#[derive(Debug)]
pub enum Reading {
    /// From the server's log.
    Log(Stream),
    /// From what triggers have noted.
    Triggers(triggers::Store),
}

/// How much a migration may write on a copy, in bytes of the log: more than there is disk.
const COPY_BUDGET: u64 = 1 << 50;

impl Source {
    /// Returns the log behind a slot.
    pub fn log(slot: impl Into<String>) -> Self {
        Self::Log { slot: slot.into() }
    }

    /// Reads on from a place that was told, or from the beginning, where it is 0.
    ///
    /// # Errors
    /// As [`Stream::open`] and [`triggers::Store::open`].
    pub async fn open(&self, database: &Database, from: Lsn) -> Result<Reading, DbError> {
        Ok(match self {
            Self::Log { slot } => Reading::Log(Box::pin(Stream::open(database, slot, from)).await?),
            Self::Triggers => Reading::Triggers(Box::pin(triggers::Store::open(database, from)).await?),
        })
    }

    /// Reads what is committed from now on, for as long as the reading is there; what triggers have noted stays.
    ///
    /// # Errors
    /// As [`Stream::temporary`] and [`triggers::install`].
    pub async fn temporary(&self, copy: &Database) -> Result<Reading, DbError> {
        Ok(match self {
            Self::Log { .. } => Reading::Log(Box::pin(Stream::temporary(copy)).await?),
            Self::Triggers => {
                Box::pin(triggers::install(copy, COPY_BUDGET)).await?;
                Reading::Triggers(Box::pin(triggers::Store::open(copy, Lsn::default())).await?)
            }
        })
    }

    /// Returns a place that no commit before this call lies behind, and that a reading gets to.
    ///
    /// # Errors
    /// When the server cannot be asked; [`DbError::Replay`] when not everything was noted.
    pub async fn now(&self, client: &Client) -> Result<Lsn, DbError> {
        match self {
            Self::Log { .. } => Box::pin(super::now(client)).await,
            Self::Triggers => Box::pin(triggers::now(client)).await,
        }
    }

    /// Says why not every write is kept any more; `None` while all are.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn lost(&self, database: &Database) -> Result<Option<String>, DbError> {
        Ok(match self {
            Self::Log { slot } => match lag(database, slot).await? {
                Some(lag) if lag.wal_status != WalStatus::Lost => None,
                _ => Some("the server has let go of the log that it had to keep".into()),
            },
            Self::Triggers => match triggers::state(database).await? {
                Some(state) => state.lost().map(str::to_owned),
                None => Some("somebody has dropped what noted the writes".into()),
            },
        })
    }

    /// Has no more writes kept: drops the slot, or the triggers and what they have noted; nothing is done twice.
    ///
    /// # Errors
    /// As [`drop_slot`] and [`triggers::remove`].
    pub async fn let_go(&self, database: &Database) -> Result<(), DbError> {
        match self {
            Self::Log { slot } => drop_slot(database, slot).await,
            Self::Triggers => triggers::remove(database).await,
        }
    }
}

impl Reading {
    /// Waits for the next message; given up in the middle, none is lost.
    ///
    /// # Errors
    /// As [`Stream::next`] and [`triggers::Store::next`].
    pub async fn next(&mut self) -> Result<Message, DbError> {
        match self {
            Self::Log(stream) => stream.next().await,
            Self::Triggers(store) => store.next().await,
        }
    }

    /// Lets be forgotten what was told up to this place, which is kept elsewhere now.
    pub fn confirm(&mut self, upto: Lsn) {
        match self {
            Self::Log(stream) => stream.confirm(upto),
            Self::Triggers(store) => store.confirm(upto),
        }
    }

    /// Asks for a [`Message::UpTo`] as soon as there is nothing more to tell.
    pub fn ask(&mut self) {
        match self {
            Self::Log(stream) => stream.ask(),
            Self::Triggers(store) => store.ask(),
        }
    }
}
