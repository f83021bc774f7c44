//! Which backups stay.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// What keeps a backup; one that several rules keep counts for each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// It is no older than this.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub keep: Duration,
    /// It is one of so many latest.
    #[serde(default)]
    pub last: u32,
    /// It is the latest of its day, one of so many days that have any.
    #[serde(default)]
    pub daily: u32,
    /// It is the latest of its week, one of so many weeks, from Monday, that have any.
    #[serde(default)]
    pub weekly: u32,
}

impl Retention {
    /// Tells whether a backup is young enough to stay.
    pub fn is_young(&self, taken: Timestamp, now: Timestamp) -> bool {
        !is_older(taken, self.keep, now)
    }

    /// Returns which of these proved backups stay however old they are; what is not proved counts for none that is.
    pub fn counted(&self, proved: &[Timestamp], zone: &TimeZone) -> BTreeSet<Timestamp> {
        let mut latest_first = proved.to_vec();
        latest_first.sort_unstable();
        latest_first.reverse();
        let last = latest_first.iter().copied().take(self.last as usize);
        let day = |taken: Timestamp| taken.to_zoned(zone.clone()).date();
        let days = firsts(&latest_first, self.daily, day);
        let weeks = firsts(&latest_first, self.weekly, |taken| {
            let week = day(taken).iso_week_date();
            (week.year(), week.week())
        });
        last.chain(days).chain(weeks).collect()
    }

    /// Says it in the plan, such as `14d, the last 3, 30 daily`.
    pub fn words(&self) -> String {
        let mut words = vec![crate::config::format_duration(self.keep)];
        words.extend((self.last > 0).then(|| format!("the last {}", self.last)));
        words.extend((self.daily > 0).then(|| format!("{} daily", self.daily)));
        words.extend((self.weekly > 0).then(|| format!("{} weekly", self.weekly)));
        words.join(", ")
    }
}

/// Tells whether more time than this has passed since then.
pub(crate) fn is_older(then: Timestamp, keep: Duration, now: Timestamp) -> bool {
    let age: SignedDuration = now.duration_since(then);
    Duration::try_from(age).is_ok_and(|age| age > keep)
}

/// Returns the first of each group, of so many groups.
fn firsts<K: PartialEq>(sorted: &[Timestamp], count: u32, group: impl Fn(Timestamp) -> K) -> Vec<Timestamp> {
    let mut firsts: Vec<Timestamp> = Vec::new();
    for &taken in sorted {
        if firsts.len() == count as usize {
            break;
        }
        if firsts.last().is_none_or(|&first| group(first) != group(taken)) {
            firsts.push(taken);
        }
    }
    firsts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(retention: Retention, zone: &str) -> Vec<String> {
        let taken = [
            "2026-03-02T09:00:00Z", // Monday
            "2026-03-06T22:30:00Z",
            "2026-03-08T23:30:00Z", // Sunday; in Nairobi Monday the 9th
            "2026-03-11T01:00:00Z",
            "2026-03-11T23:00:00Z",
            "2026-03-12T08:00:00Z",
        ];
        let taken = taken.map(|text| text.parse().unwrap());
        let zone = TimeZone::get(zone).unwrap();
        retention.counted(&taken, &zone).iter().map(|taken| taken.to_string()[5..16].to_owned()).collect()
    }

    const NONE: Retention = Retention { keep: Duration::ZERO, last: 0, daily: 0, weekly: 0 };

    #[test]
    fn what_any_rule_keeps_stays() {
        assert!(kept(NONE, "UTC").is_empty());
        let (now, hour) = ("2026-03-12T12:00:00Z".parse().unwrap(), Duration::from_secs(3600));
        let day = Retention { keep: 24 * hour, ..NONE };
        assert!(day.is_young("2026-03-11T12:00:00Z".parse().unwrap(), now));
        assert!(!day.is_young("2026-03-11T11:59:59Z".parse().unwrap(), now));
        assert_eq!(kept(Retention { last: 1, ..NONE }, "UTC"), ["03-12T08:00"]);
        assert_eq!(
            kept(Retention { daily: 3, ..NONE }, "UTC"),
            ["03-08T23:30", "03-11T23:00", "03-12T08:00"],
            "days without a backup do not count"
        );
        assert_eq!(kept(Retention { weekly: 5, ..NONE }, "UTC"), ["03-08T23:30", "03-12T08:00"]);
        let all = Retention { last: 4, daily: 1, weekly: 2, ..NONE };
        assert_eq!(kept(all, "UTC"), ["03-08T23:30", "03-11T01:00", "03-11T23:00", "03-12T08:00"]);
    }

    #[test]
    fn days_and_weeks_are_those_of_the_place() {
        let weekly = Retention { weekly: 5, ..NONE };
        assert_eq!(kept(weekly, "Africa/Nairobi"), ["03-06T22:30", "03-12T08:00"]);
    }
}
