//! What a person sees, word for word: help, wrong configurations, and the life of an app on a real PostgreSQL.
//!
//! What differs from run to run (identifiers, times, ports, folders) is replaced; everything else is compared.
//! `cargo insta review` shows and accepts a change.

use std::path::Path;
use std::process::Command;

use piton_testkit::stage::{Change, Output, Stage};

const PITON: &str = env!("CARGO_BIN_EXE_piton");

/// What differs from run to run: a pattern and what stands for it, as long where columns follow.
const FILTERS: [(&str, &str); 29] = [
    // Said only when a step takes long.
    (r"(?m)^… .*\n", ""),
    (r"/[^\s']*/piton-stage-\w+", "/stage"),
    (r"/[^\s']*/(debug|release)/piton-test-app", "/bin/app"),
    (r"stage[0-9a-f]{8}", "shop"),
    (r"\b01[0-9A-HJKMNP-TV-Z]{24}\b", "RELEASE"),
    (r"_(golden|copy|fresh|old)_[0-9a-z]{10}\b", "_${1}_ID"),
    (r"((?i:release|rollback|backup)|piton log|--to|blue-|green-)( ?)[0-9A-HJKMNP-TV-Z]{10}\b", "${1}${2}ID"),
    (r"\b[0-9a-f]{40}\b", "COMMIT"),
    (r"\b[0-9a-f]{7}\b", "abc1234"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DAY TIME"),
    (r"\d{4}-\d\d-\d\d", "DAY"),
    (r"PORT=\d+", "PORT=NNNNN"),
    (r":\d{5}\b", ":NNNNN"),
    (r"port \d{5}\b", "port NNNNN"),
    (r"-p \d{5}\b", "-p NNNNN"),
    (r"process \d+: ", "process PID: "),
    (r"/\S*/(pg_dump|pg_restore|piton)\b", "/bin/$1"),
    (r"--snapshot=[0-9A-F-]+\b", "--snapshot=SNAPSHOT"),
    (r"(?m)^ +\d+  DAY TIME", "    N  DAY TIME"),
    (r"\S+ on \S+ \(process \d+\)", "USER on HOST (process PID)"),
    (r"(?m)(begun|asked|decided|released|ID of abc1234) by \w+(:| at|$)", "$1 by USER$2"),
    (r"(?m) +\d+(\.\d+)? m?s$", "   TIME"),
    (r"\d+(\.\d+)? m?s\b", "TIME"),
    (r"\b\d+(\.\d+)? (B|kB|MB|GB)\b", "SIZE"),
    (r"\b0 of [1-9]\d* bad", "0 of N bad"),
    (r"\b[1-9]\d* of [1-9]\d* bad", "N of N bad"),
    // By the limit, or beside the serving release: whichever is sure first.
    (r"N of N bad( answers, limit 20%| \(.* to 1)", "N of N bad, WHY"),
    (r"serving release: 0 of [1-9]\d*", "serving release: 0 of N"),
    (r"\b[1-9][\d,]* rows", "N rows"),
];

fn compare(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, stand_in) in FILTERS {
        settings.add_filter(pattern, stand_in);
    }
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// A run as a terminal shows it.
fn shown(args: &[&str], output: &Output) -> String {
    let mut text = format!("$ piton {}\n{}{}", args.join(" "), output.stdout, output.stderr);
    if output.code != 0 {
        text.push_str(&format!("exit {}\n", output.code));
    }
    text
}

/// Runs piton in a folder that is no stage.
fn run_in(folder: &Path, args: &[&str]) -> String {
    let output = Command::new(PITON)
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("TZ", "UTC")
        .output()
        .expect("piton runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&folder.display().to_string(), "/shop");
    let code = output.status.code().expect("an exit code");
    let exit = if code == 0 { String::new() } else { format!("exit {code}\n") };
    format!("$ piton {}\n{}{}{exit}", args.join(" "), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_of_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = run_in(folder.path(), &["--help"]);
    let commands: Vec<String> = all
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .map_while(|line| Some(line.strip_prefix("  ")?.split_once(' ')?.0.to_owned()))
        .collect();
    assert!(commands.len() > 12, "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        all.push('\n');
        all.push_str(&run_in(folder.path(), &[command, "--help"]));
    }
    compare("help", &all);
}

const CONFIG: &str = r#"app = "shop"

[run]
command = "bin/shop"
ready = { get = "/health" }

[database]
folder = "migrations"

[environments.staging]
listen = "127.0.0.1:8081"
ports = { blue = 3101, green = 3102 }
data = { from = "production" }

[environments.production]
protected = true
after = "staging"
listen = "127.0.0.1:8080"
ports = { blue = 3001, green = 3002 }
"#;

#[test]
fn wrong_configurations() {
    let cases = [
        ("an_unknown_key", "protected = true", "protect = true"),
        ("a_key_in_the_wrong_table", "after = \"staging\"", "after = \"staging\"\nsteps = [\"100%\"]"),
        ("a_word_for_a_number", "blue = 3001", "blue = \"first\""),
        ("a_missing_key", "command = \"bin/shop\"", ""),
        ("no_toml", "[run]", "[run"),
        (
            "a_share_without_percent",
            "[database]",
            "[rollout]\nsteps = [\"5 for 2h\", \"100%\"]\n\n[database]",
        ),
        ("a_port_taken_twice", "green = 3002", "green = 8080"),
        ("an_environment_that_is_not_there", "after = \"staging\"", "after = \"stagging\""),
        ("a_password_in_the_file", "[database]", "[database]\nurl = \"postgres://shop:hunter2@db/shop\""),
        ("a_window_of_no_day", "after = \"staging\"", "window = \"Tues 10:00-12:00\""),
    ];
    for (name, from, to) in cases {
        assert!(CONFIG.contains(from), "{from}");
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("migrations")).unwrap();
        std::fs::write(folder.path().join("piton.toml"), CONFIG.replacen(from, to, 1)).unwrap();
        compare(&format!("wrong_{name}"), &run_in(folder.path(), &["config", "production"]));
    }
}

#[test]
fn wrong_calls() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = run_in(folder.path(), &["status"]);
    std::fs::write(folder.path().join("piton.toml"), CONFIG).unwrap();
    for args in [
        &["config", "prodction"][..],
        &["config", "production"],
        &["deploy"],
        &["deplyo", "production"],
        &["rollback", "staging"],
        &["resume", "staging"],
        &["watch", "staging"],
        &["log", "01JD"],
        &["init"],
    ] {
        all.push('\n');
        all.push_str(&run_in(folder.path(), args));
    }
    compare("wrong_calls", &all);
}

#[test]
fn the_life_of_an_app() {
    let Some(mut stage) = Stage::set(PITON) else { return };
    let run = |stage: &Stage, name: &str, args: &[&str]| {
        let output = stage.piton(args);
        compare(name, &shown(args, &output));
        output
    };
    // An estimate of rows is there after an ANALYZE alone.
    run(&stage, "plan_of_the_first_release", &["plan", "production"]).expect(0);
    run(&stage, "deploy_of_the_first_release", &["deploy", "production"]).expect(0);
    run(&stage, "status", &["status"]).expect(0);
    stage.sql(&stage.database("production"), "analyze");
    let load = stage.load("production").start().unwrap();

    stage.commit("receipts", &[Change::Migration("002_receipts.sql", "create table receipts (id text);")]);
    run(&stage, "plan_of_staging", &["plan", "staging"]).expect(0);
    run(&stage, "plan", &["plan", "production"]).expect(0);
    run(&stage, "plan_commands", &["plan", "production", "--commands"]).expect(0);
    run(&stage, "deploy", &["deploy", "production"]).expect(0);
    run(&stage, "log", &["log", "production"]).expect(0);

    stage.commit("never ready", &[Change::Behaviour(|app| app.never_ready = true)]);
    stage.configure(|settings| settings.ready_within = "1s");
    run(&stage, "deploy_of_an_app_that_never_becomes_ready", &["deploy", "production"]).expect(3);
    run(&stage, "status_after_going_back", &["status", "production"]).expect(0);

    stage.commit("half bad", &[Change::Behaviour(|app| app.fails = 0.5)]);
    stage.configure(|settings| {
        settings.steps = vec!["50% for 20s", "100%"];
        settings.ready_within = "20s";
    });
    run(&stage, "deploy_that_the_gate_sends_back", &["deploy", "production"]).expect(3);

    let notes = "alter table items add column more text;";
    stage.commit("notes", &[Change::Migration("003_notes.sql", notes)]);
    stage.configure(|settings| {
        settings.steps = vec!["10% for 1s", "50% for 1s", "100%"];
        settings.watch = "1h";
    });
    let deploying = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the release is watched", || stage.is_running("production", "watch"));
    run(&stage, "status_under_way", &["status", "production"]).expect(0);
    run(&stage, "deploy_of_a_second_operator", &["deploy", "production"]).expect(2);
    let report = stage.finish(load);
    let others = report.failures.iter().filter(|failure| failure.release != "half bad").count();
    assert_eq!(others, 0, "{report:?}");
    run(&stage, "rollback_without_a_yes", &["rollback", "production", "--database"]).expect(4);
    compare("deploy_that_was_rolled_back", &shown(&["deploy", "production"], &deploying.wait().expect(4)));
    run(&stage, "rollback", &["rollback", "production", "--database", "--yes"]).expect(0);
    run(&stage, "rollback_of_nothing", &["rollback", "production", "--database"]).expect(2);
}

#[test]
fn a_rollback_to_a_backup() {
    let Some(stage) = Stage::set(PITON) else { return };
    stage.deploy("production");
    stage.piton(&["backup", "production"]).expect(0);
    let written = "insert into items values ('a', 'x', now()), ('b', 'x', now()); update items set note = 'y' where id = 'old-7';
                   delete from items where id = 'old-8'; select lo_from_bytea(0, 'x')";
    stage
        .sql(&stage.database("production"), &format!("set role \"{}\"; {written}", stage.role("production")));
    let run = |name: &str, args: &[&str]| {
        let output = stage.piton(args);
        compare(name, &shown(args, &output));
        output
    };
    let rollback = ["rollback", "production", "--to", "latest"];
    run("rollback_to_a_backup_refused", &rollback).expect(2);
    let accepting = [&rollback[..], &["--accept-loss", "5"]].concat();
    run("rollback_to_a_backup", &accepting).expect(0);
    run("rollback_to_a_backup_status", &["status", "production"]).expect(0);
    run("rollback_to_a_backup_log", &["log", "production"]).expect(0);
}
