//! Files that changed while nothing was mounted over them.
//!
//! Found by their change time, which nobody can set: later than the moment until which somebody watched, and
//! not later than the mount. The walk runs in the background on the plain directory, so it makes no requests to
//! the guard. It does not cross into other filesystems. After a crash the first moment is up to five seconds
//! early, so files that were written through the guard in that time are reported as well; a file that is
//! written through the guard before the walk reaches it is not.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use jiff::Timestamp;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use tracing::{info, warn};
use wsguard_api::ChangedOutside;

use crate::sys::handle::{FileHandle, handle_at, handle_of};

/// Changed entries that are named; the others are counted.
const SAMPLE: usize = 20;

/// Priority of the walk: everything else goes first.
const NICENESS: i32 = 15;

/// The window in which nobody watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unwatched {
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
}

impl Unwatched {
    fn contains(&self, seconds: i64, nanoseconds: u32) -> bool {
        let changed = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        (self.since.as_nanosecond()..self.until.as_nanosecond()).contains(&changed)
    }
}

/// Is told of every file and directory that was found and when it was changed, nanoseconds since 1970, for the history of the workspace.
pub(crate) type Told = Box<dyn Fn(FileHandle, i64) + Send>;

/// A walk that runs or has run.
#[derive(Debug)]
pub(crate) struct OutsideSearch {
    found: Arc<Mutex<ChangedOutside>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl OutsideSearch {
    /// Starts to walk the plain directory `root`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn start(name: &str, root: OwnedFd, window: Unwatched, tell: Told) -> std::io::Result<Self> {
        let found = Arc::new(Mutex::new(ChangedOutside {
            since: window.since.to_string(),
            entries: 0,
            sample: Vec::new(),
            scanning: true,
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped, name) = (Arc::clone(&found), Arc::clone(&stop), name.to_owned());
        let thread = std::thread::Builder::new().name("changed-outside".to_owned()).spawn(move || {
            if let Err(errno) = rustix::process::setpriority_process(None, NICENESS) {
                warn!(errno = errno.raw_os_error(), "search for outside changes runs at normal priority");
            }
            walk(&root, &Search { window, found: &shared, tell: &tell }, &stopped);
            report(&name, &mut shared.lock());
        })?;
        Ok(Self { found, stop, thread: Some(thread) })
    }

    /// Returns what was found so far, or `None` if nothing was and nothing will be.
    pub(crate) fn result(&self) -> Option<ChangedOutside> {
        let found = self.found.lock().clone();
        (found.scanning || found.entries > 0).then_some(found)
    }
}

impl Drop for OutsideSearch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("search for outside changes panicked");
        }
    }
}

fn report(name: &str, found: &mut ChangedOutside) {
    found.scanning = false;
    if found.entries > 0 {
        let first = found.sample.first().map_or("", String::as_str);
        warn!(workspace = name, entries = found.entries, since = %found.since, first, "files changed while nothing was mounted");
    } else {
        info!(workspace = name, since = %found.since, "nothing changed while nothing was mounted");
    }
}

/// Visits every directory below `root`, each opened from `root` again: a tree of any depth costs one open
/// directory, and a directory that is moved meanwhile is at worst seen twice or not at all.
fn walk(root: &OwnedFd, search: &Search<'_>, stop: &AtomicBool) {
    let Ok(device) = rustix::fs::fstat(root).map(|stat| stat.st_dev) else { return };
    search.check(root);
    let mut pending = vec![PathBuf::from(".")];
    while let Some(directory) = pending.pop() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let listed = list(root, &directory, device, search, &mut pending);
        match listed {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => {
                warn!(path = %directory.display(), errno = errno.raw_os_error(), "directory is not searched for outside changes");
            }
        }
    }
}

/// What is looked for, and where it goes.
struct Search<'a> {
    window: Unwatched,
    found: &'a Mutex<ChangedOutside>,
    tell: &'a Told,
}

impl Search<'_> {
    fn check(&self, root: &OwnedFd) {
        let flags = AtFlags::EMPTY_PATH;
        if let Ok(stat) = rustix::fs::statx(root, "", flags, StatxFlags::CTIME)
            && self.window.contains(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec)
        {
            add(Path::new("."), self.found);
            match handle_of(root.as_fd()) {
                Ok(handle) => (self.tell)(handle, nanoseconds(stat.stx_ctime)),
                Err(errno) => warn!(%errno, "history is not told that the workspace was changed outside"),
            }
        }
    }
}

fn nanoseconds(time: rustix::fs::StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
}

fn add(path: &Path, found: &Mutex<ChangedOutside>) {
    let mut found = found.lock();
    found.entries += 1;
    if found.sample.len() < SAMPLE {
        found.sample.push(path.strip_prefix(".").unwrap_or(path).to_string_lossy().into_owned());
        if let Some(last) = found.sample.last_mut().filter(|last| last.is_empty()) {
            ".".clone_into(last);
        }
    }
}

fn list(
    root: &OwnedFd,
    directory: &Path,
    device: u64,
    search: &Search<'_>,
    pending: &mut Vec<PathBuf>,
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let fd = rustix::fs::openat2(root, directory, flags, Mode::empty(), resolve)?;
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let wanted = StatxFlags::CTIME | StatxFlags::TYPE;
        // Deleted meanwhile: then its directory's change time tells.
        let Ok(stat) = rustix::fs::statx(fd.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW, wanted) else {
            continue;
        };
        let path = directory.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        if search.window.contains(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec) {
            add(&path, search.found);
            // Deleted or moved meanwhile: its directory was found as well.
            if let Ok(handle) = handle_at(fd.as_fd(), std::ffi::OsStr::from_bytes(name.to_bytes())) {
                (search.tell)(handle, nanoseconds(stat.stx_ctime));
            }
        }
        let is_directory = rustix::fs::FileType::from_raw_mode(u32::from(stat.stx_mode)).is_dir();
        if is_directory && rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor) == device {
            pending.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(dir: &Path, since: Timestamp, until: Timestamp) -> Option<ChangedOutside> {
        let root = OwnedFd::from(std::fs::File::open(dir).unwrap());
        let told = Arc::new(Mutex::new(Vec::new()));
        let all = told.clone();
        let tell = Box::new(move |handle, _| all.lock().push(handle));
        let mut search = OutsideSearch::start("p", root, Unwatched { since, until }, tell).unwrap();
        search.thread.take().unwrap().join().unwrap();
        let result = search.result();
        let found = result.as_ref().map_or(0, |found| found.entries);
        assert_eq!(told.lock().len() as u64, found, "history is told of each");
        result
    }

    #[test]
    fn only_entries_changed_in_the_window_are_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/old"), b"x").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let since = Timestamp::now();
        std::thread::sleep(std::time::Duration::from_millis(30));
        std::fs::write(dir.path().join("a/b/old"), b"y").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let until = Timestamp::now();
        std::thread::sleep(std::time::Duration::from_millis(30));
        std::fs::write(dir.path().join("late"), b"x").unwrap();
        let found = search(dir.path(), since, until).unwrap();
        assert_eq!((found.entries, found.sample), (1, vec!["a/b/old".to_owned()]));
        assert!(!found.scanning);
        assert_eq!(
            search(
                dir.path(),
                since - jiff::SignedDuration::from_hours(2),
                since - jiff::SignedDuration::from_hours(1)
            ),
            None
        );
    }

    #[test]
    fn deletion_shows_as_a_change_of_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), b"x").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let since = Timestamp::now();
        std::thread::sleep(std::time::Duration::from_millis(30));
        std::fs::remove_file(dir.path().join("x")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let found = search(dir.path(), since, Timestamp::now()).unwrap();
        assert_eq!((found.entries, found.sample), (1, vec![".".to_owned()]));
    }
}
