//! Commands as values, running them on this machine, finding what they left running, and secrets that do not print.
//!
//! Every effect on another program is a [`Command`]: the plan prints it, the journal records it, and
//! [`local::run`] executes it as an argument vector. No shell ever sees a value.

mod command;
pub mod local;
pub mod marker;

pub use command::{Command, EnvValue};
pub use local::{ExecError, Output};
pub use secrecy::{ExposeSecret, SecretString as Secret};
