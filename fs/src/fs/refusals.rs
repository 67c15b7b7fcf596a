//! Which processes were refused for lack of space: each once, for a notice to the owner.
//!
//! The request thread only puts it on a short list, and drops it when that is full; whoever keeps the notices takes the
//! list from time to time.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use lru::LruCache;
use parking_lot::Mutex;

use super::{Caller, GuardFs};
use crate::quota::Refusal;
use crate::tracker::Process;

/// Refusals that wait to be taken.
const WAITING: usize = 32;

/// Processes that are known to have been told.
const TOLD: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");

thread_local! {
    /// What the ledger refused in the request that this thread carries out.
    static LAST: Cell<Option<Refusal>> = const { Cell::new(None) };
}

/// A process that was refused for the first time.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) at: Timestamp,
    pub(crate) refusal: Refusal,
    /// The file, or the directory in which `name` was to be made.
    pub(crate) node: u64,
    pub(crate) name: Option<OsString>,
    pub(crate) caller: Caller,
    /// `None` if it cannot be told any more.
    pub(crate) process: Option<Arc<Process>>,
}

/// See the module.
pub(super) struct Refusals(Mutex<List>);

struct List {
    told: LruCache<(u32, u64), ()>,
    waiting: VecDeque<Refused>,
    dropped: u64,
}

/// Remembers what the ledger refused, until the request ends.
pub(super) fn remember(refusal: &Refusal) {
    LAST.set(Some(refusal.clone()));
}

/// Forgets it: the request went on after all.
pub(super) fn forget() {
    LAST.take();
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self(Mutex::new(List { told: LruCache::new(TOLD), waiting: VecDeque::new(), dropped: 0 }))
    }

    /// Returns whether the process (its pid and when it started) is to be told.
    fn is_first(&self, who: (u32, u64)) -> bool {
        self.0.lock().told.put(who, ()).is_none()
    }

    fn push(&self, refused: Refused) {
        let mut list = self.0.lock();
        if list.waiting.len() < WAITING {
            list.waiting.push_back(refused);
        } else {
            list.dropped += 1;
        }
    }

    fn take(&self) -> (Vec<Refused>, u64) {
        let mut list = self.0.lock();
        (list.waiting.drain(..).collect(), std::mem::take(&mut list.dropped))
    }
}

impl GuardFs {
    /// Notes that the caller's request about `node`, or about `name` in it, failed for lack of space, if it was the
    /// quota that refused it. Call it while the caller waits for the reply.
    pub(crate) fn note_refused(&self, caller: Caller, node: u64, name: Option<&OsStr>) {
        let Some(refusal) = LAST.take() else { return };
        let process = self.tracker.process_of(caller.pid);
        // A thread that nobody knows is its own process.
        if !self.refusals.is_first(process.as_ref().map_or((caller.pid, 0), |p| (p.pid, p.started))) {
            return;
        }
        // A shell opens the file before it becomes the command that writes.
        let process = process.map(|process| process.successor().map_or(process, Arc::new));
        let name = name.map(OsStr::to_owned);
        self.refusals.push(Refused { at: Timestamp::now(), refusal, node, name, caller, process });
    }

    /// Returns the processes that were refused for the first time since the last call, and how many more there were.
    pub(crate) fn take_refused(&self) -> (Vec<Refused>, u64) {
        self.refusals.take()
    }

    /// Returns where a refused file is or would be, relative to the workspace, if it can be told.
    pub(crate) fn refused_path(&self, refused: &Refused) -> Option<PathBuf> {
        let path = self.path_of(refused.node)?;
        Some(refused.name.as_ref().map_or_else(|| path.clone(), |name| path.join(name)))
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::quota::{Dimension, Reason, ScopeKey};

    fn refused(pid: u32) -> Refused {
        let refusal = Refusal {
            scope: ScopeKey::User(1),
            dimension: Dimension::Bytes,
            reason: Reason::Hard,
            limit: 10,
            used: 10,
            wanted: 1,
            errno: Errno::DQUOT,
        };
        let caller = Caller { uid: 1, gid: 1, pid };
        Refused { at: Timestamp::now(), refusal, node: 5, name: None, caller, process: None }
    }

    #[test]
    fn each_process_is_told_once_and_the_list_stays_short() {
        let refusals = Refusals::new();
        assert_eq!(
            [(7, 1), (7, 1), (7, 2), (8, 1)].map(|who| refusals.is_first(who)),
            [true, false, true, true]
        );
        (0..50).for_each(|pid| refusals.push(refused(pid)));
        let (taken, dropped) = refusals.take();
        assert_eq!((taken.len(), taken[0].caller.pid, dropped), (WAITING, 0, 50 - WAITING as u64));
        assert_eq!(refusals.take().0.len(), 0);
    }
}
