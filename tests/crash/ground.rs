//! A mount to kill workers under.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use harness::{Backing, Daemon, DaemonBuilder, GuardMount, Scratch, wait_until};
use wsguard_api::DaemonStatus;

/// Killing under one mount at a time: the stalls that are printed are not those of another test.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long a worker may take from its start until it answers commands.
const COMMANDS_WITHIN: Duration = Duration::from_secs(5);

/// Waits until no other test of this binary measures.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guarded directory, and a place outside of it for what its programs must remember.
pub(crate) struct Ground {
    pub(crate) mount: GuardMount,
    outside: Scratch,
}

impl Ground {
    /// Guards a directory that `prepare` has filled. After `deadline` the daemon is killed, and whoever hangs fails.
    pub(crate) fn new(backing: Backing, deadline: Duration, prepare: impl FnOnce(&Path)) -> Self {
        Self::with_daemon(backing, Daemon::builder().deadline(deadline), prepare)
    }

    /// Guards a directory with a daemon of these options.
    pub(crate) fn with_daemon(backing: Backing, daemon: DaemonBuilder, prepare: impl FnOnce(&Path)) -> Self {
        let mount = GuardMount::builder().backing(backing).daemon(daemon).mount_prepared(prepare);
        Self { mount, outside: Scratch::new() }
    }

    pub(crate) fn daemon(&self) -> &Daemon {
        self.mount.daemon()
    }

    /// Returns the status once a worker that has just started answers commands.
    pub(crate) fn status_of_latest_worker(&self) -> DaemonStatus {
        let daemon = self.daemon();
        wait_until("a worker to answer commands", COMMANDS_WITHIN, || daemon.cli(["status"]).code == 0);
        daemon.status()
    }

    /// Makes a directory on the mount; returns it, the same below the mount, and one outside.
    pub(crate) fn dirs(&self, name: &str) -> (PathBuf, PathBuf, PathBuf) {
        let mounted = self.mount.path().join(name);
        fs::create_dir_all(&mounted).unwrap();
        (mounted, self.mount.backing_path().join(name), self.outside.dir(name))
    }
}
