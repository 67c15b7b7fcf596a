//! What cannot be shown as it was is not shown as if it could.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{Backing, FsKind, GuardMount, Mapping, Protection, Run, kill, require, wait_until};
use rusqlite::Connection;
use rustix::{
    fs::{Advice, fadvise},
    io::Errno,
    process::Signal,
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
fn what_was_changed_outside_before_a_later_snapshot_is_named_in_the_earlier_one() {
    on_every_filesystem(|mount| {
        let write = |path: PathBuf, byte: u8| fs::write(path, vec![byte; 1_000]).unwrap();
        let part = |byte: u8, offset: u64| {
            let file = OpenOptions::new().write(true).open(mount.path().join("large")).unwrap();
            file.write_all_at(&[byte], offset).unwrap();
        };
        for name in ["edited", "changed", "untouched"] {
            write(mount.path().join(name), 1);
        }
        fs::write(mount.path().join("large"), pattern(1, 4 << 20)).unwrap();
        let first = take(mount.path(), "first");
        part(2, 0);
        write(mount.path().join("changed"), 2);
        let second = take(mount.path(), "second");
        std::thread::sleep(Duration::from_millis(50));
        write(mount.backing_path().join("edited"), 3);
        OpenOptions::new()
            .write(true)
            .open(mount.backing_path().join("large"))
            .unwrap()
            .write_all_at(&[3], 3 << 20)
            .unwrap();
        let third = take(mount.path(), "third");
        write(mount.path().join("edited"), 4);
        write(mount.path().join("changed"), 4);
        part(4, 3 << 20);
        for (snapshot, name, expected) in [
            (&first, "edited", "changed-outside"),
            (&second, "edited", "changed-outside"),
            (&third, "edited", "exact"),
            (&second, "large", "changed-outside"),
            (&third, "large", "exact"),
            (&first, "changed", "exact"),
            (&second, "changed", "exact"),
            (&third, "changed", "exact"),
            (&first, "untouched", "exact"),
        ] {
            let path = snapshot.join(name);
            assert_eq!(told(&path, CERTAINTY), expected, "{path:?}");
            match expected {
                "exact" => drop(fs::read(&path).unwrap()),
                _ => assert_eq!(errno(fs::read(&path)), Errno::IO, "{path:?}"),
            }
        }
        assert_eq!(fs::read(third.join("edited")).unwrap(), vec![3; 1_000]);
        // Where only a part was copied before the edit, the rest came later.
        let is_cloned = fs::read(first.join("large")).is_ok();
        assert_eq!(
            told(&first.join("large"), CERTAINTY),
            if is_cloned { "exact" } else { "changed-outside" }
        );
        assert!(!is_cloned || fs::read(first.join("large")).unwrap() == pattern(1, 4 << 20));
    });
}

#[test]
fn file_that_comes_back_from_the_trash_is_not_taken_for_changed_outside() {
    on_every_filesystem(|mount| {
        fs::write(mount.path().join("file"), pattern(1, 100_000)).unwrap();
        let first = take(mount.path(), "first").join("file");
        fs::remove_file(mount.path().join("file")).unwrap();
        take(mount.path(), "second");
        std::thread::sleep(Duration::from_millis(50));
        let command = mount.daemon().command().current_dir(mount.path());
        command.args(["restore", "file", "--before-delete", "--yes"]).ok();
        let third = take(mount.path(), "third").join("file");
        fs::write(mount.path().join("file"), "new").unwrap();
        for path in [first, third] {
            assert_eq!(told(&path, CERTAINTY), "exact", "{path:?}");
            assert!(fs::read(&path).unwrap() == pattern(1, 100_000), "{path:?}");
        }
    });
}

#[test]
fn mapping_that_outlives_its_descriptor_is_fuzzy_unless_the_file_could_be_cloned() {
    require!(fuse, ext4, xfs);
    for (kind, expected) in [(FsKind::Ext4, "fuzzy"), (FsKind::Xfs, "exact")] {
        let mount = guarded(Backing::on(kind));
        let path = mount.path().join("file");
        fs::write(&path, vec![1; 100_000]).unwrap();
        let before = take(mount.path(), "before").join("file");
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mapping = Mapping::new(&file, 100_000, Protection::ReadWrite).unwrap();
        drop(file);
        mapping.store(0, b"first");
        // It is looked whether it is mapped still, and what is found is told to the next worker.
        std::thread::sleep(Duration::from_secs(5));
        let during = take(mount.path(), "during").join("file");
        mapping.store(0, b"later");
        kill(mount.daemon().worker_pid(), Signal::KILL);
        let taken_over = take(mount.path(), "taken-over").join("file");
        mapping.store(0, b"again");
        for (path, content) in [(&during, b"first"), (&taken_over, b"later")] {
            assert_eq!(told(path, CERTAINTY), expected, "{path:?} on {}", kind.name());
            let read = fs::read(path).unwrap();
            assert!(expected == "fuzzy" || &read[..5] == content, "{path:?} on {}", kind.name());
        }
        drop(mapping);
        let after = take(mount.path(), "after").join("file");
        assert_eq!(told(&after, CERTAINTY), "exact", "{}", kind.name());
        assert_eq!(&fs::read(&after).unwrap()[..5], b"again");
        assert_eq!(told(&before, CERTAINTY), "exact");
        assert_eq!(fs::read(&before).unwrap(), vec![1; 100_000]);
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
