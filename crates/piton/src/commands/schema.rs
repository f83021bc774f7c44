use std::process::ExitCode;

use piton_core::config;

use crate::error::Error;
use crate::{json, ui};

/// Prints the JSON Schema of piton.toml.
pub(crate) fn run() -> Result<ExitCode, Error> {
    ui::data(&json::pretty(&config::json_schema()));
    Ok(ExitCode::SUCCESS)
}
