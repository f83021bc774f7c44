use std::path::{Path, PathBuf};

use piton_db::Database;

use piton_db::replay::{Load, Loaded, Progress, Rescued, give_up, is_committed, rescue};

use crate::replay::{By, Scene, recorded};
use crate::run;

/// A scene whose migration goes back and comes again, with the file that it has left.
struct Again {
    scene: Scene,
    folder: tempfile::TempDir,
}

impl Again {
    async fn new(by: By, name: &str, setup: &str) -> Option<Self> {
        let scene = Scene::new(by, name, setup).await?;
        Some(Self { scene, folder: tempfile::tempdir().unwrap() })
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("rescue.jsonl")
    }

    /// Follows to the end and saves what does not go back.
    async fn back(&self) -> Rescued {
        let scene = &self.scene;
        scene.replay().await.unwrap().finish().await.unwrap().commit().await.unwrap();
        let rescued = rescue(&scene.golden, &scene.live, &self.file()).await.unwrap();
        give_up(&scene.golden).await.unwrap();
        scene.let_go().await;
        rescued.unwrap_or_default()
    }

    async fn load(&self) -> Loaded {
        load(&self.scene.golden, &self.file()).await.loaded
    }

    /// Loads the file, and leaves in it what did not come in.
    async fn load_and_leave(&self) -> Loaded {
        let progress = load(&self.scene.golden, &self.file()).await;
        progress.write_rest(&self.file(), &self.file()).unwrap();
        progress.loaded
    }
}

/// Loads a whole file.
pub(crate) async fn load(database: &Database, file: &Path) -> Progress {
    let mut load = Load::open(database, file).await.unwrap();
    let mut progress = Progress::default();
    while let Some(part) = load.next(&progress).await.unwrap() {
        progress = part.commit().await.unwrap();
    }
    progress
}

by_both! {
    what_the_migration_alone_has_written_is_not_put_back
    what_may_be_the_migrations_is_put_only_where_nothing_is
    a_row_that_the_migration_made_keeps_what_somebody_wrote
    rows_without_a_key_are_saved_and_loaded
    new_columns_of_a_table_that_tells_whole_rows_are_saved
    what_was_left_goes_over_nothing_that_came_since
    what_is_changed_by_hand_since_is_no_obstacle
    a_row_that_nothing_names_is_saved_where_it_does_not_fit
    a_row_of_what_became_a_partition_is_saved
}

async fn what_the_migration_alone_has_written_is_not_put_back(by: By) {
    let setup = "create table t (id int primary key, name text, price numeric);
                 insert into t select i, 'n' || i, i from generate_series(1, 6) i";
    let Some(again) = Again::new(by, "rescue_backfill", setup).await else { return };
    let migration = |factor: i32| {
        format!(
            "alter table t add cents int, add kind text default 'plain', add more text; update t set cents = price * {factor}"
        )
    };
    again.scene.migrate(&migration(10)).await;
    run(
        &again.scene.live,
        "update t set name = 'new' where id = 1; update t set cents = 7 where id = 2; update t set kind = 'rare' where id = 3;
         insert into t values (7, 'n7', 7, 70, 'plain', 'x'); update t set id = 60, more = 'y' where id = 6",
    )
    .await;
    let rescued = again.back().await;
    assert_eq!((rescued.rows, rescued.values), (0, 4), "of row 1 nobody has written anything new");
    run(&again.scene.golden, &recorded(&migration(100))).await;
    let loaded = again.load().await;
    assert_eq!(loaded.left, [""; 0]);
    assert_eq!(
        again.scene.golden("select id, cents, kind, more from t where id <> 60").await,
        "(1,100,plain,) (2,7,plain,) (3,300,rare,) (4,400,plain,) (5,500,plain,) (7,70,plain,x)"
    );
    assert_eq!(again.scene.golden("select id, more from t where id = 60").await, "(60,y)");
    assert_eq!(again.load().await.loaded, 0, "done again, it finds all there");
}

async fn what_may_be_the_migrations_is_put_only_where_nothing_is(by: By) {
    let setup =
        "create table t (id int primary key, n int); insert into t select i, i from generate_series(1, 4) i";
    let Some(again) = Again::new(by, "rescue_unsure", setup).await else { return };
    // All rows are written anew, of which no log tells.
    let volatile = "alter table t add token text default 'token ' || random(), add note text";
    again.scene.migrate(volatile).await;
    run(
        &again.scene.live,
        "update t set token = 'mine' where id = 1; update t set note = 'n' where id = 2; insert into t values (5, 5, 'new', null)",
    )
    .await;
    assert_eq!(again.back().await.values, 3);
    run(&again.scene.golden, &recorded(volatile)).await;
    let loaded = again.load_and_leave().await;
    assert_eq!(loaded.left.len(), 2, "{loaded:?}");
    assert!(
        loaded.left[0]
            .starts_with("id 1 of \"public\".\"t\": \"token\": the migration has put another value there"),
        "{loaded:?}"
    );
    assert_eq!(again.scene.golden("select id, note from t where note <> ''").await, "(2,n)");
    assert_eq!(
        again.scene.golden("select token from t where id = 5").await,
        "(new)",
        "that row is somebody's alone"
    );
    let text = std::fs::read_to_string(again.file()).unwrap();
    assert!(!text.contains(r#""note":"n""#), "what is in is not loaded again: {text}");
}

async fn a_row_that_the_migration_made_keeps_what_somebody_wrote(by: By) {
    let setup = "create table t (id int primary key); insert into t select i from generate_series(1, 5) i";
    let Some(again) = Again::new(by, "rescue_made", setup).await else { return };
    let migration = |theme: &str| {
        format!(
            "create table settings (t int primary key references t, theme text, since date default '2026-01-01');
             insert into settings select id, '{theme}' from t; update settings set theme = theme || '!' where t = 1"
        )
    };
    again.scene.migrate(&migration("light")).await;
    run(
        &again.scene.live,
        "update settings set theme = 'dark' where t = 1; update settings set theme = theme where t = 2;
         delete from settings where t in (3, 4); insert into t values (6); insert into settings values (6, 'dark'), (4, 'own')",
    )
    .await;
    assert_eq!(again.back().await.rows, 4);
    run(&again.scene.golden, "delete from t where id = 5").await;
    run(&again.scene.golden, &recorded(&migration("grey"))).await;
    let loaded = again.load().await;
    assert_eq!(
        loaded.left,
        [
            r#"t 3 of "public"."settings": the row was removed, and is there again"#,
            r#"t 4 of "public"."settings": another row has its key"#,
            r#"t 6 of "public"."settings": another row has its key"#
        ]
    );
    let rows =
        "(1,dark,2026-01-01) (2,grey,2026-01-01) (3,grey,2026-01-01) (4,grey,2026-01-01) (6,grey,2026-01-01)";
    // Row 6 was somebody's alone; what the migration makes now under its key may be another thing.
    assert_eq!(again.scene.golden("select * from settings").await, rows);
}

async fn rows_without_a_key_are_saved_and_loaded(by: By) {
    let setup = "create table t (id int primary key)";
    let Some(again) = Again::new(by, "rescue_keyless", setup).await else { return };
    let migration = "create table log (what text, n int); insert into log values ('made', 1), ('made', 1), ('made', null);
                     create table kinds (v text); insert into kinds values ('a'), ('b'); alter table kinds add w text";
    again.scene.migrate(migration).await;
    run(&again.scene.live, "insert into log values ('made', 1), ('seen', 2), ('seen', 2), (null, null); insert into kinds values ('b', 'w')")
        .await;
    assert_eq!(again.back().await.rows, 5);
    run(&again.scene.golden, &recorded(migration)).await;
    run(&again.scene.golden, "insert into log values ('seen', 2)").await;
    let mut load = Load::open(&again.scene.golden, &again.file()).await.unwrap();
    let before = Progress::default();
    // What is not committed is not in.
    drop(load.next(&before).await.unwrap().unwrap());
    let part = load.next(&before).await.unwrap().unwrap();
    let transaction = part.transaction;
    let after = part.commit().await.unwrap();
    assert_eq!((after.loaded.loaded, after.loaded.there), (5, 0), "{after:?}");
    assert!(load.next(&after).await.unwrap().is_none());
    assert!(is_committed(&again.scene.golden, transaction).await.unwrap());
    let rows = "(,) (made,) (made,1) (made,1) (made,1) (seen,2) (seen,2) (seen,2)";
    assert_eq!(again.scene.golden("select * from log").await, rows);
    assert_eq!(again.scene.golden("select * from kinds").await, "(a,) (b,) (b,w)");
}

/// A session that was killed with its process may not have ended yet.
#[tokio::test]
async fn a_transaction_that_has_not_ended_is_waited_for() {
    let Some(scene) = Scene::new(By::Log, "rescue_waits", "create table t (id int)").await else { return };
    let client = scene.live.connect().await.unwrap();
    client.batch_execute("begin; insert into t values (1)").await.unwrap();
    let number = "select pg_current_xact_id()::text";
    let number: String = client.query_one(number, &[]).await.unwrap().get(0);
    let transaction = number.parse().unwrap();
    let (known, ()) = tokio::join!(is_committed(&scene.live, transaction), async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        client.batch_execute("rollback").await.unwrap();
    });
    assert!(!known.unwrap());
    scene.let_go().await;
}

async fn new_columns_of_a_table_that_tells_whole_rows_are_saved(by: By) {
    let setup = "create table t (id int primary key, n int); alter table t replica identity full;
                 create table bare (n int); alter table bare replica identity full; insert into t select i, i from generate_series(1, 3) i; insert into bare values (1)";
    let Some(again) = Again::new(by, "rescue_full", setup).await else { return };
    let migration = "alter table t add note text; alter table bare add note text";
    let offer = again.scene.migrate(migration).await;
    let cost = r#""public"."bare" has no key by which what is written into its new columns could be saved"#;
    assert!(offer.costs.contains(&cost.to_owned()), "{offer:?}");
    run(
        &again.scene.live,
        "update t set note = 'a' where id = 1; update t set n = 5 where id = 2; insert into t values (4, 4, 'd')",
    )
    .await;
    assert_eq!(again.back().await.values, 2);
    run(&again.scene.golden, &recorded(migration)).await;
    assert_eq!(again.load().await.left, [""; 0]);
    assert_eq!(again.scene.golden("select * from t").await, "(1,1,a) (2,5,) (3,3,) (4,4,d)");
}

async fn what_was_left_goes_over_nothing_that_came_since(by: By) {
    let setup = "create table cat (id int primary key); create table t (id int primary key); insert into cat values (1), (7);
                 insert into t values (1), (2)";
    let Some(again) = Again::new(by, "rescue_left", setup).await else { return };
    let migration = "alter table t add cat int references cat";
    again.scene.migrate(migration).await;
    run(&again.scene.live, "update t set cat = 7").await;
    assert_eq!(again.back().await.values, 2);
    run(&again.scene.golden, "delete from cat where id = 7").await;
    run(&again.scene.golden, &recorded(migration)).await;
    let loaded = again.load_and_leave().await;
    assert_eq!(loaded.left.len(), 2, "{loaded:?}");
    // People go on, and the next release loads what is left.
    run(&again.scene.golden, "insert into cat values (7); update t set cat = 1 where id = 1").await;
    let loaded = again.load().await;
    assert_eq!((loaded.loaded, loaded.left.len()), (1, 1), "{loaded:?}");
    assert_eq!(again.scene.golden("select * from t").await, "(1,1) (2,7)");
}

/// What a trigger did when the row was written first is in the file, or has gone back with the rest.
#[tokio::test]
async fn loading_fires_no_trigger_and_keeps_to_every_constraint() {
    let setup = "create table t (id int primary key, total int default 0); insert into t select i from generate_series(1, 3) i";
    let Some(again) = Again::new(By::Log, "rescue_triggers", setup).await else { return };
    let migration = "
        create table line (id int primary key, t int not null references t deferrable initially deferred, place int unique deferrable initially deferred, n int);
        create table note (id int primary key, line int references line);
        create function add_up() returns trigger language plpgsql as $$ begin update t set total = total + new.n where id = new.t; return null; end $$;
        create trigger adds after insert on line for each row execute function add_up()";
    again.scene.migrate(migration).await;
    run(
        &again.scene.live,
        "insert into note values (1, null); insert into line values (1, 1, 1, 5), (2, 2, 2, 6), (3, 3, 3, 7);
         update note set line = 1; insert into note values (2, 2)",
    )
    .await;
    assert_eq!(again.back().await.rows, 5);
    assert_eq!(again.scene.golden("select * from t").await, "(1,5) (2,6) (3,7)");
    run(&again.scene.golden, "delete from t where id = 2").await;
    run(&again.scene.golden, &recorded(migration)).await;
    run(&again.scene.golden, "set session_replication_role = replica; insert into line values (9, 3, 3, 0)")
        .await;
    let loaded = again.load().await;
    assert_eq!(
        loaded.left,
        [
            r#"id 2 of "public"."line": it violates "line_t_fkey" (23503)"#,
            r#"id 3 of "public"."line": it violates "line_place_key" (23505)"#,
            r#"id 2 of "public"."note": it violates "note_line_fkey" (23503)"#
        ]
    );
    assert!(!loaded.fired);
    assert_eq!(again.scene.golden("select * from t").await, "(1,5) (3,7)", "nothing is added up twice");
    assert_eq!(again.scene.golden("select * from note").await, "(1,1)");
    assert_eq!(again.scene.golden("select * from line").await, "(1,1,1,5) (9,3,3,0)");
}

/// What is gone is gone; the rest is saved under the names that the migration gives.
async fn what_is_changed_by_hand_since_is_no_obstacle(by: By) {
    let setup = "create table t (id int primary key); insert into t values (1)";
    let Some(again) = Again::new(by, "rescue_by_hand", setup).await else { return };
    let migration =
        "alter table t add a text, add b text; create table made (id int primary key, v text, w text);
                     create table log (v text, w text); insert into log values ('made', 'w'); create table gone (id int primary key)";
    again.scene.migrate(migration).await;
    run(
        &again.scene.live,
        "update t set a = 'a', b = 'b'; insert into made values (1, 'v', 'w'); insert into log values ('v', 'w'); insert into gone values (1)",
    )
    .await;
    drop(again.scene.replay().await.unwrap());
    run(
        &again.scene.live,
        "alter table t drop b; alter table made rename v to value; alter table made drop w; alter table made rename to other;
         alter table log drop w; drop table gone",
    )
    .await;
    let rescued = again.back().await;
    assert_eq!((rescued.rows, rescued.values), (2, 1));
    run(&again.scene.golden, &recorded(migration)).await;
    assert_eq!(again.load().await.left, [""; 0]);
    let all = "select id::text, a, b from t union all select id::text, v, w from made union all select 'log', v, w from log";
    assert_eq!(again.scene.golden(all).await, "(1,a,) (1,v,) (log,made,w) (log,v,)");
}

async fn a_row_that_nothing_names_is_saved_where_it_does_not_fit(by: By) {
    let setup = "create table p (id int primary key); create table c (g int references p, n text, x int);
                 alter table c replica identity full; insert into p values (1)";
    let Some(again) = Again::new(by, "rescue_nameless", setup).await else { return };
    let migration = "insert into p values (2); alter table c rename n to name";
    again.scene.migrate(migration).await;
    run(&again.scene.live, "insert into c values (2, 'a, \"b', null), (2, 'a, \"b', null), (1, 'one', 1)")
        .await;
    assert_eq!(again.back().await.rows, 2);
    assert_eq!(again.scene.golden("select * from c").await, "(1,one,1)");
    run(&again.scene.golden, &recorded(migration)).await;
    assert_eq!(again.load().await.loaded, 2);
    assert_eq!(
        again.scene.golden("select g, name from c where x is null").await,
        r#"(2,"a, ""b") (2,"a, ""b")"#
    );
}

async fn a_row_of_what_became_a_partition_is_saved(by: By) {
    let setup = "create table part (id int primary key, n int constraint small check (n < 10)); insert into part values (1, 1)";
    let Some(again) = Again::new(by, "rescue_partition", setup).await else { return };
    let migration = "alter table part drop constraint small; create table whole (id int primary key, n int) partition by range (id);
                     alter table whole attach partition part for values from (0) to (100)";
    again.scene.migrate(migration).await;
    run(&again.scene.live, "insert into whole values (2, 2), (3, 30)").await;
    assert_eq!(again.back().await.rows, 1);
    run(&again.scene.golden, &recorded(migration)).await;
    assert_eq!(again.load().await.loaded, 1);
    assert_eq!(again.scene.golden("select * from whole").await, "(1,1) (2,2) (3,30)");
}

/// What is in is in, and what is not goes over nothing that people write until it is loaded.
#[tokio::test]
async fn a_column_that_is_not_there_yet_keeps_no_other_from_coming_in() {
    let setup = "create table t (id int primary key); insert into t values (1), (2)";
    let Some(again) = Again::new(By::Log, "rescue_missing", setup).await else { return };
    again.scene.migrate("alter table t add a text, add b text").await;
    run(&again.scene.live, "update t set a = 'x', b = 'y'").await;
    assert_eq!(again.back().await.values, 2);
    run(&again.scene.golden, &recorded("alter table t add a text")).await;
    let loaded = again.load_and_leave().await;
    assert_eq!((loaded.loaded, loaded.rows_left()), (2, 2), "{loaded:?}");
    assert_eq!(again.scene.golden("select * from t").await, "(1,x) (2,x)");
    run(
        &again.scene.golden,
        "alter table t add b text; update t set a = 'people'; update t set b = 'theirs' where id = 1",
    )
    .await;
    let loaded = again.load_and_leave().await;
    assert_eq!((loaded.loaded, loaded.rows_left()), (1, 1), "{loaded:?}");
    assert_eq!(again.scene.golden("select * from t").await, "(1,people,theirs) (2,people,y)");
}

/// Who has rows locked is waited for once, and what is refused for it is tried again.
#[tokio::test]
async fn a_lock_is_waited_for_once() {
    let setup = "create table t (id int primary key); insert into t select i from generate_series(1, 200) i";
    let Some(again) = Again::new(By::Log, "rescue_locked", setup).await else { return };
    again.scene.migrate("alter table t add a text").await;
    run(&again.scene.live, "update t set a = 'x'").await;
    assert_eq!(again.back().await.values, 200);
    run(&again.scene.golden, &recorded("alter table t add a text")).await;
    let other = again.scene.golden.connect().await.unwrap();
    other.batch_execute("begin; update t set a = null where id <= 100").await.unwrap();
    let begin = std::time::Instant::now();
    let loaded = again.load().await;
    assert_eq!((loaded.loaded, loaded.rows_left()), (100, 100), "{:?}", loaded.left);
    assert!(begin.elapsed().as_secs() < 150, "{:?}", begin.elapsed());
    other.batch_execute("rollback").await.unwrap();
}

/// Nobody waits for more than a part of it, and what is in is in, wherever it is cut off.
#[tokio::test]
async fn a_file_is_loaded_in_parts() {
    let Some(again) = Again::new(By::Log, "rescue_parts", "create table t (id int primary key)").await else {
        return;
    };
    let migration = "create table made (id serial primary key, next int references made deferrable initially deferred); create table log (n int)";
    again.scene.migrate(migration).await;
    run(
        &again.scene.live,
        "insert into made select i, nullif(i + 1, 2501) from generate_series(1, 2500) i; insert into log select i from generate_series(1, 1200) i",
    )
    .await;
    assert_eq!(again.back().await.rows, 3700);
    run(&again.scene.golden, &recorded(migration)).await;
    // Somebody has what one of them refers to, and keeps another one out.
    run(&again.scene.golden, "insert into made values (2499, null)").await;
    let (mut before, mut parts) = (Progress::default(), 0);
    let whole = loop {
        // Whoever goes on after a kill has read the file anew.
        let mut load = Load::open(&again.scene.golden, &again.file()).await.unwrap();
        let noted = serde_json::to_string(&before).unwrap();
        drop(load.next(&before).await.unwrap());
        let before_it = serde_json::from_str(&noted).unwrap();
        let Some(part) = load.next(&before_it).await.unwrap() else { break before_it };
        before = part.commit().await.unwrap();
        parts += 1;
        if parts == 2 {
            let cut = again.folder.path().join("cut.jsonl");
            before.write_rest(&again.file(), &cut).unwrap();
            let text = std::fs::read_to_string(&cut).unwrap();
            let of_made = text.lines().filter(|line| line.contains(r#""table":"made""#)).count();
            let of_log = text.lines().filter(|line| line.contains(r#""table":"log""#)).count();
            let is_in = "select (select count(*) from made) - 1 + (select count(*) from log)";
            let is_in: usize = again.scene.golden(is_in).await.trim_matches(['(', ')']).parse().unwrap();
            assert_eq!(of_made + of_log + is_in, 3700, "{of_made}, {of_log}");
        }
    };
    assert!(parts > 4, "{parts}");
    assert_eq!(whole.loaded.left, [r#"id 2499 of "public"."made": another row has its key"#]);
    assert_eq!(again.scene.golden("select count(*), count(next) from made").await, "(2500,2498)");
    assert_eq!(again.scene.golden("select count(*), count(distinct n) from log").await, "(1200,1200)");
    run(&again.scene.golden, "insert into made values (default, null)").await;
    assert_eq!(again.scene.golden("select max(id) from made").await, "(2501)");
    whole.write_rest(&again.file(), &again.file()).unwrap();
    assert_eq!(
        std::fs::read_to_string(again.file()).unwrap().lines().count(),
        2,
        "its head, and the one line"
    );
}
