//! The catalog's format and the steps that lead to it.

use std::path::Path;

use rusqlite::Connection;

use super::{CatalogError, classify};

/// The format this version writes; `PRAGMA user_version` of the file. 0 is a new file.
pub(crate) const VERSION: u32 = 1;

/// `STEPS[n]` leads from format `n` to `n + 1`; never changed once released.
const STEPS: [&str; VERSION as usize] = ["
    CREATE TABLE workspace (
        id               TEXT PRIMARY KEY NOT NULL,
        name             TEXT NOT NULL UNIQUE,
        dir              TEXT NOT NULL UNIQUE,
        at               TEXT UNIQUE,
        owner_uid        INTEGER NOT NULL,
        owner_gid        INTEGER NOT NULL,
        ownership        TEXT NOT NULL CHECK (ownership IN ('preserve', 'squash')),
        from_roots       INTEGER NOT NULL CHECK (from_roots IN (0, 1)),
        wanted           TEXT NOT NULL CHECK (wanted IN ('mounted', 'unmounted')),
        created_us       INTEGER NOT NULL,
        last_unmounted_us INTEGER,
        last_alive_us    INTEGER,
        identity_device  INTEGER,
        identity_inode   INTEGER,
        identity_handle  BLOB
    ) STRICT;
    CREATE TABLE forgotten (
        dir   TEXT PRIMARY KEY NOT NULL,
        at_us INTEGER NOT NULL
    ) STRICT;
"];

/// Sets what every connection needs.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // The answer is the mode that is now in force; on a filesystem without shared memory it is another one,
    // which is slower but not less durable.
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// Brings the file to [`VERSION`], all steps in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), CatalogError> {
    let database = |source| classify(path, "bring the format up to date", source);
    let found: u32 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(database)?;
    if found > VERSION {
        return Err(CatalogError::Newer { path: path.to_path_buf(), found, known: VERSION });
    }
    let transaction = connection.transaction().map_err(database)?;
    for step in STEPS.iter().skip(found as usize) {
        transaction.execute_batch(step).map_err(database)?;
    }
    transaction.pragma_update(None, "user_version", VERSION).map_err(database)?;
    transaction.commit().map_err(database)
}
