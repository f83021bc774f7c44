//! The engine with a real journal and real steps: it acts in order, stands, goes back, and is carried on after any kill.

use std::path::Path;
use std::time::{Duration, Instant};

use piton_exec::marker;
use piton_proxy::Slot;
use tempfile::TempDir;

use super::*;
use crate::config;
use crate::dirs::Dirs;
use crate::plan::{Commit, Job, PlannedStep};
use crate::retention::Retention;
use crate::step::{Checks, CountLoss, Guard, Older, Prune, Step};

/// A project without a database, and its journal.
struct Project {
    dir: TempDir,
    world: World,
    /// The release's identifier: the programs of other tests must not be taken for its own.
    id: String,
}

impl Project {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"
            app = "shop"
            [run]
            command = "true"
            ready = { get = "/" }
            [environments.production]
            listen = "127.0.0.1:8080"
            ports = { blue = 3001, green = 3002 }
        "#;
        std::fs::write(dir.path().join("piton.toml"), text).unwrap();
        let settings = config::load(dir.path()).unwrap().environment("production", &|_| None).unwrap();
        let world = World {
            settings,
            from: None,
            others: Vec::new(),
            dirs: Dirs::new(dir.path()),
            piton: "/nonexistent/piton".into(),
            released_before: Vec::new(),
            backed_up_commit: None,
            backed_up_checks: Vec::new(),
            serving: None,
            should_run: Vec::new(),
        };
        Self { dir, world, id: ulid::Ulid::generate().to_string() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn journal(&self) -> Journal {
        Journal::open(&self.world.dirs.journal()).unwrap()
    }

    /// A step that runs commands in the project's folder.
    fn runs(&self, id: &str, commands: &[&str]) -> PlannedStep {
        let checks = commands
            .iter()
            .map(|line| config::Check {
                name: (*line).to_owned(),
                kind: config::CheckKind::Command(line.parse().unwrap()),
                within: Some(Duration::from_secs(60)),
            })
            .collect();
        planned(id, Phase::Start, Checks { port: 1, app: self.path().to_owned(), checks })
    }

    /// A step that fails through its surroundings for as long as a file lies where the folder of backups should be.
    fn prunes(&self, id: &str) -> PlannedStep {
        let keep = Duration::from_secs(86_400);
        planned(
            id,
            Phase::Settle,
            Prune {
                folder: self.path().join("backups"),
                retention: Retention { keep, last: 0, daily: 0, weekly: 0 },
            },
        )
    }

    fn begin(&self, steps: Vec<PlannedStep>) -> Recorder<'static> {
        self.begin_plan(self.plan(steps))
    }

    fn begin_plan(&self, plan: Plan) -> Recorder<'static> {
        let by = Operator::this_process();
        let mut journal = self.journal();
        let lease = journal.acquire("production", &by).unwrap();
        Recorder::create(journal, lease, plan, by, &Unwatched).unwrap()
    }

    fn take_up(&self) -> Recorder<'static> {
        let by = Operator::this_process();
        let mut journal = self.journal();
        let lease = journal.acquire("production", &by).unwrap();
        Recorder::take_up(journal, lease, &self.id, by, &Unwatched).unwrap()
    }

    async fn run(&self, recorder: Recorder<'static>) -> (End, State) {
        let recorder = RefCell::new(recorder);
        let end = run(&recorder, &self.world, std::future::pending()).await.unwrap();
        let state = recorder.borrow().state().clone();
        recorder.into_inner().finish().unwrap();
        (end, state)
    }

    /// The release's events as `name` or `name step`.
    fn events(&self) -> Vec<String> {
        let words = |event: &Event| match event.step() {
            Some(step) => format!("{} {step}", event.kind()),
            None => event.kind().to_owned(),
        };
        self.journal().entries(&self.id, 0).unwrap().iter().map(|entry| words(&entry.event)).collect()
    }

    fn plan(&self, steps: Vec<PlannedStep>) -> Plan {
        Plan {
            id: self.id.clone(),
            job: Job::Release,
            app: "shop".into(),
            environment: "production".into(),
            protected: false,
            commit: Commit { hash: "3f9c2e1".repeat(5), subject: "Faster".into() },
            live: None,
            slot: Slot::Blue,
            stay: false,
            steps,
            remarks: Vec::new(),
        }
    }

    /// Counts the release's own `sleep`s that live.
    fn sleeping(&self) -> usize {
        marker::find("PITON_WORK", &self.id).len()
    }

    fn ask(&self, request: Request) {
        self.journal().ask(&self.id, request, &Operator::this_process()).unwrap();
    }

    fn file(&self, name: &str) -> bool {
        self.path().join(name).exists()
    }
}

fn planned(id: &str, phase: Phase, step: impl Into<Step>) -> PlannedStep {
    let (does, undo) = (String::new(), String::new());
    PlannedStep { id: id.into(), phase, does, commands: Vec::new(), undo, step: step.into() }
}

#[tokio::test]
async fn steps_act_in_their_order_each_started_before_and_done_after() {
    let project = Project::new();
    let steps = vec![project.runs("one", &["mkdir made"]), project.runs("two", &["rmdir made", "true"])];
    let (end, state) = project.run(project.begin(steps)).await;
    assert_eq!(end, End::Over(Outcome::Succeeded));
    assert_eq!(
        project.events(),
        [
            "created",
            "started one",
            "ran one",
            "done one",
            "started two",
            "ran two",
            "ran two",
            "done two",
            "ended"
        ]
    );
    assert!(!project.file("made") && state.steps.iter().all(|step| step.attempts == 1));
    assert!(project.journal().holder("production").unwrap().is_none(), "the lease is given back");
}

#[tokio::test]
async fn a_fault_of_the_release_undoes_all_that_began_from_the_last_to_the_first() {
    let project = Project::new();
    let steps = vec![
        project.runs("one", &["true"]),
        project.runs("two", &["false"]),
        project.runs("three", &["mkdir made"]),
    ];
    let (end, state) = project.run(project.begin(steps)).await;
    assert_eq!(end, End::Over(Outcome::RolledBack));
    assert_eq!(
        project.events()[4..],
        [
            "started two",
            "ran two",
            "failed two",
            "turned_back",
            "undo_started two",
            "undone two",
            "undo_started one",
            "undone one",
            "ended"
        ]
    );
    assert_eq!(state.back.unwrap().reason, Back::Fault { step: "two".into() });
    assert!(!project.file("made"), "what comes after the fault never began");
}

#[tokio::test]
async fn with_stay_a_failed_release_stands_until_it_is_aborted() {
    let project = Project::new();
    let stay = Plan {
        stay: true,
        ..project.plan(vec![project.runs("one", &["true"]), project.runs("two", &["false"])])
    };
    let (end, state) = project.run(project.begin_plan(stay)).await;
    assert!(matches!(end, End::Stopped(_)) && state.back.is_none());
    may_ask(&state, Request::Abort).unwrap();
    project.ask(Request::Abort);
    let (end, state) = project.run(project.take_up()).await;
    assert_eq!(end, End::Over(Outcome::RolledBack));
    assert!(matches!(state.back.unwrap().reason, Back::Asked { .. }));
    assert_eq!(state.steps[1].attempts, 1, "what was asked comes before the step is tried again");
}

#[tokio::test]
async fn a_fault_of_the_surroundings_stands_and_is_carried_on_once_mended() {
    let project = Project::new();
    let backups = project.path().join("backups");
    std::fs::write(&backups, "in the way").unwrap();
    let steps = vec![project.runs("one", &["mkdir made"]), project.prunes("settle")];
    let (end, state) = project.run(project.begin(steps)).await;
    let End::Stopped(fault) = end else { panic!("{end:?}") };
    assert_eq!((fault.kind, fault.what.as_str()), (Kind::Surroundings, "the backups cannot be listed"));
    assert_eq!(state.standing_fault().unwrap().0, "settle");
    // A step that cannot be undone has begun: there is only the way on.
    let refused = may_ask(&state, Request::Abort).unwrap_err();
    assert!(refused.hint.unwrap().contains("piton resume production"));

    std::fs::remove_file(&backups).unwrap();
    let (end, state) = project.run(project.take_up()).await;
    assert_eq!(end, End::Over(Outcome::Succeeded));
    // `mkdir made` would have failed a second time.
    assert_eq!(state.steps.iter().map(|step| step.attempts).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_guards_refusal_ends_the_release_with_nothing_undone() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut project = Project::new();
    project.world.settings.run.ports.blue = taken.local_addr().unwrap().port();
    let guard = Guard {
        commit: "3f9c2e1".into(),
        slot: Slot::Blue,
        job: Job::Release,
        backup: None,
        files: None,
        kept: None,
        store: false,
    };
    let steps = vec![planned("guard", Phase::Guard, guard), project.runs("one", &["mkdir made"])];
    let (end, state) = project.run(project.begin(steps)).await;
    assert_eq!(end, End::Over(Outcome::Refused));
    assert!(state.refusal().unwrap().what.contains("cannot be used"), "{:?}", state.refusal());
    assert_eq!(project.events(), ["created", "started guard", "failed guard", "ended"]);
}

/// What a person ordered, and a step refuses, has changed nothing once it is undone; a release has gone back.
#[tokio::test]
async fn a_later_refusal_ends_an_order_as_refused_once_all_is_undone() {
    for (job, outcome) in [(Job::Rollback, Outcome::Refused), (Job::Release, Outcome::RolledBack)] {
        let project = Project::new();
        let to = Older::Kept { name: "older".into() };
        // There is no database to look at.
        let refuses = CountLoss { to, older: "older".into(), accept: 0 };
        let steps = vec![project.runs("one", &["mkdir made"]), planned("loss", Phase::Rehearse, refuses)];
        let (end, state) = project.run(project.begin_plan(Plan { job, ..project.plan(steps) })).await;
        assert_eq!(end, End::Over(outcome));
        let refusal = state.back.unwrap().refusal.map(|(step, fault)| (step, fault.what));
        let wanted = Some(("loss".to_owned(), "production has no [database]".to_owned()));
        assert_eq!(refusal, wanted.filter(|_| job == Job::Rollback));
        let back =
            ["turned_back", "undo_started loss", "undone loss", "undo_started one", "undone one", "ended"];
        let events = project.events();
        let turned = events.iter().position(|event| event == "turned_back").unwrap();
        assert_eq!(events[turned..], back);
    }
}

#[tokio::test]
async fn an_interrupt_leaves_the_release_and_ends_its_programs() {
    let project = Project::new();
    let recorder = RefCell::new(project.begin(vec![project.runs("one", &["touch began", "sleep 300"])]));
    let began = project.path().join("began");
    let interrupt = async { wait_until(|| began.exists()).await };
    let end = run(&recorder, &project.world, interrupt).await.unwrap();
    assert_eq!(end, End::Left);
    recorder.into_inner().finish().unwrap();
    assert_eq!(project.events().last().unwrap(), "left");
    wait_until(|| project.sleeping() == 0).await;

    project.ask(Request::Abort);
    let (end, _) = project.run(project.take_up()).await;
    assert_eq!(end, End::Over(Outcome::RolledBack));
    assert_eq!(project.sleeping(), 0);
}

#[tokio::test]
async fn a_request_is_taken_up_while_a_step_acts() {
    let project = Project::new();
    let recorder = project.begin(vec![project.runs("one", &["touch began", "sleep 300"])]);
    let asking = async {
        wait_until(|| project.file("began")).await;
        for request in [Request::Hold, Request::Rollback { database: true, undecided: false }] {
            project.ask(request);
        }
    };
    let ((end, state), ()) = tokio::join!(project.run(recorder), asking);
    assert_eq!(end, End::Over(Outcome::RolledBack));
    assert!(state.back.unwrap().database);
    assert!(project.journal().pending(&project.id).unwrap().is_empty(), "each request is taken up once");
    assert_eq!(project.events().iter().filter(|event| *event == "asked").count(), 2);
    assert_eq!(project.sleeping(), 0);
}

#[tokio::test]
async fn a_process_that_lost_its_lease_stops_and_writes_no_more() {
    let project = Project::new();
    let recorder = RefCell::new(project.begin(vec![project.runs("one", &["touch began", "true"])]));
    let mut other = project.journal();
    // Another process takes over between this one's start and its first step.
    let lease = other.acquire("production", &Operator::this_process()).unwrap();
    let error = run(&recorder, &project.world, std::future::pending()).await.unwrap_err();
    assert!(matches!(error, JournalError::LeaseLost { .. }));
    assert!(!project.file("began"), "a step acts only after its start is journaled");
    assert_eq!(project.events(), ["created"]);
    other.append(&lease, &project.id, &Event::Left { why: "test".into() }).unwrap();
}

/// A kill leaves a prefix of the events. Whatever the prefix, the release comes to the end that it would have come to.
#[tokio::test]
async fn carried_on_after_a_kill_at_any_event_it_comes_to_the_same_end() {
    for (last, outcome) in [("true", Outcome::Succeeded), ("false", Outcome::RolledBack)] {
        let whole = Project::new();
        let steps = |project: &Project| {
            vec![
                project.runs("one", &["true"]),
                project.runs("two", &["true", "true"]),
                project.runs("three", &[last]),
            ]
        };
        whole.run(whole.begin(steps(&whole))).await;
        let events: Vec<Event> =
            whole.journal().entries(&whole.id, 0).unwrap().into_iter().map(|entry| entry.event).collect();
        for cut in 1..events.len() {
            let project = Project::new();
            let by = Operator::this_process();
            let mut journal = project.journal();
            let lease = journal.acquire("production", &by).unwrap();
            // The plan of this project: its steps run in its own folder.
            let first = Event::Created { plan: Box::new(project.plan(steps(&project))), by };
            for event in std::iter::once(&first).chain(&events[1..cut]) {
                journal.append(&lease, &project.id, event).unwrap();
            }
            drop(journal);
            let (end, state) = project.run(project.take_up()).await;
            assert_eq!(end, End::Over(outcome), "killed after {cut} events: {:?}", project.events());
            let touched = matches!(outcome, Outcome::RolledBack);
            assert!(state.steps.iter().all(|step| (step.progress == Progress::Undone) == touched));
            project.journal().verify().unwrap();
        }
        let over = whole.take_up();
        assert_eq!(over.state().ended.map(|(found, _)| found), Some(outcome));
        assert_eq!(whole.run(over).await.0, End::Over(outcome), "what is over stays as it is");
        assert_eq!(whole.journal().entries(&whole.id, 0).unwrap().len(), events.len());
    }
}

#[test]
fn requests_that_make_no_sense_are_refused_with_the_way_on() {
    let at = jiff::Timestamp::UNIX_EPOCH;
    let project = Project::new();
    let created = Event::Created {
        plan: Box::new(project.plan(vec![project.runs("one", &["true"]), project.prunes("settle")])),
        by: Operator::this_process(),
    };
    let mut state = State::begin(created, at).unwrap();
    let hint = |state: &State, request| may_ask(state, request).unwrap_err().hint.unwrap();
    assert!(hint(&state, Request::Hold).contains("piton status production"));
    assert!(hint(&state, Request::Continue { now: false }).contains("piton status production"));
    may_ask(&state, Request::Abort).unwrap();
    for step in ["one", "settle"] {
        state.apply(&Event::Started { step: step.into(), attempt: 1 }, at).unwrap();
        if step == "settle" {
            assert!(
                hint(&state, Request::Rollback { database: false, undecided: false })
                    .contains("piton resume production")
            );
        }
        state.apply(&Event::Done { step: step.into(), outcome: Value::Null }, at).unwrap();
    }
    state.apply(&Event::Ended { outcome: Outcome::Succeeded }, at).unwrap();
    assert!(hint(&state, Request::Abort).contains("piton deploy production --ref"));
}

async fn wait_until(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited for too long");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
