//! Reading a file as it was.

use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::tree::word_of;
use crate::fs::GuardFs;
use crate::fs::virtual_dir::FIRST_HANDLE;
use crate::inode::Inode;
use crate::snapshot::{Archive, ArchiveError, PastFile, Sought, View};

/// The number of every open of a past file: the node says all there is to say.
pub(crate) const PAST_HANDLE: u64 = FIRST_HANDLE | (0x7f << 56);

impl GuardFs {
    /// Opens a past file.
    ///
    /// # Errors
    /// `EROFS` for anything but reading; `ESTALE` if the snapshot is gone.
    pub(crate) fn open_past(&self, node: u64, flags: OFlags) -> Result<u64, Errno> {
        if flags & OFlags::ACCMODE != OFlags::RDONLY || flags.contains(OFlags::TRUNC) {
            return Err(Errno::ROFS);
        }
        let inode = self.past_inode(node)?;
        if inode.is_dir() {
            return Err(Errno::ISDIR);
        }
        // What it is made of is found when it is read: many files are opened and not read.
        self.in_the_past(&inode, |_, _| Ok(PAST_HANDLE))
    }

    /// Reads from a past file; returns the bytes read, fewer only at the end.
    ///
    /// # Errors
    /// `EIO` if they are lost or were changed past the mount; `ESTALE` if the snapshot is gone.
    pub(crate) fn read_past(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let inode = self.past_inode(node)?;
        self.with_past_file(&inode, |archive, view, file| {
            let read = file.read(archive, offset, buffer)?;
            if view.is_changed_outside(file)? { Err(Errno::IO.into()) } else { Ok(read) }
        })
    }

    /// `SEEK_DATA` and `SEEK_HOLE` of a past file.
    ///
    /// # Errors
    /// `ENXIO` behind the end, `EINVAL` for another `whence`; else as [`Self::read_past`].
    pub(crate) fn seek_past(&self, node: u64, offset: i64, whence: i32) -> Result<u64, Errno> {
        let inode = self.past_inode(node)?;
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let sought = match whence {
            libc::SEEK_DATA => Sought::Data,
            libc::SEEK_HOLE => Sought::Hole,
            _ => return Err(Errno::INVAL),
        };
        self.with_past_file(&inode, |archive, _, file| file.seek(archive, offset, sought))
    }

    /// Ends an open of a past file.
    pub(crate) fn release_past(&self, node: u64) {
        // Another open of it finds it again.
        self.forget_past(node);
    }

    pub(super) fn certainty_of_file(&self, inode: &Inode) -> Result<&'static str, Errno> {
        self.with_past_file(inode, |archive, view, file| {
            let certainty = view.certainty(file)?;
            Ok(if is_lost(archive, file)? { "damaged" } else { word_of(certainty) })
        })
    }

    fn with_past_file<T>(
        &self,
        inode: &Inode,
        ask: impl FnOnce(&Archive, &View<'_>, &PastFile) -> Result<T, ArchiveError>,
    ) -> Result<T, Errno> {
        let answer = self.in_the_past(inode, |archive, view| {
            let file = self.past_file(view, inode)?;
            ask(archive, view, &file)
        });
        if let Err(Errno::IO | Errno::STALE) = answer {
            // What was missing may be back: opened anew next time.
            self.forget_past(inode.node);
        }
        answer
    }

    /// Returns a file ready to be read, opening it now if it was not before or by another worker.
    fn past_file(&self, view: &View<'_>, inode: &Inode) -> Result<Arc<PastFile>, ArchiveError> {
        if inode.file_type != libc::S_IFREG {
            return Err(Errno::INVAL.into());
        }
        if let Some(file) = self.snapshots_dir.files.lock().get(&inode.node) {
            return Ok(file.clone());
        }
        let file = Arc::new(view.open(&inode.handle)?);
        // Closed after the lock is released.
        let evicted = self.snapshots_dir.files.lock().push(inode.node, file.clone());
        drop(evicted);
        Ok(file)
    }
}

/// Whether an object that a file is made of is missing.
fn is_lost(archive: &Archive, file: &PastFile) -> Result<bool, ArchiveError> {
    for row in file.rows(archive)? {
        let is_there = archive.history().store().open_object(row.object, OFlags::PATH).is_ok();
        if !is_there && !row.is_inode_itself() {
            return Ok(true);
        }
    }
    Ok(false)
}
