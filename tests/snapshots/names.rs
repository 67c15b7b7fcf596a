//! Where snapshots are found, and where not.

use std::{fs, path::Path};

use harness::{Backing, Run, require};
use rustix::io::Errno;

use super::tree::{as_text, assert_same, change, errno, guarded, make, names, seen, take};

fn labels(dir: &Path) -> Vec<String> {
    names(&dir.join(".snapshots")).iter().map(|name| as_text(name)).collect()
}

#[test]
fn directory_is_reachable_by_name_and_listed_by_nothing() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    make(mount.path());
    take(mount.path(), "one");
    assert!(mount.path().join(".snapshots").is_dir() && mount.path().join("dir/sub/.snapshots").is_dir());
    for dir in ["", "dir", "dir/sub", "empty"] {
        let dir = mount.path().join(dir);
        assert!(!names(&dir).iter().any(|name| name == ".snapshots"), "{dir:?}");
    }
    for (program, arguments) in [
        ("find", ["."].as_slice()),
        ("du", &["-a", "."]),
        ("ls", &["-AR"]),
        ("tar", &["-cv", "-f", "/dev/null", "."]),
    ] {
        let output = Run::new(program).args(arguments).current_dir(mount.path()).ok();
        assert!(output.contains("sub") && !output.contains(".snapshots"), "{program}: {output}");
    }
    Run::shell("cd dir && ls .snapshots/one/sub && cd .. && rm -rf *", [""; 0])
        .current_dir(mount.path())
        .ok();
    assert_eq!(names(mount.path()), Vec::<std::ffi::OsString>::new());
    assert_eq!(fs::read(mount.path().join(".snapshots/one/dir/small")).unwrap(), b"small");
}

#[test]
fn snapshot_has_a_label_and_is_found_by_number_name_time_and_as_the_latest() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    fs::write(mount.path().join("file"), "1").unwrap();
    let by_name = take(mount.path(), "first");
    fs::write(mount.path().join("file"), "2").unwrap();
    take(mount.path(), "second");
    fs::write(mount.path().join("file"), "3").unwrap();
    let snapshots = mount.path().join(".snapshots");
    let labels = labels(mount.path());
    let [first, second] = &labels[..] else { panic!("{labels:?}") };
    assert!(first.ends_with("-manual-first") && second.ends_with("-manual-second") && first < second);
    let number = first.split('-').nth(5).unwrap();
    let time = &first[..20];
    let content = |name: &str| fs::read_to_string(snapshots.join(name).join("file"));
    assert_eq!(fs::read_to_string(by_name.join("file")).unwrap(), "1");
    assert_eq!(content(first).unwrap(), "1");
    assert_eq!(content(number).unwrap(), "1");
    assert_eq!(content("latest").unwrap(), "2");
    assert_eq!(content(second).unwrap(), "2");
    let at_that_time = content(time).unwrap();
    assert!(at_that_time == "1" || second.starts_with(time), "{time}: {at_that_time}");
    assert_eq!(errno(content("2001-01-01T00:00:00Z")), Errno::NOENT);
    assert_eq!(errno(content("999999")), Errno::NOENT);
    assert_eq!(errno(content("third")), Errno::NOENT);
    take(mount.path(), "third");
    assert_eq!(content("third").unwrap(), "3", "that there was none is not remembered");
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    assert_eq!(content("latest").unwrap(), "3");
}

#[test]
fn list_holds_the_snapshots_in_which_the_directory_was_there() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    let (early, late) = (mount.path().join("early"), mount.path().join("late"));
    fs::create_dir_all(early.join("inner")).unwrap();
    take(mount.path(), "one");
    fs::create_dir(&late).unwrap();
    assert_eq!((labels(&early).len(), labels(&late).len()), (1, 0));
    assert_eq!(errno(fs::metadata(late.join(".snapshots/one"))), Errno::NOENT);
    assert_eq!(errno(fs::metadata(late.join(".snapshots/latest"))), Errno::NOENT);
    take(&late, "two");
    assert_eq!((labels(&early).len(), labels(mount.path()).len()), (2, 2));
    assert!(labels(&late)[0].ends_with("-manual-two") && labels(&late).len() == 1);
    let moved = late.join("moved");
    fs::rename(early.join("inner"), &moved).unwrap();
    assert_eq!(labels(&moved).len(), 2, "a renamed directory takes its past along");
    fs::rename(&late, mount.path().join("later")).unwrap();
    assert_eq!(labels(&mount.path().join("later/moved")).len(), 2);
    assert_eq!(labels(&mount.path().join("later")).len(), 1);
}

#[test]
fn deleted_directory_is_found_through_its_parent() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    make(mount.path());
    let before = seen(&mount.path().join("dir/sub"));
    take(mount.path(), "one");
    fs::write(mount.path().join("dir/sub/deep/file"), "later").unwrap();
    take(mount.path(), "two");
    fs::remove_dir_all(mount.path().join("dir")).unwrap();
    take(mount.path(), "three");
    let snapshots = mount.path().join(".snapshots");
    assert_same(&seen(&snapshots.join("one/dir/sub")), &before, "through the parent");
    assert_eq!(errno(fs::metadata(snapshots.join("three/dir"))), Errno::NOENT);
    // The deleted directory's own list, from where it still is.
    let own = snapshots.join("two/dir/sub");
    assert_eq!(fs::read(own.join("deep/file")).unwrap(), b"later");
    assert_eq!(labels(&own).len(), 2);
    assert_same(&seen(&own.join(".snapshots/one")), &before, "through its own list");
}

#[test]
fn entry_of_the_users_own_wins() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    let (dir, plain) = (mount.path().join("dir"), mount.backing_path().join("dir/.snapshots"));
    fs::create_dir(&dir).unwrap();
    take(&dir, "one");
    fs::create_dir(&plain).unwrap();
    fs::write(plain.join("mine"), "mine").unwrap();
    harness::wait_until("the kernel to see it", std::time::Duration::from_secs(10), || {
        dir.join(".snapshots/mine").is_file()
    });
    assert!(names(&dir).iter().any(|name| name == ".snapshots"));
    fs::rename(dir.join(".snapshots"), dir.join("snapshots-of-mine")).unwrap();
    assert_eq!(fs::read(dir.join("snapshots-of-mine/mine")).unwrap(), b"mine");
    assert_eq!(labels(&dir).len(), 1, "the virtual one is there again");
}

#[test]
fn one_directory_has_a_place_in_each_tree_at_the_same_time() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    make(mount.path());
    let outer = take(mount.path(), "one").join("dir/sub");
    change(mount.path());
    let inner = mount.path().join("other/moved/.snapshots/one");
    let by_label = mount.path().join(".snapshots").join(&labels(mount.path())[0]).join("dir/sub");
    let script = "cd \"$1\" && ls \"$2\" \"$3\" >/dev/null && pwd -P && cat deep/file";
    let output = Run::shell(script, [&outer, &inner, &by_label]).ok();
    assert_eq!(output, format!("{}\ndeep", outer.canonicalize().unwrap().display()));
}
