//! Names of a directory with what they stood for: the files are looked at first, then the catalog is asked once.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::{PastEntry, View};
use crate::snapshot::archive::ArchiveError;
use crate::snapshot::catalog::{Asked, Then};
use crate::snapshot::history::attributes_of;
use crate::snapshot::record::{Attributes, Named};
use crate::sys::handle::FileHandle;

/// What a name of a directory stood for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PastChild {
    /// The inode.
    pub(crate) named: Named,
    /// Its attributes; `None` if they are lost.
    pub(crate) attributes: Option<Attributes>,
}

impl View<'_> {
    /// Returns what one name stood for; `None` if there was no such name.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn child(&self, dir: &FileHandle, name: &OsStr) -> Result<Option<PastChild>, ArchiveError> {
        let entry = PastEntry { name: name.as_bytes().to_vec(), named: None, file_type: 0 };
        Ok(self.children(dir, std::slice::from_ref(&entry))?.pop().flatten())
    }

    /// Returns what each of `entries` stood for, in their order; `None` for a name that was not there.
    ///
    /// # Errors
    /// See [`ArchiveError`].
    pub(crate) fn children(
        &self,
        dir: &FileHandle,
        entries: &[PastEntry],
    ) -> Result<Vec<Option<PastChild>>, ArchiveError> {
        let now = entries.iter().map(|entry| self.child_now(dir, entry)).collect::<Result<Vec<_>, _>>()?;
        let asked: Vec<Asked<'_>> = entries
            .iter()
            .zip(&now)
            .map(|(entry, now)| match entry.named {
                Some(named) => Asked::Known(named),
                None => Asked::Now(&entry.name, now.map(|(named, _)| named.inode)),
            })
            .collect();
        let then = self.archive.read()?.children_at(dir, &asked, self.moment)?;
        let mut found = Vec::with_capacity(entries.len());
        for (then, now) in then.into_iter().zip(now) {
            let named = match then.name {
                Then::Was(before) => before,
                Then::AsNow => now.map(|(named, _)| named),
            };
            found.push(match named {
                Some(named) => {
                    let now = now.filter(|(known, _)| known.inode == named.inode);
                    let known = then.attributes.or(now.map(|(_, attributes)| attributes));
                    Some(PastChild { named, attributes: self.known_or_found(known, &named)? })
                }
                None => None,
            });
        }
        Ok(found)
    }

    /// The attributes of something else than what the name stands for now: looked at by itself.
    fn known_or_found(
        &self,
        known: Option<Attributes>,
        named: &Named,
    ) -> Result<Option<Attributes>, ArchiveError> {
        if known.is_some() {
            return Ok(known);
        }
        match self.attributes(&named.inode) {
            Ok((attributes, _)) => Ok(Some(attributes)),
            Err(ArchiveError::Log(Errno::STALE)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn child_now(&self, dir: &FileHandle, entry: &PastEntry) -> Result<Option<(Named, Attributes)>, Errno> {
        if let Some(named) = entry.named {
            return Ok(self.stat_now(&named.inode)?.map(|attributes| (named, attributes)));
        }
        let name = OsStr::from_bytes(&entry.name);
        let child = self.backing.path_fd(dir).and_then(|dir| self.backing.child_at_once(dir.as_fd(), name));
        match child {
            Ok(child) => {
                let file_type = u32::from(child.stat.stx_mode) & libc::S_IFMT;
                Ok(Some((Named { inode: child.handle, file_type }, attributes_of(&child.stat))))
            }
            // The directory is gone, or was never one.
            Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}
