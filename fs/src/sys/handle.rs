//! File handles: the identity of an inode that survives renames, restarts and inode number reuse.
//!
//! See open_by_handle_at(2). A handle carries the filesystem's own generation, so a handle of a deleted file
//! never opens the file that got its inode number later (it gives ESTALE).

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Bytes of a handle that the inode table can hold. ext4 needs 8, tmpfs 12, xfs 12 to 24, btrfs 20; NFS needs
/// more and is refused when a workspace is mounted.
pub(crate) const MAX_HANDLE_BYTES: usize = 32;

/// `MAX_HANDLE_SZ` of linux/exportfs.h.
const KERNEL_MAX_HANDLE_BYTES: usize = 128;

/// Longest name of a directory entry, without the terminating NUL.
const NAME_MAX: usize = 255;

/// The identity of one inode on one filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FileHandle {
    kind: u8,
    len: u8,
    bytes: [u8; MAX_HANDLE_BYTES],
}

impl serde::Serialize for FileHandle {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.to_bytes())
    }
}

impl<'de> serde::Deserialize<'de> for FileHandle {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = <&[u8]>::deserialize(deserializer)?;
        Self::from_bytes(stored).ok_or_else(|| serde::de::Error::custom("no file handle"))
    }
}

/// `struct file_handle` with room for the largest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; KERNEL_MAX_HANDLE_BYTES],
}

impl FileHandle {
    /// Returns the handle's parts for the inode table.
    pub(crate) fn to_words(self) -> (u8, u8, [u64; 4]) {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(self.bytes.chunks_exact(8)) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(chunk);
            *word = u64::from_ne_bytes(bytes);
        }
        (self.kind, self.len, words)
    }

    /// Rebuilds a handle from the parts that [`Self::to_words`] gave.
    pub(crate) fn from_words(kind: u8, len: u8, words: [u64; 4]) -> Self {
        let mut bytes = [0; MAX_HANDLE_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Self { kind, len, bytes }
    }

    /// Returns the handle as stored on disk: its type, then its bytes.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut stored = Vec::with_capacity(1 + usize::from(self.len));
        stored.push(self.kind);
        stored.extend_from_slice(self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes));
        stored
    }

    /// Reads what [`Self::to_bytes`] gave; `None` if it is none.
    pub(crate) fn from_bytes(stored: &[u8]) -> Option<Self> {
        let (kind, rest) = stored.split_first()?;
        let mut bytes = [0; MAX_HANDLE_BYTES];
        bytes.get_mut(..rest.len())?.copy_from_slice(rest);
        Some(Self { kind: *kind, len: u8::try_from(rest.len()).ok()?, bytes })
    }

    /// Returns a 32-bit digest that differs between two lives of one inode number.
    ///
    /// FUSE compares only 32 bits of a node's generation; the handle's own generation sits at a place that
    /// depends on the filesystem, so all of it is folded. Never 0.
    pub(crate) fn generation(&self) -> u32 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in &self.bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let folded = (hash ^ (hash >> 32)) & 0xffff_ffff;
        u32::try_from(folded).unwrap_or(1).max(1)
    }
}

/// Returns the handle of the entry `name` in `dir`, without following a symbolic link.
///
/// # Errors
/// `EOPNOTSUPP` where the filesystem has no handles, `EOVERFLOW` where they are longer than
/// [`MAX_HANDLE_BYTES`], else as openat(2).
pub(crate) fn handle_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<FileHandle, Errno> {
    let bytes = name.as_bytes();
    if bytes.len() > NAME_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let mut path = [0_u8; NAME_MAX + 1];
    path[..bytes.len()].copy_from_slice(bytes);
    name_to_handle(dir, &path, 0)
}

/// Returns the handle of the file that `fd` refers to.
///
/// # Errors
/// As [`handle_at`].
pub(crate) fn handle_of(fd: BorrowedFd<'_>) -> Result<FileHandle, Errno> {
    name_to_handle(fd, &[0], libc::AT_EMPTY_PATH)
}

/// `path` ends with a NUL byte.
fn name_to_handle(dir: BorrowedFd<'_>, path: &[u8], flags: i32) -> Result<FileHandle, Errno> {
    let mut raw = RawHandle {
        handle_bytes: MAX_HANDLE_BYTES as u32,
        handle_type: 0,
        f_handle: [0; KERNEL_MAX_HANDLE_BYTES],
    };
    let mut mount_id = 0_i32;
    // SAFETY: `path` is NUL-terminated by both callers, `raw` has room for `handle_bytes` bytes and both
    // out-pointers live until the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            flags,
        )
    };
    if result < 0 {
        return Err(last_errno());
    }
    let (Ok(kind), Ok(len)) = (u8::try_from(raw.handle_type), u8::try_from(raw.handle_bytes)) else {
        return Err(Errno::OVERFLOW);
    };
    let mut bytes = [0; MAX_HANDLE_BYTES];
    bytes.copy_from_slice(&raw.f_handle[..MAX_HANDLE_BYTES]);
    Ok(FileHandle { kind, len, bytes })
}

/// Opens the inode behind `handle` on the filesystem that `mount` lies on. `O_CLOEXEC` is added.
///
/// # Errors
/// `ESTALE` when the inode is gone, else as openat(2). Needs CAP_DAC_READ_SEARCH.
pub(crate) fn open_by_handle(
    mount: BorrowedFd<'_>,
    handle: &FileHandle,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let mut raw = RawHandle {
        handle_bytes: u32::from(handle.len),
        handle_type: i32::from(handle.kind),
        f_handle: [0; KERNEL_MAX_HANDLE_BYTES],
    };
    raw.f_handle[..MAX_HANDLE_BYTES].copy_from_slice(&handle.bytes);
    let flags = (flags | OFlags::CLOEXEC).bits();
    // SAFETY: `raw` is a complete `struct file_handle` whose `handle_bytes` bytes are initialised.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), &raw const raw, flags) };
    match i32::try_from(fd) {
        // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(last_errno()),
    }
}

/// The calling thread's errno as the type that everything else uses.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn handle_survives_words() {
        let handle = FileHandle { kind: 1, len: 8, bytes: std::array::from_fn(|i| i as u8) };
        let (kind, len, words) = handle.to_words();
        assert_eq!(FileHandle::from_words(kind, len, words), handle);
    }

    #[test]
    fn handle_reopens_the_file_after_a_rename() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"x").unwrap();
        let dirfd = std::fs::File::open(dir.path()).unwrap();
        let handle = handle_at(dirfd.as_fd(), OsStr::new("a")).unwrap();
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(handle_at(dirfd.as_fd(), OsStr::new("b")).unwrap(), handle);
        let fd = open_by_handle(dirfd.as_fd(), &handle, OFlags::RDONLY).unwrap();
        assert_eq!(handle_of(fd.as_fd()).unwrap(), handle);
    }

    #[test]
    fn handle_of_a_deleted_file_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"x").unwrap();
        let dirfd = std::fs::File::open(dir.path()).unwrap();
        let handle = handle_at(dirfd.as_fd(), OsStr::new("a")).unwrap();
        std::fs::remove_file(dir.path().join("a")).unwrap();
        assert_eq!(open_by_handle(dirfd.as_fd(), &handle, OFlags::PATH).unwrap_err(), Errno::STALE);
    }

    #[test]
    fn name_of_256_bytes_is_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let dirfd = std::fs::File::open(dir.path()).unwrap();
        let name = "n".repeat(256);
        assert_eq!(handle_at(dirfd.as_fd(), OsStr::new(&name)).unwrap_err(), Errno::NAMETOOLONG);
    }
}
