//! The engine: carries a release on, one journaled step after the other, or undoes it.
//!
//! `Started` is on disk before a step acts and its outcome after. A step that is taken up again is first asked what it finds in
//! the world; only what is not done is done again.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use piton_exec::marker;
use serde_json::Value;

use crate::fault::{Fault, Kind};
use crate::journal::{
    Back, Event, Heartbeat, Journal, JournalError, Lease, Operator, Outcome, Pending, Progress, Request,
    State,
};
use crate::plan::{Phase, Plan, PlannedStep};
use crate::step::{Ctx, Observed, World};
use crate::words;

/// How often the engine looks for what people ask.
const LOOK: Duration = Duration::from_millis(200);

/// How often is looked whether another process has taken the lease over.
const HAND_OVER: Duration = Duration::from_millis(20);

/// How one run of the engine ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// The release is over.
    Over(Outcome),
    /// The release stands at a fault: it can be resumed or aborted.
    Stopped(Fault),
    /// The release was left on purpose: it can be resumed.
    Left,
}

/// Sees what happens to a release while it runs.
pub trait Watcher {
    /// An event is on disk; `state` is the fold with it.
    fn event(&self, event: &Event, state: &State);
    /// A step says how far it is; never journaled.
    fn progress(&self, step: &str, text: &str);
}

/// Sees nothing.
#[derive(Debug)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn event(&self, _event: &Event, _state: &State) {}
    fn progress(&self, _step: &str, _text: &str) {}
}

/// Writes a release's events under its lease, and keeps their fold.
pub struct Recorder<'a> {
    journal: Journal,
    lease: Lease,
    heartbeat: Heartbeat,
    state: State,
    watcher: &'a dyn Watcher,
}

impl<'a> Recorder<'a> {
    /// Begins a release: appends its first event.
    ///
    /// # Errors
    /// When the journal cannot be written or the lease is lost.
    pub fn create(
        mut journal: Journal,
        lease: Lease,
        plan: Plan,
        by: Operator,
        watcher: &'a dyn Watcher,
    ) -> Result<Self, JournalError> {
        let heartbeat = journal.keep_alive(&lease)?;
        let id = plan.id.clone();
        let created = Event::Created { plan: Box::new(plan), by };
        let at = journal.append(&lease, &id, &created)?;
        let state = State::begin(created.clone(), at)?;
        watcher.event(&created, &state);
        Ok(Self { journal, lease, heartbeat, state, watcher })
    }

    /// Takes a release up again.
    ///
    /// # Errors
    /// When the journal cannot be read or written or the lease is lost.
    pub fn take_up(
        journal: Journal,
        lease: Lease,
        release: &str,
        by: Operator,
        watcher: &'a dyn Watcher,
    ) -> Result<Self, JournalError> {
        let state = journal.state(release)?;
        let heartbeat = journal.keep_alive(&lease)?;
        let mut recorder = Self { journal, lease, heartbeat, state, watcher };
        if recorder.state.ended.is_none() {
            recorder.append(&Event::TakenUp { by })?;
        }
        Ok(recorder)
    }

    /// Appends an event and takes it into the fold.
    ///
    /// # Errors
    /// [`JournalError::Illegal`] when the event may not follow; nothing is written then.
    pub fn append(&mut self, event: &Event) -> Result<(), JournalError> {
        self.state.check(event)?;
        let at = self.journal.append(&self.lease, &self.state.plan.id, event)?;
        self.state.apply(event, at)?;
        self.watcher.event(event, &self.state);
        Ok(())
    }

    /// Journals that a step begins; returns it, and which attempt at it this is.
    fn begin_step(&mut self, index: usize) -> Result<(PlannedStep, u32), JournalError> {
        let planned = self.state.plan.steps[index].clone();
        let attempt = self.state.steps[index].attempts + 1;
        self.append(&Event::Started { step: planned.id.clone(), attempt })?;
        Ok((planned, attempt))
    }

    /// Journals that a step's undo begins; returns the step.
    fn begin_undo(&mut self, index: usize) -> Result<PlannedStep, JournalError> {
        let planned = self.state.plan.steps[index].clone();
        let attempt = self.state.steps[index].undo_attempts + 1;
        self.append(&Event::UndoStarted { step: planned.id.clone(), attempt })?;
        Ok(planned)
    }

    /// Lists all releases of all environments, oldest first, with where each stands.
    ///
    /// # Errors
    /// When the journal is damaged.
    pub fn releases(&self) -> Result<Vec<State>, JournalError> {
        self.journal.releases(None)
    }

    /// Returns the fold of all events so far.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns whom the release reports to.
    pub fn watcher(&self) -> &'a dyn Watcher {
        self.watcher
    }

    /// Returns the lease.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Tells whether another process has taken the release over; an unreadable journal says nothing.
    pub fn is_fenced_off(&self) -> bool {
        self.journal.is_ours(&self.lease).is_ok_and(|ours| !ours)
    }

    /// Waits until the process `pid` has taken the lease over; returns false, and gives it back, when that ends without it.
    ///
    /// # Errors
    /// When the journal cannot be read or written.
    pub async fn hand_over(self, pid: u32) -> Result<bool, JournalError> {
        let lives = || i32::try_from(pid).is_ok_and(|pid| marker::start_of(pid).is_some());
        loop {
            // In this order: it may end after it has taken the lease.
            let lived = lives();
            if !self.journal.is_ours(&self.lease)? {
                return Ok(true);
            }
            if !lived {
                self.finish()?;
                return Ok(false);
            }
            tokio::time::sleep(HAND_OVER).await;
        }
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn finish(mut self) -> Result<(), JournalError> {
        drop(self.heartbeat);
        self.journal.give_back(&self.lease)
    }
}

/// Carries the release on until it is over, stands at a fault, or `interrupt` resolves.
///
/// # Errors
/// When the journal cannot be written or the lease is lost: the release is then as a killed process leaves it.
pub async fn run(
    recorder: &RefCell<Recorder<'_>>,
    world: &World,
    interrupt: impl Future<Output = ()>,
) -> Result<End, JournalError> {
    let mut interrupt = pin!(interrupt);
    loop {
        if let Some(end) = advance(recorder, world, interrupt.as_mut()).await? {
            return Ok(end);
        }
    }
}

/// Carries the release through its guards; returns `None` when they let it pass.
///
/// # Errors
/// As [`run`].
pub async fn run_guards(
    recorder: &RefCell<Recorder<'_>>,
    world: &World,
    interrupt: impl Future<Output = ()>,
) -> Result<Option<End>, JournalError> {
    let mut interrupt = pin!(interrupt);
    let passed = || {
        let recorder = recorder.borrow();
        let state = recorder.state();
        let next = state.next_forward().map(|index| state.plan.steps[index].phase);
        state.ended.is_none() && state.back.is_none() && next.is_none_or(|phase| phase > Phase::Guard)
    };
    while !passed() {
        if let Some(end) = advance(recorder, world, interrupt.as_mut()).await? {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

/// Acts or undoes the next step; `None` goes on.
async fn advance(
    recorder: &RefCell<Recorder<'_>>,
    world: &World,
    interrupt: impl Future<Output = ()> + Unpin,
) -> Result<Option<End>, JournalError> {
    // Asked while nobody ran the release: before anything more is done.
    take_requests(&mut recorder.borrow_mut())?;
    let (ended, back, forward) = {
        let recorder = recorder.borrow();
        let state = recorder.state();
        (state.ended, state.back.is_some().then(|| state.next_back()), state.next_forward())
    };
    match (ended, back, forward) {
        (Some((outcome, _)), _, _) => Ok(Some(End::Over(outcome))),
        (None, Some(Some(index)), _) => undo(recorder, world, index, interrupt).await,
        (None, Some(None), _) => {
            let refused =
                recorder.borrow().state().back.as_ref().is_some_and(|turned| turned.refusal.is_some());
            over(recorder, if refused { Outcome::Refused } else { Outcome::RolledBack })
        }
        (None, None, Some(index)) => act(recorder, world, index, interrupt).await,
        (None, None, None) => over(recorder, Outcome::Succeeded),
    }
}

fn over(recorder: &RefCell<Recorder<'_>>, outcome: Outcome) -> Result<Option<End>, JournalError> {
    recorder.borrow_mut().append(&Event::Ended { outcome })?;
    Ok(Some(End::Over(outcome)))
}

/// Acts one step and decides what follows; `None` goes on.
async fn act(
    recorder: &RefCell<Recorder<'_>>,
    world: &World,
    index: usize,
    interrupt: impl Future<Output = ()> + Unpin,
) -> Result<Option<End>, JournalError> {
    let (planned, attempt) = recorder.borrow_mut().begin_step(index)?;
    let step = planned.id.clone();
    let ctx = Ctx::new(recorder, world, index);
    let acting = async {
        Box::pin(planned.step.finds_its_database(&ctx)).await?;
        if attempt > 1 {
            ctx.clear_leftovers().await;
            if let Observed::Done(outcome) = planned.step.observe(&ctx).await? {
                return Ok(outcome);
            }
        }
        crash_test(&step, "before")?;
        let outcome = planned.step.act(&ctx).await?;
        crash_test(&step, "after")?;
        Ok(outcome)
    };
    match attend(recorder, acting, interrupt).await? {
        Attended::Acted(Ok(outcome)) => {
            recorder.borrow_mut().append(&Event::Done { step, outcome })?;
            Ok(None)
        }
        Attended::Acted(Err(fault)) => failed(recorder, &planned, fault),
        Attended::Turned => Ok(None),
        Attended::Interrupted => leave(recorder),
    }
}

fn failed(
    recorder: &RefCell<Recorder<'_>>,
    planned: &PlannedStep,
    fault: Fault,
) -> Result<Option<End>, JournalError> {
    let mut recorder = recorder.borrow_mut();
    let step = planned.id.clone();
    // A release that has traffic is never left with it for a look.
    let stay = recorder.state().plan.stay && planned.phase < Phase::Shift;
    recorder.append(&Event::Failed { step: step.clone(), fault: fault.clone() })?;
    let reason = match fault.kind {
        Kind::Refused if recorder.state().refusal().is_some() => {
            recorder.append(&Event::Ended { outcome: Outcome::Refused })?;
            return Ok(Some(End::Over(Outcome::Refused)));
        }
        Kind::Undecided => return Ok(Some(End::Stopped(fault))),
        Kind::Surroundings if !recorder.state().plan.job.goes_back_by_itself() => {
            return Ok(Some(End::Stopped(fault)));
        }
        _ if recorder.state().past_return() || stay => return Ok(Some(End::Stopped(fault))),
        Kind::Verdict => Back::Verdict { why: fault.what },
        Kind::Release | Kind::Refused | Kind::Surroundings => Back::Fault { step },
    };
    recorder.append(&Event::TurnedBack { reason, database: false, undecided: false })?;
    Ok(None)
}

/// Undoes one step; `None` goes on.
async fn undo(
    recorder: &RefCell<Recorder<'_>>,
    world: &World,
    index: usize,
    interrupt: impl Future<Output = ()> + Unpin,
) -> Result<Option<End>, JournalError> {
    let planned = recorder.borrow_mut().begin_undo(index)?;
    let step = planned.id.clone();
    let ctx = Ctx::new(recorder, world, index);
    let undoing = async {
        ctx.clear_leftovers().await;
        Box::pin(planned.step.finds_its_database(&ctx)).await?;
        planned.step.undo(&ctx).await
    };
    match attend(recorder, undoing, interrupt).await? {
        Attended::Acted(Ok(outcome)) => {
            recorder.borrow_mut().append(&Event::Undone { step, outcome })?;
            Ok(None)
        }
        Attended::Acted(Err(fault)) => {
            recorder.borrow_mut().append(&Event::UndoFailed { step, fault: fault.clone() })?;
            Ok(Some(End::Stopped(fault)))
        }
        // What shall become of the database was changed, and the undo begins again with that; or the way back was given up.
        Attended::Turned => Ok(None),
        Attended::Interrupted => leave(recorder),
    }
}

fn leave(recorder: &RefCell<Recorder<'_>>) -> Result<Option<End>, JournalError> {
    recorder.borrow_mut().append(&Event::Left { why: "interrupted".into() })?;
    Ok(Some(End::Left))
}

enum Attended {
    Acted(Result<Value, Fault>),
    /// The release goes the other way now, or the same way otherwise.
    Turned,
    Interrupted,
}

/// Drives a step while listening to people; a request to go the other way drops the step where it stands, as a kill would.
async fn attend(
    recorder: &RefCell<Recorder<'_>>,
    acting: impl Future<Output = Result<Value, Fault>>,
    mut interrupt: impl Future<Output = ()> + Unpin,
) -> Result<Attended, JournalError> {
    let mut acting = pin!(acting);
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            biased;
            acted = &mut acting => return Ok(Attended::Acted(acted)),
            () = &mut interrupt => return Ok(Attended::Interrupted),
            _ = look.tick() => {
                if take_requests(&mut recorder.borrow_mut())? {
                    return Ok(Attended::Turned);
                }
            }
        }
    }
}

/// Journals what people asked and follows it; returns whether the release goes the other way now, or the same way otherwise.
///
/// A request counts as taken only when all that follows from it is journaled: one that a kill cuts off is taken again.
fn take_requests(recorder: &mut Recorder<'_>) -> Result<bool, JournalError> {
    if recorder.state.ended.is_some() {
        return Ok(false);
    }
    if recorder.heartbeat.is_lost() {
        return Err(JournalError::LeaseLost { environment: recorder.lease.environment.clone() });
    }
    let mut turned = false;
    for pending in recorder.journal.pending(&recorder.state.plan.id)? {
        turned |= follow(recorder, &pending)?;
        recorder.journal.taken(pending.id)?;
    }
    Ok(turned)
}

fn follow(recorder: &mut Recorder<'_>, pending: &Pending) -> Result<bool, JournalError> {
    let asked = Event::Asked { request: pending.request, by: pending.by.clone(), at: pending.at };
    // It was undone further, or settled, since it was asked.
    if pending.request == Request::Forward && recorder.state.check(&asked).is_err() {
        return Ok(false);
    }
    recorder.append(&asked)?;
    let (database, undecided) = match pending.request {
        // The step that judges sees it in the state.
        Request::Hold | Request::Continue { .. } => return Ok(false),
        // The step begins anew: with all the traffic, and without the gate.
        Request::Forward => return Ok(true),
        Request::Abort => (false, false),
        Request::Rollback { database, undecided } => (database, undecided),
    };
    let reason = Back::Asked { by: pending.by.to_string() };
    let event = Event::TurnedBack { reason, database, undecided };
    // It asks for what is already so, or for what can no longer be: said, and otherwise left alone.
    if recorder.state.check(&event).is_err() {
        return Ok(false);
    }
    recorder.append(&event)?;
    Ok(true)
}

/// Fails a step on purpose when the tests ask for it: `PITON_FAIL_AT=STEP:before|after`.
#[cfg(feature = "crash-points")]
fn crash_test(step: &str, side: &str) -> Result<(), Fault> {
    if std::env::var("PITON_FAIL_AT").is_ok_and(|at| at == format!("{step}:{side}")) {
        return Err(Fault::release(format!("{step} fails here because the test asks for it")));
    }
    Ok(())
}

#[cfg(not(feature = "crash-points"))]
fn crash_test(_step: &str, _side: &str) -> Result<(), Fault> {
    Ok(())
}

/// Returns the requests that make sense for a release that stands as this one does.
pub fn may_ask(state: &State, request: Request) -> Result<(), Fault> {
    if let Some((outcome, at)) = state.ended {
        let hint = match outcome {
            Outcome::Succeeded => {
                format!("to run an older commit again: piton deploy {} --ref COMMIT", state.plan.environment)
            }
            // Its way back was closed with it; the backup is there.
            Outcome::RolledBack
                if matches!(request, Request::Rollback { database: true, .. })
                    && state.outcome("backup").is_some() =>
            {
                format!(
                    "piton restore {} {} --into NAME puts the data as they were before it beside the database",
                    state.plan.environment,
                    state.plan.short_id()
                )
            }
            Outcome::RolledBack | Outcome::Refused => {
                format!("piton deploy {} begins a new release", state.plan.environment)
            }
        };
        let (job, id, at) = (state.plan.job, state.plan.short_id(), words::time(at));
        return Err(Fault::refused(format!("the {job} {id} ended at {at}")).hint(hint));
    }
    let back = match request {
        Request::Abort => Some((false, false)),
        Request::Rollback { database, undecided } => Some((database, undecided)),
        Request::Hold | Request::Continue { .. } | Request::Forward => None,
    };
    // Who is to be asked once more has the rows counted once more.
    let asks_again = state.waits_for_a_word() && back == Some((false, true));
    if let (Some(asked), Some(turned)) = (back, &state.back)
        && !asks_again
        && (asked == (turned.database, turned.undecided) || !state.may_still_change_back())
    {
        return Err(Fault::refused(format!("release {} goes back already", state.plan.short_id())).hint(
            format!(
                "piton watch {0} follows it; when nobody runs it, piton resume {0} carries it on",
                state.plan.environment
            ),
        ));
    }
    if (back.is_some() || request == Request::Forward) && state.past_return() {
        return Err(Fault::refused("the way back was closed when the release began to settle")
            .hint(format!("piton resume {} carries it to its end", state.plan.environment)));
    }
    if request == Request::Forward && !may_go_forward(state) {
        return Err(Fault::refused(format!(
            "release {} cannot go forward from where it stands",
            state.plan.short_id()
        ))
        .because("it has had no traffic yet, or more than its traffic is undone already")
        .hint(format!("piton resume {} carries it on", state.plan.environment)));
    }
    let shifting = state
        .plan
        .steps
        .iter()
        .zip(&state.steps)
        .any(|(planned, step)| planned.phase >= Phase::Shift && step.progress == Progress::Running);
    if matches!(request, Request::Hold | Request::Continue { .. }) && !shifting {
        return Err(Fault::refused("only a release that shifts traffic or watches can be held or continued")
            .hint(format!("piton status {} shows where it is", state.plan.environment)));
    }
    Ok(())
}

/// Tells whether a person may give up the way back of a release that stands as this one does.
pub(crate) fn may_go_forward(state: &State) -> bool {
    let (by, at) = (state.by.clone(), state.last);
    state.ended.is_none() && state.check(&Event::Asked { request: Request::Forward, by, at }).is_ok()
}

#[cfg(test)]
mod tests;
