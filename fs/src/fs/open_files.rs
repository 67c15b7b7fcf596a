//! Opening, creating and releasing regular files: the open-mode policy.
//!
//! Every open of an inode answers with the inode's one backing id (passthrough): reads of `O_RDONLY` opens and
//! every mmap run in the kernel on the backing file. Any write mode adds direct I/O, so that each write(2)
//! reaches [`super::data`]. These two mix freely on one inode; any other mix gives EIO or ENODEV
//! (fs/fuse/iomode.c). Where passthrough is missing, every open of the inode is an ordinary cached one instead.

use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::charging::{Charge, Charging, Mapper, Names};
use super::kept_fd::{FileRef, KeptFd};
use super::open_flags::{has_privileged_mode, strip_privilege, worker_flags};
use super::virtual_dir::is_virtual_handle;
use super::{Caller, Entry as NodeEntry, GuardFs, borrow};
use crate::backing::stat_of;
use crate::fail_point::{self, Stage};
use crate::handle::Remembered;
use crate::inode::Life;
use crate::journal::Running;
use crate::snapshot::{Cause, Touched};
use crate::sys::identity;
use crate::tracker::{OpenTally, Operation};

/// Locks that the open inodes are divided by.
const SHARDS: usize = 64;

/// Noted by a release once the number is free.
const RELEASED: u64 = 1;

/// How data of an inode flows while it is open anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DataMode {
    /// In the kernel, on the backing file with this id.
    Passthrough(u32),
    /// Through the worker and the kernel's page cache.
    Cached,
}

/// What a reply to OPEN or CREATE carries.
pub(crate) struct Opened {
    pub(crate) number: u64,
    pub(crate) mode: DataMode,
    pub(crate) is_writer: bool,
}

/// One open of a regular file.
pub(crate) struct OpenFile {
    pub(super) node: u64,
    /// Access mode plus the flags that the backing descriptor needs; remembered for a successor.
    flags: OFlags,
    /// Writers have it from the start; a reader only when something reaches the worker after all
    /// (`SEEK_HOLE`, fsync(2), copy_file_range(2), a kernel without passthrough).
    file: OnceLock<KeptFd>,
    /// A second one without `O_APPEND`, for a file whose `O_APPEND` was cleared by fcntl(2).
    plain: OnceLock<KeptFd>,
    pub(super) inode: Arc<OpenInodeState>,
    /// What is written through it. A writer has it from the start, unless a worker before this one opened it.
    tally: OnceLock<Arc<OpenTally>>,
    /// Whether holes are reserved for a mapping of it. Locked while that begins or ends: after a takeover it begins
    /// beside the requests, one of which may be the release.
    mapping: Mutex<MappingHold>,
}

/// Whether holes of a file are reserved for one open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MappingHold {
    /// Not yet: a worker before this one opened it.
    Unknown,
    Begun,
    Ended,
}

/// What every open of one inode shares.
#[derive(Default)]
pub(super) struct OpenInodeState {
    /// The file may have setuid or setgid, which a writer with CAP_FSETID keeps. Set at open and by chmod(2),
    /// never cleared: it only decides whether a rare extra step is worth while.
    may_be_privileged: AtomicBool,
    /// What the inode is charged for; entered by the first open that can change it.
    charge: OnceLock<Arc<Charge>>,
    /// What is preserved of the inode; entered likewise.
    pub(super) touched: OnceLock<Arc<Touched>>,
}

impl OpenFile {
    /// Rebuilds what a worker before this one had open; the descriptor is opened when it is needed.
    pub(super) fn remembered(remembered: Remembered, inode: Arc<OpenInodeState>) -> Self {
        let flags = OFlags::from_bits_retain(remembered.flags);
        Self {
            node: remembered.node,
            flags,
            file: OnceLock::new(),
            plain: OnceLock::new(),
            inode,
            tally: OnceLock::new(),
            mapping: Mutex::new(MappingHold::Unknown),
        }
    }

    /// Returns where its writes are counted. Who opened it under another worker is not known any more; whoever
    /// writes first is taken for them.
    pub(super) fn tally(&self, fs: &GuardFs, caller: Caller) -> &OpenTally {
        self.tally.get_or_init(|| fs.tracker.open_for_writing(self.node, None, caller.uid, caller.pid))
    }

    /// Whether it was opened for reading and writing, so that a shared mapping may write unseen.
    pub(super) fn may_be_mapped_writable(&self) -> bool {
        self.flags & OFlags::ACCMODE == OFlags::RDWR
    }

    /// Whether every write is durable when it returns.
    pub(super) fn is_synchronous(&self) -> bool {
        self.flags.intersects(OFlags::DSYNC | OFlags::SYNC)
    }

    /// Whether every write goes to the end of the file.
    pub(super) fn appends(&self) -> bool {
        self.flags.contains(OFlags::APPEND)
    }

    /// Whether the file may have setuid or setgid bits.
    pub(super) fn may_be_privileged(&self) -> bool {
        self.inode.may_be_privileged.load(Ordering::Relaxed)
    }

    /// Whether data can be written through it.
    pub(super) fn is_writer(&self) -> bool {
        self.flags & OFlags::ACCMODE != OFlags::RDONLY
    }

    /// Returns the backing descriptor, opening it now if it was not needed before. Where too many are kept already,
    /// it is opened for this one use.
    pub(super) fn file<'a>(&'a self, fs: &GuardFs) -> Result<FileRef<'a>, Errno> {
        self.kept_or_opened(fs, &self.file, self.flags)
    }

    /// As [`Self::file`], but writes go where they say.
    pub(super) fn plain_file<'a>(&'a self, fs: &GuardFs) -> Result<FileRef<'a>, Errno> {
        self.kept_or_opened(fs, &self.plain, self.flags - OFlags::APPEND)
    }

    fn kept_or_opened<'a>(
        &self,
        fs: &GuardFs,
        place: &'a OnceLock<KeptFd>,
        flags: OFlags,
    ) -> Result<FileRef<'a>, Errno> {
        if let Some(kept) = place.get() {
            return Ok(FileRef::Kept(kept.as_fd()));
        }
        let inode = fs.table.get(self.node)?;
        match KeptFd::keep(fs.backing.open(&inode.handle, flags)?) {
            Ok(kept) => Ok(FileRef::Kept(place.get_or_init(|| kept).as_fd())),
            Err(opened) => Ok(FileRef::Once(opened)),
        }
    }

    /// Returns the entry under which changes of the file are charged.
    pub(super) fn charge<'a>(&'a self, charging: &Charging) -> &'a Charge {
        self.inode.charge.get_or_init(|| charging.entry(self.node))
    }

    /// Returns the flags that the file was opened with.
    pub(super) fn flags(&self) -> OFlags {
        self.flags
    }

    /// Returns the backing descriptor if there is one.
    pub(super) fn file_if_open(&self) -> Option<BorrowedFd<'_>> {
        self.file.get().map(KeptFd::as_fd)
    }
}

/// The inodes that are open at this moment, with how.
pub(super) struct OpenInodes(Vec<Mutex<FxHashMap<u64, OpenInode>>>);

struct OpenInode {
    opens: u32,
    maybe_mapped_writable: u32,
    mode: DataMode,
    state: Arc<OpenInodeState>,
    /// What it was charged for when it lost its last name.
    deleted: Option<u64>,
}

impl OpenInodes {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::new(FxHashMap::default())).collect())
    }

    pub(super) fn may_be_mapped_writable(&self, node: u64) -> bool {
        self.shard(node).lock().get(&node).is_some_and(|inode| inode.maybe_mapped_writable > 0)
    }

    /// Enters an open that a worker before this one had, under the backing id that it had registered.
    pub(super) fn restore(&self, remembered: Remembered, backing_id: u32) -> Arc<OpenInodeState> {
        let mode = if backing_id == 0 { DataMode::Cached } else { DataMode::Passthrough(backing_id) };
        let mut shard = self.shard(remembered.node).lock();
        let inode = shard.entry(remembered.node).or_insert_with(|| OpenInode {
            opens: 0,
            maybe_mapped_writable: 0,
            mode,
            state: Arc::default(),
            deleted: None,
        });
        // Whether it has setuid or setgid is not remembered; a needless step at each write is the price.
        inode.state.may_be_privileged.store(true, Ordering::Relaxed);
        inode.opens += 1;
        let access = OFlags::from_bits_retain(remembered.flags) & OFlags::ACCMODE;
        inode.maybe_mapped_writable += u32::from(access == OFlags::RDWR);
        inode.state.clone()
    }

    /// Returns how data of an open inode flows.
    fn mode(&self, node: u64) -> Option<DataMode> {
        self.shard(node).lock().get(&node).map(|inode| inode.mode)
    }

    /// Whether an inode is open.
    pub(super) fn contains(&self, node: u64) -> bool {
        self.shard(node).lock().contains_key(&node)
    }

    /// Notes that an inode has lost its last name, with what it is charged for, and calls `noted` if nobody has
    /// noted so before. Returns whether it is open.
    pub(super) fn note_deleted(&self, node: u64, bytes: u64, noted: impl FnOnce()) -> bool {
        let mut shard = self.shard(node).lock();
        let Some(inode) = shard.get_mut(&node) else { return false };
        if inode.deleted.is_none() {
            inode.deleted = Some(bytes);
            noted();
        }
        true
    }

    /// Notes that an inode has a name again. Returns whether it is open and had none.
    pub(super) fn note_named(&self, node: u64) -> bool {
        self.shard(node).lock().get_mut(&node).is_some_and(|inode| inode.deleted.take().is_some())
    }

    /// Returns every open inode.
    pub(super) fn nodes(&self) -> Vec<u64> {
        self.0.iter().flat_map(|shard| shard.lock().keys().copied().collect::<Vec<_>>()).collect()
    }

    /// Calls `visit` with every inode that is open without a name and what it was charged for when it lost it.
    pub(super) fn for_each_deleted(&self, mut visit: impl FnMut(u64, u64)) {
        for shard in &self.0 {
            let deleted: Vec<(u64, u64)> =
                shard.lock().iter().filter_map(|(node, inode)| Some((*node, inode.deleted?))).collect();
            deleted.into_iter().for_each(|(node, bytes)| visit(node, bytes));
        }
    }

    /// Notes that a file got setuid or setgid bits while it is open.
    pub(super) fn note_privileged(&self, node: u64) {
        if let Some(inode) = self.shard(node).lock().get(&node) {
            inode.state.may_be_privileged.store(true, Ordering::Relaxed);
        }
    }

    fn shard(&self, node: u64) -> &Mutex<FxHashMap<u64, OpenInode>> {
        &self.0[node as usize % SHARDS]
    }
}

impl GuardFs {
    /// Opens a regular file.
    ///
    /// # Errors
    /// As open(2) on the backing file.
    pub(crate) fn open(
        &self,
        running: &Running<'_>,
        caller: Caller,
        node: u64,
        flags: OFlags,
    ) -> Result<Opened, Errno> {
        identity::assume_nobody()?;
        let inode = self.table.get(node)?;
        let is_writer = flags & OFlags::ACCMODE != OFlags::RDONLY;
        if !is_writer && !flags.contains(OFlags::TRUNC) {
            return self.enter(running, caller, node, worker_flags(flags), None, false, None);
        }
        // `O_RDONLY | O_TRUNC` truncates on Linux, which ftruncate(2) does not do through such a descriptor.
        let access = if is_writer { worker_flags(flags) } else { OFlags::WRONLY };
        let opened = self.backing.open(&inode.handle, access)?;
        let is_privileged = has_privileged_mode(opened.as_fd())?;
        if self.is_squashed() && flags & OFlags::ACCMODE == OFlags::RDWR {
            // A store through a mapping is seen by nobody, so the bits go before it can happen.
            strip_privilege(opened.as_fd(), is_privileged)?;
        }
        let touched = self.touched(&inode);
        let _permit = match flags.contains(OFlags::TRUNC) {
            true => self.before_truncation(&touched, caller, 0),
            false => None,
        };
        if flags.contains(OFlags::TRUNC) {
            // Apart from the opening, because the bits of a privileged file stay if the caller may keep them.
            let before = self.charge(&stat_of(opened.as_fd())?);
            let truncate = || rustix::fs::ftruncate(&opened, 0);
            let truncate = || {
                if is_privileged && self.is_allowed_privilege(caller) {
                    identity::with_fsetid(truncate)
                } else {
                    truncate()
                }?;
                fail_point::reach(Stage::Effect);
                Ok(())
            };
            self.charged_change(node, opened.as_fd(), truncate)?;
            self.note(caller.did(Operation::Truncate, node).costing(0, -before));
        }
        let file = is_writer.then_some(opened);
        self.enter(running, caller, node, worker_flags(flags), file, is_privileged, None)
    }

    /// Creates a regular file and opens it.
    ///
    /// # Errors
    /// As open(2) with `O_CREAT` on the backing directory.
    pub(crate) fn create(
        &self,
        running: &Running<'_>,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: OFlags,
    ) -> Result<(NodeEntry, Opened), Errno> {
        self.check_name(parent, name)?;
        let dir = self.node_fd(parent)?;
        let step = self.before_name(caller, Cause::Create, (parent, borrow(&dir)), name, None)?;
        identity::assume(self.creator(caller, umask))?;
        let mode = self.allowed_mode(mode);
        let create = || {
            rustix::fs::openat(
                borrow(&dir),
                name,
                worker_flags(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::from_raw_mode(mode),
            )
        };
        let mut names = self.begin_names();
        let inode = names.as_mut().map(Names::admit_inode).transpose()?;
        self.own_mutations.expect(self.directory_key(parent), name);
        // A setgid bit that is still in `mode` here is one that the caller may set (`vfs_prepare_mode`).
        let create = || if mode & libc::S_ISGID != 0 { identity::with_fsetid(create) } else { create() };
        let created = self.with_room(|| self.reclaim.retry_when_full(create));
        let opened = match created {
            Ok(opened) => opened,
            Err(errno) => {
                self.own_mutations.retract(self.directory_key(parent), name);
                drop((inode, names));
                if errno == Errno::EXIST && !flags.contains(OFlags::EXCL) {
                    return self.open_existing(running, caller, parent, name, flags);
                }
                return Err(errno);
            }
        };
        self.changed(parent);
        fail_point::reach(Stage::Effect);
        let child = self.backing.of_fd(opened.as_fd())?;
        let mut entry = self.entry(child)?;
        if let (Some(names), Some(inode), Some(charging)) = (&names, inode, &self.charging) {
            names.created(entry.node, inode);
            let charge = charging.entry(entry.node);
            charging.created(entry.node, &charge, &entry.stat);
        }
        drop((names, step));
        self.note(caller.did(Operation::Create, entry.node).at(parent, name));
        let is_privileged = mode & (libc::S_ISUID | libc::S_ISGID) != 0;
        let opened = self
            .enter(
                running,
                caller,
                entry.node,
                worker_flags(flags),
                Some(opened),
                is_privileged,
                Some(parent),
            )
            .inspect_err(|_| self.forget(entry.node, 1))?;
        entry.attribute_ttl = self.attribute_ttl(entry.node);
        Ok((entry, opened))
    }

    /// Somebody else created the file between the kernel's lookup and our create, below the mount.
    pub(crate) fn open_existing(
        &self,
        running: &Running<'_>,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        flags: OFlags,
    ) -> Result<(NodeEntry, Opened), Errno> {
        let entry = self.lookup(parent, name)?;
        let file_type = u32::from(entry.stat.stx_mode) & libc::S_IFMT;
        let opened = if file_type == libc::S_IFREG {
            self.open(running, caller, entry.node, flags)
        } else {
            Err(Errno::STALE)
        };
        let opened = opened.inspect_err(|_| self.forget(entry.node, 1))?;
        Ok((entry, opened))
    }

    /// Ends one open.
    ///
    /// # Errors
    /// `EBADF` when the number is not open.
    pub(crate) fn release(&self, running: &Running<'_>, number: u64) -> Result<(), Errno> {
        if is_virtual_handle(number) {
            self.release_virtual(number);
            return Ok(());
        }
        self.once(running, |again| {
            // The number may stand for another open by now.
            if again.is_some_and(|notes| notes.note == RELEASED) {
                return Ok(0);
            }
            let open_file = match self.files.take(number) {
                // Taken by an attempt that died before it could note so; the number is still in transit.
                Err(Errno::BADF) if again.is_some() => None,
                result => Some(result?),
            };
            fail_point::reach(Stage::Taken);
            running.note(RELEASED);
            fail_point::reach(Stage::Noted);
            self.files.recycle(number);
            fail_point::reach(Stage::Recycled);
            if let Some(open_file) = open_file {
                let node = open_file.node;
                self.reclaim.while_closing(|| {
                    self.leave(&open_file);
                    drop(open_file);
                });
                if let Some(charging) = &self.charging {
                    self.look_at_closed(node);
                    charging.let_go(node);
                }
            }
            Ok(0)
        })
        .map(drop)
    }

    /// Ends an open of which the kernel never heard.
    pub(super) fn discard_open(&self, number: u64) {
        // Noted before it was entered: if it never was, the number alone comes back.
        let open_file = self.files.take(number);
        self.files.recycle(number);
        if let Ok(open_file) = open_file {
            self.leave(&open_file);
        }
    }

    /// Returns what was answered to an open whose answer got lost.
    pub(super) fn opened_again(&self, number: u64) -> Result<Opened, Errno> {
        let open_file = self.files.get(number)?;
        let mode = self.open_inodes.mode(open_file.node).ok_or(Errno::BADF)?;
        Ok(Opened { number, mode, is_writer: open_file.is_writer() })
    }

    fn enter(
        &self,
        running: &Running<'_>,
        caller: Caller,
        node: u64,
        flags: OFlags,
        file: Option<OwnedFd>,
        is_privileged: bool,
        parent: Option<u64>,
    ) -> Result<Opened, Errno> {
        let maybe_mapped = flags & OFlags::ACCMODE == OFlags::RDWR;
        let (mode, inode) = self.acquire_data_mode(node, file.as_ref(), maybe_mapped)?;
        if is_privileged {
            inode.may_be_privileged.store(true, Ordering::Relaxed);
        }
        if maybe_mapped && let Err(errno) = self.begin_mapping(node, &inode, file.as_ref()) {
            self.release_data_mode(node, maybe_mapped);
            return Err(errno);
        }
        if maybe_mapped {
            self.before_mapping(caller, node, &inode);
            // Attributes from before this open must not hide what a mapping changes from now on.
            self.changed(node);
        }
        let number = match self.files.reserve() {
            Ok(number) => number,
            Err(errno) => {
                self.end_mapping(node, maybe_mapped, &inode, None);
                self.release_data_mode(node, maybe_mapped);
                return Err(errno);
            }
        };
        // Before the open exists, so that whoever carries the request out again finds it.
        running.note_number(number);
        fail_point::reach(Stage::Numbered);
        // One that is not kept is opened again at each use.
        let file = file.and_then(|file| KeptFd::keep(file).ok()).map_or_else(OnceLock::new, OnceLock::from);
        let mapping = Mutex::new(MappingHold::Begun);
        let (plain, tally) = (OnceLock::new(), OnceLock::new());
        let open_file = OpenFile { node, flags, file, plain, inode, tally, mapping };
        let is_writer = open_file.is_writer();
        if is_writer {
            open_file
                .tally
                .get_or_init(|| self.tracker.open_for_writing(node, parent, caller.uid, caller.pid));
        }
        self.files.enter(number, open_file, Remembered { node, flags: flags.bits() });
        fail_point::reach(Stage::Entered);
        Ok(Opened { number, mode, is_writer })
    }

    fn leave(&self, open_file: &OpenFile) {
        let maybe_mapped = open_file.may_be_mapped_writable();
        let mut mapping = open_file.mapping.lock();
        let had_begun = std::mem::replace(&mut *mapping, MappingHold::Ended) == MappingHold::Begun;
        let file = if maybe_mapped { open_file.file(self).ok() } else { None };
        let is_mapped = maybe_mapped && had_begun;
        self.end_mapping(open_file.node, is_mapped, &open_file.inode, file.as_ref().map(AsFd::as_fd));
        drop((file, mapping));
        self.release_data_mode(open_file.node, maybe_mapped);
    }

    /// Reserves again what stores through a mapping may fill that a worker before this one has granted.
    ///
    /// # Errors
    /// As opening the file.
    pub(super) fn begin_mapping_again(&self, open_file: &OpenFile, charging: &Charging) -> Result<(), Errno> {
        let mut mapping = open_file.mapping.lock();
        if !open_file.may_be_mapped_writable() || *mapping != MappingHold::Unknown {
            return Ok(());
        }
        let file = open_file.file(self)?;
        let charge = open_file.charge(charging);
        charging.begin_mapping(open_file.node, charge, file.as_fd(), Mapper::Inherited)?;
        *mapping = MappingHold::Begun;
        Ok(())
    }

    fn begin_mapping(&self, node: u64, inode: &OpenInodeState, file: Option<&OwnedFd>) -> Result<(), Errno> {
        let (Some(charging), Some(file)) = (&self.charging, file) else { return Ok(()) };
        let charge = inode.charge.get_or_init(|| charging.entry(node));
        self.retry_when_over(|| charging.begin_mapping(node, charge, file.as_fd(), Mapper::New))
    }

    fn end_mapping(&self, node: u64, was_mapped: bool, inode: &OpenInodeState, file: Option<BorrowedFd<'_>>) {
        if let (true, Some(charging), Some(charge)) = (was_mapped, &self.charging, inode.charge.get()) {
            charging.end_mapping(node, charge, file);
        }
    }

    /// Counts one more open; the first one decides how the inode's data flows.
    fn acquire_data_mode(
        &self,
        node: u64,
        file: Option<&OwnedFd>,
        maybe_mapped: bool,
    ) -> Result<(DataMode, Arc<OpenInodeState>), Errno> {
        let mut names = None;
        let mut shard = loop {
            let shard = self.open_inodes.shard(node).lock();
            // The gate comes before this lock, so whether it is needed is looked at twice.
            if names.is_some() || self.charging.is_none() || self.table.life(node) != Life::Gone {
                break shard;
            }
            drop(shard);
            names = self.begin_names();
        };
        let inode = match shard.entry(node) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let deleted = names.as_mut().map(|names| self.charge_again(names, node)).transpose()?;
                let mode = if self.is_passthrough() {
                    // Until the table has the id, nobody else could close it.
                    self.journal.note_registering(Some(self.latest_id.load(Ordering::Acquire)));
                    self.register_backing(node, file)
                } else {
                    Ok(DataMode::Cached)
                };
                match mode {
                    Ok(mode) => {
                        self.table.set_opens(node, 1, mode.backing_id());
                        self.journal.note_registering(None);
                        entry.insert(OpenInode {
                            opens: 0,
                            maybe_mapped_writable: 0,
                            mode,
                            state: Arc::default(),
                            deleted: deleted.flatten(),
                        })
                    }
                    Err(errno) => {
                        self.journal.note_registering(None);
                        if let (Some(Some(_)), Some(charging)) = (deleted, &self.charging) {
                            charging.account().set_estimated(true);
                        }
                        return Err(errno);
                    }
                }
            }
        };
        inode.opens += 1;
        inode.maybe_mapped_writable += u32::from(maybe_mapped);
        let (opens, mode) = (inode.opens, inode.mode);
        self.table.set_opens(node, opens, mode.backing_id());
        Ok((mode, inode.state.clone()))
    }

    /// Registers the inode for passthrough, by the descriptor that was just opened if there is one.
    fn register_backing(&self, node: u64, file: Option<&OwnedFd>) -> Result<DataMode, Errno> {
        let registered = match file {
            Some(file) => self.device.open_backing(file.as_fd()),
            None => self.device.open_backing(borrow(&self.node_fd(node)?)),
        };
        fail_point::reach(Stage::Registered);
        Ok(match registered {
            Ok(id) => {
                self.latest_id.fetch_max(id, Ordering::AcqRel);
                DataMode::Passthrough(id)
            }
            Err(errno) => {
                tracing::warn!(ino = node, %errno, "file cannot be passed through; it is cached instead");
                DataMode::Cached
            }
        })
    }

    /// An inode that was booked as gone is opened after all (its open(2) was under way): it is charged again until
    /// it is released.
    fn charge_again(&self, names: &mut Names<'_>, node: u64) -> Result<Option<u64>, Errno> {
        let Some(charging) = &self.charging else { return Ok(None) };
        if self.table.life(node) != Life::Gone {
            return Ok(None);
        }
        let bytes = charging.accounting().charge(&stat_of(borrow(&self.node_fd(node)?))?);
        names.begin();
        names.back(node, bytes);
        self.table.set_life(node, Life::DeletedOpen);
        self.deleted_open.fetch_add(1, Ordering::AcqRel);
        Ok(Some(bytes))
    }

    fn release_data_mode(&self, node: u64, maybe_mapped: bool) {
        let mut names: Option<Names<'_>> = None;
        let mut shard = loop {
            let shard = self.open_inodes.shard(node).lock();
            let Some(inode) = shard.get(&node) else { return };
            // As in `acquire_data_mode`.
            if names.is_some() || self.charging.is_none() || inode.opens > 1 || inode.deleted.is_none() {
                break shard;
            }
            drop(shard);
            names = self.begin_names();
        };
        let Some(inode) = shard.get_mut(&node) else { return };
        inode.opens -= 1;
        inode.maybe_mapped_writable -= u32::from(maybe_mapped);
        let (opens, mode, deleted) = (inode.opens, inode.mode, inode.deleted);
        if opens > 0 {
            if maybe_mapped && inode.maybe_mapped_writable == 0 {
                self.after_mapping(node, &inode.state);
            }
            self.table.set_opens(node, opens, mode.backing_id());
            return;
        }
        if let Some(closed) = shard.remove(&node).filter(|_| maybe_mapped) {
            self.after_mapping(node, &closed.state);
        }
        if let (Some(names), Some(bytes), Some(charging)) = (&mut names, deleted, &self.charging) {
            names.begin();
            names.gone(node, charging.forget(node).unwrap_or(bytes));
            self.table.set_life(node, Life::Gone);
            self.deleted_open.fetch_sub(1, Ordering::AcqRel);
        }
        // Under the lock: a new first open must not register before the old id is gone, or the kernel could see two
        // ids for one inode. Closed before the table forgets it: a successor that closes it again does no harm.
        if let DataMode::Passthrough(id) = mode
            && let Err(errno) = self.device.close_backing(id)
        {
            tracing::debug!(ino = node, %errno, "cannot close a backing id");
        }
        fail_point::reach(Stage::Unregistered);
        self.table.set_opens(node, 0, 0);
    }

    /// Whether a write by a holder of CAP_FSETID leaves the file's setuid and setgid bits. Not under `squash`: a
    /// container's root must not fill an old setuid file of the host with new contents.
    pub(super) fn may_keep_privilege(&self, open_file: &OpenFile) -> bool {
        !self.is_squashed() && open_file.may_be_privileged()
    }

    /// Whether the caller's truncation leaves those bits.
    pub(super) fn is_allowed_privilege(&self, caller: Caller) -> bool {
        !self.is_squashed() && caller.has_fsetid()
    }

    /// Returns the mode bits that the ownership policy lets a file have.
    pub(super) fn allowed_mode(&self, mode: u32) -> u32 {
        let privileged = if self.is_squashed() { libc::S_ISUID | libc::S_ISGID } else { 0 };
        mode & 0o7777 & !privileged
    }
}

impl DataMode {
    fn backing_id(self) -> u32 {
        match self {
            Self::Passthrough(id) => id,
            Self::Cached => 0,
        }
    }
}
