//! A plain GET to an app on this machine; redirects are answers, not followed.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The largest body that a check looks at.
const LARGEST_BODY: usize = 4 << 20;

/// An app's answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Where a redirect points.
    pub(crate) location: Option<String>,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("nothing listens on port {0}")]
    Refused(u16),
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    #[error("the answer is not HTTP")]
    Hyper(#[from] hyper::Error),
    #[error("the request cannot be made")]
    Request(#[from] hyper::http::Error),
    #[error("the body is larger than {LARGEST_BODY} bytes or broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Gets `path` from the loopback port.
pub(crate) async fn get(port: u16, path: &str, limit: Duration) -> Result<Answer, HttpError> {
    tokio::time::timeout(limit, get_unbounded(port, path)).await.unwrap_or(Err(HttpError::TimedOut(limit)))
}

async fn get_unbounded(port: u16, path: &str) -> Result<Answer, HttpError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => HttpError::Refused(port),
        _ => HttpError::Io(error),
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header("host", format!("localhost:{port}"))
        .header("user-agent", concat!("piton/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let location = response.headers().get("location").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let body =
            Limited::new(response.into_body(), LARGEST_BODY).collect().await.map_err(HttpError::Body)?;
        Ok(Answer { status, location, body: body.to_bytes() })
    };
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            // The connection may end in the same moment as the answer arrives whole.
            match tokio::time::timeout(Duration::from_millis(10), exchange).await {
                Ok(answer) => answer,
                Err(_) => Err(ended.err().map_or_else(
                    || HttpError::Io(std::io::ErrorKind::UnexpectedEof.into()),
                    HttpError::Hyper,
                )),
            }
        }
    }
}
