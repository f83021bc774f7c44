//! What is done besides releases: backups, their proofs and restorations, fresh data.

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use piton_testkit::stage::Stage;

use crate::common::{RECEIPTS, WRITES_RECEIPTS, assert_nothing_failed, live_stage_in_turn, stage_in_turn};

const ROWS: &str = "select count(*), md5(string_agg(t::text, ',' order by id)) from items t";

/// The backups of an environment as `piton backups` lists them, oldest first.
fn backups(stage: &Stage, environment: &str) -> Vec<serde_json::Value> {
    let listed = stage.piton(&["backups", environment, "--json"]).expect(0).json();
    listed["backups"].as_array().unwrap().clone()
}

fn folder(backup: &serde_json::Value) -> PathBuf {
    PathBuf::from(backup["folder"].as_str().unwrap())
}

/// Flips a bit in the middle of the largest table file of a backup.
fn flip_a_bit(folder: &Path) {
    let files = std::fs::read_dir(folder.join("dump")).unwrap().map(|entry| entry.unwrap().path());
    let tables = files.filter(|path| path.to_string_lossy().ends_with(".dat.gz"));
    let path = tables.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(middle)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
}

#[test]
fn a_backup_is_taken_under_a_writer_proved_listed_and_restored() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let before = stage.databases();
    let load = stage.load("production").start().unwrap();
    stage.piton(&["backup", "production"]).expect(0).says("is proved");
    assert_nothing_failed(&stage, &stage.finish(load));
    assert_eq!(stage.databases(), before, "the golden copy is dropped");

    let listed = backups(&stage, "production");
    assert_eq!(listed.len(), 2, "the release's own, and this one");
    let taken = listed.last().unwrap();
    assert!(taken["proved"]["at"].is_string() && taken["damaged"].is_null(), "{taken}");
    assert_eq!(taken["serving"], stage.git(&["rev-parse", "HEAD"]));
    let text = stage.piton(&["backups", "production"]).expect(0).stdout;
    assert_eq!(text.lines().count(), 3, "a head and two backups: {text}");
    // A backup is no release: the one that serves is still the latest.
    let status = stage.status("production");
    assert_eq!(status["release"]["job"], "release");
    assert_eq!(status["live"]["release"], status["release"]["release"]);

    let restored = format!("{production}_restored");
    let short = taken["backup"].as_str().unwrap();
    let short = &short[short.len() - 8..];
    stage
        .piton(&["restore", "production", short, "--into", &restored])
        .expect(0)
        .says(&format!("{restored} holds the backup"));
    let rows: u64 = stage.sql(&restored, "select count(*) from items")[0].parse().unwrap();
    assert!(rows > 0, "the app has items");
    let mark = "select coalesce(shobj_description(oid, 'pg_database'), '') from pg_database where datname = current_database()";
    assert_eq!(stage.sql(&restored, mark), [""], "it is nobody's but the person's");
    stage.piton(&["restore", "production", short, "--into", &restored]).expect(2).says("already");
    stage.sql("postgres", &format!("drop database {restored}"));
    stage
        .piton(&["restore", "production", "NONE", "--into", "other"])
        .expect(2)
        .says("piton backups production");

    stage.piton(&["prove", "production", "latest"]).expect(0).says("is proved");
    let again = backups(&stage, "production");
    let at =
        |listed: &[serde_json::Value]| listed.last().unwrap()["proved"]["at"].as_str().unwrap().to_owned();
    assert!(at(&again) > at(&listed), "proved anew");
    assert_eq!(stage.databases(), before);
}

#[test]
fn a_backup_is_restored_by_hand_as_the_documentation_says() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.piton(&["backup", "production"]).expect(0);
    let taken = backups(&stage, "production").pop().unwrap();
    let text = include_str!("../../../../docs/backup.md");
    let (_, by_hand) = text.split_once("## By hand, without Piton").unwrap();
    let script = by_hand.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let name = format!("{}_by_hand", stage.database("production"));
    let mut path = vec![stage.cluster().bin_dir().to_owned()];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let output = std::process::Command::new("sh")
        .args(["-euc", &script.replace("by_hand", &name)])
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("backup", folder(&taken))
        .env("PGHOST", stage.cluster().socket_dir())
        .env("PGPORT", stage.cluster().port().to_string())
        .env("PGUSER", "postgres")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stage.sql(&name, ROWS), stage.sql(&stage.database("production"), ROWS));
    stage.sql("postgres", &format!("drop database {name}"));
}

#[test]
fn files_and_variables_are_backed_up_proved_and_restored() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let key = stage.folder().join("key.txt");
    let Ok(made) = std::process::Command::new("age-keygen").arg("-o").arg(&key).output() else {
        return piton_testkit::postgres::skip("age");
    };
    let said = String::from_utf8(made.stderr).unwrap();
    let recipient = said.rsplit("Public key: ").next().unwrap().trim();
    // A link to what all releases share.
    let (uploads, shared) = (stage.folder().join("uploads"), stage.folder().join("shared"));
    std::fs::create_dir_all(shared.join("receipts")).unwrap();
    std::os::unix::fs::symlink("shared", &uploads).unwrap();
    std::os::unix::fs::symlink("../key.txt", uploads.join("elsewhere")).unwrap();
    std::fs::write(uploads.join("receipts/1.pdf"), vec![1; 100_000]).unwrap();
    std::fs::write(uploads.join("logo.png"), "png").unwrap();
    stage.configure(|settings| {
        settings.backup_more = format!(", files = [{uploads:?}], recipients = [{recipient:?}]");
    });
    // More than the last lines that Piton keeps of what a program prints, in colours, and not UTF-8.
    let (mut text, file) =
        (std::fs::read(stage.root().join("piton.toml")).unwrap(), stage.root().join("piton.toml"));
    (0..400).for_each(|number| text.extend(format!("# line {number}\n").bytes()));
    std::fs::write(&file, text).unwrap();
    stage.git(&["config", "color.ui", "always"]);
    // Secrets that somebody has committed, and changed since.
    stage.git(&["add", "--force", ".env.production", ".env.staging"]);
    stage.git(&["commit", "--quiet", "--message", "secrets", "--", ".env.production", ".env.staging"]);
    for name in [".env.production", ".env.staging"] {
        let text = std::fs::read_to_string(stage.root().join(name)).unwrap();
        stage.write(name, &format!("{text}NEW_TOKEN=told-to-nobody-{name}\n"));
    }
    stage.write("notes", "mine");
    stage
        .piton(&["backup", "production"])
        .expect(0)
        .says("2 files")
        .says("left out: elsewhere: leads to")
        .says("1 file unknown to git");
    let taken = folder(&backups(&stage, "production").pop().unwrap());
    let manifest = std::fs::read_to_string(taken.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let head = stage.git(&["rev-parse", "HEAD"]);
    assert_eq!(manifest["manifest"]["uncommitted"], serde_json::json!({ "commit": head, "untracked": 1 }));
    assert_ne!(manifest["manifest"]["made_for"]["serving"], head);
    let diff = taken.join("uncommitted.diff");
    let text = std::fs::read_to_string(&diff).unwrap();
    assert!(
        text.contains("recipients") && text.contains("# line 0\n"),
        "piton.toml differs from the commit: {text}"
    );
    assert!(!text.contains("told-to-nobody"), "{text}");
    stage.git(&["apply", "--check", "--reverse", diff.to_str().unwrap()]);

    let restored = stage.folder().join("restored");
    let (name, into) = (format!("{}_restored", stage.database("production")), restored.display().to_string());
    let restore = ["restore", "production", "latest", "--into", &name, "--files", &into];
    stage.piton_with_env(&restore, &[("PITON_CRASH_AT", "done prove.files:before")]).expect(137);
    stage.piton(&["resume", "production"]).expect(0);
    assert_eq!(std::fs::read(restored.join("uploads/receipts/1.pdf")).unwrap(), vec![1; 100_000]);
    let mode = std::fs::metadata(&restored).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "what people have sent is nobody else's business");
    stage
        .piton(&["restore", "production", "latest", "--into", "other", "--files", &into])
        .expect(2)
        .says("never over");
    let nowhere = stage.folder().join("none/restored").display().to_string();
    stage
        .piton(&["restore", "production", "latest", "--into", "other", "--files", &nowhere])
        .expect(2)
        .says("mkdir -p");
    stage.sql("postgres", &format!("drop database {name}"));

    let decrypted = std::process::Command::new("age")
        .args(["--decrypt", "--identity"])
        .args([&key, &taken.join("config/.env.production.age")])
        .output()
        .unwrap();
    assert_eq!(decrypted.stdout, std::fs::read(stage.root().join(".env.production")).unwrap());
    let plain = std::fs::read_dir(taken.join("config")).unwrap().count();
    assert_eq!(plain, 1, "nothing but what is encrypted");

    // One that is unpacked by a run that is undone goes with it; one that a person has put in its place stays.
    std::fs::remove_dir_all(&restored).unwrap();
    stage.piton_with_env(&restore, &[("PITON_FAIL_AT", "prove.files:after")]).expect(3);
    assert!(!restored.exists());
    stage.piton_with_env(&restore, &[("PITON_CRASH_AT", "done prove.files:before")]).expect(137);
    std::fs::rename(&restored, stage.folder().join("moved")).unwrap();
    std::fs::create_dir(&restored).unwrap();
    stage.piton(&["abort", "production", "--yes"]).expect(0);
    assert!(restored.is_dir());
    std::fs::remove_dir(&restored).unwrap();

    // As many files, and one with other contents: told by the proof, whatever checksums the manifest has.
    std::fs::write(uploads.join("logo.png"), "gif").unwrap();
    stage.piton(&["backup", "production"]).expect(0);
    let other = folder(&backups(&stage, "production").pop().unwrap());
    std::fs::copy(other.join("files/uploads.tar.gz"), taken.join("files/uploads.tar.gz")).unwrap();
    let id = taken.file_name().unwrap().to_str().unwrap();
    stage.piton(&["prove", "production", id]).expect(3).says("files/uploads.tar.gz was altered");

    std::fs::remove_dir_all(&uploads).unwrap();
    stage.piton(&["backup", "production"]).expect(2).says("cannot be backed up").says("backup.files");
}

#[test]
fn a_backup_with_a_flipped_bit_is_told_by_its_file() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.piton(&["backup", "production"]).expect(0);
    let before = stage.databases();
    let taken = backups(&stage, "production").pop().unwrap();
    flip_a_bit(&folder(&taken));
    stage.piton(&["prove", "production", "latest"]).expect(3).says("was altered").says(".dat.gz");
    assert_eq!(stage.databases(), before);
    assert!(backups(&stage, "production").pop().unwrap()["proved"].is_null(), "it was proved before");

    let manifest = folder(&taken).join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replacen("\"rows\": ", "\"rows\":  ", 1)).unwrap();
    stage.piton(&["backups", "production"]).expect(0);
    std::fs::write(&manifest, text.replacen("production", "productiom", 1)).unwrap();
    let listed = backups(&stage, "production").pop().unwrap();
    assert!(listed["damaged"].is_string(), "{listed}");
    stage.piton(&["prove", "production", "latest"]).expect(2).says("damaged");
}

#[test]
fn staging_gets_fresh_data_while_its_app_runs() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[RECEIPTS, WRITES_RECEIPTS]);
    stage.deploy("staging");
    let (production, staging) = (stage.database("production"), stage.database("staging"));
    stage.sql(&staging, "delete from items");
    stage.sql(&production, "insert into items values ('late', 'since', now())");

    let mut load = stage.load("staging");
    load.writes = 0.0;
    let load = load.start().unwrap();
    stage.piton(&["clone", "staging"]).expect(0).says("made anew");
    crate::common::assert_no_failures_but_of(&stage.finish(load), "no release");
    assert_eq!(stage.sql(&staging, ROWS), stage.sql(&production, ROWS), "production's rows");
    let receipts = stage.sql(&staging, "select count(*) from receipts");
    assert_eq!(receipts, ["0"], "the migration of the release that serves staging is applied");
    assert_eq!(stage.get(stage.listen("staging"), "/"), Some((200, "v2".into())));
    assert_eq!(stage.databases(), [production, staging]);

    stage.piton(&["clone", "production"]).expect(2).says("is protected");
}

#[test]
fn what_is_written_into_cloned_data_stays_when_the_clone_is_undone() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.deploy("staging");
    let staging = stage.database("staging");
    let before = stage.sql(&staging, ROWS);
    stage
        .piton_with_env(&["clone", "staging"], &[("PITON_CRASH_AT", "done migrate.data:before")])
        .expect(137);
    // The app that serves staging is on the new data already.
    stage.sql(&staging, "insert into items values ('written', 'meanwhile', now())");
    let undone = stage.piton(&["abort", "staging", "--yes"]).expect(0);
    assert_eq!(stage.sql(&staging, ROWS), before, "the data before are back");
    let kept: Vec<_> = stage.databases().into_iter().filter(|name| name.contains("piton")).collect();
    let [kept] = kept.as_slice() else { panic!("{kept:?}") };
    undone.says(kept);
    assert_eq!(stage.sql(kept, "select note from items where id = 'written'"), ["meanwhile"]);
    stage.sql("postgres", &format!("drop database {kept}"));
}

#[test]
fn stagings_own_backup_is_of_its_own_data() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.deploy("staging");
    let staging = stage.database("staging");
    stage.sql(&staging, "delete from items; insert into items values ('own', 'of staging', now())");
    stage.sql("postgres", "create role reader_of_staging");
    stage.sql(&staging, "grant select on items to reader_of_staging");
    stage.piton(&["backup", "staging"]).expect(0).says("is proved");
    let name = format!("{staging}_restored");
    stage.piton(&["restore", "staging", "latest", "--into", &name]).expect(0);
    assert_eq!(stage.sql(&name, "select id from items"), ["own"]);
    let granted = "select has_table_privilege('reader_of_staging', 'items', 'select')";
    assert_eq!(stage.sql(&name, granted), ["t"], "whose it is comes back, too");
    stage.sql("postgres", &format!("drop database {name}"));
    stage.sql(&staging, "drop owned by reader_of_staging");
    stage.sql("postgres", "drop role reader_of_staging");
}

#[test]
fn a_backup_that_is_not_proved_takes_the_place_of_none_that_is() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| {
        settings.keep = "1s";
        settings.backup_more = ", last = 2".into();
    });
    let take = |stage: &Stage| {
        stage.piton(&["backup", "production"]).expect(0);
        backups(stage, "production").pop().unwrap()
    };
    // Copied back by a person, with `cp -r ID/* …`.
    let copied = backups(&stage, "production").pop().unwrap();
    std::fs::remove_file(folder(&copied).join(".made-by-piton")).unwrap();
    let first = take(&stage);
    let altered = take(&stage);
    flip_a_bit(&folder(&altered));
    stage.piton(&["prove", "production", "latest"]).expect(3);
    std::thread::sleep(std::time::Duration::from_secs(1));
    let text = format!("not removed: {0} has no .made-by-piton: rm -r {0}", folder(&copied).display());
    stage.piton(&["backup", "production"]).expect(0).says(&text);
    let mut left: Vec<_> =
        backups(&stage, "production").iter().map(|backup| backup["backup"].clone()).collect();
    let last = left.pop().unwrap();
    assert_ne!(last, altered["backup"]);
    assert_eq!(left, [copied["backup"].clone(), first["backup"].clone()]);
}

#[test]
fn a_backup_that_cannot_be_taken_stands_in_nobodys_way() {
    let Some(stage) = live_stage_in_turn() else { return };
    let (to, aside) = (stage.root().join("backups"), stage.folder().join("backups"));
    std::fs::rename(&to, &aside).unwrap();
    std::fs::write(&to, "").unwrap();
    let failed = stage.piton(&["backup", "production"]).expect(3);
    failed.says("the backup failed").says("mend it, then piton backup production");
    std::fs::remove_file(&to).unwrap();
    std::fs::rename(&aside, &to).unwrap();
    stage.piton(&["backup", "production"]).expect(0).says("is proved");
}

#[test]
fn a_database_that_was_lost_is_restored() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let rows = stage.sql(&production, ROWS);
    stage.piton(&["backup", "production"]).expect(0);
    stage.sql("postgres", &format!("drop database {production} with (force)"));
    // Not the database of that name, whatever a libpq tool would read into it.
    let odd = format!("dbname={production}");
    stage.piton(&["restore", "production", "latest", "--into", &odd]).expect(0);
    assert!(!stage.databases().contains(&production));
    stage.sql("postgres", &format!("alter database \"{odd}\" rename to {production}"));
    assert_eq!(stage.sql(&production, ROWS), rows);
    assert_eq!(stage.get(stage.listen("production"), "/items").map(|(status, _)| status), Some(200));
}

#[test]
fn a_restored_database_may_be_put_in_place_while_it_is_handed_over() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    let name = format!("{production}_restored");
    // Only a superuser's backup has subscriptions.
    stage.sql("postgres", &format!("alter role \"{}\" superuser", stage.role("production")));
    let far = "create subscription orders_far connection 'host=far.invalid dbname=far' publication p with (connect = false, slot_name = 'orders_far')";
    stage.sql(&production, far);
    stage.piton(&["backup", "production"]).expect(0);
    let part = "alter subscription orders_far set (slot_name = none); drop subscription orders_far";
    stage.sql(&production, part);
    let restore = ["restore", "production", "latest", "--into", &name];
    stage.piton_with_env(&restore, &[("PITON_CRASH_AT", "done settle.hand-over:before")]).expect(137);
    stage.sql("postgres", &format!("alter database {name} rename to {name}_in_use"));
    stage.piton(&["resume", "production"]).expect(0);
    // The original's slot is not asked for, which would be gone then.
    stage.sql(&format!("{name}_in_use"), "drop subscription orders_far");
    stage.sql("postgres", &format!("drop database {name}_in_use"));
}

#[test]
fn a_commit_that_this_clone_has_not_got_is_backed_up_all_the_same() {
    let Some(stage) = live_stage_in_turn() else { return };
    let serving = stage.git(&["rev-parse", "HEAD"]);
    stage.git(&["commit", "--quiet", "--amend", "--message", "the same, said otherwise"]);
    stage.git(&["reflog", "expire", "--expire=now", "--all"]);
    stage.git(&["gc", "--quiet", "--prune=now"]);
    stage.piton(&["backup", "production"]).expect(0).says("is proved");
    assert_eq!(backups(&stage, "production").pop().unwrap()["serving"], serving);
}

#[test]
fn a_killed_order_is_carried_on_or_undone() {
    let Some(stage) = live_stage_in_turn() else { return };
    let before = stage.databases();
    for (step, way_on, code) in
        [("prove", "resume", 0), ("backup", "abort", 0), ("settle.copies", "resume", 0)]
    {
        let at = format!("done {step}:before");
        stage.piton_with_env(&["backup", "production"], &[("PITON_CRASH_AT", &at)]).expect(137);
        // One thing at a time: neither a release nor another backup.
        stage.piton(&["deploy", "production"]).expect(2).says("a backup of production is not over");
        let status = stage.piton(&["status", "production"]).expect(0).stdout;
        assert!(status.contains("  backup ") && status.contains("nobody runs it"), "{status}");
        let way_on: &[&str] =
            if way_on == "abort" { &["abort", "production", "--yes"] } else { &["resume", "production"] };
        stage.piton(way_on).expect(code);
        assert_eq!(stage.databases(), before, "after a kill at {at}");
    }
    let listed = backups(&stage, "production");
    assert!(listed.iter().all(|backup| backup["damaged"].is_null()), "{listed:?}");

    let name = format!("{}_restored", stage.database("production"));
    let restore = ["restore", "production", "latest", "--into", &name];
    stage.piton_with_env(&restore, &[("PITON_CRASH_AT", "done prove:before")]).expect(137);
    stage.piton(&["abort", "production", "--yes"]).expect(0);
    assert_eq!(stage.databases(), before, "a restored database that was not handed over goes");
    let fails = [("PITON_FAIL_AT", "prove:after")];
    stage.piton_with_env(&restore, &fails).expect(3).says("production is as before");
    assert_eq!(stage.databases(), before);
    for at in ["done prove:before", "done settle.hand-over:before"] {
        let command: &[&str] = if at.contains("prove") { &restore } else { &["resume", "production"] };
        stage.piton_with_env(command, &[("PITON_CRASH_AT", at)]).expect(137);
    }
    stage.piton(&["resume", "production"]).expect(0).says("row for row");
    assert_eq!(stage.databases().len(), before.len() + 1);
    stage.sql("postgres", &format!("drop database {name}"));
    stage.piton(&["backup", "production", "--detach"]).expect(0).says("runs by itself");
    stage.piton(&["watch", "production"]).expect(0);
}

#[test]
fn what_cannot_be_ordered_is_refused() {
    let Some(mut stage) = stage_in_turn() else { return };
    stage.piton(&["backups", "production"]).expect(0).says("no backup yet");
    stage.piton(&["prove", "production", "latest"]).expect(2).says("piton backup production");
    stage.piton(&["backup", "prodction"]).expect(2).says("production");
    let long = "x".repeat(64);
    stage.deploy("production");
    stage.piton(&["restore", "production", "latest", "--into", &long]).expect(2).says("63 bytes");
    let live = stage.database("production");
    stage.piton(&["restore", "production", "latest", "--into", &live]).expect(2).says("never over it");
    // The window is for what moves traffic or data, not for a look.
    stage.configure(|settings| settings.more_production = "window = \"Mon 00:00-00:01 UTC\"".into());
    stage.piton(&["backup", "production"]).expect(0);
}
