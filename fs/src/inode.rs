//! The table of every inode that the kernel knows.
//!
//! A *node* is what the kernel calls an inode of ours: a 64-bit number. It is the backing inode number (with
//! the subvolume folded in on btrfs), so that `st_ino` is what users see on the host and stays the same over
//! remounts; `fuser` sends one number for both in every entry reply. Numbers that a filesystem uses again are
//! told apart by the *generation*, a digest of the file handle: the kernel drops the old inode as soon as a
//! lookup answers with another generation (`fuse_stale_inode` in fs/fuse/inode.c), and the old handle opens
//! nothing (ESTALE).
//!
//! The table lives in a memfd that the keeper holds as well, one 64-byte line an inode, so that another worker
//! can take over ([`crate::state`]). What lives here besides is an index that can be rebuilt from it.
//!
//! Invariant: `lookups` of a node is the number of references that the kernel holds, counted exactly: raised by
//! one before each reply that carries the node, lowered by FORGET. At 0 the line is free.
//!
//! Locks: one of [`SHARDS`] shard locks for a few instructions, never across a system call other than giving a
//! page back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hashbrown::HashTable;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::io::Errno;

use crate::state::{DEVICES, INODES, mark};
use crate::sys::handle::FileHandle;
use crate::sys::shared_memory::{LINES_PER_PAGE, Line, SharedMemory};

/// The root's node, fixed by the protocol (`FUSE_ROOT_ID`).
pub(crate) const ROOT_NODE: u64 = 1;

/// Nodes from here on stand for no inode of the backing filesystem ([`crate::fs`] has virtual ones there); an inode whose
/// number would lie there cannot be shown.
pub(crate) const FIRST_RESERVED_NODE: u64 = u64::MAX - 0xff;

/// Nodes from here up to [`FIRST_RESERVED_NODE`] are inodes as they were at a snapshot, and the lists of snapshots. No
/// filesystem numbers its inodes that high; one that did could not be shown.
pub(crate) const FIRST_PAST_NODE: u64 = 0b111 << 61;

/// Whether a node is an inode as it was, or a list of snapshots.
pub(crate) fn is_past(node: u64) -> bool {
    (FIRST_PAST_NODE..FIRST_RESERVED_NODE).contains(&node)
}

/// Locks that the index is divided by.
const SHARDS: usize = 64;
/// Where a second, third … filesystem's index is folded into a node number.
const DEVICE_SHIFT: u32 = 54;
/// Filesystems (btrfs subvolumes) below one workspace.
const MAX_DEVICES: usize = 512;

/// Words of a line.
mod word {
    pub(super) const NODE: usize = 0;
    pub(super) const LOOKUPS: usize = 1;
    /// Generation in the low half, [`super::Life`] in bits 32 to 39, the upper byte of `st_mode & S_IFMT` in bits
    /// 40 to 47 (its lower byte is 0), handle type and length above.
    pub(super) const SHAPE: usize = 2;
    /// Backing id in the low half, open count in the high half. Of a past node [`super::Inode::past`] in the high half.
    pub(super) const OPENS: usize = 3;
    pub(super) const HANDLE: usize = 4;
}

/// Whether an inode still has a name, as far as the quota is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It has one.
    Named,
    /// It has none and is open: it is charged until its last release.
    DeletedOpen,
    /// It has none and is not charged any more.
    Gone,
}

impl Life {
    const SHIFT: u32 = 32;
    const MASK: u64 = 0xff << Self::SHIFT;

    fn bits(self) -> u64 {
        let value: u64 = match self {
            Self::Named => 0,
            Self::DeletedOpen => 1,
            Self::Gone => 2,
        };
        value << Self::SHIFT
    }

    fn of(shape: u64) -> Self {
        match (shape & Self::MASK) >> Self::SHIFT {
            0 => Self::Named,
            1 => Self::DeletedOpen,
            _ => Self::Gone,
        }
    }
}

/// A copy of one line: what an operation needs to know of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    /// The number the kernel uses.
    pub(crate) node: u64,
    /// Tells two lives of the number apart; of a past node the directory of snapshots that it was reached through.
    pub(crate) generation: u32,
    /// `S_IFMT` bits; a file never changes its type.
    pub(crate) file_type: u32,
    /// The identity on the backing filesystem.
    pub(crate) handle: FileHandle,
    /// The number of the snapshot that shows it; 0 for an inode as it is, and for a list of snapshots.
    pub(crate) past: u32,
}

impl Inode {
    /// Whether it is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.file_type == libc::S_IFDIR
    }
}

/// What becomes of an identity that contradicts the one by which a node is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Disputed {
    Taken,
    Refused,
}

/// See the module.
pub(crate) struct InodeTable {
    memory: Arc<SharedMemory>,
    shards: Vec<Mutex<Shard>>,
    next_block: AtomicU32,
    free_blocks: Mutex<Vec<u32>>,
    known: AtomicU64,
    devices: Mutex<Vec<u64>>,
    root_device: u64,
}

/// The part of the index for the nodes that hash here.
#[derive(Default)]
struct Shard {
    index: HashTable<u32>,
    /// Blocks (pages of the table) of this shard with their free lines as bits.
    blocks: FxHashMap<u32, u64>,
    /// Those with at least one free line; the last is used next.
    available: Vec<u32>,
}

impl InodeTable {
    /// Starts an empty table with the root in it.
    ///
    /// # Errors
    /// `ENFILE`, which cannot happen in an empty table.
    pub(crate) fn create(
        memory: Arc<SharedMemory>,
        root: FileHandle,
        root_device: u64,
    ) -> Result<Self, Errno> {
        let table = Self::empty(memory, root_device);
        let root = Inode {
            node: ROOT_NODE,
            generation: root.generation(),
            file_type: libc::S_IFDIR,
            handle: root,
            past: 0,
        };
        table.add_lookup(&root)?;
        Ok(table)
    }

    /// Takes over the table that a worker before this one left.
    ///
    /// Returns the nodes for which a backing id is registered as well.
    pub(crate) fn attach(memory: Arc<SharedMemory>, root_device: u64) -> (Self, Vec<(u64, u32)>) {
        let table = Self::empty(memory, root_device);
        let blocks = table.memory.line(mark::INODES)[0].load(Ordering::Acquire);
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX).min((INODES.lines / LINES_PER_PAGE) as u32);
        table.next_block.store(blocks, Ordering::Relaxed);
        let mut registered = Vec::new();
        for block in 0..blocks {
            table.attach_block(block, &mut registered);
        }
        table.attach_devices();
        (table, registered)
    }

    fn empty(memory: Arc<SharedMemory>, root_device: u64) -> Self {
        Self {
            memory,
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect(),
            next_block: AtomicU32::new(0),
            free_blocks: Mutex::new(Vec::new()),
            known: AtomicU64::new(0),
            devices: Mutex::new(Vec::new()),
            root_device,
        }
    }

    /// All live lines of a block belong to one shard: the one that had taken it.
    fn attach_block(&self, block: u32, registered: &mut Vec<(u64, u32)>) {
        let first = block * LINES_PER_PAGE as u32;
        let mut live = Vec::new();
        let mut free = u64::MAX;
        for bit in 0..LINES_PER_PAGE as u32 {
            let node = self.line(first + bit)[word::NODE].load(Ordering::Acquire);
            if node != 0 {
                let opens = self.line(first + bit)[word::OPENS].load(Ordering::Acquire);
                if opens & 0xffff_ffff != 0 {
                    registered.push((node, (opens & 0xffff_ffff) as u32));
                }
                free &= !(1 << bit);
                live.push((node, first + bit));
            }
        }
        let Some((owner, _)) = live.first() else {
            self.free_blocks.lock().push(block);
            return;
        };
        let mut shard = self.shard(*owner).lock();
        shard.blocks.insert(block, free);
        if free != 0 {
            shard.available.push(block);
        }
        let hasher = |slot: &u32| hash(self.line(*slot)[word::NODE].load(Ordering::Acquire));
        for (node, slot) in &live {
            shard.index.insert_unique(hash(*node), *slot, hasher);
        }
        self.known.fetch_add(live.len() as u64, Ordering::Relaxed);
    }

    fn attach_devices(&self) {
        let mut devices = self.devices.lock();
        for position in 0..MAX_DEVICES {
            match self.device_word(position).load(Ordering::Acquire) {
                0 => break,
                device => devices.push(device),
            }
        }
    }

    fn device_word(&self, position: usize) -> &AtomicU64 {
        &self.memory.line(DEVICES.first + position / 8)[position % 8]
    }

    /// Returns the node number for a backing inode.
    ///
    /// # Errors
    /// `EOVERFLOW` when more than [`MAX_DEVICES`] filesystems lie below the workspace.
    pub(crate) fn node_number(&self, device: u64, ino: u64) -> Result<u64, Errno> {
        let folded = if device == self.root_device {
            ino
        } else {
            let mut devices = self.devices.lock();
            let position = match devices.iter().position(|known| *known == device) {
                Some(position) => position,
                None if devices.len() < MAX_DEVICES => {
                    self.device_word(devices.len()).store(device, Ordering::Release);
                    devices.push(device);
                    devices.len() - 1
                }
                None => return Err(Errno::OVERFLOW),
            };
            ino ^ ((position as u64 + 1) << DEVICE_SHIFT)
        };
        // Only the root may have number 1, and 0 means "no entry".
        let number = if folded <= ROOT_NODE { folded | (1 << 63) } else { folded };
        if number >= FIRST_PAST_NODE { Err(Errno::OVERFLOW) } else { Ok(number) }
    }

    /// Returns the inode behind a node.
    ///
    /// # Errors
    /// `ESTALE` when the kernel should not know it any more.
    pub(crate) fn get(&self, node: u64) -> Result<Inode, Errno> {
        let shard = self.shard(node).lock();
        let slot = shard.find(self, node).ok_or(Errno::STALE)?;
        Ok(read_inode(self.line(slot)))
    }

    /// Whether the kernel knows a node.
    pub(crate) fn knows(&self, node: u64) -> bool {
        self.shard(node).lock().find(self, node).is_some()
    }

    /// As [`Self::add_lookup`], unless the node is known by another identity: then it counts nothing and returns
    /// whether it did.
    ///
    /// # Errors
    /// As [`Self::add_lookup`].
    pub(crate) fn add_undisputed_lookup(&self, inode: &Inode) -> Result<bool, Errno> {
        self.count(inode, Disputed::Refused)
    }

    /// Returns how many references of the kernel are counted; `None` for a node that it does not know.
    pub(crate) fn lookups(&self, node: u64) -> Option<u64> {
        let shard = self.shard(node).lock();
        let slot = shard.find(self, node)?;
        Some(self.line(slot)[word::LOOKUPS].load(Ordering::Acquire))
    }

    /// Counts one more reference of the kernel, entering the inode if it is new.
    ///
    /// A node whose number is used for another file now takes that file's identity.
    ///
    /// # Errors
    /// `ENFILE` when the table is full.
    pub(crate) fn add_lookup(&self, inode: &Inode) -> Result<(), Errno> {
        self.count(inode, Disputed::Taken).map(drop)
    }

    fn count(&self, inode: &Inode, disputed: Disputed) -> Result<bool, Errno> {
        let mut shard = self.shard(inode.node).lock();
        if let Some(slot) = shard.find(self, inode.node) {
            let line = self.line(slot);
            if read_inode(line) != *inode {
                if disputed == Disputed::Refused {
                    return Ok(false);
                }
                // A worker that dies in between leaves a mixture, which opens nothing and is written anew by the next
                // lookup; the counts stay right.
                write_inode(line, inode);
            }
            line[word::LOOKUPS].fetch_add(1, Ordering::AcqRel);
            return Ok(true);
        }
        let slot = self.allocate(&mut shard)?;
        let line = self.line(slot);
        line[word::LOOKUPS].store(1, Ordering::Release);
        line[word::OPENS].store(0, Ordering::Release);
        write_inode(line, inode);
        let hasher = |slot: &u32| hash(self.line(*slot)[word::NODE].load(Ordering::Acquire));
        shard.index.insert_unique(hash(inode.node), slot, hasher);
        self.known.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }

    /// Takes back `lookups` references; returns the inode if those were the last.
    pub(crate) fn forget(&self, node: u64, lookups: u64) -> Option<Inode> {
        if node == ROOT_NODE {
            return None;
        }
        let mut shard = self.shard(node).lock();
        let slot = shard.find(self, node)?;
        let line = self.line(slot);
        let left = line[word::LOOKUPS].load(Ordering::Acquire).saturating_sub(lookups);
        line[word::LOOKUPS].store(left, Ordering::Release);
        if left > 0 {
            return None;
        }
        let inode = read_inode(line);
        shard.remove(self, node);
        self.free(&mut shard, slot);
        self.known.fetch_sub(1, Ordering::Relaxed);
        Some(inode)
    }

    /// Notes whether an inode still has a name; returns what was noted before, [`Life::Named`] for one that the
    /// kernel does not know.
    pub(crate) fn set_life(&self, node: u64, life: Life) -> Life {
        let shard = self.shard(node).lock();
        let Some(slot) = shard.find(self, node) else { return Life::Named };
        let word = &self.line(slot)[word::SHAPE];
        let shape = word.load(Ordering::Acquire);
        word.store(shape & !Life::MASK | life.bits(), Ordering::Release);
        Life::of(shape)
    }

    /// Returns whether an inode still has a name.
    pub(crate) fn life(&self, node: u64) -> Life {
        let shard = self.shard(node).lock();
        let slot = shard.find(self, node);
        slot.map_or(Life::Named, |slot| Life::of(self.line(slot)[word::SHAPE].load(Ordering::Acquire)))
    }

    /// Mirrors how often a node is open and under which backing id, for a worker that takes over.
    pub(crate) fn set_opens(&self, node: u64, opens: u32, backing_id: u32) {
        let shard = self.shard(node).lock();
        if let Some(slot) = shard.find(self, node) {
            let packed = (u64::from(opens) << 32) | u64::from(backing_id);
            self.line(slot)[word::OPENS].store(packed, Ordering::Release);
        }
    }

    /// Returns how many inodes the kernel knows, the root included.
    pub(crate) fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    /// Calls `visit` with every node, a shard at a time, without a lock held during the call.
    pub(crate) fn for_each_node(&self, mut visit: impl FnMut(u64)) {
        for shard in &self.shards {
            let nodes: Vec<u64> = {
                let shard = shard.lock();
                shard.index.iter().map(|slot| self.line(*slot)[word::NODE].load(Ordering::Acquire)).collect()
            };
            nodes.into_iter().for_each(&mut visit);
        }
    }

    fn shard(&self, node: u64) -> &Mutex<Shard> {
        // The high bits, because the low ones place the entry within the shard's hash table.
        &self.shards[(hash(node) >> 58) as usize % SHARDS]
    }

    fn line(&self, slot: u32) -> &Line {
        self.memory.line(INODES.first + slot as usize)
    }

    fn allocate(&self, shard: &mut Shard) -> Result<u32, Errno> {
        if shard.available.is_empty() {
            let block = self.take_block()?;
            shard.blocks.insert(block, u64::MAX);
            shard.available.push(block);
        }
        let block = *shard.available.last().ok_or(Errno::NFILE)?;
        let free = shard.blocks.get_mut(&block).ok_or(Errno::NFILE)?;
        let bit = free.trailing_zeros();
        *free &= !(1 << bit);
        if *free == 0 {
            shard.available.pop();
        }
        Ok(block * LINES_PER_PAGE as u32 + bit)
    }

    fn take_block(&self) -> Result<u32, Errno> {
        if let Some(block) = self.free_blocks.lock().pop() {
            return Ok(block);
        }
        let block = self.next_block.fetch_add(1, Ordering::Relaxed);
        if block as usize >= INODES.lines / LINES_PER_PAGE {
            self.next_block.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::NFILE);
        }
        self.memory.line(mark::INODES)[0].fetch_max(u64::from(block) + 1, Ordering::AcqRel);
        Ok(block)
    }

    fn free(&self, shard: &mut Shard, slot: u32) {
        let line = self.line(slot);
        line[word::NODE].store(0, Ordering::Release);
        let (block, bit) = (slot / LINES_PER_PAGE as u32, slot % LINES_PER_PAGE as u32);
        let Some(free) = shard.blocks.get_mut(&block) else { return };
        let was_full = *free == 0;
        *free |= 1 << bit;
        let is_empty = *free == u64::MAX;
        if was_full {
            shard.available.push(block);
        }
        if is_empty && shard.available.len() > 1 {
            shard.available.retain(|other| *other != block);
            shard.blocks.remove(&block);
            self.memory.release_page(INODES.first + block as usize * LINES_PER_PAGE);
            self.free_blocks.lock().push(block);
        }
    }
}

impl Shard {
    fn find(&self, table: &InodeTable, node: u64) -> Option<u32> {
        let is_it = |slot: &u32| table.line(*slot)[word::NODE].load(Ordering::Acquire) == node;
        self.index.find(hash(node), is_it).copied()
    }

    fn remove(&mut self, table: &InodeTable, node: u64) {
        let is_it = |slot: &u32| table.line(*slot)[word::NODE].load(Ordering::Acquire) == node;
        if let Ok(entry) = self.index.find_entry(hash(node), is_it) {
            entry.remove();
        }
        if self.index.len() * 8 < self.index.capacity() && self.index.capacity() > 1024 {
            let hasher = |slot: &u32| hash(table.line(*slot)[word::NODE].load(Ordering::Acquire));
            self.index.shrink_to(self.index.len() * 2, hasher);
        }
    }
}

/// Inode numbers are often consecutive; a multiplicative hash spreads them over shards and buckets.
fn hash(node: u64) -> u64 {
    let mixed = node.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

fn read_inode(line: &Line) -> Inode {
    let shape = line[word::SHAPE].load(Ordering::Acquire);
    let handle = std::array::from_fn(|i| line[word::HANDLE + i].load(Ordering::Acquire));
    let [_, _, _, _, _life, type_high, kind, len] = shape.to_le_bytes();
    let node = line[word::NODE].load(Ordering::Acquire);
    let past = if is_past(node) { (line[word::OPENS].load(Ordering::Acquire) >> 32) as u32 } else { 0 };
    Inode {
        node,
        past,
        generation: (shape & 0xffff_ffff) as u32,
        file_type: u32::from(u16::from_le_bytes([0, type_high])),
        handle: FileHandle::from_words(kind, len, handle),
    }
}

/// The node number goes in last: a line with a number is complete (a worker may die in between).
fn write_inode(line: &Line, inode: &Inode) {
    let (kind, len, handle) = inode.handle.to_words();
    for (place, value) in line[word::HANDLE..].iter().zip(handle) {
        place.store(value, Ordering::Release);
    }
    let generation = inode.generation.to_le_bytes();
    let [_, file_type] = (inode.file_type as u16).to_le_bytes();
    let shape = [generation[0], generation[1], generation[2], generation[3], 0, file_type, kind, len];
    line[word::SHAPE].store(u64::from_le_bytes(shape), Ordering::Release);
    if is_past(inode.node) {
        line[word::OPENS].store(u64::from(inode.past) << 32, Ordering::Release);
    }
    line[word::NODE].store(inode.node, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;

    fn table() -> InodeTable {
        InodeTable::create(memory(), handle(1), 7).unwrap()
    }

    fn memory() -> Arc<SharedMemory> {
        let file = rustix::fs::memfd_create("table", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        crate::state::open(file.as_fd()).unwrap().0
    }

    fn handle(seed: u64) -> FileHandle {
        FileHandle::from_words(1, 8, [seed, 0, 0, 0])
    }

    fn inode(node: u64, life: u64) -> Inode {
        let handle = handle(node << 8 | life);
        Inode { node, generation: handle.generation(), file_type: libc::S_IFREG, handle, past: 0 }
    }

    #[test]
    fn past_node_is_known_to_a_successor_with_its_snapshot_and_as_no_open_file() {
        let memory = memory();
        let table = InodeTable::create(memory.clone(), handle(1), 7).unwrap();
        let past = Inode { past: 77, ..inode(FIRST_PAST_NODE + 20, 0) };
        assert_eq!(table.add_undisputed_lookup(&past), Ok(true));
        assert_eq!(table.add_undisputed_lookup(&Inode { past: 78, ..past }), Ok(false), "another snapshot");
        let (table, registered) = InodeTable::attach(memory, 7);
        assert_eq!((table.get(past.node), registered.len()), (Ok(past), 0));
        assert_eq!(table.forget(past.node, 1), Some(past));
    }

    #[test]
    fn forgotten_node_is_stale_only_after_its_last_lookup() {
        let table = table();
        table.add_lookup(&inode(20, 0)).unwrap();
        table.add_lookup(&inode(20, 0)).unwrap();
        assert_eq!(table.forget(20, 1), None);
        assert_eq!(table.get(20).unwrap(), inode(20, 0));
        assert_eq!(table.forget(20, 1), Some(inode(20, 0)));
        assert_eq!(table.get(20), Err(Errno::STALE));
    }

    #[test]
    fn reused_number_takes_the_new_identity_and_keeps_both_counts() {
        let table = table();
        table.add_lookup(&inode(20, 0)).unwrap();
        table.add_lookup(&inode(20, 1)).unwrap();
        assert_eq!(table.get(20).unwrap(), inode(20, 1));
        assert_eq!(table.forget(20, 1), None);
        assert_eq!(table.get(20).unwrap(), inode(20, 1));
    }

    #[test]
    fn life_is_kept_beside_the_identity_and_ends_with_it() {
        let memory = memory();
        let table = InodeTable::create(memory.clone(), handle(1), 7).unwrap();
        table.add_lookup(&inode(20, 0)).unwrap();
        assert_eq!(table.set_life(20, Life::DeletedOpen), Life::Named);
        table.add_lookup(&inode(20, 0)).unwrap();
        assert_eq!(table.get(20).unwrap(), inode(20, 0));
        let (table, _) = InodeTable::attach(memory, 7);
        assert_eq!(table.set_life(20, Life::Gone), Life::DeletedOpen);
        table.add_lookup(&inode(20, 1)).unwrap();
        assert_eq!(table.life(20), Life::Named);
        assert_eq!(table.set_life(21, Life::Gone), Life::Named, "unknown");
    }

    #[test]
    fn disputed_identity_is_neither_taken_nor_counted() {
        let table = table();
        assert_eq!(table.add_undisputed_lookup(&inode(20, 0)), Ok(true));
        assert_eq!(table.add_undisputed_lookup(&inode(20, 0)), Ok(true));
        assert_eq!(table.add_undisputed_lookup(&inode(20, 1)), Ok(false));
        assert_eq!(table.forget(20, 2), Some(inode(20, 0)));
    }

    #[test]
    fn root_is_never_forgotten() {
        let table = table();
        assert_eq!(table.forget(ROOT_NODE, 100), None);
        assert!(table.get(ROOT_NODE).unwrap().is_dir());
    }

    #[test]
    fn numbers_of_other_devices_and_number_one_do_not_collide() {
        let table = table();
        let numbers = [
            table.node_number(7, 300).unwrap(),
            table.node_number(8, 300).unwrap(),
            table.node_number(9, 300).unwrap(),
            table.node_number(7, 1).unwrap(),
        ];
        assert_eq!(numbers[0], 300);
        assert!(numbers.iter().all(|number| *number > ROOT_NODE));
        assert_eq!(numbers.iter().collect::<std::collections::HashSet<_>>().len(), 4);
        assert_eq!(table.node_number(8, 300).unwrap(), numbers[1]);
        assert_eq!(table.node_number(7, u64::MAX), Err(Errno::OVERFLOW), "reserved");
        assert_eq!(table.node_number(7, FIRST_PAST_NODE), Err(Errno::OVERFLOW), "of snapshots");
        assert_eq!(table.node_number(7, FIRST_PAST_NODE - 1), Ok(FIRST_PAST_NODE - 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn table_agrees_with_a_map_of_counts(
            steps in proptest::collection::vec((2_u64..200, 0_u64..2, 0_u64..4), 1..2000)
        ) {
            let memory = memory();
            let table = InodeTable::create(memory.clone(), handle(1), 7).unwrap();
            let mut model: HashMap<u64, (Inode, u64)> = HashMap::new();
            for (node, life, forget) in steps {
                if forget == 0 {
                    let inode = inode(node, life);
                    table.add_lookup(&inode).unwrap();
                    let entry = model.entry(node).or_insert((inode, 0));
                    *entry = (inode, entry.1 + 1);
                } else {
                    let gone = table.forget(node, forget);
                    let expected = model.get_mut(&node).and_then(|entry| {
                        entry.1 = entry.1.saturating_sub(forget);
                        (entry.1 == 0).then_some(entry.0)
                    });
                    prop_assert_eq!(gone, expected);
                    if gone.is_some() {
                        model.remove(&node);
                    }
                }
            }
            prop_assert_eq!(table.known(), model.len() as u64 + 1);
            // Another worker finds the same.
            let (table, _) = InodeTable::attach(memory, 7);
            prop_assert_eq!(table.known(), model.len() as u64 + 1);
            for node in 2..200 {
                prop_assert_eq!(table.get(node).ok(), model.get(&node).map(|entry| entry.0));
            }
            for node in 200..400 {
                table.add_lookup(&inode(node, 0)).unwrap();
            }
            for (node, (inode, count)) in model {
                prop_assert_eq!(table.forget(node, count), Some(inode));
            }
            prop_assert_eq!(table.known(), 201);
        }
    }
}
