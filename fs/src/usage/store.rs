//! The index's file: `<state>/usage/<workspace id>.sqlite`.
//!
//! It holds nothing that a walk could not find again, so it is written without waiting for the disk, a damaged
//! or foreign file is replaced by an empty one, and there are no migrations: another format is rebuilt. Only the
//! growth samples are lost then.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// The format; any other is thrown away.
const VERSION: i64 = 1;

/// How long a statement waits for another connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements that stay compiled.
const STATEMENTS: usize = 64;

/// The WAL is cut down to this after a large transaction, bytes.
const WAL_BYTES: i64 = 16 << 20;

/// `bytes`, `inodes`, `newest` and `largest` of a directory are of the whole tree below and including it.
/// `newest` is the latest change of contents of anything but a directory (seconds since 1970), `largest` the charge
/// of the biggest file. A file with several names is charged at its `home`, the name with the smallest
/// (parent, name).
const SCHEMA: &str = "
    CREATE TABLE directory (
        ino     INTEGER PRIMARY KEY,
        parent  INTEGER NOT NULL,
        name    BLOB NOT NULL,
        marker  INTEGER NOT NULL,
        bytes   INTEGER NOT NULL,
        inodes  INTEGER NOT NULL,
        newest  INTEGER NOT NULL,
        largest INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX directory_name ON directory (parent, name);
    CREATE INDEX directory_bytes ON directory (parent, bytes);
    CREATE INDEX directory_largest ON directory (parent, largest);
    CREATE INDEX directory_newest ON directory (parent, newest);
    CREATE INDEX directory_marker ON directory (marker) WHERE marker <> 0;
    CREATE TABLE file (
        id     INTEGER PRIMARY KEY,
        parent INTEGER NOT NULL,
        name   BLOB NOT NULL,
        ino    INTEGER NOT NULL,
        kind   INTEGER NOT NULL,
        size   INTEGER NOT NULL,
        charge INTEGER NOT NULL,
        mtime  INTEGER NOT NULL,
        home   INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX file_name ON file (parent, name);
    CREATE INDEX file_ino ON file (ino);
    CREATE INDEX file_charge ON file (parent, charge) WHERE home = 1;
    CREATE INDEX file_kind ON file (kind, size) WHERE kind IN (1, 7, 8);
    CREATE TABLE kind_total (
        directory INTEGER NOT NULL,
        kind      INTEGER NOT NULL,
        bytes     INTEGER NOT NULL,
        inodes    INTEGER NOT NULL,
        PRIMARY KEY (directory, kind)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sample (
        directory INTEGER NOT NULL,
        hour      INTEGER NOT NULL,
        bytes     INTEGER NOT NULL,
        inodes    INTEGER NOT NULL,
        PRIMARY KEY (directory, hour)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sample_hour ON sample (hour);
    CREATE TABLE fingerprint (
        ino   INTEGER PRIMARY KEY,
        size  INTEGER NOT NULL,
        mtime INTEGER NOT NULL,
        hash  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE walked (
        parent INTEGER NOT NULL,
        name   BLOB NOT NULL,
        ino    INTEGER NOT NULL,
        kind   INTEGER NOT NULL,
        size   INTEGER NOT NULL,
        charge INTEGER NOT NULL,
        mtime  INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// There is no index yet.
    #[error("usage of this workspace has not been counted yet")]
    Missing,
    /// The path is not in the index.
    #[error("{path:?} is not a directory of the workspace as it was last counted")]
    NoDirectory { path: PathBuf },
    #[error("cannot {action} in the usage index")]
    Database {
        action: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    #[error("cannot {action} the usage index {path}", path = path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {action} in the workspace")]
    Backing {
        action: &'static str,
        #[source]
        source: rustix::io::Errno,
    },
}

/// Makes an [`UsageError::Database`].
pub(super) fn failed(action: &'static str) -> impl Fn(rusqlite::Error) -> UsageError {
    move |source| UsageError::Database { action, source }
}

/// Returns where the index of a workspace is.
pub(crate) fn path_of(state_dir: &Path, id: &str) -> PathBuf {
    state_dir.join("usage").join(format!("{id}.sqlite"))
}

/// Opens the index for its one writer; what is no index of this format is replaced by an empty one.
pub(super) fn open(path: &Path) -> Result<Connection, UsageError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|source| UsageError::File {
            action: "make a directory for",
            path: path.into(),
            source,
        })?;
    }
    match open_current(path) {
        Ok(Some(connection)) => return Ok(connection),
        Ok(None) => {}
        Err(error) if is_damaged(&error) => {}
        Err(error) => return Err(failed("open the file")(error)),
    }
    remove(path)?;
    let connection = connect(path).map_err(failed("open the file"))?;
    let create = || {
        connection.execute_batch(&format!("BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;"))?;
        Ok(())
    };
    create().map_err(failed("create tables"))?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // The answer is the mode in force; without shared memory it is another one, and readers wait.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.query_row(&format!("PRAGMA journal_size_limit = {WAL_BYTES}"), [], |_| Ok(()))?;
    Ok(connection)
}

fn open_current(path: &Path) -> rusqlite::Result<Option<Connection>> {
    let connection = connect(path)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    // Not searched for damage: that reads the whole file, and mounts wait. Damage shows when it is met.
    Ok((version == VERSION).then_some(connection))
}

/// Whether the file itself is what failed.
pub(super) fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
    )
}

/// Opens the index for one answer.
///
/// # Errors
/// `Missing` if there is none, or one of another format.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, UsageError> {
    // Not READ_ONLY: a reader of a WAL may have to make the shared memory.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match Connection::open_with_flags(path, flags) {
        Ok(connection) => connection,
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen) => {
            return Err(UsageError::Missing);
        }
        Err(error) => return Err(failed("open the file")(error)),
    };
    let configure = || {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "query_only", true)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
    };
    match configure() {
        Ok(VERSION) => Ok(connection),
        Ok(_) => Err(UsageError::Missing),
        Err(error) => Err(failed("open the file")(error)),
    }
}

/// Removes the index of a workspace that is forgotten.
pub(crate) fn remove(path: &Path) -> Result<(), UsageError> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(UsageError::File { action: "remove", path: name.into(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_or_foreign_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = path_of(dir.path(), "w1");
        drop(open(&path).unwrap());
        drop(open_for_reading(&path).unwrap());
        std::fs::write(&path, vec![0x5a; 8192]).unwrap();
        drop(open(&path).unwrap());
        drop(open_for_reading(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(open_for_reading(&path), Err(UsageError::Missing)));
        drop(open(&path).unwrap());
        drop(open_for_reading(&path).unwrap());
    }

    #[test]
    fn index_that_was_never_made_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(open_for_reading(&path_of(dir.path(), "w1")), Err(UsageError::Missing)));
    }
}
