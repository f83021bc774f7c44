//! The way of one request through the proxy.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONNECTION, HeaderValue, SET_COOKIE};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::timeout;

use crate::body::{Progress, Reply, Upload};
use crate::bucket::Bucket;
use crate::headers;
use crate::meter::{Exchange, Failure};
use crate::page::{Form, Refusal};
use crate::pool::Lease;
use crate::routing::Target;
use crate::succession::{self, Busy};
use crate::websocket;
use crate::worker::Worker;

/// Answers one request: from its slot, or with a page that says why not.
pub(crate) async fn answer(
    worker: Rc<Worker>,
    client: IpAddr,
    request: Request<Incoming>,
) -> Response<Reply> {
    let known = Bucket::of(request.headers());
    let bucket = known.unwrap_or_else(Bucket::draw);
    let accept = request.headers().get(ACCEPT).cloned();
    let mut response = match forward(&worker, bucket, client, request).await {
        Ok(response) => response,
        Err(refusal) => {
            worker.count(&refusal);
            refusal.answer(Form::of(accept.as_ref()))
        }
    };
    if known.is_none() {
        response.headers_mut().append(SET_COOKIE, bucket.cookie());
    }
    if worker.is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Sends a request to the slot of its bucket and returns the answer, its body still streaming.
async fn forward(
    worker: &Rc<Worker>,
    bucket: Bucket,
    client: IpAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Reply>, Refusal> {
    if request.method() == Method::CONNECT {
        return Err(Refusal::Tunnel);
    }
    headers::settle_host(&mut request, worker.listen)?;
    let mut tunnel = headers::asks_for_websocket(&request).then(|| hyper::upgrade::on(&mut request));
    headers::to_upstream(&mut request, client, tunnel.is_some());
    let mut request = request.map(Upload::new);
    let mut is_retry = false;
    loop {
        let busy = follow(worker).await;
        let target = worker.router.admit(bucket).await?;
        let kept =
            if is_retry || tunnel.is_some() { None } else { worker.pool.take(target.slot, target.upstream) };
        let (lease, busy) = match kept {
            Some(lease) => (lease, busy),
            None => {
                // Nothing is sent before the orders are asked for again.
                drop(busy);
                match connect(worker, target, tunnel.is_some()).await? {
                    Some(connected) => connected,
                    None => continue,
                }
            }
        };
        let exchange = Exchange::begin(&worker.meter, target.slot, busy);
        request = match send(worker, target, lease, exchange, request, &mut tunnel).await? {
            Sent::Answered(response) => return Ok(response),
            Sent::Again(request) => request,
        };
        is_retry = true;
    }
}

/// In a process that has handed over, puts the successor's orders in force here.
async fn follow(worker: &Worker) -> Option<Busy> {
    if !worker.is_leaving() {
        return None;
    }
    // Boxed, so that it takes no room in every other request.
    Box::pin(succession::follow(&worker.dir, &worker.router)).await
}

/// Opens a connection; none when an order came meanwhile, so that the target has to be chosen again.
async fn connect(
    worker: &Rc<Worker>,
    target: Target,
    upgrades: bool,
) -> Result<Option<(Lease, Option<Busy>)>, Refusal> {
    let Target { slot, upstream, .. } = target;
    let connected = worker.pool.connect(slot, upstream, worker.timeouts.connect, upgrades).await;
    let busy = follow(worker).await;
    if !worker.router.still_holds(target) {
        return Ok(None);
    }
    connected.map(|lease| Some((lease, busy))).map_err(|error| {
        tracing::debug!(%slot, %upstream, %error, "cannot connect");
        worker.meter.unreachable(slot);
        Refusal::Unreachable(slot)
    })
}

/// What became of a request that was given to a connection.
enum Sent {
    Answered(Response<Reply>),
    /// The kept connection had died; nothing has happened yet.
    Again(Request<Upload>),
}

async fn send(
    worker: &Rc<Worker>,
    target: Target,
    mut lease: Lease,
    mut exchange: Exchange,
    request: Request<Upload>,
    tunnel: &mut Option<OnUpgrade>,
) -> Result<Sent, Refusal> {
    let slot = target.slot;
    let progress = request.body().progress();
    let spare = lease.is_used.then(|| copy_if_repeatable(&request)).flatten();
    let answer = lease.sender.try_send_request(request);
    match within(worker.timeouts.response, progress.as_deref(), answer).await {
        Some(Ok(response)) => {
            exchange.answered(response.status());
            Ok(Sent::Answered(pass_on(worker, target, response, exchange, lease, tunnel)))
        }
        Some(Err(mut error)) => {
            let unsent = lease.is_used.then(|| error.take_message()).flatten();
            if let Some(request) = unsent.or(spare) {
                exchange.sent_again();
                return Ok(Sent::Again(request));
            }
            // A client that still has to send more is not to blame for an upstream that does not wait for it.
            if progress.is_some_and(|progress| progress.was_broken_off()) {
                return Err(Refusal::ClientStalled);
            }
            tracing::debug!(%slot, error = %error.error(), "no answer");
            exchange.failed(Failure::Reset);
            Err(Refusal::Reset(slot))
        }
        None if progress.is_some_and(|progress| progress.is_up_to_the_client()) => {
            Err(Refusal::ClientStalled)
        }
        None => {
            exchange.failed(Failure::Timeout);
            Err(Refusal::TimedOut(slot))
        }
    }
}

/// Waits for an answer until nothing, upload included, has moved for `limit`.
async fn within<T>(
    limit: Duration,
    progress: Option<&Progress>,
    answer: impl Future<Output = T>,
) -> Option<T> {
    let mut answer = std::pin::pin!(answer);
    let mut wait = limit;
    loop {
        if let Ok(answer) = timeout(wait, answer.as_mut()).await {
            return Some(answer);
        }
        wait = limit.saturating_sub(progress?.idle());
        if wait.is_zero() {
            return None;
        }
    }
}

/// Copies a request that may be sent twice: idempotent and without a body.
fn copy_if_repeatable(request: &Request<Upload>) -> Option<Request<Upload>> {
    if !request.method().is_idempotent() || !matches!(request.body(), Upload::None) {
        return None;
    }
    let mut copy = Request::new(Upload::None);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

fn pass_on(
    worker: &Rc<Worker>,
    target: Target,
    mut response: Response<Incoming>,
    exchange: Exchange,
    lease: Lease,
    tunnel: &mut Option<OnUpgrade>,
) -> Response<Reply> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = tunnel.take()
    {
        websocket::join(worker, target.slot, client, hyper::upgrade::on(&mut response));
        return response.map(|_| Reply::empty());
    }
    headers::to_client(response.headers_mut());
    response.map(|body| Reply::stream(body, exchange, lease))
}
