use std::process::ExitCode;

use piton_core::config::Settings;
use piton_core::fault::Fault;
use piton_core::journal::{Event, Operator, State};
use piton_core::project::{Project, journal_fault};
use piton_core::step::Step;
use piton_db::migrate::sql::SqlFolder;
use piton_db::{Database, DbError};
use serde_json::json;

use crate::cli::Migration;
use crate::error::Error;
use crate::{json as contract, ui};

/// Records a half-applied migration as applied or as not applied, after a person has looked at the database.
pub(crate) async fn run(project: &Project, args: &Migration) -> Result<ExitCode, Error> {
    let settings = project.settings(&args.environment)?;
    let environment = &settings.environment;
    let Some(database) = &settings.database else {
        return Err(Fault::refused(format!("{environment} has no [database]")).into());
    };
    let live = Database::parse(&database.url).map_err(|error| {
        Fault::refused(format!("the database URL of {environment} cannot be used")).caused_by(&error)
    })?;
    let mut journal = project.journal()?;
    let by = Operator::this_process();
    // Nobody may migrate while the record is changed.
    let lease = journal.acquire(environment, &by).map_err(journal_fault)?;
    let resolved = async {
        let latest = journal.releases(Some(environment)).map_err(journal_fault)?.pop();
        let Some(folder) = folder(project, latest.as_ref(), &settings) else {
            return Err(Fault::refused(format!("{environment} has no migrations")));
        };
        resolve(&folder, &live, args).await?;
        // The record may come from a journal that is gone.
        let Some(latest) = latest else { return Ok(()) };
        let event = Event::Recorded { migration: args.name.clone(), applied: args.applied, by };
        journal.append(&lease, &latest.plan.id, &event).map(drop).map_err(journal_fault)
    }
    .await;
    journal.give_back(&lease).map_err(journal_fault)?;
    resolved?;
    let stands = if args.applied { "applied" } else { "not applied" };
    ui::talk(&format!("{} is recorded as {stands} in {live}.", args.name));
    if args.json {
        ui::data(&contract::pretty(
            &json!({ "environment": environment, "migration": args.name, "applied": args.applied }),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the folder of the files that the latest release applies: the checkout of its commit, not the working tree.
fn folder(project: &Project, latest: Option<&State>, settings: &Settings) -> Option<SqlFolder> {
    let released =
        latest.iter().flat_map(|state| &state.plan.steps).find_map(|planned| match &planned.step {
            Step::Migrate(migrate) => Some(migrate.folder.clone()),
            _ => None,
        });
    if let Some(folder) = released {
        return Some(SqlFolder::new(folder));
    }
    let migrations = settings.database.as_ref().and_then(|database| database.migrations.as_ref());
    migrations.map(|migrations| SqlFolder::new(project.config().root().join(&migrations.folder)))
}

async fn resolve(folder: &SqlFolder, live: &Database, args: &Migration) -> Result<(), Fault> {
    folder.resolve(live, &args.name, args.applied).await.map_err(|error| match &error {
        DbError::Migration(_) => Fault::refused("nothing was recorded").caused_by(&error),
        _ => Fault::surroundings("the record of migrations cannot be changed").caused_by(&error),
    })
}
