//! Throw-away PostgreSQL clusters.
//!
//! A [`Cluster`] has its own folder, port and socket, and is stopped and removed when it is dropped. A watchdog does the
//! same when the test process dies in any other way, so that a killed test leaves no server behind.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use fs_err as fs;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// The user that owns a cluster's server when the tests run as root, whom the server refuses.
const SERVER_USER: &str = "postgres";

/// How a cluster is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Whether the server syncs its files; needed only where the server itself is killed.
    pub fsync: bool,
    /// Server settings, such as `("max_prepared_transactions", "5")`.
    pub settings: Vec<(&'static str, String)>,
    /// Whether new databases sort by ICU unless they say otherwise; from PostgreSQL 15 on, where the server was built with it.
    pub icu: bool,
}

/// How [`Cluster::stop`] ends the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Ends the sessions and writes a checkpoint.
    Fast,
    /// Ends everything at once, as a crash does.
    Immediate,
}

/// Why a cluster could not be made or steered.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The folder could not be made, or a program could not be started.
    #[error("the cluster's files or programs could not be used")]
    Io(#[from] io::Error),
    /// A server program said no.
    #[error("{program} failed: {said}")]
    Program {
        /// The program's name.
        program: String,
        /// Its last words, and the server's log.
        said: String,
    },
    /// The tests run as root and no other user can own the server.
    #[error("the server refuses to run as root and there is no user `{SERVER_USER}`")]
    NoUser,
}

/// A PostgreSQL server of its own on 127.0.0.1, with the superuser `postgres` and no passwords asked.
#[derive(Debug)]
pub struct Cluster {
    bin: PathBuf,
    port: u16,
    options: Options,
    // Fields drop in this order: `Drop` stops the server, the folder goes, then the watchdog finds nothing to do.
    dir: TempDir,
    _watchdog: Watchdog,
}

impl Cluster {
    /// Starts a cluster without fsync, or says `skipped: needs postgresql` and returns `None`.
    ///
    /// # Panics
    /// When the server is there but does not start; when it is missing and `PITON_REQUIRE_ALL=1`.
    pub fn start() -> Option<Self> {
        Self::start_with(Options::default())
    }

    /// Starts a cluster as the options say; otherwise as [`Cluster::start`].
    ///
    /// # Panics
    /// As [`Cluster::start`].
    #[expect(clippy::panic, reason = "a test whose server does not start has failed")]
    pub fn start_with(options: Options) -> Option<Self> {
        let Some(bin) = find_bin() else {
            skip("postgresql");
            return None;
        };
        match Self::try_start(bin, options) {
            Ok(cluster) => Some(cluster),
            Err(error) => panic!("no throw-away cluster: {error}"),
        }
    }

    /// Returns the cluster that all tests of this process share, started at the first call.
    ///
    /// It ends with the process. Each test takes databases of its own name in it, and leaves server-wide settings alone.
    ///
    /// # Panics
    /// As [`Cluster::start`].
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        // With a hundred databases a worker would start every second, to find nothing to do.
        let settings = vec![("autovacuum_naptime", "1d".to_owned())];
        SHARED.get_or_init(|| Self::start_with(Options { settings, ..Options::default() })).as_ref()
    }

    /// Starts a cluster with the server programs in `bin`.
    ///
    /// # Errors
    /// Whatever keeps the server from answering.
    pub fn try_start(bin: PathBuf, options: Options) -> Result<Self, ClusterError> {
        let mut cluster = Self::in_new_folder(bin, options)?;
        let data = cluster.data_dir().display().to_string();
        let mut args =
            vec!["-D", &data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"];
        let plain = args.clone();
        if cluster.options.icu && major_of(&cluster.bin).is_some_and(|major| major >= 15) {
            args.extend(["--locale-provider=icu", "--icu-locale=en-US"]);
        }
        match cluster.program("initdb", &args) {
            Err(ClusterError::Program { said, .. }) if said.contains("ICU is not supported") => {
                cluster.program("initdb", &plain)?;
            }
            made => made?,
        }
        cluster.start_on_free_port()?;
        Ok(cluster)
    }

    /// Starts a physical copy of this cluster: another server with the same system identifier and the same databases.
    ///
    /// # Errors
    /// Whatever keeps the copy from being taken or from answering.
    pub fn physical_copy(&self) -> Result<Self, ClusterError> {
        let mut copy = Self::in_new_folder(self.bin.clone(), self.options.clone())?;
        let (from, port) = (self.dir.path().display().to_string(), self.port.to_string());
        let data = copy.data_dir().display().to_string();
        copy.program(
            "pg_basebackup",
            &["-h", &from, "-p", &port, "-U", "postgres", "-D", &data, "-c", "fast", "--no-sync"],
        )?;
        copy.start_on_free_port()?;
        Ok(copy)
    }

    fn in_new_folder(bin: PathBuf, options: Options) -> Result<Self, ClusterError> {
        let dir = tempfile::Builder::new().prefix("piton-pg-").tempdir()?;
        if am_root() {
            let (uid, gid) = server_user()?;
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        let watchdog = Watchdog::start(dir.path())?;
        Ok(Self { bin, port: 0, options, dir, _watchdog: watchdog })
    }

    /// Between the choice of a free port and the server's bind another process may take it: then another one is tried.
    fn start_on_free_port(&mut self) -> Result<(), ClusterError> {
        let mut attempts = 0;
        loop {
            self.port = free_port()?;
            match self.start_again() {
                Err(_) if attempts < 5 => attempts += 1,
                ended => return ended,
            }
        }
    }

    /// Returns the server's TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the server's data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Returns the folder of the server programs, such as `/usr/lib/postgresql/15/bin`.
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// Returns the superuser's URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns another user's URL of a database; the password is not checked by this server.
    pub fn url_as(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgresql://{user}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the server's major version; 0 when its programs do not tell.
    pub fn major(&self) -> u32 {
        major_of(&self.bin).unwrap_or_default()
    }

    /// Opens a superuser's session; it ends when the client is dropped.
    ///
    /// # Panics
    /// When the server refuses.
    #[expect(clippy::panic, reason = "a test that cannot reach its own server has failed")]
    pub async fn connect(&self, database: &str) -> Client {
        match tokio_postgres::connect(&self.url(database), NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                client
            }
            Err(error) => panic!("no session on {database}: {error}"),
        }
    }

    /// Creates an empty database.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn create_database(&self, name: &str) {
        let statement = format!("create database \"{}\"", name.replace('"', "\"\""));
        let created = self.connect("postgres").await.batch_execute(&statement).await;
        assert!(created.is_ok(), "{statement}: {created:?}");
    }

    /// Stops the server.
    ///
    /// # Errors
    /// When it is not running or does not end.
    pub fn stop(&self, mode: StopMode) -> Result<(), ClusterError> {
        let data = self.data_dir().display().to_string();
        let mode = match mode {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        };
        self.program("pg_ctl", &["-D", &data, "-w", "-m", mode, "stop"])
    }

    /// Starts a stopped server on the same port, and returns when it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_again(&self) -> Result<(), ClusterError> {
        let data = self.data_dir().display().to_string();
        let log = self.log_file().display().to_string();
        self.program("pg_ctl", &["-D", &data, "-w", "-l", &log, "-o", &self.server_options(), "start"])
    }

    fn server_options(&self) -> String {
        let mut options = format!("-p {} -k {} -h 127.0.0.1", self.port, self.dir.path().display());
        if !self.options.fsync {
            options.push_str(" -c fsync=off -c synchronous_commit=off -c full_page_writes=off");
        }
        for (name, value) in &self.options.settings {
            options.push_str(&format!(" -c {name}={value}"));
        }
        options
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// Runs a server program as a user whom it accepts.
    fn program(&self, name: &str, args: &[&str]) -> Result<(), ClusterError> {
        let program = self.bin.join(name);
        let mut command = as_user(&program);
        // The server inherits the streams of `pg_ctl start`: a pipe would not end before the server does.
        let said = self.dir.path().join(format!("{name}.log"));
        let out = fs::File::create(&said)?.into_parts().0;
        let status = command
            .args(args)
            .current_dir(self.dir.path())
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .status()?;
        if status.success() {
            return Ok(());
        }
        let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        let said = format!("{}{}", text(&said), text(&self.log_file()));
        Err(ClusterError::Program { program: name.to_owned(), said })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A test may have stopped it already.
        let _ = self.stop(StopMode::Immediate);
    }
}

/// Says `skipped: needs NAME` once per process and part.
///
/// # Panics
/// When `PITON_REQUIRE_ALL=1`, under which a skip is a failure.
pub fn skip(needs: &str) {
    static SAID: OnceLock<()> = OnceLock::new();
    assert!(std::env::var("PITON_REQUIRE_ALL").as_deref() != Ok("1"), "skipped: needs {needs}");
    // Not by `eprintln!`: a test that passes would keep it to itself.
    SAID.get_or_init(|| _ = writeln!(io::stderr(), "skipped: needs {needs}"));
}

/// Returns the folder of the newest server's programs, or of the major version that `PITON_TEST_PG` names.
pub fn find_bin() -> Option<PathBuf> {
    let wanted: Option<u32> = std::env::var("PITON_TEST_PG").ok().and_then(|v| v.parse().ok());
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = debian
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(major, bin)| bin.join("initdb").exists() && wanted.is_none_or(|w| w == *major))
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin).or_else(|| find_in_path(wanted))
}

fn find_in_path(wanted: Option<u32>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .find(|bin| bin.join("initdb").exists() && bin.join("pg_ctl").exists())
        .filter(|bin| wanted.is_none_or(|w| major_of(bin) == Some(w)))
}

fn major_of(bin: &Path) -> Option<u32> {
    let output = Command::new(bin.join("initdb")).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())
}

fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Builds a command that runs as the user whom the server accepts.
fn as_user(program: &Path) -> Command {
    if !am_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([
        &format!("--reuid={SERVER_USER}"),
        &format!("--regid={SERVER_USER}"),
        "--init-groups",
        "--",
    ]);
    command.arg(program);
    command
}

/// Hands a folder over to the user whom the server accepts, and builds a command that runs as that user.
///
/// # Errors
/// When the tests run as root and there is no such user, or the folder cannot be handed over.
pub(crate) fn as_server_user(program: &str, dir: &Path) -> io::Result<Command> {
    if am_root() {
        let (uid, gid) = server_user().map_err(io::Error::other)?;
        chown(dir, Some(uid), Some(gid))?;
    }
    Ok(as_user(Path::new(program)))
}

fn server_user() -> Result<(u32, u32), ClusterError> {
    let users = fs::read_to_string("/etc/passwd")?;
    let line =
        users.lines().find(|line| line.split(':').next() == Some(SERVER_USER)).ok_or(ClusterError::NoUser)?;
    let id = |field| line.split(':').nth(field).and_then(|id| id.parse().ok()).ok_or(ClusterError::NoUser);
    Ok((id(2)?, id(3)?))
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A shell that waits for the end of this process, however it comes, and then ends the server and removes its folder.
///
/// A parent-death signal would not do: it fires when the *thread* that started the server ends, and each test is a thread.
#[derive(Debug)]
struct Watchdog(Child);

impl Watchdog {
    fn start(dir: &Path) -> io::Result<Self> {
        const SCRIPT: &str = r#"
            cat >/dev/null
            server=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$server" && {
                tries=0
                while kill -0 "$server" 2>/dev/null && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
            }
            rm -rf -- "$1""#;
        // Its own process group: a Ctrl-C that ends the tests must not end the watchdog first.
        Command::new("sh")
            .args(["-c", SCRIPT, "watchdog"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // Reaped only to leave no zombie.
        let _ = self.0.wait();
    }
}

/// Waits until the condition holds.
///
/// # Panics
/// When it does not within 20 s.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..2000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(holds().await, "not within 20 s: {what}");
}
