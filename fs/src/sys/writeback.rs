//! Writing a file's dirty pages out without making them durable.
#![expect(unsafe_code, reason = "sync_file_range has no safe form")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::handle::last_errno;

/// Writes every dirty page of a file out and waits for it. What the filesystem allocates late is allocated then. Nothing
/// is flushed, and a file without dirty pages costs nothing.
///
/// # Errors
/// As sync_file_range(2).
pub(crate) fn write_out(file: BorrowedFd<'_>) -> Result<(), Errno> {
    sync_all_of(
        file,
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER,
    )
}

/// Has every dirty page of a file written out, without waiting for it.
///
/// # Errors
/// As sync_file_range(2).
pub(crate) fn begin_write_out(file: BorrowedFd<'_>) -> Result<(), Errno> {
    sync_all_of(file, libc::SYNC_FILE_RANGE_WRITE)
}

fn sync_all_of(file: BorrowedFd<'_>, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: the call takes numbers only, and the descriptor is open for it.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_dirty_file_is_written_out_and_a_pipe_refused() {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        assert_eq!(begin_write_out(file.as_fd()), Ok(()));
        assert_eq!(write_out(file.as_fd()), Ok(()));
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(write_out(reader.as_fd()), Err(Errno::SPIPE));
    }
}
