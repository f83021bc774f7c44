//! What an earlier attempt has left, in a file of several parts.

use std::path::PathBuf;

use piton_testkit::stage::{Change, Stage};
use serde_json::Value;

use crate::common::{following_stage, is_of_this_half};

const TABLES: Change<'static> = Change::Migration(
    "002_seen.sql",
    "create table seen (n int); create table made (id serial primary key);",
);

/// How many events a process writes until it is killed.
const EVENTS: i64 = 4;

fn files(stage: &Stage) -> Vec<PathBuf> {
    let files = stage.status("production")["rescue_files"].as_array().unwrap().clone();
    files.iter().map(|file| file.as_str().unwrap().into()).collect()
}

fn lines(file: &PathBuf) -> usize {
    std::fs::read_to_string(file).unwrap().lines().count() - 1
}

/// Goes on with the release, and is killed some events later; tells whether the files are loaded.
fn goes_on_and_is_killed(stage: &Stage) -> bool {
    let last = stage.events("production").last().unwrap()["seq"].as_i64().unwrap();
    let point = format!("{}:after", last + EVENTS);
    stage.piton_with_env(&["resume", "production"], &[("PITON_CRASH_AT", &point)]).expect(137);
    let events = stage.events("production");
    let is_done =
        |event: &Value| event["event"]["event"] == "done" && event["event"]["step"] == "migrate.rescued";
    events.iter().any(is_done)
}

/// Every row comes in once, also those that nothing names, and what did not come in stays in the file.
#[test]
fn a_file_that_is_cut_off_comes_in_once() {
    let Some(stage) = is_of_this_half().then(following_stage).flatten() else { return };
    let (production, role) = (stage.database("production"), stage.role("production"));
    stage.commit("v2", &[TABLES]);
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done migrate:after")]).expect(137);
    let writes = "insert into seen select n from generate_series(1, 2500) n; insert into made select n from generate_series(1, 1500) n";
    stage.sql(&production, &format!("set role \"{role}\"; {writes}"));
    stage.piton(&["abort", "production"]).expect(0).says("4,000 rows");
    let [file] = &files(&stage)[..] else { panic!("{:?}", files(&stage)) };
    assert_eq!(lines(file), 4000);

    // Cut off in the middle and taken back, all of it waits for the next one, each row in one file.
    let crash = |point| [("PITON_CRASH_AT", point)];
    stage.commit("v3", &[]);
    stage.piton_with_env(&["deploy", "production"], &crash("noted migrate.rescued:after")).expect(137);
    assert!(!goes_on_and_is_killed(&stage));
    let in_part =
        "select count(*) between 1 and 3999 from (select from seen union all select from made) of_both";
    assert_eq!(stage.sql(&production, in_part), ["t"], "it is killed in the middle");
    stage.piton(&["abort", "production"]).expect(0);
    let waiting = files(&stage);
    assert_eq!((waiting.len(), waiting.iter().map(lines).sum::<usize>()), (2, 4000), "{waiting:?}");

    stage.commit("v4", &[]);
    stage.piton_with_env(&["deploy", "production"], &crash("noted migrate.rescued:before")).expect(137);
    let mut killed = 1;
    while !goes_on_and_is_killed(&stage) {
        killed += 1;
        assert!(killed < 20, "it does not come to its end");
    }
    assert!(killed > 1, "{killed}");
    let counts = "select count(*) || ' ' || count(distinct n) from seen union all select count(*) || ' ' || max(id) from made";
    assert_eq!(stage.sql(&production, counts), ["2500 2500", "1500 1500"]);
    assert_eq!(files(&stage), [""; 0].map(PathBuf::from));
    stage.sql(&production, "insert into made default values");
}
