//! Which database a release works on, whatever its URL says, and that nothing of people's is dropped with one.

use crate::common::{RECEIPTS, live_stage_in_turn, stage_in_turn};
use piton_testkit::postgres::StopMode;
use piton_testkit::stage::{Output, Stage};

/// Runs a release until this point, and kills it there.
fn kill_at(stage: &Stage, environment: &str, point: &str) {
    stage.piton_with_env(&["deploy", environment], &[("PITON_CRASH_AT", point)]).expect(137);
}

/// Names production's database by another name of the same machine.
fn by_another_name(stage: &mut Stage) {
    let url = stage.url("production").replace("127.0.0.1", "localhost");
    stage.configure(|settings| settings.production.vars.extend([("DATABASE_URL".into(), url)]));
}

fn has_table(stage: &Stage, database: &str, table: &str) -> bool {
    let found = format!("select 1 from pg_tables where tablename = '{table}'");
    !stage.sql(database, &found).is_empty()
}

/// Renames a database, ending the sessions on it.
fn rename(stage: &Stage, from: &str, to: &str) {
    let end = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{from}'");
    stage.sql("postgres", &format!("{end}; alter database \"{from}\" rename to \"{to}\""));
}

#[test]
fn a_database_is_the_same_under_another_name_of_its_server() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[RECEIPTS]);
    kill_at(&stage, "production", "done migrate:after");
    by_another_name(&mut stage);
    stage.piton(&["abort", "production"]).expect(0).says("rewound to the backup");
    assert!(!has_table(&stage, &stage.database("production"), "receipts"));
}

#[test]
fn another_database_behind_the_same_name_is_told() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[RECEIPTS]);
    kill_at(&stage, "production", "done migrate:after");
    let (production, away) = (stage.database("production"), format!("{}_away", stage.database("production")));
    rename(&stage, &production, &away);
    let owner = stage.role("production");
    stage.sql("postgres", &format!("create database \"{production}\" owner \"{owner}\""));
    for command in [&["resume", "production"][..], &["abort", "production"]] {
        stage.piton(command).expect(2).says("names another database than when the release began");
    }
    stage.sql("postgres", &format!("drop database \"{production}\" with (force)"));
    rename(&stage, &away, &production);
    stage.piton(&["abort", "production"]).expect(0).says("rewound to the backup");
}

#[test]
fn traffic_goes_back_while_the_database_is_away() {
    let Some(mut stage) = Stage::set_with_own_server(env!("CARGO_BIN_EXE_piton")) else { return };
    stage.deploy("production");
    let (deploy, load) = crate::common::watched(&mut stage, &[RECEIPTS]);
    deploy.kill();
    stage.finish(load);
    stage.cluster().stop(StopMode::Fast).expect("it stops");
    // As after a switch to another host's name, which is not up yet.
    by_another_name(&mut stage);
    let said = stage.piton(&["rollback", "production"]).expect(4).says("all traffic on blue");
    said.says("production's database cannot be reached").says("piton resume production");
    assert_eq!(stage.status("production")["proxy"]["weights"]["blue"], 10_000);
    stage.cluster().start_again().expect("it starts");
    stage.piton(&["resume", "production"]).expect(3);
}

/// A release to staging that has had its traffic, and in whose database somebody has written.
fn written_into_staging(stage: &Stage) {
    kill_at(stage, "staging", "done shift.100%:after");
    stage.sql(&stage.database("staging"), "insert into items (id, note) values ('a-testers', '')");
}

/// Wants one database to be kept and told, with what was written in it; returns what it is called.
#[track_caller]
fn kept(stage: &Stage, said: &Output) -> String {
    let kept = stage.status("staging")["release"]["databases_kept"].clone();
    assert_eq!(kept.as_array().map(Vec::len), Some(1), "{kept}\n{}", said.stderr);
    let name = kept[0].as_str().expect("a name").to_owned();
    said.clone().says(&name);
    let status = stage.piton(&["status", "staging"]).expect(0).stdout;
    assert!(status.contains(&format!("Left beside the live database: {name}")), "{status}");
    assert_eq!(stage.sql(&name, "select id from items where id = 'a-testers'"), ["a-testers"]);
    name
}

#[test]
fn what_was_written_into_staging_is_kept_when_its_database_goes_back() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.deploy("staging");
    let (production, staging) = (stage.database("production"), stage.database("staging"));
    stage.sql(&staging, "insert into items (id, note) values ('of-before', '')");
    stage.commit("v2", &[RECEIPTS]);
    written_into_staging(&stage);
    let said = stage.piton(&["rollback", "staging", "--database", "--yes"]).expect(0);
    let kept = kept(&stage, &said);
    assert_eq!(stage.databases(), [kept, production, staging.clone()]);
    assert!(!has_table(&stage, &staging, "receipts"));
    assert_eq!(stage.sql(&staging, "select id from items where id ~ '^(a|of)-'"), ["of-before"]);
}

#[test]
fn what_was_written_into_staging_is_kept_when_it_falls_by_itself() {
    let Some(stage) = live_stage_in_turn() else { return };
    // The first release: there is no database before it.
    written_into_staging(&stage);
    let said = stage.piton(&["abort", "staging"]).expect(0).says("no database, as before");
    let kept = kept(&stage, &said);
    assert_eq!(stage.databases(), [kept.clone(), stage.database("production")]);
    // Undone again after a kill, and with nothing written.
    kill_at(&stage, "staging", "done shift.100%:after");
    stage
        .piton_with_env(&["abort", "staging"], &[("PITON_CRASH_AT", "undone migrate.data:before")])
        .expect(137);
    stage.piton(&["resume", "staging"]).expect(3);
    assert_eq!(stage.databases(), [kept.clone(), stage.database("production")]);
    // The next release has nothing to do with it.
    stage.deploy("staging");
    assert_eq!(stage.databases(), [kept, stage.database("production"), stage.database("staging")]);
}

/// Makes staging's database as a person would.
fn create_staging(stage: &Stage) -> String {
    let (database, role) = (stage.database("staging"), stage.role("staging"));
    stage.sql("postgres", &format!("create database \"{database}\" owner \"{role}\""));
    database
}

#[test]
fn an_empty_database_that_a_person_made_is_replaced() {
    let Some(stage) = live_stage_in_turn() else { return };
    create_staging(&stage);
    stage.deploy("staging");
    assert_eq!(stage.databases(), [stage.database("production"), stage.database("staging")]);
    assert!(has_table(&stage, &stage.database("staging"), "items"));
}

#[test]
fn what_a_person_loads_during_the_release_is_not_replaced() {
    let Some(stage) = live_stage_in_turn() else { return };
    let staging = create_staging(&stage);
    kill_at(&stage, "staging", "done prove:after");
    stage.sql(&staging, "create table precious (a int)");
    let said = stage.piton(&["resume", "staging"]).expect(3).says("staging's database was not made by Piton");
    said.says("holds table public.precious");
    assert!(has_table(&stage, &staging, "precious"));
    assert_eq!(stage.databases(), [stage.database("production"), staging]);
}

#[test]
fn what_a_person_loads_into_the_replaced_database_is_kept_and_told() {
    let Some(stage) = live_stage_in_turn() else { return };
    create_staging(&stage);
    kill_at(&stage, "staging", "done migrate.data:after");
    let old = stage.databases().into_iter().find(|name| name.contains("_old_")).expect("the replaced one");
    stage.sql(&old, "create sequence precious");
    let said = stage.piton(&["resume", "staging"]).expect(0);
    said.says("one stays, it holds sequence public.precious").says(&format!("live database: {old}"));
    assert_eq!(stage.status("staging")["release"]["databases_kept"][0], old);
    assert_eq!(stage.sql(&old, "select nextval('precious')"), ["1"]);
}

/// Lets staging have a database of its own instead of production's rows.
fn with_own_data(stage: &mut Stage, database: &str) {
    let url = stage.url("staging").replace(&stage.database("staging"), database);
    stage.configure(|settings| {
        settings.staging_from_production = false;
        settings.staging.vars.extend([("DATABASE_URL".into(), url)]);
    });
}

#[test]
fn a_mistake_in_productions_variables_switches_no_guard_off() {
    let Some(mut stage) = stage_in_turn() else { return };
    let production = stage.database("production");
    with_own_data(&mut stage, &production);
    let url = stage.url("production");
    for (vars, what) in [
        (format!("DATABASE_URL={url}\nA=1\nA=2\n"), ".env.production, line 3: `A` is set already on line 2"),
        (format!("DATABSE_URL={url}\n"), "`database.url` needs the variable `DATABASE_URL`"),
    ] {
        stage.write(".env.production", &vars);
        let said =
            stage.piton(&["deploy", "staging"]).expect(2).says("staging cannot be compared with production");
        said.says(what).says("mend .env.production; piton config production");
    }
    let mark =
        "select shobj_description(oid, 'pg_database') from pg_database where datname = current_database()";
    assert_eq!(stage.sql(&production, mark), ["NULL"]);
    // Nor does it keep production's own release from going back.
    assert_eq!(stage.databases(), [production]);
}

#[test]
fn a_database_that_may_be_productions_is_not_adopted() {
    let Some(mut stage) = stage_in_turn() else { return };
    let (production, staging) = (stage.database("production"), create_staging(&stage));
    for database in [&production, &staging] {
        stage.sql(database, "create table precious (a int)");
    }
    with_own_data(&mut stage, &production);
    stage.remove(".env.production");
    let said =
        stage.piton(&["deploy", "staging"]).expect(2).says("nobody can tell whose staging's database is");
    said.says("holds table public.precious")
        .says("production's variables are not on this machine")
        .says("put .env.production beside piton.toml");
    // What can be compared, or is empty, is nobody's secret.
    with_own_data(&mut stage, &staging);
    stage.piton(&["plan", "staging"]).expect(0);
    stage.remove(".env.production");
    stage.piton(&["plan", "staging"]).expect(2);
    stage.sql(&staging, "drop table precious");
    stage.piton(&["plan", "staging"]).expect(0);
}
