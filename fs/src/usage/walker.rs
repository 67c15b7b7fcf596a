//! The plain tree below a workspace: looking at one name, and visiting all of them.
//!
//! Every open resolves beneath the root, through no link and into no other filesystem, and what is found must
//! have the number that was expected: a container may replace any directory at any moment.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::index::{Found, What};
use crate::accounting::Accounting;

/// Visits one name after the other; `charge` is what the quota counts for the inode, however many names it has.
pub(crate) trait Visitor {
    /// Is told of a name in the directory `directory`, the root included. A directory is visited before what it
    /// holds.
    ///
    /// # Errors
    /// Whatever it returns ends the walk.
    fn visit(
        &mut self,
        directory: u64,
        ino: u64,
        name: &OsStr,
        stat: &Stat,
        charge: u64,
    ) -> Result<(), super::store::UsageError>;
}

/// A workspace's plain directory.
#[derive(Debug)]
pub(crate) struct Tree {
    root: OwnedFd,
    device: u64,
    ino: u64,
    accounting: Accounting,
}

/// What looking at a directory or a name gave.
#[derive(Debug)]
pub(super) enum Looked<T> {
    Found(T),
    /// There is nothing by that name, or nothing of this filesystem.
    Absent,
}

impl Tree {
    /// Takes the directory; `root` may be a path descriptor.
    ///
    /// # Errors
    /// As fstat(2).
    pub(crate) fn new(root: OwnedFd, accounting: Accounting) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(&root)?;
        Ok(Self { root, device: stat.st_dev, ino: stat.st_ino, accounting })
    }

    /// Returns the number of the root.
    pub(crate) fn ino(&self) -> u64 {
        self.ino
    }

    /// Opens a directory by its path below the root, if it has the expected number.
    pub(super) fn open(&self, path: &Path, expected: u64) -> Result<Looked<OwnedFd>, Errno> {
        Ok(match self.open_any(path)? {
            Looked::Found((fd, ino)) if ino == expected => Looked::Found(fd),
            Looked::Found(_) | Looked::Absent => Looked::Absent,
        })
    }

    /// Opens a directory by its path below the root; returns its number as well.
    pub(super) fn open_any(&self, path: &Path) -> Result<Looked<(OwnedFd, u64)>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match self.open_beneath(path, flags) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd)?;
                let is_ours = stat.st_dev == self.device;
                Ok(if is_ours { Looked::Found((fd, stat.st_ino)) } else { Looked::Absent })
            }
            Err(errno) if is_absence(errno) => Ok(Looked::Absent),
            Err(errno) => Err(errno),
        }
    }

    /// Opens a regular file for reading, if it has the expected number.
    pub(super) fn open_file(&self, path: &Path, expected: u64) -> Result<Looked<OwnedFd>, Errno> {
        // NONBLOCK: it may be a FIFO by now.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOATIME | OFlags::CLOEXEC;
        match self.open_beneath(path, flags) {
            Ok(fd) => {
                let stat = rustix::fs::fstat(&fd)?;
                let is_it = stat.st_ino == expected
                    && stat.st_dev == self.device
                    && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                Ok(if is_it { Looked::Found(fd) } else { Looked::Absent })
            }
            Err(errno) if is_absence(errno) => Ok(Looked::Absent),
            Err(errno) => Err(errno),
        }
    }

    fn open_beneath(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let relative = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.root, relative, flags, Mode::empty(), resolve)
    }

    /// Looks at one name in an open directory.
    pub(super) fn look(&self, directory: &OwnedFd, name: &OsStr) -> Result<Looked<(Stat, Found)>, Errno> {
        match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_dev == self.device => Ok(Looked::Found((stat, self.found(&stat)))),
            Ok(_) => Ok(Looked::Absent),
            Err(errno) if is_absence(errno) => Ok(Looked::Absent),
            Err(errno) => Err(errno),
        }
    }

    fn found(&self, stat: &Stat) -> Found {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        let (what, charge) = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => (What::Directory, 0),
            FileType::RegularFile => (What::File, self.accounting.charge_of(size, blocks)),
            _ => (What::Special, 0),
        };
        Found { ino: stat.st_ino, what, size, charge, mtime: stat.st_mtime }
    }

    /// Returns the names in an open directory.
    pub(super) fn list(&self, directory: &OwnedFd) -> Result<Vec<OsString>, Errno> {
        let mut names = Vec::new();
        for entry in Dir::read_from(directory.as_fd())? {
            let entry = match entry {
                Ok(entry) => entry,
                // Removed while it was read.
                Err(Errno::NOENT | Errno::STALE) => break,
                Err(errno) => return Err(errno),
            };
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Visits every name below the root until `stop` is set. Names that come, go or move meanwhile may be visited twice
    /// or not at all: whoever needs them notes them from the records. What cannot be read is left out and counted: one
    /// damaged or forbidden directory must not hide all others.
    ///
    /// # Errors
    /// If the root cannot be read, this process has run out of something, or the visitor fails.
    pub(crate) fn walk(
        &self,
        stop: &AtomicBool,
        visitor: &mut impl Visitor,
    ) -> Result<Walked, super::store::UsageError> {
        let failed = |source| super::store::UsageError::Backing { action: "read a directory", source };
        let mut walked = Walked::default();
        // Each directory is opened from the root again: a tree of any depth costs one descriptor.
        let mut ahead = vec![(PathBuf::new(), self.ino)];
        while let Some((path, ino)) = ahead.pop() {
            let (directory, names) = match self.open_and_list(&path, ino) {
                Ok(Looked::Found(found)) => found,
                Ok(Looked::Absent) => continue,
                Err(errno) if path.as_os_str().is_empty() || is_exhaustion(errno) => {
                    return Err(failed(errno));
                }
                Err(errno) => {
                    walked.leave_out(path, errno);
                    continue;
                }
            };
            for name in names {
                if stop.load(Ordering::Relaxed) {
                    return Ok(walked);
                }
                let (stat, found) = match self.look(&directory, &name) {
                    Ok(Looked::Found(found)) => found,
                    Ok(Looked::Absent) => continue,
                    Err(errno) if is_exhaustion(errno) => return Err(failed(errno)),
                    Err(errno) => {
                        walked.leave_out(path.join(&name), errno);
                        continue;
                    }
                };
                visitor.visit(ino, found.ino, &name, &stat, found.charge)?;
                if found.what == What::Directory {
                    ahead.push((path.join(&name), found.ino));
                }
            }
        }
        walked.is_complete = true;
        Ok(walked)
    }

    fn open_and_list(&self, path: &Path, ino: u64) -> Result<Looked<(OwnedFd, Vec<OsString>)>, Errno> {
        let Looked::Found(directory) = self.open(path, ino)? else { return Ok(Looked::Absent) };
        let names = self.list(&directory)?;
        Ok(Looked::Found((directory, names)))
    }
}

/// What a walk came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    /// It was not stopped.
    pub(crate) is_complete: bool,
    /// Directories and files that could not be read.
    pub(crate) unreadable: u64,
    /// The first of them, relative to the root, and why.
    pub(crate) first_unreadable: Option<(PathBuf, Errno)>,
}

impl Walked {
    fn leave_out(&mut self, path: PathBuf, errno: Errno) {
        self.unreadable += 1;
        self.first_unreadable.get_or_insert((path, errno));
    }
}

/// Whether it is this process that has too little of something, and not the tree that cannot be read.
pub(super) fn is_exhaustion(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

/// Nothing is there, or something else than was looked for.
fn is_absence(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::XDEV)
}
