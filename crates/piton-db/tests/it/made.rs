use piton_db::identity::{Label, MarkState, Purpose, read_mark, write_mark};
use piton_db::made::{Adopted, Made, clone_from, create, drop_adopted, drop_made};
use piton_db::properties::Properties;
use piton_db::{Database, DbError, facts};
use piton_testkit::postgres::{Cluster, eventually};

use crate::{Cut, cut, database, fresh, label, number, run};

async fn properties(of: &Database) -> Properties {
    Properties::read(&of.maintenance().await.unwrap(), &of.dbname).await.unwrap()
}

#[tokio::test]
async fn only_what_piton_made_is_dropped() {
    let Some((_, users)) = fresh("users_own").await else { return };
    let client = users.maintenance().await.unwrap();
    let refused = async |purpose: &str| {
        let error = drop_made(&users, &label(Purpose::Golden)).await.unwrap_err();
        assert!(matches!(error, DbError::NotMade { .. }), "{purpose}: {error}");
        assert!(facts::exists(&users).await.unwrap());
    };
    refused("unmarked").await;
    write_mark(&client, "users_own", &label(Purpose::Live)).await.unwrap();
    refused("live").await;
    write_mark(&client, "users_own", &label(Purpose::Replaced)).await.unwrap();
    refused("replaced").await;

    // A golden copy's mark that came along with a dump makes nothing Piton's.
    let golden = users.with_name("users_golden");
    assert_eq!(create(&golden, &properties(&users).await, &label(Purpose::Golden)).await.unwrap(), Made::New);
    let comment = client
        .query_one(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = 'users_golden'",
            &[],
        )
        .await
        .unwrap();
    let comment: String = comment.get(0);
    client.batch_execute(&format!("comment on database users_own is '{comment}'")).await.unwrap();
    assert!(matches!(read_mark(&client, "users_own").await.unwrap(), MarkState::Copied(_)));
    refused("copied").await;

    let others = Label { environment: "another".into(), ..label(Purpose::Golden) };
    assert!(
        matches!(drop_made(&golden, &others).await, Err(DbError::NotMade { .. })),
        "another environment's"
    );

    // With a session on it, and twice.
    let _session = golden.connect().await.unwrap();
    assert!(drop_made(&golden, &label(Purpose::Golden)).await.unwrap());
    assert!(!drop_made(&golden, &label(Purpose::Golden)).await.unwrap());
}

#[tokio::test]
async fn what_is_large_is_copied_by_its_files_and_what_is_small_without_a_checkpoint() {
    // Others' databases force checkpoints, too.
    let Some(cluster) = Cluster::start() else { return };
    cluster.create_database("to_copy").await;
    let small = database(&cluster, "to_copy");
    let client = small.maintenance().await.unwrap();
    let checkpoints = async || {
        let row = client.query_one("select redo_lsn::text from pg_control_checkpoint()", &[]).await.unwrap();
        row.get::<_, String>(0)
    };
    let copy = small.with_name("to_copy_copy");
    let copied = async || {
        let before = checkpoints().await;
        clone_from(&copy, "to_copy", &label(Purpose::Rehearsal)).await.unwrap();
        let checkpointed = checkpoints().await != before;
        let session = copy.connect().await.unwrap();
        let rows = number(&session, "select count(*) from filler").await;
        drop(session);
        drop_made(&copy, &label(Purpose::Rehearsal)).await.unwrap();
        (rows, checkpointed)
    };
    run(&small, "create table filler as select 1 as n").await;
    assert_eq!(copied().await, (1, false));
    run(
        &small,
        "create table wide (n int, text text);
         alter table wide alter column text set storage plain;
         insert into wide select n, repeat(md5(n::text), 200) from generate_series(1, 9000) n",
    )
    .await;
    assert_eq!(copied().await, (1, true));
}

#[tokio::test]
async fn what_people_made_is_dropped_only_while_it_is_empty() {
    let Some((_, theirs)) = fresh("by_people").await else { return };
    let client = theirs.maintenance().await.unwrap();
    assert!(matches!(drop_adopted(&theirs).await, Err(DbError::NotMade { .. })), "unmarked");
    write_mark(&client, "by_people", &label(Purpose::Clone)).await.unwrap();
    assert!(matches!(drop_adopted(&theirs).await, Err(DbError::NotMade { .. })), "a clone");
    write_mark(&client, "by_people", &label(Purpose::Adopted)).await.unwrap();
    assert!(
        matches!(drop_made(&theirs, &label(Purpose::Golden)).await, Err(DbError::NotMade { .. })),
        "not made by Piton"
    );

    // Each of these alone is somebody's.
    for (make, told, unmake) in [
        ("create table t ()", "table public.t", "drop table t"),
        ("create sequence s", "sequence public.s", "drop sequence s"),
        ("create view v as select 1", "view public.v", "drop view v"),
        (
            "create function f() returns int language sql as 'select 1'",
            "function public.f",
            "drop function f",
        ),
        ("create type mood as enum ('good')", "type public.mood", "drop type mood"),
        ("create type pair as (a int)", "type public.pair", "drop type pair"),
        ("create domain d as int", "type public.d", "drop domain d"),
        ("create schema \"My\"", "schema \"My\"", "drop schema \"My\""),
        ("select lo_from_bytea(42, 'x')", "large object 42", "select lo_unlink(42)"),
        ("create foreign data wrapper w", "foreign data wrapper w", "drop foreign data wrapper w"),
        ("create publication p", "publication p", "drop publication p"),
    ] {
        run(&theirs, make).await;
        eventually(make, async || {
            drop_adopted(&theirs).await.unwrap() == Adopted::Kept(vec![told.to_owned()])
        })
        .await;
        run(&theirs, unmake).await;
    }
    let session = theirs.connect().await.unwrap();
    let Adopted::Kept(found) = drop_adopted(&theirs).await.unwrap() else { panic!("it was in use") };
    assert!(found[0].starts_with("session "), "{found:?}");
    drop(session);
    // As a predecessor leaves it that was killed on the way.
    client.batch_execute("alter database by_people allow_connections false").await.unwrap();
    eventually("the session has ended", async || drop_adopted(&theirs).await.unwrap() == Adopted::Dropped)
        .await;
    assert_eq!(drop_adopted(&theirs).await.unwrap(), Adopted::Gone);
}

#[tokio::test]
async fn a_name_in_use_is_left_alone() {
    let Some((_, taken)) = fresh("taken").await else { return };
    let like = properties(&taken).await;
    run(&taken, "create table mine ()").await;
    let error = create(&taken, &like, &label(Purpose::Golden)).await.unwrap_err();
    assert!(matches!(error, DbError::NameTaken { .. }), "{error}");
    run(&taken, "select from mine").await;

    let made = taken.with_name("Taken; \"x\"");
    assert_eq!(create(&made, &like, &label(Purpose::Golden)).await.unwrap(), Made::New);
    assert_eq!(create(&made, &like, &label(Purpose::Golden)).await.unwrap(), Made::Existing);
    let error = create(&made, &like, &label(Purpose::Rehearsal)).await.unwrap_err();
    assert!(matches!(error, DbError::NameTaken { .. }), "{error}");
    assert!(drop_made(&made, &label(Purpose::Golden)).await.unwrap());
    let long = taken.with_name(&"ü".repeat(32));
    assert!(matches!(create(&long, &like, &label(Purpose::Golden)).await, Err(DbError::NameTooLong { .. })));
}

#[tokio::test]
async fn a_template_in_use_is_named_with_its_session() {
    let Some((cluster, template)) = fresh("template_in_use").await else { return };
    run(&template, "create table t as select generate_series(1, 100) a").await;
    let copy = template.with_name("template_copy");
    let session = cluster.connect("template_in_use").await;
    let error = clone_from(&copy, "template_in_use", &label(Purpose::Rehearsal)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, DbError::InUse { .. }) && text.contains("session") && text.contains("postgres"),
        "{text}"
    );
    assert!(!facts::exists(&copy).await.unwrap());
    drop(session);
    assert_eq!(clone_from(&copy, "template_in_use", &label(Purpose::Rehearsal)).await.unwrap(), Made::New);
    assert_eq!(number(&copy.connect().await.unwrap(), "select count(*) from t").await, 100);
    assert!(drop_made(&copy, &label(Purpose::Golden)).await.unwrap());
}

#[tokio::test]
async fn a_creation_that_was_cut_off_anywhere_is_repeated() {
    let Some((cluster, db)) = fresh("cut_off").await else { return };
    let (like, golden) = (properties(&db).await, database(cluster, "cut_off_golden"));
    let client = db.maintenance().await.unwrap();
    let hidden = "select count(*) from pg_database where datname like 'piton\\_new\\_%' and not datallowconn";
    let mut half_made = 0;
    for cut_at in (1..).flat_map(|n| [Cut::Asked(2 * n), Cut::Answered(2 * n + 1)]) {
        let cut = cut(cut_at, create(&golden, &like, &label(Purpose::Golden))).await;
        half_made += number(&client, hidden).await.min(1);
        // Under its final name it is whole and marked, or not there.
        if facts::exists(&golden).await.unwrap() {
            assert!(read_mark(&client, "cut_off_golden").await.unwrap().valid().is_some(), "{cut_at:?}");
            golden.connect().await.unwrap();
        }
        create(&golden, &like, &label(Purpose::Golden)).await.unwrap();
        golden.connect().await.unwrap();
        assert!(drop_made(&golden, &label(Purpose::Golden)).await.unwrap());
        if let Some(ended) = cut {
            ended.unwrap();
            break;
        }
    }
    assert!(half_made > 0);
}

#[tokio::test]
async fn a_drop_waits_for_a_creation_that_was_cut_off() {
    let Some(cluster) = Cluster::start() else { return };
    cluster.create_database("big").await;
    let big = database(&cluster, "big");
    run(&big, "create table t as select repeat('x', 1000) from generate_series(1, 60000)").await;
    let (copy, client) = (big.with_name("big_copy"), big.maintenance().await.unwrap());
    let creating =
        "select count(*) from pg_stat_activity where query like 'CREATE DATABASE%' and state = 'active'";
    let label = label(Purpose::Rehearsal);
    tokio::select! {
        made = clone_from(&copy, "big", &label) => panic!("{made:?}"),
        () = eventually("it copies", async || number(&client, creating).await > 0) => {}
    }
    // The server goes on copying until it finds out.
    assert!(!drop_made(&copy, &label).await.unwrap());
    eventually("the copying ends", async || number(&client, creating).await == 0).await;
    assert_eq!(number(&client, "select count(*) from pg_database where datname like 'piton%'").await, 0);
}
