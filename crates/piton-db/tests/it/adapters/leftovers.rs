//! What a failure has left where neither the structure nor the tool's record tells.

use piton_testkit::postgres::eventually;

use super::*;

#[tokio::test]
async fn what_prisma_has_left_is_found_where_the_structure_is_as_before() {
    let Some(app) = App::new(prisma(), "prisma_hidden").await else { return };
    let tables = "create table a (n int, email text); create sequence s; create table b (n int); create index i on a (n)";
    app.write(1, tables);
    app.apply().await.unwrap();
    run_sql(
        &app.db,
        "insert into a values (1, 'A'); insert into b values (1); select nextval('s'), nextval('s')",
    )
    .await;
    let stands = "select count(*) from a, b, s where email = 'A' and last_value = 2";
    app.cluster.create_database("prisma_hidden_golden").await;
    let golden = database(app.cluster, "prisma_hidden_golden");
    app.apply_to(&golden).await.unwrap();
    let (two, before) = (app.name(2), app.migrations().recorded(&app.db).await.unwrap());
    for (hidden, undo) in [
        ("drop index i; create index i on a (n)", ""),
        ("alter table a alter email type text using lower(email)", "update a set email = 'A'"),
        ("alter sequence s restart with 5", "select setval('s', 2)"),
        ("drop table b; create table b (n int)", "insert into b values (1)"),
    ] {
        app.write(2, &format!("{hidden}; alter table nowhere add n int"));
        let error = app.failure().await;
        assert_eq!(error.left_nothing(), undo.is_empty(), "{hidden}");
        let error = error.to_string();
        assert_eq!(app.count(stands).await, i64::from(undo.is_empty()), "{hidden}");
        let left = if undo.is_empty() { "nothing of it was kept" } else { "some of it may be kept" };
        assert!(error.ends_with(left), "{hidden}: {error}");
        if !undo.is_empty() {
            assert!(
                !app.migrations().left_nothing(&app.db, &golden, &before, true).await.unwrap(),
                "{hidden}"
            );
            assert_eq!(app.states().await.pop().unwrap(), format!("{two} half"));
            app.migrations().resolve(&app.db, &two, false).await.unwrap();
            run_sql(&app.db, undo).await;
        }
    }
    // One run applies both, of which the first leaves the structure as it is, and the second is none of structure alone.
    app.write(2, "alter table a add column if not exists n int");
    app.write(3, "update a set email = 'b'; select 1/0");
    let error = app.failure().await;
    assert!(error.to_string().ends_with("some of it may be kept"), "{error}");
    assert_eq!(app.states().await[1..], [format!("{two} applied"), format!("{} half", app.name(3))]);
}

#[tokio::test]
async fn rows_that_were_committed_before_the_record_are_not_said_to_be_gone() {
    // What ends well is refused by the tool's own table.
    let refuses = |table: &str, when: &str| {
        format!(
            "create function refuse() returns trigger language plpgsql as $$ begin raise 'not recorded'; end $$;
             create trigger refuse before insert on {table} for each row when ({when}) execute function refuse()"
        )
    };
    for (kit, name, refuse) in [
        (golang(), "golang_rows", refuses("schema_migrations", "not new.dirty")),
        (sqitch(), "sqitch_rows", refuses("sqitch.changes", "true")),
    ] {
        let Some(app) = App::new(kit, name).await else { continue };
        app.write(1, "create table a (n int)");
        app.apply().await.unwrap();
        a_lock_is_tried_again_for_rows(&app).await;
        let golden = format!("{name}_golden");
        app.cluster.create_database(&golden).await;
        let golden = database(app.cluster, &golden);
        app.apply_to(&golden).await.unwrap();
        let before = app.migrations().recorded(&app.db).await.unwrap();
        for db in [&app.db, &golden] {
            run_sql(db, &refuse).await;
        }
        app.write(4, "insert into a values (1)");
        let error = app.failure().await.to_string();
        assert!(error.contains("not recorded") && error.ends_with("some of it may be kept"), "{error}");
        assert_eq!(app.count("select count(*) from a").await, 1);
        assert!(!app.migrations().left_nothing(&app.db, &golden, &before, true).await.unwrap());
        assert_eq!(app.states().await.pop().unwrap(), format!("{} half", app.name(4)));
        assert!(matches!(app.refusal().await, MigrationError::Unclear { .. }));
    }
}

/// A lock that was not to be had is the script's own failure, and proves that nothing of it was kept, whatever the structure shows.
async fn a_lock_is_tried_again_for_rows(app: &App) {
    for (number, sql) in
        [(2, "delete from a"), (3, "alter table a add column if not exists x int; update a set x = 0")]
    {
        app.write(number, sql);
        let name = app.name(number);
        let mut holder = app.db.connect().await.unwrap();
        let held = holder.transaction().await.unwrap();
        held.batch_execute("lock table a in access exclusive mode").await.unwrap();
        let error = app.failure().await;
        assert!(matches!(&error, MigrationError::Locked { attempts: 2, .. }), "{error}");
        assert_eq!(app.states().await.pop().unwrap(), format!("{name} pending"));
        // The holder ends after the first attempt.
        let ends = async {
            let waiting = "select count(*) from pg_locks where not granted and relation = 'a'::regclass";
            eventually("it waits", async || app.count(waiting).await > 0).await;
            eventually("it gives up", async || app.count(waiting).await == 0).await;
            held.rollback().await.unwrap();
        };
        let (applied, ()) = tokio::join!(app.apply(), ends);
        assert_eq!(applied.unwrap().0, [name]);
    }
}
