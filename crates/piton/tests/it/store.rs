//! Backups in an S3-compatible store; tried on an emulator of Amazon's.

use std::path::{Path, PathBuf};

use piton_testkit::stage::Stage;
use piton_testkit::store::{BUCKET, Store};

use crate::common::live_stage;

/// A stage on which production runs `v1` and keeps its backups in the store, too; `more` stands in `backup = { … }`.
fn kept(more: &str) -> Option<(Stage, Store)> {
    let store = Store::start()?;
    let mut stage = live_stage()?;
    keep_in(&mut stage, &store, more);
    Some((stage, store))
}

/// Lets production keep its backups in the store, too.
pub(crate) fn keep_in(stage: &mut Stage, store: &Store, more: &str) {
    let place = format!("url = \"s3://{BUCKET}/piton\", endpoint = \"{}\"", store.url());
    stage.configure(|settings| {
        let keys = "access_key = \"${STORE_KEY}\", secret_key = \"${STORE_SECRET}\"";
        settings.backup_more = format!(", store = {{ {place}, {keys} }}{more}");
        for (name, value) in [("STORE_KEY", "key-of-the-store"), ("STORE_SECRET", "secret-of-the-store")] {
            settings.production.vars.insert(name.into(), value.into());
        }
    });
}

fn backups(stage: &Stage) -> Vec<serde_json::Value> {
    let listed = stage.piton(&["backups", "production", "--json"]).expect(0).json();
    listed["backups"].as_array().unwrap().clone()
}

fn folder(backup: &serde_json::Value) -> PathBuf {
    PathBuf::from(backup["folder"].as_str().unwrap())
}

fn files(folder: &Path, below: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{below}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            found.extend(files(&entry.path(), &format!("{name}/")));
        } else {
            found.push((name, std::fs::read(entry.path()).unwrap()));
        }
    }
    found.sort();
    found
}

/// Where a backup's objects lie in the bucket.
fn place(stage: &Stage, backup: &serde_json::Value) -> String {
    format!("piton/{}/production/{}", stage.name(), backup["backup"].as_str().unwrap())
}

#[test]
fn a_proved_backup_is_in_the_store_and_comes_back_from_there() {
    let uploads = tempfile::tempdir().unwrap();
    // More than what goes over in one piece, of bytes that cannot be packed.
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    });
    let bytes: Vec<u8> = noise.take(9 << 20).collect();
    std::fs::write(uploads.path().join("film.bin"), &bytes).unwrap();
    let Some((stage, store)) = kept(&format!(", files = [{:?}]", uploads.path())) else { return };
    // Rows that come back for as long as there is no role of that name.
    let (production, enemy) = (stage.database("production"), format!("{}_enemy", stage.name()));
    stage.sql(
        &production,
        &format!(
            "set role {}; create function allowed() returns bool language sql as
               $$ select not exists (select from pg_catalog.pg_roles where rolname = '{enemy}') $$;
             create table guarded (id int check (public.allowed())); insert into guarded values (1)",
            stage.role("production")
        ),
    );
    stage.piton(&["backup", "production"]).expect(0).says("is proved").says("MB copied");
    let listed = backups(&stage);
    assert_eq!([&listed[0]["stored"], &listed[1]["stored"]], [false, true], "the release's own was before");
    let (taken, here) = (&listed[1], folder(&listed[1]));
    let place = place(&stage, taken);
    let local = files(&here, "");
    assert_eq!(store.names().len(), local.len());
    for (name, text) in &local {
        let (status, body) = store.request("GET", &format!("{place}/{name}"), b"").unwrap();
        assert!(status == 200 && body == *text, "{name}");
    }
    let text = stage.piton(&["backups", "production"]).expect(0).stdout;
    assert!(text.contains("here, store") && !text.contains("secret-of-the-store"), "{text}");

    // The machine's own are lost.
    std::fs::remove_dir_all(here.parent().unwrap()).unwrap();
    let listed = backups(&stage);
    assert_eq!(listed.len(), 1);
    assert_eq!([&listed[0]["here"], &listed[0]["stored"]], [false, true]);
    let into = format!("{}_restored", stage.database("production"));
    let unpacked = stage.folder().join("unpacked");
    stage
        .piton(&["restore", "production", "latest", "--into", &into, "--files", unpacked.to_str().unwrap()])
        .expect(0)
        .says("MB fetched")
        .says(&format!("{into} holds the backup"));
    let rows = "select count(*), md5(string_agg(t::text, ',' order by id)) from items t";
    assert_eq!(stage.sql(&into, rows), stage.sql(&stage.database("production"), rows));
    let folder_name = uploads.path().file_name().unwrap();
    assert!(std::fs::read(unpacked.join(folder_name).join("film.bin")).unwrap() == bytes);
    let but_for_the_proof = |files: Vec<(String, Vec<u8>)>| {
        files.into_iter().filter(|(name, _)| name != "proved.json").collect::<Vec<_>>()
    };
    assert!(but_for_the_proof(files(&here, "")) == but_for_the_proof(local.clone()), "as it was made");
    stage.sql("postgres", &format!("drop database {into}"));

    // Killed when all is fetched, and taken up; fetched in part, and given up.
    std::fs::remove_dir_all(&here).unwrap();
    let killed = &[("PITON_CRASH_AT", "done prove.fetch:before")];
    stage.piton_with_env(&["prove", "production", "latest"], killed).expect(137);
    stage.piton(&["resume", "production"]).expect(0).says("is proved");
    std::fs::remove_dir_all(&here).unwrap();
    stage.piton_with_env(&["prove", "production", "latest"], killed).expect(137);
    std::fs::remove_file(here.join("manifest.json")).unwrap();
    stage.piton(&["abort", "production"]).expect(0);
    assert!(!here.exists(), "an unfinished one goes");

    // A later proof is written down there, too.
    let before = listed[0]["proved"]["at"].as_str().unwrap().to_owned();
    stage.piton(&["prove", "production", "latest"]).expect(0).says("is proved");
    std::fs::remove_dir_all(&here).unwrap();
    let listed = backups(&stage);
    assert!(*listed[0]["proved"]["at"].as_str().unwrap() > *before, "{listed:?}");

    // What does not come back counts as proved in neither place.
    let is_proved_there = || store.request("GET", &format!("{place}/proved.json"), b"").unwrap().0 == 200;
    stage.sql("postgres", &format!("create role {enemy}"));
    stage.piton(&["prove", "production", "latest"]).expect(3).says("violates check constraint");
    assert!(backups(&stage)[0]["proved"].is_null() && !is_proved_there());
    stage.sql("postgres", &format!("drop role {enemy}"));
    stage.piton(&["prove", "production", "latest"]).expect(0).says("is proved");
    assert!(is_proved_there());

    // Altered there since, at its own length: the next proof of what is here makes it good.
    let (rows_of, whole) = local.iter().find(|(name, _)| name.ends_with(".dat.gz")).unwrap();
    let reversed: Vec<u8> = whole.iter().rev().copied().collect();
    std::thread::sleep(std::time::Duration::from_secs(1));
    store.request("PUT", &format!("{place}/{rows_of}"), &reversed).unwrap();
    stage.piton(&["prove", "production", "latest"]).expect(0).says("is proved");
    assert!(store.request("GET", &format!("{place}/{rows_of}"), b"").unwrap().1 == *whole);
    std::fs::remove_dir_all(&here).unwrap();

    // Somebody has written to the store.
    store.request("PUT", &format!("{place}/{rows_of}"), b"not what was there").unwrap();
    stage
        .piton(&["prove", "production", "latest"])
        .expect(3)
        .says("the backup was altered in the store")
        .says("it holds the rows of");
    assert!(!here.exists(), "what was fetched of it is removed");
    assert!(backups(&stage)[0]["proved"].is_null(), "nobody relies on it");

    // Altered at its own length, told by a fetch, and made good from the copy that was here.
    store.request("PUT", &format!("{place}/{rows_of}"), &reversed).unwrap();
    stage.piton(&["prove", "production", "latest"]).expect(3).says("the backup was altered in the store");
    std::fs::create_dir_all(here.join("dump")).unwrap();
    for (name, text) in &local {
        std::fs::create_dir_all(here.join(name).parent().unwrap()).unwrap();
        std::fs::write(here.join(name), text).unwrap();
    }
    stage.piton(&["prove", "production", "latest"]).expect(0).says("is proved");
    assert!(store.request("GET", &format!("{place}/{rows_of}"), b"").unwrap().1 == *whole);
    assert!(!backups(&stage)[0]["proved"].is_null());
    std::fs::remove_dir_all(&here).unwrap();
    let file = format!("{place}/manifest.json");
    let (_, manifest) = store.request("GET", &file, b"").unwrap();
    let outside = String::from_utf8(manifest).unwrap().replace(rows_of, "../../outside");
    store.request("PUT", &file, outside.as_bytes()).unwrap();
    let listed = backups(&stage);
    assert!(listed[0]["damaged"].as_str().unwrap().contains("altered"), "{listed:?}");
}

#[test]
fn what_is_cut_off_or_too_old_goes_from_the_store_and_a_store_that_is_away_is_said() {
    let Some((mut stage, store)) = kept("") else { return };
    let cut_off = &[("PITON_CRASH_AT", "done prove.store:before")];
    stage.piton_with_env(&["backup", "production"], cut_off).expect(137);
    let first = backups(&stage).pop().unwrap();
    let manifest = format!("{}/manifest.json", place(&stage, &first));
    stage.piton(&["resume", "production"]).expect(0).says("is there");
    assert_eq!(store.request("GET", &manifest, b"").unwrap().0, 200);

    stage.piton_with_env(&["backup", "production"], cut_off).expect(137);
    let second = backups(&stage).pop().unwrap();
    let place_of_second = place(&stage, &second);
    store.request("DELETE", &format!("{place_of_second}/manifest.json"), b"").unwrap();
    assert!(store.names().iter().any(|name| name.starts_with(&place_of_second)));
    stage.piton(&["abort", "production"]).expect(0);
    assert!(!store.names().iter().any(|name| name.starts_with(&place_of_second)), "not whole, so removed");
    assert_eq!(backups(&stage).last().unwrap()["here"], true, "the proved one stays here");

    // Begun by a machine that is no more; a removal of it that was cut off would look the same.
    let (environment, _) = place_of_second.rsplit_once('/').unwrap();
    let put = |name: &str| {
        let name = format!("{environment}/{name}");
        assert_eq!(store.request("PUT", &name, b"x").unwrap().0, 200);
        name
    };
    put("01ARZ3NDEKTSV4RRFFQ69G5FAV/.made-by-piton");
    put("01ARZ3NDEKTSV4RRFFQ69G5FAV/dump/toc.dat");
    // Nothing says that these are Piton's to remove.
    let notes = [put("01ARZ3NDEKTSV4RRFFQ69G5FAW/notes"), put("01ARZ3NDEKTSV4RRFFQ69G5FAX/manifest.json")];
    // Lost here, and there short of a file.
    let toc = format!("{}/dump/toc.dat", place(&stage, &first));
    assert!(store.names().contains(&toc));
    store.request("DELETE", &toc, b"").unwrap();
    std::fs::remove_dir_all(folder(&first)).unwrap();
    let damaged = |backup: &serde_json::Value| backup["damaged"].as_str().unwrap_or_default().to_owned();
    let listed = backups(&stage);
    let of_first = listed.iter().find(|backup| backup["backup"] == first["backup"]).unwrap();
    assert!(damaged(of_first).contains("one of its files"), "{listed:?}");
    stage.configure(|settings| settings.keep = "1s");
    std::thread::sleep(std::time::Duration::from_secs(1));
    stage.piton(&["backup", "production"]).expect(0).says("too old, removed");
    assert!(notes.iter().all(|name| store.names().contains(name)), "{:?}", store.names());
    notes.iter().for_each(|name| drop(store.request("DELETE", name, b"").unwrap()));
    let left = backups(&stage);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!([&left[0]["here"], &left[0]["stored"]], [true, true]);
    let place_of_third = place(&stage, &left[0]);
    assert!(store.names().iter().all(|name| name.starts_with(&place_of_third)), "{:?}", store.names());

    // Spoiled here and whole there: it counts, and neither goes.
    stage.configure(|settings| settings.backup_more.push_str(", last = 2"));
    let id = left[0]["backup"].as_str().unwrap();
    let (name, _) =
        files(&folder(&left[0]), "").into_iter().find(|(name, _)| name.ends_with(".dat.gz")).unwrap();
    std::fs::write(folder(&left[0]).join(name), "spoiled").unwrap();
    stage
        .piton(&["prove", "production", id])
        .expect(3)
        .says("altered after it was made")
        .says(&format!("piton prove production {id} fetches it from s3://"));
    std::thread::sleep(std::time::Duration::from_secs(1));
    stage.piton(&["backup", "production"]).expect(0).says("none is too old");
    assert!(store.names().iter().any(|name| name.starts_with(&place_of_third)), "{:?}", store.names());

    drop(store);
    let refused =
        stage.piton(&["deploy", "production"]).expect(2).says("the store of backups cannot be used");
    assert!(refused.stderr.contains("backup.store of production"), "{}", refused.stderr);
    // Better here alone than not at all.
    stage
        .piton(&["backup", "production"])
        .expect(3)
        .says("the store of backups cannot be used")
        .says("the backup is kept");
    let listed =
        stage.piton(&["backups", "production"]).expect(1).says("the store of backups cannot be used");
    assert_eq!(listed.stdout.lines().count(), 4, "what is here is listed: {}", listed.stdout);
    let into = format!("{}_restored", stage.database("production"));
    let latest = stage.piton(&["restore", "production", "latest", "--into", &into]).expect(2);
    let (_, rest) = latest.stderr.split_once("of those that are here, ").unwrap();
    let id = rest.split_whitespace().next().unwrap();
    stage.piton(&["restore", "production", id, "--into", &into]).expect(0);
    stage.sql("postgres", &format!("drop database {into}"));
}
