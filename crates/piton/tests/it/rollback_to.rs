//! An older database in the live one's place: what is lost is counted, refused, and written down.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use piton_testkit::load::Running;
use piton_testkit::stage::{Change, Output, Stage};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::{
    RECEIPTS, WRITES_RECEIPTS, assert_no_failures_but_of, following_stage, is_of_this_half,
    live_stage_in_turn, watched,
};

/// A load that reads nothing which may be lost.
fn load(stage: &Stage) -> Running {
    patient_load(stage, Duration::from_secs(10))
}

fn patient_load(stage: &Stage, patience: Duration) -> Running {
    let mut load = stage.load("production");
    load.reads = vec!["/".into(), "/items".into()];
    load.patience = patience;
    load.start().unwrap()
}

/// Waits until so many more writes are acknowledged.
fn writes(stage: &Stage, load: &Running, count: usize) {
    let before = load.snapshot().acknowledged_writes;
    stage.eventually("writes", || load.snapshot().acknowledged_writes >= before + count);
}

/// Takes a backup and returns its identifier.
fn backup(stage: &Stage, environment: &str) -> String {
    stage.piton(&["backup", environment]).expect(0);
    let listed = stage.piton(&["backups", environment, "--json"]).expect(0).json();
    listed["backups"].as_array().unwrap().last().unwrap()["backup"].as_str().unwrap().to_owned()
}

fn ids(stage: &Stage, database: &str) -> BTreeSet<String> {
    stage.sql(database, "select id from items").into_iter().collect()
}

/// Runs a rollback whose loss is accepted.
fn back(stage: &Stage, to: &str, accept: &str) -> Output {
    stage.piton(&["rollback", "production", "--to", to, "--accept-loss", accept, "--json"])
}

/// Reads the rows of a file: the head is left out.
fn rows(file: &Value) -> Vec<Value> {
    let text = std::fs::read_to_string(file.as_str().unwrap()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["rows"].as_u64(), Some(lines.len() as u64 - 1));
    lines[1..].to_vec()
}

fn replaced(state: &Value) -> String {
    let kept = state["databases_kept"].as_array().unwrap();
    assert_eq!(kept.len(), 1, "{kept:?}");
    kept[0].as_str().unwrap().to_owned()
}

#[test]
fn an_older_backup_comes_back_under_a_writer_and_what_is_lost_is_written_down() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let load = load(&stage);
    writes(&stage, &load, 10);
    let older = backup(&stage, "production");
    writes(&stage, &load, 20);
    stage.sql(
        &production,
        "update items set note = 'changed' where id = 'old-7'; delete from items where id = 'old-8'",
    );

    // Not a word is enough, nor too small a number; and nobody has noticed.
    let before = stage.databases();
    let short = &older[16..];
    let refused = stage.piton(&["rollback", "production", "--to", short]).expect(2);
    refused
        .says("writes would be lost")
        .says("written since the backup")
        .says("\"public\".\"items\": ")
        .says(" inserted, 1 changed, 1 deleted")
        .says(&format!("piton rollback production --to {short} --accept-loss "))
        .says("Nothing was changed.");
    let state = back(&stage, &older, "7").expect(2).says("lost, and 7 accepted").json();
    assert_eq!(state["outcome"], "refused");
    assert_eq!((&state["loss"]["accepted"], &state["loss"]["file"]), (&7.into(), &Value::Null));
    assert!(state["loss"]["writes"].as_u64().unwrap() >= 22, "{}", state["loss"]);
    assert!(state["fault"]["hint"].as_str().unwrap().contains("--accept-loss"), "{}", state["fault"]);
    assert_eq!(stage.databases(), before, "what was restored to count is gone");
    let held: BTreeSet<_> = ids(&stage, &production);

    let state = back(&stage, &older, "100000").expect(0).json();
    writes(&stage, &load, 10);
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");
    let now = ids(&stage, &production);
    assert!(now.contains("old-8") && !held.is_subset(&now));
    assert_eq!(stage.sql(&production, "select count(*) from items where note = 'changed'"), ["0"]);

    // What is lost is what is in the file, and what the replaced database still has.
    let lost: BTreeSet<String> = stage.lost_writes(&report, &production).into_iter().collect();
    let rows = rows(&state["loss"]["file"]);
    let of = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).collect::<Vec<_>>();
    let told: BTreeSet<String> =
        of("row").iter().map(|row| row["key"]["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, lost);
    assert!(lost.len() >= 20, "{}", lost.len());
    assert_eq!(of("changed")[0]["values"]["note"], "changed");
    assert_eq!(of("deleted")[0]["key"]["id"], "old-8");
    assert_eq!(state["loss"]["writes"].as_u64(), Some(rows.len() as u64));
    let kept = replaced(&state);
    assert!(lost.is_subset(&ids(&stage, &kept)), "the replaced database is kept with all of them");
    let status = stage.piton(&["status", "production"]).expect(0).stdout;
    assert!(status.contains(&kept) && status.contains("last rollback"), "{status}");

    // It can be put back as it was, with the same command, and what came since is counted as well.
    let after = ids(&stage, &production);
    let refused = stage.piton(&["rollback", "production", "--to", &kept]).expect(2);
    refused.says("written since it was replaced");
    let state = back(&stage, &kept, "100000").expect(0).json();
    let back: BTreeSet<String> = ids(&stage, &production);
    assert!(lost.is_subset(&back) && !back.contains("old-8"));
    let second = replaced(&state);
    assert_eq!(ids(&stage, &second), after);
    stage.sql("postgres", &format!("drop database {second}"));
    stage.piton(&["log", "--verify"]).expect(0);
}

#[test]
fn nothing_that_was_written_needs_nothing_that_is_accepted() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let older = backup(&stage, "production");
    // A number that was given out is nobody's row, and is given to nobody again.
    let owner = stage.role("production");
    stage.sql(
        &production,
        &format!("set role \"{owner}\"; create sequence numbers; select nextval('numbers')"),
    );
    let with_sequence = backup(&stage, "production");
    stage.sql(&production, "select nextval('numbers'), nextval('numbers')");
    let state = stage.piton(&["rollback", "production", "--to", &with_sequence, "--json"]).expect(0).json();
    assert_eq!(state["loss"]["writes"], 0);
    assert_eq!(state["loss"]["file"], Value::Null);
    assert_eq!(stage.sql(&production, "select nextval('numbers')"), ["4"]);
    stage.sql("postgres", &format!("drop database {}", replaced(&state)));

    // What is no row is somebody's, too.
    stage
        .piton(&["rollback", "production", "--to", &older])
        .expect(2)
        .says("sequence public.numbers goes")
        .says("--accept-loss");
}

/// The release that serves knows no older structure than its own.
#[test]
fn a_backup_of_before_a_migration_is_migrated_before_it_takes_the_place() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let older = backup(&stage, "production");
    let index = Change::Migration("003_index.sql", "create index by_note on items (note)");
    let (deploy, load) = watched(&mut stage, &[RECEIPTS, index, WRITES_RECEIPTS]);
    let open = stage.piton(&["rollback", "production", "--to", &older]).expect(2);
    open.says("piton abort production undoes it");
    stage.piton(&["continue", "production", "--now"]).expect(0);
    deploy.wait().expect(0);
    stage.finish(load);
    let load = self::load(&stage);
    writes(&stage, &load, 10);
    let said = stage.piton(&["rollback", "production", "--to", &older, "--accept-loss", "100000"]).expect(0);
    said.says("migrate    002_receipts.sql, 003_index.sql").says("\"public\".\"receipts\": ");
    writes(&stage, &load, 10);
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");
    let written =
        "select count(*) >= 10, count(*) = (select count(*) from items where id like 'load-%') from receipts";
    assert_eq!(stage.sql(&production, written), ["t|t"], "the app goes on writing into the new table");
    assert_eq!(stage.sql(&production, "select count(*) from pg_indexes where indexname = 'by_note'"), ["1"]);
    assert_eq!(stage.databases().len(), 2, "the live one and the one that it replaced");

    // Who wants the older structure has the older commit serve first.
    stage.configure(|settings| settings.watch = "1s");
    let load = self::load(&stage);
    stage.piton(&["deploy", "production", "--ref", "HEAD~1"]).expect(0);
    stage.finish(load);
    let said = stage.piton(&["rollback", "production", "--to", &older, "--accept-loss", "100000"]).expect(0);
    said.says("no migration pending").says("table public.receipts goes");
    assert_eq!(stage.sql(&production, "select count(*) from pg_tables where tablename = 'receipts'"), ["0"]);
}

#[test]
fn what_is_no_backup_of_its_own_is_refused() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let (production, before) = (stage.database("production"), stage.databases());
    let to = |stage: &Stage, environment: &str, to: &str| {
        stage.piton(&["rollback", environment, "--to", to, "--accept-loss", "1000000"])
    };
    to(&stage, "production", "01JD").expect(2).says("has no backup 01JD").says("piton backups production");
    stage.piton(&["rollback", "production", "--accept-loss", "3"]).expect(2);
    stage.piton(&["rollback", "production", "--to", "latest", "--database"]).expect(2);
    // Neither the live database nor a stranger's is one that was replaced.
    for name in [production.as_str(), "postgres"] {
        to(&stage, "production", name).expect(2).says("no such database that was replaced");
    }

    let older = backup(&stage, "production");
    let folder = stage.root().join("backups").join(stage.name()).join("production").join(&older);
    flip_a_bit(&folder);
    to(&stage, "production", &older).expect(3).says("was altered").says("production is as before");
    let manifest = folder.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replacen("production", "productiom", 1)).unwrap();
    to(&stage, "production", &older).expect(2).says("is damaged");
    assert_eq!(stage.databases(), before);

    // What was made for staging is staging's, as long as it takes its data so.
    let mask = "[columns.items]\nnote = \"keep\"\n";
    stage.configure(|settings| settings.staging_mask = Some("mask.toml"));
    stage.commit("v2", &[Change::File("mask.toml", mask)]);
    stage.deploy("staging");
    let staging = stage.database("staging");
    stage.sql(&staging, "delete from items");
    to(&stage, "staging", "latest").expect(0).says("staging's database is the backup");
    assert_eq!(stage.sql(&staging, "select count(*) from items"), ["1000"]);
    let kept: Vec<_> = stage.databases().into_iter().filter(|name| name.contains("_old_")).collect();
    assert_eq!(stage.sql(&kept[0], "select count(*) from items"), ["0"]);
    // It is nobody's to drop, and comes back as any other that was replaced.
    stage.piton(&["rollback", "staging", "--to", &kept[0]]).expect(2).says("1,000 writes would be lost");
    to(&stage, "staging", &kept[0]).expect(0);
    assert_eq!(stage.sql(&staging, "select count(*) from items"), ["0"]);
    stage.piton(&["clone", "staging"]).expect(0);
    stage.write("mask.toml", &mask.replace("keep", "blank"));
    to(&stage, "staging", "latest").expect(2).says("what is masked was changed").says("piton clone staging");
    stage.configure(|settings| settings.staging_from_production = false);
    to(&stage, "staging", "latest").expect(2).says("masked rows of production");
}

/// Flips a bit in the middle of the largest table file of a backup.
fn flip_a_bit(folder: &Path) {
    let files = std::fs::read_dir(folder.join("dump")).unwrap().map(|entry| entry.unwrap().path());
    let tables = files.filter(|path| path.to_string_lossy().ends_with(".dat.gz"));
    let path = tables.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn who_writes_past_the_proxy_is_waited_for() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let older = backup(&stage, "production");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            stage.sql(
                &production,
                "begin; insert into items values ('late', 'x', now()); select pg_sleep(14); commit",
            )
        });
        let open = "select 1 from pg_locks where relation = 'items'::regclass and mode = 'RowExclusiveLock'";
        stage.eventually("the writer", || !stage.sql(&production, open).is_empty());
        let stands = stage.piton(&["rollback", "production", "--to", &older]).expect(4);
        stands.says("somebody writes to the database past the proxy").says("piton resume production");
        assert_eq!(stage.get(stage.listen("production"), "/items").map(|(status, _)| status), Some(200));
        writer.join().unwrap();
    });
    // It is there now, and nobody has accepted that.
    stage.piton(&["resume", "production"]).expect(2).says("1 write would be lost");
    assert_eq!(stage.sql(&production, "select note from items where id = 'late'"), ["x"]);
    assert_eq!(stage.databases(), [production]);
}

#[test]
fn what_is_written_at_the_last_moment_is_counted_as_well() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let older = backup(&stage, "production");
    stage.sql(&production, "insert into items values ('early', 'x', now())");
    let rollback = ["rollback", "production", "--to", &older, "--accept-loss", "1"];
    // After the count, and before the databases change places.
    stage.piton_with_env(&rollback, &[("PITON_CRASH_AT", "done prove.loss:after")]).expect(137);
    // No look sees it before the database is about to be kept still.
    let until_frozen = "do $$ begin
        while not exists (select from pg_stat_activity where application_name = 'piton freeze' and datname = current_database())
        loop perform pg_sleep(0.02); perform pg_stat_clear_snapshot(); end loop; end $$";
    let late = format!("begin; insert into items values ('late', 'x', now()); {until_frozen}; commit");
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| stage.sql(&production, &late));
        let open = "select 1 from pg_locks where relation = 'items'::regclass and mode = 'RowExclusiveLock'";
        stage.eventually("the writer", || !stage.sql(&production, open).is_empty());
        stage.piton(&["resume", "production"]).expect(2).says("2 writes would be lost, and 1 accepted");
        writer.join().unwrap();
    });
    assert_eq!(stage.sql(&production, "select count(*) from items where id in ('early', 'late')"), ["2"]);
    assert_eq!(stage.databases(), [production.as_str()]);
    assert_eq!(files_of_what_is_lost(&stage), 0);
    assert_eq!(stage.get(stage.listen("production"), "/items").map(|(status, _)| status), Some(200));

    // By itself, it ends in the same way.
    stage.piton(&[&rollback[..], &["--detach"]].concat()).expect(0).says("runs by itself");
    stage.piton(&["watch", "production"]).expect(2).says("2 writes would be lost, and 1 accepted");
}

#[test]
fn what_was_lost_is_loaded_by_a_later_release_where_nothing_is_overwritten() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let older = backup(&stage, "production");
    let written = "insert into items values ('lost-1', 'x', now()), ('lost-2', 'y', now()); update items set note = 'z' where id = 'old-7'";
    stage.sql(&production, written);
    let state = back(&stage, &older, "3").expect(0).json();
    let file = PathBuf::from(state["loss"]["file"].as_str().unwrap());
    let rescued = stage.root().join(".piton/environments/production/rescued");
    std::fs::create_dir_all(&rescued).unwrap();
    let again = rescued.join(file.file_name().unwrap());
    std::fs::rename(&file, &again).unwrap();
    stage.commit("v2", &[RECEIPTS]);
    let load = load(&stage);
    let said = stage.piton(&["deploy", "production"]).expect(0);
    stage.finish(load);
    said.says("2 rows are in again from an earlier attempt")
        .says("id old-7 of \"public\".\"items\": the row was changed");
    let notes =
        "select note from items where id in ('lost-1', 'lost-2', 'old-7') and length(note) = 1 order by 1";
    assert_eq!(stage.sql(&production, notes), ["x", "y"]);
    assert!(again.is_file(), "what was not loaded is still there");
}

/// Counts the files of rows that are lost.
fn files_of_what_is_lost(stage: &Stage) -> usize {
    let folder = stage.root().join(".piton/environments/production/lost");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).count()
}

#[test]
fn what_is_written_into_the_older_database_stays_when_that_is_taken_back() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let older = backup(&stage, "production");
    stage.sql(&production, "insert into items values ('lost', 'x', now())");
    let rollback = ["rollback", "production", "--to", &older, "--accept-loss", "1"];
    let killed = |stage: &Stage| {
        stage.piton_with_env(&rollback, &[("PITON_CRASH_AT", "done migrate.swap:before")]).expect(137);
        assert_eq!(stage.sql(&production, "select count(*) from items where id = 'lost'"), ["0"]);
    };
    killed(&stage);
    stage.piton(&["abort", "production", "--yes"]).expect(0).says("the database before is back");
    assert_eq!(stage.sql(&production, "select count(*) from items where id = 'lost'"), ["1"]);
    assert_eq!(stage.databases(), [production.as_str()], "nobody has written into it");

    killed(&stage);
    stage.sql(&production, "insert into items values ('since', 'x', now())");
    let undone = stage.piton(&["abort", "production", "--yes"]).expect(0);
    let kept: Vec<_> = stage.databases().into_iter().filter(|name| *name != production).collect();
    let [kept] = &kept[..] else { panic!("{kept:?}") };
    undone.says(&format!("kept as {kept}"));
    assert_eq!(stage.sql(kept, "select count(*) from items where id = 'since'"), ["1"]);
    assert_eq!(stage.sql(&production, "select count(*) from items where id = 'lost'"), ["1"]);
    assert_eq!(files_of_what_is_lost(&stage), 0, "nothing is lost");
}

/// Sends a signal to a process of the database's server.
fn signal(pid: &str, signal: Signal) {
    let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn requests_go_on_where_counting_takes_longer_than_they_may_wait() {
    let Some(stage) =
        is_of_this_half().then(|| Stage::set_with_own_server(env!("CARGO_BIN_EXE_piton"))).flatten()
    else {
        return;
    };
    stage.deploy("production");
    let (production, role) = (stage.database("production"), stage.role("production"));
    // So many that the look at them can be caught.
    let many =
        "do $$ begin for n in 1..300 loop execute format('create table t%s (a int)', n); end loop; end $$";
    stage.sql(&production, &format!("set role \"{role}\"; {many}"));
    let older = backup(&stage, "production");
    let load = patient_load(&stage, Duration::from_secs(60));
    writes(&stage, &load, 10);
    let rollback = ["rollback", "production", "--to", &older, "--accept-loss", "100000", "--json"];
    let rollback = stage.spawn(&rollback, &[]);
    let reader =
        "select pid from pg_stat_activity where datname like '%_golden_%' and application_name = 'piton'
                      and exists (select from pg_stat_activity where application_name = 'piton freeze')";
    let begun = Instant::now();
    let reader = loop {
        if let Some(pid) = stage.sql("postgres", reader).pop() {
            break pid;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", rollback.said());
    };
    signal(&reader, Signal::STOP);
    let stopped = Instant::now();
    let frozen = "select count(*) from pg_stat_activity where application_name = 'piton freeze'";
    stage.eventually("requests go on", || stage.get(stage.listen("production"), "/").is_some());
    assert_eq!(stage.sql("postgres", frozen), ["1"], "nobody writes meanwhile");
    assert!(stopped.elapsed() > Duration::from_secs(3), "they had waited before");
    let written = load.snapshot().acknowledged_writes;
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(load.snapshot().acknowledged_writes, written);
    signal(&reader, Signal::CONT);
    let state = rollback.wait().expect(0).json();
    writes(&stage, &load, 10);
    let report = stage.finish(load);
    // A write that waits may fail as the app has it: nobody was told that it was saved.
    let of_writes = |call: &str| call.starts_with("POST");
    let failures = || report.failures.iter().flat_map(|failure| &failure.first);
    assert!(failures().all(|failure| of_writes(&failure.call)), "{:#?}", report.failures);
    let lost: BTreeSet<String> = stage.lost_writes(&report, &production).into_iter().collect();
    let rows = rows(&state["loss"]["file"]);
    let told: BTreeSet<String> =
        rows.iter().map(|row| row["key"]["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, lost);
}

/// While a release is under way its log tells whole rows of tables without a key; what was dumped then must not go on so.
#[test]
fn a_backup_of_a_release_comes_back_with_what_the_log_told_before() {
    let Some(stage) = following_stage() else { return };
    let production = stage.database("production");
    let owner = stage.role("production");
    stage.sql(
        &production,
        &format!("set role \"{owner}\"; create table plain (n int); insert into plain values (1)"),
    );
    let identity = "select relreplident::text from pg_class where relname = 'plain'";
    stage.commit("v2", &[RECEIPTS, WRITES_RECEIPTS]);
    let load = load(&stage);
    stage.piton(&["deploy", "production"]).expect(0).says("every write is kept from here on");
    assert_no_failures_but_of(&stage.finish(load), "no release");
    assert_eq!(stage.sql(&production, identity), ["d"]);
    let state = back(&stage, "latest", "100000").expect(0).json();
    assert!(!state["loss"].to_string().contains("plain"), "{}", state["loss"]);
    assert_eq!(stage.sql(&production, identity), ["d"]);
    assert_eq!(stage.sql(&production, "select n from plain"), ["1"]);
}
