//! How operations keep what they change: what they call before their effect. See [`crate::snapshot`].

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FallocateFlags};
use rustix::io::Errno;

use super::namespace::Victim;
use super::open_files::OpenFile;
use super::{Caller, GuardFs};
use crate::backing::stat_of;
use crate::inode::Inode;
use crate::snapshot::{
    Actor, Affected, Cause, History, Named, ObjectId, Permit, Shortage, Step, Syncing, Touched, is_temporary,
    list_attributes,
};
use crate::sys::handle::FileHandle;

/// A file that is deleted so soon after it was made is not kept.
const FLEETING: Duration = Duration::from_secs(2);
impl From<Caller> for Actor {
    fn from(caller: Caller) -> Self {
        Self { uid: caller.uid, pid: caller.pid }
    }
}

/// A name that is about to go, and how what it stands for is kept.
pub(super) struct Parting<'a> {
    step: Step<'a>,
    /// The inode loses its last name and is kept as this object.
    object: Option<ObjectId>,
}

impl GuardFs {
    fn begin_step(&self, caller: Caller, cause: Cause) -> Option<Step<'_>> {
        self.history.as_deref().map(|history| history.step(caller.into(), cause))
    }

    /// The entry `name` of `parent` is about to be made, or to stand for something else; also `linked`, which gets the
    /// name.
    ///
    /// # Errors
    /// As looking at the directory.
    pub(super) fn before_name(
        &self,
        caller: Caller,
        cause: Cause,
        (parent, dir): (u64, BorrowedFd<'_>),
        name: &OsStr,
        linked: Option<(u64, BorrowedFd<'_>)>,
    ) -> Result<Option<Step<'_>>, Errno> {
        let Some(mut step) = self.begin_step(caller, cause) else { return Ok(None) };
        let before = self.named_at(dir, name)?;
        self.bind(&mut step, (parent, dir), name, before)?;
        if let Some((node, fd)) = linked {
            step.attributes(node, self.table.get(node)?.handle, || stat_of(fd));
        }
        step.record();
        Ok(Some(step))
    }

    fn yield_in_time(&self) {
        if let Some(history) = &self.history {
            history.yield_in_time();
        }
    }

    fn bind(
        &self,
        step: &mut Step<'_>,
        (parent, dir): (u64, BorrowedFd<'_>),
        name: &OsStr,
        before: Option<Named>,
    ) -> Result<(), Errno> {
        let handle = self.table.get(parent)?.handle;
        step.name(handle, name, before);
        step.attributes(parent, handle, || stat_of(dir));
        Ok(())
    }

    fn named_at(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Named>, Errno> {
        match self.backing.child_at_once(dir, name) {
            Ok(child) => Ok(Some(Named {
                inode: child.handle,
                file_type: u32::from(child.stat.stx_mode) & libc::S_IFMT,
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The name of `victim` is about to go.
    ///
    /// # Errors
    /// As looking at the directory.
    pub(super) fn before_removal(
        &self,
        caller: Caller,
        cause: Cause,
        parent: (u64, BorrowedFd<'_>),
        name: &OsStr,
        victim: &Victim,
    ) -> Result<Option<Parting<'_>>, Errno> {
        self.yield_in_time();
        let Some(mut step) = self.begin_step(caller, cause) else { return Ok(None) };
        if self.is_fleeting(name, victim) {
            // Not noted, but still a part of the epoch in which no snapshot has the file: one that is taken before it is
            // gone waits.
            return Ok(Some(Parting { step, object: None }));
        }
        let directory = self.table.get(parent.0)?.handle;
        step.name(directory, name, Some(victim.named()));
        step.directory_of_removal(parent.0, directory, || stat_of(parent.1));
        let object = self.part(&mut step, victim);
        step.record();
        Ok(Some(Parting { step, object }))
    }

    /// Notes what goes with a name; returns the object that the inode is to become.
    fn part(&self, step: &mut Step<'_>, victim: &Victim) -> Option<ObjectId> {
        let (node, handle) = (victim.node, victim.handle);
        if victim.is_dir {
            step.last_attributes(node, handle, &victim.stat);
            step.extended_attributes(node, handle, || list_attributes(victim.fd.as_fd()));
            None
        } else if victim.stat.stx_nlink > 1 {
            step.attributes(node, handle, || Ok(victim.stat));
            None
        } else {
            step.last_attributes(node, handle, &victim.stat);
            // Only the inode has them from now on: noted, they do not keep it.
            step.last_extended_attributes(handle, || list_attributes(victim.fd.as_fd()));
            Some(step.take_away(handle, victim.stat.stx_blocks.saturating_mul(512)))
        }
    }

    /// Whether nobody would want it back: it is in no snapshot, and too young or named as something temporary.
    fn is_fleeting(&self, name: &OsStr, victim: &Victim) -> bool {
        let Some(history) = &self.history else { return true };
        let is_last = !victim.is_dir && victim.stat.stx_nlink == 1;
        if !is_last || !history.is_newborn(&victim.stat) {
            return false;
        }
        is_temporary(name) || history.is_younger(&victim.stat, FLEETING)
    }

    /// Removes a name whose parting was noted.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub(super) fn unlink_kept(
        &self,
        parting: Option<&Parting<'_>>,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        flags: AtFlags,
    ) -> Result<(), Errno> {
        let plainly = || rustix::fs::unlinkat(dir, name, flags);
        let Some((step, object)) = parting.and_then(|parting| Some((&parting.step, parting.object?))) else {
            return plainly();
        };
        let taken = self.make_room_for(|| step.store().take_away(dir, name, object));
        let Err(errno) = taken else { return Ok(()) };
        step.not_taken(object);
        match errno {
            // A subvolume of its own, or no room for one more name in the store. What a user deletes must go.
            Errno::XDEV | Errno::NOSPC | Errno::DQUOT | Errno::MLINK => {
                tracing::warn!(%errno, "deleted file is not kept");
                step.lost();
                plainly()
            }
            errno => Err(errno),
        }
    }

    /// Runs something that takes space in the store, once more if room could be made.
    fn make_room_for<T>(&self, take: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match take() {
            Err(Errno::NOSPC | Errno::DQUOT)
                if self.history.as_ref().is_some_and(|history| history.make_room(Shortage::Full)) =>
            {
                take()
            }
            result => result,
        }
    }

    /// Runs an operation that a user asked for, and once more if the disk was full and history could give something up.
    /// While the caller takes part in an epoch, what was done in that epoch cannot be given up.
    ///
    /// # Errors
    /// As the operation.
    pub(super) fn with_room<T>(&self, operation: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        match operation() {
            Err(Errno::NOSPC)
                if self.history.as_ref().is_some_and(|history| history.make_room(Shortage::Full)) =>
            {
                operation()
            }
            result => result,
        }
    }

    /// Names are about to be moved, and `replaced` is about to go.
    ///
    /// # Errors
    /// As looking at the directories; as linkat(2).
    pub(super) fn before_rename(
        &self,
        caller: Caller,
        (from, from_dir): ((u64, &OsStr), BorrowedFd<'_>),
        (to, to_dir): ((u64, &OsStr), BorrowedFd<'_>),
        replaced: Option<&Victim>,
    ) -> Result<Option<Parting<'_>>, Errno> {
        if replaced.is_some() {
            self.yield_in_time();
        }
        let Some(mut step) = self.begin_step(caller, Cause::Rename) else { return Ok(None) };
        let Some(source) = self.named_at(from_dir, from.1)? else { return Ok(None) };
        // Two names of one inode: nothing happens (rename(2)).
        if replaced.is_some_and(|replaced| replaced.handle == source.inode) {
            return Ok(None);
        }
        self.bind(&mut step, (from.0, from_dir), from.1, Some(source))?;
        self.touch_at(&mut step, from_dir, from.1);
        let is_fleeting = replaced.is_some_and(|victim| self.is_fleeting(to.1, victim));
        let target = if is_fleeting { None } else { self.named_at(to_dir, to.1)? };
        self.bind(&mut step, (to.0, to_dir), to.1, target)?;
        let mut object = None;
        match replaced {
            Some(_) if is_fleeting => {}
            Some(victim) => object = self.part(&mut step, victim),
            // An exchange, or nothing is there.
            None => self.touch_at(&mut step, to_dir, to.1),
        }
        step.record();
        if let (Some(taken), Some(victim)) = (object, replaced)
            && let Err(errno) = self.make_room_for(|| step.store().link(victim.fd.as_fd(), taken))
        {
            tracing::warn!(%errno, "replaced file is not kept");
            step.not_taken(taken);
            step.lost();
            object = None;
        }
        Ok(Some(Parting { step, object }))
    }

    /// The attributes of what a name stands for are about to change.
    fn touch_at(&self, step: &mut Step<'_>, dir: BorrowedFd<'_>, name: &OsStr) {
        if let Ok(child) = self.backing.child_at_once(dir, name)
            && let Ok(node) = self.node_of(&child.stat)
        {
            step.attributes(node, child.handle, || Ok(child.stat));
        }
    }

    /// Mode, owner or times of an inode are about to change, or its extended attributes.
    ///
    /// # Errors
    /// `ESTALE` for an inode that is not known.
    pub(super) fn before_attributes(
        &self,
        caller: Caller,
        node: u64,
        fd: BorrowedFd<'_>,
        has_extended: bool,
    ) -> Result<Option<Step<'_>>, Errno> {
        let Some(mut step) = self.begin_step(caller, Cause::SetAttributes) else { return Ok(None) };
        let handle = self.table.get(node)?.handle;
        step.attributes(node, handle, || stat_of(fd));
        if has_extended {
            let is_newborn = self
                .history
                .as_ref()
                .is_some_and(|history| stat_of(fd).is_ok_and(|stat| history.is_newborn(&stat)));
            if !is_newborn {
                step.extended_attributes(node, handle, || list_attributes(fd));
            }
        }
        step.record();
        Ok(Some(step))
    }

    /// Bytes of an open file are about to change.
    ///
    /// # Errors
    /// `ESTALE` for an inode that is not known.
    pub(super) fn before_bytes<'a>(
        &'a self,
        open_file: &'a OpenFile,
        caller: Caller,
        cause: Cause,
        affected: Affected,
    ) -> Result<Option<Permit<'a>>, Errno> {
        let Some(history) = &self.history else { return Ok(None) };
        let touched = open_file.touched(self, history)?;
        Ok(Some(history.before_content(touched, &self.backing, affected, caller.into(), cause)))
    }

    /// Makes what was preserved of a file durable before the file is, which it may be made while the result is held.
    pub(super) fn sync_preserved<'a>(&self, open_file: &'a OpenFile) -> Option<Syncing<'a>> {
        let history = self.history.as_ref()?;
        let touched = open_file.inode.touched.get();
        if touched.is_none() {
            history.sync_before_directory();
        }
        touched.map(|touched| history.sync_before(touched))
    }

    /// Writes the whole backing filesystem back, and before it what was preserved.
    ///
    /// # Errors
    /// As syncfs(2).
    pub(crate) fn sync_backing(&self) -> Result<(), Errno> {
        let _syncing = self.history.as_ref().map(|history| history.sync_all_before());
        self.backing.sync()
    }

    /// Makes what was noted durable before something of the filesystem's is.
    pub(super) fn sync_history(&self) {
        if let Some(history) = &self.history {
            history.sync_before_directory();
        }
    }

    /// An inode was changed after the workspace was last known to be watched, at `changed_ns`. That may be a while before the
    /// watching ended, so what the log explains was done through the mount.
    pub(crate) fn note_unwatched(&self, inode: FileHandle, changed_ns: i64, watched_ns: i64) {
        let Some(history) = &self.history else { return };
        let explained = self.archive_for_long().and_then(|archive| {
            let first = history.first_epoch();
            let explained =
                archive.read().and_then(|past| Ok(past.explains(&inode, first, changed_ns, watched_ns)?));
            explained.map_err(|error| crate::error_chain::one_line(&error))
        });
        match explained {
            Ok(true) => {}
            Ok(false) => history.changed_outside(inode),
            Err(error) => {
                tracing::warn!(error, "a change that nobody watched is taken for a foreign one");
                history.changed_outside(inode);
            }
        }
    }

    /// A file is about to be cut to `size`, or lengthened.
    pub(super) fn before_truncation<'a>(
        &'a self,
        touched: &'a Option<Arc<Touched>>,
        caller: Caller,
        size: u64,
    ) -> Option<Permit<'a>> {
        let (history, touched) = (self.history.as_ref()?, touched.as_ref()?);
        let affected = Affected::From(size);
        Some(history.before_content(touched, &self.backing, affected, caller.into(), Cause::Truncate))
    }

    /// Returns what is known of an inode's preservation; `None` where no history is kept.
    pub(super) fn touched(&self, inode: &Inode) -> Option<Arc<Touched>> {
        self.history.as_ref().map(|history| history.touched(inode.node, inode.handle))
    }

    /// A directory was changed below the mount.
    pub(super) fn note_outside(&self, dir: &std::path::Path) {
        let Some(history) = &self.history else { return };
        let dir = match self.open_directory(dir) {
            Ok(dir) => dir,
            // Gone as well, of which its own directory is told.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return,
            Err(errno) => {
                tracing::warn!(%errno, "a foreign edit cannot be looked up; all of the history is in doubt");
                history.changed_outside(self.backing.root_handle());
                return;
            }
        };
        if let Ok(child) = self.backing.of_fd(dir.as_fd()) {
            history.changed_outside(child.handle);
        }
    }
}

impl OpenFile {
    /// Returns what is known of its preservation.
    ///
    /// # Errors
    /// `ESTALE` for an inode that is not known.
    pub(super) fn touched(&self, fs: &GuardFs, history: &History) -> Result<&Arc<Touched>, Errno> {
        if let Some(touched) = self.inode.touched.get() {
            return Ok(touched);
        }
        let handle = fs.table.get(self.node)?.handle;
        Ok(self.inode.touched.get_or_init(|| history.touched(self.node, handle)))
    }
}

impl Parting<'_> {
    /// Whether the inode is kept as an object of the store.
    pub(super) fn is_taken(&self) -> bool {
        self.object.is_some()
    }

    /// The operation failed: what was linked into the store for it goes.
    pub(super) fn undo_link(&self) {
        if let Some(object) = self.object {
            self.step.not_taken(object);
            self.step.store().discard(object);
        }
    }
}

/// Returns the bytes that an allocation may change.
pub(super) fn affected_by(mode: FallocateFlags, offset: u64, length: u64) -> Affected {
    if mode.intersects(FallocateFlags::COLLAPSE_RANGE | FallocateFlags::INSERT_RANGE) {
        Affected::From(offset)
    } else if mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
        Affected::Freed { offset, length }
    } else {
        Affected::From(u64::MAX)
    }
}
