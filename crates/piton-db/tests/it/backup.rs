use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fs_err as fs;
use futures_util::TryStreamExt as _;
use piton_db::backup::{DumpOptions, dump, dump_command};
use piton_db::changes::since;
use piton_db::fingerprint::Rows;
use piton_db::identity::{MarkState, Purpose, read_mark};
use piton_db::manifest::{Damage, MadeFor, Manifest, verify_files};
use piton_db::prove::{Difference, Owners, compare, restore};
use piton_db::tools::Tools;
use piton_db::{Database, DbError, Report, RowSum, Table, facts, locate, properties, quote};
use piton_exec::{local, marker};
use piton_testkit::postgres::{Cluster, Options, eventually, skip};
use rustix::process::{Pid, Signal, kill_process};
use tokio_postgres::Client;

use crate::{HARD, fresh, label, number, quiet, run};

pub(crate) fn shop() -> MadeFor {
    MadeFor {
        app: "shop".into(),
        environment: "production".into(),
        release: "r1".into(),
        commit: "c1".into(),
        serving: None,
        from: None,
    }
}

async fn backed_up(source: &Database, dir: &Path) -> Manifest {
    dump(source, dir, &shop(), DumpOptions::default(), &mut quiet).await.unwrap()
}

async fn golden(source: &Database, dir: &Path) -> Database {
    let golden = source.with_name(&format!("{}_golden", source.dbname));
    restore(dir, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
    golden
}

/// Sums the tables' rows as they stand, as a dump writes them.
async fn rows(client: &Client, tables: &[Table]) -> Rows {
    let pinned = "set timezone = 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres'; set lc_monetary = 'C';
                  set extra_float_digits = 3; set bytea_output = 'hex'; set row_security = off";
    client.batch_execute(pinned).await.unwrap();
    let mut rows = Rows::new();
    for table in tables {
        let columns: Vec<String> = table.columns.iter().map(|column| quote::ident(column)).collect();
        let copy = format!("copy (select {} from only {}) to stdout", columns.join(", "), table.quoted());
        let pieces: Vec<_> = client.copy_out(&copy).await.unwrap().try_collect().await.unwrap();
        let mut sum = RowSum::default();
        for row in pieces.concat().split_inclusive(|&byte| byte == b'\n') {
            sum.add(&blake3::hash(&row[..row.len() - 1]));
        }
        rows.insert(table.quoted(), sum);
    }
    rows
}

#[tokio::test]
async fn extensions_come_back_in_their_versions_and_other_versions_are_told_apart() {
    let Some((_, source)) = fresh("versions").await else { return };
    let client = source.connect().await.unwrap();
    let there = "select count(*) from pg_catalog.pg_available_extensions where name in ('hstore', 'citext')";
    let icu = "select count(*) from pg_catalog.pg_collation where collname = 'sv-x-icu'";
    if number(&client, there).await < 2 {
        return skip("the contributed modules of PostgreSQL");
    }
    if number(&client, icu).await == 0 {
        return skip("PostgreSQL with ICU");
    }
    run(
        &source,
        "create extension hstore version '1.6'; create schema apart; create extension citext schema apart version '1.5';
         create collation swedish (provider = icu, locale = 'sv'); create table t (a text collate swedish, h hstore);
         create index on t (a); insert into t values ('ö', 'a=>1');
         update pg_catalog.pg_collation set collversion = '1' where collname = 'swedish'",
    )
    .await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("backup");
    let manifest = backed_up(&source, &dir).await;
    let golden = golden(&source, &dir).await;
    let proof = compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap();
    assert_eq!(proof.differences, []);
    let told: Vec<String> = proof.versions.iter().map(ToString::to_string).collect();
    let [citext, collation] = &told[..] else { panic!("{told:?}") };
    assert!(citext.starts_with("extension citext is 1.") && citext.ends_with(", and was 1.5"), "{citext}");
    assert!(
        collation.starts_with("collation public.swedish is ") && collation.ends_with(", and was 1"),
        "{collation}"
    );
    let client = golden.connect().await.unwrap();
    let version = client.query_one("select extversion from pg_extension where extname = 'hstore'", &[]).await;
    assert_eq!(version.unwrap().get::<_, String>(0), "1.6", "as it was, not as the server would make it");
}

#[tokio::test]
async fn a_backup_of_everything_hard_is_proved() {
    let Some((_, source)) = fresh("hard").await else { return };
    run(&source, HARD).await;
    run(
        &source,
        "alter database hard set bytea_output = 'escape'; alter database hard set timezone = 'Asia/Tokyo';
         alter database hard set extra_float_digits = -5; alter database hard set lc_monetary = 'C.UTF-8';
         alter database hard set search_path = \"Büro\", public; alter database hard connection limit 40;
         alter database hard set default_transaction_isolation = 'serializable';
         comment on database hard is 'people''s'; revoke create, temporary on database hard from postgres",
    )
    .await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("backup");
    let mut seen = Vec::new();
    let manifest =
        dump(&source, &dir, &shop(), DumpOptions::default(), &mut |news| seen.push(news)).await.unwrap();
    let total = manifest.tables.len() as u64;
    assert!(seen.iter().any(|news| matches!(news, Report::Progress(p) if p.doing == "dump" && p.what == "User" && p.total == total)));
    let ran: Vec<_> =
        seen.iter().filter_map(|news| if let Report::Ran(ran) = news { Some(ran) } else { None }).collect();
    let [dumped, listed] = ran.as_slice() else { panic!("{ran:?}") };
    assert!(dumped.command.contains("pg_dump --format=directory") && dumped.code == 0, "{dumped:?}");
    assert!(listed.command.contains("pg_restore --list") && listed.code == 0, "{listed:?}");
    assert_eq!(manifest, Manifest::read(&dir).unwrap());
    assert_eq!(verify_files(&dir).unwrap(), []);
    assert_eq!(manifest.rows["\"public\".\"User\""].rows, 500);
    assert_eq!(manifest.rows["\"public\".\"nothing\""].rows, 2);
    assert_eq!(manifest.large_objects.len(), 1);

    // What the dump's bytes say is what the tables say.
    let client = source.connect().await.unwrap();
    assert_eq!(rows(&client, &manifest.tables).await, manifest.rows);

    let golden = golden(&source, &dir).await;
    let proof = compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap();
    assert_eq!(proof.differences, []);
    assert_eq!(proof.rows, manifest.total_rows());
    assert!(proof.is_equal() && proof.rows > 600 && proof.objects > 50);
    let there = golden.maintenance().await.unwrap();
    let (original, copied) = (
        properties::Properties::read(&there, "hard").await.unwrap(),
        properties::Properties::read(&there, "hard_golden").await.unwrap(),
    );
    assert_eq!(copied, original);
    assert!(matches!(read_mark(&there, "hard_golden").await.unwrap(), MarkState::Marked(_)));

    // Both may be run again.
    assert_eq!(backed_up(&source, &dir).await, manifest);
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
    assert!(compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap().is_equal());
}

#[tokio::test]
async fn a_backup_taken_under_a_writer_is_proved() {
    let Some((cluster, source)) = fresh("busy").await else { return };
    run(
        &source,
        "create table account (id int primary key, balance int not null);
         create table entry (id bigserial primary key, account int references account, amount int);
         insert into account select i, 0 from generate_series(1, 200) i;
         insert into entry (account, amount) select i % 200 + 1, 0 from generate_series(1, 50000) i",
    )
    .await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = cluster.connect("busy").await;
    let writing = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                let one = "with e as (insert into entry (account, amount) select 1 + floor(random() * 199)::int, 1 returning *)
                           update account a set balance = balance + e.amount from e where a.id = e.account";
                writer.batch_execute(one).await.unwrap();
                written += 1;
            }
            written
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let counter = cluster.connect("busy").await;
    let count = async || crate::number(&counter, "select count(*) from entry").await;
    eventually("the writer writes", async || count().await > 50_020).await;
    let dir = dir.path().join("backup");
    let manifest = backed_up(&source, &dir).await;
    let dumped = manifest.rows["\"public\".\"entry\""].rows;
    eventually("the writer goes on", async || count().await > i64::try_from(dumped).unwrap()).await;
    let golden = golden(&source, &dir).await;
    stop.store(true, Ordering::Relaxed);
    assert!(writing.await.unwrap() > 0);
    let proof = compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap();
    assert_eq!(proof.differences, []);
    // One moment of the source: every entry is in its account's balance.
    let client = golden.connect().await.unwrap();
    let torn = "select (select sum(balance) from account) - (select sum(amount) from entry)";
    assert_eq!(crate::number(&client, torn).await, 0);
}

/// Taken before the lock, a snapshot would see neither the rows before the TRUNCATE nor those after it.
#[tokio::test]
async fn a_truncate_just_before_the_snapshot_is_not_an_empty_table() {
    let Some((cluster, source)) = fresh("truncated").await else { return };
    run(&source, "create table t (a int); insert into t select generate_series(1, 100)").await;
    let other = cluster.connect("truncated").await;
    other.batch_execute("begin; truncate t; insert into t select generate_series(1, 70)").await.unwrap();
    let watcher = cluster.connect("truncated").await;
    let commit = async {
        let waiting = "select count(*) from pg_locks where not granted and relation = 't'::regclass";
        eventually("the backup waits", async || crate::number(&watcher, waiting).await > 0).await;
        other.batch_execute("commit").await.unwrap();
    };
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let (manifest, ()) = tokio::join!(backed_up(&source, &dir), commit);
    assert_eq!(manifest.rows["\"public\".\"t\""].rows, 70);
    assert!(
        compare(&manifest, &golden(&source, &dir).await, Owners::Kept, &mut quiet).await.unwrap().is_equal()
    );
}

#[tokio::test]
async fn each_kind_of_damage_is_found_and_located() {
    let Some((_, source)) = fresh("damage").await else { return };
    run(
        &source,
        "create table item (id serial primary key, name text default 'x'); create index item_name on item (name);
         insert into item (name) select 'n' || i from generate_series(1, 100) i; create table other (a int);
         create table made (a int, b int generated always as (a % 10) stored, primary key (b, a));
         insert into made select generate_series(1, 50);
         create sequence one; select nextval('one'); create sequence set_ahead; select setval('set_ahead', 500, false)",
    )
    .await;
    let twice = "create unique index concurrently \"Bad\" on item ((id > 0))";
    assert!(source.connect().await.unwrap().batch_execute(twice).await.is_err());
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let manifest = backed_up(&source, &dir).await;

    let file = manifest.files.keys().find(|name| name.ends_with(".dat.gz")).unwrap().clone();
    let good = fs::read(dir.join(&file)).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(dir.join(&file), &bad).unwrap();
    let table = manifest.files[&file].table.clone();
    assert!(table.is_some(), "a table's file is known for it");
    assert_eq!(verify_files(&dir).unwrap(), [Damage::Altered(file.clone(), table.clone())]);
    fs::remove_file(dir.join(&file)).unwrap();
    fs::write(dir.join("dump/strange"), "").unwrap();
    assert_eq!(
        verify_files(&dir).unwrap(),
        [Damage::Missing(file.clone(), table), Damage::Extra("dump/strange".into())]
    );
    fs::write(dir.join(&file), good).unwrap();
    fs::remove_file(dir.join("dump/strange")).unwrap();
    // Of a proof that was cut off as it wrote down its end.
    fs::write(dir.join("proved.unfinished"), "").unwrap();
    assert_eq!(verify_files(&dir).unwrap(), []);

    let text = fs::read_to_string(dir.join("manifest.json")).unwrap();
    fs::write(dir.join("manifest.json"), text.replacen("\"rows\": 100", "\"rows\": 101", 1)).unwrap();
    assert!(matches!(verify_files(&dir), Err(DbError::BadManifest { .. })));
    fs::write(dir.join("manifest.json"), text).unwrap();

    let golden = golden(&source, &dir).await;
    run(
        &golden,
        "delete from item where id = 17; insert into other values (1);
         alter table item alter name set default 'y'; drop index item_name; select setval('item_id_seq', 5);
         select setval('one', 1, false); select setval('set_ahead', 499, false);
         alter database damage_golden set work_mem = '8MB'; alter database damage_golden connection limit 3;
         grant create on database damage_golden to pg_monitor",
    )
    .await;
    let proof = compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap();
    let said: Vec<String> = proof.differences.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "table \"public\".\"item\": 100 rows dumped, 99 restored",
            "table \"public\".\"other\": 0 rows dumped, 1 restored",
            "column public.item.name was `text default 'x'::text after id` and is `text default 'y'::text after id`",
            "index public.\"Bad\" is missing: it is invalid in the original, where a concurrent build has failed, and no dump has \
             such a one; DROP INDEX CONCURRENTLY public.\"Bad\", or REINDEX INDEX CONCURRENTLY public.\"Bad\"",
            "index public.item_name is missing",
            "the database: connection limit was `-1` and is `3`",
            "the database: other privileges",
            "the database: the setting work_mem is another",
            "sequence public.item_id_seq: its next value was 101, restored it is 6",
            "sequence public.one: its next value was 2, restored it is 1",
            "sequence public.set_ahead: its next value was 500, restored it is 499",
        ]
    );
    let locate = async |table: &str| locate::rows(&dir, &manifest, &golden, table).await.unwrap().to_string();
    assert_eq!(locate("\"public\".\"item\"").await, "1 row missing: id=17");
    assert_eq!(locate("\"public\".\"other\"").await, "1 row not in the dump");
    // Its key is in no dump.
    run(&golden, "update made set a = 60 where a = 3").await;
    assert_eq!(locate("\"public\".\"made\"").await, "1 row missing; 1 row not in the dump");
    run(&golden, "update made set a = 3 where a = 60").await;
    run(&golden, "insert into item values (17, 'other'); update item set id = 1000 where id = 3").await;
    let found = locate("\"public\".\"item\"").await;
    assert_eq!(found, "1 row missing: id=3; 1 row not in the dump: id=1000; 1 row altered: id=17");
    run(&golden, "update item set name = name || '!'").await;
    let found = locate::rows(&dir, &manifest, &golden, "\"public\".\"item\"").await.unwrap();
    // So much that only a part is looked at: a row's two contents are told for one row all the same.
    assert!(!found.whole && found.altered.examples.len() == 5 && found.altered.count > 40, "{found}");
    assert!(found.missing.count + found.strange.count <= 2, "{found}");
    run(&golden, "update item set name = rtrim(name, '!'), id = case id when 1000 then 3 else id end").await;
    let proof = compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap();
    assert!(matches!(&proof.differences[0], Difference::Rows { dumped: Some(a), restored: Some(b), .. }
        if a.rows == b.rows && a.sum != b.sum));
}

#[tokio::test]
async fn a_failed_or_killed_dump_leaves_nothing_and_can_be_repeated() {
    let Some((cluster, source)) = fresh("fails").await else { return };
    run(&source, "create table t (a int); insert into t select generate_series(1, 1000)").await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");

    // Somebody else's folder is left alone.
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("mine"), "x").unwrap();
    let error = dump(&source, &dir, &shop(), DumpOptions::default(), &mut quiet).await.unwrap_err();
    assert!(matches!(error, DbError::ForeignFolder { .. }) && dir.join("mine").exists());
    fs::remove_dir_all(&dir).unwrap();

    // A table under an exclusive lock.
    let locker = cluster.connect("fails").await;
    locker.batch_execute("begin; lock table t in access exclusive mode").await.unwrap();
    let options = DumpOptions { lock_wait: Duration::from_millis(100), ..DumpOptions::default() };
    let error = dump(&source, &dir, &shop(), options, &mut quiet).await.unwrap_err();
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE));
    assert!(!dir.exists());

    // Given up in the middle: no manifest, no backup; the next attempt clears up.
    let _ = tokio::time::timeout(Duration::from_millis(100), backed_up(&source, &dir)).await;
    assert!(dir.exists());
    assert!(matches!(verify_files(&dir), Err(DbError::NoManifest { .. })));
    locker.batch_execute("rollback").await.unwrap();
    fs::write(dir.join("half.dat.gz"), "x").unwrap();
    backed_up(&source, &dir).await;
    assert_eq!(verify_files(&dir).unwrap(), []);
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The leader dies with whoever started it, and its workers go on.
#[tokio::test]
async fn the_workers_of_a_killed_dump_are_ended_before_the_next_attempt() {
    let Some((_, source)) = fresh("orphans").await else { return };
    run(&source, "create table a (t text); create table b (t text)").await;
    for table in ["a", "b"] {
        let rows = "select md5(i::text) from generate_series(1, 400000) i";
        run(&source, &format!("insert into {table} {rows}")).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let value = dir.display().to_string();
    let working = || marker::find("PITON_DUMP", &value);
    let orphaned = async |stop: bool| {
        eventually("the workers work", async || working().len() == 3).await;
        let leader = working()[0].pid;
        for worker in working().iter().filter(|worker| stop && worker.parent == leader) {
            signal(worker.pid, Signal::STOP);
        }
        signal(leader, Signal::KILL);
    };

    // Piton lives and tells.
    let attempt = async { dump(&source, &dir, &shop(), DumpOptions::default(), &mut quiet).await };
    let (failed, ()) = tokio::join!(attempt, orphaned(false));
    assert!(matches!(failed, Err(DbError::Tool(_))), "{failed:?}");
    assert_eq!(working(), []);
    assert!(!dir.exists());

    // Piton is killed as well. A worker that is stopped works for as long as we want.
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join(".made-by-piton"), "").unwrap();
    let client = source.connect().await.unwrap();
    client.batch_execute("begin isolation level repeatable read").await.unwrap();
    let row = client.query_one("select pg_export_snapshot()", &[]).await.unwrap();
    let version = piton_db::identity::identity(&client).await.unwrap().major();
    let tools = Tools::find(version).await.unwrap();
    let command = dump_command(&tools, &source, &dir, row.get(0), false, &DumpOptions::default());
    let mut leader = local::prepare(&command.env("PITON_DUMP", &value))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    orphaned(true).await;
    leader.wait().unwrap();
    drop(client);
    let orphans: Vec<i32> = working().iter().map(|worker| worker.pid).collect();
    assert_eq!(orphans.len(), 2);
    let mut left = None;
    let manifest = dump(&source, &dir, &shop(), DumpOptions::default(), &mut |_| {
        left.get_or_insert_with(|| working().iter().filter(|worker| orphans.contains(&worker.pid)).count());
    })
    .await
    .unwrap();
    assert_eq!(left, Some(0));
    assert_eq!(verify_files(&dir).unwrap(), []);
    assert!(
        compare(&manifest, &golden(&source, &dir).await, Owners::Kept, &mut quiet).await.unwrap().is_equal()
    );
}

#[tokio::test]
async fn the_apps_limits_cut_off_neither_proof_nor_undo() {
    let Some((cluster, admin)) = fresh("limited").await else { return };
    run(
        &admin,
        "create role limited_app login createdb; alter database limited owner to limited_app;
         alter role limited_app set statement_timeout = '150ms';
         alter role limited_app set idle_in_transaction_session_timeout = '300ms'",
    )
    .await;
    let url = cluster.url_as("limited_app", "x", "limited");
    let source = Database::parse(&piton_exec::Secret::from(url)).unwrap();
    run(
        &admin,
        "set role limited_app;
         create function slow(i int) returns int immutable language plpgsql as
             $$ begin perform pg_catalog.pg_sleep(0.002); return i; end $$;
         create table slow (i int); insert into slow select generate_series(1, 300); create index on slow (slow(i));
         create table t (a int, b text); insert into t select i, md5(i::text) from generate_series(1, 200000) i",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let manifest = backed_up(&source, &dir).await;
    let golden = golden(&source, &dir).await;
    assert!(compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap().is_equal());
    run(&source, "delete from t where a = 1").await;
    let changes = since(&golden, &source, None, &mut quiet).await.unwrap();
    assert_eq!((changes.len(), changes[0].only_in_golden), (1, 1));
}

#[tokio::test]
async fn the_shells_variables_lead_no_tool_elsewhere() {
    if std::env::var_os("PGSERVICE").is_none() {
        let here = ["--exact", "backup::the_shells_variables_lead_no_tool_elsewhere", "--nocapture"];
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(here)
            .envs([
                ("PGHOSTADDR", "192.0.2.1"),
                ("PGSERVICE", "elsewhere"),
                ("PGTARGETSESSIONATTRS", "standby"),
            ])
            .envs([("PGSSLROOTCERT", "/nowhere"), ("PGOPTIONS", "-c nothing=1"), ("PGREQUIREAUTH", "md5")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let Some((_, source)) = fresh("elsewhere").await else { return };
    run(&source, "create table t (a int); insert into t values (1)").await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let manifest = backed_up(&source, &dir).await;
    let proof = compare(&manifest, &golden(&source, &dir).await, Owners::Kept, &mut quiet).await.unwrap();
    assert!(proof.is_equal());
}

#[tokio::test]
async fn no_row_is_told_in_another_language() {
    // The tools', and where PostgreSQL's words are there in German, the server's.
    if std::env::var("LANGUAGE").as_deref() != Ok("de") {
        let here = ["--exact", "backup::no_row_is_told_in_another_language", "--nocapture"];
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(here)
            .envs([("LANGUAGE", "de"), ("LC_ALL", "C.UTF-8")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    for server in ["C", "C.UTF-8"] {
        let settings = vec![("lc_messages", server.to_owned())];
        let Some(cluster) = Cluster::start_with(Options { settings, ..Options::default() }) else { return };
        cluster.create_database("german").await;
        let source = crate::database(&cluster, "german");
        run(
            &source,
            "create function fits(text) returns bool language sql as 'select true';
             create table people (name text check (fits(name))); insert into people values ('Ada Originaldottir');
             create or replace function fits(text) returns bool language sql as 'select false'",
        )
        .await;
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("backup");
        backed_up(&source, &dir).await;
        let golden = source.with_name("german_golden");
        let error = restore(&dir, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await;
        let error = error.unwrap_err();
        let said = error.to_string();
        assert!(said.contains("TABLE DATA people") && said.contains("error: COPY failed"), "{said}");
        assert!(!said.contains("Originaldottir"), "{said}");
        assert!(error.is_of_rows() || server != "C", "{said}");
    }
}

#[tokio::test]
async fn a_golden_copy_stands_in_the_originals_tablespace() {
    // One of its own: a cluster with a tablespace has no plain physical copy.
    let Some(cluster) = Cluster::start_with(Options { icu: true, ..Options::default() }) else { return };
    let source = crate::database(&cluster, "spaced");
    let client = cluster.connect("postgres").await;
    let row = client.query_one("select current_setting('server_version_num')::int >= 150000", &[]).await;
    // What the cluster's other databases sort by is not what this one does.
    let libc = if row.unwrap().get(0) { " locale_provider libc" } else { "" };
    client.batch_execute(&format!("create database spaced template template0{libc}")).await.unwrap();
    let location = cluster.socket_dir().join("spaced_place");
    fs::create_dir(&location).unwrap();
    let owner = fs::metadata(cluster.data_dir()).unwrap();
    std::os::unix::fs::chown(&location, Some(owner.uid()), Some(owner.gid())).unwrap();
    let maintenance = source.maintenance().await.unwrap();
    let create = format!("create tablespace \"spaced Place\" location '{}'", location.display());
    maintenance.batch_execute(&create).await.unwrap();
    maintenance.batch_execute("alter database spaced set tablespace \"spaced Place\"").await.unwrap();
    run(
        &source,
        "create role spaced_app login createdb; alter database spaced owner to spaced_app; create table t (a int)",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let manifest = backed_up(&source, &dir).await;
    assert_eq!(manifest.properties.tablespace, "spaced Place");
    let place = async |of: &Database| {
        properties::Properties::read(&maintenance, &of.dbname).await.unwrap().tablespace
    };
    let golden = golden(&source, &dir).await;
    assert_eq!(place(&golden).await, "spaced Place");
    assert_eq!(compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap().differences, []);
    let copied = properties::Properties::read(&maintenance, &golden.dbname).await.unwrap();
    assert_eq!((copied.provider.as_str(), copied.locale), ("c", None));

    // Another environment's server need not have it, and a user has to be allowed to.
    let url = cluster.url_as("spaced_app", "x", "spaced_copy");
    let copy = Database::parse(&piton_exec::Secret::from(url)).unwrap();
    let error = restore(&dir, &copy, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap_err();
    assert!(error.to_string().contains("GRANT CREATE ON TABLESPACE \"spaced Place\""), "{error}");
    restore(&dir, &copy, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
    assert_eq!(place(&copy).await, "pg_default");
}

#[tokio::test]
async fn a_failed_restore_leaves_nothing() {
    let Some((_, source)) = fresh("unrestorable").await else { return };
    run(&source, "create table t (a int); insert into t select generate_series(1, 1000)").await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let manifest = backed_up(&source, &dir).await;
    let file = dir.join(manifest.files.keys().find(|name| name.ends_with(".dat.gz")).unwrap());
    let good = fs::read(&file).unwrap();
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    let golden = source.with_name("unrestorable_golden");
    let error =
        restore(&dir, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap_err();
    assert!(matches!(error, DbError::Tool(_)), "{error}");
    assert!(!facts::exists(&golden).await.unwrap());
    fs::write(&file, &good).unwrap();

    // A database of somebody else under that name is left alone.
    run(&source, "create database unrestorable_golden").await;
    run(&golden, "create table mine ()").await;
    let error =
        restore(&dir, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap_err();
    assert!(matches!(error, DbError::NameTaken { .. }), "{error}");
    run(&golden, "select from mine").await;

    // What is refused is told without the rows' values.
    run(
        &source,
        "create table people (id int primary key); create table orders (buyer int references people);
         set session_replication_role = replica; insert into orders values (7777777)",
    )
    .await;
    let dir = folder.path().join("refused");
    backed_up(&source, &dir).await;
    let golden = source.with_name("unrestorable_refused");
    let error =
        restore(&dir, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap_err();
    let said = error.to_string();
    assert!(error.is_of_rows() && said.contains("Key (buyer)=(…) is not present in table"), "{said}");
    assert!(!said.contains("7777777") && !said.contains("ommand was"), "{said}");
}

#[tokio::test]
async fn a_full_disk_is_named() {
    let Some((_, source)) = fresh("full").await else { return };
    run(
        &source,
        "create table t (a text); insert into t select md5(i::text) from generate_series(1, 100000) i",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    // A file system of 1 MB, where the tests may mount one.
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(folder.path())
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        // Without the right to mount, a folder that nothing can be written to stands for it.
        if rustix::process::geteuid().is_root() {
            return piton_testkit::postgres::skip("the right to mount a file system");
        }
        fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
        assert!(
            dump(&source, &folder.path().join("b"), &shop(), DumpOptions::default(), &mut quiet)
                .await
                .is_err()
        );
        return;
    }
    let dir = folder.path().join("backup");
    let error = dump(&source, &dir, &shop(), DumpOptions::default(), &mut quiet).await.unwrap_err();
    let left = dir.exists();
    let unmounted = std::process::Command::new("umount").arg(folder.path()).status();
    assert!(unmounted.unwrap().success());
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(!left);
}

#[tokio::test]
async fn another_user_restores_what_its_owners_do_not_share() {
    let Some((cluster, source)) = fresh("theirs").await else { return };
    run(&source, HARD).await;
    run(
        &source,
        "create role theirs_prod; create role theirs_staging login createdb;
         alter database theirs owner to theirs_prod; alter table \"User\" owner to theirs_prod;
         grant select on \"User\" to theirs_prod;
         -- Forced, it hides rows from the copy's owner, too, and the proof is refused.
         alter table secret no force row level security",
    )
    .await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("backup");
    let manifest = backed_up(&source, &dir).await;
    let url = cluster.url_as("theirs_staging", "x", "theirs_copy");
    let copy = Database::parse(&piton_exec::Secret::from(url)).unwrap();
    restore(&dir, &copy, &label(Purpose::Golden), Owners::Restorer, 2, &mut quiet).await.unwrap();
    let proof = compare(&manifest, &copy, Owners::Restorer, &mut quiet).await.unwrap();
    assert_eq!(proof.differences, []);
    let client = copy.connect().await.unwrap();
    let owner = properties::Properties::read(&client, "theirs_copy").await.unwrap().owner;
    assert_eq!(owner, "theirs_staging");
    // The new owner reads, writes and alters.
    run(&copy, "insert into \"User\" (email) values ('new'); alter table part add note text").await;
}

#[tokio::test]
async fn a_flipped_byte_in_a_large_object_is_found_and_named() {
    let Some((_, source)) = fresh("blobs").await else { return };
    run(
        &source,
        "create role blobs_owner;
         select lo_from_bytea(n, decode(repeat(to_hex(n), 100000), 'hex')) from generate_series(4001, 4007) n;
         -- Behind the first piece that is read at once.
         select lo_from_bytea(4100, decode(repeat('ab', 17 << 20), 'hex'));
         alter large object 4001 owner to blobs_owner; grant select on large object 4002 to blobs_owner;
         comment on large object 4003 is 'a photograph'",
    )
    .await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("backup");
    let manifest = backed_up(&source, &dir).await;
    let golden = golden(&source, &dir).await;
    let said = async || {
        let proof = compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap();
        proof.differences.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(said().await.is_empty());
    run(&golden, "select lo_put(4100, 17 << 20, '\\x00'), lo_put(4004, 777, '\\xff')").await;
    assert_eq!(
        said().await,
        ["large object 4004 has other contents", "large object 4100 has other contents"]
    );
    run(
        &golden,
        "select lo_unlink(4100), lo_unlink(4004), lo_create(4200);
         alter large object 4001 owner to postgres; revoke select on large object 4002 from blobs_owner;
         comment on large object 4003 is null",
    )
    .await;
    let wanted = [
        "large object 4001 has another owner or other privileges",
        "large object 4002 has another owner or other privileges",
        "large object 4003 has another comment",
        "large object 4004 is missing",
        "large object 4100 is missing",
        "large object 4200 is not in the dump",
    ];
    assert_eq!(said().await, wanted);
    // For another environment only the contents and comments count.
    let proof = compare(&manifest, &golden, Owners::Restorer, &mut quiet).await.unwrap();
    assert_eq!(proof.differences.len(), 4);
}
