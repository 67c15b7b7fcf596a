//! The one thread that mounts and unmounts.
//!
//! Record, then mutate: a workspace is in the catalog before its mount exists, so a crash in between leaves a
//! mount that the next start finds and replaces.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{error, info, warn};
use wsguard_api::{ApiError, ErrorCode, EventKind, MountRequest, Ownership, Workspace};

use super::forecasts::ForecastNotes;
use super::growth::GrowthKeeper;
use super::history_keeper::HistoryKeeper;
use super::jobs::{Job, Jobs, Reply};
use super::pages;
use super::quota::QuotaState;
use super::quota_board::ProjectView;
use super::rebinding::Rebinding;
use super::registry::{Entry, Registry, Standing};
use super::samples::SampleTimes;
use crate::catalog::{Catalog, CatalogError, WantedState, WorkspaceRecord};
use crate::changed_outside::{OutsideSearch, Unwatched};
use crate::config::Config;
use crate::delivery::Delivery;
use crate::error_chain::one_line;
use crate::events::{Concerned, EventLog};
use crate::keeper_link::KeeperLink;
use crate::mounting::{
    self, ExpectedDirectory, HistoryPlan, MountError, MountPlan, Mounted, Payer, Presence, check_form,
    check_name, check_overlap, check_own,
};
use crate::roots_watch::RootsWatch;
use crate::session::OwnershipPolicy;
use crate::tracker::Recorder;
use crate::usage::UsageService;

/// How often mounts are looked after.
const TICK: Duration = Duration::from_secs(2);

/// How often the roots are searched although nothing told of a new directory (network filesystems tell nothing).
const SEARCH_INTERVAL: Duration = Duration::from_secs(5);

/// From the first sign of a new directory to the search: more may follow.
const SEARCH_DELAY: Duration = Duration::from_millis(100);

/// How often the catalog is told that the mounted workspaces are watched.
const ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A session that outlives its mounts here because somebody still holds the superblock.
#[derive(Debug)]
pub(super) struct Lingering {
    pub(super) name: String,
    pub(super) mounted: Arc<Mounted>,
}

/// Why a directory below a root is not guarded, and when to try again.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) retry_at: Instant,
}

/// Whether the catalog knew a workspace as it is wanted before its mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    Before,
    Now,
}

/// The driver's state; see the module's documentation.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(super) config: Config,
    pub(super) mounts_dir: PathBuf,
    pub(super) catalog: Catalog,
    pub(super) link: Arc<KeeperLink>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) usage: Arc<UsageService>,
    pub(super) events: Arc<EventLog>,
    pub(super) delivery: Arc<Delivery>,
    pub(super) registry: Arc<Registry>,
    pub(super) jobs: Jobs,
    /// Never counted among the users of a mount.
    pub(super) own_pids: Vec<u32>,
    pub(super) lingering: Vec<Lingering>,
    pub(super) refusals: HashMap<PathBuf, Refusal>,
    pub(super) roots_watch: RootsWatch,
    pub(super) rebinding: Rebinding,
    pub(super) quota: QuotaState,
    pub(super) growth: Option<GrowthKeeper>,
    pub(super) forecasts: ForecastNotes,
    pub(super) samples: SampleTimes,
    pub(super) started_at: Timestamp,
    pub(super) history: Option<HistoryKeeper>,
    last_tick: Option<Instant>,
    search_at: Instant,
    /// No search before, whatever appears.
    pub(super) next_search: Instant,
    last_alive: Instant,
}

impl Driver {
    /// Takes over the catalog; nothing is mounted yet.
    pub(crate) fn new(
        config: Config,
        mounts_dir: PathBuf,
        catalog: Catalog,
        link: Arc<KeeperLink>,
        recorder: Arc<Recorder>,
        usage: Arc<UsageService>,
        events: Arc<EventLog>,
        delivery: Arc<Delivery>,
        registry: Arc<Registry>,
        jobs: Jobs,
        own_pids: Vec<u32>,
    ) -> Self {
        let searched = jobs.clone();
        let wake = move || searched.search_roots();
        Self {
            config,
            mounts_dir,
            catalog,
            link,
            recorder,
            usage,
            events,
            delivery,
            registry,
            jobs,
            own_pids,
            lingering: Vec::new(),
            refusals: HashMap::new(),
            roots_watch: RootsWatch::new(wake),
            rebinding: Rebinding::default(),
            quota: QuotaState::default(),
            growth: None,
            forecasts: ForecastNotes::default(),
            samples: SampleTimes::default(),
            started_at: Timestamp::now(),
            history: None,
            last_tick: None,
            search_at: Instant::now(),
            next_search: Instant::now(),
            last_alive: Instant::now(),
        }
    }

    /// Works until a shutdown is asked for and done.
    pub(crate) fn run(mut self, queue: &Receiver<Job>) {
        self.rebind_containers();
        // Whatever was opened while no daemon ran; not before clients are answered.
        self.note_bypassing(&self.guarded_ids());
        loop {
            if self.last_tick.is_none_or(|last| last.elapsed() >= TICK) {
                self.tick();
                self.last_tick = Some(Instant::now());
            }
            self.rebind_containers();
            if self.search_at <= Instant::now() {
                self.search_roots();
            }
            let until_tick = self.last_tick.map_or(TICK, |last| TICK.saturating_sub(last.elapsed()));
            let wait = until_tick.min(self.search_at.saturating_duration_since(Instant::now()));
            match queue.recv_timeout(wait) {
                Ok(Job::Mount(request, reply)) => answer(reply, self.mount_request(request)),
                Ok(Job::MountAll(reply)) => answer(reply, Ok(self.mount_all())),
                Ok(Job::Unmount(id, after, reply)) => answer(reply, self.unmount_request(&id, after)),
                Ok(Job::Quota(uid, request, reply)) => answer(reply, self.quota_request(uid, &request)),
                Ok(Job::QuotaAudit(most, reply)) => answer(reply, self.quota_audit(most)),
                Ok(Job::UserRequest(request)) => self.carry_out(&request),
                Ok(Job::BoostRequests(only_pending, reply)) => {
                    answer(reply, self.boost_requests(only_pending));
                }
                Ok(Job::Decide(uid, id, decision, reply)) => answer(reply, self.decide(uid, id, &decision)),
                Ok(Job::SearchRoots) => {
                    let soon = Instant::now() + SEARCH_DELAY;
                    self.search_at = self.search_at.min(soon.max(self.next_search));
                }
                Ok(Job::Configure(config)) => self.configure(&config),
                Ok(Job::Shutdown(reply)) => {
                    let report = self.shutdown();
                    if let Some(reply) = reply {
                        answer(reply, Ok(report));
                    }
                    return;
                }
                Ok(Job::Drain) => {
                    self.note_alive();
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn configure(&mut self, config: &Config) {
        self.config.roots.clone_from(&config.roots);
        self.registry.set_roots(&self.config.roots);
        self.refusals.clear();
        info!(roots = self.config.roots.len(), "roots were read again");
        self.search_at = Instant::now();
    }

    fn search_roots(&mut self) {
        self.jobs.note_search();
        self.scan_roots();
        self.search_at = Instant::now() + SEARCH_INTERVAL;
    }

    fn tick(&mut self) {
        self.finish_lingering();
        self.look_after_mounts();
        self.tick_quota();
        self.tell_forecasts();
        self.take_samples();
        if self.last_alive.elapsed() >= ALIVE_INTERVAL {
            self.note_alive();
        }
    }

    pub(super) fn note_alive(&mut self) {
        let now = Timestamp::now();
        let watched = self.guarded_ids();
        let ids: Vec<&str> = watched.iter().map(String::as_str).collect();
        if let Err(error) = self.catalog.touch_alive(&ids, now) {
            warn!(error = %one_line(&error), "catalog does not take a note");
        }
        for id in &watched {
            // Gone only if this thread removed it.
            self.registry.with_entry(id, |entry| entry.record.last_alive_at = Some(now)).ok();
        }
        self.last_alive = Instant::now();
    }

    fn guarded_ids(&self) -> Vec<String> {
        self.registry.ids().into_iter().filter(|id| self.registry.mounted(id).is_some()).collect()
    }

    /// Ends sessions that nobody holds any more.
    pub(super) fn finish_lingering(&mut self) {
        for lingering in std::mem::take(&mut self.lingering) {
            if lingering.mounted.is_finished() {
                self.finish(lingering);
            } else {
                self.lingering.push(lingering);
            }
        }
    }

    pub(super) fn finish(&mut self, lingering: Lingering) {
        let Lingering { name, mounted } = lingering;
        match Arc::try_unwrap(mounted) {
            Ok(mounted) => match mounted.finish(&self.link) {
                Ok(()) => info!(name, "session ended"),
                Err(error) => warn!(name, error = %one_line(&error), "session ended with an error"),
            },
            // Somebody is just looking at it; the next tick tries again.
            Err(mounted) => self.lingering.push(Lingering { name, mounted }),
        }
    }

    /// Repairs what somebody else did to our mounts.
    fn look_after_mounts(&mut self) {
        let table = match mounting::mountinfo::MountTable::read() {
            Ok(table) => table,
            Err(error) => {
                error!(error = %error, "mount table cannot be read");
                return;
            }
        };
        for id in self.registry.ids() {
            let Some(mounted) = self.registry.mounted(&id) else { continue };
            match mounted.presence(&table) {
                Presence::Complete if !mounted.is_finished() => mounted.refresh(),
                Presence::Incomplete if !mounted.is_finished() => {
                    if let Err(error) = mounted.complete(&table) {
                        error!(workspace = %id, error = %error, "mount cannot be put back");
                    }
                }
                // The connection was aborted, or every mount was taken away: start from the beginning.
                Presence::Complete | Presence::Incomplete | Presence::Gone => {
                    self.replace_lost(&id, mounted);
                }
            }
        }
    }

    fn replace_lost(&mut self, id: &str, mounted: Arc<Mounted>) {
        let Ok(record) = self.registry.record(id) else { return };
        error!(workspace = %id, name = %record.name, "mount was lost and is made again");
        self.set_standing(id, Standing::Failed("the mount was lost".to_owned()));
        self.lingering.push(Lingering { name: record.name.clone(), mounted });
        self.finish_lingering();
        if let Err(error) = self.mount_record(record) {
            error!(workspace = %id, error = %error.message, "lost mount cannot be made again");
        }
    }

    /// Registers a directory if it is new, and guards it.
    pub(super) fn mount_request(&mut self, request: MountRequest) -> Result<Workspace, ApiError> {
        let dir = check_form(&request.dir).map_err(|error| error.to_api())?;
        let record = match self.registry.find_dir(&dir) {
            Some(known) if self.registry.mounted(&known.id).is_some() => {
                return Err(MountError::AlreadyGuarded { path: dir, name: known.name }.to_api());
            }
            Some(known) => self.changed_record(known, &request)?,
            None => self.new_record(&dir, &request)?,
        };
        if !request.force {
            self.check_not_busy(&record)?;
        }
        let id = self.mount_record(record)?.id;
        self.note_bypassing(std::slice::from_ref(&id));
        self.registry.view_of(&id)
    }

    fn new_record(&self, dir: &Path, request: &MountRequest) -> Result<WorkspaceRecord, ApiError> {
        let at = request.at.as_deref().map(check_form).transpose().map_err(|error| error.to_api())?;
        self.check_places(dir, at.as_deref(), None).map_err(|error| error.to_api())?;
        let owner = mounting::owner_of(dir).map_err(|error| error.to_api())?;
        let uid = request.owner.unwrap_or(owner.uid);
        let name = match &request.name {
            Some(name) => name.clone(),
            None => dir.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        self.check_free_name(&name, None)?;
        Ok(WorkspaceRecord {
            id: new_id()?,
            name,
            dir: dir.to_path_buf(),
            at,
            owner_uid: uid,
            owner_gid: if uid == owner.uid { owner.gid } else { primary_group(uid) },
            ownership: request.ownership.unwrap_or_else(|| default_ownership(uid)),
            from_roots: false,
            wanted: WantedState::Mounted,
            created_at: Timestamp::now(),
            last_unmounted_at: None,
            last_alive_at: None,
            identity: None,
        })
    }

    /// A request for a registered directory may change how it is guarded.
    fn changed_record(
        &self,
        mut record: WorkspaceRecord,
        request: &MountRequest,
    ) -> Result<WorkspaceRecord, ApiError> {
        if let Some(name) = &request.name {
            self.check_free_name(name, Some(&record.id))?;
            record.name.clone_from(name);
        }
        if let Some(at) = &request.at {
            let at = check_form(at).map_err(|error| error.to_api())?;
            self.check_places(&record.dir, Some(&at), Some(&record.id)).map_err(|error| error.to_api())?;
            record.at = Some(at);
        }
        if let Some(uid) = request.owner.filter(|uid| *uid != record.owner_uid) {
            record.owner_uid = uid;
            record.owner_gid = primary_group(uid);
        }
        record.ownership = request.ownership.unwrap_or(record.ownership);
        record.wanted = WantedState::Mounted;
        Ok(record)
    }

    fn check_places(&self, dir: &Path, at: Option<&Path>, id: Option<&str>) -> Result<(), MountError> {
        let occupied = self.registry.occupied();
        let own = [self.config.state_dir.as_path(), self.config.runtime_dir.as_path()];
        check_own(dir, &own)?;
        check_overlap(dir, id, &occupied)?;
        let Some(at) = at else { return Ok(()) };
        check_own(at, &own)?;
        check_overlap(at, id, &occupied)?;
        if at.starts_with(dir) || dir.starts_with(at) {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(MountError::InsideWorkspace {
                path: at.to_path_buf(),
                name,
                other: dir.to_path_buf(),
            });
        }
        Ok(())
    }

    fn check_free_name(&self, name: &str, id: Option<&str>) -> Result<(), ApiError> {
        check_name(name).map_err(|error| error.to_api())?;
        let taken = self
            .registry
            .occupied()
            .into_iter()
            .find(|place| place.name == name && Some(place.id.as_str()) != id);
        match taken {
            None => Ok(()),
            Some(place) => Err(MountError::NameTaken { name: name.to_owned(), dir: place.dir }.to_api()),
        }
    }

    /// Guards a workspace and notes it in the catalog, before and after. A failure leaves the registry as it was:
    /// what was not registered is not, and what was stays as it was before the request.
    pub(super) fn mount_record(&mut self, mut record: WorkspaceRecord) -> Result<Workspace, ApiError> {
        let previous = self.registry.record(&record.id).ok();
        record.wanted = WantedState::Mounted;
        let noted = if previous.as_ref() == Some(&record) { Noted::Before } else { Noted::Now };
        if noted == Noted::Now {
            self.catalog.put(&record).map_err(|error| catalog_error(&error))?;
        }
        self.write_sidecar(&record);
        self.tell_ledger_of(&record);
        let former = self.former_superblocks(&record);
        match mounting::mount(&self.link, self.registry.quota().ledger(), &self.plan(&record)) {
            Ok(mounted) => {
                self.note_superseded(&record, mounted.device(), former);
                self.tell(
                    &record,
                    EventKind::Mounted,
                    &format!("guarded at {}", record.mount_point().display()),
                );
                self.enter(record, mounted, noted)
            }
            Err(error) => {
                let error = error.to_api();
                // Tried again and again: only the first time.
                let is_known = self.registry.has_failed(&record.id, &error.message);
                if previous.is_some() && !is_known {
                    self.tell(&record, EventKind::MountFailed, &format!("not guarded: {}", error.message));
                }
                match previous {
                    Some(previous) => self.put_back(previous, noted, &error),
                    None => {
                        self.remove_sidecar(&record.id);
                        self.forget_superblocks(&record.id);
                        if let Err(error) = self.catalog.remove(&record.id) {
                            error!(error = %one_line(&error), workspace = %record.id, "catalog keeps a workspace that was never mounted");
                        }
                    }
                }
                Err(error)
            }
        }
    }

    /// Tells the owner of a workspace, and root, what became of it.
    pub(super) fn tell(&self, record: &WorkspaceRecord, kind: EventKind, message: &str) {
        let concerned = Concerned { name: Some(&record.name), owner_uid: record.owner_uid };
        self.events.tell(kind, Some(concerned), message);
    }

    /// Takes back what a request that failed has changed.
    fn put_back(&mut self, previous: WorkspaceRecord, noted: Noted, error: &ApiError) {
        if noted == Noted::Now
            && let Err(error) = self.catalog.put(&previous)
        {
            error!(error = %one_line(&error), workspace = %previous.id, "catalog keeps the settings of a failed mount");
        }
        match previous.wanted {
            WantedState::Mounted => {
                self.write_sidecar(&previous);
                self.enter_failure(previous, error);
            }
            WantedState::Unmounted => self.remove_sidecar(&previous.id),
        }
    }

    fn plan(&self, record: &WorkspaceRecord) -> MountPlan {
        MountPlan {
            id: record.id.clone(),
            name: record.name.clone(),
            dir: record.dir.clone(),
            at: record.at.clone(),
            mounts_dir: self.mounts_dir.clone(),
            ownership: match record.ownership {
                Ownership::Preserve => OwnershipPolicy::Preserve,
                Ownership::Squash => OwnershipPolicy::Squash { uid: record.owner_uid, gid: record.owner_gid },
            },
            threads: self.config.threads,
            watch_limit: self.config.watch_directories,
            payer: self.config.counts_quota.then(|| Payer {
                owner: record.owner_uid,
                group: self.registry.quota().group_of(record.owner_uid),
                accounting: None,
                assumed: self.registry.quota().upper_bound(&record.id),
            }),
            history: self
                .config
                .snapshots
                .is_enabled
                .then(|| HistoryPlan { store: self.config.snapshots.store.clone() }),
            tracker: self.recorder.tracker(&record.id),
            pages: pages::source(
                &self.registry,
                &self.recorder,
                &self.jobs,
                &record.id,
                Some(ProjectView::of(record)),
            ),
            expected: record
                .identity
                .clone()
                .map(|identity| ExpectedDirectory { identity, owner_uid: record.owner_uid }),
        }
    }

    /// Puts a new guard into registry and catalog and looks for what changed before it was there.
    fn enter(
        &mut self,
        mut record: WorkspaceRecord,
        mounted: Mounted,
        noted: Noted,
    ) -> Result<Workspace, ApiError> {
        let is_same =
            record.identity.as_ref().is_some_and(|known| known.is_same_directory(mounted.identity()));
        let since = record.unwatched_since().filter(|_| is_same);
        let search = since.and_then(|since| {
            let window = Unwatched { since, until: mounted.mounted_at() };
            let fs = mounted.session().filesystem().clone();
            let watched_ns = i64::try_from(since.as_nanosecond()).unwrap_or(i64::MAX);
            let tell = Box::new(move |inode, changed_ns| fs.note_unwatched(inode, changed_ns, watched_ns));
            match mounted
                .plain_directory()
                .map_err(std::io::Error::from)
                .and_then(|root: OwnedFd| OutsideSearch::start(&record.name, root, window, tell))
            {
                Ok(search) => Some(search),
                Err(error) => {
                    error!(workspace = %record.id, error = %error, "outside changes are not searched for");
                    None
                }
            }
        });
        let is_complete = noted == Noted::Before
            && record.identity.as_ref().is_some_and(|known| known == mounted.identity());
        record.identity = Some(mounted.identity().clone());
        record.last_alive_at = Some(mounted.mounted_at());
        let id = record.id.clone();
        // The next note that it is alive, seconds from now, holds all that is new.
        let stored = if is_complete { Ok(()) } else { self.catalog.put(&record) };
        self.count_usage(&record, &mounted);
        let standing = Standing::Mounted(Arc::new(mounted));
        self.registry.note_unguarded(&record.dir, None);
        self.registry.put(Entry { search, ..Entry::idle(record, standing) });
        self.follow_kernel(&id);
        if let Err(error) = stored {
            // Guarded and registered all the same: the row from before the mount is there.
            warn!(error = %one_line(&error), workspace = %id, "catalog does not take a note");
        }
        self.registry.view_of(&id)
    }

    /// Lets the usage index follow a workspace. Without it everything else works.
    pub(super) fn count_usage(&self, record: &WorkspaceRecord, mounted: &Mounted) {
        let tracker = self.recorder.tracker(&record.id);
        if !tracker.is_on() {
            // It would be out of date with the first change.
            return;
        }
        let followed = match mounted.plain_directory() {
            Ok(root) => {
                let followed = self.usage.follow(&tracker, &record.name, root, mounted.accounting());
                followed.map_err(|error| one_line(&error))
            }
            Err(errno) => Err(errno.to_string()),
        };
        if let Err(error) = followed {
            error!(workspace = %record.id, error, "usage is not counted");
        }
    }

    pub(super) fn enter_failure(&self, record: WorkspaceRecord, error: &ApiError) {
        let is_covered = mounting::mountinfo::MountTable::read()
            .is_ok_and(|table| table.top_at(record.mount_point()).is_some_and(|top| top.is_wsguard()));
        let reason = error.message.clone();
        let standing = if is_covered { Standing::Dead(reason) } else { Standing::Failed(reason) };
        self.registry.put(Entry::idle(record, standing));
    }

    pub(super) fn set_standing(&self, id: &str, standing: Standing) {
        // What was there before is dropped outside the lock. Gone only if this thread removed it.
        let before = self.registry.with_entry(id, |entry| {
            entry.bypassing.clear();
            entry.kernel_quota = None;
            entry.unrepaired.clear();
            (std::mem::replace(&mut entry.standing, standing), entry.search.take())
        });
        drop(before);
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, ApiError>) {
    // A client that has gone away meanwhile does not need it; `status` shows what was done.
    drop(reply.send(result));
}

pub(super) fn default_ownership(uid: u32) -> Ownership {
    if uid == 0 { Ownership::Preserve } else { Ownership::Squash }
}

pub(super) fn catalog_error(error: &CatalogError) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, one_line(error))
        .with_hint("see that the disk of --state-dir is writable and not full")
}

/// Returns a new id that nobody can guess: whoever knows it may look at the mount below the runtime directory.
pub(super) fn new_id() -> Result<String, ApiError> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).map_err(
        |error| ApiError::new(ErrorCode::Unavailable, format!("cannot read /dev/urandom: {error}")),
    )?;
    Ok(format!("w{:016x}", u64::from_ne_bytes(bytes)))
}

/// Returns the user's primary group, or the group with the same number for a uid that has no entry.
fn primary_group(uid: u32) -> u32 {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2).and_then(|field| field.parse().ok()) == Some(uid))
        .and_then(|fields| fields.get(3)?.parse().ok())
        .unwrap_or(uid)
}
