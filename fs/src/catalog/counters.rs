//! What each workspace uses, as it was known last.
//!
//! `is_clean` is set by a clean unmount only: then the numbers are exact. While a workspace is mounted it is not
//! set, and after a crash it uses at most its watermarks, which are stored before they may be passed.

use std::collections::BTreeMap;
use std::path::Path;

#[cfg(test)]
use rusqlite::OptionalExtension;
use rusqlite::{Connection, Row, params};

use super::{BUSY_TIMEOUT, CATALOG_FILE, Catalog, CatalogError, failed, schema};

/// The stored counters of one workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Charged bytes.
    pub(crate) used_bytes: u64,
    /// Inodes.
    pub(crate) used_inodes: u64,
    /// Never passed without being raised here first.
    pub(crate) watermark_bytes: u64,
    /// As `watermark_bytes`.
    pub(crate) watermark_inodes: u64,
    /// `used_…` are exact; else the watermarks are upper bounds.
    pub(crate) is_clean: bool,
}

impl Counters {
    /// Returns what a workspace uses at most: bytes and inodes.
    pub(crate) fn upper_bound(&self) -> (u64, u64) {
        if self.is_clean {
            (self.used_bytes, self.used_inodes)
        } else {
            (self.used_bytes.max(self.watermark_bytes), self.used_inodes.max(self.watermark_inodes))
        }
    }
}

/// A connection of its own to the counters, for a thread that must not wait for the driver.
#[derive(Debug)]
pub(crate) struct CounterStore {
    connection: Connection,
}

impl CounterStore {
    /// Opens the catalog below `state_dir` a second time; it must have been opened as a [`Catalog`] before.
    ///
    /// # Errors
    /// `Database` when the disk does not let us.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, CatalogError> {
        let open = || {
            let connection = Connection::open(state_dir.join(CATALOG_FILE))?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            schema::configure(&connection)?;
            Ok(connection)
        };
        open().map(|connection| Self { connection }).map_err(failed("open the counters"))
    }

    /// Returns what is stored for a workspace.
    #[cfg(test)]
    pub(crate) fn get(&self, workspace: &str) -> Result<Option<Counters>, CatalogError> {
        let sql = "SELECT used_bytes, used_inodes, watermark_bytes, watermark_inodes, is_clean \
                   FROM quota_counter WHERE workspace = ?1";
        self.connection
            .query_row(sql, [workspace], |row| counters(row, 0))
            .optional()
            .map_err(failed("read counters"))
    }

    /// Stores the counters of several workspaces with one wait for the disk; on disk when it returns.
    pub(crate) fn put(&mut self, counters: &[(&str, Counters)]) -> Result<(), CatalogError> {
        let mut write = || {
            let transaction = self.connection.transaction()?;
            for (workspace, counters) in counters {
                // Of a workspace that was forgotten meanwhile nothing is stored.
                transaction.execute(
                    "INSERT OR REPLACE INTO quota_counter \
                     SELECT id, ?2, ?3, ?4, ?5, ?6 FROM workspace WHERE id = ?1",
                    params![
                        workspace,
                        counters.used_bytes.cast_signed(),
                        counters.used_inodes.cast_signed(),
                        counters.watermark_bytes.cast_signed(),
                        counters.watermark_inodes.cast_signed(),
                        counters.is_clean,
                    ],
                )?;
            }
            transaction.commit()
        };
        write().map_err(failed("store counters"))
    }
}

impl Catalog {
    /// Returns the counters of every workspace that has any.
    pub(crate) fn counters(&self) -> Result<BTreeMap<String, Counters>, CatalogError> {
        let read = || -> rusqlite::Result<BTreeMap<String, Counters>> {
            let mut statement = self.connection.prepare(
                "SELECT workspace, used_bytes, used_inodes, watermark_bytes, watermark_inodes, is_clean \
                 FROM quota_counter",
            )?;
            statement.query_map([], |row| Ok((row.get(0)?, counters(row, 1)?)))?.collect()
        };
        read().map_err(failed("read counters"))
    }
}

fn counters(row: &Row<'_>, first: usize) -> rusqlite::Result<Counters> {
    let number = |column: usize| row.get::<_, i64>(first + column).map(i64::cast_unsigned);
    Ok(Counters {
        used_bytes: number(0)?,
        used_inodes: number(1)?,
        watermark_bytes: number(2)?,
        watermark_inodes: number(3)?,
        is_clean: row.get(first + 4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTERS: Counters = Counters {
        used_bytes: 8192,
        used_inodes: 3,
        watermark_bytes: 1 << 30,
        watermark_inodes: 1000,
        is_clean: true,
    };

    #[test]
    fn counters_go_with_their_workspace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CATALOG_FILE);
        schema::make_format_1(&Connection::open(path).unwrap()).unwrap();
        let mut catalog = Catalog::open(dir.path()).unwrap().catalog;
        let mut store = CounterStore::open(dir.path()).unwrap();
        store.put(&[("w1", COUNTERS), ("gone", COUNTERS)]).unwrap();
        assert_eq!(store.get("w1").unwrap(), Some(COUNTERS));
        assert_eq!(store.get("gone").unwrap(), None);
        assert_eq!(catalog.counters().unwrap(), BTreeMap::from([("w1".to_owned(), COUNTERS)]));
        catalog.remove("w1").unwrap();
        assert_eq!(store.get("w1").unwrap(), None);
    }

    #[test]
    fn unclean_counters_are_bounded_by_the_watermark() {
        assert_eq!(COUNTERS.upper_bound(), (8192, 3));
        assert_eq!(Counters { is_clean: false, ..COUNTERS }.upper_bound(), (1 << 30, 1000));
    }
}
