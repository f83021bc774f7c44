use std::fmt;
use std::path::PathBuf;

use tokio_postgres::error::SqlState;

/// Why work on a database did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The URL names no database that Piton can reach.
    #[error("the database URL is not usable: {0}")]
    Url(String),
    /// The server did not let us in.
    #[error("no session on {database}")]
    Connect {
        /// `host:port/dbname as user`.
        database: String,
        /// The server's or the network's reason.
        #[source]
        source: SqlError,
    },
    /// The URL leads to a connection pooler.
    #[error("the database URL leads to a connection pooler and not to the server itself: {why}")]
    Pooler {
        /// How it is known.
        why: String,
    },
    /// TLS could not be set up.
    #[error("TLS for the database is not usable: {0}")]
    Tls(String),
    /// A statement failed.
    #[error("could not {doing}")]
    Sql {
        /// What was wanted, as an infinitive: `read the identity mark of shop`.
        doing: String,
        /// The server's reason.
        #[source]
        source: SqlError,
    },
    /// The user lacks a privilege.
    #[error("could not {doing}: the user lacks a privilege. As a superuser: {mend}")]
    Privilege {
        /// What was wanted, as an infinitive.
        doing: String,
        /// The statement that mends it.
        mend: String,
        /// The server's reason.
        #[source]
        source: SqlError,
    },
    /// The server's log could not be read.
    #[error("could not {doing}: {said}")]
    Replication {
        /// What was wanted, as an infinitive: `read the log of h:5432/shop as app`.
        doing: String,
        /// The server's reason, or what is wrong with what it sent.
        said: String,
        /// The server's error code, when the server spoke.
        code: Option<SqlState>,
    },
    /// No such database on the server.
    #[error("there is no database {name} on {server}")]
    NoDatabase {
        /// The database's name.
        name: String,
        /// `host:port`.
        server: String,
    },
    /// A name that PostgreSQL would cut off.
    #[error("the database name {name} has {} bytes; PostgreSQL keeps 63", name.len())]
    NameTooLong {
        /// The name.
        name: String,
    },
    /// A database that Piton did not make stands where one is to be made.
    #[error("a database {name} is there already and does not carry the mark of what was to be made: {found}")]
    NameTaken {
        /// The name.
        name: String,
        /// What it is, in words.
        found: String,
    },
    /// A destructive statement was to run against a database that Piton did not make.
    #[error("{name} is not dropped: {found}. If it is to go: DROP DATABASE {quoted}", quoted = crate::quote::ident(name))]
    NotMade {
        /// The database's name.
        name: String,
        /// What it is, in words.
        found: String,
    },
    /// Sessions stand in the way.
    #[error("{name} is in use by {}", sessions.join("; "))]
    InUse {
        /// The database's name.
        name: String,
        /// Each session in words.
        sessions: Vec<String>,
    },
    /// A mask does not fit the database.
    #[error("the mask does not fit the database: {}", crate::mask::Problems(problems))]
    Mask {
        /// In what.
        problems: Vec<crate::mask::Problem>,
    },
    /// A client program for this server is missing.
    #[error(
        "{program} is needed and was not found; Debian and Ubuntu: apt-get install postgresql-client-{major}"
    )]
    ToolMissing {
        /// `pg_dump` or `pg_restore`.
        program: &'static str,
        /// The server's major version.
        major: u32,
    },
    /// The client programs found are older than the server.
    #[error(
        "the server is PostgreSQL {server}, {program} is {found} and refuses newer servers; Debian and Ubuntu: apt-get install postgresql-client-{server}"
    )]
    ToolTooOld {
        /// `pg_dump` or `pg_restore`.
        program: &'static str,
        /// The server's major version.
        server: u32,
        /// The newest major version found.
        found: u32,
    },
    /// A client program failed.
    #[error(transparent)]
    Tool(#[from] piton_exec::ExecError),
    /// A file could not be used.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A store of backups could not be used.
    #[error("could not {doing} {place}: {why}")]
    Store {
        /// What was wanted, as an infinitive: `read`.
        doing: &'static str,
        /// The store, such as `s3://bucket/prefix`.
        place: String,
        /// The server's or the network's reason.
        why: String,
        /// Whether the key may not do it.
        denied: bool,
    },
    /// A file in a store is not as the manifest has it.
    #[error("in {place}, {damage}")]
    Damaged {
        /// The backup, such as `s3://bucket/prefix/ID`.
        place: String,
        /// Which file, and how.
        damage: crate::manifest::Damage,
    },
    /// The folder is not a finished backup.
    #[error("{} is not a finished backup: it has no manifest.json", dir.display())]
    NoManifest {
        /// The folder.
        dir: PathBuf,
    },
    /// The manifest was altered or is of another format.
    #[error("{} is not a manifest that can be trusted: {why}", file.display())]
    BadManifest {
        /// The manifest's path.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The folder holds files that Piton did not write.
    #[error("{} holds files and no mark that Piton made it; name an empty or new folder", dir.display())]
    ForeignFolder {
        /// The folder.
        dir: PathBuf,
    },
    /// A file of the dump is not what pg_dump writes.
    #[error("{} is not readable as a table's rows: {why}", file.display())]
    BadDump {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The tables changed under each attempt at a snapshot.
    #[error(
        "no stable snapshot in {attempts} attempts: tables were created or dropped meanwhile; stop what alters the schema and try again"
    )]
    SchemaMoves {
        /// How often it was tried.
        attempts: u32,
    },
    /// A write of the live database cannot be carried back.
    #[error("the golden copy cannot follow: {0}")]
    Replay(String),
    /// The databases are not in a state that a swap starts from or ends in.
    #[error("no swap: {0}")]
    Swap(String),
    /// A migration cannot be run as its folder and its record stand.
    #[error(transparent)]
    Migration(#[from] crate::migrate::MigrationError),
}

impl DbError {
    /// Returns the server's error code when a statement failed.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Connect { source, .. } | Self::Sql { source, .. } | Self::Privilege { source, .. } => {
                source.code()
            }
            Self::Replication { code, .. } => code.as_ref(),
            _ => None,
        }
    }

    /// Tells whether a restore failed because of the rows themselves: they break a constraint, or do not fit their column.
    pub fn is_of_rows(&self) -> bool {
        match self {
            Self::Tool(piton_exec::ExecError::Failed { output, .. }) => {
                crate::tools::rows_refused(&output.stderr)
            }
            _ => false,
        }
    }
}

/// What of the surroundings failed, and not the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The session is gone, or the server does not go on.
    Away,
    /// The server has no disk, memory or connection left.
    Room,
}

impl Trouble {
    /// Tells what of the surroundings made a statement fail, by the class of the server's error; `None` when it was the statement.
    pub fn of(error: &tokio_postgres::Error) -> Option<Self> {
        let Some(code) = error.code() else {
            // The server did not speak: the connection ended, or what came over it was no answer.
            return Some(Self::Away);
        };
        match code.code().get(..3)? {
            class if class.starts_with("08") || class.starts_with("58") || class == "57P" => Some(Self::Away),
            class if class.starts_with("53") => Some(Self::Room),
            _ => None,
        }
    }
}

/// What the server or the connection to it said, in one line.
#[derive(Debug)]
pub struct SqlError(pub(crate) tokio_postgres::Error);

impl SqlError {
    /// Returns the server's error code, when the server spoke.
    pub fn code(&self) -> Option<&SqlState> {
        self.0.code()
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(said) = self.0.as_db_error() {
            f.write_str(said.message())?;
            for more in [said.detail(), said.hint()].into_iter().flatten() {
                write!(f, "; {more}")?;
            }
            return write!(f, " ({})", said.code().code());
        }
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(&self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for SqlError {}

/// Names what was wanted when a statement failed.
pub(crate) trait Doing<T> {
    /// Completes `could not ...`.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, DbError>;

    /// As `doing`; a missing privilege is told apart, with the statement that mends it.
    fn needing(self, what: impl FnOnce() -> String, mend: impl FnOnce() -> String) -> Result<T, DbError>;
}

impl<T> Doing<T> for Result<T, tokio_postgres::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, DbError> {
        self.map_err(|error| DbError::Sql { doing: what(), source: SqlError(error) })
    }

    fn needing(self, what: impl FnOnce() -> String, mend: impl FnOnce() -> String) -> Result<T, DbError> {
        self.map_err(|error| match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                DbError::Privilege { doing: what(), mend: mend(), source: SqlError(error) }
            }
            _ => DbError::Sql { doing: what(), source: SqlError(error) },
        })
    }
}

/// Returns the error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
