//! Counting a project again while it is in use.
//!
//! A walk looks at every inode below the root once and enters what it is charged. Whoever changes an inode meanwhile
//! enters the new charge as well, and *absolutely*: the walk never overwrites an entry that is there, so it does not
//! matter who came first. What is deleted leaves an entry of nothing. Names that move are entered by whoever moves
//! them, directories are walked once more. At the end the sum of all entries is `used`, exactly, and takes its place
//! in an instant in which no change of names is under way ([`super::charging`]).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use rustix::fs::{AtFlags, FileType, OFlags, RawDir, StatxFlags};
use rustix::io::Errno;

use super::GuardFs;
use super::charging::Charging;
use crate::backing::Stat;
use crate::sys::handle::{FileHandle, handle_at};

/// Locks that the entries are divided by.
const SHARDS: usize = 64;
/// How long publishing waits for changes of names under way (new ones wait meanwhile), how often it tries, and the pause
/// in between: a change that hangs on a slow disk must not hold up all others.
const PATIENCE: Duration = Duration::from_millis(50);
const ATTEMPTS: usize = 40;
const PAUSE: Duration = Duration::from_millis(200);

/// What a recount found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recounted {
    /// Bytes charged.
    pub bytes: u64,
    /// Inodes charged.
    pub inodes: u64,
    /// By how much the counters were wrong: counted less booked.
    pub drift_bytes: i64,
    /// The same for inodes.
    pub drift_inodes: i64,
}

/// A recount under way.
pub(super) struct Recount {
    shards: Vec<Mutex<FxHashMap<u64, Counted>>>,
    /// Directories to walk, by handle.
    pending: Mutex<Vec<FileHandle>>,
}

#[derive(Clone, Copy)]
struct Counted {
    bytes: u64,
    inodes: u32,
}

/// The entries of one shard.
pub(super) struct Entries<'a>(MutexGuard<'a, FxHashMap<u64, Counted>>);

impl Entries<'_> {
    /// Enters what an inode is charged from now on.
    pub(super) fn set(&mut self, node: u64, bytes: u64, inodes: u32) {
        self.0.insert(node, Counted { bytes, inodes });
    }

    /// The same, if nobody has done so.
    pub(super) fn set_if_absent(&mut self, node: u64, bytes: u64, inodes: u32) {
        self.0.entry(node).or_insert(Counted { bytes, inodes });
    }
}

impl Recount {
    fn new(root: FileHandle) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), pending: Mutex::new(vec![root]) }
    }

    /// Locks the entries that an inode belongs to.
    pub(super) fn lock(&self, node: u64) -> Entries<'_> {
        Entries(self.shards[node as usize % SHARDS].lock())
    }

    /// Enters what an inode is charged from now on.
    pub(super) fn set(&self, node: u64, bytes: u64, inodes: u32) {
        self.lock(node).set(node, bytes, inodes);
    }

    fn next_directory(&self) -> Option<FileHandle> {
        self.pending.lock().pop()
    }

    /// Has a directory walked (again).
    pub(super) fn walk_again(&self, handle: FileHandle) {
        self.pending.lock().push(handle);
    }
}

impl GuardFs {
    /// Counts everything and corrects the counters. Takes seconds for a million files; changes go on meanwhile.
    ///
    /// Returns `None` when `stop` was set or another recount is under way.
    ///
    /// # Errors
    /// What the backing filesystem says when a directory cannot be read; the counters are untouched then.
    pub(crate) fn recount(&self, stop: &AtomicBool) -> Result<Option<Recounted>, Errno> {
        let Some(charging) = &self.charging else { return Ok(None) };
        let recount = Arc::new(Recount::new(self.backing.root_handle()));
        let previous = charging.recount.compare_and_swap(&None::<Arc<Recount>>, Some(recount.clone()));
        if previous.is_some() {
            return Ok(None);
        }
        // However it ends, nobody enters anything any more.
        let end = scopeguard::guard((), |()| charging.recount.store(None));
        self.count_deleted(&recount);
        let (root, handle) = (self.backing.root_stat(), self.backing.root_handle());
        charging.count(&recount, self.node_of(root)?, root, || Ok(handle));
        while let Some(handle) = recount.next_directory() {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            self.count_directory(&recount, &handle)?;
        }
        let mut published = None;
        for _ in 0..ATTEMPTS {
            published = charging.while_names_rest(PATIENCE, || Self::publish(charging, &recount));
            if published.is_some() || stop.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        drop(end);
        match published {
            None => Err(Errno::BUSY),
            some => Ok(some),
        }
    }

    fn publish(charging: &Charging, recount: &Recount) -> Recounted {
        let shards: Vec<_> = recount.shards.iter().map(Mutex::lock).collect();
        let (mut bytes, mut inodes) = (0_u64, 0_u64);
        for counted in shards.iter().flat_map(|shard| shard.values()) {
            bytes += counted.bytes;
            inodes += u64::from(counted.inodes);
        }
        let account = charging.account();
        if account.is_measured() {
            // What the kernel counts, metadata of the filesystem included, is no sum of files.
            bytes = account.used_bytes();
        }
        let less = |counted: u64, booked: u64| counted.cast_signed().wrapping_sub(booked.cast_signed());
        let drift_bytes = less(bytes, account.used_bytes());
        let drift_inodes = less(inodes, account.used_inodes());
        account.correct(drift_bytes, drift_inodes);
        account.set_estimated(false);
        // Before the locks go: what is booked from now on is a difference to what was counted.
        charging.recount.store(None);
        Recounted { bytes, inodes, drift_bytes, drift_inodes }
    }

    /// Enters every file that is open without a name.
    fn count_deleted(&self, recount: &Recount) {
        self.open_inodes.for_each_deleted(|node, bytes| {
            let bytes = self.charging.as_ref().and_then(|charging| charging.charged(node)).unwrap_or(bytes);
            recount.set(node, bytes, 1);
        });
        self.outlived.for_each_deleted(|node, bytes| {
            let bytes = self.charging.as_ref().and_then(|charging| charging.charged(node)).unwrap_or(bytes);
            recount.set(node, bytes, 1);
        });
    }

    fn count_directory(&self, recount: &Recount, handle: &FileHandle) -> Result<(), Errno> {
        let dir = match self.backing.open(handle, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC) {
            // Removed since its name was read.
            Err(Errno::STALE) => return Ok(()),
            result => result?,
        };
        let mut buffer = Vec::with_capacity(64 * 1024);
        let mut entries = RawDir::new(&dir, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = match entry {
                // Removed while it is read: whatever was in it was moved away or removed before.
                Err(Errno::NOENT) => return Ok(()),
                result => result?,
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            self.count_entry(recount, dir.as_fd(), name)?;
        }
        Ok(())
    }

    fn count_entry(&self, recount: &Recount, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        let Some(charging) = &self.charging else { return Ok(()) };
        let stat = match look(dir, name) {
            Err(Errno::NOENT) => return Ok(()),
            result => result?,
        };
        let node = self.node_of(&stat)?;
        charging.count(recount, node, &stat, || handle_at(dir, name));
        if FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::Directory {
            match self.backing.child(dir, name) {
                Ok(child) => recount.walk_again(child.handle),
                Err(Errno::NOENT | Errno::STALE) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Tells a recount of what was moved or linked to `name` in `dir`.
    pub(super) fn count_moved(&self, names: &super::charging::Names<'_>, dir: &OwnedFd, name: &OsStr) {
        let Some(charging) = &self.charging else { return };
        let recount = charging.recount.load();
        let Some(recount) = recount.as_ref() else { return };
        let moved = self.backing.child_at_once(dir.as_fd(), name).and_then(|child| {
            names.moved(self.inode_of(&child)?.node, &child.stat, child.handle);
            if FileType::from_raw_mode(u32::from(child.stat.stx_mode)) == FileType::Directory {
                recount.walk_again(child.handle);
            }
            Ok(())
        });
        if let Err(errno) = moved {
            tracing::debug!(%errno, "a moved entry cannot be counted; it is gone again");
        }
    }
}

fn look(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Stat, Errno> {
    rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}
