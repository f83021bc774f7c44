use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use piton_db::identity::{MarkState, Purpose, identity, read_mark, write_mark};
use piton_db::made::{clone_from, drop_made};
use piton_db::properties::Properties;
use piton_db::swap::{SwapState, observe, put_aside, swap};
use piton_db::{Database, DbError, facts};
use piton_testkit::postgres::{Cluster, Options, StopMode, eventually};

use crate::{Cut, cut, database, fresh, label, number, run};

/// Makes a live database with a marker table and a prepared replacement, both holding `which`.
async fn pair(cluster: &Cluster, name: &str) -> (Database, String) {
    let live = database(cluster, name);
    run(
        &live,
        "create table which (name text); insert into which values ('old'); create table w (id bigint)",
    )
    .await;
    let replacement = format!("{name}_golden");
    clone_from(&live.with_name(&replacement), name, &label(Purpose::Golden)).await.unwrap();
    run(&live.with_name(&replacement), "update which set name = 'new'").await;
    (live, replacement)
}

async fn which(db: &Database) -> String {
    db.connect().await.unwrap().query_one("select name from which", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_swap_under_writers_loses_no_acknowledged_write() {
    let Some((cluster, _)) = fresh("swapped").await else { return };
    let (live, replacement) = pair(cluster, "swapped").await;
    run(
        &live,
        "create role swapped_owner; create role swapped_reader; alter database swapped owner to swapped_owner;
         revoke all on database swapped from public; grant connect on database swapped to swapped_reader with grant option;
         alter database swapped connection limit 50; alter database swapped set work_mem = '9MB';
         alter role swapped_reader in database swapped set search_path = \"$user\", \"a b\";
         comment on database swapped is 'the shop'",
    )
    .await;
    let client = live.maintenance().await.unwrap();
    let before = Properties::read(&client, "swapped").await.unwrap();
    let old_id = identity(&live.connect().await.unwrap()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4_i64)
        .map(|writer| {
            let (live, stop) = (live.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut session, mut acknowledged, mut id) = (None, Vec::new(), writer);
                while !stop.load(Ordering::Relaxed) {
                    if session.is_none() {
                        session = live.connect().await.ok();
                    }
                    let Some(client) = &session else { continue };
                    id += 4;
                    match client.execute("insert into w values ($1)", &[&id]).await {
                        Ok(_) => acknowledged.push(id),
                        Err(_) => session = None,
                    }
                }
                acknowledged
            })
        })
        .collect();
    let counter = cluster.connect("swapped").await;
    eventually("they write", async || number(&counter, "select count(*) from w").await > 100).await;
    let swapped = swap(&live, &replacement, "swapped_old").await.unwrap();
    assert!(swapped.now);
    eventually("they go on", async || match live.connect().await {
        Ok(client) => number(&client, "select count(*) from w").await > 100,
        Err(_) => false,
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    let old = live.with_name("swapped_old");
    let mut stored = Vec::new();
    for db in [&live, &old] {
        let rows = db.connect().await.unwrap().query("select id from w", &[]).await.unwrap();
        stored.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    }
    let lost: Vec<_> = acknowledged.iter().filter(|id| !stored.contains(id)).collect();
    assert!(lost.is_empty(), "{lost:?}");

    assert_eq!((which(&live).await.as_str(), which(&old).await.as_str()), ("new", "old"));
    assert_eq!(Properties::read(&client, "swapped").await.unwrap(), before);
    assert_eq!(identity(&old.connect().await.unwrap()).await.unwrap().oid, old_id.oid);
    for (name, purpose) in [("swapped", Purpose::Live), ("swapped_old", Purpose::Replaced)] {
        assert_eq!(read_mark(&client, name).await.unwrap().valid().unwrap().label.purpose, purpose);
        assert!(matches!(
            drop_made(&live.with_name(name), &label(Purpose::Golden)).await,
            Err(DbError::NotMade { .. })
        ));
    }

    // Done is done, and back is the same with the names exchanged.
    assert_eq!(observe(&live, &replacement, "swapped_old").await.unwrap(), SwapState::Done);
    assert!(!swap(&live, &replacement, "swapped_old").await.unwrap().now);
    assert!(swap(&live, "swapped_old", &replacement).await.unwrap().now);
    assert_eq!(which(&live).await, "old");
    assert_eq!(Properties::read(&client, "swapped").await.unwrap(), before);
}

/// Meanwhile nobody gets in: it waits no longer than people would.
#[tokio::test]
async fn a_lock_from_another_database_is_named_and_shuts_nobody_out_for_long() {
    let Some((cluster, _)) = fresh("barred").await else { return };
    let (live, replacement) = pair(cluster, "barred").await;
    for locked in ["barred", &replacement] {
        let other = cluster.connect("postgres").await;
        other.batch_execute(&format!("begin; comment on database \"{locked}\" is 'mine'")).await.unwrap();
        let pid = number(&other, "select pg_backend_pid()::bigint").await;
        let swapping = swap(&live, &replacement, "barred_old");
        let error = tokio::time::timeout(Duration::from_secs(20), swapping).await.unwrap().unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, DbError::InUse { .. }), "{said}");
        let words = format!("{locked} is in use by session {pid} of postgres on postgres");
        assert!(said.contains(&words) && said.contains("since "), "{said}");
        // Nothing is renamed, nothing is closed.
        assert_eq!(observe(&live, &replacement, "barred_old").await.unwrap(), SwapState::NotDone);
        assert_eq!(
            (which(&live).await, which(&live.with_name(&replacement)).await),
            ("old".into(), "new".into())
        );
        other.batch_execute("rollback").await.unwrap();
    }
    assert!(swap(&live, &replacement, "barred_old").await.unwrap().now);

    let other = cluster.connect("postgres").await;
    other.batch_execute("begin; comment on database barred is 'mine'").await.unwrap();
    let aside = label(Purpose::Replaced);
    let putting = put_aside(&live, "barred_aside", &aside);
    let error = tokio::time::timeout(Duration::from_secs(20), putting).await.unwrap().unwrap_err();
    assert!(matches!(error, DbError::InUse { .. }), "{error}");
    assert_eq!(which(&live).await, "new");
}

#[tokio::test]
async fn a_staging_clone_stays_a_clone() {
    let Some((cluster, _)) = fresh("staged").await else { return };
    let (live, replacement) = pair(cluster, "staged").await;
    let client = live.maintenance().await.unwrap();
    write_mark(&client, "staged", &label(Purpose::Clone)).await.unwrap();
    swap(&live, &replacement, "staged_old").await.unwrap();
    assert!(drop_made(&live.with_name("staged_old"), &label(Purpose::Golden)).await.unwrap());
    assert_eq!(read_mark(&client, "staged").await.unwrap().valid().unwrap().label.purpose, Purpose::Clone);
}

#[tokio::test]
async fn what_people_made_stays_theirs_under_whatever_name() {
    let Some((cluster, _)) = fresh("adopted").await else { return };
    let (live, replacement) = pair(cluster, "adopted").await;
    let client = live.maintenance().await.unwrap();
    let purpose =
        async |name: &str| read_mark(&client, name).await.unwrap().valid().map(|mark| mark.label.purpose);
    write_mark(&client, "adopted", &label(Purpose::Adopted)).await.unwrap();
    swap(&live, &replacement, "adopted_old").await.unwrap();
    assert_eq!(purpose("adopted").await, Some(Purpose::Clone));
    assert_eq!(purpose("adopted_old").await, Some(Purpose::Adopted));
    assert!(matches!(
        drop_made(&live.with_name("adopted_old"), &label(Purpose::Golden)).await,
        Err(DbError::NotMade { .. })
    ));
    swap(&live, "adopted_old", &replacement).await.unwrap();
    assert_eq!(purpose("adopted").await, Some(Purpose::Adopted));
    assert_eq!(purpose(&replacement).await, Some(Purpose::Clone));
    assert_eq!(which(&live).await, "old");
}

#[tokio::test]
async fn a_database_is_put_aside_with_a_session_on_it_and_nothing_takes_its_place() {
    let Some((_, live)) = fresh("aside").await else { return };
    let _session = live.connect().await.unwrap();
    put_aside(&live, "aside_kept", &label(Purpose::Replaced)).await.unwrap();
    put_aside(&live, "aside_kept", &label(Purpose::Replaced)).await.unwrap();
    assert!(!facts::exists(&live).await.unwrap());
    let kept = live.with_name("aside_kept");
    assert!(matches!(drop_made(&kept, &label(Purpose::Golden)).await, Err(DbError::NotMade { .. })));
    put_aside(&kept, "aside", &label(Purpose::Live)).await.unwrap();
    assert!(matches!(
        put_aside(&kept, "neither", &label(Purpose::Live)).await,
        Err(DbError::NoDatabase { .. })
    ));
}

#[tokio::test]
async fn what_is_not_prepared_is_not_swapped_in() {
    let Some((cluster, _)) = fresh("unprepared").await else { return };
    let (live, replacement) = pair(cluster, "unprepared").await;
    cluster.create_database("unprepared_foreign").await;
    let error = swap(&live, "unprepared_foreign", "unprepared_old").await.unwrap_err();
    assert!(error.to_string().contains("not a database that Piton prepared"), "{error}");
    // The name for the old one is taken.
    assert!(matches!(swap(&live, &replacement, "unprepared_foreign").await, Err(DbError::Swap(_))));
    assert!(matches!(swap(&live, "nowhere", "unprepared_old").await, Err(DbError::Swap(_))));
    assert_eq!(which(&live).await, "old");

    // A user who may not end others' sessions is told what grants it, and nothing has changed.
    run(
        &live,
        "create role unprepared_user login createdb; alter database unprepared owner to unprepared_user",
    )
    .await;
    run(&live, &format!("alter database {replacement} owner to unprepared_user")).await;
    let user =
        Database::parse(&piton_exec::Secret::from(cluster.url_as("unprepared_user", "x", "unprepared")))
            .unwrap();
    let _session = cluster.connect("unprepared").await;
    let error = swap(&user, &replacement, "unprepared_old").await.unwrap_err();
    assert!(matches!(error, DbError::Privilege { .. }), "{error}");
    assert_eq!(observe(&live, &replacement, "unprepared_old").await.unwrap(), SwapState::NotDone);
}

#[tokio::test]
async fn a_setting_that_may_not_be_set_is_named_without_its_value() {
    let Some((cluster, _)) = fresh("setting").await else { return };
    let (live, replacement) = pair(cluster, "setting").await;
    run(
        &live,
        r"create role setting_user login createdb;
          alter database setting set dynamic_library_path = 'C:\hunter2'; alter database setting owner to setting_user",
    )
    .await;
    run(&live, &format!("alter database {replacement} owner to setting_user")).await;
    let user =
        Database::parse(&piton_exec::Secret::from(cluster.url_as("setting_user", "x", "setting"))).unwrap();
    let error = swap(&user, &replacement, "setting_old").await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(matches!(error, DbError::Privilege { .. }) && text.contains("dynamic_library_path"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

/// The databases are as before or swapped, never between, and open.
#[tokio::test]
async fn a_swap_that_was_cut_off_anywhere_is_as_before_or_done() {
    let Some((cluster, _)) = fresh("cut").await else { return };
    let (live, replacement) = pair(cluster, "cut").await;
    let (mut before, mut swaps) = (0, 0);
    for cut_at in (1..).flat_map(|n| [Cut::Asked(2 * n), Cut::Answered(2 * n + 1)]) {
        // A session on each side, so that the swap has somebody to end.
        let sessions = (live.connect().await, live.with_name(&replacement).connect().await);
        let ended = cut(cut_at, swap(&live, &replacement, "cut_old")).await;
        drop(sessions);
        if let Some(ended) = ended {
            ended.unwrap();
            break;
        }
        // The session that was cut off may hold new ones off for the second in which the server finds out, or just commit.
        eventually("open, and as before or swapped", async || {
            let state = observe(&live, &replacement, "cut_old").await.unwrap();
            let Ok(client) = live.connect().await else { return false };
            let Ok(row) = client.query_one("select name from which", &[]).await else { return false };
            row.get::<_, &str>(0) == if state == SwapState::Done { "new" } else { "old" }
        })
        .await;
        if observe(&live, &replacement, "cut_old").await.unwrap() == SwapState::Done {
            swap(&live, "cut_old", &replacement).await.unwrap();
            swaps += 1;
        } else {
            before += 1;
        }
    }
    assert_eq!(which(&live).await, "new");
    assert!(before > 10, "{before} before, {swaps} done");
}

#[tokio::test]
async fn a_server_crash_during_a_swap_leaves_no_state_between() {
    let settings = vec![("max_prepared_transactions", "3".into())];
    let Some(cluster) = Cluster::start_with(Options { fsync: true, settings, ..Options::default() }) else {
        return;
    };
    cluster.create_database("crash").await;
    let (live, replacement) = pair(&cluster, "crash").await;

    // A prepared transaction outlives every session: refused before any session is ended.
    let session = live.connect().await.unwrap();
    session.batch_execute("begin; insert into w values (1); prepare transaction 'p''1'").await.unwrap();
    let error = swap(&live, &replacement, "crash_old").await.unwrap_err();
    assert!(error.to_string().contains("ROLLBACK PREPARED 'p''1'"), "{error}");
    session.batch_execute("rollback prepared 'p''1'").await.unwrap();
    drop(session);

    for delay in [0, 30, 90, 150, 250] {
        let _session = live.connect().await.unwrap();
        let crash = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            cluster.stop(StopMode::Immediate).unwrap();
        };
        let (_, ()) = tokio::join!(swap(&live, &replacement, "crash_old"), crash);
        cluster.start_again().unwrap();
        let state = observe(&live, &replacement, "crash_old").await.unwrap();
        assert_eq!(which(&live).await, if state == SwapState::Done { "new" } else { "old" });
        swap(&live, &replacement, "crash_old").await.unwrap();
        assert!(matches!(
            read_mark(&live.maintenance().await.unwrap(), "crash").await.unwrap(),
            MarkState::Marked(mark) if mark.label.purpose == Purpose::Live
        ));
        swap(&live, "crash_old", &replacement).await.unwrap();
    }
    assert!(facts::exists(&live).await.unwrap());
}

#[tokio::test]
async fn a_subscription_is_bound_to_its_database() {
    let Some((_, live)) = fresh("bound").await else { return };
    let bound = async || piton_db::replication::bound(&live.connect().await.unwrap()).await.unwrap();
    assert!(bound().await.is_empty());
    let subscription = "create subscription bound_to connection 'host=nowhere' publication p with (connect = false, slot_name = none)";
    run(&live, subscription).await;
    assert_eq!(bound().await, ["the subscription bound_to"]);
    run(&live, "drop subscription bound_to").await;
}
