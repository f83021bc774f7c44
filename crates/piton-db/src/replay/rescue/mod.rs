//! What the old structure has no place for: written to a file when a migration has gone back, and loaded when it comes again.

mod checks;
mod load;
mod put;
mod save;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::layout::Column;
use crate::{DbError, files, quote};

pub use self::load::{Load, Loaded, Part, Progress, doubt, is_committed};
pub use self::save::rescue;
pub(super) use self::save::{NewIn, new_columns, new_in};

/// The version of the file's format; newer ones are refused.
const FORMAT: u32 = 1;

/// The first line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    format: u32,
    rows: u64,
}

impl Head {
    /// Returns the head of a file with so many lines behind it.
    pub(crate) fn of(rows: u64) -> Self {
        Self { format: FORMAT, rows }
    }
}

/// One line of the file: a row of the new structure, or what is new in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) kind: Kind,
    /// The columns that name the row, as text; none of a table without a key.
    pub(crate) key: BTreeMap<String, String>,
    /// What it held, as text.
    pub(crate) values: BTreeMap<String, Option<String>>,
    /// The columns that somebody has written, where the rest of a whole row is as the migration had made it; empty otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) written: Vec<String>,
    /// The columns of which nobody knows whether somebody or the migration has written them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unsure: Vec<String>,
}

/// What a line saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A whole row, for which there was no table or which did not fit, and which is not there.
    Row,
    /// The new columns of a row that went back without them.
    NewColumns,
    /// A row that somebody had changed, as it was then: another state of it is there, or another one has its key.
    Changed,
    /// A row that somebody had removed, and that came back.
    Deleted,
}

/// What a rescue file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescued {
    /// Whole rows.
    pub rows: u64,
    /// Rows whose new columns are in it.
    pub values: u64,
}

impl Line {
    fn words(&self, why: &str) -> String {
        let key: Vec<String> = self.key.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let table = quote::qualified(&self.schema, &self.table);
        match key.is_empty() {
            true => format!("a row of {table}: {why}"),
            false => format!("{} of {table}: {why}", key.join(", ")),
        }
    }
}

/// Writes lines to a file and reads them again; `None`, and no file, where there are none.
pub(super) fn write(lines: &[Line], file: &Path) -> Result<Option<Rescued>, DbError> {
    let count = |kinds: &[Kind]| lines.iter().filter(|line| kinds.contains(&line.kind)).count() as u64;
    let rescued = Rescued {
        rows: count(&[Kind::Row, Kind::Changed, Kind::Deleted]),
        values: count(&[Kind::NewColumns]),
    };
    if lines.is_empty() {
        return Ok(None);
    }
    let mut text = Vec::new();
    let head = Head::of(lines.len() as u64);
    write_line(&mut text, &head)?;
    for line in lines {
        write_line(&mut text, line)?;
    }
    files::write(file, &text)?;
    if lines_of(file)? != lines {
        return Err(DbError::Replay(format!("{} does not hold what was written to it", file.display())));
    }
    Ok(Some(rescued))
}

fn write_line(text: &mut Vec<u8>, line: &impl Serialize) -> Result<(), DbError> {
    serde_json::to_writer(&mut *text, line).map_err(std::io::Error::from)?;
    Ok(text.write_all(b"\n")?)
}

fn lines_of(file: &Path) -> Result<Vec<Line>, DbError> {
    let damaged = |why: String| DbError::Replay(format!("{} cannot be loaded: {why}", file.display()));
    let mut lines = BufReader::new(fs::File::open(file)?).lines();
    let head = lines.next().transpose()?.unwrap_or_default();
    let head: Head = serde_json::from_str(&head).map_err(|error| damaged(error.to_string()))?;
    if head.format > FORMAT {
        return Err(damaged(format!("its format is {}, this Piton reads up to {FORMAT}", head.format)));
    }
    let mut read = Vec::new();
    for line in lines {
        read.push(serde_json::from_str(&line?).map_err(|error| damaged(error.to_string()))?);
    }
    match read.len() as u64 == head.rows {
        true => Ok(read),
        false => Err(damaged("it has been cut off".into())),
    }
}

/// Returns the condition that a key's column has a value of its type: as values, which an index finds, where they can be compared.
fn is_key(column: &Column, name: &str, value: &str) -> String {
    match column.equal {
        Some(_) => column.same(name, value),
        None => format!("{name}::text = ({value})::text"),
    }
}
