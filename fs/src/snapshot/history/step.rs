//! One operation on names or attributes, from its first change to its end.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::{History, attributes_of};
use crate::backing::Stat;
use crate::snapshot::epochs::Entered;
use crate::snapshot::record::{Actor, Cause, Change, Entry, Named, ObjectId, Origin, Span};
use crate::snapshot::store::Store;
use crate::snapshot::touched::Touched;
use crate::sys::handle::FileHandle;

/// An operation on names or attributes: first everything that it changes is named, then [`Step::record`], then it may be
/// carried out while this is held.
pub(crate) struct Step<'a> {
    pub(super) history: &'a History,
    pub(super) entered: Entered<'a>,
    pub(super) actor: Actor,
    pub(super) cause: Cause,
    pub(super) changes: Vec<Change>,
    pub(super) notes: Vec<(Arc<Touched>, Noted)>,
}

/// What is known to be noted once the entry is in the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    Attributes,
    ExtendedAttributes,
}

impl Step<'_> {
    /// A name is about to stand for something else.
    pub(crate) fn name(&mut self, parent: FileHandle, name: &OsStr, before: Option<Named>) {
        self.changes.push(Change::Name { parent, name: name.as_bytes().to_vec(), before });
    }

    /// Attributes of an inode are about to change. `stat` is asked only if they are not noted yet.
    pub(crate) fn attributes(
        &mut self,
        node: u64,
        handle: FileHandle,
        stat: impl FnOnce() -> Result<Stat, Errno>,
    ) {
        let touched = self.history.inodes.get(node, handle);
        if touched.has_attributes(self.entered.epoch()) {
            return;
        }
        match stat() {
            Ok(stat) => {
                if !self.history.is_newborn(&stat) {
                    let epoch = self.entered.epoch();
                    self.history.note_attributes(&touched, epoch, &stat, &mut self.changes);
                }
                self.notes.push((touched, Noted::Attributes));
            }
            Err(errno) => tracing::warn!(ino = node, %errno, "attributes are not noted before they change"),
        }
    }

    /// A name is about to be removed from a directory: how that was is noted once more for each burst of removals.
    pub(crate) fn directory_of_removal(
        &mut self,
        node: u64,
        handle: FileHandle,
        stat: impl FnOnce() -> Result<Stat, Errno>,
    ) {
        let touched = self.history.inodes.get(node, handle);
        let seconds = u64::try_from(self.history.clock()).unwrap_or(0) / 1_000_000_000;
        if !touched.begins_burst(self.actor.pid, seconds) {
            self.attributes(node, handle, stat);
            return;
        }
        match stat() {
            Ok(stat) if touched.has_attributes(self.entered.epoch()) || self.history.is_newborn(&stat) => {
                self.last_attributes(node, handle, &stat);
            }
            stat => self.attributes(node, handle, || stat),
        }
    }

    /// Attributes of an inode are about to be gone with it. Whoever has it open may go on to change it, and finds a
    /// change time that is ours.
    pub(crate) fn last_attributes(&mut self, node: u64, handle: FileHandle, stat: &Stat) {
        self.changes.push(Change::Attributes { inode: handle, before: attributes_of(stat) });
        self.notes.push((self.history.inodes.get(node, handle), Noted::Attributes));
    }

    /// Extended attributes of an inode are about to be gone with it.
    pub(crate) fn last_extended_attributes(
        &mut self,
        handle: FileHandle,
        list: impl FnOnce() -> Result<Vec<(Vec<u8>, Vec<u8>)>, Errno>,
    ) {
        match list() {
            Ok(before) => self.changes.push(Change::ExtendedAttributes { inode: handle, before }),
            Err(errno) => {
                tracing::warn!(%errno, "extended attributes are not noted before their file is deleted");
            }
        }
    }

    /// Extended attributes of an inode are about to change.
    pub(crate) fn extended_attributes(
        &mut self,
        node: u64,
        handle: FileHandle,
        list: impl FnOnce() -> Result<Vec<(Vec<u8>, Vec<u8>)>, Errno>,
    ) {
        let touched = self.history.inodes.get(node, handle);
        if touched.has_extended_attributes(self.entered.epoch()) {
            return;
        }
        match list() {
            Ok(before) => {
                self.changes.push(Change::ExtendedAttributes { inode: handle, before });
                self.notes.push((touched, Noted::ExtendedAttributes));
            }
            Err(errno) => {
                tracing::warn!(ino = node, %errno, "extended attributes are not noted before they change");
            }
        }
    }

    /// An inode is about to lose its last name and to be kept as the object that is returned,
    /// with its bytes on the disk.
    pub(crate) fn take_away(&mut self, inode: FileHandle, bytes: u64) -> ObjectId {
        self.history.use_room(bytes);
        let object = self.history.new_object();
        let (span, origin) = (Span::Whole, Origin::TakenAway);
        self.changes.push(Change::Content { inode, object, span, origin, hash: None });
        self.history.counters.taken.fetch_add(1, Ordering::Relaxed);
        object
    }

    /// Notes all of that. A failure is not the caller's; see the module.
    pub(crate) fn record(&mut self) {
        if self.changes.is_empty() {
            return;
        }
        let epoch = self.entered.epoch();
        let at = self.history.epochs.moment(epoch);
        let changes = std::mem::take(&mut self.changes);
        let entry =
            Entry { at, time_ns: self.history.clock(), actor: self.actor, cause: self.cause, changes };
        if self.history.append(entry).is_err() {
            return;
        }
        for (touched, noted) in self.notes.drain(..) {
            match noted {
                Noted::Attributes => touched.note_attributes(epoch),
                Noted::ExtendedAttributes => touched.note_extended_attributes(epoch),
            }
        }
    }

    /// The inode was not taken away after all.
    pub(crate) fn not_taken(&self, object: ObjectId) {
        let change = Change::NotTaken { object };
        self.history.note(&self.entered, self.actor, Cause::History, vec![change]);
    }

    /// The object was given a name again.
    pub(crate) fn put_back(&self, object: ObjectId) {
        let change = Change::PutBack { object };
        self.history.note(&self.entered, self.actor, Cause::History, vec![change]);
    }

    /// What the operation deletes is not kept.
    pub(crate) fn lost(&self) {
        self.history.counters.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the store.
    pub(crate) fn store(&self) -> &Store {
        &self.history.store
    }
}
