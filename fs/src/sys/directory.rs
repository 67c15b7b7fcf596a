//! getdents64(2) into a caller's buffer, and the records that it leaves there.
//!
//! `rustix::fs::RawDir` borrows the buffer for as long as it iterates; a directory handle keeps unread records
//! between two requests, so it needs the buffer itself.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

/// One record of a directory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DirectoryRecord<'a> {
    /// Inode number on the backing filesystem.
    pub(crate) ino: u64,
    /// Where reading goes on after this record; opaque, given to lseek(2) as it is.
    pub(crate) next_offset: u64,
    /// `DT_*`.
    pub(crate) kind: u8,
    /// The name, without the terminating NUL.
    pub(crate) name: &'a OsStr,
    /// Bytes of this record in the buffer.
    pub(crate) record_bytes: usize,
}

/// Offset of `d_name` in `struct linux_dirent64`.
const NAME_OFFSET: usize = 19;

/// Fills `buffer` with whole records; returns the bytes used, 0 at the end of the directory.
///
/// # Errors
/// As getdents64(2).
pub(crate) fn read_records(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the pointer and length describe `buffer`, which is writable for the duration of the call.
    let result =
        unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    usize::try_from(result).map_err(|_| super::handle::last_errno())
}

/// Returns the record at the start of `buffer`, or `None` if there is no whole one.
pub(crate) fn first_record(buffer: &[u8]) -> Option<DirectoryRecord<'_>> {
    let ino = u64::from_ne_bytes(buffer.get(0..8)?.try_into().ok()?);
    let next_offset = u64::from_ne_bytes(buffer.get(8..16)?.try_into().ok()?);
    let record_bytes = usize::from(u16::from_ne_bytes(buffer.get(16..18)?.try_into().ok()?));
    let kind = *buffer.get(18)?;
    let name = buffer.get(NAME_OFFSET..record_bytes)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    Some(DirectoryRecord { ino, next_offset, kind, name: OsStr::from_bytes(&name[..end]), record_bytes })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn records_name_every_entry() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "bb", "ccc"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let fd = std::fs::File::open(dir.path()).unwrap();
        let mut buffer = vec![0; 4096];
        let used = read_records(fd.as_fd(), &mut buffer).unwrap();
        let mut rest = &buffer[..used];
        let mut names = Vec::new();
        while let Some(record) = first_record(rest) {
            names.push(record.name.to_owned());
            rest = &rest[record.record_bytes..];
        }
        names.sort();
        assert_eq!(names, [".", "..", "a", "bb", "ccc"]);
        assert_eq!(read_records(fd.as_fd(), &mut buffer).unwrap(), 0);
    }

    #[test]
    fn torn_record_is_none() {
        assert_eq!(first_record(&[0; 18]), None);
        assert_eq!(first_record(&[255; 30]), None);
    }
}
