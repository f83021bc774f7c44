//! What a process that has handed over still owes its successor.
//!
//! Its clients' open connections may bring requests after the hand-over, and requests from before it are
//! still in flight. The first obey the successor's orders; the second count when the successor drains.

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

/// Held by each process that has handed over, until what was in flight then has finished.
#[derive(Clone)]
pub(crate) struct Busy(#[expect(dead_code, reason = "closing the file is what ends it")] Arc<OwnedFd>);

impl Busy {
    pub(crate) fn begin(dir: &Path) -> io::Result<Busy> {
        let file = open(dir)?;
        flock(&file, FlockOperation::LockShared)?;
        Ok(Busy(Arc::new(file)))
    }

    /// Says whether a process that has handed over still has requests from before.
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
/// Without a successor that answers, the orders stay as they are.
pub(crate) async fn follow(dir: &Path, router: &Router) {
    loop {
        let status = match Client::connect(dir).await {
            Ok(mut client) => client.status().await,
            Err(error) => Err(error),
        };
        match status {
            Ok(status) => {
                let is_held = status.hold_until.is_some() && status.maintenance.is_none();
                router.put(&State::of(status), None);
                if !is_held {
                    return;
                }
            }
            Err(ControlError::Replaced) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot ask the successor for its orders");
                return;
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
}
