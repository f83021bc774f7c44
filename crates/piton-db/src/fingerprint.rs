//! What a database is made of: every object with its definition.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::Doing;
use crate::rowsum::RowSum;
use crate::{Database, DbError, normalise};

/// What most databases have. The statements are in several files; `names.sql` says what they keep to.
const LISTING: &str = concat!(
    include_str!("catalogue/names.sql"),
    include_str!("catalogue/owned.sql"),
    include_str!("catalogue/relations.sql"),
    "union all\n",
    include_str!("catalogue/types.sql"),
    "union all\n",
    include_str!("catalogue/functions.sql"),
    "union all\n",
    include_str!("catalogue/notes.sql"),
    "union all\n",
    include_str!("catalogue/grants.sql"),
    "union all\n",
    include_str!("catalogue/privileges.sql"),
);

/// Whether there is anything for [`RARE`]: to plan that takes longer than to read what is mostly nothing.
const RARE_THERE: &str = include_str!("catalogue/rare_there.sql");

/// What few databases have.
const RARE: &str = concat!(
    include_str!("catalogue/names.sql"),
    include_str!("catalogue/rare_names.sql"),
    include_str!("catalogue/rare.sql"),
    "union all\n",
    include_str!("catalogue/links.sql"),
    "union all\n",
    include_str!("catalogue/grants.sql"),
);

/// What of the listing only a superuser may read.
const CONNECTIONS: &str = include_str!("catalogue/connections.sql");

/// What the listing's log-ins on foreign servers begin with.
pub(crate) const USER_MAPPING: &str = "user mapping for ";
/// What its connections of subscriptions begin with.
const CONNECTION: &str = "connection of subscription ";

/// The canonical listing of a database's objects: `column public."User".email` → `text not null`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Structure(pub BTreeMap<String, String>);

/// The row count and row sum of each table, by quoted name.
pub type Rows = BTreeMap<String, RowSum>;

/// One object that two structures do not share.
///
/// Prints as `index public.users_email is missing`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Change {
    /// Only in the second.
    Added {
        /// The object.
        object: String,
        /// Its definition.
        definition: String,
    },
    /// Only in the first.
    Removed {
        /// The object.
        object: String,
        /// Its definition.
        definition: String,
    },
    /// In both, with different definitions.
    Changed {
        /// The object.
        object: String,
        /// The definition in the first.
        from: String,
        /// The definition in the second.
        to: String,
    },
}

impl Change {
    /// Returns the object.
    pub fn object(&self) -> &str {
        match self {
            Self::Added { object, .. } | Self::Removed { object, .. } | Self::Changed { object, .. } => {
                object
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { object, definition } if definition.is_empty() => write!(f, "{object} was added"),
            Self::Added { object, definition } => write!(f, "{object} was added: {definition}"),
            Self::Removed { object, .. } => write!(f, "{object} is missing"),
            Self::Changed { object, from, to } => write!(f, "{object} was `{from}` and is `{to}`"),
        }
    }
}

impl Structure {
    /// Reads the structure of a database through a session of its own.
    ///
    /// # Errors
    /// When the database cannot be reached or a catalogue not be read.
    pub async fn of(database: &Database) -> Result<Self, DbError> {
        let client = database.connect().await?;
        Self::read(&client).await
    }

    /// Reads the structure of the database that the session is on.
    ///
    /// The session's settings are pinned for good: use it for reading alone.
    ///
    /// # Errors
    /// When a catalogue cannot be read.
    pub async fn read(client: &Client) -> Result<Self, DbError> {
        crate::target::pin(client).await?;
        let what = || "list the database's objects".to_owned();
        // The simple protocol: a parameterless statement of this size is not worth a prepared plan.
        let mut messages = client.simple_query(LISTING).await.doing(what)?;
        if client.query_one(RARE_THERE, &[]).await.doing(what)?.get(0) {
            messages.extend(client.simple_query(RARE).await.doing(what)?);
        }
        // Asked first: the mention of a column that one may not read is refused, whether or not there are rows.
        let may =
            "select pg_catalog.has_column_privilege('pg_catalog.pg_subscription', 'subconninfo', 'select')";
        if client.query_one(may, &[]).await.doing(what)?.get(0) {
            messages.extend(client.simple_query(CONNECTIONS).await.doing(what)?);
        }
        let objects = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((row.get(0)?.to_owned(), normalise::definition(row.get(1).unwrap_or_default())))
            }
            _ => None,
        });
        Ok(Self(objects.collect()))
    }

    /// Returns the structure without owners and privileges, to compare databases of different users.
    #[must_use]
    pub fn without_privileges(&self) -> Self {
        self.without(&["owner of ", "grants on ", "default privileges of "])
    }

    /// Returns the structure without subscriptions, to compare with a clone: `CREATE DATABASE ... TEMPLATE` does not copy them.
    #[must_use]
    pub fn without_subscriptions(&self) -> Self {
        self.without(&["subscription ", "owner of subscription ", CONNECTION, "comment on subscription "])
    }

    /// Returns the structure without log-ins on foreign servers, which a rehearsal's copy has not got either.
    #[must_use]
    pub fn without_user_mappings(&self) -> Self {
        self.without(&[USER_MAPPING])
    }

    /// Returns the structure without what it holds of passwords, hashed as they are: what somebody chose can be found by trying.
    #[must_use]
    pub(crate) fn without_passwords(&self) -> Self {
        let mut kept = self.without(&[CONNECTION]);
        for (key, definition) in &mut kept.0 {
            if key.starts_with(USER_MAPPING) {
                definition.clear();
            }
        }
        kept
    }

    fn without(&self, beginnings: &[&str]) -> Self {
        let kept = |key: &str| !beginnings.iter().any(|beginning| key.starts_with(beginning));
        Self(self.0.iter().filter(|(key, _)| kept(key)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    /// Returns one hash over every object and definition, as 64 hexadecimal digits.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (key, definition) in &self.0 {
            for text in [key, definition] {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Lists what has to happen to this structure to become the other, by object.
    pub fn changes_to(&self, other: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (object, from) in &self.0 {
            match other.0.get(object) {
                None => changes.push(Change::Removed { object: object.clone(), definition: from.clone() }),
                Some(to) if to != from => {
                    changes.push(Change::Changed {
                        object: object.clone(),
                        from: from.clone(),
                        to: to.clone(),
                    });
                }
                Some(_) => {}
            }
        }
        let added = other.0.iter().filter(|(object, _)| !self.0.contains_key(*object));
        changes.extend(
            added.map(|(object, to)| Change::Added { object: object.clone(), definition: to.clone() }),
        );
        changes
    }
}
