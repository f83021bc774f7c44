//! What the gate can find, said before a release begins.

use super::bet::{Capital, Tally, chance};
use super::{ALPHA, AT_FIRST, ERRORS, LEAST, MOST, above};
use crate::config::{self, Percent};
use crate::words;

/// What is taken for usual: this part of the limit.
const USUAL: f64 = 0.1;

/// Says in one sentence how soon the gate sends back what is how bad, in a step with this share of traffic; `None` when its limit is too near
/// to 100 %.
///
/// Beside a release that serves it is told in failed requests, in the median and where a tenth of what the limit allows is usual.
pub fn reach(limits: config::Gate, share: Percent) -> Option<String> {
    let limit = limits.errors.fraction().max(LEAST);
    if limit > MOST {
        return None;
    }
    let told = |share: f64| super::percent(share);
    if share == Percent::FULL {
        let shares = [5.0, 20.0].map(|times| (limit * times).clamp(0.001, 1.0));
        let (late, soon) = (alone(limit, shares[0])?, alone(limit, shares[1])?);
        let more = match told(shares[0]) == told(shares[1]) {
            true => String::new(),
            false => format!(", one that fails {} after about {}", told(shares[1]), words::count(soon)),
        };
        return Some(format!(
            "a release that fails {} of its requests goes back after about {} of them{more} (gate: at most {})",
            told(shares[0]),
            words::count(late),
            limits.errors
        ));
    }
    let usual = limit * USUAL;
    let [small, large] = [1.0, 5.0].map(|times| (limit * times).min(1.0));
    let (late, soon) = (beside(share.fraction(), small / usual), beside(share.fraction(), large / usual));
    Some(format!(
        "with {share} of traffic, and where {} of requests fail anyway, a release that fails {} goes back after about {late} failed \
         requests, one that fails {} after about {soon} (gate: at most {})",
        told(usual),
        told(small),
        told(large),
        limits.errors
    ))
}

/// Returns the median of how many bad answers it takes, beside a release that serves, when `times` as many are.
fn beside(share: f64, times: f64) -> u64 {
    let (bet, fair) = (chance(times, share), chance(ERRORS.tolerated, share));
    let gain = (bet / fair).ln() + (1.0 - bet) / bet * ((1.0 - bet) / (1.0 - fair)).ln();
    let goal = (1.0 / ALPHA).ln() + (super::float(ERRORS.bets.len() as u64) / AT_FIRST).ln();
    super::whole((goal / gain).ceil())
}

/// Returns how many answers it takes alone, against the limit, when `share` of them is bad.
fn alone(limit: f64, share: f64) -> Option<u64> {
    (1..1_000_000_u64).find(|of| {
        let bad = super::whole(super::float(*of) * share);
        let mut capital = Capital::new(above(limit).count(), AT_FIRST);
        capital.weigh(limit, above(limit), 1.0, Tally { bad, of: *of });
        capital.is_won()
    })
}

#[cfg(test)]
mod tests {
    use super::super::ABOVE;
    use super::*;

    fn limits(errors: &str) -> config::Gate {
        config::Gate { errors: errors.parse().unwrap(), p95: None }
    }

    fn told(errors: &str, share: &str) -> Option<String> {
        reach(limits(errors), share.parse().unwrap())
    }

    #[test]
    fn a_plan_says_what_can_be_found_beside_the_serving_release() {
        assert_eq!(
            told("1%", "5%").unwrap(),
            "with 5% of traffic, and where 0.1% of requests fail anyway, a release that fails 1% goes back after about 11 failed \
             requests, one that fails 5% after about 5 (gate: at most 1%)"
        );
        assert_eq!(told("100%", "5%"), None);
    }

    #[test]
    fn a_plan_does_not_promise_the_same_twice() {
        let words = told("20%", "100%").unwrap();
        assert!(
            words.starts_with("a release that fails 100% of its requests goes back after about "),
            "{words}"
        );
        assert_eq!(words.matches("100%").count(), 1, "{words}");
        assert_eq!(told("2%", "100%").unwrap().matches("after about").count(), 2);
        assert_eq!(told("100%", "100%"), None);
    }

    #[test]
    fn every_limit_has_a_bet_above_it() {
        assert_eq!(above(0.01).count(), ABOVE.len() + 1);
        for limit in [LEAST, 0.5, 0.7, MOST] {
            assert!(above(limit).count() > 0 && above(limit).all(|bet| bet > limit && bet < 1.0), "{limit}");
        }
    }
}
