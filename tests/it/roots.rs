//! Directories below the configured roots are guarded as they appear.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use harness::{Daemon, Scratch, mounts_below, require, wait_for};
use wsguard_api::{MountAllReport, Workspace, WorkspaceState};

/// When a test gives up; other tests may keep all CPUs busy.
const GUARDED_WITHIN: Duration = Duration::from_secs(10);

/// How soon a new project must be guarded on a machine that has a CPU to spare now and then. Searching, which
/// happens every five seconds, does not do.
const PROMISED: Duration = Duration::from_millis(1500);

fn daemon_with_roots(home: &Path) -> Daemon {
    Daemon::builder()
        .config(format!("[workspaces]\nroots = [\"{}/*/workspace/*\"]\n", home.display()))
        .start()
}

fn wait_until_guarded(daemon: &Daemon, dir: &Path) -> Workspace {
    wait_for(&format!("{} to be guarded", dir.display()), GUARDED_WITHIN, || {
        let found = daemon.status().workspaces.into_iter().find(|workspace| workspace.dir == dir)?;
        let is_mounted = mounts_below(dir).iter().any(|mount| mount.fs_type.starts_with("fuse"));
        (found.state == WorkspaceState::Mounted && is_mounted).then_some(found)
    })
}

#[test]
fn existing_and_new_projects_of_every_user_are_guarded() {
    require!(fuse);
    let home = Scratch::new();
    let old = home.dir("alice/workspace/old");
    fs::write(old.join("file"), "content").unwrap();
    rustix::fs::chown(&old, Some(rustix::fs::Uid::from_raw(1000)), Some(rustix::fs::Gid::from_raw(1000)))
        .unwrap();
    home.dir("bob/workspace");
    let daemon = daemon_with_roots(home.path());

    let workspace = wait_until_guarded(&daemon, &old);
    assert!(workspace.from_roots);
    assert_eq!(workspace.owner_uid, 1000);
    assert_eq!(fs::read_to_string(old.join("file")).unwrap(), "content");

    wait_until_guarded(&daemon, &home.dir("alice/workspace/new"));
    wait_until_guarded(&daemon, &home.dir("bob/workspace/first"));
    // A user whose home did not exist when the daemon started.
    wait_until_guarded(&daemon, &home.dir("carol/workspace/project"));
    assert_eq!(daemon.list().unguarded, []);
}

#[test]
fn a_new_project_is_guarded_at_once() {
    require!(fuse);
    let home = Scratch::new();
    let old = home.dir("alice/workspace/old");
    let daemon = daemon_with_roots(home.path());
    wait_until_guarded(&daemon, &old);
    let places = ["alice/workspace/new", "bob/workspace/first", "alice/workspace/newer", "carol/workspace/x"];
    let mut took = places.map(|place| {
        let dir = home.dir(place);
        let begun = Instant::now();
        wait_until_guarded(&daemon, &dir);
        begun.elapsed()
    });
    took.sort();
    assert!(took[places.len() / 2] < PROMISED, "{took:?}");
}

#[test]
fn a_project_that_is_renamed_into_place_is_guarded() {
    require!(fuse);
    let home = Scratch::new();
    let (elsewhere, dir) = (home.dir("elsewhere"), home.dir("alice/workspace").join("moved"));
    fs::write(elsewhere.join("file"), "content").unwrap();
    let daemon = daemon_with_roots(home.path());
    fs::rename(&elsewhere, &dir).unwrap();
    wait_until_guarded(&daemon, &dir);
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "content");
}

#[test]
fn files_and_links_below_the_roots_are_left_alone() {
    require!(fuse);
    let home = Scratch::new();
    let (workspace, other) = (home.dir("alice/workspace"), home.dir("other"));
    fs::write(workspace.join("file"), "content").unwrap();
    std::os::unix::fs::symlink(&other, workspace.join("link")).unwrap();
    let daemon = daemon_with_roots(home.path());
    let project = home.dir("alice/workspace/project");
    wait_until_guarded(&daemon, &project);
    let guarded: Vec<_> = daemon.status().workspaces.into_iter().map(|workspace| workspace.dir).collect();
    assert_eq!(guarded, [project]);
    assert_eq!(mounts_below(&other), []);
}

#[test]
fn a_project_unmounted_on_request_stays_so_and_is_listed_as_unguarded() {
    require!(fuse);
    let home = Scratch::new();
    let dir = home.dir("alice/workspace/project");
    let daemon = daemon_with_roots(home.path());
    wait_until_guarded(&daemon, &dir);
    daemon.command().arg("umount").arg(&dir).ok();
    let next = home.dir("alice/workspace/next");
    wait_until_guarded(&daemon, &next);
    assert_eq!(mounts_below(&dir), [], "it was mounted again against the request");
    let unguarded = daemon.list().unguarded;
    assert_eq!(unguarded.iter().map(|found| found.dir.as_path()).collect::<Vec<_>>(), [dir.as_path()]);
    assert!(!unguarded[0].reason.is_empty());

    let report: MountAllReport =
        serde_json::from_str(&daemon.cli(["mount", "--all", "--json"]).ok()).unwrap();
    assert_eq!(report.failed, []);
    assert_eq!(
        report.mounted.iter().map(|workspace| workspace.dir.as_path()).collect::<Vec<_>>(),
        [dir.as_path()]
    );
    assert_eq!(report.already, 1);
}

#[test]
fn a_new_root_in_the_config_takes_effect_at_the_next_start() {
    require!(fuse);
    let home = Scratch::new();
    let dir = home.dir("alice/workspace/project");
    let mut daemon = Daemon::start();
    assert_eq!(daemon.status().workspaces, []);
    daemon.terminate();
    fs::write(
        daemon.config_file(),
        format!("[workspaces]\nroots = [\"{}/*/workspace/*\"]\n", home.path().display()),
    )
    .unwrap();
    daemon.start_again();
    wait_until_guarded(&daemon, &dir);
    assert_eq!(daemon.status().roots, [format!("{}/*/workspace/*", home.path().display())]);
}
