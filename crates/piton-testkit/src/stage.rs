//! A sealed environment around the real `piton`: a repository with a small app, PostgreSQL, and everything a release starts.
//!
//! A [`Stage`] has a folder, ports, roles and databases of its own, so that any number of them stand side by side. Its app is
//! `piton-test-app`, which behaves as the commit's `app.json` says; each [`Stage::commit`] is a release. What a release may
//! touch is compared through [`Stage::world`]. Whatever the stage has started ends with it.

mod app;
mod config;
mod process;
mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_postgres::{NoTls, SimpleQueryMessage};

pub use self::app::{Behaviour, Change};
pub use self::config::{Environment, Settings};
pub use self::process::{Output, Piton};
pub use self::world::World;
use crate::load::{Load, Report, Running};
use crate::postgres::{Cluster, Options};

/// How long a condition may take that [`Stage::eventually`] waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sealed environment; it and all that runs in it end when it is dropped.
#[derive(Debug)]
pub struct Stage {
    /// What `piton.toml` is made from; [`Stage::configure`] changes it.
    settings: Settings,
    piton: PathBuf,
    name: String,
    cluster: Server,
    runtime: Runtime,
    folder: TempDir,
}

/// The server that a stage's databases are on.
#[derive(Debug)]
enum Server {
    Shared(&'static Cluster),
    Own(Cluster),
}

impl Stage {
    /// Sets a stage on the process's shared PostgreSQL; says `skipped: needs postgresql` and returns `None` without one.
    ///
    /// Its repository has one commit, `v1`, whose migration makes the table `items` with a thousand rows. Nothing is
    /// released yet.
    ///
    /// # Panics
    /// When the stage cannot be set.
    pub fn set(piton: impl AsRef<Path>) -> Option<Self> {
        Some(Self::set_on(Server::Shared(Cluster::shared()?), piton.as_ref()))
    }

    /// Sets a stage on a PostgreSQL server of its own, which knows logical replication, for tests that stop it or use that;
    /// otherwise as [`Stage::set`].
    ///
    /// # Panics
    /// As [`Stage::set`].
    pub fn set_with_own_server(piton: impl AsRef<Path>) -> Option<Self> {
        let settings = vec![("wal_level", "logical".to_owned())];
        let options = Options { settings, ..Options::default() };
        Some(Self::set_on(Server::Own(Cluster::start_with(options)?), piton.as_ref()))
    }

    /// Sets a stage on a server of its own whose log production's role may follow; otherwise as [`Stage::set`].
    ///
    /// Returns `None` also before PostgreSQL 15, where only a superuser may put what was followed into a copy.
    ///
    /// # Panics
    /// As [`Stage::set`].
    pub fn set_with_log(piton: impl AsRef<Path>) -> Option<Self> {
        let settings = [("wal_level", "logical"), ("max_slot_wal_keep_size", "1GB")];
        let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
        let cluster = Cluster::start_with(Options { settings, ..Options::default() })?;
        if cluster.major() < 15 {
            return None;
        }
        let stage = Self::set_on(Server::Own(cluster), piton.as_ref());
        let role = stage.role("production");
        stage.admin(&format!("alter role \"{role}\" replication"));
        stage.admin(&format!("grant set on parameter session_replication_role to \"{role}\""));
        Some(stage)
    }

    /// Sets a stage whose production may have triggers note its writes, on a server of its own that keeps no log for that; otherwise
    /// as [`Stage::set`].
    ///
    /// # Panics
    /// As [`Stage::set`].
    pub fn set_with_triggers(piton: impl AsRef<Path>) -> Option<Self> {
        let cluster = Cluster::start_with(Options::default())?;
        let stage = Self::set_on(Server::Own(cluster), piton.as_ref());
        // Only superusers may make event triggers; and a superuser's rehearsal sees what others do on its server.
        stage.admin(&format!("alter role \"{}\" superuser", stage.role("production")));
        Some(stage)
    }

    fn set_on(cluster: Server, piton: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop");
        let folder = tempfile::Builder::new().prefix("piton-stage-").tempdir().expect("a folder");
        for below in ["home", "tmp", "app"] {
            fs::create_dir(folder.path().join(below)).expect("the stage's folders");
        }
        let name = format!("stage{:08x}", rand::random::<u32>());
        let settings = Settings::new(&name, &app::binary(piton));
        let piton = piton.to_owned();
        let stage = Self { settings, piton, name, cluster, runtime, folder };
        stage.make_databases();
        stage.git(&["init", "--quiet", "--initial-branch=main"]);
        stage.write(".gitignore", ".piton/\n.env.*\nbackups/\n");
        stage.write_config();
        stage.commit("v1", &[Change::Migration("001_items.sql", app::ITEMS)]);
        stage
    }

    /// Makes a role for each environment, production's database with its role, and no database for staging.
    fn make_databases(&self) {
        let (production, staging) = (self.role("production"), self.role("staging"));
        self.admin(&format!("create role \"{production}\" login createdb"));
        self.admin(&format!("create role \"{staging}\" login createdb"));
        self.admin(&format!("create database \"{}\" owner \"{production}\"", self.database("production")));
    }

    /// Returns the app's name, which is the stage's own.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the repository's folder, which holds `piton.toml`.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("app")
    }

    /// Returns the folder below which everything of the stage lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the PostgreSQL server.
    pub fn cluster(&self) -> &Cluster {
        match &self.cluster {
            Server::Shared(cluster) => cluster,
            Server::Own(cluster) => cluster,
        }
    }

    /// Returns what `piton.toml` is made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes `piton.toml` and the environment files, without a commit.
    pub fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.write_config();
    }

    fn write_config(&self) {
        self.write("piton.toml", &self.settings.toml());
        for environment in ["production", "staging"] {
            let mut vars = self.settings.environment(environment).vars.clone();
            vars.entry("DATABASE_URL".into()).or_insert_with(|| self.url(environment));
            let lines: Vec<String> = vars.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            self.write(&format!(".env.{environment}"), &lines.concat());
        }
    }

    /// Returns the role with which an environment reaches its database.
    pub fn role(&self, environment: &str) -> String {
        format!("{}_{environment}_user", self.name)
    }

    /// Returns an environment's database.
    pub fn database(&self, environment: &str) -> String {
        format!("{}_{environment}", self.name)
    }

    /// Returns an environment's `DATABASE_URL`.
    pub fn url(&self, environment: &str) -> String {
        self.cluster().url_as(
            &self.role(environment),
            &format!("{environment}-password"),
            &self.database(environment),
        )
    }

    /// Returns where an environment's proxy takes traffic.
    pub fn listen(&self, environment: &str) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.settings.environment(environment).ports[0]))
    }

    /// Writes a file below the repository's folder, with its folders.
    ///
    /// # Panics
    /// When it cannot.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).expect("a folder in the repository");
        }
        fs::write(path, text).expect("a file in the repository");
    }

    /// Removes a file of the repository's folder.
    ///
    /// # Panics
    /// When it is not there.
    pub fn remove(&self, path: &str) {
        fs::remove_file(self.root().join(path)).expect("a file in the repository");
    }

    /// Makes the changes and commits them: the next release, called `name`.
    ///
    /// The app behaves well unless a change says otherwise.
    ///
    /// # Panics
    /// When git refuses.
    pub fn commit(&self, name: &str, changes: &[Change<'_>]) {
        let mut behaviour = Behaviour { release: name.to_owned(), ..Behaviour::default() };
        for change in changes {
            match change {
                Change::Behaviour(change) => change(&mut behaviour),
                Change::Migration(file, sql) => self.write(&format!("migrations/{file}"), sql),
                Change::File(file, text) => self.write(file, text),
            }
        }
        self.write("app.json", &format!("{:#}\n", json!(behaviour)));
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", name]);
    }

    /// Runs git in the repository and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn git(&self, args: &[&str]) -> String {
        let output = self.seal(Command::new("git")).args(args).output().expect("git runs");
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Gives a command the stage's folder and surroundings, and of the test's own only what finds programs.
    fn seal(&self, mut command: Command) -> Command {
        let folder = self.folder.path();
        command.current_dir(self.root()).env_clear();
        for kept in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command
            .env("HOME", self.home())
            .env("TMPDIR", folder.join("tmp"))
            .envs([("NO_COLOR", "1"), ("TERM", "dumb"), ("LANG", "C.UTF-8"), ("TZ", "UTC")])
            .envs([
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_AUTHOR_NAME", "Stage"),
                ("GIT_COMMITTER_NAME", "Stage"),
            ])
            .envs([("GIT_AUTHOR_EMAIL", "stage@localhost"), ("GIT_COMMITTER_EMAIL", "stage@localhost")])
            .stdin(Stdio::null());
        command
    }

    /// Runs `piton` to its end.
    ///
    /// # Panics
    /// When it does not end within two minutes.
    pub fn piton(&self, args: &[&str]) -> Output {
        self.spawn(args, &[]).wait()
    }

    /// Runs `piton` with further variables to its end; otherwise as [`Stage::piton`].
    ///
    /// # Panics
    /// As [`Stage::piton`].
    pub fn piton_with_env(&self, args: &[&str], env: &[(&str, &str)]) -> Output {
        self.spawn(args, env).wait()
    }

    /// Starts `piton` with further variables.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, args: &[&str], env: &[(&str, &str)]) -> Piton {
        let mut command = self.seal(Command::new(&self.piton));
        command.args(args).envs(env.iter().copied());
        Piton::start(command, &self.folder.path().join("tmp"))
    }

    /// Starts `piton` on a terminal of its own, through `script` of util-linux; all that it says comes to stdout.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn_on_terminal(&self, args: &[&str]) -> Piton {
        let mut command = self.seal(Command::new("script"));
        let line =
            piton_exec::Command::new(self.piton.display().to_string()).args(args.iter().copied()).to_string();
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::piped());
        Piton::start(command, &self.folder.path().join("tmp"))
    }

    /// Releases the present commit to an environment, which has to succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn deploy(&self, environment: &str) {
        self.piton(&["deploy", environment]).expect(0);
    }

    /// Returns the environment's part of `piton status --json`.
    ///
    /// # Panics
    /// When `piton` fails.
    pub fn status(&self, environment: &str) -> Value {
        self.piton(&["status", environment, "--json"]).expect(0).json()["environments"][0].clone()
    }

    /// Returns the events of the environment's latest release, as `piton log --json` prints them.
    ///
    /// # Panics
    /// When `piton` fails.
    pub fn events(&self, environment: &str) -> Vec<Value> {
        let printed = self.piton(&["log", environment, "--json"]).expect(0).stdout;
        printed.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// Lists the identifiers of all releases that have a log, oldest first.
    ///
    /// # Panics
    /// When there is none yet.
    pub fn releases(&self) -> Vec<String> {
        let logs = fs::read_dir(self.root().join(".piton/logs")).expect("logs of releases").flatten();
        let mut ids: Vec<_> = logs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        ids.sort();
        ids
    }

    /// Tells whether a step of the environment's latest release is under way.
    ///
    /// # Panics
    /// When `piton` fails.
    pub fn is_running(&self, environment: &str, step: &str) -> bool {
        let release = &self.status(environment)["release"];
        let steps = release["steps"].as_array();
        steps.into_iter().flatten().any(|found| found["id"] == step && found["state"] == "running")
    }

    /// Runs SQL as the superuser and returns the rows, their columns joined by `|`.
    ///
    /// # Panics
    /// When the server refuses.
    #[expect(clippy::panic, reason = "a test that asks for what is not there has failed")]
    pub fn sql(&self, database: &str, sql: &str) -> Vec<String> {
        match self.try_sql(database, sql) {
            Ok(rows) => rows,
            Err(error) => panic!("{database}: {sql}: {error:?}"),
        }
    }

    fn try_sql(&self, database: &str, sql: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.cluster().url(database), NoTls).await?;
            let connection = tokio::spawn(connection);
            let answered = client.simple_query(sql).await;
            // The session is gone before this returns: nobody may be on a database that is copied or renamed.
            drop(client);
            let _ = connection.await;
            Ok(answered?.iter().filter_map(row_text).collect())
        })
    }

    fn admin(&self, sql: &str) -> Vec<String> {
        self.sql("postgres", sql)
    }

    /// Returns a load of 60 requests a second on an environment, a fifth of them writes.
    pub fn load(&self, environment: &str) -> Load {
        let mut load =
            Load::new(self.listen(environment), "/items", |id| json!({ "id": id, "note": "by the load" }));
        load.rate = 60;
        load.clients = 12;
        load.without_cookies = 4;
        load.longest = Duration::from_secs(600);
        load
    }

    /// Ends a load and returns what became of its requests.
    pub fn finish(&self, load: Running) -> Report {
        self.runtime.block_on(load.stop())
    }

    /// Returns the acknowledged writes that the database's table `items` does not hold.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn lost_writes(&self, report: &Report, database: &str) -> Vec<String> {
        self.runtime.block_on(async {
            let client = self.cluster().connect(database).await;
            report.acknowledged.lost_in_table(&client, "items").await.expect("the table can be read")
        })
    }

    /// Asks a running app or proxy; returns the status and the release that answered.
    pub fn get(&self, address: SocketAddr, path: &str) -> Option<(u16, String)> {
        self.runtime.block_on(app::get(address, path))
    }

    /// Waits until the condition holds.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            // Most conditions run a program to find out; more often, and the looking would slow down what is looked at.
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Kills every process of the stage, as a power cut would.
    pub fn end_all(&self) {
        process::end_all(&self.home());
    }

    /// Looks at everything that a release may touch.
    ///
    /// # Panics
    /// When something of it cannot be looked at.
    pub fn world(&self) -> World {
        World::look(self)
    }

    /// Returns the home folder, by which every process of the stage can be told.
    fn home(&self) -> String {
        self.folder.path().join("home").display().to_string()
    }

    /// Lists the databases that belong to the stage's roles.
    pub fn databases(&self) -> Vec<String> {
        self.admin(&format!(
            "select datname from pg_database where datdba in (select oid from pg_roles where rolname like '{}\\_%')
             order by 1",
            self.name
        ))
    }
}

fn row_text(message: &SimpleQueryMessage) -> Option<String> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    let columns: Vec<&str> = (0..row.len()).map(|n| row.get(n).unwrap_or("NULL")).collect();
    Some(columns.join("|"))
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.end_all();
        if std::env::var_os("PITON_KEEP_STAGE").is_some() {
            self.folder.disable_cleanup(true);
        }
        if matches!(self.cluster, Server::Own(_)) {
            return;
        }
        // The shared server outlives the stage; one that was stopped takes its databases with it anyway.
        let mut names = Vec::new();
        let of_stage = format!(
            "datname like '{}\\_%' or datdba in (select oid from pg_roles where rolname like '{}\\_%')",
            self.name, self.name
        );
        names.extend(
            self.try_sql("postgres", &format!("select datname from pg_database where {of_stage}"))
                .unwrap_or_default(),
        );
        for name in names {
            let _ = self.try_sql("postgres", &format!("drop database if exists \"{name}\" with (force)"));
        }
        for environment in ["staging", "production"] {
            let _ = self.try_sql("postgres", &format!("drop role if exists \"{}\"", self.role(environment)));
        }
    }
}
