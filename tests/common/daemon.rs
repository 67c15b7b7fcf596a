use std::{
    ffi::OsStr,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use wsguard_api::{DaemonStatus, Workspace, WorkspaceList};

use crate::{
    Output, Run, Scratch, children, is_alive, kill,
    process::{Process, wait_for_exit},
    require::note,
    service_manager, unmount_below, wait_until,
    watchdog::Watchdog,
    wsguard_binary,
};

/// How long a daemon may take until it answers.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// What the daemon promises for a stop, and a little more.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a test may take with one daemon before the watchdog ends it.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(180);

/// A `wsguard daemon` with directories of its own.
///
/// On drop, also while a test panics: SIGTERM, SIGKILL to what is still there, every mount below its directory
/// detached, the directory removed.
pub struct Daemon {
    // Declared in the order in which they must go: nobody may bite while we clean up, and the directory is
    // removed after everything in it has been unmounted.
    watchdog: Watchdog,
    options: DaemonBuilder,
    keeper: Option<Child>,
    workers: Vec<Process>,
    scratch: Scratch,
}

/// Options of a [`Daemon`].
pub struct DaemonBuilder {
    program: Option<PathBuf>,
    config: String,
    env: Vec<(String, String)>,
    nofile: Option<u64>,
    deadline: Duration,
}

/// How a daemon stopped.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// Exit code of the keeper; 128 + signal if a signal ended it.
    pub code: i32,
    /// Time from the signal to the end of the keeper.
    pub elapsed: Duration,
}

impl DaemonBuilder {
    /// Starts this program instead of the `wsguard` of the build.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = Some(path.into());
        self
    }

    /// Sets the text of the config file; the default is an empty one.
    #[must_use]
    pub fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = toml.into();
        self
    }

    /// Sets an environment variable of the daemon.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Limits the daemon's file descriptors, soft and hard.
    #[must_use]
    pub fn nofile(mut self, limit: u64) -> Self {
        self.nofile = Some(limit);
        self
    }

    /// Gives the test this long before the watchdog kills the daemon; the default is three minutes.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(self) -> Daemon {
        let mut daemon = self.prepare();
        daemon.start_again();
        daemon
    }

    /// Makes the directories and the config file, and starts nothing.
    pub fn prepare(self) -> Daemon {
        let scratch = Scratch::new();
        fs::write(scratch.path().join("config.toml"), &self.config).expect("a config file can be written");
        let watchdog = Watchdog::start(self.deadline, scratch.path().to_path_buf());
        Daemon { watchdog, options: self, keeper: None, workers: Vec::new(), scratch }
    }
}

impl Daemon {
    /// Returns the options of a daemon to be started.
    pub fn builder() -> DaemonBuilder {
        DaemonBuilder {
            program: None,
            config: String::new(),
            env: Vec::new(),
            nofile: None,
            deadline: DEFAULT_DEADLINE,
        }
    }

    /// Starts a daemon with default options and waits until it answers.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Returns its directory: config, state, sockets, log, and whatever the test wants to put there.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Makes a directory below [`Daemon::dir`] and returns its path; it goes away with the daemon.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        self.scratch.dir(name)
    }

    /// Returns its state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("s")
    }

    /// Returns its runtime directory.
    pub fn runtime_dir(&self) -> PathBuf {
        self.dir().join("r")
    }

    /// Returns the path of its control socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join(wsguard_api::SOCKET_NAME)
    }

    /// Returns the path of its config file.
    pub fn config_file(&self) -> PathBuf {
        self.dir().join("config.toml")
    }

    /// Returns what the daemon has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Prepares a client command of this daemon; add its arguments to the result.
    pub fn command(&self) -> Run {
        Run::new(wsguard_binary())
            .env("WSGUARD_STATE_DIR", self.state_dir())
            .env("WSGUARD_RUNTIME_DIR", self.runtime_dir())
            .env("WSGUARD_CONFIG", self.config_file())
            // Some commands start a daemon.
            .env("WSGUARD_STORE_DIR", self.dir().join("p"))
            .env("NO_COLOR", "1")
            .env_remove("WSGUARD_SOCKET")
    }

    /// Runs a client command and returns what it left.
    pub fn cli<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        self.command().args(arguments).output()
    }

    /// Returns what `wsguard status --json` says.
    #[track_caller]
    pub fn status(&self) -> DaemonStatus {
        let text = self.cli(["status", "--json"]).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("status --json: {error}\n{text}"))
    }

    /// Returns what `wsguard ls --json` says, with the unguarded directories.
    #[track_caller]
    pub fn list(&self) -> WorkspaceList {
        let text = self.cli(["ls", "--unguarded", "--json"]).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("ls --json: {error}\n{text}"))
    }

    /// Guards `dir` in place with default options.
    #[track_caller]
    pub fn mount(&self, dir: &Path) -> Workspace {
        self.mount_with(dir, &[])
    }

    /// Guards `dir` with more arguments of `wsguard mount`.
    #[track_caller]
    pub fn mount_with(&self, dir: &Path, arguments: &[&str]) -> Workspace {
        let text = self.command().arg("mount").arg(dir).args(arguments).arg("--json").output().ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("mount --json: {error}\n{text}"))
    }

    /// Returns the registered workspace of that id.
    #[track_caller]
    pub fn workspace(&self, id: &str) -> Workspace {
        let found = self.status().workspaces.into_iter().find(|workspace| workspace.id == id);
        found.unwrap_or_else(|| panic!("no workspace {id} is registered"))
    }

    /// Returns the pid of the keeper.
    #[track_caller]
    pub fn keeper_pid(&self) -> u32 {
        self.keeper.as_ref().expect("the daemon runs").id()
    }

    /// Returns the pid of the worker, as the daemon says it.
    #[track_caller]
    pub fn worker_pid(&self) -> u32 {
        self.status().worker_pid
    }

    /// Starts it as a service manager does it that has kept these descriptors, by name.
    #[track_caller]
    pub fn start_again_with(&mut self, kept: &[(String, OwnedFd)]) {
        self.spawn_with(kept);
        self.wait_until_it_answers();
    }

    /// Starts it after [`Daemon::terminate`] or [`Daemon::kill_all`], with the same directories.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.spawn_with(&[]);
        self.wait_until_it_answers();
    }

    #[track_caller]
    fn wait_until_it_answers(&mut self) {
        let keeper = self.keeper_pid();
        wait_until("the daemon to answer `wsguard status`", READY_TIMEOUT, || {
            if !is_alive(keeper) {
                panic!("the daemon ended while it started; its log:\n{}", self.log());
            }
            self.socket().exists() && self.cli(["status", "--json"]).code == 0
        });
        self.workers = children(keeper).into_iter().filter_map(Process::open).collect();
    }

    /// Sends SIGTERM and waits for the end; panics with the log if it takes longer than 15 s.
    #[track_caller]
    pub fn terminate(&mut self) -> Stopped {
        let mut keeper = self.keeper.take().expect("the daemon runs");
        let started = Instant::now();
        kill(keeper.id(), Signal::TERM);
        if !wait_for_exit(keeper.id(), STOP_TIMEOUT) {
            let pid = keeper.id();
            self.keeper = Some(keeper);
            panic!(
                "the keeper (pid {pid}) has not ended {STOP_TIMEOUT:?} after SIGTERM; log:\n{}",
                self.log()
            );
        }
        let elapsed = started.elapsed();
        let status = keeper.wait().expect("an exited child can be waited for");
        let code = std::os::unix::process::ExitStatusExt::signal(&status).map_or(0, |signal| 128 + signal);
        Stopped { code: status.code().unwrap_or(code), elapsed }
    }

    /// Kills keeper and worker at once with SIGKILL; their mounts stay behind, dead.
    pub fn kill_all(&mut self) {
        let Some(mut keeper) = self.keeper.take() else { return };
        self.workers.extend(children(keeper.id()).into_iter().filter_map(Process::open));
        // The keeper first: it must not start another worker.
        kill(keeper.id(), Signal::KILL);
        for worker in self.workers.drain(..) {
            worker.kill();
            // All its threads: the last one to go closes the connection.
            assert!(worker.wait_for_exit(STOP_TIMEOUT), "a worker is there {STOP_TIMEOUT:?} after SIGKILL");
        }
        keeper.wait().expect("a killed child can be waited for");
    }

    /// Kills the keeper alone and waits for it; the kernel ends the worker, as far as it can.
    pub fn kill_keeper(&mut self) {
        let mut keeper = self.keeper.take().expect("the daemon runs");
        kill(keeper.id(), Signal::KILL);
        keeper.wait().expect("a killed child can be waited for");
        self.workers.clear();
    }

    fn spawn_with(&mut self, kept: &[(String, OwnedFd)]) {
        assert!(self.keeper.is_none(), "the daemon runs already");
        let daemon = self.options.program.clone().unwrap_or_else(wsguard_binary);
        let run = match self.options.nofile {
            Some(limit) => Run::new("prlimit").arg(format!("--nofile={limit}:{limit}")).arg("--").arg(daemon),
            None if kept.is_empty() => Run::new(daemon),
            None => service_manager::starting(daemon, kept),
        };
        let mut run = run
            .arg("daemon")
            // On the filesystem of the test's directories, and gone with them.
            .env("WSGUARD_STORE_DIR", self.dir().join("p"))
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--runtime-dir")
            .arg(self.runtime_dir())
            .arg("--config")
            .arg(self.config_file())
            .env("NO_COLOR", "1")
            .env_remove("WSGUARD_SOCKET");
        for (name, value) in &self.options.env {
            run = run.env(name, value);
        }
        let keeper = run.spawn_logged(&self.log_file());
        self.watchdog.watch(keeper.id());
        self.keeper = Some(keeper);
    }

    fn log_file(&self) -> PathBuf {
        self.dir().join("log")
    }

    pub(crate) fn stop_in_drop(&mut self) {
        let Some(keeper) = &self.keeper else { return };
        self.workers.extend(children(keeper.id()).into_iter().filter_map(Process::open));
        kill(keeper.id(), Signal::TERM);
        if !wait_for_exit(keeper.id(), STOP_TIMEOUT) {
            note(&format!("the keeper (pid {}) ignored SIGTERM for {STOP_TIMEOUT:?}", keeper.id()));
        }
        self.kill_all();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let has_failed = std::thread::panicking() || self.watchdog.has_bitten();
        self.stop_in_drop();
        if has_failed {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            note(&format!("--- last lines of the daemon's log\n{}\n---", tail.join("\n")));
        }
        let left = unmount_below(self.dir());
        if !left.is_empty() {
            note(&format!("still mounted: {left:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_frees_a_caller_that_is_stuck() {
        crate::require!(fuse);
        let deadline = Duration::from_secs(3);
        let mount = crate::GuardMount::builder().deadline(deadline).mount();
        kill(mount.daemon().worker_pid(), Signal::STOP);
        let started = Instant::now();
        let outcome = fs::write(mount.path().join("file"), "nobody answers");
        assert!(
            outcome.is_err() && started.elapsed() < deadline * 3,
            "{outcome:?} after {:?}",
            started.elapsed()
        );
    }
}
