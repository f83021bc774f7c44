//! The one transition function: legal sequences fold, illegal ones are refused with a typed error, none panics.

use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::fault::Fault;
use crate::journal::{Back, GoOn, Outcome, Progress, Request, State};

/// How many steps the plans of these tests have; the last one closes the way back.
const STEPS: usize = 4;

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn begun() -> State {
    State::begin(created(STEPS), at(0)).unwrap()
}

/// Folds events onto a fresh release.
fn after(events: impl IntoIterator<Item = Event>) -> State {
    let mut state = begun();
    for (second, event) in events.into_iter().enumerate() {
        state.apply(&event, at(i64::try_from(second).unwrap() + 1)).unwrap();
    }
    state
}

fn failed(index: usize) -> Event {
    Event::Failed { step: format!("step.{index}"), fault: Fault::surroundings("disk full") }
}

fn undo_started(index: usize, attempt: u32) -> Event {
    Event::UndoStarted { step: format!("step.{index}"), attempt }
}

fn undone(index: usize) -> Event {
    Event::Undone { step: format!("step.{index}"), outcome: Value::Null }
}

fn undo_failed(index: usize) -> Event {
    Event::UndoFailed { step: format!("step.{index}"), fault: Fault::surroundings("disk full") }
}

fn noted(index: usize) -> Event {
    Event::Noted { step: format!("step.{index}"), note: json!(index) }
}

fn ran(index: usize) -> Event {
    Event::Ran { step: format!("step.{index}"), command: "true".into(), code: 0, ms: 1 }
}

fn turned_back() -> Event {
    Event::TurnedBack { reason: Back::Asked { by: "ada".into() }, database: false, undecided: false }
}

fn ended(outcome: Outcome) -> Event {
    Event::Ended { outcome }
}

fn asked(request: Request) -> Event {
    Event::Asked { request, by: Operator::this_process(), at: at(0) }
}

/// Every kind of event, for every step and one that the plan does not have, with right and wrong counts.
fn alphabet() -> Vec<Event> {
    let mut events = vec![
        created(1),
        Event::TakenUp { by: Operator::this_process() },
        Event::Left { why: "interrupted".into() },
        Event::Reviving { what: "blue on :3001".into() },
        Event::Revived { what: "blue on :3001".into() },
        Event::Recorded { migration: "1.sql".into(), applied: true, by: Operator::this_process() },
        asked(Request::Hold),
        asked(Request::Continue { now: false }),
        asked(Request::Abort),
        asked(Request::Forward),
        asked(Request::Rollback { database: true, undecided: false }),
        turned_back(),
        ended(Outcome::Succeeded),
        ended(Outcome::RolledBack),
        ended(Outcome::Refused),
    ];
    for index in 0..=STEPS {
        for attempt in 0..4 {
            events.extend([started(index, attempt), undo_started(index, attempt)]);
        }
        let step = format!("step.{index}");
        events.extend([
            Event::Behind { step: step.clone(), why: "away".into() },
            Event::CaughtUp { step },
            ran(index),
            noted(index),
            done(index),
            failed(index),
            undone(index),
            undo_failed(index),
        ]);
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Random walks through the transition function, half of the events chosen among the legal ones so that walks get far.
    #[test]
    fn any_sequence_folds_or_is_refused(picks in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..80)) {
        let alphabet = alphabet();
        let mut state = begun();
        let mut taken = vec![(at(0), created(STEPS))];
        for (second, (pick, legal)) in picks.into_iter().enumerate() {
            let choices: Vec<&Event> =
                alphabet.iter().filter(|event| !legal || state.check(event).is_ok()).collect();
            if choices.is_empty() {
                break;
            }
            let event = choices[pick.index(choices.len())];
            let now = at(i64::try_from(second).unwrap() + 1);
            let before = format!("{state:?}");
            match state.apply(event, now) {
                Ok(()) => taken.push((now, event.clone())),
                Err(illegal) => {
                    prop_assert_eq!(illegal.event, event.kind());
                    prop_assert_eq!(&before, &format!("{state:?}"), "a refused event changed the state");
                }
            }
            assert_whole(&state);
        }
        let folded = State::fold(taken).unwrap();
        prop_assert_eq!(format!("{folded:?}"), format!("{state:?}"));
    }
}

/// What holds of every release at every time.
fn assert_whole(state: &State) {
    let touched = |step: &Progress| !matches!(step, Progress::Pending | Progress::Undone);
    let progress: Vec<&Progress> = state.steps.iter().map(|step| &step.progress).collect();
    assert_eq!(state.next_back(), progress.iter().rposition(|step| touched(step)));
    let active = progress.iter().filter(|step| matches!(step, Progress::Running | Progress::Undoing)).count();
    assert!(active <= 1, "one step at a time: {progress:?}");
    if state.back.is_none() {
        assert_eq!(state.next_forward(), progress.iter().position(|step| **step != Progress::Done));
        let first_open = progress.iter().position(|step| **step != Progress::Done).unwrap_or(STEPS);
        assert!(progress.iter().skip(first_open + 1).all(|step| **step == Progress::Pending), "{progress:?}");
        let turned =
            |step: &Progress| matches!(step, Progress::Undoing | Progress::Undone | Progress::UndoFailed(_));
        assert!(!progress.iter().any(|step| turned(step)));
    } else {
        assert!(*progress[STEPS - 1] == Progress::Pending, "turned back past the return: {progress:?}");
    }
    match state.ended {
        Some((Outcome::Succeeded, _)) => assert!(progress.iter().all(|step| **step == Progress::Done)),
        Some((Outcome::RolledBack, _)) => assert!(!progress.iter().any(|step| touched(step))),
        Some((Outcome::Refused, _)) => {
            assert!(progress.iter().skip(1).all(|step| **step == Progress::Pending));
        }
        None => {}
    }
}

/// Each illegal pair, as the typed error that names it.
#[test]
fn illegal_events_are_refused_with_their_reason() {
    let running = || vec![started(0, 1)];
    let first_done = || vec![started(0, 1), done(0)];
    let back = || vec![started(0, 1), done(0), started(1, 1), turned_back()];
    let all_done = || (0..STEPS).flat_map(|index| [started(index, 1), done(index)]).collect::<Vec<_>>();
    let gone_back = || {
        let mut events = back();
        events.extend([undo_started(1, 1), undone(1), undo_started(0, 1), undone(0)]);
        events
    };
    let over = || {
        let mut events = all_done();
        events.push(ended(Outcome::Succeeded));
        events
    };
    let cases: Vec<(Vec<Event>, Event, &str)> = vec![
        (vec![], created(STEPS), "the release exists already"),
        (vec![], started(STEPS, 1), "the plan has no such step"),
        (vec![], started(1, 1), "an earlier step is not done"),
        (vec![], started(0, 2), "attempts are counted one by one"),
        (vec![], started(0, 0), "attempts are counted one by one"),
        (running(), started(0, 1), "attempts are counted one by one"),
        (running(), started(1, 1), "an earlier step is not done"),
        (first_done(), started(0, 2), "the step is done"),
        (back(), started(1, 2), "the release has turned back"),
        (vec![], done(0), "the step is not running"),
        (vec![], failed(0), "the step is not running"),
        (first_done(), done(0), "the step is not running"),
        (first_done(), failed(0), "the step is not running"),
        (vec![], ran(0), "the step is not running"),
        (first_done(), noted(0), "the step is not running"),
        (back(), turned_back(), "the release has turned back already"),
        (all_done(), turned_back(), "the way back was closed when the release settled"),
        (running(), undo_started(0, 1), "the release has not turned back"),
        (back(), undo_started(0, 1), "a later step is not undone"),
        (back(), undo_started(2, 1), "there is nothing to undo"),
        (back(), undo_started(1, 2), "attempts are counted one by one"),
        (gone_back(), undo_started(0, 2), "there is nothing to undo"),
        (back(), undone(1), "the step is not being undone"),
        (back(), undo_failed(1), "the step is not being undone"),
        (running(), ended(Outcome::Succeeded), "its steps say otherwise"),
        (running(), ended(Outcome::Refused), "its steps say otherwise"),
        (all_done(), ended(Outcome::RolledBack), "its steps say otherwise"),
        (all_done(), ended(Outcome::Refused), "its steps say otherwise"),
        (back(), ended(Outcome::RolledBack), "its steps say otherwise"),
        (gone_back(), ended(Outcome::Succeeded), "its steps say otherwise"),
        (over(), asked(Request::Abort), "the release is over"),
        (over(), Event::TakenUp { by: Operator::this_process() }, "the release is over"),
        (over(), ended(Outcome::Succeeded), "the release is over"),
    ];
    for (events, event, why) in cases {
        let refused = after(events.clone()).check(&event).unwrap_err();
        assert_eq!(
            (refused.event.as_str(), refused.why.as_str()),
            (event.kind(), why),
            "{event:?} after {events:?}"
        );
    }
}

#[test]
fn a_release_begins_with_created_and_with_steps_of_different_names() {
    for event in [started(0, 1), turned_back(), ended(Outcome::Succeeded)] {
        assert_eq!(State::begin(event, at(0)).unwrap_err().why, "a release begins with `created`");
    }
    assert_eq!(State::fold([]).unwrap_err().why, "the release has no events");
    let mut twice = plan("R1", 2);
    twice.steps[1].id = "step.0".into();
    let twice = Event::Created { plan: Box::new(twice), by: Operator::this_process() };
    assert_eq!(State::begin(twice, at(0)).unwrap_err().why, "two steps have the same name");
}

#[test]
fn a_step_keeps_its_first_start_its_last_note_and_its_outcomes() {
    let state = after([
        started(0, 1),
        noted(0),
        started(0, 2),
        Event::Noted { step: "step.0".into(), note: json!("later") },
        done(0),
        turned_back(),
        undo_started(0, 1),
        undo_failed(0),
        undo_started(0, 2),
        undone(0),
        ended(Outcome::RolledBack),
    ]);
    let step = &state.steps[0];
    assert_eq!((step.attempts, step.undo_attempts), (2, 2));
    assert_eq!((step.first_started, step.last_started), (Some(at(1)), Some(at(9))));
    assert_eq!((&step.note, state.outcome("step.0")), (&Some(json!("later")), Some(&json!({ "rows": 7 }))));
    assert_eq!(state.ended, Some((Outcome::RolledBack, at(11))));
}

#[test]
fn hold_lasts_until_continue_or_until_the_release_turns_back() {
    assert!(after([asked(Request::Hold)]).held);
    assert!(!after([asked(Request::Hold), asked(Request::Continue { now: false })]).held);
    assert!(!after([asked(Request::Hold), turned_back()]).held);
}

#[test]
fn a_continue_lifts_a_hold_or_is_meant_for_the_step_that_judges() {
    let go_on = |now| asked(Request::Continue { now });
    assert_eq!(after([started(0, 1), go_on(false)]).go_on, Some(GoOn::InTime));
    assert_eq!(after([started(0, 1), go_on(true)]).go_on, Some(GoOn::Now));
    assert_eq!(after([started(0, 1), asked(Request::Hold), go_on(false)]).go_on, None);
    let held = after([started(0, 1), asked(Request::Hold), go_on(true)]);
    assert_eq!((held.held, held.go_on), (false, Some(GoOn::Now)));
    // Taken up again, the step still knows; the next one does not.
    assert_eq!(after([started(0, 1), go_on(true), started(0, 2)]).go_on, Some(GoOn::Now));
    assert_eq!(after([started(0, 1), go_on(true), done(0), started(1, 1)]).go_on, None);
}

#[test]
fn a_release_whose_traffic_alone_was_to_go_back_may_go_forward() {
    let shifting = || vec![started(0, 1), done(0), started(1, 1), done(1), started(2, 1)];
    let with = |more: Vec<Event>| after(shifting().into_iter().chain(more));
    let forward = asked(Request::Forward);
    for back in [
        vec![turned_back()],
        vec![turned_back(), undo_started(2, 1)],
        vec![turned_back(), undo_started(2, 1), undo_failed(2)],
        vec![turned_back(), undo_started(2, 1), undone(2)],
        vec![done(2), turned_back(), undo_started(2, 1), undone(2), undo_started(1, 1), undo_failed(1)],
    ] {
        let mut state = with(back.clone());
        let deeper = matches!(back.last(), Some(Event::UndoFailed { step, .. }) if step == "step.1");
        if deeper {
            assert_eq!(state.check(&forward).unwrap_err().why, "more than its traffic is undone already");
            continue;
        }
        state.apply(&forward, at(100)).unwrap();
        assert!(state.forward && state.back.is_none());
        assert_whole(&state);
        assert_eq!(state.next_forward(), Some(2));
        state.apply(&started(2, 2), at(101)).unwrap();
        state.apply(&turned_back(), at(102)).unwrap();
        assert!(!state.forward, "whoever asks it to go back takes that back");
        assert_eq!(state.next_back(), Some(2));
    }
    let early = after([started(0, 1), done(0), started(1, 1)]);
    assert_eq!(early.check(&forward).unwrap_err().why, "the release has had no traffic yet");
    let settling = with(vec![done(2), started(3, 1)]);
    assert_eq!(settling.check(&forward).unwrap_err().why, "the way back was closed when the release settled");
}

#[test]
fn only_a_guards_refusal_ends_as_refused() {
    let refused = after([started(0, 1), failed(0)]);
    assert!(refused.refusal().is_some() && refused.check(&ended(Outcome::Refused)).is_ok());
    let later = after([started(0, 1), done(0), started(1, 1), failed(1)]);
    assert!(later.refusal().is_none());
    assert_eq!(
        later.standing_fault().map(|(step, fault)| (step, fault.what.as_str())),
        Some(("step.1", "disk full"))
    );
}

/// What was appended folds to the same state as what was applied on the way.
#[test]
fn the_fold_of_a_recorded_release_is_the_state_that_its_recorder_had() {
    let mut opened = Opened::new();
    let lease = opened.lease();
    let events = [
        created(STEPS),
        started(0, 1),
        ran(0),
        noted(0),
        done(0),
        asked(Request::Hold),
        started(1, 1),
        failed(1),
        turned_back(),
        undo_started(1, 1),
        undone(1),
        undo_started(0, 1),
        undone(0),
        ended(Outcome::RolledBack),
    ];
    let mut live: Option<State> = None;
    for event in &events {
        let at = opened.journal.append(&lease, "R1", event).unwrap();
        match &mut live {
            None => live = Some(State::begin(event.clone(), at).unwrap()),
            Some(state) => state.apply(event, at).unwrap(),
        }
    }
    let read = opened.journal.state("R1").unwrap();
    assert_eq!(format!("{read:?}"), format!("{:?}", live.unwrap()));
}
