//! Commands of users while there is no worker.

use std::{fs, thread, time::Duration};

use harness::{Backing, children, kill, require, run_as, wsguard_binary};
use rustix::process::Signal;

use super::ground::{Ground, alone};

/// Longer than a worker counts as young.
const OLD: Duration = Duration::from_millis(700);

#[test]
fn command_at_the_moment_of_a_kill_is_answered_by_the_next_worker() {
    require!(fuse);
    let _alone = alone();
    let ground = Ground::new(Backing::Directory, Duration::from_secs(120), |_| {});
    let keeper = ground.daemon().keeper_pid();
    for generation in 2..=8 {
        thread::sleep(OLD);
        children(keeper).into_iter().for_each(|worker| kill(worker, Signal::KILL));
        let status = ground.daemon().status();
        assert_eq!(status.generation, generation);
        assert_eq!(ground.daemon().cli(["ls", "--quiet"]).ok().lines().count(), 1);
    }
}

#[test]
fn commands_without_pause_never_fail_while_workers_die() {
    require!(fuse);
    let _alone = alone();
    let ground = Ground::new(Backing::Directory, Duration::from_secs(120), |_| {});
    let daemon = ground.daemon();
    let keeper = daemon.keeper_pid();
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while daemon.status().generation < 6 {
                asked += 1;
            }
            asked
        });
        for _ in 0..5 {
            thread::sleep(OLD);
            children(keeper).into_iter().for_each(|worker| kill(worker, Signal::KILL));
        }
        assert!(asking.join().unwrap() >= 5, "nobody asked meanwhile");
    });
}

#[test]
fn last_lines_of_a_worker_are_for_root_only() {
    require!(fuse);
    let _alone = alone();
    let ground = Ground::new(Backing::Directory, Duration::from_secs(60), |_| {});
    thread::sleep(OLD);
    kill(ground.daemon().worker_pid(), Signal::KILL);
    assert!(!ground.daemon().status().events[0].log.is_empty());
    // Where everybody can reach it.
    let program = ground.daemon().dir().join("wsguard");
    fs::copy(wsguard_binary(), &program).unwrap();
    let text = run_as(1000, 1000, &[], &program)
        .args(["status", "--json", "--socket"])
        .arg(ground.daemon().socket())
        .ok();
    let status: wsguard_api::DaemonStatus = serde_json::from_str(&text).unwrap();
    assert_eq!((status.events.len(), status.events[0].log.len()), (1, 0), "{text}");
}
