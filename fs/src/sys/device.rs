//! What `/dev/fuse` offers beside requests and replies: backing files and notifications.
//!
//! This is the part of the transport that the `fuser` crate does not cover or hides behind a reply object.
//! The structures are those of include/uapi/linux/fuse.h.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

/// `_IOW(FUSE_DEV_IOC_MAGIC, 1, struct fuse_backing_map)`.
const BACKING_OPEN: libc::Ioctl = 0x4010_e501;
/// `_IOW(FUSE_DEV_IOC_MAGIC, 2, uint32_t)`.
const BACKING_CLOSE: libc::Ioctl = 0x4004_e502;

/// `FUSE_NOTIFY_INVAL_INODE`.
const NOTIFY_INVAL_INODE: i32 = 2;
/// `FUSE_NOTIFY_INVAL_ENTRY`.
const NOTIFY_INVAL_ENTRY: i32 = 3;
/// `FUSE_NOTIFY_RESEND`, Linux 6.9.
const NOTIFY_RESEND: i32 = 7;
/// `FUSE_EXPIRE_ONLY`: the name is looked up again when it is used, but not torn from who stands on it.
const EXPIRE_ONLY: u32 = 1;
/// `FUSE_NOTIFY_INC_EPOCH`, protocol 7.44.
const NOTIFY_INC_EPOCH: i32 = 8;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Which part of a node's cache the kernel drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Invalidate {
    /// Attributes and cached ACLs.
    Attributes,
    /// Attributes and everything cached of its content (for a directory: the listing).
    Everything,
}

/// Whether the kernel has what a notification is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    Yes,
    No,
}

/// One mount's connection to the kernel. Every call is a single system call and may come from any thread.
#[derive(Debug)]
pub(crate) struct FuseDevice(OwnedFd);

impl FuseDevice {
    /// Wraps a descriptor of an already mounted `/dev/fuse`.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Registers `file` (an `O_PATH` descriptor will do) for passthrough and returns its id.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN, `ELOOP` when `file` lies on a stacked filesystem, `EOPNOTSUPP` when
    /// passthrough was not negotiated, `ENOTTY` before Linux 6.9.
    pub(crate) fn open_backing(&self, file: BorrowedFd<'_>) -> Result<u32, Errno> {
        let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
        // SAFETY: BACKING_OPEN reads one `struct fuse_backing_map`, which `map` is.
        let id = unsafe { libc::ioctl(self.0.as_raw_fd(), BACKING_OPEN, &raw const map) };
        u32::try_from(id).map_err(|_| super::handle::last_errno())
    }

    /// Ends a registration. Open files that use it keep working.
    ///
    /// # Errors
    /// `ENOENT` when there is no such registration.
    pub(crate) fn close_backing(&self, id: u32) -> Result<(), Errno> {
        // SAFETY: BACKING_CLOSE reads one `uint32_t`.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), BACKING_CLOSE, &raw const id) };
        if result == 0 { Ok(()) } else { Err(super::handle::last_errno()) }
    }

    /// Drops what the kernel caches of `node`.
    ///
    /// With [`Invalidate::Everything`] the kernel may wait for page locks: never call that from a request
    /// handler of the same node.
    ///
    /// # Errors
    /// `ENOTCONN`/`ENODEV` when the mount is gone. A node that the kernel does not know is no error.
    pub(crate) fn invalidate_node(&self, node: u64, what: Invalidate) -> Result<(), Errno> {
        let offset: i64 = match what {
            Invalidate::Attributes => -1,
            Invalidate::Everything => 0,
        };
        let mut body = [0_u8; 24];
        body[0..8].copy_from_slice(&node.to_ne_bytes());
        body[8..16].copy_from_slice(&offset.to_ne_bytes());
        self.notify(NOTIFY_INVAL_INODE, &[&body]).map(drop)
    }

    /// Whether the kernel has an inode for `node`. If so, it asks for its attributes again.
    ///
    /// # Errors
    /// `ENOTCONN`/`ENODEV` when the mount is gone.
    pub(crate) fn knows_node(&self, node: u64) -> Result<bool, Errno> {
        let mut body = [0_u8; 24];
        body[0..8].copy_from_slice(&node.to_ne_bytes());
        body[8..16].copy_from_slice(&(-1_i64).to_ne_bytes());
        self.notify(NOTIFY_INVAL_INODE, &[&body]).map(|found| found == Found::Yes)
    }

    /// Whether there is nothing to read at this moment, neither a request nor a FORGET.
    ///
    /// # Errors
    /// As poll(2).
    pub(crate) fn is_drained(&self) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut fds, Some(&at_once)).map(|ready| ready == 0)
    }

    /// Makes the kernel look the dentry `name` in the directory `parent` up again, positive or negative.
    ///
    /// Before Linux 6.2 it is dropped instead; a process whose working directory it is then loses its path.
    /// The kernel takes the directory's lock: never call this from a request handler of that directory.
    ///
    /// # Errors
    /// As [`Self::invalidate_node`].
    pub(crate) fn invalidate_entry(&self, parent: u64, name: &OsStr) -> Result<(), Errno> {
        let length = u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        let mut body = [0_u8; 16];
        body[0..8].copy_from_slice(&parent.to_ne_bytes());
        body[8..12].copy_from_slice(&length.to_ne_bytes());
        body[12..16].copy_from_slice(&EXPIRE_ONLY.to_ne_bytes());
        self.notify(NOTIFY_INVAL_ENTRY, &[&body, name.as_bytes(), &[0]]).map(drop)
    }

    /// Makes the kernel look every dentry up again.
    ///
    /// # Errors
    /// `EINVAL` before protocol 7.44, else as [`Self::invalidate_node`].
    pub(crate) fn invalidate_all_entries(&self) -> Result<(), Errno> {
        self.notify(NOTIFY_INC_EPOCH, &[]).map(drop)
    }

    /// Makes the kernel send every request again that was read from the device and not answered, with bit 63 set
    /// in its number.
    ///
    /// Call it before the first request is read: whatever is being worked on would be sent again as well.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.9.
    pub(crate) fn resend(&self) -> Result<(), Errno> {
        self.notify(NOTIFY_RESEND, &[]).map(drop)
    }

    /// Makes the descriptor `target` refer to this device (dup3(2)); what it referred to before is closed.
    ///
    /// # Errors
    /// As dup3(2).
    pub(crate) fn replace(&self, target: BorrowedFd<'_>) -> Result<(), Errno> {
        // SAFETY: both are open descriptors that somebody owns; the owner of `target` keeps owning it.
        let result = unsafe { libc::dup3(self.0.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) };
        if result < 0 { Err(super::handle::last_errno()) } else { Ok(()) }
    }

    fn notify(&self, code: i32, parts: &[&[u8]]) -> Result<Found, Errno> {
        let total = 16 + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut header = [0_u8; 16];
        header[0..4].copy_from_slice(&u32::try_from(total).map_err(|_| Errno::TOOBIG)?.to_ne_bytes());
        // A notification is an unsolicited reply: `unique` is 0 and `error` holds the code.
        header[4..8].copy_from_slice(&code.to_ne_bytes());
        let mut slices = [IoSlice::new(&header), IoSlice::new(&[]), IoSlice::new(&[]), IoSlice::new(&[])];
        for (slice, part) in slices[1..].iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
        }
        match rustix::io::writev(&self.0, &slices[..=parts.len()]) {
            Ok(_) => Ok(Found::Yes),
            Err(Errno::NOENT) => Ok(Found::No),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for FuseDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
