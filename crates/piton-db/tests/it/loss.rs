//! What would leave with a live database, against what the two hold.

use std::collections::{BTreeMap, BTreeSet};

use piton_db::Database;
use piton_db::changes::Presence;
use piton_db::loss::{Look, Loss, TableLoss, look, move_sequences};
use piton_db::migrate::RecordTables;
use serde_json::Value;

use crate::{HARD, database, fresh, number, quiet, run};

/// Makes a database with these contents, and its copy.
async fn pair(name: &str, contents: &str) -> Option<(Database, Database)> {
    let (cluster, live) = fresh(name).await?;
    run(&live, contents).await;
    Some((copy_of(cluster, &live).await, live))
}

async fn copy_of(cluster: &piton_testkit::postgres::Cluster, live: &Database) -> Database {
    let older = database(cluster, &format!("{}_older", live.dbname));
    let postgres = cluster.connect("postgres").await;
    let copy = format!("create database {} template {}", older.dbname, live.dbname);
    piton_testkit::postgres::eventually("nobody is on it", async || {
        postgres.batch_execute(&copy).await.is_ok()
    })
    .await;
    older
}

async fn looked(older: &Database, live: &Database, folder: &std::path::Path, before: Option<&Look>) -> Look {
    look(older, live, &RecordTables::default(), Some(folder), before, &mut quiet).await.unwrap()
}

/// Writes the rows of a look down and reads them: each as its table, its kind, its key and its values.
async fn rows_of(look: Look, folder: &std::path::Path) -> Vec<Value> {
    let file = folder.join("rows.jsonl");
    let exported = look.export(&file).await.unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(exported.bytes, text.len() as u64);
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let head = lines.next().unwrap();
    assert_eq!((head["format"].as_u64(), head["rows"].as_u64()), (Some(1), Some(exported.rows)));
    lines.collect()
}

fn table(name: &str, presence: Presence, [inserted, changed, deleted]: [u64; 3]) -> TableLoss {
    TableLoss { table: name.to_owned(), presence, inserted, changed, deleted }
}

#[tokio::test]
async fn every_kind_of_write_is_counted_and_written_down() {
    let Some((older, live)) = pair("loss_hard", HARD).await else { return };
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(looked(&older, &live, folder.path(), None).await.loss, Loss::default());
    run(
        &live,
        r#"insert into "User" (email, n) values (E'new\t\\"\n', 7), (E'\u00e4', 8);
           update "User" set status = 'b' where id in (3, 4); delete from "User" where id = 5;
           update "User" set status = status where id = 6; -- a trigger writes
           insert into "Büro"."a ""b"" c" values (null, null), (null, null), (1, 0.5); -- in the place of one that goes
           delete from "Büro"."a ""b"" c" where ctid = (select min(ctid) from "Büro"."a ""b"" c" where "from" = 0.5) or "from" = 0.1;
           insert into nothing default values;
           update part set at = '2026-03-01' where id = 2;
           insert into child values (5, 'child', 6); insert into parent values (5, 'parent');
           alter table empty add b text; insert into empty values (1, 'in b'), (2, null);
           create table made (id bigint primary key, v text); insert into made values (-7, 'x'), (3, null);
           drop table dropped cascade;
           select lo_from_bytea(4711, 'more');"#,
    )
    .await;
    let look = looked(&older, &live, folder.path(), None).await;
    let wanted = [
        table(r#""Büro"."a ""b"" c""#, Presence::Both, [2, 0, 1]),
        table(r#""public"."User""#, Presence::Both, [2, 3, 1]),
        table(r#""public"."child""#, Presence::Both, [1, 0, 0]),
        table(r#""public"."dropped""#, Presence::Golden, [0, 0, 1]),
        table(r#""public"."empty""#, Presence::Both, [2, 0, 0]),
        table(r#""public"."made""#, Presence::Live, [2, 0, 0]),
        table(r#""public"."nothing""#, Presence::Both, [1, 0, 0]),
        table(r#""public"."parent""#, Presence::Both, [1, 0, 0]),
        table(r#""public"."part_1""#, Presence::Both, [0, 0, 1]),
        table(r#""public"."part_2""#, Presence::Both, [1, 0, 0]),
    ];
    assert_eq!(look.loss.tables, wanted);
    assert_eq!(look.loss.large_objects, 1);
    let objects = &look.loss.objects;
    assert!(objects.contains(&"table public.made goes".to_owned()), "{objects:?}");
    assert!(objects.contains(&"table public.dropped comes back".to_owned()), "{objects:?}");
    assert!(objects.contains(&"column public.empty.b goes".to_owned()), "{objects:?}");
    assert_eq!(look.loss.total(), 19 + 1 + objects.len() as u64);

    let rows = rows_of(look, folder.path()).await;
    // Of a table that is dropped the rows are in the older one alone.
    assert_eq!(rows.len(), 18);
    let of = |table: &str, kind: &str| -> Vec<&Value> {
        rows.iter().filter(|row| row["table"] == table && row["kind"] == kind).collect()
    };
    let [new, other] = of("User", "row")[..] else { panic!("{rows:#?}") };
    assert_eq!(new["key"], serde_json::json!({ "id": "501" }));
    assert_eq!((&new["values"]["email"], &new["values"]["twice"]), (&"new\t\\\"\n".into(), &Value::Null));
    assert_eq!((&other["values"]["email"], &other["values"]["price"]), (&"ä".into(), &Value::Null));
    assert_eq!(of("User", "changed")[1]["values"]["status"], "b");
    assert_eq!(of("User", "deleted")[0]["values"]["email"], "u5\t\n\\ä");
    let gone = of("a \"b\" c", "row");
    assert_eq!(
        (gone.len(), &gone[0]["schema"], &gone[0]["key"]),
        (2, &"Büro".into(), &serde_json::json!({}))
    );
    assert_eq!(of("empty", "row")[0]["values"], serde_json::json!({ "a": "1", "b": "in b" }));

    // A later release can have them: what is not there goes in, nothing is overwritten.
    run(&older, "create table made (id bigint primary key, v text)").await;
    let loaded = crate::rescue::load(&older, &folder.path().join("rows.jsonl")).await.loaded;
    assert_eq!((loaded.loaded, loaded.there), (10, 0), "{:?}", loaded.left);
    assert_eq!(loaded.left.len(), 8);
    let client = older.connect().await.unwrap();
    assert_eq!(number(&client, "select sum(id)::bigint from made").await, -4);
    assert_eq!(number(&client, "select count(*) from \"User\" where status = 'b'").await, 0);
}

#[tokio::test]
async fn a_value_of_a_new_column_is_lost_with_it() {
    let tables = "create table keyed (id int primary key, a text); insert into keyed select n, 'a' from generate_series(1, 9) n;
                  create table bare (a text); insert into bare select 'a' from generate_series(1, 9) n;
                  create table none (); insert into none default values";
    let Some((older, live)) = pair("loss_columns", tables).await else { return };
    let folder = tempfile::tempdir().unwrap();
    run(
        &live,
        "alter table keyed add b int, add c int; update keyed set b = 1 where id = 2; update keyed set c = 1, a = 'b' where id = 3;
         alter table bare add b int; update bare set b = 4 where ctid in (select ctid from bare limit 3);
         alter table none add b int default 6, add c int",
    )
    .await;
    let look = looked(&older, &live, folder.path(), None).await;
    let wanted = [
        table(r#""public"."bare""#, Presence::Both, [0, 3, 0]),
        table(r#""public"."keyed""#, Presence::Both, [0, 2, 0]),
        table(r#""public"."none""#, Presence::Both, [0, 1, 0]),
    ];
    assert_eq!(look.loss.tables, wanted);
    let rows = rows_of(look, folder.path()).await;
    let told = rows.iter().map(|row| (row["kind"].as_str().unwrap(), row["values"].to_string()));
    let wanted = [
        ("new-columns", r#"{"b":"4"}"#),
        ("new-columns", r#"{"b":"4"}"#),
        ("new-columns", r#"{"b":"4"}"#),
        ("new-columns", r#"{"b":"1","c":null}"#),
        ("changed", r#"{"a":"b","b":null,"c":"1","id":"3"}"#),
        ("new-columns", r#"{"b":"6","c":null}"#),
    ];
    assert_eq!(told.collect::<Vec<_>>(), wanted.map(|(kind, values)| (kind, values.to_owned())));
}

#[tokio::test]
async fn sequences_are_moved_on_and_never_back() {
    let sequences = "create sequence up; create sequence down increment -2 maxvalue 10 start 10; create sequence \"Ahead\";
                     create sequence unused; create sequence round maxvalue 3 cycle; select nextval('up'), nextval('down'), nextval('round')";
    let Some((older, live)) = pair("loss_sequences", sequences).await else { return };
    run(&live, "select nextval('up'), nextval('up'), nextval('down'), setval('round', 3); create sequence mine; select nextval('mine')")
        .await;
    run(&older, "select setval('\"Ahead\"', 70)").await;
    run(&live, "select setval('\"Ahead\"', 7)").await;
    move_sequences(&older, &live).await.unwrap();
    let client = older.connect().await.unwrap();
    for (next, value) in [("up", 4), ("down", 6), ("\"Ahead\"", 71), ("unused", 1), ("round", 1)] {
        assert_eq!(number(&client, &format!("select nextval('{next}')")).await, value, "{next}");
    }
}

/// A small generator of numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }

    /// Writes at random into all tables.
    async fn write(&mut self, live: &Database, times: u64) {
        let texts = ["a", "A", "ab", "a b", "", "\u{e4}", "z", "\u{df}", "\\", "\t", "0", "00", "-1"];
        let mut sql = String::new();
        for _ in 0..times {
            let text = texts[usize::try_from(self.below(texts.len() as u64)).unwrap()];
            let (number, other) = (self.below(40).cast_signed() - 20, self.below(5));
            let key = format!("b = '{text}' and a = {number}");
            sql.push_str(&match self.below(6) {
                0 => format!("delete from pairs where {key};"),
                1 => format!("update pairs set v = {other} where {key};"),
                2 => format!("insert into bare values ('{text}', {other}, null);"),
                3 => format!("delete from bare where ctid = (select ctid from bare where a = '{text}' limit 1);"),
                4 => format!("insert into ids values ({number}, '{text}') on conflict (id) do update set v = excluded.v;"),
                _ => format!("insert into pairs values ({number}, '{text}', {other}) on conflict do nothing;"),
            });
        }
        run(live, &sql).await;
    }
}

/// Reads a table: how often each row is there, by its key.
async fn contents(database: &Database, sql: &str) -> BTreeMap<(String, String), u64> {
    let rows = database.connect().await.unwrap().query(sql, &[]).await.unwrap();
    let mut contents = BTreeMap::new();
    for row in &rows {
        *contents.entry((row.get(0), row.get(1))).or_default() += 1;
    }
    contents
}

/// Counts by hand.
async fn oracle(older: &Database, live: &Database) -> Vec<TableLoss> {
    let mut losses = Vec::new();
    for (name, sql) in [
        ("bare", "select t::text, '' from bare t"),
        ("ids", "select id::text, t::text from ids t"),
        ("pairs", "select a || ' ' || b, t::text from pairs t"),
    ] {
        let (was, is) = (contents(older, sql).await, contents(live, sql).await);
        let keys = |rows: &BTreeMap<(String, String), u64>| -> BTreeSet<String> {
            rows.keys().map(|(key, _)| key.clone()).collect()
        };
        let more = |these: &BTreeMap<(String, String), u64>,
                    those: &BTreeMap<(String, String), u64>|
         -> u64 {
            let surplus = these.iter().map(|(row, n)| n.saturating_sub(those.get(row).copied().unwrap_or(0)));
            surplus.sum()
        };
        let (only_was, only_is) = (more(&was, &is), more(&is, &was));
        let counts = match name {
            "bare" => [only_is, 0, only_was],
            _ => {
                let (old, new) = (keys(&was), keys(&is));
                let inserted = new.difference(&old).count() as u64;
                [inserted, only_is - inserted, old.difference(&new).count() as u64]
            }
        };
        losses.push(table(&format!("\"public\".\"{name}\""), Presence::Both, counts));
    }
    losses.retain(|loss| loss.inserted + loss.changed + loss.deleted > 0);
    losses
}

/// Tables of a key of two columns, of a number and of none, in databases that order their texts otherwise than here.
#[tokio::test]
async fn what_is_written_at_random_is_counted_as_by_hand() {
    let Some(cluster) = piton_testkit::postgres::Cluster::shared() else { return };
    let postgres = cluster.connect("postgres").await;
    let mut dice = Dice(piton_testkit::turns::seed());
    for (number, encoding) in ["UTF8", "LATIN1", "KOI8R"].into_iter().enumerate() {
        let live = database(cluster, &format!("loss_random_{number}"));
        let create =
            format!("create database {} template template0 encoding {encoding} locale 'C'", live.dbname);
        postgres.batch_execute(&create).await.unwrap();
        let tables = "create table pairs (a int, b text, v int, primary key (b, a)); create table ids (id bigint primary key, v text);
                      create table bare (a text, b int, c text)";
        run(&live, tables).await;
        if encoding == "KOI8R" {
            russian(&live).await;
            continue;
        }
        dice.write(&live, 300).await;
        let older = copy_of(cluster, &live).await;
        let folder = tempfile::tempdir().unwrap();
        dice.write(&live, 120).await;
        let first = looked(&older, &live, folder.path(), None).await;
        assert_eq!(first.loss.tables, oracle(&older, &live).await);
        // To some tables nobody writes between two looks; in one rows are changed and none goes, then one goes and none is changed.
        let alone = ["update ids set v = v || '!'", "delete from ids where id = (select max(id) from ids)"];
        for sql in alone.map(Some).into_iter().chain([None]) {
            match sql {
                Some(sql) => run(&live, sql).await,
                None => dice.write(&live, 3).await,
            }
            let again = looked(&older, &live, folder.path(), Some(&first)).await;
            let anew = looked(&older, &live, folder.path(), None).await;
            assert_eq!(again.loss.tables, oracle(&older, &live).await);
            assert_eq!(again.loss, anew.loss);
            assert_eq!(rows_of(again, folder.path()).await, rows_of(anew, folder.path()).await);
        }
    }
}

/// The letters of KOI8-R have another order than Unicode's.
async fn russian(live: &Database) {
    let letters = "юабцдефгхийклмнопярстужвьызшэщчъ";
    run(live, &format!("insert into pairs select n, l, 0 from regexp_split_to_table('{letters}', '') l, generate_series(-2, 2) n"))
        .await;
    let cluster = piton_testkit::postgres::Cluster::shared().unwrap();
    let older = copy_of(cluster, live).await;
    run(live, "delete from pairs where b in ('ю', 'ж'); update pairs set v = 1 where b in ('а', 'ъ')").await;
    let folder = tempfile::tempdir().unwrap();
    let found = looked(&older, live, folder.path(), None).await;
    assert_eq!(found.loss.tables, [table("\"public\".\"pairs\"", Presence::Both, [0, 10, 10])]);
}
