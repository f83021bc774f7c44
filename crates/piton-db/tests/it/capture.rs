use std::sync::OnceLock;
use std::time::Duration;

use piton_db::Database;
use piton_db::capture::{Change, Message, Stream, now};
use piton_testkit::postgres::{Cluster, Options};

use crate::{database, run};

/// Returns the cluster with logical decoding that the tests here share.
fn cluster() -> Option<&'static Cluster> {
    static LOGICAL: OnceLock<Option<Cluster>> = OnceLock::new();
    LOGICAL.get_or_init(|| Cluster::start_with(options(false))).as_ref()
}

fn options(fsync: bool) -> Options {
    let settings = [
        ("wal_level", "logical"),
        ("max_slot_wal_keep_size", "1GB"),
        ("max_replication_slots", "40"),
        ("max_wal_senders", "40"),
        ("max_prepared_transactions", "5"),
        ("autovacuum_naptime", "1d"),
    ];
    let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
    Options { fsync, settings, ..Options::default() }
}

async fn fresh(name: &str) -> Option<(&'static Cluster, Database)> {
    let cluster = cluster()?;
    cluster.create_database(name).await;
    Some((cluster, database(cluster, name)))
}

/// Reads all that is committed by now.
async fn told(stream: &mut Stream, live: &Database) -> Vec<Message> {
    let wanted = now(&live.connect().await.unwrap()).await.unwrap();
    let mut told = Vec::new();
    stream.ask();
    let read = async {
        loop {
            match stream.next().await.unwrap() {
                Message::UpTo(place) if place >= wanted => return,
                Message::UpTo(_) => {}
                message => told.push(message),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.unwrap();
    told
}

#[tokio::test]
async fn what_is_committed_is_told() {
    let Some((_, live)) = fresh("capture_first").await else { return };
    run(&live, "create table t (id int primary key, v text)").await;
    let mut stream = Stream::temporary(&live).await.unwrap();
    run(&live, "insert into t values (1, 'it''s')").await;
    let told = told(&mut stream, &live).await;
    let [
        Message::Begin { .. },
        Message::Change { change: Change::Insert { .. }, .. },
        Message::Commit { .. },
    ] = &told[..]
    else {
        panic!("{told:?}")
    };
}
