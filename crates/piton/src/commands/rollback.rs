use std::process::ExitCode;

use piton_core::fault::{Fault, Kind};
use piton_core::journal::Request;
use piton_core::project::Project;
use piton_core::words;
use piton_db::changes::{self, Presence, TableChange};

use super::{ask, asked_to_go_back};
use crate::cli::Rollback;
use crate::error::Error;
use crate::ui;

/// Sends traffic back at once, then undoes the rest; with the database when asked.
pub(crate) async fn run(project: &Project, args: &Rollback) -> Result<ExitCode, Error> {
    let environment = &args.target.environment;
    if args.database {
        match say_what_would_leave(project, environment).await {
            Ok(()) => {}
            // Who has said yes wants the traffic back now: what cannot be counted is told, and the release goes back.
            Err(Error::Fault(fault)) if args.yes && fault.kind == Kind::Surroundings => {
                ui::talk(&ui::warning(&fault));
            }
            Err(error) => return Err(error),
        }
        if !args.yes {
            confirm("Put the database back?")?;
        }
    }
    let code =
        ask(project, environment, Request::Rollback { database: args.database }, args.target.json).await?;
    Ok(asked_to_go_back(code))
}

/// Says how many rows were written since the backup, and in which tables: they leave the live database.
async fn say_what_would_leave(project: &Project, environment: &str) -> Result<(), Error> {
    let settings = project.settings(environment)?;
    let tables = project.written_since_backup(environment, settings).await?;
    if tables.is_empty() {
        ui::talk("Nothing was written since the backup: the database goes back without a loss.");
        return Ok(());
    }
    ui::talk("Written since the backup, and gone from the live database after the rollback:");
    for table in &tables {
        ui::talk(&format!("  {:<40} {}", table.table, change_words(table)));
    }
    ui::talk("The database that is replaced is kept beside it, with all of these rows.");
    Ok(())
}

fn change_words(table: &TableChange) -> String {
    if table.kind == changes::Kind::Sequence {
        return match table.presence {
            Presence::Both => "goes back: numbers may be given out a second time".into(),
            Presence::Live => "the sequence itself is new, and goes".into(),
            Presence::Golden => "dropped meanwhile; comes back".into(),
        };
    }
    let thing = if table.kind == changes::Kind::Table { "row" } else { "object" };
    let rows = words::counted(table.only_in_live, thing);
    match table.presence {
        Presence::Live => format!("{rows}; the table itself is new, and goes"),
        Presence::Golden => {
            format!("dropped meanwhile; comes back with {}", words::counted(table.only_in_golden, thing))
        }
        Presence::Both => {
            let gone = words::count(table.only_in_golden);
            let mut text = format!("{rows} go; {gone} come back as they were");
            if !table.new_columns.is_empty() {
                text.push_str(&format!("; new columns go: {}", table.new_columns.join(", ")));
            }
            text
        }
    }
}

fn confirm(question: &str) -> Result<(), Fault> {
    if !ui::can_ask() {
        return Err(Fault::refused("a rollback of the database needs a yes").hint("add --yes"));
    }
    if ui::confirm(question) { Ok(()) } else { Err(Fault::refused("not confirmed; nothing was changed")) }
}
