//! What a process that has handed over still owes its successor.
//!
//! Its clients' open connections may bring requests after the hand-over, and requests from before it are
//! still in flight. The first obey the successor's orders; both count when the successor drains.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use rustix::fs::{FlockOperation, flock};
use tokio::time::sleep;

use crate::control::{Client, ControlError};
use crate::routing::Router;
use crate::state::State;

const BUSY: &str = "leaving";

/// Held by each process that has handed over: for what was in flight then, and for each request since.
#[derive(Clone)]
pub(crate) struct Busy(#[expect(dead_code, reason = "closing the file is what ends it")] Arc<OwnedFd>);

impl Busy {
    pub(crate) fn begin(dir: &Path) -> io::Result<Busy> {
        let file = open(dir)?;
        flock(&file, FlockOperation::LockShared)?;
        Ok(Busy(Arc::new(file)))
    }

    /// Says whether a process that has handed over still has requests in flight.
    pub(crate) fn is_anyone(dir: &Path) -> io::Result<bool> {
        match flock(&open(dir)?, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

fn open(dir: &Path) -> io::Result<OwnedFd> {
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(dir.join(BUSY))?;
    Ok(file.into_file().into())
}

/// Puts the successor's orders in force here; waits as long as it holds requests.
///
/// The successor's drain waits until the returned value is dropped, but not for who waits here. Without a
/// successor that answers, the orders stay as they are.
pub(crate) async fn follow(dir: &Path, router: &Router) -> Option<Busy> {
    loop {
        // Before the successor is asked, so that a hold and a drain after its answer know of this request.
        let busy = Busy::begin(dir);
        if !is_held(dir, router).await {
            return busy.inspect_err(|error| tracing::warn!(%error, "no drain waits for a request")).ok();
        }
        drop(busy);
        while is_held(dir, router).await {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Puts the successor's orders in force here, and says whether it holds requests or is about to hand over.
async fn is_held(dir: &Path, router: &Router) -> bool {
    let status = match Client::connect(dir).await {
        Ok(mut client) => client.status().await,
        Err(error) => Err(error),
    };
    match status {
        Ok(status) => {
            let is_held = status.hold_until.is_some() && status.maintenance.is_none();
            let state = State::of(status);
            if is_held {
                // A change, too: what was connected before a hold may be gone after it.
                router.put(&state, None);
            } else {
                router.follow(&state);
            }
            is_held
        }
        Err(ControlError::Replaced) => true,
        Err(error) => {
            tracing::warn!(%error, "cannot ask the successor for its orders");
            false
        }
    }
}
