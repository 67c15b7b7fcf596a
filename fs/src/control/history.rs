//! What happened, who writes now, and events.

use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use wsguard_api::{
    ApiError, ErrorCode, Event, EventList, LogBeginning, LogBy, LogEntry, LogGap, LogOperation, LogReport,
    LogRequest, SCHEMA_VERSION, TopFile, TopReport, TopWorkspace, TopWriter,
};

use super::deletions;
use crate::error_chain::one_line;
use crate::events::{EventLog, Page};
use crate::restore::Ground;
use crate::tracker::history::file_of;
use crate::tracker::history::reader::{Answer, By, Entry, Question, ask};
use crate::tracker::{Activity, OpenFile, Operation, Recorder, Writer};
use crate::workspaces::{Place, Registry, Viewer};

/// Entries of an answer when nothing is said.
const DEFAULT_LIMIT: usize = 100;

/// Most entries of an answer.
const MOST_ENTRIES: usize = 100_000;

/// How long an answer waits for what is just being stored; without it the last moment is missing.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// How long somebody who follows events may wait for the next one.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Answers `POST /log`. Reads files: not for the event loop.
pub(super) fn log(
    recorder: &Recorder,
    registry: &Registry,
    viewer: Viewer,
    request: &LogRequest,
) -> Result<LogReport, ApiError> {
    let question = question(request)?;
    let places = match &request.path {
        Some(path) => vec![registry.place_of(checked(path)?, viewer)?],
        None => registry.places(viewer),
    };
    if !recorder.flush(FLUSH_PATIENCE) {
        tracing::warn!("an answer about the past lacks the last moments: the disk is slow");
    }
    let mut report = LogReport {
        schema: SCHEMA_VERSION,
        generated_at: Timestamp::now().to_string(),
        entries: Vec::new(),
        deletions: Vec::new(),
        gaps: Vec::new(),
        beginnings: Vec::new(),
    };
    for place in &places {
        let question = Question { path: place.relative.clone(), ..question.clone() };
        if question.deletions_only
            && let Some(ground) = ground(registry, viewer, place)
        {
            deletions::add(
                &mut report,
                place,
                &ground,
                &file_of(recorder.directory(), &place.id),
                &question,
            )?;
            continue;
        }
        let answer = ask(&file_of(recorder.directory(), &place.id), &question).map_err(|error| {
            ApiError::new(
                ErrorCode::Internal,
                format!("cannot read the history of {}: {}", place.name, one_line(&error)),
            )
            .with_hint("see the daemon's log; a damaged history is moved aside at the next change")
        })?;
        add(&mut report, place, answer);
    }
    // Of one workspace they are in order already, whatever its clock did.
    if places.len() > 1 {
        report.entries.sort_by(|a, b| a.at.cmp(&b.at));
        let surplus = report.entries.len().saturating_sub(question.limit);
        report.entries.drain(..surplus);
        report.deletions.sort_by(|a, b| a.at.cmp(&b.at));
        let surplus = report.deletions.len().saturating_sub(question.limit);
        report.deletions.drain(..surplus);
    }
    Ok(report)
}

/// Returns the past of a workspace, if it is mounted and has one.
fn ground(registry: &Registry, viewer: Viewer, place: &Place) -> Option<Ground> {
    match registry.guard(&place.id, viewer).ok()?.mounted.ground() {
        Ok(ground) => Some(ground),
        Err(reason) => {
            tracing::debug!(workspace = %place.id, reason, "deletions are told from the records alone");
            None
        }
    }
}

fn question(request: &LogRequest) -> Result<Question, ApiError> {
    let invalid = |message: String| ApiError::new(ErrorCode::InvalidRequest, message);
    let since_us = match &request.since {
        Some(since) => Some(
            since
                .parse::<Timestamp>()
                .map_err(|error| invalid(format!("since = {since:?} is not a time: {error}")))?
                .as_microsecond(),
        ),
        None => None,
    };
    let by = match request.by.clone() {
        None => None,
        Some(LogBy::Pid(pid)) => Some(By::Pid(pid)),
        Some(LogBy::Uid(uid)) => Some(By::Uid(uid)),
        Some(LogBy::Container(id)) if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Some(By::Container(id.to_ascii_lowercase()))
        }
        Some(LogBy::Container(id)) => {
            return Err(invalid(format!("{id:?} is not the beginning of a container's id"))
                .with_hint("`docker ps` shows ids; names are not stored"));
        }
    };
    let limit = usize::try_from(request.limit).unwrap_or(MOST_ENTRIES).min(MOST_ENTRIES);
    Ok(Question {
        path: Default::default(),
        by,
        since_us,
        deletions_only: request.deleted,
        limit: if limit == 0 { DEFAULT_LIMIT } else { limit },
    })
}

fn checked(path: &Path) -> Result<&Path, ApiError> {
    if path.is_absolute() && path.components().all(|part| part != Component::ParentDir) {
        return Ok(path);
    }
    Err(ApiError::new(
        ErrorCode::InvalidRequest,
        format!("{} is not absolute or has .. in it", path.display()),
    )
    .with_hint("give an absolute path"))
}

fn add(report: &mut LogReport, place: &Place, answer: Answer) {
    let workspace = || place.name.clone();
    report.entries.extend(answer.entries.into_iter().map(|entry| log_entry(place, entry)));
    report.gaps.extend(answer.gaps.into_iter().map(|gap| LogGap {
        workspace: workspace(),
        from: time(gap.from_us),
        to: time(gap.to_us),
        records: gap.records,
        reason: gap.reason,
    }));
    report.beginnings.extend(
        answer.pruned_us.map(|at_us| LogBeginning { workspace: workspace(), removed_up_to: time(at_us) }),
    );
}

fn log_entry(place: &Place, entry: Entry) -> LogEntry {
    LogEntry {
        at: time(entry.at_us),
        workspace: place.name.clone(),
        operation: operation(entry.operation),
        path: entry.path.as_deref().map(|path| shown(place, path)),
        to_path: entry.to_path.as_deref().map(|path| shown(place, path)),
        inode: entry.node,
        start: entry.start,
        end: entry.end,
        bytes: entry.bytes,
        delta_bytes: entry.delta_bytes,
        uid: entry.uid,
        pid: entry.process.pid,
        command: entry.process.command,
        command_line: entry.process.command_line,
        container: entry.process.container,
    }
}

/// All times have six digits, so that they sort as text.
pub(super) fn time(at_us: i64) -> String {
    let at = Timestamp::from_microsecond(at_us).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{at:.6}")
}

pub(super) fn shown(place: &Place, relative: &Path) -> String {
    place.mount_point.join(relative).to_string_lossy().into_owned()
}

pub(super) fn operation(operation: Operation) -> LogOperation {
    match operation {
        Operation::Create => LogOperation::Create,
        Operation::MakeDirectory => LogOperation::MakeDirectory,
        Operation::MakeSymlink => LogOperation::MakeSymlink,
        Operation::MakeNode => LogOperation::MakeNode,
        Operation::Link => LogOperation::Link,
        Operation::Rename => LogOperation::Rename,
        Operation::Exchange => LogOperation::Exchange,
        Operation::Replace => LogOperation::Replace,
        Operation::Unlink => LogOperation::Unlink,
        Operation::RemoveDirectory => LogOperation::RemoveDirectory,
        Operation::Write => LogOperation::Write,
        Operation::Truncate => LogOperation::Truncate,
        Operation::Allocate => LogOperation::Allocate,
        Operation::CopyRange => LogOperation::CopyRange,
        Operation::SetAttributes => LogOperation::SetAttributes,
        Operation::SetExtendedAttribute => LogOperation::SetExtendedAttribute,
    }
}

/// Answers `GET /top`.
pub(super) fn top(recorder: &Recorder, registry: &Registry, viewer: Viewer) -> TopReport {
    let mut activity = recorder.activity();
    let mut workspaces = Vec::new();
    for place in registry.places(viewer) {
        let Some(index) = activity.iter().position(|activity| activity.workspace == place.id) else {
            continue;
        };
        let Activity { writers, open_files, open_file_count, .. } = activity.swap_remove(index);
        workspaces.push(TopWorkspace {
            id: place.id.clone(),
            name: place.name.clone(),
            writers: writers.into_iter().map(top_writer).collect(),
            open_files: open_files.into_iter().map(|file| top_file(&place, file)).collect(),
            open_file_count,
        });
    }
    TopReport { schema: SCHEMA_VERSION, generated_at: Timestamp::now().to_string(), workspaces }
}

fn top_writer(writer: Writer) -> TopWriter {
    let process = writer.process.as_deref();
    TopWriter {
        uid: writer.uid,
        pid: writer.pid,
        command: process.map_or_else(String::new, |process| process.command.clone()),
        command_line: process.map_or_else(String::new, |process| process.command_line.clone()),
        container: process.and_then(|process| process.container.clone()),
        bytes_per_second: writer.bytes_per_second,
        changes_per_second: writer.changes_per_second,
        bytes: writer.bytes,
        open_files: writer.open_files,
    }
}

fn top_file(place: &Place, file: OpenFile) -> TopFile {
    let process = file.process.as_deref();
    TopFile {
        path: file.path.as_deref().map(|path| shown(place, path)),
        uid: file.uid,
        pid: file.pid,
        command: process.map_or_else(String::new, |process| process.command.clone()),
        container: process.and_then(|process| process.container.clone()),
        bytes: file.bytes,
        bytes_per_second: file.bytes_per_second,
        open_seconds: file.open_for.as_secs(),
    }
}

/// What `GET /events` asks with.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct EventQuery {
    /// Only what comes after this one.
    after: Option<u64>,
    /// Waits so long for the first one if there is none.
    wait_seconds: u64,
    /// Only the newest so many, without `after`.
    last: Option<usize>,
}

/// Answers `GET /events`, at once or when something happens.
pub(super) async fn events(log: &Arc<EventLog>, viewer: Viewer, query: EventQuery) -> EventList {
    let sees = |event: &Event| event.owner_uid.is_none_or(|owner| viewer.sees(owner));
    let Some(after) = query.after else {
        return list(log.last(query.last.unwrap_or(usize::MAX), sees));
    };
    let deadline = Instant::now() + Duration::from_secs(query.wait_seconds).min(LONGEST_WAIT);
    let mut newest = log.watch();
    loop {
        newest.mark_unchanged();
        let page = log.after(after, sees);
        if !page.events.is_empty() {
            return list(page);
        }
        // An error would mean that the log is gone, which this function holds.
        match tokio::time::timeout_at(deadline, newest.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return list(page),
        }
    }
}

fn list(page: Page) -> EventList {
    EventList { schema: SCHEMA_VERSION, events: page.events, next: page.next, has_gap: page.has_gap }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn times_sort_as_text() {
        let times = [0, 1, 999_999, 1_000_000, 1_700_000_000_000_000].map(time);
        assert!(times.is_sorted(), "{times:?}");
        assert_eq!(times[1], "1970-01-01T00:00:00.000001Z");
    }

    #[test]
    fn wrong_requests_say_what_is_wrong() {
        let since = LogRequest { since: Some("yesterday".to_owned()), ..LogRequest::default() };
        assert!(question(&since).unwrap_err().message.contains("yesterday"));
        for id in ["", "bert", "%"] {
            let by = LogRequest { by: Some(LogBy::Container(id.to_owned())), ..LogRequest::default() };
            assert_eq!(question(&by).unwrap_err().code, ErrorCode::InvalidRequest, "{id}");
        }
        for path in ["relative", "/a/../b"] {
            assert_eq!(checked(Path::new(path)).unwrap_err().code, ErrorCode::InvalidRequest);
        }
        assert_eq!(
            question(&LogRequest { limit: u32::MAX, ..LogRequest::default() }).unwrap().limit,
            MOST_ENTRIES
        );
    }

    #[test]
    fn name_that_is_not_utf_8_is_shown_lossily() {
        let place = Place {
            id: "w1".to_owned(),
            name: "bert".to_owned(),
            mount_point: "/home/a/bert".into(),
            relative: Default::default(),
        };
        assert_eq!(shown(&place, Path::new(OsStr::from_bytes(b"d/\xff"))), "/home/a/bert/d/\u{fffd}");
    }
}
