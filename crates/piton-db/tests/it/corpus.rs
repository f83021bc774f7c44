//! Migrations of every kind, each lived through by an app that goes on writing: `tests/corpus/NAME.sql`.
//!
//! `PITON_CORPUS=name,name` runs these alone, `PITON_CAMPAIGN=1` all of them; otherwise the seed chooses a few.

mod file;
mod rewind;
mod rows;
mod words;
mod writers;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use fs_err as fs;
use futures_util::{FutureExt, StreamExt};
use piton_db::Database;
use piton_db::migrate::MigrateOptions;
use piton_db::migrate::sql::SqlFolder;
use piton_testkit::postgres::{Cluster, Options};
use piton_testkit::turns;
use tempfile::TempDir;

use self::file::Migration;
use self::rewind::{Mode, with_rewind};
use self::writers::{Crew, Phase};
use crate::{database, quiet, run};

/// How many migrations are lived through at once.
const AT_ONCE: usize = 3;

/// How many transactions each writer ends: before the migration, after it in old words, and in new ones.
const BEFORE: u64 = 60;
const MEANWHILE: u64 = 15;
const AFTER: u64 = 130;

/// Returns the server of all migrations; its log tells what is written.
fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    SHARED
        .get_or_init(|| Cluster::start_with(Options { settings: settings(), ..Options::default() }))
        .as_ref()
}

fn settings() -> Vec<(&'static str, String)> {
    [
        ("wal_level", "logical"),
        ("max_replication_slots", "40"),
        ("max_wal_senders", "40"),
        ("max_slot_wal_keep_size", "4GB"),
        ("max_connections", "200"),
        ("autovacuum_naptime", "1d"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

/// Tells whether `PITON_CORPUS_MODE` names a mode, or none.
fn has_its_turn(mode: &str) -> bool {
    std::env::var("PITON_CORPUS_MODE").map_or(mode != "words", |wanted| wanted == mode)
}

/// Returns the migrations that `PITON_CORPUS` names, or so many by the seed.
fn chosen(count: usize, fits: impl Fn(&Migration) -> bool) -> Vec<Arc<Migration>> {
    let all: Vec<_> = file::all().iter().map(|path| Arc::new(Migration::read(path).unwrap())).collect();
    let Ok(names) = std::env::var("PITON_CORPUS") else {
        let all: Vec<_> = all.into_iter().filter(|migration| fits(migration)).collect();
        return turns::sampled(&all, count).into_iter().cloned().collect();
    };
    let named = |name: &str| {
        let found = all.iter().find(|migration| migration.name == name);
        found.unwrap_or_else(|| panic!("there is no {name}.sql in the corpus")).clone()
    };
    names.split(',').map(named).collect()
}

/// What came of living through a migration.
#[derive(Default)]
struct Outcome {
    problems: Vec<String>,
    /// Whether the rewind was refused, as the file wants or allows it.
    refused: bool,
    /// How many statements were committed.
    statements: usize,
    /// How often the replay was killed, or its server crashed.
    interrupted: usize,
}

/// Lives through migrations, a few at a time; tells how each went, and all that went wrong at the end.
async fn each<F: Future<Output = Outcome>>(
    migrations: Vec<Arc<Migration>>,
    at_once: usize,
    live: impl Fn(Arc<Migration>) -> F,
) {
    let lives = migrations.into_iter().map(|migration| {
        let name = migration.name.clone();
        let life = AssertUnwindSafe(live(migration)).catch_unwind();
        async move {
            let begin = Instant::now();
            let outcome = life.await.unwrap_or_else(|panic| Outcome {
                problems: vec![what_panicked(&*panic)],
                ..Outcome::default()
            });
            let how = match (outcome.problems.len(), outcome.refused) {
                (0, true) => "refused",
                (0, false) => "rewound",
                _ => "WRONG",
            };
            let (seconds, Outcome { statements, interrupted, .. }) =
                (begin.elapsed().as_secs_f64(), &outcome);
            tell(&format!(
                "{how} {name}: {statements} statements, {interrupted} interruptions, {seconds:.1} s"
            ));
            outcome.problems.into_iter().map(|problem| format!("{name}: {problem}")).collect::<Vec<_>>()
        }
    });
    let problems: Vec<String> =
        futures_util::stream::iter(lives).buffer_unordered(at_once).collect::<Vec<_>>().await.concat();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[expect(clippy::print_stdout, reason = "who runs them by name wants to see how far they are")]
fn tell(line: &str) {
    println!("{line}");
}

fn what_panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

/// A migration's files in a folder.
fn folder(migration: &Migration) -> (TempDir, SqlFolder) {
    let dir = tempfile::tempdir().unwrap();
    for (number, text) in migration.files.iter().enumerate() {
        fs::write(dir.path().join(format!("{number:03}.sql")), text).unwrap();
    }
    let folder = SqlFolder::new(dir.path());
    (dir, folder)
}

/// The databases of one migration.
struct Place {
    cluster: &'static Cluster,
    live: Database,
    twin: Database,
}

impl Place {
    /// Makes the old structure and its rows, and the twin of them.
    async fn new(cluster: &'static Cluster, migration: &Migration, mode: &str, doubts: bool) -> Self {
        let name = |what: &str| format!("{mode}_{}_{what}", migration.name);
        let live = database(cluster, &name("live"));
        let twin = live.with_name(&name("twin"));
        cluster.create_database(&live.dbname).await;
        run(&live, &migration.setup).await;
        if doubts {
            run(&live, writers::DOUBTS).await;
        }
        copy(cluster, &live.dbname, &twin.dbname).await;
        Self { cluster, live, twin }
    }

    async fn clear(self) {
        let client = self.cluster.connect("postgres").await;
        for database in [&self.live, &self.twin] {
            client
                .batch_execute(&format!("drop database \"{}\" with (force)", database.dbname))
                .await
                .unwrap();
        }
    }
}

/// Copies a database on which nobody is, or from which somebody is just leaving.
async fn copy(cluster: &Cluster, from: &str, to: &str) {
    let client = cluster.connect("postgres").await;
    let create = format!("create database \"{to}\" template \"{from}\"");
    let made = async || client.batch_execute(&create).await.is_ok();
    piton_testkit::postgres::eventually(&create, made).await;
}

async fn migrate(folder: &SqlFolder, database: &Database) -> Result<(), String> {
    let applied = folder.apply(database, MigrateOptions::default(), &mut quiet).await;
    applied.map(drop).map_err(|error| format!("the migration: {error}"))
}

/// Has the app live through a migration, and says to the twin what it said.
async fn without_rewind(cluster: &'static Cluster, migration: Arc<Migration>, seed: u64) -> Outcome {
    let place = Place::new(cluster, &migration, "words", false).await;
    let (_dir, folder) = folder(&migration);
    let crew = Crew::start(&place.live, &migration, seed, false);
    crew.each_does(BEFORE).await;
    if migration.quiet {
        crew.fall_quiet().await;
    } else {
        crew.turn_to(Phase::Meanwhile);
    }
    let migrated = migrate(&folder, &place.live).await;
    if !migration.quiet {
        crew.each_does(MEANWHILE).await;
    }
    if !migration.new.is_empty() && migrated.is_ok() {
        crew.turn_to(Phase::After);
        crew.each_does(AFTER).await;
    }
    let diaries = crew.go().await;
    let mut problems: Vec<String> = migrated.err().into_iter().collect();
    problems.extend(writers::judge(&migration, &diaries, !migration.new.is_empty()));
    problems.extend(rows::tell(&place.twin, &diaries).await);
    // With itself: whether the questions of the file can be asked.
    problems.extend(rows::compare(&migration, &[], &diaries, (&place.twin, &place.twin)).await);
    place.clear().await;
    Outcome { problems, statements: writers::count(&diaries), ..Outcome::default() }
}

/// For whoever writes a file: whether its words are an app's, before the migration and after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_are_an_apps() {
    let (true, Some(cluster)) = (has_its_turn("words"), shared()) else { return };
    let seed = turns::seed();
    let live = |migration| without_rewind(cluster, migration, seed);
    each(chosen(6, |_| true), AT_ONCE, live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewound_copy_has_every_write() {
    let (true, Some(cluster)) = (has_its_turn("plain"), shared()) else { return };
    let seed = turns::seed();
    let live = |migration| with_rewind(cluster, migration, seed, Mode::Plain);
    each(chosen(6, |_| true), AT_ONCE, live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_rewound_by_triggers_has_every_write() {
    let (true, Some(cluster)) = (has_its_turn("triggers"), shared()) else { return };
    let seed = turns::seed();
    let live = |migration| with_rewind(cluster, migration, seed, Mode::Triggers);
    // Of this one the log tells too little, and triggers do not.
    each(chosen(4, |migration| migration.name != "identity_nothing"), AT_ONCE, live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_killed_loses_and_doubles_nothing() {
    let (true, Some(cluster)) = (has_its_turn("kill"), shared()) else { return };
    let seed = turns::seed();
    let live = |migration| with_rewind(cluster, migration, seed, Mode::Kill);
    each(chosen(2, |_| true), AT_ONCE, live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_loses_and_doubles_nothing() {
    static OWN: OnceLock<Option<Cluster>> = OnceLock::new();
    let start = || Cluster::start_with(Options { settings: settings(), ..Options::default() });
    let (true, Some(cluster)) = (has_its_turn("crash"), OWN.get_or_init(start).as_ref()) else { return };
    let seed = turns::seed();
    let live = |migration| with_rewind(cluster, migration, seed, Mode::Crash);
    // Of what is not logged, a crash leaves nothing.
    let is_logged = |migration: &Migration| !migration.text().contains("unlogged");
    // One at a time: a crash is everybody's.
    each(chosen(2, is_logged), 1, live).await;
}
