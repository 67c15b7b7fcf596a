//! The high-water mark: use may not pass what has been persisted.
//!
//! After a crash of the machine a project's use is taken to be what was persisted, so that its limit is never
//! exceeded, until a recount is done. For that the mark has to be on disk before use passes it; it is therefore set
//! ahead by a step, and the next one is asked for when half a step is left. Who persists it never makes a write wait
//! unless it is slower than writers fill half a step.
//!
//! A mark is lowered in memory first and on disk afterwards. One thread persists.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Dimension;
use super::scope::Scope;

/// How long a reservation waits at most. A write is not made to fail because a database is slow; it then passes the
/// mark, which is counted and told.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

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
    /// Whether a mark is wanted.
    asked: Mutex<bool>,
    wanted: Condvar,
    persisted: Condvar,
}

impl Persister {
    /// Waits until someone wants a mark. Returns whether so; the request is taken with it.
    pub(super) fn wait_for_request(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut asked = self.asked.lock();
        while !*asked {
            if self.wanted.wait_until(&mut asked, deadline).timed_out() {
                break;
            }
        }
        std::mem::take(&mut *asked)
    }

    /// Called after `scope` has `taken`: asks for the next mark in time, and waits where use would pass the present
    /// one.
    pub(super) fn admit(&self, scope: &Scope, dimension: Dimension, taken: u64) {
        let Some(mark) = mark(scope, dimension) else { return };
        if taken.saturating_add(scope.meter(dimension).step() / 2) <= mark {
            return;
        }
        if taken <= mark {
            self.ask();
        } else {
            self.wait_for_mark(scope, dimension, taken);
        }
    }

    /// Called after use has grown without asking.
    pub(super) fn note(&self, scope: &Scope, dimension: Dimension) {
        let taken = scope.meter(dimension).taken();
        if mark(scope, dimension)
            .is_some_and(|mark| taken.saturating_add(scope.meter(dimension).step() / 2) > mark)
        {
            self.ask();
        }
    }

    fn ask(&self) {
        let mut asked = self.asked.lock();
        if !*asked {
            *asked = true;
            self.wanted.notify_one();
        }
    }

    fn wait_for_mark(&self, scope: &Scope, dimension: Dimension, taken: u64) {
        let deadline = Instant::now() + LONGEST_WAIT;
        let mut asked = self.asked.lock();
        while mark(scope, dimension).is_some_and(|mark| mark < taken) {
            *asked = true;
            self.wanted.notify_one();
            if self.persisted.wait_until(&mut asked, deadline).timed_out() {
                scope.overruns.fetch_add(1, Ordering::Relaxed);
                return;
            }
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
        if ahead > present && taken.saturating_add(step / 2) > present {
            return (ahead, true);
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
        drop(self.asked.lock());
        self.persisted.notify_all();
    }
}

/// What has been persisted; `None` while nothing has, which bounds nothing.
pub(super) fn mark(scope: &Scope, dimension: Dimension) -> Option<u64> {
    scope.cells.watermark(dimension).load(Ordering::SeqCst).checked_sub(1)
}
