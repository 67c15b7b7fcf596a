//! The program that workers run: a file that is held open, so that it can be run again whatever happens to its path.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use wsguard_api::{ApiError, ErrorCode, Program};

use crate::daemon::versions::{Present, Versions};

/// How long a program may take to say which versions it works with.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Most that it may say; far more than it has to.
const MOST_OUTPUT: usize = 64 << 10;

/// What is shown of its complaints.
const MOST_COMPLAINT: usize = 300;

/// What the kernel adds to the path of a file that was removed.
const DELETED: &str = " (deleted)";

/// A program's file.
#[derive(Debug)]
pub(super) struct ProgramFile {
    file: OwnedFd,
    /// Run by an interpreter, which opens the file itself.
    is_script: bool,
    pub(super) program: Program,
}

impl ProgramFile {
    /// Takes the file of this process.
    ///
    /// # Errors
    /// As open(2) of `/proc/self/exe`.
    pub(super) fn own() -> std::io::Result<Self> {
        let path = std::fs::read_link("/proc/self/exe")?;
        let path = match path.to_str().and_then(|text| text.strip_suffix(DELETED)) {
            Some(stripped) => PathBuf::from(stripped),
            None => path,
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self::take(File::open("/proc/self/exe")?, path, version)
    }

    /// Opens another program's file; its version is not known yet.
    fn open(path: &Path) -> std::io::Result<Self> {
        // A pipe must not make the keeper wait for its writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        Self::take(file, path.to_path_buf(), String::new())
    }

    fn take(mut file: File, path: PathBuf, version: String) -> std::io::Result<Self> {
        let modified = file.metadata()?.modified()?;
        let build = Timestamp::try_from(modified).map_or_else(
            |_| "unknown".to_owned(),
            |time| {
                // People compare it; nobody needs the fraction.
                Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
            },
        );
        let mut start = Vec::new();
        Read::by_ref(&mut file).take(2).read_to_end(&mut start)?;
        Ok(Self { file: file.into(), is_script: start == b"#!", program: Program { version, build, path } })
    }

    /// Starts it in a process group of its own.
    ///
    /// # Errors
    /// As execve(2).
    pub(super) fn spawn(&self, prepare: impl FnOnce(&mut Command)) -> std::io::Result<Child> {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        command.arg0("wsguard").current_dir("/").process_group(0);
        super::fd_store::VARIABLES.into_iter().for_each(|variable| {
            command.env_remove(variable);
        });
        prepare(&mut command);
        if !self.is_script {
            return command.spawn();
        }
        // The keeper has no other thread that could start a program meanwhile.
        rustix::io::fcntl_setfd(&self.file, FdFlags::empty())?;
        let child = command.spawn();
        rustix::io::fcntl_setfd(&self.file, FdFlags::CLOEXEC)?;
        child
    }
}

/// Ends a child and whatever it started. It has not been waited for, so its number is its own.
///
/// # Errors
/// As kill(2); a child that has ended already is none.
pub(super) fn kill_with_children(child: &Child) -> std::io::Result<()> {
    match kill_process_group(Pid::from_child(child), Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A program that is asked which versions it works with.
#[derive(Debug)]
pub(super) struct Check {
    candidate: ProgramFile,
    child: Child,
    exited: OwnedFd,
    output: OwnedFd,
    complaints: OwnedFd,
    /// The catalog's format.
    catalog: u32,
    pub(super) deadline: Instant,
}

impl Check {
    /// Asks the program at `path`.
    ///
    /// # Errors
    /// It is not there or cannot be executed.
    pub(super) fn start(path: &Path, catalog: u32) -> Result<Self, ApiError> {
        let candidate = ProgramFile::open(path).map_err(|error| unusable(path, "opened", &error))?;
        let attempt = || -> std::io::Result<(Child, OwnedFd, OwnedFd, OwnedFd)> {
            let (output, complaints) = (bounded_file()?, bounded_file()?);
            let (out, err) = (output.try_clone()?, complaints.try_clone()?);
            let child = candidate.spawn(|command| {
                command.args(["daemon", "--versions"]);
                command.stdin(Stdio::null()).stdout(Stdio::from(out)).stderr(Stdio::from(err));
            })?;
            let exited = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
            Ok((child, exited, output, complaints))
        };
        let (child, exited, output, complaints) =
            attempt().map_err(|error| unusable(path, "executed", &error))?;
        let deadline = Instant::now() + CHECK_TIMEOUT;
        Ok(Self { candidate, child, exited, output, complaints, catalog, deadline })
    }

    /// Ends it if it still runs, and tells whether its program can take over. The child may still have to be waited
    /// for.
    pub(super) fn finish(mut self, present: Present) -> (Result<ProgramFile, ApiError>, Child) {
        let path = self.candidate.program.path.clone();
        let result = self.verdict(present).map_err(|error| {
            let message = format!("cannot upgrade to {}: {}", path.display(), error.message);
            ApiError { message, ..error }
        });
        match result {
            Ok(version) => {
                self.candidate.program.version = version;
                (Ok(self.candidate), self.child)
            }
            Err(error) => (Err(error), self.child),
        }
    }

    /// Ends it; nobody wants to know any more.
    pub(super) fn cancel(self) -> Child {
        // It is its end in any case that matters; a child that cannot be killed is not there.
        kill_with_children(&self.child).ok();
        self.child
    }

    /// Returns the format of the catalog that it has to read.
    pub(super) fn catalog(&self) -> u32 {
        self.catalog
    }

    fn verdict(&mut self, present: Present) -> Result<String, ApiError> {
        let status = self.child.try_wait().map_err(|error| no_answer(&error.to_string()))?;
        let Some(status) = status else {
            kill_with_children(&self.child).map_err(|error| no_answer(&error.to_string()))?;
            let seconds = CHECK_TIMEOUT.as_secs();
            return Err(no_answer(&format!("it does not answer `daemon --versions` within {seconds} s")));
        };
        if !status.success() {
            return Err(no_answer(&self.complaint(status)));
        }
        let output = read_file(&self.output).map_err(|errno| no_answer(&errno.to_string()))?;
        let versions = Versions::parse(&output).map_err(|reason| no_answer(&reason))?;
        versions.check(&present)?;
        Ok(versions.version)
    }

    fn complaint(&self, status: ExitStatus) -> String {
        let bytes = read_file(&self.complaints).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let first: String = first.chars().filter(|c| !c.is_control()).take(MOST_COMPLAINT).collect();
        let mut reason = format!("it does not answer `daemon --versions` ({status})");
        if !first.is_empty() {
            reason.push_str(": ");
            reason.push_str(&first);
        }
        reason
    }
}

impl AsFd for Check {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.exited.as_fd()
    }
}

fn unusable(path: &Path, done: &str, error: &std::io::Error) -> ApiError {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorCode::NotFound,
        _ => ErrorCode::InvalidRequest,
    };
    ApiError::new(code, format!("cannot upgrade to {}: it cannot be {done}: {error}", path.display()))
        .with_hint("install a wsguard binary there, or name another one with --binary")
}

fn no_answer(reason: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, reason)
        .with_hint("run it with --version to see what it is, or name another one with --binary")
}

/// A memory file that cannot grow beyond [`MOST_OUTPUT`].
fn bounded_file() -> std::io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("wsguard-check", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, MOST_OUTPUT as u64)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

/// Returns what was written to a [`bounded_file`]: text, which has no NUL.
fn read_file(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; MOST_OUTPUT];
    let length = rustix::io::pread(file, &mut bytes, 0)?;
    bytes.truncate(length);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(length);
    bytes.truncate(end);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::event::{PollFd, PollFlags, Timespec};

    use super::*;

    fn present() -> Present {
        Present { protocol: crate::keeper_link::PROTOCOL_VERSION, layouts: vec![], catalog: 1 }
    }

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn verdict_of(path: &Path) -> Result<ProgramFile, ApiError> {
        let check = Check::start(path, 1)?;
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        rustix::event::poll(&mut [PollFd::new(&check, PollFlags::IN)], Some(&limit)).unwrap();
        let (result, mut child) = check.finish(present());
        child.wait().unwrap();
        result
    }

    #[test]
    fn program_that_answers_is_taken_with_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let text = Versions::own().to_text().replace(env!("CARGO_PKG_VERSION"), "7.8.9");
        let path = script(dir.path(), &format!("echo '{text}'"));
        let taken = verdict_of(&path).unwrap();
        assert_eq!((taken.program.version.as_str(), &taken.program.path), ("7.8.9", &path));
        std::fs::remove_file(&path).unwrap();
        let mut child = taken
            .spawn(|command| {
                command.stdout(Stdio::null());
            })
            .unwrap();
        assert!(child.wait().unwrap().success(), "a program that is held can be run without its path");
    }

    #[test]
    fn program_that_cannot_be_used_is_refused_with_its_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let message = |path: &Path| verdict_of(path).unwrap_err().message;
        let missing = dir.path().join("missing");
        assert_eq!(verdict_of(&missing).unwrap_err().code, ErrorCode::NotFound);
        assert!(message(dir.path()).contains("not a regular file"));
        let path = script(dir.path(), "echo out of order >&2; exit 3");
        assert!(message(&path).ends_with("(exit status: 3): out of order"), "{}", message(&path));
        let path = script(dir.path(), "yes | head -c 1000000");
        assert!(message(&path).contains("does not"), "{}", message(&path));
        std::fs::write(&path, "no program").unwrap();
        assert!(message(&path).contains("cannot be executed"), "{}", message(&path));
    }
}
