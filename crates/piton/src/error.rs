//! Turns errors into an exit code, a message and the next command. No error of another crate is printed anywhere else.

use std::process::ExitCode;

use piton_core::config::ConfigError;
use piton_core::fault::{Fault, Kind};

use crate::ui;

/// A release failed, or something on the machine did.
pub(crate) const FAILED: u8 = 1;
/// The call, the configuration or a guard refused; nothing was changed.
pub(crate) const REFUSED: u8 = 2;
/// The release went back: by its own fault, by the gate, or because a person asked.
pub(crate) const WENT_BACK: u8 = 3;
/// The release stands and can be resumed or aborted.
pub(crate) const STANDS: u8 = 4;
/// Ctrl-C: the release can be resumed.
pub(crate) const LEFT: u8 = 130;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Error {
    Config(Box<ConfigError>),
    Fault(Box<Fault>),
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Fault(Box::new(fault))
    }
}

impl Error {
    /// Prints the error to stderr and returns its exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Config(error) => {
                ui::talk(&ui::diagnostic(error.as_ref()));
                ExitCode::from(REFUSED)
            }
            Self::Fault(fault) => {
                ui::talk(&ui::fault(fault));
                ExitCode::from(if fault.kind == Kind::Refused { REFUSED } else { FAILED })
            }
        }
    }
}
