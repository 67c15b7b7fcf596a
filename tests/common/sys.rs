//! The system interfaces that no safe crate offers: exit handlers, per-thread credentials, stopping one thread,
//! passing descriptors on.
#![expect(unsafe_code, reason = "libc calls without a safe wrapper")]

use std::{
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

/// Runs `handler` when the process exits normally.
pub(crate) fn at_exit(handler: extern "C" fn()) {
    // SAFETY: atexit only stores the pointer; an `extern "C" fn()` is valid for the life of the process.
    let status = unsafe { libc::atexit(handler) };
    assert_eq!(status, 0, "no room for another exit handler");
}

/// Gives the calling thread, and no other, these credentials for the rest of its life.
///
/// The raw system calls are used on purpose: libc's wrappers change all threads of the process.
pub(crate) fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `groups`, which lives across the call.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: setresgid takes three integers and touches no memory.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: setresuid takes three integers and touches no memory.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// Detaches the calling thread's umask and working directory from the other threads'.
pub(crate) fn unshare_filesystem_attributes() -> io::Result<()> {
    // SAFETY: unshare takes one integer; CLONE_FS concerns the calling thread alone.
    check(i64::from(unsafe { libc::unshare(libc::CLONE_FS) }))
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Stops one thread of another process, and no other thread of it, until it is killed or the calling thread ends.
///
/// A signal would stop them all.
pub(crate) fn stop_thread(thread: i32) -> io::Result<()> {
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes a thread id and, as the last argument, options: none.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, null, null) })?;
    // SAFETY: PTRACE_INTERRUPT takes a thread id only.
    check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, null, null) })?;
    // SAFETY: a null status is allowed; the wait ends when the thread has stopped.
    check(i64::from(unsafe { libc::waitpid(thread, std::ptr::null_mut(), libc::__WALL) }))
}

/// Ends a filesystem as a power cut does: what is not on its device yet never gets there.
pub(crate) fn shut_down(filesystem: BorrowedFd<'_>) -> io::Result<()> {
    /// linux/fs.h, `_IOR('X', 125, __u32)`.
    const FS_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
    // fs/xfs/libxfs/xfs_fs.h: without writing the log back first.
    let no_log_flush = 2_u32;
    // SAFETY: the argument is a pointer to 32 bits that live across the call.
    let done = unsafe { libc::ioctl(filesystem.as_raw_fd(), FS_IOC_SHUTDOWN, &raw const no_log_flush) };
    check(i64::from(done))
}

/// Lets `command` start with these descriptors as 3, 4 and so on; they have to live until it is started.
pub(crate) fn pass_descriptors(command: &mut Command, descriptors: Vec<RawFd>) {
    // Beyond everything that is to be filled.
    const ASIDE: RawFd = 512;
    let place = move || -> io::Result<()> {
        // The first would cover others of them otherwise.
        for (index, descriptor) in descriptors.iter().enumerate() {
            let aside = ASIDE + RawFd::try_from(index).unwrap_or(0);
            // SAFETY: dup3 takes numbers and flags; what has that number in the child is nobody's.
            check(i64::from(unsafe { libc::dup3(*descriptor, aside, libc::O_CLOEXEC) }))?;
        }
        for index in 0..RawFd::try_from(descriptors.len()).unwrap_or(0) {
            // SAFETY: as above; the copy stays open when the program starts.
            check(i64::from(unsafe { libc::dup2(ASIDE + index, 3 + index) }))?;
        }
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes system calls only; it allocates nothing.
    unsafe { command.pre_exec(place) };
}
