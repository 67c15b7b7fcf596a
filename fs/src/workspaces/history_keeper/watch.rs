//! What is looked at several times a second.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tracing::warn;
use wsguard_api::{EventKind, HistoryState};

use super::{Shared, Subject, relief};
use crate::error_chain::one_line;
use crate::snapshot::{Archive, Epoch, History, Shortage, SnapshotReason};

/// How often every workspace is looked at.
const STEP: Duration = Duration::from_millis(250);
/// Refused snapshots are told no more often than this.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks at which of the files that were open for reading and writing are still mapped.
const SETTLE_INTERVAL: Duration = Duration::from_secs(2);
/// How often the log is folded.
const FOLD_INTERVAL: Duration = Duration::from_secs(1);
/// Files that are deleted or replaced within this time are a burst …
const BURST_WINDOW: Duration = Duration::from_secs(2);
/// … if they are more than so many …
const BURST_FILES: u64 = 200;
/// … or more than this part of all, and not just a handful.
const BURST_SHARE: u64 = 5;
const LEAST_BURST: u64 = 20;
/// After a failure, how long until the next try.
const RETRY: Duration = Duration::from_secs(60);
/// How often losses are told at most.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// An epoch ends at least so often, so that retention sees that the clock goes right.
const LONGEST_EPOCH: Duration = Duration::from_secs(12 * 3_600);

/// The thread.
pub(super) struct Watch {
    shared: Arc<Shared>,
    cares: HashMap<String, Care>,
}

/// What is remembered of a workspace between two looks.
struct Care {
    history: Arc<History>,
    epoch: Epoch,
    epoch_since: Instant,
    dirty_since: Option<Instant>,
    folded_at: Instant,
    settled_at: Instant,
    bursts: Bursts,
    lost: u64,
    lost_told_at: Option<Instant>,
    refused_snapshots: u64,
    refusal_told_at: Option<Instant>,
    not_before: Option<Instant>,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, cares: HashMap::new() }
    }

    pub(super) fn run(mut self) {
        while !self.shared.is_stopping() {
            let asked = {
                let mut calls = self.shared.calls.lock();
                if calls.waiting.is_empty() {
                    self.shared.called.wait_for(&mut calls, STEP);
                }
                std::mem::take(&mut calls.waiting)
            };
            if !asked.is_empty() {
                relief::relieve(&self.shared, &asked);
            }
            self.look();
        }
    }

    fn look(&mut self) {
        let ids = self.shared.registry.ids();
        self.shared.registry.history().forget_others(&ids);
        self.cares.retain(|id, _| ids.contains(id));
        for (id, mounted) in self.shared.mounted() {
            if self.shared.is_stopping() {
                return;
            }
            let subject = match self.shared.subject(&id, &mounted) {
                Ok(subject) => subject,
                Err(reason) => {
                    self.note_off(&id, &reason);
                    continue;
                }
            };
            let archive = mounted.session().opened_archive();
            drop(mounted);
            if !self.shared.set_room(&subject) && self.shared.has_hope() {
                relief::relieve(&self.shared, &BTreeMap::from([(id, Shortage::Near)]));
            }
            let care = self.care_for(&subject);
            care.look_at(&subject, archive.as_deref());
        }
    }

    /// There is no history; it is told once.
    fn note_off(&self, id: &str, reason: &str) {
        let board = self.shared.registry.history();
        let state = HistoryState::Off { reason: reason.to_owned() };
        if board.of(id).is_some_and(|known| known.state == state) {
            return;
        }
        board.update(id, |facts| facts.state = state);
        if !self.shared.settings.is_enabled {
            return;
        }
        let Ok(record) = self.shared.registry.record(id) else { return };
        let message = format!("nothing that is deleted or overwritten is kept: {reason}");
        let concerned = crate::events::Concerned { name: Some(&record.name), owner_uid: record.owner_uid };
        let now = jiff::Timestamp::now();
        self.shared.events.tell_of(now, EventKind::HistoryOff, Some(concerned), &message);
        self.shared.registry.notices().post(id, &now.to_string(), &message);
    }

    fn care_for(&mut self, subject: &Subject) -> Looking<'_> {
        let is_same =
            self.cares.get(&subject.id).is_some_and(|care| Arc::ptr_eq(&care.history, &subject.history));
        if !is_same {
            let (shared, id): (Weak<Shared>, String) = (Arc::downgrade(&self.shared), subject.id.clone());
            subject.history.set_pressure(Box::new(move |shortage| {
                shared.upgrade().is_some_and(|shared| shared.call_for_room(&id, shortage))
            }));
            self.cares.insert(subject.id.clone(), Care::new(subject.history.clone()));
        }
        let care = self.cares.get_mut(&subject.id).expect("it was just put there");
        Looking { shared: &self.shared, care }
    }
}

impl Care {
    fn new(history: Arc<History>) -> Self {
        let now = Instant::now();
        Self {
            epoch: history.epoch(),
            history,
            epoch_since: now,
            dirty_since: None,
            folded_at: now,
            settled_at: now,
            bursts: Bursts::default(),
            lost: 0,
            lost_told_at: None,
            refused_snapshots: 0,
            refusal_told_at: None,
            not_before: None,
        }
    }
}

/// Finds out when many files go at once.
#[derive(Default)]
struct Bursts {
    /// How many files had been taken away when.
    taken: VecDeque<(Instant, u64)>,
    is_bursting: bool,
}

impl Bursts {
    /// Notes how many files were taken away, of how many there were, and returns whether a burst has just begun.
    fn has_begun(&mut self, now: Instant, taken: u64, files: Option<u64>) -> bool {
        self.taken.push_back((now, taken));
        while self.taken.len() > 1
            && self.taken.front().is_some_and(|(at, _)| now.duration_since(*at) > BURST_WINDOW)
        {
            self.taken.pop_front();
        }
        let before = self.taken.front().map_or(taken, |(_, count)| *count);
        let recent = taken.saturating_sub(before);
        let share = files.map_or(u64::MAX, |files| (files / BURST_SHARE).max(LEAST_BURST));
        let is_burst = recent > BURST_FILES.min(share);
        let has_begun = is_burst && !self.is_bursting;
        // One that goes on is the same; it is over when nothing goes any more.
        self.is_bursting = is_burst || (self.is_bursting && recent > 0);
        has_begun
    }
}

struct Looking<'a> {
    shared: &'a Shared,
    care: &'a mut Care,
}

impl Looking<'_> {
    fn look_at(self, subject: &Subject, archive: Option<&Archive>) {
        let Self { shared, care } = self;
        let now = Instant::now();
        let lost = care.history.counters.lost.load(Ordering::Relaxed);
        shared.registry.history().update(&subject.id, |facts| facts.lost = lost);
        if lost > care.lost && care.lost_told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            let message = format!(
                "what {} changed or deleted files were could not be kept; see the daemon's log and `df`",
                lost - care.lost
            );
            shared.tell(subject, EventKind::HistoryLost, &message);
            (care.lost, care.lost_told_at) = (lost, Some(now));
        }
        let epoch = care.history.epoch();
        if epoch != care.epoch {
            (care.epoch, care.epoch_since, care.dirty_since) = (epoch, now, None);
        }
        let is_dirty = care.history.is_dirty();
        if is_dirty {
            care.dirty_since.get_or_insert(now);
        }
        let taken = care.history.counters.taken.load(Ordering::Relaxed);
        let files = subject.fs.account().filter(|account| !account.is_estimated());
        let files = files.map(|account| account.used_inodes().saturating_add(taken));
        let has_burst_begun = care.bursts.has_begun(now, taken, files);
        let refused = subject.fs.take_refused_snapshots();
        care.refused_snapshots += refused;
        let may_tell = care.refusal_told_at.is_none_or(|at| at.elapsed() >= REFUSAL_INTERVAL);
        if care.refused_snapshots > 0 && may_tell {
            let message = format!(
                "{} snapshots were not taken, because mkdir in .snapshots takes ten at once and one more every ten \
                 seconds; `wsguard snapshot create` takes any number",
                care.refused_snapshots
            );
            shared.registry.notices().post(&subject.id, &jiff::Timestamp::now().to_string(), &message);
            (care.refused_snapshots, care.refusal_told_at) = (0, Some(now));
        }
        if care.settled_at.elapsed() >= SETTLE_INTERVAL {
            care.settled_at = now;
            subject.fs.settle_mapped();
        }
        let Some(archive) = archive else { return };
        if care.folded_at.elapsed() >= FOLD_INTERVAL {
            care.folded_at = now;
            if let Err(error) = archive.catch_up() {
                warn!(workspace = %subject.id, error = %one_line(&error), "history log cannot be folded");
            }
        }
        if care.not_before.is_some_and(|at| now < at) {
            return;
        }
        let interval = shared.settings.auto_interval;
        let reason = if has_burst_begun {
            SnapshotReason::Burst
        } else if care.dirty_since.is_some_and(|since| now.duration_since(since) >= interval) {
            SnapshotReason::Automatic
        } else {
            if !is_dirty && care.epoch_since.elapsed() >= LONGEST_EPOCH {
                // Not a snapshot: nothing has changed.
                let ended = care.history.end_epoch(subject.fs.backing(), Default::default(), None);
                if let Err(error) = ended {
                    warn!(workspace = %subject.id, error = %one_line(&error), "epoch does not end");
                    care.not_before = Some(now + RETRY);
                }
            }
            return;
        };
        match shared.take(subject, archive, reason) {
            Some(_) => care.dirty_since = None,
            None => care.not_before = Some(now + RETRY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_many_deletions_within_two_seconds_and_is_told_once() {
        let mut bursts = Bursts::default();
        let start = Instant::now();
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        assert!(!bursts.has_begun(at(0), 0, None));
        // Slow: 100 in two seconds.
        for step in 1..60 {
            assert!(!bursts.has_begun(at(step), 5 * step, None), "step {step}");
        }
        assert!(bursts.has_begun(at(60), 600, None));
        assert!(!bursts.has_begun(at(61), 900, None), "the same burst");
        assert!(!bursts.has_begun(at(90), 900, None));
        assert!(!bursts.has_begun(at(111), 900, None));
        assert!(bursts.has_begun(at(112), 1_200, None), "another");
    }

    #[test]
    fn a_fifth_of_all_files_is_a_burst_unless_they_are_few() {
        let mut bursts = Bursts::default();
        let start = Instant::now();
        assert!(!bursts.has_begun(start, 0, Some(200)));
        assert!(!bursts.has_begun(start + STEP, 40, Some(200)));
        assert!(bursts.has_begun(start + 2 * STEP, 41, Some(200)));
        let mut few = Bursts::default();
        assert!(!few.has_begun(start, 0, Some(10)));
        assert!(!few.has_begun(start + STEP, 10, Some(10)));
    }
}
