//! Shared mappings against descriptors and against the plain file: one page cache, so no delay and no msync is needed.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use super::{
    ground::{Ground, on_every_filesystem},
    sys::{Mapping, Protection},
};

const SIZE: usize = 64 * 1024;

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut buffer = vec![0; len];
    file.read_exact_at(&mut buffer, offset).unwrap();
    buffer
}

/// numpy.memmap in its modes `w+`, `r+` and `r`.
fn memmap_modes_see_each_other(ground: &Ground) {
    let path = ground.mounted.join("array");
    let created = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    created.write_all_at(&[0], SIZE as u64 - 1).unwrap();
    let w_plus = Mapping::new(&created, SIZE, Protection::ReadWrite).unwrap();
    w_plus.store(0, b"w+");
    w_plus.store(SIZE - 2, b"!!");
    drop(created);

    let r_plus = Mapping::new(&read_write(&path), SIZE, Protection::ReadWrite).unwrap();
    assert_eq!(r_plus.load(0, 2), b"w+");
    r_plus.store(10_000, b"r+");
    let r = Mapping::new(&File::open(&path).unwrap(), SIZE, Protection::Read).unwrap();
    assert_eq!(r.load(0, 2), b"w+");
    assert_eq!(r.load(10_000, 2), b"r+");
    assert_eq!(r.load(SIZE - 2, 2), b"!!");
    w_plus.store(0, b"W!");
    assert_eq!(r.load(0, 2), b"W!");
    w_plus.sync().unwrap();
    drop((w_plus, r_plus, r));
    let below = fs::read(ground.backing.join("array")).unwrap();
    assert_eq!(below.len(), SIZE);
    assert_eq!((&below[..2], &below[10_000..10_002]), (&b"W!"[..], &b"r+"[..]));
}

fn shared_store_is_seen_by_every_descriptor(ground: &Ground) {
    let path = ground.mounted.join("shared");
    fs::write(&path, vec![b'.'; SIZE]).unwrap();
    let writer = read_write(&path);
    let reader = File::open(&path).unwrap();
    let below = File::open(ground.backing.join("shared")).unwrap();
    let mapping = Mapping::new(&writer, SIZE, Protection::ReadWrite).unwrap();
    for round in 0..200_usize {
        let offset = round * 317 % (SIZE - 16);
        let text = format!("store {round:05}");
        mapping.store(offset, text.as_bytes());
        for (name, file) in [("O_RDWR", &writer), ("O_RDONLY", &reader), ("backing", &below)] {
            assert_eq!(read(file, offset as u64, text.len()), text.as_bytes(), "{name}, round {round}");
        }
    }
}

fn write_is_seen_by_every_mapping(ground: &Ground) {
    let path = ground.mounted.join("shared");
    fs::write(&path, vec![b'.'; SIZE]).unwrap();
    let writer = read_write(&path);
    let below = read_write(&ground.backing.join("shared"));
    let writable = Mapping::new(&writer, SIZE, Protection::ReadWrite).unwrap();
    let readable = Mapping::new(&File::open(&path).unwrap(), SIZE, Protection::Read).unwrap();
    let plain = Mapping::new(&below, SIZE, Protection::ReadWrite).unwrap();
    let write_only = OpenOptions::new().write(true).open(&path).unwrap();
    for round in 0..200_usize {
        let offset = round * 911 % (SIZE - 16);
        let text = format!("write {round:05}");
        let (source, file) = match round % 3 {
            0 => ("O_RDWR", &writer),
            1 => ("O_WRONLY", &write_only),
            _ => ("backing", &below),
        };
        file.write_all_at(text.as_bytes(), offset as u64).unwrap();
        for (name, mapping) in [("writable", &writable), ("readable", &readable), ("plain", &plain)] {
            assert_eq!(
                mapping.load(offset, text.len()),
                text.as_bytes(),
                "write by {source}, {name} mapping, round {round}"
            );
        }
    }
}

fn unlinked_open_file_keeps_io_and_mmap(ground: &Ground) {
    let path = ground.mounted.join("gone");
    fs::write(&path, vec![b'a'; SIZE]).unwrap();
    let file = read_write(&path);
    let mapping = Mapping::new(&file, SIZE, Protection::ReadWrite).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!ground.backing.join("gone").exists());

    file.write_all_at(b"written", 100).unwrap();
    assert_eq!(mapping.load(100, 7), b"written");
    mapping.store(200, b"stored");
    assert_eq!(read(&file, 200, 6), b"stored");
    file.set_len(2 * SIZE as u64).unwrap();
    file.write_all_at(b"tail", 2 * SIZE as u64 - 4).unwrap();
    let late = Mapping::new(&file, 2 * SIZE, Protection::ReadWrite).unwrap();
    assert_eq!(late.load(2 * SIZE - 4, 4), b"tail");
    assert_eq!(file.metadata().unwrap().len(), 2 * SIZE as u64);

    fs::write(&path, b"another file").unwrap();
    assert_eq!(read(&file, 100, 7), b"written");
    assert_eq!(fs::read(&path).unwrap(), b"another file");
    file.sync_all().unwrap();
}

fn file_grows_under_a_mapping(ground: &Ground) {
    let path = ground.mounted.join("growing");
    fs::write(&path, vec![b'1'; 4096]).unwrap();
    let file = read_write(&path);
    let mapping = Mapping::new(&file, SIZE, Protection::ReadWrite).unwrap();
    assert_eq!(mapping.load(0, 4096), vec![b'1'; 4096]);
    for size in (8192..=SIZE).step_by(4096) {
        file.write_all_at(&[b'2'; 4096], size as u64 - 4096).unwrap();
        assert_eq!(mapping.load(size - 1, 1), b"2");
        mapping.store(size - 1, b"3");
        assert_eq!(read(&file, size as u64 - 1, 1), b"3");
    }
    file.set_len(SIZE as u64 + 1).unwrap();
    assert_eq!(fs::metadata(ground.backing.join("growing")).unwrap().len(), SIZE as u64 + 1);
}

on_every_filesystem!(
    memmap_modes_see_each_other,
    shared_store_is_seen_by_every_descriptor,
    write_is_seen_by_every_mapping,
    unlinked_open_file_keeps_io_and_mmap,
    file_grows_under_a_mapping,
);
