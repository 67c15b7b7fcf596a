//! Containers see a workspace as `/workspace`, whoever they run as and however it gets there.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{ContainerRun, Docker, GuardMount, require};

const OWNER: u32 = 1000;
const SCRIPT: &str = "
    cd /workspace
    test \"$(cat from-host)\" = 'made on the host'
    echo \"made by $(id -u)\" >from-container
    mkdir sub && mv from-container sub/ && echo more >>sub/from-container
    dd if=/dev/zero of=big bs=1M count=8 2>/dev/null && sync && ls -l big | grep -q 8388608
    cat sub/from-container
";

fn mount_of_a_user() -> GuardMount {
    let mount = GuardMount::builder().owner(OWNER).mount();
    fs::write(mount.path().join("from-host"), "made on the host").unwrap();
    mount
}

/// Runs the script as root and as the owner, and checks on the host what it left.
fn check(mount: &GuardMount, prepare: impl Fn(ContainerRun<'static>) -> ContainerRun<'static>) {
    for user in ["0:0", "1000:1000"] {
        let printed = prepare(Docker::engine().run()).user(user).shell(SCRIPT).ok();
        let uid = user.split(':').next().unwrap();
        assert_eq!(printed, format!("made by {uid}\nmore\n"));
        let file = mount.backing_path().join("sub/from-container");
        assert_eq!(fs::read_to_string(file).unwrap(), printed);
        assert_eq!(mount.backing_owner("sub/from-container"), (OWNER, OWNER));
        fs::remove_dir_all(mount.path().join("sub")).unwrap();
        fs::remove_file(mount.path().join("big")).unwrap();
    }
}

#[test]
fn the_directory_itself_can_be_bound() {
    require!(fuse, docker);
    let mount = mount_of_a_user();
    check(&mount, |run| run.volume(mount.path(), "/workspace"));
}

#[test]
fn the_root_owned_source_can_be_bound() {
    require!(fuse, docker);
    let mount = mount_of_a_user();
    check(&mount, |run| run.bind(mount.source(), "/workspace"));
}

#[test]
fn a_container_without_capabilities_on_a_read_only_root_works() {
    require!(fuse, docker);
    let mount = mount_of_a_user();
    let hardened = ["--cap-drop", "ALL", "--read-only", "--security-opt", "no-new-privileges"];
    let printed = Docker::engine()
        .run()
        .volume(mount.path(), "/workspace")
        .options(hardened)
        .user("1000:1000")
        .shell(SCRIPT)
        .ok();
    assert_eq!(printed, "made by 1000\nmore\n");
    assert_eq!(mount.backing_owner("sub/from-container"), (OWNER, OWNER));
}

#[test]
fn the_guard_is_what_the_container_sees() {
    require!(fuse, docker);
    let mount = mount_of_a_user();
    let printed = Docker::engine()
        .run()
        .volume(mount.path(), "/workspace")
        .shell("grep ' /workspace ' /proc/mounts")
        .ok();
    assert!(printed.contains(" fuse"), "{printed}");
    assert!(printed.contains("nosuid") && printed.contains("nodev"), "{printed}");
}

#[test]
fn two_containers_and_the_host_see_each_others_files_at_once() {
    require!(fuse, docker);
    let mount = mount_of_a_user();
    let docker = Docker::engine();
    let wait = "sleep 600";
    let first = docker.run().volume(mount.path(), "/workspace").shell_in_background(wait);
    let second = docker.run().bind(mount.source(), "/workspace").user("1000:1000").shell_in_background(wait);
    first.shell("echo one >/workspace/file").ok();
    assert_eq!(second.shell("cat /workspace/file").ok(), "one\n");
    second.shell("echo two >>/workspace/file").ok();
    assert_eq!(first.shell("cat /workspace/file").ok(), "one\ntwo\n");
    assert_eq!(fs::read_to_string(mount.path().join("file")).unwrap(), "one\ntwo\n");
    fs::write(mount.path().join("file"), "three\n").unwrap();
    assert_eq!(first.shell("cat /workspace/file").ok(), "three\n");
    first.shell("rm /workspace/file").ok();
    second.shell("test ! -e /workspace/file").ok();
}

#[test]
fn a_container_cannot_be_started_on_a_dead_mount() {
    require!(fuse, docker);
    let mut mount = mount_of_a_user();
    mount.daemon_mut().kill_all();
    let output = Docker::engine().run().volume(mount.path(), "/workspace").shell("touch /workspace/stray");
    assert_ne!(output.code, 0, "{output:?}");
    assert!(!mount.backing_path().join("stray").exists());
}

#[test]
fn an_umount_under_a_running_container_detaches_and_names_it() {
    require!(fuse, docker);
    let mount = mount_of_a_user();
    let container = Docker::engine()
        .run()
        .volume(mount.path(), "/workspace")
        .shell_in_background("exec 3>/workspace/open; sleep 600");
    let output = mount.daemon().command().arg("umount").arg(mount.path()).arg("--json").output();
    let report: wsguard_api::UmountReport = serde_json::from_str(&output.ok()).unwrap();
    assert!(report.detached, "{report:?}");
    let named = report.users.iter().any(|user| user.pid == container.pid() && user.container.is_some());
    assert!(named, "{report:?}");
}

const PYTHON: &str = r"
import mmap, os, sqlite3
os.chdir('/workspace')
with open('text', 'w') as file:
    file.write('written\n' * 1000)
assert open('text').read() == 'written\n' * 1000
with open('mapped', 'w+b') as file:
    file.truncate(1 << 20)
    with mmap.mmap(file.fileno(), 0) as mapped:
        mapped[4096:4101] = b'store'
        mapped.flush()
    os.fsync(file.fileno())
    file.seek(4096)
    assert file.read(5) == b'store'
base = sqlite3.connect('base.sqlite')
assert base.execute('pragma journal_mode=wal').fetchone() == ('wal',)
base.execute('create table t (a integer, b text)')
with base:
    base.executemany('insert into t values (?, ?)', ((i, str(i) * 20) for i in range(20000)))
reader = sqlite3.connect('base.sqlite')
assert reader.execute('select count(*), sum(a) from t').fetchone() == (20000, 199990000)
assert base.execute('pragma integrity_check').fetchone() == ('ok',)
print('fine')
";

#[test]
fn python_reads_writes_maps_and_keeps_a_database_in_wal_mode() {
    require!(fuse, docker, debian);
    let docker = Docker::engine();
    // Building it takes longer than the test has once its mount is there.
    let image = docker.debian();
    let mount = mount_of_a_user();
    for user in ["0:0", "1000:1000"] {
        let output = docker
            .run_image(image)
            .volume(mount.path(), "/workspace")
            .user(user)
            .command(["python3", "-c", PYTHON]);
        assert_eq!(output.ok(), "fine\n");
        let stored = fs::read(mount.backing_path().join("mapped")).unwrap();
        assert_eq!(&stored[4096..4101], b"store");
        for name in ["text", "mapped", "base.sqlite"] {
            assert_eq!(mount.backing_owner(name), (OWNER, OWNER), "{name}");
            fs::remove_file(mount.path().join(name)).unwrap();
        }
        for name in ["base.sqlite-wal", "base.sqlite-shm"] {
            fs::remove_file(mount.path().join(name)).ok();
        }
    }
}

/// Lets pip in a container reach what pip on this machine reaches.
fn with_the_machines_pip(mut run: ContainerRun<'static>) -> ContainerRun<'static> {
    let mut paths: Vec<PathBuf> = vec!["/etc/pip.conf".into(), "/etc/ssl/certs/ca-certificates.crt".into()];
    for (name, value) in std::env::vars() {
        let lower = name.to_lowercase();
        if lower.starts_with("pip_") || lower.ends_with("_proxy") || name == "SSL_CERT_FILE" {
            if Path::new(&value).is_absolute() {
                paths.push(value.clone().into());
            }
            run = run.option("--env").option(format!("{name}={value}"));
        }
    }
    paths.sort();
    paths.dedup();
    for path in paths.iter().filter(|path| path.exists()) {
        run = run.option("--volume").option(format!("{0}:{0}:ro", path.display()));
    }
    run.host_network()
}

#[test]
fn pip_installs_numpy_into_a_venv_on_the_workspace() {
    require!(fuse, docker, debian);
    let mount = GuardMount::builder().owner(OWNER).deadline(Duration::from_secs(600)).mount();
    let docker = Docker::engine();
    let script = "
        export HOME=/workspace PIP_NO_CACHE_DIR=1
        python3 -m venv /workspace/venv
        /workspace/venv/bin/pip install --quiet numpy
        /workspace/venv/bin/python -c 'import numpy; print(int(numpy.arange(1000).sum()))'
    ";
    let output = with_the_machines_pip(docker.run_image(docker.debian()))
        .volume(mount.path(), "/workspace")
        .user("1000:1000")
        .timeout(Duration::from_secs(400))
        .shell(script);
    assert_eq!(output.ok().trim(), "499500");
    assert!(mount.backing_path().join("venv/bin/python").exists());
}
