//! The way from the threads that serve requests to the recorder.
//!
//! Bounded and lock-free. Where the recorder cannot keep up, records are dropped and counted: nobody waits for a
//! history. Costs no memory while it is empty.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam_queue::SegQueue;

use super::process::Process;
use super::record::Record;

/// Most items that wait: about 10 MB.
const CAPACITY: usize = 65_536;

/// From so many on the recorder does not wait for the end of its interval.
pub(super) const URGENT: usize = CAPACITY / 4;

/// What the recorder is told, in the order in which it happened.
#[derive(Debug)]
pub(super) enum Item {
    /// Something changed, by this process if it could be attributed.
    Record(Record, Option<Arc<Process>>),
    /// A directory that later records name lies here.
    Located { node: u64, parent: u64, name: Box<OsStr> },
    /// Names changed below the mount; what was known of directories may be wrong.
    NamesChanged,
    /// Whoever recorded before died with records under way.
    Interrupted { reason: &'static str },
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits, together with so many others.
    Waiting(usize),
    /// There was no room.
    Dropped,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    items: SegQueue<Item>,
    /// Never less than what is in `items`.
    length: AtomicUsize,
    dropped: AtomicU64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { items: SegQueue::new(), length: AtomicUsize::new(0), dropped: AtomicU64::new(0) }
    }

    pub(super) fn push(&self, item: Item) -> Pushed {
        let before = self.length.fetch_add(1, Ordering::Relaxed);
        if before >= CAPACITY {
            self.length.fetch_sub(1, Ordering::Relaxed);
            if matches!(item, Item::Record(..)) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return Pushed::Dropped;
        }
        self.items.push(item);
        Pushed::Waiting(before + 1)
    }

    pub(super) fn pop(&self) -> Option<Item> {
        let item = self.items.pop()?;
        self.length.fetch_sub(1, Ordering::Relaxed);
        Some(item)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Returns how many records were dropped since this was asked last.
    pub(super) fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Operation;
    use super::*;

    fn record(node: u64) -> Item {
        Item::Record(Record::new(Operation::Create, node, 0, 0), None)
    }

    #[test]
    fn what_does_not_fit_is_counted_and_the_rest_stays_in_order() {
        let queue = Queue::new();
        for node in 0..CAPACITY as u64 {
            assert_eq!(queue.push(record(node)), Pushed::Waiting(node as usize + 1));
        }
        assert_eq!(queue.push(record(u64::MAX)), Pushed::Dropped);
        assert_eq!(queue.push(Item::NamesChanged), Pushed::Dropped);
        assert_eq!(queue.take_dropped(), 1);
        assert_eq!(queue.take_dropped(), 0);
        for expected in 0..CAPACITY as u64 {
            let Some(Item::Record(record, _)) = queue.pop() else { panic!("a record is missing") };
            assert_eq!(record.node, expected);
        }
        assert!(queue.pop().is_none());
        assert_eq!(queue.push(record(7)), Pushed::Waiting(1), "there is room again");
    }

    #[test]
    fn writers_at_once_lose_nothing_that_fits() {
        let queue = Queue::new();
        std::thread::scope(|scope| {
            for writer in 0..4_u64 {
                let queue = &queue;
                scope.spawn(move || {
                    for i in 0..10_000 {
                        queue.push(record(writer << 32 | i));
                    }
                });
            }
        });
        let mut next = [0; 4];
        while let Some(Item::Record(record, _)) = queue.pop() {
            let writer = (record.node >> 32) as usize;
            assert_eq!(record.node & 0xffff_ffff, next[writer], "each writer's order is kept");
            next[writer] += 1;
        }
        assert_eq!((next, queue.take_dropped()), ([10_000; 4], 0));
    }
}
