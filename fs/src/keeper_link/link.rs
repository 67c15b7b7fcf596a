//! The worker's side of the keeper's socket: one caller at a time, one reader.
//!
//! The worker's main thread reads everything ([`KeeperLink::receive`]); answers go on to whoever is waiting in
//! a call. Calls come from the driver thread only, so at most one is under way. An upgrade is asked for beside them,
//! because the keeper takes its time over it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;
use wsguard_api::{ApiError, ErrorCode, UpgradeAccepted};

use super::protocol::{Channel, ChannelError, SessionId, ToKeeper, ToWorker};

/// How long the keeper may take for an answer; it only opens files.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the keeper may take to look at another program; see its `CHECK_TIMEOUT`.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the keeper did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("the keeper gave no answer within {seconds} s")]
    TimedOut { seconds: u64 },
    #[error("{0}")]
    Refused(ApiError),
    #[error("the keeper gave an unexpected answer")]
    Unexpected,
}

impl LinkError {
    /// Returns the error as a client sees it.
    pub(crate) fn to_api(&self) -> ApiError {
        match self {
            Self::Refused(error) => error.clone(),
            Self::Channel(_) | Self::TimedOut { .. } | Self::Unexpected => {
                ApiError::new(ErrorCode::Internal, self.to_string())
            }
        }
    }
}

/// What the keeper says without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Unmount everything and end.
    Shutdown,
    /// Read the config again.
    Reload,
    /// Finish what is under way, begin nothing more and end; another worker goes on.
    Drain,
}

type Answer = (ToWorker, Vec<OwnedFd>);

/// A new connection to the kernel, not mounted yet.
#[derive(Debug)]
pub(crate) struct OpenedSession {
    pub(crate) session: SessionId,
    pub(crate) device: OwnedFd,
    pub(crate) state: OwnedFd,
}

/// A connection that a worker before this one served.
#[derive(Debug)]
pub(crate) struct InheritedSession {
    pub(crate) session: SessionId,
    /// The id of its workspace.
    pub(crate) workspace: String,
    /// What that worker wanted to be known.
    pub(crate) notes: String,
    pub(crate) device: OwnedFd,
    pub(crate) state: OwnedFd,
    /// The detached clone of the backing directory.
    pub(crate) root: OwnedFd,
}

/// The socket to the keeper.
#[derive(Debug)]
pub(crate) struct KeeperLink {
    channel: Channel,
    answers: Sender<Answer>,
    waiting: Mutex<Receiver<Answer>>,
    upgrade_answers: Sender<Answer>,
    waiting_for_upgrade: Mutex<Receiver<Answer>>,
}

impl KeeperLink {
    /// Takes over the socket.
    pub(crate) fn new(channel: Channel) -> Self {
        let (answers, waiting) = channel_pair();
        let (upgrade_answers, upgrades) = channel_pair();
        Self {
            channel,
            answers,
            waiting: Mutex::new(waiting),
            upgrade_answers,
            waiting_for_upgrade: Mutex::new(upgrades),
        }
    }

    /// Reads one packet. Returns an order if it is one; an answer goes to the thread that waits for it.
    ///
    /// # Errors
    /// `Closed` when the keeper is gone.
    pub(crate) fn receive(&self) -> Result<Option<Order>, ChannelError> {
        let (message, fds) = self.channel.receive::<ToWorker>()?;
        match message {
            ToWorker::Shutdown => Ok(Some(Order::Shutdown)),
            ToWorker::Reload => Ok(Some(Order::Reload)),
            ToWorker::Drain => Ok(Some(Order::Drain)),
            ToWorker::UpgradeStarts { .. } | ToWorker::UpgradeRefused { .. } => {
                // As below.
                self.upgrade_answers.send((message, fds)).map_err(|_| ChannelError::Closed)?;
                Ok(None)
            }
            ToWorker::Hello { .. }
            | ToWorker::Session { .. }
            | ToWorker::Opened { .. }
            | ToWorker::Done
            | ToWorker::Refused { .. } => {
                // The receiver lives as long as `self`, so this cannot fail.
                self.answers.send((message, fds)).map_err(|_| ChannelError::Closed)?;
                Ok(None)
            }
        }
    }

    /// Says something that has no answer.
    pub(crate) fn tell(&self, message: &ToKeeper) -> Result<(), ChannelError> {
        self.channel.send(message, &[])
    }

    /// Asks for a new connection to the kernel.
    pub(crate) fn open(&self, workspace: &str) -> Result<OpenedSession, LinkError> {
        let request = ToKeeper::Open { workspace: workspace.to_owned() };
        let (ToWorker::Opened { session }, fds) = self.call(&request, &[])? else {
            return Err(LinkError::Unexpected);
        };
        let Ok([device, state]) = <[OwnedFd; 2]>::try_from(fds) else { return Err(LinkError::Unexpected) };
        Ok(OpenedSession { session, device, state })
    }

    /// Lets the keeper hold the root of the backing directory, too, with notes for the next worker, and tells it
    /// under which number the kernel knows the connection.
    pub(crate) fn adopt(
        &self,
        session: SessionId,
        notes: String,
        connection: u32,
        root: BorrowedFd<'_>,
    ) -> Result<(), LinkError> {
        self.call(&ToKeeper::Adopt { session, notes, connection }, &[root]).and_then(expect_done)
    }

    /// Asks for another program in the place of this worker's. Once it was promised, this worker is told to end.
    pub(crate) fn upgrade(
        &self,
        binary: Option<PathBuf>,
        catalog: u32,
    ) -> Result<UpgradeAccepted, LinkError> {
        let waiting = self.waiting_for_upgrade.lock();
        // An answer that came after its caller had given up.
        while waiting.try_recv().is_ok() {}
        self.channel.send(&ToKeeper::Upgrade { binary, catalog }, &[])?;
        match received(waiting.recv_timeout(UPGRADE_TIMEOUT), UPGRADE_TIMEOUT)? {
            (ToWorker::UpgradeStarts { accepted }, _) => Ok(accepted),
            (ToWorker::UpgradeRefused { error }, _) => Err(LinkError::Refused(error)),
            _ => Err(LinkError::Unexpected),
        }
    }

    /// Lets the keeper forget a session.
    pub(crate) fn close(&self, session: SessionId) -> Result<(), LinkError> {
        self.call(&ToKeeper::Close { session }, &[]).and_then(expect_done)
    }

    fn call(&self, request: &ToKeeper, fds: &[BorrowedFd<'_>]) -> Result<Answer, LinkError> {
        // Held until the answer is there: answers carry no number.
        let waiting = self.waiting.lock();
        self.channel.send(request, fds)?;
        match received(waiting.recv_timeout(ANSWER_TIMEOUT), ANSWER_TIMEOUT)? {
            (ToWorker::Refused { error }, _) => Err(LinkError::Refused(error)),
            answer => Ok(answer),
        }
    }
}

impl AsFd for KeeperLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn channel_pair() -> (Sender<Answer>, Receiver<Answer>) {
    channel()
}

fn received(answer: Result<Answer, RecvTimeoutError>, waited: Duration) -> Result<Answer, LinkError> {
    answer.map_err(|error| match error {
        RecvTimeoutError::Timeout => LinkError::TimedOut { seconds: waited.as_secs() },
        RecvTimeoutError::Disconnected => LinkError::Channel(ChannelError::Closed),
    })
}

fn expect_done((message, _): Answer) -> Result<(), LinkError> {
    if message == ToWorker::Done { Ok(()) } else { Err(LinkError::Unexpected) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_reach_the_caller_and_orders_the_reader() {
        let (keeper, theirs) = Channel::pair().unwrap();
        let link = KeeperLink::new(Channel::from_fd(theirs));
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| link.open("w1"));
            let (request, _): (ToKeeper, _) = keeper.receive().unwrap();
            assert_eq!(request, ToKeeper::Open { workspace: "w1".to_owned() });
            keeper.send(&ToWorker::Reload, &[]).unwrap();
            let null = std::fs::File::open("/dev/null").unwrap();
            keeper.send(&ToWorker::Opened { session: SessionId(3) }, &[null.as_fd(), null.as_fd()]).unwrap();
            assert_eq!(link.receive().unwrap(), Some(Order::Reload));
            assert_eq!(link.receive().unwrap(), None);
            assert_eq!(caller.join().unwrap().unwrap().session, SessionId(3));
        });
    }

    #[test]
    fn upgrade_is_answered_beside_other_calls() {
        let (keeper, theirs) = Channel::pair().unwrap();
        let link = KeeperLink::new(Channel::from_fd(theirs));
        std::thread::scope(|scope| {
            let upgrade = scope.spawn(|| link.upgrade(None, 1));
            let (request, _): (ToKeeper, _) = keeper.receive().unwrap();
            assert_eq!(request, ToKeeper::Upgrade { binary: None, catalog: 1 });
            let close = scope.spawn(|| link.close(SessionId(4)));
            let (request, _): (ToKeeper, _) = keeper.receive().unwrap();
            assert_eq!(request, ToKeeper::Close { session: SessionId(4) });
            let error = ApiError::new(ErrorCode::Conflict, "another one is under way");
            keeper.send(&ToWorker::UpgradeRefused { error: error.clone() }, &[]).unwrap();
            keeper.send(&ToWorker::Done, &[]).unwrap();
            assert_eq!((link.receive().unwrap(), link.receive().unwrap()), (None, None));
            close.join().unwrap().unwrap();
            assert_eq!(upgrade.join().unwrap().unwrap_err().to_api(), error);
        });
    }

    #[test]
    fn refusal_keeps_its_hint() {
        let (keeper, theirs) = Channel::pair().unwrap();
        let link = KeeperLink::new(Channel::from_fd(theirs));
        let error = ApiError::new(ErrorCode::Unavailable, "cannot open /dev/fuse").with_hint("modprobe fuse");
        keeper.send(&ToWorker::Refused { error: error.clone() }, &[]).unwrap();
        link.receive().unwrap();
        assert_eq!(link.open("w1").unwrap_err().to_api(), error);
    }
}
