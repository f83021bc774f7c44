use std::time::{Duration, Instant};

use piton_db::blockers::Blocker;
use piton_db::capture::{
    Lsn, Message, Source, Stream, WalStatus, create_slot, create_slot_within, drop_slot, lag, missing, now,
    slot_name, snapshot,
};
use piton_db::{Database, DbError, replication};
use piton_exec::Secret;
use piton_testkit::postgres::{Cluster, Options, StopMode, eventually};
use tokio_postgres::Client;

use super::{fresh, has_plugin, start, told, transactions};
use crate::{database, number, run};

/// Whoever has written and does not end is named, and waited for no longer than is told.
#[tokio::test]
async fn who_keeps_a_slot_from_being_made_is_named() {
    let settings = [("wal_level", "logical"), ("max_prepared_transactions", "5")];
    let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
    let Some(cluster) = Cluster::start_with(Options { settings, ..Options::default() }) else { return };
    if !has_plugin(&cluster).await {
        return;
    }
    for name in ["quiet", "elsewhere"] {
        cluster.create_database(name).await;
    }
    let (live, elsewhere) = (database(&cluster, "quiet"), database(&cluster, "elsewhere"));
    run(&live, "create table t (id int)").await;
    run(&live, "begin; insert into t values (1); prepare transaction 'nobody ends it'").await;
    let writer = elsewhere.connect().await.unwrap();
    writer.batch_execute("set application_name = 'nightly'; begin; create table w (id int)").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let told = std::cell::RefCell::new(Vec::new());
    let at_most = Duration::from_secs(5);
    let waiting = |blockers: &[Blocker]| {
        told.borrow_mut().extend(blockers.iter().map(|blocker| blocker.who.clone()));
    };
    let given_up = create_slot_within(&live, "piton_quiet", at_most, waiting).await.unwrap().unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let who = |part: &str| given_up.iter().find(|blocker| blocker.who.contains(part));
    let nightly = who("(nightly)").unwrap();
    assert!(nightly.who.contains("idle in transaction on elsewhere, for "), "{}", nightly.who);
    let prepared = who("prepared transaction nobody ends it").unwrap();
    assert_eq!(prepared.end.as_deref(), Some("rollback prepared 'nobody ends it'"));
    assert!(told.borrow().iter().any(|who| who.contains("(nightly)")), "{told:?}");
    let client = live.connect().await.unwrap();
    assert_eq!(number(&client, "select count(*) from pg_replication_slots").await, 0);

    // Neither does the session of a killed attempt keep it, which waits for them still.
    let killed = live.connect().await.unwrap();
    let attempt = tokio::spawn(async move {
        let create = "select pg_create_logical_replication_slot('piton_quiet', 'test_decoding')";
        killed.batch_execute(create).await.unwrap_err()
    });
    eventually("an attempt waits", async || {
        number(&client, "select count(*) from pg_replication_slots where active").await == 1
    })
    .await;
    let given_up = create_slot_within(&live, "piton_quiet", at_most, |_| ()).await.unwrap().unwrap_err();
    assert!(given_up.iter().any(|blocker| blocker.who.contains("(nightly)")), "{given_up:?}");
    attempt.await.unwrap();

    // What it says ends them.
    client.batch_execute(prepared.end.as_deref().unwrap()).await.unwrap();
    client.batch_execute(nightly.end.as_deref().unwrap()).await.unwrap();
    create_slot_within(&live, "piton_quiet", at_most, |_| ()).await.unwrap().unwrap();
    drop_slot(&live, "piton_quiet").await.unwrap();
}

#[tokio::test]
async fn a_slot_is_made_once_and_removed_while_it_is_read() {
    let Some((cluster, live)) = fresh("capture_slot").await else { return };
    let slot = slot_name("01JSLOT-life");
    run(&live, "create table t (id int)").await;
    let place = create_slot(&live, &slot).await.unwrap();
    run(&live, "insert into t values (1)").await;
    assert_eq!(create_slot(&live, &slot).await.unwrap(), place);
    let client = live.connect().await.unwrap();
    assert_eq!(replication::bound(&client).await.unwrap(), Vec::<String>::new());
    for (name, plugin) in [("piton_slot_other_plugin", "pgoutput"), ("slot_of_somebody", "test_decoding")] {
        let create = format!("select pg_create_logical_replication_slot('{name}', '{plugin}')");
        client.batch_execute(&create).await.unwrap();
    }
    assert_eq!(replication::bound(&client).await.unwrap(), ["the logical replication slot slot_of_somebody"]);
    cluster.create_database("capture_slot_other").await;
    for (database, name) in
        [(&live, "piton_slot_other_plugin"), (&live.with_name("capture_slot_other"), slot.as_str())]
    {
        let error = create_slot(database, name).await.unwrap_err();
        let said = error.to_string();
        assert!(
            matches!(error, DbError::Replication { .. }) && said.contains("on the database capture_slot"),
            "{said}"
        );
    }
    let error = drop_slot(&live, "slot_of_somebody").await.unwrap_err();
    assert!(error.to_string().contains("none of Piton's"), "{error}");

    // One that is being read, and by another reader who waits for it.
    let mut stream = Stream::open(&live, &slot, Lsn::default()).await.unwrap();
    assert_eq!(transactions(told(&mut stream, &live).await).len(), 1);
    let behind = lag(&live, &slot).await.unwrap().unwrap();
    assert!(behind.behind > 0 && behind.wal_status == WalStatus::Reserved, "{behind:?}");
    assert!(behind.safe_wal_size.unwrap() > 500_000_000, "{behind:?}");
    assert_eq!(lag(&live.with_name("capture_slot_other"), &slot).await.unwrap(), None);
    let (second, ()) = tokio::join!(Stream::open(&live, &slot, Lsn::default()), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(stream);
    });
    let mut stream = second.unwrap();
    assert_eq!(transactions(told(&mut stream, &live).await).len(), 1, "nothing was confirmed");
    drop_slot(&live, &slot).await.unwrap();
    let ended = async {
        loop {
            if let Err(error) = stream.next().await {
                return error;
            }
        }
    };
    let ended = ended.await;
    assert_eq!(ended.code().unwrap().code(), "57P01", "{ended}");
    assert!(stream.next().await.is_err());
    drop_slot(&live, &slot).await.unwrap();
    assert_eq!(lag(&live, &slot).await.unwrap(), None);
    let error = Stream::open(&live, &slot, Lsn::default()).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42704", "{error}");

    drop_slot(&live, "piton_slot_other_plugin").await.unwrap();
    client.batch_execute("select pg_drop_replication_slot('slot_of_somebody')").await.unwrap();
    // A slot stays on its database, whatever that is called now.
    create_slot(&live, &slot).await.unwrap();
    drop(client);
    let admin = cluster.connect("postgres").await;
    eventually("nobody is in it", async || {
        admin.batch_execute("alter database capture_slot rename to capture_slot_old").await.is_ok()
    })
    .await;
    drop_slot(&live, &slot).await.unwrap();
    assert_eq!(
        number(&admin, &format!("select count(*) from pg_replication_slots where slot_name = '{slot}'"))
            .await,
        0
    );
}

#[tokio::test]
async fn what_was_confirmed_is_forgotten_and_nothing_else() {
    let Some((_, live)) = fresh("capture_confirm").await else { return };
    run(&live, "create table t (id int)").await;
    let slot = slot_name("confirm");
    let place = create_slot(&live, &slot).await.unwrap();
    for id in 0..3 {
        run(&live, &format!("insert into t values ({id})")).await;
    }
    let mut stream = Stream::open(&live, &slot, Lsn::default()).await.unwrap();
    let first = transactions(told(&mut stream, &live).await);
    assert_eq!(first.len(), 3);
    // It is read to its end, and the server still keeps it.
    let client = live.connect().await.unwrap();
    let confirmed = async || {
        let sql = "select (confirmed_flush_lsn - '0/0')::int8 from pg_replication_slots where slot_name = 'piton_confirm'";
        Lsn(number(&client, sql).await.unsigned_abs())
    };
    assert_eq!(confirmed().await, place);
    stream.confirm(first[0].end);
    eventually("it is told by itself", async || confirmed().await == first[0].end).await;
    stream.confirm(first[1].end);
    stream.confirm(first[0].end);
    drop(stream);
    let mut stream = Stream::open(&live, &slot, Lsn::default()).await.unwrap();
    assert_eq!(confirmed().await, first[1].end, "a stream that ends tells it");
    let again = transactions(told(&mut stream, &live).await);
    assert_eq!(again.iter().map(|told| told.xid).collect::<Vec<_>>(), [first[2].xid]);
    drop(stream);
    let mut stream = Stream::open(&live, &slot, first[2].end).await.unwrap();
    assert_eq!(transactions(told(&mut stream, &live).await).len(), 0, "the caller knows better");
    drop_slot(&live, &slot).await.unwrap();
}

/// The server waits for a reader that it ends; its other work waits with it.
#[tokio::test]
async fn a_reader_that_is_stopped_keeps_no_checkpoint_waiting() {
    let settings = [("wal_sender_timeout", "0"), ("max_slot_wal_keep_size", "16MB")];
    let Some(cluster) = start(false, &settings).await else { return };
    let live = database(&cluster, "postgres");
    let slot = slot_name("stopped");
    create_slot(&live, &slot).await.unwrap();
    let source = Source::log(&slot);
    let reader = source.open(&live, Lsn::default()).await.unwrap();
    // More than is on its way between them; nobody takes it.
    let much = "create table t as select repeat(md5(i::text), 30) as v from generate_series(1, 60000) i";
    run(&live, much).await;
    let client = live.connect().await.unwrap();
    let waits = "select count(*) from pg_stat_activity where wait_event = 'WalSenderWriteData'";
    // Not for a moment alone, in which the way between them grows.
    let blocked = async {
        let mut seen = 0;
        while seen < 100 {
            seen = if number(&client, waits).await == 1 { seen + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), blocked).await.unwrap();
    assert_eq!(source.lost(&live).await.unwrap(), None);
    tokio::time::timeout(Duration::from_secs(50), run(&live, "checkpoint")).await.unwrap();
    let lost = source.lost(&live).await.unwrap();
    assert_eq!(lost.as_deref(), Some("the server has let go of the log that it had to keep"));
    drop(reader);
    source.let_go(&live).await.unwrap();
}

/// Waits for a place, and returns how long it took.
async fn reached(stream: &mut Stream, wanted: Lsn) -> Duration {
    let began = Instant::now();
    stream.ask();
    while !matches!(stream.next().await.unwrap(), Message::UpTo(place) if place >= wanted) {}
    began.elapsed()
}

#[tokio::test]
async fn what_is_visible_is_at_or_before_now() {
    let Some((cluster, live)) = fresh("capture_now").await else { return };
    run(&live, "create table t (id int)").await;
    let mut stream = Stream::temporary(&live).await.unwrap();
    let hasty = cluster.connect("capture_now").await;
    hasty.batch_execute("set synchronous_commit = off").await.unwrap();
    for id in 0..40 {
        hasty.batch_execute(&format!("insert into t values ({id})")).await.unwrap();
        let told = transactions(told(&mut stream, &live).await);
        assert_eq!(told.len(), 1, "{id}");
    }
}

async fn next_record(client: &Client) -> i64 {
    number(client, "select (pg_current_wal_insert_lsn() - '0/0')::int8").await
}

/// Commits something whose record ends where its page does.
async fn end_with_page(client: &Client) {
    let emit = async |bytes: i64| {
        let before = next_record(client).await;
        let sql = format!("select pg_logical_emit_message(true, 'x', repeat('x', {bytes}))");
        client.batch_execute(&sql).await.unwrap();
        next_record(client).await - before
    };
    let mut beside = 0;
    for _ in 0..200 {
        let left = 8192 - next_record(client).await % 8192;
        if beside == 0 || left < beside + 400 {
            let took = emit(1000).await;
            // Without the header of another page.
            if left > 1200 {
                beside = took - 1000;
            }
            continue;
        }
        emit(left - beside).await;
        if next_record(client).await % 8192 == 24 {
            return;
        }
    }
    panic!("no record ends with its page");
}

/// A server on which nobody else writes, and nothing writes the log to the disk for somebody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_server_tells_its_place_at_once() {
    let settings =
        [("max_slot_wal_keep_size", "16MB"), ("max_replication_slots", "1"), ("max_wal_senders", "1")];
    let Some(cluster) = start(true, &settings).await else { return };
    let live = database(&cluster, "postgres");
    let client = cluster.connect("postgres").await;
    client.batch_execute("create table t (id int); checkpoint").await.unwrap();
    assert_eq!(missing(&client).await.unwrap(), []);
    let mut stream = Stream::temporary(&live).await.unwrap();
    let what: Vec<_> = missing(&client).await.unwrap().into_iter().map(|missing| missing.what).collect();
    let full = [
        "max_replication_slots is 1: there is no room for another replication slot",
        "max_wal_senders is 1: there is no room for another reader of the log",
    ];
    assert_eq!(what, full);

    let mut waits = Vec::new();
    for id in 0..20 {
        client.batch_execute(&format!("insert into t values ({id})")).await.unwrap();
        let wanted = now(&client).await.unwrap();
        waits.push(reached(&mut stream, wanted).await);
        // Again, with nothing new.
        waits.push(reached(&mut stream, wanted).await);
    }
    waits.sort();
    println!(
        "reached within {:?} in the middle and {:?} at most",
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
    assert!(waits[waits.len() / 2] < Duration::from_millis(50), "{waits:?}");

    for _ in 0..3 {
        end_with_page(&client).await;
        let next = next_record(&client).await;
        let (began, wanted) = (Instant::now(), now(&client).await.unwrap());
        assert_eq!(wanted.0, next.unsigned_abs() - 24, "the next page's header is no part of it");
        assert!(began.elapsed() < Duration::from_millis(300));
        reached(&mut stream, wanted).await;
    }

    // What an open transaction has logged is on no disk, and nobody is going to put it there.
    let writer = cluster.connect("postgres").await;
    writer.batch_execute("begin; insert into t values (-1)").await.unwrap();
    let (began, wanted) = (Instant::now(), now(&client).await.unwrap());
    let waited = began.elapsed();
    let reached = reached(&mut stream, wanted).await;
    println!("with an open transaction after {waited:?} and {reached:?}");
    assert!(waited + reached < Duration::from_secs(5));
    writer.batch_execute("commit").await.unwrap();

    // A server that is stopped does not wait for what its reader keeps nothing of.
    client.batch_execute("insert into t values (-2)").await.unwrap();
    let began = Instant::now();
    tokio::task::block_in_place(|| cluster.stop(StopMode::Fast)).unwrap();
    println!("stopped within {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10));
    while stream.next().await.is_ok() {}
    drop(client);
    cluster.start_again().unwrap();

    // What nobody reads is let go before it fills the disk, and that is told.
    let slot = slot_name("lost");
    create_slot(&live, &slot).await.unwrap();
    let client = cluster.connect("postgres").await;
    for _ in 0..4 {
        client.batch_execute("insert into t values (0)").await.unwrap();
        client.batch_execute("select pg_switch_wal()").await.unwrap();
        client.batch_execute("checkpoint").await.unwrap();
    }
    let lost = lag(&live, &slot).await.unwrap().unwrap();
    assert_eq!(lost.wal_status, WalStatus::Lost, "{lost:?}");
    let error = Stream::open(&live, &slot, Lsn::default()).await.unwrap_err();
    println!("{error}");
    assert!(matches!(error, DbError::Replication { code: Some(_), .. }), "{error}");
    drop_slot(&live, &slot).await.unwrap();
}

#[tokio::test]
async fn what_a_server_lacks_is_named_with_what_mends_it() {
    let Some((cluster, live)) = crate::fresh("capture_plain").await else { return };
    run(&live, "create role capture_plain_role login; create role \"Capture role\" login replication").await;
    let missing = async |user: &str| {
        let url = cluster.url_as(user, "x", "capture_plain");
        let client = Database::parse(&Secret::from(url)).unwrap().connect().await.unwrap();
        let all = missing(&client).await.unwrap();
        // The session is as it was.
        client.batch_execute("select 1").await.unwrap();
        all.into_iter().map(|missing| format!("{} | {}", missing.what, missing.mend)).collect::<Vec<_>>()
    };
    let server = [
        "wal_level is replica: the log does not tell the rows | ALTER SYSTEM SET wal_level = logical, then restart the server",
        "max_slot_wal_keep_size is -1: a slot that nobody reads would fill the disk | \
         ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf()",
    ];
    let plugin = "the plugin test_decoding is not installed | \
                  install the modules that come with PostgreSQL, as the package postgresql-contrib";
    let lacks = if has_plugin(cluster).await { Vec::new() } else { vec![plugin] };
    assert_eq!(missing("postgres").await, [&server[..], &lacks].concat());
    let version =
        number(&cluster.connect("postgres").await, "select current_setting('server_version_num')::int8")
            .await;
    let replay = |role: &str| {
        let mend = match version >= 150_000 {
            true => format!("GRANT SET ON PARAMETER session_replication_role TO {role}"),
            false => format!("ALTER ROLE {role} SUPERUSER"),
        };
        let name = role.trim_matches('"');
        format!(
            "{name} may not put rows into a copy without its triggers: it may not set session_replication_role | {mend}"
        )
    };
    let own = missing("capture_plain_role").await;
    assert_eq!(own[..2], server);
    let barred = "capture_plain_role may not read the log: it lacks REPLICATION | ALTER ROLE \"capture_plain_role\" REPLICATION";
    assert_eq!(own[2..], [barred.to_owned(), replay("\"capture_plain_role\"")]);
    assert_eq!(missing("Capture%20role").await[2..], [replay("\"Capture role\"")]);
    if version >= 150_000 {
        run(&live, "grant set on parameter session_replication_role to capture_plain_role").await;
        assert_eq!(missing("capture_plain_role").await[2..], [barred]);
        run(&live, "revoke set on parameter session_replication_role from capture_plain_role").await;
    }
    // On a server that has it all.
    let Some((_, live)) = fresh("capture_plain").await else { return };
    let client = live.connect().await.unwrap();
    assert_eq!(piton_db::capture::missing(&client).await.unwrap(), []);
    let seen = snapshot(&client).await.unwrap();
    let xid = super::xid(&client).await;
    assert!(!seen.sees(xid) && snapshot(&client).await.unwrap().sees(xid));

    let error = create_slot(&database(cluster, "capture_plain"), "piton_x").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "55000", "{error}");
    run(&live, "create role capture_plain_role login").await;
    let role = super::cluster().unwrap().url_as("capture_plain_role", "x", "capture_plain");
    let error = create_slot(&Database::parse(&Secret::from(role)).unwrap(), "piton_x").await.unwrap_err();
    assert!(matches!(&error, DbError::Privilege { mend, .. } if mend.contains("REPLICATION")), "{error}");
}
