//! Where whoever sees a workspace change says so.

use std::ffi::OsString;
use std::mem::take;
use std::sync::Arc;

use parking_lot::Mutex;

use super::dirty::Dirty;

/// The number of a workspace's root through the mount.
const FUSE_ROOT: u64 = 1;

/// Takes notes of what changed in one workspace; clones are one feed. Every call takes a short lock that no disk is
/// waited for under.
#[derive(Clone, Debug)]
pub(crate) struct UsageFeed {
    root: u64,
    dirty: Arc<Mutex<Dirty>>,
}

impl UsageFeed {
    /// Makes one for the workspace whose plain directory has the number `root`.
    pub(super) fn new(root: u64) -> Self {
        Self { root, dirty: Arc::default() }
    }

    /// Notes that a name came, went or moved, after it did. Of a rename, the new name is noted first: whoever looks
    /// finds the inode again before its old name is gone.
    pub(crate) fn name(&self, parent: u64, name: OsString) {
        self.dirty.lock().name(self.backing(parent), name);
    }

    /// Notes that an inode's size, blocks or times changed.
    pub(crate) fn inode(&self, ino: u64) {
        self.dirty.lock().inode(self.backing(ino));
    }

    /// Notes that something changed and nobody knows what: records were lost, or the tree was edited below the
    /// mount. A walk finds it.
    pub(crate) fn lost(&self) {
        self.dirty.lock().lose();
    }

    fn backing(&self, node: u64) -> u64 {
        if node == FUSE_ROOT { self.root } else { node }
    }

    pub(super) fn take(&self) -> Dirty {
        take(&mut *self.dirty.lock())
    }
}
