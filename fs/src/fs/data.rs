//! Reading and writing: what reaches the worker of it.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::charging::Charging;
use super::open_files::OpenFile;
use super::preserving::affected_by;
use super::virtual_dir::is_virtual_handle;
use super::{Caller, GuardFs, is_virtual};
use crate::accounting::Accounting;
use crate::fail_point::{self, Stage};
use crate::inode::is_past;
use crate::journal::Running;
use crate::snapshot::{Affected, Cause};
use crate::sys::identity;
use crate::tracker::Operation;

/// Most bytes of one copy_file_range(2); the caller goes on from the returned count. Bounds the time for which
/// one request keeps a thread.
const MAX_COPY_BYTES: u64 = 256 << 20;

fn to_result(size: usize) -> Result<i64, Errno> {
    i64::try_from(size).map_err(|_| Errno::OVERFLOW)
}

/// How durable a write has to be beyond what its descriptor does by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Durability {
    Later,
    Data,
    Everything,
}

/// What a write's own flags say against those that its file was opened with (fcntl(2) and pwritev2(2) change them).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct WriteMode {
    appends: bool,
    /// The file was opened with `O_APPEND`, which was cleared since.
    needs_plain_descriptor: bool,
    durability: Durability,
}

impl WriteMode {
    fn of(open_file: &OpenFile, flags: OFlags) -> Self {
        let appends = open_file.appends() && flags.contains(OFlags::APPEND);
        let opened = open_file.flags();
        let durability = if flags.contains(OFlags::SYNC) && !opened.contains(OFlags::SYNC) {
            Durability::Everything
        } else if flags.contains(OFlags::DSYNC) && !opened.contains(OFlags::DSYNC) {
            Durability::Data
        } else {
            Durability::Later
        };
        Self { appends, needs_plain_descriptor: open_file.appends() && !appends, durability }
    }
}

/// Whether a write comes from somebody who may keep setuid and setgid bits
/// (`FUSE_WRITE_KILL_SUIDGID` is absent).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WriteOrigin {
    /// The caller lacks CAP_FSETID: the bits go.
    Unprivileged,
    /// The caller holds CAP_FSETID: the bits stay.
    Privileged,
}

/// Where the bytes of a read go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadTarget {
    /// Into the caller's memory.
    Caller,
    /// Into the kernel's page cache (the request names no lock owner, `fuse_send_readpages` in fs/fuse/file.c).
    PageCache,
}

impl GuardFs {
    /// Notes a read that has been answered.
    pub(crate) fn after_read(&self, node: u64, target: ReadTarget) {
        if target == ReadTarget::PageCache && !is_virtual(node) && !is_past(node) && self.is_passthrough() {
            self.page_drop.note(&self.device, node);
        }
    }

    /// Reads into `buffer`; returns the bytes read, fewer only at the end of the file.
    ///
    /// # Errors
    /// As pread(2); of a virtual file also `ESTALE`.
    pub(crate) fn read(&self, number: u64, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        if is_virtual_handle(number) {
            return self.read_virtual(number, offset, buffer);
        }
        let open_file = self.files.get(number)?;
        let file = open_file.file(self)?;
        let file = file.as_fd();
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(file, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(errno) if done == 0 => return Err(errno),
                // The bytes before the bad spot are good; the next read reports it.
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes `data`; returns the bytes written, at least one. With `O_APPEND` the backing decides where.
    ///
    /// # Errors
    /// As pwrite(2). `EDQUOT` and `ENOSPC` come before any byte is written.
    pub(crate) fn write(
        &self,
        running: &Running<'_>,
        number: u64,
        offset: u64,
        data: &[u8],
        origin: WriteOrigin,
        flags: OFlags,
        caller: Caller,
    ) -> Result<usize, Errno> {
        let written = self.once(running, |again| {
            let mut offset = offset;
            let open_file = self.files.get(number)?;
            let how = WriteMode::of(&open_file, flags);
            if how.appends {
                // The size of the backing file, not the offset that the kernel sends: that is the size which it
                // remembers, and somebody may have appended below the mount. Noted one higher, because 0 means
                // that nothing was noted.
                let size = rustix::fs::fstat(open_file.file(self)?)?.st_size;
                let size = u64::try_from(size).map_err(|_| Errno::IO)?;
                match again.map_or(0, |notes| notes.note).checked_sub(1) {
                    Some(before) if size > before => {
                        let appended = usize::try_from(size - before).map_err(|_| Errno::OVERFLOW)?;
                        return to_result(appended.min(data.len()));
                    }
                    Some(_) | None => running.note(size + 1),
                }
                fail_point::reach(Stage::Prepared);
                offset = size;
            }
            let (written, delta) =
                running.below(|| self.write_charged(caller, &open_file, offset, data, origin, how))?;
            if self.tracker.is_on() {
                open_file.tally(self, caller).wrote(offset, written as u64, delta);
            }
            running.below(|| self.sync_written(&open_file, how))?;
            to_result(written)
        })?;
        usize::try_from(written).map_err(|_| Errno::IO)
    }

    /// Makes a write durable whose caller asked for it with this one call (pwritev2(2) with `RWF_DSYNC` or
    /// `RWF_SYNC`, or `O_SYNC` set by fcntl(2)); the descriptor of an `O_SYNC` open does so by itself.
    fn sync_written(&self, open_file: &OpenFile, how: WriteMode) -> Result<(), Errno> {
        match how.durability {
            Durability::Later => Ok(()),
            Durability::Data => rustix::fs::fdatasync(open_file.file(self)?),
            Durability::Everything => rustix::fs::fsync(open_file.file(self)?),
        }
    }

    /// Writes as much as the quota allows. Returns the bytes written, and by how much the file's charge grew.
    fn write_charged(
        &self,
        caller: Caller,
        open_file: &OpenFile,
        offset: u64,
        data: &[u8],
        origin: WriteOrigin,
        how: WriteMode,
    ) -> Result<(usize, i64), Errno> {
        let write_preserved = |data: &[u8]| {
            let affected = Affected::Range { offset, length: data.len() as u64 };
            let _permit = self.before_bytes(open_file, caller, Cause::Write, affected)?;
            if how.durability != Durability::Later || open_file.is_synchronous() {
                // Nobody else preserves anything of the file while there is a permit.
                drop(self.sync_preserved(open_file));
            }
            self.reclaim.retry_when_full(|| self.write_now(open_file, offset, data, origin, how))
        };
        // The permit is given back before room is made, so that the epoch can end.
        let write = |data: &[u8]| self.with_room(|| write_preserved(data));
        let Some(charging) = &self.charging else { return write(data).map(|written| (written, 0)) };
        let file = open_file.file(self)?;
        let charge = open_file.charge(charging);
        // With O_APPEND the backing decides where: at its own end, which `offset` was a moment ago.
        let admit = || charging.admit_write(open_file.node, charge, file.as_fd(), offset, data.len());
        let admitted = self.with_room(|| self.retry_when_over(admit))?;
        let written = write(data.get(..admitted.length).unwrap_or(data));
        fail_point::reach(Stage::Effect);
        let delta = charging.settle_write(
            open_file.node,
            charge,
            file.as_fd(),
            admitted,
            offset,
            written.as_ref().map_or(0, |written| *written),
        );
        written.map(|written| (written, delta))
    }

    fn write_now(
        &self,
        open_file: &OpenFile,
        offset: u64,
        data: &[u8],
        origin: WriteOrigin,
        how: WriteMode,
    ) -> Result<usize, Errno> {
        let file =
            if how.needs_plain_descriptor { open_file.plain_file(self)? } else { open_file.file(self)? };
        let file = file.as_fd();
        identity::assume_nobody()?;
        let write = || {
            loop {
                match rustix::io::pwrite(file, data, offset) {
                    Err(Errno::INTR) => {}
                    result => return result,
                }
            }
        };
        if origin == WriteOrigin::Privileged && self.may_keep_privilege(open_file) {
            identity::with_fsetid(write)
        } else {
            write()
        }
    }

    /// Makes what was written durable. After success it is *acked* (DURABILITY.md).
    ///
    /// # Errors
    /// As fsync(2), late write errors included.
    pub(crate) fn sync_file(&self, number: u64, data_only: bool) -> Result<(), Errno> {
        if is_virtual_handle(number) {
            return Ok(());
        }
        let open_file = self.files.get(number)?;
        let file = open_file.file(self)?;
        let file = file.as_fd();
        let _syncing = self.sync_preserved(&open_file);
        if data_only { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }?;
        if open_file.is_writer() {
            self.settle_synced(open_file.node, file);
        }
        Ok(())
    }

    /// Allocates, frees or zeroes a range.
    ///
    /// # Errors
    /// As fallocate(2); `EOPNOTSUPP` for a mode that the backing filesystem lacks.
    pub(crate) fn fallocate(
        &self,
        caller: Caller,
        number: u64,
        mode: i32,
        offset: u64,
        length: u64,
    ) -> Result<(), Errno> {
        let open_file = self.files.get(number)?;
        let mode = u32::try_from(mode).map_err(|_| Errno::OPNOTSUPP)?;
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        identity::assume_nobody()?;
        let file = open_file.file(self)?;
        let affected = affected_by(mode, offset, length);
        let _permit = self.before_bytes(&open_file, caller, Cause::Write, affected)?;
        let allocate = || rustix::fs::fallocate(&file, mode, offset, length);
        // Where the bits have to go, the kernel has said so in a request of its own (`file_modified`).
        let allocate = || {
            let allocated = self.with_room(|| {
                self.reclaim.retry_when_full(|| {
                    if self.may_keep_privilege(&open_file) {
                        identity::with_fsetid(allocate)
                    } else {
                        allocate()
                    }
                })
            });
            // Also when it failed: it may have come halfway before the filesystem was full.
            self.changed(open_file.node);
            allocated
        };
        let Some(charging) = &self.charging else {
            allocate()?;
            fail_point::reach(Stage::Effect);
            let record = caller.did(Operation::Allocate, open_file.node);
            self.note(record.range(offset, offset.saturating_add(length)));
            return Ok(());
        };
        let charge = open_file.charge(charging);
        let takes_nothing = FallocateFlags::PUNCH_HOLE | FallocateFlags::COLLAPSE_RANGE;
        if mode.contains(FallocateFlags::KEEP_SIZE) && !mode.intersects(takes_nothing) {
            self.check_allocation_beyond_end(charging, file.as_fd(), offset, length)?;
        }
        let (node, file) = (open_file.node, file.as_fd());
        let mut admitted = if mode.intersects(takes_nothing) {
            charging.admit_change(node, charge, file)?
        } else {
            self.retry_when_over(|| charging.admit_range(node, charge, file, offset, length, false))?
        };
        charging.begin_cut(charge, &mut admitted);
        let allocated = allocate();
        fail_point::reach(Stage::Effect);
        let delta = charging.settle_change(node, charge, file, admitted);
        allocated?;
        let record = caller.did(Operation::Allocate, node);
        self.note(record.range(offset, offset.saturating_add(length)).costing(0, delta));
        Ok(())
    }

    /// Where blocks beyond the end of a file are not charged, they cannot be asked for either.
    fn check_allocation_beyond_end(
        &self,
        charging: &Charging,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
    ) -> Result<(), Errno> {
        let counts_beyond = charging.accounting() == Accounting::Allocated;
        if counts_beyond
            || !charging.account().limits_bytes()
            || offset.saturating_add(length) <= size_of(file)?
        {
            return Ok(());
        }
        Err(Errno::OPNOTSUPP)
    }

    /// Finds the next data or hole.
    ///
    /// # Errors
    /// `ENXIO` behind the end, `EINVAL` for another `whence`.
    pub(crate) fn seek(&self, number: u64, offset: i64, whence: i32) -> Result<u64, Errno> {
        if is_virtual_handle(number) {
            return self.seek_virtual(number, offset, whence);
        }
        let open_file = self.files.get(number)?;
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let target = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        // The descriptor's own position means nothing: every read and write names its offset.
        rustix::fs::seek(open_file.file(self)?, target)
    }

    /// Copies within the filesystem, by reflink where it can; returns the bytes copied.
    ///
    /// # Errors
    /// As copy_file_range(2); `EXDEV` from a virtual file, upon which the kernel copies by itself.
    pub(crate) fn copy_range(
        &self,
        running: &Running<'_>,
        caller: Caller,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
    ) -> Result<usize, Errno> {
        if is_virtual_handle(from.0) {
            return Err(Errno::XDEV);
        }
        let copied = self.once(running, |_| {
            let copied = running.below(|| self.copy_charged(caller, from, to, length))?;
            if let Ok(target) = self.files.get(to.0)
                && copied > 0
            {
                let record = caller.did(Operation::CopyRange, target.node);
                let end = to.1.saturating_add(copied as u64);
                self.note(record.range(to.1, end).costing(copied as u64, 0));
            }
            to_result(copied)
        })?;
        usize::try_from(copied).map_err(|_| Errno::IO)
    }

    /// Copies as much as the quota allows.
    fn copy_charged(
        &self,
        caller: Caller,
        from: (u64, u64),
        to: (u64, u64),
        length: u64,
    ) -> Result<usize, Errno> {
        let (source, target) = (self.files.get(from.0)?, self.files.get(to.0)?);
        if !target.is_writer() {
            return Err(Errno::BADF);
        }
        let affected = Affected::Range { offset: to.1, length: length.min(MAX_COPY_BYTES) };
        let _permit = self.before_bytes(&target, caller, Cause::Write, affected)?;
        let copy_once = |length| self.copy_now(&source, &target, (from.1, to.1), length);
        let copy = |length| self.with_room(|| self.reclaim.retry_when_full(|| copy_once(length)));
        let Some(charging) = &self.charging else { return copy(length) };
        // Only what there is to copy is reserved.
        let length =
            length.min(MAX_COPY_BYTES).min(size_of(source.file(self)?.as_fd())?.saturating_sub(from.1));
        let file = target.file(self)?;
        let (node, charge, file) = (target.node, target.charge(charging), file.as_fd());
        let admitted =
            self.retry_when_over(|| charging.admit_range(node, charge, file, to.1, length, true))?;
        let copied = copy(admitted.length as u64);
        fail_point::reach(Stage::Effect);
        charging.settle_change(node, charge, file, admitted);
        copied
    }

    fn copy_now(
        &self,
        source: &OpenFile,
        target: &OpenFile,
        (from, to): (u64, u64),
        length: u64,
    ) -> Result<usize, Errno> {
        identity::assume_nobody()?;
        let (mut read_at, mut write_at) = (from, to);
        let length = usize::try_from(length.min(MAX_COPY_BYTES)).map_err(|_| Errno::OVERFLOW)?;
        let (source_file, target_file) = (source.file(self)?, target.file(self)?);
        let mut copy = || {
            rustix::fs::copy_file_range(
                &source_file,
                Some(&mut read_at),
                &target_file,
                Some(&mut write_at),
                length,
            )
        };
        // As for fallocate(2).
        if self.may_keep_privilege(target) { identity::with_fsetid(copy) } else { copy() }
    }
}

fn size_of(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    u64::try_from(rustix::fs::fstat(file)?.st_size).map_err(|_| Errno::IO)
}
