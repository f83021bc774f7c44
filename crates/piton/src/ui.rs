//! What goes to the terminal: data to stdout, talk to stderr, colour only where somebody sees it.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use miette::{GraphicalReportHandler, GraphicalTheme};
use owo_colors::OwoColorize;
use piton_core::fault::Fault;

use crate::error::FAILED;

/// Why stdout takes no more data.
static UNWRITTEN: OnceLock<std::io::Error> = OnceLock::new();

/// Prints data to stdout; once that failed, nothing more is tried, and [`exit_code`] tells.
pub(crate) fn data(text: &str) {
    if UNWRITTEN.get().is_some() {
        return;
    }
    let mut out = anstream::stdout();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        unwritten(error);
    }
}

/// Notes that stdout could not be written.
pub(crate) fn unwritten(error: std::io::Error) {
    // The first reason is the one that counts.
    let _ = UNWRITTEN.set(error);
}

/// Returns the exit code of a command that ends with `code`: data that could not be written is a failure, and said.
///
/// A reader that went away has what it wanted.
pub(crate) fn exit_code(code: ExitCode) -> ExitCode {
    let Some(error) = UNWRITTEN.get().filter(|error| error.kind() != ErrorKind::BrokenPipe) else {
        return code;
    };
    talk(&fault(
        &Fault::surroundings("what was to be printed could not be written to stdout").caused_by(error),
    ));
    if code == ExitCode::SUCCESS { ExitCode::from(FAILED) } else { code }
}

/// Says something to the person, on stderr.
pub(crate) fn talk(text: &str) {
    // Nobody to talk to is no reason to stop a release.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Tells whether a person looks at stderr.
pub(crate) fn is_watched() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Asks a yes-or-no question; any line but yes is a no, and a terminal that was closed says nothing.
pub(crate) fn confirm(question: &str) -> Option<bool> {
    let _ = write!(anstream::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer).unwrap_or(0);
    (read > 0).then(|| matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Tells whether a question can be answered.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Writes a fault that ends the command: what, why, and the next command.
pub(crate) fn fault(fault: &Fault) -> String {
    let mut text = format!("{} {}", "error:".red().bold(), in_full(fault));
    if let Some(hint) = &fault.hint {
        text.push_str(&format!("\n\n  {} {hint}", "next:".bold()));
    }
    text
}

/// Writes a fault in spite of which the command goes on: what and why.
pub(crate) fn warning(fault: &Fault) -> String {
    format!("{} {}", "note:".yellow(), in_full(fault))
}

fn in_full(fault: &Fault) -> String {
    let mut text = fault.what.bold().to_string();
    for why in &fault.why {
        for line in why.lines() {
            text.push_str("\n  ");
            text.push_str(line);
        }
    }
    text
}

/// Writes a diagnostic with its pointers into the file.
pub(crate) fn diagnostic(error: &dyn miette::Diagnostic) -> String {
    let theme = if is_watched() { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(theme).with_width(100);
    if handler.render_report(&mut text, error).is_err() {
        return format!("error: {error}");
    }
    text.trim_end().to_owned()
}

/// Breaks a text into lines of at most `width` columns, between words; a longer word stays whole.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Cuts a line for a terminal of `width` columns.
pub(crate) fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Starts the log for developers: off unless `PITON_LOG` says otherwise, always on stderr.
pub(crate) fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PITON_LOG").unwrap_or_else(|_| "off".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
