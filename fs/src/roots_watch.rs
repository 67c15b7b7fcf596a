//! Wakes the search for new projects when something appears where they may be.
//!
//! It guarantees nothing and holds no truth: the search looks for itself, also when nobody wakes it, and finds
//! what is not told here (network filesystems, a watch limit, a home directory that was mounted anew). What
//! fails is logged once and tried again at the next search.
//!
//! Only directories that the search names are watched, none of them recursively, so that neither a symbolic link
//! nor a deep tree leads anywhere; and the search names no links. A user who puts a link in place of a directory
//! just then has us watch what it leads to until the next search, and what happens there can do no more than
//! wake us.
//!
//! Why the `notify` crate here and not in the watcher: few directories, which have plain paths and are seldom
//! removed, and an answer of "something happened" is enough. Its thread wakes the caller's; everything else runs
//! on the thread that searches.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{CreateKind, ModifyKind, RenameMode};
use notify::{Config, ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tracing::{info, warn};

/// Directories that are watched at most; the others are found by searching.
const MAX_WATCHES: usize = 1024;

type Wake = dyn Fn() + Send + Sync;

/// See the module. Dropping it ends all watches.
pub(crate) struct RootsWatch {
    wake: Arc<Wake>,
    watcher: State,
    places: Arc<Mutex<Places>>,
    /// Named in the search that goes on.
    named: HashSet<PathBuf>,
    /// Why not everything named in this search is watched; nothing more is tried in this one.
    obstacle: Option<String>,
    is_obstacle_told: bool,
}

enum State {
    /// Nothing was watched yet, or inotify could not be started.
    Idle,
    Running(RecommendedWatcher),
    /// There was no thread to be had.
    Impossible,
}

/// What both threads know. `notify`'s thread takes the lock, so it is never held while that is asked something.
#[derive(Default)]
struct Places {
    watched: HashMap<PathBuf, Identity>,
    /// Deleted or renamed; `notify` may still have a watch under the path.
    ended: HashSet<PathBuf>,
    trouble: Option<String>,
}

/// A directory whatever its name: a path can lead to another one tomorrow.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

struct Handler {
    wake: Arc<Wake>,
    places: Arc<Mutex<Places>>,
    _alive: Arc<()>,
}

impl RootsWatch {
    /// Watches nothing yet and takes no resources. `wake` is called on another thread, perhaps very often, and
    /// must not block.
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            wake: Arc::new(wake),
            watcher: State::Idle,
            places: Arc::default(),
            named: HashSet::new(),
            obstacle: None,
            is_obstacle_told: false,
        }
    }

    /// Sees to it that `dir`, if it is a directory, is watched until a search does not name it. Call it before
    /// looking into the directory: what appears afterwards is told.
    pub(crate) fn name(&mut self, dir: &Path) {
        if !self.named.insert(dir.to_owned()) || self.obstacle.is_some() {
            return;
        }
        let Some(identity) = Identity::of(dir) else { return };
        {
            let places = self.places.lock();
            if places.watched.get(dir) == Some(&identity) {
                return;
            }
            if places.watched.len() >= MAX_WATCHES {
                drop(places);
                self.obstacle = Some(format!("more than {MAX_WATCHES} directories"));
                return;
            }
        }
        if let Err(reason) = self.watch(dir, identity) {
            self.places.lock().watched.remove(dir);
            self.obstacle = Some(reason);
        }
    }

    /// Ends the watches of all directories that were not named since the last call.
    pub(crate) fn finish_search(&mut self) {
        let named = std::mem::take(&mut self.named);
        let (ended, trouble) = {
            let mut places = self.places.lock();
            let mut ended = std::mem::take(&mut places.ended);
            ended.extend(places.watched.extract_if(|dir, _| !named.contains(dir)).map(|(dir, _)| dir));
            (ended, places.trouble.take())
        };
        let failed = ended.iter().filter_map(|dir| self.unwatch(dir).err()).last();
        match self.obstacle.take().or(trouble).or(failed) {
            Some(reason) if !self.is_obstacle_told => {
                warn!(reason, "not all new directories below the roots are found at once, only by searching");
                self.is_obstacle_told = true;
            }
            Some(_) => {}
            None if self.is_obstacle_told => {
                info!("new directories below the roots are found at once again");
                self.is_obstacle_told = false;
            }
            None => {}
        }
    }

    fn watch(&mut self, dir: &Path, identity: Identity) -> Result<(), String> {
        // Whatever it watched under this path; it would add the new one to it otherwise.
        self.unwatch(dir)?;
        {
            let mut places = self.places.lock();
            places.ended.remove(dir);
            places.watched.insert(dir.to_owned(), identity);
        }
        let result = self.watcher()?.watch(dir, RecursiveMode::NonRecursive);
        match result {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {
                self.places.lock().watched.remove(dir);
                Ok(())
            }
            Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => {
                Err("no inotify watch is left (raise fs.inotify.max_user_watches)".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn unwatch(&mut self, dir: &Path) -> Result<(), String> {
        let State::Running(watcher) = &mut self.watcher else { return Ok(()) };
        match watcher.unwatch(dir) {
            Err(error) if !matches!(error.kind, ErrorKind::WatchNotFound) => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    fn watcher(&mut self) -> Result<&mut RecommendedWatcher, String> {
        if matches!(self.watcher, State::Idle) {
            self.watcher = self.start()?;
        }
        match &mut self.watcher {
            State::Running(watcher) => Ok(watcher),
            State::Idle | State::Impossible => Err("cannot start a thread".to_owned()),
        }
    }

    fn start(&self) -> Result<State, String> {
        let alive = Arc::new(());
        let thread = Arc::downgrade(&alive);
        let handler = Handler { wake: self.wake.clone(), places: self.places.clone(), _alive: alive };
        let config = Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(move |event| handler.receive(event), config)
            .map_err(|error| format!("cannot start inotify (see fs.inotify.max_user_instances): {error}"))?;
        if thread.strong_count() > 0 {
            return Ok(State::Running(watcher));
        }
        // The thread owns the handler, so there is none, which `notify` does not say: it panics when it is asked
        // something or dropped. This leaves an event descriptor behind, hence only once.
        std::mem::forget(watcher);
        Ok(State::Impossible)
    }
}

impl fmt::Debug for RootsWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RootsWatch")
            .field("is_running", &matches!(self.watcher, State::Running(_)))
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// Returns what is at `path` if that is a directory and no link to one.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_dir)?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Handler {
    fn receive(&self, event: notify::Result<notify::Event>) {
        match event {
            Ok(event) if event.need_rescan() || self.is_news(&event) => (self.wake)(),
            Ok(_) => {}
            Err(error) => self.places.lock().trouble = Some(error.to_string()),
        }
    }

    /// Most events are none: files that are opened, written and closed.
    fn is_news(&self, event: &notify::Event) -> bool {
        match event.kind {
            EventKind::Create(kind) => kind != CreateKind::File,
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => true,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
                // A watched directory that went away may come back as another one.
                let mut places = self.places.lock();
                event.paths.iter().any(|path| places.end(path))
            }
            EventKind::Modify(_) | EventKind::Access(_) | EventKind::Any | EventKind::Other => false,
        }
    }
}

impl Places {
    /// Notes that a path does not lead to a watched directory any more; returns whether it did.
    fn end(&mut self, dir: &Path) -> bool {
        let was_watched = self.watched.remove(dir).is_some();
        if was_watched {
            self.ended.insert(dir.to_owned());
        }
        was_watched
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const SILENCE: Duration = Duration::from_millis(200);

    struct Search {
        home: tempfile::TempDir,
        watch: RootsWatch,
        woken: Receiver<()>,
    }

    impl Search {
        /// Begins with these directories, all of them named.
        fn of(dirs: &[&str]) -> Self {
            let (wake, woken) = channel();
            let watch = RootsWatch::new(move || wake.send(()).unwrap_or_default());
            let mut search = Self { home: tempfile::tempdir().unwrap(), watch, woken };
            for dir in dirs {
                fs::create_dir_all(search.path(dir)).unwrap();
            }
            search.run(dirs);
            search
        }

        fn run(&mut self, dirs: &[&str]) {
            for dir in dirs {
                let dir = self.path(dir);
                self.watch.name(&dir);
            }
            self.watch.finish_search();
        }

        fn path(&self, relative: &str) -> PathBuf {
            self.home.path().join(relative)
        }

        /// Returns whether anything woke the search, and forgets it.
        fn is_woken(&self) -> bool {
            let first = self.woken.recv_timeout(PATIENCE);
            while self.woken.recv_timeout(SILENCE).is_ok() {}
            first.is_ok()
        }

        fn is_left_alone(&self) -> bool {
            self.woken.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout)
        }
    }

    #[test]
    fn directories_that_are_made_or_moved_in_wake_the_search() {
        let search = Search::of(&["workspace", "elsewhere"]);
        fs::create_dir(search.path("workspace/new")).unwrap();
        assert!(search.is_woken());
        fs::create_dir(search.path("made")).unwrap();
        assert!(search.is_left_alone());
        fs::rename(search.path("made"), search.path("workspace/moved")).unwrap();
        assert!(search.is_woken());
    }

    #[test]
    fn files_do_not_wake_the_search() {
        let search = Search::of(&["workspace"]);
        fs::write(search.path("workspace/file"), "x").unwrap();
        fs::read(search.path("workspace/file")).unwrap();
        fs::remove_file(search.path("workspace/file")).unwrap();
        assert!(search.is_left_alone());
    }

    #[test]
    fn directory_that_was_replaced_is_watched_again() {
        let mut search = Search::of(&["workspace"]);
        for round in 0..4 {
            let aside = search.path("aside");
            match round % 2 {
                0 => fs::remove_dir_all(search.path("workspace")).unwrap(),
                _ => fs::rename(search.path("workspace"), &aside).unwrap(),
            }
            fs::create_dir(search.path("workspace")).unwrap();
            assert!(search.is_woken(), "round {round}");
            search.run(&["workspace"]);
            fs::create_dir(search.path("workspace/new")).unwrap();
            assert!(search.is_woken(), "round {round}");
            if aside.exists() {
                fs::create_dir(aside.join("unseen")).unwrap();
                assert!(search.is_left_alone(), "round {round}");
                fs::remove_dir_all(aside).unwrap();
            }
        }
    }

    #[test]
    fn directory_that_is_not_named_any_more_is_left_alone() {
        let mut search = Search::of(&["alice", "bob"]);
        search.run(&["alice"]);
        fs::create_dir(search.path("bob/new")).unwrap();
        assert!(search.is_left_alone());
        fs::create_dir(search.path("alice/new")).unwrap();
        assert!(search.is_woken());
    }

    #[test]
    fn links_files_and_missing_directories_are_not_watched() {
        let mut search = Search::of(&["outside"]);
        std::os::unix::fs::symlink(search.path("outside"), search.path("link")).unwrap();
        fs::write(search.path("file"), "x").unwrap();
        search.run(&["link", "file", "missing"]);
        assert!(search.watch.places.lock().watched.is_empty());
        fs::create_dir(search.path("outside/new")).unwrap();
        assert!(search.is_left_alone());
    }

    #[test]
    fn more_directories_than_the_bound_are_not_watched() {
        let dirs: Vec<_> = (0..MAX_WATCHES + 1).map(|index| index.to_string()).collect();
        let dirs: Vec<_> = dirs.iter().map(String::as_str).collect();
        let mut search = Search::of(&dirs);
        assert_eq!(search.watch.places.lock().watched.len(), MAX_WATCHES);
        assert!(search.watch.is_obstacle_told);
        search.run(&dirs[1..]);
        search.run(&dirs[1..]);
        assert!(!search.watch.is_obstacle_told);
        fs::create_dir(search.path(dirs[MAX_WATCHES]).join("new")).unwrap();
        assert!(search.is_woken());
    }
}
