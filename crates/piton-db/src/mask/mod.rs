//! Masks people's data between the dump and the copy: no original value is ever loaded.
//!
//! An UPDATE on a copy would leave the old values in dead rows, in the files and in the log. So the rows are masked in the dump's
//! own files, before their sums are taken: what is restored and proved is the masked dump.

mod column;
mod copy;
mod kinds;
mod likely;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use memchr::memchr;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

pub use kinds::{Kind, MaskKey};

use self::column::{Column, Relation, Relations};
use crate::error::Doing;
use crate::{DbError, Table};

/// What is masked, as a person has written it down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    /// Tables of which no row is copied, as `schema.table`, or `table` in `public`: outboxes, sessions, queues.
    #[serde(default)]
    pub empty: BTreeSet<String>,
    /// What becomes of large objects, which nobody can look into.
    pub large_objects: Option<LargeObjects>,
    /// The kind of each column, by table and column.
    #[serde(default)]
    pub columns: BTreeMap<String, BTreeMap<String, Kind>>,
}

/// What becomes of large objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LargeObjects {
    /// They are copied as they are.
    Keep,
    /// None is copied.
    Drop,
}

/// Why data is not copied with a mask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A column looks as if people's data were in it, and has no kind.
    #[error("{table}.{column} ({data_type}) has no kind")]
    Unclassified {
        /// The table, as a mask names it.
        table: String,
        /// The column.
        column: String,
        /// Its type.
        data_type: String,
        /// The kind that its name speaks for.
        likely: Kind,
    },
    /// The mask names what the database has not.
    #[error("there is no {0}")]
    Unknown(String),
    /// A column cannot have the kind.
    #[error("{table}.{column} ({data_type}) cannot be masked as `{kind}`: {why}", kind = .kind.word())]
    Unfit {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its type.
        data_type: String,
        /// The kind.
        kind: Kind,
        /// Why not.
        why: &'static str,
    },
    /// There are large objects, and the mask does not say what becomes of them.
    #[error("the database has {0} large objects")]
    LargeObjects(u64),
    /// A column without a kind holds what looks like an address.
    #[error("{table}.{column} has no kind, and holds an e-mail address")]
    Address {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// A kind that hides it.
        likely: Kind,
    },
    /// A JSON column holds what looks like an address where `json` keeps it.
    #[error("{table}.{column} holds an e-mail address as a key of its JSON, and `json` keeps keys")]
    AddressInKey {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// A kind that hides it.
        likely: Kind,
    },
}

impl Problem {
    /// Returns the line of a mask that a person would write, and below what, when there is one.
    pub fn line(&self) -> Option<String> {
        match self {
            Self::Unclassified { table, column, likely, .. }
            | Self::Address { table, column, likely }
            | Self::AddressInKey { table, column, likely } => Some(kind_line(table, column, *likely)),
            Self::LargeObjects(_) => Some("large_objects = \"drop\"".into()),
            Self::Unknown(_) | Self::Unfit { .. } => None,
        }
    }
}

fn kind_line(table: &str, column: &str, kind: Kind) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let column = if column.chars().all(bare) { column.to_owned() } else { quoted(column) };
    format!("below [columns.{}]: {column} = \"{}\"", quoted(table), kind.word())
}

/// What is done with the rows of each table, by its oid.
pub(crate) type TableMasks = BTreeMap<u32, TableMask>;

/// What is done with the rows of one table.
#[derive(Clone, Debug)]
pub(crate) enum TableMask {
    /// None is copied.
    Empty,
    /// Each column, in the order of COPY.
    Columns(Vec<Masked>),
}

/// What is done with one column.
#[derive(Clone, Debug)]
pub(crate) struct Masked {
    column: Column,
    /// `None` where nobody has said anything, and nothing speaks for people's data.
    kind: Option<Kind>,
    /// The table below which a mask names it.
    table: String,
}

impl Mask {
    /// Looks whether the mask fits the database: every column that looks like people's data has a kind, and each kind fits.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub async fn problems(&self, client: &Client) -> Result<Vec<Problem>, DbError> {
        let tables = crate::tables::list(client).await?;
        let relations = Relations::read(client).await?;
        let mut problems = self.unknown(&tables, &relations);
        for table in tables.iter().filter(|table| !RECORDS.contains(&name(table).as_str())) {
            let lineage = relations.lineage(table.oid);
            let [relation, ..] = lineage[..] else { continue };
            if self.empties(&lineage) {
                continue;
            }
            for column in relation.columns.iter().filter(|column| table.columns.contains(&column.name)) {
                // The partitions of a table have one problem, not each its own.
                problems.extend(self.problem(&lineage, column).filter(|problem| !problems.contains(problem)));
            }
        }
        if self.large_objects.is_none() {
            let row = client
                .query_one("select count(*) from pg_catalog.pg_largeobject_metadata", &[])
                .await
                .doing(|| "count the large objects".into())?;
            let count: i64 = row.get(0);
            problems.extend((count > 0).then(|| Problem::LargeObjects(count.unsigned_abs())));
        }
        Ok(problems)
    }

    /// Lists what the mask names and the database has not.
    fn unknown(&self, tables: &[Table], relations: &Relations) -> Vec<Problem> {
        let tables = tables.iter().filter_map(|table| relations.lineage(table.oid).first().copied());
        let known: BTreeMap<&str, &Relation> =
            tables.chain(relations.roots()).map(|relation| (relation.name.as_str(), relation)).collect();
        let named = self.empty.iter().chain(self.columns.keys());
        let no_table = named
            .filter(|table| !known.contains_key(full(table).as_str()))
            .map(|table| Problem::Unknown(format!("table {table}")));
        let no_column = self.columns.iter().flat_map(|(table, kinds)| {
            let relation = known.get(full(table).as_str());
            let is_there = move |column: &str| {
                relation.is_none_or(|found| found.columns.iter().any(|found| found.name == column))
            };
            kinds
                .keys()
                .filter(move |column| !is_there(column))
                .map(|column| Problem::Unknown(format!("column {}.{column}", full(table))))
        });
        no_table.chain(no_column).collect()
    }

    fn problem(&self, lineage: &[&Relation], column: &Column) -> Option<Problem> {
        let (name, data_type) = (column.name.clone(), column.data_type.clone());
        match self.section(lineage, &name).map(|(table, kind)| (table, kind, column.unfit(kind))) {
            None => column.likely().map(|likely| Problem::Unclassified {
                table: named(lineage, &name),
                column: name,
                data_type,
                likely,
            }),
            Some((table, kind, Some(why))) => {
                Some(Problem::Unfit { table: table.to_owned(), column: name, data_type, kind, why })
            }
            Some(_) => None,
        }
    }

    /// Wants the mask to fit the database.
    ///
    /// # Errors
    /// [`DbError::Mask`] when it does not.
    pub(crate) async fn fits(&self, client: &Client) -> Result<(), DbError> {
        let problems = self.problems(client).await?;
        if problems.is_empty() { Ok(()) } else { Err(DbError::Mask { problems }) }
    }

    /// Makes of the mask what is done with each table's rows.
    ///
    /// # Errors
    /// [`DbError::Mask`] when it does not fit the database, at the snapshot that the session has taken.
    pub(crate) async fn of_tables(&self, client: &Client, tables: &[Table]) -> Result<TableMasks, DbError> {
        self.fits(client).await?;
        let relations = Relations::read(client).await?;
        let masks = tables.iter().map(|table| {
            let lineage = relations.lineage(table.oid);
            if self.empties(&lineage) {
                return (table.oid, TableMask::Empty);
            }
            let found = lineage.first().map(|relation| relation.columns.as_slice()).unwrap_or_default();
            // In the order of COPY.
            let masked = table.columns.iter().filter_map(|column| {
                Some(Masked {
                    column: found.iter().find(|found| found.name == *column)?.clone(),
                    kind: self.section(&lineage, column).map(|(_, kind)| kind),
                    table: named(&lineage, column),
                })
            });
            (table.oid, TableMask::Columns(masked.collect()))
        });
        Ok(masks.collect())
    }

    /// Returns one hash over the mask.
    pub fn hash(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        blake3::hash(&text).to_hex().to_string()
    }

    fn empties(&self, lineage: &[&Relation]) -> bool {
        self.empty.iter().any(|empty| lineage.iter().any(|relation| full(empty) == relation.name))
    }

    /// Returns the kind of a column and the table for which it is written: the table itself, or the nearest that it inherits from.
    ///
    /// Next month's partition has no lines of its own.
    fn section<'a>(&self, lineage: &[&'a Relation], column: &str) -> Option<(&'a str, Kind)> {
        lineage.iter().find_map(|relation| {
            let (_, kinds) = self.columns.iter().find(|(named, _)| full(named) == relation.name)?;
            Some((relation.name.as_str(), *kinds.get(column)?))
        })
    }
}

/// Returns the table for which a mask best names a column: the farthest that has it, so that one line does for all partitions.
fn named(lineage: &[&Relation], column: &str) -> String {
    let has = |relation: &&&Relation| relation.columns.iter().any(|found| found.name == column);
    lineage.iter().rev().find(has).map_or_else(String::new, |relation| relation.name.clone())
}

/// Records of migration tools: their names are files', and staging's next migration reads them.
const RECORDS: [&str; 5] = [
    "piton.migrations",
    "public._prisma_migrations",
    "public.alembic_version",
    "public.django_migrations",
    "public.schema_migrations",
];

/// Returns `schema.table`, as a mask names it.
fn name(table: &Table) -> String {
    format!("{}.{}", table.schema, table.name)
}

fn full(named: &str) -> String {
    if named.contains('.') { named.to_owned() } else { format!("public.{named}") }
}

impl TableMask {
    /// Writes a row's line in its masked form; false when the row is left out.
    ///
    /// # Errors
    /// [`Problem::Address`] and [`Problem::AddressInKey`] when an address would come through.
    pub(crate) fn row(&self, key: &MaskKey, row: &[u8], line: &mut Vec<u8>) -> Result<bool, Problem> {
        let Self::Columns(columns) = self else { return Ok(false) };
        line.clear();
        let fields = row.split(|&byte| byte == b'\t');
        for (at, (field, masked)) in fields.zip(columns).enumerate() {
            if at > 0 {
                line.push(b'\t');
            }
            let Masked { column, kind, table } = masked;
            match *kind {
                None if looks_like_an_address(field) => return Err(column.address(table)),
                None | Some(Kind::Keep) => line.extend_from_slice(field),
                Some(kind) => {
                    let value = copy::unescape(field);
                    if kind == Kind::Json && value.as_deref().is_some_and(has_an_address_as_key) {
                        return Err(column.address_in_key(table));
                    }
                    let stand_in = value.and_then(|value| column.stand_in(key, kind, &value));
                    copy::escape(stand_in.as_deref(), line);
                }
            }
        }
        Ok(true)
    }
}

fn has_an_address_as_key(json: &[u8]) -> bool {
    kinds::keys(json).any(|key| looks_like_an_address(key.as_bytes()))
}

/// Tells whether a field holds an e-mail address: what no column's name has told.
fn looks_like_an_address(field: &[u8]) -> bool {
    let mut rest = field;
    while let Some(at) = memchr(b'@', rest) {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte >= 0x80;
        let before = rest[..at].last().is_some_and(is_word);
        let host: Vec<u8> =
            rest[at + 1..].iter().copied().take_while(|byte| is_word(byte) || b".-".contains(byte)).collect();
        let dot = memchr(b'.', &host).is_some_and(|dot| dot > 0 && dot + 2 < host.len());
        if before && dot && host.last().is_some_and(u8::is_ascii_alphabetic) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// The problems of a mask, for an error's text.
pub(crate) struct Problems<'a>(pub(crate) &'a [Problem]);

impl fmt::Display for Problems<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_seen_wherever_they_stand() {
        for yes in
            ["a@b.de", "write to ada@example.org!", r#"{"m": "x.y@mail.example.com"}"#, "ü@example.org"]
        {
            assert!(looks_like_an_address(yes.as_bytes()), "{yes}");
        }
        for no in ["", "@", "a@b", "2 @ 3.50", "user@", "@name.x", "a@1.2", "x@.org"] {
            assert!(!looks_like_an_address(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn a_problem_says_the_line_that_mends_it() {
        let problem = Problem::Unclassified {
            table: "public.User".into(),
            column: "e\"mail".into(),
            data_type: "text".into(),
            likely: Kind::Email,
        };
        assert_eq!(problem.line().unwrap(), r#"below [columns."public.User"]: "e\"mail" = "email""#);
    }
}
