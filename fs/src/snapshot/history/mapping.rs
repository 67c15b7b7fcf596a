//! Files that a mapping may change unseen.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Affected, History, MAX_MAPPED_BYTES};
use crate::backing::{Backing, stat_of};
use crate::snapshot::record::{Actor, Cause, Change};
use crate::snapshot::sequence::{Epoch, Sequence};
use crate::snapshot::touched::Touched;
use crate::sys::handle::FileHandle;

impl History {
    /// Preserves a file that is about to be opened for reading and writing, after which a mapping may change it unseen.
    pub(crate) fn before_mapping(&self, node: u64, touched: &Arc<Touched>, backing: &Backing, actor: Actor) {
        let size =
            backing.path_fd(&touched.handle).and_then(|fd| stat_of(fd.as_fd())).map(|stat| stat.stx_size);
        let is_affordable = self.store.can_clone() || size.is_ok_and(|size| size <= MAX_MAPPED_BYTES);
        let affected = if is_affordable { Affected::ALL } else { Affected::From(u64::MAX) };
        touched.mappers.fetch_add(1, Ordering::AcqRel);
        drop(self.before_content(touched, backing, affected, actor, Cause::Map));
        // Under the lock of all: whoever finds that nobody maps it any more ends it under that.
        let mut mapped = self.mapped.lock();
        touched.mapped_since.lock().get_or_insert_with(|| self.epochs.moment(self.epoch()));
        mapped.insert(node, touched.clone());
    }

    /// A file was open for reading and writing under a worker before this one.
    pub(crate) fn restore_mapping(&self, node: u64, touched: &Arc<Touched>) {
        touched.mappers.fetch_add(1, Ordering::AcqRel);
        *touched.mapped_since.lock() = Some(Epoch(self.epoch().0.saturating_sub(2)).end());
        self.mapped.lock().insert(node, touched.clone());
    }

    /// A worker before this one had found a file to be mapped that is not open any more.
    pub(crate) fn restore_outlived_mapping(&self, node: u64, touched: &Arc<Touched>) {
        *touched.mapped_since.lock() = Some(Epoch(self.epoch().0.saturating_sub(2)).end());
        self.mapped.lock().insert(node, touched.clone());
    }

    /// An open that could change the file unseen has ended; a mapping that was made from it may go on. See
    /// [`Self::released`].
    pub(crate) fn after_mapping(&self, touched: &Touched) {
        touched.mappers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Returns the files that nobody has open any more in a way in which they could be changed unseen, but that may be
    /// mapped still.
    pub(crate) fn released(&self) -> Vec<(u64, Arc<Touched>)> {
        let mapped = self.mapped.lock();
        let released = mapped.iter().filter(|(_, touched)| touched.mappers.load(Ordering::Acquire) == 0);
        released.map(|(node, touched)| (*node, touched.clone())).collect()
    }

    /// Nobody maps a released file. One that was opened again meanwhile stays.
    pub(crate) fn end_mapping(&self, node: u64, touched: &Touched) {
        let mut mapped = self.mapped.lock();
        let is_same = mapped.get(&node).is_some_and(|known| known.handle == touched.handle);
        if !is_same || touched.mappers.load(Ordering::Acquire) > 0 {
            return;
        }
        mapped.remove(&node);
        let since = touched.mapped_since.lock().take();
        drop(mapped);
        let Some(since) = since else { return };
        let entered = self.epochs.enter();
        if since.epoch() < entered.epoch() && !self.store.can_clone() {
            let change = Change::MappedSince { inode: touched.handle, since };
            self.note(&entered, Actor::default(), Cause::Map, vec![change]);
        }
    }

    /// Sets what is called before an epoch ends: it finds out which of the released files are still mapped. The first
    /// call counts.
    pub(crate) fn set_settlement(&self, settle: Box<dyn Fn() + Send + Sync>) {
        drop(self.settle.set(settle));
    }

    /// Returns since when a mapping may have changed a file unseen, if one may now.
    pub(crate) fn mapped_since(&self, handle: &FileHandle) -> Option<Sequence> {
        if self.store.can_clone() {
            return None;
        }
        self.may_be_mapped_since(handle)
    }

    /// The same, also where the file is cloned in each epoch.
    pub(crate) fn may_be_mapped_since(&self, handle: &FileHandle) -> Option<Sequence> {
        let touched = self.mapped.lock().values().find(|touched| touched.handle == *handle).cloned()?;
        *touched.mapped_since.lock()
    }

    /// Files that may be mapped are cloned in each epoch, because stores through a mapping ask nobody.
    pub(super) fn preserve_mapped(&self, backing: &Backing, ended: Epoch) {
        let mapped: Vec<Arc<Touched>> = self.mapped.lock().values().cloned().collect();
        for touched in mapped {
            if self.store.can_clone() {
                drop(self.before_content(&touched, backing, Affected::ALL, Actor::default(), Cause::Map));
            } else if let Some(since) = touched.mapped_since.lock().replace(ended.end()) {
                let entered = self.epochs.enter();
                let change = Change::MappedSince { inode: touched.handle, since };
                self.note(&entered, Actor::default(), Cause::Map, vec![change]);
            }
        }
    }
}
