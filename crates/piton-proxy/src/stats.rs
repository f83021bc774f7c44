//! What the proxy has counted, as it goes over the wire.
//!
//! Counters are cumulative since the proxy's start; [`Stats::since`] turns two readings into a window.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer as HdrReader, Serializer as _, V2Serializer};
use jiff::Timestamp;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::slot::PerSlot;

/// Everything the proxy has counted since it started, or within a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Which start of the proxy the counters belong to; a new one means that they began again at zero.
    pub epoch: String,
    /// What each slot was given and how it answered.
    pub slots: PerSlot<SlotStats>,
    /// Requests that waited for a hold to end. One that waits through a renewal counts again.
    pub held: u64,
    /// Held requests that were answered 503 because the hold reached its bound.
    pub held_expired: u64,
    /// Requests answered with the maintenance page.
    pub maintenance: u64,
    /// Requests answered 503 because their slot has a weight but no upstream.
    pub unassigned: u64,
}

/// What one slot was given and how it answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SlotStats {
    /// Requests given to the slot. One that is sent again after a kept connection had died counts again.
    pub requests: u64,
    /// Requests given to the slot and not finished now. A gauge; excludes open WebSockets.
    pub in_flight: u64,
    /// WebSockets open now. A gauge.
    pub websockets: u64,
    /// Whole answers of the upstream by class of their status. A request counts here or in `failures`.
    pub status: StatusClasses,
    /// Requests to which the upstream gave no whole answer.
    pub failures: Failures,
    /// Answers 5xx and failures, each request once.
    pub bad: u64,
    /// Requests whose client went away, or stopped sending, before the upstream answered. Not bad.
    pub aborted: u64,
    /// Requests sent again because a kept connection had died.
    pub retried: u64,
    /// Time from giving a request to the slot until the head of its answer.
    pub latency: Latency,
    /// When the slot was last given a request. Not part of a window's difference.
    pub last_assigned_at: Option<Timestamp>,
}

/// Counts of answers by class of their status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusClasses {
    /// 1xx: WebSockets opened.
    pub informational: u64,
    /// 2xx.
    pub success: u64,
    /// 3xx.
    pub redirection: u64,
    /// 4xx.
    pub client_error: u64,
    /// 5xx.
    pub server_error: u64,
}

/// Counts of requests to which an upstream gave no whole answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// The upstream refused or did not accept a connection in time; the client got 502.
    pub connect: u64,
    /// No head of an answer in time; the client got 504.
    pub timeout: u64,
    /// The connection broke before the answer was whole; the client got 502 or a broken body.
    pub reset: u64,
}

impl Stats {
    /// Returns what was counted between `earlier` and this reading; gauges are this reading's.
    ///
    /// When the proxy started anew in between (another `epoch`), everything in this reading happened after
    /// `earlier` and is returned whole; what the old proxy counted after `earlier` is not known.
    #[must_use]
    pub fn since(&self, earlier: &Stats) -> Stats {
        if self.epoch != earlier.epoch {
            return self.clone();
        }
        Stats {
            epoch: self.epoch.clone(),
            slots: PerSlot {
                blue: self.slots.blue.since(&earlier.slots.blue),
                green: self.slots.green.since(&earlier.slots.green),
            },
            held: self.held.saturating_sub(earlier.held),
            held_expired: self.held_expired.saturating_sub(earlier.held_expired),
            maintenance: self.maintenance.saturating_sub(earlier.maintenance),
            unassigned: self.unassigned.saturating_sub(earlier.unassigned),
        }
    }
}

impl SlotStats {
    /// Returns how many requests came to an end that tells something about the slot, bad ones included.
    #[must_use]
    pub fn judged(&self) -> u64 {
        self.status.sum() + self.failures.sum()
    }

    fn since(&self, earlier: &SlotStats) -> SlotStats {
        SlotStats {
            requests: self.requests.saturating_sub(earlier.requests),
            in_flight: self.in_flight,
            websockets: self.websockets,
            status: self.status.since(earlier.status),
            failures: self.failures.since(earlier.failures),
            bad: self.bad.saturating_sub(earlier.bad),
            aborted: self.aborted.saturating_sub(earlier.aborted),
            retried: self.retried.saturating_sub(earlier.retried),
            latency: self.latency.since(&earlier.latency),
            last_assigned_at: self.last_assigned_at,
        }
    }

    /// Adds what another worker counted for the same slot.
    pub(crate) fn add(&mut self, other: &SlotStats) {
        self.requests += other.requests;
        self.in_flight += other.in_flight;
        self.websockets += other.websockets;
        self.status.informational += other.status.informational;
        self.status.success += other.status.success;
        self.status.redirection += other.status.redirection;
        self.status.client_error += other.status.client_error;
        self.status.server_error += other.status.server_error;
        self.failures.connect += other.failures.connect;
        self.failures.timeout += other.failures.timeout;
        self.failures.reset += other.failures.reset;
        self.bad += other.bad;
        self.aborted += other.aborted;
        self.retried += other.retried;
        self.latency.add(&other.latency);
        self.last_assigned_at = self.last_assigned_at.max(other.last_assigned_at);
    }
}

impl StatusClasses {
    /// Returns the count of all answers.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.informational + self.success + self.redirection + self.client_error + self.server_error
    }

    fn since(self, earlier: StatusClasses) -> StatusClasses {
        StatusClasses {
            informational: self.informational.saturating_sub(earlier.informational),
            success: self.success.saturating_sub(earlier.success),
            redirection: self.redirection.saturating_sub(earlier.redirection),
            client_error: self.client_error.saturating_sub(earlier.client_error),
            server_error: self.server_error.saturating_sub(earlier.server_error),
        }
    }
}

impl Failures {
    /// Returns the count of all failures.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.connect + self.timeout + self.reset
    }

    fn since(self, earlier: Failures) -> Failures {
        Failures {
            connect: self.connect.saturating_sub(earlier.connect),
            timeout: self.timeout.saturating_sub(earlier.timeout),
            reset: self.reset.saturating_sub(earlier.reset),
        }
    }
}

/// A histogram of times in microseconds, 1 µs to 1 hour, exact to two significant digits.
///
/// On the wire it is the base64 of the HdrHistogram V2 encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency(Histogram<u64>);

impl Latency {
    const LONGEST: u64 = 3_600_000_000;
    const DIGITS: u8 = 2;

    pub(crate) fn record(&mut self, time: Duration) {
        self.record_many(time, 1);
    }

    /// Records the same time for `count` answers.
    pub fn record_many(&mut self, time: Duration, count: u64) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(Self::LONGEST);
        self.0.saturating_record_n(micros.clamp(1, Self::LONGEST), count);
    }

    /// Returns how many times were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Returns the time that the share `quantile` (0 to 1) of the records does not exceed, none without records.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        (!self.0.is_empty()).then(|| Duration::from_micros(self.0.value_at_quantile(quantile)))
    }

    /// Returns how many records are slower than `limit`, to the histogram's precision.
    #[must_use]
    pub fn slower_than(&self, limit: Duration) -> u64 {
        let micros = u64::try_from(limit.as_micros()).unwrap_or(Self::LONGEST).min(Self::LONGEST);
        self.0.len() - self.0.count_between(0, micros)
    }

    /// Adds the records of another histogram.
    pub fn add(&mut self, other: &Latency) {
        // Both have the same bounds and digits, so nothing can be out of range.
        let _ = self.0.add(&other.0);
    }

    fn since(&self, earlier: &Latency) -> Latency {
        let mut window = Latency::default();
        for record in self.0.iter_recorded() {
            let value = record.value_iterated_to();
            let count = record.count_at_value().saturating_sub(earlier.0.count_at(value));
            window.0.saturating_record_n(value, count);
        }
        window
    }
}

impl Default for Latency {
    fn default() -> Latency {
        match Histogram::new_with_bounds(1, Self::LONGEST, Self::DIGITS) {
            Ok(histogram) => Latency(histogram),
            Err(_) => unreachable!("the bounds are constants that fit"),
        }
    }
}

impl Serialize for Latency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&self.0, &mut bytes).map_err(S::Error::custom)?;
        serializer.serialize_str(&BASE64.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Latency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Latency, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64.decode(text).map_err(D::Error::custom)?;
        let read: Histogram<u64> =
            HdrReader::new().deserialize(&mut bytes.as_slice()).map_err(D::Error::custom)?;
        // The sender's bounds may be another version's: count its records into ours.
        let mut latency = Latency::default();
        for record in read.iter_recorded() {
            latency.0.saturating_record_n(record.value_iterated_to(), record.count_at_value());
        }
        Ok(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(epoch: &str, times: &[u64]) -> Stats {
        let mut stats = Stats { epoch: epoch.to_owned(), ..Stats::default() };
        let green = &mut stats.slots.green;
        for millis in times {
            green.requests += 1;
            green.status.success += 1;
            green.latency.record(Duration::from_millis(*millis));
        }
        stats
    }

    #[test]
    fn a_window_has_only_what_came_after_the_earlier_reading() {
        let earlier = reading("a", &[10; 100]);
        let mut later = reading("a", &[10; 100]);
        for _ in 0..50 {
            later.slots.green.requests += 1;
            later.slots.green.latency.record(Duration::from_millis(900));
        }
        later.slots.green.in_flight = 3;
        let window = later.since(&earlier);
        assert_eq!(window.slots.green.requests, 50);
        assert_eq!(window.slots.green.status.success, 0);
        assert_eq!(window.slots.green.in_flight, 3);
        assert_eq!(window.slots.green.latency.count(), 50);
        let median = window.slots.green.latency.quantile(0.5).unwrap().as_millis();
        assert!((891..=909).contains(&median), "{median}");
        assert_eq!(later.slots.green.latency.quantile(0.5).unwrap().as_millis(), 10);
    }

    #[test]
    fn a_window_that_nothing_fell_into_is_empty() {
        let stats = reading("a", &[1, 2, 3]);
        let window = stats.since(&stats);
        assert_eq!(window.slots.green.judged(), 0);
        assert_eq!(window.slots.green.latency.quantile(0.95), None);
    }

    #[test]
    fn after_a_restart_the_whole_reading_is_the_window() {
        let window = reading("b", &[5, 5]).since(&reading("a", &[5; 100]));
        assert_eq!((window.epoch.as_str(), window.slots.green.requests), ("b", 2));
    }

    #[test]
    fn stats_survive_the_wire() {
        let stats = reading("a", &[1, 20, 300, 4000]);
        let text = serde_json::to_string(&stats).unwrap();
        assert_eq!(serde_json::from_str::<Stats>(&text).unwrap(), stats);
    }

    #[test]
    fn slower_than_counts_what_is_over_the_limit() {
        let latency = reading("a", &[100, 400, 600, 1000]).slots.green.latency;
        assert_eq!(latency.slower_than(Duration::from_millis(500)), 2);
        assert_eq!(latency.slower_than(Duration::from_hours(2)), 0);
    }

    #[test]
    fn a_time_beyond_the_histogram_is_still_counted() {
        let mut latency = Latency::default();
        latency.record(Duration::from_hours(5));
        latency.record(Duration::ZERO);
        assert_eq!(latency.count(), 2);
    }
}
