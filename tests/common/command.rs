use std::{
    ffi::OsStr,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use crate::process::wait_for_exit;

/// How long a command may run unless the test says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a killed command may take to disappear; one that is stuck in the kernel takes for ever.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// A command with a timeout, whose output is collected.
///
/// Output goes to unlinked files and not to pipes: a daemon that the command leaves behind may inherit them
/// without keeping the test waiting for an end of file.
pub struct Run {
    command: Command,
    timeout: Duration,
    stdin: Vec<u8>,
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; 128 + signal if a signal ended it, 124 if it ran out of time.
    pub code: i32,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, invalid UTF-8 replaced.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Run {
    /// Prepares a command; nothing runs yet.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        // Its own process group: an interrupt from the keyboard goes to the test runner alone, and a timeout
        // can end the command together with its children.
        command.process_group(0);
        Self { command, timeout: DEFAULT_TIMEOUT, stdin: Vec::new() }
    }

    /// Prepares a shell script; `$1` and up are `arguments`.
    pub fn shell<A: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = A>) -> Self {
        Self::new("/bin/sh").args(["-euc", script, "sh"]).args(arguments)
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Starts in this directory.
    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs as this user and group, without supplementary groups.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.command.uid(uid).gid(gid);
        self
    }

    /// Ends it after this time.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Gives it this standard input; the default is an empty one.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// Returns the command line for messages.
    pub fn line(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    /// Runs it and returns what it left, whatever the exit code.
    ///
    /// Panics if it cannot be started, or if it is still there after having been killed.
    pub fn output(mut self) -> Output {
        let line = self.line();
        let (stdout, stderr) = (unlinked_file(), unlinked_file());
        let mut input = unlinked_file();
        input.write_all(&self.stdin).expect("a temporary file can be written");
        input.seek(SeekFrom::Start(0)).expect("a temporary file can be rewound");
        self.command.stdin(input).stdout(clone(&stdout)).stderr(clone(&stderr));
        let started = Instant::now();
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start `{line}`: {error}"),
        };
        let status = if wait_for_exit(child.id(), self.timeout) {
            Some(child.wait().expect("an exited child can be waited for"))
        } else {
            kill_group(&mut child, &line);
            None
        };
        let mut stderr = text(stderr);
        if status.is_none() {
            stderr.push_str(&format!("\n(killed after {:?})", self.timeout));
        }
        Output {
            command: line,
            code: status.map_or(124, exit_code),
            stdout: text(stdout),
            stderr,
            elapsed: started.elapsed(),
        }
    }

    /// Runs it, panics with its output unless it exits with 0, and returns its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        self.output().ok()
    }

    /// Starts it with its output in `log` and returns the child, which the caller ends and waits for.
    pub(crate) fn spawn_logged(mut self, log: &Path) -> Child {
        let line = self.line();
        let log = File::options().create(true).append(true).open(log).expect("a log file can be opened");
        self.command.stdin(Stdio::null()).stdout(clone(&log)).stderr(log);
        match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start `{line}`: {error}"),
        }
    }

    /// Starts it with its standard streams as `Stdio`s of the caller's choice.
    pub fn spawn(mut self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Child {
        let line = self.line();
        match self.command.stdin(stdin).stdout(stdout).stderr(stderr).spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start `{line}`: {error}"),
        }
    }

    /// Gives the program and its arguments to `f`, for what this type does not offer.
    #[must_use]
    pub fn configure(mut self, f: impl FnOnce(&mut Command)) -> Self {
        f(&mut self.command);
        self
    }
}

impl Output {
    /// Returns standard output; panics with everything unless the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> String {
        self.expect_code(0).stdout
    }

    /// Panics with everything unless the exit code is `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code of `{}` after {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.command, self.elapsed, self.stdout, self.stderr
        );
        self
    }
}

fn kill_group(child: &mut Child, line: &str) {
    let group = rustix::process::Pid::from_child(child);
    // The group may be gone already when the command ended in this instant.
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).ok();
    assert!(
        wait_for_exit(child.id(), KILL_GRACE),
        "`{line}` (pid {}) is stuck in the kernel: it is there {KILL_GRACE:?} after SIGKILL",
        child.id()
    );
    child.wait().expect("an exited child can be waited for");
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn unlinked_file() -> File {
    tempfile::tempfile().expect("a temporary file can be made")
}

fn clone(file: &File) -> File {
    file.try_clone().expect("a file descriptor can be duplicated")
}

fn text(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("a temporary file can be rewound");
    file.read_to_end(&mut bytes).expect("a temporary file can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}
