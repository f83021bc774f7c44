//! What the demo has shown, for people and as `summary.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use piton_testkit::load::{Failure, FailureKind, ReleaseReport, Report};
use serde::Serialize;
use serde_json::Value;

use crate::Left;
use crate::stage::Release;

/// The release whose failures are its own.
const BAD: &str = "3";
/// The release that has to serve in the end.
const MENDED: &str = "4";

/// The figures of `target/demo/summary.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Requests sent to production.
    pub(crate) requests: u64,
    /// Failed ones, but for the answers of the bad release with status 500.
    pub(crate) failed_requests: u64,
    /// Requests that the bad release answered with status 500.
    pub(crate) failed_requests_of_bad_release: u64,
    /// Requests that the bad release answered before it went back.
    pub(crate) requests_of_bad_release: u64,
    /// Writes whose clients were told that they are saved.
    pub(crate) acknowledged_writes: usize,
    /// Those of them that the table or the app does not know any more.
    pub(crate) acknowledged_writes_lost: usize,
    /// Writes that the database went back with when the bad release's migration did.
    pub(crate) carried_back: u64,
    /// Rows that the bad release had written into its new table.
    pub(crate) rows_without_a_place: usize,
    /// Those of them that are not there again with the mended release.
    pub(crate) rows_without_a_place_lost: usize,
    /// The time from each order to move production's traffic until all requests followed it, in milliseconds.
    pub(crate) switch_ms: Vec<f64>,
    /// The longest of them.
    pub(crate) switch_ms_max: Option<f64>,
    /// What was restored and compared before the good release's migration.
    pub(crate) proved: Option<Value>,
    /// The releases that answered in the last second.
    pub(crate) serving: Vec<String>,
    /// Latency and counts by release.
    pub(crate) releases: BTreeMap<String, ReleaseReport>,
    /// The length of the demo, in seconds.
    pub(crate) seconds: u64,
}

impl Summary {
    pub(crate) fn new(
        report: &Report,
        mut lost: Vec<String>,
        releases: [&Release; 3],
        (left, missing): (&Left, usize),
        took: Duration,
    ) -> Self {
        let is_own = |failure: &&Failure| failure.release == BAD && failure.kind == FailureKind::Status(500);
        let own: u64 = report.failures.iter().filter(is_own).map(|failure| failure.count).sum();
        let steps = || releases.into_iter().flat_map(|release| &release.steps);
        // A step that moves traffic says how long that took, and so does its undo.
        let moves = steps().flat_map(|step| {
            let forth = (step.phase == "shift").then_some(&step.outcome["switch_ms"]);
            [forth, Some(&step.undo_outcome["switch_ms"])]
        });
        let switch_ms: Vec<f64> = moves.flatten().filter_map(Value::as_f64).collect();
        let proved = steps().find(|step| step.phase == "prove").map(|step| step.outcome.clone());
        lost.sort_unstable();
        lost.dedup();
        let last_second = report.timeline.iter().rev().take(10);
        let serving: BTreeSet<&str> =
            last_second.flat_map(|slice| slice.releases.keys().map(String::as_str)).collect();
        Self {
            requests: report.requests,
            failed_requests: report.failed - own,
            failed_requests_of_bad_release: own,
            requests_of_bad_release: report.releases.get(BAD).map_or(0, |release| release.requests),
            acknowledged_writes: report.acknowledged.len(),
            acknowledged_writes_lost: lost.len(),
            carried_back: left.carried_back,
            rows_without_a_place: left.conversions.len(),
            rows_without_a_place_lost: missing,
            switch_ms_max: switch_ms.iter().copied().reduce(f64::max),
            switch_ms,
            proved,
            serving: serving.into_iter().map(str::to_owned).collect(),
            releases: report.releases.clone(),
            seconds: took.as_secs(),
        }
    }

    /// What the demo promises, and whether it was kept.
    fn promises(&self) -> [(&'static str, bool); 7] {
        [
            ("no request failed, but for the bad release's own errors", self.failed_requests == 0),
            ("the bad release was found out by its answers", self.failed_requests_of_bad_release > 0),
            (
                "no acknowledged write was lost",
                self.acknowledged_writes > 0 && self.acknowledged_writes_lost == 0,
            ),
            ("the migration went back with later writes", self.carried_back > 0),
            (
                "what had no place then is there again",
                self.rows_without_a_place > 0 && self.rows_without_a_place_lost == 0,
            ),
            ("production serves the mended release", self.serving == [MENDED]),
            ("every switch of traffic was timed", self.switch_ms_max.is_some()),
        ]
    }

    /// Tells whether everything came as promised.
    pub(crate) fn is_as_promised(&self) -> bool {
        self.promises().iter().all(|(_, kept)| *kept)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        writeln!(f, "  release   requests   failed   p50 ms   p95 ms   p99 ms   max ms")?;
        for (name, release) in &self.releases {
            writeln!(
                f,
                "  {name:<7} {:>10} {:>8} {:>8.1} {:>8.1} {:>8.1} {:>8.1}",
                release.requests,
                release.failed,
                release.p50_ms,
                release.p95_ms,
                release.p99_ms,
                release.max_ms
            )?;
        }
        writeln!(f)?;
        writeln!(f, "  requests                          {:>10}", self.requests)?;
        writeln!(f, "  failed                            {:>10}", self.failed_requests)?;
        writeln!(
            f,
            "  failed by the bad release itself  {:>10} of its {}",
            self.failed_requests_of_bad_release, self.requests_of_bad_release
        )?;
        writeln!(f, "  writes acknowledged               {:>10}", self.acknowledged_writes)?;
        writeln!(f, "  of them lost                      {:>10}", self.acknowledged_writes_lost)?;
        writeln!(f, "  went back with the migration      {:>10}", self.carried_back)?;
        writeln!(f, "  rows that had no place then       {:>10}", self.rows_without_a_place)?;
        writeln!(f, "  of them lost                      {:>10}", self.rows_without_a_place_lost)?;
        if let Some(longest) = self.switch_ms_max {
            writeln!(
                f,
                "  longest switch of traffic         {longest:>10.2} ms, of {}",
                self.switch_ms.len()
            )?;
        }
        if let Some(proved) = &self.proved {
            writeln!(
                f,
                "  backup restored and compared      {:>10} rows in {} tables",
                proved["rows"], proved["tables"]
            )?;
        }
        writeln!(f)?;
        for (promise, kept) in self.promises() {
            writeln!(f, "  {} {promise}", if kept { "✓" } else { "✗" })?;
        }
        Ok(())
    }
}
