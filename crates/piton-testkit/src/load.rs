//! An open-loop load of reads and writes on a web app, and what became of each request.
//!
//! Requests start at a constant rate whether or not earlier ones have been answered, and latency counts from the moment
//! at which a request was due. So a server that stalls for a second is charged with every request of that second.
//!
//! Memory is bounded: four bytes for each acknowledged write, one histogram for each release, one cell for each release
//! and 100 ms; [`Load::longest`] bounds them all.

mod client;
mod report;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt as _;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::client::{Call, Client};
pub use self::report::{
    Acknowledged, Example, Failure, FailureKind, ReleaseReport, Report, Share, Slice, Snapshot, VerifyError,
};
use self::report::{Ending, Outcome, Tally};

/// Requests that may be under way at once; what would come on top is not sent and counts as a failure.
const MOST_UNDER_WAY: usize = 4096;

/// What is asked of the app, how often and by whom.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where the app, or the proxy before it, listens.
    pub target: SocketAddr,
    /// Requests per second, reads and writes together.
    pub rate: u32,
    /// The share of writes, 0 to 1.
    pub writes: f64,
    /// Clients, each with its own connections and cookies.
    pub clients: usize,
    /// How many of the clients keep no cookies.
    pub without_cookies: usize,
    /// How long a client waits for an answer.
    pub patience: Duration,
    /// When the load ends even if nobody stops it.
    pub longest: Duration,
    /// The paths that are read, in equal shares; `{id}` stands for a write that was acknowledged.
    pub reads: Vec<String>,
    /// The collection that writes are posted to, and read from as `write_path/id`.
    pub write_path: String,
    /// Returns what is posted to create the entry with this id.
    pub write_body: fn(&str) -> Value,
}

impl Load {
    /// Returns a load of 100 requests a second, a fifth of them writes to `write_path`, by 40 clients.
    pub fn new(target: SocketAddr, write_path: &str, write_body: fn(&str) -> Value) -> Self {
        Self {
            target,
            rate: 100,
            writes: 0.2,
            clients: 40,
            without_cookies: 8,
            patience: Duration::from_secs(10),
            longest: Duration::from_secs(3600),
            reads: vec![write_path.to_owned(), format!("{write_path}/{{id}}")],
            write_path: write_path.to_owned(),
            write_body,
        }
    }

    /// Starts the load on a thread of its own, so that what else the caller does delays no request.
    ///
    /// # Errors
    /// When the system gives no thread or no event loop.
    pub fn start(self) -> std::io::Result<Running> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tally = Arc::new(Mutex::new(Tally::new(&self.write_path)));
        let (stop, stopped) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let shared = Arc::clone(&tally);
        std::thread::Builder::new().name("load".into()).spawn(move || {
            runtime.block_on(drive(self, shared, stopped));
            // Nobody waits when the handle was dropped.
            let _ = done.send(());
        })?;
        Ok(Running { tally, stop, ended })
    }
}

/// A load that is under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    tally: Arc<Mutex<Tally>>,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Running {
    /// Returns the numbers so far.
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.tally).snapshot()
    }

    /// Ends the load, waits for the requests under way and returns what became of all of them.
    pub async fn stop(self) -> Report {
        // The load may have reached its longest time.
        let _ = self.stop.send(());
        let _ = self.ended.await;
        lock(&self.tally).report()
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts each request when it is due, until told to stop, and waits for those under way.
async fn drive(load: Load, tally: Arc<Mutex<Tally>>, mut stop: oneshot::Receiver<()>) {
    let clients: Vec<Arc<Client>> = (0..load.clients.max(1))
        .map(|n| Arc::new(Client::new(load.target, load.patience, n >= load.without_cookies)))
        .collect();
    let begin = Instant::now();
    lock(&tally).begin = begin;
    let mut under_way = JoinSet::new();
    for number in 0u32.. {
        let due = begin + Duration::from_secs(1).mul_f64(f64::from(number) / f64::from(load.rate.max(1)));
        if due - begin > load.longest {
            break;
        }
        tokio::select! {
            biased;
            _ = &mut stop => break,
            () = tokio::time::sleep_until(due) => {}
        }
        while under_way.try_join_next().is_some() {}
        let call = choose(&load, &tally);
        if under_way.len() >= MOST_UNDER_WAY {
            let ending = Ending::Failed(FailureKind::NotSent, "too many requests are under way".to_owned());
            let now = Instant::now();
            lock(&tally).count(Outcome { due, sent: now, ended: now, call, ending });
            continue;
        }
        let client = Arc::clone(&clients[number as usize % clients.len()]);
        let tally = Arc::clone(&tally);
        under_way.spawn(async move {
            let sent = Instant::now();
            let (ending, resent) = client.call(&call).await;
            let mut tally = lock(&tally);
            tally.resent += resent;
            tally.count(Outcome { due, sent, ended: Instant::now(), call, ending });
        });
    }
    under_way.join_all().await;
}

/// Throws the dice for the next request.
fn choose(load: &Load, tally: &Mutex<Tally>) -> Call {
    let mut rng = rand::rng();
    if rng.random_bool(load.writes.clamp(0.0, 1.0)) || load.reads.is_empty() {
        let (number, id) = lock(tally).next_write();
        let body = (load.write_body)(&id).to_string();
        return Call::Write { number, path: load.write_path.clone(), body };
    }
    let path = &load.reads[rng.random_range(0..load.reads.len())];
    match lock(tally).acknowledged.random_id() {
        Some(id) => Call::Read { path: path.replace("{id}", &id) },
        // Nothing has been written yet.
        None if path.contains("{id}") => Call::Read { path: load.write_path.clone() },
        None => Call::Read { path: path.clone() },
    }
}
