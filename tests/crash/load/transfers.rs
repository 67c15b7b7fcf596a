use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
};

use super::{Work, assert_same, ok};

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 6;

fn block(number: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let words = (0..BLOCK / 8).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    });
    words.collect()
}

/// Writes 1 MiB at a time, syncs, and reads it back by two descriptors, one of which reads in the kernel.
pub(super) fn megabytes_come_back_as_written(work: &Work) {
    let path = work.mounted.join("blocks");
    let writer = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let writer = ok("open blocks", writer);
    let reader = ok("open blocks for reading", File::open(&path));
    let mut model: Vec<usize> = Vec::new();
    let mut number = 0;
    while work.goes_on() {
        let (place, data) = (number % BLOCKS, block(number));
        let offset = (place * BLOCK) as u64;
        assert_eq!(ok("write 1 MiB", writer.write_at(&data, offset)), BLOCK);
        if number % 3 == 0 {
            ok("fsync", writer.sync_all());
        }
        if place == model.len() {
            model.push(number);
        } else {
            model[place] = number;
        }
        for (what, file) in [("writer", &writer), ("reader", &reader)] {
            let mut back = vec![0; BLOCK];
            ok(format!("read 1 MiB by the {what}"), file.read_exact_at(&mut back, offset));
            assert_same(&path, &back, &data);
        }
        number += 1;
    }
    let expected: Vec<u8> = model.into_iter().flat_map(block).collect();
    for path in work.both("blocks") {
        assert_same(&path, &ok("read blocks", fs::read(&path)), &expected);
    }
}
