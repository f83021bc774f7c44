//! Staging's database, made from nothing but the release's migrations and its seed.

use piton_testkit::stage::{Change, Stage};

use crate::common::{RECEIPTS, SEED, SEED_ROWS, WRITES_RECEIPTS, live_stage};

/// A production, and a staging that is made fresh.
fn fresh_stage() -> Option<Stage> {
    let mut stage = live_stage()?;
    stage.configure(|settings| settings.staging_seed = Some(SEED));
    Some(stage)
}

fn ids(stage: &Stage) -> Vec<String> {
    stage.sql(&stage.database("staging"), "select id from items where id not like 'old-%' order by id")
}

#[test]
fn staging_is_made_fresh_and_seeded() {
    let Some(stage) = fresh_stage() else { return };
    stage.sql(&stage.database("production"), "insert into items (id, note) values ('of a person', 'x')");
    stage.commit("v2", &[RECEIPTS, WRITES_RECEIPTS, SEED_ROWS]);
    let before = stage.world().only(|fact| fact.contains("production"));
    let plan = stage.piton(&["plan", "staging", "--json"]).expect(0).json();
    let steps: Vec<_> =
        plan["steps"].as_array().unwrap().iter().map(|step| step["id"].as_str().unwrap()).collect();
    assert_eq!(steps[..5], ["guard", "build", "fresh", "migrate.data", "start"]);
    let remarks: Vec<_> =
        plan["remarks"].as_array().unwrap().iter().map(|remark| remark.as_str().unwrap()).collect();
    assert!(remarks[0].contains("holds no rows but the seed's") && remarks.len() == 2, "{remarks:?}");
    let said = stage.piton(&["deploy", "staging"]).expect(0);
    said.says("001_items.sql, 002_receipts.sql, and seeded");
    assert_eq!(ids(&stage), ["seed-1", "seed-2", "seed-3"], "no row of production's");
    assert!(stage.sql(&stage.database("staging"), "select from receipts").is_empty());
    before.assert_same(
        &stage.world().only(|fact| fact.contains("production")),
        "after a release to a fresh staging",
    );

    // What people tried on staging goes with the next release.
    stage.sql(&stage.database("staging"), "insert into items (id, note) values ('tried', 'x')");
    stage.commit("v3", &[WRITES_RECEIPTS]);
    stage.deploy("staging");
    assert_eq!(ids(&stage), ["seed-1", "seed-2", "seed-3"]);
    assert_eq!(stage.databases(), [stage.database("production"), stage.database("staging")]);
    let refused = stage.piton(&["clone", "staging"]).expect(2);
    refused.says("piton deploy staging makes it anew");
}

#[test]
fn a_seed_that_fails_leaves_staging_as_it_was() {
    let Some(stage) = fresh_stage() else { return };
    stage.commit("v2", &[SEED_ROWS]);
    stage.deploy("staging");
    let before = stage.world();
    stage.commit(
        "v3",
        &[
            RECEIPTS,
            Change::File("seed.sql", "insert into items (id, note) values ('half', 'x');\nselect 1/0;\n"),
        ],
    );
    let failed = stage.piton(&["deploy", "staging"]).expect(3);
    failed.says("the seed failed").says("division by zero").says("staging was not touched");
    before.assert_same(&stage.world(), "after a seed that failed");
    assert_eq!(ids(&stage), ["seed-1", "seed-2", "seed-3"]);
    // A migration that fails on the way says so, not that the seed did.
    stage.commit("v4", &[Change::Migration("003_wrong.sql", "select wrong;"), SEED_ROWS]);
    let failed = stage.piton(&["deploy", "staging"]).expect(3);
    failed.says("the migration failed").says("staging was not touched");
    before.assert_same(&stage.world(), "after a migration that failed");
}
