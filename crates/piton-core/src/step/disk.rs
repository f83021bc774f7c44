//! A full disk, told by what a program said or by the disk itself.

use std::path::{Path, PathBuf};

/// Below this a disk counts as full: programs fail on it for no other reason.
const LEAST: u64 = 1 << 20;

/// Tells whether a program or the system complained of a full disk.
pub(super) fn says_full(text: &str) -> bool {
    let text = text.to_lowercase();
    ["no space left", "disk full", "disk quota exceeded", "enospc"].iter().any(|words| text.contains(words))
}

/// Returns the folder to look at when a program failed because a disk is full, by its last words or by the disks of `folders`.
pub(super) fn full<'a>(said: &str, folders: impl IntoIterator<Item = Option<&'a Path>>) -> Option<PathBuf> {
    let folders: Vec<&Path> = folders.into_iter().flatten().collect();
    let on_a_full_disk = folders.iter().find(|folder| {
        rustix::fs::statvfs(**folder).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < LEAST)
    });
    let named = on_a_full_disk.or_else(|| folders.first().filter(|_| says_full(said)));
    named.map(|folder| folder.to_path_buf())
}

/// Writes how a full disk is mended, and the command that follows.
pub(super) fn mend(folder: &Path, way_on: &str) -> String {
    format!("df -h {} shows the disk; free some, then {way_on}", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_by_its_words() {
        let here = Path::new(".");
        let said = "cp: error writing 'x': No space left on device";
        assert_eq!(full(said, [None, Some(here)]), Some(here.to_owned()));
        assert_eq!(full("npm error code ENOSPC", [Some(here)]), Some(here.to_owned()));
        assert_eq!(full("no such file", [None, Some(here)]), None);
    }
}
