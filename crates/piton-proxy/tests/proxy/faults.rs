//! Upstreams and clients that fail, and on whose account it goes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::StatusCode;
use piton_proxy::Slot;
use piton_proxy::control::{Failures, SlotStats};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::support::{
    Http, Proxy, SOON, Upstream, body, bound, eventually, full, get, post, raw_upstream, read_head,
    silent_upstream, text,
};

async fn impatient(upstream: SocketAddr) -> Proxy {
    let proxy = Proxy::start_with("proxy", Duration::from_millis(300)).await;
    proxy.control().await.set_upstream(Slot::Blue, Some(upstream)).await.unwrap();
    proxy
}

/// Waits until nothing is in flight, and returns blue's counters.
async fn settled(proxy: &Proxy) -> SlotStats {
    eventually("the end of every request", async || {
        let blue = proxy.stats().await.slots.blue;
        (blue.in_flight == 0).then_some(blue)
    })
    .await
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_502_and_a_connect_failure() {
    let gone = bound();
    let proxy = Proxy::in_front_of(gone.local_addr().unwrap().as_socket().unwrap()).await;
    let (status, page) = Http::connect(proxy.addr).await.get(&[]).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(page.contains("blue slot is not reachable"), "{page}");
    let blue = settled(&proxy).await;
    assert_eq!(blue.failures, Failures { connect: 1, ..Failures::default() });
    assert_eq!((blue.requests, blue.bad, blue.judged(), blue.latency.count()), (1, 1, 1, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_accept_in_time_is_a_connect_failure() {
    let (socket, _queued) = full().await;
    let proxy = Proxy::in_front_of(socket.local_addr().unwrap().as_socket().unwrap()).await;
    let (status, _) = Http::connect(proxy.addr).await.get(&[]).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert_eq!(settled(&proxy).await.failures, Failures { connect: 1, ..Failures::default() });
    proxy.stop().await;
}

#[tokio::test]
async fn a_request_that_is_still_connecting_follows_the_switch() {
    let (socket, _queued) = full().await;
    let green = Upstream::named("green").await;
    let proxy = Proxy::start().await;
    proxy.upstreams(socket.local_addr().unwrap().as_socket().unwrap(), green.addr).await;
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // By the time both workers have answered, one of them has most likely begun to connect.
    assert_eq!(proxy.stats().await.slots.blue.requests, 0);
    proxy.weight(10_000).await;
    let head = timeout(SOON, read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let stats = proxy.stats().await;
    assert_eq!((stats.slots.blue.requests, stats.slots.blue.bad, stats.slots.green.requests), (0, 0, 1));
    proxy.stop().await;
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_a_504_and_a_timeout() {
    let silent = raw_upstream(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let proxy = impatient(silent).await;
    let mut http = Http::connect(proxy.addr).await;
    assert_eq!(http.get(&[]).await.0, StatusCode::GATEWAY_TIMEOUT);
    let response = http.send(post("/", "x")).await.unwrap();
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    let blue = settled(&proxy).await;
    assert_eq!(blue.failures, Failures { timeout: 2, ..Failures::default() });
    assert_eq!((blue.bad, blue.aborted), (2, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_before_the_answer_is_a_502_and_a_reset() {
    let connections = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&connections);
    let upstream = raw_upstream(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { drop(read_head(&mut stream).await) }
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.0, StatusCode::BAD_GATEWAY);
    let blue = settled(&proxy).await;
    assert_eq!(blue.failures, Failures { reset: 1, ..Failures::default() });
    assert_eq!((blue.bad, blue.retried), (1, 0));
    assert_eq!(
        connections.load(Ordering::SeqCst),
        1,
        "a fresh connection's failure is the app's, not a race"
    );
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_in_its_midst_is_a_reset_and_no_success() {
    let upstream = raw_upstream(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    let response = Http::connect(proxy.addr).await.send(get("/", &[])).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await.expect_err("the client must see that it is not whole");
    let blue = settled(&proxy).await;
    assert_eq!(blue.failures, Failures { reset: 1, ..Failures::default() });
    assert_eq!((blue.status.success, blue.bad, blue.judged()), (0, 1, 1));
    proxy.stop().await;
}

#[tokio::test]
async fn answers_count_by_the_class_of_their_status() {
    let upstream = Upstream::start(|request| async move {
        let mut response = text("x");
        *response.status_mut() = request.uri().path()[1..].parse().unwrap();
        response
    })
    .await;
    let proxy = Proxy::in_front_of(upstream.addr).await;
    let mut http = Http::connect(proxy.addr).await;
    let before = proxy.stats().await;
    for status in ["200", "201", "302", "404", "429", "500", "503"] {
        let path = format!("/{status}");
        assert_eq!(http.send(get(&path, &[])).await.unwrap().status().as_str(), status);
    }
    settled(&proxy).await;
    let blue = proxy.stats().await.since(&before).slots.blue;
    let classes =
        (blue.status.success, blue.status.redirection, blue.status.client_error, blue.status.server_error);
    assert_eq!(classes, (2, 1, 2, 2));
    assert_eq!((blue.bad, blue.judged(), blue.latency.count()), (2, 7, 7));
    assert!(blue.latency.quantile(0.95).unwrap() < SOON);
    let nothing = proxy.stats().await;
    assert_eq!(nothing.since(&nothing.clone()).slots.blue.judged(), 0);
    proxy.stop().await;
}

/// Answers the first request of each connection and breaks off at the second.
async fn once_per_connection() -> SocketAddr {
    raw_upstream(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nonce";
        stream.write_all(answer.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
    })
    .await
}

#[tokio::test]
async fn an_idempotent_request_is_sent_again_when_a_kept_connection_has_died() {
    let proxy = Proxy::in_front_of(once_per_connection().await).await;
    let mut http = Http::connect(proxy.addr).await;
    for _ in 0..3 {
        assert_eq!(http.get(&[]).await, (StatusCode::OK, "once".to_owned()));
    }
    let blue = settled(&proxy).await;
    assert_eq!((blue.status.success, blue.retried, blue.bad), (3, 2, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_request_that_may_have_had_an_effect_is_not_sent_again() {
    let proxy = Proxy::in_front_of(once_per_connection().await).await;
    let mut http = Http::connect(proxy.addr).await;
    for (count, body) in [(1, "buy"), (2, "")] {
        assert_eq!(http.get(&[]).await.0, StatusCode::OK);
        let response = http.send(post("/", body)).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        let blue = settled(&proxy).await;
        assert_eq!((blue.status.success, blue.retried, blue.failures.reset), (count, 0, count));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_connection_that_the_upstream_has_closed_is_not_used() {
    let (closed, mut is_closed) = watch::channel(0);
    let upstream = raw_upstream(move |mut stream| {
        let closed = closed.clone();
        async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nonce";
            stream.write_all(answer.as_bytes()).await.unwrap();
            drop(stream);
            closed.send_modify(|count| *count += 1);
        }
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    let mut http = Http::connect(proxy.addr).await;
    for number in 1..=5 {
        // The proxy has had the news before the client got its answer's successor on the way.
        assert_eq!(http.send(post("/", "x")).await.unwrap().status(), StatusCode::OK);
        is_closed.wait_for(|count| *count == number).await.unwrap();
        proxy.stats().await;
    }
    assert_eq!(settled(&proxy).await.bad, 0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_not_held_against_the_slot() {
    let (upstream, mut is_seen) = silent_upstream().await;
    let proxy = Proxy::in_front_of(upstream).await;
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    is_seen.wait_for(|seen| *seen).await.unwrap();
    assert_eq!(proxy.stats().await.slots.blue.in_flight, 1);
    drop(stream);
    let blue = settled(&proxy).await;
    assert_eq!((blue.aborted, blue.bad, blue.judged()), (1, 0, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_download_that_the_client_gives_up_ends_at_the_upstream_too() {
    let (ended, mut has_ended) = watch::channel(false);
    let upstream = raw_upstream(move |mut stream| {
        let ended = ended.clone();
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
            // Events, with nothing to say most of the time.
            stream.write_all(b"5\r\nevent\r\n").await.unwrap();
            let _ = stream.read_to_end(&mut Vec::new()).await;
            ended.send_replace(true);
        }
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_head(&mut stream).await;
    assert_eq!(proxy.stats().await.slots.blue.in_flight, 1);
    drop(stream);
    timeout(SOON, has_ended.wait_for(|ended| *ended)).await.expect("the upstream goes on").unwrap();
    let blue = settled(&proxy).await;
    assert_eq!((blue.bad, blue.aborted, blue.status.success), (0, 0, 1));
    proxy.stop().await;
}

#[tokio::test]
async fn a_long_upload_is_no_timeout_and_a_stalled_one_is_the_clients() {
    let upstream = Upstream::start(|request| async move {
        match request.into_body().collect().await {
            Ok(whole) => text(whole.to_bytes()),
            Err(_) => text("broken"),
        }
    })
    .await;
    let proxy = impatient(upstream.addr).await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";

    let mut steady = TcpStream::connect(proxy.addr).await.unwrap();
    steady.write_all(head.as_bytes()).await.unwrap();
    for byte in b"0123456789" {
        // Ten times this is well beyond the response timeout.
        sleep(Duration::from_millis(80)).await;
        steady.write_all(&[*byte]).await.unwrap();
    }
    let answer = timeout(SOON, read_head(&mut steady)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mut stalled = TcpStream::connect(proxy.addr).await.unwrap();
    stalled.write_all(head.as_bytes()).await.unwrap();
    stalled.write_all(b"01").await.unwrap();
    let answer = timeout(SOON, read_head(&mut stalled)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");

    drop((steady, stalled));
    let blue = settled(&proxy).await;
    assert_eq!((blue.status.success, blue.aborted, blue.bad), (1, 1, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_during_an_upload_is_a_502_and_a_reset() {
    let upstream = raw_upstream(|mut stream| async move {
        read_head(&mut stream).await;
        assert_eq!(stream.read_u8().await.unwrap(), b'0');
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    let mut client = TcpStream::connect(proxy.addr).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0").await.unwrap();
    let answer = timeout(SOON, read_head(&mut client)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    let blue = settled(&proxy).await;
    assert_eq!(blue.failures, Failures { reset: 1, ..Failures::default() });
    assert_eq!((blue.bad, blue.aborted, blue.judged()), (1, 0, 1));
    proxy.stop().await;
}

#[tokio::test]
async fn an_upload_that_the_client_breaks_off_is_not_held_against_the_slot() {
    let (upstream, mut is_seen) = silent_upstream().await;
    let proxy = Proxy::in_front_of(upstream).await;
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (count, broken) in [(1, "5\r\nha"), (2, "no length\r\n")] {
        let mut client = TcpStream::connect(proxy.addr).await.unwrap();
        client.write_all(chunked.as_bytes()).await.unwrap();
        is_seen.wait_for(|seen| *seen).await.unwrap();
        client.write_all(broken.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        eventually("the end", async || (settled(&proxy).await.aborted == count).then_some(())).await;
    }
    assert_eq!(settled(&proxy).await.bad, 0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_new_upstream_gets_the_requests_and_the_old_one_no_more() {
    let (old, new) = (Upstream::named("old").await, Upstream::named("new").await);
    let proxy = Proxy::in_front_of(old.addr).await;
    let mut http = Http::connect(proxy.addr).await;
    assert_eq!(http.get(&[]).await.1, "old");
    proxy.control().await.set_upstream(Slot::Blue, Some(new.addr)).await.unwrap();
    for _ in 0..20 {
        assert_eq!(http.get(&[]).await.1, "new");
    }
    assert_eq!(old.count(), 1);
    assert_eq!(body(http.send(post("/", "x")).await.unwrap()).await, "new");
    proxy.stop().await;
}
