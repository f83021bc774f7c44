//! The twin, which knows nothing of the migration, and its comparison with the rewound copy.

use std::collections::BTreeMap;

use piton_db::{Database, quote};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::file::Migration;
use super::writers::{Diary, Told, touched};

/// How many differences of one table are told.
const TOLD: usize = 4;

/// How much of a value is told.
const SHOWN: usize = 120;

/// What is lost besides tables and columns.
pub(super) const LARGE_OBJECTS: &str = "large objects";

/// Says to the twin, in old words, all that was committed, writer by writer.
pub(super) async fn tell(twin: &Database, diaries: &[Diary]) -> Vec<String> {
    let client = twin.connect().await.unwrap();
    client.batch_execute("set client_min_messages = error").await.unwrap();
    let mut problems = Vec::new();
    for transaction in diaries.iter().flat_map(|diary| &diary.committed) {
        client.batch_execute("begin").await.unwrap();
        for one in transaction {
            // A table that is written anew is empty to whoever looks with an older snapshot, and what touched nothing is no write.
            if one.meanwhile && one.rows == 0 {
                continue;
            }
            let answer = client.simple_query(&one.said.twin).await;
            let said = match answer {
                Ok(answers) if one.alike && touched(&answers) != one.rows => {
                    format!("touched {} rows, and {} in the live database", touched(&answers), one.rows)
                }
                Ok(_) => continue,
                Err(error) => format!("{error:?}"),
            };
            problems.push(format!("the twin: {}: {said}; said live: {}", one.said.twin, one.said.live));
            if problems.len() > TOLD {
                return problems;
            }
        }
        if let Err(error) = client.batch_execute("commit").await {
            problems.push(format!("the twin: {error:?}; {transaction:?}"));
        }
    }
    problems
}

/// A row as texts, by the columns' names.
type Row = Vec<Option<String>>;

/// A table that holds rows of its own.
struct Table {
    schema: String,
    name: String,
    columns: Vec<String>,
    /// The positions of what identifies a row.
    key: Vec<usize>,
}

/// Compares each table row for row but for what is lost, and what the queries of the file answer.
pub(super) async fn compare(
    migration: &Migration,
    lost: &[String],
    diaries: &[Diary],
    (rewound, twin): (&Database, &Database),
) -> Vec<String> {
    let (rewound, twin) = (rewound.connect().await.unwrap(), twin.connect().await.unwrap());
    for client in [&*rewound, &*twin] {
        let set = "set extra_float_digits = 3; set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'";
        client.batch_execute(set).await.unwrap();
    }
    let mut problems = Vec::new();
    for table in tables(&twin).await {
        let plain = format!("{}.{}", table.schema, table.name);
        let asked = migration.checks.iter().any(|query| names(query, &table.name));
        if !lost.contains(&plain) && !asked {
            let column = |what: &'_ String| what.strip_prefix(&plain)?.strip_prefix('.').map(str::to_owned);
            let without: Vec<String> = lost.iter().filter_map(column).collect();
            problems.extend(of_table(&table, &without, diaries, (&rewound, &twin)).await);
        }
    }
    let objects = "select oid::text, lo_get(oid)::text from pg_largeobject_metadata";
    let objects = (!lost.iter().any(|what| what == LARGE_OBJECTS)).then_some(objects);
    for query in migration.checks.iter().map(String::as_str).chain(objects) {
        match (answer(&rewound, query).await, answer(&twin, query).await) {
            (Ok(a), Ok(b)) => problems.extend(differences(query, &[], diaries, (a, b))),
            (a, b) => problems.push(format!("{query}: rewound {:?}, twin {:?}", a.err(), b.err())),
        }
    }
    problems.extend(sequences(&migration.sequences_apart, &rewound, &twin).await);
    problems
}

/// Tells whether a query names a table.
fn names(query: &str, table: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    query
        .match_indices(table)
        .any(|(at, _)| !query[..at].ends_with(part) && !query[at + table.len()..].starts_with(part))
}

async fn tables(client: &Client) -> Vec<Table> {
    let rows = client
        .query(
            "select n.nspname::text, c.relname::text,
                    array(select a.attname::text from pg_attribute a
                          where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum),
                    array(select a.attname::text from pg_index i join pg_attribute a
                            on a.attrelid = c.oid and a.attnum = any(i.indkey)
                          where i.indrelid = c.oid and i.indisprimary order by a.attnum)
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'r' and n.nspname not in ('pg_catalog', 'information_schema', 'doubts')
               and not exists (select from pg_depend d
                               where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
             order by 1, 2",
            &[],
        )
        .await
        .unwrap();
    let table = |row: &tokio_postgres::Row| {
        let columns: Vec<String> = row.get(2);
        let key: Vec<String> = row.get(3);
        let key = columns.iter().enumerate().filter(|(_, c)| key.contains(c)).map(|(at, _)| at).collect();
        Table { schema: row.get(0), name: row.get(1), columns, key }
    };
    rows.iter().map(table).collect()
}

async fn of_table(
    table: &Table,
    without: &[String],
    diaries: &[Diary],
    (rewound, twin): (&Client, &Client),
) -> Vec<String> {
    let kept = |column: &&String| !without.contains(column);
    let columns: Vec<String> =
        table.columns.iter().filter(kept).map(|column| format!("{}::text", quote::ident(column))).collect();
    let name = quote::qualified(&table.schema, &table.name);
    let query = format!("select {} from only {name}", columns.join(", "));
    let kept = |column: &&String| !without.contains(column);
    let kept: Vec<&String> = table.columns.iter().filter(kept).collect();
    let key = table.key.iter().filter_map(|at| kept.iter().position(|kept| **kept == table.columns[*at]));
    let key: Vec<usize> = key.collect();
    match (answer(rewound, &query).await, answer(twin, &query).await) {
        (Ok(a), Ok(b)) => differences(&name, &key, diaries, (a, b)),
        (a, b) => vec![format!("{name}: rewound {:?}, twin {:?}", a.err(), b.err())],
    }
}

async fn answer(client: &Client, query: &str) -> Result<Vec<Row>, String> {
    let answers = client.simple_query(query).await.map_err(|error| format!("{error:?}"))?;
    let row = |answer: &SimpleQueryMessage| match answer {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
        }
        _ => None,
    };
    Ok(answers.iter().filter_map(row).collect())
}

/// Lists the rows that only one of both has; those with the same key are told together.
fn differences(
    what: &str,
    key: &[usize],
    diaries: &[Diary],
    (rewound, twin): (Vec<Row>, Vec<Row>),
) -> Vec<String> {
    let mut surplus: BTreeMap<Row, i64> = BTreeMap::new();
    let counts = (rewound.len(), twin.len());
    for row in rewound {
        *surplus.entry(row).or_default() += 1;
    }
    for row in twin {
        *surplus.entry(row).or_default() -= 1;
    }
    let mut by_key: BTreeMap<Row, (Vec<String>, Vec<String>)> = BTreeMap::new();
    for (row, count) in surplus.into_iter().filter(|(_, count)| *count != 0) {
        let key = key.iter().filter_map(|at| row.get(*at).cloned()).collect();
        let (rewound, twin) = by_key.entry(key).or_default();
        let side = if count > 0 { rewound } else { twin };
        side.push(shown(&row));
    }
    let differing = by_key.len();
    let told = by_key.into_iter().take(TOLD).map(|(key, (rewound, twin))| {
        let first = |side: &[String]| side.iter().take(TOLD).cloned().collect::<Vec<_>>().join(" and ");
        let said = said_of(diaries, &key);
        format!("{what} {}: rewound {}; twin {}; said: {said}", shown(&key), first(&rewound), first(&twin))
    });
    let mut told: Vec<String> = told.collect();
    if !told.is_empty() {
        let (rewound, twin) = counts;
        told.push(format!("{what}: {rewound} rows rewound, {twin} in the twin, {differing} keys differ"));
    }
    told
}

/// Lists what was last said of the key of a row, with the number of rows that it touched.
fn said_of(diaries: &[Diary], key: &Row) -> String {
    let Some(number) = key.iter().flatten().max_by_key(|value| value.len()) else { return String::new() };
    let all = diaries.iter().flat_map(|diary| diary.committed.iter().flatten());
    let all: Vec<&Told> = all.filter(|one| one.rows > 0 && names(&one.said.live, number)).collect();
    let last = all[all.len().saturating_sub(TOLD)..].iter();
    let text = |one: &&Told| {
        let live: String = one.said.live.chars().take(SHOWN).collect();
        format!("{live} ({:?}, {})", one.phase(), one.rows)
    };
    last.map(text).collect::<Vec<_>>().join(", then ")
}

fn shown(row: &Row) -> String {
    let value = |value: &Option<String>| match value {
        None => "NULL".to_owned(),
        Some(text) if text.chars().count() > SHOWN => {
            let begin: String = text.chars().take(SHOWN).collect();
            format!("{begin:?}... of {} bytes", text.len())
        }
        Some(text) => format!("{text:?}"),
    };
    format!("({})", row.iter().map(value).collect::<Vec<_>>().join(", "))
}

/// Wants no sequence to stand before the twin's, and none that fills a column to hand out what is there.
async fn sequences(apart: &[String], rewound: &Client, twin: &Client) -> Vec<String> {
    let mut problems = Vec::new();
    let standing = async |client: &Client| -> BTreeMap<String, (bool, Option<i64>)> {
        let query =
            "select quote_ident(schemaname) || '.' || quote_ident(sequencename), increment_by > 0, last_value
                     from pg_sequences where schemaname not in ('piton', 'piton_replay')";
        let rows = client.query(query, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
    };
    let (ours, theirs) = (standing(rewound).await, standing(twin).await);
    for (name, (rises, at)) in theirs.into_iter().filter(|(name, _)| !apart.contains(name)) {
        let Some((_, here)) = ours.get(&name) else {
            problems.push(format!("the sequence {name} is not there"));
            continue;
        };
        let behind = match (here, at) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(here), Some(at)) => {
                if rises {
                    *here < at
                } else {
                    *here > at
                }
            }
        };
        if behind {
            problems.push(format!("the sequence {name} stands at {here:?}, and the twin's at {at:?}"));
        }
    }
    let owned = "select s.oid::regclass::text, t.oid::regclass::text, quote_ident(a.attname)
                 from pg_depend d join pg_class s on s.oid = d.objid and s.relkind = 'S'
                 join pg_class t on t.oid = d.refobjid join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
                 where d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
                   and a.atttypid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)";
    for row in rewound.query(owned, &[]).await.unwrap() {
        let (sequence, table, column): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let query = format!(
            "select count(*) from {table} where {column} = nextval('{}')",
            sequence.replace('\'', "''")
        );
        // Volatile: asked once for all rows.
        let query = query.replace("nextval(", "(select nextval(") + ")";
        match answer(rewound, &query).await.as_deref() {
            Ok([row]) if row[0].as_deref() == Some("0") => {}
            other => problems.push(format!("{sequence} hands out what {table}.{column} has: {other:?}")),
        }
    }
    problems
}
