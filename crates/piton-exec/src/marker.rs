//! Finds processes by a variable in their environment.
//!
//! A process id in a file can be lost between the spawn and the write, and can come to name somebody else's process. A
//! variable in the environment is there from the first instruction and is inherited by every child.

use std::time::{Duration, Instant};

use procfs::process::Process;
use rustix::process::{Pid, PidfdFlags, Signal};

/// A running process that carries the mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// The process id.
    pub pid: i32,
    /// The id of its parent.
    pub parent: i32,
    /// When it started, in clock ticks after boot; with the id it names one process for ever.
    pub started: u64,
}

/// Lists the living processes whose environment holds `name=value`, oldest first.
///
/// Zombies and processes of other users are left out.
pub fn find(name: &str, value: &str) -> Vec<Marked> {
    let Ok(all) = procfs::process::all_processes() else {
        return Vec::new();
    };
    let mut marked: Vec<Marked> = all
        .flatten()
        .filter_map(|process| {
            let environ = process.environ().ok()?;
            (environ.get(std::ffi::OsStr::new(name))? == value).then(|| describe(&process))?
        })
        .collect();
    marked.sort_by_key(|m| (m.started, m.pid));
    marked
}

fn describe(process: &Process) -> Option<Marked> {
    let stat = process.stat().ok()?;
    (stat.state != 'Z').then_some(Marked { pid: stat.pid, parent: stat.ppid, started: stat.starttime })
}

/// Lists the living processes of the session that the process `leader`, started at `started`, leads or led, oldest first.
///
/// A program that writes its title over its environment loses its mark, but not its session.
///
/// Empty when the number has come to another process: the system gives it away only once the session has no process left.
pub fn in_session(leader: i32, started: u64) -> Vec<Marked> {
    let now = Process::new(leader).and_then(|process| process.stat());
    if now.is_ok_and(|stat| stat.starttime != started) {
        return Vec::new();
    }
    let Ok(all) = procfs::process::all_processes() else {
        return Vec::new();
    };
    let mut members: Vec<Marked> = all
        .flatten()
        .filter(|process| {
            process.stat().is_ok_and(|stat| stat.session == leader && stat.starttime >= started)
        })
        .filter_map(|process| describe(&process))
        .collect();
    members.sort_by_key(|m| (m.started, m.pid));
    members
}

/// Returns when a living process started, in clock ticks after boot.
pub fn start_of(pid: i32) -> Option<u64> {
    Some(describe(&Process::new(pid).ok()?)?.started)
}

/// Ends every process that carries the mark; see [`stop_all`].
pub async fn stop(name: &str, value: &str, grace: Duration) -> usize {
    stop_all(|| find(name, value), grace).await
}

/// Ends every process that `find` lists: SIGTERM, and SIGKILL for those that are there after `grace`.
///
/// Returns how many had to be ended. Does not return before none is left, or 5 s after the SIGKILL.
pub async fn stop_all(find: impl Fn() -> Vec<Marked>, grace: Duration) -> usize {
    let first = find();
    signal(&first, Signal::TERM);
    let begin = Instant::now();
    let mut killed = false;
    loop {
        let left = find();
        if left.is_empty() || begin.elapsed() > grace + Duration::from_secs(5) {
            return first.len();
        }
        if begin.elapsed() >= grace {
            // A child that came up after the SIGTERM is ended with the rest.
            signal(&left, Signal::KILL);
            killed = true;
        }
        let pause = if killed { 10 } else { 25 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

fn signal(processes: &[Marked], signal: Signal) {
    for marked in processes {
        let Some(pid) = Pid::from_raw(marked.pid) else { continue };
        // Held by its descriptor, the number stays with whom it names now; whether that is still the one that was found, its
        // start tells.
        let held = rustix::process::pidfd_open(pid, PidfdFlags::empty());
        if start_of(marked.pid) != Some(marked.started) {
            continue;
        }
        // It has ended by itself meanwhile: what was wanted.
        let _ = match held {
            Ok(held) => rustix::process::pidfd_send_signal(held, signal),
            // Linux before 5.3.
            Err(_) => rustix::process::kill_process(pid, signal),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Inherit;

    #[tokio::test]
    async fn a_process_without_its_mark_is_found_by_its_session() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        // `env -i` loses the mark as a program does that overwrites its environment.
        let command = crate::Command::new("sh").args(["-c", "env -i sleep 60 & exec env -i sleep 60"]);
        let leader =
            i32::try_from(crate::local::spawn_detached(&command, Inherit::Only(&["PATH"]), &log).unwrap())
                .unwrap();
        let started = start_of(leader).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(in_session(leader, started).len(), 2);
        assert_eq!(stop_all(|| in_session(leader, started), Duration::from_secs(2)).await, 2);
        assert!(in_session(leader, started).is_empty());
    }

    #[tokio::test]
    async fn a_session_whose_number_came_to_another_process_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let command = crate::Command::new("sleep").arg("60");
        let leader = crate::local::spawn_detached(&command, Inherit::Only(&["PATH"]), &log).unwrap();
        let leader = i32::try_from(leader).unwrap();
        let started = start_of(leader).unwrap();
        assert!(in_session(leader, started - 1).is_empty());
        assert_eq!(stop_all(|| in_session(leader, started), Duration::from_secs(2)).await, 1);
    }

    #[tokio::test]
    async fn whoever_came_by_the_number_of_one_that_was_found_is_left_alone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let started = start_of(pid).unwrap();
        let found = |started| Marked { pid, parent: 0, started };
        signal(&[found(started - 1)], Signal::KILL);
        assert_eq!(child.try_wait().unwrap(), None);
        signal(&[found(started)], Signal::KILL);
        assert!(!child.wait().unwrap().success());
    }

    #[tokio::test]
    async fn children_are_found_and_a_deaf_process_is_killed() {
        let value = format!("marker-test-{}", std::process::id());
        let mut child = std::process::Command::new("sh")
            .args(["-c", "trap '' TERM; sleep 60 & wait; sleep 60"])
            .env("PITON_TEST_MARK", &value)
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(find("PITON_TEST_MARK", &value).len(), 2);
        let reaper = std::thread::spawn(move || child.wait());
        assert_eq!(stop("PITON_TEST_MARK", &value, Duration::from_millis(200)).await, 2);
        assert!(find("PITON_TEST_MARK", &value).is_empty());
        reaper.join().unwrap().unwrap();
    }
}
