//! System calls that move or reserve bytes inside the kernel: each must do what the filesystem below would do.

use std::{
    fs::{self, File, OpenOptions},
    io::{Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, copy_file_range, fallocate, seek, sendfile},
    io::Errno,
};

use super::ground::{Ground, on_every_filesystem};

const BLOCK: u64 = 4096;

fn read_write(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) + at / 251 + seed) as u8).collect()
}

fn copy_file_range_copies_data(ground: &Ground) {
    let data = pattern(3_000_001, 1);
    fs::write(ground.mounted.join("from"), &data).unwrap();
    let source = File::open(ground.mounted.join("from")).unwrap();
    let target = read_write(&ground.mounted.join("to"));
    let (mut read_at, mut write_at) = (0_u64, 1000_u64);
    loop {
        let copied =
            copy_file_range(&source, Some(&mut read_at), &target, Some(&mut write_at), 1 << 30).unwrap();
        if copied == 0 {
            break;
        }
    }
    assert_eq!(read_at, data.len() as u64);
    for view in [&ground.mounted, &ground.backing] {
        let found = fs::read(view.join("to")).unwrap();
        assert_eq!(found.len(), data.len() + 1000);
        assert!(found[..1000].iter().all(|byte| *byte == 0));
        assert!(found[1000..] == data[..], "copied bytes differ below {}", view.display());
    }

    // Inside one file, without and with overlap.
    let (mut from, mut to) = (0_u64, 3_001_001_u64);
    assert_eq!(copy_file_range(&target, Some(&mut from), &target, Some(&mut to), 5000).unwrap(), 5000);
    let (mut from, mut to) = (0_u64, 10_u64);
    assert_eq!(copy_file_range(&target, Some(&mut from), &target, Some(&mut to), 5000), Err(Errno::INVAL));
    let append = OpenOptions::new().append(true).open(ground.mounted.join("to")).unwrap();
    assert_eq!(copy_file_range(&source, Some(&mut 0), &append, None, 10), Err(Errno::BADF));
}

/// From the plain filesystem into the workspace and back, as `cp` and `install` do.
fn copy_file_range_crosses_the_mount(ground: &Ground) {
    let data = pattern(400_000, 9);
    let outside = tempfile::tempfile().unwrap();
    outside.write_all_at(&data, 0).unwrap();
    let inside = read_write(&ground.mounted.join("inside"));
    match copy_file_range(&outside, Some(&mut 0), &inside, Some(&mut 0), data.len()) {
        Ok(copied) => {
            let found = fs::read(ground.backing.join("inside")).unwrap();
            assert!(found[..] == data[..copied]);
        }
        // The kernel copies between different filesystem types only by read and write in the caller.
        Err(error) => assert_eq!(error, Errno::XDEV),
    }
}

fn sendfile_copies_data(ground: &Ground) {
    let data = pattern(1_500_003, 2);
    fs::write(ground.mounted.join("from"), &data).unwrap();
    let source = File::open(ground.mounted.join("from")).unwrap();
    let target = read_write(&ground.mounted.join("to"));
    let mut sent = 0;
    while sent < data.len() {
        let count = sendfile(&target, &source, None, data.len() - sent).unwrap();
        assert_ne!(count, 0, "sendfile stopped after {sent} bytes");
        sent += count;
    }
    assert!(fs::read(ground.mounted.join("to")).unwrap() == data);
    assert!(fs::read(ground.backing.join("to")).unwrap() == data);
}

/// One call of a fallocate series.
struct Allocation(FallocateFlags, u64, u64);

/// Applies the series to a new file and describes everything a program can see of each step.
fn allocate_series(path: &Path) -> Vec<String> {
    let keep = FallocateFlags::KEEP_SIZE;
    let series = [
        Allocation(FallocateFlags::empty(), 0, 10 * BLOCK),
        Allocation(keep, 10 * BLOCK, 10 * BLOCK),
        Allocation(FallocateFlags::empty(), 11 * BLOCK + 5, 100),
        Allocation(FallocateFlags::PUNCH_HOLE | keep, 2 * BLOCK, BLOCK),
        Allocation(FallocateFlags::PUNCH_HOLE | keep, 3 * BLOCK + 17, 3 * BLOCK + 5),
        Allocation(FallocateFlags::PUNCH_HOLE | keep, 100 * BLOCK, BLOCK),
        Allocation(FallocateFlags::PUNCH_HOLE, 0, BLOCK),
        Allocation(FallocateFlags::ZERO_RANGE, 7 * BLOCK + 1, 2 * BLOCK),
        Allocation(FallocateFlags::ZERO_RANGE | keep, 11 * BLOCK, 20 * BLOCK),
        Allocation(FallocateFlags::ZERO_RANGE, 11 * BLOCK, 20 * BLOCK),
        Allocation(FallocateFlags::empty(), 0, 0),
        Allocation(FallocateFlags::empty(), u64::MAX >> 2, u64::MAX >> 1),
    ];
    let file = read_write(path);
    file.write_all_at(&pattern(8 * BLOCK as usize + 77, 5), 0).unwrap();
    series
        .iter()
        .map(|Allocation(flags, offset, len)| {
            let result = fallocate(&file, *flags, *offset, *len);
            let bytes = fs::read(path).unwrap();
            let sum =
                bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(131).wrapping_add(u64::from(*byte)));
            let size = file.metadata().unwrap().size();
            format!("{flags:?} {offset}+{len}: {result:?}, size {size}, content {sum:x}")
        })
        .collect()
}

fn fallocate_modes_match_the_backing(ground: &Ground) {
    let expected = allocate_series(&ground.backing.join("plain"));
    let found = allocate_series(&ground.mounted.join("guarded"));
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert!(expected[0].contains("Ok"), "the filesystem below cannot fallocate: {}", expected[0]);
    assert!(
        fs::read(ground.backing.join("guarded")).unwrap() == fs::read(ground.backing.join("plain")).unwrap()
    );
}

/// FUSE accepts only the modes that keep data in place; programs fall back on EOPNOTSUPP.
fn collapse_and_insert_range_are_refused_or_exact(ground: &Ground) {
    let path = ground.mounted.join("shifted");
    let data = pattern(6 * BLOCK as usize, 3);
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        fs::write(&path, &data).unwrap();
        let file = read_write(&path);
        match fallocate(&file, mode, BLOCK, BLOCK) {
            Ok(()) => {
                let size = file.metadata().unwrap().size();
                let expected = if mode == FallocateFlags::COLLAPSE_RANGE { 5 * BLOCK } else { 7 * BLOCK };
                assert_eq!(size, expected);
            }
            Err(error) => {
                assert_eq!(error, Errno::OPNOTSUPP);
                assert!(fs::read(&path).unwrap() == data, "a refused {mode:?} changed the file");
            }
        }
    }
}

fn holes(file: &File) -> Vec<(u64, u64)> {
    let end = file.metadata().unwrap().size();
    let mut extents = Vec::new();
    let mut position = 0;
    while position < end {
        let data = match seek(file, rustix::fs::SeekFrom::Data(position)) {
            Ok(data) => data,
            Err(error) => {
                assert_eq!(error, Errno::NXIO);
                break;
            }
        };
        let hole = seek(file, rustix::fs::SeekFrom::Hole(data)).unwrap();
        extents.push((data, hole));
        position = hole;
    }
    extents
}

fn seek_data_and_hole_match_the_backing(ground: &Ground) {
    let path = ground.mounted.join("sparse");
    let mut file = read_write(&path);
    for block in [3_u64, 4, 64, 200] {
        file.write_all_at(&[7; BLOCK as usize], block * BLOCK).unwrap();
    }
    file.set_len(1024 * BLOCK).unwrap();
    file.sync_all().unwrap();
    let found = holes(&file);
    assert_eq!(found, holes(&File::open(ground.backing.join("sparse")).unwrap()));
    assert_eq!(found, holes(&File::open(&path).unwrap()));
    assert_eq!(found, [(3 * BLOCK, 5 * BLOCK), (64 * BLOCK, 65 * BLOCK), (200 * BLOCK, 201 * BLOCK)]);
    assert_eq!(seek(&file, rustix::fs::SeekFrom::Data(1024 * BLOCK)), Err(Errno::NXIO));
    assert_eq!(seek(&file, rustix::fs::SeekFrom::Hole(5000 * BLOCK)), Err(Errno::NXIO));
    assert_eq!(seek(&file, rustix::fs::SeekFrom::Data(900 * BLOCK)), Err(Errno::NXIO));
    assert_eq!(file.seek(SeekFrom::End(-1)).unwrap(), 1024 * BLOCK - 1);
    assert!(file.seek(SeekFrom::Current(-2000 * 4096)).is_err());
}

/// A buffer whose start is aligned for O_DIRECT.
fn aligned(len: usize) -> (Vec<u8>, usize) {
    let buffer = vec![0_u8; len + BLOCK as usize];
    let start = buffer.as_ptr().align_offset(BLOCK as usize);
    (buffer, start)
}

fn direct_io_reads_and_writes(ground: &Ground) {
    let path = ground.mounted.join("direct");
    let len = 64 * BLOCK as usize;
    let data = pattern(len, 11);
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path)
        .unwrap();
    let (mut buffer, start) = aligned(len);
    buffer[start..start + len].copy_from_slice(&data);
    assert_eq!(direct.write_at(&buffer[start..start + len], 0).unwrap(), len);
    assert!(fs::read(&path).unwrap() == data);
    assert!(fs::read(ground.backing.join("direct")).unwrap() == data);

    let buffered = OpenOptions::new().write(true).open(&path).unwrap();
    buffered.write_all_at(b"buffered", 2 * BLOCK).unwrap();
    for flags in [libc::O_RDONLY, libc::O_RDWR] {
        let reader = OpenOptions::new()
            .read(true)
            .write(flags == libc::O_RDWR)
            .custom_flags(libc::O_DIRECT)
            .open(&path)
            .unwrap();
        buffer.fill(0);
        let (mut at, mut total) = (start, 0);
        while total < len {
            let count = reader.read_at(&mut buffer[at..start + len], total as u64).unwrap();
            assert_ne!(count, 0);
            total += count;
            at += count;
        }
        assert_eq!(&buffer[start + 2 * BLOCK as usize..][..8], b"buffered");
        assert!(buffer[start..start + 2 * BLOCK as usize] == data[..2 * BLOCK as usize]);
        assert_eq!(reader.read_at(&mut buffer[start..start + BLOCK as usize], len as u64).unwrap(), 0);
    }
}

on_every_filesystem!(
    copy_file_range_copies_data,
    copy_file_range_crosses_the_mount,
    sendfile_copies_data,
    fallocate_modes_match_the_backing,
    collapse_and_insert_range_are_refused_or_exact,
    seek_data_and_hole_match_the_backing,
    direct_io_reads_and_writes,
);
