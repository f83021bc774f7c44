//! What fails under a release: it says so clearly, production goes on serving, and the release can be carried on or undone.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::common::{
    RECEIPTS, Tmpfs, assert_no_failures_but_of, assert_nothing_failed, live_stage_in_turn, stage_in_turn,
};
use piton_testkit::load::Running;
use piton_testkit::postgres::StopMode;
use piton_testkit::stage::{Change, Stage, World};
use rustix::process::Signal;

/// A load on a page that needs no database, so that what comes of a fault is the release's doing alone.
fn visitors(stage: &Stage) -> Running {
    let mut load = stage.load("production");
    load.writes = 0.0;
    load.reads = vec!["/".into()];
    load.start().unwrap()
}

fn world(stage: &Stage) -> World {
    stage.world().only(|fact| !fact.starts_with("file backups"))
}

/// Ends the load and wants it to have seen the old release alone, without a failure.
#[track_caller]
fn nobody_noticed(stage: &Stage, load: Running) {
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");
    assert_eq!(report.releases.keys().collect::<Vec<_>>(), ["v1"]);
}

#[test]
fn disk_full_during_the_backup() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let Some(small) = Tmpfs::mount(stage.folder(), "40m") else { return };
    std::fs::create_dir_all(small.path().join("backups/production")).unwrap();
    let filler = small.path().join("filler");
    // The guard finds room enough; then the build takes it all.
    let fill = format!("sh -c 'dd if=/dev/zero of={} bs=64k 2>/dev/null; true'", filler.display());
    stage.configure(|settings| {
        settings.backups = small.path().join("backups");
        settings.build.push(fill);
    });
    stage.commit("v2", &[RECEIPTS]);
    let before = world(&stage);
    let load = visitors(&stage);
    let full =
        || stage.piton(&["deploy", "production"]).expect(4).says("the backup failed").says("No space left");
    full().says("df -h").says("free some, then piton resume production").says("piton abort production");
    stage.piton(&["abort", "production"]).expect(0);
    before.assert_same(&world(&stage), "after the abort");

    std::fs::remove_file(&filler).unwrap();
    // A build is kept; only another commit's fills the disk again.
    stage.commit("v3", &[]);
    full();
    std::fs::remove_file(&filler).unwrap();
    nobody_noticed(&stage, load);
    let load = visitors(&stage);
    stage.piton(&["resume", "production"]).expect(0);
    assert_no_failures_but_of(&stage.finish(load), "no release");
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v3".into())));
}

#[test]
fn an_extension_that_cannot_be_restored_as_it_is_ends_the_release_with_what_mends_it() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let there =
        "select count(*) from pg_available_extension_versions where name = 'citext' and version = '1.5'";
    if stage.sql("postgres", there) != ["1"] {
        return piton_testkit::postgres::skip("the contributed modules of PostgreSQL");
    }
    let old = format!(
        "set role \"{}\"; create schema apart; create extension citext schema apart version '1.5'",
        stage.role("production")
    );
    stage.sql(&production, &old);
    stage.commit("v2", &[]);
    stage
        .piton(&["deploy", "production"])
        .expect(3)
        .says("in the restored copy, extension citext is ")
        .says("alter extension citext update; then piton deploy production");
    let told = stage.piton(&["backup", "production"]).expect(0).says("extension citext is ");
    assert!(told.stderr.contains(", and was 1.5"), "a backup is proved all the same: {}", told.stderr);
    stage.sql(&production, "alter extension citext update");
    let told = stage.piton(&["backup", "production"]).expect(0);
    assert!(!told.stderr.contains("citext"), "{}", told.stderr);
}

#[test]
fn postgresql_stopped_during_the_migration() {
    let Some(stage) = Stage::set_with_own_server(env!("CARGO_BIN_EXE_piton")) else { return };
    stage.deploy("production");
    let slow = Change::Migration("002_slow.sql", "create table slow (a int); select pg_sleep(2);");
    stage.commit("v2", &[slow]);
    let before = world(&stage);
    let load = visitors(&stage);
    let stop_under_it = || {
        let deploy = stage.spawn(&["deploy", "production"], &[]);
        let sleeps = format!(
            "select 1 from pg_stat_activity where datname = '{}' and state = 'active' and query ~ 'pg_sleep'",
            stage.database("production")
        );
        stage.eventually("the migration", || !stage.sql("postgres", &sleeps).is_empty());
        stage.cluster().stop(StopMode::Immediate).unwrap();
        let said = deploy.wait().expect(4).says("the database went away during the migration");
        said.says("start the database, then piton resume production");
        // It cannot be undone either while there is no server, and says so.
        stage.cluster().start_again().unwrap();
    };
    stop_under_it();
    stage.piton(&["abort", "production"]).expect(0);
    before.assert_same(&world(&stage), "after the abort");
    stop_under_it();
    nobody_noticed(&stage, load);
    let load = visitors(&stage);
    stage.piton(&["resume", "production"]).expect(0);
    assert_no_failures_but_of(&stage.finish(load), "no release");
    assert_eq!(stage.sql(&stage.database("production"), "select count(*) from slow"), ["0"]);
    assert_eq!(stage.databases(), [stage.database("production")]);
}

#[test]
fn an_abort_without_the_server_stands_and_goes_on_when_it_is_back() {
    let Some(stage) = Stage::set_with_own_server(env!("CARGO_BIN_EXE_piton")) else { return };
    stage.deploy("production");
    stage.commit("v2", &[RECEIPTS, Change::Behaviour(|app| app.never_ready = true)]);
    let before = world(&stage);
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done migrate:after")]).expect(137);
    stage.cluster().stop(StopMode::Fast).unwrap();
    stage.piton(&["abort", "production"]).expect(4).says("piton resume production");
    stage.cluster().start_again().unwrap();
    stage.piton(&["resume", "production"]).expect(3);
    before.assert_same(&world(&stage), "after the abort");
}

#[test]
fn a_build_that_does_not_make_the_app_is_found_out_before_anything_else() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.command = "bin/server".into());
    stage.commit("v2", &[]);
    let before = stage.world();
    let said = stage.piton(&["deploy", "production"]).expect(3);
    said.says("there is no bin/server after the build").says("name in run.command");
    before.assert_same(&stage.world(), "after a build without the app");
    let began = |event: &serde_json::Value| event["event"]["step"] == "backup";
    assert!(!stage.events("production").iter().any(began));
}

#[test]
fn a_verdict_stands_although_there_is_nothing_to_go_back_to() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| {
        settings.steps = vec!["100%"];
        settings.watch = "10m";
    });
    stage.commit("v2", &[crate::common::BAD]);
    let (slots, artifacts) =
        (stage.root().join(".piton/environments/production/slots"), stage.root().join(".piton/artifacts"));
    let v1 = stage.status("production")["live"]["release"].as_str().unwrap().to_owned();
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    // No request reaches the old release any more: that it is dead is no outage of both.
    stage.eventually("the watch", || stage.is_running("production", "watch"));
    for marked in piton_exec::marker::find("PITON_RELEASE", &v1) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(marked.pid).unwrap(), Signal::KILL)
            .unwrap();
    }
    for path in std::fs::read_dir(&slots).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() && path.file_name().unwrap().to_str().unwrap().starts_with("blue") {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    std::fs::remove_dir_all(artifacts).unwrap();
    let mut load = stage.load("production");
    load.writes = 0.0;
    let load = load.start().unwrap();
    let said = deploy.wait().expect(4).says("the gate sends it back").says("stands on its way back");
    said.says("of the traffic may still be on green");
    stage.finish(load);
    let events = stage.events("production");
    let turned = events.iter().find(|event| event["event"]["event"] == "turned_back").unwrap();
    assert_eq!(turned["event"]["reason"]["because"], "verdict", "{turned}");
}

#[test]
fn a_built_folder_that_was_removed_by_hand() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[RECEIPTS]);
    let built = |fact: &str| !fact.contains("artifacts/");
    let before = world(&stage).only(built);
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done migrate:after")]).expect(137);
    let release = stage.status("production")["release"]["commit"]["hash"].as_str().unwrap().to_owned();
    std::fs::remove_dir_all(stage.root().join(".piton/artifacts").join(release)).unwrap();
    stage.piton(&["abort", "production"]).expect(0);
    before.assert_same(&world(&stage).only(built), "after the abort");
    // The next release builds it anew.
    let load = visitors(&stage);
    stage.deploy("production");
    assert_no_failures_but_of(&stage.finish(load), "no release");
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v2".into())));
}

#[test]
fn a_kill_while_a_folder_that_was_removed_by_hand_is_built_anew() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[RECEIPTS]);
    let killed = |at: &str| {
        stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", at)]).expect(137);
    };
    let remove_build = || {
        let release = stage.status("production")["release"]["commit"]["hash"].as_str().unwrap().to_owned();
        std::fs::remove_dir_all(stage.root().join(".piton/artifacts").join(release)).unwrap();
    };
    killed("done build:after");
    stage.piton(&["abort", "production"]).expect(0);
    remove_build();
    // The checkout stands, nothing is built in it.
    killed("ran build:after");
    stage.piton(&["abort", "production"]).expect(0);
    killed("done build:after");
    stage.piton(&["abort", "production"]).expect(0);
    remove_build();
    killed("ran build:after");
    let load = visitors(&stage);
    stage.piton(&["resume", "production"]).expect(0);
    assert_no_failures_but_of(&stage.finish(load), "no release");
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v2".into())));
}

/// Releases an app that cannot serve, by itself and with `--stay`.
fn app_is_refused(change: Change<'static>, words: &[&str]) {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.ready_within = "2s");
    stage.commit("v2", &[RECEIPTS, change]);
    let before = world(&stage);
    let load = visitors(&stage);
    let mut said = stage.piton(&["deploy", "production"]).expect(3);
    for word in words {
        said = said.says(word);
    }
    before.assert_same(&world(&stage), "after the release went back");
    stage.piton(&["deploy", "production", "--stay"]).expect(4).says("piton abort production");
    stage.piton(&["resume", "production"]).expect(4).says(words[0]);
    stage.piton(&["abort", "production"]).expect(0);
    before.assert_same(&world(&stage), "after the abort");
    nobody_noticed(&stage, load);
}

#[test]
fn an_app_that_never_becomes_ready() {
    let change = Change::Behaviour(|app| app.never_ready = true);
    app_is_refused(change, &["the app was not ready within 2s", "it answers 503", "app.log"]);
}

#[test]
fn an_app_that_redirects_its_health_path() {
    let change = Change::Behaviour(|app| app.redirects = true);
    app_is_refused(
        change,
        &["it answers 301 and points to /en/health", "ready is 200", "set run.ready.get in piton.toml"],
    );
}

#[test]
fn an_app_that_ends_at_its_start() {
    let change = Change::Behaviour(|app| app.exits = true);
    app_is_refused(change, &["the app ended before it was ready", "this release ends at its start"]);
}

#[test]
fn a_migration_that_fails_on_the_copy() {
    let Some(stage) = live_stage_in_turn() else { return };
    let wrong = "create table half (a int);\ninsert into half values (1);\nselect 1 / 0;";
    stage.commit("v2", &[Change::Migration("002_wrong.sql", wrong)]);
    let before = world(&stage);
    let load = visitors(&stage);
    let said = stage.piton(&["deploy", "production"]).expect(3);
    said.says("failed on a copy")
        .says("002_wrong.sql, line 3")
        .says("division by zero")
        .says("production was not touched");
    before.assert_same(&world(&stage), "after the release went back");
    nobody_noticed(&stage, load);
}

/// Stands with `--stay` at a migration that the copy took, and that a row which came since makes fail.
fn fails_on_the_live_database(stage: &Stage, sql: &str) {
    stage.commit("v2", &[Change::Migration("002_unique.sql", sql)]);
    stage
        .piton_with_env(&["deploy", "production", "--stay"], &[("PITON_CRASH_AT", "done rehearse:after")])
        .expect(137);
    stage.sql(
        &stage.database("production"),
        "insert into items select 'twin-' || n, 'same', '2026-01-01' from generate_series(1, 2) n",
    );
    stage
        .piton(&["resume", "production"])
        .expect(4)
        .says("the migration failed")
        .says("002_unique.sql, line 2");
}

#[test]
fn a_migration_that_fails_half_way_in_a_transaction() {
    let Some(stage) = live_stage_in_turn() else { return };
    let load = visitors(&stage);
    let sql = "create table half (a int);\nalter table items add unique (note);";
    fails_on_the_live_database(&stage, sql);
    let production = stage.database("production");
    assert!(stage.sql(&production, "select 1 from pg_tables where tablename = 'half'").is_empty());
    // Mended, it goes on.
    stage.sql(&production, "update items set note = id where note = 'same'");
    nobody_noticed(&stage, load);
    let load = visitors(&stage);
    stage.piton(&["resume", "production"]).expect(0);
    assert_no_failures_but_of(&stage.finish(load), "no release");
    assert_eq!(stage.sql(&production, "select count(*) from half"), ["0"]);
}

#[test]
fn a_migration_that_fails_half_way_statement_by_statement() {
    let Some(stage) = live_stage_in_turn() else { return };
    let load = visitors(&stage);
    let production = stage.database("production");
    let rows = "select count(*) from items";
    fails_on_the_live_database(
        &stage,
        "create table half (a int);\ncreate unique index concurrently twins on items (note);",
    );
    // Rows were written since the backup: they must not leave, and so the half that stands stays, and is told.
    let said = stage.piton(&["abort", "production"]).expect(0).says("the migration stays, 002");
    let way_on = "in part: the next release carries on with that";
    said.says(way_on).says("piton migration production 002");
    assert!(stage.piton(&["status", "production"]).expect(0).stdout.contains(way_on));
    assert_eq!(stage.sql(&production, rows), ["1002"]);
    assert_eq!(stage.sql(&production, "select count(*) from half"), ["0"]);
    assert_eq!(stage.databases(), [production.as_str()]);
    // What the build left is nobody's half.
    assert_eq!(stage.sql(&production, "select to_regclass('twins') is null"), ["t"]);
    stage.piton(&["deploy", "production"]).expect(3).says("it carries on with this one");
    nobody_noticed(&stage, load);
    // Mended, the next release carries on with the statement that failed.
    stage.sql(&production, "update items set note = id where note = 'same'");
    let load = visitors(&stage);
    stage.deploy("production");
    assert_no_failures_but_of(&stage.finish(load), "no release");
    assert_eq!(
        stage.sql(&production, "select indisvalid from pg_index where indexrelid = 'twins'::regclass"),
        ["t"]
    );
}

#[test]
fn a_migration_that_an_earlier_release_left_half_applied() {
    let Some(stage) = live_stage_in_turn() else { return };
    let load = visitors(&stage);
    let production = stage.database("production");
    let refuses =
        "do $$ begin if exists (select from items where note = 'same') then raise 'no'; end if; end $$;";
    fails_on_the_live_database(&stage, &format!("create table half (a int); vacuum half;\n{refuses}"));
    stage.piton(&["abort", "production"]).expect(0).says("the migration stays");
    // As if the session had been lost while that statement ran, and the guard had looked before.
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done guard:after")]).expect(137);
    stage.sql(&production, "update piton.migrations set running = true where name = '002_unique.sql'");
    let mend = "piton migration production 002_unique.sql --applied (or --not-applied)";
    let stands = stage.piton(&["resume", "production"]).expect(4);
    stands.says("failed on a copy").says(&format!("piton abort production, {mend}, piton deploy production"));
    stage.piton(&["abort", "production"]).expect(0);

    let before = stage.world();
    let refused = || stage.piton(&["deploy", "production"]).expect(2);
    refused()
        .says("production's database holds a half-applied migration")
        .says("2 of its 3 statements are done")
        .says(&format!("{mend}, then piton deploy production"));
    stage.commit("edited", &[Change::Migration("002_unique.sql", "create table half (a int);")]);
    stage.sql(&production, "update piton.migrations set running = false where name = '002_unique.sql'");
    refused().says("the file was edited since").says(mend);
    before
        .only(|fact| !fact.contains("rows of"))
        .assert_same(&stage.world().only(|fact| !fact.contains("rows of")), "after the refusals");
    let migration = ["migration", "production", "002_unique.sql", "--applied"];
    let kinds = || -> Vec<String> {
        let kind = |event: &serde_json::Value| event["event"]["event"].as_str().unwrap().to_owned();
        stage.events("production").iter().map(kind).filter(|kind| kind.starts_with("record")).collect()
    };
    // What is about to be changed is in the journal first.
    stage.piton_with_env(&migration, &[("PITON_CRASH_AT", "recording :after")]).expect(137);
    assert_eq!(kinds(), ["recording"]);
    refused();
    stage.piton_with_env(&migration, &[("PITON_CRASH_AT", "recorded :before")]).expect(137);
    stage.piton(&migration).expect(2).says("it is applied");
    assert_eq!(kinds(), ["recording"]);
    stage.sql(&production, "update piton.migrations set finished_at = null where name = '002_unique.sql'");
    stage.piton(&migration).expect(0);
    assert_eq!(kinds(), ["recording", "recording", "recorded"]);
    nobody_noticed(&stage, load);
    let load = visitors(&stage);
    stage.deploy("production");
    assert_no_failures_but_of(&stage.finish(load), "no release");
}

#[test]
fn a_concurrent_index_that_fails_as_the_only_statement() {
    let Some(stage) = live_stage_in_turn() else { return };
    let before = world(&stage);
    let load = visitors(&stage);
    let production = stage.database("production");
    let sql = "-- No two alike.\ncreate unique index concurrently twins on items (note);";
    fails_on_the_live_database(&stage, sql);
    let left = world(&stage);
    let structure = left.fact(&format!("structure of {production}")).unwrap();
    assert!(structure.contains("twins ON public.items USING btree (note) is invalid"), "{structure}");
    // Nothing but the index is tried again.
    stage.piton(&["resume", "production"]).expect(4).says("is duplicated").says("002_unique.sql, line 2");
    stage.piton(&["abort", "production"]).expect(0);
    stage.sql(&production, "delete from items where note = 'same'");
    before.assert_same(&world(&stage), "after the abort");
    nobody_noticed(&stage, load);
}

#[test]
fn a_server_without_room_for_the_migration() {
    let Some(stage) = live_stage_in_turn() else { return };
    let full = "do $$ begin raise exception 'could not extend file' using errcode = 'disk_full'; end $$;";
    stage.commit("v2", &[Change::Migration("002_large.sql", full)]);
    let before = world(&stage);
    stage
        .piton(&["deploy", "production"])
        .expect(4)
        .says("could not extend file")
        .says("make room on the database's server, then piton resume production");
    stage.piton(&["abort", "production"]).expect(0);
    before.assert_same(&world(&stage), "after the abort");
}

#[test]
fn a_check_whose_session_is_ended() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let check = "[[check]]\nname = \"cut off\"\nsql = \"select pg_terminate_backend(pg_backend_pid())\"\nexpect = true\n";
    stage.configure(|settings| settings.more = check.into());
    stage.commit("v2", &[]);
    let before = world(&stage);
    stage.piton(&["deploy", "production"]).expect(4).says("went away during a check");
    stage.piton(&["abort", "production"]).expect(0);
    before.assert_same(&world(&stage), "after the abort");
}

#[test]
fn disk_full_when_the_release_is_copied() {
    let Some(stage) = live_stage_in_turn() else { return };
    let Some(small) = Tmpfs::mount(stage.folder(), "1m") else { return };
    let slots = stage.root().join(".piton/environments/production/slots");
    let moved = small.path().join("slots");
    let cp = Command::new("cp").arg("-a").args([&slots, &moved]).status().unwrap();
    assert!(cp.success());
    std::fs::remove_dir_all(&slots).unwrap();
    std::os::unix::fs::symlink(&moved, &slots).unwrap();
    stage.commit("v2", &[RECEIPTS]);
    let load = visitors(&stage);
    let filler = small.path().join("filler");
    let _ = std::fs::write(&filler, vec![0; 2 << 20]);
    let full = stage.piton(&["deploy", "production"]).expect(4);
    full.says("No space left").says("the disk is full").says("free some, then piton resume production");
    std::fs::remove_file(&filler).unwrap();
    nobody_noticed(&stage, load);
    let load = visitors(&stage);
    stage.piton(&["resume", "production"]).expect(0);
    assert_no_failures_but_of(&stage.finish(load), "no release");
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v2".into())));
}

#[test]
fn a_structure_that_somebody_changed_after_the_backup() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[RECEIPTS]);
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done rehearse:after")]).expect(137);
    stage.sql(&stage.database("production"), "create table by_hand (a int)");
    let live = format!(" {}", stage.database("production"));
    let before = world(&stage).only(|fact| fact.contains(&live));
    let said = stage.piton(&["resume", "production"]).expect(3);
    said.says("the database's structure was changed after the backup").says("by_hand").says("was not begun");
    let now = world(&stage).only(|fact| fact.contains(&live));
    before.assert_same(&now, "after the release went back");
}

#[test]
fn a_dump_that_was_altered_by_one_byte() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[RECEIPTS]);
    let before = world(&stage);
    let load = visitors(&stage);
    stage
        .piton_with_env(&["deploy", "production", "--stay"], &[("PITON_CRASH_AT", "done backup:after")])
        .expect(137);
    let release = stage.status("production")["release"]["release"].as_str().unwrap().to_owned();
    let dump = stage.root().join("backups").join(stage.name()).join("production").join(&release).join("dump");
    let largest = std::fs::read_dir(&dump).unwrap().map(|entry| entry.unwrap().path());
    let largest = largest.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();

    let file = largest.file_name().unwrap().to_str().unwrap().to_owned();
    let said = stage.piton(&["resume", "production"]).expect(4);
    said.says("the backup was altered after it was made").says(&file).says("look who writes to");
    stage.piton(&["abort", "production"]).expect(0);
    before.assert_same(&world(&stage), "after the abort");
    nobody_noticed(&stage, load);
    let load = visitors(&stage);
    stage.deploy("production");
    assert_no_failures_but_of(&stage.finish(load), "no release");
}

fn kill(pid: &serde_json::Value) {
    let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
}

#[test]
fn the_proxy_killed_during_the_shift() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.steps = vec!["30% for 3s", "100%"]);
    stage.commit("v2", &[RECEIPTS]);
    let load = stage.load("production").start().unwrap();
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the first share", || stage.is_running("production", "shift.30%"));
    let old = stage.status("production")["proxy"].clone();
    kill(&old["pid"]);
    stage.eventually("another proxy", || stage.status("production")["proxy"]["pid"].is_number());
    let new = stage.status("production")["proxy"].clone();
    assert_ne!(new["pid"], old["pid"]);
    assert_eq!((&new["weights"], &new["upstreams"]), (&old["weights"], &old["upstreams"]));
    let cut_off = stage.finish(load);
    let lost = stage.lost_writes(&cut_off, &stage.database("production"));
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let load = stage.load("production").start().unwrap();
    let listen = stage.listen("production");
    deploy.wait().expect(0).says(&format!("proxy on {listen} started again"));
    assert_nothing_failed(&stage, &stage.finish(load));
    let kinds = stage.events("production");
    let count = |kind: &str| kinds.iter().filter(|event| event["event"]["event"] == kind).count();
    assert_eq!((count("reviving"), count("revived")), (1, 1));
}

/// Brings a first release so far that it has all traffic.
fn first_release(stage: &Stage) {
    stage
        .piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done shift.100%:after")])
        .expect(137);
}

#[test]
fn a_first_release_that_is_undone_finishes_what_it_works_on() {
    let Some(stage) = stage_in_turn() else { return };
    stage.commit("slow", &[Change::Behaviour(|app| app.delay_ms = 12_000)]);
    first_release(&stage);
    let mut visitor = TcpStream::connect(stage.listen("production")).unwrap();
    visitor.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n").unwrap();
    stage.piton(&["abort", "production"]).expect(0);
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(!stage.root().join(".piton/environments/production/proxy").exists());
}

#[test]
fn a_first_releases_proxy_that_somebody_started_is_stopped_or_keeps_its_folder() {
    let Some(stage) = stage_in_turn() else { return };
    let folder = stage.root().join(".piton/environments/production/proxy");
    let listen = stage.listen("production").to_string();
    let proxy = stage.spawn(&["proxy", "--state", &folder.display().to_string(), "--listen", &listen], &[]);
    stage.eventually("the proxy", || folder.join("control.sock").exists());
    first_release(&stage);
    proxy.signal(Signal::STOP);
    let port = stage.listen("production").port();
    stage
        .piton(&["abort", "production"])
        .expect(4)
        .says("does not stop")
        .says(&format!("ss -ltnp 'sport = :{port}'"))
        .says("piton resume production");
    assert!(folder.join("control.sock").exists());
    proxy.signal(Signal::CONT);
    stage.piton(&["resume", "production"]).expect(3);
    proxy.wait().expect(0);
    assert!(!folder.exists());
}

#[test]
fn the_old_app_killed_before_a_rollback() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let (deploy, load) = crate::common::watched(&mut stage, &[]);
    let live = stage.status("production")["live"]["release"].as_str().unwrap().to_owned();
    for marked in piton_exec::marker::find("PITON_RELEASE", &live) {
        kill(&marked.pid.into());
    }
    stage.piton(&["rollback", "production"]).expect(0);
    deploy.wait().expect(3).says("started again");
    let report = stage.finish(load);
    assert_nothing_failed(&stage, &report);
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v1".into())));
}

#[test]
fn a_release_that_cannot_start_again_keeps_nobody_from_being_served() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| {
        settings.steps = vec!["20% for 20s", "100%"];
        settings.ready_within = "3s";
    });
    stage.commit("v2", &[]);
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the first share", || stage.is_running("production", "shift.20%"));
    deploy.kill();
    stage.end_all();
    let slots = stage.root().join(".piton/environments/production/slots");
    let green = std::fs::read_dir(slots).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("green");
    let green = green.into_iter().find(|path| path.is_dir() && named(path));
    std::fs::remove_file(green.unwrap().join("built.json")).unwrap();
    // Nor can it be copied anew.
    let commit = stage.git(&["rev-parse", "HEAD"]);
    std::fs::remove_file(stage.root().join(".piton/artifacts").join(commit).join("built.json")).unwrap();

    let resume = stage.spawn(&["resume", "production"], &[]);
    stage.eventually("production", || stage.get(stage.listen("production"), "/") == Some((200, "v1".into())));
    let load = visitors(&stage);
    let said = resume.wait().says("green on").says("cannot be started again").says("the gate judges");
    stage.finish(load);
    assert_eq!(said.code, 3, "{}", said.stderr);
    let load = visitors(&stage);
    stage.eventually("answers", || load.snapshot().requests > 20);
    nobody_noticed(&stage, load);
}

/// A process that slept through its lease wakes up and finds itself replaced.
#[test]
fn a_stopped_piton_is_fenced_off() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.steps = vec!["20% for 3s", "100%"]);
    stage.commit("v2", &[]);
    let load = stage.load("production").start().unwrap();
    let first = stage.spawn(&["deploy", "production"], &[]);
    // Not while it writes into the journal: it would hold SQLite's lock as long as it sleeps.
    let noted = |event: &serde_json::Value| {
        event["event"]["event"] == "noted" && event["event"]["step"] == "shift.20%"
    };
    stage.eventually("the first share", || stage.events("production").iter().any(noted));
    first.signal(Signal::STOP);
    stage.piton(&["resume", "production"]).expect(2).says("is being released by");
    // As if it had been silent for longer than a lease lasts.
    let journal = rusqlite::Connection::open(stage.root().join(".piton/journal.db")).unwrap();
    journal.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    journal.execute("UPDATE leases SET beat = '2020-01-01T00:00:00Z'", []).unwrap();
    drop(journal);

    let second = stage.spawn(&["resume", "production"], &[]);
    stage.eventually("the second one", || {
        stage.status("production")["release"]["run_by"]["pid"] == second.id()
    });
    first.signal(Signal::CONT);
    first.wait().expect(1).says("another process took the release over");
    second.wait().expect(0);
    stage.piton(&["log", "production", "--verify"]).expect(0).says("none altered");
    assert_nothing_failed(&stage, &stage.finish(load));
}
