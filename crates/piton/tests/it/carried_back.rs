//! Migrations that go back with every write that came after the backup.

use crate::common::{
    BAD, RECEIPTS, WRITES_RECEIPTS, assert_no_failures_but_of, assert_nothing_is_kept, following_stage,
    noting_stage, watched,
};
use piton_testkit::load::Running;
use piton_testkit::stage::{Change, Stage};
use serde_json::Value;

/// A migration that leaves no table as it was.
const SHELVES: Change<'static> = Change::Migration(
    "003_shelves.sql",
    "alter table items add column shelf int not null default 1; alter table items alter column note type varchar(400);
     update items set shelf = 2 where id like 'old-1%'; create index on items (created);",
);

#[track_caller]
fn assert_back(stage: &Stage) {
    let production = stage.database("production");
    let columns = "select column_name from information_schema.columns where table_name in ('items', 'receipts') order by 1";
    assert_eq!(stage.sql(&production, columns), ["created", "id", "note"]);
    assert_nothing_is_kept(stage, "back");
}

#[test]
fn a_bad_release_goes_back_by_itself_with_every_write() {
    let Some(stage) = following_stage() else { return };
    goes_back_by_itself(&stage);
}

#[test]
fn a_bad_release_goes_back_by_itself_with_every_write_that_triggers_noted() {
    let Some(stage) = noting_stage() else { return };
    let plan = goes_back_by_itself(&stage).to_string();
    assert!(plan.contains("later writes are noted by triggers, which writers feel"), "{plan}");
    // The next one, which stays, leaves nothing either.
    stage.commit("v3", &[Change::Behaviour(|app| app.fails = 0.0)]);
    let load = stage.load("production").start().unwrap();
    stage.piton(&["deploy", "production"]).expect(0);
    assert_no_failures_but_of(&stage.finish(load), "no release");
    assert_nothing_is_kept(&stage, "settled");
}

fn goes_back_by_itself(stage: &Stage) -> Value {
    let production = stage.database("production");
    let role = stage.role("production");
    // What fires in a session that replays, too, has done its work already; and a number is the one that was given.
    stage.sql(
        &production,
        &format!(
            "set role \"{role}\"; create table seen (id int generated always as identity primary key, item text);
             create function see() returns trigger language plpgsql as $$ begin insert into seen (item) values (new.id); return null; end $$;
             create trigger sees after insert on items for each row execute function see();
             alter table items enable always trigger sees"
        ),
    );
    stage.commit("v2", &[RECEIPTS, SHELVES, WRITES_RECEIPTS, BAD]);
    let plan = stage.piton(&["plan", "production", "--json"]).expect(0).json();
    let load = stage.load("production").start().unwrap();
    let said = stage.piton(&["deploy", "production"]).expect(3);
    let report = stage.finish(load);
    said.says("every write is kept from here on")
        .says("way back: the golden copy with every later write, by itself")
        .says("the old structure is back, with every write since the backup (");
    assert_no_failures_but_of(&report, "v2");
    assert_back(stage);
    assert_eq!(stage.lost_writes(&report, &production), [""; 0]);
    let once = "select (select count(*) from seen) = count(*), count(*) > 20, (select max(tgenabled::text) from pg_trigger where tgname = 'sees'),
                (select max(attidentity::text) from pg_attribute where attrelid = 'seen'::regclass) from items where id like 'load-%'";
    assert_eq!(stage.sql(&production, once), ["t|t|A|a"]);
    assert!(report.acknowledged.len() > 20, "{}", report.acknowledged.len());
    plan
}

/// What is written in cents goes back in euros: `piton.toml` says how.
#[test]
fn a_bad_release_that_counts_in_another_unit_goes_back_by_itself_with_every_write() {
    let Some(mut stage) = following_stage() else { return };
    let (production, role) = (stage.database("production"), stage.role("production"));
    let prices = "alter table items add column price numeric(10, 2) not null default 1.5";
    stage.sql(&production, &format!("set role \"{role}\"; {prices}"));
    stage.configure(|settings| {
        settings.more = "[[database.down]]\nmigration = \"004_cents.sql\"\ntable = \"items\"\ncolumn = \"price\"\nis = \"price / 100\"\n\n\
             [[database.down]]\nmigration = \"001_items.sql\"\ntable = \"gone\"\ncolumn = \"price\"\nis = \"nothing\"\n"
            .into();
    });
    let cents = "alter table items alter price set default 250; update items set price = price * 100;";
    stage.commit("v2", &[Change::Migration("004_cents.sql", cents), BAD]);
    let plan = stage.piton(&["plan", "production", "--json"]).expect(0).stdout;
    assert!(plan.contains("items.price was price / 100") && !plan.contains("gone.price"), "{plan}");
    let load = stage.load("production").start().unwrap();
    let said = stage.piton(&["deploy", "production"]).expect(3);
    let report = stage.finish(load);
    said.says("way back: the golden copy with every later write, by itself")
        .says("the old structure is back, with every write since the backup (");
    assert_no_failures_but_of(&report, "v2");
    assert_eq!(stage.lost_writes(&report, &production), [""; 0]);
    let stands = "select price || ': ' || (count(*) > 5) from items group by price order by price";
    assert_eq!(stage.sql(&production, stands), ["1.50: true", "2.50: true"]);
}

/// Where nobody has said how, the rehearsal says what is to be written.
#[test]
fn a_column_that_means_something_else_is_told_with_the_lines_to_write() {
    let Some(stage) = following_stage() else { return };
    let lower = Change::Migration("004_upper.sql", "update items set note = upper(note) where id = 'old-1';");
    stage.commit("v2", &[lower]);
    let load = stage.load("production").start().unwrap();
    let said = stage.piton(&["deploy", "production", "--json"]).expect(0);
    assert_no_failures_but_of(&stage.finish(load), "no release");
    let release = said.json();
    said.says(
        r#"later writes do not go along: the migration changes what is in "public"."items"."note": 1 row"#,
    )
    .says("only a person can say; in piton.toml, for them to go along:")
    .says("migration = \"004_upper.sql\"")
    .says("table = \"public.items\"")
    .says("column = \"note\"");
    let steps = release["steps"].as_array().unwrap();
    let outcome = &steps.iter().find(|step| step["id"] == "rehearse").unwrap()["outcome"];
    assert_eq!(outcome["way_back"]["down"][0], "[[database.down]]");
    let report =
        stage.root().join(".piton/logs").join(release["release"].as_str().unwrap()).join("rehearsal.md");
    let report = std::fs::read_to_string(report).unwrap();
    assert!(
        report.contains("Later writes do not go along:\n\n- the migration changes what is in"),
        "{report}"
    );
    assert!(report.contains("column = \"note\""), "{report}");
}

/// What was written is known, and only has no meaning in the old structure: nobody is told that it cannot be seen.
#[test]
fn a_migration_that_stays_because_of_a_changed_meaning_says_so() {
    let Some(mut stage) = following_stage() else { return };
    let upper = Change::Migration("004_upper.sql", "update items set note = upper(note) where id = 'old-1';");
    let (deploy, load) = watched(&mut stage, &[upper]);
    let said = stage.piton(&["rollback", "production"]).expect(0);
    let said = said.says(
        r#"later writes could not be carried back: the migration changes what is in "public"."items"."note""#,
    );
    assert!(!said.stderr.contains("cannot be seen any more"), "{}", said.stderr);
    deploy.wait().expect(3);
    assert_no_failures_but_of(&stage.finish(load), "no release");
    let status = stage.piton(&["status", "production"]).expect(0).stdout;
    assert!(status.contains("later writes could not go along: the migration changes what is in"), "{status}");
}

#[test]
fn a_person_sends_a_release_back_and_is_not_asked_what_may_be_lost() {
    let Some(mut stage) = following_stage() else { return };
    let (deploy, load) = watched(&mut stage, &[RECEIPTS, SHELVES, WRITES_RECEIPTS]);
    let production = stage.database("production");
    let written = "select count(*) > 20 from receipts";
    stage.eventually("writes of the new release", || stage.sql(&production, written) == ["t"]);
    let said = stage.piton(&["rollback", "production", "--database"]).expect(0);
    said.says("the old structure is back, with every write since the backup (").says("for the next attempt");
    deploy.wait().expect(3);
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");
    assert_back(&stage);
    assert_eq!(stage.lost_writes(&report, &production), [""; 0]);
    // What the old structure has no place for is still there, and saved.
    let kept: Vec<String> = stage.databases().into_iter().filter(|name| *name != production).collect();
    let [kept] = &kept[..] else { panic!("{kept:?}") };
    let receipts = stage.sql(kept, "select item from receipts order by item");
    assert!(receipts.len() > 20, "{receipts:?}");

    // The next attempt brings the migration again, and what was written into it.
    stage.configure(|settings| settings.watch = "1s");
    stage.commit("v3", &[Change::Behaviour(|app| app.fails = 0.0)]);
    let load = stage.load("production").start().unwrap();
    let said = stage.piton(&["deploy", "production"]).expect(0);
    said.says("in again from an earlier attempt");
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");
    let now = stage.sql(&production, "select item from receipts order by item");
    let lost: Vec<&String> = receipts.iter().filter(|item| !now.contains(item)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let left = "select slot_name from pg_replication_slots";
    assert_eq!(stage.sql(&production, left), [""; 0]);
}

/// Killed behind the swap, at the latest moment, the way back tells what it would have told.
#[test]
fn a_way_back_that_is_killed_behind_the_swap_tells_what_came_of_it() {
    let Some(mut stage) = following_stage() else { return };
    let (deploy, load) = watched(&mut stage, &[RECEIPTS, SHELVES, WRITES_RECEIPTS]);
    let production = stage.database("production");
    stage.eventually("writes of the new release", || {
        stage.sql(&production, "select count(*) > 20 from receipts") == ["t"]
    });
    deploy.kill();
    let back = ["rollback", "production", "--database"];
    stage.piton_with_env(&back, &[("PITON_CRASH_AT", "undone migrate:before")]).expect(137);
    let release = stage.piton(&["resume", "production", "--json"]).expect(3).json();
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");
    assert_back(&stage);
    assert_eq!(stage.lost_writes(&report, &production), [""; 0]);
    let steps = release["steps"].as_array().unwrap();
    let outcome = &steps.iter().find(|step| step["id"] == "migrate").unwrap()["undo_outcome"];
    assert_eq!(outcome["rewound"], true);
    assert!(outcome["carried_back"].as_u64() > Some(20), "{outcome}");
    assert!(outcome["rescued"]["rows"].as_u64() > Some(20), "{outcome}");
    assert_eq!(outcome["aside"], serde_json::json!([]));
    assert_eq!(outcome["cut_off"], 0);
    assert!(outcome["replaced"].is_string() && outcome["bound"].is_array(), "{outcome}");
}

/// What is replaced without a loss is dropped; then nothing but the notes tells that it was there.
#[test]
fn a_way_back_that_is_killed_when_all_of_it_is_done_is_done() {
    let Some(stage) = following_stage() else { return };
    stage.commit("v2", &[RECEIPTS, SHELVES, WRITES_RECEIPTS, BAD]);
    let mut load = stage.load("production");
    load.writes = 0.0;
    let load = load.start().unwrap();
    let crash = [("PITON_CRASH_AT", "undone migrate:before")];
    stage.piton_with_env(&["deploy", "production"], &crash).expect(137);
    let release = stage.piton(&["resume", "production", "--json"]).expect(3).json();
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "v2");
    assert_back(&stage);
    let steps = release["steps"].as_array().unwrap();
    let outcome = &steps.iter().find(|step| step["id"] == "migrate").unwrap()["undo_outcome"];
    assert_eq!((&outcome["rewound"], &outcome["carried_back"]), (&true.into(), &0.into()), "{outcome}");
    assert_eq!(outcome["replaced"], Value::Null);
    assert_eq!(stage.databases(), [stage.database("production")]);
}

/// Nothing that a person may still need is forgotten because of a later release.
#[test]
fn every_kept_database_and_every_rescue_file_is_named() {
    let Some(mut stage) = following_stage() else { return };
    let production = stage.database("production");
    for (round, last) in [("first", false), ("second", true)] {
        let other = Change::File("round", round);
        let (deploy, load) = watched(&mut stage, &[RECEIPTS, SHELVES, WRITES_RECEIPTS, other]);
        stage.eventually("writes of the new release", || {
            stage.sql(&production, "select count(*) > 20 from receipts") == ["t"]
        });
        if last {
            let said = stage.piton(&["status", "production"]).expect(0).stdout;
            assert!(said.contains("way back: the golden copy with every later write, by itself"), "{said}");
        }
        stage.piton(&["rollback", "production", "--database"]).expect(0);
        deploy.wait().expect(3);
        stage.finish(load);
    }
    let status = stage.status("production");
    let kept: Vec<&str> =
        status["databases_kept"].as_array().unwrap().iter().filter_map(|name| name.as_str()).collect();
    let there: Vec<String> = stage.databases().into_iter().filter(|name| *name != production).collect();
    assert_eq!(kept.len(), 2);
    assert!(there.iter().all(|name| kept.contains(&name.as_str())), "{there:?} {kept:?}");
    let files = status["rescue_files"].as_array().unwrap();
    // The second release has loaded the first one's file, and saved it again with its own.
    assert!(
        !files.is_empty() && files.iter().all(|file| std::path::Path::new(file.as_str().unwrap()).exists())
    );
    let said = stage.piton(&["status", "production"]).expect(0).stdout;
    for name in kept.iter().copied().chain(files.iter().filter_map(|file| file.as_str())) {
        assert!(said.contains(name), "no `{name}` in\n{said}");
    }
    stage.sql("postgres", &format!("drop database \"{}\"", kept[0]));
    let said = stage.piton(&["status", "production"]).expect(0).stdout;
    assert!(!said.contains(kept[0]) && said.contains(kept[1]), "{said}");
}

/// What keeps a database from going back for a moment does not take the way back from who has asked for it.
#[test]
fn who_writes_past_the_proxy_keeps_the_database_waiting_for_a_word() {
    let Some(mut stage) = following_stage() else { return };
    let (deploy, load) = watched(&mut stage, &[RECEIPTS, SHELVES, WRITES_RECEIPTS]);
    let production = stage.database("production");
    std::thread::scope(|scope| {
        let past = "begin; update items set note = 'past' where id = 'old-1'; select pg_sleep(20); commit";
        let writer = scope.spawn(|| stage.sql(&production, past));
        let sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        stage.eventually("somebody writes", || stage.sql("postgres", sleeps) == ["1"]);
        let said = stage.piton(&["rollback", "production", "--database"]).expect(4);
        said.says("somebody writes to the database past the proxy").says("--database --yes puts it back");
        writer.join().unwrap();
    });
    deploy.wait().expect(4);
    let said = stage.piton(&["rollback", "production", "--database", "--yes"]).expect(0);
    said.says("the old structure is back, with every write since the backup (");
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");
    assert_back(&stage);
    assert_eq!(stage.lost_writes(&report, &production), [""; 0]);
    assert_eq!(stage.sql(&production, "select note from items where id = 'old-1'"), ["past"]);
}

/// What the old structure does not hold as it was written last is told, when a person has the database back all the same.
#[test]
fn a_row_that_does_not_fit_any_more_is_told_with_the_file_that_holds_it() {
    let Some(mut stage) = following_stage() else { return };
    let (production, role) = (stage.database("production"), stage.role("production"));
    let setup = "create table stock (id int primary key, n int); insert into stock select g, g from generate_series(1, 9) g";
    stage.sql(&production, &format!("set role \"{role}\"; {setup}"));
    let bigger = Change::Migration("002_bigger.sql", "alter table stock alter n type bigint");
    let (deploy, load) = watched(&mut stage, &[bigger]);
    stage.sql(
        &production,
        "update stock set n = 5000000000 where id < 3; update stock set n = 10 where id = 3",
    );
    deploy.kill();
    stage
        .piton(&["rollback", "production", "--database"])
        .expect(4)
        .says("2 rows do not fit the old structure as written since");
    let said = stage.piton(&["rollback", "production", "--database", "--yes", "--json"]).expect(0);
    let release = said.json();
    let steps = release["steps"].as_array().unwrap();
    let older = &steps.iter().find(|step| step["id"] == "migrate").unwrap()["undo_outcome"]["older"];
    assert_eq!(
        (&older[0]["table"], &older[0]["rows"]),
        (&r#""public"."stock""#.into(), &2.into()),
        "{older}"
    );
    let file = older[0]["file"].as_str().unwrap();
    said.says("the live database has 2 rows as before, or not at all").says(file);
    let rescued = std::fs::read_to_string(file).unwrap();
    assert_eq!(rescued.matches("5000000000").count(), 2, "{rescued}");
    stage.finish(load);
    let stands = "select string_agg(n::text, ' ' order by id) from stock where id < 4";
    assert_eq!(stage.sql(&production, stands), ["1 2 10"]);
}

/// A table without a key is followed as well: its log tells whole rows meanwhile.
#[test]
fn a_table_without_a_key_goes_back_with_its_changes() {
    let Some(mut stage) = following_stage() else { return };
    let production = stage.database("production");
    let role = stage.role("production");
    let setup = "create table tags (item text, tag text); insert into tags select 'i' || n % 5, 't' || n from generate_series(1, 20) n";
    stage.sql(&production, &format!("set role \"{role}\"; {setup}"));
    let (deploy, load) = watched(
        &mut stage,
        &[Change::Migration(
            "002_labels.sql",
            "alter table tags rename to labels; alter table labels add note text",
        )],
    );
    stage.sql(
        &production,
        "update labels set tag = 'changed' where item = 'i1'; delete from labels where item = 'i2'; insert into labels values ('i9', 't9', 'n'), (null, null, 'n');
         update labels set tag = 'was null' where item is null",
    );
    stage
        .piton(&["rollback", "production", "--database"])
        .expect(0)
        .says("the old structure is back, with every write since the backup (");
    deploy.wait().expect(3);
    stage.finish(load);
    let rows = "select string_agg(coalesce(item, '-') || ' ' || tag, ', ' order by item, tag) from tags where item is null or item in ('i1', 'i2', 'i9')";
    let wanted = "i1 changed, i1 changed, i1 changed, i1 changed, i9 t9, - was null";
    assert_eq!(stage.sql(&production, rows), [wanted]);
    let identity = "select relreplident::text from pg_class where relname = 'tags'";
    assert_eq!(stage.sql(&production, identity), ["d"]);
}

/// Nobody finds out only when the way back is needed.
#[test]
fn a_golden_copy_that_does_not_follow_is_told_once_and_so_is_that_it_does_again() {
    let Some(mut stage) = following_stage() else { return };
    let (deploy, load) = watched(&mut stage, &[RECEIPTS, SHELVES, WRITES_RECEIPTS]);
    let role = stage.role("production");
    stage.sql("postgres", &format!("alter role \"{role}\" noreplication"));
    stage.sql("postgres", "select pg_terminate_backend(active_pid) from pg_replication_slots where active");
    let behind = || stage.status("production")["release"]["behind"].clone();
    stage.eventually("it is told", || behind().is_string());
    let said = stage.piton(&["status", "production"]).expect(0).stdout;
    assert!(said.contains("the golden copy does not follow the live database: "), "{said}");
    // It is tried a few times more, and not told again.
    std::thread::sleep(std::time::Duration::from_secs(12));
    stage.sql("postgres", &format!("alter role \"{role}\" replication"));
    stage.eventually("it follows again", || behind().is_null());
    let said = deploy.said();
    assert_eq!(said.matches("the golden copy does not follow the live database: ").count(), 1, "{said}");
    assert_eq!(said.matches("the golden copy follows the live database again").count(), 1, "{said}");
    let events = stage.events("production");
    let of = |kind: &str| events.iter().filter(|event| event["event"]["event"] == kind).count();
    assert_eq!((of("behind"), of("caught_up")), (1, 1));
    stage
        .piton(&["rollback", "production", "--database"])
        .expect(0)
        .says("the old structure is back, with every write since the backup (");
    deploy.wait().expect(3);
    let report = stage.finish(load);
    assert_eq!(stage.lost_writes(&report, &stage.database("production")), [""; 0]);
}

/// A reader that is ended while it catches up reads on: a server that is away for a moment is no reason to stand.
#[test]
fn a_reader_that_is_ended_while_it_catches_up_reads_on() {
    let Some(mut stage) = following_stage() else { return };
    let (deploy, load) = watched(&mut stage, &[RECEIPTS, SHELVES, WRITES_RECEIPTS]);
    let production = stage.database("production");
    std::thread::scope(|scope| {
        // The one in the background first, and then the one that catches up.
        let ends = "do $$ declare n int := 0; begin for i in 1..60000 loop
                        perform pg_terminate_backend(active_pid) from pg_replication_slots where active_pid is not null;
                        if found then n := n + 1; perform pg_sleep(0.2); end if;
                        exit when n = 2;
                        perform pg_sleep(0.001);
                    end loop; end $$";
        let ender = scope.spawn(|| stage.sql("postgres", ends));
        let reads = "select count(*) from pg_replication_slots where active";
        stage.eventually("the reader is ended", || stage.sql(&production, reads) == ["0"]);
        for _ in 0..20 {
            stage.sql(&production, "update items set shelf = shelf + 1");
        }
        stage
            .piton(&["rollback", "production", "--database"])
            .expect(0)
            .says("the old structure is back, with every write since the backup (");
        ender.join().unwrap();
    });
    deploy.wait().expect(3);
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");
    assert_eq!(stage.lost_writes(&report, &production), [""; 0]);
}

/// The disk of the app's database is not filled by what waits to be followed.
#[test]
fn a_full_store_of_writes_stops_the_release_and_not_the_app() {
    let Some(mut stage) = noting_stage() else { return };
    let (deploy, load) = watched(&mut stage, &[RECEIPTS, SHELVES, WRITES_RECEIPTS]);
    stage.sql(&stage.database("production"), "update piton_capture.state set budget = 1");
    let said = deploy.wait().expect(4);
    said.says("the store of writes has grown beyond its budget");
    stands_and_goes_back_in_code(&stage, load, "the store of writes has grown beyond its budget");
}

#[test]
fn a_log_that_the_server_has_let_go_stops_the_release_and_not_the_app() {
    let Some(mut stage) = following_stage() else { return };
    let (deploy, load) = watched(&mut stage, &[RECEIPTS, SHELVES, WRITES_RECEIPTS]);
    stage.sql("postgres", "alter system set max_slot_wal_keep_size = '16MB'");
    stage.sql("postgres", "select pg_reload_conf()");
    let production = stage.database("production");
    let waste = "select pg_terminate_backend(active_pid) from pg_replication_slots;
                 select count(pg_logical_emit_message(false, 'waste', repeat('x', 1000000))) from generate_series(1, 40)";
    // A reader that was ended comes back some seconds later.
    stage.eventually("the slot is lost", || {
        stage.sql(&production, waste);
        stage.sql("postgres", "checkpoint");
        stage.sql(&production, "select wal_status from pg_replication_slots") == ["lost"]
    });
    deploy.wait().expect(4).says("the server has let go of the log that it had to keep");
    stands_and_goes_back_in_code(&stage, load, "the server has let go of the log that it had to keep");
}

/// Wants the app to be as well as before; the migration has no way back with later writes any more, and stays.
fn stands_and_goes_back_in_code(stage: &Stage, load: Running, why: &str) {
    let writes = load.snapshot().acknowledged_writes;
    stage.eventually("writes go on", || load.snapshot().acknowledged_writes > writes + 10);
    let why = format!("later writes could not be carried back: {why}");
    let said = stage.piton(&["rollback", "production"]).expect(0).says("the migration stays").says(&why);
    assert!(!said.stderr.contains("cannot be seen any more"), "{}", said.stderr);
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");
    assert_eq!(stage.lost_writes(&report, &stage.database("production")), [""; 0]);
    assert_nothing_is_kept(stage, "back");
}
