//! Unix sockets in folders whose paths are longer than a socket address can hold.
//!
//! An address has room for 108 bytes. The folder is opened, and the socket is addressed through
//! `/proc/self/fd`, which is short however long the folder's path is.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use fs_err as fs;
use rustix::fs::{Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};

const SOCKET: &str = "control.sock";

/// A folder held open so that what is in it has a short path.
struct Folder(OwnedFd);

impl Folder {
    fn open(dir: &Path) -> io::Result<Folder> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Folder(rustix::fs::open(dir, flags, Mode::empty())?))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }
}

/// Listens on the control socket in `dir`, in the place of whatever was left there. Mode 0600.
///
/// The caller holds the folder's lock.
pub(crate) fn listen(dir: &Path) -> io::Result<UnixListener> {
    let folder = Folder::open(dir)?;
    let unnamed = folder.path("control.sock.new");
    match fs::remove_file(&unnamed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(&unnamed)?)?;
    // Nobody can connect before listen(), so the mode is never wider than it should be.
    fs::set_permissions(&unnamed, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(64)?;
    socket.set_nonblocking(true)?;
    fs::rename(&unnamed, folder.path(SOCKET))?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// Connects to the control socket in `dir`.
pub(crate) fn connect(dir: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(Folder::open(dir)?.path(SOCKET))
}

/// Removes the control socket from `dir`.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    fs::remove_file(dir.join(SOCKET))
}

/// Says whether a failure to connect means that nobody serves.
pub(crate) fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
