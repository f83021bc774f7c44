//! What the rehearsal tells of a migration, and how that is heeded when it is applied, by the real `piton deploy`.

use std::process::{Child, Command, Stdio};

use piton_testkit::load::Report;
use piton_testkit::stage::{Change, Piton, Stage};
use serde_json::Value;

use crate::common::{BAD, assert_nothing_failed, live_stage_in_turn, stage_in_turn};

/// A migration that keeps `items` to itself for most of its time, and leaves something to be done.
const SLOW: Change<'static> = Change::Migration(
    "002_weight.sql",
    "alter table items add weight int; select pg_sleep(0.5);
     alter table items add constraint heavy check (weight > 0) not valid;",
);

/// What came of the latest release's step.
fn outcome(stage: &Stage, step: &str) -> Value {
    let events = stage.events("production");
    let done =
        events.iter().rfind(|event| event["event"]["event"] == "done" && event["event"]["step"] == step);
    done.expect("an outcome")["event"]["outcome"].clone()
}

#[test]
fn locks_and_waits_are_in_the_line_the_journal_and_a_file() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[SLOW]);
    let load = stage.load("production").start().unwrap();
    // Behind the last commit: the record alone tells what was applied.
    let deploy =
        stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done migrate:before")]);
    let deploy = deploy.expect(137);
    let resume = stage.piton(&["resume", "production"]).expect(0);
    assert_nothing_failed(&stage, &stage.finish(load));
    let migrated = resume.stderr.lines().find(|line| line.starts_with("✓ migrate")).unwrap();
    assert!(migrated.contains("002_weight.sql"), "{migrated}");
    resume.says("constraint heavy on items is not validated: ALTER TABLE items VALIDATE CONSTRAINT heavy");
    let deploy = deploy.says("s for real, by a copy with all of its rows, on the same server");
    let deploy = deploy.says("way back: the golden copy, by itself where nothing is lost by it");
    let line = deploy.stderr.lines().find(|line| line.starts_with("✓ rehearse")).unwrap();
    assert!(line.contains("002_weight.sql up ") && line.contains("reads waited ≤ "), "{line}");

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
    assert!(text.contains("Way back: the golden copy") && text.contains("found equal"), "{text}");
    let lacks = "Later writes do not go along:\n\n- for the log: wal_level is replica";
    assert!(text.contains(lacks) && text.contains("\n- for triggers: the user may not make event"), "{text}");
    let schemas = "select nspname from pg_namespace where nspname like 'piton_%'";
    assert_eq!(stage.sql(&stage.database("production"), schemas), [""; 0]);
}

/// A migration that locks `items` for a moment.
const QUICK: Change<'static> = Change::Migration("002_weight.sql", "alter table items add weight int;");

/// What a migration waits at most for a lock, and everybody behind it, in milliseconds.
const LOCK_TIMEOUT: f64 = 2000.0;

/// A migration that takes its time on the live database alone, and holds nothing meanwhile.
const LONG: Change<'static> = Change::Migration(
    "002_long.sql",
    r"do $$ begin
        if current_database() not like '%\_copy\_%' then perform pg_sleep(3); end if;
    end $$",
);

/// A migration that locks `items` for a moment, behind the long one.
const QUICK_AFTER: Change<'static> = Change::Migration("003_weight.sql", "alter table items add weight int;");

/// A program of PostgreSQL's on production's database; it is ended when it is dropped.
struct Client(Child);

impl Client {
    fn start(stage: &Stage, program: &str, url: &str, args: &[&str]) -> Self {
        let mut command = Command::new(stage.cluster().bin_dir().join(program));
        command.arg("-d").arg(url).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Wants nobody to have waited behind a migration that waits for a lock; the half of that is for a busy machine.
#[track_caller]
fn assert_nobody_waited(report: &Report) {
    for (release, seen) in &report.releases {
        assert!(seen.max_ms < LOCK_TIMEOUT * 0.5, "{release}: {seen:?}");
    }
}

fn holds_items(stage: &Stage) -> bool {
    let sql = "select count(*) from pg_locks l join pg_stat_activity a using (pid)
               where l.relation = 'items'::regclass and a.application_name in ('psql', 'pg_dump')";
    stage.sql(&stage.database("production"), sql) != ["0"]
}

#[test]
fn behind_an_idle_transaction_the_release_stands_and_names_it() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[QUICK]);
    let load = stage.load("production").start().unwrap();
    // A superuser's: production's own user may not see how old it is.
    let url = stage.cluster().url(&stage.database("production"));
    let mut idle = Client::start(&stage, "psql", &url, &["-qAt"]);
    std::io::Write::write_all(idle.0.stdin.as_mut().unwrap(), b"begin; select id from items limit 1;\n")
        .unwrap();
    stage.eventually("an idle transaction", || holds_items(&stage));

    let deploy = stage.piton(&["deploy", "production"]).expect(4);
    let deploy = deploy.says("others hold what the migration has to lock").says("(psql)");
    let end = deploy.stderr.split("-c '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    assert!(end.starts_with("select pg_terminate_backend("), "{}", deploy.stderr);
    let columns =
        "select count(*) from pg_attribute where attrelid = 'items'::regclass and attname = 'weight'";
    assert_eq!(stage.sql(&stage.database("production"), columns), ["0"]);

    // As the hint says.
    stage.sql(&stage.database("production"), end);
    stage.piton(&["resume", "production"]).expect(0);
    assert_eq!(stage.sql(&stage.database("production"), columns), ["1"]);
    let report = stage.finish(load);
    assert_nothing_failed(&stage, &report);
    assert_nobody_waited(&report);
}

#[test]
fn behind_a_nightly_dump_each_migration_waits_for_its_end_and_nobody_else_does() {
    let Some(stage) = live_stage_in_turn() else { return };
    let rows =
        "insert into items select 'wide-' || n, repeat(md5(n::text), 20) from generate_series(1, 5000) n";
    stage.sql(&stage.database("production"), rows);
    stage.commit("v2", &[LONG, QUICK_AFTER]);
    let load = stage.load("production").start().unwrap();
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    // It begins while the first migration runs, and is in the second one's way.
    let long = "select count(*) from pg_stat_activity
                where datname = current_database() and state = 'active' and query like '%perform pg_sleep(3)%'
                  and pid <> pg_backend_pid()";
    stage.eventually("the first migration", || stage.sql(&stage.database("production"), long) != ["0"]);
    // Nobody reads what it writes: it stays in the middle of the table.
    let dump = Client::start(&stage, "pg_dump", &stage.url("production"), &["--data-only"]);
    stage.eventually("a dump", || holds_items(&stage));
    let says = |deploy: &Piton, words: &str| deploy.said().contains(words);
    stage.eventually("it says whom it waits for", || {
        says(&deploy, "waits for session") && says(&deploy, "(pg_dump)")
    });
    drop(dump);
    deploy.wait().expect(0);
    let report = stage.finish(load);
    assert_nothing_failed(&stage, &report);
    assert_nobody_waited(&report);
}

#[test]
fn a_structure_that_was_not_rehearsed_is_told_by_its_objects() {
    let Some(stage) = live_stage_in_turn() else { return };
    let sql = r"do $$ begin
        if current_database() not like '%\_copy\_%' then create table surprise (); end if;
    end $$";
    stage.commit("v2", &[Change::Migration("002_surprise.sql", sql)]);
    let deploy = stage.piton(&["deploy", "production"]).expect(3);
    let deploy = deploy.says("the database's structure is not the rehearsed one");
    let deploy = deploy.says("the migration did something else here than on the copy");
    deploy.says("table public.surprise was added");
}

#[test]
fn the_serving_releases_checks_are_made_on_the_new_schema() {
    let Some(mut stage) = stage_in_turn() else { return };
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

#[test]
fn a_migration_that_writes_to_a_foreign_server_fails_on_the_copy() {
    // A superuser's rehearsal takes what other tests do on the server for its own.
    let Some(stage) = Stage::set_with_own_server(env!("CARGO_BIN_EXE_piton")) else { return };
    stage.deploy("production");
    let production = stage.database("production");
    let there = "select name from pg_available_extensions where name = 'postgres_fdw'";
    if stage.sql("postgres", there).is_empty() {
        return piton_testkit::postgres::skip("postgres_fdw");
    }
    // Only a superuser restores the extension.
    stage.sql("postgres", &format!("alter role \"{}\" superuser", stage.role("production")));
    let port = stage.sql("postgres", "show port").remove(0);
    // The server is production itself: what is written there is there for good.
    stage.sql(
        &production,
        &format!(
            "create extension postgres_fdw; create table sent (id int);
             create server self foreign data wrapper postgres_fdw
                 options (host '127.0.0.1', port '{port}', dbname '{production}');
             create user mapping for public server self options (user 'postgres', password_required 'false');
             create foreign table far_sent (id int) server self options (table_name 'sent')"
        ),
    );
    stage.commit("v2", &[Change::Migration("002_send.sql", "insert into far_sent values (1);")]);
    let failed = stage.piton(&["deploy", "production"]).expect(3);
    failed.says("the copy is without the log-ins on foreign servers (public at self)");
    assert_eq!(stage.sql(&production, "select count(*) from sent"), ["0"]);

    stage.commit("v3", &[Change::Migration("002_send.sql", "create table later (id int);")]);
    let load = stage.load("production").start().unwrap();
    stage.deploy("production");
    assert_nothing_failed(&stage, &stage.finish(load));
    let mappings = "select count(*) from pg_user_mappings where srvname = 'self'";
    assert_eq!(stage.sql(&production, mappings), ["1"], "the live database keeps its log-in");
}
