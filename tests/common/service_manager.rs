use std::{
    collections::BTreeMap,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::{Run, Scratch, sys};

/// Longest message; systemd's own limit is the same.
const MOST_BYTES: usize = 4096;

/// The part of a service manager that talks to a service: sd_notify(3) with a descriptor store.
///
/// It lives until the test process ends.
pub struct ServiceManager {
    scratch: Scratch,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    store: BTreeMap<String, OwnedFd>,
    heard: Vec<String>,
}

impl Default for ServiceManager {
    fn default() -> Self {
        Self::new()
    }
}

impl ServiceManager {
    /// Listens.
    pub fn new() -> Self {
        let scratch = Scratch::new();
        let socket = UnixDatagram::bind(scratch.path().join("notify")).expect("a socket can be bound");
        let state = Arc::new(Mutex::new(State::default()));
        let heard = Arc::clone(&state);
        thread::spawn(move || {
            loop {
                hear(&socket, &heard);
            }
        });
        Self { scratch, state }
    }

    /// Returns what a service finds in `NOTIFY_SOCKET`.
    pub fn socket(&self) -> PathBuf {
        self.scratch.path().join("notify")
    }

    /// Tells whether a service said this.
    pub fn has_heard(&self, line: &str) -> bool {
        self.state().heard.iter().any(|heard| heard == line)
    }

    /// Returns the names of what is kept.
    pub fn names(&self) -> Vec<String> {
        self.state().store.keys().cloned().collect()
    }

    /// Returns copies of what is kept, by name.
    pub fn kept(&self) -> Vec<(String, OwnedFd)> {
        let copy = |fd: &OwnedFd| fd.try_clone().expect("a descriptor can be copied");
        self.state().store.iter().map(|(name, fd)| (name.clone(), copy(fd))).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the state")
    }
}

fn hear(socket: &UnixDatagram, state: &Mutex<State>) {
    let mut text = [0; MOST_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let length = recvmsg(socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        .expect("a message can be received")
        .bytes;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    let says = |line: &str| text.lines().any(|said| said == line);
    let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored").to_owned();
    let mut state = state.lock().expect("no thread panics while it holds the state");
    state.heard.extend(text.lines().map(str::to_owned));
    if says("FDSTOREREMOVE=1") {
        state.store.remove(&name);
    } else if says("FDSTORE=1") {
        assert_eq!(fds.len(), 1, "one name stands for one descriptor here");
        state.store.extend(fds.into_iter().map(|fd| (name.clone(), fd)));
    }
}

/// Prepares `program` to be started with what was kept for it.
pub(crate) fn starting(program: PathBuf, kept: &[(String, OwnedFd)]) -> Run {
    let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
    let numbers = kept.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
    // The shell's pid becomes the program's.
    Run::new("/bin/sh")
        .args(["-c", "LISTEN_PID=$$; export LISTEN_PID; exec \"$0\" \"$@\""])
        .arg(program)
        .env("LISTEN_FDS", kept.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"))
        .configure(|command| sys::pass_descriptors(command, numbers))
}
