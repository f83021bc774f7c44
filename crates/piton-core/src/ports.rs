//! Who listens on a port, and which programs this machine has.

use std::path::Path;

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::FDTarget;

/// The process that listens on a port.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) pid: i32,
    pub(crate) command: String,
}

/// Returns who listens on a port; `None` when nobody does or it is another user's process.
pub(crate) fn owner(port: u16) -> Option<Owner> {
    let listening: Vec<u64> = [procfs::net::tcp(), procfs::net::tcp6()]
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry: &TcpNetEntry| entry.state == TcpState::Listen && entry.local_address.port() == port)
        .map(|entry| entry.inode)
        .collect();
    procfs::process::all_processes().ok()?.flatten().find_map(|process| {
        let holds = process.fd().ok()?.flatten().any(|fd| match fd.target {
            FDTarget::Socket(inode) => listening.contains(&inode),
            _ => false,
        });
        holds.then(|| Owner {
            pid: process.pid,
            command: process.cmdline().map(|words| words.join(" ")).unwrap_or_default(),
        })
    })
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
    fn programs_are_found_through_path() {
        assert!(on_path("sh"));
        assert!(!on_path("no-such-program-here"));
    }
}
