//! A release as a person sees it: one line a step, made from events.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;
use piton_core::engine::Watcher;
use piton_core::fault::Fault;
use piton_core::journal::{Back, Event, Outcome, Progress, Request, State, StepState};
use piton_core::plan::{Job, PlannedStep};
use piton_core::project::Project;
use piton_core::step::Step;
use piton_core::words;
use piton_db::changes::{self, Presence, TableChange};

use crate::ui;

/// How often progress is said where no bar can move.
const QUIET: Duration = Duration::from_secs(10);

/// Shows a release while it runs, or replays it from the journal.
pub(crate) struct View {
    bar: ProgressBar,
    watched: bool,
    said: Cell<Option<Instant>>,
    last: RefCell<String>,
}

impl View {
    pub(crate) fn new() -> Self {
        let watched = ui::is_watched();
        let bar = if watched { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) =
            ProgressStyle::with_template("{spinner:.cyan} {prefix:<10} {wide_msg} {elapsed:>6}")
        {
            bar.set_style(style);
        }
        Self { bar, watched, said: Cell::new(None), last: RefCell::default() }
    }

    /// Takes the bar away, so that what is printed next stands alone.
    pub(crate) fn close(&self) {
        self.bar.finish_and_clear();
    }

    /// Says what no event tells.
    pub(crate) fn say(&self, text: &str) {
        self.line(&format!("{} {text}", "•".yellow()));
    }

    fn line(&self, text: &str) {
        if self.watched { self.bar.println(text) } else { ui::talk(text) }
    }

    fn begin(&self, step: &str) {
        self.said.set(Some(Instant::now()));
        self.last.borrow_mut().clear();
        if self.watched {
            self.bar.reset_elapsed();
            self.bar.set_prefix(label(step).to_owned());
            self.bar.set_message("");
            self.bar.enable_steady_tick(Duration::from_millis(120));
        }
    }

    fn rest(&self) {
        if self.watched {
            self.bar.disable_steady_tick();
            self.bar.set_prefix("");
            self.bar.set_message("");
        }
    }

    fn failed(&self, step: &str, fault: &Fault) {
        self.line(&format!("{} {:<10} {}", "✗".red(), label(step), fault.what));
        for why in &fault.why {
            for part in why.lines() {
                self.line(&format!("  {:<10} {part}", ""));
            }
        }
        if let Some(hint) = &fault.hint {
            self.line(&format!("  {:<10} {} {hint}", "", "next:".bold()));
        }
    }
}

impl Watcher for View {
    fn event(&self, event: &Event, state: &State) {
        let of = |step: &str| {
            let index = state.place_of(step)?;
            Some((&state.plan.steps[index], &state.steps[index]))
        };
        match event {
            Event::Started { step, .. } => self.begin(step),
            Event::Done { step, outcome } => {
                self.rest();
                if let Some((planned, progress)) = of(step) {
                    self.line(&done_line(planned, progress, &planned.step.outcome_words(outcome)));
                    for more in planned.step.outcome_more(outcome) {
                        self.line(&format!("  {:<10} {more}", ""));
                    }
                }
            }
            Event::Failed { step, fault } => {
                self.rest();
                self.failed(step, fault);
            }
            Event::TurnedBack { reason, undecided, .. } => {
                self.rest();
                let refused = state.back.as_ref().is_some_and(|turned| turned.refusal.is_some());
                let words = match refused {
                    true => "refused: what was made for it is undone".to_owned(),
                    false => turned_words(state.plan.job, reason, *undecided),
                };
                self.line(&format!("{} {words}", "↩".red()));
            }
            Event::UndoStarted { step, .. } => self.begin(step),
            Event::Undone { step, outcome } => {
                self.rest();
                if let Some((planned, _)) = of(step) {
                    let words = planned.step.undo_words(outcome);
                    if !words.is_empty() {
                        self.line(&format!("{} {:<10} {words}", "↩".green(), label(step)));
                    }
                }
            }
            Event::UndoFailed { step, fault } => {
                self.rest();
                self.failed(step, fault);
            }
            Event::Asked { request, by, .. } => {
                self.line(&format!("{} {} by {}", "•".yellow(), request_words(*request), by.user));
            }
            Event::Left { why } => {
                self.rest();
                self.line(&format!("{} left: {why}", "•".yellow()));
            }
            Event::TakenUp { by } => self.line(&format!("{} taken up by {by}", "•".yellow())),
            Event::Behind { why, .. } => {
                self.line(&format!("{} {}", "•".yellow(), behind_words(why)));
            }
            Event::CaughtUp { .. } => {
                self.line(&format!("{} the golden copy follows the live database again", "•".yellow()));
            }
            Event::Reviving { what } => {
                self.line(&format!("{} {what} has died: it is started again", "•".yellow()));
            }
            Event::Revived { what } => self.line(&format!("{} {what} started again", "•".yellow())),
            Event::Ended { .. } => {
                self.rest();
                self.bar.finish_and_clear();
            }
            // A person's own doing, and only beside a release that nobody runs.
            Event::Recording { .. } | Event::Recorded { .. } => {}
            Event::Counted { leaving, unknown, .. } => {
                leaving_words(leaving, unknown.as_deref()).iter().for_each(|line| self.line(line));
            }
            Event::Created { .. } | Event::Ran { .. } | Event::Launched { .. } | Event::Noted { .. } => {}
        }
    }

    fn progress(&self, step: &str, text: &str) {
        if self.watched {
            self.bar.set_message(text.to_owned());
            return;
        }
        // Without a terminal a line now and then, and only when there is something new.
        if self.said.get().is_some_and(|at| at.elapsed() > QUIET) && *self.last.borrow() != text {
            self.said.set(Some(Instant::now()));
            text.clone_into(&mut self.last.borrow_mut());
            ui::talk(&format!("… {:<10} {text}", label(step)));
        }
    }
}

fn done_line(planned: &PlannedStep, progress: &StepState, words: &str) -> String {
    let took = match (progress.first_started, progress.finished) {
        (Some(from), Some(to)) => {
            words::span(u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0))
        }
        _ => String::new(),
    };
    let head = format!("{:<10} {words}", label(&planned.id));
    format!("{} {:<84} {:>8}", "✓".green(), ui::cut(&head, 84), took.dimmed())
}

/// Returns what a step is called in front of its line: `shift.25%` is `25%`.
fn label(step: &str) -> &str {
    match step.split_once('.') {
        Some(("shift", share)) => share,
        Some((_, rest)) => rest,
        None => step,
    }
}

/// Says how many rows were written since the backup, and in which tables: they leave the live database.
pub(crate) fn leaving_words(leaving: &[TableChange], unknown: Option<&str>) -> Vec<String> {
    if let Some(why) = unknown {
        return vec![format!("What was written since the backup cannot be counted: {why}")];
    }
    if leaving.is_empty() {
        return vec!["Nothing was written since the backup: the database can go back without a loss.".into()];
    }
    let mut lines =
        vec!["Written since the backup, and gone from the live database when it goes back:".into()];
    lines.extend(leaving.iter().map(|table| format!("  {:<40} {}", table.table, change_words(table))));
    lines.push("The database that is replaced is kept beside it, with all of these rows.".into());
    lines
}

fn change_words(table: &TableChange) -> String {
    if table.kind == changes::Kind::Sequence {
        return match table.presence {
            Presence::Both => "goes back: numbers may be given out a second time".into(),
            Presence::Live => "the sequence itself is new, and goes".into(),
            Presence::Golden => "dropped meanwhile; comes back".into(),
        };
    }
    let thing = if table.kind == changes::Kind::Table { "row" } else { "object" };
    let rows = words::counted(table.only_in_live, thing);
    match table.presence {
        Presence::Live => format!("{rows}; the table itself is new, and goes"),
        Presence::Golden => {
            format!("dropped meanwhile; comes back with {}", words::counted(table.only_in_golden, thing))
        }
        Presence::Both => {
            let gone = words::count(table.only_in_golden);
            let goes = words::doing(table.only_in_live, thing, "goes", "go");
            let back =
                if table.only_in_golden == 1 { "comes back as it was" } else { "come back as they were" };
            let mut text = format!("{goes}; {gone} {back}");
            if !table.new_columns.is_empty() {
                text.push_str(&format!("; new columns go: {}", table.new_columns.join(", ")));
            }
            text
        }
    }
}

/// Says what it means that a release, or another run, turned back, or that it waits on its way.
pub(crate) fn turned_words(job: Job, reason: &Back, undecided: bool) -> String {
    match reason {
        Back::Fault { .. } | Back::Verdict { .. } if undecided => {
            "whether the database goes back is for a person to say".into()
        }
        reason => back_words(job, reason),
    }
}

/// Says why a release, or another run, turned back.
pub(crate) fn back_words(job: Job, reason: &Back) -> String {
    match reason {
        Back::Fault { step } => format!("{step} failed: the {job} goes back"),
        Back::Verdict { why } => format!("the gate sends it back: {why}"),
        Back::Asked { by } => format!("going back, asked by {by}"),
    }
}

/// Says what a person asked.
pub(crate) fn request_words(request: Request) -> &'static str {
    match request {
        Request::Abort => "abort asked",
        Request::Rollback { undecided: true, .. } => "rollback asked, the database to be decided",
        Request::Rollback { database: false, .. } => "rollback asked",
        Request::Rollback { database: true, .. } => "rollback with the database asked",
        Request::Hold => "hold asked",
        Request::Continue { now: false } => "continue asked",
        Request::Continue { now: true } => "continue at once asked",
        Request::Forward => "way back given up",
    }
}

/// Says that later writes are not carried back at this moment.
pub(crate) fn behind_words(why: &str) -> String {
    format!(
        "the golden copy does not follow the live database: {why}; it is tried again every 5 s, and nothing is lost meanwhile"
    )
}

/// Says how a release ended, in a word or two.
pub(crate) fn outcome_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::RolledBack => "went back",
        Outcome::Refused => "was refused",
    }
}

/// Says what share of the traffic a release has that nobody runs; nothing while it has none.
pub(crate) fn unjudged_words(state: &State) -> Option<String> {
    let steps = state.plan.steps.iter().zip(&state.steps);
    let mut moved = steps.filter_map(|(planned, step)| match &planned.step {
        Step::Shift(shift) if !matches!(step.progress, Progress::Pending | Progress::Undone) => Some(shift),
        _ => None,
    });
    let shift = moved.next_back()?;
    Some(match state.back {
        Some(_) => format!("Up to {} of the traffic may still be on {}.", shift.share, shift.slot),
        None => {
            format!("{} of the traffic is on {}, and nobody judges it meanwhile.", shift.share, shift.slot)
        }
    })
}

/// Says how a release ended, in the lines that matter.
pub(crate) fn end_words(project: &Project, state: &State) -> String {
    let mut lines = vec![how_it_ended(state)];
    lines.extend(staying_words(state));
    lines.extend(kept_words(project, &state.plan.environment, state.kept_databases()));
    lines.join("\n")
}

/// Says that a migration stays in the database of a release that went back.
pub(crate) fn staying_words(state: &State) -> Option<String> {
    let mut steps = state.plan.steps.iter().zip(&state.steps);
    let outcome = steps.find_map(|(planned, step)| match planned.step {
        Step::Migrate(_) => step.undo_outcome.as_ref(),
        _ => None,
    })?;
    if outcome.get("kept").and_then(serde_json::Value::as_bool) != Some(true) {
        return None;
    }
    let environment = &state.plan.environment;
    let text = |key: &str| outcome.get(key).and_then(serde_json::Value::as_str);
    Some(match (text("half_applied"), text("perhaps_in_part")) {
        (None, None) => format!("Its migration stays in {environment}'s database."),
        (None, Some(name)) => format!(
            "Its migration stays in {environment}'s database, {name} perhaps in part: once it is completed by hand, piton migration \
             {environment} {name} --applied says so; once it is taken out by hand, the next release runs it."
        ),
        (Some(half), _) => format!(
            "Its migration stays in {environment}'s database, {half} in part: the next release carries on with that, or, once it is \
             completed or taken out by hand, piton migration {environment} {half} --applied (or --not-applied) says so."
        ),
    })
}

/// Says of databases that were left beside the live one, and what removes them.
pub(crate) fn kept_words<'a>(
    project: &Project,
    environment: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> impl Iterator<Item = String> {
    let live = project.database(environment);
    names.into_iter().map(move |name| {
        let drop = live.as_ref().map_or_else(
            || format!("dropdb {name}"),
            |live| live.with_name(name).by_hand("dropdb").to_string(),
        );
        format!("Left beside the live database: {name}; {drop} when nobody needs it.")
    })
}

/// Names a run at the beginning of a sentence: `Release 7Q2M5T9R1X`, `Backup 7Q2M5T9R1X`.
pub(crate) fn run_words(state: &State) -> String {
    let job = state.plan.job.to_string();
    let (first, rest) = job.split_at(1);
    format!("{}{rest} {}", first.to_uppercase(), state.plan.short_id())
}

fn how_it_ended(state: &State) -> String {
    let plan = &state.plan;
    let environment = &plan.environment;
    let id = plan.short_id();
    match state.ended {
        Some((Outcome::Succeeded, _)) => done_words(state),
        Some((Outcome::RolledBack, _)) => {
            let before = match (&plan.live, plan.job) {
                (_, Job::Backup | Job::Proof | Job::Restore | Job::Clone | Job::Rollback) => {
                    format!("{environment} is as before")
                }
                (Some(live), Job::Release) => format!("{environment} runs {} as before", live.commit.short()),
                (None, Job::Release) => "nothing serves, as before".to_owned(),
            };
            format!("{before}. {} was undone; piton log {id} tells all.", run_words(state))
        }
        Some((Outcome::Refused, _)) => "Nothing was changed.".into(),
        None => format!("{} stands where it is.", run_words(state)),
    }
}

/// Says what a run that succeeded has left.
fn done_words(state: &State) -> String {
    let plan = &state.plan;
    let (environment, id) = (&plan.environment, plan.short_id());
    let steps = || plan.steps.iter().map(|planned| &planned.step);
    let folder = steps().find_map(|step| match step {
        Step::Proof(proof) => Some(proof.folder.display().to_string()),
        _ => None,
    });
    let folder = folder.unwrap_or_default();
    match plan.job {
        Job::Release => format!("{environment} runs {} in {}. Release {id}.", plan.commit.short(), plan.slot),
        Job::Backup => format!("{environment}'s backup {id} is proved. It lies in {folder}."),
        Job::Proof => format!("The backup in {folder} is proved."),
        Job::Restore => {
            let name = steps().find_map(|step| match step {
                Step::HandOver(hand_over) => Some(hand_over.name.as_str()),
                _ => None,
            });
            format!("{} holds the backup in {folder}, row for row.", name.unwrap_or_default())
        }
        Job::Clone => {
            format!("{environment}'s database was made anew. Its rows are those of the backup in {folder}.")
        }
        Job::Rollback => {
            let place = steps().find_map(|step| match step {
                Step::PutInPlace(place) => Some((place.to.to_string(), place.replaced.clone())),
                _ => None,
            });
            let (to, replaced) = place.unwrap_or_default();
            let lost = state.lost().map_or(0, |lost| lost.loss.total());
            let without = match lost {
                0 => String::new(),
                lost => format!(", without {} since then", words::counted(lost, "write")),
            };
            format!(
                "{environment}'s database is {to} again{without}.\npiton rollback {environment} --to {replaced} puts back the one that it replaced."
            )
        }
    }
}
