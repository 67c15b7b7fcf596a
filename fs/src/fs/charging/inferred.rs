//! Booking a write without looking at the file, where what it has taken follows from what is known.
//!
//! A *plain* file has no hole and nothing allocated beyond its end, and its last growth was to the byte what it had to be.
//! A write that begins in it, or at its end, takes just the blocks by which it lengthens the file. This is booked at
//! once, so that counters and limits never lag; only the look at the file, fstat(2) and `SEEK_HOLE`, is left out. It is
//! made up for after [`MOST_INFERRED`] bytes, before a refusal, with the last close, and every few seconds by
//! [`Charging::cool`]. What it finds can differ only by blocks that the filesystem took for itself, as for a longer tree
//! of extents; as each look does, it books the difference to what was booked before, so that no error stays.
//!
//! Whoever may leave holes or allocate beyond the end (truncate, fallocate, extended attributes) is numbered as a *cut*
//! before it begins. A write that was admitted before a cut and is booked after it began looks at the file.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use super::{Charge, Charged, Charging, SELF_CONTAINED, ceil_block, signed};
use crate::accounting::Accounting;
use crate::quota::Reservation;
use crate::sys::extents;

/// What is booked for one file without a look at it. So much needs a block or two for extents, however scattered it lies.
const MOST_INFERRED: u64 = 1 << 20;

/// Where a write was made, all of it, and how many cuts there were when it was admitted.
#[derive(Clone, Copy)]
pub(super) struct AtEnd {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) cuts: u64,
}

impl Charge {
    /// Whether something was booked that nobody has looked at yet.
    pub(in crate::fs) fn is_inferred(&self) -> bool {
        self.state.lock().inferred > 0
    }
}

impl Charging {
    /// Books a write at the end of a plain file and returns by how much its charge grew; `None`, with nothing done, if
    /// that does not follow from what is known.
    pub(super) fn infer(
        &self,
        node: u64,
        charge: &Charge,
        reservation: &mut Option<Reservation<'_>>,
        write: AtEnd,
    ) -> Option<i64> {
        let mut state = charge.state.lock();
        let bytes = state.bytes?;
        let size = state.size.max(write.to);
        // 0 where somebody else has looked, or has booked a write that goes as far, since this one was made.
        let grown = ceil_block(size).saturating_sub(ceil_block(state.size));
        let dense_end = charge.dense_end.load(Ordering::Acquire);
        let follows = state.is_plain
            && !state.is_gone
            && (state.cutters, state.cuts) == (0, write.cuts)
            && dense_end > 0
            && write.from <= dense_end
            && state.hold == 0
            && state.inferred + grown <= MOST_INFERRED;
        // What glows for the first time is booked by a look, which tells a successor of this worker that it does.
        let may_begin_to_glow = self.accounting == Accounting::Allocated
            && bytes.saturating_add(grown) > SELF_CONTAINED
            && !charge.glows.load(Ordering::Relaxed);
        if !follows || may_begin_to_glow {
            return None;
        }
        self.book(node, &mut state, size, bytes.saturating_add(grown), reservation.take(), 0);
        state.inferred += grown;
        // A write within the last block, which takes no lock, may have moved it further.
        charge.dense_end.fetch_max(write.to, Ordering::AcqRel);
        Some(signed(grown))
    }

    /// Whether a file is plain that a look has found to be larger by `added` bytes in whole blocks, and its charge by
    /// `delta`.
    pub(super) fn is_plain(
        &self,
        charge: &Charge,
        state: &Charged,
        file: BorrowedFd<'_>,
        delta: i64,
        added: i64,
    ) -> bool {
        let is_dense = charge.dense_end.load(Ordering::Acquire) > 0;
        if !is_dense || delta != added || added < 0 {
            return false;
        }
        if added == 0 {
            return state.is_plain;
        }
        // Where blocks beyond the end are charged, they make room for what is written there.
        let end = ceil_block(state.size);
        self.accounting != Accounting::Allocated
            || state.bytes == Some(end)
            || extents::has_any_from(file, end) == Ok(false)
    }

    /// Looks at a file of which something was booked without. Returns by how much its charge changed.
    pub(in crate::fs) fn settle_inferred(&self, node: u64, charge: &Charge, file: BorrowedFd<'_>) -> i64 {
        if !charge.is_inferred() {
            return 0;
        }
        let _pending = self.pending();
        self.settle(node, charge, file, None)
    }
}
