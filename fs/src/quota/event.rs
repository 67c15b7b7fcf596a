//! What happened to a scope and is worth telling.

use jiff::{SignedDuration, Timestamp};

use super::{Dimension, ScopeKey};

/// One event. Each crossing yields one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Whose; `None` for the ledger as a whole.
    pub(crate) scope: Option<ScopeKey>,
    /// When it was noticed, by the wall clock.
    pub(crate) at: Timestamp,
    /// What.
    pub(crate) kind: EventKind,
}

/// The kinds of event. Times are those of the wall clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// Use reached this part of the hard limit; lower thresholds crossed at the same time are not told.
    Threshold {
        /// Of what.
        dimension: Dimension,
        /// 80, 90 or 95.
        percent: u8,
        /// Use when it was noticed.
        used: u64,
        /// The hard limit.
        hard: u64,
    },
    /// Use reached the hard limit less its headroom.
    HardReached {
        /// Of what.
        dimension: Dimension,
        /// Use when it was noticed.
        used: u64,
        /// The hard limit.
        hard: u64,
    },
    /// Use passed the soft limit.
    GraceStarted {
        /// Of what.
        dimension: Dimension,
        /// When the soft limit becomes a hard one. To be kept over restarts.
        deadline: Timestamp,
    },
    /// Less than this many hours of grace are left.
    GraceEnding {
        /// Of what.
        dimension: Dimension,
        /// 72, 24 or 1.
        hours: u8,
        /// When.
        deadline: Timestamp,
    },
    /// The soft limit is enforced from now on.
    GraceExpired {
        /// Of what.
        dimension: Dimension,
    },
    /// Use is back at or below the soft limit, or the limit is gone. The kept deadline is void.
    GraceStopped {
        /// Of what.
        dimension: Dimension,
    },
    /// A boost ended.
    BoostExpired {
        /// Bytes it gave.
        bytes: u64,
        /// Inodes it gave.
        inodes: u64,
        /// Its end.
        until: Timestamp,
    },
    /// Counters would have gone below 0: something was credited that had not been charged. A recount is due.
    Saturated {
        /// How often since the last event.
        times: u64,
    },
    /// Use passed what was persisted, because that took too long.
    WatermarkPassed {
        /// How often since the last event.
        times: u64,
    },
    /// The wall clock jumped; deadlines were moved so that no more than an hour of it counts.
    ClockJumped {
        /// By how much, negative when back.
        by: SignedDuration,
    },
}
