//! What stands in a database whose writes are noted, and what does not when that has ended.

use piton_db::capture::triggers::missing;
use piton_db::fingerprint::Structure;
use piton_db::{DbError, changes};

use super::*;
use crate::{Cut, HARD, cut};

async fn traces(live: &Database) -> i64 {
    let client = live.connect().await.unwrap();
    number(
        &client,
        "select (select count(*) from pg_trigger where tgname ~ 'piton') + (select count(*) from pg_event_trigger where evtname ~ 'piton')
              + (select count(*) from pg_namespace where nspname ~ '^piton')",
    )
    .await
}

#[tokio::test]
async fn installed_and_removed_it_changes_no_structure() {
    let Some((_, live)) = fresh("triggers_structure").await else { return };
    run(&live, HARD).await;
    let before = Structure::of(&live).await.unwrap();
    let loose = changes::unfrozen(&live).await.unwrap();
    install(&live, ROOM).await.unwrap();
    install(&live, ROOM).await.unwrap();
    assert_eq!(before.changes_to(&Structure::of(&live).await.unwrap()), []);
    assert_eq!(loose, changes::unfrozen(&live).await.unwrap());
    run(&live, "insert into nothing default values; insert into part values (1, '2026-01-21'); insert into child values (2, 'y', 3)").await;
    assert_eq!(words(&live).await, ["+ nothing ()", "+ part_1 (2026-01-21,1)", "+ child (2,y,3)"]);
    remove(&live).await.unwrap();
    remove(&live).await.unwrap();
    assert_eq!(traces(&live).await, 0);
    assert_eq!(before.changes_to(&Structure::of(&live).await.unwrap()), []);
}

#[tokio::test]
async fn cut_off_anywhere_it_is_completed_or_removed() {
    let Some((_, live)) = fresh("triggers_cut").await else { return };
    run(&live, "create table a (id int primary key); create table b (id int); create table c (id int) partition by list (id); create table c1 partition of c default").await;
    for at in (1..40).step_by(2) {
        for at in [Cut::Asked(at), Cut::Answered(at)] {
            cut(at, install(&live, ROOM)).await;
            cut(at, remove(&live)).await;
            if at == Cut::Asked(21) {
                install(&live, ROOM).await.unwrap();
                run(&live, "insert into a values (1); insert into c values (1)").await;
                assert_eq!(words(&live).await, ["+ a (1)", "+ c1 (1)"]);
                run(&live, "delete from a").await;
            }
        }
    }
    remove(&live).await.unwrap();
    assert_eq!(traces(&live).await, 0);
    let client = live.connect().await.unwrap();
    assert_eq!(number(&client, "select count(*) from a").await, 0);
}

/// Nobody waits for long: a table that somebody writes to is asked for again and again.
#[tokio::test]
async fn it_waits_for_who_has_written_and_keeps_nobody_waiting() {
    let Some((_, live)) = fresh("triggers_wait").await else { return };
    run(&live, "create table t (id int primary key)").await;
    let writer = live.connect().await.unwrap();
    writer.batch_execute("begin; insert into t values (1)").await.unwrap();
    let installing = tokio::spawn({
        let live = live.clone();
        async move { install(&live, ROOM).await }
    });
    let client = live.connect().await.unwrap();
    eventually("it asks for the table", async || {
        number(&client, "select count(*) from pg_locks where not granted and relation = 't'::regclass").await
            > 0
    })
    .await;
    let begun = std::time::Instant::now();
    client.batch_execute("insert into t values (2)").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(!installing.is_finished());
    writer.batch_execute("commit").await.unwrap();
    installing.await.unwrap().unwrap();
    // A snapshot from here on sees both.
    assert_eq!(words(&live).await, [""; 0]);
}

#[tokio::test]
async fn a_prepared_transaction_and_a_strangers_schema_are_refused() {
    let settings = vec![("max_prepared_transactions", "5".to_owned())];
    let Some(cluster) = Cluster::start_with(Options { settings, ..Options::default() }) else { return };
    cluster.create_database("prepared").await;
    let live = database(&cluster, "prepared");
    run(&live, "create table t (id int)").await;
    run(&live, "begin; insert into t values (1); prepare transaction 'x'").await;
    assert!(matches!(install(&live, ROOM).await, Err(DbError::Replication { .. })));
    let lacks = missing(&live.connect().await.unwrap()).await.unwrap();
    assert_eq!(
        lacks.iter().map(|lack| lack.mend.as_str()).collect::<Vec<_>>(),
        ["COMMIT PREPARED 'x', or ROLLBACK PREPARED 'x'"]
    );
    run(&live, "rollback prepared 'x'").await;
    // One that is prepared later has a number as any other.
    install(&live, ROOM).await.unwrap();
    run(&live, "begin; insert into t values (2); prepare transaction 'y'").await;
    assert_eq!(words(&live).await, [""; 0]);
    run(&live, "commit prepared 'y'").await;
    assert_eq!(words(&live).await, ["+ t (2)"]);
    remove(&live).await.unwrap();
    run(&live, "create schema piton_capture; create table piton_capture.mine (a int)").await;
    assert!(matches!(install(&live, ROOM).await, Err(DbError::Replication { .. })));
    remove(&live).await.unwrap();
    assert_eq!(number(&live.connect().await.unwrap(), "select count(*) from piton_capture.mine").await, 0);
}

#[tokio::test]
async fn what_a_user_lacks_is_named() {
    let Some((cluster, live)) = fresh("triggers_lacks").await else { return };
    run(&live, "create table t (id int); create table u (id int); drop role if exists triggers_plain; create role triggers_plain login; grant create on database triggers_lacks to triggers_plain").await;
    run(&live, "create publication everything for all tables").await;
    let lacks = missing(&live.connect().await.unwrap()).await.unwrap();
    assert_eq!(lacks.len(), 1);
    assert!(lacks[0].what.starts_with("the publication everything of all tables"), "{lacks:?}");
    run(&live, "drop publication everything").await;
    assert_eq!(missing(&live.connect().await.unwrap()).await.unwrap(), []);
    let plain =
        Database::parse(&piton_exec::Secret::from(cluster.url_as("triggers_plain", "", &live.dbname)))
            .unwrap();
    let lacks = missing(&plain.connect().await.unwrap()).await.unwrap();
    let what: Vec<&str> = lacks.iter().map(|lack| lack.what.as_str()).collect();
    assert_eq!(what.len(), 3, "{what:?}");
    assert!(
        what[0].contains("event triggers")
            && what[1].contains("own public.t and 1 more")
            && what[2].contains("session_replication_role"),
        "{what:?}"
    );
    assert!(matches!(install(&plain, ROOM).await, Err(DbError::Privilege { .. })));
    assert_eq!(traces(&live).await, 0);
    run(&live, "drop owned by triggers_plain; drop role triggers_plain").await;
}

/// A trigger that cannot be made fails nobody's statement, and is no silence.
#[tokio::test]
async fn what_cannot_be_noted_ends_the_following_and_not_the_app() {
    let Some((_, live)) = noted("triggers_cannot", "create table t (id int primary key)").await else {
        return;
    };
    // Somebody's own trigger stands in the way of ours.
    run(
        &live,
        "revoke execute on function piton_capture.lay(oid, pg_lsn) from public; drop role if exists triggers_maker; create role triggers_maker;
         grant create, usage on schema public to triggers_maker; set role triggers_maker; create table mine (id int); insert into mine values (1)",
    )
    .await;
    let wanted = now(&live.connect().await.unwrap()).await.unwrap();
    let mut store = Store::open(&live, Lsn::default()).await;
    // Either the opening or the reading says so.
    let said = match &mut store {
        Err(error) => error.to_string(),
        Ok(store) => loop {
            match store.next().await {
                Ok(Message::UpTo(place)) if place >= wanted => panic!("nobody has said it"),
                Ok(_) => {}
                Err(error) => break error.to_string(),
            }
        },
    };
    assert!(said.contains("mine"), "{said}");
    run(&live, "drop owned by triggers_maker; drop role triggers_maker").await;
}

#[tokio::test]
async fn a_store_is_not_opened_where_a_trigger_of_ours_is_gone() {
    let Some((_, live)) = noted("triggers_gone", "create table t (id int primary key)").await else { return };
    run(&live, "alter event trigger piton_capture_moves disable").await;
    assert!(
        Store::open(&live, Lsn::default()).await.unwrap_err().to_string().contains("piton_capture_moves")
    );
    run(&live, "alter event trigger piton_capture_drops disable; alter table t disable trigger user; alter event trigger piton_capture_moves enable always; alter event trigger piton_capture_drops enable always").await;
    assert!(Store::open(&live, Lsn::default()).await.unwrap_err().to_string().contains("from public.t"));
}
