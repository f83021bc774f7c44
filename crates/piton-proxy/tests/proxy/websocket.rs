//! WebSockets through the proxy.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use piton_proxy::control::Drained;
use piton_proxy::{Slot, Weights};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::{Http, Proxy, SOON, Upstream, any_port, eventually, raw_upstream, read_head};

/// Accepts WebSockets and sends back what it gets, with its name before it.
async fn echo(name: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
                while let Some(Ok(message)) = socket.next().await {
                    let Message::Text(text) = message else { continue };
                    socket.send(Message::text(format!("{name} {text}"))).await.unwrap();
                }
            });
        }
    });
    addr
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(proxy: &Proxy, bucket: u16) -> Result<Socket, Error> {
    let mut request = format!("ws://{}/live", proxy.addr).into_client_request().unwrap();
    let cookie = format!("piton_bucket={bucket}").parse().unwrap();
    request.headers_mut().insert("cookie", cookie);
    tokio_tungstenite::connect_async(request).await.map(|(socket, _)| socket)
}

async fn say(socket: &mut Socket, text: &str) -> String {
    socket.send(Message::text(text)).await.unwrap();
    tokio::time::timeout(SOON, socket.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .into_text()
        .unwrap()
        .to_string()
}

#[tokio::test]
async fn a_websocket_passes_and_is_counted_apart() {
    let proxy = Proxy::start().await;
    proxy.upstreams(echo("blue").await, echo("green").await).await;
    proxy.weight(5000).await;
    let mut on_blue = connect(&proxy, 5000).await.unwrap();
    let mut on_green = connect(&proxy, 4999).await.unwrap();
    for number in 0..100 {
        assert_eq!(say(&mut on_blue, &number.to_string()).await, format!("blue {number}"));
        assert_eq!(say(&mut on_green, &number.to_string()).await, format!("green {number}"));
    }
    let long = "x".repeat(1 << 20);
    assert_eq!(say(&mut on_blue, &long).await.len(), long.len() + 5);

    let mut control = proxy.control().await;
    let blue = control.stats().await.unwrap().slots.blue;
    assert_eq!((blue.websockets, blue.in_flight, blue.status.informational), (1, 0, 1));
    control.set_weights(Weights::all(Slot::Green)).await.unwrap();
    assert_eq!(control.drain(Slot::Blue, SOON).await.unwrap(), Drained { left: 0 });
    assert_eq!(say(&mut on_blue, "still").await, "blue still", "an open socket stays where it is");

    on_blue.close(None).await.unwrap();
    drop(on_blue);
    eventually("the end of the socket", async || {
        (proxy.stats().await.slots.blue.websockets == 0).then_some(())
    })
    .await;
    assert_eq!(proxy.stats().await.slots.green.websockets, 1);
    assert_eq!(proxy.stats().await.slots.blue.bad, 0);
    proxy.stop().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_upgrade_answers_as_it_likes() {
    let plain = Upstream::named("plain").await;
    let proxy = Proxy::in_front_of(plain.addr).await;
    match connect(&proxy, 0).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), StatusCode::OK),
        other => panic!("{other:?}"),
    }
    assert_eq!(proxy.stats().await.slots.blue.websockets, 0);
    proxy.stop().await;
}

#[tokio::test]
async fn an_open_websocket_outlives_a_hand_over() {
    let mut proxy = Proxy::in_front_of(echo("blue").await).await;
    let mut socket = connect(&proxy, 0).await.unwrap();
    assert_eq!(say(&mut socket, "before").await, "blue before");
    let old = proxy.replace().await;
    assert_eq!(say(&mut socket, "after").await, "blue after");
    drop(socket);
    assert_eq!(old.end().await.0, Some(0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_connection_on_which_an_upgrade_was_refused_is_not_used_again() {
    let count = Arc::new(AtomicU64::new(0));
    // Says by which of its connections a request came, and takes no upgrade.
    let upstream = raw_upstream(move |mut stream| {
        let connection = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            while !read_head(&mut stream).await.is_empty() {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{connection}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let proxy = Proxy::in_front_of(upstream).await;
    let mut http = Http::connect(proxy.addr).await;
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];
    let mut came_by = Vec::new();
    for headers in [&[][..], &upgrade, &[], &upgrade, &[]] {
        came_by.push(http.get(headers).await.1);
    }
    assert_eq!(came_by, ["1", "2", "1", "3", "1"]);
    proxy.stop().await;
}
