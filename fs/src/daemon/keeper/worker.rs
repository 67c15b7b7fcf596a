//! A worker that runs, as its keeper sees it.

use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tracing::{debug, error, warn};
use wsguard_api::ApiError;

use super::program::{ProgramFile, kill_with_children};
use crate::config::Config;
use crate::daemon::DaemonError;
use crate::daemon::last_words::LastWords;
use crate::daemon::threads::{self, Threads, has_ended};
use crate::daemon::watchdog::{Verdict, Watchdog};
use crate::keeper_link::{Channel, ChannelError};

/// How long a worker may leave its socket full before it is killed as hung.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a worker is looked at of which a thread has ended, and for how long: it was killed, most likely.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
const LOOKS_FOR: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct RunningWorker {
    pub(super) child: Child,
    pub(super) exited: OwnedFd,
    pub(super) channel: Channel,
    pub(super) log: LastWords,
    /// The channel is at its end; only the exit status is still to come.
    pub(super) is_silent: bool,
    pub(super) fatal: Option<ApiError>,
    pub(super) is_stopped: bool,
    /// It has answered what was under way and ends to make room.
    pub(super) is_drained: bool,
    /// It has told that everything is taken over.
    pub(super) is_settled: bool,
    pub(super) watchdog: Watchdog,
    /// Why it was killed by the keeper.
    pub(super) hung: Option<String>,
    /// It was said that the backing hangs.
    is_excused: bool,
    pub(super) started: Instant,
    /// One of its threads; readable when that has ended.
    pub(super) companion: Option<OwnedFd>,
    /// When that was.
    lost_thread: Option<Instant>,
}

/// A dead child that has not been waited for.
#[derive(Debug)]
pub(super) struct Unreaped {
    pub(super) child: Child,
    /// Readable when it can be waited for, if somebody looks at that.
    exited: Option<OwnedFd>,
}

impl Unreaped {
    /// A child whose end nobody waits for.
    pub(super) fn unwatched(child: Child) -> Self {
        Self { child, exited: None }
    }

    pub(super) fn exited(&self) -> Option<&OwnedFd> {
        self.exited.as_ref()
    }
}

impl RunningWorker {
    /// Starts a worker that waits for its greeting.
    pub(super) fn start(program: &ProgramFile, config: &Config) -> Result<Self, DaemonError> {
        let (channel, theirs) = Channel::pair().map_err(|error| channel_error("make a socket", error))?;
        channel
            .limit_sending(SEND_TIMEOUT)
            .map_err(|error| channel_error("limit the time on a socket", error))?;
        let log = LastWords::create()
            .map_err(|errno| DaemonError::Keeper { action: "make a memory file", source: errno.into() })?;
        // In its own process group, so that a Ctrl-C in the terminal reaches the keeper alone, which then stops
        // the worker in order. The command owns the worker's end of the socket and goes with this call: as long as
        // it lives, no end of file is seen.
        let child = program
            .spawn(|command| {
                command.args(["daemon", "--worker", "--state-dir"]).arg(&config.state_dir);
                command.arg("--runtime-dir").arg(&config.runtime_dir);
                if let Some(file) = &config.file {
                    command.arg("--config").arg(file);
                }
                command.stdin(theirs);
            })
            .map_err(|source| DaemonError::Keeper { action: "start a worker", source })?;
        let exited = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .map_err(|errno| DaemonError::Keeper { action: "watch the worker", source: errno.into() })?;
        Ok(Self {
            child,
            exited,
            channel,
            log,
            is_silent: false,
            fatal: None,
            is_stopped: false,
            is_drained: false,
            is_settled: false,
            watchdog: Watchdog::new(config.watchdog, Instant::now()),
            hung: None,
            is_excused: false,
            started: Instant::now(),
            companion: None,
            lost_thread: None,
        })
    }

    /// Takes what is left of it.
    pub(super) fn into_unreaped(self) -> Unreaped {
        Unreaped { child: self.child, exited: Some(self.exited) }
    }

    /// Chooses a thread whose end tells of the worker's end before the kernel has closed all its descriptors.
    pub(super) fn choose_companion(&mut self) {
        if self.companion.is_none() && self.lost_thread.is_none() {
            self.companion = threads::companion(self.child.id()).unwrap_or_else(|error| {
                debug!(error = %error, "threads of the worker cannot be looked at");
                None
            });
        }
    }

    /// When to look whether it is dead, after a thread of it has ended.
    pub(super) fn next_look_at_threads(&self) -> Option<Instant> {
        self.lost_thread.map(|_| Instant::now() + LOOK_INTERVAL)
    }

    /// Notes whether the companion has ended.
    pub(super) fn note_threads(&mut self, has_lost_one: bool) {
        if has_lost_one {
            self.companion = None;
            self.lost_thread = Some(Instant::now());
        }
        if self.lost_thread.is_some_and(|at| at.elapsed() > LOOKS_FOR) {
            self.lost_thread = None;
        }
    }

    /// Kills it if it hangs. Its end is then seen like any other.
    pub(super) fn judge(&mut self) -> Result<(), DaemonError> {
        if self.hung.is_some() {
            return Ok(());
        }
        let pid = self.child.id();
        let waits_below = || match Threads::of(pid) {
            Ok(threads) => threads.waits_below,
            Err(error) => {
                // If it is gone, the loop finds out by itself; nobody is killed on a guess.
                warn!(worker = pid, error = %error, "threads of the worker cannot be looked at");
                true
            }
        };
        match self.watchdog.look(Instant::now(), waits_below) {
            Verdict::Alive => self.is_excused = false,
            Verdict::BackingHangs(reason) if !self.is_excused => {
                warn!(
                    worker = pid,
                    reason, "worker is not killed: it waits for the files below, the backing hangs"
                );
                self.is_excused = true;
            }
            Verdict::BackingHangs(_) => {}
            Verdict::Hung(reason) => self.kill(reason)?,
        }
        Ok(())
    }

    /// Whether it is dead but for threads that only its successor can free; see [`Threads`].
    pub(super) fn is_left_behind(&self) -> bool {
        let pid = self.child.id();
        match has_ended(pid).and_then(|has_ended| Ok(has_ended && Threads::of(pid)?.is_left_behind)) {
            Ok(is_left_behind) => is_left_behind,
            Err(error) => {
                warn!(worker = pid, error = %error, "threads of the worker cannot be looked at");
                false
            }
        }
    }

    /// Kills it for this reason; one that was killed before keeps the first.
    pub(super) fn kill(&mut self, reason: String) -> Result<(), DaemonError> {
        error!(worker = self.child.id(), reason, "worker is killed");
        kill_with_children(&self.child)
            .map_err(|source| DaemonError::Keeper { action: "kill the worker", source })?;
        self.hung.get_or_insert(reason);
        Ok(())
    }

    /// Returns the last lines that it logged.
    pub(super) fn last_words(&self) -> Vec<String> {
        self.log.lines().unwrap_or_else(|errno| {
            warn!(errno = errno.raw_os_error(), "last lines of the worker cannot be read");
            Vec::new()
        })
    }
}

pub(super) fn channel_error(action: &'static str, error: ChannelError) -> DaemonError {
    DaemonError::Keeper { action, source: std::io::Error::other(error) }
}
