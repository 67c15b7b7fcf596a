//! The keeper: one thread, one poll(2) loop, no filesystem logic.
//!
//! It owns what must outlive a worker: each session's `/dev/fuse` descriptor, its state memory file and the
//! detached clone of its backing directory. Every worker gets all of them at its start and goes on where the one
//! before it died; requests wait meanwhile. A worker that hangs is killed (`watchdog`), and its successor gets the
//! descriptors only when it is known to be gone. Workers that die one after the other, each soon after its start, end
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
use super::threads::{self, Threads, has_ended};
use super::watchdog::{Verdict, Watchdog};
use crate::config::Config;
use crate::keeper_link::{Channel, ChannelError, PROTOCOL_VERSION, Past, SessionId, ToKeeper, ToWorker};
use crate::sys::signals::{Signal, Signals};

/// How long a worker may take to unmount everything. Service managers wait 10 s in the promise we make.
const STOP_TIMEOUT: Duration = Duration::from_millis(9_500);

/// Workers that may die young one after the other before no more is started.
const MOST_DEATHS: usize = 5;

/// A worker that lived longer than this did not die of how it starts.
const YOUNG: Duration = Duration::from_millis(500);

/// The pause before the second start after a death; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How often a worker is looked at of which a thread has ended, and for how long: it was killed, most likely.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
const LOOKS_FOR: Duration = Duration::from_secs(2);

/// How long a worker may leave its socket full before it is killed as hung.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// It has told that everything is taken over.
    is_settled: bool,
    watchdog: Watchdog,
    /// Why it was killed by the keeper.
    hung: Option<String>,
    /// It was said that the backing hangs.
    is_excused: bool,
    started: Instant,
    /// One of its threads; readable when that has ended.
    companion: Option<OwnedFd>,
    /// When that was.
    lost_thread: Option<Instant>,
}

impl RunningWorker {
    /// Chooses a thread whose end tells of the worker's end before the kernel has closed all its descriptors.
    fn choose_companion(&mut self) {
        if self.companion.is_none() && self.lost_thread.is_none() {
            self.companion = threads::companion(self.child.id()).unwrap_or_else(|error| {
                debug!(error = %error, "threads of the worker cannot be looked at");
                None
            });
        }
    }

    /// When to look whether it is dead, after a thread of it has ended.
    fn next_look_at_threads(&self) -> Option<Instant> {
        self.lost_thread.map(|_| Instant::now() + LOOK_INTERVAL)
    }

    fn note_threads(&mut self, has_lost_one: bool) {
        if has_lost_one {
            self.companion = None;
            self.lost_thread = Some(Instant::now());
        }
        if self.lost_thread.is_some_and(|at| at.elapsed() > LOOKS_FOR) {
            self.lost_thread = None;
        }
    }

    /// Kills it if it hangs. Its end is then seen like any other.
    fn judge(&mut self) -> Result<(), DaemonError> {
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
            Verdict::Hung(reason) => {
                error!(worker = pid, reason, "worker is killed");
                self.kill(reason)?;
            }
        }
        Ok(())
    }

    /// Whether it is dead but for threads that only its successor can free; see [`Threads`].
    fn is_left_behind(&self) -> bool {
        let pid = self.child.id();
        match has_ended(pid).and_then(|has_ended| Ok(has_ended && Threads::of(pid)?.is_left_behind)) {
            Ok(is_left_behind) => is_left_behind,
            Err(error) => {
                warn!(worker = pid, error = %error, "threads of the worker cannot be looked at");
                false
            }
        }
    }

    fn kill(&mut self, reason: String) -> Result<(), DaemonError> {
        self.child.kill().map_err(|source| DaemonError::Keeper { action: "kill the worker", source })?;
        self.hung = Some(reason);
        Ok(())
    }
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
    /// How workers ended, with the number of those that died young since the last one that lived longer.
    past: Past,
    /// Dead workers that the kernel was still clearing up after when their successors were started, each with the
    /// descriptor that becomes readable when it is done.
    unreaped: Vec<(Child, OwnedFd)>,
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
            past: Past::default(),
            unreaped: Vec::new(),
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
            self.unreaped.push((worker.child, worker.exited));
            self.reap();
            if self.pause()? {
                info!("keeper stopped");
                return Ok(());
            }
        }
    }

    /// Waits for workers whose last threads have ended by now; for all others that is done already.
    fn reap(&mut self) {
        self.unreaped.retain_mut(|(child, _)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(_)) => false,
            Err(error) => {
                warn!(worker = child.id(), error = %error, "dead worker cannot be waited for");
                false
            }
        });
    }

    fn start_worker(&mut self) -> Result<RunningWorker, DaemonError> {
        let (channel, theirs) = Channel::pair().map_err(|error| keeper_error("make a socket", error))?;
        channel
            .limit_sending(SEND_TIMEOUT)
            .map_err(|error| keeper_error("limit the time on a socket", error))?;
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
        let mut worker = RunningWorker {
            child,
            exited,
            channel,
            is_silent: false,
            fatal: None,
            is_stopped: false,
            is_settled: false,
            watchdog: Watchdog::new(self.config.watchdog, Instant::now()),
            hung: None,
            is_excused: false,
            started: Instant::now(),
            companion: None,
            lost_thread: None,
        };
        self.greet(&mut worker)?;
        Ok(worker)
    }

    /// Hands everything that is held to the worker. A worker that is already dead is found by the loop.
    fn greet(&self, worker: &mut RunningWorker) -> Result<(), DaemonError> {
        let hello = ToWorker::Hello {
            version: PROTOCOL_VERSION,
            generation: self.generation,
            keeper_pid: std::process::id(),
            sessions: self.sessions.len(),
            past: self.past.clone(),
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
        worker.watchdog = Watchdog::new(self.config.watchdog, Instant::now());
        match result {
            Ok(()) => Ok(()),
            Err(ChannelError::Closed) => {
                warn!("worker ended before it took its descriptors");
                Ok(())
            }
            // It would wait for the rest for ever.
            Err(error) => worker.kill(format!("hung: it does not take its descriptors: {error}")),
        }
    }

    /// Waits for one event and acts on it. Returns why the worker ended, once it has.
    fn wait(&mut self, worker: &mut RunningWorker) -> Result<Option<String>, DaemonError> {
        let (signalled, spoke, exited, lost_a_thread, is_cleared_up) = {
            let companion = worker.companion.as_ref().unwrap_or(&worker.exited);
            let mut fds = vec![
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(&worker.exited, PollFlags::IN),
                PollFd::new(companion, PollFlags::IN),
            ];
            fds.extend(self.unreaped.iter().map(|(_, exited)| PollFd::new(exited, PollFlags::IN)));
            let cleared_up = 3..fds.len();
            let speaks = fds.len();
            if !worker.is_silent {
                fds.push(PollFd::new(&worker.channel, PollFlags::IN));
            }
            let looks = worker.next_look_at_threads().into_iter();
            let looks = looks.chain([worker.watchdog.next_look(Instant::now())]);
            poll(&mut fds, self.stop_deadline.into_iter().chain(looks).min())?;
            worker.watchdog.note_time(Instant::now());
            let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            (ready(0), ready(speaks), ready(1), ready(2), cleared_up.into_iter().any(ready))
        };
        if is_cleared_up {
            self.reap();
        }
        worker.note_threads(lost_a_thread);
        if signalled {
            self.take_signals(worker)?;
        }
        if spoke {
            self.listen(worker);
            if self.stop_deadline.is_none() {
                worker.judge()?;
            }
            // What it said last is read before its exit is looked at.
            return Ok(None);
        }
        if exited {
            let status = worker
                .child
                .wait()
                .map_err(|source| DaemonError::Keeper { action: "wait for the worker", source })?;
            return Ok(Some(worker.hung.clone().unwrap_or_else(|| status.to_string())));
        }
        if worker.is_left_behind() {
            debug!(worker = worker.child.id(), "worker is dead, the kernel clears up after it");
            let reason = match threads::exit_status(worker.child.id()) {
                Ok(Some(status)) => status.to_string(),
                Ok(None) | Err(_) => "it ended".to_owned(),
            };
            return Ok(Some(worker.hung.clone().unwrap_or(reason)));
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
        if self.stop_deadline.is_none() {
            worker.judge()?;
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
            ToKeeper::Heartbeat { stuck_seconds } => {
                debug!(stuck_seconds, "worker is alive");
                worker.watchdog.beat(Instant::now(), Duration::from_secs(stuck_seconds));
                worker.choose_companion();
                self.reap();
                None
            }
            ToKeeper::TakenOver { stall_ms } => {
                worker.is_settled = true;
                worker.choose_companion();
                self.past.note_stall(stall_ms);
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
        let reason = match &worker.fatal {
            Some(fatal) => format!("{reason}: {}", fatal.message),
            None => reason.to_owned(),
        };
        self.past.note_death(self.generation, &reason);
        // One that hung before it served anything hung because of how it starts.
        let is_young = worker.started.elapsed() < YOUNG || (worker.hung.is_some() && !worker.is_settled);
        self.past.young_deaths = if is_young { self.past.young_deaths + 1 } else { 0 };
        if self.past.young_deaths < MOST_DEATHS {
            return Next::Continue;
        }
        Next::Exit(Err(DaemonError::GaveUp { deaths: self.past.young_deaths, reason }))
    }

    /// Waits before the next start; none after the first death. Returns whether it was told to stop meanwhile.
    fn pause(&self) -> Result<bool, DaemonError> {
        let Some(doublings) = self.past.young_deaths.checked_sub(2) else { return Ok(false) };
        let pause = FIRST_PAUSE * (1 << doublings.min(6));
        let deadline = Instant::now() + pause;
        warn!(
            deaths = self.past.young_deaths,
            most = MOST_DEATHS,
            pause_ms = pause.as_millis(),
            "workers die right after their start; the next one waits"
        );
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
