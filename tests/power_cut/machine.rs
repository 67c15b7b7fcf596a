//! A machine whose power can be cut: one filesystem with a workspace, its history and the daemon's state on it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{Daemon, FsKind, LoopFs, unmount_below, wait_until};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use wsguard_api::{SnapshotList, Workspace, WorkspaceState};

/// Where what was written is when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    /// On the disk as soon as the filesystem has sent it there.
    None,
    /// Perhaps in the disk's own cache, until the filesystem flushes that: the image lies on a filesystem of its own,
    /// whose power is cut.
    Volatile,
}

/// What is on the disk before a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// Nothing, but the journal keeps the order.
    Default,
    /// What was noted and preserved.
    Strict,
}

/// See the module.
pub(crate) struct Machine {
    daemon: Daemon,
    workspace: Workspace,
    disk: LoopFs,
    below: Option<LoopFs>,
}

impl Machine {
    pub(crate) fn new(kind: FsKind, cache: Cache, care: Care) -> Self {
        let below = (cache == Cache::Volatile).then(|| LoopFs::new(FsKind::Ext4, 2 << 30));
        let disk = match &below {
            Some(below) => LoopFs::inside(below, kind, 1 << 30),
            None => LoopFs::new(kind, 1 << 30),
        };
        let dir = disk.path().join("w/project");
        fs::create_dir_all(&dir).expect("a new filesystem can be written");
        fs::create_dir(disk.path().join("state")).expect("a new filesystem can be written");
        // Snapshots are taken by the test.
        let mut daemon = Daemon::builder()
            .config(format!("[snapshots]\nauto-seconds = 3600\nstrict = {}\n", care == Care::Strict))
            .deadline(Duration::from_secs(240))
            .prepare();
        bind_state(&daemon, &disk);
        daemon.start_again();
        let workspace = daemon.mount_with(&dir, &["--ownership", "preserve"]);
        Self { daemon, workspace, disk, below }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.workspace.mount_point
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Returns the filesystem whose power is to be cut.
    pub(crate) fn source_of_power(&self) -> &LoopFs {
        self.below.as_ref().unwrap_or(&self.disk)
    }

    /// Returns the preserve store's directory.
    pub(crate) fn store(&self) -> PathBuf {
        self.disk.path().join(".wsguard").join(&self.workspace.id)
    }

    /// Starts again after the power was cut.
    pub(crate) fn start_again(&mut self) {
        self.daemon.kill_all();
        for place in [self.disk.path().join("w").as_path(), self.daemon.dir()] {
            let left = unmount_below(place);
            assert!(left.is_empty(), "{left:?}");
        }
        self.disk.unmount_when_free();
        if let Some(below) = &self.below {
            below.unmount_when_free();
            below.mount();
        }
        self.disk.mount();
        // As after a boot.
        fs::write(self.store().join("boot"), "another").expect("the store can be written");
        bind_state(&self.daemon, &self.disk);
        self.daemon.start_again();
        let id = self.workspace.id.clone();
        wait_until("the workspace to be mounted again", Duration::from_secs(20), || {
            self.daemon.workspace(&id).state == WorkspaceState::Mounted
        });
    }

    /// Returns what `wsguard snapshot ls` says; nothing if it fails.
    pub(crate) fn list(&self) -> Option<SnapshotList> {
        let listed = self.daemon.command().args(["snapshot", "ls", "--json"]).arg(self.path()).output();
        (listed.code == 0).then(|| serde_json::from_str(&listed.stdout).expect("a list of snapshots"))
    }
}

fn bind_state(daemon: &Daemon, disk: &LoopFs) {
    let place = daemon.make_dir("s");
    mount_bind(disk.path().join("state"), &place).expect("root may bind directories");
    mount_change(&place, MountPropagationFlags::PRIVATE).expect("root may make mounts private");
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.daemon.kill_all();
        drop(unmount_below(&self.disk.path().join("w")));
        drop(unmount_below(self.daemon.dir()));
    }
}
