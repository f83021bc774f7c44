//! Who serves in a folder: the lock, the control socket and the listening sockets, and how a successor gets
//! them from the process that has them.
//!
//! All of them change hands as open files over the control socket. A listening socket is never closed in
//! between, so no connection that waits to be accepted is lost; the lock belongs to the open file, so at no
//! moment is it free.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;

use crate::control::{Answer, Fault, Order};
use crate::unix;

/// The most listeners that are handed over; Linux passes at most 253 files at once.
pub(crate) const MOST_LISTENERS: usize = 128;

const BACKLOG: i32 = 4096;

/// How long another process may take to start, to hand over or to leave.
const PATIENCE: Duration = Duration::from_secs(10);

/// What makes a process the one that serves in a folder.
pub(crate) struct Footing {
    lock: OwnedFd,
    pub(crate) control: UnixListener,
    pub(crate) listeners: Vec<TcpListener>,
}

/// The process that served before, waiting to hear that its successor serves.
pub(crate) struct Predecessor(UnixStream);

/// Why the folder could not be served in.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The folder or a file in it cannot be used.
    #[error("cannot serve in {}", dir.display())]
    Folder {
        /// The proxy's folder.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}; see who does with: ss -ltnp 'sport = :{}'", listen.port())]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// The proxy that serves in the folder listens on another address.
    #[error("the proxy that serves in {} listens on {theirs}, not on {ours}; stop it first", dir.display())]
    OtherAddress {
        /// The proxy's folder.
        dir: PathBuf,
        /// Where it listens.
        theirs: SocketAddr,
        /// Where this one was to listen.
        ours: SocketAddr,
    },
    /// The proxy that serves in the folder does not hand over now.
    #[error("the proxy that serves in {} does not hand over: {why}", dir.display())]
    Refused {
        /// The proxy's folder.
        dir: PathBuf,
        /// What it says.
        why: String,
    },
    /// Another process has the folder's lock but does not answer.
    #[error("another proxy has {} but does not answer; end it first", lock.display())]
    Stuck {
        /// The lock file.
        lock: PathBuf,
    },
}

/// Makes this process the one that serves in `dir`: alone, or after the one that serves now.
pub(crate) fn claim(
    dir: &Path,
    listen: SocketAddr,
    listeners: usize,
) -> Result<(Footing, Option<Predecessor>), ClaimError> {
    let folder = |source| ClaimError::Folder { dir: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(folder)?;
    let path = dir.join("lock");
    let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(folder)?;
    let lock = OwnedFd::from(lock.into_file());
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return fresh(dir, listen, listeners, lock).map(|footing| (footing, None)),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(folder(error.into())),
        }
        match take_over(dir, listen) {
            Ok((mut footing, predecessor)) => {
                fill_up(&mut footing, listeners).map_err(|source| ClaimError::Listen { listen, source })?;
                return Ok((footing, Some(predecessor)));
            }
            Err(TakeOverError::Claim(error)) => return Err(error),
            // It is starting, or leaving, or busy with another successor.
            Err(TakeOverError::NotNow(error)) => {
                tracing::debug!(%error, "the serving proxy does not hand over yet");
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
    Err(ClaimError::Stuck { lock: path })
}

fn fresh(dir: &Path, listen: SocketAddr, count: usize, lock: OwnedFd) -> Result<Footing, ClaimError> {
    let listeners = listen_alone(listen, count).map_err(|source| ClaimError::Listen { listen, source })?;
    let control = unix::listen(dir).map_err(|source| ClaimError::Folder { dir: dir.to_owned(), source })?;
    Ok(Footing { lock, control, listeners })
}

/// Listens `count` times on an address that nobody else listens on.
fn listen_alone(listen: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    // SO_REUSEPORT would join any other listener of the same user: the first bind must go without.
    let alone = socket(listen, false)?;
    let listen = alone.local_addr()?.as_socket().unwrap_or(listen);
    drop(alone);
    (0..count).map(|_| listener(listen)).collect()
}

/// Adds listeners on their address until there are `count`.
fn fill_up(footing: &mut Footing, count: usize) -> io::Result<()> {
    while footing.listeners.len() < count {
        let listen = footing.listeners[0].local_addr()?;
        footing.listeners.push(listener(listen)?);
    }
    Ok(())
}

fn listener(listen: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(listen, true)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn socket(listen: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&listen.into())?;
    Ok(socket)
}

enum TakeOverError {
    Claim(ClaimError),
    NotNow(io::Error),
}

impl From<io::Error> for TakeOverError {
    fn from(error: io::Error) -> TakeOverError {
        TakeOverError::NotNow(error)
    }
}

/// Asks the process that serves in `dir` for its lock and sockets.
fn take_over(dir: &Path, ours: SocketAddr) -> Result<(Footing, Predecessor), TakeOverError> {
    let mut stream = unix::connect(dir)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    say(&mut stream, &Order::TakeOver)?;
    let (line, files) = receive(&stream)?;
    let refused = |why| TakeOverError::Claim(ClaimError::Refused { dir: dir.to_owned(), why });
    match serde_json::from_slice::<Answer<()>>(&line).map_err(io::Error::from)? {
        Answer::Done(()) => {}
        Answer::Fault(Fault::Replaced) => return Err(io::Error::other("being replaced already").into()),
        Answer::Fault(Fault::Refused(why) | Fault::NotSaved(why)) => return Err(refused(why)),
    }
    let mut files = files.into_iter();
    let (Some(lock), Some(control)) = (files.next(), files.next()) else {
        return Err(refused("it sent no sockets".to_owned()));
    };
    let listeners: Vec<TcpListener> = files.map(TcpListener::from).collect();
    let theirs = match listeners.first() {
        Some(listener) => listener.local_addr()?,
        None => return Err(refused("it sent no listening sockets".to_owned())),
    };
    let same = theirs.ip() == ours.ip() && (ours.port() == 0 || theirs.port() == ours.port());
    if !same {
        return Err(TakeOverError::Claim(ClaimError::OtherAddress { dir: dir.to_owned(), theirs, ours }));
    }
    Ok((Footing { lock, control: UnixListener::from(control), listeners }, Predecessor(stream)))
}

impl Predecessor {
    /// Tells the predecessor that this process serves now; returns when it obeys the orders given here.
    ///
    /// # Errors
    /// [`ClaimError::Refused`] when it did not wait so long and goes on serving.
    pub(crate) fn dismiss(mut self, dir: &Path) -> Result<(), ClaimError> {
        let told = say(&mut self.0, &Order::Taken);
        // It closes the connection and says nothing more, unless it goes on: then it had said so before it was told.
        let mut answer = Vec::new();
        let heard = self.0.read_to_end(&mut answer);
        if let Ok(Answer::<()>::Fault(Fault::Refused(why))) = serde_json::from_slice(&answer) {
            return Err(ClaimError::Refused { dir: dir.to_owned(), why });
        }
        // If it has died meanwhile, it needs no telling.
        if let Err(error) = told.and(heard) {
            tracing::warn!(%error, "the proxy that served before is gone");
        }
        Ok(())
    }
}

/// Sends the lock and the sockets to a successor.
pub(crate) async fn give(stream: &tokio::net::UnixStream, footing: &Footing) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Answer::Done(()))?;
    line.push(b'\n');
    let mut files: Vec<BorrowedFd<'_>> = vec![footing.lock.as_fd(), footing.control.as_fd()];
    files.extend(footing.listeners.iter().map(TcpListener::as_fd));
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); SPACE];
            let mut files_along = SendAncillaryBuffer::new(&mut space);
            if !files_along.push(SendAncillaryMessage::ScmRights(&files)) {
                return Err(io::Error::other("too many listening sockets to hand over"));
            }
            let flags = SendFlags::NOSIGNAL;
            Ok(rustix::net::sendmsg(stream, &[IoSlice::new(&line)], &mut files_along, flags)?)
        })
        .await?;
    // The line is far shorter than any socket buffer.
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_LISTENERS + 2));

/// Receives one line and the files that came along.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut line = Vec::new();
    let mut files = Vec::new();
    let mut bytes = [0; 4096];
    while !line.ends_with(b"\n") {
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut files_along = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received =
            rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut files_along, flags)?;
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&bytes[..received.bytes]);
        for message in files_along.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights);
            }
        }
    }
    Ok((line, files))
}

fn say(stream: &mut UnixStream, order: &Order) -> io::Result<()> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    stream.write_all(&line)
}
