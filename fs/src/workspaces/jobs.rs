//! What can be asked of the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::oneshot;
use wsguard_api::{
    ApiError, AuditEntry, BoostAnswer, BoostDecision, BoostRequest, ErrorCode, MountAllReport, MountRequest,
    QuotaPlan, QuotaRequest, ShutdownReport, UmountReport, Workspace,
};

use super::request_desk::UserRequest;
use crate::config::Config;

/// Where a job's result goes. Nobody listening any more is no error: the job was done.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// Whether an unmounted workspace stays registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterUnmount {
    /// `mount` brings it back.
    Keep,
    /// It is taken out; the files stay.
    Forget,
}

/// One job.
#[derive(Debug)]
pub(crate) enum Job {
    /// Guard one directory.
    Mount(MountRequest, Reply<Workspace>),
    /// Guard everything that is registered or matches a root.
    MountAll(Reply<MountAllReport>),
    /// Unmount the workspace with that id or name.
    Unmount(String, AfterUnmount, Reply<UmountReport>),
    /// Change the quota policy, or tell what a change would do; asked by this uid.
    Quota(u32, Box<QuotaRequest>, Reply<QuotaPlan>),
    /// Tell the latest so many changes of the quota policy.
    QuotaAudit(u32, Reply<Vec<AuditEntry>>),
    /// Carry out what was asked for from inside a workspace; answered at the desk.
    UserRequest(Box<UserRequest>),
    /// Tell what users ask for: all, or (`true`) what waits.
    BoostRequests(bool, Reply<Vec<BoostRequest>>),
    /// Decide about a request; decided by this uid.
    Decide(u32, u64, Box<BoostDecision>, Reply<BoostAnswer>),
    /// Search the roots soon; see [`Jobs::search_roots`].
    SearchRoots,
    /// Use these settings from now on (the roots; everything else needs a restart).
    Configure(Box<Config>),
    /// Unmount everything and end.
    Shutdown(Option<Reply<ShutdownReport>>),
    /// End and leave everything to another worker.
    Drain,
}

/// Hands jobs to the driver.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    sender: Sender<Job>,
    stopping: Arc<AtomicBool>,
    is_search_queued: Arc<AtomicBool>,
}

impl Jobs {
    /// Makes the queue.
    pub(crate) fn queue() -> (Self, Receiver<Job>) {
        let (sender, receiver) = channel();
        (Self { sender, stopping: Arc::default(), is_search_queued: Arc::default() }, receiver)
    }

    /// Queues a job. After it was asked to end, longer jobs end early.
    ///
    /// # Errors
    /// `Unavailable` once the driver has ended.
    pub(crate) fn submit(&self, job: Job) -> Result<(), ApiError> {
        if matches!(job, Job::Shutdown(_) | Job::Drain) {
            self.stopping.store(true, Ordering::Relaxed);
        }
        self.sender.send(job).map_err(|_| stopping_error())
    }

    /// Asks for a search of the roots, however often, at no cost but the first time.
    pub(super) fn search_roots(&self) {
        if !self.is_search_queued.swap(true, Ordering::AcqRel) {
            // Without a driver there is nothing to be found any more.
            self.sender.send(Job::SearchRoots).ok();
        }
    }

    /// Called before a search begins: what appears from now on needs another one.
    pub(super) fn note_search(&self) {
        self.is_search_queued.store(false, Ordering::Release);
    }

    /// Returns whether the driver was asked to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }
}

/// What a client is told while the daemon ends.
pub(crate) fn stopping_error() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "the daemon is stopping or being upgraded")
        .with_hint("try again; if no daemon answers then, start it with `wsguard daemon`")
}
