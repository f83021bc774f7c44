//! What every step of a backup, a proof, a restoration, a clone and a rollback to a backup keeps, as `step_contract` has it of a
//! release's steps.

use std::path::PathBuf;

use piton_testkit::stage::{Output, Stage, World};
use piton_testkit::store::Store;

use crate::common::{live_stage, sampled};
use crate::store::keep_in;

/// What a person orders, with the environment that it is ordered of.
#[derive(Clone, Debug)]
struct Order {
    environment: &'static str,
    args: Vec<String>,
    /// The folder of a backup that only the store has when it begins.
    lost: Option<PathBuf>,
}

/// Sets a stage with a backup that has files, and with a store where there is one, and lists what can be ordered on it.
fn set() -> Option<(Stage, Option<Store>, Vec<Order>)> {
    let mut stage = live_stage()?;
    let store = Store::start();
    stage.deploy("staging");
    let uploads = stage.folder().join("uploads");
    std::fs::create_dir_all(uploads.join("receipts")).unwrap();
    std::fs::write(uploads.join("receipts/1.pdf"), "pdf").unwrap();
    let files = format!(", files = [{uploads:?}]");
    match &store {
        Some(store) => keep_in(&mut stage, store, &files),
        None => stage.configure(|settings| settings.backup_more = files.clone()),
    }
    stage.piton(&["backup", "production"]).expect(0);
    let listed = stage.piton(&["backups", "production", "--json"]).expect(0).json();
    let backup = listed["backups"].as_array().unwrap().last().unwrap().clone();
    let [id, folder] = ["backup", "folder"].map(|key| backup[key].as_str().unwrap().to_owned());
    let name = format!("{}_restored", stage.database("production"));
    let into = stage.root().join("restored").display().to_string();
    let order = |environment, args: &[&str]| Order {
        environment,
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        lost: None,
    };
    let fetched = Order { lost: Some(folder.into()), ..order("production", &["prove", "production", &id]) };
    let mut orders = vec![
        order("production", &["backup", "production"]),
        order("production", &["prove", "production", "latest"]),
        order("production", &["restore", "production", "latest", "--into", &name, "--files", &into]),
        order("staging", &["clone", "staging"]),
        order("production", &["rollback", "production", "--to", &id]),
    ];
    orders.extend(store.is_some().then_some(fetched));
    Some((stage, store, orders))
}

impl Order {
    fn args(&self) -> Vec<&str> {
        self.args.iter().map(String::as_str).collect()
    }

    /// Begins it.
    fn begin(&self, stage: &Stage, env: &[(&str, &str)]) -> Output {
        if let Some(folder) = self.lost.as_ref().filter(|folder| folder.exists()) {
            std::fs::remove_dir_all(folder).unwrap();
        }
        stage.piton_with_env(&self.args(), env)
    }

    /// Begins it, or takes it up when this is not the first time.
    fn go(&self, stage: &Stage, number: usize, env: &[(&str, &str)]) -> Output {
        if number == 0 {
            return self.begin(stage, env);
        }
        stage.piton_with_env(&["resume", self.environment], env)
    }

    /// Carries it out, and returns its steps with their phases.
    fn steps(&self, stage: &Stage) -> Vec<(String, String)> {
        self.begin(stage, &[]).expect(0);
        let log = stage.piton(&["log", self.environment, "--json"]).expect(0).stdout;
        let events = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let created = events.rev().find(|event| event["event"]["event"] == "created").unwrap();
        let steps = created["event"]["plan"]["steps"].as_array().unwrap().clone();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let steps = steps.iter().map(|step| (text(&step["id"]), text(&step["phase"]))).collect();
        self.clear(stage);
        steps
    }

    /// Removes what the person has now.
    fn clear(&self, stage: &Stage) {
        if self.args[0] == "restore" {
            stage.sql("postgres", &format!("drop database {}", self.args[4]));
            std::fs::remove_dir_all(&self.args[6]).unwrap();
        }
        if self.args[0] == "rollback" {
            let kept: Vec<_> = stage.databases().into_iter().filter(|name| name.contains("_old_")).collect();
            assert_eq!(kept.len(), 1, "the one that was replaced: {kept:?}");
            stage.sql("postgres", &format!("drop database {}", kept[0]));
        }
    }

    /// Wants what was ordered to be there.
    fn is_done(&self, stage: &Stage) {
        if self.args[0] == "restore" {
            assert!(stage.databases().contains(&self.args[4]));
            let pdf = std::path::Path::new(&self.args[6]).join("uploads/receipts/1.pdf");
            assert_eq!(std::fs::read_to_string(pdf).unwrap(), "pdf");
        }
        self.clear(stage);
    }
}

/// What an order leaves over when it is undone: a proved backup is kept, and it is said when one was proved.
fn world(stage: &Stage) -> World {
    stage.world().only(|fact| !fact.starts_with("file backups"))
}

#[test]
fn orders_fail_at_each_step_and_leave_nothing_over() {
    let Some((stage, _store, orders)) = set() else { return };
    for order in sampled(&orders, 1) {
        let steps = order.steps(&stage);
        let before = world(&stage);
        for (step, _) in steps.iter().filter(|(_, phase)| phase != "settle") {
            for side in ["before", "after"] {
                let at = format!("{step}:{side}");
                order.begin(&stage, &[("PITON_FAIL_AT", &at)]).expect(3).says(step);
                before.assert_same(&world(&stage), &format!("{order:?} after a fault at {at}"));
            }
        }
    }
}

#[test]
fn each_step_of_an_order_acts_twice() {
    let Some((stage, _store, orders)) = set() else { return };
    for order in sampled(&orders, 1) {
        let steps = order.steps(&stage);
        let before = world(&stage);
        for (number, (step, _)) in steps.iter().enumerate() {
            let at = format!("done {step}:before");
            order.go(&stage, number, &[("PITON_CRASH_AT", &at)]).expect(137);
        }
        stage.piton(&["resume", order.environment]).expect(0);
        order.is_done(&stage);
        before.assert_same(&world(&stage), &format!("{order:?} when each step acted twice"));
    }
}

#[test]
fn each_step_of_an_order_is_undone_twice() {
    let Some((stage, _store, orders)) = set() else { return };
    for order in sampled(&orders, 1) {
        let mut steps = order.steps(&stage);
        steps.retain(|(_, phase)| phase != "settle");
        let before = world(&stage);
        let last = format!("{}:after", steps.last().unwrap().0);
        for (number, (step, _)) in steps.iter().rev().enumerate() {
            let at = format!("undone {step}:before");
            let env = [("PITON_FAIL_AT", last.as_str()), ("PITON_CRASH_AT", &at)];
            order.go(&stage, number, &env).expect(137);
        }
        stage.piton(&["resume", order.environment]).expect(3);
        before.assert_same(&world(&stage), &format!("{order:?} when each step was undone twice"));
    }
}
