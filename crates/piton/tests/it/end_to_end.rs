//! Whole releases: a real app, PostgreSQL, the proxy and a load.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::{
    BAD, RECEIPTS, WRITES_RECEIPTS, assert_no_failures_but_of, assert_nothing_failed, live_stage, stage,
};
use piton_testkit::stage::{Change, Stage};

fn is_about(what: &'static str) -> impl Fn(&str) -> bool {
    move |fact| fact.contains(what)
}

#[test]
fn staging_is_made_from_production_and_leaves_it_alone() {
    let Some(stage) = live_stage() else { return };
    stage.commit("v2", &[RECEIPTS, WRITES_RECEIPTS]);
    let before = stage.world().only(is_about("production"));
    stage.deploy("staging");

    let rows = "select count(*), md5(string_agg(t::text, ',' order by id)) from items t";
    let production = stage.sql(&stage.database("production"), rows);
    assert_eq!(stage.sql(&stage.database("staging"), rows), production, "staging has production's rows");
    assert_eq!(stage.get(stage.listen("staging"), "/"), Some((200, "v2".into())));
    let now = stage.world().only(is_about("production"));
    before.assert_same(&now, "after a release to staging");

    // Again, over the database that the first release made; what staging wrote meanwhile is gone.
    stage.sql(&stage.database("staging"), "delete from items");
    stage.commit("v3", &[WRITES_RECEIPTS]);
    stage.deploy("staging");
    assert_eq!(stage.sql(&stage.database("staging"), rows), production);
    assert_eq!(stage.get(stage.listen("staging"), "/"), Some((200, "v3".into())));
    assert_eq!(stage.databases(), [stage.database("production"), stage.database("staging")]);
}

#[test]
fn apps_that_share_a_folder_of_backups_keep_each_others() {
    let (Some(mut shop), Some(mut other)) = (stage(), stage()) else { return };
    let shared = shop.folder().join("shared");
    other.configure(|settings| settings.backups = shared.clone());
    other.deploy("production");
    let backup_of_other = backups(&shared.join(other.name()).join("production"));
    assert_eq!(backup_of_other.len(), 1);
    // As an operator may have laid it: the manifest tells whose it is, not the folder.
    let misplaced = shared.join(shop.name()).join("production/of-another-app");
    std::fs::create_dir_all(misplaced.parent().unwrap()).unwrap();
    let copied = std::process::Command::new("cp").arg("-a").args([&backup_of_other[0], &misplaced]).status();
    assert!(copied.unwrap().success());

    shop.configure(|settings| {
        settings.backups = shared.clone();
        settings.keep = "1s";
    });
    shop.deploy("production");
    // What an operator keeps beside it is nobody's to remove; what a cut-off removal has left is carried on.
    let own = backups(&shared.join(shop.name()).join("production"));
    let first = own.iter().find(|path| **path != misplaced).unwrap();
    let kept = first.with_file_name(format!("{}-kept", first.file_name().unwrap().display()));
    assert!(std::process::Command::new("cp").arg("-a").args([first, &kept]).status().unwrap().success());
    std::fs::remove_dir_all(first.join("dump")).unwrap();
    let spent = first.with_file_name("01JD0000000000000000000000");
    std::fs::create_dir(&spent).unwrap();
    std::fs::copy(first.join(".made-by-piton"), spent.join(".made-by-piton")).unwrap();

    shop.commit("v2", &[]);
    let load = shop.load("production").start().unwrap();
    shop.deploy("production");
    assert_nothing_failed(&shop, &shop.finish(load));
    assert_eq!(backups(&shared.join(other.name()).join("production")), backup_of_other);
    let mut left = backups(&shared.join(shop.name()).join("production"));
    left.retain(|path| *path != misplaced && *path != kept);
    let [of_v2] = left.as_slice() else { panic!("its own of v2, and what is not its own: {left:?}") };
    assert!(misplaced.is_dir() && kept.join("dump").is_dir());

    let manifest = std::fs::read_to_string(of_v2.join("manifest.json")).unwrap();
    let made_for = &serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["manifest"]["made_for"];
    assert_eq!(made_for["commit"], shop.git(&["rev-parse", "HEAD"]));
    assert_eq!(made_for["serving"], shop.git(&["rev-parse", "HEAD~1"]));
}

#[test]
fn builds_and_logs_that_nothing_needs_are_removed() {
    let Some(mut stage) = live_stage() else { return };
    let commits = |stage: &Stage| -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(stage.root().join(".piton/artifacts"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let head = |stage: &Stage| stage.git(&["rev-parse", "HEAD"]);
    let mut hashes = vec![head(&stage)];
    // Another environment serves what production has left behind long ago.
    stage.deploy("staging");
    let foreign = stage.root().join(".piton/artifacts/by-hand");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(stage.root().join(".piton/artifacts/by-hand.json"), "{}").unwrap();
    let load = stage.load("production").start().unwrap();
    for release in ["v2", "v3", "v4"] {
        stage.commit(release, &[]);
        hashes.push(head(&stage));
        stage.deploy("production");
    }
    let mut kept = vec![hashes[0].clone(), hashes[2].clone(), hashes[3].clone(), "by-hand".to_owned()];
    kept.sort();
    assert_eq!(commits(&stage), kept, "v2 is gone: neither serves nor served before, nowhere");
    let worktrees = stage.git(&["worktree", "list", "--porcelain"]);
    assert!(!worktrees.contains(&hashes[1]) && worktrees.contains(&hashes[2]), "{worktrees}");
    let forgot = |event: &serde_json::Value| {
        let command = event["event"]["command"].as_str().unwrap_or_default();
        event["event"]["step"] == "settle.builds" && command.contains(&hashes[1])
    };
    assert!(stage.events("production").iter().any(forgot), "its removal is journaled");
    assert!(!stage.root().join(format!(".piton/artifacts/{}.json", hashes[1])).exists());

    // A removal that was cut off goes on, and one of a commit that is needed again is built anew.
    assert_eq!(stage.releases().len(), 5);
    let artifact = |commit: &str, kind: &str| stage.root().join(format!(".piton/artifacts/{commit}.{kind}"));
    std::fs::rename(artifact(&hashes[2], "json"), artifact(&hashes[2], "going")).unwrap();
    let going = artifact(&hashes[2], "going");
    stage.configure(|settings| settings.keep = "1s");
    stage.commit("v5", &[]);
    hashes.push(head(&stage));
    stage.deploy("production");
    let mut kept = vec![hashes[0].clone(), hashes[3].clone(), hashes[4].clone(), "by-hand".to_owned()];
    kept.sort();
    assert_eq!(commits(&stage), kept);
    assert!(!going.exists());
    assert_nothing_failed(&stage, &stage.finish(load));
    // The logs of what serves in both environments, and of the release before.
    assert_eq!(stage.releases().len(), 3);
}

/// The folders of the backups in an environment's folder.
fn backups(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).collect()
}

#[test]
fn a_good_release_is_promoted_under_load() {
    let Some(mut stage) = live_stage() else { return };
    stage.configure(|settings| settings.after_staging = true);
    stage.commit("v2", &[RECEIPTS, WRITES_RECEIPTS]);
    stage.deploy("staging");
    let load = stage.load("production").start().unwrap();
    stage.deploy("production");
    stage.eventually("the new release answers", || load.snapshot().last_second.contains_key("v2"));
    let report = stage.finish(load);

    assert_nothing_failed(&stage, &report);
    let world = stage.world();
    assert_eq!(world.fact("production green"), Some("v2 answers 200"));
    assert_eq!(world.fact("production blue"), Some("nobody"));
    assert_eq!(stage.databases(), [stage.database("production"), stage.database("staging")]);
    let receipts = stage.sql(&stage.database("production"), "select count(*) from receipts");
    assert_ne!(receipts, ["0"], "the new release wrote into its table");
    assert_eq!(stage.status("production")["release"]["outcome"], "succeeded");
    stage.piton(&["log", "production", "--verify"]).expect(0).says("none altered");
}

#[test]
fn a_bad_release_goes_back_by_itself() {
    let Some(stage) = live_stage() else { return };
    stage.commit("v2", &[BAD]);
    let before = stage.world().only(|fact| !fact.contains("rows of") && !is_kept(fact));
    let load = stage.load("production").start().unwrap();
    stage.piton(&["deploy", "production"]).expect(3).says("the gate sends it back: ");
    let report = stage.finish(load);

    assert_no_failures_but_of(&report, "v2");
    assert!(report.releases["v2"].failed > 0, "the bad release has answered badly");
    let lost = stage.lost_writes(&report, &stage.database("production"));
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let now = stage.world().only(|fact| !fact.contains("rows of") && !is_kept(fact));
    before.assert_same(&now, "after the release went back");
}

/// A backup and the folder that it made first are kept whatever becomes of the release.
fn is_kept(fact: &str) -> bool {
    fact.starts_with("file backups")
}

#[test]
fn a_person_sends_a_release_back() {
    let Some(mut stage) = live_stage() else { return };
    let (deploy, load) = crate::common::watched(&mut stage, &[RECEIPTS, WRITES_RECEIPTS]);
    stage.eventually("the new release answers", || load.snapshot().last_second.contains_key("v2"));
    stage.piton(&["rollback", "production"]).expect(0);
    deploy.wait().expect(3);
    let report = stage.finish(load);

    assert_nothing_failed(&stage, &report);
    let world = stage.world();
    assert_eq!(world.fact("production blue"), Some("v1 answers 200"));
    assert_eq!(world.fact("production green"), Some("nobody"));
    // Rows were written since the backup: without --database the migration stays, and no write is lost.
    assert_eq!(stage.databases(), [stage.database("production")]);
    assert_ne!(stage.sql(&stage.database("production"), "select count(*) from receipts"), ["0"]);
}

#[test]
fn a_person_sends_a_release_and_its_database_back() {
    let Some(mut stage) = live_stage() else { return };
    stage.configure(|settings| settings.watch = "10m");
    stage.commit("v2", &[RECEIPTS, WRITES_RECEIPTS]);
    let before = stage.world();
    let mut load = stage.load("production");
    // What was written since the backup leaves the live database: to read it again would be 404.
    load.reads = vec!["/".into(), "/items".into()];
    let load = load.start().unwrap();
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the watch", || stage.is_running("production", "watch"));
    let writes = load.snapshot().acknowledged_writes;
    stage.eventually("rows were written", || load.snapshot().acknowledged_writes > writes + 5);

    let said = stage.piton(&["rollback", "production", "--database", "--yes"]).expect(0);
    let said = said.says("Written since the backup").says("items").says("receipts").says("kept beside it");
    deploy.wait().expect(3);
    let writes = load.snapshot().acknowledged_writes;
    stage.eventually("writes go on", || load.snapshot().acknowledged_writes > writes);
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");

    let databases = stage.databases();
    let [replaced, live] = databases.as_slice() else { panic!("{databases:?}\n{}", said.stderr) };
    assert_eq!(*live, stage.database("production"));
    let tables = stage.sql(live, "select count(*) from pg_tables where tablename = 'receipts'");
    assert_eq!(tables, ["0"], "the table that the migration added is gone");
    let kept = stage.lost_writes(&report, replaced);
    let lost: Vec<_> = stage.lost_writes(&report, live).into_iter().filter(|id| kept.contains(id)).collect();
    assert!(lost.is_empty(), "in neither database: {lost:?}");

    stage.sql(live, "delete from items where id like 'load-%'");
    let now = stage.world().only(|fact| !is_kept(fact) && !fact.contains(replaced.as_str()));
    before.only(|fact| !is_kept(fact)).assert_same(&now, "after the rollback");
}

#[test]
fn a_release_is_held_and_goes_on() {
    let Some(mut stage) = live_stage() else { return };
    stage.configure(|settings| settings.steps = vec!["20% for 1s", "100%"]);
    stage.commit("v2", &[]);
    let load = stage.load("production").start().unwrap();
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the first share", || stage.is_running("production", "shift.20%"));
    stage.piton(&["hold", "production"]).expect(0);
    stage.eventually("the hold", || stage.status("production")["release"]["held"] == true);
    // Longer than the step: a release that did not hold would have gone on.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert!(stage.is_running("production", "shift.20%"));
    assert_eq!(stage.status("production")["proxy"]["weights"]["green"], 2000);
    stage.piton(&["continue", "production"]).expect(0).says("is held no more");
    deploy.wait().expect(0);
    assert_nothing_failed(&stage, &stage.finish(load));
}

#[test]
fn a_second_continue_does_not_close_the_way_back() {
    let Some(mut stage) = live_stage() else { return };
    let (deploy, load) = crate::common::watched(&mut stage, &[]);
    let asked =
        || stage.events("production").iter().filter(|event| event["event"]["event"] == "asked").count();
    stage.piton(&["hold", "production"]).expect(0);
    for times in 2..=3 {
        stage.piton(&["continue", "production"]).expect(0);
        stage.eventually("the request is taken up", || asked() == times);
    }
    // The gate looks four times a second: it has seen the request.
    std::thread::sleep(Duration::from_secs(1));
    assert!(stage.is_running("production", "watch"));
    stage.piton(&["continue", "production", "--now"]).expect(0).says("goes on now");
    deploy.wait().expect(0);
    assert_nothing_failed(&stage, &stage.finish(load));
}

#[test]
fn time_in_which_nothing_ran_is_not_watched() {
    const WATCH: Duration = Duration::from_secs(5);
    let Some(mut stage) = live_stage() else { return };
    stage.configure(|settings| settings.watch = "5s");
    stage.commit("v2", &[]);
    let load = stage.load("production").start().unwrap();
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the watch", || stage.is_running("production", "watch"));
    let began = Instant::now();
    drop(deploy);
    stage.end_all();
    let before_the_cut = began.elapsed();
    stage.finish(load);
    std::thread::sleep(WATCH);

    stage.piton(&["resume", "--all"]).expect(0);
    let resumed = Instant::now();
    let load = stage.load("production").start().unwrap();
    stage.piton(&["watch", "production"]).expect(0);
    let watched = before_the_cut + resumed.elapsed();
    assert!(watched > WATCH - Duration::from_secs(1), "watched for {watched:?}");
    assert_nothing_failed(&stage, &stage.finish(load));
}

#[test]
fn a_release_runs_by_itself_and_is_watched() {
    let Some(stage) = live_stage() else { return };
    stage.commit("v2", &[RECEIPTS]);
    let load = stage.load("production").start().unwrap();
    stage.piton(&["deploy", "production", "--detach"]).expect(0).says("runs by itself");
    stage.piton(&["watch", "production"]).expect(0);
    assert_eq!(stage.status("production")["release"]["outcome"], "succeeded");
    assert_nothing_failed(&stage, &stage.finish(load));
}

#[test]
fn after_a_power_cut_everything_comes_up_again() {
    let Some(mut stage) = live_stage() else { return };
    stage.configure(|settings| settings.steps = vec!["20% for 2s", "100%"]);
    stage.commit("v2", &[RECEIPTS, Change::Behaviour(|app| app.delay_ms = 5)]);
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the first share", || stage.is_running("production", "shift.20%"));
    drop(deploy);
    stage.end_all();
    assert_eq!(stage.world().fact("production proxy"), Some("does not run"));

    stage.piton(&["resume", "--all"]).expect(0);
    let load = stage.load("production").start().unwrap();
    stage.piton(&["watch", "production"]).expect(0);
    let report = stage.finish(load);
    assert_nothing_failed(&stage, &report);
    let world = stage.world();
    assert_eq!(world.fact("production green"), Some("v2 answers 200"));
    assert_eq!(world.fact("production blue"), Some("nobody"));
    assert_eq!(stage.databases(), [stage.database("production")]);
}
