use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::Signal;

use crate::{kill, mounts_below, process::children, require::note, unmount_below};

/// Breaks up a daemon that outlives its deadline, so that whoever is stuck in its mounts gets an errno.
///
/// A request that nobody answers blocks the caller in the kernel, out of reach of any timeout of the test
/// itself. Ending both processes closes the connection, and every waiting call returns.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    keeper: Option<u32>,
    is_dismissed: bool,
    has_bitten: bool,
}

impl Watchdog {
    /// Starts counting; `dir` is where the daemon's mounts and workspaces lie.
    pub(crate) fn start(deadline: Duration, dir: PathBuf) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watched.run(deadline, dir))
            .expect("a thread can be started");
        Self { shared, thread: Some(thread) }
    }

    /// Tells it which process to kill, with all its children.
    pub(crate) fn watch(&self, keeper: u32) {
        self.shared.lock().keeper = Some(keeper);
    }

    /// Tells whether the deadline passed.
    pub(crate) fn has_bitten(&self) -> bool {
        self.shared.lock().has_bitten
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.lock().is_dismissed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked without having printed why.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the watchdog's state")
    }

    fn run(&self, deadline: Duration, dir: PathBuf) {
        let waited = self.changed.wait_timeout_while(self.lock(), deadline, |state| !state.is_dismissed);
        let (mut state, result) = waited.expect("no thread panics while it holds the watchdog's state");
        if !result.timed_out() {
            return;
        }
        state.has_bitten = true;
        let keeper = state.keeper;
        drop(state);
        note(&format!("WATCHDOG: the daemon below {} is killed after {deadline:?}", dir.display()));
        for pid in keeper.into_iter().chain(keeper.map(children).into_iter().flatten()) {
            kill(pid, Signal::KILL);
        }
        abort_connections(&dir);
        let left = unmount_below(&dir);
        if !left.is_empty() {
            note(&format!("WATCHDOG: still mounted: {left:?}"));
        }
    }
}

/// Ends the FUSE connections of the mounts below `dir`, where the control filesystem is mounted.
fn abort_connections(dir: &std::path::Path) {
    for mount in mounts_below(dir).iter().filter(|mount| mount.fs_type.starts_with("fuse")) {
        let Some((_, minor)) = mount.device.split_once(':') else { continue };
        // Without the control filesystem, killing the processes has to do.
        drop(fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1"));
    }
}
