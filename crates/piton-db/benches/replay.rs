//! Measures how fast a golden copy follows: changes per second, read, carried back through a migration and applied by one task.
//!
//! The peer is PostgreSQL's own logical replication of the same writes into an equal table. Run it with `bench/replay` from the top
//! of the repository; `PITON_BENCH_CHANGES` sets how many changes there are.

#![expect(clippy::print_stdout, reason = "a benchmark ends at the first fault and prints its figures")]

use std::error::Error;
use std::time::{Duration, Instant};

use piton_db::Database;
use piton_db::capture::{Source, create_slot, drop_slot, now, slot_name, snapshot};
use piton_db::identity::{Label, Purpose};
use piton_db::made::{clone_from, drop_made};
use piton_db::migrate::RecordTables;
use piton_db::replay::{Offer, Replay, Watch, note_layout, offer, prepare};
use piton_exec::Secret;
use piton_testkit::bench::{Report, Row};
use piton_testkit::postgres::{Cluster, Options};

const ROUNDS: usize = 3;
const GOAL: f64 = 100_000.0;
/// How many rows there are before.
const ROWS: u64 = 200_000;

/// Half of the changes are updates, a quarter inserts and a quarter deletes; each transaction has twenty.
const WRITES: &str = "
    do $$ begin
        for i in 1..{transactions} loop
            update account set balance = balance + 1, note = 'changed ' || i where id between i * 7 % 190000 and i * 7 % 190000 + 9;
            insert into account (id, owner, balance, note)
                select 1000000 + i * 5 + n, 'owner ' || n, n, 'new' from generate_series(1, 5) n;
            delete from account where id between 1000000 + (i - 1) * 5 + 1 and 1000000 + (i - 1) * 5 + 5;
            commit;
        end loop;
    end $$";

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --all-targets` runs benchmarks too, without this; it has no minutes to spare.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let changes: u64 = std::env::var("PITON_BENCH_CHANGES").map_or(Ok(1_000_000), |text| text.parse())?;
    let settings = [("wal_level", "logical"), ("max_slot_wal_keep_size", "20GB"), ("max_wal_size", "8GB")];
    let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
    let Some(cluster) = Cluster::start_with(Options { fsync: true, settings, ..Options::default() }) else {
        return Ok(());
    };
    // As a release has it: one thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(&cluster, changes))
}

async fn measure(cluster: &Cluster, changes: u64) -> Result<(), Box<dyn Error>> {
    let transactions = changes / 20;
    let writes = WRITES.replace("{transactions}", &transactions.to_string());
    // The last round's inserts stay, and the first deletes nothing.
    let changes = (transactions * 20 - 5) as f64;
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let name = format!("bank_{round}");
        cluster.create_database(&name).await;
        let live = Database::parse(&Secret::from(cluster.url("postgres")))?.with_name(&name);
        let client = live.connect().await?;
        client.batch_execute(&format!(
            "create table account (id bigint primary key, owner text not null, balance bigint not null, note text,
                 created timestamptz not null default now());
             insert into account (id, owner, balance) select i, 'owner ' || i, 0 from generate_series(1, {ROWS}) i;
             create publication bench for all tables"
        )).await?;
        client.batch_execute("vacuum analyze").await?;
        drop(client);
        let (slot, golden, mirror) = (slot_name(&name), format!("{name}_golden"), format!("{name}_mirror"));
        let (golden, mirror) = (live.with_name(&golden), live.with_name(&mirror));
        create_slot(&live, &slot).await?;
        let client = live.connect().await?;
        client.batch_execute("select pg_create_logical_replication_slot('bench_peer', 'pgoutput')").await?;
        let sees = snapshot(&client).await?;
        drop(client);
        for copy in [&golden, &mirror] {
            copied(copy, &name).await?;
        }
        let offer = rehearsed(&golden, &live.with_name(&format!("{name}_copy"))).await?;
        assert_eq!(offer.obstacles, [""; 0]);
        prepare(&golden, &live, &sees, &RecordTables::default(), &offer.way).await?;
        let client = live.connect().await?;
        client.batch_execute(MIGRATION).await?;
        note_layout(&golden, &live).await?;
        client
            .batch_execute(
                &writes.replace("note = ", "remark = ").replace("balance, note", "balance, remark"),
            )
            .await?;
        client.batch_execute("checkpoint").await?;
        let upto = now(&client).await?;

        let begin = Instant::now();
        let mut replay = Replay::resume(&golden, &live, &Source::log(&slot)).await?;
        replay.reach(upto).await?;
        ours.push(changes / begin.elapsed().as_secs_f64());
        let finished = replay.finish().await?.commit().await?;
        assert_eq!(finished.aside, []);
        let taken = follow_natively(&live, &mirror).await?;
        peer.push(changes / taken.as_secs_f64());
        same(&golden, &mirror).await?;
        println!(
            "round {round} of {ROUNDS}: {:.0} changes/s, by a subscription {:.0}",
            ours[round - 1],
            peer[round - 1]
        );
        drop_slot(&live, &slot).await?;
    }
    let row = Row::of(format!("{changes:.0} changes, 20 a transaction"), &ours, &peer, "subscription");
    let reached = row.ours;
    Report { name: "replay", unit: "changes/s", goal: ">= 100,000", rows: vec![row] }.publish()?;
    println!("goal, >= {GOAL}: {}", if reached >= GOAL { "reached" } else { "MISSED" });
    Ok(())
}

/// What the replay carries changes back through.
const MIGRATION: &str = "alter table account rename note to remark; alter table account add flags int";

fn label() -> Label {
    Label { app: "bank".into(), environment: "production".into(), release: None, purpose: Purpose::Golden }
}

/// Copies a database as soon as nobody is on it.
async fn copied(to: &Database, from: &str) -> Result<(), Box<dyn Error>> {
    for _ in 0..50 {
        match clone_from(to, from, &label()).await {
            Ok(_) => return Ok(()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    clone_from(to, from, &label()).await?;
    Ok(())
}

async fn rehearsed(golden: &Database, copy: &Database) -> Result<Offer, Box<dyn Error>> {
    copied(copy, &golden.dbname).await?;
    let watch = Watch::begin(copy, &Source::log("")).await?;
    copy.connect().await?.batch_execute(MIGRATION).await?;
    let own = watch.end(&RecordTables::default()).await?;
    let offer = offer(golden, copy, &own, &RecordTables::default(), &[]).await?;
    drop_made(copy, &label()).await?;
    Ok(offer)
}

/// Lets a subscription follow to the end; returns how long that took.
///
/// Its table has the old names: the writes do not, so that the peer's is a table of the new ones.
async fn follow_natively(live: &Database, mirror: &Database) -> Result<Duration, Box<dyn Error>> {
    let client = mirror.connect().await?;
    client.batch_execute(MIGRATION).await?;
    let source = live.connect().await?;
    let wanted = now(&source).await?.to_string();
    let begin = Instant::now();
    client
        .batch_execute(&format!(
            "create subscription bench connection 'host={} port={} user={} dbname={}' publication bench
             with (create_slot = false, slot_name = 'bench_peer', copy_data = false)",
            live.host, live.port, live.user, live.dbname
        ))
        .await?;
    let done = "select coalesce(confirmed_flush_lsn >= $1::text::pg_lsn, false) from pg_replication_slots
                where slot_name = 'bench_peer'";
    while !source.query_one(done, &[&wanted]).await?.get::<_, bool>(0) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = begin.elapsed();
    client.batch_execute("drop subscription bench").await?;
    Ok(took)
}

/// Makes sure that both have followed to the same rows.
async fn same(golden: &Database, mirror: &Database) -> Result<(), Box<dyn Error>> {
    let sum = "select count(*), sum(id * balance), md5(string_agg(owner || coalesce(%, '-'), ',' order by id)) from account";
    let read = async |database: &Database, note: &str| -> Result<String, Box<dyn Error>> {
        let row = database
            .connect()
            .await?
            .query_one(&format!("select t::text from ({}) t", sum.replace('%', note)), &[])
            .await?;
        Ok(row.get(0))
    };
    assert_eq!(read(golden, "note").await?, read(mirror, "remark").await?);
    Ok(())
}
