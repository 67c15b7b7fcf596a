//! The worker dies at every stage of every operation that must not happen twice.
//!
//! Each operation runs once on the mount, whose worker kills itself at one stage of it, and once on a plain directory.
//! Both must return the same and leave the same tree. [`operations`] lists them, [`twin`] compares; [`sequences`] lets
//! chance put operations and deaths together.

mod operations;
mod sequences;
mod twin;

use std::{
    fs,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use harness::{Backing, require, wait_until};

use self::{
    operations::{CASES, Case},
    twin::Twin,
};
use super::ground::alone;

/// Mounts on which cases run at the same time: a worker has to be half a second old before it may die.
const MOUNTS: usize = 4;

fn runs_once(twin: &mut Twin, case: &Case, stage: &str) -> Result<(), String> {
    twin.fresh_tree();
    twin.in_both(case.prepare).map_err(|error| format!("prepare: {error}"))?;
    twin.arm(case.request, &[stage]);
    let results = twin.in_both(case.act);
    twin.wait_for_deaths(1)?;
    results?;
    twin.compare()
}

#[test]
fn operation_happens_once_wherever_its_worker_dies() {
    require!(fuse);
    if !twin::has_fail_points() {
        println!(
            "SKIPPED: needs fail points (a debug build, or WSGUARD_FAIL_POINTS_BUILT=1 with the feature)"
        );
        return;
    }
    let _alone = alone();
    let started = Instant::now();
    let all = CASES.iter().flat_map(|case| case.stages.iter().map(move |stage| (case, *stage)));
    let count = all.clone().count();
    let (queue, failures) = (Mutex::new(all), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..MOUNTS {
            scope.spawn(|| {
                let mut twin = Twin::new(Duration::from_secs(300));
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((case, stage)) = next else { break };
                    if let Err(failure) = runs_once(&mut twin, case, stage) {
                        failures.lock().unwrap().push(format!("{}, {stage}: {failure}", case.name));
                    }
                }
                twin.finish();
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("{count} deaths at stages of {} operations in {:?}", CASES.len(), started.elapsed());
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}

/// The kernel keeps a registered file until somebody who knows its id gives it back.
#[test]
fn file_that_was_registered_and_not_noted_gives_its_space_back() {
    const SIZE: usize = 8 << 20;
    require!(fuse);
    if !twin::has_fail_points() {
        println!("SKIPPED: needs fail points, see tests/README.md");
        return;
    }
    let _alone = alone();
    // What is deleted goes at once.
    let config = "[snapshots]\nenabled = false\n";
    let mut twin = Twin::configured(Backing::Tmpfs(64 << 20), Duration::from_secs(60), config);
    twin.fresh_tree();
    let before = twin.used_bytes();
    for stages in [&["registered"][..], &["registered", "registered"]] {
        twin.in_both(|dir| operations::observe(fs::write(dir.join("large"), vec![7; SIZE]))).unwrap();
        twin.arm("open", stages);
        twin.in_both(|dir| operations::observe(fs::read(dir.join("large")))).unwrap();
        twin.wait_for_deaths(stages.len()).unwrap();
        twin.in_both(|dir| operations::observe(fs::remove_file(dir.join("large")))).unwrap();
        wait_until("the space of a deleted file to be free", Duration::from_secs(10), || {
            twin.used_bytes() < before + SIZE as u64 / 2
        });
    }
    twin.finish();
}
