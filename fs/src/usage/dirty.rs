//! Names and inodes that changed and have not been looked at.

use std::ffi::OsString;
use std::path::PathBuf;

use rustc_hash::FxHashSet;

/// More than this is dropped and found by a walk: about 100 MB.
const MOST: usize = 1_000_000;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) parent: u64,
    pub(super) name: OsString,
}

/// What is to be looked at.
#[derive(Debug)]
pub(super) struct Parts {
    /// In the order in which they were told.
    pub(super) names: Vec<Name>,
    pub(super) inodes: Vec<u64>,
    /// Names by the path of their directory.
    pub(super) places: Vec<(PathBuf, OsString)>,
}

/// Each name once, in the order in which they were first told.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    known: FxHashSet<Name>,
    names: Vec<Name>,
    inodes: FxHashSet<u64>,
    places: FxHashSet<(PathBuf, OsString)>,
    is_incomplete: bool,
}

impl Dirty {
    pub(super) fn name(&mut self, parent: u64, name: OsString) {
        if self.is_full() {
            return;
        }
        let name = Name { parent, name };
        if self.known.insert(name.clone()) {
            self.names.push(name);
        }
    }

    pub(super) fn inode(&mut self, ino: u64) {
        if !self.is_full() {
            self.inodes.insert(ino);
        }
    }

    /// A name in the directory at a path below the root.
    pub(super) fn at(&mut self, directory: PathBuf, name: OsString) {
        if !self.is_full() {
            self.places.insert((directory, name));
        }
    }

    /// Something changed, and nobody knows what.
    pub(super) fn lose(&mut self) {
        self.is_incomplete = true;
    }

    fn is_full(&mut self) -> bool {
        if self.names.len() + self.inodes.len() + self.places.len() < MOST {
            return false;
        }
        self.is_incomplete = true;
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty() && self.inodes.is_empty() && self.places.is_empty() && !self.is_incomplete
    }

    /// Whether only a walk finds everything.
    pub(super) fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Adds everything of another one.
    pub(super) fn merge(&mut self, other: &Self) {
        for name in &other.names {
            self.name(name.parent, name.name.clone());
        }
        for ino in &other.inodes {
            self.inode(*ino);
        }
        for (directory, name) in &other.places {
            self.at(directory.clone(), name.clone());
        }
        self.is_incomplete |= other.is_incomplete;
    }

    /// Takes it apart.
    pub(super) fn into_parts(self) -> Parts {
        Parts {
            names: self.names,
            inodes: self.inodes.into_iter().collect(),
            places: self.places.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_in_order() {
        let mut dirty = Dirty::default();
        for name in ["b", "a", "b"] {
            dirty.name(7, name.into());
        }
        dirty.inode(3);
        dirty.inode(3);
        let Parts { names, inodes, .. } = dirty.into_parts();
        let names: Vec<_> = names.into_iter().map(|name| name.name).collect();
        assert_eq!(names, ["b", "a"]);
        assert_eq!(inodes, [3]);
    }

    #[test]
    fn overflow_asks_for_a_walk() {
        let mut dirty = Dirty::default();
        for ino in 0..=MOST as u64 {
            dirty.inode(ino);
        }
        assert!(dirty.is_incomplete());
    }
}
