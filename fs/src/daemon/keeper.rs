//! The keeper: one thread, one poll(2) loop, no filesystem logic.
//!
//! It owns what must outlive a worker: each session's `/dev/fuse` descriptor, its state memory file and the
//! detached clone of its backing directory. Every worker gets all of them at its start and goes on where the one
//! before it died; requests wait meanwhile. Workers that die one after the other, each soon after its start, end
//! in the keeper giving up: it exits, the connections with it, and the dead mounts answer ENOTCONN instead of
//! hanging.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tracing::{debug, error, info, warn};
use wsguard_api::{ApiError, ErrorCode};

use super::DaemonError;
use crate::config::Config;
use crate::keeper_link::{Channel, ChannelError, PROTOCOL_VERSION, SessionId, ToKeeper, ToWorker};
use crate::sys::signals::{Signal, Signals};

/// How long a worker may take to unmount everything. Service managers wait 10 s in the promise we make.
const STOP_TIMEOUT: Duration = Duration::from_millis(9_500);

/// Workers that may die young one after the other before no more is started.
const MOST_DEATHS: usize = 5;

/// A worker that lived longer than this did not die of how it starts.
const YOUNG: Duration = Duration::from_millis(500);

/// The pause before the second start after a death; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// What one session needs to outlive its worker.
#[derive(Debug)]
struct HeldSession {
    workspace: String,
    device: OwnedFd,
    state: OwnedFd,
    root: Option<OwnedFd>,
    notes: String,
}

/// A worker that runs.
#[derive(Debug)]
struct RunningWorker {
    child: Child,
    exited: OwnedFd,
    channel: Channel,
    /// The channel is at its end; only the exit status is still to come.
    is_silent: bool,
    fatal: Option<ApiError>,
    is_stopped: bool,
    started: Instant,
}

/// What the loop does after an event.
enum Next {
    Continue,
    Exit(Result<(), DaemonError>),
}

/// The keeper's state.
#[derive(Debug)]
pub(super) struct Keeper {
    config: Config,
    signals: Signals,
    sessions: BTreeMap<SessionId, HeldSession>,
    last_session: u64,
    generation: u64,
    /// Deaths of young workers since the last one that lived longer.
    young_deaths: usize,
    stop_deadline: Option<Instant>,
}

impl Keeper {
    /// Blocks the signals, before any thread exists.
    pub(super) fn new(config: Config) -> Result<Self, DaemonError> {
        let signals = Signals::block()
            .map_err(|errno| DaemonError::Keeper { action: "block its signals", source: errno.into() })?;
        Ok(Self {
            config,
            signals,
            sessions: BTreeMap::new(),
            last_session: 0,
            generation: 0,
            young_deaths: 0,
            stop_deadline: None,
        })
    }

    /// Starts workers until one stops on purpose.
    pub(super) fn run(mut self) -> Result<(), DaemonError> {
        info!(pid = std::process::id(), state_dir = %self.config.state_dir.display(),
            runtime_dir = %self.config.runtime_dir.display(), "keeper started");
        loop {
            let mut worker = self.start_worker()?;
            let reason = loop {
                match self.wait(&mut worker)? {
                    Some(reason) => break reason,
                    None => continue,
                }
            };
            if let Next::Exit(result) = self.bury(&worker, &reason) {
                return result;
            }
            if self.pause()? {
                info!("keeper stopped");
                return Ok(());
            }
        }
    }

    fn start_worker(&mut self) -> Result<RunningWorker, DaemonError> {
        let (channel, theirs) = Channel::pair().map_err(|error| keeper_error("make a socket", error))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0("wsguard").args(["daemon", "--worker", "--state-dir"]).arg(&self.config.state_dir);
        command.arg("--runtime-dir").arg(&self.config.runtime_dir);
        if let Some(file) = &self.config.file {
            command.arg("--config").arg(file);
        }
        // In its own process group, so that a Ctrl-C in the terminal reaches the keeper alone, which then stops
        // the worker in order.
        command.stdin(Stdio::from(theirs)).process_group(0);
        let child =
            command.spawn().map_err(|source| DaemonError::Keeper { action: "start a worker", source })?;
        // The command owns the worker's end of the socket; as long as it lives, no end of file is seen.
        drop(command);
        let pid = Pid::from_child(&child);
        let exited = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|errno| DaemonError::Keeper { action: "watch the worker", source: errno.into() })?;
        self.generation += 1;
        info!(worker = child.id(), generation = self.generation, "worker started");
        let worker = RunningWorker {
            child,
            exited,
            channel,
            is_silent: false,
            fatal: None,
            is_stopped: false,
            started: Instant::now(),
        };
        self.greet(&worker);
        Ok(worker)
    }

    /// Hands everything that is held to the worker. A worker that is already dead is found by the loop.
    fn greet(&self, worker: &RunningWorker) {
        let hello = ToWorker::Hello {
            version: PROTOCOL_VERSION,
            generation: self.generation,
            keeper_pid: std::process::id(),
            sessions: self.sessions.len(),
        };
        let mut result = worker.channel.send(&hello, &[]);
        for (session, held) in &self.sessions {
            let message = ToWorker::Session {
                session: *session,
                workspace: held.workspace.clone(),
                notes: held.notes.clone(),
            };
            let mut fds = vec![held.device.as_fd(), held.state.as_fd()];
            fds.extend(held.root.as_ref().map(AsFd::as_fd));
            result = result.and_then(|()| worker.channel.send(&message, &fds));
        }
        if let Err(error) = result {
            warn!(error = %error, "worker does not take its descriptors");
        }
    }

    /// Waits for one event and acts on it. Returns why the worker ended, once it has.
    fn wait(&mut self, worker: &mut RunningWorker) -> Result<Option<String>, DaemonError> {
        let (signalled, spoke, exited) = {
            let mut fds =
                vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&worker.exited, PollFlags::IN)];
            if !worker.is_silent {
                fds.push(PollFd::new(&worker.channel, PollFlags::IN));
            }
            poll(&mut fds, self.stop_deadline)?;
            let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            (ready(0), ready(2), ready(1))
        };
        if signalled {
            self.take_signals(worker)?;
        }
        if spoke {
            self.listen(worker);
            // What it said last is read before its exit is looked at.
            return Ok(None);
        }
        if exited {
            let status = worker
                .child
                .wait()
                .map_err(|source| DaemonError::Keeper { action: "wait for the worker", source })?;
            return Ok(Some(status.to_string()));
        }
        if self.stop_deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            worker
                .child
                .kill()
                .map_err(|source| DaemonError::Keeper { action: "kill the worker", source })?;
            worker
                .child
                .wait()
                .map_err(|source| DaemonError::Keeper { action: "reap the worker", source })?;
            error!(seconds = STOP_TIMEOUT.as_secs(), "worker did not stop and was killed");
            return Err(DaemonError::StopTimedOut { seconds: STOP_TIMEOUT.as_secs() });
        }
        Ok(None)
    }

    fn take_signals(&mut self, worker: &RunningWorker) -> Result<(), DaemonError> {
        while let Some(signal) = self.next_signal()? {
            let message = match signal {
                Signal::Stop => {
                    self.stop_deadline.get_or_insert_with(|| Instant::now() + STOP_TIMEOUT);
                    info!("keeper stops its worker");
                    ToWorker::Shutdown
                }
                Signal::Reload => ToWorker::Reload,
            };
            if let Err(error) = worker.channel.send(&message, &[]) {
                warn!(error = %error, "worker cannot be told");
            }
        }
        Ok(())
    }

    fn next_signal(&self) -> Result<Option<Signal>, DaemonError> {
        self.signals
            .next()
            .map_err(|errno| DaemonError::Keeper { action: "read its signals", source: errno.into() })
    }

    /// Reads one message and answers it.
    fn listen(&mut self, worker: &mut RunningWorker) {
        let answer = match worker.channel.receive::<ToKeeper>() {
            Ok((message, fds)) => self.answer(worker, message, fds),
            Err(ChannelError::Closed) => {
                worker.is_silent = true;
                None
            }
            Err(error) => {
                error!(error = %error, "worker cannot be understood");
                worker.is_silent = true;
                None
            }
        };
        let Some((message, fds)) = answer else { return };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if let Err(error) = worker.channel.send(&message, &borrowed) {
            warn!(error = %error, "worker does not take an answer");
        }
    }

    fn answer(
        &mut self,
        worker: &mut RunningWorker,
        message: ToKeeper,
        mut fds: Vec<OwnedFd>,
    ) -> Option<(ToWorker, Vec<OwnedFd>)> {
        match message {
            ToKeeper::Open { workspace } => Some(match self.open(workspace) {
                Ok((session, fds)) => (ToWorker::Opened { session }, fds),
                Err(error) => (ToWorker::Refused { error }, Vec::new()),
            }),
            ToKeeper::Adopt { session, notes } => Some(match (self.sessions.get_mut(&session), fds.pop()) {
                (Some(held), Some(root)) => {
                    held.root = Some(root);
                    held.notes = notes;
                    (ToWorker::Done, Vec::new())
                }
                _ => (refused(format!("cannot adopt the root of session {session}")), Vec::new()),
            }),
            ToKeeper::Close { session } => {
                // Closing what is not there is what the worker wanted.
                self.sessions.remove(&session);
                Some((ToWorker::Done, Vec::new()))
            }
            ToKeeper::Heartbeat => {
                debug!("worker is alive");
                None
            }
            ToKeeper::Fatal { error } => {
                worker.fatal = Some(error);
                None
            }
            ToKeeper::Stopped => {
                worker.is_stopped = true;
                None
            }
        }
    }

    /// Opens a connection and its state, keeps both and returns copies.
    fn open(&mut self, workspace: String) -> Result<(SessionId, Vec<OwnedFd>), ApiError> {
        let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(
            |errno| {
                ApiError::new(ErrorCode::Unavailable, format!("cannot open /dev/fuse: {errno}"))
                    .with_hint("load the module with `modprobe fuse`; in a container add --device /dev/fuse")
            },
        )?;
        let unavailable = |what: &str, errno: rustix::io::Errno| {
            ApiError::new(ErrorCode::Unavailable, format!("cannot {what} for {workspace}: {errno}"))
        };
        let state = rustix::fs::memfd_create(format!("wsguard-{workspace}"), MemfdFlags::CLOEXEC)
            .map_err(|errno| unavailable("make a memory file", errno))?;
        let copy = |fd: &OwnedFd| {
            rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|errno| unavailable("copy a descriptor", errno))
        };
        let copies = vec![copy(&device)?, copy(&state)?];
        self.last_session += 1;
        let session = SessionId(self.last_session);
        self.sessions
            .insert(session, HeldSession { workspace, device, state, root: None, notes: String::new() });
        Ok((session, copies))
    }

    /// Decides what follows the end of a worker.
    fn bury(&mut self, worker: &RunningWorker, reason: &str) -> Next {
        let held = self.sessions.len();
        if worker.is_stopped || (self.stop_deadline.is_some() && worker.fatal.is_none()) {
            if !worker.is_stopped {
                warn!(reason, sessions = held, "worker ended before everything was unmounted");
            }
            info!("keeper stopped");
            return Next::Exit(Ok(()));
        }
        if let Some(fatal) = &worker.fatal {
            if self.generation == 1 || self.stop_deadline.is_some() {
                return Next::Exit(Err(DaemonError::Worker(fatal.clone())));
            }
            error!(reason = %fatal.message, "worker cannot start");
        }
        error!(worker = worker.child.id(), reason, sessions = held, "worker died");
        self.young_deaths = if worker.started.elapsed() < YOUNG { self.young_deaths + 1 } else { 0 };
        if self.young_deaths < MOST_DEATHS {
            return Next::Continue;
        }
        let reason = worker.fatal.as_ref().map_or(reason, |fatal| &fatal.message).to_owned();
        Next::Exit(Err(DaemonError::GaveUp { deaths: self.young_deaths, reason }))
    }

    /// Waits before the next start; none after the first death. Returns whether it was told to stop meanwhile.
    fn pause(&self) -> Result<bool, DaemonError> {
        let Some(doublings) = self.young_deaths.checked_sub(2) else { return Ok(false) };
        let deadline = Instant::now() + FIRST_PAUSE * (1 << doublings.min(6));
        while Instant::now() < deadline {
            poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], Some(deadline))?;
            if self.next_signal()? == Some(Signal::Stop) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn refused(message: String) -> ToWorker {
    ToWorker::Refused { error: ApiError::new(ErrorCode::Internal, message) }
}

fn keeper_error(action: &'static str, error: ChannelError) -> DaemonError {
    DaemonError::Keeper { action, source: std::io::Error::other(error) }
}

/// Polls until something is ready, the deadline has passed or a signal handler ran.
fn poll(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> Result<(), DaemonError> {
    let timeout = deadline.map(|deadline| {
        // One millisecond more, so that the deadline has really passed when poll times out.
        let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        }
    });
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(DaemonError::Keeper { action: "wait for events", source: errno.into() }),
    }
}
