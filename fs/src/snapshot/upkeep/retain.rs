//! Which snapshots go, and how far the trash reaches back.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::RetentionPolicy;
use crate::snapshot::archive::{Archive, ArchiveError};
use crate::snapshot::catalog::Past;
use crate::snapshot::retention::{self, Candidate, ClockFault, RetentionPlan};
use crate::snapshot::sequence::{Epoch, Sequence};

/// What retention goes by.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Which snapshots stay.
    pub(crate) policy: RetentionPolicy,
    /// Whose hours and days count.
    pub(crate) zone: TimeZone,
}

/// What [`retain`] did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Retained {
    /// Snapshots that are not kept any more.
    pub(crate) removed: Vec<Epoch>,
    /// The trash begins later than before.
    pub(crate) is_trash_shorter: bool,
    /// Nothing was decided, because the clock cannot be right.
    pub(crate) paused: Option<ClockFault>,
}

/// Removes the snapshots that the policy does not keep, and lets go what was in the trash for too long. Their bytes stay
/// until [`super::collect`].
///
/// # Errors
/// See [`ArchiveError`].
pub(crate) fn retain(archive: &Archive, bounds: &Bounds, now: Timestamp) -> Result<Retained, ArchiveError> {
    let past = archive.read()?;
    let plan = plan_now(&past, &archive.pinned(), bounds, now)?;
    let verdicts = match plan {
        RetentionPlan::Paused(fault) => return Ok(Retained { paused: Some(fault), ..Retained::default() }),
        RetentionPlan::Verdicts(verdicts) => verdicts,
    };
    let due = trash_due(&past, &bounds.policy, now)?;
    let is_trash_shorter = due > past.trash_start()?;
    drop(past);
    let removed: Vec<Epoch> =
        verdicts.into_iter().filter(|verdict| verdict.reasons.is_empty()).map(|verdict| verdict.id).collect();
    if is_trash_shorter {
        archive.shorten_trash(due)?;
    }
    if !removed.is_empty() {
        archive.remove_snapshots(&removed)?;
    }
    Ok(Retained { removed, is_trash_shorter, paused: None })
}

/// Returns what the policy says of each snapshot.
///
/// # Errors
/// See [`ArchiveError`].
pub(crate) fn plan_now(
    past: &Past,
    pinned: &[Sequence],
    bounds: &Bounds,
    now: Timestamp,
) -> Result<RetentionPlan, ArchiveError> {
    let candidates: Vec<Candidate> = past
        .snapshots()?
        .iter()
        .map(|snapshot| Candidate::new(snapshot, pinned.contains(&snapshot.moment())))
        .collect();
    let last = past.last_epoch_ended_ns()?.and_then(|ended| Timestamp::from_nanosecond(ended.into()).ok());
    Ok(retention::plan(&candidates, &bounds.policy, now, last, &bounds.zone))
}

/// Returns where the trash should begin by its age: never later than the end of the last epoch.
///
/// # Errors
/// See [`ArchiveError`].
pub(crate) fn trash_due(
    past: &Past,
    policy: &RetentionPolicy,
    now: Timestamp,
) -> Result<Sequence, ArchiveError> {
    let oldest = now.checked_sub(policy.trash_age()).unwrap_or(Timestamp::MIN);
    let oldest_ns = i64::try_from(oldest.as_nanosecond()).unwrap_or(i64::MIN);
    let last = past.last_ended_epoch()?.map_or(Sequence::ZERO, Epoch::end);
    Ok(past.moment_at_time(oldest_ns)?.min(last))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::Arc;

    use jiff::SignedDuration;

    use super::*;
    use crate::backing::Backing;
    use crate::snapshot::History;
    use crate::snapshot::record::{Actor, SnapshotNote, SnapshotReason};

    #[test]
    fn a_clock_that_leaps_or_goes_back_deletes_nothing() {
        let kept = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for name in ["root", "store"] {
            std::fs::create_dir(kept.path().join(name)).unwrap();
        }
        let root = std::fs::File::open(kept.path().join("root")).unwrap();
        let backing = Backing::new(root.into()).unwrap();
        let store = std::fs::File::open(kept.path().join("store")).unwrap();
        let history = Arc::new(History::begin(store.as_fd(), &backing).unwrap());
        let archive = Archive::open(history, &kept.path().join("store")).unwrap();
        for _ in 0..5 {
            let note =
                SnapshotNote { reason: SnapshotReason::Automatic, name: None, note: None, is_held: false };
            archive.take_snapshot(&backing, Actor::default(), note).unwrap();
        }
        let all: Vec<Epoch> =
            archive.read().unwrap().snapshots().unwrap().iter().map(|snapshot| snapshot.epoch).collect();
        let trash_start = archive.read().unwrap().trash_start().unwrap();
        let policy = RetentionPolicy {
            within_minutes: 0,
            hourly: 0,
            daily: 0,
            weekly: 0,
            monthly: 0,
            trash_days: 0,
            ..RetentionPolicy::default()
        };
        let bounds = Bounds { policy, zone: TimeZone::UTC };
        let now = Timestamp::now();
        for (jump, fault) in [
            (SignedDuration::from_hours(24 * 400), ClockFault::LeaptAhead),
            (SignedDuration::from_hours(-1), ClockFault::WentBack),
        ] {
            let retained = retain(&archive, &bounds, now + jump).unwrap();
            let expected = Retained { paused: Some(fault), ..Retained::default() };
            assert_eq!(retained, expected);
            let past = archive.read().unwrap();
            assert_eq!(past.snapshots().unwrap().len(), all.len());
            assert_eq!(past.trash_start().unwrap(), trash_start);
        }
        // With the clock as it was, the policy counts.
        let retained = retain(&archive, &bounds, Timestamp::now()).unwrap();
        assert_eq!((retained.paused, retained.removed.len()), (None, all.len() - 1));
    }
}
