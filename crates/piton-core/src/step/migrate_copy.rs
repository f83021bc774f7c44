use piton_db::identity::Purpose;
use piton_db::made;
use piton_db::migrate::{Migration, Migrations, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Act, Ctx, Site, Step, Words};
use crate::fault::{Fault, OrFault};

/// Brings an older database to what the release that serves expects, on a copy of it.
///
/// The app goes on with it, and knows no older structure. Whoever wants that has the older commit serve first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MigrateCopy {
    /// The older database, which stays as it is.
    pub older: String,
    /// The copy's name.
    pub copy: String,
    /// The migrations of the release that serves.
    #[serde(flatten)]
    pub migrations: Migrations,
}

/// What came of it.
#[derive(Serialize, Deserialize)]
struct Outcome {
    /// What was applied.
    migrations: Vec<String>,
    /// The copy; `None` when nothing is pending, and the older one is as it should be.
    copy: Option<String>,
    /// What it has and the release that serves has not.
    missing: Vec<String>,
}

/// Names the database that takes the live one's place: the older one, or its migrated copy.
pub(super) fn replacement(ctx: &Ctx<'_, '_>, older: &str) -> String {
    let step = ctx.plan.steps.iter().find(|planned| matches!(planned.step, Step::MigrateCopy(_)));
    let outcome = step.and_then(|planned| ctx.outcome::<Outcome>(&planned.id));
    outcome.and_then(|outcome| outcome.copy).unwrap_or_else(|| older.to_owned())
}

impl Act for MigrateCopy {
    fn words(&self, site: &Site<'_>) -> Words {
        Words::new(
            "what it lacks of the migrations of the release that serves, on a copy of it",
            "drop the copy",
        )
        .with(site.client("createdb", None, ["--template", &self.older, &self.copy]))
        .with(super::migrate::command(site, &self.migrations, Some(&self.copy)))
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let server = super::database_of(ctx.settings())?;
        let older = server.with_name(&self.older);
        let known = self.migrations.status(&older).await;
        let known = known.or_fault(|| "the record of migrations cannot be read".into())?;
        let missing =
            known.iter().filter(|one| one.state == State::Missing).map(|one| one.name.clone()).collect();
        // Of commands, and of what packages bring, only a run tells whether something is pending.
        let has_all = self.migrations.tool.has_all_files();
        if has_all && known.iter().all(Migration::is_applied) {
            return Ok(json!(Outcome { migrations: Vec::new(), copy: None, missing }));
        }
        let copy = server.with_name(&self.copy);
        // A killed attempt may have left it half migrated.
        super::drop_made(ctx, &server, &self.copy).await?;
        made::clone_from(&copy, &self.older, &super::label(ctx, Purpose::Rehearsal))
            .await
            .or_fault(|| format!("{} cannot be copied", self.older))?;
        let applied =
            super::migrate::apply(ctx, &self.migrations, &copy, true, &mut |_| (), async |_| Ok(())).await?;
        let applied = applied.map_err(|error| self.failed(ctx, super::migrate::fault_of(ctx, &error)))?;
        Ok(json!(Outcome { migrations: applied.migrations, copy: Some(self.copy.clone()), missing }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        super::drop_copy(ctx, &self.copy).await
    }
}

impl MigrateCopy {
    fn failed(&self, ctx: &Ctx<'_, '_>, fault: Fault) -> Fault {
        let environment = &ctx.plan.environment;
        let fault = fault
            .because("the release that serves needs its migrations on the older database, too")
            .because(super::migrate::untouched(ctx, &self.migrations));
        let serving = ctx.plan.commit.short();
        fault.hint(format!(
            "mend the migration and piton deploy {environment}; or piton deploy {environment} --ref an older commit than {serving}, \
             which needs it not, and then go back"
        ))
    }
}
