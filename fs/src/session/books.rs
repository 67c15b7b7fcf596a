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
/// Without any other reason it is counted so often, to find out whether the counters can be relied on …
const AUDIT_INTERVAL: Duration = Duration::from_secs(7 * 86_400);
/// … each workspace in another hour of the day.
const AUDIT_SPREAD: u64 = 24;
/// Differences that nobody has asked for yet at most.
const MAX_SURPRISES: usize = 16;
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
    /// Recounts that found a difference although nothing was known that could have made one.
    surprises: Vec<LastRecount>,
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
            audit_at: Instant::now() + first_audit(&fs),
            suspects: Vec::new(),
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

    /// Has the project counted soon.
    pub(super) fn ask(&self) {
        self.shared.desk.lock().asked += 1;
        self.shared.changed.notify_all();
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

    /// Returns the recounts since the last call that found a difference although nothing was known that could have made
    /// one: no crash, no edit below the mount.
    pub(super) fn take_surprises(&self) -> Vec<LastRecount> {
        std::mem::take(&mut self.shared.desk.lock().surprises)
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
    audit_at: Instant,
    suspects: Vec<Suspect>,
}

/// A recount with a difference that nothing explains so far: an edit below the mount may have been counted before it was
/// reported.
struct Suspect {
    last: LastRecount,
    /// Edits below the mount that were known by then.
    edits: u64,
    found_at: Instant,
}

fn first_audit(fs: &GuardFs) -> Duration {
    AUDIT_INTERVAL - Duration::from_secs(fs.backing().root_stat().stx_ino % AUDIT_SPREAD * 3_600)
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
            self.judge_suspects();
            self.fs.doubt_unseen_writes();
            self.fs.cool_charges();
            let is_asked = target > self.shared.desk.lock().answered;
            let is_estimated = self.fs.account().is_some_and(|account| account.is_estimated());
            let is_due = self.is_due(is_estimated);
            if is_asked || is_due && is_estimated {
                // Whoever asks compares, and what was changed under a worker before this one is not looked at again: what
                // is written back later must not look like a difference.
                if let Err(errno) = self.fs.sync_backing() {
                    tracing::warn!(%errno, "filesystem cannot be synced before the count");
                }
                self.fs.settle_all();
            }
            if is_asked || is_due {
                self.count(target);
            }
        }
    }

    /// Clears those that an edit has been reported for meanwhile, and passes the others on.
    fn judge_suspects(&mut self) {
        let edits = self.fs.foreign_edits();
        self.suspects.retain(|suspect| suspect.edits == edits);
        let (due, waiting): (Vec<Suspect>, Vec<Suspect>) = std::mem::take(&mut self.suspects)
            .into_iter()
            .partition(|suspect| suspect.found_at.elapsed() >= QUIET);
        self.suspects = waiting;
        let mut desk = self.shared.desk.lock();
        let room = MAX_SURPRISES.saturating_sub(desk.surprises.len());
        desk.surprises.extend(due.into_iter().take(room).map(|suspect| suspect.last));
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
        (is_quiet || is_estimated || now >= self.audit_at) && now >= self.rest_until
    }

    fn count(&mut self, target: u64) {
        let begun = Instant::now();
        let was_edited = self.edited_at.take().is_some() || self.fs.foreign_edits() != self.seen_edits;
        let was_estimated = self.fs.account().is_some_and(|account| account.is_estimated());
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
                let last = LastRecount { at: Timestamp::now(), took, found };
                let has_drift = (found.drift_bytes, found.drift_inodes) != (0, 0);
                let is_expected = was_edited || was_estimated || self.fs.foreign_edits() != self.seen_edits;
                if has_drift && !is_expected {
                    let edits = self.fs.foreign_edits();
                    self.suspects.push(Suspect { last: last.clone(), edits, found_at: Instant::now() });
                }
                desk.last = Some(last);
                self.audit_at = Instant::now() + AUDIT_INTERVAL;
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
