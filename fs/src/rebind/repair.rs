//! What happens inside another mount namespace.
//!
//! Everything by descriptor: of our own `/proc`, of the new mounts, of the dead mount that was found. The
//! namespace's own `/proc` may show anything.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::namespace::Namespace;
use super::plan::{self, Access, DeadMount};
use super::{Attempt, Superseded, own_descriptor};
use crate::mounting::clone_detached;
use crate::mounting::mountinfo::MountTable;
use crate::sys::mount::{enter_mount_namespace, restrict, restrict_also};

/// How a dead mount ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repaired {
    /// The new mount is in its place.
    Replaced,
    /// It was taken away by somebody else meanwhile.
    Gone,
    /// Its superblock still answers: an earlier session goes on for those who hold it.
    Alive,
}

/// Replaces every dead mount of the namespace. The calling thread stays in it.
pub(super) fn repair(namespace: &Namespace, superseded: &[Superseded]) -> Vec<Attempt> {
    let dead_mounts = plan::dead_mounts(&namespace.table, &namespace.former);
    let clones: Vec<Result<OwnedFd, String>> =
        dead_mounts.iter().map(|dead| successor(dead, superseded)).collect();
    let entered = enter(namespace);
    let attempts = dead_mounts.into_iter().zip(clones).map(|(dead, clone)| {
        let result = match (&entered, clone) {
            (Ok(procfs), Ok(clone)) => replace(&dead, &clone, procfs.as_fd(), namespace),
            (Err(reason), _) => Err(reason.clone()),
            (_, Err(reason)) => Err(reason),
        };
        (dead, result)
    });
    attempts.collect()
}

/// Moves the thread into the namespace. Returns our own `/proc`, which is its working directory from now on.
fn enter(namespace: &Namespace) -> Result<OwnedFd, String> {
    let failed = |action, errno| format!("cannot {action}: {errno}");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let procfs =
        rustix::fs::open("/proc", flags, Mode::empty()).map_err(|errno| failed("open /proc", errno))?;
    let target = namespace.open()?;
    enter_mount_namespace(target.as_fd()).map_err(|errno| failed("enter its mount namespace", errno))?;
    rustix::process::fchdir(&procfs).map_err(|errno| failed("go back to /proc", errno))?;
    Ok(procfs)
}

/// Makes the mount that is to take the place of `dead`, while its workspace is still in reach.
fn successor(dead: &DeadMount, superseded: &[Superseded]) -> Result<OwnedFd, String> {
    let workspace = superseded
        .iter()
        .find(|workspace| workspace.former.contains(&dead.superblock))
        .ok_or("its workspace is not known")?;
    let within = dead.root.strip_prefix("/").unwrap_or(&dead.root);
    if dead.is_deleted() {
        return Err(format!("{} was removed", dead.root.display()));
    }
    let clone = if within.as_os_str().is_empty() {
        clone_detached(workspace.root.as_fd())
    } else {
        open_below(workspace.root.as_fd(), within).and_then(|inner| clone_detached(inner.as_fd()))
    };
    let clone = clone.map_err(|errno| format!("{} of the workspace: {errno}", dead.root.display()))?;
    restrict_also(clone.as_fd(), attributes(dead.access))
        .map_err(|errno| format!("cannot restrict its mount: {errno}"))?;
    Ok(clone)
}

/// A user may have put a symbolic link there meanwhile; it is not followed.
fn open_below(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn attributes(access: Access) -> MountAttrFlags {
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, access.read_only);
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, access.no_exec);
    attributes
}

/// Puts `clone` in the place of the mount that is known by the id and the superblock of `dead`.
fn replace(
    dead: &DeadMount,
    clone: &OwnedFd,
    procfs: BorrowedFd<'_>,
    namespace: &Namespace,
) -> Result<Repaired, String> {
    // Again, now from inside: what is there at this moment, and where.
    let table = own_table(procfs).map_err(|error| format!("cannot read its mount table: {error}"))?;
    let found = plan::dead_mounts(&table, &namespace.former)
        .into_iter()
        .find(|found| (found.id, &found.superblock, &found.root) == (dead.id, &dead.superblock, &dead.root));
    let Some(found) = found else { return Ok(Repaired::Gone) };
    let target = open_place(&found.mount_point).map_err(|errno| format!("cannot open it: {errno}"))?;
    if mount_id(procfs, &target)? != found.id {
        return Err("another mount is at its place".to_owned());
    }
    if !is_dead(&target) {
        return Ok(Repaired::Alive);
    }
    let children = children(&found, clone, procfs)?;
    match move_onto(clone.as_fd(), target.as_fd(), MoveMountFlags::MOVE_MOUNT_BENEATH) {
        Ok(()) => {
            for (child, place) in &children {
                move_onto(child.as_fd(), place.as_fd(), MoveMountFlags::empty())
                    .map_err(|errno| format!("a mount on it cannot be moved: {errno}"))?;
            }
            take_off(&target).map_err(|errno| format!("cannot take the dead mount off: {errno}"))?;
        }
        // A kernel before 6.5, or a mount that is locked.
        Err(Errno::INVAL) if children.is_empty() => put_instead(&found, &target, clone, procfs)?,
        Err(errno) => return Err(format!("cannot mount beneath: {errno}")),
    }
    // What lands on a shared mount becomes shared.
    restrict(clone.as_fd()).map_err(|errno| format!("cannot make its mount private: {errno}"))?;
    Ok(Repaired::Replaced)
}

/// Puts `clone` in the place of `target` where it cannot go beneath. The place shows what lies below for a moment.
fn put_instead(
    dead: &DeadMount,
    target: &OwnedFd,
    clone: &OwnedFd,
    procfs: BorrowedFd<'_>,
) -> Result<(), String> {
    let below;
    let place = match take_off(target) {
        Ok(()) => {
            below = open_place(&dead.mount_point).map_err(|errno| format!("cannot open it: {errno}"))?;
            if mount_id(procfs, &below)? != dead.parent {
                return Err("the place was exchanged when the dead mount was gone".to_owned());
            }
            &below
        }
        // It came from a more privileged user namespace and is locked here (mount_namespaces(7)): it stays, covered.
        Err(Errno::INVAL) => target,
        Err(errno) => return Err(format!("cannot take the dead mount off: {errno}")),
    };
    move_onto(clone.as_fd(), place.as_fd(), MoveMountFlags::empty())
        .map_err(|errno| format!("cannot mount: {errno}"))
}

/// Opens what is mounted on the dead mount, together with the places where it belongs on the new one. All or nothing:
/// whatever cannot be moved would be taken off with the dead mount.
fn children(
    dead: &DeadMount,
    clone: &OwnedFd,
    procfs: BorrowedFd<'_>,
) -> Result<Vec<(OwnedFd, OwnedFd)>, String> {
    let open = |child: &plan::Child| {
        let path = child.mount_point.display();
        let mount = open_place(&child.mount_point)
            .map_err(|errno| format!("{path} is mounted on it and out of reach: {errno}"))?;
        if mount_id(procfs, &mount)? != child.id {
            return Err(format!("{path} is mounted on it more than once"));
        }
        let within = child.mount_point.strip_prefix(&dead.mount_point).map_err(|error| error.to_string())?;
        let place = open_below(clone.as_fd(), within)
            .map_err(|errno| format!("{path} is mounted on it and its place is gone: {errno}"))?;
        Ok((mount, place))
    };
    dead.children.iter().map(open).collect()
}

/// Opens what a lookup finds at `path` in the namespace, without following symbolic links and without a request to
/// a filesystem that is mounted there.
fn open_place(path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn move_onto(mount: BorrowedFd<'_>, target: BorrowedFd<'_>, extra: MoveMountFlags) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH | extra;
    move_mount(mount, "", target, "", flags)
}

/// Unmounts exactly the mount that `target` is on, through the working directory of [`enter`].
fn take_off(target: &OwnedFd) -> Result<(), Errno> {
    unmount(own_descriptor("fd", target.as_raw_fd()), UnmountFlags::DETACH)
}

/// Asks the superblock itself. A living one that hangs keeps this thread; whoever waits for it gives up.
fn is_dead(target: &OwnedFd) -> bool {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    let answer = rustix::fs::statx(target, "", flags, StatxFlags::BASIC_STATS);
    matches!(answer, Err(Errno::NOTCONN | Errno::CONNABORTED))
}

fn read_own(procfs: BorrowedFd<'_>, path: &Path) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::openat(procfs, path, flags, Mode::empty())?);
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}

fn own_table(procfs: BorrowedFd<'_>) -> std::io::Result<MountTable> {
    Ok(MountTable::parse(&read_own(procfs, Path::new("thread-self/mountinfo"))?))
}

fn mount_id(procfs: BorrowedFd<'_>, target: &OwnedFd) -> Result<u64, String> {
    let text = read_own(procfs, &own_descriptor("fdinfo", target.as_raw_fd()))
        .map_err(|error| format!("cannot look at it: {error}"))?;
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| "the kernel does not tell mount ids".to_owned())
}
