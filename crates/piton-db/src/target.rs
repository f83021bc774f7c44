//! A database on a server: parsed from a URL, connected to, and named to libpq's tools.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use piton_exec::{Command, ExposeSecret, Secret};
use tokio_postgres::Client;
use tokio_postgres::config::Host;

use crate::error::SqlError;
use crate::tls::{self, SslMode};
use crate::{DbError, quote};

/// Settings that would change the text of a value; every session and tool that reads or writes rows pins them.
///
/// `lc_monetary` and `bytea_output` can be set per database, and pg_dump does not set them itself.
pub(crate) const PINNED: [(&str, &str); 7] = [
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("xmlbinary", "base64"),
];

/// One database and how to reach it.
///
/// Prints as `host:port/dbname as user`; the password is never printed.
#[derive(Clone, Debug)]
pub struct Database {
    /// The server's host name, or the folder of its Unix socket.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// The user to connect as.
    pub user: String,
    /// The database's name.
    pub dbname: String,
    /// Parameters of the URL that were left out because only an ORM knows them (`schema`, `pgbouncer`, ...).
    pub ignored: Vec<String>,
    password: Option<Secret>,
    options: Option<String>,
    ssl_mode: SslMode,
    ssl_roots: Option<PathBuf>,
}

/// URL parameters of Prisma, SQLAlchemy and pools; the server would refuse them.
const ORM_PARAMETERS: [&str; 12] = [
    "schema",
    "connection_limit",
    "pool_timeout",
    "pgbouncer",
    "socket_timeout",
    "statement_cache_size",
    "single_use_connections",
    "sslaccept",
    "sslidentity",
    "max_idle_connection_lifetime",
    "max_connection_lifetime",
    "pool_mode",
];

impl Database {
    /// Reads a `postgresql://user:password@host:port/dbname?...` URL.
    ///
    /// # Errors
    /// [`DbError::Url`] when host, user or database is missing, several hosts are named, or a parameter is unknown. The
    /// message never repeats the URL.
    pub fn parse(url: &Secret) -> Result<Self, DbError> {
        let url = url.expose_secret();
        if !(url.starts_with("postgresql://") || url.starts_with("postgres://")) {
            return Err(DbError::Url("it does not begin with postgresql://".into()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut kept, mut ignored) = (Vec::new(), Vec::new());
        let (mut ssl_mode, mut ssl_roots) = (SslMode::Prefer, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "sslmode" => ssl_mode = SslMode::parse(value)?,
                "sslrootcert" if value == "system" => ssl_roots = None,
                "sslrootcert" => ssl_roots = Some(PathBuf::from(decode(value)?)),
                "user" | "password" | "host" | "port" | "dbname" | "options" => kept.push(pair),
                // Our own name and limits take their place.
                "application_name" | "connect_timeout" | "fallback_application_name" => {}
                _ if ORM_PARAMETERS.contains(&name) => ignored.push(name.to_owned()),
                _ => return Err(DbError::Url(format!("its parameter {name} is not known"))),
            }
        }
        let config =
            tokio_postgres::Config::from_str(&format!("{base}?{}", kept.join("&"))).map_err(|_| {
                DbError::Url("it cannot be parsed; percent-encode special characters in the password".into())
            })?;
        let host = match config.get_hosts() {
            [Host::Tcp(name)] => name.clone(),
            [Host::Unix(dir)] => dir.display().to_string(),
            [] => return Err(DbError::Url("it names no host".into())),
            _ => return Err(DbError::Url("it names several hosts; name the primary alone".into())),
        };
        let password = match config.get_password().map(std::str::from_utf8) {
            Some(Ok(password)) => Some(Secret::from(password)),
            Some(Err(_)) => return Err(DbError::Url("its password is not UTF-8".into())),
            None => None,
        };
        let missing = |what| DbError::Url(format!("it names no {what}"));
        Ok(Self {
            host,
            port: config.get_ports().first().copied().unwrap_or(5432),
            user: config.get_user().ok_or_else(|| missing("user"))?.to_owned(),
            dbname: config.get_dbname().ok_or_else(|| missing("database"))?.to_owned(),
            ignored,
            password,
            options: config.get_options().map(str::to_owned),
            ssl_mode,
            ssl_roots,
        })
    }

    /// Returns another database of the same server, reached as the same user.
    #[must_use]
    pub fn with_name(&self, dbname: &str) -> Self {
        Self { dbname: dbname.to_owned(), ..self.clone() }
    }

    /// Returns `host:port`.
    pub fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Opens a session.
    ///
    /// # Errors
    /// [`DbError::Connect`], [`DbError::NoDatabase`] or [`DbError::Tls`].
    pub async fn connect(&self) -> Result<Session, DbError> {
        let mut config = tokio_postgres::Config::new();
        config
            .port(self.port)
            .user(&self.user)
            .dbname(&self.dbname)
            .application_name("piton")
            .connect_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(30))
            .keepalives_interval(Duration::from_secs(10))
            .keepalives_retries(3)
            .ssl_mode(self.ssl_mode.as_client());
        // A path is a socket folder to this method, as it is to libpq.
        config.host(&self.host);
        if let Some(password) = &self.password {
            config.password(password.expose_secret());
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        let tls = tls::connector(self.ssl_mode, self.ssl_roots.as_deref())?;
        let (client, connection) = config.connect(tls).await.map_err(|error| self.refused(error))?;
        let (alive, dropped) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                // An idle session says good-bye; one in the middle of a statement is cut off, for the server to notice.
                _ = dropped => tokio::time::timeout(GOOD_BYE, connection).await.unwrap_or(Ok(())),
            };
            // Every statement in flight gets the error as well.
            if let Err(error) = ended {
                tracing::debug!(%error, "database session ended");
            }
        });
        let client = Session { client, _alive: alive };
        notice_our_death(&client).await.map_err(|error| self.refused(error))?;
        Ok(client)
    }

    fn refused(&self, error: tokio_postgres::Error) -> DbError {
        match error.code() {
            Some(&tokio_postgres::error::SqlState::UNDEFINED_DATABASE) => {
                DbError::NoDatabase { name: self.dbname.clone(), server: self.server() }
            }
            _ => DbError::Connect { database: self.to_string(), source: SqlError(error) },
        }
    }

    /// Opens a session on the server's `postgres` database, or on `template1` where there is none, to create, rename or
    /// drop other databases.
    ///
    /// # Errors
    /// As [`Database::connect`].
    pub async fn maintenance(&self) -> Result<Session, DbError> {
        let session = match self.with_name("postgres").connect().await {
            Err(DbError::NoDatabase { .. }) => self.with_name("template1").connect().await?,
            other => other?,
        };
        // A limit meant for the app's queries must not cut off the copy of a database.
        session.batch_execute("set statement_timeout = 0").await.map_err(|error| self.refused(error))?;
        Ok(session)
    }

    /// Adds the connection as environment variables to a libpq tool's command; the password is secret.
    #[must_use]
    pub fn tool_env(&self, command: Command) -> Command {
        let options: Vec<String> =
            PINNED.iter().map(|(name, value)| format!("-c {name}={}", value.replace(' ', ""))).collect();
        let mut options = options.join(" ");
        if let Some(own) = &self.options {
            options = format!("{own} {options}");
        }
        let mut command = command
            .env("PGHOST", &self.host)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", &self.user)
            .env("PGDATABASE", &self.dbname)
            .env("PGSSLMODE", self.ssl_mode.as_libpq())
            .env("PGAPPNAME", "piton")
            .env("PGCONNECT_TIMEOUT", "10")
            .env("PGTZ", "UTC")
            .env("PGCLIENTENCODING", "UTF8")
            .env("PGOPTIONS", options);
        if self.ssl_mode == SslMode::VerifyFull {
            // libpq knows `system` only since 16; Debian's bundle serves every version.
            let bundle = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");
            let system = if bundle.exists() { bundle } else { PathBuf::from("system") };
            command = command
                .env("PGSSLROOTCERT", self.ssl_roots.as_ref().unwrap_or(&system).display().to_string());
        }
        match &self.password {
            Some(password) => command.secret_env("PGPASSWORD", password.clone()),
            None => command,
        }
    }
}

/// How long a dropped session may take to say good-bye.
const GOOD_BYE: Duration = Duration::from_millis(100);

/// A session on a database, used as its [`Client`]; dropping it ends it together with the statement that it runs.
///
/// The server ends the statement within a second of our death as well, so that a killed migration does not go on alone
/// (PostgreSQL 14 and newer; older servers notice at the statement's end).
#[derive(Debug)]
pub struct Session {
    client: Client,
    _alive: tokio::sync::oneshot::Sender<()>,
}

impl std::ops::Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// Lets the server look every second whether we still live; 13 and older cannot.
pub(crate) async fn notice_our_death(client: &Client) -> Result<(), tokio_postgres::Error> {
    client
        .batch_execute(
            "select pg_catalog.set_config('client_connection_check_interval', '1s', false)
             where pg_catalog.current_setting('server_version_num')::int >= 140000",
        )
        .await
}

/// Pins every setting that changes the text of a value, and makes names come out fully qualified.
pub(crate) async fn pin(client: &Client) -> Result<(), DbError> {
    use crate::error::Doing;
    let mut sql = String::from("set search_path = ''; set row_security = off; set statement_timeout = 0;");
    for (name, value) in PINNED {
        sql.push_str(&format!("set {name} = {};", quote::literal(value)));
    }
    client.batch_execute(&sql).await.doing(|| "pin the session's settings".into())
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{} as {}", self.host, self.port, self.dbname, self.user)
    }
}

fn decode(value: &str) -> Result<String, DbError> {
    percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| DbError::Url("a parameter is not UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Database, DbError> {
        Database::parse(&Secret::from(url))
    }

    #[test]
    fn prisma_parameters_are_left_out_and_said() {
        let db = parse(
            "postgresql://app:p%40ss@db.example:6432/shop?schema=public&connection_limit=5&sslmode=require",
        )
        .unwrap();
        assert_eq!(db.to_string(), "db.example:6432/shop as app");
        assert_eq!(db.ignored, ["schema", "connection_limit"]);
        assert_eq!(db.password.unwrap().expose_secret(), "p@ss");
        assert_eq!(db.ssl_mode, SslMode::Require);
    }

    #[test]
    fn a_socket_folder_is_a_host() {
        let db = parse("postgresql://app@/shop?host=/var/run/postgresql").unwrap();
        assert_eq!((db.host.as_str(), db.port), ("/var/run/postgresql", 5432));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for url in [
            "mysql://u:hunter2@h/d",
            "postgresql://u:hunter2@h",
            "postgresql://h/d",
            "postgresql://u:hunter2@a,b/d",
            "postgresql://u:hunter2@h/d?sslmode=verify-ca",
            "postgresql://u:hunter2@h/d?colour=red",
            "postgresql://u:hunter2%@h:99999999/d",
        ] {
            let error = parse(url).unwrap_err();
            assert!(matches!(error, DbError::Url(_)));
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_printed_command_hides_the_password() {
        let db = parse("postgresql://app:hunter2@h/shop").unwrap();
        let command = db.tool_env(Command::new("pg_dump"));
        assert!(command.to_string().contains("PGPASSWORD=•••"));
        assert!(!format!("{command} {command:?} {db:?}").contains("hunter2"));
    }
}
