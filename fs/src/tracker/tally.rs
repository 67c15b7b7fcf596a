//! What one open file writes: counted by write(2) with a few relaxed atomics, turned into records at close and every
//! few seconds while it is open.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::Tracker;
use super::process::Process;
use super::record::{Operation, Record};

/// Locks that the open tallies are divided by.
const SHARDS: usize = 16;

/// One file that is open for writing. Kept by whoever keeps the file open; the last one to drop it closes it.
pub(crate) struct OpenTally {
    tracker: Weak<Tracker>,
    id: u64,
    node: u64,
    parent: u64,
    uid: u32,
    pid: u32,
    /// Renewed by the recorder; the thread may be gone when the file is closed.
    process: Mutex<Option<Arc<Process>>>,
    opened_at: Instant,
    /// Of everything that was written so far.
    start: AtomicU64,
    end: AtomicU64,
    bytes: AtomicU64,
    delta_bytes: AtomicI64,
    /// What earlier records have told of `bytes` and `delta_bytes`. Touched by the recorder and at the end only.
    told_bytes: AtomicU64,
    told_delta: AtomicI64,
    /// It was written by ways that do not tell how much.
    was_written_unseen: AtomicBool,
}

/// What an open file has written up to a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TallyView {
    /// Tells open files apart.
    pub(crate) id: u64,
    /// Which file.
    pub(crate) node: u64,
    /// Who opened it.
    pub(crate) uid: u32,
    /// The thread that opened it.
    pub(crate) pid: u32,
    /// Its process.
    pub(crate) process: Option<Arc<Process>>,
    /// When.
    pub(crate) opened_at: Instant,
    /// Bytes written through it.
    pub(crate) bytes: u64,
}

impl OpenTally {
    /// Notes a write that has happened. `delta_bytes` is the change of the file's charge.
    pub(crate) fn wrote(&self, offset: u64, length: u64, delta_bytes: i64) {
        self.start.fetch_min(offset, Ordering::Relaxed);
        self.end.fetch_max(offset.saturating_add(length), Ordering::Relaxed);
        self.delta_bytes.fetch_add(delta_bytes, Ordering::Relaxed);
        // Last and with release, so that whoever has seen the bytes has their range as well.
        self.bytes.fetch_add(length, Ordering::Release);
    }

    /// Notes that the file's charge has changed by what earlier writes have cost.
    pub(crate) fn cost(&self, delta_bytes: i64) {
        self.delta_bytes.fetch_add(delta_bytes, Ordering::Relaxed);
    }

    /// Notes that the file, now of `size` bytes, was written by ways that do not tell where and how much. The record says
    /// so by its 0 bytes over the whole file.
    pub(crate) fn wrote_unseen(&self, size: u64, delta_bytes: i64) {
        self.wrote(0, 0, delta_bytes);
        self.end.fetch_max(size, Ordering::Relaxed);
        self.was_written_unseen.store(true, Ordering::Release);
    }

    /// Returns a record of what was written since the last one, if anything was.
    pub(super) fn fold(&self) -> Option<Record> {
        let total = self.bytes.load(Ordering::Acquire);
        let bytes = total.wrapping_sub(self.told_bytes.swap(total, Ordering::Relaxed));
        let delta_total = self.delta_bytes.load(Ordering::Relaxed);
        let delta = delta_total.wrapping_sub(self.told_delta.swap(delta_total, Ordering::Relaxed));
        let was_unseen = self.was_written_unseen.swap(false, Ordering::AcqRel);
        if bytes == 0 && delta == 0 && !was_unseen {
            return None;
        }
        let (start, end) = (self.start.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        let record = Record::new(Operation::Write, self.node, self.uid, self.pid);
        Some(Record { parent: self.parent, ..record.range(start.min(end), end).costing(bytes, delta) })
    }

    /// Returns who has it open, as far as is known.
    pub(super) fn process(&self) -> Option<Arc<Process>> {
        self.process.lock().clone()
    }

    /// Looks whether whoever opened it has become another program since.
    pub(super) fn renew_process(&self) {
        if let Some(successor) = self.process().and_then(|process| process.successor()) {
            *self.process.lock() = Some(Arc::new(successor));
        }
    }

    pub(super) fn view(&self) -> TallyView {
        TallyView {
            id: self.id,
            node: self.node,
            uid: self.uid,
            pid: self.pid,
            process: self.process(),
            opened_at: self.opened_at,
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for OpenTally {
    fn drop(&mut self) {
        let Some(tracker) = self.tracker.upgrade() else { return };
        tracker.tallies.remove(self.id);
        if let Some(record) = self.fold() {
            tracker.record_by(record, self.process());
        }
    }
}

/// Every file of a workspace that is open for writing.
pub(super) struct Tallies {
    next: AtomicU64,
    shards: [Mutex<FxHashMap<u64, Weak<OpenTally>>>; SHARDS],
}

impl Tallies {
    pub(super) fn new() -> Self {
        Self { next: AtomicU64::new(1), shards: std::array::from_fn(|_| Mutex::default()) }
    }

    pub(super) fn open(
        &self,
        tracker: Weak<Tracker>,
        node: u64,
        parent: u64,
        (uid, pid): (u32, u32),
        process: Option<Arc<Process>>,
    ) -> Arc<OpenTally> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let tally = Arc::new(OpenTally {
            tracker,
            id,
            node,
            parent,
            uid,
            pid,
            process: Mutex::new(process),
            opened_at: Instant::now(),
            start: AtomicU64::new(u64::MAX),
            end: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            delta_bytes: AtomicI64::new(0),
            told_bytes: AtomicU64::new(0),
            told_delta: AtomicI64::new(0),
            was_written_unseen: AtomicBool::new(false),
        });
        self.shard(id).lock().insert(id, Arc::downgrade(&tally));
        tally
    }

    fn remove(&self, id: u64) {
        self.shard(id).lock().remove(&id);
    }

    /// Returns those that are open now. Dropping one that was closed meanwhile closes it here.
    pub(super) fn open_now(&self) -> Vec<Arc<OpenTally>> {
        let open = |shard: &Mutex<FxHashMap<u64, Weak<OpenTally>>>| -> Vec<Arc<OpenTally>> {
            shard.lock().values().filter_map(Weak::upgrade).collect()
        };
        self.shards.iter().flat_map(open).collect()
    }

    fn shard(&self, id: u64) -> &Mutex<FxHashMap<u64, Weak<OpenTally>>> {
        &self.shards[id as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Arc<OpenTally> {
        Tallies::new().open(Weak::new(), 5, 2, (1000, 42), None)
    }

    #[test]
    fn writes_fold_into_one_range_and_are_told_once() {
        let tally = tally();
        assert_eq!(tally.fold(), None);
        tally.wrote(4096, 100, 4096);
        tally.wrote(0, 10, 0);
        let first = tally.fold().unwrap();
        assert_eq!((first.offset, first.end, first.bytes, first.delta_bytes), (0, 4196, 110, 4096));
        assert_eq!((first.node, first.parent, first.uid, first.pid), (5, 2, 1000, 42));
        assert_eq!(tally.fold(), None);
        tally.wrote(8192, 1, -4096);
        let second = tally.fold().unwrap();
        assert_eq!((second.offset, second.end, second.bytes, second.delta_bytes), (0, 8193, 1, -4096));
    }

    #[test]
    fn unseen_writing_is_told_once_even_where_nothing_grew() {
        let tally = tally();
        tally.wrote_unseen(4096, 0);
        let record = tally.fold().unwrap();
        assert_eq!((record.offset, record.end, record.bytes, record.delta_bytes), (0, 4096, 0, 0));
        assert_eq!(tally.fold(), None);
    }

    #[test]
    fn folding_beside_writers_neither_loses_nor_repeats_a_byte() {
        let tally = tally();
        let (mut bytes, mut delta) = (0, 0);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| (0..20_000_u64).for_each(|i| tally.wrote(i * 10, 10, 1))))
                .collect();
            while writers.iter().any(|writer| !writer.is_finished()) {
                if let Some(record) = tally.fold() {
                    assert!(record.end >= 10 && record.offset < record.end);
                    bytes += record.bytes;
                    delta += record.delta_bytes;
                }
            }
        });
        if let Some(record) = tally.fold() {
            bytes += record.bytes;
            delta += record.delta_bytes;
        }
        assert_eq!((bytes, delta), (600_000, 60_000));
        assert_eq!(tally.view().bytes, 600_000);
    }

    #[test]
    fn write_at_the_end_of_the_number_range_does_not_wrap() {
        let tally = tally();
        tally.wrote(u64::MAX - 1, 10, 0);
        let record = tally.fold().unwrap();
        assert_eq!((record.offset, record.end), (u64::MAX - 1, u64::MAX));
    }
}
