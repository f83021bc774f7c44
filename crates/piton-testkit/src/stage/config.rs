//! What a stage's `piton.toml` and environment files are made from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rand::RngExt as _;

/// A stage's configuration. What is not named here is fixed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The steps of production's rollout.
    pub steps: Vec<&'static str>,
    /// How long production's way back stays open.
    pub watch: &'static str,
    /// The commands that build a release.
    pub build: Vec<String>,
    /// The command that runs the app: at first the program of the stage's app.
    pub command: String,
    /// How long an app may take to become ready.
    pub ready_within: &'static str,
    /// Where backups go, below the repository or absolute.
    pub backups: PathBuf,
    /// How long backups are kept.
    pub keep: &'static str,
    /// What else stands in `backup = { … }` of production.
    pub backup_more: String,
    /// Whether production takes only what staging has run.
    pub after_staging: bool,
    /// Whether staging's data come from production; else its database is its own, and nobody makes it.
    pub staging_from_production: bool,
    /// The file with the mask for staging's data.
    pub staging_mask: Option<&'static str>,
    /// The tables whose rows staging's data are without.
    pub staging_empty: Vec<&'static str>,
    /// The command that seeds staging's database, which then is a fresh one.
    pub staging_seed: Option<&'static str>,
    /// The lines of `[database]`.
    pub database: String,
    /// The text of further tables, such as checks.
    pub more: String,
    /// The lines of `[environments.production]` that the stage itself does not write.
    pub more_production: String,
    /// Production.
    pub production: Environment,
    /// Staging.
    pub staging: Environment,
    app: String,
}

/// One environment's ports and variables.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The ports of the proxy, of blue and of green.
    pub ports: [u16; 3],
    /// The variables of the environment file; `DATABASE_URL` names the environment's own database unless it is here.
    pub vars: BTreeMap<String, String>,
}

impl Settings {
    pub(super) fn new(app: &str, program: &Path) -> Self {
        let environment = |secret: &str| Environment {
            ports: [free_port(), free_port(), free_port()],
            vars: BTreeMap::from([("SESSION_SECRET".to_owned(), format!("{secret}-secret-of-{app}"))]),
        };
        Self {
            steps: vec!["10% for 1s", "50% for 1s", "100%"],
            watch: "1s",
            build: vec!["cp app.json built.json".into()],
            command: program.display().to_string(),
            ready_within: "20s",
            backups: "backups".into(),
            keep: "14d",
            backup_more: String::new(),
            after_staging: false,
            staging_from_production: true,
            staging_mask: None,
            staging_empty: Vec::new(),
            staging_seed: None,
            database: "migrations = \"sql\"".into(),
            more: String::new(),
            more_production: String::new(),
            production: environment("production"),
            staging: environment("staging"),
            app: app.to_owned(),
        }
    }

    /// Returns one environment's part.
    ///
    /// # Panics
    /// When the name is neither `production` nor `staging`.
    #[expect(clippy::panic, reason = "a test that asks for what is not there has failed")]
    pub fn environment(&self, name: &str) -> &Environment {
        match name {
            "production" => &self.production,
            "staging" => &self.staging,
            other => panic!("no environment {other}"),
        }
    }

    pub(super) fn toml(&self) -> String {
        let mut text = format!(
            "app = {:?}\n\n[build]\nrun = {:?}\n\n[run]\ncommand = {:?}\n\
             ready = {{ get = \"/health\", within = {:?} }}\nstop_within = \"5s\"\n\n\
             [database]\n{}\n\n\
             [rollout]\nsteps = {:?}\nwatch = {:?}\n\n[gate]\nerrors = \"20%\"\n\n",
            self.app, self.build, self.command, self.ready_within, self.database, self.steps, self.watch,
        );
        for name in ["production", "staging"] {
            let [listen, blue, green] = self.environment(name).ports;
            // Writing into a string cannot fail.
            let _ = writeln!(
                text,
                "[environments.{name}]\nlisten = \"127.0.0.1:{listen}\"\n\
                 ports = {{ blue = {blue}, green = {green} }}\nbackup = {{ to = {:?}, keep = {:?}{} }}",
                self.backups.display().to_string(),
                self.keep,
                if name == "production" { self.backup_more.as_str() } else { "" },
            );
            if name == "staging" {
                let empty = match self.staging_empty.as_slice() {
                    [] => String::new(),
                    tables => format!(", empty = {tables:?}"),
                };
                let mask = self.staging_mask.map_or_else(String::new, |file| format!(", mask = \"{file}\""));
                if let Some(seed) = self.staging_seed {
                    let _ = writeln!(text, "data = {{ fresh = true, seed = {seed:?} }}");
                } else if self.staging_from_production {
                    let _ = writeln!(text, "data = {{ from = \"production\"{empty}{mask} }}");
                }
                text.push('\n');
                continue;
            }
            text.push_str("protected = true\n");
            if self.after_staging {
                text.push_str("after = \"staging\"\n");
            }
            let _ = writeln!(text, "{}", self.more_production);
        }
        text + &self.more
    }
}

/// Returns a port that nobody listens on, below those that the system gives to outgoing connections: a load may take any of
/// these between the choice and the bind.
fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut rng = rand::rng();
    loop {
        let port = rng.random_range(10_000..32_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() && given.insert(port) {
            return port;
        }
    }
}
