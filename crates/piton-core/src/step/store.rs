use std::path::PathBuf;

use piton_db::manifest::Manifest;
use piton_db::store::Store;
use piton_db::{DbError, backup};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::backup::{id, say, way_on};
use super::{Act, Ctx, Site, Words, disk};
use crate::config::Settings;
use crate::fault::{Fault, OrFault};
use crate::files;
use crate::plan::Job;

/// Copies the proved backup into the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Upload {
    /// Where the backup lies.
    pub folder: PathBuf,
}

/// Copies a backup from the store into its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fetch {
    /// Where it will lie.
    pub folder: PathBuf,
}

/// Opens the environment's store; `None` when it has none.
pub(crate) fn store_of(settings: &Settings) -> Result<Option<Store>, Fault> {
    let Some(place) = &settings.backup.store else { return Ok(None) };
    let opened = Store::open(place, &settings.app, &settings.environment);
    opened.map(Some).map_err(|error| store_unusable(&settings.environment, &error))
}

/// Says why a store cannot be used, and where it is written down.
pub(crate) fn store_unusable(environment: &str, error: &DbError) -> Fault {
    let hint = match error {
        DbError::Store { denied: true, .. } => format!(
            "backup.store of {environment} in piton.toml has the key: it needs to list, read and write in that place"
        ),
        _ => format!("look at backup.store of {environment} in piton.toml, and whether its server answers"),
    };
    Fault::surroundings("the store of backups cannot be used").caused_by(error).hint(hint)
}

/// The store of a plan that has one: the file may have changed since.
fn planned(ctx: &Ctx<'_, '_>) -> Result<Store, Fault> {
    store_of(ctx.settings())?.ok_or_else(|| {
        Fault::surroundings(format!("{} has no store of backups any more", ctx.plan.environment)).hint(
            format!(
                "write backup.store into piton.toml again, then piton resume {0}; or piton abort {0}",
                ctx.plan.environment
            ),
        )
    })
}

fn shown(site: &Site<'_>) -> String {
    site.settings.backup.store.as_ref().map_or_else(|| "the store".into(), ToString::to_string)
}

impl Act for Upload {
    fn words(&self, site: &Site<'_>) -> Words {
        Words::new(
            format!("copy the proved backup into {}", shown(site)),
            "an unfinished copy is removed, a whole one is kept",
        )
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let store = planned(ctx)?;
        let sent = store.put(&self.folder, &id(&self.folder), &mut |progress| say(ctx, &progress)).await;
        let sent = sent.map_err(|error| match error {
            DbError::Store { .. } => store_unusable(&ctx.plan.environment, &error),
            _ => Fault::surroundings("the backup cannot be read").caused_by(&error),
        });
        // What was taken is here, and proved: to prove it again copies it.
        let later = match ctx.plan.job {
            Job::Backup => format!("piton prove {} {}", ctx.plan.environment, id(&self.folder)),
            _ => way_on(ctx, &self.folder),
        };
        Ok(json!({ "sent": sent.map_err(|fault| then(fault, &later))? }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let id = id(&self.folder);
        let store = match store_of(ctx.settings()) {
            Ok(Some(store)) => store,
            Ok(None) => return Ok(Value::Null),
            Err(fault) => return Ok(json!({ "left": fault.what })),
        };
        let removed = async {
            match store.list().await?.get(&id) {
                Some(held) if held.whole => Ok(json!({ "kept": id })),
                Some(_) => store.remove(&id).await.map(|()| Value::Null),
                None => Ok(Value::Null),
            }
        };
        // What is not whole harms nobody, and a store that is away shall keep no release from going back: Prune comes by again.
        Ok(removed.await.unwrap_or_else(|error: DbError| json!({ "left": error.to_string() })))
    }
}

/// Adds the command that follows to what has to be mended before.
fn then(fault: Fault, command: &str) -> Fault {
    let hint = fault.hint.as_ref().map_or_else(|| "mend it".into(), Clone::clone);
    fault.hint(format!("{hint}; then {command}"))
}

impl Act for Fetch {
    fn words(&self, site: &Site<'_>) -> Words {
        Words::new(
            format!("fetch it from {}", shown(site)),
            "an unfinished copy is removed, a whole one is kept",
        )
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let (store, id) = (planned(ctx)?, id(&self.folder));
        if let Some(parent) = self.folder.parent() {
            files::private_folder(parent).or_fault(|| format!("{} cannot be made", parent.display()))?;
        }
        let error = match store.get(&id, &self.folder, &mut |progress| say(ctx, &progress)).await {
            Ok(received) => return Ok(json!({ "received": received })),
            Err(error) => error,
        };
        let fault = match &error {
            DbError::BadManifest { file, .. } if file.starts_with(&self.folder) => {
                return Err(Fault::release("the backup's manifest is damaged")
                    .caused_by(&error)
                    .hint(format!("with {} moved away it is fetched anew", self.folder.display())));
            }
            DbError::Damaged { .. } | DbError::BadManifest { .. } => {
                let fault = Fault::release("the backup was altered in the store").caused_by(&error);
                // Taken back there, so that nobody relies on it.
                return Err(match store.not_proved(&id).await {
                    Ok(()) => fault,
                    Err(error) => fault.because(format!("and the proof before it stays there: {error}")),
                }
                .hint(format!(
                    "look who writes to the store; piton backups {} lists the others",
                    ctx.plan.environment
                )));
            }
            DbError::Store { .. } => store_unusable(&ctx.plan.environment, &error),
            _ if disk::says_full(&error.to_string()) => {
                return Err(Fault::surroundings("the backup cannot be fetched")
                    .caused_by(&error)
                    .hint(disk::mend(&self.folder, &way_on(ctx, &self.folder))));
            }
            _ => Fault::surroundings("the backup cannot be fetched").caused_by(&error),
        };
        Err(then(fault, &way_on(ctx, &self.folder)))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        match Manifest::read(&self.folder) {
            Ok(_) | Err(DbError::BadManifest { .. }) => Ok(json!({ "kept": self.folder })),
            Err(DbError::NoManifest { .. }) => match backup::discard(&self.folder).await {
                // Somebody else's files: this has not begun there.
                Ok(()) | Err(DbError::ForeignFolder { .. }) => Ok(Value::Null),
                Err(error) => {
                    Err(Fault::surroundings("what was fetched cannot be removed").caused_by(&error))
                }
            },
            Err(error) => Err(Fault::surroundings("the backup cannot be read").caused_by(&error)),
        }
    }
}
