//! When something happened, as history counts it.

use serde::{Deserialize, Serialize};

/// Bits of a sequence that count within an epoch: 34 thousand million changes.
const WITHIN_BITS: u32 = 35;
const WITHIN_MASK: u64 = (1 << WITHIN_BITS) - 1;

/// A moment in the history of one workspace: the epoch that a change belongs to, and its place among the changes of that
/// epoch.
///
/// Moments are ordered, and every change of an epoch comes before every change of the next, whatever order they were
/// noted in. 63 bits, so that SQLite's signed integers hold it: 28 for the epoch, 35 within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Sequence(u64);

/// The number of an epoch: what happens between two snapshots. The first one is 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Epoch(pub(crate) u32);

impl Epoch {
    /// The last number that a [`Sequence`] has room for; at one epoch a second it is reached after eight years.
    pub(crate) const LAST: Self = Self((1 << 28) - 1);

    /// Returns the epoch after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1).min(Self::LAST.0))
    }

    /// Returns the moment just before the first change of the next epoch: what a snapshot at the end of this one shows.
    pub(crate) fn end(self) -> Sequence {
        Sequence((u64::from(self.0) << WITHIN_BITS) | WITHIN_MASK)
    }
}

impl Sequence {
    /// Before everything that history knows.
    pub(crate) const ZERO: Self = Self(0);

    /// Returns the `n`th moment of an epoch. Beyond what an epoch has room for, moments are equal to the last.
    pub(crate) fn new(epoch: Epoch, n: u64) -> Self {
        Self((u64::from(epoch.0.min(Epoch::LAST.0)) << WITHIN_BITS) | n.min(WITHIN_MASK - 1))
    }

    /// Returns the epoch that the moment lies in.
    pub(crate) fn epoch(self) -> Epoch {
        Epoch(u32::try_from(self.0 >> WITHIN_BITS).unwrap_or(Epoch::LAST.0))
    }

    /// Returns the moment just before this one; the first moment has none before it.
    pub(crate) fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Returns it as SQLite stores it.
    pub(crate) fn to_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// Reads what [`Self::to_i64`] gave; a negative number is no moment.
    pub(crate) fn from_i64(number: i64) -> Option<Self> {
        u64::try_from(number).ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_an_epoch_comes_before_those_of_the_next() {
        let (first, second) = (Epoch(7), Epoch(8));
        assert!(Sequence::new(first, u64::MAX) < Sequence::new(second, 0));
        assert!(Sequence::new(first, u64::MAX) < first.end());
        assert!(first.end() < Sequence::new(second, 0));
        assert_eq!(first.end(), Sequence::new(second, 0).before());
        assert_eq!(Sequence::new(second, 3).epoch(), second);
    }

    #[test]
    fn moments_fit_into_what_sqlite_stores() {
        let last = Epoch::LAST.end();
        assert_eq!(Sequence::from_i64(last.to_i64()), Some(last));
        assert!(last.to_i64() > 0);
        assert_eq!(Epoch::LAST.next(), Epoch::LAST);
        assert_eq!(Sequence::from_i64(-1), None);
    }
}
