//! Working in the filesystem with a user's own rights, on a thread that otherwise has the daemon's.
//!
//! Unlike [`super::identity`], where the kernel has checked everything before, here it is to check: the thread takes on
//! the user's fsuid, fsgid and supplementary groups and lays its capabilities down, so that a path means for it what it
//! means for the user, whatever links and directories somebody swaps meanwhile. Real and effective ids stay the
//! daemon's: nobody may send the thread a signal for having a user's.
//!
//! Credentials are those of the thread. It must be one that ends with the work: its groups stay the user's.

use std::marker::PhantomData;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::handle::last_errno;

/// `SECBIT_NO_SETUID_FIXUP` of linux/securebits.h: changing the fsuid leaves the capabilities alone.
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;

/// See the module. Bound to the thread that made it.
pub(crate) struct OnBehalf {
    uid: u32,
    gid: u32,
    own: CapabilitySets,
    /// What is effective meanwhile.
    theirs: CapabilitySets,
    thread: PhantomData<*const ()>,
}

impl OnBehalf {
    /// Prepares this thread for work with the rights of a user. `uid` 0 keeps the capabilities but for the one that
    /// passes quota and reserved blocks.
    ///
    /// # Errors
    /// The daemon lacks CAP_SETUID, CAP_SETGID or CAP_SETPCAP.
    pub(crate) fn prepare(uid: u32, gid: u32, groups: &[u32]) -> Result<Self, Errno> {
        // SAFETY: CLONE_FS only gives this thread its own working directory and umask; no memory is involved.
        if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
            return Err(last_errno());
        }
        rustix::process::umask(rustix::fs::Mode::empty());
        // SAFETY: PR_SET_SECUREBITS takes an integer and changes this thread's credentials only.
        if unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) } != 0 {
            return Err(last_errno());
        }
        // SAFETY: the call reads as many ids of 32 bits as it is told from a slice that outlives it, and changes this
        // thread's credentials only.
        if unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } != 0 {
            return Err(last_errno());
        }
        let own = rustix::thread::capabilities(None)?;
        let kept =
            if uid == 0 { own.effective - CapabilitySet::SYS_RESOURCE } else { CapabilitySet::empty() };
        let theirs = CapabilitySets { effective: kept, ..own };
        Ok(Self { uid, gid, own, theirs, thread: PhantomData })
    }

    /// Whose rights they are.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Runs something with the user's rights.
    ///
    /// # Errors
    /// As `run`. If the thread cannot change whose rights it has, nothing is run, or it is the last that is: a thread that
    /// has the user's rights still is refused everything that needs the daemon's.
    pub(crate) fn run<T>(&self, run: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        set_fs_id(libc::SYS_setfsgid, self.gid)?;
        set_fs_id(libc::SYS_setfsuid, self.uid)?;
        rustix::thread::set_capabilities(None, self.theirs)?;
        let result = run();
        rustix::thread::set_capabilities(None, self.own)?;
        set_fs_id(libc::SYS_setfsuid, 0)?;
        set_fs_id(libc::SYS_setfsgid, 0)?;
        result
    }
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
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use rustix::fs::{CWD, Mode, mkdirat};

    use super::*;

    #[test]
    fn the_kernel_checks_the_users_rights_and_groups_and_the_thread_has_its_own_afterwards() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let made = |name: &str, gid: Option<u32>, mode: u32| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            std::os::unix::fs::chown(&path, None, gid).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let (closed, grouped) = (made("closed", None, 0o755), made("grouped", Some(4321), 0o775));
        std::thread::scope(|scope| {
            let test = || {
                let hand = OnBehalf::prepare(1234, 2345, &[4321]).unwrap();
                let make =
                    |path: &std::path::Path| mkdirat(CWD, path.join("new"), Mode::from_raw_mode(0o700));
                assert_eq!(hand.run(|| make(&closed)), Err(Errno::ACCESS));
                assert_eq!(hand.run(|| make(&grouped)), Ok(()));
                let meta = fs::metadata(grouped.join("new")).unwrap();
                assert_eq!((meta.uid(), meta.gid()), (1234, 2345));
                assert_eq!(make(&closed), Ok(()));
                assert_eq!(fs::metadata(closed.join("new")).unwrap().uid(), 0);
            };
            scope.spawn(test).join().unwrap();
        });
    }
}
