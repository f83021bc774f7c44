//! What the tests of the whole tool share.

use piton_testkit::load::{Report, Running};
use piton_testkit::stage::{Change, Piton, Stage};
pub(crate) use piton_testkit::turns::{has_its_turn, is_of_this_half, run_all, sampled, seed};

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

/// Sets a stage whose server lets production's log be followed.
pub(crate) fn with_log() -> Option<Stage> {
    Stage::set_with_log(env!("CARGO_BIN_EXE_piton"))
}

/// Sets a stage on which triggers may note production's writes.
pub(crate) fn with_triggers() -> Option<Stage> {
    Stage::set_with_triggers(env!("CARGO_BIN_EXE_piton"))
}

/// As [`with_log`]; production runs `v1`.
pub(crate) fn following_stage() -> Option<Stage> {
    let stage = with_log()?;
    stage.deploy("production");
    Some(stage)
}

/// As [`with_triggers`]; production runs `v1`.
pub(crate) fn noting_stage() -> Option<Stage> {
    let stage = with_triggers()?;
    stage.deploy("production");
    Some(stage)
}

/// Wants nothing to be left in production's database of what keeps its writes or puts them into a copy.
#[track_caller]
pub(crate) fn assert_nothing_is_kept(stage: &Stage, when: &str) {
    let left = "select slot_name::text from pg_replication_slots where database = current_database()
         union all select nspname::text from pg_namespace where nspname in ('piton_replay', 'piton_capture')
         union all select evtname::text from pg_event_trigger
         union all select tgname::text from pg_trigger where not tgisinternal and tgname like '!piton%'";
    assert_eq!(stage.sql(&stage.database("production"), left), [""; 0], "{when}");
}

/// As [`stage`]; in a short run for one half of the tests that call it, which goes by their names and the seed.
pub(crate) fn stage_in_turn() -> Option<Stage> {
    is_of_this_half().then(stage)?
}

/// As [`live_stage`] and [`stage_in_turn`].
pub(crate) fn live_stage_in_turn() -> Option<Stage> {
    is_of_this_half().then(live_stage)?
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
