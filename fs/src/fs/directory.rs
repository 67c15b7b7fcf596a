//! Reading directories, without handles.
//!
//! Opening a directory sends no request: the worker answers the first OPENDIR with ENOSYS and the kernel asks no
//! more (`no_opendir` in fs/fuse/file.c). It then keeps each listing until the directory's mtime changes or it is
//! told to drop it, so that a repeated listing stays in the kernel.
//!
//! The offset that the kernel sends with each request is the backing directory's own cookie, so a listing can go on
//! at any point, in any worker, and seekdir(3) works as on the backing filesystem. Between two requests of one
//! listing the open directory and the records that did not fit are kept, for a few listings at a time.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::snapshots_dir::Detail;
use super::{Entry, GuardFs, borrow, is_virtual};
use crate::inode::is_past;
use crate::sys::directory::{first_record, read_records};

/// Bytes read from the backing directory at once.
const BUFFER_BYTES: usize = 32 << 10;

/// Listings that are kept between two requests; a descriptor and a buffer each.
const KEPT_STREAMS: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not zero");

/// Listings under way, by directory and the offset at which they go on.
pub(super) struct Streams(Mutex<LruCache<(u64, u64), Stream>>);

struct Stream {
    file: OwnedFd,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// One name of a directory.
pub(crate) struct DirectoryEntry<'a> {
    pub(crate) name: &'a OsStr,
    /// Backing inode number.
    pub(crate) ino: u64,
    /// `DT_*`.
    pub(crate) kind: u8,
    /// Where to go on after this entry.
    pub(crate) next_offset: u64,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(KEPT_STREAMS)))
    }
}

impl GuardFs {
    fn open_stream(&self, node: u64, offset: u64) -> Result<Stream, Errno> {
        // Offset 0 always reads afresh: that is what rewinddir(3) promises.
        let kept = if offset == 0 { None } else { self.streams.0.lock().pop(&(node, offset)) };
        if let Some(stream) = kept {
            return Ok(stream);
        }
        let inode = self.table.get(node)?;
        let file = self.backing.open(&inode.handle, OFlags::RDONLY | OFlags::DIRECTORY)?;
        if offset != 0 {
            rustix::fs::seek(&file, SeekFrom::Start(offset))?;
        }
        Ok(Stream { file, buffer: Vec::new(), start: 0, end: 0 })
    }

    /// Gives the entries of a directory from `offset` on to `visit`, until it breaks or the directory ends. The
    /// entry at which it breaks comes again in the next call.
    ///
    /// # Errors
    /// As getdents64(2).
    pub(crate) fn read_directory(
        &self,
        node: u64,
        offset: u64,
        mut visit: impl FnMut(DirectoryEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), Errno> {
        if is_virtual(node) {
            return self.list_virtual(node, offset, |listed, _| visit(listed));
        }
        if is_past(node) {
            return self.list_past(node, offset, Detail::Names, |listed, _| visit(listed));
        }
        let mut stream = self.open_stream(node, offset)?;
        let mut position = offset;
        while stream.fill()? {
            let Some(record) = first_record(&stream.buffer[stream.start..stream.end]) else {
                return Err(Errno::IO);
            };
            let (next, bytes) = (record.next_offset, record.record_bytes);
            let entry = DirectoryEntry {
                name: record.name,
                ino: record.ino,
                kind: record.kind,
                next_offset: record.next_offset,
            };
            if visit(entry).is_break() {
                // The evicted listing, if any, is opened again when it goes on.
                let evicted = self.streams.0.lock().push((node, position), stream);
                drop(evicted);
                return Ok(());
            }
            stream.start += bytes;
            position = next;
        }
        Ok(())
    }

    /// As [`Self::read_directory`], with each entry's attributes and a reference counted for it. `visit` returns whether the entry was taken; if not, its reference is taken back and the reading
    /// ends.
    ///
    /// `.` and `..` come without attributes, as the protocol wants it.
    ///
    /// # Errors
    /// As getdents64(2).
    pub(crate) fn read_directory_plus(
        &self,
        node: u64,
        offset: u64,
        mut visit: impl FnMut(DirectoryEntry<'_>, Option<&Entry>) -> bool,
    ) -> Result<(), Errno> {
        if is_virtual(node) {
            return self.list_virtual(node, offset, |listed, entry| {
                if visit(listed, entry) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
        }
        if is_past(node) {
            return self.list_past(node, offset, Detail::Attributes, |listed, entry| {
                if visit(listed, entry) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
        }
        let dir = self.node_fd(node)?;
        let mut failure = None;
        self.read_directory(node, offset, |listed| {
            let is_dots = listed.name == "." || listed.name == "..";
            if is_dots {
                return if visit(listed, None) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
            }
            let entry = match self.entry_at(borrow(&dir), listed.name) {
                Ok(entry) => entry,
                // It vanished below the mount since it was read.
                Err(Errno::NOENT | Errno::STALE) => return ControlFlow::Continue(()),
                // A listing with a hole would be kept by the kernel, and `rm -r` or a backup would believe it.
                Err(errno) => {
                    failure = Some(errno);
                    return ControlFlow::Break(());
                }
            };
            if visit(listed, Some(&entry)) {
                return ControlFlow::Continue(());
            }
            self.forget(entry.node, 1);
            ControlFlow::Break(())
        })?;
        failure.map_or(Ok(()), Err)
    }

    /// Makes a directory's entries durable.
    ///
    /// # Errors
    /// As fsync(2).
    pub(crate) fn sync_directory(&self, node: u64, data_only: bool) -> Result<(), Errno> {
        if is_virtual(node) || is_past(node) {
            return Ok(());
        }
        let inode = self.table.get(node)?;
        let file = self.backing.open(&inode.handle, OFlags::RDONLY | OFlags::DIRECTORY)?;
        self.sync_history();
        if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }
    }
}

impl Stream {
    /// Returns whether there is a record at `start`, reading more if needed.
    fn fill(&mut self) -> Result<bool, Errno> {
        if self.start < self.end {
            return Ok(true);
        }
        self.buffer.resize(BUFFER_BYTES, 0);
        self.start = 0;
        self.end = read_records(self.file.as_fd(), &mut self.buffer)?;
        Ok(self.end > 0)
    }
}
