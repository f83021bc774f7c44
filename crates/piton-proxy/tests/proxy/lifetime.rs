//! Start, crash, stop, and what is known again afterwards.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use hyper::StatusCode;
use piton_proxy::control::{Client, ControlError, Maintenance};
use piton_proxy::{Slot, Weights};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Http, Process, Proxy, SOON, Upstream, any_port, eventually, read_head, serving};

#[tokio::test]
async fn after_kill_9_everything_ordered_is_in_force_again() {
    let (blue, green) = (Upstream::named("blue").await, Upstream::named("green").await);
    let mut proxy = Proxy::start().await;
    proxy.upstreams(blue.addr, green.addr).await;
    proxy.weight(2500).await;
    let page = Maintenance { html: Some("ours".to_owned()), retry_after: 9 };
    let before = proxy.control().await.maintenance(Some(page)).await.unwrap();
    proxy.process.kill();
    let error = Client::connect(&proxy.dir).await.unwrap_err();
    assert!(matches!(error, ControlError::NotRunning { .. }), "{error}");

    proxy.process = Process::start(&proxy.dir, proxy.addr);
    let after = serving(&proxy.dir, None).await;
    assert_eq!(
        (after.weights, after.upstreams, &after.maintenance, after.generation, after.listen),
        (before.weights, before.upstreams, &before.maintenance, before.generation, before.listen)
    );
    assert_ne!((after.pid, &after.epoch), (before.pid, &before.epoch));
    proxy.control().await.maintenance(None).await.unwrap();
    let mut http = Http::connect(proxy.addr).await;
    assert_eq!(http.get(&[("cookie", "piton_bucket=2499")]).await.1, "green");
    assert_eq!(http.get(&[("cookie", "piton_bucket=2500")]).await.1, "blue");
    proxy.stop().await;
}

#[tokio::test]
async fn a_state_file_that_cannot_be_used_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (content, expected) in [
        ("{ \"format\": 1, \"wei", "is damaged; move it away"),
        ("{ \"format\": 99 }", "has format 99, this version knows formats up to 1"),
    ] {
        std::fs::write(dir.path().join("state.json"), content).unwrap();
        let (code, text) = Process::start(dir.path(), any_port()).end().await;
        assert_eq!(code, Some(3));
        assert!(text.contains(expected) && text.contains("state.json"), "{text}");
        assert_eq!(std::fs::read_to_string(dir.path().join("state.json")).unwrap(), content);
    }
}

#[tokio::test]
async fn a_folder_with_a_long_path_works() {
    let long = format!("{0}/{0}/{0}", "a-rather-long-name-of-a-folder-".repeat(4));
    let mut proxy = Proxy::start_with(&long, SOON).await;
    assert!(proxy.dir.as_os_str().len() > 350);
    let mode = std::fs::metadata(proxy.dir.join("control.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    proxy.control().await.set_weights(Weights { green: 1 }).await.unwrap();
    let old = proxy.replace().await;
    assert_eq!(old.end().await.0, Some(0));
    assert_eq!(proxy.control().await.status().await.unwrap().weights, Weights { green: 1 });
    proxy.stop().await;
}

#[tokio::test]
async fn a_port_that_somebody_else_has_is_refused_though_it_could_be_shared() {
    let proxy = Proxy::start().await;
    let other = tempfile::tempdir().unwrap();
    let (code, text) = Process::start(other.path(), proxy.addr).end().await;
    assert_eq!(code, Some(3));
    assert!(text.contains(&format!("cannot listen on {}", proxy.addr)), "{text}");
    assert!(text.contains("Address already in use"), "{text}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_accepts_nothing_more() {
    for by_signal in [false, true] {
        let (upstream, go) = Upstream::gated("whole").await;
        let proxy = Proxy::in_front_of(upstream.addr).await;
        let addr = proxy.addr;
        let request = tokio::spawn(async move { Http::connect(addr).await.get(&[]).await });
        eventually("the request", async || (upstream.count() == 1).then_some(())).await;
        let mut idle = TcpStream::connect(addr).await.unwrap();
        let mut control = proxy.control().await;
        let stopped = tokio::spawn(async move { if by_signal { Ok(()) } else { control.stop().await } });
        if by_signal {
            let pid = rustix::process::Pid::from_raw(proxy.process.0.id().try_into().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        }
        eventually("the refusal", async || TcpStream::connect(addr).await.is_err().then_some(())).await;
        assert!(by_signal || !stopped.is_finished(), "the proxy still has a request");
        go.send_replace(true);
        assert_eq!(request.await.unwrap(), (StatusCode::OK, "whole".to_owned()));
        stopped.await.unwrap().unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap_or_default();
        assert_eq!(timeout(SOON, read_head(&mut idle)).await.unwrap(), "");
        assert_eq!(proxy.process.end().await.0, Some(0));
    }
}

#[tokio::test]
async fn a_stopped_proxys_folder_can_be_served_in_again() {
    let blue = Upstream::named("blue").await;
    let mut proxy = Proxy::in_front_of(blue.addr).await;
    proxy.control().await.stop().await.unwrap();
    let next = Process::start(&proxy.dir, proxy.addr);
    serving(&proxy.dir, None).await;
    let old = std::mem::replace(&mut proxy.process, next);
    assert_eq!(old.end().await.0, Some(0));
    assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "blue");
    let status = proxy.control().await.status().await.unwrap();
    assert_eq!(status.upstreams[Slot::Blue], Some(blue.addr));
    assert!(
        status.since.duration_until(jiff::Timestamp::now())
            < jiff::SignedDuration::try_from(Duration::from_secs(60)).unwrap()
    );
    proxy.stop().await;
}
