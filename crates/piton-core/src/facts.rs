//! What a plan is made from, besides the settings: looked up once, before anything is decided.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use piton_db::capture::{self, Missing, triggers};
use piton_db::identity::{self, MarkState};
use piton_db::migrate::{self, Migration, Tool};
use piton_exec::{Command, local};

use crate::config::{Check, Data, FILE_NAME, Settings};
use crate::dirs::Dirs;
use crate::fault::{Fault, OrFault};
use crate::journal::{Journal, Outcome, State};
use crate::lint::{self, Found};
use crate::look::OfCommit;
use crate::plan::{Commit, Live};
use crate::step::{self, Step};
use crate::words;

/// What was found before a plan was made.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The new release's identifier.
    pub id: String,
    /// When the facts were gathered.
    pub now: Timestamp,
    /// The machine's time zone, in which times are written for people.
    pub zone: TimeZone,
    /// The commit to release.
    pub commit: Commit,
    /// Where in the repository `piton.toml` lies.
    pub prefix: PathBuf,
    /// Whether files differ from the last commit; they are not released.
    pub uncommitted: bool,
    /// Whether the configuration in the folder, which is the one that counts, differs from the commit's.
    pub other_config: bool,
    /// What serves now.
    pub live: Option<Live>,
    /// Whether the database exists and has no mark yet.
    pub unmarked: bool,
    /// The database that is backed up, when it can be asked: the environment's own, or the one that its data come from.
    pub source: Option<Source>,
    /// The commit's migrations that the source has not applied, when that can be told.
    pub pending: Option<Vec<String>>,
    /// What these migrations' text warns of.
    pub warnings: Vec<String>,
    /// What the database's server lacks for carrying later writes back through a migration; `None` where no migration of the
    /// environment's own database may be pending, or it cannot be asked.
    pub lacking: Option<Lacking>,
    /// What earlier migrations that went back had no place for, in files that wait to be loaded.
    pub rescued: Vec<PathBuf>,
}

/// What keeps later writes from being come by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// What keeps the server's log from being read; nothing, where it can be.
    pub log: Vec<Missing>,
    /// What keeps triggers from noting them; not looked for where the log can be read.
    pub triggers: Vec<Missing>,
}

/// The measures of the database that is backed up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Bytes on disk.
    pub bytes: u64,
    /// The planner's estimate of all rows; 0 before the first ANALYZE.
    pub estimated_rows: u64,
    /// How many tables there are.
    pub tables: usize,
}

impl Facts {
    /// Gathers the facts for a release of `reference` (a commit, tag or branch); `from` is the environment that the data
    /// come from, when there is one.
    ///
    /// # Errors
    /// A refusal when there is no such commit or no git repository, or when the journal is damaged.
    pub async fn gather(
        settings: &Settings,
        from: Option<&Settings>,
        journal: &Journal,
        reference: &str,
    ) -> Result<Self, Fault> {
        let root = &settings.root;
        let prefix = git(root, &["rev-parse", "--show-prefix"]).await.map_err(|fault| {
            fault.hint(format!("a release is a commit: git init {} and commit", root.display()))
        })?;
        let commit = format!("{reference}^{{commit}}");
        let hash = git(root, &["rev-parse", "--verify", "--quiet", "--end-of-options", &commit])
            .await
            .map_err(|_| {
                Fault::refused(format!("there is no commit `{reference}`")).hint(match reference {
                    "HEAD" => "a release is a commit: git add and git commit make the first",
                    _ => "git log --oneline shows what there is; git fetch brings what others pushed",
                })
            })?;
        let subject = git(root, &["log", "-1", "--format=%s", &hash]).await?;
        let config = git(root, &["diff", "--name-only", &hash, "--", FILE_NAME]).await?;
        // The configuration has a remark of its own.
        let others = format!(":(exclude){FILE_NAME}");
        let changes =
            git(root, &["status", "--porcelain", "--untracked-files=no", "--", ":/", &others]).await?;
        let source = from.unwrap_or(settings);
        let (pending, mut warnings) = match pending(settings, source, &hash).await {
            Ok(None) => (None, Vec::new()),
            Ok(Some(pending)) => {
                let found = lint::look(settings, &pending);
                let warnings = found.iter().filter(|found| !found.refuses()).map(Found::words);
                let warnings = warnings.chain(pending.only_recorded()).collect();
                (pending.told(), warnings)
            }
            Err(fault) => (None, vec![not_looked_at(&fault)]),
        };
        if pending.as_ref().is_none_or(|names| !names.is_empty()) {
            warnings.extend(lint::blind(settings).map(str::to_owned));
        }
        let may_migrate = settings.data.is_none()
            && settings.database.as_ref().is_some_and(|database| database.migrations.is_some())
            && pending.as_ref().is_none_or(|names| !names.is_empty());
        Ok(Self {
            source: measure(source).await,
            rescued: if may_migrate {
                step::waiting(&Dirs::new(root).rescued(&settings.environment))
            } else {
                Vec::new()
            },
            lacking: if may_migrate { lacking(settings).await } else { None },
            pending,
            warnings,
            id: ulid::Ulid::generate().to_string(),
            now: Timestamp::now(),
            zone: TimeZone::system(),
            commit: Commit { hash, subject },
            prefix: PathBuf::from(prefix),
            uncommitted: !changes.is_empty(),
            other_config: !config.is_empty(),
            live: live(journal, &settings.environment)?,
            unmarked: unmarked(settings).await,
        })
    }

    /// Gathers the facts for a run that brings no commit: what serves is named in what it makes, or else the last commit.
    ///
    /// # Errors
    /// As [`Facts::gather`].
    pub async fn gather_for_order(
        settings: &Settings,
        from: Option<&Settings>,
        journal: &Journal,
    ) -> Result<Self, Fault> {
        let serving = live(journal, &settings.environment)?.map(|live| live.commit);
        let Some(commit) = serving else { return Self::gather(settings, from, journal, "HEAD").await };
        let here =
            git(&settings.root, &["cat-file", "-e", &format!("{}^{{commit}}", commit.hash)]).await.is_ok();
        let reference = if here { commit.hash.as_str() } else { "HEAD" };
        let facts = Self::gather(settings, from, journal, reference).await?;
        // What serves may be missing from a shallow clone, or after a history was rewritten: a backup is wanted all the same.
        Ok(Self { commit, ..facts })
    }
}

/// Returns the release that serves an environment: the last one that succeeded.
///
/// # Errors
/// When the journal is damaged.
pub fn live(journal: &Journal, environment: &str) -> Result<Option<Live>, Fault> {
    let releases = journal.releases(Some(environment)).or_fault(|| "the journal cannot be read".into())?;
    Ok(releases.iter().rev().find_map(live_of))
}

/// Returns the checks with which the release that serves an environment was started.
///
/// # Errors
/// When the journal is damaged.
pub(crate) fn checks_of_live(journal: &Journal, environment: &str) -> Result<Vec<Check>, Fault> {
    let releases = journal.releases(Some(environment)).or_fault(|| "the journal cannot be read".into())?;
    let Some(state) = releases.iter().rev().find(|state| live_of(state).is_some()) else {
        return Ok(Vec::new());
    };
    let checks = state.plan.steps.iter().find_map(|planned| match &planned.step {
        Step::Checks(checks) => Some(checks.checks.clone()),
        _ => None,
    });
    Ok(checks.unwrap_or_default())
}

fn live_of(state: &State) -> Option<Live> {
    let Some((Outcome::Succeeded, since)) = state.ended else { return None };
    let start = state.plan.start()?.clone();
    Some(Live { release: state.plan.id.clone(), commit: state.plan.commit.clone(), since, start })
}

/// Tells whether the database is there and unmarked; one that cannot be asked is left to the guard.
async fn unmarked(settings: &Settings) -> bool {
    let Some(Ok(database)) = settings.database.as_ref().map(|_| step::database_of(settings)) else {
        return false;
    };
    let Ok(client) = database.connect().await else { return false };
    matches!(
        identity::read_mark(&client, &database.dbname).await,
        Ok(MarkState::Unmarked | MarkState::Copied(_))
    )
}

/// Looks how the database's writes can be followed; one that cannot be asked is left to the guard.
async fn lacking(settings: &Settings) -> Option<Lacking> {
    let client = step::database_of(settings).ok()?.connect().await.ok()?;
    let log = capture::missing(&client).await.ok()?;
    let triggers = match log.is_empty() {
        true => Vec::new(),
        false => triggers::missing(&client).await.ok()?,
    };
    Some(Lacking { log, triggers })
}

/// Measures the database; one that cannot be asked is left to the guard.
async fn measure(settings: &Settings) -> Option<Source> {
    let database = settings.database.as_ref().and_then(|_| step::database_of(settings).ok())?;
    let measured = piton_db::facts::read(&*database.connect().await.ok()?).await.ok()?;
    Some(Source {
        bytes: measured.size,
        estimated_rows: measured.tables.iter().map(|table| table.estimated_rows).sum(),
        tables: measured.tables.len(),
    })
}

/// The commit's migrations that a database has not applied.
pub(crate) struct Pending {
    /// The commit's files.
    pub(crate) look: OfCommit,
    /// Their names, in the order in which they are applied.
    pub(crate) names: Vec<String>,
    /// What the database has of them and the commit has not, where a release goes on with that.
    missing: Vec<String>,
}

impl Pending {
    /// Returns the names, where they say whether anything is pending.
    pub(crate) fn told(self) -> Option<Vec<String>> {
        (self.look.migrations.tool.has_all_files() || !self.names.is_empty()).then_some(self.names)
    }

    /// Says what the database has and the commit has not: older code, or files that were squashed.
    fn only_recorded(&self) -> Option<String> {
        let names = words::some(&self.missing, 3);
        let told = format!("the database has migrations that this commit has not, and keeps them: {names}");
        (!self.missing.is_empty()).then_some(told)
    }
}

/// Looks which of the commit's migrations the source has not applied; `None` where no file tells.
///
/// # Errors
/// When files or record cannot be read.
pub(crate) async fn pending(
    settings: &Settings,
    source: &Settings,
    hash: &str,
) -> Result<Option<Pending>, Fault> {
    let migrations = settings.database.as_ref().and_then(|database| database.migrations.as_ref());
    let Some(migrations) = migrations else { return Ok(None) };
    if matches!(migrations.tool, Tool::Commands { .. }) {
        // Only the built commit's own program can tell.
        return Ok(None);
    }
    let database = step::database_of(source)?;
    let is_fresh = matches!(settings.data, Some(Data::Fresh { .. }));
    if is_fresh && piton_db::facts::exists(&database).await.is_ok_and(|exists| !exists) {
        // All of them, in a database that nobody waits for.
        return Ok(None);
    }
    let look = OfCommit::look(hash, &settings.root, migrations).await?;
    let known = look.migrations.status(&database).await;
    let known = known.or_fault(|| "how the migrations stand cannot be read".into())?;
    // The other tools refuse what a newer release has brought; what is left there was squashed.
    let is_missing = |known: &Migration| {
        !is_fresh && migrations.tool == Tool::Sql && known.state == migrate::State::Missing
    };
    let missing = known.iter().filter(|known| is_missing(known)).map(|known| known.name.clone()).collect();
    let names = known.into_iter().filter(|known| !known.is_applied()).map(|known| known.name).collect();
    Ok(Some(Pending { look, names, missing }))
}

fn not_looked_at(fault: &Fault) -> String {
    let why = fault.why.first().map_or_else(|| fault.what.clone(), |why| format!("{}: {why}", fault.what));
    format!("which migrations are pending is not known, and [lint] has not looked at any: {why}")
}

async fn git(root: &Path, args: &[&str]) -> Result<String, Fault> {
    let command = Command::new("git").args(["-C", &root.display().to_string()]).args(args.iter().copied());
    match local::run(&command).await {
        Ok(output) => Ok(output.stdout.trim().to_owned()),
        Err(error) => Err(Fault::refused("git could not tell about the commit").caused_by(&error)),
    }
}
