//! Notices edits of the backing tree that bypass the mount.
//!
//! The kernel keeps names, attributes and listings of a mount for an hour, because normally every change goes
//! through the mount. A change that reaches the backing directory another way (`mount --at` and the plain
//! directory, a second bind, the server's side of an NFS export) is reported to a [`ChangeSink`] within a
//! quarter of a second, so that it can be invalidated; it is promised within one second.
//!
//! Why inotify: it needs no privilege, works on every local filesystem, and names the entry. Its price is one
//! watch and about 1 KiB of kernel memory per directory, hence the limit. Changes that another machine makes
//! on a network filesystem raise no events; such a backing is never watched.
//!
//! What it does not do: a store through a mapping raises no event. It is reported when the mapping ends and the
//! file with it (the close of a file that was open for writing counts as a change of its content); until then the
//! times of a file that is changed that way from outside show when cached attributes expire. It cannot tell our
//! own data writes from foreign ones: all of them are reported as content changes, debounced, once per file and
//! window. Own namespace changes are told apart by [`OwnMutations`].
//!
//! Where it breaks its promise: more events at once than the kernel's queue holds (16,384 by default) are lost,
//! and more names than one window holds. Then all caches are dropped at once, little is cached while the watches
//! are set up again, and all caches are dropped once more. `rm -rf` of 18,000 watched directories is no such
//! burst: it loses nothing, and the next report comes in time.
//!
//! Why not the `notify` crate: see `source.rs`.
//!
//! What it costs, as CPU time of an operation below, both threads included, without and with a watch of 2,000
//! directories (medians on tmpfs and two cores, Linux 6.18; differences below 0.3 µs are noise; on ext4 the same
//! is added, and a create costs 20 to 45 µs):
//!
//! | operation | without | with | what for |
//! |---|---|---|---|
//! | open and close a file for reading | 2.4 µs | 2.6 µs | nothing |
//! | write 4 KiB | 0.7 µs | 1.3 µs | one event, mostly merged |
//! | open, write one byte, close | 3.3 µs | 5.7 µs | two events |
//! | create and unlink, announced | 8.7 µs | 12.2 µs | three events |
//! | mkdir and rmdir, announced | 6.8 µs | 12 to 16 µs | two events and, if it lives long enough, a watch |
//! | announce one change and consume it | < 1 ns | 0.15 µs | |
//!
//! Two threads per watcher, neither of them a FUSE thread: `wsguard-inotify` reads events and sorts them,
//! `wsguard-watch` opens directories and calls the sink with no lock held. An event takes the lock of the watches,
//! then that of what is pending, in it that of one shard of [`OwnMutations`]; no lock is held while either thread
//! waits.

mod batch;
mod directories;
mod driver;
mod listing;
mod own_mutations;
mod source;
#[cfg(test)]
mod tests;
mod turn;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use wsguard_api::Coherence;

pub(crate) use own_mutations::OwnMutations;

/// Receives what the watcher found; called on the watcher's own thread, which holds no lock of anybody else (or,
/// if that cannot be started, by [`Watcher::start`]).
///
/// Paths are relative to the root, without a leading slash.
pub(crate) trait ChangeSink: Send + Sync + 'static {
    /// The entry `name` in the directory at `dir` (empty for the root) appeared, vanished or was replaced. The
    /// directory's own listing and attributes changed with it.
    fn entry_changed(&self, dir: &Path, name: &OsStr);

    /// Content or attributes of the object at `path` changed. It may be gone by now.
    fn inode_changed(&self, path: &Path);

    /// Nothing that is cached may be trusted: events were lost, or changes from before the watches may have been
    /// missed. [`Watcher::is_watched`] is false, already or (once the watches are set up) still.
    fn everything_changed(&self);
}

/// What the kernel may have cached before the watch began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartedBy {
    /// Nothing: the mount is new.
    Mount,
    /// What the worker before this one said would stay true, although nobody watched in between. It is dropped
    /// once the watches are set up, or as soon as it turns out that there can be none.
    Takeover,
}

/// A running watch of one backing tree. Dropping it stops it.
pub(crate) struct Watcher {
    status: Arc<Status>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How far the watch is.
struct Status {
    is_watched: AtomicBool,
    coherence: Mutex<Coherence>,
}

impl Watcher {
    /// Starts to watch the tree below `root` (an `O_PATH` descriptor will do) and returns at once; the tree is
    /// walked on the watcher's own thread, meanwhile [`Watcher::state`] is `Starting`.
    ///
    /// Trees of more than `limit` directories are not watched at all.
    pub(crate) fn start(
        root: Arc<OwnedFd>,
        limit: usize,
        started_by: StartedBy,
        own: Arc<OwnMutations>,
        sink: Arc<dyn ChangeSink>,
    ) -> Self {
        let status = Arc::new(Status {
            is_watched: AtomicBool::new(false),
            coherence: Mutex::new(Coherence::Starting),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let driver = driver::Driver {
            root,
            limit,
            started_by,
            own,
            sink: sink.clone(),
            status: status.clone(),
            stop: stop.clone(),
        };
        let spawned =
            std::thread::Builder::new().name("wsguard-watch".to_owned()).spawn(move || driver.run());
        let thread = match spawned {
            Ok(thread) => Some(thread),
            Err(error) => {
                status.set_short_ttl(format!("cannot start the watcher's thread: {error}"));
                if started_by == StartedBy::Takeover {
                    sink.everything_changed();
                }
                None
            }
        };
        Self { status, stop, thread: Mutex::new(thread) }
    }

    /// Returns how foreign edits are found at this moment.
    pub(crate) fn state(&self) -> Coherence {
        self.status.coherence.lock().clone()
    }

    /// Stops the threads and waits for them; no sink is called afterwards. Never call it from a sink.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the watcher's thread panicked");
            }
        }
        self.status.set_short_ttl("the watcher was stopped".to_owned());
    }

    /// Whether every foreign edit is reported at this moment. One relaxed load: asked for every reply.
    pub(crate) fn is_watched(&self) -> bool {
        self.status.is_watched()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Status {
    fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    fn set_starting(&self) {
        self.is_watched.store(false, Ordering::Relaxed);
        *self.coherence.lock() = Coherence::Starting;
    }

    fn set_watched(&self, directories: usize) {
        *self.coherence.lock() = Coherence::Watched { directories: directories as u64 };
        self.is_watched.store(true, Ordering::Relaxed);
    }

    fn set_short_ttl(&self, reason: String) {
        self.is_watched.store(false, Ordering::Relaxed);
        *self.coherence.lock() = Coherence::ShortTtl { reason };
    }
}
