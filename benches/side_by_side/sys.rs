//! The few calls that have no safe wrapper: a private mount namespace, signals, and a read-only mapping.
#![expect(unsafe_code, reason = "system calls without a safe wrapper; one function each")]

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    process::Command,
    ptr::NonNull,
    sync::atomic::{AtomicI32, Ordering},
};

use rustix::{
    mm::{MapFlags, ProtFlags},
    mount::MountPropagationFlags,
    thread::UnshareFlags,
};

/// The signal that asked us to stop; 0 while none did.
static STOP_SIGNAL: AtomicI32 = AtomicI32::new(0);

/// Moves this process into a mount namespace of its own, with nothing propagating out of it.
///
/// However the run ends, no mount of it is ever seen by the rest of the machine. Call it while the process
/// has one thread: other threads would stay behind in the old namespace.
pub(crate) fn enter_private_mount_namespace() -> io::Result<()> {
    // SAFETY: NEWNS only replaces this thread's view of the mounts; no file descriptor or memory changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

extern "C" fn note_signal(signal: libc::c_int) {
    STOP_SIGNAL.store(signal, Ordering::SeqCst);
}

/// Makes SIGINT, SIGTERM and SIGHUP only set a flag that [`stop_signal`] returns.
pub(crate) fn note_stop_signals() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        let previous =
            unsafe { libc::signal(signal, note_signal as extern "C" fn(libc::c_int) as libc::sighandler_t) };
        if previous == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Returns the signal that asked us to stop, if one did.
pub(crate) fn stop_signal() -> Option<i32> {
    match STOP_SIGNAL.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(signal),
    }
}

/// Has the kernel kill the child when the thread that spawns it ends, so that a killed benchmark leaves no daemon.
pub(crate) fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: the hook runs between fork and exec and makes one async-signal-safe call.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    }
}

/// A read-only shared mapping of a whole file.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes of `file`, which must be at least that long and must not shrink meanwhile.
    pub(crate) fn new(file: &File, len: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0)?
        };
        let start =
            NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        Ok(Self { start, len })
    }

    /// Reads one byte of each 4 KiB page and returns their sum.
    pub(crate) fn touch_pages(&self) -> u64 {
        (0..self.len)
            .step_by(4096)
            // SAFETY: the offset is below `len`, and the mapping lives as long as `self`.
            .map(|offset| u64::from(unsafe { self.start.add(offset).read_volatile() }))
            .sum()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly what `new` mapped, and nothing borrowed from it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping cannot fail");
    }
}
