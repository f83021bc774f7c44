//! An open-loop load: requests start when they are due, whether or not earlier ones have been answered.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, timeout};

/// Every so many requests come from a client that carries the sticky cookie.
const STICKY: u64 = 5;

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(u64, u64)>,
}

/// The clients' kept connections, and what came of their requests.
struct Clients {
    addr: SocketAddr,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    failed: AtomicU64,
}

impl Load {
    pub(crate) fn start(addr: SocketAddr, per_second: u32) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(run(addr, per_second, Arc::clone(&stop)));
        Load { stop, task }
    }

    /// Stops; returns how many requests were sent and how many of them failed.
    pub(crate) async fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

async fn run(addr: SocketAddr, per_second: u32, stop: Arc<AtomicBool>) -> (u64, u64) {
    let clients = Arc::new(Clients { addr, idle: Mutex::default(), failed: AtomicU64::new(0) });
    let began = Instant::now();
    let mut tick = interval(Duration::from_millis(1));
    let mut under_way = JoinSet::new();
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        tick.tick().await;
        let due = (began.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
        for number in sent..due {
            under_way.spawn(request(Arc::clone(&clients), number));
        }
        sent = due;
        while under_way.try_join_next().is_some() {}
    }
    under_way.join_all().await;
    (sent, clients.failed.load(Ordering::SeqCst))
}

async fn request(clients: Arc<Clients>, number: u64) {
    let answered = timeout(Duration::from_secs(5), answer(&clients, number)).await;
    if !matches!(answered, Ok(Ok(StatusCode::OK))) {
        clients.failed.fetch_add(1, Ordering::SeqCst);
    }
}

async fn answer(
    clients: &Clients,
    number: u64,
) -> Result<StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let mut sender = clients.connection().await?;
    let mut request = Request::builder().uri("/").header("host", "bench.example");
    if number.is_multiple_of(STICKY) {
        request = request.header("cookie", format!("piton_bucket={}", number % 10_000));
    }
    let response = sender.send_request(request.body(Empty::new())?).await?;
    let status = response.status();
    response.into_body().collect().await?;
    // A connection that the server will close is not kept.
    if sender.ready().await.is_ok() {
        clients.idle.lock().unwrap().push(sender);
    }
    Ok(status)
}

impl Clients {
    async fn connection(
        &self,
    ) -> Result<SendRequest<Empty<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
        loop {
            let kept = self.idle.lock().unwrap().pop();
            match kept {
                Some(sender) if sender.is_closed() => {}
                Some(sender) => return Ok(sender),
                None => break,
            }
        }
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
