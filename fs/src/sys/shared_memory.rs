//! A memfd mapped as lines of eight atomic words: the state that outlives a worker.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU64;

use rustix::io::Errno;

/// One 64-byte line.
pub(crate) type Line = [AtomicU64; 8];

/// Bytes of a [`Line`].
pub(crate) const LINE_BYTES: usize = size_of::<Line>();

/// Bytes of a page, the unit in which memory is given back.
pub(crate) const PAGE_BYTES: usize = 4096;

/// Lines of a page.
pub(crate) const LINES_PER_PAGE: usize = PAGE_BYTES / LINE_BYTES;

/// A shared mapping of a whole file. Pages that were never written cost no memory.
pub(crate) struct SharedMemory {
    start: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: the mapping is only ever viewed as atomics, which may be shared between threads and processes.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Maps `bytes` (a multiple of the page size) of `file`, which is grown to that size first.
    ///
    /// # Errors
    /// As ftruncate(2) and mmap(2).
    pub(crate) fn map(file: BorrowedFd<'_>, bytes: usize) -> Result<Self, Errno> {
        let size = rustix::fs::fstat(file)?.st_size;
        let wanted = u64::try_from(bytes).map_err(|_| Errno::OVERFLOW)?;
        if u64::try_from(size).map_err(|_| Errno::INVAL)? < wanted {
            rustix::fs::ftruncate(file, wanted)?;
        }
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; nobody else holds a reference
        // into it, and the file is never shrunk, so no access can raise SIGBUS.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(super::handle::last_errno());
        }
        Ok(Self { start, bytes })
    }

    /// Returns line `index`.
    ///
    /// # Panics
    /// When `index` lies outside the mapping; callers check indexes that come from outside.
    pub(crate) fn line(&self, index: usize) -> &Line {
        assert!(index < self.bytes / LINE_BYTES, "line index within the mapping");
        // SAFETY: in bounds (checked), aligned (the mapping starts at a page), initialised (file pages are
        // zero-filled), and `Line` consists of atomics, for which shared mutation is defined.
        unsafe { &*self.start.cast::<Line>().add(index) }
    }

    /// Gives the memory of the page that starts at line `first` back; it reads as zeros afterwards.
    ///
    /// Only sound in meaning when no one uses the lines of that page; memory safety does not depend on it.
    pub(crate) fn release_page(&self, first: usize) {
        assert!(
            first.is_multiple_of(LINES_PER_PAGE) && first < self.bytes / LINE_BYTES,
            "first line of a page"
        );
        // SAFETY: the range lies within our own mapping; MADV_REMOVE punches a hole into the memfd.
        let result =
            unsafe { libc::madvise(self.start.byte_add(first * LINE_BYTES), PAGE_BYTES, libc::MADV_REMOVE) };
        if result != 0 {
            // Only memory is wasted then; the lines were cleared by their owner.
            tracing::debug!(errno = %super::handle::last_errno(), "cannot give a page of the inode table back");
        }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with these values, and no `Line` reference outlives `self`.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn second_mapping_of_the_file_sees_what_the_first_wrote() {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let first = SharedMemory::map(file.as_fd(), 2 * PAGE_BYTES).unwrap();
        first.line(65)[3].store(7, Ordering::Release);
        let second = SharedMemory::map(file.as_fd(), 2 * PAGE_BYTES).unwrap();
        assert_eq!(second.line(65)[3].load(Ordering::Acquire), 7);
        first.release_page(64);
        assert_eq!(second.line(65)[3].load(Ordering::Acquire), 0);
    }
}
