//! Everything that can be seen of a directory tree, for comparing two views of it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

/// What one entry looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    modified: (i64, i64),
    /// Content of a file, target of a link; empty for the rest.
    content: Vec<u8>,
    /// Names and values of the `user.*` attributes.
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads a tree below `root` as paths relative to it, which are bytes and need not be UTF-8.
pub(crate) fn read(root: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let mut entries = BTreeMap::new();
    visit(root, root, &mut entries);
    entries
}

fn visit(root: &Path, dir: &Path, entries: &mut BTreeMap<Vec<u8>, Entry>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = if stat.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else if stat.is_file() {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        // The size of a directory is the filesystem's own affair.
        let size = if stat.is_dir() { 0 } else { stat.size() };
        entries.insert(
            relative,
            Entry {
                mode: stat.mode(),
                owner: (stat.uid(), stat.gid()),
                links: stat.nlink(),
                size,
                modified: (stat.mtime(), stat.mtime_nsec()),
                content,
                attributes: if stat.is_symlink() { Vec::new() } else { attributes(&path) },
            },
        );
        if stat.is_dir() {
            visit(root, &path, entries);
        }
    }
}

fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0u8; 4096];
    let length = rustix::fs::listxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let mut attributes: Vec<_> = names
        .map(|name| {
            let mut value = vec![0u8; 4096];
            let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect();
    attributes.sort();
    attributes
}
