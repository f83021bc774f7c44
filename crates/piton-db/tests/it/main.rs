//! Every operation against a real server.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helper that fails has failed the test")]

/// Makes two tests of each: one by the log, one by triggers.
macro_rules! by_both {
    ($($test:ident)*) => {
        mod log {
            $(#[tokio::test] async fn $test() { super::$test(crate::replay::By::Log).await })*
        }
        mod triggers {
            $(#[tokio::test] async fn $test() { super::$test(crate::replay::By::Triggers).await })*
        }
    };
}

mod adapters;
mod backup;
mod blockers;
mod capture;
mod catalogue;
mod corpus;
mod fingerprint;
mod finish;
mod freeze;
mod identity;
mod loss;
mod made;
mod mask;
mod migrate;
mod partitions;
mod rehearsal;
mod replay;
mod rescue;
mod shared;
mod soak;
mod swap;
mod target;
mod triggers;

use std::task::Poll;

use piton_db::Database;
use piton_db::identity::{Label, Purpose};
use piton_exec::Secret;
use piton_testkit::postgres::Cluster;
use tokio_postgres::Client;

/// Takes an empty database in the cluster that all tests share.
async fn fresh(name: &str) -> Option<(&'static Cluster, Database)> {
    let cluster = Cluster::shared()?;
    cluster.create_database(name).await;
    Some((cluster, database(cluster, name)))
}

fn database(cluster: &Cluster, name: &str) -> Database {
    Database::parse(&Secret::from(cluster.url("postgres"))).unwrap().with_name(name)
}

fn label(purpose: Purpose) -> Label {
    Label { app: "shop".into(), environment: "production".into(), release: Some("r1".into()), purpose }
}

async fn run(database: &Database, sql: &str) {
    let client = database.connect().await.unwrap();
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Where a future is dropped, as a kill would end it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// While its nth request is under way.
    Asked(usize),
    /// When the answer to its nth request is there, before it is looked at.
    Answered(usize),
}

/// Runs a future to a cut; returns its output when it ends before.
async fn cut<F: Future>(at: Cut, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let (Cut::Asked(limit) | Cut::Answered(limit)) = at;
    let mut polls = 0;
    std::future::poll_fn(move |context| {
        if polls == limit {
            return Poll::Ready(None);
        }
        polls += 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == limit && matches!(at, Cut::Asked(_)) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn quiet<T>(_: T) {}

/// A schema with what a dump makes hard: partitions, generated columns, names to quote, no key, no columns.
const HARD: &str = r#"
    create schema "Büro";
    create type mood as enum ('good', 'bad');
    create domain positive as int check (value > 0);
    create table "User" (id serial primary key, email text unique not null, mood mood default 'good', n positive,
        status varchar(10) check (status in ('a', 'b')), twice int generated always as (id * 2) stored,
        at timestamptz default now(), price numeric(10, 2), raw bytea, money money);
    insert into "User" (email, status, n, price, raw, money)
        select 'u' || i || E'\t\n\\' || chr(228), 'a', i, i / 3.0, decode(md5(i::text), 'hex'), i::money from generate_series(1, 500) i;
    create table "Büro"."a ""b"" c" ("x;y" int, "from" float8);
    insert into "Büro"."a ""b"" c" select i % 3, 1 / (i + 1.0)::float8 from generate_series(1, 100) i;
    create table nothing ();
    insert into nothing default values;
    insert into nothing default values;
    create table empty (a int);
    create table part (id int, at date) partition by range (at);
    create table part_1 (at date, id int);
    alter table part attach partition part_1 for values from ('2026-01-01') to ('2026-02-01');
    create table part_2 partition of part default;
    insert into part select i, '2026-01-20'::date + i from generate_series(1, 30) i;
    create table parent (a int, b text);
    create table child (c int) inherits (parent);
    insert into child values (1, 'x', 2);
    create table dropped (a int, b int, c int);
    alter table dropped drop column b;
    insert into dropped values (1, 3);
    create table secret (owner text, v text);
    alter table secret enable row level security;
    alter table secret force row level security;
    create policy own on secret using (owner = current_user);
    insert into secret values ('x', 'y');
    create index user_email_lower on "User" (lower(email)) where status in ('a', 'b');
    create view good_users as select id, email from "User" where mood = 'good';
    create materialized view counts as select count(*) from "User";
    create function touch() returns trigger language plpgsql as $$ begin new.at := now(); return new; end $$;
    create trigger touch before update on "User" for each row execute function touch();
    create unlogged table scratch (a int);
    comment on table "User" is 'people';
    alter table "User" add constraint later check (id > 0) not valid;
    select lo_from_bytea(0, 'blob');
"#;
