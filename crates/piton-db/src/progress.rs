use std::time::Duration;

use piton_exec::{Command, ExecError, Output, local};

/// What long work is doing, for a progress bar or a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, such as `dump` or `migrate`.
    pub doing: &'static str,
    /// The table, file or migration just finished or begun.
    pub what: String,
    /// How many are finished.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// Takes progress as it comes.
pub type OnProgress<'a> = &'a mut dyn FnMut(Progress);

/// A program that has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The command as a person would type it, without secrets.
    pub command: String,
    /// Its exit code.
    pub code: i32,
    /// How long it ran.
    pub took: Duration,
}

/// What work tells while it goes on that runs programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// How far it is.
    Progress(Progress),
    /// A program has said a line.
    Said(String),
    /// A program has ended, however it did.
    Ran(Ran),
}

/// Takes reports as they come.
pub type OnReport<'a> = &'a mut dyn FnMut(Report);

/// Runs a program, hands its lines to `on_line` together with `report`, and reports its end as that of `shown`.
pub(crate) async fn run(
    command: &Command,
    shown: &Command,
    report: OnReport<'_>,
    mut on_line: impl FnMut(&str, &mut dyn FnMut(Report)),
) -> Result<Output, ExecError> {
    let output = local::run_with(command, |_, line| on_line(line, report)).await?;
    report(Report::Ran(Ran { command: shown.to_string(), code: output.code, took: output.elapsed }));
    Ok(output)
}

/// Returns a duration in milliseconds.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
