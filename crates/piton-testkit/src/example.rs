//! The example app `electricity-tokens`: its repository, its built releases, and running copies of it.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};

/// Why the example could not be laid out, built or started.
#[derive(Debug, thiserror::Error)]
pub enum ExampleError {
    /// A file or program could not be used.
    #[error("the example's files or programs could not be used")]
    Io(#[from] io::Error),
    /// A program said no.
    #[error("{program} failed:\n{said}")]
    Program {
        /// The program and its arguments.
        program: String,
        /// Its stderr.
        said: String,
    },
    /// The app ended instead of listening.
    #[error("the app did not say where it listens")]
    NotListening,
}

/// Returns the example's folder.
pub fn folder() -> PathBuf {
    workspace().join("examples/electricity-tokens")
}

/// Returns the folder to build the example in, as `CARGO_TARGET_DIR`, so that its dependencies are built once.
pub fn target_dir() -> PathBuf {
    target().join("examples")
}

fn workspace() -> &'static Path {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).unwrap_or(crate_folder)
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Makes a git repository in the empty or missing folder, with the four releases as the tags `v1` to `v4`.
///
/// # Errors
/// When the folder is not empty, or git fails.
pub fn lay_out(dir: &Path) -> Result<(), ExampleError> {
    run(Command::new(folder().join("releases/lay-out")).arg(dir)).map(drop)
}

/// Returns a folder with the release checked out and built, with its binary as `bin/electricity-tokens`.
///
/// It is made by the first call and found by later ones, also those of other processes.
///
/// # Errors
/// When git or cargo fails.
pub fn built(tag: &str) -> Result<PathBuf, ExampleError> {
    // Not in the folder that cargo builds in: it would know the sources by their place there, and build only the first.
    let releases = target().join("example-releases");
    fs::create_dir_all(&releases)?;
    let lock = fs::File::create(releases.join(".lock"))?;
    lock.file().lock()?;

    let repository = tempfile::tempdir()?;
    lay_out(repository.path())?;
    let commit = run(Command::new("git").current_dir(&repository).args(["rev-parse", "--short=12", tag]))?;
    let release = releases.join(format!("{tag}-{}", commit.trim()));
    if release.join("bin/electricity-tokens").exists() {
        return Ok(release);
    }
    if release.exists() {
        fs::remove_dir_all(&release)?;
    }
    run(Command::new("git")
        .args(["clone", "--quiet", "--branch", tag])
        .arg(repository.path())
        .arg(&release))?;
    run(Command::new("cargo")
        .current_dir(&release)
        .env("CARGO_TARGET_DIR", target_dir())
        // Its work is done by the database, and the build is a tenth of the tests' time.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .args(["install", "--quiet", "--path", ".", "--root", ".", "--locked"]))?;
    Ok(release)
}

fn run(command: &mut Command) -> Result<String, ExampleError> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(ExampleError::Program { program: format!("{command:?}"), said })
}

/// A running copy of the app; it is killed when dropped.
#[derive(Debug)]
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    // Kept open: the app speaks again when it ends.
    _stdout: BufReader<ChildStdout>,
}

impl App {
    /// Starts a built release on a free port and returns when it listens.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn start(release: &Path, database_url: &str, environment: &str) -> Result<Self, ExampleError> {
        let mut child = Command::new(release.join("bin/electricity-tokens"))
            .env("DATABASE_URL", database_url)
            .env("APP_ENV", environment)
            .env("PORT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().ok_or(ExampleError::NotListening)?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let said = line.split_whitespace().last().and_then(|address| address.parse().ok());
        let Some(address) = said else {
            let _ = child.kill();
            child.wait()?;
            return Err(ExampleError::NotListening);
        };
        Ok(Self { address, child, _stdout: stdout })
    }

    /// Asks the app to end, with SIGTERM, and does not wait for it.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn terminate(&self) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        Ok(kill_process(pid.ok_or(io::ErrorKind::NotFound)?, Signal::TERM)?)
    }

    /// Waits for the app's end.
    ///
    /// # Errors
    /// When the system does not tell it.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
