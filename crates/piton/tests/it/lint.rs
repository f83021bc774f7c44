//! What `piton plan` and the guard say of a migration's text.

use piton_testkit::stage::{Change, Stage};
use serde_json::Value;

use crate::common::{live_stage, stage};

#[test]
fn lint_warns_in_the_plan_and_refuses_where_it_is_told_to() {
    let Some(mut stage) = live_stage() else { return };
    let sql = "alter table items add tag text;\n\nalter table items drop column note;\n";
    stage.commit("v2", &[Change::Migration("002_tag.sql", sql)]);
    let found = "002_tag.sql:3: Dropping a column may break existing clients.";
    let plan = stage.piton(&["plan", "production", "--json"]).expect(0).json();
    let remarks: Vec<&str> = plan["remarks"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let warned = remarks.iter().find(|remark| remark.starts_with(found)).unwrap();
    assert!(
        warned.ends_with("(ban-drop-column)") && warned.contains("after the last one that uses it"),
        "{warned}"
    );

    stage.configure(|settings| settings.more = "[lint]\nban-drop-column = \"error\"\n".into());
    let refused = stage.piton(&["deploy", "production"]).expect(2);
    refused.says("a pending migration has what [lint] in piton.toml refuses").says(found);
    stage.configure(|settings| settings.more = "[lint]\nban-drop-column = \"off\"\n".into());
    let plan = stage.piton(&["plan", "production", "--json"]).expect(0).json();
    assert!(!plan["remarks"].to_string().contains("ban-drop-column"), "{plan:#}");
    stage.configure(|settings| settings.more = "[lint]\nban-drop-colum = \"off\"\n".into());
    stage.piton(&["plan", "production"]).expect(2).says("did you mean `ban-drop-column`?");
}

#[test]
fn what_no_rule_can_look_at_is_told_and_refused_where_one_refuses() {
    let Some(mut stage) = live_stage() else { return };
    stage.commit(
        "v2",
        &[Change::Migration("002_odd.sql", "select 1;\nalter tabel items drop column note;\n")],
    );
    let found = "002_odd.sql:2: It cannot be parsed here";
    assert!(remarks(&stage).contains(found), "{}", remarks(&stage));
    let error = "[lint]\nban-drop-column = \"error\"\n";
    stage.configure(|settings| settings.more = error.into());
    let refused = stage.piton(&["deploy", "production"]).expect(2);
    refused.says("what [lint] in piton.toml refuses").says(found).says("(syntax-error)");
    stage.configure(|settings| settings.more = format!("{error}syntax-error = \"warn\"\n"));
    assert!(remarks(&stage).contains(found), "{}", remarks(&stage));

    let commands = "migrations = { apply = \"true\", status = \"true\" }";
    stage.configure(|settings| settings.database = commands.into());
    let refused = stage.piton(&["deploy", "production"]).expect(2);
    refused.says("[lint] in piton.toml refuses by rules that see none").says("no SQL files");
    stage.configure(|settings| settings.more.clear());
    assert!(remarks(&stage).contains("no rule of [lint] looks at"), "{}", remarks(&stage));
}

fn remarks(stage: &Stage) -> String {
    stage.piton(&["plan", "production", "--json"]).expect(0).json()["remarks"].to_string()
}

#[test]
fn what_the_refusal_tells_people_to_write_is_heeded() {
    let Some(mut stage) = stage() else { return };
    let error = "[lint]\nchanging-every-row = \"error\"\nprefer-timestamptz = \"error\"\n";
    stage.configure(|settings| settings.more = error.into());
    let sql = "alter table items add at timestamp;\nupdate items set note = note;\n";
    stage.commit("v2", &[Change::Migration("002_at.sql", sql)]);
    let refused = stage.piton(&["deploy", "production"]).expect(2);
    refused.says("(prefer-timestamp-tz)").says("(changing-every-row)").says("-- squawk-ignore RULE");

    let sql = "-- squawk-ignore prefer-timestamp-tz\nalter table items add at timestamp;\n\
               -- squawk-ignore changing-every-row, no-such-rule\nupdate items set note = note;\n";
    stage.commit("v3", &[Change::Migration("002_at.sql", sql)]);
    let remarks = remarks(&stage);
    assert!(remarks.contains("002_at.sql:3: There is no lint rule no-such-rule"), "{remarks}");
    assert!(!remarks.contains("changing-every-row)"), "{remarks}");
    stage.deploy("production");
}

#[test]
fn a_migration_that_cannot_be_read_is_not_passed_over() {
    let Some(mut stage) = live_stage() else { return };
    std::fs::write(
        stage.root().join("migrations/002_latin.sql"),
        b"comment on table items is 'Fr\xfchling';",
    )
    .unwrap();
    stage.commit("v2", &[]);
    let remarks = remarks(&stage);
    assert!(
        remarks.contains("which migrations are pending is not known") && remarks.contains("UTF-8"),
        "{remarks}"
    );
    stage.configure(|settings| settings.more = "[lint]\nban-drop-column = \"error\"\n".into());
    let refused = stage.piton(&["deploy", "production"]).expect(2);
    refused.says("[lint] in piton.toml cannot look at the pending migrations").says("UTF-8");
}
