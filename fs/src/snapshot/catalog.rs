//! The undo log folded into tables, `catalog.sqlite`, and every question about the past.
//!
//! Guarantees: what [`Catalog::apply`] returned for is in the file together with the position of the log that was
//! reached, in one transaction, so that a process that dies takes up where the file says; entries that are applied
//! again change nothing. WAL with `synchronous=NORMAL`: a power cut may take the last transactions and never the file;
//! [`Catalog::sync`] says up to where segments of the log may be removed. Nothing is ever removed that cannot be read:
//! a row that makes no sense is an error ([`CatalogError::Damaged`]) and the file stays as it is, for the caller to set
//! it aside and to fold the log once more.
//!
//! One thread owns a [`Catalog`] and writes; anybody reads through a [`Past`] of his own. Neither is for the hot path.
//!
//! What the tables need from whoever notes entries:
//! - of a rename the change of the old name comes before the change of the new one, and something that was replaced
//!   (not exchanged) has its [`Change::Attributes`](super::record::Change::Attributes) in the same entry;
//! - a [`Change::Content`](super::record::Change::Content) of a whole file is in one entry with the file's attributes,
//!   from which its size and its blocks are taken;
//! - an object holds bytes of one inode and of one epoch.

mod apply;
mod as_of;
mod children;
mod columns;
mod deletions;
mod difference;
mod error;
mod existence;
mod fingerprints;
mod garbage;
mod keeping;
mod kept;
mod lifetimes;
mod lost;
mod schema;
mod snapshots;
mod space;
mod versions;

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::undo_log::LogPosition;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

pub(crate) use apply::Applied;
pub(crate) use as_of::{Content, ContentRow, Source, Then, XattrList};
pub(crate) use children::Asked;
pub(crate) use columns::Event;
pub(crate) use deletions::{Below, Burst, Deletion};
pub(crate) use error::CatalogError;
pub(crate) use fingerprints::Fingerprint;
pub(crate) use garbage::{Condemned, Disposal, Sweep};
pub(crate) use kept::Kept;
pub(crate) use lost::Lost;
pub(crate) use snapshots::{SnapshotRecord, SnapshotState};
pub(crate) use versions::Version;

/// The file's name below the store's directory.
pub(crate) const CATALOG_FILE: &str = "catalog.sqlite";

/// How long a statement waits for a reader of another process, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements that a connection remembers; there are about as many.
const STATEMENTS: usize = 64;

/// The catalog, for its one writer. Reads go through [`Self::past`].
#[derive(Debug)]
pub(crate) struct Catalog {
    past: Past,
    was_closed: bool,
}

/// A connection that answers questions about the past. What is in the log only, it does not know: whoever needs the
/// latest has it folded first.
#[derive(Debug)]
pub(crate) struct Past {
    path: PathBuf,
    connection: Connection,
}

impl Catalog {
    /// Opens the catalog in `dir` and checks it if it was not closed.
    ///
    /// # Errors
    /// `Missing` where there is none, `Damaged` where it cannot be read, `Newer` where another version wrote it. The
    /// file is left as it is.
    pub(crate) fn open(dir: &Path) -> Result<Self, CatalogError> {
        let path = dir.join(CATALOG_FILE);
        let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let found = schema::version(&connection, &path)?;
        if found == 0 {
            return Err(CatalogError::Missing { path });
        }
        Self::prepare(path, connection)
    }

    /// Makes an empty catalog in `dir`; one that is there is opened.
    ///
    /// # Errors
    /// As [`Self::open`], and if the disk does not let us.
    pub(crate) fn create(dir: &Path) -> Result<Self, CatalogError> {
        let path = dir.join(CATALOG_FILE);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let connection = connect(&path, flags)?;
        Self::prepare(path, connection)
    }

    fn prepare(path: PathBuf, connection: Connection) -> Result<Self, CatalogError> {
        let mut past = Past { path, connection };
        schema::configure(&past.connection).map_err(past.failed("set the journal mode"))?;
        schema::migrate(&mut past.connection, &past.path)?;
        let was_closed = schema::is_clean(&past.connection).map_err(past.failed("read how it was closed"))?;
        if !was_closed {
            past.check_integrity()?;
        }
        schema::set_clean(&past.connection, false).map_err(past.failed("note that it is open"))?;
        Ok(Self { past, was_closed })
    }

    /// Moves the catalog in `dir` and its WAL aside, keeping both, so that another can be made. Returns where it is now.
    ///
    /// # Errors
    /// If the disk does not let us.
    pub(crate) fn set_aside(dir: &Path, now: jiff::Timestamp) -> Result<PathBuf, CatalogError> {
        let name = |suffix: &str| dir.join(format!("{CATALOG_FILE}{suffix}"));
        let stamp = format!(".damaged-{}", now.as_second());
        for suffix in ["-wal", "-shm", ""] {
            match std::fs::rename(name(suffix), name(&format!("{stamp}{suffix}"))) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(CatalogError::SetAside { path: name(""), source }),
            }
        }
        Ok(name(&stamp))
    }

    /// Whether whoever had it before closed it, so that the filesystem was synchronised as well. So is a new one.
    pub(crate) fn was_closed(&self) -> bool {
        self.was_closed
    }

    /// Returns the connection for questions.
    pub(crate) fn past(&self) -> &Past {
        &self.past
    }

    /// Makes what was applied durable, and returns up to where the log is not needed any more.
    ///
    /// # Errors
    /// If the disk does not let us, or a reader holds an old state for longer than the busy timeout.
    pub(crate) fn sync(&mut self) -> Result<LogPosition, CatalogError> {
        let position = self.past.position()?;
        let failed = self.past.failed("write the journal back");
        // Busy, pages of the journal, pages written back: with NORMAL both files are synchronised before the last
        // number counts.
        let (busy, pages, written): (i64, i64, i64) = self
            .past
            .connection
            .query_row("PRAGMA wal_checkpoint(FULL)", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .map_err(failed)?;
        if busy != 0 || pages != written {
            return Err(CatalogError::Busy { path: self.past.path.clone() });
        }
        Ok(position)
    }

    /// Notes that nothing is missing at its end, which makes the next opening quick.
    ///
    /// # Errors
    /// If the disk does not let us.
    pub(crate) fn close(&mut self) -> Result<(), CatalogError> {
        schema::set_clean(&self.past.connection, true).map_err(self.past.failed("note that it is closed"))
    }
}

impl Past {
    /// Opens the catalog in `dir` for reading.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub(crate) fn open(dir: &Path) -> Result<Self, CatalogError> {
        let path = dir.join(CATALOG_FILE);
        let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        if schema::version(&connection, &path)? != schema::VERSION {
            return Err(CatalogError::Missing { path });
        }
        let past = Self { path, connection };
        // Not read-only: the one who comes first after a crash must be able to recover the WAL.
        past.connection.pragma_update(None, "query_only", true).map_err(past.failed("set it read-only"))?;
        Ok(past)
    }

    /// Returns up to where the log is folded.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn position(&self) -> Result<LogPosition, CatalogError> {
        schema::position(&self.connection).map_err(self.failed("read the log position"))
    }

    /// Returns the moment from which on everything is known; `None` while nothing was folded. Later than
    /// [`Sequence::ZERO`](super::sequence::Sequence::ZERO) if the catalog was made again from a log that had lost its
    /// beginning.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn complete_since(&self) -> Result<Option<super::sequence::Sequence>, CatalogError> {
        self.connection
            .query_row("SELECT complete_since FROM standing", [], |row| row.get(0))
            .map_err(self.failed("read where history begins"))
    }

    fn check_integrity(&self) -> Result<(), CatalogError> {
        let verdict: String = self
            .connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(self.failed("check the integrity"))?;
        if verdict == "ok" {
            return Ok(());
        }
        Err(CatalogError::Damaged { path: self.path.clone(), reason: verdict })
    }

    fn failed(&self, action: &'static str) -> impl Fn(rusqlite::Error) -> CatalogError + use<> {
        let path = self.path.clone();
        move |source| error::classify(&path, action, source)
    }

    /// Runs a query and collects its rows.
    fn rows<T>(
        &self,
        action: &'static str,
        sql: &str,
        values: impl rusqlite::Params,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, CatalogError> {
        let query = || -> rusqlite::Result<Vec<T>> {
            self.connection.prepare_cached(sql)?.query_map(values, read)?.collect()
        };
        query().map_err(self.failed(action))
    }

    /// Runs a query that has at most one row.
    fn row<T>(
        &self,
        action: &'static str,
        sql: &str,
        values: impl rusqlite::Params,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, CatalogError> {
        let query = || self.connection.prepare_cached(sql)?.query_row(values, read).optional();
        query().map_err(self.failed(action))
    }

    /// Has everything that `read` asks see one state of the file.
    fn consistent<T>(&self, read: impl FnOnce() -> Result<T, CatalogError>) -> Result<T, CatalogError> {
        if !self.connection.is_autocommit() {
            return read();
        }
        let transaction = self.connection.unchecked_transaction().map_err(self.failed("begin to read"))?;
        let answer = read()?;
        transaction.commit().map_err(self.failed("end reading"))?;
        Ok(answer)
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, CatalogError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|source| {
        match (source.sqlite_error_code(), path.try_exists()) {
            (Some(rusqlite::ErrorCode::CannotOpen), Ok(false)) => {
                CatalogError::Missing { path: path.to_path_buf() }
            }
            _ => error::classify(path, "open a connection", source),
        }
    })?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection
        .busy_timeout(BUSY_TIMEOUT)
        .map_err(|source| error::classify(path, "set the busy timeout", source))?;
    Ok(connection)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod question_tests;
#[cfg(test)]
mod tests;
