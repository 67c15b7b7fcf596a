//! Workers that die as soon as they have started.

use std::{
    fs::OpenOptions,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

use harness::{Backing, children, is_alive, kill, require};
use rustix::{io::Errno, process::Signal};

use super::ground::{Ground, alone};

/// Deaths of young workers after which no more is started.
const MOST_DEATHS: usize = 5;
const GIVES_UP_WITHIN: Duration = Duration::from_secs(10);

/// Kills each worker when it appears, until the keeper has ended; returns how many there were.
fn kill_all_workers(keeper: u32) -> usize {
    let started = Instant::now();
    let mut killed = Vec::new();
    while is_alive(keeper) {
        assert!(started.elapsed() < GIVES_UP_WITHIN, "the keeper goes on after {} deaths", killed.len());
        for worker in children(keeper).into_iter().filter(|pid| is_alive(*pid)) {
            kill(worker, Signal::KILL);
            if !killed.contains(&worker) {
                killed.push(worker);
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
    killed.len()
}

#[test]
fn keeper_gives_up_on_workers_that_die_young() {
    require!(fuse);
    let _alone = alone();
    let ground = Ground::new(Backing::Directory, Duration::from_secs(30), |_| {});
    let path = ground.mount.path().join("file");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    file.write_all_at(b"before", 0).unwrap();
    // The first one is old by the time it dies.
    thread::sleep(Duration::from_millis(600));
    let killed = kill_all_workers(ground.daemon().keeper_pid());
    assert_eq!(killed, MOST_DEATHS + 1, "the old one, and those that died young");
    let answer = file.write_at(b"after", 0).unwrap_err();
    assert_eq!(answer.raw_os_error(), Some(Errno::NOTCONN.raw_os_error()), "{answer}");
    let answer = std::fs::metadata(ground.mount.path()).unwrap_err();
    assert_eq!(answer.raw_os_error(), Some(Errno::NOTCONN.raw_os_error()), "{answer}");
    let log = ground.daemon().log();
    assert!(log.contains("died"), "the log says nothing of the deaths:\n{log}");
}

#[test]
fn workers_that_die_young_now_and_then_are_replaced() {
    require!(fuse);
    let _alone = alone();
    let ground = Ground::new(Backing::Directory, Duration::from_secs(30), |_| {});
    let path = ground.mount.path().join("file");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    let keeper = ground.daemon().keeper_pid();
    for round in 0..3_u8 {
        thread::sleep(Duration::from_millis(600));
        // The old one and three young ones: two fewer than the keeper takes.
        for _ in 0..4 {
            let dead = children(keeper);
            dead.iter().for_each(|worker| kill(*worker, Signal::KILL));
            harness::wait_until("another worker", GIVES_UP_WITHIN, || {
                children(keeper).iter().any(|worker| !dead.contains(worker) && is_alive(*worker))
            });
        }
        file.write_all_at(&[round], 0).unwrap();
    }
    let status = ground.daemon().status();
    assert_eq!((status.generation, status.restarts), (13, 12));
    let warning = "the worker died 3 times right after its start";
    assert!(status.warnings.iter().any(|line| line.starts_with(warning)), "{:?}", status.warnings);
    let text = ground.daemon().cli(["status", "--quiet"]).ok();
    assert!(text.contains(&format!("warning: {warning}")), "{text}");
}
