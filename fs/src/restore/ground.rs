//! The workspace that is restored: its files as they are, and its past.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

use super::RestoreError;
use crate::backing::{Backing, proc_path};
use crate::fs::GuardFs;
use crate::snapshot::{
    Archive, Attributes, ContentRow, Origin, Sequence, Span, View, XattrList, attributes_of, list_attributes,
};
use crate::sys::handle::FileHandle;

/// See the module.
#[derive(Clone)]
pub(crate) struct Ground {
    /// The files as they are.
    pub(crate) fs: Arc<GuardFs>,
    /// The past.
    pub(crate) archive: Arc<Archive>,
}

/// A file or directory as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) handle: FileHandle,
    pub(super) attributes: Attributes,
}

impl Live {
    pub(super) fn is_dir(&self) -> bool {
        self.attributes.mode & libc::S_IFMT == libc::S_IFDIR
    }
}

impl Ground {
    pub(super) fn backing(&self) -> &Backing {
        self.fs.backing()
    }

    pub(super) fn view(&self, moment: Sequence) -> Result<View<'_>, RestoreError> {
        Ok(View::at(&self.archive, self.backing(), moment)?)
    }

    /// Returns what a name stands for.
    pub(super) fn live_at(&self, dir: &FileHandle, name: &OsStr) -> Result<Option<Live>, Errno> {
        let found =
            self.backing().path_fd(dir).and_then(|dir| self.backing().child_at_once(dir.as_fd(), name));
        match found {
            Ok(child) => Ok(Some(Live { handle: child.handle, attributes: attributes_of(&child.stat) })),
            Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Returns what a path stands for, relative to the root. Symbolic links are not followed.
    pub(super) fn live(&self, path: &Path) -> Result<Option<Live>, Errno> {
        let mut found = self.live_inode(&self.backing().root_handle())?;
        for part in path.components() {
            let (Component::Normal(name), Some(dir)) = (part, found) else { continue };
            found = self.live_at(&dir.handle, name)?;
            if found.is_none() {
                return Ok(None);
            }
        }
        Ok(found)
    }

    /// Returns an inode as it is, whether it has a name or is in the store; `None` if it is gone.
    pub(super) fn live_inode(&self, handle: &FileHandle) -> Result<Option<Live>, Errno> {
        let looked = self.backing().path_fd(handle).and_then(|fd| self.backing().of_fd(fd.as_fd()));
        match looked {
            Ok(child) => Ok(Some(Live { handle: *handle, attributes: attributes_of(&child.stat) })),
            Err(Errno::STALE | Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Returns the names in a directory as it is.
    pub(super) fn live_names(&self, dir: &FileHandle) -> Result<Vec<std::ffi::OsString>, Errno> {
        let opened = match self.backing().open(dir, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(Errno::STALE | Errno::NOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        let mut names = Vec::new();
        for entry in Dir::new(opened)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if !matches!(name.as_slice(), b"." | b"..") {
                names.push(std::ffi::OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// Returns where a live inode is, relative to the root, if that can be told and is true.
    pub(super) fn path_of(&self, handle: &FileHandle) -> Result<Option<PathBuf>, Errno> {
        if *handle == self.backing().root_handle() {
            return Ok(Some(PathBuf::new()));
        }
        let fd = match self.backing().path_fd(handle) {
            Ok(fd) => fd,
            Err(Errno::STALE) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        let link = rustix::fs::readlinkat(rustix::fs::CWD, proc_path(fd.as_fd()), Vec::new())?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes()));
        let Ok(relative) = path.strip_prefix("/") else { return Ok(None) };
        // The kernel's idea of it may be old, or the inode lies in the store.
        let is_there = self.live(relative)?.is_some_and(|live| live.handle == *handle);
        Ok(is_there.then(|| relative.to_path_buf()))
    }

    /// Returns the object that an inode is in the store as, if it has no name.
    pub(super) fn object_of(&self, inode: &FileHandle) -> Result<Option<ContentRow>, RestoreError> {
        let rows = self.archive.read()?.content_of(inode).map_err(crate::snapshot::ArchiveError::from)?;
        let is_taken = |row: &&ContentRow| row.origin == Origin::TakenAway && row.span == Span::Whole;
        let Some(row) = rows.iter().rev().find(is_taken) else { return Ok(None) };
        match self.archive.history().store().open_object(row.object, OFlags::PATH) {
            Ok(_) => Ok(Some(*row)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Returns the extended attributes of an inode as it is.
    pub(super) fn live_xattrs(&self, handle: &FileHandle) -> Result<XattrList, Errno> {
        list_attributes(self.backing().path_fd(handle)?.as_fd())
    }

    /// Whether two states have the same attributes, as far as restoring sets them.
    pub(super) fn is_alike(one: &Attributes, other: &Attributes) -> bool {
        (one.mode, one.uid, one.gid, one.modified_ns) == (other.mode, other.uid, other.gid, other.modified_ns)
    }
}
