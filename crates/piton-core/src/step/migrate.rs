use std::cell::RefCell;
use std::time::Duration;

use piton_db::blockers::{self, Blocker, Wanted};
use piton_db::fingerprint::Structure;
use piton_db::migrate::{Applied, Around, MigrateOptions, MigrationError, Migrations, Recorded, Tool};
use piton_db::rehearsal::{Report as Rehearsal, Step};
use piton_db::replay;
use piton_db::{Database, DbError, Report, Trouble};
use piton_exec::{Command, EnvValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::backup::Reports;
use super::follow::Followed;
use super::rehearse::{Rehearsed, compared};
use super::reverse::{Begun, Reversal, Reversed};
use super::rewind::{Rewind, Swapping};
use super::{Act, Ctx, INHERITED, Site, WORK_MARK, Words, secret_values, without, write_line};
use crate::fault::{Fault, OrFault};

/// Applies the pending migrations to the environment's own database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Migrate {
    /// The migrations, as the build has them.
    #[serde(flatten)]
    pub migrations: Migrations,
    /// The golden copy, which is the way back.
    pub golden: String,
    /// What the replaced database is called after a rewind.
    pub replaced: String,
    /// False where another step puts the whole database back.
    pub undo: bool,
}

/// How long the migration waits for others that hold its tables, before it begins.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(30);

/// What the migration found before it changed anything.
#[derive(Clone, Serialize, Deserialize)]
struct Before {
    applied: Vec<Recorded>,
    /// Whether the database had a record of migrations at all.
    recorded: bool,
    /// What was begun last and may have left something; `None` when nothing was, empty when its name is not known.
    #[serde(default = "something")]
    begun: Option<String>,
    /// On the way back: what is known of the swap.
    #[serde(flatten)]
    swapping: Swapping,
    /// On the way back: what was begun to take the migration back in place.
    #[serde(default)]
    reversing: Option<Begun>,
}

/// What was begun, as a note says that does not say it.
#[expect(clippy::unnecessary_wraps, reason = "the default of a field that may be none")]
fn something() -> Option<String> {
    Some(String::new())
}

/// What came of applying, for the way back.
#[derive(Deserialize)]
pub(super) struct Outcome {
    pub(super) migrations: Vec<String>,
}

/// Writes what a person would type to apply the pending migrations to a database of the environment.
pub(super) fn command(site: &Site<'_>, migrations: &Migrations, name: Option<&str>) -> Option<Command> {
    match migrations.by_hand() {
        None => {
            // Each pending file in a transaction of its own.
            let file = migrations.folder.join("EACH.sql").display().to_string();
            site.psql(name, ["-v", "ON_ERROR_STOP=1", "-1", "-f", &file])
        }
        Some(command) => {
            let database = super::database_of(site.settings).ok()?;
            let database = name.map_or_else(|| database.clone(), |name| database.with_name(name));
            Some(command.secret_env("DATABASE_URL", database.url()))
        }
    }
}

/// Applies what is pending to a database, and tells of it; `unproved` on a copy, before the tool may touch the live one.
///
/// `may_begin` is asked as [`Migrations::apply`] says.
///
/// The outer error is the journal's.
pub(super) async fn apply(
    ctx: &Ctx<'_, '_>,
    migrations: &Migrations,
    database: &Database,
    unproved: bool,
    on_step: &mut dyn FnMut(&str),
    may_begin: impl AsyncFnMut(Option<&str>) -> Result<(), DbError>,
) -> Result<Result<Applied, DbError>, Fault> {
    let around = around(ctx, unproved);
    let log = ctx.open_log()?;
    let secrets = secret_values(ctx.settings());
    let reports = Reports::new(ctx);
    let mut take = |report| match report {
        Report::Progress(progress) => {
            on_step(&progress.what);
            ctx.say(&progress.what);
        }
        Report::Said(line) => write_line(&log, &without(&secrets, &line)),
        ran @ Report::Ran(_) => reports.take(ran),
    };
    let options = MigrateOptions::default();
    let applied = migrations.apply(database, &around, options, &mut take, may_begin).await;
    reports.all_written()?;
    Ok(applied)
}

/// Takes migrations back by their own down migrations, and tells of it; see [`Migrations::take_back`].
///
/// The outer error is the journal's.
pub(super) async fn take_back(
    ctx: &Ctx<'_, '_>,
    migrations: &Migrations,
    database: &Database,
    names: &[String],
) -> Result<Result<u64, DbError>, Fault> {
    let around = around(ctx, false);
    let log = ctx.open_log()?;
    let secrets = secret_values(ctx.settings());
    let reports = Reports::new(ctx);
    let mut take = |report| match report {
        Report::Progress(progress) => ctx.say(&format!("takes back {}", progress.what)),
        Report::Said(line) => write_line(&log, &without(&secrets, &line)),
        ran @ Report::Ran(_) => reports.take(ran),
    };
    // Requests wait meanwhile.
    let options = MigrateOptions { attempts: 2, ..MigrateOptions::default() };
    let took = migrations.take_back(database, &around, names, options, &mut take).await;
    reports.all_written()?;
    Ok(took)
}

/// What the app's own programs get that work on a database of this environment.
pub(super) fn around(ctx: &Ctx<'_, '_>, unproved: bool) -> Around {
    let settings = ctx.settings();
    let url = settings.database.as_ref().map(|database| database.url.clone()).unwrap_or_default();
    let inherited = INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    let mut env: Vec<(String, EnvValue)> =
        inherited.map(|(name, value)| (name, EnvValue::Plain(value))).collect();
    env.extend(settings.vars.iter().map(|(name, value)| (name.clone(), EnvValue::Secret(value.clone()))));
    env.push((WORK_MARK.into(), EnvValue::Plain(ctx.plan.id.clone())));
    Around { env, url, unproved }
}

fn unreadable() -> String {
    "the record of migrations cannot be read".into()
}

impl Migrate {
    /// What was rehearsed on the golden copy says nothing about a database of another structure.
    async fn still_as_rehearsed(&self, database: &Database) -> Result<(), Fault> {
        let unreadable = || "the structure cannot be read".to_owned();
        let golden = Structure::of(&database.with_name(&self.golden)).await.or_fault(unreadable)?;
        let changes = golden.changes_to(&Structure::of(database).await.or_fault(unreadable)?);
        if changes.is_empty() {
            return Ok(());
        }
        let mut fault = Fault::release("the database's structure was changed after the backup");
        fault.why = changes.iter().take(5).map(ToString::to_string).collect();
        Err(fault.because("the migration was not begun").hint("the next release takes a new backup"))
    }

    /// The structure is the one that the rehearsal had in the end: with the same indexes valid, and the same constraints checked.
    async fn is_as_rehearsed(
        &self,
        ctx: &Ctx<'_, '_>,
        database: &Database,
        structure: &Structure,
        rehearsed: &Rehearsed,
    ) -> Result<(), Fault> {
        let structure = compared(structure);
        if rehearsed.structure == structure.hash() {
            return Ok(());
        }
        let golden = Structure::of(&database.with_name(&self.golden)).await;
        let mut expected = compared(&golden.or_fault(|| "the golden copy cannot be read".into())?);
        for (object, definition) in &rehearsed.changed {
            match definition {
                Some(definition) => _ = expected.0.insert(object.clone(), definition.clone()),
                None => _ = expected.0.remove(object),
            }
        }
        let changes = expected.changes_to(&structure);
        let mut fault = Fault::release("the database's structure is not the rehearsed one");
        fault.why = changes.iter().take(5).map(ToString::to_string).collect();
        if changes.len() > 5 {
            fault.why.push(format!("and {} more", changes.len() - 5));
        }
        // On a first attempt it was compared before anything ran.
        let why = match ctx.attempts() {
            1 => "the migration did something else here than on the copy",
            _ => "the migration did something else here than on the copy, or somebody changed it meanwhile",
        };
        let environment = &ctx.plan.environment;
        let mend =
            format!("let the migration do the same in every database, then piton deploy {environment}");
        Err(fault.because(why).hint(mend))
    }

    /// Waits a while for others to let go of what a migration waited for in its rehearsal, or all of them: whoever comes while the
    /// migration waits for a table waits behind it.
    async fn nobody_in_the_way(
        &self,
        ctx: &Ctx<'_, '_>,
        database: &Database,
        report: &Rehearsal,
        name: Option<&str>,
    ) -> Result<(), DbError> {
        let named = |step: &&Step| name.is_none_or(|name| step.name == name);
        // What a killed attempt had begun is not cut as it was on the copy.
        let known = report.steps.iter().any(|step| named(&step));
        let steps = report.steps.iter().filter(|step| !known || named(step));
        // A build may have been too short to be noticed.
        let builds = steps.clone().any(|step| self.migrations.builds_concurrently(&step.name));
        let wanted = Wanted::of(steps).with_snapshots(builds);
        let patience = MigrateOptions::default().lock_timeout;
        let blockers = blockers::wait(database, &wanted, patience, WAIT_FOR_OTHERS, |blockers| {
            ctx.say(&format!("waits for {}", blockers[0].who));
        })
        .await?;
        if blockers.is_empty() { Ok(()) } else { Err(MigrationError::InTheWay(blockers).into()) }
    }

    /// Names the golden copy that follows through this migration, if it can.
    fn followed(&self, ctx: &Ctx<'_, '_>, database: &Database) -> Option<Followed> {
        self.undo.then(|| Followed::of(ctx, database, &self.golden)).flatten()
    }

    /// Lists all migrations that the step has applied, a killed attempt's as well, as far as the tool's record tells.
    async fn all_applied(
        &self,
        ctx: &Ctx<'_, '_>,
        database: &Database,
        now: &Applied,
    ) -> Result<Vec<String>, Fault> {
        let before = noted(ctx).map(|before| before.applied).unwrap_or_default();
        let was = |name: &str| before.iter().any(|one| one.finished && one.name == name);
        let recorded = self.migrations.recorded(database).await.or_fault(unreadable)?;
        let recorded = recorded.into_iter().filter(|one| one.finished && !was(&one.name));
        let mut names: Vec<String> = recorded.map(|one| one.name).collect();
        let unrecorded: Vec<String> =
            now.migrations.iter().filter(|name| !names.contains(name)).cloned().collect();
        names.extend(unrecorded);
        Ok(names)
    }
}

/// What the step has noted.
fn noted(ctx: &Ctx<'_, '_>) -> Option<Before> {
    ctx.noted().and_then(|note| serde_json::from_value(note).ok())
}

/// Notes what begins now; commands have no name for it.
fn begins(ctx: &Ctx<'_, '_>, name: Option<&str>) -> Result<(), Fault> {
    let Some(before) = noted(ctx) else { return Ok(()) };
    ctx.note(&Before { begun: Some(name.unwrap_or_default().to_owned()), ..before })
}

/// Says who is in the migration's way, and what ends them.
fn in_the_way(ctx: &Ctx<'_, '_>, database: &Database, blockers: &[Blocker]) -> Fault {
    let mut fault = Fault::surroundings("others hold what the migration has to lock");
    for blocker in blockers {
        fault = fault.because(format!("{} has {}", blocker.who, blocker.holds.join(", ")));
    }
    let wait = match blockers.first().and_then(|first| first.end.as_ref()) {
        Some(end) => format!("wait for its end, or: {}", database.by_hand("psql").args(["-c", end])),
        None => "wait for its end".into(),
    };
    let begun = match noted(ctx).and_then(|before| before.begun) {
        None => "the migration was not begun",
        Some(_) => "nothing more was begun",
    };
    fault
        .because(format!("{begun}: it would have waited for them, and others behind it"))
        .hint(format!("{wait}; then piton resume {}", ctx.plan.environment))
}

impl Act for Migrate {
    fn words(&self, site: &Site<'_>) -> Words {
        let undo = if self.undo {
            "with every later write, as the rehearsal has shown; else the golden copy, if nothing is lost by it or a person \
             asks; else it stays"
        } else {
            "the database before takes its place"
        };
        Words::new("the pending migrations, waiting at most 2s for a lock", undo).with(command(
            site,
            &self.migrations,
            None,
        ))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let database = super::database_of(ctx.settings())?;
        if ctx.noted().is_none() {
            self.still_as_rehearsed(&database).await?;
            let recorded = self.migrations.is_recorded(&database).await.or_fault(unreadable)?;
            let applied = self.migrations.recorded(&database).await.or_fault(unreadable)?;
            let swapping = Swapping::default();
            ctx.note(&Before { applied, recorded, begun: None, swapping, reversing: None })?;
        }
        // An earlier attempt was cut off, and may have left what this one does not see.
        let cut_off = noted(ctx).is_some_and(|before| before.begun.is_some());
        let rehearsed = ctx.outcome::<Rehearsed>("rehearse");
        let report = rehearsed.as_ref().and_then(|rehearsed| rehearsed.report.as_ref());
        let unwritten: RefCell<Option<Fault>> = RefCell::new(None);
        let followed = self.followed(ctx, &database);
        if let Some(followed) = &followed
            && !cut_off
        {
            followed.prepare(ctx).await?;
        }
        let may_begin = async |name: Option<&str>| {
            if let Some(report) = report {
                self.nobody_in_the_way(ctx, &database, report, name).await?;
            }
            if let Some(followed) = &followed
                && noted(ctx).is_some_and(|before| before.begun.is_some())
            {
                followed.note().await?;
            }
            // Before the tool runs: what is not noted was not begun, and left nothing.
            begins(ctx, name).map_err(|fault| {
                let why = fault.to_string();
                unwritten.borrow_mut().get_or_insert(fault);
                std::io::Error::other(why).into()
            })
        };
        let applied = apply(ctx, &self.migrations, &database, false, &mut |_| (), may_begin).await?;
        unwritten.take().map_or(Ok(()), Err)?;
        if let Some(followed) = &followed {
            followed.note().await.or_fault(|| "how the tables are laid out now cannot be noted".into())?;
        }
        if let Err(DbError::Migration(error)) = &applied
            && let (Some(before), true) = (noted(ctx), error.left_nothing() && !cut_off)
        {
            // As if it had not been begun; what was applied before it is in the record.
            ctx.note(&Before { begun: None, ..before })?;
        }
        let applied = applied.map_err(|error| match error {
            DbError::Migration(MigrationError::InTheWay(blockers)) => in_the_way(ctx, &database, &blockers),
            error => fault_on_live(ctx, &error),
        })?;
        let structure = Structure::of(&database).await.or_fault(|| "the structure cannot be read".into())?;
        if let Some(rehearsed) = rehearsed {
            self.is_as_rehearsed(ctx, &database, &structure, &rehearsed).await?;
        }
        if let Some(followed) = &followed {
            let unnoted = || "that the migration is applied cannot be noted".to_owned();
            replay::note_applied(&followed.golden).await.or_fault(unnoted)?;
        }
        let names = self.all_applied(ctx, &database, &applied).await?;
        Ok(json!({ "migrations": names, "ms": applied.millis, "unfinished": applied.unfinished }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let (true, Some(before)) = (self.undo, noted(ctx)) else { return Ok(Value::Null) };
        let live = super::database_of(ctx.settings())?;
        let rewind = Rewind { ctx, live: &live, golden: &self.golden, replaced: &self.replaced };
        let swaps = |swapping: &Swapping| ctx.note(&Before { swapping: swapping.clone(), ..before.clone() });
        // Whoever else has dropped the golden copy has left the migration in the record.
        if rewind.is_done().await?
            || rewind.may_be_over(&before.swapping).await?
                && self.migrations.recorded(&live).await.or_fault(unreadable)? == before.applied
        {
            return rewind.settle(before.swapping.clone(), None, &swaps).await;
        }
        let reversal = Reversal::of(ctx, &live, &self.golden, &self.migrations)?;
        let begins = |begun: &Begun| ctx.note(&Before { reversing: Some(begun.clone()), ..before.clone() });
        match (&reversal, &before.reversing) {
            (Some(reversal), Some(begun)) => {
                if let Reversed::Back(outcome) = reversal.resume(begun, begins).await? {
                    return Ok(outcome);
                }
            }
            (Some(reversal), None) => reversal.let_go().await?,
            (None, _) => {}
        }
        // Waits for a migration that was cut off: it may still commit.
        let golden = live.with_name(&self.golden);
        let left_nothing = self.migrations.left_nothing(&live, &golden, &before.applied, before.recorded);
        let left_nothing = left_nothing.await.map_err(|error| match error {
            DbError::Migration(_) => fault_of(ctx, &error),
            _ => Fault::surroundings("the failed migration's record cannot be removed").caused_by(&error),
        })?;
        // Commands that were taken up again do not count what they had applied before.
        let none_ran = ctx.attempts() == 1
            && ctx.outcome::<Outcome>(&ctx.step).is_some_and(|outcome| outcome.migrations.is_empty());
        let applied = self.migrations.recorded(&live).await.or_fault(unreadable)?;
        let never_began = before.begun.is_none() && applied == before.applied;
        if (never_began || left_nothing || none_ran) && !ctx.database && !ctx.undecided {
            return Ok(json!({ "nothing_applied": true }));
        }
        // Nobody is asked where nothing is lost.
        if let (Some(reversal), true) = (&reversal, ctx.database || ctx.undecided) {
            match reversal.run(begins).await? {
                Reversed::Back(outcome) => return Ok(outcome),
                Reversed::Kept(why) => {
                    ctx.say(&format!("the migration cannot be taken back in place: {why}"));
                }
            }
        }
        let mut outcome = rewind.run(swaps).await?;
        let stays = outcome.get("kept").is_some_and(|kept| kept == true);
        if let (Some(reversal), true) = (&reversal, stays) {
            match reversal.run(begins).await? {
                Reversed::Back(outcome) => return Ok(outcome),
                Reversed::Kept(why) => outcome["not_reversed"] = json!(why),
            }
        }
        // Asked once: whoever lets it go on has answered.
        if stays && !ctx.was_asked() {
            // Who cannot be looked at is no reason to stand.
            let failing = super::shift::serving_fails(ctx).await.ok().flatten();
            if let Some(failing) = failing {
                return rewind
                    .ask(format!("the release that serves fails on the migrated database: {failing}"))
                    .await;
            }
        }
        if stays {
            super::rescue::doubt(ctx)?;
        }
        let half = applied.into_iter().find(|one| !one.finished).map(|one| one.name);
        let (key, name) = match (stays, half) {
            (true, None) => {
                let begun = before.begun.clone().unwrap_or_default();
                ("perhaps_in_part", self.migrations.unnoted(&live, &begun).await.or_fault(unreadable)?)
            }
            (_, half) => ("half_applied", half),
        };
        if let (Some(kept), Some(name)) = (outcome.as_object_mut(), name) {
            kept.insert(key.into(), json!(name));
        }
        Ok(outcome)
    }
}

/// A migration that its database refuses is the release's fault; a database that is away or busy is not.
pub(super) fn fault_of(ctx: &Ctx<'_, '_>, error: &DbError) -> Fault {
    let fault = named(error, &ctx.plan.environment);
    // A tool may print the URL that it was given.
    super::without_secrets(ctx, fault)
}

/// As [`fault_of`]; what is left on the live database and stands in no record is a person's to look at.
fn fault_on_live(ctx: &Ctx<'_, '_>, error: &DbError) -> Fault {
    let (fault, environment) = (fault_of(ctx, error), &ctx.plan.environment);
    match error {
        DbError::Migration(MigrationError::Failed { name, unnoted: true, trouble: None, .. }) => {
            fault.hint(format!(
                "look at what {name} has left: take it out by hand, or complete it by hand and piton migration {environment} {name} \
                 --applied; then piton deploy {environment}"
            ))
        }
        _ => fault,
    }
}

/// Says of a migration that failed elsewhere that the environment's own database stands as before, as far as that is known.
pub(super) fn untouched(ctx: &Ctx<'_, '_>, migrations: &Migrations) -> String {
    let environment = &ctx.plan.environment;
    match migrations.tool {
        // Only `status` was proved to use the database that it is given.
        Tool::Commands { .. } => {
            format!("{environment} was not touched, if the command that applies has no address of its own")
        }
        _ => format!("{environment} was not touched"),
    }
}

fn named(error: &DbError, environment: &str) -> Fault {
    match error {
        DbError::Migration(
            MigrationError::HalfApplied { name, .. } | MigrationError::Unclear { name, .. },
        ) => {
            Fault::surroundings("a migration is half applied").caused_by(error).hint(format!(
                "piton migration {environment} {name} --applied (or --not-applied), then piton resume {environment}"
            ))
        }
        DbError::Migration(MigrationError::Locked { .. } | MigrationError::Busy { .. }) => {
            Fault::surroundings("the migration could not get its locks")
                .caused_by(error)
                .hint(format!("end what holds them, then piton resume {environment}"))
        }
        DbError::InUse { .. } => {
            Fault::surroundings("others keep the migration from the database").caused_by(error).hint(format!(
                "wait for their end, or end them, then piton resume {environment}"
            ))
        }
        DbError::Migration(MigrationError::Failed { trouble: Some(Trouble::Room), .. }) => {
            Fault::surroundings("the database's server ran out of disk or memory").caused_by(error).hint(format!(
                "make room on the database's server, then piton resume {environment}"
            ))
        }
        DbError::Migration(MigrationError::Failed { trouble: None, .. }) => {
            Fault::release("the migration failed").caused_by(error)
        }
        DbError::Migration(MigrationError::Failed { .. }) | DbError::Connect { .. } | DbError::Sql { .. } => {
            Fault::surroundings("the database went away during the migration")
                .caused_by(error)
                .hint(format!("start the database, then piton resume {environment}"))
        }
        _ => Fault::release("the migration failed").caused_by(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Kind;

    #[test]
    fn a_session_that_does_not_end_is_not_the_releases_fault() {
        let sessions = vec!["a migration that was cut off and does not end".to_owned()];
        let fault = named(&DbError::InUse { name: "the database".into(), sessions }, "production");
        assert_eq!(fault.kind, Kind::Surroundings);
        assert!(fault.hint.is_some_and(|hint| hint.ends_with("then piton resume production")));
    }
}
