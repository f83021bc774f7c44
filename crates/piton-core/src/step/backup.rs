use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use piton_db::backup::{self, Beside, DumpOptions};
use piton_db::identity::{self, Purpose};
use piton_db::manifest::{self, MadeFor, Manifest, Proved, Uncommitted};
use piton_db::mask::{MaskKey, Problem};
use piton_db::neutral::Neutralised;
use piton_db::prove::{self, Difference, Owners};
use piton_db::tools::Tools;
use piton_db::versions::OtherVersion;
use piton_db::{Database, DbError, Progress, Report, locate};
use piton_exec::{Command, local};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Act, Ctx, Site, Step, Words, World, disk, without_secrets};
use crate::config::{Data, MaskFile};
use crate::fault::{Fault, Kind, OrFault};
use crate::files;
use crate::plan::Job;

/// How many tables are dumped and restored at once.
const JOBS: u32 = 2;

/// Dumps the database at one snapshot, with a manifest of what the dump holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backup {
    /// Where the backup lies.
    pub folder: PathBuf,
    /// The environment whose database is dumped, when it is not the release's own.
    pub from: Option<String>,
    /// Tables of which it holds no row; none in a backup.
    #[serde(default)]
    pub empty: BTreeSet<String>,
    /// How people's data are masked in it; `None` in a backup.
    #[serde(default)]
    pub mask: Option<MaskFile>,
}

/// Restores the backup into a new database, the golden copy, and compares both row by row and object by object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Where the backup lies.
    pub folder: PathBuf,
    /// The golden copy's name.
    pub golden: String,
}

fn made_for(ctx: &Ctx<'_, '_>, from: Option<&String>) -> MadeFor {
    MadeFor {
        app: ctx.plan.app.clone(),
        environment: ctx.plan.environment.clone(),
        release: ctx.plan.id.clone(),
        commit: ctx.plan.commit.hash.clone(),
        serving: ctx.world.backed_up_commit.clone(),
        from: from.cloned(),
    }
}

/// A copy that may take the original's place keeps its owners; one for another environment belongs to that one's user.
fn owners(of_another: bool) -> Owners {
    if of_another { Owners::Restorer } else { Owners::Kept }
}

fn named(program: &str) -> Tools {
    Tools { pg_dump: "pg_dump".into(), pg_restore: "pg_restore".into(), version: program.into(), major: 0 }
}

pub(super) fn say(ctx: &Ctx<'_, '_>, progress: &Progress) {
    ctx.say(&format!("{} of {} · {}", progress.done, progress.total, progress.what));
}

/// Shows how far the work is, and journals the programs that ran for it.
pub(super) struct Reports<'a, 'c, 'w> {
    ctx: &'a Ctx<'c, 'w>,
    /// Why the journal could not be written.
    unwritten: RefCell<Option<Fault>>,
}

impl<'a, 'c, 'w> Reports<'a, 'c, 'w> {
    pub(super) fn new(ctx: &'a Ctx<'c, 'w>) -> Self {
        Self { ctx, unwritten: RefCell::new(None) }
    }

    pub(super) fn take(&self, report: Report) {
        match report {
            Report::Progress(progress) => say(self.ctx, &progress),
            Report::Said(line) => self.ctx.say(&line),
            Report::Ran(ran) => {
                if let Err(fault) = self.ctx.ran(ran) {
                    self.unwritten.borrow_mut().get_or_insert(fault);
                }
            }
        }
    }

    pub(super) fn all_written(&self) -> Result<(), Fault> {
        self.unwritten.take().map_or(Ok(()), Err)
    }
}

/// Returns the identifier of a backup, after which its folder is named.
pub(super) fn id(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Names the command that goes on, or does it anew, once the surroundings let it.
pub(super) fn way_on(ctx: &Ctx<'_, '_>, folder: &Path) -> String {
    let environment = &ctx.plan.environment;
    match ctx.plan.job {
        Job::Backup => format!("piton backup {environment}"),
        Job::Proof => {
            format!("piton prove {environment} {}", id(folder))
        }
        Job::Release | Job::Restore | Job::Clone | Job::Rollback => format!("piton resume {environment}"),
    }
}

impl Backup {
    fn failed(&self, ctx: &Ctx<'_, '_>, error: &dyn std::error::Error) -> Fault {
        let fault = without_secrets(ctx, Fault::surroundings("the backup failed").caused_by(error));
        let way_on = way_on(ctx, &self.folder);
        let hint = match disk::says_full(&fault.why.join(" ")) {
            true => disk::mend(&ctx.settings().backup.to, &way_on),
            false => format!("mend it, then {way_on}"),
        };
        fault.hint(hint)
    }

    fn source(&self, ctx: &Ctx<'_, '_>) -> Result<Database, Fault> {
        super::database_of(ctx.world.from.as_ref().unwrap_or(&ctx.world.settings))
    }
}

impl Act for Backup {
    fn words(&self, site: &Site<'_>) -> Words {
        let source = site.from.unwrap_or(site.settings);
        let below = &site.settings.backup.to;
        let folder = below.strip_prefix(&site.settings.root).unwrap_or(below);
        let masked = self
            .mask
            .as_ref()
            .map_or_else(String::new, |mask| format!(", masked by {}", mask.file.display()));
        let empty: Vec<&str> = self.empty.iter().map(String::as_str).collect();
        let without = if empty.is_empty() {
            String::new()
        } else {
            format!(" without the rows of {}", empty.join(", "))
        };
        let does = format!("{}'s database{without} into {}{masked}", source.environment, folder.display());
        let words = Words::new(does, "an unfinished one is removed, a whole one is kept");
        let Ok(database) = super::database_of(source) else { return words };
        let options = DumpOptions { jobs: JOBS, ..DumpOptions::default() };
        let for_another = self.from.is_some();
        let tools = named("dump");
        words.with([backup::dump_command(&tools, &database, &self.folder, "SNAPSHOT", for_another, &options)])
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let source = self.source(ctx)?;
        is_as_configured(ctx)?;
        let mask = match &self.mask {
            Some(mask) => Some((mask.mask.clone(), mask_key(ctx)?)),
            None => None,
        };
        let beside = if self.from.is_some() { Beside::default() } else { beside(ctx).await? };
        let empty = self.empty.clone();
        let whole = super::capture::captured(ctx).map(|captured| captured.whole).unwrap_or_default();
        let options = DumpOptions { jobs: JOBS, empty, mask, whole, beside, ..DumpOptions::default() };
        if let Some(parent) = self.folder.parent() {
            // The environment's own folder: the one above may be anything, such as a person's home.
            files::private_folder(parent).map_err(|error| self.failed(ctx, &error))?;
        }
        let reports = Reports::new(ctx);
        let mut take = |report| reports.take(report);
        let dumped =
            backup::dump(&source, &self.folder, &made_for(ctx, self.from.as_ref()), options, &mut take).await;
        reports.all_written()?;
        let manifest = dumped.map_err(|error| match &error {
            DbError::Mask { problems } => {
                unmasked(&ctx.plan.environment, ctx.plan.job, self.mask.as_ref(), problems)
            }
            _ => self.failed(ctx, &error),
        })?;
        Ok(json!({
            "folder": self.folder,
            "snapshot_at": manifest.snapshot_at,
            "tables": manifest.tables.len(),
            "rows": manifest.total_rows(),
            "bytes": manifest.total_bytes(),
            "files": manifest.archives.iter().map(|archive| archive.files).sum::<u64>(),
            "untracked": manifest.uncommitted.map_or(0, |uncommitted| uncommitted.untracked),
            "left_out": manifest.archives.iter().flat_map(|archive| &archive.left_out).collect::<Vec<_>>(),
        }))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        match Manifest::read(&self.folder) {
            Ok(_) => Ok(json!({ "kept": self.folder })),
            // A whole backup whose manifest was damaged is evidence, not a leftover.
            Err(DbError::BadManifest { .. }) => Ok(json!({ "kept": self.folder, "damaged": true })),
            Err(DbError::NoManifest { .. }) => {
                backup::discard(&self.folder)
                    .await
                    .or_fault(|| "the unfinished backup cannot be removed".into())?;
                Ok(Value::Null)
            }
            Err(error) => Err(Fault::surroundings("the backup cannot be read").caused_by(&error)),
        }
    }
}

/// Wants what the plan masks and leaves empty to be what piton.toml and the mask say today: who has tightened them means it.
pub(super) fn is_as_configured(ctx: &Ctx<'_, '_>) -> Result<(), Fault> {
    let planned = ctx.plan.steps.iter().find_map(|planned| match &planned.step {
        Step::Backup(backup) if backup.from.is_some() => Some(backup),
        _ => None,
    });
    let Some(planned) = planned else { return Ok(()) };
    let rules = |mask: &Option<MaskFile>| mask.as_ref().map(|mask| mask.mask.clone());
    let today = ctx.settings().data.as_ref().and_then(Data::source);
    if today.is_some_and(|today| {
        Some(&today.environment) == planned.from.as_ref()
            && rules(&today.mask) == rules(&planned.mask)
            && today.empty == planned.empty
    }) {
        return Ok(());
    }
    let (environment, anew) = (&ctx.plan.environment, ctx.plan.job.command());
    Err(Fault::surroundings("what is masked or left empty was changed since this began")
        .because("this run would copy what the mask before it let through")
        .hint(format!(
            "piton abort {environment}, then piton {anew} {environment} begins with what is written now"
        )))
}

/// Returns the key by which stand-ins are made; the first use makes one.
fn mask_key(ctx: &Ctx<'_, '_>) -> Result<MaskKey, Fault> {
    let file = ctx.world.dirs.mask_key();
    let key = files::secret_key(&file)
        .or_fault(|| format!("the key of the masks, {}, cannot be read", file.display()));
    key.map(MaskKey::new).map_err(|fault| {
        let remove = Command::new("rm").arg(file.display().to_string());
        fault.hint(format!("put it back from a copy, or {remove}: the next one makes other stand-ins for all; then piton resume {}", ctx.plan.environment))
    })
}

/// In how many things a copy's differences are told.
const TOLD: usize = 10;

impl Proof {
    /// Says in what the restored copy differs, of tables in which rows.
    async fn differs(
        &self,
        ctx: &Ctx<'_, '_>,
        manifest: &Manifest,
        golden: &Database,
        differences: &[Difference],
    ) -> Fault {
        let mut fault = Fault::release("the restored copy differs from the backup");
        for difference in differences.iter().take(TOLD) {
            fault = fault.because(difference.to_string());
            if let Difference::Rows { table, dumped: Some(_), restored: Some(_) } = difference {
                ctx.say(&format!("looking for the rows in which {table} differs"));
                let (folder, manifest) = (self.folder.clone(), manifest.clone());
                let (golden, table) = (golden.clone(), table.clone());
                let located = files::read_in_background(move || {
                    let here = tokio::runtime::Handle::current();
                    here.block_on(locate::rows(&folder, &manifest, &golden, &table))
                })
                .await;
                fault = fault.because(located.map_or_else(
                    |error| format!("  which rows cannot be told: {error}"),
                    |located| format!("  {located}"),
                ));
            }
        }
        if let more @ 1.. = differences.len().saturating_sub(TOLD) {
            fault = fault.because(format!("and {more} more"));
        }
        let source = ctx.world.from.as_ref().unwrap_or(ctx.settings());
        fault.hint(format!(
            "change in {}'s database what does not come back as it was; then {} takes a new one",
            source.environment,
            anew(ctx)
        ))
    }

    /// Reads the archives back, and wants every file to be what it was.
    async fn prove_files(&self, ctx: &Ctx<'_, '_>, manifest: &Manifest) -> Result<(), Fault> {
        for archive in manifest.archives.clone() {
            ctx.say(&archive.file);
            let folder = self.folder.clone();
            files::read_in_background(move || archive.prove(&folder)).await.map_err(|error| match error {
                DbError::BadDump { .. } => Fault::release("a packed file differs from what was packed")
                    .caused_by(&error)
                    .hint(format!(
                        "look at the disk below {}; {} takes a new one",
                        self.folder.display(),
                        anew(ctx)
                    )),
                _ => Fault::surroundings("the backup's files cannot be read").caused_by(&error),
            })?;
        }
        Ok(())
    }

    /// Takes back what an earlier proof has left.
    fn is_not_proved(&self, fault: Fault) -> Fault {
        match Proved::remove(&self.folder) {
            Ok(()) => fault,
            Err(error) => fault.because(format!("and the proof before it cannot be taken back: {error}")),
        }
    }

    /// Takes it back in the store, too, where the same files do not come back either.
    async fn is_proved_nowhere(&self, ctx: &Ctx<'_, '_>, manifest: &Manifest, fault: Fault) -> Fault {
        let fault = self.is_not_proved(fault);
        // What was just taken is not there yet, and of another environment's data nothing ever is.
        let is_there = matches!(ctx.plan.job, Job::Proof | Job::Restore | Job::Rollback)
            && manifest.made_for.from.is_none();
        let taken_back = match super::store_of(ctx.settings()) {
            Ok(Some(store)) if is_there => {
                store.not_proved(&id(&self.folder)).await.map_err(|error| error.to_string())
            }
            Err(unusable) if is_there => Err(unusable.why.join(": ")),
            _ => Ok(()),
        };
        match taken_back {
            Ok(()) => fault,
            Err(why) => fault.because(format!("and the proof before it stays in the store: {why}")),
        }
    }

    /// Leaves beside the backup when and where it was proved: a later look need not have this journal.
    async fn record(
        &self,
        manifest: &Manifest,
        golden: &Database,
        proof: &prove::Proof,
    ) -> Result<(), Fault> {
        let unreadable = || format!("{golden} cannot be read");
        let client = golden.connect().await.or_fault(unreadable)?;
        let server = identity::identity(&client).await.or_fault(unreadable)?;
        let unwritten = || format!("{} cannot be written to", self.folder.display());
        let proved = Proved {
            manifest: manifest.hash().or_fault(unwritten)?,
            at: Timestamp::now(),
            system_identifier: server.system_identifier,
            server_version_num: server.server_version_num,
            tables: proof.tables,
            rows: proof.rows,
            objects: proof.objects,
        };
        proved.write(&self.folder).or_fault(unwritten)
    }
}

/// Says that a database with pg_cron cannot be released, or go back; `again` is what was wanted.
pub(super) fn has_cron(environment: &str, again: &str) -> Fault {
    Fault::release(format!("{environment}'s scheduled jobs would be lost on the way back"))
        .because("the database has pg_cron, which only the one that cron.database_name names can have: no copy of it can")
        .hint(format!(
            "let another database have it: set cron.database_name = 'postgres', restart the server, create extension pg_cron in \
             postgres, and schedule the jobs there by cron.schedule_in_database; drop extension pg_cron in {environment}'s \
             database; then {again}"
        ))
}

/// A copy that the database may go back to has all its extensions, in the same versions: an update would come along unasked.
fn may_take_its_place(ctx: &Ctx<'_, '_>, proof: &prove::Proof) -> Result<(), Fault> {
    let environment = &ctx.plan.environment;
    if proof.without_cron {
        return Err(has_cron(environment, &format!("piton deploy {environment}")));
    }
    let extensions: Vec<&OtherVersion> = proof.versions.iter().filter(|other| other.is_extension()).collect();
    if extensions.is_empty() {
        return Ok(());
    }
    let mut fault = Fault::release(format!("{environment}'s extensions cannot be restored as they are"))
        .because("that is done in the schemas public and pg_catalog, where the server has the version");
    fault.why.extend(extensions.iter().map(|other| format!("in the restored copy, {other}")));
    let updates: Vec<String> =
        extensions.iter().map(|other| format!("alter {} update", other.what)).collect();
    Err(fault.hint(format!(
        "psql, on {environment}'s database: {}; then piton deploy {environment}",
        updates.join("; ")
    )))
}

/// Reads what is not committed in the folder that releases are made from; secrets are left out, for it is not encrypted.
async fn uncommitted(world: &World) -> Result<Option<(Uncommitted, Vec<u8>)>, Fault> {
    let cannot = || "git cannot tell what is not committed".to_owned();
    let settings = &world.settings;
    let root = settings.root.display().to_string();
    let git = |args: &[&str]| Command::new("git").args(["-C", &root]).args(args.iter().copied());
    let said = local::run(&git(&["rev-parse", "--show-toplevel", "HEAD"])).await.or_fault(cannot)?;
    let (top, commit) = said.stdout.trim_end().rsplit_once('\n').unwrap_or_default();
    let secret = but_for(&world.env_files(), Path::new(top));
    // As `git apply` takes it, whatever a person has set for their own eyes.
    let options = [
        "diff",
        "--binary",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
        "--src-prefix=a/",
        "--dst-prefix=b/",
        "HEAD",
        "--",
        ":/",
    ];
    let diff = local::read(&git(&options).args(&secret)).await.or_fault(cannot)?;
    let options = ["ls-files", "--others", "--exclude-standard", "-z", "--", ":/"];
    let packed = but_for(&settings.backup.files, Path::new(top));
    let names = local::read(&git(&options).args(&secret).args(&packed)).await.or_fault(cannot)?;
    let untracked = names.iter().filter(|byte| **byte == 0).count() as u64;
    let what = Uncommitted { commit: commit.to_owned(), untracked };
    Ok((untracked > 0 || !diff.is_empty()).then_some((what, diff)))
}

/// Names to git what of these files and folders is in its folder, to be left out.
fn but_for(paths: &[PathBuf], top: &Path) -> Vec<String> {
    let names = |path: &PathBuf| {
        // A link is left out, and so is what it leads to.
        let link = path.parent().zip(path.file_name()).map(|(above, name)| files::real(above).join(name));
        link.into_iter().chain([files::real(path)])
    };
    let below = |path: PathBuf| Some(path.strip_prefix(top).ok()?.display().to_string());
    let names = paths.iter().flat_map(names).filter_map(below).filter(|name| !name.is_empty());
    names.map(|name| format!(":(top,exclude,literal){name}")).collect()
}

/// Names what belongs to a backup besides the database.
async fn beside(ctx: &Ctx<'_, '_>) -> Result<Beside, Fault> {
    let settings = ctx.settings();
    let secret_files = settings.env_file.iter().filter(|_| !settings.backup.recipients.is_empty());
    Ok(Beside {
        files: settings.backup.files.clone(),
        secret_files: secret_files.cloned().collect(),
        recipients: settings.backup.recipients.clone(),
        uncommitted: uncommitted(ctx.world).await?,
    })
}

/// Refuses to copy people's data of which nobody has said what becomes of them.
pub(super) fn unmasked(environment: &str, job: Job, mask: Option<&MaskFile>, problems: &[Problem]) -> Fault {
    let of_mask = |problem: &Problem| !matches!(problem, Problem::NothingToEmpty(_));
    let mask = mask.filter(|_| problems.iter().any(of_mask));
    let file = mask.map_or(Path::new("piton.toml"), |mask| &mask.file).display();
    let mut fault = Fault::release(match mask {
        Some(_) => format!("{file} does not say what becomes of all people's data"),
        None => format!("{file} leaves out of {environment}'s data what is not there"),
    });
    let line = |problem: &Problem| problem.line(&mask?.mask);
    for problem in problems.iter().take(MOST_PROBLEMS) {
        let line = line(problem).map_or_else(String::new, |line| format!("; {line}"));
        fault = fault.because(format!("{problem}{line}"));
    }
    if let more @ 1.. = problems.len().saturating_sub(MOST_PROBLEMS) {
        fault = fault.because(format!("and {more} more"));
    }
    let mend = if problems.iter().any(|problem| line(problem).is_some()) {
        format!(
            "write into {file} what is missing, for each column the kind that fits: keep, null, blank, email, name, digits, text, json or year"
        )
    } else {
        format!("change or remove in {file} what does not fit")
    };
    fault.hint(format!("{mend}; then piton {} {environment}", job.command()))
}

/// How many of a mask's problems are told at once.
const MOST_PROBLEMS: usize = 40;

/// Names the command that takes a backup anew.
fn anew(ctx: &Ctx<'_, '_>) -> String {
    let job = ctx.plan.job;
    let anew = if job.takes_data() { job } else { Job::Backup };
    format!("piton {} {}", anew.command(), ctx.plan.environment)
}

fn altered(ctx: &Ctx<'_, '_>, folder: &Path) -> Fault {
    let environment = &ctx.plan.environment;
    let other = match &ctx.settings().backup.store {
        Some(store) => {
            let id = id(folder);
            format!(
                "; with this folder moved away, piton prove {environment} {id} fetches it from {store}, if it is there"
            )
        }
        None => String::new(),
    };
    // Whoever restores may have nothing left to take a new one of.
    let next = match ctx.plan.job {
        Job::Restore => {
            format!("piton backups {environment} lists those that are proved; restore the latest of them")
        }
        Job::Rollback => {
            format!("piton backups {environment} lists those that are proved; go back to one of them")
        }
        _ => format!("{} takes a new one", anew(ctx)),
    };
    Fault::release("the backup was altered after it was made")
        .hint(format!("look who writes to {}; {next}{other}", folder.display()))
}

/// Rows that their mask has made wrong are wrong at every attempt.
fn not_restored(ctx: &Ctx<'_, '_>, folder: &Path, manifest: &Manifest, error: &DbError) -> Fault {
    let fault = without_secrets(ctx, Fault::surroundings("the backup cannot be restored").caused_by(error));
    let mask = ctx.settings().data.as_ref().and_then(Data::source).and_then(|data| data.mask.as_ref());
    match mask.filter(|_| manifest.mask.is_some() && error.is_of_rows()) {
        None => fault.hint(format!("mend it, then {}", way_on(ctx, folder))),
        Some(mask) => Fault {
            kind: Kind::Release,
            what: "the masked rows break a constraint, or do not fit their column".into(),
            ..fault
        }
        .hint(format!(
            "give that column another kind in {}: columns that refer to each other the same one, unique columns one that keeps values \
             apart (email; name of 12 characters or more; digits from six on; keep); then piton {} {}",
            mask.file.display(),
            if ctx.plan.job.takes_data() { ctx.plan.job } else { Job::Clone }.command(),
            ctx.plan.environment
        )),
    }
}

impl Act for Proof {
    fn words(&self, site: &Site<'_>) -> Words {
        let does = "restore it as the golden copy, compare every row and object";
        let words = Words::new(does, "drop the golden copy");
        let Ok(database) = super::database_of(site.settings) else { return words };
        let golden = database.with_name(&self.golden);
        // What reaches out is left out for another environment.
        let list = site.from.map(|_| Path::new("LIST"));
        words.with([prove::restore_command(
            &named("restore"),
            &golden,
            &self.folder,
            list,
            owners(site.from.is_some()),
            JOBS,
        )])
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        is_as_configured(ctx)?;
        let manifest =
            Manifest::read(&self.folder).map_err(|error| altered(ctx, &self.folder).caused_by(&error))?;
        let folder = self.folder.clone();
        let damage = files::read_in_background(move || manifest::verify_files(&folder))
            .await
            .or_fault(|| "the backup's files cannot be read".into())?;
        if !damage.is_empty() {
            let mut fault = altered(ctx, &self.folder);
            fault.why = damage.iter().map(ToString::to_string).collect();
            return Err(self.is_not_proved(fault));
        }
        let golden = super::database_of(ctx.settings())?.with_name(&self.golden);
        let label = super::label(ctx, Purpose::Golden);
        let owners = owners(manifest.made_for.from.is_some());
        let reports = Reports::new(ctx);
        let mut take = |report| reports.take(report);
        let restored = prove::restore(&self.folder, &golden, &label, owners, JOBS, &mut take).await;
        reports.all_written()?;
        if let Err(error) = restored {
            let fault = not_restored(ctx, &self.folder, &manifest, &error);
            // What else keeps it from being restored may pass.
            let refused = error.is_of_rows();
            return Err(if refused { self.is_proved_nowhere(ctx, &manifest, fault).await } else { fault });
        }
        if let Err(fault) = self.prove_files(ctx, &manifest).await {
            let differs = fault.kind == Kind::Release;
            return Err(if differs { self.is_proved_nowhere(ctx, &manifest, fault).await } else { fault });
        }
        let proof = prove::compare(&manifest, &golden, owners, &mut |progress| say(ctx, &progress))
            .await
            .map_err(|error| {
                Fault::surroundings("the restored copy cannot be compared")
                    .caused_by(&error)
                    .hint(format!("mend it, then {}", way_on(ctx, &self.folder)))
            })?;
        if !proof.is_equal() {
            let fault = self.differs(ctx, &manifest, &golden, &proof.differences).await;
            return Err(self.is_proved_nowhere(ctx, &manifest, fault).await);
        }
        self.record(&manifest, &golden, &proof).await?;
        if ctx.plan.job == Job::Release && owners == Owners::Kept {
            may_take_its_place(ctx, &proof)?;
        }
        // The release that a copy is the way back of has its log tell whole rows still.
        if ctx.plan.job != Job::Release {
            piton_db::capture::tell_whole(&golden, &manifest.whole, false)
                .await
                .or_fault(|| "the restored copy's log cannot be made to tell as little as before".into())?;
        }
        let versions: Vec<String> = proof.versions.iter().map(ToString::to_string).collect();
        let mut outcome = json!({
            "tables": proof.tables,
            "rows": proof.rows,
            "objects": proof.objects,
            "versions": versions,
            "without_cron": proof.without_cron,
        });
        if owners == Owners::Restorer {
            outcome["neutralised"] = json!(Neutralised::of(&manifest));
        }
        Ok(outcome)
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        super::drop_copy(ctx, &self.golden).await
    }
}
