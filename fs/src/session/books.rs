//! The thread that keeps a workspace's books right beside the requests.
//!
//! It counts the project when the counters may be wrong (at mount, after a worker died in the middle of a change,
//! after edits below the mount, on request) and looks again at files whose blocks are only final once they are written
//! back. It runs with the lowest priority for CPU and disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};

use crate::fs::{GuardFs, Recounted};
use crate::sys::priority;

/// How often closed files are looked at again.
const COOL_INTERVAL: Duration = Duration::from_secs(2);
/// Edits below the mount come in bursts: so long after the last one the project is counted.
const QUIET: Duration = Duration::from_secs(2);
/// At least so much time lies between two recounts for edits below the mount …
const REST: Duration = Duration::from_secs(10);
/// … and so many times the duration of the one before.
const REST_FACTOR: u32 = 20;
/// Pause after a recount that failed.
const RETRY: Duration = Duration::from_secs(30);

/// What the books say of the last recount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRecount {
    /// When it was published.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What it found.
    pub found: Recounted,
}

#[derive(Default)]
struct Desk {
    is_stopping: bool,
    /// Recounts asked for and recounts that were finished since the start.
    asked: u64,
    answered: u64,
    last: Option<LastRecount>,
    /// Why the last one failed.
    failure: Option<String>,
}

struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
    stop: AtomicBool,
}

/// See the module.
pub(super) struct Books {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Books {
    /// Starts the thread; it counts at once if `must_count`. Without a thread the numbers stay estimated.
    pub(super) fn start(fs: Arc<GuardFs>, must_count: bool) -> Self {
        let desk = Desk { asked: u64::from(must_count), ..Desk::default() };
        let shared = Arc::new(Shared {
            desk: Mutex::new(desk),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let keeper = BookKeeper {
            seen_edits: fs.foreign_edits(),
            fs: fs.clone(),
            shared: shared.clone(),
            edited_at: None,
            rest_until: Instant::now(),
            trimmed_at: fs.trimmed_within().map(|within| Instant::now() + within),
        };
        if must_count && let Some(account) = fs.account() {
            account.set_estimated(true);
        }
        let thread = std::thread::Builder::new().name("wsguard-books".to_owned()).spawn(move || keeper.run());
        let thread = thread.inspect_err(|error| {
            tracing::error!(%error, "the books of a workspace are not kept; its use stays estimated");
            shared.desk.lock().is_stopping = true;
        });
        Self { shared, thread: Mutex::new(thread.ok()) }
    }

    /// Counts the project now and waits for it.
    ///
    /// # Errors
    /// Why it cannot be counted, as a sentence; also when the session ends meanwhile.
    pub(super) fn recount(&self) -> Result<Recounted, String> {
        let mut desk = self.shared.desk.lock();
        desk.asked += 1;
        let mine = desk.asked;
        self.shared.changed.notify_all();
        while desk.answered < mine {
            if desk.is_stopping {
                return Err("nobody keeps its books: it is being unmounted".to_owned());
            }
            self.shared.changed.wait(&mut desk);
        }
        match (&desk.failure, &desk.last) {
            (Some(reason), _) => Err(reason.clone()),
            (None, Some(last)) => Ok(last.found),
            (None, None) => Err("nothing is counted in this workspace".to_owned()),
        }
    }

    /// Returns what the last recount found.
    pub(super) fn last(&self) -> Option<LastRecount> {
        self.shared.desk.lock().last.clone()
    }

    /// Stops the thread and waits for it.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.desk.lock().is_stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps the books panicked");
        }
    }
}

impl Drop for Books {
    fn drop(&mut self) {
        self.stop();
    }
}

struct BookKeeper {
    fs: Arc<GuardFs>,
    shared: Arc<Shared>,
    seen_edits: u64,
    edited_at: Option<Instant>,
    rest_until: Instant,
    /// When the filesystem has freed what it keeps of files that were changed under a worker before this one.
    trimmed_at: Option<Instant>,
}

impl BookKeeper {
    fn run(mut self) {
        if let Err(errno) = priority::lower_own() {
            tracing::debug!(%errno, "the books are kept with ordinary priority");
        }
        self.fs.restore_mappings();
        loop {
            let target = {
                let mut desk = self.shared.desk.lock();
                if desk.asked == desk.answered && !desk.is_stopping {
                    self.shared.changed.wait_for(&mut desk, COOL_INTERVAL);
                }
                if desk.is_stopping {
                    return;
                }
                desk.asked
            };
            self.fs.cool_charges();
            let is_asked = target > self.shared.desk.lock().answered;
            let is_estimated = self.fs.account().is_some_and(|account| account.is_estimated());
            let is_due = self.is_due(is_estimated);
            if is_asked || is_due && is_estimated {
                // Whoever asks compares, and what was changed under a worker before this one is not looked at again: what
                // is written back later must not look like a difference.
                if let Err(errno) = self.fs.backing().sync() {
                    tracing::warn!(%errno, "filesystem cannot be synced before the count");
                }
                self.fs.settle_all();
            }
            if is_asked || is_due {
                self.count(target);
            }
        }
    }

    /// Whether something happened that only a recount can book.
    fn is_due(&mut self, is_estimated: bool) -> bool {
        let now = Instant::now();
        let edits = self.fs.foreign_edits();
        if edits != self.seen_edits {
            self.seen_edits = edits;
            self.edited_at = Some(now);
        }
        let is_quiet = self.edited_at.is_some_and(|at| now.saturating_duration_since(at) >= QUIET);
        let is_trimmed = self.trimmed_at.is_some_and(|at| now >= at);
        (is_quiet || is_estimated || is_trimmed) && now >= self.rest_until
    }

    fn count(&mut self, target: u64) {
        let begun = Instant::now();
        self.edited_at = None;
        self.trimmed_at = self.trimmed_at.filter(|at| *at > begun);
        // Those that come from now on may be missed by the walk.
        self.seen_edits = self.fs.foreign_edits();
        let result = self.fs.recount(&self.shared.stop);
        let took = begun.elapsed();
        let mut desk = self.shared.desk.lock();
        self.rest_until = Instant::now() + REST.max(took * REST_FACTOR);
        match result {
            Ok(Some(found)) => {
                tracing::debug!(?found, ?took, "project is counted");
                desk.failure = None;
                desk.last = Some(LastRecount { at: Timestamp::now(), took, found });
            }
            Ok(None) => desk.failure = Some("the count was stopped".to_owned()),
            Err(errno) => {
                tracing::error!(%errno, "project cannot be counted; its numbers stay estimated");
                if let Some(account) = self.fs.account() {
                    account.set_estimated(true);
                }
                desk.failure = Some(format!("the files below cannot be read: {errno}"));
                self.rest_until = Instant::now() + RETRY;
            }
        }
        desk.answered = target.max(desk.answered);
        drop(desk);
        self.shared.changed.notify_all();
    }
}
