//! The small values of a configuration: shares, durations, rollout steps, ports, command lines.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Serialize};

/// A text that is not the value it should be; says what was found and what is expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub(super) String);

impl ValueError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// A share between 0 % and 100 %, kept in basis points (hundredths of a percent).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percent(u16);

impl Percent {
    /// 0 %.
    pub const ZERO: Self = Self(0);
    /// 100 %.
    pub const FULL: Self = Self(10_000);

    /// Returns the share for 0 to 10,000 basis points, `None` above.
    pub const fn from_basis_points(basis_points: u16) -> Option<Self> {
        if basis_points <= Self::FULL.0 { Some(Self(basis_points)) } else { None }
    }

    /// Returns the share in basis points: 10,000 is all.
    pub const fn basis_points(self) -> u16 {
        self.0
    }

    /// Returns the share as a fraction between 0 and 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / f64::from(Self::FULL.0)
    }
}

impl FromStr for Percent {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || {
            ValueError::new(format!(
                "`{text}` is not a share: it is a number from 0 to 100 with at most two decimals and a percent sign, like \"5%\""
            ))
        };
        let number = text.trim().strip_suffix('%').ok_or_else(wrong)?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || decimals.len() > 2 {
            return Err(wrong());
        }
        let whole: u16 = whole.parse().map_err(|_| wrong())?;
        let hundredths: u16 = format!("{decimals:0<2}").parse().map_err(|_| wrong())?;
        whole
            .checked_mul(100)
            .and_then(|basis_points| basis_points.checked_add(hundredths))
            .and_then(Self::from_basis_points)
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, hundredths) = (self.0 / 100, self.0 % 100);
        match hundredths {
            0 => write!(f, "{whole}%"),
            n if n % 10 == 0 => write!(f, "{whole}.{}%", n / 10),
            n => write!(f, "{whole}.{n:02}%"),
        }
    }
}

/// Reads a duration of whole milliseconds such as `90s`, `1h30m`, `500ms` or `14d`; a day has 24 hours.
///
/// # Errors
/// When the text is no duration, is negative, is finer than a millisecond, or counts in months or years.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let wrong = || {
        ValueError::new(format!(
            "`{text}` is not a duration: it is numbers with the units d, h, m, s or ms, like \"90s\", \"1h30m\" or \"14d\""
        ))
    };
    // The parser also takes ISO 8601 (`PT2H`) and `2h ago`: one spelling is enough.
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(wrong());
    }
    let span: Span = text.parse().map_err(|_| wrong())?;
    let exact = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    let duration = Duration::try_from(exact).map_err(|_| wrong())?;
    if duration.subsec_nanos() % 1_000_000 != 0 { Err(wrong()) } else { Ok(duration) }
}

/// Writes a duration in the form that [`parse_duration`] reads, largest unit first: `1d12h`, `90s` as `1m30s`.
///
/// What is finer than a millisecond is left out.
pub fn format_duration(duration: Duration) -> String {
    let mut left = duration.as_millis();
    let mut text = String::new();
    for (unit, millis) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if left >= millis {
            text.push_str(&format!("{}{unit}", left / millis));
            left %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// One step of a rollout: the share of the traffic and how long it stays there under the gate's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RolloutStep {
    /// The candidate's share of the traffic.
    pub share: Percent,
    /// How long the share is judged before the next step; zero for `"100%"` without `for`.
    pub bake: Duration,
}

impl FromStr for RolloutStep {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once(" for ") {
            Some((share, bake)) => Ok(Self { share: share.parse()?, bake: parse_duration(bake.trim())? }),
            None => Ok(Self { share: text.parse()?, bake: Duration::ZERO }),
        }
    }
}

impl fmt::Display for RolloutStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.share)?;
        if !self.bake.is_zero() {
            write!(f, " for {}", format_duration(self.bake))?;
        }
        Ok(())
    }
}

/// A configured program with its arguments, split by shell quoting rules; no shell ever sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandLine {
    /// The program's name or path.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
}

impl CommandLine {
    /// Returns the command to run, still without environment and folder.
    pub fn command(&self) -> piton_exec::Command {
        piton_exec::Command::new(&self.program).args(&self.args)
    }
}

impl FromStr for CommandLine {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let parsed = piton_exec::Command::parse(text).map_err(|e| ValueError::new(e.to_string()))?;
        Ok(Self { program: parsed.program, args: parsed.args })
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.command().fmt(f)
    }
}

/// Reads an address to listen on: `127.0.0.1:8080`, `[::]:80`, or a port alone, which means all IPv4 addresses.
///
/// # Errors
/// When the text is neither; a host name is refused because it may mean several addresses.
pub fn parse_listen(text: &str) -> Result<SocketAddr, ValueError> {
    let address = match text.parse::<u16>() {
        Ok(port) => Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        Err(_) => text.parse().ok(),
    };
    address.filter(|a| a.port() != 0).ok_or_else(|| {
        ValueError::new(format!(
            "`{text}` is not an address to listen on: it is an IP address with a port, or a port, like \"0.0.0.0:80\" or \"80\""
        ))
    })
}

/// Lets serde read and write a value by its `FromStr` and `Display`.
macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl TryFrom<String> for $name {
            type Error = ValueError;

            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}
pub(super) use serde_as_text;

serde_as_text!(Percent, RolloutStep, CommandLine);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percent_reads_and_refuses() {
        assert_eq!("5%".parse(), Ok(Percent(500)));
        assert_eq!("0.05 %".parse(), Ok(Percent(5)));
        assert_eq!("12.5%".parse(), Ok(Percent(1250)));
        assert_eq!("100%".parse(), Ok(Percent::FULL));
        for wrong in
            ["", "%", "5", "-1%", "101%", "100.01%", "1.234%", ".5%", "5.%", "+5%", "5%%", "٣%", "999999%"]
        {
            assert!(wrong.parse::<Percent>().is_err(), "{wrong}");
        }
        assert!((Percent(1250).fraction() - 0.125).abs() < f64::EPSILON);
        assert_eq!(Percent::from_basis_points(10_001), None);
    }

    #[test]
    fn duration_reads_and_refuses() {
        let seconds = |text| parse_duration(text).map(|d| d.as_secs());
        assert_eq!(seconds("2h"), Ok(7_200));
        assert_eq!(seconds("1h30m"), Ok(5_400));
        assert_eq!(seconds("1h 30m"), Ok(5_400));
        assert_eq!(seconds("14d"), Ok(14 * 86_400));
        assert_eq!(seconds("1w"), Ok(7 * 86_400));
        assert_eq!(seconds("0s"), Ok(0));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in
            ["", "5", "-5s", "5s ago", "PT5S", "1mo", "1y", "1us", "2 fortnights", "h", "99999999999999d"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rollout_step_reads_and_refuses() {
        let step: RolloutStep = "5% for 2h".parse().unwrap();
        assert_eq!(step, RolloutStep { share: Percent(500), bake: Duration::from_secs(7200) });
        assert_eq!("100%".parse::<RolloutStep>().unwrap().bake, Duration::ZERO);
        for wrong in ["5", "5% during 2h", "for 2h", "5% for", "5% for 2", "5% for 2h for 3h"] {
            assert!(wrong.parse::<RolloutStep>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn listen_reads_and_refuses() {
        assert_eq!(parse_listen("80"), Ok(SocketAddr::from(([0, 0, 0, 0], 80))));
        assert_eq!(parse_listen("127.0.0.1:8080"), Ok(SocketAddr::from(([127, 0, 0, 1], 8080))));
        assert!(parse_listen("[::]:80").is_ok_and(|a| a.is_ipv6()));
        for wrong in ["", "0", "localhost:80", "127.0.0.1", "127.0.0.1:0", "1.2.3.4:70000", "70000"] {
            assert!(parse_listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_command_line_is_stored_as_it_is_typed() {
        let line: CommandLine = "npm run 'build all'".parse().unwrap();
        assert_eq!(line.args, ["run", "build all"]);
        assert_eq!(serde_json::to_string(&line).unwrap(), r#""npm run 'build all'""#);
        assert!("'".parse::<CommandLine>().is_err());
    }

    proptest! {
        #[test]
        fn percent_round_trip(basis_points in 0_u16..=10_000) {
            let percent = Percent(basis_points);
            prop_assert_eq!(percent.to_string().parse(), Ok(percent));
        }

        #[test]
        fn duration_round_trip(millis in 0_u64..=10_000_000_000_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn rollout_step_round_trip(basis_points in 0_u16..=10_000, seconds in 0_u64..=10_000_000) {
            let step = RolloutStep { share: Percent(basis_points), bake: Duration::from_secs(seconds) };
            prop_assert_eq!(step.to_string().parse(), Ok(step));
            let json = serde_json::to_string(&step).unwrap();
            prop_assert_eq!(serde_json::from_str::<RolloutStep>(&json).unwrap(), step);
        }

        #[test]
        fn command_line_round_trip(args in prop::collection::vec(".{0,12}", 0..4)) {
            let line = CommandLine { program: "run".to_owned(), args };
            prop_assert_eq!(line.to_string().parse(), Ok(line));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,24}") {
            let _ = (text.parse::<RolloutStep>(), parse_listen(&text), text.parse::<CommandLine>());
        }
    }
}
