//! A new process takes over from the one that serves, and nobody notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hyper::StatusCode;
use piton_proxy::control::{Client, ControlError, Drained, Status};
use piton_proxy::{Slot, Weights};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{
    Http, Process, Proxy, SOON, Upstream, any_port, body, eventually, full, get, post, raw_upstream,
    read_head, serving,
};

/// Clients that ask without a pause and count; any failure fails the test.
struct Load {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
}

impl Load {
    /// Half of the clients keep their connection as long as the server does, half open one per request.
    fn start(addr: SocketAddr) -> Load {
        let mut load = Load { clients: JoinSet::new(), stop: Arc::default(), answers: Arc::default() };
        for number in 0..8 {
            let (stop, answers) = (Arc::clone(&load.stop), Arc::clone(&load.answers));
            load.clients.spawn(async move {
                let mut http = Http::connect(addr).await;
                while !stop.load(Ordering::SeqCst) {
                    // Not idempotent: nothing may save it by sending it again.
                    let response = http.send(post("/", "x")).await.expect("a request failed");
                    assert_eq!(response.status(), StatusCode::OK);
                    let last = response.headers().get("connection").is_some_and(|value| value == "close");
                    assert_eq!(body(response).await, "blue");
                    answers.fetch_add(1, Ordering::SeqCst);
                    if last || number % 2 == 0 {
                        http = Http::connect(addr).await;
                    }
                }
            });
        }
        load
    }

    async fn more(&self) {
        let before = self.answers.load(Ordering::SeqCst);
        eventually("more answers", async || {
            (self.answers.load(Ordering::SeqCst) > before + 500).then_some(())
        })
        .await;
    }

    async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        self.answers.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_hand_overs_under_load_drop_nothing() {
    let blue = Upstream::named("blue").await;
    let mut proxy = Proxy::in_front_of(blue.addr).await;
    let load = Load::start(proxy.addr);
    load.more().await;
    for _ in 0..5 {
        let old = proxy.replace().await;
        load.more().await;
        // Every client has come back by a new connection, so nothing keeps the old process.
        assert_eq!(old.end().await, (Some(0), String::new()));
    }
    let answers = load.end().await;
    assert_eq!(blue.count(), answers, "each request reached the app once");
    assert_eq!(proxy.stats().await.slots.blue.bad, 0);
    proxy.stop().await;
}

#[tokio::test]
async fn other_counts_of_workers_take_over_all_listeners() {
    let blue = Upstream::named("blue").await;
    let mut proxy = Proxy::in_front_of(blue.addr).await;
    for workers in [1, 4, 2] {
        let before = proxy.control().await.status().await.unwrap().epoch;
        let next = Process::start_with(&proxy.dir, proxy.addr, workers, SOON);
        assert_eq!(serving(&proxy.dir, Some(&before)).await.workers, workers);
        let old = std::mem::replace(&mut proxy.process, next);
        assert_eq!(old.end().await.0, Some(0));
        // The kernel spreads connections over all listeners; one without a worker would swallow some.
        for _ in 0..40 {
            assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "blue");
        }
    }
    proxy.stop().await;
}

#[tokio::test]
async fn the_old_process_finishes_a_download_and_answers_one_more_on_idle_connections() {
    let (go, gate) = tokio::sync::watch::channel(false);
    let upstream = raw_upstream(move |mut stream| {
        let mut gate = gate.clone();
        async move {
            while !read_head(&mut stream).await.is_empty() {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await.unwrap();
                gate.wait_for(|open| *open).await.unwrap();
                stream.write_all(b"half").await.unwrap();
            }
        }
    })
    .await;
    let mut proxy = Proxy::in_front_of(upstream).await;
    let (mut idle, mut busy) = (Http::connect(proxy.addr).await, Http::connect(proxy.addr).await);
    let download = busy.send(get("/", &[])).await.unwrap();
    let old = proxy.replace().await;
    go.send_replace(true);
    assert_eq!(body(download).await, "halfhalf");
    for http in [&mut idle, &mut busy] {
        let response = http.send(post("/", "x")).await.unwrap();
        assert_eq!(response.headers()["connection"], "close");
        assert_eq!(body(response).await, "halfhalf");
    }
    assert_eq!(old.end().await.0, Some(0));
    proxy.stop().await;
}

/// Starts a process that must not come to serve, and returns what it says.
async fn refused(proxy: &Proxy, listen: SocketAddr) -> String {
    let (code, text) = Process::start(&proxy.dir, listen).end().await;
    assert_eq!(code, Some(3), "{text}");
    text
}

#[tokio::test]
async fn a_successor_that_cannot_serve_leaves_the_old_process_as_it_was() {
    let blue = Upstream::named("blue").await;
    let proxy = Proxy::in_front_of(blue.addr).await;
    let mut http = Http::connect(proxy.addr).await;
    let epoch = proxy.control().await.status().await.unwrap().epoch;

    let text = refused(&proxy, SocketAddr::from(([127, 0, 0, 2], proxy.addr.port()))).await;
    assert!(text.contains("stop it first") && text.contains(&proxy.addr.to_string()), "{text}");

    let mut holder = proxy.control().await;
    holder.hold(SOON).await.unwrap();
    let text = refused(&proxy, any_port()).await;
    assert!(text.contains("requests are held now"), "{text}");
    proxy.control().await.release().await.unwrap();

    let obstacle = proxy.dir.join("state.json.new");
    std::fs::create_dir(&obstacle).unwrap();
    let unsaved = proxy.control().await.set_weights(Weights { green: 1 }).await;
    assert!(matches!(unsaved, Err(ControlError::NotSaved(_))), "{unsaved:?}");
    let text = refused(&proxy, any_port()).await;
    assert!(text.contains("its orders are not saved"), "{text}");
    std::fs::remove_dir(&obstacle).unwrap();
    proxy.control().await.set_weights(Weights { green: 0 }).await.unwrap();

    let state = proxy.dir.join("state.json");
    let good = std::fs::read(&state).unwrap();
    std::fs::write(&state, "{").unwrap();
    let text = refused(&proxy, any_port()).await;
    assert!(text.contains("is damaged"), "{text}");
    std::fs::write(&state, good).unwrap();

    assert_eq!(http.get(&[]).await.1, "blue");
    assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "blue");
    let status = proxy.control().await.set_upstream(Slot::Green, None).await.unwrap();
    assert_eq!(status.epoch, epoch);
    proxy.stop().await;
}

/// Asks for the status; an order that comes while the sockets are away is to be given again.
async fn status_of(proxy: &Proxy) -> Status {
    let asked = async {
        loop {
            match proxy.control().await.status().await {
                Err(ControlError::Replaced) => tokio::task::yield_now().await,
                answer => break answer.unwrap(),
            }
        }
    };
    timeout(SOON, asked).await.expect("the order is answered")
}

#[tokio::test]
async fn who_takes_the_sockets_and_says_nothing_keeps_nobody_waiting() {
    let blue = Upstream::named("blue").await;
    let proxy = Proxy::in_front_of(blue.addr).await;
    let epoch = proxy.control().await.status().await.unwrap().epoch;
    let mut silent = tokio::net::UnixStream::connect(proxy.dir.join("control.sock")).await.unwrap();
    silent.write_all(b"{\"order\":\"take_over\"}\n").await.unwrap();
    let mut answers = BufReader::new(silent);
    let mut line = String::new();
    answers.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("{\"done\""), "{line}");

    assert_eq!(status_of(&proxy).await.epoch, epoch);
    // Too late, and told so.
    let _ = answers.get_mut().write_all(b"{\"order\":\"taken\"}\n").await;
    line.clear();
    timeout(SOON, answers.read_line(&mut line)).await.unwrap().unwrap();
    assert!(line.contains("fault") && line.contains("it goes on"), "{line}");
    assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "blue");
    proxy.weight(1).await;
    assert_eq!(proxy.control().await.status().await.unwrap().epoch, epoch);
    drop(answers);
    proxy.stop().await;
}

#[tokio::test]
async fn a_successor_that_comes_too_late_ends_and_does_not_serve() {
    let blue = Upstream::named("blue").await;
    let proxy = Proxy::in_front_of(blue.addr).await;
    let epoch = proxy.control().await.status().await.unwrap().epoch;
    // It has the sockets by the time it reads the orders, and waits there until somebody writes them.
    let (state, aside) = (proxy.dir.join("state.json"), proxy.dir.join("aside"));
    std::fs::rename(&state, &aside).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &state, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let late = Process::start(&proxy.dir, proxy.addr);
    let open = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK;
    let pipe = eventually("the successor reads", async || {
        rustix::fs::open(&state, open, rustix::fs::Mode::empty()).ok()
    })
    .await;

    assert_eq!(status_of(&proxy).await.epoch, epoch);
    std::io::Write::write_all(&mut std::fs::File::from(pipe), &std::fs::read(&aside).unwrap()).unwrap();
    let (code, text) = late.end().await;
    assert!(code == Some(3) && text.contains("does not hand over") && text.contains("it goes on"), "{text}");
    std::fs::rename(&aside, &state).unwrap();

    for _ in 0..20 {
        assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "blue");
    }
    assert_eq!(proxy.control().await.status().await.unwrap().epoch, epoch);
    proxy.stop().await;
}

#[tokio::test]
async fn the_lock_goes_along_and_is_free_when_the_successor_dies() {
    let blue = Upstream::named("blue").await;
    let mut proxy = Proxy::in_front_of(blue.addr).await;
    // An idle connection keeps the old process alive for a while.
    let mut idle = TcpStream::connect(proxy.addr).await.unwrap();
    let old = proxy.replace().await;
    proxy.process.kill();
    proxy.process = Process::start(&proxy.dir, proxy.addr);
    serving(&proxy.dir, None).await;
    assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "blue");
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let head = timeout(SOON, read_head(&mut idle)).await.unwrap();
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(old.end().await.0, Some(0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_process_that_has_handed_over_can_still_be_told_to_end() {
    let blue = Upstream::named("blue").await;
    let mut proxy = Proxy::in_front_of(blue.addr).await;
    let idle = TcpStream::connect(proxy.addr).await.unwrap();
    let mut old = proxy.replace().await;
    let pid = rustix::process::Pid::from_raw(old.0.id().try_into().unwrap()).unwrap();
    // The first signals may come while it still hands over; it ends long before its idle connections would.
    let status = eventually("the end", async || {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        old.0.try_wait().unwrap()
    })
    .await;
    assert_eq!(status.code(), Some(0));
    drop(idle);
    assert_eq!(Http::connect(proxy.addr).await.get(&[]).await.1, "blue");
    assert!(proxy.control().await.status().await.is_ok(), "the socket is the successor's");
    proxy.stop().await;
}

#[tokio::test]
async fn the_old_process_obeys_the_orders_that_the_successor_gets() {
    let (blue, green) = (Upstream::named("blue").await, Upstream::named("green").await);
    let mut proxy = Proxy::start().await;
    proxy.upstreams(blue.addr, green.addr).await;
    let (mut first, mut second) = (Http::connect(proxy.addr).await, Http::connect(proxy.addr).await);
    assert_eq!((first.get(&[]).await.1, second.get(&[]).await.1), ("blue".to_owned(), "blue".to_owned()));
    let old = proxy.replace().await;
    proxy.weight(10_000).await;
    assert_eq!(first.get(&[]).await.1, "green", "the switch came after the hand-over");

    let mut control = proxy.control().await;
    control.hold(SOON).await.unwrap();
    let waiting = tokio::spawn(async move { second.get(&[]).await });
    let early = timeout(std::time::Duration::from_millis(200), async {
        while !waiting.is_finished() {
            tokio::task::yield_now().await;
        }
    });
    assert!(early.await.is_err(), "the hold came after the hand-over");
    assert_eq!(green.count(), 1);
    control.release().await.unwrap();
    assert_eq!(waiting.await.unwrap(), (StatusCode::OK, "green".to_owned()));
    assert_eq!(old.end().await.0, Some(0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_drain_waits_for_what_the_old_process_had_in_flight() {
    let (blue, go) = Upstream::gated("late").await;
    let mut proxy = Proxy::in_front_of(blue.addr).await;
    let addr = proxy.addr;
    let idle = TcpStream::connect(addr).await.unwrap();
    let request = tokio::spawn(async move { Http::connect(addr).await.get(&[]).await });
    eventually("the request", async || (blue.count() == 1).then_some(())).await;
    let first = proxy.replace().await;
    let second = proxy.replace().await;
    let mut control = proxy.control().await;
    let short = std::time::Duration::from_millis(50);
    assert_eq!(control.drain(Slot::Blue, short).await.unwrap(), Drained { left: 1 });
    go.send_replace(true);
    assert_eq!(request.await.unwrap(), (StatusCode::OK, "late".to_owned()));
    assert_eq!(control.drain(Slot::Blue, SOON).await.unwrap(), Drained { left: 0 });
    drop(idle);
    assert_eq!((first.end().await.0, second.end().await.0), (Some(0), Some(0)));
    proxy.stop().await;
}

#[tokio::test]
async fn a_drain_waits_for_what_comes_to_the_old_process_after_the_hand_over() {
    let (blue, go) = Upstream::gated("late").await;
    let green = Upstream::named("green").await;
    let mut proxy = Proxy::start().await;
    proxy.upstreams(blue.addr, green.addr).await;
    let (mut first, mut second) = (Http::connect(proxy.addr).await, Http::connect(proxy.addr).await);
    let old = proxy.replace().await;
    let mut control = proxy.control().await;
    assert_eq!(control.drain(Slot::Blue, SOON).await.unwrap(), Drained { left: 0 }, "nothing is in flight");
    let request = tokio::spawn(async move { first.get(&[]).await });
    eventually("the request", async || (blue.count() == 1).then_some(())).await;

    control.hold(SOON).await.unwrap();
    let short = std::time::Duration::from_millis(50);
    assert_eq!(control.drain(Slot::Blue, short).await.unwrap(), Drained { left: 1 });
    let held = tokio::spawn(async move { second.get(&[]).await });
    go.send_replace(true);
    assert_eq!(request.await.unwrap(), (StatusCode::OK, "late".to_owned()));
    assert_eq!(control.drain(Slot::Blue, SOON).await.unwrap(), Drained { left: 0 }, "held is not in flight");
    assert_eq!(blue.count(), 1);
    control.set_weights(Weights::all(Slot::Green)).await.unwrap();
    control.release().await.unwrap();
    assert_eq!(held.await.unwrap(), (StatusCode::OK, "green".to_owned()));
    assert_eq!(old.end().await.0, Some(0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_request_that_connects_during_the_hand_over_obeys_the_successor() {
    let (socket, _queued) = full().await;
    let green = Upstream::named("green").await;
    let mut proxy = Proxy::start().await;
    proxy.upstreams(socket.local_addr().unwrap().as_socket().unwrap(), green.addr).await;
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    // By the time both workers have answered, one of them has most likely begun to connect.
    assert_eq!(proxy.stats().await.slots.blue.requests, 0);
    let old = proxy.replace().await;
    proxy.weight(10_000).await;
    let head = timeout(SOON, read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!((green.count(), old.end().await.0), (1, Some(0)));
    proxy.stop().await;
}

#[tokio::test]
async fn what_was_connected_before_a_hold_is_not_used_after_it() {
    let (socket, queued) = full().await;
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let mut proxy = Proxy::in_front_of(addr).await;
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    proxy.stats().await;
    let old = proxy.replace().await;
    let mut control = proxy.control().await;
    control.hold(SOON).await.unwrap();
    // By then the old process has given up connecting, and has asked for the orders.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    drop((socket, queued));
    let listener = TcpListener::bind(addr).await.unwrap();
    control.release().await.unwrap();
    let (mut app, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
    read_head(&mut app).await;
    app.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let head = timeout(SOON, read_head(&mut stream)).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(old.end().await.0, Some(0));
    proxy.stop().await;
}

#[tokio::test]
async fn requests_that_follow_the_same_orders_do_not_disturb_one_another() {
    let blue = Upstream::named("blue").await;
    let mut proxy = Proxy::in_front_of(blue.addr).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(Http::connect(proxy.addr).await);
    }
    let old = proxy.replace().await;
    let mut requests = JoinSet::new();
    for mut http in idle {
        requests.spawn(async move { http.get(&[]).await.1 });
    }
    assert!(requests.join_all().await.iter().all(|answer| answer == "blue"));
    let connections = blue.connections.load(Ordering::SeqCst);
    assert!(connections <= 100, "{connections} connections for 100 requests");
    assert_eq!(old.end().await.0, Some(0));
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_order_is_lost_in_a_hand_over() {
    let mut proxy = Proxy::start().await;
    let dir = proxy.dir.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, acknowledged) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&acknowledged);
    let orders = tokio::spawn(async move {
        let mut generation = 0;
        while !stopped.load(Ordering::SeqCst) {
            // Each order may meet the old process, the new one, or the moment between them.
            let Ok(mut control) = Client::connect(&dir).await else { continue };
            let Ok(switched) = control.set_weights(Weights { green: 1 }).await else { continue };
            assert!(switched.generation > generation, "{} after {generation}", switched.generation);
            generation = switched.generation;
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    for _ in 0..5 {
        let before = acknowledged.load(Ordering::SeqCst);
        eventually("orders", async || (acknowledged.load(Ordering::SeqCst) > before + 5).then_some(())).await;
        let old = proxy.replace().await;
        assert_eq!(old.end().await.0, Some(0));
    }
    stop.store(true, Ordering::SeqCst);
    orders.await.unwrap();
    proxy.stop().await;
}
