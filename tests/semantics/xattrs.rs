//! Extended attributes.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
};

use harness::as_user;
use rustix::{
    fs::{
        XattrFlags, fgetxattr, fsetxattr, getxattr, getxattr_query, lgetxattr, listxattr, listxattr_query,
        lsetxattr, removexattr, setxattr,
    },
    io::Errno,
};

use super::ground::{Ground, on_every_filesystem};

const STRANGER: u32 = 4009;

fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 70_000];
    let len = getxattr(path, name, &mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

fn set(path: &Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    setxattr(path, name, value, XattrFlags::empty())
}

/// The names of a file but for labels that the kernel's security modules add on their own.
fn list(path: &Path) -> BTreeSet<String> {
    let mut buffer = vec![0; 70_000];
    let len = listxattr(path, &mut buffer).unwrap();
    buffer[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && *name != b"security.selinux")
        .map(|name| String::from_utf8(name.to_vec()).unwrap())
        .collect()
}

fn user_attributes_are_kept(ground: &Ground) {
    let path = ground.mounted.join("file");
    File::create(&path).unwrap();
    assert_eq!(list(&path), BTreeSet::new());
    set(&path, "user.first", b"one").unwrap();
    set(&path, "user.empty", b"").unwrap();
    set(&path, "user.bytes", &[0, 255, 10, 0]).unwrap();
    assert_eq!(get(&path, "user.first").unwrap(), b"one");
    assert_eq!(get(&path, "user.empty").unwrap(), b"");
    assert_eq!(get(&ground.backing.join("file"), "user.bytes").unwrap(), [0, 255, 10, 0]);
    let names: BTreeSet<String> = ["user.first", "user.empty", "user.bytes"].map(str::to_owned).into();
    assert_eq!(list(&path), names);
    set(&path, "user.first", b"another, longer value").unwrap();
    assert_eq!(get(&path, "user.first").unwrap(), b"another, longer value");
    removexattr(&path, "user.first").unwrap();
    assert_eq!(get(&path, "user.first"), Err(Errno::NODATA));
    assert_eq!(removexattr(&path, "user.first"), Err(Errno::NODATA));
    assert_eq!(list(&path).len(), 2);

    let file = File::open(&path).unwrap();
    fsetxattr(&file, "user.fd", b"fd", XattrFlags::empty()).unwrap();
    let mut buffer = [0_u8; 8];
    assert_eq!(fgetxattr(&file, "user.fd", &mut buffer).unwrap(), 2);
    fs::create_dir(ground.mounted.join("directory")).unwrap();
    set(&ground.mounted.join("directory"), "user.of", b"directory").unwrap();
    assert_eq!(get(&ground.backing.join("directory"), "user.of").unwrap(), b"directory");
}

fn create_and_replace_flags_are_honoured(ground: &Ground) {
    let path = ground.mounted.join("file");
    File::create(&path).unwrap();
    assert_eq!(setxattr(&path, "user.a", b"1", XattrFlags::REPLACE), Err(Errno::NODATA));
    setxattr(&path, "user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(setxattr(&path, "user.a", b"2", XattrFlags::CREATE), Err(Errno::EXIST));
    setxattr(&path, "user.a", b"3", XattrFlags::REPLACE).unwrap();
    assert_eq!(get(&path, "user.a").unwrap(), b"3");
}

fn size_is_probed_and_short_buffers_are_refused(ground: &Ground) {
    let path = ground.mounted.join("file");
    File::create(&path).unwrap();
    set(&path, "user.value", b"0123456789").unwrap();
    set(&path, "user.second", b"x").unwrap();
    assert_eq!(getxattr_query(&path, "user.value").unwrap(), 10);
    assert_eq!(getxattr(&path, "user.value", &mut [0_u8; 9]), Err(Errno::RANGE));
    assert_eq!(getxattr(&path, "user.value", &mut [0_u8; 10]).unwrap(), 10);
    let len = listxattr_query(&path).unwrap();
    assert!(len >= "user.value\0user.second\0".len());
    assert_eq!(listxattr(&path, &mut vec![0_u8; len - 1]), Err(Errno::RANGE));
    assert_eq!(listxattr(&path, &mut vec![0_u8; len]).unwrap(), len);
}

/// Errors that must be those of the filesystem below.
fn refusals_match_the_backing(ground: &Ground) {
    let attempt = |root: &Path, name: &str| {
        let path = root.join(name);
        File::create(&path).unwrap();
        let long = format!("user.{}", "n".repeat(251));
        let attempts = [
            ("unknown namespace", set(&path, "nonsense.name", b"x")),
            ("no name", set(&path, "user.", b"x")),
            ("name of 256 bytes", set(&path, &long, b"x")),
            ("value of 64 KiB and one", set(&path, "user.big", &[1; 65_537])),
            ("value of 200,000", set(&path, "user.big", &[1; 200_000])),
            ("system", set(&path, "system.unknown", b"x")),
            ("get unknown namespace", get(&path, "nonsense.name").map(drop)),
        ];
        attempts.map(|(what, result)| format!("{what}: {result:?}"))
    };
    assert_eq!(attempt(&ground.mounted, "guarded"), attempt(&ground.backing, "plain"));
}

fn trusted_attributes_are_for_root(ground: &Ground) {
    let path = ground.mounted.join("file");
    fs::write(&path, "x").unwrap();
    set(&path, "trusted.note", b"root").unwrap();
    assert_eq!(get(&path, "trusted.note").unwrap(), b"root");
    assert!(list(&path).contains("trusted.note"));
    as_user(STRANGER, STRANGER, &[], || {
        assert_eq!(get(&path, "trusted.note"), Err(Errno::NODATA));
        assert_eq!(set(&path, "trusted.note", b"x"), Err(Errno::PERM));
        assert_eq!(set(&path, "user.note", b"x"), Err(Errno::ACCESS));
    });
}

fn symlinks_have_their_own_attributes(ground: &Ground) {
    let (file, link) = (ground.mounted.join("file"), ground.mounted.join("link"));
    File::create(&file).unwrap();
    symlink("file", &link).unwrap();
    assert_eq!(lsetxattr(&link, "user.no", b"x", XattrFlags::empty()), Err(Errno::PERM));
    lsetxattr(&link, "trusted.link", b"x", XattrFlags::empty()).unwrap();
    assert_eq!(lgetxattr(&link, "trusted.link", &mut [0_u8; 4]).unwrap(), 1);
    assert_eq!(get(&file, "trusted.link"), Err(Errno::NODATA));
    set(&link, "user.through", b"x").unwrap();
    assert_eq!(get(&file, "user.through").unwrap(), b"x");
}

on_every_filesystem!(
    user_attributes_are_kept,
    create_and_replace_flags_are_honoured,
    size_is_probed_and_short_buffers_are_refused,
    refusals_match_the_backing,
    trusted_attributes_are_for_root,
    symlinks_have_their_own_attributes,
);
