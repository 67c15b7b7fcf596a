//! What is known of a file's blocks: whether it has holes, and which of its blocks are there.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use rustix::fs::SeekFrom;

use super::{Accounting, Charge, Charged, Charging, ceil_block};
use crate::sys::extents;

impl Charging {
    /// Finds out whether the file has holes.
    pub(super) fn measure(&self, charge: &Charge, state: &Charged, file: BorrowedFd<'_>) {
        let known = charge.dense_end.load(Ordering::Acquire);
        let dense_end = match state.bytes {
            Some(bytes) if state.cutters == 0 => dense_end(self.accounting, file, known, state.size, bytes),
            Some(_) | None => 0,
        };
        charge.dense_end.store(dense_end, Ordering::Release);
    }
}

/// Returns `size` if the file has no hole, which is known up to `known`; else 0.
///
/// That it has enough blocks shows nothing: some may lie beyond its end, others hold attributes and the tree of extents.
fn dense_end(accounting: Accounting, file: BorrowedFd<'_>, known: u64, size: u64, bytes: u64) -> u64 {
    if size == 0 || bytes < ceil_block(size) {
        return 0;
    }
    if accounting == Accounting::Logical {
        return size;
    }
    // A descriptor that only names the file (O_PATH) tells nothing.
    match rustix::fs::seek(file, SeekFrom::Hole(known.min(size - 1))) {
        Ok(hole) if hole >= size => size,
        Ok(_) | Err(_) => 0,
    }
}

/// Returns up to where blocks are there for `from..to`; `from` if the first one is not.
///
/// Somebody may free them before they are written to. Then a full project grows by this one write, and by no more: the
/// next one is refused.
pub(super) fn allocated_until(file: BorrowedFd<'_>, from: u64, to: u64) -> u64 {
    if from >= to {
        return from;
    }
    if let Ok(end) = extents::allocated_until(file, from, to) {
        return end;
    }
    match (rustix::fs::seek(file, SeekFrom::Data(from)), rustix::fs::seek(file, SeekFrom::Hole(from))) {
        (Ok(data), Ok(hole)) if data == from => hole.min(to),
        _ => from,
    }
}
