//! What cannot be shown as it was is not shown as if it could.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{Backing, FsKind, GuardMount, Run, require, wait_until};
use rusqlite::Connection;
use rustix::{
    fs::{Advice, fadvise},
    io::Errno,
};

use super::tree::{errno, guarded, names, on_every_filesystem, pattern, take, told};

const CERTAINTY: &str = "user.wsguard.certainty";

/// The preserve store of a workspace that has a filesystem of its own.
fn store(mount: &GuardMount) -> PathBuf {
    let store = mount.backing().path().join(".wsguard").join(&mount.workspace().id);
    assert!(store.is_dir(), "{store:?}");
    store
}

fn objects(dir: &Path) -> Vec<PathBuf> {
    let found = Run::new("find").arg(dir.join("objects")).args(["-type", "f"]).ok();
    found.lines().map(PathBuf::from).collect()
}

#[test]
fn what_was_changed_outside_is_an_error_and_named() {
    on_every_filesystem(|mount| {
        fs::write(mount.path().join("file"), "as it was").unwrap();
        fs::write(mount.path().join("kept"), "as it was").unwrap();
        let shown = take(mount.path(), "before");
        assert_eq!(told(&shown.join("file"), CERTAINTY), "exact");
        assert!(told(&shown.join("file"), "user.wsguard.snapshot").ends_with("-manual-before"));
        let listed = Run::new("getfattr").arg("-d").arg(shown.join("file")).ok();
        assert_eq!(listed, "", "not listed");
        std::thread::sleep(Duration::from_millis(50));
        fs::write(mount.backing_path().join("file"), "past the mount").unwrap();
        wait_until("the change to be noticed", Duration::from_secs(10), || {
            told(&shown.join("file"), CERTAINTY) == "changed-outside"
        });
        assert_eq!(errno(fs::read(shown.join("file"))), Errno::IO);
        assert_eq!(fs::read(shown.join("kept")).unwrap(), b"as it was");
    });
}

#[test]
fn lost_object_is_an_error_and_named() {
    require!(fuse, ext4);
    let mount = guarded(Backing::on(FsKind::Ext4));
    let path = mount.path().join("file");
    let content = pattern(1, 4 << 20);
    fs::write(&path, &content).unwrap();
    let shown = take(mount.path(), "before").join("file");
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"new", 2 << 20).unwrap();
    assert!(fs::read(&shown).unwrap() == content);
    let objects = objects(&store(&mount));
    assert!(!objects.is_empty());
    objects.iter().for_each(|object| fs::remove_file(object).unwrap());
    assert_eq!(told(&shown, CERTAINTY), "damaged");
    let file = File::open(&shown).unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    fadvise(&file, 0, None, Advice::Random).unwrap();
    let mut block = vec![0; 4_096];
    assert_eq!(errno(file.read_exact_at(&mut block, 2 << 20)), Errno::IO);
    file.read_exact_at(&mut block, 0).unwrap();
    assert!(block == content[..4_096], "the rest is there still");
}

#[test]
fn file_that_a_mapping_may_have_changed_is_fuzzy_unless_it_could_be_cloned() {
    require!(fuse, ext4, xfs);
    for (kind, expected) in [(FsKind::Ext4, "fuzzy"), (FsKind::Xfs, "exact")] {
        let mount = guarded(Backing::on(kind));
        let path = mount.path().join("file");
        fs::write(&path, pattern(1, 65 << 20)).unwrap();
        let before = take(mount.path(), "before").join("file");
        let mapped = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let during = take(mount.path(), "during").join("file");
        drop(mapped);
        assert_eq!(told(&during, CERTAINTY), expected, "{}", kind.name());
        let after = take(mount.path(), "after").join("file");
        assert_eq!(told(&after, CERTAINTY), "exact", "{}", kind.name());
        assert!(fs::read(&before).unwrap() == pattern(1, 65 << 20));
    }
}

#[test]
fn removed_snapshot_is_gone_and_never_wrong() {
    require!(fuse, ext4);
    let mount = guarded(Backing::on(FsKind::Ext4));
    fs::create_dir(mount.path().join("dir")).unwrap();
    fs::write(mount.path().join("dir/file"), pattern(1, 100_000)).unwrap();
    let shown = take(mount.path(), "before");
    let other = take(mount.path(), "other");
    fs::write(mount.path().join("dir/file"), "new").unwrap();
    let open = File::open(shown.join("dir/file")).unwrap();
    fadvise(&open, 0, None, Advice::Random).unwrap();
    let mut block = [0; 4_096];
    open.read_exact_at(&mut block, 0).unwrap();
    let catalog = Connection::open(store(&mount).join("catalog.sqlite")).unwrap();
    assert_eq!(catalog.execute("DELETE FROM snapshot WHERE name = 'before'", []).unwrap(), 1);
    assert_eq!(errno(open.read_exact_at(&mut block, 50_000)), Errno::STALE);
    wait_until("the name to be gone", Duration::from_secs(5), || !shown.exists());
    wait_until("the list to be short", Duration::from_secs(5), || {
        names(&mount.path().join(".snapshots")).len() == 1
    });
    assert!(fs::read(other.join("dir/file")).unwrap() == pattern(1, 100_000));
}

#[test]
fn workspace_without_history_has_no_such_directory() {
    require!(fuse);
    let daemon = harness::Daemon::builder().config("[snapshots]\nenabled = false\n");
    let mount = GuardMount::builder().daemon(daemon).mount();
    assert_eq!(errno(fs::metadata(mount.path().join(".snapshots"))), Errno::NOENT);
    fs::create_dir(mount.path().join(".snapshots")).unwrap();
    assert_eq!(names(mount.path()), [".snapshots"], "the name is free");
}
