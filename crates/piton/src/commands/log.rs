use std::process::ExitCode;

use piton_core::journal::{Entry, Event};
use piton_core::plan::{Job, PlannedStep};
use piton_core::project::{Project, journal_fault};
use piton_core::words;
use serde_json::json;

use crate::cli::Log;
use crate::error::Error;
use crate::ui;
use crate::view::{leaving_words, outcome_words, request_words, turned_words};

/// Lists a release's events.
pub(crate) fn run(project: &Project, args: &Log) -> Result<ExitCode, Error> {
    let journal = project.journal()?;
    if args.verify {
        let count = journal.verify().map_err(journal_fault)?;
        ui::talk(&format!("{count} events, none altered, removed or inserted"));
        if args.json {
            ui::data(&json!({ "verified": count }).to_string());
        }
        if args.what.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let id = match &args.what {
        Some(name) if project.config().environments().contains(&name.as_str()) => {
            journal.releases(Some(name)).map_err(journal_fault)?.pop().map(|state| state.plan.id.clone())
        }
        Some(id) => Some(journal.find(id).map_err(journal_fault)?),
        None => journal.releases(None).map_err(journal_fault)?.pop().map(|state| state.plan.id.clone()),
    };
    let Some(id) = id else {
        ui::talk("there is no release yet");
        return Ok(ExitCode::SUCCESS);
    };
    let entries = journal.entries(&id, 0).map_err(journal_fault)?;
    if args.json {
        entries.iter().for_each(|entry| ui::data(&line_json(entry)));
        return Ok(ExitCode::SUCCESS);
    }
    let plan = entries.iter().find_map(|entry| match &entry.event {
        Event::Created { plan, .. } => Some(plan.as_ref()),
        _ => None,
    });
    let job = plan.map_or(Job::Release, |plan| plan.job);
    let step = |id: &str| plan.and_then(|plan| plan.steps.iter().find(|planned| planned.id == id));
    for entry in &entries {
        // A note is a step's own; it says nothing to people.
        if !matches!(entry.event, Event::Noted { .. }) {
            ui::data(&line(entry, job, entry.event.step().and_then(step)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn stands(applied: bool) -> &'static str {
    if applied { "applied" } else { "not applied" }
}

fn line_json(entry: &Entry) -> String {
    json!({ "seq": entry.seq, "release": entry.release, "at": entry.at, "event": entry.event }).to_string()
}

fn line(entry: &Entry, job: Job, step: Option<&PlannedStep>) -> String {
    let with = |word: &str, words: Option<String>| match words {
        Some(words) if !words.is_empty() => format!("{word}: {words}"),
        _ => word.to_owned(),
    };
    let what = match &entry.event {
        Event::Created { plan, by } => {
            format!(
                "begun by {by}: {} to {}, {} steps",
                plan.commit.short(),
                plan.environment,
                plan.steps.len()
            )
        }
        Event::TakenUp { by } => format!("taken up by {by}"),
        Event::Left { why } => format!("left: {why}"),
        Event::Started { attempt: 1, .. } => "started".into(),
        Event::Started { attempt, .. } => format!("taken up again, attempt {attempt}"),
        Event::Ran { command, code, ms, .. } => format!("ran, exit {code}, {}: {command}", words::span(*ms)),
        Event::Launched { command, pid, .. } => format!("started, process {pid}: {command}"),
        Event::Counted { leaving, unknown, .. } => leaving_words(leaving, unknown.as_deref()).join("; "),
        Event::Noted { .. } => "noted".into(),
        Event::Done { outcome, .. } => with("done", step.map(|step| step.step.outcome_words(outcome))),
        Event::Failed { fault, .. } => format!("failed: {fault}"),
        Event::Asked { request, by, .. } => format!("{} by {by}", request_words(*request)),
        Event::TurnedBack { reason, undecided, .. } => turned_words(job, reason, *undecided),
        Event::UndoStarted { .. } => "undo started".into(),
        Event::Undone { outcome, .. } => with("undone", step.map(|step| step.step.undo_words(outcome))),
        Event::UndoFailed { fault, .. } => format!("cannot be undone: {fault}"),
        Event::Reviving { what } => format!("{what} has died: it is started again"),
        Event::Behind { why, .. } => format!("the golden copy does not follow: {why}"),
        Event::CaughtUp { .. } => "the golden copy follows again".into(),
        Event::Revived { what } => format!("{what} started again"),
        Event::Recording { migration, applied, by } => {
            format!("{migration} is to be recorded as {} by {by}", stands(*applied))
        }
        Event::Recorded { migration, applied, by } => {
            format!("{migration} recorded as {} by {by}", stands(*applied))
        }
        Event::Ended { outcome } => format!("the {job} {}", outcome_words(*outcome)),
    };
    let step = entry.event.step().unwrap_or("");
    format!("{:>5}  {}  {step:<16} {what}", entry.seq, words::time(entry.at))
}
