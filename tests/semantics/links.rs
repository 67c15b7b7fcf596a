//! Names, hard links and inode numbers.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirEntryExt, MetadataExt, OpenOptionsExt, symlink},
    },
    path::Path,
    thread,
    time::Duration,
};

use super::ground::{Ground, on_every_filesystem};

/// Makes the kernel forget every unused inode and dentry, so that the next look goes all the way down.
fn drop_caches() {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
}

fn hard_links_share_one_inode(ground: &Ground) {
    let root = &ground.mounted;
    fs::create_dir(root.join("sub")).unwrap();
    let (first, second) = (root.join("first"), root.join("sub/second"));
    fs::write(&first, "shared").unwrap();
    let before = fs::metadata(&first).unwrap();
    thread::sleep(Duration::from_millis(20));
    fs::hard_link(&first, &second).unwrap();
    for round in ["warm", "after drop_caches"] {
        let (a, b) = (fs::metadata(&first).unwrap(), fs::metadata(&second).unwrap());
        assert_eq!((a.ino(), a.nlink()), (before.ino(), 2), "{round}");
        assert_eq!((b.ino(), b.nlink(), b.dev()), (a.ino(), 2, a.dev()), "{round}");
        assert_eq!((a.ctime(), a.ctime_nsec()), (b.ctime(), b.ctime_nsec()), "{round}");
        drop_caches();
    }
    let linked = fs::metadata(&first).unwrap();
    assert!(
        (linked.ctime(), linked.ctime_nsec()) > (before.ctime(), before.ctime_nsec()),
        "link changes ctime"
    );
    assert_eq!(linked.mtime_nsec(), before.mtime_nsec());

    OpenOptions::new().append(true).open(&second).unwrap().write_all(b" text").unwrap();
    assert_eq!(fs::read(&first).unwrap(), b"shared text");
    assert_eq!(fs::metadata(&first).unwrap().len(), 11);
    fs::remove_file(&first).unwrap();
    assert_eq!(fs::metadata(&second).unwrap().nlink(), 1);
    assert_eq!(fs::metadata(ground.backing.join("sub/second")).unwrap().nlink(), 1);
    assert!(fs::hard_link(root.join("sub"), root.join("no")).is_err(), "directories have one name");
    let taken = fs::hard_link(&second, root.join("sub")).unwrap_err();
    assert_eq!(taken.raw_os_error(), Some(libc::EEXIST));
    symlink("nowhere", root.join("symlink")).unwrap();
    fs::hard_link(root.join("symlink"), root.join("symlink-2")).unwrap();
    assert_eq!(fs::symlink_metadata(root.join("symlink")).unwrap().nlink(), 2);
}

fn inode_numbers_are_those_of_the_backing(ground: &Ground) {
    let root = &ground.mounted;
    fs::create_dir_all(root.join("a/b")).unwrap();
    for name in ["x", "a/y", "a/b/z"] {
        File::create(root.join(name)).unwrap();
    }
    symlink("x", root.join("a/link")).unwrap();
    for _ in 0..2 {
        for name in ["", "x", "a", "a/y", "a/link", "a/b", "a/b/z"] {
            let (seen, below) = (root.join(name), ground.backing.join(name));
            let inode = fs::symlink_metadata(&seen).unwrap().ino();
            assert_eq!(inode, fs::symlink_metadata(&below).unwrap().ino(), "{name:?}");
        }
        for directory in ["", "a", "a/b"] {
            let listed: BTreeMap<_, u64> = fs::read_dir(root.join(directory))
                .unwrap()
                .map(|entry| entry.unwrap())
                .map(|entry| (entry.file_name(), entry.ino()))
                .collect();
            for (name, inode) in listed {
                let path = root.join(directory).join(&name);
                assert_eq!(inode, fs::symlink_metadata(&path).unwrap().ino(), "d_ino of {}", path.display());
            }
        }
        drop_caches();
    }
}

fn names_may_hold_any_byte(ground: &Ground) {
    let names: [&[u8]; 7] = [
        b"caf\xe9",
        b"\xff\xfe\xfd",
        b"line\nbreak",
        b"tab\tand \"quotes\" and spaces ",
        b"-rf",
        "名前🦀".as_bytes(),
        b"...",
    ];
    for bytes in names {
        let name = OsStr::from_bytes(bytes);
        fs::write(ground.mounted.join(name), bytes).unwrap();
        assert_eq!(fs::read(ground.mounted.join(name)).unwrap(), bytes);
        assert_eq!(fs::read(ground.backing.join(name)).unwrap(), bytes);
        symlink(name, ground.mounted.join("link")).unwrap();
        assert_eq!(fs::read_link(ground.mounted.join("link")).unwrap(), Path::new(name));
        assert_eq!(fs::read(ground.mounted.join("link")).unwrap(), bytes);
        fs::remove_file(ground.mounted.join("link")).unwrap();
    }
    let mut listed: Vec<Vec<u8>> = fs::read_dir(&ground.mounted)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    listed.sort();
    let mut expected: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    expected.sort();
    assert_eq!(listed, expected);
}

fn names_have_255_bytes_at_most(ground: &Ground) {
    let root = &ground.mounted;
    let longest = "n".repeat(255);
    let too_long = root.join("n".repeat(256));
    fs::write(root.join(&longest), "x").unwrap();
    fs::rename(root.join(&longest), root.join("m".repeat(255))).unwrap();
    fs::create_dir(root.join(&longest)).unwrap();
    fs::write(root.join(&longest).join(&longest), "y").unwrap();
    assert_eq!(fs::read(ground.backing.join(&longest).join(&longest)).unwrap(), b"y");
    for result in [
        File::create(&too_long).map(drop),
        fs::create_dir(&too_long),
        fs::metadata(&too_long).map(drop),
        fs::rename(root.join("m".repeat(255)), &too_long),
        symlink("x", &too_long),
        fs::hard_link(root.join("m".repeat(255)), &too_long),
        fs::remove_file(&too_long),
    ] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    }
}

fn symlinks_hold_any_target(ground: &Ground) {
    let root = &ground.mounted;
    // xfs allows 1,023 bytes, the others 4,095.
    let long = "t".repeat(1000);
    for (name, target) in [("relative", "a/../b"), ("absolute", "/nowhere/at all"), ("long", long.as_str())] {
        symlink(target, root.join(name)).unwrap();
        assert_eq!(fs::read_link(root.join(name)).unwrap(), Path::new(target));
        assert_eq!(fs::read_link(ground.backing.join(name)).unwrap(), Path::new(target));
        assert_eq!(fs::symlink_metadata(root.join(name)).unwrap().len(), target.len() as u64);
    }
    symlink("loop-b", root.join("loop-a")).unwrap();
    symlink("loop-a", root.join("loop-b")).unwrap();
    assert_eq!(File::open(root.join("loop-a")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert_eq!(symlink("x", root.join("long")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    fs::write(root.join("file"), "x").unwrap();
    assert_eq!(fs::read_link(root.join("file")).unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

fn open_flags_are_honoured(ground: &Ground) {
    let root = &ground.mounted;
    let path = root.join("file");
    fs::write(&path, "x").unwrap();
    fs::create_dir(root.join("directory")).unwrap();
    symlink("file", root.join("link")).unwrap();
    symlink("missing", root.join("dangling")).unwrap();
    let open = |name: &str, flags: i32| {
        let result = OpenOptions::new().read(true).custom_flags(flags).open(root.join(name));
        result.map(drop).map_err(|error| error.raw_os_error().unwrap())
    };
    assert_eq!(File::create_new(&path).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    assert_eq!(File::create_new(root.join("dangling")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    assert_eq!(open("link", libc::O_NOFOLLOW), Err(libc::ELOOP));
    assert_eq!(open("file", libc::O_NOFOLLOW), Ok(()));
    assert_eq!(open("file", libc::O_DIRECTORY), Err(libc::ENOTDIR));
    assert_eq!(open("directory", libc::O_DIRECTORY), Ok(()));
    assert_eq!(open("file", libc::O_NOATIME), Ok(()));
    assert_eq!(open("file", libc::O_NONBLOCK | libc::O_NOCTTY), Ok(()));
    assert_eq!(open("missing", 0), Err(libc::ENOENT));
    assert_eq!(open("file/x", 0), Err(libc::ENOTDIR));
    let write_directory = OpenOptions::new().write(true).open(root.join("directory"));
    assert_eq!(write_directory.unwrap_err().raw_os_error(), Some(libc::EISDIR));
    harness::as_user(4009, 4009, &[], || {
        assert_eq!(open("file", libc::O_NOATIME), Err(libc::EPERM), "O_NOATIME is for the owner");
    });
    // Through a dangling link, plain O_CREAT makes the target.
    fs::write(root.join("dangling"), "made").unwrap();
    assert_eq!(fs::read(ground.backing.join("missing")).unwrap(), b"made");
}

fn unlinked_open_file_has_no_links(ground: &Ground) {
    let path = ground.mounted.join("file");
    let file = File::create(&path).unwrap();
    fs::hard_link(&path, ground.mounted.join("other")).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 1);
    fs::remove_file(ground.mounted.join("other")).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.nlink(), metadata.len()), (0, 0));
    (&file).write_all(b"still").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5);
    assert_eq!(fs::metadata(&path).unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

on_every_filesystem!(
    hard_links_share_one_inode,
    inode_numbers_are_those_of_the_backing,
    names_may_hold_any_byte,
    names_have_255_bytes_at_most,
    symlinks_hold_any_target,
    open_flags_are_honoured,
    unlinked_open_file_has_no_links,
);
