//! The workers: threads with a runtime of their own that share nothing on the request path.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, sleep};

use crate::forward;
use crate::meter::{self, Meter};
use crate::page::Refusal;
use crate::pool::Pool;
use crate::routing::Router;
use crate::serve::Timeouts;
use crate::slot::Slot;
use crate::stats::Stats;
use crate::succession::Busy;

/// How long a client may take for the head of a request, the wait for its first byte included.
const HEAD: Duration = Duration::from_secs(75);

/// What a worker has at hand for each request.
pub(crate) struct Worker {
    pub(crate) dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) router: Arc<Router>,
    pub(crate) timeouts: Timeouts,
    pub(crate) meter: Rc<Meter>,
    pub(crate) pool: Rc<Pool>,
    is_leaving: Cell<bool>,
    connections: Rc<Cell<usize>>,
    tunnels: Rc<Cell<usize>>,
    /// Closed when idle connections are to end.
    closing: Semaphore,
}

/// How a worker ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leave {
    /// How long idle connections may still bring one more request.
    pub(crate) idle: Duration,
    /// How long requests in flight may take.
    pub(crate) requests: Duration,
    /// How long WebSockets may stay open, from the same moment on.
    pub(crate) websockets: Duration,
}

enum Message {
    Seen(oneshot::Sender<()>),
    InFlight(Slot, oneshot::Sender<u64>),
    Read(oneshot::Sender<Stats>),
    Leave(Leave, Option<Busy>, oneshot::Sender<()>),
}

/// A worker has ended, which it only does after a fault or during shutdown.
#[derive(Debug, thiserror::Error)]
#[error("a worker thread has ended")]
pub(crate) struct WorkerGone;

/// The worker threads, as the control side sees them.
pub(crate) struct Workers(Vec<Handle>);

struct Handle {
    mailbox: mpsc::UnboundedSender<Message>,
    thread: JoinHandle<()>,
    /// Never sends; closed when the thread has ended.
    ended: oneshot::Receiver<Infallible>,
}

impl Workers {
    /// Starts one worker for each set of listeners; returns when all of them accept.
    pub(crate) fn start(
        dir: &Path,
        listen: SocketAddr,
        router: &Arc<Router>,
        timeouts: Timeouts,
        listeners: Vec<Vec<StdListener>>,
    ) -> io::Result<Workers> {
        let mut handles = Vec::with_capacity(listeners.len());
        for (number, listeners) in listeners.into_iter().enumerate() {
            let (mailbox, messages) = mpsc::unbounded_channel();
            let (ready, is_ready) = std::sync::mpsc::channel();
            let worker = (dir.to_owned(), listen, Arc::clone(router), timeouts);
            let (alive, ended) = oneshot::channel();
            let thread = thread::Builder::new().name(format!("proxy-{number}")).spawn(move || {
                run(worker, listeners, messages, &ready);
                drop(alive);
            })?;
            is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("a worker did not start")))?;
            handles.push(Handle { mailbox, thread, ended });
        }
        Ok(Workers(handles))
    }

    /// Returns the count of workers.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns when every worker has finished what it was doing and so sees the routing in force.
    pub(crate) async fn see(&self) -> Result<(), WorkerGone> {
        self.ask(Message::Seen).await.map(drop)
    }

    /// Returns how many requests are in flight on `slot`.
    pub(crate) async fn in_flight(&self, slot: Slot) -> Result<u64, WorkerGone> {
        Ok(self.ask(|reply| Message::InFlight(slot, reply)).await?.into_iter().sum())
    }

    /// Returns what all workers counted together.
    pub(crate) async fn read(&self) -> Result<Stats, WorkerGone> {
        Ok(meter::merge(self.ask(Message::Read).await?))
    }

    /// Stops accepting and returns; what is open is then finished within the bounds of `leave`.
    ///
    /// `busy` is given up as soon as nothing is in flight; what comes later has its own.
    pub(crate) async fn leave(&self, leave: Leave, busy: Option<Busy>) {
        let left = self.ask(|reply| Message::Leave(leave, busy.clone(), reply)).await;
        if let Err(gone) = left {
            tracing::error!("{gone}");
        }
    }

    /// Returns when every worker has finished.
    pub(crate) async fn ended(self) {
        for handle in self.0 {
            let _ = handle.ended.await;
            if handle.thread.join().is_err() {
                tracing::error!("a worker thread panicked");
            }
        }
    }

    async fn ask<T>(&self, question: impl Fn(oneshot::Sender<T>) -> Message) -> Result<Vec<T>, WorkerGone> {
        let mut waiting = Vec::with_capacity(self.0.len());
        for handle in &self.0 {
            let (reply, answer) = oneshot::channel();
            handle.mailbox.send(question(reply)).map_err(|_| WorkerGone)?;
            waiting.push(answer);
        }
        let mut answers = Vec::with_capacity(waiting.len());
        for answer in waiting {
            answers.push(answer.await.map_err(|_| WorkerGone)?);
        }
        Ok(answers)
    }
}

fn run(
    (dir, listen, router, timeouts): (PathBuf, SocketAddr, Arc<Router>, Timeouts),
    listeners: Vec<StdListener>,
    messages: mpsc::UnboundedReceiver<Message>,
    ready: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let listeners: io::Result<Vec<_>> = listeners.into_iter().map(TcpListener::from_std).collect();
        let listeners = match listeners {
            Ok(listeners) => listeners,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        // Whoever started the worker waits for this.
        let _ = ready.send(Ok(()));
        Rc::new(Worker::new(dir, listen, router, timeouts)).work(listeners, messages).await;
    });
}

impl Worker {
    fn new(dir: PathBuf, listen: SocketAddr, router: Arc<Router>, timeouts: Timeouts) -> Worker {
        Worker {
            dir,
            listen,
            router,
            timeouts,
            meter: Rc::default(),
            pool: Rc::default(),
            is_leaving: Cell::new(false),
            connections: Rc::default(),
            tunnels: Rc::default(),
            closing: Semaphore::new(0),
        }
    }

    async fn work(
        self: Rc<Self>,
        listeners: Vec<TcpListener>,
        mut messages: mpsc::UnboundedReceiver<Message>,
    ) {
        let mut tasks = JoinSet::new();
        for listener in listeners {
            tasks.spawn_local(accept(Rc::clone(&self), listener));
        }
        tasks.spawn_local(sweep(Rc::clone(&self.pool)));
        let (leave, busy, reply) = loop {
            // Whoever asked may have gone away.
            match messages.recv().await {
                Some(Message::Seen(reply)) => drop(reply.send(())),
                Some(Message::InFlight(slot, reply)) => drop(reply.send(self.meter.in_flight(slot))),
                Some(Message::Read(reply)) => drop(reply.send(self.meter.read())),
                Some(Message::Leave(leave, busy, reply)) => break (leave, busy, reply),
                None => return,
            }
        };
        self.is_leaving.set(true);
        tasks.shutdown().await;
        let _ = reply.send(());
        if let Some(busy) = busy {
            spawn_local(Rc::clone(&self).give_up(busy));
        }
        self.finish(leave).await;
    }

    async fn give_up(self: Rc<Self>, busy: Busy) {
        while Slot::BOTH.iter().any(|slot| self.meter.in_flight(*slot) > 0) {
            sleep(Duration::from_millis(2)).await;
        }
        drop(busy);
    }

    async fn finish(&self, leave: Leave) {
        let began = Instant::now();
        closed(&self.connections, began + leave.idle).await;
        self.closing.close();
        closed(&self.connections, began + leave.requests).await;
        closed(&self.tunnels, began + leave.websockets).await;
    }

    /// Says whether every answer should ask the client to come back by a new connection.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.get()
    }

    /// Counts a tunnel until the returned value is dropped.
    pub(crate) fn tunnel(&self) -> Open {
        Open::new(&self.tunnels)
    }

    /// Counts an answer that came from no slot.
    pub(crate) fn count(&self, refusal: &Refusal) {
        match refusal {
            Refusal::Maintenance(_) => self.meter.maintenance.up(),
            Refusal::NoUpstream(_) => self.meter.unassigned.up(),
            _ => {}
        }
    }
}

/// One open connection or tunnel, counted.
pub(crate) struct Open(Rc<Cell<usize>>);

impl Open {
    fn new(count: &Rc<Cell<usize>>) -> Open {
        count.set(count.get() + 1);
        Open(Rc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Waits until the count is zero, at most until `deadline`.
async fn closed(count: &Cell<usize>, deadline: Instant) {
    while count.get() > 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn sweep(pool: Rc<Pool>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        pool.sweep();
    }
}

async fn accept(worker: Rc<Worker>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                spawn_local(serve(Rc::clone(&worker), stream, client.ip()));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of file descriptors, most likely: others have to end first.
                tracing::warn!(%error, "cannot accept");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves one client's connection to its end.
async fn serve(worker: Rc<Worker>, stream: TcpStream, client: IpAddr) {
    let open = Open::new(&worker.connections);
    // A connection that is broken already says so at the first read.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let worker = Rc::clone(&worker);
        async move { Ok::<_, Infallible>(forward::answer(worker, client, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        _ = worker.closing.acquire() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%client, %error, "connection broke off");
    }
    drop(open);
}
