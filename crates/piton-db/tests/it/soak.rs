//! Capture and replay for long, at 400 transactions a second: nothing grows.
//!
//! `scripts/campaign soak` does it for an hour, `PITON_SOAK_SECONDS` for as long as that says; otherwise for some seconds.

#![expect(clippy::print_stdout, reason = "a long run shows its figures")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use piton_db::capture::{self, Source, triggers};
use piton_db::replay::Replay;
use piton_testkit::postgres::{Cluster, Options};
use tokio::process::{Child, Command};

use crate::number;
use crate::replay::{By, Scene};

/// The two clusters' writers, each.
const PER_SECOND: u32 = 400;

/// How many rows the second table has, in the long run.
const KEPT: u32 = 2_000;

/// Each transaction changes a row, adds one and removes an old one: the data stay as large as they are.
const WRITES: &str = "\\set id random(1, 50000)
\\set by random(-5000, 5000)
begin;
update account set balance = balance + :by, note = 'changed by ' || :by where id = :id;
insert into movement (account, by) values (:id, :by);
delete from movement where id = currval('movement_id_seq') - KEPT;
end;
";

const SETUP: &str = "
    create table account (id int primary key, balance bigint not null, note text);
    insert into account select i, 0 from generate_series(1, 50000) i;
    create table movement (id bigserial primary key, account int not null, by int not null, at timestamptz not null default now())";

/// What the migration makes of it.
const MIGRATION: &str = "alter table account rename balance to cents; alter table movement rename to change; alter table change add seen bool not null default false;
     create view movement as select id, account, by, at from change";

/// A look at what could grow.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// How long it took to follow up to the moment, in milliseconds.
    follow: u64,
    /// What of the log the server keeps for the slot, in bytes; for triggers what they have noted takes.
    kept: u64,
    /// The whole of the server's log on disk, in bytes.
    log: u64,
    /// The golden copy, in bytes.
    golden: u64,
    /// What this process holds in memory, in bytes.
    memory: u64,
}

/// What grows, and by how much a quarter's median may be above another one's besides a fifth.
type Measure = (&'static str, fn(&Look) -> u64, u64);

const MEASURES: [Measure; 5] = [
    ("ms to follow", |look| look.follow, 500),
    ("bytes kept", |look| look.kept, 48 << 20),
    ("bytes of log", |look| look.log, 96 << 20),
    ("bytes of the golden copy", |look| look.golden, 48 << 20),
    ("bytes of memory", |look| look.memory, 24 << 20),
];

#[tokio::test]
async fn nothing_grows_while_the_log_is_followed() {
    soak(By::Log).await;
}

#[tokio::test]
async fn nothing_grows_while_triggers_are_followed() {
    soak(By::Triggers).await;
}

async fn soak(by: By) {
    let seconds: u64 = std::env::var("PITON_SOAK_SECONDS").map_or(6, |text| text.parse().unwrap());
    let settings = [
        ("wal_level", "logical"),
        ("max_slot_wal_keep_size", "2GB"),
        ("max_wal_size", "128MB"),
        ("min_wal_size", "64MB"),
        ("checkpoint_timeout", "30s"),
        ("autovacuum_naptime", "5s"),
    ];
    let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
    let Some(cluster) = Cluster::start_with(Options { settings, ..Options::default() }) else { return };
    let scene = Scene::on(&cluster, by, "soak", SETUP).await;
    let script = cluster.data_dir().join("writes.sql");
    let before = WRITES.replace("KEPT", &KEPT.to_string());
    std::fs::write(&script, &before).unwrap();
    let mut writers = writers(&cluster, &scene, &script, 2);
    tokio::time::sleep(Duration::from_secs(2)).await;
    writers.wait().await.unwrap();
    scene.migrate(MIGRATION).await;
    // The new release's words.
    std::fs::write(&script, before.replace("balance", "cents").replace("movement ", "change ")).unwrap();
    let mut writers = self::writers(&cluster, &scene, &script, seconds);
    let looks = follow(&cluster, &scene, &mut writers).await;
    let quarter = looks.len() / 4;
    assert!(quarter > 0, "{} looks", looks.len());
    let mut grown = Vec::new();
    println!("{by:?}: medians of the four quarters of {seconds} s");
    for (name, value, slack) in MEASURES {
        let medians: Vec<u64> = (0..4).map(|n| median(&looks[n * quarter..][..quarter], value)).collect();
        println!("  {name}: {medians:?}");
        if medians[3] > medians[1] + medians[1] / 5 + slack {
            grown.push(format!("{name}: {medians:?}"));
        }
    }
    assert!(grown.is_empty(), "{grown:#?}");
}

/// Has the database written to for some time.
fn writers(cluster: &Cluster, scene: &Scene, script: &std::path::Path, seconds: u64) -> Child {
    Command::new(cluster.bin_dir().join("pgbench"))
        .args(["--no-vacuum", "--client=4", "--protocol=prepared"])
        .arg(format!("--rate={PER_SECOND}"))
        .arg(format!("--time={seconds}"))
        .arg(format!("--file={}", script.display()))
        .arg(cluster.url(&scene.live.dbname))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Follows until the writers end, and compares then.
async fn follow(cluster: &Cluster, scene: &Scene, writers: &mut Child) -> Vec<Look> {
    let mut replay = Replay::resume(&scene.golden, &scene.live, &scene.source).await.unwrap();
    let client = scene.live.connect().await.unwrap();
    let mut looks = Vec::new();
    let mut written = 0;
    loop {
        let begun = Instant::now();
        replay.reach(scene.source.now(&client).await.unwrap()).await.unwrap();
        let follow = u64::try_from(begun.elapsed().as_millis()).unwrap();
        looks.push(look(cluster, scene, follow).await);
        if let Some(status) = writers.try_wait().unwrap() {
            let mut said = String::new();
            let mut stderr = writers.stderr.take().unwrap();
            tokio::io::AsyncReadExt::read_to_string(&mut stderr, &mut said).await.unwrap();
            assert!(status.success(), "{said}");
            break;
        }
        written = number(&client, "select last_value from movement_id_seq").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(written > 0);
    replay.reach(scene.source.now(&client).await.unwrap()).await.unwrap();
    replay.finish().await.unwrap().commit().await.unwrap();
    let sums = "select (select md5(string_agg(a::text, ',' order by id)) from (select id, VALUE, note from account) a)
        || (select md5(string_agg(m::text, ',' order by id)) from (select id, account, by, at from movement) m)";
    let live: String = client.query_one(&sums.replace("VALUE", "cents"), &[]).await.unwrap().get(0);
    let golden = scene.golden.connect().await.unwrap();
    let back: String = golden.query_one(&sums.replace("VALUE", "balance"), &[]).await.unwrap().get(0);
    assert_eq!(live, back, "{written} transactions");
    println!("{written} transactions were followed");
    looks
}

async fn look(cluster: &Cluster, scene: &Scene, follow: u64) -> Look {
    let client = cluster.connect("postgres").await;
    let bytes = async |sql: &str| number(&client, sql).await.unsigned_abs();
    let kept = match &scene.source {
        Source::Log { slot } => capture::lag(&scene.live, slot).await.unwrap().unwrap().behind,
        Source::Triggers => triggers::state(&scene.live).await.unwrap().unwrap().bytes,
    };
    Look {
        follow,
        kept,
        log: bytes("select sum(size)::int8 from pg_ls_waldir()").await,
        golden: bytes(&format!("select pg_database_size('{}')", scene.golden.dbname)).await,
        memory: memory(),
    }
}

/// Returns what the process holds in memory, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn median(looks: &[Look], value: fn(&Look) -> u64) -> u64 {
    let mut values: Vec<u64> = looks.iter().map(value).collect();
    values.sort_unstable();
    values[values.len() / 2]
}
