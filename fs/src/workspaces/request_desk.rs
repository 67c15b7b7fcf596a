//! Where requests from inside are taken, carried out and answered.
//!
//! A thread that serves the filesystem takes a line, hands it to the driver and waits a moment for the answer, so that
//! whoever reads the file next finds it. How often a workspace may do that is bounded: a container that floods it is
//! refused at once and costs nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use tracing::{debug, info, warn};
use wsguard_api::{
    ApiError, BoostAnswer, BoostDecision, BoostRequest, ErrorCode, EventKind, QuotaChange, QuotaEdit,
    QuotaRequest, RequestState, SCHEMA_VERSION, ScopeRef, Verdict,
};

use super::driver::{Driver, catalog_error};
use super::jobs::{Job, Jobs};
use super::pages::{printable, size};
use super::past_requests;
use super::quota_board::ProjectView;
use super::registry::Registry;
use super::requests::{self, Verb};
use crate::catalog::{NewAudit, WorkspaceRecord};
use crate::error_chain::one_line;
use crate::policy;
use crate::session::RequestLine;

/// Answers of one workspace that are shown, the newest.
const KEPT: usize = 20;

/// Requests of one workspace that are taken in a minute.
const PER_MINUTE: usize = 10;

/// Requests of one workspace that may wait for an administrator.
const MOST_PENDING: usize = 3;

/// How long a writer waits for the answer.
const PATIENCE: Duration = Duration::from_millis(250);

/// A request on its way to the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UserRequest {
    /// The workspace's id.
    workspace: String,
    /// Its number at the desk.
    serial: u64,
    verb: Verb,
    uid: u32,
    command: String,
}

impl UserRequest {
    /// Returns the id of the workspace that it was written in.
    pub(super) fn workspace(&self) -> &str {
        &self.workspace
    }

    /// Returns its number at the desk.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// Returns who wrote it.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }
}

#[derive(Clone, Debug)]
struct Entry {
    serial: u64,
    at: Timestamp,
    line: String,
    /// `None` until the driver has answered.
    answer: Option<Result<String, (Errno, String)>>,
}

#[derive(Debug, Default)]
struct Desk {
    entries: VecDeque<Entry>,
    taken: VecDeque<Instant>,
}

#[derive(Debug, Default)]
struct Desks {
    by_workspace: BTreeMap<String, Desk>,
    last_serial: u64,
}

/// Requests and answers of every workspace; in memory, and made anew of the catalog at the start.
#[derive(Debug, Default)]
pub(super) struct RequestDesk {
    desks: Mutex<Desks>,
    answered: Condvar,
}

impl RequestDesk {
    /// Takes a line.
    ///
    /// # Errors
    /// What write(2) fails with; the reason is in the file.
    pub(super) fn take(&self, workspace: &str, line: RequestLine, jobs: &Jobs) -> Result<(), Errno> {
        let RequestLine { text, uid, command } = line;
        self.admit(workspace)?;
        match requests::parse(&text) {
            Ok(Verb::Help) => {
                self.post(workspace, text, Some(Ok(requests::help())));
                Ok(())
            }
            Ok(verb) => {
                let serial = self.post(workspace, text, None);
                let request = UserRequest { workspace: workspace.to_owned(), serial, verb, uid, command };
                if let Err(error) = jobs.submit(Job::UserRequest(Box::new(request))) {
                    self.answer(workspace, serial, Err((Errno::AGAIN, error.message)));
                }
                self.wait(workspace, serial)
            }
            Err(complaint) => {
                self.post(workspace, text, Some(Err((Errno::INVAL, complaint.to_string()))));
                Err(Errno::INVAL)
            }
        }
    }

    fn admit(&self, workspace: &str) -> Result<(), Errno> {
        let mut desks = self.desks.lock();
        let taken = &mut desks.by_workspace.entry(workspace.to_owned()).or_default().taken;
        while taken.front().is_some_and(|at| at.elapsed() >= Duration::from_secs(60)) {
            taken.pop_front();
        }
        if taken.len() >= PER_MINUTE {
            return Err(Errno::AGAIN);
        }
        taken.push_back(Instant::now());
        Ok(())
    }

    fn post(&self, workspace: &str, line: String, answer: Option<Result<String, (Errno, String)>>) -> u64 {
        self.post_of(workspace, Timestamp::now(), line, answer)
    }

    fn post_of(
        &self,
        workspace: &str,
        at: Timestamp,
        line: String,
        answer: Option<Result<String, (Errno, String)>>,
    ) -> u64 {
        let mut desks = self.desks.lock();
        desks.last_serial += 1;
        let serial = desks.last_serial;
        let entries = &mut desks.by_workspace.entry(workspace.to_owned()).or_default().entries;
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(Entry { serial, at, line, answer });
        serial
    }

    pub(super) fn answer(&self, workspace: &str, serial: u64, answer: Result<String, (Errno, String)>) {
        let mut desks = self.desks.lock();
        let desk = desks.by_workspace.get_mut(workspace);
        let entry = desk.and_then(|desk| desk.entries.iter_mut().find(|entry| entry.serial == serial));
        if let Some(entry) = entry {
            entry.answer = Some(answer);
        }
        drop(desks);
        self.answered.notify_all();
    }

    /// Waits for a moment; an answer that comes later is found in the file.
    fn wait(&self, workspace: &str, serial: u64) -> Result<(), Errno> {
        let deadline = Instant::now() + PATIENCE;
        let mut desks = self.desks.lock();
        loop {
            let desk = desks.by_workspace.get(workspace);
            let entry = desk.and_then(|desk| desk.entries.iter().find(|entry| entry.serial == serial));
            match entry.map(|entry| &entry.answer) {
                Some(Some(Err((errno, _)))) => return Err(*errno),
                Some(Some(Ok(_))) | None => return Ok(()),
                Some(None) => {}
            }
            if self.answered.wait_until(&mut desks, deadline).timed_out() {
                return Ok(());
            }
        }
    }

    /// Returns what the file holds: requests and answers, newest first.
    pub(super) fn page(&self, workspace: &str) -> String {
        let desks = self.desks.lock();
        let entries = desks.by_workspace.get(workspace).map(|desk| &desk.entries);
        let Some(entries) = entries.filter(|entries| !entries.is_empty()) else { return requests::help() };
        let shown = entries.iter().rev().map(|entry| {
            let answer = match &entry.answer {
                Some(Ok(answer)) => answer.trim_end(),
                Some(Err((_, reason))) => return format!("> {}\nnot done: {reason}\n", entry.line),
                None => "it is being carried out; read this again in a moment",
            };
            format!("> {}\n{answer}\n", entry.line)
        });
        shown.collect::<Vec<_>>().join("\n")
    }

    /// Returns one line for each request, with its time, for the log.
    pub(super) fn lines(&self, workspace: &str) -> Vec<(Timestamp, String)> {
        let desks = self.desks.lock();
        let entries = desks.by_workspace.get(workspace).map(|desk| &desk.entries);
        let line = |entry: &Entry| {
            let answer = match &entry.answer {
                Some(Ok(answer)) => answer.lines().next().unwrap_or_default(),
                Some(Err((_, reason))) => reason,
                None => "being carried out",
            };
            (entry.at, format!("request: {}: {answer}", entry.line))
        };
        entries.into_iter().flatten().map(line).collect()
    }

    pub(super) fn forget_others(&self, ids: &[String]) {
        self.desks.lock().by_workspace.retain(|id, _| ids.contains(id));
    }
}

/// Returns who takes the requests of a workspace.
pub(super) fn taker(
    registry: &Arc<Registry>,
    jobs: &Jobs,
    id: &str,
) -> Arc<dyn Fn(RequestLine) -> Result<(), Errno> + Send + Sync> {
    // The registry holds the mounts, and so this.
    let (registry, jobs, id) = (Arc::downgrade(registry), jobs.clone(), id.to_owned());
    Arc::new(move |line| match registry.upgrade() {
        Some(registry) => registry.requests().take(&id, line, &jobs),
        None => Err(Errno::AGAIN),
    })
}

impl Driver {
    /// Puts up the answers that were given before this worker started.
    pub(super) fn restore_requests(&self, records: &[WorkspaceRecord]) {
        let mut kept = match self.catalog.requests(false) {
            Ok(kept) => kept,
            Err(error) => {
                warn!(error = %one_line(&error), "earlier requests are not shown");
                return;
            }
        };
        kept.reverse();
        for request in kept.iter().filter(|request| records.iter().any(|r| r.id == request.workspace)) {
            let at = request.at.parse().unwrap_or(Timestamp::UNIX_EPOCH);
            let line = boost_text(request);
            self.registry.requests().post_of(&request.workspace, at, line, Some(Ok(standing(request))));
        }
        self.registry.counts().set_pending(kept.iter().filter(|r| r.state == RequestState::Pending).count());
    }

    /// Carries out what was asked for from inside.
    pub(super) fn carry_out(&mut self, request: &UserRequest) {
        let answer = match &request.verb {
            Verb::Past(line) => return past_requests::carry_out(&self.registry, request, line.clone()),
            // Answered at the desk.
            Verb::Help => Ok(requests::help()),
            Verb::Boost { bytes, inodes, seconds, reason } => {
                self.ask_for_boost(request, (*bytes, *inodes), *seconds, reason)
            }
        };
        self.registry.requests().answer(&request.workspace, request.serial, answer);
    }

    fn ask_for_boost(
        &mut self,
        request: &UserRequest,
        (bytes, inodes): (u64, u64),
        seconds: u64,
        reason: &str,
    ) -> Result<String, (Errno, String)> {
        let record =
            self.registry.record(&request.workspace).map_err(|error| (Errno::AGAIN, error.message))?;
        let unavailable = |error| (Errno::AGAIN, one_line(&error));
        let pending = self.catalog.requests(true).map_err(unavailable)?;
        let mut own = pending.iter().filter(|known| known.workspace == record.id);
        let is_same = |known: &&BoostRequest| {
            (known.bytes, known.inodes, known.seconds, known.reason.as_str())
                == (bytes, inodes, seconds, reason)
        };
        // Also the second attempt at a line that a worker died over.
        if let Some(known) = own.clone().find(is_same) {
            return Ok(standing(known));
        }
        if own.nth(MOST_PENDING - 1).is_some() {
            let text = format!("{MOST_PENDING} requests of this workspace wait already; wait for an answer");
            return Err((Errno::BUSY, text));
        }
        let now = Timestamp::now();
        let mut noted = BoostRequest {
            id: 0,
            workspace: record.id.clone(),
            name: record.name.clone(),
            owner_uid: record.owner_uid,
            by_uid: request.uid,
            command: printable(&request.command),
            bytes,
            inodes,
            seconds,
            reason: reason.to_owned(),
            at: now.to_string(),
            state: RequestState::Pending,
            decided_at: None,
            decided_by: None,
            answer: None,
        };
        noted.id = self.catalog.add_request(&noted, now).map_err(unavailable)?;
        self.registry.counts().set_pending(pending.len() + 1);
        info!(workspace = %record.id, request = noted.id, bytes, inodes, seconds, "boost asked for");
        let message = format!(
            "request {}: {} asks for {} for {}: {reason}",
            noted.id,
            record.name,
            amount(&noted),
            span(seconds)
        );
        self.tell_admins(&ProjectView::of(&record), EventKind::QuotaRequested, &message);
        Ok(standing(&noted))
    }

    /// Returns requests, newest first.
    pub(super) fn boost_requests(&self, only_pending: bool) -> Result<Vec<BoostRequest>, ApiError> {
        self.catalog.requests(only_pending).map_err(|error| catalog_error(&error))
    }

    /// Decides about a request.
    pub(super) fn decide(
        &mut self,
        uid: u32,
        id: u64,
        decision: &BoostDecision,
    ) -> Result<BoostAnswer, ApiError> {
        let found = self.catalog.request(id).map_err(|error| catalog_error(&error))?;
        let Some(mut request) = found else {
            return Err(ApiError::new(ErrorCode::NotFound, format!("there is no request {id}"))
                .with_hint("see `wsguard quota requests --all`"));
        };
        if request.state != RequestState::Pending {
            let message = format!("request {id} was decided at {}", request.decided_at.unwrap_or_default());
            return Err(ApiError::new(ErrorCode::Conflict, message)
                .with_hint("`wsguard quota boost` changes limits at any time"));
        }
        let said = decision.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
        let (state, plan) = match decision.verdict {
            Verdict::Approve => {
                request.bytes = decision.bytes.unwrap_or(request.bytes);
                request.seconds = decision.seconds.unwrap_or(request.seconds);
                (RequestState::Approved, Some(self.give_boost(uid, &request, decision.dry_run)?))
            }
            Verdict::Deny if said.is_none() => {
                return Err(ApiError::new(ErrorCode::InvalidRequest, "a denial needs a reason")
                    .with_hint("the user reads it; give --reason TEXT"));
            }
            Verdict::Deny => (RequestState::Denied, None),
        };
        if decision.dry_run {
            return Ok(BoostAnswer { schema: SCHEMA_VERSION, request, plan });
        }
        let now = Timestamp::now();
        let change = QuotaChange {
            subject: policy::subject_of(&policy::target_of(&ScopeRef::Project {
                id: request.workspace.clone(),
            })),
            field: "request".to_owned(),
            before: Some(format!("{id}: {}", boost_text(&request))),
            after: Some(if state == RequestState::Approved { "approved" } else { "denied" }.to_owned()),
        };
        let audit =
            NewAudit { at: now, uid: Some(uid), reason: said, changes: std::slice::from_ref(&change) };
        self.catalog.decide_request(id, state, said, &audit).map_err(|error| catalog_error(&error))?;
        (request.state, request.decided_by) = (state, Some(uid));
        (request.decided_at, request.answer) = (Some(now.to_string()), said.map(str::to_owned));
        match self.catalog.requests(true) {
            Ok(pending) => self.registry.counts().set_pending(pending.len()),
            Err(error) => debug!(error = %one_line(&error), "requests that wait are not counted"),
        }
        self.tell_decision(&request);
        Ok(BoostAnswer { schema: SCHEMA_VERSION, request, plan })
    }

    /// Raises the limit that binds the workspace. What a worker that died has given already is not given twice.
    fn give_boost(
        &mut self,
        uid: u32,
        request: &BoostRequest,
        dry_run: bool,
    ) -> Result<wsguard_api::QuotaPlan, ApiError> {
        let scope = self.scope_to_boost(request)?;
        let mark = format!("request {}: ", request.id);
        let is_given = self
            .registry
            .quota()
            .policy()
            .boosts()
            .any(|(known, boost)| *known == scope && boost.reason.starts_with(&mark));
        let edit = QuotaEdit::Boost {
            scope,
            bytes: request.bytes,
            inodes: request.inodes,
            seconds: request.seconds,
        };
        let reason = Some(format!("{mark}{}", request.reason));
        let edit =
            QuotaRequest { edit, dry_run: dry_run || is_given, allow_over: false, reason, kernel: None };
        self.quota_request(uid, &edit)
    }

    /// Returns whose limit leaves the least room: that of the workspace, or that of its owner.
    fn scope_to_boost(&self, request: &BoostRequest) -> Result<ScopeRef, ApiError> {
        let projects = self.registry.projects();
        let record = self.registry.record(&request.workspace)?;
        let explained =
            self.registry.quota().explain(&record.dir, &record.id, &projects, Timestamp::now())?;
        let binding = if request.bytes > 0 { &explained.binding_bytes } else { &explained.binding_inodes };
        let is_own = |scope: &&ScopeRef| matches!(scope, ScopeRef::Project { .. } | ScopeRef::User { .. });
        let bound = binding.as_ref().map(|binding| &binding.scope).filter(is_own);
        let limited = || {
            let mut rows = explained.scopes.iter().map(|scope| &scope.row);
            let limit = rows.find(|row| {
                is_own(&&row.scope)
                    && if request.bytes > 0 { row.bytes_hard.is_some() } else { row.inodes_hard.is_some() }
            });
            limit.map(|row| &row.scope)
        };
        bound.or_else(limited).cloned().ok_or_else(|| {
            let message = format!("neither {} nor its owner has a limit that could be raised", record.name);
            ApiError::new(ErrorCode::Conflict, message)
                .with_hint("`wsguard quota explain` shows what limits it; deny the request with a reason")
        })
    }

    fn tell_decision(&self, request: &BoostRequest) {
        let text = standing(request);
        let line = boost_text(request);
        self.registry.requests().post(&request.workspace, line, Some(Ok(text.clone())));
        // A workspace that was forgotten meanwhile has no notices.
        if let Ok(record) = self.registry.record(&request.workspace) {
            let view = ProjectView::of(&record);
            self.tell_project(&view, EventKind::QuotaDecided, Timestamp::now(), &text);
        }
    }
}

/// Returns a request as it was written.
fn boost_text(request: &BoostRequest) -> String {
    let size = if request.bytes > 0 { size(request.bytes) } else { format!("{} files", request.inodes) };
    format!("boost {size} for {} because {}", span(request.seconds), request.reason)
}

fn amount(request: &BoostRequest) -> String {
    if request.bytes > 0 {
        format!("{} more", size(request.bytes))
    } else {
        format!("{} more files", request.inodes)
    }
}

/// Says where a request stands, to the user.
fn standing(request: &BoostRequest) -> String {
    let (id, amount) = (request.id, amount(request));
    let said = request.answer.as_ref().map_or_else(String::new, |answer| format!(": {}", printable(answer)));
    match request.state {
        RequestState::Pending => {
            format!("request {id} waits for an administrator: {amount} for {}", span(request.seconds))
        }
        RequestState::Approved => {
            format!("request {id} was approved: {amount} for {}{said}", span(request.seconds))
        }
        RequestState::Denied => format!("request {id} was denied{said}"),
    }
}

fn span(seconds: u64) -> String {
    if seconds.is_multiple_of(86_400) {
        format!("{} d", seconds / 86_400)
    } else {
        format!("{} h", seconds.div_ceil(3_600))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> RequestLine {
        RequestLine { text: text.to_owned(), uid: 0, command: String::new() }
    }

    #[test]
    fn help_and_nonsense_are_answered_without_the_driver() {
        let (desk, (jobs, queue)) = (RequestDesk::default(), Jobs::queue());
        assert!(desk.page("w1").contains("boost SIZE for TIME"), "what can be asked for");
        assert_eq!(desk.take("w1", line("help"), &jobs), Ok(()));
        assert_eq!(desk.take("w1", line("rm -rf"), &jobs), Err(Errno::INVAL));
        let page = desk.page("w1");
        assert!(page.starts_with("> rm -rf\nnot done: \"rm\" is nothing"), "{page}");
        assert!(page.contains("\n> help\n"), "{page}");
        assert!(queue.try_recv().is_err());
    }

    #[test]
    fn writer_waits_for_the_answer_and_not_for_ever() {
        let (desk, (jobs, queue)) = (Arc::new(RequestDesk::default()), Jobs::queue());
        let driver = Arc::clone(&desk);
        let thread = std::thread::spawn(move || {
            let Ok(Job::UserRequest(request)) = queue.recv() else { panic!("no request") };
            driver.answer(&request.workspace, request.serial, Err((Errno::BUSY, "too many".to_owned())));
            queue
        });
        let boost = "boost 1G for 1d because x";
        assert_eq!(desk.take("w1", line(boost), &jobs), Err(Errno::BUSY));
        let queue = thread.join().unwrap();
        assert_eq!(desk.take("w1", line(boost), &jobs), Ok(()));
        assert!(desk.page("w1").contains("it is being carried out"));
        drop(queue);
        assert_eq!(desk.take("w1", line(boost), &jobs), Err(Errno::AGAIN), "the driver has ended");
    }

    #[test]
    fn flood_is_refused_and_memory_is_bounded() {
        let (desk, (jobs, _queue)) = (RequestDesk::default(), Jobs::queue());
        let results: Vec<_> = (0..100).map(|_| desk.take("w1", line("help"), &jobs)).collect();
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), PER_MINUTE);
        assert_eq!(results[99], Err(Errno::AGAIN));
        assert_eq!(desk.take("w2", line("help"), &jobs), Ok(()), "another workspace");
        (0..100).for_each(|n| {
            desk.post("w1", format!("line {n}"), Some(Ok("done".to_owned())));
        });
        assert_eq!(desk.page("w1").matches("> line").count(), KEPT);
        desk.forget_others(&["w2".to_owned()]);
        assert!(!desk.page("w1").contains("> line"));
    }
}
