//! The keeper: one thread, one poll(2) loop, no filesystem logic.
//!
//! It owns what must outlive a worker: each session's `/dev/fuse` descriptor, its state memory file and the
//! detached clone of its backing directory, and the control socket, so that a client that connects while there is no
//! worker waits for the next one. Every worker gets all of it at its start and goes on where the one before it died;
//! requests wait meanwhile. A worker that hangs is killed (`watchdog`), and its successor gets the descriptors only
//! when it is known to be gone. Workers that die one after the other, each soon after its start, end in the keeper
//! giving up: it exits, the connections with it, and the dead mounts answer ENOTCONN instead of hanging.
//!
//! Under a service manager with a descriptor store that one holds everything as well (`fd_store`), and a keeper that was
//! killed is followed by one that goes on where its last worker died.
//!
//! It waits for nothing without a limit: a dead worker of which something is left in the kernel when the keeper ends is
//! freed by ending its connections (`connections`).

mod connections;
mod fd_store;
mod program;
mod sessions;
mod upgrade;
mod worker;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use tracing::{debug, error, info, warn};
use wsguard_api::{ApiError, ErrorCode, Program};

use self::fd_store::LastWorker;
use self::program::ProgramFile;
use self::sessions::Sessions;
use self::upgrade::{Probation, Upgrade};
use self::worker::{RunningWorker, Unreaped};
use super::DaemonError;
use super::directories::mounts_dir;
use super::threads;
use super::watchdog::Watchdog;
use crate::config::Config;
use crate::control::{self, ControlSocket};
use crate::keeper_link::{ChannelError, PROTOCOL_VERSION, Past, ToKeeper, ToWorker};
use crate::mounting::mountinfo::MountTable;
use crate::sys::signals::{Signal, Signals};

/// How long a worker may take to unmount everything. Service managers wait 10 s in the promise we make.
const STOP_TIMEOUT: Duration = Duration::from_millis(9_500);

/// Workers that may die young one after the other before no more is started.
const MOST_DEATHS: usize = 5;

/// A worker that lived longer than this did not die of how it starts.
const YOUNG: Duration = Duration::from_millis(500);

/// The pause before the second start after a death; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// How long what is left of a dead worker may take to end by itself when the keeper ends.
const LEAVE_PATIENCE: Duration = Duration::from_millis(300);

/// How long it may take after its connections were ended.
const ABORT_PATIENCE: Duration = Duration::from_millis(1_500);

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
    control: ControlSocket,
    sessions: Sessions,
    generation: u64,
    /// How workers ended, with the number of those that died young since the last one that lived longer.
    past: Past,
    /// What this process runs.
    own: Program,
    /// What workers run.
    program: ProgramFile,
    upgrade: Option<Upgrade>,
    probation: Option<Probation>,
    /// Dead children that have not been waited for: workers that the kernel was still clearing up after when their
    /// successors were started, and programs that were asked for their versions.
    unreaped: Vec<Unreaped>,
    stop_deadline: Option<Instant>,
}

impl Keeper {
    /// Blocks the signals, before any thread exists, listens on the control socket and takes back what the service
    /// manager has kept.
    pub(super) fn new(config: Config) -> Result<Self, DaemonError> {
        let (sessions, past) = take_back();
        let signals = Signals::block()
            .map_err(|errno| DaemonError::Keeper { action: "block its signals", source: errno.into() })?;
        let program = ProgramFile::own()
            .map_err(|source| DaemonError::Keeper { action: "find its own program", source })?;
        let control = control::bind(&config.runtime_dir).map_err(DaemonError::Control)?;
        Ok(Self {
            config,
            signals,
            control,
            sessions,
            generation: 0,
            past,
            own: program.program.clone(),
            program,
            upgrade: None,
            probation: None,
            unreaped: Vec::new(),
            stop_deadline: None,
        })
    }

    /// Starts workers until one stops on purpose, and leaves nothing that hangs.
    pub(super) fn run(mut self) -> Result<(), DaemonError> {
        info!(pid = std::process::id(), state_dir = %self.config.state_dir.display(),
            runtime_dir = %self.config.runtime_dir.display(), "keeper started");
        self.end_abandoned_connections();
        let result = self.supervise();
        self.leave();
        result
    }

    /// What a keeper before this one left behind is dead, but a thread of its worker may hang in it. Nobody else can
    /// be using mounts in our runtime directory, which is locked.
    fn end_abandoned_connections(&self) {
        let mounts_dir = mounts_dir(&self.config);
        let table = match MountTable::read() {
            Ok(table) => table,
            Err(error) => {
                error!(error = %error, "mount table cannot be read");
                return;
            }
        };
        let ours: Vec<u32> = self.sessions.connections().collect();
        let mut abandoned: Vec<u32> = table
            .below(&mounts_dir)
            .filter(|entry| entry.is_wsguard() && !ours.contains(&entry.device.minor))
            .map(|entry| entry.device.minor)
            .collect();
        abandoned.sort_unstable();
        abandoned.dedup();
        if abandoned.is_empty() {
            return;
        }
        match connections::abort(abandoned) {
            Ok(aborted) => info!(aborted, "connections of an earlier daemon are ended"),
            Err(errno) => {
                warn!(errno = errno.raw_os_error(), "connections of an earlier daemon are not ended");
            }
        }
    }

    fn supervise(&mut self) -> Result<(), DaemonError> {
        loop {
            let mut worker = match self.start_worker() {
                Ok(worker) => worker,
                Err(error) => {
                    if self.end_step_of_upgrade(None, &crate::error_chain::one_line(&error)) {
                        continue;
                    }
                    return Err(error);
                }
            };
            let ended = loop {
                match self.wait(&mut worker) {
                    Ok(None) => {}
                    Ok(Some(reason)) => break Ok(reason),
                    Err(error) => break Err(error),
                }
            };
            let next = match ended {
                Ok(reason) => self.bury(&worker, &reason),
                Err(error) => Next::Exit(Err(error)),
            };
            self.unreaped.push(worker.into_unreaped());
            if let Next::Exit(result) = next {
                return result;
            }
            self.reap();
            if self.pause()? {
                info!("keeper stopped");
                return Ok(());
            }
        }
    }

    /// Sees to it that nobody waits for a worker any more when the keeper is gone.
    fn leave(&mut self) {
        // Or nobody would ever get an error from them.
        self.sessions.iter().for_each(|(session, _)| fd_store::remove(session));
        fd_store::remove_worker();
        let check = self.cancel_check();
        self.unreaped.extend(check.map(Unreaped::unwatched));
        if self.is_reaped_within(LEAVE_PATIENCE) {
            return;
        }
        match connections::abort(self.sessions.connections()) {
            Ok(aborted) => warn!(aborted, "something of a worker hangs; its connections are ended"),
            Err(errno) => error!(errno = errno.raw_os_error(), "connections cannot be ended"),
        }
        if !self.is_reaped_within(ABORT_PATIENCE) {
            for unreaped in &self.unreaped {
                error!(
                    worker = unreaped.child.id(),
                    "something of a worker hangs on; the keeper ends without it"
                );
            }
        }
    }

    fn is_reaped_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            self.reap();
            if self.unreaped.is_empty() || Instant::now() >= deadline {
                return self.unreaped.is_empty();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for children that have ended by now.
    fn reap(&mut self) {
        self.unreaped.retain_mut(|Unreaped { child, .. }| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(_)) => false,
            Err(error) => {
                warn!(worker = child.id(), error = %error, "dead worker cannot be waited for");
                false
            }
        });
    }

    fn start_worker(&mut self) -> Result<RunningWorker, DaemonError> {
        let mut worker = RunningWorker::start(&self.program, &self.config)?;
        self.generation += 1;
        // Before it gets anything that its successor could want to read from.
        fd_store::store_worker(worker.exited.as_fd());
        info!(worker = worker.child.id(), generation = self.generation, "worker started");
        self.greet(&mut worker)?;
        if self.stop_deadline.is_some() {
            // Told while there was nobody to hear it.
            tell(&worker, &ToWorker::Shutdown);
        }
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
            keeper: self.own.clone(),
            program: self.program.program.clone(),
        };
        let mut result = worker.channel.send(&hello, &[self.control.as_fd(), worker.log.as_fd()]);
        for (session, held) in self.sessions.iter() {
            let message =
                ToWorker::Session { session, workspace: held.workspace.clone(), notes: held.notes.clone() };
            result = result.and_then(|()| worker.channel.send(&message, &held.descriptors()));
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
        let [signalled, spoke, exited, checked] = self.poll(worker)?;
        if signalled {
            self.take_signals(worker)?;
        }
        self.go_on_with_upgrade(worker, checked)?;
        if spoke {
            self.listen(worker);
            self.judge(worker)?;
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
            let seconds = STOP_TIMEOUT.as_secs();
            worker.kill(format!("it did not stop within {seconds} s"))?;
            return Err(DaemonError::StopTimedOut { seconds });
        }
        self.judge(worker)?;
        Ok(None)
    }

    /// Sleeps until something happens or has to be done. Returns whether there is a signal, a message, an end and an
    /// answer of a program that was asked for its versions.
    fn poll(&mut self, worker: &mut RunningWorker) -> Result<[bool; 4], DaemonError> {
        let look = worker.watchdog.next_look(Instant::now());
        let threads = worker.next_look_at_threads();
        let step = self.upgrade.as_ref().map(Upgrade::deadline);
        let deadline = self.stop_deadline.into_iter().chain(step).chain(threads).chain([look]).min();
        let check = match &self.upgrade {
            Some(Upgrade::Checking(check)) => Some(check),
            Some(Upgrade::Draining { .. } | Upgrade::Trying { .. }) | None => None,
        };
        let mut fds =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&worker.exited, PollFlags::IN)];
        let spoken = (!worker.is_silent).then(|| {
            fds.push(PollFd::new(&worker.channel, PollFlags::IN));
            fds.len() - 1
        });
        let checked = check.map(|check| {
            fds.push(PollFd::new(check, PollFlags::IN));
            fds.len() - 1
        });
        let companion = worker.companion.as_ref().map(|companion| {
            fds.push(PollFd::new(companion, PollFlags::IN));
            fds.len() - 1
        });
        let dead = fds.len();
        fds.extend(
            self.unreaped.iter().filter_map(Unreaped::exited).map(|fd| PollFd::new(fd, PollFlags::IN)),
        );
        poll(&mut fds, deadline)?;
        let is_ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let has_lost_thread = companion.and_then(|index| fds.get(index)).is_some_and(is_ready);
        let is_cleared_up = fds.iter().skip(dead).any(is_ready);
        let ready = [Some(0), spoken, Some(1), checked]
            .map(|index| index.and_then(|index| fds.get(index)).is_some_and(is_ready));
        drop(fds);
        worker.watchdog.note_time(Instant::now());
        worker.note_threads(has_lost_thread);
        if is_cleared_up {
            self.reap();
        }
        Ok(ready)
    }

    /// A worker on its way out is given its time, and then killed in any case.
    fn judge(&self, worker: &mut RunningWorker) -> Result<(), DaemonError> {
        if self.stop_deadline.is_some() || self.is_draining() { Ok(()) } else { worker.judge() }
    }

    fn take_signals(&mut self, worker: &mut RunningWorker) -> Result<(), DaemonError> {
        while let Some(signal) = self.next_signal()? {
            match signal {
                Signal::Stop => {
                    self.stop_deadline.get_or_insert_with(|| Instant::now() + STOP_TIMEOUT);
                    info!("keeper stops its worker");
                    fd_store::tell_stopping();
                    tell(worker, &ToWorker::Shutdown);
                    if matches!(self.upgrade, Some(Upgrade::Trying { .. })) {
                        // Nobody knows whether it can unmount anything; the old program can.
                        worker.kill("the daemon was told to stop meanwhile".to_owned())?;
                    }
                }
                Signal::Reload => tell(worker, &ToWorker::Reload),
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
            ToKeeper::Open { workspace } => Some(match self.sessions.open(workspace) {
                Ok((session, fds)) => (ToWorker::Opened { session }, fds),
                Err(error) => (ToWorker::Refused { error }, Vec::new()),
            }),
            ToKeeper::Adopt { session, notes, connection } => {
                let is_adopted =
                    fds.pop().is_some_and(|root| self.sessions.adopt(session, notes, connection, root));
                if let Some(held) = self.sessions.get(session) {
                    fd_store::store(session, held);
                }
                let answer = if is_adopted {
                    ToWorker::Done
                } else {
                    refused(format!("cannot adopt the root of session {session}"))
                };
                Some((answer, Vec::new()))
            }
            ToKeeper::Close { session } => {
                fd_store::remove(session);
                self.sessions.close(session);
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
                self.past.note_stall(self.generation, stall_ms);
                self.confirm_upgrade();
                None
            }
            ToKeeper::Ready => {
                info!(sessions = self.sessions.len(), "everything is mounted");
                fd_store::tell_ready();
                None
            }
            ToKeeper::Upgrade { binary, catalog } => {
                self.ask_for_upgrade(binary, catalog).map(|answer| (answer, Vec::new()))
            }
            ToKeeper::Draining => {
                self.past.note_waiting();
                None
            }
            ToKeeper::Drained { unanswered } => {
                info!(unanswered, "worker has made room");
                worker.is_drained = true;
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

    /// Decides what follows the end of a worker.
    fn bury(&mut self, worker: &RunningWorker, reason: &str) -> Next {
        let held = self.sessions.len();
        if worker.is_stopped {
            info!("keeper stopped");
            return Next::Exit(Ok(()));
        }
        let reason = match &worker.fatal {
            Some(fatal) => format!("{reason}: {}", fatal.message),
            None => reason.to_owned(),
        };
        if self.end_step_of_upgrade(Some(worker), &reason) {
            return Next::Continue;
        }
        if self.stop_deadline.is_some() && worker.fatal.is_none() {
            warn!(reason, sessions = held, "worker ended before everything was unmounted");
            info!("keeper stopped");
            return Next::Exit(Ok(()));
        }
        if let Some(fatal) = &worker.fatal {
            // What was taken back from the service manager is not given up so soon.
            if (self.generation == 1 && held == 0) || self.stop_deadline.is_some() {
                return Next::Exit(Err(DaemonError::Worker(fatal.clone())));
            }
            error!(reason = %fatal.message, "worker cannot start");
        }
        error!(worker = worker.child.id(), reason, sessions = held, "worker died");
        self.note_death(Some(worker), &reason);
        // One that hung before it served anything hung because of how it starts.
        let is_young = worker.started.elapsed() < YOUNG || (worker.hung.is_some() && !worker.is_settled);
        self.past.young_deaths = if is_young { self.past.young_deaths + 1 } else { 0 };
        if self.count_on_probation(&reason) {
            self.past.young_deaths = 0;
            return Next::Continue;
        }
        if self.past.young_deaths < MOST_DEATHS {
            return Next::Continue;
        }
        Next::Exit(Err(DaemonError::GaveUp { deaths: self.past.young_deaths, reason }))
    }

    fn note_death(&mut self, worker: Option<&RunningWorker>, reason: &str) {
        let log = worker.map(RunningWorker::last_words).unwrap_or_default();
        self.past.note_death(self.generation, reason, log);
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

/// Takes back what a keeper before this one held. A worker of it that may still read from its connections makes them
/// unusable: they are ended, and the mounts made anew.
fn take_back() -> (Sessions, Past) {
    let left = fd_store::take_back();
    let last_worker = left.end_worker();
    let (sessions, mut past) = (Sessions::again(left.sessions), Past::default());
    if sessions.len() == 0 {
        return (sessions, past);
    }
    if last_worker == LastWorker::Hangs {
        error!("last worker of an earlier keeper does not end; its connections are ended");
        if let Err(errno) = connections::abort(sessions.connections()) {
            error!(errno = errno.raw_os_error(), "connections cannot be ended");
        }
        sessions.iter().for_each(|(session, _)| fd_store::remove(session));
        return (Sessions::default(), past);
    }
    info!(sessions = sessions.len(), "sessions of an earlier keeper are taken back");
    past.note_death(0, "the keeper was killed; the service manager kept its mounts", Vec::new());
    (sessions, past)
}

fn refused(message: String) -> ToWorker {
    ToWorker::Refused { error: ApiError::new(ErrorCode::Internal, message) }
}

/// A worker that does not hear it is dying, which is seen like any other death.
fn tell(worker: &RunningWorker, message: &ToWorker) {
    if let Err(error) = worker.channel.send(message, &[]) {
        warn!(error = %error, "worker cannot be told");
    }
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
