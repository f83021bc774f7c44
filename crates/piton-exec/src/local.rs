//! Runs a [`Command`] on this machine.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use secrecy::ExposeSecret;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use crate::{Command, EnvValue};

/// How many lines of a program's talk an [`Output`] keeps.
const KEPT_LINES: usize = 200;

/// What a program that ended has left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code, or 128 + the signal that ended it.
    pub code: i32,
    /// The last lines of stdout.
    pub stdout: String,
    /// The last lines of stderr.
    pub stderr: String,
    /// From spawn to exit.
    pub elapsed: Duration,
}

impl Output {
    /// Tells whether the program ended with exit code 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

/// Why a command has no good output.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program is not on this machine.
    #[error("{program} was not found on this machine")]
    NotFound {
        /// The name that was looked for.
        program: String,
    },
    /// The folder to run in is missing.
    #[error("the folder {} to run {program} in does not exist", dir.display())]
    NoFolder {
        /// The program.
        program: String,
        /// The missing folder.
        dir: PathBuf,
    },
    /// The program could not be started or read.
    #[error("{program} could not be run")]
    Io {
        /// The program.
        program: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The program ended with a code other than 0.
    #[error("{command} ended with exit code {}{}", output.code, last_words(output))]
    Failed {
        /// The command as printed.
        command: String,
        /// What it said.
        output: Box<Output>,
    },
}

fn last_words(output: &Output) -> String {
    let said = if output.stderr.trim().is_empty() { output.stdout.trim() } else { output.stderr.trim() };
    let lines: Vec<&str> = said.lines().rev().take(5).collect();
    if lines.is_empty() {
        return String::new();
    }
    let mut text = String::from(":");
    for line in lines.iter().rev() {
        text.push_str("\n  ");
        text.push_str(line);
    }
    text
}

/// Which of a program's two streams a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Runs the command to its end and returns what it said, whatever its exit code.
///
/// `on_line` sees each line as it comes. Dropping the future kills the program and all of its process group, and so does
/// the death of the calling thread (for the program itself).
///
/// # Errors
/// [`ExecError::NotFound`], [`ExecError::NoFolder`] or [`ExecError::Io`]; an exit code other than 0 is not an error here.
pub async fn run_with(command: &Command, mut on_line: impl FnMut(Stream, &str)) -> Result<Output, ExecError> {
    let io = |source| ExecError::Io { program: command.program.clone(), source };
    let start = Instant::now();
    let mut child = spawn(command)?;
    let group = Group(child.id());
    let out = child.stdout.take().map(BufReader::new);
    let err = child.stderr.take().map(BufReader::new);
    let (mut stdout, mut stderr) = (Tail::default(), Tail::default());
    let (mut out, mut err) = (lines(out), lines(err));
    // A grandchild that left the group may keep the pipes open: once the program itself has ended, wait no longer for them
    // than a moment.
    let mut status = None;
    let grace = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(grace);
    while !(out.done && err.done) {
        tokio::select! {
            biased;
            line = out.next(), if !out.done => if let Some(line) = line.map_err(io)? { on_line(Stream::Out, &line); stdout.push(line); },
            line = err.next(), if !err.done => if let Some(line) = line.map_err(io)? { on_line(Stream::Err, &line); stderr.push(line); },
            ended = child.wait(), if status.is_none() => {
                status = Some(ended.map_err(io)?);
                grace.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(500));
            }
            () = &mut grace, if status.is_some() => break,
        }
    }
    let status = match status {
        Some(status) => status,
        None => child.wait().await.map_err(io)?,
    };
    // What the program left in its group keeps running: a build may start a cache daemon on purpose.
    std::mem::forget(group);
    Ok(Output {
        code: exit_code(status),
        stdout: stdout.text(),
        stderr: stderr.text(),
        elapsed: start.elapsed(),
    })
}

/// Runs the command and wants exit code 0.
///
/// # Errors
/// As [`run_with`], and [`ExecError::Failed`] with the program's last words.
pub async fn run(command: &Command) -> Result<Output, ExecError> {
    let output = run_with(command, |_, _| {}).await?;
    if output.success() {
        Ok(output)
    } else {
        Err(ExecError::Failed { command: command.to_string(), output: Box::new(output) })
    }
}

/// Runs the command, wants exit code 0, and returns its stdout byte for byte.
///
/// # Errors
/// As [`run`].
pub async fn read(command: &Command) -> Result<Vec<u8>, ExecError> {
    let start = Instant::now();
    let ended = spawn(command)?.wait_with_output().await;
    let ended = ended.map_err(|source| ExecError::Io { program: command.program.clone(), source })?;
    let code = exit_code(ended.status);
    if code == 0 {
        return Ok(ended.stdout);
    }
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    let output = Output { code, stdout: String::new(), stderr, elapsed: start.elapsed() };
    Err(ExecError::Failed { command: command.to_string(), output: Box::new(output) })
}

/// Builds the operating system's form of the command, with its streams still inherited.
pub fn prepare(command: &Command) -> std::process::Command {
    let mut prepared = std::process::Command::new(&command.program);
    prepared.args(&command.args);
    if let Some(prefix) = &command.without {
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(prefix.as_bytes()) {
                prepared.env_remove(name);
            }
        }
    }
    for (name, value) in &command.env {
        match value {
            EnvValue::Plain(v) => prepared.env(name, v),
            EnvValue::Secret(v) => prepared.env(name, v.expose_secret()),
        };
    }
    if let Some(dir) = &command.cwd {
        prepared.current_dir(dir);
    }
    prepared
}

/// Tells which error a failed spawn is.
fn spawn_error(command: &Command, source: std::io::Error) -> ExecError {
    let program = command.program.clone();
    match &command.cwd {
        Some(dir) if !dir.is_dir() => ExecError::NoFolder { program, dir: dir.clone() },
        _ if source.kind() == std::io::ErrorKind::NotFound => ExecError::NotFound { program },
        _ => ExecError::Io { program, source },
    }
}

fn spawn(command: &Command) -> Result<tokio::process::Child, ExecError> {
    let mut prepared = tokio::process::Command::from(prepare(command));
    prepared
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    die_with_parent(&mut prepared);
    prepared.spawn().map_err(|source| spawn_error(command, source))
}

/// What a program takes over from this one's environment.
#[derive(Clone, Copy, Debug)]
pub enum Inherit<'a> {
    /// Every variable.
    Everything,
    /// The named ones.
    Only(&'a [&'a str]),
}

/// Starts a program that outlives this one: a session of its own, output appended to `log`. Returns its process id.
///
/// # Errors
/// As [`run_with`], or when the log cannot be opened.
pub fn spawn_detached(
    command: &Command,
    inherit: Inherit<'_>,
    log: &std::path::Path,
) -> Result<u32, ExecError> {
    let io = |source| ExecError::Io { program: command.program.clone(), source };
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(io)?;
    let mut prepared = prepare(command);
    if let Inherit::Only(names) = inherit {
        let wanted: Vec<_> =
            prepared.get_envs().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect();
        prepared.env_clear();
        prepared.envs(names.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        prepared.envs(wanted);
    }
    prepared.stdin(Stdio::null()).stdout(log.try_clone().map_err(io)?).stderr(log);
    lead_a_session(&mut prepared);
    // Through tokio, so that a program that ends before this one is reaped.
    let child =
        tokio::process::Command::from(prepared).spawn().map_err(|source| spawn_error(command, source))?;
    Ok(child.id().unwrap_or(0))
}

/// Lets the child lead a session of its own, so that neither the terminal's end nor its Ctrl-C reaches it.
#[expect(
    unsafe_code,
    reason = "pre_exec is unsafe; the closure makes one async-signal-safe system call and allocates nothing"
)]
fn lead_a_session(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: setsid is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
}

/// Asks the kernel to kill the child when the thread that started it dies, so that a killed Piton leaves no `pg_restore`
/// running beside the next attempt. What the child itself has forked lives on: that is found by a mark in its environment.
#[expect(
    unsafe_code,
    reason = "pre_exec is unsafe; the closure makes one async-signal-safe system call and allocates nothing"
)]
fn die_with_parent(command: &mut tokio::process::Command) {
    // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            Ok(())
        });
    }
}

/// Kills a process group when dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It has ended already: nothing to do about it.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

struct Lines<R> {
    reader: Option<R>,
    buffer: Vec<u8>,
    done: bool,
}

fn lines<R>(reader: Option<R>) -> Lines<R> {
    Lines { done: reader.is_none(), reader, buffer: Vec::new() }
}

impl<R: AsyncRead + Unpin> Lines<BufReader<R>> {
    /// Reads one line; cancel-safe, because what was read of a line stays in `buffer`.
    async fn next(&mut self) -> std::io::Result<Option<String>> {
        let Some(reader) = &mut self.reader else {
            self.done = true;
            return Ok(None);
        };
        let read = reader.read_until(b'\n', &mut self.buffer).await?;
        if read == 0 && self.buffer.is_empty() {
            self.done = true;
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&self.buffer).trim_end_matches(['\n', '\r']).to_owned();
        self.buffer.clear();
        Ok(Some(line))
    }
}

#[derive(Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: String) {
        if self.0.len() == KEPT_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line);
    }

    fn text(self) -> String {
        Vec::from(self.0).join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        Command::new("sh").args(["-c", script])
    }

    #[tokio::test]
    async fn failure_carries_the_last_words() {
        let error = run(&sh("echo nearly; echo 'no such table' >&2; exit 3")).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit code 3") && text.contains("no such table"), "{text}");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let missing = run(&Command::new("no-such-program-here")).await.unwrap_err();
        assert!(matches!(missing, ExecError::NotFound { .. }));
        let folder = run(&sh("true").cwd("/no/such/folder")).await.unwrap_err();
        assert!(matches!(folder, ExecError::NoFolder { .. }));
    }

    #[tokio::test]
    async fn what_is_not_to_be_inherited_is_not() {
        let command = Command::new("/usr/bin/env").without_env("PA").env("PAGE", "1");
        let printed = run(&command).await.unwrap().stdout;
        let has = |name: &str| printed.lines().any(|line| line.starts_with(name));
        assert!(std::env::var("PATH").is_ok() && !has("PATH="), "{printed}");
        assert!(has("PAGE=1"), "{printed}");
    }

    #[tokio::test]
    async fn a_background_child_does_not_hold_the_caller() {
        let start = Instant::now();
        let output = run(&sh("sleep 5 & echo started")).await.unwrap();
        assert_eq!(output.stdout, "started");
        assert!(start.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn a_caller_that_stops_waiting_kills_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let flag = dir.path().join("flag");
        let script = format!("(sleep 1; touch {}) & wait", flag.display());
        let command = sh(&script);
        tokio::time::timeout(Duration::from_millis(200), run(&command)).await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(1300)).await;
        assert!(!flag.exists(), "a grandchild went on");
    }
}
