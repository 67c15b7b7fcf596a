//! What a growing file is charged without a look at it.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;

use super::*;
use crate::quota::{Bounds, Cells, Ledger, Limits, ScopeKey};
use crate::sys::shared_memory::{LINE_BYTES, LINES_PER_PAGE};

const NODE: u64 = 7;

/// A file and its books.
struct Books {
    ledger: Arc<Ledger>,
    charging: Charging,
    charge: Arc<Charge>,
    file: File,
}

impl Books {
    fn new() -> Self {
        let ledger = Ledger::new();
        let account = ledger.attach("p", 1000, None, 1, Cells::private());
        let memory = rustix::fs::memfd_create("books", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let memory = SharedMemory::map(memory.as_fd(), LINES_PER_PAGE * LINE_BYTES).unwrap();
        let charging = Charging::new(account, Accounting::Allocated, Arc::new(memory));
        let charge = charging.entry(NODE);
        Self { ledger, charging, charge, file: tempfile::tempfile().unwrap() }
    }

    fn admit(&self, offset: u64, length: usize) -> Result<Admitted<'_>, Errno> {
        self.charging.admit_write(NODE, &self.charge, self.file.as_fd(), offset, length)
    }

    /// Returns by how much the charge grew.
    fn settle(&self, admitted: Admitted<'_>, offset: u64, written: usize) -> i64 {
        self.charging.settle_write(NODE, &self.charge, self.file.as_fd(), admitted, offset, written)
    }

    fn write(&self, offset: u64, length: usize) -> Result<usize, Errno> {
        let admitted = self.admit(offset, length)?;
        let written = self.file.write_at(&vec![7; admitted.length], offset).unwrap();
        self.settle(admitted, offset, written);
        Ok(written)
    }

    /// Runs something that may leave holes or allocate beyond the end.
    fn cut(&self, cut: impl FnOnce()) {
        let mut admitted = self.charging.admit_change(NODE, &self.charge, self.file.as_fd()).unwrap();
        self.charging.begin_cut(&self.charge, &mut admitted);
        cut();
        self.charging.settle_change(NODE, &self.charge, self.file.as_fd(), admitted);
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, length: u64) {
        self.cut(|| rustix::fs::fallocate(&self.file, mode, offset, length).unwrap());
    }

    fn used(&self) -> u64 {
        self.charging.account.used_bytes()
    }

    #[track_caller]
    fn assert_exact(&self) {
        let stat = rustix::fs::fstat(&self.file).unwrap();
        let bytes = Accounting::Allocated.charge_of_open(&stat);
        assert_eq!((self.used(), self.charge.state.lock().bytes), (bytes, Some(bytes)));
        assert_eq!(self.charging.pending_word().load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_file_that_grows_is_booked_at_once_and_looked_at_now_and_then() {
    let books = Books::new();
    let mut looks = 0;
    for block in 0..600 {
        books.write(block * BLOCK, BLOCK as usize).unwrap();
        looks += u64::from(!books.charge.is_inferred());
        assert_eq!(books.used(), (block + 1) * BLOCK);
    }
    // The first one, the one with which it begins to glow, and two after a mebibyte.
    assert_eq!(looks, 4);
    books.assert_exact();
    assert_eq!(books.charging.settle_inferred(NODE, &books.charge, books.file.as_fd()), 0);
    assert!(!books.charge.is_inferred());
}

#[test]
fn writes_of_any_length_at_the_end_are_exact() {
    let books = Books::new();
    let mut at = 0;
    for length in (0..400).map(|number| 1 + number * 997 % 9_000) {
        books.write(at, length).unwrap();
        at += length as u64;
        books.assert_exact();
    }
    // Some begin within the file.
    for length in (0..100).map(|number| 1 + number * 997 % 9_000) {
        let from = at - 3_000;
        books.write(from, length).unwrap();
        at = at.max(from + length as u64);
        books.assert_exact();
    }
}

#[test]
fn a_write_that_is_cut_before_it_is_booked_is_looked_at() {
    for size in [0, 2 * BLOCK, 9 * BLOCK] {
        let books = Books::new();
        (0..8).for_each(|block| _ = books.write(block * BLOCK, BLOCK as usize).unwrap());
        assert!(books.charge.is_inferred());
        let admitted = books.admit(8 * BLOCK, BLOCK as usize).unwrap();
        books.file.write_all_at(&[7; BLOCK as usize], 8 * BLOCK).unwrap();
        books.cut(|| books.file.set_len(size).unwrap());
        books.settle(admitted, 8 * BLOCK, BLOCK as usize);
        books.assert_exact();
    }
}

#[test]
fn a_write_that_is_booked_during_a_cut_is_looked_at() {
    let books = Books::new();
    (0..8).for_each(|block| _ = books.write(block * BLOCK, BLOCK as usize).unwrap());
    let admitted = books.admit(8 * BLOCK, BLOCK as usize).unwrap();
    books.cut(|| {
        books.file.write_all_at(&[7; BLOCK as usize], 8 * BLOCK).unwrap();
        books.file.set_len(3 * BLOCK).unwrap();
        books.settle(admitted, 8 * BLOCK, BLOCK as usize);
        assert_eq!(books.used(), 3 * BLOCK);
    });
    books.assert_exact();
}

#[test]
fn blocks_beyond_the_end_are_not_booked_twice() {
    let books = Books::new();
    (0..8).for_each(|block| _ = books.write(block * BLOCK, BLOCK as usize).unwrap());
    // With a gap, so that the next writes take what they add.
    books.allocate(FallocateFlags::KEEP_SIZE, 12 * BLOCK, 20 * BLOCK);
    for block in 8..60 {
        books.write(block * BLOCK, BLOCK as usize).unwrap();
        books.assert_exact();
    }
    assert!(books.charge.is_inferred());
}

#[test]
fn blocks_that_the_filesystem_took_for_itself_do_not_end_it() {
    let books = Books::new();
    for block in 0..12 {
        books.write(block * 2 * BLOCK, BLOCK as usize).unwrap();
    }
    rustix::fs::fsync(&books.file).unwrap();
    books.charging.settle_synced(NODE, books.file.as_fd());
    for block in 0..11 {
        books.write((block * 2 + 1) * BLOCK, BLOCK as usize).unwrap();
    }
    for block in 23..40 {
        books.write(block * BLOCK, BLOCK as usize).unwrap();
        books.assert_exact();
    }
    assert!(books.used() > 40 * BLOCK, "it has a block of extents");
    assert!(books.charge.is_inferred());
}

#[test]
fn the_limit_is_met_to_the_block() {
    let books = Books::new();
    let hard = Some(100 * BLOCK);
    let limits = Limits { bytes: Bounds { soft: None, hard }, headroom_bytes: Some(0), ..Limits::default() };
    books.ledger.set_limits(&ScopeKey::Project("p".to_owned()), Some(limits), jiff::Timestamp::now());
    for block in 0..98 {
        books.write(block * BLOCK, BLOCK as usize).unwrap();
    }
    assert!(books.charge.is_inferred());
    assert_eq!(books.write(98 * BLOCK, 5 * BLOCK as usize), Ok(2 * BLOCK as usize));
    assert_eq!(books.write(100 * BLOCK, 1), Err(Errno::DQUOT));
    books.assert_exact();
    assert_eq!(books.used(), 100 * BLOCK);
}

#[test]
fn a_write_that_came_short_is_looked_at() {
    let books = Books::new();
    (0..8).for_each(|block| _ = books.write(block * BLOCK, BLOCK as usize).unwrap());
    for written in [0, 100] {
        let admitted = books.admit(8 * BLOCK, 4 * BLOCK as usize).unwrap();
        books.file.write_all_at(&[7; 100][..written], 8 * BLOCK).unwrap();
        books.settle(admitted, 8 * BLOCK, written);
        assert!(!books.charge.is_inferred());
        books.assert_exact();
    }
}

#[test]
fn growth_beside_cuts_ends_exactly() {
    let books = Books::new();
    std::thread::scope(|scope| {
        for writer in 0..2_u64 {
            let books = &books;
            scope.spawn(move || {
                for number in 0..3_000 {
                    let size = rustix::fs::fstat(&books.file).unwrap().st_size.cast_unsigned();
                    books
                        .write(size.saturating_sub(writer * 10), 1 + (number * 37 % 6_000) as usize)
                        .unwrap();
                }
            });
        }
        scope.spawn(|| {
            for number in 0..1_500_u64 {
                let at = number % 7 * BLOCK;
                match number % 5 {
                    0 => books.cut(|| books.file.set_len(at).unwrap()),
                    1 => {
                        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                        books.allocate(mode, at, 2 * BLOCK);
                    }
                    2 => books.allocate(FallocateFlags::KEEP_SIZE, at, 30 * BLOCK),
                    3 => books.allocate(FallocateFlags::empty(), 0, at + 1),
                    _ => _ = books.charging.settle_inferred(NODE, &books.charge, books.file.as_fd()),
                }
                std::thread::sleep(Duration::from_micros(300));
            }
        });
    });
    books.assert_exact();
}
