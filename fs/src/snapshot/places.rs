//! Where things were.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::catalog::{CatalogError, Past};
use super::sequence::Sequence;
use crate::backing::{Backing, proc_path};
use crate::sys::handle::FileHandle;

/// Finds the paths of directories at a moment, each once.
pub(crate) struct Places<'a> {
    backing: &'a Backing,
    moment: Sequence,
    known: FxHashMap<FileHandle, Option<PathBuf>>,
}

impl<'a> Places<'a> {
    /// Nothing is looked up yet.
    pub(crate) fn at(backing: &'a Backing, moment: Sequence) -> Self {
        Self { backing, moment, known: FxHashMap::default() }
    }

    /// Returns where an inode was, relative to the workspace; of a file with several names, one. `None` if it had no
    /// name, or that is not known any more.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub(crate) fn of(&mut self, past: &Past, inode: &FileHandle) -> Result<Option<PathBuf>, CatalogError> {
        if let Some(known) = self.known.get(inode) {
            return Ok(known.clone());
        }
        let trail = past.trail_at(inode, self.moment)?;
        let mut path = self.path_now(&trail.top);
        if let Some(path) = &mut path {
            path.extend(trail.names.iter().map(|(name, _)| OsStr::from_bytes(name)));
        }
        self.known.insert(*inode, path.clone());
        Ok(path)
    }

    /// Returns the path of an entry of a directory.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub(crate) fn of_entry(
        &mut self,
        past: &Past,
        parent: &FileHandle,
        name: &[u8],
    ) -> Result<Option<PathBuf>, CatalogError> {
        Ok(self.of(past, parent)?.map(|path| path.join(OsStr::from_bytes(name))))
    }

    /// Returns where something is now, as the kernel knows it.
    fn path_now(&self, inode: &FileHandle) -> Option<PathBuf> {
        if *inode == self.backing.root_handle() {
            return Some(PathBuf::new());
        }
        let fd = self.backing.path_fd(inode).ok()?;
        let link = rustix::fs::readlink(proc_path(fd.as_fd()), Vec::new()).ok()?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes()));
        // What has no name any more is shown with a remark behind it, and what was renamed out of sight elsewhere.
        let relative = path.strip_prefix("/").ok()?.to_path_buf();
        let named = self.backing.child_at_once(self.backing.root().as_fd(), relative.as_os_str()).ok()?;
        (named.handle == *inode && relative != Path::new("")).then_some(relative)
    }
}
