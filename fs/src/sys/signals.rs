//! Signals as a file descriptor, so that a single poll(2) loop sees them between everything else.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::handle::last_errno;

/// A signal that the daemon acts on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    /// SIGTERM or SIGINT: stop.
    Stop,
    /// SIGHUP: read the config again.
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP, blocked in the whole process and read one by one.
#[derive(Debug)]
pub(crate) struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals in the calling thread and in every thread that it starts later.
    ///
    /// # Errors
    /// As signalfd(2).
    pub(crate) fn block() -> Result<Self, Errno> {
        // SAFETY: `sigset_t` is plain data and sigemptyset initialises it before any other use.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `set` lives for all calls; the signal numbers are valid; a null old set is allowed.
        let blocked = unsafe {
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            libc::sigaddset(&raw mut set, libc::SIGINT);
            libc::sigaddset(&raw mut set, libc::SIGHUP);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
        };
        if blocked != 0 {
            return Err(Errno::from_raw_os_error(blocked));
        }
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Returns the next signal that has arrived, or `None` when there is none.
    ///
    /// # Errors
    /// As read(2), except that "nothing there" is `Ok(None)`.
    pub(crate) fn next(&self) -> Result<Option<Signal>, Errno> {
        let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.0, &mut record) {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        // `ssi_signo` is the first field of `struct signalfd_siginfo`.
        let number = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
        Ok(Some(if i32::try_from(number) == Ok(libc::SIGHUP) { Signal::Reload } else { Signal::Stop }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
