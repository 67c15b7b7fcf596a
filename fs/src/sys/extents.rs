//! Which blocks of a file are allocated.
#![expect(unsafe_code, reason = "FS_IOC_FIEMAP has no safe form")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `FS_IOC_FIEMAP` of linux/fs.h: `_IOWR('f', 11, struct fiemap)`.
const FIEMAP: libc::Ioctl = 0xc020_660b_u32 as libc::Ioctl;
/// Extents asked for at once; a file with more of them in one write is answered for a part of it.
const EXTENTS: usize = 32;

/// `struct fiemap_extent` of linux/fiemap.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_too: [u32; 3],
}

/// `struct fiemap` with room for its extents.
#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

/// Returns up to where every byte of `from..to` has a block, written to or not; `from` if the first one has none. It may
/// stop early where the file is in many pieces.
///
/// # Errors
/// As ioctl(2); `EOPNOTSUPP` or `ENOTTY` where the filesystem does not tell, as tmpfs.
pub(crate) fn allocated_until(file: BorrowedFd<'_>, from: u64, to: u64) -> Result<u64, Errno> {
    let map = map(file, from, to)?;
    let mut end = from;
    for extent in map.extents.iter().take(map.mapped as usize) {
        if extent.logical > end {
            break;
        }
        end = end.max(extent.logical.saturating_add(extent.length));
    }
    Ok(end.min(to))
}

/// Whether anything is allocated from byte `from` on.
///
/// # Errors
/// As [`allocated_until`].
pub(crate) fn has_any_from(file: BorrowedFd<'_>, from: u64) -> Result<bool, Errno> {
    // The largest offset of a file; filesystems refuse more.
    let end = i64::MAX.cast_unsigned();
    Ok(from < end && map(file, from, end)?.mapped > 0)
}

fn map(file: BorrowedFd<'_>, from: u64, to: u64) -> Result<Map, Errno> {
    let mut map = Map {
        start: from,
        length: to.saturating_sub(from),
        flags: 0,
        mapped: 0,
        room: EXTENTS as u32,
        reserved: 0,
        extents: [Extent::default(); EXTENTS],
    };
    // SAFETY: `map` is a struct fiemap followed by `room` extents, which the kernel fills; it lives across the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FIEMAP, &raw mut map) };
    if result != 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_hole_ends_what_is_allocated() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        file.write_all_at(&[1; 4096], 65_536).unwrap();
        let until = |from, to| allocated_until(file.as_fd(), from, to);
        // Not every filesystem tells.
        let Ok(all) = until(0, 1 << 20) else { return };
        assert_eq!(all, 8192);
        assert_eq!(until(100, 5_000), Ok(5_000));
        assert_eq!(until(8192, 65_536), Ok(8192));
        assert_eq!(until(65_536, 70_000), Ok(69_632));
        assert_eq!(has_any_from(file.as_fd(), 8192), Ok(true));
        assert_eq!(has_any_from(file.as_fd(), 69_632), Ok(false));
    }
}
