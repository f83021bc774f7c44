//! Any other tool, by two configured commands. It has no table that is known, so that its exit code is all there is.

use std::path::Path;

use piton_exec::Command;

use super::MigrationError;
use super::adapter::{Adapter, Known, Row, program};
use super::tool::Files;

pub(super) struct Commands {
    pub(super) apply: Vec<String>,
    pub(super) status: Vec<String>,
}

fn command(app: &Path, line: &[String]) -> Command {
    let (name, args) = line.split_first().map_or(("", &[][..]), |(name, args)| (name.as_str(), args));
    program(app, name).args(args.iter().cloned())
}

impl Adapter for Commands {
    fn record(&self) -> (Option<&'static str>, Option<&'static str>) {
        (None, None)
    }

    fn rows(&self, _files: &Files) -> Option<(&'static str, String)> {
        None
    }

    fn reads(&self, _path: &str) -> bool {
        false
    }

    fn known(&self, _files: &Files) -> Result<Vec<Known>, MigrationError> {
        Ok(Vec::new())
    }

    fn apply(&self, app: &Path, _folder: &Path, _name: &str) -> Command {
        command(app, &self.apply)
    }

    fn look(&self, app: &Path, _folder: &Path) -> Command {
        command(app, &self.status)
    }

    fn mend(&self) -> &'static str {
        "let it take its database from the variable DATABASE_URL"
    }

    fn by_hand(&self) -> &'static str {
        "the tool's own command"
    }

    fn reads_url_alone(&self) -> bool {
        true
    }

    fn mark(&self, _: &Files, _: &[Known], _: &[Row], _name: &str, _applied: bool) -> Vec<String> {
        Vec::new()
    }
}
