//! What the tests of the whole tool share.

use piton_testkit::load::{Report, Running};
use piton_testkit::stage::{Change, Piton, Stage};

/// A migration that adds a table.
pub(crate) const RECEIPTS: Change<'static> = Change::Migration(
    "002_receipts.sql",
    "create table receipts (
         id serial primary key,
         item text not null unique references items (id),
         made timestamptz not null default now()
     );",
);

/// The app writes into that table, too.
pub(crate) const WRITES_RECEIPTS: Change<'static> =
    Change::Behaviour(|app| app.also_writes = vec!["receipts".into()]);

/// Fills a fresh database from [`SEED_ROWS`].
pub(crate) const SEED: &str = "psql -X -q -v ON_ERROR_STOP=1 -f seed.sql";

/// What [`SEED`] reads.
pub(crate) const SEED_ROWS: Change<'static> = Change::File(
    "seed.sql",
    "insert into items (id, note, created) select 'seed-' || n, 'x', '2026-01-01 UTC' from generate_series(1, 3) n;\n",
);

/// Half of the answers are 500.
pub(crate) const BAD: Change<'static> = Change::Behaviour(|app| app.fails = 0.5);

/// Sets a stage; `None` without PostgreSQL.
pub(crate) fn stage() -> Option<Stage> {
    Stage::set(env!("CARGO_BIN_EXE_piton"))
}

/// Sets a stage on which production runs `v1`; `None` without PostgreSQL.
pub(crate) fn live_stage() -> Option<Stage> {
    let stage = stage()?;
    stage.deploy("production");
    Some(stage)
}

/// As [`stage`]; in a short run for one half of the tests that call it, which goes by their names and the seed.
pub(crate) fn stage_in_turn() -> Option<Stage> {
    is_of_this_half().then(stage)?
}

/// As [`live_stage`] and [`stage_in_turn`].
pub(crate) fn live_stage_in_turn() -> Option<Stage> {
    is_of_this_half().then(live_stage)?
}

fn is_of_this_half() -> bool {
    // libtest names the thread after the test, where each has its own.
    let thread = std::thread::current();
    let name = thread.name().filter(|name| *name != "main");
    let digest = |name: &str| {
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    run_all() || name.is_none_or(|name| (digest(name) >> 32) % 2 == seed() % 2)
}

/// Releases `v2` with these changes under load, as far as the watch, which then lasts for ten minutes.
pub(crate) fn watched(stage: &mut Stage, changes: &[Change<'_>]) -> (Piton, Running) {
    stage.configure(|settings| settings.watch = "10m");
    stage.commit("v2", changes);
    let load = stage.load("production").start().unwrap();
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the watch", || stage.is_running("production", "watch"));
    (deploy, load)
}

/// Wants every failed request to be one that the release `bad` answered.
#[track_caller]
pub(crate) fn assert_no_failures_but_of(report: &Report, bad: &str) {
    let others: Vec<_> = report.failures.iter().filter(|failure| failure.release != bad).collect();
    assert!(others.is_empty(), "{others:#?}");
    assert!(report.requests > 0, "the load has asked nothing");
}

/// Wants no failed request, and no acknowledged write to be missing in production's database.
#[track_caller]
pub(crate) fn assert_nothing_failed(stage: &Stage, report: &Report) {
    assert_no_failures_but_of(report, "no release");
    assert!(!report.acknowledged.is_empty(), "the load has written nothing");
    let lost = stage.lost_writes(report, &stage.database("production"));
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

/// Tells whether everything is tried, as `scripts/campaign` asks for, or what a short run has time for.
pub(crate) fn run_all() -> bool {
    std::env::var("PITON_CAMPAIGN").is_ok_and(|value| value == "1")
}

/// Returns all cases where everything is tried; in a short run so many of them, from the seed on.
pub(crate) fn sampled<T>(all: &[T], count: usize) -> Vec<&T> {
    let from = usize::try_from(seed() % all.len() as u64).unwrap();
    let count = if run_all() { all.len() } else { count };
    all.iter().cycle().skip(from).take(count).collect()
}

/// Tells whether everything is tried, or this is the one of so many whose turn a short run has come to.
pub(crate) fn has_its_turn(number: u64, of: u64) -> bool {
    // Mixed: what is sampled within a turn goes by the seed's own last bits.
    run_all() || (seed().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % of == number
}

/// Returns the seed of what a short run leaves to chance: `PITON_SEED`, or a new one, which is printed.
pub(crate) fn seed() -> u64 {
    static SEED: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    let seed = *SEED.get_or_init(|| {
        let given = std::env::var("PITON_SEED").ok().and_then(|seed| seed.parse().ok());
        given.unwrap_or_else(|| u64::from(std::process::id()))
    });
    // Each time: what a test that passes has printed is not shown.
    println!("PITON_SEED={seed}");
    seed
}

/// A small file system; it is unmounted when dropped.
pub(crate) struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    /// Mounts one below the folder; says `skipped: needs root to mount a tmpfs` and returns `None` where that is refused.
    pub(crate) fn mount(below: &std::path::Path, size: &str) -> Option<Self> {
        let path = below.join("small");
        std::fs::create_dir(&path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path)
            .stderr(std::process::Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            piton_testkit::postgres::skip("root to mount a tmpfs");
            return None;
        }
        Some(Self(path))
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: whoever has a file open in it may end later.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
