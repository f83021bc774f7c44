use std::process::ExitCode;

use piton_core::fault::{Fault, Kind};
use piton_core::journal::Request;
use piton_core::project::Project;
use piton_core::step::MadeAnew;
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

/// Says what was written and leaves the live database, and where it can be found then.
async fn say_what_would_leave(project: &Project, environment: &str) -> Result<(), Error> {
    let settings = project.settings(environment)?;
    let leaving = project.leaving(environment, settings).await?;
    if let Some(made) = &leaving.made_anew {
        say_of_one_made_anew(made, &leaving.written);
        return Ok(());
    }
    if leaving.written.is_empty() {
        ui::talk("Nothing was written since the backup: the database goes back without a loss.");
        return Ok(());
    }
    ui::talk("Written since the backup, and gone from the live database after the rollback:");
    for table in &leaving.written {
        ui::talk(&format!("  {:<40} {}", table.table, change_words(table)));
    }
    ui::talk("The database that is replaced is kept beside it, with all of these rows.");
    Ok(())
}

/// Says the same where not the golden copy takes the place, but the environment's own database of before.
fn say_of_one_made_anew(made: &MadeAnew, written: &[TableChange]) {
    let before = if made.replaced_one { "; the one before takes its place" } else { "" };
    if !made.had_traffic {
        ui::talk(&format!("The database that this release made has had no traffic: it goes{before}."));
        return;
    }
    if written.is_empty() {
        ui::talk(&format!("Nothing was written into the database that this release made: it goes{before}."));
        return;
    }
    ui::talk("Written into the database that this release made, or by its migration:");
    for table in written {
        ui::talk(&format!("  {:<40} {}", table.table, written_words(table)));
    }
    ui::talk(&format!("It is kept as {}, with all of this{before}.", made.kept_as));
}

fn written_words(table: &TableChange) -> String {
    let thing = match (table.kind, table.presence) {
        (changes::Kind::Sequence, _) => return "gave numbers".into(),
        (_, Presence::Golden) => return "dropped".into(),
        (changes::Kind::Table, _) => "row",
        (changes::Kind::LargeObjects, _) => "object",
    };
    let mut parts = Vec::new();
    for (count, what) in [(table.only_in_live, "new or changed"), (table.only_in_golden, "gone or changed")] {
        if count > 0 {
            parts.push(format!("{} {what}", words::counted(count, thing)));
        }
    }
    if table.presence == Presence::Live {
        parts.push("the table itself is new".into());
    }
    if !table.new_columns.is_empty() {
        parts.push(format!("new columns: {}", table.new_columns.join(", ")));
    }
    parts.join("; ")
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
