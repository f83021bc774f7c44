//! The backups of an environment, as they lie in its folder and in its store.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use piton_db::DbError;
use piton_db::manifest::{Damage, Manifest, Proved};
use piton_db::store::{Held, Store};

use crate::config::Settings;
use crate::fault::Fault;
use crate::plan::short_id;
use crate::step;

/// A backup.
#[derive(Debug)]
pub struct Stored {
    /// The release or the run that made it, after which its folder is named.
    pub id: String,
    /// Its folder, or where it would be fetched to.
    pub folder: PathBuf,
    /// Whether it is in that folder.
    pub here: bool,
    /// Whether the store has all of it.
    pub stored: bool,
    /// What it holds; an error when its manifest was altered.
    pub manifest: Result<Manifest, DbError>,
    /// When it was last proved.
    pub proved: Option<Proved>,
    /// Whether the store's copy counts as proved where the one that is here does not: that one may have been damaged since.
    pub proved_there: bool,
}

/// Lists an environment's backups, oldest first, those with a damaged manifest among them.
///
/// A folder without a manifest is not a backup, and so not ours to judge; neither is another app's, nor a copy that somebody
/// keeps under a name of their own.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(folder: &Path, app: &str, environment: &str) -> Result<Vec<Stored>, Fault> {
    let entries = match fs_err::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fault::surroundings("the backups cannot be listed").caused_by(&error)),
    };
    let stored = entries.filter_map(|entry| {
        let folder = entry.ok()?.path();
        let id = folder.file_name()?.to_str()?.to_owned();
        // Identifiers sort by time.
        id.parse::<ulid::Ulid>().ok()?;
        let manifest = match Manifest::read(&folder) {
            Err(DbError::NoManifest { .. }) => return None,
            read => read,
        };
        let proved = manifest.as_ref().ok().and_then(|manifest| Proved::read(&folder, manifest));
        Some(Stored { id, folder, here: true, stored: false, manifest, proved, proved_there: false })
    });
    let is_ours = |stored: &Stored| match &stored.manifest {
        Ok(manifest) => is_of(manifest, &stored.id, app, environment),
        Err(_) => true,
    };
    let mut found: Vec<Stored> = stored.filter(is_ours).collect();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Tells whether a backup under this name is the environment's, and not one that somebody keeps for themselves.
fn is_of(manifest: &Manifest, id: &str, app: &str, environment: &str) -> bool {
    let whose = &manifest.made_for;
    whose.release == id && whose.app == app && whose.environment == environment
}

/// A store with what Piton has begun in it and not finished, or not finished removing, and when it last did.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) unfinished: Vec<(String, Timestamp)>,
}

/// Lists an environment's backups as [`list`] does, and what its store has; with it that store.
///
/// A store that cannot be read is a fault beside what is here.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) async fn list_both(
    settings: &Settings,
    folder: &Path,
) -> Result<(Vec<Stored>, Result<Option<Opened>, Fault>), Fault> {
    let mut found = list(folder, &settings.app, &settings.environment)?;
    let store = match step::store_of(settings) {
        Ok(None) => return Ok((found, Ok(None))),
        Ok(Some(store)) => store,
        Err(fault) => return Ok((found, Err(fault))),
    };
    let unfinished = add_stored(&mut found, &store, folder, settings).await;
    let opened = unfinished.map(|unfinished| Some(Opened { store, unfinished }));
    Ok((found, opened.map_err(|error| step::store_unusable(&settings.environment, &error))))
}

/// Adds what the store has, and tells of the others whether it has them; returns what of ours in the store is not whole.
async fn add_stored(
    found: &mut Vec<Stored>,
    store: &Store,
    folder: &Path,
    settings: &Settings,
) -> Result<Vec<(String, Timestamp)>, DbError> {
    let is_backup = |(id, _): &(String, Held)| id.parse::<ulid::Ulid>().is_ok();
    let (whole, parts): (Vec<_>, Vec<_>) =
        store.list().await?.into_iter().filter(is_backup).partition(|(_, held)| held.whole);
    for (id, held) in whole {
        let all = |manifest: &Manifest| held.files >= manifest.files.len() as u64;
        if let Some(here) = found.iter_mut().find(|stored| stored.id == id) {
            here.stored = here.manifest.as_ref().map_or(true, all);
            if here.stored && here.proved.is_none() {
                here.proved_there = match store.read(&id).await {
                    Ok((_, proved)) => proved.is_some(),
                    Err(error @ DbError::Store { .. }) => return Err(error),
                    Err(_) => false,
                };
            }
            continue;
        }
        let (manifest, proved) = match store.read(&id).await {
            Ok((manifest, _)) if !is_of(&manifest, &id, &settings.app, &settings.environment) => continue,
            Ok((manifest, _)) if !all(&manifest) => {
                let place = format!("{store}/{id}");
                let damage = Damage::Missing("one of its files".into(), None);
                (Err(DbError::Damaged { place, damage }), None)
            }
            Ok((manifest, proved)) => (Ok(manifest), proved),
            Err(error @ DbError::BadManifest { .. }) => (Err(error), None),
            // Somebody has removed it meanwhile.
            Err(DbError::NoManifest { .. }) => continue,
            Err(error) => return Err(error),
        };
        let folder = folder.join(&id);
        found.push(Stored { id, folder, here: false, stored: true, manifest, proved, proved_there: false });
    }
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let ours = parts.into_iter().filter(|(_, held)| held.ours);
    Ok(ours.map(|(id, held)| (id, Timestamp::from_second(held.changed).unwrap_or_default())).collect())
}

/// Finds a backup by its identifier, by the end of it, or as the `latest`.
///
/// # Errors
/// A refusal when there is none, or several.
pub fn find(stored: Vec<Stored>, part: &str, environment: &str) -> Result<Stored, Fault> {
    let listed = || format!("piton backups {environment} lists them");
    if part == "latest" {
        return stored.into_iter().next_back().ok_or_else(|| {
            Fault::refused(format!("{environment} has no backup yet"))
                .hint(format!("piton backup {environment} takes one"))
        });
    }
    let wanted = part.to_ascii_uppercase();
    let mut fits = stored.into_iter().filter(|stored| {
        stored.id == wanted || !wanted.is_empty() && short_id(&stored.id).ends_with(&wanted)
    });
    match (fits.next(), fits.next()) {
        (Some(found), None) => Ok(found),
        (None, _) => Err(Fault::refused(format!("{environment} has no backup {part}")).hint(listed())),
        (Some(_), Some(_)) => {
            Err(Fault::refused(format!("several backups of {environment} end with {part}")).hint(listed()))
        }
    }
}
