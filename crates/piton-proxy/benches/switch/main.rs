//! Measures a traffic switch: the time from the order to the last new request on the old slot, and the
//! requests that fail meanwhile.
//!
//! Two apps, an open-loop load over keep-alive connections, and in turns Piton's proxy and nginx with a
//! reload between them. Run it with `bench/switch` from the top of the repository.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark ends at the first fault and prints its figures"
)]

mod app;
mod load;
mod nginx;
mod ours;

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use piton_proxy::Slot;
use piton_testkit::bench::{Report, Row, median};
use tokio::time::sleep;

use crate::app::App;
use crate::load::Load;
use crate::nginx::Nginx;
use crate::ours::Ours;

const ROUNDS: usize = 5;
const SWITCHES_PER_ROUND: usize = 20;
const REQUESTS_PER_SECOND: u32 = 2_000;
/// Far longer than a switch takes, so that every late request falls into it.
const BETWEEN: Duration = Duration::from_millis(250);

/// What is switched: each order sends all traffic to one slot.
enum Switch {
    Ours(Ours),
    Nginx(Nginx),
}

impl Switch {
    async fn to(&mut self, slot: Slot) {
        match self {
            Switch::Ours(ours) => ours.to(slot).await,
            Switch::Nginx(nginx) => nginx.to(slot),
        }
    }
}

/// What one round under load came to.
struct Round {
    /// From each order to the last request that the old slot got after it, in milliseconds.
    late: Vec<f64>,
    requests: u64,
    failed: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(dir) = std::env::var_os(ours::DIR) {
        return Ok(ours::serve(Path::new(&dir))?);
    }
    // `cargo test --all-targets` runs benchmarks too, without this; it has no minutes to spare.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (ours, nginx) = runtime.block_on(measure());
    let rows = rows(&ours, &nginx);
    Report { name: "switch", unit: "ms", goal: "< 10 ms, 0 dropped", rows }.publish()?;
    print_totals(&ours, &nginx);
    Ok(())
}

async fn measure() -> (Vec<Round>, Vec<Round>) {
    let apps = [App::start(Slot::Blue).await, App::start(Slot::Green).await];
    let addrs = [apps[0].addr, apps[1].addr];
    let mut ours = Switch::Ours(Ours::start(addrs).await);
    let mut nginx = Nginx::start(addrs).await.map(Switch::Nginx);
    let (mut our_rounds, mut nginx_rounds) = (Vec::new(), Vec::new());
    for number in 1..=ROUNDS {
        let done = number * SWITCHES_PER_ROUND;
        println!("round {number} of {ROUNDS}: up to switch {done} of {}", ROUNDS * SWITCHES_PER_ROUND);
        our_rounds.push(round(&mut ours, &apps).await);
        if let Some(nginx) = &mut nginx {
            nginx_rounds.push(round(nginx, &apps).await);
        }
    }
    (our_rounds, nginx_rounds)
}

/// Switches back and forth under load.
async fn round(switch: &mut Switch, apps: &[App; 2]) -> Round {
    let addr = match switch {
        Switch::Ours(ours) => ours.addr,
        Switch::Nginx(nginx) => nginx.addr,
    };
    switch.to(Slot::Blue).await;
    let load = Load::start(addr, REQUESTS_PER_SECOND);
    sleep(BETWEEN * 4).await;
    let mut late = Vec::new();
    for number in 0..SWITCHES_PER_ROUND {
        let (old, new) = if number % 2 == 0 { (0, Slot::Green) } else { (1, Slot::Blue) };
        let ordered = Instant::now();
        switch.to(new).await;
        sleep(BETWEEN).await;
        let last = apps[old].last_request();
        late.push(last.saturating_duration_since(ordered).as_secs_f64() * 1e3);
    }
    let (requests, failed) = load.end().await;
    Round { late, requests, failed }
}

/// One row for each figure: the median of the rounds, ours against nginx.
fn rows(ours: &[Round], nginx: &[Round]) -> Vec<Row> {
    let row = |case: &str, figure: fn(&Round) -> f64| {
        let of = |rounds: &[Round]| rounds.iter().map(figure).collect::<Vec<_>>();
        Row::of(case, &of(ours), &of(nginx), "nginx -s reload")
    };
    vec![
        row("order to last new request on the old slot, median, ms", |round| median(&round.late)),
        row("order to last new request on the old slot, worst, ms", |round| worst(&round.late)),
        row("failed requests in 20 switches at 2,000 req/s", |round| round.failed as f64),
    ]
}

fn print_totals(ours: &[Round], nginx: &[Round]) {
    for (name, rounds) in [("piton", ours), ("nginx", nginx)] {
        if rounds.is_empty() {
            println!("{name}: not installed, not measured");
            continue;
        }
        let late: Vec<f64> = rounds.iter().flat_map(|round| round.late.iter().copied()).collect();
        let requests: u64 = rounds.iter().map(|round| round.requests).sum();
        let failed: u64 = rounds.iter().map(|round| round.failed).sum();
        println!(
            "{name}: {} switches, worst {:.3} ms; {requests} requests, {failed} failed",
            late.len(),
            worst(&late)
        );
    }
    let kept = ours.iter().all(|round| round.failed == 0 && worst(&round.late) < 10.0);
    println!("goal, < 10 ms and 0 dropped: {}", if kept { "reached" } else { "MISSED" });
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
