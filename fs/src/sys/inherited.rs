//! Descriptors that whoever started this process left open in it.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::handle::last_errno;

/// Takes a descriptor that is named in the environment and that nobody in this process owns yet.
///
/// Call it once for each number, before anything else opens or closes descriptors by number.
///
/// # Errors
/// `EBADF` if it is not open.
pub(crate) fn take(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: fcntl(F_GETFD) only reads flags and takes any number.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(last_errno());
    }
    // SAFETY: it is open (checked), and the caller vouches that nobody owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn open_descriptor_is_taken_and_a_closed_one_is_not() {
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        assert_eq!(take(number).unwrap().as_raw_fd(), number);
        assert_eq!(take(RawFd::MAX).err(), Some(Errno::BADF));
    }
}
