use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use piton_db::Database;
use piton_db::capture::{Change, Lsn, Message, Stream, create_slot, drop_slot, slot_name};
use piton_testkit::postgres::{StopMode, eventually};
use tokio::task::JoinHandle;

use super::{fresh, inserted, start, told, transactions};
use crate::{database, run};

/// Sessions that insert rows of ever new numbers into `w`, in transactions of many kinds, and connect again when ended.
pub(super) struct Writers {
    tasks: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Writers {
    fn start(live: &Database) -> Self {
        Self::start_with(live, |id| match id / 4 % 5 {
            0 => format!("insert into w values ({id})"),
            1 => format!("begin; insert into w values ({id}); rollback"),
            2 => format!(
                "begin; savepoint s; insert into w values (-{id}); rollback to s; savepoint u; insert into w values ({id}); commit"
            ),
            3 => format!(
                "begin; insert into w values ({id}); select pg_sleep(0.02); update w set id = id where id = {id}; commit"
            ),
            _ => format!(
                "insert into w select {id}; delete from w where id = {id}; insert into w values ({id})"
            ),
        })
    }

    /// Each transaction is what `sql` makes for its number.
    pub(super) fn start_with(live: &Database, sql: fn(u64) -> String) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let write = |writer| tokio::spawn(write(live.clone(), sql, writer, stop.clone(), done.clone()));
        let tasks = (0..4).map(write).collect();
        Self { tasks, stop, done }
    }

    pub(super) async fn have_done(&self, more: u64) {
        let before = self.done.load(Ordering::SeqCst);
        eventually("they write", async || self.done.load(Ordering::SeqCst) >= before + more).await;
    }

    pub(super) async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

async fn write(
    live: Database,
    sql: fn(u64) -> String,
    writer: u64,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) {
    let (mut session, mut id) = (None, writer);
    while !stop.load(Ordering::SeqCst) {
        if session.is_none() {
            session = live.connect().await.ok();
        }
        let Some(client) = &session else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        id += 4;
        let commit = if id % 3 == 0 { "off" } else { "on" };
        let sql = sql(id);
        match client.batch_execute(&format!("set synchronous_commit = {commit}; {sql}")).await {
            Ok(()) => _ = done.fetch_add(1, Ordering::SeqCst),
            Err(_) => session = None,
        }
    }
}

/// The rows of `w`, none of them twice.
pub(super) async fn ids(live: &Database) -> HashSet<i64> {
    let rows = live.connect().await.unwrap().query("select id from w", &[]).await.unwrap();
    let ids: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(ids.len(), rows.len());
    ids
}

/// What a consumer keeps: the rows, and up to where.
#[derive(Default)]
struct Kept {
    ids: HashSet<i64>,
    upto: Lsn,
}

impl Kept {
    /// Keeps one transaction, all or nothing.
    fn take(&mut self, changes: &[Change], end: Lsn) {
        for change in changes {
            match change {
                Change::Insert { .. } => {
                    let id = inserted(change).parse().unwrap();
                    assert!(self.ids.insert(id), "{id} came twice");
                }
                Change::Delete { old: Some(old), .. } => {
                    let piton_db::capture::Value::Text(id) = &old.values[0] else { panic!("{old:?}") };
                    assert!(self.ids.remove(&id.parse().unwrap()), "{id} was never there");
                }
                Change::Update { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(end > self.upto, "{end} {}", self.upto);
        self.upto = end;
    }

    /// Reads on until so many transactions are kept or the stream ends.
    async fn read(&mut self, stream: &mut Stream, most: usize) -> bool {
        let (mut open, mut kept) = (Vec::new(), 0);
        while kept < most {
            match stream.next().await {
                Ok(Message::Begin { .. }) => open.clear(),
                Ok(Message::Change { change, .. }) => open.push(change),
                Ok(Message::Commit { end, .. }) => {
                    self.take(&open, end);
                    kept += 1;
                }
                Ok(Message::UpTo(_)) => {}
                Err(_) => return false,
            }
        }
        true
    }

    async fn finish(&mut self, stream: &mut Stream, live: &Database) {
        for transaction in transactions(told(stream, live).await) {
            self.take(&transaction.changes, transaction.end);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_goes_on_where_it_was() {
    let Some((cluster, live)) = fresh("capture_cut").await else { return };
    run(&live, "create table w (id bigint primary key)").await;
    let slot = slot_name("cut");
    create_slot(&live, &slot).await.unwrap();
    let admin = cluster.connect("capture_cut").await;
    let end = format!(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}' and active_pid is not null"
    );
    let writers = Writers::start(&live);
    let mut kept = Kept::default();
    for round in 0..24 {
        let from = match round % 3 {
            // A stream that was dropped has told the server what was confirmed.
            1 => Lsn::default(),
            _ => kept.upto,
        };
        let mut stream = Stream::open(&live, &slot, from).await.unwrap();
        assert!(kept.read(&mut stream, 7 + round * 3).await);
        match round % 3 {
            0 => stream.confirm(kept.upto),
            1 => {
                admin.batch_execute(&end).await.unwrap();
                assert!(!kept.read(&mut stream, usize::MAX).await);
            }
            // In the middle of a transaction, as likely as not.
            _ => _ = stream.next().await.unwrap(),
        }
    }
    writers.have_done(20).await;
    writers.stop().await;
    let mut stream = Stream::open(&live, &slot, kept.upto).await.unwrap();
    kept.finish(&mut stream, &live).await;
    assert_eq!(kept.ids, ids(&live).await);
    assert!(kept.ids.len() > 100);
    drop_slot(&live, &slot).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_after_the_server_has_crashed() {
    let Some(cluster) = start(true, &[]).await else { return };
    let live = database(&cluster, "postgres");
    run(&live, "create table w (id bigint primary key)").await;
    let slot = slot_name("crash");
    create_slot(&live, &slot).await.unwrap();
    let writers = Writers::start(&live);
    let mut kept = Kept::default();
    for round in 0..5 {
        let mut stream = Stream::open(&live, &slot, kept.upto).await.unwrap();
        assert!(kept.read(&mut stream, 20 + round * 10).await);
        if round % 2 == 0 {
            stream.confirm(kept.upto);
        }
        writers.have_done(10).await;
        let (ended, stopped) = tokio::join!(kept.read(&mut stream, usize::MAX), async {
            tokio::task::block_in_place(|| cluster.stop(StopMode::Immediate))
        });
        assert!(!ended);
        stopped.unwrap();
        cluster.start_again().unwrap();
    }
    writers.have_done(10).await;
    writers.stop().await;
    let mut stream = Stream::open(&live, &slot, kept.upto).await.unwrap();
    kept.finish(&mut stream, &live).await;
    // What was read of it is in it, although the crash took what no disk had.
    assert_eq!(kept.ids, ids(&live).await);
}
