//! What every kind of step keeps: it fails and is undone, it is acted twice, it is undone twice.
//!
//! The steps are those of the plan, so that a new one is covered by itself.

use crate::common::{RECEIPTS, SEED, SEED_ROWS, WRITES_RECEIPTS, has_its_turn, run_all, sampled, seed};
use piton_testkit::load::{Report, Running};
use piton_testkit::stage::{Stage, World};

/// A release with a migration, of which each step is tried.
#[derive(Clone, Copy)]
struct Case {
    environment: &'static str,
    /// Whether nothing serves there yet: no proxy, no mark, for staging not even a database.
    first: bool,
    /// Whether its database is made fresh, and seeded.
    fresh: bool,
    /// Sets its stage: what its server lets be followed.
    stage: fn() -> Option<Stage>,
}

const PRODUCTION: Case =
    Case { environment: "production", first: false, fresh: false, stage: crate::common::stage };
const STAGING: Case = Case { environment: "staging", ..PRODUCTION };

const CASES: [Case; 7] = [
    PRODUCTION,
    STAGING,
    Case { first: true, ..PRODUCTION },
    Case { first: true, ..STAGING },
    Case { fresh: true, ..STAGING },
    Case { stage: crate::common::with_log, ..PRODUCTION },
    Case { stage: crate::common::with_triggers, ..PRODUCTION },
];

impl Case {
    /// Sets a stage on which this release is the next one.
    fn set(self) -> Option<Stage> {
        let mut stage = (self.stage)()?;
        if self.fresh {
            stage.configure(|settings| settings.staging_seed = Some(SEED));
            stage.commit("v1 with a seed", &[SEED_ROWS]);
        }
        if !self.first || self.environment == "staging" {
            stage.deploy("production");
        }
        if !self.first && self.environment == "staging" {
            stage.deploy("staging");
        }
        stage.commit("v2", &[RECEIPTS, WRITES_RECEIPTS]);
        Some(stage)
    }

    /// Tells whether the migration stays when a step of this phase fails: with traffic, rows of a new table may be people's.
    fn keeps_its_tables(self, phase: &str) -> bool {
        self.first && self.environment == "production" && phase == "shift"
    }

    /// Starts a load where something serves.
    fn reads(self, stage: &Stage) -> Option<Running> {
        (!self.first).then(|| reads(stage, self.environment))
    }
}

/// Wants a load to have seen no failure.
#[track_caller]
fn nobody_noticed(stage: &Stage, load: Option<Running>) {
    let reports: Option<Report> = load.map(|load| stage.finish(load));
    reports.iter().for_each(|report| crate::common::assert_no_failures_but_of(report, "no release"));
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
    if has_its_turn(0, 3) {
        fails_at_each_step(CASES[0]);
    }
}

#[test]
fn staging_fails_at_each_step_and_leaves_nothing_over() {
    if has_its_turn(1, 3) {
        fails_at_each_step(CASES[1]);
    }
}

#[test]
fn first_and_fresh_releases_fail_at_each_step_and_leave_nothing_over() {
    if has_its_turn(2, 3) {
        sampled(&CASES[2..], 1).into_iter().for_each(|case| fails_at_each_step(*case));
    }
}

fn fails_at_each_step(case: Case) {
    let Some(stage) = case.set() else { return };
    let load = case.reads(&stage);
    let before = world(&stage);
    let all = run_all();
    let steps: Vec<_> = steps(&stage, case.environment).into_iter().enumerate().collect();
    let to_undo: Vec<_> = steps.iter().filter(|(_, (_, phase))| phase != "settle").collect();
    for (number, (step, phase)) in sampled(&to_undo, 4) {
        for side in sides(*number, all) {
            let at = format!("{step}:{side}");
            stage
                .piton_with_env(&["deploy", case.environment], &[("PITON_FAIL_AT", &at)])
                .expect(3)
                .says(step);
            let of_database = |fact: &str| fact.starts_with("structure of") || fact.starts_with("rows of");
            let same =
                |world: &World| world.only(|fact| !(case.keeps_its_tables(phase) && of_database(fact)));
            same(&before).assert_same(&same(&world(&stage)), &format!("after a fault at {at}"));
        }
    }
    nobody_noticed(&stage, load);
}

/// Returns the sides of a step at which it is made to fail: in a short run one of them, by turns from the seed.
fn sides(step: usize, all: bool) -> Vec<&'static str> {
    if all {
        return vec!["before", "after"];
    }
    vec![if (step as u64 + seed()).is_multiple_of(2) { "before" } else { "after" }]
}

#[test]
fn a_release_that_settles_stands_at_a_fault_and_goes_on() {
    for case in sampled(&CASES[..2], 1) {
        let environment = case.environment;
        let Some(stage) = case.set() else { return };
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
        crate::common::assert_no_failures_but_of(&stage.finish(load), "no release");
        assert_eq!(stage.get(stage.listen(environment), "/"), Some((200, "v2".into())));
    }
}

#[test]
fn each_step_acts_twice() {
    if has_its_turn(0, 2) {
        sampled(&CASES[..2], 1).into_iter().for_each(|case| acts_twice(*case));
    }
}

#[test]
fn each_step_of_a_first_or_fresh_release_acts_twice() {
    if has_its_turn(1, 2) {
        sampled(&CASES[2..], 1).into_iter().for_each(|case| acts_twice(*case));
    }
}

/// Killed after each step has acted and before that is journaled, a release ends in the same world as one that never died.
fn acts_twice(case: Case) {
    let (Some(calm), Some(stage)) = (case.set(), case.set()) else { return };
    let load = case.reads(&calm);
    calm.deploy(case.environment);
    nobody_noticed(&calm, load);

    let load = case.reads(&stage);
    let mut command = "deploy";
    for (step, _) in steps(&stage, case.environment) {
        let at = format!("done {step}:before");
        stage.piton_with_env(&[command, case.environment], &[("PITON_CRASH_AT", &at)]).expect(137);
        command = "resume";
    }
    stage.piton(&["resume", case.environment]).expect(0);
    nobody_noticed(&stage, load);
    calm.world().neutral(&calm).assert_same(&stage.world().neutral(&stage), "when each step acted twice");
}

#[test]
fn each_step_is_undone_twice() {
    if has_its_turn(1, 2) {
        sampled(&CASES[..2], 1).into_iter().for_each(|case| undoes_twice(*case));
    }
}

#[test]
fn each_step_of_a_first_or_fresh_release_is_undone_twice() {
    if has_its_turn(0, 2) {
        sampled(&CASES[2..], 1).into_iter().for_each(|case| undoes_twice(*case));
    }
}

/// Killed after each step was undone and before that is journaled, a release leaves the world as it was.
fn undoes_twice(case: Case) {
    let Some(stage) = case.set() else { return };
    let load = case.reads(&stage);
    let before = world(&stage);
    let mut undone = steps(&stage, case.environment);
    undone.retain(|(_, phase)| phase != "settle" && !case.keeps_its_tables(phase));
    let last = format!("{}:after", undone.last().unwrap().0);
    let mut command = "deploy";
    for (step, _) in undone.iter().rev() {
        let at = format!("undone {step}:before");
        let env = [("PITON_FAIL_AT", last.as_str()), ("PITON_CRASH_AT", &at)];
        stage.piton_with_env(&[command, case.environment], &env).expect(137);
        command = "resume";
    }
    stage.piton(&["resume", case.environment]).expect(3);
    before.assert_same(&world(&stage), "when each step was undone twice");
    nobody_noticed(&stage, load);
}
