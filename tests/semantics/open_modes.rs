//! Ninety ordered pairs of ten open modes on one inode. The kernel refuses mixed passthrough and cached opens of an inode
//! with EIO, so any wrong reply to an open shows up here.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};

use super::{
    ground::{Ground, on_every_filesystem},
    sys::{Mapping, Protection},
};

const BLOCK: usize = 4096;

/// Ten ways to open a file.
fn modes() -> [OFlags; 10] {
    [
        OFlags::RDONLY,
        OFlags::RDONLY | OFlags::DIRECT,
        OFlags::WRONLY,
        OFlags::WRONLY | OFlags::APPEND,
        OFlags::WRONLY | OFlags::TRUNC,
        OFlags::WRONLY | OFlags::CREATE | OFlags::SYNC,
        OFlags::RDWR,
        OFlags::RDWR | OFlags::APPEND,
        OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC,
        OFlags::RDWR | OFlags::DIRECT,
    ]
}

/// One opened descriptor and what it may do.
struct Opened {
    file: File,
    flags: OFlags,
}

impl Opened {
    fn open(path: &Path, flags: OFlags, expected: &mut Vec<u8>) -> Result<Opened, Errno> {
        let file = File::from(openat(CWD, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?);
        if flags.contains(OFlags::TRUNC) {
            expected.clear();
        }
        Ok(Opened { file, flags })
    }

    fn reads(&self) -> bool {
        !self.flags.contains(OFlags::WRONLY)
    }

    fn writes(&self) -> bool {
        self.flags.intersects(OFlags::WRONLY | OFlags::RDWR)
    }

    /// Writes one block at the start, or at the end in append mode, and keeps `expected` in step.
    fn write_block(&self, fill: u8, expected: &mut Vec<u8>) {
        let buffer = vec![fill; 2 * BLOCK];
        let start = buffer.as_ptr().align_offset(BLOCK);
        let block = &buffer[start..start + BLOCK];
        // pwrite on an O_APPEND descriptor appends on Linux, whatever the offset.
        self.file.write_all_at(block, 0).unwrap();
        if self.flags.contains(OFlags::APPEND) {
            expected.extend_from_slice(block);
        } else {
            expected.resize(expected.len().max(BLOCK), 0);
            expected[..BLOCK].copy_from_slice(block);
        }
    }

    fn read_all(&self, len: usize) -> Vec<u8> {
        let rounded = len.next_multiple_of(BLOCK) + BLOCK;
        let mut buffer = vec![0; rounded + BLOCK];
        let start = buffer.as_ptr().align_offset(BLOCK);
        let mut total = 0;
        while total < rounded {
            let count = self.file.read_at(&mut buffer[start + total..start + rounded], total as u64).unwrap();
            if count == 0 {
                break;
            }
            total += count;
        }
        buffer[start..start + total].to_vec()
    }

    fn check_content(&self, path: &Path, expected: &mut Vec<u8>, fill: u8) {
        assert_eq!(self.file.metadata().unwrap().len(), expected.len() as u64);
        if !self.reads() {
            return;
        }
        assert!(self.read_all(expected.len()) == *expected, "read(2) differs from what was written");
        if expected.is_empty() {
            return;
        }
        let protection = if self.writes() { Protection::ReadWrite } else { Protection::Read };
        let mapping = Mapping::new(&self.file, expected.len(), protection).unwrap();
        assert!(mapping.load(0, expected.len()) == *expected, "mmap differs from what was written");
        if self.writes() {
            let at = expected.len() - 1;
            mapping.store(at, &[fill]);
            expected[at] = fill;
            assert!(fs::read(path).unwrap() == *expected, "a new reader does not see the store");
        }
    }
}

fn exercise(ground: &Ground, name: &str, first: OFlags, second: OFlags) {
    let path = ground.mounted.join(name);
    let mut expected = vec![b'0'; 2 * BLOCK];
    fs::write(&path, &expected).unwrap();
    let first = Opened::open(&path, first, &mut expected).unwrap();
    first.check_content(&path, &mut expected, b'1');
    let second = Opened::open(&path, second, &mut expected).unwrap();
    for (fill, opened) in [(b'a', &first), (b'b', &second), (b'c', &first)] {
        if opened.writes() {
            opened.write_block(fill, &mut expected);
        }
        first.check_content(&path, &mut expected, fill + 1);
        second.check_content(&path, &mut expected, fill + 2);
        assert!(fs::read(ground.backing.join(name)).unwrap() == expected, "the plain file differs");
    }
    drop(first);
    second.check_content(&path, &mut expected, b'z');
    drop(second);
    assert!(fs::read(&path).unwrap() == expected);
    fs::remove_file(&path).unwrap();
}

fn ninety_ordered_pairs_of_open_modes_coexist(ground: &Ground) {
    let mut pairs = 0;
    for first in modes() {
        for second in modes().into_iter().filter(|second| *second != first) {
            pairs += 1;
            let name = format!("pair-{pairs}");
            println!("{name}: {first:?}, then {second:?}");
            exercise(ground, &name, first, second);
        }
    }
    assert_eq!(pairs, 90);
}

fn same_mode_twice_coexists(ground: &Ground) {
    for (number, mode) in modes().into_iter().enumerate() {
        println!("{mode:?} twice");
        exercise(ground, &format!("twice-{number}"), mode, mode);
    }
}

on_every_filesystem!(ninety_ordered_pairs_of_open_modes_coexist, same_mode_twice_coexists);
