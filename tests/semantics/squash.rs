//! The ownership mode `squash`: whatever a container's root does, the files belong to the workspace's owner on the host,
//! and none of them carries a privilege.

use std::{
    fs::{self, File, Permissions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink},
    path::Path,
};

use harness::{Backing, GuardMount, as_user, require};
use rustix::{
    fs::{CWD, FileType, Mode, XattrFlags, listxattr, makedev, mkfifoat, mknodat, setxattr},
    io::Errno,
};
use wsguard_api::Ownership;

use super::ground::Ground;

const OWNER: u32 = 4001;
const STRANGER: u32 = 4009;
/// `cap_net_raw=ep`, revision 2 (`linux/capability.h`).
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn ground() -> Ground {
    prepared(|_| {})
}

fn prepared(prepare: impl FnOnce(&Path)) -> Ground {
    let builder = GuardMount::builder().backing(Backing::Directory).ownership(Ownership::Squash).owner(OWNER);
    Ground::of(builder.mount_prepared(prepare))
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn make_everything(root: &Path, prefix: &str) -> [String; 5] {
    let names = ["file", "directory", "symlink", "fifo", "node"].map(|kind| format!("{prefix}-{kind}"));
    let [file, directory, link, fifo, node] = &names;
    File::create(root.join(file)).unwrap();
    fs::create_dir(root.join(directory)).unwrap();
    symlink("target", root.join(link)).unwrap();
    mkfifoat(CWD, root.join(fifo), Mode::from_raw_mode(0o644)).unwrap();
    mknodat(CWD, root.join(node), FileType::RegularFile, Mode::from_raw_mode(0o644), 0).unwrap();
    names
}

#[test]
fn new_entries_belong_to_the_workspaces_owner() {
    require!(fuse);
    let ground = ground();
    let by_root = make_everything(&ground.mounted, "root");
    let by_owner = as_user(OWNER, OWNER, &[], || make_everything(&ground.mounted, "owner"));
    let by_stranger = as_user(STRANGER, STRANGER, &[], || make_everything(&ground.mounted, "stranger"));
    for name in by_root.iter().chain(&by_owner).chain(&by_stranger) {
        assert_eq!(owner(&ground.backing.join(name)), (OWNER, OWNER), "{name} below");
        assert_eq!(owner(&ground.mounted.join(name)), (OWNER, OWNER), "{name}");
    }
}

#[test]
fn files_that_were_there_are_shown_as_they_are() {
    require!(fuse);
    let ground = prepared(|dir| {
        fs::write(dir.join("foreign"), "x").unwrap();
        chown(dir.join("foreign"), Some(STRANGER), Some(STRANGER)).unwrap();
        fs::set_permissions(dir.join("foreign"), Permissions::from_mode(0o600)).unwrap();
    });
    assert_eq!(owner(&ground.mounted.join("foreign")), (STRANGER, STRANGER));
    as_user(OWNER, OWNER, &[], || {
        let error = File::open(ground.mounted.join("foreign")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    });
    fs::write(ground.mounted.join("foreign"), "by root").unwrap();
    assert_eq!(owner(&ground.backing.join("foreign")), (STRANGER, STRANGER));
}

#[test]
fn chown_is_accepted_and_changes_nothing() {
    require!(fuse);
    let ground = ground();
    let path = ground.mounted.join("file");
    File::create(&path).unwrap();
    symlink("file", ground.mounted.join("link")).unwrap();
    chown(&path, Some(0), Some(0)).unwrap();
    chown(&path, Some(STRANGER), None).unwrap();
    lchown(ground.mounted.join("link"), Some(0), Some(0)).unwrap();
    as_user(OWNER, OWNER, &[], || chown(&path, Some(OWNER), Some(OWNER)).unwrap());
    as_user(STRANGER, STRANGER, &[], || {
        assert_eq!(chown(&path, Some(STRANGER), None).unwrap_err().raw_os_error(), Some(libc::EPERM));
    });
    for view in [&ground.mounted, &ground.backing] {
        assert_eq!(owner(&view.join("file")), (OWNER, OWNER));
        assert_eq!(owner(&view.join("link")), (OWNER, OWNER));
    }
}

#[test]
fn set_id_bits_of_files_are_stripped_silently() {
    require!(fuse);
    let ground = ground();
    let (made, changed) = (ground.mounted.join("made"), ground.mounted.join("changed"));
    File::options().write(true).create_new(true).mode(0o6755).open(&made).unwrap();
    fs::write(&changed, "x").unwrap();
    fs::set_permissions(&changed, Permissions::from_mode(0o6755)).unwrap();
    mknodat(CWD, ground.mounted.join("node"), FileType::RegularFile, Mode::from_raw_mode(0o4755), 0).unwrap();
    fs::create_dir(ground.mounted.join("shared")).unwrap();
    fs::set_permissions(ground.mounted.join("shared"), Permissions::from_mode(0o2775)).unwrap();
    assert_eq!(mode(&ground.backing.join("shared")), 0o2775, "a setgid directory is no privilege");
    for name in ["made", "changed", "node"] {
        assert_eq!(mode(&ground.backing.join(name)), 0o755, "{name} below");
        assert_eq!(mode(&ground.mounted.join(name)), 0o755, "{name}");
    }
}

/// A setuid file that was there before would run with somebody's rights on the host: whoever fills it through the
/// mount, a container's root included, takes the bits away.
#[test]
fn set_id_bits_of_files_that_were_there_go_with_any_change() {
    require!(fuse);
    const NAMES: [&str; 5] = ["written", "truncated", "emptied", "allocated", "replaced"];
    let ground = prepared(|root| {
        for name in NAMES {
            fs::write(root.join(name), "old").unwrap();
            fs::set_permissions(root.join(name), Permissions::from_mode(0o4755)).unwrap();
        }
    });
    let path = |name: &str| ground.mounted.join(name);
    assert_eq!(mode(&path("written")), 0o4755, "untouched, it is shown as it is");
    File::options().append(true).open(path("written")).unwrap().write_all(b"new").unwrap();
    File::options().write(true).open(path("truncated")).unwrap().set_len(1).unwrap();
    File::create(path("emptied")).unwrap();
    let allocated = File::options().write(true).open(path("allocated")).unwrap();
    rustix::fs::fallocate(&allocated, rustix::fs::FallocateFlags::empty(), 0, 8192).unwrap();
    File::options().write(true).truncate(true).open(path("replaced")).unwrap().write_all(b"new").unwrap();
    for name in ["written", "truncated", "emptied", "replaced"] {
        assert_eq!(mode(&ground.backing.join(name)), 0o755, "{name} below");
    }
    // Allocation changes no byte that runs; the contents do, and then the bits are gone.
    rustix::io::pwrite(&allocated, b"new", 0).unwrap();
    assert_eq!(mode(&ground.backing.join("allocated")), 0o755);
}

#[test]
fn device_nodes_are_refused_but_for_the_whiteout() {
    require!(fuse);
    let ground = ground();
    let mode = Mode::from_raw_mode(0o666);
    for (name, kind, device) in [
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("disk", FileType::BlockDevice, makedev(8, 0)),
        ("zero-block", FileType::BlockDevice, makedev(0, 0)),
    ] {
        assert_eq!(mknodat(CWD, ground.mounted.join(name), kind, mode, device), Err(Errno::PERM), "{name}");
        assert!(!ground.backing.join(name).exists());
    }
    mknodat(CWD, ground.mounted.join("whiteout"), FileType::CharacterDevice, mode, makedev(0, 0)).unwrap();
    assert_eq!(owner(&ground.backing.join("whiteout")), (OWNER, OWNER));
}

#[test]
fn privileged_attributes_are_refused() {
    require!(fuse);
    let ground = ground();
    let path = ground.mounted.join("file");
    File::create(&path).unwrap();
    let set = |name: &str, value: &[u8]| setxattr(&path, name, value, XattrFlags::empty());
    assert_eq!(set("security.capability", &NET_RAW), Err(Errno::PERM));
    assert_eq!(set("trusted.overlay.opaque", b"y"), Err(Errno::PERM));
    set("user.note", b"fine").unwrap();
    let mut buffer = vec![0; 1024];
    let len = listxattr(ground.backing.join("file"), &mut buffer).unwrap();
    assert!(!String::from_utf8_lossy(&buffer[..len]).contains("capability"));
}
