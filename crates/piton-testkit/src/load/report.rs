//! What is kept of the requests, and the report made of it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use rand::RngExt as _;
use serde::{Serialize, Serializer};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::{Call, Client};

/// The width of a slice of the timeline.
const SLICE: Duration = Duration::from_millis(100);
/// The greatest latency that is told apart, in microseconds.
const SLOWEST: u64 = 120_000_000;
/// Releases that are told apart; a server that makes up a new one for each answer must not fill the memory.
const MOST_RELEASES: usize = 32;
/// Examples kept of each kind of failure.
const EXAMPLES: usize = 3;
/// Ids asked for in one statement.
const BLOCK: usize = 5000;
/// The release of a request that got no answer, or one without `x-release`.
const NO_RELEASE: &str = "none";

/// Why a request counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// No connection could be opened.
    Connect,
    /// The connection ended before an answer came.
    Closed,
    /// The answer ended before its end.
    Broken,
    /// No answer within the client's patience.
    Timeout,
    /// The load generator itself could not keep up.
    NotSent,
    /// An answer whose status is not 2xx.
    Status(u16),
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("connect"),
            Self::Closed => f.write_str("closed"),
            Self::Broken => f.write_str("broken"),
            Self::Timeout => f.write_str("timeout"),
            Self::NotSent => f.write_str("not sent"),
            Self::Status(status) => write!(f, "status {status}"),
        }
    }
}

impl Serialize for FailureKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How one request ended.
#[derive(Clone, Debug)]
pub(super) enum Ending {
    Answered { status: u16, release: Option<String> },
    Failed(FailureKind, String),
}

/// One request that has ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) due: Instant,
    pub(super) sent: Instant,
    pub(super) ended: Instant,
    pub(super) call: Call,
    pub(super) ending: Ending,
}

#[derive(Debug)]
struct ReleaseTally {
    failed: u64,
    latency: Histogram<u64>,
}

/// Everything counted so far.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) begin: Instant,
    pub(super) acknowledged: Acknowledged,
    pub(super) resent: u64,
    began: SystemTime,
    writes: u32,
    releases: BTreeMap<String, ReleaseTally>,
    failures: BTreeMap<(String, FailureKind), Failure>,
    timeline: Vec<BTreeMap<String, Share>>,
}

impl Tally {
    pub(super) fn new(write_path: &str) -> Self {
        let run: u64 = rand::random();
        Self {
            begin: Instant::now(),
            began: SystemTime::now(),
            acknowledged: Acknowledged {
                prefix: format!("load-{run:016x}-"),
                path: write_path.to_owned(),
                numbers: Vec::new(),
            },
            resent: 0,
            writes: 0,
            releases: BTreeMap::new(),
            failures: BTreeMap::new(),
            timeline: Vec::new(),
        }
    }

    /// Returns the number and the id of the next write.
    pub(super) fn next_write(&mut self) -> (u32, String) {
        let number = self.writes;
        self.writes += 1;
        (number, self.acknowledged.id(number))
    }

    pub(super) fn count(&mut self, outcome: Outcome) {
        let (release, failure) = match outcome.ending {
            Ending::Answered { status, release } => (
                release,
                (!(200..300).contains(&status)).then(|| (FailureKind::Status(status), String::new())),
            ),
            Ending::Failed(kind, detail) => (None, Some((kind, detail))),
        };
        let release = self.known(release.as_deref().unwrap_or(NO_RELEASE));
        let failed = u64::from(failure.is_some());
        let at = outcome.sent.saturating_duration_since(self.begin);

        let tally = self
            .releases
            .entry(release.clone())
            .or_insert_with(|| ReleaseTally { failed: 0, latency: histogram() });
        tally.failed += failed;
        tally.latency.saturating_record(micros(outcome.ended.saturating_duration_since(outcome.due)));

        let slice = usize::try_from(at.as_millis() / SLICE.as_millis()).unwrap_or(usize::MAX);
        if self.timeline.len() <= slice {
            self.timeline.resize_with(slice + 1, BTreeMap::new);
        }
        let share = self.timeline[slice].entry(release.clone()).or_default();
        share.requests += 1;
        share.failed += failed;
        share.last_ms = share.last_ms.max(at.as_secs_f64() * 1000.0);

        match (failure, outcome.call) {
            (None, Call::Write { number, .. }) => self.acknowledged.numbers.push(number),
            (None, Call::Read { .. }) => {}
            (Some((kind, detail)), call) => {
                let new = Failure { release: release.clone(), kind, count: 0, first: Vec::new() };
                let group = self.failures.entry((release, kind)).or_insert(new);
                group.count += 1;
                if group.first.len() < EXAMPLES {
                    group.first.push(Example { at_ms: at.as_secs_f64() * 1000.0, call: call.name(), detail });
                }
            }
        }
    }

    /// Returns the label under which a release is counted.
    fn known(&self, release: &str) -> String {
        if self.releases.contains_key(release) || self.releases.len() < MOST_RELEASES {
            release.chars().take(64).collect()
        } else {
            "others".to_owned()
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        // The slice that is being filled would show less than a second's worth.
        let recent = self.timeline.iter().rev().skip(1).take(10);
        let mut last_second = BTreeMap::<String, Share>::new();
        for (release, share) in recent.flatten() {
            let sum = last_second.entry(release.clone()).or_default();
            sum.requests += share.requests;
            sum.failed += share.failed;
            sum.last_ms = sum.last_ms.max(share.last_ms);
        }
        Snapshot {
            elapsed: self.begin.elapsed(),
            requests: self.releases.values().map(|r| r.latency.len()).sum(),
            failed: self.releases.values().map(|r| r.failed).sum(),
            acknowledged_writes: self.acknowledged.numbers.len(),
            last_second,
        }
    }

    pub(super) fn report(&self) -> Report {
        let releases = self.releases.iter().map(|(name, tally)| (name.clone(), tally.report())).collect();
        let slices = self.timeline.iter().enumerate().filter(|(_, releases)| !releases.is_empty());
        Report {
            began: self.began,
            requests: self.releases.values().map(|r| r.latency.len()).sum(),
            failed: self.releases.values().map(|r| r.failed).sum(),
            resent: self.resent,
            releases,
            failures: self.failures.values().cloned().collect(),
            timeline: slices
                .map(|(n, releases)| Slice {
                    at_ms: n as u64 * SLICE.as_millis() as u64,
                    releases: releases.clone(),
                })
                .collect(),
            acknowledged: self.acknowledged.clone(),
        }
    }
}

impl ReleaseTally {
    fn report(&self) -> ReleaseReport {
        let at = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1000.0;
        ReleaseReport {
            requests: self.latency.len(),
            failed: self.failed,
            p50_ms: at(0.5),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            max_ms: self.latency.max() as f64 / 1000.0,
        }
    }
}

#[expect(clippy::expect_used, reason = "the bounds are constants")]
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, SLOWEST, 3).expect("a lower bound of 1 and three digits are valid")
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The numbers of a load that is under way.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// Since the start.
    pub elapsed: Duration,
    /// Requests that have ended.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Writes answered with 2xx.
    pub acknowledged_writes: usize,
    /// The last whole second by release.
    pub last_second: BTreeMap<String, Share>,
}

/// What became of all requests of a load.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When the load began; every `at_ms` and `last_ms` counts from here.
    #[serde(serialize_with = "unix_ms")]
    pub began: SystemTime,
    /// All requests.
    pub requests: u64,
    /// Requests without an answer, or with one that is not 2xx.
    pub failed: u64,
    /// Requests that were sent on a second connection because the server had closed the first before they were sent.
    pub resent: u64,
    /// By the answers' `x-release`; `none` holds requests without one.
    pub releases: BTreeMap<String, ReleaseReport>,
    /// The failures by release and kind, with the first of each.
    pub failures: Vec<Failure>,
    /// The requests by when they were sent, in slices of 100 ms; empty slices are left out.
    pub timeline: Vec<Slice>,
    /// The writes that were answered with 2xx.
    #[serde(skip)]
    pub acknowledged: Acknowledged,
}

fn unix_ms<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(serde::ser::Error::custom)?;
    serializer.serialize_f64(since.as_secs_f64() * 1000.0)
}

/// One release's part of a load; latencies count from when a request was due to the end of its answer.
#[derive(Clone, Debug, Serialize)]
pub struct ReleaseReport {
    /// Requests it answered.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// The median latency.
    pub p50_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// The failures of one kind at one release.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The release, or `none`.
    pub release: String,
    /// What went wrong.
    pub kind: FailureKind,
    /// How often.
    pub count: u64,
    /// The first of them.
    pub first: Vec<Example>,
}

/// One failure.
#[derive(Clone, Debug, Serialize)]
pub struct Example {
    /// When the request was sent, in milliseconds after the load began.
    pub at_ms: f64,
    /// What was asked.
    pub call: String,
    /// The error's text; empty for an answer with a bad status.
    pub detail: String,
}

/// 100 ms of the timeline.
#[derive(Clone, Debug, Serialize)]
pub struct Slice {
    /// Where the slice starts, in milliseconds after the load began.
    pub at_ms: u64,
    /// The requests sent in it.
    pub releases: BTreeMap<String, Share>,
}

/// One release's part of a slice.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Share {
    /// Requests it answered.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// When the last of them was sent, in milliseconds after the load began.
    pub last_ms: f64,
}

/// The writes whose clients were told that they had been saved.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    prefix: String,
    path: String,
    numbers: Vec<u32>,
}

/// Why it could not be found out whether writes are still there.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database did not answer.
    #[error("the acknowledged writes could not be looked up in the database")]
    Database(#[from] tokio_postgres::Error),
    /// The app answered neither 2xx nor 404.
    #[error("{call} could not be verified: {kind}")]
    Api {
        /// What was asked.
        call: String,
        /// What came.
        kind: FailureKind,
    },
}

impl Acknowledged {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Returns their ids in the order of the answers.
    pub fn ids(&self) -> impl Iterator<Item = String> {
        self.numbers.iter().map(|number| self.id(*number))
    }

    fn id(&self, number: u32) -> String {
        format!("{}{number}", self.prefix)
    }

    pub(super) fn random_id(&self) -> Option<String> {
        let chosen = rand::rng().random_range(0..self.numbers.len().max(1));
        self.numbers.get(chosen).map(|number| self.id(*number))
    }

    /// Returns the ids that the table's text column `id` does not hold.
    ///
    /// # Errors
    /// When the database refuses the query.
    pub async fn lost_in_table(
        &self,
        database: &tokio_postgres::Client,
        table: &str,
    ) -> Result<Vec<String>, VerifyError> {
        let table = format!("\"{}\"", table.replace('"', "\"\""));
        let sql = format!(
            "select sought from unnest($1::text[]) sought where not exists (select from {table} t where t.id = sought)"
        );
        let mut lost = Vec::new();
        for block in self.numbers.chunks(BLOCK) {
            let ids: Vec<String> = block.iter().map(|number| self.id(*number)).collect();
            lost.extend(database.query(&sql, &[&ids]).await?.iter().map(|row| row.get::<_, String>(0)));
        }
        Ok(lost)
    }

    /// Returns the ids for which the app answers 404.
    ///
    /// # Errors
    /// When the app fails to answer, or answers with anything but 2xx and 404.
    pub async fn lost_in_api(&self, target: SocketAddr) -> Result<Vec<String>, VerifyError> {
        let client = Arc::new(Client::new(target, Duration::from_secs(10), true));
        let mut lost = Vec::new();
        for block in self.numbers.chunks(8) {
            let mut asked = JoinSet::new();
            for number in block {
                let id = self.id(*number);
                let call = Call::Read { path: format!("{}/{id}", self.path) };
                let client = Arc::clone(&client);
                asked.spawn(async move { (client.call(&call).await.0, call.name(), id) });
            }
            for (ending, call, id) in asked.join_all().await {
                match ending {
                    Ending::Answered { status: 200..300, .. } => {}
                    Ending::Answered { status: 404, .. } => lost.push(id),
                    Ending::Answered { status, .. } => {
                        return Err(VerifyError::Api { call, kind: FailureKind::Status(status) });
                    }
                    Ending::Failed(kind, _) => return Err(VerifyError::Api { call, kind }),
                }
            }
        }
        Ok(lost)
    }
}
