//! What restoring does to the files: as operations of users, but begun by the worker.
//!
//! Everything goes through the same gates as a user's own change: quota, tracking, history. Nodes are reached by names
//! from the root, each counted like a reference of the kernel until [`GuardFs::forget`]. The kernel did not ask for
//! these changes, so it is told of them.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;

use super::charging::Charging;
use super::{Caller, Entry, GuardFs, borrow};
use crate::inode::Life;
use crate::snapshot::{Cause, ObjectId};
use crate::sys::device::Invalidate;
use crate::sys::handle::FileHandle;
use crate::sys::identity;
use crate::tracker::Operation;

/// Written at a time.
const CHUNK: usize = 256 << 10;
/// What is left as a hole if it is zeros.
const BLOCK: usize = 4096;

/// When the kernel learns of a change of names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Telling {
    /// With each of them.
    AtOnce,
    /// With the call of [`GuardFs::tell_of_all`] that follows many of them.
    AtTheEnd,
}

impl GuardFs {
    /// Whether the kernel can be told of many changes at once.
    pub(crate) fn can_tell_of_all(&self) -> bool {
        self.device.invalidate_all_entries().is_ok()
    }

    /// Tells the kernel that every name may be another, and that these directories have other entries and attributes.
    pub(crate) fn tell_of_all(&self, directories: impl IntoIterator<Item = u64>) {
        let told = self.device.invalidate_all_entries();
        let told = std::iter::once(told).chain(
            directories.into_iter().map(|node| self.device.invalidate_node(node, Invalidate::Everything)),
        );
        for told in told {
            match told {
                Ok(()) | Err(Errno::NOENT | Errno::NOTCONN | Errno::NODEV | Errno::INVAL) => {}
                Err(errno) => tracing::warn!(%errno, "cannot tell the kernel of what was restored"),
            }
        }
    }

    /// Finds an inode by its handle and counts a reference to it.
    ///
    /// # Errors
    /// `ESTALE` if it is gone.
    pub(crate) fn reach_inode(&self, handle: &FileHandle) -> Result<Entry, Errno> {
        let fd = self.backing.path_fd(handle)?;
        self.entry(self.backing.of_fd(fd.as_fd())?)
    }

    /// Returns the identity of an inode that is reached.
    pub(crate) fn handle_of_node(&self, node: u64) -> Option<FileHandle> {
        self.table.get(node).ok().map(|inode| inode.handle)
    }

    /// Sets attributes as they were, of an inode that is reached.
    ///
    /// # Errors
    /// As [`Self::set_attributes`].
    pub(crate) fn set_as_it_was(
        &self,
        caller: Caller,
        node: u64,
        set: super::SettableAttributes,
    ) -> Result<(), Errno> {
        self.set_attributes(caller, node, None, set)?;
        self.changed(node);
        Ok(())
    }

    /// Gives a reached inode one more name.
    ///
    /// # Errors
    /// As [`Self::link`].
    pub(crate) fn link_as_it_was(
        &self,
        caller: Caller,
        node: u64,
        (parent, name): (u64, &OsStr),
        telling: Telling,
    ) -> Result<(), Errno> {
        let entry = self.link(caller, node, parent, name)?;
        self.forget(entry.node, 1);
        self.changed(node);
        self.tell_kernel(parent, name, telling);
        Ok(())
    }

    /// Makes a file that was made a moment ago and that nobody else knows share the blocks of another.
    ///
    /// # Errors
    /// `EDQUOT` or `ENOSPC`; as ioctl_ficlone(2).
    pub(crate) fn fill_by_cloning(&self, node: u64, size: u64, from: BorrowedFd<'_>) -> Result<(), Errno> {
        identity::assume_nobody()?;
        let inode = self.table.get(node)?;
        let file = self.backing.open(&inode.handle, OFlags::WRONLY | OFlags::NONBLOCK)?;
        let clone = || rustix::fs::ioctl_ficlone(&file, from);
        match &self.charging {
            None => clone()?,
            Some(charging) => {
                let charge = charging.entry(node);
                let admitted = self
                    .retry_when_over(|| charging.admit_range(node, &charge, file.as_fd(), 0, size, false))?;
                let cloned = clone();
                charging.settle_change(node, &charge, file.as_fd(), admitted);
                drop(charge);
                charging.let_go(node);
                cloned?;
            }
        }
        rustix::fs::fsync(&file)
    }

    /// Gives a deleted file, which is kept as `object`, a name again; it is the same inode as before.
    ///
    /// # Errors
    /// `EEXIST` if the name is taken; `ENOENT` if the object is not there; `EDQUOT` or `ENOSPC` if it does not fit.
    pub(crate) fn put_back(
        &self,
        caller: Caller,
        object: ObjectId,
        handle: FileHandle,
        (parent, name): (u64, &OsStr),
        telling: Telling,
    ) -> Result<(), Errno> {
        let Some(history) = &self.history else { return Err(Errno::NOENT) };
        self.check_name(parent, name)?;
        identity::assume_nobody()?;
        let dir = self.node_fd(parent)?;
        let child = self.backing.of_fd(self.backing.path_fd(&handle)?.as_fd())?;
        let node = self.node_of(&child.stat)?;
        let step = self.before_name(caller, Cause::Create, (parent, borrow(&dir)), name, None)?;
        let mut names = self.begin_names();
        let bytes = self.accounting.charge(&child.stat);
        let is_charged = self.table.life(node) == Life::DeletedOpen;
        let reservation = match &mut names {
            Some(names) if !is_charged => Some(names.admit_return(bytes, child.stat.stx_size)?),
            _ => None,
        };
        let change = || history.store().put_back(object, borrow(&dir), name);
        match telling {
            Telling::AtOnce => self.mutate_name(parent, name, change),
            Telling::AtTheEnd => self.mutate_name_untold(parent, name, change),
        }?;
        if let (Some(names), Some(reservation)) = (&names, reservation) {
            names.returned(node, reservation, bytes);
        }
        if is_charged && self.open_inodes.note_named(node) {
            self.deleted_open.fetch_sub(1, std::sync::atomic::Ordering::AcqRel);
        }
        self.table.set_life(node, Life::Named);
        self.reclaim.unpin(node);
        if let Some(step) = &step {
            step.put_back(object);
        }
        drop((names, step));
        self.note(caller.did(Operation::Create, node).at(parent, name).costing(0, self.charge(&child.stat)));
        self.tell_kernel(parent, name, telling);
        Ok(())
    }

    /// Fills a file that was made a moment ago and that nobody else knows. `read` is given an offset and a buffer and
    /// returns how many bytes of it are data of the file from there, and whether they are a hole; 0 at the end.
    ///
    /// # Errors
    /// As `read`; `EDQUOT` or `ENOSPC`; as write(2).
    pub(crate) fn fill(
        &self,
        node: u64,
        size: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<usize, Errno>,
    ) -> Result<(), Errno> {
        identity::assume_nobody()?;
        let inode = self.table.get(node)?;
        let file = self.backing.open(&inode.handle, OFlags::WRONLY | OFlags::NONBLOCK)?;
        if rustix::fs::fstat(&file)?.st_size > 0 {
            // What an attempt to fill it has left.
            self.charged_truncation(node, file.as_fd(), 0, || rustix::fs::ftruncate(&file, 0))?;
        }
        let mut buffer = vec![0_u8; CHUNK];
        let mut at = 0;
        while at < size {
            let wanted = usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK);
            let length = read(at, &mut buffer[..wanted])?;
            if length == 0 {
                break;
            }
            self.write_data(node, file.as_fd(), at, &buffer[..length])?;
            at += length as u64;
        }
        self.charged_truncation(node, file.as_fd(), size, || rustix::fs::ftruncate(&file, size))?;
        rustix::fs::fsync(&file)
    }

    /// Writes what is not zero, in whole blocks.
    fn write_data(&self, node: u64, file: BorrowedFd<'_>, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut start = 0;
        let is_zero = |chunk: &&[u8]| chunk.iter().all(|byte| *byte == 0);
        while let Some(rest) = bytes.get(start..).filter(|rest| !rest.is_empty()) {
            let run: usize = rest.chunks(BLOCK).take_while(|chunk| !is_zero(chunk)).map(<[u8]>::len).sum();
            self.write_all(node, file, offset + start as u64, rest.get(..run).unwrap_or(rest))?;
            let hole: usize = rest[run..].chunks(BLOCK).take_while(is_zero).map(<[u8]>::len).sum();
            start += run + hole;
        }
        Ok(())
    }

    fn write_all(
        &self,
        node: u64,
        file: BorrowedFd<'_>,
        mut offset: u64,
        mut bytes: &[u8],
    ) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let written = match &self.charging {
                Some(charging) => self.write_admitted(charging, node, file, offset, bytes)?,
                None => rustix::io::pwrite(file, bytes, offset)?,
            };
            if written == 0 {
                return Err(Errno::IO);
            }
            offset += written as u64;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn write_admitted(
        &self,
        charging: &Charging,
        node: u64,
        file: BorrowedFd<'_>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<usize, Errno> {
        let charge = charging.entry(node);
        let admitted = charging.admit_write(node, &charge, file, offset, bytes.len())?;
        let written = rustix::io::pwrite(file, bytes.get(..admitted.length).unwrap_or(bytes), offset);
        let length = written.as_ref().map_or(0, |written| *written);
        charging.settle_write(node, &charge, file, admitted, offset, length);
        written
    }

    /// Moves a name, over another unless `flags` forbid it.
    ///
    /// # Errors
    /// As renameat2(2).
    pub(crate) fn move_name(
        &self,
        caller: Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: RenameFlags,
        telling: Telling,
    ) -> Result<(), Errno> {
        self.rename_now(caller, from, to, flags)?;
        self.tell_kernel(from.0, from.1, telling);
        self.tell_kernel(to.0, to.1, telling);
        Ok(())
    }

    /// Removes a name.
    ///
    /// # Errors
    /// As unlink(2) and rmdir(2).
    pub(crate) fn remove_name(
        &self,
        caller: Caller,
        (parent, name): (u64, &OsStr),
        is_dir: bool,
        telling: Telling,
    ) -> Result<(), Errno> {
        if is_dir { self.remove_directory(caller, parent, name) } else { self.unlink(caller, parent, name) }?;
        self.tell_kernel(parent, name, telling);
        Ok(())
    }

    /// Makes a directory, or an empty file of another type, and counts a reference to it.
    ///
    /// # Errors
    /// As mkdir(2) and mknod(2).
    pub(crate) fn make(
        &self,
        caller: Caller,
        (parent, name): (u64, &OsStr),
        mode: u32,
        device: u64,
        telling: Telling,
    ) -> Result<Entry, Errno> {
        let is_dir = mode & libc::S_IFMT == libc::S_IFDIR;
        let entry = if is_dir {
            self.make_directory(caller, parent, name, mode, 0)
        } else {
            let device = (rustix::fs::major(device), rustix::fs::minor(device));
            self.make_node(caller, parent, name, mode, 0, device)
        }?;
        self.tell_kernel(parent, name, telling);
        Ok(entry)
    }

    /// Makes a symbolic link and counts a reference to it.
    ///
    /// # Errors
    /// As symlink(2).
    pub(crate) fn make_link_to(
        &self,
        caller: Caller,
        (parent, name): (u64, &OsStr),
        target: &OsStr,
        telling: Telling,
    ) -> Result<Entry, Errno> {
        let entry = self.make_symlink(caller, parent, name, target)?;
        self.tell_kernel(parent, name, telling);
        Ok(entry)
    }

    /// The kernel may hold that a name does not exist, or what it was before.
    fn tell_kernel(&self, parent: u64, name: &OsStr, telling: Telling) {
        if telling == Telling::AtTheEnd {
            return;
        }
        for told in [
            self.device.invalidate_entry(parent, name),
            self.device.invalidate_node(parent, Invalidate::Attributes),
        ] {
            match told {
                Ok(()) | Err(Errno::NOENT | Errno::NOTCONN | Errno::NODEV | Errno::NOTDIR) => {}
                Err(errno) => tracing::warn!(ino = parent, %errno, "cannot tell the kernel of a change"),
            }
        }
    }
}
