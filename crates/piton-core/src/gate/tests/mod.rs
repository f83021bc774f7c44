mod traffic;

use std::time::Duration;

use super::*;
use traffic::{End, Scene, Times};

const SECOND: Duration = Duration::from_secs(1);

fn limits(errors: &str, p95: Option<u64>) -> config::Gate {
    config::Gate { errors: errors.parse().unwrap(), p95: p95.map(Duration::from_millis) }
}

fn answers(responses: u64, bad: u64) -> Answers {
    Answers { responses, bad, latency: Latency::default() }
}

fn timed(times: &[(u64, u64)]) -> Answers {
    let mut latency = Latency::default();
    for (millis, count) in times {
        latency.record_many(Duration::from_millis(*millis), *count);
    }
    Answers { responses: latency.count(), bad: 0, latency }
}

fn gate(share: &str) -> Gate {
    let mut gate = Gate::new(limits("1%", None), Duration::ZERO);
    gate.enter_step(share.parse().unwrap());
    gate
}

fn seen(share: &str, candidate: (u64, u64), stable: (u64, u64)) -> Gate {
    let mut gate = gate(share);
    gate.see(SECOND, &answers(candidate.0, candidate.1), &answers(stable.0, stable.1));
    gate
}

/// Judges the same scene with several seeds.
fn ends(scene: &Scene, limits: config::Gate, seeds: u64) -> Vec<End> {
    (0..seeds).map(|seed| scene.run(&mut Gate::new(limits, scene.length()), seed)).collect()
}

fn went_back(ends: &[End]) -> usize {
    ends.iter().filter(|end| end.back).count()
}

/// Sums over all ways in which `n` coins can fall, each with its chance.
fn expected(n: u32, chance: f64, worth: impl Fn(u32) -> f64) -> f64 {
    let (mut sum, mut ways) = (0.0, 1.0_f64);
    for hits in 0..=n {
        if hits > 0 {
            ways *= f64::from(n - hits + 1) / f64::from(hits);
        }
        let rest = i32::try_from(n - hits).unwrap();
        let chance = ways * chance.powi(i32::try_from(hits).unwrap()) * (1.0 - chance).powi(rest);
        sum += chance * worth(hits);
    }
    sum
}

#[test]
fn no_bet_is_better_than_fair() {
    // By exact enumeration of all outcomes: of what is as bad as is tolerated nobody expects to win.
    for (odds, share) in [(ERRORS, 0.05), (P95, 0.25), (P99, 0.5)] {
        for (n, times) in [(1, 1.0), (7, 1.0), (30, 0.5)] {
            let expected = expected(n, bet::chance(odds.tolerated * times, share), |hits| {
                let mut capital = Capital::new(odds.bets.len(), 1.0);
                capital.toss(odds, share, 1.0, hits.into(), (n - hits).into());
                capital.sum()
            });
            // Once, and as bad as is tolerated, it is fair; a bet that is won is not let grow without end.
            assert!(expected < 1.0 + 1e-9 && (n > 1 || expected > 1.0 - 1e-9), "{share}, {n}: {expected}");
        }
    }
    for (limit, n) in [(0.01_f64, 40_u32), (0.05, 60), (0.5, 20)] {
        let bets = |bets: &dyn Fn(&mut Capital, Tally)| {
            expected(n, limit, |hits| {
                let mut capital = Capital::new(5, 1.0);
                bets(&mut capital, Tally { bad: hits.into(), of: n.into() });
                capital.sum()
            })
        };
        let kept = bets(&|capital, tally| capital.weigh(limit, below(limit), 1.0, tally));
        let over = bets(&|capital, tally| capital.weigh(limit, above(limit).chain(above(limit)), 1.0, tally));
        assert!(kept < 1.0 + 1e-9 && over < 1.0 + 1e-9, "limit {limit}, n {n}: {kept}, {over}");
    }
}

#[test]
fn five_percent_errors_go_back_after_a_few_bad_answers() {
    assert!(matches!(seen("5%", (200, 10), (4000, 4)).verdict(false), Verdict::RollBack(_)));
    assert!(matches!(seen("5%", (3, 3), (60, 0)).verdict(false), Verdict::RollBack(_)));
    assert!(matches!(seen("100%", (200, 14), (0, 0)).verdict(false), Verdict::RollBack(_)));
}

#[test]
fn a_verdict_says_what_it_rests_on() {
    let Verdict::RollBack(why) = seen("5%", (200, 10), (4000, 4)).verdict(false) else { panic!() };
    let wanted =
        "10 of 200 bad (5%), the serving release 4 of 4000 (0.1%): more than 1.5 times as many, 43,117 to 1";
    assert_eq!(why, wanted);
    let Verdict::Hold(why) = seen("5%", (40, 0), (4000, 4)).verdict(false) else { panic!() };
    assert!(why.starts_with("0 of 40 bad answers, limit 1%, not yet proved: it takes about 3"), "{why}");
    let mut slow = gate("50%");
    slow.see(SECOND, &timed(&[(100, 1000)]), &timed(&[(100, 940), (200, 60)]));
    slow.see(SECOND, &timed(&[(100, 150), (400, 50)]), &timed(&[(100, 190), (200, 10)]));
    let Verdict::RollBack(why) = slow.verdict(false) else { panic!("{:?}", slow.verdict(false)) };
    assert!(why.starts_with("50 of 200 slower than 25"), "{why}");
}

#[test]
fn one_bad_answer_is_not_a_verdict() {
    assert!(matches!(seen("5%", (60, 1), (1000, 0)).verdict(true), Verdict::Hold(_)));
    assert!(matches!(seen("25%", (2000, 2), (6000, 5)).verdict(true), Verdict::Continue(_)));
}

#[test]
fn a_limit_has_to_be_proved_in_each_step() {
    assert!(matches!(seen("5%", (0, 0), (0, 0)).verdict(true), Verdict::Hold(_)));
    let Verdict::Hold(why) = seen("5%", (100, 0), (5000, 0)).verdict(true) else { panic!() };
    let more: u64 =
        why.split("about ").nth(1).unwrap().split(' ').next().unwrap().replace(',', "").parse().unwrap();
    let mut gate = seen("5%", (100 + more, 0), (5000, 0));
    assert!(matches!(gate.verdict(true), Verdict::Continue(_)), "{why}");
    assert!(matches!(seen("5%", (99 + more, 0), (5000, 0)).verdict(true), Verdict::Hold(_)));
    assert!(matches!(gate.verdict(false), Verdict::Hold(_)));
    gate.enter_step("25%".parse().unwrap());
    assert!(matches!(gate.verdict(true), Verdict::Hold(_)));
}

#[test]
fn who_is_left_with_a_failing_release_does_not_wait() {
    let Verdict::Continue(why) = seen("50%", (600, 0), (200, 200)).verdict(false) else { panic!() };
    assert!(why.contains("the serving release fails: 200 of 200 bad"), "{why}");
    let few = seen("50%", (40, 0), (200, 200));
    assert!(matches!(few.verdict(false), Verdict::Hold(_)), "too little is known of the new one");
    let both = seen("50%", (60, 60), (200, 200));
    assert!(matches!(both.verdict(false), Verdict::Hold(_)) && both.both_fail());
}

#[test]
fn a_shared_outage_holds() {
    let gate = seen("5%", (200, 60), (4000, 1200));
    let Verdict::Hold(why) = gate.verdict(true) else { panic!() };
    assert!(why.contains("the serving release too: 1200 of 4000"), "{why}");
}

#[test]
fn who_goes_on_after_a_shared_outage_is_judged_by_what_comes_then() {
    let mut gate = seen("5%", (200, 60), (4000, 1200));
    for _ in 0..100 {
        // The serving release has made up for it first, having more of the traffic.
        gate.see(SECOND, &answers(5, 0), &answers(95, 0));
    }
    assert!(!gate.absolutes().any(|(absolute, ..)| absolute.stable.is_won()));
    gate.enter_step(Percent::FULL);
    gate.see(SECOND, &answers(10, 0), &Answers::default());
    assert!(matches!(gate.verdict(false), Verdict::Hold(_)), "{:?}", gate.verdict(false));
}

#[test]
fn what_two_releases_break_alike_ends_no_step_early() {
    // However long ago a part of the capital came in: the serving release has most of the answers and is sure first.
    for after in [20.0, 100.0, 700.0, 1790.0] {
        for (share, seed) in [("5%", 1), ("25%", 2)] {
            let scene = Scene { steps: vec![(share, Duration::from_hours(1))], ..Scene::usual(100.0) };
            let mut gate = Gate::new(limits("1%", None), scene.length());
            let before = Scene { steps: vec![(share, Duration::from_secs_f64(after))], ..scene.clone() };
            before.run(&mut gate, seed);
            let outage = Scene {
                stable: |_| 0.5,
                candidate: |_| 0.5,
                looks: 4,
                steps: vec![(share, Duration::from_mins(3))],
                ..scene
            };
            let end = outage.run(&mut gate, seed);
            assert!(!end.back && !end.early, "{after}, {share}: {end:?}");
        }
    }
}

#[test]
fn after_a_shared_outage_the_next_step_judges_again() {
    let mut gate = seen("5%", (200, 60), (4000, 1200));
    gate.enter_step("100%".parse().unwrap());
    gate.see(SECOND, &answers(400, 0), &answers(0, 0));
    assert!(matches!(gate.verdict(true), Verdict::Continue(_)), "{:?}", gate.verdict(true));
    gate.see(SECOND, &answers(200, 100), &answers(0, 0));
    assert!(matches!(gate.verdict(true), Verdict::RollBack(_)));
}

#[test]
fn a_second_may_be_parted_in_any_way_and_the_state_stored_between() {
    let mut whole = Gate::new(limits("2%", Some(500)), Duration::from_hours(1));
    let mut parts = whole.clone();
    for gate in [&mut whole, &mut parts] {
        gate.enter_step("50%".parse().unwrap());
    }
    let timed = |bad: u64, slow: u64| Answers { bad, ..timed(&[(100, 37 - slow), (900, slow)]) };
    let sums = |gate: &Gate| {
        let (errors, p95) = (&gate.error_limit, gate.p95_limit.as_ref().unwrap());
        let ours = [&gate.errors.capital, &gate.p95.capital, &errors.candidate, &errors.kept, &p95.kept];
        ours.into_iter()
            .chain([&gate.serving, &errors.stable, &p95.stable])
            .map(Capital::sum)
            .collect::<Vec<_>>()
    };
    for second in 0..900_u64 {
        let (bad, slow) = (second % 7 / 3, second % 3);
        whole.see(SECOND, &timed(bad, slow), &timed(bad, slow));
        for part in 0..4 {
            let candidate = match part {
                0 => answers(bad, bad),
                2 => Answers { responses: 37 - bad, ..timed(0, slow) },
                _ => Answers::default(),
            };
            let stable = if part == 3 { timed(bad, slow) } else { Answers::default() };
            parts.see(SECOND / 4, &candidate, &stable);
            let stored = serde_json::to_string(&parts).unwrap();
            parts = serde_json::from_str(&stored).unwrap();
        }
        for (one, other) in sums(&whole).into_iter().zip(sums(&parts)) {
            // What has won all it may depends on what came first.
            assert!(one > 1000.0 || (one / other - 1.0).abs() < 1e-6, "{second}: {one} and {other}");
        }
        assert_eq!(whole.verdict(false), parts.verdict(false));
    }
    assert!(whole.is_warm && whole.p95.slow.is_some() && whole.p95.stable.bad > 100);
}

#[test]
fn stored_state_is_the_same_to_the_last_digit() {
    let mut gate = seen("5%", (217, 3), (3999, 11));
    for _ in 0..40 {
        gate.see(SECOND / 3, &timed(&[(31, 7), (57, 1)]), &timed(&[(33, 70), (61, 2)]));
        let stored = serde_json::to_string(&gate).unwrap();
        assert_eq!(serde_json::from_str::<Gate>(&stored).unwrap(), gate);
    }
}

#[test]
fn a_release_that_is_no_worse_stays_at_any_rate() {
    for (rate, seeds) in [(1.0, 6), (10.0, 4), (100.0, 3), (1000.0, 1)] {
        let ends = ends(&Scene::usual(rate), limits("1%", None), seeds);
        assert_eq!(went_back(&ends), 0, "{rate}: {ends:?}");
        // At 1 request a second the first step shows too little: 0.05 × 7,200 answers are 360.
        assert!(rate < 10.0 || ends.iter().all(|end| end.held == 0), "{rate}: {ends:?}");
    }
}

#[test]
fn an_outage_that_hits_both_sends_nothing_back() {
    fn outage(at: f64) -> f64 {
        if (4500.0..4800.0).contains(&at) { 0.5 } else { 0.001 }
    }
    let scene = Scene { stable: outage, candidate: outage, ..Scene::usual(100.0) };
    for end in ends(&scene, limits("1%", None), 3) {
        // When it is over the step goes on, and ends.
        assert!(!end.back && !end.early && end.held == 0, "{end:?}");
    }
}

#[test]
fn a_day_and_another_share_than_configured_send_nothing_back() {
    let scene = Scene { day: 0.8, given: |share| share * 1.4, ..Scene::usual(100.0) };
    let ends = ends(&scene, limits("1%", None), 3);
    assert_eq!(went_back(&ends), 0, "{ends:?}");
    let mut gate = Gate::new(limits("1%", None), scene.length());
    Scene { steps: vec![("5%", Duration::from_mins(10))], ..scene }.run(&mut gate, 1);
    assert!(gate.departs().unwrap().ends_with("of the answers, not 5%"), "{:?}", gate.departs());
}

/// What a bet on the configured share would say of an innocent release that has more of the traffic.
#[test]
fn the_share_is_the_real_one() {
    let scene = Scene { given: |_| 0.1, stable: |_| 0.01, candidate: |_| 0.01, ..Scene::usual(100.0) };
    let scene = Scene { steps: vec![("5%", Duration::from_hours(2))], ..scene };
    let mut gate = Gate::new(limits("5%", None), scene.length());
    assert!(!scene.run(&mut gate, 1).back);
    let mut configured = Capital::new(ERRORS.bets.len(), 1.0);
    configured.toss(ERRORS, 0.05, 1.0, gate.errors.candidate.bad, gate.errors.stable.bad);
    assert!(configured.sum() > 1.0 / ALPHA, "{}", configured.sum());
    assert!(gate.errors.capital.sum() < 1.0, "{}", gate.errors.capital.sum());
}

#[test]
fn clumps_of_bad_answers_count_as_one() {
    let scene = Scene { clump: 8.0, ..Scene::usual(100.0) };
    let (mut back, mut without) = (0, 0);
    for seed in 0..6 {
        let mut gate = Gate::new(limits("1%", None), scene.length());
        let end = scene.run(&mut gate, seed);
        back += usize::from(end.back);
        let size = gate.errors.clumps.size();
        assert!(size > 5.0 || end.back, "{size}");
        let mut singly = SinglyBet { gate: Gate::new(limits("1%", None), scene.length()) };
        without += usize::from(scene.run(&mut singly, seed).back);
    }
    // The first clump may fall on the release, before any has shown on the other.
    assert!(back <= 1 && without >= 4, "{back} and {without}");
}

/// The gate without the guard against clumps.
struct SinglyBet {
    gate: Gate,
}

impl traffic::Judge for SinglyBet {
    fn enter(&mut self, share: Percent) {
        self.gate.enter_step(share);
    }

    fn judge(&mut self, time: Duration, candidate: &Answers, stable: &Answers, passed: bool) -> Verdict {
        self.gate.errors.clumps = Clumps::default();
        self.gate.see(time, candidate, stable);
        self.gate.verdict(passed)
    }
}

#[test]
fn what_is_slow_while_it_warms_up_is_forgiven() {
    let times =
        Times { p95: 0.25, sigma: 0.5, factor: |at| if at < 100.0 { 4.0 } else { 1.0 }, stuck: (0.0, 0.0) };
    let warming = Scene { times: Some(times), ..Scene::usual(20.0) };
    let scene = Scene { steps: vec![("5%", Duration::from_mins(30))], ..warming };
    let ends = ends(&scene, limits("1%", Some(500)), 4);
    assert_eq!(went_back(&ends), 0, "{ends:?}");
    // One that stays slow does go back.
    let times = Times { factor: |_| 2.0, ..scene.times.clone().unwrap() };
    let slow = Scene { times: Some(times), ..scene };
    let ends = (0..4).map(|seed| slow.run(&mut Gate::new(limits("1%", None), slow.length()), seed));
    assert!(ends.clone().all(|end| end.back), "{:?}", ends.collect::<Vec<_>>());
}

#[test]
fn what_nobody_feels_sends_nothing_back() {
    let times = Times { p95: 0.006, sigma: 0.5, factor: |_| 2.0, stuck: (0.0, 0.0) };
    let scene = Scene { times: Some(times), ..Scene::usual(100.0) };
    let scene = Scene { steps: vec![("5%", Duration::from_mins(10))], ..scene };
    let ends = ends(&scene, limits("1%", None), 2);
    assert!(ends.iter().all(|end| !end.back && end.held == 0), "{ends:?}");
}

#[test]
fn what_goes_wrong_after_hours_is_found() {
    let scene = Scene { candidate: |at| if at < 6.0 * 3600.0 { 0.001 } else { 0.02 }, ..Scene::usual(100.0) };
    let ends = ends(&scene, limits("1%", None), 3);
    for end in ends {
        assert!(end.back && end.at > 6.0 * 3600.0 && end.at < 6.1 * 3600.0, "{end:?}");
    }
    // Where nothing is left to compare with, too, and later than was planned.
    fn late(at: f64) -> f64 {
        if at < 6.83 * 3600.0 { 0.001 } else { 0.05 }
    }
    let alone = Scene { candidate: late, steps: vec![("100%", Duration::from_hours(9))], ..scene };
    for planned in [9, 1] {
        let end = alone.run(&mut Gate::new(limits("1%", None), Duration::from_hours(planned)), 1);
        assert!(end.back && end.at > 6.83 * 3600.0 && end.at < 6.9 * 3600.0, "{end:?}");
    }
}

#[test]
fn a_limit_that_the_serving_release_breaks_as_well_sends_nothing_back() {
    let scene = Scene { stable: |_| 0.03, candidate: |_| 0.03, ..Scene::usual(50.0) };
    let scene = Scene { steps: vec![("50%", Duration::from_hours(1))], ..scene };
    let ends = ends(&scene, limits("1%", None), 3);
    assert!(ends.iter().all(|end| !end.back && end.held == 1), "{ends:?}");
}

#[test]
fn a_bad_release_hurts_few() {
    // The figures with many seeds are in bench/gate.
    for (candidate, most) in [((|_| 0.01) as fn(f64) -> f64, 20), (|_| 0.05, 11), (|_| 1.0, 4)] {
        let scene = Scene { candidate, looks: 10, ..Scene::usual(100.0) };
        for end in ends(&scene, limits("1%", None), 4) {
            assert!(end.back && end.bad <= most, "{most}: {end:?}");
        }
    }
}
