//! A proxy in a process of its own, upstreams that do as they are told, and clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use piton_proxy::control::{Client, ControlError, Stats, Status};
use piton_proxy::{Options, Slot, Timeouts, Weights};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Longer than anything takes that works.
pub(crate) const SOON: Duration = Duration::from_secs(20);

const DIR: &str = "PITON_PROXY_TEST_DIR";
const LISTEN: &str = "PITON_PROXY_TEST_LISTEN";
const WORKERS: &str = "PITON_PROXY_TEST_WORKERS";
const RESPONSE_MILLIS: &str = "PITON_PROXY_TEST_RESPONSE_MILLIS";

/// Not a test: what the child processes of the tests run.
#[test]
#[ignore = "the tests start it as a process of its own"]
fn proxy_process() {
    // The parent's end, however it comes, closes the pipe.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
    let var = |name| std::env::var(name).unwrap();
    let workers = var(WORKERS).parse().unwrap();
    let options = Options { listen: var(LISTEN).parse().unwrap(), dir: var(DIR).into(), workers };
    let response = Duration::from_millis(var(RESPONSE_MILLIS).parse().unwrap());
    let timeouts = Timeouts { connect: Duration::from_millis(500), response };
    if let Err(error) = piton_proxy::serve_with(options, timeouts) {
        let mut line = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            line = format!("{line}: {error}");
            cause = error.source();
        }
        eprintln!("{line}");
        std::process::exit(3);
    }
    std::process::exit(0);
}

/// A proxy's process.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(dir: &Path, listen: SocketAddr) -> Process {
        Process::start_with(dir, listen, 2, SOON)
    }

    pub(crate) fn start_with(dir: &Path, listen: SocketAddr, workers: usize, response: Duration) -> Process {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "support::proxy_process", "--ignored", "--nocapture"])
            .env(DIR, dir)
            .env(LISTEN, listen.to_string())
            .env(WORKERS, workers.to_string())
            .env(RESPONSE_MILLIS, response.as_millis().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .env("RUST_BACKTRACE", "0")
            .spawn()
            .unwrap();
        Process(child)
    }

    /// Waits for the end; returns the exit code and what was written to stderr.
    pub(crate) async fn end(mut self) -> (Option<i32>, String) {
        let mut left = SOON.as_millis() / 10;
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            left = left.checked_sub(1).expect("the proxy does not end");
            sleep(Duration::from_millis(10)).await;
        };
        let mut text = String::new();
        std::io::Read::read_to_string(self.0.stderr.as_mut().unwrap(), &mut text).unwrap();
        (status.code(), text)
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A proxy in a folder of its own.
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) dir: PathBuf,
    pub(crate) process: Process,
    _root: TempDir,
}

impl Proxy {
    pub(crate) async fn start() -> Proxy {
        Proxy::start_with("proxy", SOON).await
    }

    /// Starts a proxy in a folder of that name whose upstreams may take as long as `response`.
    pub(crate) async fn start_with(dir: &str, response: Duration) -> Proxy {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(dir);
        let process = Process::start_with(&dir, any_port(), 2, response);
        let addr = serving(&dir, None).await.listen;
        Proxy { addr, dir, process, _root: root }
    }

    /// Starts a proxy with one upstream, on blue.
    pub(crate) async fn in_front_of(upstream: SocketAddr) -> Proxy {
        let proxy = Proxy::start().await;
        proxy.control().await.set_upstream(Slot::Blue, Some(upstream)).await.unwrap();
        proxy
    }

    pub(crate) async fn control(&self) -> Client {
        Client::connect(&self.dir).await.unwrap()
    }

    pub(crate) async fn upstreams(&self, blue: SocketAddr, green: SocketAddr) {
        let mut control = self.control().await;
        control.set_upstream(Slot::Blue, Some(blue)).await.unwrap();
        control.set_upstream(Slot::Green, Some(green)).await.unwrap();
    }

    pub(crate) async fn weight(&self, green: u16) {
        self.control().await.set_weights(Weights { green }).await.unwrap();
    }

    pub(crate) async fn stats(&self) -> Stats {
        self.control().await.stats().await.unwrap()
    }

    /// Starts a process that takes over, waits until it serves, and returns the old one.
    pub(crate) async fn replace(&mut self) -> Process {
        let before = self.control().await.status().await.unwrap().epoch;
        let next = Process::start(&self.dir, self.addr);
        serving(&self.dir, Some(&before)).await;
        std::mem::replace(&mut self.process, next)
    }

    pub(crate) async fn stop(self) {
        self.control().await.stop().await.unwrap();
        let (code, text) = self.process.end().await;
        assert_eq!(code, Some(0), "{text}");
    }
}

pub(crate) fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Waits until a proxy serves in `dir`, another one than `before`.
pub(crate) async fn serving(dir: &Path, before: Option<&str>) -> Status {
    let wait = async {
        loop {
            let status = match Client::connect(dir).await {
                Ok(mut client) => client.status().await,
                Err(error) => Err(error),
            };
            match status {
                Ok(status) if before != Some(status.epoch.as_str()) => return status,
                Ok(_)
                | Err(ControlError::NotRunning { .. } | ControlError::Replaced | ControlError::Io(_)) => {}
                Err(error) => panic!("{error}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, wait).await.expect("no proxy serves")
}

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub(crate) fn text(text: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(text.into()).boxed_unsync())
}

/// An HTTP server that answers by a function.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    pub(crate) requests: Arc<AtomicU64>,
    pub(crate) connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start<F, A>(answer: F) -> Upstream
    where
        F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send,
    {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        let requests = Arc::new(AtomicU64::new(0));
        let connections = Arc::new(AtomicU64::new(0));
        let (counted, accepted) = (Arc::clone(&requests), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                accepted.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                let (answer, counted) = (Arc::clone(&answer), Arc::clone(&counted));
                tokio::spawn(async move {
                    let service = service_fn(|request| {
                        counted.fetch_add(1, Ordering::SeqCst);
                        let answer = Arc::clone(&answer);
                        async move { Ok::<_, Infallible>(answer(request).await) }
                    });
                    let builder = hyper::server::conn::http1::Builder::new();
                    let _ = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        });
        Upstream { addr, requests, connections, task }
    }

    /// Answers every request with `name`.
    pub(crate) async fn named(name: &'static str) -> Upstream {
        Upstream::start(move |_| async move { text(name) }).await
    }

    /// Answers every request with `name`, once the gate is opened.
    pub(crate) async fn gated(name: &'static str) -> (Upstream, watch::Sender<bool>) {
        let (open, gate) = watch::channel(false);
        let upstream = Upstream::start(move |_| {
            let mut gate = gate.clone();
            async move {
                gate.wait_for(|open| *open).await.unwrap();
                text(name)
            }
        });
        (upstream.await, open)
    }

    pub(crate) fn count(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that gets each connection raw.
pub(crate) async fn raw_upstream<F, A>(answer: F) -> SocketAddr
where
    F: Fn(TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream));
        }
    });
    addr
}

/// A server that reads and never answers; it tells when the head of a request has come.
pub(crate) async fn silent_upstream() -> (SocketAddr, watch::Receiver<bool>) {
    let (seen, is_seen) = watch::channel(false);
    let upstream = raw_upstream(move |mut stream| {
        let seen = seen.clone();
        async move {
            read_head(&mut stream).await;
            seen.send_replace(true);
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    (upstream.await, is_seen)
}

/// Takes a port on which nobody listens, and which nobody else gets while it is kept.
pub(crate) fn bound() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&any_port().into()).unwrap();
    socket
}

/// A listener whose queue is full, with those who fill it: Linux leaves further connections unanswered.
pub(crate) async fn full() -> (socket2::Socket, Vec<TcpStream>) {
    let socket = bound();
    socket.listen(0).unwrap();
    let mut queued = Vec::new();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    while let Ok(Ok(stream)) = timeout(Duration::from_millis(200), TcpStream::connect(addr)).await {
        queued.push(stream);
    }
    (socket, queued)
}

/// Reads the head of a request or response.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Sends bytes to the proxy and returns everything it says until it closes.
pub(crate) async fn raw(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the proxy does not close").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A client's keep-alive connection.
pub(crate) struct Http(pub(crate) SendRequest<UnsyncBoxBody<Bytes, Infallible>>);

impl Http {
    pub(crate) async fn connect(addr: SocketAddr) -> Http {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Http(sender)
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<UnsyncBoxBody<Bytes, Infallible>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.0.ready().await?;
        timeout(SOON, self.0.send_request(request)).await.expect("no answer")
    }

    pub(crate) async fn get(&mut self, headers: &[(&str, &str)]) -> (StatusCode, String) {
        let response = self.send(get("/", headers)).await.unwrap();
        (response.status(), body(response).await)
    }
}

pub(crate) fn get(path: &str, headers: &[(&str, &str)]) -> Request<UnsyncBoxBody<Bytes, Infallible>> {
    let mut request = Request::builder().uri(path).header("host", "shop.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default().boxed_unsync()).unwrap()
}

pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Request<UnsyncBoxBody<Bytes, Infallible>> {
    Request::post(path).header("host", "shop.example").body(Full::new(body.into()).boxed_unsync()).unwrap()
}

pub(crate) async fn body(response: Response<Incoming>) -> String {
    let bytes = timeout(SOON, response.into_body().collect()).await.expect("no end of the body").unwrap();
    String::from_utf8(bytes.to_bytes().to_vec()).unwrap()
}

/// Waits until `check` returns a value.
pub(crate) async fn eventually<T, F: AsyncFnMut() -> Option<T>>(what: &str, mut check: F) -> T {
    let wait = async {
        loop {
            if let Some(value) = check().await {
                return value;
            }
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{what} never happened"))
}
