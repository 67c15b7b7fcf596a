//! Where directories lie, so that records can be given paths.
//!
//! Two halves. [`KnownDirectories`] is asked by the threads that serve requests and only remembers which directories
//! the recorder has been told of; the first record that names another one looks it up while the request is under way,
//! when it surely exists. [`Places`] is the recorder's and follows the records in their order, so that a path is the
//! one that was right when it happened.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashSet};

use super::record::{Operation, Record};

/// The root's node, as in [`crate::inode`].
pub(super) const ROOT: u64 = 1;

/// Locks that the known directories are divided by.
const SHARDS: usize = 16;

/// Most directories of one shard; beyond that everything in it is looked up again.
const SHARD_CAPACITY: usize = 16_384;

/// Most inodes whose place is remembered.
const PLACES: usize = 262_144;

/// Deepest path that is put together; a cycle, which stale places can form, ends here.
const DEEPEST: usize = 256;

/// See the module.
pub(super) struct KnownDirectories([Mutex<FxHashSet<u64>>; SHARDS]);

impl KnownDirectories {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }

    /// Whether the recorder knows the directory; it is taken for known from now on.
    pub(super) fn is_known(&self, node: u64) -> bool {
        if node == ROOT {
            return true;
        }
        let mut shard = self.shard(node).lock();
        if shard.len() >= SHARD_CAPACITY {
            shard.clear();
        }
        !shard.insert(node)
    }

    pub(super) fn forget(&self, node: u64) {
        self.shard(node).lock().remove(&node);
    }

    pub(super) fn forget_all(&self) {
        for shard in &self.0 {
            shard.lock().clear();
        }
    }

    fn shard(&self, node: u64) -> &Mutex<FxHashSet<u64>> {
        &self.0[node as usize % SHARDS]
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) parent: u64,
    pub(super) name: Box<OsStr>,
}

/// Where inodes lie, as of the records so far. Of several hard links it is the last one that a record named.
pub(super) struct Places(HashMap<u64, Place, FxBuildHasher>);

impl Places {
    pub(super) fn new() -> Self {
        Self(HashMap::default())
    }

    pub(super) fn put(&mut self, node: u64, parent: u64, name: Box<OsStr>) {
        if self.0.len() >= PLACES {
            // Looked up again where they are needed; a rare pause is cheaper than an order of use.
            self.0.clear();
        }
        self.0.insert(node, Place { parent, name });
    }

    pub(super) fn get(&self, node: u64) -> Option<&Place> {
        self.0.get(&node)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes in what a record says of names, after its paths were put together.
    pub(super) fn follow(&mut self, record: &Record) {
        let (Some(name), node) = (&record.name, record.node) else { return };
        if node == 0 {
            return;
        }
        match record.operation {
            Operation::Rename | Operation::Exchange => {
                if let Some(to_name) = &record.to_name {
                    self.put(node, record.to_parent, to_name.clone());
                }
            }
            // The name is gone; of a hard link the others are not known.
            Operation::Unlink | Operation::RemoveDirectory | Operation::Replace => {
                let is_here =
                    self.get(node).is_some_and(|place| place.parent == record.parent && place.name == *name);
                if is_here {
                    self.0.remove(&node);
                }
            }
            Operation::Create
            | Operation::MakeDirectory
            | Operation::MakeSymlink
            | Operation::MakeNode
            | Operation::Link
            | Operation::Write
            | Operation::Truncate
            | Operation::Allocate
            | Operation::CopyRange
            | Operation::SetAttributes
            | Operation::SetExtendedAttribute => self.put(node, record.parent, name.clone()),
        }
    }

    /// Returns the path of a directory relative to the workspace, without a slash at either end. `locate` finds the
    /// places that are not known.
    pub(super) fn directory(
        &mut self,
        node: u64,
        locate: &dyn Fn(u64) -> Option<(u64, Box<OsStr>)>,
    ) -> Option<Vec<u8>> {
        let mut names: Vec<Box<OsStr>> = Vec::new();
        let mut node = node;
        while node != ROOT {
            if names.len() >= DEEPEST {
                return None;
            }
            let place = match self.0.get(&node) {
                Some(place) => place.clone(),
                None => {
                    let (parent, name) = locate(node)?;
                    self.put(node, parent, name.clone());
                    Place { parent, name }
                }
            };
            names.push(place.name);
            node = place.parent;
        }
        let parts: Vec<&[u8]> = names.iter().rev().map(|name| name.as_bytes()).collect();
        Some(parts.join(&b'/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere(_: u64) -> Option<(u64, Box<OsStr>)> {
        None
    }

    fn path(places: &mut Places, node: u64) -> Option<String> {
        places.directory(node, &nowhere).map(|path| String::from_utf8(path).unwrap())
    }

    fn record(operation: Operation, node: u64, parent: u64, name: &str) -> Record {
        Record::new(operation, node, 0, 0).at(parent, OsStr::new(name))
    }

    #[test]
    fn paths_follow_the_records() {
        let mut places = Places::new();
        places.follow(&record(Operation::MakeDirectory, 10, ROOT, "a"));
        places.follow(&record(Operation::MakeDirectory, 11, 10, "b"));
        assert_eq!(path(&mut places, 11).as_deref(), Some("a/b"));
        places.follow(&record(Operation::Rename, 10, ROOT, "a").moved_to(ROOT, OsStr::new("c")));
        assert_eq!(path(&mut places, 11).as_deref(), Some("c/b"));
        places.follow(&record(Operation::RemoveDirectory, 11, 10, "b"));
        assert_eq!(path(&mut places, 11), None);
        assert_eq!(path(&mut places, ROOT).as_deref(), Some(""));
    }

    #[test]
    fn removing_one_name_of_a_hard_link_keeps_the_other() {
        let mut places = Places::new();
        places.follow(&record(Operation::Create, 10, ROOT, "a"));
        places.follow(&record(Operation::Link, 10, ROOT, "b"));
        places.follow(&record(Operation::Unlink, 10, ROOT, "a"));
        assert_eq!(path(&mut places, 10).as_deref(), Some("b"));
    }

    #[test]
    fn unknown_directories_are_located_once_and_cycles_end() {
        let mut places = Places::new();
        let locate = |node: u64| (node == 10).then(|| (ROOT, OsStr::new("x").into()));
        assert_eq!(places.directory(10, &locate).unwrap(), b"x");
        assert_eq!(path(&mut places, 10).as_deref(), Some("x"));
        places.put(20, 21, OsStr::new("p").into());
        places.put(21, 20, OsStr::new("q").into());
        assert_eq!(path(&mut places, 20), None);
    }

    #[test]
    fn directory_is_unknown_exactly_once() {
        let known = KnownDirectories::new();
        assert!(known.is_known(ROOT));
        assert!(!known.is_known(5) && known.is_known(5));
        known.forget(5);
        assert!(!known.is_known(5));
        known.forget_all();
        assert!(!known.is_known(5));
    }
}
