//! docs/json.md against what piton prints: every field is described, and every described field is there.

use std::collections::BTreeSet;

use piton_testkit::stage::{Change, Stage};
use rustix::process::Signal;
use serde_json::Value;

const CONTRACT: &str = include_str!("../../../../docs/json.md");

/// The fields that a section describes.
fn described(section: &str) -> BTreeSet<String> {
    let (_, rest) = CONTRACT.split_once(&format!("\n## {section}\n")).expect("a section");
    let text = rest.split("\n## ").next().unwrap_or(rest);
    let field = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    text.lines().filter_map(field).collect()
}

/// The fields of a value, down to those that are another section's or in a step's own form.
fn fields(value: &Value, opaque: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(value, "", opaque, &mut found);
    found
}

fn collect(value: &Value, path: &str, opaque: &[&str], found: &mut BTreeSet<String>) {
    if opaque.contains(&path) {
        return;
    }
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                found.insert(path.clone());
                collect(value, &path, opaque, found);
            }
        }
        Value::Array(items) => {
            items.iter().for_each(|item| collect(item, &format!("{path}[]"), opaque, found));
        }
        _ => {}
    }
}

#[derive(Default)]
struct Seen {
    error: BTreeSet<String>,
    resume_all: BTreeSet<String>,
    backups: BTreeSet<String>,
    plan: BTreeSet<String>,
    release: BTreeSet<String>,
    rehearsal: BTreeSet<String>,
    migrate: BTreeSet<String>,
    status: BTreeSet<String>,
    log: BTreeSet<String>,
    log_verify: BTreeSet<String>,
    migration: BTreeSet<String>,
    migration_name: BTreeSet<String>,
    config: BTreeSet<String>,
}

const RELEASE_OPAQUE: [&str; 2] = ["steps[].outcome", "steps[].undo_outcome"];

impl Seen {
    fn error(&mut self, stage: &Stage, args: &[&str], what: &str) {
        let error = stage.piton(args).expect(2).says(what).json();
        assert!(error["error"]["what"].as_str().is_some_and(|said| said.contains(what)), "{error}");
        self.error.extend(fields(&error, &[]));
    }

    fn plan(&mut self, stage: &Stage, code: i32) {
        self.plan.extend(fields(&stage.piton(&["plan", "production", "--json"]).expect(code).json(), &[]));
    }

    /// Runs a command whose JSON is a release, and returns how it stands.
    fn release(&mut self, stage: &Stage, args: &[&str], code: i32) -> String {
        let release = stage.piton(args).expect(code).json();
        self.release.extend(fields(&release, &RELEASE_OPAQUE));
        for step in release["steps"].as_array().into_iter().flatten() {
            let outcome = &step["outcome"];
            if outcome["report"].is_object() {
                let keys = ["report", "serving", "way_back", "estimate"];
                let described: serde_json::Map<_, _> =
                    keys.map(|key| (key.to_owned(), outcome[key].clone())).into_iter().collect();
                self.rehearsal.extend(fields(&described.into(), &[]));
            }
            if step["id"] == "migrate" && outcome.is_object() {
                self.migrate.extend(fields(outcome, &[]));
            }
        }
        release["outcome"].as_str().unwrap_or_default().to_owned()
    }

    fn status(&mut self, stage: &Stage) {
        let status = stage.piton(&["status", "--json"]).expect(0).json();
        let environments = status["environments"].as_array().cloned().unwrap_or_default();
        for release in environments.iter().map(|found| &found["release"]).filter(|found| found.is_object()) {
            self.release.extend(fields(release, &RELEASE_OPAQUE));
        }
        for live in environments.iter().map(|found| &found["live"]).filter(|found| found.is_object()) {
            let of_plan = |field: &String| field.strip_prefix("live.").map(str::to_owned);
            assert_eq!(fields(live, &[]), described("plan").iter().filter_map(of_plan).collect());
        }
        self.status.extend(fields(&status, &["environments[].live", "environments[].release"]));
    }

    fn log(&mut self, stage: &Stage) {
        let opaque = ["event.plan", "event.note", "event.outcome", "event.reason"];
        for event in stage.events("production") {
            self.log.extend(fields(&event, &opaque));
        }
    }
}

#[test]
fn what_is_printed_is_what_is_described() {
    let Some(mut stage) = Stage::set(PITON) else { return };
    let mut seen = Seen::default();
    let check = "[[check]]\nname = \"items\"\nsql = \"select count(*) > 0 from items\"\nexpect = \"t\"\n";
    stage.configure(|settings| settings.more = check.into());
    for args in [
        &["config", "prodction", "--json"][..],
        &["plan", "prodction", "--json"],
        &["deploy", "prodction", "--json"],
        &["status", "prodction", "--json"],
    ] {
        seen.error(&stage, args, "prodction");
    }
    for command in ["resume", "abort", "rollback", "hold", "continue", "watch"] {
        seen.error(&stage, &[command, "production", "--json"], "no release of production");
    }
    seen.error(&stage, &["log", "01JD", "--json"], "01JD");
    seen.error(&stage, &["migration", "prodction", "1.sql", "--applied", "--json"], "prodction");
    seen.plan(&stage, 0);
    assert_eq!(seen.release(&stage, &["deploy", "production", "--json"], 0), "succeeded");
    seen.log(&stage);

    // A person says how a half-applied migration stands.
    let half = "update piton.migrations set finished_at = null, done = 1 returning name";
    let name = stage.sql(&stage.database("production"), half).remove(0);
    let listed = stage.piton(&["migration", "production", "--json"]).expect(0).json();
    assert_eq!(listed["migrations"][0]["state"], "half-applied");
    seen.migration.extend(fields(&listed, &[]));
    let recorded = stage.piton(&["migration", "production", &name, "--applied", "--json"]).expect(0).json();
    assert_eq!(recorded["applied"], true);
    seen.migration_name.extend(fields(&recorded, &[]));
    let verified = stage.piton(&["log", "--verify", "--json"]).expect(0).json();
    assert_eq!(verified["verified"].as_u64(), Some(stage.events("production").len() as u64));
    seen.log_verify.extend(fields(&verified, &[]));
    seen.log(&stage);
    let backups = stage.piton(&["backups", "production", "--json"]).expect(0).json();
    seen.backups.extend(fields(&backups, &[]));

    // A guard that refuses.
    stage.commit("second", &[]);
    stage.configure(|settings| settings.after_staging = true);
    seen.plan(&stage, 2);
    assert_eq!(seen.release(&stage, &["deploy", "production", "--json"], 2), "refused");
    stage.configure(|settings| settings.after_staging = false);

    // A fault of the release: it goes back by itself, or stands until a person says so.
    let slow = "alter table items add weight int; select pg_sleep(0.3);";
    let migration = Change::Migration("002_weight.sql", slow);
    stage.commit("never ready", &[migration, Change::Behaviour(|app| app.never_ready = true)]);
    stage.configure(|settings| settings.ready_within = "1s");
    assert_eq!(seen.release(&stage, &["deploy", "production", "--json"], 3), "rolled_back");
    assert_eq!(seen.release(&stage, &["deploy", "production", "--stay", "--json"], 4), "stands");
    assert_eq!(seen.release(&stage, &["abort", "production", "--yes", "--json"], 0), "rolled_back");
    seen.log(&stage);

    // The gate's verdict.
    stage.configure(|settings| {
        settings.ready_within = "20s";
        settings.steps = vec!["50% for 60s", "100%"];
    });
    stage.commit("errors", &[Change::Behaviour(|app| app.fails = 1.0)]);
    let load = stage.load("production").start().expect("a load");
    assert_eq!(seen.release(&stage, &["deploy", "production", "--json"], 3), "rolled_back");
    stage.finish(load);

    // A release under way: held, left, taken up, rolled back.
    stage.commit("good", &[]);
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("traffic is shifted", || stage.is_running("production", "shift.50%"));
    seen.release(&stage, &["hold", "production", "--json"], 0);
    seen.status(&stage);
    deploy.signal(Signal::INT);
    deploy.wait().expect(130);
    stage.end_all();
    let resumed = stage.piton(&["resume", "--all", "--json"]).expect(0).json();
    seen.resume_all.extend(fields(&resumed, &[]));
    stage.eventually("it runs by itself", || runs(&stage));
    stage.end_all();
    let resume = stage.spawn(&["resume", "production"], &[]);
    stage.eventually("it goes on", || stage.is_running("production", "shift.50%") && runs(&stage));
    assert_eq!(seen.release(&stage, &["continue", "production", "--json"], 0), "under_way");
    stage.sql(&stage.database("production"), "insert into items values ('late', 'since the backup', now())");
    let rollback = ["rollback", "production", "--database", "--yes", "--json"];
    assert_eq!(seen.release(&stage, &rollback, 0), "rolled_back");
    resume.wait().expect(3);
    seen.log(&stage);
    seen.status(&stage);

    // An older database in place, of which a row is lost.
    stage.sql(&stage.database("production"), "insert into items values ('later', 'since the backup', now())");
    let to = ["rollback", "production", "--to", "latest", "--json"];
    assert_eq!(seen.release(&stage, &to, 2), "refused");
    assert_eq!(seen.release(&stage, &[&to[..], &["--accept-loss", "1"]].concat(), 0), "succeeded");
    seen.log(&stage);
    seen.status(&stage);

    let config = stage.piton_with_env(&["config", "production", "--json"], &[]).expect(0).json();
    seen.config.extend(fields(&config, &[]));
    let toml = std::fs::read_to_string(stage.root().join("piton.toml")).expect("piton.toml");
    stage.write("piton.toml", &toml.replace("watch = \"1s\"", "watch = \"${WATCH}\""));
    let config =
        stage.piton_with_env(&["config", "production", "--json"], &[("WATCH", "2s")]).expect(0).json();
    seen.config.extend(fields(&config, &[]));

    for (section, seen) in [
        ("error", seen.error),
        ("resume --all", seen.resume_all),
        ("backups", seen.backups),
        ("plan", seen.plan),
        ("release", seen.release),
        ("rehearsal", seen.rehearsal),
        ("migration of a release", seen.migrate),
        ("status", seen.status),
        ("log", seen.log),
        ("log --verify", seen.log_verify),
        ("migration", seen.migration),
        ("migration NAME", seen.migration_name),
        ("config", seen.config),
    ] {
        let described = described(section);
        let missing: Vec<_> = seen.difference(&described).collect();
        let made_up: Vec<_> = described.difference(&seen).collect();
        assert!(missing.is_empty(), "{section}: printed, but not described: {missing:?}");
        assert!(made_up.is_empty(), "{section}: described, but never printed: {made_up:?}");
    }
}

fn runs(stage: &Stage) -> bool {
    stage.status("production")["release"]["run_by"].is_object()
}

const PITON: &str = env!("CARGO_BIN_EXE_piton");
