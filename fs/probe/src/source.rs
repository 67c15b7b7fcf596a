//! What a probe reads from: one file ([`ReadAt`]) or a tree of files ([`Tree`]).
//!
//! The probe never opens anything itself. A caller decides how names become files, and must not follow symbolic
//! links in doing so: the probe resolves those that stay inside the tree on its own ([`Tree::read_link`]).

mod disk;
mod memory;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::coverage::Coverage;

pub use disk::{DiskFile, DiskTree};
pub use memory::{MemoryFile, MemoryTree};

/// Where the first hole of a range lies, as far as the filesystem tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstHole {
    /// Every byte of the range is allocated.
    None,
    /// Nothing was ever written at this offset, in bytes.
    At(u64),
    /// The source cannot tell.
    Unknown,
}

/// One open file. All offsets and sizes are in bytes.
pub trait ReadAt {
    /// Returns the size of the file.
    ///
    /// # Errors
    /// Whatever the source says; the probe reports the file as unreadable.
    fn size(&self) -> io::Result<u64>;

    /// Reads into `buffer` from `offset` and returns how many bytes there were; 0 means the end.
    ///
    /// # Errors
    /// Whatever the source says; the probe reports the file as unreadable.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Returns the first hole in `from..to`, like `SEEK_HOLE`; the end of the file is none.
    fn first_hole(&self, from: u64, to: u64) -> FirstHole {
        let _ = (from, to);
        FirstHole::Unknown
    }
}

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, never followed by the source.
    Symlink,
    /// A socket, pipe or device; never opened.
    Other,
}

/// What makes two names the same file: device and inode number, or any pair that serves as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The filesystem.
    pub device: u64,
    /// The file in it.
    pub inode: u64,
}

/// Time of the last change of content, since the epoch. Ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds beyond, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last component of the path.
    pub name: OsString,
    /// What it stands for.
    pub kind: EntryKind,
    /// Size in bytes; of a link, the length of its target.
    pub size: u64,
    /// When the content last changed.
    pub modified: Moment,
    /// Which file it is.
    pub identity: Identity,
}

/// The names in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The names, in any order.
    pub entries: Vec<Entry>,
    /// Whether there are more than the limit that was asked for.
    pub is_cut: bool,
}

/// A directory tree. Every path is relative to its root and consists of plain names; the empty path is the root.
pub trait Tree {
    /// Lists a directory, `limit` names at most.
    ///
    /// # Errors
    /// Whatever the source says. A directory that vanished meanwhile is skipped by the caller.
    fn list(&self, directory: &Path, limit: usize) -> io::Result<Listing>;

    /// Opens a regular file; must fail on a symbolic link at any place of the path.
    ///
    /// # Errors
    /// Whatever the source says; the file is reported as unreadable.
    fn open(&self, path: &Path) -> io::Result<Box<dyn ReadAt + '_>>;

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// Whatever the source says; the link is taken for a dangling one.
    fn read_link(&self, path: &Path) -> io::Result<PathBuf>;

    /// Returns what is known about the writing of a file.
    fn coverage(&self, path: &Path, entry: &Entry) -> Coverage {
        let _ = (path, entry);
        Coverage::default()
    }
}
