//! What the usage index says of each workspace, kept in memory for those who may not wait for a disk; the same thread
//! looks into the histories ([`super::recent`]).
//!
//! A thread of low priority asks the index: of a workspace that somebody looks at every few seconds, of the others now
//! and then, so that the first look finds something.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use tracing::{debug, error};
use wsguard_api::UsageReport;

use super::registry::Registry;
use crate::error_chain::one_line;
use crate::sys::priority;
use crate::usage::{self, Subject, UsageQuery, UsageService};

/// How often the thread looks what is due.
const STEP: Duration = Duration::from_secs(1);

/// How old an answer may become while somebody looks, and while nobody does.
const FRESH: Duration = Duration::from_secs(2);
const RESTING: Duration = Duration::from_secs(300);

/// From one look to the next, somebody still looks.
const WANTED: Duration = Duration::from_secs(30);

/// Until an index that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Entries of each list.
const MOST: u32 = 10;

#[derive(Debug, Default)]
struct Kept {
    wanted: Option<Instant>,
    asked: Option<Instant>,
    report: Option<Arc<UsageReport>>,
}

impl Kept {
    fn is_due(&self, now: Instant) -> bool {
        let is_wanted = self.wanted.is_some_and(|at| now.duration_since(at) < WANTED);
        let pause = match (&self.report, is_wanted) {
            (None, _) => RETRY,
            (Some(_), true) => FRESH,
            (Some(_), false) => RESTING,
        };
        self.asked.is_none_or(|at| now.duration_since(at) >= pause)
    }
}

/// The latest answers, by workspace.
#[derive(Debug, Default)]
pub(super) struct GrowthBoard(Mutex<BTreeMap<String, Kept>>);

impl GrowthBoard {
    /// Returns the latest answer, if there is one, and has newer ones made for a while.
    pub(super) fn look(&self, id: &str) -> Option<Arc<UsageReport>> {
        let mut board = self.0.lock();
        let kept = board.get_mut(id)?;
        kept.wanted = Some(Instant::now());
        kept.report.clone()
    }

    /// Returns the latest answer, if there is one.
    pub(super) fn latest(&self, id: &str) -> Option<Arc<UsageReport>> {
        self.0.lock().get(id)?.report.clone()
    }

    /// Returns those of `mounted` whose answers are too old, and forgets all others.
    fn due(&self, mounted: Vec<String>) -> Vec<String> {
        let now = Instant::now();
        let mut board = self.0.lock();
        board.retain(|id, _| mounted.contains(id));
        mounted.into_iter().filter(|id| board.entry(id.clone()).or_default().is_due(now)).collect()
    }

    fn put(&self, id: &str, report: Option<UsageReport>) {
        let mut board = self.0.lock();
        let Some(kept) = board.get_mut(id) else { return };
        kept.asked = Some(Instant::now());
        kept.report = report.map(Arc::new).or(kept.report.take());
    }
}

#[derive(Default)]
struct Bell {
    is_stopped: Mutex<bool>,
    rung: Condvar,
}

/// The thread.
pub(super) struct GrowthKeeper {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for GrowthKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrowthKeeper").finish_non_exhaustive()
    }
}

impl GrowthKeeper {
    /// Starts the thread; it ends when this is dropped.
    ///
    /// # Errors
    /// When there is no thread.
    pub(super) fn start(
        registry: Arc<Registry>,
        service: Arc<UsageService>,
        histories: &Path,
    ) -> std::io::Result<Self> {
        let bell = Arc::<Bell>::default();
        let rung = Arc::clone(&bell);
        let histories = histories.to_path_buf();
        let thread = std::thread::Builder::new().name("growth".to_owned()).spawn(move || {
            if let Err(errno) = priority::lower_own() {
                debug!(%errno, "growth is looked up with ordinary priority");
            }
            run(&rung, &registry, &service, &histories);
        })?;
        Ok(Self { bell, thread: Some(thread) })
    }
}

impl Drop for GrowthKeeper {
    fn drop(&mut self) {
        *self.bell.is_stopped.lock() = true;
        self.bell.rung.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the thread that looks up growth panicked");
        }
    }
}

fn run(bell: &Bell, registry: &Registry, service: &UsageService, histories: &Path) {
    loop {
        let is_mounted = |id: &String| registry.mounted(id).is_some();
        let mounted: Vec<String> = registry.ids().into_iter().filter(is_mounted).collect();
        for id in registry.recent().due(&mounted) {
            if *bell.is_stopped.lock() {
                return;
            }
            registry.recent().renew(&id, histories);
        }
        for id in registry.growth().due(mounted) {
            if *bell.is_stopped.lock() {
                return;
            }
            registry.growth().put(&id, ask(registry, service, &id));
        }
        let mut is_stopped = bell.is_stopped.lock();
        if !*is_stopped {
            bell.rung.wait_for(&mut is_stopped, STEP);
        }
        if *is_stopped {
            return;
        }
    }
}

fn ask(registry: &Registry, service: &UsageService, id: &str) -> Option<UsageReport> {
    let record = registry.record(id).ok()?;
    let subject = Subject {
        workspace: id.to_owned(),
        name: record.name.clone(),
        path: record.mount_point().to_path_buf(),
        relative: PathBuf::new(),
        state: service.state(id),
        available_bytes: registry.available_bytes(id),
    };
    let query = UsageQuery { top: MOST, days: 1, cold_days: 30 };
    usage::report(&service.index_path(id), subject, query, Timestamp::now())
        .inspect_err(|error| debug!(workspace = %id, error = %one_line(error), "usage cannot be told yet"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_renewed_while_somebody_looks() {
        let board = GrowthBoard::default();
        let ids = || vec!["w1".to_owned()];
        assert_eq!(board.due(ids()), ids());
        board.put("w1", None);
        assert_eq!(board.due(ids()), Vec::<String>::new(), "tried a moment ago");
        let long_ago = |past| Instant::now().checked_sub(past).unwrap();
        let mut kept = Kept { asked: Some(long_ago(RETRY)), ..Kept::default() };
        assert!(kept.is_due(Instant::now()));
        kept.wanted = Some(long_ago(WANTED));
        kept.asked = Some(Instant::now());
        assert!(!kept.is_due(Instant::now()));
        assert_eq!(board.due(Vec::new()), Vec::<String>::new());
        assert!(board.look("w1").is_none() && board.0.lock().is_empty(), "forgotten");
    }
}
