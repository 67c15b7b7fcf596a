//! What was written while nothing was mounted is found at the next mount and reported.

use std::{fs, time::Duration};

use harness::{Daemon, GuardMount, require, unmount_below, wait_for};
use wsguard_api::ChangedOutside;

const SCAN_TIMEOUT: Duration = Duration::from_secs(20);

/// Lets what was written so far become older than the last moment that the daemon is sure to have watched.
///
/// Change times come from a clock that ticks every few milliseconds, so the daemon subtracts ten.
fn let_a_tick_pass() {
    std::thread::sleep(Duration::from_millis(50));
}

/// Waits for the end of the search and returns what it found.
fn found(daemon: &Daemon, id: &str) -> Option<ChangedOutside> {
    wait_for("the search for outside changes to end", SCAN_TIMEOUT, || {
        let changed = daemon.workspace(id).changed_outside;
        if changed.as_ref().is_some_and(|changed| changed.scanning) { None } else { Some(changed) }
    })
}

#[test]
fn edits_while_the_daemon_was_stopped_are_reported() {
    require!(fuse);
    let mut mount = GuardMount::new();
    fs::create_dir(mount.path().join("sub")).unwrap();
    fs::write(mount.path().join("untouched"), "old").unwrap();
    fs::write(mount.path().join("edited"), "old").unwrap();
    let_a_tick_pass();
    mount.daemon_mut().terminate();
    fs::write(mount.path().join("edited"), "new").unwrap();
    fs::write(mount.path().join("sub/added"), "new").unwrap();
    mount.daemon_mut().start_again();
    let changed = wait_for("the report", SCAN_TIMEOUT, || found(mount.daemon(), &mount.workspace().id));
    for name in ["edited", "sub/added"] {
        assert!(changed.sample.iter().any(|found| found == name), "{name} is missing: {changed:?}");
    }
    assert!(!changed.sample.iter().any(|found| found == "untouched"), "{changed:?}");
    assert!(changed.entries >= 2, "{changed:?}");
}

#[test]
fn edits_between_umount_and_mount_are_reported() {
    require!(fuse);
    let mut mount = GuardMount::new();
    fs::write(mount.path().join("file"), "old").unwrap();
    mount.umount();
    fs::write(mount.path().join("file"), "new").unwrap();
    mount.mount_again();
    let changed = wait_for("the report", SCAN_TIMEOUT, || found(mount.daemon(), &mount.workspace().id));
    assert!(changed.sample.iter().any(|found| found == "file"), "{changed:?}");
}

#[test]
fn edits_after_a_crash_are_reported() {
    require!(fuse);
    let mut mount = GuardMount::new();
    fs::write(mount.path().join("file"), "old").unwrap();
    mount.daemon_mut().kill_all();
    unmount_below(mount.path());
    fs::write(mount.path().join("stray"), "written below the mount").unwrap();
    mount.daemon_mut().start_again();
    let changed = wait_for("the report", SCAN_TIMEOUT, || found(mount.daemon(), &mount.workspace().id));
    assert!(changed.sample.iter().any(|found| found == "stray"), "{changed:?}");
}

#[test]
fn nothing_is_reported_if_nothing_was_changed_outside() {
    require!(fuse);
    let mut mount = GuardMount::new();
    fs::write(mount.path().join("file"), "through the guard").unwrap();
    let_a_tick_pass();
    mount.daemon_mut().terminate();
    mount.daemon_mut().start_again();
    assert_eq!(found(mount.daemon(), &mount.workspace().id), None);
}
