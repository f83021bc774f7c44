//! An older database takes the live one's place, which is kept beside it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use piton_db::changes::Frozen;
use piton_db::identity::{self, Purpose};
use piton_db::loss::{self, Exported};
use piton_db::manifest::Manifest;
use piton_db::prove::{self, Owners};
use piton_db::{Database, facts, made, swap};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::hold::{self, Hold, PART};
use super::loss::{Lost, Older};
use super::migrate_copy::replacement;
use super::rewind::{bound, swapped};
use super::{Act, Ctx, Site, Words};
use crate::fault::{Fault, OrFault};
use crate::files;

/// Puts an older database in the live one's place, once what is lost by that is written into a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PutInPlace {
    /// What is wanted back.
    pub to: Older,
    /// The database with its contents.
    pub older: String,
    /// What the replaced database is called.
    pub replaced: String,
    /// What the older one is called when it has to leave its place again.
    pub aside: String,
    /// How much may be lost.
    pub accept: u64,
}

/// How often a freeze is kept up while it lasts: a silent session would be ended.
const KEEP_UP: Duration = Duration::from_secs(10);

/// What the step notes before the databases change places.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Noted {
    lost: Lost,
    rows: u64,
    cut_off: u64,
    bound: Vec<String>,
}

impl PutInPlace {
    fn file(ctx: &Ctx<'_, '_>) -> PathBuf {
        ctx.world.dirs.lost(&ctx.plan.environment).join(&ctx.plan.id).with_extension("jsonl")
    }

    /// Counts once more while nobody writes, saves what is lost, and lets the databases change places.
    async fn exchange(
        &self,
        ctx: &Ctx<'_, '_>,
        hold: &mut Hold,
        (live, older): (&Database, &str),
        before: &loss::Look,
    ) -> Result<(), Fault> {
        hold::get_ready_to_freeze(live).await?;
        let mut cut_off = hold.begin().await?;
        let Some(frozen) = hold::freeze(live).await? else {
            return Err(somebody_writes(ctx, live));
        };
        let last = async {
            let look = super::loss::look(ctx, older, Some(&Self::folder(ctx)?), Some(before)).await?;
            let lost = Lost::counted(look.loss.clone(), self.accept);
            ctx.note(&Noted { lost: lost.clone(), rows: 0, cut_off: 0, bound: Vec::new() })?;
            lost.is_accepted(ctx, &self.to)?;
            Self::export(ctx, look, lost).await
        };
        let (lost, exported) = keep_still(&frozen, hold, last).await?;
        let older = live.with_name(older);
        loss::move_sequences(&older, live).await.or_fault(|| "the sequences cannot be moved on".into())?;
        // What came before has used up a part of the hold.
        cut_off = cut_off.max(hold.begin().await?);
        ctx.note(&Noted { lost, rows: exported.rows, cut_off, bound: bound(live).await? })?;
        frozen.check().await.or_fault(|| "the database did not keep still".into())?;
        swap::swap(live, &older.dbname, &self.replaced)
            .await
            .or_fault(|| "the databases cannot change places".into())?;
        Hold::let_recover(ctx).await;
        Ok(())
    }

    fn folder(ctx: &Ctx<'_, '_>) -> Result<PathBuf, Fault> {
        let folder = ctx.world.dirs.lost(&ctx.plan.environment);
        files::private_folder(&folder).or_fault(|| format!("{} cannot be made", folder.display()))?;
        Ok(folder)
    }

    /// Writes the rows that are lost into a file, if there are any.
    async fn export(ctx: &Ctx<'_, '_>, look: loss::Look, lost: Lost) -> Result<(Lost, Exported), Fault> {
        let file = Self::file(ctx);
        let cannot = || format!("{} cannot be written", file.display());
        if lost.loss.tables.is_empty() {
            files::remove_file(&file).or_fault(cannot)?;
            return Ok((lost, Exported::default()));
        }
        ctx.say("writing down the rows that are lost");
        let exported = look.export(&file).await.or_fault(cannot)?;
        Ok((Lost { file: Some(file), ..lost }, exported))
    }

    /// Does what is left once the databases have changed places, and tells of it.
    async fn finish(&self, ctx: &Ctx<'_, '_>, live: &Database, lapsed: bool) -> Result<Value, Fault> {
        let noted = ctx.noted().and_then(|note| serde_json::from_value::<Noted>(note).ok());
        let replaced = live.with_name(&self.replaced);
        if ctx.settings().data.is_some() {
            // Otherwise it would be taken for one that Piton may make anew.
            super::clone::keep(ctx, &replaced).await?;
        }
        // The restored one stands as it was where a migrated copy of it took the place.
        if matches!(self.to, Older::Backup { .. }) && replacement(ctx, &self.older) != self.older {
            super::drop_made(ctx, live, &self.older).await?;
        }
        let mut outcome = json!({ "replaced": self.replaced, "hold_lapsed": lapsed });
        if let (Some(outcome), Value::Object(noted)) = (outcome.as_object_mut(), json!(noted)) {
            outcome.extend(noted);
        }
        Ok(outcome)
    }

    /// Lets the databases change places again, and says whether the older one stays because somebody has written into it.
    async fn put_back(&self, ctx: &Ctx<'_, '_>, live: &Database) -> Result<Value, Fault> {
        let cannot = || "the database before cannot be put back".to_owned();
        let older = replacement(ctx, &self.older);
        // One that was kept is called as before again.
        let was_kept = older == self.older && matches!(self.to, Older::Kept { .. });
        let aside = live.with_name(if was_kept { &older } else { &self.aside });
        if swapped(live, &older, &self.replaced).await? {
            let mut hold = Hold::new(ctx).await?;
            hold.begin().await?;
            let back = swap::swap(live, &self.replaced, &aside.dbname).await;
            Hold::let_recover(ctx).await;
            hold.end().await?;
            back.or_fault(cannot)?;
        } else if was_kept
            || !facts::exists(&aside).await.or_fault(|| format!("{} cannot be asked", live.server()))?
        {
            return Ok(Value::Null);
        }
        if was_kept {
            return Ok(json!({ "back": true }));
        }
        let is_as_restored = match &self.to {
            Older::Backup { folder } if older == self.older => is_as_restored(ctx, folder, &aside).await,
            _ => false,
        };
        if !is_as_restored {
            super::clone::keep(ctx, &aside).await?;
            return Ok(json!({ "back": true, "kept": aside.dbname }));
        }
        let undroppable = || format!("{} cannot be dropped", self.aside);
        let place = identity::locate(&aside).await.or_fault(undroppable)?;
        if place.purpose(&ctx.plan.app, &ctx.plan.environment) == Some(Purpose::Replaced) {
            let label = super::label(ctx, Purpose::Replaced);
            made::drop_replaced(&aside, &label).await.or_fault(undroppable)?;
        } else {
            super::drop_made(ctx, live, &self.aside).await?;
        }
        Ok(json!({ "back": true }))
    }
}

/// Tells whether a database holds what its backup does, and nothing that somebody wrote since.
async fn is_as_restored(ctx: &Ctx<'_, '_>, folder: &std::path::Path, database: &Database) -> bool {
    let Ok(manifest) = Manifest::read(folder) else { return false };
    let owners = if manifest.made_for.from.is_some() { Owners::Restorer } else { Owners::Kept };
    let proof =
        prove::compare(&manifest, database, owners, &mut |progress| super::backup::say(ctx, &progress)).await;
    proof.is_ok_and(|proof| proof.is_equal())
}

/// Waits for what is done while the database is kept still. When that takes longer than requests may wait they go on, and
/// those that write wait in the database.
async fn keep_still<T>(
    frozen: &Frozen,
    hold: &mut Hold,
    last: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let began = Instant::now();
    let mut last = std::pin::pin!(last);
    let mut let_go = false;
    loop {
        let pause = if let_go { KEEP_UP } else { PART.saturating_sub(began.elapsed()) };
        match tokio::time::timeout(pause, &mut last).await {
            Ok(done) => return done,
            Err(_) if !let_go => {
                hold.let_go().await?;
                let_go = true;
            }
            Err(_) => {}
        }
        frozen.check().await.or_fault(|| "the database did not keep still".into())?;
    }
}

fn somebody_writes(ctx: &Ctx<'_, '_>, live: &Database) -> Fault {
    let look = "select pid, usename, application_name, state, query from pg_stat_activity where datname = current_database()";
    Fault::surroundings("somebody writes to the database past the proxy")
        .because("what would be lost cannot be counted to the end meanwhile; nothing was changed")
        .hint(format!(
            "end it: {} shows who; then piton resume {}",
            live.by_hand("psql").args(["-c", look]),
            ctx.plan.environment
        ))
}

impl Act for PutInPlace {
    fn words(&self, site: &Site<'_>) -> Words {
        let environment = &site.settings.environment;
        let does = format!("write what is lost into a file, let {} take {environment}'s place", self.to);
        let words = Words::new(
            does,
            "the database before takes its place again; this one stays beside it if somebody wrote into it",
        );
        words.with(site.renames(&self.older, &self.replaced))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let live = super::database_of(ctx.settings())?;
        let older = replacement(ctx, &self.older);
        if swapped(&live, &older, &self.replaced).await? {
            return self.finish(ctx, &live, false).await;
        }
        // What was written so far is looked at while nobody waits: then only what is written from here on is left.
        let before = super::loss::look(ctx, &older, Some(&Self::folder(ctx)?), None).await?;
        Lost::counted(before.loss.clone(), self.accept).is_accepted(ctx, &self.to)?;
        let mut hold = Hold::new(ctx).await?;
        let exchanged = self.exchange(ctx, &mut hold, (&live, &older), &before).await;
        let lapsed = hold.end().await?;
        exchanged?;
        self.finish(ctx, &live, lapsed).await
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let live = super::database_of(ctx.settings())?;
        let outcome = match ctx.noted() {
            Some(_) => self.put_back(ctx, &live).await?,
            None => Value::Null,
        };
        let file = Self::file(ctx);
        files::remove_file(&file).or_fault(|| format!("{} cannot be removed", file.display()))?;
        Ok(outcome)
    }
}
