use std::path::{Path, PathBuf};

use piton_db::manifest::Manifest;
use piton_db::store::Store;
use piton_db::{DbError, backup};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::backup::Reports;
use super::{Act, Ctx, Site, Words, disk};
use crate::config::Settings;
use crate::fault::{Fault, Kind, OrFault};
use crate::files;

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

fn id(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
        let reports = Reports::new(ctx);
        let sent = store.put(&self.folder, &id(&self.folder), &mut |report| reports.take(report)).await;
        let environment = &ctx.plan.environment;
        Ok(json!({ "sent": sent.map_err(|error| store_unusable(environment, &error))? }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let (Some(store), id) = (store_of(ctx.settings())?, id(&self.folder)) else { return Ok(Value::Null) };
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

impl Act for Fetch {
    fn words(&self, site: &Site<'_>) -> Words {
        Words::new(
            format!("fetch it from {}", shown(site)),
            "an unfinished copy is removed, a whole one is kept",
        )
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let store = planned(ctx)?;
        if let Some(parent) = self.folder.parent() {
            files::private_folder(parent).or_fault(|| format!("{} cannot be made", parent.display()))?;
        }
        let reports = Reports::new(ctx);
        let got = store.get(&id(&self.folder), &self.folder, &mut |report| reports.take(report)).await;
        let received = got.map_err(|error| match error {
            DbError::Io(error) if disk::says_full(&error.to_string()) => {
                Fault::surroundings("the backup cannot be fetched")
                    .caused_by(&error)
                    .hint(disk::mend(&self.folder, &format!("piton resume {}", ctx.plan.environment)))
            }
            DbError::BadManifest { .. } => Fault {
                kind: Kind::Release,
                ..Fault::surroundings("the backup was altered in the store").caused_by(&error)
            },
            _ => store_unusable(&ctx.plan.environment, &error),
        })?;
        Ok(json!({ "received": received }))
    }

    async fn undo(&self, _ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        match Manifest::read(&self.folder) {
            Ok(_) | Err(DbError::BadManifest { .. }) => Ok(json!({ "kept": self.folder })),
            Err(_) => {
                backup::discard(&self.folder)
                    .await
                    .or_fault(|| "what was fetched cannot be removed".into())?;
                Ok(Value::Null)
            }
        }
    }
}
