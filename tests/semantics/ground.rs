//! Where a check runs: the directory as programs see it, and an unguarded view of the same plain files.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use harness::{Backing, BackingDir, FsKind, GuardMount, require};
use wsguard_api::Ownership;

/// The two views of one workspace. On a plain directory both are the same path.
pub(crate) struct Ground {
    /// What programs use.
    pub(crate) mounted: PathBuf,
    /// The same files, not through the guard.
    pub(crate) backing: PathBuf,
    owner: Owner,
}

/// What has to live as long as the paths.
enum Owner {
    Directory { _directory: BackingDir },
    Mount(Box<GuardMount>),
}

impl Ground {
    /// A plain directory on the machine's own filesystem: what a check expects of the guard must hold here first.
    pub(crate) fn native() -> Ground {
        Ground::plain(Backing::Directory)
    }

    /// A plain directory on a filesystem of its own.
    pub(crate) fn plain(backing: Backing) -> Ground {
        let directory = backing.make();
        let path = directory.path().join("w/project");
        fs::create_dir_all(&path).unwrap();
        let path = path.canonicalize().unwrap();
        open_to_everyone(&path);
        Ground { mounted: path.clone(), backing: path, owner: Owner::Directory { _directory: directory } }
    }

    /// A guarded directory of root's on a filesystem of its own, in `preserve`.
    pub(crate) fn guarded(backing: Backing) -> Ground {
        Ground::prepared(backing, |_| {})
    }

    /// As [`Ground::guarded`], with plain files that were there before.
    pub(crate) fn prepared(backing: Backing, prepare: impl FnOnce(&Path)) -> Ground {
        let builder = GuardMount::builder().backing(backing).ownership(Ownership::Preserve);
        Ground::of(builder.mount_prepared(prepare))
    }

    /// A mount with options of the caller's choice.
    pub(crate) fn of(mount: GuardMount) -> Ground {
        let (mounted, backing) = (mount.path().to_owned(), mount.backing_path().to_owned());
        open_to_everyone(&mounted);
        Ground { mounted, backing, owner: Owner::Mount(Box::new(mount)) }
    }

    /// Whether the check runs on the plain filesystem.
    pub(crate) fn is_native(&self) -> bool {
        self.mounted == self.backing
    }

    /// The mount and its daemon; panics on a plain directory.
    pub(crate) fn mount(&self) -> &GuardMount {
        match &self.owner {
            Owner::Mount(mount) => mount,
            Owner::Directory { .. } => panic!("a plain directory has no daemon"),
        }
    }
}

/// Lets other users in: many checks act as somebody who is not root.
fn open_to_everyone(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

/// Runs a check on a plain directory; as root, because many checks act as several users.
pub(crate) fn check_natively(check: fn(&Ground)) {
    require!(root);
    check(&Ground::native());
}

/// Runs a check through the guard on a loop filesystem, if this machine can.
pub(crate) fn check_on(kind: FsKind, check: fn(&Ground)) {
    require!(fuse);
    if kind.facility().check() {
        check(&Ground::guarded(Backing::on(kind)));
    }
}

/// Runs each check natively and through the guard on ext4, xfs and btrfs, as tests named `check::xfs` and so on. A macro,
/// because the tests must exist by name before any of them runs.
macro_rules! on_every_filesystem {
    ($($check:ident),+ $(,)?) => {$(
        mod $check {
            use super::super::ground::{check_natively, check_on};
            #[test]
            fn native() { check_natively(super::$check); }
            #[test]
            fn ext4() { check_on(harness::FsKind::Ext4, super::$check); }
            #[test]
            fn xfs() { check_on(harness::FsKind::Xfs, super::$check); }
            #[test]
            fn btrfs() { check_on(harness::FsKind::Btrfs, super::$check); }
        }
    )+};
}
pub(crate) use on_every_filesystem;
