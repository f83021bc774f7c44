//! One client: its connections, its cookies, one request.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, COOKIE, HOST, SET_COOKIE};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::report::{Ending, FailureKind};

/// Idle connections that a client keeps.
const MOST_IDLE: usize = 8;

/// What one request asks.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// GET.
    Read { path: String },
    /// POST of the write with this number.
    Write { number: u32, path: String, body: String },
}

impl Call {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Read { path } => format!("GET {path}"),
            Self::Write { path, number, .. } => format!("POST {path} (write {number})"),
        }
    }
}

/// A client with kept-alive connections and, like a browser, a cookie jar.
#[derive(Debug)]
pub(super) struct Client {
    target: SocketAddr,
    patience: Duration,
    cookies: Option<Mutex<BTreeMap<String, String>>>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

type Failed = (FailureKind, String);

impl Client {
    pub(super) fn new(target: SocketAddr, patience: Duration, keeps_cookies: bool) -> Self {
        Self { target, patience, cookies: keeps_cookies.then(Mutex::default), idle: Mutex::default() }
    }

    /// Sends the request; returns also how often it had to be sent on another connection.
    pub(super) async fn call(&self, call: &Call) -> (Ending, u64) {
        let mut resent = 0;
        let ending = match tokio::time::timeout(self.patience, self.exchange(call, &mut resent)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err((kind, detail))) => Ending::Failed(kind, detail),
            Err(_) => Ending::Failed(FailureKind::Timeout, format!("no answer within {:?}", self.patience)),
        };
        (ending, resent)
    }

    async fn exchange(&self, call: &Call, resent: &mut u64) -> Result<Ending, Failed> {
        let (connection, response) = self.send(self.request(call)?, resent).await?;
        let (head, mut body) = response.into_parts();
        // An answer counts once its last byte is there; the bytes themselves are of no interest.
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| (FailureKind::Broken, told(&error)))?;
        }
        if let Some(jar) = &self.cookies {
            let set = head.headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
            let pairs = set.filter_map(|line| line.split(';').next()?.split_once('='));
            lock(jar).extend(pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())));
        }
        let mut idle = lock(&self.idle);
        if !connection.is_closed() && idle.len() < MOST_IDLE {
            idle.push(connection);
        }
        let release = head.headers.get("x-release").and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Ending::Answered { status: head.status.as_u16(), release })
    }

    /// Sends on an idle connection or a new one.
    ///
    /// A request that an idle connection gives back because the server has closed it meanwhile was never sent: it goes to
    /// the next connection, as every HTTP client does. What was sent and not answered is a failure, never sent again.
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        resent: &mut u64,
    ) -> Result<(SendRequest<Full<Bytes>>, Response<Incoming>), Failed> {
        loop {
            let kept = lock(&self.idle).pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            if connection.ready().await.is_err() {
                continue;
            }
            let mut refused = match connection.try_send_request(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(refused) => refused,
            };
            match refused.take_message() {
                Some(unsent) => request = unsent,
                None => return Err((FailureKind::Closed, told(refused.error()))),
            }
            *resent += 1;
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failed> {
        let failed = |error: &dyn std::fmt::Display| (FailureKind::Connect, error.to_string());
        let stream = TcpStream::connect(self.target).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        // How it ends is told to whoever has a request on it.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, Failed> {
        let request = match call {
            Call::Read { path } => Request::get(path),
            Call::Write { path, .. } => Request::post(path).header(CONTENT_TYPE, "application/json"),
        };
        let body = match call {
            Call::Read { .. } => Bytes::new(),
            Call::Write { body, .. } => Bytes::from(body.clone()),
        };
        let mut request = request.header(HOST, self.target.to_string());
        let cookies: Vec<String> = match &self.cookies {
            Some(jar) => lock(jar).iter().map(|(name, value)| format!("{name}={value}")).collect(),
            None => Vec::new(),
        };
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        request.body(Full::new(body)).map_err(|error| (FailureKind::NotSent, error.to_string()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes an error with what caused it; hyper's own text leaves the cause out.
fn told(error: &hyper::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
