use std::cell::RefCell;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use piton_db::backup::{self, DumpOptions};
use piton_db::identity::Purpose;
use piton_db::manifest::{self, MadeFor, Manifest};
use piton_db::prove::{self, Owners};
use piton_db::tools::Tools;
use piton_db::{Database, DbError, Progress, Report};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Act, Ctx, Site, Words, disk};
use crate::config::Settings;
use crate::fault::{Fault, OrFault};
use crate::files;

/// How many tables are dumped and restored at once.
const JOBS: u32 = 2;

/// Dumps the database at one snapshot, with a manifest of what the dump holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    /// Where the backup lies.
    pub folder: PathBuf,
    /// The environment whose database is dumped, when it is not the release's own.
    pub from: Option<String>,
}

/// Restores the backup into a new database, the golden copy, and compares both row by row and object by object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Where the backup lies.
    pub folder: PathBuf,
    /// The golden copy's name.
    pub golden: String,
}

fn made_for(ctx: &Ctx<'_, '_>) -> MadeFor {
    MadeFor {
        app: ctx.plan.app.clone(),
        environment: ctx.plan.environment.clone(),
        release: ctx.plan.id.clone(),
        commit: ctx.plan.commit.hash.clone(),
        serving: ctx.world.backed_up_commit.clone(),
    }
}

/// Lists the whole backups of the release's environment in a folder, each with the time of its snapshot, oldest first.
pub(super) fn list(ctx: &Ctx<'_, '_>, folder: &Path) -> Result<Vec<(PathBuf, Timestamp)>, Fault> {
    let entries = match fs_err::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fault::surroundings("the backups cannot be listed").caused_by(&error)),
    };
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    // A folder without a manifest is not a backup, and so not ours to judge; neither is another app's, nor a copy that
    // somebody keeps under a name of their own.
    let mut backups: Vec<_> = folders
        .filter_map(|path| Some((Manifest::read(&path).ok()?, path)))
        .filter(|(found, path)| {
            let whose = &found.made_for;
            let is_named = path.file_name().is_some_and(|name| name == whose.release.as_str());
            is_named && whose.app == ctx.plan.app && whose.environment == ctx.plan.environment
        })
        .map(|(found, path)| (path, found.snapshot_at))
        .collect();
    backups.sort_by_key(|(_, taken)| *taken);
    Ok(backups)
}

/// Removes what removals have left that were cut off at their end: folders that hold nothing but Piton's own marker.
pub(super) async fn clear_spent(folder: &Path) -> Result<(), DbError> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let is_release =
            path.file_name().and_then(|name| name.to_str()?.parse::<ulid::Ulid>().ok()).is_some();
        if is_release && path.is_dir() && backup::is_spent(&path)? {
            backup::discard(&path).await?;
        }
    }
    Ok(())
}

/// A copy that may take the original's place keeps its owners; one for another environment belongs to that one's user.
fn owners(settings: &Settings) -> Owners {
    if settings.data.is_some() { Owners::Restorer } else { Owners::Kept }
}

fn named(program: &str) -> Tools {
    Tools { pg_dump: "pg_dump".into(), pg_restore: "pg_restore".into(), version: program.into(), major: 0 }
}

fn say(ctx: &Ctx<'_, '_>, progress: &Progress) {
    ctx.say(&format!("{} of {} · {}", progress.done, progress.total, progress.what));
}

/// Shows how far the work is, and journals the programs that ran for it.
pub(super) struct Reports<'a, 'c, 'w> {
    ctx: &'a Ctx<'c, 'w>,
    /// Why the journal could not be written.
    unwritten: RefCell<Option<Fault>>,
}

impl<'a, 'c, 'w> Reports<'a, 'c, 'w> {
    pub(super) fn new(ctx: &'a Ctx<'c, 'w>) -> Self {
        Self { ctx, unwritten: RefCell::new(None) }
    }

    pub(super) fn take(&self, report: Report) {
        match report {
            Report::Progress(progress) => say(self.ctx, &progress),
            Report::Said(line) => self.ctx.say(&line),
            Report::Ran(ran) => {
                if let Err(fault) = self.ctx.ran(ran) {
                    self.unwritten.borrow_mut().get_or_insert(fault);
                }
            }
        }
    }

    pub(super) fn all_written(&self) -> Result<(), Fault> {
        self.unwritten.take().map_or(Ok(()), Err)
    }
}

impl Backup {
    fn failed(&self, ctx: &Ctx<'_, '_>, error: &dyn std::error::Error) -> Fault {
        let fault = Fault::surroundings("the backup failed").caused_by(error);
        let environment = &ctx.plan.environment;
        let hint = match disk::says_full(&fault.why.join(" ")) {
            true => disk::mend(&self.folder, environment),
            false => format!("mend it, then piton resume {environment}"),
        };
        fault.hint(hint)
    }

    fn source(&self, ctx: &Ctx<'_, '_>) -> Result<Database, Fault> {
        super::database_of(ctx.world.from.as_ref().unwrap_or(&ctx.world.settings))
    }
}

impl Act for Backup {
    fn words(&self, site: &Site<'_>) -> Words {
        let source = site.from.unwrap_or(site.settings);
        let below = &site.settings.backup.to;
        let folder = below.strip_prefix(&site.settings.root).unwrap_or(below);
        let does = format!("{}'s database into {}", source.environment, folder.display());
        let words = Words::new(does, "an unfinished one is removed, a whole one is kept");
        let Ok(database) = super::database_of(source) else { return words };
        let options = DumpOptions { jobs: JOBS, ..DumpOptions::default() };
        words.with([backup::dump_command(&named("dump"), &database, &self.folder, "SNAPSHOT", options)])
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let source = self.source(ctx)?;
        let options = DumpOptions { jobs: JOBS, ..DumpOptions::default() };
        if let Some(parent) = self.folder.parent() {
            // The environment's own folder: the one above may be anything, such as a person's home.
            files::private_folder(parent).map_err(|error| self.failed(ctx, &error))?;
        }
        let reports = Reports::new(ctx);
        let mut take = |report| reports.take(report);
        let dumped = backup::dump(&source, &self.folder, &made_for(ctx), options, &mut take).await;
        reports.all_written()?;
        let manifest = dumped.map_err(|error| self.failed(ctx, &error))?;
        Ok(json!({
            "folder": self.folder,
            "snapshot_at": manifest.snapshot_at,
            "tables": manifest.tables.len(),
            "rows": manifest.total_rows(),
            "bytes": manifest.total_bytes(),
        }))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        match Manifest::read(&self.folder) {
            Ok(_) => Ok(json!({ "kept": self.folder })),
            // A whole backup whose manifest was damaged is evidence, not a leftover.
            Err(DbError::BadManifest { .. }) => Ok(json!({ "kept": self.folder, "damaged": true })),
            Err(DbError::NoManifest { .. }) => {
                backup::discard(&self.folder)
                    .await
                    .or_fault(|| "the unfinished backup cannot be removed".into())?;
                Ok(Value::Null)
            }
            Err(error) => Err(Fault::surroundings("the backup cannot be read").caused_by(&error)),
        }
    }
}

fn altered(folder: &Path) -> Fault {
    Fault::release("the backup was altered after it was made")
        .hint(format!("look who writes to {}; the next release takes a new backup", folder.display()))
}

impl Act for Proof {
    fn words(&self, site: &Site<'_>) -> Words {
        let does = "restore it as the golden copy, compare every row and object";
        let words = Words::new(does, "drop the golden copy");
        let Ok(database) = super::database_of(site.settings) else { return words };
        let golden = database.with_name(&self.golden);
        words.with([prove::restore_command(
            &named("restore"),
            &golden,
            &self.folder,
            owners(site.settings),
            JOBS,
        )])
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let manifest =
            Manifest::read(&self.folder).map_err(|error| altered(&self.folder).caused_by(&error))?;
        let folder = self.folder.clone();
        let damage = files::read_in_background(move || manifest::verify_files(&folder))
            .await
            .or_fault(|| "the backup's files cannot be read".into())?;
        if !damage.is_empty() {
            let mut fault = altered(&self.folder);
            fault.why = damage.iter().map(ToString::to_string).collect();
            return Err(fault);
        }
        let golden = super::database_of(ctx.settings())?.with_name(&self.golden);
        let label = super::label(ctx, Purpose::Golden);
        let owners = owners(ctx.settings());
        let reports = Reports::new(ctx);
        let mut take = |report| reports.take(report);
        let restored = prove::restore(&self.folder, &golden, &label, owners, JOBS, &mut take).await;
        reports.all_written()?;
        restored.or_fault(|| "the backup cannot be restored".into())?;
        let proof = prove::compare(&manifest, &golden, owners, &mut |progress| say(ctx, &progress))
            .await
            .or_fault(|| "the restored copy cannot be compared".into())?;
        if !proof.is_equal() {
            let mut fault = Fault::release("the restored copy differs from the backup");
            fault.why = proof.differences.iter().map(ToString::to_string).take(10).collect();
            return Err(fault);
        }
        Ok(json!({ "tables": proof.tables, "rows": proof.rows, "objects": proof.objects }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let dropped = super::drop_made(&super::database_of(ctx.settings())?, &self.golden).await?;
        Ok(json!({ "dropped": dropped }))
    }
}
