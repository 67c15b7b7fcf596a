//! The workspaces as clients see them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use wsguard_api::{
    AccountingMode, ApiError, Coherence, Counting, DataPath, ErrorCode, KernelQuota, LastRecount, MountUser,
    UnguardedDirectory, Usage, UsageReport, Workspace, WorkspaceState,
};

use crate::accounting::Accounting;
use crate::catalog::WorkspaceRecord;
use crate::changed_outside::OutsideSearch;
use crate::mounting::{Mounted, Occupied};
use crate::quota::{self, Account};

use super::counts::Counts;
use super::growth::GrowthBoard;
use super::history_board::HistoryBoard;
use super::notices::NoticeBoard;
use super::quota_board::{ProjectView, QuotaBoard};
use super::recent::RecentBoard;
use super::request_desk::RequestDesk;

/// Who looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Viewer {
    /// Sees everything.
    Root,
    /// Sees what is theirs.
    User(u32),
}

impl Viewer {
    /// Whether what belongs to this user is shown.
    pub(crate) fn sees(self, owner: u32) -> bool {
        match self {
            Self::Root => true,
            Self::User(uid) => uid == owner,
        }
    }
}

/// Where a workspace stands.
#[derive(Debug)]
pub(super) enum Standing {
    Mounted(Arc<Mounted>),
    Unmounted,
    /// A dead mount is in place; the reason is why it could not be replaced.
    Dead(String),
    Failed(String),
}

/// One registered workspace.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) record: WorkspaceRecord,
    pub(super) standing: Standing,
    pub(super) search: Option<OutsideSearch>,
    /// Who was in the plain directory at the moment of the mount.
    pub(super) bypassing: Vec<MountUser>,
    /// Which containers still have a dead mount of it, and why.
    pub(super) unrepaired: Vec<String>,
    /// What of its quota the filesystem below does, as of the driver's last look.
    pub(super) kernel_quota: Option<KernelQuota>,
}

impl Entry {
    /// A workspace that is not mounted.
    pub(super) fn idle(record: WorkspaceRecord, standing: Standing) -> Self {
        Self {
            record,
            standing,
            search: None,
            bypassing: Vec::new(),
            unrepaired: Vec::new(),
            kernel_quota: None,
        }
    }
}

/// A path in a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The workspace's id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
    /// Where users see it.
    pub(crate) mount_point: PathBuf,
    /// The path from there; empty for the workspace itself.
    pub(crate) relative: PathBuf,
}

impl Place {
    fn of(entry: &Entry, relative: &Path) -> Self {
        Self {
            id: entry.record.id.clone(),
            name: entry.record.name.clone(),
            mount_point: entry.record.mount_point().to_path_buf(),
            relative: relative.components().collect(),
        }
    }
}

#[derive(Debug, Default)]
struct Contents {
    entries: BTreeMap<String, Entry>,
    unguarded: Vec<UnguardedDirectory>,
    warnings: Vec<String>,
    roots: Vec<String>,
}

/// A mounted workspace.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) mounted: Arc<Mounted>,
}

/// Every registered workspace, readable by all threads. Nothing slow happens under its lock.
#[derive(Debug)]
pub(crate) struct Registry {
    contents: Mutex<Contents>,
    mounts_dir: PathBuf,
    quota: QuotaBoard,
    notices: NoticeBoard,
    growth: GrowthBoard,
    recent: RecentBoard,
    requests: RequestDesk,
    counts: Counts,
    history: HistoryBoard,
}

impl Registry {
    /// Makes an empty one; `mounts_dir` is where superblocks are mounted.
    pub(crate) fn new(mounts_dir: PathBuf) -> Self {
        let contents = Mutex::new(Contents::default());
        Self {
            contents,
            mounts_dir,
            quota: QuotaBoard::new(),
            notices: NoticeBoard::default(),
            growth: GrowthBoard::default(),
            recent: RecentBoard::default(),
            requests: RequestDesk::default(),
            counts: Counts::default(),
            history: HistoryBoard::default(),
        }
    }

    /// Returns the limits and the ledger.
    pub(crate) fn quota(&self) -> &QuotaBoard {
        &self.quota
    }

    /// Returns what the usage index said lately.
    pub(super) fn growth(&self) -> &GrowthBoard {
        &self.growth
    }

    /// Returns what is known of the past of workspaces.
    pub(crate) fn history(&self) -> &HistoryBoard {
        &self.history
    }

    /// Returns what owners should know.
    pub(super) fn notices(&self) -> &NoticeBoard {
        &self.notices
    }

    /// Returns what happened lately.
    pub(super) fn recent(&self) -> &RecentBoard {
        &self.recent
    }

    /// Returns who takes requests from inside.
    pub(super) fn requests(&self) -> &RequestDesk {
        &self.requests
    }

    /// Returns what has happened since this worker started, in numbers.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns when a workspace will be full and such, as it was found out last.
    pub(crate) fn latest_usage(&self, id: &str) -> Option<Arc<UsageReport>> {
        self.growth.latest(id)
    }

    /// Returns every workspace as far as quota is concerned.
    pub(crate) fn projects(&self) -> Vec<ProjectView> {
        let view = |entry: &Entry| ProjectView {
            is_mounted: matches!(entry.standing, Standing::Mounted(_)),
            counting: match &entry.standing {
                Standing::Mounted(mounted) => Some(counting_of(mounted)),
                Standing::Unmounted | Standing::Dead(_) | Standing::Failed(_) => None,
            },
            ..ProjectView::of(&entry.record)
        };
        self.contents.lock().entries.values().map(view).collect()
    }

    /// Returns the id of the workspace that `path` lies in, mounted or not, if `viewer` sees it.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub(crate) fn find_containing(&self, path: &Path, viewer: Viewer) -> Result<String, ApiError> {
        let contents = self.contents.lock();
        let mut visible = contents.entries.values().filter(|entry| viewer.sees(entry.record.owner_uid));
        let found = visible.find(|entry| {
            let source = self.mounts_dir.join(&entry.record.id);
            [entry.record.dir.as_path(), entry.record.mount_point(), &source]
                .iter()
                .any(|at| path.starts_with(at))
        });
        found.map(|entry| entry.record.id.clone()).ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("{} is not in a workspace", path.display()))
                .with_hint("see `wsguard ls`")
        })
    }

    /// Returns every workspace that `viewer` may see, by name.
    pub(crate) fn list(&self, viewer: Viewer) -> Vec<Workspace> {
        let contents = self.contents.lock();
        let visible = contents.entries.values().filter(|entry| viewer.sees(entry.record.owner_uid));
        let mut list: Vec<Workspace> = visible.map(|entry| self.view(entry)).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// Returns the directories below configured roots that nobody guards, by path.
    pub(crate) fn unguarded(&self, viewer: Viewer) -> Vec<UnguardedDirectory> {
        let contents = self.contents.lock();
        let visible = contents.unguarded.iter().filter(|dir| viewer.sees(dir.owner_uid));
        let mut list: Vec<UnguardedDirectory> = visible.cloned().collect();
        list.sort_by(|a, b| a.dir.cmp(&b.dir));
        list
    }

    /// Returns how many requests were sent again to workers that took over, of all mounts together.
    pub(crate) fn resent_requests(&self) -> u64 {
        let contents = self.contents.lock();
        let resent = contents.entries.values().filter_map(|entry| match &entry.standing {
            Standing::Mounted(mounted) => Some(mounted.stats().resent_requests),
            Standing::Unmounted | Standing::Dead(_) | Standing::Failed(_) => None,
        });
        resent.sum()
    }

    /// Returns what is degraded, one line each. What concerns a workspace is shown to those who see it.
    pub(crate) fn warnings(&self, viewer: Viewer) -> Vec<String> {
        let contents = self.contents.lock();
        let mut warnings = contents.warnings.clone();
        let visible = contents.entries.values().filter(|entry| viewer.sees(entry.record.owner_uid));
        warnings.extend(visible.flat_map(entry_warnings));
        warnings
    }

    /// Returns the plain directory and name of the mounted workspace that `path` lies in, if `viewer` sees it.
    pub(crate) fn find_mounted(&self, path: &Path, viewer: Viewer) -> Result<(String, OwnedFd), ApiError> {
        let contents = self.contents.lock();
        for entry in contents.entries.values().filter(|entry| viewer.sees(entry.record.owner_uid)) {
            let Standing::Mounted(mounted) = &entry.standing else { continue };
            let source = self.mounts_dir.join(&entry.record.id);
            if [entry.record.dir.as_path(), entry.record.mount_point(), &source]
                .iter()
                .any(|at| path.starts_with(at))
            {
                let directory = mounted.plain_directory().map_err(|errno| {
                    ApiError::new(ErrorCode::Internal, format!("cannot copy a descriptor: {errno}"))
                })?;
                return Ok((entry.record.name.clone(), directory));
            }
        }
        Err(ApiError::new(ErrorCode::NotFound, format!("{} is not in a mounted workspace", path.display()))
            .with_hint("see `wsguard ls`"))
    }

    /// Returns the registered workspace, mounted or not, that `path` lies in, if `viewer` sees it. Nothing is looked
    /// up in the filesystem.
    pub(crate) fn place_of(&self, path: &Path, viewer: Viewer) -> Result<Place, ApiError> {
        let contents = self.contents.lock();
        for entry in contents.entries.values().filter(|entry| viewer.sees(entry.record.owner_uid)) {
            let source = self.mounts_dir.join(&entry.record.id);
            let relative = [entry.record.mount_point(), &entry.record.dir, &source]
                .into_iter()
                .find_map(|at| path.strip_prefix(at).ok());
            if let Some(relative) = relative {
                return Ok(Place::of(entry, relative));
            }
        }
        Err(ApiError::new(ErrorCode::NotFound, format!("{} is not in a workspace", path.display()))
            .with_hint("see `wsguard ls`"))
    }

    /// Returns every registered workspace that `viewer` sees, by name.
    pub(crate) fn places(&self, viewer: Viewer) -> Vec<Place> {
        let contents = self.contents.lock();
        let visible = contents.entries.values().filter(|entry| viewer.sees(entry.record.owner_uid));
        let mut places: Vec<Place> = visible.map(|entry| Place::of(entry, Path::new(""))).collect();
        places.sort_by(|a, b| a.name.cmp(&b.name));
        places
    }

    pub(super) fn view_of(&self, id: &str) -> Result<Workspace, ApiError> {
        self.contents.lock().entries.get(id).map(|entry| self.view(entry)).ok_or_else(|| unknown(id))
    }

    pub(super) fn with_entry<T>(&self, id: &str, look: impl FnOnce(&mut Entry) -> T) -> Result<T, ApiError> {
        self.contents.lock().entries.get_mut(id).map(look).ok_or_else(|| unknown(id))
    }

    /// Returns the id of the workspace with that id or name.
    pub(super) fn resolve(&self, id_or_name: &str) -> Result<String, ApiError> {
        let contents = self.contents.lock();
        if contents.entries.contains_key(id_or_name) {
            return Ok(id_or_name.to_owned());
        }
        contents
            .entries
            .values()
            .find(|entry| entry.record.name == id_or_name)
            .map(|entry| entry.record.id.clone())
            .ok_or_else(|| unknown(id_or_name))
    }

    pub(super) fn find_dir(&self, dir: &Path) -> Option<WorkspaceRecord> {
        let contents = self.contents.lock();
        contents.entries.values().find(|entry| entry.record.dir == dir).map(|entry| entry.record.clone())
    }

    pub(super) fn record(&self, id: &str) -> Result<WorkspaceRecord, ApiError> {
        self.with_entry(id, |entry| entry.record.clone())
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.contents.lock().entries.keys().cloned().collect()
    }

    /// Whether a workspace is known not to be guarded for that reason.
    pub(super) fn has_failed(&self, id: &str, reason: &str) -> bool {
        matches!(
            self.contents.lock().entries.get(id).map(|entry| &entry.standing),
            Some(Standing::Failed(known) | Standing::Dead(known)) if known == reason
        )
    }

    /// Returns the guard of a workspace, if it is mounted.
    pub(super) fn mounted(&self, id: &str) -> Option<Arc<Mounted>> {
        match &self.contents.lock().entries.get(id)?.standing {
            Standing::Mounted(mounted) => Some(Arc::clone(mounted)),
            Standing::Unmounted | Standing::Dead(_) | Standing::Failed(_) => None,
        }
    }

    /// Returns the guard of the mounted workspace with that id or name, with id and name, if `viewer` sees it.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Conflict` if it is not mounted.
    pub(crate) fn guard(&self, id_or_name: &str, viewer: Viewer) -> Result<Guard, ApiError> {
        let id = self.resolve(id_or_name)?;
        let record = self.record(&id)?;
        if !viewer.sees(record.owner_uid) {
            return Err(unknown(id_or_name));
        }
        match self.mounted(&id) {
            Some(mounted) => Ok(Guard { id, name: record.name, mounted }),
            None => Err(ApiError::new(ErrorCode::Conflict, format!("{} is not mounted", record.name))
                .with_hint("it is counted when it is mounted")),
        }
    }

    /// Returns every place that is taken.
    pub(super) fn occupied(&self) -> Vec<Occupied> {
        let contents = self.contents.lock();
        let place = |entry: &Entry| Occupied {
            id: entry.record.id.clone(),
            name: entry.record.name.clone(),
            dir: entry.record.dir.clone(),
            mount_point: entry.record.mount_point().to_path_buf(),
        };
        contents.entries.values().map(place).collect()
    }

    /// Adds or replaces a workspace. What it replaces is dropped outside the lock: a search joins its thread.
    pub(super) fn put(&self, entry: Entry) {
        let replaced = self.contents.lock().entries.insert(entry.record.id.clone(), entry);
        drop(replaced);
    }

    pub(super) fn remove(&self, id: &str) {
        let removed = self.contents.lock().entries.remove(id);
        drop(removed);
    }

    /// Returns how many bytes may still be written to a workspace, as far as anybody knows (nobody does while it is not
    /// mounted): what the tightest of its limits leaves, or the filesystem below, as `df` in it shows.
    pub(crate) fn available_bytes(&self, id: &str) -> Option<u64> {
        let mounted = self.mounted(id)?;
        // Outside the registry's lock: the filesystem may be slow.
        let host = mounted.host_space().ok()?;
        let left =
            |account: &Arc<Account>| account.statfs(host).blocks_available.saturating_mul(quota::BLOCK_BYTES);
        Some(mounted.account().map_or(host.available_bytes, left))
    }

    /// Returns the patterns of directories that are guarded as they appear.
    pub(crate) fn roots(&self) -> Vec<String> {
        self.contents.lock().roots.clone()
    }

    pub(super) fn set_roots(&self, roots: &[String]) {
        self.contents.lock().roots = roots.to_vec();
    }

    pub(super) fn set_unguarded(&self, unguarded: Vec<UnguardedDirectory>) {
        self.contents.lock().unguarded = unguarded;
    }

    /// Notes what became of one directory since the last search: nobody guards it now, or (`None`) somebody does.
    pub(super) fn note_unguarded(&self, dir: &Path, now: Option<UnguardedDirectory>) {
        let shown = PathBuf::from(dir.to_string_lossy().into_owned());
        let mut contents = self.contents.lock();
        contents.unguarded.retain(|known| known.dir != shown);
        contents.unguarded.extend(now);
    }

    /// Adds a line to what is shown as degraded until the worker ends.
    pub(crate) fn warn(&self, warning: String) {
        self.contents.lock().warnings.push(warning);
    }

    fn view(&self, entry: &Entry) -> Workspace {
        let record = &entry.record;
        let mounted = match &entry.standing {
            Standing::Mounted(mounted) => Some(mounted),
            Standing::Unmounted | Standing::Dead(_) | Standing::Failed(_) => None,
        };
        let stats = mounted.map(|mounted| mounted.stats());
        Workspace {
            id: record.id.clone(),
            name: record.name.clone(),
            dir: record.dir.clone(),
            mount_point: record.mount_point().to_path_buf(),
            source: self.mounts_dir.join(&record.id),
            owner_uid: record.owner_uid,
            owner_gid: record.owner_gid,
            ownership: record.ownership,
            state: match &entry.standing {
                Standing::Mounted(mounted) if mounted.is_finished() => WorkspaceState::Dead,
                Standing::Mounted(_) => WorkspaceState::Mounted,
                Standing::Unmounted => WorkspaceState::Unmounted,
                Standing::Dead(_) => WorkspaceState::Dead,
                Standing::Failed(reason) => WorkspaceState::Failed { reason: reason.clone() },
            },
            from_roots: record.from_roots,
            data_path: mounted.map(|mounted| mounted.data_path()),
            coherence: mounted.map(|mounted| mounted.coherence()),
            backing: mounted.map(|mounted| mounted.backing()),
            mounted_at: mounted.map(|mounted| mounted.mounted_at().to_string()),
            history: mounted.map(|_| self.history.of_mounted(&record.id)),
            inodes_known: stats.as_ref().map_or(0, |stats| stats.inodes_known),
            open_handles: stats.as_ref().map_or(0, |stats| stats.open_handles),
            changed_outside: entry.search.as_ref().and_then(OutsideSearch::result),
            bypassing: entry.bypassing.clone(),
            kernel_quota: entry.kernel_quota.clone().map(|quota| match mounted {
                Some(mounted) => KernelQuota {
                    used_bytes: mounted.account().map_or(0, |account| account.used_bytes()),
                    unseen_writers: mounted.unseen_writers() as u64,
                    ..quota
                },
                None => quota,
            }),
        }
    }
}

/// Returns how a workspace is counted. Waits for nothing.
fn counting_of(mounted: &Mounted) -> Counting {
    let last_recount = mounted.last_recount().map(|last| LastRecount {
        at: last.at.to_string(),
        took_ms: u64::try_from(last.took.as_millis()).unwrap_or(u64::MAX),
        counted: Usage { bytes: last.found.bytes, inodes: last.found.inodes },
        drift_bytes: last.found.drift_bytes,
        drift_inodes: last.found.drift_inodes,
    });
    let accounting = match mounted.accounting() {
        _ if mounted.kernel_quota().is_some() => AccountingMode::Kernel,
        Accounting::Allocated => AccountingMode::Allocated,
        Accounting::AllocatedToSize => AccountingMode::AllocatedToSize,
        Accounting::Logical => AccountingMode::Logical,
    };
    Counting { accounting, last_recount }
}

fn entry_warnings(entry: &Entry) -> Vec<String> {
    let name = &entry.record.name;
    let mut warnings = Vec::new();
    match &entry.standing {
        Standing::Mounted(mounted) => {
            if let DataPath::Cached { reason } = mounted.data_path() {
                warnings.push(format!("{name}: reads go through the worker, several times slower: {reason}"));
            }
            if mounted.account().is_none() {
                warnings.push(format!(
                    "{name}: nothing is counted and no limit is enforced, quota.enabled was false at its mount"
                ));
            }
            if let Coherence::ShortTtl { reason } = mounted.coherence() {
                warnings
                    .push(format!("{name}: edits below the mount are seen after a second only: {reason}"));
            }
        }
        Standing::Dead(reason) => warnings
            .push(format!("{name}: nobody answers at {}: {reason}", entry.record.mount_point().display())),
        Standing::Failed(reason) => warnings.push(format!("{name}: not guarded: {reason}")),
        Standing::Unmounted => {}
    }
    if let Some(KernelQuota { failure: Some(reason), .. }) = &entry.kernel_quota {
        warnings.push(format!(
            "{name}: the kernel does not enforce its quota, writes reach the worker: {reason}"
        ));
    }
    warnings.extend(entry.unrepaired.iter().map(|failure| format!("{name}: {failure}; restart it")));
    warnings
}

/// The moment until which a guard that was just taken away has surely seen every change.
///
/// Change times come from a clock that ticks every 1 to 10 ms and lags behind this one: a change right after the
/// unmount must not look older than it.
pub(super) fn last_watched_moment() -> Timestamp {
    let lag = jiff::SignedDuration::from_millis(10);
    Timestamp::now().checked_sub(lag).unwrap_or(Timestamp::UNIX_EPOCH)
}

pub(super) fn unknown(id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("no workspace is called {id}")).with_hint("see `wsguard ls`")
}
