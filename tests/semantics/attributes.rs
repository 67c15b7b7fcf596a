//! Times, sizes, block counts, statfs and the sync calls.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink},
    path::Path,
    thread,
    time::Duration,
};

use rustix::{
    fs::{
        AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fdatasync, fsync, futimens, statvfs,
        syncfs, utimensat,
    },
    io::Errno,
};

use super::{
    ground::{Ground, on_every_filesystem},
    sys::{Mapping, Protection},
};

fn at(tv_sec: i64, tv_nsec: i64) -> Timespec {
    Timespec { tv_sec, tv_nsec: tv_nsec as _ }
}

fn times(path: &Path) -> [(i64, i64); 2] {
    let metadata = fs::symlink_metadata(path).unwrap();
    [(metadata.atime(), metadata.atime_nsec()), (metadata.mtime(), metadata.mtime_nsec())]
}

fn ctime(path: &Path) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.ctime(), metadata.ctime_nsec())
}

/// Longer than the tick by which filesystems stamp times.
fn let_time_pass() {
    thread::sleep(Duration::from_millis(20));
}

fn times_are_set_to_the_nanosecond(ground: &Ground) {
    let path = ground.mounted.join("file");
    File::create(&path).unwrap();
    let set = |last_access, last_modification, flags| {
        utimensat(CWD, &path, &Timestamps { last_access, last_modification }, flags)
    };
    set(at(1_000_000_001, 123_456_789), at(2_000_000_002, 987_654_321), AtFlags::empty()).unwrap();
    assert_eq!(times(&path), [(1_000_000_001, 123_456_789), (2_000_000_002, 987_654_321)]);
    assert_eq!(times(&ground.backing.join("file")), times(&path));

    set(at(0, UTIME_OMIT), at(5, 6), AtFlags::empty()).unwrap();
    assert_eq!(times(&path), [(1_000_000_001, 123_456_789), (5, 6)]);
    set(at(7, 8), at(0, UTIME_OMIT), AtFlags::empty()).unwrap();
    assert_eq!(times(&path), [(7, 8), (5, 6)]);
    let before = times(&path);
    set(at(0, UTIME_OMIT), at(0, UTIME_OMIT), AtFlags::empty()).unwrap();
    assert_eq!(times(&path), before);
    set(at(0, UTIME_NOW), at(0, UTIME_OMIT), AtFlags::empty()).unwrap();
    assert!(times(&path)[0].0 > 1_700_000_000);
    assert_eq!(times(&path)[1], (5, 6));

    let file = OpenOptions::new().write(true).open(&path).unwrap();
    futimens(&file, &Timestamps { last_access: at(11, 12), last_modification: at(13, 14) }).unwrap();
    assert_eq!(times(&path), [(11, 12), (13, 14)]);
    assert_eq!(set(at(0, 1_000_000_000), at(0, 0), AtFlags::empty()), Err(Errno::INVAL));

    symlink("file", ground.mounted.join("link")).unwrap();
    let link_times = Timestamps { last_access: at(21, 22), last_modification: at(23, 24) };
    utimensat(CWD, ground.mounted.join("link"), &link_times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(times(&ground.mounted.join("link"))[1], (23, 24));
    assert_eq!(times(&path), [(11, 12), (13, 14)]);
    harness::as_user(4009, 4009, &[], || {
        assert_eq!(set(at(1, 1), at(1, 1), AtFlags::empty()), Err(Errno::PERM));
        let now = at(0, UTIME_NOW);
        assert_eq!(set(now, now, AtFlags::empty()), Err(Errno::ACCESS));
    });
}

fn changes_move_the_right_times(ground: &Ground) {
    let root = &ground.mounted;
    let path = root.join("file");
    fs::write(&path, "x").unwrap();
    let moved = |what: &str, change: &dyn Fn(), modification: bool| {
        let (before_modification, before_change) = (times(&path)[1], ctime(&path));
        let_time_pass();
        change();
        assert!(ctime(&path) > before_change, "{what} must move ctime");
        assert_eq!(times(&path)[1] > before_modification, modification, "mtime after {what}");
        assert_eq!(ctime(&path), ctime(&ground.backing.join("file")), "{what}");
        assert_eq!(times(&path)[1], times(&ground.backing.join("file"))[1], "{what}");
    };
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    moved("write", &|| (&file).write_all(b"y").unwrap(), true);
    moved("ftruncate", &|| file.set_len(100).unwrap(), true);
    moved("truncate to the same size", &|| file.set_len(100).unwrap(), true);
    moved("O_TRUNC", &|| drop(File::create(&path).unwrap()), true);
    moved(
        "chmod",
        &|| fs::set_permissions(&path, fs::metadata(&path).unwrap().permissions()).unwrap(),
        false,
    );
    moved("chown", &|| std::os::unix::fs::chown(&path, Some(4001), None).unwrap(), false);
    moved("link", &|| fs::hard_link(&path, root.join("link")).unwrap(), false);
    moved("unlink of another name", &|| fs::remove_file(root.join("link")).unwrap(), false);
    moved("setxattr", &|| xattr_set(&path), false);
}

fn xattr_set(path: &Path) {
    rustix::fs::setxattr(path, "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
}

/// As on the filesystem below, which is mounted `relatime`: the first read after a change counts.
fn reading_moves_the_access_time(ground: &Ground) {
    let path = ground.mounted.join("file");
    for through in ["read", "mapping"] {
        fs::write(&path, vec![1; 8192]).unwrap();
        let old = Timestamps { last_access: at(1_000_000, 0), last_modification: at(2_000_000, 0) };
        utimensat(CWD, &path, &old, AtFlags::empty()).unwrap();
        let file = File::open(&path).unwrap();
        if through == "read" {
            file.read_exact_at(&mut [0; 10], 0).unwrap();
        } else {
            assert_eq!(Mapping::new(&file, 8192, Protection::Read).unwrap().load(0, 1), [1]);
        }
        drop(file);
        assert!(times(&path)[0].0 > 1_700_000_000, "{through}");
        assert_eq!(times(&path), times(&ground.backing.join("file")), "{through}");
    }
}

fn directory_times_follow_their_entries(ground: &Ground) {
    let directory = ground.mounted.join("directory");
    fs::create_dir(&directory).unwrap();
    let changed = |what: &str, change: &dyn Fn()| {
        let before = (times(&directory)[1], ctime(&directory));
        let_time_pass();
        change();
        let after = (times(&directory)[1], ctime(&directory));
        assert!(
            after.0 > before.0 && after.1 > before.1,
            "{what} must move mtime and ctime of the directory"
        );
        let below = ground.backing.join("directory");
        assert_eq!(after, (times(&below)[1], ctime(&below)), "{what}");
    };
    changed("create", &|| drop(File::create(directory.join("a")).unwrap()));
    changed("rename", &|| fs::rename(directory.join("a"), directory.join("b")).unwrap());
    changed("link", &|| fs::hard_link(directory.join("b"), directory.join("c")).unwrap());
    changed("unlink", &|| fs::remove_file(directory.join("b")).unwrap());
    changed("mkdir", &|| fs::create_dir(directory.join("d")).unwrap());
    changed("rmdir", &|| fs::remove_dir(directory.join("d")).unwrap());
    changed("symlink", &|| symlink("x", directory.join("s")).unwrap());
    changed("move out", &|| fs::rename(directory.join("c"), ground.mounted.join("c")).unwrap());
}

fn sparse_file_occupies_what_was_written(ground: &Ground) {
    const SIZE: u64 = 100 << 20;
    let path = ground.mounted.join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(&[1; 65_536], 50 << 20).unwrap();
    file.sync_all().unwrap();
    let below = fs::metadata(ground.backing.join("sparse")).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.len(), metadata.blocks()), (SIZE, below.blocks()));
    assert!(metadata.blocks() * 512 >= 65_536 && metadata.blocks() * 512 < 1 << 20, "{}", metadata.blocks());
    assert_eq!(metadata.blksize(), below.blksize());
}

fn statfs_is_that_of_the_backing(ground: &Ground) {
    let (seen, below) = (statvfs(&ground.mounted).unwrap(), statvfs(&ground.backing).unwrap());
    assert_eq!(seen.f_blocks * seen.f_frsize, below.f_blocks * below.f_frsize);
    assert_eq!((seen.f_files, seen.f_namemax), (below.f_files, below.f_namemax));
    let free = (seen.f_bavail * seen.f_frsize).abs_diff(below.f_bavail * below.f_frsize);
    assert!(free < 256 << 20, "free space differs by {free} bytes");
    assert!(seen.f_bavail <= seen.f_bfree);
}

fn sync_calls_succeed(ground: &Ground) {
    let path = ground.mounted.join("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"x").unwrap();
    fsync(&file).unwrap();
    fdatasync(&file).unwrap();
    syncfs(&file).unwrap();
    let directory = File::open(&ground.mounted).unwrap();
    fsync(&directory).unwrap();
    fdatasync(&directory).unwrap();
    let read_only = File::open(&path).unwrap();
    fsync(&read_only).unwrap();
    for flag in [libc::O_SYNC, libc::O_DSYNC] {
        let mut synchronous = OpenOptions::new().write(true).custom_flags(flag).open(&path).unwrap();
        synchronous.write_all(b"y").unwrap();
    }
    assert_eq!(fs::read(ground.backing.join("file")).unwrap(), b"y");
}

on_every_filesystem!(
    times_are_set_to_the_nanosecond,
    changes_move_the_right_times,
    reading_moves_the_access_time,
    directory_times_follow_their_entries,
    sparse_file_occupies_what_was_written,
    statfs_is_that_of_the_backing,
    sync_calls_succeed,
);
