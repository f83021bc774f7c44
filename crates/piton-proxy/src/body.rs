//! The two bodies that stream through the proxy: the client's upload and the upstream's reply.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::meter::{Exchange, Failure};
use crate::pool::Lease;

/// A request's body on its way to the upstream.
pub(crate) enum Upload {
    None,
    Stream(Incoming, Rc<Progress>),
}

/// How far an upload has come, seen by whoever waits for the answer.
pub(crate) struct Progress {
    last: Cell<Instant>,
    stage: Cell<Stage>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The client has to send more.
    Client,
    /// The upstream has to read more, or to answer.
    Upstream,
    /// The client broke off.
    Broken,
}

impl Upload {
    pub(crate) fn new(body: Incoming) -> Upload {
        if body.is_end_stream() {
            return Upload::None;
        }
        let progress = Progress { last: Cell::new(Instant::now()), stage: Cell::new(Stage::Upstream) };
        Upload::Stream(body, Rc::new(progress))
    }

    /// Returns the progress, none when there is nothing to upload.
    pub(crate) fn progress(&self) -> Option<Rc<Progress>> {
        match self {
            Upload::None => None,
            Upload::Stream(_, progress) => Some(Rc::clone(progress)),
        }
    }
}

impl Progress {
    fn note(&self, stage: Stage) {
        self.last.set(Instant::now());
        self.stage.set(stage);
    }

    /// Returns how long nothing has moved.
    pub(crate) fn idle(&self) -> Duration {
        self.last.get().elapsed()
    }

    /// Says whether it is the client who stopped sending or broke off.
    pub(crate) fn is_up_to_the_client(&self) -> bool {
        self.stage.get() != Stage::Upstream
    }

    /// Says whether it is the client who broke off.
    pub(crate) fn was_broken_off(&self) -> bool {
        self.stage.get() == Stage::Broken
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Upload::Stream(body, progress) = self.get_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        progress.note(match &polled {
            Poll::Pending => Stage::Client,
            Poll::Ready(Some(Err(_))) => Stage::Broken,
            Poll::Ready(_) => Stage::Upstream,
        });
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::None => true,
            Upload::Stream(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::None => SizeHint::with_exact(0),
            Upload::Stream(body, _) => body.size_hint(),
        }
    }
}

/// A response's body on its way to the client.
pub(crate) enum Reply {
    /// Written by the proxy itself; taken when it has been sent.
    Page(Option<Bytes>),
    Stream(Stream),
}

/// An upstream's body. When it is dropped, the connection goes back to the pool.
pub(crate) struct Stream {
    body: Incoming,
    exchange: Exchange,
    lease: Option<Lease>,
}

impl Reply {
    pub(crate) fn empty() -> Reply {
        Reply::Page(None)
    }

    pub(crate) fn page(bytes: Bytes) -> Reply {
        Reply::Page(Some(bytes))
    }

    pub(crate) fn stream(body: Incoming, exchange: Exchange, lease: Lease) -> Reply {
        Reply::Stream(Stream { body, exchange, lease: Some(lease) })
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let stream = match self.get_mut() {
            Reply::Page(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Reply::Stream(stream) => stream,
        };
        let polled = Pin::new(&mut stream.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &polled {
            stream.exchange.failed(Failure::Reset);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Page(bytes) => bytes.is_none(),
            Reply::Stream(stream) => stream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Page(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Reply::Stream(stream) => stream.body.size_hint(),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A body that the client did not want to its end closes the connection, or is read to its end by
        // it; either way the pool sees whether it can be used again.
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}
