//! The migrations of a commit that is not built.

use std::path::Path;

use piton_db::migrate;
use piton_exec::{Command, local};
use tempfile::TempDir;

use crate::config::Migrations;
use crate::fault::{Fault, OrFault};

/// The migrations of a commit, in a folder that goes when this is dropped.
#[derive(Debug)]
pub struct OfCommit {
    /// The migrations; nothing but their files is there, so that no tool can run.
    pub migrations: migrate::Migrations,
    _folder: TempDir,
}

impl OfCommit {
    /// Writes what says something about the migrations, as a checkout has it; a folder that the commit has not is empty.
    ///
    /// # Errors
    /// When git cannot tell.
    pub async fn look(commit: &str, root: &Path, migrations: &Migrations) -> Result<Self, Fault> {
        let unwritten = || "the commit's migrations cannot be looked at".to_owned();
        let temporary = tempfile::Builder::new().prefix("piton-look-").tempdir().or_fault(unwritten)?;
        let tree = temporary.path().join("tree");
        fs_err::create_dir(&tree).or_fault(unwritten)?;
        let (root, work) = (root.display().to_string(), tree.display().to_string());
        let index = temporary.path().join("index").display().to_string();
        let git = || Command::new("git").args(["-C", &root]).env("GIT_INDEX_FILE", &index);
        let folder = migrations.folder.display().to_string();
        let within = match folder.as_str() {
            "." => format!("{commit}:./"),
            folder => format!("{commit}:./{folder}"),
        };
        let is_there = local::run(&git().args(["rev-parse", "--verify", "--quiet", &within])).await.is_ok();
        if is_there {
            local::run(&git().args(["read-tree", &within])).await.or_fault(unwritten)?;
            let listed = local::read(&git().args(["--work-tree", &work, "ls-files", "-z"])).await;
            let listed = String::from_utf8_lossy(&listed.or_fault(unwritten)?).into_owned();
            let wanted: Vec<&str> = listed.split('\0').filter(|path| migrations.tool.reads(path)).collect();
            // A command line has its limit.
            for some in wanted.chunks(500) {
                let checkout = git().args(["--work-tree", &work, "checkout-index", "--force", "--"]);
                local::run(&checkout.args(some.iter().copied())).await.or_fault(unwritten)?;
            }
        }
        let tool = migrations.tool.clone();
        let migrations = migrate::Migrations { tool, app: tree.clone(), folder: tree };
        Ok(Self { migrations, _folder: temporary })
    }
}
