use piton_db::identity::{self, Purpose};
use piton_db::{Database, facts, made, swap};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::hold::Hold;
use super::identity::is_replaceable;
use super::rewind::{Rewind, swapped};
use super::{Act, Ctx, Site, Words};
use crate::fault::{Fault, OrFault};
use crate::plan::Phase;

/// Replaces staging's database by a copy of the golden copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CloneData {
    /// The golden copy.
    pub golden: String,
    /// The next database's name before it takes staging's.
    pub fresh: String,
    /// What the replaced database is called.
    pub replaced: String,
}

/// Tells from the step's note whether the environment had a database before.
pub(super) fn existed(note: Option<&Value>) -> bool {
    note.and_then(|note| note.get("existed")).and_then(Value::as_bool).unwrap_or(true)
}

impl Act for CloneData {
    fn words(&self, site: &Site<'_>) -> Words {
        let does = format!("{}'s database is made anew from the golden copy", site.settings.environment);
        let words = Words::new(
            does,
            "the database before takes its place again; this one stays beside it if somebody wrote into it",
        );
        words
            .with(site.client("createdb", None, ["--template", &self.golden, &self.fresh]))
            .with(site.renames(&self.fresh, &self.replaced))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        super::backup::is_as_configured(ctx)?;
        let live = super::database_of(ctx.settings())?;
        let unreachable = || format!("{live} cannot be reached");
        if ctx.noted().is_none() {
            let existed = facts::exists(&live).await.or_fault(unreachable)?;
            ctx.note(&json!({ "existed": existed }))?;
        }
        let label = super::label(ctx, Purpose::Clone);
        let cannot = || format!("{}'s database cannot be made", ctx.plan.environment);
        if !existed(ctx.noted().as_ref()) {
            made::clone_from(&live, &self.golden, &label).await.or_fault(cannot)?;
            return Ok(json!({ "new": true }));
        }
        if swapped(&live, &self.fresh, &self.replaced).await? {
            return Ok(json!({ "new": false }));
        }
        made::clone_from(&live.with_name(&self.fresh), &self.golden, &label).await.or_fault(cannot)?;
        let mut hold = Hold::new(ctx).await?;
        hold.begin().await?;
        let swapped = async {
            // What was put into it since the guard looked; what comes in still is seen before it would be dropped.
            is_replaceable(ctx.settings(), &live).await?;
            swap::swap(&live, &self.fresh, &self.replaced).await.or_fault(cannot)
        };
        let swapped = swapped.await;
        Hold::let_recover(ctx).await;
        hold.end().await?;
        swapped?;
        Ok(json!({ "new": false }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        if ctx.noted().is_none() {
            return Ok(Value::Null);
        }
        let live = super::database_of(ctx.settings())?;
        // The app that served before goes on with the new database from its first moment.
        let was_served = ctx.plan.live.is_some() || ctx.began(Phase::Shift);
        if existed(ctx.noted().as_ref()) {
            self.put_back(ctx, &live).await?;
        } else if was_served {
            // After a kill it may have been dropped already; what somebody made there since is not this release's.
            let cannot = || "the database that this release made cannot be put aside".to_owned();
            let label = super::label(ctx, Purpose::Clone);
            let place = identity::locate(&live).await.or_fault(cannot)?;
            if place.mark.valid().is_some_and(|mark| mark.label == label) {
                swap::put_aside(&live, &self.fresh, &label).await.or_fault(cannot)?;
            }
        } else {
            super::drop_made(ctx, &live, &live.dbname).await?;
        }
        let fresh = live.with_name(&self.fresh);
        if was_served && let Some(why) = self.written_into(ctx, &fresh).await? {
            keep(ctx, &fresh).await?;
            return Ok(json!({ "existed": existed(ctx.noted().as_ref()), "kept": self.fresh, "why": why }));
        }
        super::drop_made(ctx, &live, &self.fresh).await?;
        Ok(json!({ "existed": existed(ctx.noted().as_ref()) }))
    }
}

impl CloneData {
    /// Lets the database before take its place again.
    async fn put_back(&self, ctx: &Ctx<'_, '_>, live: &Database) -> Result<(), Fault> {
        let cannot = || "the database before cannot be put back".to_owned();
        let mut hold = Hold::new(ctx).await?;
        hold.begin().await?;
        let put_back = async {
            if swapped(live, &self.fresh, &self.replaced).await? {
                swap::swap(live, &self.replaced, &self.fresh).await.or_fault(cannot)?;
            }
            Ok(())
        };
        let put_back = put_back.await;
        hold.end().await?;
        put_back
    }

    /// Says what people have put into the database that this release made, now that nobody is on it any more; nothing when
    /// all that is in it came from the golden copy or the migration.
    async fn written_into(&self, ctx: &Ctx<'_, '_>, fresh: &Database) -> Result<Option<String>, Fault> {
        let server = || format!("{} cannot be asked", fresh.server());
        // After a kill: it was seen to hold nothing, and is dropped already.
        if !facts::exists(fresh).await.or_fault(server)? {
            return Ok(None);
        }
        if !facts::exists(&fresh.with_name(&self.golden)).await.or_fault(server)? {
            return Ok(Some(format!("the golden copy {} is gone, so nothing can be compared", self.golden)));
        }
        let rewind = Rewind { ctx, live: fresh, golden: &self.golden, replaced: &self.replaced };
        Ok(rewind.what_is_lost().await)
    }
}

/// Marks a database as one that no step drops.
pub(super) async fn keep(ctx: &Ctx<'_, '_>, database: &Database) -> Result<(), Fault> {
    let cannot = || format!("{} cannot be marked as kept", database.dbname);
    let client = database.maintenance().await.or_fault(cannot)?;
    identity::write_mark(&client, &database.dbname, &super::label(ctx, Purpose::Replaced))
        .await
        .or_fault(cannot)?;
    Ok(())
}
