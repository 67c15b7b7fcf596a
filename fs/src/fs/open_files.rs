//! Opening, creating and releasing regular files: the open-mode policy.
//!
//! Every open of an inode answers with the inode's one backing id (passthrough): reads of `O_RDONLY` opens and
//! every mmap run in the kernel on the backing file. Any write mode adds direct I/O, so that each write(2)
//! reaches [`super::data`]. These two mix freely on one inode; any other mix gives EIO or ENODEV
//! (fs/fuse/iomode.c). Where passthrough is missing, every open of the inode is an ordinary cached one instead.

use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::charging::{Charge, Charging, Mapper, Names};
use super::kept_fd::{FileRef, KeptFd};
use super::kernel_tier::Before;
use super::open_flags::{UNSEEN, has_privileged_mode, strip_privilege, worker_flags};
use super::open_inodes::{DataMode, OpenInode, OpenInodeState};
use super::virtual_dir::is_virtual_handle;
use super::{Caller, Entry as NodeEntry, GuardFs, borrow};
use crate::backing::stat_of;
use crate::fail_point::{self, Stage};
use crate::handle::Remembered;
use crate::inode::Life;
use crate::journal::Running;
use crate::snapshot::Cause;
use crate::sys::identity;
use crate::tracker::{OpenTally, Operation};

/// Noted by a release once the number is free.
const RELEASED: u64 = 1;

/// What a reply to OPEN or CREATE carries.
pub(crate) struct Opened {
    pub(crate) number: u64,
    pub(crate) mode: DataMode,
    /// Each write reaches the worker; else it runs in the kernel, as reads do.
    pub(crate) is_direct: bool,
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
    /// How the file was when it was opened, if its writes do not reach the worker and this worker opened it.
    before: Option<Before>,
}

/// Whether holes of a file are reserved for one open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MappingHold {
    /// Not yet: a worker before this one opened it.
    Unknown,
    Begun,
    Ended,
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
            before: None,
        }
    }

    /// Returns where its writes are counted, if this worker has noted who writes.
    pub(super) fn known_tally(&self) -> Option<&OpenTally> {
        self.tally.get().map(AsRef::as_ref)
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

    /// Whether it can change the file without a request that says so.
    pub(super) fn may_be_changed_unseen(&self) -> bool {
        self.may_be_mapped_writable() || self.is_unseen()
    }

    /// Whether writes run in the kernel, past the worker; see [`super::kernel_tier`].
    pub(super) fn is_unseen(&self) -> bool {
        self.flags.contains(UNSEEN)
    }

    /// How the file was when it was opened, if that is known and its writes are not seen.
    pub(super) fn before(&self) -> Option<&Before> {
        self.before.as_ref()
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
        match KeptFd::keep(fs.backing.open(&inode.handle, flags - UNSEEN)?) {
            Ok(kept) => Ok(FileRef::Kept(place.get_or_init(|| kept).as_fd())),
            Err(opened) => Ok(FileRef::Once(opened)),
        }
    }

    /// Returns the entry under which changes of the file are charged.
    pub(super) fn charge<'a>(&'a self, charging: &Charging) -> &'a Charge {
        self.inode.charge(charging, self.node)
    }

    /// Returns the same if there is one already.
    pub(super) fn known_charge(&self) -> Option<&Charge> {
        self.inode.charge.get().map(AsRef::as_ref)
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
            self.end_outlived_namesake(names, charging, entry.node);
            names.created(entry.node, inode);
            charging.created(entry.node, &entry.stat);
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
                    self.settle_released(node);
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
        Ok(Opened { number, mode, is_direct: open_file.is_writer() && !open_file.is_unseen() })
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
        let is_writer = flags & OFlags::ACCMODE != OFlags::RDONLY;
        let mut before = None;
        let ready = match (mode, &file) {
            // No hole is reserved for a mapping: the kernel refuses what does not fit, there as for writes.
            (DataMode::Passthrough(_), Some(file)) if is_writer && self.passes_writes() => {
                self.look_before(node, &inode, file.as_fd()).map(|found| before = Some(found))
            }
            _ if maybe_mapped => self.begin_mapping(node, &inode, file.as_ref()),
            _ => Ok(()),
        };
        if let Err(errno) = ready {
            self.release_data_mode(node, maybe_mapped);
            return Err(errno);
        }
        let flags = if before.is_some() { flags | UNSEEN } else { flags };
        if maybe_mapped {
            // Attributes from before this open must not hide what a mapping changes from now on.
            self.changed(node);
        }
        let number = match self.files.reserve() {
            Ok(number) => number,
            Err(errno) => {
                self.end_mapping(node, maybe_mapped && before.is_none(), &inode, None);
                self.release_data_mode(node, maybe_mapped);
                return Err(errno);
            }
        };
        // Before the open exists, so that whoever carries the request out again finds it.
        running.note_number(number);
        fail_point::reach(Stage::Numbered);
        // One that is not kept is opened again at each use.
        let file = file.and_then(|file| KeptFd::keep(file).ok()).map_or_else(OnceLock::new, OnceLock::from);
        let mapping = if before.is_some() { MappingHold::Ended } else { MappingHold::Begun };
        let mapping = Mutex::new(mapping);
        let (plain, tally) = (OnceLock::new(), OnceLock::new());
        let is_direct = is_writer && before.is_none();
        let open_file = OpenFile { node, flags, file, plain, inode, tally, mapping, before };
        if open_file.is_unseen() {
            self.kernel_tier.begin_unseen();
        }
        if is_writer && self.tracker.is_on() {
            open_file
                .tally
                .get_or_init(|| self.tracker.open_for_writing(node, parent, caller.uid, caller.pid));
        }
        if open_file.may_be_changed_unseen() {
            self.before_mapping(caller, node, &open_file.inode);
        }
        self.files.enter(number, open_file, Remembered { node, flags: flags.bits() });
        fail_point::reach(Stage::Entered);
        Ok(Opened { number, mode, is_direct })
    }

    fn leave(&self, open_file: &OpenFile) {
        if open_file.is_unseen() {
            self.look_after(open_file);
        }
        if open_file.may_be_changed_unseen() {
            self.after_mapping(&open_file.inode);
        }
        let maybe_mapped = open_file.may_be_mapped_writable();
        let mut mapping = open_file.mapping.lock();
        let had_begun = std::mem::replace(&mut *mapping, MappingHold::Ended) == MappingHold::Begun;
        let file = if maybe_mapped { open_file.file(self).ok() } else { None };
        let is_mapped = maybe_mapped && had_begun;
        self.end_mapping(open_file.node, is_mapped, &open_file.inode, file.as_ref().map(AsFd::as_fd));
        drop((file, mapping));
        self.settle_inferred(open_file);
        self.release_data_mode(open_file.node, maybe_mapped);
    }

    /// Reserves again what stores through a mapping may fill that a worker before this one has granted.
    ///
    /// # Errors
    /// As opening the file.
    pub(super) fn begin_mapping_again(&self, open_file: &OpenFile, charging: &Charging) -> Result<(), Errno> {
        let mut mapping = open_file.mapping.lock();
        if !open_file.may_be_mapped_writable() || open_file.is_unseen() || *mapping != MappingHold::Unknown {
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
            // Noted before the open ends, so that it is nowhere missing.
            if charging.end_mapping(node, charge, file) {
                self.outlive_held(node);
            }
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
                let outlived = self.outlived_deleted_again(node);
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
                            deleted: deleted.flatten().or(outlived),
                        })
                    }
                    Err(errno) => {
                        self.journal.note_registering(None);
                        if let (true, Some(charging)) =
                            (deleted.flatten().or(outlived).is_some(), &self.charging)
                        {
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
        if self.table.life(node) != Life::Gone {
            return Ok(None);
        }
        let stat = stat_of(borrow(&self.node_fd(node)?))?;
        names.begin();
        // First: whoever sees that it is gone marks the entry that they find.
        self.table.set_life(node, Life::DeletedOpen);
        let bytes = names.back(node, &stat);
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
            self.table.set_opens(node, opens, mode.backing_id());
            return;
        }
        if let (Some(names), Some(bytes), Some(charging)) = (&mut names, deleted, &self.charging) {
            names.begin();
            // It may be mapped: whoever released it looks.
            if !self.outlive_deleted(node, charging.charged(node).unwrap_or(bytes)) {
                names.gone(node, charging.forget(node).unwrap_or(bytes));
                self.table.set_life(node, Life::Gone);
            }
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
        shard.remove(&node);
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
