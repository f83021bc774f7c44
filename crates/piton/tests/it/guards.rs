//! What must not be is refused before anything is touched: exit code 2, what, why, and the command that mends it.

use std::net::{Ipv4Addr, TcpListener};
use std::time::SystemTime;

use crate::common::{RECEIPTS, Tmpfs, assert_no_failures_but_of, live_stage_in_turn, stage_in_turn};
use piton_testkit::pooler::{Pooler, StartupOptions};
use piton_testkit::stage::{Change, Output, Stage};

/// Wants a release to be refused in these words, by `plan` as well, with nothing changed.
#[track_caller]
fn refused(stage: &Stage, environment: &str, words: &[&str]) -> Output {
    let before = stage.world();
    let planned = stage.piton(&["plan", environment]).expect(2);
    let said = stage.piton(&["deploy", environment]).expect(2);
    for word in words {
        assert!(planned.stdout.contains(word), "plan: no `{word}` in\n{}{}", planned.stdout, planned.stderr);
        assert!(said.stderr.contains(word), "deploy: no `{word}` in\n{}", said.stderr);
    }
    before.assert_same(&stage.world(), "after a refusal");
    assert_eq!(stage.status(environment)["release"]["outcome"], "refused");
    said
}

/// Names production's database by another host name and another user.
fn productions_by_another_name(stage: &Stage) -> String {
    let (user, port, database) =
        (stage.role("staging"), stage.cluster().port(), stage.database("production"));
    format!("postgresql://{user}:another@localhost:{port}/{database}")
}

#[test]
fn staging_on_productions_database_is_refused() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let url = productions_by_another_name(&stage);
    stage.configure(|settings| settings.staging.vars.extend([("DATABASE_URL".into(), url)]));
    let mend = format!("{}_staging", stage.database("production"));
    refused(
        &stage,
        "staging",
        &["staging's database is production's", "carries the mark of production", &mend],
    );
}

#[test]
fn the_mark_alone_tells_productions_database() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let url = productions_by_another_name(&stage);
    stage.configure(|settings| {
        settings.staging.vars.extend([("DATABASE_URL".into(), url)]);
        // With its data from production, staging would need production's variables here.
        settings.staging_from_production = false;
    });
    stage.remove(".env.production");
    refused(&stage, "staging", &["staging's database is production's", "carries the mark of production"]);
}

#[test]
fn an_unmarked_production_is_told_by_the_server() {
    let Some(mut stage) = stage_in_turn() else { return };
    let url = productions_by_another_name(&stage);
    stage.configure(|settings| {
        settings.staging.vars.extend([("DATABASE_URL".into(), url)]);
        settings.staging_from_production = false;
    });
    refused(&stage, "staging", &["staging's database is production's", "same database on the same server"]);
}

#[test]
fn a_database_that_piton_did_not_make_is_not_replaced() {
    let Some(stage) = live_stage_in_turn() else { return };
    let (database, role) = (stage.database("staging"), stage.role("staging"));
    stage.sql("postgres", &format!("create database \"{database}\" owner \"{role}\""));
    for (make, holds) in [
        ("create table precious (a int); insert into precious values (1)", "holds table public.precious;"),
        ("drop table precious; create sequence numbers", "holds sequence public.numbers;"),
    ] {
        stage.sql(&database, make);
        refused(&stage, "staging", &["not made by Piton", holds, "dropdb"]);
    }
}

#[test]
fn equal_secrets_are_refused() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.staging.vars = settings.production.vars.clone());
    let said = refused(&stage, "staging", &["share the secret", "SESSION_SECRET", "[secrets] shared"]);
    let secret = &stage.settings().production.vars["SESSION_SECRET"];
    assert!(!said.stderr.contains(secret.as_str()), "the secret was printed");
    // The same secret under another name.
    stage.configure(|settings| {
        let secret = settings.staging.vars.remove("SESSION_SECRET").expect("it is there");
        settings.staging.vars.insert("COOKIE_KEY".into(), secret);
    });
    let said = refused(&stage, "staging", &["share the secret COOKIE_KEY (SESSION_SECRET in production)"]);
    let secret = &stage.settings().production.vars["SESSION_SECRET"];
    assert!(!said.stderr.contains(secret.as_str()), "the secret was printed");
    stage.configure(|settings| settings.more = "[secrets]\nshared = [\"SESSION_SECRET\"]\n".into());
    stage.piton(&["plan", "staging"]).expect(0);
}

#[test]
fn keys_in_the_wrong_place_are_refused() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    for (environment, key, kind) in
        [("staging", "sk_live_0a1b2c", "live"), ("production", "sk_test_0a1b2c", "test")]
    {
        stage.commit(kind, &[]);
        stage.configure(|settings| {
            let vars = match environment {
                "staging" => &mut settings.staging.vars,
                _ => &mut settings.production.vars,
            };
            vars.insert("STRIPE_KEY".into(), key.into());
        });
        let words = [&format!("{environment} holds a {kind} key in STRIPE_KEY"), "put the right key into"];
        let said = refused(&stage, environment, &words.map(|word| word as &str));
        assert!(!said.stderr.contains(key), "the key was printed");
    }
}

#[test]
fn an_applied_migration_is_neither_edited_nor_renamed() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("edited", &[Change::Migration("001_items.sql", "create table items (id int);")]);
    let words = ["production's database holds a migration that was edited since", "001_items.sql was edited"];
    refused(&stage, "production", &words);

    stage.git(&["checkout", "--quiet", "HEAD~1", "--", "migrations"]);
    stage.git(&["mv", "migrations/001_items.sql", "migrations/1_items.sql"]);
    stage.commit("renamed", &[]);
    let words =
        ["a migration that was renamed since", "git mv migrations/1_items.sql migrations/001_items.sql"];
    refused(&stage, "production", &words);

    // An older commit is released all the same.
    stage.git(&["rm", "--quiet", "migrations/1_items.sql"]);
    stage.commit("older", &[Change::Migration("000_start.sql", "create table start (id int);")]);
    let plan = stage.piton(&["plan", "production"]).expect(0);
    assert!(plan.stdout.contains("has migrations that this commit has not"), "{}", plan.stdout);
}

#[test]
fn a_missing_tool_is_refused() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.build = vec!["no-such-tool --fast".into()]);
    let words =
        ["no-such-tool was not found", "build.run needs it: no-such-tool --fast", "install no-such-tool"];
    refused(&stage, "production", &words);
}

#[test]
fn a_program_that_nobody_makes_is_refused() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| {
        settings.build = vec![];
        settings.command = "bin/server".into();
    });
    refused(
        &stage,
        "production",
        &["has no file bin/server", "run.command", "no build.run", "what builds it"],
    );
    stage.commit("with it", &[Change::File("bin/server", "")]);
    stage.piton(&["plan", "production"]).expect(0);
}

#[test]
fn a_database_that_is_not_there_is_refused_with_what_makes_it() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let (database, port) = (stage.database("production"), stage.cluster().port());
    let nowhere = stage.url("production").replace(&format!("{port}/{database}"), &format!("{port}/nowhere"));
    stage.configure(|settings| settings.production.vars.extend([("DATABASE_URL".into(), nowhere)]));
    let makes = format!("createdb -h 127.0.0.1 -p {port} -U {} nowhere makes it", stage.role("production"));
    refused(&stage, "production", &["cannot be reached", "there is no database nowhere", &makes]);
}

#[test]
fn variables_that_are_not_here_are_named_with_who_needs_them() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.remove(".env.production");
    let said = stage.piton(&["deploy", "staging"]).expect(2);
    said.says("staging takes its data from production").says("piton config production");
    stage.piton(&["config", "production"]).expect(2).says("write `DATABASE_URL=…` into .env.production");
}

#[test]
fn too_little_disk_is_refused() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let Some(small) = Tmpfs::mount(stage.folder(), "1m") else { return };
    stage.configure(|settings| settings.backups = small.path().to_owned());
    refused(&stage, "production", &["too little disk for the backup", "are needed", "du -xh"]);
}

#[test]
fn a_port_in_use_is_refused_with_its_owner() {
    let Some(stage) = live_stage_in_turn() else { return };
    let port = stage.settings().production.ports[2];
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let me = std::process::id();
    let words = [format!("green's port {port}"), format!("process {me} ("), format!("kill {me}")];
    refused(&stage, "production", &words.each_ref().map(String::as_str));
}

#[test]
fn a_port_on_which_another_folder_serves_is_not_freed_by_a_kill() {
    let (Some(stage), Some(mut other)) = (live_stage_in_turn(), stage_in_turn()) else { return };
    let (theirs, own) = (stage.settings().production.ports, other.settings().production.ports);
    for (whose, ports) in [("blue's port", theirs), ("the proxy's port", [theirs[0], own[1], own[2]])] {
        other.configure(|settings| settings.production.ports = ports);
        let said = refused(&other, "production", &[whose, "the folder that it was released from"]);
        assert!(!said.stderr.contains("kill "), "{}", said.stderr);
    }
    assert_eq!(stage.status("production")["listens"], true);
}

#[test]
fn what_another_app_or_no_environment_asks_is_refused() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[RECEIPTS]);
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done migrate:after")]).expect(137);
    let toml = std::fs::read_to_string(stage.root().join("piton.toml")).unwrap();
    stage.write("piton.toml", &toml.replacen(&format!("\"{}\"", stage.name()), "\"another\"", 1));
    for asked in [&["resume", "production"][..], &["rollback", "production", "--database", "--yes"]] {
        stage.piton(asked).expect(2).says("names another app").says("now another");
    }
    stage.write("piton.toml", &toml);
    for asked in ["abort", "rollback", "resume", "hold"] {
        stage.piton(&[asked, "productoin"]).expect(2).says("did you mean `production`?");
    }
    stage.piton(&["abort", "production"]).expect(0);
}

#[test]
fn the_second_operator_is_refused() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.watch = "10m");
    stage.commit("v2", &[]);
    let load = stage.load("production").start().unwrap();
    let first = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the first share", || stage.is_running("production", "shift.10%"));
    let user = stage.status("production")["release"]["begun_by"].as_str().unwrap().to_owned();
    for command in [&["deploy", "production"][..], &["resume", "production"]] {
        let second = stage.piton(command).expect(2).says("production is being released by").says(&user);
        second.says(&format!("(process {})", first.id())).says("since ").says("piton watch production");
    }
    // Another environment is nobody's yet.
    stage.piton(&["plan", "staging"]).expect(0);
    stage.piton(&["abort", "production", "--yes"]).expect(0);
    first.wait().expect(3);
    crate::common::assert_nothing_failed(&stage, &stage.finish(load));
}

#[test]
fn production_takes_only_what_staging_has_run() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[]);
    stage.configure(|settings| settings.after_staging = true);
    refused(
        &stage,
        "production",
        &["has not been released to staging", "after = \"staging\"", "piton deploy staging --ref"],
    );
}

#[test]
fn outside_of_the_window_is_refused() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let day = closes_the_window(&mut stage);
    let words = ["production takes releases", day, "it opens next", "piton plan production"];
    refused(&stage, "production", &words);
}

/// Lets production take releases on a single day, which is not near; returns it.
fn closes_the_window(stage: &mut Stage) -> &'static str {
    let days = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
    // Day 0 was a Thursday; three days from now no clock is far enough off.
    let day = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days as usize + 3) % 7];
    stage.configure(|settings| settings.more_production = format!("window = \"{day} 10:00-12:00 UTC\"\n"));
    day
}

#[test]
fn a_release_is_aborted_whatever_the_window() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[]);
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done guard:after")]).expect(137);
    closes_the_window(&mut stage);
    for resume in [&["resume", "production"][..], &["resume", "production", "--detach"]] {
        stage.piton(resume).expect(2).says("piton abort production");
    }
    stage.piton(&["abort", "production"]).expect(0);
}

#[test]
fn a_release_whose_guards_refuse_is_not_carried_on_by_itself() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[]);
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "started guard:after")]).expect(137);
    stage.configure(|settings| settings.build = vec!["no-such-tool".into()]);
    stage.piton(&["resume", "production", "--detach"]).expect(2).says("no-such-tool was not found");
    assert_eq!(stage.status("production")["release"]["outcome"], "refused");
}

#[test]
fn another_database_is_neither_shown_nor_put_back_and_the_request_does_not_wait() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.watch = "6s");
    stage.commit("v2", &[RECEIPTS]);
    let load = stage.load("production").start().unwrap();
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the watch", || stage.is_running("production", "watch"));
    let url = stage.cluster().url_as(&stage.role("production"), "another", "postgres");
    stage.configure(|settings| {
        settings.production.vars.insert("DATABASE_URL".into(), url.clone());
    });
    let rollback = ["rollback", "production", "--database", "--yes"];
    let refused = |stage: &Stage| {
        let said =
            stage.piton(&rollback).expect(2).says("names another database than when the release began");
        assert!(!said.stderr.contains("Written since"), "{}", said.stderr);
    };
    // While a process runs the release, and when nobody does.
    refused(&stage);
    deploy.kill();
    refused(&stage);
    stage.piton(&["rollback", "production"]).expect(2);
    stage.configure(|settings| {
        settings.production.vars.remove("DATABASE_URL");
    });
    stage.piton(&["resume", "production"]).expect(0);
    assert_no_failures_but_of(&stage.finish(load), "no release");
}

#[test]
fn a_pooler_is_refused_with_what_names_the_server() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let (direct, database) = (stage.url("production"), stage.database("production"));
    let through = |stage: &mut Stage, url: String| {
        stage.configure(|settings| settings.production.vars.extend([("DATABASE_URL".into(), url)]));
        refused(stage, "production", &["pooler", "DIRECT_URL=postgresql://", "url = \"${DIRECT_URL}\""])
    };
    through(&mut stage, format!("{direct}?pgbouncer=true&connection_limit=1")).says("it says pgbouncer=true");
    for options in [StartupOptions::Refused, StartupOptions::Dropped] {
        let Some(pooler) = Pooler::start(stage.cluster(), options) else { return };
        through(&mut stage, pooler.url(&database)).says("production's database is reached through a pooler");
    }
    // As the hint says.
    let staging = stage.url("staging");
    stage.configure(|settings| {
        settings.production.vars.extend([("DIRECT_URL".into(), direct)]);
        settings.staging.vars.extend([("DIRECT_URL".into(), staging)]);
    });
    let text = std::fs::read_to_string(stage.root().join("piton.toml")).unwrap();
    stage.write("piton.toml", &text.replace("[database]\n", "[database]\nurl = \"${DIRECT_URL}\"\n"));
    stage.piton(&["plan", "production"]).expect(0);
}

#[test]
fn without_a_way_back_a_release_is_refused() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[]);
    stage.end_all();
    refused(
        &stage,
        "production",
        &["the release that serves production does not answer", "piton resume production"],
    );
    stage.piton(&["resume", "production"]).expect(0).says("started again");
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v1".into())));
}

#[test]
fn an_app_that_hangs_is_named_by_its_number() {
    let Some(stage) = live_stage_in_turn() else { return };
    let launched = stage.events("production").into_iter().rev().find(|event| {
        let command = event["event"]["command"].as_str().unwrap_or_default();
        event["event"]["event"] == "launched" && !command.contains("proxy")
    });
    let pid = launched.unwrap()["event"]["pid"].to_string();
    let signal = |name: &str| std::process::Command::new("kill").args([name, &pid]).status().unwrap();
    assert!(signal("-STOP").success());
    stage.commit("v2", &[]);
    refused(
        &stage,
        "production",
        &["does not answer", &format!("kill -9 {pid}, then piton resume production")],
    );
    assert!(signal("-KILL").success());
    stage.piton(&["resume", "production"]).expect(0).says("started again");
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v1".into())));
}

#[test]
fn who_may_not_log_in_is_not_sent_to_the_server() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let url = stage.url("production");
    let (_, at) = url.split_once('@').unwrap();
    let nobody = format!("postgresql://nobody_here@{at}");
    stage.configure(|settings| settings.production.vars.extend([("DATABASE_URL".into(), nobody)]));
    refused(&stage, "production", &["cannot be reached", "DATABASE_URL of production is wrong"]);
}

/// A down expression that can never be of use is not found out when it is needed.
#[test]
fn a_down_expression_that_cannot_be_meant_so_is_refused() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[RECEIPTS]);
    let mut down = |migration: &str, table: &str, column: &str, is: &str| {
        let lines = format!(
            "[[database.down]]\nmigration = \"{migration}\"\ntable = \"{table}\"\ncolumn = \"{column}\"\nis = \"{is}\"\n"
        );
        stage.configure(|settings| settings.more = lines);
        stage.piton(&["plan", "production"])
    };
    let what = "[[database.down]] in piton.toml cannot be meant so";
    for ([migration, table, column, is], why, mend) in [
        (
            ["002_reciepts.sql", "items", "note", "note"],
            "neither the commit nor the database's record has a migration of that name",
            "migration = \"002_receipts.sql\"",
        ),
        (
            ["002_receipts.sql", "itms", "note", "note"],
            "before it, there is no table itms",
            "table = \"public.items\"",
        ),
        (
            ["002_receipts.sql", "items", "notes", "note"],
            "before it, items has no column notes",
            "column = \"note\"",
        ),
        (
            ["002_receipts.sql", "items", "note", "note ||"],
            "`note ||` is no expression: syntax error",
            "is = \"an SQL expression",
        ),
        (
            ["002_receipts.sql", "items", "note", "note); drop table items; --"],
            "is no expression",
            "is = \"an SQL expression",
        ),
    ] {
        let planned = down(migration, table, column, is).expect(2).stdout;
        for word in [what, why, mend] {
            assert!(planned.contains(word), "no `{word}` in\n{planned}");
        }
    }
    // What it reads may come with the migration, and one of an applied migration is not used any more.
    down("002_receipts.sql", "items", "note", "is_new").expect(0);
    down("001_items.sql", "gone", "note", "nothing ||").expect(0);
    down("002_reciepts.sql", "items", "note", "note");
    let said = refused(&stage, "production", &[what, "migration = \"002_receipts.sql\""]);
    assert!(said.stderr.contains("or take it out"), "{}", said.stderr);
}

#[test]
fn two_environments_do_not_share_a_port() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.production.ports[2] = settings.staging.ports[1]);
    refused(&stage, "production", &["production and staging both use port", "listen and ports"]);
}

#[test]
fn the_servers_own_database_is_nobodys_environment() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let url = format!("postgresql://another@127.0.0.1:{}/postgres", stage.cluster().port());
    stage.configure(|settings| settings.staging.vars.extend([("DATABASE_URL".into(), url)]));
    refused(&stage, "staging", &["the server's own postgres"]);
}

#[test]
fn an_app_that_died_and_a_release_that_waits_are_said() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.steps = vec!["20% for 60s", "100%"]);
    stage.commit("v2", &[]);
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    stage.eventually("the first share", || stage.is_running("production", "shift.20%"));
    deploy.kill();
    let said = stage.piton(&["status", "production"]).expect(0).stdout;
    assert!(said.contains("nobody runs it: piton resume production"), "{said}");
    let watched = stage.piton(&["watch", "production"]);
    watched.says("nobody runs it at this moment; waits 4 s for a process that takes it up");
    let planned = stage.piton(&["plan", "production"]).expect(2).stdout;
    assert!(planned.contains("a release of production is not over"), "{planned}");
    stage.end_all();
    let said = stage.piton(&["status", "production"]).expect(0).stdout;
    assert!(said.contains("blue does not listen on port"), "{said}");
}

#[test]
fn a_refusal_is_that_of_the_command_that_detaches() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.after_staging = true);
    stage.commit("v2", &[]);
    let said = stage.piton(&["deploy", "production", "--detach", "--json"]).expect(2);
    assert_eq!(said.json()["outcome"], "refused");
    said.says("has not been released to staging");
    assert!(stage.status("production")["release"]["run_by"].is_null());
}

#[test]
fn a_kill_while_a_release_detaches_leaves_it_to_be_resumed() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[]);
    let detach = ["deploy", "production", "--detach"];
    // The process that detaches dies before the other one is started.
    stage.piton_with_env(&detach, &[("PITON_CRASH_AT", "done guard:after")]).expect(137);
    stage.piton(&["abort", "production"]).expect(0);
    // The other one dies as soon as it has the lease.
    stage.piton_with_env(&detach, &[("PITON_CRASH_AT", "taken_up :before")]).expect(0);
    stage.eventually("its end", || stage.status("production")["release"]["run_by"].is_null());
    assert_eq!(stage.status("production")["release"]["outcome"], "under_way");
    let load = stage.load("production").start().unwrap();
    stage.piton(&["resume", "production"]).expect(0);
    assert_no_failures_but_of(&stage.finish(load), "no release");
}

#[test]
fn the_lease_of_a_release_that_detaches_is_never_free() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.watch = "10m");
    stage.commit("v2", &[]);
    let journal = rusqlite::Connection::open(stage.root().join(".piton/journal.db")).unwrap();
    // Whoever gives it back leaves a trace.
    journal
        .execute_batch(
            "CREATE TABLE freed (at TEXT);
             CREATE TRIGGER trace AFTER UPDATE ON leases WHEN NOT NEW.held
             BEGIN INSERT INTO freed VALUES (NEW.beat); END;",
        )
        .unwrap();
    let load = stage.load("production").start().unwrap();
    stage.piton(&["deploy", "production", "--detach"]).expect(0).says("runs by itself");
    stage.piton(&["resume", "production"]).expect(2).says("is being released by");
    stage.eventually("the watch", || stage.is_running("production", "watch"));
    let freed = || journal.query_row("SELECT count(*) FROM freed", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(freed(), 0);
    stage.piton(&["abort", "production"]).expect(0);
    stage.eventually("its end", || freed() == 1);
    assert_no_failures_but_of(&stage.finish(load), "no release");
}
