//! Files that stores through a mapping may change without a request.
//!
//! A mapping that was made from a descriptor lives on when that is closed, and the kernel tells of neither its stores nor
//! its end (see [`super::outlived`]). So a file that was open for reading and writing counts as mapped until it can be
//! leased: nobody has it open for writing any more. That is tried every two seconds and before an epoch ends. As long as
//! the file is open through the mount in any way it cannot be told, and counts as mapped.
//!
//! Those that are found to be mapped are told to a worker that takes over. One that is released less than two seconds
//! before its worker dies is not.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::open_inodes::OpenInodeState;
use super::{Caller, GuardFs};
use crate::snapshot::Touched;
use crate::sys::lease::{self, Others};

/// close(2) ends the kernel's own open of the backing file a moment after it has told of the release.
const MOMENT: Duration = Duration::from_micros(200);

impl GuardFs {
    /// A file is being opened so that a mapping may store into it.
    pub(super) fn before_mapping(&self, caller: Caller, node: u64, state: &OpenInodeState) {
        let Some(history) = &self.history else { return };
        match self.table.get(node) {
            Ok(inode) => {
                let touched = state.touched.get_or_init(|| history.touched(node, inode.handle));
                history.before_mapping(node, touched, &self.backing, caller.into());
            }
            Err(errno) => tracing::warn!(ino = node, %errno, "file is not preserved before it is mapped"),
        }
    }

    /// A descriptor from which a file may have been mapped is closed.
    pub(super) fn after_mapping(&self, state: &OpenInodeState) {
        if let (Some(history), Some(touched)) = (&self.history, state.touched.get()) {
            history.after_mapping(touched);
        }
    }

    /// Files that were open under a worker before this one, or that it found to be mapped, may be mapped.
    pub(super) fn restore_mapped(&self) {
        let Some(history) = &self.history else { return };
        self.files.for_each(|open_file| {
            if open_file.may_be_changed_unseen()
                && let Ok(touched) = open_file.touched(self, history)
            {
                history.restore_mapping(open_file.node, touched);
            }
        });
        for (node, handle) in self.outlived.mapped() {
            history.restore_outlived_mapping(node, &history.touched(node, handle));
        }
    }

    /// Has [`Self::settle_mapped`] called before each epoch ends.
    pub(crate) fn settle_before_epochs(self: &Arc<Self>) {
        if let Some(history) = &self.history {
            let fs = Arc::downgrade(self);
            history.set_settlement(Box::new(move || {
                if let Some(fs) = fs.upgrade() {
                    fs.settle_mapped();
                }
            }));
        }
    }

    /// Finds out which of the files that are not open for reading and writing any more are still mapped.
    pub(crate) fn settle_mapped(&self) {
        let Some(history) = &self.history else { return };
        let mut released = history.released();
        for is_last in [false, true] {
            released.retain(|(node, touched)| {
                let is_mapped = self.may_be_stored_into(*node, touched);
                if !is_mapped {
                    history.end_mapping(*node, touched);
                    self.outlived.set_mapped(*node, touched.handle(), false);
                } else if is_last {
                    self.outlived.set_mapped(*node, touched.handle(), true);
                }
                is_mapped
            });
            if released.is_empty() {
                return;
            }
            if !is_last {
                std::thread::sleep(MOMENT);
            }
        }
    }

    fn may_be_stored_into(&self, node: u64, touched: &Touched) -> bool {
        // The worker's own descriptors cannot be told from a mapping.
        if self.open_inodes.contains(node) {
            return true;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let opened = self.backing.open(&touched.handle(), flags);
        match opened.and_then(|file| lease::is_open_elsewhere(file.as_fd(), Others::Writers)) {
            Ok(is_open) => is_open,
            // It is gone; or the filesystem has no leases, and it has to count as closed with its descriptor.
            Err(Errno::STALE | Errno::NOENT | Errno::INVAL) => false,
            Err(errno) => {
                tracing::debug!(ino = node, %errno, "it cannot be told whether a file is mapped; later");
                true
            }
        }
    }
}
