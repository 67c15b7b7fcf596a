//! Inotify through the `notify` crate: the only file that imports it.
//!
//! One watch per directory, none of them recursive, although `notify` could walk a tree by itself. Its walk
//! goes by path, and the first component it opens may have been replaced by a symbolic link since the event
//! (a container could make us watch the whole host); and of what happens in a new directory before its watch
//! begins, it finds nothing but directories. Here the caller opens a directory safely, has it watched through
//! its descriptor, and lists it afterwards.
//!
//! `notify` names a watch by its path and a descriptor's number is soon used again, so the path that it is
//! given also spells the directory's number, in a detour that leads nowhere: `/proc/self/fd/../ns/../fd/57`
//! is descriptor 57, watched as directory 4. Events come back with that path (see [`alias`]).
//!
//! The kernel wakes the reader at the first event in an empty queue, which would cost a process that writes
//! in a loop a context switch per write. The reader therefore sleeps [`GATHER`] before it looks at events
//! that come after a silence; meanwhile the kernel merges equal neighbours in its queue.
//!
//! [`RAISED`] is what the kernel raises events for; `notify` 9 hands it down to `inotify_add_watch`. (`notify` 8
//! always asks for opens and closes as well: about 2 µs for everyone who opens a file.)

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, Sender, channel};
use std::time::{Duration, Instant};

use notify::event::{CreateKind, ModifyKind, RenameMode};
use notify::{
    Config, ErrorKind, EventHandler, EventKind, EventKindMask, INotifyWatcher, RecursiveMode, Watcher,
};
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

use super::directories::DirectoryId;

/// Creation, removal, renames, data and attributes: changes only. An open or a close is none, and raising an
/// event costs the process that causes it.
const RAISED: EventKindMask = EventKindMask::CREATE
    .union(EventKindMask::REMOVE)
    .union(EventKindMask::MODIFY_NAME)
    .union(EventKindMask::MODIFY_DATA)
    .union(EventKindMask::MODIFY_META);

/// How long events gather in the kernel's queue. The default queue (16,384 events) fills in about 50 ms when
/// two threads do nothing but create and unlink files.
const GATHER: Duration = Duration::from_millis(3);

/// Time between two events that tells that the queue was empty. Decoding an event takes 1–2 µs; being
/// preempted in between costs one pause too many.
const SILENCE: Duration = Duration::from_micros(50);

/// Something that happened, by directory number.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice<'a> {
    /// A name was created, or something was renamed to it.
    Appeared { directory: DirectoryId, name: &'a OsStr, may_be_directory: bool },
    /// A name was removed, or renamed away.
    Vanished { directory: DirectoryId, name: &'a OsStr },
    /// Content or attributes of what the name stands for changed; without a name, of the directory.
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
    Start(#[source] notify::Error),
    /// ENOSPC.
    #[error("no inotify watch is left (fs.inotify.max_user_watches allows {})", setting("max_user_watches"))]
    NoWatchesLeft,
    /// Anything else.
    #[error("cannot watch a directory: {0}")]
    Watch(#[source] notify::Error),
}

/// A running inotify instance with its thread. Dropping it ends all watches and waits for the thread.
pub(super) struct Source {
    watcher: Option<INotifyWatcher>,
    gathering: Arc<Gathering>,
    /// Disconnects when the handler is dropped, which is the last thing that the thread does.
    ended: Receiver<Infallible>,
}

struct Gathering {
    is_urgent: Mutex<bool>,
    became_urgent: Condvar,
}

struct Handler<F> {
    receive: F,
    gathering: Arc<Gathering>,
    last_event: Instant,
    _ends: Sender<Infallible>,
}

impl Source {
    /// Starts inotify without any watch. `receive` is called on the source's own thread; it must not block on
    /// anything that waits for [`Source::watch`].
    ///
    /// # Errors
    /// [`WatchError::NoInstancesLeft`], or [`WatchError::Start`] for anything else.
    pub(super) fn start(
        receive: impl FnMut(Notice<'_>, Instant) + Send + 'static,
    ) -> Result<Self, WatchError> {
        let gathering = Arc::new(Gathering { is_urgent: Mutex::new(true), became_urgent: Condvar::new() });
        let (ends, ended) = channel();
        let handler =
            Handler { receive, gathering: gathering.clone(), last_event: Instant::now(), _ends: ends };
        let config = Config::default().with_follow_symlinks(false).with_event_kinds(RAISED);
        let watcher = INotifyWatcher::new(handler, config).map_err(|error| match &error.kind {
            ErrorKind::Io(io) if Errno::from_io_error(io) == Some(Errno::MFILE) => {
                WatchError::NoInstancesLeft
            }
            _ => WatchError::Start(error),
        })?;
        if let Err(error) = watcher.watched_paths() {
            // `notify` does not say that it could not start its thread: nobody answers. It would panic when it
            // is dropped; leaving it costs an event descriptor.
            std::mem::forget(watcher);
            return Err(WatchError::Start(error));
        }
        Ok(Self { watcher: Some(watcher), gathering, ended })
    }

    /// Begins to watch the directory that is open as `fd`; that may be closed afterwards.
    ///
    /// # Errors
    /// [`WatchError::NoWatchesLeft`], or [`WatchError::Watch`] for anything else.
    pub(super) fn watch(&mut self, fd: BorrowedFd<'_>, directory: DirectoryId) -> Result<(), WatchError> {
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        watcher.watch(&alias(directory, fd.as_raw_fd()), RecursiveMode::NonRecursive).map_err(|error| {
            match error.kind {
                ErrorKind::MaxFilesWatch => WatchError::NoWatchesLeft,
                _ => WatchError::Watch(error),
            }
        })
    }

    /// Ends the watch of a directory that [`Source::watch`] was given as descriptor number `descriptor`.
    ///
    /// # Errors
    /// [`WatchError::Watch`]; a watch that has ended by itself is none.
    pub(super) fn unwatch(&mut self, descriptor: RawFd, directory: DirectoryId) -> Result<(), WatchError> {
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        match watcher.unwatch(&alias(directory, descriptor)) {
            Err(error) if !matches!(error.kind, ErrorKind::WatchNotFound) => Err(WatchError::Watch(error)),
            _ => Ok(()),
        }
    }

    /// Says whether [`Source::watch`] is being called a lot: then the thread does not pause in between.
    pub(super) fn set_urgent(&self, is_urgent: bool) {
        *self.gathering.is_urgent.lock() = is_urgent;
        if is_urgent {
            self.gathering.became_urgent.notify_all();
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.set_urgent(true);
        self.watcher = None;
        let Err(RecvError) = self.ended.recv();
    }
}

impl Gathering {
    fn pause(&self) {
        let mut is_urgent = self.is_urgent.lock();
        if !*is_urgent {
            self.became_urgent.wait_for(&mut is_urgent, GATHER);
        }
    }
}

impl<F: FnMut(Notice<'_>, Instant) + Send + 'static> EventHandler for Handler<F> {
    fn handle_event(&mut self, event: notify::Result<notify::Event>) {
        let mut now = Instant::now();
        if now.duration_since(self.last_event) >= SILENCE {
            self.gathering.pause();
            now = Instant::now();
        }
        self.last_event = now;
        match event {
            Ok(event) => {
                if let Some(notice) = decode(&event) {
                    (self.receive)(notice, now);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read file change events");
                (self.receive)(Notice::Lost, now);
            }
        }
    }
}

fn decode(event: &notify::Event) -> Option<Notice<'_>> {
    if event.need_rescan() {
        return Some(Notice::Lost);
    }
    let (directory, name) = parse_alias(event.paths.first()?)?;
    Some(match (event.kind, name) {
        // `Both` repeats a `From` and a `To` that were reported already.
        (EventKind::Modify(ModifyKind::Name(RenameMode::Both)), _) => return None,
        (EventKind::Create(kind), Some(name)) => {
            Notice::Appeared { directory, name, may_be_directory: kind == CreateKind::Folder }
        }
        (EventKind::Modify(ModifyKind::Name(RenameMode::To)), Some(name)) => {
            Notice::Appeared { directory, name, may_be_directory: true }
        }
        (EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)), Some(name)) => {
            Notice::Vanished { directory, name }
        }
        (EventKind::Remove(_), None) => Notice::Gone { directory },
        (EventKind::Modify(ModifyKind::Name(_)), None) => Notice::Moved { directory },
        (EventKind::Create(_) | EventKind::Modify(_), name) => Notice::Content { directory, name },
        (EventKind::Access(_) | EventKind::Any | EventKind::Other, _) => return None,
    })
}

const ALIAS_START: &[u8] = b"/proc/self/";
const DESCRIPTOR: &[u8] = b"fd/";

/// Detours from `/proc/self` back to itself, one per digit of a directory's number, base four.
const DETOURS: [&str; 4] = ["fd/../", "ns/../", "task/../", "fdinfo/../"];

/// Returns a path of the open file `descriptor` that no other directory number has: the number's digits, least
/// first and without leading zeros, as detours.
fn alias(directory: DirectoryId, descriptor: RawFd) -> PathBuf {
    let mut path = String::from("/proc/self/");
    let mut rest = directory.index() as usize;
    while rest > 0 {
        path.push_str(DETOURS[rest % DETOURS.len()]);
        rest /= DETOURS.len();
    }
    path.push_str("fd/");
    path.push_str(&descriptor.to_string());
    PathBuf::from(path)
}

/// Takes apart what [`alias`] made, and the name that an event has added to it.
fn parse_alias(path: &Path) -> Option<(DirectoryId, Option<&OsStr>)> {
    let mut rest = path.as_os_str().as_bytes().strip_prefix(ALIAS_START)?;
    let (mut index, mut place) = (0u32, 1u32);
    while let Some((digit, after)) = DETOURS
        .iter()
        .zip(0u32..)
        .find_map(|(detour, digit)| Some((digit, rest.strip_prefix(detour.as_bytes())?)))
    {
        index = index.checked_add(digit.checked_mul(place)?)?;
        place = place.wrapping_mul(DETOURS.len() as u32);
        rest = after;
    }
    let descriptor = rest.strip_prefix(DESCRIPTOR)?;
    let name = descriptor.iter().position(|byte| *byte == b'/').map(|slash| &descriptor[slash + 1..]);
    Some((DirectoryId::from_index(index), name.map(OsStr::from_bytes)))
}

/// Returns a limit of inotify for a message.
fn setting(name: &str) -> String {
    let path = Path::new("/proc/sys/fs/inotify").join(name);
    std::fs::read_to_string(path)
        .map_or_else(|_| "an unknown number".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn alias_is_understood_again(index: u32, descriptor in 0..RawFd::MAX, name in "[^/\x00]{1,20}") {
            let directory = DirectoryId::from_index(index);
            let path = alias(directory, descriptor);
            prop_assert_eq!(parse_alias(&path), Some((directory, None)));
            let entry = path.join(&name);
            prop_assert_eq!(parse_alias(&entry), Some((directory, Some(OsStr::new(&name)))));
        }
    }

    #[test]
    fn alias_leads_to_the_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(dir.path()).unwrap();
        for index in [0, 1, 2, 3, 27, u32::MAX] {
            let path = alias(DirectoryId::from_index(index), file.as_raw_fd());
            assert_eq!(std::fs::canonicalize(path).unwrap(), dir.path());
        }
    }

    /// IN_MODIFY, ATTRIB, MOVED_FROM, MOVED_TO, CREATE, DELETE, and DELETE_SELF and MOVE_SELF, which `notify` adds.
    const EXPECTED_MASK: &str = "mask:fc6";

    #[test]
    fn kernel_is_asked_for_changes_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(dir.path()).unwrap();
        let mut source = Source::start(|_, _| ()).unwrap();
        source.watch(file.as_fd(), DirectoryId::ROOT).unwrap();
        let inode = format!(" ino:{:x} ", rustix::fs::fstat(&file).unwrap().st_ino);
        // Other threads close descriptors while this lists them.
        let watches: String = std::fs::read_dir("/proc/self/fdinfo")
            .unwrap()
            .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
            .collect();
        let watch =
            watches.lines().find(|line| line.starts_with("inotify ") && line.contains(&inode)).unwrap();
        assert!(watch.split(' ').any(|field| field == EXPECTED_MASK), "{watch}");
    }

    #[test]
    fn overflow_is_told() {
        let event = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert_eq!(decode(&event), Some(Notice::Lost));
    }
}
