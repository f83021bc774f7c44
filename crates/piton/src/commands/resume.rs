use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use piton_core::engine::Recorder;
use piton_core::fault::Fault;
use piton_core::journal::Request;
use piton_core::project::{Project, journal_fault};
use piton_core::step::Revived;
use piton_exec::local::Inherit;
use piton_exec::{Command, local};
use serde_json::json;

use super::{carry_on, carry_out, finish, interrupted, report, watch};
use crate::cli::Resume;
use crate::error::{Error, FAILED};
use crate::view::{View, run_words};
use crate::{json as contract, ui};

/// Carries a release on from where it stands.
pub(crate) async fn run(project: &Project, args: &Resume) -> Result<ExitCode, Error> {
    match (&args.environment, args.lease) {
        (Some(environment), Some(token)) => {
            let view = View::new();
            let recorder = project.take_over(environment, token, &view)?;
            carry_on(project, recorder, &view, args.json).await
        }
        (Some(environment), None) if args.forward => forward(project, environment, args.json).await,
        (Some(environment), None) => one(project, environment, args.detach, args.json).await,
        (None, _) => all(project, args.json).await,
    }
}

async fn one(project: &Project, environment: &str, detached: bool, as_json: bool) -> Result<ExitCode, Error> {
    let revived = revive(project, environment, false).await?;
    if let Some(fault) = revived.fault {
        return Err(fault.into());
    }
    if !revived.started.is_empty() && project.open_release(&project.journal()?, environment)?.is_none() {
        return watch::print_state(project, environment, as_json);
    }
    let view = View::new();
    let recorder = project.take_up(environment, &view)?;
    if detached {
        return by_itself(project, recorder, &view, as_json).await;
    }
    carry_on(project, recorder, &view, as_json).await
}

/// Lets a process of its own carry on the release that this one holds, past the guards: their refusal is this command's.
///
/// That process takes the lease over from this one: nobody else gets in between.
pub(crate) async fn by_itself(
    project: &Project,
    recorder: Recorder<'_>,
    view: &View,
    as_json: bool,
) -> Result<ExitCode, Error> {
    let settings = project.settings(&recorder.state().plan.environment)?;
    let (recorder, end) = project.guard(recorder, settings, interrupted()).await?;
    view.close();
    if let Some(end) = end {
        let state = recorder.state().clone();
        recorder.finish().map_err(journal_fault)?;
        return Ok(report(project, &end, &state, as_json));
    }
    let plan = Arc::clone(&recorder.state().plan);
    let (environment, name) = (&plan.environment, run_words(recorder.state()));
    let token = recorder.lease().token;
    let (pid, log) = match detach(project, environment, Some(token)) {
        Ok(started) => started,
        Err(error) => {
            recorder.finish().map_err(journal_fault)?;
            return Err(error);
        }
    };
    if !recorder.hand_over(pid).await.map_err(journal_fault)? {
        return Err(Fault::surroundings("the process that was to run the release has ended")
            .because(format!("its output is in {}", log.display()))
            .hint(format!("piton resume {environment} carries the release on"))
            .into());
    }
    ui::talk(&format!("{name} runs by itself. piton watch {environment} follows it."));
    watch::print_state(project, environment, as_json)
}

/// Lets a release that has no way back go forward, whoever runs it.
async fn forward(project: &Project, environment: &str, as_json: bool) -> Result<ExitCode, Error> {
    if project.journal()?.holder(environment).map_err(journal_fault)?.is_none() {
        let revived = revive(project, environment, true).await?;
        if let Some(fault) = revived.fault {
            return Err(fault.into());
        }
    }
    let ended = carry_out(project, environment, Request::Forward).await?;
    finish(project, environment, ended, as_json)
}

/// Starts again what served, then lets each release that is not over run in a process of its own.
async fn all(project: &Project, as_json: bool) -> Result<ExitCode, Error> {
    let mut code = ExitCode::SUCCESS;
    let mut environments = Vec::new();
    for environment in project.config().environments() {
        let mut revived = Revived::default();
        let brought = bring_back(project, environment, &mut revived).await;
        if let Err(error) = &brought {
            // One environment that cannot be brought back must not keep the others down.
            error.report();
            code = ExitCode::from(FAILED);
        }
        environments.push(json!({
            "environment": environment,
            "started_again": revived.started,
            "not_started": revived.missed.iter().map(contract::fault).collect::<Vec<_>>(),
            "carried_on": brought.as_ref().is_ok_and(|carried_on| *carried_on),
            "error": brought.as_ref().err().map(contract::error),
        }));
    }
    if as_json {
        ui::data(&contract::pretty(&json!({ "environments": environments })));
    }
    Ok(code)
}

/// Starts again what has died; returns whether a release is carried on.
async fn bring_back(project: &Project, environment: &str, revived: &mut Revived) -> Result<bool, Error> {
    let journal = project.journal()?;
    if journal.holder(environment).map_err(journal_fault)?.is_some() {
        // Whoever runs the release sees to it.
        return Ok(false);
    }
    *revived = revive(project, environment, false).await?;
    if let Some(fault) = revived.fault.take() {
        return Err(fault.into());
    }
    if project.open_release(&journal, environment)?.is_none() {
        return Ok(false);
    }
    detach(project, environment, None)?;
    ui::talk(&format!("{environment}: the release is carried on; piton watch {environment} follows it"));
    Ok(true)
}

/// Starts again what has died, and says what came of it.
async fn revive(project: &Project, environment: &str, forward: bool) -> Result<Revived, Error> {
    let settings = project.settings(environment)?;
    let revived = project.revive(settings, forward).await?;
    for what in &revived.started {
        ui::talk(&format!("{environment}: {what} started again"));
    }
    for fault in &revived.missed {
        ui::talk(&ui::warning(fault));
    }
    Ok(revived)
}

/// Starts a process of its own that carries the environment's release on; `lease` is the token of the lease that it is to take
/// over. Returns its process id and its log.
fn detach(project: &Project, environment: &str, lease: Option<i64>) -> Result<(u32, PathBuf), Error> {
    let journal = project.journal()?;
    let Some(open) = project.open_release(&journal, environment)? else {
        return Err(Fault::refused(format!("no release of {environment} is under way")).into());
    };
    let root = project.config().root().display().to_string();
    let mut command =
        Command::new(project.piton().display().to_string()).args(["-C", &root, "resume", environment]);
    if let Some(token) = lease {
        command = command.args(["--lease", &token.to_string()]);
    }
    let log = project.dirs().logs(&open.plan.id).join("release.log");
    let pid = local::spawn_detached(&command, Inherit::Everything, &log)
        .map_err(|error| Fault::surroundings("the release cannot run by itself").caused_by(&error))?;
    Ok((pid, log))
}
