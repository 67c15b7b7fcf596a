//! Space of deleted files that something of ours still holds counts as free.
//!
//! On the backing filesystem alone, removing a file's last name frees its blocks before unlink(2) returns. Through
//! the mount, the kernel's FORGET and RELEASE come a moment later, and closing the last descriptor of a large file
//! takes a while. An operation that finds the disk full while that is going on waits for it and tries once more.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::io::Errno;

/// Deleted inodes whose descriptor is kept because the kernel still knows them (a working directory, an open(2)
/// under way, an `O_PATH` descriptor). Beyond that many, such an inode answers ESTALE.
const MAX_PINNED: usize = 1024;

/// How long an operation waits for space that is being freed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it looks.
const STEP: Duration = Duration::from_millis(1);

/// Deleted inodes, and how many descriptors are being closed at this moment.
#[derive(Default)]
pub(super) struct Reclaim {
    pinned: Mutex<FxHashMap<u64, Arc<OwnedFd>>>,
    closing: AtomicUsize,
    /// How many have been closed so far.
    closed: AtomicU64,
}

impl Reclaim {
    /// Keeps a deleted inode reachable.
    pub(super) fn pin(&self, node: u64, fd: Arc<OwnedFd>) {
        let mut pinned = self.pinned.lock();
        if pinned.len() < MAX_PINNED {
            pinned.insert(node, fd);
        }
    }

    /// Returns a deleted inode.
    pub(super) fn pinned(&self, node: u64) -> Option<Arc<OwnedFd>> {
        self.pinned.lock().get(&node).cloned()
    }

    /// Lets go of a deleted inode.
    pub(super) fn unpin(&self, node: u64) {
        self.while_closing(|| {
            let fd = self.pinned.lock().remove(&node);
            drop(fd);
        });
    }

    /// Runs something that may close the last descriptor of a deleted file.
    pub(super) fn while_closing<T>(&self, close: impl FnOnce() -> T) -> T {
        self.closing.fetch_add(1, Ordering::AcqRel);
        let result = close();
        self.closed.fetch_add(1, Ordering::AcqRel);
        self.closing.fetch_sub(1, Ordering::AcqRel);
        result
    }

    /// Runs an operation that takes space, and once more if the disk was full while space was being freed.
    ///
    /// # Errors
    /// As the operation.
    pub(super) fn retry_when_full<T>(&self, operation: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        let closed = self.closed.load(Ordering::Acquire);
        let result = operation();
        // A filesystem that is full may take long to say so: what was freed meanwhile counts as well.
        let was_freed = self.closed.load(Ordering::Acquire) != closed;
        match result {
            Err(Errno::NOSPC | Errno::DQUOT) if self.free_what_is_deleted() || was_freed => operation(),
            result => result,
        }
    }

    /// Returns whether anything may have been freed.
    fn free_what_is_deleted(&self) -> bool {
        let pinned = std::mem::take(&mut *self.pinned.lock());
        let had_pinned = !pinned.is_empty();
        self.while_closing(|| drop(pinned));
        let deadline = Instant::now() + PATIENCE;
        let was_closing = self.closing.load(Ordering::Acquire) > 0;
        while self.closing.load(Ordering::Acquire) > 0 && Instant::now() < deadline {
            std::thread::sleep(STEP);
        }
        had_pinned || was_closing
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn full_disk_is_tried_again_only_if_something_was_deleted() {
        let reclaim = Reclaim::default();
        let tries = Cell::new(0);
        let full = || {
            tries.set(tries.get() + 1);
            Err::<(), _>(Errno::NOSPC)
        };
        assert_eq!(reclaim.retry_when_full(full), Err(Errno::NOSPC));
        assert_eq!(tries.get(), 1);
        reclaim.pin(7, Arc::new(std::fs::File::open("/").unwrap().into()));
        assert_eq!(reclaim.retry_when_full(full), Err(Errno::NOSPC));
        assert_eq!(tries.get(), 3);
        assert!(reclaim.pinned(7).is_none());
    }

    #[test]
    fn space_that_was_freed_during_the_attempt_counts() {
        let reclaim = Reclaim::default();
        let tries = Cell::new(0);
        let operation = || {
            tries.set(tries.get() + 1);
            if tries.get() == 1 { reclaim.while_closing(|| Err(Errno::DQUOT)) } else { Ok(()) }
        };
        assert_eq!(reclaim.retry_when_full(operation), Ok(()));
    }

    #[test]
    fn another_error_is_not_tried_again() {
        let reclaim = Reclaim::default();
        reclaim.pin(7, Arc::new(std::fs::File::open("/").unwrap().into()));
        assert_eq!(reclaim.retry_when_full(|| Err::<(), _>(Errno::IO)), Err(Errno::IO));
        assert!(reclaim.pinned(7).is_some());
    }

    #[test]
    fn operation_waits_for_space_that_another_thread_is_freeing() {
        let reclaim = Reclaim::default();
        let is_free = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (started, wait) = std::sync::mpsc::channel();
            let (reclaim, is_free) = (&reclaim, &is_free);
            scope.spawn(move || {
                reclaim.while_closing(|| {
                    started.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(30));
                    is_free.store(true, Ordering::Release);
                });
            });
            wait.recv().unwrap();
            let operation = || if is_free.load(Ordering::Acquire) { Ok(1) } else { Err(Errno::NOSPC) };
            assert_eq!(reclaim.retry_when_full(operation), Ok(1));
        });
    }
}
