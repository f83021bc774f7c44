//! A project: its configuration, its folders and its journal, and what can be done with a release of it.

use std::cell::RefCell;
use std::future::Future;
use std::path::{Path, PathBuf};

use piton_db::Database;
use piton_exec::Command;

use crate::backups::{self, Stored};
use crate::config::{self, Config, Data, Percent, Settings};
use crate::dirs::Dirs;
use crate::engine::{self, End, Recorder, Watcher};
use crate::facts::{self, Facts};
use crate::fault::Fault;
use crate::files;
use crate::journal::{Journal, JournalError, Lease, Operator, Outcome, Progress, Request, State, StepState};
use crate::plan::{self, Job, Order, Phase, Plan, PlannedStep};
use crate::step::{self, Finding, Other, Revived, Role, Seen, ShouldRun, StartSlot, Step, World};

/// An opened project.
#[derive(Debug)]
pub struct Project {
    config: Config,
    dirs: Dirs,
    /// The `piton` program, which also is the proxy.
    piton: PathBuf,
}

impl Project {
    /// Opens the project that `folder` belongs to.
    ///
    /// # Errors
    /// When there is no `piton.toml` or it is wrong.
    pub fn open(folder: &Path, piton: PathBuf) -> Result<Self, config::ConfigError> {
        let config = config::load(folder)?;
        let dirs = Dirs::new(config.root());
        Ok(Self { config, dirs, piton })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the folders.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// Returns the `piton` program.
    pub fn piton(&self) -> &Path {
        &self.piton
    }

    /// Returns the settings of one environment.
    ///
    /// # Errors
    /// When there is no such environment, or its variables cannot be had.
    pub fn settings(&self, environment: &str) -> Result<Settings, config::ConfigError> {
        self.config.environment(environment, &|name| std::env::var(name).ok())
    }

    /// Returns an environment's database, as far as its settings can be resolved here.
    pub fn database(&self, environment: &str) -> Option<Database> {
        step::database_of(&self.settings(environment).ok()?).ok()
    }

    /// Lists what migrations of an environment that went back had no place for, in files that wait to be loaded, oldest first.
    pub fn rescue_files(&self, environment: &str) -> Vec<PathBuf> {
        step::waiting(&self.dirs.rescued(environment))
    }

    /// Lists the databases that runs of an environment have left beside the live one and that are still there, oldest first; all of
    /// them, where the server cannot be asked.
    pub async fn kept_databases(&self, environment: &str, runs: &[State]) -> Vec<String> {
        let mut kept: Vec<String> = Vec::new();
        for name in runs.iter().flat_map(State::kept_databases) {
            if !kept.iter().any(|one| one == name) {
                kept.push(name.to_owned());
            }
        }
        if !kept.is_empty()
            && let Some(live) = self.database(environment)
            && let Ok(client) = live.maintenance().await
            && let Ok(there) = client
                .query(
                    "select datname::text from pg_catalog.pg_database where datname::text = any ($1)",
                    &[&kept],
                )
                .await
        {
            let there: Vec<String> = there.iter().map(|row| row.get(0)).collect();
            // One that was put back into its place is the live one again.
            kept.retain(|name| there.contains(name) && *name != live.dbname);
        }
        kept
    }

    /// Opens the journal.
    ///
    /// # Errors
    /// When it cannot be made or read; a refusal when it belongs to another account.
    pub fn journal(&self) -> Result<Journal, Fault> {
        let base = self.dirs.base();
        let unusable = |error: std::io::Error| {
            Fault::surroundings("the project's .piton folder cannot be used").caused_by(&error)
        };
        if let Some(owner) = files::stranger(base).map_err(unusable)? {
            return Err(Fault::refused(format!("releases of this project run under the account {owner}"))
                .because(format!("{} belongs to it", base.display()))
                .because(
                    "the apps and the proxy run under it, too: another account cannot look at or end them",
                )
                .hint(format!(
                    "sudo -u {owner} piton …, with the same words; the journal names who called sudo"
                )));
        }
        files::private_folder(base).map_err(unusable)?;
        Journal::open(&self.dirs.journal()).map_err(journal_fault)
    }

    /// Refuses the name of an environment that piton.toml does not have.
    fn known(&self, environment: &str) -> Result<(), Fault> {
        self.config.known(environment).map_err(|error| {
            let what = error.messages().next().unwrap_or_default();
            Fault::refused(what).hint("piton status shows the environments")
        })
    }

    /// Returns the environment's release that is not over yet.
    ///
    /// # Errors
    /// When the journal is damaged.
    pub fn open_release(&self, journal: &Journal, environment: &str) -> Result<Option<State>, Fault> {
        let releases = journal.releases(Some(environment)).map_err(journal_fault)?;
        Ok(releases.into_iter().rev().find(|state| state.ended.is_none()))
    }

    /// Returns the settings of the environment that the data come from, when there is one and the job takes data.
    fn data_source(&self, settings: &Settings, job: Job) -> Result<Option<Settings>, Fault> {
        let data = settings.data.as_ref().filter(|_| job.takes_data());
        let Some(data) = data.and_then(Data::source) else { return Ok(None) };
        let (own, from) = (&settings.environment, &data.environment);
        self.settings(from).map(Some).map_err(|error| {
            config_fault(&error)
                .because(format!(
                    "{own} takes its data from {from}, and so needs {from}'s variables on this machine"
                ))
                .hint(format!("piton config {from} points at the mistake"))
        })
    }

    /// Looks what can be seen of another environment from this machine.
    ///
    /// One whose file of variables is not here is another machine's, and its database's mark can still be compared. A file that
    /// is here and wrong is a mistake: who leaves it out compares with nothing.
    fn other(&self, name: &str) -> Other {
        let (env_file, is_here) = self.config.env_file_of(name);
        let seen = match self.settings(name) {
            Ok(settings) => Seen::Settings(Box::new(settings)),
            Err(_) if !is_here => Seen::Elsewhere,
            Err(error) => Seen::Broken(error.messages().map(str::to_owned).collect()),
        };
        let protected = self.config.is_protected(name);
        Other { environment: name.to_owned(), protected, env_file, seen }
    }

    /// Looks up what the steps of an environment need besides their plan.
    ///
    /// # Errors
    /// When the environment that the data comes from cannot be resolved.
    pub fn world(&self, settings: Settings, journal: &Journal, job: Job) -> Result<World, Fault> {
        let from = self.data_source(&settings, job)?;
        let others = self.config.environments().into_iter().filter(|name| *name != settings.environment);
        let others = others.map(|name| self.other(name)).collect();
        let released_before = match &settings.after {
            Some(after) => journal
                .releases(Some(after))
                .map_err(journal_fault)?
                .into_iter()
                .filter(|state| state.is_release() && matches!(state.ended, Some((Outcome::Succeeded, _))))
                .map(|state| state.plan.commit.hash.clone())
                .collect(),
            None => Vec::new(),
        };
        let serving = facts::live(journal, &settings.environment)?.map(|live| live.start);
        let source = from.as_ref().unwrap_or(&settings);
        let backed_up_commit = facts::live(journal, &source.environment)?.map(|live| live.commit.hash);
        let backed_up_checks = facts::checks_of_live(journal, &source.environment)?;
        let open = self.open_release(journal, &settings.environment)?;
        let should_run = should_run(serving.clone(), open.as_ref(), false);
        Ok(World {
            settings,
            from,
            others,
            dirs: self.dirs.clone(),
            piton: self.piton.clone(),
            released_before,
            backed_up_commit,
            backed_up_checks,
            serving,
            should_run,
        })
    }

    /// Makes the plan of a release, and stores nothing.
    ///
    /// # Errors
    /// When the commit or the journal cannot be read.
    pub async fn plan(&self, settings: &Settings, reference: &str, stay: bool) -> Result<Plan, Fault> {
        let from = self.data_source(settings, Job::Release)?;
        let facts = Facts::gather(settings, from.as_ref(), &self.journal()?, reference).await?;
        Ok(plan::make(settings, from.as_ref(), &facts, stay))
    }

    /// Begins a release: takes the lease, makes the plan and stores it.
    ///
    /// # Errors
    /// A refusal when somebody else holds the environment or an earlier run of it is not over.
    pub async fn begin<'w>(
        &self,
        settings: &Settings,
        reference: &str,
        stay: bool,
        watcher: &'w dyn Watcher,
    ) -> Result<Recorder<'w>, Fault> {
        let make = async |journal: &Journal| {
            let from = self.data_source(settings, Job::Release)?;
            let facts = Facts::gather(settings, from.as_ref(), journal, reference).await?;
            Ok(plan::make(settings, from.as_ref(), &facts, stay))
        };
        self.begin_with(settings, make, watcher).await
    }

    /// Begins what a person orders besides a release, in the same way.
    ///
    /// # Errors
    /// As [`Project::begin`]; a refusal of what cannot be ordered of this environment.
    pub async fn begin_order<'w>(
        &self,
        settings: &Settings,
        order: &Order,
        watcher: &'w dyn Watcher,
    ) -> Result<Recorder<'w>, Fault> {
        may_order(settings, order).await?;
        let make = async |journal: &Journal| {
            let from = self.data_source(settings, order.job())?;
            let facts = Facts::gather_for_order(settings, from.as_ref(), journal).await?;
            Ok(plan::make_for(settings, from.as_ref(), &facts, order))
        };
        self.begin_with(settings, make, watcher).await
    }

    async fn begin_with<'w>(
        &self,
        settings: &Settings,
        make: impl AsyncFnOnce(&Journal) -> Result<Plan, Fault>,
        watcher: &'w dyn Watcher,
    ) -> Result<Recorder<'w>, Fault> {
        let mut journal = self.journal()?;
        let by = Operator::this_process();
        let lease = journal.acquire(&settings.environment, &by).map_err(journal_fault)?;
        let prepared = match self.open_release(&journal, &settings.environment) {
            Ok(Some(open)) => Err(unfinished(&open, false)),
            Ok(None) => make(&journal).await,
            Err(fault) => Err(fault),
        };
        match prepared {
            Ok(plan) => Recorder::create(journal, lease, plan, by, watcher).map_err(journal_fault),
            Err(fault) => {
                journal.give_back(&lease).map_err(journal_fault)?;
                Err(fault)
            }
        }
    }

    /// Lists an environment's backups, oldest first; with why the store cannot be read, if it cannot.
    ///
    /// # Errors
    /// When their folder cannot be read.
    pub async fn backups(&self, settings: &Settings) -> Result<(Vec<Stored>, Option<Fault>), Fault> {
        let (found, store) = backups::list_both(settings, &self.dirs.backups(settings)).await?;
        Ok((found, store.err()))
    }

    /// Takes up the environment's release that is not over.
    ///
    /// # Errors
    /// A refusal when there is none or a living process runs it.
    pub fn take_up<'w>(&self, environment: &str, watcher: &'w dyn Watcher) -> Result<Recorder<'w>, Fault> {
        self.take(environment, None, watcher)
    }

    /// Takes the environment's release up from the living process that holds it and has told the token of its lease.
    ///
    /// # Errors
    /// As [`Project::take_up`].
    pub fn take_over<'w>(
        &self,
        environment: &str,
        token: i64,
        watcher: &'w dyn Watcher,
    ) -> Result<Recorder<'w>, Fault> {
        self.take(environment, Some(token), watcher)
    }

    fn take<'w>(
        &self,
        environment: &str,
        handed: Option<i64>,
        watcher: &'w dyn Watcher,
    ) -> Result<Recorder<'w>, Fault> {
        self.known(environment)?;
        let mut journal = self.journal()?;
        let Some(open) = self.open_release(&journal, environment)? else {
            return Err(Fault::refused(format!("no release of {environment} is under way"))
                .hint(format!("piton deploy {environment} begins one")));
        };
        let by = Operator::this_process();
        let lease: Lease = match handed {
            Some(token) => journal.take_over(environment, token, &by),
            None => journal.acquire(environment, &by),
        }
        .map_err(journal_fault)?;
        Recorder::take_up(journal, lease, &open.plan.id, by, watcher).map_err(journal_fault)
    }

    /// Carries a release on until it is over, stands, or is interrupted, and gives the lease back.
    ///
    /// # Errors
    /// When the journal cannot be written or the lease was lost.
    pub async fn carry_on(
        &self,
        recorder: Recorder<'_>,
        settings: Settings,
        interrupt: impl Future<Output = ()>,
    ) -> Result<(End, State), Fault> {
        let (recorder, world) = self.admit(recorder, settings).await?;
        let recorder = RefCell::new(recorder);
        let end = engine::run(&recorder, &world, interrupt).await.map_err(journal_fault)?;
        let recorder = recorder.into_inner();
        let state = recorder.state().clone();
        recorder.finish().map_err(journal_fault)?;
        Ok((end, state))
    }

    /// Lets a release go on only where its guards still hold; otherwise the lease is given back.
    async fn admit<'w>(
        &self,
        recorder: Recorder<'w>,
        settings: Settings,
    ) -> Result<(Recorder<'w>, World), Fault> {
        let journal = self.journal()?;
        let world = self.world(settings, &journal, recorder.state().plan.job)?;
        let pending = journal.pending(&recorder.state().plan.id).map_err(journal_fault)?;
        let goes_back = pending.iter().any(|pending| pending.request.goes_back());
        if let Err(fault) = may_carry_on(recorder.state(), &world, goes_back).await {
            recorder.finish().map_err(journal_fault)?;
            return Err(fault);
        }
        Ok((recorder, world))
    }

    /// Carries a release through its guards, where it has not passed them; returns how it ended when they refuse.
    ///
    /// # Errors
    /// As [`Project::carry_on`].
    pub async fn guard<'w>(
        &self,
        recorder: Recorder<'w>,
        settings: Settings,
        interrupt: impl Future<Output = ()>,
    ) -> Result<(Recorder<'w>, Option<End>), Fault> {
        let (recorder, world) = self.admit(recorder, settings).await?;
        if recorder.state().back.is_some() {
            return Ok((recorder, None));
        }
        let recorder = RefCell::new(recorder);
        let end = engine::run_guards(&recorder, &world, interrupt).await.map_err(journal_fault)?;
        Ok((recorder.into_inner(), end))
    }

    /// Runs the guards of a plan; changes nothing.
    ///
    /// # Errors
    /// When the journal or another environment's settings cannot be read.
    pub async fn findings(&self, plan: &Plan, settings: Settings) -> Result<Vec<Finding>, Fault> {
        let world = self.world(settings, &self.journal()?, plan.job)?;
        let guard = plan.steps.iter().find_map(|planned| match &planned.step {
            Step::Guard(guard) => Some(guard),
            _ => None,
        });
        let mut findings = match guard {
            Some(guard) => guard.look(&world, jiff::Timestamp::now()).await,
            None => Vec::new(),
        };
        let journal = self.journal()?;
        if let Some(open) = self.open_release(&journal, &plan.environment)? {
            let held = journal.holder(&plan.environment).map_err(journal_fault)?.is_some();
            findings.push(Finding { guard: "release".into(), refusal: Some(unfinished(&open, held)) });
        }
        Ok(findings)
    }

    /// Starts again what should run in an environment and has died, and journals it; with `forward` also the release under
    /// way that is to have all traffic.
    ///
    /// # Errors
    /// When the journal cannot be written, or another process holds the environment. What cannot be started is told in
    /// what is returned.
    pub async fn revive(&self, settings: Settings, forward: bool) -> Result<Revived, Fault> {
        let environment = settings.environment.clone();
        let mut journal = self.journal()?;
        let Some(latest) = journal.releases(Some(&environment)).map_err(journal_fault)?.pop() else {
            return Ok(Revived::default());
        };
        let lease = journal.acquire(&environment, &Operator::this_process()).map_err(journal_fault)?;
        let revived = async {
            // An app may take longer to become ready than a lease lasts.
            let _heartbeat = journal.keep_alive(&lease).map_err(journal_fault)?;
            let mut world = self.world(settings, &journal, latest.plan.job)?;
            if forward {
                world.should_run = should_run(world.serving.clone(), Some(&latest), true);
            }
            let append =
                |event| journal.append(&lease, &latest.plan.id, &event).map(drop).map_err(journal_fault);
            step::revive(&world, append).await
        }
        .await;
        journal.give_back(&lease).map_err(journal_fault)?;
        let mut revived = revived?;
        if let Some(live) = &latest.plan.live {
            let new = started(&latest);
            // Where its traffic went back already it was not started again now; it may well run.
            let may_run = latest.back.is_some() && !has_traffic(&latest)
                || new.as_ref().is_some_and(StartSlot::listens);
            if engine::may_go_forward(&latest) && new.is_some() && may_run && !live.start.listens() {
                let (dead, new) = (live.start.slot, latest.plan.slot);
                revived.fault =
                    revived.fault.map(|fault| step::without_way_back(fault, &environment, dead, new));
            }
        }
        Ok(revived)
    }

    /// Asks something of the environment's release that is under way.
    ///
    /// Returns its identifier, and whether a living process runs it and will take the request up.
    ///
    /// # Errors
    /// A refusal when nothing is under way or the request does not fit where the release stands.
    pub async fn ask(&self, environment: &str, request: Request) -> Result<(State, bool), Fault> {
        self.known(environment)?;
        let mut journal = self.journal()?;
        let open = match self.open_release(&journal, environment)? {
            Some(open) => open,
            None => return Err(nothing_to_ask(&journal, environment, request)?),
        };
        engine::may_ask(&open, request)?;
        if request == Request::Forward {
            forward_is_needed(&open)?;
        }
        let held = journal.holder(environment).map_err(journal_fault)?.is_some();
        if !held && matches!(request, Request::Hold | Request::Continue { .. }) {
            return Err(Fault::refused(format!("nobody runs release {} now", open.plan.short_id()))
                .hint(format!("piton resume {environment} carries it on")));
        }
        let about_the_database =
            matches!(request, Request::Rollback { database, undecided } if database || undecided);
        if !held || about_the_database {
            // What is asked is kept until somebody runs the release: what this process would refuse must not wait for the next.
            // And who has another database in sight than the process that runs it does not mean the one that would go back.
            let settings = self.settings(environment).map_err(|error| config_fault(&error))?;
            same_databases(&open, &self.world(settings, &journal, open.plan.job)?, true).await?;
        }
        journal.ask(&open.plan.id, request, &Operator::this_process()).map_err(journal_fault)?;
        Ok((open, held))
    }
}

/// Lists what has to run: once a release settles it is the one, before that the one that served is, and it beside it.
///
/// With `forward` the one under way is needed, and the one that served is not.
fn should_run(serving: Option<StartSlot>, open: Option<&State>, forward: bool) -> Vec<ShouldRun> {
    let run = |start: Option<StartSlot>, role| start.map(|start| ShouldRun { start, role });
    let Some(open) = open.filter(|state| state.ended.is_none()) else {
        return run(serving, Role::Needed).into_iter().collect();
    };
    let new = started(open).filter(|_| forward || open.back.is_none() || has_traffic(open));
    if open.past_return() || open.forward {
        return run(new, Role::Needed).into_iter().collect();
    }
    let has_all = open.back.is_none() && new.is_some() && has_all_traffic(open);
    let serving = run(serving, if forward || has_all { Role::Spare } else { Role::Needed });
    serving.into_iter().chain(run(new, if forward { Role::Needed } else { Role::Judged })).collect()
}

/// Tells whether traffic was given to a release and nothing of that is undone yet.
fn has_traffic(state: &State) -> bool {
    let mut steps = state.plan.steps.iter().zip(&state.steps);
    let of_traffic = |planned: &PlannedStep| planned.phase >= Phase::Shift;
    let began = steps.clone().any(|(planned, step)| of_traffic(planned) && step.attempts > 0);
    began && !steps.any(|(planned, step)| of_traffic(planned) && step.progress == Progress::Undone)
}

/// Tells whether a release has, or was about to have, all traffic; one that stands at a fault has sent it back.
fn has_all_traffic(state: &State) -> bool {
    let mut steps = state.plan.steps.iter().zip(&state.steps);
    let began = |(planned, step): (&PlannedStep, &StepState)| {
        matches!(&planned.step, Step::Shift(shift) if shift.share == Percent::FULL) && step.attempts > 0
    };
    steps.any(began) && state.standing_fault().is_none()
}

/// Refuses to give up a way back that is there, and to go forward with a release that does not run.
fn forward_is_needed(open: &State) -> Result<(), Fault> {
    let environment = &open.plan.environment;
    let before = open.plan.live.as_ref().map(|live| &live.start).filter(|start| start.listens());
    if let Some(before) = before {
        return Err(Fault::refused(format!("{} runs: the way back is there", before.place()))
            .because("--forward is for a release before that cannot run")
            .hint(format!("piton resume {environment} carries the release on")));
    }
    if started(open).is_some_and(|start| start.listens()) {
        return Ok(());
    }
    Err(Fault::refused(format!("{} does not run either", open.plan.slot))
        .hint(format!("piton log {environment} tells what was tried")))
}

/// Returns how a release's app was started, when it was.
fn started(state: &State) -> Option<StartSlot> {
    state.plan.steps.iter().zip(&state.steps).find_map(|(planned, step)| match &planned.step {
        Step::StartSlot(start) if step.progress == Progress::Done => Some(start.clone()),
        _ => None,
    })
}

/// Refuses settings that lead to other databases than those that the release's guards have looked at.
async fn same_databases(state: &State, world: &World, back: bool) -> Result<(), Fault> {
    let (app, now) = (&state.plan.app, &world.settings.app);
    if app != now {
        // The names of the databases that a release makes are made from it.
        return Err(Fault::refused("piton.toml names another app than when the release began")
            .because(format!("then {app}, now {now}"))
            .hint(format!("put app = \"{app}\" back until the release is over")));
    }
    let Some(outcome) = state.outcome("guard") else { return Ok(()) };
    let is_left = |step: &StepState| match back {
        true => !matches!(step.progress, Progress::Pending | Progress::Undone),
        false => step.progress != Progress::Done,
    };
    let steps = state.plan.steps.iter().zip(&state.steps);
    let left = steps.filter(|(_, step)| is_left(step)).map(|(planned, _)| &planned.step);
    Box::pin(step::still_the_same(world, outcome, left, back)).await
}

/// Refuses to go on where the guards of a release no longer hold: another database, a window that has closed since.
async fn may_carry_on(state: &State, world: &World, goes_back: bool) -> Result<(), Fault> {
    same_databases(state, world, goes_back || state.back.is_some()).await?;
    let Some(window) = &world.settings.window else { return Ok(()) };
    if !matches!(state.plan.job, Job::Release | Job::Clone) {
        return Ok(());
    }
    let resumed = state.steps.iter().any(|step| step.attempts > 0);
    let mut steps = state.plan.steps.iter().zip(&state.steps);
    let touched = steps.any(|(planned, step)| planned.phase >= Phase::Migrate && step.attempts > 0);
    if !resumed || touched || goes_back || state.back.is_some() || window.contains(jiff::Timestamp::now()) {
        return Ok(());
    }
    let environment = &world.settings.environment;
    Err(Fault::refused(format!("{environment} takes releases {window}"))
        .because("this one has not touched the database yet")
        .hint(format!("piton resume {environment} when the window is open, or piton abort {environment}")))
}

/// Refuses what cannot be ordered of an environment.
async fn may_order(settings: &Settings, order: &Order) -> Result<(), Fault> {
    let environment = &settings.environment;
    // Says it when there is none.
    let database = step::database_of(settings)?;
    match order {
        Order::Clone if matches!(settings.data, Some(Data::Fresh { .. })) => {
            Err(Fault::refused(format!("{environment}'s database is made fresh, by a release's own migrations"))
                .because("a clone brings no release")
                .hint(format!("piton deploy {environment} makes it anew")))
        }
        Order::Clone if settings.protected => {
            Err(Fault::refused(format!("{environment} is protected: its database is never made anew"))
                .because("a clone replaces the database")
                .hint(format!("piton clone is for an environment with data; piton restore {environment} latest --into NAME makes a copy beside it")))
        }
        Order::Clone if settings.data.is_none() => {
            Err(Fault::refused(format!("{environment} has data of its own"))
                .because("a clone replaces the database, and only one that is made from another's is replaced")
                .hint(format!("data = {{ from = \"production\" }} below [environments.{environment}] in piton.toml says where from")))
        }
        Order::Restore { files: Some(files), .. } if files.exists() => {
            Err(Fault::refused(format!("{} is there already", files.display()))
                .because("files are unpacked into a new folder, never over others")
                .hint("name another one with --files"))
        }
        Order::Restore { files: Some(files), .. }
            if files.parent().is_some_and(|above| !above.is_dir()) =>
        {
            let above = files.parent().unwrap_or(files).display();
            Err(Fault::refused(format!("there is no folder {above}"))
                .because(format!("{} is made in it", files.display()))
                .hint(Command::new("mkdir").args(["-p", &above.to_string()]).to_string()))
        }
        Order::Restore { into, .. } => {
            if into.len() > 63 {
                return Err(Fault::refused(format!("{into} is too long for a database's name"))
                    .because("PostgreSQL cuts names off at 63 bytes"));
            }
            let target = database.with_name(into);
            match piton_db::facts::exists(&target).await {
                Ok(false) => Ok(()),
                Ok(true) => Err(Fault::refused(format!("there is a database {into} already"))
                    .because(format!("{}: a backup is restored beside what is there, never over it", target.server()))
                    .hint("name another one with --into")),
                Err(error) => Err(Fault::refused(format!("{environment}'s database server cannot be reached"))
                    .caused_by(&error)),
            }
        }
        Order::Backup | Order::Proof { .. } | Order::Clone | Order::Rollback { .. } => Ok(()),
    }
}

fn nothing_to_ask(journal: &Journal, environment: &str, request: Request) -> Result<Fault, Fault> {
    let last = journal.releases(Some(environment)).map_err(journal_fault)?.pop();
    let none = Fault::refused(format!("no release of {environment} is under way"));
    Ok(match last {
        Some(last) => engine::may_ask(&last, request).err().unwrap_or(none),
        None => none.hint(format!("piton deploy {environment} begins one")),
    })
}

fn unfinished(open: &State, held: bool) -> Fault {
    let environment = &open.plan.environment;
    let job = open.plan.job;
    let mut fault = Fault::refused(format!("a {job} of {environment} is not over")).because(format!(
        "{} of commit {} was begun by {}",
        open.plan.short_id(),
        open.plan.commit.short(),
        open.by
    ));
    if let Some((step, standing)) = open.standing_fault() {
        fault = fault.because(format!("it stands at {step}: {standing}"));
    }
    if open.waits_for_a_word() {
        return fault.hint(step::words_to_say(environment));
    }
    let on = if held { "watch {} follows it" } else { "resume {} carries it on" }.replace("{}", environment);
    fault.hint(format!("piton {on}, piton abort {environment} undoes it"))
}

fn config_fault(error: &config::ConfigError) -> Fault {
    let mut fault = Fault::refused("the configuration is not usable");
    fault.why = error.messages().map(str::to_owned).collect();
    fault
}

/// Turns a journal's error into a fault; a held lease is a refusal.
pub fn journal_fault(error: JournalError) -> Fault {
    match error {
        JournalError::Held { environment, holder } => {
            Fault::refused(format!("{environment} is being released by {}", holder.operator.user))
                .because(format!("{}, since {}", holder.operator, crate::words::time(holder.since)))
                .hint(format!("piton watch {environment} shows it; piton abort {environment} undoes it"))
        }
        JournalError::NoRelease(_) => Fault::refused(error.to_string())
            .hint("piton status shows each environment's latest release, piton log ENV its events"),
        JournalError::LeaseLost { .. } => {
            Fault::surroundings("another process took the release over").caused_by(&error)
        }
        error => Fault::surroundings("the journal cannot be used").caused_by(&error),
    }
}
