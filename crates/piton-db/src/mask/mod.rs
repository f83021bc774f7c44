//! Masks people's data between the dump and the copy: no original value is ever loaded.
//!
//! An UPDATE on a copy would leave the old values in dead rows, in the files and in the log. So the rows are masked in the dump's
//! own files, before their sums are taken: what is restored and proved is the masked dump.

mod column;
pub(crate) mod copy;
mod kinds;
mod likely;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use memchr::memchr;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use tokio_postgres::Client;

pub use kinds::{Kind, MaskKey};

use self::column::{Column, Relation, Relations};
use crate::error::Doing;
use crate::{DbError, Table, cron};

/// What is masked, as a person has written it down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mask {
    /// What becomes of large objects, which nobody can look into.
    pub large_objects: Option<LargeObjects>,
    /// The kind of each column, by table and column; a table is `schema.table`, or `table` in `public`.
    #[serde(default, deserialize_with = "tables_once")]
    pub columns: Columns,
}

type Columns = BTreeMap<String, BTreeMap<String, Kind>>;

/// Refuses two spellings of one table: the lines below one of them would say nothing.
fn tables_once<'de, D: Deserializer<'de>>(from: D) -> Result<Columns, D::Error> {
    let columns = Columns::deserialize(from)?;
    let mut spelled = BTreeMap::new();
    for table in columns.keys() {
        if let Some(other) = spelled.insert(full(table), table) {
            return Err(D::Error::custom(format!(
                "{} and {} are one table: write the lines of both below one of them",
                heading(other),
                heading(table)
            )));
        }
    }
    Ok(columns)
}

/// What another environment gets of a database's rows.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Tables of which no row is copied, as `schema.table`, or `table` in `public`: outboxes, sessions, queues.
    pub empty: &'a BTreeSet<String>,
    /// How the other rows are masked; `None` where they are copied as they are.
    pub mask: Option<&'a Mask>,
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
    /// The database has no such table to be left empty.
    #[error("there is no table {0}, which `data.empty` names")]
    NothingToEmpty(String),
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
    /// Returns the line that a person would write into the mask, and below what, when there is one.
    pub fn line(&self, mask: &Mask) -> Option<String> {
        match self {
            Self::Unclassified { table, column, likely, .. }
            | Self::Address { table, column, likely }
            | Self::AddressInKey { table, column, likely } => {
                let table = heading(mask.spelled(table));
                Some(format!("below {table}: {} = \"{}\"", key(column), likely.word()))
            }
            Self::LargeObjects(_) => Some("large_objects = \"drop\"".into()),
            Self::Unknown(_) | Self::NothingToEmpty(_) | Self::Unfit { .. } => None,
        }
    }
}

/// Writes a table's heading in a mask.
fn heading(table: &str) -> String {
    format!("[columns.{}]", key(table))
}

/// Writes a key of TOML, with quotes where it needs them.
fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if name.chars().all(bare) { name.to_owned() } else { serde_json::Value::from(name).to_string() }
}

/// What is done with the rows of each table, by its oid.
pub(crate) type TableMasks = BTreeMap<u32, TableMask>;

/// What is done with the rows of one table.
#[derive(Clone, Debug)]
pub(crate) enum TableMask {
    /// None is copied.
    Empty,
    /// All are copied as they are.
    Untouched,
    /// Each column is masked, in the order of COPY, with the key.
    Columns(MaskKey, Vec<Masked>),
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

impl Rules<'_> {
    /// Looks whether the rules fit the database: it has every table that they name, every column that looks like people's data has
    /// a kind, and each kind fits.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub async fn problems(self, client: &Client) -> Result<Vec<Problem>, DbError> {
        let tables = crate::tables::list(client).await?;
        let relations = Relations::read(client).await?;
        let mut problems = self.unknown(&tables, &relations);
        let Some(mask) = self.mask else { return Ok(problems) };
        let cron = cron::schema(client).await?;
        for table in tables.iter().filter(|table| !RECORDS.contains(&name(table).as_str())) {
            let lineage = relations.lineage(table.oid);
            let [relation, ..] = lineage[..] else { continue };
            if self.empties(&lineage) || cron == Some(&table.schema) {
                continue;
            }
            for column in relation.columns.iter().filter(|column| table.columns.contains(&column.name)) {
                // The partitions of a table have one problem, not each its own.
                problems.extend(mask.problem(&lineage, column).filter(|problem| !problems.contains(problem)));
            }
        }
        if mask.large_objects.is_none() {
            let row = client
                .query_one("select count(*) from pg_catalog.pg_largeobject_metadata", &[])
                .await
                .doing(|| "count the large objects".into())?;
            let count: i64 = row.get(0);
            problems.extend((count > 0).then(|| Problem::LargeObjects(count.unsigned_abs())));
        }
        Ok(problems)
    }

    /// Lists what the rules name and the database has not.
    fn unknown(self, tables: &[Table], relations: &Relations) -> Vec<Problem> {
        let tables = tables.iter().filter_map(|table| relations.lineage(table.oid).first().copied());
        let known: BTreeMap<&str, &Relation> =
            tables.chain(relations.roots()).map(|relation| (relation.name.as_str(), relation)).collect();
        let absent = |table: &&String| !known.contains_key(full(table).as_str());
        let to_empty = self.empty.iter().filter(absent).map(|table| Problem::NothingToEmpty(table.clone()));
        let columns = || self.mask.iter().flat_map(|mask| &mask.columns);
        let no_table = columns()
            .filter(|(table, _)| absent(table))
            .map(|(table, _)| Problem::Unknown(format!("table {table}")));
        let no_column = columns().flat_map(|(table, kinds)| {
            let relation = known.get(full(table).as_str());
            let is_there = move |column: &str| {
                relation.is_none_or(|found| found.columns.iter().any(|found| found.name == column))
            };
            kinds
                .keys()
                .filter(move |column| !is_there(column))
                .map(|column| Problem::Unknown(format!("column {}.{column}", full(table))))
        });
        to_empty.chain(no_table).chain(no_column).collect()
    }

    /// Wants the rules to fit the database.
    ///
    /// # Errors
    /// [`DbError::Mask`] when they do not.
    pub(crate) async fn fit(self, client: &Client) -> Result<(), DbError> {
        let problems = self.problems(client).await?;
        if problems.is_empty() { Ok(()) } else { Err(DbError::Mask { problems }) }
    }

    /// Makes of the rules what is done with each table's rows.
    ///
    /// # Errors
    /// [`DbError::Mask`] when they do not fit the database, at the snapshot that the session has taken.
    pub(crate) async fn of_tables(
        self,
        client: &Client,
        tables: &[Table],
        key: Option<&MaskKey>,
    ) -> Result<TableMasks, DbError> {
        self.fit(client).await?;
        let relations = Relations::read(client).await?;
        let cron = cron::schema(client).await?;
        let masks = tables.iter().map(|table| {
            let lineage = relations.lineage(table.oid);
            let done = match self.mask.zip(key) {
                // What pg_cron holds is restored nowhere else.
                _ if self.empties(&lineage) || cron == Some(&table.schema) => TableMask::Empty,
                None => TableMask::Untouched,
                Some((mask, key)) => TableMask::Columns(key.clone(), mask.masked(table, &lineage)),
            };
            (table.oid, done)
        });
        Ok(masks.collect())
    }

    fn empties(self, lineage: &[&Relation]) -> bool {
        self.empty.iter().any(|empty| lineage.iter().any(|relation| full(empty) == relation.name))
    }
}

impl Mask {
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

    /// Returns what is done with each column of a table, in the order of COPY.
    fn masked(&self, table: &Table, lineage: &[&Relation]) -> Vec<Masked> {
        let found = lineage.first().map(|relation| relation.columns.as_slice()).unwrap_or_default();
        let is_record = RECORDS.contains(&name(table).as_str());
        let masked = table.columns.iter().filter_map(|column| {
            Some(Masked {
                column: found.iter().find(|found| found.name == *column)?.clone(),
                kind: match self.section(lineage, column) {
                    Some((_, kind)) => Some(kind),
                    // What a server said of a row that stood in the way.
                    None => (is_record && COMPLAINTS.contains(&column.as_str())).then_some(Kind::Null),
                },
                table: named(lineage, column),
            })
        });
        masked.collect()
    }

    /// Returns one hash over the mask.
    pub fn hash(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        blake3::hash(&text).to_hex().to_string()
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

    /// Returns a table as the mask spells it already; as it is where the mask has no line for it.
    fn spelled<'a>(&'a self, table: &'a str) -> &'a str {
        self.columns.keys().find(|named| full(named) == table).map_or(table, String::as_str)
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

/// The columns of them in which a tool keeps what went wrong.
const COMPLAINTS: [&str; 2] = ["error", "logs"];

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
    pub(crate) fn row(&self, row: &[u8], line: &mut Vec<u8>) -> Result<bool, Problem> {
        line.clear();
        let (key, columns) = match self {
            Self::Empty => return Ok(false),
            Self::Untouched => {
                line.extend_from_slice(row);
                return Ok(true);
            }
            Self::Columns(key, columns) => (key, columns),
        };
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
        let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte >= 0x80;
        let is_word = |byte: u8| is_letter(byte) || byte.is_ascii_digit();
        let before = rest[..at].last().is_some_and(|&byte| is_word(byte) || b"_-+".contains(&byte));
        let host = &rest[at + 1..];
        let end = host.iter().position(|&byte| !(is_word(byte) || b".-".contains(&byte)));
        let mut labels = host[..end.unwrap_or(host.len())].split(|&byte| byte == b'.');
        // Behind the address a sentence may end.
        let is_domain = |label: &[u8]| label.len() > 1 && is_letter(label[0]);
        if before && labels.next().is_some_and(|label| !label.is_empty()) && labels.any(is_domain) {
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
        for yes in [
            "a@b.de",
            "write to ada@example.org!",
            "write to ada@example.org.",
            "ada@example.org...",
            "ada@example.org-",
            "ada@example.org—or call",
            "ada_@example.org",
            "ada+@example.org",
            "a-@example.org",
            "ada@пример.рф",
            r#"{"m": "x.y@mail.example.com"}"#,
            "ü@example.org",
        ] {
            assert!(looks_like_an_address(yes.as_bytes()), "{yes}");
        }
        for no in ["", "@", "a@b", "2 @ 3.50", "user@", "@name.x", "a@1.2", "x@.org", "lib@1.2.x", "12@3.50€"]
        {
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
        let mut mask = Mask::default();
        assert_eq!(problem.line(&mask).unwrap(), r#"below [columns."public.User"]: "e\"mail" = "email""#);
        mask.columns.insert("User".into(), BTreeMap::new());
        assert_eq!(problem.line(&mask).unwrap(), r#"below [columns.User]: "e\"mail" = "email""#);
    }
}
