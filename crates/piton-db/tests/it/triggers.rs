//! Noting what is written to a live database by triggers, where its log cannot be read.

mod installed;
mod values;

use std::time::Duration;

use piton_db::Database;
use piton_db::capture::triggers::{Store, give_up, install, now, remove, state};
use piton_db::capture::{Change, Lsn, Message, Tuple, Value};
use piton_testkit::postgres::{Cluster, Options, StopMode, eventually};

use crate::{database, fresh, number, run};

/// Room enough for every test, in bytes of the log.
const ROOM: u64 = 1 << 30;

/// Makes a database whose writes are noted.
async fn noted(name: &str, setup: &str) -> Option<(&'static Cluster, Database)> {
    let (cluster, live) = fresh(name).await?;
    run(&live, setup).await;
    install(&live, ROOM).await.unwrap();
    Some((cluster, live))
}

/// A transaction as it was told.
#[derive(Debug)]
struct Told {
    own: bool,
    changes: Vec<Change>,
    end: Lsn,
}

/// Reads all that is committed by now, from a place on.
async fn told_from(live: &Database, from: Lsn) -> Vec<Told> {
    let wanted = now(&live.connect().await.unwrap()).await.unwrap();
    let mut store = Store::open(live, from).await.unwrap();
    let (mut told, mut open) = (Vec::<Told>::new(), None);
    let read = async {
        loop {
            match store.next().await.unwrap() {
                Message::Begin { xid, own } => {
                    assert!(open.is_none(), "{xid} begins within another one");
                    open = Some((xid, own, Vec::new()));
                }
                Message::Change { change, lsn } => {
                    assert!(lsn > Lsn::default());
                    open.as_mut().unwrap().2.push(change);
                }
                Message::Commit { xid, end } => {
                    let (begun, own, changes) = open.take().unwrap();
                    assert_eq!(begun, xid);
                    assert!(told.last().is_none_or(|last| last.end < end));
                    told.push(Told { own, changes, end });
                }
                Message::UpTo(place) if place >= wanted => return,
                Message::UpTo(_) => assert!(open.is_none()),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.unwrap();
    told
}

/// Returns what was told, in words: `+ t (1,a)`, `- t (1)`, `~ t (1,b)`, `~ t (1) > (2,b)`, `0 t`.
async fn words(live: &Database) -> Vec<String> {
    let told = told_from(live, Lsn::default()).await;
    told.iter().flat_map(|told| &told.changes).map(word).collect()
}

fn word(change: &Change) -> String {
    match change {
        Change::Insert { table, new } => format!("+ {} {}", table.name, row(new)),
        Change::Update { table, old: None, new } => format!("~ {} {}", table.name, row(new)),
        Change::Update { table, old: Some(old), new } => {
            format!("~ {} {} > {}", table.name, row(old), row(new))
        }
        Change::Delete { table, old } => format!("- {} {}", table.name, row(old.as_ref().unwrap())),
        Change::Truncate { tables } => {
            let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
            format!("0 {}", names.join(" "))
        }
    }
}

fn row(tuple: &Tuple) -> String {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::Text(text) => text.clone(),
        Value::Unchanged => "?".to_owned(),
    };
    format!("({})", tuple.values.iter().map(text).collect::<Vec<_>>().join(","))
}

fn columns(change: &Change) -> Vec<String> {
    match change {
        Change::Insert { new, .. } | Change::Update { new, .. } => {
            new.columns.iter().map(|column| format!("{} {}", column.name, column.type_name)).collect()
        }
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn rows_are_told_as_the_log_would_tell_them() {
    let setup = "create table t (id int primary key, name text); create table free (a int, b text);
                 create table \"Odd \"\"one\" (\"x y\" int primary key); create table whole (id int primary key, v int);
                 alter table whole replica identity full";
    let Some((_, live)) = noted("triggers_rows", setup).await else { return };
    run(&live, "insert into t values (1, 'a,\"b'), (2, null); update t set name = 'c' where id = 1; update t set id = 3 where id = 2").await;
    run(&live, "delete from t; insert into free values (1, ''); update free set b = 'x'; delete from free")
        .await;
    run(&live, "insert into \"Odd \"\"one\" values (1); truncate t, free; insert into whole values (1, 1); update whole set v = 2").await;
    let wanted = [
        "+ t (1,a,\"b)",
        "+ t (2,)",
        "~ t (1,c)",
        "~ t (2) > (3,)",
        "- t (1)",
        "- t (3)",
        "+ free (1,)",
        "~ free (1,) > (1,x)",
        "- free (1,x)",
        "+ Odd \"one (1)",
        "0 t free",
        "+ whole (1,1)",
        "~ whole (1,1) > (1,2)",
    ];
    assert_eq!(words(&live).await, wanted);
}

#[tokio::test]
async fn what_an_apps_trigger_does_to_a_row_of_the_same_statement_comes_after_it() {
    let setup = "create table t (id int primary key, n int);
        create function next() returns trigger language plpgsql as $$ begin
            update t set n = n + 1 where id = new.id + 1; return null; end $$;
        create trigger a_first after insert or update of id on t for each row execute function next();
        create table free (a int, b int);
        create function free() returns trigger language plpgsql as $$ begin
            if new.b < 10 then update free set b = b + 10 where a = new.a + 1; end if; return null; end $$;
        create trigger a_first after update on free for each row execute function free()";
    let Some((_, live)) = noted("triggers_same_statement", setup).await else { return };
    run(&live, "insert into t values (1, 0), (2, 0), (3, 0)").await;
    assert_eq!(words(&live).await, ["+ t (1,0)", "+ t (2,0)", "~ t (2,1)", "+ t (3,0)", "~ t (3,1)"]);
    run(&live, "insert into free values (1, 0), (2, 0)").await;
    run(&live, "update free set b = b + 1").await;
    let words = words(&live).await;
    assert_eq!(words[7..], ["~ free (1,0) > (1,1)", "~ free (2,0) > (2,1)", "~ free (2,1) > (2,11)"]);
}

#[tokio::test]
async fn a_row_has_the_columns_that_its_table_had_then() {
    let setup = "create table t (id int primary key, a text, b text)";
    let Some((_, live)) = noted("triggers_layouts", setup).await else { return };
    let late = live.connect().await.unwrap();
    run(&live, "insert into t values (1, 'a', 'b')").await;
    // The same statement, planned before.
    let update = late.prepare("update t set id = id + 100 where id = 1").await.unwrap();
    late.batch_execute("begin isolation level repeatable read; select count(*) from pg_class").await.unwrap();
    run(
        &live,
        "begin; insert into t values (2, 'a', 'b'); alter table t rename a to a_old; alter table t rename b to a;
         alter table t drop a_old; alter table t add c int default 7; insert into t values (3, 'b', 1); commit",
    )
    .await;
    late.execute(&update, &[]).await.unwrap();
    late.batch_execute("insert into t values (4, 'b', 2); commit").await.unwrap();
    let told = told_from(&live, Lsn::default()).await;
    let changes: Vec<&Change> = told.iter().flat_map(|told| &told.changes).collect();
    let words: Vec<String> = changes.iter().map(|change| word(change)).collect();
    assert_eq!(words, ["+ t (1,a,b)", "+ t (2,a,b)", "+ t (3,b,1)", "~ t (1) > (101,b,7)", "+ t (4,b,2)"]);
    let (before, after) = (["id integer", "a text", "b text"], ["id integer", "a text", "c integer"]);
    let columns: Vec<Vec<String>> = changes.iter().map(|change| columns(change)).collect();
    assert_eq!(columns, [before, before, after, after, after]);
}

/// Types change their names and schemas theirs without a lock on any table.
#[tokio::test]
async fn names_are_those_of_the_moment() {
    let setup = "create schema s; create type s.mood as enum ('good'); create table s.t (id int primary key, m s.mood);
                 create type s.pair as (a int); create table s.pairs (id int primary key, p s.pair)";
    let Some((_, live)) = noted("triggers_names", setup).await else { return };
    run(&live, "insert into s.t values (1, 'good')").await;
    run(&live, "alter type s.mood rename to humour; insert into s.t values (2, 'good')").await;
    run(&live, "alter schema s rename to \"S 2\"; insert into \"S 2\".t values (3, 'good')").await;
    run(
        &live,
        "alter type \"S 2\".pair add attribute at timestamptz cascade; set timezone = 'Asia/Tokyo';
                insert into \"S 2\".pairs values (1, row(1, '2026-01-01 00:00+00'))",
    )
    .await;
    run(&live, "alter table \"S 2\".t rename to u; insert into \"S 2\".u values (4, 'good')").await;
    let told = told_from(&live, Lsn::default()).await;
    let rows: Vec<String> = told
        .iter()
        .flat_map(|told| &told.changes)
        .map(|change| {
            let Change::Insert { table, .. } = change else { panic!("{change:?}") };
            format!("{}.{} {}", table.schema, word(change), columns(change)[1])
        })
        .collect();
    let wanted = [
        "s.+ t (1,good) m s.mood",
        "s.+ t (2,good) m s.humour",
        "S 2.+ t (3,good) m \"S 2\".humour",
        "S 2.+ pairs (1,(1,\"2026-01-01 00:00:00+00\")) p \"S 2\".pair",
        "S 2.+ u (4,good) m \"S 2\".humour",
    ];
    assert_eq!(rows, wanted);
}

#[tokio::test]
async fn a_table_that_is_made_or_made_anew_is_noted_from_its_first_row() {
    let setup = "create table t (id int primary key, v int); insert into t values (1, 1);
                 create table p (id int, v int) partition by range (id); create table p1 partition of p for values from (0) to (10)";
    let Some((_, live)) = noted("triggers_anew", setup).await else { return };
    run(
        &live,
        "begin; create table t_new (id bigint primary key, v int); insert into t_new select * from t; drop table t;
         alter table t_new rename to t; commit; insert into t values (2, 2)",
    )
    .await;
    run(&live, "create table as_query as select 1 a; insert into as_query values (2); select 1 a into into_query; insert into into_query values (3)").await;
    // One that is attached is there already, and has its own trigger.
    run(
        &live,
        "create table p2 (v int, id int); alter table p attach partition p2 for values from (10) to (20);
         create table p3 partition of p default; insert into p values (1, 1), (11, 2), (21, 3); update p set id = 12 where id = 1;
         alter table p add w text; insert into p values (2, 4, 'w'); alter table p detach partition p2; insert into p2 values (9, 9, 'x')",
    )
    .await;
    run(&live, "create temp table temp_one (a int); insert into temp_one values (1); create unlogged table loose (a int); insert into loose values (1)").await;
    let wanted = [
        "+ t_new (1,1)",
        "+ t (2,2)",
        "+ as_query (2)",
        "+ into_query (3)",
        "+ p1 (1,1)",
        "+ p2 (2,11)",
        "+ p3 (21,3)",
        "- p1 (1,1)",
        "+ p2 (1,12)",
        "+ p1 (2,4,w)",
        "+ p2 (9,9,x)",
    ];
    assert_eq!(words(&live).await, wanted);
}

#[tokio::test]
async fn nothing_that_a_session_sets_or_switches_off_hides_a_write() {
    let setup = "create table t (id int primary key); create table c (id int primary key)";
    let Some((_, live)) = noted("triggers_off", setup).await else { return };
    run(&live, "set session_replication_role = replica; insert into t values (1); create table r (a int); insert into r values (1)").await;
    run(&live, "alter table t disable trigger all; insert into t values (2); alter table t enable trigger all; set session_replication_role = replica; insert into t values (3)").await;
    run(&live, "drop trigger \"!piton_capture_row\" on t; insert into t values (4); alter table t disable trigger user; truncate t").await;
    assert_eq!(words(&live).await, ["+ t (1)", "+ r (1)", "+ t (2)", "+ t (3)", "+ t (4)", "0 t"]);
}

#[tokio::test]
async fn a_migrations_sessions_are_known_by_their_setting() {
    let setup = "create table t (id int primary key)";
    let Some((_, live)) = noted("triggers_own", setup).await else { return };
    run(&live, "set piton.migrating = on; begin; savepoint a; insert into t values (1); commit").await;
    run(&live, "insert into t values (2); set piton.migrating = off; insert into t values (3); reset all; insert into t values (4)").await;
    let own: Vec<bool> = told_from(&live, Lsn::default()).await.iter().map(|told| told.own).collect();
    assert_eq!(own, [true, false]);
}

/// A transaction may have taken a low number and be visible late; one of its savepoints' numbers is in no snapshot.
#[tokio::test]
async fn what_becomes_visible_late_is_told_then_and_once() {
    let setup = "create table t (id int primary key)";
    let Some((_, live)) = noted("triggers_late", setup).await else { return };
    let slow = live.connect().await.unwrap();
    slow.batch_execute("begin; insert into t values (1); savepoint a; insert into t values (2); release a; savepoint b; insert into t values (3)").await.unwrap();
    run(&live, "insert into t values (10)").await;
    let first = told_from(&live, Lsn::default()).await;
    assert_eq!(first.iter().map(|told| told.changes.len()).collect::<Vec<_>>(), [1]);
    let place = now(&live.connect().await.unwrap()).await.unwrap();
    run(&live, "insert into t values (11)").await;
    slow.batch_execute("rollback to b; insert into t values (4); commit").await.unwrap();
    let words: Vec<String> =
        told_from(&live, place).await.iter().flat_map(|told| &told.changes).map(word).collect();
    assert_eq!(words, ["+ t (11)", "+ t (1)", "+ t (2)", "+ t (4)"]);
}

/// Of transactions that have waited for each other, the later one comes later, whatever their numbers.
#[tokio::test]
async fn who_has_waited_comes_later() {
    let setup = "create table t (id int primary key, n int); insert into t values (1, 0), (2, 0)";
    let Some((_, live)) = noted("triggers_waited", setup).await else { return };
    let (first, second) = (live.connect().await.unwrap(), live.connect().await.unwrap());
    // The one with the lower number writes last.
    first.batch_execute("begin; update t set n = 1 where id = 1").await.unwrap();
    second.batch_execute("begin; update t set n = 10 where id = 2; commit").await.unwrap();
    first.batch_execute("update t set n = 11 where id = 2; commit").await.unwrap();
    run(&live, "delete from t where id = 1").await;
    run(&live, "insert into t values (1, 5)").await;
    assert_eq!(words(&live).await, ["~ t (2,10)", "~ t (1,1)", "~ t (2,11)", "- t (1)", "+ t (1,5)"]);
}

#[tokio::test]
async fn a_store_goes_on_from_each_place_that_it_has_told() {
    let setup = "create table t (id int primary key)";
    let Some((_, live)) = noted("triggers_places", setup).await else { return };
    for window in 0..4 {
        for id in 0..3 {
            run(&live, &format!("insert into t values ({window}{id})")).await;
        }
        now(&live.connect().await.unwrap()).await.unwrap();
    }
    let all = told_from(&live, Lsn::default()).await;
    assert_eq!(all.len(), 12);
    let said = |told: &[Told]| told.iter().flat_map(|told| &told.changes).map(word).collect::<Vec<_>>();
    for at in 0..all.len() {
        assert_eq!(said(&told_from(&live, all[at].end).await), said(&all[at + 1..]), "{at}");
    }
}

/// What the app may not do itself, the trigger does; and nobody gets more rights by it.
#[tokio::test]
async fn a_user_without_rights_is_noted_and_gets_none() {
    let setup = "create table t (id int primary key, owner text); alter table t enable row level security; alter table t force row level security;
        create policy own on t using (true) with check (true);
        create schema evil; drop role if exists triggers_app; create role triggers_app login; grant usage, create on schema evil to triggers_app;
        grant select, insert, update, delete on t to triggers_app";
    let Some((cluster, live)) = noted("triggers_rights", setup).await else { return };
    let app =
        Database::parse(&piton_exec::Secret::from(cluster.url_as("triggers_app", "", &live.dbname))).unwrap();
    run(
        &app,
        "create function evil.eq(text, text) returns bool language plpgsql as $$ begin raise exception 'run as %', current_user; end $$;
         create operator evil.= (leftarg = text, rightarg = text, function = evil.eq);
         create operator evil.~~ (leftarg = text, rightarg = text, function = evil.eq);
         create function evil.lt(pg_lsn, pg_lsn) returns bool language plpgsql as $$ begin raise exception 'run as %', current_user; end $$;
         create operator evil.< (leftarg = pg_lsn, rightarg = pg_lsn, function = evil.lt);
         create function evil.current_setting(text, bool) returns text language sql as $$ select 'on' $$;
         create type evil.text as enum ('a');
         set search_path = evil, pg_temp, public, pg_catalog; insert into t values (1, 'x'); update t set id = 2; delete from t;
         create table evil.made (id int primary key); insert into evil.made values (1); truncate evil.made",
    )
    .await;
    assert_eq!(words(&live).await, ["+ t (1,x)", "~ t (1) > (2,x)", "- t (2)", "+ made (1)", "0 made"]);
    let refused = app.connect().await.unwrap().batch_execute("select * from piton_capture.change").await;
    assert!(refused.is_err());
    run(
        &live,
        "drop schema evil cascade; drop policy own on t; drop owned by triggers_app; drop role triggers_app",
    )
    .await;
}

#[tokio::test]
async fn a_crash_loses_nothing_that_was_committed() {
    let options = Options { fsync: true, ..Options::default() };
    let Some(cluster) = Cluster::start_with(options) else { return };
    cluster.create_database("crash").await;
    let live = database(&cluster, "crash");
    run(&live, "create table t (id int primary key)").await;
    install(&live, ROOM).await.unwrap();
    run(&live, "insert into t values (1)").await;
    run(&live, "insert into t values (2)").await;
    cluster.stop(StopMode::Immediate).unwrap();
    cluster.start_again().unwrap();
    eventually("it is back", async || live.connect().await.is_ok()).await;
    run(&live, "insert into t values (3)").await;
    assert_eq!(words(&live).await, ["+ t (1)", "+ t (2)", "+ t (3)"]);
}

#[tokio::test]
async fn a_store_without_room_ends_the_way_back_and_fails_nobody() {
    // The log is the whole server's.
    let Some(cluster) = Cluster::start() else { return };
    let live = database(&cluster, "postgres");
    run(&live, "create table t (id int primary key, v text)").await;
    install(&live, 2_000_000).await.unwrap();
    let client = live.connect().await.unwrap();
    now(&client).await.unwrap();
    for _ in 0..40 {
        run(&live, "truncate t; insert into t select i, repeat('x', 100) from generate_series(1, 1000) i")
            .await;
    }
    let said = now(&client).await.unwrap_err().to_string();
    assert!(said.contains("more was written than"), "{said}");
    let bytes = state(&live).await.unwrap().unwrap().bytes;
    assert!(bytes < 4_000_000, "{bytes}");
    remove(&live).await.unwrap();
    assert_eq!(number(&client, "select count(*) from t").await, 1000);
}

#[tokio::test]
async fn a_store_that_is_given_up_notes_nothing_more_and_waits_for_nobody() {
    let setup = "create table t (id int primary key); create table u (id int primary key)";
    let Some((_, live)) = noted("triggers_given_up", setup).await else { return };
    let migration = live.connect().await.unwrap();
    migration.batch_execute("begin; alter table u add v int").await.unwrap();
    give_up(&live, "there was no room").await.unwrap();
    run(&live, "insert into t values (1)").await;
    migration.batch_execute("commit").await.unwrap();
    let client = live.connect().await.unwrap();
    assert_eq!(number(&client, "select count(*) from piton_capture.change").await, 0);
    assert!(now(&client).await.unwrap_err().to_string().contains("there was no room"));
}

/// What was confirmed goes; the bound moves on while somebody reads.
#[tokio::test]
async fn a_store_that_is_read_stays_small() {
    let Some(cluster) = Cluster::start() else { return };
    let live = database(&cluster, "postgres");
    run(&live, "create table t (id int primary key, n int); insert into t select i, 0 from generate_series(1, 1000) i").await;
    install(&live, 20_000_000).await.unwrap();
    let client = live.connect().await.unwrap();
    let mut store = Store::open(&live, Lsn::default()).await.unwrap();
    let (mut sizes, mut changes) = (Vec::new(), 0);
    // Several times the budget.
    for _ in 0..25 {
        for _ in 0..5 {
            client.batch_execute("update t set n = n + 1").await.unwrap();
        }
        let wanted = now(&client).await.unwrap();
        store.ask();
        loop {
            match store.next().await.unwrap() {
                Message::UpTo(place) if place >= wanted => break,
                Message::Change { .. } => changes += 1,
                _ => {}
            }
        }
        store.confirm(wanted);
        let state = state(&live).await.unwrap().unwrap();
        assert!(state.lost().is_none(), "{state:?}");
        sizes.push(state.bytes);
        // It looks once a second whether its bound has to be moved.
        if state.left < 10_000_000 {
            eventually("the bound moves", async || {
                piton_db::capture::triggers::state(&live).await.unwrap().unwrap().left > 10_000_000
            })
            .await;
        }
    }
    assert_eq!(changes, 25 * 5 * 1000);
    let largest = sizes.iter().max().unwrap();
    assert!(*largest < 20_000_000, "{sizes:?}");
    eventually("what was confirmed goes", async || {
        number(&client, "select count(*) from piton_capture.change").await == 0
    })
    .await;
}

/// Whoever was away for minutes has them in one window, of which the planner knows nothing.
#[tokio::test]
async fn a_long_window_is_put_in_order_without_comparing_all_with_all() {
    let Some((_, live)) = noted("triggers_long", "create table t (id int primary key, v int)").await else {
        return;
    };
    run(&live, "insert into t select n, 0 from generate_series(1, 400) n").await;
    run(&live, "do $$ begin for i in 1..150 loop update t set v = v + 1; commit; end loop; end $$").await;
    let told = told_from(&live, Lsn::default()).await;
    assert_eq!(told.iter().map(|told| told.changes.len()).sum::<usize>(), 400 * 151);
}
