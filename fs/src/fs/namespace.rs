//! Names: lookup, creation, links, removal, rename.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::tracking::charge;
use super::{Caller, Entry, GuardFs, borrow};
use crate::journal::Running;
use crate::sys::identity;
use crate::tracker::Operation;

/// An inode that loses a name.
struct Victim {
    node: u64,
    /// Set if it is the last name and the kernel knows the inode.
    fd: Option<OwnedFd>,
    /// What goes with the last name, bytes.
    freed: i64,
}

impl GuardFs {
    /// Finds `name` in a directory and counts a reference to it.
    ///
    /// # Errors
    /// `ENOENT`, or what the filesystem says.
    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        let dir = self.node_fd(parent)?;
        self.entry(self.backing.child(borrow(&dir), name)?)
    }

    /// Creates a file that is not opened: regular, FIFO, socket or device.
    ///
    /// # Errors
    /// As mknod(2); `EPERM` for a device under `squash`, except overlayfs's whiteout (character device 0:0,
    /// which opens nothing).
    pub(crate) fn make_node(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: (u32, u32),
    ) -> Result<Entry, Errno> {
        let file_type = FileType::from_raw_mode(mode);
        let is_device = matches!(file_type, FileType::CharacterDevice | FileType::BlockDevice);
        let is_whiteout = file_type == FileType::CharacterDevice && device == (0, 0);
        if is_device && self.is_squashed() && !is_whiteout {
            return Err(Errno::PERM);
        }
        let device = if is_device { rustix::fs::makedev(device.0, device.1) } else { 0 };
        let mode = Mode::from_raw_mode(self.allowed_mode(mode));
        let operation =
            if file_type == FileType::RegularFile { Operation::Create } else { Operation::MakeNode };
        self.create_entry(caller, operation, parent, name, umask, |dir| {
            rustix::fs::mknodat(dir, name, file_type, mode, device)
        })
    }

    /// Creates a directory.
    ///
    /// # Errors
    /// As mkdir(2).
    pub(crate) fn make_directory(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<Entry, Errno> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        self.create_entry(caller, Operation::MakeDirectory, parent, name, umask, |dir| {
            rustix::fs::mkdirat(dir, name, mode)
        })
    }

    /// Creates a symbolic link. The target is stored as it is and never resolved by the daemon.
    ///
    /// # Errors
    /// As symlink(2).
    pub(crate) fn make_symlink(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
    ) -> Result<Entry, Errno> {
        self.create_entry(caller, Operation::MakeSymlink, parent, name, 0, |dir| {
            rustix::fs::symlinkat(target, dir, name)
        })
    }

    /// Gives a node another name.
    ///
    /// # Errors
    /// As link(2).
    pub(crate) fn link(&self, caller: Caller, node: u64, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        identity::assume_nobody()?;
        let (fd, dir) = (self.node_fd(node)?, self.node_fd(parent)?);
        self.mutate_name(parent, name, || {
            rustix::fs::linkat(borrow(&fd), "", borrow(&dir), name, AtFlags::EMPTY_PATH)
        })?;
        self.note(caller.did(Operation::Link, node).at(parent, name));
        self.entry(self.backing.child(borrow(&dir), name)?)
    }

    /// Returns a symbolic link's target.
    ///
    /// # Errors
    /// As readlink(2).
    pub(crate) fn read_link(&self, node: u64) -> Result<OsString, Errno> {
        let fd = self.node_fd(node)?;
        let target = rustix::fs::readlinkat(borrow(&fd), "", Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Removes a name of a file.
    ///
    /// # Errors
    /// As unlink(2).
    pub(crate) fn unlink(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<(), Errno> {
        self.remove(caller, parent, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2).
    pub(crate) fn remove_directory(&self, caller: Caller, parent: u64, name: &OsStr) -> Result<(), Errno> {
        self.remove(caller, parent, name, AtFlags::REMOVEDIR)
    }

    /// Moves, replaces, exchanges, or moves leaving a whiteout.
    ///
    /// # Errors
    /// As renameat2(2).
    pub(crate) fn rename(
        &self,
        running: &Running<'_>,
        caller: Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: u32,
    ) -> Result<(), Errno> {
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        self.once(running, |again| {
            // After these the source's name exists again, so that only the moved inode tells whether it is done.
            let leaves_a_name = flags.intersects(RenameFlags::EXCHANGE | RenameFlags::WHITEOUT);
            if leaves_a_name {
                match again {
                    Some(notes) if notes.note != 0 && self.ino_at(to) == Ok(notes.note) => return Ok(0),
                    _ => running.note(self.ino_at(from)?),
                }
            }
            match self.rename_now(caller, from, to, flags) {
                Err(Errno::NOENT) if again.is_some() => self.ino_at(to).map(|_| 0),
                result => result.map(|()| 0),
            }
        })
        .map(drop)
    }

    fn ino_at(&self, (parent, name): (u64, &OsStr)) -> Result<u64, Errno> {
        let dir = self.node_fd(parent)?;
        Ok(self.backing.child(borrow(&dir), name)?.stat.stx_ino)
    }

    fn rename_now(
        &self,
        caller: Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let (from_dir, to_dir) = (self.node_fd(from.0)?, self.node_fd(to.0)?);
        let replaced = if flags.intersects(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE) {
            None
        } else {
            self.victim(borrow(&to_dir), to.1)
        };
        if flags.contains(RenameFlags::WHITEOUT) {
            identity::assume(self.creator(caller, 0))?;
        } else {
            identity::assume_nobody()?;
        }
        let names =
            if flags.contains(RenameFlags::EXCHANGE) { vec![from, to, from, to] } else { vec![from, to] };
        for (dir, name) in &names {
            self.own_mutations.expect(self.directory_key(*dir), name);
        }
        let renamed = rustix::fs::renameat_with(borrow(&from_dir), from.1, borrow(&to_dir), to.1, flags);
        if renamed.is_err() {
            for (dir, name) in &names {
                self.own_mutations.retract(self.directory_key(*dir), name);
            }
        }
        renamed?;
        self.note_rename(caller, from, to, flags, replaced.as_ref());
        self.pin_victim(replaced);
        Ok(())
    }

    /// Notes who got which name, while the kernel still holds both directories.
    fn note_rename(
        &self,
        caller: Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: RenameFlags,
        replaced: Option<&Victim>,
    ) {
        let moved = self.node_at(to);
        // Two names of one inode: nothing has happened (rename(2)).
        let is_itself = replaced.is_some_and(|replaced| moved == Some(replaced.node));
        if is_itself {
            return;
        }
        if let Some(replaced) = replaced {
            let record = caller.did(Operation::Replace, replaced.node).at(to.0, to.1);
            self.note(record.costing(0, -replaced.freed));
        }
        let is_exchange = flags.contains(RenameFlags::EXCHANGE);
        let operation = if is_exchange { Operation::Exchange } else { Operation::Rename };
        self.note(caller.did(operation, moved.unwrap_or(0)).at(from.0, from.1).moved_to(to.0, to.1));
        if is_exchange {
            let back = self.node_at(from).unwrap_or(0);
            self.note(caller.did(operation, back).at(to.0, to.1).moved_to(from.0, from.1));
        }
    }

    fn node_at(&self, (parent, name): (u64, &OsStr)) -> Option<u64> {
        let dir = self.node_fd(parent).ok()?;
        Some(self.inode_of(&self.backing.child(borrow(&dir), name).ok()?).ok()?.node)
    }

    fn pin_victim(&self, victim: Option<Victim>) {
        if let Some(Victim { node, fd: Some(fd), .. }) = victim {
            self.pin(node, fd);
        }
    }

    fn remove(&self, caller: Caller, parent: u64, name: &OsStr, flags: AtFlags) -> Result<(), Errno> {
        identity::assume_nobody()?;
        let dir = self.node_fd(parent)?;
        let victim = self.victim(borrow(&dir), name);
        self.mutate_name(parent, name, || rustix::fs::unlinkat(borrow(&dir), name, flags))?;
        let operation =
            if flags.contains(AtFlags::REMOVEDIR) { Operation::RemoveDirectory } else { Operation::Unlink };
        let (node, freed) = victim.as_ref().map_or((0, 0), |victim| (victim.node, victim.freed));
        self.note(caller.did(operation, node).at(parent, name).costing(0, -freed));
        self.pin_victim(victim);
        Ok(())
    }

    /// Returns what `name` is, before it goes.
    ///
    /// An open(2) whose lookup came before a rename over the file, and a process that stands in a directory, still
    /// reach it then. That it cannot be determined only means that it is not pinned; the removal reports the error.
    fn victim(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Option<Victim> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?;
        let child = self.backing.of_fd(fd.as_fd()).ok()?;
        let inode = self.inode_of(&child).ok()?;
        let loses_last_name = inode.is_dir() || child.stat.stx_nlink == 1;
        if loses_last_name {
            self.backing.forget(&inode.handle);
        }
        let freed = if loses_last_name { charge(&child.stat) } else { 0 };
        let fd = (loses_last_name && self.table.knows(inode.node)).then_some(fd);
        Some(Victim { node: inode.node, fd, freed })
    }

    fn create_entry(
        &self,
        caller: Caller,
        operation: Operation,
        parent: u64,
        name: &OsStr,
        umask: u32,
        create: impl Fn(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<Entry, Errno> {
        let dir = self.node_fd(parent)?;
        identity::assume(self.creator(caller, umask))?;
        self.reclaim.retry_when_full(|| self.mutate_name(parent, name, || create(borrow(&dir))))?;
        let entry = self.entry(self.backing.child(borrow(&dir), name)?)?;
        self.note(caller.did(operation, entry.node).at(parent, name));
        Ok(entry)
    }

    /// Runs a change of one name so that the watcher does not take it for a foreign one.
    fn mutate_name(
        &self,
        parent: u64,
        name: &OsStr,
        change: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let key = self.directory_key(parent);
        self.own_mutations.expect(key, name);
        change().inspect_err(|_| self.own_mutations.retract(key, name))
    }
}
