//! A picture of a tree: names and facts, no content. Bounded by the limits.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::source::{Entry, EntryKind, Tree};
use crate::window::Limits;

/// One directory with all that lies below it.
#[derive(Debug, Default)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) files: BTreeMap<String, Entry>,
    /// Links with their targets.
    pub(super) links: BTreeMap<String, PathBuf>,
    pub(super) folders: BTreeMap<String, Folder>,
}

impl Folder {
    /// Looks a directory up; returns whether anything was left out beside it.
    pub(super) fn load(tree: &dyn Tree, path: &Path, limits: Limits) -> (Self, bool) {
        let mut left = limits.names_in_total;
        let mut is_cut = false;
        let folder = load(tree, path, limits, limits.depth, &mut left, &mut is_cut);
        (folder, is_cut)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        let real = self.files.get(name).map(|entry| entry.name.clone());
        self.path.join(real.unwrap_or_else(|| name.into()))
    }

    /// Whether any of its own files fulfils a condition.
    pub(super) fn any(&self, mut condition: impl FnMut(&str) -> bool) -> bool {
        self.files.keys().any(|name| condition(name))
    }

    /// Finds a file below by a path of plain names; links that stay inside are followed to their file.
    pub(super) fn find(&self, path: &Path) -> Option<(&Self, &str)> {
        self.find_within(path, 8)
    }

    fn find_within(&self, path: &Path, links: u32) -> Option<(&Self, &str)> {
        let mut parts = path.components();
        let Some(Component::Normal(first)) = parts.next() else { return None };
        let first = first.to_str()?;
        let rest = parts.as_path();
        if rest.as_os_str().is_empty() {
            if let Some(target) = self.links.get(first) {
                return self.find_within(target, links.checked_sub(1)?);
            }
            return self.files.get_key_value(first).map(|(name, _)| (self, name.as_str()));
        }
        self.folders.get(first)?.find_within(rest, links)
    }

    /// All directories below, itself included.
    pub(super) fn walk<'a>(&'a self, visit: &mut dyn FnMut(&'a Self)) {
        visit(self);
        for folder in self.folders.values() {
            folder.walk(visit);
        }
    }
}

fn load(
    tree: &dyn Tree,
    path: &Path,
    limits: Limits,
    depth: usize,
    left: &mut usize,
    is_cut: &mut bool,
) -> Folder {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut folder = Folder { path: path.to_owned(), name, ..Folder::default() };
    let Ok(listing) = tree.list(path, limits.names.min(*left)) else {
        *is_cut = true;
        return folder;
    };
    *left -= listing.entries.len().min(*left);
    *is_cut |= listing.is_cut;
    for entry in listing.entries {
        let name = entry.name.to_string_lossy().into_owned();
        match entry.kind {
            EntryKind::File => {
                folder.files.insert(name, entry);
            }
            EntryKind::Symlink => {
                if let Ok(target) = tree.read_link(&path.join(&entry.name)) {
                    folder.links.insert(name, target);
                }
            }
            EntryKind::Directory if depth > 0 => {
                let below = load(tree, &path.join(&entry.name), limits, depth - 1, left, is_cut);
                folder.folders.insert(name, below);
            }
            EntryKind::Directory => *is_cut = true,
            EntryKind::Other => {}
        }
    }
    folder
}
