//! The text of PostgreSQL's own plugin `test_decoding`, taken apart.
//!
//! ```text
//! BEGIN 727
//! table public."T x": UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 "na me"[character varying]:'it''s'
//! COMMIT 727
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use memchr::memchr;

use super::{Change, Column, Name, Tuple, Value};

/// How many tables are known before all are forgotten: an app may make and drop tables of ever new names.
const TABLES: usize = 10_000;

/// How many beginnings of rows are known of one table: a key or an old row has only those columns that are not NULL.
const NODES: usize = 10_000;

/// What divides the old row from the new one; a column of that name would be quoted.
const NEW_TUPLE: &[u8] = b" new-tuple:";

/// What one message says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A transaction begins.
    Begin(u32),
    /// A change of it.
    Change(Change),
    /// It has ended.
    Commit(u32),
    /// What changes no table.
    Nothing,
}

/// Reads messages, and remembers the tables and columns that it has seen.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// By the table's name as it is written.
    tables: HashMap<Box<[u8]>, Known>,
}

impl Decoder {
    /// Takes one message apart; the error says where it cannot be read, without any value.
    pub(super) fn read(&mut self, text: &[u8]) -> Result<Said, String> {
        if let Some(rest) = text.strip_prefix(b"table ") {
            return self.change(rest).map(Said::Change);
        }
        if let Some(xid) = text.strip_prefix(b"BEGIN ") {
            return number(xid).map(Said::Begin);
        }
        if let Some(xid) = text.strip_prefix(b"COMMIT ") {
            return number(xid).map(Said::Commit);
        }
        match text.starts_with(b"message: ") {
            true => Ok(Said::Nothing),
            false => Err("a message of the log is of no known kind".into()),
        }
    }

    fn change(&mut self, text: &[u8]) -> Result<Change, String> {
        let length = qualified(text).ok_or("a change's table has no readable name")?;
        let (raw, rest) = text.split_at(length);
        if rest.starts_with(b", ") || rest.starts_with(b": TRUNCATE:") {
            return self.truncate(text);
        }
        let known = self.known(raw)?;
        let bad = |what: &str| format!("a change of {} {what}", String::from_utf8_lossy(raw));
        let table = known.name.clone();
        if let Some(row) = rest.strip_prefix(b": INSERT:") {
            let (new, _) = known.tuple(row, false).map_err(|what| bad(&what))?;
            return Ok(Change::Insert { table, new });
        }
        if let Some(rows) = rest.strip_prefix(b": UPDATE:") {
            let (old, new) = match rows.strip_prefix(b" old-key:") {
                Some(rows) => {
                    let (old, rest) = known.tuple(rows, true).map_err(|what| bad(&what))?;
                    let new = rest.strip_prefix(NEW_TUPLE).ok_or_else(|| bad("has no new row"))?;
                    (Some(old), new)
                }
                None => (None, rows),
            };
            let (new, _) = known.tuple(new, false).map_err(|what| bad(&what))?;
            return Ok(Change::Update { table, old, new });
        }
        match rest.strip_prefix(b": DELETE:") {
            Some(b" (no-tuple-data)") => Ok(Change::Delete { table, old: None }),
            Some(row) => {
                let (old, _) = known.tuple(row, false).map_err(|what| bad(&what))?;
                Ok(Change::Delete { table, old: Some(old) })
            }
            None => Err(bad("is of no known kind")),
        }
    }

    fn truncate(&mut self, mut text: &[u8]) -> Result<Change, String> {
        let mut tables = Vec::new();
        loop {
            let length = qualified(text).ok_or("a TRUNCATE has a table without a readable name")?;
            let (raw, rest) = text.split_at(length);
            tables.push(self.known(raw)?.name.clone());
            match rest.strip_prefix(b", ") {
                Some(more) => text = more,
                // What follows says whether sequences began anew, and whether other tables went along, which are named here.
                None if rest.starts_with(b": TRUNCATE:") => return Ok(Change::Truncate { tables }),
                None => return Err("a TRUNCATE does not end".into()),
            }
        }
    }

    fn known(&mut self, raw: &[u8]) -> Result<&mut Known, String> {
        if !self.tables.contains_key(raw) {
            if self.tables.len() >= TABLES {
                self.tables.clear();
            }
            let known = Known::of(raw).ok_or("a table's name is no UTF-8")?;
            self.tables.insert(raw.into(), known);
        }
        self.tables.get_mut(raw).ok_or_else(|| "a table is not remembered".into())
    }
}

/// A table, and the rows that were seen of it.
#[derive(Debug)]
struct Known {
    name: Arc<Name>,
    /// A tree of columns: each way down is a row's; the first node is its root.
    nodes: Vec<Node>,
    /// The most columns that a row had.
    widest: usize,
}

/// The columns of a row up to one of them.
#[derive(Debug, Default)]
struct Node {
    parent: usize,
    /// The last one; none at the root.
    column: Option<Column>,
    /// What may come next, as it is written before a value: ` "na me"[text]:`.
    next: Vec<(Box<[u8]>, usize)>,
    /// The columns of a row that ends here.
    columns: Option<Arc<[Column]>>,
}

impl Known {
    fn of(raw: &[u8]) -> Option<Self> {
        let (schema, rest) = identifier(raw)?;
        let (name, _) = identifier(rest.strip_prefix(b".")?)?;
        let name = Arc::new(Name { schema, name });
        Some(Self { name, nodes: vec![Node::default()], widest: 0 })
    }

    /// Reads a row; one that is `old` ends where the new one begins. Returns what follows.
    fn tuple<'a>(&mut self, mut rest: &'a [u8], old: bool) -> Result<(Tuple, &'a [u8]), String> {
        if self.nodes.len() > NODES {
            self.nodes = vec![Node::default()];
        }
        let (mut at, mut values) = (0, Vec::with_capacity(self.widest));
        while !(rest.is_empty() || old && rest.starts_with(NEW_TUPLE)) {
            let known = self.nodes[at].next.iter().find(|(head, _)| rest.starts_with(head));
            let (length, node) = match known {
                Some((head, node)) => (head.len(), *node),
                None => self.learn(at, rest).ok_or_else(|| unreadable(values.len(), "name or type"))?,
            };
            let read = value(&rest[length..]).ok_or_else(|| unreadable(values.len(), "value"))?;
            values.push(read.0);
            (rest, at) = (read.1, node);
        }
        self.widest = self.widest.max(values.len());
        Ok((Tuple { columns: self.columns(at), values }, rest))
    }

    /// Takes in a column that has not followed here before; returns how long it is written and its node.
    fn learn(&mut self, parent: usize, text: &[u8]) -> Option<(usize, usize)> {
        let (name, rest) = identifier(text.strip_prefix(b" ")?)?;
        let rest = rest.strip_prefix(b"[")?;
        let type_name = &rest[..type_length(rest)?];
        let length = text.len() - rest.len() + type_name.len() + b"]:".len();
        let column = Some(Column { name, type_name: std::str::from_utf8(type_name).ok()?.to_owned() });
        let node = self.nodes.len();
        self.nodes.push(Node { parent, column, ..Node::default() });
        self.nodes[parent].next.push((text[..length].into(), node));
        Some((length, node))
    }

    fn columns(&mut self, node: usize) -> Arc<[Column]> {
        if let Some(columns) = &self.nodes[node].columns {
            return columns.clone();
        }
        let (mut columns, mut at) = (Vec::new(), node);
        while let Some(column) = &self.nodes[at].column {
            columns.push(column.clone());
            at = self.nodes[at].parent;
        }
        columns.reverse();
        let columns = Arc::<[Column]>::from(columns);
        self.nodes[node].columns = Some(columns.clone());
        columns
    }
}

fn unreadable(before: usize, what: &str) -> String {
    format!("has no readable {what} of column {}", before + 1)
}

fn number(text: &[u8]) -> Result<u32, String> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| "a transaction has no readable number".into())
}

/// Returns the length of `schema.name` as it is written.
fn qualified(text: &[u8]) -> Option<usize> {
    let schema = written(text)?;
    (text.get(schema) == Some(&b'.')).then_some(())?;
    Some(schema + 1 + written(&text[schema + 1..])?)
}

/// Returns the length of a name as it is written: without quotes, or within them and with each of its own doubled.
fn written(text: &[u8]) -> Option<usize> {
    if text.first() == Some(&b'"') {
        return quoted(&text[1..], b'"').map(|length| length + 2);
    }
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
    let length = text.iter().position(|byte| !plain(byte)).unwrap_or(text.len());
    (length > 0).then_some(length)
}

/// Reads a name; returns what follows.
fn identifier(text: &[u8]) -> Option<(String, &[u8])> {
    let (name, rest) = text.split_at(written(text)?);
    let name = std::str::from_utf8(name).ok()?;
    let name = match name.strip_prefix('"') {
        Some(quoted) => quoted[..quoted.len() - 1].replace("\"\"", "\""),
        None => name.to_owned(),
    };
    Some((name, rest))
}

/// Returns the length of what stands before the quote that ends it; a doubled one does not.
fn quoted(text: &[u8], quote: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr(quote, &text[at..])?;
        if text.get(at + 1) != Some(&quote) {
            return Some(at);
        }
        at += 2;
    }
}

/// Returns the length of a type's name that `]:` ends: `public."Mood[]"[]`, `timestamp with time zone`.
fn type_length(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => at += quoted(&text[at + 1..], b'"')? + 2,
            // An array's.
            b'[' if text.get(at + 1) == Some(&b']') => at += 2,
            b'[' => return None,
            b']' => return (text.get(at + 1) == Some(&b':')).then_some(at),
            _ => at += 1,
        }
    }
}

/// Reads a value; returns what follows: nothing, or what a blank divides from it.
fn value(text: &[u8]) -> Option<(Value, &[u8])> {
    let (value, rest) = match text {
        [b'\'', text @ ..] => {
            let (inner, rest) = text.split_at(quoted(text, b'\'')?);
            let inner = std::str::from_utf8(inner).ok()?;
            let value = match memchr(b'\'', inner.as_bytes()) {
                None => inner.to_owned(),
                Some(_) => inner.replace("''", "'"),
            };
            (Value::Text(value), &rest[1..])
        }
        [b'B', b'\'', text @ ..] => {
            let (bits, rest) = text.split_at(memchr(b'\'', text)?);
            (Value::Text(std::str::from_utf8(bits).ok()?.to_owned()), &rest[1..])
        }
        _ => {
            let (plain, rest) = text.split_at(memchr(b' ', text).unwrap_or(text.len()));
            let value = match plain {
                b"" => return None,
                b"null" => Value::Null,
                b"unchanged-toast-datum" => Value::Unchanged,
                // The plugin's own words, which the output function does not have.
                b"true" => Value::Text("t".into()),
                b"false" => Value::Text("f".into()),
                number => Value::Text(std::str::from_utf8(number).ok()?.to_owned()),
            };
            (value, rest)
        }
    };
    matches!(rest.first(), None | Some(b' ')).then_some((value, rest))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Said, String> {
        Decoder::default().read(text.as_bytes())
    }

    fn changed(text: &str) -> Change {
        match read(text) {
            Ok(Said::Change(change)) => change,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn name(schema: &str, name: &str) -> Arc<Name> {
        Arc::new(Name { schema: schema.into(), name: name.into() })
    }

    fn tuple(columns: &[(&str, &str, Value)]) -> Tuple {
        let column = |(name, type_name, _): &(&str, &str, Value)| Column {
            name: (*name).into(),
            type_name: (*type_name).into(),
        };
        Tuple {
            columns: columns.iter().map(column).collect(),
            values: columns.iter().map(|(_, _, value)| value.clone()).collect(),
        }
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn what_the_plugin_writes_is_read() {
        assert_eq!(read("BEGIN 4294967295"), Ok(Said::Begin(u32::MAX)));
        assert_eq!(read("COMMIT 727"), Ok(Said::Commit(727)));
        let message = "message: transactional: 1 prefix: x, sz: 9 content:table a.b";
        assert_eq!(read(message), Ok(Said::Nothing));
        let inserted = changed(
            "table public.\"T x\": INSERT: id[integer]:-1 \"na me\"[character varying]:'it''s' b[bit varying]:B'101' \
             f[double precision]:NaN ok[boolean]:true n[text]:null t[text]:unchanged-toast-datum \
             \"a]\"\"[text]:'\"[public.\"Mood[]\"\"]:\"[]]:'x new-tuple: ''' c[\"char\"]:'' at[timestamp with time zone]:'2026-01-01 00:00:00+00' \
             l[integer[]]:'{1,2}'",
        );
        let new = tuple(&[
            ("id", "integer", text("-1")),
            ("na me", "character varying", text("it's")),
            ("b", "bit varying", text("101")),
            ("f", "double precision", text("NaN")),
            ("ok", "boolean", text("t")),
            ("n", "text", Value::Null),
            ("t", "text", Value::Unchanged),
            ("a]\"[text]:'", "public.\"Mood[]\"\"]:\"[]", text("x new-tuple: '")),
            ("c", "\"char\"", text("")),
            ("at", "timestamp with time zone", text("2026-01-01 00:00:00+00")),
            ("l", "integer[]", text("{1,2}")),
        ]);
        assert_eq!(inserted, Change::Insert { table: name("public", "T x"), new });
        let a = |value: &str| tuple(&[("a", "integer", text(value))]);
        let table = || name("a b.c", "d\n\": ");
        let written = "table \"a b.c\".\"d\n\"\": \":";
        let updated = changed(&format!("{written} UPDATE: old-key: a[integer]:1 new-tuple: a[integer]:2"));
        assert_eq!(updated, Change::Update { table: table(), old: Some(a("1")), new: a("2") });
        let updated = changed(&format!("{written} UPDATE: a[integer]:2"));
        assert_eq!(updated, Change::Update { table: table(), old: None, new: a("2") });
        let deleted = changed(&format!("{written} DELETE: a[integer]:2"));
        assert_eq!(deleted, Change::Delete { table: table(), old: Some(a("2")) });
        let deleted = changed(&format!("{written} DELETE: (no-tuple-data)"));
        assert_eq!(deleted, Change::Delete { table: table(), old: None });
        for flags in ["(no-flags)", "restart_seqs", "restart_seqs cascade"] {
            let truncated = changed(&format!("table s.a, \"a b.c\".\"d\n\"\": \": TRUNCATE: {flags}"));
            assert_eq!(truncated, Change::Truncate { tables: vec![name("s", "a"), table()] });
        }
        let nothing = changed("table public.nothing: INSERT:");
        assert_eq!(nothing, Change::Insert { table: name("public", "nothing"), new: tuple(&[]) });
    }

    #[test]
    fn rows_of_one_shape_share_their_columns_and_other_shapes_do_not() {
        let mut decoder = Decoder::default();
        let mut columns = |text: &str| match decoder.read(text.as_bytes()) {
            Ok(Said::Change(Change::Insert { new, .. })) => new.columns,
            other => panic!("{other:?}"),
        };
        let first = columns("table s.t: INSERT: a[integer]:1 b[text]:'x'");
        let again = columns("table s.t: INSERT: a[integer]:2 b[text]:null");
        let renamed = columns("table s.t: INSERT: a[integer]:2 c[text]:null");
        let shorter = columns("table s.t: INSERT: a[integer]:2");
        let other = columns("table s.u: INSERT: a[integer]:1 b[text]:'x'");
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!((renamed[1].name.as_str(), renamed.len(), shorter.len()), ("c", 2, 1));
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!(first, other);
    }

    #[test]
    fn ever_new_names_do_not_fill_the_memory() {
        let mut decoder = Decoder::default();
        for i in 0..3 * TABLES {
            decoder.read(format!("table s.t{i}: INSERT: a[integer]:1").as_bytes()).unwrap();
            decoder.read(format!("table s.t: INSERT: a{i}[integer]:1 b[text]:''").as_bytes()).unwrap();
        }
        assert!(decoder.tables.len() <= TABLES);
        assert!(decoder.tables.values().all(|known| known.nodes.len() <= NODES + 2));
    }

    #[test]
    fn what_cannot_be_read_is_named_without_its_values() {
        for (text, why) in [
            ("hunter2", "a message of the log is of no known kind"),
            ("BEGIN hunter2", "a transaction has no readable number"),
            ("table hunter2", "a change's table has no readable name"),
            ("table s.t: MERGE: a[text]:'hunter2'", "a change of s.t is of no known kind"),
            (
                "table s.t: INSERT: (no-tuple-data)",
                "a change of s.t has no readable name or type of column 1",
            ),
            ("table s.t: INSERT: a[text]:'hunter2", "a change of s.t has no readable value of column 1"),
            (
                "table s.t: INSERT: a[text]:1 b[text]:'hun'ter2",
                "a change of s.t has no readable value of column 2",
            ),
            ("table s.t: UPDATE: old-key: a[text]:'hunter2'", "a change of s.t has no new row"),
            ("table s.t, s.u: hunter2", "a TRUNCATE does not end"),
        ] {
            assert_eq!(read(text), Err(why.into()), "{text}");
        }
    }

    /// How a value is written.
    #[derive(Clone, Debug)]
    enum Written {
        Null,
        Unchanged,
        Number(String),
        Bool(bool),
        Bits(String),
        Quoted(String),
    }

    impl Written {
        fn print(&self) -> String {
            match self {
                Self::Null => "null".into(),
                Self::Unchanged => "unchanged-toast-datum".into(),
                Self::Number(number) => number.clone(),
                Self::Bool(value) => value.to_string(),
                Self::Bits(bits) => format!("B'{bits}'"),
                Self::Quoted(text) => format!("'{}'", text.replace('\'', "''")),
            }
        }

        fn value(&self) -> Value {
            match self {
                Self::Null => Value::Null,
                Self::Unchanged => Value::Unchanged,
                Self::Bool(value) => text(if *value { "t" } else { "f" }),
                Self::Number(inner) | Self::Bits(inner) | Self::Quoted(inner) => text(inner),
            }
        }
    }

    /// A name as `quote_identifier` writes it, where it may quote more than it has to.
    fn print_name(name: &str, bare: bool) -> String {
        let mut bytes = name.bytes();
        let plain = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_')
            && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if bare && plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z_][a-z0-9_]{0,9}",
            any::<String>().prop_map(|text| text.replace('\0', "")),
            "[\\]\\[\"':., \n]{1,12}",
            Just(" new-tuple: a[text]:'x'".to_owned()),
            Just("null".to_owned()),
            Just("old-key".to_owned()),
        ]
    }

    fn any_name() -> impl Strategy<Value = String> {
        any_text().prop_filter("a name has a letter", |name| !name.is_empty())
    }

    fn any_type() -> impl Strategy<Value = String> {
        let own = (any_name(), any_name(), any::<bool>()).prop_map(|(schema, name, bare)| {
            format!("{}.{}", print_name(&schema, bare), print_name(&name, bare))
        });
        let built_in =
            proptest::sample::select(vec!["integer", "\"char\"", "timestamp with time zone", "bit varying"]);
        (prop_oneof![own, built_in.prop_map(str::to_owned)], any::<bool>())
            .prop_map(|(name, array)| if array { name + "[]" } else { name })
    }

    fn any_value() -> impl Strategy<Value = Written> {
        prop_oneof![
            Just(Written::Null),
            Just(Written::Unchanged),
            prop_oneof!["-?[0-9]{1,9}(\\.[0-9]+)?(e-?[0-9]+)?", "NaN|-?Infinity"].prop_map(Written::Number),
            any::<bool>().prop_map(Written::Bool),
            "[01]{0,9}".prop_map(Written::Bits),
            any_text().prop_map(Written::Quoted),
        ]
    }

    type Row = Vec<(String, String, Written, bool)>;

    fn any_row() -> impl Strategy<Value = Row> {
        vec((any_name(), any_type(), any_value(), any::<bool>()), 0..6)
    }

    fn print_row(row: &Row) -> String {
        row.iter()
            .map(|(name, type_name, value, bare)| {
                format!(" {}[{type_name}]:{}", print_name(name, *bare), value.print())
            })
            .collect()
    }

    fn tuple_of(row: &Row) -> Tuple {
        let column = |(name, type_name, _, _): &(String, String, Written, bool)| Column {
            name: name.clone(),
            type_name: type_name.clone(),
        };
        let values = row.iter().map(|(_, _, value, _)| value.value()).collect();
        Tuple { columns: row.iter().map(column).collect(), values }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            tables in vec((any_name(), any_name(), any::<bool>()), 1..4), kind in 0..5, old in any_row(), new in any_row(),
        ) {
            let names: Vec<_> = tables.iter().map(|(schema, table, _)| name(schema, table)).collect();
            let printed: Vec<_> = tables
                .iter()
                .map(|(schema, table, bare)| format!("{}.{}", print_name(schema, *bare), print_name(table, *bare)))
                .collect();
            let (table, first) = (names[0].clone(), &printed[0]);
            let (said, change) = match kind {
                0 => (format!("table {first}: INSERT:{}", print_row(&new)), Change::Insert { table, new: tuple_of(&new) }),
                1 => (
                    format!("table {first}: UPDATE: old-key:{} new-tuple:{}", print_row(&old), print_row(&new)),
                    Change::Update { table, old: Some(tuple_of(&old)), new: tuple_of(&new) },
                ),
                2 => (
                    format!("table {first}: UPDATE:{}", print_row(&new)),
                    Change::Update { table, old: None, new: tuple_of(&new) },
                ),
                3 => (
                    format!("table {first}: DELETE:{}", print_row(&old)),
                    Change::Delete { table, old: Some(tuple_of(&old)) },
                ),
                _ => (
                    format!("table {}: TRUNCATE: (no-flags)", printed.join(", ")),
                    Change::Truncate { tables: names },
                ),
            };
            let mut decoder = Decoder::default();
            // Learnt and known.
            for _ in 0..2 {
                prop_assert_eq!(decoder.read(said.as_bytes()), Ok(Said::Change(change.clone())), "{}", said);
            }
        }
    }
}
