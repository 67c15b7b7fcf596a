use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::PathBuf,
};

use super::{Work, ok};
use crate::random::Random;

/// Files that are open for reading only, and as many for writing as well.
const FILES: usize = 200;
const WORDS: usize = 64;

struct Open {
    path: PathBuf,
    reader: File,
    writer: File,
    number: u64,
}

fn content(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(WORDS)
}

fn open(path: PathBuf, number: u64) -> Open {
    let reader = ok("open for reading", File::open(&path));
    let writer = ok("open for writing", OpenOptions::new().read(true).write(true).open(&path));
    Open { path, reader, writer, number }
}

/// Hundreds of descriptors stay open all the time, each with its own file behind it.
pub(super) fn open_files_stay_open(work: &Work) {
    let mut files: Vec<Open> = (0..FILES)
        .map(|index| {
            let path = work.mounted.join(index.to_string());
            ok("write", fs::write(&path, content(index as u64)));
            open(path, index as u64)
        })
        .collect();
    let mut random = Random::new(work.seed);
    for step in FILES as u64.. {
        if !work.goes_on() {
            break;
        }
        let file = &mut files[random.below(FILES)];
        check(file);
        match random.below(20) {
            0..5 => {
                file.number = step;
                ok("write", file.writer.write_all_at(&content(step), 0));
            }
            // Opened again, and closed.
            5 => *file = open(file.path.clone(), file.number),
            _ => {}
        }
    }
    for file in &files {
        check(file);
        let below = work.backing.join(file.path.file_name().unwrap());
        assert_eq!(ok("read below", fs::read(&below)), content(file.number), "{}", below.display());
    }
}

fn check(open: &Open) {
    for file in [&open.reader, &open.writer] {
        let mut found = vec![0; WORDS * 8];
        ok("read", file.read_exact_at(&mut found, 0));
        assert_eq!(found, content(open.number), "{}", open.path.display());
    }
}
