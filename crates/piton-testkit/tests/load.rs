//! The load generator against small servers whose every answer is known.
#![expect(clippy::unwrap_used, reason = "a test helper that fails has failed the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use piton_testkit::load::{FailureKind, Load, Report};
use piton_testkit::postgres::{Cluster, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

type Answer = Response<Full<Bytes>>;

/// Serves each request with what the function answers.
async fn serve<F: Future<Output = Answer> + Send + 'static>(
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// Says the same bytes to whoever has sent a request, and closes the connection.
async fn say_and_close(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(bytes).await;
        }
    });
    address
}

fn answer(status: u16, release: &str) -> Answer {
    Response::builder().status(status).header("x-release", release).body(Full::default()).unwrap()
}

fn body(id: &str) -> Value {
    json!({ "id": id })
}

fn load(target: SocketAddr) -> Load {
    Load { rate: 500, clients: 5, without_cookies: 2, ..Load::new(target, "/things", body) }
}

/// Runs the load until so many requests have ended.
async fn run(load: Load, requests: u64) -> Report {
    let running = load.start().unwrap();
    eventually("requests have ended", || async { running.snapshot().requests >= requests }).await;
    running.stop().await
}

#[tokio::test]
async fn answers_are_counted_by_release_and_status() {
    let seen = Arc::new(Mutex::new(0u32));
    let shared = Arc::clone(&seen);
    let target = serve(move |_| {
        let mut seen = shared.lock().unwrap();
        *seen += 1;
        let answered = match *seen % 10 {
            0 => answer(500, "2"),
            1..=4 => answer(200, "2"),
            _ => answer(200, "1"),
        };
        async { answered }
    })
    .await;
    let report = run(load(target), 200).await;

    let seen = u64::from(*seen.lock().unwrap());
    assert_eq!(report.requests, seen);
    assert_eq!(report.failed, seen / 10);
    let by_release: BTreeMap<&str, (u64, u64)> =
        report.releases.iter().map(|(name, r)| (name.as_str(), (r.requests, r.failed))).collect();
    let second = (1..=seen).filter(|n| n % 10 <= 4).count() as u64;
    assert_eq!(by_release, BTreeMap::from([("1", (seen - second, 0)), ("2", (second, seen / 10))]));

    let [failure] = &report.failures[..] else { panic!("{:?}", report.failures) };
    assert_eq!((failure.kind, failure.count), (FailureKind::Status(500), seen / 10));
    assert_eq!(failure.release, "2");
    assert_eq!(failure.first.len(), 3);

    let sliced: u64 = report.timeline.iter().flat_map(|s| s.releases.values()).map(|s| s.requests).sum();
    assert_eq!(sliced, seen);
    for slice in &report.timeline {
        for share in slice.releases.values() {
            let (from, to) = (slice.at_ms as f64, (slice.at_ms + 100) as f64);
            assert!((from..to).contains(&share.last_ms), "{slice:?}");
        }
    }
}

#[tokio::test]
async fn failures_of_the_connection_are_told_apart() {
    let refused = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let silent = serve(|_| std::future::pending()).await;
    let cases = [
        (refused, FailureKind::Connect),
        (silent, FailureKind::Timeout),
        (say_and_close(b"").await, FailureKind::Closed),
        (say_and_close(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhal").await, FailureKind::Broken),
    ];
    for (target, kind) in cases {
        let report = run(Load { patience: Duration::from_millis(200), ..load(target) }, 20).await;
        assert_eq!(report.failed, report.requests, "{kind}");
        assert!(report.acknowledged.is_empty(), "{kind}");
        let [failure] = &report.failures[..] else { panic!("{kind}: {:?}", report.failures) };
        assert_eq!((failure.kind, failure.release.as_str()), (kind, "none"));
    }
}

#[tokio::test]
async fn a_server_that_closes_idle_connections_causes_no_failure() {
    let target = say_and_close(b"HTTP/1.1 200 OK\r\nx-release: 1\r\ncontent-length: 2\r\n\r\nok").await;
    let report = run(load(target), 200).await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
}

#[tokio::test]
async fn a_stall_is_charged_to_every_request_that_was_due_in_it() {
    let gate = Arc::new(tokio::sync::RwLock::new(()));
    let shared = Arc::clone(&gate);
    let target = serve(move |_| {
        let gate = Arc::clone(&shared);
        async move {
            drop(gate.read().await);
            answer(200, "1")
        }
    })
    .await;
    let stalled = gate.write().await;
    let running = Load { rate: 100, ..load(target) }.start().unwrap();
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(running.snapshot().requests, 0);
    drop(stalled);
    let report = running.stop().await;
    // Some 100 requests were due, evenly over the second: half of them waited for half of it or longer.
    let first = &report.releases["1"];
    assert!(first.requests >= 50, "{first:?}");
    assert!(first.p50_ms >= 250.0 && first.max_ms >= 900.0, "{first:?}");
}

/// Returns the cookies that a server which hands out buckets gets back.
async fn returned_cookies(load: impl Fn(SocketAddr) -> Load) -> BTreeSet<String> {
    let returned = Arc::new(Mutex::new(BTreeSet::new()));
    let shared = Arc::clone(&returned);
    let target = serve(move |request: Request<Incoming>| {
        let mut answered = answer(200, "1");
        if let Some(cookie) = request.headers().get("cookie") {
            shared.lock().unwrap().insert(cookie.to_str().unwrap().to_owned());
        } else {
            let bucket = "piton_bucket=7; Path=/; HttpOnly".parse().unwrap();
            answered.headers_mut().insert("set-cookie", bucket);
        }
        async { answered }
    })
    .await;
    run(load(target), 200).await;
    returned.lock().unwrap().clone()
}

#[tokio::test]
async fn only_clients_with_a_jar_return_cookies() {
    let with = returned_cookies(|target| Load { without_cookies: 0, ..load(target) }).await;
    assert_eq!(with, BTreeSet::from(["piton_bucket=7".to_owned()]));
    let without = returned_cookies(|target| Load { without_cookies: 5, ..load(target) }).await;
    assert_eq!(without, BTreeSet::new());
}

/// A server that keeps what is written, but for every tenth write, which it acknowledges and forgets.
async fn forgetful() -> (SocketAddr, Arc<Mutex<(BTreeSet<String>, BTreeSet<String>)>>) {
    let written = Arc::new(Mutex::new((BTreeSet::new(), BTreeSet::new())));
    let shared = Arc::clone(&written);
    let target = serve(move |request: Request<Incoming>| {
        let written = Arc::clone(&shared);
        async move {
            if request.method() == Method::GET {
                let id = request.uri().path().trim_start_matches("/things/");
                let status = if written.lock().unwrap().0.contains(id) { 200 } else { 404 };
                return answer(status, "1");
            }
            let bytes = request.into_body().collect().await.unwrap().to_bytes();
            let id = serde_json::from_slice::<Value>(&bytes).unwrap()["id"].as_str().unwrap().to_owned();
            let (kept, forgotten) = &mut *written.lock().unwrap();
            if (kept.len() + forgotten.len()) % 10 == 9 {
                forgotten.insert(id)
            } else {
                kept.insert(id)
            };
            answer(201, "1")
        }
    })
    .await;
    (target, written)
}

#[tokio::test]
async fn lost_writes_are_found_through_the_api_and_in_the_table() {
    let (target, written) = forgetful().await;
    let report = run(Load { writes: 1.0, ..load(target) }, 100).await;
    let (kept, forgotten) = written.lock().unwrap().clone();
    assert_eq!(report.acknowledged.len(), kept.len() + forgotten.len());
    let lost = report.acknowledged.lost_in_api(target).await.unwrap();
    assert_eq!(lost.into_iter().collect::<BTreeSet<_>>(), forgotten);

    let Some(cluster) = Cluster::shared() else { return };
    cluster.create_database("load_lost_writes").await;
    let database = cluster.connect("load_lost_writes").await;
    database.batch_execute(r#"create table "Thing" (id text primary key)"#).await.unwrap();
    let ids: Vec<String> = kept.into_iter().collect();
    database.execute(r#"insert into "Thing" select unnest($1::text[])"#, &[&ids]).await.unwrap();
    let lost = report.acknowledged.lost_in_table(&database, "Thing").await.unwrap();
    assert_eq!(lost.into_iter().collect::<BTreeSet<_>>(), forgotten);
}

#[tokio::test]
async fn a_write_that_cannot_be_looked_up_is_not_taken_for_a_lost_one() {
    let target = serve(|request: Request<Incoming>| async move {
        answer(if request.method() == Method::GET { 503 } else { 201 }, "1")
    })
    .await;
    let report = run(Load { writes: 1.0, ..load(target) }, 10).await;
    let error = report.acknowledged.lost_in_api(target).await.unwrap_err();
    assert!(error.to_string().contains("status 503"), "{error}");
}

#[tokio::test]
async fn the_load_ends_by_itself_after_its_longest_time() {
    let target = serve(|_| async { answer(200, "1") }).await;
    let running = Load { longest: Duration::from_millis(300), ..load(target) }.start().unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let before = running.snapshot().requests;
    assert!((1..=151).contains(&before), "{before}");
    assert_eq!(running.stop().await.requests, before);
}
