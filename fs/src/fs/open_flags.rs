//! What of an open's flags and of a file's mode concerns the worker's own descriptor.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The open flags that the worker's own descriptor keeps: how far a write must be durable and where it goes.
/// Not `O_DIRECT` (the worker's buffers are not aligned; the caller's alignment is its own affair), not
/// `O_NOFOLLOW` (a handle is never followed), not `O_CREAT` and `O_TRUNC` (done once, not at every reopening).
pub(super) fn worker_flags(flags: OFlags) -> OFlags {
    flags & (OFlags::ACCMODE | OFlags::APPEND | OFlags::SYNC | OFlags::DSYNC)
}

/// Remembered beside the open flags of a writer that the kernel passes through: its writes do not reach the worker.
/// No flag of open(2).
pub(super) const UNSEEN: OFlags = OFlags::from_bits_retain(1 << 31);

/// Takes setuid, setgid and file capabilities away.
pub(super) fn strip_privilege(file: BorrowedFd<'_>, is_privileged: bool) -> Result<(), Errno> {
    if is_privileged {
        let mode = rustix::fs::fstat(file)?.st_mode & 0o1777;
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    }
    match rustix::fs::fremovexattr(file, "security.capability") {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Whether a file has setuid or setgid.
pub(super) fn has_privileged_mode(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mode = rustix::fs::fstat(file)?.st_mode;
    Ok(mode & (libc::S_ISUID | libc::S_ISGID) != 0)
}
