//! What the tracker is told, and what it asks.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{Caller, GuardFs, borrow};
use crate::backing::{Child, Stat, proc_path};
use crate::inode::ROOT_NODE;
use crate::tracker::{Operation, Record};

impl Caller {
    /// Begins a record of what the caller has just done.
    pub(super) fn did(self, operation: Operation, node: u64) -> Record {
        Record::new(operation, node, self.uid, self.pid)
    }
}

impl GuardFs {
    /// Lets the tracker find directories that it does not know.
    pub(crate) fn start_tracking(self: &Arc<Self>) {
        let fs = Arc::downgrade(self);
        self.tracker.set_locate(Box::new(move |node| fs.upgrade()?.locate(node)));
    }

    /// Returns what a file counts for, bytes, for the difference that a record tells: by the rule of the quota, which is
    /// that of the filesystem where nobody pays.
    pub(super) fn charge(&self, stat: &Stat) -> i64 {
        i64::try_from(self.accounting.charge(stat)).unwrap_or(i64::MAX)
    }

    /// Notes what has happened.
    pub(super) fn note(&self, record: Record) {
        self.tracker.record(record);
    }

    /// Returns directory and name of a node, if it has one at this moment.
    ///
    /// Where it lies is asked of the kernel, which knows the name that it was reached by; the answer counts only if
    /// the node is found again under it.
    fn locate(&self, node: u64) -> Option<(u64, Box<OsStr>)> {
        if node == ROOT_NODE {
            return None;
        }
        let path = self.kernels_path(node)?;
        let name = path.file_name()?;
        let directory = self.open_directory(path.parent()?).ok()?;
        let found = self.backing.child(directory.as_fd(), name).ok()?;
        if self.known_as(&found)? != node {
            return None;
        }
        let parent = self.backing.of_fd(directory.as_fd()).ok()?;
        Some((self.known_as(&parent)?, name.into()))
    }

    /// Returns where a node is, relative to the root, if it has a name at this moment.
    pub(super) fn path_of(&self, node: u64) -> Option<PathBuf> {
        if node == ROOT_NODE {
            return Some(PathBuf::new());
        }
        self.locate(node)?;
        self.kernels_path(node)?.strip_prefix("/").ok().map(Path::to_path_buf)
    }

    /// Returns the path from the root by which the kernel knows a node; it may be out of date.
    fn kernels_path(&self, node: u64) -> Option<PathBuf> {
        let fd = self.node_fd(node).ok()?;
        let link = rustix::fs::readlinkat(CWD, proc_path(borrow(&fd)), Vec::new()).ok()?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes())))
    }

    /// Opens a directory by its path from the root of the backing, beneath it and through no symbolic link.
    pub(super) fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        rustix::fs::openat2(
            self.backing.root(),
            relative,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
    }

    fn known_as(&self, child: &Child) -> Option<u64> {
        let root = self.backing.root_stat();
        let is_root = child.stat.stx_ino == root.stx_ino
            && (child.stat.stx_dev_major, child.stat.stx_dev_minor)
                == (root.stx_dev_major, root.stx_dev_minor);
        if is_root { Some(ROOT_NODE) } else { Some(self.inode_of(child).ok()?.node) }
    }
}

/// Whether an extended attribute's change is worth a record: POSIX ACLs and what users set.
pub(super) fn is_told(name: &OsStr) -> bool {
    !name.as_bytes().starts_with(b"security.")
}
