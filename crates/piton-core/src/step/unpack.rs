use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use piton_db::manifest::Manifest;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
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

/// What was unpacked, noted before it takes its name.
#[derive(Debug, Serialize, Deserialize)]
struct Unpacked {
    inode: u64,
}

impl Act for Unpack {
    fn words(&self, _site: &Site<'_>) -> Words {
        Words::new(format!("unpack its files into {}", self.into.display()), "remove the unpacked files")
    }

    async fn act(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let manifest = Manifest::read(&self.folder).or_fault(|| "the backup cannot be read".into())?;
        let files = manifest.archives.iter().map(|archive| archive.files).sum::<u64>();
        if self.is_in_place(ctx)? {
            return Ok(json!({ "files": files }));
        }
        if self.into.exists() {
            return Err(Fault::refused(format!("{} is there already", self.into.display())));
        }
        let unfinished = self.unfinished(ctx);
        let (folder, into) = (self.folder.clone(), unfinished.clone());
        let archives = manifest.archives.clone();
        files::write_in_background("unpacking", move || {
            // Of a run that was cut off.
            files::remove_folder(&into)?;
            // What an app was sent is nobody else's business.
            std::fs::DirBuilder::new().mode(0o700).create(&into)?;
            for archive in &archives {
                let name = archive.file.trim_start_matches("files/").trim_end_matches(".tar.gz");
                archive.unpack(&folder, &into.join(name))?;
            }
            Ok::<_, piton_db::DbError>(())
        })
        .await
        .or_fault(|| format!("the files cannot be unpacked into {}", self.into.display()))?;
        let cannot = || format!("{} cannot be made", self.into.display());
        // Known again by its number, whatever a person puts there by the same name.
        ctx.note(&Unpacked { inode: inode(&unfinished).or_fault(cannot)? })?;
        put_in_place(&unfinished, &self.into).or_fault(cannot)?;
        Ok(json!({ "files": files }))
    }

    async fn undo(&self, ctx: &Ctx<'_, '_>) -> Result<Value, Fault> {
        let in_place = self.is_in_place(ctx)?;
        for folder in [Some(self.unfinished(ctx)), in_place.then(|| self.into.clone())].into_iter().flatten()
        {
            files::remove_folder_in_background(&folder)
                .await
                .or_fault(|| "what was unpacked cannot be removed".into())?;
        }
        Ok(json!({ "removed": in_place }))
    }
}

impl Unpack {
    /// Returns the folder that becomes the wanted one when it is whole.
    fn unfinished(&self, ctx: &Ctx<'_, '_>) -> PathBuf {
        let name = self.into.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.into.with_file_name(format!(".{name}.{}.unfinished", ctx.plan.id))
    }

    /// Tells whether the wanted folder is the one that this run has unpacked.
    fn is_in_place(&self, ctx: &Ctx<'_, '_>) -> Result<bool, Fault> {
        let noted = ctx.noted().and_then(|note| serde_json::from_value::<Unpacked>(note).ok());
        match (noted, inode(&self.into)) {
            (Some(noted), Ok(inode)) => Ok(noted.inode == inode),
            (_, Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Fault::surroundings(format!("{} cannot be read", self.into.display())).caused_by(&error))
            }
            _ => Ok(false),
        }
    }
}

/// Renames a folder to a name that nobody has taken meanwhile.
fn put_in_place(from: &Path, to: &Path) -> std::io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // NFS and others do not know the flag; a folder that holds anything is not replaced there either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => std::fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

fn inode(path: &Path) -> std::io::Result<u64> {
    Ok(fs_err::symlink_metadata(path)?.ino())
}
