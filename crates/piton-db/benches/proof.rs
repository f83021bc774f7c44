//! Measures a proved backup: dump, restore into a golden copy, compare every row and object.
//!
//! The peer is what people run by hand and never compare: `pg_dump -Fc`, then `pg_restore` into a new database. Run it with
//! `bench/proof` from the top of the repository; `PITON_BENCH_MB` sets the size.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark ends at the first fault and prints its figures"
)]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use piton_db::backup::{self, DumpOptions};
use piton_db::identity::{Label, Purpose};
use piton_db::manifest::{self, MadeFor};
use piton_db::prove::{self, Owners};
use piton_db::tools::Tools;
use piton_db::{Database, made};
use piton_exec::{Command, Secret, local};
use piton_testkit::bench::{Report, Row};
use piton_testkit::postgres::{Cluster, Options};

const RUNS: usize = 3;
const JOBS: u32 = 2;
const GOAL: f64 = 1.3;

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --all-targets` runs benchmarks too, without this; it has no minutes to spare.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let megabytes: u64 = std::env::var("PITON_BENCH_MB").map_or(Ok(1000), |text| text.parse())?;
    let Some(cluster) = Cluster::start_with(Options { fsync: true, settings: Vec::new() }) else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&cluster, megabytes))
}

async fn measure(cluster: &Cluster, megabytes: u64) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let shop = Database::parse(&Secret::from(cluster.url("postgres")))?.with_name("shop");
    cluster.create_database("shop").await;
    println!("making a shop of {megabytes} MB");
    make_shop(cluster, megabytes).await;

    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    let (mut dumps, mut restores, mut compares) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=RUNS {
        let parts = piton(&shop, &dir.path().join("backup")).await?;
        let by_hand = by_hand(&shop, &dir.path().join("shop.dump")).await?;
        println!(
            "run {run} of {RUNS}: dump {:.1} s, restore {:.1} s, compare {:.1} s; by hand {:.1} s and {:.1} s",
            parts[0], parts[1], parts[2], by_hand[0], by_hand[1]
        );
        ours.push(parts.iter().sum());
        peer.push(by_hand.iter().sum());
        dumps.push((parts[0], by_hand[0]));
        restores.push((parts[1], by_hand[1]));
        compares.push(parts[2]);
    }
    let split = |pairs: &[(f64, f64)]| pairs.iter().copied().unzip::<f64, f64, Vec<_>, Vec<_>>();
    let peer_name = "pg_dump+pg_restore";
    let whole = Row::of(format!("backup and proof, {megabytes} MB"), &ours, &peer, peer_name);
    let ratio = whole.ratio.unwrap_or(f64::NAN);
    let ((dump, dump_by_hand), (restore, restore_by_hand)) = (split(&dumps), split(&restores));
    let rows = vec![
        whole,
        Row::of("  dump, with the sums of its rows", &dump, &dump_by_hand, peer_name),
        Row::of("  restore, with checksums and statistics", &restore, &restore_by_hand, peer_name),
        Row::of("  compare", &compares, &[], peer_name),
    ];
    Report { name: "proof", unit: "s", goal: "<= 1.3", rows }.publish()?;
    println!("goal, <= {GOAL}: {}", if ratio <= GOAL { "reached" } else { "MISSED" });
    Ok(())
}

/// Fills the shop: customers, orders and their items, with keys, indexes and foreign keys as an app has them.
async fn make_shop(cluster: &Cluster, megabytes: u64) {
    // Measured: 1,000 orders with four items each take 0.79 MB with their indexes.
    let orders = megabytes * 1270;
    let client = cluster.connect("shop").await;
    let sql = format!(
        "create table customers (id bigint generated always as identity primary key, email text not null unique,
             name text not null, address jsonb not null, created_at timestamptz not null);
         create table orders (id bigint generated always as identity primary key,
             customer bigint not null references customers, placed_at timestamptz not null, state text not null,
             total numeric(12,2) not null, note text);
         create table items (id bigint generated always as identity primary key, order_id bigint not null references orders,
             product int not null, quantity int not null, price numeric(10,2) not null, label text not null);
         insert into customers (email, name, address, created_at)
             select 'customer' || i || '@example.org', initcap(substr(md5(i::text), 1, 8)) || ' ' || initcap(substr(md5((i * 7)::text), 1, 10)),
                    jsonb_build_object('street', substr(md5((i * 3)::text), 1, 14), 'number', i % 200, 'city', substr(md5((i % 900)::text), 1, 9)),
                    timestamptz '2024-01-01' + i * interval '71 seconds'
             from generate_series(1::bigint, {customers}) i;
         insert into orders (customer, placed_at, state, total, note)
             select 1 + i * 7919 % {customers}, timestamptz '2025-01-01' + i * interval '11 seconds',
                    (array['open', 'paid', 'sent', 'returned'])[1 + i % 4], (i * 37 % 90000) / 100.0,
                    case when i % 5 = 0 then 'note ' || md5(i::text) end
             from generate_series(1::bigint, {orders}) i;
         insert into items (order_id, product, quantity, price, label)
             select 1 + i % {orders}, i * 31 % 5000, 1 + i % 6, (i * 13 % 20000) / 100.0, 'item ' || md5((i * 17)::text)
             from generate_series(1::bigint, {items}) i;
         create index on orders (customer);
         create index on orders (placed_at);
         create index on items (order_id);
         create index on items (product, quantity);",
        customers = orders / 4,
        items = orders * 4,
    );
    client.batch_execute(&sql).await.unwrap();
    client.batch_execute("vacuum analyze").await.unwrap();
    client.batch_execute("checkpoint").await.unwrap();
    let size: i64 = client.query_one("select pg_database_size('shop')", &[]).await.unwrap().get(0);
    println!("it has {:.0} MB", size as f64 / 1e6);
}

/// Does what a release does; returns how long dump, restore and comparison took, in seconds.
async fn piton(shop: &Database, dir: &Path) -> Result<[f64; 3], Box<dyn Error>> {
    let golden = shop.with_name("shop_golden");
    let made_for = MadeFor {
        app: "shop".into(),
        environment: "production".into(),
        release: "bench".into(),
        commit: String::new(),
        serving: None,
    };
    let label = Label {
        app: "shop".into(),
        environment: "production".into(),
        release: Some("bench".into()),
        purpose: Purpose::Golden,
    };
    let begin = Instant::now();
    let options = DumpOptions { jobs: JOBS, ..DumpOptions::default() };
    let manifest = backup::dump(shop, dir, &made_for, options, &mut |_| ()).await?;
    let dumped = begin.elapsed().as_secs_f64();
    assert_eq!(manifest::verify_files(dir)?, []);
    prove::restore(dir, &golden, &label, Owners::Kept, JOBS, &mut |_| ()).await?;
    let restored = begin.elapsed().as_secs_f64();
    let proof = prove::compare(&manifest, &golden, Owners::Kept, &mut |_| ()).await?;
    let compared = begin.elapsed().as_secs_f64();
    assert!(proof.is_equal(), "{:?}", proof.differences);
    made::drop_made(&golden).await?;
    backup::discard(dir).await?;
    Ok([dumped, restored - dumped, compared - restored])
}

/// Does what the guides do; returns how long dump and restore took, in seconds.
async fn by_hand(shop: &Database, file: &Path) -> Result<[f64; 2], Box<dyn Error>> {
    let client = shop.connect().await?;
    let version: i32 =
        client.query_one("select current_setting('server_version_num')::int", &[]).await?.get(0);
    let tools = Tools::find(version.unsigned_abs() / 10_000).await?;
    let begin = Instant::now();
    let dump =
        Command::new(tools.pg_dump.display().to_string()).args(["-Fc", "-f"]).arg(file.display().to_string());
    succeed(&shop.tool_env(dump)).await?;
    let dumped = begin.elapsed().as_secs_f64();
    client.batch_execute("create database by_hand template template0").await?;
    let restore = Command::new(tools.pg_restore.display().to_string())
        .args(["--exit-on-error", "-d", "by_hand"])
        .arg(file.display().to_string());
    succeed(&shop.tool_env(restore)).await?;
    let restored = begin.elapsed().as_secs_f64();
    client.batch_execute("drop database by_hand").await?;
    fs_err::remove_file(file)?;
    Ok([dumped, restored - dumped])
}

async fn succeed(command: &Command) -> Result<(), Box<dyn Error>> {
    let output = local::run(command).await?;
    if output.success() { Ok(()) } else { Err(format!("{command}: {}", output.stderr).into()) }
}
