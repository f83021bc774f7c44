//! An app that notes when it last got a request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use piton_proxy::Slot;
use tokio::net::TcpListener;

pub(crate) struct App {
    pub(crate) addr: SocketAddr,
    began: Instant,
    /// Nanoseconds from `began`.
    last: Arc<AtomicU64>,
}

impl App {
    pub(crate) async fn start(slot: Slot) -> App {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (began, last) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let noted = Arc::clone(&last);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let noted = Arc::clone(&noted);
                let service = service_fn(move |_| {
                    let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap();
                    noted.fetch_max(nanos, Ordering::SeqCst);
                    let body = Full::new(Bytes::from(slot.to_string()));
                    async move { Ok::<_, Infallible>(Response::new(body)) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        App { addr, began, last }
    }

    pub(crate) fn last_request(&self) -> Instant {
        self.began + Duration::from_nanos(self.last.load(Ordering::SeqCst))
    }
}
