//! Where whoever sees a workspace change says so.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::dirty::Dirty;
use crate::tracker::{Follower, OutsideChange, Record};

/// The number of a workspace's root through the mount.
const FUSE_ROOT: u64 = 1;

/// Takes notes of what changed in one workspace. Every call takes a short lock that no disk is waited for under.
#[derive(Debug)]
pub(crate) struct UsageFeed {
    /// The number of the plain directory.
    root: u64,
    dirty: Mutex<Dirty>,
}

impl UsageFeed {
    pub(super) fn new(root: u64) -> Self {
        Self { root, dirty: Mutex::default() }
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

    /// Notes that a name changed in the directory at a path below the root.
    pub(crate) fn at(&self, directory: &Path, name: &OsStr) {
        self.dirty.lock().at(directory.to_path_buf(), name.to_owned());
    }

    /// Notes that something changed and nobody knows what: records were lost, or the tree was edited below the
    /// mount. A walk finds it.
    pub(crate) fn lost(&self) {
        self.dirty.lock().lose();
    }

    /// Through the mount, inodes have the numbers that they have below it, save for the root.
    fn backing(&self, node: u64) -> u64 {
        if node == FUSE_ROOT { self.root } else { node }
    }

    pub(super) fn take(&self) -> Dirty {
        std::mem::take(&mut *self.dirty.lock())
    }

    fn note(&self, record: &Record) {
        let mut has_name = false;
        for (parent, name) in [(record.to_parent, &record.to_name), (record.parent, &record.name)] {
            if let Some(name) = name {
                self.name(parent, OsString::from(&**name));
                has_name = true;
            }
        }
        if !has_name && record.node != 0 {
            self.inode(record.node);
        }
    }
}

/// Sends a workspace's records to its feed, as long as there is one.
pub(super) struct Records(pub(super) Weak<UsageFeed>);

impl Follower for Records {
    fn records(&mut self, batch: &[Record]) {
        if let Some(feed) = self.0.upgrade() {
            batch.iter().for_each(|record| feed.note(record));
        }
    }

    fn lost(&mut self, _records: u64) {
        if let Some(feed) = self.0.upgrade() {
            feed.lost();
        }
    }

    fn changed_outside(&mut self, change: OutsideChange<'_>) {
        let Some(feed) = self.0.upgrade() else { return };
        match change {
            OutsideChange::Name { directory, name } => feed.at(directory, name),
            OutsideChange::Anywhere => feed.lost(),
        }
    }
}

/// Makes the follower of a feed.
pub(super) fn follower(feed: &Arc<UsageFeed>) -> Box<dyn Follower> {
    Box::new(Records(Arc::downgrade(feed)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::Operation;
    use crate::usage::dirty::Parts;

    #[test]
    fn a_rename_is_looked_at_where_it_went_before_where_it_came_from() {
        let feed = Arc::new(UsageFeed::new(77));
        let rename = Record {
            to_parent: 9,
            to_name: Some(OsStr::new("new").into()),
            ..Record::new(Operation::Rename, 5, 0, 0)
        };
        follower(&feed).records(&[rename.at(1, OsStr::new("old")), Record::new(Operation::Write, 5, 0, 0)]);
        let Parts { names, inodes, .. } = feed.take().into_parts();
        let names: Vec<_> = names.into_iter().map(|name| (name.parent, name.name)).collect();
        assert_eq!(names, [(9, "new".into()), (77, "old".into())]);
        assert_eq!(inodes, [5]);
    }

    #[test]
    fn lost_records_ask_for_a_walk_and_a_feed_that_is_gone_for_nothing() {
        let feed = Arc::new(UsageFeed::new(77));
        let mut follower = follower(&feed);
        follower.lost(3);
        assert!(feed.take().is_incomplete());
        drop(feed);
        follower.lost(3);
    }
}
