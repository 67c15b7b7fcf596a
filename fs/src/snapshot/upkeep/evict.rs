//! What history gives up when there is too little space.

use jiff::Timestamp;

use super::retain::{Bounds, plan_now};
use crate::snapshot::archive::{Archive, ArchiveError};
use crate::snapshot::budget::{self, Evictable, Eviction, Fullness, Rank};
use crate::snapshot::retention::RetentionPlan;
use crate::snapshot::sequence::{Epoch, Sequence};

/// What [`evict`] gave up.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Evicted {
    /// Snapshots that are gone.
    pub(crate) snapshots: Vec<Epoch>,
    /// Bytes of trash that no snapshot needs.
    pub(crate) trash_bytes: u64,
    /// What all of it frees, once it was collected.
    pub(crate) bytes: u64,
    /// What is still too much.
    pub(crate) missing: u64,
}

impl Evicted {
    /// Whether anything was given up.
    pub(crate) fn is_something(&self) -> bool {
        self.bytes > 0 || !self.snapshots.is_empty()
    }
}

/// Gives up the trash, oldest first, then automatic snapshots, then those that the policy keeps, until `fullness` is as
/// it should be. The bytes stay until [`super::collect`]. What was done in the running epoch cannot be given up: whoever
/// is in need ends it first.
///
/// # Errors
/// See [`ArchiveError`].
pub(crate) fn evict(
    archive: &Archive,
    bounds: &Bounds,
    fullness: Fullness,
    now: Timestamp,
) -> Result<Evicted, ArchiveError> {
    let excess = fullness.excess();
    if excess == 0 {
        return Ok(Evicted::default());
    }
    let past = archive.read()?;
    let pinned = archive.pinned();
    let kept = past.kept()?;
    let holdings = past.holdings(&kept.and(pinned.iter().copied()))?;
    // Places in the list of moments, some of which are no snapshots but looked at.
    let moments = kept.and(pinned.iter().copied());
    let snapshots = past.snapshots()?;
    // While the clock cannot be right nothing but trash is given up.
    let verdicts = match plan_now(&past, &pinned, bounds, now)? {
        RetentionPlan::Verdicts(verdicts) => verdicts,
        RetentionPlan::Paused(_) => Vec::new(),
    };
    let rank = |moment: &Sequence| {
        let snapshot = snapshots.iter().find(|snapshot| snapshot.moment() == *moment);
        let verdict = verdicts.iter().find(|verdict| verdict.id.end() == *moment);
        match (snapshot, verdict) {
            (Some(snapshot), Some(verdict)) => Rank::of(snapshot.reason, verdict),
            _ => Rank::Protected,
        }
    };
    let evictable: Vec<Evictable> =
        moments.moments().iter().map(|moment| Evictable { id: moment.epoch(), rank: rank(moment) }).collect();
    let end = past.last_ended_epoch()?.map_or(Sequence::ZERO, Epoch::end);
    let plan = budget::plan(excess, &evictable, &holdings, kept.window_start(), end);
    drop(past);
    let mut evicted = Evicted { bytes: plan.frees, missing: plan.missing, ..Evicted::default() };
    for step in plan.steps {
        match step {
            Eviction::ShortenTrash { start, bytes } => {
                archive.shorten_trash(start)?;
                evicted.trash_bytes = evicted.trash_bytes.saturating_add(bytes);
            }
            Eviction::DropSnapshot { id, .. } => {
                archive.remove_snapshots(&[id])?;
                evicted.snapshots.push(id);
            }
        }
    }
    Ok(evicted)
}
