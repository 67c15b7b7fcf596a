//! The thin adapter between the `fuser` crate and [`GuardFs`]: arguments in, reply or errno out.
//!
//! Only this module and its parts know `fuser`. Every handler runs to its end on the session thread that read
//! the request; nothing here blocks on another request.

pub(crate) mod connection;
mod convert;
mod sys;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::io::Errno;

use crate::fail_point;
use crate::fs::{
    Caller, Entry, GuardFs, Opened, PAST_HANDLE, ReadTarget, SettableAttributes, WriteOrigin, is_virtual,
};
use crate::inode::is_past;
use crate::journal::Running;
use convert::{errno, file_attributes, set_time};

/// Largest request payload; the kernel's own limit is 256 pages, and larger ones measured slower.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Background requests (readahead, asynchronous direct I/O) that may be under way.
const MAX_BACKGROUND: u16 = 64;

/// Without these the mount would not have the semantics that SEMANTICS.md promises.
///
/// Not `FUSE_ATOMIC_O_TRUNC`: OPEN would truncate before the kernel has found out that the file is a program that
/// runs (`handle_truncate` in fs/namei.c), and `O_RDONLY | O_TRUNC` empty it although the call fails with ETXTBSY.
/// Without it the kernel truncates by a request of its own, after that check. Mounts that an earlier version made keep
/// it, so OPEN is still prepared for it.
const REQUIRED: InitFlags = InitFlags::FUSE_HANDLE_KILLPRIV_V2
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_DONT_MASK)
    .union(InitFlags::FUSE_PARALLEL_DIROPS);

/// Speed only.
const WANTED: InitFlags = InitFlags::FUSE_DO_READDIRPLUS
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_ASYNC_DIO)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    // Makes the kernel compare a directory's mtime before it shows a kept listing; file data is not cached.
    .union(InitFlags::FUSE_AUTO_INVAL_DATA);

thread_local! {
    /// Payload of a READ reply; grows to [`MAX_WRITE_BYTES`] once.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One workspace as the kernel sees it.
pub(crate) struct GuardFuse(pub(crate) Arc<GuardFs>);

impl GuardFuse {
    fn begin(&self, request: &Request, operation: &'static str) -> Running<'_> {
        fail_point::begin(operation);
        self.0.begin(request.unique().0)
    }

    fn opened(&self, reply: ReplyOpen, opened: &Opened) {
        let flags = convert::open_reply_flags(opened);
        match convert::backing_id(opened) {
            Some(id) => sys::reply_passthrough(reply, FileHandle(opened.number), flags, id),
            None => reply.opened(FileHandle(opened.number), flags),
        }
    }
}

impl GuardFuse {
    /// Passes a result on, and notes who was refused for lack of space.
    fn noted<T>(
        &self,
        request: &Request,
        (node, name): (INodeNo, Option<&OsStr>),
        result: Result<T, Errno>,
    ) -> Result<T, Errno> {
        if let Err(Errno::DQUOT | Errno::NOSPC) = result {
            self.0.note_refused(caller(request), node.0, name);
        }
        result
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn reply_entry(reply: ReplyEntry, result: Result<Entry, Errno>) {
    match result {
        Ok(entry) => reply.entry_with_ttls(
            &entry.attribute_ttl,
            &entry.entry_ttl,
            &file_attributes(&entry.stat, entry.node),
            Generation(entry.generation.into()),
        ),
        Err(error) => reply.error(errno(error)),
    }
}

fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for GuardFuse {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        config.add_capabilities(REQUIRED).map_err(|missing| {
            std::io::Error::new(
                std::io::ErrorKind::Unsupported,
                format!("the kernel's FUSE lacks {missing:?}; Linux 5.12 or newer is needed"),
            )
        })?;
        let wanted = WANTED & config.capabilities();
        // Both are within what the kernel just offered.
        let requested = config.add_capabilities(wanted).is_ok();
        debug_assert!(requested, "wanted flags are masked by the offered ones");
        let is_passthrough = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        if config.set_max_write(MAX_WRITE_BYTES).is_err()
            || config.set_max_background(MAX_BACKGROUND).is_err()
        {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "request limits out of range"));
        }
        self.0.set_negotiated(config.capabilities().bits(), is_passthrough);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.once_lookup(&self.begin(request, "lookup"), parent.0, name) {
            // A negative entry: node 0 with a time to live, so that a repeated failing stat(2) stays in the
            // kernel.
            Err(Errno::NOENT) if !is_past(parent.0) => {
                let ttl = self.0.entry_ttl();
                reply.entry(&ttl, &convert::no_attributes(), Generation(0));
            }
            result => reply_entry(reply, result),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.0.forget(ino.0, nlookup);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let attributes =
            self.begin(request, "getattr").check().and_then(|()| self.0.attributes(ino.0, fh.map(|fh| fh.0)));
        match attributes {
            Ok((stat, ttl)) => reply.attr(&ttl, &file_attributes(&stat, convert::shown_ino(ino.0, &stat))),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set =
            SettableAttributes { mode, uid, gid, size, accessed: set_time(atime), modified: set_time(mtime) };
        let number = fh.map(|fh| fh.0);
        let running = self.begin(request, "setattr");
        let done = self.0.once(&running, |_| {
            running.below(|| self.0.set_attributes(caller(request), ino.0, number, set)).map(|()| 0)
        });
        let done = self.noted(request, (ino, None), done);
        match done.and_then(|_| self.0.attributes(ino.0, number)) {
            Ok((stat, ttl)) => reply.attr(&ttl, &file_attributes(&stat, convert::shown_ino(ino.0, &stat))),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.begin(request, "readlink").check().and_then(|()| self.0.read_link(ino.0)) {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let device = convert::device_numbers(rdev);
        let make = || self.0.make_node(caller(request), parent.0, name, mode, umask, device);
        let made = self.0.once_entry(&self.begin(request, "mknod"), parent.0, name, make);
        reply_entry(reply, self.noted(request, (parent, Some(name)), made));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let make = || self.0.make_directory(caller(request), parent.0, name, mode, umask);
        let made = self.0.once_entry(&self.begin(request, "mkdir"), parent.0, name, make);
        reply_entry(reply, self.noted(request, (parent, Some(name)), made));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let unlink = || self.0.unlink(caller(request), parent.0, name);
        let done = self.0.once_unless(&self.begin(request, "unlink"), Errno::NOENT, unlink);
        reply_empty(reply, self.0.refuse_virtual(parent.0, name, done));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let remove = || self.0.remove_directory(caller(request), parent.0, name);
        let done = self.0.once_unless(&self.begin(request, "rmdir"), Errno::NOENT, remove);
        reply_empty(reply, self.0.refuse_virtual(parent.0, name, done));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let make = || self.0.make_symlink(caller(request), parent.0, link_name, target.as_os_str());
        let made = self.0.once_entry(&self.begin(request, "symlink"), parent.0, link_name, make);
        reply_entry(reply, self.noted(request, (parent, Some(link_name)), made));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = ((parent.0, name), (newparent.0, newname));
        let renamed = self.0.rename(&self.begin(request, "rename"), caller(request), from, to, flags.bits());
        reply_empty(reply, self.noted(request, (parent, Some(name)), renamed));
    }

    fn link(&self, request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let link = || self.0.link(caller(request), ino.0, newparent.0, newname);
        reply_entry(reply, self.0.once_entry(&self.begin(request, "link"), newparent.0, newname, link));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (running, flags) = (self.begin(request, "open"), convert::open_flags(flags.0));
        if is_virtual(ino.0) {
            return match running.check().and_then(|()| self.0.open_virtual(ino.0, flags)) {
                Ok(number) => reply.opened(FileHandle(number), convert::VIRTUAL_OPEN),
                Err(error) => reply.error(errno(error)),
            };
        }
        if is_past(ino.0) {
            return match running.check().and_then(|()| self.0.open_past(ino.0, flags)) {
                Ok(number) => reply.opened(FileHandle(number), convert::PAST_OPEN),
                Err(error) => reply.error(errno(error)),
            };
        }
        let opened = self.0.once_opened(&running, || self.0.open(&running, caller(request), ino.0, flags));
        match self.noted(request, (ino, None), opened) {
            Ok(opened) => self.opened(reply, &opened),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let size = size.min(MAX_WRITE_BYTES) as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let running = self.begin(request, "read");
            let buffer = &mut buffer[..size];
            let mut read = || match fh.0 {
                PAST_HANDLE => self.0.read_past(ino.0, offset, buffer),
                number => self.0.read(number, offset, buffer),
            };
            match running.check().and_then(|()| read()) {
                Ok(length) => reply.data(&buffer[..length]),
                Err(error) => reply.error(errno(error)),
            }
        });
        self.0.after_read(ino.0, lock_owner.map_or(ReadTarget::PageCache, |_| ReadTarget::Caller));
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let origin = if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            WriteOrigin::Unprivileged
        } else {
            WriteOrigin::Privileged
        };
        let (running, flags) = (self.begin(request, "write"), convert::open_flags(flags.0));
        if is_virtual(ino.0) {
            let taken = running.check().and_then(|()| self.0.write_virtual(caller(request), fh.0, data));
            return match taken {
                Ok(length) => reply.written(u32::try_from(length).unwrap_or(u32::MAX)),
                Err(error) => reply.error(errno(error)),
            };
        }
        let written = self.0.write(&running, fh.0, offset, data, origin, flags, caller(request));
        match self.noted(request, (ino, None), written) {
            // At most the request's own length, which is a u32.
            Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Every write(2) has reached the backing file before it returned: there is nothing left to flush.
        reply.ok();
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if fh.0 == PAST_HANDLE {
            self.0.release_past(ino.0);
            return reply.ok();
        }
        reply_empty(reply, self.0.release(&self.begin(request, "release"), fh.0));
    }

    fn fsync(&self, request: &Request, _ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let running = self.begin(request, "fsync");
        reply_empty(reply, running.check().and_then(|()| running.below(|| self.0.sync_file(fh.0, datasync))));
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // From now on the kernel opens directories by itself and keeps their listings (fs/directory.rs).
        reply.error(errno(Errno::NOSYS));
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let running = self.begin(request, "readdir");
        let result = running.check().and_then(|()| {
            self.0.read_directory(ino.0, offset, |entry| {
                let ino = INodeNo(entry.ino);
                let is_full = reply.add(ino, entry.next_offset, convert::listed_type(entry.kind), entry.name);
                if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let running = self.begin(request, "readdirplus");
        let result = running.check().and_then(|()| {
            self.0.read_directory_plus(ino.0, offset, |listed, entry| {
                let next = listed.next_offset;
                let is_full = match entry {
                    Some(entry) => reply.add(
                        INodeNo(entry.node),
                        next,
                        listed.name,
                        &entry.attribute_ttl.min(entry.entry_ttl),
                        &file_attributes(&entry.stat, entry.node),
                        Generation(entry.generation.into()),
                    ),
                    // Node 0: only a name, no reference (`fuse_direntplus_link` in fs/fuse/readdir.c).
                    None => reply.add(
                        INodeNo(0),
                        next,
                        listed.name,
                        &std::time::Duration::ZERO,
                        &convert::name_only(&listed),
                        Generation(0),
                    ),
                };
                !is_full
            })
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let running = self.begin(request, "fsyncdir");
        reply_empty(
            reply,
            running.check().and_then(|()| running.below(|| self.0.sync_directory(ino.0, datasync))),
        );
    }

    fn statfs(&self, request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.begin(request, "statfs").check().and_then(|()| self.0.statvfs()) {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                u32::try_from(stat.f_bsize).unwrap_or(4096),
                u32::try_from(stat.f_namemax).unwrap_or(255),
                u32::try_from(stat.f_frsize).unwrap_or(4096),
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let is_due = || Ok(flags & libc::XATTR_CREATE == 0 || !self.0.has_xattr(ino.0, name)?);
        let set = || self.0.set_xattr(caller(request), ino.0, name, value, flags);
        let running = self.begin(request, "setxattr");
        reply_empty(reply, self.0.once_if_due(&running, Errno::EXIST, is_due, set));
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let mut buffer = vec![0; size.min(MAX_WRITE_BYTES) as usize];
        let running = self.begin(request, "getxattr");
        match running.check().and_then(|()| self.0.xattr(ino.0, name, &mut buffer)) {
            Ok(length) if size == 0 => reply.size(u32::try_from(length).unwrap_or(u32::MAX)),
            Ok(length) => reply.data(&buffer[..length]),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.begin(request, "listxattr").check().and_then(|()| self.0.xattr_names(ino.0)) {
            Ok(names) if size == 0 => reply.size(u32::try_from(names.len()).unwrap_or(u32::MAX)),
            Ok(names) if names.len() <= size as usize => reply.data(&names),
            Ok(_) => reply.error(errno(Errno::RANGE)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let is_due = || self.0.has_xattr(ino.0, name);
        let remove = || self.0.remove_xattr(caller(request), ino.0, name);
        let running = self.begin(request, "removexattr");
        reply_empty(reply, self.0.once_if_due(&running, Errno::NODATA, is_due, remove));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let flags = convert::open_flags(flags);
        let (running, caller) = (self.begin(request, "create"), caller(request));
        let created = self.0.once_created(
            &running,
            parent.0,
            name,
            || self.0.create(&running, caller, parent.0, name, mode, umask, flags),
            || self.0.open_existing(&running, caller, parent.0, name, flags),
        );
        let (entry, opened) = match self.noted(request, (parent, Some(name)), created) {
            Ok(created) => created,
            Err(error) => return reply.error(errno(error)),
        };
        let attributes = file_attributes(&entry.stat, entry.node);
        // CREATE has one time to live for name and attributes.
        let ttl = entry.attribute_ttl.min(entry.entry_ttl);
        let generation = Generation(entry.generation.into());
        let open_flags = convert::open_reply_flags(&opened);
        let number = FileHandle(opened.number);
        match convert::backing_id(&opened) {
            Some(id) => sys::reply_created(reply, &ttl, &attributes, generation, number, open_flags, id),
            None => reply.created(&ttl, &attributes, generation, number, open_flags),
        }
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(errno(Errno::NOTTY));
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        // The kernel then answers "always ready" by itself, as for any regular file, and asks no more.
        reply.error(errno(Errno::NOSYS));
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let running = self.begin(request, "fallocate");
        let caller = caller(request);
        let done = self.0.once(&running, |_| {
            running.below(|| self.0.fallocate(caller, fh.0, mode, offset, length)).map(|()| 0)
        });
        let done = self.noted(request, (ino, None), done);
        reply_empty(reply, done.map(drop));
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = || match fh.0 {
            PAST_HANDLE => self.0.seek_past(ino.0, offset, whence),
            number => self.0.seek(number, offset, whence),
        };
        match self.begin(request, "lseek").check().and_then(|()| seek()) {
            Ok(offset) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((fh_in.0, offset_in), (fh_out.0, offset_out));
        let running = self.begin(request, "copy_file_range");
        let copied = self.0.copy_range(&running, caller(request), from, to, length);
        match self.noted(request, (ino_out, None), copied) {
            Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }
}
