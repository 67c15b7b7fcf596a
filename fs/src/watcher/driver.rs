//! The watcher's thread: sets up the watches, keeps up with directories that come and go, reports changes.
//!
//! ```text
//!            ┌────────── events were lost, after a pause ──────────┐
//!            ▼                                                     │
//!   Starting: count ── walk and watch ──► Watched: follow ─────────┤
//!            │                                                     │
//!            └──────► ShortTtl: too many directories, no watches ◄─┘
//! ```
//! The source's thread only sorts events into [`Pending`]; everything slow (opening directories, the sink)
//! happens here, with no lock held. ShortTtl is final until the next mount.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::batch::{Batch, Change, Changes};
use super::directories::{Directories, DirectoryId};
use super::listing::{Count, Listing, ListingError, count_directories, remote_filesystem};
use super::source::{Notice, Source, WatchError};
use super::turn::Turn;
use super::{ChangeSink, OwnMutations, StartedBy, Status};

/// Pause before the watches are set up again; doubled each time that events are lost again soon.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A watch that lasted this long was not overrun by a burst that is still going on.
const CALM: Duration = Duration::from_secs(60);

/// After the watch has ended for good: replies that were on their way have reached the kernel's cache.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// Pause before directories below a renamed one are looked at again.
const RETRY: Duration = Duration::from_millis(20);

/// How long the event of a rename can be on its way; after that it is taken for lost.
const MAX_DEFERRAL: Duration = Duration::from_secs(2);

/// New or moved names waiting to be looked at; more means that we cannot keep up.
const MAX_GROWN: usize = 65_536;

/// What the thread works with; it owns all of it.
pub(super) struct Driver {
    pub(super) root: Arc<OwnedFd>,
    pub(super) limit: usize,
    pub(super) started_by: StartedBy,
    pub(super) own: Arc<OwnMutations>,
    pub(super) sink: Arc<dyn ChangeSink>,
    pub(super) status: Arc<Status>,
    pub(super) stop: Arc<AtomicBool>,
}

/// Why a watch ended.
enum End {
    Stopped,
    /// Events are missing.
    Lost,
    /// There can be no complete watch, for this reason.
    Impossible(String),
}

/// What the events say and this thread has not dealt with yet.
struct Pending {
    directories: Directories,
    batch: Batch,
    /// Names that may be directories without a watch, or with a watch and a new place.
    grown: Vec<(DirectoryId, OsString)>,
    /// Directories that were renamed, perhaps out of the tree.
    moved: Vec<DirectoryId>,
    is_lost: bool,
}

/// Sorts events; called on the source's thread.
struct Receiver {
    pending: Arc<Mutex<Pending>>,
    own: Arc<OwnMutations>,
    driver: Thread,
}

/// What to do next.
struct Work {
    grown: Vec<(DirectoryId, OsString)>,
    moved: Vec<DirectoryId>,
    changes: Option<FxHashMap<DirectoryId, FxHashMap<OsString, Changes>>>,
}

impl Driver {
    /// Runs until stopped, or until there can be no watch.
    pub(super) fn run(self) {
        let mut pause = FIRST_PAUSE;
        // What a worker before this one told the kernel for long may be there still.
        let mut has_promised = self.started_by == StartedBy::Takeover;
        loop {
            let begun = Instant::now();
            self.own.enable(thread::current());
            let end = self.watch(has_promised);
            self.own.disable();
            has_promised |= self.status.is_watched();
            match end {
                End::Stopped => return,
                End::Impossible(reason) => return self.give_up(reason, has_promised),
                End::Lost => {
                    self.status.set_starting();
                    tracing::warn!(
                        elapsed_ms = begun.elapsed().as_millis() as u64,
                        "file change events were lost, all caches are dropped and the watches set up again"
                    );
                    self.sink.everything_changed();
                    pause = if begun.elapsed() >= CALM { FIRST_PAUSE } else { pause };
                    if self.sleep(pause) {
                        return;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Order matters: short times to live first, so that nothing new is cached for long, then the caches.
    fn give_up(&self, reason: String, has_promised: bool) {
        tracing::warn!(reason = %reason, "no watch for foreign edits, attributes are trusted for one second only");
        self.status.set_short_ttl(reason);
        if has_promised {
            self.sink.everything_changed();
            if !self.sleep(IN_FLIGHT) {
                self.sink.everything_changed();
            }
        }
    }

    /// Returns whether it was interrupted.
    fn sleep(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        while !self.is_stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::park_timeout(left);
        }
        true
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn watch(&self, has_promised: bool) -> End {
        let turn = Turn::wait(|| !self.is_stopped());
        let result = self.begin().and_then(|mut watch| {
            watch.walk()?;
            drop(turn);
            if has_promised {
                // Changes from before these watches, and replies that reached the kernel's cache only after the
                // loss was told.
                self.sink.everything_changed();
            }
            watch.follow()
        });
        match result {
            Ok(()) => End::Stopped,
            Err(end) => end,
        }
    }

    fn begin(&self) -> Result<Watch<'_>, End> {
        let impossible = |error: &dyn std::error::Error| End::Impossible(error.to_string());
        if let Some(filesystem) = remote_filesystem(self.root.as_fd()).map_err(|error| impossible(&error))? {
            return Err(End::Impossible(format!("{filesystem} does not report what other machines change")));
        }
        match count_directories(self.root.as_fd(), self.limit, &self.stop)? {
            Count::Exactly(_) => {}
            Count::TooMany => return Err(self.too_many()),
            Count::Interrupted => return Err(End::Stopped),
        }
        let root = Listing::open(self.root.as_fd(), Path::new(""))?
            .ok_or_else(|| End::Impossible("the workspace's directory is gone".to_owned()))?;
        let directories = Directories::new(root.key());
        let pending = Arc::new(Mutex::new(Pending::new(directories)));
        let receiver =
            Receiver { pending: pending.clone(), own: self.own.clone(), driver: thread::current() };
        let source = Source::start(move |notice, now| receiver.receive(notice, now))?;
        source.watch(root.fd(), DirectoryId::ROOT)?;
        self.own.forget_directory(root.key().inode);
        Ok(Watch { driver: self, pending, source, root, deferred: Deferred::default() })
    }

    fn too_many(&self) -> End {
        End::Impossible(format!(
            "more than {limit} directories (raise the watch limit to watch them all)",
            limit = self.limit
        ))
    }
}

/// A source with watches in it.
struct Watch<'driver> {
    driver: &'driver Driver,
    pending: Arc<Mutex<Pending>>,
    source: Source,
    root: Listing,
    deferred: Deferred,
}

/// Directories that could not be looked at, because a directory above them was renamed and the event of that
/// has not arrived yet.
#[derive(Default)]
struct Deferred {
    grown: Vec<(DirectoryId, OsString)>,
    moved: Vec<DirectoryId>,
    since: Option<Instant>,
}

/// What the table's place of a directory leads to.
enum Place {
    Found(Listing),
    /// Something else or nothing is there now.
    Stale,
    /// The table does not know the directory any more.
    Unknown,
}

/// Whether what a newly watched directory holds must be reported.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contents {
    /// Nothing of it is cached for long yet.
    Unknown,
    /// It was reachable before its watch began, so that anything may have been cached and changed since.
    Reported,
}

impl Watch<'_> {
    /// Watches everything below the root. Events that come meanwhile wait in [`Pending`].
    fn walk(&mut self) -> Result<(), End> {
        let mut inside = Vec::new();
        self.root.for_each(Path::new(""), |name, may_be_directory| {
            if may_be_directory {
                inside.push((DirectoryId::ROOT, name.to_owned()));
            }
        })?;
        self.adopt(inside, Contents::Unknown)?;
        Ok(())
    }

    /// Reports changes until stopped.
    fn follow(&mut self) -> Result<(), End> {
        let directories = self.pending.lock().directories.len();
        tracing::info!(directories, "backing tree is watched for foreign edits");
        self.driver.status.set_watched(directories);
        loop {
            if self.driver.is_stopped() {
                return Ok(());
            }
            self.collect_debts()?;
            let work = self.take_work()?;
            if !work.grown.is_empty() {
                self.adopt(work.grown, Contents::Reported)?;
            }
            self.check_places(work.moved)?;
            if let Some(changes) = work.changes {
                self.report(changes);
            }
            self.wait()?;
        }
    }

    /// Sleeps until the next thing is due. A wake-up from before is not missed: it makes `park` return at once.
    fn wait(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let (due_at, directories) = {
            let pending = self.pending.lock();
            (pending.batch.due_at(), pending.directories.len())
        };
        self.driver.status.set_watched(directories);
        let is_deferred = !self.deferred.grown.is_empty() || !self.deferred.moved.is_empty();
        if is_deferred {
            let since = *self.deferred.since.get_or_insert(now);
            if now.duration_since(since) >= MAX_DEFERRAL {
                return Err(End::Lost);
            }
        } else {
            self.deferred.since = None;
        }
        let wake_at = [due_at, is_deferred.then(|| now + RETRY)].into_iter().flatten().min();
        match wake_at {
            Some(wake_at) => thread::park_timeout(wake_at.saturating_duration_since(now)),
            None => thread::park(),
        }
        Ok(())
    }

    fn take_work(&mut self) -> Result<Work, End> {
        let mut pending = self.pending.lock();
        if pending.is_lost {
            return Err(End::Lost);
        }
        let mut work = Work {
            grown: std::mem::take(&mut self.deferred.grown),
            moved: std::mem::take(&mut self.deferred.moved),
            changes: pending.batch.take_due(Instant::now()),
        };
        work.grown.append(&mut pending.grown);
        work.moved.append(&mut pending.moved);
        Ok(work)
    }

    /// Watches the directories among these names, and everything below them.
    fn adopt(&mut self, mut ahead: Vec<(DirectoryId, OsString)>, contents: Contents) -> Result<(), End> {
        while let Some((parent, name)) = ahead.pop() {
            if self.driver.is_stopped() {
                return Err(End::Stopped);
            }
            self.adopt_one(parent, name, contents, &mut ahead)?;
        }
        Ok(())
    }

    fn adopt_one(
        &mut self,
        parent: DirectoryId,
        name: OsString,
        contents: Contents,
        ahead: &mut Vec<(DirectoryId, OsString)>,
    ) -> Result<(), End> {
        let above = match self.locate(parent)? {
            Place::Found(above) => above,
            Place::Stale => {
                self.deferred.grown.push((parent, name));
                return Ok(());
            }
            Place::Unknown => return Ok(()),
        };
        let Some(listing) = Listing::open(above.fd(), Path::new(&name))? else { return Ok(()) };
        let Some(id) = self.place(&listing, parent, &name)? else { return Ok(()) };
        self.source.watch(listing.fd(), id)?;

        let inode = listing.key().inode;
        let mut seen = Vec::new();
        listing.for_each(Path::new(&name), |name, may_be_directory| {
            if may_be_directory {
                ahead.push((id, name.to_owned()));
            }
            if contents == Contents::Reported {
                if !self.driver.own.take(inode, name) {
                    seen.push((name.to_owned(), Change::Appeared));
                } else if !may_be_directory {
                    // We have made it; somebody else may have changed it before the watch began.
                    seen.push((name.to_owned(), Change::Content));
                }
            }
        })?;
        self.driver.own.forget_directory(inode);
        if contents == Contents::Reported {
            self.report_contents(id, parent, &name, &seen);
        }
        Ok(())
    }

    /// Enters a directory in the table; `None` if it is there already, then under its new name.
    fn place(
        &self,
        listing: &Listing,
        parent: DirectoryId,
        name: &OsStr,
    ) -> Result<Option<DirectoryId>, End> {
        let directories = &mut self.pending.lock().directories;
        if let Some(id) = directories.find(listing.key()) {
            directories.rename(id, parent, name.to_owned());
            return Ok(None);
        }
        if directories.len() >= self.driver.limit {
            return Err(self.driver.too_many());
        }
        let id = directories.insert(listing.key(), parent, name.to_owned());
        // After four billion directories the numbers begin again with a new watch.
        id.ok_or(End::Lost).map(Some)
    }

    fn report_contents(
        &self,
        id: DirectoryId,
        parent: DirectoryId,
        name: &OsStr,
        seen: &[(OsString, Change)],
    ) {
        let mut pending = self.pending.lock();
        let now = Instant::now();
        pending.note(parent, name, Change::Content, now);
        for (name, change) in seen {
            pending.note(id, name, *change, now);
        }
    }

    /// Opens a directory by its place in the table and makes sure that it is the one.
    fn locate(&self, directory: DirectoryId) -> Result<Place, End> {
        let (key, path) = {
            let directories = &self.pending.lock().directories;
            let Some(key) = directories.key(directory) else { return Ok(Place::Unknown) };
            (key, directories.path(directory))
        };
        let Some(path) = path else { return Ok(Place::Stale) };
        let listing = Listing::open(self.driver.root.as_fd(), &path)?;
        Ok(listing.filter(|listing| listing.key() == key).map_or(Place::Stale, Place::Found))
    }

    /// Ends the watches of directories that were moved out of the tree.
    fn check_places(&mut self, moved: Vec<DirectoryId>) -> Result<(), End> {
        if !self.deferred.grown.is_empty() {
            // The new place of one of them may be among the names that have to wait.
            self.deferred.moved.extend(moved);
            return Ok(());
        }
        for directory in moved {
            self.check_place(directory)?;
        }
        Ok(())
    }

    /// The event of the directory's new name, if there is one in the tree, came before and was dealt with.
    fn check_place(&mut self, directory: DirectoryId) -> Result<(), End> {
        if !matches!(self.locate(directory)?, Place::Stale) {
            return Ok(());
        }
        let parent = self.pending.lock().directories.entry(directory).map(|(parent, _)| parent);
        let Some(parent) = parent else { return Ok(()) };
        if matches!(self.locate(parent)?, Place::Stale) {
            self.deferred.moved.push(directory);
            return Ok(());
        }
        let gone = self.pending.lock().directories.remove_tree(directory);
        for id in gone {
            self.source.unwatch(id)?;
        }
        Ok(())
    }

    fn collect_debts(&self) -> Result<(), End> {
        let owed = self.driver.own.take_debts();
        if owed.overflowed {
            return Err(End::Lost);
        }
        if owed.names.is_empty() {
            return Ok(());
        }
        let mut pending = self.pending.lock();
        for (inode, name) in owed.names {
            if let Some(directory) = pending.directories.find_inode(inode) {
                pending.note(directory, &name, Change::Appeared, Instant::now());
            }
        }
        Ok(())
    }

    fn report(&self, changes: FxHashMap<DirectoryId, FxHashMap<OsString, Changes>>) {
        for (directory, names) in changes {
            // A directory that is gone was reported as such; nothing below it can be reached.
            let Some(path) = self.pending.lock().directories.path(directory) else { continue };
            for (name, changes) in names {
                if self.driver.is_stopped() {
                    return;
                }
                if changes.entry {
                    self.driver.sink.entry_changed(&path, &name);
                }
                if changes.content {
                    self.driver.sink.inode_changed(&path.join(&name));
                }
            }
        }
    }
}

impl Receiver {
    fn receive(&self, notice: Notice<'_>, now: Instant) {
        let mut pending = self.pending.lock();
        let (was_open, was_urgent) = (pending.batch.due_at().is_some(), pending.is_urgent());
        match notice {
            Notice::Appeared { directory, name, is_directory } => {
                if !self.is_own(&pending, directory, name) {
                    pending.note(directory, name, Change::Appeared, now);
                }
                if is_directory {
                    pending.grow(directory, name);
                }
            }
            Notice::Vanished { directory, name } => {
                if self.is_own(&pending, directory, name) {
                    pending.batch.forget_content(directory, name);
                } else {
                    pending.note(directory, name, Change::Vanished, now);
                }
            }
            Notice::Content { directory, name: Some(name) } => {
                pending.note(directory, name, Change::Content, now);
            }
            Notice::Content { directory, name: None } => {
                // Below the root, the parent's watch tells the same with a name.
                if directory == DirectoryId::ROOT {
                    pending.note(directory, OsStr::new(""), Change::Content, now);
                }
            }
            Notice::Gone { directory } => pending.directories.remove(directory),
            Notice::Moved { directory } => pending.moved.push(directory),
            Notice::Lost => pending.is_lost = true,
        }
        let is_news = (pending.batch.due_at().is_some() && !was_open) || (pending.is_urgent() && !was_urgent);
        drop(pending);
        if is_news {
            self.driver.unpark();
        }
    }

    fn is_own(&self, pending: &Pending, directory: DirectoryId, name: &OsStr) -> bool {
        pending.directories.key(directory).is_some_and(|key| self.own.take(key.inode, name))
    }
}

impl Pending {
    fn new(directories: Directories) -> Self {
        Self { directories, batch: Batch::default(), grown: Vec::new(), moved: Vec::new(), is_lost: false }
    }

    /// Whether there is something that should not wait for the end of the window.
    fn is_urgent(&self) -> bool {
        self.is_lost || !self.grown.is_empty() || !self.moved.is_empty()
    }

    fn note(&mut self, directory: DirectoryId, name: &OsStr, change: Change, now: Instant) {
        if self.batch.note(directory, name, change, now).is_err() {
            self.is_lost = true;
        }
    }

    fn grow(&mut self, directory: DirectoryId, name: &OsStr) {
        if self.grown.len() < MAX_GROWN {
            self.grown.push((directory, name.to_owned()));
        } else {
            self.is_lost = true;
        }
    }
}

impl From<ListingError> for End {
    fn from(error: ListingError) -> Self {
        Self::Impossible(error.to_string())
    }
}

impl From<WatchError> for End {
    fn from(error: WatchError) -> Self {
        Self::Impossible(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::MAX_NAMES;
    use super::super::directories::DirectoryKey;
    use super::*;

    fn after(count: usize, mut step: impl FnMut(&mut Pending, &OsStr)) -> Pending {
        let mut pending = Pending::new(Directories::new(DirectoryKey { device: 1, inode: 1 }));
        for index in 0..count {
            step(&mut pending, OsStr::new(&index.to_string()));
        }
        pending
    }

    #[test]
    fn more_names_than_one_window_holds_are_a_loss() {
        let note = |pending: &mut Pending, name: &OsStr| {
            pending.note(DirectoryId::ROOT, name, Change::Appeared, Instant::now());
        };
        assert!(!after(MAX_NAMES, note).is_lost);
        assert!(after(MAX_NAMES + 1, note).is_lost);
    }

    #[test]
    fn more_new_names_than_can_wait_are_a_loss() {
        let grow = |pending: &mut Pending, name: &OsStr| pending.grow(DirectoryId::ROOT, name);
        assert!(!after(MAX_GROWN, grow).is_lost);
        assert!(after(MAX_GROWN + 1, grow).is_lost);
    }
}
