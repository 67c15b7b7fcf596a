//! Random operations on a mount, with snapshots and deaths of the worker in between: every snapshot shows the workspace
//! as it was when it was taken, whatever happened since.

use std::{fs, path::Path, time::Duration};

use harness::{Backing, FsKind, GuardMount, Random, kill, wait_until};
use rustix::process::Signal;
use wsguard_api::Ownership;

use super::{actor::Actor, picture::Picture};

/// Operations of one sequence.
const STEPS: u64 = 160;

/// How many sequences there are for each filesystem.
fn sequences() -> u64 {
    std::env::var("WSGUARD_SEQUENCES").map_or(4, |text| text.parse().expect("WSGUARD_SEQUENCES is a number"))
}

fn first_seed() -> u64 {
    std::env::var("WSGUARD_SEED")
        .map_or_else(|_| Random::seed_of_now(), |text| text.parse().expect("WSGUARD_SEED is a number"))
}

struct Taken {
    number: u64,
    picture: Picture,
}

fn run(mount: &GuardMount, seed: u64, kind: FsKind) {
    let top = mount.path().join(format!("s{seed}"));
    fs::create_dir(&top).expect("a directory can be made");
    let maps = matches!(kind, FsKind::Xfs | FsKind::Btrfs);
    let mut actor = Actor::new(seed, top.clone(), maps);
    let mut taken: Vec<Taken> = Vec::new();
    // More in a short time are a crash loop, which the keeper gives up on.
    let mut kills = 3;
    for step in 0..STEPS {
        // Errors are answers as well.
        drop(actor.step());
        if actor.random.below(16) == 0 {
            let number = taken.len() as u64;
            let picture = Picture::of(&top).expect("the tree can be read");
            take_any(mount, &format!("m{seed}-{number}"));
            taken.push(Taken { number, picture });
        }
        if kills > 0 && actor.random.below(50) == 0 {
            kill_worker(mount);
            kills -= 1;
        }
        if actor.random.below(40) == 0 {
            check(mount, &top, seed, step, &taken);
        }
    }
    check(mount, &top, seed, STEPS, &taken);
    drop(actor);
    fs::remove_dir_all(&top).expect("the tree can be removed");
    check(mount, &top, seed, STEPS + 1, &taken);
}

/// Takes a snapshot by mkdir(2) or, if there were too many of those in a short time, by the command.
fn take_any(mount: &GuardMount, name: &str) {
    match fs::create_dir(mount.path().join(".snapshots").join(name)) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
            mount.daemon().command().args(["snapshot", "create", "--name", name]).arg(mount.path()).ok();
        }
        Err(error) => panic!("a snapshot cannot be taken: {error}"),
    }
}

fn kill_worker(mount: &GuardMount) {
    let worker = mount.daemon().worker_pid();
    kill(worker, Signal::KILL);
    wait_until("another worker", Duration::from_secs(20), || mount.daemon().worker_pid() != worker);
}

fn check(mount: &GuardMount, top: &Path, seed: u64, step: u64, taken: &[Taken]) {
    for snapshot in taken {
        let name = format!("m{seed}-{}", snapshot.number);
        let place = mount.path().join(".snapshots").join(&name).join(top.file_name().expect("it has one"));
        let found = Picture::of(&place).unwrap_or_else(|error| {
            panic!("seed {seed}, step {step}, snapshot {name} cannot be read: {error}")
        });
        let differences = snapshot.picture.differences(&found);
        assert!(
            differences.is_empty(),
            "seed {seed}, step {step}, snapshot {name} of {} entries is not what the workspace was:\n{}",
            snapshot.picture.len(),
            differences.join("\n")
        );
    }
}

fn sequences_on(kind: FsKind) {
    if !harness::Facility::Fuse.check() || !kind.facility().check() {
        return;
    }
    let first = first_seed();
    for seed in first..first + sequences() {
        let mount = GuardMount::builder().backing(Backing::on(kind)).ownership(Ownership::Preserve).mount();
        run(&mount, seed, kind);
    }
}

#[test]
fn snapshots_show_what_was_there_on_ext4() {
    sequences_on(FsKind::Ext4);
}

#[test]
fn snapshots_show_what_was_there_on_xfs() {
    sequences_on(FsKind::Xfs);
}

#[test]
fn snapshots_show_what_was_there_on_btrfs() {
    sequences_on(FsKind::Btrfs);
}
