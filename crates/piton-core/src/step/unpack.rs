use std::path::PathBuf;

use piton_db::manifest::Manifest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Act, Ctx, Site, Words};
use crate::fault::{Fault, OrFault};
use crate::files;

/// Unpacks the files of a backup into a new folder, each compared with what it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unpack {
    /// Where the backup lies.
    pub folder: PathBuf,
    /// The new folder.
    pub into: PathBuf,
}

impl Act for Unpack {
    fn words(&self, _site: &Site<'_>) -> Words {
        Words::new(format!("unpack its files into {}", self.into.display()), "remove the unpacked files")
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let manifest = Manifest::read(&self.folder).or_fault(|| "the backup cannot be read".into())?;
        if ctx.noted().is_some() {
            // Begun by a run that was cut off.
            files::remove_folder(&self.into)
                .or_fault(|| "what was unpacked before cannot be removed".into())?;
        } else {
            // After this nobody else's folder can be there by the same name: it is made anew.
            if self.into.exists() {
                return Err(Fault::refused(format!("{} is there already", self.into.display())));
            }
            ctx.note(&json!({ "made": true }))?;
        }
        let (folder, into) = (self.folder.clone(), self.into.clone());
        let archives = manifest.archives.clone();
        files::read_in_background(move || {
            fs_err::create_dir(&into)?;
            for archive in &archives {
                let name = archive.file.trim_start_matches("files/").trim_end_matches(".tar.gz");
                archive.unpack(&folder, &into.join(name))?;
            }
            Ok::<_, piton_db::DbError>(())
        })
        .await
        .or_fault(|| "the files cannot be unpacked".into())?;
        Ok(json!({ "files": manifest.archives.iter().map(|archive| archive.files).sum::<u64>() }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        if ctx.noted().is_none() {
            return Ok(Value::Null);
        }
        files::remove_folder(&self.into).or_fault(|| "what was unpacked cannot be removed".into())?;
        Ok(json!({ "removed": true }))
    }
}
