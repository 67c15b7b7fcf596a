//! The service manager as second holder of what must outlive a worker: systemd's descriptor store.
//!
//! A keeper that is killed loses its connections to the kernel, unless somebody else has them open as well. Under a
//! service manager with a descriptor store, each session's descriptors are handed to it (sd_notify(3), `FDSTORE=1`),
//! and a keeper that is started again gets them back (sd_listen_fds(3)) and goes on. What is no descriptor is written
//! to a memory file. The last worker is in the store too, as a pidfd: its successor must not read from a connection
//! before it is gone.
//!
//! A keeper that ends on purpose takes everything out, or mounts would hang instead of answering ENOTCONN. Without a
//! service manager nothing here does anything.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use tracing::{debug, error, warn};

use super::sessions::HeldSession;
use crate::daemon::threads::{Threads, has_ended};
use crate::keeper_link::SessionId;
use crate::sys::inherited;

/// What the environment of a child must not hold: it is meant for this process.
pub(super) const VARIABLES: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// What all our names begin with.
const PREFIX: &str = "wsguard.";

/// The name of the last worker.
const WORKER: &str = "wsguard.worker";

/// The parts of a session, each a descriptor of its own. The last one completes it.
const PARTS: [&str; 4] = ["device", "state", "root", "notes"];

/// Longest text of a session.
const MOST_NOTES: usize = 64 << 10;

/// How long the last worker of a keeper that was killed may take to end.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);

/// What a keeper knows of a session beside its descriptors.
#[derive(Debug, Serialize, Deserialize)]
struct Text {
    workspace: String,
    notes: String,
    connection: u32,
}

/// What a keeper before this one left in the store.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Sessions of which everything is there.
    pub(super) sessions: BTreeMap<SessionId, HeldSession>,
    /// Its last worker.
    worker: Option<OwnedFd>,
}

/// Whether the last worker is out of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastWorker {
    /// It reads from no connection any more.
    Gone,
    /// It may.
    Hangs,
}

/// Takes back what the service manager has kept. To be called once, before anything else opens descriptors.
pub(super) fn take_back() -> Left {
    let listed: Vec<_> = match sd_notify::listen_fds_with_names() {
        Ok(listed) => listed.collect(),
        Err(error) => {
            warn!(error = %error, "descriptors of the service manager cannot be taken");
            return Left::default();
        }
    };
    let mut named = BTreeMap::new();
    for (number, name) in listed {
        match inherited::take(number) {
            Ok(fd) => drop(named.insert(name, fd)),
            Err(errno) => {
                warn!(name, errno = errno.raw_os_error(), "descriptor of the service manager is missing");
            }
        }
    }
    let worker = named.remove(WORKER);
    Left { sessions: sort(named), worker }
}

/// Puts the parts of each session together. What is incomplete is closed here and in the store.
fn sort(mut named: BTreeMap<String, OwnedFd>) -> BTreeMap<SessionId, HeldSession> {
    let mut sessions = BTreeMap::new();
    let numbers: Vec<u64> = named.keys().filter_map(|name| number_in(name)).collect();
    for session in numbers.into_iter().map(SessionId) {
        let [device, state, root, notes] = PARTS.map(|part| named.remove(&name_of(session, part)));
        let (Some(device), Some(state), Some(root), Some(notes)) = (device, state, root, notes) else {
            warn!(session = %session, "descriptor store holds a part of a session only");
            remove(session);
            continue;
        };
        match read_text(&notes) {
            Ok(Text { workspace, notes, connection }) => {
                let (root, connection) = (Some(root), Some(connection));
                let held = HeldSession { workspace, device, state, root, notes, connection };
                sessions.insert(session, held);
            }
            Err(error) => {
                warn!(session = %session, error = %error, "session in the descriptor store is unusable");
                remove(session);
            }
        }
    }
    for name in named.keys().filter(|name| name.starts_with(PREFIX)) {
        warn!(name, "descriptor store holds a part of a session only");
        remove_name(name);
    }
    sessions
}

impl Left {
    /// Sees to it that the last worker is gone. Whoever killed the keeper has mostly killed it as well.
    pub(super) fn end_worker(&self) -> LastWorker {
        let Some(worker) = &self.worker else { return LastWorker::Gone };
        match pidfd_send_signal(worker, Signal::KILL) {
            Ok(()) => {}
            Err(Errno::SRCH) => return LastWorker::Gone,
            Err(errno) => error!(errno = errno.raw_os_error(), "last worker cannot be killed"),
        }
        let deadline = Instant::now() + WORKER_PATIENCE;
        let interval = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        loop {
            let mut fds = [PollFd::new(worker, PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&interval)) {
                Ok(1..) => return LastWorker::Gone,
                Ok(0) | Err(Errno::INTR) => {}
                Err(errno) => error!(errno = errno.raw_os_error(), "last worker cannot be waited for"),
            }
            if is_left_behind(worker) {
                warn!("last worker is dead, its last threads end when its successor answers");
                return LastWorker::Gone;
            }
            if Instant::now() >= deadline {
                return LastWorker::Hangs;
            }
        }
    }
}

/// As of a worker of this keeper.
fn is_left_behind(worker: &OwnedFd) -> bool {
    let number = worker.as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<u32>().ok());
    // Not there any more, or not to be looked at: the next look at the descriptor tells.
    pid.is_some_and(|pid| {
        has_ended(pid)
            .and_then(|has_ended| Ok(has_ended && Threads::of(pid)?.is_left_behind))
            .unwrap_or(false)
    })
}

/// Tells the service manager that everything is mounted.
pub(super) fn tell_ready() {
    tell(&[NotifyState::Ready]);
}

/// Tells the service manager that the daemon stops.
pub(super) fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Puts an adopted session into the store.
pub(super) fn store(session: SessionId, held: &HeldSession) {
    if !is_there() {
        return;
    }
    let (Some(root), Some(connection)) = (&held.root, held.connection) else { return };
    let text = Text { workspace: held.workspace.clone(), notes: held.notes.clone(), connection };
    let notes = match write_text(&text) {
        Ok(notes) => notes,
        Err(error) => {
            warn!(session = %session, error = %error, "session is not put into the descriptor store");
            return;
        }
    };
    let fds = [held.device.as_fd(), held.state.as_fd(), root.as_fd(), notes.as_fd()];
    for (part, fd) in PARTS.into_iter().zip(fds) {
        put(&name_of(session, part), fd);
    }
}

/// Takes a session out of the store.
pub(super) fn remove(session: SessionId) {
    PARTS.into_iter().for_each(|part| remove_name(&name_of(session, part)));
}

/// Puts the worker that runs now into the store, in the place of the one before.
pub(super) fn store_worker(worker: BorrowedFd<'_>) {
    remove_worker();
    put(WORKER, worker);
}

/// Takes the worker out of the store.
pub(super) fn remove_worker() {
    remove_name(WORKER);
}

fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn put(name: &str, fd: BorrowedFd<'_>) {
    if !is_there() {
        return;
    }
    // Or systemd takes a connection out as soon as anything happens on it.
    let unwatched = NotifyState::Custom("FDPOLL=0");
    let states = [NotifyState::FdStore, NotifyState::FdName(name), unwatched];
    if let Err(error) = sd_notify::notify_with_fds(&states, &[fd]) {
        warn!(name, error = %error, "descriptor is not put into the store");
    }
}

fn remove_name(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

fn tell(states: &[NotifyState<'_>]) {
    match sd_notify::notify(states) {
        Ok(()) => debug!(?states, "service manager is told"),
        Err(error) => warn!(?states, error = %error, "service manager cannot be told"),
    }
}

fn name_of(session: SessionId, part: &str) -> String {
    format!("{PREFIX}{session}.{part}")
}

/// Returns the number of a session whose last part this is.
fn number_in(name: &str) -> Option<u64> {
    let (number, part) = name.strip_prefix(PREFIX)?.split_once('.')?;
    (part == PARTS[3]).then_some(number.parse().ok()?)
}

fn write_text(text: &Text) -> std::io::Result<OwnedFd> {
    let bytes = serde_json::to_vec(text)?;
    if bytes.len() > MOST_NOTES {
        return Err(std::io::Error::other(format!("its notes have {} bytes", bytes.len())));
    }
    let file = rustix::fs::memfd_create("wsguard-notes", MemfdFlags::CLOEXEC)?;
    let length = rustix::io::pwrite(&file, &bytes, 0)?;
    if length == bytes.len() { Ok(file) } else { Err(std::io::ErrorKind::WriteZero.into()) }
}

fn read_text(file: &OwnedFd) -> std::io::Result<Text> {
    let mut bytes = vec![0; MOST_NOTES];
    let length = rustix::io::pread(file, &mut bytes, 0)?;
    Ok(serde_json::from_slice(bytes.get(..length).unwrap_or_default())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn null() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn session_is_put_together_and_one_with_a_part_missing_is_not() {
        let text = Text { workspace: "w1".to_owned(), notes: "for the worker".to_owned(), connection: 52 };
        let mut named = BTreeMap::new();
        for session in [SessionId(3), SessionId(12)] {
            for part in &PARTS[..3] {
                named.insert(name_of(session, part), null());
            }
            named.insert(name_of(session, "notes"), write_text(&text).unwrap());
        }
        named.remove("wsguard.12.root").unwrap();
        named.insert("wsguard.x.notes".to_owned(), null());
        named.insert("connection".to_owned(), null());
        let sessions = sort(named);
        assert_eq!(sessions.keys().copied().collect::<Vec<_>>(), [SessionId(3)]);
        let held = &sessions[&SessionId(3)];
        assert_eq!((held.workspace.as_str(), held.connection), ("w1", Some(52)));
        assert_eq!((held.notes.as_str(), held.descriptors().len()), ("for the worker", 3));
    }

    #[test]
    fn last_worker_is_killed_and_waited_for() {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let worker = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let left = Left { worker: Some(worker), ..Left::default() };
        assert_eq!(left.end_worker(), LastWorker::Gone);
        assert!(!child.wait().unwrap().success());
        assert_eq!(left.end_worker(), LastWorker::Gone, "it is reaped");
    }
}
