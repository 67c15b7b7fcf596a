//! stat(2), chmod(2), chown(2), truncate(2), utimensat(2), statfs(2).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::{Caller, GuardFs, borrow, is_virtual};
use crate::backing::{Stat, proc_path, stat_of};
use crate::fail_point::{self, Stage};
use crate::inode::{Life, is_past};
use crate::sys::identity;
use crate::tracker::Operation;

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SetTime {
    /// As it is.
    Keep,
    /// The backing filesystem's clock.
    Now,
    /// Exactly this.
    To(Timespec),
}

/// What setattr may change; `None` and [`SetTime::Keep`] leave a field as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SettableAttributes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: SetTime,
    pub(crate) modified: SetTime,
}

impl SettableAttributes {
    /// No change at all.
    const NOTHING: Self = Self {
        mode: None,
        uid: None,
        gid: None,
        size: None,
        accessed: SetTime::Keep,
        modified: SetTime::Keep,
    };
}

impl GuardFs {
    /// Returns a node's attributes and how long they may be trusted.
    ///
    /// # Errors
    /// As statx(2).
    pub(crate) fn attributes(&self, node: u64, number: Option<u64>) -> Result<(Stat, Duration), Errno> {
        if is_virtual(node) {
            return self.virtual_attributes(node);
        }
        if is_past(node) {
            return self.past_attributes(node);
        }
        let open_file = number.and_then(|number| self.files.get(number).ok());
        let stat = match open_file.as_ref().and_then(|open_file| open_file.file_if_open()) {
            Some(file) => stat_of(file)?,
            None => stat_of(borrow(&self.node_fd(node)?))?,
        };
        Ok((self.without_our_name(node, stat), self.attribute_ttl(node)))
    }

    /// A deleted inode has no name, except the one that it is kept by.
    fn without_our_name(&self, node: u64, mut stat: Stat) -> Stat {
        if self.history.is_some() && stat.stx_nlink > 0 && self.table.life(node) != Life::Named {
            stat.stx_nlink -= 1;
        }
        stat
    }

    /// Changes attributes. The kernel has checked that the caller may.
    ///
    /// # Errors
    /// As chown(2), chmod(2), truncate(2) and utimensat(2).
    pub(crate) fn set_attributes(
        &self,
        caller: Caller,
        node: u64,
        number: Option<u64>,
        set: SettableAttributes,
    ) -> Result<(), Errno> {
        if self.is_virtual_truncation(node, &set) {
            return Ok(());
        }
        identity::assume_nobody()?;
        let fd = self.node_fd(node)?;
        self.note_touched(node, borrow(&fd))?;
        let _step = self.before_attributes(caller, node, borrow(&fd), set.mode.is_some())?;
        if set == SettableAttributes::NOTHING {
            // Two calls arrive like this: chown(2) to nobody in particular, and the order to drop privilege bits
            // before fallocate(2) or copy_file_range(2) of a caller without CAP_FSETID. Both drop setuid,
            // setgid and security.capability, as this does.
            rustix::fs::chownat(borrow(&fd), "", None, None, AtFlags::EMPTY_PATH)?;
        }
        // chown first: it strips setuid bits that a mode in the same request may set.
        if (set.uid.is_some() || set.gid.is_some()) && !self.is_squashed() {
            let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
            rustix::fs::chownat(borrow(&fd), "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = set.mode {
            self.set_mode(borrow(&fd), node, mode)?;
        }
        if let Some(size) = set.size {
            self.set_size(caller, borrow(&fd), node, number, size)?;
        }
        if (set.accessed, set.modified) != (SetTime::Keep, SetTime::Keep) {
            let times =
                Timestamps { last_access: timespec(set.accessed), last_modification: timespec(set.modified) };
            rustix::fs::utimensat(borrow(&fd), "", &times, AtFlags::EMPTY_PATH)?;
        }
        fail_point::reach(Stage::Effect);
        // Not the order of the kernel to drop privilege bits, and not the times that go with a truncation.
        if set.size.is_none() && set != SettableAttributes::NOTHING {
            self.note(caller.did(Operation::SetAttributes, node));
        }
        Ok(())
    }

    fn set_mode(&self, fd: BorrowedFd<'_>, node: u64, mode: u32) -> Result<(), Errno> {
        let is_dir = self.table.get(node)?.is_dir();
        let mode = if is_dir { mode & 0o7777 } else { self.allowed_mode(mode) };
        let change = || rustix::fs::chmod(proc_path(fd), Mode::from_raw_mode(mode));
        // A setgid bit that is still there is one that the caller may set (`setattr_prepare` in fs/attr.c).
        if mode & libc::S_ISGID != 0 { identity::with_fsetid(change) } else { change() }?;
        if mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
            self.open_inodes.note_privileged(node);
        }
        Ok(())
    }

    fn set_size(
        &self,
        caller: Caller,
        fd: BorrowedFd<'_>,
        node: u64,
        number: Option<u64>,
        size: u64,
    ) -> Result<(), Errno> {
        let before = stat_of(fd)?;
        let mode = u32::from(before.stx_mode);
        let keeps_privilege =
            mode & (libc::S_ISUID | libc::S_ISGID) != 0 && self.is_allowed_privilege(caller);
        let inode = self.table.get(node)?;
        let touched = self.touched(&inode);
        let truncate = |file: BorrowedFd<'_>| {
            let truncate = || rustix::fs::ftruncate(file, size);
            let truncate = || if keeps_privilege { identity::with_fsetid(truncate) } else { truncate() };
            let _permit = self.before_truncation(&touched, caller, size);
            self.charged_truncation(node, file, size, truncate)
        };
        if let Some(open_file) = number.and_then(|number| self.files.get(number).ok())
            && open_file.is_writer()
        {
            truncate(open_file.file(self)?.as_fd())?;
        } else {
            let file = self.backing.open(&inode.handle, OFlags::WRONLY | OFlags::NONBLOCK)?;
            truncate(file.as_fd())?;
        }
        let delta = self.charge(&stat_of(fd)?).saturating_sub(self.charge(&before));
        self.note(caller.did(Operation::Truncate, node).range(0, size).costing(0, delta));
        Ok(())
    }
}

fn timespec(time: SetTime) -> Timespec {
    match time {
        SetTime::Keep => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        SetTime::Now => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        SetTime::To(time) => time,
    }
}
