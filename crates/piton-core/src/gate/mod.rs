//! The gate: continue, hold or roll back, decided from what the two slots answered.
//!
//! A pure module: no clock, no I/O. Whoever feeds it says what was seen, how much time has gone by, and whether the step's time has passed.
//!
//! A bad answer is a coin: it falls on the release or on the one that still serves. If the release is no worse, the coin has the bias of
//! its share of the answers, whatever hits both. The gate [bets](bet) against that; it sends the release back when a capital of 1 has
//! grown to 1/[`ALPHA`]. The same is done for answers that are slower than nearly all of the serving release's, and against each
//! configured limit. The chance that a release which is no worse is *ever* sent back is at most [`ALPHA`] for each of the
//! five, however often the gate looks.
//!
//! The terms of a bet (share, size of clumps, what counts as slow) are fixed at each whole second from what was seen before it:
//! the sums do not depend on how a second is parted into looks, nor on storing and taking up the state.

mod bet;
mod reach;

use std::time::Duration;

use piton_proxy::control::{Latency, SlotStats};
use serde::{Deserialize, Serialize};

use self::bet::{Capital, Clumps, Odds, Tally, float};
pub use self::reach::reach;
use crate::config::{self, Percent, format_duration};
use crate::words;

/// The chance of a wrong rollback, for each monitor, over the whole release.
pub const ALPHA: f64 = 0.002;
/// With this much won by the bet that it is worse than the serving release, no release goes on by itself.
const SUSPECT: f64 = 10.0;
/// A limit is proved kept when the bet that it is kept has won this much.
const PROVED: f64 = 20.0;
/// The part of a capital that is there at the start; the rest comes by the minute, for what goes wrong late.
const AT_FIRST: f64 = 0.5;
/// How many answers the configured share counts for before the real one is known.
const PRIOR: f64 = 200.0;
/// With so many answers beside none of the serving release there is nothing to compare a release with.
const ALONE: u64 = 200;
/// Of answers within a p95 limit, at most this share may be slower than it.
const SLOW_SHARE: f64 = 0.05;
/// An answer is slow beside the serving release's when it takes this many times as long as nearly all of them, and so much longer at least:
/// what nobody feels sends nothing back.
const SLOWER: f64 = 1.25;
const FELT: Duration = Duration::from_millis(50);
/// How many of the serving release's answers tell how long they take.
const SAMPLES: u64 = 500;
/// A started app is slow at first; how long that is forgiven, and for how many answers at most.
const WARM_UP: Duration = Duration::from_mins(2);
const WARM_UP_ANSWERS: u64 = 200;

const ERRORS: Odds = Odds { tolerated: 1.5, bets: &[2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 200.0, 1000.0] };
const P95: Odds = Odds { tolerated: 1.25, bets: &[1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0] };
const P99: Odds = Odds { tolerated: 1.5, bets: &[2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 200.0] };
/// The bets against a limit are on shares of bad answers this many times the limit; those that it is kept, on these parts of it.
const ABOVE: [f64; 7] = [1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 90.0];
const BELOW: [f64; 5] = [0.001, 1.0 / 30.0, 0.1, 1.0 / 3.0, 0.5];
/// No limit is lower or higher for the bets: that no answer at all is bad cannot be proved.
const LEAST: f64 = 0.001;
const MOST: f64 = 0.999;

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

impl Answers {
    fn tally(&self) -> Tally {
        Tally { bad: self.bad, of: self.responses }
    }

    fn slower_than(&self, time: Duration) -> Tally {
        Tally { bad: self.latency.slower_than(time), of: self.latency.count() }
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    limits: config::Gate,
    /// For how many minutes, as planned, the release is to be judged.
    minutes: f64,
    /// How much time has gone by, over all steps.
    passed: Duration,
    /// The second for which the terms are fixed.
    fixed: Option<u64>,
    /// The share of traffic that the step is to give the release.
    weight: f64,
    /// When the release was first seen to answer, and whether that is long enough ago for its slowness to count.
    first: Option<Duration>,
    is_warm: bool,
    /// How long the serving release's answers take.
    usual: Latency,
    errors: Relative,
    /// The bet that it is the serving release which is worse.
    serving: Capital,
    p95: Relative,
    p99: Relative,
    error_limit: Absolute,
    p95_limit: Option<Absolute>,
}

/// A bet that a release is worse than the one that serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Relative {
    capital: Capital,
    clumps: Clumps,
    candidate: Tally,
    stable: Tally,
    /// How many answers of each were seen within the step.
    step: (u64, u64),
    /// The terms: the release's share of the answers, how many bad ones are one observation, what counts as slow.
    share: f64,
    clump: f64,
    slow: Option<Duration>,
}

/// The bets against a configured limit, and for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Absolute {
    limit: f64,
    candidate: Capital,
    stable: Capital,
    kept: Capital,
    seen: Tally,
    seen_stable: Tally,
    /// What was seen within the step.
    step: Tally,
}

impl Gate {
    /// Starts a release's gate; `length` is how long the release is to be judged, in all.
    pub fn new(limits: config::Gate, length: Duration) -> Self {
        Self {
            limits,
            minutes: (length.as_secs_f64() / 60.0).max(1.0),
            passed: Duration::ZERO,
            fixed: None,
            weight: 1.0,
            first: None,
            is_warm: false,
            usual: Latency::default(),
            errors: Relative::new(ERRORS),
            serving: Capital::new(ERRORS.bets.len(), AT_FIRST),
            p95: Relative::new(P95),
            p99: Relative::new(P99),
            error_limit: Absolute::new(limits.errors.fraction()),
            p95_limit: limits.p95.map(|_| Absolute::new(SLOW_SHARE)),
        }
    }

    /// Begins a rollout step with this share of traffic: that the limits are kept is proved anew, the evidence goes on.
    ///
    /// What was beyond a limit and stayed all the same, because an outage hit both slots or a person said so, is told of anew, too.
    pub fn enter_step(&mut self, share: Percent) {
        self.weight = share.fraction();
        self.fixed = None;
        for relative in self.relatives_mut() {
            relative.step = (0, 0);
            relative.clumps.begin_anew();
        }
        for absolute in self.absolutes_mut() {
            let new = Absolute::new(absolute.limit);
            for (bet, new) in [(&mut absolute.candidate, new.candidate), (&mut absolute.stable, new.stable)] {
                if bet.is_won() {
                    *bet = new;
                }
            }
            (absolute.kept, absolute.step) = (new.kept, Tally::default());
        }
    }

    /// Takes in what was answered in the time since the last look.
    pub fn see(&mut self, time: Duration, candidate: &Answers, stable: &Answers) {
        let (from, to) = (self.passed, self.passed + time);
        if self.fixed != Some(from.as_secs()) {
            self.fix();
            self.fixed = Some(from.as_secs());
        }
        if candidate.responses > 0 {
            self.first.get_or_insert(from);
        }
        let both_failed = self.both_fail();
        let span = (from, to);
        self.errors.see((ERRORS, self.weight), span, candidate.tally(), stable.tally());
        let (share, clump) = (self.errors.share, self.errors.clump);
        self.serving.toss(ERRORS, 1.0 - share, clump, stable.bad, candidate.bad);
        self.error_limit.see(clump, candidate.tally(), stable.tally());
        if self.is_warm {
            for (relative, odds) in [(&mut self.p95, P95), (&mut self.p99, P99)] {
                if let Some(slow) = relative.slow {
                    let (ours, theirs) = (candidate.slower_than(slow), stable.slower_than(slow));
                    relative.see((odds, self.weight), span, ours, theirs);
                }
            }
            if let (Some(limit), Some(p95)) = (&mut self.p95_limit, self.limits.p95) {
                limit.see(self.p95.clump, candidate.slower_than(p95), stable.slower_than(p95));
            }
        }
        self.usual.add(&stable.latency);
        self.passed = to;
        self.pay_in(from, to);
        if both_failed && !self.both_fail() {
            // What was answered during an outage would have to be outweighed for hours.
            for absolute in self.absolutes_mut() {
                absolute.kept = Absolute::new(absolute.limit).kept;
            }
        }
    }

    /// Judges what was seen so far.
    pub fn verdict(&self, time_has_passed: bool) -> Verdict {
        let serving = self.absolutes().find(|(absolute, ..)| absolute.stable.is_won());
        let failing: Vec<_> = self.absolutes().filter(|(absolute, ..)| absolute.candidate.is_won()).collect();
        let is_suspect = |relatives: &[&Relative]| {
            !self.has_control() || relatives.iter().any(|relative| relative.capital.sum() >= SUSPECT)
        };
        let over = |(absolute, what, _): &(&Absolute, String, _)| format!("{} {what}", words(absolute.seen));
        if let (None, Some(worst)) = (&serving, failing.iter().find(|(.., beside)| is_suspect(beside))) {
            return Verdict::RollBack(over(worst));
        }
        if let Some(worse) = self.relatives().find(|(relative, _)| relative.capital.is_won()) {
            return Verdict::RollBack(self.worse(worse));
        }
        match (failing.first(), serving) {
            // An outage that hits both slots is not the release's doing; going back would not help.
            (Some(first), Some((serving, what, _))) => {
                let serving = words(serving.seen_stable);
                return Verdict::Hold(format!("{}; the serving release too: {serving} {what}", over(first)));
            }
            (Some(first), None) => {
                return Verdict::Hold(format!(
                    "{}; not beyond chance worse than the serving release",
                    over(first)
                ));
            }
            (None, _) => {}
        }
        for (absolute, what, beside) in self.absolutes() {
            if absolute.kept.sum() < PROVED {
                return Verdict::Hold(absolute.unproved(&what, beside.first().map_or(1.0, |one| one.clump)));
            }
        }
        // Where nothing is compared any more, nothing could take a suspicion back.
        let mut suspects = self.relatives().filter(|_| self.has_control());
        if let Some(worse) = suspects.find(|(one, _)| one.capital.sum() >= SUSPECT) {
            return Verdict::Hold(format!("{}, not yet beyond chance", self.worse(worse)));
        }
        // Whoever the one before still has is better off here: with a schema that it does not know, or when it has died. One
        // that has only become slower, or always was, is no reason to hurry.
        if self.error_limit.stable.is_won() && self.serving.is_won() {
            return Verdict::Continue(format!(
                "{} bad; the serving release fails: {} bad",
                words(self.error_limit.seen),
                words(self.error_limit.seen_stable)
            ));
        }
        if !time_has_passed {
            return Verdict::Hold("the step's time has not passed".into());
        }
        Verdict::Continue(self.summary())
    }

    /// Tells whether both slots are beyond a limit.
    pub fn both_fail(&self) -> bool {
        let limits = || [&self.error_limit].into_iter().chain(&self.p95_limit);
        limits().any(|limit| limit.stable.is_won()) && limits().any(|limit| limit.candidate.is_won())
    }

    /// Returns the candidate's and the stable slot's answers in one sentence.
    pub fn summary(&self) -> String {
        let candidate = format!("{} bad", words(self.errors.candidate));
        match self.errors.stable.of {
            0 => candidate,
            _ => format!("{candidate} (serving release: {})", words(self.errors.stable)),
        }
    }

    /// Says that the release has another share of the answers than the step is to give it; `None` while it has not, or too few came.
    pub fn departs(&self) -> Option<String> {
        let (ours, theirs) = self.errors.step;
        let (all, least) = (ours + theirs, 1000);
        let real = Tally { bad: ours, of: all }.share();
        let apart = (real - self.weight).abs();
        let by_chance = 4.0 * (self.weight * (1.0 - self.weight) / float(all.max(1))).sqrt();
        let departs = self.weight < 1.0 && all >= least && apart > by_chance && apart > self.weight / 4.0;
        departs.then(|| format!("it has {} of the answers, not {}", percent(real), percent(self.weight)))
    }

    /// Fixes the terms of the bets from what was seen so far.
    fn fix(&mut self) {
        let slow = |quantile: f64| {
            let usual = (self.usual.count() >= SAMPLES).then(|| self.usual.quantile(quantile)).flatten();
            usual.map(|usual| usual.mul_f64(SLOWER).max(usual + FELT))
        };
        (self.p95.slow, self.p99.slow) = (slow(0.95), slow(0.99));
        let weight = self.weight;
        for relative in self.relatives_mut() {
            relative.fix(weight);
        }
        self.is_warm = self.errors.candidate.of >= WARM_UP_ANSWERS
            || self.first.is_some_and(|first| self.passed.saturating_sub(first) >= WARM_UP);
    }

    /// Pays in, at each whole minute, a part of what is left of each capital: about as much each time as long as was planned, and
    /// less and less behind that. All parts together are what was left.
    fn pay_in(&mut self, from: Duration, to: Duration) {
        let left = |time: Duration| self.minutes / (self.minutes + float(time.as_secs() / 60));
        let part = (left(from) - left(to)) * (1.0 - AT_FIRST);
        if part <= 0.0 {
            return;
        }
        self.serving.add(part);
        for relative in self.relatives_mut() {
            relative.capital.add(part);
        }
        for absolute in self.absolutes_mut() {
            absolute.candidate.add(part);
            absolute.stable.add(part);
        }
    }

    fn has_control(&self) -> bool {
        let (ours, theirs) = self.errors.step;
        self.weight < 1.0 && (theirs > 0 || ours < ALONE)
    }

    fn relatives(&self) -> impl Iterator<Item = (&Relative, Odds)> {
        [(&self.errors, ERRORS), (&self.p95, P95), (&self.p99, P99)].into_iter()
    }

    fn relatives_mut(&mut self) -> [&mut Relative; 3] {
        [&mut self.errors, &mut self.p95, &mut self.p99]
    }

    /// The limits, what an answer beyond one is called, and the bets that tell whether the serving release is as bad.
    fn absolutes(&self) -> impl Iterator<Item = (&Absolute, String, Vec<&Relative>)> {
        let errors = format!("bad answers, limit {}", self.limits.errors);
        let errors = (&self.error_limit, errors, vec![&self.errors]);
        let p95 = self.p95_limit.as_ref().zip(self.limits.p95).map(|(absolute, limit)| {
            let what = format!("answers slower than {}, limit 5%", format_duration(limit));
            (absolute, what, vec![&self.p95, &self.p99])
        });
        [errors].into_iter().chain(p95)
    }

    fn absolutes_mut(&mut self) -> impl Iterator<Item = &mut Absolute> {
        [&mut self.error_limit].into_iter().chain(&mut self.p95_limit)
    }

    /// Says in what the release is worse than the one that serves, and by which odds.
    fn worse(&self, (relative, odds): (&Relative, Odds)) -> String {
        let what = match relative.slow {
            None => "bad".into(),
            Some(slow) => format!("slower than {}", millis(slow)),
        };
        format!(
            "{} {what} ({}), the serving release {} ({}): more than {} times as many, {} to 1",
            words(relative.candidate),
            percent(relative.candidate.share()),
            words(relative.stable),
            percent(relative.stable.share()),
            odds.tolerated,
            words::count(whole(relative.capital.sum()))
        )
    }
}

impl Relative {
    fn new(odds: Odds) -> Self {
        Self {
            capital: Capital::new(odds.bets.len(), AT_FIRST),
            clumps: Clumps::default(),
            candidate: Tally::default(),
            stable: Tally::default(),
            step: (0, 0),
            share: 1.0,
            clump: 1.0,
            slow: None,
        }
    }

    fn fix(&mut self, weight: f64) {
        let (ours, theirs) = (float(self.step.0), float(self.step.1));
        self.share = (ours + PRIOR * weight) / (ours + theirs + PRIOR);
        self.clump = self.clumps.size();
    }

    fn see(
        &mut self,
        (odds, weight): (Odds, f64),
        (from, to): (Duration, Duration),
        candidate: Tally,
        stable: Tally,
    ) {
        let answers = (self.step.0 + candidate.of, self.step.1 + stable.of);
        if to.saturating_sub(from) > bet::GAP {
            // Of a time in which nobody looked, what came then tells the share best.
            self.step = answers;
            self.fix(weight);
        }
        self.capital.toss(odds, self.share, self.clump, candidate.bad, stable.bad);
        if weight < 1.0 {
            self.clumps.see(from, to, stable.bad);
        }
        self.step = answers;
        self.candidate.add(candidate);
        self.stable.add(stable);
    }
}

impl Absolute {
    fn new(limit: f64) -> Self {
        let limit = limit.clamp(LEAST, MOST);
        let above = Capital::new(above(limit).count(), AT_FIRST);
        let kept = Capital::new(BELOW.len(), 1.0);
        let nothing = Tally::default();
        let (candidate, stable) = (above.clone(), above);
        Self { limit, candidate, stable, kept, seen: nothing, seen_stable: nothing, step: nothing }
    }

    fn see(&mut self, clump: f64, candidate: Tally, stable: Tally) {
        self.candidate.weigh(self.limit, above(self.limit), clump, candidate);
        self.stable.weigh(self.limit, above(self.limit), clump, stable);
        self.kept.weigh(self.limit, below(self.limit), clump, candidate);
        self.seen.add(candidate);
        self.seen_stable.add(stable);
        self.step.add(candidate);
    }

    fn unproved(&self, what: &str, clump: f64) -> String {
        let more = self.kept.good_until(PROVED, self.limit, &below(self.limit), clump);
        let more = more.map_or_else(String::new, |more| {
            format!(": it takes about {} more good ones", words::count(more))
        });
        format!("{} {what}, not yet proved{more}", words(self.step))
    }
}

fn above(limit: f64) -> impl Iterator<Item = f64> + Clone {
    let times = ABOVE.into_iter().map(move |times| times * limit).filter(|share| *share < 1.0);
    // Of a high limit nothing else is above it.
    times.chain([f64::midpoint(limit, 1.0)])
}

fn below(limit: f64) -> impl Iterator<Item = f64> + Clone {
    BELOW.into_iter().map(move |part| part * limit)
}

fn words(tally: Tally) -> String {
    format!("{} of {}", tally.bad, tally.of)
}

fn percent(share: f64) -> String {
    format!("{}%", (share * 10_000.0).round() / 100.0)
}

fn millis(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// Returns a sum of winnings as a count.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "winnings are not negative, and bounded here"
)]
fn whole(winnings: f64) -> u64 {
    winnings.min(1e6) as u64
}

#[cfg(test)]
mod tests;
