//! The catalog's format and the steps that lead to it.

use std::path::Path;

use rusqlite::Connection;

use super::{CatalogError, classify};

/// The format this version writes; `PRAGMA user_version` of the file. 0 is a new file.
pub(crate) const VERSION: u32 = 4;

/// `STEPS[n]` leads from format `n` to `n + 1`; never changed once released.
const STEPS: [&str; VERSION as usize] = [
    "
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
",
    // Quota. A bound is NULL for unlimited; a level that says nothing about a dimension has 0 in `says_…`.
    "
    CREATE TABLE quota_limit (
        kind           TEXT NOT NULL
            CHECK (kind IN ('pool', 'group', 'user', 'project', 'each-user', 'each-project')),
        key            TEXT NOT NULL,
        says_bytes     INTEGER NOT NULL CHECK (says_bytes IN (0, 1)),
        bytes_soft     INTEGER,
        bytes_hard     INTEGER,
        says_inodes    INTEGER NOT NULL CHECK (says_inodes IN (0, 1)),
        inodes_soft    INTEGER,
        inodes_hard    INTEGER,
        grace_seconds  INTEGER,
        mode           TEXT CHECK (mode IN ('off', 'track', 'enforce')),
        errno          TEXT CHECK (errno IN ('edquot', 'enospc')),
        headroom_bytes INTEGER,
        PRIMARY KEY (kind, key)
    ) STRICT;
    CREATE TABLE quota_member (
        uid       INTEGER PRIMARY KEY NOT NULL,
        of_group  TEXT NOT NULL
    ) STRICT;
    CREATE TABLE quota_boost (
        id       INTEGER PRIMARY KEY NOT NULL,
        kind     TEXT NOT NULL CHECK (kind IN ('pool', 'group', 'user', 'project')),
        key      TEXT NOT NULL,
        bytes    INTEGER NOT NULL,
        inodes   INTEGER NOT NULL,
        until_us INTEGER NOT NULL,
        reason   TEXT NOT NULL,
        by_uid   INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE quota_audit (
        id      INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
        at_us   INTEGER NOT NULL,
        uid     INTEGER,
        subject TEXT NOT NULL,
        field   TEXT NOT NULL,
        before  TEXT,
        after   TEXT,
        reason  TEXT
    ) STRICT;
    CREATE TABLE quota_grace (
        kind        TEXT NOT NULL CHECK (kind IN ('pool', 'group', 'user', 'project')),
        key         TEXT NOT NULL,
        dimension   TEXT NOT NULL CHECK (dimension IN ('bytes', 'inodes')),
        deadline_us INTEGER NOT NULL,
        PRIMARY KEY (kind, key, dimension)
    ) STRICT;
    CREATE TABLE quota_counter (
        workspace         TEXT PRIMARY KEY NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
        used_bytes        INTEGER NOT NULL,
        used_inodes       INTEGER NOT NULL,
        watermark_bytes   INTEGER NOT NULL,
        watermark_inodes  INTEGER NOT NULL,
        is_clean          INTEGER NOT NULL CHECK (is_clean IN (0, 1))
    ) STRICT;
",
    // What users ask for from inside a workspace. `decided_us` is NULL while it waits.
    "
    CREATE TABLE boost_request (
        id         INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
        workspace  TEXT NOT NULL,
        name       TEXT NOT NULL,
        owner_uid  INTEGER NOT NULL,
        by_uid     INTEGER NOT NULL,
        command    TEXT NOT NULL,
        bytes      INTEGER NOT NULL,
        inodes     INTEGER NOT NULL,
        seconds    INTEGER NOT NULL,
        reason     TEXT NOT NULL,
        at_us      INTEGER NOT NULL,
        state      TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'denied')),
        decided_us INTEGER,
        decided_by INTEGER,
        answer     TEXT
    ) STRICT;
    CREATE INDEX boost_request_by_workspace ON boost_request (workspace, id);
    ",
    // Workspaces whose limit the filesystem below enforces; `before_bytes` is the limit to put back, NULL for none.
    "
    CREATE TABLE quota_kernel (
        workspace    TEXT PRIMARY KEY NOT NULL REFERENCES workspace (id) ON DELETE CASCADE,
        state        TEXT NOT NULL CHECK (state IN ('installing', 'on', 'removing')),
        before_bytes INTEGER
    ) STRICT;
",
];

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

/// Makes a file as version 1 of the format has it, with one workspace.
#[cfg(test)]
pub(super) fn make_format_1(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(STEPS[0])?;
    connection.execute(
        "INSERT INTO workspace VALUES ('w1', 'a', '/a', NULL, 1, 1, 'squash', 0, 'mounted', 1, NULL, NULL, NULL, \
         NULL, NULL)",
        [],
    )?;
    connection.pragma_update(None, "user_version", 1)
}
