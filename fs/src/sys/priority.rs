//! Priority of a thread.

use rustix::io::Errno;

use super::handle::last_errno;

/// `IOPRIO_WHO_PROCESS`, `IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT` (linux/ioprio.h).
const WHO_PROCESS: libc::c_long = 1;
const CLASS_IDLE: libc::c_long = 3 << 13;
const CLASS_NONE: libc::c_long = 0;
/// The lowest priority, and the ordinary one (setpriority(2)).
const NICEST: i32 = 19;
const ORDINARY: i32 = 0;

/// Gives the calling thread the lowest priority for CPU and disk.
///
/// # Errors
/// As setpriority(2) and ioprio_set(2).
pub(crate) fn lower_own() -> Result<(), Errno> {
    set_own(NICEST, CLASS_IDLE)
}

/// Gives the calling thread the ordinary priority again, while others wait for it. Needs `CAP_SYS_NICE`.
///
/// # Errors
/// As setpriority(2) and ioprio_set(2).
pub(crate) fn restore_own() -> Result<(), Errno> {
    set_own(ORDINARY, CLASS_NONE)
}

fn set_own(nice: i32, class: libc::c_long) -> Result<(), Errno> {
    // On Linux the nice value belongs to the thread.
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice)?;
    let this_thread: libc::c_long = 0;
    // SAFETY: ioprio_set(2) takes three numbers and touches no memory of ours.
    match unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, this_thread, class) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}
