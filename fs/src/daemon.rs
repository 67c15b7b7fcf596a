//! The daemon's two processes: a keeper that holds every mount's descriptors, and a worker that serves them.
//!
//! [`run`] is the keeper. It contains no filesystem logic, so there is little in it that can fail: it opens
//! `/dev/fuse` on request, keeps the descriptors, starts the worker and starts another one when it dies.
//! [`run_worker`] is the worker, started by the keeper with the same program.

mod directories;
mod keeper;
mod last_words;
mod log;
mod threads;
mod versions;
mod watchdog;
mod worker;

use std::path::PathBuf;

use wsguard_api::{ApiError, ErrorCode};

pub use crate::config::DaemonOptions;

use crate::config::{Config, ConfigError};

/// Why the daemon did not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Only root can mount.
    #[error("the daemon needs root")]
    NotRoot,
    /// The settings are not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Something below the state or runtime directory cannot be prepared.
    #[error("cannot {action} {path}", path = path.display())]
    Directory {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Somebody else could put things there.
    #[error("{path} is not a directory of root's (owner uid {owner})", path = path.display())]
    ForeignDirectory {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Another daemon uses the directory.
    #[error("another wsguard daemon (pid {holder}) holds {path}", path = path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The pid in it.
        holder: String,
    },
    /// The keeper cannot do its part.
    #[error("the keeper cannot {action}")]
    Keeper {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The control socket cannot be there.
    #[error("{0}")]
    Control(ApiError),
    /// The worker cannot start or run.
    #[error("{0}")]
    Worker(ApiError),
    /// The worker cannot do its part.
    #[error("the worker cannot {action}")]
    WorkerCannot {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Workers die again and again.
    #[error("{deaths} workers died one after the other, each soon after its start, the last one: {reason}")]
    GaveUp {
        /// How many.
        deaths: usize,
        /// How the last one ended.
        reason: String,
    },
    /// The worker did not end when it was told to.
    #[error("the worker did not unmount everything within {seconds} s and was killed")]
    StopTimedOut {
        /// How long it had.
        seconds: u64,
    },
    /// `--worker` was given by hand.
    #[error("a worker is started by the keeper only")]
    NotStartedByKeeper,
}

impl DaemonError {
    /// Returns the code to branch on.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotRoot => ErrorCode::Permission,
            Self::Config(_) | Self::NotStartedByKeeper => ErrorCode::InvalidRequest,
            Self::Locked { .. } => ErrorCode::Conflict,
            Self::Directory { .. } | Self::ForeignDirectory { .. } | Self::GaveUp { .. } => {
                ErrorCode::Unavailable
            }
            Self::Keeper { .. } | Self::WorkerCannot { .. } => ErrorCode::Internal,
            Self::Control(error) | Self::Worker(error) => error.code,
            Self::StopTimedOut { .. } => ErrorCode::TimedOut,
        }
    }

    /// Returns what to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRoot => Some("run it with sudo or as a system service".to_owned()),
            Self::Config(_) => {
                Some("correct the file; `wsguard daemon --help` lists where settings come from".to_owned())
            }
            Self::Directory { .. } => {
                Some("choose another place with --state-dir or --runtime-dir".to_owned())
            }
            Self::ForeignDirectory { .. } => Some("chown it to root or choose another place".to_owned()),
            Self::Locked { .. } => Some(
                "use that daemon, stop it, or run this one with its own --state-dir and --runtime-dir"
                    .to_owned(),
            ),
            Self::Keeper { .. } | Self::WorkerCannot { .. } => None,
            Self::Control(error) | Self::Worker(error) => error.hint.clone(),
            Self::GaveUp { .. } => Some(
                "mounts stay in place and answer ENOTCONN; see the log above, then start the daemon again"
                    .to_owned(),
            ),
            Self::StopTimedOut { .. } => {
                Some("see `wsguard status` and the log for what was in use".to_owned())
            }
            Self::NotStartedByKeeper => Some("run `wsguard daemon`".to_owned()),
        }
    }
}

/// Runs the keeper until it is told to stop by SIGTERM, SIGINT or the control API.
///
/// # Errors
/// [`DaemonError::code`] and [`DaemonError::hint`] say what to do.
pub fn run(options: DaemonOptions) -> Result<(), DaemonError> {
    let config = Config::load(&options)?;
    log::init(&config);
    let locks = directories::prepare(&config)?;
    let result = keeper::Keeper::new(config)?.run();
    drop(locks);
    result
}

/// How a worker ended that did not fail on its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEnd {
    /// Everything is unmounted or reported.
    Stopped,
    /// It could not start. The keeper knows why and says it; the worker only exits with the code.
    KeeperTold(ErrorCode),
}

/// Runs a worker for the keeper at the other end of the standard input.
///
/// # Errors
/// As [`run`], except for what the keeper was told.
pub fn run_worker(options: DaemonOptions) -> Result<WorkerEnd, DaemonError> {
    worker::run(&options)
}

/// Returns what this build can work with, as one line of JSON. A daemon asks for it before it lets a program take the
/// place of its worker's.
pub fn versions() -> String {
    versions::Versions::own().to_text()
}
