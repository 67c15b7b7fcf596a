//! Files and trees in memory: for tests, and for bytes that are at hand already.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{Entry, EntryKind, FirstHole, Identity, Listing, Moment, ReadAt, Tree};
use crate::coverage::Coverage;

/// A file in memory that counts what is read of it.
#[derive(Debug, Clone, Default)]
pub struct MemoryFile {
    bytes: Vec<u8>,
    hole: Option<(u64, u64)>,
    bytes_read: Cell<u64>,
    reads: Cell<u64>,
}

impl MemoryFile {
    /// Makes a file of these bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), ..Self::default() }
    }

    /// Declares the bytes from `from` up to `to` a hole.
    #[must_use]
    pub fn with_hole(mut self, from: u64, to: u64) -> Self {
        self.hole = Some((from, to));
        self
    }

    /// Returns how many bytes were read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    /// Returns how many times it was read so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }
}

impl ReadAt for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let rest = self.bytes.get(start..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), rest.get(..count)) {
            to.copy_from_slice(from);
        }
        self.reads.set(self.reads.get() + 1);
        self.bytes_read.set(self.bytes_read.get() + count as u64);
        Ok(count)
    }

    fn first_hole(&self, from: u64, to: u64) -> FirstHole {
        match self.hole {
            Some((start, end)) if start.max(from) < end.min(to) => FirstHole::At(start.max(from)),
            _ => FirstHole::None,
        }
    }
}

#[derive(Debug, Clone)]
enum Node {
    File { file: MemoryFile, coverage: Coverage },
    Link(PathBuf),
}

/// A directory tree in memory. Directories exist as long as something lies in them.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    nodes: BTreeMap<PathBuf, (Node, Moment, u64)>,
    added: u64,
}

impl MemoryTree {
    /// Makes an empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn insert(&mut self, path: &Path, node: Node, inode: Option<u64>) {
        self.added += 1;
        let modified = Moment { seconds: i64::try_from(self.added).unwrap_or(i64::MAX), nanoseconds: 0 };
        self.nodes.insert(path.to_owned(), (node, modified, inode.unwrap_or(self.added)));
    }

    /// Adds a file, or replaces it. Each addition is a second younger than the one before.
    pub fn add(&mut self, path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) -> &mut Self {
        let node = Node::File { file: MemoryFile::new(bytes), coverage: Coverage::default() };
        self.insert(path.as_ref(), node, None);
        self
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) -> &mut Self {
        self.insert(path.as_ref(), Node::Link(target.into()), None);
        self
    }

    /// Adds a second name of a file; does nothing when there is no such file.
    pub fn hard_link(&mut self, path: impl AsRef<Path>, existing: impl AsRef<Path>) -> &mut Self {
        if let Some((node, _, inode)) = self.nodes.get(existing.as_ref()).cloned() {
            self.insert(path.as_ref(), node, Some(inode));
        }
        self
    }

    /// Says what is known about the writing of a file.
    pub fn set_coverage(&mut self, path: impl AsRef<Path>, known: Coverage) -> &mut Self {
        if let Some((Node::File { coverage, .. }, ..)) = self.nodes.get_mut(path.as_ref()) {
            *coverage = known;
        }
        self
    }

    /// Sets the time of the last change, in seconds.
    pub fn touch(&mut self, path: impl AsRef<Path>, seconds: i64) -> &mut Self {
        if let Some((_, modified, _)) = self.nodes.get_mut(path.as_ref()) {
            *modified = Moment { seconds, nanoseconds: 0 };
        }
        self
    }

    /// Removes a file or link.
    pub fn remove(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.nodes.remove(path.as_ref());
        self
    }

    /// Cuts a file to `size` bytes.
    pub fn truncate(&mut self, path: impl AsRef<Path>, size: usize) -> &mut Self {
        if let Some((Node::File { file, .. }, ..)) = self.nodes.get_mut(path.as_ref()) {
            file.bytes.truncate(size);
        }
        self
    }

    /// Returns the paths of all files, links left out.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let is_file = |node: &Node| matches!(node, Node::File { .. });
        self.nodes.iter().filter(|(_, (node, ..))| is_file(node)).map(|(path, _)| path.clone()).collect()
    }

    /// Returns the bytes of a file.
    #[must_use]
    pub fn bytes(&self, path: impl AsRef<Path>) -> Option<&[u8]> {
        match self.nodes.get(path.as_ref()) {
            Some((Node::File { file, .. }, ..)) => Some(&file.bytes),
            _ => None,
        }
    }
}

impl Tree for MemoryTree {
    fn list(&self, directory: &Path, limit: usize) -> io::Result<Listing> {
        let mut entries: BTreeMap<std::ffi::OsString, Entry> = BTreeMap::new();
        for (path, (node, modified, inode)) in &self.nodes {
            let Ok(rest) = path.strip_prefix(directory) else { continue };
            let mut parts = rest.components();
            let Some(first) = parts.next() else { continue };
            let name = first.as_os_str().to_owned();
            let (kind, size) = match node {
                _ if parts.next().is_some() => (EntryKind::Directory, 0),
                Node::File { file, .. } => (EntryKind::File, file.bytes.len() as u64),
                Node::Link(target) => (EntryKind::Symlink, target.as_os_str().len() as u64),
            };
            let entry = Entry {
                name: name.clone(),
                kind,
                size,
                modified: *modified,
                identity: Identity { device: 0, inode: *inode },
            };
            let known = entries.entry(name).or_insert_with(|| entry.clone());
            known.modified = known.modified.max(entry.modified);
        }
        if entries.is_empty() && !directory.as_os_str().is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let is_cut = entries.len() > limit;
        Ok(Listing { entries: entries.into_values().take(limit).collect(), is_cut })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt + '_>> {
        match self.nodes.get(path) {
            Some((Node::File { file, .. }, ..)) => Ok(Box::new(file.clone())),
            Some((Node::Link(_), ..)) => Err(io::ErrorKind::InvalidInput.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        match self.nodes.get(path) {
            Some((Node::Link(target), ..)) => Ok(target.clone()),
            Some(_) => Err(io::ErrorKind::InvalidInput.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn coverage(&self, path: &Path, _entry: &Entry) -> Coverage {
        match self.nodes.get(path) {
            Some((Node::File { coverage, .. }, ..)) => *coverage,
            _ => Coverage::default(),
        }
    }
}
