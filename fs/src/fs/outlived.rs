//! Files that live on in a mapping after their last descriptor was closed.
//!
//! With passthrough a mapping belongs to the backing file (`backing_file_mmap` in fs/backing-file.c), so that the kernel
//! sends RELEASE when the descriptor is closed and nothing when the mapping ends. Until then stores may fill holes, and
//! a deleted file keeps its blocks. So what was reserved for the one and what the other is charged for stays, until the
//! file can be leased: nobody has it open any more. That is tried at the release, every two seconds, and before an
//! operation is refused for want of space.
//!
//! What is known of such files is kept in the state memory, for a worker that takes over: of the first
//! [`LINES`]; a successor that finds that there were more counts the project again.
//!
//! Locks: after those of the open inodes, before those of the charges.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::charging::{Charging, Names};
use super::{GuardFs, borrow};
use crate::backing::proc_path;
use crate::inode::Life;
use crate::state::mark;
use crate::sys::handle::FileHandle;
use crate::sys::lease::{self, Others};
use crate::sys::shared_memory::SharedMemory;

/// Files that a successor finds.
const LINES: usize = mark::OUTLIVED_LINES;
/// Deleted files that are kept reachable by a descriptor at most; others by their handle, which not every filesystem
/// opens once the name is gone.
const MAX_FDS: usize = 1024;
/// A removed file of so many bytes is looked at: it may be mapped. Smaller ones are not worth an open and three fcntl(2).
const WORTH_A_LOOK: u64 = 64 * 1024;
/// close(2) ends the kernel's own open of the backing file a moment after it has told of the release.
const MOMENT: Duration = Duration::from_micros(200);

/// Words of a line.
mod word {
    /// Written last, cleared first.
    pub(super) const NODE: usize = 0;
    /// Handle type, length, whether space is held, whether history counts it as mapped.
    pub(super) const SHAPE: usize = 1;
    pub(super) const HANDLE: usize = 2;
    /// What it is charged for, and one more; 0 if it has a name.
    pub(super) const DELETED: usize = 6;
}

#[derive(Clone)]
struct Kept {
    handle: FileHandle,
    fd: Option<Arc<OwnedFd>>,
    /// What it was charged for when it lost its last name.
    deleted: Option<u64>,
    /// Space is held for its holes.
    is_held: bool,
    /// History counts it as mapped ([`super::mapped`]).
    is_mapped: bool,
    line: Option<usize>,
}

#[derive(Default)]
struct Records {
    by_node: FxHashMap<u64, Kept>,
    /// Lines in use, as bits.
    lines: u64,
    /// How many have none.
    unwritten: u64,
    /// How many have a descriptor.
    fds: usize,
}

/// See the module.
pub(super) struct Outlived {
    records: Mutex<Records>,
    count: AtomicUsize,
    memory: Arc<SharedMemory>,
}

impl Outlived {
    /// Finds what a worker before this one has left.
    pub(super) fn open(memory: Arc<SharedMemory>) -> Self {
        let mut records = Records::default();
        for number in 0..LINES {
            let line = memory.line(mark::OUTLIVED + number);
            let read = |index: usize| line[index].load(Ordering::Acquire);
            let node = read(word::NODE);
            if node == 0 {
                continue;
            }
            let shape = read(word::SHAPE).to_le_bytes();
            let words = std::array::from_fn(|index| read(word::HANDLE + index));
            let handle = FileHandle::from_words(shape[0], shape[1], words);
            let deleted = read(word::DELETED).checked_sub(1);
            let (is_held, is_mapped) = (shape[2] != 0, shape[3] != 0);
            let kept = Kept { handle, fd: None, deleted, is_held, is_mapped, line: Some(number) };
            records.lines |= 1 << number;
            records.by_node.insert(node, kept);
        }
        let count = AtomicUsize::new(records.by_node.len());
        Self { records: Mutex::new(records), count, memory }
    }

    /// Returns how many a worker before this one could not leave word of, and forgets that number.
    pub(super) fn take_unwritten(&self) -> u64 {
        self.memory.line(mark::UNBOOKED)[2].swap(0, Ordering::AcqRel)
    }

    /// Calls `visit` with every file without a name and what it is charged for.
    pub(super) fn for_each_deleted(&self, mut visit: impl FnMut(u64, u64)) {
        let records = self.records.lock();
        let deleted = records.by_node.iter().filter_map(|(node, kept)| Some((*node, kept.deleted?)));
        deleted.for_each(|(node, bytes)| visit(node, bytes));
    }

    /// Returns the files that history counts as mapped.
    pub(super) fn mapped(&self) -> Vec<(u64, FileHandle)> {
        let records = self.records.lock();
        let mapped = records.by_node.iter().filter(|(_, kept)| kept.is_mapped);
        mapped.map(|(node, kept)| (*node, kept.handle)).collect()
    }

    /// Notes whether history counts a file as mapped.
    pub(super) fn set_mapped(&self, node: u64, handle: FileHandle, is_mapped: bool) {
        if self.get(node).is_some_and(|kept| kept.is_mapped) != is_mapped {
            self.change(node, handle, |kept| kept.is_mapped = is_mapped);
        }
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn nodes(&self) -> Vec<u64> {
        if self.is_empty() { Vec::new() } else { self.records.lock().by_node.keys().copied().collect() }
    }

    fn get(&self, node: u64) -> Option<Kept> {
        if self.is_empty() { None } else { self.records.lock().by_node.get(&node).cloned() }
    }

    /// Changes the record of a node; there is none before the first time, and none once nothing is left in it.
    fn change(&self, node: u64, handle: FileHandle, change: impl FnOnce(&mut Kept)) {
        let mut records = self.records.lock();
        let old = records.by_node.remove(&node);
        if let Some(old) = &old {
            records.fds -= usize::from(old.fd.is_some());
            records.unwritten -= u64::from(old.line.is_none());
        }
        let new = Kept { handle, fd: None, deleted: None, is_held: false, is_mapped: false, line: None };
        let mut kept = old.unwrap_or(new);
        change(&mut kept);
        let is_over = kept.deleted.is_none() && !kept.is_held && !kept.is_mapped;
        if kept.line.is_none() && !is_over {
            let free = (!records.lines).trailing_zeros() as usize;
            kept.line = (free < LINES).then_some(free);
        }
        if let Some(number) = kept.line {
            self.write(number, if is_over { 0 } else { node }, &kept);
            records.lines =
                if is_over { records.lines & !(1 << number) } else { records.lines | 1 << number };
        }
        if !is_over {
            if records.fds >= MAX_FDS {
                kept.fd = None;
            }
            records.fds += usize::from(kept.fd.is_some());
            records.unwritten += u64::from(kept.line.is_none());
            records.by_node.insert(node, kept);
        }
        self.memory.line(mark::UNBOOKED)[2].store(records.unwritten, Ordering::Release);
        self.count.store(records.by_node.len(), Ordering::Release);
    }

    fn write(&self, number: usize, node: u64, kept: &Kept) {
        let line = self.memory.line(mark::OUTLIVED + number);
        // A successor must not find half of it.
        line[word::NODE].store(0, Ordering::Release);
        if node == 0 {
            return;
        }
        let (kind, len, words) = kept.handle.to_words();
        let shape =
            u64::from_le_bytes([kind, len, u8::from(kept.is_held), u8::from(kept.is_mapped), 0, 0, 0, 0]);
        line[word::SHAPE].store(shape, Ordering::Release);
        for (index, handle_word) in words.into_iter().enumerate() {
            line[word::HANDLE + index].store(handle_word, Ordering::Release);
        }
        line[word::DELETED].store(kept.deleted.map_or(0, |bytes| bytes + 1), Ordering::Release);
        line[word::NODE].store(node, Ordering::Release);
    }
}

impl GuardFs {
    /// Notes that holes of a file may be filled by a mapping although it is not open for writing any more.
    pub(super) fn outlive_held(&self, node: u64) {
        match self.table.get(node) {
            Ok(inode) => self.outlived.change(node, inode.handle, |kept| kept.is_held = true),
            Err(errno) => tracing::error!(ino = node, %errno, "space for a mapping stays reserved"),
        }
    }

    /// Notes that a deleted file was released for the last time and may be mapped. Called with its lock of the open
    /// inodes held.
    pub(super) fn outlive_deleted(&self, node: u64, bytes: u64) -> bool {
        self.node_fd(node).is_ok_and(|fd| self.outlive_removed(node, bytes, &fd))
    }

    /// Notes that a file that was not open was removed and is mapped. Called with its lock of the open inodes held.
    pub(super) fn outlive_removed(&self, node: u64, bytes: u64, fd: &Arc<OwnedFd>) -> bool {
        let Ok(inode) = self.table.get(node) else { return false };
        self.outlived.change(node, inode.handle, |kept| {
            kept.deleted = Some(bytes);
            kept.fd = Some(fd.clone());
        });
        true
    }

    /// A new file has the number of a deleted one, which is gone therefore.
    pub(super) fn end_outlived_namesake(&self, names: &Names<'_>, charging: &Charging, node: u64) {
        let Some(kept) = self.outlived.get(node) else { return };
        if let Some(bytes) = kept.deleted {
            names.gone(node, charging.forget(node).unwrap_or(bytes));
        }
        self.outlived.change(node, kept.handle, |kept| {
            kept.deleted = None;
            kept.is_held = false;
            kept.is_mapped = false;
        });
    }

    /// Returns what a deleted file is charged for that is opened again. Called with its lock of the open inodes held.
    pub(super) fn outlived_deleted_again(&self, node: u64) -> Option<u64> {
        let kept = self.outlived.get(node)?;
        let bytes = kept.deleted?;
        self.outlived.change(node, kept.handle, |kept| {
            kept.deleted = None;
            kept.fd = None;
        });
        self.deleted_open.fetch_add(1, Ordering::AcqRel);
        Some(bytes)
    }

    /// Whether space is held for a file that is not open, or somebody has a removed file open that is not open through
    /// the mount: a mapping of it, which keeps its blocks.
    pub(super) fn outlives(&self, node: u64, fd: &Arc<OwnedFd>, bytes: u64) -> bool {
        if self.outlived.get(node).is_some() {
            return true;
        }
        if bytes < WORTH_A_LOOK || self.open_inodes.contains(node) {
            return false;
        }
        let is_open = reopen(fd).and_then(|file| lease::is_open_elsewhere(file.as_fd(), Others::Anybody));
        is_open.unwrap_or_else(|errno| {
            tracing::debug!(ino = node, %errno, "it cannot be told whether a removed file is mapped");
            false
        })
    }

    /// Looks whether a file that was released lives on, and if not, gives back what it held.
    pub(super) fn settle_released(&self, node: u64) {
        if self.outlived.get(node).is_some() && !self.settle_outlived(node) {
            std::thread::sleep(MOMENT);
            self.settle_outlived(node);
        }
    }

    /// The same for all.
    pub(crate) fn settle_all_outlived(&self) {
        for node in self.outlived.nodes() {
            self.settle_outlived(node);
        }
    }

    /// Whether there are any.
    pub(super) fn has_outlived(&self) -> bool {
        !self.outlived.is_empty()
    }

    /// Holds space again for what a worker before this one held it for.
    pub(super) fn restore_outlived(&self, charging: &Charging) {
        for node in self.outlived.nodes() {
            let Some(kept) = self.outlived.get(node).filter(|kept| kept.is_held) else { continue };
            let restored = self.open_outlived(&kept).and_then(|file| {
                charging.restore_outlived(node, file.as_fd(), kept.handle)?;
                Ok(())
            });
            if self.outlived.get(node).is_none() {
                // Ended by a request meanwhile.
                charging.end_outlived(node, None);
                continue;
            }
            match restored {
                Ok(()) => {}
                Err(Errno::STALE) => self.end_outlived(node, None),
                Err(errno) => {
                    tracing::warn!(ino = node, %errno, "no space is held for a file that may be mapped");
                }
            }
        }
    }

    fn open_outlived(&self, kept: &Kept) -> Result<OwnedFd, Errno> {
        match &kept.fd {
            Some(fd) => reopen(fd),
            None => self.backing.open(&kept.handle, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW),
        }
    }

    /// Returns whether nothing is left of it.
    fn settle_outlived(&self, node: u64) -> bool {
        let Some(kept) = self.outlived.get(node) else { return true };
        // The worker's own descriptors cannot be told from a mapping; the last release looks again.
        if self.open_inodes.contains(node) {
            return false;
        }
        let others = if kept.deleted.is_some() { Others::Anybody } else { Others::Writers };
        let file = match self.open_outlived(&kept) {
            Ok(file) => file,
            Err(Errno::STALE) => {
                self.end_outlived(node, None);
                return true;
            }
            Err(errno) => {
                tracing::debug!(ino = node, %errno, "a file that may be mapped cannot be opened; later");
                return false;
            }
        };
        match lease::is_open_elsewhere(file.as_fd(), others) {
            Ok(true) => {
                if let (Some(charging), true) = (&self.charging, kept.is_held) {
                    charging.settle_outlived(node, file.as_fd());
                }
                false
            }
            Ok(false) => {
                self.end_outlived(node, Some(file));
                true
            }
            Err(errno) => {
                // As if it was closed.
                tracing::debug!(ino = node, %errno, "it cannot be told whether a file is mapped");
                self.end_outlived(node, Some(file));
                true
            }
        }
    }

    fn end_outlived(&self, node: u64, file: Option<OwnedFd>) {
        let Some(charging) = &self.charging else { return };
        let mut names: Option<Names<'_>> = self.begin_names();
        let shard = self.open_inodes.shard(node).lock();
        if shard.contains_key(&node) {
            return;
        }
        let Some(kept) = self.outlived.get(node) else { return };
        if let (Some(bytes), Some(names)) = (kept.deleted, &mut names) {
            names.begin();
            names.gone(node, charging.forget(node).unwrap_or(bytes));
            self.table.set_life(node, Life::Gone);
        } else if kept.is_held {
            charging.end_outlived(node, file.as_ref().map(AsFd::as_fd));
        }
        self.outlived.change(node, kept.handle, |kept| {
            kept.deleted = None;
            kept.is_held = false;
        });
        drop(shard);
        // The last descriptor of a deleted file frees its blocks.
        self.reclaim.while_closing(|| drop((file, kept)));
    }
}

fn reopen(fd: &Arc<OwnedFd>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(proc_path(borrow(fd)), flags, Mode::empty())
}
