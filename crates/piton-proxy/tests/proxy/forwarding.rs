//! What goes through the proxy, and what has to stay behind.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{HeaderMap, SET_COOKIE};
use hyper::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::support::{Http, Proxy, SOON, Upstream, body, get, post, raw, raw_upstream, read_head, text};

/// Answers with the head of the request as text.
async fn mirror() -> Upstream {
    Upstream::start(|request| async move {
        let mut lines = vec![format!("{} {}", request.method(), request.uri())];
        lines.extend(
            request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())),
        );
        text(lines.join("\n"))
    })
    .await
}

/// A body that is fed through a channel, one frame at a time.
fn fed()
-> (mpsc::Sender<Frame<Bytes>>, impl hyper::body::Body<Data = Bytes, Error = std::convert::Infallible>) {
    let (sender, receiver) = mpsc::channel(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|frame| (Ok(frame), receiver))
    });
    (sender, StreamBody::new(stream))
}

#[tokio::test]
async fn the_upstream_learns_who_asked_for_what_and_nothing_about_the_connection() {
    let upstream = mirror().await;
    let proxy = Proxy::in_front_of(upstream.addr).await;
    let answer = raw(
        proxy.addr,
        "GET /a/b?c=d%20e HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 198.51.100.9\r\n\
         Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nUpgrade: h2c\r\nX-End: 1\r\n\r\n",
    )
    .await;
    let seen = answer.split("\r\n\r\n").nth(1).unwrap();
    let mut lines: Vec<_> = seen.lines().collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "GET /a/b?c=d%20e",
            "host: shop.example",
            "x-end: 1",
            "x-forwarded-for: 198.51.100.9, 127.0.0.1",
            "x-forwarded-host: shop.example",
            "x-forwarded-proto: http",
        ]
    );
    proxy.stop().await;
}

#[tokio::test]
async fn the_client_gets_the_answer_without_the_upstreams_connection_headers() {
    let upstream = raw_upstream(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 418 Short And Stout\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
                      Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nSet-Cookie: a=b\r\nX-End: 1\r\n\
                      Content-Length: 3\r\n\r\ntea";
        stream.write_all(answer.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    let response = Http::connect(proxy.addr).await.send(get("/", &[])).await.unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    let headers = response.headers();
    for gone in ["connection", "x-hop", "keep-alive", "proxy-authenticate"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    assert_eq!(headers["x-end"], "1");
    let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
    assert_eq!(cookies.len(), 2, "the app's own cookie stays: {cookies:?}");
    assert_eq!(body(response).await, "tea");
    proxy.stop().await;
}

#[tokio::test]
async fn an_absolute_target_is_sent_on_as_a_path() {
    let upstream = mirror().await;
    let proxy = Proxy::in_front_of(upstream.addr).await;
    let answer =
        raw(proxy.addr, "GET http://right.example/p HTTP/1.1\r\nHost: wrong\r\nConnection: close\r\n\r\n")
            .await;
    assert!(answer.contains("\r\n\r\nGET /p\n") && answer.contains("host: right.example"), "{answer}");
    let answer =
        raw(proxy.addr, "CONNECT right.example:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 501"), "{answer}");
    proxy.stop().await;
}

#[tokio::test]
async fn the_upstream_gets_one_host_or_no_request() {
    let upstream = mirror().await;
    let proxy = Proxy::in_front_of(upstream.addr).await;
    let own = format!("\nhost: {}\n", proxy.addr);
    for (head, expected) in [
        ("GET / HTTP/1.0\r\n", own.as_str()),
        ("GET / HTTP/1.0\r\nHost: shop.example\r\n", "\nhost: shop.example\n"),
        ("GET http://shop.example/ HTTP/1.0\r\n", "\nhost: shop.example\n"),
        ("GET / HTTP/1.1\r\nHost:\r\n", "\nhost: \n"),
    ] {
        let answer = raw(proxy.addr, &format!("{head}X-End: 1\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.contains(" 200 OK\r\n") && answer.contains(expected), "{head}{answer}");
    }
    let requests = upstream.count();
    for head in [
        "GET / HTTP/1.1\r\n",
        "GET http://shop.example/ HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n",
        "GET http://me:secret@shop.example/ HTTP/1.1\r\nHost: shop.example\r\n",
    ] {
        let answer = raw(proxy.addr, &format!("{head}Connection: close\r\n\r\n")).await;
        assert!(answer.contains(" 400 Bad Request\r\n"), "{head}{answer}");
        assert!(
            answer.ends_with(r#"{"error":"host","message":"The request does not name one host."}"#),
            "{answer}"
        );
    }
    assert_eq!((upstream.count(), proxy.stats().await.slots.blue.requests), (requests, requests));
    proxy.stop().await;
}

#[tokio::test]
async fn answers_without_a_body_keep_the_connections_usable() {
    let upstream = Upstream::start(|request| async move {
        let (head, body) = request.into_parts();
        body.collect().await.unwrap();
        let mut response = text(if head.uri.path() == "/full" { "whole" } else { "" });
        *response.status_mut() = match head.uri.path() {
            "/204" => StatusCode::NO_CONTENT,
            "/304" => StatusCode::NOT_MODIFIED,
            _ => StatusCode::OK,
        };
        response
    })
    .await;
    let proxy = Proxy::in_front_of(upstream.addr).await;
    let mut http = Http::connect(proxy.addr).await;
    for _ in 0..10 {
        let mut head = get("/full", &[]);
        *head.method_mut() = Method::HEAD;
        let response = http.send(head).await.unwrap();
        assert_eq!(response.headers()["content-length"], "5");
        assert_eq!(body(response).await, "");
        for (path, status) in [("/204", 204), ("/304", 304), ("/full", 200), ("/empty", 200)] {
            let response = http.send(get(path, &[])).await.unwrap();
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(body(response).await, if path == "/full" { "whole" } else { "" });
        }
        assert_eq!(body(http.send(post("/full", "x".repeat(100_000))).await.unwrap()).await, "whole");
    }
    assert_eq!(upstream.count(), 60);
    assert_eq!(upstream.connections.load(Ordering::SeqCst), 1, "one kept connection serves them all");
    proxy.stop().await;
}

#[tokio::test]
async fn bodies_stream_both_ways_as_they_come() {
    let upstream = Upstream::start(|request| async move {
        // An echo: each frame of the request is a frame of the answer.
        let frames = request.into_body().into_data_stream();
        let frames = futures_util::StreamExt::map(frames, |data| Ok(Frame::data(data.unwrap())));
        Response::new(StreamBody::new(frames).boxed_unsync())
    })
    .await;
    let proxy = Proxy::in_front_of(upstream.addr).await;
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    for word in ["first", "third", "fifth"] {
        // The next chunk is only sent when the answer to the one before is here.
        stream.write_all(format!("5\r\n{word}\r\n").as_bytes()).await.unwrap();
        let mut echo = [0; 10];
        timeout(SOON, stream.read_exact(&mut echo)).await.expect("the proxy keeps data back").unwrap();
        assert_eq!(echo.as_slice(), format!("5\r\n{word}\r\n").as_bytes());
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut end = [0; 5];
    timeout(SOON, stream.read_exact(&mut end)).await.unwrap().unwrap();
    assert_eq!(&end, b"0\r\n\r\n");
    drop(stream);
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_upstream() {
    const WHOLE: usize = 256 << 20;
    let (report, written) = watch::channel(0);
    let upstream = raw_upstream(move |mut stream| {
        let report = report.clone();
        async move {
            read_head(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {WHOLE}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let block = vec![b'x'; 1 << 16];
            for number in 1..=WHOLE / block.len() {
                stream.write_all(&block).await.unwrap();
                report.send_replace(number * block.len());
            }
        }
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    read_head(&mut stream).await;
    let mut progress = written.clone();
    while timeout(Duration::from_millis(500), progress.changed()).await.is_ok_and(|change| change.is_ok()) {}
    // What is under way is in the sockets' buffers, some megabytes each.
    assert!(*written.borrow() < WHOLE / 2, "{} bytes were taken from the upstream", *written.borrow());
    let mut rest = vec![0; 1 << 20];
    let mut count = 0;
    loop {
        match timeout(SOON, stream.read(&mut rest)).await.unwrap().unwrap() {
            0 => break,
            read => count += read,
        }
    }
    assert_eq!(count, WHOLE);
    proxy.stop().await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let upstream = Upstream::start(|request| async move {
        let whole = request.into_body().collect().await.unwrap();
        let trailers = whole.trailers().cloned().unwrap_or_default();
        let echo = format!("{} {:?}", trailers.len(), trailers.get("x-sum"));
        let mut sum = HeaderMap::new();
        sum.insert("x-answer-sum", "42".parse().unwrap());
        let body = Full::new(Bytes::from(echo)).with_trailers(std::future::ready(Some(Ok(sum))));
        Response::builder()
            .header("transfer-encoding", "chunked")
            .header("trailer", "x-answer-sum")
            .body(body.boxed_unsync())
            .unwrap()
    })
    .await;
    let proxy = Proxy::in_front_of(upstream.addr).await;
    let (sender, streamed) = fed();
    let mut sum = HeaderMap::new();
    sum.insert("x-sum", "7".parse().unwrap());
    tokio::spawn(async move {
        sender.send(Frame::data(Bytes::from_static(b"data"))).await.unwrap();
        sender.send(Frame::trailers(sum)).await.unwrap();
    });
    let request = Request::post("/").header("host", "a").header("trailer", "x-sum").header("te", "trailers");
    let request = request.body(streamed.boxed_unsync()).unwrap();
    let response = Http::connect(proxy.addr).await.send(request).await.unwrap();
    let whole = timeout(SOON, response.into_body().collect()).await.unwrap().unwrap();
    assert_eq!(whole.trailers().unwrap()["x-answer-sum"], "42");
    assert_eq!(whole.to_bytes().as_ref(), br#"1 Some("7")"#);
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_go_on_is_told() {
    let upstream = Upstream::start(|request| async move {
        assert!(!request.headers().contains_key("expect"));
        text(request.into_body().collect().await.unwrap().to_bytes())
    })
    .await;
    let proxy = Proxy::in_front_of(upstream.addr).await;
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(timeout(SOON, read_head(&mut stream)).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"data").await.unwrap();
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("data"), "{answer}");
    proxy.stop().await;
}

#[tokio::test]
async fn an_old_client_gets_the_whole_answer_and_the_end_of_the_connection() {
    let upstream = raw_upstream(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    let answer = raw(proxy.addr, "GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\nonetwo"), "{answer}");
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_upload_passes() {
    let upstream = raw_upstream(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nonly this")
        .await
        .unwrap();
    let head = timeout(SOON, read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    drop(stream);
    assert_eq!(proxy.stats().await.slots.blue.bad, 0);
    proxy.stop().await;
}

#[tokio::test]
async fn a_request_with_two_lengths_reaches_the_upstream_with_one() {
    let upstream = raw_upstream(|mut stream| async move {
        let mut request = Vec::new();
        while !request.ends_with(b"0\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let seen = String::from_utf8(request).unwrap().to_lowercase();
        let lengths = seen.matches("content-length:").count() + seen.matches("transfer-encoding:").count();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{lengths}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        read_head(&mut stream).await;
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    let smuggled = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\
                    Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n";
    let answer = raw(proxy.addr, smuggled).await;
    assert!(answer.starts_with("HTTP/1.1 400") || answer.ends_with("\r\n\r\n1"), "{answer}");
    proxy.stop().await;
}
