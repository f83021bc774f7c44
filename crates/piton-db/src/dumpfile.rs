//! Reads the table files of a dump in pg_dump's directory format.

use std::io::{self, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use fs_err as fs;

use crate::manifest::FileSum;
use crate::mask::Problem;
use crate::rowsum::{Lines, RowSum};
use crate::{DbError, large_objects};

/// Returns the checksum of a file.
pub(crate) fn checksum(path: &Path) -> Result<FileSum, DbError> {
    let mut file = Hashing::new(fs::File::open(path)?);
    io::copy(&mut file, &mut io::sink())?;
    Ok(file.finish())
}

/// Returns the checksum of a gzip-compressed table file and the sum of the rows in it, in one pass over the disk.
pub(crate) fn table(path: &Path) -> Result<(FileSum, RowSum), DbError> {
    let mut file = Hashing::new(fs::File::open(path)?);
    let mut sum = RowSum::default();
    lines(path, &mut file, |row| sum.add(&blake3::hash(row)))?;
    io::copy(&mut file, &mut io::sink())?;
    Ok((file.finish(), sum))
}

/// Returns the checksum of a gzip-compressed large object and the sum of its contents, in one pass over the disk.
pub(crate) fn large_object(path: &Path) -> Result<(FileSum, String), DbError> {
    let mut file = Hashing::new(fs::File::open(path)?);
    let sum = large_objects::sum(MultiGzDecoder::new(&mut file));
    let sum = sum.map_err(|error| DbError::BadDump { file: path.to_owned(), why: error.to_string() })?;
    io::copy(&mut file, &mut io::sink())?;
    Ok((file.finish(), sum))
}

/// Writes a gzip-compressed table file anew with other rows: `write` gives a row's line another form, or leaves it out.
pub(crate) fn rewrite(
    path: &Path,
    mut write: impl FnMut(&[u8], &mut Vec<u8>) -> Result<bool, Problem>,
) -> Result<(), DbError> {
    let unfinished = path.with_extension("masked");
    let file = io::BufWriter::with_capacity(256 * 1024, fs::File::create(&unfinished)?);
    let mut encoder = GzEncoder::new(file, Compression::new(1));
    let (mut line, mut problem, mut failed) = (Vec::new(), None, None);
    lines(path, fs::File::open(path)?, |row| {
        if problem.is_some() || failed.is_some() {
            return;
        }
        match write(row, &mut line) {
            Ok(false) => {}
            Ok(true) => {
                line.push(b'\n');
                failed = encoder.write_all(&line).err();
            }
            Err(found) => problem = Some(found),
        }
    })?;
    if let Some(problem) = problem {
        return Err(DbError::Mask { problems: vec![problem] });
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    encoder.write_all(b"\\.\n\n\n")?;
    let file = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(fs::rename(&unfinished, path)?)
}

/// Reads the rows of a gzip-compressed table file, each as its line of COPY text.
pub(crate) fn each_row(path: &Path, row: impl FnMut(&[u8])) -> Result<(), DbError> {
    lines(path, fs::File::open(path)?, row)
}

fn lines(path: &Path, file: impl Read, row: impl FnMut(&[u8])) -> Result<(), DbError> {
    let bad = |why: String| DbError::BadDump { file: path.to_owned(), why };
    let mut rows = Rows { row, ended: false, strange: false };
    let mut decoder = MultiGzDecoder::new(file);
    let mut piece = vec![0; 256 * 1024];
    let mut lines = Lines::default();
    loop {
        let read = decoder.read(&mut piece).map_err(|error| bad(error.to_string()))?;
        if read == 0 {
            break;
        }
        lines.push(&piece[..read], |line| rows.take(line));
    }
    if lines.is_torn() || !rows.ended || rows.strange {
        return Err(bad("it does not end as pg_dump ends a table".into()));
    }
    Ok(())
}

/// Takes the lines of a table file: rows, then `\.`, then empty lines.
struct Rows<F> {
    row: F,
    ended: bool,
    strange: bool,
}

impl<F: FnMut(&[u8])> Rows<F> {
    fn take(&mut self, line: &[u8]) {
        // No row can be `\.`: COPY writes a backslash in a value as two.
        match (self.ended, line) {
            (false, br"\.") => self.ended = true,
            (false, row) => (self.row)(row),
            (true, rest) => self.strange |= !rest.is_empty(),
        }
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
    size: u64,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), size: 0 }
    }

    fn finish(self) -> FileSum {
        FileSum { size: self.size, blake3: self.hasher.finalize().to_hex().to_string(), table: None }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.size += read as u64;
        Ok(read)
    }
}
