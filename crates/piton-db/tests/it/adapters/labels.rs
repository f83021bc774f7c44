//! Apps of Django that are recorded under another label than their folder's name.

use super::*;

/// Writes the nth migration of the app that its folder calls `shop` and Django `store`.
fn write(app: &App, number: u32, sql: &str) {
    let file = app.write(number, sql);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(file, text.replace("(\"shop\"", "(\"store\"")).unwrap();
}

fn configure(app: &App, label: &str) {
    let text = format!(
        "from django.apps import AppConfig\n\n\nclass Shop(AppConfig):\n    name = \"shop\"\n    label = {label}\n"
    );
    put(app.dir.path().join("shop/apps.py"), &text);
}

#[tokio::test]
async fn an_app_of_django_is_found_under_its_label() {
    let Some(app) = App::new(django(), "django_label").await else { return };
    configure(&app, "\"store\"");
    write(&app, 1, "create table a (n int)");
    write(&app, 2, "create table b (n int)");
    assert_eq!(app.states().await, ["store.0001_step pending", "store.0002_step pending"]);
    assert_eq!(app.apply().await.unwrap().0, app.after_packages(&["store.0001_step", "store.0002_step"]));
    assert_eq!(app.states().await, app.all_applied(&["store.0001_step", "store.0002_step"]));
    // No file tells the label: what stands in the record may be it, and only the tool knows.
    configure(&app, "\"\".join([\"sto\", \"re\"])");
    let unknown = ["shop.0001_step unknown", "shop.0002_step unknown"];
    assert_eq!(app.states().await[4..], unknown);
    // A person may say so; where one row tells of the app, the rest is known.
    assert!(app.migrations().resolve(&app.db, "shop.0001_step", false).await.is_err(), "no row would say so");
    app.migrations().resolve(&app.db, "shop.0001_step", true).await.unwrap();
    assert_eq!(app.states().await[4..], ["shop.0001_step applied", "shop.0002_step pending"]);
    run_sql(&app.db, "delete from django_migrations where app = 'shop'").await;
    assert_eq!(app.apply().await.unwrap().0, [""; 0]);
    // By its list the tool's name leads to the file: it runs in a transaction.
    write(&app, 3, "create table c (n int); select 1/0");
    let error = app.failure().await.to_string();
    assert!(error.starts_with("store.0003_step: ") && error.ends_with("nothing of it was kept"), "{error}");
}
