//! Whether somebody else has a file open, told by whether it can be leased.
#![expect(unsafe_code, reason = "F_SETLEASE and F_SETSIG have no safe form")]

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::handle::last_errno;

/// `F_SETSIG` of asm-generic/fcntl.h.
const F_SETSIG: libc::c_int = 10;

/// Whose opens count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Others {
    /// Those that may write.
    Writers,
    /// All. Descriptors that only name a file (`O_PATH`) never count.
    Anybody,
}

/// Whether the file of `file`, which must be open for reading only, is open a second time; a mapping counts like the
/// descriptor that it was made from (`check_conflicting_open` in fs/locks.c).
///
/// The lease is given back at once. Somebody who opens the file within that moment waits for it; with `O_NONBLOCK`
/// they would get `EAGAIN`.
///
/// # Errors
/// As fcntl(2); `EINVAL` where the filesystem has no leases.
pub(crate) fn is_open_elsewhere(file: BorrowedFd<'_>, others: Others) -> Result<bool, Errno> {
    let wanted = match others {
        Others::Writers => libc::F_RDLCK,
        Others::Anybody => libc::F_WRLCK,
    };
    // Told of whoever waits: by a signal that is ignored by default, where SIGIO would end the process.
    control(file, F_SETSIG, libc::SIGURG)?;
    match control(file, libc::F_SETLEASE, wanted) {
        Ok(()) => control(file, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(Errno::AGAIN) => Ok(true),
        Err(errno) => Err(errno),
    }
}

fn control(file: BorrowedFd<'_>, command: libc::c_int, argument: libc::c_int) -> Result<(), Errno> {
    // SAFETY: both commands take an int, and the descriptor is open for the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn each_kind_of_open_is_told() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("f");
        let writer = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let file = File::open(&path).unwrap();
        let is_open = |others| is_open_elsewhere(file.as_fd(), others).unwrap();
        assert!(is_open(Others::Writers) && is_open(Others::Anybody));
        drop(writer);
        assert!(!is_open(Others::Writers) && !is_open(Others::Anybody));
        let reader = File::open(&path).unwrap();
        assert!(!is_open(Others::Writers) && is_open(Others::Anybody));
        drop(reader);
        assert!(!is_open(Others::Anybody));
        // Nothing is left behind that would make others wait.
        OpenOptions::new().write(true).open(&path).unwrap();
    }
}
