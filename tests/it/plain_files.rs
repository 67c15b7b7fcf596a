//! Plain files stay plain: take wsguard away and everything is on the host, bit for bit.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, PermissionsExt, symlink},
    },
    path::Path,
};

use harness::{GuardMount, require, unmount_below};
use rustix::fs::XattrFlags;

use crate::tree;

/// Makes one of everything that a user may have.
fn fill(dir: &Path) {
    let noise: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::create_dir_all(dir.join("deep/er/directory")).unwrap();
    fs::write(dir.join("model.bin"), &noise).unwrap();
    fs::write(dir.join("deep/er/directory/notes.txt"), "notes\n").unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"not \xff\xfe utf-8\n")), "name").unwrap();
    fs::write(dir.join("x".repeat(255)), "long name").unwrap();
    fs::hard_link(dir.join("model.bin"), dir.join("deep/model.link")).unwrap();
    symlink("deep/er", dir.join("short cut")).unwrap();
    symlink("/nowhere/at all", dir.join("dangling")).unwrap();
    let script = dir.join("script.sh");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o750)).unwrap();
    rustix::fs::setxattr(&script, "user.origin", b"a test", XattrFlags::empty()).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    sparse.write_all_at(b"island", 30 << 20).unwrap();
    let appended = File::options().append(true).create(true).open(dir.join("log")).unwrap();
    for line in 0..100 {
        std::io::Write::write_all(&mut &appended, format!("line {line}\n").as_bytes()).unwrap();
    }
    appended.sync_all().unwrap();
}

#[test]
fn every_file_is_on_the_host_after_all_processes_and_the_state_are_gone() {
    require!(fuse);
    let mut mount = GuardMount::new();
    fill(mount.path());
    let through_the_guard = tree::read(mount.path());
    assert!(through_the_guard.len() >= 14, "{:?}", through_the_guard.keys());

    let dir = mount.path().to_path_buf();
    mount.daemon_mut().kill_all();
    assert_eq!(unmount_below(&dir), []);
    assert_eq!(unmount_below(&mount.daemon().runtime_dir()), []);
    fs::remove_dir_all(mount.daemon().state_dir()).unwrap();

    tree::assert_same(&[("through the guard", &through_the_guard), ("plain", &tree::read(&dir))]);
}

#[test]
fn what_was_there_before_is_seen_unchanged_through_the_guard() {
    require!(fuse);
    let mut before = tree::Tree::new();
    let mount = GuardMount::builder().mount_prepared(|dir| {
        fill(dir);
        before = tree::read(dir);
    });
    tree::assert_same(&[
        ("before", &before),
        ("through the guard", &tree::read(mount.path())),
        ("below the mount", &tree::read(mount.backing_path())),
    ]);
}

#[test]
fn the_guard_adds_no_entry_of_its_own_to_the_directory() {
    require!(fuse);
    let mount = GuardMount::new();
    assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 0);
    assert_eq!(fs::read_dir(mount.backing_path()).unwrap().count(), 0);
}
