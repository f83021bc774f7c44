//! The gate: continue, hold or roll back, decided from what the two slots answered.
//!
//! A pure module: no clock, no I/O. Whoever feeds it says what was seen and whether the step's time has passed.
//!
//! Each configured limit is watched by an e-process: a bet against "the share of bad answers is at most the limit", which grows by
//! ln(q/L) at a bad answer and by ln((1-q)/(1-L)) at a good one. By Ville's inequality the chance that a release within
//! its limits is *ever* rolled back is at most [`ALPHA`] for each limit, however often the gate looks. It depends only
//! on the counts, so neither the order of answers nor their grouping into looks matters.

use piton_proxy::control::{Latency, SlotStats};
use serde::{Deserialize, Serialize};

use crate::config::{self, format_duration};
use crate::words;

/// The chance of a wrong rollback, for each limit, over the whole release.
pub const ALPHA: f64 = 0.002;
/// The bets are on shares of bad answers this many times the limit.
const STAKES: [f64; 7] = [1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 90.0];
/// Of answers within a p95 limit, at most this share may be slower than it.
const SLOW_SHARE: f64 = 0.05;

/// What one slot answered between two looks.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Requests that came to an end.
    pub responses: u64,
    /// Answers 5xx, timeouts and failed connections.
    pub bad: u64,
    /// How long the answers took.
    pub latency: Latency,
}

impl From<&SlotStats> for Answers {
    fn from(stats: &SlotStats) -> Self {
        Self { responses: stats.judged(), bad: stats.bad, latency: stats.latency.clone() }
    }
}

/// What the gate decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "why", rename_all = "snake_case")]
pub enum Verdict {
    /// The step may end.
    Continue(String),
    /// The step stays as it is.
    Hold(String),
    /// Traffic goes back.
    RollBack(String),
}

/// The judge of one release; its state is data and can be stored and taken up again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gate {
    limits: config::Gate,
    candidate: Tally,
    stable: Tally,
    /// What the candidate answered within the present step.
    step: Tally,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    responses: u64,
    bad: u64,
    /// How many latencies were counted, and how many of them were over the p95 limit.
    timed: u64,
    slow: u64,
}

impl Gate {
    /// Starts a release's gate.
    pub fn new(limits: config::Gate) -> Self {
        Self { limits, candidate: Tally::default(), stable: Tally::default(), step: Tally::default() }
    }

    /// Begins a rollout step: its minimum of data is counted anew, its evidence goes on.
    ///
    /// After an outage that hit both slots the evidence begins anew, too: it says nothing about the release.
    pub fn enter_step(&mut self) {
        self.step = Tally::default();
        if self.monitors().iter().any(|monitor| monitor.fails(&monitor.stable)) {
            self.candidate = Tally::default();
            self.stable = Tally::default();
        }
    }

    /// Takes in what was answered since the last look.
    pub fn see(&mut self, candidate: &Answers, stable: &Answers) {
        let limit = self.limits.p95;
        let tally = |answers: &Answers| Tally {
            responses: answers.responses,
            bad: answers.bad,
            timed: answers.latency.count(),
            slow: limit.map_or(0, |limit| answers.latency.slower_than(limit)),
        };
        self.candidate.add(tally(candidate));
        self.step.add(tally(candidate));
        self.stable.add(tally(stable));
    }

    /// Judges what was seen so far.
    pub fn verdict(&self, time_has_passed: bool) -> Verdict {
        let monitors = self.monitors();
        for monitor in &monitors {
            if !monitor.fails(&monitor.candidate) {
                continue;
            }
            // An outage that hits both slots is not the release's doing; going back would not help.
            if let Some(stable) = monitors.iter().find(|monitor| monitor.fails(&monitor.stable)) {
                return Verdict::Hold(format!(
                    "{}; the serving release too: {}",
                    monitor.words(&monitor.candidate),
                    stable.words(&stable.stable)
                ));
            }
            return Verdict::RollBack(monitor.words(&monitor.candidate));
        }
        let seen = self.step.responses;
        let least = u64::from(self.limits.at_least);
        if seen < least {
            return Verdict::Hold(format!("{seen} of at least {least} answers seen (gate.at_least)"));
        }
        if let Some(over) = monitors.iter().find(|monitor| monitor.candidate.share() > monitor.limit) {
            return Verdict::Hold(format!(
                "{}: over the limit, not yet beyond chance",
                over.words(&over.candidate)
            ));
        }
        // Whoever the one before still has is better off here: with a schema that it does not know, or when it has died. One
        // that has only become slower, or always was, is no reason to hurry.
        let errors = monitors.first();
        if let Some(failing) = errors.filter(|monitor| monitor.fails(&monitor.stable)) {
            return Verdict::Continue(format!(
                "{}; the serving release fails: {}",
                failing.words(&failing.candidate),
                failing.words(&failing.stable)
            ));
        }
        if !time_has_passed {
            return Verdict::Hold("the step's time has not passed".into());
        }
        Verdict::Continue(self.summary())
    }

    /// Tells whether both slots are beyond a limit.
    pub fn both_fail(&self) -> bool {
        let monitors = self.monitors();
        monitors.iter().any(|monitor| monitor.fails(&monitor.candidate))
            && monitors.iter().any(|monitor| monitor.fails(&monitor.stable))
    }

    /// Returns the candidate's and the stable slot's answers in one sentence.
    pub fn summary(&self) -> String {
        let candidate = format!("{} of {} bad", self.candidate.bad, self.candidate.responses);
        match self.stable.responses {
            0 => candidate,
            responses => format!("{candidate} (serving release: {} of {responses})", self.stable.bad),
        }
    }

    fn monitors(&self) -> Vec<Monitor> {
        let limit = self.limits.errors;
        let count = |tally: &Tally| Count { hits: tally.bad, of: tally.responses };
        let mut monitors = vec![Monitor {
            what: format!("bad answers, limit {limit}"),
            limit: limit.fraction(),
            candidate: count(&self.candidate),
            stable: count(&self.stable),
        }];
        if let Some(limit) = self.limits.p95 {
            let count = |tally: &Tally| Count { hits: tally.slow, of: tally.timed };
            monitors.push(Monitor {
                what: format!("answers slower than {}, limit 5%", format_duration(limit)),
                limit: SLOW_SHARE,
                candidate: count(&self.candidate),
                stable: count(&self.stable),
            });
        }
        monitors
    }
}

/// Says in one sentence how soon the gate sends back what is how bad; `None` when its limit is too near to 100 %.
pub fn reach(limits: config::Gate) -> Option<String> {
    let limit = limits.errors;
    let finds = |share: f64| {
        (1..1_000_000_u64).find(|of| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
            #[expect(clippy::cast_precision_loss, reason = "below a million")]
            let hits = (*of as f64 * share) as u64;
            Count { hits, of: *of }.wealth(limit.fraction()) >= 1.0 / ALPHA
        })
    };
    let shares = [5.0, 20.0].map(|times| (limit.fraction() * times).clamp(0.001, 1.0));
    let of = |share: f64| Some((format!("{}%", round(share * 100.0)), words::count(finds(share)?)));
    let ((small, late), (large, soon)) = (of(shares[0])?, of(shares[1])?);
    let more = match small == large {
        true => String::new(),
        false => format!(", one that fails {large} after about {soon}"),
    };
    Some(format!(
        "a release that fails {small} of its requests goes back after about {late} of them{more} (gate: at most {limit})"
    ))
}

fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.responses += other.responses;
        self.bad += other.bad;
        self.timed += other.timed;
        self.slow += other.slow;
    }
}

struct Monitor {
    what: String,
    limit: f64,
    candidate: Count,
    stable: Count,
}

#[derive(Clone, Copy)]
struct Count {
    hits: u64,
    of: u64,
}

impl Monitor {
    /// Tells whether a slot is beyond the limit, and beyond chance.
    fn fails(&self, count: &Count) -> bool {
        count.wealth(self.limit) >= 1.0 / ALPHA
    }

    fn words(&self, count: &Count) -> String {
        format!("{} of {} {}", count.hits, count.of, self.what)
    }
}

impl Count {
    #[expect(clippy::cast_precision_loss, reason = "counts of answers are far below 2^52")]
    fn share(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.hits as f64 / self.of as f64 }
    }

    /// Returns how much a stake of 1, spread evenly over the bets, has become.
    #[expect(clippy::cast_precision_loss, reason = "counts of answers are far below 2^52")]
    fn wealth(self, limit: f64) -> f64 {
        // A limit of 0 allows no bad answer at all; the smallest share that still lets the bet be written down.
        let limit = limit.max(1e-6);
        let (hits, misses) = (self.hits as f64, self.of.saturating_sub(self.hits) as f64);
        let bets: Vec<f64> = STAKES.iter().map(|stake| stake * limit).filter(|share| *share < 1.0).collect();
        let grown = bets
            .iter()
            .map(|share| (hits * (share / limit).ln() + misses * ((1.0 - share) / (1.0 - limit)).ln()).exp());
        let count = bets.len().max(1) as f64;
        grown.sum::<f64>() / count
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Percent;

    fn limits(errors: &str, p95: Option<u64>, at_least: u32) -> config::Gate {
        config::Gate { errors: errors.parse().unwrap(), p95: p95.map(Duration::from_millis), at_least }
    }

    fn answers(responses: u64, bad: u64) -> Answers {
        Answers { responses, bad, latency: Latency::default() }
    }

    fn seen(candidate: (u64, u64), stable: (u64, u64)) -> Gate {
        let mut gate = Gate::new(limits("1%", None, 50));
        gate.see(&answers(candidate.0, candidate.1), &answers(stable.0, stable.1));
        gate
    }

    #[test]
    fn a_bet_is_fair_under_the_limit() {
        // E[W] over all outcomes of n answers at exactly the limit is 1, by exact enumeration.
        for (limit, n) in [(0.01_f64, 40_u32), (0.05, 60), (0.5, 20)] {
            let mut expected = 0.0;
            let mut ways = 1.0_f64;
            for hits in 0..=n {
                if hits > 0 {
                    ways *= f64::from(n - hits + 1) / f64::from(hits);
                }
                let chance = ways
                    * limit.powi(i32::try_from(hits).unwrap())
                    * (1.0 - limit).powi(i32::try_from(n - hits).unwrap());
                expected += chance * Count { hits: hits.into(), of: n.into() }.wealth(limit);
            }
            assert!((expected - 1.0).abs() < 1e-9, "limit {limit}, n {n}: {expected}");
        }
    }

    #[test]
    fn five_percent_errors_go_back_after_a_few_bad_answers() {
        assert!(matches!(seen((200, 10), (4000, 4)).verdict(false), Verdict::RollBack(_)));
        assert!(matches!(seen((3, 3), (60, 0)).verdict(false), Verdict::RollBack(_)));
    }

    #[test]
    fn one_bad_answer_is_not_a_verdict() {
        assert!(matches!(seen((60, 1), (1000, 0)).verdict(true), Verdict::Hold(_)));
        assert!(matches!(seen((500, 1), (1000, 0)).verdict(true), Verdict::Continue(_)));
    }

    #[test]
    fn what_a_plan_promises_is_what_the_gate_does() {
        let limits = limits("1%", None, 50);
        let words = reach(limits).unwrap();
        assert_eq!(reach(config::Gate { errors: Percent::FULL, ..limits }), None);
        let after: Vec<u64> = words
            .split("after about ")
            .skip(1)
            .map(|part| part.split(' ').next().unwrap().parse().unwrap())
            .collect();
        for (share, of) in [(0.05, after[0]), (0.2, after[1])] {
            let answered = |of: u64| seen((of, (of as f64 * share) as u64), (4000, 4)).verdict(false);
            assert!(matches!(answered(of), Verdict::RollBack(_)), "{words}");
            assert!(matches!(answered(of - 1), Verdict::Hold(_)), "{words}");
        }
    }

    #[test]
    fn a_plan_does_not_promise_the_same_twice() {
        let words = reach(limits("20%", None, 50)).unwrap();
        assert!(
            words.starts_with("a release that fails 100% of its requests goes back after about "),
            "{words}"
        );
        assert_eq!(words.matches("100%").count(), 1, "{words}");
        assert_eq!(reach(limits("2%", None, 50)).unwrap().matches("after about").count(), 2);
    }

    #[test]
    fn who_is_left_with_a_failing_release_does_not_wait() {
        let Verdict::Continue(why) = seen((60, 0), (200, 200)).verdict(false) else { panic!() };
        assert!(why.contains("the serving release fails: 200 of 200 bad answers"), "{why}");
        assert!(
            matches!(seen((40, 0), (200, 200)).verdict(false), Verdict::Hold(_)),
            "too little is known of the new one"
        );
        assert!(matches!(seen((60, 1), (200, 200)).verdict(false), Verdict::Hold(_)));
        let both = seen((60, 60), (200, 200));
        assert!(matches!(both.verdict(false), Verdict::Hold(_)) && both.both_fail());
    }

    #[test]
    fn no_data_holds() {
        assert!(matches!(seen((0, 0), (0, 0)).verdict(true), Verdict::Hold(_)));
        assert!(matches!(seen((49, 0), (5000, 0)).verdict(true), Verdict::Hold(_)));
    }

    #[test]
    fn a_shared_outage_holds() {
        assert!(matches!(seen((200, 60), (4000, 1200)).verdict(true), Verdict::Hold(_)));
    }

    #[test]
    fn looks_may_be_grouped_in_any_way_and_the_state_stored_between() {
        let mut whole = Gate::new(limits("1%", None, 50));
        whole.see(&answers(300, 3), &answers(900, 9));
        let mut parts = Gate::new(limits("1%", None, 50));
        for _ in 0..3 {
            parts.see(&answers(100, 1), &answers(300, 3));
            let stored = serde_json::to_string(&parts).unwrap();
            parts = serde_json::from_str(&stored).unwrap();
        }
        assert_eq!(whole.verdict(true), parts.verdict(true));
    }

    #[test]
    fn after_a_shared_outage_the_next_step_judges_again() {
        let mut gate = seen((200, 60), (4000, 1200));
        gate.enter_step();
        gate.see(&answers(200, 0), &answers(4000, 0));
        assert!(matches!(gate.verdict(true), Verdict::Continue(_)));
        gate.see(&answers(200, 100), &answers(0, 0));
        assert!(matches!(gate.verdict(true), Verdict::RollBack(_)));
    }

    #[test]
    fn a_step_asks_for_its_own_minimum() {
        let mut gate = seen((500, 0), (500, 0));
        assert!(matches!(gate.verdict(true), Verdict::Continue(_)));
        gate.enter_step();
        assert!(matches!(gate.verdict(true), Verdict::Hold(_)));
    }
}
