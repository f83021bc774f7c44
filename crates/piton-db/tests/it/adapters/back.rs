//! Migrations that their tools take back.

use super::*;

/// Takes the second migration back, and wants the first to stay.
async fn goes_back(app: &App, down: impl Fn(&Path, &str)) {
    let (one, two) = (app.name(1), app.name(2));
    app.write(1, "create table a (n int)");
    app.write(2, "create table b (n int)");
    down(app.dir.path(), "drop table b");
    app.apply().await.unwrap();
    let mut commands = Vec::new();
    let mut report = |report| {
        if let Report::Ran(one) = report {
            commands.push(one.command);
        }
    };
    let names = [two.clone()];
    let migrations = app.migrations();
    migrations.may_take_back(&app.db, &names).await.unwrap();
    migrations.take_back(&app.db, &app.around(), &names, OPTIONS, &mut report).await.unwrap();
    assert_eq!(commands.len(), 1, "{commands:?}");
    assert!(app.has("a").await && !app.has("b").await);
    assert!(app.states().await.contains(&format!("{one} applied")), "{:?}", app.states().await);
    assert!(app.states().await.contains(&format!("{two} pending")), "{:?}", app.states().await);
    // Done again, there is nothing to do.
    let took = migrations.take_back(&app.db, &app.around(), &names, OPTIONS, &mut |_| ()).await.unwrap();
    assert_eq!(took, 0);

    // What fails leaves it applied, in the record as well.
    app.apply().await.unwrap();
    down(app.dir.path(), "drop table b; select 1/0");
    let before = app.states().await;
    let error = migrations.take_back(&app.db, &app.around(), &names, OPTIONS, &mut |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("division by zero"), "{error}");
    assert!(error.to_string().ends_with("nothing of it was kept"), "{error}");
    assert_eq!(app.states().await, before);
    assert!(app.has("b").await);
}

#[tokio::test]
async fn django_takes_one_back() {
    let Some(app) = App::new(django(), "django_back").await else { return };
    goes_back(&app, |dir, down| {
        let operation = format!("migrations.RunSQL(\"create table b (n int)\", \"{down}\")");
        django_file(dir, 2, "", &operation);
    })
    .await;
}

#[tokio::test]
async fn sqitch_takes_one_back() {
    let Some(app) = App::new(sqitch(), "sqitch_back").await else { return };
    let name = app.name(2);
    goes_back(&app, |dir, down| {
        put(dir.join(format!("revert/{name}.sql")), &format!("BEGIN; {down}; COMMIT;\n"));
    })
    .await;
}
