//! The keeper is killed, and a service manager that has kept its descriptors starts the next one.

use std::{fs, path::PathBuf, thread, time::Duration};

use harness::{Backing, Daemon, ServiceManager, mounts, require, wait_until};

use super::{
    ground::{Ground, alone},
    load::{Load, make_listed_files},
    stall::StallProbe,
};

const SOON: Duration = Duration::from_secs(10);

fn ground_under(manager: &ServiceManager) -> Ground {
    let socket = manager.socket().to_string_lossy().into_owned();
    let daemon = Daemon::builder().deadline(Duration::from_secs(150)).env("NOTIFY_SOCKET", socket);
    Ground::with_daemon(Backing::Directory, daemon, make_listed_files)
}

fn guarded(daemon: &Daemon) -> Vec<(PathBuf, String)> {
    let ours = mounts().into_iter().filter(|mount| mount.mount_point.starts_with(daemon.runtime_dir()));
    ours.map(|mount| (mount.mount_point, mount.device)).collect()
}

/// Waits until the service manager has heard everything that a keeper has said.
fn wait_for_parts(manager: &ServiceManager, workspaces: usize) {
    let parts = 4 * workspaces + 1;
    wait_until("everything to be in the store", SOON, || manager.names().len() == parts);
}

#[test]
fn next_keeper_goes_on_with_what_was_kept_and_no_program_notices() {
    require!(fuse);
    let _alone = alone();
    let manager = ServiceManager::new();
    let mut ground = ground_under(&manager);
    wait_for_parts(&manager, 1);
    assert!(manager.has_heard("READY=1"));
    let (mounted, keeper) = (guarded(ground.daemon()), ground.daemon().keeper_pid());
    let probe = StallProbe::start(&ground.dirs("probe").0.join("probe"));
    let load = Load::start(&ground);
    for round in 0..3 {
        thread::sleep(Duration::from_millis(700));
        ground.mount.daemon_mut().kill_keeper();
        let kept = manager.kept();
        assert_eq!(kept.len(), 5, "round {round}: {kept:?}");
        ground.mount.daemon_mut().start_again_with(&kept);
        drop(kept);
        println!("round {round}: the longest call took {:?}", probe.take_worst());
    }
    let status = ground.daemon().status();
    assert_ne!(status.keeper_pid, keeper);
    assert_eq!(guarded(ground.daemon()), mounted, "the same superblocks");
    assert!(status.events[0].reason.contains("the keeper was killed"), "{:?}", status.events);
    assert!(status.events[0].stall_ms.is_some() && status.resent_requests > 0, "{status:?}");
    println!("the keeper was killed three times: {}", load.finish());
    probe.finish();
    // It is a keeper like any other.
    harness::kill(status.worker_pid, rustix::process::Signal::KILL);
    fs::write(ground.mount.path().join("file"), "waited").unwrap();
    assert_eq!(ground.daemon().status().generation, 2);
}

#[test]
fn keeper_that_stops_leaves_nothing_in_the_store() {
    require!(fuse);
    let _alone = alone();
    let manager = ServiceManager::new();
    let mut ground = ground_under(&manager);
    let second = ground.mount.daemon_mut().make_dir("second");
    let second = ground.daemon().mount(&second);
    wait_for_parts(&manager, 2);
    ground.daemon().command().arg("umount").arg(&second.mount_point).ok();
    wait_for_parts(&manager, 1);
    assert_eq!(ground.mount.daemon_mut().terminate().code, 0);
    wait_until("the store to be empty", SOON, || manager.names().is_empty());
    assert!(manager.has_heard("STOPPING=1"));
}

#[test]
fn session_of_which_a_part_was_not_kept_is_mounted_anew() {
    require!(fuse);
    let _alone = alone();
    let manager = ServiceManager::new();
    let mut ground = ground_under(&manager);
    fs::write(ground.mount.path().join("file"), "content").unwrap();
    wait_for_parts(&manager, 1);
    let before = guarded(ground.daemon());
    ground.mount.daemon_mut().kill_keeper();
    let mut kept = manager.kept();
    kept.retain(|(name, _)| !name.ends_with(".state"));
    ground.mount.daemon_mut().start_again_with(&kept);
    drop(kept);
    assert_eq!(fs::read(ground.mount.path().join("file")).unwrap(), b"content");
    assert_ne!(guarded(ground.daemon()), before, "a superblock without its state is of no use");
    wait_for_parts(&manager, 1);
}
