//! POSIX access control lists, in the form in which the kernel keeps them in extended attributes.

use std::{
    fs::{self, File, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
    path::Path,
};

use harness::as_user;
use rustix::{
    fs::{Mode, XattrFlags, getxattr, removexattr, setxattr},
    process::umask,
};

use super::ground::{Ground, on_every_filesystem};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
const USER: u32 = 4001;
const FRIEND: u32 = 4003;
const STRANGER: u32 = 4009;
const NO_ID: u32 = u32::MAX;

/// A tag of an entry, as in `linux/posix_acl_xattr.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Owner = 0x01,
    User = 0x02,
    Group = 0x04,
    Mask = 0x10,
    Other = 0x20,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry(Tag, u16, u32);

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for Entry(tag, permissions, id) in entries {
        bytes.extend_from_slice(&(*tag as u16).to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

fn set(path: &Path, name: &str, entries: &[Entry]) {
    setxattr(path, name, &encode(entries), XattrFlags::empty()).unwrap();
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    match getxattr(path, name, &mut buffer) {
        Ok(len) => Some(buffer[..len].to_vec()),
        Err(error) => {
            assert_eq!(error, rustix::io::Errno::NODATA);
            None
        }
    }
}

fn friend_may(permissions: u16, mask: u16) -> Vec<Entry> {
    vec![
        Entry(Tag::Owner, 6, NO_ID),
        Entry(Tag::User, permissions, FRIEND),
        Entry(Tag::Group, 0, NO_ID),
        Entry(Tag::Mask, mask, NO_ID),
        Entry(Tag::Other, 0, NO_ID),
    ]
}

fn bits(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn create(path: &Path, mode: u32) {
    File::options().write(true).create_new(true).mode(mode).open(path).unwrap();
}

fn access_list_is_enforced(ground: &Ground) {
    let path = ground.mounted.join("file");
    create(&path, 0o600);
    chown(&path, Some(USER), Some(USER)).unwrap();
    let read = |uid| as_user(uid, uid, &[], || File::open(&path).map(drop).map_err(|error| error.kind()));
    let write = |uid| {
        let open = || File::options().write(true).open(&path).map(drop).map_err(|error| error.kind());
        as_user(uid, uid, &[], open)
    };
    assert_eq!(read(FRIEND), Err(ErrorKind::PermissionDenied));

    set(&path, ACCESS, &friend_may(6, 6));
    assert_eq!((read(FRIEND), write(FRIEND)), (Ok(()), Ok(())));
    assert_eq!(read(STRANGER), Err(ErrorKind::PermissionDenied));
    assert_eq!(bits(&path), 0o660, "the group bits show the mask");

    set(&path, ACCESS, &friend_may(6, 4));
    assert_eq!((read(FRIEND), write(FRIEND)), (Ok(()), Err(ErrorKind::PermissionDenied)));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(read(FRIEND), Err(ErrorKind::PermissionDenied), "chmod changes the mask");
    assert_eq!(get(&path, ACCESS), Some(encode(&friend_may(6, 0))));

    removexattr(&path, ACCESS).unwrap();
    assert_eq!(get(&path, ACCESS), None);
    assert_eq!(get(&ground.backing.join("file"), ACCESS), None);
}

fn default_access_list_is_inherited(ground: &Ground) {
    let parent = ground.mounted.join("parent");
    fs::DirBuilder::new().mode(0o777).create(&parent).unwrap();
    fs::set_permissions(&parent, Permissions::from_mode(0o777)).unwrap();
    let list = [
        Entry(Tag::Owner, 7, NO_ID),
        Entry(Tag::User, 7, FRIEND),
        Entry(Tag::Group, 5, NO_ID),
        Entry(Tag::Mask, 7, NO_ID),
        Entry(Tag::Other, 0, NO_ID),
    ];
    set(&parent, DEFAULT, &list);
    as_user(USER, USER, &[], || {
        umask(Mode::from_raw_mode(0o077));
        create(&parent.join("file"), 0o666);
        create(&parent.join("private"), 0o600);
        fs::DirBuilder::new().mode(0o777).create(parent.join("directory")).unwrap();
    });
    assert_eq!(get(&parent.join("directory"), DEFAULT), Some(encode(&list)));
    assert_eq!(get(&parent.join("file"), DEFAULT), None);
    assert_eq!(bits(&parent.join("file")), 0o660, "the default list replaces the umask");
    assert_eq!(bits(&parent.join("private")), 0o600);
    assert_eq!(bits(&parent.join("directory")), 0o770);
    as_user(FRIEND, FRIEND, &[], || {
        File::options().read(true).write(true).open(parent.join("file")).unwrap();
        create(&parent.join("directory/by-friend"), 0o666);
        assert!(File::open(parent.join("private")).is_err());
    });
    for name in ["file", "private", "directory"] {
        assert_eq!(get(&parent.join(name), ACCESS), get(&ground.backing.join("parent").join(name), ACCESS));
    }
}

fn malformed_access_lists_are_refused(ground: &Ground) {
    let path = ground.mounted.join("file");
    create(&path, 0o600);
    let good = encode(&friend_may(6, 6));
    for bad in [&good[..3], &good[..good.len() - 1], &[9; 12][..]] {
        setxattr(&path, ACCESS, bad, XattrFlags::empty()).unwrap_err();
    }
    let no_default = setxattr(&path, DEFAULT, &good, XattrFlags::empty());
    assert_eq!(no_default, Err(rustix::io::Errno::ACCESS), "only directories have default lists");
    as_user(STRANGER, STRANGER, &[], || {
        let result = setxattr(&path, ACCESS, &good, XattrFlags::empty());
        assert_eq!(result, Err(rustix::io::Errno::PERM));
    });
    assert_eq!(bits(&path), 0o600);
}

on_every_filesystem!(
    access_list_is_enforced,
    default_access_list_is_inherited,
    malformed_access_lists_are_refused
);
