//! Going on with another program: the steps, and the way back.
//!
//! 1. *Checking*: the new program says which versions it works with. Nothing has changed yet.
//! 2. *Draining*: the worker answers what is under way, begins nothing more and ends.
//! 3. *Trying*: a worker of the new program takes over. If it dies first, or takes too long, it makes room for one of
//!    the old program, which is held open for that.
//! 4. *Probation*: if workers of the new program die again and again soon after, the old one is taken as well.
//!
//! The keeper itself stays what it is.

use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};
use wsguard_api::{ApiError, ErrorCode, SCHEMA_VERSION, UpgradeAccepted, UpgradeOutcome};

use super::program::{Check, ProgramFile};
use super::worker::{RunningWorker, Unreaped};
use super::{Keeper, tell};
use crate::daemon::DaemonError;
use crate::daemon::versions::Present;
use crate::keeper_link::{PROTOCOL_VERSION, ToWorker};

/// How long a worker may take to end after it was told to make room: longer than what it allows itself.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(18);

/// How long workers of a new program are on probation.
const PROBATION: Duration = Duration::from_secs(60);

/// Deaths in that time that end it.
const MOST_DEATHS_ON_PROBATION: u32 = 3;

/// What a switch may take beside its steps: the way back to the old program, and until a worker answers clients.
const SLACK: Duration = Duration::from_secs(15);

/// How far an upgrade has come.
#[derive(Debug)]
pub(super) enum Upgrade {
    Checking(Check),
    Draining { candidate: ProgramFile, deadline: Instant },
    Trying { previous: ProgramFile, deadline: Instant },
}

/// The program before the one that runs, for as long as that one has to prove itself.
#[derive(Debug)]
pub(super) struct Probation {
    previous: ProgramFile,
    until: Instant,
    deaths: u32,
}

impl Upgrade {
    /// Returns until when the next step has to be done.
    pub(super) fn deadline(&self) -> Instant {
        match self {
            Self::Checking(check) => check.deadline,
            Self::Draining { deadline, .. } | Self::Trying { deadline, .. } => *deadline,
        }
    }
}

impl Keeper {
    /// Begins to look at another program. Returns what is to be answered at once, if anything.
    pub(super) fn ask_for_upgrade(&mut self, binary: Option<PathBuf>, catalog: u32) -> Option<ToWorker> {
        if self.upgrade.is_some() || self.stop_deadline.is_some() {
            let what = if self.upgrade.is_some() { "another upgrade is under way" } else { "it is stopping" };
            let message = format!("the daemon cannot be upgraded now: {what}");
            let error = ApiError::new(ErrorCode::Conflict, message).with_hint("see `wsguard status`");
            return Some(ToWorker::UpgradeRefused { error });
        }
        let path = binary.unwrap_or_else(|| self.own.path.clone());
        match Check::start(&path, catalog) {
            Ok(check) => {
                self.upgrade = Some(Upgrade::Checking(check));
                None
            }
            Err(error) => {
                warn!(reason = %error.message, "upgrade is refused");
                Some(ToWorker::UpgradeRefused { error })
            }
        }
    }

    /// Takes the next step if it is due: the program has answered, or the time is up.
    pub(super) fn go_on_with_upgrade(
        &mut self,
        worker: &mut RunningWorker,
        has_answered: bool,
    ) -> Result<(), DaemonError> {
        let is_overdue = self.upgrade.as_ref().is_some_and(|upgrade| Instant::now() >= upgrade.deadline());
        match self.upgrade.take() {
            Some(Upgrade::Checking(check)) if has_answered || is_overdue => self.decide(worker, check),
            Some(Upgrade::Draining { candidate, .. }) if is_overdue && worker.hung.is_none() => {
                let seconds = DRAIN_TIMEOUT.as_secs();
                self.upgrade =
                    Some(Upgrade::Draining { candidate, deadline: Instant::now() + DRAIN_TIMEOUT });
                worker.kill(format!("hung: it did not make room for another program within {seconds} s"))?;
            }
            Some(Upgrade::Trying { previous, .. }) if is_overdue && worker.hung.is_none() => {
                let limit = self.config.upgrade_limit;
                self.upgrade = Some(Upgrade::Trying { previous, deadline: Instant::now() + limit });
                worker.kill(format!("hung: it did not take over within {} s", limit.as_secs()))?;
            }
            other => self.upgrade = other,
        }
        Ok(())
    }

    fn decide(&mut self, worker: &RunningWorker, check: Check) {
        let layouts = match self.sessions.layouts() {
            Ok(layouts) => layouts,
            Err(errno) => {
                let message = format!("the state of the mounts cannot be read: {errno}");
                self.unreaped.push(Unreaped::unwatched(check.cancel()));
                tell(
                    worker,
                    &ToWorker::UpgradeRefused { error: ApiError::new(ErrorCode::Internal, message) },
                );
                return;
            }
        };
        let present = Present { protocol: PROTOCOL_VERSION, layouts, catalog: check.catalog() };
        let (verdict, child) = check.finish(present);
        self.unreaped.push(Unreaped::unwatched(child));
        let candidate = match verdict {
            Ok(candidate) => candidate,
            Err(error) => {
                warn!(reason = %error.message, "upgrade is refused");
                tell(worker, &ToWorker::UpgradeRefused { error });
                return;
            }
        };
        let (from, to) = (self.program.program.clone(), candidate.program.clone());
        info!(from = %from.version, to = %to.version, path = %to.path.display(), "upgrade begins");
        let number = self.past.note_upgrade(from.clone(), to.clone());
        let limit = DRAIN_TIMEOUT + self.config.upgrade_limit + SLACK;
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let accepted = UpgradeAccepted { schema: SCHEMA_VERSION, number, from, to, limit_ms };
        tell(worker, &ToWorker::UpgradeStarts { accepted });
        tell(worker, &ToWorker::Drain);
        self.upgrade = Some(Upgrade::Draining { candidate, deadline: Instant::now() + DRAIN_TIMEOUT });
    }

    /// Whether the worker is on its way out to make room.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.upgrade, Some(Upgrade::Draining { .. }))
    }

    /// The worker has taken over. If it was tried, it has passed.
    pub(super) fn confirm_upgrade(&mut self) {
        match self.upgrade.take() {
            Some(Upgrade::Trying { previous, .. }) => {
                let program = &self.program.program;
                info!(version = %program.version, path = %program.path.display(), "upgrade is done");
                self.probation = Some(Probation { previous, until: Instant::now() + PROBATION, deaths: 0 });
            }
            other => self.upgrade = other,
        }
    }

    /// Takes what the end of a worker, or that it cannot be started, means for an upgrade. Returns whether its
    /// successor follows at once because of that.
    pub(super) fn end_step_of_upgrade(&mut self, worker: Option<&RunningWorker>, reason: &str) -> bool {
        match self.upgrade.take() {
            Some(Upgrade::Draining { candidate, .. }) => {
                if worker.is_some_and(|worker| !worker.is_drained) {
                    self.note_death(worker, reason);
                }
                self.past.note_waiting();
                if self.stop_deadline.is_some() {
                    let reason = "the daemon was told to stop meanwhile".to_owned();
                    self.past.note_outcome(UpgradeOutcome::Failed { reason });
                } else {
                    let previous = std::mem::replace(&mut self.program, candidate);
                    let deadline = Instant::now() + self.config.upgrade_limit;
                    self.upgrade = Some(Upgrade::Trying { previous, deadline });
                }
                true
            }
            Some(Upgrade::Trying { previous, .. }) => {
                error!(reason, "new program does not take over, the old one is started again");
                self.note_death(worker, reason);
                self.past.note_outcome(UpgradeOutcome::Failed { reason: reason.to_owned() });
                self.program = previous;
                true
            }
            Some(Upgrade::Checking(check)) => {
                // Whoever asked has lost its connection as well, and the worker that asked is gone.
                self.unreaped.push(Unreaped::unwatched(check.cancel()));
                false
            }
            None => false,
        }
    }

    /// Counts a death against a new program. Returns whether the old one is taken instead of it.
    pub(super) fn count_on_probation(&mut self, reason: &str) -> bool {
        let Some(probation) = self.probation.as_mut().filter(|it| Instant::now() < it.until) else {
            self.probation = None;
            return false;
        };
        probation.deaths += 1;
        if probation.deaths < MOST_DEATHS_ON_PROBATION {
            return false;
        }
        let Some(Probation { previous, deaths, .. }) = self.probation.take() else { return false };
        error!(deaths, reason, "workers of the new program die, the old one is started again");
        let seconds = PROBATION.as_secs();
        let reason = format!("{deaths} of its workers died within {seconds} s, the last one: {reason}");
        self.past.note_outcome(UpgradeOutcome::RolledBack { reason });
        self.program = previous;
        true
    }

    /// Returns the child of a check that is under way when the keeper ends.
    pub(super) fn cancel_check(&mut self) -> Option<Child> {
        match self.upgrade.take() {
            Some(Upgrade::Checking(check)) => Some(check.cancel()),
            other => {
                self.upgrade = other;
                None
            }
        }
    }
}
