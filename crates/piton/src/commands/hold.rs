use std::process::ExitCode;

use piton_core::journal::{Request, State};
use piton_core::project::Project;

use super::watch;
use crate::cli::{Continue, Environment};
use crate::error::Error;
use crate::ui;

/// Keeps a release at its present share of traffic.
pub(crate) async fn hold(project: &Project, args: &Environment) -> Result<ExitCode, Error> {
    ask(project, args, Request::Hold, |_| {
        format!("holds at its present share; piton continue {} lets it go on", args.environment)
    })
    .await
}

/// Lets a release go on that holds.
pub(crate) async fn go_on(project: &Project, args: &Continue) -> Result<ExitCode, Error> {
    let now = args.now;
    ask(project, &args.target, Request::Continue { now }, |open| match (now, open.held) {
        (true, _) => "goes on now".into(),
        (false, true) => "is held no more".into(),
        (false, false) => format!(
            "goes on once the step's time has passed, whatever the gate has seen by then; piton continue {} --now ends the step at once",
            args.target.environment
        ),
    })
    .await
}

async fn ask(
    project: &Project,
    args: &Environment,
    request: Request,
    does: impl FnOnce(&State) -> String,
) -> Result<ExitCode, Error> {
    let environment = &args.environment;
    let (open, _) = project.ask(environment, request).await?;
    ui::talk(&format!("Release {} {}.", open.plan.short_id(), does(&open)));
    watch::print_state(project, environment, args.json)
}
