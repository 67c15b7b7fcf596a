//! Who the calling thread is while it works on the backing filesystem.
//!
//! The kernel has already checked every permission of the caller (`default_permissions`), so the daemon only
//! has to make *new inodes come out right*: owner and group from the thread's fsuid/fsgid, mode from its
//! umask, both applied by the backing filesystem itself together with setgid inheritance and default ACLs.
//! Supplementary groups never matter here: the thread keeps CAP_DAC_OVERRIDE, and the VFS has already cleared
//! a setgid bit that the caller may not set (`vfs_prepare_mode` in fs/namei.c).
//!
//! Linux keeps credentials and capabilities per thread; libc's wrappers change all threads of the process, so
//! these are raw system calls. The filesystem attributes (umask) are shared between threads until
//! `unshare(CLONE_FS)`.
//!
//! Two capabilities are taken out of the effective set of a filesystem thread:
//! - CAP_FSETID, so that the backing filesystem strips setuid and setgid bits (and security.capability) on
//!   write and truncate exactly as it would for an unprivileged caller, which is what
//!   `FUSE_HANDLE_KILLPRIV_V2` obliges us to do. [`with_fsetid`] gives it back for one call where the caller
//!   holds it;
//! - CAP_SYS_RESOURCE, which ignores quota hard limits and reserved blocks, also in the credentials that a
//!   passthrough registration captures.
//!
//! For the same reason data is never written with fsuid 0: ext4 would hand out root's reserved blocks.

use std::cell::Cell;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::handle::last_errno;

/// The fsuid and fsgid of a thread that creates nothing ("nobody" by convention; any non-zero number does).
const UNPRIVILEGED_ID: u32 = 65534;

/// `SECBIT_NO_SETUID_FIXUP` of linux/securebits.h: changing the fsuid leaves the capabilities alone.
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;

/// What a new inode gets its owner, group and mode from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    /// Owner of new inodes.
    pub(crate) uid: u32,
    /// Group of new inodes, unless the parent directory is setgid.
    pub(crate) gid: u32,
    /// Applied by the backing filesystem where the parent has no default ACL.
    pub(crate) umask: u32,
}

thread_local! {
    /// What the kernel has for this thread; `None` until [`prepare_thread`].
    static CURRENT: Cell<Option<Identity>> = const { Cell::new(None) };
}

/// Takes on `identity` for the creations that follow on this thread. Costs nothing if it has it already.
///
/// # Errors
/// The daemon lacks CAP_SETUID, CAP_SETGID or CAP_SETPCAP.
pub(crate) fn assume(identity: Identity) -> Result<(), Errno> {
    let current = current()?;
    if current == identity {
        return Ok(());
    }
    // Unknown until all of it is done: after an error in between, the next request must not believe the old one.
    CURRENT.set(None);
    if current.uid != identity.uid {
        set_fs_id(libc::SYS_setfsuid, identity.uid)?;
    }
    if current.gid != identity.gid {
        set_fs_id(libc::SYS_setfsgid, identity.gid)?;
    }
    if current.umask != identity.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(identity.umask));
    }
    CURRENT.set(Some(identity));
    Ok(())
}

/// Makes sure that this thread does not act as root, for operations that create no inode.
///
/// # Errors
/// As [`assume`].
pub(crate) fn assume_nobody() -> Result<(), Errno> {
    let current = current()?;
    if current.uid != 0 {
        return Ok(());
    }
    assume(Identity { uid: UNPRIVILEGED_ID, gid: UNPRIVILEGED_ID, umask: current.umask })
}

/// Runs `operation` with CAP_FSETID effective on this thread; the identity stays as it is.
///
/// # Errors
/// The capability cannot be changed, or what `operation` returned.
pub(crate) fn with_fsetid<T>(operation: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let identity = current()?;
    // As above: if the capability cannot be taken away again, the thread is prepared anew before anything else.
    CURRENT.set(None);
    set_fsetid(true)?;
    let result = operation();
    set_fsetid(false)?;
    CURRENT.set(Some(identity));
    result
}

fn current() -> Result<Identity, Errno> {
    CURRENT.get().map_or_else(prepare_thread, Ok)
}

fn prepare_thread() -> Result<Identity, Errno> {
    // SAFETY: CLONE_FS only gives this thread its own working directory and umask; no memory is involved.
    if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
        return Err(last_errno());
    }
    // SAFETY: PR_SET_SECUREBITS takes an integer and changes this thread's credentials only.
    let result = unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) };
    if result != 0 {
        return Err(last_errno());
    }
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective -= CapabilitySet::FSETID | CapabilitySet::SYS_RESOURCE;
    rustix::thread::set_capabilities(None, sets)?;
    let identity = Identity { uid: UNPRIVILEGED_ID, gid: UNPRIVILEGED_ID, umask: 0 };
    set_fs_id(libc::SYS_setfsuid, identity.uid)?;
    set_fs_id(libc::SYS_setfsgid, identity.gid)?;
    rustix::process::umask(rustix::fs::Mode::empty());
    CURRENT.set(Some(identity));
    Ok(identity)
}

fn set_fsetid(is_effective: bool) -> Result<(), Errno> {
    let sets = rustix::thread::capabilities(None)?;
    let mut effective = sets.effective;
    effective.set(CapabilitySet::FSETID, is_effective && sets.permitted.contains(CapabilitySet::FSETID));
    rustix::thread::set_capabilities(None, CapabilitySets { effective, ..sets })
}

/// setfsuid(2) and setfsgid(2) report no error; asking again for an impossible id tells whether it took effect.
fn set_fs_id(call: libc::c_long, id: u32) -> Result<(), Errno> {
    // SAFETY: both calls take one integer and change the calling thread's credentials only.
    let now = unsafe {
        libc::syscall(call, id);
        libc::syscall(call, u32::MAX)
    };
    if now == libc::c_long::from(id) { Ok(()) } else { Err(Errno::PERM) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn on_fresh_thread<T: Send>(test: impl FnOnce() -> T + Send) -> Option<T> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        std::thread::scope(|scope| Some(scope.spawn(test).join().unwrap()))
    }

    #[test]
    fn new_file_belongs_to_the_assumed_identity_and_other_threads_are_not_affected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("theirs");
        let created = on_fresh_thread(|| {
            assume(Identity { uid: 1234, gid: 2345, umask: 0o027 }).unwrap();
            std::fs::write(&path, b"x").unwrap();
            std::fs::metadata(&path).unwrap()
        });
        let Some(created) = created else { return };
        assert_eq!((created.uid(), created.gid(), created.mode() & 0o777), (1234, 2345, 0o640));
        let ours = dir.path().join("ours");
        std::fs::write(&ours, b"x").unwrap();
        assert_eq!(std::fs::metadata(&ours).unwrap().uid(), 0);
    }

    #[test]
    fn write_strips_setuid_unless_fsetid_is_given_back() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let modes = on_fresh_thread(|| {
            let mut modes = Vec::new();
            for keeps in [false, true] {
                std::fs::write(&path, b"x").unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).unwrap();
                assume_nobody().unwrap();
                let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
                let write = || rustix::io::pwrite(&file, b"y", 0);
                if keeps {
                    with_fsetid(write).unwrap()
                } else {
                    write().unwrap()
                };
                modes.push(std::fs::metadata(&path).unwrap().mode() & 0o7777);
            }
            modes
        });
        let Some(modes) = modes else { return };
        assert_eq!(modes, [0o755, 0o4755]);
    }
}
