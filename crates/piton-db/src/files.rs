//! Folders that Piton made, and files that are there whole or not at all.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::DbError;
use crate::manifest::{self, Proved};

/// The file that says that Piton made a folder and may empty it.
pub const MARKER: &str = ".made-by-piton";
/// What is in it.
pub(crate) const MARKER_TEXT: &[u8] = b"Piton made this folder and may empty it.\n";

/// Makes an empty folder with the marker in it; leftovers of an unfinished attempt are removed.
pub(crate) fn claim(dir: &Path) -> Result<(), DbError> {
    discard(dir)?;
    let new: Vec<&Path> = dir.ancestors().take_while(|folder| !folder.exists()).collect();
    // What a database holds is nobody else's business.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    for folder in new.iter().filter_map(|folder| folder.parent()) {
        sync_dir(folder)?;
    }
    write(&dir.join(MARKER), MARKER_TEXT)
}

/// Removes a folder that Piton made, when it is there; an empty one needs no marker.
pub(crate) fn discard(dir: &Path) -> Result<(), DbError> {
    if !dir.exists() {
        return Ok(());
    }
    if !dir.join(MARKER).exists() && !is_bare(dir)? {
        return Err(DbError::ForeignFolder { dir: dir.to_owned() });
    }
    // What is short of a file does not count as proved.
    Proved::remove(dir)?;
    // A removal that was cut short can be carried on: the manifest goes after what it describes, the marker last.
    let last = [manifest::FILE, MARKER];
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if !last.iter().any(|name| entry.file_name() == *name) {
            fs::remove_file(entry.path())?;
        }
    }
    // What is gone is gone after a power cut, too, before that which tells of it.
    sync_dir(dir)?;
    for name in last {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => sync_dir(dir)?,
        }
    }
    Ok(fs::remove_dir(dir)?)
}

/// Tells whether nothing but the marker is left of a folder that Piton made.
pub(crate) fn is_spent(dir: &Path) -> Result<bool, DbError> {
    Ok(dir.join(MARKER).exists() && fs::read_dir(dir)?.count() == 1)
}

/// Tells whether a folder is empty, or holds only the marker that we did not get to finish.
fn is_bare(dir: &Path) -> Result<bool, DbError> {
    for entry in fs::read_dir(dir)? {
        if entry?.file_name() != unfinished(&dir.join(MARKER)).file_name().unwrap_or_default() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Names the file that becomes the given one when it is whole.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("unfinished")
}

/// Writes a file so that after a crash it is whole or absent.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), DbError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let unfinished = unfinished(path);
    let mut file = fs::File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync_dir(dir)
}

/// Makes a folder's entries durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), DbError> {
    Ok(fs::File::open(dir)?.sync_all()?)
}

/// Makes the entries of a folder and of all folders below it durable.
pub(crate) fn sync_all_dirs(dir: &Path) -> Result<(), DbError> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all_dirs(&entry.path())?;
        }
    }
    sync_dir(dir)
}

/// Lists the files under a folder, relative to it and sorted; the marker is left out.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, DbError> {
    let (mut files, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name() != Some(MARKER.as_ref()) {
                files.push(path.strip_prefix(dir).unwrap_or(&path).to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_piton_made_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a/b");
        claim(&dir).unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "x").unwrap();
        claim(&dir).unwrap();
        assert!(list(&dir).unwrap().is_empty());
        // Killed before the marker was whole.
        fs::rename(dir.join(MARKER), unfinished(&dir.join(MARKER))).unwrap();
        claim(&dir).unwrap();
        discard(&dir).unwrap();
        discard(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("mine"), "x").unwrap();
        assert!(matches!(discard(&dir), Err(DbError::ForeignFolder { .. })));
        assert!(dir.join("mine").exists());
    }

    #[test]
    fn what_tells_of_a_backup_goes_after_the_backup() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("backup");
        claim(&dir).unwrap();
        write(&dir.join(manifest::FILE), b"{}").unwrap();
        write(&dir.join(manifest::PROVED), b"{}").unwrap();
        fs::create_dir(dir.join("dump")).unwrap();
        for number in 0..5000 {
            fs::write(dir.join("dump").join(number.to_string()), "rows").unwrap();
        }
        std::thread::scope(|scope| {
            let removal = scope.spawn(|| discard(&dir).unwrap());
            // Whatever moment a kill would end it at: looked at in the order in which it goes.
            while !removal.is_finished() {
                let short = fs::read_dir(dir.join("dump")).map_or(0, Iterator::count) < 5000;
                assert!(!short || !dir.join(manifest::PROVED).exists(), "the dump went before its proof");
                let told = [manifest::FILE, MARKER].map(|name| dir.join(name).exists());
                assert!(told[0] || !dir.join("dump").exists(), "the manifest went before the dump");
                assert!(told[1] || !dir.join(manifest::FILE).exists(), "the marker went before the manifest");
            }
        });
        assert!(!dir.exists());
        claim(&dir).unwrap();
        assert!(is_spent(&dir).unwrap());
        fs::write(dir.join("rows"), "x").unwrap();
        assert!(!is_spent(&dir).unwrap());
    }
}
