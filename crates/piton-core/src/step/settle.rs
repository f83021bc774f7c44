use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use piton_db::identity::{self, Purpose};
use piton_db::made::{self, Adopted};
use piton_db::store::Store;
use piton_db::{Database, DbError, backup};
use piton_proxy::{Slot, Weights};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::proxy::{DRAIN, client, in_force, no_answer};
use super::{Act, Ctx, Site, Words, build, slot};
use crate::backups::{self, Stored};
use crate::config::format_duration;
use crate::fault::{Fault, OrFault};
use crate::retention::{Retention, is_older};
use crate::{files, words};

/// Stops the release that served before, after its last request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StopSlot {
    /// The environment.
    pub environment: String,
    /// The release to stop, which marks its processes.
    pub release: String,
    /// Its slot.
    pub slot: Slot,
    /// Its folder.
    pub folder: PathBuf,
    /// How long it may take to stop.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub stop_within: Duration,
}

/// Drops the databases that the release made to have a way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DropCopies {
    /// Their names.
    pub names: Vec<String>,
}

/// Removes the backups that nothing keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prune {
    /// The environment's folder of backups.
    pub folder: PathBuf,
    /// Which stay.
    #[serde(flatten)]
    pub retention: Retention,
}

/// Removes builds that nothing runs from any more, with git's entries for them, and logs as old as backups that are removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tidy {
    /// The folder of builds.
    pub builds: PathBuf,
    /// The folder of releases' logs.
    pub logs: PathBuf,
    /// How long logs are kept.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub keep: Duration,
}

fn cannot_be_undone() -> Fault {
    Fault::refused("a release that settles has closed its way back")
}

impl Act for StopSlot {
    fn words(&self, _site: &Site<'_>) -> Words {
        Words::new(format!("drain and stop {}", self.slot), "closes the way back")
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        ctx.not_fenced_off()?;
        let mut client = client(ctx).await?;
        // Whatever became of the traffic: a slot that goes has none.
        in_force(client.set_weights(Weights::all(self.slot.other())).await)?;
        let drained = client.drain(self.slot, DRAIN).await.or_fault(no_answer)?;
        client.set_upstream(self.slot, None).await.or_fault(no_answer)?;
        slot::stop(&self.release, &self.folder, self.stop_within).await?;
        files::remove_folder(&self.folder).or_fault(|| "the old slot's folder cannot be removed".into())?;
        Ok(json!({ "cut_off": drained.left }))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Err(cannot_be_undone())
    }
}

impl Act for DropCopies {
    fn words(&self, site: &Site<'_>) -> Words {
        let drops = self.names.iter().filter_map(|name| site.client("dropdb", None, [name]));
        Words::new(format!("drop {}", self.names.join(", ")), "closes the way back").with(drops)
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let database = super::database_of(ctx.settings())?;
        let (mut dropped, mut kept) = (Vec::new(), Vec::new());
        for name in &self.names {
            match drop_copy(ctx, &database.with_name(name)).await? {
                None => dropped.push(name),
                Some(holds) => kept.push(json!({ "name": name, "holds": holds })),
            }
        }
        Ok(json!({ "dropped": dropped, "kept": kept }))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Err(cannot_be_undone())
    }
}

/// Drops a database that Piton made, or one that people made and left empty; says what is in it when it stays.
async fn drop_copy(ctx: &Ctx<'_, '_>, database: &Database) -> Result<Option<String>, Fault> {
    let name = &database.dbname;
    let cannot = || format!("{name} cannot be dropped");
    let place = identity::locate(database).await.or_fault(cannot)?;
    if !place.mark.valid().is_some_and(|mark| mark.label.purpose == Purpose::Adopted) {
        super::drop_made(ctx, database, name).await?;
        return Ok(None);
    }
    Ok(match made::drop_adopted(database).await.or_fault(cannot)? {
        Adopted::Dropped | Adopted::Gone => None,
        Adopted::Kept(found) => Some(words::some(&found, 3)),
    })
}

impl Prune {
    /// Removes from the store what uploads have left that were cut off.
    async fn remove_unfinished(&self, store: &Store, now: Timestamp) -> Result<(), DbError> {
        for (id, held) in store.list().await? {
            let Ok(made) = id.parse::<ulid::Ulid>() else { continue };
            let made =
                i64::try_from(made.timestamp_ms()).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
            if !held.whole && made.is_some_and(|made| !self.retention.is_young(made, now)) {
                store.remove(&id).await?;
            }
        }
        Ok(())
    }
}

impl Act for Prune {
    fn words(&self, _site: &Site<'_>) -> Words {
        let keep = self.retention.words();
        Words::new(format!("keep backups {keep}, remove older ones"), "closes the way back")
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let cannot = || "an old backup cannot be removed".to_owned();
        if self.folder.is_dir() {
            super::backup::clear_spent(&self.folder).await.or_fault(cannot)?;
        }
        let mut removed = Vec::new();
        let mut stored = backups::list(&self.folder, &ctx.plan.app, &ctx.plan.environment)?;
        let mut store = super::store_of(ctx.settings())?;
        let mut kept = None;
        if let Some(open) = &store
            && let Err(error) = backups::add_stored(&mut stored, &self.folder, open).await
        {
            (store, kept) = (None, Some(error.to_string()));
        }
        let at = |stored: &Stored| Some(stored.manifest.as_ref().ok()?.snapshot_at);
        let proved: Vec<Timestamp> =
            stored.iter().filter(|stored| stored.proved.is_some()).filter_map(at).collect();
        let counted = self.retention.counted(&proved, &TimeZone::system());
        let now = Timestamp::now();
        for stored in stored {
            let Some(taken) = at(&stored) else { continue };
            let counts = stored.proved.is_some() && counted.contains(&taken);
            // This run's own backup stays whatever its age: it is the newest anchor.
            if stored.id != ctx.plan.id && !counts && !self.retention.is_young(taken, now) {
                if stored.here {
                    backup::discard(&stored.folder).await.or_fault(cannot)?;
                    removed.push(stored.folder.display().to_string());
                }
                if let Some(store) = store.as_ref().filter(|_| stored.stored) {
                    kept = store.remove(&stored.id).await.err().map(|error| error.to_string()).or(kept);
                }
            }
        }
        if let Some(store) = &store {
            kept = self.remove_unfinished(store, now).await.err().map(|error| error.to_string()).or(kept);
        }
        // A key that may write and not remove is a good one, and a store that is away takes the next run's removals.
        Ok(json!({ "removed": removed, "store_kept": kept }))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Err(cannot_be_undone())
    }
}

impl Tidy {
    /// Removes the builds whose commits are not in use.
    async fn remove_builds(&self, ctx: &Ctx<'_, '_>) -> Result<Vec<String>, Fault> {
        let mut removed = Vec::new();
        for commit in build::whole(&self.builds)? {
            if build::remove_unused(ctx, &self.builds.join(&commit), &commit).await? {
                removed.push(commit);
            }
        }
        Ok(removed)
    }

    /// Removes the logs of releases that the environment's journal knows and that ended long ago.
    async fn remove_logs(&self, ctx: &Ctx<'_, '_>) -> Result<Vec<String>, Fault> {
        let mut removed = Vec::new();
        // An app writes into the log of its release for as long as it runs.
        let before = ctx.plan.live.as_ref().map(|live| live.release.as_str());
        let now = Timestamp::now();
        for state in ctx.releases()? {
            let id = state.plan.id.as_str();
            let Some((_, ended)) = state.ended else { continue };
            let other = state.plan.environment != ctx.plan.environment;
            let folder = self.logs.join(id);
            if other || before == Some(id) || !is_older(ended, self.keep, now) || !folder.is_dir() {
                continue;
            }
            files::remove_folder_in_background(&folder)
                .await
                .or_fault(|| "the logs of an old release cannot be removed".into())?;
            removed.push(id.to_owned());
        }
        Ok(removed)
    }
}

impl Act for Tidy {
    fn words(&self, site: &Site<'_>) -> Words {
        let keep = format_duration(self.keep);
        let does = format!("keep the builds in use and the one before, logs {keep}, remove older ones");
        let old = self.builds.join("OLD");
        Words::new(does, "closes the way back").with([build::forget(&site.settings.root, &old)])
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Ok(json!({ "builds": self.remove_builds(ctx).await?, "logs": self.remove_logs(ctx).await? }))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Err(cannot_be_undone())
    }
}
