//! What a rehearsal tells of the migration's time and of its way back.

use piton_db::changes::Expected;
use piton_db::rehearsal::Report;
use serde::{Deserialize, Serialize};

use super::Ctx;
use super::rewind::stays_behind;
use crate::words;

/// What takes the migrated database's place when the migration goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Rung {
    /// The backup, restored on the same server.
    GoldenCopy,
    /// The database that the release found, which another step has set aside.
    DatabaseBefore,
}

/// How the migration goes back, as far as it is known before it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WayBack {
    /// What takes the database's place.
    pub rung: Rung,
    /// How it is known to be good.
    pub proved: String,
    /// Whether it may do so by itself, where nothing is lost by it.
    pub by_itself: bool,
    /// Why it never does.
    pub why_not: Option<String>,
}

/// How long the migration takes for real.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Estimate {
    /// In milliseconds; what it waits for locks comes on top.
    pub ms: u64,
    /// What it was measured on.
    pub basis: String,
}

impl WayBack {
    /// Reads it from what the migration has made of its copy, and from what is bound to the live database alone.
    pub(super) fn of(ctx: &Ctx<'_, '_>, expected: &Expected, bound: &[String]) -> Self {
        if ctx.world.from.is_some() {
            let proved = "it is set aside as it is, before anything is migrated".into();
            return Self { rung: Rung::DatabaseBefore, proved, by_itself: true, why_not: None };
        }
        let overwritten = expected.overwritten();
        let why_not = if overwritten.is_empty() {
            stays_behind(bound)
        } else {
            Some(format!("it changes or removes what is in {}", words::some(overwritten, 2)))
        };
        Self {
            rung: Rung::GoldenCopy,
            proved: "it was restored from the backup and found equal, and the rehearsal left it so".into(),
            by_itself: why_not.is_none(),
            why_not,
        }
    }

    /// Says it in one line.
    pub(super) fn words(&self) -> String {
        match (self.rung, &self.why_not) {
            (Rung::DatabaseBefore, _) => "way back: the database before".into(),
            (Rung::GoldenCopy, None) => {
                "way back: the golden copy, by itself where nothing is lost by it".into()
            }
            (Rung::GoldenCopy, Some(why)) => {
                format!("way back: the golden copy, only when a person asks: {why}")
            }
        }
    }
}

impl Estimate {
    /// Takes over what a rehearsal took.
    pub(super) fn of(report: &Report) -> Self {
        Self { ms: report.ms(), basis: "a copy with all of its rows, on the same server".into() }
    }

    /// Says it in one line.
    pub(super) fn words(&self) -> String {
        format!("about {} for real, by {}", words::span(self.ms), self.basis)
    }
}
