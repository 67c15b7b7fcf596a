//! setuid, setgid and file capabilities vanish when somebody changes the program, so nobody can plant code in them.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use harness::as_user;
use rustix::{
    fs::{FallocateFlags, XattrFlags, copy_file_range, fallocate, getxattr, removexattr, setxattr},
    io::Errno,
};

use super::{
    ground::{Ground, on_every_filesystem},
    sys::{Mapping, Protection},
};

const USER: u32 = 4001;
const CAPABILITY: &str = "security.capability";
/// `cap_net_raw=ep`, revision 2 (`linux/capability.h`).
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A setuid and setgid program with a capability that everybody may write.
fn plant(ground: &Ground, name: &str) -> PathBuf {
    let path = ground.mounted.join(name);
    fs::write(&path, vec![b'x'; 20_000]).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
    setxattr(&path, CAPABILITY, &NET_RAW, XattrFlags::empty()).unwrap();
    assert_eq!(mode(&path), 0o6777);
    path
}

fn has_capability(path: &Path) -> bool {
    match getxattr(path, CAPABILITY, &mut [0_u8; 64]) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error, Errno::NODATA);
            false
        }
    }
}

fn assert_stripped(ground: &Ground, name: &str) {
    for view in [&ground.mounted, &ground.backing] {
        let path = view.join(name);
        assert_eq!(mode(&path), 0o777, "mode after {name}, seen at {}", path.display());
        assert!(!has_capability(&path), "capability after {name}, seen at {}", path.display());
    }
}

/// A named change of an open file.
type Change = (&'static str, fn(&File));

fn set_id_bits_and_capability_drop_on_every_change_by_a_user(ground: &Ground) {
    let changes: [Change; 8] = [
        ("write", |mut file| file.write_all(b"evil").unwrap()),
        ("pwrite", |file| file.write_all_at(b"evil", 5000).unwrap()),
        ("extend", |file| file.write_all_at(b"evil", 30_000).unwrap()),
        ("ftruncate", |file| file.set_len(100).unwrap()),
        ("grow", |file| file.set_len(90_000).unwrap()),
        ("fallocate", |file| fallocate(file, FallocateFlags::empty(), 0, 50_000).unwrap()),
        ("punch", |file| {
            fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 4096).unwrap();
        }),
        ("copy", |file| {
            assert_eq!(copy_file_range(file, Some(&mut 0), file, Some(&mut 8192), 4096).unwrap(), 4096);
        }),
    ];
    for (name, change) in changes {
        let path = plant(ground, name);
        as_user(USER, USER, &[], || change(&OpenOptions::new().read(true).write(true).open(&path).unwrap()));
        assert_stripped(ground, name);
    }
    let path = plant(ground, "O_TRUNC");
    as_user(USER, USER, &[], || drop(OpenOptions::new().write(true).truncate(true).open(&path).unwrap()));
    assert_stripped(ground, "O_TRUNC");
    let path = plant(ground, "append");
    as_user(USER, USER, &[], || {
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"evil").unwrap();
    });
    assert_stripped(ground, "append");
    let path = plant(ground, "O_SYNC");
    as_user(USER, USER, &[], || {
        let mut file = OpenOptions::new().write(true).custom_flags(libc::O_SYNC).open(&path).unwrap();
        file.write_all(b"evil").unwrap();
    });
    assert_stripped(ground, "O_SYNC");
}

fn set_id_bits_stay_when_root_writes(ground: &Ground) {
    let path = plant(ground, "by-root");
    OpenOptions::new().write(true).open(&path).unwrap().write_all(b"update").unwrap();
    assert_eq!(mode(&path), 0o6777, "CAP_FSETID keeps the bits");
    assert!(!has_capability(&path), "a capability never survives a write");
    assert_eq!(mode(&ground.backing.join("by-root")), 0o6777);
    let changes: [Change; 4] = [
        ("ftruncate", |file| file.set_len(100).unwrap()),
        ("fallocate", |file| fallocate(file, FallocateFlags::empty(), 0, 50_000).unwrap()),
        ("copy", |file| {
            assert_eq!(copy_file_range(file, Some(&mut 0), file, Some(&mut 8192), 4096).unwrap(), 4096);
        }),
        ("chmod after open", |mut file| {
            file.set_permissions(Permissions::from_mode(0o755)).unwrap();
            file.set_permissions(Permissions::from_mode(0o6777)).unwrap();
            file.write_all(b"update").unwrap();
        }),
    ];
    for (name, change) in changes {
        let path = plant(ground, name);
        removexattr(&path, CAPABILITY).unwrap();
        change(&OpenOptions::new().read(true).write(true).open(&path).unwrap());
        assert_eq!(mode(&path), 0o6777, "{name}");
    }
    let path = plant(ground, "O_TRUNC");
    drop(File::create(&path).unwrap());
    assert_eq!(mode(&path), 0o6777, "O_TRUNC");
}

fn chown_drops_set_id_bits_and_capability(ground: &Ground) {
    let path = plant(ground, "chown");
    chown(&path, Some(USER), Some(USER)).unwrap();
    assert_stripped(ground, "chown");
    let path = plant(ground, "chown to nobody new");
    chown(&path, None, None).unwrap();
    assert_stripped(ground, "chown to nobody new");
    let path = plant(ground, "chgrp");
    chown(&path, Some(USER), Some(USER)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
    as_user(USER, USER, &[4002], || chown(&path, None, Some(4002)).unwrap());
    assert_stripped(ground, "chgrp");
}

fn chmod_by_a_user_outside_the_group_drops_setgid(ground: &Ground) {
    let path = plant(ground, "chmod");
    chown(&path, Some(USER), Some(4005)).unwrap();
    as_user(USER, USER, &[], || fs::set_permissions(&path, Permissions::from_mode(0o2755)).unwrap());
    assert_eq!(mode(&path), 0o755);
    as_user(USER, USER, &[4005], || fs::set_permissions(&path, Permissions::from_mode(0o2755)).unwrap());
    assert_eq!(mode(&path), 0o2755);
}

fn reading_and_mapping_keep_set_id_bits(ground: &Ground) {
    let path = plant(ground, "read");
    as_user(USER, USER, &[], || {
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mapping = Mapping::new(&file, 20_000, Protection::Read).unwrap();
        assert_eq!(mapping.load(0, 1), b"x");
        file.sync_all().unwrap();
    });
    assert_eq!(mode(&path), 0o6777);
    assert!(has_capability(&path));
}

on_every_filesystem!(
    set_id_bits_and_capability_drop_on_every_change_by_a_user,
    set_id_bits_stay_when_root_writes,
    chown_drops_set_id_bits_and_capability,
    chmod_by_a_user_outside_the_group_drops_setgid,
    reading_and_mapping_keep_set_id_bits,
);
