//! What of history survives a power cut, and when.
//!
//! Entries are ordered by the filesystem's journal (see [`crate::snapshot::ring`]). Copied bytes are not: they are
//! written back once a second, long before the kernel does so with what was written over them, and at once where a
//! change may be on the disk sooner.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Affected, History};
use crate::snapshot::record::{Actor, Cause, Change, Entry, ObjectId, Origin};
use crate::snapshot::ring;
use crate::snapshot::sequence::Epoch;
use crate::snapshot::store::Store;
use crate::snapshot::touched::Touched;
use crate::snapshot::undo_log::{self, UndoLog};
use crate::sys::writeback::{begin_write_out, write_out};

/// The ring holds less, in entries that were appended one after the other.
const BRIDGED_BYTES: u64 = 4 << 20;
/// More objects are not made durable one by one.
const MAX_SINGLE: usize = 64;
/// How long after an fsync(2) btrfs keeps what was synchronised apart from the rest; it commits every 30 s.
const OVERTAKING_NS: i64 = 35_000_000_000;

/// See the module.
pub(super) struct Durable {
    /// What is preserved is durable before the change is made.
    is_strict: AtomicBool,
    /// Who is making all of the filesystem durable.
    syncing: AtomicU32,
    /// Copies that a power cut may still take.
    unsynced: Mutex<FxHashSet<ObjectId>>,
    /// Before which everything that was copied is on the disk. Held by who sees to that.
    until: Mutex<(Epoch, i64)>,
    /// The same when this began.
    found: (Epoch, i64),
    /// What workers before this one copied is on the disk.
    has_settled: AtomicBool,
    /// See [`UndoLog::may_be_overtaken`].
    may_be_overtaken: bool,
    /// When something of the workspace was synchronised last, if that matters; nanoseconds since 1970.
    fsynced_ns: AtomicI64,
}

impl Durable {
    /// Goes on with the store at the beginning of `epoch`.
    pub(super) fn begin(store: &Store, log: &UndoLog, epoch: Epoch, now: i64) -> Result<Self, Errno> {
        let found = match store.synced_until()? {
            Some(found) => found,
            None => {
                store.mark_synced((epoch, now), (epoch, now))?;
                (epoch, now)
            }
        };
        Ok(Self {
            is_strict: AtomicBool::new(false),
            syncing: AtomicU32::new(0),
            unsynced: Mutex::default(),
            until: Mutex::new(found),
            found,
            has_settled: AtomicBool::new(false),
            may_be_overtaken: log.may_be_overtaken(),
            // Perhaps under a worker before this one.
            fsynced_ns: AtomicI64::new(now),
        })
    }
}

/// Something is being made durable, until this is dropped: what is preserved meanwhile is made so at once.
pub(crate) struct Syncing<'a>(&'a AtomicU32);

impl<'a> Syncing<'a> {
    fn begin(who: &'a AtomicU32) -> Self {
        who.fetch_add(1, Ordering::SeqCst);
        Self(who)
    }
}

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl History {
    /// Returns entries that a power cut took from the log and left in the ring, in their order.
    pub(super) fn lost_entries(
        store: &Store,
        log: &OwnedFd,
        ring_dir: &OwnedFd,
    ) -> Result<Vec<Entry>, Errno> {
        // A process that dies takes nothing from the log.
        if !store.is_of_another_boot()? {
            return Ok(Vec::new());
        }
        let noted = ring::read(ring_dir)?;
        if noted.is_empty() {
            return Ok(noted);
        }
        let known = undo_log::recent(log.try_clone().map_err(|_| Errno::MFILE)?, BRIDGED_BYTES)?;
        let lost = ring::missing(&known, &noted).to_vec();
        if !lost.is_empty() {
            tracing::info!(entries = lost.len(), "history log has lost its end, which is put back");
        }
        Ok(lost)
    }

    /// Notes that an object was never made: the change that an entry announced was not.
    pub(crate) fn note_never_taken(&self, object: ObjectId) {
        let entered = self.epochs.enter();
        self.note(&entered, Actor::default(), Cause::History, vec![Change::NotTaken { object }]);
    }

    /// Returns the epoch and the time before which all copies were on the disk when this began.
    pub(crate) fn was_synced_until(&self) -> (Epoch, i64) {
        self.durable.found
    }

    /// Sets whether what is preserved is made durable before each change, so that no power cut takes anything from a
    /// durable snapshot. Each change that has to be noted then waits for the disk.
    pub(crate) fn set_strict(&self, is_strict: bool) {
        self.durable.is_strict.store(is_strict, Ordering::Release);
    }

    /// Makes what was preserved of a file durable, before the file itself is made so while the result is held: after a
    /// power cut there must be no new bytes on the disk whose old ones are not.
    pub(crate) fn sync_before<'a>(&self, touched: &'a Touched) -> Syncing<'a> {
        let syncing = Syncing::begin(&touched.syncing);
        self.note_fsync();
        self.sync_touched(touched);
        syncing
    }

    fn sync_touched(&self, touched: &Touched) {
        let objects = std::mem::take(&mut *touched.unsynced.lock());
        for object in objects {
            if let Err(errno) = self.sync_object(object) {
                tracing::warn!(object = object.0, %errno, "preserved bytes may not survive a power cut");
            }
        }
        self.sync_log_before();
    }

    fn sync_object(&self, object: ObjectId) -> Result<(), Errno> {
        match self.store.open_object(object, OFlags::RDONLY) {
            Ok(object) => rustix::fs::fdatasync(object),
            // Given up meanwhile.
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Makes the log durable before a directory is made so.
    pub(crate) fn sync_before_directory(&self) {
        self.note_fsync();
        self.sync_log_before();
    }

    fn note_fsync(&self) {
        if self.durable.may_be_overtaken {
            self.durable.fsynced_ns.fetch_max(self.clock(), Ordering::AcqRel);
        }
    }

    /// Whether a change of names may be on the disk as soon as anything is synchronised, before what the journal has.
    fn is_overtaken(&self, entry: &Entry) -> bool {
        self.durable.may_be_overtaken
            && entry.time_ns.saturating_sub(self.durable.fsynced_ns.load(Ordering::Acquire)) < OVERTAKING_NS
            && entry.changes.iter().any(|change| matches!(change, Change::Name { .. }))
    }

    /// Makes the log durable before anything of the filesystem's is made so: what is synchronised takes with it the names
    /// and attributes that others changed.
    pub(crate) fn sync_log_before(&self) {
        if let Err(errno) = self.log.sync() {
            tracing::warn!(%errno, "history may not survive a power cut");
        }
    }

    /// Makes everything that was preserved durable, before all of the filesystem is made so while the result is held.
    pub(crate) fn sync_all_before(&self) -> Syncing<'_> {
        let syncing = Syncing::begin(&self.durable.syncing);
        self.sync_copies();
        syncing
    }

    /// Makes durable what was preserved up to now. Called once a second: the kernel writes back what was written over it
    /// after five at the earliest.
    pub(crate) fn sync_soon(&self) {
        if self.durable.has_settled.load(Ordering::Acquire) {
            self.sync_copies();
            return;
        }
        // What workers before this one copied is not known.
        let time = (self.epoch(), self.clock());
        let syncing = self.sync_all_before();
        let settled = self.store.sync_all();
        drop(syncing);
        match settled.and_then(|()| self.note_synced(&mut self.durable.until.lock(), time)) {
            Ok(()) => self.durable.has_settled.store(true, Ordering::Release),
            Err(errno) => tracing::warn!(%errno, "preserved bytes may not survive a power cut"),
        }
    }

    fn sync_copies(&self) {
        let mut until = self.durable.until.lock();
        // Whatever is noted with an earlier time was copied before, and is among what is taken here.
        let time = (self.epoch(), self.clock());
        let objects = std::mem::take(&mut *self.durable.unsynced.lock());
        self.sync_log_before();
        if objects.is_empty() {
            return;
        }
        let synced = self.sync_objects(&objects).and_then(|()| {
            let has_settled = self.durable.has_settled.load(Ordering::Acquire);
            if has_settled { self.note_synced(&mut until, time) } else { Ok(()) }
        });
        if let Err(errno) = synced {
            tracing::warn!(%errno, objects = objects.len(), "preserved bytes may not survive a power cut");
            self.durable.unsynced.lock().extend(objects);
        }
    }

    fn note_synced(&self, until: &mut (Epoch, i64), time: (Epoch, i64)) -> Result<(), Errno> {
        if time > *until {
            self.store.mark_synced(*until, time)?;
            *until = time;
        }
        Ok(())
    }

    fn sync_objects(&self, objects: &FxHashSet<ObjectId>) -> Result<(), Errno> {
        let open = |object: &ObjectId| match self.store.open_object(*object, OFlags::RDONLY) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        };
        for object in objects {
            if let Some(file) = open(object)? {
                begin_write_out(file.as_fd())?;
            }
        }
        if objects.len() <= MAX_SINGLE {
            return objects.iter().try_for_each(|object| self.sync_object(*object));
        }
        for object in objects {
            if let Some(file) = open(object)? {
                write_out(file.as_fd())?;
            }
        }
        // Their sizes and where their blocks are.
        if self.log.commit_names()? { Ok(()) } else { self.store.sync_all() }
    }

    /// Remembers what was preserved of a file and is not on the disk. Called once it was copied, before the time of its
    /// entry is taken.
    pub(super) fn note_unsynced(&self, touched: &Touched, changes: &[Change]) {
        touched.unsynced.lock().extend(objects_of(changes, Origin::Cloned));
        let copied = || objects_of(changes, Origin::Copied);
        touched.unsynced.lock().extend(copied());
        self.durable.unsynced.lock().extend(copied());
    }

    /// A change that gives blocks back to the filesystem is one of names and attributes: what was copied of them must be
    /// on the disk before the journal is, which its bytes alone are quickly.
    pub(super) fn order_bytes(
        &self,
        affected: Affected,
        cause: Cause,
        changes: &[Change],
    ) -> Result<(), Errno> {
        let frees = match affected {
            Affected::Range { .. } => false,
            Affected::Freed { .. } => true,
            Affected::From(_) => cause != Cause::Map,
        };
        if !frees {
            return Ok(());
        }
        for object in objects_of(changes, Origin::Copied) {
            write_out(self.store.open_object(object, OFlags::RDONLY)?.as_fd())?;
        }
        Ok(())
    }

    /// After a file's bytes were preserved and that was noted: if somebody makes the file durable just now, what is
    /// written next may be so at once. They look for what was preserved after they have said so.
    pub(super) fn keep_up(&self, touched: &Touched) {
        let is_syncing = |who: &AtomicU32| who.load(Ordering::SeqCst) > 0;
        if is_syncing(&touched.syncing) || is_syncing(&self.durable.syncing) {
            self.sync_touched(touched);
        }
    }

    /// Appends an entry; in strict mode it is durable then. What was copied for it is before it is noted: an entry on the disk
    /// whose bytes are not there hides what is still in the file.
    pub(super) fn append_durably(&self, entry: &Entry) -> Result<(), Errno> {
        if !self.durable.is_strict.load(Ordering::Acquire) {
            self.log.append(entry)?;
            if self.is_overtaken(entry) {
                self.sync_log_before();
            }
            return Ok(());
        }
        for origin in [Origin::Cloned, Origin::Copied] {
            for object in objects_of(&entry.changes, origin) {
                rustix::fs::fsync(self.store.open_object(object, OFlags::RDONLY)?)?;
            }
        }
        self.log.append(entry)?;
        self.log.sync()
    }
}

/// Returns the objects of one origin, each once where they follow each other.
fn objects_of(changes: &[Change], wanted: Origin) -> impl Iterator<Item = ObjectId> + '_ {
    let mut last = None;
    changes.iter().filter_map(move |change| match change {
        Change::Content { object, origin, .. } if *origin == wanted && last != Some(*object) => {
            last = Some(*object);
            last
        }
        _ => None,
    })
}
