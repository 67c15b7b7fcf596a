//! The threads that look after the past of all workspaces.
//!
//! One looks at each workspace several times a second and must not be kept: it folds the log, takes automatic snapshots,
//! and makes room when the data path finds the disk full. The other does what takes long: opening, what makes snapshots
//! durable, retention, garbage, hashes. Both have the lowest priority for CPU and disk, and hold what they need of a
//! session, never the session.

mod relief;
mod service;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use tracing::{debug, error, info, warn};
use wsguard_api::EventKind;

use super::registry::Registry;
use crate::config::{Budget, SnapshotSettings};
use crate::error_chain::one_line;
use crate::events::{Concerned, EventLog};
use crate::fs::GuardFs;
use crate::mounting::Mounted;
use crate::quota::HostSpace;
use crate::snapshot::{
    Actor, Archive, Bounds, EpochEnded, Fullness, History, Shortage, SnapshotNote, SnapshotReason,
};
use crate::sys::priority;

pub(crate) use service::make_durable;

/// How long a writer waits for room at most.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct HistoryKeeper {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for HistoryKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoryKeeper").finish_non_exhaustive()
    }
}

/// What both threads know.
struct Shared {
    registry: Arc<Registry>,
    events: Arc<EventLog>,
    settings: SnapshotSettings,
    /// What writers must leave free, if it is configured.
    min_free: Option<u64>,
    stop: AtomicBool,
    calls: Mutex<Calls>,
    called: Condvar,
    answered: Condvar,
    rest: Condvar,
}

/// Workspaces for which somebody waits for room, and how often that was answered.
#[derive(Default)]
struct Calls {
    waiting: BTreeMap<String, Shortage>,
    answers: u64,
    /// The last answer.
    has_room: bool,
    /// No room could be made; not tried again before.
    hopeless_until: Option<Instant>,
}

/// What a thread needs of a session, without holding it.
#[derive(Clone)]
struct Subject {
    id: String,
    name: String,
    owner_uid: u32,
    history: Arc<History>,
    fs: Arc<GuardFs>,
}

impl HistoryKeeper {
    /// Starts the threads.
    ///
    /// # Errors
    /// When there is no thread.
    pub(super) fn start(
        settings: &SnapshotSettings,
        min_free: Option<u64>,
        registry: Arc<Registry>,
        events: Arc<EventLog>,
    ) -> std::io::Result<Self> {
        registry.history().set_settings(settings);
        let shared = Arc::new(Shared {
            registry,
            events,
            settings: settings.clone(),
            min_free,
            stop: AtomicBool::new(false),
            calls: Mutex::default(),
            called: Condvar::new(),
            answered: Condvar::new(),
            rest: Condvar::new(),
        });
        let mut keeper = Self { shared: shared.clone(), threads: Vec::new() };
        let (watch, service) = (shared.clone(), shared);
        keeper.spawn("history", move || watch::Watch::new(watch).run())?;
        keeper.spawn("history-upkeep", move || service::Service::new(service).run())?;
        Ok(keeper)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let lowered = move || {
            if let Err(errno) = priority::lower_own() {
                warn!(errno = errno.raw_os_error(), "history is looked after at normal priority");
            }
            work();
        };
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(lowered)?);
        Ok(())
    }
}

impl Drop for HistoryKeeper {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Under the lock, or a thread that is about to wait misses it.
        drop(self.shared.calls.lock());
        self.shared.called.notify_all();
        self.shared.answered.notify_all();
        self.shared.rest.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                error!("a history thread panicked");
            }
        }
    }
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Returns the mounted workspaces; of those without history, why.
    fn mounted(&self) -> Vec<(String, Arc<Mounted>)> {
        let ids = self.registry.ids();
        ids.into_iter().filter_map(|id| self.registry.mounted(&id).map(|mounted| (id, mounted))).collect()
    }

    /// Returns what is needed of a session.
    ///
    /// # Errors
    /// Why it has no history.
    fn subject(&self, id: &str, mounted: &Mounted) -> Result<Subject, String> {
        let history = mounted.session().history()?;
        history.set_strict(self.settings.is_strict);
        let record = self.registry.record(id).map_err(|error| error.message)?;
        Ok(Subject {
            id: id.to_owned(),
            name: record.name,
            owner_uid: record.owner_uid,
            history,
            fs: mounted.session().filesystem().clone(),
        })
    }

    fn bounds(&self) -> Bounds {
        Bounds { policy: self.settings.retention.clone(), zone: self.settings.time_zone() }
    }

    /// Tells owner and root, in events and in the workspace's notices.
    fn tell(&self, subject: &Subject, kind: EventKind, message: &str) {
        let concerned = Concerned { name: Some(&subject.name), owner_uid: subject.owner_uid };
        let now = Timestamp::now();
        self.events.tell_of(now, kind, Some(concerned), message);
        self.registry.notices().post(&subject.id, &now.to_string(), message);
    }

    /// Returns how full it is, with some slack: what is given up is a little more than must be, so that it is not done
    /// all the time.
    fn fullness(&self, subject: &Subject, archive: &Archive) -> Result<Fullness, String> {
        let host = subject.fs.host_space().map_err(|errno| errno.to_string())?;
        let used = archive.read().map_err(|error| one_line(&error))?;
        let used = used.stored_bytes().map_err(|error| one_line(&error))?;
        Ok(Fullness {
            used,
            budget: self.budget(subject, host),
            free: host.available_bytes,
            free_floor: self.free_floor(host),
        })
    }

    fn budget(&self, subject: &Subject, host: HostSpace) -> u64 {
        let limit = match self.settings.budget {
            Budget::Bytes(_) => None,
            Budget::Percent(_) => subject.fs.account().and_then(|account| account.limit_bytes()),
        };
        self.settings.budget.bytes(limit.unwrap_or(host.total_bytes))
    }

    fn free_floor(&self, host: HostSpace) -> u64 {
        let share = (host.total_bytes / 100).saturating_mul(self.settings.keep_free_percent);
        share.max(self.min_free.unwrap_or_else(|| host.default_min_free()))
    }

    /// Tells the data path how many bytes may be kept before somebody has to look again: until half of what history has
    /// to leave free is used. Returns whether there are any.
    fn set_room(&self, subject: &Subject) -> bool {
        match subject.fs.host_space() {
            Ok(host) => {
                let room = host.available_bytes.saturating_sub(self.free_floor(host) / 2);
                subject.history.set_room(room);
                room > 0
            }
            Err(errno) => {
                debug!(workspace = %subject.id, %errno, "disk does not tell how full it is");
                true
            }
        }
    }

    /// Whether room could be made lately, or nobody has tried.
    fn has_hope(&self) -> bool {
        self.calls.lock().hopeless_until.is_none_or(|until| Instant::now() >= until)
    }

    /// Ends the epoch and takes a snapshot, for the daemon.
    fn take(&self, subject: &Subject, archive: &Archive, reason: SnapshotReason) -> Option<EpochEnded> {
        take_snapshot(&subject.id, archive, &subject.fs, reason)
    }

    /// Waits until room was made for a workspace. Called by threads that serve requests.
    fn call_for_room(&self, id: &str, shortage: Shortage) -> bool {
        let mut calls = self.calls.lock();
        if calls.hopeless_until.is_some_and(|until| Instant::now() < until) || self.is_stopping() {
            return false;
        }
        let urgent = calls.waiting.entry(id.to_owned()).or_insert(shortage);
        *urgent = shortage.max(*urgent);
        let before = calls.answers;
        self.called.notify_one();
        let deadline = Instant::now() + ROOM_PATIENCE;
        while calls.answers == before && !self.is_stopping() {
            if self.answered.wait_until(&mut calls, deadline).timed_out() {
                return false;
            }
        }
        calls.has_room
    }
}

/// Takes a snapshot for the daemon, if anything was changed since the last.
pub(super) fn take_snapshot(
    id: &str,
    archive: &Archive,
    fs: &GuardFs,
    reason: SnapshotReason,
) -> Option<EpochEnded> {
    let note = SnapshotNote { reason, name: None, note: None, is_held: false };
    match archive.take_snapshot(fs.backing(), Actor::default(), note) {
        Ok(ended) => {
            debug!(workspace = id, snapshot = ended.epoch.0, reason = reason.as_str(), "snapshot taken");
            Some(ended)
        }
        Err(error) => {
            warn!(workspace = id, error = %one_line(&error), "no snapshot could be taken");
            None
        }
    }
}

/// Takes the last snapshot of a session whose mounts are gone, if anything was changed since the last.
pub(super) fn settle(id: &str, mounted: &Mounted) {
    let session = mounted.session();
    let Ok(history) = session.history() else { return };
    if !history.is_dirty() {
        return;
    }
    // Not opened yet means that nobody has asked; the log keeps everything.
    let Some(archive) = session.opened_archive() else { return };
    if take_snapshot(id, &archive, session.filesystem(), SnapshotReason::Service).is_some() {
        info!(workspace = id, "history is closed with a snapshot");
    }
}
