//! What an earlier attempt has left when its migration went back: saved then, and loaded behind the same migration.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use piton_db::Database;
use piton_db::replay::{self, Load, Loaded, Progress, Rescued};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Act, Ctx, Site, Words};
use crate::fault::{Fault, OrFault};
use crate::files;

/// Loads what earlier attempts have left, once the database is migrated again and before anybody uses what is new in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadRescued {
    /// The files, oldest first.
    pub files: Vec<PathBuf>,
}

/// How far a file is loaded, as it is noted before a part of it is committed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Begun {
    transaction: u64,
    before: Progress,
    after: Progress,
}

impl Begun {
    /// Tells how far the file is loaded, whatever became of who did it.
    async fn reached(self, database: &Database, file: &Path) -> Result<Progress, Fault> {
        let is_in = replay::is_committed(database, self.transaction).await.or_fault(|| cannot(file))?;
        Ok(if is_in { self.after } else { self.before })
    }
}

/// Returns how far each file was loaded by an attempt before.
fn begun(ctx: &Ctx<'_, '_>) -> BTreeMap<PathBuf, Begun> {
    ctx.noted().and_then(|note| serde_json::from_value(note).ok()).unwrap_or_default()
}

fn cannot(file: &Path) -> String {
    format!("{} cannot be loaded", file.display())
}

/// How a rescue file ends that is still to be loaded.
const WAITING: &str = "jsonl";

/// Returns where a release puts the whole of a file away that it has loaded.
fn away(ctx: &Ctx<'_, '_>, file: &Path) -> PathBuf {
    file.with_extension(format!("{}.loaded", ctx.plan.id))
}

/// Lists an environment's rescue files that wait to be loaded, oldest first.
pub(crate) fn waiting(folder: &Path) -> Vec<PathBuf> {
    let found = fs_err::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        found.filter(|path| path.extension().is_some_and(|end| end == WAITING)).collect();
    found.sort();
    found
}

/// Saves what of a replaced database has no place in the one that stands in for it now; returns it with the file's name.
pub(super) async fn save(
    ctx: &Ctx<'_, '_>,
    now: &Database,
    replaced: &Database,
) -> Result<Option<(PathBuf, Rescued)>, Fault> {
    let cannot = || "what the old structure has no place for cannot be saved".to_owned();
    let file = file(ctx)?;
    let rescued = replay::rescue(now, replaced, &file).await.or_fault(cannot)?;
    Ok(rescued.map(|rescued| (file, rescued)))
}

/// Returns the file for what this release leaves, in a folder that is there.
pub(super) fn file(ctx: &Ctx<'_, '_>) -> Result<PathBuf, Fault> {
    let folder = ctx.world.dirs.rescued(&ctx.plan.environment);
    files::private_folder(&folder).or_fault(|| "the folder for it cannot be made".into())?;
    Ok(folder.join(&ctx.plan.id).with_extension(WAITING))
}

impl Act for LoadRescued {
    fn words(&self, _site: &Site<'_>) -> Words {
        let names: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        let does = format!("what an earlier attempt had written into it: {}", names.join(", "));
        Words::new(does, "it goes back with the migration")
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let database = super::database_of(ctx.settings())?;
        let (mut loaded, mut there, mut left, mut fired) = (0, 0, Vec::new(), false);
        let mut begun = begun(ctx);
        for file in &self.files {
            ctx.say(&file.display().to_string());
            let Some(result) = load(ctx, &database, file, &mut begun).await? else { continue };
            loaded += result.loaded;
            there += result.there;
            fired |= result.fired;
            if result.rows_left() > 0 {
                left.push(json!({ "file": file, "rows": result.left, "count": result.rows_left() }));
            }
        }
        Ok(json!({ "loaded": loaded, "there": there, "left": left, "fired": fired }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        // What becomes of what is in goes by how the migration goes back; where it was cut off, the file keeps the rest.
        let database = super::database_of(ctx.settings())?;
        for (file, begun) in begun(ctx) {
            let away = away(ctx, &file);
            if !is_same(&file, &away)? {
                continue;
            }
            let progress = begun.reached(&database, &file).await?;
            let cannot = || format!("what of {} was not loaded cannot be kept", file.display());
            progress.write_rest(&away, &file).or_fault(cannot)?;
        }
        Ok(Value::Null)
    }
}

/// Tells whether two names are one file's.
fn is_same(file: &Path, other: &Path) -> Result<bool, Fault> {
    let inode = |path: &Path| match fs_err::metadata(path) {
        Ok(file) => Ok(Some((file.dev(), file.ino()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).or_fault(|| cannot(path)),
    };
    Ok(matches!((inode(file)?, inode(other)?), (Some(file), Some(other)) if file == other))
}

/// Loads one file, or what is left to load of it, and puts it away; `None` when somebody has taken it away.
async fn load(
    ctx: &Ctx<'_, '_>,
    database: &Database,
    file: &Path,
    begun: &mut BTreeMap<PathBuf, Begun>,
) -> Result<Option<Loaded>, Fault> {
    let away = away(ctx, file);
    let progress = match begun.get(file) {
        None if !file.exists() => return Ok(None),
        None => {
            let migrated = ctx.outcome::<super::migrate::Outcome>("migrate");
            // Whoever has migrated it otherwise may have written what is new.
            if migrated.is_some_and(|migrated| migrated.migrations.is_empty()) && !away.exists() {
                replay::doubt(file).or_fault(|| cannot(file))?;
            }
            files::link(file, &away).or_fault(|| format!("{} cannot be put away", file.display()))?;
            load_on(ctx, database, file, begun, Progress::default()).await?
        }
        Some(begun) if begun.before == begun.after => begun.after.clone(),
        Some(known) => {
            let progress = known.clone().reached(database, file).await?;
            load_on(ctx, database, file, begun, progress).await?
        }
    };
    // Otherwise the rest was written already, or somebody has seen to it.
    if is_same(file, &away)? {
        progress.write_rest(&away, file).or_fault(|| cannot(file))?;
    }
    Ok(Some(progress.loaded))
}

/// Loads the parts of a file that are left, each noted before it is committed.
async fn load_on(
    ctx: &Ctx<'_, '_>,
    database: &Database,
    file: &Path,
    begun: &mut BTreeMap<PathBuf, Begun>,
    mut progress: Progress,
) -> Result<Progress, Fault> {
    let mut load = Load::open(database, &away(ctx, file)).await.or_fault(|| cannot(file))?;
    while let Some(part) = load.next(&progress).await.or_fault(|| cannot(file))? {
        let (transaction, after) = (part.transaction, part.after.clone());
        begun.insert(file.to_owned(), Begun { transaction, before: progress, after });
        ctx.note(&*begun)?;
        progress = part.commit().await.or_fault(|| cannot(file))?;
    }
    // The server does not know for ever which transactions it has committed.
    if let Some(of_file) = begun.get_mut(file) {
        of_file.before = progress.clone();
    }
    ctx.note(&*begun)?;
    Ok(progress)
}

/// Has the files that a release was to load go over nothing, behind a migration that stays: people write by then what they hold.
pub(super) fn doubt(ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
    for file in files_of(ctx).filter(|file| file.exists()) {
        replay::doubt(file).or_fault(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(())
}

/// Lists the files that a release was to load.
fn files_of<'a>(ctx: &'a Ctx<'_, '_>) -> impl Iterator<Item = &'a PathBuf> {
    let files = ctx.plan.steps.iter().filter_map(|planned| match &planned.step {
        super::Step::LoadRescued(load) => Some(&load.files),
        _ => None,
    });
    files.flatten()
}

/// Puts back the files that a release has loaded, behind a swap that has saved nothing of what was loaded.
///
/// Where later writes are carried back, or the migration is taken back in place, what was loaded is saved again like any other row;
/// where the migration stays, it is in.
pub(super) fn put_back(ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
    for file in files_of(ctx) {
        let away = away(ctx, file);
        if away.exists() {
            fs_err::rename(&away, file).or_fault(|| format!("{} cannot be put back", file.display()))?;
        }
    }
    Ok(())
}
