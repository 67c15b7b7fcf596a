//! What the recorder keeps of one workspace between two looks at its queue.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustc_hash::FxHashMap;
use tracing::{info, warn};

use super::Tracker;
use super::history::{Bounds, Gap, History, HistoryError, NamedPlace, Row};
use super::names::Places;
use super::process::Process;
use super::queue::Item;
use super::record::{Operation, Record};
use crate::error_chain::one_line;

/// How long writes to open files are collected before they are stored.
const LIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How often old records are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// How long a history that nobody writes to stays open.
const IDLE: Duration = Duration::from_secs(60);

/// How often at most a history that cannot be written is tried again and complained about.
const RETRY: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Lane {
    pub(super) tracker: Arc<Tracker>,
    options: HistoryOptions,
    places: Places,
    /// Waits to be stored: what open files have written.
    live: Vec<Row>,
    gaps: Vec<Gap>,
    history: Option<History>,
    used: Instant,
    live_since: Option<Instant>,
    pruned: Option<Instant>,
    retry_at: Option<Instant>,
    /// Time of the last record that was taken out of the queue.
    last_us: Option<i64>,
    /// Records that the last look found lost.
    dropped: u64,
    unstored: Unstored,
}

/// Records that the disk did not take.
#[derive(Default)]
struct Unstored {
    records: u64,
    from_us: i64,
}

/// Where and how histories are stored.
#[derive(Clone, Debug)]
pub(crate) struct HistoryOptions {
    /// The directory of the files.
    pub(crate) directory: std::path::PathBuf,
    /// How large and old they may get.
    pub(crate) bounds: Bounds,
    /// Whether anything is recorded.
    pub(crate) is_on: bool,
}

/// What [`Lane::drain`] looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// What has happened.
    QueueOnly,
    /// And what goes on.
    OpenFilesToo,
}

/// What one look at the queue brought.
pub(super) struct Drained {
    /// In the order in which they happened.
    pub(super) records: Vec<Record>,
    /// Who made each of them.
    pub(super) processes: Vec<Option<Arc<Process>>>,
    pub(super) dropped: u64,
}

impl Lane {
    pub(super) fn new(tracker: Arc<Tracker>, options: HistoryOptions) -> Self {
        Self {
            tracker,
            options,
            places: Places::new(),
            live: Vec::new(),
            gaps: Vec::new(),
            history: None,
            used: Instant::now(),
            live_since: None,
            pruned: None,
            retry_at: None,
            last_us: None,
            dropped: 0,
            unstored: Unstored::default(),
        }
    }

    /// Whether nobody but the recorder knows the workspace any more and everything of it is stored.
    pub(super) fn is_over(&self) -> bool {
        Arc::strong_count(&self.tracker) <= 2 && self.tracker.queue.is_empty() && self.live.is_empty()
    }

    /// Takes what is in the queue and, if asked to, what open files have written since the last look.
    pub(super) fn drain(&mut self, look: Look) -> Drained {
        // Before the queue, so that what created a file is not taken after what was written to it.
        let written = match look {
            Look::QueueOnly => Vec::new(),
            Look::OpenFilesToo => self.fold_open_files(),
        };
        let mut items = Vec::new();
        while let Some(item) = self.tracker.queue.pop() {
            items.push(item);
        }
        let later_names = later_names(&items);
        let mut taken: Vec<(Record, Option<Arc<Process>>, Row)> = Vec::new();
        for item in items {
            match item {
                Item::Located { node, parent, name } => self.places.put(node, parent, name),
                Item::NamesChanged => self.places.clear(),
                Item::Interrupted { reason } => {
                    self.open();
                    self.note_interruption(reason);
                }
                Item::Record(record, process) => {
                    let row = self.row(&record, &later_names, process.clone());
                    self.places.follow(&record);
                    taken.push((record, process, row));
                }
            }
        }
        let is_urgent = !taken.is_empty();
        for (record, process) in written {
            let row = self.row(&record, &later_names, process.clone());
            taken.push((record, process, row));
        }
        // Stable: what one thread did stays in its order, whatever the clock says.
        taken.sort_by_key(|(record, ..)| record.at_us);
        self.note_dropped();
        let dropped = self.dropped;
        let mut drained = Drained { records: Vec::new(), processes: Vec::new(), dropped };
        for (record, process, row) in taken {
            self.live.push(row);
            drained.records.push(record);
            drained.processes.push(process);
        }
        self.last_us = drained.records.last().map(|last| last.at_us).or(self.last_us);
        self.live = folded(std::mem::take(&mut self.live));
        if !self.live.is_empty() {
            let since = *self.live_since.get_or_insert_with(Instant::now);
            if is_urgent || since.elapsed() >= LIVE_INTERVAL {
                self.store_live();
            }
        } else if !self.gaps.is_empty() {
            self.store(Vec::new());
        }
        drained
    }

    fn fold_open_files(&self) -> Vec<(Record, Option<Arc<Process>>)> {
        let mut written = Vec::new();
        for tally in self.tracker.tallies.open_now() {
            tally.renew_process();
            written.extend(tally.fold().map(|record| (record, tally.process())));
        }
        written
    }

    /// Counts what did not fit into the queue.
    fn note_dropped(&mut self) {
        self.dropped = self.tracker.queue.take_dropped();
        if self.dropped == 0 {
            return;
        }
        let now_us = Timestamp::now().as_microsecond();
        warn!(workspace = self.tracker.workspace(), records = self.dropped, "records of changes were lost");
        self.gaps.push(Gap {
            from_us: self.last_us.unwrap_or(now_us),
            to_us: now_us,
            records: Some(self.dropped),
            reason: "changes came faster than they could be recorded".to_owned(),
        });
    }

    /// Stores what waits for it.
    pub(super) fn store_live(&mut self) {
        self.live_since = None;
        let live = std::mem::take(&mut self.live);
        if !live.is_empty() {
            self.store(live);
        }
    }

    /// Removes old records and closes what is not used.
    pub(super) fn tidy(&mut self) {
        let is_due = self.pruned.is_none_or(|pruned| pruned.elapsed() >= PRUNE_INTERVAL);
        if let Some(history) = self.history.as_mut().filter(|_| is_due) {
            self.pruned = Some(Instant::now());
            match history.prune(self.options.bounds, Timestamp::now().as_microsecond()) {
                Ok(0) => {}
                Ok(records) => {
                    info!(workspace = self.tracker.workspace(), records, "old records were removed");
                }
                Err(error) => {
                    warn!(workspace = self.tracker.workspace(), error = %one_line(&error), "history stays as long as it is");
                }
            }
        }
        if self.used.elapsed() >= IDLE {
            self.close();
        }
    }

    /// Ends the history so that the next one who opens it knows that nothing is missing.
    pub(super) fn close(&mut self) {
        self.store_live();
        if self.unstored.records > 0 {
            // Stays marked as interrupted.
            self.history = None;
        }
        if let Some(history) = self.history.take()
            && let Err(error) = history.close()
        {
            warn!(workspace = self.tracker.workspace(), error = %one_line(&error), "history is not closed");
        }
    }

    /// Opens the history if it is not open and was not just found unusable.
    fn open(&mut self) {
        let may = self.retry_at.is_none_or(|at| at <= Instant::now());
        if self.history.is_some() || !may {
            return;
        }
        match History::open(&self.options.directory, self.tracker.workspace()) {
            Ok(opened) => {
                if let Some((path, reason)) = opened.moved_aside {
                    warn!(workspace = self.tracker.workspace(), path = %path.display(), reason, "history was damaged and moved aside");
                    self.gaps.push(Gap {
                        from_us: 0,
                        to_us: Timestamp::now().as_microsecond(),
                        records: None,
                        reason: format!("the history was damaged; the old file is {}", path.display()),
                    });
                }
                self.history = Some(opened.history);
                if opened.was_interrupted {
                    self.note_interruption("the daemon ended before it could store everything");
                }
                self.retry_at = None;
            }
            Err(error) => self.complain(&error),
        }
    }

    /// Up to a moment's worth of records went with a worker.
    fn note_interruption(&mut self, reason: &str) {
        let now_us = Timestamp::now().as_microsecond();
        let newest = match self.history.as_ref().map(History::newest_us) {
            Some(Ok(newest)) => newest,
            // Told when the next batch is stored, if it stays so.
            Some(Err(_)) | None => None,
        };
        let from_us = newest.unwrap_or(now_us);
        // A worker's death and the state in which it left the file are one interruption, and the first is the reason.
        let known = |gap: &&mut Gap| gap.records.is_none() && gap.from_us == from_us;
        if let Some(gap) = self.gaps.iter_mut().find(known) {
            reason.clone_into(&mut gap.reason);
            return;
        }
        self.gaps.push(Gap { from_us, to_us: now_us, records: None, reason: reason.to_owned() });
    }

    fn store(&mut self, rows: Vec<Row>) {
        self.used = Instant::now();
        self.open();
        if self.unstored.records > 0 && self.history.is_some() {
            let Unstored { records, from_us } = std::mem::take(&mut self.unstored);
            self.gaps.push(Gap {
                from_us,
                to_us: Timestamp::now().as_microsecond(),
                records: Some(records),
                reason: "the state directory's disk did not take them".to_owned(),
            });
        }
        let stored = match &mut self.history {
            Some(history) => history.store(&rows, &self.gaps),
            None => {
                self.count_unstored(&rows);
                return;
            }
        };
        match stored {
            Ok(()) => self.gaps.clear(),
            Err(error) => {
                self.count_unstored(&rows);
                self.history = None;
                self.complain(&error);
            }
        }
    }

    fn count_unstored(&mut self, rows: &[Row]) {
        let Some(first) = rows.first() else { return };
        if self.unstored.records == 0 {
            self.unstored.from_us = first.at_us;
        }
        self.unstored.records += rows.len() as u64;
    }

    fn complain(&mut self, error: &HistoryError) {
        warn!(workspace = self.tracker.workspace(), error = %one_line(error), "history cannot be written");
        self.retry_at = Some(Instant::now() + RETRY);
    }

    /// Puts paths and process to a record.
    fn row(
        &mut self,
        record: &Record,
        later_names: &FxHashMap<u64, (u64, Box<OsStr>)>,
        process: Option<Arc<Process>>,
    ) -> Row {
        let place = match &record.name {
            Some(name) => self.named(record.parent, name),
            None => self.place_of(record.node, later_names),
        };
        let to_place = record.to_name.as_deref().and_then(|name| self.named(record.to_parent, name));
        Row {
            at_us: record.at_us,
            operation: record.operation,
            node: record.node,
            place,
            to_place,
            start: record.offset,
            end: record.end,
            bytes: record.bytes,
            delta_bytes: record.delta_bytes,
            uid: record.uid,
            pid: record.pid,
            process,
        }
    }

    fn named(&mut self, parent: u64, name: &OsStr) -> Option<NamedPlace> {
        let tracker = &self.tracker;
        let directory = self.places.directory(parent, &|node| tracker.locate_now(node))?;
        Some(NamedPlace { directory, name: name.as_bytes().to_vec() })
    }

    /// Returns where an inode is that its record did not name: the root, what is known of it, the name that a later
    /// record of the same batch gives it (it may be gone by now), or what the filesystem says at this moment.
    fn place_of(&mut self, node: u64, later_names: &FxHashMap<u64, (u64, Box<OsStr>)>) -> Option<NamedPlace> {
        if let Some(place) = self.places.get(node).cloned() {
            return self.named(place.parent, &place.name);
        }
        let (parent, name) = later_names.get(&node).cloned().or_else(|| self.tracker.locate_now(node))?;
        self.places.put(node, parent, name.clone());
        self.named(parent, &name)
    }

    /// Returns the path of an inode relative to the workspace, as far as it is known.
    pub(super) fn path_of(&mut self, node: u64) -> Option<std::path::PathBuf> {
        let NamedPlace { directory, name } = self.place_of(node, &FxHashMap::default())?;
        Some(Path::new(OsStr::from_bytes(&directory)).join(OsStr::from_bytes(&name)))
    }
}

/// Returns the first name that the records give to each inode.
fn later_names(items: &[Item]) -> FxHashMap<u64, (u64, Box<OsStr>)> {
    let mut names = FxHashMap::default();
    for item in items {
        if let Item::Record(Record { node, parent, name: Some(name), .. }, _) = item
            && *node != 0
        {
            names.entry(*node).or_insert_with(|| (*parent, name.clone()));
        }
    }
    names
}

/// Makes fewer rows of those that tell of one thing: writes of one process to one file, and what a program does to a
/// file right after it has created it (contents, mode, times).
fn folded(rows: Vec<Row>) -> Vec<Row> {
    let mut folded: Vec<Row> = Vec::with_capacity(rows.len());
    let mut last: HashMap<u64, usize, rustc_hash::FxBuildHasher> = HashMap::default();
    for row in rows {
        let earlier = last.get(&row.node).and_then(|index| folded.get_mut(*index));
        if let Some(earlier) = earlier.filter(|earlier| row.node != 0 && absorbs(earlier, &row)) {
            if row.operation == Operation::Write {
                let is_first = earlier.bytes == 0;
                earlier.start = if is_first { row.start } else { earlier.start.min(row.start) };
                earlier.end = earlier.end.max(row.end);
                earlier.bytes = earlier.bytes.saturating_add(row.bytes);
            }
            earlier.delta_bytes = earlier.delta_bytes.saturating_add(row.delta_bytes);
            continue;
        }
        last.insert(row.node, folded.len());
        folded.push(row);
    }
    folded
}

fn absorbs(earlier: &Row, later: &Row) -> bool {
    use Operation::{Create, MakeDirectory, MakeNode, MakeSymlink, SetAttributes, Write};
    let is_same = earlier.uid == later.uid
        && earlier.pid == later.pid
        && earlier.process == later.process
        && earlier.place == later.place;
    is_same
        && match later.operation {
            Write => matches!(earlier.operation, Create | Write),
            SetAttributes => {
                matches!(earlier.operation, Create | MakeDirectory | MakeNode | MakeSymlink | SetAttributes)
            }
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(operation: Operation, node: u64, bytes: u64) -> Row {
        Row {
            at_us: 1,
            operation,
            node,
            place: Some(NamedPlace { directory: b"d".to_vec(), name: node.to_string().into_bytes() }),
            to_place: None,
            start: if bytes > 0 { 100 } else { 0 },
            end: if bytes > 0 { 100 + bytes } else { 0 },
            bytes,
            delta_bytes: 4096,
            uid: 0,
            pid: 7,
            process: None,
        }
    }

    #[test]
    fn file_that_is_created_filled_and_touched_is_one_row() {
        let rows = folded(vec![
            row(Operation::Create, 5, 0),
            row(Operation::Create, 6, 0),
            row(Operation::Write, 5, 10),
            row(Operation::SetAttributes, 5, 0),
            row(Operation::Write, 5, 20),
            row(Operation::Unlink, 6, 0),
        ]);
        let kinds: Vec<_> = rows.iter().map(|row| (row.operation, row.node)).collect();
        assert_eq!(kinds, [(Operation::Create, 5), (Operation::Create, 6), (Operation::Unlink, 6)]);
        assert_eq!(
            (rows[0].start, rows[0].end, rows[0].bytes, rows[0].delta_bytes),
            (100, 120, 30, 4 * 4096)
        );
    }

    #[test]
    fn what_another_process_or_another_name_does_stays_apart() {
        let mut other = row(Operation::Write, 5, 1);
        other.pid = 8;
        let mut elsewhere = row(Operation::Write, 5, 1);
        elsewhere.place = None;
        let rows = folded(vec![row(Operation::Write, 5, 1), other, elsewhere, row(Operation::Write, 5, 1)]);
        assert_eq!(rows.len(), 4);
    }

    #[test]
    fn nothing_is_folded_over_a_deletion() {
        let rows = folded(vec![
            row(Operation::Write, 5, 1),
            row(Operation::Unlink, 5, 0),
            row(Operation::Create, 5, 0),
            row(Operation::Write, 5, 1),
        ]);
        let kinds: Vec<_> = rows.iter().map(|row| row.operation).collect();
        assert_eq!(kinds, [Operation::Write, Operation::Unlink, Operation::Create]);
    }
}
