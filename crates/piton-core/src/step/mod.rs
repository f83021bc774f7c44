//! The kinds of steps: data that can describe, act and undo itself, and where acting twice needs it, observe.

mod backup;
mod build;
mod capture;
mod check;
mod clone;
mod disk;
mod downs;
mod follow;
mod fresh;
mod guard;
mod hand_over;
mod hold;
mod identity;
mod loss;
mod migrate;
mod migrate_copy;
mod outcome;
mod proxy;
mod put_in_place;
mod rehearsal;
mod rehearse;
mod rescue;
mod reverse;
mod revive;
mod rewind;
mod serving;
mod settle;
mod shift;
mod slot;
mod store;
mod unpack;
mod way_back;
mod which;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use piton_db::identity::{Label, Purpose};
use piton_db::{Database, DbError, Ran, made, quote};
use piton_exec::{Command, ExecError, ExposeSecret, Output, local, marker};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use backup::{Backup, Proof};
pub use build::Build;
pub use capture::{Capture, EndCapture, Means};
pub use check::{CheckResult, Checks};
pub use clone::CloneData;
pub use fresh::Fresh;
pub use guard::{Finding, Guard};
pub use hand_over::HandOver;
pub use identity::Mark;
pub use loss::{CountLoss, Lost, Older};
pub use migrate::Migrate;
pub use migrate_copy::MigrateCopy;
pub use proxy::Connect;
pub(crate) use proxy::PROXY_MARK;
pub use put_in_place::PutInPlace;
pub use rehearse::Rehearse;
pub use rescue::LoadRescued;
pub(crate) use rescue::waiting;
pub use revive::{Revived, Role, ShouldRun};
pub(crate) use revive::{revive, without_way_back};
pub(crate) use rewind::words_to_say;
pub use settle::{DropCopies, Prune, StopSlot, Tidy};
pub use shift::{Shift, Watch};
pub(crate) use slot::SLOT_MARK;
pub use slot::StartSlot;
pub use store::{Fetch, Upload};
pub(crate) use store::{store_of, store_unusable};
pub use unpack::Unpack;
pub(crate) use which::still_the_same;

use crate::config::{self, Check, Settings};
use crate::dirs::Dirs;
use crate::engine::Recorder;
use crate::fault::{Fault, Kind, OrFault};
use crate::journal::{Event, GoOn, Outcome, State};
use crate::plan::{Phase, Plan};

/// The variable that every program carries which runs for a release, so that none of them outlives a killed Piton unseen.
const WORK_MARK: &str = "PITON_WORK";

/// What apps and proxies inherit from the operator's environment; an app has everything else from its `env_file`.
const INHERITED: [&str; 8] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR"];

/// What a step finds in the world when it is taken up again.
#[derive(Clone, Debug, PartialEq)]
pub enum Observed {
    /// Nothing of it, or only a part that acting again puts right.
    NotDone,
    /// All of it, with its outcome.
    Done(Value),
}

/// What the words of a plan are made from.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The environment's settings.
    pub settings: &'a Settings,
    /// The settings of the environment that the data comes from.
    pub from: Option<&'a Settings>,
    /// The folders.
    pub dirs: &'a Dirs,
}

impl Site<'_> {
    /// Builds a `psql` call on one of the environment's databases; nothing without a database.
    fn psql<S: Into<String>>(
        &self,
        name: Option<&str>,
        args: impl IntoIterator<Item = S>,
    ) -> Option<Command> {
        self.client("psql", name, args)
    }

    /// Builds the call that lets another database take the environment's own one's place; nothing without a database.
    fn renames(&self, replacement: &str, replaced: &str) -> Option<Command> {
        let live = database_of(self.settings).ok()?.dbname;
        let rename = |from: &str, to: &str| {
            format!("ALTER DATABASE {} RENAME TO {}", quote::ident(from), quote::ident(to))
        };
        let (away, in_place) = (rename(&live, replaced), rename(replacement, &live));
        self.psql(Some("postgres"), ["-1", "-c", &away, "-c", &in_place])
    }

    /// Builds a call of one of PostgreSQL's client programs.
    fn client<S: Into<String>>(
        &self,
        program: &str,
        name: Option<&str>,
        args: impl IntoIterator<Item = S>,
    ) -> Option<Command> {
        let database = database_of(self.settings).ok()?;
        let database = name.map_or_else(|| database.clone(), |name| database.with_name(name));
        Some(database.tool_env(Command::new(program).args(args)))
    }
}

/// A step in words, for the plan.
#[derive(Clone, Debug)]
pub struct Words {
    /// What it does.
    pub does: String,
    /// The commands that a person would type.
    pub commands: Vec<Command>,
    /// How it is undone.
    pub undo: String,
}

impl Words {
    fn new(does: impl Into<String>, undo: impl Into<String>) -> Self {
        Self { does: does.into(), commands: Vec::new(), undo: undo.into() }
    }

    fn with(mut self, commands: impl IntoIterator<Item = Command>) -> Self {
        self.commands.extend(commands);
        self
    }
}

/// What each kind of step can do. `act` and `undo` may be repeated after a kill at any point.
trait Act {
    /// Tells what the step does, without looking at the world.
    fn words(&self, site: &Site<'_>) -> Words;
    /// Looks whether the step has been done; asked only when it was started before.
    ///
    /// Most kinds need none: their `act` takes what is right already as it is.
    async fn observe(&self, _ctx: &Ctx<'_, '_>) -> Result<Observed, Fault> {
        Ok(Observed::NotDone)
    }
    /// Does it.
    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault>;
    /// Takes back what was done of it, all or a part.
    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault>;
}

/// Makes the enum of all kinds and hands each call to the kind's own.
macro_rules! kinds {
    ($($kind:ident),+ $(,)?) => {
        /// A step as data.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        pub enum Step {
            $(
                #[doc = concat!("See [`", stringify!($kind), "`].")]
                $kind($kind),
            )+
        }

        $(impl From<$kind> for Step {
            fn from(step: $kind) -> Self {
                Step::$kind(step)
            }
        })+

        impl Step {
            /// Tells what the step does, the commands for it, and how it is undone.
            pub fn words(&self, site: &Site<'_>) -> Words {
                match self { $(Step::$kind(step) => step.words(site),)+ }
            }

            pub(crate) async fn observe(&self, ctx: &Ctx<'_, '_>) -> Result<Observed, Fault> {
                match self { $(Step::$kind(step) => Box::pin(step.observe(ctx)).await,)+ }
            }

            pub(crate) async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
                match self { $(Step::$kind(step) => Box::pin(step.act(ctx)).await,)+ }
            }

            pub(crate) async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
                match self { $(Step::$kind(step) => Box::pin(step.undo(ctx)).await,)+ }
            }
        }
    };
}

kinds!(
    Guard,
    Mark,
    Build,
    Capture,
    Backup,
    Fetch,
    Proof,
    Upload,
    Rehearse,
    Fresh,
    CloneData,
    Migrate,
    LoadRescued,
    StartSlot,
    Checks,
    Connect,
    Shift,
    Watch,
    StopSlot,
    EndCapture,
    DropCopies,
    Prune,
    Tidy,
    HandOver,
    Unpack,
    MigrateCopy,
    CountLoss,
    PutInPlace,
);

impl Step {
    /// Returns for how long the gate is to judge the release in this step.
    fn judged_for(&self) -> std::time::Duration {
        match self {
            Step::Shift(shift) => shift.bake,
            Step::Watch(watch) => watch.length,
            _ => std::time::Duration::ZERO,
        }
    }

    /// Tells whether nothing can be undone once this step has begun.
    pub fn closes_the_way_back(&self) -> bool {
        matches!(
            self,
            Step::StopSlot(_)
                | Step::EndCapture(_)
                | Step::DropCopies(_)
                | Step::Prune(_)
                | Step::Tidy(_)
                | Step::HandOver(_)
        )
    }
}

/// What the steps of a release need from outside of the plan.
#[derive(Debug)]
pub struct World {
    /// The environment's settings, with its secrets.
    pub settings: Settings,
    /// The settings of the environment that the data comes from.
    pub from: Option<Settings>,
    /// The other environments of the file, for guards that compare them.
    pub others: Vec<Other>,
    /// The folders.
    pub dirs: Dirs,
    /// The `piton` program itself, to start the proxy with.
    pub piton: PathBuf,
    /// The commits that the environment named by `after` has released.
    pub released_before: Vec<String>,
    /// The commit that serves from the database that is backed up.
    pub backed_up_commit: Option<String>,
    /// The checks that this release was started with.
    pub backed_up_checks: Vec<Check>,
    /// How the release that serves was started.
    pub serving: Option<StartSlot>,
    /// What has to run now: the release that serves, and the one under way once it was started.
    pub should_run: Vec<ShouldRun>,
}

/// Another environment of the file, as far as it can be seen from this machine.
#[derive(Debug)]
pub struct Other {
    /// Its name.
    pub environment: String,
    /// Whether people depend on it.
    pub protected: bool,
    /// Its file of variables, as configured.
    pub env_file: PathBuf,
    /// What can be compared with.
    pub seen: Seen,
}

/// How much of another environment's settings can be seen.
#[derive(Debug)]
pub enum Seen {
    /// All of them.
    Settings(Box<Settings>),
    /// None: its variables are on another machine.
    Elsewhere,
    /// None: something in them is wrong, in these words.
    Broken(Vec<String>),
}

impl World {
    /// Returns the settings of the other environments that can be resolved here.
    fn others(&self) -> impl Iterator<Item = &Settings> {
        self.others.iter().filter_map(|other| match &other.seen {
            Seen::Settings(settings) => Some(&**settings),
            Seen::Elsewhere | Seen::Broken(_) => None,
        })
    }

    /// Returns where every environment's variables are, or would be.
    fn env_files(&self) -> Vec<PathBuf> {
        let settings = &self.settings;
        let usual = || settings.root.join(config::usual_env_file(&settings.environment));
        let others = self.others.iter().map(|other| settings.root.join(&other.env_file));
        others.chain([settings.env_file.clone().unwrap_or_else(usual)]).collect()
    }
}

/// A step's view of its release.
pub struct Ctx<'a, 'w> {
    recorder: &'a RefCell<Recorder<'w>>,
    /// What the steps need from outside of the plan.
    pub world: &'a World,
    /// The plan.
    pub plan: Arc<Plan>,
    /// This step's name.
    pub step: String,
    /// The step's place in the plan.
    index: usize,
    /// Whether the undo shall put the database back whatever was written since.
    pub database: bool,
    /// Whether a person has still to say that.
    pub undecided: bool,
    /// Whether the release goes back.
    pub back: bool,
    /// Whether a person has given up the way back.
    pub forward: bool,
}

impl<'a, 'w> Ctx<'a, 'w> {
    pub(crate) fn new(recorder: &'a RefCell<Recorder<'w>>, world: &'a World, index: usize) -> Self {
        let borrowed = recorder.borrow();
        let state = borrowed.state();
        Self {
            recorder,
            world,
            plan: Arc::clone(&state.plan),
            step: state.plan.steps[index].id.clone(),
            index,
            database: state.back.as_ref().is_some_and(|turned| turned.database),
            undecided: state.back.as_ref().is_some_and(|turned| turned.undecided),
            back: state.back.is_some(),
            forward: state.forward,
        }
    }

    /// Returns the environment's settings.
    pub fn settings(&self) -> &'a Settings {
        &self.world.settings
    }

    /// Leaves a note for when the step is taken up again; on disk when this returns.
    pub fn note(&self, note: &impl Serialize) -> Result<(), Fault> {
        let note = to_value(note);
        self.append(&Event::Noted { step: self.step.clone(), note })
    }

    /// Returns the step's latest note, from this run or an earlier one.
    pub fn noted(&self) -> Option<Value> {
        self.recorder.borrow().state().steps[self.index].note.clone()
    }

    /// Returns how often the step was started.
    fn attempts(&self) -> u32 {
        self.recorder.borrow().state().steps[self.index].attempts
    }

    /// Tells whether somebody was asked already what becomes of the database.
    fn was_asked(&self) -> bool {
        self.recorder.borrow().state().was_asked
    }

    /// Leaves it to a person what becomes of the database; everything else goes back as it does.
    fn leaves_the_database_open(&self) -> Result<(), Fault> {
        let reason = self.recorder.borrow().state().back.as_ref().map(|turned| turned.reason.clone());
        match reason {
            Some(reason) => self.append(&Event::TurnedBack { reason, database: false, undecided: true }),
            None => Ok(()),
        }
    }

    /// Returns the name of the step before this one.
    fn step_before(&self) -> Option<&str> {
        Some(&self.plan.steps[self.index.checked_sub(1)?].id)
    }

    /// Lists all releases of all environments, oldest first, as the journal has them now.
    fn releases(&self) -> Result<Vec<State>, Fault> {
        self.recorder.borrow().releases().or_fault(|| "the journal cannot be read".into())
    }

    /// Lists the commits that serve somewhere, served before that, or are under way.
    fn commits_in_use(&self) -> Result<BTreeSet<String>, Fault> {
        let mut used = BTreeSet::from([self.plan.commit.hash.clone()]);
        used.extend(self.plan.live.iter().map(|live| live.commit.hash.clone()));
        let releases = self.releases()?;
        for environment in releases.iter().map(|state| &state.plan.environment).collect::<BTreeSet<_>>() {
            let of_it = || releases.iter().filter(|state| state.plan.environment == *environment);
            let commit = |state: &State| state.plan.commit.hash.clone();
            used.extend(of_it().filter(|state| state.ended.is_none()).map(commit));
            if *environment != self.plan.environment {
                let succeeded = |state: &&State| {
                    state.is_release() && matches!(state.ended, Some((Outcome::Succeeded, _)))
                };
                used.extend(of_it().rev().filter(succeeded).take(2).map(commit));
            }
        }
        Ok(used)
    }

    /// Tells whether any step of a phase was started.
    fn began(&self, phase: Phase) -> bool {
        let recorder = self.recorder.borrow();
        let state = recorder.state();
        let mut steps = state.plan.steps.iter().zip(&state.steps);
        steps.any(|(planned, step)| planned.phase == phase && step.attempts > 0)
    }

    fn append(&self, event: &Event) -> Result<(), Fault> {
        self.recorder
            .borrow_mut()
            .append(event)
            .map_err(|error| Fault::surroundings("the journal could not be written").caused_by(&error))
    }

    /// Refuses what no event comes before, when another process has taken the release over.
    fn not_fenced_off(&self) -> Result<(), Fault> {
        match self.recorder.borrow().is_fenced_off() {
            true => Err(Fault::surroundings("another process took the release over")),
            false => Ok(()),
        }
    }

    /// Says how far the step is, to whoever watches.
    pub fn say(&self, text: &str) {
        self.recorder.borrow().watcher().progress(&self.step, text);
    }

    /// Returns what came of an earlier step, when it has acted.
    pub fn outcome<T: DeserializeOwned>(&self, step: &str) -> Option<T> {
        let recorder = self.recorder.borrow();
        T::deserialize(recorder.state().outcome(step)?).ok()
    }

    /// Tells whether it is journaled that the golden copy does not follow.
    fn is_behind(&self) -> bool {
        self.recorder.borrow().state().behind.is_some()
    }

    /// Tells whether a person holds the release.
    pub fn held(&self) -> bool {
        self.recorder.borrow().state().held
    }

    /// Returns how a person lets the step go on, if one does.
    pub fn go_on(&self) -> Option<GoOn> {
        self.recorder.borrow().state().go_on
    }

    /// Runs a program for the step: journaled, its lines shown and kept in the release's logs; wants exit code 0.
    pub async fn run(&self, command: Command) -> Result<Output, Fault> {
        let log = self.open_log()?;
        let command = command.env(WORK_MARK, &self.plan.id);
        let printed = Command {
            env: command.env.iter().filter(|(name, _)| name != WORK_MARK).cloned().collect(),
            ..command.clone()
        };
        let secrets = secret_values(self.settings());
        write_line(&log, &format!("$ {printed}"));
        let mut output = local::run_with(&command, |_, line| {
            let line = without(&secrets, line);
            write_line(&log, &line);
            self.say(&line);
        })
        .await
        .map_err(|error| {
            let what = format!("{} could not be run", command.program);
            match &error {
                // One that is named by its place belongs to the release; one that is found through PATH to the machine.
                ExecError::NotFound { program } if program.contains('/') => Fault::release(what),
                _ => Fault::surroundings(what),
            }
            .caused_by(&error)
        })?;
        output.stdout = without(&secrets, &output.stdout);
        output.stderr = without(&secrets, &output.stderr);
        self.ran(Ran { command: printed.to_string(), code: output.code, took: output.elapsed })?;
        if output.success() {
            return Ok(output);
        }
        let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
        let mut fault = Fault::release(format!("`{printed}` ended with exit code {}", output.code));
        fault.why = last_lines(said, 6);
        if let Some(full) = disk::full(said, [command.cwd.as_deref(), Some(self.world.dirs.base())]) {
            let hint = disk::mend(&full, &format!("piton resume {}", self.plan.environment));
            return Err(Fault { kind: Kind::Surroundings, ..fault }.because("the disk is full").hint(hint));
        }
        Err(fault.hint(format!("the whole output is in {}", self.log_path().display())))
    }

    /// Journals a program that has run for the step.
    fn ran(&self, ran: Ran) -> Result<(), Fault> {
        let ms = u64::try_from(ran.took.as_millis()).unwrap_or(u64::MAX);
        self.append(&Event::Ran { step: self.step.clone(), command: ran.command, code: ran.code, ms })
    }

    /// Journals a program that was started for the step and outlives it.
    fn launched(&self, command: &Command, pid: u32) -> Result<(), Fault> {
        self.append(&Event::Launched { step: self.step.clone(), command: command.to_string(), pid })
    }

    fn log_path(&self) -> PathBuf {
        self.world.dirs.logs(&self.plan.id).join(format!("{}.log", self.step))
    }

    fn open_log(&self) -> Result<std::fs::File, Fault> {
        let path = self.log_path();
        let open = || {
            if let Some(folder) = path.parent() {
                fs_err::create_dir_all(folder)?;
            }
            std::fs::OpenOptions::new().create(true).append(true).open(&path)
        };
        open().map_err(|error| Fault::surroundings("the release's log cannot be written").caused_by(&error))
    }

    /// Ends programs that an earlier, killed run of this release left behind.
    pub(crate) async fn clear_leftovers(&self) {
        marker::stop(WORK_MARK, &self.plan.id, std::time::Duration::from_secs(2)).await;
    }
}

/// Returns the environment's database.
///
/// # Errors
/// When the URL names none, or the environment has none.
pub(crate) fn database_of(settings: &Settings) -> Result<Database, Fault> {
    let Some(database) = &settings.database else {
        return Err(Fault::refused(format!("{} has no [database]", settings.environment)));
    };
    Database::parse(&database.url).map_err(|error| {
        let hint = match error {
            DbError::Pooler { .. } => BESIDE_THE_POOLER,
            _ => "postgresql://USER:PASSWORD@HOST:PORT/DATABASE is the form; DATABASE_URL usually comes from the env_file",
        };
        Fault::refused(format!("the database URL of {} cannot be used", settings.environment))
            .caused_by(&error)
            .hint(hint)
    })
}

/// What mends a URL that leads to a connection pooler, which the app may go on to use.
const BESIDE_THE_POOLER: &str = "name the server itself: DIRECT_URL=postgresql://USER:PASSWORD@HOST:PORT/DATABASE in every env_file, and url = \"${DIRECT_URL}\" below [database] in piton.toml";

/// Names what a database that this release makes is for.
fn label(ctx: &Ctx<'_, '_>, purpose: Purpose) -> Label {
    Label {
        app: ctx.plan.app.clone(),
        environment: ctx.plan.environment.clone(),
        release: Some(ctx.plan.id.clone()),
        purpose,
    }
}

/// Drops a database that Piton made for this environment; one that is gone already is as good as dropped.
async fn drop_made(ctx: &Ctx<'_, '_>, server: &Database, name: &str) -> Result<bool, Fault> {
    let dropped = made::drop_made(&server.with_name(name), &label(ctx, Purpose::Clone)).await;
    dropped.or_fault(|| format!("{name} cannot be dropped"))
}

/// Drops a copy that a step has made, as its undo.
async fn drop_copy(ctx: &Ctx<'_, '_>, name: &str) -> Result<Value, Fault> {
    let dropped = drop_made(ctx, &database_of(ctx.settings())?, name).await?;
    Ok(json!({ "dropped": dropped }))
}

/// Writes a line into a step's log, which is for people: a full disk shows itself in the step's own work.
fn write_line(mut log: &std::fs::File, line: &str) {
    use std::io::Write;
    let _ = writeln!(log, "{line}");
}

/// Lists what must not appear in a log, whatever a program prints.
fn secret_values(settings: &Settings) -> Vec<String> {
    let names = config::secret_names(&settings.vars);
    let mut values = Vec::new();
    let vars = names.iter().filter_map(|name| settings.vars.get(*name));
    for value in vars.chain(settings.database.as_ref().map(|database| &database.url)) {
        let value = value.expose_secret();
        // A program prints line by line.
        values.extend(value.lines().map(str::to_owned));
        if let Some(password) = config::password_of(value) {
            // A tool may print the password of a URL alone, as it is written there, as it is meant, or as another would write it.
            let meant = percent_decode_str(password).decode_utf8_lossy().into_owned();
            values.push(piton_db::in_url(&meant));
            values.push(meant);
            values.push(password.to_owned());
        }
    }
    // A very short value would blot out ordinary words.
    values.retain(|value| value.len() >= 6);
    // The longest first: what is left of it would not be found again.
    values.sort_by_key(|value| Reverse(value.len()));
    values
}

/// Hides in what a tool said the secrets of the environment, and of the one that its data come from.
fn without_secrets(ctx: &Ctx<'_, '_>, fault: Fault) -> Fault {
    let known = std::iter::once(ctx.settings()).chain(&ctx.world.from);
    let secrets: Vec<String> = known.flat_map(secret_values).collect();
    Fault { why: fault.why.iter().map(|why| without(&secrets, why)).collect(), ..fault }
}

fn without(secrets: &[String], text: &str) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "•••"))
}

fn last_lines(text: &str, count: usize) -> Vec<String> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|line| (*line).to_owned()).collect()
}

/// Turns an outcome or a note into JSON; only types of this crate come here, and they all can.
fn to_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}
