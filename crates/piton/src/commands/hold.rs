use std::process::ExitCode;

use piton_core::journal::Request;
use piton_core::project::Project;

use super::watch;
use crate::cli::Environment;
use crate::error::Error;
use crate::ui;

/// Keeps a release at its present share of traffic.
pub(crate) fn hold(project: &Project, args: &Environment) -> Result<ExitCode, Error> {
    ask(project, args, Request::Hold, "holds at its present share; piton continue lets it go on")
}

/// Lets a release go on that holds.
pub(crate) fn go_on(project: &Project, args: &Environment) -> Result<ExitCode, Error> {
    ask(project, args, Request::Continue, "goes on")
}

fn ask(project: &Project, args: &Environment, request: Request, does: &str) -> Result<ExitCode, Error> {
    let environment = &args.environment;
    let (open, _) = project.ask(environment, request)?;
    ui::talk(&format!("Release {} {does}.", open.plan.short_id()));
    watch::print_state(project, environment, args.json)
}
