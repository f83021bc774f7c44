//! Synthetic traffic over a rollout, as a proxy would count it; the same seed gives the same traffic.

use std::time::Duration;

use piton_proxy::control::Latency;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Binomial, Distribution as _, Geometric, LogNormal, Poisson};

use super::{Answers, Gate, Percent, Verdict};

/// Who judges a release: the gate, or a rule that it is compared with.
pub(super) trait Judge {
    /// Begins a step.
    fn enter(&mut self, share: Percent);
    /// Takes in what was answered in the time since the last look, and judges.
    fn judge(
        &mut self,
        time: Duration,
        candidate: &Answers,
        stable: &Answers,
        time_has_passed: bool,
    ) -> Verdict;
}

impl Judge for Gate {
    fn enter(&mut self, share: Percent) {
        self.enter_step(share);
    }

    fn judge(
        &mut self,
        time: Duration,
        candidate: &Answers,
        stable: &Answers,
        time_has_passed: bool,
    ) -> Verdict {
        self.see(time, candidate, stable);
        self.verdict(time_has_passed)
    }
}

/// What comes over the wire, and what becomes of it. Functions are of the seconds since the first step began.
#[derive(Clone)]
pub(super) struct Scene {
    /// Requests per second, in the mean.
    pub(super) rate: f64,
    /// By which part of it the rate rises and falls over a day.
    pub(super) day: f64,
    /// The steps: which share is configured, and for how long.
    pub(super) steps: Vec<(&'static str, Duration)>,
    /// Which share the release gets where so much is configured.
    pub(super) given: fn(f64) -> f64,
    /// The share of the serving release's answers that is bad, and of the candidate's.
    pub(super) stable: fn(f64) -> f64,
    pub(super) candidate: fn(f64) -> f64,
    /// How many bad answers come together, in the mean; 1 is singly.
    pub(super) clump: f64,
    /// How long answers take, if that is looked at.
    pub(super) times: Option<Times>,
    /// How often the gate looks in a second.
    pub(super) looks: u32,
}

/// Log-normal times.
#[derive(Clone)]
pub(super) struct Times {
    /// Seconds that nineteen of twenty answers do not exceed.
    pub(super) p95: f64,
    /// The spread of their logarithm.
    pub(super) sigma: f64,
    /// How many times as long the candidate takes.
    pub(super) factor: fn(f64) -> f64,
    /// Which share of the candidate's answers takes how many seconds instead.
    pub(super) stuck: (f64, f64),
}

/// What became of a release.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct End {
    /// Whether it went back.
    pub(super) back: bool,
    /// Whether a step was to end before its time.
    pub(super) early: bool,
    /// At how many steps' ends it did not go on.
    pub(super) held: u32,
    /// When it ended, in seconds.
    pub(super) at: f64,
    /// The candidate's answers until then, and the bad ones among them.
    pub(super) answers: u64,
    pub(super) bad: u64,
}

impl Scene {
    /// 14 hours in three steps, 0.1 % bad on both sides.
    pub(super) fn usual(rate: f64) -> Self {
        let hours = Duration::from_hours;
        Self {
            rate,
            day: 0.0,
            steps: vec![("5%", hours(2)), ("25%", hours(4)), ("50%", hours(8))],
            given: |share| share,
            stable: |_| 0.001,
            candidate: |_| 0.001,
            clump: 1.0,
            times: None,
            looks: 1,
        }
    }

    /// How long the release is to be judged.
    pub(super) fn length(&self) -> Duration {
        self.steps.iter().map(|(_, length)| *length).sum()
    }

    /// Lets it come, and somebody judge it, until it goes back or the last step's time has passed.
    pub(super) fn run(&self, judge: &mut dyn Judge, seed: u64) -> End {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut end = End::default();
        let look = Duration::from_secs(1) / self.looks;
        for (share, length) in &self.steps {
            let share: Percent = share.parse().unwrap();
            judge.enter(share);
            let given = (self.given)(share.fraction());
            let looks = length.as_secs() * u64::from(self.looks);
            let mut last = Verdict::Hold(String::new());
            for number in 1..=looks {
                let candidate = self.answers(&mut rng, end.at, given, true);
                let stable = self.answers(&mut rng, end.at, 1.0 - given, false);
                end.at += look.as_secs_f64();
                end.answers += candidate.responses;
                end.bad += candidate.bad;
                last = judge.judge(look, &candidate, &stable, number == looks);
                if matches!(last, Verdict::RollBack(_)) {
                    return End { back: true, ..end };
                }
                end.early |= number < looks && matches!(last, Verdict::Continue(_));
            }
            if let Verdict::Hold(why) = last {
                if cfg!(test) {
                    println!("{share}: {why}");
                }
                end.held += 1;
            }
        }
        end
    }

    /// Draws what one slot with this share of the requests answers until the next look.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a drawn count is a whole number"
    )]
    fn answers(&self, rng: &mut SmallRng, at: f64, share: f64, is_candidate: bool) -> Answers {
        let course = 1.0 + self.day * (at / 86_400.0 * std::f64::consts::TAU).sin();
        let mean = self.rate * course * share / f64::from(self.looks);
        if mean <= 0.0 {
            return Answers::default();
        }
        let responses = Poisson::new(mean).unwrap().sample(rng) as u64;
        let chance = if is_candidate { (self.candidate)(at) } else { (self.stable)(at) };
        let bad = if self.clump <= 1.0 {
            Binomial::new(responses, chance).unwrap().sample(rng)
        } else {
            let clumps = Binomial::new(responses, chance / self.clump).unwrap().sample(rng);
            let size = Geometric::new(1.0 / self.clump).unwrap();
            (0..clumps).map(|_| 1 + size.sample(rng)).sum()
        };
        let mut latency = Latency::default();
        if let Some(times) = &self.times {
            let usual = LogNormal::new(times.p95.ln() - 1.645 * times.sigma, times.sigma).unwrap();
            for _ in 0..responses {
                let mut time = usual.sample(rng);
                if is_candidate {
                    time *= (times.factor)(at);
                    if rng.random_bool(times.stuck.0) {
                        time = times.stuck.1;
                    }
                }
                latency.record_many(Duration::from_secs_f64(time), 1);
            }
        }
        Answers { responses: responses.max(bad), bad, latency }
    }
}
