//! What was deleted: history knows what it was and whether it is kept, the records know who it was.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use wsguard_api::{ApiError, DeletionState, LogBeginning, LogDeletion, LogOperation, LogReport};

use super::history::{operation, shown, time};
use crate::error_chain::one_line;
use crate::restore::{Deleted, Ground, deleted};
use crate::snapshot::{Cause, Event};
use crate::tracker::history::reader::{Answer, By, Entry, Question, ask};
use crate::workspaces::Place;

/// Most deletions of an answer.
const MOST_DELETIONS: usize = 10_000;
/// Records that are searched for who it was.
const MOST_RECORDS: usize = 100_000;
/// History notes a deletion before it is done, the records when it is, and their clocks are read at different moments.
const SAME_TIME_US: u64 = 5_000_000;
/// If the path is not known, the same thread within this time.
const NEAR_US: u64 = 200_000;

/// Adds what was deleted in a workspace that keeps history.
///
/// # Errors
/// If history or the records cannot be read.
pub(super) fn add(
    report: &mut LogReport,
    place: &Place,
    ground: &Ground,
    records: &Path,
    question: &Question,
) -> Result<(), ApiError> {
    let limit = question.limit.min(MOST_DELETIONS);
    let asked = Question { limit: MOST_RECORDS, deletions_only: true, ..question.clone() };
    let answer = ask(records, &asked).unwrap_or_else(|error| {
        // Who it was is then known by number only.
        tracing::warn!(error = %one_line(&error), "records of changes cannot be read");
        Answer::default()
    });
    let records = Records::new(answer.entries);
    let since_ns = question.since_us.map(|since_us| since_us.saturating_mul(1_000));
    let may_be_wanted = |event: &Event| match &question.by {
        None => true,
        Some(By::Uid(uid)) => event.actor.uid == *uid,
        Some(By::Pid(pid)) => event.actor.pid == *pid || records.has_near(event),
        Some(By::Container(_)) => records.has_near(event),
    };
    let is_wanted = |event: &Event, path: Option<&Path>| match &question.by {
        None | Some(By::Uid(_)) => true,
        Some(By::Pid(pid)) => event.actor.pid == *pid || records.of(event, path).is_some(),
        Some(By::Container(_)) => records.of(event, path).is_some(),
    };
    let found = deleted(ground, &place.relative, since_ns, limit, may_be_wanted, is_wanted)
        .map_err(|error| error.to_api())?;
    // What is older than the oldest of as many as were asked for is not asked for; what is hardly later may be the record
    // of an older one.
    let oldest_us =
        (found.len() == limit).then(|| found.last().map(|last| last.event.time_ns / 1_000)).flatten();
    let mut is_known = vec![false; records.entries.len()];
    let mut deletions = Vec::with_capacity(found.len());
    for one in found {
        let record = records.of(&one.event, one.path.as_deref());
        if let Some(index) = record {
            is_known[index] = true;
        }
        deletions.push(of_history(place, &one, record.map(|index| &records.entries[index])));
    }
    // Of the same tick of the clock the later one stays the later one.
    deletions.reverse();
    let unknown = records.entries.iter().zip(is_known).filter(|(entry, is_known)| {
        !is_known
            && oldest_us.is_none_or(|oldest_us| entry.at_us > oldest_us.saturating_add(NEAR_US.cast_signed()))
    });
    deletions.extend(unknown.map(|(entry, _)| of_records(place, entry)));
    deletions.sort_by(|a, b| a.at.cmp(&b.at));
    let surplus = deletions.len().saturating_sub(question.limit);
    deletions.drain(..surplus);
    report.deletions.extend(deletions);
    report.beginnings.extend(
        answer
            .pruned_us
            .map(|at_us| LogBeginning { workspace: place.name.clone(), removed_up_to: time(at_us) }),
    );
    Ok(())
}

/// Records of deletions, by path.
struct Records {
    /// Oldest first, as far as their clock was right.
    entries: Vec<Entry>,
    by_path: HashMap<PathBuf, Vec<usize>>,
    times: Vec<i64>,
}

impl Records {
    fn new(entries: Vec<Entry>) -> Self {
        let mut by_path: HashMap<PathBuf, Vec<usize>> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            if let Some(path) = &entry.path {
                by_path.entry(path.clone()).or_default().push(index);
            }
        }
        let mut times: Vec<i64> = entries.iter().map(|entry| entry.at_us).collect();
        times.sort_unstable();
        Self { entries, by_path, times }
    }

    /// Whether there is any record of about that time.
    fn has_near(&self, event: &Event) -> bool {
        let at_us = event.time_ns / 1_000;
        let next = self.times.partition_point(|time| *time < at_us);
        let near =
            |index: usize| self.times.get(index).is_some_and(|time| time.abs_diff(at_us) <= SAME_TIME_US);
        near(next) || next.checked_sub(1).is_some_and(near)
    }

    /// Returns the record of a deletion: the nearest of that path; or, if nothing is known of the path, one of the same
    /// thread.
    fn of(&self, event: &Event, path: Option<&Path>) -> Option<usize> {
        let at_us = event.time_ns / 1_000;
        let distance = |index: &usize| self.entries[*index].at_us.abs_diff(at_us);
        match path {
            Some(path) => {
                let same = self.by_path.get(path)?.iter().copied().filter(|index| {
                    self.entries[*index].uid == event.actor.uid && distance(index) <= SAME_TIME_US
                });
                same.min_by_key(distance)
            }
            None => (0..self.entries.len())
                .filter(|index| {
                    let entry = &self.entries[*index];
                    entry.process.pid == event.actor.pid && entry.path.is_none() && distance(index) <= NEAR_US
                })
                .min_by_key(distance),
        }
    }
}

fn of_history(place: &Place, deleted: &Deleted, record: Option<&Entry>) -> LogDeletion {
    let event = &deleted.event;
    let process = record.map(|entry| &entry.process);
    LogDeletion {
        at: time(event.time_ns / 1_000),
        workspace: place.name.clone(),
        operation: match event.cause {
            Cause::RemoveDirectory => LogOperation::RemoveDirectory,
            Cause::Rename => LogOperation::Replace,
            _ => LogOperation::Unlink,
        },
        kind: Some(deleted.kind),
        path: deleted.path.as_deref().map(|path| shown(place, path)),
        size: deleted.size,
        uid: event.actor.uid,
        pid: process.map_or(event.actor.pid, |process| process.pid),
        command: process.map_or_else(String::new, |process| process.command.clone()),
        command_line: process.map_or_else(String::new, |process| process.command_line.clone()),
        container: process.and_then(|process| process.container.clone()),
        state: deleted.state,
        certainty: deleted.certainty,
        restore: deleted.when.clone(),
    }
}

/// What history does not have: given up meanwhile, or too short-lived to be kept.
fn of_records(place: &Place, entry: &Entry) -> LogDeletion {
    LogDeletion {
        at: time(entry.at_us),
        workspace: place.name.clone(),
        operation: operation(entry.operation),
        kind: None,
        path: entry.path.as_deref().map(|path| shown(place, path)),
        size: None,
        uid: entry.uid,
        pid: entry.process.pid,
        command: entry.process.command.clone(),
        command_line: entry.process.command_line.clone(),
        container: entry.process.container.clone(),
        state: DeletionState::NotKept,
        certainty: None,
        restore: None,
    }
}
