//! Migrations that go back in place by their own down migrations, where neither a log nor triggers tell later writes.

use crate::common::{
    BAD, RECEIPTS, WRITES_RECEIPTS, assert_no_failures_but_of, is_of_this_half, stage, watched,
};
use piton_testkit::stage::{Change, Output, Stage};
use piton_testkit::tools::{self, FROM_ENVIRONMENT};
use serde_json::Value;

const NO_RECEIPTS: Change<'static> = Change::File("migrations/002_receipts.down.sql", "drop table receipts;");

/// A migration of the app's own table, and of one that nobody writes to.
const SHELVES: Change<'static> = Change::Migration(
    "003_shelves.sql",
    "alter table items add column shelf int not null default 1; alter table items alter column note type varchar(400);
     create index on items (created); alter table tags drop column tag;",
);

const NO_SHELVES: Change<'static> = Change::File(
    "migrations/003_shelves.down.sql",
    "alter table items drop column shelf; alter table items alter column note type text; drop index items_created_idx;
     alter table tags add column tag text;",
);

fn as_the_app(stage: &Stage, sql: &str) {
    let role = stage.role("production");
    stage.sql(&stage.database("production"), &format!("set role \"{role}\"; {sql}"));
}

/// A stage on which production runs `v1`, with a table that the migration of [`SHELVES`] takes a column from.
///
/// It has a server of its own: where another database's transaction is open while a backup is made, what was written after that
/// transaction's beginning is taken for written since the backup.
fn with_tags() -> Option<Stage> {
    let stage = Stage::set_with_own_server(env!("CARGO_BIN_EXE_piton"))?;
    stage.deploy("production");
    as_the_app(
        &stage,
        "create table tags (id int primary key, tag text);
         insert into tags select n, 't' || n from generate_series(1, 20) n; update tags set tag = null where id = 7",
    );
    Some(stage)
}

#[track_caller]
fn assert_back(stage: &Stage) {
    let production = stage.database("production");
    let columns = "select table_name || '.' || column_name from information_schema.columns
                   where table_name in ('items', 'receipts', 'tags') order by 1";
    let wanted = ["items.created", "items.id", "items.note", "tags.id", "tags.tag"];
    assert_eq!(stage.sql(&production, columns), wanted);
    let tags = "select count(*) from tags where tag = 't' || id or id = 7 and tag is null";
    assert_eq!(stage.sql(&production, tags), ["20"]);
    let left = "select nspname::text from pg_namespace where nspname = 'piton_reverse'
                union all select tgname::text from pg_trigger where not tgisinternal";
    assert_eq!(stage.sql(&production, left), [""; 0]);
    let recorded = "select name from piton.migrations where name > '002' order by 1";
    assert_eq!(stage.sql(&production, recorded), [""; 0]);
}

/// The outcome of the step's way back.
fn undone(stage: &Stage) -> Value {
    let events = stage.events("production");
    let undone = events
        .iter()
        .rfind(|event| event["event"]["event"] == "undone" && event["event"]["step"] == "migrate");
    undone.unwrap()["event"]["outcome"].clone()
}

/// The next attempt brings the migration again, and what was written into its new table.
fn comes_again(stage: &Stage, receipts: &[String]) {
    stage.commit("v3", &[Change::Behaviour(|app| app.fails = 0.0)]);
    let load = stage.load("production").start().unwrap();
    let said = stage.piton(&["deploy", "production"]).expect(0);
    said.says("in again from an earlier attempt");
    assert_no_failures_but_of(&stage.finish(load), "no release");
    let now = stage.sql(&stage.database("production"), "select item from receipts order by item");
    let lost: Vec<&String> = receipts.iter().filter(|item| !now.contains(item)).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

/// The items of the receipts in the only rescue file.
fn rescued(stage: &Stage) -> Vec<String> {
    let folder = stage.root().join(".piton/environments/production/rescued");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
    let receipts = lines.filter(|line| line["table"] == "receipts");
    receipts.map(|line| line["values"]["item"].as_str().unwrap().to_owned()).collect()
}

fn goes_back_by_itself(stage: &Stage) -> Output {
    let load = stage.load("production").start().unwrap();
    let said = stage.piton(&["deploy", "production"]).expect(3);
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "v2");
    assert_eq!(stage.lost_writes(&report, &stage.database("production")), [""; 0]);
    assert!(report.acknowledged.len() > 20, "{}", report.acknowledged.len());
    said
}

#[test]
fn a_bad_release_is_taken_back_by_its_down_migrations() {
    let Some(stage) = with_tags() else { return };
    stage.commit("v2", &[RECEIPTS, NO_RECEIPTS, SHELVES, NO_SHELVES, WRITES_RECEIPTS, BAD]);
    let said = goes_back_by_itself(&stage);
    said.says("then the down migration, with 1 column filled again from the backup, by itself")
        .says("taken back by its down migration, with every row; 19 rows filled again from the backup")
        .says("for the next attempt");
    assert_back(&stage);
    assert_eq!(stage.databases(), [stage.database("production")]);
    let receipts = rescued(&stage);
    assert_eq!(undone(&stage)["differs"], serde_json::json!([]));
    comes_again(&stage, &receipts);
}

#[test]
fn a_person_who_asks_for_the_database_is_not_asked_what_may_be_lost() {
    let Some(mut stage) = is_of_this_half().then(with_tags).flatten() else { return };
    let changes = [RECEIPTS, NO_RECEIPTS, SHELVES, NO_SHELVES, WRITES_RECEIPTS];
    let (deploy, load) = watched(&mut stage, &changes);
    let production = stage.database("production");
    let written = "select count(*) > 20 from receipts";
    stage.eventually("writes of the new release", || stage.sql(&production, written) == ["t"]);
    as_the_app(&stage, "update items set shelf = 7 where id = (select min(id) from items)");
    let said = stage.piton(&["rollback", "production", "--database"]).expect(0);
    said.says("taken back by its down migration");
    deploy.wait().expect(3);
    let report = stage.finish(load);
    assert_no_failures_but_of(&report, "no release");
    assert_back(&stage);
    assert_eq!(stage.lost_writes(&report, &production), [""; 0]);
    let receipts = rescued(&stage);
    assert!(receipts.len() > 20, "{receipts:?}");
    stage.configure(|settings| settings.watch = "1s");
    comes_again(&stage, &receipts);
    assert_eq!(stage.sql(&production, "select count(*) from items where shelf = 7"), ["1"]);
}

#[test]
fn a_way_back_that_was_killed_ends_as_it_would_have() {
    for point in ["noted migrate:before", "noted migrate:after", "undone migrate:before"] {
        let Some(stage) = is_of_this_half().then(with_tags).flatten() else { return };
        stage.commit("v2", &[RECEIPTS, NO_RECEIPTS, SHELVES, NO_SHELVES]);
        stage
            .piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done migrate:after")])
            .expect(137);
        as_the_app(
            &stage,
            "insert into receipts (item) select id from items limit 3; update items set note = 'late' where id = (select min(id) from items)",
        );
        stage.piton_with_env(&["abort", "production"], &[("PITON_CRASH_AT", point)]).expect(137);
        // Nobody is kept from writing by whoever died.
        as_the_app(&stage, "update items set note = 'later' where id = (select max(id) from items)");
        stage.piton(&["resume", "production"]).expect(3).says("taken back by its down migration");
        assert_back(&stage);
        let late = "select count(*) from items where note in ('late', 'later')";
        assert_eq!(stage.sql(&stage.database("production"), late), ["2"], "{point}");
        assert_eq!(rescued(&stage).len(), 3, "{point}");
    }
}

/// Why the rehearsal says that a down migration is no way back.
fn refused(stage: &Stage, name: &str, up: &str, down: &str) -> String {
    stage.commit(
        "v2",
        &[
            Change::Migration(&format!("{name}.sql"), up),
            Change::File(&format!("migrations/{name}.down.sql"), down),
        ],
    );
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done rehearse:after")]).expect(137);
    let events = stage.events("production");
    let rehearsed = events
        .iter()
        .rfind(|event| event["event"]["event"] == "done" && event["event"]["step"] == "rehearse");
    let way_back = rehearsed.unwrap()["event"]["outcome"]["way_back"].clone();
    stage.piton(&["abort", "production"]).expect(0);
    stage.remove(&format!("migrations/{name}.sql"));
    stage.remove(&format!("migrations/{name}.down.sql"));
    assert_eq!(way_back["rung"], "golden-copy", "{way_back}");
    way_back["not_reversed"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_down_migration_that_would_lose_something_is_no_way_back() {
    let Some(stage) = with_tags() else { return };
    for (up, down, why) in [
        (
            "create table a (id int primary key)",
            "select 1",
            "after the down migration column public.a.id was added: integer not null",
        ),
        (
            "alter table tags drop column tag",
            "alter table tags add column tag varchar(9)",
            "public.tags.tag was `text",
        ),
        (
            "drop table tags",
            "create table tags (id int primary key, tag text)",
            "it removes \"public\".\"tags\"",
        ),
        (
            "update items set note = upper(note) || '!'",
            "update items set note = lower(left(note, -1))",
            "it changes or removes",
        ),
        (
            "alter table items add more int",
            "alter table items drop more; delete from items where note = 'none'",
            "removes rows of \"public\".\"items\"",
        ),
        (
            "alter table items add more int",
            "alter table items drop more; update items set note = 'x' where false",
            "changes rows of \"public\".\"items\"",
        ),
        (
            "alter table tags alter id type text using id::text",
            "alter table tags alter id type int using id::int",
            "no row shows what becomes of a later value",
        ),
        ("create table a (n int)", "drop table a", "the new table \"public\".\"a\" has no key"),
        (
            "alter table items add more int",
            "alter table items drop mor",
            "column \"mor\" of relation \"items\" does not exist",
        ),
        (
            "create index on items (note)",
            "drop index concurrently items_note_idx",
            "does not surely run in one transaction",
        ),
        (
            "update tags set id = id; alter table tags drop column tag",
            "alter table tags add column tag text",
            "it writes rows of",
        ),
    ] {
        let said = refused(&stage, "002_more", up, down);
        assert!(said.contains(why), "{down}: {said}");
    }
}

#[test]
fn what_would_be_lost_on_the_live_database_keeps_the_migration() {
    let Some(stage) = is_of_this_half().then(with_tags).flatten() else { return };
    let production = stage.database("production");
    let late = "update items set note = 'late' where id = (select min(id) from items);";
    for (up, down, meanwhile, why) in [
        (
            "alter table tags drop column tag",
            "alter table tags add column tag text",
            "update tags set tag = 'late' where id = 3",
            "somebody wrote to \"public\".\"tags\" since the backup",
        ),
        (
            "alter table tags alter id type bigint",
            "alter table tags alter id type int",
            "",
            "does not fit its type of before, integer",
        ),
    ] {
        stage.commit(
            "v2",
            &[Change::Migration("002_more.sql", up), Change::File("migrations/002_more.down.sql", down)],
        );
        stage
            .piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done rehearse:after")])
            .expect(137);
        as_the_app(&stage, &format!("{late} {meanwhile}"));
        stage
            .piton_with_env(&["resume", "production"], &[("PITON_CRASH_AT", "done migrate:after")])
            .expect(137);
        if meanwhile.is_empty() {
            as_the_app(&stage, "insert into tags values (5000000000)");
        }
        stage.piton(&["abort", "production"]).expect(0).says("the migration stays").says(why);
        let left = "select nspname::text from pg_namespace where nspname = 'piton_reverse'";
        assert_eq!(stage.sql(&production, left), [""; 0]);
        as_the_app(
            &stage,
            &format!(
                "delete from tags where id > 20; {down}; delete from piton.migrations where name > '002'"
            ),
        );
    }
}

/// Runs `piton` with the tools in its `PATH`, and perhaps killed at a point of the journal.
fn with_tools(stage: &Stage, args: &[&str], killed_at: Option<&str>) -> Output {
    let path = tools::path(&[]);
    let killed = killed_at.map(|point| ("PITON_CRASH_AT", point));
    let env: Vec<(&str, &str)> = [("PATH", path.as_str())].into_iter().chain(killed).collect();
    stage.piton_with_env(args, &env)
}

const ITEMS: &str = "create table items (id text primary key, note text not null, created timestamptz not null default now())";

const TAGS: &str = "create table tags (id int primary key, tag text not null, kind text default 'k'); insert into tags values (1, 'a', 'b'), (2, 'c', 'k')";

/// What the release of each tool does, and how it goes back.
const UP: &str = "create table receipts (id serial primary key, item text not null); alter table tags drop column kind; alter table items add more int; alter table items alter note drop not null";
const DOWN: &str = "drop table receipts; alter table tags add column kind text default 'k'; alter table items drop more; alter table items alter note set not null";

/// Two releases of an app whose tool takes them back: one goes back, one cannot.
fn a_tool_takes_it_back(stage: &Stage, write: &dyn Fn(&Stage), applied: &str) {
    let production = stage.database("production");
    write(stage);
    stage.commit("v2", &[]);
    with_tools(stage, &["deploy", "production"], Some("done migrate:after")).expect(137);
    as_the_app(
        stage,
        "insert into receipts (item) values ('r'); insert into items values ('late', 'n', now(), 7)",
    );
    with_tools(stage, &["abort", "production"], Some("noted migrate:after")).expect(137);
    let said = with_tools(stage, &["resume", "production"], None).expect(3);
    said.says("taken back by its down migration, with every row; 1 row filled again from the backup");
    assert_eq!(
        stage.sql(&production, "select string_agg(id || tag || kind, ' ' order by id) from tags"),
        ["1ab 2ck"]
    );
    assert_eq!(stage.sql(&production, "select note from items where id = 'late'"), ["n"]);
    assert_eq!(rescued(stage), ["r"]);

    // A later row that does not go back leaves all as it is, and the record with it.
    stage.commit("v3", &[]);
    with_tools(stage, &["deploy", "production"], Some("done migrate.rescued:after")).expect(137);
    assert_eq!(stage.sql(&production, "select item from receipts"), ["r"]);
    assert_eq!(stage.sql(&production, "select more from items where id = 'late'"), ["7"]);
    as_the_app(stage, "insert into items values ('later', null)");
    let said = with_tools(stage, &["abort", "production"], None).expect(0);
    said.says("the migration stays")
        .says("nor was it taken back by its down migration")
        .says("nothing of it was kept");
    let listed = with_tools(stage, &["migration", "production", "--json"], None).expect(0).json();
    let last = listed["migrations"].as_array().unwrap().iter().find(|one| one["name"] == applied);
    assert_eq!(last.unwrap()["state"], "applied", "{listed}");
    assert_eq!(stage.sql(&production, "select count(*) from receipts"), ["1"]);
}

#[test]
fn golang_migrate_takes_its_migration_back() {
    if !tools::is_there("golang-migrate/migrate") {
        return;
    }
    let Some(mut stage) = stage() else { return };
    stage.configure(|settings| settings.database = "migrations = \"golang-migrate\"".into());
    stage.write("migrations/1_items.up.sql", &format!("{ITEMS}; {TAGS}"));
    stage.commit("v1", &[]);
    with_tools(&stage, &["deploy", "production"], None).expect(0);
    let write = |stage: &Stage| {
        stage.write("migrations/2_receipts.up.sql", UP);
        stage.write("migrations/2_receipts.down.sql", DOWN);
    };
    a_tool_takes_it_back(&stage, &write, "2_receipts");
}

#[test]
fn alembic_takes_its_revision_back() {
    if !tools::is_there("python/bin/alembic") {
        return;
    }
    let Some(mut stage) = stage() else { return };
    stage.configure(|settings| settings.database = "migrations = \"alembic\"".into());
    stage.write("alembic.ini", "[alembic]\nscript_location = alembic\n");
    stage.write("alembic/env.py", &tools::alembic_env(FROM_ENVIRONMENT));
    let revision = |stage: &Stage, name: &str, before: Option<&str>, up: &str, down: &str| {
        let up = tools::alembic_revision(name, before, &format!("op.execute(\"\"\"{up}\"\"\")"));
        let text = format!("{up}\n\ndef downgrade():\n    op.execute(\"\"\"{down}\"\"\")\n");
        stage.write(&format!("alembic/versions/{name}.py"), &text);
    };
    revision(&stage, "one", None, &format!("{ITEMS}; {TAGS}"), "drop table items, tags");
    stage.commit("v1", &[]);
    with_tools(&stage, &["deploy", "production"], None).expect(0);
    a_tool_takes_it_back(&stage, &|stage| revision(stage, "two", Some("one"), UP, DOWN), "two");
}
