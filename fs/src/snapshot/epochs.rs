//! Which epoch an operation belongs to, and when an epoch has no operation any more.
//!
//! Nobody waits for the end of an epoch except who ends it. An operation counts itself in, under the epoch that it saw,
//! and looks once more: if the epoch is still the same, whoever ends it from then on waits for the operation. The
//! counts are spread over cache lines, so that operations of different threads do not meet.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::sequence::{Epoch, Sequence};

/// Threads beyond that many share a line.
const LINES: usize = 16;
/// How often the end of an epoch looks whether everybody has left.
const STEP: Duration = Duration::from_micros(100);

#[repr(align(64))]
#[derive(Default)]
struct Line(AtomicU64);

#[derive(Default)]
struct Parity {
    inside: [Line; LINES],
    /// Moments given out in the epoch.
    moments: Line,
}

impl Parity {
    fn is_empty(&self) -> bool {
        self.inside.iter().all(|line| line.0.load(Ordering::SeqCst) == 0)
    }
}

/// The running epoch of one workspace.
pub(super) struct Epochs {
    current: AtomicU32,
    /// Only the running epoch and the one before can have operations.
    parities: [Parity; 2],
    ending: Mutex<()>,
}

/// An operation of an epoch. What it changes until it is dropped belongs to [`Self::epoch`] or to a later one.
pub(crate) struct Entered<'a> {
    line: &'a AtomicU64,
    epoch: Epoch,
}

impl Entered<'_> {
    /// Returns the epoch that was running when the operation began.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.line.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Operations of the epoch before have still not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "an operation that began before the last snapshot is still under way after {waited:?}; the disk may hang"
)]
pub(crate) struct StillRunning {
    /// How long it was waited for.
    pub(crate) waited: Duration,
}

impl Epochs {
    /// Begins with an epoch that nobody has used.
    pub(super) fn new(first: Epoch) -> Self {
        Self { current: AtomicU32::new(first.0), parities: Default::default(), ending: Mutex::new(()) }
    }

    /// Returns the running epoch.
    pub(super) fn current(&self) -> Epoch {
        Epoch(self.current.load(Ordering::SeqCst))
    }

    /// Takes part in the running epoch.
    pub(super) fn enter(&self) -> Entered<'_> {
        let slot = slot();
        loop {
            let epoch = self.current();
            let line = &self.parity(epoch).inside[slot].0;
            line.fetch_add(1, Ordering::SeqCst);
            let entered = Entered { line, epoch };
            if self.current() == epoch {
                return entered;
            }
        }
    }

    /// Returns the next moment of an epoch that has operations.
    pub(super) fn moment(&self, epoch: Epoch) -> Sequence {
        Sequence::new(epoch, self.parity(epoch).moments.0.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns how many moments the running epoch has had.
    pub(super) fn moments(&self) -> u64 {
        self.parity(self.current()).moments.0.load(Ordering::Relaxed)
    }

    /// Begins the next epoch and returns the one that ended; its operations may still be under way, see [`Self::drain`].
    ///
    /// # Errors
    /// While operations of the epoch before that one are under way, after `patience`.
    pub(super) fn end(&self, patience: Duration) -> Result<Epoch, StillRunning> {
        let _only_one = self.ending.lock();
        let ended = self.current();
        let next = self.parity(ended.next());
        wait_until_empty(next, patience)?;
        next.moments.0.store(0, Ordering::SeqCst);
        self.current.store(ended.next().0, Ordering::SeqCst);
        Ok(ended)
    }

    /// Waits until every operation of an ended epoch has ended.
    ///
    /// # Errors
    /// If that takes longer than `patience`.
    pub(super) fn drain(&self, ended: Epoch, patience: Duration) -> Result<(), StillRunning> {
        wait_until_empty(self.parity(ended), patience)
    }

    /// Begins the epoch behind `last`, which is not the one before the running one.
    ///
    /// # Errors
    /// While operations are under way, after `patience`.
    pub(super) fn skip_behind(&self, last: Epoch, patience: Duration) -> Result<(), StillRunning> {
        let _only_one = self.ending.lock();
        let current = self.current();
        if current > last {
            return Ok(());
        }
        // The parity that has no operations takes the new ones.
        let mut next = last.next();
        if next.0 & 1 == current.0 & 1 {
            next = next.next();
        }
        wait_until_empty(self.parity(next), patience)?;
        self.parity(next).moments.0.store(0, Ordering::SeqCst);
        self.current.store(next.0, Ordering::SeqCst);
        wait_until_empty(self.parity(current), patience)
    }

    fn parity(&self, epoch: Epoch) -> &Parity {
        &self.parities[(epoch.0 & 1) as usize]
    }
}

fn wait_until_empty(parity: &Parity, patience: Duration) -> Result<(), StillRunning> {
    let begun = Instant::now();
    while !parity.is_empty() {
        let waited = begun.elapsed();
        if waited > patience {
            return Err(StillRunning { waited });
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// Returns the line of the calling thread.
fn slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
    }
    SLOT.get().unwrap_or_else(|| {
        let slot = NEXT.fetch_add(1, Ordering::Relaxed) % LINES;
        SLOT.set(Some(slot));
        slot
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn the_end_of_an_epoch_waits_for_its_operations_and_new_ones_do_not_wait() {
        let epochs = Epochs::new(Epoch(1));
        let old = epochs.enter();
        assert_eq!(epochs.end(SHORT), Ok(Epoch(1)));
        let new = epochs.enter();
        assert_eq!((old.epoch(), new.epoch()), (Epoch(1), Epoch(2)));
        assert!(epochs.drain(Epoch(1), SHORT).is_err());
        // A third epoch would share its counts with the first.
        assert!(epochs.end(SHORT).is_err());
        drop(old);
        assert_eq!(epochs.drain(Epoch(1), SHORT), Ok(()));
        drop(new);
        assert_eq!(epochs.end(SHORT), Ok(Epoch(2)));
    }

    #[test]
    fn epochs_that_somebody_else_knows_are_skipped() {
        let epochs = Epochs::new(Epoch(1));
        epochs.moment(Epoch(1));
        epochs.skip_behind(Epoch(10), SHORT).unwrap();
        assert!(epochs.current() > Epoch(10));
        assert_eq!(epochs.moments(), 0);
        let current = epochs.current();
        epochs.skip_behind(Epoch(3), SHORT).unwrap();
        assert_eq!(epochs.current(), current);
    }

    #[test]
    fn moments_of_an_epoch_begin_anew() {
        let epochs = Epochs::new(Epoch(1));
        assert_eq!(epochs.moment(Epoch(1)), Sequence::new(Epoch(1), 0));
        assert_eq!(epochs.moment(Epoch(1)), Sequence::new(Epoch(1), 1));
        epochs.end(SHORT).unwrap();
        assert_eq!(epochs.moments(), 0);
        assert_eq!(epochs.moment(Epoch(2)), Sequence::new(Epoch(2), 0));
        assert_eq!(epochs.moment(Epoch(1)), Sequence::new(Epoch(1), 2));
    }

    #[test]
    fn whoever_saw_an_effect_of_the_next_epoch_is_in_the_next_epoch() {
        let epochs = Epochs::new(Epoch(1));
        let is_done = AtomicBool::new(false);
        let highest = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !is_done.load(Ordering::SeqCst) {
                        let seen = highest.load(Ordering::SeqCst);
                        let entered = epochs.enter();
                        assert!(entered.epoch().0 >= seen, "{:?} after {seen}", entered.epoch());
                        highest.fetch_max(entered.epoch().0, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..2_000 {
                let ended = epochs.end(LONG).unwrap();
                epochs.drain(ended, LONG).unwrap();
            }
            is_done.store(true, Ordering::SeqCst);
        });
        assert_eq!(epochs.current(), Epoch(2_001));
    }
}
