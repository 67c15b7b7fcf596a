use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Child, time::Duration};

use rustix::process::Signal;

use super::program;
use crate::{Run, is_alive, kill, scratch, wait_until};

const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts containerd and dockerd with roots of their own, and returns the value of `DOCKER_HOST`.
///
/// No bridge and no packet filter: they would change the machine's network. Containers have no network, or the
/// host's. containerd is a process of its own, because one that belongs to dockerd may still be ending when the
/// next dockerd wants to start it. The janitor stops both by the pid files written here.
pub(super) fn start() -> String {
    let dir = scratch::base().join("engine");
    fs::create_dir(&dir).expect("own directory can be written");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).expect("own directories can be opened up");
    fs::write(dir.join("remove"), paths_outside()).expect("own directory can be written");
    // An empty file is refused as the end of the document.
    fs::write(dir.join("daemon.json"), "{}").expect("own directory can be written");
    let containerd = record(&dir.join("containerd.pid"), start_containerd(&dir));
    wait_until("containerd's socket", READY_TIMEOUT, || {
        assert!(is_alive(containerd), "containerd ended:\n{}", log(&dir, "containerd.log"));
        dir.join("ctd.sock").exists()
    });
    start_dockerd_and_wait(&dir)
}

/// Ends the dockerd that [`start`] started and starts another one on the same directories. Its containers go on
/// meanwhile (`--live-restore`).
pub(super) fn restart_dockerd() {
    let dir = scratch::base().join("engine");
    let pid = fs::read_to_string(dir.join("docker.pid")).expect("the engine was started by this process");
    let pid = pid.trim().parse().expect("the file holds a pid");
    kill(pid, Signal::TERM);
    wait_until("dockerd to end", READY_TIMEOUT, || !is_alive(pid));
    start_dockerd_and_wait(&dir);
}

fn start_dockerd_and_wait(dir: &Path) -> String {
    let dockerd = record(&dir.join("docker.pid"), start_dockerd(dir));
    let host = format!("unix://{}", dir.join("d.sock").display());
    wait_until("dockerd to answer", READY_TIMEOUT, || {
        assert!(is_alive(dockerd), "dockerd ended:\n{}", log(dir, "dockerd.log"));
        dir.join("d.sock").exists()
            && Run::new("docker").arg("version").env("DOCKER_HOST", &host).output().code == 0
    });
    host
}

fn start_containerd(dir: &Path) -> Child {
    Run::new(program("containerd"))
        .arg("--root")
        .arg(dir.join("ctd"))
        .arg("--state")
        .arg(dir.join("ctds"))
        .arg("--address")
        .arg(dir.join("ctd.sock"))
        .args(["--config", "/dev/null"])
        .spawn_logged(&dir.join("containerd.log"))
}

fn start_dockerd(dir: &Path) -> Child {
    Run::new(program("dockerd"))
        .arg("--config-file")
        .arg(dir.join("daemon.json"))
        .arg("--containerd")
        .arg(dir.join("ctd.sock"))
        .arg("--data-root")
        .arg(dir.join("data"))
        .arg("--exec-root")
        .arg(dir.join("exec"))
        .arg("--pidfile")
        .arg(dir.join("own.pid"))
        .arg("--host")
        .arg(format!("unix://{}", dir.join("d.sock").display()))
        .arg(format!("--cgroup-parent=/wsguard-test-{}", scratch::process_name()))
        .args(["--storage-driver=overlay2", "--live-restore", "--bridge=none", "--iptables=false"])
        .env("HOME", dir)
        .spawn_logged(&dir.join("dockerd.log"))
}

/// Hands the process over to the janitor, and returns its pid.
fn record(path: &Path, child: Child) -> u32 {
    let pid = child.id();
    fs::write(path, format!("{pid}\n")).expect("own directory can be written");
    scratch::reap_at_exit(child);
    pid
}

/// Returns what the engine makes outside its own directories, whatever its options say, and is not there yet.
///
/// One a line, the last line ended as well.
fn paths_outside() -> String {
    let all = ["/etc/docker/key.json", "/etc/docker", "/run/docker", "/run/containerd"];
    all.into_iter().filter(|path| !Path::new(path).exists()).map(|path| format!("{path}\n")).collect()
}

fn log(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_default()
}
