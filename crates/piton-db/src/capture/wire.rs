//! A session that speaks the replication protocol, which tokio-postgres does not.

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use fallible_iterator::FallibleIterator as _;
use piton_exec::ExposeSecret as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{
    AuthenticationSaslBody, DataRowBody, ErrorResponseBody, Header, Message,
};
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use crate::target::{KEEPALIVES, NO_OPTIONS, OWN, PINNED, own_value};
use crate::tls::SslMode;
use crate::{Database, DbError};

/// How long the server may take to accept a connection, and then to let us in.
const LET_IN_WITHIN: Duration = Duration::from_secs(10);

/// How long what we sent may stay without a sign that it arrived.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

/// The least that is read at once.
const CHUNK: usize = 64 * 1024;

/// The most room that is made at once for a message that the server only says is coming.
const ROOM: usize = 8 * 1024 * 1024;

/// The answer to `START_REPLICATION`: from here on both sides send.
const COPY_BOTH_TAG: u8 = b'W';

/// What the app's own limits would end, and what would change a value's text or a type's name, besides [`PINNED`].
const FURTHER: [(&str, &str); 7] = [
    ("search_path", ""),
    ("quote_all_identifiers", "off"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    // A reader that was stopped and is ended by the server keeps its checkpoints waiting until it takes what was sent: it is given
    // up before that may come.
    ("wal_sender_timeout", "15s"),
    // One that is ended while it waits does not look at that any more.
    ("tcp_user_timeout", "15s"),
];

/// Why the server does not go on.
#[derive(Debug)]
pub(super) struct Refusal {
    said: String,
    pub(super) code: Option<SqlState>,
}

impl Refusal {
    pub(super) fn new(said: impl Into<String>) -> Self {
        Self { said: said.into(), code: None }
    }

    /// Puts message, detail, hint and code into one line, as `SqlError` does.
    pub(super) fn of(body: &ErrorResponseBody) -> Self {
        let (mut said, mut further, mut code) = (String::new(), Vec::new(), None);
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes());
            match field.type_() {
                b'C' => code = Some(SqlState::from_code(&value)),
                b'M' => said = value.into_owned(),
                b'D' | b'H' => further.push(value.into_owned()),
                _ => {}
            }
        }
        for more in further {
            said.push_str("; ");
            said.push_str(&more);
        }
        if let Some(code) = &code {
            said.push_str(&format!(" ({})", code.code()));
        }
        Self { said, code }
    }

    pub(super) fn while_doing(self, doing: impl Into<String>) -> DbError {
        DbError::Replication { doing: doing.into(), said: self.said, code: self.code }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

fn unexpected() -> Refusal {
    Refusal::new("the server's answer belongs to no question")
}

/// A connection, whatever lies beneath.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A session for replication on one database.
pub(super) struct Wire {
    io: Box<dyn Io>,
    /// What has come and was not looked at yet.
    pub(super) read: BytesMut,
    /// Whether it has held a message that was so large that its room is given back.
    grown: bool,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("unread", &self.read.len()).finish_non_exhaustive()
    }
}

impl Wire {
    /// Opens a session in which values have the text that they have everywhere else here.
    pub(super) async fn open(database: &Database) -> Result<Self, DbError> {
        let io = connect(database).await?;
        let mut wire = Self { io, read: BytesMut::with_capacity(CHUNK), grown: false };
        let own = own_value();
        let let_in = async {
            wire.start_up(database, &own).await?;
            wire.query(&format!("select pg_catalog.current_setting('{OWN}', true)")).await
        };
        let answered = match timeout(LET_IN_WITHIN, let_in).await {
            Ok(answered) => answered.map_err(|why| refused(database, why))?,
            Err(_) => return Err(refused(database, Refusal::new("the server does not answer"))),
        };
        if answered != [vec![Some(own)]] {
            return Err(DbError::Pooler { why: format!("{database} takes startup options and drops them") });
        }
        Ok(wire)
    }

    async fn start_up(&mut self, database: &Database, own: &str) -> Result<(), Refusal> {
        // No limit on how long what it sent may stay unread: whoever replays may be slower than the app writes.
        let settings = PINNED.into_iter().chain(FURTHER).chain(KEEPALIVES).chain([(OWN, own)]);
        let options = database.with_options(settings);
        let parameters = [
            ("user", database.user.as_str()),
            ("database", &database.dbname),
            ("replication", "database"),
            ("application_name", "piton"),
            ("client_encoding", "UTF8"),
            ("options", &options),
        ];
        self.send(|buf| frontend::startup_message(parameters, buf)).await?;
        self.authenticate(database).await?;
        loop {
            match self.message().await? {
                // The log's text is sent as the server has it, whatever the client's encoding is.
                Message::ParameterStatus(body) if body.name()? == "server_encoding" => {
                    let encoding = body.value()?;
                    if encoding != "UTF8" {
                        return Err(Refusal::new(format!("the database's encoding is {encoding}, not UTF8")));
                    }
                }
                Message::BackendKeyData(_) | Message::ParameterStatus(_) | Message::NoticeResponse(_) => {}
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => return Err(Refusal::of(&body)),
                _ => return Err(unexpected()),
            }
        }
    }

    async fn authenticate(&mut self, database: &Database) -> Result<(), Refusal> {
        let password = || match database.password() {
            Some(password) => Ok(password.expose_secret().as_bytes()),
            None => Err(Refusal::new("the server asks for a password, and the URL has none")),
        };
        match self.message().await? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => {
                let password = password()?;
                self.send(|buf| frontend::password_message(password, buf)).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(database.user.as_bytes(), password()?, body.salt());
                self.send(|buf| frontend::password_message(hash.as_bytes(), buf)).await?;
            }
            Message::AuthenticationSasl(body) => self.scram(&body, password()?).await?,
            Message::ErrorResponse(body) => return Err(Refusal::of(&body)),
            _ => return Err(Refusal::new("the server asks for another log-in than by password")),
        }
        match self.message().await? {
            Message::AuthenticationOk => Ok(()),
            Message::ErrorResponse(body) => Err(Refusal::of(&body)),
            _ => Err(unexpected()),
        }
    }

    /// Proves that we know the password, and has the server prove it too.
    async fn scram(&mut self, offered: &AuthenticationSaslBody, password: &[u8]) -> Result<(), Refusal> {
        if !offered.mechanisms().any(|mechanism| Ok(mechanism == SCRAM_SHA_256))? {
            return Err(Refusal::new("the server offers no SCRAM-SHA-256"));
        }
        // What the TLS library knows of the certificate is not to be had through tokio-postgres.
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        self.send(|buf| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), buf)).await?;
        match self.message().await? {
            Message::AuthenticationSaslContinue(body) => scram.update(body.data())?,
            Message::ErrorResponse(body) => return Err(Refusal::of(&body)),
            _ => return Err(unexpected()),
        }
        self.send(|buf| frontend::sasl_response(scram.message(), buf)).await?;
        match self.message().await? {
            Message::AuthenticationSaslFinal(body) => Ok(scram.finish(body.data())?),
            Message::ErrorResponse(body) => Err(Refusal::of(&body)),
            _ => Err(unexpected()),
        }
    }

    /// Runs a command and returns its rows as text.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Refusal> {
        self.send(|buf| frontend::query(sql, buf)).await?;
        let (mut rows, mut refusal) = (Vec::new(), None);
        loop {
            match self.message().await? {
                Message::DataRow(body) => rows.push(texts(&body)?),
                Message::ErrorResponse(body) => refusal = Some(Refusal::of(&body)),
                Message::ReadyForQuery(_) => return refusal.map_or(Ok(rows), Err),
                Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::ParameterStatus(_)
                | Message::NoticeResponse(_) => {}
                _ => return Err(unexpected()),
            }
        }
    }

    /// Runs a command after which both sides send; when it is refused, another one may follow.
    pub(super) async fn copy_both(&mut self, sql: &str) -> Result<(), Refusal> {
        self.send(|buf| frontend::query(sql, buf)).await?;
        let mut refusal = None;
        loop {
            let Some(length) = whole(&self.read)? else {
                self.fill().await?;
                continue;
            };
            if self.read[0] == COPY_BOTH_TAG {
                self.read.advance(length);
                return Ok(());
            }
            match self.message().await? {
                Message::ErrorResponse(body) => refusal = Some(Refusal::of(&body)),
                Message::ReadyForQuery(_) => return Err(refusal.unwrap_or_else(unexpected)),
                Message::ParameterStatus(_) | Message::NoticeResponse(_) => {}
                _ => return Err(unexpected()),
            }
        }
    }

    /// Returns the next message; not for those of the log, which are many.
    async fn message(&mut self) -> Result<Message, Refusal> {
        loop {
            if let Some(message) = Message::parse(&mut self.read)? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// Waits until more has come, and returns how much; given up in the middle, nothing is lost.
    pub(super) async fn fill(&mut self) -> Result<usize, Refusal> {
        let coming = match Header::parse(&self.read)? {
            Some(header) => (header.len() as usize).saturating_sub(self.read.len()),
            None => 0,
        };
        if self.read.is_empty() && self.grown {
            (self.read, self.grown) = (BytesMut::new(), false);
        }
        self.grown |= coming > ROOM;
        self.read.reserve(coming.clamp(CHUNK, ROOM));
        match self.io.read_buf(&mut self.read).await? {
            0 => Err(Refusal::new("the server has closed the connection")),
            more => Ok(more),
        }
    }

    async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<(), Refusal> {
        let mut buf = BytesMut::new();
        write(&mut buf)?;
        self.write(&buf).await
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.io.write_all(bytes).await?;
        Ok(self.io.flush().await?)
    }
}

/// Returns the length of the message that stands first, when all of it has come.
pub(super) fn whole(read: &[u8]) -> Result<Option<usize>, Refusal> {
    let length = Header::parse(read)?.map(|header| header.len() as usize + 1);
    Ok(length.filter(|length| *length <= read.len()))
}

fn texts(body: &DataRowBody) -> Result<Vec<Option<String>>, Refusal> {
    let text = |range: Option<std::ops::Range<usize>>| {
        Ok(range.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned()))
    };
    Ok(body.ranges().map(text).collect()?)
}

fn refused(database: &Database, why: Refusal) -> DbError {
    if why.code == Some(SqlState::UNDEFINED_DATABASE) {
        return DbError::NoDatabase { name: database.dbname.clone(), server: database.server() };
    }
    if why.said.contains(NO_OPTIONS) {
        return DbError::Pooler { why: format!("{database} answers: {}", why.said) };
    }
    why.while_doing(format!("open a session for replication on {database}"))
}

async fn connect(database: &Database) -> Result<Box<dyn Io>, DbError> {
    let failed = |why: Refusal| refused(database, why);
    if database.host.starts_with('/') {
        if database.ssl_mode().as_client() == tokio_postgres::config::SslMode::Require {
            return Err(DbError::Tls("a Unix socket has none".into()));
        }
        let path = format!("{}/.s.PGSQL.{}", database.host, database.port);
        let socket = in_time(UnixStream::connect(path)).await.map_err(|error| failed(error.into()))?;
        return Ok(Box::new(socket));
    }
    let socket = connect_tcp(database).await.map_err(|error| failed(error.into()))?;
    match in_time(secure(database, socket)).await {
        Ok(io) => io,
        Err(error) => Err(failed(error.into())),
    }
}

/// Tries each address of the host's name.
async fn connect_tcp(database: &Database) -> io::Result<TcpStream> {
    let mut last = None;
    for address in lookup_host((database.host.as_str(), database.port)).await? {
        match in_time(TcpStream::connect(address)).await {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30));
                let keepalive = keepalive.with_interval(Duration::from_secs(10)).with_retries(3);
                let options = SockRef::from(&socket);
                options.set_tcp_keepalive(&keepalive)?;
                options.set_tcp_user_timeout(Some(ARRIVES_WITHIN))?;
                return Ok(socket);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("the host's name has no address")))
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(LET_IN_WITHIN, work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer")),
    }
}

/// Asks for TLS, as much as the URL wants; the outer error is the connection's.
async fn secure(database: &Database, mut socket: TcpStream) -> io::Result<Result<Box<dyn Io>, DbError>> {
    if database.ssl_mode() == SslMode::Disable {
        return Ok(Ok(Box::new(socket)));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    // No byte more is read: what comes after it without TLS would be somebody else's.
    if socket.read_u8().await? != b'S' {
        return Ok(match database.ssl_mode() {
            SslMode::Prefer => Ok(Box::new(socket)),
            _ => Err(DbError::Tls("the server offers none".into())),
        });
    }
    let mut connector = match database.tls() {
        Ok(connector) => connector,
        Err(error) => return Ok(Err(error)),
    };
    let connector = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, &database.host)
        .map_err(io::Error::other)?;
    match connector.connect(socket).await {
        Ok(secured) => Ok(Ok(Box::new(secured))),
        Err(error) => Ok(Err(DbError::Tls(error.to_string()))),
    }
}
