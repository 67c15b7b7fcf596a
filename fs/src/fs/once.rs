//! Carrying a request out exactly once, also when it is sent again to a worker that took over.
//!
//! Every handler goes through one of these. What a dead worker left in the journal decides:
//! a *done* request is answered from its result; a *started* one is carried out again where repeating it changes
//! nothing, else its effect is looked for first; an unknown one was never begun.
//!
//! Why looking for the effect is exact: the kernel holds the lock of the directory (or, for an append, of the
//! file) for the whole request, so nothing that goes through the mount can have come in between.

use std::ffi::OsStr;

use rustix::io::Errno;

use super::{Entry, GuardFs, Opened};
use crate::fail_point::{self, Stage};
use crate::journal::{Earlier, Notes, Running};

/// Noted once it is known that the operation has something to do.
const DUE: u64 = 1;

impl GuardFs {
    /// Records that this thread begins with a request.
    pub(crate) fn begin(&self, unique: u64) -> Running<'_> {
        self.journal.begin(unique)
    }

    /// An operation that returns a size or nothing. It is told what an unfinished attempt noted.
    ///
    /// # Errors
    /// As the operation; `EIO` for a poisoned request.
    pub(crate) fn once(
        &self,
        running: &Running<'_>,
        operation: impl FnOnce(Option<Notes>) -> Result<i64, Errno>,
    ) -> Result<i64, Errno> {
        let result = match running.earlier {
            Some(Earlier::Done(result, _)) => result,
            Some(Earlier::Started(notes)) => running.check().and_then(|()| operation(Some(notes))),
            None => operation(None),
        };
        running.finish(result);
        result
    }

    /// An operation that returns nothing, and fails with `already` if it had happened before. The kernel has made sure
    /// that it had not when the request was sent.
    ///
    /// # Errors
    /// As [`Self::once`].
    pub(crate) fn once_unless(
        &self,
        running: &Running<'_>,
        already: Errno,
        operation: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.once(running, |again| match operation() {
            Err(errno) if errno == already && again.is_some() => Ok(0),
            result => result.map(|()| 0),
        })
        .map(drop)
    }

    /// As [`Self::once_unless`], for an operation of which the kernel does not know beforehand whether it had happened
    /// by then: `is_due` looks, and what it says is noted first.
    ///
    /// # Errors
    /// As [`Self::once`], and as `is_due`.
    pub(crate) fn once_if_due(
        &self,
        running: &Running<'_>,
        already: Errno,
        is_due: impl FnOnce() -> Result<bool, Errno>,
        operation: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.once(running, |again| {
            let was_due = again.is_some_and(|notes| notes.note == DUE);
            if !was_due && is_due()? {
                running.note(DUE);
            }
            fail_point::reach(Stage::Prepared);
            match operation() {
                Err(errno) if errno == already && was_due => Ok(0),
                result => result.map(|()| 0),
            }
        })
        .map(drop)
    }

    /// An operation that makes the entry `name` and counts a reference to it.
    ///
    /// # Errors
    /// As [`Self::once`].
    pub(crate) fn once_entry(
        &self,
        running: &Running<'_>,
        parent: u64,
        name: &OsStr,
        operation: impl FnOnce() -> Result<Entry, Errno>,
    ) -> Result<Entry, Errno> {
        let result = match running.earlier {
            Some(Earlier::Done(Err(errno), _)) => Err(errno),
            Some(Earlier::Done(Ok(_), notes)) => {
                self.take_back(running, notes);
                self.lookup(parent, name)
            }
            Some(Earlier::Started(notes)) => running.check().and_then(|()| {
                self.take_back(running, notes);
                match operation() {
                    Err(Errno::EXIST) => self.lookup(parent, name),
                    result => result,
                }
            }),
            None => operation(),
        };
        if let Ok(entry) = &result {
            running.note_node(entry.node);
        }
        running.finish(result.as_ref().map(|_| 0).map_err(|errno| *errno));
        result
    }

    /// A lookup: repeating it changes nothing but the count.
    ///
    /// # Errors
    /// As [`Self::once`].
    pub(crate) fn once_lookup(
        &self,
        running: &Running<'_>,
        parent: u64,
        name: &OsStr,
    ) -> Result<Entry, Errno> {
        running.check()?;
        if let Some(Earlier::Started(notes) | Earlier::Done(_, notes)) = running.earlier {
            self.take_back(running, notes);
        }
        let entry = self.lookup(parent, name)?;
        running.note_node(entry.node);
        Ok(entry)
    }

    /// An opening.
    ///
    /// # Errors
    /// As [`Self::once`].
    pub(crate) fn once_opened(
        &self,
        running: &Running<'_>,
        operation: impl FnOnce() -> Result<Opened, Errno>,
    ) -> Result<Opened, Errno> {
        let result = match running.earlier {
            Some(Earlier::Done(Err(errno), _)) => Err(errno),
            Some(Earlier::Done(Ok(_), Notes { number: Some(number), .. })) => {
                running.note_number(number);
                self.opened_again(number)
            }
            Some(Earlier::Done(Ok(_), _)) => Err(Errno::IO),
            Some(Earlier::Started(notes)) => running.check().and_then(|()| {
                self.discard(running, notes);
                operation()
            }),
            None => operation(),
        };
        running.finish(result.as_ref().map(|_| 0).map_err(|errno| *errno));
        result
    }

    /// A creation with opening.
    ///
    /// # Errors
    /// As [`Self::once`].
    pub(crate) fn once_created(
        &self,
        running: &Running<'_>,
        parent: u64,
        name: &OsStr,
        operation: impl FnOnce() -> Result<(Entry, Opened), Errno>,
        open_existing: impl FnOnce() -> Result<(Entry, Opened), Errno>,
    ) -> Result<(Entry, Opened), Errno> {
        let result = match running.earlier {
            Some(Earlier::Done(Err(errno), _)) => Err(errno),
            Some(Earlier::Done(Ok(_), notes @ Notes { number: Some(number), .. })) => {
                running.note_number(number);
                self.take_back(running, notes);
                self.lookup(parent, name).and_then(|entry| Ok((entry, self.opened_again(number)?)))
            }
            Some(Earlier::Done(Ok(_), _)) => Err(Errno::IO),
            Some(Earlier::Started(notes)) => running.check().and_then(|()| {
                self.discard(running, notes);
                self.take_back(running, notes);
                match operation() {
                    Err(Errno::EXIST) => open_existing(),
                    result => result,
                }
            }),
            None => operation(),
        };
        if let Ok((entry, _)) = &result {
            running.note_node(entry.node);
        }
        running.finish(result.as_ref().map(|_| 0).map_err(|errno| *errno));
        result
    }

    /// Takes a reference back that an earlier attempt counted and the kernel never got.
    fn take_back(&self, running: &Running<'_>, notes: Notes) {
        if let Some(node) = notes.node {
            running.forget_node();
            self.forget(node, 1);
        }
    }

    /// Closes what an earlier attempt opened and the kernel never got.
    fn discard(&self, running: &Running<'_>, notes: Notes) {
        if let Some(number) = notes.number {
            running.forget_number();
            self.discard_open(number);
        }
    }
}
