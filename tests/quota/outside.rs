//! Edits that bypass the mount, and recounts while programs work.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::ground::{Below, EndOnDrop, Ground, on_every_filesystem};

on_every_filesystem!(a_recount_under_load_finds_no_drift);

/// The watcher tells at once, the recount waits for two quiet seconds and ten after the one before.
const FOUND_WITHIN: Duration = Duration::from_secs(25);

#[track_caller]
fn wait_until_found(ground: &Ground, what: &str) {
    let begun = Instant::now();
    loop {
        let (used, walked) = (ground.used(), ground.walked());
        if used == walked {
            break;
        }
        assert!(begun.elapsed() < FOUND_WITHIN, "{what}: the books say {used:?}, the files {walked:?}");
        thread::sleep(Duration::from_millis(200));
    }
    let (drift, _) = ground.check();
    assert_eq!(drift, (0, 0), "{what}");
}

/// An edit of the plain files.
type Edit = fn(&Path);

#[test]
fn edits_below_the_mount_are_found_and_counted() {
    if !Below::Ext4.is_there() {
        return;
    }
    let ground = Ground::new(Below::Ext4);
    fs::create_dir(ground.at("dir")).unwrap();
    fs::write(ground.at("dir/known"), [1; 50_000]).unwrap();
    fs::write(ground.at("cold"), [1; 50_000]).unwrap();
    let edits: &[(&str, Edit)] = &[
        ("a file that was changed through the mount a moment ago", |dir| {
            fs::write(dir.join("dir/known"), [1; 500_000]).unwrap();
        }),
        ("a new file", |dir| fs::write(dir.join("new"), [1; 300_000]).unwrap()),
        ("a new tree", |dir| {
            fs::create_dir_all(dir.join("a/b/c")).unwrap();
            fs::write(dir.join("a/b/c/f"), [1; 300_000]).unwrap();
        }),
        ("an append and a truncation", |dir| {
            let file = OpenOptions::new().write(true).open(dir.join("new")).unwrap();
            file.write_all_at(&[1; 100_000], 300_000).unwrap();
            OpenOptions::new().write(true).open(dir.join("dir/known")).unwrap().set_len(10).unwrap();
        }),
        ("links and names", |dir| {
            fs::hard_link(dir.join("new"), dir.join("dir/link")).unwrap();
            fs::rename(dir.join("a"), dir.join("dir/a")).unwrap();
        }),
        ("a deletion", |dir| {
            fs::remove_dir_all(dir.join("dir")).unwrap();
            fs::remove_file(dir.join("cold")).unwrap();
        }),
    ];
    for (what, edit) in edits {
        edit(ground.mount.backing_path());
        wait_until_found(&ground, what);
    }
}

#[test]
fn an_edit_in_a_directory_that_was_made_a_moment_ago_is_found() {
    if !Below::Ext4.is_there() {
        return;
    }
    let ground = Ground::new(Below::Ext4);
    for number in 0..40 {
        let file = format!("{number}/f");
        fs::create_dir(ground.at(&number.to_string())).unwrap();
        fs::write(ground.at(&file), [1; 5_000]).unwrap();
        // The directory's watch begins about now.
        thread::sleep(Duration::from_micros(number * 25));
        fs::write(ground.below_at(&file), vec![1; 100_000 + number as usize * 4_096]).unwrap();
    }
    wait_until_found(&ground, "edits right after mkdir(2)");
}

#[test]
fn what_was_there_before_the_mount_is_counted() {
    if !Below::Xfs.is_there() {
        return;
    }
    let ground = Ground::prepared(Below::Xfs, |dir| {
        fs::write(dir.join("f"), [1; 123_456]).unwrap();
        fs::hard_link(dir.join("f"), dir.join("g")).unwrap();
        File::create(dir.join("sparse")).unwrap().set_len(1 << 30).unwrap();
    });
    ground.assert_exact("a mount");
    assert_eq!(ground.used(), wsguard_api::Usage { bytes: 126_976, inodes: 3 });
}

/// Moves files between directories and grows them while they are counted.
fn work(root: &Path, number: u64, must_end: &AtomicBool, steps: &AtomicU64) {
    let dirs = [root.join("left"), root.join("right"), root.join(format!("own-{number}"))];
    let name = |dir: usize, file: u64| dirs[dir].join(format!("{number}-{file}"));
    for step in 0.. {
        if must_end.load(Ordering::Relaxed) {
            return;
        }
        let (file, from) = (step % 7, (step % 2) as usize);
        let path = name(from, file);
        fs::write(&path, vec![1; (step as usize * 977) % 60_000]).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[1; 5_000], 70_000).unwrap();
        fs::rename(&path, name(1 - from, file)).unwrap();
        fs::hard_link(name(1 - from, file), name(2, file)).unwrap();
        if step % 3 == 0 {
            fs::remove_file(name(1 - from, file)).unwrap();
        }
        fs::remove_file(name(2, file)).unwrap();
        if step % 11 == 0 {
            let (tree, moved) = (dirs[2].join("tree"), dirs[from].join(format!("tree-{number}")));
            fs::create_dir_all(tree.join("deep")).unwrap();
            fs::write(tree.join("deep/f"), [1; 9_000]).unwrap();
            fs::rename(&tree, &moved).unwrap();
            fs::remove_dir_all(&moved).unwrap();
        }
        steps.fetch_add(1, Ordering::Relaxed);
    }
}

fn a_recount_under_load_finds_no_drift(ground: &mut Ground) {
    const WORKERS: u64 = 3;
    let root = ground.path().to_owned();
    for dir in ["left", "right", "own-0", "own-1", "own-2", "cold"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    // What takes the walk some time.
    (0..400).for_each(|number| fs::write(root.join(format!("cold/{number}")), [1; 5_000]).unwrap());
    let (must_end, steps) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut drifts = Vec::new();
    thread::scope(|scope| {
        let _end = EndOnDrop(&must_end);
        for number in 0..WORKERS {
            let (root, must_end, steps) = (&root, &must_end, &steps);
            scope.spawn(move || work(root, number, must_end, steps));
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            drifts.push(ground.check().0);
        }
    });
    assert!(drifts.len() > 2 && steps.into_inner() > 20, "{drifts:?}");
    assert!(drifts.iter().all(|drift| *drift == (0, 0)), "on {:?}: {drifts:?}", ground.below);
    ground.assert_exact("recounts under load");
}
