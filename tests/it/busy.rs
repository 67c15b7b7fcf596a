//! What is already open in a directory when it is to be guarded.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use harness::{Daemon, Docker, Run, Scratch, mounts_below, require, wait_for, wait_until};
use serde_json::Value;
use wsguard_api::{Workspace, WorkspaceState};

/// A process that ends with the test.
struct Holder(Child);

impl Holder {
    fn start(run: Run, stdin: Stdio) -> Self {
        Self(run.spawn(stdin, Stdio::null(), Stdio::null()))
    }

    /// Holds `file` as its standard input.
    fn of_file(file: File) -> Self {
        Self::start(Run::new("sleep").arg("120"), Stdio::from(file))
    }

    /// Runs a script that ends in a long sleep, and waits until that sleep is all that is left to do.
    fn of_script(script: &str, dir: &Path) -> Self {
        let run = Run::new("unshare").args(["--mount", "/bin/sh", "-euc", script, "sh"]).arg(dir);
        let holder = Self::start(run, Stdio::null());
        let pid = holder.pid();
        wait_until("the script to be done", Duration::from_secs(10), || {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "sleep")
        });
        holder
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Returns what it holds according to the daemon.
    fn holds(&self, workspace: &Workspace) -> Vec<String> {
        let own = workspace.bypassing.iter().filter(|user| user.pid == self.pid());
        own.map(|user| user.holds.clone()).collect()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Checks that mounting `dir` is refused because of `holder` and its file `path`.
#[track_caller]
fn assert_refused(daemon: &Daemon, dir: &Path, holder: &Holder, path: &str) {
    let output = daemon.command().arg("mount").arg(dir).arg("--json").output().expect_code(4);
    let error: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(error["code"], "conflict", "{error}");
    let message = error["message"].as_str().unwrap();
    let process = format!("{path} by sleep (pid {}", holder.pid());
    for part in ["is in use: 1 file is open for writing: ", &process] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
    assert!(error["hint"].as_str().unwrap().contains("--force"), "{error}");
    assert_eq!(mounts_below(dir), []);
    assert_eq!(daemon.list().items, []);
}

#[test]
fn a_directory_with_a_file_open_for_writing_is_refused_until_it_is_closed() {
    require!(fuse);
    let daemon = Daemon::start();
    let dir = daemon.make_dir("w");
    fs::create_dir(dir.join("sub")).unwrap();
    let holder =
        Holder::of_file(File::options().create(true).append(true).open(dir.join("sub/log")).unwrap());
    assert_refused(&daemon, &dir, &holder, "sub/log");
    drop(holder);
    let workspace = daemon.mount(&dir);
    assert_eq!(workspace.bypassing, []);
}

#[test]
fn force_mounts_over_a_file_open_for_writing_and_says_who_gets_past() {
    require!(fuse);
    let daemon = Daemon::start();
    let dir = daemon.make_dir("w");
    let holder = Holder::of_file(File::create(dir.join("log")).unwrap());
    let workspace = daemon.mount_with(&dir, &["--force"]);
    assert_eq!(workspace.state, WorkspaceState::Mounted);
    assert_eq!(holder.holds(&workspace), ["file open for writing"]);
    assert_eq!(daemon.workspace(&workspace.id).bypassing, workspace.bypassing);
    daemon.command().arg("umount").arg(&dir).ok();
    assert_eq!(daemon.workspace(&workspace.id).bypassing, []);
}

#[test]
fn a_file_that_is_only_read_and_a_program_that_runs_are_reported_and_not_refused() {
    require!(fuse);
    let daemon = Daemon::start();
    let dir = daemon.make_dir("w");
    fs::write(dir.join("data"), "content").unwrap();
    let reader = Holder::of_file(File::open(dir.join("data")).unwrap());
    let sleep = fs::canonicalize("/bin/sleep").unwrap();
    let program = dir.join("program");
    Run::new("install").args(["-m", "755"]).arg(&sleep).arg(&program).ok();
    let running = Holder::start(Run::new(&program).arg("120"), Stdio::null());
    let workspace = daemon.mount(&dir);
    assert_eq!(reader.holds(&workspace), ["open file"]);
    assert_eq!(running.holds(&workspace), ["memory map"]);
}

#[test]
fn a_shell_in_the_directory_can_mount_it_and_is_told_how_to_get_behind_the_guard() {
    require!(fuse);
    let daemon = Daemon::start();
    let dir = daemon.make_dir("w/my project");
    let script = r#"
        cd "$1"
        plain=$(stat -c %d .)
        "$2" mount .
        [ "$(stat -c %d .)" = "$plain" ] && echo "still plain"
        cd "$1"
        [ "$(stat -c %d .)" = "$plain" ] || echo "guarded"
    "#;
    let run = Run::shell(script, [dir.as_os_str(), harness::wsguard_binary().as_os_str()]);
    let output = run
        .env("WSGUARD_STATE_DIR", daemon.state_dir())
        .env("WSGUARD_RUNTIME_DIR", daemon.runtime_dir())
        .env("WSGUARD_CONFIG", daemon.config_file())
        .env("NO_COLOR", "1")
        .env_remove("WSGUARD_SOCKET")
        .output()
        .expect_code(0);
    assert!(output.stdout.contains("still plain\nguarded\n"), "{}", output.stdout);
    let note = output.stderr.lines().find(|line| line.contains("past the guard")).expect("a note is printed");
    // Other tests may have a namespace of their own at this moment, and be named as well.
    assert!(note.contains("the plain directory, past the guard: "), "{note}");
    assert!(note.contains("sh (") && note.contains(": working directory"), "{note}");
    assert!(note.contains(&format!("`cd '{}'`", dir.display())), "{note}");
    assert!(!note.contains("wsguard ("), "the command names itself: {note}");
}

#[test]
fn a_writer_in_another_mount_namespace_is_found_by_the_path_that_it_sees() {
    require!(fuse);
    let daemon = Daemon::start();
    let dir = daemon.make_dir("w");
    let script = "mount --bind \"$1\" /mnt; exec 3>>/mnt/log; exec sleep 120";
    let holder = Holder::of_script(script, &dir);
    assert_refused(&daemon, &dir, &holder, "log");
}

#[test]
fn a_bind_in_another_mount_namespace_gets_past_the_guard_and_is_reported() {
    require!(fuse);
    let daemon = Daemon::start();
    let dir = daemon.make_dir("w");
    let bind = Holder::of_script("mount --bind \"$1\" /mnt; exec sleep 120", &dir);
    let other = Holder::of_script("mount -t tmpfs none \"$1\"; exec sleep 120", dir.parent().unwrap());
    let workspace = daemon.mount(&dir);
    assert_eq!(bind.holds(&workspace), ["mount in its namespace"]);
    assert_eq!(other.holds(&workspace), [""; 0], "the directory is hidden from it");
}

#[test]
fn what_was_opened_while_no_daemon_ran_is_reported_after_the_start() {
    require!(fuse);
    let mut daemon = Daemon::start();
    let workspace = daemon.mount(&daemon.make_dir("w"));
    daemon.terminate();
    let holder = Holder::of_file(File::create(workspace.dir.join("log")).unwrap());
    daemon.start_again();
    wait_until("the writer to be reported", Duration::from_secs(10), || {
        holder.holds(&daemon.workspace(&workspace.id)) == ["file open for writing"]
    });
    assert_eq!(daemon.workspace(&workspace.id).state, WorkspaceState::Mounted);
}

#[test]
fn a_container_from_before_the_mount_is_named_whether_it_writes_or_not() {
    require!(fuse, docker);
    let daemon = Daemon::start();
    let dir = daemon.make_dir("w");
    let docker = Docker::engine();
    let script = "exec 3>>/workspace/log; touch /workspace/ready; exec sleep 300";
    let container = docker.run().volume(&dir, "/workspace").shell_in_background(script);
    wait_until("the container to write", Duration::from_secs(30), || dir.join("ready").exists());
    let id = docker.command().args(["inspect", "--format", "{{.Id}}", container.name()]).ok();
    let id = &id[..12];

    let output = daemon.command().arg("mount").arg(&dir).output().expect_code(4);
    let writer = format!("log by sleep (pid {}, container {id})", container.pid());
    assert!(output.stderr.contains(&writer), "{writer:?} is missing: {}", output.stderr);

    let workspace = daemon.mount_with(&dir, &["--force"]);
    let users = workspace.bypassing.iter().filter(|user| user.pid == container.pid());
    let holds: Vec<&str> = users.clone().map(|user| user.holds.as_str()).collect();
    assert_eq!(holds, ["mount in its namespace", "file open for writing"]);
    assert!(users.clone().all(|user| user.container.as_deref() == Some(id)), "{workspace:?}");
}

#[test]
fn a_mount_elsewhere_leaves_the_directory_to_its_writers() {
    require!(fuse);
    let daemon = Daemon::start();
    let dir = daemon.make_dir("w");
    let holder = Holder::of_file(File::create(dir.join("log")).unwrap());
    let at = daemon.dir().join("at");
    let workspace = daemon.mount_with(&dir, &["--at", at.to_str().unwrap()]);
    assert_eq!(holder.holds(&workspace), [""; 0]);
}

#[test]
fn a_busy_directory_below_a_root_is_guarded_and_its_writer_logged() {
    require!(fuse);
    let home = Scratch::new();
    let dir = home.dir("alice/workspace/project");
    let holder = Holder::of_file(File::create(dir.join("log")).unwrap());
    let config = format!("[workspaces]\nroots = [\"{}/*/workspace/*\"]\n", home.path().display());
    let daemon = Daemon::builder().config(config).start();
    let workspace = wait_for("the project to be guarded", Duration::from_secs(10), || {
        daemon.status().workspaces.pop().filter(|workspace| !workspace.bypassing.is_empty())
    });
    assert_eq!(workspace.state, WorkspaceState::Mounted);
    assert_eq!(holder.holds(&workspace), ["file open for writing"]);
    let log = daemon.log();
    let line =
        log.lines().find(|line| line.contains("processes get past the guard")).expect("a line in the log");
    assert!(line.contains(&format!("sleep ({})", holder.pid())), "{line}");
}
