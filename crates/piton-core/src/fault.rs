//! What can go wrong with a step, and what follows from it.

use serde::{Deserialize, Serialize};

/// Why a step could not act: what, why, and the command that mends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// Decides what the release does next.
    pub kind: Kind,
    /// What happened, one line.
    pub what: String,
    /// Why, from the nearest cause to the farthest.
    pub why: Vec<String>,
    /// The next command or deed.
    pub hint: Option<String>,
}

/// What a fault makes the release do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The surroundings failed (disk, database, network): the release stays where it is, to be resumed or aborted.
    Surroundings,
    /// The release itself is at fault (a migration fails, the app never becomes ready): it is undone.
    Release,
    /// A guard refused before anything was touched.
    Refused,
    /// The gate decided to roll back.
    Verdict,
    /// A person has to say something first: the release stays where it is.
    Undecided,
}

impl Fault {
    /// Makes a fault of the surroundings.
    pub fn surroundings(what: impl Into<String>) -> Self {
        Self { kind: Kind::Surroundings, what: what.into(), why: Vec::new(), hint: None }
    }

    /// Makes a fault of the release itself.
    pub fn release(what: impl Into<String>) -> Self {
        Self { kind: Kind::Release, ..Self::surroundings(what) }
    }

    /// Makes a refusal.
    pub fn refused(what: impl Into<String>) -> Self {
        Self { kind: Kind::Refused, ..Self::surroundings(what) }
    }

    /// Makes the gate's verdict a fault of the step that it judged.
    pub fn verdict(why: impl Into<String>) -> Self {
        Self { kind: Kind::Verdict, ..Self::surroundings(why) }
    }

    /// Appends a reason.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    /// Appends an error and its chain of sources as reasons.
    #[must_use]
    pub fn caused_by(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.why.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Names the next command.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Turns a library's error into a fault of the surroundings with one line of what was being done.
pub(crate) trait OrFault<T> {
    fn or_fault(self, what: impl FnOnce() -> String) -> Result<T, Fault>;
}

impl<T, E: std::error::Error> OrFault<T> for Result<T, E> {
    fn or_fault(self, what: impl FnOnce() -> String) -> Result<T, Fault> {
        self.map_err(|error| Fault::surroundings(what()).caused_by(&error))
    }
}
