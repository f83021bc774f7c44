//! The slot from which every write after the backup is read.

use piton_db::capture::{self, Keyless, Lsn};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::settle::cannot_be_undone;
use super::{Act, Ctx, Site, Words};
use crate::fault::{Fault, OrFault};

/// Makes a logical slot on the environment's database, before the backup's snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Capture {
    /// The slot's name.
    pub slot: String,
}

/// Drops the slot, when no migration goes back any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndCapture {
    /// The slot's name.
    pub slot: String,
}

/// What came of making it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Captured {
    /// The slot's name.
    pub slot: String,
    /// Where it begins.
    pub from: Lsn,
    /// The tables whose log had to be made to tell which row was changed: they have no key.
    #[serde(default)]
    pub whole: Vec<Keyless>,
}

/// Returns the slot of a release, where one was made.
pub(super) fn captured(ctx: &Ctx<'_, '_>) -> Option<Captured> {
    ctx.outcome("backup.log")
}

impl Act for Capture {
    fn words(&self, site: &Site<'_>) -> Words {
        let make = format!("select pg_create_logical_replication_slot('{}', 'test_decoding')", self.slot);
        Words::new(
            "keep the log from here on, so that later writes can go along when a migration goes back",
            "let it go",
        )
        .with(site.psql(None, ["-c", &make]))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let database = super::database_of(ctx.settings())?;
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
        capture::tell_whole(&database, &whole, true).await.or_fault(cannot)?;
        let from = capture::create_slot(&database, &self.slot)
            .await
            .or_fault(|| "the database's log cannot be kept".into())?;
        Ok(json!(Captured { slot: self.slot.clone(), from, whole }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let whole: Vec<Keyless> =
            ctx.noted().and_then(|note| serde_json::from_value(note).ok()).unwrap_or_default();
        let_go(ctx, &self.slot, &whole).await
    }
}

impl Act for EndCapture {
    fn words(&self, site: &Site<'_>) -> Words {
        let drop = format!("select pg_drop_replication_slot('{}')", self.slot);
        Words::new("let the log go that was kept for the way back", "closes the way back")
            .with(site.psql(None, ["-c", &drop]))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let whole = captured(ctx).map(|captured| captured.whole).unwrap_or_default();
        let_go(ctx, &self.slot, &whole).await
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Err(cannot_be_undone())
    }
}

/// Drops the slot, and lets the log tell no more of tables without a key than it did before.
async fn let_go(ctx: &Ctx<'_, '_>, slot: &str, whole: &[Keyless]) -> Result<Value, Fault> {
    let database = super::database_of(ctx.settings())?;
    capture::tell_whole(&database, whole, false)
        .await
        .or_fault(|| "the database's log cannot be made to tell as little as before".into())?;
    capture::drop_slot(&database, slot).await.or_fault(|| format!("the slot {slot} cannot be dropped"))?;
    Ok(Value::Null)
}
