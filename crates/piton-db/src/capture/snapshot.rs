use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Writes the condition that a transaction has a number no lower than another one's; what the server keeps of a number is its 32 bits.
pub(crate) fn is_since(xid: &str, since: u64) -> String {
    format!("pg_catalog.age({xid}) <= pg_catalog.age('{}'::xid)", since & 0xffff_ffff)
}

/// Which transactions a dump sees, as `pg_current_snapshot()` writes it: `xmin:xmax:xip,xip`.
///
/// It is this and no place in the log that divides what the dump holds from what has to be replayed: transactions become visible in
/// another order than that in which their commits are logged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Snapshot {
    /// All before it have ended.
    xmin: u64,
    /// It and all after it had not begun.
    xmax: u64,
    /// Those between that were under way, in ascending order.
    under_way: Vec<u64>,
}

impl Snapshot {
    /// Returns the first transaction that may not have ended before it.
    pub(crate) fn oldest(&self) -> u64 {
        self.xmin
    }

    /// Tells whether the snapshot sees what this transaction, known by the 32 bits that the log has of its number, has committed.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.whole(xid);
        xid < self.xmax && self.under_way.binary_search(&xid).is_err()
    }

    /// Returns a transaction's whole number: the one with these 32 bits that is nearest to the snapshot.
    fn whole(&self, xid: u32) -> u64 {
        // Not further away than half of all, which is what the server itself relies on.
        let ahead = xid.wrapping_sub(self.xmax as u32) as i32;
        self.xmax.saturating_add_signed(i64::from(ahead))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way: Vec<String> = self.under_way.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, under_way.join(","))
    }
}

impl FromStr for Snapshot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text} is not a snapshot, such as 795:799:795,797");
        let number = |text: &str| text.parse::<u64>().map_err(|_| bad());
        let [xmin, xmax, under_way] = text.split(':').collect::<Vec<_>>()[..] else { return Err(bad()) };
        let mut under_way: Vec<u64> =
            under_way.split(',').filter(|xid| !xid.is_empty()).map(number).collect::<Result<_, _>>()?;
        under_way.sort_unstable();
        Ok(Self { xmin: number(xmin)?, xmax: number(xmax)?, under_way })
    }
}

impl TryFrom<String> for Snapshot {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Snapshot> for String {
    fn from(snapshot: Snapshot) -> Self {
        snapshot.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_sees_is_told_across_the_turn_of_the_counter() {
        let snapshot: Snapshot = "4294967290:4294967300:4294967290,4294967297".parse().unwrap();
        assert_eq!(snapshot.to_string(), "4294967290:4294967300:4294967290,4294967297");
        let low = |whole: u64| whole as u32;
        for (xid, seen) in [
            (4_294_967_289, true),
            (4_294_967_290, false),
            (4_294_967_291, true),
            (4_294_967_297, false),
            (4_294_967_299, true),
            (4_294_967_300, false),
            (4_294_969_000, false),
        ] {
            assert_eq!(snapshot.sees(low(xid)), seen, "{xid}");
        }
        assert!("3:9:".parse::<Snapshot>().unwrap().sees(3));
        assert!("3:9".parse::<Snapshot>().is_err());
    }
}
