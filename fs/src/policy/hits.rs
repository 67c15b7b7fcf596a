//! Whether a scope fits below the limits that it would get.

use jiff::Timestamp;
use wsguard_api::Usage;

use super::resolve::Resolved;

/// What is known about a scope's use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Used at least.
    pub(crate) usage: Usage,
    /// Nothing is missing in it.
    pub(crate) is_complete: bool,
}

/// What a change means for one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays as free as it was, or fits.
    Fits,
    /// It would use more than it may; the limits that it passes.
    Hit { bytes_hard: Option<u64>, inodes_hard: Option<u64> },
    /// Not everything that it uses is known, and what is known fits.
    Unknown,
}

/// Judges one scope whose limits go from `before` to `after`.
///
/// Only what gets tighter can hit somebody: who is over already is not hit again by a change of something else.
pub(crate) fn verdict(before: &Resolved, after: &Resolved, known: Known, now: Timestamp) -> Verdict {
    let bytes = tightened(before.enforced_bytes(now), after.enforced_bytes(now));
    let inodes = tightened(before.enforced_inodes(now), after.enforced_inodes(now));
    if bytes.is_none() && inodes.is_none() {
        return Verdict::Fits;
    }
    let passed = |used: u64, limit: Option<u64>| limit.filter(|limit| used > *limit);
    let bytes_hard = passed(known.usage.bytes, bytes);
    let inodes_hard = passed(known.usage.inodes, inodes);
    match (bytes_hard, inodes_hard) {
        (None, None) if known.is_complete => Verdict::Fits,
        (None, None) => Verdict::Unknown,
        _ => Verdict::Hit { bytes_hard, inodes_hard },
    }
}

/// Returns the new limit if it allows less than the old one did.
fn tightened(before: Option<u64>, after: Option<u64>) -> Option<u64> {
    after.filter(|after| before.is_none_or(|before| *after < before))
}
