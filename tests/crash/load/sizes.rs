use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
};

use rustix::{
    fs::{FallocateFlags, copy_file_range, fallocate},
    io::Errno,
};

use super::{Work, assert_same, ok};
use crate::random::Random;

const MOST: usize = 256 << 10;

/// Truncates, extends, punches, copies and writes; the file is always as a byte string that had the same done to it.
pub(super) fn file_is_as_its_model(work: &Work) {
    let path = work.mounted.join("file");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let file = ok("open", file);
    let mut model = Vec::new();
    let mut random = Random::new(work.seed);
    for step in 0_u64.. {
        let goes_on = work.goes_on();
        change(&file, &mut model, &mut random);
        assert_eq!(ok("fstat", file.metadata()).len(), model.len() as u64, "size after step {step}");
        if step.is_multiple_of(16) || !goes_on {
            for path in work.both("file") {
                assert_same(&path, &ok("read", fs::read(&path)), &model);
            }
        }
        if !goes_on {
            return;
        }
    }
}

fn change(file: &File, model: &mut Vec<u8>, random: &mut Random) {
    let (offset, length) = (random.below(MOST), random.between(1..32 << 10));
    let end = (offset + length).min(model.len());
    match random.below(8) {
        0 => {
            ok("ftruncate", file.set_len(offset as u64));
            model.resize(offset, 0);
        }
        1 => {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if allocated("punch a hole", fallocate(file, mode, offset as u64, length as u64)) && offset < end
            {
                model[offset..end].fill(0);
            }
        }
        2 => {
            let mode = FallocateFlags::ZERO_RANGE;
            if allocated("zero a range", fallocate(file, mode, offset as u64, length as u64)) {
                model.resize(model.len().max(offset + length), 0);
                model[offset..offset + length].fill(0);
            }
        }
        3 => {
            let mode = FallocateFlags::empty();
            if allocated("allocate", fallocate(file, mode, offset as u64, length as u64)) {
                model.resize(model.len().max(offset + length), 0);
            }
        }
        4 if offset < model.len() && offset >= length => copy(file, model, offset, length),
        _ => {
            let data = vec![(random.next() >> 32) as u8 | 1; length];
            assert_eq!(ok("write", file.write_at(&data, offset as u64)), length);
            model.resize(model.len().max(offset + length), 0);
            model[offset..offset + length].copy_from_slice(&data);
        }
    }
}

/// Copies from `offset` to the beginning of the file, which do not overlap.
fn copy(file: &File, model: &mut [u8], offset: usize, length: usize) {
    let (mut from, mut to) = (offset as u64, 0);
    let copied = ok("copy", copy_file_range(file, Some(&mut from), file, Some(&mut to), length));
    assert!(copied > 0 && copied <= length.min(model.len() - offset), "{copied} bytes copied of {length}");
    model.copy_within(offset..offset + copied, 0);
}

/// Whether it was done; not every backing filesystem can.
#[track_caller]
fn allocated(what: &str, result: Result<(), Errno>) -> bool {
    match result {
        Err(Errno::OPNOTSUPP) => false,
        result => {
            ok(what, result);
            true
        }
    }
}
