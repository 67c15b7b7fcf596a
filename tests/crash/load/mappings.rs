use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
};

use harness::{Mapping, Protection};

use super::{Work, assert_same, ok};
use crate::random::Random;

const SIZE: usize = 256 << 10;
const WORD: usize = 16;

/// Stores through a shared mapping and writes by a descriptor are one file, in every mapping and below.
pub(super) fn stores_are_seen(work: &Work) {
    let path = work.mounted.join("mapped");
    ok("write", fs::write(&path, vec![0; SIZE]));
    let open = || OpenOptions::new().read(true).write(true).open(&path);
    let writer = ok("open", open());
    let stores = ok("map", Mapping::new(&writer, SIZE, Protection::ReadWrite));
    let reader = ok("open for reading", File::open(&path));
    let loads = ok("map for reading", Mapping::new(&reader, SIZE, Protection::Read));
    let mut model = vec![0; SIZE];
    let mut random = Random::new(work.seed);
    for step in 0_usize.. {
        let goes_on = work.goes_on();
        let at = random.below(SIZE / WORD) * WORD;
        let word = format!("{step:016}");
        if step % 2 == 0 {
            stores.store(at, word.as_bytes());
        } else {
            assert_eq!(ok("write", writer.write_at(word.as_bytes(), at as u64)), WORD);
        }
        model[at..at + WORD].copy_from_slice(word.as_bytes());
        let mut found = [0; WORD];
        ok("read", reader.read_exact_at(&mut found, at as u64));
        assert_eq!((&found[..], loads.load(at, WORD)), (word.as_bytes(), word.clone().into_bytes()));
        if step % 64 == 0 {
            // Another mapping of another descriptor, made while nobody may be there to answer.
            let late = ok("open", open());
            let late = ok("map", Mapping::new(&late, SIZE, Protection::ReadWrite));
            assert_eq!(late.load(at, WORD), word.as_bytes());
        }
        if step % 512 == 0 {
            ok("msync", stores.sync());
        }
        if step % 512 == 0 || !goes_on {
            for path in work.both("mapped") {
                assert_same(&path, &ok("read", fs::read(&path)), &model);
            }
        }
        if !goes_on {
            return;
        }
    }
}
