use std::collections::BTreeMap;
use std::path::PathBuf;

use piton_db::changes::Expected;
use piton_db::fingerprint::{Change, Structure};
use piton_db::identity::Purpose;
use piton_db::migrate::MigrationError;
use piton_db::migrate::sql::{MigrateOptions, Migration, SqlFolder};
use piton_db::rehearsal::{Report, Watch};
use piton_db::{Database, DbError, made};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::serving::Serving;
use super::{Act, Ctx, Site, Words, rehearsal};
use crate::fault::{Fault, OrFault};

/// Runs the migration on a copy of the golden copy, notes the structure that comes of it, and drops the copy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rehearse {
    /// The golden copy.
    pub golden: String,
    /// The copy's name.
    pub copy: String,
    /// The folder of migrations.
    pub folder: PathBuf,
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
}

impl Rehearse {
    async fn rehearse(&self, ctx: &Ctx<'_, '_>, copy: &Database) -> Result<Rehearsed, Fault> {
        let golden = copy.with_name(&self.golden);
        let before = Structure::of(&golden).await.or_fault(|| "the golden copy cannot be read".into())?;
        let unobservable = || "the migrated copy cannot be observed".to_owned();
        let folder = SqlFolder::new(&self.folder);
        let migrations =
            folder.status(copy).await.or_fault(|| "the record of migrations cannot be read".into())?;
        let watch = match migrations.iter().all(Migration::is_applied) {
            true => None,
            false => Some(Watch::begin(copy).await.or_fault(unobservable)?),
        };
        let applied = folder
            .apply(copy, MigrateOptions::default(), &mut |progress| {
                watch.iter().for_each(|watch| watch.step(&progress.what));
                ctx.say(&progress.what);
            })
            .await;
        let report = match watch {
            Some(watch) => Some(watch.end(&golden).await),
            None => None,
        };
        let applied = match applied {
            Ok(applied) => applied,
            Err(error) => return Err(failed(ctx, &error, &golden).await),
        };
        let report = report.transpose().or_fault(unobservable)?;
        let serving = match report {
            Some(_) => Serving::look(ctx, &golden, copy).await?,
            None => None,
        };
        report.as_ref().map_or(Ok(()), |report| rehearsal::write(ctx, report, serving.as_ref()))?;
        let after = Structure::of(copy).await.or_fault(|| "the migrated copy cannot be read".into())?;
        // The way back is the golden copy itself: it must stand exactly as it was proved.
        let still = Structure::of(&golden).await.or_fault(|| "the golden copy cannot be read".into())?;
        if let Some(change) = before.changes_to(&still).first() {
            return Err(Fault::release("the rehearsal changed the golden copy").because(change.to_string()));
        }
        let expected = if applied.migrations.is_empty() {
            None
        } else {
            ctx.say("reading what the migration has made");
            let expected = Expected::of(&golden, copy).await;
            Some(expected.or_fault(|| "the migrated copy cannot be read".into())?)
        };
        let definition = |change: &Change| match change {
            Change::Added { object, definition } => (object.clone(), Some(definition.clone())),
            Change::Changed { object, to, .. } => (object.clone(), Some(to.clone())),
            Change::Removed { object, .. } => (object.clone(), None),
        };
        Ok(Rehearsed {
            expected,
            report,
            serving,
            ms: applied.migrations.iter().map(|migration| migration.millis).sum(),
            migrations: applied.migrations.into_iter().map(|migration| migration.name).collect(),
            structure: after.hash(),
            changed: before.without_subscriptions().changes_to(&after).iter().map(definition).collect(),
        })
    }
}

/// Says why the migration failed on the copy, and what leads on from there.
async fn failed(ctx: &Ctx<'_, '_>, error: &DbError, golden: &Database) -> Fault {
    let environment = &ctx.plan.environment;
    let untouched = format!("{environment} was not touched");
    let fault = super::migrate::fault_of(error, environment).because(&untouched);
    let fault = Fault { what: "the migration failed on a copy of the database".into(), ..fault };
    let DbError::Migration(MigrationError::HalfApplied { name, .. }) = error else { return fault };
    let recorded = SqlFolder::recorded(golden).await.unwrap_or_default();
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

impl Act for Rehearse {
    fn words(&self, site: &Site<'_>) -> Words {
        Words::new("the pending migrations, on a copy of the golden copy", "drop the copy")
            .with(site.client("createdb", None, ["--template", &self.golden, &self.copy]))
            .with(site.psql(Some(&self.copy), super::migrate::each_file(&self.folder)))
            .with(site.client("dropdb", None, [&self.copy]))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let server = super::database_of(ctx.settings())?;
        let copy = server.with_name(&self.copy);
        // A killed rehearsal may have left the copy half migrated.
        super::drop_made(&server, &self.copy).await?;
        made::clone_from(&copy, &self.golden, &super::label(ctx, Purpose::Rehearsal))
            .await
            .or_fault(|| "the golden copy cannot be copied".into())?;
        let rehearsed = self.rehearse(ctx, &copy).await;
        super::drop_made(&server, &self.copy).await?;
        Ok(json!(rehearsed?))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let dropped = super::drop_made(&super::database_of(ctx.settings())?, &self.copy).await?;
        Ok(json!({ "dropped": dropped }))
    }
}
