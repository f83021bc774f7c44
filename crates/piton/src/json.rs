//! The JSON that `--json` prints: a written contract (docs/json.md), made apart from the internal types.

use miette::Diagnostic as _;
use piton_core::backups::Stored;
use piton_core::fault::Fault;
use piton_core::journal::{Back, LeaseInfo, Outcome, Progress, State};
use piton_core::plan::{Live, Plan};
use piton_core::step::{Finding, Lost};
use piton_db::loss::TableLoss;
use serde_json::{Value, json};

use crate::error::Error;

/// Writes a value with indentation.
pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}")
}

/// Describes why a command did not succeed.
pub(crate) fn error(error: &Error) -> Value {
    match error {
        Error::Fault(found) => fault(found),
        Error::Config(error) => json!({
            "what": error.to_string(),
            "why": error.messages().collect::<Vec<_>>(),
            "hint": error.help().map(|help| help.to_string()),
        }),
    }
}

/// Describes a fault.
pub(crate) fn fault(fault: &Fault) -> Value {
    json!({ "what": fault.what, "why": fault.why, "hint": fault.hint })
}

/// Describes what the guards found.
pub(crate) fn findings(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        json!({
            "guard": finding.guard,
            "refusal": finding.refusal.as_ref().map(fault),
        })
    };
    findings.iter().map(one).collect()
}

/// Describes a plan.
pub(crate) fn plan(plan: &Plan) -> Value {
    json!({
        "release": plan.id,
        "job": plan.job,
        "app": plan.app,
        "environment": plan.environment,
        "protected": plan.protected,
        "commit": plan.commit,
        "slot": plan.slot,
        "live": plan.live.as_ref().map(live),
        "remarks": plan.remarks,
        "steps": plan.steps.iter().map(|step| json!({
            "id": step.id,
            "phase": step.phase,
            "does": step.does,
            "commands": step.commands,
            "undo": step.undo,
        })).collect::<Vec<_>>(),
    })
}

/// Describes the release that serves.
pub(crate) fn live(live: &Live) -> Value {
    json!({
        "release": live.release,
        "commit": live.commit,
        "slot": live.start.slot,
        "port": live.start.port,
        "since": live.since,
    })
}

/// Describes where a release stands.
pub(crate) fn release(state: &State, holder: Option<&LeaseInfo>) -> Value {
    json!({
        "release": state.plan.id,
        "job": state.plan.job,
        "app": state.plan.app,
        "environment": state.plan.environment,
        "commit": state.plan.commit,
        "slot": state.plan.slot,
        "begun_by": state.by.user,
        "begun": state.created,
        "outcome": outcome(state),
        "ended": state.ended.map(|(_, at)| at),
        "held": state.held,
        "back": state.back.as_ref().map(|turned| json!({
            "reason": reason(&turned.reason),
            "database": turned.database,
            "undecided": turned.undecided,
            "at": turned.at,
        })),
        "fault": standing(state).map(|(step, found)| {
            let mut value = fault(found);
            value["step"] = json!(step);
            value
        }),
        "behind": state.behind.as_ref().map(|(why, _)| why),
        "loss": state.lost().as_ref().map(loss),
        "databases_kept": state.kept_databases(),
        "run_by": holder.map(|holder| json!({
            "user": holder.operator.user,
            "host": holder.operator.host,
            "pid": holder.operator.pid,
            "since": holder.since,
        })),
        "steps": state.plan.steps.iter().zip(&state.steps).map(|(planned, step)| json!({
            "id": planned.id,
            "phase": planned.phase,
            "state": progress(&step.progress),
            "attempts": step.attempts,
            "started": step.first_started,
            "finished": step.finished,
            "outcome": step.outcome,
            "undo_outcome": step.undo_outcome,
        })).collect::<Vec<_>>(),
    })
}

/// Returns the fault at which a run stands, or for which it has undone all that it had made.
fn standing(state: &State) -> Option<(&str, &Fault)> {
    let refusal = || state.back.as_ref()?.refusal.as_ref().map(|(step, fault)| (step.as_str(), fault));
    state.standing_fault().or_else(refusal)
}

/// Describes what is lost when an older database takes the live one's place.
fn loss(lost: &Lost) -> Value {
    let table = |table: &TableLoss| {
        json!({
            "table": table.table,
            "inserted": table.inserted,
            "changed": table.changed,
            "deleted": table.deleted,
        })
    };
    json!({
        "writes": lost.loss.total(),
        "accepted": lost.accepted,
        "tables": lost.loss.tables.iter().map(table).collect::<Vec<_>>(),
        "large_objects": lost.loss.large_objects,
        "objects": lost.loss.objects,
        "file": lost.file,
    })
}

/// Describes an environment's backups.
pub(crate) fn backups(environment: &str, stored: &[Stored]) -> Value {
    let one = |stored: &Stored| match &stored.manifest {
        Ok(manifest) => json!({
            "backup": stored.id,
            "folder": stored.folder,
            "here": stored.here,
            "stored": stored.stored,
            "damaged": null,
            "taken": manifest.snapshot_at,
            "database": manifest.source.name,
            "server_version": manifest.source.server_version_num,
            "tables": manifest.tables.len(),
            "rows": manifest.total_rows(),
            "bytes": manifest.total_bytes(),
            "commit": manifest.made_for.commit,
            "serving": manifest.made_for.serving,
            "proved": stored.proved.as_ref().map(|proved| json!({
                "at": proved.at,
                "system_identifier": proved.system_identifier,
                "server_version": proved.server_version_num,
            })),
        }),
        Err(error) => json!({
            "backup": stored.id,
            "folder": stored.folder,
            "here": stored.here,
            "stored": stored.stored,
            "damaged": error.to_string(),
        }),
    };
    json!({ "environment": environment, "backups": stored.iter().map(one).collect::<Vec<_>>() })
}

fn outcome(state: &State) -> &'static str {
    match state.ended {
        Some((Outcome::Succeeded, _)) => "succeeded",
        Some((Outcome::RolledBack, _)) => "rolled_back",
        Some((Outcome::Refused, _)) => "refused",
        None if state.standing_fault().is_some() => "stands",
        None => "under_way",
    }
}

fn reason(back: &Back) -> Value {
    match back {
        Back::Fault { step } => json!({ "because": "fault", "step": step }),
        Back::Verdict { why } => json!({ "because": "verdict", "why": why }),
        Back::Asked { by } => json!({ "because": "asked", "by": by }),
    }
}

fn progress(progress: &Progress) -> &'static str {
    match progress {
        Progress::Pending => "pending",
        Progress::Running => "running",
        Progress::Done => "done",
        Progress::Failed(_) => "failed",
        Progress::Undoing => "undoing",
        Progress::Undone => "undone",
        Progress::UndoFailed(_) => "undo_failed",
    }
}
