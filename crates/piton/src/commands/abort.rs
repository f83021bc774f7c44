use std::process::ExitCode;

use piton_core::fault::Fault;
use piton_core::journal::Request;
use piton_core::project::Project;

use super::ask_to_go_back;
use crate::cli::Yes;
use crate::error::Error;
use crate::ui;

/// Undoes the release that is under way.
pub(crate) async fn run(project: &Project, args: &Yes) -> Result<ExitCode, Error> {
    let environment = &args.target.environment;
    if !args.yes
        && ui::can_ask()
        && ui::confirm(&format!("Undo what is under way in {environment}?")) != Some(true)
    {
        return Err(Fault::refused("not confirmed; nothing was changed").into());
    }
    ask_to_go_back(project, environment, Request::Abort, args.target.json).await
}
