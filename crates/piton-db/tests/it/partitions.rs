use piton_db::replay::{give_up, note_applied, note_layout, prepare, rescue};

use crate::replay::{By, Scene, recorded};
use crate::run;

by_both! {
    a_partition_that_is_made_afterwards_loses_no_row_in_silence
    a_partition_that_is_gone_or_emptied_is_no_table_of_nobody
    who_makes_a_partition_while_a_migration_runs_is_not_the_migration
    a_partition_that_is_attached_when_it_is_full_loses_no_row
}

const SETUP: &str = "
    create table m (id int, day date, n int, primary key (id, day)) partition by range (day);
    create table m_2026 partition of m for values from ('2026-01-01') to ('2027-01-01');
    insert into m values (1, '2026-05-05', 1)";

const NEXT: &str = "create table m_2027 partition of m for values from ('2027-01-01') to ('2028-01-01')";

async fn a_partition_that_is_made_afterwards_loses_no_row_in_silence(by: By) {
    let Some(scene) = Scene::new(by, "partitions_later", SETUP).await else { return };
    scene.migrate("alter table m add note text").await;
    run(&scene.live, NEXT).await;
    run(
        &scene.live,
        "create table scratch (id int primary key); insert into scratch values (1);
         insert into m values (2, '2026-06-06', 2), (3, '2027-01-01', 3), (4, '2027-01-01', 4);
         update m set n = 5 where id = 3; delete from m where id = 4",
    )
    .await;
    let finished = scene.rewind().await;
    assert_eq!(scene.golden("select * from m").await, "(1,2026-05-05,1) (2,2026-06-06,2)");
    let aside: Vec<_> = finished.aside.iter().map(|row| (row.key.join(" "), row.why.as_str())).collect();
    assert_eq!(aside, [("3 2027-01-01".to_owned(), "no partition takes it (23514)")]);
}

async fn a_partition_that_is_gone_or_emptied_is_no_table_of_nobody(by: By) {
    let Some(scene) = Scene::new(by, "partitions_gone", SETUP).await else { return };
    scene.migrate("alter table m add note text").await;
    run(&scene.live, NEXT).await;
    run(&scene.live, "insert into m values (3, '2027-01-01', 3)").await;
    run(&scene.live, if matches!(by, By::Log) { "drop table m_2027" } else { "truncate m_2027" }).await;
    let said = scene.replay().await.unwrap_err().to_string();
    let why = match by {
        By::Log => {
            r#""public"."m_2027" was made after the migration, written to and removed, and may have been a partition of "public"."m""#
        }
        By::Triggers => r#""public"."m_2027" was emptied, a partition that the golden copy has not got"#,
    };
    assert!(said.contains(why), "{said}");
    scene.let_go().await;
}

/// What somebody else makes while a migration runs does not make their transaction the migration's.
async fn who_makes_a_partition_while_a_migration_runs_is_not_the_migration(by: By) {
    let Some(scene) = Scene::new(by, "partitions_meanwhile", SETUP).await else { return };
    let migration = "alter table m add note text; create table made (id int)";
    let offer = scene.rehearse(migration, &[]).await;
    prepare(&scene.golden, &scene.live, &scene.sees, &scene.record, &offer.way).await.unwrap();
    run(&scene.live, &recorded(migration)).await;
    run(
        &scene.live,
        &format!("begin; {NEXT}; insert into m values (2, '2026-06-06', 2), (3, '2027-01-01', 3); commit"),
    )
    .await;
    note_layout(&scene.golden, &scene.live).await.unwrap();
    note_applied(&scene.golden).await.unwrap();
    let finished = scene.rewind().await;
    assert_eq!(scene.golden("select * from m").await, "(1,2026-05-05,1) (2,2026-06-06,2)");
    assert_eq!(finished.aside.len(), 1, "{finished:?}");
}

/// As long as it was a table of its own, nobody knew where its rows belong. What was read when it was a partition comes once.
async fn a_partition_that_is_attached_when_it_is_full_loses_no_row(by: By) {
    let setup = "create table m (id int primary key, n int) partition by range (id); create table m_rest partition of m default;
                 create table k (n int) partition by list (n); create table k_rest partition of k default; alter table k_rest replica identity full";
    let Some(scene) = Scene::new(by, "partitions_attached", setup).await else { return };
    scene.migrate("alter table m add note text; alter table k add note text").await;
    run(
        &scene.live,
        "create table m_next (like m including all); insert into m_next values (1, 1), (2, 2), (3, 3);
         create table k_next (like k including all); insert into k_next values (1), (1);
         create table k_own partition of k for values in (7); insert into k values (7)",
    )
    .await;
    drop(scene.replay().await.unwrap());
    run(
        &scene.live,
        "alter table m attach partition m_next for values from (0) to (10); alter table k attach partition k_next for values in (1);
         alter table m_next rename to m_last; update m set n = 20 where id = 2; delete from m where id = 3; insert into m values (4, 4, 'x');
         insert into k values (1), (7)",
    )
    .await;
    let finished = scene.replay().await.unwrap().finish().await.unwrap().commit().await.unwrap();
    assert_eq!(finished.aside.len(), 0, "{finished:?}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rescue.jsonl");
    assert_eq!(rescue(&scene.golden, &scene.live, &file).await.unwrap().unwrap_or_default().values, 3);
    let saved = std::fs::read_to_string(file).unwrap();
    assert!(saved.contains(r#""key":{"id":"4"},"values":{"note":"x"}"#), "{saved}");
    give_up(&scene.golden).await.unwrap();
    scene.let_go().await;
    assert_eq!(scene.golden("select * from m").await, "(1,1) (2,20) (4,4)");
    assert_eq!(scene.golden("select * from k").await, "(1) (1) (1) (7) (7)");
}

/// Under a name that another one had, its rows were read by that.
#[tokio::test]
async fn a_partition_that_takes_another_ones_place_comes_once() {
    let setup = "create table k (n int, w text) partition by list (n); create table k_7 partition of k for values in (7);
                 alter table k_7 replica identity full; insert into k values (7, 'old');
                 create table m (id int primary key) partition by range (id); create table m_1 partition of m for values from (0) to (10)";
    let Some(scene) = Scene::new(By::Log, "partitions_replaced", setup).await else { return };
    scene.migrate("alter table k add note text; alter table m add note text").await;
    run(
        &scene.live,
        "drop table m_1; create table m_1 partition of m for values from (0) to (10); insert into m values (7, 'important');
         alter table k detach partition k_7; alter table k_7 rename to k_7_old; create table k_7 partition of k for values in (7);
         insert into k values (7, 'new'), (7, 'new')",
    )
    .await;
    drop(scene.replay().await.unwrap());
    run(&scene.live, "insert into k values (7, 'last')").await;
    scene.replay().await.unwrap().finish().await.unwrap().commit().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rescue.jsonl");
    assert_eq!(rescue(&scene.golden, &scene.live, &file).await.unwrap().unwrap_or_default().values, 1);
    give_up(&scene.golden).await.unwrap();
    scene.let_go().await;
    assert_eq!(scene.golden("select * from m").await, "(7)");
    assert_eq!(scene.golden("select * from k").await, "(7,last) (7,new) (7,new) (7,old)");
}
