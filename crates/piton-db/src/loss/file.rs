//! The rows that would leave: kept while they are counted, and written down as a rescue file has them.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::replay::{Head, Line};
use crate::{DbError, files};

/// What a file of rows holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// How many rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// The lines of a look, table by table, in a file without a name: it goes with whoever holds it.
#[derive(Debug)]
pub(super) struct Spool {
    file: BufWriter<std::fs::File>,
    at: u64,
    rows: u64,
    tables: BTreeMap<String, Part>,
}

/// Where the lines of a table are.
#[derive(Clone, Debug)]
struct Part {
    bytes: Range<u64>,
    rows: u64,
}

impl Spool {
    pub(super) fn in_folder(folder: &Path) -> Result<Self, DbError> {
        let file = BufWriter::with_capacity(256 * 1024, tempfile::tempfile_in(folder)?);
        Ok(Self { file, at: 0, rows: 0, tables: BTreeMap::new() })
    }

    /// Adds a line to a table's, which come one behind the other.
    pub(super) fn add(&mut self, table: &str, line: &Line) -> Result<(), DbError> {
        let mut text = serde_json::to_vec(line).map_err(io::Error::from)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.grow(table, text.len() as u64, 1);
        Ok(())
    }

    fn grow(&mut self, table: &str, bytes: u64, rows: u64) {
        let at = self.at;
        let part = self.tables.entry(table.to_owned()).or_insert(Part { bytes: at..at, rows: 0 });
        self.at += bytes;
        self.rows += rows;
        part.bytes.end = self.at;
        part.rows += rows;
    }

    /// Copies a table's lines from another one's.
    pub(super) fn take_over(&mut self, other: &Self, table: &str) -> Result<(), DbError> {
        let Some(part) = other.tables.get(table) else { return Ok(()) };
        // Read by its place: the other one is left where it is. All of it is written, for the look is over.
        let (mut from, mut piece) = (part.bytes.start, vec![0; 256 * 1024]);
        while from < part.bytes.end {
            let most = usize::try_from(part.bytes.end - from).unwrap_or(usize::MAX).min(piece.len());
            let read = std::os::unix::fs::FileExt::read_at(other.file.get_ref(), &mut piece[..most], from)?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.file.write_all(&piece[..read])?;
            from += read as u64;
        }
        self.grow(table, part.bytes.end - part.bytes.start, part.rows);
        Ok(())
    }

    /// Ends a look: whatever reads these lines finds all of them.
    pub(super) fn flush(&mut self) -> Result<(), DbError> {
        Ok(self.file.flush()?)
    }

    /// Writes them into a file that is there whole or not at all, and reads that back.
    pub(super) fn export(mut self, path: &Path) -> Result<Exported, DbError> {
        self.file.flush()?;
        let mut lines = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        lines.seek(SeekFrom::Start(0))?;
        let mut head = serde_json::to_vec(&Head::of(self.rows)).map_err(io::Error::from)?;
        head.push(b'\n');
        let unfinished = files::unfinished(path);
        let mut file = fs::File::create(&unfinished)?;
        file.write_all(&head)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; 256 * 1024];
        loop {
            let read = lines.read(&mut piece)?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            file.write_all(&piece[..read])?;
        }
        file.sync_all()?;
        check(&unfinished, head.len(), self.rows, hasher.finalize())?;
        fs::rename(&unfinished, path)?;
        files::sync_dir(path.parent().unwrap_or(Path::new(".")))?;
        Ok(Exported { rows: self.rows, bytes: head.len() as u64 + self.at })
    }
}

/// Wants a file to hold what was written into it.
fn check(path: &Path, head: usize, rows: u64, sum: blake3::Hash) -> Result<(), DbError> {
    let mut file = BufReader::with_capacity(256 * 1024, fs::File::open(path)?);
    io::copy(&mut (&mut file).take(head as u64), &mut io::sink())?;
    let (mut hasher, mut line, mut found) = (blake3::Hasher::new(), Vec::new(), 0);
    while file.read_until(b'\n', &mut line)? > 0 {
        hasher.update(&line);
        found += 1;
        line.clear();
    }
    if (found, hasher.finalize()) == (rows, sum) {
        return Ok(());
    }
    let why = format!("{} does not hold the rows that were written into it", path.display());
    Err(io::Error::other(why).into())
}
