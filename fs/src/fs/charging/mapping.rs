//! Space that is held for stores through shared mappings, which nobody sees.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::{Charge, Charged, Charging, ceil_block, errno_of, floor_block};
use crate::sys::handle::FileHandle;

/// An open for reading and writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::fs) enum Mapper {
    /// It is being opened.
    New,
    /// A worker before this one has opened it; what was granted then is not refused now.
    Inherited,
}

impl Charged {
    /// Up to where a hold pays for every hole. Stores or writes may fill them; each takes its block once.
    fn held_end(&self) -> u64 {
        let end = ceil_block(self.size);
        let is_complete = self.mappers > 0 && self.hold >= end.saturating_sub(self.bytes.unwrap_or(0));
        if is_complete { end } else { 0 }
    }
}

impl Charging {
    /// Before a write far beyond the end of a file that may be mapped: the hole may be filled by stores. Returns up to
    /// where holes are paid for, and the size.
    pub(super) fn hold_gap(&self, state: &mut Charged, offset: u64) -> Result<(u64, u64), Errno> {
        let gap = floor_block(offset).saturating_sub(ceil_block(state.size));
        if state.mappers > 0 && gap > 0 {
            let hold = state.hold + gap;
            self.change_hold(state, hold)?;
        }
        Ok((state.held_end(), state.size))
    }

    /// Gives back what was held for a gap that a refused write does not make.
    pub(super) fn trim_hold(&self, charge: &Charge) {
        let mut state = charge.state.lock();
        let wanted = ceil_block(state.size).saturating_sub(state.bytes.unwrap_or(0));
        let released = state.hold.saturating_sub(wanted);
        if released > 0 {
            self.account.settle_held(0, released);
            state.hold -= released;
        }
    }

    pub(super) fn change_hold(&self, state: &mut Charged, wanted: u64) -> Result<(), Errno> {
        if state.hold != wanted {
            // Whatever is held belongs to a file that may become as large as it looks.
            let end = state.size.max(wanted);
            self.account.adjust_hold(state.hold, wanted, end).map_err(|refusal| errno_of(&refusal))?;
            state.hold = wanted;
        }
        Ok(())
    }

    /// Begins an open for reading and writing: a shared mapping of it may fill every hole unseen, so the holes are
    /// reserved for as long as it is open.
    ///
    /// # Errors
    /// `EDQUOT` or `ENOSPC` when they do not fit; as fstat(2).
    pub(in crate::fs) fn begin_mapping(
        &self,
        node: u64,
        charge: &Charge,
        file: BorrowedFd<'_>,
        mapper: Mapper,
    ) -> Result<(), Errno> {
        self.look(node, charge, file)?;
        let mut state = charge.state.lock();
        if state.is_gone {
            return Ok(());
        }
        let wanted = ceil_block(state.size).saturating_sub(state.bytes.unwrap_or(0));
        match mapper {
            Mapper::New => self.change_hold(&mut state, wanted)?,
            Mapper::Inherited if state.hold == 0 => {
                self.account.adopt_hold(wanted);
                state.hold = wanted;
            }
            Mapper::Inherited => {}
        }
        state.mappers += 1;
        Ok(())
    }

    /// Ends an open for reading and writing: books what stores through mappings have allocated. Returns whether it was the
    /// last one and something is still held for holes: until [`Self::end_outlived`].
    pub(in crate::fs) fn end_mapping(
        &self,
        node: u64,
        charge: &Charge,
        file: Option<BorrowedFd<'_>>,
    ) -> bool {
        if let Some(file) = file {
            self.settle(node, charge, file, None);
        }
        let mut state = charge.state.lock();
        if state.mappers == 1 && state.hold > 0 && !state.is_gone {
            state.is_outlived = true;
            return true;
        }
        state.mappers = state.mappers.saturating_sub(1);
        if state.mappers == 0 {
            self.let_hold_go(node, &mut state);
        }
        false
    }

    /// As [`Self::begin_mapping`], for mappings whose descriptors were closed under a worker before this one.
    ///
    /// # Errors
    /// As [`Self::begin_mapping`].
    pub(in crate::fs) fn restore_outlived(
        &self,
        node: u64,
        file: BorrowedFd<'_>,
        handle: FileHandle,
    ) -> Result<(), Errno> {
        let charge = self.entry(node);
        self.begin_mapping(node, &charge, file, Mapper::Inherited)?;
        let mut state = charge.state.lock();
        if state.is_outlived {
            // It was opened and closed again meanwhile.
            state.mappers -= 1;
        }
        state.is_outlived = true;
        // The kernel may have forgotten the inode under the worker before this one.
        state.handle = Some(handle);
        Ok(())
    }

    /// Books what stores through mappings that have outlived their descriptors have allocated so far.
    pub(in crate::fs) fn settle_outlived(&self, node: u64, file: BorrowedFd<'_>) {
        if let Some(charge) = self.find(node) {
            let _pending = self.pending();
            self.settle(node, &charge, file, None);
        }
    }

    /// The last of those mappings is gone; books what they have allocated.
    pub(in crate::fs) fn end_outlived(&self, node: u64, file: Option<BorrowedFd<'_>>) {
        let Some(charge) = self.find(node) else { return };
        {
            let mut state = charge.state.lock();
            if std::mem::take(&mut state.is_outlived) {
                state.mappers = state.mappers.saturating_sub(1);
            }
        }
        let _pending = self.pending();
        if let Some(file) = file {
            self.settle(node, &charge, file, None);
        }
        let mut state = charge.state.lock();
        if state.mappers == 0 {
            self.let_hold_go(node, &mut state);
        }
    }

    /// Gives back all that is held for a file.
    pub(super) fn let_hold_go(&self, node: u64, state: &mut Charged) {
        if self.change_hold(state, 0).is_err() {
            tracing::error!(ino = node, "space that was held for a mapping is not given back");
        }
    }
}
