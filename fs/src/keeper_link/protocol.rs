//! What keeper and worker say to each other: one JSON message a packet, file descriptors attached.
//!
//! The socket is a SOCK_SEQPACKET pair that the worker inherits as its standard input. Either side's death is
//! an end of file for the other. Messages carry a version in [`ToWorker::Hello`]; a worker of another version
//! refuses to start.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wsguard_api::{ApiError, Program, UpgradeAccepted};

use super::history::Past;

/// Raised when a message changes its meaning.
pub(crate) const PROTOCOL_VERSION: u32 = 3;

/// Longest packet; a longer one is refused by the sender. [`Past`] is bounded to fit with much room left.
const MAX_PACKET: usize = 64 * 1024;

/// Most descriptors of one packet: device, state and root.
const MAX_FDS: usize = 3;

/// Names one mounted superblock for as long as the keeper lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SessionId(pub(crate) u64);

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// From the keeper.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum ToWorker {
    /// The first message, with the control socket that listens and the file for the last words; as many
    /// [`ToWorker::Session`] follow as `sessions` says.
    Hello {
        /// [`PROTOCOL_VERSION`].
        version: u32,
        /// How many workers this keeper has started, the receiver included.
        generation: u64,
        /// The keeper's pid.
        keeper_pid: u32,
        /// Sessions that the keeper holds.
        sessions: usize,
        /// How the workers before the receiver ended.
        past: Past,
        /// What the keeper runs.
        keeper: Program,
        /// What the receiver runs.
        program: Program,
    },
    /// A session that an earlier worker served, with its device, state and, once adopted, root descriptor.
    Session {
        /// Its number.
        session: SessionId,
        /// The id of its workspace.
        workspace: String,
        /// What the worker that served it wanted its successor to know; the keeper does not read it.
        notes: String,
    },
    /// Answers [`ToKeeper::Open`], with the device and the state descriptor.
    Opened {
        /// The new session's number.
        session: SessionId,
    },
    /// Answers [`ToKeeper::Adopt`] and [`ToKeeper::Close`].
    Done,
    /// Answers any request that could not be met.
    Refused {
        /// Why.
        error: ApiError,
    },
    /// Unmount everything and end.
    Shutdown,
    /// Read the config again.
    Reload,
    /// Finish what is under way, begin nothing more and end; another worker goes on.
    Drain,
    /// Answers [`ToKeeper::Upgrade`]: [`ToWorker::Drain`] follows.
    UpgradeStarts {
        /// For whoever asked.
        accepted: UpgradeAccepted,
    },
    /// Answers [`ToKeeper::Upgrade`]: everything stays as it is.
    UpgradeRefused {
        /// Why.
        error: ApiError,
    },
}

/// From the worker.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(crate) enum ToKeeper {
    /// Asks for a new `/dev/fuse` connection and a memory file for its state.
    Open {
        /// The id of the workspace.
        workspace: String,
    },
    /// Hands the backing directory's detached clone to the keeper; one descriptor is attached.
    Adopt {
        /// Whose.
        session: SessionId,
        /// For the next worker; the keeper does not read it.
        notes: String,
        /// The name of the connection to the kernel in the fusectl filesystem.
        connection: u32,
    },
    /// The session is over; the keeper lets go of its descriptors.
    Close {
        /// Which.
        session: SessionId,
    },
    /// Still running.
    Heartbeat {
        /// For how many seconds a filesystem thread has been stuck; 0 if none is.
        stuck_seconds: u64,
    },
    /// Every session that was handed over is served, or given up.
    TakenOver {
        /// For how long requests had waited, if there were any sessions.
        stall_ms: Option<u64>,
    },
    /// Everything that is to be mounted is, as far as it can be.
    Ready,
    /// Asks for another program in the place of this worker's.
    Upgrade {
        /// Its file; where the keeper's own was started from if absent.
        binary: Option<PathBuf>,
        /// The catalog's format.
        catalog: u32,
    },
    /// On the way out after [`ToWorker::Drain`]: from now on requests wait.
    Draining,
    /// All requests are answered but these, which could not wait any longer.
    Drained {
        /// How many; the successor carries them out.
        unanswered: usize,
    },
    /// This worker cannot start, and another one could not either.
    Fatal {
        /// Why.
        error: ApiError,
    },
    /// Everything is unmounted or reported; the worker ends now and wants no successor.
    Stopped,
}

/// Why a message did not get through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("the other side of the keeper's socket is gone")]
    Closed,
    #[error("cannot {action} on the keeper's socket")]
    Socket {
        action: &'static str,
        #[source]
        source: Errno,
    },
    #[error("cannot understand a packet on the keeper's socket")]
    Malformed {
        #[source]
        source: serde_json::Error,
    },
    #[error("a packet of {bytes} bytes with {fds} descriptors is more than {MAX_PACKET} bytes or {MAX_FDS}")]
    TooLarge { bytes: usize, fds: usize },
}

/// One end of the socket.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Makes both ends, close-on-exec.
    ///
    /// # Errors
    /// As socketpair(2).
    pub(crate) fn pair() -> Result<(Self, OwnedFd), ChannelError> {
        let (here, there) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|source| ChannelError::Socket { action: "make a pair", source })?;
        Ok((Self(here), there))
    }

    /// Takes the end that was inherited.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Lets [`Self::send`] fail with `EAGAIN` when the other side takes nothing for so long.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub(crate) fn limit_sending(&self, timeout: Duration) -> Result<(), ChannelError> {
        rustix::net::sockopt::set_socket_timeout(&self.0, Timeout::Send, Some(timeout))
            .map_err(|source| ChannelError::Socket { action: "limit the time", source })
    }

    /// Sends one message; the descriptors are duplicated to the other side.
    ///
    /// # Errors
    /// `Closed` when the other side is gone.
    pub(crate) fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let packet = serde_json::to_vec(message).map_err(|source| ChannelError::Malformed { source })?;
        if packet.len() > MAX_PACKET || fds.len() > MAX_FDS {
            return Err(ChannelError::TooLarge { bytes: packet.len(), fds: fds.len() });
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(ChannelError::TooLarge { bytes: packet.len(), fds: fds.len() });
        }
        loop {
            match rustix::net::sendmsg(&self.0, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(ChannelError::Closed),
                Err(source) => return Err(ChannelError::Socket { action: "send", source }),
            }
        }
    }

    /// Waits for one message.
    ///
    /// # Errors
    /// `Closed` when the other side is gone.
    pub(crate) fn receive<M: DeserializeOwned>(&self) -> Result<(M, Vec<OwnedFd>), ChannelError> {
        let mut buffer = vec![0; MAX_PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut iov = [IoSliceMut::new(&mut buffer)];
            match rustix::net::recvmsg(&self.0, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(source) => return Err(ChannelError::Socket { action: "receive", source }),
            }
        };
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(ChannelError::TooLarge { bytes: received.bytes, fds: fds.len() });
        }
        let packet = buffer.get(..received.bytes).unwrap_or_default();
        let message = serde_json::from_slice(packet).map_err(|source| ChannelError::Malformed { source })?;
        Ok((message, fds))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    #[test]
    fn descriptors_travel_with_their_message() {
        let (here, there) = Channel::pair().unwrap();
        let there = Channel::from_fd(there);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"state").unwrap();
        let sent = ToKeeper::Adopt { session: SessionId(7), notes: String::new(), connection: 9 };
        here.send(&sent, &[file.as_fd()]).unwrap();
        here.send(&ToKeeper::Heartbeat { stuck_seconds: 1 }, &[]).unwrap();
        let (message, mut fds): (ToKeeper, _) = there.receive().unwrap();
        assert_eq!(message, sent);
        let mut copy = std::fs::File::from(fds.pop().unwrap());
        copy.rewind().unwrap();
        let mut content = String::new();
        copy.read_to_string(&mut content).unwrap();
        assert_eq!(content, "state");
        let (message, fds): (ToKeeper, _) = there.receive().unwrap();
        assert_eq!((message, fds.len()), (ToKeeper::Heartbeat { stuck_seconds: 1 }, 0));
    }

    #[test]
    fn death_of_the_other_side_is_seen() {
        let (here, there) = Channel::pair().unwrap();
        drop(there);
        assert!(matches!(here.receive::<ToKeeper>().unwrap_err(), ChannelError::Closed));
        assert!(matches!(here.send(&ToKeeper::Stopped, &[]).unwrap_err(), ChannelError::Closed));
    }

    #[test]
    fn oversized_and_malformed_packets_are_refused() {
        let (here, there) = Channel::pair().unwrap();
        let there = Channel::from_fd(there);
        let huge = ToKeeper::Open { workspace: "x".repeat(MAX_PACKET) };
        assert!(matches!(here.send(&huge, &[]).unwrap_err(), ChannelError::TooLarge { .. }));
        here.send(&"nonsense", &[]).unwrap();
        assert!(matches!(there.receive::<ToWorker>().unwrap_err(), ChannelError::Malformed { .. }));
    }
}
