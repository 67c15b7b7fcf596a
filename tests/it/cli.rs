//! The commands as a program sees them: JSON, exit codes, and what they change on the machine.

use std::{fs, os::unix::fs::MetadataExt, process::Stdio, time::Duration};

use harness::{
    Daemon, GuardMount, Output, Run, children, is_alive, kill, mounts, mounts_below, require, wait_until,
};
use rustix::process::Signal;
use serde_json::Value;
use wsguard_api::{
    DataPath, MountAllReport, Ownership, SCHEMA_VERSION, SyncReport, UmountReport, WorkspaceList,
    WorkspaceState,
};

fn json(output: Output) -> Value {
    let text = output.ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn mount_says_what_is_guarded_and_how() {
    require!(fuse);
    let mount = GuardMount::builder().name("my-project").mount();
    let workspace = mount.workspace();
    assert_eq!(workspace.name, "my-project");
    assert_eq!(workspace.mount_point, workspace.dir);
    assert_eq!(workspace.state, WorkspaceState::Mounted);
    assert_eq!(workspace.ownership, Ownership::Preserve);
    assert_eq!((workspace.owner_uid, workspace.owner_gid), (0, 0));
    assert_eq!(workspace.data_path, Some(DataPath::Passthrough));
    assert!(!workspace.from_roots);
    assert!(workspace.mounted_at.is_some() && workspace.coherence.is_some());
    assert_eq!(workspace.source, mount.daemon().runtime_dir().join("m").join(&workspace.id));
    let backing = workspace.backing.as_ref().expect("a mounted workspace has a backing filesystem");
    assert!(backing.total_bytes >= backing.available_bytes && backing.available_bytes > 0, "{backing:?}");
    assert!(!backing.read_only);
}

#[test]
fn the_directory_and_the_bind_source_are_one_private_mount_without_devices_and_setuid() {
    require!(fuse);
    let mount = GuardMount::new();
    let found: Vec<_> = mounts()
        .into_iter()
        .filter(|found| found.mount_point == mount.path() || found.mount_point == mount.source())
        .collect();
    assert_eq!(found.len(), 2, "{found:?}");
    for one in &found {
        assert!(one.fs_type.starts_with("fuse"), "{one:?}");
        assert!(one.propagation.is_empty(), "{one:?}");
        for option in ["nosuid", "nodev"] {
            assert!(one.options.iter().any(|found| found == option), "{option} is missing: {one:?}");
        }
        for option in ["allow_other", "default_permissions"] {
            assert!(one.super_options.iter().any(|found| found == option), "{option} is missing: {one:?}");
        }
    }
    assert_eq!(found[0].device, found[1].device);
    let (path, source) = (fs::metadata(mount.path()).unwrap(), fs::metadata(mount.source()).unwrap());
    assert_eq!((path.dev(), path.ino()), (source.dev(), source.ino()));
}

#[test]
fn a_directory_of_an_unprivileged_user_is_squashed_by_default() {
    require!(fuse);
    let mount = GuardMount::builder().owner(1000).mount();
    assert_eq!(mount.workspace().ownership, Ownership::Squash);
    assert_eq!((mount.workspace().owner_uid, mount.workspace().owner_gid), (1000, 1000));
}

#[test]
fn owner_and_ownership_can_be_chosen() {
    require!(fuse);
    let daemon = Daemon::start();
    let dir = daemon.make_dir("w");
    let workspace = daemon.mount_with(&dir, &["--owner", "1234", "--ownership", "preserve"]);
    assert_eq!((workspace.owner_uid, workspace.ownership), (1234, Ownership::Preserve));
}

#[test]
fn at_mounts_elsewhere_and_leaves_the_directory_reachable() {
    require!(fuse);
    let daemon = Daemon::start();
    let (dir, at) = (daemon.make_dir("w"), daemon.make_dir("at"));
    let workspace = daemon.mount_with(&dir, &["--at", at.to_str().unwrap()]);
    assert_eq!((workspace.dir.as_path(), workspace.mount_point.as_path()), (dir.as_path(), at.as_path()));
    fs::write(at.join("file"), "through the guard").unwrap();
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "through the guard");
    assert!(mounts_below(&dir).is_empty());
    daemon.cli(["umount", dir.to_str().unwrap()]).ok();
    assert_eq!(fs::read_dir(&at).unwrap().count(), 0);
}

#[test]
fn ls_lists_every_registered_workspace_by_name() {
    require!(fuse);
    let daemon = Daemon::start();
    for name in ["zebra", "ant"] {
        daemon.mount(&daemon.make_dir(name));
    }
    let list: WorkspaceList = serde_json::from_value(json(daemon.cli(["ls", "--json"]))).unwrap();
    assert_eq!(list.schema, SCHEMA_VERSION);
    let names: Vec<&str> = list.items.iter().map(|workspace| workspace.name.as_str()).collect();
    assert_eq!(names, ["ant", "zebra"]);
    let table = daemon.cli(["ls"]).ok();
    assert!(table.contains("ant") && table.contains("zebra"), "{table}");
}

#[test]
fn status_names_both_processes_and_what_they_hold() {
    require!(fuse);
    let mount = GuardMount::new();
    let status = mount.daemon().status();
    assert_eq!(status.schema, SCHEMA_VERSION);
    assert_eq!(status.keeper_pid, mount.daemon().keeper_pid());
    assert_eq!(children(status.keeper_pid), [status.worker_pid]);
    assert_eq!(status.generation, 1);
    assert_eq!(
        (status.state_dir, status.runtime_dir),
        (mount.daemon().state_dir(), mount.daemon().runtime_dir())
    );
    assert_eq!(status.config, Some(mount.daemon().config_file()));
    assert_eq!(status.kernel, fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    assert!(status.open_fds > 0 && status.open_fds < status.fd_limit);
    assert!(status.resident_bytes > 0);
    assert_eq!(status.workspaces.len(), 1);
    let text = mount.daemon().cli(["status"]).ok();
    assert!(text.contains("project") && text.contains("mounted"), "{text}");
}

#[test]
fn umount_gives_the_plain_directory_back() {
    require!(fuse);
    let mount = GuardMount::new();
    fs::write(mount.path().join("file"), "content").unwrap();
    let output = mount.daemon().cli(["umount", mount.path().to_str().unwrap(), "--json"]);
    let report: UmountReport = serde_json::from_value(json(output)).unwrap();
    assert!(!report.detached && !report.forgotten && report.users.is_empty(), "{report:?}");
    assert_eq!(report.workspace.state, WorkspaceState::Unmounted);
    assert!(mounts_below(mount.path()).is_empty());
    assert!(mounts_below(mount.source()).is_empty());
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "content");
    assert_eq!(mount.daemon().workspace(&mount.workspace().id).state, WorkspaceState::Unmounted);
}

#[test]
fn umount_of_a_busy_workspace_detaches_it_and_says_who_uses_it() {
    require!(fuse);
    let mount = GuardMount::new();
    let mut user = Run::new("sleep").arg("60").current_dir(mount.path()).spawn(
        Stdio::null(),
        Stdio::null(),
        Stdio::null(),
    );
    let output = mount.daemon().cli(["umount", mount.path().to_str().unwrap(), "--json"]);
    let report = serde_json::from_value::<UmountReport>(json(output));
    user.kill().unwrap();
    user.wait().unwrap();
    let report = report.unwrap();
    assert!(report.detached, "{report:?}");
    let found = report.users.iter().find(|found| found.pid == user.id()).expect("the process is named");
    assert_eq!((found.command.as_str(), found.holds.as_str()), ("sleep", "working directory"));
    assert!(mounts_below(mount.path()).is_empty());
}

#[test]
fn umount_forget_takes_the_workspace_out_of_the_registry_and_leaves_the_files() {
    require!(fuse);
    let mount = GuardMount::new();
    fs::write(mount.path().join("file"), "content").unwrap();
    let output = mount.daemon().cli(["umount", &mount.workspace().name, "--forget", "--json"]);
    let report: UmountReport = serde_json::from_value(json(output)).unwrap();
    assert!(report.forgotten);
    assert_eq!(mount.daemon().list().items, []);
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "content");
}

#[test]
fn an_unmounted_workspace_is_guarded_again_by_mount() {
    require!(fuse);
    let mut mount = GuardMount::new();
    let id = mount.workspace().id.clone();
    mount.umount();
    mount.mount_again();
    assert!(mount.is_mounted());
    assert_eq!(mount.workspace().id, id);
}

#[test]
fn sync_names_the_workspace_it_synced() {
    require!(fuse);
    let mount = GuardMount::new();
    let file = mount.path().join("file");
    fs::write(&file, "content").unwrap();
    let output = mount.daemon().cli(["sync", file.to_str().unwrap(), "--json"]);
    let report: SyncReport = serde_json::from_value(json(output)).unwrap();
    assert_eq!(report.schema, SCHEMA_VERSION);
    assert!(
        report.workspace == mount.workspace().id || report.workspace == mount.workspace().name,
        "{report:?}"
    );
    mount.daemon().cli(["sync", "/"]).expect_code(3);
}

#[test]
fn mount_all_without_roots_mounts_what_is_registered() {
    require!(fuse);
    let mount = GuardMount::new();
    mount.umount();
    let report: MountAllReport =
        serde_json::from_value(json(mount.daemon().cli(["mount", "--all", "--json"]))).unwrap();
    assert_eq!(report.failed, []);
    assert!(report.mounted.len() + usize::try_from(report.already).unwrap() <= 1, "{report:?}");
}

#[test]
fn doctor_finds_a_healthy_mount_healthy() {
    require!(fuse);
    let mount = GuardMount::new();
    let output = mount.daemon().cli(["doctor", "--json"]);
    // 10 where this machine lacks something, which is not what this test is about.
    assert!(output.code == 0 || output.code == 10, "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["schema"], SCHEMA_VERSION);
    assert!(report.to_string().contains("passthrough"), "{report:#}");
}

#[test]
fn doctor_fails_for_a_dead_mount_and_does_not_hang_on_it() {
    require!(fuse);
    let mut mount = GuardMount::new();
    mount.daemon_mut().kill_all();
    let output = mount.daemon().command().arg("doctor").timeout(Duration::from_secs(30)).output();
    output.expect_code(10);
}

#[test]
fn unknown_workspaces_are_not_found() {
    require!(fuse);
    let daemon = Daemon::start();
    let output = daemon.cli(["umount", "nobody", "--json"]).expect_code(3);
    let error: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(error["code"], "not-found");
    assert_eq!(error["exit_code"], 3);
    assert!(output.stderr.contains("error: ") && output.stderr.contains("nobody"), "{}", output.stderr);
}

#[test]
fn wrong_usage_exits_with_2() {
    require!(root);
    let daemon = Daemon::builder().prepare();
    daemon.cli(["mount"]).expect_code(2);
    daemon.cli(["frobnicate"]).expect_code(2);
    daemon.cli(["mount", "--ownership", "mine", "/tmp"]).expect_code(2);
}

#[test]
fn clients_without_a_daemon_exit_with_7_and_say_what_to_do() {
    require!(root);
    let daemon = Daemon::builder().prepare();
    for command in ["status", "ls"] {
        let output = daemon.cli([command]).expect_code(7);
        assert!(output.stderr.contains("error: ") && output.stderr.contains("hint: "), "{}", output.stderr);
    }
}

#[test]
fn completions_are_printed_for_every_shell_without_a_daemon() {
    require!(root);
    let daemon = Daemon::builder().prepare();
    for shell in ["bash", "zsh", "fish"] {
        assert!(daemon.cli(["completion", shell]).ok().contains("wsguard"), "{shell}");
    }
}

#[test]
fn mount_starts_a_daemon_if_none_runs() {
    require!(fuse);
    let daemon = Daemon::builder().prepare();
    let dir = daemon.make_dir("w");
    let text = daemon.command().arg("mount").arg(&dir).ok();
    let keeper = daemon.status().keeper_pid;
    fs::write(dir.join("file"), "content").unwrap();
    let found = mounts_below(&dir);
    kill(keeper, Signal::TERM);
    wait_until("the daemon to end", Duration::from_secs(15), || !is_alive(keeper));
    assert!(text.contains(dir.to_str().unwrap()) && text.contains("docker run"), "{text}");
    assert!(found.iter().any(|mount| mount.fs_type.starts_with("fuse")), "{found:?}");
    assert!(mounts_below(daemon.dir()).is_empty());
}

#[test]
fn every_command_has_an_example_and_its_exit_codes_in_the_help() {
    require!(root);
    let daemon = Daemon::builder().prepare();
    for command in ["mount", "umount", "ls", "status", "sync", "quota", "doctor", "daemon"] {
        let help = daemon.cli([command, "--help"]).ok();
        assert!(help.contains(&format!("wsguard {command}")), "{help}");
        assert!(
            help.to_lowercase().contains("exit codes") || help.to_lowercase().contains("exit status"),
            "{help}"
        );
    }
}
