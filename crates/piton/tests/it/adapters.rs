//! Whole releases whose migrations a tool of the app's own applies.

use std::path::Path;

use piton_testkit::stage::{Change, Output, Stage};
use piton_testkit::tools::{self, FROM_ENVIRONMENT};

use crate::common::{assert_no_failures_but_of, stage_in_turn};

/// Runs `piton` with the tools in its `PATH`.
fn piton(stage: &Stage, args: &[&str]) -> Output {
    stage.piton_with_env(args, &[("PATH", &tools::path(&[]))])
}

/// As [`piton`], killed at a point of the journal.
fn killed(stage: &Stage, args: &[&str], point: &str) {
    stage.piton_with_env(args, &[("PATH", &tools::path(&[])), ("PITON_CRASH_AT", point)]).expect(137);
}

/// Releases to production while people ask, because a gate judges answers.
fn under_load(stage: &Stage) -> Output {
    let load = stage.load("production").start().unwrap();
    let deployed = piton(stage, &["deploy", "production"]).expect(0);
    assert_no_failures_but_of(&stage.finish(load), "no release");
    deployed
}

fn states(stage: &Stage) -> Vec<String> {
    let listed = piton(stage, &["migration", "production", "--json"]).expect(0).json();
    let one = |one: &serde_json::Value| {
        format!("{} {}", one["name"].as_str().unwrap(), one["state"].as_str().unwrap())
    };
    listed["migrations"].as_array().unwrap().iter().map(one).collect()
}

/// The programs that ran in a release, as the journal has them.
fn ran(stage: &Stage) -> Vec<String> {
    let events = stage.events("production").into_iter();
    events.filter_map(|event| event["event"]["command"].as_str().map(str::to_owned)).collect()
}

fn has_table(stage: &Stage, table: &str) -> bool {
    let sql = format!("select to_regclass('{table}') is not null");
    stage.sql(&stage.database("production"), &sql) == ["t"]
}

/// The table that the stage's app needs.
const ITEMS: &str = "create table items (id text primary key, note text not null, created timestamptz not null default now())";

fn revision(stage: &Stage, name: &str, before: Option<&str>, sql: &str) {
    let text = tools::alembic_revision(name, before, &format!("op.execute(\"\"\"{sql}\"\"\")"));
    stage.write(&format!("alembic/versions/{name}.py"), &text);
}

/// A stage whose first commit brings its table by Alembic.
fn alembic_stage() -> Option<Stage> {
    if !tools::is_there("python/bin/alembic") {
        return None;
    }
    let mut stage = stage_in_turn()?;
    stage.configure(|settings| settings.database = "migrations = \"alembic\"".into());
    stage.write("alembic.ini", "[alembic]\nscript_location = alembic\n");
    stage.write("alembic/env.py", &tools::alembic_env(FROM_ENVIRONMENT));
    revision(&stage, "one", None, ITEMS);
    stage.commit("v1", &[]);
    piton(&stage, &["deploy", "production"]).expect(0);
    Some(stage)
}

#[test]
fn a_release_with_alembic_goes_forth_and_back() {
    let Some(stage) = alembic_stage() else { return };
    assert_eq!(states(&stage), ["one applied"]);
    let ran_at_first = ran(&stage);
    assert!(ran_at_first.iter().any(|command| command.ends_with("alembic upgrade one")), "{ran_at_first:?}");

    // The app never becomes ready: the table goes, and Alembic's own record with it.
    revision(&stage, "two", Some("one"), "create table receipts (n int); insert into receipts values (1)");
    revision(&stage, "three", Some("two"), "alter table receipts add more int");
    stage.commit("v2", &[Change::Behaviour(|app| app.exits = true)]);
    let plan = piton(&stage, &["plan", "production"]).expect(0).stdout;
    assert!(plan.contains("two, three"), "{plan}");
    let commands = piton(&stage, &["plan", "production", "--commands"]).expect(0).stdout;
    assert!(commands.contains("alembic upgrade EACH"), "{commands}");
    let said = piton(&stage, &["deploy", "production"]).expect(3);
    said.says("rewound to the backup");
    assert!(!has_table(&stage, "receipts"));
    assert_eq!(stage.sql(&stage.database("production"), "select version_num from alembic_version"), ["one"]);
    assert_eq!(stage.databases(), [stage.database("production")], "nothing is kept beside it");

    stage.commit("v3", &[Change::Behaviour(|app| app.exits = false)]);
    under_load(&stage).says("two, three");
    assert_eq!(states(&stage), ["one applied", "two applied", "three applied"]);
    // Twice: on the copy, and live.
    let ran = ran(&stage);
    assert_eq!(ran.iter().filter(|command| command.ends_with("alembic upgrade two")).count(), 2, "{ran:?}");

    // What came after the backup makes one fail that runs outside of a transaction: Alembic's record does not tell.
    let outside = "with op.get_context().autocommit_block():
        op.execute('create table half (n int)')
        op.execute(\"alter table items add check (note <> 'same')\")";
    stage.write("alembic/versions/four.py", &tools::alembic_revision("four", Some("three"), outside));
    stage.commit("v4", &[]);
    killed(&stage, &["deploy", "production"], "noted migrate:after");
    let aborted = piton(&stage, &["abort", "production"]).expect(0);
    assert!(!aborted.stderr.contains("stays"), "what was not begun left nothing: {}", aborted.stderr);
    killed(&stage, &["deploy", "production"], "done rehearse:after");
    let production = stage.database("production");
    stage.sql(&production, "insert into items values ('late', 'same')");
    let said = piton(&stage, &["resume", "production"]).expect(3);
    let said = said.says("look at what four has left").says("the migration stays, four perhaps in part");
    said.says("once it is completed by hand, piton migration production four --applied says so");
    stage.sql(&production, "update items set note = id; alter table items add check (note <> 'same')");
    piton(&stage, &["migration", "production", "four", "--applied"]).expect(0);
    assert_eq!(states(&stage).last().unwrap(), "four applied");

    // A commit that has not got the last of them.
    stage.remove("alembic/versions/four.py");
    stage.commit("v5", &[]);
    piton(&stage, &["deploy", "production"])
        .expect(2)
        .says("production's database holds a migration that this commit has not")
        .says("the migration four")
        .says("--ref");
}

#[test]
fn what_a_run_has_surely_left_nothing_of_is_not_rewound_whatever_the_structure_could_show() {
    if !tools::is_there("golang-migrate/migrate") {
        return;
    }
    let Some(mut stage) = stage_in_turn() else { return };
    stage.configure(|settings| settings.database = "migrations = \"golang-migrate\"".into());
    stage.write("migrations/1_items.up.sql", ITEMS);
    stage.commit("v1", &[]);
    piton(&stage, &["deploy", "production"]).expect(0);
    let back =
        "alter table items alter note drop not null, alter note set not null, add check (note <> 'same')";
    stage.write("migrations/2_check.up.sql", back);
    stage.commit("v2", &[]);
    killed(&stage, &["deploy", "production"], "done rehearse:after");
    // After the backup: a rewind would lose it.
    stage.sql(&stage.database("production"), "insert into items values ('late', 'same')");
    piton(&stage, &["resume", "production"])
        .expect(3)
        .says("nothing of it was kept")
        .says("nothing had been applied");
    assert_eq!(states(&stage), ["1_items applied", "2_check pending"]);
}

#[test]
fn a_release_whose_alembic_has_an_address_of_its_own_goes_back() {
    let Some(stage) = alembic_stage() else { return };
    let live = format!("\"{}\"", stage.url("production"));
    stage.write("alembic/env.py", &tools::alembic_env(&live));
    revision(&stage, "two", Some("one"), "create table receipts (n int)");
    stage.commit("v2", &[]);
    piton(&stage, &["deploy", "production"])
        .expect(3)
        .says("failed on a copy")
        .says("did not ask the database that DATABASE_URL names")
        .says("let env.py take its URL from os.environ")
        .says("production was not touched");
    assert!(!has_table(&stage, "receipts"));
    assert_eq!(states(&stage), ["one applied", "two pending"]);
}

#[test]
fn a_migration_that_reaches_beyond_its_copy_ends_with_the_rehearsal() {
    let Some(stage) = alembic_stage() else { return };
    revision(&stage, "two", Some("one"), "alter role current_user set statement_timeout to \'1h\'");
    stage.commit("v2", &[]);
    piton(&stage, &["deploy", "production"])
        .expect(3)
        .says("the rehearsal changed what all databases of the server share")
        .says(&format!("the role {} was changed", stage.role("production")))
        .says("take it out of the migration");
    assert_eq!(states(&stage), ["one applied", "two pending"]);
}

#[test]
fn what_packages_of_django_bring_is_rehearsed_and_goes_back() {
    if !tools::is_there("python/bin/django-admin") {
        return;
    }
    let Some(mut stage) = stage_in_turn() else { return };
    stage.configure(|settings| settings.database = "migrations = \"django\"".into());
    let settings = |packages: &[&str]| tools::django_settings(FROM_ENVIRONMENT, packages);
    stage.write("settings.py", &settings(&[]));
    stage.write("manage.py", tools::DJANGO_MANAGE);
    stage.write("shop/__init__.py", "");
    stage.write("shop/migrations/__init__.py", "");
    let operation = format!("migrations.RunSQL(\"\"\"{ITEMS}\"\"\")");
    stage.write("shop/migrations/0001_items.py", &tools::django_migration(None, "", &operation));
    stage.commit("v1", &[]);
    piton(&stage, &["deploy", "production"]).expect(0);
    assert_eq!(states(&stage), ["shop.0001_items applied"]);

    // The app's own folder has nothing new.
    stage.write("settings.py", &settings(&["django.contrib.contenttypes"]));
    stage.commit("v2", &[Change::Behaviour(|app| app.exits = true)]);
    let plan = piton(&stage, &["plan", "production"]).expect(0).stdout;
    assert!(!plan.contains("none is pending"), "{plan}");
    let said = piton(&stage, &["deploy", "production"]).expect(3);
    said.says("contenttypes.0001_initial").says("rewound to the backup");
    assert!(!has_table(&stage, "django_content_type"));
    assert_eq!(states(&stage), ["shop.0001_items applied"]);
    assert_eq!(stage.databases(), [stage.database("production")], "nothing is kept beside it");

    stage.commit("v3", &[Change::Behaviour(|app| app.exits = false)]);
    under_load(&stage).says("contenttypes.0001_initial");
    assert!(has_table(&stage, "django_content_type"));
}

#[test]
fn what_a_tool_was_doing_when_piton_was_killed_is_not_committed_later() {
    let Some(stage) = alembic_stage() else { return };
    revision(&stage, "two", Some("one"), "create table receipts (n int); select pg_sleep(5)");
    stage.commit("v2", &[]);
    let path = tools::path(&[]);
    let deploy = stage.spawn(&["deploy", "production"], &[("PATH", &path)]);
    let sleeps = format!(
        "select 1 from pg_stat_activity where datname = '{}' and application_name = 'piton migration'
         and query like '%pg_sleep%'",
        stage.database("production")
    );
    stage.eventually("the migration", || !stage.sql("postgres", &sleeps).is_empty());
    deploy.kill();
    piton(&stage, &["abort", "production"]).expect(0).says("nothing had been applied");
    assert!(stage.sql("postgres", &sleeps).is_empty(), "nobody is left who could commit");
    assert!(!has_table(&stage, "receipts"));
    assert_eq!(states(&stage), ["one applied", "two pending"]);
}

#[test]
fn a_release_with_prisma_that_fails_on_the_live_database() {
    if !tools::is_there("prisma/node_modules/.bin/prisma") {
        return;
    }
    let Some(mut stage) = stage_in_turn() else { return };
    let packages = std::fs::canonicalize(tools::folder().join("prisma/node_modules")).unwrap();
    let link = format!("ln -sfn {} node_modules", Path::new(&packages).display());
    stage.configure(|settings| {
        settings.database = "migrations = \"prisma\"".into();
        settings.build.push(link.clone());
    });
    stage.write("prisma/schema.prisma", tools::PRISMA_SCHEMA);
    stage.write("prisma.config.ts", &tools::prisma_config("process.env.DATABASE_URL"));
    stage.write("prisma/migrations/migration_lock.toml", "provider = \"postgresql\"\n");
    stage.write("prisma/migrations/1_items/migration.sql", ITEMS);
    stage.commit("v1", &[]);
    piton(&stage, &["deploy", "production"]).expect(0);
    assert_eq!(states(&stage), ["1_items applied"]);

    // What came after the backup makes it fail, half-way: this engine sends one statement after the other.
    let refuses = "create table half (n int);\nalter table items add check (note <> 'same');\n";
    stage.write("prisma/migrations/2_same/migration.sql", refuses);
    stage.commit("v2", &[]);
    killed(&stage, &["deploy", "production"], "done rehearse:after");
    let production = stage.database("production");
    stage.sql(&production, "insert into items values ('late', 'same')");
    let said = piton(&stage, &["resume", "production"]).expect(3);
    said.says("the migration stays, 2_same in part").says("piton migration production 2_same");
    assert_eq!(states(&stage), ["1_items applied", "2_same half-applied"]);

    // Nobody releases over it before a person has looked.
    piton(&stage, &["deploy", "production"])
        .expect(2)
        .says("production's database holds a failed migration")
        .says("piton migration production 2_same --applied (or --not-applied)");
    stage.sql(&production, "drop table half; update items set note = id where note = 'same'");
    piton(&stage, &["migration", "production", "2_same", "--not-applied"]).expect(0);
    assert_eq!(states(&stage), ["1_items applied", "2_same pending"]);
    under_load(&stage);
    assert_eq!(states(&stage), ["1_items applied", "2_same applied"]);
    assert!(has_table(&stage, "half"));
}
