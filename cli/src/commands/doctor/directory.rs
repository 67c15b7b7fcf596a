//! What the filesystem of one directory offers, found out by trying.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::commands::doctor::check::Check;
use crate::commands::doctor::mount_table::{GUARD_TYPE, MountEntry, mount_of};
use crate::output::bytes;
use crate::users::Users;

/// A reflink needs one block to share.
const PROBE_BYTES: usize = 4096;

/// Filesystems that hold no files of users.
const VIRTUAL: [&str; 9] =
    ["proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs", "configfs"];

/// Tries everything on one directory; `dir` has no symbolic links in it.
pub(super) fn checks(dir: &Path, mounts: &[MountEntry]) -> Vec<Check> {
    let mut checks = vec![place(dir, mounts), filesystem(dir, mounts), owner(dir), space(dir)];
    checks.extend(attributes(dir));
    checks.push(reflink(dir));
    // Opening by handle has no safe wrapper that this command could use, and guessing would be no check.
    checks.push(Check::info(
        "directory.file-handles",
        "tried by the daemon at mount, see `wsguard doctor` then",
    ));
    checks.into_iter().map(|check| check.about(dir.to_string_lossy())).collect()
}

fn place(dir: &Path, mounts: &[MountEntry]) -> Check {
    const ID: &str = "directory.place";
    let guarded = || mounts.iter().filter(|mount| mount.filesystem == GUARD_TYPE);
    if dir.parent().is_none() {
        return Check::problem(ID, "the root directory cannot be guarded", "name a project's directory");
    }
    if guarded().any(|mount| mount.mount_point == dir) {
        return Check::info(ID, "guarded already");
    }
    if let Some(outer) = guarded().find(|mount| dir.starts_with(&mount.mount_point)) {
        let finding = format!("lies inside the guarded {}", outer.mount_point.display());
        return Check::problem(ID, finding, "it is protected already; guard no directory inside another");
    }
    if let Some(inner) = guarded().find(|mount| mount.mount_point.starts_with(dir)) {
        let finding = format!("contains the guarded {}", inner.mount_point.display());
        return Check::problem(ID, finding, "guard its projects one by one, or unmount what is inside first");
    }
    Check::ok(ID, "can be guarded in place")
}

fn filesystem(dir: &Path, mounts: &[MountEntry]) -> Check {
    const ID: &str = "directory.filesystem";
    let Some(mount) = mount_of(dir, mounts) else {
        return Check::warning(
            ID,
            "is on no mount of the mount table",
            "mount /proc where this command runs",
        );
    };
    let finding = format!("{} from {}", mount.filesystem, mount.source);
    match mount.filesystem.as_str() {
        "ext4" | "xfs" | "btrfs" | GUARD_TYPE => Check::ok(ID, finding),
        kind if VIRTUAL.contains(&kind) => Check::problem(
            ID,
            format!("{finding}, which holds no users' files"),
            "name a directory on a disk",
        ),
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "9p" => Check::warning(
            ID,
            format!("{finding}: edits by other machines show a second late, and they are not guarded"),
            "guard it on the machine that holds the disk, if you can",
        ),
        "overlay" => Check::warning(
            ID,
            format!("{finding}: no file handles, and gone with its container"),
            "keep workspaces on ext4, xfs or btrfs of the host",
        ),
        "tmpfs" | "ramfs" => {
            Check::warning(ID, format!("{finding}: gone at the next boot"), "keep workspaces on a disk")
        }
        _ => Check::info(
            ID,
            format!("{finding}, which is not among the filesystems tested (ext4, xfs, btrfs)"),
        ),
    }
}

fn owner(dir: &Path) -> Check {
    const ID: &str = "directory.owner";
    match fs::metadata(dir) {
        Ok(metadata) => {
            let policy = if metadata.uid() == 0 { "preserve" } else { "squash" };
            let owner = Users::of_this_machine().full(metadata.uid());
            Check::info(
                ID,
                format!("belongs to {owner}: mounted with ownership {policy} unless told otherwise"),
            )
        }
        Err(error) => Check::problem(ID, format!("cannot be looked at: {error}"), "correct its permissions"),
    }
}

fn space(dir: &Path) -> Check {
    const ID: &str = "directory.space";
    let found = match rustix::fs::statvfs(dir) {
        Ok(found) => found,
        Err(error) => {
            let finding = format!("its filesystem cannot be asked: {}", io::Error::from(error));
            return Check::problem(ID, finding, "see `dmesg`");
        }
    };
    let free = bytes(found.f_bavail.saturating_mul(found.f_frsize));
    let total = bytes(found.f_blocks.saturating_mul(found.f_frsize));
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let advice =
            "remount it read-write if it should not be; errors on the disk have this effect, see `dmesg`";
        return Check::warning(ID, "its filesystem is read-only", advice);
    }
    if found.f_bavail == 0 {
        return Check::warning(ID, format!("none of {total} is free"), "make room: every write fails");
    }
    Check::ok(ID, format!("{free} of {total} free"))
}

fn attributes(dir: &Path) -> [Check; 2] {
    let ask = |name: &str| {
        let mut value = [0u8; 1];
        // Any answer but "not supported" comes from a filesystem that knows such attributes.
        match rustix::fs::getxattr(dir, name, &mut value[..]) {
            Ok(_) | Err(Errno::NODATA | Errno::RANGE) => Ok(true),
            Err(Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(io::Error::from(error)),
        }
    };
    let check = |id: &'static str, what: &str, name: &str| match ask(name) {
        Ok(true) => Check::ok(id, format!("{what} are kept")),
        Ok(false) => Check::warning(
            id,
            format!("{what} are not supported"),
            "mount the filesystem with `acl,user_xattr`, or use ext4, xfs or btrfs",
        ),
        Err(error) => Check::info(id, format!("{what} could not be tried: {error}")),
    };
    [
        check("directory.xattr", "extended attributes", "user.wsguard.probe"),
        check("directory.acl", "POSIX ACLs", "system.posix_acl_access"),
    ]
}

/// Clones a block between two files that have no names, so nothing is left whatever happens.
fn reflink(dir: &Path) -> Check {
    const ID: &str = "directory.reflink";
    match try_reflink(dir) {
        Ok(()) => Check::ok(ID, "reflink works: old versions cost no copy"),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOTTY | Errno::NOSYS | Errno::XDEV) => {
            Check::info(ID, "no reflink: old versions are copied")
        }
        Err(error) => Check::info(ID, format!("reflink could not be tried: {}", io::Error::from(error))),
    }
}

fn try_reflink(dir: &Path) -> Result<(), Errno> {
    let unnamed = || -> Result<File, Errno> {
        let flags = OFlags::TMPFILE.bits().cast_signed();
        let opened = OpenOptions::new().read(true).write(true).mode(0o600).custom_flags(flags).open(dir);
        opened.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    };
    let mut source = unnamed().map_err(not_tried)?;
    let target = unnamed().map_err(not_tried)?;
    let written = source.write_all(&[1; PROBE_BYTES]);
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::fs::ioctl_ficlone(&target, &source)
}

/// A filesystem without unnamed files says nothing about reflink.
fn not_tried(error: Errno) -> Errno {
    if error == Errno::OPNOTSUPP { Errno::PERM } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::check::Level;

    fn guarded(mount_point: &str) -> MountEntry {
        MountEntry {
            device: "0:77".into(),
            mount_point: mount_point.into(),
            filesystem: GUARD_TYPE.into(),
            source: "wsguard".into(),
        }
    }

    #[test]
    fn nested_directories_and_the_root_are_problems() {
        let mounts = [guarded("/home/a/p")];
        let level = |dir: &str| place(Path::new(dir), &mounts).level;
        assert_eq!(level("/"), Level::Problem);
        assert_eq!(level("/home/a/p/inner"), Level::Problem);
        assert_eq!(level("/home/a"), Level::Problem);
        assert_eq!(level("/home/a/p"), Level::Info);
        assert_eq!(level("/home/a/p2"), Level::Ok);
    }

    #[test]
    fn probing_leaves_the_directory_empty() {
        let dir = tempfile::tempdir().unwrap();
        let checks = checks(dir.path(), &[]);
        assert_eq!(checks.len(), 8);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
