//! Files and folders: atomic writes, locks, digests, removal.

use std::fs::DirBuilder;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Writes a value as JSON so that a reader finds the old file or the whole new one, also after a power cut.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(value)?;
    let partial = path.with_extension("partial");
    let mut file = fs_err::File::create(&partial)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs_err::rename(&partial, path)?;
    sync_folder_of(path)
}

/// Adds up the sizes of a file, or of all files below a folder; it may be a link, what is below may not.
pub(crate) fn size(path: &Path) -> io::Result<u64> {
    size_below(&fs_err::canonicalize(path)?)
}

fn size_below(path: &Path) -> io::Result<u64> {
    let meta = fs_err::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut size = 0;
    for entry in fs_err::read_dir(path)? {
        size += size_below(&entry?.path()).or_else(|error| match error.kind() {
            // An app may remove one meanwhile.
            io::ErrorKind::NotFound => Ok(0),
            _ => Err(error),
        })?;
    }
    Ok(size)
}

/// Reads a file of 32 secret random bytes, which the first call makes; only its owner can read it.
pub(crate) fn secret_key(path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    if !path.exists() {
        fs_err::File::open("/dev/urandom")?.read_exact(&mut key)?;
        let own = path.with_extension(format!("{}.partial", std::process::id()));
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&own)?;
        file.write_all(&key)?;
        file.sync_all()?;
        // Another process may have made one meanwhile, and that is the key then.
        let linked = link(&own, path);
        fs_err::remove_file(&own)?;
        linked?;
    }
    fs_err::File::open(path)?.read_exact(&mut key)?;
    Ok(key)
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs_err::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads a JSON file; `None` when there is none.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs_err::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file so that it is gone after a power cut, too; one that is not there is as good as removed.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    gone_is_fine(fs_err::remove_file(path).and_then(|()| sync_folder_of(path)))
}

/// Gives a file another name as well, which is there after a power cut, too; one that has it already is as good as named.
pub(crate) fn link(path: &Path, other: &Path) -> io::Result<()> {
    match fs_err::hard_link(path, other) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder_of(other),
    }
}

/// Removes a folder and all in it; one that is not there is as good as removed.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(path) {
        // What was unpacked, or fetched by a build, may be read-only.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            gone_is_fine(fs_err::remove_dir_all(path))
        }
        removed => gone_is_fine(removed),
    }
}

/// Lets its owner change a folder and all folders below it.
fn open_up(folder: &Path) -> io::Result<()> {
    fs_err::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// Returns a path without links, `.` and `..`; of what is not there, the rest as it is written.
pub(crate) fn real(path: &Path) -> PathBuf {
    let there = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let (above, mut real) = there.unwrap_or((Path::new(""), PathBuf::new()));
    for part in path.strip_prefix(above).unwrap_or(path).components() {
        match part {
            Component::ParentDir => {
                real.pop();
            }
            Component::CurDir => {}
            part => real.push(part),
        }
    }
    real
}

fn gone_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads files, which is slow, beside the thread that drives the release.
///
/// A caller that is dropped leaves the reading to itself; it harms nobody.
pub(crate) async fn read_in_background<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    read: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}

/// Writes or removes files, which is slow, beside the thread that drives the release.
///
/// A caller that is dropped waits for the work to end: whoever comes next may undo it, or do it anew.
pub(crate) async fn write_in_background<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    name: &str,
    write: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let (done, written) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        // Nobody asks any more for what became of it: the caller was dropped.
        let _ = done.send(write());
    })?;
    let _joined = Joined(Some(thread));
    written.await.unwrap_or_else(|error| Err(io::Error::other(error).into()))
}

/// Removes a folder as [`remove_folder`], and as [`write_in_background`].
pub(crate) async fn remove_folder_in_background(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    write_in_background("removal", move || remove_folder(&path)).await
}

/// A thread whose end is waited for.
struct Joined(Option<std::thread::JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        // A panic in it has reached the caller through the channel.
        let _ = self.0.take().map(std::thread::JoinHandle::join);
    }
}

/// Makes a folder that only its owner may enter and that git leaves alone: it will hold people's data.
///
/// One that is there keeps the mode that somebody gave it.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    let ignore = path.join(".gitignore");
    if ignore.is_file() {
        return Ok(());
    }
    let new: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    if let Some(above) = path.parent() {
        fs_err::create_dir_all(above)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    for folder in new {
        sync_folder_of(folder)?;
    }
    fs_err::write(ignore, "*\n")
}

/// Returns the name of the account that a file belongs to, when that is not this process's; `None` also without the file.
pub(crate) fn stranger(path: &Path) -> io::Result<Option<String>> {
    let owner = match fs_err::symlink_metadata(path) {
        Ok(found) => found.uid(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok((owner != rustix::process::geteuid().as_raw()).then(|| account(owner)))
}

/// Returns the name of an account of this machine; its number where it has none.
fn account(uid: u32) -> String {
    let accounts = fs_err::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}

/// Locks a file for as long as the result lives; the lock ends with the process, however that ends.
pub(crate) fn lock(path: &Path) -> io::Result<fs_err::File> {
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Returns the BLAKE3 digest over the path, kind, execute bit and content of everything in a folder but `.git`.
pub(crate) fn digest(folder: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    walk(folder, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn walk(folder: &Path, hasher: &mut blake3::Hasher) -> io::Result<()> {
    let mut entries = fs_err::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs_err::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if name == ".git" {
            continue;
        }
        let (path, kind) = (entry.path(), entry.file_type()?);
        hasher.update(name.as_encoded_bytes()).update(b"\0");
        if kind.is_dir() {
            hasher.update(b"folder\0");
            walk(&path, hasher)?;
            // Marks where the folder ends, so that moving a file across its border shows.
            hasher.update(b"\0end\0");
        } else if kind.is_symlink() {
            let target = fs_err::read_link(&path)?;
            hasher.update(b"link\0").update(target.as_os_str().as_encoded_bytes()).update(b"\0");
        } else if kind.is_file() {
            let metadata = entry.metadata()?;
            let executable = metadata.permissions().mode() & 0o111 != 0;
            hasher.update(if executable { b"program\0" } else { b"file\0\0\0\0" });
            hasher.update(&metadata.len().to_le_bytes());
            hasher.update_reader(fs_err::File::open(&path)?)?;
        }
    }
    Ok(())
}

/// Tells whether a copy still has everything that it was copied from, going by kinds, sizes and times of change.
pub(crate) fn holds_all_of(copy: &Path, original: &Path) -> io::Result<bool> {
    for entry in fs_err::read_dir(original)? {
        let entry = entry?;
        let (path, there) = (copy.join(entry.file_name()), entry.metadata()?);
        let Ok(here) = fs_err::symlink_metadata(&path) else { return Ok(false) };
        let same = here.file_type() == there.file_type()
            && (!there.is_file() || (here.len(), here.modified()?) == (there.len(), there.modified()?));
        if !same || (there.is_dir() && !holds_all_of(&path, &entry.path())?) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_sees_names_content_mode_and_place() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs_err::create_dir(root.join("a")).unwrap();
        fs_err::write(root.join("a/one"), "1").unwrap();
        let first = digest(root).unwrap();
        assert_eq!(first, digest(root).unwrap());
        fs_err::rename(root.join("a/one"), root.join("one")).unwrap();
        let moved = digest(root).unwrap();
        fs_err::set_permissions(root.join("one"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let executable = digest(root).unwrap();
        fs_err::write(root.join("one"), "2").unwrap();
        let changed = digest(root).unwrap();
        let all = [&first, &moved, &executable, &changed];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
        fs_err::create_dir(root.join(".git")).unwrap();
        assert_eq!(changed, digest(root).unwrap(), "git's own files are not part of it");
    }

    #[tokio::test]
    async fn a_removal_has_ended_when_its_caller_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("many");
        fs_err::create_dir(&folder).unwrap();
        for number in 0..5000 {
            fs_err::write(folder.join(number.to_string()), "").unwrap();
        }
        let removal = remove_folder_in_background(&folder);
        let dropped = tokio::time::timeout(std::time::Duration::ZERO, removal).await;
        assert!(dropped.is_err(), "it was to be dropped half-way");
        assert!(!folder.exists());
    }

    #[test]
    fn read_only_folders_are_removed() {
        use std::os::unix::process::CommandExt;
        const HERE: &str = "PITON_TEST_FOLDER";
        if let Some(folder) = std::env::var_os(HERE) {
            let folder = Path::new(&folder);
            fs_err::create_dir_all(folder.join("a/b/c")).unwrap();
            for below in ["a/b", "a"] {
                let mode = std::fs::Permissions::from_mode(0o500);
                fs_err::set_permissions(folder.join(below), mode).unwrap();
            }
            assert!(fs_err::remove_dir_all(folder).is_err(), "this account may remove anything");
            return remove_folder(folder).unwrap();
        }
        // Again, under an account that may not do everything: an own process, because accounts are a process's.
        let dir = tempfile::tempdir().unwrap();
        fs_err::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let program = dir.path().join("program");
        fs_err::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut again = std::process::Command::new(&program);
        again.args(["--exact", "files::tests::read_only_folders_are_removed"]);
        again.env(HERE, dir.path().join("folder")).current_dir(dir.path());
        if rustix::process::geteuid().is_root() {
            again.uid(65534).gid(65534);
        }
        let said = again.output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
        assert!(
            !dir.path().join("folder").exists() && String::from_utf8_lossy(&said.stdout).contains("1 passed")
        );
    }

    #[test]
    fn what_a_path_means_is_known_before_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs_err::create_dir(root.join("a")).unwrap();
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        assert_eq!(real(&root.join("link/./new/../b")), root.join("a/b"));
        assert_eq!(real(&root.join("link/..")), root);
        fs_err::write(root.join("a/file"), "four").unwrap();
        assert_eq!([size(&root.join("link")).unwrap(), size(&root.join("link/file")).unwrap()], [4, 4]);
    }

    #[test]
    fn a_folder_is_private_when_made_and_keeps_its_mode_when_there() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs_err::metadata(path).unwrap().permissions().mode() & 0o777;
        let made = dir.path().join("below/made");
        private_folder(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
        let there = dir.path().join("there");
        fs_err::create_dir(&there).unwrap();
        fs_err::set_permissions(&there, std::fs::Permissions::from_mode(0o750)).unwrap();
        private_folder(&there).unwrap();
        assert_eq!(mode(&there), 0o750);
        assert!(there.join(".gitignore").is_file());
    }

    #[test]
    fn a_lock_excludes_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let held = lock(&path).unwrap();
        assert!(lock(&path).is_err());
        drop(held);
        assert!(lock(&path).is_ok());
    }
}
