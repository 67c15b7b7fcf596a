//! Names: lookup, creation, links, removal, rename.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::charging::{Charging, Names};
use super::virtual_dir::{is_reserved, is_virtual};
use super::{Caller, Entry, GuardFs, borrow};
use crate::backing::{Stat, stat_of};
use crate::fail_point::{self, Stage};
use crate::inode::{Life, is_past};
use crate::journal::Running;
use crate::snapshot::{Cause, Named};
use crate::sys::handle::FileHandle;
use crate::sys::identity;
use crate::tracker::Operation;

/// An inode that loses a name.
pub(super) struct Victim {
    pub(super) node: u64,
    pub(super) handle: FileHandle,
    pub(super) stat: Stat,
    pub(super) is_dir: bool,
    /// It is the last name, and the kernel knows the inode.
    is_pinned: bool,
    pub(super) fd: OwnedFd,
    /// What goes with the last name, bytes.
    freed: i64,
}

impl Victim {
    /// Returns what the name stands for.
    pub(super) fn named(&self) -> Named {
        Named { inode: self.handle, file_type: u32::from(self.stat.stx_mode) & libc::S_IFMT }
    }
}

impl GuardFs {
    /// Finds `name` in a directory and counts a reference to it.
    ///
    /// # Errors
    /// `ENOENT`, or what the filesystem says.
    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        if is_virtual(parent) {
            return self.virtual_lookup(parent, name);
        }
        if is_past(parent) {
            return self.past_lookup(parent, name);
        }
        let dir = self.node_fd(parent)?;
        match self.entry_at(borrow(&dir), name) {
            Err(Errno::NOENT) if is_reserved(parent, name) => self.virtual_root_entry(),
            Err(Errno::NOENT) if self.is_snapshots_name(name) => self.snapshots_entry(parent),
            result => result,
        }
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

    /// Creates a directory; in `.snapshots` takes a snapshot.
    ///
    /// # Errors
    /// As mkdir(2); of a snapshot as [`Self::take_snapshot`].
    pub(crate) fn make_directory(
        &self,
        caller: Caller,
        parent: u64,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<Entry, Errno> {
        if is_past(parent) {
            return self.take_snapshot(caller, parent, name);
        }
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
    /// As link(2); `EPERM` for the virtual directory's name.
    pub(crate) fn link(&self, caller: Caller, node: u64, parent: u64, name: &OsStr) -> Result<Entry, Errno> {
        identity::assume_nobody()?;
        self.check_name(parent, name)?;
        let (fd, dir) = (self.node_fd(node)?, self.node_fd(parent)?);
        let _step =
            self.before_name(caller, Cause::Link, (parent, borrow(&dir)), name, Some((node, borrow(&fd))))?;
        let names = self.begin_names();
        self.mutate_name(parent, name, || {
            rustix::fs::linkat(borrow(&fd), "", borrow(&dir), name, AtFlags::EMPTY_PATH)
        })?;
        if let Some(names) = &names {
            self.count_moved(names, &dir, name);
        }
        self.note(caller.did(Operation::Link, node).at(parent, name));
        self.entry_at(borrow(&dir), name)
    }

    /// Returns a symbolic link's target.
    ///
    /// # Errors
    /// As readlink(2).
    pub(crate) fn read_link(&self, node: u64) -> Result<OsString, Errno> {
        if is_past(node) {
            return self.past_link(node);
        }
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
        if is_past(parent) {
            return self.remove_snapshot(caller, parent, name);
        }
        self.remove(caller, parent, name, AtFlags::REMOVEDIR)
    }

    /// Moves, replaces, exchanges, or moves leaving a whiteout.
    ///
    /// # Errors
    /// As renameat2(2); `EPERM` for the virtual directory's name.
    pub(crate) fn rename(
        &self,
        running: &Running<'_>,
        caller: Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: u32,
    ) -> Result<(), Errno> {
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let done = self.once(running, |again| {
            // After these the source's name exists again, so that only the moved inode tells whether it is done.
            let leaves_a_name = flags.intersects(RenameFlags::EXCHANGE | RenameFlags::WHITEOUT);
            if leaves_a_name {
                match again {
                    Some(notes) if notes.note != 0 && self.ino_at(to) == Ok(notes.note) => return Ok(0),
                    _ => running.note(self.ino_at(from)?),
                }
                fail_point::reach(Stage::Prepared);
            }
            match self.rename_now(caller, from, to, flags) {
                Err(Errno::NOENT) if again.is_some() => self.ino_at(to).map(|_| 0),
                result => result.map(|()| 0),
            }
        });
        self.refuse_virtual(from.0, from.1, done.map(drop))
    }

    fn ino_at(&self, (parent, name): (u64, &OsStr)) -> Result<u64, Errno> {
        let dir = self.node_fd(parent)?;
        Ok(self.backing.stat_at(borrow(&dir), name)?.stx_ino)
    }

    pub(super) fn rename_now(
        &self,
        caller: Caller,
        from: (u64, &OsStr),
        to: (u64, &OsStr),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        self.check_name(to.0, to.1)?;
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
        let expected =
            if flags.contains(RenameFlags::EXCHANGE) { vec![from, to, from, to] } else { vec![from, to] };
        let parting =
            self.before_rename(caller, (from, borrow(&from_dir)), (to, borrow(&to_dir)), replaced.as_ref())?;
        for (dir, name) in &expected {
            self.own_mutations.expect(self.directory_key(*dir), name);
        }
        let mut names = self.begin_names();
        let whiteout = match &mut names {
            Some(names) if flags.contains(RenameFlags::WHITEOUT) => Some(names.admit_inode()?),
            Some(names) => {
                names.begin();
                None
            }
            None => None,
        };
        let renamed = rustix::fs::renameat_with(borrow(&from_dir), from.1, borrow(&to_dir), to.1, flags);
        if renamed.is_err() {
            for (dir, name) in &expected {
                self.own_mutations.retract(self.directory_key(*dir), name);
            }
            if let Some(parting) = &parting {
                parting.undo_link();
            }
        }
        renamed?;
        fail_point::reach(Stage::Effect);
        self.changed(from.0);
        if to.0 != from.0 {
            self.changed(to.0);
        }
        // What was moved has a new ctime.
        self.changed_at(borrow(&to_dir), to.1);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.changed_at(borrow(&from_dir), from.1);
        }
        if let Some(names) = &names {
            if let Some(inode) = whiteout {
                let made = self.backing.stat_at(borrow(&from_dir), from.1)?;
                names.created(self.node_of(&made)?, inode);
            }
            self.count_moved(names, &to_dir, to.1);
            if flags.contains(RenameFlags::EXCHANGE) {
                self.count_moved(names, &from_dir, from.1);
            }
        }
        self.note_rename(caller, from, to, flags, replaced.as_ref());
        self.removed(names.as_ref(), replaced, parting.is_some_and(|parting| parting.is_taken()));
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
        self.node_of(&self.backing.stat_at(borrow(&dir), name).ok()?).ok()
    }

    /// As [`GuardFs::changed`], for what a name stands for. If it is gone already, somebody below the mount has removed
    /// it, which the watcher reports.
    fn changed_at(&self, dir: BorrowedFd<'_>, name: &OsStr) {
        if let Ok(node) = self.backing.stat_at(dir, name).and_then(|stat| self.node_of(&stat)) {
            self.changed(node);
        }
    }

    fn remove(&self, caller: Caller, parent: u64, name: &OsStr, flags: AtFlags) -> Result<(), Errno> {
        identity::assume_nobody()?;
        let dir = self.node_fd(parent)?;
        let victim = self.victim(borrow(&dir), name);
        let is_as_named = |victim: &&Victim| victim.is_dir == flags.contains(AtFlags::REMOVEDIR);
        let parting = match victim.as_ref().filter(is_as_named) {
            Some(victim) => self.before_removal(
                caller,
                if victim.is_dir { Cause::RemoveDirectory } else { Cause::Unlink },
                (parent, borrow(&dir)),
                name,
                victim,
            )?,
            None => None,
        };
        let mut names = self.begin_names();
        if let Some(names) = &mut names {
            names.begin();
        }
        self.mutate_name(parent, name, || self.unlink_kept(parting.as_ref(), borrow(&dir), name, flags))?;
        let operation =
            if flags.contains(AtFlags::REMOVEDIR) { Operation::RemoveDirectory } else { Operation::Unlink };
        let (node, freed) = victim.as_ref().map_or((0, 0), |victim| (victim.node, victim.freed));
        self.note(caller.did(operation, node).at(parent, name).costing(0, -freed));
        self.removed(names.as_ref(), victim, parting.is_some_and(|parting| parting.is_taken()));
        Ok(())
    }

    /// Books an inode that has lost a name, and keeps it reachable if that was its last.
    fn removed(&self, names: Option<&Names<'_>>, victim: Option<Victim>, is_taken: bool) {
        let Some(Victim { node, is_dir, is_pinned, fd, .. }) = victim else { return };
        let fd = Arc::new(fd);
        if let (Some(names), Some(charging)) = (names, &self.charging) {
            match stat_of(fd.as_fd()) {
                // A directory's links say nothing on btrfs; it was removed, so it had no other name.
                Ok(stat) if stat.stx_nlink == 0 || is_dir || is_taken => {
                    let bytes = charging.charged(node).unwrap_or_else(|| charging.accounting().charge(&stat));
                    self.charge_no_longer(names, charging, node, bytes, &fd);
                }
                Ok(_) => {}
                Err(errno) => {
                    tracing::error!(ino = node, %errno, "a removal cannot be booked; the project is counted again");
                    charging.account().set_estimated(true);
                }
            }
        }
        if names.is_none() && is_taken {
            self.table.set_life(node, Life::Gone);
        }
        if is_pinned {
            self.pin(node, fd);
        }
    }

    /// Books an inode without a name, at once or, while it is open, at its last release.
    fn charge_no_longer(
        &self,
        names: &Names<'_>,
        charging: &Charging,
        node: u64,
        bytes: u64,
        fd: &Arc<OwnedFd>,
    ) {
        let is_outlived = self.outlives(node, fd, bytes);
        names.nameless(node, bytes);
        let noted = || {
            self.table.set_life(node, Life::DeletedOpen);
            self.deleted_open.fetch_add(1, Ordering::AcqRel);
        };
        let gone = || {
            // Two last names may go at the same time, but the inode goes only once.
            if self.table.life(node) != Life::Named {
                return;
            }
            if is_outlived && self.outlive_removed(node, bytes, fd) {
                self.table.set_life(node, Life::DeletedOpen);
                return;
            }
            self.table.set_life(node, Life::Gone);
            names.gone(node, charging.forget(node).unwrap_or(bytes));
        };
        self.open_inodes.note_deleted(node, bytes, noted, gone);
    }

    /// Returns what `name` is, which is about to go.
    ///
    /// Once the last name is gone, an open(2) whose lookup came before a rename over the file, and a process that stands
    /// in a directory, still reach it. That it cannot be determined only means that it is not pinned; the removal reports the error.
    fn victim(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Option<Victim> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).ok()?;
        let child = self.backing.of_fd(fd.as_fd()).ok()?;
        let inode = self.inode_of(&child).ok()?;
        let loses_last_name = inode.is_dir() || child.stat.stx_nlink == 1;
        if loses_last_name {
            self.backing.forget(&inode.handle);
        }
        let is_pinned = loses_last_name && self.table.knows(inode.node);
        let freed = if loses_last_name { self.charge(&child.stat) } else { 0 };
        let (node, handle, stat) = (inode.node, child.handle, child.stat);
        Some(Victim { node, handle, stat, is_dir: inode.is_dir(), is_pinned, fd, freed })
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
        self.check_name(parent, name)?;
        let dir = self.node_fd(parent)?;
        let _step = self.before_name(caller, Cause::Create, (parent, borrow(&dir)), name, None)?;
        identity::assume(self.creator(caller, umask))?;
        let mut names = self.begin_names();
        let inode = names.as_mut().map(Names::admit_inode).transpose()?;
        let create = || self.mutate_name(parent, name, || create(borrow(&dir)));
        self.with_room(|| self.reclaim.retry_when_full(create))?;
        let entry = self.entry_at(borrow(&dir), name)?;
        if let (Some(names), Some(inode), Some(charging)) = (&names, inode, &self.charging) {
            self.end_outlived_namesake(names, charging, entry.node);
            names.created(entry.node, inode);
            if operation == Operation::Create {
                charging.created(entry.node, &entry.stat);
            }
        }
        self.note(caller.did(operation, entry.node).at(parent, name));
        Ok(entry)
    }

    /// Runs a change of one name so that the watcher does not take it for a foreign one, and the kernel learns of it.
    pub(super) fn mutate_name(
        &self,
        parent: u64,
        name: &OsStr,
        change: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.mutate_name_untold(parent, name, change)?;
        self.changed(parent);
        fail_point::reach(Stage::Effect);
        Ok(())
    }

    /// As [`Self::mutate_name`], but the kernel is told of the directory later.
    pub(super) fn mutate_name_untold(
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
