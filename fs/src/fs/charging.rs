//! What each file costs its project, kept exact through every change.
//!
//! A *charge* is the bytes that an inode is billed for ([`Accounting`]). The ledger's `used` is the sum of all
//! charges. An inode that is open for writing, or that was changed a moment ago, has an entry here with the charge
//! that `used` contains at this moment; of all others the charge is what statx(2) says. Every change follows one
//! pattern: *admit* (reserve the worst case; the only step that may refuse), change, *settle* (look at the inode and
//! book the difference to what was charged before, under the entry's lock). Differences telescope, so that neither
//! the order of racing writers nor a short or failed call matters.
//!
//! Filesystems change `st_blocks` after the fact: ext4 allocates extent blocks and btrfs inlines small files when
//! dirty pages are written back. So the entry of a larger file outlives its last change by [`AFTERGLOW`] and is looked
//! at once more. Every other entry stays for [`ECHO`]: the watcher reports our own changes like foreign ones, and a
//! change of an inode without an entry is one that went past us.
//!
//! Locks, in this order: the namespace gate (shared by all changes of names, taken exclusively for an instant by a
//! recount that publishes), a shard of the table, one entry, a shard of the recount.

mod names;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use rustix::io::Errno;

pub(super) use self::names::Names;
use super::recount::Recount;
use super::refusals;
use crate::backing::Stat;
use crate::quota::{Account, Refusal, Reservation};
use crate::state::mark;
use crate::sys::handle::FileHandle;
use crate::sys::shared_memory::SharedMemory;

/// The unit of allocation that quota counts in.
pub(super) const BLOCK: u64 = 4096;
/// Locks that the table is divided by.
const SHARDS: usize = 64;
/// Dirty pages are written back after 30 s at most (`vm.dirty_expire_centisecs`), looked for every 5 s.
const AFTERGLOW: Duration = Duration::from_secs(40);
/// How long a report of our own change may take.
const ECHO: Duration = Duration::from_secs(10);
/// Entries of files that are not open at most; beyond that the oldest are looked at early.
const MAX_GLOWING: usize = 65_536;
/// A file of so many bytes fits into the extents that an ext4 inode holds itself.
const SELF_CONTAINED: u64 = 4 * BLOCK;

/// How an inode's bytes are counted (`quota report` shows it).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accounting {
    /// Blocks allocated on the disk: ext4, tmpfs, btrfs without compression.
    Allocated,
    /// The same, but never more than the size: XFS allocates speculatively beyond the end.
    AllocatedToSize,
    /// The size in whole blocks: where `st_blocks` lags or lies (network filesystems, compression).
    Logical,
}

impl Accounting {
    /// Returns the bytes that a regular file is billed for; whole blocks of 4 KiB.
    pub(crate) fn charge(self, stat: &Stat) -> u64 {
        if u32::from(stat.stx_mode) & libc::S_IFMT != libc::S_IFREG {
            return 0;
        }
        self.charge_of(stat.stx_size, stat.stx_blocks)
    }

    fn charge_of(self, size: u64, blocks: u64) -> u64 {
        let allocated = ceil_block(blocks.saturating_mul(512));
        match self {
            Self::Allocated => allocated,
            Self::AllocatedToSize => allocated.min(ceil_block(size)),
            Self::Logical => ceil_block(size),
        }
    }
}

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
}

/// An open for reading and writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mapper {
    /// It is being opened.
    New,
    /// A worker before this one has opened it; what was granted then is not refused now.
    Inherited,
}

/// How a file that is not open is reached.
pub(super) type Reach<'a> = &'a dyn Fn(u64, Option<FileHandle>) -> Result<Option<Stat>, Errno>;

#[derive(Default)]
struct Charged {
    /// What `used` contains for it; `None` until it was looked at.
    bytes: Option<u64>,
    size: u64,
    /// Reserved beside it for stores through a shared mapping (see [`Charging::begin_mapping`]).
    hold: u64,
    /// Opens that a shared writable mapping may come from.
    mappers: u32,
    changed: Option<Instant>,
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
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Growth {
    /// Only blocks that are charged already.
    None,
    /// The size grows within the last block.
    WithinBlock,
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
        let mut state = charge.state.lock();
        if state.bytes.is_none() {
            let stat = rustix::fs::fstat(file)?;
            self.first_look(node, charge, &mut state, size_of(&stat), blocks_of(&stat));
        }
        Ok(())
    }

    fn first_look(&self, node: u64, charge: &Charge, state: &mut Charged, size: u64, blocks: u64) -> u64 {
        let bytes = self.accounting.charge_of(size, blocks);
        state.bytes = Some(bytes);
        state.size = size;
        charge.dense_end.store(if bytes >= ceil_block(size) { size } else { 0 }, Ordering::Release);
        if let Some(recount) = &*self.recount.load() {
            recount.set(node, bytes, 1);
        }
        bytes
    }

    /// Enters an inode that was just created.
    pub(super) fn created(&self, node: u64, charge: &Charge, stat: &Stat) {
        // What is there stems from a file with this number that was removed below the mount.
        let mut state = charge.state.lock();
        let bytes = self.first_look(node, charge, &mut state, stat.stx_size, stat.stx_blocks);
        if bytes > 0 {
            self.account.settle(signed(bytes), 0);
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
        let free = |kind| Admitted { length, reservation: None, _pending: None, kind };
        let dense_end = charge.dense_end.load(Ordering::Acquire);
        if dense_end > 0 && offset <= dense_end {
            if end <= dense_end {
                return Ok(free(Growth::None));
            }
            if end <= ceil_block(dense_end) {
                return Ok(free(Growth::WithinBlock));
            }
        }
        self.look(node, charge, file)?;
        let dense_end = charge.dense_end.load(Ordering::Acquire);
        let is_dense = dense_end > 0 && offset <= dense_end;
        let first_new = if is_dense { ceil_block(dense_end) } else { floor_block(offset) };
        let wanted = ceil_block(end).saturating_sub(first_new);
        self.hold_gap(charge, offset, end)?;
        let pending = Some(self.pending());
        let least = if first_new > offset { 0 } else { BLOCK };
        let reserved = self.account.reserve(wanted, least, 0, end.max(self.size_now(charge)));
        let (granted, reservation) = match reserved {
            Ok(reservation) => (reservation.bytes(), Some(reservation)),
            Err(_) if first_new > offset => (0, None),
            Err(refusal) => return Err(errno_of(&refusal)),
        };
        let allowed_end = if granted >= wanted { end } else { end.min(first_new + granted) };
        let length = usize::try_from(allowed_end - offset).map_err(|_| Errno::OVERFLOW)?;
        Ok(Admitted { length, reservation, _pending: pending, kind: Growth::Blocks })
    }

    fn size_now(&self, charge: &Charge) -> u64 {
        charge.state.lock().size
    }

    /// Books a write of which `written` bytes were written, none if it failed. Returns by how much the file's charge
    /// grew.
    pub(super) fn settle_write(
        &self,
        node: u64,
        charge: &Charge,
        file: BorrowedFd<'_>,
        admitted: Admitted<'_>,
        offset: u64,
        written: usize,
    ) -> i64 {
        match admitted.kind {
            Growth::None => 0,
            Growth::WithinBlock => {
                // The kernel holds the inode's lock exclusively for a write beyond the end, and for truncations.
                charge.dense_end.fetch_max(offset + written as u64, Ordering::AcqRel);
                0
            }
            Growth::Blocks => self.settle(node, charge, file, admitted.reservation),
        }
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
        let wanted = ceil_block(end).saturating_sub(first_new);
        self.hold_gap(charge, offset, end)?;
        let pending = Some(self.pending());
        let least = match (is_divisible, first_new > offset) {
            (true, true) => 0,
            (true, false) => BLOCK.min(wanted),
            (false, _) => wanted,
        };
        let reservation =
            self.account.reserve(wanted, least, 0, end).map_err(|refusal| errno_of(&refusal))?;
        let allowed_end =
            if reservation.bytes() >= wanted { end } else { end.min(first_new + reservation.bytes()) };
        let length = usize::try_from(allowed_end - offset).map_err(|_| Errno::OVERFLOW)?;
        Ok(Admitted { length, reservation: Some(reservation), _pending: pending, kind: Growth::Blocks })
    }

    /// Keeps an entry of an inode whose attributes are changed, so that the watcher's report of it is known as ours.
    pub(super) fn note_touched(&self, node: u64, file: BorrowedFd<'_>) -> Result<(), Errno> {
        let charge = self.entry(node);
        self.look(node, &charge, file)?;
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
        Ok(Admitted { length: 0, reservation: None, _pending: Some(self.pending()), kind: Growth::Blocks })
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
        let admitted = self.admit_change(node, charge, file)?;
        let mut state = charge.state.lock();
        if state.mappers > 0 && size > state.size {
            let bytes = state.bytes.unwrap_or(0);
            self.change_hold(&mut state, ceil_block(size).saturating_sub(bytes))?;
        }
        // What is cut off must not count as known while it goes.
        charge.dense_end.store(0, Ordering::Release);
        drop(state);
        Ok(admitted)
    }

    /// Holes may appear anywhere from now on, until the change is booked.
    pub(super) fn forget_density(&self, charge: &Charge) {
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
        let stat = match rustix::fs::fstat(file) {
            Ok(stat) => stat,
            Err(errno) => {
                // The reservation goes back with its drop; a recount finds what was really taken.
                tracing::error!(ino = node, %errno, "a change cannot be booked; the project is counted again");
                self.account.set_estimated(true);
                return 0;
            }
        };
        let (size, blocks) = (size_of(&stat), blocks_of(&stat));
        let bytes = self.accounting.charge_of(size, blocks);
        let delta = signed(bytes) - signed(state.bytes.unwrap_or(bytes));
        let recount = self.recount.load();
        let counted = recount.as_ref().map(|recount| recount.lock(node));
        match reservation {
            Some(reservation) => reservation.settle(delta, 0),
            None if delta != 0 => self.account.settle(delta, 0),
            None => {}
        }
        if let Some(mut counted) = counted {
            counted.set(node, bytes, 1);
        }
        state.bytes = Some(bytes);
        state.size = size;
        state.changed = Some(Instant::now());
        charge
            .glows
            .store(bytes > SELF_CONTAINED || self.accounting != Accounting::Allocated, Ordering::Relaxed);
        charge.dense_end.store(if bytes >= ceil_block(size) { size } else { 0 }, Ordering::Release);
        if state.mappers > 0 || state.hold > 0 {
            let wanted = if state.mappers > 0 { ceil_block(size).saturating_sub(bytes) } else { 0 };
            if let Err(errno) = self.change_hold(&mut state, wanted) {
                tracing::debug!(ino = node, %errno, "no space is held for holes that a mapping may fill");
            }
        }
        delta
    }

    /// Before a write far beyond the end of a file that may be mapped: the hole may be filled by stores.
    fn hold_gap(&self, charge: &Charge, offset: u64, _end: u64) -> Result<(), Errno> {
        let mut state = charge.state.lock();
        if state.mappers == 0 {
            return Ok(());
        }
        let gap = floor_block(offset).saturating_sub(ceil_block(state.size));
        if gap == 0 {
            Ok(())
        } else {
            let hold = state.hold + gap;
            self.change_hold(&mut state, hold)
        }
    }

    fn change_hold(&self, state: &mut Charged, wanted: u64) -> Result<(), Errno> {
        if state.hold != wanted {
            // Whatever is held belongs to a file that may become as large as it looks.
            let end = state.size.max(wanted);
            self.account.adjust_hold(state.hold, wanted, end).map_err(|refusal| errno_of(&refusal))?;
            state.hold = wanted;
        }
        Ok(())
    }

    /// Begins an open for reading and writing: a shared mapping of it may fill every hole unseen, so the holes are
    /// reserved for as long as it is open.
    ///
    /// # Errors
    /// `EDQUOT` or `ENOSPC` when they do not fit; as fstat(2).
    pub(super) fn begin_mapping(
        &self,
        node: u64,
        charge: &Charge,
        file: BorrowedFd<'_>,
        mapper: Mapper,
    ) -> Result<(), Errno> {
        self.look(node, charge, file)?;
        let mut state = charge.state.lock();
        let wanted = ceil_block(state.size).saturating_sub(state.bytes.unwrap_or(0));
        match mapper {
            Mapper::New => self.change_hold(&mut state, wanted)?,
            Mapper::Inherited if state.hold == 0 => {
                self.account.adopt_hold(wanted);
                state.hold = wanted;
            }
            Mapper::Inherited => {}
        }
        state.mappers += 1;
        Ok(())
    }

    /// Ends an open for reading and writing: books what stores through mappings have allocated.
    pub(super) fn end_mapping(&self, node: u64, charge: &Charge, file: Option<BorrowedFd<'_>>) {
        let mut state = charge.state.lock();
        state.mappers = state.mappers.saturating_sub(1);
        let was_last = state.mappers == 0;
        drop(state);
        match file {
            Some(file) => {
                self.settle(node, charge, file, None);
            }
            None if was_last => {
                let mut state = charge.state.lock();
                if self.change_hold(&mut state, 0).is_err() {
                    tracing::error!(ino = node, "space that was held for a mapping is not given back");
                }
            }
            None => {}
        }
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
    pub(super) fn count(&self, recount: &Recount, node: u64, stat: &Stat) {
        let shard = self.shard(node).lock();
        let Some(charge) = shard.get(&node).cloned() else {
            // Nobody can make an entry, and so change the file, before this is done.
            recount.lock(node).set_if_absent(node, self.accounting.charge(stat), 1);
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

    /// Lets go of an entry that nobody holds and under which nothing was changed.
    pub(super) fn let_go(&self, node: u64) {
        let mut shard = self.shard(node).lock();
        if let Some(charge) = shard.get(&node)
            && Arc::strong_count(charge) == 1
            && charge.state.lock().changed.is_none()
        {
            shard.remove(&node);
        }
    }

    /// Remembers how an inode is reached that the kernel is about to forget.
    pub(super) fn remember(&self, node: u64, handle: FileHandle) {
        if let Some(charge) = self.find(node) {
            charge.state.lock().handle = Some(handle);
        }
    }

    /// Drops an inode's entry and returns what was charged for it.
    pub(super) fn forget(&self, node: u64) -> Option<u64> {
        let charge = self.shard(node).lock().remove(&node)?;
        let mut state = charge.state.lock();
        if self.change_hold(&mut state, 0).is_err() {
            tracing::error!(ino = node, "space that was held for a mapping is not given back");
        }
        state.bytes
    }

    /// Looks once more at inodes that were changed and closed a while ago, and lets go of them.
    pub(super) fn cool(&self, now: Instant, reach: Reach<'_>) {
        let mut closed: Vec<(Instant, u64)> = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|node, charge| {
                if Arc::strong_count(charge) > 1 {
                    return true;
                }
                let Some(changed) = charge.state.lock().changed else { return false };
                closed.push((changed, *node));
                true
            });
        }
        closed.sort_unstable();
        let surplus = closed.len().saturating_sub(MAX_GLOWING);
        for (position, (changed, node)) in closed.into_iter().enumerate() {
            let Some(charge) = self.find(node) else { continue };
            let age = now.saturating_duration_since(changed);
            let glows = charge.glows.load(Ordering::Relaxed);
            let is_due = age >= if glows { AFTERGLOW } else { ECHO };
            if !is_due && position >= surplus {
                continue;
            }
            if glows && !self.look_again(node, &charge, reach) {
                continue;
            }
            let mut shard = self.shard(node).lock();
            // The table and this function hold it; nobody else can come while the shard is locked.
            if Arc::strong_count(&charge) == 2 {
                shard.remove(&node);
            }
        }
    }

    /// Looks at every inode that has an entry.
    pub(super) fn look_at_all(&self, reach: Reach<'_>) {
        for shard in &self.shards {
            let nodes: Vec<u64> = shard.lock().keys().copied().collect();
            for node in nodes {
                self.recheck(node, reach);
            }
        }
    }

    /// Books what has become of an inode that somebody may have changed below the mount. Returns whether that could
    /// be done: not without an entry, because then it is not known what is booked for it.
    pub(super) fn recheck(&self, node: u64, reach: Reach<'_>) -> bool {
        self.find(node).is_some_and(|charge| self.look_again(node, &charge, reach))
    }

    fn look_again(&self, node: u64, charge: &Charge, reach: Reach<'_>) -> bool {
        let mut state = charge.state.lock();
        let stat = match reach(node, state.handle) {
            Ok(Some(stat)) => stat,
            // Deleted meanwhile: who deleted it has booked that.
            Ok(None) => return true,
            Err(errno) => {
                tracing::debug!(ino = node, %errno, "a changed file cannot be looked at; later");
                return false;
            }
        };
        let Some(booked) = state.bytes else { return true };
        let bytes = self.accounting.charge(&stat);
        if bytes != booked {
            let _pending = self.pending();
            let recount = self.recount.load();
            let counted = recount.as_ref().map(|recount| recount.lock(node));
            self.account.settle(signed(bytes) - signed(booked), 0);
            if let Some(mut counted) = counted {
                counted.set(node, bytes, 1);
            }
            state.bytes = Some(bytes);
            state.size = stat.stx_size;
            let dense_end = if bytes >= ceil_block(stat.stx_size) { stat.stx_size } else { 0 };
            charge.dense_end.store(dense_end, Ordering::Release);
        }
        true
    }
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

fn blocks_of(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0)
}
