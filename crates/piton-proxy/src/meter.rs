//! One worker's counters. Nothing here is shared between threads: a reading is asked for by message.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use hyper::StatusCode;
use jiff::Timestamp;

use crate::slot::{PerSlot, Slot};
use crate::stats::{Latency, SlotStats, Stats};
use crate::succession::Busy;

/// A worker's counters.
#[derive(Default)]
pub(crate) struct Meter {
    slots: PerSlot<SlotMeter>,
    pub(crate) maintenance: Count,
    pub(crate) unassigned: Count,
}

/// A worker's counters of one slot.
#[derive(Default)]
struct SlotMeter {
    requests: Count,
    in_flight: Count,
    websockets: Count,
    informational: Count,
    success: Count,
    redirection: Count,
    client_error: Count,
    server_error: Count,
    connect: Count,
    timeout: Count,
    reset: Count,
    aborted: Count,
    retried: Count,
    latency: RefCell<Latency>,
    last_assigned: Cell<Option<Instant>>,
}

/// A counter of the thread it lives on.
#[derive(Default)]
pub(crate) struct Count(Cell<u64>);

impl Count {
    pub(crate) fn up(&self) {
        self.0.set(self.0.get() + 1);
    }

    fn down(&self) {
        self.0.set(self.0.get() - 1);
    }

    fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Why a slot that had taken a request gave no whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Timeout,
    Reset,
}

impl Meter {
    /// Reads the counters; those of holds are kept elsewhere.
    pub(crate) fn read(&self) -> Stats {
        Stats {
            slots: PerSlot { blue: self.slots.blue.read(), green: self.slots.green.read() },
            maintenance: self.maintenance.get(),
            unassigned: self.unassigned.get(),
            ..Stats::default()
        }
    }

    /// Returns how many requests are in flight on `slot`.
    pub(crate) fn in_flight(&self, slot: Slot) -> u64 {
        self.slots[slot].in_flight.get()
    }

    /// Counts a request that never reached `slot` because no connection could be made.
    pub(crate) fn unreachable(&self, slot: Slot) {
        let meter = &self.slots[slot];
        meter.requests.up();
        meter.connect.up();
        meter.last_assigned.set(Some(Instant::now()));
    }
}

impl SlotMeter {
    fn class(&self, status: StatusCode) -> &Count {
        match status.as_u16() {
            ..200 => &self.informational,
            200..300 => &self.success,
            300..400 => &self.redirection,
            400..500 => &self.client_error,
            500.. => &self.server_error,
        }
    }

    fn failure(&self, failure: Failure) -> &Count {
        match failure {
            Failure::Timeout => &self.timeout,
            Failure::Reset => &self.reset,
        }
    }

    fn read(&self) -> SlotStats {
        let mut stats = SlotStats {
            requests: self.requests.get(),
            in_flight: self.in_flight.get(),
            websockets: self.websockets.get(),
            aborted: self.aborted.get(),
            retried: self.retried.get(),
            latency: self.latency.borrow().clone(),
            last_assigned_at: self.last_assigned.get().map(wall_clock),
            ..SlotStats::default()
        };
        stats.status.informational = self.informational.get();
        stats.status.success = self.success.get();
        stats.status.redirection = self.redirection.get();
        stats.status.client_error = self.client_error.get();
        stats.status.server_error = self.server_error.get();
        stats.failures.connect = self.connect.get();
        stats.failures.timeout = self.timeout.get();
        stats.failures.reset = self.reset.get();
        stats.bad = stats.status.server_error + stats.failures.sum();
        stats
    }
}

/// The request path reads only the monotonic clock; the wall clock is worked out for the reader.
fn wall_clock(instant: Instant) -> Timestamp {
    let now = Timestamp::now();
    now.checked_sub(instant.elapsed()).unwrap_or(now)
}

/// One request on one slot, counted in flight from its sending to the end of its answer.
///
/// It counts exactly once when it is dropped: as the failure, else by the status of the answer, else as
/// aborted by the client.
pub(crate) struct Exchange {
    meter: Rc<Meter>,
    slot: Slot,
    began: Instant,
    outcome: Outcome,
    /// In a process that has handed over: makes the successor's drain wait for the end.
    #[expect(dead_code, reason = "dropping it is what ends it")]
    busy: Option<Busy>,
}

#[derive(Clone, Copy)]
enum Outcome {
    Open,
    Answered(StatusCode),
    Failed(Failure),
    SentAgain,
}

impl Exchange {
    pub(crate) fn begin(meter: &Rc<Meter>, slot: Slot, busy: Option<Busy>) -> Exchange {
        let began = Instant::now();
        let counts = &meter.slots[slot];
        counts.requests.up();
        counts.in_flight.up();
        counts.last_assigned.set(Some(began));
        Exchange { meter: Rc::clone(meter), slot, began, outcome: Outcome::Open, busy }
    }

    /// Notes the head of the upstream's answer.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.meter.slots[self.slot].latency.borrow_mut().record(self.began.elapsed());
        self.outcome = Outcome::Answered(status);
    }

    /// Notes a failure, before the head of the answer or in the midst of its body.
    pub(crate) fn failed(&mut self, failure: Failure) {
        self.outcome = Outcome::Failed(failure);
    }

    /// Notes that the request will be sent again.
    pub(crate) fn sent_again(mut self) {
        self.outcome = Outcome::SentAgain;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let counts = &self.meter.slots[self.slot];
        counts.in_flight.down();
        match self.outcome {
            Outcome::Open => counts.aborted.up(),
            Outcome::Answered(status) => counts.class(status).up(),
            Outcome::Failed(failure) => counts.failure(failure).up(),
            Outcome::SentAgain => counts.retried.up(),
        }
    }
}

/// One WebSocket, counted as long as it is open.
pub(crate) struct OpenWebSocket {
    meter: Rc<Meter>,
    slot: Slot,
}

impl OpenWebSocket {
    pub(crate) fn begin(meter: &Rc<Meter>, slot: Slot) -> OpenWebSocket {
        meter.slots[slot].websockets.up();
        OpenWebSocket { meter: Rc::clone(meter), slot }
    }
}

impl Drop for OpenWebSocket {
    fn drop(&mut self) {
        self.meter.slots[self.slot].websockets.down();
    }
}

/// Adds up what the workers counted.
pub(crate) fn merge(readings: impl IntoIterator<Item = Stats>) -> Stats {
    readings.into_iter().fold(Stats::default(), |mut sum, reading| {
        for slot in Slot::BOTH {
            sum.slots[slot].add(&reading.slots[slot]);
        }
        sum.maintenance += reading.maintenance;
        sum.unassigned += reading.unassigned;
        sum
    })
}
