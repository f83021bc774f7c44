//! When a migration goes back and when it stays: what others wrote, made or are waiting for comes first.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::common::{RECEIPTS, live_stage_in_turn, stage_in_turn};
use piton_testkit::stage::{Change, Piton, Stage};
use rustix::process::Signal;

/// Runs the release until its migration is done, and kills it there.
fn migrated(stage: &Stage) {
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done migrate:after")]).expect(137);
}

/// Runs SQL as the role that owns the app's tables.
fn as_the_app(stage: &Stage, sql: &str) {
    let owner = "select pg_get_userbyid(datdba) from pg_database where datname = current_database()";
    let production = stage.database("production");
    let owner = stage.sql(&production, owner).remove(0);
    stage.sql(&production, &format!("set role \"{owner}\"; {sql}"));
}

fn has_receipts(stage: &Stage) -> bool {
    let found = "select 1 from pg_tables where tablename = 'receipts'";
    !stage.sql(&stage.database("production"), found).is_empty()
}

#[test]
fn what_somebody_else_made_meanwhile_stays() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[RECEIPTS]);
    migrated(&stage);
    let production = stage.database("production");
    as_the_app(&stage, "create table by_hand (a int); insert into by_hand values (7)");
    // Nobody but its owner may read this one.
    stage.sql(&production, "create table locked_up (a int)");
    let said = stage.piton(&["abort", "production"]).expect(0);
    said.says("the migration stays: somebody changed").says("by_hand");
    assert_eq!(stage.sql(&production, "select a from by_hand"), ["7"]);
    assert_eq!(stage.databases(), [production]);
}

#[test]
fn what_is_written_without_a_table_stays() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    as_the_app(&stage, "create sequence numbers; select lo_from_bytea(42, 'old')");
    stage.commit("v2", &[RECEIPTS]);
    for (write, what, read, value) in [
        ("select lo_put(42, 0, 'new')", "large objects", "select convert_from(lo_get(42), 'utf8')", "new"),
        ("select nextval('numbers')", "public.numbers", "select last_value from numbers", "1"),
    ] {
        migrated(&stage);
        as_the_app(&stage, write);
        let said = stage.piton(&["abort", "production"]).expect(0);
        said.says("the migration stays: written since the backup").says(what);
        assert_eq!(stage.sql(&production, read), [value]);
        assert_eq!(stage.databases(), [production.as_str()]);
        as_the_app(&stage, "drop table receipts; delete from piton.migrations where name like '002%'");
    }
}

#[test]
fn what_the_migration_itself_made_goes() {
    let Some(stage) = live_stage_in_turn() else { return };
    let filled = "create table filled as select id from items; alter table items add column n int default 3;";
    stage.commit("v2", &[Change::Migration("002_filled.sql", filled)]);
    let before = stage.world().only(|fact| !fact.starts_with("file backups") && !fact.contains("artifacts/"));
    migrated(&stage);
    stage.piton(&["abort", "production"]).expect(0).says("rewound to the backup, which holds every row");
    let now = stage.world().only(|fact| !fact.starts_with("file backups") && !fact.contains("artifacts/"));
    before.assert_same(&now, "after the abort");
}

#[test]
fn what_others_replicate_from_is_left_to_a_person() {
    let Some(mut stage) = Stage::set_with_own_server(env!("CARGO_BIN_EXE_piton")) else { return };
    stage.deploy("production");
    let production = stage.database("production");
    stage.sql(&production, "select pg_create_logical_replication_slot('cdc', 'test_decoding')");
    let of_cdc = "select database from pg_replication_slots where slot_name = 'cdc'";
    stage.commit("v2", &[RECEIPTS]);
    let failed = stage.piton_with_env(&["deploy", "production"], &[("PITON_FAIL_AT", "start:after")]);
    let why = "the logical replication slot cdc would stay with the database that goes";
    failed
        .expect(3)
        .says(&format!("only when a person asks: {why}"))
        .says(&format!("the migration stays: {why}"));
    assert_eq!(stage.sql("postgres", of_cdc), [production.as_str()]);

    stage.commit("v3", &[Change::Migration("003_more.sql", "create table more (id int)")]);
    let (deploy, load) = crate::common::watched(&mut stage, &[]);
    stage.finish(load);
    let back = stage.piton(&["rollback", "production", "--database", "--yes"]).expect(0);
    back.says("the logical replication slot cdc stayed with the database it replaced");
    deploy.wait().expect(3);
    let kept = stage.sql("postgres", of_cdc).remove(0);
    assert_ne!(kept, production, "it is another database now");
    assert!(stage.databases().contains(&kept));
}

/// Stops a release before its migration, lets the app's users do something, and lets the release fail after its migration.
fn failed_after(stage: &Stage, meanwhile: &str) -> piton_testkit::stage::Output {
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done rehearse:after")]).expect(137);
    as_the_app(stage, meanwhile);
    stage.piton_with_env(&["resume", "production"], &[("PITON_FAIL_AT", "start:after")]).expect(3)
}

#[test]
fn what_was_written_before_a_renaming_migration_stays() {
    let all = [
        ("alter table notes rename text to body", "update notes set text = 'new'", "select body from notes"),
        (
            "alter table notes rename to remarks",
            "insert into notes values ('new')",
            "select text from remarks where text = 'new'",
        ),
        ("alter table empty rename to hollow", "insert into empty values ('new')", "select text from hollow"),
        (
            "alter table notes drop text, add text text default 'x'",
            "update notes set text = 'new'",
            "select text from notes where text = 'x'",
        ),
        (
            "update notes set text = 'x'",
            "update notes set text = 'new'",
            "select text from notes where text = 'x'",
        ),
        ("alter table empty drop text", "insert into empty values ('new')", "select count(*) from empty"),
    ];
    for (renaming, meanwhile, found) in crate::common::sampled(&all, 2) {
        let Some(stage) = live_stage_in_turn() else { return };
        let production = stage.database("production");
        as_the_app(
            &stage,
            "create table notes (text text); insert into notes values ('old'); create table empty (text text)",
        );
        stage.commit("v2", &[Change::Migration("002_renames.sql", renaming)]);
        let said = failed_after(&stage, meanwhile);
        said.says("the migration stays: ");
        if renaming.starts_with("update") {
            let events = stage.events("production");
            let rehearsed = events
                .iter()
                .rfind(|event| event["event"]["event"] == "done" && event["event"]["step"] == "rehearse");
            let way_back = &rehearsed.unwrap()["event"]["outcome"]["way_back"];
            assert_eq!(way_back["by_itself"], false, "{way_back}");
            assert_eq!(way_back["why_not"], "it changes or removes what is in \"public\".\"notes\"");
        }
        assert_eq!(stage.sql(&production, found).len(), 1, "{renaming}");
        assert_eq!(stage.databases(), [production]);
    }
}

#[test]
fn a_migration_goes_back_over_what_it_renamed_and_filled_itself() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    as_the_app(
        &stage,
        "create table notes (id serial, text text); insert into notes (text) values ('old'), ('older')",
    );
    as_the_app(&stage, "create table moods (mood text); insert into moods values ('good')");
    let migration = "alter table notes rename text to body; alter table moods rename to feelings;
                     alter table items add length int; update items set length = length(note);
                     insert into items values ('m', 'by the migration', '2026-01-01 UTC');
                     create table copies as select body from notes;";
    stage.commit("v2", &[Change::Migration("002_fills.sql", migration)]);
    failed_after(&stage, "select 1").says("rewound to the backup, which holds every row");
    assert_eq!(stage.sql(&production, "select text from notes order by 1"), ["old", "older"]);
    assert_eq!(stage.databases(), [production]);
}

#[test]
fn what_somebody_changed_after_the_migration_stays() {
    for (migration, by_hand) in [
        (
            "create function answer() returns int language sql as 'select 41'",
            "create or replace function answer() returns int language sql as 'select 42'",
        ),
        (
            "create table receipts (a int)",
            "create table piton.mine (a int); insert into piton.mine values (7)",
        ),
    ] {
        let Some(stage) = live_stage_in_turn() else { return };
        stage.commit("v2", &[Change::Migration("002_more.sql", migration)]);
        migrated(&stage);
        let production = stage.database("production");
        as_the_app(&stage, by_hand);
        stage.piton(&["abort", "production"]).expect(0).says("the migration stays: somebody changed");
        assert_eq!(stage.databases(), [production]);
    }
}

#[test]
fn a_migration_is_tried_with_the_databases_own_settings() {
    let Some(stage) = live_stage_in_turn() else { return };
    let production = stage.database("production");
    as_the_app(
        &stage,
        &format!(
            "create schema shop; create table shop.orders (a int); alter database \"{production}\" set search_path = shop, public"
        ),
    );
    stage.commit("v2", &[Change::Migration("002_orders.sql", "alter table orders add b int")]);
    // The sessions that the app has open still look into `public`.
    let load = stage.load("production").start().expect("a load");
    stage.piton(&["deploy", "production"]).expect(0);
    crate::common::assert_nothing_failed(&stage, &stage.finish(load));
    assert_eq!(stage.sql(&production, "select count(b) from shop.orders"), ["0"]);
}

#[test]
fn a_migration_that_reaches_beyond_its_database_is_not_tried() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit(
        "v2",
        &[Change::Migration("002_role.sql", "create table more (a int);\ncreate role reporter;")],
    );
    let said = stage.piton(&["deploy", "production"]).expect(3).says("002_role.sql, line 2");
    said.says("run it by hand");
    assert!(stage.sql("postgres", "select 1 from pg_roles where rolname = 'reporter'").is_empty());
}

/// Who holds the lock of migrations on the database that is asked; other tests have theirs.
const THEIR_LOCK: &str = "select 1 from pg_locks where locktype = 'advisory' and granted
    and database = (select oid from pg_database where datname = current_database())
    and classid = x'00706974'::bigint::oid and objid = x'6f6e6d69'::bigint::oid";

#[test]
fn a_migration_that_commits_after_its_piton_died_goes_back_all_the_same() {
    let Some(stage) = live_stage_in_turn() else { return };
    stage.commit("v2", &[Change::Migration("002_receipts.sql", "create table receipts (a int)")]);
    // Until it has noted what it found: then it would take the lock and begin.
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "noted migrate:after")]).expect(137);
    let production = stage.database("production");
    // What a session does that was cut off in its commit: it has the lock, and the record and the table appear late.
    let late = std::thread::scope(|scope| {
        let session = scope.spawn(|| {
            let sql = "select pg_advisory_lock(x'007069746f6e6d69'::bigint);
                       create schema if not exists piton;
                       select pg_sleep(3);
                       create table receipts (a int);
                       insert into piton.migrations (name, blake3, started_at, finished_at)
                       values ('002_receipts.sql', '', now(), now());";
            as_the_app(&stage, sql);
            Instant::now()
        });
        stage.eventually("the session that is late", || !stage.sql(&production, THEIR_LOCK).is_empty());
        stage.piton(&["abort", "production"]).expect(0).says("rewound to the backup");
        let aborted = Instant::now();
        aborted.duration_since(session.join().expect("the session"))
    });
    assert!(late < Duration::from_secs(30));
    assert!(!has_receipts(&stage), "the late migration has gone back");
    assert_eq!(stage.databases(), [production]);
}

/// Brings production to a release with a migration that is watched, and writes a row then.
fn watched(stage: &mut Stage) -> Piton {
    let (deploy, load) = crate::common::watched(stage, &[RECEIPTS]);
    stage.finish(load);
    as_the_app(stage, "insert into items values ('late', 'written since the backup', now())");
    deploy
}

fn traffic_is_back(stage: &Stage) -> bool {
    stage.status("production")["proxy"]["weights"]["blue"] == 10_000
}

fn rows_called_late(stage: &Stage) -> Vec<String> {
    stage.sql(&stage.database("production"), "select count(*) from items where id = 'late'")
}

#[test]
fn traffic_goes_back_before_anything_is_counted() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let deploy = watched(&mut stage);
    let stage = &stage;
    let told = "select 1 from pg_locks where locktype = 'advisory' and objid = 4711";
    std::thread::scope(|scope| {
        // Nobody can count the rows of a table that is locked.
        let lock = format!(
            "begin; lock table items in access exclusive mode;
             do $$ begin while not exists ({told}) loop perform pg_sleep(0.05); end loop; end $$; commit"
        );
        let locked = scope.spawn(move || as_the_app(stage, &lock));
        let is_locked =
            "select 1 from pg_locks where mode = 'AccessExclusiveLock' and relation = 'items'::regclass";
        stage.eventually("the lock", || !stage.sql(&stage.database("production"), is_locked).is_empty());
        let rollback = stage.spawn(&["rollback", "production", "--database", "--yes"], &[]);
        stage.eventually("traffic is back", || traffic_is_back(stage));
        assert!(!rollback.said().contains("Written since"), "{}", rollback.said());
        let let_go = scope.spawn(move || stage.sql("postgres", "select pg_advisory_lock(4711), pg_sleep(2)"));
        let said = rollback.wait().expect(0).stderr;
        let place = |words: &str| said.find(words).unwrap_or_else(|| panic!("no `{words}` in\n{said}"));
        assert!(place("all traffic on blue") < place("Written since the backup"), "{said}");
        assert!(place("Written since the backup") < place("rewound to the backup"), "{said}");
        locked.join().expect("the lock");
        let_go.join().expect("its end");
    });
    deploy.wait().expect(3);
    assert_eq!(rows_called_late(stage), ["0"]);
}

#[test]
fn a_person_is_asked_about_the_database_when_traffic_is_back() {
    for (answer, late) in [("n", "1"), ("y", "0")] {
        let Some(mut stage) = live_stage_in_turn() else { return };
        let mut deploy = Some(watched(&mut stage));
        let mut rollback = stage.spawn_on_terminal(&["rollback", "production", "--database"]);
        // A question that is never answered leaves the release standing, and its resumption as well.
        if answer == "n" {
            let asks = |event: &serde_json::Value| event["event"]["event"] == "undo_failed";
            stage.eventually("the question", || stage.events("production").iter().any(asks));
            rollback.kill();
            let said = deploy.take().map(Piton::wait).expect("it runs").expect(4);
            said.says("nobody has said yet whether the database goes back");
            stage
                .piton(&["resume", "production"])
                .expect(4)
                .says("piton rollback production --database --yes");
            rollback = stage.spawn_on_terminal(&["rollback", "production", "--database"]);
        }
        rollback.answer("Put the database back? [y/N]", answer);
        let said = rollback.wait().expect(0).stdout;
        let place = |words: &str| said.find(words).unwrap_or_else(|| panic!("no `{words}` in\n{said}"));
        assert!(place("Written since the backup") < place("Put the database back?"), "{said}");
        if answer == "y" {
            assert!(place("all traffic on blue") < place("Written since the backup"), "{said}");
            assert!(place("Put the database back?") < place("rewound to the backup"), "{said}");
            deploy.map(Piton::wait).expect("it runs").expect(4);
        } else {
            assert!(place("Put the database back?") < place("the migration stays"), "{said}");
        }
        assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, "v1".into())));
        assert_eq!(rows_called_late(&stage), [late]);
        assert_eq!(has_receipts(&stage), answer == "n");
    }
}

#[test]
fn who_goes_back_to_a_release_that_the_migration_broke_is_asked_about_the_database() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    stage.configure(|settings| settings.steps = vec!["50% for 10m", "100%"]);
    // Neither knows the new name.
    stage.commit("v2", &[Change::Migration("002_renames.sql", "alter table items rename note to text")]);
    let deploy = stage.spawn(&["deploy", "production"], &[]);
    let shifts = |step: &serde_json::Value| {
        step["id"].as_str().is_some_and(|id| id.starts_with("shift")) && step["state"] == "running"
    };
    stage.eventually("half of the traffic", || {
        stage.status("production")["release"]["steps"].as_array().unwrap().iter().any(shifts)
    });
    stage.sql(&stage.database("production"), "insert into items (id, text) values ('late', 'x')");
    // Not before: the gate would send the release back by itself, and a rollback that comes after the question answers it.
    let mut load = stage.load("production");
    load.writes = 0.5;
    let load = load.start().unwrap();
    stage.piton(&["rollback", "production", "--yes"]).expect(4);
    let asked = deploy.wait().expect(4);
    asked.says("fails on the migrated database").says("piton rollback production --database --yes");
    stage.piton(&["rollback", "production", "--database", "--yes"]).expect(0).says("production runs");
    drop(stage.finish(load));
    assert_eq!(stage.sql(&stage.database("production"), "select count(note) > 0 from items"), ["t"]);

    // Who leaves it has answered.
    stage.commit("v3", &[Change::Migration("003_renames.sql", "alter table items rename text to body")]);
    let mut load = stage.load("production");
    load.writes = 0.5;
    let load = load.start().unwrap();
    let failing = [("PITON_FAIL_AT", "start:after")];
    stage
        .piton_with_env(&["deploy", "production"], &failing)
        .expect(4)
        .says("fails on the migrated database");
    stage.piton(&["rollback", "production"]).expect(0).says("Its migration stays in production's database");
    drop(stage.finish(load));
}

#[test]
fn a_rollback_that_is_left_goes_on_by_itself() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let deploy = watched(&mut stage);
    let stage = &stage;
    let production = stage.database("production");
    std::thread::scope(|scope| {
        let locked = scope.spawn(|| as_the_app(stage, "begin; lock table items; select pg_sleep(4); commit"));
        let is_locked =
            "select 1 from pg_locks where mode = 'AccessExclusiveLock' and relation = 'items'::regclass";
        stage.eventually("the lock", || !stage.sql(&production, is_locked).is_empty());
        let rollback = stage.spawn(&["rollback", "production", "--database", "--yes"], &[]);
        stage.eventually("traffic is back", || traffic_is_back(stage));
        rollback.signal(Signal::INT);
        rollback.wait().expect(130).says("It goes on by itself");
        locked.join().expect("the lock");
    });
    deploy.wait().expect(3);
    assert_eq!(rows_called_late(stage), ["0"]);
}

#[test]
fn who_cannot_be_asked_finds_traffic_back_and_the_database_waiting() {
    let Some(mut stage) = live_stage_in_turn() else { return };
    let deploy = watched(&mut stage);
    let said = stage.piton(&["rollback", "production", "--database"]).expect(4);
    said.says("Written since the backup").says("piton rollback production --database --yes");
    deploy.wait().expect(4);
    assert!(traffic_is_back(&stage));
    // A terminal that is closed at the question has not said no.
    let mut rollback = stage.spawn_on_terminal(&["rollback", "production", "--database"]);
    rollback.answer("Put the database back? [y/N]", "\u{4}");
    rollback.wait().expect(4);
    stage.piton(&["deploy", "production"]).expect(2).says("piton rollback production --database --yes");
    assert_eq!(rows_called_late(&stage), ["1"]);
    stage.piton(&["rollback", "production", "--database", "--yes"]).expect(0).says("rewound to the backup");
    assert_eq!(rows_called_late(&stage), ["0"]);
    let said = stage.piton(&["status", "production"]).expect(0).stdout;
    let port = stage.cluster().port();
    let drop = format!("dropdb -h 127.0.0.1 -p {port} -U {} piton_", stage.role("production"));
    assert!(said.contains(&drop), "no `{drop}` in\n{said}");
}

/// Asks for a page, however long that takes; returns the first line of the answer.
fn answer_of(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("the proxy");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_request_that_takes_long_is_answered_and_the_migration_stays() {
    let Some(stage) = stage_in_turn() else { return };
    stage.commit("slow", &[Change::Behaviour(|app| app.delay_ms = 9_000)]);
    stage.deploy("production");
    stage.commit("v2", &[RECEIPTS]);
    migrated(&stage);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| answer_of(stage.listen("production")));
        std::thread::sleep(Duration::from_millis(500));
        let said = stage.piton(&["abort", "production"]).expect(0);
        said.says("the migration stays: 1 request did not end in time");
        assert_eq!(slow.join().expect("an answer"), "HTTP/1.1 200 OK");
    });
    assert!(has_receipts(&stage));
    assert_eq!(stage.databases(), [stage.database("production")]);
}
