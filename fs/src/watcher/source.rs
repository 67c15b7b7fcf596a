//! One inotify instance and the thread that reads it.
//!
//! One watch per directory. The caller opens a directory safely, has it watched through its descriptor, and
//! lists it afterwards: going by path, a symbolic link that a container has put in place of a directory since
//! the event could make us watch the whole host, and what happens in a new directory before its watch begins
//! would go unnoticed.
//!
//! Why not the `notify` crate: it looks at all its watches whenever a directory is deleted, and reads no events
//! meanwhile (`rm -rf` of 10,000 watched directories left it blind for 8 s, events being lost; here the next
//! report comes as after any other change). It names watches by path, although these directories have none
//! that is safe to use. And its stable version asks for opens and closes by readers as well, about 2 µs for
//! everyone who opens a file.
//!
//! The kernel wakes the reader at the first event in an empty queue, which would cost a process that writes
//! in a loop a context switch per write. The reader therefore waits [`GATHER`] before it looks at events that
//! come after a silence; meanwhile the kernel merges equal neighbours in its queue.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::directories::DirectoryId;

/// What the kernel raises events for: changes only. Opening is none, nor is closing what was only read, and
/// raising an event costs the process that causes it.
///
/// CLOSE_WRITE is there for stores through a mapping, which raise nothing themselves. That a directory is
/// deleted is told by IGNORED, which needs no asking.
const RAISED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE);

/// How watches are made: of nothing but directories, and without events of files that have lost their name.
const ASKED: WatchFlags = RAISED.union(WatchFlags::ONLYDIR).union(WatchFlags::EXCL_UNLINK);

/// How long events gather in the kernel's queue. The default queue (16,384 events) fills in about 50 ms when
/// two threads do nothing but create and unlink files.
const GATHER: Timespec = Timespec { tv_sec: 0, tv_nsec: 3_000_000 };

const NOT_AT_ALL: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Size of the reader's buffer: about 500 events with short names.
const BUFFER_BYTES: usize = 16 * 1024;

/// Something that happened, by directory number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice<'a> {
    /// A name was created, or something was renamed to it.
    Appeared { directory: DirectoryId, name: &'a OsStr, is_directory: bool },
    /// A name was removed, or renamed away.
    Vanished { directory: DirectoryId, name: &'a OsStr },
    /// Content or attributes of what the name stands for may have changed; without a name, of the directory.
    Content { directory: DirectoryId, name: Option<&'a OsStr> },
    /// The directory was deleted; its watch has ended.
    Gone { directory: DirectoryId },
    /// The directory was renamed; its watch goes on.
    Moved { directory: DirectoryId },
    /// Events are missing.
    Lost,
}

/// Why there is no watch.
#[derive(Debug, thiserror::Error)]
pub(super) enum WatchError {
    /// EMFILE.
    #[error(
        "no inotify instance is left: each workspace takes one, and fs.inotify.max_user_instances allows a user \
         {limit} (raise it, or the daemon's limit of open files)",
        limit = setting("max_user_instances")
    )]
    NoInstancesLeft,
    /// There is no instance, or no thread that reads it.
    #[error("cannot start inotify: {0}")]
    Start(#[source] std::io::Error),
    /// ENOSPC.
    #[error("no inotify watch is left (fs.inotify.max_user_watches allows {})", setting("max_user_watches"))]
    NoWatchesLeft,
    /// Anything else.
    #[error("cannot watch a directory: {0}")]
    Watch(#[source] Errno),
}

/// A running inotify instance with its thread. Dropping it ends all watches and waits for the thread.
pub(super) struct Source {
    inotify: Arc<OwnedFd>,
    watches: Arc<Mutex<Watches>>,
    /// Readable once the thread is to end.
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Which watch belongs to which directory. The kernel gives out watch descriptors in ascending order and begins
/// again only after two billion, so that late events of an ended watch are not taken for those of another.
#[derive(Default)]
struct Watches {
    directories: FxHashMap<i32, DirectoryId>,
    descriptors: FxHashMap<DirectoryId, i32>,
}

struct Reader<F> {
    receive: F,
    inotify: Arc<OwnedFd>,
    watches: Arc<Mutex<Watches>>,
    stop: Arc<OwnedFd>,
}

impl Source {
    /// Starts inotify without any watch. `receive` is called on the source's own thread, which holds no lock.
    ///
    /// # Errors
    /// [`WatchError::NoInstancesLeft`], or [`WatchError::Start`] for anything else.
    pub(super) fn start(
        receive: impl FnMut(Notice<'_>, Instant) + Send + 'static,
    ) -> Result<Self, WatchError> {
        let start = |errno: Errno| WatchError::Start(errno.into());
        let inotify =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|errno| match errno {
                Errno::MFILE => WatchError::NoInstancesLeft,
                errno => start(errno),
            })?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(start)?;
        let (inotify, stop, watches) = (Arc::new(inotify), Arc::new(stop), Arc::default());
        let reader = Reader {
            receive,
            inotify: Arc::clone(&inotify),
            watches: Arc::clone(&watches),
            stop: stop.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("wsguard-inotify".to_owned())
            .spawn(move || reader.run())
            .map_err(WatchError::Start)?;
        Ok(Self { inotify, watches, stop, thread: Some(thread) })
    }

    /// Begins to watch the directory that is open as `fd`; that may be closed afterwards.
    ///
    /// # Errors
    /// [`WatchError::NoWatchesLeft`], or [`WatchError::Watch`] for anything else.
    pub(super) fn watch(&self, fd: BorrowedFd<'_>, directory: DirectoryId) -> Result<(), WatchError> {
        // Inotify takes paths only; this one leads to the open directory, whatever its name is now.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        // Held until the watch is known: its first events may be read before add_watch returns.
        let mut watches = self.watches.lock();
        match inotify::add_watch(&*self.inotify, path, ASKED) {
            Ok(descriptor) => {
                watches.enter(descriptor, directory);
                Ok(())
            }
            Err(Errno::NOSPC) => Err(WatchError::NoWatchesLeft),
            Err(errno) => Err(WatchError::Watch(errno)),
        }
    }

    /// Ends the watch of a directory.
    ///
    /// # Errors
    /// [`WatchError::Watch`]; a watch that has ended by itself is none.
    pub(super) fn unwatch(&self, directory: DirectoryId) -> Result<(), WatchError> {
        let Some(descriptor) = self.watches.lock().leave(directory) else { return Ok(()) };
        match inotify::remove_watch(&*self.inotify, descriptor) {
            // Deleted meanwhile.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(WatchError::Watch(errno)),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Err(errno) = rustix::io::write(&self.stop, &1_u64.to_ne_bytes()) {
            tracing::error!(%errno, "reader of file change events cannot be told to end");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("reader of file change events panicked");
        }
    }
}

impl Watches {
    fn enter(&mut self, descriptor: i32, directory: DirectoryId) {
        // Inotify knows one watch per directory: a second one of the same would come under its old descriptor.
        if let Some(previous) = self.directories.insert(descriptor, directory) {
            self.descriptors.remove(&previous);
        }
        self.descriptors.insert(directory, descriptor);
    }

    /// Forgets a watch; returns what it was.
    fn leave(&mut self, directory: DirectoryId) -> Option<i32> {
        let descriptor = self.descriptors.remove(&directory)?;
        self.directories.remove(&descriptor);
        Some(descriptor)
    }

    /// Returns the directory of an event. The last event of a watch forgets it.
    fn directory(&mut self, descriptor: i32, events: ReadFlags) -> Option<DirectoryId> {
        let directory = *self.directories.get(&descriptor)?;
        if events.contains(ReadFlags::IGNORED) {
            self.leave(directory);
        }
        Some(directory)
    }
}

impl<F: FnMut(Notice<'_>, Instant)> Reader<F> {
    fn run(mut self) {
        if let Err(errno) = self.read() {
            tracing::warn!(%errno, "cannot read file change events");
            (self.receive)(Notice::Lost, Instant::now());
        }
    }

    /// Reads events until told to stop.
    fn read(&mut self) -> Result<(), Errno> {
        let inotify = Arc::clone(&self.inotify);
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut events = inotify::Reader::new(inotify.as_fd(), &mut buffer);
        loop {
            self.wait()?;
            if self.is_stopped_within(&GATHER)? {
                return Ok(());
            }
            while self.read_next(&mut events)? {
                // A tree that is never quiet must not keep the thread alive.
                if events.is_buffer_empty() && self.is_stopped_within(&NOT_AT_ALL)? {
                    return Ok(());
                }
            }
        }
    }

    /// Sleeps until there are events or the thread is to end.
    fn wait(&self) -> Result<(), Errno> {
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        retry(|| rustix::event::poll(&mut fds, None)).map(drop)
    }

    fn is_stopped_within(&self, time: &Timespec) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(&self.stop, PollFlags::IN)];
        retry(|| rustix::event::poll(&mut fds, Some(time))).map(|ready| ready > 0)
    }

    /// Deals with one event; returns whether there was one.
    fn read_next(&mut self, events: &mut inotify::Reader<'_, BorrowedFd<'_>>) -> Result<bool, Errno> {
        let event = match events.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => return Ok(true),
            Err(errno) => return Err(errno),
        };
        let directory = self.watches.lock().directory(event.wd(), event.events());
        let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
        if let Some(notice) = decode(directory, name, event.events()) {
            (self.receive)(notice, Instant::now());
        }
        Ok(true)
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Says what an event means; nothing if it comes from a watch that was ended by us.
fn decode(directory: Option<DirectoryId>, name: Option<&OsStr>, events: ReadFlags) -> Option<Notice<'_>> {
    if events.contains(ReadFlags::QUEUE_OVERFLOW) {
        return Some(Notice::Lost);
    }
    let directory = directory?;
    let is_any = |flags: ReadFlags| events.intersects(flags);
    match name {
        Some(name) if is_any(ReadFlags::CREATE | ReadFlags::MOVED_TO) => {
            Some(Notice::Appeared { directory, name, is_directory: is_any(ReadFlags::ISDIR) })
        }
        Some(name) if is_any(ReadFlags::DELETE | ReadFlags::MOVED_FROM) => {
            Some(Notice::Vanished { directory, name })
        }
        None if is_any(ReadFlags::IGNORED) => Some(Notice::Gone { directory }),
        None if is_any(ReadFlags::MOVE_SELF) => Some(Notice::Moved { directory }),
        name if is_any(ReadFlags::ATTRIB | ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE) => {
            Some(Notice::Content { directory, name })
        }
        // UNMOUNT, which IGNORED follows.
        _ => None,
    }
}

/// Returns a limit of inotify for a message.
fn setting(name: &str) -> String {
    let path = Path::new("/proc/sys/fs/inotify").join(name);
    std::fs::read_to_string(path)
        .map_or_else(|_| "an unknown number".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IN_MODIFY, ATTRIB, CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE, MOVE_SELF and EXCL_UNLINK.
    const EXPECTED_MASK: &str = "mask:4000bce";

    #[test]
    fn kernel_is_asked_for_changes_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(dir.path()).unwrap();
        let source = Source::start(|_, _| ()).unwrap();
        source.watch(file.as_fd(), DirectoryId::ROOT).unwrap();
        let inode = format!(" ino:{:x} ", rustix::fs::fstat(&file).unwrap().st_ino);
        let watches =
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", source.inotify.as_raw_fd())).unwrap();
        let watch =
            watches.lines().find(|line| line.starts_with("inotify ") && line.contains(&inode)).unwrap();
        assert!(watch.split(' ').any(|field| field == EXPECTED_MASK), "{watch}");
    }

    #[test]
    fn overflow_is_told() {
        assert_eq!(decode(None, None, ReadFlags::QUEUE_OVERFLOW), Some(Notice::Lost));
    }

    #[test]
    fn ended_watches_are_forgotten_and_their_events_mean_nothing() {
        let mut watches = Watches::default();
        let [first, second] = [1, 2].map(DirectoryId::from_index);
        watches.enter(10, first);
        watches.enter(11, second);
        assert_eq!(watches.directory(10, ReadFlags::IGNORED), Some(first));
        assert_eq!(watches.directory(10, ReadFlags::CREATE), None);
        assert_eq!(watches.leave(first), None);
        assert_eq!(watches.leave(second), Some(11));
        assert!(watches.directories.is_empty() && watches.descriptors.is_empty());
        assert_eq!(decode(None, Some(OsStr::new("late")), ReadFlags::CREATE), None);
    }
}
