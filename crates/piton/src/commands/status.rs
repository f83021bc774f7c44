use std::path::PathBuf;
use std::process::ExitCode;

use owo_colors::OwoColorize;
use piton_core::facts;
use piton_core::journal::{Journal, Outcome, Progress, State};
use piton_core::plan::Job;
use piton_core::project::{Project, journal_fault};
use piton_core::step::Step;
use piton_core::words;
use piton_proxy::Slot;
use piton_proxy::control::{Client, Status as ProxyStatus};
use serde_json::{Value, json};

use crate::cli::Status;
use crate::error::Error;
use crate::view::{back_words, behind_words, kept_words, outcome_words, staying_words};
use crate::{json as contract, ui};

/// Shows what serves each environment and where a release stands.
pub(crate) async fn run(project: &Project, args: &Status) -> Result<ExitCode, Error> {
    let journal = project.journal()?;
    let environments: Vec<String> = match &args.environment {
        // Resolving tells a misspelled name with its nearest neighbour.
        Some(name) => vec![project.settings(name)?.environment],
        None => project.config().environments().into_iter().map(str::to_owned).collect(),
    };
    let mut all = Vec::new();
    for environment in &environments {
        let found = Found::look(project, &journal, environment).await?;
        if args.json { all.push(found.json()) } else { ui::data(&found.text()) }
    }
    if args.json {
        ui::data(&contract::pretty(&json!({ "environments": all })));
    }
    Ok(ExitCode::SUCCESS)
}

struct Found {
    environment: String,
    live: Option<piton_core::plan::Live>,
    latest: Option<State>,
    /// The databases that this one and others have left.
    kept: Vec<String>,
    /// The same, in words.
    kept_words: Vec<String>,
    /// What waits to be loaded behind the next migration.
    rescued: Vec<PathBuf>,
    holder: Option<piton_core::journal::LeaseInfo>,
    proxy: Option<ProxyStatus>,
    /// Whether the app of the release that serves takes connections.
    listens: bool,
}

impl Found {
    async fn look(project: &Project, journal: &Journal, environment: &str) -> Result<Self, Error> {
        let proxy = match Client::connect(&project.dirs().proxy(environment)).await {
            Ok(mut client) => client.status().await.ok(),
            Err(_) => None,
        };
        let live = facts::live(journal, environment)?;
        let runs = journal.releases(Some(environment)).map_err(journal_fault)?;
        // A backup that is over has its place in piton backups; what has replaced the database is told until the next release.
        let replaced =
            |run: &State| run.plan.job == Job::Rollback && matches!(run.ended, Some((Outcome::Succeeded, _)));
        let kept = project.kept_databases(environment, &runs).await;
        let mut runs = runs.into_iter().rev();
        let latest = runs.find(|run| run.ended.is_none() || run.is_release() || replaced(run));
        Ok(Self {
            environment: environment.to_owned(),
            kept_words: kept_words(project, environment, kept.iter().map(String::as_str)).collect(),
            kept,
            rescued: project.rescue_files(environment),
            listens: live.as_ref().is_some_and(|live| live.start.listens()),
            live,
            latest,
            holder: journal.holder(environment).map_err(journal_fault)?,
            proxy,
        })
    }

    fn json(&self) -> Value {
        json!({
            "environment": self.environment,
            "live": self.live.as_ref().map(contract::live),
            "listens": self.live.as_ref().map(|_| self.listens),
            "proxy": self.proxy.as_ref().map(|proxy| json!({
                "pid": proxy.pid,
                "listen": proxy.listen.to_string(),
                "weights": {
                    "blue": proxy.weights.share(Slot::Blue),
                    "green": proxy.weights.share(Slot::Green),
                },
                "upstreams": {
                    "blue": proxy.upstreams.blue.map(|address| address.to_string()),
                    "green": proxy.upstreams.green.map(|address| address.to_string()),
                },
            })),
            "release": self.latest.as_ref().map(|state| contract::release(state, self.holder.as_ref())),
            "databases_kept": self.kept,
            "rescue_files": self.rescued,
        })
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        let serves = match &self.live {
            Some(live) => {
                format!("{} in {}, since {}", live.commit.short(), live.start.slot, words::time(live.since))
            }
            None => "nothing serves yet".into(),
        };
        lines.push(format!("{}  {serves}", self.environment.bold()));
        if let Some(proxy) = &self.proxy {
            lines.push(format!("  traffic on {}: {}", proxy.listen, self.shares(proxy)));
        } else if self.live.is_some() {
            lines.push(format!("  {} the proxy does not run; piton resume --all starts it", "✗".red()));
        }
        // A release that settles ends the one before on purpose.
        let settles = self.latest.as_ref().is_some_and(|state| state.ended.is_none() && state.past_return());
        if let (Some(live), false, false) = (&self.live, self.listens, settles) {
            lines.push(format!(
                "  {} {} does not listen on port {}; piton resume {} starts it again",
                "✗".red(),
                live.start.slot,
                live.start.port,
                self.environment
            ));
        }
        if let Some(state) = &self.latest {
            lines.extend(release_lines(state));
            if state.ended.is_none() {
                lines.extend(self.way_on(state));
            }
        }
        lines.extend(self.kept_words.iter().map(|words| format!("  {words}")));
        lines.extend(self.rescued.iter().map(|file| {
            format!("  Waits for the next release that migrates, which loads what fits: {}", file.display())
        }));
        if let Some(holder) = &self.holder {
            lines.push(format!("  run by {} since {}", holder.operator, words::time(holder.since)));
        }
        lines.join("\n")
    }

    /// Says what a release that is not over waits for.
    fn way_on(&self, state: &State) -> Vec<String> {
        let environment = &self.environment;
        let mut lines = Vec::new();
        if let Some((_, fault)) = state.standing_fault() {
            lines.extend(fault.why.iter().map(|why| format!("    {why}")));
            lines.extend(fault.hint.iter().map(|hint| format!("    next: {hint}")));
        }
        if let Some((why, since)) = &state.behind {
            lines.push(format!("  {} since {}, {}", "✗".red(), words::time(*since), behind_words(why)));
        }
        if state.held {
            lines.push(format!("  held by a person; piton continue {environment} lets it go on"));
        }
        if self.holder.is_none() && state.back.is_some() {
            lines.push(format!("  nobody runs it: piton resume {environment} carries the way back on"));
        } else if self.holder.is_none() {
            lines.push(format!(
                "  nobody runs it: piton resume {environment} carries it on, piton abort {environment} undoes it"
            ));
        }
        lines
    }

    /// Says which slot has which share of the traffic, and which commit runs in it.
    fn shares(&self, proxy: &ProxyStatus) -> String {
        let open = self.latest.as_ref().filter(|state| state.ended.is_none());
        let runs = |slot: Slot| match (&self.live, open) {
            (Some(live), _) if live.start.slot == slot => format!(" ({})", live.commit.short()),
            (_, Some(state)) if state.plan.slot == slot => {
                format!(" ({}, being released)", state.plan.commit.short())
            }
            _ => String::new(),
        };
        let known = Slot::BOTH.into_iter().filter(|slot| proxy.upstreams[*slot].is_some());
        let share = |slot| f64::from(proxy.weights.share(slot)) / 100.0;
        let words: Vec<String> = known.map(|slot| format!("{slot} {}%{}", share(slot), runs(slot))).collect();
        if words.is_empty() { "none".into() } else { words.join(", ") }
    }
}

fn release_lines(state: &State) -> Vec<String> {
    if let Some((outcome, at)) = state.ended {
        let how = outcome_words(outcome);
        let mut lines = vec![format!(
            "  last {} {} of {} by {}: {how} {}",
            state.plan.job,
            state.plan.short_id(),
            state.plan.commit.short(),
            state.by.user,
            words::time(at)
        )];
        lines.extend(
            state.back.as_ref().map(|turned| format!("    {}", back_words(state.plan.job, &turned.reason))),
        );
        lines.extend(state.refusal().map(|fault| format!("    {}", fault.what)));
        if let Some(words) = staying_words(state) {
            lines.push(format!("    {words}"));
            lines.extend(
                state.not_followed().map(|why| format!("    later writes could not go along: {why}")),
            );
        }
        return lines;
    }
    let mut lines = vec![format!(
        "  {} {} of {} begun by {} at {}",
        state.plan.job,
        state.plan.short_id(),
        state.plan.commit.short(),
        state.by.user,
        words::time(state.created)
    )];
    for (planned, step) in state.plan.steps.iter().zip(&state.steps) {
        let (sign, words) = match &step.progress {
            Progress::Pending => ("·", String::new()),
            Progress::Running => ("●", "under way".into()),
            Progress::Done => {
                ("✓", step.outcome.as_ref().map_or_else(String::new, |o| planned.step.outcome_words(o)))
            }
            Progress::Failed(fault) => ("✗", fault.what.clone()),
            Progress::Undoing => ("↩", "being undone".into()),
            Progress::Undone => {
                ("↩", step.undo_outcome.as_ref().map_or_else(String::new, |o| planned.step.undo_words(o)))
            }
            Progress::UndoFailed(fault) => ("✗", format!("cannot be undone: {}", fault.what)),
        };
        lines.push(format!("  {sign} {:<16}{words}", planned.id).trim_end().to_owned());
        // Until the release has settled, it matters which way back it has.
        if matches!(planned.step, Step::Rehearse(_)) && !state.past_return() {
            lines.extend(state.way_back().iter().map(|more| format!("    {:<16}{more}", "")));
        }
    }
    lines
}
