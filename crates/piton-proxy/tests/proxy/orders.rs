//! Hold, drain, maintenance, and the control socket itself.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use piton_proxy::control::{Client, ControlError, Drained, Maintenance, Released};
use piton_proxy::{Slot, Weights};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{Http, Process, Proxy, SOON, Upstream, body, eventually, get, raw, read_head, serving};

/// Starts `count` clients with one request each.
fn clients(proxy: &Proxy, count: usize) -> JoinSet<(StatusCode, String)> {
    let mut clients = JoinSet::new();
    for _ in 0..count {
        let addr = proxy.addr;
        clients.spawn(async move { Http::connect(addr).await.get(&[]).await });
    }
    clients
}

async fn held(proxy: &Proxy, count: u64) {
    eventually("the hold", async || (proxy.stats().await.held == count).then_some(())).await;
}

#[tokio::test]
async fn held_requests_wait_and_then_none_fails() {
    let (blue, green) = (Upstream::named("blue").await, Upstream::named("green").await);
    let proxy = Proxy::start().await;
    proxy.upstreams(blue.addr, green.addr).await;
    let mut control = proxy.control().await;
    let until = control.hold(SOON).await.unwrap().until;
    assert!(control.status().await.unwrap().hold_until.is_some());
    let waiting = clients(&proxy, 40);
    held(&proxy, 40).await;
    assert!(jiff::Timestamp::now() < until);
    assert_eq!(control.drain(Slot::Blue, SOON).await.unwrap(), Drained { left: 0 }, "held is not in flight");
    assert_eq!((blue.count(), green.count()), (0, 0));
    control.set_weights(Weights::all(Slot::Green)).await.unwrap();
    let released = control.release().await.unwrap();
    assert_eq!((released.held, released.expired, released.lapsed), (40, 0, false));
    assert!(released.longest > Duration::ZERO);
    for answer in waiting.join_all().await {
        assert_eq!(answer, (StatusCode::OK, "green".to_owned()), "the weight of the release counts");
    }
    assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "green");
    assert!(control.status().await.unwrap().hold_until.is_none());
    proxy.stop().await;
}

#[tokio::test]
async fn at_its_bound_a_hold_answers_503_and_ends_by_itself() {
    let blue = Upstream::named("blue").await;
    let proxy = Proxy::in_front_of(blue.addr).await;
    let mut control = proxy.control().await;
    let began = Instant::now();
    control.hold(Duration::from_millis(400)).await.unwrap();
    let response = Http::connect(proxy.addr).await.send(get("/", &[])).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(390));
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[RETRY_AFTER], "1");
    assert_eq!(blue.count(), 0);
    assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "blue", "nobody released it");
    let released = control.release().await.unwrap();
    assert_eq!((released.held, released.expired, released.lapsed), (1, 1, true));
    assert_eq!(control.release().await.unwrap(), Released { lapsed: true, ..Released::default() });
    let stats = control.stats().await.unwrap();
    assert_eq!((stats.held, stats.held_expired), (1, 1));
    proxy.stop().await;
}

#[tokio::test]
async fn a_hold_during_a_hold_renews_it_for_those_who_wait() {
    let blue = Upstream::named("blue").await;
    let proxy = Proxy::in_front_of(blue.addr).await;
    let mut control = proxy.control().await;
    let first = control.hold(Duration::from_millis(500)).await.unwrap().until;
    let mut waiting = clients(&proxy, 3);
    held(&proxy, 3).await;
    control.hold(SOON).await.unwrap();
    eventually("the first bound", async || {
        (jiff::Timestamp::now() > first + Duration::from_millis(150)).then_some(())
    })
    .await;
    assert!(waiting.try_join_next().is_none());
    assert_eq!(blue.count(), 0);
    assert!(!control.release().await.unwrap().lapsed);
    for answer in waiting.join_all().await {
        assert_eq!(answer, (StatusCode::OK, "blue".to_owned()));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_hold_ends_with_the_connection_that_ordered_it() {
    let blue = Upstream::named("blue").await;
    let proxy = Proxy::in_front_of(blue.addr).await;
    let hour = Duration::from_secs(3600);
    let mut control = proxy.control().await;
    control.hold(hour).await.unwrap();
    let waiting = clients(&proxy, 5);
    held(&proxy, 5).await;
    drop(control);
    for answer in waiting.join_all().await {
        assert_eq!(answer, (StatusCode::OK, "blue".to_owned()));
    }
    let mut control = proxy.control().await;
    assert!(control.status().await.unwrap().hold_until.is_none());
    let released = control.release().await.unwrap();
    assert_eq!((released.held, released.expired, released.lapsed), (5, 0, true));

    // Whoever renews it takes it over, and anybody may release it.
    let mut first = proxy.control().await;
    first.hold(hour).await.unwrap();
    control.hold(hour).await.unwrap();
    drop(first);
    let waiting = clients(&proxy, 2);
    held(&proxy, 7).await;
    assert!(control.status().await.unwrap().hold_until.is_some());
    assert!(!proxy.control().await.release().await.unwrap().lapsed);
    assert!(waiting.join_all().await.iter().all(|answer| answer.0 == StatusCode::OK));
    assert_eq!(proxy.stats().await.held, 7);
    proxy.stop().await;
}

#[tokio::test]
async fn a_hold_ends_with_its_connection_while_an_order_is_carried_out() {
    let (slow, go) = Upstream::gated("slow").await;
    let green = Upstream::named("green").await;
    let proxy = Proxy::start().await;
    proxy.upstreams(slow.addr, green.addr).await;
    let in_flight = clients(&proxy, 1);
    eventually("the request", async || (slow.count() == 1).then_some(())).await;
    proxy.weight(10_000).await;

    let mut control = proxy.control().await;
    let hour = Duration::from_secs(3600);
    control.hold(hour).await.unwrap();
    let waiting = clients(&proxy, 3);
    tokio::select! {
        drained = control.drain(Slot::Blue, hour) => panic!("{drained:?}"),
        () = held(&proxy, 3) => {}
    }
    drop(control);
    for answer in waiting.join_all().await {
        assert_eq!(answer, (StatusCode::OK, "green".to_owned()));
    }
    go.send_replace(true);
    assert_eq!(in_flight.join_all().await, [(StatusCode::OK, "slow".to_owned())]);
    proxy.stop().await;
}

#[tokio::test]
async fn the_body_of_a_held_request_is_not_asked_for() {
    let blue = Upstream::named("blue").await;
    let proxy = Proxy::in_front_of(blue.addr).await;
    let mut control = proxy.control().await;
    control.hold(SOON).await.unwrap();
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    held(&proxy, 1).await;
    let early = timeout(Duration::from_millis(100), stream.readable()).await;
    assert!(early.is_err(), "the client was told to go on");
    control.release().await.unwrap();
    let answer = timeout(SOON, read_head(&mut stream)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_drain_waits_for_the_slots_last_request() {
    let (blue, go) = Upstream::gated("late").await;
    let green = Upstream::named("green").await;
    let proxy = Proxy::start().await;
    proxy.upstreams(blue.addr, green.addr).await;
    let waiting = clients(&proxy, 5);
    eventually("five requests", async || (blue.count() == 5).then_some(())).await;
    proxy.weight(10_000).await;
    let mut control = proxy.control().await;
    assert_eq!(control.drain(Slot::Green, SOON).await.unwrap(), Drained { left: 0 });
    assert_eq!(control.drain(Slot::Blue, Duration::from_millis(50)).await.unwrap(), Drained { left: 5 });
    let drained = tokio::spawn(async move { control.drain(Slot::Blue, SOON).await });
    assert_eq!(
        Http::connect(proxy.addr).await.get(&[]).await.1,
        "green",
        "orders and traffic go on meanwhile"
    );
    assert!(!drained.is_finished());
    go.send_replace(true);
    assert_eq!(drained.await.unwrap().unwrap(), Drained { left: 0 });
    for answer in waiting.join_all().await {
        assert_eq!(answer, (StatusCode::OK, "late".to_owned()));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn maintenance_speaks_html_to_browsers_and_json_to_others() {
    let blue = Upstream::named("blue").await;
    let proxy = Proxy::in_front_of(blue.addr).await;
    let mut control = proxy.control().await;
    control.maintenance(Some(Maintenance::default())).await.unwrap();
    let mut http = Http::connect(proxy.addr).await;
    let page = http.send(get("/", &[("accept", "text/html,application/xhtml+xml,*/*;q=0.8")])).await.unwrap();
    assert_eq!(page.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(page.headers()[RETRY_AFTER], "60");
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers()["cache-control"], "no-store");
    assert!(body(page).await.contains("<h1>Back soon</h1>"));
    for accept in ["application/json", "*/*"] {
        let answer = http.send(get("/", &[("accept", accept)])).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(body(answer).await, r#"{"error":"maintenance","retry_after":60}"#);
    }
    let own = Maintenance { html: Some("<p>Ours</p>".to_owned()), retry_after: 7 };
    assert_eq!(control.maintenance(Some(own.clone())).await.unwrap().maintenance, Some(own));
    let page = http.send(get("/", &[("accept", "text/html")])).await.unwrap();
    assert_eq!(page.headers()[RETRY_AFTER], "7");
    assert_eq!(body(page).await, "<p>Ours</p>");
    assert_eq!(blue.count(), 0);
    control.maintenance(None).await.unwrap();
    assert_eq!(http.get(&[]).await.1, "blue");
    assert_eq!(control.stats().await.unwrap().maintenance, 4);
    proxy.stop().await;
}

#[tokio::test]
async fn maintenance_is_answered_at_once_during_a_hold() {
    let blue = Upstream::named("blue").await;
    let proxy = Proxy::in_front_of(blue.addr).await;
    let mut control = proxy.control().await;
    control.maintenance(Some(Maintenance::default())).await.unwrap();
    control.hold(Duration::from_secs(3600)).await.unwrap();
    let answer = raw(proxy.addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(proxy.stats().await.held, 0);
    proxy.stop().await;
}

#[tokio::test]
async fn nobody_there_is_an_error_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    for dir in [dir.path().to_owned(), dir.path().join("missing")] {
        let error = Client::connect(&dir).await.unwrap_err();
        assert!(matches!(error, ControlError::NotRunning { .. }), "{error}");
        assert!(error.to_string().contains("piton proxy"));
    }
}

#[tokio::test]
async fn what_is_no_order_is_refused_and_the_connection_goes_on() {
    let proxy = Proxy::start().await;
    let stream = UnixStream::connect(proxy.dir.join("control.sock")).await.unwrap();
    let mut stream = BufReader::new(stream);
    for (line, expected) in [
        ("nonsense", r#"{"fault":{"refused":"#),
        (r#"{"order":"dance"}"#, r#"{"fault":{"refused":"#),
        (r#"{"order":"taken"}"#, r#"{"fault":{"refused":"#),
        (r#"{"order":"status"}"#, r#"{"done":{"#),
    ] {
        stream.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_line(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(expected), "{line}: {answer}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn an_order_that_cannot_be_saved_is_in_force_and_says_so() {
    let (blue, green) = (Upstream::named("blue").await, Upstream::named("green").await);
    let proxy = Proxy::start().await;
    proxy.upstreams(blue.addr, green.addr).await;
    // A folder in the place of the temporary file fails for root too.
    let obstacle = proxy.dir.join("state.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    let mut control = proxy.control().await;
    let error = control.set_weights(Weights::all(Slot::Green)).await.unwrap_err();
    assert!(matches!(error, ControlError::NotSaved(_)), "{error}");
    assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "green");
    std::fs::remove_dir(&obstacle).unwrap();
    control.set_weights(Weights::all(Slot::Green)).await.unwrap();
    proxy.stop().await;
}

#[tokio::test]
async fn an_order_that_could_not_be_saved_is_saved_as_soon_as_that_is_possible() {
    let (blue, green) = (Upstream::named("blue").await, Upstream::named("green").await);
    let mut proxy = Proxy::start().await;
    proxy.upstreams(blue.addr, green.addr).await;
    let obstacle = proxy.dir.join("state.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    let error = proxy.control().await.set_weights(Weights::all(Slot::Green)).await.unwrap_err();
    assert!(matches!(error, ControlError::NotSaved(_)), "{error}");
    std::fs::remove_dir(&obstacle).unwrap();
    let before = std::fs::read(proxy.dir.join("state.json")).unwrap();
    eventually("the saving", async || {
        (std::fs::read(proxy.dir.join("state.json")).unwrap() != before).then_some(())
    })
    .await;
    proxy.process.kill();
    proxy.process = Process::start(&proxy.dir, proxy.addr);
    serving(&proxy.dir, None).await;
    assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "green");
    proxy.stop().await;
}
