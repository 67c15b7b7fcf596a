//! What btrfs offers for the quota of a subvolume. Structures and numbers are those of include/uapi/linux/btrfs.h.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `_IOWR(0x94, 18, struct btrfs_ioctl_ino_lookup_args)`.
const INO_LOOKUP: libc::Ioctl = 0xd000_9412_u32 as libc::Ioctl;
/// `_IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)`.
const FS_INFO: libc::Ioctl = 0x8400_941f_u32 as libc::Ioctl;
/// `_IOWR(0x94, 40, struct btrfs_ioctl_quota_ctl_args)`.
const QUOTA_CTL: libc::Ioctl = 0xc010_9428_u32 as libc::Ioctl;
/// `_IOR(0x94, 43, struct btrfs_ioctl_qgroup_limit_args)`.
const QGROUP_LIMIT: libc::Ioctl = 0x8030_942b_u32 as libc::Ioctl;

/// `BTRFS_QUOTA_CTL_ENABLE`.
const ENABLE: u64 = 1;
/// `BTRFS_FIRST_FREE_OBJECTID`: the inode number of every subvolume's root.
pub(crate) const SUBVOLUME_ROOT: u64 = 256;
/// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
const MAX_REFERENCED: u64 = 1;
/// `CLEAR_VALUE` of fs/btrfs/qgroup.c: the limit is taken away.
const CLEAR: u64 = u64::MAX;

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InoLookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_fs_info_args`, of which only the id of the filesystem is looked at.
#[repr(C)]
struct FsInfo {
    max_id: u64,
    devices: u64,
    fsid: [u8; 16],
    rest: [u64; 124],
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaControl {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct QgroupLimit {
    qgroup: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

/// Returns the id of the subvolume that `file`, no `O_PATH` descriptor, lies in.
///
/// # Errors
/// `ENOTTY` when it is not on btrfs.
pub(crate) fn subvolume_of(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    // Tree 0 asks for the tree of `file` itself.
    let mut lookup = InoLookup { tree: 0, object: SUBVOLUME_ROOT, name: [0; 4080] };
    // SAFETY: INO_LOOKUP reads and writes one `struct btrfs_ioctl_ino_lookup_args`, which `lookup` is.
    done(unsafe { libc::ioctl(file.as_raw_fd(), INO_LOOKUP, &raw mut lookup) })?;
    Ok(lookup.tree)
}

/// Returns the id of the filesystem that `file`, no `O_PATH` descriptor, lies on.
///
/// # Errors
/// `ENOTTY` when it is not on btrfs.
pub(crate) fn filesystem_id(file: BorrowedFd<'_>) -> Result<[u8; 16], Errno> {
    let mut info = FsInfo { max_id: 0, devices: 0, fsid: [0; 16], rest: [0; 124] };
    // SAFETY: FS_INFO reads and writes one `struct btrfs_ioctl_fs_info_args`, 1,024 bytes, which `info` is.
    done(unsafe { libc::ioctl(file.as_raw_fd(), FS_INFO, &raw mut info) })?;
    Ok(info.fsid)
}

/// Turns quotas of the whole filesystem on; the kernel then counts what is there, which takes a while.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN, `EROFS`.
pub(crate) fn enable_quotas(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut control = QuotaControl { command: ENABLE, status: 0 };
    // SAFETY: QUOTA_CTL reads and writes one `struct btrfs_ioctl_quota_ctl_args`, which `control` is.
    done(unsafe { libc::ioctl(file.as_raw_fd(), QUOTA_CTL, &raw mut control) })
}

/// Limits what a subvolume refers to, bytes; `None` takes the limit away.
///
/// # Errors
/// `ENOTCONN` when quotas are off, `ENOENT` when the subvolume has no quota group.
pub(crate) fn limit_qgroup(file: BorrowedFd<'_>, subvolume: u64, bytes: Option<u64>) -> Result<(), Errno> {
    let mut limit = QgroupLimit {
        qgroup: subvolume,
        flags: MAX_REFERENCED,
        max_referenced: bytes.unwrap_or(CLEAR),
        max_exclusive: 0,
        reserved_referenced: 0,
        reserved_exclusive: 0,
    };
    // SAFETY: QGROUP_LIMIT reads one `struct btrfs_ioctl_qgroup_limit_args`, which `limit` is.
    done(unsafe { libc::ioctl(file.as_raw_fd(), QGROUP_LIMIT, &raw mut limit) })
}

fn done(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 { Err(super::handle::last_errno()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn structures_have_the_size_that_the_numbers_name() {
        assert_eq!(size_of::<InoLookup>(), 4096);
        assert_eq!(size_of::<FsInfo>(), 1024);
        assert_eq!(size_of::<QuotaControl>(), 16);
        assert_eq!(size_of::<QgroupLimit>(), 48);
    }

    #[test]
    fn another_filesystem_knows_none_of_it() {
        let dir = std::fs::File::open("/proc/self").unwrap();
        assert_eq!(subvolume_of(dir.as_fd()), Err(Errno::NOTTY));
        assert_eq!(filesystem_id(dir.as_fd()), Err(Errno::NOTTY));
        assert_eq!(enable_quotas(dir.as_fd()), Err(Errno::NOTTY));
    }
}
