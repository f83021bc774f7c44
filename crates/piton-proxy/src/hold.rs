//! A hold: new requests wait, their bodies unread, until it is released or reaches its bound.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// A hold in force, shared by all workers.
pub(crate) struct Hold {
    until: Instant,
    /// Never has a permit; closing it wakes everybody in the order in which they came.
    gate: Semaphore,
    held: AtomicU64,
    expired: AtomicU64,
    longest_micros: AtomicU64,
}

/// The hold reached its bound while a request waited.
pub(crate) struct Expired;

/// What a hold did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HoldCounts {
    pub(crate) held: u64,
    pub(crate) expired: u64,
    pub(crate) longest: Duration,
}

impl HoldCounts {
    pub(crate) fn add(&mut self, other: HoldCounts) {
        self.held += other.held;
        self.expired += other.expired;
        self.longest = self.longest.max(other.longest);
    }
}

impl Hold {
    pub(crate) fn new(until: Instant) -> Hold {
        Hold {
            until,
            gate: Semaphore::new(0),
            held: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            longest_micros: AtomicU64::new(0),
        }
    }

    /// Returns when the hold ends by itself.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Says whether the hold has reached its bound.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Waits until the hold is released.
    pub(crate) async fn wait(&self) -> Result<(), Expired> {
        let began = Instant::now();
        self.held.fetch_add(1, Ordering::Relaxed);
        // A closed gate, which gives no permit, is the release.
        let released = timeout_at(self.until, self.gate.acquire()).await.is_ok();
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.longest_micros.fetch_max(micros, Ordering::Relaxed);
        if released {
            return Ok(());
        }
        self.expired.fetch_add(1, Ordering::Relaxed);
        Err(Expired)
    }

    /// Lets the waiting requests go on.
    pub(crate) fn release(&self) {
        self.gate.close();
    }

    /// Returns what the hold did so far.
    pub(crate) fn counts(&self) -> HoldCounts {
        HoldCounts {
            held: self.held.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
            longest: Duration::from_micros(self.longest_micros.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn a_release_lets_them_go_in_the_order_in_which_they_came() {
        let hold = Hold::new(Instant::now() + Duration::from_secs(60));
        let went = RefCell::new(Vec::new());
        let waiting = join_all((0..50).map(|number| {
            let (hold, went) = (&hold, &went);
            async move {
                assert!(hold.wait().await.is_ok());
                went.borrow_mut().push(number);
            }
        }));
        let release = async {
            while hold.counts().held < 50 {
                tokio::task::yield_now().await;
            }
            hold.release();
        };
        tokio::join!(waiting, release);
        assert_eq!(*went.borrow(), (0..50).collect::<Vec<_>>());
        assert_eq!(hold.counts().expired, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_bound_the_wait_ends_without_a_release() {
        let hold = Hold::new(Instant::now() + Duration::from_secs(5));
        assert!(!hold.is_over());
        assert!(hold.wait().await.is_err());
        assert!(hold.is_over());
        let HoldCounts { held, expired, longest } = hold.counts();
        assert_eq!((held, expired), (1, 1));
        assert!(longest >= Duration::from_secs(5) && longest < Duration::from_secs(6));
    }
}
