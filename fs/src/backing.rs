//! The user's own directory: the only way from the filesystem to the disk.
//!
//! Everything is reached through the root descriptor, a detached private clone of the mount that the directory
//! lies on (open_tree(2)), taken before the guarded mount covers it. It has no path, no submounts and no one
//! else can rename it away. Names are single components resolved without following symbolic links; files are
//! reopened by handle. No multi-component path and no path string of a user is ever resolved here.
//!
//! Descriptors of directories and of recently used files are cached for the whole process, at most
//! [`FdCache::capacity`] of them, because a descriptor per inode would exhaust any limit.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::sys::handle::{FileHandle, handle_at, handle_of, open_by_handle};

/// Descriptors cached over all workspaces of the process.
const CACHED_FDS: usize = 2048;
/// Locks that the cache is divided by.
const CACHE_SHARDS: usize = 16;

/// Extended attributes with these prefixes are the guard's own.
const PRIVATE_XATTRS: [&str; 2] = ["trusted.wsguard.", "user.wsguard."];

/// What statx(2) says of a file, with the fields that POSIX stat(2) has.
pub(crate) type Stat = Statx;

/// One workspace's files below the mount.
pub(crate) struct Backing {
    root: Arc<OwnedFd>,
    /// open_by_handle_at(2) refuses O_PATH descriptors; this one is readable.
    mount: OwnedFd,
    root_stat: Stat,
    root_handle: FileHandle,
    cache_key: u32,
}

/// A file of the backing filesystem with its identity and attributes.
pub(crate) struct Child {
    pub(crate) handle: FileHandle,
    pub(crate) stat: Stat,
}

impl Backing {
    /// Takes over the root descriptor of a workspace.
    ///
    /// # Errors
    /// `EOPNOTSUPP` or `EOVERFLOW` when the filesystem has no (small enough) file handles, else as openat(2).
    pub(crate) fn new(root: OwnedFd) -> Result<Self, Errno> {
        static NEXT_KEY: AtomicU32 = AtomicU32::new(0);
        let mount = rustix::fs::openat(
            &root,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let root_stat = stat_of(root.as_fd())?;
        let root_handle = handle_of(root.as_fd())?;
        Ok(Self {
            root: Arc::new(root),
            mount,
            root_stat,
            root_handle,
            cache_key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// Returns the root directory's handle.
    pub(crate) fn root_handle(&self) -> FileHandle {
        self.root_handle
    }

    /// Returns the root directory's descriptor.
    pub(crate) fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// Returns the root directory's descriptor for calls that `O_PATH` is not enough for, open_by_handle_at(2) and
    /// `O_TMPFILE` among them.
    pub(crate) fn readable(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// Returns the device that the root lies on.
    pub(crate) fn root_device(&self) -> u64 {
        rustix::fs::makedev(self.root_stat.stx_dev_major, self.root_stat.stx_dev_minor)
    }

    /// Returns the attributes that the root had when the workspace was opened.
    pub(crate) fn root_stat(&self) -> &Stat {
        &self.root_stat
    }

    /// Returns an `O_PATH` descriptor of the inode, from the cache if it is there.
    ///
    /// # Errors
    /// `ESTALE` when the inode is gone.
    pub(crate) fn path_fd(&self, handle: &FileHandle) -> Result<Arc<OwnedFd>, Errno> {
        if *handle == self.root_handle {
            return Ok(self.root.clone());
        }
        let key = (self.cache_key, *handle);
        if let Some(fd) = fd_cache().get(&key) {
            return Ok(fd);
        }
        let fd = Arc::new(self.open(handle, OFlags::PATH | OFlags::NOFOLLOW)?);
        fd_cache().put(key, fd.clone());
        Ok(fd)
    }

    /// Opens the inode anew.
    ///
    /// # Errors
    /// As open_by_handle_at(2).
    pub(crate) fn open(&self, handle: &FileHandle, flags: OFlags) -> Result<OwnedFd, Errno> {
        open_by_handle(self.mount.as_fd(), handle, flags)
    }

    /// Returns identity and attributes of the entry `name` of `dir`.
    ///
    /// Two calls without a descriptor in between, half the price of [`Self::child_at_once`]. If the name is given to
    /// another file between them, the handle is that of the first and the attributes are those of the second. The
    /// kernel's lock of the directory prevents it for what goes through the mount, except where a name that has expired
    /// is looked up again (`fuse_dentry_revalidate` in fs/fuse/dir.c takes no lock); below the mount nothing does.
    ///
    /// # Errors
    /// `ENOENT`, `ENAMETOOLONG`, or what the filesystem says.
    pub(crate) fn child(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Child, Errno> {
        let handle = handle_at(dir, name)?;
        Ok(Child { handle, stat: self.stat_at(dir, name)? })
    }

    /// As [`Self::child`], but both of the same file in any case.
    ///
    /// # Errors
    /// As [`Self::child`].
    pub(crate) fn child_at_once(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Child, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.of_fd(rustix::fs::openat(dir, name, flags, Mode::empty())?.as_fd())
    }

    /// Returns the attributes of the entry `name` of `dir`.
    ///
    /// # Errors
    /// As [`Self::child`].
    pub(crate) fn stat_at(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Stat, Errno> {
        rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
    }

    /// Returns identity and attributes of an open file.
    ///
    /// # Errors
    /// What the filesystem says.
    pub(crate) fn of_fd(&self, fd: BorrowedFd<'_>) -> Result<Child, Errno> {
        Ok(Child { handle: handle_of(fd)?, stat: stat_of(fd)? })
    }

    /// Flushes the whole filesystem that the workspace lies on.
    ///
    /// # Errors
    /// As syncfs(2).
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(&self.mount)
    }

    /// Returns the filesystem's type, as statfs(2) names it.
    ///
    /// # Errors
    /// As statfs(2).
    pub(crate) fn filesystem_magic(&self) -> Result<i64, Errno> {
        Ok(rustix::fs::fstatfs(&self.mount)?.f_type)
    }

    /// Returns statvfs(3) of the filesystem.
    ///
    /// # Errors
    /// As statvfs(3).
    pub(crate) fn statvfs(&self) -> Result<rustix::fs::StatVfs, Errno> {
        rustix::fs::fstatvfs(&self.mount)
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        fd_cache().forget_workspace(self.cache_key);
    }
}

/// Returns the attributes of an open file, `O_PATH` or not.
///
/// # Errors
/// As statx(2).
pub(crate) fn stat_of(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
}

/// Returns the path under which a descriptor can be named to calls that take no `O_PATH` descriptor.
///
/// The link is resolved by the kernel to exactly the open inode, also when it is a symbolic link itself.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Whether an extended attribute belongs to the guard and is hidden from users.
pub(crate) fn is_private_xattr(name: &OsStr) -> bool {
    PRIVATE_XATTRS.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
}

type CacheKey = (u32, FileHandle);

/// Open `O_PATH` descriptors by inode, least recently used first out.
struct FdCache {
    shards: Vec<Mutex<LruCache<CacheKey, Arc<OwnedFd>, rustc_hash::FxBuildHasher>>>,
}

fn fd_cache() -> &'static FdCache {
    static CACHE: OnceLock<FdCache> = OnceLock::new();
    CACHE.get_or_init(|| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        // A quarter of the limit at most: the rest is for files that applications hold open for writing.
        let quarter = limit.and_then(|limit| usize::try_from(limit / 4).ok()).unwrap_or(CACHED_FDS);
        FdCache::new(quarter.min(CACHED_FDS))
    })
}

impl FdCache {
    fn new(capacity: usize) -> Self {
        let each =
            std::num::NonZeroUsize::new(capacity / CACHE_SHARDS).unwrap_or(std::num::NonZeroUsize::MIN);
        let shards = (0..CACHE_SHARDS)
            .map(|_| Mutex::new(LruCache::with_hasher(each, rustc_hash::FxBuildHasher)))
            .collect();
        Self { shards }
    }

    fn shard(&self, key: &CacheKey) -> &Mutex<LruCache<CacheKey, Arc<OwnedFd>, rustc_hash::FxBuildHasher>> {
        let shard = key.1.generation().wrapping_add(key.0) as usize % self.shards.len();
        &self.shards[shard]
    }

    fn get(&self, key: &CacheKey) -> Option<Arc<OwnedFd>> {
        self.shard(key).lock().get(key).cloned()
    }

    fn put(&self, key: CacheKey, fd: Arc<OwnedFd>) {
        // The evicted descriptor is closed after the lock is released: close(2) of the last reference to a
        // deleted file frees its blocks, which can take long.
        let evicted = self.shard(&key).lock().push(key, fd);
        drop(evicted);
    }

    fn forget(&self, key: &CacheKey) {
        let removed = self.shard(key).lock().pop(key);
        drop(removed);
    }

    fn forget_workspace(&self, cache_key: u32) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let keys: Vec<CacheKey> =
                shard.iter().map(|(key, _)| *key).filter(|key| key.0 == cache_key).collect();
            for key in keys {
                shard.pop(&key);
            }
        }
    }
}

impl Backing {
    /// Closes every cached descriptor of this workspace.
    pub(crate) fn forget_all(&self) {
        fd_cache().forget_workspace(self.cache_key);
    }

    /// Closes the cached descriptor of an inode that the kernel has forgotten, so that a deleted file's
    /// blocks are freed.
    pub(crate) fn forget(&self, handle: &FileHandle) {
        fd_cache().forget(&(self.cache_key, *handle));
    }
}
