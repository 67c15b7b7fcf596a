//! One scope: its counters and its book.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::book::Book;
use super::meter::{Cells, FileClass, Meter};
use super::refusal::Refusal;
use super::watermark;
use super::{BLOCK_BYTES, Dimension, ScopeKey};

/// See the module. Children change the counters of their parents, never the other way round.
pub(super) struct Scope {
    pub(super) key: ScopeKey,
    pub(super) cells: Cells,
    meters: [Meter; 2],
    /// Reservations that this scope refused.
    pub(super) refused: AtomicU64,
    /// Bytes in the trash of its projects.
    pub(super) reclaimable: AtomicU64,
    /// How many of its projects are estimated.
    pub(super) estimated: AtomicU64,
    /// How many projects are attached below it (1 for a project).
    pub(super) projects: AtomicU64,
    /// Reservations that passed the watermark because it was not persisted in time.
    pub(super) overruns: AtomicU64,
    pub(super) book: Mutex<Book>,
}

impl Scope {
    /// Makes a scope that uses what `cells` hold.
    pub(super) fn new(key: ScopeKey, cells: Cells, book: Book) -> Self {
        let meters =
            Dimension::ALL.map(|dimension| Meter::new(cells.used(dimension).load(Ordering::Acquire)));
        let scope = Self {
            key,
            cells,
            meters,
            refused: AtomicU64::new(0),
            reclaimable: AtomicU64::new(0),
            estimated: AtomicU64::new(0),
            projects: AtomicU64::new(0),
            overruns: AtomicU64::new(0),
            book: Mutex::new(book),
        };
        scope.refresh(&scope.book.lock());
        scope
    }

    pub(super) fn meter(&self, dimension: Dimension) -> &Meter {
        &self.meters[dimension.index()]
    }

    pub(super) fn used(&self, dimension: Dimension) -> u64 {
        self.cells.used(dimension).load(Ordering::Acquire)
    }

    /// Use of both dimensions, as the book wants it.
    pub(super) fn all_used(&self) -> [u64; 2] {
        Dimension::ALL.map(|dimension| self.used(dimension))
    }

    /// Puts what the book says into effect.
    pub(super) fn refresh(&self, book: &Book) {
        for dimension in Dimension::ALL {
            let meter = self.meter(dimension);
            meter.set_caps(book.caps(dimension));
            meter.set_step(watermark::step(dimension, book.effective(dimension).hard));
        }
    }

    /// Lets growth up to the hard limit happen again where use has fallen to the soft limit after its grace period.
    /// Returns whether that was so.
    pub(super) fn relax(&self, dimension: Dimension) -> bool {
        let mut book = self.book.lock();
        let has_relaxed = book.relax(dimension, self.used(dimension));
        if has_relaxed {
            self.refresh(&book);
        }
        has_relaxed
    }

    /// Whether only reservations of operations under way stand in the way of `least` more.
    pub(super) fn is_briefly_full(&self, dimension: Dimension, least: u64, class: FileClass) -> bool {
        let meter = self.meter(dimension);
        let standing = self.used(dimension).saturating_add(meter.held().load(Ordering::Acquire));
        standing.saturating_add(least) <= meter.caps().of(class)
    }

    /// Counts and explains a refusal.
    pub(super) fn refuse(&self, dimension: Dimension, wanted: u64, class: FileClass) -> Refusal {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let book = self.book.lock();
        let used = self.used(dimension);
        let (reason, errno) = book.reason(dimension, used, class);
        Refusal {
            scope: self.key.clone(),
            dimension,
            reason,
            limit: book.caps(dimension).of(class),
            used,
            wanted,
            errno: errno.errno(),
        }
    }
}

/// The least that a reservation is satisfied with.
pub(super) const fn smallest_grant(dimension: Dimension, want: u64, at_least: u64) -> u64 {
    match dimension {
        Dimension::Inodes => want,
        Dimension::Bytes => {
            let least = if at_least < BLOCK_BYTES { BLOCK_BYTES } else { at_least };
            if least < want { least } else { want }
        }
    }
}
