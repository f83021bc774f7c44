//! What every kind of step keeps: it fails and is undone, it is acted twice, it is undone twice.
//!
//! The steps are those of the plan, so that a new one is covered by itself.

mod common;

use common::{RECEIPTS, WRITES_RECEIPTS, live_stage};
use piton_testkit::load::Running;
use piton_testkit::stage::{Stage, World};

/// A stage on which the next release to `environment` has a migration and something to go back to.
fn set(environment: &str) -> Option<Stage> {
    let stage = live_stage()?;
    if environment == "staging" {
        stage.deploy("staging");
    }
    stage.commit("v2", &[RECEIPTS, WRITES_RECEIPTS]);
    Some(stage)
}

/// A load that writes nothing, so that the gate has something to judge and the database may go back.
fn reads(stage: &Stage, environment: &str) -> Running {
    let mut load = stage.load(environment);
    load.writes = 0.0;
    load.reads = vec!["/".into(), "/items".into()];
    load.start().unwrap()
}

/// The steps of the next release with their phases.
fn steps(stage: &Stage, environment: &str) -> Vec<(String, String)> {
    let plan = stage.piton(&["plan", environment, "--json"]).expect(0).json();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    plan["steps"].as_array().unwrap().iter().map(|step| (text(&step["id"]), text(&step["phase"]))).collect()
}

/// A proved backup is kept whatever becomes of the release.
fn world(stage: &Stage) -> World {
    stage.world().only(|fact| !fact.starts_with("file backups"))
}

#[test]
fn production_fails_at_each_step_and_leaves_nothing_over() {
    fails_at_each_step("production");
}

#[test]
fn staging_fails_at_each_step_and_leaves_nothing_over() {
    fails_at_each_step("staging");
}

fn fails_at_each_step(environment: &str) {
    let Some(stage) = set(environment) else { return };
    let load = reads(&stage, environment);
    let before = world(&stage);
    let all = common::run_all();
    for (number, (step, phase)) in steps(&stage, environment).into_iter().enumerate() {
        if phase == "settle" {
            continue;
        }
        for side in common::sides(number, all) {
            let at = format!("{step}:{side}");
            stage.piton_with_env(&["deploy", environment], &[("PITON_FAIL_AT", &at)]).expect(3).says(&step);
            before.assert_same(&world(&stage), &format!("after a fault at {at}"));
        }
    }
    common::assert_no_failures_but_of(&stage.finish(load), "no release");
}

#[test]
fn a_release_that_settles_stands_at_a_fault_and_goes_on() {
    for environment in ["production", "staging"] {
        let Some(stage) = set(environment) else { return };
        let load = reads(&stage, environment);
        let settling = steps(&stage, environment).into_iter().filter(|(_, phase)| phase == "settle");
        let mut command = "deploy";
        for (step, _) in settling {
            for side in ["before", "after"] {
                let at = format!("{step}:{side}");
                let stands = stage.piton_with_env(&[command, environment], &[("PITON_FAIL_AT", &at)]);
                stands.expect(4).says(&step).says("piton resume");
                stage.piton(&["abort", environment]).expect(2).says("the way back was closed");
                assert_eq!(stage.get(stage.listen(environment), "/"), Some((200, "v2".into())));
                command = "resume";
            }
        }
        stage.piton(&["resume", environment]).expect(0);
        common::assert_no_failures_but_of(&stage.finish(load), "no release");
        assert_eq!(stage.get(stage.listen(environment), "/"), Some((200, "v2".into())));
    }
}

#[test]
fn production_acts_each_step_twice() {
    acts_twice("production");
}

#[test]
fn staging_acts_each_step_twice() {
    acts_twice("staging");
}

/// Killed after each step has acted and before that is journaled, a release ends in the same world as one that never died.
fn acts_twice(environment: &str) {
    let (Some(calm), Some(stage)) = (set(environment), set(environment)) else { return };
    let load = reads(&calm, environment);
    calm.deploy(environment);
    common::assert_no_failures_but_of(&calm.finish(load), "no release");

    let load = reads(&stage, environment);
    let mut command = "deploy";
    for (step, _) in steps(&stage, environment) {
        let at = format!("done {step}:before");
        stage.piton_with_env(&[command, environment], &[("PITON_CRASH_AT", &at)]).expect(137);
        command = "resume";
    }
    stage.piton(&["resume", environment]).expect(0);
    common::assert_no_failures_but_of(&stage.finish(load), "no release");
    calm.world().neutral(&calm).assert_same(&stage.world().neutral(&stage), "when each step acted twice");
}

#[test]
fn production_undoes_each_step_twice() {
    undoes_twice("production");
}

#[test]
fn staging_undoes_each_step_twice() {
    undoes_twice("staging");
}

/// Killed after each step was undone and before that is journaled, a release leaves the world as it was.
fn undoes_twice(environment: &str) {
    let Some(stage) = set(environment) else { return };
    let load = reads(&stage, environment);
    let before = world(&stage);
    let mut undone = steps(&stage, environment);
    undone.retain(|(_, phase)| phase != "settle");
    let last = format!("{}:after", undone.last().unwrap().0);
    let mut command = "deploy";
    for (step, _) in undone.iter().rev() {
        let at = format!("undone {step}:before");
        let env = [("PITON_FAIL_AT", last.as_str()), ("PITON_CRASH_AT", &at)];
        stage.piton_with_env(&[command, environment], &env).expect(137);
        command = "resume";
    }
    stage.piton(&["resume", environment]).expect(3);
    before.assert_same(&world(&stage), "when each step was undone twice");
    common::assert_no_failures_but_of(&stage.finish(load), "no release");
}
