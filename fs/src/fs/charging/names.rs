//! Booking inodes that come and go.

use parking_lot::RwLockReadGuard;
use rustix::io::Errno;

use super::{Charging, Pending, errno_of, signed};
use crate::backing::Stat;
use crate::quota::Reservation;

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

    /// Books a new inode that is not a regular file, or an empty one.
    pub(in crate::fs) fn created(&self, node: u64, reservation: Reservation<'_>) {
        let recount = self.charging.recount.load();
        let counted = recount.as_ref().map(|recount| recount.lock(node));
        reservation.settle(0, 1);
        if let Some(mut counted) = counted {
            counted.set(node, 0, 1);
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

    /// Books an inode again that was booked as gone and is open now after all.
    pub(in crate::fs) fn back(&self, node: u64, bytes: u64) {
        let recount = self.charging.recount.load();
        let counted = recount.as_ref().map(|recount| recount.lock(node));
        self.charging.account.settle(signed(bytes), 1);
        if let Some(mut counted) = counted {
            counted.set(node, bytes, 1);
        }
    }

    /// Tells a recount of an inode that may have moved from where it has not looked yet to where it has.
    pub(in crate::fs) fn moved(&self, node: u64, stat: &Stat) {
        if let Some(recount) = &*self.charging.recount.load() {
            self.charging.count(recount, node, stat);
        }
    }
}
