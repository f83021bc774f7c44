use std::path::PathBuf;

use piton_db::identity::Purpose;
use piton_db::migrate::{self, Migrations};
use piton_db::{DbError, Report, made};
use piton_exec::Command;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::backup::Reports;
use super::{Act, Ctx, Site, Words, secret_values, without, write_line};
use crate::config::CommandLine;
use crate::fault::{Fault, Kind, OrFault};

/// Makes the golden copy from nothing: an empty database, the release's migrations, the seed.
///
/// The environment's own database is replaced by it only when all of that went well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fresh {
    /// The golden copy's name.
    pub golden: String,
    /// The folder in which the seed runs.
    pub app: PathBuf,
    /// The migrations, as the build has them.
    pub migrations: Option<Migrations>,
    /// The command that fills it.
    pub seed: Option<CommandLine>,
}

impl Fresh {
    fn seed(&self) -> Option<Command> {
        Some(self.seed.as_ref()?.command().cwd(&self.app))
    }

    async fn fill(&self, ctx: &Ctx<'_, '_>, seed: &Command) -> Result<(), Fault> {
        let golden = super::database_of(ctx.settings())?.with_name(&self.golden);
        let log = ctx.open_log()?;
        let secrets = secret_values(ctx.settings());
        let reports = Reports::new(ctx);
        let mut take = |report| match report {
            Report::Said(line) => {
                let line = without(&secrets, &line);
                write_line(&log, &line);
                ctx.say(&line);
            }
            other => reports.take(other),
        };
        let around = super::migrate::around(ctx, true);
        let filled = migrate::seed(&golden, seed, &self.app, &around, &mut take).await;
        reports.all_written()?;
        filled.map_err(|error| self.unfilled(ctx, &error))
    }

    fn unfilled(&self, ctx: &Ctx<'_, '_>, error: &DbError) -> Fault {
        let fault = super::migrate::fault_of(ctx, error).because(untouched(ctx));
        match fault.kind {
            Kind::Release => Fault { what: "the seed failed".into(), ..fault },
            _ => fault,
        }
    }
}

fn untouched(ctx: &Ctx<'_, '_>) -> String {
    format!("{} was not touched", ctx.plan.environment)
}

impl Act for Fresh {
    fn words(&self, site: &Site<'_>) -> Words {
        let seeded = if self.seed.is_some() { ", and the seed" } else { "" };
        let does = format!("an empty database as the golden copy, every migration{seeded}");
        let words =
            Words::new(does, "drop the golden copy").with(site.client("createdb", None, [&self.golden]));
        let migrations = self.migrations.as_ref();
        let migrate =
            migrations.and_then(|migrations| super::migrate::command(site, migrations, Some(&self.golden)));
        words.with(migrate).with(self.seed())
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let live = super::database_of(ctx.settings())?;
        let golden = live.with_name(&self.golden);
        // A seed that was cut off may have left any part of its rows.
        super::drop_made(ctx, &live, &self.golden).await?;
        made::empty_for(&golden, &live.dbname, &super::label(ctx, Purpose::Golden))
            .await
            .or_fault(|| "the golden copy cannot be made".into())?;
        let mut names = Vec::new();
        if let Some(migrations) = &self.migrations {
            let applied =
                super::migrate::apply(ctx, migrations, &golden, true, &mut |_| (), async |_| Ok(())).await?;
            let untouched = super::migrate::untouched(ctx, migrations);
            let applied =
                applied.map_err(|error| super::migrate::fault_of(ctx, &error).because(untouched))?;
            names = applied.migrations;
        }
        if let Some(seed) = self.seed() {
            self.fill(ctx, &seed).await?;
        }
        Ok(json!({ "migrations": names }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        super::drop_copy(ctx, &self.golden).await
    }
}
