use piton_db::facts;
use piton_db::fingerprint::{Change, Structure};

use crate::{HARD, fresh, run};

/// Each statement, and the object that it alone touches.
const CHANGES: [(&str, &str); 22] = [
    ("alter table \"User\" alter n set not null", "column public.\"User\".n"),
    ("alter table \"User\" alter mood set default 'bad'", "column public.\"User\".mood"),
    ("alter table secret alter v type varchar(90) collate \"C\"", "column public.secret.v"),
    ("alter table \"User\" alter twice drop expression", "column public.\"User\".twice"),
    ("alter table \"User\" drop constraint later", "constraint public.\"User\".later"),
    ("alter table \"User\" validate constraint later", "constraint public.\"User\".later"),
    ("alter table \"User\" disable trigger touch", "trigger public.\"User\".touch"),
    ("alter table \"User\" enable row level security", "table public.\"User\""),
    ("alter table \"User\" set (fillfactor = 70)", "table public.\"User\""),
    ("drop index user_email_lower", "index public.user_email_lower"),
    ("alter type mood add value 'so so' before 'bad'", "type public.mood"),
    ("alter domain positive set default 3", "domain public.positive"),
    (
        "create or replace function touch() returns trigger language plpgsql as 'begin return null; end'",
        "function public.touch()",
    ),
    (
        "create or replace view good_users as select id, email from \"User\" where mood = 'bad'",
        "view public.good_users",
    ),
    ("alter sequence \"User_id_seq\" increment 2", "sequence public.\"User_id_seq\""),
    ("alter policy own on secret using (true)", "policy public.secret.own"),
    ("comment on column \"User\".email is 'private'", "comment on column email of table public.\"User\""),
    ("alter table part detach partition part_2", "table public.part_2"),
    ("create aggregate total(int) (sfunc = int4pl, stype = int)", "aggregate public.total(integer)"),
    ("create statistics pair on email, n from \"User\"", "statistics public.pair"),
    ("create publication p for table nothing", "publication p"),
    ("create rule r as on delete to nothing do instead nothing", "rule public.nothing.r"),
];

#[tokio::test]
async fn every_kind_of_change_is_seen_and_named() {
    let Some((_, db)) = fresh("structures").await else { return };
    run(&db, HARD).await;
    let client = db.connect().await.unwrap();
    let before = Structure::read(&client).await.unwrap();
    assert_eq!(before.hash(), Structure::read(&client).await.unwrap().hash());
    for (statement, object) in CHANGES {
        client.batch_execute(&format!("begin; set local search_path = public; {statement}")).await.unwrap();
        let after = Structure::read(&client).await.unwrap();
        client.batch_execute("rollback").await.unwrap();
        let changes = before.changes_to(&after.without_privileges());
        let named: Vec<&str> = changes
            .iter()
            .map(|change| match change {
                Change::Added { object, .. }
                | Change::Removed { object, .. }
                | Change::Changed { object, .. } => object.as_str(),
            })
            .filter(|name| !name.starts_with("owner of") && !name.starts_with("grants on"))
            .collect();
        assert_eq!(named, [object], "{statement}");
        assert_ne!(after.hash(), before.hash());
    }
    assert_eq!(Structure::read(&client).await.unwrap(), before);
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
