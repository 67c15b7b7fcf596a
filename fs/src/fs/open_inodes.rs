//! The inodes that are open at this moment, with how their data flows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::fs::OFlags;

use super::charging::{Charge, Charging};
use crate::handle::Remembered;
use crate::snapshot::Touched;

/// Locks that the open inodes are divided by.
const SHARDS: usize = 64;

/// How data of an inode flows while it is open anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DataMode {
    /// In the kernel, on the backing file with this id.
    Passthrough(u32),
    /// Through the worker and the kernel's page cache.
    Cached,
}

/// What every open of one inode shares.
#[derive(Default)]
pub(super) struct OpenInodeState {
    /// The file may have setuid or setgid, which a writer with CAP_FSETID keeps. Set at open and by chmod(2),
    /// never cleared: it only decides whether a rare extra step is worth while.
    pub(super) may_be_privileged: AtomicBool,
    /// What the inode is charged for; entered by the first open that can change it.
    pub(super) charge: OnceLock<Arc<Charge>>,
    /// What is preserved of the inode; entered likewise.
    pub(super) touched: OnceLock<Arc<Touched>>,
}

impl OpenInodeState {
    /// Returns the entry under which changes of the file are charged.
    pub(super) fn charge<'a>(&'a self, charging: &Charging, node: u64) -> &'a Charge {
        self.charge.get_or_init(|| charging.entry(node))
    }
}

/// The inodes that are open at this moment, with how.
pub(super) struct OpenInodes(Vec<Mutex<FxHashMap<u64, OpenInode>>>);

/// One of them.
pub(super) struct OpenInode {
    pub(super) opens: u32,
    pub(super) maybe_mapped_writable: u32,
    pub(super) mode: DataMode,
    pub(super) state: Arc<OpenInodeState>,
    /// What it was charged for when it lost its last name.
    pub(super) deleted: Option<u64>,
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
    pub(super) fn mode(&self, node: u64) -> Option<DataMode> {
        self.shard(node).lock().get(&node).map(|inode| inode.mode)
    }

    /// Whether an inode is open.
    pub(super) fn contains(&self, node: u64) -> bool {
        self.shard(node).lock().contains_key(&node)
    }

    /// Notes that an inode has lost its last name, with what it is charged for. Calls `noted` if it is open and nobody
    /// has noted so before, `gone` if it is not open: nobody can open it before that is done.
    pub(super) fn note_deleted(&self, node: u64, bytes: u64, noted: impl FnOnce(), gone: impl FnOnce()) {
        let mut shard = self.shard(node).lock();
        match shard.get_mut(&node) {
            Some(inode) if inode.deleted.is_none() => {
                inode.deleted = Some(bytes);
                noted();
            }
            Some(_) => {}
            None => gone(),
        }
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

    /// Returns what a node belongs to.
    pub(super) fn shard(&self, node: u64) -> &Mutex<FxHashMap<u64, OpenInode>> {
        &self.0[node as usize % SHARDS]
    }
}

impl DataMode {
    /// Returns the id, 0 if there is none.
    pub(super) fn backing_id(self) -> u32 {
        match self {
            Self::Passthrough(id) => id,
            Self::Cached => 0,
        }
    }
}
