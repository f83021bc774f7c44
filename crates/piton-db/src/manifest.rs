//! What a backup holds, written last: a folder without a manifest is no backup.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::archive::Archive;
use crate::brought::Brought;
use crate::capture::{Keyless, Snapshot};
use crate::fingerprint::{Rows, Structure};
use crate::identity::Identity;
use crate::large_objects::LargeObject;
use crate::properties::Properties;
use crate::tables::Table;
use crate::versions::Collations;
use crate::{DbError, dumpfile, files};

/// The version of the manifest's format; newer ones are refused.
const FORMAT: u32 = 1;
pub(crate) const FILE: &str = "manifest.json";
/// The file that says that the backup was proved.
pub(crate) const PROVED: &str = "proved.json";

/// The size and checksum of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Bytes.
    pub size: u64,
    /// BLAKE3, as 64 hexadecimal digits.
    pub blake3: String,
    /// The table, by quoted name, whose rows it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
}

/// Where a sequence stood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceAt {
    /// The last value handed out, or the first to come when none was.
    pub last: i64,
    /// Whether `last` was handed out; older backups do not say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub called: bool,
    /// The step; negative for a descending one.
    pub increment: i64,
    /// Whether it begins again at its end.
    pub cycles: bool,
}

impl SequenceAt {
    /// Returns the value that it hands out next, its end aside.
    pub(crate) fn next(&self) -> i64 {
        if self.called { self.last.saturating_add(self.increment) } else { self.last }
    }
}

/// What a folder has that its commit has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uncommitted {
    /// The commit that is checked out there, which `uncommitted.diff` applies to.
    pub commit: String,
    /// How many files git does not know, which are not in that diff.
    pub untracked: u64,
}

/// Whom a backup was made for. Several apps may keep theirs in one folder, and each environment removes only its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFor {
    /// The app.
    pub app: String,
    /// The environment.
    pub environment: String,
    /// The release, after which the backup's folder is named; a copy under another name is somebody else's.
    pub release: String,
    /// The commit that was to be released.
    pub commit: String,
    /// The commit that served from the database when it was dumped; `None` when none did.
    pub serving: Option<String>,
    /// The environment whose database was dumped, when it is another one: a copy of it must not act as its original.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// The description of one backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format's version.
    pub format: u32,
    /// Whom it was made for.
    pub made_for: MadeFor,
    /// Which database was dumped.
    pub source: Identity,
    /// The moment whose contents the dump holds.
    pub snapshot_at: Timestamp,
    /// Which transactions the dump sees; all others have to come from the server's log. Older backups do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sees: Option<Snapshot>,
    /// The version of `pg_dump`.
    pub pg_dump: String,
    /// The tables whose rows the dump holds.
    pub tables: Vec<Table>,
    /// The row count and row sum of each, by quoted name, from the dump's own bytes.
    pub rows: Rows,
    /// The objects at the snapshot.
    pub structure: Structure,
    /// What belongs to its extensions, which the dump does not hold.
    #[serde(default, skip_serializing_if = "Brought::is_empty")]
    pub brought: Brought,
    /// The sequences, by quoted name, at or before the snapshot: they go on while a dump runs.
    pub sequences: BTreeMap<String, SequenceAt>,
    /// The large objects at the snapshot, by number.
    pub large_objects: BTreeMap<u32, LargeObject>,
    /// Materialized views that read from elsewhere, or may, with their quoted names, by oid.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub foreign_views: BTreeMap<u32, String>,
    /// What belongs to the database and not to its contents.
    pub properties: Properties,
    /// The versions of the collations that it sorts by.
    #[serde(default, skip_serializing_if = "Collations::is_empty")]
    pub collations: Collations,
    /// How much room the database took, with its indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database_bytes: Option<u64>,
    /// Every file of the dump, by its path below the backup's folder.
    pub files: BTreeMap<String, FileSum>,
    /// The tables of which Piton had the log tell whole rows while the dump was taken; a restored copy tells of them as before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub whole: Vec<Keyless>,
    /// The hash of the mask, where the rows are masked: no backup, but what a copy for others is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// The folders and files beside the database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archives: Vec<Archive>,
    /// What was not committed in the folder that releases are made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncommitted: Option<Uncommitted>,
}

/// The manifest as stored, with the hash of its own text.
#[derive(Serialize, Deserialize)]
struct Sealed {
    blake3: String,
    manifest: Manifest,
}

/// A file that is not as the manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Its bytes changed.
    #[error("{0} was altered{of}", of = of_table(.1.as_deref()))]
    Altered(String, Option<String>),
    /// It is gone.
    #[error("{0} is missing{of}", of = of_table(.1.as_deref()))]
    Missing(String, Option<String>),
    /// It was not there when the backup was made.
    #[error("{0} does not belong to the backup")]
    Extra(String),
}

fn of_table(table: Option<&str>) -> String {
    table.map_or_else(String::new, |table| format!("; it holds the rows of {table}"))
}

impl Manifest {
    /// Reads the manifest of a finished backup.
    ///
    /// # Errors
    /// [`DbError::NoManifest`] when the backup was not finished, [`DbError::BadManifest`] when its manifest was altered.
    pub fn read(dir: &Path) -> Result<Self, DbError> {
        let file = dir.join(FILE);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(DbError::NoManifest { dir: dir.to_owned() });
            }
            Err(error) => return Err(error.into()),
        };
        Self::parse(&text, &file)
    }

    /// Reads the text of a manifest, which lies in this file.
    pub(crate) fn parse(text: &[u8], file: &Path) -> Result<Self, DbError> {
        let bad = |why| DbError::BadManifest { file: file.to_owned(), why };
        let sealed: Sealed = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        if sealed.manifest.format > FORMAT {
            return Err(bad(format!(
                "its format is {}, this Piton reads up to {FORMAT}",
                sealed.manifest.format
            )));
        }
        if sealed.blake3 != sealed.manifest.hash()? {
            return Err(bad("its text was altered".into()));
        }
        Ok(sealed.manifest)
    }

    /// Writes the manifest, whole or not at all, after every other file.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), DbError> {
        let sealed = Sealed { blake3: self.hash()?, manifest: self.clone() };
        let text = serde_json::to_vec_pretty(&sealed).map_err(std::io::Error::from)?;
        files::write(&dir.join(FILE), &text)
    }

    /// Returns one hash over the manifest, as 64 hexadecimal digits.
    ///
    /// # Errors
    /// Never in practice: every field is plain data.
    pub fn hash(&self) -> Result<String, DbError> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::from)?;
        Ok(blake3::hash(&text).to_hex().to_string())
    }

    /// Returns the format that this version writes.
    pub(crate) fn format() -> u32 {
        FORMAT
    }

    /// Returns how many rows the dump holds.
    pub fn total_rows(&self) -> u64 {
        self.rows.values().map(|table| table.rows).sum()
    }

    /// Returns the size of the dump's files.
    pub fn total_bytes(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }
}

/// When and where a backup was last restored and found equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proved {
    /// The hash of the manifest that the copy was compared with.
    pub manifest: String,
    /// When.
    pub at: Timestamp,
    /// The system identifier of the server that it was restored on.
    pub system_identifier: String,
    /// That server's version, such as 150018.
    pub server_version_num: u32,
    /// How many tables were compared.
    pub tables: u64,
    /// How many rows.
    pub rows: u64,
    /// How many objects.
    pub objects: u64,
}

impl Proved {
    /// Reads it from the backup's folder; `None` when the backup was not proved, or its manifest is another one since.
    pub fn read(dir: &Path, manifest: &Manifest) -> Option<Self> {
        Self::parse(&fs::read(dir.join(PROVED)).ok()?, manifest)
    }

    /// Reads its text; `None` when it is of another manifest.
    pub(crate) fn parse(text: &[u8], manifest: &Manifest) -> Option<Self> {
        let proved: Self = serde_json::from_slice(text).ok()?;
        (proved.manifest == manifest.hash().ok()?).then_some(proved)
    }

    /// Takes back that the backup was proved.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn remove(dir: &Path) -> Result<(), DbError> {
        match fs::remove_file(dir.join(PROVED)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => files::sync_dir(dir),
        }
    }

    /// Writes it into the backup's folder, whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write(&self, dir: &Path) -> Result<(), DbError> {
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::from)?;
        files::write(&dir.join(PROVED), &text)
    }
}

/// Names a file of a backup in its folder; a manifest that came from elsewhere may name none outside of it.
pub(crate) fn below(dir: &Path, name: &str) -> Result<PathBuf, DbError> {
    let path = Path::new(name);
    if path.components().all(|part| matches!(part, Component::Normal(_))) && name != FILE && name != PROVED {
        return Ok(dir.join(path));
    }
    Err(DbError::BadManifest { file: dir.join(FILE), why: format!("it names {name}, which no backup has") })
}

/// Reads every file of a backup and lists those that are altered, missing or strange.
///
/// # Errors
/// As [`Manifest::read`]; an unreadable file is an error, not damage.
pub fn verify_files(dir: &Path) -> Result<Vec<Damage>, DbError> {
    let manifest = Manifest::read(dir)?;
    let mut damage = Vec::new();
    for (name, wanted) in &manifest.files {
        let path = dir.join(name);
        if !path.exists() {
            damage.push(Damage::Missing(name.clone(), wanted.table.clone()));
            continue;
        }
        let found = dumpfile::checksum(&path)?;
        if (found.size, &found.blake3) != (wanted.size, &wanted.blake3) {
            damage.push(Damage::Altered(name.clone(), wanted.table.clone()));
        }
    }
    for path in files::list(dir)? {
        let name = path.display().to_string();
        // A proof that was cut off, or met a full disk, as it wrote down its end.
        let proof = name == PROVED || path == files::unfinished(Path::new(PROVED));
        if name != FILE && !proof && !manifest.files.contains_key(&name) {
            damage.push(Damage::Extra(name));
        }
    }
    Ok(damage)
}
