//! Measures what a durable step costs: a release of 10,000 steps that do nothing, through the engine and into a journal on disk.
//!
//! The peer is SQLite alone: two inserts of the same size for each step, each in a transaction of its own, with the same
//! settings (WAL, `synchronous=FULL`) on the same disk. Run it with `bench/engine` from the top of the repository.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark ends at the first fault and prints its figures"
)]

use std::cell::RefCell;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use piton_core::config;
use piton_core::dirs::Dirs;
use piton_core::engine::{self, End, Recorder, Watcher};
use piton_core::journal::{Event, Journal, Operator, Outcome, State};
use piton_core::plan::{Commit, Job, Phase, Plan, PlannedStep};
use piton_core::step::{Checks, World};
use piton_proxy::Slot;
use piton_testkit::bench::{Report, Row};

const RUNS: usize = 3;
const STEPS: usize = 10_000;
/// How many steps at the beginning and at the end of a release are compared.
const PART: usize = 1_000;
const GOAL_MS: f64 = 2.0;

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --all-targets` runs benchmarks too, without this; it has no minutes to spare.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    // On the disk that journals are on, which a temporary folder in memory is not.
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        println!("run {run} of {RUNS}: a release of {STEPS} steps, then {} plain inserts", 2 * STEPS);
        let dir = tempfile::tempdir_in(&target)?;
        let times = runtime.block_on(release(dir.path()));
        let sizes = sizes(dir.path());
        ours.push(Run::from(&times));
        peer.push(Run::from(&inserts(dir.path(), &sizes)));
    }
    let rows = [
        (format!("a step, over all {STEPS}"), (|run| run.whole) as fn(&Run) -> f64),
        (format!("a step, the first {PART}"), |run| run.first),
        (format!("a step, the last {PART}"), |run| run.last),
    ];
    let rows: Vec<Row> = rows
        .into_iter()
        .map(|(case, figure)| {
            let of = |runs: &[Run]| runs.iter().map(figure).collect::<Vec<_>>();
            Row::of(case, &of(&ours), &of(&peer), "sqlite")
        })
        .collect();
    let (whole, growth) = (rows[0].ours, rows[2].ours / rows[1].ours);
    let report = Report {
        name: "engine",
        unit: "ms per durable step",
        goal: "<= 2 ms, linear up to 10,000 steps",
        rows,
    };
    report.publish()?;
    let reached = if whole <= GOAL_MS && growth < 1.5 { "reached" } else { "MISSED" };
    println!("goal, <= {GOAL_MS} ms and linear (the last steps cost {growth:.2} times the first): {reached}");
    Ok(())
}

/// What one run came to, in milliseconds for a step.
struct Run {
    whole: f64,
    first: f64,
    last: f64,
}

impl From<&Vec<Duration>> for Run {
    fn from(times: &Vec<Duration>) -> Self {
        let mean = |part: &[Duration]| part.iter().sum::<Duration>().as_secs_f64() * 1e3 / part.len() as f64;
        Self { whole: mean(times), first: mean(&times[..PART]), last: mean(&times[times.len() - PART..]) }
    }
}

/// Takes the time of each step, from the outcome of the one before to its own.
struct Clock {
    last: RefCell<Instant>,
    times: RefCell<Vec<Duration>>,
}

impl Watcher for Clock {
    fn event(&self, event: &Event, _state: &State) {
        match event {
            Event::Created { .. } => *self.last.borrow_mut() = Instant::now(),
            Event::Done { .. } => {
                let now = Instant::now();
                self.times.borrow_mut().push(now - self.last.replace(now));
            }
            _ => {}
        }
    }

    fn progress(&self, _step: &str, _text: &str) {}
}

/// Runs a whole release and returns what each step took.
async fn release(dir: &Path) -> Vec<Duration> {
    let world = world(dir);
    let mut journal = Journal::open(&world.dirs.journal()).unwrap();
    let by = Operator::this_process();
    let lease = journal.acquire("production", &by).unwrap();
    let clock = Clock { last: RefCell::new(Instant::now()), times: RefCell::default() };
    let recorder = Recorder::create(journal, lease, plan(), by, &clock).unwrap();
    let recorder = RefCell::new(recorder);
    let end = engine::run(&recorder, &world, std::future::pending()).await.unwrap();
    assert_eq!(end, End::Over(Outcome::Succeeded));
    recorder.into_inner().finish().unwrap();
    let times = clock.times.into_inner();
    assert_eq!(times.len(), STEPS);
    times
}

fn plan() -> Plan {
    let step = |index: usize| PlannedStep {
        id: format!("step.{index}"),
        phase: Phase::Start,
        does: "nothing".into(),
        commands: Vec::new(),
        undo: "nothing".into(),
        step: Checks { port: 1, app: "/".into(), checks: Vec::new() }.into(),
    };
    Plan {
        id: "01JD0000000000000000000000".into(),
        job: Job::Release,
        app: "bench".into(),
        environment: "production".into(),
        protected: true,
        commit: Commit { hash: "0".repeat(40), subject: "Nothing".into() },
        live: None,
        slot: Slot::Blue,
        stay: false,
        steps: (0..STEPS).map(step).collect(),
        remarks: Vec::new(),
    }
}

fn world(dir: &Path) -> World {
    let text = r#"
        app = "bench"
        [run]
        command = "true"
        ready = { get = "/" }
        [environments.production]
        listen = "127.0.0.1:8080"
        ports = { blue = 3001, green = 3002 }
    "#;
    fs_err::write(dir.join("piton.toml"), text).unwrap();
    World {
        settings: config::load(dir).unwrap().environment("production", &|_| None).unwrap(),
        from: None,
        others: Vec::new(),
        dirs: Dirs::new(dir),
        piton: "/nonexistent".into(),
        released_before: Vec::new(),
        backed_up_commit: None,
        backed_up_checks: Vec::new(),
        serving: None,
        should_run: Vec::new(),
    }
}

/// Returns the size of each row of the release that was just journaled, but of its plan.
fn sizes(dir: &Path) -> Vec<i64> {
    let db = rusqlite::Connection::open(Dirs::new(dir).journal()).unwrap();
    let mut query = db
        .prepare(
            "SELECT length(release) + length(at) + length(kind) + length(body) + length(hash) FROM events
             WHERE kind IN ('started', 'done') ORDER BY seq",
        )
        .unwrap();
    query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Inserts rows of the same sizes, two a step, and returns what each pair took.
fn inserts(dir: &Path, sizes: &[i64]) -> Vec<Duration> {
    let db = rusqlite::Connection::open(dir.join("plain.db")).unwrap();
    db.pragma_update(None, "journal_mode", "wal").unwrap();
    db.pragma_update(None, "synchronous", "full").unwrap();
    db.execute_batch("CREATE TABLE rows (seq INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT").unwrap();
    let mut insert = db.prepare("INSERT INTO rows (body) VALUES (hex(zeroblob(?1 / 2)))").unwrap();
    let pairs = sizes.chunks(2);
    pairs
        .map(|pair| {
            let start = Instant::now();
            for size in pair {
                insert.execute([size]).unwrap();
            }
            start.elapsed()
        })
        .collect()
}
