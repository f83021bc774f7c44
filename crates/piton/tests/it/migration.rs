//! `piton migration` against a real database.

use std::path::Path;
use std::process::{Command, Output};

use fs_err as fs;
use piton_core::journal::Operator;
use piton_core::project::Project;
use piton_db::Database;
use piton_db::migrate::MigrateOptions;
use piton_db::migrate::sql::SqlFolder;
use piton_exec::Secret;
use piton_testkit::postgres::Cluster;

fn piton(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_piton")).arg("-C").arg(dir).args(arguments).output().unwrap()
}

/// Lets a migration stop in its middle: a table stands where its third statement would make it.
async fn half_applied(cluster: &Cluster, dir: &Path) {
    let live = Database::parse(&Secret::from(cluster.url("resolved"))).unwrap();
    cluster.connect("resolved").await.batch_execute("create table b ()").await.unwrap();
    let folder = SqlFolder::new(dir.join("migrations"));
    folder.apply(&live, MigrateOptions::default(), &mut |_| {}).await.unwrap_err();
}

// The programs that this waits for need the sessions that were let go to end meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_half_applied_migration_is_recorded_as_a_person_says() {
    let Some(cluster) = Cluster::shared() else { return };
    cluster.create_database("resolved").await;
    let client = cluster.connect("resolved").await;
    let count = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("migrations")).unwrap();
    fs::write(dir.path().join("migrations/1.sql"), "create table a (); vacuum a; create table b ()").unwrap();
    fs::write(dir.path().join("shop.env"), format!("DATABASE_URL={}\n", cluster.url("resolved"))).unwrap();
    let toml = "app = \"shop\"\n[run]\ncommand = \"true\"\nready.get = \"/\"\n[database]\n\
                [environments.production]\nlisten = \"127.0.0.1:1\"\nports = { blue = 2, green = 3 }\nenv_file = \"shop.env\"\n";
    fs::write(dir.path().join("piton.toml"), toml).unwrap();

    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let run = |name: &str, how: &str| piton(dir.path(), &["migration", "production", name, how]);
    // What is pending or applied needs no person.
    let refused = run("1.sql", "--applied");
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("1.sql is not half applied: it is pending"), "{}", said(&refused));
    assert_eq!(count("select count(*) from pg_tables where tablename = 'migrations'").await, 0);
    half_applied(cluster, dir.path()).await;
    let applied = run("1.sql", "--applied");
    assert!(applied.status.success(), "{}", said(&applied));
    assert!(said(&applied).contains("1.sql is recorded as applied in "), "{}", said(&applied));
    let recorded = "select count(*) from piton.migrations where name = '1.sql' and finished_at is not null";
    assert_eq!(count(recorded).await, 1);
    let refused = run("1.sql", "--not-applied");
    assert!(said(&refused).contains("1.sql is not half applied: it is applied"), "{}", said(&refused));
    assert_eq!(count(recorded).await, 1);
    client.batch_execute("update piton.migrations set finished_at = null, done = 1").await.unwrap();

    // Nothing is recorded while a process holds the environment.
    let mut journal = Project::open(dir.path(), "piton".into()).unwrap().journal().unwrap();
    let lease = journal.acquire("production", &Operator::this_process()).unwrap();
    let held = piton(dir.path(), &["migration", "production", "1.sql", "--not-applied"]);
    assert_eq!(held.status.code(), Some(2), "{}", said(&held));
    assert_eq!(count("select count(*) from piton.migrations").await, 1);
    journal.give_back(&lease).unwrap();

    // The file is gone meanwhile.
    fs::remove_file(dir.path().join("migrations/1.sql")).unwrap();
    let undone = piton(dir.path(), &["migration", "production", "1.sql", "--not-applied"]);
    assert!(undone.status.success(), "{}", said(&undone));
    assert_eq!(count("select count(*) from piton.migrations").await, 0);
    for refused in [&["--applied"][..], &["--not-applied"], &[], &["--applied", "--not-applied"]] {
        let arguments = [&["migration", "production", "1.sql"], refused].concat();
        let refused = piton(dir.path(), &arguments);
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    }
}
