//! Going on with the sessions of a worker that died.
//!
//! Callers wait meanwhile, so only what an answer needs is done: what was found out about the backing filesystem comes
//! along in the notes that the keeper holds, the mount table is read once, and several sessions start at a time.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::{error, info};
use wsguard_api::BackingInfo;

use super::mountinfo::{DeviceNumber, MountTable};
use super::root::BackingRoot;
use super::{HistoryPlan, MountError, MountPlan, Mounted, Payer, abilities, close, path_error};
use crate::keeper_link::{InheritedSession, KeeperLink};
use crate::quota::Ledger;
use crate::session::{OwnershipPolicy, Pages, Session, SessionOptions};
use crate::tracker::Tracker;

/// What a worker needs to know to go on with a session that another one served, beside its descriptors.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionNotes {
    name: String,
    ownership: OwnershipPolicy,
    threads: usize,
    watch_limit: usize,
    payer: Option<Payer>,
    /// Earlier versions kept none.
    #[serde(default)]
    history: Option<HistoryPlan>,
    /// Where the plain files are.
    #[serde(default)]
    dir: Option<PathBuf>,
    mounted_at: Timestamp,
    source: PathBuf,
    mount_point: PathBuf,
    /// Found by trying, which takes milliseconds that callers would wait. Earlier versions did not note it.
    #[serde(default)]
    backing: Option<BackingInfo>,
}

impl SessionNotes {
    pub(super) fn of(plan: &MountPlan, payer: Option<Payer>, backing: &BackingInfo) -> Self {
        Self {
            name: plan.name.clone(),
            ownership: plan.ownership,
            threads: plan.threads,
            watch_limit: plan.watch_limit,
            payer,
            history: plan.history.clone(),
            dir: Some(plan.dir.clone()),
            mounted_at: Timestamp::now(),
            source: plan.source(),
            mount_point: plan.mount_point().to_path_buf(),
            backing: Some(backing.clone()),
        }
    }

    /// Paths of workspaces are UTF-8, which is all that could fail here.
    pub(super) fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Goes on with sessions whose worker died: their mounts are in place, and whoever uses them has been waiting since.
///
/// Several are taken over at the same time. Nothing else is done before the last one answers; then call
/// [`Mounted::watch`].
///
/// Returns each with the id of its workspace. One that fails is closed and its mounts are dead; they can be
/// replaced like any others.
pub(crate) fn take_over(
    link: &KeeperLink,
    ledger: &Arc<Ledger>,
    tracker: impl Fn(&str) -> Arc<Tracker> + Sync,
    pages: impl Fn(&str) -> Pages + Sync,
    inherited: Vec<InheritedSession>,
) -> Vec<(String, Result<Mounted, MountError>)> {
    let table = MountTable::read().unwrap_or_else(|error| {
        // They are served all the same, until nobody holds them any more.
        error!(error = %error, "mount table cannot be read; it is not known where the sessions are mounted");
        MountTable::default()
    });
    let served = side_by_side(inherited, |inherited| {
        let (workspace, session) = (inherited.workspace.clone(), inherited.session);
        let served = serve_again(ledger, tracker(&workspace), pages(&workspace), inherited, &table);
        (workspace, session, served)
    });
    served
        .into_iter()
        .map(|(workspace, session, result)| (workspace, result.inspect_err(|_| close(link, session))))
        .collect()
}

/// Runs `work` on each item, as many at a time as there are CPUs.
fn side_by_side<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let queue = Mutex::new(items.into_iter());
    let results = Mutex::new(Vec::new());
    let run = || {
        loop {
            // Apart, or the lock would be held during the work.
            let next = queue.lock().next();
            let Some(item) = next else { return };
            let result = work(item);
            results.lock().push(result);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // One thread fewer is slower and no fault.
            drop(std::thread::Builder::new().name("takeover".to_owned()).spawn_scoped(scope, run));
        }
        run();
    });
    results.into_inner()
}

fn serve_again(
    ledger: &Arc<Ledger>,
    tracker: Arc<Tracker>,
    pages: Pages,
    inherited: InheritedSession,
    table: &MountTable,
) -> Result<Mounted, MountError> {
    let notes: SessionNotes = serde_json::from_str(&inherited.notes)
        .map_err(|error| MountError::MountTable(std::io::Error::other(error)))?;
    let root = BackingRoot::from_clone(inherited.root, &notes.mount_point)?;
    let copy = rustix::io::fcntl_dupfd_cloexec(&root.clone, 3)
        .map_err(|errno| path_error("copy the descriptor of", &notes.mount_point, errno))?;
    let backing = match notes.backing {
        Some(known) => known,
        None => abilities::probe(root.readable.as_fd())
            .map_err(|errno| path_error("examine", &notes.mount_point, errno))?,
    };
    let identity = root.identity().map_err(|errno| path_error("identify", &notes.mount_point, errno))?;
    // Gone already if somebody unmounted it meanwhile; then only those who hold it are served on.
    let shown = [&notes.source, &notes.mount_point]
        .into_iter()
        .find_map(|path| table.top_at(path).filter(|entry| entry.is_wsguard()).map(|entry| entry.device));
    let seat = notes.payer.as_ref().map(|payer| payer.seat(ledger, &inherited.workspace, &root)).transpose();
    let options = SessionOptions {
        name: notes.name.clone(),
        ownership: notes.ownership,
        threads: notes.threads,
        watch_limit: notes.watch_limit,
        seat: seat.map_err(|errno| path_error("look at", &notes.mount_point, errno))?,
        tracker,
        pages,
        history: notes.history.as_ref().map(|history| {
            let dir = notes.dir.as_deref().unwrap_or(&notes.mount_point);
            history.open(&inherited.workspace, dir, &root, table)
        }),
    };
    // Last, because from here on it answers.
    let session = Session::start(inherited.device, inherited.state, copy, options)?;
    info!(workspace = %inherited.workspace, name = %notes.name, "workspace taken over");
    Ok(Mounted {
        session,
        keeper_session: inherited.session,
        device: shown.unwrap_or(DeviceNumber::NOWHERE),
        readable: root.readable,
        backing: Mutex::new(backing),
        identity,
        mounted_at: notes.mounted_at,
        source: notes.source,
        mount_point: notes.mount_point,
        restores: crate::restore::Jobs::default(),
    })
}
