use std::collections::BTreeSet;

use piton_db::backup::{DumpOptions, dump};
use piton_db::fingerprint::{Change, Structure};
use piton_db::identity::Purpose;
use piton_db::prove::{Owners, compare, restore};
use piton_db::{Database, facts};
use piton_exec::Secret;
use piton_testkit::postgres::{Cluster, skip};
use tokio_postgres::Client;

use crate::catalogue::{CHANGES, EVERYTHING};
use crate::{HARD, database, fresh, label, number, quiet, run};

/// Makes a database with everything; `None` without a server.
async fn everything(name: &str) -> Option<(Cluster, Database)> {
    // Roles and tablespaces are the cluster's.
    let cluster = Cluster::start()?;
    cluster.create_database(name).await;
    let db = database(&cluster, name);
    run(&db, HARD).await;
    let client = db.connect().await.unwrap();
    for statement in EVERYTHING.split_inclusive(";\n") {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    Some((cluster, db))
}

/// Lists the statements that the server can run: some need a contributed module or ICU.
async fn runnable(client: &Client) -> Vec<(&'static str, &'static [&'static str])> {
    let contrib = "select count(*) from pg_catalog.pg_available_extensions where name = 'tablefunc'";
    let icu =
        "select count(*) from pg_catalog.pg_collation where collprovider = 'i' and collname <> 'unicode'";
    let (contrib, icu) = (number(client, contrib).await > 0, number(client, icu).await > 0);
    if !contrib {
        skip("the contributed modules of PostgreSQL");
    }
    if !icu {
        skip("PostgreSQL with ICU");
    }
    let needs_contrib = |s: &str| s.contains("tablefunc") || s.contains("normal_rand");
    let runs = |s: &str| (contrib || !needs_contrib(s)) && (icu || !s.contains("icu"));
    CHANGES.iter().copied().filter(|(statement, _)| runs(statement)).collect()
}

fn is_privilege(object: &str) -> bool {
    ["owner of ", "grants on ", "default privileges of "].iter().any(|begin| object.starts_with(begin))
}

async fn apply(client: &Client, statement: &str) {
    let statement = format!("begin; set local search_path = public; {statement}; commit");
    client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
}

#[tokio::test]
async fn every_kind_of_change_is_seen_and_named() {
    let Some((_cluster, db)) = everything("structures").await else { return };
    let client = db.connect().await.unwrap();
    let mut before = Structure::read(&client).await.unwrap();
    assert_eq!(before.hash(), Structure::read(&client).await.unwrap().hash());
    let mut runnable = runnable(&client).await;
    assert!(runnable.len() > 90);
    // No label provider is at hand, and pg_restore would ask for it: so this one comes last and is not dumped.
    runnable.push((
        "insert into pg_catalog.pg_seclabel values ('team'::regclass, 'pg_catalog.pg_class'::regclass, 0, 'mac', 'x')",
        &["security label of mac on table public.team"],
    ));
    for (statement, objects) in runnable {
        apply(&client, statement).await;
        let after = Structure::read(&client).await.unwrap();
        let changes = before.changes_to(&after);
        let named: BTreeSet<&str> = changes
            .iter()
            .map(Change::object)
            .filter(|object| objects.contains(object) || !is_privilege(object))
            .collect();
        assert_eq!(named, objects.iter().copied().collect(), "{statement}");
        assert_ne!(after.hash(), before.hash());
        if objects.iter().all(|object| is_privilege(object)) {
            assert_eq!(before.without_privileges(), after.without_privileges(), "{statement}");
        }
        before = after;
    }
    let said = before.0.values().find(|definition| definition.contains("password=other"));
    assert_eq!(said, None, "a password");
}

#[tokio::test]
async fn a_dump_and_its_restore_change_nothing() {
    let Some((_cluster, db)) = everything("dumped").await else { return };
    let client = db.connect().await.unwrap();
    for (statement, _) in runnable(&client).await {
        apply(&client, statement).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("backup");
    let manifest = dump(&db, &dir, &crate::backup::shop(), DumpOptions::default(), &mut quiet).await.unwrap();
    let golden = db.with_name("dumped_golden");
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
    let proof = compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap();
    let said: Vec<String> = proof.differences.iter().map(ToString::to_string).collect();
    // What pg_dump does not write is found missing, not overlooked.
    assert_eq!(
        said,
        [
            "disabled triggers of constraint public.player.of_team on public.player is missing",
            "disabled triggers of constraint public.player.sole on public.player is missing",
            "grants on language sql is missing",
        ]
    );
    assert!(proof.objects > 300, "{}", proof.objects);
}

#[tokio::test]
async fn a_user_without_rights_reads_the_listing_too() {
    let Some((cluster, db)) = everything("unprivileged").await else { return };
    run(&db, "create role plain login").await;
    let url = cluster.url_as("plain", "x", "unprivileged");
    let plain = Structure::of(&Database::parse(&Secret::from(url)).unwrap()).await.unwrap();
    let changes = Structure::of(&db).await.unwrap().changes_to(&plain);
    let differing: Vec<&str> = changes.iter().map(Change::object).collect();
    assert_eq!(differing, ["connection of subscription sub", "user mapping for listed at far"]);
}

#[tokio::test]
async fn a_log_in_that_the_dump_has_lost_the_password_of_fails_the_proof() {
    let Some((cluster, db)) = fresh("log_ins").await else { return };
    let client = db.connect().await.unwrap();
    if number(&client, "select count(*) from pg_available_extensions where name = 'postgres_fdw'").await == 0
    {
        return skip("the contributed modules of PostgreSQL");
    }
    run(
        &db,
        "create role log_ins_owner login; create role log_ins_app;
         create extension postgres_fdw; create server far foreign data wrapper postgres_fdw options (host 'far.example');
         alter server far owner to log_ins_owner;
         create user mapping for log_ins_owner server far options (user 'own', password 'hunter2');
         create user mapping for log_ins_app server far options (user 'app', password 'hunter3');
         create user mapping for public server far options (user 'all')",
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let golden = db.with_name("log_ins_golden");
    let owner = Database::parse(&Secret::from(cluster.url_as("log_ins_owner", "x", "log_ins"))).unwrap();
    let lost = "user mapping for log_ins_app at far was `password=…, user=…` and is ``";
    for (name, of, wanted) in [("all", &db, &[][..]), ("owner", &owner, &[lost])] {
        let dir = folder.path().join(name);
        let manifest =
            dump(of, &dir, &crate::backup::shop(), DumpOptions::default(), &mut quiet).await.unwrap();
        restore(&dir, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
        for user in ["postgres", "log_ins_owner"] {
            if name == "all" && user != "postgres" {
                continue;
            }
            let url = cluster.url_as(user, "x", "log_ins_golden");
            let copy = Database::parse(&Secret::from(url)).unwrap();
            let proof = compare(&manifest, &copy, Owners::Kept, &mut quiet).await.unwrap();
            let said: Vec<String> = proof.differences.iter().map(ToString::to_string).collect();
            assert_eq!(said, wanted, "dumped by {name}, compared by {user}");
        }
    }
}

/// What the second half of the listing is for, each with what has to be there before.
const RARE: [(&str, &str, &str); 18] = [
    (
        "operator public.===(integer, integer)",
        "create function public.same(int, int) returns bool language internal immutable as 'int4eq'",
        "create operator public.=== (leftarg = int, rightarg = int, function = public.same)",
    ),
    ("operator family public.fam using btree", "", "create operator family public.fam using btree"),
    (
        "operator class public.down using btree",
        "",
        "create operator class public.down for type int using btree as function 1 btint4cmp(int, int)",
    ),
    ("collation public.swedish", "", "create collation public.swedish (locale = 'C.UTF-8')"),
    (
        "conversion public.conv",
        "",
        "create conversion public.conv for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8",
    ),
    (
        "statistics public.stat",
        "create table public.t (a int, b int)",
        "create statistics public.stat on a, b from public.t",
    ),
    (
        "text search configuration public.words",
        "",
        "create text search configuration public.words (copy = simple)",
    ),
    (
        "text search dictionary public.stems",
        "",
        "create text search dictionary public.stems (template = simple)",
    ),
    (
        "text search parser public.own",
        "",
        "create text search parser public.own
        (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype)",
    ),
    (
        "text search template public.own",
        "",
        "create text search template public.own (lexize = dsimple_lexize)",
    ),
    (
        "cast integer as public.mood",
        "create type public.mood as enum ('good')",
        "create cast (int as public.mood) with inout",
    ),
    (
        "transform for integer language sql",
        "create function public.via(internal) returns internal language internal immutable as 'prsd_lextype'",
        "create transform for int language sql (from sql with function public.via(internal))",
    ),
    ("language speech", "", "create language speech handler plpgsql_call_handler"),
    ("access method shelf", "", "create access method shelf type table handler heap_tableam_handler"),
    ("foreign-data wrapper wrap", "", "create foreign data wrapper wrap"),
    (
        "event trigger watch",
        "create function public.seen() returns event_trigger language plpgsql as 'begin end'",
        "create event trigger watch on ddl_command_end execute function public.seen()",
    ),
    ("publication pub", "", "create publication pub"),
    (
        "subscription sub",
        "",
        "create subscription sub connection 'host=nowhere' publication a with (connect = false, slot_name = none)",
    ),
];

#[tokio::test]
async fn what_few_databases_have_is_listed_where_there_is_nothing_else_of_it() {
    let Some((_, db)) = fresh("rare").await else { return };
    let client = db.connect().await.unwrap();
    let there = client.query_one(include_str!("../../src/catalogue/rare_there.sql"), &[]).await.unwrap();
    assert!(!there.get::<_, bool>(0), "there is something else of it");
    for (object, before, statement) in RARE {
        for statement in ["begin", before, statement] {
            client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        let structure = Structure::read(&client).await.unwrap();
        assert!(structure.0.contains_key(object), "{object}: {structure:#?}");
        client.batch_execute("rollback").await.unwrap();
    }
}

#[tokio::test]
async fn what_an_extension_brought_is_not_listed() {
    let Some((_, db)) = fresh("extended").await else { return };
    let client = db.connect().await.unwrap();
    if number(&client, "select count(*) from pg_available_extensions where name = 'btree_gist'").await == 0 {
        return skip("the contributed modules of PostgreSQL");
    }
    let before = Structure::of(&db).await.unwrap();
    run(&db, "create extension btree_gist; create extension hstore; create extension postgres_fdw").await;
    let changes = before.changes_to(&Structure::of(&db).await.unwrap());
    let of_extensions = |change: &Change| {
        let object = change.object();
        object.starts_with("extension ") || object.starts_with("comment on extension ")
    };
    assert!(changes.len() == 6 && changes.iter().all(of_extensions), "{changes:?}");
}

#[tokio::test]
async fn what_people_add_to_an_extension_fails_the_proof() {
    let Some((_, db)) = fresh("added_to").await else { return };
    let client = db.connect().await.unwrap();
    let there =
        "select count(*) from pg_available_extensions where name in ('hstore', 'citext', 'postgres_fdw')";
    if number(&client, there).await < 3 {
        return skip("the contributed modules of PostgreSQL");
    }
    run(&db, "create extension hstore; create extension citext; create extension postgres_fdw").await;
    assert_eq!(differences(&db, "added_to_golden", "select").await, Vec::<String>::new());
    run(
        &db,
        "create table kept (a int); insert into kept values (1), (2); create index kept_a on kept (a);
         create function kept() returns trigger language plpgsql as 'begin return new; end';
         alter extension hstore add table kept;
         alter table kept add column b int default 7, add constraint big check (a > 0);
         create trigger kept before insert on kept for each row execute function kept();
         comment on column kept.a is 'ours'; comment on type hstore is 'theirs'",
    )
    .await;
    let dropped = "is missing: no dump has what was added to an extension";
    assert_eq!(
        differences(&db, "added_to_golden", "select").await,
        [
            format!("extension hstore: column public.kept.a {dropped}"),
            format!("extension hstore: column public.kept.b {dropped}"),
            format!("extension hstore: comment on table column public.kept.a {dropped}"),
            format!("extension hstore: comment on type public.hstore {dropped}"),
            format!("extension hstore: constraint public.kept.big {dropped}"),
            format!("extension hstore: index public.kept_a {dropped}"),
            "extension hstore: table public.kept is missing: no dump has what was made a member; ALTER EXTENSION hstore DROP TABLE \
             public.kept makes it the database's own"
                .to_owned(),
            format!("extension hstore: trigger public.kept.kept {dropped}"),
        ]
    );
    run(&db, "alter extension hstore drop table kept; comment on type hstore is null").await;
    assert_eq!(differences(&db, "added_to_golden", "select").await, Vec::<String>::new());
}

#[tokio::test]
async fn rows_that_an_extension_keeps_in_its_own_table_are_its_own() {
    // An extension of its own in a server's folder of extensions is nobody's to write to: one that is there is given a table that
    // its own script would have made, in the copy as well.
    let Some((_, db)) = fresh("seeded").await else { return };
    let client = db.connect().await.unwrap();
    if number(&client, "select count(*) from pg_available_extensions where name = 'hstore'").await == 0 {
        return skip("the contributed modules of PostgreSQL");
    }
    let seed =
        "create table seed (a int); insert into seed values (1), (2); alter extension hstore add table seed";
    run(&db, &format!("create extension hstore; {seed}; insert into seed values (3)")).await;
    assert_eq!(differences(&db, "seeded_golden", seed).await, Vec::<String>::new());
    // But whoever drops the original is told of them.
    assert_eq!(piton_db::brought::filled(&client).await.unwrap(), ["\"public\".\"seed\""]);
    run(&db, "delete from seed").await;
    assert_eq!(piton_db::brought::filled(&client).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn a_language_that_was_made_anew_is_no_addition_to_its_extension() {
    // As a script of `pg_dump --clean` does: its numbers are those of what people make, and template0's are not.
    let Some((_, db)) = fresh("spoken").await else { return };
    run(
        &db,
        "drop extension plpgsql cascade; create extension plpgsql;
         create function one() returns int language plpgsql as 'begin return 1; end'",
    )
    .await;
    assert_eq!(differences(&db, "spoken_golden", "select").await, Vec::<String>::new());
}

/// Backs a database up and tells in which words the proof fails; in the copy something is run before it is compared.
async fn differences(db: &Database, golden: &str, before: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("backup");
    let golden = db.with_name(golden);
    let manifest = dump(db, &dir, &crate::backup::shop(), DumpOptions::default(), &mut quiet).await.unwrap();
    restore(&dir, &golden, &label(Purpose::Golden), Owners::Kept, 2, &mut quiet).await.unwrap();
    run(&golden, before).await;
    let proof = compare(&manifest, &golden, Owners::Kept, &mut quiet).await.unwrap();
    proof.differences.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn owners_and_privileges_are_told_apart() {
    let Some((_, db)) = fresh("privileges").await else { return };
    run(&db, "create table t (a int); create role privileges_user").await;
    let client = db.connect().await.unwrap();
    let before = Structure::read(&client).await.unwrap();
    run(&db, "grant select on t to privileges_user; grant update (a) on t to privileges_user").await;
    run(&db, "create function f() returns int language sql as 'select 1'; drop function f()").await;
    let after = Structure::read(&client).await.unwrap();
    assert_eq!(before.changes_to(&after).len(), 2);
    assert_eq!(before.without_privileges(), after.without_privileges());
}

#[tokio::test]
async fn the_facts_are_measured() {
    let Some((cluster, db)) = fresh("measured").await else { return };
    run(&db, "create table big as select generate_series(1, 5000) a; create table small (); analyze").await;
    let _other = cluster.connect("measured").await;
    let facts = facts::read(&db.connect().await.unwrap()).await.unwrap();
    assert_eq!((facts.tables[0].name.as_str(), facts.tables[0].estimated_rows), ("public.big", 5000));
    assert!(facts.size > facts.tables[0].bytes && facts.tables[0].bytes > 100_000);
    assert!(facts.writable && facts.sessions >= 1);
    assert_eq!(facts.data_directory.unwrap(), cluster.data_dir());
    assert!(!facts::exists(&db.with_name("nowhere")).await.unwrap());
}
