//! The worker: composition root and main loop.
//!
//! Start: signals, settings, log, limits, hello from the keeper, catalog, driver (guards what is registered),
//! control server. Stop is the reverse: the driver unmounts, the socket goes, the keeper is told. To make room for
//! another worker, the driver and the control server end, then requests: from there on callers wait. The main thread
//! only listens to the keeper and to signals and tells the keeper once a second that it is alive, and whether the
//! filesystem threads get anywhere.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::process::{Resource, Rlimit, Signal as ProcessSignal};
use tracing::{debug, error, info, warn};
use wsguard_api::{ApiError, ErrorCode, EventKind, Program};

use super::directories::mounts_dir;
use super::{DaemonError, DaemonOptions, WorkerEnd, last_words, log};
use crate::catalog::{Catalog, CatalogError};
use crate::config::Config;
use crate::control::{self, ControlServer, Greeted, Parts, Successor, WorkerFacts};
use crate::delivery::Delivery;
use crate::error_chain::one_line;
use crate::events::EventLog;
use crate::journal::progress::{self, Progress};
use crate::keeper_link::{
    Channel, ChannelError, History, InheritedSession, KeeperLink, Order, PROTOCOL_VERSION, Past, SessionId,
    ToKeeper, ToWorker,
};
use crate::sys::signals::{Signal, Signals};
use crate::tracker::{Bounds, HistoryOptions, Recorder};
use crate::usage::UsageService;
use crate::workspaces::{Driver, Job, Jobs, Registry, past_notices};

/// Where the histories are, below the state directory.
const HISTORY_DIR: &str = "history";

/// How often the keeper is told that this worker lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long remounting may keep the socket closed: usually a client that gets an answer finds everything
/// mounted, but one hanging filesystem must not make the daemon unreachable.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the driver may take to finish what it is doing before another worker comes.
const DRIVER_PATIENCE: Duration = Duration::from_secs(10);

/// How long requests under way may take then. All others wait for this long.
const REQUESTS_PATIENCE: Duration = Duration::from_secs(5);

/// What the keeper said first.
struct Greeting {
    generation: u64,
    keeper_pid: u32,
    keeper: Program,
    program: Program,
    past: Past,
    control: OwnedFd,
    inherited: Vec<InheritedSession>,
    unfinished: Vec<SessionId>,
}

/// Runs a worker; see [`super::run_worker`].
pub(super) fn run(options: &DaemonOptions) -> Result<WorkerEnd, DaemonError> {
    let signals = Signals::block().map_err(|errno| failed("block signals", errno.into()))?;
    let channel = keeper_channel()?;
    // It was started by a descriptor, whose number is its name until now.
    if let Err(errno) = rustix::thread::set_name(c"wsguard") {
        debug!(errno = errno.raw_os_error(), "process keeps its name");
    }
    let (config, greeting) = match prepare(options, &channel) {
        Ok(prepared) => prepared,
        Err(error) => {
            let told = ApiError { code: error.code(), message: one_line(&error), hint: error.hint() };
            let sent = channel.send(&ToKeeper::Fatal { error: told }, &[]);
            return refused(error, sent);
        }
    };
    let link = Arc::new(KeeperLink::new(channel));
    match Worker::start(config, greeting, Arc::clone(&link)) {
        Ok(worker) => worker.run(&signals).map(|()| WorkerEnd::Stopped),
        Err(error) => {
            let sent = link.tell(&ToKeeper::Fatal { error: error.clone() });
            refused(DaemonError::Worker(error), sent)
        }
    }
}

/// Leaves the message to the keeper if it got there: both write to the same place.
fn refused(error: DaemonError, sent: Result<(), ChannelError>) -> Result<WorkerEnd, DaemonError> {
    match sent {
        Ok(()) => Ok(WorkerEnd::KeeperTold(error.code())),
        Err(untold) => {
            error!(error = %untold, "keeper cannot be told why the worker does not start");
            Err(error)
        }
    }
}

/// The keeper passes its socket as standard input.
fn keeper_channel() -> Result<Channel, DaemonError> {
    let input = std::io::stdin();
    if rustix::net::sockopt::socket_type(&input) != Ok(rustix::net::SocketType::SEQPACKET) {
        return Err(DaemonError::NotStartedByKeeper);
    }
    let fd = input.as_fd().try_clone_to_owned().map_err(|error| failed("copy the keeper's socket", error))?;
    Ok(Channel::from_fd(fd))
}

fn prepare(options: &DaemonOptions, channel: &Channel) -> Result<(Config, Greeting), DaemonError> {
    let config = Config::load(options)?;
    log::init(&config);
    let greeting = receive_greeting(channel)?;
    die_with(greeting.keeper_pid)?;
    raise_fd_limit();
    Ok((config, greeting))
}

fn receive_greeting(channel: &Channel) -> Result<Greeting, DaemonError> {
    let receive = || {
        channel.receive::<ToWorker>().map_err(|error| failed("hear the keeper", std::io::Error::other(error)))
    };
    let (ToWorker::Hello { version, generation, keeper_pid, sessions, past, keeper, program }, fds) =
        receive()?
    else {
        return Err(failed("hear the keeper", std::io::Error::other("it does not say hello")));
    };
    if version != PROTOCOL_VERSION {
        let error = ApiError::new(
            ErrorCode::Unavailable,
            format!("the keeper speaks version {version}, this worker {PROTOCOL_VERSION}"),
        );
        return Err(DaemonError::Worker(error.with_hint("stop the daemon and start it again")));
    }
    let Ok([control, words]) = <[OwnedFd; 2]>::try_from(fds) else {
        return Err(failed("hear the keeper", std::io::Error::other("the control socket is missing")));
    };
    last_words::keep_in(words);
    let mut inherited = Vec::with_capacity(sessions);
    let mut unfinished = Vec::new();
    for _ in 0..sessions {
        let (ToWorker::Session { session, workspace, notes }, fds) = receive()? else {
            return Err(failed("hear the keeper", std::io::Error::other("a session is missing")));
        };
        match <[OwnedFd; 3]>::try_from(fds) {
            Ok([device, state, root]) => {
                inherited.push(InheritedSession { session, workspace, notes, device, state, root });
            }
            // It was being set up when its worker died, and nothing is mounted from it.
            Err(_) => unfinished.push(session),
        }
    }
    Ok(Greeting { generation, keeper_pid, keeper, program, past, control, inherited, unfinished })
}

/// A worker without its keeper would serve mounts that nobody can hand on.
fn die_with(keeper_pid: u32) -> Result<(), DaemonError> {
    rustix::process::set_parent_process_death_signal(Some(ProcessSignal::KILL))
        .map_err(|errno| failed("be bound to the keeper", errno.into()))?;
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if parent == Some(keeper_pid) {
        return Ok(());
    }
    // It died before the signal was set.
    Err(failed("be bound to the keeper", std::io::Error::other("it is gone")))
}

fn raise_fd_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(errno) = rustix::process::setrlimit(Resource::Nofile, raised) {
        warn!(errno = errno.raw_os_error(), "limit of open files stays as it is");
    }
}

/// Everything that runs.
struct Worker {
    config: Config,
    link: Arc<KeeperLink>,
    jobs: Jobs,
    driver: JoinHandle<()>,
    driver_ended: OwnedFd,
    control: ControlServer,
    recorder: Arc<Recorder>,
    usage: Arc<UsageService>,
    events: Arc<EventLog>,
    delivery: Arc<Delivery>,
}

impl Worker {
    fn start(config: Config, greeting: Greeting, link: Arc<KeeperLink>) -> Result<Self, ApiError> {
        let mounts_dir = mounts_dir(&config);
        let registry = Arc::new(Registry::new(mounts_dir.clone()));
        let catalog = open_catalog(&config, &registry)?;
        let driver_ended = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| internal("make an event", errno.into()))?;
        let recorder = start_recorder(&config)?;
        let usage = UsageService::start(&config.state_dir)
            .map_err(|error| internal("start to count usage", error))?;
        let usage = Arc::new(usage);
        let events = Arc::new(EventLog::open(&config.state_dir));
        tell_start(&events, &greeting);
        let past = past_notices(&events);
        let delivery = Arc::new(Delivery::start(&config.delivery, &config.runtime_dir, past));
        let (jobs, queue) = Jobs::queue();
        let own_pids = vec![greeting.keeper_pid, std::process::id()];
        let driver = Driver::new(
            config.clone(),
            mounts_dir,
            catalog,
            Arc::clone(&link),
            Arc::clone(&recorder),
            Arc::clone(&usage),
            Arc::clone(&events),
            Arc::clone(&delivery),
            Arc::clone(&registry),
            jobs.clone(),
            own_pids,
        );
        let (restored, is_restored) = channel();
        let ended = driver_ended.try_clone().map_err(|error| internal("copy a descriptor", error))?;
        let Greeting { generation, keeper_pid, keeper, program, past, control, inherited, unfinished } =
            greeting;
        let history = Arc::new(History::new(past));
        let (told, past, told_events) = (Arc::clone(&link), Arc::clone(&history), Arc::clone(&events));
        let driver = std::thread::Builder::new()
            .name("driver".to_owned())
            .spawn(move || {
                let sessions = inherited.len();
                let taken_over =
                    || tell_taken_over(&told, &past, &told_events, generation, sessions, &unfinished);
                let is_restored = || {
                    tell_ready(&told);
                    // Nobody waits any more if it took too long.
                    restored.send(()).ok();
                };
                drive(driver, inherited, taken_over, is_restored, &queue, &ended);
            })
            .map_err(|error| internal("start the driver", error))?;
        let greeted = Greeted { keeper_pid, generation, keeper, program, history };
        let facts = WorkerFacts::new(&config, Arc::clone(&link), greeted);
        let socket = (control, control::socket_path(&config.runtime_dir));
        let parts = Parts {
            registry,
            jobs: jobs.clone(),
            recorder: Arc::clone(&recorder),
            usage: Arc::clone(&usage),
            events: Arc::clone(&events),
            delivery: Arc::clone(&delivery),
        };
        let control = ControlServer::start(socket, is_restored, READY_TIMEOUT, facts, parts)
            .map_err(|error| internal("start the control server", error))?;
        info!(generation, "worker runs");
        Ok(Self { config, link, jobs, driver, driver_ended, control, recorder, usage, events, delivery })
    }

    /// Listens until the driver has unmounted everything.
    fn run(self, signals: &Signals) -> Result<(), DaemonError> {
        let mut progress = Progress::default();
        let mut last_beat = Instant::now();
        let mut drained_by = None;
        loop {
            let mut fds = [
                PollFd::new(signals, PollFlags::IN),
                PollFd::new(&self.link, PollFlags::IN),
                PollFd::new(&self.driver_ended, PollFlags::IN),
            ];
            let wait = HEARTBEAT.saturating_sub(last_beat.elapsed());
            let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
            match rustix::event::poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed("wait for events", errno.into())),
            }
            let [signalled, spoken, ended] = fds.map(|fd| !fd.revents().is_empty());
            match drained_by {
                Some(deadline) if ended || Instant::now() >= deadline => return self.make_room(ended),
                None if ended => return self.end(),
                Some(_) | None => {}
            }
            if signalled {
                self.take_signals(signals)?;
            }
            if spoken && self.listen()? == Some(Order::Drain) {
                drained_by.get_or_insert(Instant::now() + DRIVER_PATIENCE);
            }
            if last_beat.elapsed() >= HEARTBEAT {
                // Looks are a heartbeat apart, so their number is seconds.
                let stuck_seconds = progress.look() * HEARTBEAT.as_secs();
                self.link
                    .tell(&ToKeeper::Heartbeat { stuck_seconds })
                    .map_err(|error| failed("tell the keeper", std::io::Error::other(error)))?;
                last_beat = Instant::now();
            }
        }
    }

    fn take_signals(&self, signals: &Signals) -> Result<(), DaemonError> {
        while let Some(signal) = signals.next().map_err(|errno| failed("read signals", errno.into()))? {
            match signal {
                Signal::Stop => self.stop(),
                Signal::Reload => self.reload(),
            }
        }
        Ok(())
    }

    fn listen(&self) -> Result<Option<Order>, DaemonError> {
        let order =
            self.link.receive().map_err(|error| failed("hear the keeper", std::io::Error::other(error)))?;
        match order {
            Some(Order::Shutdown) => self.stop(),
            Some(Order::Reload) => self.reload(),
            Some(Order::Drain) => {
                info!("worker makes room for another program");
                self.end_driver(Job::Drain);
            }
            None => {}
        }
        Ok(order)
    }

    fn stop(&self) {
        self.end_driver(Job::Shutdown(None));
    }

    fn end_driver(&self, job: Job) {
        if let Err(error) = self.jobs.submit(job) {
            // The driver has ended, which is what was wanted.
            debug!(error = %error.message, "driver has stopped before");
        }
    }

    /// Only the roots change at once; the rest needs a restart, and a broken file changes nothing.
    fn reload(&self) {
        let options = DaemonOptions {
            state_dir: Some(self.config.state_dir.clone()),
            runtime_dir: Some(self.config.runtime_dir.clone()),
            config: self.config.file.clone(),
        };
        match Config::load(&options) {
            Ok(config) => {
                if let Err(error) = self.jobs.submit(Job::Configure(Box::new(config))) {
                    debug!(error = %error.message, "driver has stopped before");
                }
            }
            Err(error) => error!(error = %one_line(&error), "config stays as it was"),
        }
    }

    fn end(self) -> Result<(), DaemonError> {
        let has_panicked = self.driver.join().is_err();
        self.control.stop(Successor::None);
        // Last, when nothing can change any more.
        self.recorder.stop();
        self.usage.stop();
        self.delivery.stop();
        if has_panicked {
            return Err(failed("drive", std::io::Error::other("the driver panicked")));
        }
        self.link
            .tell(&ToKeeper::Stopped)
            .map_err(|error| failed("tell the keeper", std::io::Error::other(error)))?;
        self.events.tell(EventKind::DaemonStopped, None, "the daemon stops");
        info!("worker stopped");
        Ok(())
    }

    /// Ends in a way that leaves nothing half done to the next worker, if it can be had in time. Whatever cannot is
    /// left to it as if this one had died.
    fn make_room(self, has_driver_ended: bool) -> Result<(), DaemonError> {
        let tell = |message| {
            self.link.tell(&message).map_err(|error| failed("tell the keeper", std::io::Error::other(error)))
        };
        if !has_driver_ended {
            warn!(
                seconds = DRIVER_PATIENCE.as_secs(),
                "driver is still at work; another worker goes on with it"
            );
        } else if self.driver.join().is_err() {
            error!("driver panicked");
        }
        self.control.stop(Successor::Worker);
        // Callers do not wait yet.
        self.delivery.stop();
        tell(ToKeeper::Draining)?;
        progress::close();
        let deadline = Instant::now() + REQUESTS_PATIENCE;
        let mut unanswered = progress::under_way();
        while unanswered > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
            unanswered = progress::under_way();
        }
        tell(ToKeeper::Drained { unanswered })?;
        info!(unanswered, "worker has made room");
        Ok(())
    }
}

/// The driver's thread. The event wakes the main thread, also if the driver panics.
fn drive(
    mut driver: Driver,
    inherited: Vec<InheritedSession>,
    taken_over: impl FnOnce(),
    restored: impl FnOnce(),
    queue: &std::sync::mpsc::Receiver<Job>,
    ended: &OwnedFd,
) {
    struct Wake<'a>(&'a OwnedFd);
    impl Drop for Wake<'_> {
        fn drop(&mut self) {
            if let Err(errno) = rustix::io::write(self.0, &1_u64.to_ne_bytes()) {
                error!(errno = errno.raw_os_error(), "main thread cannot be woken");
            }
        }
    }
    let _wake = Wake(ended);
    driver.restore(inherited, taken_over);
    restored();
    driver.run(queue);
}

/// Tells the keeper that everything which is to be mounted is.
fn tell_ready(link: &KeeperLink) {
    if let Err(error) = link.tell(&ToKeeper::Ready) {
        error!(error = %error, "keeper cannot be told that everything is mounted");
    }
}

/// Tells everybody that the mounts of the worker before this one are answered again.
fn tell_taken_over(
    link: &KeeperLink,
    history: &History,
    events: &EventLog,
    generation: u64,
    sessions: usize,
    unfinished: &[SessionId],
) {
    let stall_ms = history.note_taken_over(generation, sessions);
    if let Err(error) = link.tell(&ToKeeper::TakenOver { stall_ms }) {
        error!(error = %error, "keeper cannot be told that everything is taken over");
    }
    if sessions > 0 {
        info!(sessions, stall_ms, "every session is taken over");
        let stall = stall_ms.map_or_else(String::new, |stall| format!(" after {stall} ms"));
        let message = format!("mounts that are answered again{stall}: {sessions}");
        events.tell(EventKind::WorkerTookOver, None, &message);
    }
    close_unfinished(link, unfinished);
}

/// Lets go of sessions that nothing was mounted from yet.
fn close_unfinished(link: &KeeperLink, unfinished: &[SessionId]) {
    for session in unfinished {
        warn!(session = %session, "unfinished session of an earlier worker is closed");
        if let Err(error) = link.close(*session) {
            error!(session = %session, error = %error, "keeper does not close a session");
        }
    }
}

fn open_catalog(config: &Config, registry: &Registry) -> Result<Catalog, ApiError> {
    let opened = Catalog::open(&config.state_dir).map_err(|error| {
        let api = ApiError::new(ErrorCode::Unavailable, one_line(&error));
        match error {
            // Says itself what to do.
            CatalogError::Newer { .. } => api,
            CatalogError::Corrupt { .. } | CatalogError::MoveAside { .. } | CatalogError::Database { .. } => {
                api.with_hint("see that --state-dir is on a disk that is writable and not full")
            }
        }
    })?;
    if let Some((aside, reason)) = opened.moved_aside {
        error!(path = %aside.display(), reason, "catalog was damaged and moved aside");
        registry.warn(format!(
            "the registry was damaged ({reason}) and begins empty; the old file is {}",
            aside.display()
        ));
    }
    Ok(opened.catalog)
}

/// Tells why this worker starts.
fn tell_start(events: &EventLog, greeting: &Greeting) {
    match greeting.past.events.last().filter(|_| greeting.generation > 1) {
        Some(death) => {
            let message = format!("worker {} ended: {}", death.generation, death.reason);
            events.tell(EventKind::WorkerDied, None, &message);
        }
        None => {
            let message = format!("the daemon starts, version {}", env!("CARGO_PKG_VERSION"));
            events.tell(EventKind::DaemonStarted, None, &message);
        }
    }
}

fn start_recorder(config: &Config) -> Result<Arc<Recorder>, ApiError> {
    let directory = config.state_dir.join(HISTORY_DIR);
    let bounds = Bounds { max_bytes: config.history_bytes, max_age: config.history_age };
    let shown = directory.display().to_string();
    Recorder::start(HistoryOptions { directory, bounds, is_on: config.keeps_history }).map(Arc::new).map_err(
        |error| {
            ApiError::new(ErrorCode::Unavailable, format!("cannot keep histories in {shown}: {error}"))
                .with_hint("see that --state-dir is on a disk that is writable and not full")
        },
    )
}

fn failed(action: &'static str, source: std::io::Error) -> DaemonError {
    DaemonError::WorkerCannot { action, source }
}

fn internal(action: &str, error: std::io::Error) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("cannot {action}: {error}"))
}
