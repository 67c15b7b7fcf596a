//! Starts the daemon in the background when a command needs one and none answers.
//!
//! The daemon is this same executable, in a session of its own, with its talk in `<state dir>/daemon.log`. The
//! command waits until the control socket answers; a daemon that ends before that is reported with the last
//! lines it wrote.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus as ProcessStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use wsguard_api::ErrorCode;

use crate::client::Client;
use crate::error::{CliError, ExitStatus};
use crate::output::Printer;
use crate::settings::Settings;

/// How long a new daemon may take until its socket answers.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long one answer of a starting daemon may take before it is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How often a starting daemon is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The log is moved aside at a start once it is this long.
const LOG_LIMIT_BYTES: u64 = 16 << 20;

/// As much of the log's end as an error shows.
const LOG_TAIL_BYTES: u64 = 8 << 10;
const LOG_TAIL_LINES: usize = 8;

/// A daemon that answers.
#[derive(Debug)]
pub struct Answering {
    /// The way to it.
    pub client: Client,
    /// It was started for this command, and has mounted what it remembered.
    pub was_started: bool,
}

/// Returns a client of a daemon that answers, started now if none did.
///
/// # Errors
/// Fails if none answers and none may or can be started; `purpose` says what it was needed for.
pub fn ensure_daemon(
    settings: &Settings,
    printer: &mut Printer,
    purpose: &str,
) -> Result<Answering, CliError> {
    let socket = settings.socket()?;
    let client = Client::new(&socket)?;
    if client.is_answering()? {
        printer.detail(&format!("a daemon answers on {}", socket.display()));
        return Ok(Answering { client, was_started: false });
    }
    if !rustix::process::geteuid().is_root() {
        let message = format!("no daemon answers on {}, and only root can start one", socket.display());
        return Err(CliError::new(ErrorCode::Permission, message).with_hint(format!(
            "run `sudo wsguard {purpose}`, or have an administrator start `wsguard daemon`"
        )));
    }
    if settings.daemon_socket()? != socket {
        let message = format!("no daemon answers on {}", socket.display());
        return Err(CliError::new(ErrorCode::Unavailable, message).with_hint(
            "to have one started, leave out --socket and WSGUARD_SOCKET and name its --runtime-dir instead",
        ));
    }
    start(settings, printer, &client)?;
    Ok(Answering { client, was_started: true })
}

fn start(settings: &Settings, printer: &mut Printer, client: &Client) -> Result<(), CliError> {
    let log = Log::open(&settings.daemon_state_dir()?)?;
    let executable = std::env::current_exe()
        .map_err(|source| CliError::io("cannot find this program's own executable", &source))?;
    let mut command = Command::new(&executable);
    command
        .args(daemon_arguments(settings))
        // A daemon must not keep anybody's directory busy.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.duplicate()?)
        .stderr(log.duplicate()?);
    let child = command
        .spawn()
        .map_err(|source| CliError::io(format!("cannot start {} daemon", executable.display()), &source))?;
    printer.note(&format!("starting the daemon (pid {}), its log is {}", child.id(), log.path.display()));
    wait_until_answering(child, client, &log)
}

fn daemon_arguments(settings: &Settings) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("daemon"), OsString::from("--detached")];
    let options = [
        ("--state-dir", &settings.state_dir),
        ("--runtime-dir", &settings.runtime_dir),
        ("--config", &settings.config),
    ];
    for (option, path) in options {
        if let Some(path) = path {
            arguments.extend([OsString::from(option), path.clone().into_os_string()]);
        }
    }
    arguments
}

/// Waits for the socket, and watches for the child's end meanwhile.
fn wait_until_answering(mut child: Child, client: &Client, log: &Log) -> Result<(), CliError> {
    let deadline = Instant::now() + START_LIMIT;
    let impatient = Client::new(client.socket())?.with_limit(ANSWER_LIMIT);
    let mut ended: Option<ProcessStatus> = None;
    while Instant::now() < deadline {
        if impatient.is_answering()? && impatient.status().is_ok() {
            return Ok(());
        }
        if ended.is_none() {
            ended =
                child.try_wait().map_err(|source| CliError::io("cannot watch the daemon start", &source))?;
        }
        match ended {
            // Another command started one at the same moment, and that one holds the lock: it will answer.
            Some(status) if is_conflict(status) => {}
            Some(status) => return Err(early_end(status, client, log)),
            None => {}
        }
        thread::sleep(POLL_INTERVAL);
    }
    match ended {
        Some(status) => Err(early_end(status, client, log)),
        None => Err(late_start(&child, client, log)),
    }
}

fn is_conflict(status: ProcessStatus) -> bool {
    status.code() == Some(i32::from(ExitStatus::Conflict.code()))
}

fn early_end(status: ProcessStatus, client: &Client, log: &Log) -> CliError {
    let code = status.code().and_then(error_code).unwrap_or(ErrorCode::Unavailable);
    let message = format!("the daemon ended before {} answered ({status})", client.socket().display());
    with_log_lines(CliError::new(code, message), log)
        .with_hint(format!("see {} and `wsguard doctor`", log.path.display()))
}

/// Returns the code that a `wsguard` process ended with; a crash and exit code 1 say nothing.
fn error_code(exit_code: i32) -> Option<ErrorCode> {
    use ErrorCode::{Conflict, Denied, InvalidRequest, NotFound, Permission, TimedOut, Unavailable};
    let codes = [InvalidRequest, NotFound, Conflict, Denied, Unavailable, TimedOut, Permission];
    codes.into_iter().find(|code| i32::from(ExitStatus::from(*code).code()) == exit_code)
}

fn late_start(child: &Child, client: &Client, log: &Log) -> CliError {
    let message = format!(
        "the daemon (pid {}) runs, but {} did not answer within {} s",
        child.id(),
        client.socket().display(),
        START_LIMIT.as_secs()
    );
    with_log_lines(CliError::new(ErrorCode::TimedOut, message), log)
        .with_hint(format!("it goes on starting: try again, or see {}", log.path.display()))
}

fn with_log_lines(error: CliError, log: &Log) -> CliError {
    match log.last_lines() {
        Ok(lines) => lines.into_iter().fold(error, CliError::because),
        Err(source) => error.because(format!("its log cannot be read: {source}")),
    }
}

/// The file that the background daemon talks to, and where this start begins in it.
struct Log {
    path: PathBuf,
    file: File,
    start: u64,
}

impl Log {
    fn open(state_dir: &Path) -> Result<Self, CliError> {
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(|source| {
            CliError::io(format!("cannot create the state directory {}", state_dir.display()), &source)
                .with_hint("name another one with --state-dir")
        })?;
        let path = state_dir.join("daemon.log");
        let failed = |source: io::Error| {
            CliError::io(format!("cannot write the daemon's log {}", path.display()), &source)
                .with_hint("free space there, or name another directory with --state-dir")
        };
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.size() > LOG_LIMIT_BYTES) {
            fs::rename(&path, state_dir.join("daemon.log.1")).map_err(failed)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .map_err(failed)?;
        let start = file.metadata().map_err(failed)?.len();
        Ok(Self { path, file, start })
    }

    fn duplicate(&self) -> Result<File, CliError> {
        self.file
            .try_clone()
            .map_err(|source| CliError::io(format!("cannot hand on {}", self.path.display()), &source))
    }

    /// Returns the last lines that this start wrote.
    fn last_lines(&self) -> io::Result<Vec<String>> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(self.start.max(length.saturating_sub(LOG_TAIL_BYTES))))?;
        let mut text = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let skipped = lines.len().saturating_sub(LOG_TAIL_LINES);
        Ok(lines.into_iter().skip(skipped).map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::commands::samples;
    use crate::test_server::{answer_always, http};

    /// Starts a shell in the daemon's place, with its talk in the log.
    fn in_place_of_a_daemon(script: &str, log: &Log) -> Child {
        let output = log.duplicate().unwrap();
        Command::new("sh").args(["-c", script]).stderr(output).spawn().unwrap()
    }

    #[test]
    fn a_daemon_that_ends_early_is_reported_with_its_code_and_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        let client = Client::new(dir.path().join("s")).unwrap();
        for (exit, code) in
            [(9, ErrorCode::Permission), (2, ErrorCode::InvalidRequest), (1, ErrorCode::Unavailable)]
        {
            let child = in_place_of_a_daemon(&format!("echo last words >&2; exit {exit}"), &log);
            let error = wait_until_answering(child, &client, &log).unwrap_err();
            assert_eq!(error.code(), code);
            assert_eq!(error.causes().last().unwrap(), "last words");
        }
    }

    #[test]
    fn a_daemon_that_another_command_started_first_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        let socket = dir.path().join("s");
        let client = Client::new(&socket).unwrap();
        let child = in_place_of_a_daemon("exit 4", &log);
        let status = serde_json::to_string(&samples::status()).unwrap();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            answer_always(&socket, http("200 OK", &status))
        });
        wait_until_answering(child, &client, &log).unwrap();
        other.join().unwrap();
    }

    #[test]
    fn log_is_private_and_shows_the_lines_of_this_start_only() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        Log::open(&state_dir).unwrap().file.write_all(b"before\n").unwrap();
        let mut log = Log::open(&state_dir).unwrap();
        log.file.write_all(b"one\n\ntwo\n").unwrap();
        assert_eq!(log.last_lines().unwrap(), ["one", "two"]);
        assert_eq!(fs::metadata(&log.path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&state_dir).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_long_log_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        Log::open(dir.path()).unwrap().file.set_len(LOG_LIMIT_BYTES + 1).unwrap();
        assert_eq!(Log::open(dir.path()).unwrap().start, 0);
        assert!(dir.path().join("daemon.log.1").exists());
    }

    #[test]
    fn daemon_gets_the_directories_that_were_named_and_no_others() {
        let settings = Settings {
            socket: None,
            runtime_dir: Some("/r".into()),
            state_dir: None,
            config: Some("/c.toml".into()),
            program: None,
        };
        let expected = ["daemon", "--detached", "--runtime-dir", "/r", "--config", "/c.toml"];
        assert_eq!(daemon_arguments(&settings), expected);
    }
}
