//! The memory that outlives a worker: who owns which lines of it.
//!
//! One memfd a workspace, held by the keeper and mapped by each worker in turn. Its layout is described in
//! DURABILITY.md; [`LAYOUT_VERSION`] is raised when it changes. A worker that finds another version refuses to
//! attach instead of guessing.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use crate::sys::shared_memory::{LINE_BYTES, LINES_PER_PAGE, SharedMemory};

/// Raised when the layout changes.
pub(crate) const LAYOUT_VERSION: u64 = 1;

/// `wsguard\0` as a number.
const MAGIC: u64 = u64::from_le_bytes(*b"wsguard\0");

/// Words of the header line.
mod header {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 1;
    pub(super) const CAPABILITIES: usize = 2;
}

/// A range of lines with one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// Its first line.
    pub(crate) first: usize,
    /// How many lines it has.
    pub(crate) lines: usize,
}

impl Region {
    const fn after(self, lines: usize) -> Self {
        Self { first: self.first + self.lines, lines }
    }
}

/// High-water marks and other single words of the tables.
pub(crate) const MARKS: Region = Region { first: 1, lines: LINES_PER_PAGE - 1 };
/// Devices (btrfs subvolumes) by index, eight to a line.
pub(crate) const DEVICES: Region = MARKS.after(LINES_PER_PAGE);
/// What each thread is doing.
pub(crate) const JOURNAL: Region = DEVICES.after(16 * LINES_PER_PAGE);
/// Open files.
pub(crate) const FILES: Region = JOURNAL.after(1 << 20);
/// Known inodes.
pub(crate) const INODES: Region = FILES.after(1 << 26);

/// Lines of [`MARKS`], one an owner.
pub(crate) mod mark {
    pub(crate) const INODES: usize = super::MARKS.first;
    pub(crate) const FILES: usize = super::MARKS.first + 1;
    pub(crate) const JOURNAL: usize = super::MARKS.first + 2;
    /// What the project is charged for; all words are 0 where a worker before quotas wrote the table.
    pub(crate) const QUOTA: usize = super::MARKS.first + 3;
    /// Changes under way that are not booked yet; when files were last changed whose blocks may change once more, in
    /// seconds since the machine's start.
    pub(crate) const UNBOOKED: usize = super::MARKS.first + 4;
    /// Files that live on in a mapping, one a line.
    pub(crate) const OUTLIVED: usize = super::MARKS.first + 8;
    /// How many lines there are for them.
    pub(crate) const OUTLIVED_LINES: usize = 48;
}

const TOTAL_BYTES: usize = (INODES.first + INODES.lines) * LINE_BYTES;

/// What a worker finds in the memory it is handed.
pub(crate) enum Found {
    /// Nothing: the workspace is mounted for the first time.
    Fresh,
    /// The tables of a worker before this one, and what it negotiated with the kernel.
    Tables {
        /// `InitFlags` that the kernel offered.
        capabilities: u64,
    },
}

/// Maps the state memory and tells what is in it.
///
/// # Errors
/// `EPROTO` when it was written by a version that this one does not know; as mmap(2).
pub(crate) fn open(file: BorrowedFd<'_>) -> Result<(Arc<SharedMemory>, Found), Errno> {
    let memory = Arc::new(SharedMemory::map(file, TOTAL_BYTES)?);
    let head = memory.line(0);
    let found =
        match (head[header::MAGIC].load(Ordering::Acquire), head[header::VERSION].load(Ordering::Acquire)) {
            (MAGIC, LAYOUT_VERSION) => {
                Found::Tables { capabilities: head[header::CAPABILITIES].load(Ordering::Acquire) }
            }
            (0, _) => Found::Fresh,
            _ => return Err(Errno::PROTO),
        };
    Ok((memory, found))
}

/// Returns the version of the layout that the memory is written in, if anything is in it; for whoever does not map
/// it.
///
/// # Errors
/// `EPROTO` if it is no state memory; as pread(2).
pub(crate) fn layout_of(file: BorrowedFd<'_>) -> Result<Option<u64>, Errno> {
    let mut head = [0_u8; 16];
    let length = rustix::io::pread(file, &mut head, 0)?;
    let (magic, version) = head.split_at(8);
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_ne_bytes);
    match (length, word(magic)) {
        (16, MAGIC) => Ok(Some(word(version))),
        (0 | 16, 0) => Ok(None),
        _ => Err(Errno::PROTO),
    }
}

/// Marks the tables as complete. From here on another worker can attach.
pub(crate) fn seal(memory: &SharedMemory, capabilities: u64) {
    let head = memory.line(0);
    head[header::CAPABILITIES].store(capabilities, Ordering::Release);
    head[header::VERSION].store(LAYOUT_VERSION, Ordering::Release);
    head[header::MAGIC].store(MAGIC, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn memfd() -> std::os::fd::OwnedFd {
        rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
    }

    #[test]
    fn sealed_state_is_found_with_its_capabilities() {
        let file = memfd();
        let (memory, found) = open(file.as_fd()).unwrap();
        assert!(matches!(found, Found::Fresh));
        seal(&memory, 42);
        assert!(matches!(open(file.as_fd()).unwrap().1, Found::Tables { capabilities: 42 }));
    }

    #[test]
    fn layout_is_read_without_a_mapping() {
        let file = memfd();
        assert_eq!(layout_of(file.as_fd()), Ok(None));
        let (memory, _) = open(file.as_fd()).unwrap();
        assert_eq!(layout_of(file.as_fd()), Ok(None));
        seal(&memory, 0);
        assert_eq!(layout_of(file.as_fd()), Ok(Some(LAYOUT_VERSION)));
        memory.line(0)[header::MAGIC].store(7, Ordering::Release);
        assert_eq!(layout_of(file.as_fd()), Err(Errno::PROTO));
    }

    #[test]
    fn state_of_another_version_is_refused() {
        let file = memfd();
        let (memory, _) = open(file.as_fd()).unwrap();
        seal(&memory, 0);
        memory.line(0)[header::VERSION].store(LAYOUT_VERSION + 1, Ordering::Release);
        assert_eq!(open(file.as_fd()).err(), Some(Errno::PROTO));
    }

    #[test]
    fn regions_follow_each_other_and_inodes_start_at_a_page() {
        let regions = [MARKS, DEVICES, JOURNAL, FILES, INODES];
        assert!(regions.windows(2).all(|pair| pair[0].first + pair[0].lines == pair[1].first));
        assert!(INODES.first.is_multiple_of(LINES_PER_PAGE));
    }
}
