//! Measures a proved backup: dump, restore into a golden copy, compare every row and object.
//!
//! The peer is what people run by hand and never compare: `pg_dump -Fc`, then `pg_restore` into a new database. Run it with
//! `bench/proof` from the top of the repository; `PITON_BENCH_MB` sets the size.

#![expect(clippy::print_stdout, reason = "a benchmark ends at the first fault and prints its figures")]

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
use piton_testkit::bench::{self, Report, Row};
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
    let Some(cluster) = Cluster::start_with(Options { fsync: true, ..Options::default() }) else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&cluster, megabytes))
}

async fn measure(cluster: &Cluster, megabytes: u64) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let shop = Database::parse(&Secret::from(cluster.url("postgres")))?.with_name("shop");
    println!("making a shop of {megabytes} MB");
    bench::make_shop(cluster, "shop", megabytes).await?;

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

/// Does what a release does; returns how long dump, restore and comparison took, in seconds.
async fn piton(shop: &Database, dir: &Path) -> Result<[f64; 3], Box<dyn Error>> {
    let golden = shop.with_name("shop_golden");
    let made_for = MadeFor {
        app: "shop".into(),
        environment: "production".into(),
        release: "bench".into(),
        commit: String::new(),
        serving: None,
        from: None,
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
    made::drop_made(&golden, &label).await?;
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
