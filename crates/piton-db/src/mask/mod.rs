//! Masks people's data between the dump and the copy: no original value is ever loaded.
//!
//! An UPDATE on a copy would leave the old values in dead rows, in the files and in the log. So the rows are masked in the dump's
//! own files, before their sums are taken: what is restored and proved is the masked dump.

mod copy;
mod kinds;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use memchr::memchr;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

pub use kinds::{Kind, MaskKey};

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
    },
}

impl Problem {
    /// Returns the line of a mask that a person would write, and below what, when there is one.
    pub fn line(&self) -> Option<String> {
        match self {
            Self::Unclassified { table, column, likely, .. } => Some(kind_line(table, column, *likely)),
            Self::Address { table, column } => Some(kind_line(table, column, Kind::Text)),
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

/// What a value is, as far as masks are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Text,
    Json,
    Time,
    Other,
}

/// A column, as the catalogue has it.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    data_type: String,
    sort: Sort,
    /// The most characters that it takes.
    most: usize,
    /// Whether values are filled up with blanks to that.
    padded: bool,
    not_null: bool,
}

/// What is done with the rows of each table, by its oid.
pub(crate) type TableMasks = BTreeMap<u32, TableMask>;

/// What is done with the rows of one table.
#[derive(Clone, Debug)]
pub(crate) enum TableMask {
    /// None is copied.
    Empty,
    /// Each column, in the order of COPY.
    Columns { table: String, columns: Vec<Masked> },
}

/// What is done with one column.
#[derive(Clone, Debug)]
pub(crate) struct Masked {
    name: String,
    /// `None` where nobody has said anything, and nothing speaks for people's data.
    kind: Option<Kind>,
    most: usize,
    padded: bool,
}

impl Mask {
    /// Looks whether the mask fits the database: every column that looks like people's data has a kind, and each kind fits.
    ///
    /// # Errors
    /// When the catalogue cannot be read.
    pub async fn problems(&self, client: &Client) -> Result<Vec<Problem>, DbError> {
        let tables = crate::tables::list(client).await?;
        let columns = columns(client).await?;
        let mut problems = Vec::new();
        let known: BTreeSet<String> = tables.iter().map(name).collect();
        let named = self.empty.iter().chain(self.columns.keys());
        problems.extend(
            named
                .filter(|table| !known.contains(&full(table)))
                .map(|table| Problem::Unknown(format!("table {table}"))),
        );
        let is_copied =
            |table: &&Table| !self.empties(&name(table)) && !RECORDS.contains(&name(table).as_str());
        for table in tables.iter().filter(is_copied) {
            let name = name(table);
            let kinds = self.kinds(&name);
            let found = columns.get(&table.oid).map(Vec::as_slice).unwrap_or_default();
            for (column, _) in kinds.iter().flat_map(|kinds| kinds.iter()) {
                if !found.iter().any(|found| found.name == *column) {
                    problems.push(Problem::Unknown(format!("column {name}.{column}")));
                }
            }
            for column in found.iter().filter(|column| table.columns.contains(&column.name)) {
                problems
                    .extend(column.problem(&name, kinds.and_then(|kinds| kinds.get(&column.name)).copied()));
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
        let mut columns = columns(client).await?;
        let masks = tables.iter().map(|table| {
            let full_name = name(table);
            if self.empties(&full_name) {
                return (table.oid, TableMask::Empty);
            }
            let kinds = self.kinds(&full_name);
            let found = columns.remove(&table.oid).unwrap_or_default();
            // In the order of COPY.
            let masked = table.columns.iter().filter_map(|column| {
                let found = found.iter().find(|found| found.name == *column)?;
                Some(Masked {
                    name: column.clone(),
                    kind: kinds.and_then(|kinds| kinds.get(column)).copied(),
                    most: found.most,
                    padded: found.padded,
                })
            });
            (table.oid, TableMask::Columns { table: full_name, columns: masked.collect() })
        });
        Ok(masks.collect())
    }

    /// Returns one hash over the mask.
    pub fn hash(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        blake3::hash(&text).to_hex().to_string()
    }

    fn empties(&self, table: &str) -> bool {
        self.empty.iter().any(|empty| full(empty) == table)
    }

    fn kinds(&self, table: &str) -> Option<&BTreeMap<String, Kind>> {
        self.columns.iter().find(|(named, _)| full(named) == table).map(|(_, kinds)| kinds)
    }
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
    /// [`Problem::Address`] when a column that nobody has given a kind holds an address.
    pub(crate) fn row(&self, key: &MaskKey, row: &[u8], line: &mut Vec<u8>) -> Result<bool, Problem> {
        let Self::Columns { table, columns } = self else { return Ok(false) };
        line.clear();
        let fields = row.split(|&byte| byte == b'\t');
        for (at, (field, column)) in fields.zip(columns).enumerate() {
            if at > 0 {
                line.push(b'\t');
            }
            match column.kind {
                None if looks_like_an_address(field) => {
                    return Err(Problem::Address { table: table.clone(), column: column.name.clone() });
                }
                None | Some(Kind::Keep) => line.extend_from_slice(field),
                Some(kind) => copy::escape(column.stand_in(key, kind, field).as_deref(), line),
            }
        }
        Ok(true)
    }
}

impl Masked {
    fn stand_in(&self, key: &MaskKey, kind: Kind, field: &[u8]) -> Option<Vec<u8>> {
        let value = copy::unescape(field)?;
        let value = if self.padded { value.trim_ascii_end() } else { &value };
        let mut masked = key.stand_in(kind, value, self.most)?;
        if self.padded && masked.len() < self.most {
            masked.resize(self.most, b' ');
        }
        Some(masked)
    }
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

impl Column {
    fn problem(&self, table: &str, kind: Option<Kind>) -> Option<Problem> {
        let (table, column, data_type) = (table.to_owned(), self.name.clone(), self.data_type.clone());
        let Some(kind) = kind else {
            return self.likely().map(|likely| Problem::Unclassified { table, column, data_type, likely });
        };
        let why = match kind {
            Kind::Keep => return None,
            Kind::Null if self.not_null => "it may not be null",
            Kind::Null => return None,
            Kind::Json if self.sort != Sort::Json => "it is no JSON",
            Kind::Year if self.sort != Sort::Time => "it is no date",
            Kind::Email | Kind::Name | Kind::Digits | Kind::Text if self.sort != Sort::Text => {
                "it is no text"
            }
            Kind::Email if self.most < kinds::SHORTEST_EMAIL => "it is too short for an address",
            _ => return None,
        };
        Some(Problem::Unfit { table, column, data_type, kind, why })
    }

    /// Returns the kind that the column's name speaks for, if it speaks for people's data.
    fn likely(&self) -> Option<Kind> {
        let words = words(&self.name);
        let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(&word.as_str()));
        let kind = match self.sort {
            Sort::Text if has(&["email", "mail", "emails"]) => Kind::Email,
            Sort::Text if has(&NAMES) => Kind::Name,
            Sort::Text if has(&NUMBERS) => Kind::Digits,
            Sort::Text | Sort::Json | Sort::Other if has(&PERSONAL) => Kind::Text,
            Sort::Json if has(&["email", "mail"]) || has(&NAMES) || has(&NUMBERS) => Kind::Json,
            Sort::Time if has(&["birth", "birthday", "birthdate", "born", "dob"]) => Kind::Year,
            _ => return None,
        };
        Some(match (self.sort, kind) {
            (Sort::Json, _) => Kind::Json,
            (Sort::Other, _) if self.not_null => Kind::Keep,
            (Sort::Other, _) => Kind::Null,
            _ => kind,
        })
    }
}

const NAMES: [&str; 9] =
    ["name", "firstname", "lastname", "surname", "fullname", "username", "nickname", "login", "holder"];
const NUMBERS: [&str; 14] = [
    "phone",
    "mobile",
    "tel",
    "telephone",
    "fax",
    "ssn",
    "passport",
    "iban",
    "bic",
    "card",
    "account",
    "zip",
    "postcode",
    "vat",
];
const PERSONAL: [&str; 32] = [
    "address",
    "street",
    "city",
    "postal",
    "password",
    "passwd",
    "hash",
    "secret",
    "token",
    "key",
    "session",
    "cookie",
    "note",
    "notes",
    "comment",
    "comments",
    "message",
    "body",
    "bio",
    "signature",
    "gender",
    "latitude",
    "longitude",
    "location",
    "avatar",
    "photo",
    "ip",
    "useragent",
    "birth",
    "birthday",
    "content",
    "payload",
];

/// Splits a column's name into its words: `firstName`, `first_name` and `FIRST NAME` are one.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for c in name.chars() {
        let begins = c.is_uppercase() && before.is_lowercase();
        if begins || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
        before = c;
    }
    // Also the whole, for `firstname` as well as `first_name`.
    words.push(words.concat());
    words
}

/// Reads the columns of every table, by its oid.
async fn columns(client: &Client) -> Result<BTreeMap<u32, Vec<Column>>, DbError> {
    let rows = client
        .query(
            "with recursive base(column_type, type, typmod) as (
                 select oid, oid, -1 from pg_catalog.pg_type
                 union all
                 select b.column_type, t.typbasetype, greatest(b.typmod, t.typtypmod)
                 from base b join pg_catalog.pg_type t on t.oid = b.type where t.typtype = 'd'
             )
             select a.attrelid, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), t.typname::text,
                    greatest(a.atttypmod, b.typmod), a.attnotnull
             from pg_catalog.pg_attribute a
             join pg_catalog.pg_class c on c.oid = a.attrelid and c.relkind = 'r'
             join base b on b.column_type = a.atttypid
             join pg_catalog.pg_type t on t.oid = b.type and t.typtype <> 'd'
             where a.attnum > 0 and not a.attisdropped",
            &[],
        )
        .await
        .doing(|| "list the columns".into())?;
    let mut columns: BTreeMap<u32, Vec<Column>> = BTreeMap::new();
    for row in rows {
        let base: String = row.get(3);
        let typmod: i32 = row.get(4);
        let sort = match base.as_str() {
            "text" | "varchar" | "bpchar" | "citext" | "name" => Sort::Text,
            "json" | "jsonb" => Sort::Json,
            "date" | "timestamp" | "timestamptz" => Sort::Time,
            _ => Sort::Other,
        };
        // The type's own four bytes are counted in.
        let limit =
            usize::try_from(typmod - 4).ok().filter(|_| matches!(base.as_str(), "varchar" | "bpchar"));
        columns.entry(row.get(0)).or_default().push(Column {
            name: row.get(1),
            data_type: row.get(2),
            sort,
            most: limit.unwrap_or(if base == "name" { 63 } else { usize::MAX }),
            padded: base == "bpchar" && limit.is_some(),
            not_null: row.get(5),
        });
    }
    Ok(columns)
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
    fn a_columns_name_is_split_into_words() {
        assert!(words("firstName").contains(&"name".into()));
        assert!(words("E-Mail").contains(&"email".into()));
        assert!(words("first_name").contains(&"firstname".into()));
        assert!(!words("rename_at").contains(&"name".into()));
    }

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
