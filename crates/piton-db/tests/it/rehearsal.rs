//! What a migration does to others, reported exactly. Waits are compared with the migration's own time: a busy machine stretches both.

use fs_err as fs;
use piton_db::Database;
use piton_db::fingerprint::Structure;
use piton_db::migrate::MigrateOptions;
use piton_db::migrate::sql::SqlFolder;
use piton_db::rehearsal::{Blocks, Impact, Mode, Report, Step, Watch};
use piton_testkit::postgres::{Cluster, Options, eventually};

use crate::{database, fresh, number, run};

/// Two tables; the large one is so large that a pass over it lasts for several looks.
const TABLES: &str = r#"
    create table "Big" (id int primary key, n int not null, note text, gone text);
    insert into "Big" select i, i, md5(i::text), repeat('x', 20) from generate_series(1, 120000) i;
    create table small (id int primary key, big_id int);
    insert into small values (1, 1), (2, 2);
    create view reading as select note from "Big";
"#;

/// A migration: its name and text, and what it must be reported to lock (table, strongest mode), to rewrite, and to make wait for
/// most of its time.
type Case = (&'static str, &'static str, &'static [(&'static str, Mode)], bool, Option<Blocks>);

const MIGRATIONS: [Case; 14] = [
    (
        "01_index",
        r#"create index by_note on "Big" (note)"#,
        &[(BIG, Mode::Share)],
        false,
        Some(Blocks::Writes),
    ),
    (
        "02_concurrently",
        r#"create index concurrently by_gone on "Big" (gone)"#,
        &[(BIG, Mode::ShareUpdateExclusive)],
        false,
        None,
    ),
    (
        "03_not_valid",
        r#"alter table "Big" add constraint c check (n > 0) not valid"#,
        &[(BIG, Mode::AccessExclusive)],
        false,
        None,
    ),
    (
        "04_validate",
        r#"alter table "Big" validate constraint c"#,
        &[(BIG, Mode::ShareUpdateExclusive)],
        false,
        None,
    ),
    (
        "05_foreign_key",
        r#"alter table small add foreign key (big_id) references "Big" (id)"#,
        &[(BIG, Mode::ShareRowExclusive), (SMALL, Mode::ShareRowExclusive)],
        false,
        None,
    ),
    (
        "06_not_null",
        r#"alter table "Big" alter gone set not null"#,
        &[(BIG, Mode::AccessExclusive)],
        false,
        None,
    ),
    (
        "07_constant",
        r#"alter table "Big" add seven int default 7"#,
        &[(BIG, Mode::AccessExclusive)],
        false,
        None,
    ),
    (
        "08_volatile",
        r#"alter table "Big" add lot float default random()"#,
        &[(BIG, Mode::AccessExclusive)],
        true,
        Some(Blocks::ReadsAndWrites),
    ),
    (
        "09_type",
        r#"alter table "Big" alter n type bigint"#,
        &[(BIG, Mode::AccessExclusive)],
        true,
        Some(Blocks::ReadsAndWrites),
    ),
    ("10_drop_column", r#"alter table "Big" drop column gone"#, &[(BIG, Mode::AccessExclusive)], false, None),
    ("11_full", r#"vacuum full "Big""#, &[(BIG, Mode::AccessExclusive)], true, Some(Blocks::ReadsAndWrites)),
    ("12_truncate", "truncate small", &[(SMALL, Mode::AccessExclusive)], true, None),
    ("13_rows", r#"update "Big" set n = n + 1"#, &[(BIG, Mode::RowExclusive)], false, None),
    (
        "14_new_table",
        "create table fresh (id int primary key); alter table fresh add x int; drop table small",
        // Its foreign key locks the other table as well.
        &[(BIG, Mode::AccessExclusive), (SMALL, Mode::AccessExclusive)],
        false,
        None,
    ),
];

const BIG: &str = r#""public"."Big""#;
const SMALL: &str = r#""public"."small""#;

/// Runs all migrations on a database, observed; returns the report.
async fn rehearse(db: &Database, golden: &Database) -> Report {
    let dir = tempfile::tempdir().unwrap();
    for (name, sql, ..) in MIGRATIONS {
        fs::write(dir.path().join(format!("{name}.sql")), sql).unwrap();
    }
    let watch = Watch::begin(db).await.unwrap();
    let applied = SqlFolder::new(dir.path())
        .apply(db, MigrateOptions::default(), &mut |progress| watch.step(&progress.what))
        .await
        .unwrap();
    let report = watch.end(golden).await.unwrap();
    assert_eq!(applied.migrations.len(), MIGRATIONS.len());
    report
}

fn impact<'a>(step: &'a Step, table: &str) -> &'a Impact {
    step.tables.iter().find(|impact| impact.table == table).unwrap_or_else(|| panic!("{table}: {step:#?}"))
}

/// Wants the waits of a step to be those of its strongest lock, held for most of its time, or to be only a part of it.
fn assert_waits(step: &Step, blocks: Option<Blocks>) {
    let impact = impact(step, BIG);
    let (read, write) = (impact.read_wait_ms.unwrap_or(0), impact.write_wait_ms.unwrap_or(0));
    let most = |wait: u64| wait * 2 > step.ms;
    let expected = match blocks {
        Some(Blocks::ReadsAndWrites) => (true, true),
        Some(Blocks::Writes) => (false, true),
        _ => (false, false),
    };
    assert_eq!((most(read), most(write)), expected, "of {} ms: {step:#?}", step.ms);
}

#[tokio::test]
async fn locks_rewrites_and_waits_are_reported_by_migration() {
    let Some((cluster, golden)) = fresh("rehearsal_golden").await else { return };
    run(&golden, TABLES).await;
    let admin = cluster.connect("postgres").await;
    for copy in ["rehearsal_copy", "rehearsal_twin"] {
        admin.batch_execute(&format!("create database {copy} template rehearsal_golden")).await.unwrap();
    }
    let copy = database(cluster, "rehearsal_copy");
    let report = rehearse(&copy, &golden).await;
    assert!(report.complete && report.missing.is_empty(), "{report:#?}");
    assert_eq!(report.steps.len(), MIGRATIONS.len());
    for (step, (name, _, locks, rewrites, blocks)) in report.steps.iter().zip(MIGRATIONS) {
        assert_eq!(step.name, format!("{name}.sql"));
        let strongest: Vec<(&str, Mode)> =
            step.tables.iter().map(|impact| (impact.table.as_str(), impact.locks[0].mode)).collect();
        assert_eq!(strongest, locks, "{step:#?}");
        let rewritten: Vec<&str> = step
            .tables
            .iter()
            .filter(|impact| impact.rewritten)
            .map(|impact| impact.table.as_str())
            .collect();
        let expected: &[&str] = if rewrites { &[locks[0].0] } else { &[] };
        assert_eq!(rewritten, expected, "{step:#?}");
        if blocks.is_some() || ["02_concurrently", "04_validate", "13_rows"].contains(&name) {
            assert_waits(step, blocks);
        }
        if rewrites && locks[0].0 == BIG {
            assert!(step.wal_bytes > Some(5_000_000), "{step:#?}");
        }
        let concurrent: Vec<&str> = step
            .tables
            .iter()
            .filter(|impact| impact.concurrently)
            .map(|impact| impact.table.as_str())
            .collect();
        assert_eq!(concurrent, if name == "02_concurrently" { vec![BIG] } else { vec![] }, "{step:#?}");
        // Who writes to a row that the migration has changed waits for its end.
        let rows = step.tables.iter().filter_map(|impact| impact.row_wait_ms).max();
        match name {
            "13_rows" => assert!(rows.unwrap() * 2 > step.ms, "{step:#?}"),
            _ => assert_eq!(rows, None, "{step:#?}"),
        }
    }
    // The basis of the estimate: what the golden copy held.
    assert_eq!(impact(&report.steps[0], BIG).rows, Some(120_000));
    assert!(impact(&report.steps[0], BIG).bytes > 10_000_000);
    assert_eq!(impact(&report.steps[11], SMALL).rows, Some(2));
    assert!(report.reads_waited() >= impact(&report.steps[8], BIG).read_wait_ms);
    let index = &impact(&report.steps[0], BIG).locks;
    assert!(index.iter().all(|lock| lock.blocks <= Blocks::Writes), "{index:#?}");

    // Nothing of it is left, and the migrations' outcome is the same as unobserved.
    let twin = database(cluster, "rehearsal_twin");
    for (_, sql, ..) in MIGRATIONS {
        run(&twin, sql).await;
    }
    let observed = Structure::of(&copy).await.unwrap();
    let mut left = Structure::of(&twin).await.unwrap().changes_to(&observed);
    left.retain(|change| !change.object().contains(" piton"));
    assert_eq!(left, []);
    assert!(!observed.0.keys().any(|object| object.contains("piton_rehearsal")));
}

#[tokio::test]
async fn without_event_triggers_the_rest_is_reported_and_what_is_missing_is_said() {
    let Some((cluster, golden)) = fresh("rehearsal_plain_golden").await else { return };
    let admin = cluster.connect("rehearsal_plain_golden").await;
    admin
        .batch_execute(
            "create role rehearser login createdb; alter database rehearsal_plain_golden owner to rehearser;
             set role rehearser; create schema own; set search_path = own;",
        )
        .await
        .unwrap();
    admin.batch_execute(&format!("set search_path = own; {TABLES}")).await.unwrap();
    drop(admin);
    let url = cluster.url_as("rehearser", "", "rehearsal_plain_golden");
    let golden_as_owner = Database::parse(&piton_exec::Secret::from(url.as_str())).unwrap();
    let client = golden_as_owner.maintenance().await.unwrap();
    copy_when_free(&client, "rehearsal_plain_copy", &golden.dbname).await;
    let copy = golden_as_owner.with_name("rehearsal_plain_copy");

    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("1.sql", r#"create index on own."Big" (note)"#),
        ("2.sql", r#"alter table own."Big" alter n type bigint"#),
        ("3.sql", "truncate own.small"),
        // Too short to be seen: inferred from what has changed.
        ("4.sql", "alter table own.small add x int"),
        ("5.sql", "create index quick on own.small (id)"),
        ("6.sql", "drop index own.quick"),
        ("7.sql", r#"alter table own.small add foreign key (big_id) references own."Big" (id) not valid"#),
        // It changes no row that somebody could wait for.
        (
            "8.sql",
            "insert into own.small values (3, 3); create table own.fresh (id int); select pg_sleep(0.1)",
        ),
        // What is safer takes a weaker lock, or none.
        ("9.sql", r#"create index concurrently safe on own."Big" (gone)"#),
        ("10.sql", "reindex index concurrently own.safe"),
        ("11.sql", "alter table own.small validate constraint small_big_id_fkey"),
        ("12.sql", r#"grant select on own.small to public; grant select (id) on own."Big" to public"#),
        (
            "13.sql",
            "create trigger same before update on own.small
             for each row execute function suppress_redundant_updates_trigger()",
        ),
    ];
    let ordered = |name: &str| format!("{name:0>6}");
    for (name, sql) in files {
        fs::write(dir.path().join(ordered(name)), sql).unwrap();
    }
    let watch = Watch::begin(&copy).await.unwrap();
    let folder = SqlFolder::new(dir.path());
    folder.apply(&copy, MigrateOptions::default(), &mut |progress| watch.step(&progress.what)).await.unwrap();
    let report = watch.end(&golden_as_owner).await.unwrap();
    assert!(!report.complete);
    assert!(report.missing[0].contains("superuser"), "{:?}", report.missing);
    let big = r#""own"."Big""#;
    let [
        index,
        retype,
        truncate,
        column,
        quick,
        gone,
        foreign_key,
        rows,
        concurrent,
        again,
        validate,
        grant,
        trigger,
    ] = report.steps.as_slice()
    else {
        panic!("{report:#?}")
    };
    assert_eq!(impact(index, big).blocks(), Blocks::Writes);
    assert!(impact(index, big).write_wait_ms.unwrap() * 2 > index.ms, "{index:#?}");
    assert_eq!((impact(retype, big).blocks(), impact(retype, big).rewritten), (Blocks::ReadsAndWrites, true));
    let emptied = impact(truncate, r#""own"."small""#);
    assert_eq!((emptied.blocks(), emptied.rewritten), (Blocks::ReadsAndWrites, true));
    let small = r#""own"."small""#;
    for (step, table, mode) in [
        (column, small, Mode::AccessExclusive),
        (quick, small, Mode::Share),
        (gone, small, Mode::AccessExclusive),
        (foreign_key, small, Mode::ShareRowExclusive),
        (foreign_key, big, Mode::ShareRowExclusive),
        (concurrent, big, Mode::ShareUpdateExclusive),
        (again, big, Mode::ShareUpdateExclusive),
        (validate, small, Mode::ShareUpdateExclusive),
        (trigger, small, Mode::ShareRowExclusive),
    ] {
        assert_eq!(impact(step, table).locks[0].mode, mode, "{step:#?}");
    }
    assert!(impact(concurrent, big).concurrently && impact(again, big).concurrently, "{report:#?}");
    assert_eq!(grant.tables, []);
    assert!(rows.tables.iter().all(|impact| impact.blocks() == Blocks::Nothing), "{rows:#?}");
    assert!(rows.tables.iter().all(|impact| impact.row_wait_ms.is_none()), "{rows:#?}");
    // A lock that nobody saw cannot be ruled out.
    assert!(report.reads_waited() >= Some(piton_db::rehearsal::SAMPLE_MS));
}

#[tokio::test]
async fn what_nobody_looked_at_is_not_known() {
    let Some((cluster, db)) = fresh("rehearsal_unwatched").await else { return };
    run(&db, "create table a (id int)").await;
    let watch = Watch::begin(&db).await.unwrap();
    watch.step("1.sql");
    let admin = cluster.connect("postgres").await;
    let ends = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = 'rehearsal_unwatched' and query like 'select l.relation, l.mode from pg_catalog.pg_locks%'";
    // It asks for other things, too.
    eventually("it looks", async || number(&admin, ends).await > 0).await;
    run(&db, "alter table a add x int").await;
    let report = watch.end(&db).await.unwrap();
    assert!(report.unwatched && !report.complete, "{report:#?}");
    assert!(report.missing[0].starts_with("how long locks were held"), "{report:#?}");
    assert_eq!(report.steps[0].wal_bytes, None);
    assert_eq!(impact(&report.steps[0], r#""public"."a""#).locks[0].mode, Mode::AccessExclusive);
}

#[tokio::test]
async fn the_last_sessions_of_a_server_are_left_to_the_app() {
    let settings =
        ["max_connections", "superuser_reserved_connections"].into_iter().zip(["12", "0"].map(Into::into));
    let options = Options { settings: settings.collect(), ..Options::default() };
    let Some(cluster) = Cluster::start_with(options) else { return };
    let copy = database(&cluster, "postgres");
    run(&copy, "create table a (); create table b (); create table c (); create table d ()").await;
    let sessions = "select count(*) from pg_stat_activity where backend_type = 'client backend'";
    let app = copy.connect().await.unwrap();
    let watch = Watch::begin(&copy).await.unwrap();
    // The app's, two that watch, and six of nine that were free.
    assert_eq!(number(&app, sessions).await, 9);
    let report = watch.end(&copy).await.unwrap();
    assert_eq!(report.missing, [""; 0]);

    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(copy.connect().await.unwrap());
    }
    let watch = Watch::begin(&copy).await.unwrap();
    assert_eq!(number(&app, sessions).await, 11, "one is left");
    let report = watch.end(&copy).await.unwrap();
    assert!(report.missing[0].starts_with("how long reads and writes waited"), "{:?}", report.missing);
}

/// Copies a database as soon as no session is on it any more.
async fn copy_when_free(client: &tokio_postgres::Client, copy: &str, template: &str) {
    let statement = format!("create database {copy} template {template}");
    eventually("a copy", async || client.batch_execute(&statement).await.is_ok()).await;
}
