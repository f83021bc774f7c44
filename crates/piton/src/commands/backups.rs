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
pub(crate) async fn run(project: &Project, args: &Environment) -> Result<ExitCode, Error> {
    let settings = project.settings(&args.environment)?;
    let (stored, unread) = project.backups(&settings).await?;
    if args.json {
        ui::data(&json::pretty(&json::backups(&settings.environment, &stored)));
    } else if stored.is_empty() && unread.is_none() {
        ui::talk(&format!(
            "{0} has no backup yet. piton backup {0} takes one; so does every release.",
            settings.environment
        ));
    } else {
        let lies = settings.backup.store.is_some();
        let head = row(["backup", "taken", "rows", "size", "serving", "proved"], lies.then_some("lies"));
        ui::data(&head.dimmed().to_string());
        stored.iter().for_each(|stored| ui::data(&line(stored, lies)));
    }
    // What could be read was told; the rest is no success.
    unread.map_or(Ok(ExitCode::SUCCESS), |fault| Err(fault.into()))
}

fn row([id, taken, rows, size, serving, proved]: [&str; 6], lies: Option<&str>) -> String {
    let row = format!(
        "{id:<12} {taken:<18} {rows:>14} {size:>10}  {serving:<8} {proved:<18} {}",
        lies.unwrap_or_default()
    );
    row.trim_end().to_owned()
}

/// Says where a backup is.
fn place(stored: &Stored) -> &'static str {
    match (stored.here, stored.stored) {
        (true, true) => "here, store",
        (true, false) => "here",
        (false, _) => "store",
    }
}

fn line(stored: &Stored, lies: bool) -> String {
    let id = short_id(&stored.id);
    let manifest = match &stored.manifest {
        Ok(manifest) => manifest,
        Err(error) => return format!("{id:<12} {}: {error}", "damaged".red()),
    };
    let serving = manifest.made_for.serving.as_deref().unwrap_or("-");
    let proved = stored.proved.as_ref().map_or_else(|| "no".to_owned(), |proved| words::time(proved.at));
    let columns = [
        id,
        &words::time(manifest.snapshot_at),
        &words::count(manifest.total_rows()),
        &words::bytes(manifest.total_bytes()),
        serving.get(..7).unwrap_or(serving),
        &proved,
    ];
    row(columns, lies.then(|| place(stored)))
}
