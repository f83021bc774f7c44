//! An order-free sum of a table's rows.
//!
//! The sum is taken mod 2^256 over BLAKE3(row), where a row is its line of COPY text. It ignores the order of rows, which
//! neither a dump nor a restore keeps, and, unlike an XOR, it counts duplicates.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The row count and row sum of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSum {
    /// How many rows.
    pub rows: u64,
    /// Their sum.
    pub sum: Sum,
}

/// A number mod 2^256, written as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sum([u64; 4]);

impl Sum {
    fn add(&mut self, hash: &blake3::Hash) {
        let mut carry = false;
        for (limb, bytes) in self.0.iter_mut().zip(hash.as_bytes().as_chunks::<8>().0) {
            let (partial, over) = limb.overflowing_add(u64::from_le_bytes(*bytes));
            let (total, over_again) = partial.overflowing_add(u64::from(carry));
            (*limb, carry) = (total, over || over_again);
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().rev().try_for_each(|limb| write!(f, "{limb:016x}"))
    }
}

impl FromStr for Sum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text} is not a row sum of 64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(bad());
        }
        let mut limbs = [0; 4];
        for (index, limb) in limbs.iter_mut().rev().enumerate() {
            *limb = u64::from_str_radix(&text[index * 16..][..16], 16).map_err(|_| bad())?;
        }
        Ok(Self(limbs))
    }
}

impl TryFrom<String> for Sum {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Sum> for String {
    fn from(sum: Sum) -> Self {
        sum.to_string()
    }
}

impl RowSum {
    /// Adds one row.
    pub fn add(&mut self, hash: &blake3::Hash) {
        self.rows += 1;
        self.sum.add(hash);
    }
}

/// Cuts a stream of COPY text into rows, wherever the stream's own pieces end.
///
/// A newline within a value is written as `\n` in COPY text, so that every newline byte ends a row.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<u8>);

impl Lines {
    /// Calls `row` for each row that the piece completes.
    pub(crate) fn push(&mut self, mut piece: &[u8], mut row: impl FnMut(&[u8])) {
        while let Some(end) = memchr::memchr(b'\n', piece) {
            if self.0.is_empty() {
                row(&piece[..end]);
            } else {
                self.0.extend_from_slice(&piece[..end]);
                row(&self.0);
                self.0.clear();
            }
            piece = &piece[end + 1..];
        }
        self.0.extend_from_slice(piece);
    }

    /// Tells whether the stream ended in the middle of a row.
    pub(crate) fn is_torn(&self) -> bool {
        !self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum_of(rows: &[Vec<u8>]) -> RowSum {
        let mut sum = RowSum::default();
        rows.iter().for_each(|row| sum.add(&blake3::hash(row)));
        sum
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_duplicates_do(
            mut rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 1..40),
        ) {
            let sum = sum_of(&rows);
            prop_assert_eq!(sum.sum.to_string().parse(), Ok(sum.sum));
            rows.reverse();
            prop_assert_eq!(sum_of(&rows), sum);
            rows.push(rows[0].clone());
            prop_assert_ne!(sum_of(&rows).sum, sum.sum);
        }

        #[test]
        fn rows_are_whole_however_the_stream_is_cut(
            text in "[ab\n]{0,60}",
            cuts in prop::collection::vec(1usize..7, 1..40),
        ) {
            let (mut lines, mut rows, mut rest) = (Lines::default(), Vec::new(), text.as_bytes());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                lines.push(piece, |row| rows.push(String::from_utf8(row.to_vec()).unwrap()));
                rest = after;
            }
            let mut wanted: Vec<String> = text.split('\n').map(str::to_owned).collect();
            let torn = wanted.pop().is_some_and(|last| !last.is_empty());
            prop_assert_eq!(lines.is_torn(), torn);
            prop_assert_eq!(rows, wanted);
        }
    }

    #[test]
    fn the_carry_runs_through_all_limbs() {
        let mut sum = Sum([u64::MAX; 4]);
        let mut one = [0; 32];
        one[0] = 1;
        sum.add(&blake3::Hash::from_bytes(one));
        assert_eq!(sum, Sum([0; 4]));
    }
}
