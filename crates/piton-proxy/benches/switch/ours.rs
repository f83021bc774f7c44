//! Piton's proxy in a process of its own: this program, started again.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use piton_proxy::control::Client;
use piton_proxy::{Options, ServeError, Slot, Weights};
use tempfile::TempDir;
use tokio::time::sleep;

/// Set for the process that is the proxy.
pub(crate) const DIR: &str = "PITON_BENCH_PROXY_DIR";

pub(crate) struct Ours {
    pub(crate) addr: SocketAddr,
    control: Client,
    process: Child,
    _dir: TempDir,
}

pub(crate) fn serve(dir: &Path) -> Result<(), ServeError> {
    // The parent's end, however it comes, closes the pipe.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    piton_proxy::serve(Options { listen, dir: dir.to_owned(), workers: 2 })
}

impl Ours {
    pub(crate) async fn start(apps: [SocketAddr; 2]) -> Ours {
        // In the repository's own folder, so that saving costs what the disk costs.
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let dir = tempfile::tempdir_in(target).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .env(DIR, dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut control = loop {
            match Client::connect(dir.path()).await {
                Ok(control) => break control,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        };
        control.set_upstream(Slot::Blue, Some(apps[0])).await.unwrap();
        let status = control.set_upstream(Slot::Green, Some(apps[1])).await.unwrap();
        Ours { addr: status.listen, control, process, _dir: dir }
    }

    pub(crate) async fn to(&mut self, slot: Slot) {
        self.control.set_weights(Weights::all(slot)).await.unwrap();
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
