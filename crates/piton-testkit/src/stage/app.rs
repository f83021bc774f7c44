//! The stage's app: its program, how a release behaves, its first migration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use fs_err as fs;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};

/// How a release of `piton-test-app` behaves.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Behaviour {
    /// What it calls itself in the answers' `x-release`.
    pub release: String,
    /// The share of requests, 0 to 1, that it answers with 500; its health is good.
    pub fails: f64,
    /// How long it takes for each answer but its health.
    pub delay_ms: u64,
    /// Whether its health is 503 for ever.
    pub never_ready: bool,
    /// Whether its health is a redirect, 301.
    pub redirects: bool,
    /// Whether it ends at once.
    pub exits: bool,
    /// Tables with a unique column `item` that each saved item is noted in, too.
    pub also_writes: Vec<String>,
}

/// What distinguishes a commit from the one before.
#[derive(Clone, Copy)]
pub enum Change<'a> {
    /// The app behaves in another way.
    Behaviour(fn(&mut Behaviour)),
    /// A migration: its file's name and its SQL.
    Migration(&'a str, &'a str),
    /// Any other file of the repository and its text.
    File(&'a str, &'a str),
}

/// The migration of the first commit.
pub(super) const ITEMS: &str = "\
create table items (
    id text primary key,
    note text not null,
    created timestamptz not null default now()
);
insert into items (id, note, created)
select 'old-' || n, md5(n::text), '2026-01-01 UTC' from generate_series(1, 1000) n;
";

const NAME: &str = "piton-test-app";

/// Returns the app's program beside `piton`, built first when it is missing or older than its source.
pub(super) fn binary(piton: &Path) -> PathBuf {
    let program = piton.with_file_name(NAME);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/piton-test-app.rs");
    let changed = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    if changed(&program).is_some_and(|built| Some(built) > changed(&source)) {
        return program;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "piton-testkit", "--bin", NAME]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(target) = piton.ancestors().nth(2) {
        cargo.arg("--target-dir").arg(target);
    }
    if piton.parent().is_some_and(|profile| profile.ends_with("release")) {
        cargo.arg("--release");
    }
    let built = cargo.status().expect("cargo runs");
    assert!(built.success(), "{NAME} cannot be built");
    program
}

/// Returns the status and the `x-release` of an answer; `None` without one.
pub(super) async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let asked = async {
        let stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let connection = tokio::spawn(connection);
        let request =
            Request::get(path).header("host", address.to_string()).body(Empty::<Bytes>::new()).ok()?;
        let answer = sender.send_request(request).await.ok();
        connection.abort();
        let answer = answer?;
        let release = answer.headers().get("x-release").and_then(|value| value.to_str().ok());
        Some((answer.status().as_u16(), release.unwrap_or("none").to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await.ok()?
}
