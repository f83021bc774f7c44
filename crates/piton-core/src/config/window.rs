//! The hours in which a release may start.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use super::values::{ValueError, serde_as_text};

const DAYS: [(&str, Weekday); 7] = [
    ("Monday", Weekday::Monday),
    ("Tuesday", Weekday::Tuesday),
    ("Wednesday", Weekday::Wednesday),
    ("Thursday", Weekday::Thursday),
    ("Friday", Weekday::Friday),
    ("Saturday", Weekday::Saturday),
    ("Sunday", Weekday::Sunday),
];

/// The hours of the week in which a release may start: `Mon-Thu 10:00-12:00 America/New_York`.
///
/// Hours are those on the clocks of the time zone, so that 10:00 stays 10:00 when the clocks change. A window whose end is
/// not after its start ends on the next day.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    text: String,
    days: Vec<Weekday>,
    from: Time,
    to: Time,
    zone: TimeZone,
}

impl Window {
    /// Tells whether the window is open at this time.
    pub fn contains(&self, now: Timestamp) -> bool {
        self.openings(now).any(|(opens, closes)| opens <= now && now < closes)
    }

    /// Returns when the window is open next: `now` itself when it is open.
    ///
    /// `None` only at the end of the calendar.
    pub fn next_open(&self, now: Timestamp) -> Option<Timestamp> {
        self.openings(now).find(|&(_, closes)| now < closes).map(|(opens, _)| opens.max(now))
    }

    /// Lists opening and closing times in order, from the day before `now`, over more than two weeks: one opening can fall
    /// whole into the hour that a clock change leaves out.
    fn openings(&self, now: Timestamp) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = now.to_zoned(self.zone.clone()).date();
        (-1..=15).filter_map(move |days| {
            let date = today.checked_add(days.days()).ok()?;
            if !self.days.contains(&date.weekday()) {
                return None;
            }
            let closing_date = if self.from < self.to { date } else { date.tomorrow().ok()? };
            let (opens, closes) = (self.instant(date, self.from)?, self.instant(closing_date, self.to)?);
            (opens < closes).then_some((opens, closes))
        })
    }

    fn instant(&self, date: Date, time: Time) -> Option<Timestamp> {
        self.zone.to_timestamp(date.to_datetime(time)).ok()
    }
}

impl FromStr for Window {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |what: String| {
            ValueError::new(format!(
                "{what}: a window is days, hours and a time zone, like \"Tue 10:00-12:00 America/New_York\" or \"Mon-Thu 09:00-16:00 UTC\""
            ))
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        let [days, hours, zone] = words[..] else {
            return Err(wrong(format!("`{text}` is not a window")));
        };
        let days = parse_days(days).ok_or_else(|| wrong(format!("`{days}` is not a list of days")))?;
        let (from, to) =
            parse_hours(hours).ok_or_else(|| wrong(format!("`{hours}` is not a pair of hours")))?;
        let zone = TimeZone::get(zone).map_err(|_| wrong(format!("`{zone}` is not a time zone")))?;
        Ok(Self { text: words.join(" "), days, from, to, zone })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

serde_as_text!(Window);

/// Reads `Tue`, `Tuesday`, `Mon-Thu`, `Fri-Mon` or `Mon,Wed,Fri`.
fn parse_days(text: &str) -> Option<Vec<Weekday>> {
    let is =
        |name: &str, full: &str| name.eq_ignore_ascii_case(full) || name.eq_ignore_ascii_case(&full[..3]);
    let day = |name: &str| DAYS.iter().find(|(full, _)| is(name, full)).map(|&(_, day)| day);
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        days.extend(first.cycle_forward().take(7).take(usize::from(first.until(last).unsigned_abs()) + 1));
    }
    Some(days)
}

/// Reads `10:00-12:00`; `24:00` is the end of the day.
fn parse_hours(text: &str) -> Option<(Time, Time)> {
    let time = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let digits = |s: &str| s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(hour) || !digits(minute) {
            return None;
        }
        Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
    };
    let (from, to) = text.split_once('-')?;
    let to = if to == "24:00" { Time::midnight() } else { time(to)? };
    let from = time(from)?;
    // `10:00-10:00` is a slip rather than a whole day, which is `00:00-24:00`.
    (from != to || from == Time::midnight()).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(text: &str) -> Window {
        text.parse().unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_opens_and_closes() {
        let tuesday = window("Tue 10:00-12:00 America/New_York");
        // 2025-11-11 is a Tuesday; New York is five hours behind.
        assert!(!tuesday.contains(at("2025-11-11T14:59:59Z")));
        assert!(tuesday.contains(at("2025-11-11T15:00:00Z")));
        assert!(!tuesday.contains(at("2025-11-11T17:00:00Z")));
        assert_eq!(tuesday.next_open(at("2025-11-11T15:30:00Z")), Some(at("2025-11-11T15:30:00Z")));
        assert_eq!(tuesday.next_open(at("2025-11-11T17:00:00Z")), Some(at("2025-11-18T15:00:00Z")));
    }

    #[test]
    fn ten_stays_ten_when_the_clocks_change() {
        let sunday = window("Sun 10:00-12:00 America/New_York");
        assert_eq!(sunday.next_open(at("2025-10-27T00:00:00Z")), Some(at("2025-11-02T15:00:00Z")));
        assert_eq!(sunday.next_open(at("2025-10-20T00:00:00Z")), Some(at("2025-10-26T14:00:00Z")));
    }

    #[test]
    fn an_hour_that_the_clocks_leave_out_is_no_window() {
        // On 2025-03-09 New York goes from 02:00 to 03:00.
        let gap = window("Sun 02:00-03:00 America/New_York");
        assert_eq!(gap.next_open(at("2025-03-08T12:00:00Z")), Some(at("2025-03-16T06:00:00Z")));
        // On 2025-11-02 the hour from 01:00 to 02:00 comes twice: the window stays open for both.
        let twice = window("Sun 01:00-02:00 America/New_York");
        assert!(twice.contains(at("2025-11-02T05:30:00Z")) && twice.contains(at("2025-11-02T06:30:00Z")));
    }

    #[test]
    fn days_and_nights() {
        let week = window("mon-thu 09:00-16:00 UTC");
        assert!(week.contains(at("2025-11-13T10:00:00Z")) && !week.contains(at("2025-11-14T10:00:00Z")));
        let around = window("Sat-Mon 00:00-24:00 UTC");
        assert!(around.contains(at("2025-11-10T23:59:59Z")) && !around.contains(at("2025-11-11T00:00:00Z")));
        let list = window("Monday,Wed,Fri 10:00-11:00 UTC");
        assert_eq!(list.next_open(at("2025-11-10T11:00:00Z")), Some(at("2025-11-12T10:00:00Z")));
        let night = window("Fri 22:00-02:00 UTC");
        assert!(night.contains(at("2025-11-15T01:59:00Z")) && !night.contains(at("2025-11-14T01:00:00Z")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |text: &str, part: &str| {
            let error = text.parse::<Window>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{part}`")), "{text}: {error}");
        };
        refused("Tue 10:00-12:00", "Tue 10:00-12:00");
        refused("Tues 10:00-12:00 UTC", "Tues");
        refused("Mon- 10:00-12:00 UTC", "Mon-");
        refused("Tue 10-12 UTC", "10-12");
        refused("Tue 25:00-26:00 UTC", "25:00-26:00");
        refused("Tue 10:00-10:00 UTC", "10:00-10:00");
        refused("Tue 10:00-12:00 America/Atlantis", "America/Atlantis");
    }

    #[test]
    fn a_window_survives_serde() {
        let before = window("Tue  10:00-12:00   America/New_York");
        let json = serde_json::to_string(&before).unwrap();
        assert_eq!(json, r#""Tue 10:00-12:00 America/New_York""#);
        assert_eq!(serde_json::from_str::<Window>(&json).unwrap(), before);
    }
}
