//! The one thread that takes the queues of all workspaces.
//!
//! It sleeps while nothing happens, works at most every 100 ms while something does, and looks at open files once a
//! second. It takes no lock that a request takes for longer than a few instructions.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use tracing::{error, info, warn};

use super::lane::{HistoryOptions, Lane, Look};
use super::process::Processes;
use super::top::{Activity, Meters};
use super::{Tracker, Wake};

/// From the first record to the transaction that stores it and those after it.
const BATCH_INTERVAL: Duration = Duration::from_millis(100);

/// How often open files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Recorder {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    options: HistoryOptions,
    processes: Arc<Processes>,
    wake: Arc<Wake>,
    trackers: Mutex<BTreeMap<String, Arc<Tracker>>>,
    is_stopping: AtomicBool,
    activity: Mutex<Vec<Activity>>,
    rounds: Mutex<Rounds>,
    round_ended: Condvar,
    dropped: AtomicU64,
}

/// Counts the rounds so that somebody can wait for one that begins after they asked.
#[derive(Default)]
struct Rounds {
    asked: u64,
    done: u64,
    is_over: bool,
}

impl Rounds {
    fn is_asked(&self) -> bool {
        self.done < self.asked
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Starts the thread. Histories that nobody has written to for longer than they are kept are removed.
    ///
    /// # Errors
    /// The directory cannot be made, or the thread cannot be started.
    pub(crate) fn start(options: HistoryOptions) -> std::io::Result<Self> {
        make_private_directory(&options.directory)?;
        remove_abandoned(&options);
        let shared = Arc::new(Shared {
            options,
            processes: Arc::new(Processes::new()),
            wake: Arc::new(Wake::default()),
            trackers: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            activity: Mutex::default(),
            rounds: Mutex::default(),
            round_ended: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("recorder".to_owned()).spawn(move || worker.run())?;
        // Until here nobody can have a tracker that would want to wake it.
        shared.wake.recorder.get_or_init(|| thread.thread().clone());
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Returns the tracker of a workspace.
    pub(crate) fn tracker(&self, workspace: &str) -> Arc<Tracker> {
        let shared = &self.shared;
        let mut trackers = shared.trackers.lock();
        let make = || {
            let (processes, wake) = (Arc::clone(&shared.processes), Arc::clone(&shared.wake));
            let tracker = Tracker::new(workspace, processes, wake, shared.options.is_on);
            if !shared.options.is_on {
                tracker.note_interrupted("changes are not recorded: history.enabled = false");
            }
            Arc::new(tracker)
        };
        Arc::clone(trackers.entry(workspace.to_owned()).or_insert_with(make))
    }

    /// Whether anything is recorded.
    pub(crate) fn is_on(&self) -> bool {
        self.shared.options.is_on
    }

    /// Returns where histories are.
    pub(crate) fn directory(&self) -> &Path {
        &self.shared.options.directory
    }

    /// Returns how many records were lost since the start because too many waited.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Returns what happened in the last seconds, a workspace each.
    pub(crate) fn activity(&self) -> Vec<Activity> {
        self.shared.activity.lock().clone()
    }

    /// As [`Self::activity`], of one workspace.
    pub(crate) fn activity_of(&self, workspace: &str) -> Option<Activity> {
        self.shared.activity.lock().iter().find(|activity| activity.workspace == workspace).cloned()
    }

    /// Waits until everything that was recorded before is in the histories. Returns whether it is.
    pub(crate) fn flush(&self, patience: Duration) -> bool {
        let shared = &self.shared;
        let deadline = Instant::now() + patience;
        let mut rounds = shared.rounds.lock();
        rounds.asked += 1;
        let wanted = rounds.asked;
        shared.wake.now();
        while rounds.done < wanted && !rounds.is_over {
            if shared.round_ended.wait_until(&mut rounds, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// Stores everything and ends the thread.
    pub(crate) fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.wake.now();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            error!("recorder panicked");
        }
    }
}

/// One workspace as the thread sees it.
struct Watched {
    lane: Lane,
    meters: Meters,
}

impl Shared {
    fn run(&self) {
        /// Nobody waits for a thread that has ended, however it ended.
        struct Over<'a>(&'a Shared);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.rounds.lock().is_over = true;
                self.0.round_ended.notify_all();
            }
        }
        let _over = Over(self);
        let mut watched: BTreeMap<String, Watched> = BTreeMap::new();
        let mut last_look = Instant::now();
        loop {
            let is_stopping = self.is_stopping.load(Ordering::Acquire);
            let asked = self.rounds.lock().asked;
            self.adopt(&mut watched);
            let elapsed = last_look.elapsed();
            let is_asked = self.rounds.lock().is_asked();
            let is_due = elapsed >= LOOK_INTERVAL;
            let look = if is_due || is_asked || is_stopping { Look::OpenFilesToo } else { Look::QueueOnly };
            let had_records = self.drain(&mut watched, look);
            if is_asked {
                watched.values_mut().for_each(|watched| watched.lane.store_live());
            }
            if is_due {
                self.picture(&mut watched, elapsed);
                last_look = Instant::now();
            }
            self.release(&mut watched);
            {
                let mut rounds = self.rounds.lock();
                rounds.done = rounds.done.max(asked);
                self.round_ended.notify_all();
            }
            if is_stopping {
                watched.values_mut().for_each(|watched| watched.lane.close());
                return;
            }
            self.sleep(&watched, had_records);
        }
    }

    /// Sees workspaces that are new.
    fn adopt(&self, watched: &mut BTreeMap<String, Watched>) {
        for (workspace, tracker) in self.trackers.lock().iter() {
            if !watched.contains_key(workspace) {
                let lane = Lane::new(Arc::clone(tracker), self.options.clone());
                watched.insert(workspace.clone(), Watched { lane, meters: Meters::default() });
            }
        }
    }

    /// Takes all queues; tells whether there was anything.
    fn drain(&self, watched: &mut BTreeMap<String, Watched>, look: Look) -> bool {
        let mut had_records = false;
        for Watched { lane, meters } in watched.values_mut() {
            let drained = lane.drain(look);
            had_records |= !drained.records.is_empty();
            meters.count(&drained.records, &drained.processes);
            self.dropped.fetch_add(drained.dropped, Ordering::Relaxed);
            lane.tracker.tell(&drained.records, drained.dropped);
        }
        had_records
    }

    /// Makes the picture of what happens now.
    fn picture(&self, watched: &mut BTreeMap<String, Watched>, elapsed: Duration) {
        let mut activity = Vec::new();
        for (workspace, Watched { lane, meters }) in watched.iter_mut() {
            lane.tidy();
            let open = lane.tracker.open_tallies();
            if !meters.is_empty() || !open.is_empty() {
                activity.push(meters.finish(workspace, elapsed, open, |node| lane.path_of(node)));
            }
        }
        *self.activity.lock() = activity;
    }

    /// Lets go of workspaces that nobody serves any more.
    fn release(&self, watched: &mut BTreeMap<String, Watched>) {
        let mut trackers = self.trackers.lock();
        watched.retain(|workspace, Watched { lane, meters }| {
            if !lane.is_over() || !meters.is_empty() {
                return true;
            }
            // Under the lock, so that nobody gets the tracker in between.
            trackers.remove(workspace);
            lane.close();
            false
        });
    }

    fn sleep(&self, watched: &BTreeMap<String, Watched>, had_records: bool) {
        if had_records {
            std::thread::park_timeout(BATCH_INTERVAL);
            return;
        }
        self.wake.is_idle.store(true, Ordering::Relaxed);
        // See `Wake::up`.
        std::sync::atomic::fence(Ordering::SeqCst);
        let is_idle = watched.values().all(|watched| watched.lane.tracker.queue.is_empty())
            && !self.is_stopping.load(Ordering::Acquire)
            && !self.rounds.lock().is_asked();
        if is_idle {
            std::thread::park_timeout(LOOK_INTERVAL);
        }
        if !self.wake.is_idle.swap(false, Ordering::Relaxed) {
            // Something began: let more of it come.
            std::thread::park_timeout(BATCH_INTERVAL);
        }
    }
}

fn make_private_directory(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Removes the histories of workspaces that are long gone.
fn remove_abandoned(options: &HistoryOptions) {
    let entries = match std::fs::read_dir(&options.directory) {
        Ok(entries) => entries,
        Err(error) => {
            warn!(path = %options.directory.display(), error = %error, "old histories are not looked for");
            return;
        }
    };
    for entry in entries.filter_map(Result::ok) {
        let age = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .map(|modified| SystemTime::now().duration_since(modified).unwrap_or(Duration::ZERO));
        let is_old = age.is_ok_and(|age| age > options.bounds.max_age);
        if is_old {
            match std::fs::remove_file(entry.path()) {
                Ok(()) => info!(path = %entry.path().display(), "old history was removed"),
                Err(error) => warn!(path = %entry.path().display(), error = %error, "old history stays"),
            }
        }
    }
}
