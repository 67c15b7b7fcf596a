//! Every kind of operation alone: the books are exact after each.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::Write,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink},
    },
    path::Path,
};

use harness::{Mapping, Protection, Run};
use rustix::{
    fs::{FallocateFlags, FileType, Mode, OFlags, RenameFlags, XattrFlags},
    io::Errno,
};

use super::ground::{BLOCK, Ground, on_every_filesystem};

on_every_filesystem!(
    every_operation_is_charged_exactly,
    a_deleted_file_is_charged_until_it_is_closed,
    a_mapping_that_outlives_its_descriptor_is_charged,
);

/// Works in an empty directory of its own.
type Operation = fn(&Path);

fn write(dir: &Path, name: &str, bytes: usize) -> File {
    let file = File::create(dir.join(name)).unwrap();
    file.write_all_at(&vec![7; bytes], 0).unwrap();
    file
}

fn read_write(dir: &Path, name: &str) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join(name)).unwrap()
}

/// A mode that the filesystem does not have changes nothing, which is a case as well.
fn fallocate(file: &File, mode: FallocateFlags, offset: u64, length: u64) {
    match rustix::fs::fallocate(file, mode, offset, length) {
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(errno) => panic!("fallocate {mode:?}: {errno}"),
    }
}

fn rename(dir: &Path, from: &str, to: &str, flags: RenameFlags) {
    let dir = File::open(dir).unwrap();
    match rustix::fs::renameat_with(&dir, from, &dir, to, flags) {
        // Not every filesystem leaves whiteouts.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => panic!("rename with {flags:?}: {errno}"),
    }
}

const OPERATIONS: &[(&str, Operation)] = &[
    ("create", |dir| drop(File::create(dir.join("f")).unwrap())),
    ("one byte", |dir| drop(write(dir, "f", 1))),
    ("10,000 bytes", |dir| drop(write(dir, "f", 10_000))),
    ("5 MiB", |dir| drop(write(dir, "f", 5 << 20))),
    ("append", |dir| {
        write(dir, "f", 3_000);
        let mut file = OpenOptions::new().append(true).open(dir.join("f")).unwrap();
        for _ in 0..40 {
            file.write_all(&[1; 700]).unwrap();
        }
    }),
    ("overwrite", |dir| {
        write(dir, "f", 20_000);
        let file = read_write(dir, "f");
        file.write_all_at(&[2; 9_000], 3_000).unwrap();
        file.write_all_at(&[2; 9_000], 19_000).unwrap();
    }),
    ("sparse write", |dir| {
        let file = write(dir, "f", 10);
        file.write_all_at(b"far", 1 << 20).unwrap();
        file.write_all_at(b"farther", (64 << 20) + 5).unwrap();
    }),
    ("holes filled", |dir| {
        let file = read_write(dir, "f");
        file.set_len(1 << 20).unwrap();
        for block in (0..200).step_by(2) {
            file.write_all_at(&[1; 4096], block * BLOCK).unwrap();
        }
        for block in (1..200).step_by(2) {
            file.write_all_at(&[1; 4096], block * BLOCK).unwrap();
        }
    }),
    ("truncate up", |dir| write(dir, "f", 5_000).set_len(3 << 20).unwrap()),
    ("truncate down", |dir| write(dir, "f", 3 << 20).set_len(5_001).unwrap()),
    ("truncate to nothing", |dir| write(dir, "f", 3 << 20).set_len(0).unwrap()),
    ("truncate by path", |dir| {
        write(dir, "f", 100_000);
        write(dir, "g", 100);
        Run::new("truncate").args(["-s", "33", "f"]).current_dir(dir).ok();
        Run::new("truncate").args(["-s", "99999", "g"]).current_dir(dir).ok();
    }),
    ("truncate down and write on", |dir| {
        let file = write(dir, "f", 100_000);
        file.set_len(10).unwrap();
        file.write_all_at(&[1; 4_000], 10).unwrap();
        file.write_all_at(&[1; 4_000], 60_000).unwrap();
    }),
    ("O_TRUNC", |dir| {
        write(dir, "f", 100_000);
        write(dir, "f", 100);
        write(dir, "g", 100_000);
        let flags = OFlags::RDONLY | OFlags::TRUNC;
        rustix::fs::open(dir.join("g"), flags, Mode::empty()).unwrap();
    }),
    ("fallocate", |dir| {
        fallocate(&write(dir, "f", 100), FallocateFlags::empty(), 0, 1 << 20);
        fallocate(&write(dir, "g", 100), FallocateFlags::empty(), 50_000, 7);
        fallocate(&write(dir, "h", 0), FallocateFlags::empty(), 0, 1);
    }),
    ("fallocate KEEP_SIZE", |dir| {
        let file = write(dir, "f", 100);
        file.set_len(1 << 20).unwrap();
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 19);
        fallocate(&write(dir, "g", 100), FallocateFlags::KEEP_SIZE, 0, 1 << 20);
    }),
    ("fallocate PUNCH_HOLE", |dir| {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&write(dir, "f", 1 << 20), mode, 4_000, 500_000);
        fallocate(&write(dir, "g", 10_000), mode, 0, 1 << 20);
        let file = write(dir, "h", 1 << 20);
        fallocate(&file, mode, 8_192, 65_536);
        file.write_all_at(&[1; 10_000], 20_000).unwrap();
    }),
    ("fallocate ZERO_RANGE", |dir| {
        let keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        fallocate(&write(dir, "f", 1 << 20), FallocateFlags::ZERO_RANGE, 4_000, 500_000);
        fallocate(&write(dir, "g", 10_000), FallocateFlags::ZERO_RANGE, 0, 1 << 20);
        fallocate(&write(dir, "h", 10_000), keep, 5_000, 1 << 20);
    }),
    ("fallocate COLLAPSE_RANGE and INSERT_RANGE", |dir| {
        fallocate(&write(dir, "f", 1 << 20), FallocateFlags::COLLAPSE_RANGE, 8_192, 65_536);
        fallocate(&write(dir, "g", 1 << 20), FallocateFlags::INSERT_RANGE, 8_192, 65_536);
    }),
    ("copy_file_range", |dir| {
        write(dir, "f", 300_000);
        let from = File::open(dir.join("f")).unwrap();
        let to = write(dir, "g", 10);
        let (mut read_at, mut write_at) = (1_000, 9_000);
        while read_at < 250_000 {
            let length = usize::try_from(250_000 - read_at).unwrap();
            let copied =
                rustix::fs::copy_file_range(&from, Some(&mut read_at), &to, Some(&mut write_at), length);
            assert!(copied.unwrap() > 0);
        }
    }),
    ("copy of a whole file", |dir| {
        write(dir, "f", 3 << 20);
        fs::copy(dir.join("f"), dir.join("g")).unwrap();
    }),
    ("mapping stores into holes", |dir| {
        let file = read_write(dir, "f");
        file.set_len(1 << 20).unwrap();
        let mapping = Mapping::new(&file, 1 << 20, Protection::ReadWrite).unwrap();
        for block in (0..256).step_by(3) {
            mapping.store(block * 4096, b"stored");
        }
        mapping.sync().unwrap();
    }),
    ("mapping of a file that grows", |dir| {
        let file = read_write(dir, "f");
        file.write_all_at(&[1; 5_000], 0).unwrap();
        file.set_len(100_000).unwrap();
        let mapping = Mapping::new(&file, 100_000, Protection::ReadWrite).unwrap();
        mapping.store(50_000, b"stored");
        file.set_len(1 << 20).unwrap();
        let longer = Mapping::new(&file, 1 << 20, Protection::ReadWrite).unwrap();
        longer.store((1 << 20) - 10, b"stored");
    }),
    ("hard link, first name removed", |dir| {
        write(dir, "f", 50_000);
        fs::hard_link(dir.join("f"), dir.join("g")).unwrap();
        fs::remove_file(dir.join("f")).unwrap();
    }),
    ("hard link, second name removed", |dir| {
        write(dir, "f", 50_000);
        fs::hard_link(dir.join("f"), dir.join("g")).unwrap();
        fs::remove_file(dir.join("g")).unwrap();
    }),
    ("hard link, both names stay and grow", |dir| {
        write(dir, "f", 50_000);
        fs::hard_link(dir.join("f"), dir.join("g")).unwrap();
        OpenOptions::new().append(true).open(dir.join("g")).unwrap().write_all(&[1; 60_000]).unwrap();
    }),
    ("hard link, both names removed", |dir| {
        write(dir, "f", 50_000);
        fs::hard_link(dir.join("f"), dir.join("g")).unwrap();
        fs::remove_file(dir.join("g")).unwrap();
        fs::remove_file(dir.join("f")).unwrap();
    }),
    ("rename of one hard link over the other", |dir| {
        write(dir, "f", 50_000);
        fs::hard_link(dir.join("f"), dir.join("g")).unwrap();
        fs::rename(dir.join("f"), dir.join("g")).unwrap();
    }),
    ("rename", |dir| {
        write(dir, "f", 50_000);
        fs::create_dir(dir.join("d")).unwrap();
        fs::rename(dir.join("f"), dir.join("d/g")).unwrap();
    }),
    ("rename over a file", |dir| {
        write(dir, "f", 50_000);
        write(dir, "g", 150_000);
        fs::rename(dir.join("f"), dir.join("g")).unwrap();
    }),
    ("rename over one of two links", |dir| {
        write(dir, "f", 50_000);
        write(dir, "g", 150_000);
        fs::hard_link(dir.join("g"), dir.join("h")).unwrap();
        fs::rename(dir.join("f"), dir.join("g")).unwrap();
    }),
    ("rename over an open file", |dir| {
        write(dir, "f", 50_000);
        let open = write(dir, "g", 150_000);
        fs::rename(dir.join("f"), dir.join("g")).unwrap();
        open.write_all_at(&[1; 50_000], 200_000).unwrap();
    }),
    ("rename over an empty directory", |dir| {
        fs::create_dir(dir.join("d")).unwrap();
        fs::create_dir(dir.join("e")).unwrap();
        fs::rename(dir.join("d"), dir.join("e")).unwrap();
    }),
    ("rename EXCHANGE", |dir| {
        write(dir, "f", 50_000);
        fs::create_dir(dir.join("d")).unwrap();
        rename(dir, "f", "d", RenameFlags::EXCHANGE);
    }),
    ("rename WHITEOUT", |dir| {
        write(dir, "f", 50_000);
        rename(dir, "f", "g", RenameFlags::WHITEOUT);
    }),
    ("rename that is refused", |dir| {
        write(dir, "f", 50_000);
        write(dir, "g", 10);
        let handle = File::open(dir).unwrap();
        let refused = rustix::fs::renameat_with(&handle, "f", &handle, "g", RenameFlags::NOREPLACE);
        assert_eq!(refused, Err(Errno::EXIST));
        assert!(fs::rename(dir.join("f"), dir.join("no/such")).is_err());
    }),
    ("unlink", |dir| {
        write(dir, "f", 500_000);
        fs::remove_file(dir.join("f")).unwrap();
        write(dir, "g", 0);
        fs::remove_file(dir.join("g")).unwrap();
    }),
    ("unlink while open, and changes after it", |dir| {
        let file = read_write(dir, "f");
        file.write_all_at(&[1; 50_000], 0).unwrap();
        fs::remove_file(dir.join("f")).unwrap();
        file.write_all_at(&[1; 50_000], 50_000).unwrap();
        file.set_len(20_000).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 1 << 20);
    }),
    ("unlink of one of two links while open", |dir| {
        let file = write(dir, "f", 50_000);
        fs::hard_link(dir.join("f"), dir.join("g")).unwrap();
        fs::remove_file(dir.join("f")).unwrap();
        file.write_all_at(&[1; 50_000], 50_000).unwrap();
    }),
    ("mkdir, rmdir", |dir| {
        fs::create_dir_all(dir.join("a/b/c")).unwrap();
        fs::remove_dir(dir.join("a/b/c")).unwrap();
        let names = (0..300).map(|number| dir.join(format!("a/{number:0200}")));
        names.for_each(|path| drop(File::create(path).unwrap()));
    }),
    ("remove of a tree", |dir| {
        fs::create_dir_all(dir.join("a/b/c")).unwrap();
        write(&dir.join("a/b"), "f", 50_000);
        symlink("f", dir.join("a/b/link")).unwrap();
        fs::remove_dir_all(dir.join("a")).unwrap();
    }),
    ("symlink", |dir| {
        symlink("short", dir.join("short")).unwrap();
        symlink("x".repeat(1_000), dir.join("long")).unwrap();
        fs::remove_file(dir.join("short")).unwrap();
    }),
    ("mknod", |dir| {
        let handle = File::open(dir).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        let types = [FileType::Fifo, FileType::Socket, FileType::RegularFile, FileType::CharacterDevice];
        for (file_type, name) in types.into_iter().zip(["fifo", "socket", "file", "device"]) {
            let device = rustix::fs::makedev(0, 0);
            rustix::fs::mknodat(&handle, name, file_type, mode, device).unwrap();
        }
        fs::remove_file(dir.join("fifo")).unwrap();
    }),
    ("creations that are refused", |dir| {
        write(dir, "f", 10);
        assert!(fs::create_dir(dir.join("f")).is_err());
        assert!(symlink("x", dir.join("f")).is_err());
        assert!(fs::hard_link(dir.join("f"), dir.join("f")).is_err());
        assert!(File::create_new(dir.join("f")).is_err());
        assert!(File::create(dir.join("x".repeat(300))).is_err());
        assert!(fs::remove_dir(dir.join("f")).is_err());
        assert!(fs::remove_file(dir.join("no")).is_err());
    }),
    ("extended attributes", |dir| {
        let file = write(dir, "f", 10);
        for (name, bytes) in [("user.small", 10), ("user.large", 3_000), ("user.huge", 15_000)] {
            let set = rustix::fs::fsetxattr(&file, name, &vec![7; bytes], XattrFlags::empty());
            // Each filesystem has its own end.
            assert!(matches!(set, Ok(()) | Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE)), "{set:?}");
        }
        rustix::fs::fremovexattr(&file, "user.small").unwrap();
        let name = CString::new("user.large").unwrap();
        rustix::fs::setxattr(dir, name.as_c_str(), &[7; 3_000], XattrFlags::empty()).unwrap();
    }),
    ("attributes", |dir| {
        let file = write(dir, "f", 10_000);
        fs::set_permissions(dir.join("f"), fs::Permissions::from_mode(0o4711)).unwrap();
        std::os::unix::fs::chown(dir.join("f"), Some(1234), Some(1234)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }),
    ("O_TMPFILE", |dir| {
        let flags = OFlags::TMPFILE | OFlags::RDWR;
        if let Ok(file) = rustix::fs::open(dir, flags, Mode::from_raw_mode(0o600)) {
            rustix::io::write(&file, &[1; 10_000]).unwrap();
        }
    }),
    ("direct and synchronous writes", |dir| {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(libc::O_DSYNC);
        let file = options.open(dir.join("f")).unwrap();
        file.write_all_at(&[1; 300_000], 0).unwrap();
        file.sync_all().unwrap();
        file.write_all_at(&[1; 300_000], 500_000).unwrap();
        rustix::fs::fsync(file.as_fd()).unwrap();
    }),
    ("many small files", |dir| {
        (0..200).for_each(|number| drop(write(dir, &number.to_string(), number * 37)));
    }),
    ("fragments", |dir| {
        // More extents than an inode holds: blocks of metadata appear when they are written back.
        let file = write(dir, "f", 0);
        for number in 0..600 {
            file.write_all_at(&[1; 4_096], number * 3 * BLOCK).unwrap();
        }
        file.sync_all().unwrap();
        (0..600).step_by(2).for_each(|number| {
            fallocate(
                &file,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                number * 3 * BLOCK,
                BLOCK,
            );
        });
    }),
];

fn every_operation_is_charged_exactly(ground: &mut Ground) {
    ground.assert_exact("nothing");
    let mut failures = Vec::new();
    for (number, (name, operation)) in OPERATIONS.iter().enumerate() {
        let dir = ground.at(&number.to_string());
        fs::create_dir(&dir).unwrap();
        operation(&dir);
        failures.extend(ground.difference().map(|difference| format!("{name}: {difference}")));
    }
    fs::remove_dir_all(ground.at("0")).unwrap();
    failures.extend(ground.difference().map(|difference| format!("removal: {difference}")));
    assert!(failures.is_empty(), "on {:?}:\n{}", ground.below, failures.join("\n"));
}

fn a_deleted_file_is_charged_until_it_is_closed(ground: &mut Ground) {
    let dir = ground.path().to_owned();
    let below = ground.below;
    let held_by = |file: &File| below.charge(&file.metadata().unwrap());
    let unlinked = read_write(&dir, "unlinked");
    unlinked.write_all_at(&[1; 100_000], 0).unwrap();
    fs::remove_file(dir.join("unlinked")).unwrap();
    assert_eq!(ground.difference_with(held_by(&unlinked), 1), None, "unlinked");
    unlinked.write_all_at(&[1; 100_000], 100_000).unwrap();
    assert_eq!(ground.difference_with(held_by(&unlinked), 1), None, "unlinked and grown");
    let replaced = write(&dir, "replaced", 50_000);
    write(&dir, "new", 10);
    fs::rename(dir.join("new"), dir.join("replaced")).unwrap();
    assert_eq!(
        ground.difference_with(held_by(&unlinked) + held_by(&replaced), 2),
        None,
        "unlinked and replaced"
    );
    // It is open, and so is what a worker that is killed now has to remember.
    harness::kill(ground.mount.daemon().worker_pid(), rustix::process::Signal::KILL);
    ground.wait_until_counted();
    assert_eq!(
        ground.difference_with(held_by(&unlinked) + held_by(&replaced), 2),
        None,
        "after another worker has taken over"
    );
    drop(unlinked);
    assert_eq!(ground.difference_with(held_by(&replaced), 1), None, "one is closed");
    drop(replaced);
    ground.assert_exact("both are closed");
}

fn a_mapping_that_outlives_its_descriptor_is_charged(ground: &mut Ground) {
    let file = read_write(ground.path(), "f");
    file.set_len(4 << 20).unwrap();
    let mapping = Mapping::new(&file, 4 << 20, Protection::ReadWrite).unwrap();
    drop(file);
    // The release of the descriptor has been booked.
    ground.assert_exact("the descriptor is closed");
    (0..1024).for_each(|block| mapping.store(block * 4096, b"stored"));
    mapping.sync().unwrap();
    drop(mapping);
    ground.assert_exact("the mapping is gone");
}
