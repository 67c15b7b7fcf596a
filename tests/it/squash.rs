//! What a container's root plants in a squashed workspace is harmless on the host.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use harness::{Docker, GuardMount, require};
use wsguard_api::Ownership;

const OWNER: u32 = 1000;

fn visit(dir: &Path, check: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        check(&path);
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            visit(&path, check);
        }
    }
}

/// Checks on the host that nothing below gives anybody root's rights.
fn assert_harmless(dir: &Path) {
    visit(dir, &mut |path| {
        let stat = fs::symlink_metadata(path).unwrap();
        let name = path.display();
        assert_eq!((stat.uid(), stat.gid()), (OWNER, OWNER), "{name} does not belong to the owner");
        // On a directory setgid only says which group new files get, and here they get the owner's anyway.
        assert!(stat.is_dir() || stat.mode() & 0o6000 == 0, "{name} has setuid or setgid");
        assert!(
            !stat.file_type().is_block_device() && !stat.file_type().is_char_device(),
            "{name} is a device"
        );
        let mut value = [0u8; 64];
        let capability = rustix::fs::lgetxattr(path, "security.capability", &mut value[..]);
        assert!(capability.is_err(), "{name} has file capabilities");
    });
}

#[test]
fn a_containers_root_cannot_plant_setuid_files_devices_or_capabilities() {
    require!(fuse, docker);
    let mount = GuardMount::builder().owner(OWNER).mount();
    assert_eq!(mount.workspace().ownership, Ownership::Squash);
    let docker = Docker::engine();
    let attack = "
        cd /workspace
        cp /bin/busybox shell
        chmod 4755 shell || echo 'chmod 4755 refused'
        cp shell shell2 && chmod 6755 shell2 || echo 'chmod 6755 refused'
        mkdir group && chmod 2777 group || echo 'chmod 2777 refused'
        ! mknod null c 1 3 2>/dev/null || echo 'mknod c worked'
        ! mknod disk b 8 0 2>/dev/null || echo 'mknod b worked'
        mknod pipe p
        chown 0:0 shell
        umask 0; touch open
        id -u
    ";
    let printed = docker.run().volume(mount.path(), "/workspace").shell(attack).ok();
    assert!(!printed.contains("worked"), "{printed}");
    assert_eq!(printed.lines().last(), Some("0"), "the container did not run as root: {printed}");
    assert!(mount.backing_path().join("shell").exists());
    assert_harmless(mount.backing_path());
}

#[test]
fn capabilities_cannot_be_set_from_a_container() {
    require!(fuse, docker, debian);
    let mount = GuardMount::builder().owner(OWNER).mount();
    let docker = Docker::engine();
    let script = "
import os
path = '/workspace/tool'
open(path, 'w').close()
# VFS_CAP_REVISION_2 with CAP_SETUID permitted and effective.
value = bytes.fromhex('0100000280000000000000000000000000000000')
for name in ('security.capability', 'trusted.overlay.opaque'):
    try:
        os.setxattr(path, name, value)
        print('WORKED', name)
    except OSError as error:
        print(name, error.errno)
os.setxattr(path, 'user.fine', b'1')
";
    let output = docker
        .run_image(docker.debian())
        .volume(mount.path(), "/workspace")
        // Docker's default set has CAP_SETFCAP; the refusal must be ours.
        .options(["--cap-add", "SETFCAP", "--cap-add", "SYS_ADMIN"])
        .command(["python3", "-c", script]);
    let printed = output.ok();
    assert!(!printed.contains("WORKED") && printed.contains("security.capability 1\n"), "{printed}");
    assert_harmless(mount.backing_path());
}

#[test]
fn whatever_a_containers_root_creates_belongs_to_the_owner() {
    require!(fuse, docker);
    let mount = GuardMount::builder().owner(OWNER).mount();
    let docker = Docker::engine();
    let script = "
        cd /workspace
        mkdir -p a/b/c && echo text >a/b/c/file && ln -s file a/b/c/link && ln a/b/c/file a/hard
        tar -cf all.tar a && mkdir out && tar -xf all.tar -C out
        chown -R 0:0 out && mv out moved && cp -a a copy
    ";
    docker.run().volume(mount.path(), "/workspace").shell(script).ok();
    assert_eq!(fs::read_to_string(mount.backing_path().join("moved/a/b/c/file")).unwrap(), "text\n");
    assert_harmless(mount.backing_path());
    // The owner may do everything with it, on the host and without root.
    harness::as_user(OWNER, OWNER, &[], || {
        fs::write(mount.path().join("moved/a/b/c/file"), "edited").unwrap();
        fs::remove_dir_all(mount.path().join("copy")).unwrap();
    });
}

#[test]
fn another_user_of_a_container_cannot_write_into_the_owners_files() {
    require!(fuse, docker);
    let mount = GuardMount::builder().owner(OWNER).mount();
    fs::write(mount.path().join("file"), "mine").unwrap();
    let docker = Docker::engine();
    let script = "echo theirs >/workspace/file || echo refused; touch /workspace/new || echo refused";
    let output =
        docker.run().volume(mount.path(), "/workspace").user("1001:1001").command(["/bin/sh", "-c", script]);
    assert_eq!(output.ok(), "refused\nrefused\n");
    assert_eq!(fs::read_to_string(mount.backing_path().join("file")).unwrap(), "mine");
}
