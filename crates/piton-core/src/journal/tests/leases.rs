//! One holder at a time, however holders die.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::*;
use crate::journal::{Heartbeat, JournalError};

#[test]
fn a_second_operator_is_refused_with_the_first_ones_name_and_since() {
    let mut opened = Opened::new();
    let (ada, ben) = (Sleeper::start("ada"), Sleeper::start("ben"));
    let before = Timestamp::now();
    opened.journal.acquire("production", &ada.operator).unwrap();
    let error = opened.journal.reopen().unwrap().acquire("production", &ben.operator).unwrap_err();
    let JournalError::Held { environment, holder } = &error else { panic!("{error}") };
    assert_eq!((environment.as_str(), &holder.operator), ("production", &ada.operator));
    assert!(
        (before.as_millisecond()..=Timestamp::now().as_millisecond())
            .contains(&holder.since.as_millisecond())
    );
    let words = error.to_string();
    assert!(words.starts_with(&format!("production is held by ada on {}", ada.operator.host)), "{words}");
    // Another environment is another lease.
    opened.journal.acquire("staging", &ben.operator).unwrap();
}

#[test]
fn a_holder_that_was_killed_is_followed_at_once() {
    let mut opened = Opened::new();
    let (mut ada, ben) = (Sleeper::start("ada"), Sleeper::start("ben"));
    let first = opened.journal.acquire("production", &ada.operator).unwrap();
    assert!(opened.journal.holder("production").unwrap().is_some());
    ada.kill();
    assert!(opened.journal.holder("production").unwrap().is_none());
    let second = opened.journal.acquire("production", &ben.operator).unwrap();
    assert_eq!(second.token, first.token + 1);
}

#[test]
fn a_process_id_that_was_given_to_another_process_holds_nothing() {
    let mut opened = Opened::new();
    let (ada, ben) = (Sleeper::start("ada"), Sleeper::start("ben"));
    let reused = Operator { started: ada.operator.started - 1, ..ada.operator.clone() };
    opened.journal.acquire("production", &reused).unwrap();
    opened.journal.acquire("production", &ben.operator).unwrap();
    let rebooted = Operator { boot: "another boot".into(), ..ada.operator.clone() };
    opened.journal.acquire("staging", &rebooted).unwrap();
    opened.journal.acquire("staging", &ben.operator).unwrap();
}

#[test]
fn a_holder_on_another_machine_is_followed_after_thirty_silent_seconds() {
    let mut opened = Opened::new();
    let ben = Sleeper::start("ben");
    let ada = Operator { user: "ada".into(), host: "elsewhere".into(), ..Operator::this_process() };
    opened.journal.acquire("production", &ada).unwrap();
    let silent_for = |seconds: i64| {
        opened.raw().execute("UPDATE leases SET beat = ?1", [ago(seconds)]).unwrap();
    };
    silent_for(25);
    let mut journal = opened.journal.reopen().unwrap();
    assert!(matches!(journal.acquire("production", &ben.operator), Err(JournalError::Held { .. })));
    assert!(journal.holder("production").unwrap().is_some());
    silent_for(31);
    assert!(journal.holder("production").unwrap().is_none());
    journal.acquire("production", &ben.operator).unwrap();
    assert_eq!(journal.holder("production").unwrap().unwrap().operator, ben.operator);
}

#[test]
fn a_holder_that_slept_through_its_expiry_can_append_nothing() {
    let mut opened = Opened::new();
    let old = opened.lease();
    opened.journal.append(&old, "R1", &created(2)).unwrap();
    opened.raw().execute("UPDATE leases SET beat = ?1", [ago(31)]).unwrap();
    let ben = Sleeper::start("ben");
    let mut other = opened.journal.reopen().unwrap();
    let new = other.acquire("production", &ben.operator).unwrap();
    let error = opened.journal.append(&old, "R1", &started(0, 1)).unwrap_err();
    assert!(matches!(error, JournalError::LeaseLost { environment } if environment == "production"));
    // Giving back what was lost must not take it from the new holder.
    opened.journal.give_back(&old).unwrap();
    other.append(&new, "R1", &started(0, 1)).unwrap();
    assert_eq!(other.entries("R1", 0).unwrap().len(), 2);
}

#[test]
fn a_clock_that_jumped_takes_nothing_from_a_holder_that_lives() {
    let mut opened = Opened::new();
    let ben = Sleeper::start("ben");
    let lease = opened.lease();
    let _heartbeat = opened.journal.keep_alive(&lease).unwrap();
    // To a clock that jumped an hour ahead, every beat so far is an hour old.
    opened.raw().execute("UPDATE leases SET beat = ?1", [ago(3600)]).unwrap();
    let mut other = opened.journal.reopen().unwrap();
    assert!(matches!(other.acquire("production", &ben.operator), Err(JournalError::Held { .. })));
    opened.journal.append(&lease, "R1", &created(1)).unwrap();
}

#[test]
fn what_is_given_back_is_free_and_no_longer_ours() {
    let mut opened = Opened::new();
    let (ada, ben) = (Sleeper::start("ada"), Sleeper::start("ben"));
    let lease = opened.journal.acquire("production", &ada.operator).unwrap();
    opened.journal.give_back(&lease).unwrap();
    assert!(opened.journal.holder("production").unwrap().is_none());
    assert!(matches!(opened.journal.append(&lease, "R1", &created(1)), Err(JournalError::LeaseLost { .. })));
    opened.journal.acquire("production", &ben.operator).unwrap();
}

#[test]
fn a_heartbeat_keeps_the_lease_and_notices_that_it_was_lost() {
    let mut opened = Opened::new();
    let ada = Sleeper::start("ada");
    let lease = opened.journal.acquire("production", &ada.operator).unwrap();
    opened.raw().execute("UPDATE leases SET beat = ?1", [ago(60)]).unwrap();
    let every = Duration::from_millis(20);
    let heartbeat = Heartbeat::start(opened.journal.reopen().unwrap(), lease, every).unwrap();
    // The lease was over; the next beat makes it live again.
    wait_until(|| opened.journal.holder("production").unwrap().is_some());
    assert!(!heartbeat.is_lost());
    opened.raw().execute("UPDATE leases SET token = token + 1", []).unwrap();
    wait_until(|| heartbeat.is_lost());
}

#[test]
fn a_dropped_heartbeat_beats_no_more() {
    let mut opened = Opened::new();
    let lease = opened.lease();
    let heartbeat =
        Heartbeat::start(opened.journal.reopen().unwrap(), lease, Duration::from_millis(5)).unwrap();
    drop(heartbeat);
    // Dropping waits for the thread's end: nothing can come after it.
    let stale = ago(3);
    opened.raw().execute("UPDATE leases SET beat = ?1", [&stale]).unwrap();
    let beat = opened.journal.holder("production").unwrap().unwrap().beat;
    assert_eq!(beat.to_string(), stale);
}

#[test]
fn of_two_that_race_for_a_lease_exactly_one_wins() {
    let opened = Opened::new();
    let sleepers = [Sleeper::start("ada"), Sleeper::start("ben"), Sleeper::start("cyd")];
    for round in 0..20 {
        let environment = format!("race-{round}");
        let start = Barrier::new(sleepers.len());
        let won = std::thread::scope(|scope| {
            let racers: Vec<_> = sleepers
                .iter()
                .map(|sleeper| {
                    let mut journal = opened.journal.reopen().unwrap();
                    let (start, environment) = (&start, environment.as_str());
                    scope.spawn(move || {
                        start.wait();
                        journal.acquire(environment, &sleeper.operator)
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).filter(Result::is_ok).count()
        });
        assert_eq!(won, 1);
    }
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited for too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_lease_that_is_handed_over_is_never_free() {
    let mut opened = Opened::new();
    let (mut ada, ben, cleo) = (Sleeper::start("ada"), Sleeper::start("ben"), Sleeper::start("cleo"));
    let first = opened.journal.acquire("production", &ada.operator).unwrap();
    let wrong = opened.journal.take_over("production", first.token - 1, &cleo.operator);
    assert!(matches!(wrong, Err(JournalError::Held { .. })), "the token is what gives the right");
    let second = opened.journal.take_over("production", first.token, &ben.operator).unwrap();
    assert!(opened.journal.is_ours(&second).unwrap() && !opened.journal.is_ours(&first).unwrap());
    let appended = opened.journal.append(&first, "R1", &created(2));
    assert!(matches!(appended, Err(JournalError::LeaseLost { .. })));
    opened.journal.give_back(&first).unwrap();
    assert_eq!(opened.journal.holder("production").unwrap().unwrap().operator, ben.operator);
    // Who hands over may have died, and somebody else may have come first.
    opened.journal.give_back(&second).unwrap();
    let third = opened.journal.acquire("production", &ada.operator).unwrap();
    ada.kill();
    opened.journal.acquire("production", &cleo.operator).unwrap();
    let late = opened.journal.take_over("production", third.token, &ben.operator);
    assert!(matches!(late, Err(JournalError::Held { .. })));
}
