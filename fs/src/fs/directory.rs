//! Directory streams.
//!
//! The offset that the kernel sends with each request is the backing directory's own cookie, so a stream can
//! be reopened at any point and seekdir(3) works as on the backing filesystem. Records that did not fit into
//! one reply stay buffered for the next.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::Errno;

use super::{Entry, GuardFs, borrow};
use crate::handle::Remembered;
use crate::journal::Running;
use crate::sys::directory::{first_record, read_records};

/// Bytes read from the backing directory at once.
const BUFFER_BYTES: usize = 32 << 10;

/// Noted by a release once the number is free.
const RELEASED: u64 = 1;

/// One open of a directory.
pub(super) struct OpenDirectory {
    node: u64,
    stream: Mutex<Stream>,
}

#[derive(Default)]
struct Stream {
    /// Missing in a stream that a worker before this one had open, until it is read again.
    file: Option<OwnedFd>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The cookie that belongs to `start`; `None` before the first read.
    position: Option<u64>,
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

impl GuardFs {
    /// Opens a directory.
    ///
    /// # Errors
    /// As open(2).
    pub(crate) fn open_directory(&self, running: &Running<'_>, node: u64) -> Result<u64, Errno> {
        let file = Some(self.directory_file(node)?);
        let stream = Mutex::new(Stream { file, ..Stream::default() });
        let number =
            self.directories.insert(OpenDirectory { node, stream }, Remembered { node, flags: 0 })?;
        running.note_number(number);
        Ok(number)
    }

    fn directory_file(&self, node: u64) -> Result<OwnedFd, Errno> {
        let inode = self.table.get(node)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.backing.open(&inode.handle, flags) {
            // A removed directory that is still somebody's working directory.
            Err(Errno::STALE) => {
                rustix::fs::openat(&self.node_fd(node)?, ".", flags, rustix::fs::Mode::empty())
            }
            result => result,
        }
    }

    /// Gives the entries from `offset` on to `visit`, until it breaks or the directory ends. The entry at which
    /// it breaks comes again in the next call.
    ///
    /// # Errors
    /// As getdents64(2).
    pub(crate) fn read_directory(
        &self,
        number: u64,
        offset: u64,
        mut visit: impl FnMut(DirectoryEntry<'_>) -> ControlFlow<()>,
    ) -> Result<(), Errno> {
        let directory = self.directories.get(number)?;
        let mut stream = directory.stream.lock();
        self.reopen(&directory, &mut stream)?;
        stream.seek(offset)?;
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
                return Ok(());
            }
            stream.start += bytes;
            stream.position = Some(next);
        }
        Ok(())
    }

    /// As [`Self::read_directory`], with each entry's attributes and a reference counted for it. `visit` returns
    /// whether the entry was taken; if not, its reference is taken back and the reading ends.
    ///
    /// `.` and `..` come without attributes, as the protocol wants it.
    ///
    /// # Errors
    /// As getdents64(2).
    pub(crate) fn read_directory_plus(
        &self,
        number: u64,
        offset: u64,
        mut visit: impl FnMut(DirectoryEntry<'_>, Option<&Entry>) -> bool,
    ) -> Result<(), Errno> {
        let fd = self.node_fd(self.directories.get(number)?.node)?;
        self.read_directory(number, offset, |listed| {
            if listed.name == "." || listed.name == ".." {
                return if visit(listed, None) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
            }
            // An entry that vanished below the mount since it was read is left out.
            let Ok(child) = self.backing.child(borrow(&fd), listed.name) else {
                return ControlFlow::Continue(());
            };
            let Ok(entry) = self.entry(child) else { return ControlFlow::Continue(()) };
            if visit(listed, Some(&entry)) {
                ControlFlow::Continue(())
            } else {
                self.forget(entry.node, 1);
                ControlFlow::Break(())
            }
        })
    }

    /// Makes a directory's entries durable.
    ///
    /// # Errors
    /// As fsync(2).
    pub(crate) fn sync_directory(&self, number: u64, data_only: bool) -> Result<(), Errno> {
        let directory = self.directories.get(number)?;
        let mut stream = directory.stream.lock();
        let file = self.reopen(&directory, &mut stream)?;
        if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }
    }

    /// Ends one open.
    ///
    /// # Errors
    /// `EBADF` when the number is not open.
    pub(crate) fn release_directory(&self, running: &Running<'_>, number: u64) -> Result<(), Errno> {
        self.once(running, |again| {
            if again.is_some_and(|notes| notes.note == RELEASED) {
                return Ok(0);
            }
            self.directories.take(number)?;
            running.note(RELEASED);
            self.directories.recycle(number);
            Ok(0)
        })
        .map(drop)
    }

    /// Ends an open of which the kernel never heard.
    pub(crate) fn discard_directory(&self, number: u64) {
        if self.directories.take(number).is_ok() {
            self.directories.recycle(number);
        }
    }

    /// Returns the stream's descriptor, opened now if it was a dead worker's.
    fn reopen<'a>(&self, directory: &OpenDirectory, stream: &'a mut Stream) -> Result<&'a OwnedFd, Errno> {
        if stream.file.is_none() {
            stream.file = Some(self.directory_file(directory.node)?);
        }
        stream.file.as_ref().ok_or(Errno::BADF)
    }
}

impl OpenDirectory {
    /// Rebuilds what a worker before this one had open. Every request names its offset, so nothing is lost.
    pub(super) fn remembered(remembered: Remembered) -> Self {
        Self { node: remembered.node, stream: Mutex::default() }
    }
}

impl Stream {
    /// Goes to a cookie unless the buffer stands there already. Offset 0 always reads afresh: that is what
    /// rewinddir(3) promises.
    fn seek(&mut self, offset: u64) -> Result<(), Errno> {
        if offset != 0 && self.position == Some(offset) {
            return Ok(());
        }
        rustix::fs::seek(self.file.as_ref().ok_or(Errno::BADF)?, SeekFrom::Start(offset))?;
        (self.start, self.end) = (0, 0);
        self.position = Some(offset);
        Ok(())
    }

    /// Returns whether there is a record at `start`, reading more if needed.
    fn fill(&mut self) -> Result<bool, Errno> {
        if self.start < self.end {
            return Ok(true);
        }
        self.buffer.resize(BUFFER_BYTES, 0);
        self.start = 0;
        self.end = read_records(self.file.as_ref().ok_or(Errno::BADF)?.as_fd(), &mut self.buffer)?;
        Ok(self.end > 0)
    }
}
