//! The format of the catalog and the steps that lead to it.

use std::path::Path;

use rusqlite::Connection;

use super::LogPosition;
use super::error::{CatalogError, classify};

/// The format this version writes; `PRAGMA user_version` of the file. 0 is a new file.
pub(super) const VERSION: u32 = 1;

/// `STEPS[n]` leads from format `n` to `n + 1`; never changed once released.
///
/// `at` is a moment. A row says how something was before that moment; the tables are ordered by the thing and then by
/// the moment, so that "how was it at S" is one step in a B-tree. `entry.rows` counts the rows that have the entry's
/// moment, so that the entry goes with the last of them.
const STEPS: [&str; VERSION as usize] = ["
    CREATE TABLE entry (
        at      INTEGER PRIMARY KEY,
        time_ns INTEGER NOT NULL,
        uid     INTEGER NOT NULL,
        pid     INTEGER NOT NULL,
        cause   INTEGER NOT NULL,
        rows    INTEGER NOT NULL,
        lost    INTEGER NOT NULL,
        bytes   INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX entry_destructive ON entry (at) WHERE lost > 0;
    CREATE TABLE name (
        parent    BLOB NOT NULL,
        name      BLOB NOT NULL,
        at        INTEGER NOT NULL,
        before    BLOB,
        file_type INTEGER NOT NULL,
        is_lost   INTEGER NOT NULL,
        PRIMARY KEY (parent, name, at)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX name_of ON name (before, at) WHERE before IS NOT NULL;
    CREATE INDEX name_lost ON name (at) WHERE is_lost = 1;
    CREATE TABLE attributes (
        inode       BLOB NOT NULL,
        at          INTEGER NOT NULL,
        ino         INTEGER NOT NULL,
        mode        INTEGER NOT NULL,
        uid         INTEGER NOT NULL,
        gid         INTEGER NOT NULL,
        nlink       INTEGER NOT NULL,
        size        INTEGER NOT NULL,
        blocks      INTEGER NOT NULL,
        accessed_ns INTEGER NOT NULL,
        modified_ns INTEGER NOT NULL,
        changed_ns  INTEGER NOT NULL,
        born_ns     INTEGER NOT NULL,
        device      INTEGER NOT NULL,
        PRIMARY KEY (inode, at)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE xattrs (
        inode BLOB NOT NULL,
        at    INTEGER NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (inode, at)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE content (
        inode  BLOB NOT NULL,
        at     INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        object INTEGER NOT NULL,
        length INTEGER,
        size   INTEGER,
        origin INTEGER NOT NULL,
        hash   BLOB,
        bytes  INTEGER NOT NULL,
        is_damaged INTEGER NOT NULL DEFAULT 0 CHECK (is_damaged IN (0, 1)),
        PRIMARY KEY (inode, at, offset, object)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX content_object ON content (object);
    CREATE TABLE condemned (
        id     INTEGER PRIMARY KEY,
        object INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        length INTEGER,
        bytes  INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX condemned_object ON condemned (object);
    CREATE TABLE life (
        inode BLOB PRIMARY KEY,
        born  INTEGER NOT NULL,
        died  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE mapped (
        inode BLOB NOT NULL,
        at    INTEGER NOT NULL,
        since INTEGER NOT NULL,
        PRIMARY KEY (inode, at, since)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE outside (
        inode BLOB NOT NULL,
        at    INTEGER NOT NULL,
        name  BLOB NOT NULL,
        PRIMARY KEY (inode, at, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE epoch (
        epoch     INTEGER PRIMARY KEY,
        ended_ns  INTEGER,
        latest_ns INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE snapshot (
        epoch   INTEGER PRIMARY KEY,
        time_ns INTEGER NOT NULL,
        uid     INTEGER NOT NULL,
        pid     INTEGER NOT NULL,
        reason  INTEGER NOT NULL,
        name    TEXT,
        note    TEXT,
        is_held INTEGER NOT NULL CHECK (is_held IN (0, 1)),
        state   INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE standing (
        only           INTEGER PRIMARY KEY CHECK (only = 1),
        is_clean       INTEGER NOT NULL CHECK (is_clean IN (0, 1)),
        segment        INTEGER NOT NULL,
        offset         INTEGER NOT NULL,
        bytes          INTEGER NOT NULL,
        complete_since INTEGER,
        trash_start    INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    INSERT INTO standing VALUES (1, 1, 0, 0, 0, NULL, 0);
"];

/// Bytes of the WAL that are kept when it is empty.
const JOURNAL_SIZE_LIMIT: i64 = 4 << 20;

/// Pages of the WAL after which it is written back, which waits for the disk twice: 32 MiB.
const CHECKPOINT_PAGES: i64 = 8 << 10;

/// KiB of pages that the writer keeps: rows are inserted at as many places as there are directories.
const CACHE_KIBIBYTES: i64 = 32 << 10;

/// Sets what the writing connection needs.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // Before the first table, or it is without effect.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIBIBYTES)?;
    connection.query_row(&format!("PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}"), [], |_| Ok(()))?;
    connection.query_row(&format!("PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT}"), [], |_| Ok(()))
}

/// Brings the file to [`VERSION`], all steps in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), CatalogError> {
    let found = version(connection, path)?;
    let failed = |source| classify(path, "bring the format up to date", source);
    let transaction = connection.transaction().map_err(failed)?;
    for step in STEPS.iter().skip(found as usize) {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", VERSION).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// Returns the format of a file that this version can read.
pub(super) fn version(connection: &Connection, path: &Path) -> Result<u32, CatalogError> {
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| classify(path, "read the format", source))?;
    if found > VERSION {
        return Err(CatalogError::Newer { path: path.to_path_buf(), found, known: VERSION });
    }
    Ok(found)
}

pub(super) fn is_clean(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT is_clean FROM standing", [], |row| row.get(0))
}

pub(super) fn set_clean(connection: &Connection, is_clean: bool) -> rusqlite::Result<()> {
    connection.execute("UPDATE standing SET is_clean = ?1", [is_clean]).map(drop)
}

pub(super) fn position(connection: &Connection) -> rusqlite::Result<LogPosition> {
    connection.query_row("SELECT segment, offset FROM standing", [], |row| {
        Ok(LogPosition { segment: row.get(0)?, offset: row.get::<_, i64>(1)?.cast_unsigned() })
    })
}
