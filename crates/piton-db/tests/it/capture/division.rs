use std::collections::HashSet;
use std::path::Path;

use piton_db::backup::{DumpOptions, dump};
use piton_db::capture::{Lsn, Stream, create_slot, drop_slot, missing, slot_name, snapshot};
use piton_db::identity::Purpose;
use piton_db::manifest::Manifest;
use piton_db::prove::{Owners, restore};
use piton_db::{Database, made};
use piton_testkit::postgres::{Cluster, eventually};
use tokio_postgres::Client;

use super::interrupted::{Writers, ids};
use super::{Told, fresh, inserted, start, told, transactions, xid};
use crate::backup::shop;
use crate::{database, label, number, quiet, run};

fn inserted_ids<'a>(told: impl IntoIterator<Item = &'a Told>) -> HashSet<i64> {
    let changes = told.into_iter().flat_map(|told| &told.changes);
    changes.map(|change| inserted(change).parse().unwrap()).collect()
}

async fn dumped(live: &Database, dir: &Path) -> (Manifest, HashSet<i64>) {
    let manifest = dump(live, dir, &shop(), DumpOptions::default(), &mut quiet).await.unwrap();
    assert_eq!(Manifest::read(dir).unwrap().sees, manifest.sees);
    let golden = live.with_name(&format!("{}_golden", live.dbname));
    restore(dir, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
    let ids = ids(&golden).await;
    made::drop_made(&golden, &label(Purpose::Golden)).await.unwrap();
    (manifest, ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dump_does_not_see_is_in_the_log_and_nothing_else_is_taken_from_it() {
    let Some((cluster, live)) = fresh("capture_divided").await else { return };
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5 {
        // Without a key, so that what came twice would be there twice.
        run(&live, "drop table if exists w; create table w (id bigint)").await;
        let slot = slot_name(&format!("divided{round}"));
        let writers = Writers::start_with(&live, append);
        writers.have_done(20).await;
        create_slot(&live, &slot).await.unwrap();
        // It has begun before the dump, and ends after it.
        let slow = cluster.connect("capture_divided").await;
        slow.batch_execute("begin; insert into w values (-1)").await.unwrap();
        let slow_xid = xid(&slow).await;
        writers.have_done(20).await;
        let (manifest, in_dump) = dumped(&live, &dir.path().join(round.to_string())).await;
        slow.batch_execute("commit").await.unwrap();
        writers.have_done(20).await;
        writers.stop().await;

        let sees = manifest.sees.unwrap();
        let mut stream = Stream::open(&live, &slot, Lsn::default()).await.unwrap();
        let told = transactions(told(&mut stream, &live).await);
        let (seen, unseen): (Vec<_>, Vec<_>) = told.iter().partition(|told| sees.sees(told.xid));
        let replayed = inserted_ids(unseen.iter().copied());
        assert_eq!(in_dump.intersection(&replayed).count(), 0, "round {round}: twice");
        let all: HashSet<i64> = in_dump.union(&replayed).copied().collect();
        assert_eq!(all, ids(&live).await, "round {round}: lost");
        assert!(inserted_ids(seen.iter().copied()).is_subset(&in_dump));
        assert!(!seen.is_empty() && replayed.contains(&-1) && !sees.sees(slow_xid));
        drop_slot(&live, &slot).await.unwrap();
    }
}

/// Makes a transaction that only inserts.
fn append(id: u64) -> String {
    match id / 4 % 4 {
        0 => format!("insert into w values ({id})"),
        1 => format!("begin; insert into w values ({id}); rollback"),
        2 => format!(
            "begin; savepoint s; insert into w values ({id}); release s; select pg_sleep(0.03); commit"
        ),
        _ => {
            format!("begin; select pg_current_xact_id(), pg_sleep(0.01); insert into w values ({id}); commit")
        }
    }
}

/// Commits, and waits for a standby that is not there.
async fn commit_waiting(cluster: &Cluster, id: i64) -> (i64, tokio::task::JoinHandle<()>) {
    let client = cluster.connect("postgres").await;
    let pid = number(&client, "select pg_backend_pid()::int8").await;
    client
        .batch_execute(&format!("set synchronous_commit = on; begin; insert into w values ({id})"))
        .await
        .unwrap();
    (pid, tokio::spawn(async move { client.batch_execute("commit").await.unwrap() }))
}

async fn let_through(admin: &Client, pid: i64) {
    admin.batch_execute(&format!("select pg_cancel_backend({pid})")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_transaction_falls_between_a_slot_and_the_snapshot_after_it() {
    let Some(cluster) = start(false, &[("synchronous_standby_names", "'*'")]).await else { return };
    let live = database(&cluster, "postgres");
    run(&live, "create table w (id bigint)").await;
    let lacks = missing(&cluster.connect("postgres").await).await.unwrap();
    assert!(lacks.len() == 1 && lacks[0].what.contains("for a standby"), "{lacks:?}");
    let admin = cluster.connect("postgres").await;
    let waits = async |pid: i64| {
        let waits =
            format!("select count(*) from pg_stat_activity where pid = {pid} and wait_event = 'SyncRep'");
        eventually("it waits for a standby", async || number(&admin, &waits).await == 1).await;
    };
    let waited_for = async |pid: i64| {
        let waits = format!(
            "select count(*) from pg_locks w join pg_locks h using (transactionid)
             where w.locktype = 'transactionid' and not w.granted and h.granted and h.pid = {pid}"
        );
        eventually("the slot waits for it", async || number(&admin, &waits).await == 1).await;
    };
    let (first, first_ends) = commit_waiting(&cluster, 1).await;
    waits(first).await;
    let made = tokio::spawn({
        let live = live.clone();
        async move { create_slot(&live, "piton_between").await.unwrap() }
    });
    waited_for(first).await;
    let (second, second_ends) = commit_waiting(&cluster, 2).await;
    waits(second).await;
    let_through(&admin, first).await;
    waited_for(second).await;
    // Nobody waits for this one, whose commit is logged before the slot's place.
    let (third, third_ends) = commit_waiting(&cluster, 3).await;
    waits(third).await;
    let_through(&admin, second).await;
    let ready = "select count(*) from pg_replication_slots where slot_name = 'piton_between' and confirmed_flush_lsn is not null";
    eventually("the server has made the slot", async || number(&admin, ready).await == 1).await;
    assert_eq!(number(&admin, "select count(*) from w where id = 3").await, 0);
    assert!(!made.is_finished(), "a snapshot that is taken now would not see it");
    let_through(&admin, third).await;
    made.await.unwrap();
    assert_eq!(number(&admin, "select count(*) from w where id = 3").await, 1);
    for ends in [first_ends, second_ends, third_ends] {
        ends.await.unwrap();
    }
    let mut stream = Stream::open(&live, "piton_between", Lsn::default()).await.unwrap();
    let told = transactions(told(&mut stream, &live).await);
    assert!(!inserted_ids(&told).contains(&3), "the server would have told it by itself");
    // Although any reader of the log would do as a standby, the server does not take us for one. What is logged first may be seen last: a place in the log divides nothing.
    let (fourth, fourth_ends) = commit_waiting(&cluster, 4).await;
    waits(fourth).await;
    run(&live, "insert into w values (5)").await;
    let sees = snapshot(&admin).await.unwrap();
    let ids = |told: &Told| (inserted_ids([told]).into_iter().next().unwrap(), sees.sees(told.xid));
    let last = self::told(&mut stream, &live).await;
    assert_eq!(transactions(last).iter().map(ids).collect::<Vec<_>>(), [(4, false), (5, true)]);
    let_through(&admin, fourth).await;
    fourth_ends.await.unwrap();
    drop_slot(&live, "piton_between").await.unwrap();
}
