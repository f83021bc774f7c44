use std::path::Path;
use std::time::{Duration, Instant};

use fs_err as fs;
use piton_db::fingerprint::Structure;
use piton_db::migrate::sql::SqlFolder;
use piton_db::migrate::{Applied, MigrateOptions, Migrations, State, Tool};
use piton_db::migrate::{MigrationError, Obstacle};
use piton_db::{Database, DbError};
use piton_testkit::postgres::{Cluster, eventually};
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::{fresh, number, quiet, run};

fn folder(files: &[(&str, &str)]) -> (TempDir, SqlFolder) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), files);
    let folder = SqlFolder::new(dir.path());
    (dir, folder)
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        fs::write(dir.join(name), text).unwrap();
    }
}

async fn apply(folder: &SqlFolder, db: &Database) -> Result<Applied, MigrationError> {
    apply_with(folder, db, MigrateOptions::default()).await
}

async fn apply_with(
    folder: &SqlFolder,
    db: &Database,
    options: MigrateOptions,
) -> Result<Applied, MigrationError> {
    match folder.apply(db, options, &mut quiet).await {
        Ok(applied) => Ok(applied),
        Err(DbError::Migration(error)) => Err(error),
        Err(other) => panic!("{other}: {other:?}"),
    }
}

async fn states(folder: &SqlFolder, db: &Database) -> Vec<(String, State)> {
    folder.status(db).await.unwrap().into_iter().map(|m| (m.name, m.state)).collect()
}

async fn recorded(db: &Database) -> Vec<(String, bool, u32)> {
    let recorded = SqlFolder::recorded(db).await.unwrap();
    recorded.into_iter().map(|one| (one.name, one.finished, one.done)).collect()
}

fn names(applied: &Applied) -> Vec<&str> {
    applied.migrations.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn migrations_run_once_in_the_order_of_their_names() {
    let Some((_, db)) = fresh("migrated").await else { return };
    let (dir, folder) = folder(&[
        (
            "002_rows.sql",
            "insert into a select generate_series(1, 3); set search_path = nowhere; set role pg_monitor;",
        ),
        (
            "001_a.sql",
            "-- first;\nbegin; set transaction isolation level serializable; create table a (id int); commit;",
        ),
        ("002_rows.down.sql", "drop table a"),
        ("readme.txt", "no migration"),
    ]);
    let pending: Vec<_> = ["001_a.sql", "002_rows.sql"].map(|name| (name.to_owned(), State::Pending)).into();
    assert_eq!(states(&folder, &db).await, pending);
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["001_a.sql", "002_rows.sql"]);
    // What one file has set does not reach the next.
    write(dir.path(), &[("003.sql", "insert into a values (4)")]);
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["003.sql"]);
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), [""; 0]);
    let client = db.connect().await.unwrap();
    assert_eq!(number(&client, "select count(*) from a").await, 4);

    write(dir.path(), &[("001_a.sql", "create table b ()")]);
    fs::remove_file(dir.path().join("003.sql")).unwrap();
    let found = states(&folder, &db).await;
    assert_eq!(found[0].1, State::Changed);
    let before = folder.may_begin(&db).await.unwrap_err().to_string();
    assert!(before.contains("001_a.sql was edited after it had been applied"), "{before}");
    assert_eq!(found[2], ("003.sql".into(), State::Missing));
    assert!(
        matches!(apply(&folder, &db).await, Err(MigrationError::Changed { name }) if name == "001_a.sql")
    );
}

#[tokio::test]
async fn a_renamed_migration_is_not_applied_a_second_time() {
    let Some((_, db)) = fresh("renamed").await else { return };
    let (dir, folder) =
        folder(&[("1_a.sql", "insert into a values (1)"), ("0.sql", "create table a (id int)")]);
    apply(&folder, &db).await.unwrap();
    fs::rename(dir.path().join("1_a.sql"), dir.path().join("001_a.sql")).unwrap();
    let before = folder.may_begin(&db).await.unwrap_err().to_string();
    assert!(before.contains("001_a.sql is 1_a.sql, which was applied"), "{before}");
    assert!(matches!(apply(&folder, &db).await, Err(MigrationError::Renamed { .. })));

    // One more of the same text is another migration. What failed under the other name may be called anything.
    write(dir.path(), &[("1_a.sql", "insert into a values (1)"), ("2.sql", "selec 1")]);
    folder.may_begin(&db).await.unwrap();
    assert!(matches!(apply(&folder, &db).await, Err(MigrationError::Failed { .. })));
    fs::rename(dir.path().join("2.sql"), dir.path().join("3.sql")).unwrap();
    assert!(matches!(apply(&folder, &db).await, Err(MigrationError::Failed { name, .. }) if name == "3.sql"));
    assert_eq!(number(&db.connect().await.unwrap(), "select count(*) from a").await, 2);
}

#[tokio::test]
async fn a_migration_that_fails_half_way_leaves_only_its_record() {
    let Some((_, db)) = fresh("half_way").await else { return };
    let (dir, folder) = folder(&[
        ("1.sql", "create table a (id int primary key);"),
        ("2.sql", "alter table a add b int;\ninsert into a values (1);\n\ninsert into a\nvalues (1);"),
        ("3.sql", "create table c ()"),
    ]);
    let error = apply(&folder, &db).await.unwrap_err();
    assert!(matches!(&error, MigrationError::Failed { name, line: 4, .. } if name == "2.sql"), "{error}");
    assert!(error.to_string().contains("duplicate key"), "{error}");
    let client = db.connect().await.unwrap();
    let before = Structure::read(&client).await.unwrap();
    assert!(!before.0.contains_key("column public.a.b") && !before.0.contains_key("table public.c"));
    let found = states(&folder, &db).await;
    assert_eq!((&found[0].1, &found[2].1), (&State::Applied, &State::Pending));
    assert!(matches!(&found[1].1, State::Failed { error } if error.contains("duplicate key")));

    // At the commit as well.
    write(
        dir.path(),
        &[(
            "2.sql",
            "alter table a add b int unique deferrable initially deferred; insert into a values (1, 1), (2, 1)",
        )],
    );
    assert!(matches!(apply(&folder, &db).await, Err(MigrationError::Failed { .. })));
    assert_eq!(Structure::read(&client).await.unwrap(), before);

    write(dir.path(), &[("2.sql", "alter table a add b int")]);
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["2.sql", "3.sql"]);
}

#[tokio::test]
async fn a_typing_error_in_the_last_file_stops_before_the_first() {
    let Some((_, db)) = fresh("typing").await else { return };
    let (_dir, folder) = folder(&[("1.sql", "create table a ()"), ("2.sql", "\nselect 'open")]);
    assert!(matches!(apply(&folder, &db).await, Err(MigrationError::Script { line: 2, .. })));
    assert_eq!(states(&folder, &db).await[0].1, State::Pending);
}

#[tokio::test]
async fn two_migrators_at_once_apply_each_file_once() {
    let Some((_, db)) = fresh("two_migrators").await else { return };
    let (_dir, folder) = folder(&[
        ("1.sql", "create table a (id int); select pg_sleep(0.3)"),
        ("2.sql", "insert into a values (1)"),
    ]);
    let (one, two) = tokio::join!(apply(&folder, &db), apply(&folder, &db));
    assert_eq!(one.unwrap().migrations.len() + two.unwrap().migrations.len(), 2);
    assert_eq!(number(&db.connect().await.unwrap(), "select count(*) from a").await, 1);

    // One that does not want to wait is told who is at it.
    fs::write(_dir.path().join("3.sql"), "select pg_sleep(0.5)").unwrap();
    let hasty = MigrateOptions { wait_for_other: Duration::ZERO, ..MigrateOptions::default() };
    let second = async {
        let client = db.connect().await.unwrap();
        let running = "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())";
        eventually("the first migrates", async || number(&client, running).await > 0).await;
        apply_with(&folder, &db, hasty).await
    };
    let (first, second) = tokio::join!(apply(&folder, &db), second);
    first.unwrap();
    assert!(matches!(&second, Err(MigrationError::Busy { by }) if by.contains("of postgres")), "{second:?}");
}

#[tokio::test]
async fn a_lock_is_waited_for_shortly_and_again() {
    let Some((cluster, db)) = fresh("locked").await else { return };
    run(&db, "create table a (id int); create table other (id int)").await;
    let (_dir, folder) = folder(&[("1.sql", "insert into other values (1); alter table a add b int")]);
    let options =
        MigrateOptions { lock_timeout: Duration::from_millis(100), attempts: 2, ..MigrateOptions::default() };
    let reader = cluster.connect("locked").await;
    reader.batch_execute("begin; select from a").await.unwrap();
    let error = apply_with(&folder, &db, options).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, MigrationError::Locked { attempts: 2, line: 1, .. }), "{text}");
    assert!(text.contains("idle in transaction") && text.contains("0.1 s"), "{text}");
    let client = db.connect().await.unwrap();
    assert_eq!(number(&client, "select count(*) from other").await, 0);

    // Who may not see since when another's transaction runs, sees all the same that it holds the table.
    let plain = "create role lock_plain login; grant all on database locked to lock_plain; create schema plain authorization lock_plain";
    run(&db, plain).await;
    reader.batch_execute("commit").await.unwrap();
    run(&db, "alter table a owner to lock_plain; alter table other owner to lock_plain; alter schema piton owner to lock_plain; alter table piton.migrations owner to lock_plain").await;
    let url = cluster.url_as("lock_plain", "", "locked");
    let as_plain = piton_db::Database::parse(&piton_exec::Secret::from(url.as_str())).unwrap();
    reader.batch_execute("begin; select from a").await.unwrap();
    let text = apply_with(&folder, &as_plain, options).await.unwrap_err().to_string();
    assert!(text.contains("held by session") && text.contains("with a;"), "{text}");

    // The reader ends after the first attempt.
    let options = MigrateOptions { attempts: 8, ..options };
    let release = async {
        let tried = "select count(*) from pg_locks where not granted and mode = 'AccessExclusiveLock'";
        eventually("it waits", async || number(&client, tried).await > 0).await;
        eventually("it gives up", async || number(&client, tried).await == 0).await;
        reader.batch_execute("commit").await.unwrap();
    };
    let (applied, ()) = tokio::join!(apply_with(&folder, &db, options), release);
    assert_eq!(names(&applied.unwrap()), ["1.sql"]);
    assert_eq!(number(&client, "select count(*) from other").await, 1);
}

#[tokio::test]
async fn a_concurrent_index_runs_alone_and_half_done_work_is_carried_on() {
    let Some((_, db)) = fresh("concurrent").await else { return };
    run(&db, "create table a (id int, u int); insert into a values (1, 1), (2, 1)").await;
    let (dir, folder) = folder(&[(
        "1.sql",
        "insert into a values (3, 3);\ncreate index concurrently a_id on a (id);\ncreate unique index concurrently if not exists a_u on a (u);",
    )]);
    let client = db.connect().await.unwrap();
    for _ in 0..2 {
        let error = apply(&folder, &db).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(&error, MigrationError::Failed { line: 3, .. }), "{text}");
        assert!(
            text.contains("2 of its 3 statements stand") && text.contains("index a_u is invalid"),
            "{text}"
        );
        let state = states(&folder, &db).await.remove(0).1;
        assert!(
            matches!(
                state,
                State::HalfApplied { done: 2, of: 3, running: false, edited: false, error: Some(_) }
            ),
            "{state:?}"
        );
        assert_eq!(number(&client, "select count(*) from a").await, 3);
    }
    // Another file is not the one that was begun.
    let script = fs::read_to_string(dir.path().join("1.sql")).unwrap();
    write(dir.path(), &[("1.sql", "select 1; vacuum a")]);
    let error = apply(&folder, &db).await.unwrap_err();
    assert!(
        matches!(error, MigrationError::HalfApplied { done: 2, of: 3, why: Obstacle::Edited, .. }),
        "{error}"
    );
    write(dir.path(), &[("1.sql", &script)]);
    // A person mends the rows; the invalid index is built anew.
    run(&db, "update a set u = id").await;
    assert_eq!(recorded(&db).await, [("1.sql".to_owned(), false, 2)]);
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["1.sql"]);
    assert_eq!(
        number(&client, "select count(*) from pg_index where indrelid = 'a'::regclass and indisvalid").await,
        2
    );
    assert_eq!(recorded(&db).await, [("1.sql".to_owned(), true, 3)]);
    write(dir.path(), &[("2.sql", "alter table a add constraint positive check (id > 0) not valid")]);
    let applied = apply(&folder, &db).await.unwrap();
    assert_eq!(applied.unfinished.len(), 1);
    assert!(applied.unfinished[0].contains("VALIDATE CONSTRAINT positive"), "{:?}", applied.unfinished);
}

#[tokio::test]
async fn a_migrator_that_dies_leaves_a_record_that_tells() {
    let Some((cluster, db)) = fresh("dies").await else { return };
    let (dir, folder) = folder(&[("1.sql", "create table a (); select pg_sleep(60)")]);
    let watcher = cluster.connect("dies").await;
    let sleeping = "select count(*) from pg_stat_activity where datname = 'dies' and query like '%pg_sleep(60)%' and state = 'active' and pid <> pg_backend_pid()";
    let asleep = async || number(&watcher, sleeping).await > 0;
    // The migrator is given up: the server notices, and nothing of the file stays.
    tokio::select! {
        ended = apply(&folder, &db) => panic!("{ended:?}"),
        () = eventually("it runs", asleep) => {}
    }
    let begin = Instant::now();
    write(dir.path(), &[("1.sql", "create table a ()")]);
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["1.sql"]);
    assert!(begin.elapsed() < Duration::from_secs(30), "the dead session was waited for");

    // The same while a statement ran that may have been committed.
    write(dir.path(), &[("2.sql", "create table if not exists b (); vacuum a; select pg_sleep(60)")]);
    let kill = async || {
        eventually("it runs", asleep).await;
        let kill = sleeping.replace("count(*)", "count(pg_terminate_backend(pid))");
        number(&watcher, &kill).await
    };
    let (ended, _) = tokio::join!(apply(&folder, &db), kill());
    for lost in [ended, apply(&folder, &db).await, apply(&folder, &db).await] {
        assert!(
            matches!(lost, Err(MigrationError::HalfApplied { done: 2, of: 3, why: Obstacle::Uncertain, .. })),
            "{lost:?}"
        );
    }
    // A person has looked; the file may be gone by then.
    let refused = async |name: &str, applied| {
        let may = SqlFolder::may_resolve(&db, name, None).await.unwrap_err().to_string();
        assert_eq!(SqlFolder::resolve(&db, name, None, applied).await.unwrap_err().to_string(), may);
        may
    };
    assert_eq!(refused("3.sql", true).await, "there is no migration 3.sql");
    assert!(refused("1.sql", false).await.contains("1.sql is not half applied: it is applied"));
    SqlFolder::may_resolve(&db, "2.sql", None).await.unwrap();
    SqlFolder::resolve(&db, "2.sql", None, false).await.unwrap();
    assert_eq!(states(&folder, &db).await[1].1, State::Pending);
    let pending = SqlFolder::resolve(&db, "2.sql", Some("select 1"), true).await.unwrap_err();
    assert!(pending.to_string().contains("2.sql is not half applied: it is pending"), "{pending}");
    let (ended, _) = tokio::join!(apply(&folder, &db), kill());
    ended.unwrap_err();
    SqlFolder::resolve(&db, "2.sql", None, true).await.unwrap();
    assert_eq!(states(&folder, &db).await[1].1, State::Applied);
    let names: Vec<_> = recorded(&db).await.into_iter().map(|(name, finished, _)| (name, finished)).collect();
    assert_eq!(names, [("1.sql".to_owned(), true), ("2.sql".to_owned(), true)]);
}

#[tokio::test]
async fn an_index_build_that_was_killed_is_found_out_about_and_carried_on() {
    let Some((cluster, db)) = fresh("killed_build").await else { return };
    run(&db, "create schema \"S x\"; create table \"S x\".t (id int, u int)").await;
    let (_dir, folder) = folder(&[(
        "1.sql",
        "set search_path = \"S x\"; insert into t values (1, 1); create index concurrently \"I\" on t (id); insert into t values (2, 2);",
    )]);
    let client = cluster.connect("killed_build").await;
    let (valid, rows) = (
        "select count(*) from pg_index where indexrelid = '\"S x\".\"I\"'::regclass and indisvalid",
        "select count(*) from \"S x\".t",
    );
    // A writer holds the build up, and somebody ends it.
    let writer = cluster.connect("killed_build").await;
    writer.batch_execute("begin; insert into \"S x\".t values (9, 9)").await.unwrap();
    let kill = async {
        let building =
            "select count(*) from pg_index i join pg_class c on c.oid = i.indexrelid where c.relname = 'I'";
        eventually("it builds", async || number(&client, building).await > 0).await;
        let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                    where query like 'create index concurrently \"I\"%' and datname = current_database()";
        assert_eq!(number(&client, kill).await, 1);
    };
    let (ended, ()) = tokio::join!(apply(&folder, &db), kill);
    assert!(matches!(ended, Err(MigrationError::Failed { .. })), "{ended:?}");
    let state = states(&folder, &db).await.remove(0).1;
    assert!(matches!(state, State::HalfApplied { done: 2, of: 4, running: true, .. }), "{state:?}");
    writer.batch_execute("rollback").await.unwrap();
    assert_eq!(number(&client, valid).await, 0);
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["1.sql"]);
    assert_eq!((number(&client, valid).await, number(&client, rows).await), (1, 2));

    // Killed between the statement and its record, before the statement, and before the end of the file's record.
    let unfinished = "update piton.migrations set finished_at = null";
    let (building, nothing) = ("'\"S x\".\"I\"'", "null");
    for (mend, done, running, building, more) in [
        ("", 2, true, building, 1),
        ("drop index \"S x\".\"I\"; ", 2, true, building, 1),
        ("", 3, false, nothing, 1),
        ("", 4, false, nothing, 0),
    ] {
        let before = number(&client, rows).await;
        run(&db, &format!("{mend}{unfinished}, done = {done}, running = {running}, building = {building}"))
            .await;
        assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["1.sql"]);
        assert_eq!(
            (number(&client, valid).await, number(&client, rows).await),
            (1, before + more),
            "{mend}{done}"
        );
    }
}

/// A migration whose only statement builds a unique index, over rows that do not allow it.
async fn twins(name: &str) -> Option<(Database, Client, TempDir, SqlFolder)> {
    let (cluster, db) = fresh(name).await?;
    run(&db, "create table a (id int, u int); insert into a values (1, 1), (2, 1)").await;
    let (dir, folder) = folder(&[("1.sql", "create unique index concurrently a_u on a (u);")]);
    Some((db, cluster.connect(name).await, dir, folder))
}

/// Tells whether `a_u` is valid; `None` when there is none.
async fn is_valid(client: &Client) -> Option<bool> {
    let sql = "select indisvalid from pg_index where indexrelid = to_regclass('a_u')";
    client.query_opt(sql, &[]).await.unwrap().map(|row| row.get(0))
}

#[tokio::test]
async fn a_concurrent_index_that_fails_as_the_first_statement_is_built_anew() {
    let Some((db, client, dir, folder)) = twins("first_fails").await else { return };
    for _ in 0..2 {
        let error = apply(&folder, &db).await.unwrap_err().to_string();
        assert!(error.contains("0 of its 1 statements stand") && error.contains("(23505)"), "{error}");
        assert_eq!(is_valid(&client).await, Some(false));
    }
    // Nothing of the file stands, so that it may be another one by now.
    write(dir.path(), &[("1.sql", "create unique index concurrently if not exists a_u on a (id, u)")]);
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["1.sql"]);
    assert_eq!(is_valid(&client).await, Some(true));
}

#[tokio::test]
async fn a_failed_concurrent_index_that_a_person_built_is_taken_as_done() {
    let Some((db, client, _dir, folder)) = twins("built_by_hand").await else { return };
    apply(&folder, &db).await.unwrap_err();
    run(&db, "update a set u = id").await;
    for sql in ["drop index a_u", "create unique index concurrently a_u on a (u)"] {
        run(&db, sql).await;
    }
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["1.sql"]);
    assert_eq!(is_valid(&client).await, Some(true));
    assert_eq!(recorded(&db).await, [("1.sql".to_owned(), true, 1)]);
}

#[tokio::test]
async fn an_index_that_somebody_else_left_invalid_is_neither_taken_as_built_nor_dropped() {
    let Some((db, client, dir, folder)) = twins("others_invalid").await else { return };
    client.batch_execute("create unique index concurrently a_u on a (u)").await.unwrap_err();
    for exists in ["", "if not exists "] {
        write(dir.path(), &[("1.sql", &format!("create unique index concurrently {exists}a_u on a (u)"))]);
        for _ in 0..2 {
            let error = apply(&folder, &db).await.unwrap_err().to_string();
            assert!(error.contains("index a_u is invalid: DROP INDEX CONCURRENTLY a_u"), "{error}");
            assert!(matches!(states(&folder, &db).await[0].1, State::Failed { .. }));
        }
        SqlFolder::forget_failed(&db, false).await.unwrap();
        assert_eq!(is_valid(&client).await, Some(false));
    }
}

#[tokio::test]
async fn what_a_failed_concurrent_index_left_goes_with_its_record() {
    let Some((db, client, dir, folder)) = twins("forgotten").await else { return };
    let cluster = Cluster::shared().unwrap();
    run(&db, "create role forgotten_app login; grant create on database forgotten to forgotten_app").await;
    let app = Database::parse(&cluster.url_as("forgotten_app", "x", "forgotten").into()).unwrap();
    apply(&folder, &db).await.unwrap_err();
    // A transaction on the table holds the drop up; whose it is, is said.
    let other = db.connect().await.unwrap();
    other.batch_execute("begin; select from a").await.unwrap();
    let error = SqlFolder::forget_failed(&db, false).await.unwrap_err();
    assert!(matches!(error, DbError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("idle in transaction"), "{error}");
    other.batch_execute("rollback").await.unwrap();
    SqlFolder::forget_failed(&db, false).await.unwrap();
    assert_eq!(is_valid(&client).await, None);
    assert!(!SqlFolder::is_recorded(&db).await.unwrap());

    // Killed while it was built.
    let writer = db.connect().await.unwrap();
    writer.batch_execute("begin; insert into a values (9, 9)").await.unwrap();
    tokio::select! {
        ended = apply(&folder, &db) => panic!("{ended:?}"),
        () = eventually("it builds", async || is_valid(&client).await.is_some()) => {}
    }
    writer.batch_execute("rollback").await.unwrap();
    SqlFolder::forget_failed(&db, false).await.unwrap();
    assert_eq!(is_valid(&client).await, None);
    assert!(!SqlFolder::is_recorded(&db).await.unwrap());

    // A person builds it anew just now, as a user whose progress the app's does not see.
    apply(&folder, &db).await.unwrap_err();
    run(
        &db,
        "drop index a_u; update a set u = id; alter table a owner to forgotten_app;
         alter schema piton owner to forgotten_app; alter table piton.migrations owner to forgotten_app",
    )
    .await;
    let writer = db.connect().await.unwrap();
    writer.batch_execute("begin; insert into a values (9, 9)").await.unwrap();
    let by_hand = db.connect().await.unwrap();
    let build = by_hand.batch_execute("create unique index concurrently a_u on a (u)");
    let forget = async {
        eventually("it builds", async || is_valid(&client).await.is_some()).await;
        SqlFolder::forget_failed(&app, false).await.unwrap();
        writer.batch_execute("rollback").await.unwrap();
    };
    let (built, ()) = tokio::join!(build, forget);
    built.unwrap();
    assert_eq!(is_valid(&client).await, Some(true));
    run(&db, "drop index a_u; update a set u = 1").await;

    // What stood before it stays, and so does what a person built after it.
    write(dir.path(), &[("1.sql", "create table b (); create unique index concurrently a_u on a (u)")]);
    apply(&folder, &db).await.unwrap_err();
    SqlFolder::forget_failed(&db, false).await.unwrap();
    assert_eq!(is_valid(&client).await, None);
    assert_eq!(recorded(&db).await, [("1.sql".to_owned(), false, 1)]);
    apply(&folder, &db).await.unwrap_err();
    run(&db, "drop index a_u; update a set u = id; create unique index a_u on a (u)").await;
    SqlFolder::forget_failed(&db, false).await.unwrap();
    assert_eq!(is_valid(&client).await, Some(true));
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["1.sql"]);
}

#[tokio::test]
async fn a_file_that_takes_on_a_role_is_recorded_by_the_user_statement_by_statement() {
    let Some((cluster, db)) = fresh("roles").await else { return };
    run(
        &db,
        "create role roles_owner; create role roles_app login; grant roles_owner to roles_app;
         grant create on database roles to roles_app; create schema app authorization roles_owner; set role roles_owner;
         create table app.a (id int, u int); insert into app.a values (1, 1), (2, 1)",
    )
    .await;
    let url = cluster.url_as("roles_app", "x", "roles");
    let user = Database::parse(&piton_exec::Secret::from(url)).unwrap();
    let file = "set role roles_owner;
                create index concurrently a_id on app.a (id);
                create unique index concurrently a_u on app.a (u);
                create index concurrently a_both on app.a (id, u)";
    let (_dir, folder) = folder(&[("1.sql", file)]);
    let error = apply(&folder, &user).await.unwrap_err().to_string();
    assert!(error.contains("2 of its 4 statements stand") && error.contains("(23505)"), "{error}");
    let State::HalfApplied { done: 2, running: false, error: Some(error), .. } =
        folder.status(&user).await.unwrap().remove(0).state
    else {
        panic!("{:?}", states(&folder, &user).await)
    };
    assert!(error.contains("(23505)"), "{error}");
    // Taken up again, it has the role again.
    run(&db, "update app.a set u = id").await;
    assert_eq!(names(&apply(&folder, &user).await.unwrap()), ["1.sql"]);
    assert_eq!(recorded(&user).await, [("1.sql".to_owned(), true, 4)]);
    let client = db.connect().await.unwrap();
    let built = "select count(*) from pg_class where relname in ('a_id', 'a_u', 'a_both') and relowner = 'roles_owner'::regrole";
    assert_eq!(number(&client, built).await, 3);
}

#[tokio::test]
async fn migrations_run_in_the_schema_that_the_url_names() {
    let Some((cluster, db)) = fresh("schemas").await else { return };
    run(&db, "create schema \"My \\App\"").await;
    let url = format!("{}?schema=My%20%5CApp&connection_limit=5", cluster.url("schemas"));
    let in_schema = Database::parse(&piton_exec::Secret::from(url)).unwrap();
    let (_dir, folder) = folder(&[
        ("1.sql", "create table a (id int); set search_path = nowhere"),
        ("2.sql", "create index concurrently a_id on a (id)"),
    ]);
    assert_eq!(names(&apply(&folder, &in_schema).await.unwrap()), ["1.sql", "2.sql"]);
    let client = db.connect().await.unwrap();
    let there = r#"select count(*) from pg_class where relnamespace = '"My \App"'::regnamespace"#;
    assert_eq!(number(&client, there).await, 2);
}

#[tokio::test]
async fn a_user_who_may_not_is_told_what_grants_it() {
    let Some((cluster, db)) = fresh("may_not").await else { return };
    run(&db, "create role may_not_user login").await;
    let (_dir, folder) = folder(&[("1.sql", "create table a ()")]);
    let user =
        Database::parse(&piton_exec::Secret::from(cluster.url_as("may_not_user", "x", "may_not"))).unwrap();
    let error = folder.apply(&user, MigrateOptions::default(), &mut quiet).await.unwrap_err();
    assert!(
        error.to_string().contains("GRANT CREATE ON DATABASE \"may_not\" TO \"may_not_user\""),
        "{error}"
    );
}

/// Applies, and cancels the statement that begins so as soon as `begun` counts something, while another session stands in its way.
async fn cancelled(folder: &SqlFolder, db: &Database, statement: &str, begun: &str) -> MigrationError {
    let (other, watcher) = (db.connect().await.unwrap(), db.connect().await.unwrap());
    other.batch_execute("begin; select from a").await.unwrap();
    let cancel = async {
        eventually("it has begun", async || number(&watcher, begun).await > 0).await;
        let cancel = format!(
            "select count(pg_cancel_backend(pid)) from pg_stat_activity
             where query like '{statement}%' and state = 'active' and datname = current_database()"
        );
        assert_eq!(number(&watcher, &cancel).await, 1);
    };
    let (ended, ()) = tokio::join!(apply(folder, db), cancel);
    other.batch_execute("rollback").await.unwrap();
    ended.unwrap_err()
}

#[tokio::test]
async fn a_detached_partition_that_was_cancelled_is_half_applied() {
    let Some((cluster, db)) = fresh("detached").await else { return };
    run(
        &db,
        "create table a (n int) partition by list (n); create table a_1 partition of a for values in (1)",
    )
    .await;
    cluster
        .connect("postgres")
        .await
        .batch_execute("create database detached_golden template detached")
        .await
        .unwrap();
    let statement = "alter table a detach partition a_1 concurrently";
    let (dir, folder) = folder(&[("1.sql", statement)]);
    let pending = "select count(*) from pg_inherits where inhdetachpending";
    let error = cancelled(&folder, &db, statement, pending).await.to_string();
    assert!(error.contains("(57014)") && error.contains("perhaps a part of this one"), "{error}");
    assert!(error.ends_with("ALTER TABLE a DETACH PARTITION a_1 FINALIZE"), "{error}");
    let state = states(&folder, &db).await.remove(0).1;
    assert!(matches!(state, State::HalfApplied { done: 0, running: true, error: Some(_), .. }), "{state:?}");
    let migrations = Migrations { tool: Tool::Sql, app: dir.path().into(), folder: dir.path().into() };
    let golden = db.with_name("detached_golden");
    assert!(!migrations.left_nothing(&db, &golden, &[], false).await.unwrap());
    assert_eq!(recorded(&db).await, [("1.sql".to_owned(), false, 0)]);
    let again = apply(&folder, &db).await.unwrap_err();
    assert!(matches!(again, MigrationError::HalfApplied { why: Obstacle::Uncertain, .. }), "{again}");
    run(&db, "alter table a detach partition a_1 finalize").await;
    SqlFolder::resolve(&db, "1.sql", Some(statement), true).await.unwrap();
    assert_eq!(names(&apply(&folder, &db).await.unwrap()), [""; 0]);
}

#[tokio::test]
async fn an_index_whose_drop_was_cancelled_is_dropped_by_the_next_run() {
    let Some((_, db)) = fresh("cancelled_drop").await else { return };
    let statement = "drop index concurrently \"A i\"";
    let (_dir, folder) = folder(&[("1.sql", statement)]);
    for by_hand in ["", "drop index \"A i\"", "reindex index \"A i\""] {
        run(&db, "drop table if exists a; create table a (n int); create index \"A i\" on a (n)").await;
        run(&db, "drop schema if exists piton cascade").await;
        let invalid =
            "select count(*) from pg_index where indexrelid = '\"A i\"'::regclass and not indisvalid";
        let error = cancelled(&folder, &db, statement, invalid).await.to_string();
        assert!(
            error.contains("run again, it carries on with this one") && error.contains("is invalid"),
            "{error}"
        );
        assert_eq!(recorded(&db).await, [("1.sql".to_owned(), false, 0)]);
        SqlFolder::forget_failed(&db, false).await.unwrap();
        folder.may_begin(&db).await.unwrap();
        run(&db, by_hand).await;
        assert_eq!(names(&apply(&folder, &db).await.unwrap()), ["1.sql"]);
        assert_eq!(
            number(&db.connect().await.unwrap(), "select count(*) from pg_indexes where tablename = 'a'")
                .await,
            0
        );
    }
}

#[tokio::test]
async fn what_commits_within_and_fails_is_half_applied_and_what_does_not_is_not() {
    let Some((cluster, db)) = fresh("commits_within").await else { return };
    run(&db, "create table a (n int); create procedure p() language plpgsql as $$ begin insert into a values (1); commit; perform 1/0; end $$").await;
    cluster
        .connect("postgres")
        .await
        .batch_execute("create database commits_within_golden template commits_within")
        .await
        .unwrap();
    let (dir, folder) = folder(&[]);
    let migrations = Migrations { tool: Tool::Sql, app: dir.path().into(), folder: dir.path().into() };
    let golden = db.with_name("commits_within_golden");
    for (statement, in_part) in [
        ("do $$ begin insert into a values (1); perform 1/0; end $$", false),
        ("drop index concurrently no_such", false),
        ("alter table a detach partition no_such concurrently", false),
        ("do $$ begin insert into a values (1); commit; perform 1/0; end $$", true),
        ("call p()", true),
    ] {
        write(dir.path(), &[("1.sql", &format!("{statement}; vacuum a"))]);
        let error = apply(&folder, &db).await.unwrap_err();
        assert!(matches!(error, MigrationError::Failed { line: 1, .. }), "{error}");
        let state = states(&folder, &db).await.remove(0).1;
        assert_eq!(
            matches!(state, State::HalfApplied { done: 0, running: true, .. }),
            in_part,
            "{statement}: {state:?}"
        );
        assert_eq!(migrations.left_nothing(&db, &golden, &[], false).await.unwrap(), !in_part, "{statement}");
        run(&db, "truncate a; drop schema if exists piton cascade").await;
    }
    // Of what runs in one transaction the record tells, whatever others have made meanwhile; of the rest the structure may.
    for (statements, nothing) in [("select 1/0", true), ("select 1/0; vacuum a", false)] {
        write(dir.path(), &[("1.sql", statements)]);
        apply(&folder, &db).await.unwrap_err();
        run(&db, "alter table a add column if not exists more int").await;
        assert_eq!(migrations.left_nothing(&db, &golden, &[], false).await.unwrap(), nothing, "{statements}");
    }
}
