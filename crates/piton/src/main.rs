//! Takes a web app and its database from staging to production and back.

mod cli;
mod commands;
mod error;
mod json;
mod ui;
mod view;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are data and succeed; a wrong call is a refusal.
            let code = if error.use_stderr() { 2 } else { 0 };
            if let Err(unwritten) = error.print() {
                ui::unwritten(unwritten);
            }
            return ui::exit_code(ExitCode::from(code));
        }
    };
    ui::start_log();
    let as_json = cli.command.wants_json();
    ui::exit_code(match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            if as_json {
                ui::data(&json::pretty(&serde_json::json!({ "error": json::error(&error) })));
            }
            error.report()
        }
    })
}
