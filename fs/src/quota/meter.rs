//! The words that every reservation touches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BLOCK_BYTES, Dimension, SMALL_FILE_BYTES};
use crate::sys::shared_memory::{Line, SharedMemory};

/// Stands for no limit.
pub(super) const UNLIMITED: u64 = u64::MAX;

/// Words of a project's line. All of them are 0 in fresh memory.
mod word {
    pub(super) const USED: [usize; 2] = [0, 1];
    /// 1 while `used` is assumed rather than counted.
    pub(super) const ESTIMATED: usize = 2;
    /// What has been persisted, plus 1; 0 while nothing has.
    pub(super) const WATERMARK: [usize; 2] = [3, 4];
    /// How often `used` would have gone below 0.
    pub(super) const SATURATED: usize = 5;
}

/// Where counters live.
pub(crate) enum Cells {
    /// In this process, as those of parents and in tests.
    Private(Box<Line>),
    /// In a line of the memory that outlives the worker.
    Shared(Arc<SharedMemory>, usize),
}

impl Cells {
    /// Makes private ones at 0.
    pub(crate) fn private() -> Self {
        Self::Private(Box::default())
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        match self {
            Self::Private(line) => &line[index],
            Self::Shared(memory, line) => &memory.line(*line)[index],
        }
    }

    pub(super) fn used(&self, dimension: Dimension) -> &AtomicU64 {
        self.word(word::USED[dimension.index()])
    }

    pub(super) fn estimated(&self) -> &AtomicU64 {
        self.word(word::ESTIMATED)
    }

    /// The word with the watermark plus 1.
    pub(super) fn watermark(&self, dimension: Dimension) -> &AtomicU64 {
        self.word(word::WATERMARK[dimension.index()])
    }

    pub(super) fn saturated(&self) -> &AtomicU64 {
        self.word(word::SATURATED)
    }
}

/// Which part of a limit a file may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileClass {
    /// All of it.
    Small,
    /// All but the headroom.
    Large,
}

impl FileClass {
    /// Tells by where the file will end.
    pub(super) const fn of(file_end: u64) -> Self {
        if file_end <= SMALL_FILE_BYTES { Self::Small } else { Self::Large }
    }
}

/// How far `taken` may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caps {
    /// For small files.
    pub(super) small: u64,
    /// For all others.
    pub(super) large: u64,
}

impl Caps {
    /// No limit.
    pub(super) const NONE: Self = Self { small: UNLIMITED, large: UNLIMITED };

    pub(super) const fn of(&self, class: FileClass) -> u64 {
        match class {
            FileClass::Small => self.small,
            FileClass::Large => self.large,
        }
    }
}

/// One dimension of one scope. On cache lines of its own, since every writer of the scope changes it.
#[repr(align(128))]
pub(super) struct Meter {
    /// Used and reserved together.
    taken: AtomicU64,
    cap_small: AtomicU64,
    cap_large: AtomicU64,
    /// The part of `taken` that standing reservations hold.
    held: AtomicU64,
    /// How far ahead of use the watermark is set.
    step: AtomicU64,
}

impl Meter {
    pub(super) const fn new(taken: u64) -> Self {
        Self {
            taken: AtomicU64::new(taken),
            cap_small: AtomicU64::new(UNLIMITED),
            cap_large: AtomicU64::new(UNLIMITED),
            held: AtomicU64::new(0),
            step: AtomicU64::new(0),
        }
    }

    /// Takes `want`, or the whole blocks of it that fit if those are at least `at_least`. Returns what it took and what
    /// is taken then.
    pub(super) fn take(&self, want: u64, at_least: u64, class: FileClass) -> Option<(u64, u64)> {
        let cap = self.caps().of(class);
        // SeqCst: whoever lowers the watermark stores it and then looks at `taken`; a writer takes and then looks at
        // the watermark. One of the two must see the other.
        let mut taken = self.taken.load(Ordering::Acquire);
        loop {
            let room = cap.saturating_sub(taken);
            let granted = if want <= room { want } else { room - room % BLOCK_BYTES };
            if granted < at_least {
                return None;
            }
            match self.taken.compare_exchange_weak(
                taken,
                taken + granted,
                Ordering::SeqCst,
                Ordering::Acquire,
            ) {
                Ok(_) => return Some((granted, taken + granted)),
                Err(now) => taken = now,
            }
        }
    }

    /// Adds what is never refused.
    pub(super) fn add(&self, amount: u64) {
        if amount != 0 {
            self.taken.fetch_add(amount, Ordering::SeqCst);
        }
    }

    /// Gives back what was taken or added before.
    pub(super) fn give_back(&self, amount: u64) {
        if amount != 0 {
            self.taken.fetch_sub(amount, Ordering::SeqCst);
        }
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    pub(super) fn held(&self) -> &AtomicU64 {
        &self.held
    }

    pub(super) fn caps(&self) -> Caps {
        Caps { small: self.cap_small.load(Ordering::Acquire), large: self.cap_large.load(Ordering::Acquire) }
    }

    pub(super) fn set_caps(&self, caps: Caps) {
        self.cap_small.store(caps.small, Ordering::Release);
        self.cap_large.store(caps.large, Ordering::Release);
    }

    pub(super) fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    pub(super) fn set_step(&self, step: u64) {
        self.step.store(step, Ordering::Relaxed);
    }
}
