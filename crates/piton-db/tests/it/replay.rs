use std::sync::OnceLock;

use piton_db::capture::triggers::{install, remove};
use piton_db::capture::{Snapshot, Source, create_slot, slot_name, snapshot};
use piton_db::identity::Purpose;
use piton_db::made::clone_from;
use piton_db::migrate::RecordTables;
use piton_db::replay::{
    ChangedColumn, Down, Finished, Load, Offer, Replay, Watch, give_up, note_applied, note_layout, offer,
    prepare, rescue,
};
use piton_db::{Database, DbError};
use piton_testkit::postgres::{Cluster, Options};

use crate::{Cut, cut, database, label, number, run};

/// Returns the cluster with logical decoding that the tests here share.
fn cluster() -> Option<&'static Cluster> {
    static LOGICAL: OnceLock<Option<Cluster>> = OnceLock::new();
    let settings = [
        ("wal_level", "logical"),
        ("max_slot_wal_keep_size", "4GB"),
        ("max_replication_slots", "40"),
        ("max_wal_senders", "40"),
        ("autovacuum_naptime", "1d"),
    ];
    let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
    LOGICAL.get_or_init(|| Cluster::start_with(Options { settings, ..Options::default() })).as_ref()
}

/// Where the writes are read from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By {
    Log,
    Triggers,
}

by_both! {
    writes_before_while_and_after_a_migration_come_back
    what_the_migration_itself_writes_is_left_out
    a_changed_meaning_is_refused_and_a_fitting_type_is_not
    a_value_that_is_equal_and_another_one_comes_back
    a_down_expression_has_to_give_every_value_back
    a_removed_column_that_must_have_a_value_wants_a_down_expression
    a_row_that_a_down_expression_cannot_read_is_set_aside
    half_a_migration_is_no_reason_to_believe_in_a_down_expression
    rows_that_changed_places_come_back
    a_row_that_is_set_aside_may_get_another_key
    a_row_without_its_parent_is_taken_out_by_name
    a_large_transaction_of_the_migration_is_known_in_the_end
    a_replay_that_is_cut_off_anywhere_goes_on_to_the_same_end
    what_the_old_structure_cannot_hold_is_saved_and_loaded_again
    a_row_with_the_key_of_one_that_is_gone_has_nothing_of_it
    rows_of_an_heir_are_left_alone
    a_down_expression_counts_after_a_migration_of_which_the_log_says_little
}

/// A live database, its golden copy, and the source that is older than it.
pub(crate) struct Scene {
    pub(crate) live: Database,
    pub(crate) golden: Database,
    pub(crate) source: Source,
    pub(crate) sees: Snapshot,
    pub(crate) record: RecordTables,
}

impl Scene {
    pub(crate) async fn new(by: By, name: &str, setup: &str) -> Option<Self> {
        Some(Self::on(cluster()?, by, name, setup).await)
    }

    pub(crate) async fn on(cluster: &Cluster, by: By, name: &str, setup: &str) -> Self {
        let name = &match by {
            By::Log => name.to_owned(),
            By::Triggers => format!("{name}_triggers"),
        };
        cluster.create_database(name).await;
        let live = database(cluster, name);
        let record = "create schema piton; create table piton.migrations (name text primary key)";
        run(&live, record).await;
        run(&live, setup).await;
        let source = match by {
            By::Log => {
                create_slot(&live, &slot_name(name)).await.unwrap();
                Source::log(slot_name(name))
            }
            By::Triggers => {
                install(&live, 1 << 30).await.unwrap();
                Source::Triggers
            }
        };
        let sees = snapshot(&live.connect().await.unwrap()).await.unwrap();
        let golden = live.with_name(&format!("{name}_golden"));
        clone(&golden, name).await;
        // No dump has them.
        remove(&golden).await.unwrap();
        Self { live, golden, source, sees, record: RecordTables::default() }
    }

    /// Tries a migration on a copy.
    pub(crate) async fn rehearse(&self, migration: &str, downs: &[Down]) -> Offer {
        let copy = self.live.with_name(&format!("{}_copy", self.live.dbname));
        clone(&copy, &self.golden.dbname).await;
        let watch = Watch::begin(&copy, &self.source).await.unwrap();
        run(&copy, &recorded(migration)).await;
        let own = watch.end(&self.record).await.unwrap();
        offer(&self.golden, &copy, &own, &self.record, downs).await.unwrap()
    }

    async fn drop_copy(&self) {
        let copy = format!("drop database {}_copy", self.live.dbname);
        piton_testkit::postgres::eventually("the copy goes", async || {
            let client = self.live.maintenance().await.unwrap();
            client.batch_execute(&copy).await.is_ok()
        })
        .await;
    }

    pub(crate) async fn migrate(&self, migration: &str) -> Offer {
        self.migrate_with(migration, &[]).await
    }

    async fn migrate_with(&self, migration: &str, downs: &[Down]) -> Offer {
        let offer = self.rehearse(migration, downs).await;
        assert_eq!(offer.obstacles, [""; 0]);
        prepare(&self.golden, &self.live, &self.sees, &self.record, &offer.way).await.unwrap();
        run(&self.live, &recorded(migration)).await;
        note_layout(&self.golden, &self.live).await.unwrap();
        note_applied(&self.golden).await.unwrap();
        offer
    }

    pub(crate) async fn replay(&self) -> Result<Replay, DbError> {
        let mut replay = Replay::resume(&self.golden, &self.live, &self.source).await?;
        let upto = self.source.now(&self.live.connect().await.unwrap()).await?;
        replay.reach(upto).await?;
        Ok(replay)
    }

    pub(crate) async fn rewind(&self) -> Finished {
        let finished = self.replay().await.unwrap().finish().await.unwrap().commit().await.unwrap();
        give_up(&self.golden).await.unwrap();
        self.let_go().await;
        finished
    }

    pub(crate) async fn let_go(&self) {
        self.source.let_go(&self.live).await.unwrap();
    }

    pub(crate) async fn golden(&self, sql: &str) -> String {
        let client = self.golden.connect().await.unwrap();
        let sql =
            format!("select coalesce(string_agg(row_::text, ' ' order by row_::text), '') from ({sql}) row_");
        client.query_one(&sql, &[]).await.unwrap().get(0)
    }
}

async fn clone(to: &Database, from: &str) {
    // A session that has just ended may still be seen.
    piton_testkit::postgres::eventually("it is copied", async || {
        clone_from(to, from, &label(Purpose::Golden)).await.is_ok()
    })
    .await;
}

/// What a tool runs that records its work in the same transaction.
pub(crate) fn recorded(migration: &str) -> String {
    format!(
        "set piton.migrating = on; begin; {migration}; insert into piton.migrations select count(*) from piton.migrations; commit"
    )
}

async fn writes_before_while_and_after_a_migration_come_back(by: By) {
    let setup = "create table t (id serial primary key, name text not null, n int);
                 insert into t (name, n) select 'row ' || i, i from generate_series(1, 5) i";
    let Some(scene) = Scene::new(by, "replay_whole", setup).await else { return };
    run(&scene.live, "update t set n = 10 where id = 1; insert into t (name, n) values ('before', 6)").await;
    scene
        .migrate("alter table t rename to people; alter table people rename name to full_name; alter table people add extra int default 7")
        .await;
    run(
        &scene.live,
        "insert into people (full_name, n, extra) values ('after', 7, 8); update people set full_name = 'x' where id = 2;
         delete from people where id = 3; update people set id = 100 where id = 4",
    )
    .await;
    let finished = scene.rewind().await;
    assert_eq!(finished.aside, []);
    let rows = scene.golden("select * from t").await;
    assert_eq!(rows, "(1,\"row 1\",10) (100,\"row 4\",4) (2,x,2) (5,\"row 5\",5) (6,before,6) (7,after,7)");
    run(&scene.golden, "insert into t (name, n) values ('next', 8)").await;
    assert_eq!(scene.golden("select id from t where name = 'next'").await, "(8)");
}

async fn what_the_migration_itself_writes_is_left_out(by: By) {
    let setup = "create table t (id int primary key, status text, n int);
                 insert into t select i, case when i % 2 = 0 then 'old' end, i from generate_series(1, 6) i";
    let Some(scene) = Scene::new(by, "replay_own", setup).await else { return };
    let offer = scene
        .migrate(
            "update t set status = 'new' where status is null; alter table t alter status set not null;
             insert into t values (10, 'made', 10); delete from t where id = 6",
        )
        .await;
    let wanted = [
        r#"1 row of "public"."t" that the migration makes will not be there"#,
        r#"1 row of "public"."t" that the migration removes will be there again"#,
    ];
    assert_eq!(offer.costs, wanted);
    run(
        &scene.live,
        "update t set n = 100 where id = 1; update t set status = 'written' where id = 3; update t set n = 11 where id = 10;
         update t set status = 'x' where id = 5; update t set status = 'new' where id = 5",
    )
    .await;
    let finished = scene.rewind().await;
    let rows = scene.golden("select * from t").await;
    assert_eq!(rows, "(1,,100) (2,old,2) (3,written,3) (4,old,4) (5,new,5) (6,old,6)");
    let aside: Vec<_> = finished.aside.iter().map(|row| (row.key.join(","), row.why.as_str())).collect();
    assert_eq!(aside, [("10".to_owned(), "the migration has made the row")]);
}

/// A publication of all tables comes with the backup, and is of those as well that a replay keeps its place in.
#[tokio::test]
async fn a_copy_of_which_everything_is_published_follows() {
    let setup =
        "create table t (id int primary key, n int); insert into t select i, i from generate_series(1, 5) i;
                 create publication everything for all tables";
    let Some(scene) = Scene::new(By::Log, "replay_published", setup).await else { return };
    let offer = scene.migrate("alter table t add column x int; create table made (id int primary key)").await;
    assert_eq!(offer.obstacles, [""; 0]);
    run(&scene.live, "insert into made values (1), (2); insert into t values (6, 6)").await;
    scene.replay().await.unwrap();
    run(
        &scene.live,
        "delete from made where id = 1; update t set n = 10 where id = 1; delete from t where id in (2, 6)",
    )
    .await;
    scene.rewind().await;
    assert_eq!(scene.golden("select * from t").await, "(1,10) (3,3) (4,4) (5,5)");
}

async fn a_changed_meaning_is_refused_and_a_fitting_type_is_not(by: By) {
    let setup = "create table t (id int primary key, price numeric(10, 2), at timestamptz, mail text, n int);
                 insert into t select i, i, '2026-01-01', 'A' || i, i from generate_series(1, 5) i";
    let Some(scene) = Scene::new(by, "replay_meaning", setup).await else { return };
    for (migration, obstacle) in [
        (
            "update t set mail = lower(mail)",
            r#"the migration changes what is in "public"."t"."mail": 5 rows hold another value"#,
        ),
        (
            "alter table t alter price type int using price * 100",
            r#"the migration changes what is in "public"."t"."price": 5 rows hold another value"#,
        ),
        ("update t set id = id + 100", r#"the migration gives rows of "public"."t" other keys"#),
        (
            "alter table t drop constraint t_pkey",
            r#""public"."t" has no key, so that the log does not tell which row is changed or removed"#,
        ),
    ] {
        let offer = scene.rehearse(migration, &[]).await;
        // Triggers note the whole row of what has no key.
        let noted = matches!(by, By::Triggers) && obstacle.contains("has no key");
        let wanted = if noted { vec![] } else { vec![obstacle] };
        assert_eq!(offer.obstacles, wanted, "{migration}");
        scene.drop_copy().await;
    }
    let offer =
        scene.migrate("alter table t alter price type numeric; alter table t alter n type bigint").await;
    assert_eq!(offer.costs, [""; 0]);
    run(&scene.live, "update t set price = 1.234 where id = 1; update t set price = 5.5, n = 5000000000 where id = 2; update t set n = 7").await;
    let finished = scene.rewind().await;
    let rows = scene.golden("select id, price, n from t where id < 4").await;
    // The price has no third digit there, so that the row stays as it was; n was too large for a moment alone.
    assert_eq!(rows, "(1,1.00,1) (2,5.50,7) (3,3.00,7)");
    assert_eq!(finished.aside.len(), 1, "{finished:?}");
}

fn down(column: &str, is: &str) -> Down {
    let (migration, table) = ("002_cents.sql".to_owned(), "public.t".to_owned());
    Down { migration, table, column: column.to_owned(), is: is.to_owned() }
}

/// Whoever tells what a column was is believed when it shows, and then only.
async fn a_down_expression_has_to_give_every_value_back(by: By) {
    let setup = "create table t (id int primary key, price numeric(10, 2), n int, old int, sum int generated always as (n + 1) stored);
                 insert into t select i, i + 0.5, i, i from generate_series(1, 5) i; update t set old = null;
                 create table other (price int primary key); create function cheap(int) returns int language sql volatile as 'select $1';
                 create function raises(int) returns int language plpgsql stable as $$ begin raise 'no'; end $$;
                 create function writes(int) returns int language plpgsql stable as $$ begin return public.deletes($1); end $$;
                 create function deletes(int) returns int language plpgsql as $$ begin delete from public.other; return $1; end $$";
    let Some(scene) = Scene::new(by, "replay_down", setup).await else { return };
    let migration = "alter table t add cents int; update t set cents = price * 100, old = 0; alter table t drop column price";
    let of_price = "piton.toml, [[database.down]] of 002_cents.sql for public.t.price: ";
    for (column, is, obstacle) in [
        (
            "price",
            "cents / 10.0",
            r#"the down expression of "public"."t"."price" in piton.toml, `cents / 10.0`, does not give back what was there in 5 rows"#,
        ),
        // What is lost in a cast is lost.
        (
            "price",
            "(cents + 0.1) / 100.0",
            r#"the down expression of "public"."t"."price" in piton.toml, `(cents + 0.1) / 100.0`, does not give back what was there in 5 rows"#,
        ),
        (
            "old",
            "old",
            r#"the down expression of "public"."t"."old" in piton.toml, `old`, does not give back what was there in 5 rows"#,
        ),
        (
            "old",
            "nullif(old, 0)",
            r#"no row shows whether the down expression of "public"."t"."old" in piton.toml, `nullif(old, 0)`, gives back what was there"#,
        ),
        (
            "price",
            "cents || ' cents'",
            r#"the down expression of "public"."t"."price" in piton.toml, `cents || ' cents'`, gives a value that is no numeric(10,2)"#,
        ),
        ("price", "price / 100", r#"cannot be understood: column "price" does not exist"#),
        ("price", "cents / (n - 3)", "fails: a row is no good for it (22012)"),
        ("price", "public.raises(cents)", "fails: no"),
        ("price", "public.writes(cents)", "fails: cannot execute DELETE in a read-only transaction"),
        (
            "price",
            "public.cheap(cents)",
            "calls public.cheap(integer), which is volatile: it may give another value each time",
        ),
        (
            "price",
            "(select max(price) from public.other)",
            "reads other rows: it may use the columns of its own row alone",
        ),
        ("price", "max(cents)", "reads other rows: it may use the columns of its own row alone"),
        ("price", "cents, n", "cannot be understood"),
        ("price", "cents) as v from public.t; drop table public.t; select (1", "cannot be understood"),
        ("price", "tableoid::int", "reads more than columns"),
        ("sum", "n + 1", "is for a column that is computed: nobody writes it"),
        ("id", "id", "is for a part of the key by which the table's rows are known"),
        ("prize", "cents", r#"is for a column that is not there before the migration: "prize""#),
    ] {
        let offer = scene.rehearse(migration, &[down(column, is)]).await;
        let said = offer.obstacles.iter().any(|said| {
            let (whole, part) = (said == obstacle, said.starts_with(of_price) || column != "price");
            whole || part && said.contains(&format!("`{is}`")) && said.contains(obstacle)
        });
        assert!(said, "{is}: {:?}", offer.obstacles);
        scene.drop_copy().await;
    }
    let elsewhere = Down { table: "shop.t".into(), ..down("price", "cents") };
    let offer = scene.rehearse(migration, &[elsewhere]).await;
    let wanted = "piton.toml, [[database.down]] of 002_cents.sql for shop.t.price: `cents` is for a table that is not there before the migration: shop.t";
    assert_eq!(offer.obstacles, [wanted]);
    scene.drop_copy().await;
    let offer = scene.rehearse(migration, &[down("price", "cents / 100.0")]).await;
    assert_eq!(offer.obstacles, [""; 0]);
    scene.let_go().await;
}

async fn a_removed_column_that_must_have_a_value_wants_a_down_expression(by: By) {
    let setup = "create table t (id int primary key, price numeric(10, 2) not null);
                 insert into t select i, i + 0.5 from generate_series(1, 5) i;
                 create table bare (price int not null); alter table bare replica identity full";
    let Some(scene) = Scene::new(by, "replay_down_removed", setup).await else { return };
    let migration =
        "alter table t add cents int; update t set cents = price * 100; alter table t drop column price";
    let offer = scene.rehearse(migration, &[]).await;
    assert_eq!(offer.obstacles.len(), 1, "{offer:?}");
    assert!(
        offer.obstacles[0].starts_with(r#""public"."t"."price" is removed, has no default"#),
        "{offer:?}"
    );
    let wanted = ChangedColumn { table: "public.t".into(), column: "price".into() };
    assert_eq!(offer.changed, [wanted]);
    scene.drop_copy().await;
    let offer = scene.rehearse(migration, &[down("price", "cents / 100.0")]).await;
    assert_eq!((offer.obstacles, offer.changed), (vec![], vec![]));
    scene.drop_copy().await;
    // A table without a key takes no expression.
    let offer = scene.rehearse("alter table bare add n int; alter table bare drop column price", &[]).await;
    assert!(!offer.obstacles.is_empty() && offer.changed.is_empty(), "{offer:?}");
    scene.let_go().await;
}

/// An expression may be right for every row that was there and fail for a later one, or give what the old type does not hold.
async fn a_row_that_a_down_expression_cannot_read_is_set_aside(by: By) {
    let setup = "create table t (id int primary key, price numeric(10, 2), n int); insert into t select i, i, i from generate_series(1, 6) i";
    let Some(scene) = Scene::new(by, "replay_down_rows", setup).await else { return };
    let migration = "alter table t add cents int, add per int not null default 1; update t set cents = price * 100; alter table t drop column price";
    scene.migrate_with(migration, &[down("price", "cents / per / 100.0")]).await;
    run(
        &scene.live,
        "update t set cents = 150; update t set per = 0 where id = 2; insert into t values (7, 7, 700, 0), (8, 8, 800, 2);
         update t set per = 0 where id in (3, 4, 5); update t set per = 1, n = 30 where id = 3; update t set id = 40 where id = 4;
         delete from t where id = 5; update t set cents = null, per = 0 where id = 6",
    )
    .await;
    drop(scene.replay().await.unwrap());
    run(&scene.live, "update t set per = 3 where id = 40").await;
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("rescue.jsonl");
    let finished = scene.replay().await.unwrap().finish().await.unwrap().commit().await.unwrap();
    let aside: Vec<_> = finished.aside.iter().map(|row| (row.key.join(","), row.why.as_str())).collect();
    let why = "its down expression fails (22012)";
    assert_eq!(aside, [("2".to_owned(), why), ("7".to_owned(), why)]);
    let rows = scene.golden("select * from t").await;
    assert_eq!(rows, "(1,1.50,1) (2,2.00,2) (3,1.50,30) (40,0.50,4) (6,,6) (8,4.00,8)");
    // What it is computed from is nothing new.
    let rescued = rescue(&scene.golden, &scene.live, &file).await.unwrap().unwrap();
    assert_eq!(rescued.rows, 2);
    give_up(&scene.golden).await.unwrap();
    scene.let_go().await;
}

/// What means something else in the end means nobody knows what before that.
async fn half_a_migration_is_no_reason_to_believe_in_a_down_expression(by: By) {
    let setup = "create table t (id int primary key, price int, note text); insert into t select i, i from generate_series(1, 4) i";
    let Some(scene) = Scene::new(by, "replay_half", setup).await else { return };
    let (first, second) = ("update t set price = price * 10", "update t set price = price * 10");
    let both = format!("{first}; insert into piton.migrations values ('half'); commit; begin; {second}");
    let offer = scene.rehearse(&both, &[down("price", "price / 100")]).await;
    assert_eq!(offer.obstacles, [""; 0]);
    run(&scene.live, "update t set price = 11 where id = 1").await;
    prepare(&scene.golden, &scene.live, &scene.sees, &scene.record, &offer.way).await.unwrap();
    run(&scene.live, &recorded(first)).await;
    run(&scene.live, "update t set price = 50 where id = 2; delete from t where id = 4").await;
    note_layout(&scene.golden, &scene.live).await.unwrap();
    run(&scene.live, "update t set note = 'x' where id = 3; update t set id = 30 where id = 3").await;
    let ready = scene.replay().await.unwrap().finish().await.unwrap();
    let aside: Vec<_> = ready.finished.aside.iter().map(|row| row.key.join(",")).collect();
    assert_eq!(aside, ["2", "30"]);
    drop(ready);
    assert_eq!(scene.golden("select * from t").await, "(1,11,) (2,2,)");

    // It is carried on after all.
    run(&scene.live, &recorded(second)).await;
    note_layout(&scene.golden, &scene.live).await.unwrap();
    note_applied(&scene.golden).await.unwrap();
    run(&scene.live, "update t set price = 700 where id = 1").await;
    let finished = scene.rewind().await;
    assert_eq!(finished.aside, []);
    assert_eq!(scene.golden("select * from t").await, "(1,7,) (2,5,) (30,3,x)");
}

async fn a_value_that_is_equal_and_another_one_comes_back(by: By) {
    let setup = "create table t (id int primary key, v real, price numeric(10, 2));
                 insert into t values (1, 0, 1), (2, '-0', 1), (3, 0.1, 1)";
    let Some(scene) = Scene::new(by, "replay_zero", setup).await else { return };
    scene
        .migrate("alter table t alter v type double precision; alter table t alter price type numeric(8, 3)")
        .await;
    run(&scene.live, "update t set v = '-0' where id = 1; update t set v = 0 where id = 2; update t set price = 2 where id = 3").await;
    let finished = scene.rewind().await;
    assert_eq!(finished.aside, []);
    assert_eq!(scene.golden("select * from t").await, "(1,-0,1.00) (2,0,1.00) (3,0.1,2.00)");
}

/// Until the end the golden copy has a row that is set aside as it was, under the key that it had then.
async fn a_row_that_is_set_aside_may_get_another_key(by: By) {
    let setup =
        "create table t (id int primary key, price numeric(10, 2)); insert into t values (1, 1), (2, 2)";
    let Some(scene) = Scene::new(by, "replay_aside", setup).await else { return };
    scene.migrate("alter table t alter price type numeric").await;
    run(&scene.live, "update t set price = 1.234 where id = 1; update t set price = 2.345 where id = 2")
        .await;
    drop(scene.replay().await.unwrap());
    run(&scene.live, "update t set id = 10 where id = 1; update t set price = 5 where id = 10; update t set id = 20 where id = 2").await;
    let finished = scene.rewind().await;
    let aside: Vec<_> = finished.aside.iter().map(|row| row.key.join(",")).collect();
    assert_eq!(aside, ["20"]);
    assert_eq!(scene.golden("select * from t").await, "(10,5.00)");
}

async fn rows_that_changed_places_come_back(by: By) {
    let setup = "create table t (id int primary key, place int unique deferrable);
                 insert into t select i, i from generate_series(1, 4) i";
    let Some(scene) = Scene::new(by, "replay_swap", setup).await else { return };
    scene.migrate("alter table t add x int").await;
    run(&scene.live, "update t set place = 5 - place").await;
    let finished = scene.rewind().await;
    assert_eq!(finished.aside, []);
    assert_eq!(scene.golden("select * from t").await, "(1,4) (2,3) (3,2) (4,1)");
}

async fn a_row_without_its_parent_is_taken_out_by_name(by: By) {
    let setup =
        "create table p (id int primary key); create table c (id int primary key, p int references p);
                 insert into p values (1), (2); insert into c values (1, 1), (2, 2)";
    let Some(scene) = Scene::new(by, "replay_orphans", setup).await else { return };
    scene.migrate("alter table c drop constraint c_p_fkey").await;
    run(&scene.live, "delete from p where id = 2; insert into c values (3, 1), (4, 9)").await;
    let finished = scene.rewind().await;
    assert_eq!(scene.golden("select * from c").await, "(1,1) (3,1)");
    let aside: Vec<_> = finished.aside.iter().map(|row| row.key.join(",")).collect();
    assert_eq!(aside, ["2", "4"]);
}

/// A transaction of the migration may be larger than what is held in memory before its end tells whose it is.
async fn a_large_transaction_of_the_migration_is_known_in_the_end(by: By) {
    let setup = "create table t (id int primary key, v text); insert into t select i from generate_series(1, 70000) i";
    let Some(scene) = Scene::new(by, "replay_large", setup).await else { return };
    scene.migrate("update t set v = 'filled'").await;
    run(&scene.live, "update t set v = 'app' where id = 7; insert into t select i, 'x' from generate_series(70001, 75000) i").await;
    let finished = scene.rewind().await;
    assert_eq!(finished.aside, []);
    let client = scene.golden.connect().await.unwrap();
    assert_eq!(number(&client, "select count(*) from t where v is null").await, 69_999);
    assert_eq!(number(&client, "select count(*) from t where v = 'x'").await, 5_000);
    assert_eq!(number(&client, "select count(*) from t where v = 'app'").await, 1);
}

async fn a_replay_that_is_cut_off_anywhere_goes_on_to_the_same_end(by: By) {
    let setup =
        "create table t (id int primary key, n int); insert into t select i, 0 from generate_series(1, 50) i;
                 create table log (at int); alter table log replica identity full";
    let Some(scene) = Scene::new(by, "replay_cut", setup).await else { return };
    scene.migrate("alter table t rename n to m").await;
    let client = scene.live.connect().await.unwrap();
    for i in 1..=40 {
        let sql = format!(
            "begin; update t set m = m + 1 where id % 7 = {i} % 7; insert into log values ({i}); delete from log where at = {i} - 10; commit"
        );
        client.batch_execute(&sql).await.unwrap();
    }
    drop(client);
    for at in (1..400).step_by(13) {
        for at in [Cut::Asked(at), Cut::Answered(at)] {
            cut(at, scene.replay()).await;
        }
    }
    let finished = scene.rewind().await;
    assert_eq!(finished.aside, []);
    let live = scene.live.connect().await.unwrap();
    let (sum, logged) = ("select sum(m * id) from t", "select sum(at) from log");
    let golden = scene.golden.connect().await.unwrap();
    assert_eq!(number(&golden, "select sum(n * id) from t").await, number(&live, sum).await);
    assert_eq!(number(&golden, logged).await, number(&live, logged).await);
    assert_eq!(number(&golden, "select count(*) from pg_namespace where nspname = 'piton_replay'").await, 0);
}

/// Writes of the new release come back when its migration does, and nothing that was written in between is overwritten.
async fn a_row_with_the_key_of_one_that_is_gone_has_nothing_of_it(by: By) {
    let setup = "create table t (mail text primary key, phone text, name text, plan text);
                 insert into t values ('a@example.org', '123', 'Ann', null), ('b@example.org', '456', 'Bob', null)";
    let Some(scene) = Scene::new(by, "replay_replaced", setup).await else { return };
    let migration = "alter table t drop column phone; update t set plan = 'free' where plan is null";
    scene.migrate(migration).await;
    run(
        &scene.live,
        "begin; delete from t where name = 'Ann'; insert into t values ('a@example.org', 'Eve', 'free'); commit;
         begin; update t set name = 'Rob' where name = 'Bob'; commit",
    )
    .await;
    scene.rewind().await;
    let rows = "(a@example.org,,Eve,free) (b@example.org,456,Rob,)";
    assert_eq!(scene.golden("select * from t").await, rows);
}

/// The catalogue has the number of a subtransaction, of which the log knows nothing; and where no row was there, none was written.
async fn a_down_expression_counts_after_a_migration_of_which_the_log_says_little(by: By) {
    let setup = "create table t (id int primary key, price numeric(10, 2)); insert into t select i, i from generate_series(1, 4) i;
                 create table u (id int primary key, price int); insert into u values (1, 5)";
    let Some(scene) = Scene::new(by, "replay_sub", setup).await else { return };
    let migration = "do $$ begin
                         begin alter table t alter price type int using price * 100; exception when division_by_zero then null; end;
                     end $$; update u set price = price * 100";
    let in_u = Down { table: "public.u".into(), ..down("price", "price / 100") };
    let offer = scene.rehearse(migration, &[down("price", "price / 100.0"), in_u]).await;
    assert_eq!(offer.obstacles, [""; 0]);
    run(&scene.live, "delete from u").await;
    prepare(&scene.golden, &scene.live, &scene.sees, &scene.record, &offer.way).await.unwrap();
    run(&scene.live, &recorded(migration)).await;
    note_layout(&scene.golden, &scene.live).await.unwrap();
    note_applied(&scene.golden).await.unwrap();
    run(&scene.live, "update t set price = 1999 where id = 1; insert into u values (2, 700)").await;
    let finished = scene.rewind().await;
    assert_eq!(finished.aside, []);
    assert_eq!(scene.golden("select * from t").await, "(1,19.99) (2,2.00) (3,3.00) (4,4.00)");
    assert_eq!(scene.golden("select * from u").await, "(2,7)");
}

async fn rows_of_an_heir_are_left_alone(by: By) {
    let setup = "create table t (id int primary key, n int); create table heir (more int, primary key (id)) inherits (t);
                 insert into t select i, 0 from generate_series(1, 4) i; insert into heir select i, 0, 0 from generate_series(1, 4) i";
    let Some(scene) = Scene::new(by, "replay_heir", setup).await else { return };
    scene.migrate("alter table t add column x int; alter table heir add column y int").await;
    run(&scene.live, "delete from only t where id = 1; update only t set n = 1 where id = 2; update heir set n = 2, more = 2 where id = 3; delete from heir where id = 4")
        .await;
    scene.rewind().await;
    assert_eq!(scene.golden("select * from only t").await, "(2,1) (3,0) (4,0)");
    assert_eq!(scene.golden("select * from heir").await, "(1,0,0) (2,0,0) (3,2,2)");
}

/// The lists of what was written anew are worked out when they have grown, and forget what is gone.
#[tokio::test]
async fn rows_of_a_new_table_are_known_however_many() {
    let setup = "create table t (id int primary key)";
    let Some(scene) = Scene::new(By::Log, "replay_many", setup).await else { return };
    scene.migrate("create table made (id int primary key, n int)").await;
    for part in 0..3 {
        run(
            &scene.live,
            &format!(
                "insert into made select i, 0 from generate_series(1 + {part} * 50000, 50000 + {part} * 50000) i"
            ),
        )
        .await;
        run(&scene.live, "delete from made where id % 3 = 0; update made set n = n + 1 where id % 100 = 1")
            .await;
        scene.replay().await.unwrap();
    }
    run(&scene.live, "delete from made where id <= 1000; insert into made values (3, 3), (4, 4)").await;
    let lists = "select count(*) < 60 as few from piton_replay.touched where state <> 3";
    assert_eq!(scene.golden(lists).await, "(t)");
    scene.replay().await.unwrap().finish().await.unwrap().commit().await.unwrap();
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("rescue.jsonl");
    let rescued = rescue(&scene.golden, &scene.live, &file).await.unwrap().unwrap();
    let there =
        scene.live.connect().await.unwrap().query_one("select count(*) from made", &[]).await.unwrap();
    assert_eq!(rescued.rows, there.get::<_, i64>(0).unsigned_abs());
    give_up(&scene.golden).await.unwrap();
    scene.let_go().await;
}

async fn what_the_old_structure_cannot_hold_is_saved_and_loaded_again(by: By) {
    let setup =
        "create table t (id int primary key, n int); insert into t select i, i from generate_series(1, 6) i";
    let Some(scene) = Scene::new(by, "replay_rescue", setup).await else { return };
    let migration = "alter table t add note text default 'none'; alter table t alter n type bigint;
         create table orders (id int primary key, t int references t, after int references orders, \"what ever\" text[]);
         create table seen (id int generated by default as identity primary key, note text)";
    scene.migrate(migration).await;
    run(
        &scene.live,
        r#"update t set note = 'it''s "new"' where id in (1, 2); insert into t values (7, 7, null); update t set n = 5000000000 where id = 3;
           insert into orders values (2, 1, null, '{a,"b c"}'); insert into orders values (1, 7, 2, null), (3, 2, null, '{}');
           delete from orders where id = 3; insert into orders values (4, 4, null, null);
           insert into seen (note) values ('a'), ('b'), ('c')"#,
    )
    .await;
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("rescue.jsonl");
    let finished = scene.replay().await.unwrap().finish().await.unwrap().commit().await.unwrap();
    assert_eq!(finished.aside.len(), 1, "{finished:?}");
    let rescued = rescue(&scene.golden, &scene.live, &file).await.unwrap().unwrap();
    assert_eq!(
        (rescued.rows, rescued.values),
        (7, 4),
        "three orders, three that were seen and one that did not fit; four notes, of which one may be the migration's"
    );
    give_up(&scene.golden).await.unwrap();
    scene.let_go().await;

    // The old release goes on for a while.
    run(
        &scene.golden,
        "update t set n = 20 where id = 2; delete from t where id = 4; insert into t values (8, 8)",
    )
    .await;
    run(&scene.golden, &recorded(migration)).await;
    let first = crate::rescue::load(&scene.golden, &file).await.loaded;
    let of_t = "select id, n, note from t";
    let rows =
        r#"(1,1,"it's ""new""") (2,20,"it's ""new""") (3,3,none) (5,5,none) (6,6,none) (7,7,) (8,8,none)"#;
    assert_eq!(scene.golden(of_t).await, rows);
    let orders = r#"(1,7,2,) (2,1,,"{a,""b c""}")"#;
    assert_eq!(scene.golden("select * from orders").await, orders);
    run(&scene.golden, "insert into seen (note) values ('d')").await;
    assert_eq!(scene.golden("select * from seen").await, "(1,a) (2,b) (3,c) (4,d)");
    assert_eq!(
        first.left,
        [
            r#"id 3 of "public"."t": the row was changed, and another state of it is there"#,
            r#"id 4 of "public"."orders": it violates "orders_t_fkey" (23503)"#
        ]
    );
    let second = crate::rescue::load(&scene.golden, &file).await.loaded;
    assert_eq!((second.loaded, second.left), (0, first.left), "all of it is there");
    assert_eq!(scene.golden(of_t).await, rows);

    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.lines().take(2).collect::<Vec<_>>().join("\n")).unwrap();
    let refused = Load::open(&scene.golden, &file).await.unwrap_err().to_string();
    assert!(refused.contains("it has been cut off"), "{refused}");
}
