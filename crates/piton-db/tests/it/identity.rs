use std::process::Command;

use piton_db::identity::{
    MarkState, Purpose, Sameness, clear_mark, identity, read_mark, same_database, write_mark,
};
use piton_db::{Database, DbError};
use piton_exec::Secret;

use crate::{database, fresh, label, run};

#[tokio::test]
async fn a_mark_stays_with_its_database_and_travels_with_nothing() {
    let Some((cluster, db)) = fresh("marked").await else { return };
    run(&db, "create table t (); comment on database marked is E'the shop''s \\\\ database\\nsince 2019'")
        .await;
    let client = db.maintenance().await.unwrap();
    assert_eq!(read_mark(&client, "marked").await.unwrap(), MarkState::Unmarked);
    let mark = write_mark(&client, "marked", &label(Purpose::Live)).await.unwrap();
    let again = write_mark(&client, "marked", &label(Purpose::Live)).await.unwrap();
    assert_eq!((again.oid, &again.label), (mark.oid, &mark.label));
    assert_eq!(read_mark(&client, "marked").await.unwrap(), MarkState::Marked(again.clone()));

    // A template's copy has no comment at all.
    client.batch_execute("create database marked_copy template marked").await.unwrap();
    assert_eq!(read_mark(&client, "marked_copy").await.unwrap(), MarkState::Unmarked);

    // Neither has a dump; with -C it has, and the mark is known for a copy.
    let pg_dump = |option: &str| {
        let mut command = Command::new(cluster.bin_dir().join("pg_dump"));
        command.args([option, "--no-password", "-d", &cluster.url("marked")]);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(!pg_dump("--encoding=UTF8").contains("piton:"));
    let script = pg_dump("--create");
    assert!(script.contains("piton:"));
    client.batch_execute("alter database marked rename to marked_moved").await.unwrap();
    assert_eq!(read_mark(&client, "marked_moved").await.unwrap(), MarkState::Marked(again.clone()));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let restored = Command::new(cluster.bin_dir().join("psql"))
        .args(["-q", "-v", "ON_ERROR_STOP=1", "-d", &cluster.url("postgres"), "-f"])
        .arg(file.path())
        .stdout(std::process::Stdio::null())
        .status();
    assert!(restored.unwrap().success());
    assert_eq!(read_mark(&client, "marked").await.unwrap(), MarkState::Copied(again));

    // Without the mark the people's comment is as it was.
    clear_mark(&client, "marked_moved").await.unwrap();
    let comment = client
        .query_one(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = 'marked_moved'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(comment.get::<_, &str>(0), "the shop's \\ database\nsince 2019");
}

#[tokio::test]
async fn one_database_is_known_under_every_url() {
    let Some((cluster, db)) = fresh("same").await else { return };
    cluster.create_database("same_other").await;
    run(&db, "create role same_user login password 'x'").await;
    let at = |url: String| Database::parse(&Secret::from(url)).unwrap();
    let port = cluster.port();
    let socket = cluster.socket_dir().display();
    for url in [
        format!("postgresql://postgres@localhost:{port}/same"),
        format!("postgresql://same_user:x@127.0.0.1:{port}/same"),
        format!("postgresql://postgres@/same?host={socket}&port={port}"),
    ] {
        let other = at(url.clone());
        assert_eq!(same_database(&db, &other).await.unwrap(), Sameness::Same, "{url}");
        assert_eq!(same_database(&other, &db).await.unwrap(), Sameness::Same, "{url}");
    }
    let other = database(cluster, "same_other");
    assert_eq!(same_database(&db, &other).await.unwrap(), Sameness::Different);

    // The same name, oid and system identifier, on another server.
    let copy = cluster.physical_copy().unwrap();
    let copied = database(&copy, "same");
    let (a, b) = (db.connect().await.unwrap(), copied.connect().await.unwrap());
    assert_eq!(identity(&a).await.unwrap(), identity(&b).await.unwrap());
    assert_eq!(same_database(&db, &copied).await.unwrap(), Sameness::PhysicalCopy);
}

#[tokio::test]
async fn a_missing_privilege_names_what_grants_it() {
    let Some((cluster, db)) = fresh("guarded").await else { return };
    run(&db, "create role guarded_user login").await;
    let user = Database::parse(&Secret::from(cluster.url_as("guarded_user", "x", "guarded"))).unwrap();
    let client = user.connect().await.unwrap();
    assert_eq!(identity(&client).await.unwrap().name, "guarded");
    let error = write_mark(&client, "guarded", &label(Purpose::Live)).await.unwrap_err();
    assert!(matches!(error, DbError::Privilege { .. }));
    assert!(error.to_string().contains("ALTER DATABASE \"guarded\" OWNER TO"), "{error}");
}
