//! Memory for requests is there before a request is read into it.
//!
//! The FUSE library gives each session thread a zeroed buffer of 16 MiB that nobody has touched. The kernel copies a
//! request into it page by page, and each page's first touch is a fault. If the worker is killed during such a fault,
//! the copy fails, and the kernel does not keep the request for the next worker: it answers the application with EIO
//! (`fuse_dev_do_read`, `request_end` with -EIO after a failed copy). So the part of such a buffer that requests use is
//! made resident when it is allocated. The library offers no other place to do that.
//!
//! Such a buffer is mapped by itself. glibc does so only for the first one: when that is freed it raises its limit for
//! mapping, takes the next ones from the heap and fills all of their 16 MiB with zeros, which takes 5 ms and as much
//! memory each, several times for every workspace that is taken over.

use std::alloc::{GlobalAlloc, Layout, System};

/// What the library asks for: `MAX_WRITE_SIZE` and a page for the header.
const LIBRARY_BUFFER_BYTES: usize = (16 << 20) + 4096;
/// What requests use of it: 1 MiB of data, the header and the alignment.
const USED_BYTES: usize = (1 << 20) + 8192;
const PAGE_BYTES: usize = 4096;

/// The system's allocator, except for buffers for requests.
struct MappingAllocator;

#[global_allocator]
static ALLOCATOR: MappingAllocator = MappingAllocator;

fn is_library_buffer(layout: Layout) -> bool {
    layout.size() == LIBRARY_BUFFER_BYTES && layout.align() <= PAGE_BYTES
}

/// Maps one buffer, zeroed; null if there is no memory.
fn map_buffer() -> *mut u8 {
    // SAFETY: a fresh private mapping at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            LIBRARY_BUFFER_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return std::ptr::null_mut();
    }
    // SAFETY: the range lies within the mapping that was just made.
    let populated = unsafe { libc::madvise(start, USED_BYTES, libc::MADV_POPULATE_WRITE) };
    if populated != 0 {
        // Before Linux 5.14: page by page.
        for offset in (0..USED_BYTES).step_by(PAGE_BYTES) {
            // SAFETY: the offset lies within the mapping, which nobody else knows yet; it holds zeros anyway.
            // Volatile, or the compiler would leave out a write of what is there already.
            unsafe { start.cast::<u8>().add(offset).write_volatile(0) };
        }
    }
    start.cast()
}

// SAFETY: whether a block was mapped follows from its layout alone, so each is given back the way it came; all others
// go to the system's allocator unchanged.
unsafe impl GlobalAlloc for MappingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_library_buffer(layout) {
            return map_buffer();
        }
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if is_library_buffer(layout) {
            // SAFETY: the block was mapped with this size by `map_buffer`, and the caller gives it up.
            unsafe { libc::munmap(pointer.cast(), LIBRARY_BUFFER_BYTES) };
            return;
        }
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_library_buffer(layout) {
            return map_buffer();
        }
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees that the size, rounded up to the alignment, does not overflow.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if !is_library_buffer(layout) && !is_library_buffer(wanted) {
            // SAFETY: the caller's contract is passed on.
            return unsafe { System.realloc(pointer, layout, size) };
        }
        // SAFETY: the size is not zero, by the caller's contract.
        let moved = unsafe { self.alloc(wanted) };
        if !moved.is_null() {
            // SAFETY: both blocks have that many bytes and are different ones; the old one is given up afterwards.
            unsafe {
                std::ptr::copy_nonoverlapping(pointer, moved, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
        }
        moved
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
    fn buffer_of_the_library_is_resident_only_as_far_as_requests_reach() {
        // The first one that is freed changes how glibc treats the others.
        drop(std::hint::black_box(vec![0_u8; LIBRARY_BUFFER_BYTES]));
        let before = resident_bytes();
        let buffers: Vec<Vec<u8>> = (0..8).map(|_| vec![0_u8; LIBRARY_BUFFER_BYTES]).collect();
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown >= 8 * USED_BYTES - (4 << 20), "only {grown} bytes became resident");
        assert!(grown < 8 * USED_BYTES + (40 << 20), "{grown} bytes became resident");
        assert_eq!(buffers[7][USED_BYTES], 0);
    }

    #[test]
    fn buffer_that_grows_and_shrinks_keeps_its_content() {
        let mut buffer = vec![7_u8; LIBRARY_BUFFER_BYTES];
        buffer.reserve_exact(1);
        buffer.push(8);
        assert_eq!((buffer[0], buffer[LIBRARY_BUFFER_BYTES - 1], buffer[LIBRARY_BUFFER_BYTES]), (7, 7, 8));
        buffer.truncate(LIBRARY_BUFFER_BYTES);
        buffer.shrink_to_fit();
        assert_eq!((buffer[0], buffer[LIBRARY_BUFFER_BYTES - 1]), (7, 7));
    }
}
