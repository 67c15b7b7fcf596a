//! Guarding one directory: superblock, session and mounts come and go together.
//!
//! [`mount`] takes the backing directory first, lets a session answer the kernel while nothing is attached yet,
//! and attaches last: at the root-owned place for containers, then in place. A failure at any step undoes all
//! earlier ones. [`unmount`] goes the other way. The driver thread calls both; when the daemon stops, it lets other
//! threads help to unmount.

mod abilities;
mod attach;
mod compression;
mod error;
pub(crate) mod mountinfo;
mod past;
mod payer;
mod place;
mod root;
mod stale;
mod store_place;
mod superblock;
mod takeover;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tracing::{info, warn};
use wsguard_api::{BackingInfo, Coherence, DataPath};

pub(crate) use attach::clone_detached;
pub(crate) use error::MountError;
pub(crate) use place::{Occupied, check_form, check_name, check_no_mounts_below, check_overlap, check_own};
pub(crate) use stale::{Leftover, leftovers};
pub(crate) use store_place::HistoryPlan;
pub(crate) use takeover::take_over;

use attach::{attach, device_of, remove_dead, unmount_top};
use mountinfo::{DeviceNumber, MountEntry, MountTable, Propagation};
pub(crate) use payer::Payer;
use place::Place;
use root::BackingRoot;
use takeover::SessionNotes;

use crate::catalog::DirectoryIdentity;
use crate::keeper_link::{KeeperLink, OpenedSession, SessionId};
use crate::kernel_quota::{KernelQuotaError, Subvolume};
use crate::quota::{Account, HostSpace, Ledger};
use crate::restore::Jobs;
use crate::session::{
    Accounting, LastRecount, OwnershipPolicy, Pages, Recounted, Refused, Session, SessionError,
    SessionOptions, SessionStats,
};
use crate::tracker::Tracker;

/// How long a session may take to end after its last mount is gone.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Mounts of one superblock that are taken away at most; users can bind it elsewhere in this namespace.
const MOST_MOUNTS: usize = 1_000;

/// What to guard, and how.
#[derive(Clone)]
pub(crate) struct MountPlan {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The directory with the plain files.
    pub(crate) dir: PathBuf,
    /// Where it is shown instead of in place.
    pub(crate) at: Option<PathBuf>,
    /// Where superblocks are mounted; root-owned.
    pub(crate) mounts_dir: PathBuf,
    pub(crate) ownership: OwnershipPolicy,
    pub(crate) threads: usize,
    pub(crate) watch_limit: usize,
    /// Who pays; `None` where quota is off.
    pub(crate) payer: Option<Payer>,
    /// What is deleted and overwritten is kept; `None` if it is not to be.
    pub(crate) history: Option<HistoryPlan>,
    /// Where its changes are noted.
    pub(crate) tracker: Arc<Tracker>,
    /// Writes what its virtual directory holds.
    pub(crate) pages: Pages,
    /// Which directory it was when it was registered; `None` for a new workspace.
    pub(crate) expected: Option<ExpectedDirectory>,
}

/// A directory as it was when it was guarded last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedDirectory {
    pub(crate) identity: DirectoryIdentity,
    pub(crate) owner_uid: u32,
}

impl MountPlan {
    fn mount_point(&self) -> &Path {
        self.at.as_deref().unwrap_or(&self.dir)
    }

    fn source(&self) -> PathBuf {
        self.mounts_dir.join(&self.id)
    }
}

/// A guarded directory.
pub(crate) struct Mounted {
    session: Session,
    keeper_session: SessionId,
    device: DeviceNumber,
    readable: OwnedFd,
    backing: Mutex<BackingInfo>,
    identity: DirectoryIdentity,
    mounted_at: Timestamp,
    source: PathBuf,
    mount_point: PathBuf,
    restores: Jobs,
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mounted").field("mount_point", &self.mount_point).finish_non_exhaustive()
    }
}

/// How [`unmount`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmounted {
    /// Nobody holds anything on the superblock; it is gone.
    Released,
    /// It was in use and was detached.
    Detached,
}

/// Who owns a directory, found when a workspace is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryOwner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Makes the directory for mounts private, where what is mounted below it would appear elsewhere.
pub(crate) fn prepare_mounts_dir(mounts_dir: &Path) -> Result<(), MountError> {
    let table = MountTable::read()?;
    if table.containing(mounts_dir).is_none_or(|entry| entry.propagation == Propagation::NotShared) {
        return Ok(());
    }
    let place = Place::open(mounts_dir)?;
    let top = place.open_top()?;
    let failed = |errno| MountError::Path { action: "make private", path: mounts_dir.to_path_buf(), errno };
    let clone = clone_detached(top.as_fd()).map_err(failed)?;
    attach(clone.as_fd(), &place)
}

/// Undoes [`prepare_mounts_dir`], unless something is still mounted below.
pub(crate) fn release_mounts_dir(mounts_dir: &Path) -> Result<(), MountError> {
    let table = MountTable::read()?;
    if table.top_at(mounts_dir).is_none() || table.below(mounts_dir).next().is_some() {
        return Ok(());
    }
    unmount_top(&Place::open(mounts_dir)?, UnmountFlags::empty())
}

/// Returns the owner of the plain directory, looking below a dead mount if there is one.
///
/// # Errors
/// As for [`mount`]: the directory must exist and must not belong to another daemon.
pub(crate) fn owner_of(dir: &Path) -> Result<DirectoryOwner, MountError> {
    let table = MountTable::read()?;
    let place = Place::open(dir)?;
    check_mount_at(dir, &table)?;
    stale::expect_dead(dir, &table)?;
    let root = BackingRoot::take(&place, &table)?;
    let stat = rustix::fs::fstat(&root.readable).map_err(|errno| path_error("look at", dir, errno))?;
    Ok(DirectoryOwner { uid: stat.st_uid, gid: stat.st_gid })
}

/// Guards a directory.
///
/// # Errors
/// Nothing is mounted, and no session left, when it fails.
pub(crate) fn mount(
    link: &KeeperLink,
    ledger: &Arc<Ledger>,
    plan: &MountPlan,
) -> Result<Mounted, MountError> {
    let table = MountTable::read()?;
    let dir = Place::open(&plan.dir)?;
    check_mount_at(&plan.dir, &table)?;
    check_no_mounts_below(&plan.dir, &table)?;
    let mount_point = prepare_mount_point(plan, &table)?;
    stale::expect_dead(plan.mount_point(), &table)?;
    let root = BackingRoot::take(&dir, &table)?;
    let (backing, identity) = examine(&root, &plan.dir)?;
    let payer = plan.payer.clone().map(|mut payer| {
        if compression::compresses(&backing.filesystem, root.readable.as_fd(), &plan.dir, &table) {
            payer.accounting.get_or_insert(Accounting::Logical);
        }
        payer
    });
    check_expected(plan, &root, &identity)?;
    let source = prepare_source(plan, &table)?;

    let opened = link.open(&plan.id)?;
    let shown_at = mount_point.as_ref().unwrap_or(&dir);
    let below = (&root, &backing, &table);
    let attempt = serve_and_attach(link, ledger, plan, payer, opened, below, (&source, shown_at));
    let (session, keeper_session, device, mounted_at) = attempt?;
    info!(workspace = %plan.id, name = %plan.name, dir = %plan.dir.display(), "workspace mounted");
    Ok(Mounted {
        session,
        keeper_session,
        device,
        readable: root.readable,
        backing: Mutex::new(backing),
        identity,
        mounted_at,
        source: plan.source(),
        mount_point: plan.mount_point().to_path_buf(),
        restores: Jobs::default(),
    })
}

/// Refuses a mount point of somebody else's FUSE filesystem.
fn check_mount_at(dir: &Path, table: &MountTable) -> Result<(), MountError> {
    match table.top_at(dir) {
        Some(entry) if entry.is_fuse() && !entry.is_wsguard() => {
            Err(MountError::OtherFuse { path: dir.to_path_buf(), filesystem: entry.filesystem.clone() })
        }
        _ => Ok(()),
    }
}

fn examine(root: &BackingRoot, dir: &Path) -> Result<(BackingInfo, DirectoryIdentity), MountError> {
    let backing =
        abilities::probe(root.readable.as_fd()).map_err(|errno| path_error("examine", dir, errno))?;
    if backing.read_only {
        return Err(MountError::ReadOnly { path: dir.to_path_buf() });
    }
    let identity = root.identity().map_err(|errno| MountError::NoFileHandles {
        path: dir.to_path_buf(),
        filesystem: backing.filesystem.clone(),
        errno,
    })?;
    Ok((backing, identity))
}

/// A directory that took the place of the registered one is guarded only if it belongs to the same user: the
/// workspace's owner could otherwise get at what somebody else put there.
fn check_expected(plan: &MountPlan, root: &BackingRoot, found: &DirectoryIdentity) -> Result<(), MountError> {
    let Some(expected) = &plan.expected else { return Ok(()) };
    if expected.identity.is_same_directory(found) {
        return Ok(());
    }
    let owner =
        rustix::fs::fstat(&root.readable).map_err(|errno| path_error("look at", &plan.dir, errno))?.st_uid;
    if owner == expected.owner_uid {
        warn!(path = %plan.dir.display(), "directory was replaced since it was guarded last");
        return Ok(());
    }
    Err(MountError::Replaced { path: plan.dir.clone(), expected: expected.owner_uid, found: owner })
}

/// Opens the place of `--at`, creating the directory if it is missing. `None` means in place.
fn prepare_mount_point(plan: &MountPlan, table: &MountTable) -> Result<Option<Place>, MountError> {
    let Some(at) = &plan.at else { return Ok(None) };
    let place = Place::open(at)?;
    check_mount_at(at, table)?;
    if table.top_at(at).is_some_and(MountEntry::is_wsguard) {
        return Ok(Some(place));
    }
    match rustix::fs::mkdirat(&place.parent, &place.name, Mode::from_raw_mode(0o755)) {
        Ok(()) => return Ok(Some(place)),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(path_error("create", at, errno)),
    }
    let top = place.open_top()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = rustix::fs::openat(&top, ".", flags, Mode::empty())
        .and_then(rustix::fs::Dir::new)
        .map_err(|errno| path_error("read", at, errno))?;
    for entry in listing {
        let entry = entry.map_err(|errno| path_error("read", at, errno))?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Err(MountError::NotEmpty { path: at.clone() });
        }
    }
    Ok(Some(place))
}

/// Creates the root-owned directory for the superblock.
fn prepare_source(plan: &MountPlan, table: &MountTable) -> Result<Place, MountError> {
    let path = plan.source();
    let place = Place::open(&path)?;
    match rustix::fs::mkdirat(&place.parent, &place.name, Mode::from_raw_mode(0o711)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(path_error("create", &path, errno)),
    }
    stale::expect_dead(&path, table)?;
    Ok(place)
}

type Serving = (Session, SessionId, DeviceNumber, Timestamp);

fn serve_and_attach(
    link: &KeeperLink,
    ledger: &Arc<Ledger>,
    plan: &MountPlan,
    payer: Option<Payer>,
    opened: OpenedSession,
    below: (&BackingRoot, &BackingInfo, &MountTable),
    (source, mount_point): (&Place, &Place),
) -> Result<Serving, MountError> {
    let keeper_session = opened.session;
    let result = serve(link, ledger, plan, payer, opened, below).and_then(|(session, mount)| {
        let mounted_at = Timestamp::now();
        match attach_both(mount, source, mount_point) {
            Ok(device) => Ok((session, keeper_session, device, mounted_at)),
            Err(error) => {
                end(session, &plan.name);
                Err(error)
            }
        }
    });
    if result.is_err() {
        close(link, keeper_session);
        remove_source(source);
    }
    result
}

/// Starts the session on a superblock that is attached nowhere. Returns both.
fn serve(
    link: &KeeperLink,
    ledger: &Arc<Ledger>,
    plan: &MountPlan,
    payer: Option<Payer>,
    opened: OpenedSession,
    (root, backing, table): (&BackingRoot, &BackingInfo, &MountTable),
) -> Result<(Session, OwnedFd), MountError> {
    let copy = rustix::io::fcntl_dupfd_cloexec(&root.clone, 3)
        .map_err(|errno| path_error("copy the descriptor of", &plan.dir, errno))?;
    let mount = superblock::create(opened.device.as_fd(), &plan.name)?;
    let seat = payer.as_ref().map(|payer| payer.seat(ledger, &plan.id, root)).transpose();
    let options = SessionOptions {
        name: plan.name.clone(),
        ownership: plan.ownership,
        threads: plan.threads,
        watch_limit: plan.watch_limit,
        seat: seat.map_err(|errno| path_error("look at", &plan.dir, errno))?,
        tracker: Arc::clone(&plan.tracker),
        pages: plan.pages.clone(),
        history: plan.history.as_ref().map(|history| history.open(&plan.id, &plan.dir, root, table)),
    };
    let notes = SessionNotes::of(plan, payer, backing).to_text();
    let session = Session::start(opened.device, opened.state, copy, options)?;
    session.watch();
    let adopted = connection_of(mount.as_fd())
        .map_err(|errno| path_error("number the mount of", &plan.dir, errno))
        .and_then(|connection| Ok(link.adopt(opened.session, notes, connection, root.clone.as_fd())?));
    if let Err(error) = adopted {
        drop(mount);
        end(session, &plan.name);
        return Err(error);
    }
    Ok((session, mount))
}

/// Returns the number under which the kernel knows the connection of `mount`, without a request to it.
fn connection_of(mount: BorrowedFd<'_>) -> Result<u32, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(mount, "", flags, StatxFlags::empty())?.stx_dev_minor)
}

/// Attaches the superblock at its own place and a clone of that mount where users see it. Undoes the first if
/// the second fails.
fn attach_both(mount: OwnedFd, source: &Place, mount_point: &Place) -> Result<DeviceNumber, MountError> {
    attach(mount.as_fd(), source)?;
    let second = device_of(mount.as_fd()).and_then(|device| {
        let clone = clone_detached(mount.as_fd())
            .map_err(|errno| path_error("clone the mount at", &source.path, errno))?;
        attach(clone.as_fd(), mount_point).map(|()| device)
    });
    drop(mount);
    if second.is_err()
        && let Err(error) = unmount_top(source, UnmountFlags::DETACH)
    {
        warn!(error = %error, path = %source.path.display(), "half-made mount stays");
    }
    second
}

/// Waits for a session whose superblock is gone.
fn end(session: Session, name: &str) {
    if !wait_until(END_TIMEOUT, || session.is_finished()) {
        warn!(name, "session does not end although its mounts are gone");
        return;
    }
    if let Err(error) = session.join() {
        warn!(name, error = %error, "session ended with an error");
    }
}

fn close(link: &KeeperLink, session: SessionId) {
    if let Err(error) = link.close(session) {
        warn!(session = %session, error = %error, "keeper keeps a session that is over");
    }
}

/// The directory is ours and empty; if it stays, the next mount uses it.
fn remove_source(source: &Place) {
    if let Err(errno) = rustix::fs::unlinkat(&source.parent, &source.name, AtFlags::REMOVEDIR) {
        warn!(path = %source.path.display(), errno = errno.raw_os_error(), "mount directory stays");
    }
}

/// Takes every mount of the superblock in this namespace away, the one that users see first and the root-owned
/// one last. What is in use is detached: its users keep what they hold as long as the daemon lives.
///
/// `patience` is how long the superblock may take to go before somebody must be holding it. Different guards can
/// be taken away on different threads at once.
pub(crate) fn unmount(mounted: &Mounted, patience: Duration) -> Result<Unmounted, MountError> {
    mounted.restores.stop();
    let mut outcome = Unmounted::Released;
    for _ in 0..MOST_MOUNTS {
        let table = MountTable::read()?;
        let Some(entry) = next_to_unmount(&table, mounted) else { break };
        let path = entry.mount_point.clone();
        if table.top_at(&path).is_none_or(|top| top.id != entry.id) {
            return Err(MountError::Covered { path });
        }
        let place = Place::open(&path)?;
        match unmount_top(&place, UnmountFlags::empty()) {
            Ok(()) => {}
            Err(MountError::Path { errno: Errno::BUSY, .. }) => {
                outcome = Unmounted::Detached;
                unmount_top(&place, UnmountFlags::DETACH)?;
            }
            Err(error) => return Err(error),
        }
        if path == mounted.source {
            remove_source(&place);
        }
    }
    if outcome == Unmounted::Released && !wait_until(patience, || mounted.session.is_finished()) {
        // Nothing here holds it, so a mount in another namespace or a passed descriptor does.
        outcome = Unmounted::Detached;
    }
    Ok(outcome)
}

/// Takes every dead wsguard mount at `paths` away. Returns whether there was one.
pub(crate) fn remove_dead_mounts(paths: &[&Path]) -> Result<bool, MountError> {
    let mut is_removed = false;
    for path in paths {
        let table = MountTable::read()?;
        if table.top_at(path).is_none_or(|entry| !entry.is_wsguard()) {
            continue;
        }
        stale::expect_dead(path, &table)?;
        remove_dead(&Place::open(path)?)?;
        is_removed = true;
    }
    Ok(is_removed)
}

/// Returns the mount to take away next: whatever users made of it, what they see, then the source.
fn next_to_unmount<'a>(table: &'a MountTable, mounted: &Mounted) -> Option<&'a MountEntry> {
    table.of_device(mounted.device).max_by_key(|entry| {
        let rank = if entry.mount_point == mounted.mount_point {
            2
        } else {
            u8::from(entry.mount_point != mounted.source)
        };
        (rank, entry.id)
    })
}

fn wait_until(timeout: Duration, condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn path_error(action: &'static str, path: &Path, errno: Errno) -> MountError {
    MountError::Path { action, path: path.to_path_buf(), errno }
}

/// What a look at the mount table says about a guarded directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Both mounts are where they belong.
    Complete,
    /// Somebody unmounted one of them; the superblock lives.
    Incomplete,
    /// No mount of it is left here.
    Gone,
}

impl Mounted {
    /// Returns whether the superblock is gone and nobody answers any more.
    pub(crate) fn is_finished(&self) -> bool {
        self.session.is_finished()
    }

    /// Begins to watch for foreign edits, after a takeover; a new mount does so by itself.
    pub(crate) fn watch(&self) {
        self.session.watch();
    }

    /// Returns the account that pays for it.
    pub(crate) fn account(&self) -> Option<&Arc<Account>> {
        self.session.account()
    }

    /// Returns the subvolume that its directory is, if it is one.
    pub(crate) fn subvolume(&self) -> Result<Subvolume, KernelQuotaError> {
        Subvolume::at(self.readable.as_fd())
    }

    /// As [`Session::set_kernel_quota`].
    pub(crate) fn set_kernel_quota(&self, subvolume: Option<Subvolume>) {
        self.session.set_kernel_quota(subvolume);
    }

    /// As [`Session::kernel_quota`].
    pub(crate) fn kernel_quota(&self) -> Option<Arc<Subvolume>> {
        self.session.kernel_quota()
    }

    /// As [`Session::measure_kernel_use`].
    pub(crate) fn measure_kernel_use(&self) {
        self.session.measure_kernel_use();
    }

    /// As [`Session::unseen_writers`].
    pub(crate) fn unseen_writers(&self) -> usize {
        self.session.unseen_writers()
    }

    /// Returns how full its filesystem is. May hang as long as that filesystem does.
    pub(crate) fn host_space(&self) -> Result<HostSpace, Errno> {
        self.session.host_space()
    }

    /// Returns what it uses if that is known exactly: bytes and inodes. For the end, when everything is synced.
    pub(crate) fn final_usage(&self) -> Option<(u64, u64)> {
        self.session.final_usage()
    }

    /// Returns how its bytes are counted.
    pub(crate) fn accounting(&self) -> Accounting {
        self.session.accounting()
    }

    /// Returns what the last count found, if it was counted since this worker serves it.
    pub(crate) fn last_recount(&self) -> Option<LastRecount> {
        self.session.last_recount()
    }

    /// As [`Session::ask_recount`].
    pub(crate) fn ask_recount(&self) {
        self.session.ask_recount();
    }

    /// Returns the counts since the last call that found a difference which nothing explains.
    pub(crate) fn take_surprises(&self) -> Vec<LastRecount> {
        self.session.take_surprises()
    }

    /// As [`Session::take_refused`].
    pub(crate) fn take_refused(&self) -> (Vec<(Refused, Option<PathBuf>)>, u64) {
        self.session.take_refused()
    }

    /// Returns its session, for what is done to it from inside and for its past.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Counts it now; takes seconds for a million files.
    pub(crate) fn recount(&self) -> Result<Recounted, String> {
        self.session.recount()
    }

    /// Returns its superblock's number.
    pub(crate) fn device(&self) -> DeviceNumber {
        self.device
    }

    /// Returns the root of its mount at the root-owned place, to make clones of.
    ///
    /// Whoever holds it makes the mount busy.
    pub(crate) fn mount_root(&self) -> Result<OwnedFd, MountError> {
        let place = Place::open(&self.source)?;
        let root = place.open_top()?;
        if device_of(root.as_fd())? != self.device {
            return Err(MountError::Covered { path: place.path });
        }
        Ok(root)
    }

    /// Returns what the session counts.
    pub(crate) fn stats(&self) -> SessionStats {
        self.session.stats()
    }

    /// Returns how data flows.
    pub(crate) fn data_path(&self) -> DataPath {
        self.session.data_path()
    }

    /// Returns how foreign edits are found.
    pub(crate) fn coherence(&self) -> Coherence {
        self.session.coherence()
    }

    /// Returns when it was mounted.
    pub(crate) fn mounted_at(&self) -> Timestamp {
        self.mounted_at
    }

    /// Returns which directory it is.
    pub(crate) fn identity(&self) -> &DirectoryIdentity {
        &self.identity
    }

    /// Returns what the backing filesystem is and can do, with its sizes as of the last [`Self::refresh`].
    pub(crate) fn backing(&self) -> BackingInfo {
        self.backing.lock().clone()
    }

    /// Asks the backing filesystem for its sizes. May hang as long as that filesystem does.
    pub(crate) fn refresh(&self) {
        let mut info = self.backing();
        if let Err(errno) = abilities::refresh_space(self.readable.as_fd(), &mut info) {
            warn!(path = %self.mount_point.display(), errno = errno.raw_os_error(), "backing filesystem does not tell its size");
        }
        *self.backing.lock() = info;
    }

    /// Returns a descriptor of the plain directory, open for reading.
    pub(crate) fn plain_directory(&self) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&self.readable, 3)
    }

    /// Waits until everything written so far is on disk.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(&self.readable)
    }

    /// Looks whether both mounts are there and on top.
    pub(crate) fn presence(&self, table: &MountTable) -> Presence {
        let is_here = |path: &Path| table.top_at(path).is_some_and(|top| top.device == self.device);
        match (is_here(&self.mount_point), is_here(&self.source)) {
            (true, true) => Presence::Complete,
            _ if table.of_device(self.device).next().is_none() => Presence::Gone,
            _ => Presence::Incomplete,
        }
    }

    /// Puts back what somebody unmounted, from the mount that is left.
    pub(crate) fn complete(&self, table: &MountTable) -> Result<(), MountError> {
        for missing in [&self.source, &self.mount_point] {
            if table.of_device(self.device).any(|entry| entry.mount_point == *missing) {
                continue;
            }
            let Some(left) = table.of_device(self.device).next() else { return Ok(()) };
            let left = Place::open(&left.mount_point)?;
            let clone = clone_detached(left.open_top()?.as_fd())
                .map_err(|errno| path_error("clone the mount at", &left.path, errno))?;
            attach(clone.as_fd(), &Place::open(missing)?)?;
            warn!(path = %missing.display(), "mount was taken away by somebody and is back");
        }
        Ok(())
    }

    /// Waits for the session's end and lets the keeper forget it.
    ///
    /// Only after [`Self::is_finished`]; earlier it would wait for whoever holds the superblock.
    pub(crate) fn finish(self, link: &KeeperLink) -> Result<(), SessionError> {
        let result = self.session.join();
        close(link, self.keeper_session);
        result
    }
}
