//! What makes a golden copy whole at the end of a replay.

use piton_db::replay::{Finished, give_up, rescue};

use crate::replay::{By, Scene};
use crate::run;

/// Returns which rows are aside, and why.
fn aside(finished: &Finished) -> Vec<(String, &str)> {
    finished.aside.iter().map(|row| (row.key.join(","), row.why.as_str())).collect()
}

/// Values of a type from an extension are the same by that type's own equality, by which the index and the foreign key go as well.
#[tokio::test]
async fn a_key_of_a_type_from_an_extension_is_compared_by_its_own_equality() {
    let setup = "create extension citext;
                 create table p (mail citext primary key, n numeric(10, 2));
                 create table c (id int primary key, mail citext references p);
                 create table s (mail citext unique deferrable initially deferred, id int primary key);
                 insert into p select 'Person' || i, i from generate_series(1, 500) i;
                 insert into c values (1, 'PERSON1'), (2, 'person2'), (3, 'Person3');
                 insert into s values ('One', 1), ('Two', 2); analyze";
    let Some(scene) = Scene::new(By::Log, "finish_citext", setup).await else { return };
    scene.migrate("alter table p alter n type numeric; alter table s drop constraint s_mail_key").await;
    run(
        &scene.live,
        "update p set n = 100 where mail = 'person1'; delete from p where mail = 'person7'; update p set n = 1.234 where mail = 'PERSON9';
         insert into c values (4, 'PeRsOn4'); insert into s values ('ONE', 3)",
    )
    .await;
    drop(scene.replay().await.unwrap());
    // A session's counts are there when it has ended.
    let scans = "select idx_scan > 2 as found from pg_stat_user_tables where relname = 'p'";
    piton_testkit::postgres::eventually("rows are found by the index", async || {
        scene.golden(scans).await == "(t)"
    })
    .await;
    let finished = scene.replay().await.unwrap().finish().await.unwrap().commit().await.unwrap();
    let lossy = "the value does not go back into its old type";
    assert_eq!(
        aside(&finished),
        [
            ("Person9".to_owned(), lossy),
            ("3".to_owned(), r#"another row has the same values ("s_mail_key")"#)
        ]
    );
    assert_eq!(
        scene.golden("select id, mail from c").await,
        "(1,PERSON1) (2,person2) (3,Person3) (4,PeRsOn4)"
    );
    assert_eq!(
        scene.golden("select n from p where mail in ('person1', 'person7', 'person9')").await,
        "(100.00) (9.00)"
    );
    let file = tempfile::tempdir().unwrap();
    let rescued =
        rescue(&scene.golden, &scene.live, &file.path().join("rescue.jsonl")).await.unwrap().unwrap();
    assert_eq!((rescued.rows, rescued.values), (2, 0));
    give_up(&scene.golden).await.unwrap();
    scene.let_go().await;
}
