use std::io::ErrorKind;
use std::process::ExitCode;

use piton_core::config::Settings;
use piton_core::fault::Fault;
use piton_core::journal::{Event, Operator, State};
use piton_core::project::{Project, journal_fault};
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
        let runs = journal.releases(Some(environment)).map_err(journal_fault)?;
        let latest = runs.into_iter().rev().find(State::is_release);
        let text = file(project, latest.as_ref(), &settings, &args.name).await?;
        SqlFolder::may_resolve(&live, &args.name, text.as_deref()).await.map_err(|error| refused(&error))?;
        let (migration, applied) = (args.name.clone(), args.applied);
        let mut append = |event: Event| match &latest {
            Some(latest) => journal.append(&lease, &latest.plan.id, &event).map(drop).map_err(journal_fault),
            // The record may come from a journal that is gone.
            None => Ok(()),
        };
        append(Event::Recording { migration: migration.clone(), applied, by: by.clone() })?;
        let resolved = SqlFolder::resolve(&live, &migration, text.as_deref(), applied).await;
        resolved.map_err(|error| refused(&error))?;
        append(Event::Recorded { migration, applied, by })
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

/// Reads the file as the latest release has it: from its commit, not the working tree; `None` when it is gone.
async fn file(
    project: &Project,
    latest: Option<&State>,
    settings: &Settings,
    name: &str,
) -> Result<Option<String>, Fault> {
    let Some(migrations) = settings.database.as_ref().and_then(|database| database.migrations.as_ref())
    else {
        return Err(Fault::refused(format!("{} has no migrations", settings.environment)));
    };
    if let Some(latest) = latest {
        return project.migration_file(latest, settings, name).await;
    }
    match fs_err::read_to_string(settings.root.join(&migrations.folder).join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::surroundings("the migration's file cannot be read").caused_by(&error)),
    }
}

fn refused(error: &DbError) -> Fault {
    match error {
        DbError::Migration(_) => Fault::refused("nothing was recorded").caused_by(error),
        _ => Fault::surroundings("the record of migrations cannot be changed").caused_by(error),
    }
}
