//! Who stands in a migration's way.

use std::time::{Duration, Instant};

use fs_err as fs;
use piton_db::blockers::{self, Blocker, Wanted};
use piton_db::migrate::MigrateOptions;
use piton_db::migrate::MigrationError;
use piton_db::migrate::sql::SqlFolder;
use piton_db::rehearsal::{Report, Watch};
use piton_db::{Database, DbError};
use piton_testkit::postgres::{Cluster, Options, eventually};

use crate::{database, fresh, number, quiet, run};

const PATIENCE: Duration = Duration::from_millis(300);

/// Rehearses a statement on a database of the same tables.
async fn rehearsed(db: &Database, name: &str, sql: &str) -> Report {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(name), sql).unwrap();
    let watch = Watch::begin(db).await.unwrap();
    let folder = SqlFolder::new(dir.path());
    folder.apply(db, MigrateOptions::default(), &mut |progress| watch.step(&progress.what)).await.unwrap();
    watch.end(db).await.unwrap()
}

async fn wait(db: &Database, report: &Report) -> Vec<Blocker> {
    blockers::wait(db, &Wanted::of(&report.steps), PATIENCE, PATIENCE * 3, |_| {}).await.unwrap()
}

#[tokio::test]
async fn long_holders_of_what_conflicts_are_named_with_what_ends_them() {
    let settings = vec![("max_prepared_transactions", "2".to_owned())];
    let Some(cluster) = Cluster::start_with(Options { settings, ..Options::default() }) else { return };
    for name in ["copy", "live"] {
        cluster.create_database(name).await;
        run(&database(&cluster, name), "create table a (id int); create table b (id int)").await;
    }
    let live = database(&cluster, "live");
    let alter = rehearsed(&database(&cluster, "copy"), "1.sql", "alter table a add x int").await;
    let index = rehearsed(&database(&cluster, "copy"), "2.sql", "create index on a (id)").await;
    assert_eq!(wait(&live, &alter).await, []);

    // A reader is in the way of ALTER TABLE, and not of CREATE INDEX; another table's is in nobody's.
    let reader = cluster.connect("live").await;
    reader.batch_execute("begin; select from a").await.unwrap();
    let other = cluster.connect("live").await;
    other.batch_execute("begin; lock table b").await.unwrap();
    assert_eq!(wait(&live, &index).await, []);
    let found = wait(&live, &alter).await;
    let [blocker] = found.as_slice() else { panic!("{found:?}") };
    assert!(blocker.who.contains("idle in transaction"), "{blocker:?}");
    assert_eq!(blocker.holds, [r#"ACCESS SHARE on "public"."a""#]);
    run(&live, blocker.end.as_ref().unwrap()).await;
    assert_eq!(wait(&live, &alter).await, []);

    let writer = cluster.connect("live").await;
    writer.batch_execute("begin; insert into a values (1); prepare transaction 'it''s'").await.unwrap();
    let found = wait(&live, &index).await;
    let [blocker] = found.as_slice() else { panic!("{found:?}") };
    assert!(blocker.who.starts_with("prepared transaction it's"), "{blocker:?}");
    run(&live, blocker.end.as_ref().unwrap()).await;
    assert_eq!(wait(&live, &index).await, []);

    // A concurrent build waits for every older snapshot, whatever its table, and for whoever has written to its own.
    let concurrent =
        rehearsed(&database(&cluster, "copy"), "3.sql", "create index concurrently on_a on a (id)").await;
    assert_eq!(wait(&live, &concurrent).await, []);
    reader_of_b(&other, "begin").await;
    assert_eq!(wait(&live, &concurrent).await, [], "it has no snapshot between its statements");
    reader_of_b(&other, "begin isolation level repeatable read").await;
    let found = wait(&live, &concurrent).await;
    let [blocker] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(blocker.holds, ["a snapshot"]);
    assert_eq!(wait(&live, &index).await, [], "in nobody else's way");
    run(&live, blocker.end.as_ref().unwrap()).await;
    assert_eq!(wait(&live, &concurrent).await, []);
    writer.batch_execute("begin; insert into a values (2)").await.unwrap();
    let found = wait(&live, &concurrent).await;
    assert!(
        found.len() == 1 && found[0].holds.contains(&r#"ROW EXCLUSIVE on "public"."a""#.into()),
        "{found:?}"
    );
    writer.batch_execute("rollback").await.unwrap();

    // Short ones that come and go are nobody to wait for.
    let writers = async {
        loop {
            writer
                .batch_execute("begin; insert into a values (1); select pg_sleep(0.05); commit")
                .await
                .unwrap();
        }
    };
    tokio::select! {
        () = writers => {}
        found = wait(&live, &alter) => assert_eq!(found, []),
    }
}

async fn reader_of_b(session: &tokio_postgres::Client, begin: &str) {
    session.batch_execute(&format!("rollback; {begin}; select from b")).await.unwrap();
}

#[tokio::test]
async fn autovacuum_gives_way_unless_it_prevents_wraparound() {
    let settings = vec![("autovacuum_naptime", "1s".to_owned())];
    let Some(cluster) = Cluster::start_with(Options { settings, ..Options::default() }) else { return };
    for name in ["copy", "live"] {
        cluster.create_database(name).await;
    }
    let admin = cluster.connect("postgres").await;
    admin.batch_execute("create role plain login; alter database live owner to plain").await.unwrap();
    let url = cluster.url_as("plain", "", "live");
    let plain = Database::parse(&piton_exec::Secret::from(url.as_str())).unwrap();
    for db in [&database(&cluster, "copy"), &plain] {
        // It stays at its table for as long as this test takes.
        let table = "create table public.a (id int, n text) with (
                         autovacuum_enabled = false, autovacuum_freeze_max_age = 100000,
                         autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)";
        run(db, table).await;
    }
    let alter = rehearsed(&database(&cluster, "copy"), "1.sql", "alter table a add x int").await;
    run(
        &plain,
        "insert into a select i, repeat('x', 500) from generate_series(1, 3000) i; update a set id = -id",
    )
    .await;
    let vacuums =
        "select count(*) from pg_stat_activity where backend_type = 'autovacuum worker' and datname = 'live'
                   and query like 'autovacuum: VACUUM% public.a%'";

    // A worker's user, and what it does, may not be seen by everybody.
    run(&plain, "alter table a set (autovacuum_enabled = true)").await;
    eventually("an autovacuum", async || number(&admin, vacuums).await > 0).await;
    assert_eq!(wait(&plain, &alter).await, []);

    run(&plain, "do $$ begin for i in 1..100001 loop perform pg_current_xact_id(); commit; end loop; end $$")
        .await;
    admin
        .batch_execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'autovacuum worker'",
        )
        .await
        .unwrap();
    let anti = format!("{vacuums} and query like '%(to prevent wraparound)'");
    eventually("one that does not give way", async || number(&admin, &anti).await > 0).await;
    for db in [&plain, &database(&cluster, "live")] {
        let found = wait(db, &alter).await;
        let [blocker] = found.as_slice() else { panic!("{found:?}") };
        assert!(blocker.who.contains("to prevent wraparound"), "{blocker:?}");
        assert_eq!(blocker.end, None);
    }
}

#[tokio::test]
async fn whoever_comes_behind_a_waiting_migration_waits_for_a_lock_timeout_at_most() {
    let Some((cluster, db)) = fresh("behind").await else { return };
    run(&db, "create table a (id int)").await;
    let idle = cluster.connect("behind").await;
    idle.batch_execute("begin; select from a").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("1.sql"), "alter table a add x int").unwrap();
    let options =
        MigrateOptions { lock_timeout: Duration::from_millis(600), attempts: 3, ..MigrateOptions::default() };

    let writer = cluster.connect("behind").await;
    let mut longest = Duration::ZERO;
    let writes = async {
        loop {
            let begin = Instant::now();
            writer.batch_execute("insert into a (id) values (1)").await.unwrap();
            longest = longest.max(begin.elapsed());
        }
    };
    let (folder, mut progress) = (SqlFolder::new(dir.path()), quiet);
    tokio::select! {
        () = writes => {}
        applied = folder.apply(&db, options, &mut progress) => {
            let error = applied.unwrap_err();
            assert!(matches!(&error, DbError::Migration(MigrationError::Locked { .. })), "{error}");
        }
    }
    // They did wait, and no longer than an attempt lasts.
    let ratio = longest.as_secs_f64() / options.lock_timeout.as_secs_f64();
    assert!((0.5..1.5).contains(&ratio), "{longest:?}");
}
