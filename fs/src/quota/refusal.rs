//! Why something was refused.

use rustix::io::Errno;

use super::{Dimension, ScopeKey};

/// A reservation that was not granted. Nothing was taken for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} more {dimension} do not fit: {scope} has used {used} of {limit} ({reason})")]
pub(crate) struct Refusal {
    /// The scope that refused, the first of the chain project, user, group, pool.
    pub(crate) scope: ScopeKey,
    /// Of which there is too little.
    pub(crate) dimension: Dimension,
    /// Why.
    pub(crate) reason: Reason,
    /// Up to where this file could have grown the use of the scope.
    pub(crate) limit: u64,
    /// What the scope uses, reservations of others excluded.
    pub(crate) used: u64,
    /// The least that was asked for.
    pub(crate) wanted: u64,
    /// What the caller is answered.
    pub(crate) errno: Errno,
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// The hard limit, or its headroom for a large file.
    Hard,
    /// The soft limit, whose grace period has run out.
    GraceExpired,
    /// The backing filesystem is as full as it may get.
    HostFull,
    /// More than the hard limit is in use already.
    Over,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Hard => "hard limit",
            Self::GraceExpired => "soft limit, grace period over",
            Self::HostFull => "backing filesystem full",
            Self::Over => "over the limit; delete something or ask for more",
        })
    }
}
