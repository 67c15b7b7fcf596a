//! Who writes at this moment, and what is open for writing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::process::Process;
use super::record::Record;
use super::tally::TallyView;

/// How long the rates are measured over: long enough to be read, short enough to be now.
const WINDOW: usize = 3;

/// How long somebody is shown after their last change.
const SHOWN: Duration = Duration::from_secs(10);

/// Files that are listed at most, those that were written most.
pub(super) const MOST_FILES: usize = 200;

/// Who: uid, thread and, if it was attributed, process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Who {
    uid: u32,
    pid: u32,
    process: Option<Arc<Process>>,
}

/// Sums of the last looks.
struct Meter {
    bytes: [u64; WINDOW],
    changes: [u64; WINDOW],
    total_bytes: u64,
    last: Instant,
}

/// Measures one workspace.
#[derive(Default)]
pub(super) struct Meters {
    meters: FxHashMap<Who, Meter>,
    seen: FxHashMap<u64, u64>,
    slot: usize,
    slot_seconds: [f64; WINDOW],
}

/// One process that writes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Writer {
    /// Filesystem uid.
    pub(crate) uid: u32,
    /// Its pid; the thread's where the process is not known.
    pub(crate) pid: u32,
    /// `None` if it is not known.
    pub(crate) process: Option<Arc<Process>>,
    /// Bytes written a second.
    pub(crate) bytes_per_second: f64,
    /// Changes of any kind a second; writes to one open file count once a second.
    pub(crate) changes_per_second: f64,
    /// Bytes written since it is shown.
    pub(crate) bytes: u64,
    /// Files that it has open for writing.
    pub(crate) open_files: u64,
}

/// One file that is open for writing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OpenFile {
    /// Relative to the workspace; `None` if it has no name any more or it is not known.
    pub(crate) path: Option<PathBuf>,
    /// Who opened it.
    pub(crate) uid: u32,
    /// As [`Writer::pid`].
    pub(crate) pid: u32,
    /// As [`Writer::process`].
    pub(crate) process: Option<Arc<Process>>,
    /// Bytes written through this open.
    pub(crate) bytes: u64,
    /// Bytes a second since the last look.
    pub(crate) bytes_per_second: f64,
    /// For how long it is open.
    pub(crate) open_for: Duration,
}

/// One workspace in which something happens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Activity {
    /// Its id.
    pub(crate) workspace: String,
    /// Fastest first.
    pub(crate) writers: Vec<Writer>,
    /// Fastest first, then largest.
    pub(crate) open_files: Vec<OpenFile>,
    /// Files open for writing, those included that are not listed.
    pub(crate) open_file_count: u64,
}

impl Meters {
    pub(super) fn is_empty(&self) -> bool {
        self.meters.is_empty() && self.seen.is_empty()
    }

    /// Counts records.
    pub(super) fn count(&mut self, records: &[Record], processes: &[Option<Arc<Process>>]) {
        for (record, process) in records.iter().zip(processes) {
            let who = Who::new(record.uid, record.pid, process.clone());
            let meter = self.meters.entry(who).or_insert_with(|| Meter {
                bytes: [0; WINDOW],
                changes: [0; WINDOW],
                total_bytes: 0,
                last: Instant::now(),
            });
            meter.last = Instant::now();
            meter.total_bytes = meter.total_bytes.saturating_add(record.bytes);
            meter.bytes[self.slot] = meter.bytes[self.slot].saturating_add(record.bytes);
            meter.changes[self.slot] += 1;
        }
    }

    /// Ends a look that took `elapsed` and returns what it showed.
    pub(super) fn finish(
        &mut self,
        workspace: &str,
        elapsed: Duration,
        open: Vec<TallyView>,
        mut path_of: impl FnMut(u64) -> Option<PathBuf>,
    ) -> Activity {
        self.slot_seconds[self.slot] = elapsed.as_secs_f64();
        let seconds: f64 = self.slot_seconds.iter().sum::<f64>().max(0.001);
        let open_file_count = open.len() as u64;
        let mut opened: FxHashMap<Who, u64> = FxHashMap::default();
        let before = std::mem::take(&mut self.seen);
        let mut files: Vec<(TallyView, f64)> = Vec::with_capacity(open.len());
        for view in open {
            *opened.entry(Who::new(view.uid, view.pid, view.process.clone())).or_default() += 1;
            let grown = view.bytes.saturating_sub(before.get(&view.id).copied().unwrap_or(0));
            self.seen.insert(view.id, view.bytes);
            files.push((view, grown as f64 / elapsed.as_secs_f64().max(0.001)));
        }
        files.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then_with(|| b.0.bytes.cmp(&a.0.bytes)));
        files.truncate(MOST_FILES);
        let open_files = files
            .into_iter()
            .map(|(view, bytes_per_second)| OpenFile {
                path: path_of(view.node),
                uid: view.uid,
                pid: view.process.as_ref().map_or(view.pid, |process| process.pid),
                process: view.process,
                bytes: view.bytes,
                bytes_per_second,
                open_for: view.opened_at.elapsed(),
            })
            .collect();

        self.meters.retain(|who, meter| meter.last.elapsed() < SHOWN || opened.contains_key(who));
        let mut writers: Vec<Writer> = Vec::new();
        for (who, meter) in &self.meters {
            writers.push(who.writer(
                meter.bytes.iter().sum::<u64>() as f64 / seconds,
                meter.changes.iter().sum::<u64>() as f64 / seconds,
                meter.total_bytes,
                opened.remove(who).unwrap_or(0),
            ));
        }
        writers.extend(opened.into_iter().map(|(who, files)| who.writer(0.0, 0.0, 0, files)));
        writers.sort_unstable_by(|a, b| {
            b.bytes_per_second
                .total_cmp(&a.bytes_per_second)
                .then_with(|| b.changes_per_second.total_cmp(&a.changes_per_second))
                .then_with(|| a.pid.cmp(&b.pid))
        });
        self.slot = (self.slot + 1) % WINDOW;
        self.slot_seconds[self.slot] = 0.0;
        for meter in self.meters.values_mut() {
            meter.bytes[self.slot] = 0;
            meter.changes[self.slot] = 0;
        }
        Activity { workspace: workspace.to_owned(), writers, open_files, open_file_count }
    }
}

impl Who {
    /// Threads of one process are one.
    fn new(uid: u32, pid: u32, process: Option<Arc<Process>>) -> Self {
        let pid = process.as_ref().map_or(pid, |process| process.pid);
        Self { uid, pid, process }
    }

    fn writer(&self, bytes_per_second: f64, changes_per_second: f64, bytes: u64, open_files: u64) -> Writer {
        Writer {
            uid: self.uid,
            pid: self.pid,
            process: self.process.clone(),
            bytes_per_second,
            changes_per_second,
            bytes,
            open_files,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Operation;
    use super::*;

    fn written(pid: u32, bytes: u64) -> Record {
        Record::new(Operation::Write, 5, 1000, pid).costing(bytes, 0)
    }

    fn finish(meters: &mut Meters, open: Vec<TallyView>) -> Activity {
        meters.finish("w", Duration::from_secs(1), open, |node| Some(node.to_string().into()))
    }

    #[test]
    fn rates_are_those_of_the_window_and_totals_grow() {
        let mut meters = Meters::default();
        meters.count(&[written(7, 3000), written(8, 100), written(7, 3000)], &[None, None, None]);
        let activity = finish(&mut meters, Vec::new());
        let [fast, slow] = activity.writers.as_slice() else { panic!("{activity:?}") };
        assert_eq!(
            (fast.pid, fast.bytes_per_second, fast.changes_per_second, fast.bytes),
            (7, 6000.0, 2.0, 6000)
        );
        assert_eq!((slow.pid, slow.bytes_per_second), (8, 100.0));
        for _ in 0..WINDOW {
            finish(&mut meters, Vec::new());
        }
        let activity = finish(&mut meters, Vec::new());
        let fast = activity.writers.iter().find(|writer| writer.pid == 7).unwrap();
        assert_eq!(
            (fast.bytes_per_second, fast.bytes),
            (0.0, 6000),
            "shown for a while after its last write"
        );
    }

    #[test]
    fn open_files_are_shown_with_their_own_rates_also_of_somebody_who_writes_nothing() {
        let mut meters = Meters::default();
        let view = |id, bytes| TallyView {
            id,
            node: id + 10,
            uid: 0,
            pid: 9,
            process: None,
            opened_at: Instant::now(),
            bytes,
        };
        finish(&mut meters, vec![view(1, 500), view(2, 0)]);
        let activity = finish(&mut meters, vec![view(1, 700), view(2, 1000)]);
        let paths: Vec<_> = activity.open_files.iter().map(|file| file.path.clone().unwrap()).collect();
        assert_eq!(paths, [PathBuf::from("12"), PathBuf::from("11")]);
        assert_eq!(activity.open_files[1].bytes_per_second, 200.0);
        assert_eq!((activity.writers[0].pid, activity.writers[0].open_files), (9, 2));
        assert!(finish(&mut meters, Vec::new()).writers.is_empty());
        assert!(meters.is_empty());
    }
}
