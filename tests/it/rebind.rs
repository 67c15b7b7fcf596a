//! Containers that run while the daemon is killed have their workspace again when it is back.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use harness::{
    ContainerRun, Docker, GuardMount, Mount, RunningContainer, mounts_of_process, require, wait_until,
};
use rustix::mount::{UnmountFlags, unmount};

const OWNER: u32 = 1000;

/// From the daemon's first answer until the containers are repaired.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(5);

/// What could not be repaired is tried again every ten seconds.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

const HARDENED: [&str; 5] = ["--cap-drop", "ALL", "--read-only", "--security-opt", "no-new-privileges"];

fn mount_of_a_user() -> GuardMount {
    let mount = GuardMount::builder().owner(OWNER).mount();
    fs::create_dir(mount.path().join("sub")).unwrap();
    fs::write(mount.path().join("file"), "from the host\n").unwrap();
    fs::write(mount.path().join("sub/inner"), "from below\n").unwrap();
    mount
}

fn sleeping(run: ContainerRun<'static>) -> RunningContainer<'static> {
    run.shell_in_background("sleep 600")
}

fn is_dead(container: &RunningContainer<'_>, path: &str) -> bool {
    let output = container.shell(&format!("ls {path}"));
    output.code != 0 && output.stderr.contains("not connected")
}

fn kill_and_restart(mount: &mut GuardMount, containers: &[(&RunningContainer<'_>, &str)]) {
    mount.daemon_mut().kill_all();
    for (container, path) in containers {
        assert!(is_dead(container, path), "{} {path}", container.name());
    }
    mount.daemon_mut().start_again();
}

#[track_caller]
fn wait_for_repair(container: &RunningContainer<'_>, path: &str) {
    wait_until("the container to have its workspace again", REPAIR_TIMEOUT, || {
        container.shell(&format!("ls {path}")).code == 0
    });
}

/// Every mount at that place in the container.
fn mounts_at(container: &RunningContainer<'_>, path: &str) -> Vec<Mount> {
    let all = mounts_of_process(&container.pid().to_string());
    all.into_iter().filter(|mount| mount.mount_point == Path::new(path)).collect()
}

/// Checks that one mount is there, and that it is a private one without set-uid programs and devices.
#[track_caller]
fn the_mount_at(container: &RunningContainer<'_>, path: &str) -> Mount {
    let found = mounts_at(container, path);
    let [mount] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(mount.propagation, [] as [&str; 0], "{mount:?}");
    for option in ["nosuid", "nodev"] {
        assert!(mount.options.iter().any(|set| set == option), "{option}: {mount:?}");
    }
    mount.clone()
}

fn other_mounts(container: &RunningContainer<'_>) -> Vec<Mount> {
    let all = mounts_of_process(&container.pid().to_string());
    all.into_iter().filter(|mount| mount.fs_type != "fuse.wsguard").collect()
}

#[test]
fn containers_have_their_workspace_again_after_the_daemon_was_killed() {
    require!(fuse, docker);
    let mut mount = mount_of_a_user();
    let docker = Docker::engine();
    let normal = sleeping(docker.run().volume(mount.path(), "/workspace"));
    let hardened =
        sleeping(docker.run().bind(mount.source(), "/workspace").options(HARDENED).user("1000:1000"));
    let part = sleeping(docker.run().volume(&mount.path().join("sub"), "/deep/x"));
    let read_only = sleeping(docker.run().volume(mount.path(), "/workspace:ro"));
    let all =
        [(&normal, "/workspace"), (&hardened, "/workspace"), (&part, "/deep/x"), (&read_only, "/workspace")];
    let others = all.map(|(container, _)| other_mounts(container));

    kill_and_restart(&mut mount, &all);
    let started = Instant::now();
    for (container, path) in all {
        wait_for_repair(container, path);
    }
    assert!(started.elapsed() < REPAIR_TIMEOUT, "{:?}", started.elapsed());

    for (container, path) in [all[0], all[1]] {
        assert_eq!(container.shell("cat /workspace/file").ok(), "from the host\n");
        let written = container.name();
        container.shell(&format!("echo again >{path}/{written}")).ok();
        assert_eq!(fs::read_to_string(mount.backing_path().join(written)).unwrap(), "again\n");
    }
    assert_eq!(part.shell("cat /deep/x/inner; echo again >/deep/x/new").ok(), "from below\n");
    assert_eq!(fs::read_to_string(mount.backing_path().join("sub/new")).unwrap(), "again\n");
    assert_eq!(read_only.shell("cat /workspace/file").ok(), "from the host\n");
    let refused = read_only.shell("touch /workspace/new");
    assert!(refused.code != 0 && refused.stderr.contains("Read-only"), "{refused:?}");

    for ((container, path), before) in all.into_iter().zip(others) {
        let is_read_only = the_mount_at(container, path).options.iter().any(|option| option == "ro");
        assert_eq!(is_read_only, container.name() == read_only.name());
        assert_eq!(other_mounts(container), before);
    }
    assert_eq!(mount.daemon().status().warnings, [] as [&str; 0]);
}

#[test]
fn an_orderly_restart_of_the_daemon_repairs_containers_too() {
    require!(fuse, docker);
    let mut mount = mount_of_a_user();
    let container = sleeping(Docker::engine().run().volume(mount.path(), "/workspace"));
    for _ in 0..2 {
        mount.daemon_mut().terminate();
        assert!(is_dead(&container, "/workspace"));
        mount.daemon_mut().start_again();
        wait_for_repair(&container, "/workspace");
        the_mount_at(&container, "/workspace");
    }
}

/// The first `docker run` makes the mount; its first process then swaps the directory above it.
#[test]
fn a_symbolic_link_does_not_redirect_the_new_mount() {
    require!(fuse, docker);
    let mut mount = mount_of_a_user();
    let trick = "mv /a /b && mkdir -p /victim/w && ln -s /victim /a && sleep 600";
    let container = Docker::engine().run().volume(mount.path(), "/a/w").shell_in_background(trick);
    wait_until("the link to be there", REPAIR_TIMEOUT, || container.shell("test -L /a").code == 0);

    kill_and_restart(&mut mount, &[(&container, "/b/w")]);
    wait_for_repair(&container, "/b/w");
    the_mount_at(&container, "/b/w");
    assert_eq!(mounts_at(&container, "/victim/w"), []);
    assert_eq!(container.shell("ls /victim/w").ok(), "");
    assert_eq!(container.shell("cat /b/w/file").ok(), "from the host\n");
}

#[test]
fn other_workspaces_and_other_dead_mounts_are_not_touched() {
    require!(fuse, docker);
    let (mut mount, mut foreign) = (mount_of_a_user(), mount_of_a_user());
    let run = Docker::engine().run().volume(mount.path(), "/workspace").volume(foreign.path(), "/foreign");
    let container = sleeping(run);
    foreign.daemon_mut().kill_all();
    let before = mounts_at(&container, "/foreign");

    kill_and_restart(&mut mount, &[(&container, "/workspace"), (&container, "/foreign")]);
    wait_for_repair(&container, "/workspace");
    assert_eq!(mounts_at(&container, "/foreign"), before);
    assert!(is_dead(&container, "/foreign"));

    foreign.daemon_mut().start_again();
    wait_for_repair(&container, "/foreign");
    the_mount_at(&container, "/foreign");
    the_mount_at(&container, "/workspace");
}

/// As the last resort against a hanging mount does it, with the daemon alive.
#[test]
fn a_connection_that_was_aborted_is_replaced_in_containers_too() {
    require!(fuse, docker);
    let mount = mount_of_a_user();
    let container = sleeping(Docker::engine().run().volume(mount.path(), "/workspace"));
    let before = the_mount_at(&container, "/workspace");
    unmount(mount.path(), UnmountFlags::FORCE).unwrap();
    wait_for_repair(&container, "/workspace");
    assert_ne!(the_mount_at(&container, "/workspace").device, before.device);
    assert_eq!(container.shell("cat /workspace/file").ok(), "from the host\n");
}

#[test]
fn what_could_not_be_repaired_is_reported_and_repaired_as_soon_as_possible() {
    require!(fuse, docker);
    let mut mount = mount_of_a_user();
    let part = sleeping(Docker::engine().run().volume(&mount.path().join("sub"), "/x"));
    mount.daemon_mut().kill_all();
    fs::rename(mount.backing_path().join("sub"), mount.backing_path().join("away")).unwrap();
    mount.daemon_mut().start_again();
    wait_until("a warning", REPAIR_TIMEOUT, || !mount.daemon().status().warnings.is_empty());
    let warnings = mount.daemon().status().warnings;
    assert!(warnings[0].contains("dead mount at /x") && warnings[0].ends_with("restart it"), "{warnings:?}");
    assert!(is_dead(&part, "/x"));

    fs::rename(mount.path().join("away"), mount.path().join("sub")).unwrap();
    wait_until("no warning", RETRY_TIMEOUT, || mount.daemon().status().warnings.is_empty());
    assert_eq!(part.shell("cat /x/inner").ok(), "from below\n");
    the_mount_at(&part, "/x");
}

/// Either it moves to the new mount, or the container is reported and nothing in it changes.
#[test]
fn what_is_mounted_on_a_dead_workspace_is_never_lost() {
    require!(fuse, docker);
    let mut mount = mount_of_a_user();
    let run =
        Docker::engine().run().volume(mount.path(), "/workspace").options(["--tmpfs", "/workspace/sub"]);
    let container = sleeping(run);
    container.shell("echo kept >/workspace/sub/kept").ok();
    let before = mounts_at(&container, "/workspace/sub");
    assert_eq!(before.len(), 1);

    kill_and_restart(&mut mount, &[(&container, "/workspace")]);
    wait_until("the container to be repaired or reported", REPAIR_TIMEOUT, || {
        container.shell("ls /workspace").code == 0 || !mount.daemon().status().warnings.is_empty()
    });
    assert_eq!(mounts_at(&container, "/workspace/sub"), before);
    let warnings = mount.daemon().status().warnings;
    if warnings.is_empty() {
        assert_eq!(container.shell("cat /workspace/sub/kept").ok(), "kept\n");
        the_mount_at(&container, "/workspace");
    } else {
        println!("{warnings:?}");
        assert!(warnings[0].contains("/workspace/sub") && warnings[0].contains("restart it"), "{warnings:?}");
    }
}

/// A process in a mount namespace of its own, ended on drop.
struct Elsewhere(Child);

impl Elsewhere {
    fn start(mount: &GuardMount, options: &str) -> Self {
        // Not long, in case that nobody is left to end it.
        let arguments = [options, "--propagation", "private", "sleep", "120"];
        let child = Command::new("unshare").args(arguments).spawn().unwrap();
        let elsewhere = Self(child);
        wait_until("its namespace", REPAIR_TIMEOUT, || elsewhere.read(mount).is_some());
        elsewhere
    }

    fn read(&self, mount: &GuardMount) -> Option<String> {
        let own = fs::read_link("/proc/self/ns/mnt").unwrap();
        let root = Path::new("/proc").join(self.0.id().to_string());
        if fs::read_link(root.join("ns/mnt")).ok()? == own {
            return None;
        }
        fs::read_to_string(root.join("root").join(mount.path().strip_prefix("/").unwrap()).join("file")).ok()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// In the namespace of an unprivileged user the dead mounts are locked and can only be covered.
#[test]
fn namespaces_without_a_container_are_repaired_every_time() {
    require!(fuse);
    let mut mount = mount_of_a_user();
    let elsewhere = [Elsewhere::start(&mount, "-m"), Elsewhere::start(&mount, "-Urm")];
    for _ in 0..3 {
        mount.daemon_mut().kill_all();
        for elsewhere in &elsewhere {
            assert_eq!(elsewhere.read(&mount), None);
        }
        mount.daemon_mut().start_again();
        for elsewhere in &elsewhere {
            wait_until("the mount to be replaced", REPAIR_TIMEOUT, || {
                elsewhere.read(&mount).as_deref() == Some("from the host\n")
            });
        }
    }
    assert_eq!(mount.daemon().status().warnings, [] as [&str; 0]);
    let [private, _] = &elsewhere;
    let all = mounts_of_process(&private.0.id().to_string());
    assert_eq!(all.iter().filter(|found| found.mount_point == mount.path()).count(), 1);
}
