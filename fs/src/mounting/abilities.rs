//! What the filesystem below a workspace is and can do, found by trying.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use wsguard_api::BackingInfo;

use crate::sys::handle::handle_of;
use crate::sys::mount::accounts_project_quota;

/// Magic numbers of linux/magic.h and the filesystems' own headers.
const NAMES: &[(u32, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlay"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x6573_5546, "fuse"),
    (0x2fc1_2fc1, "zfs"),
    (0xf2f5_2010, "f2fs"),
    (0xca45_1a4e, "bcachefs"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x0102_1997, "9p"),
];

/// Probes the filesystem of the open directory `dir`. Two unnamed files are created and gone again.
///
/// # Errors
/// As fstatfs(2), fstat(2).
pub(crate) fn probe(dir: BorrowedFd<'_>) -> Result<BackingInfo, Errno> {
    let stat = rustix::fs::fstat(dir)?;
    let space = rustix::fs::fstatvfs(dir)?;
    Ok(BackingInfo {
        filesystem: filesystem_name(dir)?,
        device: format!("{}:{}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)),
        reflink: can_reflink(dir),
        file_handles: handle_of(dir).is_ok(),
        acl: keeps(dir, "system.posix_acl_default"),
        xattr: keeps(dir, "user.wsguard.probe"),
        project_quota: accounts_project_quota(dir),
        read_only: space.f_flag.contains(StatVfsMountFlags::RDONLY),
        total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
        available_bytes: space.f_bavail.saturating_mul(space.f_frsize),
    })
}

/// Brings the sizes in `info` up to date.
pub(crate) fn refresh_space(dir: BorrowedFd<'_>, info: &mut BackingInfo) -> Result<(), Errno> {
    let space = rustix::fs::fstatvfs(dir)?;
    info.total_bytes = space.f_blocks.saturating_mul(space.f_frsize);
    info.available_bytes = space.f_bavail.saturating_mul(space.f_frsize);
    Ok(())
}

fn filesystem_name(dir: BorrowedFd<'_>) -> Result<String, Errno> {
    let kind = rustix::fs::fstatfs(dir)?.f_type;
    // The field is signed on some architectures; all magic numbers have 32 bits.
    let magic = (kind as u64 & 0xffff_ffff) as u32;
    let name = NAMES.iter().find(|(number, _)| *number == magic).map(|(_, name)| (*name).to_owned());
    Ok(name.unwrap_or_else(|| format!("0x{magic:x}")))
}

/// Returns whether FICLONE works between two unnamed files with a block of data.
fn can_reflink(dir: BorrowedFd<'_>) -> bool {
    let unnamed = || -> Result<OwnedFd, Errno> {
        rustix::fs::openat(dir, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR)
    };
    let attempt = || {
        let (from, to) = (unnamed()?, unnamed()?);
        rustix::io::write(&from, &[1; 4096])?;
        rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd())
    };
    attempt().is_ok()
}

/// Returns whether an extended attribute of that name could be there.
fn keeps(dir: BorrowedFd<'_>, name: &str) -> bool {
    match rustix::fs::fgetxattr(dir, name, &mut [0_u8; 0]) {
        Ok(_) => true,
        Err(errno) => errno == Errno::NODATA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_known_for_what_it_lacks() {
        let dir = std::fs::File::open("/proc/self").unwrap();
        let info = probe(dir.as_fd()).unwrap();
        assert_eq!(info.filesystem, "0x9fa0");
        assert!(!info.reflink && !info.acl && !info.project_quota);
    }

    #[test]
    fn temporary_directory_has_handles_and_space() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(dir.path()).unwrap();
        let info = probe(file.as_fd()).unwrap();
        assert!(info.total_bytes >= info.available_bytes && info.total_bytes > 0);
        assert!(!info.read_only);
    }
}
