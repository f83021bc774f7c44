use std::process::ExitCode;

use piton_core::project::Project;
use serde_json::json;

use crate::cli::Environment;
use crate::error::Error;
use crate::{json as contract, ui};

/// Shows an environment's settings and where each value comes from.
pub(crate) fn run(project: &Project, args: &Environment) -> Result<ExitCode, Error> {
    let settings = project.settings(&args.environment)?;
    if args.json {
        ui::data(&contract::pretty(&json!({ "settings": settings.origins() })));
        return Ok(ExitCode::SUCCESS);
    }
    let widest = settings.origins().iter().map(|entry| entry.key.chars().count()).max().unwrap_or(0);
    for entry in settings.origins() {
        ui::data(&format!("{:<widest$}  {:<40}  {}", entry.key, entry.value, entry.origin));
    }
    Ok(ExitCode::SUCCESS)
}
