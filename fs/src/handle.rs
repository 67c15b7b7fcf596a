//! Open files and directories: the numbers that the kernel hands back with every request on them.
//!
//! A number is an index, never a pointer, so that another worker can rebuild what is behind it. Looking one up
//! takes the lock of its own slot only; the list of free numbers is locked at open and release.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

/// Slots of one chunk.
const CHUNK: usize = 1024;
/// Chunks; a million open files in all.
const CHUNKS: usize = 1024;

type Slots<T> = Box<[RwLock<Option<Arc<T>>>]>;

/// A table from number to open object.
pub(crate) struct HandleTable<T> {
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
    /// Makes an empty table.
    pub(crate) fn new() -> Self {
        let chunks = (0..CHUNKS).map(|_| OnceLock::new()).collect();
        Self { chunks, free: Mutex::new(FreeNumbers::default()), open: AtomicU64::new(0) }
    }

    /// Enters an object and returns its number.
    ///
    /// # Errors
    /// `ENFILE` when a million are open.
    pub(crate) fn insert(&self, object: T) -> Result<u64, Errno> {
        let number = self.free.lock().take()?;
        let slot = self.slot(number).ok_or(Errno::NFILE)?;
        *slot.write() = Some(Arc::new(object));
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

    /// Takes an object out; its number may be used again.
    ///
    /// # Errors
    /// `EBADF` when nothing is open under it.
    pub(crate) fn remove(&self, number: u64) -> Result<Arc<T>, Errno> {
        let object = self.slot(number).and_then(|slot| slot.write().take()).ok_or(Errno::BADF)?;
        self.free.lock().returned.push(number);
        self.open.fetch_sub(1, Ordering::Relaxed);
        Ok(object)
    }

    /// Returns how many are open.
    pub(crate) fn len(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    fn slot(&self, number: u64) -> Option<&RwLock<Option<Arc<T>>>> {
        let number = usize::try_from(number).ok()?;
        let chunk = self.chunks.get(number / CHUNK)?;
        chunk.get_or_init(|| (0..CHUNK).map(|_| RwLock::new(None)).collect()).get(number % CHUNK)
    }
}

impl FreeNumbers {
    fn take(&mut self) -> Result<u64, Errno> {
        if let Some(number) = self.returned.pop() {
            return Ok(number);
        }
        if self.next >= (CHUNK * CHUNKS) as u64 {
            return Err(Errno::NFILE);
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_number_is_bad_and_then_used_again() {
        let table = HandleTable::new();
        let first = table.insert("a").unwrap();
        let second = table.insert("b").unwrap();
        assert_eq!(*table.remove(first).unwrap(), "a");
        assert_eq!(table.get(first).unwrap_err(), Errno::BADF);
        assert_eq!(table.insert("c").unwrap(), first);
        assert_eq!(*table.get(second).unwrap(), "b");
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn number_out_of_range_is_bad() {
        assert_eq!(HandleTable::<()>::new().get(u64::MAX).unwrap_err(), Errno::BADF);
    }
}
