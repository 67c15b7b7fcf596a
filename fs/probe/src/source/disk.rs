//! A plain directory read by path, for tests and tools. It looks at each component before it opens a file, which a
//! hostile writer can outrun; the daemon has its own, relative to descriptors.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Entry, EntryKind, Identity, Listing, Moment, ReadAt, Tree};

/// An open file of a plain directory. Holes are unknown.
#[derive(Debug)]
pub struct DiskFile(fs::File);

impl DiskFile {
    /// Opens a file by path, following links.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        fs::File::open(path).map(Self)
    }
}

impl ReadAt for DiskFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
}

/// A plain directory.
#[derive(Debug, Clone)]
pub struct DiskTree {
    root: PathBuf,
}

impl DiskTree {
    /// Makes a tree of what lies below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Joins a relative path to the root after checking that no part of it is a link.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut full = self.root.clone();
        for part in path.components() {
            let std::path::Component::Normal(name) = part else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            full.push(name);
            if fs::symlink_metadata(&full)?.is_symlink() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        Ok(full)
    }
}

impl Tree for DiskTree {
    fn list(&self, directory: &Path, limit: usize) -> io::Result<Listing> {
        let mut entries = Vec::new();
        for found in fs::read_dir(self.resolve(directory)?)? {
            if entries.len() == limit {
                return Ok(Listing { entries, is_cut: true });
            }
            let found = found?;
            let Ok(facts) = found.metadata() else { continue };
            let kind = match facts.file_type() {
                kind if kind.is_symlink() => EntryKind::Symlink,
                kind if kind.is_dir() => EntryKind::Directory,
                kind if kind.is_file() => EntryKind::File,
                _ => EntryKind::Other,
            };
            entries.push(Entry {
                name: found.file_name(),
                kind,
                size: facts.len(),
                modified: Moment {
                    seconds: facts.mtime(),
                    nanoseconds: u32::try_from(facts.mtime_nsec()).unwrap_or_default(),
                },
                identity: Identity { device: facts.dev(), inode: facts.ino() },
            });
        }
        Ok(Listing { entries, is_cut: false })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt + '_>> {
        Ok(Box::new(DiskFile::open(self.resolve(path)?)?))
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        let (parent, name) = (path.parent(), path.file_name());
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        fs::read_link(self.resolve(parent.unwrap_or(Path::new("")))?.join(name))
    }
}
