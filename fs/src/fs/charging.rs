//! What each file costs its project, kept exact through every change.
//!
//! A *charge* is the bytes that an inode is billed for ([`Accounting`]). The ledger's `used` is the sum of all
//! charges. An inode that is open for writing, or that was changed a moment ago, has an entry here with the charge
//! that `used` contains at this moment; of all others the charge is what statx(2) says. Every change follows one
//! pattern: *admit* (reserve the worst case; the only step that may refuse), change, *settle* (look at the inode and
//! book the difference to what was charged before, under the entry's lock). Differences telescope, so that neither
//! the order of racing writers nor a short or failed call matters.
//!
//! Filesystems change `st_blocks` after the fact: ext4 and XFS allocate blocks for the tree of extents and btrfs inlines
//! small files when dirty pages are written back, XFS frees what it has allocated beyond the end minutes later. So an
//! inode whose blocks may still move *glows*: its entry stays and is looked at now and then, until it is known that
//! nothing moves any more (written out, nothing beyond the end). An inode without an entry is still, therefore, and
//! its charge is what statx(2) says. Every other entry stays for [`ECHO`]: the watcher reports our own changes like
//! foreign ones, and a change of an inode without an entry is one that went past us.
//!
//! Locks, in this order: the namespace gate (shared by all changes of names, taken exclusively for an instant by a
//! recount that publishes), a shard of the table, one entry, a shard of the recount.

mod afterglow;
mod density;
mod inferred;
mod mapping;
mod names;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use rustix::fs::FileType;
use rustix::io::Errno;

use self::inferred::AtEnd;
pub(super) use self::mapping::Mapper;
pub(super) use self::names::Names;
use super::recount::Recount;
use super::refusals;
use crate::accounting::Accounting;
use crate::backing::Stat;
use crate::quota::{Account, Refusal, Reservation};
use crate::state::mark;
use crate::sys::handle::FileHandle;
use crate::sys::shared_memory::SharedMemory;

/// The unit of allocation that quota counts in.
pub(super) const BLOCK: u64 = 4096;
/// Locks that the table is divided by.
const SHARDS: usize = 64;
/// Dirty pages are written back after 30 s by default (`vm.dirty_expire_centisecs`), looked for every 5 s. What has not
/// been by then is written out before the entry goes.
const AFTERGLOW: Duration = Duration::from_secs(40);
/// XFS keeps some of what it allocated beyond a file's end for a while (`fs.xfs.speculative_prealloc_lifetime`, five
/// minutes by default). What is there after so long was asked for by fallocate(2) and stays.
const TRIMMED_WITHIN: Duration = Duration::from_secs(3600);
/// The first look at a file that glows; each further one comes after twice the time.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// How long a report of our own change may take.
const ECHO: Duration = Duration::from_secs(10);
/// Entries of files that are not open; beyond that the oldest are written out early.
const MAX_GLOWING: usize = 65_536;
/// A file of so many bytes fits into the extents that an ext4 inode holds itself.
const SELF_CONTAINED: u64 = 4 * BLOCK;

/// Rounds up to whole blocks.
pub(super) fn ceil_block(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX - (BLOCK - 1))
}

fn floor_block(bytes: u64) -> u64 {
    bytes - bytes % BLOCK
}

/// What is charged for one inode.
#[derive(Default)]
pub(super) struct Charge {
    state: Mutex<Charged>,
    /// The file is allocated without a hole up to here, which is its size; 0 if that is not known.
    dense_end: AtomicU64,
    /// It may change once more when it is written back.
    glows: AtomicBool,
    /// A change of it was booked, so that the entry stays for a while after the last close.
    is_kept: AtomicBool,
}

/// How a file that is not open is reached.
pub(super) type Reach<'a> = &'a dyn Fn(u64, Option<FileHandle>) -> Result<Option<Stat>, Errno>;

/// Writes such a file out and tells whether its blocks move no more. Given a size, that of a file which may have blocks
/// beyond it that go some day.
pub(super) type Still<'a> = &'a dyn Fn(u64, Option<FileHandle>, Option<u64>) -> Result<bool, Errno>;

impl Charge {
    /// Whether the file may have holes, for which blocks beyond its end make up in what it is charged.
    fn may_be_trimmed(&self) -> bool {
        self.dense_end.load(Ordering::Acquire) < self.state.lock().size
    }
}

#[derive(Default)]
struct Charged {
    /// What `used` contains for it; `None` until it was looked at.
    bytes: Option<u64>,
    /// What it was at the first look: whoever writes to a new file may look at it before its creation is booked.
    first: u64,
    /// Nothing of it is in `used` any more, and nothing that happens to it is booked: it has lost its last name, and
    /// nobody has it open. Whoever holds the entry came too late, by a path that led to it a moment ago.
    is_gone: bool,
    size: u64,
    /// Reserved beside it for stores through a shared mapping (see [`Charging::begin_mapping`]).
    hold: u64,
    /// Opens that a shared writable mapping may come from, and one for all mappings that have outlived theirs.
    mappers: u32,
    /// A mapping may have outlived the last such open.
    is_outlived: bool,
    changed: Option<Instant>,
    /// How often it was looked at since.
    looks: u32,
    /// Changes under way that may leave holes. While there is one, nothing is known of the file's density.
    cutters: u32,
    /// How many there have been, those under way included.
    cuts: u64,
    /// A write at its end takes what it adds, and nothing else (see [`inferred`]).
    is_plain: bool,
    /// Bytes that were booked since the last look, without one.
    inferred: u64,
    /// How it is reached once the kernel has forgotten it.
    handle: Option<FileHandle>,
}

/// A write that may go ahead.
pub(super) struct Admitted<'a> {
    /// Bytes that may be written, at least one unless none were asked for.
    pub(super) length: usize,
    reservation: Option<Reservation<'a>>,
    _pending: Option<Pending<'a>>,
    kind: Growth,
    /// The change may leave holes; see [`Charging::begin_cut`].
    is_cut: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// Only blocks that are charged already, as long as the file is dense up to here.
    None { dense_end: u64 },
    /// The size grows within the last block, as long as the file is dense up to here.
    WithinBlock { dense_end: u64 },
    /// Blocks are added at the end of a file that was plain and had seen so many cuts.
    AtEnd { cuts: u64 },
    /// Blocks may be allocated.
    Blocks,
}

/// A change under way whose effect the counters do not contain yet. One that a worker dies under makes its successor
/// count again.
pub(super) struct Pending<'a>(&'a AtomicU64);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// See the module.
pub(super) struct Charging {
    account: Arc<Account>,
    accounting: Accounting,
    shards: Vec<Mutex<FxHashMap<u64, Arc<Charge>>>>,
    memory: Arc<SharedMemory>,
    gate: RwLock<()>,
    pub(super) recount: ArcSwapOption<Recount>,
}

impl Charging {
    /// Charges changes of one workspace to `account`.
    pub(super) fn new(account: Arc<Account>, accounting: Accounting, memory: Arc<SharedMemory>) -> Self {
        Self {
            account,
            accounting,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            memory,
            gate: RwLock::new(()),
            recount: ArcSwapOption::empty(),
        }
    }

    /// Returns who pays.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Returns how bytes are counted.
    pub(super) fn accounting(&self) -> Accounting {
        self.accounting
    }

    /// Returns how many changes a worker that died left without booking them, and starts to count anew.
    pub(super) fn take_unbooked(&self) -> u64 {
        self.pending_word().swap(0, Ordering::AcqRel)
    }

    /// Whether files were changed so short a time ago that their blocks may change once more, unseen by a worker that has
    /// no entries of them.
    pub(super) fn may_glow(&self) -> bool {
        let last = self.glow_word().load(Ordering::Acquire);
        last != 0 && seconds_since_boot().saturating_sub(last) <= AFTERGLOW.as_secs()
    }

    /// Whether blocks of a file may move that was changed below the mount, or by a worker before this one.
    fn may_glow_below(&self, stat: &Stat) -> bool {
        let bytes = self.accounting.charge(stat).max(stat.stx_size);
        let glows_for = match self.accounting {
            Accounting::Allocated if bytes > SELF_CONTAINED => AFTERGLOW,
            Accounting::AllocatedToSize => TRIMMED_WITHIN,
            Accounting::Allocated | Accounting::Logical => return false,
        };
        let is_file = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::RegularFile;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let age = now.saturating_sub(stat.stx_ctime.tv_sec);
        is_file && bytes > 0 && u64::try_from(age).unwrap_or(0) <= glows_for.as_secs()
    }

    fn note_glow(&self) {
        let (word, now) = (self.glow_word(), seconds_since_boot());
        // Every writer comes here: the line is only written once a second.
        if word.load(Ordering::Relaxed) != now {
            word.store(now, Ordering::Release);
        }
    }

    fn glow_word(&self) -> &AtomicU64 {
        &self.memory.line(mark::UNBOOKED)[1]
    }

    fn pending_word(&self) -> &AtomicU64 {
        &self.memory.line(mark::UNBOOKED)[0]
    }

    fn pending(&self) -> Pending<'_> {
        let word = self.pending_word();
        word.fetch_add(1, Ordering::AcqRel);
        Pending(word)
    }

    /// Returns the entry of an inode, making one if there is none. It stays for as long as somebody holds it.
    pub(super) fn entry(&self, node: u64) -> Arc<Charge> {
        self.shard(node).lock().entry(node).or_default().clone()
    }

    /// Returns the entry of an inode if it has one.
    pub(super) fn find(&self, node: u64) -> Option<Arc<Charge>> {
        self.shard(node).lock().get(&node).cloned()
    }

    fn shard(&self, node: u64) -> &Mutex<FxHashMap<u64, Arc<Charge>>> {
        &self.shards[node as usize % SHARDS]
    }

    /// Looks at an inode before its first change, so that it is known what `used` contains for it.
    ///
    /// # Errors
    /// As fstat(2).
    pub(super) fn look(&self, node: u64, charge: &Charge, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.look_locked(node, charge, &mut charge.state.lock(), file)
    }

    fn look_locked(
        &self,
        node: u64,
        charge: &Charge,
        state: &mut Charged,
        file: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        if state.bytes.is_none() && !state.is_gone {
            let stat = rustix::fs::fstat(file)?;
            let bytes = self.accounting.charge_of_open(&stat);
            self.first_look(node, state, size_of(&stat), bytes);
            self.measure(charge, state, file);
        }
        Ok(())
    }

    fn first_look(&self, node: u64, state: &mut Charged, size: u64, bytes: u64) {
        state.bytes = Some(bytes);
        state.first = bytes;
        state.size = size;
        if let Some(recount) = &*self.recount.load() {
            recount.set(node, bytes, 1);
        }
    }

    /// Reserves what a write may take. Without `offset` inside the known part of the file nothing is looked up.
    ///
    /// # Errors
    /// `EDQUOT` or `ENOSPC` when not even one byte fits; nothing has happened then. As fstat(2).
    pub(super) fn admit_write(
        &self,
        node: u64,
        charge: &Charge,
        file: BorrowedFd<'_>,
        offset: u64,
        length: usize,
    ) -> Result<Admitted<'_>, Errno> {
        let end = offset.checked_add(length as u64).ok_or(Errno::FBIG)?;
        let free = |kind| Admitted { length, reservation: None, _pending: None, kind, is_cut: false };
        let dense_end = charge.dense_end.load(Ordering::Acquire);
        if dense_end > 0 && offset <= dense_end {
            if end <= dense_end {
                return Ok(free(Growth::None { dense_end: end }));
            }
            if end <= ceil_block(dense_end) {
                return Ok(free(Growth::WithinBlock { dense_end }));
            }
        }
        let mut state = charge.state.lock();
        self.look_locked(node, charge, &mut state, file)?;
        let dense_end = charge.dense_end.load(Ordering::Acquire);
        let is_dense = dense_end > 0 && offset <= dense_end;
        let first_new = if is_dense { ceil_block(dense_end) } else { floor_block(offset) };
        let (held_end, size) = self.hold_gap(&mut state, offset)?;
        let kind = if is_dense && state.is_plain && state.cutters == 0 {
            Growth::AtEnd { cuts: state.cuts }
        } else {
            Growth::Blocks
        };
        drop(state);
        let first_new = first_new.max(held_end);
        let wanted = ceil_block(end).saturating_sub(first_new);
        let pending = Some(self.pending());
        let least = if first_new > offset { 0 } else { BLOCK };
        let reserve = || self.account.reserve(wanted, least, 0, end.max(size));
        let reserved = match reserve() {
            // The file itself may have been taken for larger than it is.
            Err(_) if self.settle_inferred(node, charge, file) < 0 => reserve(),
            reserved => reserved,
        };
        let (granted, reservation) = match reserved {
            Ok(reservation) => (reservation.bytes(), Some(reservation)),
            Err(_) if first_new > offset => (0, None),
            // Overwriting is never refused, whatever holes there are elsewhere.
            Err(refusal) => match self.paid_until(file, first_new, end, size) {
                allocated if allocated > offset => (floor_block(allocated) - first_new, None),
                _ => {
                    self.trim_hold(charge);
                    return Err(errno_of(&refusal));
                }
            },
        };
        let allowed_end = if granted >= wanted { end } else { end.min(first_new + granted) };
        let length = usize::try_from(allowed_end - offset).map_err(|_| Errno::OVERFLOW)?;
        Ok(Admitted { length, reservation, _pending: pending, kind, is_cut: false })
    }

    /// Returns up to where blocks are there and charged; `from` if the first one is not.
    fn paid_until(&self, file: BorrowedFd<'_>, from: u64, end: u64, size: u64) -> u64 {
        let end = match self.accounting {
            Accounting::Allocated => end,
            Accounting::AllocatedToSize | Accounting::Logical => end.min(size),
        };
        density::allocated_until(file, from, ceil_block(end))
    }

    /// Books a write of which `written` bytes were written, none if it failed. Returns by how much the file's charge
    /// grew.
    pub(super) fn settle_write(
        &self,
        node: u64,
        charge: &Charge,
        file: BorrowedFd<'_>,
        mut admitted: Admitted<'_>,
        offset: u64,
        written: usize,
    ) -> i64 {
        let to = offset + written as u64;
        if let Growth::AtEnd { cuts } = admitted.kind
            && written == admitted.length
            && let write = (AtEnd { from: offset, to, cuts })
            && let Some(grown) = self.infer(node, charge, &mut admitted.reservation, write)
        {
            return grown;
        }
        // Somebody may have cut the file or punched a hole between the admission and the write, which then has taken
        // blocks after all. They forget the density first and find it anew by a look under the lock: if it is still,
        // or again, what it was, whoever looked has seen the effect of this write or had no part in it.
        let is_as_known = match admitted.kind {
            Growth::None { dense_end } => charge.dense_end.load(Ordering::Acquire) >= dense_end,
            Growth::WithinBlock { dense_end } => charge
                .dense_end
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                    (now >= dense_end).then(|| now.max(to))
                })
                .is_ok(),
            Growth::AtEnd { .. } | Growth::Blocks => false,
        };
        // The first write is booked in any case: an overwritten extent may be split when it is written back.
        let is_free = is_as_known && charge.is_kept.load(Ordering::Relaxed);
        if is_free { 0 } else { self.settle_change(node, charge, file, admitted) }
    }

    /// Reserves a range that is allocated or copied as a whole, or as much of it as fits when `least` is smaller.
    ///
    /// # Errors
    /// As [`Self::admit_write`].
    pub(super) fn admit_range(
        &self,
        node: u64,
        charge: &Charge,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
        is_divisible: bool,
    ) -> Result<Admitted<'_>, Errno> {
        self.look(node, charge, file)?;
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        let dense_end = charge.dense_end.load(Ordering::Acquire);
        let first_new =
            if dense_end > 0 && offset <= dense_end { ceil_block(dense_end) } else { floor_block(offset) };
        let (held_end, _) = self.hold_gap(&mut charge.state.lock(), offset)?;
        let first_new = first_new.max(held_end);
        let wanted = ceil_block(end).saturating_sub(first_new);
        let pending = Some(self.pending());
        let least = match (is_divisible, first_new > offset) {
            (true, true) => 0,
            (true, false) => BLOCK.min(wanted),
            (false, _) => wanted,
        };
        let reservation = self.account.reserve(wanted, least, 0, end).map_err(|refusal| {
            self.trim_hold(charge);
            errno_of(&refusal)
        })?;
        let allowed_end =
            if reservation.bytes() >= wanted { end } else { end.min(first_new + reservation.bytes()) };
        let length = usize::try_from(allowed_end - offset).map_err(|_| Errno::OVERFLOW)?;
        let kind = Growth::Blocks;
        Ok(Admitted { length, reservation: Some(reservation), _pending: pending, kind, is_cut: false })
    }

    /// Keeps an entry of an inode whose attributes are changed, so that the watcher's report of it is known as ours.
    pub(super) fn note_touched(&self, node: u64, charge: &Charge, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.look(node, charge, file)?;
        charge.state.lock().changed = Some(Instant::now());
        Ok(())
    }

    /// Marks a change that needs no space (truncation, hole, extended attribute) as under way.
    ///
    /// # Errors
    /// As fstat(2).
    pub(super) fn admit_change(
        &self,
        node: u64,
        charge: &Charge,
        file: BorrowedFd<'_>,
    ) -> Result<Admitted<'_>, Errno> {
        self.look(node, charge, file)?;
        let pending = Some(self.pending());
        Ok(Admitted { length: 0, reservation: None, _pending: pending, kind: Growth::Blocks, is_cut: false })
    }

    /// As [`Self::admit_change`], for a truncation to `size`: a mapping may store into what it adds.
    ///
    /// # Errors
    /// `EDQUOT` or `ENOSPC` when that does not fit; as fstat(2).
    pub(super) fn admit_truncation(
        &self,
        node: u64,
        charge: &Charge,
        file: BorrowedFd<'_>,
        size: u64,
    ) -> Result<Admitted<'_>, Errno> {
        let mut admitted = self.admit_change(node, charge, file)?;
        let mut state = charge.state.lock();
        if state.mappers > 0 && size > state.size {
            let bytes = state.bytes.unwrap_or(0);
            self.change_hold(&mut state, ceil_block(size).saturating_sub(bytes))?;
        }
        drop(state);
        self.begin_cut(charge, &mut admitted);
        Ok(admitted)
    }

    /// Holes may appear anywhere from now on, until the change is booked. It has to be booked.
    pub(super) fn begin_cut(&self, charge: &Charge, admitted: &mut Admitted<'_>) {
        let mut state = charge.state.lock();
        state.cutters += 1;
        state.cuts += 1;
        admitted.is_cut = true;
        charge.dense_end.store(0, Ordering::Release);
    }

    /// Books a change of any kind. Returns by how much the file's charge grew.
    pub(super) fn settle_change(
        &self,
        node: u64,
        charge: &Charge,
        file: BorrowedFd<'_>,
        admitted: Admitted<'_>,
    ) -> i64 {
        if admitted.is_cut {
            charge.state.lock().cutters -= 1;
        }
        self.settle(node, charge, file, admitted.reservation)
    }

    /// Looks at the inode again and books the difference to what was charged, which it returns.
    fn settle(
        &self,
        node: u64,
        charge: &Charge,
        file: BorrowedFd<'_>,
        reservation: Option<Reservation<'_>>,
    ) -> i64 {
        let mut state = charge.state.lock();
        if state.is_gone {
            return 0;
        }
        let stat = match rustix::fs::fstat(file) {
            Ok(stat) => stat,
            Err(errno) => {
                // The reservation goes back with its drop; a recount finds what was really taken.
                tracing::error!(ino = node, %errno, "a change cannot be booked; the project is counted again");
                self.account.set_estimated(true);
                return 0;
            }
        };
        let (size, bytes) = (size_of(&stat), self.accounting.charge_of_open(&stat));
        let delta = signed(bytes) - signed(state.bytes.unwrap_or(bytes));
        let added = signed(ceil_block(size)) - signed(ceil_block(state.size));
        let wanted = if state.mappers > 0 { ceil_block(size).saturating_sub(bytes) } else { 0 };
        let released = state.hold.saturating_sub(wanted);
        self.book(node, &mut state, size, bytes, reservation, released);
        state.hold -= released;
        state.inferred = 0;
        state.changed = Some(Instant::now());
        state.looks = 0;
        charge.is_kept.store(true, Ordering::Relaxed);
        // Once it has needed blocks for its extents, they may go a while after the data.
        let glows = match self.accounting {
            Accounting::Allocated => charge.glows.load(Ordering::Relaxed) || bytes.max(size) > SELF_CONTAINED,
            Accounting::AllocatedToSize => true,
            Accounting::Logical => false,
        };
        charge.glows.store(glows, Ordering::Relaxed);
        if glows {
            self.note_glow();
        }
        self.measure(charge, &state, file);
        state.is_plain = self.is_plain(charge, &state, file, delta, added);
        if let Err(errno) = self.change_hold(&mut state, wanted) {
            tracing::debug!(ino = node, %errno, "no space is held for holes that a mapping may fill");
        }
        delta
    }

    /// Books that a file has `size` bytes and is charged for `bytes`, with the reservation that was made for it.
    fn book(
        &self,
        node: u64,
        state: &mut Charged,
        size: u64,
        bytes: u64,
        reservation: Option<Reservation<'_>>,
        released: u64,
    ) {
        let delta = signed(bytes) - signed(state.bytes.unwrap_or(bytes));
        let recount = self.recount.load();
        let counted = recount.as_ref().map(|recount| recount.lock(node));
        match reservation {
            Some(reservation) => reservation.settle_held(delta, released),
            None if delta != 0 || released != 0 => self.account.settle_held(delta, released),
            None => {}
        }
        if let Some(mut counted) = counted {
            counted.set(node, bytes, 1);
        }
        state.bytes = Some(bytes);
        state.size = size;
    }

    /// Takes part in a change of names. While the guard lives no recount is published.
    pub(super) fn begin_names(&self) -> Names<'_> {
        Names::begin_in(self)
    }

    /// Runs `publish` while no change of names is under way.
    pub(super) fn while_names_rest<T>(&self, patience: Duration, publish: impl FnOnce() -> T) -> Option<T> {
        let _alone = self.gate.try_write_for(patience)?;
        Some(publish())
    }

    /// Counts an inode for a recount: by its entry if it has one, else by what statx(2) said a moment ago.
    pub(super) fn count(
        &self,
        recount: &Recount,
        node: u64,
        stat: &Stat,
        handle: impl FnOnce() -> Result<FileHandle, Errno>,
    ) {
        let mut shard = self.shard(node).lock();
        let Some(charge) = shard.get(&node).cloned() else {
            // Nobody can make an entry, and so change the file, before this is done.
            let bytes = self.accounting.charge(stat);
            recount.lock(node).set_if_absent(node, bytes, 1);
            // Gone again where it has no handle.
            if self.may_glow_below(stat)
                && shard.len() < MAX_GLOWING / SHARDS
                && let Ok(handle) = handle()
            {
                let charge = Charge { glows: AtomicBool::new(true), ..Charge::default() };
                {
                    let mut state = charge.state.lock();
                    (state.bytes, state.size) = (Some(bytes), stat.stx_size);
                    state.changed = Some(Instant::now());
                    state.handle = Some(handle);
                }
                shard.insert(node, Arc::new(charge));
            }
            return;
        };
        drop(shard);
        let state = charge.state.lock();
        let bytes = state.bytes.unwrap_or_else(|| self.accounting.charge(stat));
        recount.lock(node).set_if_absent(node, bytes, 1);
    }

    /// Returns what is charged for an inode, if it has an entry.
    pub(super) fn charged(&self, node: u64) -> Option<u64> {
        self.find(node).and_then(|charge| charge.state.lock().bytes)
    }

    /// Looks again at a file that was closed, if that may have freed blocks beyond its end which it was charged for: on XFS
    /// a sparse one, since others are never charged for more than their size.
    pub(super) fn closed(&self, node: u64, reach: Reach<'_>) {
        if self.accounting == Accounting::AllocatedToSize
            && let Some(charge) = self.find(node)
            && charge.may_be_trimmed()
        {
            self.look_again(node, &charge, reach);
        }
    }

    /// Lets go of an entry that nobody holds and under which nothing was changed.
    pub(super) fn let_go(&self, node: u64) {
        let mut shard = self.shard(node).lock();
        let is_needless = shard.get(&node).is_some_and(|charge| {
            let mut state = charge.state.lock();
            if charge.is_kept.load(Ordering::Relaxed) {
                // Also by writes that took no space.
                state.changed = Some(Instant::now());
            }
            Arc::strong_count(charge) == 1 && state.changed.is_none() && state.mappers == 0
        });
        if is_needless {
            shard.remove(&node);
        }
    }

    /// Remembers how an inode is reached that the kernel is about to forget.
    pub(super) fn remember(&self, node: u64, handle: FileHandle) {
        if let Some(charge) = self.find(node) {
            charge.state.lock().handle = Some(handle);
        }
    }
}

/// Goes on across a change of workers.
fn seconds_since_boot() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0)
}

fn errno_of(refusal: &Refusal) -> Errno {
    refusals::remember(refusal);
    refusal.errno
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn size_of(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}
