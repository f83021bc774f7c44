//! What the rehearsal tells of a migration, by the real `piton deploy`.

use piton_testkit::stage::{Change, Stage};
use serde_json::Value;

use crate::common::{BAD, assert_nothing_failed, live_stage, stage};

/// A migration that keeps `items` to itself for most of its time.
const SLOW: Change<'static> =
    Change::Migration("002_weight.sql", "alter table items add weight int; select pg_sleep(0.5);");

/// What came of the latest release's step.
fn outcome(stage: &Stage, step: &str) -> Value {
    let events = stage.events("production");
    let done =
        events.iter().rfind(|event| event["event"]["event"] == "done" && event["event"]["step"] == step);
    done.expect("an outcome")["event"]["outcome"].clone()
}

#[test]
fn locks_and_waits_are_in_the_line_the_journal_and_a_file() {
    let Some(stage) = live_stage() else { return };
    stage.commit("v2", &[SLOW]);
    let load = stage.load("production").start().unwrap();
    let deploy = stage.piton(&["deploy", "production"]).expect(0);
    assert_nothing_failed(&stage, &stage.finish(load));
    let line = deploy.stderr.lines().find(|line| line.contains("rehearse")).unwrap();
    assert!(line.contains("002_weight.sql up 0.") && line.contains("reads waited ≤ 0."), "{line}");

    let report = outcome(&stage, "rehearse")["report"].clone();
    let step = &report["steps"][0];
    let table = &step["tables"][0];
    assert_eq!(table["table"], "\"public\".\"items\"", "{report:#}");
    // The load adds to them.
    assert!(table["rows"].as_u64() >= Some(1000), "{report:#}");
    assert_eq!(table["locks"][0]["mode"], "access-exclusive");
    assert_eq!(table["locks"][0]["blocks"], "reads-and-writes");
    for wait in ["read_wait_ms", "write_wait_ms"] {
        assert!(table[wait].as_u64().unwrap() * 2 > step["ms"].as_u64().unwrap(), "{report:#}");
    }
    // The stage's user is no superuser.
    assert_eq!(report["complete"], false);
    let release = stage.releases().pop().unwrap();
    let file = stage.root().join(format!(".piton/logs/{release}/rehearsal.md"));
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains("| \"public\".\"items\" | 1,") && text.contains("ACCESS EXCLUSIVE"), "{text}");
    assert!(text.contains("a superuser may note them"), "{text}");
    let schemas = "select nspname from pg_namespace where nspname like 'piton_%'";
    assert_eq!(stage.sql(&stage.database("production"), schemas), [""; 0]);
}

/// A migration that locks `items` for a moment.
const QUICK: Change<'static> = Change::Migration("002_weight.sql", "alter table items add weight int;");

#[test]
fn the_serving_releases_checks_are_made_on_the_new_schema() {
    let Some(mut stage) = stage() else { return };
    let checks = "[[check]]\nname = \"notes\"\nsql = \"select count(note) > 0 from items\"\nexpect = \"t\"\n\
                  [[check]]\nname = \"home\"\nget = \"/\"\n";
    stage.configure(|settings| settings.more = checks.into());
    stage.deploy("production");
    let serving = stage.git(&["rev-parse", "--short=7", "HEAD"]);

    // The next release has other checks; those of the one that serves count.
    stage.configure(|settings| settings.more = String::new());
    stage.commit("v2", &[QUICK]);
    let load = stage.load("production").start().unwrap();
    let deploy = stage.piton(&["deploy", "production"]).expect(0);
    stage.finish(load);
    let works = format!("{serving} works on the new schema, as far as its check of the database tells");
    assert!(deploy.stderr.contains(&works), "{}", deploy.stderr);

    let stage = {
        stage.configure(|settings| settings.more = checks.into());
        stage.commit("v3", &[]);
        let load = stage.load("production").start().unwrap();
        stage.deploy("production");
        stage.finish(load);
        stage
    };
    let serving = stage.git(&["rev-parse", "--short=7", "HEAD"]);
    stage.commit("v4", &[Change::Migration("003_text.sql", "alter table items rename note to text;"), BAD]);
    let deploy = stage.piton(&["deploy", "staging"]);
    let fails = format!(
        "{serving} does not work on the new schema: notes: the query failed: column \"note\" does not exist"
    );
    assert!(deploy.stderr.contains(&fails), "{}", deploy.stderr);
    let release = stage.releases().pop().unwrap();
    let text =
        std::fs::read_to_string(stage.root().join(format!(".piton/logs/{release}/rehearsal.md"))).unwrap();
    assert!(text.contains(&fails), "{text}");
}
