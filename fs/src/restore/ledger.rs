//! What is remembered of a restore: its record, and the ledger of what was done to each path.
//!
//! Both are files in the directory `restores` of the workspace's store, root only: `<number>.json`, replaced as a whole
//! and synchronised whenever the restore enters another state, and `<number>.ledger`, a line of JSON for each path,
//! synchronised about once a second. A line that a crash cut off is ignored. A restore that is recorded as running and
//! is not was interrupted.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use wsguard_api::{ErrorCode, RestoreConflict, RestoreCounts, RestoreKind, RestoreNote, RestoreState};

use super::RestoreError;
use super::clone::CloneTask;
use crate::snapshot::History;

/// The directory in the store.
const DIRECTORY: &str = "restores";
/// Restores that are remembered; the oldest ones are forgotten.
const MOST_RECORDS: usize = 100;
/// How long a line of the ledger may wait until it is on disk.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Largest record that is read, bytes.
const MOST_RECORD_BYTES: u64 = 64 << 20;

/// A path relative to the workspace, as JSON holds it: text, or hexadecimal bytes where it is not UTF-8.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum StoredPath {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes {
        /// Hexadecimal.
        hex: String,
    },
}

impl StoredPath {
    pub(super) fn new(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => {
                let hex = path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                Self::Bytes { hex }
            }
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Text(text) => PathBuf::from(text),
            Self::Bytes { hex } => {
                let digits = hex.as_bytes().chunks(2);
                let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
                PathBuf::from(OsString::from_vec(digits.filter_map(byte).collect()))
            }
        }
    }
}

/// A path that is restored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Root {
    /// Where it was.
    pub(super) from: StoredPath,
    /// Where it is restored.
    pub(super) to: StoredPath,
    /// As of which moment.
    pub(super) moment: i64,
    /// Without what lies in it.
    pub(super) is_single: bool,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(super) enum Task {
    /// Paths as they were.
    Restore { roots: Vec<Root>, conflict: RestoreConflict, accepts_changed: bool },
    /// The reversal of a burst.
    Undo {
        /// Its first moment, which names it, and its last.
        first: i64,
        last: i64,
        uid: u32,
        pid: u32,
        /// When it ended, nanoseconds since 1970.
        ended_ns: i64,
        conflict: RestoreConflict,
    },
    /// The reversal of a restore.
    Reversal {
        /// Its number.
        job: u64,
        /// The snapshot that was taken before it.
        snapshot: u32,
    },
    /// A new directory made from the past.
    Clone(CloneTask),
}

impl Task {
    pub(super) fn kind(&self) -> RestoreKind {
        match self {
            Self::Restore { .. } => RestoreKind::Restore,
            Self::Undo { .. } => RestoreKind::Undo,
            Self::Reversal { .. } => RestoreKind::Reversal,
            Self::Clone(_) => RestoreKind::Clone,
        }
    }
}

/// The record of a restore.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    /// 1.
    pub(super) version: u32,
    pub(super) id: u64,
    pub(super) task: Task,
    /// Who asked for it.
    pub(super) asked_by: u32,
    pub(super) state: RestoreState,
    /// Nanoseconds since 1970.
    pub(super) started_ns: i64,
    pub(super) finished_ns: Option<i64>,
    /// The snapshot that was taken before anything was changed.
    pub(super) snapshot: Option<u32>,
    /// The workers that were at it; what they deleted is no burst of a user's.
    pub(super) workers: BTreeSet<u32>,
    pub(super) total: u64,
    pub(super) done: u64,
    pub(super) total_bytes: u64,
    pub(super) counts: RestoreCounts,
    pub(super) failures: Vec<RestoreNote>,
    pub(super) notes: Vec<RestoreNote>,
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) error_code: Option<ErrorCode>,
}

impl Record {
    /// Whether a deletion by this process at this time was this restore's.
    pub(super) fn did(&self, uid: u32, pid: u32, time_ns: i64) -> bool {
        let end = self.finished_ns.unwrap_or(i64::MAX);
        uid == 0 && self.workers.contains(&pid) && (self.started_ns..=end).contains(&time_ns)
    }
}

/// What was done to a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Deed {
    /// A deleted inode got a name again.
    PutBack,
    /// A file was copied or cloned.
    Copied,
    /// One more name.
    Linked,
    /// A directory, link or special file was made.
    Made,
    /// Attributes were set.
    Attributes,
    /// It was removed.
    Removed,
    /// It was as it had been.
    Unchanged,
    /// Something else stays there.
    Skipped,
    /// It could not be restored.
    Failed,
}

impl Deed {
    /// Whether the workspace was changed.
    pub(super) fn is_change(self) -> bool {
        !matches!(self, Self::Unchanged | Self::Skipped | Self::Failed)
    }
}

/// A line of the ledger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Line {
    /// The path that was changed.
    pub(super) path: StoredPath,
    pub(super) deed: Deed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// The records of a workspace.
pub(super) struct Records {
    dir: OwnedFd,
}

impl Records {
    pub(super) fn open(history: &History) -> Result<Self, RestoreError> {
        Ok(Self { dir: history.store().directory(DIRECTORY)? })
    }

    fn open_file(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.dir, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Returns the numbers that there are, in order.
    pub(super) fn numbers(&self) -> Result<Vec<u64>, RestoreError> {
        let mut numbers = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_str().ok().and_then(|name| name.strip_suffix(".json"));
            numbers.extend(name.and_then(|name| name.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Returns the number of the next restore; forgets the oldest ones.
    pub(super) fn next_number(&self) -> Result<u64, RestoreError> {
        let numbers = self.numbers()?;
        let surplus = numbers.len().saturating_sub(MOST_RECORDS);
        for number in numbers.iter().take(surplus) {
            for name in [format!("{number}.ledger"), format!("{number}.json")] {
                match rustix::fs::unlinkat(&self.dir, name, rustix::fs::AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(numbers.last().map_or(1, |last| last + 1))
    }

    pub(super) fn read(&self, id: u64) -> Result<Record, RestoreError> {
        let file = match self.open_file(&format!("{id}.json"), OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(RestoreError::NoJob(id)),
            Err(errno) => return Err(errno.into()),
        };
        let mut text = Vec::new();
        file.take(MOST_RECORD_BYTES).read_to_end(&mut text).map_err(RestoreError::Record)?;
        serde_json::from_slice(&text).map_err(|error| RestoreError::Record(error.into()))
    }

    /// Returns the records that can be read, oldest first.
    pub(super) fn all(&self) -> Result<Vec<Record>, RestoreError> {
        let mut records = Vec::new();
        for number in self.numbers()? {
            match self.read(number) {
                Ok(record) => records.push(record),
                Err(RestoreError::NoJob(_)) => {}
                Err(error) => {
                    tracing::warn!(restore = number, error = %crate::error_chain::one_line(&error), "record of a restore cannot be read");
                }
            }
        }
        Ok(records)
    }

    /// Writes a record. When this returns it survives a power cut.
    pub(super) fn write(&self, record: &Record) -> Result<(), RestoreError> {
        let (name, temporary) = (format!("{}.json", record.id), format!("{}.tmp", record.id));
        let text = serde_json::to_vec(record).map_err(|error| RestoreError::Record(error.into()))?;
        let write = || {
            let mut file = self.open_file(&temporary, OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY)?;
            file.write_all(&text)?;
            file.sync_all()?;
            rustix::fs::renameat(&self.dir, &temporary, &self.dir, &name)?;
            rustix::fs::fsync(&self.dir)?;
            Ok(())
        };
        write().map_err(RestoreError::Record)
    }

    /// Opens the ledger of a restore for more lines.
    pub(super) fn ledger(&self, id: u64) -> Result<Ledger, RestoreError> {
        let mut file =
            self.open_file(&format!("{id}.ledger"), OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY)?;
        // After a line that was cut off a new one begins.
        if file.metadata().map_err(RestoreError::Record)?.len() > 0 {
            file.write_all(b"\n").map_err(RestoreError::Record)?;
        }
        Ok(Ledger { file: BufWriter::new(file), synced: Instant::now() })
    }

    /// Returns the lines of a ledger; one that was cut off is none.
    pub(super) fn lines(&self, id: u64) -> Result<Vec<Line>, RestoreError> {
        let file = match self.open_file(&format!("{id}.ledger"), OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let mut lines = Vec::new();
        for text in BufReader::new(file).split(b'\n') {
            let text = text.map_err(RestoreError::Record)?;
            lines.extend(serde_json::from_slice::<Line>(&text).ok());
        }
        Ok(lines)
    }
}

/// The ledger of a restore that is being carried out.
pub(super) struct Ledger {
    file: BufWriter<File>,
    synced: Instant,
}

impl Ledger {
    pub(super) fn add(&mut self, line: &Line) -> Result<(), RestoreError> {
        let mut write = || {
            serde_json::to_writer(&mut self.file, line)?;
            self.file.write_all(b"\n")
        };
        write().map_err(RestoreError::Record)?;
        if self.synced.elapsed() >= SYNC_INTERVAL {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes all lines durable.
    pub(super) fn sync(&mut self) -> Result<(), RestoreError> {
        let mut sync = || {
            self.file.flush()?;
            self.file.get_ref().sync_data()
        };
        self.synced = Instant::now();
        sync().map_err(RestoreError::Record)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn any_path_comes_back_from_json() {
        for bytes in [&b"a/b c"[..], b"", b"d/\xff\xfe", "ä/\"\\".as_bytes(), b"line\nbreak"] {
            let path = Path::new(OsStr::from_bytes(bytes));
            let text = serde_json::to_string(&StoredPath::new(path)).unwrap();
            assert!(!text.contains('\n'), "{text}");
            let back: StoredPath = serde_json::from_str(&text).unwrap();
            assert_eq!(back.path(), path);
        }
    }

    #[test]
    fn a_record_comes_back_whatever_the_task_is() {
        let kept = tempfile::tempdir().unwrap();
        let records = Records { dir: File::open(kept.path()).unwrap().into() };
        let root = Root {
            from: StoredPath::new(Path::new(OsStr::from_bytes(b"a\xff"))),
            to: StoredPath::new(Path::new("b")),
            moment: i64::MAX,
            is_single: true,
        };
        let conflict = RestoreConflict::IfNewer;
        let tasks = [
            Task::Restore { roots: vec![root], conflict, accepts_changed: true },
            Task::Undo { first: 1, last: 2, uid: 3, pid: 4, ended_ns: 5, conflict },
            Task::Reversal { job: 1, snapshot: 7 },
        ];
        for (task, id) in tasks.into_iter().zip(1..) {
            let record = Record {
                version: 1,
                id,
                task: task.clone(),
                asked_by: 1000,
                state: RestoreState::Running,
                started_ns: 10,
                finished_ns: None,
                snapshot: Some(7),
                workers: [5, 6].into(),
                total: 1,
                done: 1,
                total_bytes: 1,
                counts: RestoreCounts::default(),
                failures: Vec::new(),
                notes: Vec::new(),
                error: None,
                error_code: None,
            };
            records.write(&record).unwrap();
            let back = records.read(id).unwrap();
            assert_eq!((back.task, back.asked_by, back.workers), (task, 1000, record.workers));
            assert!(back_did(&records, id));
        }
        assert_eq!(records.numbers().unwrap(), [1, 2, 3]);
    }

    fn back_did(records: &Records, id: u64) -> bool {
        let record = records.read(id).unwrap();
        record.did(0, 5, 10) && !record.did(1, 5, 10) && !record.did(0, 7, 10) && !record.did(0, 5, 9)
    }

    #[test]
    fn a_line_that_was_cut_off_hides_no_later_one() {
        let kept = tempfile::tempdir().unwrap();
        let records = Records { dir: File::open(kept.path()).unwrap().into() };
        let line =
            |name: &str| Line { path: StoredPath::new(Path::new(name)), deed: Deed::Copied, reason: None };
        let mut ledger = records.ledger(7).unwrap();
        ledger.add(&line("a")).unwrap();
        ledger.sync().unwrap();
        drop(ledger);
        let mut torn = File::options().append(true).open(kept.path().join("7.ledger")).unwrap();
        torn.write_all(b"{\"path\":\"b\",\"de").unwrap();
        let mut ledger = records.ledger(7).unwrap();
        ledger.add(&line("c")).unwrap();
        ledger.sync().unwrap();
        assert_eq!(records.lines(7).unwrap(), [line("a"), line("c")]);
        assert!(matches!(records.read(7), Err(RestoreError::NoJob(7))));
        assert_eq!(records.next_number().unwrap(), 1);
    }
}
