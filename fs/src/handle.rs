//! Open files and directories: the numbers that the kernel hands back with every request on them.
//!
//! A number is an index, never a pointer: what it stands for is written into the state memory, so that another
//! worker finds it. Looking one up takes the lock of its own slot only; the list of free numbers is locked at
//! open and release.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use crate::state::Region;
use crate::sys::shared_memory::{Line, SharedMemory};

/// Slots of one chunk.
const CHUNK: usize = 1024;

type Slots<T> = Box<[RwLock<Option<Arc<T>>>]>;

/// What is remembered of an open object: enough to open it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Remembered {
    /// The node.
    pub(crate) node: u64,
    /// Its open flags.
    pub(crate) flags: u32,
}

/// Words of a line. The node goes in last and out first: a line with a node is complete.
mod word {
    pub(super) const NODE: usize = 0;
    pub(super) const FLAGS: usize = 1;
}

/// A table from number to open object.
pub(crate) struct HandleTable<T> {
    memory: Arc<SharedMemory>,
    region: Region,
    mark: usize,
    chunks: Box<[OnceLock<Slots<T>>]>,
    free: Mutex<FreeNumbers>,
    open: AtomicU64,
}

#[derive(Default)]
struct FreeNumbers {
    returned: Vec<u64>,
    next: u64,
}

impl<T> HandleTable<T> {
    /// Makes an empty table over the lines of `region`; `mark` is the line with its high-water mark.
    pub(crate) fn new(memory: Arc<SharedMemory>, region: Region, mark: usize) -> Self {
        let chunks = (0..region.lines / CHUNK).map(|_| OnceLock::new()).collect();
        Self { memory, region, mark, chunks, free: Mutex::default(), open: AtomicU64::new(0) }
    }

    /// Takes over what a worker before this one had open; `rebuild` makes the objects.
    pub(crate) fn attach(
        memory: Arc<SharedMemory>,
        region: Region,
        mark: usize,
        mut rebuild: impl FnMut(Remembered) -> T,
    ) -> Self {
        let table = Self::new(memory, region, mark);
        let used = table.memory.line(mark)[0].load(Ordering::Acquire).min(region.lines as u64);
        let mut returned = Vec::new();
        for number in 0..used {
            let line = table.line(number);
            let node = line[word::NODE].load(Ordering::Acquire);
            if node == 0 {
                returned.push(number);
                continue;
            }
            let flags = line[word::FLAGS].load(Ordering::Acquire) as u32;
            if let Some(slot) = table.slot(number) {
                *slot.write() = Some(Arc::new(rebuild(Remembered { node, flags })));
                table.open.fetch_add(1, Ordering::Relaxed);
            }
        }
        *table.free.lock() = FreeNumbers { returned, next: used };
        table
    }

    /// Enters an object and returns its number.
    ///
    /// # Errors
    /// `ENFILE` when the region is full.
    pub(crate) fn insert(&self, object: T, remembered: Remembered) -> Result<u64, Errno> {
        let number = self.take_number()?;
        let slot = self.slot(number).ok_or(Errno::NFILE)?;
        *slot.write() = Some(Arc::new(object));
        let line = self.line(number);
        line[word::FLAGS].store(u64::from(remembered.flags), Ordering::Release);
        line[word::NODE].store(remembered.node, Ordering::Release);
        self.open.fetch_add(1, Ordering::Relaxed);
        Ok(number)
    }

    /// Returns the object behind a number.
    ///
    /// # Errors
    /// `EBADF` when nothing is open under it.
    pub(crate) fn get(&self, number: u64) -> Result<Arc<T>, Errno> {
        self.slot(number).and_then(|slot| slot.read().clone()).ok_or(Errno::BADF)
    }

    /// Takes an object out. The number stays taken until [`Self::recycle`], so that the caller can record in
    /// between that it is done.
    ///
    /// # Errors
    /// `EBADF` when nothing is open under it.
    pub(crate) fn take(&self, number: u64) -> Result<Arc<T>, Errno> {
        let object = self.slot(number).and_then(|slot| slot.write().take()).ok_or(Errno::BADF)?;
        self.line(number)[word::NODE].store(0, Ordering::Release);
        self.open.fetch_sub(1, Ordering::Relaxed);
        Ok(object)
    }

    /// Lets a number that was taken out be used again.
    pub(crate) fn recycle(&self, number: u64) {
        self.free.lock().returned.push(number);
    }

    /// Returns how many are open.
    pub(crate) fn len(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn take_number(&self) -> Result<u64, Errno> {
        let mut free = self.free.lock();
        if let Some(number) = free.returned.pop() {
            return Ok(number);
        }
        if free.next >= self.region.lines as u64 {
            return Err(Errno::NFILE);
        }
        free.next += 1;
        self.memory.line(self.mark)[0].store(free.next, Ordering::Release);
        Ok(free.next - 1)
    }

    /// `number` is below the region's size.
    fn line(&self, number: u64) -> &Line {
        self.memory.line(self.region.first + number as usize)
    }

    fn slot(&self, number: u64) -> Option<&RwLock<Option<Arc<T>>>> {
        let number = usize::try_from(number).ok()?;
        let chunk = self.chunks.get(number / CHUNK)?;
        chunk.get_or_init(|| (0..CHUNK).map(|_| RwLock::new(None)).collect()).get(number % CHUNK)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::state::{FILES, mark};

    fn memory() -> Arc<SharedMemory> {
        let file = rustix::fs::memfd_create("handles", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        crate::state::open(file.as_fd()).unwrap().0
    }

    fn remembered(node: u64) -> Remembered {
        Remembered { node, flags: 2 }
    }

    #[test]
    fn released_number_is_bad_and_is_used_again_once_recycled() {
        let table = HandleTable::new(memory(), FILES, mark::FILES);
        let first = table.insert("a", remembered(10)).unwrap();
        let second = table.insert("b", remembered(11)).unwrap();
        assert_eq!(*table.take(first).unwrap(), "a");
        assert_eq!(table.get(first).unwrap_err(), Errno::BADF);
        assert_ne!(table.insert("c", remembered(12)).unwrap(), first);
        table.recycle(first);
        assert_eq!(table.insert("d", remembered(13)).unwrap(), first);
        assert_eq!(*table.get(second).unwrap(), "b");
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn number_out_of_range_is_bad() {
        let table = HandleTable::<()>::new(memory(), FILES, mark::FILES);
        assert_eq!(table.get(u64::MAX).unwrap_err(), Errno::BADF);
    }

    #[test]
    fn another_worker_finds_what_is_open_under_the_same_numbers() {
        let memory = memory();
        let table = HandleTable::new(memory.clone(), FILES, mark::FILES);
        let numbers: Vec<u64> = (0..5).map(|i| table.insert(i, remembered(100 + i)).unwrap()).collect();
        table.take(numbers[2]).unwrap();
        drop(table);
        let table = HandleTable::attach(memory, FILES, mark::FILES, |remembered| remembered.node - 100);
        assert_eq!(*table.get(numbers[4]).unwrap(), 4);
        assert_eq!(table.get(numbers[2]).unwrap_err(), Errno::BADF);
        assert_eq!(table.insert(9, remembered(109)).unwrap(), numbers[2]);
        assert_eq!(table.insert(10, remembered(110)).unwrap(), 5);
    }
}
