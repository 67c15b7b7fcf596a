//! In which snapshots a directory existed.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::TICK_NS;
use crate::backing::{Backing, proc_path, stat_of};
use crate::snapshot::archive::{Archive, ArchiveError, Reading};
use crate::snapshot::catalog::{SnapshotRecord, Then};
use crate::snapshot::history::attributes_of;
use crate::sys::handle::{FileHandle, handle_of};

/// A directory, with what is known of it now, for the question when it was there.
pub(crate) struct Presence {
    dir: FileHandle,
    is_root: bool,
    name: Option<NameNow>,
}

/// The one name of a directory.
struct NameNow {
    parent: FileHandle,
    name: Vec<u8>,
    /// When the directory was made; 0 if the filesystem does not tell.
    born_ns: i64,
}

impl Presence {
    /// Looks at a directory. Ask the catalog afterwards: a name that is lost in between is one that it knows of then.
    ///
    /// # Errors
    /// As openat(2).
    pub(crate) fn of(backing: &Backing, dir: &FileHandle) -> Result<Self, Errno> {
        let is_root = *dir == backing.root_handle();
        let name = if is_root { None } else { name_now(backing, dir)? };
        Ok(Self { dir: *dir, is_root, name })
    }

    /// Returns those of `records` in which the directory was there, in their order.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn among<'a>(
        &self,
        archive: &Archive,
        records: impl IntoIterator<Item = &'a SnapshotRecord>,
    ) -> Result<Vec<&'a SnapshotRecord>, ArchiveError> {
        let past = archive.read()?;
        let mut found = Vec::new();
        for record in records {
            if self.was_there(&past, record)? {
                found.push(record);
            }
        }
        Ok(found)
    }

    /// Returns the first of `records` in which the directory was there.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn first_of<'a>(
        &self,
        archive: &Archive,
        records: impl IntoIterator<Item = &'a SnapshotRecord>,
    ) -> Result<Option<&'a SnapshotRecord>, ArchiveError> {
        let past = archive.read()?;
        for record in records {
            if self.was_there(&past, record)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    fn was_there(&self, past: &Reading<'_>, record: &SnapshotRecord) -> Result<bool, ArchiveError> {
        if self.is_root || past.had_other_name(&self.dir, record.moment())? {
            return Ok(true);
        }
        let Some(now) = &self.name else { return Ok(false) };
        Ok(match past.name_at(&now.parent, &now.name, record.moment())? {
            Then::Was(before) => before.is_some_and(|named| named.inode == self.dir),
            // Not made through the mount since then; perhaps below it.
            Then::AsNow => now.born_ns <= record.time_ns.saturating_add(TICK_NS),
        })
    }
}

/// Returns the name of a directory; `None` if it has none any more.
fn name_now(backing: &Backing, dir: &FileHandle) -> Result<Option<NameNow>, Errno> {
    let fd = match backing.path_fd(dir) {
        Err(Errno::STALE) => return Ok(None),
        fd => fd?,
    };
    let stat = stat_of(fd.as_fd())?;
    if stat.stx_nlink == 0 {
        return Ok(None);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::openat(fd.as_fd(), "..", flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        parent => parent?,
    };
    let path = rustix::fs::readlink(proc_path(fd.as_fd()), Vec::new())?;
    let Some(name) = path.as_bytes().rsplit(|byte| *byte == b'/').next() else { return Ok(None) };
    // The kernel's own way to say that it has none; a directory of that name is found by what it was called before.
    if name.is_empty() || OsStr::from_bytes(name) == ".." {
        return Ok(None);
    }
    let born_ns = attributes_of(&stat).born_ns;
    Ok(Some(NameNow { parent: handle_of(parent.as_fd())?, name: name.to_vec(), born_ns }))
}
