//! Looks at the names that changed and tells the index what is there now.
//!
//! The records say only *where* to look; what is true comes from the tree. So a record that is lost, late or told
//! twice does no harm, and a directory that nobody knew is read as a whole. Where the index is behind (a directory
//! moved, and the move has not been looked at), the name waits until it is.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustc_hash::FxHashSet;
use rustix::fs::Stat;
use rustix::io::Errno;
use tracing::debug;

use super::dirty::{Dirty, Name, Parts};
use super::index::{Batch, Found, Index, Placed};
use super::store::UsageError;
use super::walker::{Looked, Tree, is_exhaustion};

/// Names of one transaction.
const CHUNK: usize = 8_192;

/// Rounds in which names wait for directories that are looked at later.
const ROUNDS: u32 = 6;

/// Looks at everything that is dirty. Returns the names that could not be placed because directories moved while
/// they were looked at.
///
/// # Errors
/// If the index cannot be written or the tree cannot be read; what was not committed is not in the index.
pub(super) fn examine(
    index: &mut Index,
    tree: &Tree,
    dirty: Dirty,
    hour: i64,
) -> Result<Vec<Name>, UsageError> {
    let Parts { mut names, inodes, places } = dirty.into_parts();
    names.extend(places.into_iter().filter_map(|(directory, name)| name_at(tree, &directory, name)));
    if !inodes.is_empty() {
        let batch = index.batch(hour)?;
        for ino in inodes {
            let of_inode = batch.names_of(ino)?;
            names.extend(of_inode.into_iter().map(|(parent, name)| Name { parent, name }));
        }
    }
    let mut waiting = Vec::new();
    let mut names = names.into_iter().peekable();
    while names.peek().is_some() {
        let mut queue: VecDeque<Name> = std::mem::take(&mut waiting).into();
        queue.extend(names.by_ref().take(CHUNK));
        let mut look = Look { batch: index.batch(hour)?, tree, opened: None, asked: FxHashSet::default() };
        waiting = look.at_all(queue)?;
        look.batch.commit()?;
    }
    Ok(waiting)
}

/// Returns a name by its directory's number; `None` if there is no such directory any more: that it went is told of
/// its own name.
fn name_at(tree: &Tree, directory: &Path, name: OsString) -> Option<Name> {
    match tree.open_any(directory) {
        Ok(Looked::Found((_, parent))) => Some(Name { parent, name }),
        Ok(Looked::Absent) => None,
        Err(errno) => {
            debug!(path = %directory.display(), errno = errno.raw_os_error(), "changed directory cannot be opened");
            None
        }
    }
}

struct Look<'a> {
    batch: Batch<'a>,
    tree: &'a Tree,
    /// The directory that was opened last: names of one directory come together. Wherever it moves, the descriptor
    /// is of the same one.
    opened: Option<(u64, OwnedFd)>,
    /// Directories whose own name was asked for because they were not where they should be.
    asked: FxHashSet<u64>,
}

enum Seen {
    Found(Found),
    Absent,
    /// It, or its directory, cannot be read.
    Unreadable(Errno),
    /// The directory is not where the index has it.
    NoDirectory,
}

enum Opened {
    Found(OwnedFd),
    /// It is not where the index has it.
    Absent,
    Unreadable(Errno),
}

impl Look<'_> {
    fn at_all(&mut self, mut queue: VecDeque<Name>) -> Result<Vec<Name>, UsageError> {
        let mut waiting = Vec::new();
        for _ in 0..ROUNDS {
            while let Some(name) = queue.pop_front() {
                self.at(name, &mut queue, &mut waiting)?;
            }
            if waiting.is_empty() {
                break;
            }
            queue.extend(std::mem::take(&mut waiting));
            self.asked.clear();
        }
        waiting.extend(queue);
        // A directory that nobody knows any more has taken its names with it.
        let mut still = Vec::new();
        for name in waiting {
            if self.batch.path_of(name.parent)?.is_some() {
                still.push(name);
            }
        }
        Ok(still)
    }

    fn at(
        &mut self,
        name: Name,
        queue: &mut VecDeque<Name>,
        waiting: &mut Vec<Name>,
    ) -> Result<(), UsageError> {
        match self.see(&name)? {
            Seen::Found(found) => match self.batch.put(name.parent, &name.name, &found)? {
                Placed::Known | Placed::Moved => Ok(()),
                Placed::New => self.list_new(found.ino, queue),
                Placed::Impossible => {
                    waiting.push(name);
                    Ok(())
                }
            },
            // What is known of it stays; the next walk counts it as unreadable.
            Seen::Unreadable(errno) => {
                debug!(ino = name.parent, errno = errno.raw_os_error(), "changed name cannot be looked at");
                Ok(())
            }
            Seen::Absent => self.batch.remove(name.parent, &name.name),
            Seen::NoDirectory => {
                if let Some((parent, own)) = self.batch.place_of(name.parent)?
                    && self.asked.insert(name.parent)
                {
                    queue.push_back(Name { parent, name: own });
                }
                waiting.push(name);
                Ok(())
            }
        }
    }

    fn see(&mut self, name: &Name) -> Result<Seen, UsageError> {
        let failed = |source| UsageError::Backing { action: "look at a changed name", source };
        if self.opened.as_ref().is_none_or(|(directory, _)| *directory != name.parent) {
            self.opened = match self.open(name.parent)? {
                Opened::Found(fd) => Some((name.parent, fd)),
                Opened::Absent => None,
                Opened::Unreadable(errno) => return Ok(Seen::Unreadable(errno)),
            };
        }
        let Some((_, directory)) = &self.opened else { return Ok(Seen::NoDirectory) };
        match look(self.tree, directory, &name.name) {
            Ok(Looked::Found((_, found))) => Ok(Seen::Found(found)),
            Ok(Looked::Absent) => Ok(Seen::Absent),
            Err(errno) if is_exhaustion(errno) => Err(failed(errno)),
            Err(errno) => Ok(Seen::Unreadable(errno)),
        }
    }

    fn open(&self, directory: u64) -> Result<Opened, UsageError> {
        let Some(path) = self.batch.path_of(directory)? else { return Ok(Opened::Absent) };
        match self.tree.open(&path, directory) {
            Ok(Looked::Found(fd)) => Ok(Opened::Found(fd)),
            Ok(Looked::Absent) => Ok(Opened::Absent),
            Err(source) if is_exhaustion(source) => {
                Err(UsageError::Backing { action: "open a changed directory", source })
            }
            Err(errno) => Ok(Opened::Unreadable(errno)),
        }
    }

    /// A directory that nobody knew may be full already.
    fn list_new(&mut self, directory: u64, queue: &mut VecDeque<Name>) -> Result<(), UsageError> {
        let fd = match self.open(directory)? {
            Opened::Found(fd) => fd,
            Opened::Absent => {
                debug!(ino = directory, "new directory is gone again");
                return Ok(());
            }
            Opened::Unreadable(errno) => {
                debug!(ino = directory, errno = errno.raw_os_error(), "new directory cannot be opened");
                return Ok(());
            }
        };
        let names = match self.tree.list(&fd) {
            Ok(names) => names,
            Err(source) if is_exhaustion(source) => {
                return Err(UsageError::Backing { action: "read a new directory", source });
            }
            Err(errno) => {
                debug!(ino = directory, errno = errno.raw_os_error(), "new directory cannot be read");
                return Ok(());
            }
        };
        // In front: everything in one directory is looked at while it is open.
        for name in names {
            queue.push_front(Name { parent: directory, name });
        }
        self.opened = Some((directory, fd));
        Ok(())
    }
}

fn look(tree: &Tree, directory: &OwnedFd, name: &OsStr) -> Result<Looked<(Stat, Found)>, Errno> {
    match tree.look(directory, name) {
        // A name that no filesystem takes cannot be there.
        Err(Errno::NAMETOOLONG | Errno::INVAL) => Ok(Looked::Absent),
        other => other,
    }
}
