//! What owners should know of their quota: limits that were crossed, and processes that were refused.
//!
//! Each goes to the event log and to the file `notices` of every workspace that it concerns. The file is kept in memory
//! and is short; after a restart it is made of the events that are left.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tracing::debug;
use wsguard_api::{ApiError, Event, EventKind};

use super::driver::Driver;
use super::pages::{printable, size};
use super::quota_board::ProjectView;
use super::registry::Registry;
use crate::catalog::WorkspaceRecord;
use crate::delivery::{Notice, Place};
use crate::error_chain::one_line;
use crate::events::{Concerned, EventLog};
use crate::quota::{self, Dimension, Reason, ScopeKey};
use crate::session::Refused;
use crate::usage::{self, Subject, UsageQuery};

/// Notices of one workspace that are kept, the newest.
const KEPT: usize = 100;

/// How long after its start a worker may find what another one has told.
const FIRST_LOOKS: SignedDuration = SignedDuration::from_secs(60);

/// For how long the same crossing is not told again by another worker.
const SAME: SignedDuration = SignedDuration::from_hours(24);

/// Notices of all workspaces that a worker looks back at.
const PAST: usize = 2_000;

/// Directories that grow that a notice names.
const GROWERS: u32 = 3;

/// What stands in `notices` of each workspace, by id.
#[derive(Debug, Default)]
pub(super) struct NoticeBoard(Mutex<BTreeMap<String, VecDeque<String>>>);

impl NoticeBoard {
    /// Returns what the file holds: a line each, oldest first.
    pub(super) fn page(&self, id: &str) -> String {
        let board = self.0.lock();
        board.get(id).map_or_else(String::new, |lines| lines.iter().map(String::as_str).collect())
    }

    /// Adds a line.
    pub(super) fn post(&self, id: &str, at: &str, text: &str) {
        let mut board = self.0.lock();
        let lines = board.entry(id.to_owned()).or_default();
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(format!("{at} {}\n", printable(text)));
    }

    fn forget_others(&self, ids: &[String]) {
        self.0.lock().retain(|id, _| ids.contains(id));
    }
}

impl Registry {
    /// Returns a notice that says that it is a test, about a workspace or about none; asked for by `uid`.
    ///
    /// # Errors
    /// `NotFound` for a workspace that does not exist.
    pub(crate) fn test_notice(&self, workspace: Option<&str>, uid: u32) -> Result<Notice, ApiError> {
        let at = Timestamp::now();
        let record = match workspace {
            Some(name) => Some(self.record(&self.resolve(name)?)?),
            None => None,
        };
        let about = record.as_ref().map_or_else(String::new, |record| format!(" about {}", record.name));
        let device = record.as_ref().and_then(|record| Some(self.mounted(&record.id)?.device()));
        Ok(Notice {
            at,
            kind: EventKind::NoticeTest,
            message: printable(&format!("this is a test of notices{about}; nothing has happened")),
            subject: String::new(),
            readers: record.as_ref().map_or(vec![uid], |record| vec![record.owner_uid]),
            is_for_admins: record.is_none(),
            places: device
                .zip(record.as_ref())
                .map(|(device, record)| Place { workspace: record.name.clone(), device })
                .into_iter()
                .collect(),
            workspace: record.map(|record| record.name),
        })
    }
}

impl Driver {
    /// Puts up what was told before this worker started.
    pub(super) fn restore_notices(&self, records: &[WorkspaceRecord]) {
        for record in records {
            let is_about = |event: &Event| {
                let is_history = matches!(
                    event.kind,
                    EventKind::HistoryOff
                        | EventKind::HistoryEvicted
                        | EventKind::HistoryLost
                        | EventKind::HistoryDamaged
                );
                let is_named = event.workspace.as_ref().is_none_or(|name| *name == record.name);
                (is_notice(event.kind) || is_history) && is_named && event.owner_uid == Some(record.owner_uid)
            };
            for event in self.events.last(KEPT, is_about).events {
                self.registry.notices().post(&record.id, &event.at, &event.message);
            }
        }
    }

    /// Tells of what happened to a scope.
    pub(super) fn tell_ledger_event(&self, event: &quota::Event) {
        let Some(scope) = &event.scope else { return };
        let projects = self.registry.projects();
        let Some((kind, what)) = crossing(&event.kind) else { return };
        let message = format!("{} {what}", title(scope, &projects));
        if self.was_told(kind, &message) {
            return;
        }
        self.tell_scope(scope, &projects, kind, &message);
    }

    /// Whether a worker before this one has told the same within a day: the ledger of a new one finds every crossing
    /// anew. Only its first looks are doubted.
    fn was_told(&self, kind: EventKind, message: &str) -> bool {
        let now = Timestamp::now();
        if now.duration_since(self.started_at) >= FIRST_LOOKS {
            return false;
        }
        // The numbers behind it may have moved on.
        let beginning = message.split(':').next().unwrap_or(message);
        let is_same = |event: &Event| event.kind == kind && event.message.starts_with(beginning);
        let last = self.events.last(1, is_same).events.pop();
        let at = last.and_then(|event| event.at.parse::<Timestamp>().ok());
        at.is_some_and(|at| at < self.started_at && now.duration_since(at) < SAME)
    }

    /// Tells of processes that were refused since the last time.
    pub(super) fn tell_refused(&self) {
        let ids = self.registry.ids();
        self.registry.notices().forget_others(&ids);
        self.registry.requests().forget_others(&ids);
        let projects = self.registry.projects();
        for project in &projects {
            let Some(mounted) = self.registry.mounted(&project.id) else { continue };
            let (refused, more) = mounted.take_refused();
            if refused.is_empty() {
                continue;
            }
            let growers = self.growers(project);
            for (refused, path) in refused {
                let message = refusal_message(&refused, path.as_deref(), &projects, &growers);
                self.tell_project(project, EventKind::QuotaRefused, refused.at, &message);
            }
            if more > 0 {
                let message = format!("writes of {more} more processes were refused");
                self.tell_project(project, EventKind::QuotaRefused, Timestamp::now(), &message);
            }
        }
    }

    fn tell_scope(&self, scope: &ScopeKey, projects: &[ProjectView], kind: EventKind, message: &str) {
        let now = Timestamp::now();
        let concerned = match scope {
            ScopeKey::Project(id) => {
                if let Some(project) = projects.iter().find(|project| project.id == *id) {
                    self.tell_project(project, kind, now, message);
                }
                return;
            }
            ScopeKey::User(uid) => Concerned { name: None, owner_uid: *uid },
            // Whoever belongs to it finds it in the notices.
            ScopeKey::Group(_) | ScopeKey::Pool(_) => Concerned { name: None, owner_uid: 0 },
        };
        self.events.tell_of(now, kind, Some(concerned), message);
        let is_below = |project: &&ProjectView| match scope {
            ScopeKey::Project(id) => project.id == *id,
            ScopeKey::User(uid) => project.owner_uid == *uid,
            ScopeKey::Group(name) => self.registry.quota().group_of(project.owner_uid).as_ref() == Some(name),
            // The filesystem is the administrators' business; who is refused for it is told so.
            ScopeKey::Pool(_) => false,
        };
        let below: Vec<&ProjectView> = projects.iter().filter(is_below).collect();
        for project in &below {
            self.registry.notices().post(&project.id, &now.to_string(), message);
        }
        let mut readers: Vec<u32> = below.iter().map(|project| project.owner_uid).collect();
        readers.sort_unstable();
        readers.dedup();
        self.delivery.send(Notice {
            at: now,
            kind,
            message: printable(message),
            subject: scope.to_string(),
            workspace: None,
            readers,
            is_for_admins: matches!(scope, ScopeKey::Group(_) | ScopeKey::Pool(_)),
            places: below.iter().filter_map(|project| self.place_of(project)).collect(),
        });
    }

    /// Tells the owner of a workspace, wherever they are.
    pub(super) fn tell_project(&self, project: &ProjectView, kind: EventKind, at: Timestamp, message: &str) {
        let concerned = Concerned { name: Some(&project.name), owner_uid: project.owner_uid };
        self.events.tell_of(at, kind, Some(concerned), &printable(message));
        self.registry.notices().post(&project.id, &at.to_string(), message);
        self.delivery.send(Notice {
            at,
            kind,
            message: printable(message),
            subject: ScopeKey::Project(project.id.clone()).to_string(),
            workspace: Some(project.name.clone()),
            readers: vec![project.owner_uid],
            is_for_admins: false,
            places: self.place_of(project).into_iter().collect(),
        });
    }

    /// Tells the administrators of something about a workspace; its owner finds it among the events.
    pub(super) fn tell_admins(&self, project: &ProjectView, kind: EventKind, message: &str) {
        let at = Timestamp::now();
        let concerned = Concerned { name: Some(&project.name), owner_uid: project.owner_uid };
        self.events.tell_of(at, kind, Some(concerned), &printable(message));
        self.delivery.send(Notice {
            at,
            kind,
            message: printable(message),
            subject: ScopeKey::Project(project.id.clone()).to_string(),
            workspace: Some(project.name.clone()),
            readers: Vec::new(),
            is_for_admins: true,
            places: Vec::new(),
        });
    }

    fn place_of(&self, project: &ProjectView) -> Option<Place> {
        let device = self.registry.mounted(&project.id)?.device();
        Some(Place { workspace: project.name.clone(), device })
    }

    /// Returns the directories that grew most in the last day, as the usage index knows them.
    fn growers(&self, project: &ProjectView) -> Vec<String> {
        let subject = Subject {
            workspace: project.id.clone(),
            name: project.name.clone(),
            path: project.dir.clone(),
            relative: PathBuf::new(),
            state: self.usage.state(&project.id),
            available_bytes: None,
        };
        let query = UsageQuery { top: GROWERS, days: 1, cold_days: 30 };
        match usage::report(&self.usage.index_path(&project.id), subject, query, Timestamp::now()) {
            Ok(report) => {
                let grown = report.growing.into_iter().filter_map(|growth| {
                    let bytes = u64::try_from(growth.bytes).ok().filter(|bytes| *bytes > 0)?;
                    Some(format!("{} +{}", growth.path, size(bytes)))
                });
                grown.take(GROWERS as usize).collect()
            }
            Err(error) => {
                debug!(workspace = %project.id, error = %one_line(&error), "notice names nothing that grows");
                Vec::new()
            }
        }
    }
}

/// Whether an event is one that owners find in their notices.
fn is_notice(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::QuotaCrossed
            | EventKind::QuotaGrace
            | EventKind::QuotaRefused
            | EventKind::QuotaForecast
            | EventKind::QuotaDecided
    )
}

/// Returns what users may not have seen yet when a worker starts, oldest first.
pub(crate) fn past_notices(events: &EventLog) -> Vec<Notice> {
    let is_told = |event: &Event| is_notice(event.kind) && event.owner_uid.is_some();
    let notice = |event: Event| {
        Some(Notice {
            at: event.at.parse().ok()?,
            kind: event.kind,
            message: event.message,
            subject: String::new(),
            workspace: event.workspace,
            readers: event.owner_uid.into_iter().collect(),
            is_for_admins: false,
            places: Vec::new(),
        })
    };
    events.last(PAST, is_told).events.into_iter().filter_map(notice).collect()
}

/// Says what happened, without the scope's name; `None` for what is no news to an owner.
fn crossing(kind: &quota::EventKind) -> Option<(EventKind, String)> {
    let amount = |dimension: &Dimension, amount: u64| match dimension {
        Dimension::Bytes => size(amount),
        Dimension::Inodes => format!("{amount} files"),
    };
    let of = |dimension: &Dimension| match dimension {
        Dimension::Bytes => "space",
        Dimension::Inodes => "number of files",
    };
    Some(match kind {
        quota::EventKind::Threshold { dimension, percent, used, hard } => {
            let (used, hard) = (amount(dimension, *used), amount(dimension, *hard));
            (EventKind::QuotaCrossed, format!("has reached {percent} %: {used} of {hard}"))
        }
        quota::EventKind::HardReached { dimension, used, hard } => {
            let (used, hard) = (amount(dimension, *used), amount(dimension, *hard));
            (
                EventKind::QuotaCrossed,
                format!("is full: {used} of {hard}; only small files still fit, if any"),
            )
        }
        quota::EventKind::GraceStarted { dimension, deadline } => {
            let of = of(dimension);
            (
                EventKind::QuotaGrace,
                format!("is over the soft limit ({of}): from {deadline} on nothing may grow"),
            )
        }
        quota::EventKind::GraceEnding { dimension, hours, deadline } => {
            let of = of(dimension);
            let text =
                format!("is over the soft limit ({of}) and has less than {hours} h left, until {deadline}");
            (EventKind::QuotaGrace, text)
        }
        quota::EventKind::GraceExpired { dimension } => {
            let of = of(dimension);
            let text =
                format!("was over the soft limit ({of}) for too long: nothing may grow until less is used");
            (EventKind::QuotaGrace, text)
        }
        quota::EventKind::GraceStopped { dimension } => {
            (EventKind::QuotaGrace, format!("is not over the soft limit ({}) any more", of(dimension)))
        }
        quota::EventKind::BoostExpired { bytes, inodes, .. } => {
            let text = format!("has lost a boost that ended: {} and {inodes} files", size(*bytes));
            (EventKind::QuotaChanged, text)
        }
        quota::EventKind::Saturated { .. }
        | quota::EventKind::WatermarkPassed { .. }
        | quota::EventKind::ClockJumped { .. } => return None,
    })
}

fn title(scope: &ScopeKey, projects: &[ProjectView]) -> String {
    match scope {
        ScopeKey::Project(id) => {
            let name = projects.iter().find(|project| project.id == *id).map(|project| &project.name);
            format!("project {}", name.unwrap_or(id))
        }
        ScopeKey::User(uid) => format!("user uid {uid}"),
        ScopeKey::Group(name) => format!("group {name}"),
        ScopeKey::Pool(_) => "the filesystem below".to_owned(),
    }
}

/// Says who was refused, why, and what to do.
fn refusal_message(
    refused: &Refused,
    path: Option<&Path>,
    projects: &[ProjectView],
    growers: &[String],
) -> String {
    let Refused { refusal, node, caller, process, .. } = refused;
    let path = match path {
        Some(path) if path.as_os_str().is_empty() => ".".to_owned(),
        Some(path) => path.to_string_lossy().into_owned(),
        None => format!("inode {node}"),
    };
    let mut text = format!("write refused: {path} (");
    match process {
        Some(process) => {
            let command = Some(&process.command_line).filter(|line| !line.is_empty());
            text.push_str(&format!("{}, pid {}", command.unwrap_or(&process.command), process.pid));
        }
        None => text.push_str(&format!("pid {}", caller.pid)),
    }
    if let Some(container) = process.as_ref().and_then(|process| process.container.as_ref()) {
        text.push_str(", container ");
        text.extend(container.chars().take(12));
    }
    let amount = |amount: u64| match refusal.dimension {
        Dimension::Bytes => size(amount),
        Dimension::Inodes => format!("{amount} files"),
    };
    let title = title(&refusal.scope, projects);
    let state = match refusal.reason {
        Reason::Hard => format!("has used {} of {}", amount(refusal.used), amount(refusal.limit)),
        Reason::Over => format!("is over its limit, {} of {}", amount(refusal.used), amount(refusal.limit)),
        Reason::GraceExpired => {
            format!(
                "was over its soft limit of {} for too long, it uses {}",
                amount(refusal.limit),
                amount(refusal.used)
            )
        }
        Reason::HostFull => "is as full as it may get".to_owned(),
    };
    text.push_str(&format!("): {title} {state}."));
    if !growers.is_empty() {
        text.push_str(&format!(" Grew most in a day: {}.", growers.join(", ")));
    }
    text.push_str(" See: wsguard usage, wsguard clean --dry-run");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn board_keeps_the_newest_and_forgets_with_the_workspace() {
        let board = NoticeBoard::default();
        for number in 0..KEPT + 5 {
            board.post("w1", "then", &format!("notice\n{number}"));
        }
        let page = board.page("w1");
        assert_eq!(page.lines().count(), KEPT);
        assert_eq!(page.lines().next(), Some("then notice?5"));
        board.forget_others(&["w2".to_owned()]);
        assert_eq!(board.page("w1"), "");
    }

    #[test]
    fn only_what_an_owner_can_act_on_is_news() {
        let kind = |kind| crossing(&kind).map(|(kind, _)| kind);
        let dimension = Dimension::Bytes;
        let threshold = quota::EventKind::Threshold { dimension, percent: 80, used: 8, hard: 10 };
        assert_eq!(kind(threshold), Some(EventKind::QuotaCrossed));
        assert_eq!(kind(quota::EventKind::GraceExpired { dimension }), Some(EventKind::QuotaGrace));
        assert_eq!(kind(quota::EventKind::Saturated { times: 1 }), None);
    }
}
