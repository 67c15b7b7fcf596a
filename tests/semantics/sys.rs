//! The few calls of these tests that need `unsafe`: shared mappings and a signal.
#![expect(unsafe_code, reason = "mmap and signal have no safe form")]

use std::{
    ffi::c_void,
    fs::File,
    io,
    ptr::{self, NonNull},
};

use rustix::mm::{self, MapFlags, MsyncFlags, ProtFlags};

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    Read,
    ReadWrite,
}

/// A `MAP_SHARED` mapping of a file. Loads and stores are volatile: other mappings of the same file change the bytes.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    protection: Protection,
}

impl Mapping {
    /// Maps the first `len` bytes of `file`, which must stay at least that long while they are touched.
    pub(crate) fn new(file: &File, len: usize, protection: Protection) -> io::Result<Mapping> {
        let flags = match protection {
            Protection::Read => ProtFlags::READ,
            Protection::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: the kernel picks the address, so no existing memory is replaced.
        let start = unsafe { mm::mmap(ptr::null_mut(), len, flags, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(io::ErrorKind::Other)?;
        Ok(Mapping { start, len, protection })
    }

    /// Reads `len` bytes at `offset`.
    pub(crate) fn load(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "load of {len} at {offset} in a mapping of {}", self.len);
        (offset..offset + len)
            .map(|at| {
                // SAFETY: `at` lies inside the mapping, which lives as long as `self` and is readable.
                unsafe { self.start.add(at).read_volatile() }
            })
            .collect()
    }

    /// Writes `bytes` at `offset`.
    pub(crate) fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(self.protection == Protection::ReadWrite, "store into a read-only mapping");
        assert!(offset + bytes.len() <= self.len, "store of {} at {offset} in {}", bytes.len(), self.len);
        for (at, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the mapping and writable, both asserted above; u8 has no alignment or validity demands.
            unsafe { self.start.add(offset + at).write_volatile(*byte) }
        }
    }

    /// Writes the mapping back, as msync(MS_SYNC) does.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the range that `new` mapped.
        Ok(unsafe { mm::msync(self.start.as_ptr().cast::<c_void>(), self.len, MsyncFlags::SYNC) }?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; no pointer into it leaves this type.
        unsafe { mm::munmap(self.start.as_ptr().cast::<c_void>(), self.len) }.unwrap();
    }
}

/// Makes a write beyond RLIMIT_FSIZE return EFBIG instead of ending this process.
pub(crate) fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN installs no handler, so no code runs in signal context.
    let previous = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    assert_ne!(previous, libc::SIG_ERR, "cannot ignore SIGXFSZ");
}
