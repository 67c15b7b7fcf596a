//! Memory for requests is there before a request is read into it.
//!
//! The FUSE library gives each session thread a zeroed buffer of 16 MiB that nobody has touched. The kernel copies a
//! request into it page by page, and each page's first touch is a fault. If the worker is killed during such a fault,
//! the copy fails, and the kernel does not keep the request for the next worker: it answers the application with EIO
//! (`fuse_dev_do_read`, `request_end` with -EIO after a failed copy). So the part of such a buffer that requests use is
//! touched when it is allocated. The library offers no other place to do that.

use std::alloc::{GlobalAlloc, Layout, System};

/// What the library asks for: `MAX_WRITE_SIZE` and a page for the header.
const LIBRARY_BUFFER_BYTES: usize = (16 << 20) + 4096;
/// What requests use of it: 1 MiB of data, the header and the alignment.
const USED_BYTES: usize = (1 << 20) + 8192;
const PAGE_BYTES: usize = 4096;

/// The system's allocator, which touches buffers for requests.
struct TouchingAllocator;

#[global_allocator]
static ALLOCATOR: TouchingAllocator = TouchingAllocator;

// SAFETY: every call goes to the system's allocator unchanged; the writes stay within what it returned.
unsafe impl GlobalAlloc for TouchingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is passed on.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if layout.size() == LIBRARY_BUFFER_BYTES && !pointer.is_null() {
            for offset in (0..USED_BYTES).step_by(PAGE_BYTES) {
                // SAFETY: the offset lies within the allocation, which nobody else knows yet; it holds zeros anyway.
                // Volatile, or the compiler would leave out a write of what is there already.
                unsafe { pointer.add(offset).write_volatile(0) };
            }
        }
        pointer
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * PAGE_BYTES
    }

    #[test]
    fn buffer_of_the_library_is_resident_as_far_as_requests_reach() {
        let before = resident_bytes();
        let buffer = vec![0_u8; LIBRARY_BUFFER_BYTES];
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown >= USED_BYTES / 2, "only {grown} bytes became resident");
        assert_eq!(buffer[USED_BYTES], 0);
    }
}
