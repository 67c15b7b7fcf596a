//! The format of a history and the steps that lead to it.

use std::path::Path;

use rusqlite::Connection;

use super::HistoryError;

/// The format this version writes; `PRAGMA user_version` of the file. 0 is a new file.
pub(super) const VERSION: u32 = 1;

/// `STEPS[n]` leads from format `n` to `n + 1`; never changed once released.
///
/// Paths are divided into directory and name, so that a row needs one index only: a tree of many files has few
/// directories. Rows are in the order in which things happened.
const STEPS: [&str; VERSION as usize] = ["
    CREATE TABLE directory (
        id   INTEGER PRIMARY KEY,
        path BLOB NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE process (
        id           INTEGER PRIMARY KEY,
        uid          INTEGER NOT NULL,
        pid          INTEGER NOT NULL,
        started      INTEGER NOT NULL,
        command      TEXT NOT NULL,
        command_line TEXT NOT NULL,
        container    TEXT NOT NULL
    ) STRICT;
    CREATE INDEX process_by_pid ON process (pid);
    CREATE TABLE record (
        id           INTEGER PRIMARY KEY,
        at_us        INTEGER NOT NULL,
        operation    INTEGER NOT NULL,
        node         INTEGER NOT NULL,
        directory    INTEGER REFERENCES directory (id),
        name         BLOB,
        to_directory INTEGER REFERENCES directory (id),
        to_name      BLOB,
        start        INTEGER NOT NULL,
        end          INTEGER NOT NULL,
        bytes        INTEGER NOT NULL,
        delta_bytes  INTEGER NOT NULL,
        process      INTEGER NOT NULL REFERENCES process (id)
    ) STRICT;
    CREATE INDEX record_by_directory ON record (directory);
    CREATE INDEX record_by_to_directory ON record (to_directory) WHERE to_directory IS NOT NULL;
    CREATE TABLE gap (
        id      INTEGER PRIMARY KEY,
        from_us INTEGER NOT NULL,
        to_us   INTEGER NOT NULL,
        records INTEGER,
        reason  TEXT NOT NULL
    ) STRICT;
    CREATE TABLE standing (
        only       INTEGER PRIMARY KEY CHECK (only = 1),
        is_clean   INTEGER NOT NULL CHECK (is_clean IN (0, 1)),
        pruned_us  INTEGER
    ) STRICT;
    INSERT INTO standing VALUES (1, 1, NULL);
"];

pub(super) const INSERT_RECORD: &str = "
    INSERT INTO record (at_us, operation, node, directory, name, to_directory, to_name, start, end, bytes,
                        delta_bytes, process)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

pub(super) const FIND_PROCESS: &str = "
    SELECT id FROM process WHERE uid = ?1 AND pid = ?2 AND started = ?3 AND command = ?4 AND command_line = ?5
                                 AND container = ?6";

pub(super) const INSERT_PROCESS: &str = "
    INSERT INTO process (uid, pid, started, command, command_line, container) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// Bytes of the WAL that are kept when it is empty.
const JOURNAL_SIZE_LIMIT: i64 = 1 << 20;

/// Sets what the writing connection needs.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // Before the first table, or it is without effect.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.query_row(&format!("PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT}"), [], |_| Ok(()))
}

/// Brings the file to [`VERSION`], all steps in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), HistoryError> {
    let found = version(connection, path)?;
    let failed = |source| HistoryError::Database {
        path: path.to_path_buf(),
        action: "bring the format up to date",
        source,
    };
    let transaction = connection.transaction().map_err(failed)?;
    for step in STEPS.iter().skip(found as usize) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", VERSION).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// Returns the format of a file that this version can read.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<u32, HistoryError> {
    let found: u32 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(|source| {
            HistoryError::Database { path: path.to_path_buf(), action: "read the format", source }
        })?;
    if found > VERSION {
        return Err(HistoryError::Newer { path: path.to_path_buf(), found, known: VERSION });
    }
    Ok(found)
}

pub(super) fn is_clean(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT is_clean FROM standing", [], |row| row.get(0))
}

pub(super) fn set_clean(connection: &Connection, is_clean: bool) -> rusqlite::Result<()> {
    connection.execute("UPDATE standing SET is_clean = ?1", [is_clean]).map(drop)
}
