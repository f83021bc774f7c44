use std::process::ExitCode;
use std::time::Duration;

use piton_core::engine::{End, Watcher};
use piton_core::fault::Fault;
use piton_core::journal::State;
use piton_core::project::Project;

use super::{finish, interrupted};
use crate::cli::Environment;
use crate::error::Error;
use crate::view::View;
use crate::{json, ui};

/// How often the journal is read.
const LOOK: Duration = Duration::from_millis(200);

/// After how many looks at a release that nobody runs it is said.
const SILENT: u32 = 5;

/// After how many it is left: a detached release may need a moment to take its lease.
const ALONE: u32 = 25;

/// Follows a release that another process runs.
pub(crate) async fn run(project: &Project, args: &Environment) -> Result<ExitCode, Error> {
    match follow(project, &args.environment, 0).await? {
        None => print_state(project, &args.environment, args.json),
        ended => finish(project, &args.environment, ended, args.json),
    }
}

/// Returns the journal's place of the latest event of the environment's latest release; 0 without one.
pub(crate) fn last_event(project: &Project, environment: &str) -> Result<i64, Fault> {
    let journal = project.journal()?;
    let Some(open) = project.open_release(&journal, environment)? else { return Ok(0) };
    let entries = journal.entries(&open.plan.id, 0).map_err(piton_core::project::journal_fault)?;
    Ok(entries.last().map_or(0, |entry| entry.seq))
}

/// Shows a release's events that come after `shown`, until it is over or nobody runs it any more; `None` at Ctrl-C.
pub(crate) async fn follow(
    project: &Project,
    environment: &str,
    shown: i64,
) -> Result<Option<(End, State)>, Error> {
    let journal = project.journal()?;
    let Some(latest) = journal.releases(Some(environment)).map_err(piton_core::project::journal_fault)?.pop()
    else {
        return Err(Fault::refused(format!("there is no release of {environment} yet"))
            .hint(format!("piton deploy {environment} begins one"))
            .into());
    };
    let view = View::new();
    let following = async {
        let (mut seen, mut state) = (0, None::<State>);
        let mut alone: u32 = 0;
        loop {
            for entry in journal.entries(&latest.plan.id, seen).map_err(piton_core::project::journal_fault)? {
                seen = entry.seq;
                let folded = match state.take() {
                    None => State::begin(entry.event.clone(), entry.at),
                    Some(mut folded) => folded.apply(&entry.event, entry.at).map(|()| folded),
                };
                let folded = folded
                    .map_err(|error| Fault::surroundings("the journal is damaged").caused_by(&error))?;
                if entry.seq > shown {
                    view.event(&entry.event, &folded);
                }
                state = Some(folded);
            }
            if let Some(state) = &state {
                if let Some((outcome, _)) = state.ended {
                    return Ok((End::Over(outcome), state.clone()));
                }
                let held = journal.holder(environment).map_err(piton_core::project::journal_fault)?.is_some();
                alone = if held { 0 } else { alone + 1 };
                if alone == SILENT && !state.waits_for_a_word() {
                    let patience = LOOK * (ALONE - SILENT);
                    view.say(&format!(
                        "nobody runs it at this moment; waits {} s for a process that takes it up",
                        patience.as_secs()
                    ));
                }
                if alone > ALONE || alone > 0 && state.waits_for_a_word() {
                    let end = match state.standing_fault() {
                        Some((_, fault)) => End::Stopped(fault.clone()),
                        None => End::Left,
                    };
                    return Ok((end, state.clone()));
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let followed: Result<(End, State), Fault> = tokio::select! {
        followed = following => followed,
        () = interrupted() => {
            view.close();
            ui::talk(&format!("It goes on by itself. piton watch {environment} follows it again."));
            return Ok(None);
        }
    };
    let followed = followed?;
    view.close();
    Ok(Some(followed))
}

/// Prints where the environment's latest release stands, when JSON is asked for.
pub(crate) fn print_state(project: &Project, environment: &str, as_json: bool) -> Result<ExitCode, Error> {
    if as_json {
        let releases = project.journal()?.releases(Some(environment));
        if let Some(latest) = releases.map_err(piton_core::project::journal_fault)?.last() {
            ui::data(&json::pretty(&json::release(latest, None)));
        }
    }
    Ok(ExitCode::SUCCESS)
}
