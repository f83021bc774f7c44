use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use piton_db::identity::{self, Purpose};
use piton_db::made::{self, Adopted};
use piton_db::{Database, DbError, backup};
use piton_exec::Command;
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

/// Says why a step that closes the way back is not undone.
pub(super) fn cannot_be_undone() -> Fault {
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

/// When a backup was taken; `None` when only a person can tell, for its manifest was altered.
fn taken(stored: &Stored) -> Option<Timestamp> {
    match &stored.manifest {
        Ok(manifest) => Some(manifest.snapshot_at),
        // Short of files it is no backup any more; it is named after the run that made it.
        Err(DbError::Damaged { .. }) => {
            let run: ulid::Ulid = stored.id.parse().ok()?;
            Timestamp::from_millisecond(i64::try_from(run.timestamp_ms()).ok()?).ok()
        }
        Err(_) => None,
    }
}

impl Act for Prune {
    fn words(&self, _site: &Site<'_>) -> Words {
        let keep = self.retention.words();
        Words::new(format!("keep backups {keep}, remove older ones"), "closes the way back")
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let mut not_removed = self.clear_spent().await;
        let (mut removed, mut removed_there, mut too_old) = (Vec::new(), Vec::new(), Vec::new());
        let (listed, opened) = backups::list_both(ctx.settings(), &self.folder).await?;
        let is_proved = |stored: &Stored| stored.proved.is_some() || stored.proved_there;
        let proved: Vec<Timestamp> =
            listed.iter().filter(|stored| is_proved(stored)).filter_map(taken).collect();
        let counted = self.retention.counted(&proved, &TimeZone::system());
        let now = Timestamp::now();
        for stored in listed {
            let Some(taken) = taken(&stored) else { continue };
            let counts = is_proved(&stored) && counted.contains(&taken);
            // This run's own backup stays whatever its age: it is the newest anchor.
            if stored.id != ctx.plan.id && !counts && !self.retention.is_young(taken, now) {
                if stored.here {
                    match backup::discard(&stored.folder).await {
                        Ok(()) => removed.push(stored.folder.display().to_string()),
                        Err(error) => not_removed.push(not_ours(&stored.folder, &error)),
                    }
                }
                if stored.stored {
                    too_old.push(stored.id);
                }
            }
        }
        let (opened, mut kept) = match opened {
            Ok(opened) => (opened, None),
            Err(fault) => (None, Some(fault.why.first().cloned().unwrap_or(fault.what))),
        };
        if let Some(opened) = opened {
            // Nobody goes on with what nothing came to for so long.
            let old = opened.unfinished.into_iter().filter(|(_, last)| !self.retention.is_young(*last, now));
            for id in too_old.into_iter().chain(old.map(|(id, _)| id)) {
                match opened.store.remove(&id).await {
                    Ok(()) => removed_there.push(id),
                    Err(error) => kept = Some(error.to_string()),
                }
            }
        }
        // A key may be one that cannot remove, and what a store that is away keeps goes with the next run. Nor does a folder that
        // cannot be removed keep a release from ending.
        Ok(json!({
            "removed": removed,
            "not_removed": not_removed,
            "removed_from_store": removed_there,
            "store_kept": kept,
        }))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        Err(cannot_be_undone())
    }
}

impl Prune {
    /// Removes what removals have left that were cut off at their end: folders that hold nothing but Piton's own marker; says
    /// what stays.
    async fn clear_spent(&self) -> Vec<String> {
        let mut not_removed = Vec::new();
        for entry in fs_err::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_release =
                path.file_name().and_then(|name| name.to_str()?.parse::<ulid::Ulid>().ok()).is_some();
            if is_release && path.is_dir() && backup::is_spent(&path).unwrap_or(false) {
                let discarded = backup::discard(&path).await;
                not_removed.extend(discarded.err().map(|error| not_ours(&path, &error)));
            }
        }
        not_removed
    }
}

/// Says why a backup's folder was not removed; one that a person has copied may have lost Piton's marker.
fn not_ours(folder: &Path, error: &DbError) -> String {
    match error {
        DbError::ForeignFolder { .. } => {
            let marker = folder.join(backup::MARKER).display().to_string();
            let remove = Command::new("rm").args(["-r", &folder.display().to_string()]);
            let keep = Command::new("touch").arg(marker);
            format!("{} has no {}: {remove}, or {keep}", folder.display(), backup::MARKER)
        }
        error => error.to_string(),
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
