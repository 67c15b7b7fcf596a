//! The directories under watch, as a tree of names.
//!
//! Events carry a directory's number, not its path, so that a renamed directory needs no new watch and an
//! event that was queued before the rename still lands at the right place: paths are put together only when a
//! change is reported.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use rustc_hash::FxHashMap;

/// Stands for one watched directory; never used twice within one [`Directories`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DirectoryId(u32);

impl DirectoryId {
    /// The root of the workspace.
    pub(super) const ROOT: DirectoryId = DirectoryId(0);

    /// Returns any id.
    #[cfg(test)]
    pub(super) const fn from_index(index: u32) -> Self {
        Self(index)
    }
}

/// Device and inode number: what a directory is, whatever its name. (An inode number alone is ambiguous below
/// btrfs subvolumes.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DirectoryKey {
    /// `st_dev`
    pub(super) device: u64,
    /// `st_ino`; alone, it is the key of expectations.
    pub(super) inode: u64,
}

struct Directory {
    key: DirectoryKey,
    parent: DirectoryId,
    name: OsString,
}

/// The table of watched directories. Invariant: the root is its own parent and always there.
pub(super) struct Directories {
    by_id: FxHashMap<DirectoryId, Directory>,
    by_key: FxHashMap<DirectoryKey, DirectoryId>,
    next: u32,
}

impl Directories {
    /// Returns a table with nothing but the root.
    pub(super) fn new(root: DirectoryKey) -> Self {
        let mut directories =
            Self { by_id: FxHashMap::default(), by_key: FxHashMap::default(), next: DirectoryId::ROOT.0 + 1 };
        let directory = Directory { key: root, parent: DirectoryId::ROOT, name: OsString::new() };
        directories.by_id.insert(DirectoryId::ROOT, directory);
        directories.by_key.insert(root, DirectoryId::ROOT);
        directories
    }

    /// Returns how many directories there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns what directory `id` is.
    pub(super) fn key(&self, id: DirectoryId) -> Option<DirectoryKey> {
        self.by_id.get(&id).map(|directory| directory.key)
    }

    /// Returns the directory that `key` is, if it is under watch.
    pub(super) fn find(&self, key: DirectoryKey) -> Option<DirectoryId> {
        self.by_key.get(&key).copied()
    }

    /// Returns a watched directory with this inode number, on whichever device. Slow.
    pub(super) fn find_inode(&self, inode: u64) -> Option<DirectoryId> {
        self.by_key.iter().find(|(key, _)| key.inode == inode).map(|(_, id)| *id)
    }

    /// Returns the parent and the name of `id`; `None` for the root.
    pub(super) fn entry(&self, id: DirectoryId) -> Option<(DirectoryId, &OsStr)> {
        let directory = self.by_id.get(&id).filter(|_| id != DirectoryId::ROOT)?;
        Some((directory.parent, &directory.name))
    }

    /// Adds a directory; `None` if all numbers are used up.
    pub(super) fn insert(
        &mut self,
        key: DirectoryKey,
        parent: DirectoryId,
        name: OsString,
    ) -> Option<DirectoryId> {
        let id = DirectoryId(self.next);
        self.next = self.next.checked_add(1)?;
        self.by_id.insert(id, Directory { key, parent, name });
        self.by_key.insert(key, id);
        Some(id)
    }

    /// Gives a directory another place; the root keeps its own.
    pub(super) fn rename(&mut self, id: DirectoryId, parent: DirectoryId, name: OsString) {
        if let Some(directory) = self.by_id.get_mut(&id).filter(|_| id != DirectoryId::ROOT) {
            directory.parent = parent;
            directory.name = name;
        }
    }

    /// Drops a directory that no longer exists. The root stays.
    pub(super) fn remove(&mut self, id: DirectoryId) {
        if id == DirectoryId::ROOT {
            return;
        }
        if let Some(directory) = self.by_id.remove(&id)
            && self.by_key.get(&directory.key) == Some(&id)
        {
            self.by_key.remove(&directory.key);
        }
    }

    /// Drops a directory and everything below it, and returns them. Looks at the whole table.
    pub(super) fn remove_tree(&mut self, top: DirectoryId) -> Vec<DirectoryId> {
        let inside: Vec<_> = self.by_id.keys().copied().filter(|id| self.is_inside(*id, top)).collect();
        for id in &inside {
            self.remove(*id);
        }
        inside
    }

    /// Returns the path from the root, empty for the root itself; `None` if a directory on the way is gone.
    pub(super) fn path(&self, id: DirectoryId) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut at = id;
        while at != DirectoryId::ROOT {
            let directory = self.by_id.get(&at)?;
            // Renames are noticed one after the other; in between the table may hold a cycle that the tree
            // never had.
            if names.len() > self.by_id.len() {
                return None;
            }
            names.push(directory.name.as_os_str());
            at = directory.parent;
        }
        Some(names.into_iter().rev().collect())
    }

    fn is_inside(&self, id: DirectoryId, top: DirectoryId) -> bool {
        let mut at = id;
        for _ in 0..=self.by_id.len() {
            if at == top {
                return id != DirectoryId::ROOT;
            }
            match self.entry(at) {
                Some((parent, _)) => at = parent,
                None => return false,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn key(inode: u64) -> DirectoryKey {
        DirectoryKey { device: 1, inode }
    }

    /// `a`, `a/b`, `a/b/c` and `d` with inode numbers 2 to 5.
    fn tree() -> (Directories, [DirectoryId; 4]) {
        let mut directories = Directories::new(key(1));
        let a = directories.insert(key(2), DirectoryId::ROOT, "a".into()).unwrap();
        let b = directories.insert(key(3), a, "b".into()).unwrap();
        let c = directories.insert(key(4), b, "c".into()).unwrap();
        let d = directories.insert(key(5), DirectoryId::ROOT, "d".into()).unwrap();
        (directories, [a, b, c, d])
    }

    #[test]
    fn path_follows_a_rename_of_an_ancestor() {
        let (mut directories, [_, b, c, d]) = tree();
        directories.rename(b, d, "moved".into());
        assert_eq!(directories.path(c).unwrap(), Path::new("d/moved/c"));
        assert_eq!(directories.path(DirectoryId::ROOT).unwrap(), Path::new(""));
    }

    #[test]
    fn removed_tree_takes_what_is_below_along() {
        let (mut directories, [a, b, c, d]) = tree();
        let mut removed = directories.remove_tree(a);
        removed.sort();
        assert_eq!(removed, [a, b, c]);
        assert_eq!(directories.len(), 2);
        assert_eq!(directories.find(key(4)), None);
        assert_eq!(directories.find(key(5)), Some(d));
    }

    #[test]
    fn directory_below_a_removed_one_has_no_path() {
        let (mut directories, [_, b, c, _]) = tree();
        directories.remove(b);
        assert_eq!(directories.path(c), None);
    }

    #[test]
    fn cycle_has_no_path_and_does_not_hang() {
        let (mut directories, [a, b, c, _]) = tree();
        directories.rename(a, c, "a".into());
        assert_eq!(directories.path(b), None);
        assert_eq!(directories.remove_tree(DirectoryId::from_index(99)), []);
    }

    #[test]
    fn root_can_be_neither_moved_nor_removed() {
        let (mut directories, [a, ..]) = tree();
        directories.rename(DirectoryId::ROOT, a, "x".into());
        directories.remove(DirectoryId::ROOT);
        assert_eq!(directories.path(DirectoryId::ROOT).unwrap(), Path::new(""));
        assert_eq!(directories.len(), 5);
    }

    #[test]
    fn reused_inode_number_belongs_to_the_newer_directory() {
        let (mut directories, [a, ..]) = tree();
        let newer = directories.insert(key(2), DirectoryId::ROOT, "again".into()).unwrap();
        directories.remove(a);
        assert_eq!(directories.find(key(2)), Some(newer));
    }
}
