use std::{
    fs,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use wsguard_api::{Ownership, Workspace};

use crate::{Backing, BackingDir, Daemon, DaemonBuilder, unmount_below};

/// A guarded workspace with a daemon of its own, on a backing of the test's choice.
///
/// Everything is undone on drop, also while a test panics.
pub struct GuardMount {
    // Declared in the order in which they must go: the daemon unmounts, then the second view is detached, then
    // the backing filesystem can be unmounted.
    daemon: Daemon,
    workspace: Workspace,
    plain: PathBuf,
    backing: BackingDir,
}

/// Options of a [`GuardMount`].
pub struct GuardMountBuilder {
    backing: Backing,
    ownership: Option<Ownership>,
    owner: Option<(u32, u32)>,
    name: Option<String>,
    daemon: DaemonBuilder,
}

impl GuardMountBuilder {
    /// Puts the plain files there; the default is [`Backing::Directory`].
    #[must_use]
    pub fn backing(mut self, backing: Backing) -> Self {
        self.backing = backing;
        self
    }

    /// Sets who new files belong to; the default is the product's: `squash` unless the owner is root.
    #[must_use]
    pub fn ownership(mut self, ownership: Ownership) -> Self {
        self.ownership = Some(ownership);
        self
    }

    /// Makes the directory belong to this user and its group of the same number; the default is root.
    #[must_use]
    pub fn owner(mut self, uid: u32) -> Self {
        self.owner = Some((uid, uid));
        self
    }

    /// Gives the workspace a name; the default is the directory's.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Starts the daemon with these options.
    #[must_use]
    pub fn daemon(mut self, daemon: DaemonBuilder) -> Self {
        self.daemon = daemon;
        self
    }

    /// Gives the test this long before the watchdog kills the daemon; the default is three minutes.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.daemon = self.daemon.deadline(deadline);
        self
    }

    /// Starts the daemon and guards an empty directory.
    pub fn mount(self) -> GuardMount {
        self.mount_prepared(|_| {})
    }

    /// Starts the daemon and guards a directory that `prepare` has filled with plain files.
    pub fn mount_prepared(self, prepare: impl FnOnce(&Path)) -> GuardMount {
        let backing = self.backing.make();
        let daemon = self.daemon.start();
        // The parent is bound elsewhere before the mount, so that the mount does not cover this second view.
        let (parent, view) = (backing.path().join("w"), daemon.make_dir("plain"));
        let dir = parent.join("project");
        fs::create_dir_all(&dir).expect("the backing can be written");
        if let Some((uid, gid)) = self.owner {
            chown(&dir, Some(uid), Some(gid)).expect("root may give files away");
        }
        prepare(&dir);
        mount_bind(&parent, &view).expect("root may bind directories");
        // Where the machine's mounts are shared, the new mount would reach the second view as well.
        mount_change(&view, MountPropagationFlags::PRIVATE).expect("root may make mounts private");
        let mut arguments = Vec::new();
        if let Some(ownership) = self.ownership {
            let value = match ownership {
                Ownership::Preserve => "preserve",
                Ownership::Squash => "squash",
            };
            arguments.extend(["--ownership", value]);
        }
        if let Some(name) = &self.name {
            arguments.extend(["--name", name]);
        }
        let workspace = daemon.mount_with(&dir, &arguments);
        GuardMount { workspace, plain: view.join("project"), daemon, backing }
    }
}

impl GuardMount {
    /// Returns the options of a mount to be made.
    pub fn builder() -> GuardMountBuilder {
        GuardMountBuilder {
            backing: Backing::Directory,
            ownership: None,
            owner: None,
            name: None,
            daemon: Daemon::builder(),
        }
    }

    /// Guards an empty directory of root's with default options.
    pub fn new() -> Self {
        Self::builder().mount()
    }

    /// Returns the guarded path, which is the directory itself.
    pub fn path(&self) -> &Path {
        &self.workspace.mount_point
    }

    /// Returns the root-owned path of the mount, to bind into containers.
    pub fn source(&self) -> &Path {
        &self.workspace.source
    }

    /// Returns the same plain files by a second path that does not go through the guard.
    pub fn backing_path(&self) -> &Path {
        &self.plain
    }

    /// Returns the filesystem below.
    pub fn backing(&self) -> &BackingDir {
        &self.backing
    }

    /// Returns the daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Returns the daemon, to stop and restart it.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// Returns the workspace as it was at mount time.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// Tells whether the guarded path is a FUSE mount at this moment.
    pub fn is_mounted(&self) -> bool {
        let found = crate::mounts().into_iter().rev().find(|mount| mount.mount_point == self.path());
        found.is_some_and(|mount| mount.fs_type.starts_with("fuse"))
    }

    /// Unmounts it through the daemon; the plain files stay.
    #[track_caller]
    pub fn umount(&self) {
        self.daemon.command().arg("umount").arg(self.path()).ok();
    }

    /// Guards the directory again after [`GuardMount::umount`].
    #[track_caller]
    pub fn mount_again(&mut self) {
        self.workspace = self.daemon.mount(&self.workspace.dir.clone());
    }

    /// Returns uid and gid of a path as the backing filesystem has them.
    pub fn backing_owner(&self, relative: &str) -> (u32, u32) {
        let stat =
            fs::symlink_metadata(self.plain.join(relative)).expect("the file is on the backing filesystem");
        (stat.uid(), stat.gid())
    }
}

impl Default for GuardMount {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for GuardMount {
    fn drop(&mut self) {
        // The workspace lies in the backing and not below the daemon's directory. While the daemon lives it
        // unmounts this itself when it is stopped; a dead mount must go before the backing can.
        self.daemon.stop_in_drop();
        drop(unmount_below(self.backing.path().join("w").as_path()));
    }
}
