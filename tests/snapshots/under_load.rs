//! Snapshots that are read while files are written, and while workers die.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, Ordering},
};

use harness::{Backing, children, is_alive, kill, require, wait_for};
use rustix::process::Signal;

use super::tree::{guarded, on_every_filesystem, pattern, take};

const BLOCK: usize = 100_000;
const BLOCKS: usize = 40;

#[test]
fn content_stays_exact_while_the_file_is_written() {
    on_every_filesystem(|mount| {
        let path = mount.path().join("file");
        let content = pattern(1, BLOCK * BLOCKS);
        fs::write(&path, &content).unwrap();
        let shown = take(mount.path(), "before").join("file");
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = OpenOptions::new().write(true).open(&path).unwrap();
                for at in 0..BLOCKS {
                    // Odd places and back to front, so that every read meets both sides.
                    let at = (at * 17) % BLOCKS;
                    file.write_all_at(&pattern(2, BLOCK), (at * BLOCK) as u64).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                file.set_len(1).unwrap();
                drop(file);
                fs::remove_file(&path).unwrap();
                is_done.store(true, Ordering::Release);
            });
            let mut is_last = false;
            while !is_last {
                is_last = is_done.load(Ordering::Acquire);
                let file = File::open(&shown).unwrap();
                // Past the page cache, so that each round asks.
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                let mut found = vec![0; content.len()];
                file.read_exact_at(&mut found, 0).unwrap();
                assert!(found == content);
            }
        });
    });
}

#[test]
fn open_file_and_listing_outlive_the_worker() {
    require!(fuse);
    let mount = guarded(Backing::Directory);
    let content = pattern(1, 8 << 20);
    let dir = mount.path().join("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("large"), &content).unwrap();
    for number in 0..3_000 {
        fs::write(dir.join(format!("name-{number}")), "").unwrap();
    }
    let shown = take(mount.path(), "before").join("dir");
    File::options()
        .write(true)
        .open(dir.join("large"))
        .unwrap()
        .write_all_at(&pattern(3, 1 << 20), 4 << 20)
        .unwrap();
    for number in 0..1_500 {
        fs::remove_file(dir.join(format!("name-{number}"))).unwrap();
    }
    let mut file = File::open(shown.join("large")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
    let mut listing = fs::read_dir(&shown).unwrap();
    let mut names: Vec<_> = listing.by_ref().take(700).map(|entry| entry.unwrap().file_name()).collect();
    let mut found = vec![0; 3 << 20];
    file.read_exact(&mut found).unwrap();
    let (keeper, dead) = (mount.daemon().keeper_pid(), mount.daemon().worker_pid());
    kill(dead, Signal::KILL);
    wait_for("another worker", std::time::Duration::from_secs(10), || {
        children(keeper).into_iter().find(|pid| *pid != dead && is_alive(*pid))
    });
    file.read_to_end(&mut found).unwrap();
    assert!(found == content);
    names.extend(listing.map(|entry| entry.unwrap().file_name()));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 3_001);
    assert_eq!(fs::read_dir(&shown).unwrap().count(), 3_001);
}
