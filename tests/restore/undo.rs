//! Deletions taken back.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink},
    },
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use harness::{FsKind, Run, require};
use wsguard_api::RestoreState;

use crate::ground::{Ground, assert_same, tree};

/// Fills a directory with files of every kind.
fn fill(top: &Path, files: usize) {
    for n in 0..files {
        let dir = top.join(format!("d{}/e{}", n % 7, n % 13));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), format!("content of {n}\n").repeat(n % 40)).unwrap();
    }
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::create_dir(top.join("empty")).unwrap();
    fs::write(top.join("nothing"), "").unwrap();
    symlink("../somewhere/else", top.join("link")).unwrap();
    fs::hard_link(top.join("d0/e0/f0"), top.join("d1/hard")).unwrap();
    fs::hard_link(top.join("d0/e0/f0"), top.join("zz-hard")).unwrap();
    Run::new("mkfifo").arg(top.join("fifo")).ok();
    fs::write(top.join(OsStr::from_bytes(b"not utf-8 \xff\xfe")), "x").unwrap();
    fs::set_permissions(top.join("d1/e1/f1"), fs::Permissions::from_mode(0o4751)).unwrap();
    chown(top.join("d2/e2/f2"), Some(1234), Some(4321)).unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 32 << 20).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    for name in ["d3", "nothing", "d4/e4/f4"] {
        rustix::fs::setxattr(top.join(name), "user.note", name.as_bytes(), flags).unwrap();
    }
    fs::set_permissions(top.join("d5"), fs::Permissions::from_mode(0o2770)).unwrap();
    for name in ["d3", "d4/e4", "nothing", "empty", "d5"] {
        let opened = File::open(top.join(name)).unwrap();
        opened.set_modified(old).unwrap();
    }
}

fn a_removed_tree_comes_back(kind: FsKind, files: usize) {
    if !harness::Facility::Fuse.check() || !kind.facility().check() {
        return;
    }
    let ground = Ground::prepared(kind, |plain| {
        fs::create_dir(plain.join("tree")).unwrap();
        fill(&plain.join("tree"), files);
    });
    let top = ground.at("tree");
    let (before, top_inode) = (tree(ground.mount.path()), fs::metadata(top.join("sparse")).unwrap().ino());
    Run::new("rm").arg("-rf").arg(&top).timeout(Duration::from_secs(300)).ok();
    assert!(!top.exists());
    let list = ground.undo_list();
    assert_eq!(list.items.len(), 1, "{list:?}");
    let burst = &list.items[0];
    assert!(burst.command_line.starts_with("rm -rf"), "{burst:?}");
    assert_eq!(burst.paths, [top.to_str().unwrap()]);
    assert!(burst.files >= files as u64 && burst.directories > 7, "{burst:?}");
    let started = Instant::now();
    let job = ground.job(&["undo", "--yes"], 0);
    println!("{kind:?}: undo of {} files took {:?}, as the user sees it", burst.files, started.elapsed());
    assert_eq!((job.state, job.counts.failed), (RestoreState::Done, 0), "{job:?}");
    assert_same(&before, &tree(ground.mount.path()));
    assert_eq!(fs::metadata(top.join("sparse")).unwrap().ino(), top_inode, "it is the same file");
    assert!(fs::metadata(top.join("sparse")).unwrap().blocks() < 1000, "holes are holes");
    // And the plain files below say the same.
    assert_same(&before, &tree(ground.mount.backing_path()));
    assert_eq!(ground.undo_list().items[0].undone_by, Some(job.id));
    let nothing = ground.cli(["undo", "--yes"]).expect_code(3);
    assert!(nothing.stderr.contains("nothing was deleted"), "{}", nothing.stderr);
}

#[test]
fn a_removed_tree_comes_back_on_ext4() {
    a_removed_tree_comes_back(FsKind::Ext4, 2_000);
}

#[test]
fn a_removed_tree_comes_back_on_btrfs() {
    a_removed_tree_comes_back(FsKind::Btrfs, 1_000);
}

#[test]
fn a_removed_tree_comes_back_on_xfs() {
    a_removed_tree_comes_back(FsKind::Xfs, 1_000);
}

#[test]
fn thirty_thousand_files_come_back() {
    require!(long);
    a_removed_tree_comes_back(FsKind::Ext4, 30_000);
}

#[test]
fn an_undo_can_be_undone_and_done_again() {
    require!(fuse, ext4);
    let ground = Ground::prepared(FsKind::Ext4, |plain| {
        fs::create_dir(plain.join("tree")).unwrap();
        fill(&plain.join("tree"), 100);
        fs::write(plain.join("other"), "stays").unwrap();
    });
    let before = tree(ground.mount.path());
    Run::new("rm").arg("-rf").arg(ground.at("tree")).ok();
    let without = tree(ground.mount.path());
    ground.job(&["undo", "--yes"], 0);
    assert_same(&before, &tree(ground.mount.path()));
    ground.job(&["restore", "--undo"], 0);
    assert_same(&without, &tree(ground.mount.path()));
    ground.job(&["undo", "--yes"], 0);
    assert_same(&before, &tree(ground.mount.path()));
}

#[test]
fn what_appeared_at_a_name_meanwhile_stays() {
    require!(fuse, ext4);
    let ground = Ground::prepared(FsKind::Ext4, |plain| {
        fs::create_dir(plain.join("d")).unwrap();
        fs::write(plain.join("d/a"), "former a").unwrap();
        fs::write(plain.join("d/b"), "former b").unwrap();
    });
    Run::new("rm").arg("-rf").arg(ground.at("d")).ok();
    fs::write(ground.at("d"), "a file where the directory was").unwrap();
    ground.job(&["undo", "--yes"], 0);
    assert_eq!(fs::read_to_string(ground.at("d")).unwrap(), "a file where the directory was");
    let beside = beside(&ground, "d");
    assert_eq!(fs::read_to_string(beside.join("a")).unwrap(), "former a");
    assert_eq!(fs::read_to_string(beside.join("b")).unwrap(), "former b");
}

/// Returns the one entry beside a name.
pub(crate) fn beside(ground: &Ground, name: &str) -> std::path::PathBuf {
    let prefix = format!("{name}.restored-");
    let names = fs::read_dir(ground.mount.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut found: Vec<_> = names.filter(|found| found.to_string_lossy().starts_with(&prefix)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    ground.at(found.remove(0))
}

#[test]
fn others_may_not_undo_and_the_owner_may() {
    require!(fuse, ext4);
    let mount = harness::GuardMount::builder()
        .backing(harness::Backing::on(FsKind::Ext4))
        .owner(1000)
        .mount_prepared(|plain| {
            fs::write(plain.join("mine"), "mine").unwrap();
            chown(plain.join("mine"), Some(1000), Some(1000)).unwrap();
        });
    fs::remove_file(mount.path().join("mine")).unwrap();
    let undo =
        |uid| mount.daemon().command().args(["undo", "--yes"]).arg(mount.path()).user(uid, uid).output();
    undo(1001).expect_code(3);
    assert!(!mount.path().join("mine").exists());
    undo(1000).expect_code(0);
    let meta = fs::metadata(mount.path().join("mine")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (1000, 1000));
}
