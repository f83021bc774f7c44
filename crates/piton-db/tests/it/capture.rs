//! Reading what is written to a live database, on a server of its own with `wal_level = logical`.

mod division;
mod interrupted;
mod login;
mod slots;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use piton_db::capture::{Change, Column, Lsn, Message, Name, Stream, Tuple, Value, now};
use piton_db::{Database, quote};
use piton_testkit::postgres::{Cluster, Options, eventually, skip};
use tokio_postgres::Client;

use crate::{HARD, database, number, run};

/// Returns the server that the tests here share.
fn cluster() -> Option<&'static Cluster> {
    static LOGICAL: OnceLock<Option<Cluster>> = OnceLock::new();
    LOGICAL.get_or_init(|| Cluster::start_with(logical(false, &[]))).as_ref()
}

fn logical(fsync: bool, further: &[(&'static str, &str)]) -> Options {
    let settings = [
        ("wal_level", "logical"),
        ("max_slot_wal_keep_size", "1GB"),
        ("max_replication_slots", "40"),
        ("max_wal_senders", "40"),
        ("max_prepared_transactions", "5"),
        ("autovacuum_naptime", "1d"),
    ];
    let settings = settings.iter().chain(further).map(|(name, value)| (*name, (*value).to_owned())).collect();
    Options { fsync, settings, ..Options::default() }
}

async fn fresh(name: &str) -> Option<(&'static Cluster, Database)> {
    let cluster = cluster()?;
    if !has_plugin(cluster).await {
        skip(PLUGIN);
        return None;
    }
    cluster.create_database(name).await;
    Some((cluster, database(cluster, name)))
}

/// Starts a server of a test's own.
async fn start(fsync: bool, further: &[(&'static str, &str)]) -> Option<Cluster> {
    let cluster = Cluster::start_with(logical(fsync, further))?;
    if !has_plugin(&cluster).await {
        skip(PLUGIN);
        return None;
    }
    Some(cluster)
}

const PLUGIN: &str = "PostgreSQL's plugin test_decoding";

async fn has_plugin(cluster: &Cluster) -> bool {
    cluster.connect("postgres").await.batch_execute("load 'test_decoding'").await.is_ok()
}

/// Reads all that is committed by now.
async fn told(stream: &mut Stream, live: &Database) -> Vec<Message> {
    let wanted = now(&live.connect().await.unwrap()).await.unwrap();
    let mut told = Vec::new();
    stream.ask();
    let read = async {
        loop {
            match stream.next().await.unwrap() {
                Message::UpTo(place) if place >= wanted => return,
                Message::UpTo(_) => {}
                message => told.push(message),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.unwrap();
    told
}

/// A transaction as it was told.
#[derive(Debug)]
struct Told {
    xid: u32,
    changes: Vec<Change>,
    end: Lsn,
}

/// Puts whole transactions together; fails where they are not told one after the other.
fn transactions(messages: Vec<Message>) -> Vec<Told> {
    let (mut all, mut open, mut last) = (Vec::<Told>::new(), None, Lsn::default());
    for message in messages {
        match message {
            Message::Begin { xid, .. } => {
                assert!(open.is_none(), "{xid} begins within another one");
                open = Some((xid, Vec::new()));
            }
            Message::Change { lsn, change } => {
                assert!(lsn > Lsn::default());
                open.as_mut().unwrap().1.push(change);
            }
            Message::Commit { xid, end } => {
                let (begun, changes) = open.take().unwrap();
                assert!(begun == xid && end > last, "{begun} {xid} {end} {last}");
                last = end;
                all.push(Told { xid, changes, end });
            }
            Message::UpTo(_) => {}
        }
    }
    assert!(open.is_none());
    all
}

fn name(schema: &str, name: &str) -> Name {
    Name { schema: schema.into(), name: name.into() }
}

/// Returns the first value of an inserted row.
fn inserted(change: &Change) -> &str {
    match change {
        Change::Insert { new: Tuple { values, .. }, .. } => match &values[0] {
            Value::Text(text) => text,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

async fn xid(client: &Client) -> u32 {
    let xid = number(client, "select pg_current_xact_id()::text::int8").await;
    u32::try_from(xid).unwrap()
}

type Row = BTreeMap<String, Option<String>>;

/// Tables as the log tells them.
#[derive(Default)]
struct Model(BTreeMap<Name, Vec<Row>>);

impl Model {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Insert { table, new } => self.rows(table).push(row(new, &Row::new())),
            Change::Update { table, old, new } => {
                let rows = self.rows(table);
                let at = position(rows, old.as_ref().unwrap());
                rows[at] = row(new, &rows[at]);
            }
            Change::Delete { table, old } => {
                let rows = self.rows(table);
                let at = position(rows, old.as_ref().unwrap());
                rows.swap_remove(at);
            }
            Change::Truncate { tables } => tables.iter().for_each(|table| self.rows(table).clear()),
        }
    }

    fn rows(&mut self, table: &Arc<Name>) -> &mut Vec<Row> {
        self.0.entry(Name::clone(table)).or_default()
    }
}

fn row(tuple: &Tuple, before: &Row) -> Row {
    let value = |(column, value): (&Column, &Value)| {
        let value = match value {
            Value::Null => None,
            Value::Text(text) => Some(text.clone()),
            Value::Unchanged => before[&column.name].clone(),
        };
        (column.name.clone(), value)
    };
    tuple.columns.iter().zip(&tuple.values).map(value).collect()
}

/// Finds the row that the log names whole, but for what is NULL.
fn position(rows: &[Row], old: &Tuple) -> usize {
    let old = row(old, &Row::new());
    let found =
        rows.iter().position(|row| row.iter().all(|(name, value)| old.get(name).unwrap_or(&None) == value));
    found.unwrap_or_else(|| panic!("no row is {old:?}"))
}

/// Reads a table as its types' output functions write it.
async fn rows(client: &Client, table: &Name) -> Vec<Row> {
    let table = quote::qualified(&table.schema, &table.name);
    let columns = client
        .query(
            "select attname::text from pg_attribute
             where attrelid = $1::text::regclass and attnum > 0 and not attisdropped order by attnum",
            &[&table],
        )
        .await
        .unwrap();
    let columns: Vec<String> = columns.iter().map(|row| row.get(0)).collect();
    let text = |column: &String| {
        let column = quote::ident(column);
        format!("case when {column} is not distinct from null then null else format('%s', {column}) end")
    };
    let values = columns.iter().map(text).collect::<Vec<_>>().join(", ");
    let rows = client.query(&format!("select array[{values}]::text[] from only {table}"), &[]).await.unwrap();
    let mut rows: Vec<Row> = rows
        .iter()
        .map(|row| columns.iter().cloned().zip(row.get::<_, Vec<Option<String>>>(0)).collect())
        .collect();
    rows.sort();
    rows
}

const TYPES: &str = r#"
    create type "Mood[]" as enum ('a]:', 'b''c', 'd "e"');
    create type pair as (a int, "b c" text);
    create domain yes as boolean;
    create table "types: [x]" (id int, "a ""b"" [c]:" text, e "Mood[]", ea "Mood[]"[], p pair, d yes, c "char", b bit(3),
        vb bit varying, j jsonb, js json, i interval, tz timestamptz, ts timestamp, ti time with time zone, dt date, ip inet,
        u uuid, r int4range, n numeric, f float8, f4 float4, o oid, arr int[], tarr text[], v tsvector, h money, by bytea,
        pt point, ln pg_lsn, nm name, bp char(5), b1 boolean, l int8, s int2, rc regclass, "select" x.y);
    insert into "types: [x]" values
        (1, E'it''s\n\\ "x" new-tuple: a[integer]:1', 'a]:', array['b''c', null, 'd "e"']::"Mood[]"[], row(1, 'x,"y'), true, 'x', B'101',
         B'', '{"a": [1, "''"]}', '{"a":1,"a":2}', '1 year 2 mons -3 days 04:05:06.789', 'infinity', '0044-03-15 12:00:00.123456 BC',
         '12:34:56.789+05:30', '2026-02-03', '10.1.2.3/8', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '[1,5)', 'NaN', 'Infinity', '-0',
         4294967295, '[0:2]={1,null,3}', array['a b', 'null', null, '"', ''], 'a:1A fat:2B,4C', '-1234.56', '\x00ff27', '(1.5,-2)',
         'FFFFFFFF/1', 'n''m', 'ab', false, -9223372036854775808, -32768, 'pg_class', '(7)'),
        (2, '', null, '{}', row(null, null), false, '', B'000', null, 'null', 'null', '0', '2026-07-01 12:00:00.5+02', 'epoch',
         '00:00+00', '-infinity', '::1', null, 'empty', 1e-300, 1e-300, 1.1754944e-38, 0, '{}', '{}', '', '0', '', '(0,0)', '0/0', '',
         '', null, 0, 0, null, null);
"#;

#[tokio::test]
async fn every_kind_of_change_is_told_as_the_table_has_it() {
    let Some((_, live)) = fresh("capture_hard").await else { return };
    // What is set for the app's sessions would change the text of values and of types' names.
    run(
        &live,
        r#"alter database capture_hard set bytea_output = 'escape'; alter database capture_hard set extra_float_digits = -5;
           alter database capture_hard set search_path = "Büro", public; alter database capture_hard set quote_all_identifiers = on;
           alter role postgres in database capture_hard set datestyle = 'SQL, DMY';
           alter role postgres in database capture_hard set intervalstyle = 'iso_8601';
           alter role postgres in database capture_hard set timezone = 'Asia/Tokyo';
           alter role postgres in database capture_hard set client_encoding = 'LATIN1'"#,
    )
    .await;
    let mut stream = Stream::temporary(&live).await.unwrap();
    let client = live.connect().await.unwrap();
    client.batch_execute("set search_path = public; set client_encoding = 'UTF8'").await.unwrap();
    client.batch_execute(HARD).await.unwrap();
    client.batch_execute(&format!("create schema x; create type x.y as (z int); {TYPES}")).await.unwrap();
    client
        .batch_execute(
            "do $$ declare t regclass; begin
                 for t in select c.oid from pg_class c join pg_namespace n on n.oid = relnamespace where relkind = 'r' and nspname in ('public', 'Büro') loop
                     execute format('alter table %s replica identity full', t);
                 end loop;
             end $$",
        )
        .await
        .unwrap();
    for sql in [
        r#"update "User" set n = n + 1000, raw = null where id % 3 = 0"#,
        r#"update "User" set id = id + 10000, mood = 'bad' where id % 50 = 0"#,
        r#"delete from "User" where id % 7 = 0"#,
        r#"update "Büro"."a ""b"" c" set "x;y" = null where "x;y" = 1"#,
        r#"delete from "Büro"."a ""b"" c" where "x;y" is null and "from" > 0.05"#,
        "insert into nothing default values; delete from nothing where ctid = '(0,1)'",
        "update part set at = '2027-01-01' where id = 3; update part set id = 99 where id = 20; delete from part where id = 5",
        "truncate empty, part_2",
        "insert into parent values (7, null); update child set c = null; update parent set b = '' where a = 7",
        "update dropped set c = null; insert into dropped values (null, null)",
        "update secret set v = null; insert into scratch values (1)",
        r#"update "types: [x]" set id = id + 10"#,
        r#"update "types: [x]" set f = '-Infinity', f4 = 'NaN', d = null, "select" = '()' where id = 11"#,
        r#"insert into "types: [x]" select (t).* from (select t from "types: [x]" t) t"#,
        "refresh materialized view counts",
        "create table again as select * from child",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let mut model = Model::default();
    let told = transactions(told(&mut stream, &live).await);
    let changes: Vec<&Change> = told.iter().flat_map(|told| &told.changes).collect();
    for change in &changes {
        model.apply(change);
    }

    let pinned = "set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set extra_float_digits = 3;
                  set bytea_output = 'hex'; set search_path = ''; set quote_all_identifiers = off";
    client.batch_execute(pinned).await.unwrap();
    let tables = client
        .query(
            "select n.nspname::text, c.relname::text from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = relnamespace
             where relkind = 'r' and relpersistence = 'p' and nspname !~ '^pg_' and nspname <> 'information_schema'",
            &[],
        )
        .await
        .unwrap();
    assert!(tables.len() >= 12);
    for table in &tables {
        let table = name(table.get(0), table.get(1));
        let mut told = model.0.remove(&table).unwrap_or_default();
        told.sort();
        assert_eq!(told, rows(&client, &table).await, "{table:?}");
    }
    // What a materialized view was made with is told by some servers, and what it is refreshed with by none.
    model.0.remove(&name("public", "counts"));
    assert!(model.0.is_empty(), "{:?}", model.0.keys());

    let types = changes.iter().find_map(|change| match change {
        Change::Insert { table, new } if table.name == "types: [x]" => Some(new),
        _ => None,
    });
    let named: Vec<_> = types.unwrap().columns.iter().map(|column| column.type_name.as_str()).collect();
    for wanted in [
        "integer",
        r#"public."Mood[]""#,
        r#"public."Mood[]"[]"#,
        "\"char\"",
        "bit varying",
        "timestamp with time zone",
        "x.y",
    ] {
        assert!(named.contains(&wanted), "{wanted}: {named:?}");
    }
}

#[tokio::test]
async fn transactions_are_told_whole_and_in_the_order_of_their_commits() {
    let Some((cluster, live)) = fresh("capture_order").await else { return };
    let [a, b, c] = [(); 3].map(|()| cluster.connect("capture_order"));
    let (a, b, c) = (a.await, b.await, c.await);
    a.batch_execute("create table t (id int)").await.unwrap();
    let mut stream = Stream::temporary(&live).await.unwrap();
    a.batch_execute("begin; insert into t values (1)").await.unwrap();
    let first = xid(&a).await;
    b.batch_execute("begin; insert into t values (2)").await.unwrap();
    let second = xid(&b).await;
    b.batch_execute("commit").await.unwrap();
    a.batch_execute(
        "savepoint s; insert into t values (3); rollback to s; savepoint u; insert into t values (4); release u",
    )
    .await
    .unwrap();
    c.batch_execute("begin; insert into t values (5)").await.unwrap();
    let third = xid(&c).await;
    a.batch_execute("insert into t values (6); commit").await.unwrap();
    b.batch_execute("begin; insert into t values (7); rollback").await.unwrap();
    c.batch_execute("prepare transaction 'order'").await.unwrap();
    b.batch_execute("begin; insert into t values (8)").await.unwrap();
    let fourth = xid(&b).await;
    b.batch_execute("commit").await.unwrap();
    c.batch_execute("commit prepared 'order'").await.unwrap();
    // What changes no table is no change; what comes by the same way as one is passed over.
    b.batch_execute("select pg_logical_emit_message(true, 'table a', 'x'), pg_logical_emit_message(false, 'BEGIN', E'\\\\xff00')")
        .await
        .unwrap();

    let told = transactions(told(&mut stream, &live).await);
    let ids = |told: &Told| told.changes.iter().map(|change| inserted(change).to_owned()).collect::<Vec<_>>();
    let order: Vec<_> = told.iter().map(|told| (told.xid, ids(told).join(" "))).collect();
    let wanted = [(second, "2"), (first, "1 4 6"), (fourth, "8"), (third, "5")];
    let wanted: Vec<_> = wanted.map(|(xid, ids)| (xid, ids.to_owned())).into_iter().collect();
    assert_eq!(order[..4], wanted);
    assert!(order[4..].iter().all(|(_, ids)| ids.is_empty()), "{order:?}");
}

#[tokio::test]
async fn names_are_those_of_their_moment() {
    let Some((_, live)) = fresh("capture_names").await else { return };
    let client = live.connect().await.unwrap();
    client.batch_execute("create table t (id int primary key, v text); create schema s").await.unwrap();
    let mut stream = Stream::temporary(&live).await.unwrap();
    client
        .batch_execute(
            "insert into t values (1, 'a');
             begin; insert into t values (2, 'b'); alter table t rename v to \"W\"; insert into t values (3, 'c');
             alter table t rename to u; alter table u set schema s; insert into s.u values (4, 'd');
             alter table s.u add n int default 5; alter table s.u alter id type text; update s.u set id = 'x' where id = '1';
             alter table s.u drop \"W\"; delete from s.u where id = '2'; commit",
        )
        .await
        .unwrap();
    client
        .batch_execute("truncate s.u; create table p (a int); truncate p, s.u restart identity cascade")
        .await
        .unwrap();
    let told = transactions(told(&mut stream, &live).await);
    let changes: Vec<&Change> = told.iter().flat_map(|told| &told.changes).collect();
    let columns = |tuple: &Tuple| {
        let written = |(column, value): (&Column, &Value)| match value {
            Value::Text(text) => format!("{} {} {text}", column.name, column.type_name),
            other => format!("{} {} {other:?}", column.name, column.type_name),
        };
        tuple.columns.iter().zip(&tuple.values).map(written).collect::<Vec<_>>().join(", ")
    };
    let written: Vec<String> = changes
        .iter()
        .map(|change| match change {
            Change::Insert { table, new } => format!("{}.{} + {}", table.schema, table.name, columns(new)),
            Change::Update { table, old, new } => {
                format!("{}.{} {:?} > {}", table.schema, table.name, old.as_ref().map(columns), columns(new))
            }
            Change::Delete { table, old } => {
                format!("{}.{} - {:?}", table.schema, table.name, old.as_ref().map(columns))
            }
            Change::Truncate { tables } => {
                let tables: Vec<_> = tables.iter().map(|t| format!("{}.{}", t.schema, t.name)).collect();
                format!("0 {}", tables.join(" "))
            }
        })
        .collect();
    assert_eq!(
        written,
        [
            "public.t + id integer 1, v text a",
            "public.t + id integer 2, v text b",
            "public.t + id integer 3, W text c",
            "s.u + id integer 4, W text d",
            r#"s.u Some("id text 1") > id text x, W text a, n integer 5"#,
            r#"s.u - Some("id text 2")"#,
            "0 s.u",
            "0 public.p s.u",
        ]
    );
}

#[tokio::test]
async fn a_large_value_that_was_not_touched_is_told_as_such() {
    let Some((_, live)) = fresh("capture_toast").await else { return };
    let client = live.connect().await.unwrap();
    client
        .batch_execute(
            "create table t (id int primary key, v text, n int); alter table t alter v set storage external;
             create table f (id int, v text, n int); alter table f alter v set storage external; alter table f replica identity full;
             create table k (id int, n int); create table large (v text)",
        )
        .await
        .unwrap();
    let mut stream = Stream::temporary(&live).await.unwrap();
    client
        .batch_execute(
            "insert into t values (1, repeat('x', 10000), 0); update t set n = 1; update t set v = v || 'y'; update t set id = 2;
             insert into f values (1, repeat('x', 10000), 0); update f set n = 1; insert into k values (1, 1); update k set n = 2; delete from k;
             insert into large values (repeat('ä', 15000000)), ('small')",
        )
        .await
        .unwrap();
    let told = transactions(told(&mut stream, &live).await);
    let changes: Vec<&Change> = told.iter().flat_map(|told| &told.changes).collect();
    let text = |text: &str| Value::Text(text.into());
    let long = "x".repeat(10_000);
    let updated = |at: usize| match changes[at] {
        Change::Update { old, new, .. } => (old.as_ref().map(|old| old.values.clone()), new.values.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(updated(1), (None, vec![text("1"), Value::Unchanged, text("1")]));
    assert_eq!(updated(2), (None, vec![text("1"), Value::Text(long.clone() + "y"), text("1")]));
    assert_eq!(updated(3), (Some(vec![text("1")]), vec![text("2"), Value::Unchanged, text("1")]));
    let whole = vec![text("1"), Value::Text(long), text("0")];
    assert_eq!(updated(5), (Some(whole), vec![text("1"), Value::Unchanged, text("1")]));
    // A table without a key tells what came, and not of which row.
    assert_eq!(updated(7), (None, vec![text("1"), text("2")]));
    assert!(matches!(changes[8], Change::Delete { old: None, .. }));
    assert!(inserted(changes[9]).len() == 30_000_000 && inserted(changes[10]) == "small");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_waits_for_a_slow_reader_and_is_told_once() {
    const ROWS: usize = 200_000;
    let Some((cluster, _)) = fresh("capture_large").await else { return };
    // The server would give up on a reader that is silent for so long.
    let url = format!("{}?options=-c%20wal_sender_timeout%3D3s", cluster.url("capture_large"));
    let live = Database::parse(&piton_exec::Secret::from(url)).unwrap();
    run(&live, "create table t (id int primary key, v text, n numeric)").await;
    let mut stream = Stream::temporary(&live).await.unwrap();
    run(&live, &format!("insert into t select i, 'row ' || i, i / 7.0 from generate_series(1, {ROWS}) i"))
        .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = Instant::now();
    let (mut next, mut shape, mut given_up) = (0, None, 0);
    loop {
        let message = tokio::select! {
            biased;
            message = stream.next() => message.unwrap(),
            // Given up again and again, it loses nothing.
            () = tokio::task::yield_now() => {
                given_up += 1;
                continue;
            }
        };
        match message {
            Message::Change { change: Change::Insert { new, .. }, .. } => {
                next += 1;
                assert_eq!(new.values[0], Value::Text(next.to_string()));
                let shape: &Arc<[Column]> = shape.get_or_insert_with(|| new.columns.clone());
                assert!(Arc::ptr_eq(shape, &new.columns));
            }
            Message::Commit { .. } if next == ROWS => break,
            _ => {}
        }
    }
    assert!(given_up > 0);
    println!("{:.0} rows a second", ROWS as f64 / began.elapsed().as_secs_f64());
}

#[tokio::test]
async fn a_stream_that_keeps_nothing_leaves_nothing() {
    let Some((_, live)) = fresh("capture_temporary").await else { return };
    run(&live, "create table t (id int)").await;
    let client = live.connect().await.unwrap();
    let slots = "select count(*) from pg_replication_slots where database = current_database()";
    let mut one = Stream::temporary(&live).await.unwrap();
    let mut other = Stream::temporary(&live).await.unwrap();
    assert_eq!(number(&client, slots).await, 2);
    run(&live, "insert into t values (1)").await;
    assert_eq!(told(&mut one, &live).await, told(&mut other, &live).await);
    drop(one);
    eventually("the first slot goes", async || number(&client, slots).await == 1).await;
    run(&live, "insert into t values (2)").await;
    assert_eq!(transactions(told(&mut other, &live).await).len(), 1);
    drop(other);
    eventually("the other slot goes", async || number(&client, slots).await == 0).await;
}
