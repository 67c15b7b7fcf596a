//! The filesystem itself: operations on nodes and handles, free of the FUSE crate's types.
//!
//! Guarantees: each operation has the effect and the errno that it has on the backing filesystem, except where
//! SEMANTICS.md says otherwise; new inodes belong to whom the ownership policy says; nothing here resolves a
//! path of more than one component.
//!
//! Called by the session's threads, several at once. An operation takes at most one lock at a time for a few
//! instructions (a shard of the inode table, of the open inodes or of the descriptor cache) and none across a
//! call to the kernel that can wait, except the lock of one directory stream.

mod attributes;
mod caller;
mod charged;
mod charging;
mod data;
mod directory;
mod extended_attributes;
mod kept_fd;
mod kernel_tier;
mod mapped;
mod namespace;
mod once;
mod open_files;
mod open_flags;
mod open_inodes;
mod outlived;
mod page_drop;
mod preserving;
mod reclaim;
mod recount;
mod refusals;
mod restoring;
mod snapshots_dir;
mod sweep;
mod tracking;
mod virtual_dir;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use rustix::io::Errno;

pub(crate) use attributes::{SetTime, SettableAttributes};
pub(crate) use caller::Caller;
pub(crate) use charged::Seat;
pub(crate) use data::{ReadTarget, WriteOrigin};
pub(crate) use directory::DirectoryEntry;
pub(crate) use open_files::Opened;
pub(crate) use open_inodes::DataMode;
pub use recount::Recounted;
pub(crate) use refusals::Refused;
pub(crate) use restoring::Telling;
pub(crate) use snapshots_dir::{ArchiveSource, NoArchive, PAST_HANDLE};
pub(crate) use virtual_dir::{Page, Pages, RequestLine, is_virtual};

use crate::accounting::Accounting;
use crate::backing::{Backing, Child, Stat};
use crate::fail_point::{self, Stage};
use crate::handle::HandleTable;
use crate::inode::{Inode, InodeTable, ROOT_NODE, is_past};
use crate::journal::Journal;
use crate::snapshot::History;
use crate::state::{FILES, mark};
use crate::sys::device::{FuseDevice, Invalidate};
use crate::sys::identity::Identity;
use crate::sys::shared_memory::SharedMemory;
use crate::tracker::{OutsideChange, Tracker};
use crate::watcher::{ChangeSink, OwnMutations, StartedBy, Watcher};

/// How long the kernel may trust what it was told while every foreign edit is reported to it.
const WATCHED_TTL: Duration = Duration::from_secs(3600);
/// How long while foreign edits are reported but the kernel cannot drop all names at once (before Linux 6.16): a
/// name whose report was lost may be wrong for this long.
const WATCHED_TTL_WITHOUT_EPOCH: Duration = Duration::from_secs(10);
/// How long otherwise.
const UNWATCHED_TTL: Duration = Duration::from_secs(1);

/// Who new files belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum OwnershipPolicy {
    /// As the backing filesystem does it.
    Preserve,
    /// Everything new belongs to one owner; privilege cannot be planted.
    Squash {
        /// The owner's uid.
        uid: u32,
        /// The owner's gid.
        gid: u32,
    },
}

/// See the module.
pub(crate) struct GuardFs {
    backing: Backing,
    memory: Arc<SharedMemory>,
    journal: Journal,
    table: InodeTable,
    files: HandleTable<open_files::OpenFile>,
    streams: directory::Streams,
    open_inodes: open_inodes::OpenInodes,
    outlived: outlived::Outlived,
    device: Arc<FuseDevice>,
    ownership: OwnershipPolicy,
    is_passthrough: AtomicBool,
    own_mutations: Arc<OwnMutations>,
    watcher: OnceLock<Watcher>,
    watched_ttl: OnceLock<Duration>,
    reclaim: reclaim::Reclaim,
    page_drop: page_drop::PageDrop,
    /// How bytes are counted, also where nobody pays: the history tells them.
    accounting: Accounting,
    /// `None` where nothing is counted.
    charging: Option<charging::Charging>,
    /// Inodes that are open without a name: their space comes back with their last release, which the kernel sends
    /// a moment after close(2).
    deleted_open: AtomicUsize,
    /// Changes below the mount that only a recount can book.
    foreign_edits: AtomicU64,
    tracker: Arc<Tracker>,
    /// The highest id of a backing file that this worker registered or found.
    latest_id: AtomicU32,
    sweep: sweep::Sweep,
    virtual_dir: virtual_dir::VirtualDir,
    snapshots_dir: snapshots_dir::SnapshotsDir,
    refusals: refusals::Refusals,
    /// `None` where no history is kept.
    history: Option<Arc<History>>,
    kernel_tier: kernel_tier::KernelTier,
}

/// The tables that outlive a worker.
struct Tables {
    table: InodeTable,
    files: HandleTable<open_files::OpenFile>,
    open_inodes: open_inodes::OpenInodes,
}

/// A node with its attributes, as replies carry it. The kernel's reference is already counted.
pub(crate) struct Entry {
    pub(crate) node: u64,
    pub(crate) generation: u32,
    pub(crate) stat: Stat,
    pub(crate) attribute_ttl: Duration,
    pub(crate) entry_ttl: Duration,
}

impl GuardFs {
    /// Puts a filesystem over `backing` that nobody has used yet.
    ///
    /// # Errors
    /// As [`InodeTable::create`].
    pub(crate) fn new(
        backing: Backing,
        memory: Arc<SharedMemory>,
        device: Arc<FuseDevice>,
        ownership: OwnershipPolicy,
        seat: Option<Seat>,
        tracker: Arc<Tracker>,
        pages: Pages,
        history: Option<Arc<History>>,
    ) -> Result<Self, Errno> {
        let table = InodeTable::create(memory.clone(), backing.root_handle(), backing.root_device())?;
        let files = HandleTable::new(memory.clone(), FILES, mark::FILES);
        let open_inodes = open_inodes::OpenInodes::new();
        let new = seat.clone();
        let tables = Tables { table, files, open_inodes };
        let fs = Self::over(backing, memory, device, ownership, seat, tracker, pages, history, tables);
        if let (Some(seat), Some(account)) = (new, fs.account()) {
            seat.assume(account);
        }
        Ok(fs)
    }

    /// Takes over what a worker before this one left in `memory`. Requests may come as soon as this returns.
    pub(crate) fn attach(
        backing: Backing,
        memory: Arc<SharedMemory>,
        device: Arc<FuseDevice>,
        ownership: OwnershipPolicy,
        seat: Option<Seat>,
        tracker: Arc<Tracker>,
        pages: Pages,
        history: Option<Arc<History>>,
    ) -> Self {
        let (table, registered) = InodeTable::attach(memory.clone(), backing.root_device());
        let ids: FxHashMap<u64, u32> = registered.iter().copied().collect();
        let open_inodes = open_inodes::OpenInodes::new();
        let files = HandleTable::attach(memory.clone(), FILES, mark::FILES, |remembered| {
            let id = ids.get(&remembered.node).copied().unwrap_or(0);
            open_files::OpenFile::remembered(remembered, open_inodes.restore(remembered, id))
        });
        let known: FxHashSet<u32> = ids.values().copied().collect();
        // Registered, but the last release of the inode was under way when the worker died.
        for (node, id) in registered.into_iter().filter(|(node, _)| !open_inodes.contains(*node)) {
            table.set_opens(node, 0, 0);
            if let Err(errno) = device.close_backing(id) {
                tracing::debug!(ino = node, %errno, "cannot close a backing id that was left over");
            }
        }
        let tables = Tables { table, files, open_inodes };
        let fs = Self::over(backing, memory, device, ownership, seat, tracker, pages, history, tables);
        fs.latest_id.store(known.iter().copied().max().unwrap_or(0), Ordering::Release);
        fs.close_unknown_ids(&known);
        fs.restore_charges();
        fs.restore_mapped();
        fs.restore_unseen();
        fs
    }

    /// Closes backing files that a dead worker registered and did not live to note; they would hold deleted files.
    ///
    /// The kernel gives ids out in ascending order, so that they lie between the latest one that was known then and one
    /// that is registered now.
    fn close_unknown_ids(&self, known: &FxHashSet<u32>) {
        let Some(latest) = self.journal.unfinished_registration() else { return };
        let next = rustix::fs::memfd_create("next", rustix::fs::MemfdFlags::CLOEXEC)
            .and_then(|file| self.device.open_backing(file.as_fd()));
        match next {
            Ok(next) => {
                for id in (latest.saturating_add(1)..=next).filter(|id| !known.contains(id)) {
                    match self.device.close_backing(id) {
                        Ok(()) if id != next => tracing::info!(id, "backing file of a dead worker is closed"),
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(errno) => tracing::warn!(id, %errno, "cannot close a backing file"),
                    }
                }
                self.latest_id.fetch_max(next, Ordering::AcqRel);
            }
            Err(errno) => tracing::warn!(%errno, "backing files of a dead worker cannot be looked for"),
        }
        self.journal.settle_registrations();
    }

    fn over(
        backing: Backing,
        memory: Arc<SharedMemory>,
        device: Arc<FuseDevice>,
        ownership: OwnershipPolicy,
        seat: Option<Seat>,
        tracker: Arc<Tracker>,
        pages: Pages,
        history: Option<Arc<History>>,
        tables: Tables,
    ) -> Self {
        let Tables { table, files, open_inodes } = tables;
        let accounting = match &seat {
            Some(seat) => seat.accounting_of(&backing),
            None => charged::natural_accounting(&backing),
        };
        let charging =
            seat.map(|seat| charging::Charging::new(seat.take(memory.clone()), accounting, memory.clone()));
        Self {
            backing,
            journal: Journal::open(memory.clone()),
            outlived: outlived::Outlived::open(memory.clone()),
            memory,
            table,
            files,
            streams: directory::Streams::new(),
            open_inodes,
            device,
            ownership,
            is_passthrough: AtomicBool::new(false),
            own_mutations: Arc::new(OwnMutations::new()),
            watcher: OnceLock::new(),
            watched_ttl: OnceLock::new(),
            reclaim: reclaim::Reclaim::default(),
            page_drop: page_drop::PageDrop::new(),
            accounting,
            charging,
            deleted_open: AtomicUsize::new(0),
            foreign_edits: AtomicU64::new(0),
            tracker,
            latest_id: AtomicU32::new(0),
            sweep: sweep::Sweep::default(),
            virtual_dir: virtual_dir::VirtualDir::new(pages),
            snapshots_dir: snapshots_dir::SnapshotsDir::new(),
            refusals: refusals::Refusals::new(),
            history,
            kernel_tier: kernel_tier::KernelTier::default(),
        }
    }

    /// Remembers what was negotiated with the kernel.
    pub(crate) fn set_negotiated(&self, capability_bits: u64, is_passthrough: bool) {
        self.is_passthrough.store(is_passthrough, Ordering::Release);
        crate::state::seal(&self.memory, capability_bits);
    }

    /// Starts to watch the backing tree for edits that bypass the mount.
    pub(crate) fn start_watching(self: &Arc<Self>, limit: usize, started_by: StartedBy) {
        // Asking drops what is cached: nothing yet, or what the watcher drops after a takeover anyway.
        let can_drop_all_names = self.device.invalidate_all_entries().is_ok();
        let ttl = if can_drop_all_names { WATCHED_TTL } else { WATCHED_TTL_WITHOUT_EPOCH };
        self.watched_ttl.get_or_init(|| ttl);
        if started_by == StartedBy::Takeover {
            self.sweep.start(self);
        }
        let sink: Arc<dyn ChangeSink> = Arc::new(KernelCaches(Arc::downgrade(self)));
        self.watcher.get_or_init(|| {
            Watcher::start(self.backing.root().clone(), limit, started_by, self.own_mutations.clone(), sink)
        });
    }

    /// Stops the threads that work beside the requests and waits for them.
    pub(crate) fn stop(&self) {
        if let Some(watcher) = self.watcher.get() {
            watcher.stop();
        }
        self.page_drop.stop();
        self.sweep.stop();
    }

    /// Returns how foreign edits are found at this moment.
    pub(crate) fn coherence(&self) -> wsguard_api::Coherence {
        self.watcher.get().map_or(wsguard_api::Coherence::Starting, Watcher::state)
    }

    /// Whether every foreign edit is reported to the kernel at this moment.
    fn is_watched(&self) -> bool {
        self.watcher.get().is_some_and(Watcher::is_watched)
    }

    /// Whether reads run in the kernel.
    pub(crate) fn is_passthrough(&self) -> bool {
        self.is_passthrough.load(Ordering::Acquire)
    }

    /// Returns the files below.
    pub(crate) fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Returns how many inodes the kernel knows.
    pub(crate) fn inodes_known(&self) -> u64 {
        self.table.known()
    }

    /// Returns how many files are open.
    pub(crate) fn open_handles(&self) -> u64 {
        self.files.len()
    }

    /// Returns how many requests were sent again to a worker that took over.
    pub(crate) fn resent_requests(&self) -> u64 {
        self.journal.resent_requests()
    }

    /// How long the kernel may trust a name.
    pub(crate) fn entry_ttl(&self) -> Duration {
        if self.is_watched() { *self.watched_ttl.get().unwrap_or(&UNWATCHED_TTL) } else { UNWATCHED_TTL }
    }

    /// How long the kernel may trust a node's attributes. Not at all while a store through a shared mapping
    /// may change them unseen.
    fn attribute_ttl(&self, node: u64) -> Duration {
        if self.open_inodes.may_be_mapped_writable(node) { Duration::ZERO } else { self.entry_ttl() }
    }

    /// Returns an `O_PATH` descriptor of a node.
    ///
    /// # Errors
    /// `EROFS` for a virtual or a past node: what is not answered before is refused here.
    fn node_fd(&self, node: u64) -> Result<Arc<OwnedFd>, Errno> {
        if is_virtual(node) || is_past(node) {
            return Err(Errno::ROFS);
        }
        let inode = self.table.get(node)?;
        match self.backing.path_fd(&inode.handle) {
            Err(Errno::STALE) => self.reclaim.pinned(node).ok_or(Errno::STALE),
            result => result,
        }
    }

    /// Counts the kernel's reference to the entry `name` of `dir` and makes the entry that the reply carries.
    fn entry_at(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Entry, Errno> {
        let child = self.backing.child(dir, name)?;
        let inode = self.inode_of(&child)?;
        if self.table.add_undisputed_lookup(&inode)? {
            return Ok(self.counted(&inode, child.stat));
        }
        // Its number is used for another file now, or handle and number are those of two files. Taken for one, every
        // later request on the second file would go to the first.
        self.entry(self.backing.child_at_once(dir, name)?)
    }

    /// As [`Self::entry_at`], for a file of which handle and attributes are known to belong together.
    fn entry(&self, child: Child) -> Result<Entry, Errno> {
        let inode = self.inode_of(&child)?;
        self.table.add_lookup(&inode)?;
        Ok(self.counted(&inode, child.stat))
    }

    fn counted(&self, inode: &Inode, stat: Stat) -> Entry {
        fail_point::reach(Stage::Counted);
        Entry {
            node: inode.node,
            generation: inode.generation,
            stat,
            attribute_ttl: self.attribute_ttl(inode.node),
            entry_ttl: self.entry_ttl(),
        }
    }

    fn inode_of(&self, child: &Child) -> Result<Inode, Errno> {
        Ok(Inode {
            node: self.node_of(&child.stat)?,
            generation: child.handle.generation(),
            file_type: u32::from(child.stat.stx_mode) & libc::S_IFMT,
            handle: child.handle,
            past: 0,
        })
    }

    fn node_of(&self, stat: &Stat) -> Result<u64, Errno> {
        let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        self.table.node_number(device, stat.stx_ino)
    }

    /// Returns the number that the watcher knows a directory by: its backing inode number.
    fn directory_key(&self, node: u64) -> u64 {
        if node == ROOT_NODE { self.backing.root_stat().stx_ino } else { node }
    }

    /// Returns whom a new inode is created as.
    fn creator(&self, caller: Caller, umask: u32) -> Identity {
        match self.ownership {
            OwnershipPolicy::Preserve => Identity { uid: caller.uid, gid: caller.gid, umask },
            OwnershipPolicy::Squash { uid, gid } => Identity { uid, gid, umask },
        }
    }

    fn is_squashed(&self) -> bool {
        matches!(self.ownership, OwnershipPolicy::Squash { .. })
    }

    /// Takes back references of the kernel.
    pub(crate) fn forget(&self, node: u64, lookups: u64) {
        if is_virtual(node) {
            return;
        }
        self.sweep.note_forget();
        let Some(inode) = self.table.forget(node, lookups) else { return };
        if is_past(node) {
            return self.forget_past(node);
        }
        if let Some(charging) = &self.charging {
            charging.remember(node, inode.handle);
        }
        self.reclaim.while_closing(|| self.backing.forget(&inode.handle));
        self.reclaim.unpin(node);
    }

    /// Makes the kernel distrust what it holds of `node` or is about to receive: it changed just now. Call it between
    /// the change and the reply.
    ///
    /// Upon most replies the kernel itself marks the attributes that it holds as old (`fuse_dir_changed`,
    /// `fuse_update_ctime` in fs/fuse/dir.c). Attributes that were read before the change and reach it afterwards would
    /// be taken for new ones and kept for an hour. Only a notification raises the version by which it turns such a
    /// latecomer down (`fuse_reverse_inval_inode`, `fuse_change_attributes_i` in fs/fuse/inode.c). Where the kernel
    /// raises it by itself (SETATTR, WRITE, an open with `O_TRUNC`, the inode that LINK and UNLINK are about), this is
    /// not needed.
    fn changed(&self, node: u64) {
        // Only attributes: that takes no lock which a request of this inode could hold.
        match self.device.invalidate_node(node, Invalidate::Attributes) {
            Ok(()) | Err(Errno::NOTCONN | Errno::NODEV) => {}
            Err(errno) => tracing::warn!(ino = node, %errno, "cannot invalidate attributes after a change"),
        }
    }

    /// Keeps a deleted inode reachable for as long as the kernel knows it.
    fn pin(&self, node: u64, fd: Arc<OwnedFd>) {
        self.reclaim.pin(node, fd);
        // The kernel may have forgotten the node before it was pinned.
        if !self.table.knows(node) {
            self.reclaim.unpin(node);
        }
    }
}

/// Passes foreign edits on to the kernel's caches.
struct KernelCaches(std::sync::Weak<GuardFs>);

impl KernelCaches {
    /// Resolves a path below the root to a node that the kernel knows. The path was reported by inotify, not
    /// given by a user; it is still resolved beneath the root only and through no symbolic link.
    ///
    /// Where it cannot be told, everything is invalidated instead.
    fn known_node(&self, fs: &GuardFs, path: &Path) -> Option<u64> {
        if path.as_os_str().is_empty() {
            return Some(ROOT_NODE);
        }
        match Self::node_at(fs, path) {
            Ok(node) => fs.table.knows(node).then_some(node),
            // Gone or replaced again: another report says so.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::XDEV) => None,
            Err(errno) => {
                tracing::warn!(%errno, "a foreign edit cannot be looked up; everything cached is dropped");
                self.everything_changed();
                None
            }
        }
    }

    fn node_at(fs: &GuardFs, path: &Path) -> Result<u64, Errno> {
        let fd = rustix::fs::openat2(
            fs.backing.root(),
            path,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
            rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS,
        )?;
        Ok(fs.inode_of(&fs.backing.of_fd(fd.as_fd())?)?.node)
    }

    fn report(result: Result<(), Errno>) {
        match result {
            // The mount is on its way out; there is no cache left.
            Ok(()) | Err(Errno::NOTCONN | Errno::NODEV) => {}
            Err(errno) => tracing::warn!(%errno, "cannot invalidate the kernel's cache"),
        }
    }
}

impl ChangeSink for KernelCaches {
    fn entry_changed(&self, dir: &Path, name: &std::ffi::OsStr) {
        let Some(fs) = self.0.upgrade() else { return };
        fs.note_foreign_edit();
        // A file whose last name just went must not live on in the descriptor cache.
        fs.reclaim.while_closing(|| fs.backing.forget_all());
        // It may have been a directory that was renamed.
        fs.tracker.names_changed_outside();
        fs.tracker.changed_outside(OutsideChange::Name { directory: dir, name });
        fs.note_outside(dir);
        let Some(parent) = self.known_node(&fs, dir) else { return };
        Self::report(fs.device.invalidate_entry(parent, name));
        Self::report(fs.device.invalidate_node(parent, Invalidate::Everything));
    }

    fn inode_changed(&self, path: &Path) {
        let Some(fs) = self.0.upgrade() else { return };
        if let (Some(directory), Some(name)) = (path.parent(), path.file_name()) {
            fs.tracker.changed_outside(OutsideChange::Name { directory, name });
        }
        let node = self.known_node(&fs, path);
        match node {
            Some(node) => fs.recheck_charge(node),
            // The kernel knows nothing of it, so it was not changed through the mount.
            None => fs.note_foreign_edit(),
        }
        let Some(node) = node else { return };
        Self::report(fs.device.invalidate_node(node, Invalidate::Attributes));
    }

    fn everything_changed(&self) {
        let Some(fs) = self.0.upgrade() else { return };
        fs.note_foreign_edit();
        fs.tracker.names_changed_outside();
        fs.tracker.changed_outside(OutsideChange::Anywhere);
        fs.note_outside(Path::new(""));
        match fs.device.invalidate_all_entries() {
            Err(Errno::INVAL) => {} // names expire after WATCHED_TTL_WITHOUT_EPOCH
            result => Self::report(result),
        }
        fs.table.for_each_node(|node| Self::report(fs.device.invalidate_node(node, Invalidate::Everything)));
    }
}

/// Borrows an `Arc`ed descriptor; reads better than `as_fd` through two layers.
fn borrow(fd: &Arc<OwnedFd>) -> BorrowedFd<'_> {
    fd.as_ref().as_fd()
}
