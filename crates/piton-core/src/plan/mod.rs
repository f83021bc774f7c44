//! The plan: everything that a release will do, decided before it does anything.
//!
//! [`make`] is a pure function of the settings and of [`Facts`]; the plan that runs is the plan that was stored.

mod order;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use piton_db::capture::{Missing, slot_name};
use piton_db::migrate::Tool;
use piton_db::replay::Down;
use piton_proxy::Slot;
use serde::{Deserialize, Serialize};

use crate::config::{Data, Percent, RolloutStep, Settings};
use crate::dirs::Dirs;
use crate::facts::{Facts, Lacking, Source};
use crate::gate;
use crate::step::{
    Backup, Build, Capture, Checks, CloneData, Connect, DropCopies, EndCapture, Fresh, Guard, LoadRescued,
    Mark, Means, Migrate, Proof, Prune, Rehearse, Shift, Site, StartSlot, Step, StopSlot, Tidy, Upload,
    Watch,
};
use crate::words;

pub use order::{Job, Order, make as make_for};

/// How much of the server's log may at least be written while nobody reads what triggers have noted, in bytes.
const LEAST_BUDGET: u64 = 1 << 30;

/// And at most.
const MOST_BUDGET: u64 = 10 << 30;

/// Everything that one release, or another run, will do in one environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The release's identifier, a ULID.
    pub id: String,
    /// What the run is for.
    #[serde(default)]
    pub job: Job,
    /// The app.
    pub app: String,
    /// The environment.
    pub environment: String,
    /// Whether people depend on the environment.
    pub protected: bool,
    /// What will run.
    pub commit: Commit,
    /// What runs now.
    pub live: Option<Live>,
    /// The slot that the release starts in.
    pub slot: Slot,
    /// Whether a fault of the release leaves it standing for a look instead of undoing it.
    pub stay: bool,
    /// The steps in their order.
    pub steps: Vec<PlannedStep>,
    /// What a person should know before it runs.
    pub remarks: Vec<String>,
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The full hash.
    pub hash: String,
    /// Its first line.
    pub subject: String,
}

impl Commit {
    /// Returns the first seven digits of the hash.
    pub fn short(&self) -> &str {
        self.hash.get(..7).unwrap_or(&self.hash)
    }
}

/// The release that serves an environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Its identifier.
    pub release: String,
    /// Its commit.
    pub commit: Commit,
    /// How it was started, and so could be again.
    pub start: StartSlot,
    /// Since when.
    pub since: Timestamp,
}

/// The part of a release that a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Refuses what must not be.
    Guard,
    /// Makes the artifact.
    Build,
    /// Takes the database's rows and structure.
    Backup,
    /// Restores the backup and compares.
    Prove,
    /// Tries the migration on a copy.
    Rehearse,
    /// Changes the database.
    Migrate,
    /// Starts the release beside the one that serves.
    Start,
    /// Moves traffic.
    Shift,
    /// Keeps the way back open.
    Watch,
    /// Closes the way back and tidies up.
    Settle,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Phase::Guard => "guard",
            Phase::Build => "build",
            Phase::Backup => "backup",
            Phase::Prove => "prove",
            Phase::Rehearse => "rehearse",
            Phase::Migrate => "migrate",
            Phase::Start => "start",
            Phase::Shift => "shift",
            Phase::Watch => "watch",
            Phase::Settle => "settle",
        })
    }
}

/// A step as it stands in a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Its name, unique in the plan: `shift.25%`.
    pub id: String,
    /// Its phase.
    pub phase: Phase,
    /// What it does, for people.
    pub does: String,
    /// The commands that a person would type for it.
    pub commands: Vec<String>,
    /// How it is undone, for people.
    pub undo: String,
    /// The step itself.
    pub step: Step,
}

impl Plan {
    /// Returns the identifier's last ten characters, which tell releases apart.
    pub fn short_id(&self) -> &str {
        short_id(&self.id)
    }

    /// Returns the step that takes a backup.
    pub fn backup(&self) -> Option<&Backup> {
        self.steps.iter().find_map(|planned| match &planned.step {
            Step::Backup(backup) => Some(backup),
            _ => None,
        })
    }

    /// Returns the step that starts the release's app.
    pub fn start(&self) -> Option<&StartSlot> {
        self.steps.iter().find_map(|planned| match &planned.step {
            Step::StartSlot(start) => Some(start),
            _ => None,
        })
    }
}

/// Returns the random end of a release's identifier.
pub fn short_id(id: &str) -> &str {
    id.get(id.len().saturating_sub(10)..).unwrap_or(id)
}

/// Returns the port of a slot.
pub(crate) fn port_of(settings: &Settings, slot: Slot) -> u16 {
    match slot {
        Slot::Blue => settings.run.ports.blue,
        Slot::Green => settings.run.ports.green,
    }
}

/// Makes the plan of a release.
pub fn make(settings: &Settings, from: Option<&Settings>, facts: &Facts, stay: bool) -> Plan {
    let dirs = Dirs::new(&settings.root);
    let site = Site { settings, from, dirs: &dirs };
    let slot = facts.live.as_ref().map_or(Slot::Blue, |live| live.start.slot.other());
    let mut draft = Draft { settings, site, facts, dirs: &dirs, slot, steps: Vec::new() };
    draft.guard();
    draft.build();
    draft.database();
    draft.start();
    draft.traffic();
    draft.settle();
    Plan { stay, remarks: remarks(settings, facts), ..draft.plan(Job::Release) }
}

fn remarks(settings: &Settings, facts: &Facts) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(Data::Fresh { .. }) = &settings.data {
        remarks.push(format!(
            "{}'s database is made anew, and holds no rows but the seed's: how migrations do with people's rows, production's \
             release rehearses",
            settings.environment
        ));
    }
    if let Some(from) = settings.data.as_ref().and_then(Data::source) {
        let (own, theirs) = (&settings.environment, &from.environment);
        remarks.push(match &from.mask {
            None => format!(
                "{own}'s database is made anew from {theirs}'s rows as they are: whoever reaches it reads real people's data"
            ),
            Some(mask) => format!(
                "{own}'s database is made anew from {theirs}'s rows, masked as {} says; until they are, the dump lies unmasked in \
                 the backup's folder, which this account alone can read",
                mask.file.display()
            ),
        });
    }
    if facts.other_config {
        remarks.push(format!(
            "piton.toml in the folder differs from that of {}; the one in the folder is used",
            facts.commit.short()
        ));
    }
    if facts.uncommitted {
        remarks.push("files differ from the last commit; what is not committed is not released".into());
    }
    if facts.live.is_none() {
        remarks.push("first release here: nothing serves yet, so traffic goes to it at once".into());
    }
    if let (Some(_), Some(first)) = (&facts.live, settings.rollout.steps.first()) {
        remarks.extend(gate::reach(settings.gate, first.share));
    }
    remarks.extend(facts.warnings.iter().cloned());
    remarks.extend(facts.lacking.iter().flat_map(what_is_lacking));
    if let Some(window) = &settings.window
        && !window.contains(facts.now)
    {
        let time = |at| words::time_in(at, facts.zone.clone());
        let opens =
            window.next_open(facts.now).map_or_else(String::new, |at| format!(", opens {}", time(at)));
        remarks.push(format!("outside of the window {window}{opens}"));
    }
    remarks
}

/// Says what following the writes after a backup lacks, and what comes of it.
fn what_is_lacking(lacking: &Lacking) -> Vec<String> {
    let all = all_that_is_lacking(lacking);
    let first = match (all.is_empty(), lacking.triggers.is_empty()) {
        (true, _) => return all,
        (false, true) => {
            "later writes are noted by triggers, which writers feel; they would not feel the log's being read"
        }
        (false, false) => {
            "a migration that goes back cannot take later writes along: neither the server's log nor triggers can keep them"
        }
    };
    std::iter::once(first.to_owned()).chain(all).collect()
}

/// Names all that is missing, each with what mends it.
fn all_that_is_lacking(lacking: &Lacking) -> Vec<String> {
    let Lacking { log, triggers } = lacking;
    let told =
        |whose: &str, missing: &Missing| format!("for {whose}: {}; mend: {}", missing.what, missing.mend);
    let of_log = log.iter().map(|missing| match triggers.contains(missing) {
        true => told("the log and for triggers", missing),
        false => told("the log", missing),
    });
    let of_triggers = triggers.iter().filter(|missing| !log.contains(missing));
    of_log.chain(of_triggers.map(|missing| told("triggers", missing))).collect()
}

struct Draft<'a> {
    settings: &'a Settings,
    site: Site<'a>,
    facts: &'a Facts,
    dirs: &'a Dirs,
    slot: Slot,
    steps: Vec<PlannedStep>,
}

impl Draft<'_> {
    fn add(&mut self, id: impl Into<String>, phase: Phase, step: impl Into<Step>) {
        self.add_with(id, phase, step, None);
    }

    /// Adds a step together with what the facts say about it.
    fn add_with(
        &mut self,
        id: impl Into<String>,
        phase: Phase,
        step: impl Into<Step>,
        detail: Option<String>,
    ) {
        let step = step.into();
        let words = step.words(&self.site);
        self.steps.push(PlannedStep {
            id: id.into(),
            phase,
            does: match detail {
                Some(detail) => format!("{}: {detail}", words.does),
                None => words.does,
            },
            commands: words.commands.iter().map(ToString::to_string).collect(),
            undo: words.undo,
            step,
        });
    }

    fn guard(&mut self) {
        let guard = Guard {
            commit: self.facts.commit.hash.clone(),
            slot: self.slot,
            job: Job::Release,
            backup: None,
            files: None,
            kept: None,
            store: self.settings.backup.store.is_some()
                && self.settings.database.is_some()
                && self.settings.data.is_none(),
        };
        self.add("guard", Phase::Guard, guard);
        if self.facts.unmarked {
            self.add("guard.mark", Phase::Guard, Mark { app: self.settings.app.clone() });
        }
    }

    fn build(&mut self) {
        let commit = self.facts.commit.hash.clone();
        let folder = self.dirs.artifact(&commit);
        let app = folder.join(&self.facts.prefix);
        let run = self.settings.build.run.clone();
        self.add("build", Phase::Build, Build { commit, folder, app, run });
    }

    /// The slot and the port of the release that serves.
    fn live(&self) -> Option<(Slot, u16)> {
        self.facts.live.as_ref().map(|live| (live.start.slot, live.start.port))
    }

    /// The anchor and the migration; an app without a database has neither.
    fn database(&mut self) {
        if self.settings.database.is_some() {
            let app = self.dirs.artifact(&self.facts.commit.hash).join(&self.facts.prefix);
            self.anchor_and_migration(&Names::of(self.settings, &self.facts.id), Some(&app));
        }
    }

    /// Backup, proof, and what comes of them for the database; `app` is the folder whose migrations are applied.
    fn anchor_and_migration(&mut self, names: &Names, app: Option<&Path>) {
        let migrations = self.settings.database.as_ref().and_then(|database| database.migrations.as_ref());
        let migrations = migrations.zip(app).map(|(migrations, app)| migrations.within(app));
        if let (Some(Data::Fresh { seed }), Some(app)) = (&self.settings.data, app) {
            let (golden, app, seed) = (names.golden.clone(), app.to_owned(), seed.clone());
            let fresh = Fresh { golden, app, migrations, seed };
            self.add("fresh", Phase::Rehearse, fresh);
            self.add("migrate.data", Phase::Migrate, clone_data(names));
            return;
        }
        let from = self.settings.data.as_ref().and_then(Data::source).map(|data| data.environment.clone());
        let pending = self.facts.pending.as_deref().zip(migrations.as_ref());
        let pending = pending.map(|(pending, migrations)| pending_words(pending, &migrations.tool));
        if let Some(by) = self.means() {
            self.add("backup.capture", Phase::Backup, Capture { by });
        }
        self.anchor(names, from.clone());
        if let Some(migrations) = &migrations {
            let (golden, copy) = (names.golden.clone(), names.rehearsal.clone());
            let (downs, unkept) = (self.downs(), self.unkept());
            let rehearse = Rehearse { golden, copy, migrations: migrations.clone(), downs, unkept };
            self.add_with("rehearse", Phase::Rehearse, rehearse, pending.clone());
        }
        if from.is_some() {
            self.add("migrate.data", Phase::Migrate, clone_data(names));
        }
        if let Some(migrations) = migrations {
            let (golden, replaced) = (names.golden.clone(), names.replaced.clone());
            let migrate = Migrate { migrations, golden, replaced, undo: from.is_none() };
            self.add_with("migrate", Phase::Migrate, migrate, pending);
            if !self.facts.rescued.is_empty() {
                let files = self.facts.rescued.clone();
                self.add("migrate.rescued", Phase::Migrate, LoadRescued { files });
            }
        }
    }

    /// Lists the down expressions of migrations that are pending, or may be.
    fn downs(&self) -> Vec<Down> {
        let Some(database) = &self.settings.database else { return Vec::new() };
        let all_known = database.migrations.as_ref().is_some_and(|known| known.tool.has_all_files());
        let pending = self.facts.pending.as_ref().filter(|_| all_known);
        let is_pending = |down: &&Down| pending.is_none_or(|pending| pending.contains(&down.migration));
        database.downs.iter().filter(is_pending).cloned().collect()
    }

    /// Says what the server lacks for keeping later writes, where a migration may need them and nothing keeps them.
    fn unkept(&self) -> Vec<String> {
        let lacking = self.facts.lacking.as_ref().filter(|_| self.means().is_none());
        lacking.map_or_else(Vec::new, all_that_is_lacking)
    }

    /// Tells how later writes are come by, where a migration may need them and the server lets them be.
    fn means(&self) -> Option<Means> {
        let Lacking { log, triggers } = self.facts.lacking.as_ref()?;
        if log.is_empty() {
            return Some(Means::Log { slot: slot_name(&self.facts.id) });
        }
        // The golden copy takes as much on the same disk.
        let budget = self.facts.source.as_ref()?.bytes.clamp(LEAST_BUDGET, MOST_BUDGET);
        triggers.is_empty().then_some(Means::Triggers { budget })
    }

    /// A backup, and its proof.
    fn anchor(&mut self, names: &Names, from: Option<String>) {
        let folder = self.dirs.backups(self.settings).join(&self.facts.id);
        let size = self.facts.source.as_ref().map(size_words);
        let data = from.as_ref().and(self.settings.data.as_ref()).and_then(Data::source);
        let mask = data.and_then(|data| data.mask.clone());
        let empty = data.map(|data| data.empty.clone()).unwrap_or_default();
        let own = from.is_none();
        self.add_with("backup", Phase::Backup, Backup { folder: folder.clone(), from, empty, mask }, size);
        self.add("prove", Phase::Prove, Proof { folder: folder.clone(), golden: names.golden.clone() });
        // What staging is made from is production's, and kept there.
        if own {
            self.upload(folder);
        }
    }

    /// Copies a proved backup into the store, where there is one.
    fn upload(&mut self, folder: PathBuf) {
        if self.settings.backup.store.is_some() {
            self.add("prove.store", Phase::Prove, Upload { folder });
        }
    }

    fn start(&mut self) {
        let port = port_of(self.settings, self.slot);
        let artifact = self.dirs.artifact(&self.facts.commit.hash);
        let folder = self.dirs.slot(&self.settings.environment, self.slot, &self.facts.id);
        let app = folder.join(&self.facts.prefix);
        let start = StartSlot {
            release: self.facts.id.clone(),
            slot: self.slot,
            port,
            artifact,
            folder,
            app: app.clone(),
            command: self.settings.run.command.clone(),
            ready: self.settings.run.ready.clone(),
            stop_within: self.settings.run.stop_within,
        };
        self.add("start", Phase::Start, start);
        let checks = self.settings.checks.clone();
        if !checks.is_empty() {
            self.add("start.checks", Phase::Start, Checks { port, app, checks });
        }
        let connect = Connect {
            environment: self.settings.environment.clone(),
            listen: self.settings.listen,
            slot: self.slot,
            port,
            live: self.live(),
        };
        self.add("start.proxy", Phase::Start, connect);
    }

    fn traffic(&mut self) {
        let first = self.facts.live.is_none();
        // Without a release to compare with or to go back to, shares below the whole would be refused requests.
        let whole = [RolloutStep { share: Percent::FULL, bake: Duration::ZERO }];
        let steps = if first { &whole[..] } else { &self.settings.rollout.steps };
        let gate = self.settings.gate;
        let environment = &self.settings.environment;
        let live = self.live();
        for step in steps.iter().copied() {
            let shift = Shift {
                environment: environment.clone(),
                slot: self.slot,
                share: step.share,
                bake: step.bake,
                gate,
                live,
            };
            self.add(format!("shift.{}", step.share), Phase::Shift, shift);
        }
        let length = if first { Duration::ZERO } else { self.settings.rollout.watch };
        if !length.is_zero() {
            let watch = Watch { environment: environment.clone(), slot: self.slot, length, gate, live };
            self.add("watch", Phase::Watch, watch);
        }
    }

    fn settle(&mut self) {
        let names = Names::of(self.settings, &self.facts.id);
        if let Some(live) = &self.facts.live {
            let stop = StopSlot {
                environment: self.settings.environment.clone(),
                release: live.release.clone(),
                slot: live.start.slot,
                folder: live.start.folder.clone(),
                stop_within: live.start.stop_within,
            };
            self.add("settle.stop", Phase::Settle, stop);
        }
        if self.settings.database.is_some() {
            self.database_settled(names);
        }
        let keep = self.settings.backup.retention.keep;
        self.add(
            "settle.builds",
            Phase::Settle,
            Tidy { builds: self.dirs.builds(), logs: self.dirs.all_logs(), keep },
        );
    }

    /// Drops what the anchor and the migration needed, and backups that are too old.
    fn database_settled(&mut self, names: Names) {
        if let Some(by) = self.means() {
            self.add("settle.capture", Phase::Settle, EndCapture { by });
        }
        let mut drop = vec![names.golden];
        if self.settings.data.is_some() {
            drop.push(names.replaced);
        }
        self.anchor_settled(drop);
    }

    /// Drops these databases, and backups that are too old.
    fn anchor_settled(&mut self, names: Vec<String>) {
        self.add("settle.copies", Phase::Settle, DropCopies { names });
        let folder = self.dirs.backups(self.settings);
        let prune = Prune { folder, retention: self.settings.backup.retention };
        self.add("settle.backups", Phase::Settle, prune);
    }

    /// Returns the plan with these steps; nothing is remarked, and a fault undoes it.
    fn plan(self, job: Job) -> Plan {
        Plan {
            id: self.facts.id.clone(),
            job,
            app: self.settings.app.clone(),
            environment: self.settings.environment.clone(),
            protected: self.settings.protected,
            commit: self.facts.commit.clone(),
            live: self.facts.live.clone(),
            slot: self.slot,
            stay: false,
            steps: self.steps,
            remarks: Vec::new(),
        }
    }
}

fn clone_data(names: &Names) -> CloneData {
    CloneData { golden: names.golden.clone(), fresh: names.fresh.clone(), replaced: names.replaced.clone() }
}

fn size_words(source: &Source) -> String {
    let tables = match source.tables {
        1 => "1 table".to_owned(),
        count => format!("{count} tables"),
    };
    let rows = match source.estimated_rows {
        0 => String::new(),
        rows => format!(" with about {} rows", words::count(rows)),
    };
    format!("{tables}{rows}, {}", words::bytes(source.bytes))
}

fn pending_words(pending: &[String], tool: &Tool) -> String {
    match pending.join(", ") {
        none if none.is_empty() => "none is pending".into(),
        all if tool.has_all_files() => all,
        own => format!("{own}, and what packages bring"),
    }
}

/// The names of the databases that a release makes; each ends with the release's identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The restored backup.
    pub golden: String,
    /// The copy that the migration is tried on.
    pub rehearsal: String,
    /// Staging's next database, before it takes its name.
    pub fresh: String,
    /// What the replaced database is called.
    pub replaced: String,
}

impl Names {
    /// Names a release's databases.
    pub fn of(settings: &Settings, release: &str) -> Self {
        let id = short_id(release).to_ascii_lowercase();
        let safe = |text: &str| -> String {
            let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
            text.chars().map(plain).collect()
        };
        // PostgreSQL cuts names at 63 bytes without a word: the identifier must survive, the app's name may be cut.
        let app: String = safe(&settings.app).chars().take(20).collect();
        let environment: String = safe(&settings.environment).chars().take(12).collect();
        let name = |what: &str| format!("piton_{app}_{environment}_{what}_{id}");
        Self { golden: name("golden"), rehearsal: name("copy"), fresh: name("fresh"), replaced: name("old") }
    }
}
