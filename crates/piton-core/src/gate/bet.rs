//! Bets against a release, whose winnings say how sure it is that something is wrong.
//!
//! A bet is fair, or loses in the mean, as long as the release is what it should be. By Ville's inequality the chance that a
//! capital of 1 *ever* grows to 1/α is then at most α, however often one looks (Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform,
//! nonparametric, nonasymptotic confidence sequences", 2021; Waudby-Smith, Ramdas, "Estimating means of bounded random variables by
//! betting", 2023).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long the parts of time are by which it is told whether bad answers come singly or in clumps.
const CLUMP: Duration = Duration::from_secs(10);
/// A look over more than this tells nothing of clumps: Piton was away.
pub(super) const GAP: Duration = Duration::from_mins(1);
/// How many single bad answers, and how many parts of time with as many as usual, are taken for seen before any is: neither the first clump nor
/// a few uneven parts shall weigh alone.
const SINGLES: f64 = 3.0;
const PARTS: f64 = 10.0;
/// What is told of clumps is forgotten behind so many bad answers: an outage that is over is none.
const MEMORY: f64 = 200.0;
/// No clump is taken for larger: an outage begins and ends, and is none.
const LARGEST: f64 = 50.0;
/// No bet is written down larger: it has been won long before, and what is over shall not weigh for hours.
const MOST: f64 = 1e4;

/// Bad answers among answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) bad: u64,
    pub(super) of: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Tally) {
        self.bad += other.bad;
        self.of += other.of;
    }

    /// Returns the bad ones' share, 0 without answers.
    pub(super) fn share(self) -> f64 {
        if self.of == 0 { 0.0 } else { float(self.bad) / float(self.of) }
    }

    fn good(self) -> u64 {
        self.of.saturating_sub(self.bad)
    }
}

/// What is bet on, and from how many times as bad on a release counts as worse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Odds {
    pub(super) tolerated: f64,
    pub(super) bets: &'static [f64],
}

/// A capital, spread over bets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Capital(Vec<f64>);

impl Capital {
    /// Spreads a first part of the capital of 1 evenly over `bets`.
    pub(super) fn new(bets: usize, part: f64) -> Self {
        let mut new = Self(vec![0.0; bets]);
        new.add(part);
        new
    }

    /// Spreads a further part of the capital evenly: a bet that was lost long ago has something to win with again.
    pub(super) fn add(&mut self, part: f64) {
        let each = part / float(self.0.len().max(1) as u64);
        self.0.iter_mut().for_each(|wealth| *wealth += each);
    }

    pub(super) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    /// Tells whether so much was won that it is no chance.
    pub(super) fn is_won(&self) -> bool {
        self.sum() >= 1.0 / super::ALPHA
    }

    /// Lets each bet grow by its factor, told as a logarithm.
    fn grow(&mut self, growth: impl Iterator<Item = f64>) {
        for (wealth, growth) in self.0.iter_mut().zip(growth) {
            // What is lost stays lost: 0 times infinity is not a number.
            if *wealth > 0.0 {
                *wealth = (*wealth * growth.exp()).min(MOST);
            }
        }
    }

    /// Bets that the candidate has more than its share of the bad answers.
    ///
    /// A bad answer is a coin that falls on the candidate or the stable slot; `share` is the candidate's share of all
    /// answers, known before. Good answers cost nothing. Clumps count as `clump` answers less.
    pub(super) fn toss(&mut self, odds: Odds, share: f64, clump: f64, candidate: u64, stable: u64) {
        if candidate == 0 && stable == 0 || !(share > 0.0 && share < 1.0) {
            return;
        }
        let fair = chance(odds.tolerated, share);
        let (ours, theirs) = (float(candidate) / clump, float(stable) / clump);
        self.grow(odds.bets.iter().map(|times| {
            let bet = chance(*times, share);
            ours * (bet / fair).ln() + theirs * ((1.0 - bet) / (1.0 - fair)).ln()
        }));
    }

    /// Bets that the share of bad answers is each of `bets`, and not `limit`.
    pub(super) fn weigh(&mut self, limit: f64, bets: impl Iterator<Item = f64>, clump: f64, tally: Tally) {
        let (bad, good) = (float(tally.bad) / clump, float(tally.good()) / clump);
        self.grow(bets.map(|bet| bad * (bet / limit).ln() + good * ((1.0 - bet) / (1.0 - limit)).ln()));
    }

    /// Returns how many more good answers it takes until the capital has grown to `goal`.
    pub(super) fn good_until(
        &self,
        goal: f64,
        limit: f64,
        bets: &(impl Iterator<Item = f64> + Clone),
        clump: f64,
    ) -> Option<u64> {
        let reaches = |of: u64| {
            let mut then = self.clone();
            then.weigh(limit, bets.clone(), clump, Tally { bad: 0, of });
            then.sum() >= goal
        };
        let enough = (0..24).map(|power| 1_u64 << power).find(|of| reaches(*of))?;
        let (mut below, mut above) = (0, enough);
        while above - below > 1 {
            let middle = u64::midpoint(below, above);
            if reaches(middle) { above = middle } else { below = middle }
        }
        Some(above)
    }
}

/// Returns the chance that a bad answer is the candidate's when it is `times` as bad as the stable slot.
pub(super) fn chance(times: f64, share: f64) -> f64 {
    times * share / (times * share + 1.0 - share)
}

/// Whether the stable slot's bad answers come singly or in clumps.
///
/// One user's repeated failures are one observation, not many. Told by how much neighbouring parts of time differ: a day's course does not
/// count as clumps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Clumps {
    began: Option<Duration>,
    now: u64,
    before: Option<u64>,
    /// Half the squares of the differences, and what they would sum up to if answers were bad singly.
    squares: f64,
    singles: f64,
    parts: f64,
}

impl Clumps {
    /// Takes in the stable slot's bad answers of the time from `from` to `to`.
    pub(super) fn see(&mut self, from: Duration, to: Duration, bad: u64) {
        if to.saturating_sub(from) > GAP {
            self.begin_anew();
            return;
        }
        self.now += bad;
        if to.saturating_sub(*self.began.get_or_insert(from)) < CLUMP {
            return;
        }
        if let Some(before) = self.before {
            let (apart, singles) = (float(self.now.abs_diff(before)), float(self.now + before) / 2.0);
            self.squares += (apart * apart / 2.0).min(LARGEST * singles);
            self.singles += singles;
            self.parts += 1.0;
            let kept = (MEMORY / self.singles).min(1.0);
            (self.squares, self.singles) = (self.squares * kept, self.singles * kept);
            self.parts *= kept;
        }
        (self.before, self.now, self.began) = (Some(self.now), 0, Some(to));
    }

    /// Compares what comes now with nothing that was before: the stable slot has another share of the traffic.
    pub(super) fn begin_anew(&mut self) {
        (self.began, self.now, self.before) = (None, 0, None);
    }

    /// Returns how many bad answers are one observation, 1 at least.
    pub(super) fn size(&self) -> f64 {
        let usual = PARTS * self.singles / self.parts.max(1.0);
        let prior = SINGLES.max(usual);
        ((self.squares + prior) / (self.singles + prior)).max(1.0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of answers are far below 2^52")]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
