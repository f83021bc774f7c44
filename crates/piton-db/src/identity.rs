//! Which database this is: the server's identity, and the mark that Piton leaves in a database.
//!
//! The mark is one line, `piton: {json}`, in the database's comment. A comment on a database travels neither with
//! `pg_dump` nor with `CREATE DATABASE ... TEMPLATE`, and survives a rename. It names the server's system identifier and the
//! database's oid, so that one carried along all the same (`pg_dump -C`) is recognised as a copy.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use crate::error::Doing;
use crate::{Database, DbError, quote};

const PREFIX: &str = "piton: ";

/// Which database on which server, whatever URL led there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The number that initdb gave the cluster; equal on physical copies of it.
    pub system_identifier: String,
    /// The database's oid.
    pub oid: u32,
    /// The database's name.
    pub name: String,
    /// Such as 150018.
    pub server_version_num: u32,
}

impl Identity {
    /// Returns the server's major version.
    pub fn major(&self) -> u32 {
        self.server_version_num / 10_000
    }
}

/// What a database is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// An environment's own database, which people made or which a swap put in place.
    Live,
    /// An environment's database that Piton cloned and may replace.
    Clone,
    /// An environment's database that people made and left empty, whose place a clone may take.
    Adopted,
    /// The restored copy that proved a backup.
    Golden,
    /// A short-lived copy on which migrations are tried.
    Rehearsal,
    /// A live database that a swap has put aside.
    Replaced,
}

impl Purpose {
    /// Tells whether Piton made the database and may drop it.
    pub fn made_by_piton(self) -> bool {
        matches!(self, Self::Clone | Self::Golden | Self::Rehearsal)
    }

    /// Tells whether the database is the one that an environment's URL leads to.
    pub fn is_environments_own(self) -> bool {
        matches!(self, Self::Live | Self::Clone | Self::Adopted)
    }
}

/// What a mark says of a database, without where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// The app.
    pub app: String,
    /// The environment.
    pub environment: String,
    /// The release that set the mark.
    pub release: Option<String>,
    /// What the database is for.
    pub purpose: Purpose,
}

impl Label {
    /// Tells whether both are of the same app and environment.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.app == other.app && self.environment == other.environment
    }
}

/// The identity mark of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// What it says.
    #[serde(flatten)]
    pub label: Label,
    /// When it was set.
    pub set_at: Timestamp,
    /// The system identifier of the server it was set on.
    pub system_identifier: String,
    /// The oid of the database it was set on.
    pub oid: u32,
}

/// What a database's comment says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkState {
    /// No mark.
    Unmarked,
    /// A mark that was set on this very database.
    Marked(Mark),
    /// A mark that was set on another database and came along with a copy.
    Copied(Mark),
}

impl MarkState {
    /// Returns the mark that was set on this very database.
    pub fn valid(&self) -> Option<&Mark> {
        match self {
            Self::Marked(mark) => Some(mark),
            Self::Unmarked | Self::Copied(_) => None,
        }
    }

    /// Says what the mark makes of the database, to complete `it is ...`.
    pub fn in_words(&self) -> String {
        match self {
            Self::Unmarked => "it carries no mark of Piton".into(),
            Self::Marked(mark) => format!(
                "it is the {:?} database of {}'s {}",
                mark.label.purpose, mark.label.app, mark.label.environment
            )
            .to_lowercase(),
            Self::Copied(mark) => format!(
                "it carries a mark that was set on another database ({}'s {}) and copied",
                mark.label.app, mark.label.environment
            ),
        }
    }
}

/// Returns the identity of the database that the session is on.
///
/// # Errors
/// [`DbError::Privilege`] where the server keeps its system identifier from ordinary users.
pub async fn identity(client: &Client) -> Result<Identity, DbError> {
    let name: String = client
        .query_one("select current_database()::text", &[])
        .await
        .doing(|| "read the database's name".into())?
        .get(0);
    find(client, &name).await?.ok_or_else(|| DbError::NoDatabase { name, server: "this server".into() })
}

/// Returns the identity of a database on the session's server, by name.
pub(crate) async fn find(client: &Client, name: &str) -> Result<Option<Identity>, DbError> {
    let row = client
        .query_opt(
            "select (select system_identifier::text from pg_catalog.pg_control_system()), d.oid, d.datname::text,
                    current_setting('server_version_num')::int
             from pg_catalog.pg_database d where d.datname = $1",
            &[&name],
        )
        .await
        .needing(
            || format!("read the identity of {name}"),
            || "GRANT EXECUTE ON FUNCTION pg_control_system() TO the user".into(),
        )?;
    Ok(row.map(|row| Identity {
        system_identifier: row.get(0),
        oid: row.get(1),
        name: row.get(2),
        server_version_num: row.get::<_, i32>(3).unsigned_abs(),
    }))
}

/// Reads the mark of a database on the session's server.
///
/// # Errors
/// [`DbError::NoDatabase`], [`DbError::Privilege`].
pub async fn read_mark(client: &Client, database: &str) -> Result<MarkState, DbError> {
    let here = found(client, database).await?;
    let comment = comment(client, database).await?.unwrap_or_default();
    let mark = comment.lines().find_map(|line| serde_json::from_str::<Mark>(line.strip_prefix(PREFIX)?).ok());
    Ok(match mark {
        None => MarkState::Unmarked,
        Some(mark) if mark.oid == here.oid && mark.system_identifier == here.system_identifier => {
            MarkState::Marked(mark)
        }
        Some(mark) => MarkState::Copied(mark),
    })
}

/// What stands where a URL leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number that initdb gave the server's cluster.
    pub system_identifier: String,
    /// The database's oid; `None` when there is no database of that name.
    pub oid: Option<u32>,
    /// What its comment says; [`MarkState::Unmarked`] when there is none.
    pub mark: MarkState,
}

impl Place {
    /// Tells what a database of this app's environment is for, by its own mark.
    pub fn purpose(&self, app: &str, environment: &str) -> Option<Purpose> {
        let label = &self.mark.valid()?.label;
        (label.app == app && label.environment == environment).then_some(label.purpose)
    }
}

/// Looks which database stands where a target leads to, without a session on it.
///
/// # Errors
/// When the server cannot be reached; [`DbError::Privilege`].
pub async fn locate(database: &Database) -> Result<Place, DbError> {
    let client = database.maintenance().await?;
    let found = find(&client, &database.dbname).await?;
    let mark = match &found {
        Some(_) => read_mark(&client, &database.dbname).await?,
        None => MarkState::Unmarked,
    };
    let system_identifier = match &found {
        Some(found) => found.system_identifier.clone(),
        None => identity(&client).await?.system_identifier,
    };
    Ok(Place { system_identifier, oid: found.map(|found| found.oid), mark })
}

/// Sets the mark of a database on the session's server; the rest of its comment is kept.
///
/// # Errors
/// [`DbError::NoDatabase`]; [`DbError::Privilege`] when the user does not own the database.
pub async fn write_mark(client: &Client, database: &str, label: &Label) -> Result<Mark, DbError> {
    let here = found(client, database).await?;
    let mark = Mark {
        label: label.clone(),
        set_at: Timestamp::now(),
        system_identifier: here.system_identifier,
        oid: here.oid,
    };
    let json = serde_json::to_string(&mark).map_err(std::io::Error::from)?;
    let own = own_comment(client, database).await?;
    let lines = [own, Some(format!("{PREFIX}{json}"))];
    set_comment(client, database, Some(&lines.into_iter().flatten().collect::<Vec<_>>().join("\n"))).await?;
    Ok(mark)
}

/// Removes the mark of a database on the session's server; the rest of its comment is kept.
///
/// # Errors
/// As [`write_mark`].
pub async fn clear_mark(client: &Client, database: &str) -> Result<(), DbError> {
    let own = own_comment(client, database).await?;
    set_comment(client, database, own.as_deref()).await
}

/// Returns the database's comment without Piton's line.
pub(crate) async fn own_comment(client: &Client, database: &str) -> Result<Option<String>, DbError> {
    let comment = comment(client, database).await?.unwrap_or_default();
    let own: Vec<&str> = comment.lines().filter(|line| !line.starts_with(PREFIX)).collect();
    Ok((!own.is_empty()).then(|| own.join("\n")))
}

/// Replaces the people's part of a database's comment; the mark is kept.
pub(crate) async fn set_own_comment(
    client: &Client,
    database: &str,
    own: Option<&str>,
) -> Result<(), DbError> {
    let comment = comment(client, database).await?.unwrap_or_default();
    let mark = comment.lines().find(|line| line.starts_with(PREFIX));
    let lines: Vec<&str> = own.into_iter().chain(mark).collect();
    set_comment(client, database, (!lines.is_empty()).then(|| lines.join("\n")).as_deref()).await
}

async fn found(client: &Client, database: &str) -> Result<Identity, DbError> {
    find(client, database)
        .await?
        .ok_or_else(|| DbError::NoDatabase { name: database.to_owned(), server: "this server".into() })
}

async fn comment(client: &Client, database: &str) -> Result<Option<String>, DbError> {
    let row = client
        .query_opt(
            "select pg_catalog.shobj_description(oid, 'pg_database') from pg_catalog.pg_database where datname = $1",
            &[&database],
        )
        .await
        .doing(|| format!("read the comment on {database}"))?;
    Ok(row.and_then(|row| row.get(0)))
}

async fn set_comment(client: &Client, database: &str, text: Option<&str>) -> Result<(), DbError> {
    let text = text.map_or_else(|| "null".into(), quote::literal);
    let statement = format!("comment on database {} is {text}", quote::ident(database));
    client.batch_execute(&statement).await.needing(
        || format!("write the mark of {database}, which only its owner may"),
        || format!("ALTER DATABASE {} OWNER TO the user", quote::ident(database)),
    )
}

/// How two databases relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sameness {
    /// One database, whatever URLs led to it.
    Same,
    /// Equal identity on two servers: one is a physical copy or a standby of the other.
    PhysicalCopy,
    /// Two databases.
    Different,
}

/// Tells whether two targets are one and the same database, by asking both.
///
/// System identifier and oid have to be equal, and an advisory lock taken through one has to be seen through the other:
/// that tells one server under two names from a server and its physical copy.
///
/// # Errors
/// When one cannot be reached, or its identity not be read.
pub async fn same_database(a: &Database, b: &Database) -> Result<Sameness, DbError> {
    let (on_a, on_b) = (a.connect().await?, b.connect().await?);
    let (id_a, id_b) = (identity(&on_a).await?, identity(&on_b).await?);
    if id_a.system_identifier != id_b.system_identifier || id_a.oid != id_b.oid {
        return Ok(Sameness::Different);
    }
    let key = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.subsec_nanos());
    let lock = |step| move || format!("{step} an advisory lock");
    let pid: i32 = on_a
        .query_one(
            "select pg_catalog.pg_backend_pid() from pg_catalog.pg_advisory_lock(1886548079, $1)",
            &[&key.cast_signed()],
        )
        .await
        .doing(lock("take"))?
        .get(0);
    let seen: bool = on_b
        .query_one(
            "select exists (select from pg_catalog.pg_locks where locktype = 'advisory' and pid = $1
                            and classid = 1886548079 and objid = $2 and database = $3)",
            &[&pid, &key, &id_b.oid],
        )
        .await
        .doing(lock("look for"))?
        .get(0);
    Ok(if seen { Sameness::Same } else { Sameness::PhysicalCopy })
}
