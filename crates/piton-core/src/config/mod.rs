//! The configuration: `piton.toml` read, checked and resolved for one environment.
//!
//! [`load`] reads the file and reports all that is wrong in it; [`Config::environment`] fills in the variables of one
//! environment and returns its [`Settings`]. `${NAME}` in a value is looked up in the environment's `env_file` first and in
//! Piton's own environment second; `$$` is a dollar sign. Names (of the app, environments and checks) are taken as they are
//! written.

mod checks;
mod context;
mod document;
mod dotenv;
mod error;
mod init;
mod model;
mod resolve;
mod schema;
mod secrets;
mod settings;
mod structure;
mod tools;
mod validate;
mod values;
mod window;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use error::ConfigError;
pub use init::{Proposal, propose};
pub(crate) use model::usual_env_file;
pub use schema::json_schema;
pub(crate) use secrets::password_of;
pub use secrets::{equal_secrets, live_keys_outside_protected, secret_names, test_keys_inside_protected};
pub use settings::{
    Backup, Build, Check, CheckKind, ColumnCheck, Data, DataFrom, Database, Engine, ForeignKey, Gate,
    HttpCheck, JsonExpectation, LintLevel, MaskFile, Migrations, Origin, OriginEntry, Ports, Ready,
    ReferentialAction, Rollout, Run, RunWith, Scalar, Settings, SqlCheck, TableCheck, TableName,
};
pub use values::{
    CommandLine, Percent, RolloutStep, ValueError, format_duration, parse_duration, parse_listen,
};
pub use window::Window;

use context::{Context, EnvFile, Variables};
use document::Document;
pub(crate) use error::nearest;
use error::{Problem, listed};
use resolve::Asked;

/// The name of the configuration file.
pub const FILE_NAME: &str = "piton.toml";

/// A configuration that was read and found right, still for all environments.
#[derive(Clone, Debug)]
pub struct Config {
    root: PathBuf,
    document: Document,
    file: model::File,
}

/// Reads `piton.toml` of the folder, or of the nearest folder above it that has one.
///
/// # Errors
/// When there is none, it cannot be read, or something in it is wrong whatever the environment; all mistakes at once.
pub fn load(dir: &Path) -> Result<Config, ConfigError> {
    let unreadable = |path: &Path, error: &std::io::Error| {
        ConfigError::bare(Problem::new(format!("{} cannot be read: {error}", path.display())))
    };
    let dir = dir.canonicalize().map_err(|error| unreadable(dir, &error))?;
    let Some(root) = dir.ancestors().find(|folder| folder.join(FILE_NAME).is_file()) else {
        let message = format!("there is no {FILE_NAME} in {} or a folder above it", dir.display());
        return Err(ConfigError::bare(Problem::new(message).help("write one with `piton init`")));
    };
    let path = root.join(FILE_NAME);
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
    let shown = if root == dir { FILE_NAME.to_owned() } else { path.display().to_string() };
    parse(root, &shown, &text)
}

/// Reads the text of a configuration that stands in `root`; `name` is how errors call it.
fn parse(root: &Path, name: &str, text: &str) -> Result<Config, ConfigError> {
    let syntax = |error: &toml::de::Error| {
        let problem = Problem::new(format!("{name} is not TOML: {}", error.message()));
        ConfigError::in_file(name, text, vec![problem.at(error.span(), "here")])
    };
    let tree = DeTable::parse(text).map_err(|error| syntax(&error))?;
    let document = Document::new(name, text, &tree);
    let problems = structure::check(&json_schema(), &tree);
    if !problems.is_empty() {
        return Err(document.error(problems));
    }
    let file: model::File = toml::from_str(text).map_err(|error| syntax(&error))?;
    let config = Config { root: root.to_owned(), document, file };
    let mut problems = validate::validate(&config.file, &config.document);
    for name in config.file.environments.keys() {
        // What does not hang on variables is wrong for every environment: name it before one of them is released.
        if let Err(found) = config.resolve(name, &Variables::Unknown) {
            problems.extend(found);
        }
    }
    // What several environments have in common was found once for each of them.
    let mut once: Vec<Problem> = Vec::new();
    for problem in problems {
        if !once.contains(&problem) {
            once.push(problem);
        }
    }
    if once.is_empty() { Ok(config) } else { Err(config.document.error(once)) }
}

impl Config {
    /// Returns the folder that holds `piton.toml`, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the app's name.
    pub fn app(&self) -> &str {
        &self.file.app
    }

    /// Returns the names of the environments, in the order of the file.
    pub fn environments(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.file.environments.keys().map(String::as_str).collect();
        names.sort_by_key(|name| self.document.key(&format!("environments.{name}")).map(|place| place.start));
        names
    }

    /// Refuses a name that is no environment's, with the nearest one.
    ///
    /// # Errors
    /// When there is no such environment.
    pub fn known(&self, name: &str) -> Result<(), ConfigError> {
        if self.file.environments.contains_key(name) {
            return Ok(());
        }
        let names = self.environments();
        let near = nearest(name, names.iter().copied());
        let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        let problem = Problem::new(format!("there is no environment `{name}`{near}"));
        Err(ConfigError::bare(problem.help(format!("there is: {}", listed(names)))))
    }

    /// Resolves the settings of one environment; `process_env` reads a variable of Piton's own environment.
    ///
    /// # Errors
    /// When there is no such environment, its `env_file` cannot be read, a variable has no value, or a value that a variable
    /// was filled into is wrong.
    pub fn environment(
        &self,
        name: &str,
        process_env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Settings, ConfigError> {
        self.known(name)?;
        let env_file = self.env_file(name).map_err(|problem| self.document.error(vec![problem]))?;
        let variables = Variables::Known { env_file, process: process_env };
        self.resolve(name, &variables).map(|settings| *settings).map_err(|found| self.document.error(found))
    }

    /// Tells whether people depend on an environment.
    pub fn is_protected(&self, name: &str) -> bool {
        self.file.environments.get(name).is_some_and(|environment| environment.protected.unwrap_or(false))
    }

    /// Returns an environment's file of variables, as configured, and whether it is on this machine.
    pub fn env_file_of(&self, name: &str) -> (PathBuf, bool) {
        let path = self.file.env_path(name);
        // One that cannot even be looked for may be there.
        let is_there = self.root.join(&path).try_exists().unwrap_or(true);
        (path, is_there)
    }

    /// Resolves an environment; without variables the error is empty when nothing else is wrong.
    fn resolve(&self, name: &str, variables: &Variables<'_>) -> Result<Box<Settings>, Vec<Problem>> {
        let mut cx = Context::new(&self.document, name, variables);
        let asked =
            Asked { root: &self.root, file: &self.file, name, environment: &self.file.environments[name] };
        match resolve::resolve(asked, variables, &mut cx) {
            Some(settings) if cx.problems.is_empty() => Ok(Box::new(settings)),
            _ => Err(cx.problems),
        }
    }

    /// Reads the environment's file of variables: the configured one, or `.env.NAME` when it exists.
    fn env_file(&self, name: &str) -> Result<Option<EnvFile>, Problem> {
        let path = self.file.env_path(name);
        let key = format!("environments.{name}.env_file");
        if !self.document.has(&key) && !self.root.join(&path).is_file() {
            return Ok(None);
        }
        let read = EnvFile::read(&self.root, &path);
        read.map(Some).map_err(|message| {
            Problem::new(message).at(self.document.value(&key), "this file").help(format!(
                "it holds one NAME=value a line: all that {name}'s app gets, and what ${{NAME}} in piton.toml stands for"
            ))
        })
    }
}
