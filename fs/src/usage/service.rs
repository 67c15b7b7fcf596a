//! The two threads that keep every index of a worker up to date.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use tracing::{debug, error, info, warn};
use wsguard_api::IndexState;

use super::dirty::{Dirty, Name};
use super::feed::UsageFeed;
use super::filler::{Filler, WALKED_AT};
use super::index::Index;
use super::store::{self, UsageError};
use super::walker::Tree;
use super::{feed, fingerprint, updater};
use crate::accounting::Accounting;
use crate::error_chain::one_line;
use crate::tracker::Tracker;

/// How long changes are collected before they are looked at.
const COLLECT: Duration = Duration::from_secs(1);

/// A walk is repeated after this many seconds.
const WALK_INTERVAL_SECS: i64 = 24 * 3600;

/// From a loss to the walk that finds it: more may be lost.
const LOSS_DELAY: Duration = Duration::from_secs(10);

/// A walk that failed is tried again after this.
const RETRY_DELAY: Duration = Duration::from_secs(60);

/// How often a name may be out of place before a walk is made for it.
const ATTEMPTS: u32 = 5;

/// How often old samples are thinned out.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);

/// Everything else goes first.
const NICENESS: i32 = 15;

/// One workspace.
#[derive(Debug)]
struct Kept {
    name: String,
    tree: Tree,
    index_path: PathBuf,
    /// Opened by the walking thread: making a file waits for the disk, and whoever mounts must not.
    index: OnceLock<Arc<Mutex<Index>>>,
    feed: Arc<UsageFeed>,
    is_stopped: AtomicBool,
    /// Names so far of the walk under way.
    counted: Arc<AtomicU64>,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    is_walking: bool,
    walk_at: Option<Instant>,
    /// What changed during the walk: it may have been walked before it changed.
    during_walk: Dirty,
    misplaced: Vec<Name>,
    attempts: u32,
    pruned_at: Option<Instant>,
    has_candidates: bool,
}

#[derive(Debug, Default)]
struct Shared {
    kept: Mutex<HashMap<String, Arc<Kept>>>,
    is_stopped: AtomicBool,
    asleep: Mutex<()>,
    wake: Condvar,
}

/// Keeps the indexes of all workspaces of a worker. Its threads end with [`UsageService::stop`], or when it is dropped.
#[derive(Debug)]
pub(crate) struct UsageService {
    state_dir: PathBuf,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl UsageService {
    /// Starts the threads; indexes are kept below `state_dir`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(state_dir: &Path) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let service = Self { state_dir: state_dir.to_path_buf(), shared, threads: Mutex::default() };
        for (name, work) in [("usage", update as fn(&Shared)), ("usage-walk", walk as fn(&Shared))] {
            let shared = Arc::clone(&service.shared);
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                if let Err(errno) = rustix::process::setpriority_process(None, NICENESS) {
                    warn!(errno = errno.raw_os_error(), "usage is counted at normal priority");
                }
                work(&shared);
            })?;
            service.threads.lock().push(thread);
        }
        Ok(service)
    }

    /// Keeps the index of a workspace from now on; a walk follows. Whatever was kept under the id is let go.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub(super) fn attach(
        &self,
        id: &str,
        name: &str,
        root: OwnedFd,
        accounting: Accounting,
    ) -> Result<Arc<UsageFeed>, UsageError> {
        self.detach(id);
        let tree = Tree::new(root, accounting)
            .map_err(|source| UsageError::Backing { action: "look at the root", source })?;
        let feed = Arc::new(UsageFeed::new(tree.ino()));
        let kept = Kept {
            name: name.to_owned(),
            feed: Arc::clone(&feed),
            tree,
            index_path: store::path_of(&self.state_dir, id),
            index: OnceLock::new(),
            is_stopped: AtomicBool::new(false),
            counted: Arc::default(),
            progress: Mutex::new(Progress {
                walk_at: Some(Instant::now()),
                has_candidates: true,
                ..Progress::default()
            }),
        };
        self.shared.kept.lock().insert(id.to_owned(), Arc::new(kept));
        self.shared.wake.notify_all();
        Ok(feed)
    }

    /// Keeps the index of a workspace from its records from now on; see [`Self::attach`].
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub(crate) fn follow(
        &self,
        tracker: &Tracker,
        name: &str,
        root: OwnedFd,
        accounting: Accounting,
    ) -> Result<(), UsageError> {
        let feed = self.attach(tracker.workspace(), name, root, accounting)?;
        tracker.follow(feed::follower(&feed));
        Ok(())
    }

    /// Removes the index of a workspace that is forgotten.
    ///
    /// # Errors
    /// If a file cannot be removed.
    pub(crate) fn forget(&self, id: &str) -> Result<(), UsageError> {
        self.detach(id);
        store::remove(&self.index_path(id))
    }

    /// Lets a workspace go; its index stays as it is.
    pub(crate) fn detach(&self, id: &str) {
        if let Some(kept) = self.shared.kept.lock().remove(id) {
            kept.is_stopped.store(true, Ordering::Relaxed);
        }
    }

    /// Returns how fresh the index of a workspace is.
    pub(crate) fn state(&self, id: &str) -> IndexState {
        let kept = self.shared.kept.lock().get(id).map(Arc::clone);
        match kept {
            None => IndexState::Unwatched,
            Some(kept) => kept.state(),
        }
    }

    /// Returns where the index of a workspace is.
    pub(crate) fn index_path(&self, id: &str) -> PathBuf {
        store::path_of(&self.state_dir, id)
    }
}

impl UsageService {
    /// Ends both threads; indexes are as they were last written.
    pub(crate) fn stop(&self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
        for kept in self.shared.kept.lock().values() {
            kept.is_stopped.store(true, Ordering::Relaxed);
        }
        // Under the lock: a thread that is about to sleep must not miss it.
        drop(self.shared.asleep.lock());
        self.shared.wake.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.join().is_err() {
                error!("a thread of the usage index panicked");
            }
        }
    }
}

impl Drop for UsageService {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn each(&self) -> Vec<Arc<Kept>> {
        self.kept.lock().values().map(Arc::clone).collect()
    }

    /// Waits a moment; returns whether to go on.
    fn sleep(&self) -> bool {
        let mut asleep = self.asleep.lock();
        if !self.is_stopped.load(Ordering::Relaxed) {
            self.wake.wait_for(&mut asleep, COLLECT);
        }
        !self.is_stopped.load(Ordering::Relaxed)
    }
}

fn update(shared: &Shared) {
    while shared.sleep() {
        for kept in shared.each() {
            kept.update();
        }
    }
}

fn walk(shared: &Shared) {
    while shared.sleep() {
        for kept in shared.each() {
            if kept.is_walk_due() {
                kept.walk();
            }
        }
    }
}

impl Kept {
    fn state(&self) -> IndexState {
        let progress = self.progress.lock();
        if progress.is_walking || progress.walk_at.is_some() {
            IndexState::Counting { counted: self.counted.load(Ordering::Relaxed) }
        } else {
            IndexState::Current
        }
    }

    /// Looks at what changed.
    fn update(&self) {
        let Some(index) = self.index.get().filter(|_| !self.is_stopped.load(Ordering::Relaxed)) else {
            return;
        };
        let mut dirty = self.feed.take();
        {
            let mut progress = self.progress.lock();
            for name in std::mem::take(&mut progress.misplaced) {
                dirty.name(name.parent, name.name);
            }
            if dirty.is_incomplete() {
                progress.walk_soon(LOSS_DELAY);
            }
            if progress.is_walking {
                progress.during_walk.merge(&dirty);
            }
        }
        if !dirty.is_empty() {
            self.examine(index, dirty);
        }
        self.look_after(index);
    }

    fn examine(&self, index: &Mutex<Index>, dirty: Dirty) {
        let hour = Timestamp::now().as_second() / 3600;
        let examined = updater::examine(&mut index.lock(), &self.tree, dirty, hour);
        let mut progress = self.progress.lock();
        progress.has_candidates = true;
        match examined {
            Ok(misplaced) if misplaced.is_empty() => progress.attempts = 0,
            Ok(misplaced) if progress.attempts < ATTEMPTS => {
                progress.attempts += 1;
                progress.misplaced = misplaced;
            }
            Ok(misplaced) => {
                debug!(workspace = self.name, names = misplaced.len(), "names are out of place");
                progress.attempts = 0;
                progress.walk_soon(LOSS_DELAY);
            }
            Err(error) => {
                warn!(workspace = self.name, error = %one_line(&error), "usage index misses changes");
                progress.walk_soon(RETRY_DELAY);
                drop(progress);
                self.replace_if_damaged(&error);
            }
        }
    }

    /// What is done now and then.
    fn look_after(&self, index: &Mutex<Index>) {
        let (prune, compare) = {
            let mut progress = self.progress.lock();
            let prune = progress.pruned_at.is_none_or(|last| last.elapsed() >= PRUNE_INTERVAL);
            if prune {
                progress.pruned_at = Some(Instant::now());
            }
            (prune, progress.has_candidates && !progress.is_walking)
        };
        let now = Timestamp::now().as_second();
        if prune {
            let mut index = index.lock();
            let walked = index.fact(WALKED_AT).and_then(|walked| {
                index.prune(now / 3600)?;
                Ok(walked)
            });
            match walked {
                Ok(Some(walked)) if now - walked < WALK_INTERVAL_SECS => {}
                Ok(_) => self.progress.lock().walk_soon(Duration::ZERO),
                Err(error) => {
                    warn!(workspace = self.name, error = %one_line(&error), "usage index cannot be thinned out");
                }
            }
        }
        if compare {
            match fingerprint::take_some(&mut index.lock(), &self.tree) {
                Ok(taken) => self.progress.lock().has_candidates = taken == fingerprint::TURN,
                Err(error) => {
                    self.progress.lock().has_candidates = false;
                    warn!(workspace = self.name, error = %one_line(&error), "checkpoints are not compared");
                }
            }
        }
    }

    fn is_walk_due(&self) -> bool {
        let progress = self.progress.lock();
        progress.walk_at.is_some_and(|at| at <= Instant::now()) && !self.is_stopped.load(Ordering::Relaxed)
    }

    fn walk(&self) {
        {
            let mut progress = self.progress.lock();
            progress.walk_at = None;
            progress.is_walking = true;
            progress.during_walk = Dirty::default();
        }
        let started = Instant::now();
        let result = self.walk_once();
        let during = {
            let mut progress = self.progress.lock();
            progress.is_walking = false;
            if result.is_err() {
                progress.walk_soon(RETRY_DELAY);
            }
            std::mem::take(&mut progress.during_walk)
        };
        // Also after a failure: the index is the old one, and these were examined before.
        if let (Some(index), Ok(true), false) = (self.index.get(), &result, during.is_empty()) {
            self.examine(index, during);
        }
        match result {
            Ok(true) => {
                let counted = self.counted.load(Ordering::Relaxed);
                let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                info!(workspace = self.name, counted, elapsed_ms, "usage was counted");
            }
            Ok(false) => {}
            Err(error) => {
                warn!(workspace = self.name, error = %one_line(&error), "usage cannot be counted");
                self.replace_if_damaged(&error);
            }
        }
    }

    fn replace_if_damaged(&self, error: &UsageError) {
        let Some(index) = self.index.get() else { return };
        let replaced = index.lock().replace_if_damaged(error);
        match replaced {
            Ok(false) => {}
            Ok(true) => {
                warn!(workspace = self.name, "damaged usage index is counted anew");
                self.progress.lock().walk_soon(Duration::ZERO);
            }
            Err(error) => {
                error!(workspace = self.name, error = %one_line(&error), "damaged usage index stays");
            }
        }
    }

    /// Returns whether the walk came to its end.
    fn walk_once(&self) -> Result<bool, UsageError> {
        let index = match self.index.get() {
            Some(index) => index,
            None => {
                let index = Index::open(&self.index_path, self.tree.ino())?;
                self.index.get_or_init(|| Arc::new(Mutex::new(index)))
            }
        };
        let mut filler = Filler::begin(Arc::clone(index), Arc::clone(&self.counted))?;
        let walked = self.tree.walk(&self.is_stopped, &mut filler)?;
        if let Some((path, errno)) = &walked.first_unreadable {
            warn!(
                workspace = self.name,
                unreadable = walked.unreadable,
                first = %path.display(),
                errno = errno.raw_os_error(),
                "usage leaves out what cannot be read"
            );
        }
        if walked.is_complete {
            filler.finish(Timestamp::now(), walked.unreadable)?;
        }
        Ok(walked.is_complete)
    }
}

impl Progress {
    fn walk_soon(&mut self, delay: Duration) {
        let at = Instant::now() + delay;
        self.walk_at = Some(self.walk_at.map_or(at, |before| before.min(at)));
    }
}
