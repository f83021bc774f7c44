use std::process::ExitCode;

use piton_core::config::Settings;
use piton_core::fault::Fault;
use piton_core::journal::{Event, Operator, State};
use piton_core::look::OfCommit;
use piton_core::project::{Project, journal_fault};
use piton_db::migrate::{Migrations, Tool};
use piton_db::{Database, DbError};
use serde_json::json;

use crate::cli::Migration;
use crate::error::Error;
use crate::{json as contract, ui};

/// Lists the migrations of an environment, or records one that stopped in the middle, after a person has looked at the database.
pub(crate) async fn run(project: &Project, args: &Migration) -> Result<ExitCode, Error> {
    let settings = project.settings(&args.environment)?;
    let Some(database) = &settings.database else {
        return Err(Fault::refused(format!("{} has no [database]", settings.environment)).into());
    };
    let live = Database::parse(&database.url).map_err(|error| {
        Fault::refused(format!("the database URL of {} cannot be used", settings.environment))
            .caused_by(&error)
    })?;
    match &args.name {
        Some(name) => record(project, args, &settings, &live, name).await,
        None => list(project, args, &settings, &live).await,
    }
}

async fn list(
    project: &Project,
    args: &Migration,
    settings: &Settings,
    live: &Database,
) -> Result<ExitCode, Error> {
    let runs = project.journal()?.releases(Some(&settings.environment)).map_err(journal_fault)?;
    let latest = runs.into_iter().rev().find(State::is_release);
    let files = Files::of(latest.as_ref(), settings).await?;
    if let Tool::Commands { status, .. } = &files.migrations().tool {
        return Err(Fault::refused("migrations by commands have no record that Piton can read")
            .hint(format!("{} tells, in the folder of a build", status.join(" ")))
            .into());
    }
    let states = files.migrations().status(live).await.map_err(|error| match &error {
        DbError::Migration(_) => Fault::refused("the migrations cannot be read").caused_by(&error),
        _ => Fault::surroundings("the record of migrations cannot be read").caused_by(&error),
    })?;
    if args.json {
        ui::data(&contract::pretty(&json!({ "environment": settings.environment, "migrations": states })));
        return Ok(ExitCode::SUCCESS);
    }
    let width = states.iter().map(|one| one.name.chars().count()).max().unwrap_or(0);
    for one in &states {
        ui::data(&format!("{:width$}  {}", one.name, one.state.in_words()));
    }
    if states.is_empty() {
        ui::talk(&format!("There is no migration, neither in the files nor in {live}."));
    }
    Ok(ExitCode::SUCCESS)
}

async fn record(
    project: &Project,
    args: &Migration,
    settings: &Settings,
    live: &Database,
    name: &str,
) -> Result<ExitCode, Error> {
    let environment = &settings.environment;
    let mut journal = project.journal()?;
    let by = Operator::this_process();
    // Nobody may migrate while the record is changed.
    let lease = journal.acquire(environment, &by).map_err(journal_fault)?;
    let resolved = async {
        let runs = journal.releases(Some(environment)).map_err(journal_fault)?;
        let latest = runs.into_iter().rev().find(State::is_release);
        let files = Files::of(latest.as_ref(), settings).await?;
        let migrations = files.migrations();
        migrations.may_resolve(live, name, args.applied).await.map_err(|error| refused(&error))?;
        let (migration, applied) = (name.to_owned(), args.applied);
        let mut append = |event: Event| match &latest {
            Some(latest) => journal.append(&lease, &latest.plan.id, &event).map(drop).map_err(journal_fault),
            // The record may come from a journal that is gone.
            None => Ok(()),
        };
        append(Event::Recording { migration: migration.clone(), applied, by: by.clone() })?;
        migrations.resolve(live, &migration, applied).await.map_err(|error| refused(&error))?;
        append(Event::Recorded { migration, applied, by })
    }
    .await;
    journal.give_back(&lease).map_err(journal_fault)?;
    resolved?;
    let stands = if args.applied { "applied" } else { "not applied" };
    ui::talk(&format!("{name} is recorded as {stands} in {live}."));
    if args.json {
        ui::data(&contract::pretty(
            &json!({ "environment": environment, "migration": name, "applied": args.applied }),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The migrations' files as the latest release has them: of its commit, not of the working tree, which counts before the first.
enum Files {
    Commit(OfCommit),
    Folder(Migrations),
}

impl Files {
    async fn of(latest: Option<&State>, settings: &Settings) -> Result<Self, Fault> {
        let migrations = settings.database.as_ref().and_then(|database| database.migrations.as_ref());
        let Some(migrations) = migrations else {
            return Err(Fault::refused(format!("{} has no migrations", settings.environment)));
        };
        let Some(latest) = latest else { return Ok(Self::Folder(migrations.within(&settings.root))) };
        OfCommit::look(&latest.plan.commit.hash, &settings.root, migrations).await.map(Self::Commit)
    }

    fn migrations(&self) -> &Migrations {
        match self {
            Self::Commit(look) => &look.migrations,
            Self::Folder(migrations) => migrations,
        }
    }
}

fn refused(error: &DbError) -> Fault {
    match error {
        DbError::Migration(_) => Fault::refused("nothing was recorded").caused_by(error),
        _ => Fault::surroundings("the record of migrations cannot be changed").caused_by(error),
    }
}
