use std::path::Path;
use std::process::ExitCode;

use piton_core::config::{self, FILE_NAME};
use piton_core::fault::Fault;

use crate::error::Error;
use crate::ui;

/// Writes a piton.toml from what is found in the folder.
pub(crate) fn run(dir: &Path) -> Result<ExitCode, Error> {
    let path = dir.join(FILE_NAME);
    let proposal = config::propose(dir);
    let cannot = |error: std::io::Error| {
        let there = error.kind() == std::io::ErrorKind::AlreadyExists;
        let fault = Fault::refused(format!("{} cannot be written", path.display())).caused_by(&error);
        Error::from(if there { fault.hint("edit it; piton config ENV shows what it means") } else { fault })
    };
    let mut file = fs_err::OpenOptions::new().write(true).create_new(true).open(&path).map_err(cannot)?;
    std::io::Write::write_all(&mut file, proposal.text.as_bytes()).map_err(cannot)?;
    for found in &proposal.found {
        ui::talk(&format!("found {found}"));
    }
    ui::talk(&format!("wrote {}; look it through, then: piton plan staging", path.display()));
    Ok(ExitCode::SUCCESS)
}
