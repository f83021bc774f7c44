//! Which slot a request gets.

use std::collections::BTreeMap;

use hyper::StatusCode;
use hyper::header::SET_COOKIE;
use piton_proxy::control::ControlError;
use piton_proxy::{BUCKETS, Slot, Weights};

use crate::support::{Http, Proxy, Upstream, body, get};

#[tokio::test]
async fn a_new_visitor_gets_a_bucket_and_stays_with_it() {
    let (blue, green) = (Upstream::named("blue").await, Upstream::named("green").await);
    let proxy = Proxy::start().await;
    proxy.upstreams(blue.addr, green.addr).await;
    proxy.weight(5000).await;
    let mut seen = BTreeMap::<String, u32>::new();
    for _ in 0..200 {
        let mut http = Http::connect(proxy.addr).await;
        let first = http.send(get("/", &[])).await.unwrap();
        let cookie = first.headers()[SET_COOKIE].to_str().unwrap().to_owned();
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
        let bucket: u16 = pair.strip_prefix("piton_bucket=").unwrap().parse().unwrap();
        let slot = if bucket < 5000 { "green" } else { "blue" };
        assert_eq!(body(first).await, slot);
        let again = http.send(get("/", &[("cookie", pair)])).await.unwrap();
        assert!(!again.headers().contains_key(SET_COOKIE), "the cookie is set once");
        assert_eq!(body(again).await, slot);
        *seen.entry(slot.to_owned()).or_default() += 1;
    }
    // 200 fair draws: fewer than 50 on a side has a chance below 10^-12.
    assert!(seen.len() == 2 && seen.values().all(|count| *count > 50), "{seen:?}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_growing_weight_only_moves_visitors_from_blue_to_green() {
    let (blue, green) = (Upstream::named("blue").await, Upstream::named("green").await);
    let proxy = Proxy::start().await;
    proxy.upstreams(blue.addr, green.addr).await;
    let mut http = Http::connect(proxy.addr).await;
    let buckets = [0, 1, 499, 500, 2499, 2500, 4999, 5000, 9998, 9999];
    for weight in [0, 1, 500, 2500, 5000, 9999, 10_000] {
        proxy.weight(weight).await;
        for bucket in buckets {
            let cookie = format!("theme=dark; piton_bucket={bucket}");
            let expected = if bucket < weight { "green" } else { "blue" };
            let (_, slot) = http.get(&[("cookie", &cookie)]).await;
            assert_eq!(slot, expected, "bucket {bucket} at weight {weight}");
        }
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_slot_without_weight_gets_no_request() {
    let (blue, green) = (Upstream::named("blue").await, Upstream::named("green").await);
    let proxy = Proxy::start().await;
    proxy.upstreams(blue.addr, green.addr).await;
    for (slot, idle) in [(Slot::Blue, &green), (Slot::Green, &blue), (Slot::Blue, &green)] {
        let switched = proxy.control().await.set_weights(Weights::all(slot)).await.unwrap();
        assert!(switched.took.as_secs() < 5);
        let before = idle.count();
        let mut http = Http::connect(proxy.addr).await;
        for cookie in ["a=b", "piton_bucket=0", "piton_bucket=9999"].repeat(50) {
            assert_eq!(http.get(&[("cookie", cookie)]).await, (StatusCode::OK, slot.to_string()));
        }
        assert_eq!(idle.count(), before);
    }
    let stats = proxy.control().await.stats().await.unwrap();
    assert_eq!((stats.slots.blue.requests, stats.slots.green.requests), (300, 150));
    assert!(stats.slots.blue.last_assigned_at > stats.slots.green.last_assigned_at);
    proxy.stop().await;
}

#[tokio::test]
async fn a_slot_with_weight_but_no_upstream_says_so() {
    let blue = Upstream::named("blue").await;
    let proxy = Proxy::start().await;
    proxy.control().await.set_upstream(Slot::Blue, Some(blue.addr)).await.unwrap();
    proxy.weight(5000).await;
    let mut http = Http::connect(proxy.addr).await;
    assert_eq!(http.get(&[("cookie", "piton_bucket=5000")]).await.1, "blue");
    let (status, page) = http.get(&[("cookie", "piton_bucket=4999")]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(page, r#"{"error":"no_upstream","message":"The green slot has no app."}"#);
    let stats = proxy.control().await.stats().await.unwrap();
    assert_eq!((stats.unassigned, stats.slots.green.requests), (1, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn a_weight_above_the_whole_is_refused_and_changes_nothing() {
    let proxy = Proxy::start().await;
    let mut control = proxy.control().await;
    control.set_weights(Weights { green: 300 }).await.unwrap();
    let error = control.set_weights(Weights { green: BUCKETS + 1 }).await.unwrap_err();
    assert!(matches!(error, ControlError::Refused(_)), "{error}");
    assert_eq!(control.status().await.unwrap().weights, Weights { green: 300 });
    proxy.stop().await;
}
