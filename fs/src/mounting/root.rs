//! The backing directory as the session sees it: a detached, private clone of the mount that it is on.
//!
//! Taken before anything is mounted over it, so that it leads to the plain files for ever, and to nothing
//! beside them. Under a dead mount the directory is reached from a mount namespace of its own, in which the
//! dead mount is taken off: for everybody else it stays in place.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change};

use super::attach::{clone_detached, mount_id, unmount_top};
use super::error::MountError;
use super::mountinfo::MountTable;
use super::place::Place;
use crate::catalog::DirectoryIdentity;
use crate::sys::handle::handle_of;
use crate::sys::mount::unshare_mounts;

/// The plain directory below a guard.
#[derive(Debug)]
pub(crate) struct BackingRoot {
    /// The detached clone's root; an O_PATH descriptor.
    pub(crate) clone: OwnedFd,
    /// The same directory, open for reading: for syncfs(2) and for walking.
    pub(crate) readable: OwnedFd,
}

impl BackingRoot {
    /// Takes the directory at `place`, below whatever dead wsguard mounts cover it.
    pub(crate) fn take(place: &Place, table: &MountTable) -> Result<Self, MountError> {
        let is_covered = table.top_at(&place.path).is_some_and(super::mountinfo::MountEntry::is_wsguard);
        let clone = if is_covered { clone_below_dead(&place.path)? } else { clone_uncovered(place)? };
        Self::from_clone(clone, &place.path)
    }

    /// Takes a clone that a worker before this one made.
    pub(crate) fn from_clone(clone: OwnedFd, path: &Path) -> Result<Self, MountError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = rustix::fs::openat(&clone, ".", flags, Mode::empty())
            .map_err(|errno| failed(path, "read", errno))?;
        Ok(Self { clone, readable })
    }

    /// Returns what tells this directory from another one with its path.
    pub(crate) fn identity(&self) -> Result<DirectoryIdentity, Errno> {
        let stat = rustix::fs::fstat(&self.readable)?;
        let (kind, length, words) = handle_of(self.readable.as_fd())?.to_words();
        let mut handle = vec![kind, length];
        handle.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        Ok(DirectoryIdentity { device: stat.st_dev, inode: stat.st_ino, handle })
    }
}

fn clone_uncovered(place: &Place) -> Result<OwnedFd, MountError> {
    let top = place.open_top()?;
    clone_detached(top.as_fd()).map_err(|errno| failed(&place.path, "clone the mount of", errno))
}

/// The thread ends with its namespace; the clone belongs to no namespace and stays.
fn clone_below_dead(path: &Path) -> Result<OwnedFd, MountError> {
    let below = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("below-dead".to_owned());
        thread.spawn_scoped(scope, || uncover_and_clone(path)).map(std::thread::ScopedJoinHandle::join)
    });
    match below.map_err(MountError::MountTable)? {
        Ok(result) => result,
        Err(_) => {
            Err(MountError::MountTable(std::io::Error::other("the thread below the dead mount panicked")))
        }
    }
}

fn uncover_and_clone(path: &Path) -> Result<OwnedFd, MountError> {
    unshare_mounts().map_err(|errno| failed(path, "look below the dead mount at", errno))?;
    // Or taking the dead mount off would be passed on to the namespace that this one was copied from.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| failed(path, "look below the dead mount at", errno))?;
    let place = Place::open(path)?;
    loop {
        let top = place.open_top()?;
        let id = mount_id_here(&top)?;
        let table = MountTable::read_from(Path::new("/proc/thread-self/mountinfo"))?;
        let is_dead = table
            .entries()
            .iter()
            .any(|entry| entry.id == id && entry.is_wsguard() && entry.mount_point == place.path);
        if !is_dead {
            return clone_detached(top.as_fd()).map_err(|errno| failed(path, "clone the mount of", errno));
        }
        drop(top);
        unmount_top(&place, UnmountFlags::DETACH)?;
    }
}

/// Descriptors are shared with the whole process, so its fdinfo shows this thread's as well.
fn mount_id_here(top: &OwnedFd) -> Result<u64, MountError> {
    mount_id(top.as_fd())
}

fn failed(path: &Path, action: &'static str, errno: Errno) -> MountError {
    MountError::Path { action, path: path.to_path_buf(), errno }
}
