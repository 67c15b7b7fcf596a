//! Who a new file belongs to: the creator's uid, gid and supplementary groups, the directory's setgid bit, the umask.

use std::{
    fs::{self, File, Permissions},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink},
    path::Path,
};

use harness::as_user;
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::umask,
};

use super::ground::{Ground, on_every_filesystem};

const USER: u32 = 4001;
const GROUP: u32 = 4001;
const EXTRA: u32 = 4002;
const STRANGER: u32 = 4009;

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn create(path: &Path, bits: u32) {
    File::options().write(true).create_new(true).mode(bits).open(path).unwrap();
}

fn make_dir(path: &Path, bits: u32) {
    fs::DirBuilder::new().mode(bits).create(path).unwrap();
}

fn new_entries_belong_to_their_creator(ground: &Ground) {
    let root = &ground.mounted;
    as_user(USER, GROUP, &[EXTRA], || {
        create(&root.join("file"), 0o644);
        make_dir(&root.join("directory"), 0o755);
        symlink("file", root.join("symlink")).unwrap();
        mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        mknodat(CWD, root.join("node"), FileType::RegularFile, Mode::from_raw_mode(0o600), 0).unwrap();
        create(&root.join("directory/inner"), 0o600);
    });
    for name in ["file", "directory", "symlink", "fifo", "node", "directory/inner"] {
        assert_eq!(owner(&root.join(name)), (USER, GROUP), "{name}");
        assert_eq!(owner(&ground.backing.join(name)), (USER, GROUP), "{name} below");
    }
    create(&root.join("of-root"), 0o644);
    assert_eq!(owner(&root.join("of-root")), (0, 0));
}

fn supplementary_groups_count(ground: &Ground) {
    let root = &ground.mounted;
    let shared = root.join("shared");
    make_dir(&shared, 0o770);
    chown(&shared, Some(0), Some(EXTRA)).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o770)).unwrap();
    as_user(USER, GROUP, &[EXTRA], || {
        create(&shared.join("file"), 0o644);
        chown(shared.join("file"), None, Some(EXTRA)).unwrap();
        assert_eq!(
            chown(shared.join("file"), None, Some(STRANGER)).unwrap_err().kind(),
            ErrorKind::PermissionDenied
        );
    });
    assert_eq!(owner(&shared.join("file")), (USER, EXTRA));
    as_user(STRANGER, STRANGER, &[], || {
        assert_eq!(File::create(shared.join("x")).unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

fn setgid_directory_passes_its_group_on(ground: &Ground) {
    let root = &ground.mounted;
    let team = root.join("team");
    make_dir(&team, 0o777);
    chown(&team, Some(0), Some(EXTRA)).unwrap();
    fs::set_permissions(&team, Permissions::from_mode(0o2777)).unwrap();
    as_user(USER, GROUP, &[], || {
        umask(Mode::from_raw_mode(0o022));
        create(&team.join("file"), 0o644);
        create(&team.join("program"), 0o2755);
        make_dir(&team.join("directory"), 0o755);
        symlink("file", team.join("symlink")).unwrap();
    });
    for name in ["file", "program", "directory", "symlink"] {
        assert_eq!(owner(&team.join(name)), (USER, EXTRA), "{name}");
    }
    assert_eq!(mode(&team.join("directory")), 0o2755, "the bit is passed on to directories");
    assert_eq!(mode(&team.join("program")), 0o755, "who is not of the group cannot make setgid programs");
    as_user(USER, GROUP, &[EXTRA], || {
        umask(Mode::from_raw_mode(0o022));
        create(&team.join("member"), 0o2755);
    });
    assert_eq!(mode(&team.join("member")), 0o2755, "a member of the group may");
}

fn umask_is_the_callers(ground: &Ground) {
    let root = &ground.mounted;
    as_user(0, 0, &[], || {
        umask(Mode::from_raw_mode(0o027));
        create(&root.join("file"), 0o666);
        make_dir(&root.join("directory"), 0o777);
        mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
        umask(Mode::from_raw_mode(0));
        create(&root.join("open"), 0o666);
        create(&root.join("sticky"), 0o1777);
        make_dir(&root.join("sticky-directory"), 0o1777);
    });
    for (name, bits) in [
        ("file", 0o640),
        ("directory", 0o750),
        ("fifo", 0o640),
        ("open", 0o666),
        ("sticky", 0o1777),
        ("sticky-directory", 0o1777),
    ] {
        assert_eq!(mode(&root.join(name)), bits, "{name}");
        assert_eq!(mode(&ground.backing.join(name)), bits, "{name} below");
    }
}

fn permission_bits_are_enforced(ground: &Ground) {
    let root = &ground.mounted;
    let closed = root.join("closed");
    make_dir(&closed, 0o700);
    create(&root.join("secret"), 0o600);
    create(&root.join("readable"), 0o644);
    as_user(USER, GROUP, &[], || {
        for result in [
            File::open(root.join("secret")).map(drop),
            File::options().write(true).open(root.join("readable")).map(drop),
            fs::metadata(closed.join("x")).map(drop),
            fs::read_dir(&closed).map(drop),
        ] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES));
        }
        for result in [
            fs::set_permissions(root.join("readable"), Permissions::from_mode(0o777)),
            chown(root.join("readable"), Some(USER), None),
        ] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
        File::open(root.join("readable")).unwrap();
    });
}

fn sticky_directory_protects_others_files(ground: &Ground) {
    let drop_box = ground.mounted.join("tmp");
    make_dir(&drop_box, 0o1777);
    fs::set_permissions(&drop_box, Permissions::from_mode(0o1777)).unwrap();
    as_user(USER, GROUP, &[], || create(&drop_box.join("mine"), 0o666));
    as_user(STRANGER, STRANGER, &[], || {
        for result in [
            fs::remove_file(drop_box.join("mine")),
            fs::rename(drop_box.join("mine"), drop_box.join("stolen")),
        ] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM));
        }
    });
    as_user(USER, GROUP, &[], || fs::remove_file(drop_box.join("mine")).unwrap());
}

fn chown_changes_owner_group_and_links(ground: &Ground) {
    let root = &ground.mounted;
    create(&root.join("file"), 0o644);
    symlink("file", root.join("symlink")).unwrap();
    chown(root.join("file"), Some(USER), Some(GROUP)).unwrap();
    lchown(root.join("symlink"), Some(STRANGER), Some(EXTRA)).unwrap();
    assert_eq!(owner(&root.join("file")), (USER, GROUP));
    assert_eq!(owner(&root.join("symlink")), (STRANGER, EXTRA));
    assert_eq!(owner(&ground.backing.join("symlink")), (STRANGER, EXTRA));
    chown(root.join("symlink"), None, Some(EXTRA)).unwrap();
    assert_eq!(owner(&ground.backing.join("file")), (USER, EXTRA));
}

on_every_filesystem!(
    new_entries_belong_to_their_creator,
    supplementary_groups_count,
    setgid_directory_passes_its_group_on,
    umask_is_the_callers,
    permission_bits_are_enforced,
    sticky_directory_protects_others_files,
    chown_changes_owner_group_and_links,
);
