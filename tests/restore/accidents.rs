//! Damage, lack of space, death in the middle, and hostile neighbours.

use std::{
    fs,
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use harness::{FsKind, Scratch, kill, require, wait_until};
use rustix::process::Signal;
use wsguard_api::{RestoreJobs, RestoreState};

use crate::ground::{Ground, assert_same, now, tree};

#[test]
fn a_damaged_object_is_not_restored_and_the_others_are() {
    require!(fuse, ext4);
    let ground = Ground::prepared(FsKind::Ext4, |plain| {
        fs::create_dir(plain.join("d")).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(plain.join("d").join(name), format!("former {name}").repeat(1000)).unwrap();
        }
    });
    let moment = now();
    for name in ["a", "b", "c"] {
        fs::write(ground.at("d").join(name), "overwritten").unwrap();
    }
    let objects = ground.objects_with("former b".repeat(1000).as_bytes());
    assert_eq!(objects.len(), 1, "{objects:?}");
    let mut damaged = fs::read(&objects[0]).unwrap();
    damaged[4000] ^= 1;
    fs::write(&objects[0], damaged).unwrap();
    let job = ground.job(&["restore", "d", "--at", &moment, "--overwrite", "--yes"], 11);
    assert_eq!((job.state, job.counts.files, job.counts.failed), (RestoreState::Partial, 2, 1), "{job:?}");
    assert!(job.failures[0].path.ends_with("/d/b") && job.failures[0].reason.contains("damaged"), "{job:?}");
    let read = |name: &str| fs::read_to_string(ground.at("d").join(name)).unwrap();
    assert_eq!(read("a"), "former a".repeat(1000));
    assert_eq!(read("b"), "overwritten");
    assert_eq!(read("c"), "former c".repeat(1000));
    assert_eq!(fs::read_dir(ground.at("d")).unwrap().count(), 3, "nothing temporary is left");
}

#[test]
fn without_room_nothing_is_changed() {
    require!(fuse, ext4);
    let ground = Ground::prepared(FsKind::Ext4, |plain| {
        for name in ["large", "small"] {
            fs::write(plain.join(name), vec![7; if name == "large" { 20 << 20 } else { 100 }]).unwrap();
        }
    });
    fs::remove_file(ground.at("large")).unwrap();
    let used = "project:project";
    ground.cli(["quota", "set", used, "10MiB"]).ok();
    let before = tree(ground.mount.path());
    let refused = ground.cli(["undo", "--yes"]).expect_code(5);
    assert!(refused.stderr.contains("bytes, and only"), "{}", refused.stderr);
    assert_same(&before, &tree(ground.mount.path()));
    ground.cli(["quota", "set", used, "100MiB"]).ok();
    ground.job(&["undo", "--yes"], 0);
    assert_eq!(fs::metadata(ground.at("large")).unwrap().len(), 20 << 20);
}

#[test]
fn a_restore_whose_worker_was_killed_is_taken_up_again() {
    require!(fuse, ext4);
    let ground = Ground::prepared(FsKind::Ext4, |plain| {
        for n in 0..600 {
            let dir = plain.join(format!("d/{}", n % 10));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(n.to_string()), format!("former {n}").repeat(n)).unwrap();
        }
    });
    let before = tree(&ground.at("d"));
    let moment = now();
    for n in 0..600 {
        let path = ground.at(format!("d/{}/{n}", n % 10));
        if n % 10 == 3 { fs::remove_file(path).unwrap() } else { fs::write(path, "overwritten").unwrap() }
    }
    fs::remove_dir(ground.at("d/3")).unwrap();
    let changed = tree(&ground.at("d"));
    let worker = ground.mount.daemon().worker_pid();
    let restore = ["restore", "d", "--at", &moment, "--exact", "--yes"];
    std::thread::scope(|scope| {
        let running = scope.spawn(|| ground.cli(restore));
        wait_until("some files are restored", Duration::from_secs(60), || {
            let restored = (0..600).filter(|n| {
                fs::read(ground.at(format!("d/{}/{n}", n % 10))).is_ok_and(|bytes| bytes != b"overwritten")
            });
            restored.count() > 30
        });
        kill(worker, Signal::KILL);
        let ended = running.join().unwrap();
        assert!(ended.code != 0 || !ended.stdout.is_empty(), "{ended:?}");
    });
    wait_until("another worker answers", Duration::from_secs(20), || {
        ground.mount.daemon().worker_pid() != worker
    });
    let jobs: RestoreJobs = serde_json::from_str(&ground.cli(["restore", "--jobs", "--json"]).ok()).unwrap();
    let id = jobs.items[0].id.to_string();
    if jobs.items[0].state != RestoreState::Done {
        assert_eq!(jobs.items[0].state, RestoreState::Interrupted);
        let job = ground.job(&["restore", "--resume", &id], 0);
        assert_eq!(job.state, RestoreState::Done, "{job:?}");
    }
    assert_same(&before, &tree(&ground.at("d")));
    ground.job(&["restore", "--undo", &id], 0);
    assert_same(&changed, &tree(&ground.at("d")));
}

#[test]
fn a_link_in_the_place_of_a_directory_leads_nowhere() {
    require!(fuse, ext4);
    let ground = Ground::prepared(FsKind::Ext4, |plain| {
        fs::create_dir_all(plain.join("d")).unwrap();
        for n in 0..50 {
            fs::write(plain.join(format!("d/{n}")), format!("{n}")).unwrap();
        }
    });
    let outside = Scratch::new();
    for n in 0..50 {
        fs::remove_file(ground.at(format!("d/{n}"))).unwrap();
    }
    symlink(outside.path(), ground.at("trap")).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, other) = (ground.at("d"), ground.at("trap"));
            while !is_over.load(Ordering::Acquire) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &other, flags).unwrap();
            }
        });
        for _ in 0..10 {
            ground.cli(["restore", "d/0", "d/1", "d/2", "d/3", "--only-missing"]);
            ground.cli(["undo", "--yes", "--only-missing"]);
        }
        is_over.store(true, Ordering::Release);
    });
    let found: Vec<_> = fs::read_dir(outside.path()).unwrap().collect();
    assert!(found.is_empty(), "{found:?}");
}
