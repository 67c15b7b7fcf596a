//! How operations are charged: what they call around their effect.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, StatVfs};
use rustix::io::Errno;

use super::charging::{Charge, Charging, Names, ceil_block};
use super::open_files::OpenFile;
use super::{GuardFs, borrow, refusals};
use crate::accounting::Accounting;
use crate::backing::{Backing, Stat, stat_of};
use crate::inode::Life;
use crate::quota::{Account, Cells, HostSpace, Ledger};
use crate::state::mark;
use crate::sys::extents;
use crate::sys::handle::FileHandle;
use crate::sys::shared_memory::SharedMemory;
use crate::sys::writeback;

/// How long a refused operation waits for files that were closed a moment ago to be released, and how often it looks.
const PATIENCE: Duration = Duration::from_millis(20);
const STEP: Duration = Duration::from_millis(2);

/// `statfs(2)` magic numbers of filesystems whose `st_blocks` is up to date at once.
mod magic {
    pub(super) const EXT4: i64 = 0xef53;
    pub(super) const XFS: i64 = 0x5846_5342;
    pub(super) const BTRFS: i64 = 0x9123_683e;
    pub(super) const TMPFS: i64 = 0x0102_1994;
}

/// Where a workspace sits in the ledger.
#[derive(Clone)]
pub(crate) struct Seat {
    /// The ledger.
    pub(crate) ledger: Arc<Ledger>,
    /// The workspace's id.
    pub(crate) project: String,
    /// Who owns its directory, and so pays.
    pub(crate) owner: u32,
    /// The owner's group of users, if there is one.
    pub(crate) group: Option<String>,
    /// The filesystem it lies on.
    pub(crate) pool: u64,
    /// How to count; `None` chooses by the filesystem.
    pub(crate) accounting: Option<Accounting>,
    /// Bytes and inodes that a new mount is taken to use until it is counted.
    pub(crate) assumed: (u64, u64),
}

impl Seat {
    pub(super) fn take(&self, memory: Arc<SharedMemory>) -> Arc<Account> {
        let cells = Cells::Shared(memory, mark::QUOTA);
        self.ledger.attach(&self.project, self.owner, self.group.as_deref(), self.pool, cells)
    }

    /// What a mount that nobody has used yet is charged for until it is counted.
    pub(super) fn assume(&self, account: &Account) {
        account.set_used(self.assumed.0, self.assumed.1);
        account.set_estimated(true);
    }

    pub(super) fn accounting_of(&self, backing: &Backing) -> Accounting {
        self.accounting.unwrap_or_else(|| natural_accounting(backing))
    }
}

/// How bytes are counted on a filesystem unless somebody says otherwise.
pub(super) fn natural_accounting(backing: &Backing) -> Accounting {
    match backing.filesystem_magic() {
        Ok(magic::EXT4 | magic::BTRFS | magic::TMPFS) => Accounting::Allocated,
        Ok(magic::XFS) => Accounting::AllocatedToSize,
        Ok(_) => Accounting::Logical,
        Err(errno) => {
            tracing::warn!(%errno, "filesystem is not known; sizes are counted instead of blocks");
            Accounting::Logical
        }
    }
}

impl GuardFs {
    /// Takes part in a change of names; `None` where nothing is counted.
    pub(super) fn begin_names(&self) -> Option<Names<'_>> {
        self.charging.as_ref().map(Charging::begin_names)
    }

    /// Runs a change of a file that needs no reservation, and books it.
    ///
    /// # Errors
    /// As the change; as fstat(2).
    pub(super) fn charged_change<T>(
        &self,
        node: u64,
        file: BorrowedFd<'_>,
        change: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let Some(charging) = &self.charging else { return change() };
        let charge = self.entry_of(charging, node);
        let mut admitted = charging.admit_change(node, &charge, file)?;
        charging.begin_cut(&charge, &mut admitted);
        let result = change();
        charging.settle_change(node, &charge, file, admitted);
        drop(charge);
        charging.let_go(node);
        result
    }

    /// Attributes of a file are about to change, which costs nothing but is reported by the watcher.
    ///
    /// # Errors
    /// As fstat(2).
    pub(super) fn note_touched(&self, node: u64, file: BorrowedFd<'_>) -> Result<(), Errno> {
        let Some(charging) = &self.charging else { return Ok(()) };
        charging.note_touched(node, &self.entry_of(charging, node), file)
    }

    /// Returns the entry of an inode that may not be open, and so may have gone since its name was looked up.
    fn entry_of(&self, charging: &Charging, node: u64) -> Arc<Charge> {
        let charge = charging.entry(node);
        // What goes after this marks the entry, which it finds.
        if self.table.life(node) == Life::Gone {
            charging.mark_gone(node, &charge);
        }
        charge
    }

    /// Runs a truncation to `size`, and books it.
    ///
    /// # Errors
    /// As the truncation; `EDQUOT` or `ENOSPC` where a mapping may fill what it adds.
    pub(super) fn charged_truncation(
        &self,
        node: u64,
        file: BorrowedFd<'_>,
        size: u64,
        truncate: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let Some(charging) = &self.charging else { return truncate() };
        let charge = self.entry_of(charging, node);
        let admitted = self.retry_when_over(|| charging.admit_truncation(node, &charge, file, size))?;
        let result = truncate();
        charging.settle_change(node, &charge, file, admitted);
        drop(charge);
        charging.let_go(node);
        result
    }

    /// Asks for space, again if it was refused while space is about to come back.
    ///
    /// # Errors
    /// As `admit`.
    pub(super) fn retry_when_over<T>(&self, admit: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        let deadline = Instant::now() + PATIENCE;
        let mut is_retry = false;
        loop {
            let refused = match admit() {
                Err(errno @ (Errno::DQUOT | Errno::NOSPC)) => errno,
                result => {
                    if is_retry {
                        refusals::forget();
                    }
                    return result;
                }
            };
            if !is_retry && self.has_outlived() {
                self.settle_all_outlived();
            } else if self.deleted_open.load(Ordering::Acquire) == 0 || Instant::now() >= deadline {
                return Err(refused);
            } else {
                std::thread::sleep(STEP);
            }
            is_retry = true;
        }
    }

    /// Rebuilds what a worker before this one knew of open files.
    pub(super) fn restore_charges(&self) {
        let Some(charging) = &self.charging else { return };
        for node in self.open_inodes.nodes() {
            if self.table.life(node) != Life::DeletedOpen {
                continue;
            }
            let bytes = match self.node_fd(node).and_then(|fd| stat_of(borrow(&fd))) {
                Ok(stat) => charging.accounting().charge(&stat),
                Err(errno) => {
                    tracing::warn!(ino = node, %errno, "an open file without a name cannot be looked at");
                    charging.account().set_estimated(true);
                    0
                }
            };
            let noted = || {
                self.deleted_open.fetch_add(1, Ordering::AcqRel);
            };
            self.open_inodes.note_deleted(node, bytes, noted, || {});
        }
        if charging.take_unbooked() > 0 || self.outlived.take_unwritten() > 0 || charging.may_glow() {
            charging.account().set_estimated(true);
        }
    }

    /// Reserves again what stores through mappings of files that were open before a takeover may fill. Opens files,
    /// so not before the first request is answered.
    pub(crate) fn restore_mappings(&self) {
        let Some(charging) = &self.charging else { return };
        self.restore_outlived(charging);
        self.files.for_each(|open_file| {
            let begun = self.begin_mapping_again(open_file, charging);
            if let Err(errno) = begun {
                tracing::warn!(ino = open_file.node, %errno, "no space is held for a file that may be mapped");
            }
        });
    }

    /// Returns statvfs(3) as the quota lets the caller see it.
    ///
    /// # Errors
    /// As statvfs(3).
    pub(crate) fn statvfs(&self) -> Result<StatVfs, Errno> {
        self.measure_kernel_use();
        let mut stat = self.backing.statvfs()?;
        let Some(charging) = &self.charging else { return Ok(stat) };
        let shown = charging.account().statfs(host_space_of(&stat));
        (stat.f_blocks, stat.f_bfree, stat.f_bavail) =
            (shown.blocks, shown.blocks_free, shown.blocks_available);
        (stat.f_files, stat.f_ffree, stat.f_favail) = (shown.files, shown.files_free, shown.files_free);
        (stat.f_bsize, stat.f_frsize) = (4096, 4096);
        Ok(stat)
    }

    /// Returns how full the filesystem below is.
    ///
    /// # Errors
    /// As statvfs(3).
    pub(crate) fn host_space(&self) -> Result<HostSpace, Errno> {
        self.backing.statvfs().map(|stat| host_space_of(&stat))
    }

    /// Looks again at files that were closed a while ago; see [`super::charging`]. Called every few seconds.
    pub(crate) fn cool_charges(&self) {
        if let Some(charging) = &self.charging {
            self.settle_all_outlived();
            charging.cool(Instant::now(), &|node, handle| self.reach(node, handle), &|node, handle, size| {
                self.is_still(node, handle, size)
            });
        }
    }

    /// Books what writing a file back has changed.
    pub(super) fn settle_synced(&self, node: u64, file: BorrowedFd<'_>) {
        if let Some(charging) = &self.charging {
            charging.settle_synced(node, file);
        }
    }

    /// Looks at a file that is about to be closed, if something was booked for it without a look. Without success it is
    /// looked at within seconds.
    pub(super) fn settle_inferred(&self, open_file: &OpenFile) {
        let Some(charging) = &self.charging else { return };
        let Some(charge) = open_file.known_charge().filter(|charge| charge.is_inferred()) else { return };
        match open_file.file(self) {
            Ok(file) => {
                let delta = charging.settle_inferred(open_file.node, charge, file.as_fd());
                if let Some(tally) = open_file.known_tally() {
                    tally.cost(delta);
                }
            }
            Err(errno) => {
                tracing::debug!(ino = open_file.node, %errno, "a closed file cannot be looked at; later");
            }
        }
    }

    /// Looks again at a file that was closed, where closing may free blocks.
    pub(super) fn look_at_closed(&self, node: u64) {
        if let Some(charging) = &self.charging {
            charging.closed(node, &|node, handle| self.reach(node, handle));
        }
    }

    /// Looks again at every file that was changed a while ago, once everything is written back.
    pub(crate) fn settle_all(&self) {
        if let Some(charging) = &self.charging {
            charging.look_at_all(&|node, handle| self.reach(node, handle));
        }
    }

    /// Somebody may have changed an inode below the mount.
    pub(super) fn recheck_charge(&self, node: u64) {
        if let Some(charging) = &self.charging
            && !charging.recheck(node, &|node, handle| self.reach(node, handle))
        {
            self.note_foreign_edit();
        }
    }

    /// Something changed below the mount, and it is not known what that costs: the project is counted again soon.
    pub(super) fn note_foreign_edit(&self) {
        self.foreign_edits.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many such changes there were.
    pub(crate) fn foreign_edits(&self) -> u64 {
        self.foreign_edits.load(Ordering::Relaxed)
    }

    /// Looks at an inode that may not be open; `None` if it is gone.
    fn reach(&self, node: u64, handle: Option<FileHandle>) -> Result<Option<Stat>, Errno> {
        let Some(file) = self.open_reached(node, handle, OFlags::PATH)? else { return Ok(None) };
        let stat = stat_of(file.as_fd())?;
        // Another file may have had the name when the handle was taken; and a deleted one has a name in the store.
        let is_named = stat.stx_nlink > 0 && self.table.life(node) == Life::Named;
        Ok((is_named && self.node_of(&stat)? == node).then_some(stat))
    }

    /// See [`super::charging::Still`].
    fn is_still(&self, node: u64, handle: Option<FileHandle>, size: Option<u64>) -> Result<bool, Errno> {
        let Some(file) = self.open_reached(node, handle, OFlags::RDONLY | OFlags::NONBLOCK)? else {
            return Ok(true);
        };
        writeback::write_out(file.as_fd())?;
        match size {
            Some(size) => extents::has_any_from(file.as_fd(), ceil_block(size)).map(|is_beyond| !is_beyond),
            None => Ok(true),
        }
    }

    fn open_reached(
        &self,
        node: u64,
        handle: Option<FileHandle>,
        flags: OFlags,
    ) -> Result<Option<OwnedFd>, Errno> {
        let handle = match (self.table.get(node), handle) {
            (Ok(inode), _) => inode.handle,
            (Err(_), Some(handle)) => handle,
            (Err(_), None) => {
                // The kernel has forgotten it, and nobody has noted how it is reached.
                self.note_foreign_edit();
                return Ok(None);
            }
        };
        match self.backing.open(&handle, flags | OFlags::NOFOLLOW) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::STALE) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Returns the account that pays, if anything is counted.
    pub(crate) fn account(&self) -> Option<&Arc<Account>> {
        self.charging.as_ref().map(Charging::account)
    }

    /// Returns how bytes are counted.
    pub(crate) fn accounting(&self) -> Accounting {
        self.accounting
    }
}

fn host_space_of(stat: &StatVfs) -> HostSpace {
    let unit = stat.f_frsize.max(1);
    HostSpace {
        total_bytes: stat.f_blocks.saturating_mul(unit),
        free_bytes: stat.f_bfree.saturating_mul(unit),
        available_bytes: stat.f_bavail.saturating_mul(unit),
        total_inodes: stat.f_files,
        free_inodes: stat.f_favail,
    }
}
