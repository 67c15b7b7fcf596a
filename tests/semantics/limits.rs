//! Full filesystems and size limits: the caller gets the errno that POSIX names, and deleting helps at once.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::Path,
};

use harness::{Backing, FsKind};
use rustix::{
    fs::{FallocateFlags, fallocate, fdatasync},
    io::Errno,
    process::{Resource, Rlimit, setrlimit},
};

use super::{
    child::{self, Role},
    ground::{Ground, on_every_filesystem},
    sys,
};

const LIMIT: u64 = 65_536;

/// Writes until the filesystem is full; returns the bytes that were accepted.
fn fill(file: &File) -> u64 {
    let chunk = vec![0x5a; 64 * 1024];
    let mut written = 0;
    loop {
        match file.write_at(&chunk, written) {
            Ok(0) => panic!("write returned 0 after {written} bytes"),
            Ok(count) => written += count as u64,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "after {written} bytes: {error}");
                return written;
            }
        }
        assert!(written < 1 << 30, "a filesystem of 24 MiB never fills");
    }
}

fn full_filesystem_gives_enospc_and_recovers(ground: &Ground) {
    let root = &ground.mounted;
    fs::write(root.join("before"), "kept").unwrap();
    let big = File::create(root.join("big")).unwrap();
    let written = fill(&big);
    assert!(written > 4 << 20, "only {written} bytes fit");
    assert!(fs::metadata(root.join("big")).unwrap().len() >= written);
    let mut rest = File::create(root.join("rest"));
    if let Ok(file) = &mut rest {
        assert_eq!(file.write_all(&[1; 200_000]).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(fallocate(&*file, FallocateFlags::empty(), 0, 4 << 20), Err(Errno::NOSPC));
    }
    assert_eq!(fs::read(root.join("before")).unwrap(), b"kept");
    drop((big, rest));
    // What was accepted is there; deleting needs no space.
    assert_eq!(
        fs::read(ground.backing.join("big")).unwrap()[..written as usize].iter().find(|b| **b != 0x5a),
        None
    );
    fs::remove_file(root.join("big")).unwrap();
    rustix::fs::sync();
    let again = File::create(root.join("again")).unwrap();
    again.write_all_at(&vec![7; 2 << 20], 0).unwrap();
    fdatasync(&again).unwrap();
    assert_eq!(fs::metadata(ground.backing.join("again")).unwrap().len(), 2 << 20);
}

mod full_filesystem {
    use super::*;

    const BYTES: u64 = 24 << 20;

    #[test]
    fn native_tmpfs_gives_enospc_and_recovers() {
        full_filesystem_gives_enospc_and_recovers(&Ground::plain(Backing::Tmpfs(BYTES)));
    }

    #[test]
    fn native_ext4_gives_enospc_and_recovers() {
        full_filesystem_gives_enospc_and_recovers(&Ground::plain(Backing::Loop(FsKind::Ext4, BYTES)));
    }

    #[test]
    fn tmpfs_gives_enospc_and_recovers() {
        full_filesystem_gives_enospc_and_recovers(&Ground::guarded(Backing::Tmpfs(BYTES)));
    }

    #[test]
    fn ext4_gives_enospc_and_recovers() {
        full_filesystem_gives_enospc_and_recovers(&Ground::guarded(Backing::Loop(FsKind::Ext4, BYTES)));
    }
}

/// The role of a child: `with_signal` 1 lets SIGXFSZ end the process, 0 ignores it and expects EFBIG.
pub(crate) fn exceed_file_size(path: &Path, with_signal: u32) {
    setrlimit(Resource::Fsize, Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) }).unwrap();
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    if with_signal == 0 {
        sys::ignore_file_size_signal();
    }
    let chunk = vec![3; LIMIT as usize + 1000];
    assert_eq!(file.write_at(&chunk, 0).unwrap() as u64, LIMIT, "the part below the limit is written");
    let beyond = file.write_at(b"x", LIMIT).unwrap_err();
    assert_eq!(beyond.raw_os_error(), Some(libc::EFBIG));
    let grow = file.set_len(LIMIT + 1).unwrap_err();
    assert_eq!(grow.raw_os_error(), Some(libc::EFBIG));
    assert_eq!(fallocate(&file, FallocateFlags::empty(), 0, LIMIT + 1), Err(Errno::FBIG));
    file.set_len(10).unwrap();
}

fn file_size_limit_gives_efbig_or_the_signal(ground: &Ground) {
    let path = ground.mounted.join("limited");
    let polite = child::run_alone(Role::ExceedFileSize, &path, 0);
    assert!(polite.success(), "{polite}");
    assert_eq!(fs::metadata(ground.backing.join("limited")).unwrap().len(), 10);
    let killed = child::run_alone(Role::ExceedFileSize, &path, 1);
    assert_eq!(killed.signal(), Some(libc::SIGXFSZ), "{killed}");
    assert_eq!(fs::metadata(&path).unwrap().len(), LIMIT);
}

fn offsets_beyond_the_filesystem_are_refused(ground: &Ground) {
    let refusals = |root: &Path| {
        let file = File::create(root.join("huge")).unwrap();
        let results = [
            file.write_at(b"x", i64::MAX as u64 - 1).map(drop),
            file.set_len(i64::MAX as u64),
            file.write_at(b"", 5).map(drop),
        ];
        let errnos = results.map(|result| result.err().and_then(|error| error.raw_os_error()));
        drop(fs::remove_file(root.join("huge")));
        errnos
    };
    assert_eq!(refusals(&ground.mounted), refusals(&ground.backing));
}

on_every_filesystem!(file_size_limit_gives_efbig_or_the_signal, offsets_beyond_the_filesystem_are_refused);
