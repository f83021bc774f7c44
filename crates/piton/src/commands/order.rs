use std::process::ExitCode;

use piton_core::backups;
use piton_core::fault::{Fault, Kind};
use piton_core::plan::Order;
use piton_core::project::Project;
use piton_core::step::Older;

use super::{carry_on, resume};
use crate::cli;
use crate::error::Error;
use crate::view::View;

/// Takes a backup and proves it.
pub(crate) async fn backup(project: &Project, args: &cli::Order) -> Result<ExitCode, Error> {
    run(project, args, Order::Backup).await
}

/// Proves a backup once more.
pub(crate) async fn prove(project: &Project, args: &cli::Prove) -> Result<ExitCode, Error> {
    let found = find(project, &args.order.target.environment, &args.backup).await?;
    let own = found.manifest.as_ref().is_ok_and(|manifest| manifest.made_for.from.is_none());
    run(project, &args.order, Order::Proof { folder: found.folder, here: found.here, own }).await
}

/// Restores a backup into a new database.
pub(crate) async fn restore(project: &Project, args: &cli::Restore) -> Result<ExitCode, Error> {
    let backups::Stored { folder, here, .. } =
        find(project, &args.order.target.environment, &args.backup).await?;
    let files = args.files.as_ref().map(std::path::absolute).transpose();
    let files = files
        .map_err(|error| Fault::refused("the folder for the files cannot be named").caused_by(&error))?;
    run(project, &args.order, Order::Restore { folder, here, into: args.into.clone(), files }).await
}

/// Makes an environment's database anew from the one that it takes its data from.
pub(crate) async fn clone(project: &Project, args: &cli::Order) -> Result<ExitCode, Error> {
    run(project, args, Order::Clone).await
}

/// Puts an older database in the live one's place.
pub(crate) async fn rollback(project: &Project, args: &cli::Rollback, to: &str) -> Result<ExitCode, Error> {
    let (to, here) = match find(project, &args.target.environment, to).await {
        Ok(found) => (Older::Backup { folder: found.folder }, found.here),
        Err(none) => match is_database(project, &args.target.environment, to).await {
            true => (Older::Kept { name: to.to_owned() }, true),
            false => return Err(none),
        },
    };
    let order = Order::Rollback { to, here, accept: args.accept_loss };
    begin(project, &args.target, args.detach, order).await
}

async fn is_database(project: &Project, environment: &str, name: &str) -> bool {
    match project.database(environment) {
        Some(live) => piton_db::facts::exists(&live.with_name(name)).await.unwrap_or(false),
        None => false,
    }
}

async fn run(project: &Project, args: &cli::Order, order: Order) -> Result<ExitCode, Error> {
    begin(project, &args.target, args.detach, order).await
}

async fn begin(
    project: &Project,
    target: &cli::Environment,
    detach: bool,
    order: Order,
) -> Result<ExitCode, Error> {
    let settings = project.settings(&target.environment)?;
    let view = View::new();
    let recorder = project.begin_order(&settings, &order, &view).await?;
    if detach {
        return resume::by_itself(project, recorder, &view, target.json).await;
    }
    carry_on(project, recorder, &view, target.json).await
}

/// Finds a whole backup.
async fn find(project: &Project, environment: &str, part: &str) -> Result<backups::Stored, Error> {
    let settings = project.settings(environment)?;
    let (stored, unread) = project.backups(&settings).await?;
    // What is here can be used without the store; which is the latest, and what is not here, the store knows.
    let found = match (backups::find(stored, part, environment), unread) {
        (Ok(found), Some(unread)) if part == "latest" => {
            let known = format!("of those that are here, {} is the latest", found.id);
            return Err(Fault { kind: Kind::Refused, ..unread.because(known) }.into());
        }
        (Err(none), Some(unread)) => {
            return Err(Fault { kind: Kind::Refused, ..unread.because(none.what) }.into());
        }
        (found, _) => found?,
    };
    match &found.manifest {
        Ok(_) => Ok(found),
        Err(error) => Err(Fault::refused(format!("the backup {} is damaged", found.id))
            .caused_by(error)
            .hint(match found.here && found.stored {
                true => format!("with {} moved away it is fetched from the store", found.folder.display()),
                false => format!("piton backups {environment} lists the others"),
            })
            .into()),
    }
}
