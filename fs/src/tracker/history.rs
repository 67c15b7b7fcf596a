//! The stored history of one workspace: `<state>/history/<id>.sqlite`.
//!
//! Written by the recorder only, one transaction a batch; read by anybody through [`reader`]. WAL with
//! `synchronous=NORMAL`: what is committed survives the death of the worker, a power cut may take the last seconds
//! and never the file. Nothing in it is needed for anything else, so a damaged file is moved aside and an empty one
//! takes its place. Bounded by size and by age ([`Bounds`]); the oldest records go first.

mod prune;
pub(crate) mod reader;
mod schema;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use rustc_hash::FxBuildHasher;

use super::process::Process;
use super::record::Operation;

/// How long a statement waits for somebody who copies the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Directories and processes whose row numbers are remembered.
const MOST_IDS: usize = 16_384;

/// Limits of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Most bytes of the file, without its WAL.
    pub(crate) max_bytes: u64,
    /// How old records get.
    pub(crate) max_age: Duration,
}

/// Why a history cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    #[error("{path} was written by a newer version (format {found}, this one knows {known})", path = path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("cannot move the damaged history {path} aside", path = path.display())]
    MoveAside {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {action} in the history {path}", path = path.display())]
    Database {
        path: PathBuf,
        action: &'static str,
        #[source]
        source: rusqlite::Error,
    },
}

/// A record as it is stored: with paths and with its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) at_us: i64,
    pub(super) operation: Operation,
    pub(super) node: u64,
    pub(super) place: Option<NamedPlace>,
    pub(super) to_place: Option<NamedPlace>,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) bytes: u64,
    pub(super) delta_bytes: i64,
    pub(super) uid: u32,
    pub(super) pid: u32,
    pub(super) process: Option<Arc<Process>>,
}

/// A path, divided as it is stored. Relative to the workspace, without a slash at either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPlace {
    pub(super) directory: Vec<u8>,
    pub(super) name: Vec<u8>,
}

/// A time of which records are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Records before this are all there, microseconds since 1970.
    pub(crate) from_us: i64,
    /// Records after this are all there.
    pub(crate) to_us: i64,
    /// How many are missing, if that is known.
    pub(crate) records: Option<u64>,
    /// Why, for people.
    pub(crate) reason: String,
}

/// Row numbers of who did something: uid, pid and, if it is known, process.
type ProcessIds = HashMap<(u32, u32, Option<Arc<Process>>), i64, FxBuildHasher>;

/// The file to which the recorder writes.
#[derive(Debug)]
pub(super) struct History {
    path: PathBuf,
    connection: Connection,
    directories: HashMap<Vec<u8>, i64, FxBuildHasher>,
    processes: ProcessIds,
}

/// What opening found.
pub(super) struct Opened {
    pub(super) history: History,
    /// The one who wrote last did not close it, so records that were under way then are missing.
    pub(super) was_interrupted: bool,
    /// Where a damaged file was moved to, and what was wrong with it.
    pub(super) moved_aside: Option<(PathBuf, String)>,
}

/// Returns where the history of a workspace is.
pub(crate) fn file_of(directory: &Path, workspace: &str) -> PathBuf {
    directory.join(format!("{workspace}.sqlite"))
}

impl History {
    /// Opens or creates the history of a workspace.
    pub(super) fn open(directory: &Path, workspace: &str) -> Result<Opened, HistoryError> {
        let path = file_of(directory, workspace);
        match Self::open_file(&path) {
            Ok((history, was_interrupted)) => Ok(Opened { history, was_interrupted, moved_aside: None }),
            Err(HistoryError::Database { source, .. }) if is_damage(&source) => {
                let aside = move_aside(&path)?;
                let (history, _) = Self::open_file(&path)?;
                let moved_aside = Some((aside, source.to_string()));
                Ok(Opened { history, was_interrupted: true, moved_aside })
            }
            Err(error) => Err(error),
        }
    }

    fn open_file(path: &Path) -> Result<(Self, bool), HistoryError> {
        let failed =
            |action| move |source| HistoryError::Database { path: path.to_path_buf(), action, source };
        let mut connection = Connection::open(path).map_err(failed("open a connection"))?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed("set the busy timeout"))?;
        schema::configure(&connection).map_err(failed("set the journal mode"))?;
        schema::migrate(&mut connection, path)?;
        let was_clean = schema::is_clean(&connection).map_err(failed("read how it was closed"))?;
        if !was_clean {
            check_integrity(&connection).map_err(failed("check the integrity"))?;
        }
        schema::set_clean(&connection, false).map_err(failed("note that it is open"))?;
        let history = Self {
            path: path.to_path_buf(),
            connection,
            directories: HashMap::default(),
            processes: HashMap::default(),
        };
        Ok((history, !was_clean))
    }

    /// Stores rows and gaps in one transaction.
    pub(super) fn store(&mut self, rows: &[Row], gaps: &[Gap]) -> Result<(), HistoryError> {
        let result = self.store_all(rows, gaps);
        if result.is_err() {
            // Row numbers of a transaction that was taken back are somebody else's.
            self.directories.clear();
            self.processes.clear();
        }
        result.map_err(self.failed("store records"))
    }

    fn store_all(&mut self, rows: &[Row], gaps: &[Gap]) -> rusqlite::Result<()> {
        if self.directories.len() > MOST_IDS {
            self.directories.clear();
        }
        if self.processes.len() > MOST_IDS {
            self.processes.clear();
        }
        let transaction = self.connection.transaction()?;
        for row in rows {
            let process = process_id(&transaction, &mut self.processes, row)?;
            let place = place_id(&transaction, &mut self.directories, row.place.as_ref())?;
            let to_place = place_id(&transaction, &mut self.directories, row.to_place.as_ref())?;
            let mut insert = transaction.prepare_cached(schema::INSERT_RECORD)?;
            insert.execute(params![
                row.at_us,
                row.operation.code(),
                row.node.cast_signed(),
                place,
                row.place.as_ref().map(|place| place.name.as_slice()),
                to_place,
                row.to_place.as_ref().map(|place| place.name.as_slice()),
                saturated(row.start),
                saturated(row.end),
                saturated(row.bytes),
                row.delta_bytes,
                process,
            ])?;
        }
        for gap in gaps {
            transaction.execute(
                "INSERT INTO gap (from_us, to_us, records, reason) VALUES (?1, ?2, ?3, ?4)",
                params![gap.from_us, gap.to_us, gap.records.map(saturated), gap.reason],
            )?;
        }
        transaction.commit()
    }

    /// Returns the time of the newest record.
    pub(super) fn newest_us(&self) -> Result<Option<i64>, HistoryError> {
        self.connection
            .query_row("SELECT at_us FROM record ORDER BY id DESC LIMIT 1", [], |row| row.get(0))
            .optional()
            .map_err(self.failed("read the newest record"))
    }

    /// Removes what is too old or too much; returns how many records that were.
    pub(super) fn prune(&mut self, bounds: Bounds, now_us: i64) -> Result<u64, HistoryError> {
        let removed = prune::prune(&mut self.connection, bounds, now_us);
        if !matches!(removed, Ok(0)) {
            self.directories.clear();
            self.processes.clear();
        }
        removed.map_err(self.failed("remove old records"))
    }

    /// Notes that nothing is missing at its end.
    pub(super) fn close(self) -> Result<(), HistoryError> {
        schema::set_clean(&self.connection, true).map_err(self.failed("note that it is closed"))
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(rusqlite::Error) -> HistoryError + use<> {
        let path = self.path.clone();
        move |source| HistoryError::Database { path, action, source }
    }
}

fn process_id(transaction: &Transaction<'_>, known: &mut ProcessIds, row: &Row) -> rusqlite::Result<i64> {
    let pid = row.process.as_ref().map_or(row.pid, |process| process.pid);
    let key = (row.uid, pid, row.process.clone());
    if let Some(id) = known.get(&key) {
        return Ok(*id);
    }
    let process = row.process.as_deref();
    let values = params![
        row.uid,
        pid,
        process.map_or(0, |process| saturated(process.started)),
        process.map_or("", |process| &process.command),
        process.map_or("", |process| &process.command_line),
        process.and_then(|process| process.container.as_deref()).unwrap_or(""),
    ];
    let found = transaction.prepare_cached(schema::FIND_PROCESS)?.query_row(values, |row| row.get(0));
    let id = match found.optional()? {
        Some(id) => id,
        None => {
            transaction.prepare_cached(schema::INSERT_PROCESS)?.execute(values)?;
            transaction.last_insert_rowid()
        }
    };
    known.insert(key, id);
    Ok(id)
}

fn place_id(
    transaction: &Transaction<'_>,
    known: &mut HashMap<Vec<u8>, i64, FxBuildHasher>,
    place: Option<&NamedPlace>,
) -> rusqlite::Result<Option<i64>> {
    let Some(NamedPlace { directory, .. }) = place else { return Ok(None) };
    if let Some(id) = known.get(directory) {
        return Ok(Some(*id));
    }
    let found = transaction
        .prepare_cached("SELECT id FROM directory WHERE path = ?1")?
        .query_row([directory], |row| row.get(0));
    let id = match found.optional()? {
        Some(id) => id,
        None => {
            transaction.prepare_cached("INSERT INTO directory (path) VALUES (?1)")?.execute([directory])?;
            transaction.last_insert_rowid()
        }
    };
    known.insert(directory.clone(), id);
    Ok(Some(id))
}

/// SQLite's numbers are signed.
fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
    )
}

fn check_integrity(connection: &Connection) -> rusqlite::Result<()> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(code, Some(verdict)))
}

/// Renames the file and its WAL, keeping both.
fn move_aside(path: &Path) -> Result<PathBuf, HistoryError> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let stamp = format!(".corrupt-{}", jiff::Timestamp::now().as_second());
    for suffix in ["-wal", "-shm", ""] {
        match std::fs::rename(with(suffix), with(&format!("{stamp}{suffix}"))) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(HistoryError::MoveAside { path: path.to_path_buf(), source }),
        }
    }
    Ok(with(&stamp))
}

#[cfg(test)]
mod tests;
