//! Booking inodes that come and go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::RwLockReadGuard;
use rustix::io::Errno;

use super::{Charge, Charging, Pending, errno_of, signed};
use crate::backing::Stat;
use crate::quota::Reservation;
use crate::sys::handle::FileHandle;

/// A change of names under way.
pub(in crate::fs) struct Names<'a> {
    charging: &'a Charging,
    _shared: RwLockReadGuard<'a, ()>,
    pending: Option<Pending<'a>>,
}

impl<'a> Names<'a> {
    pub(super) fn begin_in(charging: &'a Charging) -> Self {
        Self { charging, _shared: charging.gate.read(), pending: None }
    }

    /// Reserves a new inode.
    ///
    /// # Errors
    /// `EDQUOT` or `ENOSPC` when there is none left.
    pub(in crate::fs) fn admit_inode(&mut self) -> Result<Reservation<'a>, Errno> {
        self.begin();
        self.charging.account.reserve(0, 0, 1, 0).map_err(|refusal| errno_of(&refusal))
    }

    /// Reserves an inode with its bytes, which comes back from the trash.
    ///
    /// # Errors
    /// `EDQUOT` or `ENOSPC` when they do not fit.
    pub(in crate::fs) fn admit_return(&mut self, bytes: u64, size: u64) -> Result<Reservation<'a>, Errno> {
        self.begin();
        self.charging.account.reserve(bytes, bytes, 1, size).map_err(|refusal| errno_of(&refusal))
    }

    /// Books an inode that came back.
    pub(in crate::fs) fn returned(&self, node: u64, reservation: Reservation<'_>, bytes: u64) {
        let recount = self.charging.recount.load();
        let counted = recount.as_ref().map(|recount| recount.lock(node));
        reservation.settle(signed(bytes), 1);
        if let Some(mut counted) = counted {
            counted.set(node, bytes, 1);
        }
    }

    /// Marks a change that takes no inode as under way.
    pub(in crate::fs) fn begin(&mut self) {
        self.pending.get_or_insert_with(|| self.charging.pending());
    }

    /// Books a new inode, without its bytes.
    pub(in crate::fs) fn created(&self, node: u64, reservation: Reservation<'_>) {
        self.charging.drop_gone(node);
        let recount = self.charging.recount.load();
        let counted = recount.as_ref().map(|recount| recount.lock(node));
        reservation.settle(0, 1);
        if let Some(mut counted) = counted {
            counted.set(node, 0, 1);
        }
    }

    /// Tells a recount of an inode that has lost its last name: the walk cannot find it any more, and it may stay open.
    pub(in crate::fs) fn nameless(&self, node: u64, bytes: u64) {
        if let Some(recount) = &*self.charging.recount.load() {
            let bytes = self.charging.charged(node).unwrap_or(bytes);
            recount.lock(node).set_if_absent(node, bytes, 1);
        }
    }

    /// Books an inode that is gone: nothing refers to it any more.
    pub(in crate::fs) fn gone(&self, node: u64, bytes: u64) {
        let recount = self.charging.recount.load();
        let counted = recount.as_ref().map(|recount| recount.lock(node));
        self.charging.account.settle(-signed(bytes), -1);
        if let Some(mut counted) = counted {
            counted.set(node, 0, 0);
        }
    }

    /// Books an inode again that was booked as gone and is open now after all; returns the bytes.
    pub(in crate::fs) fn back(&self, node: u64, stat: &Stat) -> u64 {
        let bytes = self.charging.accounting.charge(stat);
        let recount = self.charging.recount.load();
        let counted = recount.as_ref().map(|recount| recount.lock(node));
        self.charging.account.settle(signed(bytes), 1);
        if let Some(mut counted) = counted {
            counted.set(node, bytes, 1);
        }
        self.charging.enter_again(node, stat, bytes);
        bytes
    }

    /// Tells a recount of an inode that may have moved from where it has not looked yet to where it has.
    pub(in crate::fs) fn moved(&self, node: u64, stat: &Stat, handle: FileHandle) {
        if let Some(recount) = &*self.charging.recount.load() {
            self.charging.count(recount, node, stat, || Ok(handle));
        }
    }
}

impl Charging {
    /// Enters a regular file that was just created: it may have a block for attributes already.
    pub(in crate::fs) fn created(&self, node: u64, stat: &Stat) {
        let charge = self.entry(node);
        let mut state = charge.state.lock();
        if state.bytes.is_none() {
            self.first_look(node, &mut state, stat.stx_size, self.accounting.charge(stat));
        } else {
            // Somebody has found it by its name and looked at it; or this stems from a file with the same number that
            // was removed below the mount, after which the project is counted anyway.
            charge.dense_end.store(0, Ordering::Release);
        }
        // The watcher reports it as changed, as it does foreign ones.
        state.changed = Some(Instant::now());
        let recount = self.recount.load();
        let counted = recount.as_ref().map(|recount| recount.lock(node));
        if state.first > 0 {
            self.account.settle(signed(state.first), 0);
        }
        if let (Some(mut counted), Some(bytes)) = (counted, state.bytes) {
            counted.set(node, bytes, 1);
        }
    }

    /// Drops the entry of an inode that is gone and returns what was charged for it. Whoever still holds the entry books
    /// nothing more.
    pub(in crate::fs) fn forget(&self, node: u64) -> Option<u64> {
        let charge = self.shard(node).lock().remove(&node)?;
        self.mark_gone(node, &charge)
    }

    /// The same for an entry that was made after that.
    pub(in crate::fs) fn mark_gone(&self, node: u64, charge: &Charge) -> Option<u64> {
        let mut state = charge.state.lock();
        self.let_hold_go(node, &mut state);
        state.is_gone = true;
        charge.dense_end.store(0, Ordering::Release);
        state.bytes
    }

    /// Enters an inode again that was gone, of which `used` contains what `stat` says again.
    fn enter_again(&self, node: u64, stat: &Stat, bytes: u64) {
        let charge = Arc::new(Charge::default());
        self.first_look(node, &mut charge.state.lock(), stat.stx_size, bytes);
        let mut shard = self.shard(node).lock();
        if let Some(stale) = shard.insert(node, charge) {
            let mut state = stale.state.lock();
            // It was made while the inode was gone, but by somebody who saw it come back: whatever they have booked.
            if let (Some(bytes), false) = (state.bytes, state.is_gone) {
                self.account.settle(signed(state.first) - signed(bytes), 0);
            }
            self.let_hold_go(node, &mut state);
            state.is_gone = true;
            stale.dense_end.store(0, Ordering::Release);
        }
    }

    /// Drops what is left of a file that is gone and had the number of a new one.
    fn drop_gone(&self, node: u64) {
        let mut shard = self.shard(node).lock();
        if shard.get(&node).is_some_and(|charge| charge.state.lock().is_gone) {
            shard.remove(&node);
        }
    }
}
