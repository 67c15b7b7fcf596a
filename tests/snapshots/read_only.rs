//! Nothing in a snapshot can be changed; who may take one.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::{PermissionsExt, chown, symlink},
    time::Duration,
};

use harness::{Backing, GuardMount, as_user, require, wait_until};
use rustix::{
    fs::{XattrFlags, setxattr},
    io::Errno,
};

use super::tree::{STRANGER, USER, errno, guarded, make, names, take};

#[test]
fn every_change_in_a_snapshot_is_refused() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    make(mount.path());
    let shown = take(mount.path(), "one");
    let (file, dir) = (shown.join("dir/small"), shown.join("dir"));
    assert_eq!(errno(OpenOptions::new().write(true).open(&file)), Errno::ROFS);
    assert_eq!(errno(OpenOptions::new().append(true).open(&file)), Errno::ROFS);
    assert_eq!(errno(File::create(&file)), Errno::ROFS);
    assert_eq!(errno(File::create(dir.join("new"))), Errno::ROFS);
    assert_eq!(errno(fs::create_dir(dir.join("new"))), Errno::ROFS);
    assert_eq!(errno(symlink("x", dir.join("new"))), Errno::ROFS);
    assert_eq!(errno(fs::remove_file(&file)), Errno::ROFS);
    assert_eq!(errno(fs::remove_dir(shown.join("empty"))), Errno::ROFS);
    assert_eq!(errno(fs::rename(&file, mount.path().join("away"))), Errno::ROFS);
    assert_eq!(errno(fs::rename(mount.path().join("dir/large"), dir.join("in"))), Errno::ROFS);
    assert_eq!(errno(fs::hard_link(&file, mount.path().join("link"))), Errno::ROFS);
    assert_eq!(errno(fs::hard_link(mount.path().join("dir/large"), dir.join("new"))), Errno::ROFS);
    assert_eq!(errno(fs::set_permissions(&file, Permissions::from_mode(0o666))), Errno::ROFS);
    assert_eq!(errno(chown(&file, Some(1), None)), Errno::ROFS);
    let truncated = rustix::fs::open(&file, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::TRUNC, 0.into());
    assert_eq!(truncated.unwrap_err(), Errno::ROFS);
    assert_eq!(setxattr(&file, "user.x", b"1", XattrFlags::empty()), Err(Errno::ROFS));
    assert_eq!(rustix::fs::removexattr(&file, "user.colour"), Err(Errno::ROFS));
    assert_eq!(errno(fs::rename(&shown, mount.path().join(".snapshots/other"))), Errno::ROFS);
    assert_eq!(errno(File::create(mount.path().join(".snapshots/file"))), Errno::ROFS);
    assert_eq!(fs::read(&file).unwrap(), b"small");
}

#[test]
fn owner_removes_a_snapshot_by_rmdir_and_nobody_one_that_is_held() {
    require!(fuse);
    let mount = GuardMount::builder().owner(USER).mount();
    fs::set_permissions(mount.path(), Permissions::from_mode(0o777)).unwrap();
    fs::write(mount.path().join("file"), "as it was").unwrap();
    let (first, second) = (take(mount.path(), "first"), take(mount.path(), "second"));
    let third = take(mount.path(), "third");
    let remove = |uid: u32, path: &std::path::Path| as_user(uid, uid, &[], || fs::remove_dir(path));
    assert_eq!(errno(remove(STRANGER, &first)), Errno::PERM);
    for name in ["latest", "2099-01-01"] {
        let path = mount.path().join(".snapshots").join(name);
        assert!(path.is_dir());
        assert_eq!(errno(remove(USER, &path)), Errno::INVAL, "{name}");
    }
    assert_eq!(errno(remove(USER, &first.join("file"))), Errno::NOTDIR);
    let change = |arguments: &[&str]| {
        mount.daemon().command().current_dir(mount.path()).arg("snapshot").args(arguments).ok()
    };
    change(&["hold", "first"]);
    assert_eq!(errno(remove(USER, &first)), Errno::BUSY);
    assert_eq!(fs::read(first.join("file")).unwrap(), b"as it was");
    change(&["unhold", "first"]);
    remove(USER, &first).unwrap();
    assert_eq!(errno(fs::metadata(&first)), Errno::NOENT);
    assert_eq!(errno(remove(USER, &first)), Errno::NOENT);
    // By the whole label, as root.
    let labels = names(&mount.path().join(".snapshots"));
    assert_eq!(labels.len(), 2, "{labels:?}");
    fs::remove_dir(mount.path().join(".snapshots").join(&labels[0])).unwrap();
    wait_until("the other name to be gone", Duration::from_secs(5), || !second.exists());
    assert_eq!(fs::read(third.join("file")).unwrap(), b"as it was");
    let listed = change(&["ls", "--json"]);
    assert!(!listed.contains("first") && !listed.contains("second") && listed.contains("third"), "{listed}");
}

#[test]
fn many_snapshots_at_once_are_refused_and_told() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    for number in 0..10 {
        take(mount.path(), &format!("s{number}"));
    }
    let one_more = || fs::create_dir(mount.path().join(".snapshots/one-more"));
    assert_eq!(errno(one_more()), Errno::BUSY);
    let notices = mount.path().join(".wsguard/notices");
    wait_until("a notice", Duration::from_secs(10), || {
        fs::read_to_string(&notices).is_ok_and(|text| text.contains("1 snapshots were not taken"))
    });
    // What the command takes is not counted.
    let create = ["snapshot", "create", "--name", "by-command"];
    mount.daemon().command().args(create).arg(mount.path()).ok();
    wait_until("another one to be allowed", Duration::from_secs(15), || one_more().is_ok());
}

#[test]
fn name_of_the_directory_cannot_be_taken() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    let (dir, other) = (mount.path().join(".snapshots"), mount.path().join("other"));
    fs::create_dir(&other).unwrap();
    assert_eq!(errno(fs::rename(&dir, mount.path().join("away"))), Errno::PERM);
    assert_eq!(errno(fs::rename(&other, &dir)), Errno::PERM);
    assert_eq!(errno(fs::remove_dir(&dir)), Errno::PERM);
    // The kernel sees that the name is there, and asks nobody.
    assert_eq!(errno(fs::create_dir(&dir)), Errno::EXIST);
    assert_eq!(errno(File::create(&dir)), Errno::ISDIR);
    assert_eq!(names(mount.path()), ["other"]);
    assert_eq!(fs::read_dir(mount.backing_path()).unwrap().count(), 1);
}

#[test]
fn who_may_write_in_a_directory_may_take_a_snapshot_there() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    let theirs = mount.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(USER), Some(USER)).unwrap();
    let make = |uid: u32, name: &str| {
        as_user(uid, uid, &[], || fs::create_dir(theirs.join(".snapshots").join(name)))
    };
    make(USER, "mine").unwrap();
    assert_eq!(errno(make(STRANGER, "not-mine")), Errno::ACCESS);
    assert_eq!(errno(make(USER, "mine")), Errno::EXIST);
    let elsewhere = mount.path().join(".snapshots/mine");
    assert!(elsewhere.is_dir(), "it is one of the whole workspace");
    for name in [".hidden", "2001-11-24", "2001-11-24T14-05", "2001-11-24T14-05-03Z-0001-auto"] {
        assert_eq!(errno(make(USER, name)), Errno::INVAL, "{name}");
    }
    assert_eq!(errno(make(USER, "12345")), Errno::INVAL);
    assert_eq!(errno(make(USER, &"x".repeat(181))), Errno::NAMETOOLONG);
    let longest = "x".repeat(180);
    make(USER, &longest).unwrap();
    let labels = names(&theirs.join(".snapshots"));
    assert_eq!(labels.len(), 2);
    assert!(labels[1].to_str().unwrap().ends_with(&longest));
}
