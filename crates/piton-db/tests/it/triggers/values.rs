//! Every value comes back as it was written.

use std::fmt::Write as _;

use piton_db::quote;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;

/// A type, and texts of values that it takes.
const KINDS: [(&str, &[&str]); 61] = [
    ("int", &["0", "-1", "2147483647"]),
    ("bigint", &["-9223372036854775808"]),
    (
        "text",
        &[
            "",
            " ",
            "\"",
            "\\",
            "a,b",
            "(",
            ")",
            "\n\t\r",
            "NULL",
            "null",
            "''",
            "\"\"",
            "\\\\",
            "ü\u{1F600}",
            "{}",
            "x\\\"y",
        ],
    ),
    ("varchar(5)", &["", "a b c"]),
    ("char(4)", &["", "ab"]),
    ("\"char\"", &["", "x"]),
    ("name", &["a b"]),
    ("bytea", &["\\x", "\\x00ff22", "a\\\\b"]),
    ("numeric", &["NaN", "0.00", "-1.50", "1e-30", "123456789012345678901234567890.1"]),
    ("numeric(10,2)", &["1.1"]),
    ("real", &["0.1", "-0", "Infinity", "NaN", "1e-45"]),
    ("float8", &["0.1", "-0", "2.2250738585072014e-308", "-Infinity", "0.30000000000000004"]),
    ("money", &["12.34", "-1"]),
    ("bool", &["t", "f"]),
    ("date", &["2026-02-28", "infinity", "0044-03-15 BC"]),
    ("timestamp", &["2026-02-28 12:00:00.123456", "-infinity"]),
    ("timestamptz", &["2026-02-28 12:00:00.123456+05:30", "infinity"]),
    ("timetz", &["12:00:00.5+02"]),
    ("interval", &["1 year 2 mons -3 days 04:05:06.7", "-1 mon 1 day"]),
    ("uuid", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    ("json", &["{\"a\": 1, \"a\" : [null, \"x\\\"y\"]}", "-0", "\"\""]),
    ("jsonb", &["{\"b\": 1.0, \"a\": \"\\\\\"}"]),
    ("inet", &["10.0.0.1/8", "::1"]),
    ("bit(3)", &["101"]),
    ("varbit", &["", "1"]),
    ("point", &["(0.1,-2)"]),
    ("int4range", &["[1,5)", "empty", "(,)"]),
    ("tstzrange", &["[2026-01-01 00:00+00,)"]),
    ("int[]", &["{}", "[0:1]={1,2}", "{{1,NULL},{3,4}}"]),
    ("text[]", &["{\"a,b\",NULL,\"NULL\",\"\\\"\",\"\\\\\"}"]),
    ("mood", &["good", "bad, worse"]),
    ("shouted", &["A\"B"]),
    ("pair", &["(,)", "(1,\"a,\"\"(b\\\\\")"]),
    ("tsvector", &["'a':1 'b c':2A"]),
    ("tsquery", &["'a b' & !'c'"]),
    ("smallint", &["-32768"]),
    ("oid", &["4294967295"]),
    ("time", &["24:00:00", "00:00:00.000001"]),
    ("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("lseg", &["[(0,0),(0.1,1)]"]),
    ("box", &["(2,2),(0.3,-1)"]),
    ("path", &["((0,0),(1,1))", "[(0,0),(1,1)]"]),
    ("polygon", &["((0,0),(1,1),(0.1,2))"]),
    ("circle", &["<(0,0),0.1>"]),
    ("line", &["{1,-1,0.1}"]),
    ("numrange", &["(0.10,]", "[-1,1]"]),
    ("daterange", &["[2026-01-01,infinity)"]),
    ("int4multirange", &["{}", "{[1,3),[5,)}"]),
    ("pg_lsn", &["16/B374D848"]),
    ("jsonpath", &["$.\"a b\"[*] ? (@ > 1)"]),
    ("xml", &["<a b=\"c\">\"x\", (y) &amp; z</a>"]),
    ("hstore", &["", "\"a b\"=>\"c\\\"d\", e=>NULL"]),
    ("citext", &["", "A \"b\", \\c"]),
    ("ltree", &["top.a_1"]),
    ("mood[]", &["{good,NULL,\"bad, worse\"}"]),
    ("bytea[]", &["{\"\\\\x00\",\"\\\\x\"}"]),
    ("timestamptz[]", &["{\"2026-02-28 12:00:00+05:30\",infinity}"]),
    ("pair[]", &["{\"(1,\\\"a,b\\\")\",NULL}"]),
    ("nested", &["(\"(1,\"\"a\"\")\",\"{\"\"(2,x)\"\"}\",0.1)"]),
];

const TYPES: &str = "create type mood as enum ('good', 'bad, worse'); create domain shouted as text check (upper(value) = value);
    create type pair as (a int, \"b c\" text); create type nested as (one pair, more pair[], \"float\" float8);
    create extension hstore; create extension citext; create extension ltree";

/// Settings as an app's session may have them.
const SETTINGS: [&str; 8] = [
    "set datestyle = 'SQL, DMY'",
    "set datestyle = 'German'",
    "set timezone = 'Asia/Kolkata'",
    "set intervalstyle = 'sql_standard'",
    "set extra_float_digits = -2",
    "set bytea_output = 'escape'",
    "set lc_monetary = 'C.UTF-8'",
    "set search_path = pg_temp, public; set xmlbinary = hex",
];

/// Columns with a value each, and what the session sets.
fn cases() -> impl Strategy<Value = (Vec<(usize, Option<String>)>, Vec<usize>)> {
    let column = (0..KINDS.len()).prop_flat_map(|kind| {
        let texts = KINDS[kind].1.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let known = proptest::sample::select(texts);
        let value = if KINDS[kind].0 == "text" {
            prop_oneof![known, "[\\PC\n\t\"\\\\,() ]{0,20}".prop_map(|text: String| text.replace('\0', ""))]
                .boxed()
        } else {
            known.boxed()
        };
        (Just(kind), proptest::option::weighted(0.8, value))
    });
    (proptest::collection::vec(column, 0..8), proptest::collection::vec(0..SETTINGS.len(), 0..4))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_any_type_is_read_as_it_was_written_under_any_settings() {
    let Some((_, live)) = noted("triggers_values", TYPES).await else { return };
    let pinned = live.connect().await.unwrap();
    pinned
        .batch_execute(
            "set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = postgres; set extra_float_digits = 3;
             set bytea_output = hex; set lc_monetary = 'C'",
        )
        .await
        .unwrap();
    let handle = tokio::runtime::Handle::current();
    let mut number = 0;
    let property = |case: (Vec<(usize, Option<String>)>, Vec<usize>)| {
        number += 1;
        let checked =
            tokio::task::block_in_place(|| handle.block_on(comes_back(&live, &pinned, number, &case)));
        checked.map_err(TestCaseError::fail)
    };
    let mut runner = TestRunner::new(Config { cases: 120, failure_persistence: None, ..Config::default() });
    let mut property = property;
    for _ in 0..120 {
        let tree = cases().new_tree(&mut runner).unwrap();
        let case = proptest::strategy::ValueTree::current(&tree);
        if let Err(error) = property(case.clone()) {
            panic!("{case:?}: {error}");
        }
    }
}

async fn comes_back(
    live: &Database,
    pinned: &tokio_postgres::Client,
    number: usize,
    (columns, settings): &(Vec<(usize, Option<String>)>, Vec<usize>),
) -> Result<(), String> {
    let table = format!("t{number}");
    let (mut list, mut values, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    for (at, (kind, value)) in columns.iter().enumerate() {
        list.push(format!("c{at} {}", KINDS[*kind].0));
        let value = value.as_ref().map_or("null".to_owned(), |text| quote::literal(text));
        values.push(format!("{value}::{}", KINDS[*kind].0));
        // As the type's own output function writes it; what is true or false as a cast does.
        texts.push(match KINDS[*kind].0 {
            "bool" => format!("c{at}::text"),
            _ => format!("case when c{at}::text is not null then format('%s', c{at}) end"),
        });
    }
    let from = now(pinned).await.unwrap();
    run(live, &format!("create table {table} ({})", list.join(", "))).await;
    // Values are read under the usual settings, and written under the session's.
    let mut sql = String::new();
    for setting in settings {
        write!(sql, "{}; ", SETTINGS[*setting]).unwrap();
    }
    let insert = match columns.len() {
        0 => format!("insert into {table} default values"),
        _ => format!("insert into {table} select * from staged_{table}"),
    };
    if !columns.is_empty() {
        run(
            live,
            &format!(
                "create unlogged table staged_{table} as select {}",
                values
                    .iter()
                    .enumerate()
                    .map(|(at, value)| format!("{value} c{at}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        )
        .await;
    }
    run(live, &format!("{sql} set search_path = public, pg_temp; {insert}")).await;
    let wanted: Vec<Option<String>> = match columns.len() {
        0 => Vec::new(),
        _ => {
            let row =
                pinned.query_one(&format!("select {} from {table}", texts.join(", ")), &[]).await.unwrap();
            (0..columns.len()).map(|at| row.get(at)).collect()
        }
    };
    let told = told_from(live, from).await;
    let Some(Change::Insert { new, .. }) = told.iter().flat_map(|told| &told.changes).next() else {
        return Err(format!("nothing was told: {told:?}"));
    };
    let found: Vec<Option<String>> = new
        .values
        .iter()
        .map(|value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        })
        .collect();
    let same = found == wanted;
    if same { Ok(()) } else { Err(format!("{found:?} is not {wanted:?}")) }
}

#[tokio::test]
async fn a_thousand_columns_and_none_are_read() {
    let columns: Vec<String> = (0..1000).map(|at| format!("c{at} text")).collect();
    let setup = format!("create table wide ({}); create table none ()", columns.join(", "));
    let Some((_, live)) = noted("triggers_wide", &setup).await else { return };
    let values: Vec<String> =
        (0..1000).map(|at| if at % 3 == 0 { "null".into() } else { format!("'{at},'") }).collect();
    run(&live, &format!("insert into wide values ({}); insert into none default values", values.join(", ")))
        .await;
    let told = told_from(&live, Lsn::default()).await;
    let [Change::Insert { new: wide, .. }, Change::Insert { new: none, .. }] = &told[0].changes[..] else {
        panic!("{told:?}")
    };
    assert_eq!(none.values, []);
    for (at, value) in wide.values.iter().enumerate() {
        let wanted = if at % 3 == 0 { Value::Null } else { Value::Text(format!("{at},")) };
        assert_eq!(*value, wanted);
    }
}
