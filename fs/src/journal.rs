//! What each thread is doing, in memory that outlives the worker, so that no request runs twice.
//!
//! When a worker dies, the kernel sends the requests that it had read and not answered to its successor, with
//! bit 63 set in their number (`FUSE_NOTIFY_RESEND`). A request that changes something may have been carried out
//! already. So each thread writes into its own slot which request it works on, what it took for it on the way
//! (a handle number, a node reference, a size before), and the result before it is sent.
//!
//! A slot is overwritten by the thread's next request only, which it reads after the answer is out: the slots of
//! a dead worker hold exactly what can be resent. A successor's threads take other slots, oldest first, so that
//! even a successor that dies before it saw a resent request leaves the record in place.
//!
//! A request under which two workers died is *suspected*; so is whatever else they were working on, and whatever was
//! under way when somebody killed both. Suspected requests are carried out one at a time. One whose worker dies even
//! then is *poisoned*: it is answered with EIO, and nothing else is. A request that waits for the disk meanwhile is not
//! to blame: an fsync(2) may take longer than several workers live that somebody kills.
//!
//! Cost: a few stores to memory that no other thread writes.

pub(crate) mod progress;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

use self::progress::Busy;
use crate::fail_point::{self, Stage};
use crate::state::{JOURNAL, mark};
use crate::sys::shared_memory::{Line, SharedMemory};

/// Bit of a resent request's number.
const RESENT: u64 = 1 << 63;
/// Lines of a slot.
const LINES_PER_SLOT: usize = 2;
const SLOTS: usize = JOURNAL.lines / LINES_PER_SLOT;
/// Workers that may die under one request before it is suspected.
const MAX_ATTEMPTS: u64 = 2;

/// Held while a suspected request is carried out, of whatever workspace: they all share the worker that may die.
static SUSPECT: Mutex<()> = Mutex::new(());

/// Words of a slot.
mod word {
    pub(super) const SEQUENCE: usize = 0;
    pub(super) const UNIQUE: usize = 1;
    /// `STARTED` or `DONE` in the low byte, attempts above, `ALONE` in the highest bit.
    pub(super) const STAGE: usize = 2;
    pub(super) const RESULT: usize = 3;
    pub(super) const NUMBER: usize = 4;
    pub(super) const NODE: usize = 5;
    pub(super) const NOTE: usize = 6;
}

/// Words of a slot's second line; the others are spare room for later versions.
mod second_word {
    /// While a backing file is being registered: the latest id that was known before, plus one; else 0.
    pub(super) const REGISTERING: usize = 0;
}

const STARTED: u64 = 1;
const DONE: u64 = 2;
/// No other suspected request is under way.
const ALONE: u64 = 1 << 63;
/// The thread waits for the disk, in a call that cannot end the worker.
const BELOW: u64 = 1 << 62;

/// How far a request had come when its worker died.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Earlier {
    /// Its effect may or may not have happened.
    Started(Notes),
    /// Its effect has happened, with this result.
    Done(Result<i64, Errno>, Notes),
}

/// What a request took on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Notes {
    /// A handle number it entered.
    pub(crate) number: Option<u64>,
    /// A node whose reference it counted.
    pub(crate) node: Option<u64>,
    /// A number that its operation knows the meaning of; 0 if it noted none.
    pub(crate) note: u64,
}

/// See the module.
pub(crate) struct Journal {
    memory: Arc<SharedMemory>,
    key: u32,
    earlier: Vec<Record>,
    unfinished_registration: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    sequence: u64,
    unique: u64,
    /// Deaths that it may be to blame for.
    attempts: u64,
    was_alone: bool,
    earlier: Earlier,
}

thread_local! {
    /// Journal and slot of this thread.
    static SLOT: Cell<Option<(u32, usize)>> = const { Cell::new(None) };
}

/// A request that this thread works on.
pub(crate) struct Running<'a> {
    line: &'a Line,
    /// What is known from before, if the request was sent again.
    pub(crate) earlier: Option<Earlier>,
    is_poisoned: bool,
    _alone: Option<Alone<'a>>,
    _busy: Busy,
}

/// The only suspected request under way.
struct Alone<'a> {
    line: &'a Line,
    _turn: MutexGuard<'static, ()>,
}

impl<'a> Alone<'a> {
    fn wait(line: &'a Line) -> Self {
        let turn = SUSPECT.lock();
        line[word::STAGE].fetch_or(ALONE, Ordering::AcqRel);
        Self { line, _turn: turn }
    }
}

impl Drop for Alone<'_> {
    /// It is not to blame for what happens after it.
    fn drop(&mut self) {
        self.line[word::STAGE].fetch_and(!ALONE, Ordering::AcqRel);
    }
}

impl Journal {
    /// Opens the journal and reads what threads of earlier workers left in it.
    pub(crate) fn open(memory: Arc<SharedMemory>) -> Self {
        static NEXT_KEY: AtomicU32 = AtomicU32::new(0);
        let earlier = (0..SLOTS).filter_map(|slot| Record::read(slot_line(&memory, slot))).collect();
        let unfinished = (0..SLOTS).filter_map(|slot| {
            let word = &second_line(&memory, slot)[second_word::REGISTERING];
            word.load(Ordering::Acquire).checked_sub(1).and_then(|id| u32::try_from(id).ok())
        });
        let unfinished_registration = unfinished.min();
        Self { memory, key: NEXT_KEY.fetch_add(1, Ordering::Relaxed), earlier, unfinished_registration }
    }

    /// Returns the latest id of a backing file that was known when a thread of a dead worker began to register another
    /// one, which may have got an id that nobody noted; the lowest if there are several.
    pub(crate) fn unfinished_registration(&self) -> Option<u32> {
        self.unfinished_registration
    }

    /// Notes that no id is left which nobody knows. Before requests are answered.
    pub(crate) fn settle_registrations(&self) {
        for slot in 0..SLOTS {
            second_line(&self.memory, slot)[second_word::REGISTERING].store(0, Ordering::Release);
        }
    }

    /// Notes that this thread registers a backing file, `latest` being the latest id that is known, or that its id is
    /// in the table now.
    pub(crate) fn note_registering(&self, latest: Option<u32>) {
        let value = latest.map_or(0, |latest| u64::from(latest) + 1);
        second_line(&self.memory, self.slot())[second_word::REGISTERING].store(value, Ordering::Release);
    }

    /// Records that this thread begins with the request `unique`.
    pub(crate) fn begin(&self, unique: u64) -> Running<'_> {
        let busy = Busy::begin();
        let record = if unique & RESENT == 0 { None } else { self.resent(unique & !RESENT) };
        let attempts = record.map_or(0, |record| record.attempts);
        let line = slot_line(&self.memory, self.slot());
        // The number goes last: with it the slot speaks of this request. What an earlier attempt had recorded is
        // carried over, so that a successor of this worker knows no less than it does.
        line[word::UNIQUE].store(0, Ordering::Release);
        let (stage, result, notes) = match record.map(|record| record.earlier) {
            Some(Earlier::Done(result, notes)) => (DONE, encode(result), notes),
            Some(Earlier::Started(notes)) => (STARTED, 0, notes),
            None => (STARTED, 0, Notes::default()),
        };
        line[word::STAGE].store(stage | attempts << 8, Ordering::Release);
        line[word::RESULT].store(result.cast_unsigned(), Ordering::Release);
        line[word::NUMBER].store(notes.number.map_or(0, |number| number + 1), Ordering::Release);
        line[word::NODE].store(notes.node.unwrap_or(0), Ordering::Release);
        line[word::NOTE].store(notes.note, Ordering::Release);
        line[word::SEQUENCE].store(self.next_sequence(record.is_some()), Ordering::Release);
        line[word::UNIQUE].store(unique & !RESENT, Ordering::Release);
        let earlier = record.map(|record| record.earlier);
        let is_poisoned = record.is_some_and(|record| record.was_alone);
        let alone = (attempts >= MAX_ATTEMPTS && !is_poisoned).then(|| Alone::wait(line));
        fail_point::reach(Stage::Begun);
        Running { line, earlier, is_poisoned, _alone: alone, _busy: busy }
    }

    /// Returns how many requests were sent again since the mount was made.
    pub(crate) fn resent_requests(&self) -> u64 {
        self.memory.line(mark::JOURNAL)[2].load(Ordering::Relaxed)
    }

    fn resent(&self, unique: u64) -> Option<Record> {
        self.memory.line(mark::JOURNAL)[2].fetch_add(1, Ordering::Relaxed);
        self.record(unique)
    }

    fn record(&self, unique: u64) -> Option<Record> {
        self.earlier
            .iter()
            .filter(|record| record.unique == unique)
            .max_by_key(|record| record.sequence)
            .copied()
    }

    /// A fresh number orders the records of a request that was sent twice. Other requests need no order.
    fn next_sequence(&self, is_resent: bool) -> u64 {
        let counter = &self.memory.line(mark::JOURNAL)[0];
        if is_resent {
            counter.fetch_add(1, Ordering::AcqRel) + 1
        } else {
            counter.load(Ordering::Acquire).max(1)
        }
    }

    fn slot(&self) -> usize {
        match SLOT.get() {
            Some((key, slot)) if key == self.key => slot,
            _ => {
                let next: &AtomicU64 = &self.memory.line(mark::JOURNAL)[1];
                let slot = usize::try_from(next.fetch_add(1, Ordering::AcqRel)).unwrap_or(0) % SLOTS;
                SLOT.set(Some((self.key, slot)));
                slot
            }
        }
    }
}

impl Record {
    fn read(line: &Line) -> Option<Self> {
        let unique = line[word::UNIQUE].load(Ordering::Acquire);
        if unique == 0 {
            return None;
        }
        let notes = Notes {
            number: line[word::NUMBER].load(Ordering::Acquire).checked_sub(1),
            node: Some(line[word::NODE].load(Ordering::Acquire)).filter(|node| *node != 0),
            note: line[word::NOTE].load(Ordering::Acquire),
        };
        let stage = line[word::STAGE].load(Ordering::Acquire);
        let earlier = if stage & 0xff == DONE {
            Earlier::Done(decode(line[word::RESULT].load(Ordering::Acquire).cast_signed()), notes)
        } else {
            Earlier::Started(notes)
        };
        let sequence = line[word::SEQUENCE].load(Ordering::Acquire);
        let was_below = stage & BELOW != 0;
        let attempts = ((stage & !(ALONE | BELOW)) >> 8) + u64::from(!was_below);
        let was_alone = stage & ALONE != 0 && !was_below;
        Some(Self { sequence, unique, attempts, was_alone, earlier })
    }
}

impl Running<'_> {
    /// Refuses a request under which workers keep dying.
    ///
    /// # Errors
    /// `EIO` for a poisoned request.
    pub(crate) fn check(&self) -> Result<(), Errno> {
        if self.is_poisoned {
            tracing::error!("a request that ended three workers is refused");
            return Err(Errno::IO);
        }
        Ok(())
    }

    /// Runs a call that waits for the disk, or may.
    pub(crate) fn below<T>(&self, call: impl FnOnce() -> T) -> T {
        self.line[word::STAGE].fetch_or(BELOW, Ordering::AcqRel);
        let result = call();
        self.line[word::STAGE].fetch_and(!BELOW, Ordering::AcqRel);
        result
    }

    /// Records the handle number that the request entered.
    pub(crate) fn note_number(&self, number: u64) {
        self.line[word::NUMBER].store(number + 1, Ordering::Release);
    }

    /// Records the node whose reference the request counted.
    pub(crate) fn note_node(&self, node: u64) {
        self.line[word::NODE].store(node, Ordering::Release);
    }

    /// Records that what an earlier attempt had entered is given back.
    pub(crate) fn forget_number(&self) {
        self.line[word::NUMBER].store(0, Ordering::Release);
    }

    /// Records that the reference which an earlier attempt had counted is given back.
    pub(crate) fn forget_node(&self) {
        self.line[word::NODE].store(0, Ordering::Release);
    }

    /// Records a number that the operation itself needs to know.
    pub(crate) fn note(&self, value: u64) {
        self.line[word::NOTE].store(value, Ordering::Release);
    }

    /// Records the result. After this the request must not be carried out again.
    pub(crate) fn finish(&self, result: Result<i64, Errno>) {
        fail_point::reach(Stage::Done);
        self.line[word::RESULT].store(encode(result).cast_unsigned(), Ordering::Release);
        let attempts = self.line[word::STAGE].load(Ordering::Acquire) & !0xff;
        self.line[word::STAGE].store(DONE | attempts, Ordering::Release);
        fail_point::reach(Stage::Finished);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        fail_point::reach(Stage::Answered);
    }
}

fn slot_line(memory: &SharedMemory, slot: usize) -> &Line {
    memory.line(JOURNAL.first + slot * LINES_PER_SLOT)
}

fn second_line(memory: &SharedMemory, slot: usize) -> &Line {
    memory.line(JOURNAL.first + slot * LINES_PER_SLOT + 1)
}

/// Results are sizes and numbers, never negative; an errno is stored negated.
fn encode(result: Result<i64, Errno>) -> i64 {
    result.unwrap_or_else(|errno| -i64::from(errno.raw_os_error()))
}

fn decode(value: i64) -> Result<i64, Errno> {
    match i32::try_from(-value) {
        Ok(errno) if errno > 0 => Err(Errno::from_raw_os_error(errno)),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn memory() -> Arc<SharedMemory> {
        let file = rustix::fs::memfd_create("journal", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        crate::state::open(file.as_fd()).unwrap().0
    }

    /// What `work` leaves behind when its worker dies.
    fn dead_worker(memory: &Arc<SharedMemory>, work: impl FnOnce(&Journal) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| work(&Journal::open(memory.clone()))).join().unwrap();
        });
    }

    #[test]
    fn resent_request_is_answered_from_its_result() {
        let memory = memory();
        dead_worker(&memory, |journal| {
            let running = journal.begin(42);
            running.note_number(0);
            running.note_node(7);
            running.finish(Err(Errno::EXIST));
        });
        let journal = Journal::open(memory);
        let notes = Notes { number: Some(0), node: Some(7), note: 0 };
        assert_eq!(journal.begin(42 | RESENT).earlier, Some(Earlier::Done(Err(Errno::EXIST), notes)));
        assert_eq!(journal.begin(44 | RESENT).earlier, None);
        assert_eq!(journal.begin(42).earlier, None, "a number without the bit is a new request");
        assert_eq!(journal.resent_requests(), 2);
    }

    #[test]
    fn record_survives_a_successor_that_dies_before_it_sees_the_request() {
        let memory = memory();
        dead_worker(&memory, |journal| journal.begin(42).note(5));
        dead_worker(&memory, |journal| journal.begin(100).finish(Ok(1)));
        let journal = Journal::open(memory);
        let earlier = journal.begin(42 | RESENT).earlier;
        assert_eq!(earlier, Some(Earlier::Started(Notes { note: 5, ..Notes::default() })));
    }

    /// What a worker leaves that dies while it carries `unique` out as the only suspected request.
    fn die_alone_with(journal: &Journal, unique: u64) {
        let running = journal.begin(unique);
        assert!(running.check().is_ok());
        let line = running.line;
        assert_ne!(line[word::STAGE].load(Ordering::Acquire) & ALONE, 0);
        drop(running);
        line[word::STAGE].fetch_or(ALONE, Ordering::AcqRel);
    }

    #[test]
    fn request_is_poisoned_when_a_worker_dies_under_it_alone() {
        let memory = memory();
        dead_worker(&memory, |journal| assert!(journal.begin(42).check().is_ok()));
        dead_worker(&memory, |journal| assert!(journal.begin(42 | RESENT).check().is_ok()));
        dead_worker(&memory, |journal| die_alone_with(journal, 42 | RESENT));
        dead_worker(&memory, |journal| {
            assert_eq!(journal.begin(42 | RESENT).check(), Err(Errno::IO));
            assert!(journal.begin(46 | RESENT).check().is_ok(), "only that request");
        });
    }

    #[test]
    fn requests_that_were_only_under_way_as_well_are_not_poisoned() {
        let memory = memory();
        for resent in [0, RESENT] {
            let journal = Journal::open(memory.clone());
            std::thread::scope(|scope| {
                for unique in [42, 44, 46] {
                    let journal = &journal;
                    scope.spawn(move || assert!(journal.begin(unique | resent).check().is_ok()));
                }
            });
        }
        // 44 is done before its worker dies under 42; the turn of 46 did not come.
        dead_worker(&memory, |journal| drop(journal.begin(44 | RESENT)));
        dead_worker(&memory, |journal| die_alone_with(journal, 42 | RESENT));
        let journal = Journal::open(memory);
        assert!(journal.begin(44 | RESENT).check().is_ok());
        assert!(journal.begin(46 | RESENT).check().is_ok());
        assert_eq!(journal.begin(42 | RESENT).check(), Err(Errno::IO));
    }

    #[test]
    fn request_that_waits_for_the_disk_is_not_to_blame_for_deaths() {
        let memory = memory();
        for resent in [0, RESENT, RESENT, RESENT, RESENT] {
            dead_worker(&memory, |journal| {
                let running = journal.begin(42 | resent);
                assert!(running.check().is_ok());
                assert!(running._alone.is_none(), "it is not suspected");
                let line = running.line;
                running.below(|| assert_ne!(line[word::STAGE].load(Ordering::Acquire) & BELOW, 0));
                assert_eq!(line[word::STAGE].load(Ordering::Acquire) & BELOW, 0);
                line[word::STAGE].fetch_or(BELOW, Ordering::AcqRel);
            });
        }
        dead_worker(&memory, |journal| drop(journal.begin(42 | RESENT)));
        dead_worker(&memory, |journal| assert!(journal.begin(42 | RESENT)._alone.is_none(), "one death"));
        dead_worker(&memory, |journal| assert!(journal.begin(42 | RESENT)._alone.is_some(), "two deaths"));
    }

    #[test]
    fn notes_and_results_are_carried_over_to_the_next_attempt() {
        let memory = memory();
        dead_worker(&memory, |journal| {
            let running = journal.begin(42);
            running.note_number(3);
            running.note(9);
        });
        dead_worker(&memory, |journal| journal.begin(44).finish(Err(Errno::EXIST)));
        dead_worker(&memory, |journal| {
            journal.begin(42 | RESENT);
        });
        dead_worker(&memory, |journal| {
            journal.begin(44 | RESENT);
        });
        let journal = Journal::open(memory);
        let notes = Notes { number: Some(3), node: None, note: 9 };
        assert_eq!(journal.begin(42 | RESENT).earlier, Some(Earlier::Started(notes)));
        let done = Earlier::Done(Err(Errno::EXIST), Notes::default());
        assert_eq!(journal.begin(44 | RESENT).earlier, Some(done));
    }

    #[test]
    fn latest_record_of_a_request_counts() {
        let memory = memory();
        dead_worker(&memory, |journal| journal.begin(42).note(1));
        dead_worker(&memory, |journal| journal.begin(42 | RESENT).finish(Ok(9)));
        let journal = Journal::open(memory);
        let notes = Notes { note: 1, ..Notes::default() };
        assert_eq!(journal.begin(42 | RESENT).earlier, Some(Earlier::Done(Ok(9), notes)));
    }

    #[test]
    fn registration_that_was_not_finished_is_known_until_it_is_settled() {
        let memory = memory();
        dead_worker(&memory, |journal| {
            journal.note_registering(Some(7));
            journal.note_registering(None);
        });
        assert_eq!(Journal::open(memory.clone()).unfinished_registration(), None);
        dead_worker(&memory, |journal| journal.note_registering(Some(9)));
        dead_worker(&memory, |journal| journal.note_registering(Some(0)));
        let journal = Journal::open(memory.clone());
        assert_eq!(journal.unfinished_registration(), Some(0));
        journal.settle_registrations();
        assert_eq!(Journal::open(memory).unfinished_registration(), None);
    }

    proptest::proptest! {
        #[test]
        fn result_survives_the_journal(value in 0_i64..i64::MAX, errno in 1_i32..4096) {
            proptest::prop_assert_eq!(decode(encode(Ok(value))), Ok(value));
            let errno = Errno::from_raw_os_error(errno);
            proptest::prop_assert_eq!(decode(encode(Err(errno))), Err(errno));
        }
    }
}
