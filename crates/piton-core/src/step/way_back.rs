//! What a rehearsal tells of the migration's time and of its way back.

use piton_db::changes::Expected;
use piton_db::rehearsal::Report;
use piton_db::replay::Offer;
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
    /// The same, with every write since then carried back.
    Rewind,
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
    /// Why later writes do not go along, where the log would tell them.
    #[serde(default)]
    pub not_followed: Option<String>,
    /// What does not come back with later writes.
    #[serde(default)]
    pub costs: Vec<String>,
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
    pub(super) fn of(
        ctx: &Ctx<'_, '_>,
        expected: &Expected,
        bound: &[String],
        offer: Option<&Offer>,
    ) -> Self {
        if ctx.world.from.is_some() {
            let proved = "it is set aside as it is, before anything is migrated".into();
            return Self::plain(Rung::DatabaseBefore, proved, None);
        }
        if let (Some(offer), None) = (offer, stays_behind(bound))
            && offer.obstacles.is_empty()
        {
            let proved = "it was restored from the backup and found equal, and every value of it was found again in the migrated copy";
            let costs = offer.costs.clone();
            return Self { costs, ..Self::plain(Rung::Rewind, proved.into(), None) };
        }
        let overwritten = expected.overwritten();
        let why_not = if overwritten.is_empty() {
            stays_behind(bound)
        } else {
            Some(format!("it changes or removes what is in {}", words::some(overwritten, 2)))
        };
        let proved = "it was restored from the backup and found equal, and the rehearsal left it so".into();
        let not_followed = offer.and_then(|offer| offer.obstacles.first().cloned());
        Self { not_followed, ..Self::plain(Rung::GoldenCopy, proved, why_not) }
    }

    fn plain(rung: Rung, proved: String, why_not: Option<String>) -> Self {
        Self { rung, proved, by_itself: why_not.is_none(), why_not, not_followed: None, costs: Vec::new() }
    }

    /// Says it in one line.
    pub(super) fn words(&self) -> String {
        match (self.rung, &self.why_not) {
            (Rung::DatabaseBefore, _) => "way back: the database before".into(),
            (Rung::Rewind, _) => "way back: the golden copy with every later write, by itself".into(),
            (Rung::GoldenCopy, None) => {
                "way back: the golden copy, by itself where nothing is lost by it".into()
            }
            (Rung::GoldenCopy, Some(why)) => {
                format!("way back: the golden copy, only when a person asks: {why}")
            }
        }
    }
}

impl WayBack {
    /// Says what else a person should know of it, in lines of their own.
    pub(super) fn more(&self) -> Vec<String> {
        let not_followed = self.not_followed.iter().map(|why| format!("later writes do not go along: {why}"));
        let costs = self.costs.iter().map(|cost| format!("on the way back, {cost}"));
        not_followed.chain(costs).collect()
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
