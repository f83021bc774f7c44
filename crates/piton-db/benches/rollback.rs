//! Measures how long nobody can write while a migrated database goes back with every later write: from the hold to the swap.
//!
//! The peer is what people do today, which loses those writes: `pg_restore` of the same backup into a new database. A writer goes on
//! all the time. Run it with `bench/rollback` from the top of the repository; `PITON_BENCH_MB` sets the sizes, as `100,1000,5000`.

#![expect(clippy::print_stdout, reason = "a benchmark ends at the first fault and prints its figures")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use piton_db::backup::{self, DumpOptions};
use piton_db::capture::{Source, create_slot, drop_slot, now, slot_name};
use piton_db::identity::{Label, Purpose};
use piton_db::manifest::MadeFor;
use piton_db::migrate::RecordTables;
use piton_db::prove::{self, Owners};
use piton_db::replay::{Replay, Watch, give_up, note_layout, offer, prepare};
use piton_db::swap::swap;
use piton_db::tools::Tools;
use piton_db::{Database, changes, made};
use piton_exec::{Command, Secret, local};
use piton_testkit::bench::{Report, Row, make_shop};
use piton_testkit::postgres::{Cluster, Options};

const JOBS: u32 = 2;
const GOAL: f64 = 50.0;
/// How many times a size is gone back; the backup and the restore by hand are made once.
const ROUNDS: usize = 3;

/// A migration that leaves no row as it was.
const MIGRATION: &str = "
    alter table orders rename note to remark; alter table items add weight int not null default 1;
    alter table customers alter name type varchar(200);
    create table parcels (id bigint generated always as identity primary key, order_id bigint references orders, sent date)";

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --all-targets` runs benchmarks too, without this; it has no minutes to spare.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let sizes = std::env::var("PITON_BENCH_MB").unwrap_or_else(|_| "100,1000,5000".into());
    let sizes = sizes.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    let settings = [("wal_level", "logical"), ("max_slot_wal_keep_size", "20GB"), ("max_wal_size", "8GB")];
    let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
    let Some(cluster) = Cluster::start_with(Options { fsync: true, settings, ..Options::default() }) else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rows = Vec::new();
    for megabytes in &sizes {
        rows.push(runtime.block_on(measure(&cluster, *megabytes))?);
    }
    let of = |megabytes: u64| sizes.iter().position(|size| *size == megabytes).map(|at| &rows[at]);
    let ratio = of(1000).and_then(|row| Some(row.peer? / row.ours));
    let held: Vec<f64> = rows.iter().map(|row| row.ours).collect();
    let flat = held.iter().copied().fold(0.0, f64::max) / held.iter().copied().fold(f64::INFINITY, f64::min);
    Report { name: "rollback", unit: "s", goal: "1 GB: peer / ours >= 50", rows }.publish()?;
    println!("the longest hold is {flat:.2} times the shortest");
    if let Some(ratio) = ratio {
        println!("goal, >= {GOAL} at 1 GB: {ratio:.0}, {}", if ratio >= GOAL { "reached" } else { "MISSED" });
    }
    Ok(())
}

fn label(purpose: Purpose) -> Label {
    Label { app: "shop".into(), environment: "production".into(), release: Some("bench".into()), purpose }
}

async fn measure(cluster: &Cluster, megabytes: u64) -> Result<Row, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let name = format!("shop_{megabytes}");
    let live = Database::parse(&Secret::from(cluster.url("postgres")))?.with_name(&name);
    println!("making a shop of {megabytes} MB");
    make_shop(cluster, &name, megabytes).await?;
    let (mut held, mut by_hand) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let backup = dir.path().join(format!("backup_{round}"));
        let Back { parts, took, written } = there_and_back(&live, &backup, round).await?;
        held.push(took.as_secs_f64());
        if round == 1 {
            by_hand.push(restored_by_hand(&live, &backup).await?.as_secs_f64());
        }
        let parts = parts.map(|(name, took)| format!("{:.3} s {name}", took.as_secs_f64()));
        println!(
            "round {round} of {ROUNDS}: held for {:.3} s, with {written} writes since the backup: {}",
            took.as_secs_f64(),
            parts.join(", ")
        );
        backup::discard(&backup).await?;
    }
    let row = Row::of(format!("{megabytes} MB, hold to swap"), &held, &by_hand, "pg_restore");
    cluster
        .connect("postgres")
        .await
        .batch_execute(&format!("drop database \"{name}\" with (force)"))
        .await?;
    Ok(row)
}

/// How a database went back.
struct Back {
    /// What the time went to.
    parts: [(&'static str, Duration); 4],
    /// How long the writer had to wait.
    took: Duration,
    /// How many rows it had written.
    written: u64,
}

/// Migrates a database under a writer and lets it go back.
async fn there_and_back(live: &Database, dir: &Path, round: usize) -> Result<Back, Box<dyn Error>> {
    let slot = slot_name(&format!("{}_{round}", live.dbname));
    let golden = live.with_name(&format!("{}_golden_{round}", live.dbname));
    let record = RecordTables::default();
    create_slot(live, &slot).await?;
    let writer = Writer::start(live);
    let made_for = MadeFor {
        app: "shop".into(),
        environment: "production".into(),
        release: "bench".into(),
        commit: String::new(),
        serving: None,
        from: None,
    };
    let options = DumpOptions { jobs: JOBS, ..DumpOptions::default() };
    let manifest = backup::dump(live, dir, &made_for, options, &mut |_| ()).await?;
    prove::restore(dir, &golden, &label(Purpose::Golden), Owners::Kept, JOBS, &mut |_| ()).await?;

    let copy = live.with_name(&format!("{}_copy_{round}", live.dbname));
    made::clone_from(&copy, &golden.dbname, &label(Purpose::Rehearsal)).await?;
    let watch = Watch::begin(&copy, &Source::log(&slot)).await?;
    copy.connect().await?.batch_execute(MIGRATION).await?;
    let own = watch.end(&record).await?;
    let offered = offer(&golden, &copy, &own, &record, &[]).await?;
    assert_eq!(offered.obstacles, [""; 0]);
    made::drop_made(&copy, &label(Purpose::Rehearsal)).await?;

    let sees = manifest.sees.ok_or("the backup does not say what it sees")?;
    prepare(&golden, live, &sees, &record, &offered.way).await?;
    live.connect().await?.batch_execute(MIGRATION).await?;
    note_layout(&golden, live).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    // As it goes on in the background until the way back closes.
    let mut replay = Replay::resume(&golden, live, &Source::log(&slot)).await?;
    for _ in 0..5 {
        let upto = now(&*live.connect().await?).await?;
        replay.reach(upto).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // A copy that was restored with the release is on the disk long before.
    live.connect().await?.batch_execute("checkpoint").await?;
    // As a release does before it holds requests.
    replay.look_ahead().await?;
    changes::send_autovacuum_away(&golden).await?;
    changes::send_autovacuum_away(live).await?;
    replay.reach(now(&*live.connect().await?).await?).await?;

    let begin = Instant::now();
    let frozen = changes::freeze(live, Duration::from_secs(5)).await?.ok_or("it does not keep still")?;
    let still = begin.elapsed();
    let upto = now(&*live.connect().await?).await?;
    replay.reach(upto).await?;
    let followed = begin.elapsed();
    let ready = replay.finish().await?;
    assert_eq!(ready.finished.aside, []);
    frozen.check().await?;
    let finished = ready.commit().await?;
    let whole = begin.elapsed();
    let old = format!("{}_old_{round}", live.dbname);
    swap(live, &golden.dbname, &old).await?;
    let took = begin.elapsed();
    let parts = [
        ("to keep still", still),
        ("to follow to the end", followed - still),
        ("to make it whole", whole - followed),
        ("to change places", took - whole),
    ];

    let acknowledged = writer.stop().await?;
    give_up(live).await?;
    drop_slot(live, &slot).await?;
    let there: i64 = live
        .connect()
        .await?
        .query_one("select count(*) from orders where state = 'bench'", &[])
        .await?
        .get(0);
    assert!(there.unsigned_abs() >= acknowledged, "{there} of {acknowledged} acknowledged orders");
    live.connect().await?.batch_execute("update orders set state = 'kept' where state = 'bench'").await?;
    made::drop_replaced(&live.with_name(&old), &label(Purpose::Replaced)).await?;
    Ok(Back { parts, took, written: finished.written })
}

/// Somebody who places orders all the time, up to two hundred a second.
struct Writer {
    task: tokio::task::JoinHandle<u64>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    fn start(live: &Database) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (live, told) = (live.clone(), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let (mut session, mut acknowledged) = (None, 0);
            // Behind a subquery, so that a number is drawn once and the row found by its key.
            let order = "with o as (insert into orders (customer, placed_at, state, total)
                             select id, now(), 'bench', 10 from customers where id = (select 1 + (random() * 1000)::int) returning id)
                         insert into items (order_id, product, quantity, price, label)
                             select id, 1, 1, 10, 'item' from o; ";
            let pay = "update orders set total = total + 1 where id = (select 1 + (random() * 10000)::int)";
            while !told.load(Ordering::SeqCst) {
                if session.is_none() {
                    session = live.connect().await.ok();
                }
                if let Some(client) = &session {
                    match client.execute(order, &[]).await {
                        Ok(orders) => acknowledged += orders,
                        Err(_) => session = None,
                    }
                }
                if let Some(client) = &session
                    && client.batch_execute(pay).await.is_err()
                {
                    session = None;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            acknowledged
        });
        Self { task, stop }
    }

    async fn stop(self) -> Result<u64, tokio::task::JoinError> {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await
    }
}

/// Restores the backup beside the live database, as fast as it goes by hand.
async fn restored_by_hand(live: &Database, dir: &Path) -> Result<Duration, Box<dyn Error>> {
    let client = live.connect().await?;
    let version: i32 =
        client.query_one("select current_setting('server_version_num')::int", &[]).await?.get(0);
    let tools = Tools::find(version.unsigned_abs() / 10_000).await?;
    client.batch_execute("create database by_hand template template0").await?;
    let begin = Instant::now();
    let restore = Command::new(tools.pg_restore.display().to_string())
        .args(["--exit-on-error", "-d", "by_hand", "-j", "2"])
        .arg(dir.join("dump").display().to_string());
    let output = local::run(&live.tool_env(restore)).await?;
    if !output.success() {
        return Err(output.stderr.into());
    }
    let took = begin.elapsed();
    client.batch_execute("drop database by_hand").await?;
    Ok(took)
}
