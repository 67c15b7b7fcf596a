//! Mount calls that `rustix` lacks: attributes of a detached mount, and a look below a mount from a private
//! mount namespace.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::handle::last_errno;

/// `struct mount_attr` of linux/mount.h, version 0.
#[repr(C)]
struct RawAttributes {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Makes the mount that `mount` refers to private, nosuid and nodev, without a path lookup.
///
/// # Errors
/// As mount_setattr(2); `EINVAL` if `mount` is not the root of a mount.
pub(crate) fn restrict(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    restrict_also(mount, MountAttrFlags::empty())
}

/// As [`restrict`], and sets `more` as well.
///
/// # Errors
/// As [`restrict`].
pub(crate) fn restrict_also(mount: BorrowedFd<'_>, more: MountAttrFlags) -> Result<(), Errno> {
    let always = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let attr_set = u64::from((always | more).bits());
    let raw = RawAttributes { attr_set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the path is an empty NUL-terminated string and `raw` is a complete `struct mount_attr` of the
    // size that is passed; the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const raw,
            size_of::<RawAttributes>(),
        )
    };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Gives the calling thread its own copy of the mount namespace.
///
/// The thread's working directory and root are its own afterwards, too. Meant for a thread that ends soon:
/// nothing brings it back.
///
/// # Errors
/// As unshare(2); needs CAP_SYS_ADMIN.
pub(crate) fn unshare_mounts() -> Result<(), Errno> {
    // SAFETY: CLONE_NEWNS and CLONE_FS change neither memory nor the file descriptor table, so no other
    // thread can observe it.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_FS) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Moves the calling thread into the mount namespace that `namespace` (`/proc/<pid>/ns/mnt`) refers to.
///
/// Its root and working directory are those of the namespace afterwards. Meant for a thread that ends soon, as
/// [`unshare_mounts`] is.
///
/// # Errors
/// As unshare(2) and setns(2); needs CAP_SYS_ADMIN and CAP_SYS_CHROOT.
pub(crate) fn enter_mount_namespace(namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    // setns(2) refuses a thread that shares root and working directory with others.
    // SAFETY: CLONE_FS changes neither memory nor the file descriptor table, so no other thread can observe it.
    if unsafe { libc::unshare(libc::CLONE_FS) } < 0 {
        return Err(last_errno());
    }
    // SAFETY: the call takes a descriptor, which is open, and changes this thread's namespace only.
    let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Returns whether project quota is accounted on the filesystem of `file`.
///
/// `file` must not be an O_PATH descriptor. A kernel without quotactl_fd(2) (before 5.14) gives `false`.
pub(crate) fn accounts_project_quota(file: BorrowedFd<'_>) -> bool {
    /// `PRJQUOTA` of linux/quota.h.
    const PROJECT: u32 = 2;
    /// `Q_GETFMT` of linux/quota.h.
    const GET_FORMAT: u32 = 0x80_0004;
    /// `Q_XGETQSTAT` of linux/dqblk_xfs.h.
    const XFS_GET_STATE: u32 = ('X' as u32) << 8 | 5;
    /// `FS_QUOTA_PDQ_ACCT` of linux/dqblk_xfs.h.
    const XFS_PROJECT_ACCOUNTED: u8 = 1 << 4;

    if quota_control(file, GET_FORMAT << 8 | PROJECT).is_some() {
        return true;
    }
    // `struct fs_quota_stat` starts with a version (1 byte), padding (1 byte) and 16 bits of flags.
    quota_control(file, XFS_GET_STATE << 8 | PROJECT).is_some_and(|state| {
        u16::from_ne_bytes([state.0[2], state.0[3]]) & u16::from(XFS_PROJECT_ACCOUNTED) != 0
    })
}

/// Room for any answer of quotactl(2) that is asked for here; `struct fs_quota_stat` has 80 bytes.
#[repr(C, align(8))]
struct QuotaAnswer([u8; 256]);

fn quota_control(file: BorrowedFd<'_>, command: u32) -> Option<QuotaAnswer> {
    let mut answer = QuotaAnswer([0; 256]);
    // SAFETY: both commands that are used write less than the 256 aligned bytes of `answer`.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, 0_u32, (&raw mut answer).cast::<u8>())
    };
    (result == 0).then_some(answer)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn plain_directory_is_no_mount_to_restrict() {
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(restrict(fd.as_fd()).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn thread_enters_the_namespace_of_another_and_nobody_else_does() {
        let namespace = || std::fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        let own = namespace();
        let other = std::thread::spawn(|| {
            unshare_mounts().unwrap();
            std::fs::File::open("/proc/thread-self/ns/mnt").unwrap()
        });
        let other = other.join().unwrap();
        let entered = std::thread::spawn(move || {
            enter_mount_namespace(other.as_fd()).unwrap();
            namespace()
        });
        assert_ne!(entered.join().unwrap(), own);
        assert_eq!(std::fs::read_link("/proc/self/ns/mnt").unwrap(), own);
    }

    #[test]
    fn unshared_thread_sees_its_own_namespace() {
        let before = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        let inside = std::thread::spawn(|| {
            unshare_mounts().unwrap();
            std::fs::read_link("/proc/thread-self/ns/mnt").unwrap()
        });
        assert_ne!(inside.join().unwrap(), before);
        assert_eq!(std::fs::read_link("/proc/self/ns/mnt").unwrap(), before);
    }
}
