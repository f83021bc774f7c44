//! A proxy's life, from the claim of its folder to its end.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

use crate::claim::{self, ClaimError, MOST_LISTENERS};
use crate::control::server::{Control, End, HANDED_OVER, STOP, terminated};
use crate::routing::Router;
use crate::state::{State, StateError};
use crate::worker::Workers;

/// Where and how a proxy serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address for clients. With port 0 any free port, which the status tells.
    pub listen: SocketAddr,
    /// The folder of `control.sock`, `state.json` and `lock`; made when missing. One proxy serves in it.
    pub dir: PathBuf,
    /// Worker threads, 1 to 128; one per core is best.
    pub workers: usize,
}

/// How long upstreams may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To accept a connection; then the client gets 502.
    pub connect: Duration,
    /// To begin an answer, counted from the last byte of the request; then the client gets 504.
    pub response: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { connect: Duration::from_secs(3), response: Duration::from_secs(60) }
    }
}

/// Why a proxy did not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folder or the address could not be claimed.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The state could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system refused a thread, a runtime or a socket.
    #[error("the proxy cannot run")]
    Run(#[from] io::Error),
}

/// Serves until the proxy is stopped (by order, SIGTERM or SIGINT) or handed over to a successor.
///
/// When another process serves in the same folder, this one takes over from it without dropping a
/// connection; the other finishes what it has in flight and returns from its `serve`.
///
/// # Errors
/// [`ServeError`] when it could not begin to serve; a predecessor then goes on.
pub fn serve(options: Options) -> Result<(), ServeError> {
    serve_with(options, Timeouts::default())
}

/// Serves as [`serve`] does, with other timeouts.
///
/// # Errors
/// See [`serve`].
pub fn serve_with(options: Options, timeouts: Timeouts) -> Result<(), ServeError> {
    let Options { listen, dir, workers } = options;
    let workers = workers.clamp(1, MOST_LISTENERS);
    raise_file_limit();
    let (footing, predecessor) = claim::claim(&dir, listen, workers)?;
    // Read after the claim: until then a predecessor may still have changed it.
    let state = State::load(&dir)?;
    let listen = footing.listeners[0].local_addr()?;
    let router = Arc::new(Router::default());
    router.put(&state, None);
    let workers = Workers::start(&dir, listen, &router, timeouts, share_out(&footing.listeners, workers)?)?;
    let runtime = runtime()?;
    if let Some(Err(error)) = predecessor.map(|predecessor| predecessor.dismiss(&dir)) {
        // What came in meanwhile is finished; the predecessor takes the rest.
        runtime.block_on(async {
            workers.leave(STOP, None).await;
            workers.ended().await;
        });
        return Err(error.into());
    }
    let control = Rc::new(Control::new(dir, listen, state, router, workers, footing));
    tracing::info!(%listen, "serving");
    let end = runtime.block_on(control.run())?;
    // Ends every control connection but those that wait for the proxy's end.
    drop(runtime);
    let Some(control) = Rc::into_inner(control) else {
        unreachable!("the tasks that shared the control side went with their runtime")
    };
    leave(control, end)?;
    Ok(())
}

/// Stops accepting, gives up the folder, and finishes what is open; a further SIGTERM ends that at once.
fn leave(control: Control, end: End) -> io::Result<()> {
    let leave = match end {
        End::Stopped => STOP,
        End::HandedOver => HANDED_OVER,
    };
    if end == End::Stopped {
        control.remove_socket();
    }
    let Control { workers, footing, successor, waiting, .. } = control;
    let (busy, successor) = successor.into_inner().unzip();
    runtime()?.block_on(async {
        workers.leave(leave, busy).await;
        drop(successor);
        // Only now: whoever gets the lock must find the address free.
        drop(footing);
        tokio::select! {
            () = workers.ended() => Ok(()),
            signalled = terminated() => signalled,
        }
    })?;
    drop(waiting);
    Ok(())
}

fn runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

/// Allows as many open files as the system lets this process have: each client takes two.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Gives each worker its listeners; none is left without a worker.
fn share_out(listeners: &[TcpListener], workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut shares: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for (number, listener) in listeners.iter().enumerate() {
        shares[number % workers].push(listener.try_clone()?);
    }
    Ok(shares)
}
