//! Runs of `piton`, and the end of everything that they have started.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use fs_err as fs;
use piton_exec::marker;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What a run of `piton` has left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit code; 128 and the signal when one ended it.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Talk.
    pub stderr: String,
    command: String,
}

impl Output {
    /// Wants an exit code.
    ///
    /// # Panics
    /// With everything that `piton` said, when it is another one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "{}\n--- stdout\n{}--- stderr\n{}",
            self.command, self.stdout, self.stderr
        );
        self
    }

    /// Wants words on stderr.
    ///
    /// # Panics
    /// With everything that `piton` said, when they are missing.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{}: no `{words}` in\n{}", self.command, self.stderr);
        self
    }

    /// Reads stdout as JSON.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    #[expect(clippy::panic, reason = "a test that asks for what is not there has failed")]
    pub fn json(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("{}: {error} in\n{}", self.command, self.stdout),
        }
    }
}

/// A running `piton`; it is killed when dropped.
#[derive(Debug)]
pub struct Piton {
    child: Child,
    command: String,
    // Files, because a pipe is held open by whatever `piton` leaves running.
    out: PathBuf,
    err: PathBuf,
}

impl Piton {
    pub(super) fn start(mut command: Command, folder: &Path) -> Self {
        let run: u64 = rand::random();
        let (out, err) = (folder.join(format!("{run:x}.out")), folder.join(format!("{run:x}.err")));
        let file = |path: &Path| fs::File::create(path).expect("a file for the output").into_parts().0;
        command.stdout(file(&out)).stderr(file(&err));
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let child = command.spawn().expect("piton can be started");
        Self { child, command: format!("piton {}", args.join(" ")), out, err }
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a question and answers it; for one that was started on a terminal.
    ///
    /// # Panics
    /// When it does not ask within two minutes.
    pub fn answer(&mut self, question: &str, answer: &str) {
        let begin = Instant::now();
        let said = || String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned();
        while !said().contains(question) {
            assert!(begin.elapsed() < LIMIT, "{} does not ask `{question}`:\n{}", self.command, said());
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut terminal = self.child.stdin.as_ref().expect("a terminal");
        writeln!(terminal, "{answer}").expect("piton listens");
    }

    /// Returns what it has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("piton runs");
    }

    /// Kills it as a power cut would.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within two minutes.
    pub fn wait(mut self) -> Output {
        use std::os::unix::process::ExitStatusExt as _;
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("the system tells about its children") {
                Some(status) => break status,
                None => assert!(begin.elapsed() < LIMIT, "{} does not end:\n{}", self.command, self.said()),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        Output { code, stdout: text(&self.out), stderr: text(&self.err), command: self.command.clone() }
    }
}

impl Drop for Piton {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills every process whose home is the stage's, until none is left.
pub(super) fn end_all(home: &str) {
    let begin = Instant::now();
    loop {
        let left = marker::find("HOME", home);
        if left.is_empty() || begin.elapsed() > Duration::from_secs(10) {
            return;
        }
        for pid in left.iter().filter_map(|marked| Pid::from_raw(marked.pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
