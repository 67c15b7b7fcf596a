//! Writers that the kernel passes through, where the filesystem below enforces the workspace's limit by itself.
//!
//! Their writes do not reach the worker. What a file costs is taken from the kernel, for the project as a whole; what was
//! written is known per open: a file that has changed between open and release was written by whoever had it open.
//!
//! Whether writes reach the worker is decided at open(2), for good: turning the tier on or off concerns later opens only.
//! Opens of both kinds mix on one inode, all of them being passthrough for the kernel (fs/fuse/iomode.c).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use rustix::io::Errno;

use super::GuardFs;
use super::open_files::OpenFile;
use super::open_inodes::OpenInodeState;
use crate::kernel_quota::Subvolume;

/// See the module.
#[derive(Default)]
pub(super) struct KernelTier {
    subvolume: ArcSwapOption<Subvolume>,
    /// Open files whose writes do not reach the worker.
    unseen: AtomicUsize,
}

impl KernelTier {
    /// Counts one more open whose writes are not seen.
    pub(super) fn begin_unseen(&self) {
        self.unseen.fetch_add(1, Ordering::AcqRel);
    }
}

/// How a file was when it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Before {
    size: i64,
    modified: (i64, i64),
}

impl Before {
    fn of(stat: &rustix::fs::Stat) -> Self {
        // The types differ between architectures.
        #[expect(clippy::useless_conversion, reason = "the types differ between architectures")]
        let modified = (i64::from(stat.st_mtime), i64::try_from(stat.st_mtime_nsec).unwrap_or(0));
        Self { size: stat.st_size, modified }
    }
}

impl GuardFs {
    /// Leaves the limit of bytes to the filesystem below from now on, or takes it back. Files that are open stay as they
    /// are.
    pub(crate) fn set_kernel_quota(&self, subvolume: Option<Subvolume>) {
        let Some(account) = self.account() else { return };
        let is_on = subvolume.is_some();
        // Writes must not pass before they are measured, nor be measured no more while they pass.
        if is_on {
            account.measure(true);
        }
        self.kernel_tier.subvolume.store(subvolume.map(Into::into));
        if !is_on {
            account.measure(false);
        }
        self.measure_kernel_use();
    }

    /// Returns the subvolume whose limit the filesystem below enforces for this workspace.
    pub(crate) fn kernel_quota(&self) -> Option<std::sync::Arc<Subvolume>> {
        self.kernel_tier.subvolume.load_full()
    }

    /// Tells the ledger what the filesystem below counts. Called every moment while that is where the numbers come from.
    pub(crate) fn measure_kernel_use(&self) {
        let subvolume = self.kernel_tier.subvolume.load();
        let (Some(subvolume), Some(account)) = (&*subvolume, self.account()) else { return };
        match subvolume.used() {
            Ok(bytes) => account.set_measured(bytes),
            // The driver looks after it and says so.
            Err(error) => tracing::debug!(%error, "the kernel does not say what is used"),
        }
    }

    /// Returns how many open files the worker does not see the writes of.
    pub(crate) fn unseen_writers(&self) -> usize {
        self.kernel_tier.unseen.load(Ordering::Acquire)
    }

    /// What is written unseen while bytes are counted here has to be counted again.
    pub(crate) fn doubt_unseen_writes(&self) {
        if let Some(account) = self.account()
            && self.unseen_writers() > 0
            && !account.is_measured()
        {
            account.set_estimated(true);
        }
    }

    /// Counts the opens that a worker before this one had.
    pub(super) fn restore_unseen(&self) {
        self.files.for_each(|open_file| {
            if open_file.is_unseen() {
                self.kernel_tier.begin_unseen();
            }
        });
    }

    /// Whether a file that is opened for writing now is passed through. Not where a limit above the project is reached:
    /// nobody but the worker enforces that.
    pub(super) fn passes_writes(&self) -> bool {
        self.kernel_tier.subvolume.load().is_some()
            && self.account().is_some_and(|account| account.check_parents(u64::MAX).is_ok())
    }

    /// Notes how a file is before it is written unseen.
    ///
    /// # Errors
    /// As fstat(2).
    pub(super) fn look_before(
        &self,
        node: u64,
        inode: &OpenInodeState,
        file: BorrowedFd<'_>,
    ) -> Result<Before, Errno> {
        if let Some(charging) = &self.charging {
            charging.look(node, inode.charge(charging, node), file)?;
        }
        rustix::fs::fstat(file).map(|stat| Before::of(&stat))
    }

    /// An open whose writes were not seen ends: books and history hear what has become of the file.
    pub(super) fn look_after(&self, open_file: &OpenFile) {
        let looked = open_file.file(self).and_then(|file| {
            let stat = rustix::fs::fstat(file.as_fd())?;
            let delta = match &self.charging {
                Some(charging) => {
                    let charge = open_file.charge(charging);
                    let admitted = charging.admit_change(open_file.node, charge, file.as_fd())?;
                    charging.settle_change(open_file.node, charge, file.as_fd(), admitted)
                }
                None => 0,
            };
            Ok((stat, delta))
        });
        match looked {
            Ok((stat, delta)) => {
                // Who opened it under a worker before this one is not known any more.
                let was_changed = open_file.before() != Some(&Before::of(&stat));
                if let (true, Some(tally)) = (was_changed, open_file.known_tally()) {
                    tally.wrote_unseen(u64::try_from(stat.st_size).unwrap_or(0), delta);
                }
            }
            Err(errno) => {
                tracing::warn!(ino = open_file.node, %errno, "a written file cannot be looked at; it is counted again");
                self.note_foreign_edit();
            }
        }
        self.kernel_tier.unseen.fetch_sub(1, Ordering::AcqRel);
    }
}
