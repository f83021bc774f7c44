//! Measures what a live database's writers pay for a slot, and how fast it is read.
//!
//! pgbench's TPC-B saturates the machine: without a slot, with one that this process reads all the time, which takes its share of the
//! same processors, with one that nobody reads, and with triggers in a slot's place, which this process reads as well. What the server's sender and the reader take of the processor is told for itself:
//! on a machine with a processor to spare the writers do not pay for it. Run it with `bench/capture` from the top of the repository;
//! `PITON_BENCH_SECONDS` sets how long each run takes, `PITON_BENCH_SCALE` pgbench's scale.

#![expect(clippy::print_stdout, reason = "a benchmark ends at the first fault and prints its figures")]

use std::error::Error;
use std::time::{Duration, Instant};

use piton_db::Database;
use piton_db::capture::triggers::{self, Store};
use piton_db::capture::{Lsn, Message, Stream, create_slot, drop_slot, now};
use piton_exec::{Command, Secret, local};
use piton_testkit::bench::{Report, Row};
use piton_testkit::postgres::{Cluster, Options};
use tokio::sync::oneshot;

const ROUNDS: usize = 9;
const SLOT: &str = "piton_bench";
const GOAL: f64 = 0.97;
const GOAL_OF_TRIGGERS: f64 = 0.85;
/// How many rows the transaction has by which the reading is measured.
const ROWS: u64 = 1_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --all-targets` runs benchmarks too, without this; it has no minutes to spare.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let settings = [("wal_level", "logical"), ("max_slot_wal_keep_size", "20GB"), ("max_wal_size", "8GB")];
    let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
    let Some(cluster) = Cluster::start_with(Options { fsync: true, settings, ..Options::default() }) else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(&cluster))
}

async fn measure(cluster: &Cluster) -> Result<(), Box<dyn Error>> {
    let variable = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let (seconds, scale) = (variable("PITON_BENCH_SECONDS", "10"), variable("PITON_BENCH_SCALE", "20"));
    cluster.create_database("bank").await;
    let bank = Database::parse(&Secret::from(cluster.url("postgres")))?.with_name("bank");
    let pgbench = |arguments: &[&str]| {
        let program = cluster.bin_dir().join("pgbench").display().to_string();
        bank.tool_env(Command::new(program).args(arguments.iter().copied()))
    };
    println!("making a bank of scale {scale}");
    succeed(&pgbench(&["-i", "-q", "-s", &scale])).await?;
    let run = async || {
        cluster.connect("bank").await.batch_execute("checkpoint").await?;
        tps(&succeed(&pgbench(&["-c", "4", "-j", "2", "-T", &seconds])).await?)
    };
    // The first run finds nothing in memory.
    run().await?;

    let (mut none, mut read, mut unread, mut noted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        none.push(run().await?);
        create_slot(&bank, SLOT).await?;
        let reader = Reader::start(&bank).await?;
        read.push(run().await?);
        let end = reader.stop(&bank).await?;
        drop_slot(&bank, SLOT).await?;
        create_slot(&bank, SLOT).await?;
        unread.push(run().await?);
        drop_slot(&bank, SLOT).await?;
        triggers::install(&bank, 20 << 30).await?;
        let reading = tokio::spawn(read_noted(bank.clone()));
        noted.push(run().await?);
        reading.abort();
        triggers::remove(&bank).await?;
        println!(
            "round {round} of {ROUNDS}: {:.0} tps without a slot, {:.0} read, {:.0} unread, {:.0} with triggers; {} changes read, caught up in {:.3} s; \
             the sender took {:.1} µs a change, the reader {:.1}",
            none[round - 1],
            read[round - 1],
            unread[round - 1],
            noted[round - 1],
            end.changes,
            end.caught_up.as_secs_f64(),
            end.sender * 1e6 / end.changes as f64,
            end.reader * 1e6 / end.changes as f64,
        );
    }
    let (rate, own) = reads(&bank).await?;
    println!(
        "reading a transaction of {ROWS} rows: {rate:.0} rows a second, {own:.0} rows a second of our own processor time"
    );
    let rows = vec![
        Row::of("TPC-B with a slot that Piton reads", &read, &none, "no slot"),
        Row::of("TPC-B with a slot that nobody reads", &unread, &none, "no slot"),
        Row::of("TPC-B with triggers that Piton reads", &noted, &none, "no triggers"),
    ];
    let [ratio, _, of_triggers] = [0, 1, 2].map(|at: usize| rows[at].ratio.unwrap_or(f64::NAN));
    Report { name: "capture", unit: "tps", goal: ">= 0.97, with triggers >= 0.85", rows }.publish()?;
    let said = |reached: bool| if reached { "reached" } else { "MISSED" };
    println!("goal, >= {GOAL}: {}", said(ratio >= GOAL));
    println!("goal of triggers, >= {GOAL_OF_TRIGGERS}: {}", said(of_triggers >= GOAL_OF_TRIGGERS));
    Ok(())
}

/// Reads what triggers note, a window a second as a release does.
async fn read_noted(bank: Database) -> Result<(), piton_db::DbError> {
    let mut store = Store::open(&bank, Lsn::default()).await?;
    loop {
        let upto = triggers::now(&*bank.connect().await?).await?;
        store.ask();
        loop {
            match store.next().await? {
                Message::UpTo(place) if place >= upto => break,
                _ => {}
            }
        }
        store.confirm(upto);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Reads a slot all the time.
struct Reader {
    until: oneshot::Sender<Lsn>,
    task: tokio::task::JoinHandle<Result<u64, piton_db::DbError>>,
    sender: i64,
    took: [f64; 2],
}

/// What a reader has done; processor times are in seconds.
struct Read {
    changes: u64,
    caught_up: Duration,
    sender: f64,
    reader: f64,
}

impl Reader {
    async fn start(bank: &Database) -> Result<Self, Box<dyn Error>> {
        let mut stream = Stream::open(bank, SLOT, Lsn::default()).await?;
        let (until, mut asked) = oneshot::channel();
        let task = tokio::spawn(async move {
            let (mut changes, mut upto, mut wanted) = (0, Lsn::default(), None);
            loop {
                tokio::select! {
                    message = stream.next() => match message? {
                        Message::Begin { .. } => {}
                        Message::Change { .. } => changes += 1,
                        Message::Commit { end, .. } => {
                            upto = end;
                            stream.confirm(end);
                        }
                        Message::UpTo(place) => upto = place,
                    },
                    place = &mut asked, if wanted.is_none() => {
                        wanted = Some(place.unwrap_or_default());
                        stream.ask();
                    }
                }
                if wanted.is_some_and(|wanted| upto >= wanted) {
                    return Ok(changes);
                }
            }
        });
        let pid = "select active_pid::int8 from pg_catalog.pg_replication_slots where slot_name = $1";
        let sender = bank.connect().await?.query_one(pid, &[&SLOT]).await?.get(0);
        Ok(Self { until, task, sender, took: [processor(&sender.to_string())?, processor("self")?] })
    }

    async fn stop(self, bank: &Database) -> Result<Read, Box<dyn Error>> {
        let end = now(&*bank.connect().await?).await?;
        let begin = Instant::now();
        // Before the reader ends, and the sender with it.
        let sender = processor(&self.sender.to_string())? - self.took[0];
        let reader = processor("self")? - self.took[1];
        self.until.send(end).map_err(|_| "the reader has ended")?;
        let changes = self.task.await??;
        Ok(Read { changes, caught_up: begin.elapsed(), sender, reader })
    }
}

/// Returns how many seconds of a processor a process has taken.
fn processor(pid: &str) -> Result<f64, Box<dyn Error>> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold blanks; the times are in hundredths.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks =
        |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<f64>().ok()).ok_or("no processor time");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// Returns how many rows a second are read of a large transaction that the server has logged, and how many we could.
async fn reads(bank: &Database) -> Result<(f64, f64), Box<dyn Error>> {
    create_slot(bank, SLOT).await?;
    let client = bank.connect().await?;
    let fill = format!(
        "create table big (id int, name text, n numeric, at timestamptz, note text);
         insert into big select i, 'row ' || i, i / 7.0, now(), md5(i::text) from generate_series(1, {ROWS}) i"
    );
    client.batch_execute(&fill).await?;
    let mut stream = Stream::open(bank, SLOT, Lsn::default()).await?;
    let (mut changes, mut begin, took) = (0, None, processor("self")?);
    let rate = loop {
        match stream.next().await? {
            Message::Change { .. } => {
                begin.get_or_insert_with(Instant::now);
                changes += 1;
            }
            Message::Commit { .. } if changes == ROWS => {
                break ROWS as f64 / begin.map_or(f64::NAN, |begin: Instant| begin.elapsed().as_secs_f64());
            }
            _ => {}
        }
    };
    let own = ROWS as f64 / (processor("self")? - took);
    drop(stream);
    drop_slot(bank, SLOT).await?;
    Ok((rate, own))
}

/// Reads `tps = 1234.5 (without initial connection time)`.
fn tps(output: &str) -> Result<f64, Box<dyn Error>> {
    let line = output.lines().find_map(|line| line.strip_prefix("tps = ")).ok_or("pgbench says no tps")?;
    Ok(line.split(' ').next().unwrap_or(line).parse()?)
}

async fn succeed(command: &Command) -> Result<String, Box<dyn Error>> {
    let output = local::run(command).await?;
    if output.success() { Ok(output.stdout) } else { Err(format!("{command}: {}", output.stderr).into()) }
}
