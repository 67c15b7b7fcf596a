//! What cannot start or mount says so once and leaves everything as it was.

use std::fs;

use harness::{Daemon, require};
use wsguard_api::WorkspaceState;

#[test]
fn a_worker_that_cannot_start_is_reported_once() {
    require!(fuse);
    let daemon = Daemon::builder().prepare();
    // A socket's path has at most 107 bytes.
    let runtime_dir = daemon.dir().join("r".repeat(100));
    let output =
        daemon.command().arg("daemon").arg("--runtime-dir").arg(&runtime_dir).output().expect_code(7);
    let times = |text: &str| output.stderr.matches(text).count();
    assert_eq!(
        (times("cannot listen on"), times("error: "), times("hint: ")),
        (1, 1, 1),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("--runtime-dir"), "{}", output.stderr);
}

#[test]
fn a_failed_mount_of_an_unmounted_workspace_changes_nothing() {
    require!(fuse);
    let mut daemon = Daemon::start();
    let workspace = daemon.mount(&daemon.make_dir("w"));
    daemon.command().arg("umount").arg(&workspace.dir).ok();
    let taken = daemon.make_dir("taken");
    fs::write(taken.join("file"), "content").unwrap();
    let before = daemon.workspace(&workspace.id);
    assert_eq!(before.state, WorkspaceState::Unmounted);

    let mut command = daemon.command().arg("mount").arg(&workspace.dir).args(["--name", "other"]);
    command = command.args(["--owner", "1000", "--ownership", "squash", "--at"]).arg(&taken);
    let output = command.output().expect_code(4);
    assert!(output.stderr.contains("not empty"), "{}", output.stderr);
    assert_eq!(daemon.workspace(&workspace.id), before);

    daemon.terminate();
    daemon.start_again();
    assert_eq!(daemon.workspace(&workspace.id), before);
}
