//! What makes a golden copy whole at the end of a replay.

use piton_db::replay::{Finished, give_up, rescue};

use crate::replay::{By, Scene};
use crate::{number, run};

/// Returns which rows are aside, and why.
fn aside(finished: &Finished) -> Vec<(String, &str)> {
    finished.aside.iter().map(|row| (row.key.join(","), row.why.as_str())).collect()
}

/// Values of a type from an extension are the same by that type's own equality, by which the index and the foreign key go as well.
#[tokio::test]
async fn a_key_of_a_type_from_an_extension_is_compared_by_its_own_equality() {
    let setup = "create extension citext;
                 create table p (mail citext primary key, n numeric(10, 2));
                 create table c (id int primary key, mail citext references p);
                 create table s (mail citext unique deferrable initially deferred, id int primary key);
                 insert into p select 'Person' || i, i from generate_series(1, 500) i;
                 insert into c values (1, 'PERSON1'), (2, 'person2'), (3, 'Person3');
                 insert into s values ('One', 1), ('Two', 2); analyze";
    let Some(scene) = Scene::new(By::Log, "finish_citext", setup).await else { return };
    scene.migrate("alter table p alter n type numeric; alter table s drop constraint s_mail_key").await;
    run(
        &scene.live,
        "update p set n = 100 where mail = 'person1'; delete from p where mail = 'person7'; update p set n = 1.234 where mail = 'PERSON9';
         insert into c values (4, 'PeRsOn4'); insert into s values ('ONE', 3)",
    )
    .await;
    drop(scene.replay().await.unwrap());
    // A session's counts are there when it has ended.
    let scans = "select idx_scan > 2 as found from pg_stat_user_tables where relname = 'p'";
    piton_testkit::postgres::eventually("rows are found by the index", async || {
        scene.golden(scans).await == "(t)"
    })
    .await;
    let finished = scene.replay().await.unwrap().finish().await.unwrap().commit().await.unwrap();
    let lossy = "the value does not go back into its old type";
    assert_eq!(
        aside(&finished),
        [
            ("Person9".to_owned(), lossy),
            ("3".to_owned(), r#"another row has the same values ("s_mail_key")"#)
        ]
    );
    assert_eq!(
        scene.golden("select id, mail from c").await,
        "(1,PERSON1) (2,person2) (3,Person3) (4,PeRsOn4)"
    );
    assert_eq!(
        scene.golden("select n from p where mail in ('person1', 'person7', 'person9')").await,
        "(100.00) (9.00)"
    );
    let file = tempfile::tempdir().unwrap();
    let rescued =
        rescue(&scene.golden, &scene.live, &file.path().join("rescue.jsonl")).await.unwrap().unwrap();
    assert_eq!((rescued.rows, rescued.values), (2, 0));
    give_up(&scene.golden).await.unwrap();
    scene.let_go().await;
}

/// Waits for the end of the replay's session, whose counts are there then, and returns how many rows it has read by looking at whole
/// tables.
async fn read_whole(scene: &Scene, table: &str) -> i64 {
    let client = scene.golden.connect().await.unwrap();
    let sessions = "select count(*) from pg_stat_activity where application_name = 'piton replay' and datname = current_database()";
    piton_testkit::postgres::eventually("the replay's session ends", async || {
        number(&client, sessions).await == 0
    })
    .await;
    let read = format!("select seq_tup_read from pg_stat_user_tables where relname = '{table}'");
    number(&client, &read).await
}

/// What the live database has watched over holds for all rows that are as there.
#[tokio::test]
async fn only_rows_that_can_be_broken_are_looked_at() {
    let setup = "create table p (id int primary key, n numeric(10, 2), twin int unique deferrable initially deferred);
                 create table c (id int primary key, p int references p deferrable initially deferred); create index on c (p);
                 insert into p select i, i, i from generate_series(1, 20000) i;
                 insert into c select i, i from generate_series(1, 20000) i; analyze";
    let Some(scene) = Scene::new(By::Log, "finish_few", setup).await else { return };
    scene.migrate("alter table p alter n type numeric").await;
    run(
        &scene.live,
        "insert into p values (20001, 1.234, 20001); insert into c values (20001, 20001); update p set n = 2.345 where id = 2;
         begin; delete from p where id = 3; insert into p values (3, 3.456, 3); commit; update c set p = 4 where id = 5;
         begin; update p set twin = 7, n = 1.234 where id = 6; update p set twin = 6 where id = 7; commit",
    )
    .await;
    drop(scene.replay().await.unwrap());
    let before = (read_whole(&scene, "p").await, read_whole(&scene, "c").await);
    let finished = scene.replay().await.unwrap().finish().await.unwrap().commit().await.unwrap();
    let lossy = "the value does not go back into its old type";
    let orphan = r#"it refers to a row that is not there ("c_p_fkey")"#;
    let wanted = [
        ("20001", orphan),
        ("3", orphan),
        ("7", orphan),
        ("2", lossy),
        ("20001", lossy),
        ("3", lossy),
        ("6", lossy),
        ("7", r#"another row has the same values ("p_twin_key")"#),
    ];
    let wanted = wanted.map(|(key, why)| (key.to_owned(), why));
    assert_eq!(aside(&finished), wanted);
    let after = (read_whole(&scene, "p").await, read_whole(&scene, "c").await);
    assert!(after.0 - before.0 < 20_000 && after.1 - before.1 < 20_000, "{before:?}, {after:?}");
    give_up(&scene.golden).await.unwrap();
    scene.let_go().await;
}

/// What the live database has not watched over is looked at as a whole before anybody waits, and then only what was written since.
#[tokio::test]
async fn behind_a_look_only_what_was_written_since_is_looked_at() {
    let setup = "create table p (id int primary key);
                 create table c (id int primary key, p int references p, twin int unique deferrable); create index on c (p);
                 create table leaf (id int primary key, c int references c); create index on leaf (c);
                 insert into p select i from generate_series(1, 20000) i;
                 insert into c select i, i, i from generate_series(1, 20000) i;
                 insert into leaf select i, i from generate_series(1, 20000) i; analyze";
    let Some(scene) = Scene::new(By::Log, "finish_look", setup).await else { return };
    scene
        .migrate(
            "alter table c drop constraint c_p_fkey; alter table c drop constraint c_twin_key; alter table leaf drop constraint leaf_c_fkey",
        )
        .await;
    // The first is whole again in the end.
    run(&scene.live, "insert into c values (30001, 30001), (30002, 30002); delete from p where id in (1, 2); insert into c values (30003, null, 3)").await;
    let mut replay = scene.replay().await.unwrap();
    replay.look_ahead().await.unwrap();
    run(
        &scene.live,
        "insert into p values (30001); update p set id = 30009 where id = 4; delete from p where id = 5;
         insert into c values (30004, 30004); update c set twin = 8 where id in (9, 10)",
    )
    .await;
    let upto = scene.source.now(&scene.live.connect().await.unwrap()).await.unwrap();
    replay.reach(upto).await.unwrap();
    // Its session has told what the look has read.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    run(&scene.live, "insert into p values (30010)").await;
    let upto = scene.source.now(&scene.live.connect().await.unwrap()).await.unwrap();
    replay.reach(upto).await.unwrap();
    let counted = "select sum(seq_tup_read)::int8 from pg_stat_user_tables where schemaname = 'public'";
    let before = number(&scene.golden.connect().await.unwrap(), counted).await;
    let ready = replay.finish().await.unwrap();
    let orphan = r#"it refers to a row that is not there ("c_p_fkey")"#;
    let twin = r#"another row has the same values ("c_twin_key")"#;
    let below = r#"it refers to a row that is not there ("leaf_c_fkey")"#;
    let of_c = [
        ("1", orphan),
        ("10", twin),
        ("2", orphan),
        ("30002", orphan),
        ("30003", twin),
        ("30004", orphan),
        ("4", orphan),
        ("5", orphan),
        ("9", twin),
    ];
    let of_leaf = ["1", "10", "2", "4", "5", "9"].map(|key| (key, below));
    let wanted: Vec<_> = of_c.into_iter().chain(of_leaf).map(|(key, why)| (key.to_owned(), why)).collect();
    assert_eq!(aside(&ready.finished), wanted);
    ready.commit().await.unwrap();
    read_whole(&scene, "c").await;
    let after = number(&scene.golden.connect().await.unwrap(), counted).await;
    assert!(before >= 20_000 && after - before < 20_000, "{before}, {after}");
    give_up(&scene.golden).await.unwrap();
    scene.let_go().await;
}

/// Also by a replay that was cut off in between: what the migration itself has made is not in the golden copy.
#[tokio::test]
async fn a_row_that_refers_to_one_of_the_migration_is_taken_out() {
    let setup =
        "create table p (id int primary key); create table c (id int primary key, p int references p);
                 insert into p values (1); insert into c values (1, 1)";
    let Some(scene) = Scene::new(By::Log, "finish_own", setup).await else { return };
    scene.migrate("insert into p values (2)").await;
    run(&scene.live, "insert into c values (2, 2), (3, 1)").await;
    drop(scene.replay().await.unwrap());
    let finished = scene.rewind().await;
    let orphan = r#"it refers to a row that is not there ("c_p_fkey")"#;
    assert_eq!(aside(&finished), [("2".to_owned(), orphan)]);
    assert_eq!(scene.golden("select * from c").await, "(1,1) (3,1)");
}

/// What the migration removes at one stroke is in no log, and there again in the golden copy.
#[tokio::test]
async fn a_row_that_comes_back_refers_to_what_is_there() {
    let setup =
        "create table p (id int primary key); create table c (id int primary key, p int references p);
                 create table d (id int primary key, p int references p);
                 insert into p values (1), (2); insert into c values (1, 1), (2, 2); insert into d values (1, 1), (2, 2)";
    let Some(scene) = Scene::new(By::Log, "finish_emptied", setup).await else { return };
    scene.migrate("truncate d; drop table c; create table c (id int primary key, p int references p)").await;
    run(&scene.live, "delete from p where id = 1").await;
    let finished = scene.rewind().await;
    let orphan = |name: &str| format!("it refers to a row that is not there ({name:?})");
    let why: Vec<&str> = finished.aside.iter().map(|row| row.why.as_str()).collect();
    assert_eq!(why, [orphan("c_p_fkey"), orphan("d_p_fkey")]);
    assert_eq!(scene.golden("select * from c union all select * from d").await, "(2,2) (2,2)");
}

/// A number that was given out is given to nobody else, also where nothing goes on counting.
#[tokio::test]
async fn a_sequence_of_nobody_that_the_migration_drops_goes_on_behind_what_is_used() {
    let setup =
        "create sequence numbers; create table t (id bigint primary key default nextval('numbers'), n int);
                 insert into t (n) select i from generate_series(1, 3) i;
                 create domain small as int; create domain number as small;
                 create sequence others; create table u (id number primary key default nextval('others')); insert into u select from generate_series(1, 3)";
    let Some(scene) = Scene::new(By::Log, "finish_numbers", setup).await else { return };
    run(&scene.live, "insert into t (n) values (4), (5)").await;
    scene
        .migrate(
            "alter table t alter id drop default; drop sequence numbers; alter table t alter id add generated by default as identity (start with 100);
             alter table u alter id drop default; drop sequence others",
        )
        .await;
    run(&scene.live, "insert into t (n) values (6); insert into u values (50)").await;
    scene.rewind().await;
    run(&scene.golden, "insert into t (n) values (7); insert into u default values").await;
    assert_eq!(scene.golden("select max(id) from u").await, "(51)");
    assert_eq!(scene.golden("select * from t").await, "(1,1) (100,6) (101,7) (2,2) (3,3) (4,4) (5,5)");
}

/// A row that nothing names is found by all that it holds, by an index on any of its columns if there is one.
#[tokio::test]
async fn a_row_without_a_key_is_found_by_what_it_holds() {
    let setup = "create table t (a int, b text, c json, d double precision); alter table t replica identity full; create index on t (a);
                 insert into t select i, null, '{}', i from generate_series(1, 5000) i; insert into t values (7, 'x', null, '-0'), (7, 'x', null, 0); analyze";
    let Some(scene) = Scene::new(By::Log, "finish_keyless", setup).await else { return };
    scene.migrate("alter table t alter a type bigint").await;
    run(
        &scene.live,
        "update t set b = 'seven' where a = 7 and b is null; delete from t where a = 7 and d::text = '0'; update t set a = null where a = 8; update t set b = 'eight' where a is null",
    )
    .await;
    scene.rewind().await;
    let rows = "select * from t where a in (7, 8) or a is null";
    assert_eq!(scene.golden(rows).await, r#"(,eight,{},8) (7,seven,{},7) (7,x,,-0)"#);
    let scans = "select seq_scan < 4 and idx_scan > 2 from pg_stat_user_tables where relname = 't'";
    piton_testkit::postgres::eventually("the index is used", async || scene.golden(scans).await == "(t)")
        .await;
}
