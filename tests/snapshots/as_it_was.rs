//! What a snapshot shows.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
};

use harness::{Backing, Mapping, Protection, Run, as_user, require};
use rustix::{io::Errno, process::Signal};

use super::tree::{
    STRANGER, USER, assert_same, change, errno, guarded, is_fifo, make, on_every_filesystem, pattern, seen,
    seen_by_copies, set_acl, take,
};

#[test]
fn snapshot_shows_everything_as_it_was() {
    on_every_filesystem(|mount| {
        make(mount.path());
        let before = seen(mount.path());
        let shown = take(mount.path(), "before");
        assert_same(&seen(&shown), &before, "with nothing changed");
        change(mount.path());
        assert_same(&seen(&shown), &before, "after the changes");
        assert!(is_fifo(&shown.join("dir/fifo")));
        let between = seen(mount.path());
        let second = take(mount.path(), "between");
        fs::remove_dir_all(mount.path().join("renamed")).unwrap();
        fs::remove_dir_all(mount.path().join("other")).unwrap();
        assert_same(&seen(&second), &between, "the second one");
        assert_same(&seen(&shown), &before, "after all was deleted");
        harness::kill(mount.daemon().worker_pid(), Signal::KILL);
        Run::shell("echo 3 > /proc/sys/vm/drop_caches", [""; 0]).ok();
        assert_same(&seen(&shown), &before, "by another worker");
        assert_same(&seen(&second), &between, "by another worker");
    });
}

#[test]
fn tools_copy_compare_and_search_a_snapshot() {
    on_every_filesystem(|mount| {
        make(mount.path());
        let before = seen_by_copies(&mount.path().join("dir"));
        let shown = take(mount.path(), "before").join("dir");
        change(mount.path());
        let scratch = harness::Scratch::new();
        let copy = scratch.path().join("copy");
        Run::new("cp").arg("-a").arg(&shown).arg(&copy).ok();
        let mut copied = seen_by_copies(&copy);
        // The other names of the linked file were not copied, and another filesystem has other holes.
        let mut expected = before;
        for tree in [&mut copied, &mut expected] {
            tree.values_mut().for_each(|seen| seen.forget_links_and_holes());
        }
        assert_same(&copied, &expected, "in the copy");
        Run::new("diff").arg("-r").arg("--no-dereference").arg("-x").arg("fifo").arg(&shown).arg(&copy).ok();
        let found = Run::new("grep").args(["-rl", "deep"]).arg(&shown).ok();
        assert!(found.contains("sub/deep/file"), "{found}");
        let listed = Run::new("find").args([".", "-type", "f"]).current_dir(&shown).ok();
        assert!(listed.contains("sub/deep/file") && !listed.contains(".snapshots"), "{listed}");
        let archive = scratch.path().join("archive.tar");
        Run::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&shown).arg(".").ok();
        assert!(Run::new("tar").arg("-tf").arg(&archive).ok().contains("./sub/deep/file"));
        let back = mount.path().join("back");
        Run::new("cp").arg("-a").arg(&shown).arg(&back).ok();
        Run::new("diff").arg("-r").arg("--no-dereference").arg("-x").arg("fifo").arg(&shown).arg(&back).ok();
    });
}

#[test]
fn file_can_be_mapped_and_a_program_run_from_a_snapshot() {
    on_every_filesystem(|mount| {
        let (file, program) = (mount.path().join("file"), mount.path().join("program"));
        let content = pattern(1, 3 << 20);
        fs::write(&file, &content).unwrap();
        Run::new("cp").arg("/bin/echo").arg(&program).ok();
        let shown = take(mount.path(), "before");
        fs::write(&file, pattern(2, 3 << 20)).unwrap();
        fs::remove_file(&program).unwrap();
        let opened = File::open(shown.join("file")).unwrap();
        let mapping = Mapping::new(&opened, content.len(), Protection::Read).unwrap();
        drop(opened);
        assert!(mapping.load(0, content.len()) == content);
        assert_eq!(Run::new(shown.join("program")).arg("it runs").ok().trim(), "it runs");
    });
}

#[test]
fn permissions_are_those_of_then() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    make(mount.path());
    let shown = take(mount.path(), "before");
    change(mount.path());
    let read = |uid: u32, path: &Path| as_user(uid, uid, &[], || fs::read(path));
    assert_eq!(errno(read(STRANGER, &shown.join("dir/mine"))), Errno::ACCESS);
    assert_eq!(read(USER, &shown.join("dir/mine")).unwrap(), b"secret");
    read(STRANGER, &mount.path().join("renamed/mine")).unwrap();
    assert_eq!(read(STRANGER, &shown.join("dir/listed")).unwrap(), b"by ACL");
    assert_eq!(errno(read(STRANGER, &mount.path().join("renamed/listed"))), Errno::ACCESS);
    assert_eq!(errno(read(USER, &shown.join("dir/listed"))), Errno::ACCESS);
}

#[test]
fn directory_closed_by_an_acl_is_closed_in_its_snapshots() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    let dir = mount.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "x").unwrap();
    set_acl(&dir, 7);
    let shown = take(&dir, "before");
    let list = |uid: u32| as_user(uid, uid, &[], || fs::read_dir(&shown).map(|entries| entries.count()));
    assert_eq!(errno(list(USER)), Errno::ACCESS);
    // The mask of the ACL leaves reading and writing only: names, but nothing behind them.
    assert_eq!(errno(as_user(STRANGER, STRANGER, &[], || fs::read(shown.join("file")))), Errno::ACCESS);
}

#[test]
fn numbers_are_the_same_whenever_one_looks() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    make(mount.path());
    let shown = take(mount.path(), "before");
    let numbers = || {
        let names = ["dir", "dir/large", "dir/linked", "other/linked-too", "dir/sub/deep/file"];
        names.map(|name| fs::symlink_metadata(shown.join(name)).unwrap().ino())
    };
    let first = numbers();
    assert_eq!(first[2], first[3], "two names of one file");
    change(mount.path());
    Run::shell("echo 2 > /proc/sys/vm/drop_caches", [""; 0]).ok();
    assert_eq!(numbers(), first);
    harness::kill(mount.daemon().worker_pid(), Signal::KILL);
    Run::shell("echo 2 > /proc/sys/vm/drop_caches", [""; 0]).ok();
    assert_eq!(numbers(), first);
    let other = take(mount.path(), "after").join("renamed/untouched");
    assert_ne!(fs::metadata(other).unwrap().ino(), fs::metadata(shown.join("dir/untouched")).unwrap().ino());
}
