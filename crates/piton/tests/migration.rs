//! `piton migration` against a real database.
#![expect(clippy::unwrap_used, reason = "a test's helper that fails has failed the test")]

use std::path::Path;
use std::process::{Command, Output};

use fs_err as fs;
use piton_core::journal::Operator;
use piton_core::project::Project;
use piton_testkit::postgres::Cluster;

fn piton(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_piton")).arg("-C").arg(dir).args(arguments).output().unwrap()
}

#[tokio::test]
async fn a_half_applied_migration_is_recorded_as_a_person_says() {
    let Some(cluster) = Cluster::shared() else { return };
    cluster.create_database("resolved").await;
    let client = cluster.connect("resolved").await;
    let count = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("migrations")).unwrap();
    fs::write(dir.path().join("migrations/1.sql"), "create table a (); vacuum a; select 1").unwrap();
    fs::write(dir.path().join("shop.env"), format!("DATABASE_URL={}\n", cluster.url("resolved"))).unwrap();
    let toml = "app = \"shop\"\n[run]\ncommand = \"true\"\nready.get = \"/\"\n[database]\n\
                [environments.production]\nlisten = \"127.0.0.1:1\"\nports = { blue = 2, green = 3 }\nenv_file = \"shop.env\"\n";
    fs::write(dir.path().join("piton.toml"), toml).unwrap();

    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let applied = piton(dir.path(), &["migration", "production", "1.sql", "--applied"]);
    assert!(applied.status.success(), "{}", said(&applied));
    assert!(said(&applied).contains("1.sql is recorded as applied in "), "{}", said(&applied));
    let recorded = "select count(*) from piton.migrations where name = '1.sql' and finished_at is not null";
    assert_eq!(count(recorded).await, 1);

    // Nothing is recorded while a process holds the environment.
    let mut journal = Project::open(dir.path(), "piton".into()).unwrap().journal().unwrap();
    let lease = journal.acquire("production", &Operator::this_process()).unwrap();
    let held = piton(dir.path(), &["migration", "production", "1.sql", "--not-applied"]);
    assert_eq!(held.status.code(), Some(2), "{}", said(&held));
    assert_eq!(count(recorded).await, 1);
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
