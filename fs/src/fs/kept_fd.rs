//! Descriptors that stay open between requests, a bounded number of them for all workspaces together.
//!
//! One container could otherwise use up the daemon's descriptors by opening files for writing, and nobody else could
//! as much as list a directory. Beyond the bound a file is opened by its handle for each request: slower, for the one
//! who holds thousands of files open, and no error for anybody.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many are kept now.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Kept where the limit of descriptors is unknown.
const FALLBACK_BOUND: usize = 4096;

/// A descriptor that counts.
pub(super) struct KeptFd(OwnedFd);

/// A descriptor for one request.
pub(super) enum FileRef<'a> {
    /// It stays open.
    Kept(BorrowedFd<'a>),
    /// It was opened for this one.
    Once(OwnedFd),
}

impl KeptFd {
    /// Keeps a descriptor, or gives it back if too many are kept.
    pub(super) fn keep(fd: OwnedFd) -> Result<Self, OwnedFd> {
        if KEPT.fetch_add(1, Ordering::AcqRel) < bound() {
            return Ok(Self(fd));
        }
        KEPT.fetch_sub(1, Ordering::AcqRel);
        Err(fd)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for KeptFd {
    fn drop(&mut self) {
        KEPT.fetch_sub(1, Ordering::AcqRel);
    }
}

impl AsFd for FileRef<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Kept(fd) => *fd,
            Self::Once(fd) => fd.as_fd(),
        }
    }
}

/// Half of the limit: the rest is for directories, listings, the control socket and the watches.
fn bound() -> usize {
    static BOUND: OnceLock<usize> = OnceLock::new();
    *BOUND.get_or_init(|| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        limit.and_then(|limit| usize::try_from(limit / 2).ok()).unwrap_or(FALLBACK_BOUND)
    })
}
