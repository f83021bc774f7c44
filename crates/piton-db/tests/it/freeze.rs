use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use piton_db::changes::{freeze, send_autovacuum_away, since};
use piton_db::identity::Purpose;
use piton_db::made::clone_from;
use piton_db::swap::swap;
use piton_db::{Database, DbError};
use piton_testkit::postgres::{Cluster, Options, eventually};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::{HARD, fresh, label, number, quiet, run};

const PATIENCE: Duration = Duration::from_secs(20);
const ROUNDS: usize = 10;

/// Four sessions that write as fast as they can, half of them in transactions of several statements, and connect again when ended.
struct Writers {
    tasks: Vec<JoinHandle<HashSet<i64>>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Writers {
    fn start(live: &Database, first: i64) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let tasks = (0..4)
            .map(|writer| {
                tokio::spawn(write(live.clone(), first + writer, stop.clone(), acknowledged.clone()))
            })
            .collect();
        Self { tasks, stop, acknowledged }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    async fn stop(self) -> HashSet<i64> {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = HashSet::new();
        for task in self.tasks {
            all.extend(task.await.unwrap());
        }
        all
    }
}

async fn write(live: Database, first: i64, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> HashSet<i64> {
    let (mut session, mut acknowledged, mut id) = (None, HashSet::new(), first);
    while !stop.load(Ordering::SeqCst) {
        if session.is_none() {
            session = live.connect().await.ok();
        }
        let Some(client) = &session else { continue };
        id += 4;
        let sql = if id % 2 == 0 {
            format!("insert into w values ({id})")
        } else {
            format!("begin; update which set n = n + 1; insert into w values ({id}); commit")
        };
        match client.batch_execute(&sql).await {
            Ok(()) => {
                acknowledged.insert(id);
                count.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) => session = None,
        }
    }
    acknowledged
}

async fn ids(db: &Database) -> HashSet<i64> {
    let rows = db.connect().await.unwrap().query("select id from w", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until a session waits for the freeze.
async fn waiting(client: &Client) {
    let waiting = "select count(*) from pg_locks where not granted and mode = 'RowExclusiveLock'
                   and database = (select oid from pg_database where datname = current_database())";
    eventually("a writer waits", async || number(client, waiting).await > 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_gets_into_a_frozen_database_that_is_swapped_away() {
    let Some((cluster, live)) = fresh("frozen").await else { return };
    run(&live, "create table w (id bigint); create table which (n bigint); insert into which values (0)")
        .await;
    for round in 0..ROUNDS {
        let (golden, old) = (format!("frozen_golden_{round}"), format!("frozen_old_{round}"));
        let golden = live.with_name(&golden);
        cluster_is_free_of(cluster, "frozen").await;
        clone_from(&golden, "frozen", &label(Purpose::Golden)).await.unwrap();
        let before = ids(&live).await;

        let writers = Writers::start(&live, i64::try_from(round).unwrap() * 1_000_000_000);
        eventually("they write", async || writers.acknowledged() > 50).await;
        let frozen = freeze(&live, PATIENCE).await.unwrap().unwrap();
        let acknowledged = writers.acknowledged();
        waiting(&cluster.connect("frozen").await).await;
        let changes = since(&golden, &live, None, &mut quiet).await.unwrap();
        frozen.check().await.unwrap();
        swap(&live, &golden.dbname, &old).await.unwrap();
        assert!(frozen.check().await.is_err(), "the swap ended it");
        let after = writers.acknowledged();
        eventually("they go on", async || writers.acknowledged() > after + 20).await;
        let acknowledged_at_all = writers.stop().await;

        let seen = changes.iter().find(|change| change.table == "\"public\".\"w\"").unwrap();
        assert!(seen.only_in_live >= acknowledged, "{seen:?} {acknowledged}");
        let replaced = ids(&live.with_name(&old)).await;
        assert_eq!(
            (replaced.len() - before.len()) as u64,
            seen.only_in_live,
            "round {round}: a write slipped through"
        );
        let now = ids(&live).await;
        let lost: Vec<_> =
            acknowledged_at_all.iter().filter(|id| !replaced.contains(id) && !now.contains(id)).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}

/// A template may have no sessions, and those that were dropped take a moment to end.
async fn cluster_is_free_of(cluster: &Cluster, name: &str) {
    let client = cluster.connect("postgres").await;
    let sessions = format!("select count(*) from pg_stat_activity where datname = '{name}'");
    eventually("no sessions", async || number(&client, &sessions).await == 0).await;
}

#[tokio::test]
async fn every_kind_of_table_is_frozen_and_can_be_read() {
    let Some((cluster, live)) = fresh("freeze_all").await else { return };
    run(&live, HARD).await;
    let frozen = freeze(&live, PATIENCE).await.unwrap().unwrap();
    let client = cluster.connect("freeze_all").await;
    client.batch_execute("set lock_timeout = 50").await.unwrap();
    for write in [
        r#"insert into "User" (email) values ('new')"#,
        r#"delete from "Büro"."a ""b"" c""#,
        "insert into part values (1, '2026-01-05')",
        "update part_2 set id = 1",
        "insert into child values (1)",
        "update parent set a = 1",
        "insert into scratch values (1)",
        "truncate nothing",
        "alter table empty add b int default 1",
        "drop table dropped",
    ] {
        let code = client.batch_execute(write).await.unwrap_err().code().unwrap().code().to_owned();
        assert_eq!(code, "55P03", "{write}");
    }
    assert_eq!(number(&client, r#"select count(*) from "User""#).await, 500);
    assert!(since(&live, &live, None, &mut quiet).await.unwrap().is_empty());
    // A writer waits and then goes on.
    let writer = cluster.connect("freeze_all").await;
    let writer =
        tokio::spawn(async move { writer.batch_execute("insert into nothing default values").await });
    waiting(&client).await;
    drop(frozen);
    writer.await.unwrap().unwrap();
    client.batch_execute("reset lock_timeout; update part_2 set id = 1").await.unwrap();
}

#[tokio::test]
async fn a_freeze_that_is_not_to_be_had_leaves_nothing_locked() {
    let Some((cluster, live)) = fresh("freeze_busy").await else { return };
    run(&live, "create table a (id int); create table b (id int)").await;
    let writer = cluster.connect("freeze_busy").await;
    writer.batch_execute("begin; insert into b values (1)").await.unwrap();
    assert!(freeze(&live, Duration::from_millis(300)).await.unwrap().is_none());
    let other = cluster.connect("freeze_busy").await;
    other.batch_execute("set lock_timeout = 2000; insert into a values (1)").await.unwrap();

    // It waits through several attempts, in which the writer is not ended for a deadlock.
    let (frozen, ()) = tokio::join!(freeze(&live, PATIENCE), async {
        let asks = "select count(*) from pg_locks where not granted and mode = 'ShareLock'
                    and database = (select oid from pg_database where datname = current_database())";
        eventually("it waits", async || number(&other, asks).await > 0).await;
        writer.batch_execute("insert into a values (2); commit").await.unwrap();
    });
    let frozen = frozen.unwrap().unwrap();
    // Whoever ends it frees the tables, and the check tells.
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database() and application_name = 'piton freeze'";
    assert_eq!(number(&other, end).await, 1);
    other.batch_execute("insert into b values (3)").await.unwrap();
    assert!(frozen.check().await.is_err());
    // As does giving it up in the middle.
    writer.batch_execute("begin; insert into b values (1)").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), freeze(&live, PATIENCE)).await.is_err());
    other.batch_execute("reset lock_timeout; insert into a values (4)").await.unwrap();
}

#[tokio::test]
async fn a_user_who_may_not_lock_is_told_what_grants_it() {
    let Some((cluster, live)) = fresh("freeze_user").await else { return };
    run(&live, "create table a (id int); create role freeze_user_role login").await;
    let url = cluster.url_as("freeze_user_role", "x", "freeze_user");
    let user = Database::parse(&piton_exec::Secret::from(url)).unwrap();
    let error = freeze(&user, PATIENCE).await.unwrap_err();
    assert!(matches!(error, DbError::Privilege { .. }), "{error}");
}

#[tokio::test]
async fn autovacuum_has_gone_before_anybody_has_to_wait() {
    let settings = [
        ("autovacuum_naptime", "1s"),
        ("autovacuum_vacuum_cost_delay", "100ms"),
        ("deadlock_timeout", "100ms"),
    ];
    let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
    let Some(cluster) = Cluster::start_with(Options { settings, ..Options::default() }) else { return };
    cluster.create_database("vacuumed").await;
    let live = Database::parse(&piton_exec::Secret::from(cluster.url("vacuumed"))).unwrap();
    assert!(!send_autovacuum_away(&live).await.unwrap(), "nobody is there");
    run(
        &live,
        "create table \"W w\" (id bigint, filler text) with (autovacuum_vacuum_cost_limit = 1);
         insert into \"W w\" select i, repeat('x', 500) from generate_series(1, 20000) i; delete from \"W w\" where id % 2 = 0",
    )
    .await;
    let client = cluster.connect("vacuumed").await;
    let worker = "select coalesce(max(l.virtualtransaction), '') from pg_locks l join pg_stat_activity a using (pid)
                  where a.backend_type = 'autovacuum worker' and l.relation = '\"W w\"'::regclass and l.granted";
    let at_it = async || client.query_one(worker, &[]).await.unwrap().get::<_, String>(0);
    eventually("autovacuum is at it", async || !at_it().await.is_empty()).await;
    let before = at_it().await;

    assert!(send_autovacuum_away(&live).await.unwrap());
    assert_ne!(at_it().await, before, "it has given way");
    client.batch_execute("insert into \"W w\" values (0)").await.unwrap();
}
