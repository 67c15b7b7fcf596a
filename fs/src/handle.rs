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
    /// Not 0 while a request enters or releases the number. Where its worker dies meanwhile, the number stays taken
    /// until the request has been carried out again: it must not come to mean another open before that.
    pub(super) const IN_TRANSIT: usize = 2;
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
                if line[word::IN_TRANSIT].load(Ordering::Acquire) == 0 {
                    returned.push(number);
                }
                continue;
            }
            line[word::IN_TRANSIT].store(0, Ordering::Release);
            let flags = line[word::FLAGS].load(Ordering::Acquire) as u32;
            if let Some(slot) = table.slot(number) {
                *slot.write() = Some(Arc::new(rebuild(Remembered { node, flags })));
                table.open.fetch_add(1, Ordering::Relaxed);
            }
        }
        *table.free.lock() = FreeNumbers { returned, next: used };
        table
    }

    /// Takes a free number, so that the caller can record it before anything is open under it.
    ///
    /// # Errors
    /// `ENFILE` when the region is full.
    pub(crate) fn reserve(&self) -> Result<u64, Errno> {
        let number = self.take_number()?;
        self.line(number)[word::IN_TRANSIT].store(1, Ordering::Release);
        Ok(number)
    }

    /// Enters an object under a number from [`Self::reserve`].
    pub(crate) fn enter(&self, number: u64, object: T, remembered: Remembered) {
        // A reserved number is below the region's size, and so has a slot.
        let Some(slot) = self.slot(number) else { return };
        *slot.write() = Some(Arc::new(object));
        let line = self.line(number);
        line[word::FLAGS].store(u64::from(remembered.flags), Ordering::Release);
        line[word::NODE].store(remembered.node, Ordering::Release);
        line[word::IN_TRANSIT].store(0, Ordering::Release);
        self.open.fetch_add(1, Ordering::Relaxed);
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
        let line = self.line(number);
        line[word::IN_TRANSIT].store(1, Ordering::Release);
        line[word::NODE].store(0, Ordering::Release);
        self.open.fetch_sub(1, Ordering::Relaxed);
        Ok(object)
    }

    /// Lets a number that was taken out, or reserved and not entered, be used again.
    pub(crate) fn recycle(&self, number: u64) {
        if number < self.region.lines as u64 {
            self.line(number)[word::IN_TRANSIT].store(0, Ordering::Release);
            self.free.lock().returned.push(number);
        }
    }

    /// Calls `visit` with every open object.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&T)) {
        for slots in self.chunks.iter().filter_map(OnceLock::get) {
            for slot in slots {
                let object = slot.read().clone();
                if let Some(object) = object {
                    visit(&object);
                }
            }
        }
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

    fn insert<T>(table: &HandleTable<T>, object: T, node: u64) -> u64 {
        let number = table.reserve().unwrap();
        table.enter(number, object, remembered(node));
        number
    }

    #[test]
    fn released_number_is_bad_and_is_used_again_once_recycled() {
        let table = HandleTable::new(memory(), FILES, mark::FILES);
        let first = insert(&table, "a", 10);
        let second = insert(&table, "b", 11);
        assert_eq!(*table.take(first).unwrap(), "a");
        assert_eq!(table.get(first).unwrap_err(), Errno::BADF);
        assert_ne!(insert(&table, "c", 12), first);
        table.recycle(first);
        assert_eq!(insert(&table, "d", 13), first);
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
        let numbers: Vec<u64> = (0..5).map(|i| insert(&table, i, 100 + i)).collect();
        table.take(numbers[2]).unwrap();
        table.recycle(numbers[2]);
        drop(table);
        let table = HandleTable::attach(memory, FILES, mark::FILES, |remembered| remembered.node - 100);
        assert_eq!(*table.get(numbers[4]).unwrap(), 4);
        assert_eq!(table.get(numbers[2]).unwrap_err(), Errno::BADF);
        assert_eq!(insert(&table, 9, 109), numbers[2]);
        assert_eq!(insert(&table, 10, 110), 5);
    }

    #[test]
    fn number_of_an_unfinished_request_is_not_given_to_another_one() {
        let memory = memory();
        let table = HandleTable::new(memory.clone(), FILES, mark::FILES);
        let (kept, releasing) = (insert(&table, 1, 101), insert(&table, 2, 102));
        let opening = table.reserve().unwrap();
        table.take(releasing).unwrap();
        drop(table);
        // Neither a first successor nor one after it.
        for _ in 0..2 {
            let table = HandleTable::attach(memory.clone(), FILES, mark::FILES, |remembered| remembered.node);
            assert_eq!(*table.get(kept).unwrap(), 101);
            let new = insert(&table, 3, 103);
            assert!(new != releasing && new != opening, "{new}");
            assert_eq!(table.take(releasing).err(), Some(Errno::BADF));
        }
        let table = HandleTable::attach(memory.clone(), FILES, mark::FILES, |remembered| remembered.node);
        table.recycle(releasing);
        table.recycle(opening);
        drop(table);
        let table = HandleTable::attach(memory, FILES, mark::FILES, |remembered| remembered.node);
        let mut reused = [insert(&table, 4, 104), insert(&table, 5, 105)];
        reused.sort_unstable();
        assert_eq!(reused, [releasing, opening]);
    }
}
