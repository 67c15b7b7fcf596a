//! What a scope may use, and what that amounts to at a given moment.

use jiff::{SignedDuration, Timestamp};
use rustix::io::Errno;

use super::{BLOCK_BYTES, Dimension};

/// Grace period unless a scope sets another.
pub(super) const DEFAULT_GRACE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The largest headroom in bytes; below it, 1 % of the hard limit.
const HEADROOM_BYTES: u64 = 64 << 20;
/// The largest headroom in inodes; below it, 10 % of the hard limit.
const HEADROOM_INODES: u64 = 256;

/// The limits of one scope. Absent bounds are unlimited and still counted; 0 allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// On charged bytes.
    pub(crate) bytes: Bounds,
    /// On inodes.
    pub(crate) inodes: Bounds,
    /// How long use may stay above a soft bound; 7 days when absent.
    pub(crate) grace: Option<SignedDuration>,
    /// Whether the bounds are enforced.
    pub(crate) mode: Mode,
    /// What a refused caller gets.
    pub(crate) errno: LimitErrno,
    /// Bytes at the end that only small files may use; by default 1 % of the hard bound, at most 64 MiB.
    pub(crate) headroom_bytes: Option<u64>,
    /// Temporary raises of both bounds. One that has ended is to be left in for as long as a grace period.
    pub(crate) boosts: Vec<Boost>,
}

/// A soft and a hard bound of one dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// May be exceeded for the grace period.
    pub(crate) soft: Option<u64>,
    /// May not be exceeded.
    pub(crate) hard: Option<u64>,
}

/// A temporary raise. It ends into grace: where use then exceeds what remains, the hard bound stays raised until the
/// grace period that begins with the end has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boost {
    /// Added to both bounds of bytes.
    pub(crate) bytes: u64,
    /// Added to both bounds of inodes.
    pub(crate) inodes: u64,
    /// Its end.
    pub(crate) until: Timestamp,
}

impl Boost {
    const fn amount(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Bytes => self.bytes,
            Dimension::Inodes => self.inodes,
        }
    }
}

/// What is done with the limits of a scope. Use is counted in every mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing: as if there were no limits.
    Off,
    /// Crossings are reported, nothing is refused.
    Track,
    /// Crossings are reported and growth is refused.
    #[default]
    Enforce,
}

/// The error of a refused caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LimitErrno {
    /// `EDQUOT`.
    #[default]
    Quota,
    /// `ENOSPC`, for software that knows no other.
    Space,
}

impl LimitErrno {
    /// The number.
    pub(crate) const fn errno(self) -> Errno {
        match self {
            Self::Quota => Errno::DQUOT,
            Self::Space => Errno::NOSPC,
        }
    }
}

/// What the limits amount to in one dimension at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effective {
    /// Above it the grace clock runs.
    pub(super) soft: Option<u64>,
    /// The end, boosts included.
    pub(super) hard: Option<u64>,
    /// The part of `hard` that is kept for small files.
    pub(super) headroom: u64,
}

impl Limits {
    /// The bounds of one dimension.
    pub(crate) const fn bounds(&self, dimension: Dimension) -> Bounds {
        match dimension {
            Dimension::Bytes => self.bytes,
            Dimension::Inodes => self.inodes,
        }
    }

    /// How long use may stay above a soft bound.
    pub(super) fn grace_period(&self) -> SignedDuration {
        self.grace.unwrap_or(DEFAULT_GRACE).max(SignedDuration::ZERO)
    }

    /// Computes what holds at `now`. `clock` is the grace clock of the dimension: when it was started, and whether it
    /// has run out.
    pub(super) fn effective(
        &self,
        dimension: Dimension,
        now: Timestamp,
        clock: Option<(Timestamp, bool)>,
    ) -> Effective {
        let bounds = self.bounds(dimension);
        let active = self.total(dimension, |boost| now < boost.until);
        // An ended boost matters while the grace period that began with its end may still run.
        let reference = clock.map_or(now, |(started, _)| started);
        let ended = self.total(dimension, |boost| {
            boost.until <= now && reference.duration_since(boost.until) <= self.grace_period()
        });
        let soft = bounds.soft.map(|soft| soft.saturating_add(active));
        let hard = bounds.hard.map(|hard| hard.saturating_add(active));
        let (soft, hard) = match (ended, clock) {
            (0, _) => (soft, hard),
            (_, Some((_, false))) => (least(soft, hard), hard.map(|hard| hard.saturating_add(ended))),
            (_, Some((_, true)) | None) => (least(soft, hard), hard),
        };
        Effective { soft, hard, headroom: hard.map_or(0, |hard| self.headroom(dimension, hard)) }
    }

    fn total(&self, dimension: Dimension, counts: impl Fn(&Boost) -> bool) -> u64 {
        self.boosts
            .iter()
            .filter(|boost| counts(boost))
            .fold(0, |sum, boost| sum.saturating_add(boost.amount(dimension)))
    }

    fn headroom(&self, dimension: Dimension, hard: u64) -> u64 {
        match dimension {
            Dimension::Bytes => {
                let wanted = self.headroom_bytes.unwrap_or((hard / 100).min(HEADROOM_BYTES));
                (wanted - wanted % BLOCK_BYTES).min(hard)
            }
            Dimension::Inodes => (hard / 10).min(HEADROOM_INODES),
        }
    }
}

/// The smaller of two bounds, either of which may be absent.
pub(super) fn least(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}
