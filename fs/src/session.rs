//! One guarded workspace at work: a FUSE connection, its threads and its watcher.
//!
//! A session is handed descriptors and owns no mount: it neither mounts nor unmounts. It ends by itself when the
//! kernel gives the superblock up (the last mount of it is gone), and only then can it be joined.
//!
//! No thread is pinned, the device is not cloned (requests under way on a clone die with the worker), and there
//! are never more threads than CPUs granted: the cost of a request is the wake-up.

mod books;
mod past;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use rustix::io::Errno;
use wsguard_api::{Coherence, DataPath};

pub use crate::accounting::Accounting;
use crate::backing::Backing;
use crate::fs::GuardFs;
pub(crate) use crate::fs::Seat;
pub use crate::fs::{OwnershipPolicy, Recounted};
pub(crate) use crate::fs::{Page, Pages, Refused, RequestLine};
use crate::fuse::connection;
use crate::kernel_quota::Subvolume;
use crate::quota::{Account, HostSpace};
use crate::snapshot::{Archive, History};
use crate::state::Found;
use crate::sys::device::FuseDevice;
use crate::tracker::Tracker;
use crate::watcher::StartedBy;

pub use books::LastRecount;
use past::PastOf;

/// How a session serves.
pub struct SessionOptions {
    /// The workspace's name, for thread names and logs.
    pub name: String,
    /// Who new files belong to.
    pub ownership: OwnershipPolicy,
    /// Threads that answer requests, at least one.
    pub threads: usize,
    /// Directories that are watched for foreign edits at most.
    pub watch_limit: usize,
    /// Who pays for the files; `None` where nothing is counted.
    pub(crate) seat: Option<Seat>,
    /// Where changes are noted.
    pub(crate) tracker: Arc<Tracker>,
    /// What the virtual directory holds.
    pub(crate) pages: Pages,
    /// The directory in which what is deleted and overwritten is kept, or why there is none; `None` if it is not to be
    /// kept.
    pub(crate) history: Option<Result<StoreDirectory, String>>,
}

/// The directory of a workspace's preserve store.
pub(crate) struct StoreDirectory {
    /// Where it was found.
    pub(crate) path: PathBuf,
    /// The directory itself.
    pub(crate) fd: OwnedFd,
}

/// Why a session could not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The backing directory cannot be used.
    #[error("cannot use the backing directory of {name}")]
    Backing {
        /// The workspace.
        name: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The state memory cannot be used.
    #[error("cannot set up the inode table of {name}")]
    Table {
        /// The workspace.
        name: String,
        /// Why.
        #[source]
        source: Errno,
    },
    /// The connection to the kernel failed.
    #[error("FUSE connection of {name} failed")]
    Connection {
        /// The workspace.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A thread of the session panicked.
    #[error("a thread of {name} panicked")]
    Panicked {
        /// The workspace.
        name: String,
    },
}

/// Numbers for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStats {
    /// Inodes that the kernel knows.
    pub inodes_known: u64,
    /// Open files and directories.
    pub open_handles: u64,
    /// Requests that were sent again to a worker that took over, since the mount was made.
    pub resent_requests: u64,
}

/// See the module.
pub struct Session {
    name: String,
    fs: Arc<GuardFs>,
    books: OnceLock<books::Books>,
    thread: JoinHandle<std::io::Result<()>>,
    watch_limit: usize,
    started_by: StartedBy,
    past: PastOf,
}

impl Session {
    /// Serves a mount from now on: answers its pending INIT, or, if `state` holds the tables of a worker before
    /// this one, takes over from that worker, including the requests that it had not answered.
    ///
    /// Foreign edits are not looked for until [`Self::watch`].
    ///
    /// `device` is a descriptor of a `/dev/fuse` that is already mounted, `state` the memfd of the inode table,
    /// `root` the detached clone of the backing directory.
    ///
    /// # Errors
    /// See [`SessionError`]; the mount is untouched then and answers nothing.
    pub fn start(
        device: OwnedFd,
        state: OwnedFd,
        root: OwnedFd,
        options: SessionOptions,
    ) -> Result<Self, SessionError> {
        let name = options.name.clone();
        let backing_error = |source| SessionError::Backing { name: name.clone(), source };
        let table_error = |source| SessionError::Table { name: name.clone(), source };
        let connection_error = |source| SessionError::Connection { name: name.clone(), source };

        let backing = Backing::new(root).map_err(backing_error)?;
        let (memory, found) = crate::state::open(state.as_fd()).map_err(table_error)?;
        let own_device = Arc::new(FuseDevice::new(device.try_clone().map_err(connection_error)?));
        let SessionOptions { ownership, seat, tracker, pages, history, .. } = options;
        let past = PastOf::begin(history, &backing);
        if let Err(reason) = &past.kept {
            tracing::error!(workspace = name, reason, "nothing that is deleted or overwritten is kept");
        }
        let history = past.history();
        let (fs, session, started_by) = match found {
            Found::Fresh => {
                let fs = GuardFs::new(backing, memory, own_device, ownership, seat, tracker, pages, history)
                    .map_err(table_error)?;
                let fs = Arc::new(fs);
                fs.set_archive_source(past.source());
                fs.settle_before_epochs();
                (fs.clone(), connection::connect(fs, device, options.threads), StartedBy::Mount)
            }
            Found::Tables { capabilities } => {
                tracker.note_interrupted("the worker died before it could store everything");
                let device = own_device.clone();
                let fs = GuardFs::attach(backing, memory, device, ownership, seat, tracker, pages, history);
                let fs = Arc::new(fs);
                fs.set_archive_source(past.source());
                fs.settle_before_epochs();
                let session = connection::reconnect(fs.clone(), &own_device, capabilities, options.threads);
                (fs, session, StartedBy::Takeover)
            }
        };
        let session = session.map_err(connection_error)?;
        fs.start_tracking();
        let thread = std::thread::Builder::new()
            .name(format!("fuse {name}"))
            .spawn(move || session.run())
            .map_err(connection_error)?;
        Ok(Self {
            name,
            fs,
            books: OnceLock::new(),
            thread,
            watch_limit: options.watch_limit,
            started_by,
            past,
        })
    }

    /// Begins what goes on beside the requests: watching the backing tree for edits that bypass the mount (until then
    /// little is cached for long) and keeping the books.
    ///
    /// Apart from [`Self::start`], because the walks through the tree take the CPUs that the sessions of other
    /// workspaces need to be taken over. Calling it again changes nothing.
    pub fn watch(&self) {
        self.fs.start_watching(self.watch_limit, self.started_by);
        if self.fs.account().is_none() {
            return;
        }
        let must_count = self.started_by == StartedBy::Mount;
        self.books.get_or_init(|| books::Books::start(self.fs.clone(), must_count));
    }

    /// Returns the numbers for `status`.
    pub fn stats(&self) -> SessionStats {
        SessionStats {
            inodes_known: self.fs.inodes_known(),
            open_handles: self.fs.open_handles(),
            resent_requests: self.fs.resent_requests(),
        }
    }

    /// Returns how data flows.
    pub fn data_path(&self) -> DataPath {
        if self.fs.is_passthrough() {
            DataPath::Passthrough
        } else {
            DataPath::Cached {
                reason: "the kernel does not offer FUSE passthrough (Linux 6.9 or newer has it)".into(),
            }
        }
    }

    /// Returns how foreign edits are found.
    pub fn coherence(&self) -> Coherence {
        self.fs.coherence()
    }

    /// Counts the project now; takes seconds for a million files.
    ///
    /// # Errors
    /// Why it cannot be counted, as a sentence.
    pub fn recount(&self) -> Result<Recounted, String> {
        let books = self.books.get().ok_or("nothing is counted in this workspace")?;
        books.recount()
    }

    /// Has the project counted soon, if anything is counted in it.
    pub(crate) fn ask_recount(&self) {
        if let Some(books) = self.books.get() {
            books.ask();
        }
    }

    /// Returns what the last recount found.
    pub fn last_recount(&self) -> Option<LastRecount> {
        self.books.get().and_then(books::Books::last)
    }

    /// Returns the recounts since the last call that found a difference which nothing explains.
    pub fn take_surprises(&self) -> Vec<LastRecount> {
        self.books.get().map(books::Books::take_surprises).unwrap_or_default()
    }

    /// Returns the processes that were refused for the first time since the last call, each with the path, and how many
    /// more there were.
    pub(crate) fn take_refused(&self) -> (Vec<(Refused, Option<PathBuf>)>, u64) {
        let (refused, more) = self.fs.take_refused();
        let with_path = |refused: Refused| {
            let path = self.fs.refused_path(&refused);
            (refused, path)
        };
        (refused.into_iter().map(with_path).collect(), more)
    }

    /// Returns the account that pays, if anything is counted.
    pub(crate) fn account(&self) -> Option<&Arc<Account>> {
        self.fs.account()
    }

    /// Leaves the limit of bytes to the filesystem below, or takes it back; concerns later opens only.
    pub(crate) fn set_kernel_quota(&self, subvolume: Option<Subvolume>) {
        self.fs.set_kernel_quota(subvolume);
    }

    /// Returns the subvolume whose limit the filesystem below enforces.
    pub(crate) fn kernel_quota(&self) -> Option<Arc<Subvolume>> {
        self.fs.kernel_quota()
    }

    /// Tells the ledger what the filesystem below counts, where the limit is left to it.
    pub(crate) fn measure_kernel_use(&self) {
        self.fs.measure_kernel_use();
    }

    /// Returns how many open files are written past the worker.
    pub(crate) fn unseen_writers(&self) -> usize {
        self.fs.unseen_writers()
    }

    /// Returns how full the filesystem below is.
    pub(crate) fn host_space(&self) -> Result<HostSpace, Errno> {
        self.fs.host_space()
    }

    /// Books what is still open and returns bytes and inodes in use, if they are known exactly.
    pub(crate) fn final_usage(&self) -> Option<(u64, u64)> {
        self.fs.settle_all();
        let account = self.fs.account()?;
        (!account.is_estimated()).then(|| (account.used_bytes(), account.used_inodes()))
    }

    /// Returns how bytes are counted.
    pub fn accounting(&self) -> Accounting {
        self.fs.accounting()
    }

    /// Returns the past of the workspace.
    ///
    /// # Errors
    /// Why it cannot be asked about, as a sentence.
    pub(crate) fn archive(&self) -> Result<Arc<Archive>, String> {
        self.past.archive()
    }

    /// Returns the past of the workspace if it was opened; waits for nothing.
    pub(crate) fn opened_archive(&self) -> Option<Arc<Archive>> {
        self.past.opened()
    }

    /// Returns what is kept of the past.
    ///
    /// # Errors
    /// Why nothing is, as a sentence.
    pub(crate) fn history(&self) -> Result<Arc<History>, String> {
        self.past.kept.as_ref().map(|(_, history)| history.clone()).map_err(Clone::clone)
    }

    /// Returns the filesystem, for what is done to it from inside.
    pub(crate) fn filesystem(&self) -> &Arc<GuardFs> {
        &self.fs
    }

    /// Whether the superblock is gone and nothing is served any more.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Flushes the backing filesystem.
    ///
    /// # Errors
    /// As syncfs(2).
    pub fn sync(&self) -> std::io::Result<()> {
        Ok(self.fs.sync_backing()?)
    }

    /// Waits until the superblock is gone, then stops the threads beside it.
    ///
    /// # Errors
    /// The connection broke, or a thread panicked.
    pub fn join(self) -> Result<(), SessionError> {
        let name = self.name;
        let result = self.thread.join();
        if let Some(books) = self.books.get() {
            books.stop();
        }
        self.fs.stop();
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(SessionError::Connection { name, source }),
            Err(_) => Err(SessionError::Panicked { name }),
        }
    }
}
