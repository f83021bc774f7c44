//! The two slots and the share of traffic each of them has.

use std::fmt;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use crate::bucket::{BUCKETS, Bucket};

/// One of the two places an app can run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The slot that has the traffic green does not have.
    Blue,
    /// The slot that the weight is given for.
    Green,
}

impl Slot {
    /// Both slots.
    pub const BOTH: [Slot; 2] = [Slot::Blue, Slot::Green];

    /// Returns the slot that is not this one.
    #[must_use]
    pub fn other(self) -> Slot {
        match self {
            Slot::Blue => Slot::Green,
            Slot::Green => Slot::Blue,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Slot::Blue => "blue",
            Slot::Green => "green",
        })
    }
}

/// One value for each slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerSlot<T> {
    /// The value for blue.
    pub blue: T,
    /// The value for green.
    pub green: T,
}

impl<T> Index<Slot> for PerSlot<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        match slot {
            Slot::Blue => &self.blue,
            Slot::Green => &self.green,
        }
    }
}

impl<T> IndexMut<Slot> for PerSlot<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        match slot {
            Slot::Blue => &mut self.blue,
            Slot::Green => &mut self.green,
        }
    }
}

/// The shares of the traffic, in basis points: 0 sends everything to blue, 10,000 everything to green.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weights {
    /// Green's share, 0 to 10,000; blue has the rest.
    pub green: u16,
}

impl Weights {
    /// All traffic to `slot`.
    #[must_use]
    pub fn all(slot: Slot) -> Weights {
        match slot {
            Slot::Blue => Weights { green: 0 },
            Slot::Green => Weights { green: BUCKETS },
        }
    }

    /// Returns the share of `slot` in basis points.
    #[must_use]
    pub fn share(self, slot: Slot) -> u16 {
        match slot {
            Slot::Blue => BUCKETS.saturating_sub(self.green),
            Slot::Green => self.green.min(BUCKETS),
        }
    }

    /// Returns the slot that serves `bucket`.
    ///
    /// Monotone: when green's share grows, a bucket may go from blue to green but never back.
    #[must_use]
    pub fn slot(self, bucket: Bucket) -> Slot {
        if bucket.number() < self.green { Slot::Green } else { Slot::Blue }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn buckets() -> impl Iterator<Item = Bucket> {
        (0..BUCKETS).filter_map(Bucket::new)
    }

    proptest! {
        #[test]
        fn the_share_of_buckets_is_exactly_the_weight(green in 0..=BUCKETS) {
            let weights = Weights { green };
            let on_green = buckets().filter(|bucket| weights.slot(*bucket) == Slot::Green).count();
            prop_assert_eq!(on_green, usize::from(weights.share(Slot::Green)));
            prop_assert_eq!(weights.share(Slot::Green) + weights.share(Slot::Blue), BUCKETS);
        }

        #[test]
        fn a_growing_weight_takes_no_bucket_back(low in 0..=BUCKETS, more in 0..=BUCKETS) {
            let (low, high) = (Weights { green: low }, Weights { green: (low + more).min(BUCKETS) });
            for bucket in buckets().filter(|bucket| low.slot(*bucket) == Slot::Green) {
                prop_assert_eq!(high.slot(bucket), Slot::Green);
            }
        }
    }

    #[test]
    fn everything_to_one_slot_leaves_the_other_no_bucket() {
        for slot in Slot::BOTH {
            assert!(buckets().all(|bucket| Weights::all(slot).slot(bucket) == slot));
            assert_eq!(Weights::all(slot).share(slot.other()), 0);
        }
    }
}
