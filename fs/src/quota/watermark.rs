//! The high-water mark: use may not pass what has been persisted.
//!
//! After a crash of the machine a project's use is taken to be what was persisted, so that its limit is never
//! exceeded, until a recount is done. For that the mark has to be on disk before use passes it; it is therefore set
//! ahead by a step, and the next one is asked for when half a step is left. Who persists it never makes a write wait
//! unless it is slower than writers fill half a step.
//!
//! A mark is lowered in memory first and on disk afterwards. One thread persists.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Dimension;
use super::scope::Scope;

/// How long a reservation waits at most. A write is not made to fail because a database is slow; it then passes the
/// mark, which is counted and told.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How often who waits looks whether use has fallen meanwhile, of which nobody is told.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

const LARGEST_BYTE_STEP: u64 = 1 << 30;
const SMALLEST_BYTE_STEP: u64 = 1 << 20;
const LARGEST_INODE_STEP: u64 = 1 << 16;
const SMALLEST_INODE_STEP: u64 = 64;

/// What is, or is to be, persisted of a project.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watermark {
    /// Use of bytes does not pass this.
    pub(crate) bytes: u64,
    /// Use of inodes does not pass this.
    pub(crate) inodes: u64,
}

impl Watermark {
    fn of(&self, dimension: Dimension) -> u64 {
        match dimension {
            Dimension::Bytes => self.bytes,
            Dimension::Inodes => self.inodes,
        }
    }
}

/// How far ahead a mark is set: 1 % of the hard limit within bounds.
pub(super) fn step(dimension: Dimension, hard: Option<u64>) -> u64 {
    let (smallest, largest) = match dimension {
        Dimension::Bytes => (SMALLEST_BYTE_STEP, LARGEST_BYTE_STEP),
        Dimension::Inodes => (SMALLEST_INODE_STEP, LARGEST_INODE_STEP),
    };
    hard.map_or(largest, |hard| (hard / 100).clamp(smallest, largest))
}

/// Where those who reserve and the one who persists meet.
#[derive(Default)]
pub(super) struct Persister {
    /// Whether a mark is wanted. Set without the lock, which is taken to wake somebody.
    is_asked: AtomicBool,
    lock: Mutex<()>,
    wanted: Condvar,
    persisted: Condvar,
}

impl Persister {
    /// Waits until someone wants a mark. Returns whether so; the request is taken with it.
    pub(super) fn wait_for_request(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut lock = self.lock.lock();
        while !self.is_asked.swap(false, Ordering::AcqRel) {
            if self.wanted.wait_until(&mut lock, deadline).timed_out() {
                return self.is_asked.swap(false, Ordering::AcqRel);
            }
        }
        true
    }

    /// Called after `scope` has `taken`: asks for the next mark in time, and waits where use would pass the present
    /// one.
    pub(super) fn admit(&self, scope: &Scope, dimension: Dimension, taken: u64) {
        if mark(scope, dimension).is_some_and(|mark| taken > mark) {
            self.wait_for_mark(scope, dimension, taken);
        } else if is_nearly_reached(scope, dimension, taken) {
            self.ask();
        }
    }

    /// Called after use has grown without asking.
    pub(super) fn note(&self, scope: &Scope, dimension: Dimension) {
        if is_nearly_reached(scope, dimension, scope.meter(dimension).taken()) {
            self.ask();
        }
    }

    fn ask(&self) {
        let has_been = self.is_asked.load(Ordering::Acquire) || self.is_asked.swap(true, Ordering::AcqRel);
        if !has_been {
            // Under the lock: whoever found nothing asked is waiting by then.
            drop(self.lock.lock());
            self.wanted.notify_one();
        }
    }

    fn wait_for_mark(&self, scope: &Scope, dimension: Dimension, taken: u64) {
        let deadline = Instant::now() + LONGEST_WAIT;
        let mut lock = self.lock.lock();
        // What is taken now includes what the caller took: at or below the mark, use cannot pass it.
        let is_above = || {
            let taken = taken.min(scope.meter(dimension).taken());
            mark(scope, dimension).is_some_and(|mark| taken > mark)
        };
        while is_above() {
            if Instant::now() >= deadline {
                scope.overruns.fetch_add(1, Ordering::Relaxed);
                return;
            }
            self.is_asked.store(true, Ordering::Release);
            self.wanted.notify_one();
            self.persisted.wait_for(&mut lock, LOOK_INTERVAL);
        }
    }

    /// The mark that should be persisted next, if the present one is too low or far too high.
    pub(super) fn next(&self, scope: &Scope) -> Option<Watermark> {
        let [bytes, inodes] = Dimension::ALL.map(|dimension| self.next_of(scope, dimension));
        if !bytes.1 && !inodes.1 {
            return None;
        }
        Some(Watermark { bytes: bytes.0, inodes: inodes.0 })
    }

    /// The next mark of a dimension and whether it differs from the present one.
    fn next_of(&self, scope: &Scope, dimension: Dimension) -> (u64, bool) {
        let meter = scope.meter(dimension);
        let (taken, step) = (meter.taken(), meter.step());
        // Use does not pass the limit, so neither need the mark: after a crash it is taken for use.
        let limit = scope.book.lock().limit_caps(dimension).small;
        let ahead = taken.saturating_add(step).min(limit.max(taken));
        let Some(present) = mark(scope, dimension) else { return (ahead, true) };
        if is_nearly_reached(scope, dimension, taken) {
            return (ahead.max(present), ahead > present);
        }
        if present.saturating_sub(taken) > step.saturating_mul(2)
            && self.lower(scope, dimension, ahead, present)
        {
            return (ahead, true);
        }
        (present, false)
    }

    /// Lowers a mark in memory. Returns whether it could: not if use has passed the new one meanwhile.
    fn lower(&self, scope: &Scope, dimension: Dimension, to: u64, present: u64) -> bool {
        let word = scope.cells.watermark(dimension);
        word.store(to.saturating_add(1), Ordering::SeqCst);
        if scope.meter(dimension).taken() <= to {
            return true;
        }
        word.store(present.saturating_add(1), Ordering::SeqCst);
        self.wake();
        false
    }

    /// Puts a persisted mark into effect.
    pub(super) fn set(&self, scope: &Scope, persisted: Watermark) {
        for dimension in Dimension::ALL {
            let mark = persisted.of(dimension).saturating_add(1);
            scope.cells.watermark(dimension).store(mark, Ordering::SeqCst);
        }
        self.wake();
    }

    fn wake(&self) {
        // Under the lock: whoever found the old mark is either waiting already or has not looked yet.
        drop(self.lock.lock());
        self.persisted.notify_all();
    }
}

/// Whether the next mark is due: less than half a step is left, and the limit does not end before.
fn is_nearly_reached(scope: &Scope, dimension: Dimension, taken: u64) -> bool {
    let meter = scope.meter(dimension);
    mark(scope, dimension).is_some_and(|mark| {
        taken.saturating_add(meter.step() / 2) > mark && (mark < meter.caps().small || mark < taken)
    })
}

/// What has been persisted; `None` while nothing has, which bounds nothing.
pub(super) fn mark(scope: &Scope, dimension: Dimension) -> Option<u64> {
    scope.cells.watermark(dimension).load(Ordering::SeqCst).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::super::book::Book;
    use super::super::{Cells, ScopeKey};
    use super::*;

    #[test]
    fn mark_is_not_lowered_below_what_was_taken_meanwhile() {
        let key = ScopeKey::Project("p".to_owned());
        let scope = Scope::new(key, Cells::private(), Book::new(jiff::Timestamp::MIN));
        let persister = Persister::default();
        persister.set(&scope, Watermark { bytes: 100, inodes: 100 });
        scope.meter(Dimension::Bytes).add(50);
        assert!(!persister.lower(&scope, Dimension::Bytes, 49, 100));
        assert_eq!(mark(&scope, Dimension::Bytes), Some(100));
        assert!(persister.lower(&scope, Dimension::Bytes, 50, 100));
        assert_eq!(mark(&scope, Dimension::Bytes), Some(50));
    }
}
