//! The migrations of a commit that is not built.

use std::path::{Component, Path, PathBuf};

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
        // The whole commit is in the index: attributes that say how files are written may stand anywhere above them.
        local::run(&git().args(["read-tree", commit])).await.or_fault(unwritten)?;
        let above = local::read(&git().args(["rev-parse", "--show-prefix"])).await.or_fault(unwritten)?;
        let within = Path::new(String::from_utf8_lossy(&above).trim_end()).join(&migrations.folder);
        let within: PathBuf = within.components().filter(|part| *part != Component::CurDir).collect();
        let list = git().args(["ls-tree", "-r", "-z", "--name-only", "--full-tree", commit, "--"]);
        let list = if within.as_os_str().is_empty() { list } else { list.arg(within.display().to_string()) };
        let listed = local::read(&list).await.or_fault(unwritten)?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let reads = |path: &&str| {
            let path = Path::new(path).strip_prefix(&within).ok().and_then(Path::to_str);
            path.is_some_and(|path| migrations.tool.reads(path))
        };
        let wanted: Vec<&str> = listed.split('\0').filter(reads).collect();
        // A command line has its limit.
        for some in wanted.chunks(500) {
            let checkout = git().args(["--work-tree", &work, "checkout-index", "--force", "--"]);
            local::run(&checkout.args(some.iter().copied())).await.or_fault(unwritten)?;
        }
        let tree = tree.join(within);
        fs_err::create_dir_all(&tree).or_fault(unwritten)?;
        let tool = migrations.tool.clone();
        let migrations = migrate::Migrations { tool, app: tree.clone(), folder: tree };
        Ok(Self { migrations, _folder: temporary })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_written_as_a_checkout_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        let root = top.join("shop");
        fs_err::create_dir_all(root.join("migrations/notes")).unwrap();
        fs_err::write(top.join(".gitattributes"), "*.sql text eol=crlf\n").unwrap();
        for name in ["1.sql", "notes/2.sql", "README"] {
            fs_err::write(root.join("migrations").join(name), "select 1;\n").unwrap();
        }
        let git = |args: &[&str]| {
            let output = std::process::Command::new("git").arg("-C").arg(top).args(args).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        git(&["init", "--quiet"]);
        git(&["add", "."]);
        let name = ["-c", "user.name=x", "-c", "user.email=x@localhost"];
        git(&[&name[..], &["commit", "--quiet", "--message", "first"]].concat());
        let commit = git(&["rev-parse", "HEAD"]);
        for (folder, file) in [("migrations", Some("1.sql")), (".", None), ("nowhere", None)] {
            let migrations = Migrations { tool: migrate::Tool::Sql, folder: folder.into() };
            let look = OfCommit::look(&commit, &root, &migrations).await.unwrap();
            let found: Vec<_> = fs_err::read_dir(&look.migrations.folder).unwrap().collect();
            assert_eq!(found.len(), usize::from(file.is_some()), "{folder}: {found:?}");
            if let Some(file) = file {
                let text = fs_err::read_to_string(look.migrations.folder.join(file)).unwrap();
                assert_eq!(text, "select 1;\r\n");
            }
        }
    }
}
