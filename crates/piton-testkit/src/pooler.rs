//! A pgbouncer in front of a cluster, in transaction mode.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use tempfile::TempDir;

use crate::postgres::{self, Cluster};

/// What a pooler does with the startup options of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartupOptions {
    /// It refuses them, as it does by default.
    Refused,
    /// It takes them and drops them.
    Dropped,
}

/// A pgbouncer on 127.0.0.1 that lets everybody in as the superuser; it ends when this is dropped, or with this process.
#[derive(Debug)]
pub struct Pooler {
    port: u16,
    child: Child,
    _dir: TempDir,
}

impl Pooler {
    /// Starts one, or says `skipped: needs pgbouncer` and returns `None`.
    ///
    /// # Panics
    /// When it is there but does not start; when it is missing and `PITON_REQUIRE_ALL=1`.
    #[expect(clippy::panic, reason = "a test whose pooler does not start has failed")]
    pub fn start(cluster: &Cluster, options: StartupOptions) -> Option<Self> {
        // Debian has it where only root looks.
        let path = format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default());
        let program =
            path.split(':').map(|dir| format!("{dir}/pgbouncer")).find(|file| fs::metadata(file).is_ok());
        let Some(program) = program else {
            postgres::skip("pgbouncer");
            return None;
        };
        match Self::try_start(&program, cluster, options) {
            Ok(pooler) => Some(pooler),
            Err(error) => panic!("no pgbouncer: {error}"),
        }
    }

    fn try_start(program: &str, cluster: &Cluster, options: StartupOptions) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("piton-pooler-").tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let ignored = match options {
            StartupOptions::Refused => "extra_float_digits",
            StartupOptions::Dropped => "extra_float_digits, options",
        };
        let settings = dir.path().join("pgbouncer.ini");
        fs::write(
            &settings,
            format!(
                "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
                 ignore_startup_parameters = {ignored}\n",
                cluster.port()
            ),
        )?;
        // It refuses to run as root, as the server does.
        let mut command = postgres::as_server_user("sh", dir.path())?;
        // The pipe ends with this process, however that ends.
        let child = command
            .args([
                "-c",
                r#""$1" -q "$2" & pooler=$!; cat >/dev/null; kill "$pooler"; wait"#,
                "pooler",
                program,
            ])
            .arg(&settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pooler = Self { port, child, _dir: dir };
        let begin = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if begin.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other("it does not listen"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(pooler)
    }

    /// Returns a database's URL that leads through the pooler.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Reaped only to leave no zombie.
        let _ = self.child.wait();
    }
}
