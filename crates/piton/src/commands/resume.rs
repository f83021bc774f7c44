use std::process::ExitCode;

use piton_core::fault::Fault;
use piton_core::project::Project;
use piton_exec::local::Inherit;
use piton_exec::{Command, local};

use super::carry_on;
use crate::cli::Resume;
use crate::error::{Error, FAILED};
use crate::ui;
use crate::view::View;

/// Carries a release on from where it stands.
pub(crate) async fn run(project: &Project, args: &Resume) -> Result<ExitCode, Error> {
    match &args.environment {
        Some(environment) => one(project, environment, args.json).await,
        None => all(project).await,
    }
}

async fn one(project: &Project, environment: &str, as_json: bool) -> Result<ExitCode, Error> {
    let revived = revive(project, environment).await?;
    if revived && project.open_release(&project.journal()?, environment)?.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    let view = View::new();
    let recorder = project.take_up(environment, &view)?;
    carry_on(project, recorder, &view, as_json).await
}

/// Starts again what served, then lets each release that is not over run in a process of its own.
async fn all(project: &Project) -> Result<ExitCode, Error> {
    let mut code = ExitCode::SUCCESS;
    for environment in project.config().environments() {
        if let Err(error) = bring_back(project, environment).await {
            // One environment that cannot be brought back must not keep the others down.
            error.report();
            code = ExitCode::from(FAILED);
        }
    }
    Ok(code)
}

async fn bring_back(project: &Project, environment: &str) -> Result<(), Error> {
    let journal = project.journal()?;
    if journal.holder(environment).map_err(piton_core::project::journal_fault)?.is_some() {
        // Whoever runs the release sees to it.
        return Ok(());
    }
    revive(project, environment).await?;
    if project.open_release(&journal, environment)?.is_some() {
        detach(project, environment)?;
        ui::talk(&format!("{environment}: the release is carried on; piton watch {environment} follows it"));
    }
    Ok(())
}

/// Starts again what has died; returns whether there was anything.
async fn revive(project: &Project, environment: &str) -> Result<bool, Error> {
    let settings = project.settings(environment)?;
    let revived = project.revive(settings).await?;
    for what in &revived {
        ui::talk(&format!("{environment}: {what} started again"));
    }
    Ok(!revived.is_empty())
}

/// Starts a process of its own that carries the environment's release on.
pub(crate) fn detach(project: &Project, environment: &str) -> Result<(), Error> {
    let journal = project.journal()?;
    let Some(open) = project.open_release(&journal, environment)? else { return Ok(()) };
    let root = project.config().root().display().to_string();
    let command =
        Command::new(project.piton().display().to_string()).args(["-C", &root, "resume", environment]);
    let log = project.dirs().logs(&open.plan.id).join("release.log");
    local::spawn_detached(&command, Inherit::Everything, &log)
        .map_err(|error| Fault::surroundings("the release cannot run by itself").caused_by(&error))?;
    Ok(())
}
