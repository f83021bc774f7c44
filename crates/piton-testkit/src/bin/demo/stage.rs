//! Where the demo plays: a PostgreSQL cluster, the example's repository, and `piton` in it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fs_err as fs;
use piton_exec::marker;
use piton_testkit::example;
use piton_testkit::postgres::{Cluster, Options, find_bin};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;
use tokio_postgres::Client;
use toml::Table;

use crate::Failed;

/// The variable by which everything that the demo has started is found again.
///
/// Piton gives it to each program that it starts, also to those that outlive it.
const MARK: &str = "TMPDIR";

/// Returns the demo's folder.
pub(crate) fn folder() -> PathBuf {
    example::target_dir().with_file_name("demo")
}

fn temp() -> PathBuf {
    folder().join("tmp")
}

/// Ends every process that this demo or an earlier one in the same folder has started.
pub(crate) async fn stop_everything() {
    marker::stop(MARK, &temp().display().to_string(), Duration::from_secs(5)).await;
}

#[derive(Deserialize)]
struct Status {
    environments: Vec<Environment>,
}

#[derive(Deserialize)]
struct Environment {
    release: Option<Release>,
}

/// A release as `piton status --json` tells it.
#[derive(Deserialize)]
pub(crate) struct Release {
    /// What has been done for it.
    pub(crate) steps: Vec<Step>,
}

/// A step of a release.
#[derive(Deserialize)]
pub(crate) struct Step {
    /// The part of the release that it belongs to.
    pub(crate) phase: String,
    /// What came of it, or null.
    pub(crate) outcome: Value,
    /// What came of its undo, or null.
    pub(crate) undo_outcome: Value,
}

/// The demo's surroundings.
pub(crate) struct Stage {
    /// Where production takes traffic.
    pub(crate) proxy: SocketAddr,
    piton: PathBuf,
    ports: [u16; 6],
    cluster: Cluster,
    begin: Instant,
    /// Held as long as the demo runs.
    _lock: fs::File,
}

impl Stage {
    /// Removes what an earlier demo left, starts PostgreSQL and lays the example's repository out.
    pub(crate) async fn set(piton: PathBuf) -> Result<Self, Failed> {
        let piton = fs::canonicalize(piton)?;
        fs::create_dir_all(folder())?;
        let lock = fs::File::create(folder().join("lock"))?;
        lock.file().try_lock().map_err(|_| "another demo runs in this clone")?;
        stop_everything().await;
        for left in [temp(), repository()] {
            if left.exists() {
                fs::remove_dir_all(left)?;
            }
        }
        fs::create_dir_all(temp())?;

        let server =
            find_bin().ok_or("PostgreSQL's server programs are missing; scripts/demo installs them")?;
        // What lets later writes go along when a migration goes back.
        let settings = [("wal_level", "logical"), ("max_slot_wal_keep_size", "2GB")];
        let settings = settings.map(|(name, value)| (name, value.to_owned())).to_vec();
        let cluster = Cluster::try_start(server, Options { fsync: true, settings, ..Options::default() })?;
        cluster.create_database("electricity_tokens").await;
        cluster.create_database("electricity_tokens_staging").await;
        example::lay_out(&repository())?;
        let ports = free_ports()?;
        let stage = Self {
            proxy: SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0])),
            piton,
            ports,
            cluster,
            begin: Instant::now(),
            _lock: lock,
        };
        stage.write_env_file("production", "electricity_tokens")?;
        stage.write_env_file("staging", "electricity_tokens_staging")?;
        Ok(stage)
    }

    fn write_env_file(&self, environment: &str, database: &str) -> Result<(), Failed> {
        let url = self.cluster.url(database);
        let text = format!("DATABASE_URL=\"{url}\"\nAPP_ENV=\"{environment}\"\n");
        Ok(fs::write(repository().join(format!(".env.{environment}")), text)?)
    }

    /// Checks a release out, as whoever deploys it would, with ports that are free and steps of seconds instead of hours.
    pub(crate) fn check_out(&self, tag: &str) -> Result<(), Failed> {
        let output = std::process::Command::new("git")
            .args(["checkout", "--quiet", "--force", tag])
            .current_dir(repository())
            .output()?;
        if !output.status.success() {
            return Err(format!("git checkout {tag}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let file = repository().join("piton.toml");
        let mut config: Table = fs::read_to_string(&file)?.parse()?;
        let [production, blue, green, staging, staging_blue, staging_green] = self.ports;
        config.insert("rollout".into(), rollout());
        let environments = section(&mut config, "environments")?;
        place(section(environments, "production")?, production, blue, green);
        place(section(environments, "staging")?, staging, staging_blue, staging_green);
        Ok(fs::write(file, toml::to_string(&config)?)?)
    }

    /// Fills production's tables.
    pub(crate) async fn seed(&self, purchases: u32) -> Result<(), Failed> {
        let seed = fs::read_to_string(repository().join("seed.sql"))?;
        let database = self.production().await?;
        database.batch_execute(&format!("set seed.purchases = {purchases}; {seed}")).await?;
        Ok(())
    }

    /// Opens a session on production's database.
    pub(crate) async fn production(&self) -> Result<Client, Failed> {
        self.database("electricity_tokens").await
    }

    /// Opens a session on a database.
    pub(crate) async fn database(&self, name: &str) -> Result<Client, Failed> {
        Ok(self.cluster.connect(name).await)
    }

    /// Runs `piton` as a person would, in the repository, and wants this exit code.
    pub(crate) async fn piton_expecting(&self, code: i32, args: &[&str]) -> Result<(), Failed> {
        println!("\n    $ piton {}", args.join(" "));
        let status = self.command(args).status().await?;
        if status.code() == Some(code) {
            return Ok(());
        }
        Err(format!("piton {} ended with {status}; exit code {code} was expected", args.join(" ")).into())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.piton);
        command
            .args(args)
            .current_dir(repository())
            .env(MARK, temp())
            // The releases share the built dependencies.
            .env("CARGO_TARGET_DIR", example::target_dir())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Returns an environment's latest release as `piton status --json` tells it.
    pub(crate) async fn release_of(&self, environment: &str) -> Result<Release, Failed> {
        let output =
            self.command(&["status", environment, "--json"]).stderr(Stdio::inherit()).output().await?;
        let status: Status = serde_json::from_slice(&output.stdout)?;
        let latest = status.environments.into_iter().next().and_then(|environment| environment.release);
        latest.ok_or_else(|| format!("piton status tells of no release of {environment}").into())
    }

    /// Writes a file into the demo's folder.
    pub(crate) fn keep(&self, name: &str, text: &str) -> Result<(), Failed> {
        Ok(fs::write(folder().join(name), format!("{text}\n"))?)
    }

    /// Returns the time since PostgreSQL was there.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Heads the next act.
    pub(crate) fn say(&self, what: &str) {
        println!("\n== {what} ({} s)", self.elapsed().as_secs());
    }
}

fn repository() -> PathBuf {
    folder().join("electricity-tokens")
}

fn free_ports() -> Result<[u16; 6], Failed> {
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    let ports: Result<Vec<u16>, _> =
        held.iter().map(|l| l.local_addr().map(|address| address.port())).collect();
    Ok(ports?.try_into().map_err(|_| "six ports")?)
}

fn section<'a>(table: &'a mut Table, name: &str) -> Result<&'a mut Table, Failed> {
    let section = table.get_mut(name).and_then(toml::Value::as_table_mut);
    section.ok_or_else(|| format!("piton.toml has no section `{name}`").into())
}

fn place(environment: &mut Table, listen: u16, blue: u16, green: u16) {
    environment.insert("listen".into(), format!("127.0.0.1:{listen}").into());
    let mut ports = Table::new();
    ports.insert("blue".into(), i64::from(blue).into());
    ports.insert("green".into(), i64::from(green).into());
    environment.insert("ports".into(), ports.into());
}

fn rollout() -> toml::Value {
    let steps = ["5% for 8s", "25% for 8s", "50% for 8s", "100%"].map(toml::Value::from);
    let mut rollout = Table::new();
    rollout.insert("steps".into(), steps.to_vec().into());
    rollout.insert("watch".into(), "10s".into());
    rollout.into()
}
