//! Who stands in a migration's way.

use std::time::{Duration, Instant};

use fs_err as fs;
use piton_db::blockers::{self, Blocker};
use piton_db::migrate::MigrateOptions;
use piton_db::migrate::MigrationError;
use piton_db::migrate::sql::SqlFolder;
use piton_db::rehearsal::{Report, Watch};
use piton_db::{Database, DbError};
use piton_testkit::postgres::{Cluster, Options};

use crate::{database, fresh, quiet, run};

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
    blockers::wait(db, report, PATIENCE, PATIENCE * 3, |_| {}).await.unwrap()
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
    run(&live, &blocker.end).await;
    assert_eq!(wait(&live, &alter).await, []);

    let writer = cluster.connect("live").await;
    writer.batch_execute("begin; insert into a values (1); prepare transaction 'it''s'").await.unwrap();
    let found = wait(&live, &index).await;
    let [blocker] = found.as_slice() else { panic!("{found:?}") };
    assert!(blocker.who.starts_with("prepared transaction it's"), "{blocker:?}");
    run(&live, &blocker.end).await;
    assert_eq!(wait(&live, &index).await, []);

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
