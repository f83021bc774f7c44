//! What an earlier attempt has left when its migration went back: saved then, and loaded behind the same migration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use piton_db::Database;
use piton_db::replay::{self, Loaded, Rescued};
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

/// Of each file: the transaction that loads it, noted before it is committed, and what comes of it.
type Begun = BTreeMap<PathBuf, (u64, Loaded)>;

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
        let noted = ctx.noted().and_then(|note| serde_json::from_value::<Begun>(note).ok());
        let mut begun = noted.unwrap_or_default();
        for file in &self.files {
            ctx.say(&file.display().to_string());
            let cannot = || format!("{} cannot be loaded", file.display());
            let before = match begun.get(file) {
                Some((transaction, loaded)) => {
                    let is_in = replay::is_committed(&database, *transaction).await.or_fault(cannot)?;
                    is_in.then(|| loaded.clone())
                }
                None => None,
            };
            let result = match before {
                Some(loaded) => loaded,
                // Somebody has taken it away.
                None if !file.exists() => continue,
                None => {
                    let loading = replay::load(&database, file).await.or_fault(cannot)?;
                    begun.insert(file.clone(), (loading.transaction, loading.loaded.clone()));
                    ctx.note(&begun)?;
                    loading.commit().await.or_fault(cannot)?
                }
            };
            loaded += result.loaded;
            there += result.there;
            fired |= result.fired;
            let cannot = || format!("{} cannot be put away", file.display());
            let away = away(ctx, file);
            if !away.exists() {
                fs_err::hard_link(file, &away).or_fault(cannot)?;
            }
            if result.left.is_empty() {
                files::remove_file(file).or_fault(cannot)?;
            } else {
                result.write_left(file).or_fault(cannot)?;
                left.push(json!({ "file": file, "rows": result.left }));
            }
        }
        Ok(json!({ "loaded": loaded, "there": there, "left": left, "fired": fired }))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        // What becomes of it goes by how the migration goes back.
        Ok(Value::Null)
    }
}

/// Puts back the files that a release has loaded, behind a swap that has saved nothing of what was loaded.
///
/// Where later writes are carried back, or the migration is taken back in place, what was loaded is saved again like any other row;
/// where the migration stays, it is in.
pub(super) fn put_back(ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
    let files = ctx.plan.steps.iter().filter_map(|planned| match &planned.step {
        super::Step::LoadRescued(load) => Some(&load.files),
        _ => None,
    });
    for file in files.flatten() {
        let away = away(ctx, file);
        if away.exists() {
            fs_err::rename(&away, file).or_fault(|| format!("{} cannot be put back", file.display()))?;
        }
    }
    Ok(())
}
