//! What keeps every write after the backup: a slot of the server's log, or triggers where the log cannot be read.

use std::time::Duration;

use piton_db::Database;
use piton_db::blockers::Blocker;
use piton_db::capture::{self, Keyless, Source, triggers};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::settle::cannot_be_undone;
use super::{Act, Ctx, Site, Words};
use crate::fault::{Fault, OrFault};
use crate::words;

/// How long to wait for transactions that are older than what keeps the log; nobody waits behind that.
const WAIT_FOR_WRITERS: Duration = Duration::from_secs(300);

/// How later writes are come by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Means {
    /// From the server's log, which a logical slot keeps.
    Log {
        /// The slot's name.
        slot: String,
    },
    /// By triggers, which note them in the database.
    Triggers {
        /// How much of the server's log may be written before somebody has read, in bytes; behind that nothing more is noted.
        budget: u64,
    },
}

/// Has the writes to the environment's database kept, from before the backup's snapshot on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// How.
    #[serde(flatten)]
    pub by: Means,
}

/// Ends that, when no migration goes back any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndCapture {
    /// How they were come by.
    #[serde(flatten)]
    pub by: Means,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Captured {
    /// Where they are read from.
    #[serde(flatten)]
    pub source: Source,
    /// The tables whose log had to be made to tell which row was changed: they have no key.
    #[serde(default)]
    pub whole: Vec<Keyless>,
}

/// Returns what keeps the writes of a release, where something does.
pub(super) fn captured(ctx: &Ctx<'_, '_>) -> Option<Captured> {
    ctx.outcome("backup.capture")
}

impl Means {
    fn source(&self) -> Source {
        match self {
            Means::Log { slot } => Source::log(slot),
            Means::Triggers { .. } => Source::Triggers,
        }
    }
}

impl Act for Capture {
    fn words(&self, site: &Site<'_>) -> Words {
        let why = "so that later writes can go along when a migration goes back";
        match &self.by {
            Means::Log { slot } => {
                let make = format!("select pg_create_logical_replication_slot('{slot}', 'test_decoding')");
                Words::new(format!("keep the log from here on, {why}"), "let it go")
                    .with(site.psql(None, ["-c", &make]))
            }
            Means::Triggers { budget } => Words::new(
                format!(
                    "note every write from here on by a trigger on each table, {why}; in the schema piton_capture, up to {}",
                    words::bytes(*budget)
                ),
                "drop the triggers and the schema",
            ),
        }
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let database = super::database_of(ctx.settings())?;
        let whole = match &self.by {
            Means::Log { slot } => keep_log(ctx, &database, slot).await?,
            Means::Triggers { budget } => {
                triggers::install(&database, *budget)
                    .await
                    .or_fault(|| "the database's writes cannot be noted".into())?;
                Vec::new()
            }
        };
        Ok(json!(Captured { source: self.by.source(), whole }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let whole: Vec<Keyless> =
            ctx.noted().and_then(|note| serde_json::from_value(note).ok()).unwrap_or_default();
        end(ctx, &self.by, &whole).await
    }
}

impl Act for EndCapture {
    fn words(&self, site: &Site<'_>) -> Words {
        let closes = "closes the way back";
        match &self.by {
            Means::Log { slot } => {
                let drop = format!("select pg_drop_replication_slot('{slot}')");
                Words::new("let the log go that was kept for the way back", closes)
                    .with(site.psql(None, ["-c", &drop]))
            }
            Means::Triggers { .. } => Words::new(
                "drop the triggers that noted writes for the way back, and what they noted",
                closes,
            ),
        }
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let whole = captured(ctx).map(|captured| captured.whole).unwrap_or_default();
        end(ctx, &self.by, &whole).await
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Err(cannot_be_undone())
    }
}

/// Makes the slot; returns the tables whose log is made to tell whole rows.
async fn keep_log(ctx: &Ctx<'_, '_>, database: &Database, slot: &str) -> Result<Vec<Keyless>, Fault> {
    let cannot = || "the database's log cannot be made to tell which rows are changed".to_owned();
    let whole: Vec<Keyless> = match ctx.noted().and_then(|note| serde_json::from_value(note).ok()) {
        Some(whole) => whole,
        None => {
            let client = database.connect().await.or_fault(cannot)?;
            let whole = capture::without_identity(&client).await.or_fault(cannot)?;
            ctx.note(&whole)?;
            whole
        }
    };
    capture::tell_whole(database, &whole, true).await.or_fault(cannot)?;
    let unkept = || "the database's log cannot be kept".to_owned();
    let made = capture::create_slot_within(database, slot, WAIT_FOR_WRITERS, |writers| {
        ctx.say(&format!("waits for the end of what {} has open", writers[0].who));
    });
    match made.await.or_fault(unkept)? {
        Ok(_) => Ok(whole),
        Err(writers) => {
            // Whoever resumes it has the tables tell whole rows again.
            let left = match capture::tell_whole(database, &whole, false).await {
                Ok(locked) => still_whole(&json!({ STILL_WHOLE: locked })),
                Err(error) => Some(format!("{}: {error}", still_told())),
            };
            let nothing = "nothing was touched yet".to_owned();
            let fault = not_quiet(ctx, database, Fault::surroundings(unkept()), &writers);
            Err(fault.because(left.unwrap_or(nothing)))
        }
    }
}

/// Says whose transactions do not end, and what ends them.
fn not_quiet(ctx: &Ctx<'_, '_>, database: &Database, mut fault: Fault, writers: &[Blocker]) -> Fault {
    for writer in writers {
        fault = fault.because(format!("{} has {}", writer.who, writer.holds.join(", ")));
    }
    let wait = match writers.first().and_then(|first| first.end.as_ref()) {
        Some(end) => format!("wait for its end, or: {}", database.by_hand("psql").args(["-c", end])),
        None => "wait for the end of every transaction that has written".into(),
    };
    fault
        .because("nothing can be told of what was written before such a transaction is over")
        .hint(format!("{wait}; then piton resume {}", ctx.plan.environment))
}

pub(super) fn not_let_go() -> String {
    "what kept the database's writes cannot be let go".into()
}

fn still_told() -> String {
    "the database's log cannot be made to tell as little as before".into()
}

/// Where an outcome has the tables that were locked.
const STILL_WHOLE: &str = "still_whole";

/// Says of which tables the log goes on telling more than before, and what ends that; `None` when of none.
pub(super) fn still_whole(outcome: &Value) -> Option<String> {
    let tables = super::outcome::texts(outcome, STILL_WHOLE);
    let mend = tables.iter().map(|table| format!("alter table {table} replica identity default"));
    (!tables.is_empty()).then(|| {
        let mend = mend.collect::<Vec<_>>().join("; ");
        format!("locked, so that the log tells their whole rows still: {}; {mend}", tables.join(", "))
    })
}

/// Lets go of everything that keeps writes, on the environment's database.
async fn end(ctx: &Ctx<'_, '_>, by: &Means, whole: &[Keyless]) -> Result<Value, Fault> {
    let database = super::database_of(ctx.settings())?;
    let locked = capture::tell_whole(&database, whole, false).await.or_fault(still_told)?;
    by.source().let_go(&database).await.or_fault(not_let_go)?;
    Ok(if locked.is_empty() { Value::Null } else { json!({ STILL_WHOLE: locked }) })
}
