use std::process::ExitCode;

use owo_colors::OwoColorize;
use piton_core::backups::Stored;
use piton_core::plan::short_id;
use piton_core::project::Project;
use piton_core::words;

use crate::cli::Environment;
use crate::error::Error;
use crate::{json, ui};

/// Lists an environment's backups.
pub(crate) fn run(project: &Project, args: &Environment) -> Result<ExitCode, Error> {
    let settings = project.settings(&args.environment)?;
    let stored = project.backups(&settings)?;
    if args.json {
        ui::data(&json::pretty(&json::backups(&settings.environment, &stored)));
    } else if stored.is_empty() {
        ui::talk(&format!(
            "{0} has no backup yet. piton backup {0} takes one; so does every release.",
            settings.environment
        ));
    } else {
        ui::data(&row(["backup", "taken", "rows", "size", "serving", "proved"]).dimmed().to_string());
        stored.iter().for_each(|stored| ui::data(&line(stored)));
    }
    Ok(ExitCode::SUCCESS)
}

fn row([id, taken, rows, size, serving, proved]: [&str; 6]) -> String {
    format!("{id:<12} {taken:<18} {rows:>14} {size:>10}  {serving:<8} {proved}").trim_end().to_owned()
}

fn line(stored: &Stored) -> String {
    let id = short_id(&stored.id);
    let manifest = match &stored.manifest {
        Ok(manifest) => manifest,
        Err(error) => return format!("{id:<12} {}: {error}", "damaged".red()),
    };
    let serving = manifest.made_for.serving.as_deref().unwrap_or("-");
    let proved = stored.proved.as_ref().map_or_else(|| "no".to_owned(), |proved| words::time(proved.at));
    row([
        id,
        &words::time(manifest.snapshot_at),
        &words::count(manifest.total_rows()),
        &words::bytes(manifest.total_bytes()),
        serving.get(..7).unwrap_or(serving),
        &proved,
    ])
}
