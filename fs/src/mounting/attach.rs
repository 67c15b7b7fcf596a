//! Putting a mount at a place and taking mounts away, without a path that a user could redirect.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount};
use tracing::warn;

use super::error::MountError;
use super::mountinfo::{DeviceNumber, MountTable};
use super::place::Place;
use crate::sys::mount::restrict;

/// Dead mounts that may lie on each other at one place, one for each daemon that died.
const MOST_DEAD_MOUNTS: usize = 64;

/// Clones the mount that `place` is on, without the mounts below it, as a detached private one.
pub(crate) fn clone_detached(place: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let clone = open_tree(place, "", flags)?;
    restrict(clone.as_fd())?;
    Ok(clone)
}

/// Attaches the detached `mount` at `place`. Dead wsguard mounts there are covered: the new one goes beneath
/// the topmost and that one is taken off, so that the plain directory is never reachable in between.
///
/// The caller has made sure that every wsguard mount at `place` is dead.
pub(crate) fn attach(mount: BorrowedFd<'_>, place: &Place) -> Result<(), MountError> {
    let mut top = place.open_top()?;
    if dead_mount_at(&top, place)? {
        match move_onto(mount, top.as_fd(), MoveMountFlags::MOVE_MOUNT_BENEATH) {
            Ok(()) => {
                drop(top);
                // Before it is private: the removal reaches other namespaces through the new mount, which the
                // dead one lies on now.
                uncover(mount, place)?;
                return make_private(mount, place);
            }
            // Kernels before 6.5, or propagation that would show the mount twice.
            Err(errno) => {
                warn!(path = %place.path.display(), errno = errno.raw_os_error(), "dead mount is removed before its successor is there");
            }
        }
        drop(top);
        remove_dead(place)?;
        top = place.open_top()?;
    }
    move_onto(mount, top.as_fd(), MoveMountFlags::empty()).map_err(|errno| MountError::Path {
        action: "mount over",
        path: place.path.clone(),
        errno,
    })?;
    make_private(mount, place)
}

fn move_onto(mount: BorrowedFd<'_>, target: BorrowedFd<'_>, extra: MoveMountFlags) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH | extra;
    move_mount(mount, "", target, "", flags)
}

/// A mount that lands on a shared one becomes shared; ours must never carry a container's mounts to the host.
fn make_private(mount: BorrowedFd<'_>, place: &Place) -> Result<(), MountError> {
    restrict(mount).map_err(|errno| MountError::Path {
        action: "make private the mount at",
        path: place.path.clone(),
        errno,
    })
}

/// Takes dead mounts off until `mount` is on top.
fn uncover(mount: BorrowedFd<'_>, place: &Place) -> Result<(), MountError> {
    let wanted = mount_id(mount)?;
    for _ in 0..MOST_DEAD_MOUNTS {
        if mount_id(place.open_top()?.as_fd())? == wanted {
            return Ok(());
        }
        unmount_top(place, UnmountFlags::DETACH)?;
    }
    Err(MountError::Covered { path: place.path.clone() })
}

/// Takes every wsguard mount at `place` off; the caller has made sure that they are dead.
pub(crate) fn remove_dead(place: &Place) -> Result<(), MountError> {
    for _ in 0..MOST_DEAD_MOUNTS {
        if !dead_mount_at(&place.open_top()?, place)? {
            return Ok(());
        }
        unmount_top(place, UnmountFlags::DETACH)?;
    }
    Err(MountError::Covered { path: place.path.clone() })
}

/// Returns whether the mount that `top` is on is a wsguard mount exactly at `place`.
fn dead_mount_at(top: &OwnedFd, place: &Place) -> Result<bool, MountError> {
    let id = mount_id(top.as_fd())?;
    let table = MountTable::read()?;
    Ok(table
        .entries()
        .iter()
        .any(|entry| entry.id == id && entry.is_wsguard() && entry.mount_point == place.path))
}

/// Unmounts what is on top at `place`.
pub(crate) fn unmount_top(place: &Place, flags: UnmountFlags) -> Result<(), MountError> {
    // The parent's descriptor holds the parent's mount only, so it does not make ours busy.
    unmount(place.stable_path(), flags | UnmountFlags::NOFOLLOW).map_err(|errno| MountError::Path {
        action: "unmount",
        path: place.path.clone(),
        errno,
    })
}

/// Returns the id in mountinfo of the mount that `fd` is on, without a request to its filesystem.
pub(crate) fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, MountError> {
    let text = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(fd.as_raw_fd().to_string()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| std::io::Error::other("no mnt_id in /proc/self/fdinfo").into())
}

/// Returns the device number of the superblock that `fd` is on, without a request to its filesystem.
pub(crate) fn device_of(fd: BorrowedFd<'_>) -> Result<DeviceNumber, MountError> {
    let id = mount_id(fd)?;
    let table = MountTable::read()?;
    table
        .entries()
        .iter()
        .find(|entry| entry.id == id)
        .map(|entry| entry.device)
        .ok_or_else(|| std::io::Error::other("a mount that was just made is not in the mount table").into())
}
