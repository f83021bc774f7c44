//! Measures a clone of a database, for a rehearsal or for staging.
//!
//! The peers are a plain `CREATE DATABASE … TEMPLATE`, which logs every page, and the same statement as Piton's by hand: what this one
//! takes is the server's and the disk's. Run it with `bench/clone` from the top of the
//! repository; `PITON_BENCH_MB` sets the size, `PITON_BENCH_CASE` the name of the case.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::error::Error;
use std::time::Instant;

use piton_db::identity::{Label, Purpose};
use piton_db::{Database, made};
use piton_exec::Secret;
use piton_testkit::bench::{self, Report, Row};
use piton_testkit::postgres::{Cluster, Options};

const RUNS: usize = 5;

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
    let server = Database::parse(&Secret::from(cluster.url("postgres")))?;
    println!("making a shop of {megabytes} MB");
    bench::make_shop(cluster, "golden", megabytes).await?;
    let client = server.connect().await?;
    let label = Label {
        app: "shop".into(),
        environment: "production".into(),
        release: Some("bench".into()),
        purpose: Purpose::Rehearsal,
    };
    let copy = server.with_name("copy");
    let reflink = std::env::var("PITON_BENCH_CASE").is_ok_and(|case| case == "reflink");
    if reflink {
        client.batch_execute("set file_copy_method = 'clone'").await?;
    }
    let (mut ours, mut plain, mut same) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=RUNS {
        let begin = Instant::now();
        made::clone_from(&copy, "golden", &label).await?;
        ours.push(begin.elapsed().as_secs_f64());
        made::drop_made(&copy, &label).await?;
        for (strategy, took) in [("wal_log", &mut plain), ("file_copy", &mut same)] {
            let begin = Instant::now();
            client
                .batch_execute(&format!("create database by_hand template golden strategy {strategy}"))
                .await?;
            took.push(begin.elapsed().as_secs_f64());
            client.batch_execute("drop database by_hand").await?;
        }
        let [ours, plain, same] = [&ours, &plain, &same].map(|took| took[run - 1]);
        println!("run {run} of {RUNS}: {ours:.3} s, by hand {plain:.3} s, by files {same:.3} s");
    }
    let (name, goal, most) = match reflink {
        false => ("clone", "<= 1 s by copying files", 1.0),
        true => ("clone-reflink", "<= 0.1 s where files share their blocks", 0.1),
    };
    let what = format!("a clone, {megabytes} MB");
    let row = Row::of(what.clone(), &ours, &plain, "CREATE DATABASE");
    let reached = row.ours <= most;
    let rows = vec![row, Row::of(what, &ours, &same, "STRATEGY FILE_COPY")];
    Report { name, unit: "s", goal, rows }.publish()?;
    println!("goal, {goal}: {}", if reached { "reached" } else { "MISSED" });
    Ok(())
}
