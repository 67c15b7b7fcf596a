//! Who changed what: every change of a workspace becomes a [`Record`], every writer is attributed to a process and
//! its container, and a bounded history of it is kept.
//!
//! What it guarantees: a record is made after the change it tells of and costs the request a push into a bounded
//! queue; a write costs a few relaxed atomics ([`OpenTally`]). Nothing here makes a request wait or fail. What is lost
//! (a full queue, the death of a worker with records under way, a disk that takes nothing) is counted and shown.
//!
//! One thread for the worker, the [`Recorder`], takes the queues of all workspaces at most every 100 ms, puts paths
//! and processes to the records, hands them to the [`Follower`]s and stores them in `<state>/history/<id>.sqlite`.

pub(crate) mod history;
mod lane;
mod names;
mod process;
mod queue;
mod record;
mod recorder;
mod tally;
mod top;

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use parking_lot::{Mutex, RwLock};

pub(crate) use history::Bounds;
pub(crate) use lane::HistoryOptions;
pub(crate) use process::{Process, Processes};
pub(crate) use record::{Operation, Record};
pub(crate) use recorder::Recorder;
pub(crate) use tally::{OpenTally, TallyView};
pub(crate) use top::{Activity, OpenFile, Writer};

use names::KnownDirectories;
use queue::{Item, Pushed, Queue, URGENT};
use tally::Tallies;

/// Finds the directory and the name of an inode at this moment, through no path that a user could redirect.
pub(crate) type Locate = Box<dyn Fn(u64) -> Option<(u64, Box<OsStr>)> + Send + Sync>;

/// Where something changed below the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutsideChange<'a> {
    /// A name, or what it leads to; the directory is relative to the root, empty for the root itself.
    Name { directory: &'a Path, name: &'a OsStr },
    /// Nobody knows.
    Anywhere,
}

/// Wants to know of every change of a workspace, on the recorder's thread and a fraction of a second after it.
pub(crate) trait Follower: Send {
    /// Takes records in the order in which they happened.
    fn records(&mut self, batch: &[Record]);

    /// Tells that so many records were lost between the last batch and the next: whatever was derived from them has
    /// to be found another way.
    fn lost(&mut self, records: u64);

    /// Tells that something changed below the mount, past all records; see [`OutsideChange`]. Called on the thread
    /// that found it.
    fn changed_outside(&mut self, change: OutsideChange<'_>);
}

/// What happens in one workspace. See the module.
pub(crate) struct Tracker {
    workspace: String,
    queue: Queue,
    tallies: Tallies,
    known: KnownDirectories,
    processes: Arc<Processes>,
    locate: RwLock<Option<Locate>>,
    wake: Arc<Wake>,
    followers: Mutex<Vec<Box<dyn Follower>>>,
    is_on: bool,
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracker").field("workspace", &self.workspace).finish_non_exhaustive()
    }
}

impl Tracker {
    /// Makes the tracker of a workspace. Whoever holds `wake` takes what it collects.
    /// With `is_on` false it collects nothing but that, and why.
    pub(crate) fn new(workspace: &str, processes: Arc<Processes>, wake: Arc<Wake>, is_on: bool) -> Self {
        Self {
            workspace: workspace.to_owned(),
            queue: Queue::new(),
            tallies: Tallies::new(),
            known: KnownDirectories::new(),
            processes,
            locate: RwLock::new(None),
            wake,
            followers: Mutex::default(),
            is_on,
        }
    }

    /// Whether changes are recorded.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Returns the workspace's id.
    pub(crate) fn workspace(&self) -> &str {
        &self.workspace
    }

    /// Sets how the places of directories are found that existed before they were tracked. A workspace that is
    /// mounted again sets it again.
    pub(crate) fn set_locate(&self, locate: Locate) {
        *self.locate.write() = Some(locate);
    }

    /// Tells `follower` of everything from now on.
    pub(crate) fn follow(&self, follower: Box<dyn Follower>) {
        self.followers.lock().push(follower);
    }

    /// Notes a change that has happened, while its request is still under way. Never blocks.
    pub(crate) fn record(&self, record: Record) {
        if !self.is_on {
            return;
        }
        let process = self.processes.of_thread(record.pid);
        self.record_by(record, process);
    }

    fn record_by(&self, record: Record, process: Option<Arc<Process>>) {
        match record.operation {
            Operation::RemoveDirectory => self.known.forget(record.node),
            // Its place comes with the record itself.
            Operation::MakeDirectory => drop(self.known.is_known(record.node)),
            _ => {}
        }
        for parent in [record.parent, record.to_parent] {
            if parent != 0 {
                self.introduce(parent);
            }
        }
        self.push(Item::Record(record, process));
    }

    /// Notes that a file is open for writing. `parent` is its directory if the request told.
    pub(crate) fn open_for_writing(
        self: &Arc<Self>,
        node: u64,
        parent: Option<u64>,
        uid: u32,
        pid: u32,
    ) -> Arc<OpenTally> {
        let process = self.processes.of_thread(pid);
        let tally = self.tallies.open(Arc::downgrade(self), node, parent.unwrap_or(0), (uid, pid), process);
        self.wake.up();
        tally
    }

    /// Returns the process of a thread that waits for an answer, if it can be told.
    pub(crate) fn process_of(&self, thread: u32) -> Option<Arc<Process>> {
        self.processes.of_thread(thread)
    }

    /// Returns what is open for writing at this moment.
    pub(crate) fn open_tallies(&self) -> Vec<TallyView> {
        self.tallies.open_now().iter().map(|tally| tally.view()).collect()
    }

    /// Forgets where directories lie, because names changed below the mount.
    pub(crate) fn names_changed_outside(&self) {
        self.known.forget_all();
        if self.is_on {
            self.push(Item::NamesChanged);
        }
    }

    /// Passes on that something changed below the mount.
    pub(crate) fn changed_outside(&self, change: OutsideChange<'_>) {
        for follower in self.followers.lock().iter_mut() {
            follower.changed_outside(change);
        }
    }

    /// Notes that a worker before this one died: what it had not stored is missing.
    pub(crate) fn note_interrupted(&self, reason: &'static str) {
        self.push(Item::Interrupted { reason });
    }

    /// Passes records on to whoever follows.
    fn tell(&self, records: &[Record], lost: u64) {
        if records.is_empty() && lost == 0 {
            return;
        }
        for follower in self.followers.lock().iter_mut() {
            if lost > 0 {
                follower.lost(lost);
            }
            if !records.is_empty() {
                follower.records(records);
            }
        }
    }

    fn locate_now(&self, node: u64) -> Option<(u64, Box<OsStr>)> {
        self.locate.read().as_ref()?(node)
    }

    /// Tells the recorder where a directory lies that it does not know, and those above it.
    fn introduce(&self, directory: u64) {
        let mut node = directory;
        while !self.known.is_known(node) {
            let Some((parent, name)) = self.locate_now(node) else {
                self.known.forget(node);
                return;
            };
            if self.push(Item::Located { node, parent, name }) == Pushed::Dropped {
                self.known.forget(node);
                return;
            }
            node = parent;
        }
    }

    fn push(&self, item: Item) -> Pushed {
        let pushed = self.queue.push(item);
        match pushed {
            Pushed::Waiting(URGENT) => self.wake.now(),
            Pushed::Waiting(_) => self.wake.up(),
            Pushed::Dropped => {}
        }
        pushed
    }
}

/// Wakes the recorder: one a worker.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    recorder: OnceLock<Thread>,
    is_idle: AtomicBool,
}

impl Wake {
    /// Wakes the recorder if it sleeps until something happens.
    fn up(&self) {
        // Ordered after the push, as the recorder's look at the queues is after it set this: one of the two sees the
        // other. A wake-up that is missed all the same comes a second later.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.is_idle.load(Ordering::Relaxed) && self.is_idle.swap(false, Ordering::Relaxed) {
            self.now();
        }
    }

    /// Wakes it in any case.
    fn now(&self) {
        if let Some(recorder) = self.recorder.get() {
            recorder.unpark();
        }
    }
}

#[cfg(test)]
mod tests;
