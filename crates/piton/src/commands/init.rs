use std::path::Path;
use std::process::ExitCode;

use piton_core::config::{self, FILE_NAME};
use piton_core::fault::Fault;
use piton_exec::{Command, ExecError, local};

use crate::error::Error;
use crate::ui;

/// Writes a piton.toml from what is found in the folder.
pub(crate) async fn run(dir: &Path) -> Result<ExitCode, Error> {
    let path = dir.join(FILE_NAME);
    let proposal = config::propose(dir);
    let cannot = |error: std::io::Error| {
        let path = path.display();
        Error::from(if error.kind() == std::io::ErrorKind::AlreadyExists {
            Fault::refused(format!("there is a {path} already"))
                .hint("edit it; piton config ENV shows what it means")
        } else {
            Fault::refused(format!("{path} cannot be written")).caused_by(&error)
        })
    };
    let mut file = fs_err::OpenOptions::new().write(true).create_new(true).open(&path).map_err(cannot)?;
    std::io::Write::write_all(&mut file, proposal.text.as_bytes()).map_err(cannot)?;
    for found in &proposal.found {
        ui::talk(&format!("found {found}"));
    }
    for missing in &proposal.missing {
        ui::talk(&format!("not found, write it yourself: {missing}"));
    }
    for file in &proposal.env_files {
        if is_taken_by_git(dir, file).await {
            ui::talk(&format!(
                "warning: git does not ignore {file}, which holds secrets; echo {file} >> .gitignore, and git rm --cached {file} where git \
                 has it already"
            ));
        }
    }
    ui::talk(&format!("wrote {}; look it through, then: piton plan staging", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// Tells whether a commit of everything would hold a file; outside of a repository, and without git, none does.
async fn is_taken_by_git(dir: &Path, file: &str) -> bool {
    let dir = dir.display().to_string();
    let look = Command::new("git").args(["-C", &dir, "check-ignore", "--quiet", "--", file]);
    // 1 is a file that is not ignored, or that was committed all the same.
    matches!(local::run(&look).await, Err(ExecError::Failed { output, .. }) if output.code == 1)
}
