//! Folders and files that belong to a backup: packed as tar, summed file for file, proved by reading them back.

use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::DbError;
use crate::rowsum::RowSum;

/// The folder within a backup's.
const FOLDER: &str = "files";

/// A folder or file in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// Where it was, absolute.
    pub source: PathBuf,
    /// The archive, below the backup's folder.
    pub file: String,
    /// How many files, folders and links, and the sum of what each is: its path, its permissions and its contents.
    pub entries: RowSum,
    /// How many of them are files.
    pub files: u64,
    /// The bytes of all files.
    pub bytes: u64,
    /// What was left out: sockets, devices, files that went or were cut short while they were read, and what links lead to outside of it.
    pub left_out: Vec<String>,
}

/// Packs a folder or file into a backup's folder; `name` becomes the archive's.
///
/// A source that is a link stands for what it leads to; links in it stay links.
///
/// Files that an app writes meanwhile are taken as they are found; one that goes, or is cut short time and again, is left out and named.
///
/// # Errors
/// When the source is not there or cannot be read, or the disk is full.
pub(crate) fn pack(source: &Path, dir: &Path, name: &str) -> Result<Archive, DbError> {
    let folder = dir.join(FOLDER);
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{name}.tar.gz"));
    let mut tar = tar::Builder::new(Packed::new(fs::File::create(&path)?));
    tar.follow_symlinks(false);
    let root = fs::canonicalize(source)?;
    let mut packing = Packing {
        tar: &mut tar,
        root: &root,
        entries: RowSum::default(),
        files: 0,
        bytes: 0,
        left_out: Vec::new(),
    };
    if fs::metadata(&root)?.is_dir() {
        packing.folder(&root, Path::new(""))?;
    } else {
        let file_name = source.file_name().map_or_else(|| PathBuf::from("file"), PathBuf::from);
        packing.entry(&root, &file_name)?;
    }
    let Packing { entries, files, bytes, left_out, .. } = packing;
    tar.into_inner()?.finish()?.sync_all()?;
    crate::files::sync_dir(&folder)?;
    let file = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
    Ok(Archive { source: source.to_owned(), file, entries, files, bytes, left_out })
}

/// A file of gzip members, which can be taken back to where one of them begins.
struct Packed {
    gz: GzEncoder<BufWriter<fs::File>>,
}

impl Packed {
    fn new(file: fs::File) -> Self {
        let out = BufWriter::with_capacity(256 * 1024, file);
        Self { gz: GzEncoder::new(out, Compression::new(1)) }
    }

    /// Begins a new member and returns where.
    fn mark(&mut self) -> io::Result<u64> {
        self.gz.try_finish()?;
        let out = self.gz.get_mut();
        out.flush()?;
        let place = out.get_mut().stream_position()?;
        self.begin()?;
        Ok(place)
    }

    /// Takes back what was written since the mark.
    fn back_to(&mut self, place: u64) -> io::Result<()> {
        self.gz.try_finish()?;
        let out = self.gz.get_mut();
        out.flush()?;
        out.get_mut().set_len(place)?;
        out.get_mut().seek(SeekFrom::Start(place))?;
        self.begin()
    }

    fn begin(&mut self) -> io::Result<()> {
        let file = self.gz.get_ref().get_ref().try_clone()?;
        self.gz = Self::new(file).gz;
        Ok(())
    }

    fn finish(self) -> io::Result<fs::File> {
        self.gz.finish()?.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl Write for Packed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gz.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.gz.flush()
    }
}

/// How often a file is read that is cut short meanwhile, and how long it may take to be whole again.
const READINGS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// Up to which size a file is read before it is packed: a gzip member of its own for each would make the archive larger.
const SMALL: u64 = 1 << 20;

struct Packing<'a> {
    tar: &'a mut tar::Builder<Packed>,
    /// What is packed, without links in its own path.
    root: &'a Path,
    entries: RowSum,
    files: u64,
    bytes: u64,
    left_out: Vec<String>,
}

impl Packing<'_> {
    fn folder(&mut self, folder: &Path, below: &Path) -> Result<(), DbError> {
        let mut names: Vec<_> =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            self.entry(&folder.join(&name), &below.join(&name))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path) -> Result<(), DbError> {
        match self.append(path, name) {
            Ok(()) => Ok(()),
            // Removed between the listing and the reading.
            Err(DbError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.left_out.push(format!("{}: gone", name.display()));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn append(&mut self, path: &Path, name: &Path) -> Result<(), DbError> {
        use std::os::unix::fs::PermissionsExt;
        let meta = fs::symlink_metadata(path)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&meta);
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_dir() {
            self.tar.append_data(&mut header, name, io::empty())?;
            self.add(name, "folder", mode, blake3::hash(b""));
            return self.folder(path, name);
        }
        if meta.is_symlink() {
            return self.link(path, name, header);
        }
        if !meta.is_file() {
            self.left_out.push(format!("{}: neither file, folder nor link", name.display()));
            return Ok(());
        }
        let open = || {
            let file = fs::File::open(path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        match self.contents(open, name, header)? {
            Some((size, hash)) => {
                self.bytes += size;
                self.files += 1;
                self.add(name, "file", mode, hash);
            }
            None => self.left_out.push(format!("{}: was cut short while it was read", name.display())),
        }
        Ok(())
    }

    /// Packs a file as long as it is when it is opened: what is appended meanwhile belongs to the next backup.
    ///
    /// Its size has to be told beforehand; one that was cut off meanwhile is not filled up, but read again. `None` when that does
    /// not help: then it is not in the archive.
    fn contents<R: Read>(
        &mut self,
        open: impl Fn() -> io::Result<(R, u64)>,
        name: &Path,
        mut header: tar::Header,
    ) -> io::Result<Option<(u64, blake3::Hash)>> {
        for reading in 0..READINGS {
            if reading > 0 {
                std::thread::sleep(PAUSE);
            }
            let (file, size) = open()?;
            header.set_size(size);
            if size <= SMALL {
                let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
                file.take(size).read_to_end(&mut bytes)?;
                if bytes.len() as u64 == size {
                    self.tar.append_data(&mut header, name, &bytes[..])?;
                    return Ok(Some((size, blake3::hash(&bytes))));
                }
                continue;
            }
            let place = self.tar.get_mut().mark()?;
            let mut contents = Hashing { inner: file.take(size), hasher: blake3::Hasher::new() };
            // Filled up, so that the archive stays one until this is taken back.
            self.tar.append_data(&mut header, name, (&mut contents).chain(io::repeat(0)).take(size))?;
            if contents.hasher.count() == size {
                return Ok(Some((size, contents.hasher.finalize())));
            }
            self.tar.get_mut().back_to(place)?;
        }
        Ok(None)
    }

    fn link(&mut self, path: &Path, name: &Path, mut header: tar::Header) -> Result<(), DbError> {
        let target = fs::read_link(path)?;
        let bytes = target.as_os_str().as_encoded_bytes();
        // As it is written: the proof compares it so, and `append_link` would fold `//` and `/./`.
        if bytes.len() > LINK_NAME {
            self.tar.append(&long_link(bytes.len())?, bytes.chain(&[0][..]))?;
        }
        header.set_link_name_literal(&bytes[..bytes.len().min(LINK_NAME)])?;
        header.set_size(0);
        self.tar.append_data(&mut header, name, io::empty())?;
        // A link has no permissions of its own.
        self.add(name, "link", 0, blake3::hash(bytes));
        if let Ok(there) = fs::canonicalize(path)
            && !there.starts_with(self.root)
        {
            self.left_out.push(format!("{}: leads to {}, outside of it", name.display(), there.display()));
        }
        Ok(())
    }

    fn add(&mut self, name: &Path, kind: &str, mode: u32, contents: blake3::Hash) {
        self.entries.add(&entry_hash(name, kind, mode, contents));
    }
}

/// How long a link's target may be in a header of its own.
const LINK_NAME: usize = 100;

/// The header of GNU's record in front of a link with a longer target.
fn long_link(target: usize) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_path("@LongLink")?;
    header.set_entry_type(tar::EntryType::GNULongLink);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    // A zero ends it.
    header.set_size(target as u64 + 1);
    header.set_cksum();
    Ok(header)
}

/// Hashes what an entry is; the length in front keeps two paths from being read as another.
fn entry_hash(name: &Path, kind: &str, mode: u32, contents: blake3::Hash) -> blake3::Hash {
    let name = name.as_os_str().as_encoded_bytes();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(name.len() as u64).to_le_bytes()).update(name).update(kind.as_bytes());
    hasher.update(&mode.to_le_bytes()).update(contents.as_bytes());
    hasher.finalize()
}

struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

impl Archive {
    /// Unpacks the archive of a backup into a new folder, and wants every file to be what it was.
    ///
    /// When it is not, or the folder is there already, nothing is left.
    ///
    /// # Errors
    /// [`DbError::BadDump`] when a file differs; an error of the disk.
    pub fn unpack(&self, dir: &Path, into: &Path) -> Result<(), DbError> {
        fs::create_dir(into)?;
        let unpacked = self.read(dir, Some(into));
        if unpacked.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_dir_all(into);
        }
        unpacked
    }

    /// Reads the archive of a backup, and wants every file to be what it was.
    ///
    /// # Errors
    /// [`DbError::BadDump`] when a file differs.
    pub fn prove(&self, dir: &Path) -> Result<(), DbError> {
        self.read(dir, None)
    }

    fn read(&self, dir: &Path, into: Option<&Path>) -> Result<(), DbError> {
        let path = dir.join(&self.file);
        let bad = |why: String| DbError::BadDump { file: path.clone(), why };
        let mut tar = tar::Archive::new(MultiGzDecoder::new(fs::File::open(&path)?));
        let mut found = RowSum::default();
        // Permissions of folders last: one may forbid what is still to be written below it, or to remove what differs.
        let mut folders = Vec::new();
        for entry in tar.entries()? {
            let mut entry = entry.map_err(|error| bad(error.to_string()))?;
            let name = entry.path().map_err(|error| bad(error.to_string()))?.into_owned();
            let mode = entry.header().mode().map_err(|error| bad(error.to_string()))? & 0o7777;
            if !name.components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(bad(format!("{} leads out of it", name.display())));
            }
            let place = into.map(|into| into.join(&name));
            match entry.header().entry_type() {
                tar::EntryType::Directory => {
                    found.add(&entry_hash(&name, "folder", mode, blake3::hash(b"")));
                    if let Some(place) = place {
                        fs::create_dir_all(&place)?;
                        folders.push((place, mode));
                    }
                }
                tar::EntryType::Symlink => {
                    let target = entry.link_name_bytes().unwrap_or_default();
                    found.add(&entry_hash(&name, "link", 0, blake3::hash(&target)));
                    if into.is_some() {
                        entry.unpack_in(into.unwrap_or(Path::new("")))?;
                    }
                }
                _ => {
                    let hash = contents(&mut entry, place.as_deref(), mode)
                        .map_err(|error| bad(error.to_string()))?;
                    found.add(&entry_hash(&name, "file", mode, hash));
                }
            }
        }
        if found != self.entries {
            return Err(bad(format!(
                "{} files, folders and links were packed, {} are as they were or others",
                self.entries.rows, found.rows
            )));
        }
        for (folder, mode) in folders.iter().rev() {
            set_mode(folder, *mode)?;
        }
        Ok(())
    }
}

/// Hashes an entry's contents, and writes them where that is wanted.
fn contents(entry: &mut impl Read, place: Option<&Path>, mode: u32) -> io::Result<blake3::Hash> {
    let mut contents = Hashing { inner: entry, hasher: blake3::Hasher::new() };
    match place {
        Some(place) => {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).open(place)?;
            io::copy(&mut contents, &mut file)?;
            set_mode(place, mode)?;
        }
        None => {
            io::copy(&mut contents, &mut io::sink())?;
        }
    }
    Ok(contents.hasher.finalize())
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn uploads(folder: &Path) -> PathBuf {
        let uploads = folder.join("uploads");
        fs::create_dir_all(uploads.join("2026/Köln")).unwrap();
        fs::write(uploads.join("2026/Köln/a b.jpg"), vec![7; 300_000]).unwrap();
        fs::write(uploads.join("empty"), "").unwrap();
        fs::write(uploads.join("script"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(uploads.join("script"), std::fs::Permissions::from_mode(0o750)).unwrap();
        symlink("script", uploads.join("link")).unwrap();
        symlink("/nowhere/at all", uploads.join("dangling")).unwrap();
        symlink("2026//./Köln/", uploads.join("winding")).unwrap();
        symlink(format!("2026/{}/", "./".repeat(100)), uploads.join("long")).unwrap();
        symlink("/", uploads.join("out")).unwrap();
        fs::create_dir(uploads.join("closed")).unwrap();
        fs::write(uploads.join("closed/in"), "x").unwrap();
        fs::set_permissions(uploads.join("closed"), std::fs::Permissions::from_mode(0o500)).unwrap();
        uploads
    }

    #[test]
    fn what_is_packed_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = uploads(folder.path());
        let dir = folder.path().join("backup");
        let archive = pack(&uploads, &dir, "uploads").unwrap();
        assert_eq!((archive.entries.rows, archive.files, archive.bytes), (12, 4, 300_011));
        assert_eq!(archive.left_out, ["out: leads to /, outside of it"]);
        archive.prove(&dir).unwrap();
        let back = folder.path().join("back");
        archive.unpack(&dir, &back).unwrap();
        assert_eq!(pack(&back, &folder.path().join("again"), "uploads").unwrap().entries, archive.entries);
        for link in ["dangling", "winding", "long"] {
            let target = |folder: &Path| fs::read_link(folder.join(link)).unwrap().into_os_string();
            assert_eq!(target(&back), target(&uploads));
        }
        assert!(archive.unpack(&dir, &back).is_err(), "never over what is there");
        assert!(back.join("script").exists());

        let file = pack(&uploads.join("script"), &dir, "one").unwrap();
        assert_eq!((file.entries.rows, file.bytes), (1, 10));
        file.prove(&dir).unwrap();
    }

    #[test]
    fn a_file_that_is_cut_short_is_read_again_or_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tar.gz");
        let mut tar = tar::Builder::new(Packed::new(fs::File::create(&path).unwrap()));
        let mut packing = Packing {
            tar: &mut tar,
            root: folder.path(),
            entries: RowSum::default(),
            files: 0,
            bytes: 0,
            left_out: Vec::new(),
        };
        // How much comes at each reading of a file that says it is as long as the last one.
        for (name, readings) in [
            ("whole", vec![10, 10]),
            ("small", vec![4, 10]),
            ("gone small", vec![4, 4, 4, 10]),
            ("large", vec![2_000_000, 3_000_000, 3_000_000]),
            ("gone large", vec![1, 1, 2_900_000, 3_000_000]),
            ("grown", vec![20, 10]),
        ] {
            let size = *readings.last().unwrap();
            let reading = std::cell::Cell::new(0);
            let open = || {
                let came = readings[reading.replace(reading.get() + 1)];
                Ok((io::repeat(b'x').take(came), size))
            };
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_entry_type(tar::EntryType::Regular);
            let packed = packing.contents(open, Path::new(name), header).unwrap();
            assert_eq!(packed.is_none(), name.starts_with("gone"), "{name}");
            if let Some((bytes, hash)) = packed {
                assert_eq!((bytes, hash), (size, blake3::hash(&vec![b'x'; usize::try_from(size).unwrap()])));
            }
        }
        tar.into_inner().unwrap().finish().unwrap();
        let mut names = Vec::new();
        for entry in tar::Archive::new(MultiGzDecoder::new(fs::File::open(&path).unwrap())).entries().unwrap()
        {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert!(bytes.iter().all(|&byte| byte == b'x'));
            names.push((entry.path().unwrap().display().to_string(), bytes.len()));
        }
        let names: Vec<(&str, usize)> = names.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
        assert_eq!(names, [("whole", 10), ("small", 10), ("large", 3_000_000), ("grown", 10)]);
    }

    #[test]
    fn a_link_to_a_folder_is_packed_as_that_folder() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = uploads(folder.path());
        let dir = folder.path().join("backup");
        let archive = pack(&uploads, &dir, "uploads").unwrap();
        // As Capistrano has it: the release's folder is a link into one that all releases share.
        let link = folder.path().join("current");
        symlink(&uploads, &link).unwrap();
        let linked = pack(&link, &dir, "current").unwrap();
        assert_eq!((linked.entries, linked.files, &linked.source), (archive.entries, 4, &link));
        symlink("uploads/script", folder.path().join("run")).unwrap();
        let file = pack(&folder.path().join("run"), &dir, "run").unwrap();
        file.unpack(&dir, &folder.path().join("back")).unwrap();
        assert_eq!(fs::read(folder.path().join("back/run")).unwrap(), b"#!/bin/sh\n");
    }

    #[test]
    fn gnu_tar_reads_the_links_too() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = uploads(folder.path());
        let archive = pack(&uploads, folder.path(), "uploads").unwrap();
        let back = folder.path().join("back");
        fs::create_dir(&back).unwrap();
        let tar = std::process::Command::new("tar")
            .args(["--extract", "--gzip", "--file"])
            .arg(folder.path().join(archive.file))
            .arg("--directory")
            .arg(&back)
            .status();
        assert!(tar.unwrap().success());
        for link in ["dangling", "winding", "long"] {
            let target = |folder: &Path| fs::read_link(folder.join(link)).unwrap().into_os_string();
            assert_eq!(target(&back), target(&uploads));
        }
    }

    #[test]
    fn one_changed_byte_is_told_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let uploads = uploads(folder.path());
        let dir = folder.path().join("backup");
        let archive = pack(&uploads, &dir, "uploads").unwrap();
        // Another archive of as many files, one of them changed.
        fs::write(uploads.join("empty"), "x").unwrap();
        let other = pack(&uploads, &dir, "uploads").unwrap();
        assert_ne!(other.entries, archive.entries);
        assert!(matches!(archive.prove(&dir), Err(DbError::BadDump { .. })));
        let back = folder.path().join("back");
        assert!(archive.unpack(&dir, &back).is_err());
        assert!(!back.exists());
    }
}
