//! The registry of workspaces on disk: `<state>/catalog.sqlite`.
//!
//! It holds what cannot be found out again: which directories are guarded, as whom, until when somebody watched
//! them, and the quota policy with its audit. Nothing in it is needed to read a user's files. Written by the driver
//! thread, a few rows a minute, and by whoever keeps the counters of quota ([`CounterStore`], its own connection);
//! WAL with `synchronous=FULL`, so an answered request survives a power cut.
//!
//! A file that cannot be opened or fails its integrity check is moved aside, never deleted, and an empty
//! registry takes its place; one written by a newer version is refused and left alone.

mod counters;
mod kernel;
mod quota;
mod requests;
mod rows;
mod schema;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

pub(crate) use counters::{CounterStore, Counters};
pub(crate) use kernel::{KernelRow, KernelState};
pub(crate) use quota::{Dimension, GraceRow, NewAudit, QuotaRows};
pub(crate) use schema::VERSION as CATALOG_FORMAT;

pub(crate) use rows::{DirectoryIdentity, WantedState, WorkspaceRecord};

/// The file's name below the state directory.
pub(crate) const CATALOG_FILE: &str = "catalog.sqlite";

/// How long a statement waits for a reader of another process, such as a backup.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Why the catalog cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogError {
    #[error(
        "{path} was written by a newer version (format {found}, this one knows {known}); \
         install that version again or point --state-dir elsewhere",
        path = path.display()
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is damaged: {reason}", path = path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error("cannot move the damaged catalog {path} aside", path = path.display())]
    MoveAside {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {action} in the catalog")]
    Database {
        action: &'static str,
        #[source]
        source: rusqlite::Error,
    },
}

/// What opening the catalog found.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Ready to use.
    pub(crate) catalog: Catalog,
    /// Where a damaged file was moved to, and what was wrong with it.
    pub(crate) moved_aside: Option<(PathBuf, String)>,
}

/// An open catalog.
#[derive(Debug)]
pub(crate) struct Catalog {
    connection: Connection,
}

impl Catalog {
    /// Opens or creates the catalog below `state_dir`, brings it to the current format and replaces a damaged
    /// one by an empty one.
    ///
    /// # Errors
    /// `Newer` when another version wrote it, `MoveAside` or `Database` when the disk does not let us.
    pub(crate) fn open(state_dir: &Path) -> Result<Opened, CatalogError> {
        let path = state_dir.join(CATALOG_FILE);
        match Self::open_file(&path) {
            Ok(catalog) => Ok(Opened { catalog, moved_aside: None }),
            Err(CatalogError::Corrupt { reason, .. }) => {
                let aside = move_aside(&path)?;
                Ok(Opened { catalog: Self::open_file(&path)?, moved_aside: Some((aside, reason)) })
            }
            Err(error) => Err(error),
        }
    }

    fn open_file(path: &Path) -> Result<Self, CatalogError> {
        let corrupt_or = |action: &'static str| move |source: rusqlite::Error| classify(path, action, source);
        let connection = Connection::open(path).map_err(corrupt_or("open a connection"))?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(corrupt_or("set the busy timeout"))?;
        schema::configure(&connection).map_err(corrupt_or("set the journal mode"))?;
        check_integrity(&connection, path)?;
        let mut catalog = Self { connection };
        schema::migrate(&mut catalog.connection, path)?;
        Ok(catalog)
    }

    /// Returns every registered workspace by name.
    pub(crate) fn workspaces(&self) -> Result<Vec<WorkspaceRecord>, CatalogError> {
        let read = || {
            let mut statement = self.connection.prepare(rows::SELECT)?;
            statement.query_map([], rows::from_row)?.collect::<Result<Vec<_>, _>>()
        };
        read().map_err(failed("read workspaces"))
    }

    /// Adds a workspace or replaces the one with the same id, and takes its directory off the list of
    /// forgotten ones.
    pub(crate) fn put(&mut self, record: &WorkspaceRecord) -> Result<(), CatalogError> {
        self.put_all(std::slice::from_ref(record))
    }

    /// Does what [`Self::put`] does for all of them, with one wait for the disk.
    pub(crate) fn put_all(&mut self, records: &[WorkspaceRecord]) -> Result<(), CatalogError> {
        let mut write = || {
            let transaction = self.connection.transaction()?;
            for record in records {
                rows::upsert(&transaction, record)?;
                transaction
                    .execute("DELETE FROM forgotten WHERE dir = ?1", [record.dir.to_string_lossy()])?;
            }
            transaction.commit()
        };
        write().map_err(failed("store workspaces"))
    }

    /// Removes a workspace that was never mounted.
    pub(crate) fn remove(&mut self, id: &str) -> Result<(), CatalogError> {
        self.connection
            .execute("DELETE FROM workspace WHERE id = ?1", [id])
            .map(|_| ())
            .map_err(failed("remove a workspace"))
    }

    /// Removes a workspace. A directory that matches a configured root is remembered as forgotten, or the next
    /// scan would guard it again.
    pub(crate) fn forget(&mut self, record: &WorkspaceRecord, now: Timestamp) -> Result<(), CatalogError> {
        let mut write = || {
            let transaction = self.connection.transaction()?;
            transaction.execute("DELETE FROM workspace WHERE id = ?1", [&record.id])?;
            transaction.execute(
                "INSERT OR REPLACE INTO forgotten (dir, at_us) VALUES (?1, ?2)",
                params![record.dir.to_string_lossy(), now.as_microsecond()],
            )?;
            transaction.commit()
        };
        write().map_err(failed("forget a workspace"))
    }

    /// Returns whether `dir` was taken out of the registry on request.
    pub(crate) fn is_forgotten(&self, dir: &Path) -> Result<bool, CatalogError> {
        self.connection
            .query_row("SELECT 1 FROM forgotten WHERE dir = ?1", [dir.to_string_lossy()], |_| Ok(()))
            .optional()
            .map(|found| found.is_some())
            .map_err(failed("look for a forgotten directory"))
    }

    /// Notes that the workspaces `ids` were mounted and watched at `now`.
    pub(crate) fn touch_alive(&mut self, ids: &[&str], now: Timestamp) -> Result<(), CatalogError> {
        let mut write = || {
            let transaction = self.connection.transaction()?;
            for id in ids {
                transaction.execute(
                    "UPDATE workspace SET last_alive_us = ?2 WHERE id = ?1",
                    params![id, now.as_microsecond()],
                )?;
            }
            transaction.commit()
        };
        write().map_err(failed("note that workspaces are alive"))
    }
}

fn failed(action: &'static str) -> impl FnOnce(rusqlite::Error) -> CatalogError {
    move |source| CatalogError::Database { action, source }
}

/// Tells a damaged file from a disk that does not work.
fn classify(path: &Path, action: &'static str, source: rusqlite::Error) -> CatalogError {
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase) => {
            CatalogError::Corrupt { path: path.to_path_buf(), reason: source.to_string() }
        }
        _ => CatalogError::Database { action, source },
    }
}

fn check_integrity(connection: &Connection, path: &Path) -> Result<(), CatalogError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| classify(path, "check the integrity", source))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(CatalogError::Corrupt { path: path.to_path_buf(), reason: verdict })
}

/// Renames the file and its WAL, keeping both: the WAL may hold rows that the file lacks.
fn move_aside(path: &Path) -> Result<PathBuf, CatalogError> {
    let stamp = Timestamp::now().as_second();
    let aside = sibling(path, &format!(".corrupt-{stamp}"));
    let move_error = |source| CatalogError::MoveAside { path: path.to_path_buf(), source };
    for suffix in ["-wal", "-shm"] {
        match std::fs::rename(sibling(path, suffix), sibling(&aside, suffix)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(move_error(source)),
        }
    }
    std::fs::rename(path, &aside).map_err(move_error)?;
    Ok(aside)
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
pub(crate) mod tests {
    use wsguard_api::Ownership;

    use super::*;

    pub(crate) fn record(id: &str) -> WorkspaceRecord {
        WorkspaceRecord {
            id: id.to_owned(),
            name: format!("name-{id}"),
            dir: format!("/home/u/workspace/{id}").into(),
            at: None,
            owner_uid: 1000,
            owner_gid: 1001,
            ownership: Ownership::Squash,
            from_roots: true,
            wanted: WantedState::Mounted,
            created_at: Timestamp::from_microsecond(1_700_000_000_000_001).unwrap(),
            last_unmounted_at: None,
            last_alive_at: None,
            identity: Some(DirectoryIdentity { device: 7, inode: 12, handle: vec![1, 2, 3] }),
        }
    }

    #[test]
    fn workspace_survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = Catalog::open(dir.path()).unwrap();
        let mut expected = record("a");
        opened.catalog.put(&expected).unwrap();
        let now = Timestamp::from_microsecond(1_700_000_001_000_000).unwrap();
        opened.catalog.touch_alive(&["a", "unknown"], now).unwrap();
        drop(opened);
        expected.last_alive_at = Some(now);
        assert_eq!(Catalog::open(dir.path()).unwrap().catalog.workspaces().unwrap(), [expected]);
    }

    #[test]
    fn forgotten_directory_is_remembered_until_it_is_mounted_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(dir.path()).unwrap().catalog;
        let record = record("a");
        catalog.put(&record).unwrap();
        catalog.forget(&record, Timestamp::now()).unwrap();
        assert!(catalog.workspaces().unwrap().is_empty());
        assert!(catalog.is_forgotten(&record.dir).unwrap());
        catalog.put(&record).unwrap();
        assert!(!catalog.is_forgotten(&record.dir).unwrap());
    }

    #[test]
    fn damaged_file_is_moved_aside_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let garbage = vec![0x5a_u8; 8192];
        std::fs::write(dir.path().join(CATALOG_FILE), &garbage).unwrap();
        let opened = Catalog::open(dir.path()).unwrap();
        let (aside, _) = opened.moved_aside.unwrap();
        assert_eq!(std::fs::read(&aside).unwrap(), garbage);
        assert!(aside.file_name().unwrap().to_str().unwrap().starts_with("catalog.sqlite.corrupt-"));
        assert!(opened.catalog.workspaces().unwrap().is_empty());
    }

    #[test]
    fn newer_format_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(Catalog::open(dir.path()).unwrap());
        let path = dir.path().join(CATALOG_FILE);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = Catalog::open(dir.path()).unwrap_err();
        assert!(matches!(error, CatalogError::Newer { found: 99, .. }), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn fresh_file_has_the_current_format() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap().catalog;
        let pragma =
            |name: &str| catalog.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        assert_eq!(pragma("user_version").unwrap(), i64::from(schema::VERSION));
        assert_eq!(pragma("synchronous").unwrap(), 2);
    }

    #[test]
    fn two_workspaces_cannot_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::open(dir.path()).unwrap().catalog;
        catalog.put(&record("a")).unwrap();
        let mut other = record("b");
        other.dir = record("a").dir;
        assert!(matches!(catalog.put(&other).unwrap_err(), CatalogError::Database { .. }));
    }
}
