//! A database on a server: parsed from a URL, connected to, and named to libpq's tools.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use piton_exec::{Command, ExposeSecret, Secret};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::SqlError;
use crate::tls::{self, SslMode};
use crate::{DbError, quote, tools};

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

/// Lets the server find out by itself that the other side is gone without a word: a host, a network, a closed laptop.
///
/// The kernel's own keepalive takes two hours, for which every lock would stand. No effect on Unix sockets.
pub(crate) const KEEPALIVES: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")];

/// How long what the server sent may stay without an answer, in milliseconds; it takes the keepalives' count's place as well.
///
/// Not for the tools: a dump that waits for a slow disk is not dead.
const ANSWER_WITHIN: (&str, &str) = ("tcp_user_timeout", "30000");

/// How long a session that holds locks which others wait for may be silent within its transaction.
pub(crate) const SILENCE: &str = "30s";

/// What must be escaped in a part of a URL: all but the unreserved characters.
const PLAIN: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The same for a path in a parameter, whose slashes end nothing there.
const PATH: &percent_encoding::AsciiSet = &PLAIN.remove(b'/');

/// What a session sets once it is there, as far as the server knows it (13 and older do not look for our death).
///
/// The limits that a role or a database has are meant for the app's queries; a proof and an undo take as long as they take.
const SESSION: [(&str, &str); 6] = [
    NOTICE_OUR_DEATH,
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
];

/// Lets the server look every second whether we still live, while it runs a statement.
const NOTICE_OUR_DEATH: (&str, &str) = ("client_connection_check_interval", "1s");

/// What a migrating session sets again after a `RESET ALL`.
const MIGRATING: [(&str, &str); 3] = [
    NOTICE_OUR_DEATH,
    ("idle_in_transaction_session_timeout", SILENCE),
    // Between two attempts it waits outside of a transaction.
    ("idle_session_timeout", "0"),
];

/// The name by which the server lists our sessions.
pub(crate) const APPLICATION: &str = "piton";

/// The setting by which a session is known to be the one that our startup options opened.
pub(crate) const OWN: &str = "piton.session";

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
    password: Option<Secret>,
    /// The password as the URL spells it.
    spelled: Option<Secret>,
    options: Option<String>,
    ssl_mode: SslMode,
    ssl_roots: Option<PathBuf>,
    /// Parameters of the URL that are meant for the app's own driver, as they are written there.
    drivers: Vec<String>,
    /// Whether the URL has these parameters itself.
    names_ssl: bool,
    names_options: bool,
}

/// What a tool's URL tells beside the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UrlTells {
    /// What the environment's own URL does, with which the app's drivers get along; the rest stands in libpq's variables.
    AsGiven,
    /// TLS and the settings in any case, for a driver that may not read these variables.
    Everything,
}

/// URL parameters of Prisma, SQLAlchemy and pools that say nothing about the server, which would refuse them.
const ORM_PARAMETERS: [&str; 10] = [
    "connection_limit",
    "pool_timeout",
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
    /// Prisma's `schema` becomes the sessions' search path, as it does there.
    ///
    /// # Errors
    /// [`DbError::Pooler`] with Prisma's `pgbouncer=true`; [`DbError::Url`] when host, user or database is missing, several hosts are named, or a parameter is unknown. The
    /// message never repeats the URL.
    pub fn parse(url: &Secret) -> Result<Self, DbError> {
        let url = url.expose_secret();
        if !(url.starts_with("postgresql://") || url.starts_with("postgres://")) {
            return Err(DbError::Url("it does not begin with postgresql://".into()));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut kept, mut schema) = (Vec::new(), None);
        let mut drivers = Vec::new();
        let (mut ssl_mode, mut ssl_roots) = (SslMode::Prefer, None);
        let (mut names_ssl, mut names_options) = (false, false);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            names_ssl |= name == "sslmode";
            names_options |= name == "options";
            match name {
                "sslmode" => ssl_mode = SslMode::parse(value)?,
                "sslrootcert" if value == "system" => ssl_roots = None,
                "sslrootcert" => ssl_roots = Some(PathBuf::from(decode(value)?)),
                "user" | "password" | "host" | "port" | "dbname" | "options" => kept.push(pair),
                // Our own name and limits take their place.
                "application_name" | "connect_timeout" | "fallback_application_name" => {}
                "schema" => {
                    schema = Some(decode(value)?).filter(|schema| !schema.is_empty());
                    drivers.push(pair.to_owned());
                }
                "pgbouncer" if value == "true" => {
                    return Err(DbError::Pooler { why: "it says pgbouncer=true".into() });
                }
                "pgbouncer" => {}
                _ if ORM_PARAMETERS.contains(&name) => drivers.push(pair.to_owned()),
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
        let spelled = password.as_ref().and_then(|password| spelled(base, password.expose_secret()));
        let mut options: Vec<String> = config.get_options().map(str::to_owned).into_iter().collect();
        options.extend(schema.map(|schema| option("search_path", &quote::ident(&schema))));
        let missing = |what| DbError::Url(format!("it names no {what}"));
        Ok(Self {
            host,
            port: config.get_ports().first().copied().unwrap_or(5432),
            user: config.get_user().ok_or_else(|| missing("user"))?.to_owned(),
            dbname: config.get_dbname().ok_or_else(|| missing("database"))?.to_owned(),
            password,
            spelled,
            options: (!options.is_empty()).then(|| options.join(" ")),
            ssl_mode,
            ssl_roots,
            drivers,
            names_ssl,
            names_options,
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

    /// Opens a session, without the limits that the role or the database sets for the app's queries.
    ///
    /// Its settings go along as startup options, so that nothing is ever set on a session that a pooler lends to others.
    ///
    /// # Errors
    /// [`DbError::Connect`], [`DbError::NoDatabase`], [`DbError::Tls`]; [`DbError::Pooler`] when it is not the server that answers.
    pub async fn connect(&self) -> Result<Session, DbError> {
        let mut config = tokio_postgres::Config::new();
        config
            .port(self.port)
            .user(&self.user)
            .dbname(&self.dbname)
            .application_name(APPLICATION)
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
        let own = own_value();
        let options = KEEPALIVES.into_iter().chain([ANSWER_WITHIN, (OWN, own.as_str())]);
        config.options(self.with_options(options));
        let (client, connection) = config.connect(self.tls()?).await.map_err(|error| self.refused(error))?;
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
        let set = format!("{} and pg_catalog.current_setting('{OWN}', true) = '{own}'", set_known(&SESSION));
        let answered = client.simple_query(&set).await.map_err(|error| self.refused(error))?;
        if !answered.iter().any(|message| matches!(message, SimpleQueryMessage::Row(_))) {
            return Err(DbError::Pooler { why: format!("{self} takes startup options and drops them") });
        }
        Ok(client)
    }

    /// Returns the password, when the URL has one.
    pub(crate) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Returns how much TLS is wanted.
    pub(crate) fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    /// Returns the connector for TLS as the URL wants it.
    pub(crate) fn tls(&self) -> Result<MakeRustlsConnect, DbError> {
        tls::connector(self.ssl_mode, self.ssl_roots.as_deref())
    }

    /// Returns the URL's own startup options and further ones, which win.
    pub(crate) fn with_options<'a>(&self, further: impl Iterator<Item = (&'a str, &'a str)>) -> String {
        let further = further.map(|(name, value)| option(name, value));
        self.options.iter().cloned().chain(further).collect::<Vec<_>>().join(" ")
    }

    fn refused(&self, error: tokio_postgres::Error) -> DbError {
        match error.code() {
            Some(&tokio_postgres::error::SqlState::UNDEFINED_DATABASE) => {
                DbError::NoDatabase { name: self.dbname.clone(), server: self.server() }
            }
            // No server says so.
            _ if error.as_db_error().is_some_and(|said| said.message().contains(NO_OPTIONS)) => {
                DbError::Pooler { why: format!("{self} answers: {}", SqlError(error)) }
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
        match self.with_name("postgres").connect().await {
            Err(DbError::NoDatabase { .. }) => self.with_name("template1").connect().await,
            other => other,
        }
    }

    /// Builds a call of one of PostgreSQL's client programs on this database, as a person would type it: it asks for the password.
    #[must_use]
    pub fn by_hand(&self, program: &str) -> Command {
        let port = self.port.to_string();
        Command::new(program).args(["-h", &self.host, "-p", &port, "-U", &self.user, &self.dbname])
    }

    /// Returns a database of the same name for drivers in a place where nobody has one.
    pub(crate) fn elsewhere(&self, port: u16, dbname: &str) -> Self {
        let host = "127.0.0.1".to_owned();
        let (dbname, ssl_mode) = (dbname.to_owned(), SslMode::Disable);
        Self { host, port, dbname, ssl_mode, ssl_roots: None, ..self.clone() }
    }

    /// Says whether TLS is used, in place of "when the server offers it", which not every driver knows.
    pub(crate) async fn with_exact_ssl(&self, client: &Client) -> Result<Self, DbError> {
        use crate::error::Doing;
        if self.ssl_mode != SslMode::Prefer {
            return Ok(self.clone());
        }
        let row = client
            .query_opt("select ssl from pg_catalog.pg_stat_ssl where pid = pg_catalog.pg_backend_pid()", &[])
            .await
            .doing(|| "see whether TLS is used".into())?;
        let used = row.is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true));
        Ok(Self { ssl_mode: if used { SslMode::Require } else { SslMode::Disable }, ..self.clone() })
    }

    /// Returns the URL, with the password.
    pub fn url(&self) -> Secret {
        self.tool_url(&[], UrlTells::AsGiven)
    }

    /// Returns the URL for a tool of the app's, with what its driver is told in the environment's URL and further settings.
    ///
    /// Where the environment's URL needs no percent sign, this one has none: Python's `ConfigParser` takes it for its own.
    pub(crate) fn tool_url(&self, settings: &[(&str, &str)], tells: UrlTells) -> Secret {
        let mut url = format!("postgresql://{}", in_url(&self.user));
        if let Some(password) = &self.password {
            let spelled = self.spelled.as_ref().map(|spelled| spelled.expose_secret().to_owned());
            url.push_str(&format!(":{}", spelled.unwrap_or_else(|| in_url(password.expose_secret()))));
        }
        let is_socket = self.host.starts_with('/');
        let place = match is_socket {
            // Drivers take a port alone for another host.
            true => String::new(),
            false if self.host.contains(':') => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        };
        url.push_str(&format!("@{place}/{}", in_url(&self.dbname)));
        let path = |path: &str| percent_encoding::utf8_percent_encode(path, PATH).to_string();
        let mut parameters = self.drivers.clone();
        if is_socket {
            parameters.push(format!("host={}", path(&self.host)));
            parameters.push(format!("port={}", self.port));
        }
        if self.names_ssl || tells == UrlTells::Everything {
            parameters.push(format!("sslmode={}", self.ssl_mode.as_libpq()));
        }
        if let Some(roots) = &self.ssl_roots {
            parameters.push(format!("sslrootcert={}", path(&roots.display().to_string())));
        }
        // In a URL they take the place of those in `PGOPTIONS`.
        let options = self.with_options(settings.iter().copied());
        if !options.is_empty() && (self.names_options || tells == UrlTells::Everything) {
            parameters.push(format!("options={}", in_url(&options)));
        }
        if !parameters.is_empty() {
            url.push_str(&format!("?{}", parameters.join("&")));
        }
        Secret::from(url)
    }

    /// Adds the connection as environment variables to a migration tool's command, with further settings.
    #[must_use]
    pub(crate) fn migrating_env(
        &self,
        command: Command,
        settings: &[(&str, &str)],
        session: &str,
    ) -> Command {
        let options = self.with_options(settings.iter().copied().chain(KEEPALIVES));
        self.connection_env(command, session, &[], options)
    }

    /// Adds the connection as environment variables to a libpq tool's command; the password is secret.
    ///
    /// None of libpq's variables is taken over from the caller's environment: `PGHOSTADDR` or `PGSERVICE` would lead elsewhere.
    /// Nor is its language, by which a tool's complaints are told from rows.
    #[must_use]
    pub fn tool_env(&self, command: Command) -> Command {
        let pinned = PINNED.map(|(name, value)| (name, value.replace(' ', "")));
        let pinned = pinned.iter().map(|(name, value)| (*name, value.as_str()));
        let options = self.with_options(pinned.chain(KEEPALIVES));
        let text = [("PGTZ", "UTC"), ("PGCLIENTENCODING", "UTF8")];
        self.connection_env(tools::in_english(command.without_env("PG")), "piton", &text, options)
    }

    /// Returns the name as an argument: what has an equals sign in it, or begins as a URL does, libpq would take apart.
    pub(crate) fn name_for_libpq(&self) -> Cow<'_, str> {
        let name = &self.dbname;
        if name.contains('=') || name.contains("://") {
            let escaped = name.replace('\\', "\\\\").replace('\'', "\\'");
            return format!("dbname='{escaped}'").into();
        }
        name.into()
    }

    fn connection_env(
        &self,
        command: Command,
        session: &str,
        further: &[(&str, &str)],
        options: String,
    ) -> Command {
        let mut command = command
            .env("PGHOST", &self.host)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", &self.user)
            .env("PGDATABASE", &self.dbname)
            .env("PGSSLMODE", self.ssl_mode.as_libpq())
            .env("PGAPPNAME", session)
            .env("PGCONNECT_TIMEOUT", "10");
        for (name, value) in further {
            command = command.env(*name, *value);
        }
        command = command.env("PGOPTIONS", options);
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

/// How pgbouncer refuses startup options, or those that it does not follow.
pub(crate) const NO_OPTIONS: &str = "unsupported startup parameter";

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

/// Sets anew what a `RESET ALL` has taken from a migrating session.
pub(crate) async fn set_for_migrating(client: &Client) -> Result<(), tokio_postgres::Error> {
    let (name, value) = crate::capture::triggers::MIGRATING;
    client.batch_execute(&format!("{}; set {name} = {value}", set_known(&MIGRATING))).await
}

/// Returns the statement that sets those settings which the server knows; a condition may follow.
fn set_known(settings: &[(&str, &str)]) -> String {
    let values: Vec<String> = settings.iter().map(|(name, value)| format!("('{name}', '{value}')")).collect();
    format!(
        // Not pg_settings, which makes hundreds of rows each time.
        "select pg_catalog.set_config(name, value, false)
         from (values {}) s(name, value) where pg_catalog.current_setting(name, true) is not null",
        values.join(", ")
    )
}

/// Returns a startup option; blanks would end its value, backslashes take the next character as it is.
fn option(name: &str, value: &str) -> String {
    format!("-c {name}={}", value.replace('\\', "\\\\").replace(' ', "\\ "))
}

/// Returns a value that no other session has for [`OWN`].
pub(crate) fn own_value() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
    format!("{}.{now}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Pins every setting that changes the text of a value, and makes names come out fully qualified.
pub(crate) async fn pin(client: &Client) -> Result<(), DbError> {
    use crate::error::Doing;
    // The catalogue's listing is long and runs once: with many objects its compilation takes seconds.
    let mut sql = String::from(
        "set search_path = ''; set row_security = off; set statement_timeout = 0; set jit = off;",
    );
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

/// Returns a text as a part of a URL.
pub fn in_url(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, PLAIN).to_string()
}

/// Returns the password as it stands before a URL's host; `None` where it stands elsewhere.
fn spelled(base: &str, password: &str) -> Option<Secret> {
    let (user, _) = base.split_once("://")?.1.split_once('@')?;
    let (_, spelled) = user.split_once(':')?;
    decode(spelled).is_ok_and(|decoded| decoded == password).then(|| Secret::from(spelled))
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
    fn prismas_parameters_are_understood_or_left_out() {
        let db = parse(
            "postgresql://app:p%40ss@db.example:6432/shop?schema=My%20App&connection_limit=5&pgbouncer=false&sslmode=require",
        )
        .unwrap();
        assert_eq!(db.to_string(), "db.example:6432/shop as app");
        assert_eq!(db.options.as_deref(), Some(r#"-c search_path="My\ App""#));
        assert_eq!(db.password.unwrap().expose_secret(), "p@ss");
        assert_eq!(db.ssl_mode, SslMode::Require);
    }

    #[test]
    fn a_tools_url_leads_to_the_same_place() {
        let db = parse(
            "postgresql://app:p%40ss@db.example:6432/shop?schema=My%20App&connection_limit=5&sslmode=require",
        );
        let db = db.unwrap().with_name("shop copy");
        let url = db.tool_url(&[("lock_timeout", "2000")], UrlTells::Everything);
        assert_eq!(
            url.expose_secret(),
            "postgresql://app:p%40ss@db.example:6432/shop%20copy?schema=My%20App&connection_limit=5&sslmode=require\
             &options=-c%20search_path%3D%22My%5C%20App%22%20-c%20lock_timeout%3D2000"
        );
        let again = Database::parse(&url).unwrap();
        assert_eq!(again.to_string(), "db.example:6432/shop copy as app");
        let socket = parse("postgresql://app@/shop?host=/var/run/postgresql&port=5433").unwrap().url();
        assert_eq!(Database::parse(&socket).unwrap().to_string(), "/var/run/postgresql:5433/shop as app");
    }

    #[test]
    fn a_tools_url_has_no_percent_sign_that_the_environments_has_not() {
        let limit = [("lock_timeout", "2000")];
        for plain in [
            "postgresql://app:S3cr!t$word@db.example:6432/shop",
            "postgresql://app:S3cr!t$word@db.example:6432/shop?sslmode=require&sslrootcert=/etc/ca.pem",
            "postgresql://app:x@/shop?host=/var/run/postgresql&port=5433",
        ] {
            let db = parse(plain).unwrap();
            assert_eq!(db.tool_url(&limit, UrlTells::AsGiven).expose_secret(), plain);
        }
        // What the URL says of these counts more than the variables: the limit has to stand there.
        let db = parse("postgresql://app@h/shop?options=-c%20role%3Downer&sslmode=require").unwrap();
        let url = db.elsewhere(7, "probe").tool_url(&limit, UrlTells::AsGiven);
        let wanted = "postgresql://app@127.0.0.1:7/probe?sslmode=disable&options=-c%20role%3Downer%20-c%20lock_timeout%3D2000";
        assert_eq!(url.expose_secret(), wanted);
    }

    #[test]
    fn a_pooler_that_is_named_as_one_is_refused() {
        let refused = parse("postgresql://app@db.example:6543/shop?pgbouncer=true&connection_limit=1");
        assert!(matches!(refused, Err(DbError::Pooler { .. })));
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
