use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
};

use super::{Work, ok};
use crate::random::Random;

/// Files that are open and deleted at the same time.
const FILES: usize = 30;
const SIZE: usize = 16 << 10;

struct Deleted {
    file: File,
    content: Vec<u8>,
    /// Steps until it is closed.
    left: usize,
}

/// Files whose last name is gone can be read, written, measured and truncated until they are closed.
pub(super) fn deleted_files_work_on(work: &Work) {
    let mut random = Random::new(work.seed);
    let mut deleted: Vec<Deleted> = Vec::new();
    let mut number = 0_u64;
    while work.goes_on() {
        if deleted.len() < FILES {
            deleted.push(delete_an_open_file(work, number, &mut random));
            number += 1;
        }
        let index = random.below(deleted.len());
        use_file(&mut deleted[index], &mut random);
        if deleted[index].left == 0 {
            deleted.swap_remove(index);
        }
    }
    deleted.iter_mut().for_each(|file| use_file(file, &mut random));
}

fn delete_an_open_file(work: &Work, number: u64, random: &mut Random) -> Deleted {
    let path = work.mounted.join(format!("deleted-{number}"));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
    let file = ok("create", file);
    let content = vec![number as u8; SIZE];
    ok("write", file.write_all_at(&content, 0));
    if number.is_multiple_of(3) {
        // Gone by a rename over it.
        let other = work.mounted.join(format!("other-{number}"));
        ok("create another", File::create(&other));
        ok("rename over an open file", fs::rename(&other, &path));
    }
    ok("unlink", fs::remove_file(&path));
    Deleted { file, content, left: random.between(20..2_000) }
}

fn use_file(deleted: &mut Deleted, random: &mut Random) {
    let Deleted { file, content, left } = deleted;
    *left = left.saturating_sub(1);
    let stat = ok("fstat a deleted file", file.metadata());
    assert_eq!((stat.nlink(), stat.len()), (0, content.len() as u64));
    let offset = random.below(SIZE - 8);
    let word = random.next().to_le_bytes();
    ok("write a deleted file", file.write_all_at(&word, offset as u64));
    content.resize(content.len().max(offset + 8), 0);
    content[offset..offset + 8].copy_from_slice(&word);
    if random.below(16) == 0 {
        let size = random.below(SIZE);
        ok("truncate a deleted file", file.set_len(size as u64));
        content.resize(size, 0);
    }
    let mut found = vec![0; content.len()];
    ok("read a deleted file", file.read_exact_at(&mut found, 0));
    assert!(found == *content, "a deleted file has changed");
}
