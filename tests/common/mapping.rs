//! Shared mappings of files.
#![expect(unsafe_code, reason = "mmap has no safe form")]

use std::{
    ffi::c_void,
    fs::File,
    io,
    ptr::{self, NonNull},
};

use rustix::mm::{self, MapFlags, MsyncFlags, ProtFlags};

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Loads only.
    Read,
    /// Loads and stores.
    ReadWrite,
}

/// A `MAP_SHARED` mapping of a file. Loads and stores are volatile: other mappings of the same file change the bytes.
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
    protection: Protection,
}

impl Mapping {
    /// Maps the first `len` bytes of `file`, which must stay at least that long while they are touched.
    pub fn new(file: &File, len: usize, protection: Protection) -> io::Result<Mapping> {
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
    pub fn load(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "load of {len} at {offset} in a mapping of {}", self.len);
        (offset..offset + len)
            .map(|at| {
                // SAFETY: `at` lies inside the mapping, which lives as long as `self` and is readable.
                unsafe { self.start.add(at).read_volatile() }
            })
            .collect()
    }

    /// Writes `bytes` at `offset`.
    pub fn store(&self, offset: usize, bytes: &[u8]) {
        assert!(self.protection == Protection::ReadWrite, "store into a read-only mapping");
        assert!(offset + bytes.len() <= self.len, "store of {} at {offset} in {}", bytes.len(), self.len);
        for (at, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the mapping and writable, both asserted above; u8 has no alignment or validity demands.
            unsafe { self.start.add(offset + at).write_volatile(*byte) }
        }
    }

    /// Writes the mapping back, as msync(MS_SYNC) does.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the range that `new` mapped.
        Ok(unsafe { mm::msync(self.start.as_ptr().cast::<c_void>(), self.len, MsyncFlags::SYNC) }?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; no pointer into it leaves this type.
        unsafe { mm::munmap(self.start.as_ptr().cast::<c_void>(), self.len) }.expect("the range was mapped");
    }
}
