//! Measures what the gate finds and what it takes for a fault, beside the rules by which others judge the same traffic.
//!
//! Everything is synthetic and seeded: two runs print the same. 14 hours, in steps of 5, 25 and 50 %, 0.1 % of the answers bad.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark ends at the first fault and prints its figures"
)]

use std::error::Error;
use std::thread;
use std::time::Duration;

use piton_core::config::{self, Percent};
use piton_core::gate::{Answers, Gate, Verdict};

#[path = "../src/gate/tests/traffic.rs"]
mod traffic;

use traffic::{End, Judge, Scene, Times};

const MINUTE: Duration = Duration::from_mins(1);
const LIMIT: f64 = 0.01;

fn main() -> Result<(), Box<dyn Error>> {
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let seeds: u64 = std::env::var("PITON_BENCH_SEEDS").map_or(Ok(200), |text| text.parse())?;
    println!("sent back although no worse, of {seeds} releases each");
    println!("{:<44}{:>8}{:>8}{:>8}{:>8}", "", "piton", "once", "five", "U test");
    for (what, scene) in innocent() {
        let ends = rules().map(|rule| ends(&scene, rule, seeds));
        let [piton, once, five, test] = ends.map(|ends| ends.iter().filter(|end| end.back).count());
        println!("{what:<44}{piton:>8}{once:>8}{five:>8}{test:>8}");
    }
    println!(
        "\nbad answers until it goes back, of 95 in 100 releases (minutes); - where more than 5 in 100 never did"
    );
    println!("{:<44}{:>14}{:>14}{:>14}{:>14}", "", "piton", "once", "five", "U test");
    for (what, scene) in failing() {
        let told = rules().map(|rule| told(ends(&scene, rule, seeds), |end| end.bad));
        println!("{what:<44}{:>14}{:>14}{:>14}{:>14}", told[0], told[1], told[2], told[3]);
    }
    println!("\nanswers of the release until it goes back, of 95 in 100 releases (minutes)");
    for (what, scene) in slow() {
        let told = told(ends(&scene, Rule::Gate, seeds), |end| end.answers);
        println!("{what:<44}{told:>14}");
    }
    Ok(())
}

/// Releases that are no worse than what serves.
fn innocent() -> Vec<(String, Scene)> {
    fn outage(at: f64) -> f64 {
        if (3000.0..3300.0).contains(&at) { 0.5 } else { 0.001 }
    }
    let at = |rate: f64| (format!("14 hours at {rate} requests/s"), Scene::usual(rate));
    let usual = || Scene::usual(100.0);
    let mut scenes = [1.0, 10.0, 100.0, 1000.0].map(at).to_vec();
    scenes.extend([
        (
            "an outage of 5 minutes that hits both".into(),
            Scene { stable: outage, candidate: outage, ..usual() },
        ),
        ("a day's course".into(), Scene { day: 0.8, ..usual() }),
        ("7 % where 5 % was configured".into(), Scene { given: |share| share * 1.4, ..usual() }),
        ("eight bad answers at a time".into(), Scene { clump: 8.0, ..usual() }),
        (
            "as slow for its first 100 s, p95 limit".into(),
            Scene { times: Some(times(warming)), ..Scene::usual(10.0) },
        ),
    ]);
    scenes
}

/// Releases that fail more.
fn failing() -> Vec<(String, Scene)> {
    let mut scenes = Vec::new();
    type Share = fn(f64) -> f64;
    let shares: [(&str, Share); 4] =
        [("1 %", |_| 0.01), ("2 %", |_| 0.02), ("5 %", |_| 0.05), ("all", |_| 1.0)];
    for (share, candidate) in shares {
        for rate in [1.0, 10.0, 100.0, 1000.0] {
            // The built-in proxy is looked at four times a second.
            let scene = Scene { candidate, looks: 4, ..Scene::usual(rate) };
            scenes.push((format!("0.1 % → {share} at {rate} requests/s"), scene));
        }
    }
    fn late(at: f64) -> f64 {
        if at < 6.0 * 3600.0 { 0.001 } else { 0.02 }
    }
    scenes.push((
        "0.1 % → 2 % after 6 hours at 100 requests/s".into(),
        Scene { candidate: late, ..Scene::usual(100.0) },
    ));
    scenes
}

/// Releases that are slower than 250 ms at the 95th percentile.
fn slow() -> Vec<(String, Scene)> {
    let scene = |times: Times| Scene { times: Some(times), looks: 4, ..Scene::usual(100.0) };
    let stuck = Times { stuck: (0.03, 2.0), ..times(|_| 1.0) };
    vec![
        ("twice as slow".into(), scene(times(|_| 2.0))),
        ("half as slow again".into(), scene(times(|_| 1.5))),
        ("3 % take 2 s".into(), scene(stuck)),
    ]
}

fn warming(at: f64) -> f64 {
    if at < 100.0 { 4.0 } else { 1.0 }
}

fn times(factor: fn(f64) -> f64) -> Times {
    Times { p95: 0.25, sigma: 0.5, factor, stuck: (0.0, 0.0) }
}

#[derive(Clone, Copy)]
enum Rule {
    /// Piton's.
    Gate,
    /// A metric over its limit in any minute, as Argo Rollouts does unless told otherwise.
    Once,
    /// Five minutes over the limit, as Flagger counts.
    Five,
    /// A Mann-Whitney U test of an hour's minutes, as Kayenta does.
    Test,
}

fn rules() -> [Rule; 4] {
    [Rule::Gate, Rule::Once, Rule::Five, Rule::Test]
}

fn ends(scene: &Scene, rule: Rule, seeds: u64) -> Vec<End> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| {
                scope.spawn(move || {
                    let seeds = (part..seeds).step_by(usize::try_from(threads).unwrap_or(1));
                    seeds.map(|seed| scene.run(&mut *judge(scene, rule), seed)).collect::<Vec<_>>()
                })
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

fn judge(scene: &Scene, rule: Rule) -> Box<dyn Judge> {
    let p95 = scene.times.is_some().then_some(Duration::from_millis(500));
    let limits = config::Gate { errors: "1%".parse().unwrap(), p95 };
    match rule {
        Rule::Gate => Box::new(Gate::new(limits, scene.length())),
        Rule::Once => Box::new(Threshold::new(1)),
        Rule::Five => Box::new(Threshold::new(5)),
        Rule::Test => Box::new(UTest::default()),
    }
}

/// Says what 95 of 100 releases did not exceed.
fn told(mut ends: Vec<End>, count: impl Fn(&End) -> u64) -> String {
    let all = ends.len();
    ends.retain(|end| end.back);
    if ends.len() * 100 < all * 95 {
        return "-".into();
    }
    let at = (all * 95).div_ceil(100) - 1;
    ends.sort_by_key(&count);
    let most = count(&ends[at.min(ends.len() - 1)]);
    ends.sort_by(|one, other| one.at.total_cmp(&other.at));
    format!("{most} ({:.1})", ends[at.min(ends.len() - 1)].at / 60.0)
}

/// What was answered within a minute.
#[derive(Default)]
struct Minute {
    passed: Duration,
    candidate: (u64, u64),
    stable: (u64, u64),
}

impl Minute {
    /// Adds a look; returns the shares of bad answers when the minute is over.
    fn add(&mut self, time: Duration, candidate: &Answers, stable: &Answers) -> Option<(f64, f64)> {
        self.passed += time;
        self.candidate = (self.candidate.0 + candidate.bad, self.candidate.1 + candidate.responses);
        self.stable = (self.stable.0 + stable.bad, self.stable.1 + stable.responses);
        if self.passed < MINUTE {
            return None;
        }
        let share = |(bad, of): (u64, u64)| if of == 0 { 0.0 } else { bad as f64 / of as f64 };
        let shares = (share(self.candidate), share(self.stable));
        *self = Self::default();
        Some(shares)
    }
}

struct Threshold {
    minute: Minute,
    failed: u32,
    allowed: u32,
}

impl Threshold {
    fn new(allowed: u32) -> Self {
        Self { minute: Minute::default(), failed: 0, allowed }
    }
}

impl Judge for Threshold {
    fn enter(&mut self, _share: Percent) {
        self.failed = 0;
    }

    fn judge(&mut self, time: Duration, candidate: &Answers, stable: &Answers, _passed: bool) -> Verdict {
        if self.minute.add(time, candidate, stable).is_some_and(|(share, _)| share > LIMIT) {
            self.failed += 1;
        }
        match self.failed >= self.allowed {
            true => Verdict::RollBack(String::new()),
            false => Verdict::Continue(String::new()),
        }
    }
}

#[derive(Default)]
struct UTest {
    minute: Minute,
    candidate: Vec<f64>,
    stable: Vec<f64>,
}

impl Judge for UTest {
    fn enter(&mut self, _share: Percent) {}

    fn judge(&mut self, time: Duration, candidate: &Answers, stable: &Answers, _passed: bool) -> Verdict {
        if let Some((ours, theirs)) = self.minute.add(time, candidate, stable) {
            self.candidate.push(ours);
            self.stable.push(theirs);
        }
        if self.candidate.len() < 60 {
            return Verdict::Continue(String::new());
        }
        let (ours, theirs) = (std::mem::take(&mut self.candidate), std::mem::take(&mut self.stable));
        match is_higher(&ours, &theirs) {
            true => Verdict::RollBack(String::new()),
            false => Verdict::Continue(String::new()),
        }
    }
}

/// Tells whether one sample lies higher than the other at 98 %, by a quarter of its mean at least.
fn is_higher(ours: &[f64], theirs: &[f64]) -> bool {
    let least = theirs.iter().sum::<f64>() / theirs.len() as f64 * 0.25;
    let mut all: Vec<(f64, bool)> = ours.iter().map(|value| (*value - least, true)).collect();
    all.extend(theirs.iter().map(|value| (*value, false)));
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut ranks, mut ties, mut at) = (0.0, 0.0, 0);
    while at < all.len() {
        let same = all[at..].iter().take_while(|(value, _)| *value == all[at].0).count();
        let rank = at as f64 + (same as f64 + 1.0) / 2.0;
        ranks += all[at..at + same].iter().filter(|(_, is_ours)| *is_ours).count() as f64 * rank;
        ties += (same as f64).powi(3) - same as f64;
        at += same;
    }
    let (n, m) = (ours.len() as f64, theirs.len() as f64);
    let u = ranks - n * (n + 1.0) / 2.0;
    let spread = n * m / 12.0 * ((n + m + 1.0) - ties / ((n + m) * (n + m - 1.0)));
    spread > 0.0 && (u - n * m / 2.0) / spread.sqrt() > 2.326
}
