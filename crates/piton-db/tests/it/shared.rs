//! What a rehearsal may have changed for the live database, too.

use piton_db::identity::Purpose;
use piton_db::made;
use piton_db::shared::Shared;
use piton_testkit::postgres::Cluster;

use crate::{database, label, number, run};

#[tokio::test]
async fn whatever_reaches_beyond_a_database_is_seen() {
    // ALTER SYSTEM is for the whole server.
    let Some(cluster) = Cluster::start() else { return };
    let postgres = database(&cluster, "postgres");
    for (statement, seen) in [
        ("create role other login password 'one'", "the role other was made"),
        ("alter role other password 'two'", "the role other was changed"),
        ("alter role other set work_mem = '8MB'", "the role other was changed"),
        ("create role staff; grant staff to other", "the membership of other in staff was made"),
        (
            "alter role other in database postgres set work_mem = '8MB'",
            "the configuration of other in the database postgres was made",
        ),
        ("create database \"Other\"", "the database \"Other\" was made"),
        ("alter database \"Other\" connection limit 7", "the database \"Other\" was changed"),
        ("drop database \"Other\"", "the database \"Other\" was dropped"),
        ("alter system set work_mem = '8MB'", "the server's setting work_mem was made"),
        ("drop role staff", "the role staff was dropped"),
    ] {
        let before = Shared::of(&postgres).await.unwrap();
        for one in statement.split("; ") {
            run(&postgres, one).await;
        }
        let changes = before.changes_to(&Shared::of(&postgres).await.unwrap());
        assert!(changes.iter().any(|change| change == seen), "{statement}: {changes:?}");
        assert_eq!(Shared::of(&postgres).await.unwrap(), Shared::of(&postgres).await.unwrap());
    }
    let client = postgres.connect().await.unwrap();
    if number(&client, "select current_setting('server_version_num')::bigint").await < 150_000 {
        return;
    }
    let before = Shared::of(&postgres).await.unwrap();
    run(&postgres, "grant set on parameter work_mem to other").await;
    let changes = before.changes_to(&Shared::of(&postgres).await.unwrap());
    assert_eq!(changes, ["the list of who may set work_mem was made"]);
}

#[tokio::test]
async fn what_others_do_meanwhile_is_nothing_of_a_rehearsals() {
    let Some(cluster) = Cluster::start() else { return };
    let postgres = database(&cluster, "postgres");
    run(&postgres, "create role app login createdb password 'x'").await;
    run(&postgres, "create database live owner app").await;
    let app = piton_db::Database::parse(&cluster.url_as("app", "x", "live").into()).unwrap();
    let before = Shared::of(&app).await.unwrap();
    run(&postgres, "create role other").await;
    run(&postgres, "create database others owner other").await;
    let golden = app.with_name("golden");
    made::clone_from(&golden, "template1", &label(Purpose::Golden)).await.unwrap();
    run(&app, "create table t (n int)").await;
    run(&app, "vacuum t").await;
    assert_eq!(before.changes_to(&Shared::of(&app).await.unwrap()), [""; 0]);
    run(&app, "alter role current_user set work_mem = '8MB'").await;
    run(&app, "alter database live connection limit 7").await;
    let changes = before.changes_to(&Shared::of(&app).await.unwrap());
    assert_eq!(changes, ["the database live was changed", "the role app was changed"]);
}
