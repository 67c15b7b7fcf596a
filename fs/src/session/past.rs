//! The history of one workspace, as far as it could be opened.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::StoreDirectory;
use crate::backing::Backing;
use crate::error_chain::one_line;
use crate::fs::{ArchiveSource, NoArchive};
use crate::snapshot::{Archive, History};

/// How long a request waits for the catalog to be opened; far less than what the watchdog allows.
const PATIENCE: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct PastOf {
    /// What is kept and where, or why nothing is, as a sentence.
    pub(super) kept: Result<(PathBuf, Arc<History>), String>,
    /// Opened by the first question: checking a catalog that was not closed takes its time, and whoever mounts or is
    /// taken over must not wait for it.
    archive: Arc<Mutex<Option<Arc<Archive>>>>,
}

impl PastOf {
    /// Goes on with the history in `store`; `None` where none is to be kept.
    pub(super) fn begin(store: Option<Result<StoreDirectory, String>>, backing: &Backing) -> Self {
        let kept = match store {
            Some(Ok(store)) => History::begin(store.fd.as_fd(), backing)
                .map(|history| (store.path, Arc::new(history)))
                .map_err(|error| one_line(&error)),
            Some(Err(reason)) => Err(reason),
            None => Err("snapshots are turned off in the daemon's config file".to_owned()),
        };
        Self { kept, archive: Arc::default() }
    }

    pub(super) fn history(&self) -> Option<Arc<History>> {
        self.kept.as_ref().ok().map(|(_, history)| history.clone())
    }

    /// Returns the catalog if it was opened. Waits for nothing.
    pub(super) fn opened(&self) -> Option<Arc<Archive>> {
        self.archive.try_lock()?.clone()
    }

    /// Returns the catalog; the first call opens it.
    pub(super) fn archive(&self) -> Result<Arc<Archive>, String> {
        open(&self.kept, &self.archive)
    }

    /// Returns what opens the catalog for threads that serve requests: the first call does so on a thread of its own and
    /// waits for a moment only, because a request that waits longer is taken for one that hangs.
    pub(super) fn source(&self) -> ArchiveSource {
        let (kept, archive) = (self.kept.clone(), self.archive.clone());
        Arc::new(move || {
            let opened = archive.try_lock_for(PATIENCE).ok_or(NoArchive::NotYet)?.clone();
            if let Some(opened) = opened {
                return Ok(opened);
            }
            let (kept, archive) = (kept.clone(), archive.clone());
            let (sender, receiver) = std::sync::mpsc::sync_channel(1);
            std::thread::Builder::new()
                .name("wsguard-past".into())
                .spawn(move || {
                    // Whoever asked may have given up; what was opened is found by the next one.
                    drop(sender.send(open(&kept, &archive)));
                })
                .map_err(|error| NoArchive::Never(one_line(&error)))?;
            match receiver.recv_timeout(PATIENCE) {
                Ok(opened) => opened.map_err(NoArchive::Never),
                Err(_) => Err(NoArchive::NotYet),
            }
        })
    }
}

fn open(
    kept: &Result<(PathBuf, Arc<History>), String>,
    archive: &Mutex<Option<Arc<Archive>>>,
) -> Result<Arc<Archive>, String> {
    let (path, history) = kept.as_ref().map_err(Clone::clone)?;
    let mut archive = archive.lock();
    if let Some(opened) = &*archive {
        return Ok(opened.clone());
    }
    let opened = Archive::open(history.clone(), path).map_err(|error| one_line(&error))?;
    Ok(archive.insert(Arc::new(opened)).clone())
}
