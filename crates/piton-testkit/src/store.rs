//! A store of backups: moto, an emulator of Amazon's.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::postgres;
use crate::tools;

/// The one bucket.
pub const BUCKET: &str = "backups";

/// Whoever does not sign is a stranger; the signature itself is not looked at.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// A store on 127.0.0.1 with one bucket; it ends when this is dropped, or with this process.
#[derive(Debug)]
pub struct Store {
    port: u16,
    child: Child,
}

impl Store {
    /// Starts one, or says `skipped: needs moto` and returns `None`.
    ///
    /// # Panics
    /// When it is there but does not start; when it is missing and `PITON_REQUIRE_ALL=1`.
    #[expect(clippy::panic, reason = "a test whose store does not start has failed")]
    pub fn start() -> Option<Self> {
        let program = tools::folder().join("python/bin/moto_server");
        if !program.exists() {
            postgres::skip("moto");
            return None;
        }
        match Self::try_start(&program) {
            Ok(store) => Some(store),
            Err(error) => panic!("no moto: {error}"),
        }
    }

    fn try_start(program: &std::path::Path) -> io::Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        // The pipe ends with this process, however that ends.
        let child = Command::new("sh")
            .args(["-c", r#""$@" & store=$!; cat >/dev/null; kill "$store"; wait"#, "store"])
            .arg(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let store = Self { port, child };
        let begin = Instant::now();
        while store.request("PUT", "", b"").is_none_or(|(status, _)| status != 200) {
            if begin.elapsed() > Duration::from_secs(30) {
                return Err(io::Error::other("it does not listen"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(store)
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Asks something of the bucket, or with a name of an object in it; returns the status and the body, `None` without an answer.
    pub fn request(&self, method: &str, name: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        let path = format!("/{BUCKET}/{name}");
        let head = format!(
            "{method} {} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n{SIGNED}\r\n\r\n",
            path.trim_end_matches('/'),
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let status = String::from_utf8_lossy(&answer[..end]).split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_off(end + 4)))
    }

    /// Lists the names of all objects.
    ///
    /// # Panics
    /// When it does not answer.
    #[expect(clippy::panic, reason = "a test whose store does not answer has failed")]
    pub fn names(&self) -> Vec<String> {
        let Some((200, body)) = self.request("GET", "", b"") else { panic!("the store does not answer") };
        let body = String::from_utf8_lossy(&body).into_owned();
        let keys = body.split("<Key>").skip(1);
        keys.filter_map(|rest| rest.split("</Key>").next()).map(str::to_owned).collect()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Reaped only to leave no zombie.
        let _ = self.child.wait();
    }
}
