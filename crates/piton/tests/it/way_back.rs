//! A release before that cannot run: whoever has traffic is served, and a person says whether the new one goes on without it.

use std::path::PathBuf;

use crate::common::{BAD, assert_no_failures_but_of, live_stage_in_turn, stage_in_turn};
use piton_testkit::stage::{Change, Stage};

/// Sets a stage on which production runs `v1`, which needs the variable `OLD`; `v2`, which does not, is under way, and was
/// killed at an event of its release.
fn under_way(changes: &[Change<'_>], steps: Vec<&'static str>, killed_at: &str) -> Option<Stage> {
    let mut stage = stage_in_turn()?;
    let plain = stage.settings().command.clone();
    stage.configure(|settings| {
        settings.ready_within = "5s";
        settings.production.vars.insert("OLD".into(), "1".into());
        settings.command =
            format!("sh -c '[ -n \"$OLD\" ] || {{ echo OLD is missing; exit 1; }}; exec {plain}'");
    });
    stage.deploy("production");
    stage.configure(|settings| {
        settings.command = plain;
        settings.steps = steps;
    });
    stage.commit("v2", changes);
    let load = stage.load("production").start().unwrap();
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", killed_at)]).expect(137);
    stage.finish(load);
    Some(stage)
}

fn in_the_watch() -> Option<Stage> {
    under_way(&[], vec!["50% for 1s", "100%"], "started watch:after")
}

/// The old app's variable is renamed, and the machine falls.
fn the_old_app_is_dead(stage: &mut Stage) {
    stage.configure(|settings| {
        settings.production.vars.remove("OLD");
    });
    stage.end_all();
}

#[track_caller]
fn serves(stage: &Stage, release: &str) {
    assert_eq!(stage.get(stage.listen("production"), "/"), Some((200, release.into())));
}

#[track_caller]
fn is_over(stage: &Stage, outcome: &str) {
    assert_eq!(stage.status("production")["release"]["outcome"], outcome);
}

fn slot(stage: &Stage, slot: &str) -> PathBuf {
    let slots = stage.root().join(".piton/environments/production/slots");
    let found = std::fs::read_dir(slots).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(slot);
    found.into_iter().find(|path| named(path) && path.is_dir()).unwrap()
}

#[test]
fn a_release_with_all_traffic_goes_on_and_settles() {
    let Some(mut stage) = in_the_watch() else { return };
    the_old_app_is_dead(&mut stage);
    let said = stage.piton(&["resume", "--all", "--json"]).expect(0);
    let said = said
        .says("blue on")
        .says("cannot be started again")
        .says("OLD is missing")
        .says("no way back")
        .json();
    let production = &said["environments"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["environment"] == "production")
        .unwrap();
    assert!(production["not_started"][0]["what"].as_str().unwrap().starts_with("blue on"), "{said}");
    assert_eq!(production["carried_on"], true);
    let load = stage.load("production").start().unwrap();
    stage.eventually("the end", || stage.status("production")["release"]["outcome"] == "succeeded");
    assert_no_failures_but_of(&stage.finish(load), "no release");
    serves(&stage, "v2");
}

#[test]
fn going_back_to_a_dead_app_stands_and_may_go_forward() {
    let Some(mut stage) = in_the_watch() else { return };
    the_old_app_is_dead(&mut stage);
    let way_on = "piton resume production --forward";
    // Nothing runs: whoever has the traffic is started all the same.
    stage.piton(&["abort", "production"]).expect(4).says("blue on").says("OLD is missing").says(way_on);
    serves(&stage, "v2");
    is_over(&stage, "stands");
    stage.end_all();
    stage.piton(&["resume", "production"]).expect(1).says("blue on").says("OLD is missing").says(way_on);
    serves(&stage, "v2");
    assert!(stage.piton(&["status", "production"]).expect(0).stdout.contains(way_on));
    stage.piton(&["resume", "production", "--forward"]).expect(0);
    serves(&stage, "v2");
    is_over(&stage, "succeeded");
    stage.piton(&["log", "production", "--verify"]).expect(0).says("none altered");
}

#[test]
fn going_back_to_a_dead_app_goes_back_once_it_is_mended() {
    let Some(mut stage) = in_the_watch() else { return };
    the_old_app_is_dead(&mut stage);
    stage.piton(&["abort", "production"]).expect(4);
    stage.configure(|settings| {
        settings.production.vars.insert("OLD".into(), "1".into());
    });
    stage.piton(&["resume", "production"]).expect(3);
    serves(&stage, "v1");
}

#[test]
fn the_gate_sends_nobody_to_a_dead_app_and_a_person_may_overrule_it() {
    let Some(mut stage) = under_way(&[BAD], vec!["100%"], "started watch:after") else { return };
    the_old_app_is_dead(&mut stage);
    let resume = stage.spawn(&["resume", "production"], &[]);
    stage.eventually("the new app", || stage.get(stage.listen("production"), "/").is_some());
    let load = stage.load("production").start().unwrap();
    resume.wait().expect(4).says("the gate sends it back").says("piton resume production --forward");
    // All that failed was answered by the new release: nobody was sent to the dead one.
    assert_no_failures_but_of(&stage.finish(load), "v2");
    stage.piton(&["resume", "production", "--forward"]).expect(0).says("way back given up");
    is_over(&stage, "succeeded");
}

#[test]
fn a_dead_app_that_has_most_of_the_traffic_is_said_and_the_new_one_may_take_it() {
    let Some(mut stage) = under_way(&[], vec!["50% for 60s", "100%"], "noted shift.50%:after") else {
        return;
    };
    the_old_app_is_dead(&mut stage);
    stage
        .piton(&["resume", "production"])
        .expect(1)
        .says("blue on")
        .says("green on")
        .says("piton resume production --forward");
    let [_, _, green] = stage.settings().production.ports;
    let green = std::net::SocketAddr::from(([127, 0, 0, 1], green));
    assert_eq!(stage.get(green, "/"), Some((200, "v2".into())));
    assert!(stage.status("production")["proxy"].is_object());
    stage.piton(&["resume", "production", "--forward"]).expect(0);
    serves(&stage, "v2");
}

#[test]
fn a_way_back_that_is_there_is_not_given_up() {
    let Some(stage) = in_the_watch() else { return };
    stage.piton(&["resume", "production", "--forward"]).expect(2).says("the way back is there");
    // Nor may a release go forward that has had no traffic, or none that is under way.
    stage.piton(&["abort", "production"]).expect(0);
    stage.piton(&["resume", "production", "--forward"]).expect(2);
    stage.commit("v3", &[]);
    stage.piton_with_env(&["deploy", "production"], &[("PITON_CRASH_AT", "done start:after")]).expect(137);
    stage.piton(&["resume", "production", "--forward"]).expect(2).says("it has had no traffic yet");
}

#[test]
fn the_folder_of_a_slot_is_copied_anew_when_it_is_gone_or_damaged() {
    let Some(stage) = live_stage_in_turn() else { return };
    let folder = slot(&stage, "blue");
    stage.end_all();
    std::fs::remove_dir_all(&folder).unwrap();
    stage.piton(&["resume", "production"]).expect(0).says("started again");
    serves(&stage, "v1");
    stage.end_all();
    std::fs::write(folder.join("built.json"), "cut o").unwrap();
    std::fs::write(folder.join("uploads"), "the app's own").unwrap();
    stage.piton(&["resume", "production"]).expect(0).says("started again");
    serves(&stage, "v1");
    assert_eq!(std::fs::read_to_string(folder.join("uploads")).unwrap(), "the app's own");
}
