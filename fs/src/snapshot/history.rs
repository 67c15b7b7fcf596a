//! What the filesystem calls before it changes something.
//!
//! Each call returns once how things were is preserved and noted; only then may the change be made. A failure to
//! preserve never becomes the user's: the change goes ahead, the loss is noted in the log (or, if that is what failed,
//! remembered as a gap until it can be), counted, and told.
//!
//! Called by the session's threads. A thread holds at most the content lock of one inode, and takes no other lock of the
//! filesystem under it except the charge of the same inode.

mod durable;
mod mapping;
mod step;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLockReadGuard, RwLockWriteGuard};
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use durable::Durable;
pub(crate) use durable::Syncing;
pub(crate) use step::Step;

use super::epochs::{Entered, Epochs, StillRunning};
use super::record::{Actor, Attributes, Cause, Change, Entry, ObjectId, Origin, SnapshotNote, Span};
use super::sequence::Epoch;
use super::store::{Store, StoreError, copy_range};
use super::touched::{Affected, Content, Touched, TouchedInodes, UNIT_BYTES};
use super::undo_log::{self, UndoLog};
use crate::backing::{Backing, Stat, stat_of};
use crate::sys::handle::FileHandle;

/// A file of at most this size is copied as a whole, where it cannot be cloned.
const SMALL_BYTES: u64 = 256 << 10;
/// Units that are copied at once at most while writing is sequential: 4 MiB.
const MAX_RUN: u64 = 64;
/// A file of at most this size is copied when it is opened for reading and writing, where it cannot be cloned.
const MAX_MAPPED_BYTES: u64 = 64 << 20;
/// How long the end of an epoch waits for operations of the one before it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much of the log is looked at for what a worker that died had not carried out, and how many deletions in it: the
/// last one of each thread, and many more. Callers wait meanwhile.
const RECENT_BYTES: u64 = 256 << 10;
const RECENT_DELETIONS: usize = 256;
/// Directories that are told apart at most in one epoch.
const MAX_TOLD: usize = 4096;
/// A clock that is read coarsely lags by so much at most, nanoseconds.
const TICK_NS: i64 = 10_000_000;

/// Numbers for `status`.
#[derive(Default)]
pub(crate) struct HistoryCounters {
    /// Files that were copied or cloned, or of which parts were.
    pub(crate) preserved: AtomicU64,
    /// Bytes that were copied.
    pub(crate) copied_bytes: AtomicU64,
    /// Inodes that were moved into the store.
    pub(crate) taken: AtomicU64,
    /// Changes whose pre-image is lost: no space, or a failing disk.
    pub(crate) lost: AtomicU64,
}

/// Why room is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Shortage {
    /// What was left free when the disk was last looked at may be used up by what was kept since.
    Near,
    /// The disk is full.
    Full,
}

/// Makes room in the store; returns whether it has.
pub(crate) type Pressure = Box<dyn Fn(Shortage) -> bool + Send + Sync>;

/// See the module.
pub(crate) struct History {
    /// The one in which this began.
    first: Epoch,
    epochs: Epochs,
    log: UndoLog,
    store: Store,
    inodes: TouchedInodes,
    /// Inodes that are open for reading and writing.
    mapped: Mutex<FxHashMap<u64, Arc<Touched>>>,
    /// An inode that was made after this is in no snapshot.
    born_after_ns: AtomicI64,
    latest_ns: AtomicI64,
    next_object: AtomicU64,
    /// Something changed that the log does not have.
    has_gap: AtomicBool,
    durable: Durable,
    /// Directories of which it is noted that they were changed outside, and in which epoch.
    told_outside: Mutex<(Epoch, FxHashSet<FileHandle>)>,
    pressure: OnceLock<Pressure>,
    settle: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// Bytes that may still be kept before somebody looks at how full the disk is.
    room: AtomicU64,
    pub(crate) counters: HistoryCounters,
    root: FileHandle,
}

/// Why history cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// The store is of no use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log is of no use.
    #[error("cannot {action} the undo log")]
    Log {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// The end of an epoch: a moment that can be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct EpochEnded {
    /// The epoch.
    pub(crate) epoch: Epoch,
    /// By the clock, nanoseconds since 1970.
    pub(crate) time_ns: i64,
}

/// Leave to change a file's bytes, until it is dropped.
pub(crate) struct Permit<'a> {
    _content: RwLockReadGuard<'a, Content>,
    _entered: Entered<'a>,
}

impl History {
    /// Goes on with the history in `dir`, which lies on the filesystem of `backing`: a new epoch begins, in which
    /// nothing is preserved yet.
    ///
    /// # Errors
    /// See [`HistoryError`].
    pub(crate) fn begin(dir: BorrowedFd<'_>, backing: &Backing) -> Result<Self, HistoryError> {
        let failed = |action| move |source| HistoryError::Log { action, source };
        let store = Store::open(dir, backing.readable())?;
        let log_dir = || store.directory("log").map_err(failed("find"));
        let ring = || store.directory("ring").map_err(failed("find the ring of"));
        let lost = Self::lost_entries(&store, &log_dir()?, &ring()?).map_err(failed("complete"))?;
        let mut recent = undo_log::recent(log_dir()?, RECENT_BYTES).map_err(failed("read"))?;
        recent.extend(lost.iter().cloned());
        // Entries that are behind have at most one epoch to go.
        let noted = recent.iter().map(|entry| entry.at.epoch()).max();
        let last = undo_log::last_segment(&log_dir()?).map_err(failed("read"))?;
        // A power cut may have taken the end of the log, but not the mark of an epoch in which objects were made.
        let marked = store.last_epoch().map_err(failed("find the last epoch of"))?;
        let epoch = noted.max(last).max(marked).unwrap_or(Epoch(0)).next();
        store.mark_epoch(marked.unwrap_or(Epoch(0)), epoch).map_err(failed("note the epoch of"))?;
        let mut log = UndoLog::begin(log_dir()?, epoch).map_err(failed("begin a segment of"))?;
        for entry in &lost {
            log.append(entry).map_err(failed("complete"))?;
        }
        // The ring has them until the log does.
        if !lost.is_empty() {
            log.sync().map_err(failed("synchronise"))?;
        }
        if !log.bridge(ring()?).map_err(failed("begin a ring for"))? {
            tracing::info!(
                "a power cut may keep a change of the last second without its note: this filesystem keeps no order"
            );
        }
        let now = precise_now_ns();
        let durable = Durable::begin(&store, &log, epoch, now).map_err(failed("note what is durable of"))?;
        let history = Self {
            first: epoch,
            epochs: Epochs::new(epoch),
            log,
            store,
            inodes: TouchedInodes::new(),
            mapped: Mutex::default(),
            born_after_ns: AtomicI64::new(now),
            latest_ns: AtomicI64::new(now),
            next_object: AtomicU64::new(0),
            has_gap: AtomicBool::new(false),
            durable,
            told_outside: Mutex::new((epoch, FxHashSet::default())),
            pressure: OnceLock::new(),
            settle: OnceLock::new(),
            room: AtomicU64::new(u64::MAX),
            counters: HistoryCounters::default(),
            root: backing.root_handle(),
        };
        history.revise(backing, &recent);
        Ok(history)
    }

    /// Finds out which of the last deletions that the log tells of never happened, because the worker died before.
    fn revise(&self, backing: &Backing, recent: &[Entry]) {
        let settled: FxHashSet<ObjectId> = recent
            .iter()
            .flat_map(|entry| &entry.changes)
            .filter_map(|change| match change {
                Change::NotTaken { object } | Change::PutBack { object } => Some(*object),
                _ => None,
            })
            .collect();
        let is_taking = |entry: &&Entry| {
            let takes = |change: &Change| matches!(change, Change::Content { origin: Origin::TakenAway, .. });
            entry.changes.iter().any(takes)
        };
        for entry in recent.iter().rev().filter(is_taking).take(RECENT_DELETIONS) {
            for change in &entry.changes {
                let Change::Content { inode, object, origin: Origin::TakenAway, .. } = change else {
                    continue;
                };
                if settled.contains(object) || self.is_taken(backing, entry, *inode, *object) {
                    continue;
                }
                let entered = self.epochs.enter();
                let change = Change::NotTaken { object: *object };
                self.note(&entered, entry.actor, Cause::History, vec![change]);
            }
        }
    }

    /// Whether an object is in the store, and there alone. One that was linked there while its name was not replaced any
    /// more is removed.
    fn is_taken(&self, backing: &Backing, entry: &Entry, inode: FileHandle, object: ObjectId) -> bool {
        let Ok(file) = self.store.open_object(object, OFlags::PATH) else { return false };
        let is_linked = stat_of(file.as_fd()).is_ok_and(|stat| stat.stx_nlink > 1);
        let is_still_named = is_linked
            && entry.changes.iter().any(|change| match change {
                Change::Name { parent, name, before: Some(before) } if before.inode == inode => {
                    let dir = backing.path_fd(parent);
                    let child = dir.and_then(|dir| backing.child(dir.as_fd(), OsStr::from_bytes(name)));
                    child.is_ok_and(|child| child.handle == inode)
                }
                _ => false,
            });
        if is_still_named {
            self.store.discard(object);
        }
        !is_still_named
    }

    /// Returns the objects.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the log.
    pub(crate) fn log(&self) -> &UndoLog {
        &self.log
    }

    /// Returns the running epoch.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epochs.current()
    }

    /// Returns the epoch in which this began; what was noted before is of workers before this one.
    pub(crate) fn first_epoch(&self) -> Epoch {
        self.first
    }

    /// Whether anything was noted in the running epoch.
    pub(crate) fn is_dirty(&self) -> bool {
        self.epochs.moments() > 0
    }

    /// Goes on behind an epoch that the catalog knows although the log does not.
    ///
    /// # Errors
    /// See [`StillRunning`].
    pub(crate) fn skip_behind(&self, epoch: Epoch) -> Result<(), StillRunning> {
        self.epochs.skip_behind(epoch, PATIENCE)
    }

    /// Sets what makes room when the filesystem is full; the first call counts.
    pub(crate) fn set_pressure(&self, pressure: Pressure) {
        drop(self.pressure.set(pressure));
    }

    /// Begins an operation that changes names or attributes.
    pub(crate) fn step(&self, actor: Actor, cause: Cause) -> Step<'_> {
        let entered = self.epochs.enter();
        Step { history: self, entered, actor, cause, changes: Vec::new(), notes: Vec::new() }
    }

    /// Returns what is known of an inode.
    pub(crate) fn touched(&self, node: u64, handle: FileHandle) -> Arc<Touched> {
        self.inodes.get(node, handle)
    }

    /// Whether an inode was made in the running epoch, so that no snapshot has it. In doubt it was not.
    pub(crate) fn is_newborn(&self, stat: &Stat) -> bool {
        let born = born_ns(stat);
        born > self.born_after_ns.load(Ordering::Acquire) && born <= now_ns().saturating_add(TICK_NS)
    }

    /// Preserves what is about to be overwritten or cut off. The change may be made while the permit is held.
    pub(crate) fn before_content<'a>(
        &'a self,
        touched: &'a Touched,
        backing: &Backing,
        affected: Affected,
        actor: Actor,
        cause: Cause,
    ) -> Permit<'a> {
        let entered = self.epochs.enter();
        let content = touched.content.read();
        if content.is_preserved(entered.epoch(), affected) {
            return Permit { _content: content, _entered: entered };
        }
        drop(content);
        let entered = if self.room.load(Ordering::Relaxed) == 0 {
            drop(entered);
            self.yield_in_time();
            self.epochs.enter()
        } else {
            entered
        };
        let mut content = touched.content.write();
        if !content.is_preserved(entered.epoch(), affected) {
            let preserved = self.preserve(touched, &mut content, backing, affected, &entered, (actor, cause));
            if let Err(errno) = preserved {
                self.lose(touched, &mut content, &entered, actor, errno);
            }
        }
        Permit { _content: RwLockWriteGuard::downgrade(content), _entered: entered }
    }

    /// Somebody changed a file, or the names in a directory, below the mount. Noted once an epoch for each directory, and for the
    /// root alone where they are too many.
    pub(crate) fn changed_outside(&self, dir: FileHandle) {
        let entered = self.epochs.enter();
        let mut told = self.told_outside.lock();
        if told.0 != entered.epoch() {
            *told = (entered.epoch(), FxHashSet::default());
        }
        let inode = if told.1.len() < MAX_TOLD { dir } else { self.root };
        let is_new = told.1.insert(inode);
        drop(told);
        if is_new {
            let change = Change::ChangedOutside { inode, name: None };
            self.note(&entered, Actor::default(), Cause::Outside, vec![change]);
        }
    }

    /// Makes room in the store; returns whether it has.
    pub(crate) fn make_room(&self, shortage: Shortage) -> bool {
        self.pressure.get().is_some_and(|make| make(shortage))
    }

    /// Tells how many bytes may be kept before [`Self::yield_in_time`] asks for room.
    pub(crate) fn set_room(&self, bytes: u64) {
        self.room.store(bytes, Ordering::Relaxed);
    }

    /// Waits until history has given way if the disk may be nearly full. Stores through a mapping ask nobody: on a full
    /// disk they end in SIGBUS, and without history it would not be full. Called before an epoch is entered, or what was
    /// done in it could not be given up. Whether there is room or not, the operation goes on.
    pub(crate) fn yield_in_time(&self) {
        if self.room.load(Ordering::Relaxed) == 0 && !self.make_room(Shortage::Near) {
            tracing::debug!("history could not give way in time");
        }
    }

    /// Notes that bytes are kept which would be free without history.
    pub(crate) fn use_room(&self, bytes: u64) {
        let used = |room: u64| (room < u64::MAX).then(|| room.saturating_sub(bytes));
        // Nothing changes as long as nobody has looked at the disk.
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, used) == Ok(0) {
            tracing::trace!(bytes, "kept although the disk may be nearly full");
        }
    }

    /// Whether an inode was made less than `age` ago, by the clock.
    pub(crate) fn is_younger(&self, stat: &Stat, age: Duration) -> bool {
        let limit = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
        now_ns().saturating_sub(born_ns(stat)) < limit
    }

    /// Ends the running epoch: the moment can be shown from now on.
    ///
    /// # Errors
    /// See [`StillRunning`]; `EIO` and others as an append to the log.
    pub(crate) fn end_epoch(
        &self,
        backing: &Backing,
        actor: Actor,
        snapshot: Option<SnapshotNote>,
    ) -> Result<EpochEnded, EndError> {
        if let Some(settle) = self.settle.get() {
            settle();
        }
        let running = self.epoch();
        self.store.mark_epoch(running, running.next())?;
        let before = self.born_after_ns.swap(i64::MAX, Ordering::AcqRel);
        let epoch = self.epochs.end(PATIENCE).inspect_err(|_| {
            self.born_after_ns.store(before, Ordering::Release);
        })?;
        self.epochs.drain(epoch, PATIENCE)?;
        // After the last operation: whatever has a later ctime was changed in the next epoch, or past us. By the precise
        // clock: inodes may have times that the coarse one has not reached (multigrain timestamps, Linux 6.13), and a
        // file that seems to be made after the snapshot would not be kept.
        let time_ns = self.latest_ns.fetch_max(precise_now_ns(), Ordering::AcqRel).max(precise_now_ns());
        self.born_after_ns.store(time_ns, Ordering::Release);
        self.log.append(&Entry::epoch_end(epoch, time_ns, actor, snapshot))?;
        self.preserve_mapped(backing, epoch);
        if let Err(errno) = self.log.rotate(epoch.next()) {
            tracing::warn!(%errno, "history log goes on in its segment");
        }
        Ok(EpochEnded { epoch, time_ns })
    }

    fn preserve(
        &self,
        touched: &Touched,
        content: &mut Content,
        backing: &Backing,
        affected: Affected,
        entered: &Entered<'_>,
        (actor, cause): (Actor, Cause),
    ) -> Result<(), Errno> {
        // A later epoch has touched it already: this operation is taken as one of that epoch.
        let epoch = entered.epoch().max(content.epoch);
        let mut changes = Vec::new();
        if content.epoch < epoch {
            let stat = stat_of(backing.path_fd(&touched.handle)?.as_fd())?;
            if !self.is_newborn(&stat) {
                // Perhaps once more: the catalog takes size and blocks of a whole object from its own entry.
                self.note_attributes(touched, epoch, &stat, &mut changes);
            }
            *content = Content {
                epoch,
                is_whole: stat.stx_size == 0 || self.is_newborn(&stat),
                size: stat.stx_size,
                units: Default::default(),
                object: None,
                run: (0, 1),
            };
        }
        let missing = affected.units(content.size);
        if !content.is_whole && missing.clone().any(|unit| !content.units.contains(unit)) {
            self.preserve_bytes(touched, content, backing, missing, &mut changes)?;
            self.note_unsynced(touched, &changes);
            self.order_bytes(affected, cause, &changes)?;
        }
        if !changes.is_empty() {
            let moment = self.epochs.moment(epoch);
            self.append(Entry { at: moment, time_ns: self.clock(), actor, cause, changes })?;
            self.keep_up(touched);
        }
        touched.note_attributes(epoch);
        Ok(())
    }

    /// Adds the attributes of an inode, and that it was changed outside if its ctime says so.
    fn note_attributes(&self, touched: &Touched, epoch: Epoch, stat: &Stat, changes: &mut Vec<Change>) {
        let before = attributes_of(stat);
        let is_first = !touched.has_attributes(epoch);
        let inode = touched.handle;
        changes.push(Change::Attributes { inode, before });
        // Nothing that goes through the mount has touched it in this epoch.
        let ended = self.born_after_ns.load(Ordering::Acquire);
        let is_first = is_first && touched.mapped_since.lock().is_none();
        if is_first && ended < i64::MAX && before.changed_ns > ended.saturating_add(TICK_NS) {
            changes.push(Change::ChangedOutside { inode, name: None });
        }
    }

    fn preserve_bytes(
        &self,
        touched: &Touched,
        content: &mut Content,
        backing: &Backing,
        missing: std::ops::Range<u64>,
        changes: &mut Vec<Change>,
    ) -> Result<(), Errno> {
        let file = backing.open(&touched.handle, OFlags::RDONLY | OFlags::NONBLOCK)?;
        self.counters.preserved.fetch_add(1, Ordering::Relaxed);
        let inode = touched.handle;
        if self.store.can_clone() && content.units.is_empty() {
            let object = self.new_object();
            match self.store.clone_file(file.as_fd(), object) {
                Ok(()) => {
                    self.use_room((missing.end - missing.start).saturating_mul(UNIT_BYTES));
                    let (span, origin) = (Span::Whole, Origin::Cloned);
                    changes.push(Change::Content { inode, object, span, origin, hash: None });
                    content.is_whole = true;
                    return Ok(());
                }
                // A file whose blocks cannot be shared (btrfs with nodatacow), or the disk is full: copied instead.
                Err(errno) => tracing::debug!(%errno, "file cannot be cloned; what changes is copied"),
            }
        }
        let object = *content.object.get_or_insert_with(|| self.new_object());
        let copy = self.store.create(object)?;
        if content.size <= SMALL_BYTES {
            let copied = self.with_room(|| copy_range(file.as_fd(), copy.as_fd(), 0, content.size))?;
            // As long as the file, also where it ends in a hole.
            rustix::fs::ftruncate(&copy, content.size)?;
            self.note_copied(copied.length);
            let (span, origin) = (Span::Whole, Origin::Copied);
            changes.push(Change::Content { inode, object, span, origin, hash: copied.hash });
            content.is_whole = true;
            return Ok(());
        }
        let end = content.size.div_ceil(UNIT_BYTES);
        let mut unit = missing.start;
        while unit < missing.end {
            if content.units.contains(unit) {
                unit += 1;
                continue;
            }
            let (expected, last) = content.run;
            let wanted = if unit == expected { (last * 2).min(MAX_RUN) } else { 1 };
            let wanted = wanted.max((missing.end - unit).min(MAX_RUN));
            let run =
                (unit..end.min(unit + wanted)).take_while(|unit| !content.units.contains(*unit)).count();
            let run = run as u64;
            let offset = unit * UNIT_BYTES;
            let length = (run * UNIT_BYTES).min(content.size - offset);
            let copied = self.with_room(|| copy_range(file.as_fd(), copy.as_fd(), offset, length))?;
            self.note_copied(copied.length);
            let (span, origin) = (Span::Range { offset, length }, Origin::Copied);
            changes.push(Change::Content { inode, object, span, origin, hash: copied.hash });
            content.units.extend(std::iter::once(unit..=unit + run - 1));
            unit += run;
            content.run = (unit, run);
        }
        Ok(())
    }

    fn note_copied(&self, bytes: u64) {
        self.counters.copied_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.use_room(bytes);
    }

    /// Runs something that takes space in the store, again if the disk was full and room could be made.
    fn with_room<T>(&self, take: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match take() {
            Err(Errno::NOSPC | Errno::DQUOT) if self.make_room(Shortage::Full) => take(),
            result => result,
        }
    }

    /// What a file was before a change cannot be preserved; the change goes ahead.
    fn lose(
        &self,
        touched: &Touched,
        content: &mut Content,
        entered: &Entered<'_>,
        actor: Actor,
        errno: Errno,
    ) {
        tracing::error!(%errno, "what a file was before this change is not preserved");
        self.counters.lost.fetch_add(1, Ordering::Relaxed);
        // Not tried again for each write of this epoch.
        content.epoch = content.epoch.max(entered.epoch());
        content.is_whole = true;
        let change = Change::ChangedOutside { inode: touched.handle, name: None };
        self.note(entered, actor, Cause::Write, vec![change]);
    }

    fn note(&self, entered: &Entered<'_>, actor: Actor, cause: Cause, changes: Vec<Change>) {
        let at = self.epochs.moment(entered.epoch());
        let entry = Entry { at, time_ns: self.clock(), actor, cause, changes };
        // On an error the gap is remembered, counted and told by itself; the change goes ahead.
        self.append(entry).unwrap_or_default();
    }

    /// Appends an entry; a gap before it is noted with it.
    fn append(&self, mut entry: Entry) -> Result<(), Errno> {
        let had_gap = self.has_gap.swap(false, Ordering::AcqRel);
        if had_gap {
            entry.changes.push(Change::ChangedOutside { inode: self.root, name: None });
        }
        self.append_durably(&entry).inspect_err(|errno| {
            if !self.has_gap.swap(true, Ordering::AcqRel) && !had_gap {
                tracing::error!(%errno, "changes are not noted: snapshots from before may show things as they are now");
            }
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn new_object(&self) -> ObjectId {
        let number = self.next_object.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff;
        ObjectId((u64::from(self.epoch().0) << 32) | number)
    }

    /// Returns the time, which is remembered: a file that seems to be made after all times that were seen is new.
    fn clock(&self) -> i64 {
        let now = now_ns();
        self.latest_ns.fetch_max(now, Ordering::AcqRel).max(now)
    }
}

/// Why an epoch could not be ended, or not be shown to be complete.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndError {
    /// Operations hang.
    #[error(transparent)]
    StillRunning(#[from] StillRunning),
    /// The log cannot be written.
    #[error("cannot note the end of an epoch")]
    Log(#[from] Errno),
}

/// Returns attributes as history keeps them.
pub(crate) fn attributes_of(stat: &Stat) -> Attributes {
    let nanoseconds = |time: &rustix::fs::StatxTimestamp| {
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
    };
    Attributes {
        ino: stat.stx_ino,
        mode: u32::from(stat.stx_mode),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        nlink: stat.stx_nlink,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        accessed_ns: nanoseconds(&stat.stx_atime),
        modified_ns: nanoseconds(&stat.stx_mtime),
        changed_ns: nanoseconds(&stat.stx_ctime),
        born_ns: born_ns(stat),
        device: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
    }
}

/// Returns when an inode was made; 0 if the filesystem does not tell.
fn born_ns(stat: &Stat) -> i64 {
    if stat.stx_mask & rustix::fs::StatxFlags::BTIME.bits() == 0 {
        return 0;
    }
    let time = &stat.stx_btime;
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

fn precise_now_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// Returns the time as filesystems see it, nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}
