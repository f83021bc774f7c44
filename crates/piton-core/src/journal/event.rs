use jiff::Timestamp;
use piton_db::changes::TableChange;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::Fault;
use crate::plan::Plan;

/// One thing that happened to a release.
///
/// Events are only ever appended. Every view of a release is a fold over them, and [`crate::journal::State::apply`] is the
/// one place that says which event may follow which.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// The release exists, with the plan that it will follow.
    Created {
        /// What will run, as stored; nothing else ever runs.
        plan: Box<Plan>,
        /// Who asked for it.
        by: Operator,
    },
    /// A process took the release up: at its start, or to carry it on.
    TakenUp {
        /// The process and its owner.
        by: Operator,
    },
    /// The process left the release on purpose, to be carried on later.
    Left {
        /// Why, in words.
        why: String,
    },
    /// A step is about to act.
    Started {
        /// The step.
        step: String,
        /// 1 at first, one more for each time that the step had to be taken up again.
        attempt: u32,
    },
    /// A program was run for a step.
    Ran {
        /// The step.
        step: String,
        /// The command as printed in the plan, without secrets.
        command: String,
        /// Its exit code.
        code: i32,
        /// How long it ran, in milliseconds.
        ms: u64,
    },
    /// A program that outlives the release was started for a step: an app, a proxy.
    Launched {
        /// The step.
        step: String,
        /// The command as printed in the plan, without secrets.
        command: String,
        /// Its process.
        pid: u32,
    },
    /// What others wrote since the backup was counted, before it leaves the live database or a person is asked about that.
    Counted {
        /// The step.
        step: String,
        /// Each table with what would leave it; empty when nothing would.
        leaving: Vec<TableChange>,
        /// Why it could not be counted.
        unknown: Option<String>,
    },
    /// A step leaves what it must find again when it is taken up later.
    Noted {
        /// The step.
        step: String,
        /// What is noted, in the step's own form.
        note: Value,
    },
    /// A step has acted.
    Done {
        /// The step.
        step: String,
        /// What came of it, in the step's own form.
        outcome: Value,
    },
    /// A step could not act.
    Failed {
        /// The step.
        step: String,
        /// What, why, and the way on.
        fault: Fault,
    },
    /// A person asked for something, and the release took it up.
    Asked {
        /// What was asked.
        request: Request,
        /// By whom.
        by: Operator,
        /// When it was asked.
        at: Timestamp,
    },
    /// The release turned back: from here on, steps are undone.
    TurnedBack {
        /// Why.
        reason: Back,
        /// Whether the database goes back to the golden copy even when rows were written since.
        database: bool,
        /// Whether a person says that only once the traffic is back; until then the migration waits.
        undecided: bool,
    },
    /// A step is about to be undone.
    UndoStarted {
        /// The step.
        step: String,
        /// 1 at first, one more for each time that the undo had to be taken up again.
        attempt: u32,
    },
    /// A step has been undone.
    Undone {
        /// The step.
        step: String,
        /// What came of it, in the step's own form.
        outcome: Value,
    },
    /// A step could not be undone.
    UndoFailed {
        /// The step.
        step: String,
        /// What, why, and the way on.
        fault: Fault,
    },
    /// The golden copy does not follow the live database at this moment; it is tried again and again.
    Behind {
        /// The step during which it was noticed.
        step: String,
        /// Why.
        why: String,
    },
    /// The golden copy that did not follow follows again.
    CaughtUp {
        /// The step during which it was noticed.
        step: String,
    },
    /// A service of the environment that has died is about to be started again.
    Reviving {
        /// What is started.
        what: String,
    },
    /// A service of the environment that had died was started again.
    Revived {
        /// What was started.
        what: String,
    },
    /// A person has said how a half-applied migration stands; the database's record is about to be changed.
    Recording {
        /// The migration's file.
        migration: String,
        /// Whether all of it is applied; else nothing of it.
        applied: bool,
        /// Who.
        by: Operator,
    },
    /// A person has said how a half-applied migration stands, and the database's record says so now.
    Recorded {
        /// The migration's file.
        migration: String,
        /// Whether all of it is applied; else nothing of it.
        applied: bool,
        /// Who.
        by: Operator,
    },
    /// The release is over.
    Ended {
        /// How.
        outcome: Outcome,
    },
}

impl Event {
    /// Returns the event's name as it is stored.
    pub fn kind(&self) -> &'static str {
        match self {
            Event::Created { .. } => "created",
            Event::TakenUp { .. } => "taken_up",
            Event::Left { .. } => "left",
            Event::Started { .. } => "started",
            Event::Ran { .. } => "ran",
            Event::Launched { .. } => "launched",
            Event::Counted { .. } => "counted",
            Event::Noted { .. } => "noted",
            Event::Done { .. } => "done",
            Event::Failed { .. } => "failed",
            Event::Asked { .. } => "asked",
            Event::TurnedBack { .. } => "turned_back",
            Event::UndoStarted { .. } => "undo_started",
            Event::Undone { .. } => "undone",
            Event::Recording { .. } => "recording",
            Event::Recorded { .. } => "recorded",
            Event::UndoFailed { .. } => "undo_failed",
            Event::Behind { .. } => "behind",
            Event::CaughtUp { .. } => "caught_up",
            Event::Reviving { .. } => "reviving",
            Event::Revived { .. } => "revived",
            Event::Ended { .. } => "ended",
        }
    }

    /// Returns the step that the event speaks of.
    pub fn step(&self) -> Option<&str> {
        match self {
            Event::Started { step, .. }
            | Event::Ran { step, .. }
            | Event::Launched { step, .. }
            | Event::Counted { step, .. }
            | Event::Noted { step, .. }
            | Event::Done { step, .. }
            | Event::Failed { step, .. }
            | Event::Behind { step, .. }
            | Event::CaughtUp { step }
            | Event::UndoStarted { step, .. }
            | Event::Undone { step, .. }
            | Event::UndoFailed { step, .. } => Some(step),
            _ => None,
        }
    }
}

/// Why a release turned back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "because", rename_all = "snake_case")]
pub enum Back {
    /// A step failed through the release's own fault.
    Fault {
        /// The step that failed.
        step: String,
    },
    /// The gate judged the live answers.
    Verdict {
        /// The verdict in one sentence with its numbers.
        why: String,
    },
    /// A person asked for it.
    Asked {
        /// Who.
        by: String,
    },
}

/// How a release ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is the environment's release now.
    Succeeded,
    /// Everything was undone; the previous release serves as before.
    RolledBack,
    /// A guard refused it before anything was touched.
    Refused,
}

/// What a person may ask of a running release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Undo everything.
    Abort,
    /// Undo everything, traffic first; with the database when asked.
    Rollback {
        /// Whether the database goes back to the golden copy.
        database: bool,
        /// Whether that is said only once the traffic is back, by another request.
        undecided: bool,
    },
    /// Stay at the present share of traffic.
    Hold,
    /// Go on: lifts a person's hold; without one, the present step ends with its time although the gate holds.
    Continue {
        /// Whether the present step ends at once, before its time.
        #[serde(default)]
        now: bool,
    },
    /// Give up the way back, because the release before cannot run: all traffic to the new one, whatever the gate says.
    Forward,
}

impl Request {
    /// Tells whether it asks the release to go back.
    pub fn goes_back(self) -> bool {
        matches!(self, Self::Abort | Self::Rollback { .. })
    }
}

/// A person at a machine, and the process that acts for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// The login name.
    pub user: String,
    /// The machine's name.
    pub host: String,
    /// The process id.
    pub pid: i32,
    /// When that process started, in clock ticks after boot: with the id it names one process.
    pub started: u64,
    /// The boot of the machine that the process belongs to.
    pub boot: String,
}

impl Operator {
    /// Describes this process.
    pub fn this_process() -> Self {
        // From the system's accounts, not from $USER, which a service or `su` leaves unset or wrong. Several operators share
        // one account: sudo names the person.
        let person = std::env::var("SUDO_USER").ok();
        let user = person
            .filter(|name| !name.is_empty() && !name.contains(char::is_control))
            .or_else(|| whoami::username().ok())
            .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        Self {
            user,
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            pid,
            started: start_of(pid).unwrap_or(0),
            boot: boot_id(),
        }
    }

    /// Tells whether the process certainly no longer exists.
    ///
    /// False when it lives or when it belongs to another machine.
    pub fn is_gone(&self) -> bool {
        let here = Self::this_process();
        here.host == self.host && (here.boot != self.boot || start_of(self.pid) != Some(self.started))
    }
}

impl std::fmt::Display for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {} (process {})", self.user, self.host, self.pid)
    }
}

fn start_of(pid: i32) -> Option<u64> {
    let stat = procfs::process::Process::new(pid).ok()?.stat().ok()?;
    (stat.state != 'Z').then_some(stat.starttime)
}

/// Returns the identifier of the machine's present boot.
pub(crate) fn boot_id() -> String {
    fs_err::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
