use std::collections::BTreeMap;

use piton_db::changes::Expected;
use piton_db::fingerprint::{Change, Structure};
use piton_db::identity::Purpose;
use piton_db::migrate::{Migration, MigrationError, Migrations, RecordTables};
use piton_db::rehearsal::{Report, Watch};
use piton_db::replay::reverse::{Reverse, Trial};
use piton_db::replay::{self, Down, Offer};
use piton_db::shared::Shared;
use piton_db::{Database, DbError, made, neutral};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::capture::captured;
use super::serving::Serving;
use super::way_back::{Estimate, Rung, WayBack};
use super::{Act, Ctx, Site, Words, downs, rehearsal};
use crate::fault::{Fault, OrFault};

/// Runs the migration on a copy of the golden copy, notes the structure that comes of it, and drops the copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rehearse {
    /// The golden copy.
    pub golden: String,
    /// The copy's name.
    pub copy: String,
    /// The migrations, as the build has them.
    #[serde(flatten)]
    pub migrations: Migrations,
    /// What columns were before migrations that change what they mean.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub downs: Vec<Down>,
    /// What the server lacks for keeping later writes, where nothing does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unkept: Vec<String>,
}

/// What a rehearsal has shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Rehearsed {
    /// The migrations that ran, in their order.
    pub migrations: Vec<String>,
    /// How long they took together, in milliseconds.
    pub ms: u64,
    /// The hash of the structure afterwards; the copy has no subscriptions.
    pub structure: String,
    /// The objects that were added, changed or removed, with their definitions afterwards.
    pub changed: BTreeMap<String, Option<String>>,
    /// What the copy held afterwards; `None` when no migration was pending.
    pub expected: Option<Expected>,
    /// What they did to whoever used the database meanwhile; `None` when no migration was pending.
    #[serde(default)]
    pub report: Option<Report>,
    /// How the release that serves does afterwards; `None` when nothing tells.
    #[serde(default)]
    pub serving: Option<Serving>,
    /// How they go back; `None` when no migration was pending.
    #[serde(default)]
    pub way_back: Option<WayBack>,
    /// Whether later writes can go along; `None` where the log is not kept, or no migration was pending.
    #[serde(default)]
    pub offer: Option<Offer>,
    /// How the migrations go back in place; `None` where that is not to be done.
    #[serde(default)]
    pub reverse: Option<Reverse>,
    /// Where the tool notes what it has applied.
    #[serde(default)]
    pub record: Option<RecordTables>,
    /// How long they take for real; `None` when no migration was pending.
    #[serde(default)]
    pub estimate: Option<Estimate>,
}

/// Returns what of a structure the rehearsal's copy can have: neither subscriptions nor log-ins on foreign servers.
pub(super) fn compared(structure: &Structure) -> Structure {
    structure.without_subscriptions().without_user_mappings()
}

impl Rehearse {
    async fn rehearse(&self, ctx: &Ctx<'_, '_>, copy: &Database) -> Result<Rehearsed, Fault> {
        let golden = copy.with_name(&self.golden);
        let before = Structure::of(&golden).await.or_fault(|| "the golden copy cannot be read".into())?;
        let unobservable = || "the migrated copy cannot be observed".to_owned();
        let known = self.migrations.status(copy).await;
        let known = known.or_fault(|| "the record of migrations cannot be read".into())?;
        // Of commands, and of what packages bring, only a run tells whether something is pending.
        let nothing_pending = self.migrations.tool.has_all_files() && known.iter().all(Migration::is_applied);
        let unreadable = || "what the server's databases share cannot be read".to_owned();
        // What a run that was killed in between has done is not as it was before.
        let noted = ctx.noted().and_then(|note| serde_json::from_value::<Shared>(note).ok());
        let shared = match noted {
            Some(shared) => shared,
            None => {
                let shared = Shared::of(copy).await.or_fault(unreadable)?;
                ctx.note(&shared)?;
                shared
            }
        };
        let watch = match nothing_pending {
            true => None,
            false => Some(Watch::begin(copy).await.or_fault(unobservable)?),
        };
        let since = match nothing_pending {
            true => 0,
            false => Trial::first(copy).await.or_fault(unobservable)?,
        };
        // Whoever writes rows of a copy is the migration.
        let reading = match watch.as_ref().and(captured(ctx)) {
            Some(by) => Some(replay::Watch::begin(copy, &by.source).await.or_fault(unobservable)?),
            None => None,
        };
        let mut on_step = |name: &str| watch.iter().for_each(|watch| watch.step(name));
        let applied =
            super::migrate::apply(ctx, &self.migrations, copy, true, &mut on_step, async |_| Ok(())).await;
        let report = match watch {
            Some(watch) => Some(watch.end(&golden).await),
            None => None,
        };
        let record = self.migrations.tool.record();
        let own = match reading {
            Some(reading) => Some(reading.end(&record).await),
            None => None,
        };
        let applied = applied?;
        let beyond = shared.changes_to(&Shared::of(copy).await.or_fault(unreadable)?);
        if !beyond.is_empty() {
            return Err(reached_beyond(ctx, beyond, applied.err()));
        }
        let applied = match applied {
            Ok(applied) => applied,
            Err(error) => return Err(self.failed(ctx, &error, &golden).await),
        };
        let report = report.transpose().or_fault(unobservable)?;
        let own = own.transpose().or_fault(unobservable)?;
        let serving = match report {
            Some(_) => Serving::look(ctx, &golden, copy).await?,
            None => None,
        };
        let after = Structure::of(copy).await.or_fault(|| "the migrated copy cannot be read".into())?;
        let after = after.without_user_mappings();
        // The way back is the golden copy itself: it must stand exactly as it was proved.
        let still = Structure::of(&golden).await.or_fault(|| "the golden copy cannot be read".into())?;
        if let Some(change) = before.changes_to(&still).first() {
            return Err(Fault::release("the rehearsal changed the golden copy").because(change.to_string()));
        }
        let expected = if applied.migrations.is_empty() {
            None
        } else {
            ctx.say("reading what the migration has made");
            let expected = Expected::of(&golden, copy, record.clone()).await;
            Some(expected.or_fault(|| "the migrated copy cannot be read".into())?)
        };
        if !applied.migrations.is_empty() {
            let recorded = self.migrations.recorded(copy).await;
            let recorded = recorded.or_fault(|| "the record of migrations cannot be read".into())?;
            let recorded: Vec<String> = recorded.into_iter().map(|one| one.name).collect();
            downs::unknown(&self.downs, &applied.migrations, &recorded).map_or(Ok(()), Err)?;
        }
        let offer = match own.filter(|_| expected.is_some()) {
            Some(own) => {
                ctx.say("comparing every value that the migration may have changed");
                let downs = self.downs.iter().filter(|down| applied.migrations.contains(&down.migration));
                let downs: Vec<Down> = downs.cloned().collect();
                let offer = replay::offer(&golden, copy, &own, &record, &downs).await;
                Some(offer.or_fault(|| "the migrated copy cannot be compared".into())?)
            }
            None => None,
        };
        let mut reverse = None;
        let way_back = match &expected {
            Some(expected) => {
                let live = super::database_of(ctx.settings())?;
                // What is made from another environment's data goes back as a whole, and may not be there yet.
                let own = ctx.world.from.is_none();
                let bound = if own { super::rewind::bound(&live).await? } else { Vec::new() };
                let way_back = WayBack::of(ctx, expected, &bound, offer.as_ref(), &applied.migrations)
                    .without(&self.unkept);
                let wanted = own && way_back.rung == Rung::GoldenCopy;
                let names = &applied.migrations;
                let tried = match wanted {
                    true => self.try_down(ctx, (&golden, copy), expected, names, since).await?,
                    false => None,
                };
                let beyond = shared.changes_to(&Shared::of(copy).await.or_fault(unreadable)?);
                if !beyond.is_empty() {
                    return Err(reached_beyond(ctx, beyond, None));
                }
                let (way_back, took) = way_back.with_down(tried);
                reverse = took;
                Some(way_back)
            }
            None => None,
        };
        let estimate = expected.as_ref().and(report.as_ref()).map(Estimate::of);
        if let Some(report) = &report {
            rehearsal::write(ctx, report, serving.as_ref(), way_back.as_ref(), offer.as_ref())?;
        }
        let definition = |change: &Change| match change {
            Change::Added { object, definition } => (object.clone(), Some(definition.clone())),
            Change::Changed { object, to, .. } => (object.clone(), Some(to.clone())),
            Change::Removed { object, .. } => (object.clone(), None),
        };
        Ok(Rehearsed {
            expected,
            report,
            serving,
            way_back,
            offer,
            reverse,
            record: Some(record),
            estimate,
            ms: applied.millis,
            migrations: applied.migrations,
            structure: after.hash(),
            changed: compared(&before).changes_to(&after).iter().map(definition).collect(),
        })
    }

    /// Tries the down migrations on the migrated copy, which is of no use afterwards; `None` where there are none. The inner error is the
    /// reason why they are no way back.
    async fn try_down(
        &self,
        ctx: &Ctx<'_, '_>,
        (golden, copy): (&Database, &Database),
        expected: &Expected,
        names: &[String],
        since: u64,
    ) -> Result<Option<Result<Reverse, String>>, Fault> {
        let cannot = || "the down migration cannot be tried".to_owned();
        match self.migrations.may_take_back(copy, names).await {
            Ok(()) => {}
            Err(DbError::Migration(error)) if error.is_without_down() => return Ok(None),
            Err(DbError::Migration(error)) => return Ok(Some(Err(error.to_string()))),
            Err(error) => return Err(error).or_fault(cannot),
        }
        ctx.say("trying the down migration");
        let trial = Trial::begin(golden, copy, &self.migrations, expected.overwritten(), since).await;
        let trial = match no_obstacle(trial).or_fault(cannot)? {
            Ok(trial) => trial,
            Err(why) => return Ok(Some(Err(why))),
        };
        let ms = match super::migrate::take_back(ctx, &self.migrations, copy, names).await? {
            Ok(ms) => ms,
            Err(DbError::Migration(error)) => {
                let said = super::without(&super::secret_values(ctx.settings()), &error.to_string());
                return Ok(Some(Err(said)));
            }
            Err(error) => return Err(error).or_fault(cannot),
        };
        Ok(Some(no_obstacle(trial.end(copy, &self.migrations, ms).await).or_fault(cannot)?))
    }

    /// Says why the migration failed on the copy, and what leads on from there.
    async fn failed(&self, ctx: &Ctx<'_, '_>, error: &DbError, golden: &Database) -> Fault {
        let environment = &ctx.plan.environment;
        let untouched = super::migrate::untouched(ctx, &self.migrations);
        let fault = super::migrate::fault_of(ctx, error).because(&untouched);
        let fault = Fault { what: "the migration failed on a copy of the database".into(), ..fault };
        let DbError::Migration(
            MigrationError::HalfApplied { name, .. } | MigrationError::Unclear { name, .. },
        ) = error
        else {
            return fault;
        };
        let recorded = self.migrations.recorded(golden).await.unwrap_or_default();
        if recorded.iter().any(|recorded| recorded.name == *name && !recorded.finished) {
            // Taken up again, the release would copy the same golden copy: what a person records is in the next backup.
            let owner = ctx.world.from.as_ref().map_or(environment, |from| &from.environment);
            return fault.hint(format!(
                "piton abort {environment}, piton migration {owner} {name} --applied (or --not-applied), piton deploy {environment}"
            ));
        }
        Fault::surroundings(fault.what)
            .because(format!("the session on the copy was lost in the middle of {name}"))
            .because(untouched)
            .hint(format!("piton resume {environment} tries it on a new copy"))
    }
}

/// Takes what the server refuses to a trial for a reason against the down migration: no release fails by it.
fn no_obstacle<T>(tried: Result<Result<T, String>, DbError>) -> Result<Result<T, String>, DbError> {
    match tried {
        Err(error @ (DbError::Sql { .. } | DbError::Privilege { .. })) => Ok(Err(error.to_string())),
        other => other,
    }
}

/// Says what a migration changed that its copy shares with the live database.
fn reached_beyond(ctx: &Ctx<'_, '_>, changes: Vec<String>, failed: Option<DbError>) -> Fault {
    let mut fault = Fault::release("the rehearsal changed what all databases of the server share");
    fault.why = changes;
    if let Some(error) = failed {
        fault.why.extend(super::migrate::fault_of(ctx, &error).why);
    }
    fault.because("a copy of the database has no copy of that: it is changed for the live one, too").hint(format!(
        "put it back and take it out of the migration, to be run by hand; or, if somebody else did it meanwhile, piton deploy {}",
        ctx.plan.environment
    ))
}

impl Act for Rehearse {
    fn words(&self, site: &Site<'_>) -> Words {
        let down = |down: &Down| format!("; {}.{} was {}", down.table, down.column, down.is);
        let downs: String = self.downs.iter().map(down).collect();
        Words::new(format!("the pending migrations, on a copy of the golden copy{downs}"), "drop the copy")
            .with(site.client("createdb", None, ["--template", &self.golden, &self.copy]))
            .with(super::migrate::command(site, &self.migrations, Some(&self.copy)))
            .with(site.client("dropdb", None, [&self.copy]))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let server = super::database_of(ctx.settings())?;
        let copy = server.with_name(&self.copy);
        // A killed rehearsal may have left the copy half migrated.
        super::drop_made(ctx, &server, &self.copy).await?;
        made::clone_from(&copy, &self.golden, &super::label(ctx, Purpose::Rehearsal))
            .await
            .or_fault(|| "the golden copy cannot be copied".into())?;
        let taken = neutral::drop_user_mappings(&copy).await;
        let taken = taken.or_fault(|| "the copy cannot be made harmless".into())?;
        let rehearsed = self.rehearse(ctx, &copy).await.map_err(|fault| match taken.is_empty() {
            true => fault,
            false => fault.because(format!(
                "the copy is without the log-ins on foreign servers ({}), which are the real ones: what a migration does there \
                 cannot be rehearsed",
                taken.join(", ")
            )),
        });
        super::drop_made(ctx, &server, &self.copy).await?;
        Ok(json!(rehearsed?))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        super::drop_copy(ctx, &self.copy).await
    }
}

#[cfg(test)]
mod tests {
    use piton_db::migrate::Tool;

    use super::super::Step;
    use super::*;

    #[test]
    fn a_plan_that_was_stored_before_there_were_tools_is_read() {
        let stored = json!({ "kind": "rehearse", "golden": "g", "copy": "c", "folder": "/a/migrations" });
        let Step::Rehearse(step) = serde_json::from_value(stored).unwrap() else { panic!("another kind") };
        assert_eq!(step.migrations.tool, Tool::Sql);
        let tool = Tool::Commands { apply: vec!["a".into()], status: vec!["b".into(), "c".into()] };
        let step = Rehearse { migrations: Migrations { tool, ..step.migrations }, ..step };
        let stored = json!(Step::from(step.clone()));
        assert_eq!(serde_json::from_value::<Step>(stored).unwrap(), Step::from(step));
    }
}
