//! What cannot be guarded is refused with a clear error, and nothing is half-mounted afterwards.

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::{
    Backing, Daemon, FsKind, Mount, Output, Run, mounts, mounts_below, require, run_as, wsguard_binary,
};
use serde_json::Value;

/// One thing that `wsguard mount` must refuse.
struct Case {
    what: &'static str,
    exit_code: i32,
    /// Part of the message or of the hint.
    says: &'static str,
    path: PathBuf,
}

/// Returns the mounts that this test could have made; other tests mount at the same time.
fn own_mounts(daemon: &Daemon) -> Vec<Mount> {
    let is_own = |mount: &Mount| {
        let path = &mount.mount_point;
        path.starts_with(daemon.dir()) || path == Path::new("/") || path == Path::new("/proc")
    };
    mounts().into_iter().filter(is_own).collect()
}

#[test]
fn directories_that_cannot_be_guarded_are_refused_and_nothing_stays_mounted() {
    require!(fuse);
    let daemon = Daemon::start();
    let base = daemon.make_dir("w");
    let guarded = daemon.make_dir("w/outer/guarded");
    fs::create_dir(guarded.join("inside")).unwrap();
    fs::write(base.join("file"), "not a directory").unwrap();
    daemon.mount(&guarded);
    let cases = [
        Case { what: "a file", exit_code: 2, says: "director", path: base.join("file") },
        Case { what: "a missing path", exit_code: 3, says: "missing", path: base.join("missing") },
        Case { what: "the root directory", exit_code: 2, says: "/", path: "/".into() },
        Case {
            what: "a directory inside a workspace",
            exit_code: 4,
            says: "inside",
            path: guarded.join("inside"),
        },
        Case {
            what: "a directory with a workspace in it",
            exit_code: 4,
            says: "guarded",
            path: base.join("outer"),
        },
        Case { what: "a guarded directory", exit_code: 4, says: "already", path: guarded.clone() },
        Case { what: "a directory of the kernel", exit_code: 2, says: "proc", path: "/proc".into() },
    ];
    let before = (own_mounts(&daemon), daemon.list().items);
    for case in cases {
        let output = daemon.command().arg("mount").arg(&case.path).arg("--json").output();
        check_refusal(&case, &output);
        assert_eq!(own_mounts(&daemon), before.0, "mounting {} changed the mounts", case.what);
    }
    assert_eq!(daemon.list().items.len(), before.1.len());
}

fn check_refusal(case: &Case, output: &Output) {
    let Case { what, exit_code, says, .. } = case;
    assert_eq!(output.code, *exit_code, "mounting {what}:\n{}\n{}", output.stdout, output.stderr);
    let error: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{what}: {error}: {output:?}"));
    assert_eq!(error["exit_code"], *exit_code, "{what}");
    assert!(output.stderr.contains("error: "), "{what}: {}", output.stderr);
    assert!(output.stderr.contains("hint: "), "{what} comes without a hint: {}", output.stderr);
    assert!(output.stderr.to_lowercase().contains(says), "{what} does not say {says:?}: {}", output.stderr);
}

#[test]
fn a_read_only_backing_is_refused() {
    require!(fuse, ext4);
    let backing = Backing::Loop(FsKind::Ext4, 64 << 20).make();
    let daemon = Daemon::start();
    let dir = backing.path().join("project");
    fs::create_dir(&dir).unwrap();
    backing.loop_fs().set_read_only(true);
    let before = mounts_below(backing.path());
    let output = daemon.command().arg("mount").arg(&dir).output().expect_code(7);
    assert!(output.stderr.contains("read-only") && output.stderr.contains("hint: "), "{}", output.stderr);
    assert_eq!(mounts_below(backing.path()), before);
    assert_eq!(daemon.list().items, []);
}

#[test]
fn a_workspace_name_that_is_taken_is_refused() {
    require!(fuse);
    let daemon = Daemon::start();
    daemon.mount_with(&daemon.make_dir("w/one"), &["--name", "same", "--owner", "1000"]);
    let second = daemon.make_dir("w/two");
    let output =
        daemon.command().arg("mount").arg(&second).args(["--name", "same", "--owner", "1000"]).output();
    output.expect_code(4);
    assert_eq!(mounts_below(&second), []);
}

#[test]
fn mounting_without_root_is_refused() {
    require!(fuse);
    let daemon = Daemon::start();
    let dir = daemon.make_dir("w");
    let before = own_mounts(&daemon);
    // The build directory may be out of reach for other users, so they get a copy.
    let binary = copy_for_everybody(daemon.dir());
    let client = |arguments: &[&str]| {
        run_as(1000, 1000, &[], &binary)
            .args(arguments)
            .env("WSGUARD_RUNTIME_DIR", daemon.runtime_dir())
            .env("WSGUARD_STATE_DIR", daemon.state_dir())
            .env("WSGUARD_CONFIG", daemon.config_file())
            .output()
    };
    let output = client(&["mount", dir.to_str().unwrap()]).expect_code(9);
    assert!(output.stderr.contains("root"), "{}", output.stderr);
    assert_eq!(own_mounts(&daemon), before);
}

#[test]
fn starting_a_daemon_without_root_is_refused() {
    require!(fuse);
    let daemon = Daemon::builder().prepare();
    let binary = copy_for_everybody(daemon.dir());
    let own = daemon.make_dir("own");
    rustix::fs::chown(&own, Some(rustix::fs::Uid::from_raw(1000)), None).unwrap();
    let output = run_as(1000, 1000, &[], binary)
        .args(["daemon", "--state-dir"])
        .arg(own.join("s"))
        .arg("--runtime-dir")
        .arg(own.join("r"))
        .env("WSGUARD_CONFIG", daemon.config_file())
        .output()
        .expect_code(9);
    assert!(output.stderr.contains("root"), "{}", output.stderr);
}

#[test]
fn a_second_daemon_on_the_same_directories_is_refused_and_the_first_goes_on() {
    require!(fuse);
    let daemon = Daemon::start();
    let workspace = daemon.mount(&daemon.make_dir("w"));
    let output = daemon.cli(["daemon"]).expect_code(4);
    let keeper = daemon.keeper_pid().to_string();
    assert!(output.stderr.contains(&keeper), "the running one is not named: {}", output.stderr);
    fs::write(workspace.mount_point.join("file"), "still guarded").unwrap();
    assert_eq!(daemon.status().workspaces.len(), 1);
}

#[test]
fn a_config_with_a_misspelt_key_is_refused_with_the_nearest_one() {
    require!(fuse);
    let daemon = Daemon::builder().config("[workspaces]\nrots = []\n").prepare();
    let output = daemon.cli(["daemon"]);
    assert_ne!(output.code, 0);
    assert!(output.stderr.contains("rots") && output.stderr.contains("roots"), "{}", output.stderr);
}

fn copy_for_everybody(dir: &Path) -> PathBuf {
    let copy = dir.join("wsguard");
    Run::new("install").args(["-m", "755"]).arg(wsguard_binary()).arg(&copy).ok();
    copy
}
