//! What is preserved already in the running epoch, inode by inode.
//!
//! All of it may be forgotten at any time: what is preserved a second time does no harm (see [`super::record`]). So it
//! lives in memory only and is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use range_set_blaze::RangeSetBlaze;
use rustc_hash::FxHashMap;

use super::record::ObjectId;
use super::sequence::{Epoch, Sequence};
use crate::sys::handle::FileHandle;

/// Locks that the inodes are divided by.
const SHARDS: usize = 64;
/// Inodes per lock that are remembered without being open; some 130,000 in all.
const MAX_IDLE: usize = 2048;
/// What is copied at least when a part of a large file is overwritten.
pub(super) const UNIT_BYTES: u64 = 64 << 10;

/// What is preserved of one inode.
pub(crate) struct Touched {
    pub(super) handle: FileHandle,
    /// The epoch in which its attributes were noted last.
    attributes: AtomicU32,
    extended_attributes: AtomicU32,
    /// Of a directory: who removed names from it last, and when. See [`Self::begins_burst`].
    removal: AtomicU64,
    /// Held shared by whoever writes, exclusively by whoever preserves: what is preserved holds the effect of all
    /// writes before, and of none after.
    pub(super) content: RwLock<Content>,
    /// Opens that may change it unseen.
    pub(super) mappers: AtomicU32,
    /// Since when a mapping may have stored into it unseen.
    pub(super) mapped_since: Mutex<Option<Sequence>>,
    /// Objects of it that a power cut may still take.
    pub(super) unsynced: Mutex<Vec<ObjectId>>,
    /// Who is making the file durable: what is overwritten meanwhile may be so at once.
    pub(super) syncing: AtomicU32,
}

/// What is preserved of a file's bytes.
pub(super) struct Content {
    /// The epoch that the rest is about.
    pub(super) epoch: Epoch,
    /// Everything, or there is nothing to preserve.
    pub(super) is_whole: bool,
    /// The file's size at the first touch.
    pub(super) size: u64,
    /// Units of [`UNIT_BYTES`] that are preserved.
    pub(super) units: RangeSetBlaze<u64>,
    /// The object that they are in.
    pub(super) object: Option<ObjectId>,
    /// The unit behind the last that was preserved, and how many were at once.
    pub(super) run: (u64, u64),
}

/// Bytes of a file that are about to change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Affected {
    /// A range.
    Range {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// A range whose blocks are given back to the filesystem.
    Freed {
        /// The first byte.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// Everything from here to the end.
    From(u64),
}

impl Affected {
    /// The whole file.
    pub(crate) const ALL: Self = Self::From(0);

    /// Returns the first unit, and the one behind the last, of what lies in a file of this size; nothing if nothing
    /// does.
    pub(super) fn units(self, size: u64) -> std::ops::Range<u64> {
        let (start, end) = match self {
            Self::Range { offset, length } | Self::Freed { offset, length } => {
                (offset, offset.saturating_add(length).min(size))
            }
            Self::From(offset) => (offset, size),
        };
        if start >= end { 0..0 } else { start / UNIT_BYTES..end.div_ceil(UNIT_BYTES) }
    }
}

impl Content {
    fn new() -> Self {
        Self {
            epoch: Epoch(0),
            is_whole: false,
            size: 0,
            units: RangeSetBlaze::new(),
            object: None,
            run: (0, 1),
        }
    }

    /// Whether nothing of this needs to be preserved in an epoch any more.
    pub(super) fn is_preserved(&self, epoch: Epoch, affected: Affected) -> bool {
        self.epoch >= epoch
            && (self.is_whole || affected.units(self.size).all(|unit| self.units.contains(unit)))
    }
}

/// Removals of one process from one directory are one burst as long as it pauses no longer, seconds.
const BURST_SECONDS: u64 = 2;

impl Touched {
    /// Returns the inode.
    pub(crate) fn handle(&self) -> FileHandle {
        self.handle
    }

    /// Whether a removal of a name from this directory, at so many seconds since 1970, is the first one of a burst: how
    /// the directory was before must be noted then, although it may be noted already in this epoch. The moment before
    /// a burst can be asked for, not only the ends of epochs.
    pub(super) fn begins_burst(&self, pid: u32, seconds: u64) -> bool {
        let now = (u64::from(pid) << 32) | (seconds & u64::from(u32::MAX));
        let before = self.removal.swap(now, Ordering::AcqRel);
        before >> 32 != now >> 32 || now.abs_diff(before) > BURST_SECONDS
    }

    fn new(handle: FileHandle) -> Self {
        Self {
            handle,
            attributes: AtomicU32::new(0),
            extended_attributes: AtomicU32::new(0),
            removal: AtomicU64::new(0),
            content: RwLock::new(Content::new()),
            mappers: AtomicU32::new(0),
            mapped_since: Mutex::new(None),
            unsynced: Mutex::new(Vec::new()),
            syncing: AtomicU32::new(0),
        }
    }

    /// Whether the attributes are noted in this epoch or a later one.
    pub(super) fn has_attributes(&self, epoch: Epoch) -> bool {
        self.attributes.load(Ordering::Acquire) >= epoch.0
    }

    /// Remembers that they are, once the entry is in the log.
    pub(super) fn note_attributes(&self, epoch: Epoch) {
        self.attributes.fetch_max(epoch.0, Ordering::AcqRel);
    }

    /// As [`Self::has_attributes`], for the extended ones.
    pub(super) fn has_extended_attributes(&self, epoch: Epoch) -> bool {
        self.extended_attributes.load(Ordering::Acquire) >= epoch.0
    }

    /// As [`Self::note_attributes`], for the extended ones.
    pub(super) fn note_extended_attributes(&self, epoch: Epoch) {
        self.extended_attributes.fetch_max(epoch.0, Ordering::AcqRel);
    }
}

/// Everything that is known of inodes.
pub(super) struct TouchedInodes(Vec<Mutex<FxHashMap<u64, Arc<Touched>>>>);

impl TouchedInodes {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    /// Returns what is known of an inode, nothing at first.
    pub(super) fn get(&self, node: u64, handle: FileHandle) -> Arc<Touched> {
        let mut shard = self.shard(node).lock();
        // Its number may have been another file's.
        if let Some(touched) = shard.get(&node).filter(|touched| touched.handle == handle) {
            return touched.clone();
        }
        if shard.len() >= MAX_IDLE {
            shard.retain(|_, touched| Arc::strong_count(touched) > 1);
        }
        let touched = Arc::new(Touched::new(handle));
        shard.insert(node, touched.clone());
        touched
    }

    fn shard(&self, node: u64) -> &Mutex<FxHashMap<u64, Arc<Touched>>> {
        &self.0[node as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_units_inside_the_file_are_affected() {
        let range = |offset, length| Affected::Range { offset, length };
        assert_eq!(range(0, 1).units(100), 0..1);
        assert_eq!(range(65_535, 2).units(1 << 20), 0..2);
        assert_eq!(range(100, 50).units(100), 0..0, "an append");
        assert_eq!(range(0, u64::MAX).units(65_536), 0..1);
        assert_eq!(Affected::From(70_000).units(200_000), 1..4);
        assert_eq!(Affected::ALL.units(0), 0..0);
    }

    #[test]
    fn idle_inodes_are_forgotten_and_held_ones_are_not() {
        let all = TouchedInodes::new();
        let handle = |node| FileHandle::from_words(1, 8, [node, 0, 0, 0]);
        let held = all.get(0, handle(0));
        held.note_attributes(Epoch(5));
        for node in 1..=(2 * MAX_IDLE * SHARDS) as u64 {
            all.get(node, handle(node));
        }
        assert!(all.get(0, handle(0)).has_attributes(Epoch(5)));
        assert!(all.0.iter().all(|shard| shard.lock().len() <= MAX_IDLE));
        assert!(!all.get(0, handle(7)).has_attributes(Epoch(5)), "another file with its number");
    }
}
