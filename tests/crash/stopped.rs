//! A worker that stands still for a while.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Backing, kill, require};
use rustix::process::Signal;

use super::{
    ground::{Ground, alone},
    load::{Load, make_listed_files},
    stall::StallProbe,
};

/// Shorter than the watchdog's patience.
const PAUSE: Duration = Duration::from_secs(2);

#[test]
fn worker_that_stands_still_only_makes_callers_wait() {
    require!(fuse);
    let _alone = alone();
    let ground = Ground::new(Backing::Directory, Duration::from_secs(60), make_listed_files);
    let probe = StallProbe::start(&ground.dirs("probe").0.join("probe"));
    let load = Load::start(&ground);
    thread::sleep(Duration::from_millis(300));
    let worker = ground.daemon().worker_pid();
    probe.take_worst();
    kill(worker, Signal::STOP);
    let stopped = Instant::now();
    thread::sleep(PAUSE);
    kill(worker, Signal::CONT);
    thread::sleep(Duration::from_millis(500));
    let stall = probe.take_worst();
    println!("a worker stood still for {PAUSE:?}: the longest call took {stall:?}");
    assert!(stall >= PAUSE / 2 && stall < stopped.elapsed() + Duration::from_secs(1), "{stall:?}");
    load.finish();
    probe.finish();
    let status = ground.daemon().status();
    assert_eq!((status.generation, status.worker_pid), (1, worker), "nobody had to take over");
}
