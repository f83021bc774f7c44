//! Orders to a running proxy: one line of JSON each way over the Unix socket `control.sock` in its folder.
//!
//! An order takes effect first and is saved second, both before it is acknowledged. So a full disk cannot
//! keep traffic on a bad slot: the caller is told that the order is in force but not saved, and the proxy
//! goes on trying to save it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

pub use crate::slot::{PerSlot, Slot, Weights};
pub use crate::stats::{Failures, Latency, SlotStats, Stats, StatusClasses};
use crate::unix;

pub(crate) mod server;

/// How long an order may take beyond the bound it carries.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the proxy does now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The proxy's process.
    pub pid: u32,
    /// The proxy's version.
    pub version: String,
    /// Which start of the proxy this is; the same as in [`Stats`].
    pub epoch: String,
    /// When this process began to serve.
    pub since: Timestamp,
    /// Where the proxy listens for clients.
    pub listen: SocketAddr,
    /// How many worker threads serve.
    pub workers: usize,
    /// Counts the changes of upstreams, weights and maintenance; outlives restarts.
    pub generation: u64,
    /// The shares of the traffic.
    pub weights: Weights,
    /// Where the slots are served.
    pub upstreams: PerSlot<Option<SocketAddr>>,
    /// The maintenance page, when it is on.
    pub maintenance: Option<Maintenance>,
    /// When the hold in force ends by itself.
    pub hold_until: Option<Timestamp>,
}

/// A change of weights that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// When the order was received.
    pub at: Timestamp,
    /// The time from the receipt of the order until every worker saw it.
    pub took: Duration,
    /// The generation that the order made.
    pub generation: u64,
}

/// A hold that is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// When the hold ends by itself.
    pub until: Timestamp,
}

/// What a hold did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Requests that waited.
    pub held: u64,
    /// Waiting requests that were answered 503 because the bound was reached.
    pub expired: u64,
    /// The longest that a request waited.
    pub longest: Duration,
    /// Whether the hold had ended by itself or with who ordered it, or was never in force: traffic flowed
    /// before the release.
    pub lapsed: bool,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Requests still in flight at the bound; 0 when the slot is drained. WebSockets do not count.
    pub left: u64,
}

/// The maintenance page: 503 with `Retry-After`, HTML for browsers and JSON for everyone else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// The page for browsers; none for the built-in one.
    pub html: Option<String>,
    /// The value of `Retry-After`, in seconds.
    pub retry_after: u32,
}

impl Default for Maintenance {
    fn default() -> Maintenance {
        Maintenance { html: None, retry_after: 60 }
    }
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody serves in the folder.
    #[error("no proxy serves in {}; start one with: piton proxy", dir.display())]
    NotRunning {
        /// The proxy's folder.
        dir: PathBuf,
    },
    /// The proxy does not carry out the order, and nothing has changed.
    #[error("the proxy refused the order: {0}")]
    Refused(String),
    /// The order is in force but would be forgotten by a restart of the proxy, which tries on to save it.
    #[error(
        "the order is in force, but the proxy could not save it: {0}; make room before the proxy is restarted"
    )]
    NotSaved(String),
    /// The proxy hands its work over to a successor; connect again.
    #[error("the proxy is being replaced by a new process; give the order again")]
    Replaced,
    /// The proxy did not answer in time.
    #[error("the proxy did not answer within {} s", .0.as_secs())]
    NoAnswer(Duration),
    /// The connection to the proxy failed.
    #[error("the connection to the proxy failed")]
    Io(#[from] io::Error),
    /// The proxy's answer could not be read.
    #[error("the proxy's answer cannot be read; is it another version?")]
    Answer(#[from] serde_json::Error),
}

/// A connection to a running proxy. One order at a time; open several for several.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the proxy that serves in `dir`.
    ///
    /// # Errors
    /// [`ControlError::NotRunning`] when nobody does.
    pub async fn connect(dir: &Path) -> Result<Client, ControlError> {
        let stream = unix::connect(dir).map_err(|error| {
            if unix::nobody_listens(&error) {
                ControlError::NotRunning { dir: dir.to_owned() }
            } else {
                ControlError::Io(error)
            }
        })?;
        stream.set_nonblocking(true)?;
        Ok(Client { stream: BufReader::new(UnixStream::from_std(stream)?) })
    }

    /// Returns what the proxy does now.
    ///
    /// # Errors
    /// See [`ControlError`]; so for every order.
    pub async fn status(&mut self) -> Result<Status, ControlError> {
        self.order(&Order::Status).await
    }

    /// Sets or clears the address at which a slot is served.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn set_upstream(
        &mut self,
        slot: Slot,
        addr: Option<SocketAddr>,
    ) -> Result<Status, ControlError> {
        self.order(&Order::SetUpstream { slot, addr }).await
    }

    /// Sets the shares of the traffic, for all workers at once. A slot of share 0 gets no new request.
    ///
    /// # Errors
    /// [`ControlError::Refused`] when a share is above 10,000, and see [`ControlError`].
    pub async fn set_weights(&mut self, weights: Weights) -> Result<Switched, ControlError> {
        self.order(&Order::SetWeights { weights }).await
    }

    /// Makes new requests wait, their bodies unread, until the release or for at most `bound`.
    ///
    /// The hold belongs to this connection: when it closes, because the client was dropped or its process
    /// was killed, the hold ends at once as by a release. At the bound the waiting requests get 503 with
    /// `Retry-After`, and the hold ends by itself. A hold during a hold renews it and takes it over, from
    /// whichever connection. While it lasts, no hand-over is possible. To wait until the requests in
    /// flight have finished, drain both slots.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn hold(&mut self, bound: Duration) -> Result<Held, ControlError> {
        self.order(&Order::Hold { bound }).await
    }

    /// Lets held requests go on, in the order in which they came, whoever ordered the hold.
    ///
    /// Look at [`Released::lapsed`]: it tells that the hold did not last until now.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn release(&mut self) -> Result<Released, ControlError> {
        self.order(&Order::Release).await
    }

    /// Waits until no request is in flight on `slot`, for at most `bound`.
    ///
    /// What a process that handed over to this one has in flight counts too, as one, on either slot.
    ///
    /// # Errors
    /// See [`ControlError`]; reaching the bound is none.
    pub async fn drain(&mut self, slot: Slot, bound: Duration) -> Result<Drained, ControlError> {
        self.order(&Order::Drain { slot, bound }).await
    }

    /// Shows a maintenance page for every request, or none any more.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn maintenance(&mut self, page: Option<Maintenance>) -> Result<Status, ControlError> {
        self.order(&Order::Maintenance { page }).await
    }

    /// Returns everything counted since the proxy's start.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn stats(&mut self) -> Result<Stats, ControlError> {
        self.order(&Order::Stats).await
    }

    /// Stops the proxy: it accepts nothing more, finishes what is in flight for at most 30 s, and ends.
    ///
    /// Returns when the proxy has ended.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn stop(&mut self) -> Result<(), ControlError> {
        self.order::<()>(&Order::Stop).await?;
        // The proxy keeps the connection until its last request is finished.
        let bound = server::STOP.requests + PATIENCE;
        let end = timeout(bound, self.stream.read_u8()).await;
        end.map_err(|_| ControlError::NoAnswer(bound)).map(drop)
    }

    async fn order<T: DeserializeOwned>(&mut self, order: &Order) -> Result<T, ControlError> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        let bound = order.bound().saturating_add(PATIENCE);
        let exchange = async {
            self.stream.get_mut().write_all(&line).await?;
            let mut answer = Vec::new();
            self.stream.read_until(b'\n', &mut answer).await?;
            Ok::<_, io::Error>(answer)
        };
        let answer = timeout(bound, exchange).await.map_err(|_| ControlError::NoAnswer(bound))??;
        if answer.is_empty() {
            return Err(ControlError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_slice(&answer)? {
            Answer::Done(value) => Ok(value),
            Answer::Fault(Fault::Refused(why)) => Err(ControlError::Refused(why)),
            Answer::Fault(Fault::NotSaved(why)) => Err(ControlError::NotSaved(why)),
            Answer::Fault(Fault::Replaced) => Err(ControlError::Replaced),
        }
    }
}

/// An order, as it goes over the wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    Status,
    SetUpstream {
        slot: Slot,
        addr: Option<SocketAddr>,
    },
    SetWeights {
        weights: Weights,
    },
    Hold {
        bound: Duration,
    },
    Release,
    Drain {
        slot: Slot,
        bound: Duration,
    },
    Maintenance {
        page: Option<Maintenance>,
    },
    Stats,
    Stop,
    /// A new process asks for the listening sockets and the lock, which come with the answer.
    TakeOver,
    /// The new process serves; the old one may leave.
    Taken,
}

impl Order {
    fn bound(&self) -> Duration {
        match self {
            Order::Drain { bound, .. } => *bound,
            _ => Duration::ZERO,
        }
    }
}

/// An answer, as it goes over the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer<T> {
    Done(T),
    Fault(Fault),
}

/// Why an order was not carried out, as it goes over the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    Refused(String),
    NotSaved(String),
    Replaced,
}
