//! Finds out whether a tool uses the database that it is given, without a database that it could harm.
//!
//! The tool is given the URL of a listener of ours. What tells is the first message of PostgreSQL's protocol, in which every
//! driver names the database that it wants; the answer is an error. A tool with an address of its own never comes.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use piton_exec::Command;
use piton_exec::local::{self, Output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Database, DbError};

/// How long a tool may take to come, and to end once it has come.
const PATIENCE: Duration = Duration::from_secs(60);
const GOOD_BYE: Duration = Duration::from_secs(5);

/// How a program ends that is killed.
const KILLED: i32 = 128 + 9;

/// The largest first message that the server itself takes.
const LARGEST: usize = 10_000;

/// The two requests that may come before the first message: for TLS and for GSSAPI.
const TLS: u32 = 80_877_103;
const GSSAPI: u32 = 80_877_104;

/// What came of the probe.
pub(super) struct Heard {
    /// Whether it asked for the database.
    pub(super) asked: bool,
    /// How it ended, and what it said.
    pub(super) output: Output,
    /// Whether somebody came and wanted nothing but TLS.
    pub(super) wanted_tls: bool,
}

/// Runs a command that is given a database which nobody else can mean, and listens whether it is asked for.
pub(super) async fn hears(
    command: impl Fn(&Database) -> Command,
    database: &Database,
) -> Result<Heard, DbError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let name = format!("piton_probe_{port}_{}", std::process::id());
    let command = command(&database.elsewhere(port, &name));
    let (heard, wanted_tls) = (Cell::new(false), Cell::new(false));
    let listen = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let asked = tokio::time::timeout(GOOD_BYE, first_message(stream, &wanted_tls)).await;
            if matches!(asked, Ok(Ok(Some(asked))) if asked == name) {
                heard.set(true);
                // Whatever else the tool does with the refusal is of no interest, but to end.
                tokio::time::sleep(GOOD_BYE).await;
                return;
            }
        }
    };
    let begin = Instant::now();
    let ended = |code, stderr| Output { code, stdout: String::new(), stderr, elapsed: begin.elapsed() };
    let run = local::run_with(&command, |_, _| {});
    let output = tokio::select! {
        output = run => output?,
        // What is let go of is killed.
        () = listen => ended(KILLED, String::new()),
        () = tokio::time::sleep(PATIENCE) => ended(124, format!("no end within {} s", PATIENCE.as_secs())),
    };
    Ok(Heard { asked: heard.get(), output, wanted_tls: wanted_tls.get() })
}

/// Reads which database the other side wants, and refuses it.
async fn first_message(mut stream: TcpStream, wanted_tls: &Cell<bool>) -> std::io::Result<Option<String>> {
    loop {
        let length = stream.read_u32().await? as usize;
        let code = stream.read_u32().await?;
        if matches!(code, TLS | GSSAPI) {
            wanted_tls.set(wanted_tls.get() || code == TLS);
            stream.write_all(b"N").await?;
            continue;
        }
        if !(8..=LARGEST).contains(&length) {
            return Ok(None);
        }
        let mut rest = vec![0; length - 8];
        stream.read_exact(&mut rest).await?;
        // It does without.
        wanted_tls.set(false);
        stream.write_all(&refusal()).await?;
        stream.shutdown().await?;
        return Ok(database_of(&rest));
    }
}

/// Finds the database among the names and values of a first message.
fn database_of(pairs: &[u8]) -> Option<String> {
    let mut words = pairs.split(|byte| *byte == 0);
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        if name == b"database" {
            return String::from_utf8(value.to_vec()).ok();
        }
    }
    None
}

fn refusal() -> Vec<u8> {
    let fields =
        b"SFATAL\0VFATAL\0C3D000\0MPiton asked which database this tool uses, and there is none here\0\0";
    let length = u32::try_from(fields.len() + 4).unwrap_or_default();
    [b"E".as_slice(), &length.to_be_bytes(), fields].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_found_among_the_other_words() {
        assert_eq!(database_of(b"user\0app\0database\0shop\0options\0-c a=b\0\0").as_deref(), Some("shop"));
        assert_eq!(database_of(b"user\0database\0database\0shop\0\0").as_deref(), Some("shop"));
        assert_eq!(database_of(b"user\0app\0\0"), None);
    }
}
