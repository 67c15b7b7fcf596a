//! Between the kernel's numbers, `fuser`'s types and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno as FuseErrno, FileAttr, FileType, FopenFlags, INodeNo, TimeOrNow};
use rustix::fs::{OFlags, StatxTimestamp, Timespec};
use rustix::io::Errno;

use crate::backing::Stat;
use crate::fs::{DataMode, DirectoryEntry, Opened, SetTime};
use crate::inode::ROOT_NODE;

/// The errno of a reply.
pub(super) fn errno(errno: Errno) -> FuseErrno {
    FuseErrno::from_i32(errno.raw_os_error())
}

/// The open flags of a request. Unknown bits are the backing filesystem's to refuse.
pub(super) fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags.cast_unsigned())
}

/// Every write(2) has reached the backing file before it returned, so close(2) has nothing to flush: one round trip
/// less.
const NO_FLUSH: FopenFlags = FopenFlags::FOPEN_NOFLUSH;

/// The open mode of a virtual file: each read asks, whatever size the kernel remembers.
pub(super) const VIRTUAL_OPEN: FopenFlags = NO_FLUSH.union(FopenFlags::FOPEN_DIRECT_IO);

/// The open mode of a file as it was: pages that the kernel has stay right.
pub(super) const PAST_OPEN: FopenFlags = NO_FLUSH.union(FopenFlags::FOPEN_KEEP_CACHE);

/// The open mode that a reply asks the kernel for (SEMANTICS.md, "Open modes").
pub(super) fn open_reply_flags(opened: &Opened) -> FopenFlags {
    match (opened.mode, opened.is_direct) {
        (DataMode::Passthrough(_), true) => {
            NO_FLUSH | FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
        }
        (DataMode::Passthrough(_), false) | (DataMode::Cached, _) => NO_FLUSH,
    }
}

/// The backing id of a reply.
pub(super) fn backing_id(opened: &Opened) -> Option<u32> {
    match opened.mode {
        DataMode::Passthrough(id) => Some(id),
        DataMode::Cached => None,
    }
}

/// Attributes as the kernel caches them, shown under the inode number `ino`.
pub(super) fn file_attributes(stat: &Stat, ino: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: shown_time(&stat.stx_atime),
        mtime: shown_time(&stat.stx_mtime),
        ctime: shown_time(&stat.stx_ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(u32::from(stat.stx_mode)),
        perm: stat.stx_mode & 0o7777,
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: device_number(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
        flags: 0,
    }
}

/// The inode number that users see: the node's own, and the backing one for the root, whose node the protocol
/// fixes.
pub(super) fn shown_ino(node: u64, stat: &Stat) -> u64 {
    if node == ROOT_NODE { stat.stx_ino } else { node }
}

/// What a listed name without attributes carries: an inode number and a type.
pub(super) fn name_only(listed: &DirectoryEntry<'_>) -> FileAttr {
    FileAttr { ino: INodeNo(listed.ino), kind: listed_type(listed.kind), ..no_attributes() }
}

/// What a negative entry carries: node 0.
pub(super) fn no_attributes() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// The type bits of a mode.
pub(super) fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// `DT_*` of a directory record.
pub(super) fn listed_type(kind: u8) -> FileType {
    file_type(u32::from(kind) << 12)
}

/// `new_decode_dev` of include/linux/kdev_t.h.
pub(super) fn device_numbers(device: u32) -> (u32, u32) {
    ((device & 0xf_ff00) >> 8, (device & 0xff) | ((device >> 12) & 0xf_ff00))
}

/// `new_encode_dev` of include/linux/kdev_t.h.
fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// A time that setattr carries.
pub(super) fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Keep,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::To(timespec(time)),
    }
}

fn timespec(time: SystemTime) -> Timespec {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: after.subsec_nanos().into(),
        },
        // The library subtracts the nanoseconds of a time before 1970 instead of adding them
        // (`system_time_from_time` in its time.rs), so they are taken as they are.
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            Timespec { tv_sec: -seconds, tv_nsec: before.subsec_nanos().into() }
        }
    }
}

fn shown_time(time: &StatxTimestamp) -> SystemTime {
    system_time(time.tv_sec, time.tv_nsec)
}

fn system_time(seconds: i64, nanos: u32) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let whole =
        if seconds >= 0 { UNIX_EPOCH.checked_add(distance) } else { UNIX_EPOCH.checked_sub(distance) };
    whole.and_then(|whole| whole.checked_add(Duration::from_nanos(nanos.into()))).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn requested_time_is_what_the_caller_asked_for(seconds in -4_000_000_000_i64..8_000_000_000, nanos in 0_u32..1_000_000_000) {
            let distance = Duration::new(seconds.unsigned_abs(), nanos);
            let received = if seconds >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance };
            let back = timespec(received);
            prop_assert_eq!((back.tv_sec, back.tv_nsec), (seconds, i64::from(nanos)));
        }

        #[test]
        fn device_survives_the_round_trip(major in 0_u32..4096, minor in 0_u32..(1 << 20)) {
            prop_assert_eq!(device_numbers(device_number(major, minor)), (major, minor));
        }
    }

    #[test]
    fn writer_is_direct_and_reader_is_not() {
        let flags =
            |is_direct| open_reply_flags(&Opened { number: 0, mode: DataMode::Passthrough(1), is_direct });
        assert!(flags(true).contains(FopenFlags::FOPEN_DIRECT_IO));
        assert!(!flags(false).contains(FopenFlags::FOPEN_DIRECT_IO));
    }
}
