//! Workers die under all programs at once, on each backing filesystem.

use std::{
    fs,
    time::{Duration, Instant},
};

use harness::{Backing, FsKind, require};

use super::{
    ground::{Ground, alone},
    killer::{Killer, kills},
    leaks::Usage,
    load::{Load, make_listed_files},
    stall::StallProbe,
};

/// A stall that is certainly a fault. The promise is 150 ms on a machine that is not busy; the programs here keep
/// every CPU busy, and so may other tests.
const LONGEST_STALL: Duration = Duration::from_secs(5);

const BACKING_BYTES: u64 = 2 << 30;

/// Kills workers under the load; every program finds its files as it left them, and nothing is left over.
fn programs_do_not_notice(name: &str, backing: Backing, kills: usize) {
    let _alone = alone();
    let deadline = Duration::from_secs(120 + 3 * kills as u64);
    let ground = Ground::new(backing, deadline, make_listed_files);
    let before = Usage::settled(&ground);
    let probe_dir = ground.dirs("probe").0;
    let probe = StallProbe::start(&probe_dir.join("probe"));
    let load = Load::start(&ground);
    let mut killer = Killer::new(ground.daemon());
    let (started, mut stalls) = (Instant::now(), Vec::new());
    while killer.killed() < kills && !load.has_failed() {
        killer.kill_at_random();
        stalls.push(probe.take_worst());
    }
    let killed = killer.killed();
    let generation = ground.status_of_latest_worker().generation;
    let steps = load.finish();
    stalls.push(probe.take_worst());
    probe.finish();
    stalls.sort_unstable();
    let (median, worst) = (stalls[stalls.len() / 2], stalls[stalls.len() - 1]);
    println!(
        "{name}: {killed} kills in {:?}: stalls: median {median:?}, worst {worst:?}; steps: {steps}",
        started.elapsed()
    );
    assert_eq!(generation, killed as u64 + 1, "one worker after each kill");
    assert!(worst < LONGEST_STALL, "a call took {worst:?}");

    for entry in fs::read_dir(ground.mount.path()).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("listed") {
            fs::remove_dir_all(path).unwrap();
        }
    }
    Usage::assert_back_at(&before, &ground, name, killed);
}

fn fewer(kills: usize) -> usize {
    (kills / 5).max(6)
}

#[test]
fn programs_do_not_notice_on_ext4() {
    require!(fuse, ext4);
    programs_do_not_notice("ext4", Backing::Loop(FsKind::Ext4, BACKING_BYTES), kills());
}

#[test]
fn programs_do_not_notice_on_xfs() {
    require!(fuse, xfs);
    programs_do_not_notice("xfs", Backing::Loop(FsKind::Xfs, BACKING_BYTES), fewer(kills()));
}

#[test]
fn programs_do_not_notice_on_btrfs() {
    require!(fuse, btrfs);
    programs_do_not_notice("btrfs", Backing::Loop(FsKind::Btrfs, BACKING_BYTES), fewer(kills()));
}

#[test]
fn programs_do_not_notice_on_tmpfs() {
    require!(fuse);
    programs_do_not_notice("tmpfs", Backing::Tmpfs(BACKING_BYTES), fewer(kills()));
}
