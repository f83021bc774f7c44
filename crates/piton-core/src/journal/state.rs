use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::event::{Back, Event, Operator, Outcome};
use crate::fault::{Fault, Kind};
use crate::plan::{Job, Phase, Plan, PlannedStep};
use crate::step::Step;

/// Where a release stands: the fold of its events.
#[derive(Clone, Debug)]
pub struct State {
    /// The stored plan.
    pub plan: Arc<Plan>,
    /// Who asked for the release.
    pub by: Operator,
    /// When it was created.
    pub created: Timestamp,
    /// Where each step stands, in the plan's order.
    pub steps: Vec<StepState>,
    /// Set from the moment that the release turned back.
    pub back: Option<Turned>,
    /// Whether a person was asked what becomes of the database.
    pub was_asked: bool,
    /// Whether a person holds the release at its present share.
    pub held: bool,
    /// How a person lets the present step go on.
    pub go_on: Option<GoOn>,
    /// Whether a person has given up the way back, because the release before cannot run.
    pub forward: bool,
    /// Why the golden copy does not follow the live database, and since when.
    pub behind: Option<(String, Timestamp)>,
    /// How it ended, and when.
    pub ended: Option<(Outcome, Timestamp)>,
    /// The time of the last event.
    pub last: Timestamp,
    /// The place of each step in the plan. With the two counters below it keeps the cost of an event the same
    /// however many steps the plan has.
    places: BTreeMap<String, usize>,
    /// How many steps are done, from the first on. A step starts only when all before it are done.
    done: usize,
    /// How many steps have touched the world and are not undone, from the first on. Undoing goes from the last to the first.
    touched: usize,
}

/// Why and when a release turned back.
#[derive(Clone, Debug)]
pub struct Turned {
    /// Why.
    pub reason: Back,
    /// Whether the database goes back too.
    pub database: bool,
    /// Whether a person still has to say that.
    pub undecided: bool,
    /// When.
    pub at: Timestamp,
    /// The step that refused what was ordered, and why; nothing of it is left once that is undone.
    pub refusal: Option<(String, Fault)>,
}

/// How a person lets a step that judges go on; it holds for that step alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoOn {
    /// Once its time has passed, although the gate holds.
    InTime,
    /// At once.
    Now,
}

/// Where one step stands.
#[derive(Clone, Debug)]
pub struct StepState {
    /// How far it is.
    pub progress: Progress,
    /// How often it was started.
    pub attempts: u32,
    /// How often its undo was started.
    pub undo_attempts: u32,
    /// When it was first started.
    pub first_started: Option<Timestamp>,
    /// When its last outcome came.
    pub finished: Option<Timestamp>,
    /// When it was last started.
    pub last_started: Option<Timestamp>,
    /// The latest note, kept for when the step is taken up again.
    pub note: Option<Value>,
    /// What came of acting.
    pub outcome: Option<Value>,
    /// What came of undoing.
    pub undo_outcome: Option<Value>,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Never started.
    Pending,
    /// Started; its outcome is not known yet.
    Running,
    /// Has acted.
    Done,
    /// Could not act.
    Failed(Fault),
    /// Its undo was started.
    Undoing,
    /// Has been undone.
    Undone,
    /// Could not be undone.
    UndoFailed(Fault),
}

/// An event that may not follow the events before it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the event `{event}` may not follow here: {why}")]
pub struct Illegal {
    /// The event's name.
    pub event: String,
    /// What stands against it.
    pub why: String,
}

impl State {
    /// Starts the fold with a release's first event.
    ///
    /// # Errors
    /// When the first event is not [`Event::Created`].
    pub fn begin(first: Event, at: Timestamp) -> Result<Self, Illegal> {
        let Event::Created { plan, by } = first else {
            return Err(illegal(&first, "a release begins with `created`"));
        };
        let steps = plan.steps.iter().map(|_| StepState::new()).collect();
        let places: BTreeMap<String, usize> =
            plan.steps.iter().enumerate().map(|(index, planned)| (planned.id.clone(), index)).collect();
        if places.len() != plan.steps.len() {
            return Err(Illegal { event: "created".into(), why: "two steps have the same name".into() });
        }
        Ok(Self {
            plan: Arc::from(plan),
            by,
            created: at,
            steps,
            back: None,
            was_asked: false,
            held: false,
            go_on: None,
            forward: false,
            behind: None,
            ended: None,
            last: at,
            places,
            done: 0,
            touched: 0,
        })
    }

    /// Folds a whole release.
    ///
    /// # Errors
    /// When there is no event, or one that may not stand where it stands.
    pub fn fold(events: impl IntoIterator<Item = (Timestamp, Event)>) -> Result<Self, Illegal> {
        let mut events = events.into_iter();
        let (at, first) = events
            .next()
            .ok_or_else(|| Illegal { event: "none".into(), why: "the release has no events".into() })?;
        let mut state = Self::begin(first, at)?;
        for (at, event) in events {
            state.apply(&event, at)?;
        }
        Ok(state)
    }

    /// Takes one more event: the only transition function.
    ///
    /// # Errors
    /// [`Illegal`] when the event may not follow; the state is then unchanged.
    pub fn apply(&mut self, event: &Event, at: Timestamp) -> Result<(), Illegal> {
        self.check(event)?;
        if let Some(index) = event.step().and_then(|step| self.place_of(step)) {
            self.steps[index].take(event, at);
            match event {
                Event::Started { attempt, .. } => {
                    self.touched = index + 1;
                    // What a person said of the step before is not meant for this one.
                    if *attempt == 1 {
                        self.go_on = None;
                    }
                }
                Event::Done { .. } => self.done = index + 1,
                Event::Undone { .. } => self.touched = index,
                _ => {}
            }
        }
        match event {
            Event::Asked { request, .. } => match request {
                super::Request::Hold => self.held = true,
                super::Request::Continue { now } => {
                    // Who held the release lets it go on as planned.
                    if *now || !self.held {
                        self.go_on = Some(if *now { GoOn::Now } else { GoOn::InTime });
                    }
                    self.held = false;
                }
                super::Request::Forward => self.turn_forward(),
                super::Request::Abort | super::Request::Rollback { .. } => {}
            },
            Event::Behind { why, .. } => self.behind = Some((why.clone(), at)),
            Event::CaughtUp { .. } => self.behind = None,
            Event::TurnedBack { reason, database, undecided } => {
                self.held = false;
                self.forward = false;
                // What the way back finds is told by its own steps.
                self.behind = None;
                let (database, undecided) = (*database, *undecided);
                self.was_asked |= undecided;
                let refusal = self.refused_by(reason);
                self.back = Some(Turned { reason: reason.clone(), database, undecided, at, refusal });
            }
            Event::Ended { outcome } => {
                self.behind = None;
                self.ended = Some((*outcome, at));
            }
            _ => {}
        }
        self.last = at;
        Ok(())
    }

    /// Takes back the turn: what was undone of the traffic's steps, or failed to be, is to be done anew.
    fn turn_forward(&mut self) {
        self.held = false;
        self.forward = true;
        self.back = None;
        for step in self.steps.iter_mut().filter(|step| step.was_turned()) {
            step.progress = Progress::Pending;
        }
        let done = self.steps.iter().position(|step| step.progress != Progress::Done);
        self.done = done.unwrap_or(self.steps.len());
        let touched = self.steps.iter().rposition(|step| step.progress != Progress::Pending);
        self.touched = touched.map_or(0, |index| index + 1);
    }

    /// Says whether the event may follow, and changes nothing.
    ///
    /// # Errors
    /// [`Illegal`] with what stands against it.
    pub fn check(&self, event: &Event) -> Result<(), Illegal> {
        // What a release has left serving or half applied may need a hand long after its end.
        let comes_late = matches!(
            event,
            Event::Reviving { .. } | Event::Revived { .. } | Event::Recording { .. } | Event::Recorded { .. }
        );
        if self.ended.is_some() && !comes_late {
            return Err(illegal(event, "the release is over"));
        }
        let step = match event.step() {
            Some(id) => {
                let index = self.place_of(id).ok_or_else(|| illegal(event, "the plan has no such step"))?;
                Some((index, &self.steps[index].progress))
            }
            None => None,
        };
        let refuse = |why: &str| Err(illegal(event, why));
        match (event, step) {
            (Event::Created { .. }, _) => refuse("the release exists already"),
            (Event::Started { attempt, .. }, Some((index, progress))) => {
                if self.back.is_some() {
                    return refuse("the release has turned back");
                }
                if index > self.done {
                    return refuse("an earlier step is not done");
                }
                if !matches!(progress, Progress::Pending | Progress::Running | Progress::Failed(_)) {
                    return refuse("the step is done");
                }
                if *attempt != self.steps[index].attempts + 1 {
                    return refuse("attempts are counted one by one");
                }
                Ok(())
            }
            (Event::Done { .. } | Event::Failed { .. }, Some((_, progress))) => match progress {
                Progress::Running => Ok(()),
                _ => refuse("the step is not running"),
            },
            (
                Event::Ran { .. }
                | Event::Launched { .. }
                | Event::Counted { .. }
                | Event::Noted { .. }
                | Event::Behind { .. }
                | Event::CaughtUp { .. },
                Some((_, progress)),
            ) => match progress {
                Progress::Running | Progress::Undoing => Ok(()),
                _ => refuse("the step is not running"),
            },
            (Event::TurnedBack { database, undecided, .. }, _) => match &self.back {
                Some(turned) if (turned.database, turned.undecided) == (*database, *undecided) => {
                    refuse("the release has turned back already")
                }
                Some(_) if !self.may_still_change_back() => refuse("the database has gone its way already"),
                Some(_) => Ok(()),
                None if self.past_return() => refuse("the way back was closed when the release settled"),
                None => Ok(()),
            },
            (Event::UndoStarted { attempt, .. }, Some((index, progress))) => {
                if self.back.is_none() {
                    return refuse("the release has not turned back");
                }
                if index + 1 < self.touched {
                    return refuse("a later step is not undone");
                }
                if matches!(progress, Progress::Pending | Progress::Undone) {
                    return refuse("there is nothing to undo");
                }
                if *attempt != self.steps[index].undo_attempts + 1 {
                    return refuse("attempts are counted one by one");
                }
                Ok(())
            }
            (Event::Undone { .. } | Event::UndoFailed { .. }, Some((_, progress))) => match progress {
                Progress::Undoing => Ok(()),
                _ => refuse("the step is not being undone"),
            },
            (Event::Asked { request: super::Request::Forward, .. }, _) => self.allow_forward(event),
            (Event::Ended { outcome }, _) => self.allow_end(event, *outcome),
            _ => Ok(()),
        }
    }

    fn allow_forward(&self, event: &Event) -> Result<(), Illegal> {
        let steps = || self.plan.steps.iter().zip(&self.steps);
        let of_traffic = |planned: &PlannedStep| planned.phase >= Phase::Shift;
        if self.past_return() {
            return Err(illegal(event, "the way back was closed when the release settled"));
        }
        if !steps().any(|(planned, step)| of_traffic(planned) && step.attempts > 0) {
            return Err(illegal(event, "the release has had no traffic yet"));
        }
        if steps().any(|(planned, step)| !of_traffic(planned) && step.was_turned()) {
            return Err(illegal(event, "more than its traffic is undone already"));
        }
        Ok(())
    }

    fn allow_end(&self, event: &Event, outcome: Outcome) -> Result<(), Illegal> {
        let fits = match outcome {
            Outcome::Succeeded => self.back.is_none() && self.next_forward().is_none(),
            Outcome::RolledBack => self.back.is_some() && self.next_back().is_none(),
            Outcome::Refused => match &self.back {
                Some(turned) => turned.refusal.is_some() && self.next_back().is_none(),
                None => self.refusal().is_some(),
            },
        };
        if fits { Ok(()) } else { Err(illegal(event, "its steps say otherwise")) }
    }

    /// Tells whether the run is a release, and not a backup or the like.
    pub fn is_release(&self) -> bool {
        self.plan.job == Job::Release
    }

    /// Returns the refusal for which an order turns back; a release that turns back has changed something.
    fn refused_by(&self, reason: &Back) -> Option<(String, Fault)> {
        let Back::Fault { step } = reason else { return None };
        match &self.steps[self.place_of(step)?].progress {
            Progress::Failed(fault) if fault.kind == Kind::Refused && !self.is_release() => {
                Some((step.clone(), fault.clone()))
            }
            _ => None,
        }
    }

    /// Returns the guard's refusal, when that is all that happened.
    pub fn refusal(&self) -> Option<&Fault> {
        let (first, rest) = self.steps.split_first()?;
        match &first.progress {
            Progress::Failed(fault) if rest.iter().all(|s| s.progress == Progress::Pending) => Some(fault),
            _ => None,
        }
    }

    /// Tells whether it is still open, while going back, what becomes of the database.
    pub fn may_still_change_back(&self) -> bool {
        let mut steps = self.plan.steps.iter().zip(&self.steps);
        steps.any(|(planned, step)| {
            let open = !matches!(step.progress, Progress::Pending | Progress::Undone);
            matches!(planned.step, Step::Migrate(_)) && open
        })
    }

    /// Tells whether the way back is closed: a step that cannot be undone has begun.
    pub fn past_return(&self) -> bool {
        self.plan
            .steps
            .iter()
            .zip(&self.steps)
            .any(|(planned, state)| planned.step.closes_the_way_back() && state.progress != Progress::Pending)
    }

    /// Returns the place of the next step to act, or `None` when all are done; asked of a release that has not turned back.
    pub fn next_forward(&self) -> Option<usize> {
        (self.done < self.steps.len()).then_some(self.done)
    }

    /// Returns the place of the next step to undo, or `None` when nothing is left to undo.
    pub fn next_back(&self) -> Option<usize> {
        self.touched.checked_sub(1)
    }

    /// Returns what came of a step, when it has acted.
    pub fn outcome(&self, step: &str) -> Option<&Value> {
        self.steps[self.place_of(step)?].outcome.as_ref()
    }

    /// Returns the place of a step in the plan.
    pub fn place_of(&self, step: &str) -> Option<usize> {
        self.places.get(step).copied()
    }

    /// Tells whether the release stands, gone back but for its database, until a person says what becomes of that.
    pub fn waits_for_a_word(&self) -> bool {
        self.standing_fault().is_some_and(|(_, fault)| fault.kind == Kind::Undecided)
    }

    /// Returns the fault at which the release stands, if it stands at one.
    pub fn standing_fault(&self) -> Option<(&str, &Fault)> {
        self.plan.steps.iter().zip(&self.steps).find_map(|(planned, state)| match &state.progress {
            Progress::Failed(fault) | Progress::UndoFailed(fault) => Some((planned.id.as_str(), fault)),
            _ => None,
        })
    }
}

impl StepState {
    fn new() -> Self {
        Self {
            progress: Progress::Pending,
            attempts: 0,
            undo_attempts: 0,
            first_started: None,
            finished: None,
            last_started: None,
            note: None,
            outcome: None,
            undo_outcome: None,
        }
    }

    /// Tells whether its undo was begun.
    fn was_turned(&self) -> bool {
        matches!(self.progress, Progress::Undoing | Progress::Undone | Progress::UndoFailed(_))
    }

    fn take(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::Started { attempt, .. } => {
                self.progress = Progress::Running;
                self.attempts = *attempt;
                self.first_started.get_or_insert(at);
                self.last_started = Some(at);
            }
            Event::Noted { note, .. } => self.note = Some(note.clone()),
            Event::Done { outcome, .. } => {
                self.progress = Progress::Done;
                self.outcome = Some(outcome.clone());
                self.finished = Some(at);
            }
            Event::Failed { fault, .. } => {
                self.progress = Progress::Failed(fault.clone());
                self.finished = Some(at);
            }
            Event::UndoStarted { attempt, .. } => {
                self.progress = Progress::Undoing;
                self.undo_attempts = *attempt;
                self.last_started = Some(at);
            }
            Event::Undone { outcome, .. } => {
                self.progress = Progress::Undone;
                self.undo_outcome = Some(outcome.clone());
                self.finished = Some(at);
            }
            Event::UndoFailed { fault, .. } => {
                self.progress = Progress::UndoFailed(fault.clone());
                self.finished = Some(at);
            }
            _ => {}
        }
    }
}

fn illegal(event: &Event, why: &str) -> Illegal {
    Illegal { event: event.kind().to_owned(), why: why.to_owned() }
}
