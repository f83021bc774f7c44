//! Numbers and times as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Writes a size: `1.2 GB`, in powers of 1000.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.5 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Writes a count with separated thousands: `1,204,311`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a count of things: `1 row`, `1,204,311 rows`.
pub fn counted(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number))
}

/// Writes a count of things and what they do: `1 row does`, `2 rows do`.
pub fn doing(number: u64, thing: &str, one: &str, many: &str) -> String {
    format!("{} {}", counted(number, thing), if number == 1 { one } else { many })
}

/// Names the first of many things: `a, b and 3 more`.
pub fn some(things: &[String], shown: usize) -> String {
    some_of(things, shown, things.len() as u64)
}

/// Names the first of so many things, of which not all need be there.
pub fn some_of(things: &[String], shown: usize, count: u64) -> String {
    let first = &things[..things.len().min(shown)];
    match count.saturating_sub(first.len() as u64) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// Writes a length of time with one unit or two: `0.3 s`, `52.7 s`, `1 h 12 min`.
pub fn span(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    #[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
    let exact = milliseconds as f64 / 1000.0;
    match seconds {
        0 if milliseconds < 100 => format!("{milliseconds} ms"),
        0..60 => format!("{exact:.1} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Writes a day in the machine's time zone: `2026-11-02`.
pub fn day(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d").to_string()
}

/// Writes a time in the machine's time zone: `2026-11-02 10:00:11`.
pub fn time(at: Timestamp) -> String {
    time_in(at, TimeZone::system())
}

/// Writes a time in a time zone, as [`time`].
pub fn time_in(at: Timestamp, zone: TimeZone) -> String {
    at.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_counts_and_spans() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567, 1_200_000_000].map(bytes),
            ["0 B", "999 B", "1.0 kB", "1.2 MB", "1.2 GB"]
        );
        assert_eq!(["a", "b"].map(|n| some(&vec![n.to_owned(); 3], 3)), ["a, a, a", "b, b, b"]);
        assert_eq!(some(&["a".into(), "b".into(), "c".into()], 1), "a and 2 more");
        assert_eq!([7, 1_000, 1_204_311].map(count), ["7", "1,000", "1,204,311"]);
        assert_eq!(
            [0, 1, 2].map(|n| doing(n, "row", "goes", "go")),
            ["0 rows go", "1 row goes", "2 rows go"]
        );
        assert_eq!(
            [4, 300, 52_700, 61_000, 4_320_000, 90_000_000].map(span),
            ["4 ms", "0.3 s", "52.7 s", "1 min 1 s", "1 h 12 min", "1 d 1 h"]
        );
    }
}
