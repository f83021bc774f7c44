//! What a rehearsal tells of the migration's time and of its way back.

use piton_db::changes::Expected;
use piton_db::rehearsal::Report;
use piton_db::replay::Offer;
use piton_db::replay::reverse::Reverse;
use serde::{Deserialize, Serialize};

use super::rewind::stays_behind;
use super::{Ctx, downs};
use crate::words;

/// What takes the migrated database's place when the migration goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Rung {
    /// The backup, restored on the same server.
    GoldenCopy,
    /// The same, with every write since then carried back.
    Rewind,
    /// The same migrations taken back in place by their down migrations.
    Reverse,
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
    /// What the server lacks for keeping them, each with what mends it.
    #[serde(default)]
    pub lacking: Vec<String>,
    /// What piton.toml would have to say for them to go along, in lines.
    #[serde(default)]
    pub down: Vec<String>,
    /// Why the down migration is no way back, where there is one.
    #[serde(default)]
    pub not_reversed: Option<String>,
    /// How many columns are filled again after a down migration.
    #[serde(default)]
    pub refilled: u64,
    /// What does not come back with later writes.
    #[serde(default)]
    pub costs: Vec<String>,
}

/// How long down migrations may take while requests wait, half of what these wait at most.
const LONGEST_MS: u64 = 10_000;

/// What is said before the lines that a person is to write.
const ASKED: &str = "what the values were, only a person can say; in piton.toml, for them to go along";

/// How many reasons are told in a line.
const TOLD: usize = 2;

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
        migrations: &[String],
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
        let obstacles = offer.map_or(&[][..], |offer| &offer.obstacles);
        let not_followed = (!obstacles.is_empty()).then(|| reasons(obstacles));
        // Where something else is in the way, it would be written in vain.
        let changed = offer.map_or(&[][..], |offer| &offer.changed);
        let changed = changed.iter().filter(|_| changed.len() == obstacles.len());
        let down = changed.flat_map(|changed| downs::wanted(changed, migrations)).collect();
        Self { not_followed, down, ..Self::plain(Rung::GoldenCopy, proved, why_not) }
    }

    /// Takes over what the server lacks for keeping later writes, where nothing keeps them.
    pub(super) fn without(self, lacking: &[String]) -> Self {
        if lacking.is_empty() || self.rung == Rung::DatabaseBefore {
            return self;
        }
        let why = "neither the server's log nor triggers can keep them; rehearsal.md in the release's logs names all that is missing";
        Self { not_followed: Some(why.into()), lacking: lacking.to_vec(), ..self }
    }

    /// Takes over what a trial of the down migration has shown, where there is one.
    pub(super) fn with_down(self, tried: Option<Result<Reverse, String>>) -> (Self, Option<Reverse>) {
        let reverse = match tried {
            None => return (self, None),
            Some(Err(why)) => return (Self { not_reversed: Some(why), ..self }, None),
            Some(Ok(reverse)) => reverse,
        };
        if reverse.ms > LONGEST_MS {
            let why = format!("it takes {}, longer than requests may wait", words::span(reverse.ms));
            return (Self { not_reversed: Some(why), ..self }, None);
        }
        let proved =
            "it was run on the migrated copy, and every definition and every row was as in the backup";
        let way_back = Self {
            refilled: reverse.refilled(),
            costs: reverse.costs(),
            not_followed: self.not_followed,
            down: self.down,
            lacking: self.lacking,
            ..Self::plain(Rung::Reverse, proved.into(), None)
        };
        (way_back, Some(reverse))
    }

    fn plain(rung: Rung, proved: String, why_not: Option<String>) -> Self {
        let by_itself = why_not.is_none();
        let (not_followed, lacking, down, costs) = (None, Vec::new(), Vec::new(), Vec::new());
        let (not_reversed, refilled) = (None, 0);
        Self { rung, proved, by_itself, why_not, not_followed, lacking, down, not_reversed, refilled, costs }
    }

    /// Says it in one line.
    pub(super) fn words(&self) -> String {
        match (self.rung, &self.why_not) {
            (Rung::DatabaseBefore, _) => "way back: the database before".into(),
            (Rung::Rewind, _) => "way back: the golden copy with every later write, by itself".into(),
            (Rung::Reverse, _) => {
                let filled = match self.refilled {
                    0 => String::new(),
                    count => {
                        format!(", with {} filled again from the backup", words::counted(count, "column"))
                    }
                };
                format!(
                    "way back: the golden copy while nobody has written anything, then the down migration{filled}, by itself"
                )
            }
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
        let not_reversed =
            self.not_reversed.iter().map(|why| format!("the down migration is no way back: {why}"));
        let down = (!self.down.is_empty()).then(|| {
            std::iter::once(format!("{ASKED}:")).chain(self.down.iter().map(|line| format!("  {line}")))
        });
        not_followed.chain(down.into_iter().flatten()).chain(not_reversed).chain(costs).collect()
    }

    /// Writes the same for the rehearsal's report, with every reason.
    pub(super) fn section(&self, obstacles: &[String]) -> String {
        let mut text = String::new();
        let reasons = if obstacles.is_empty() { &self.lacking } else { obstacles };
        if !reasons.is_empty() {
            text.push_str("\nLater writes do not go along:\n\n");
            reasons.iter().for_each(|why| text.push_str(&format!("- {why}\n")));
        }
        if !self.down.is_empty() {
            text.push_str(&format!(
                "\n{}:\n\n```toml\n{}\n```\n",
                ASKED.replacen('w', "W", 1),
                self.down.join("\n")
            ));
        }
        if let Some(why) = &self.not_reversed {
            text.push_str(&format!("\nThe down migration is no way back: {why}.\n"));
        }
        if !self.costs.is_empty() {
            text.push_str("\nOn the way back:\n\n");
            self.costs.iter().for_each(|cost| text.push_str(&format!("- {cost}\n")));
        }
        text
    }
}

/// Names the first reasons; all of them are in the rehearsal's report.
fn reasons(obstacles: &[String]) -> String {
    let told = obstacles[..obstacles.len().min(TOLD)].join("; ");
    match obstacles.len().saturating_sub(TOLD) {
        0 => told,
        more => format!("{told}; and {}", words::counted(more as u64, "more reason")),
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
