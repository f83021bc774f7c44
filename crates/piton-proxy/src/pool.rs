//! One worker's kept connections to the upstreams.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::body::Upload;
use crate::slot::{PerSlot, Slot};

/// How long a connection is kept without use. Node closes its side after 5 s; a request that crosses with
/// that close fails, so the proxy gives up first.
const KEEP: Duration = Duration::from_secs(4);

/// The kept connections, the last used on top.
#[derive(Default)]
pub(crate) struct Pool {
    kept: PerSlot<RefCell<Vec<Kept>>>,
}

struct Kept {
    upstream: SocketAddr,
    sender: SendRequest<Upload>,
    since: Instant,
}

/// A connection in the hands of one request.
pub(crate) struct Lease {
    pool: Rc<Pool>,
    slot: Slot,
    upstream: SocketAddr,
    pub(crate) sender: SendRequest<Upload>,
    upgrades: bool,
    /// Whether it carried an earlier request, so that it may have died unnoticed.
    pub(crate) is_used: bool,
}

impl Pool {
    /// Takes the connection to `upstream` that was used last.
    pub(crate) fn take(self: &Rc<Self>, slot: Slot, upstream: SocketAddr) -> Option<Lease> {
        let mut kept = self.kept[slot].borrow_mut();
        let mut index = kept.len();
        while index > 0 {
            index -= 1;
            if !kept[index].is_alive(Some(upstream)) {
                kept.remove(index);
            } else if kept[index].sender.is_ready() {
                let Kept { sender, .. } = kept.remove(index);
                let pool = Rc::clone(self);
                return Some(Lease { pool, slot, upstream, sender, upgrades: false, is_used: true });
            }
        }
        None
    }

    /// Opens a connection to `upstream`. With `upgrades` it can become a tunnel and is not kept.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        slot: Slot,
        upstream: SocketAddr,
        bound: Duration,
        upgrades: bool,
    ) -> io::Result<Lease> {
        let stream = timeout(bound, TcpStream::connect(upstream)).await??;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // How the connection ends is told to the request that uses it.
        if upgrades {
            tokio::task::spawn_local(connection.with_upgrades());
        } else {
            tokio::task::spawn_local(connection);
        }
        Ok(Lease { pool: Rc::clone(self), slot, upstream, sender, upgrades, is_used: false })
    }

    /// Drops what has died or was not used for long.
    pub(crate) fn sweep(&self) {
        for slot in Slot::BOTH {
            self.kept[slot].borrow_mut().retain(|kept| kept.is_alive(None));
        }
    }
}

impl Kept {
    /// Says whether the connection can still be used, for `upstream` where given.
    fn is_alive(&self, upstream: Option<SocketAddr>) -> bool {
        !self.sender.is_closed()
            && self.since.elapsed() < KEEP
            && upstream.is_none_or(|upstream| upstream == self.upstream)
    }
}

impl Lease {
    /// Puts the connection back for the next request; one that was to become a tunnel and did not is closed.
    pub(crate) fn give_back(self) {
        // What refused an upgrade may yet take what follows for the tunnel's.
        if self.upgrades || self.sender.is_closed() {
            return;
        }
        let kept = Kept { upstream: self.upstream, sender: self.sender, since: Instant::now() };
        self.pool.kept[self.slot].borrow_mut().push(kept);
    }
}
