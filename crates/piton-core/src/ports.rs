//! Who listens on a port, and which programs this machine has.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use fs_err::File;
use procfs::FromBufReadSI;
use procfs::net::{TcpNetEntries, TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process};

use crate::step::{PROXY_MARK, SLOT_MARK};

/// The process that listens on a port.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) pid: i32,
    pub(crate) command: String,
    /// Whether a release has started it: an app or a proxy.
    pub(crate) serves: bool,
}

/// Who takes the connections that come to a port of 127.0.0.1, as some processes see it.
#[derive(Debug)]
pub(crate) enum Listener {
    /// Nobody.
    Nobody,
    /// One of these processes.
    Own,
    /// Another process; `None` when it is another user's, which cannot be named.
    Stranger(Option<Owner>),
}

/// Where Linux lists the sockets of IPv4 and of IPv6.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];

/// Returns who listens on a port; `None` when nobody does or it is another user's process.
pub(crate) fn owner(port: u16) -> Option<Owner> {
    let all = TABLES.into_iter().flat_map(|table| listening_in(table, port));
    let sockets: Vec<u64> = all.map(|entry| entry.inode).collect();
    owner_of(&sockets)
}

/// Tells whether one of the processes is who takes the connections that come to a port of 127.0.0.1.
///
/// A socket that no readable process holds counts as theirs only when one of them cannot be read: an app that changed its
/// user hides what it holds, while a stranger of another user must not be taken for an app that can be read.
pub(crate) fn listener(port: u16, own: impl IntoIterator<Item = i32>) -> Listener {
    let mut found: Vec<(u8, u64)> = Vec::new();
    for table in TABLES {
        let there = listening_in(table, port);
        found.extend(there.filter_map(|entry| Some((distance(entry.local_address.ip())?, entry.inode))));
        if found.iter().any(|(distance, _)| *distance == 0) {
            break;
        }
    }
    // The system prefers the socket that is bound to the very address.
    let Some(nearest) = found.iter().map(|(distance, _)| *distance).min() else {
        return Listener::Nobody;
    };
    let sockets: Vec<u64> =
        found.iter().filter(|(distance, _)| *distance == nearest).map(|(_, inode)| *inode).collect();
    let held: Vec<Option<bool>> =
        own.into_iter().map(|pid| holds(&Process::new(pid).ok()?, &sockets)).collect();
    if held.contains(&Some(true)) {
        return Listener::Own;
    }
    match owner_of(&sockets) {
        None if held.contains(&None) => Listener::Own,
        owner => Listener::Stranger(owner),
    }
}

fn listening_in(table: &str, port: u16) -> impl Iterator<Item = TcpNetEntry> {
    let listeners = listeners(table).unwrap_or_default().into_iter();
    listeners.filter(move |entry| entry.state == TcpState::Listen && entry.local_address.port() == port)
}

/// Returns the sockets that listen, which Linux lists before all others.
///
/// The others it collects from a table as large as the machine's memory allows, which takes milliseconds: a line at a time is
/// read, and none of theirs but the first.
fn listeners(table: &str) -> procfs::ProcResult<Vec<TcpNetEntry>> {
    const LINE: usize = 150;
    let mut read = String::new();
    for (at, line) in BufReader::with_capacity(LINE, File::open(table)?).lines().enumerate() {
        let line = line?;
        let heading = at == 0;
        // Kernels before 4.4 list those that are being opened (03) among them.
        if !heading && !matches!(line.split_whitespace().nth(3), Some("0A" | "03")) {
            break;
        }
        read.push_str(&line);
        read.push('\n');
    }
    Ok(TcpNetEntries::from_buf_read(read.as_bytes(), procfs::current_system_info())?.0)
}

/// Says how near a socket's address is to 127.0.0.1; `None` when connections to that do not come to it.
fn distance(bound: IpAddr) -> Option<u8> {
    match bound.to_canonical() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Some(0),
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Some(1),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some(2),
        _ => None,
    }
}

/// Tells whether a process holds one of the sockets; `None` when it cannot be read.
fn holds(process: &Process, sockets: &[u64]) -> Option<bool> {
    let mut open = process.fd().ok()?.flatten();
    Some(open.any(|fd| matches!(fd.target, FDTarget::Socket(inode) if sockets.contains(&inode))))
}

fn owner_of(sockets: &[u64]) -> Option<Owner> {
    let mut all = procfs::process::all_processes().ok()?.flatten();
    let holder = all.find(|process| holds(process, sockets) == Some(true))?;
    let command = holder.cmdline().map(|words| words.join(" ")).unwrap_or_default();
    let marks = [SLOT_MARK, PROXY_MARK].map(std::ffi::OsStr::new);
    let serves = holder.environ().is_ok_and(|vars| marks.iter().any(|mark| vars.contains_key(*mark)));
    Some(Owner { pid: holder.pid, command, serves })
}

/// Tells whether a program is found through `PATH`.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| is_executable(&folder.join(program)))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs_err::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = owner(port).unwrap();
        assert_eq!(found.pid, i32::try_from(std::process::id()).unwrap());
        drop(listener);
        assert!(owner(port).is_none());
    }

    #[test]
    fn a_port_is_told_from_one_that_a_stranger_has() {
        let own = [i32::try_from(std::process::id()).unwrap()];
        let parent = [rustix::process::getppid().unwrap().as_raw_nonzero().get()];
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let listener = std::net::TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert!(matches!(super::listener(port, own), Listener::Own), "{address}");
            let stranger = super::listener(port, parent);
            assert!(matches!(stranger, Listener::Stranger(Some(owner)) if owner.pid == own[0]), "{address}");
        }
        let elsewhere = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
        let port = elsewhere.local_addr().unwrap().port();
        assert!(matches!(super::listener(port, own), Listener::Nobody));
    }

    #[test]
    fn programs_are_found_through_path() {
        assert!(on_path("sh"));
        assert!(!on_path("no-such-program-here"));
    }
}
