//! The journal against real files: what is appended stays, what may not follow is refused, and one holder at a time writes.

mod chain;
mod folding;
mod leases;

use std::path::PathBuf;
use std::process::Child;

use jiff::Timestamp;
use piton_proxy::Slot;
use serde_json::json;
use tempfile::TempDir;

use super::{Event, Journal, Lease, Operator};
use crate::plan::{Commit, Job, Phase, Plan, PlannedStep};
use crate::retention::Retention;
use crate::step::{Checks, Prune, Step};

/// Makes a plan of steps that do nothing; those from the third on are the traffic's, and the last one closes the way back.
pub(crate) fn plan(id: &str, steps: usize) -> Plan {
    let nothing = |index: usize| {
        let step = if index + 1 == steps {
            let keep = std::time::Duration::from_secs(86_400);
            Step::from(Prune {
                folder: PathBuf::from("/nonexistent"),
                retention: Retention { keep, last: 0, daily: 0, weekly: 0 },
            })
        } else {
            Step::from(Checks { port: 1, app: PathBuf::from("/"), checks: Vec::new() })
        };
        PlannedStep {
            id: format!("step.{index}"),
            phase: match index {
                _ if index + 1 == steps => Phase::Settle,
                0 | 1 => Phase::Start,
                _ => Phase::Shift,
            },
            does: "nothing".into(),
            commands: Vec::new(),
            undo: "nothing".into(),
            step,
        }
    };
    Plan {
        id: id.into(),
        job: Job::Release,
        app: "shop".into(),
        environment: "production".into(),
        protected: true,
        commit: Commit { hash: "3f9c2e1".repeat(5), subject: "Faster".into() },
        live: None,
        slot: Slot::Blue,
        stay: false,
        steps: (0..steps).map(nothing).collect(),
        remarks: Vec::new(),
    }
}

/// A journal in a folder of its own.
struct Opened {
    dir: TempDir,
    journal: Journal,
}

impl Opened {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(&dir.path().join("journal.db")).unwrap();
        Self { dir, journal }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("journal.db")
    }

    /// Opens the file past Piton, as somebody who wants to change it would.
    fn raw(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }

    /// Takes production's lease for this process.
    fn lease(&mut self) -> Lease {
        self.journal.acquire("production", &Operator::this_process()).unwrap()
    }

    /// Appends a release with two done steps: five events.
    fn five_events(&mut self) -> Lease {
        let lease = self.lease();
        for event in five_events() {
            self.journal.append(&lease, "R1", &event).unwrap();
        }
        lease
    }
}

fn created(steps: usize) -> Event {
    Event::Created { plan: Box::new(plan("R1", steps)), by: Operator::this_process() }
}

fn started(index: usize, attempt: u32) -> Event {
    Event::Started { step: format!("step.{index}"), attempt }
}

fn done(index: usize) -> Event {
    Event::Done { step: format!("step.{index}"), outcome: json!({ "rows": 7 }) }
}

fn five_events() -> [Event; 5] {
    [created(3), started(0, 1), done(0), started(1, 1), done(1)]
}

/// A living process of this machine and its name in the journal; it ends with the test.
struct Sleeper {
    child: Child,
    operator: Operator,
}

impl Sleeper {
    fn start(user: &str) -> Self {
        let child = std::process::Command::new("sleep").arg("300").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let started = procfs::process::Process::new(pid).unwrap().stat().unwrap().starttime;
        let operator = Operator { user: user.into(), pid, started, ..Operator::this_process() };
        Self { child, operator }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // Already dead when the test killed it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ago(seconds: i64) -> String {
    let at = Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
    at.to_string()
}
