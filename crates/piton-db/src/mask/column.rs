//! The tables and columns of a database, as far as masks are concerned.

use std::collections::{BTreeMap, VecDeque};

use tokio_postgres::{Client, Row};

use super::{Kind, MaskKey, Problem};
use crate::DbError;
use crate::error::Doing;

/// What a value is, as far as masks are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Text,
    Json,
    /// A number with a fixed number of digits behind the point.
    Number,
    Time,
    /// What can hold any text or picture: lists of texts, bytes, addresses of machines, types of extensions.
    Content,
    /// What holds no free text: lists of numbers, floating points, enums.
    Other,
    /// True or false: too little to be anybody's.
    Flag,
}

/// A column, as the catalogue has it.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) data_type: String,
    pub(super) sort: Sort,
    /// The most characters that it takes.
    pub(super) most: usize,
    /// The largest number that it takes, where its type has one.
    pub(super) largest: Option<u64>,
    /// Whether values are filled up with blanks.
    pub(super) padded: bool,
    pub(super) not_null: bool,
    /// Whether its values alone have to differ.
    pub(super) unique: bool,
    /// The value of its type that says nothing; `None` where it is not known.
    pub(super) blank: Option<&'static str>,
}

impl Column {
    /// Says why the column cannot have the kind.
    pub(super) fn unfit(&self, kind: Kind) -> Option<&'static str> {
        match kind {
            Kind::Null if self.not_null => Some("it may not be null"),
            Kind::Blank if self.blank.is_none() => Some("its type has no blank value that is known"),
            Kind::Json if self.sort != Sort::Json => Some("it is no JSON"),
            Kind::Year if self.sort != Sort::Time => Some("it is no date"),
            Kind::Digits if !matches!(self.sort, Sort::Text | Sort::Number) => {
                Some("it is no text and no whole or decimal number")
            }
            Kind::Email | Kind::Name | Kind::Text if self.sort != Sort::Text => Some("it is no text"),
            Kind::Email if self.most < super::kinds::SHORTEST_EMAIL => Some("it is too short for an address"),
            Kind::Email | Kind::Name if self.unique && self.most < kind.apart() => {
                Some("it is unique, and too short for stand-ins that differ")
            }
            _ => None,
        }
    }

    /// Returns a value's stand-in; `None` for NULL.
    pub(super) fn stand_in(&self, key: &MaskKey, kind: Kind, value: &[u8]) -> Option<Vec<u8>> {
        let value = if self.padded { value.trim_ascii_end() } else { value };
        let mut masked = match kind {
            Kind::Blank => self.blank_like(value),
            Kind::Digits if self.sort == Sort::Number => key.number(value, self.largest),
            _ => key.stand_in(kind, value, self.most)?,
        };
        if self.padded && masked.len() < self.most {
            masked.resize(self.most, b' ');
        }
        Some(masked)
    }

    /// Returns the blank value as the server writes it: a number has as many digits behind the point as before.
    fn blank_like(&self, value: &[u8]) -> Vec<u8> {
        let mut blank = self.blank.unwrap_or_default().as_bytes().to_vec();
        if self.sort == Sort::Number
            && let Some(point) = memchr::memchr(b'.', value)
        {
            blank.push(b'.');
            blank.resize(blank.len() + value.len() - point - 1, b'0');
        }
        blank
    }

    /// Returns the problem of an address in the column, which has no kind.
    pub(super) fn address(&self, table: &str) -> Problem {
        Problem::Address { table: table.to_owned(), column: self.name.clone(), likely: self.any_kind() }
    }

    /// Returns the problem of an address in a key of the column's JSON.
    pub(super) fn address_in_key(&self, table: &str) -> Problem {
        let likely = if self.not_null { Kind::Blank } else { Kind::Null };
        Problem::AddressInKey { table: table.to_owned(), column: self.name.clone(), likely }
    }
}

/// A table, or the root of partitions.
#[derive(Debug)]
pub(super) struct Relation {
    /// `schema.table`, as a mask names it.
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    /// Whether it holds rows in partitions alone.
    is_root: bool,
    parents: Vec<u32>,
}

/// The tables of a database by their oid.
#[derive(Debug, Default)]
pub(super) struct Relations(BTreeMap<u32, Relation>);

impl Relations {
    /// Reads them, at the snapshot that the session has taken.
    pub(super) async fn read(client: &Client) -> Result<Self, DbError> {
        let tables = client
            .query(
                "select c.oid, n.nspname || '.' || c.relname, c.relkind = 'p',
                        array(select i.inhparent from pg_catalog.pg_inherits i where i.inhrelid = c.oid order by i.inhseqno)
                 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                 where c.relkind in ('r', 'p') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'",
                &[],
            )
            .await
            .doing(|| "list the tables and what they inherit from".into())?;
        let table = |row: &Row| Relation {
            name: row.get(1),
            columns: Vec::new(),
            is_root: row.get(2),
            parents: row.get(3),
        };
        let mut relations: BTreeMap<u32, Relation> =
            tables.iter().map(|row| (row.get(0), table(row))).collect();
        // The base of a domain is what counts, and of an array its elements.
        let columns = client
            .query(
                "with recursive base(column_type, type, typmod, is_array) as (
                     select oid, oid, -1, false from pg_catalog.pg_type
                     union all
                     select b.column_type, case t.typtype when 'd' then t.typbasetype else t.typelem end,
                            greatest(b.typmod, t.typtypmod), b.is_array or t.typtype <> 'd'
                     from base b join pg_catalog.pg_type t on t.oid = b.type
                     where t.typtype = 'd' or t.typcategory = 'A' and t.typelem <> 0
                 )
                 select a.attrelid, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), t.typname::text,
                        t.typcategory::text, b.is_array, greatest(a.atttypmod, b.typmod), a.attnotnull,
                        exists (select from pg_catalog.pg_index i where i.indrelid = a.attrelid and i.indisunique
                                and i.indnkeyatts = 1 and i.indkey[0] = a.attnum)
                 from pg_catalog.pg_attribute a
                 join pg_catalog.pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'p')
                 join base b on b.column_type = a.atttypid
                 join pg_catalog.pg_type t
                   on t.oid = b.type and t.typtype <> 'd' and not (t.typcategory = 'A' and t.typelem <> 0)
                 where a.attnum > 0 and not a.attisdropped",
                &[],
            )
            .await
            .doing(|| "list the columns".into())?;
        for row in &columns {
            if let Some(relation) = relations.get_mut(&row.get(0)) {
                relation.columns.push(column(row));
            }
        }
        Ok(Self(relations))
    }

    pub(super) fn roots(&self) -> impl Iterator<Item = &Relation> {
        self.0.values().filter(|relation| relation.is_root)
    }

    /// Returns a table and all that it inherits from, the nearest first.
    pub(super) fn lineage(&self, oid: u32) -> Vec<&Relation> {
        let (mut lineage, mut queue) = (Vec::new(), VecDeque::from([oid]));
        while let Some(oid) = queue.pop_front() {
            let Some(relation) = self.0.get(&oid) else { continue };
            lineage.push(relation);
            queue.extend(&relation.parents);
        }
        lineage
    }
}

fn column(row: &Row) -> Column {
    let (base, category): (String, String) = (row.get(3), row.get(4));
    let (is_array, typmod): (bool, i32) = (row.get(5), row.get(6));
    let base = base.as_str();
    let element = sort(base, &category);
    let sort = match element {
        Sort::Text | Sort::Json | Sort::Content if is_array => Sort::Content,
        _ if is_array => Sort::Other,
        element => element,
    };
    // The type's own four bytes are counted in.
    let limit = usize::try_from(typmod - 4).ok().filter(|_| matches!(base, "varchar" | "bpchar"));
    Column {
        name: row.get(1),
        data_type: row.get(2),
        sort,
        most: limit.unwrap_or(if base == "name" { 63 } else { usize::MAX }),
        largest: match base {
            "int2" => Some(i16::MAX.unsigned_abs().into()),
            "int4" => Some(i32::MAX.unsigned_abs().into()),
            "int8" | "money" => Some(i64::MAX.unsigned_abs()),
            _ => None,
        },
        padded: base == "bpchar" && limit.is_some() && !is_array,
        not_null: row.get(7),
        unique: row.get(8),
        blank: if is_array { Some("{}") } else { blank(base, &category) },
    }
}

fn sort(base: &str, category: &str) -> Sort {
    match (base, category) {
        ("text" | "varchar" | "bpchar" | "citext" | "name", _) => Sort::Text,
        ("json" | "jsonb", _) => Sort::Json,
        ("int2" | "int4" | "int8" | "numeric" | "money", _) => Sort::Number,
        ("date" | "timestamp" | "timestamptz", _) => Sort::Time,
        ("bool", _) => Sort::Flag,
        // Numbers, times, enums, ranges, bits.
        ("uuid" | "char", _) | (_, "N" | "D" | "T" | "E" | "R" | "V") => Sort::Other,
        _ => Sort::Content,
    }
}

fn blank(base: &str, category: &str) -> Option<&'static str> {
    Some(match (base, category) {
        ("text" | "varchar" | "bpchar" | "citext" | "name" | "xml" | "tsvector" | "hstore", _) => "",
        ("json" | "jsonb", _) => "{}",
        ("int2" | "int4" | "int8" | "numeric" | "float4" | "float8", _) => "0",
        ("bytea", _) => r"\x",
        ("inet", _) => "0.0.0.0",
        ("cidr", _) => "0.0.0.0/32",
        ("macaddr", _) => "00:00:00:00:00:00",
        ("point", _) => "(0,0)",
        ("uuid", _) => "00000000-0000-0000-0000-000000000000",
        ("bool", _) => "f",
        ("time" | "interval", _) => "00:00:00",
        // Multiranges are of the category, too, and are written otherwise.
        (range, "R") if !range.ends_with("multirange") => "empty",
        _ => return None,
    })
}
