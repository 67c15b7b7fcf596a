//! The list of snapshots.

use rusqlite::{OptionalExtension, params};

use super::columns::{nonsense, stored_as_number};
use super::{Catalog, CatalogError, Past};
use crate::snapshot::record::{Actor, SnapshotReason};
use crate::snapshot::sequence::{Epoch, Sequence};
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};

/// How safe a snapshot is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum SnapshotState {
    /// It survives the death of every process, a power cut perhaps not.
    Sealed,
    /// It survives a power cut.
    Durable,
    /// There is a copy off this machine.
    Uploaded,
    /// That copy was read back and is right.
    Verified,
    /// Something of it is damaged or was changed outside.
    Degraded,
    /// Something of it could not be kept.
    Incomplete,
}

stored_as_number!(
    SnapshotState,
    Sealed = 0,
    Durable = 1,
    Uploaded = 2,
    Verified = 3,
    Degraded = 4,
    Incomplete = 5
);

/// A snapshot. Its number is that of the epoch at whose end it shows the workspace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotRecord {
    /// The epoch.
    pub(crate) epoch: Epoch,
    /// When it was taken, nanoseconds since 1970.
    pub(crate) time_ns: i64,
    /// Who asked for it.
    pub(crate) actor: Actor,
    /// Why.
    pub(crate) reason: SnapshotReason,
    /// A name that the user gave.
    pub(crate) name: Option<String>,
    /// Free text.
    pub(crate) note: Option<String>,
    /// Retention must not delete it.
    pub(crate) is_held: bool,
    /// How safe it is.
    pub(crate) state: SnapshotState,
}

impl SnapshotRecord {
    /// Returns the moment that it shows.
    pub(crate) fn moment(&self) -> Sequence {
        self.epoch.end()
    }
}

impl Past {
    /// Returns all snapshots, oldest first.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn snapshots(&self) -> Result<Vec<SnapshotRecord>, CatalogError> {
        let sql = "SELECT epoch, time_ns, uid, pid, reason, name, note, is_held, state FROM snapshot ORDER BY epoch";
        self.rows("read snapshots", sql, [], |row| {
            Ok(SnapshotRecord {
                epoch: row.get(0)?,
                time_ns: row.get(1)?,
                actor: Actor { uid: row.get(2)?, pid: row.get(3)? },
                reason: row.get(4)?,
                name: row.get(5)?,
                note: row.get(6)?,
                is_held: row.get(7)?,
                state: row.get(8)?,
            })
        })
    }

    /// Returns the last epoch that has ended; `None` before the first has.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn last_ended_epoch(&self) -> Result<Option<Epoch>, CatalogError> {
        let sql = "SELECT epoch FROM epoch WHERE ended_ns IS NOT NULL ORDER BY epoch DESC LIMIT 1";
        self.row("read epochs", sql, [], |row| row.get(0))
    }
}

impl Catalog {
    /// Sets what users decide about a snapshot: whether it is held, its name and its note. See [`super::super::roster`]
    /// for what has to be done before.
    ///
    /// # Errors
    /// `NoSnapshot`, or if the disk does not let us.
    pub(crate) fn set_decided(&mut self, snapshot: &SnapshotRecord) -> Result<(), CatalogError> {
        self.change_snapshot(
            "UPDATE snapshot SET is_held = ?2 WHERE epoch = ?1",
            snapshot.epoch,
            snapshot.is_held,
        )?;
        self.change_snapshot(
            "UPDATE snapshot SET name = ?2 WHERE epoch = ?1",
            snapshot.epoch,
            &snapshot.name,
        )?;
        self.change_snapshot("UPDATE snapshot SET note = ?2 WHERE epoch = ?1", snapshot.epoch, &snapshot.note)
    }

    /// Notes how safe a snapshot is.
    ///
    /// # Errors
    /// `NoSnapshot`, or if the disk does not let us.
    pub(crate) fn set_state(&mut self, epoch: Epoch, state: SnapshotState) -> Result<(), CatalogError> {
        self.change_snapshot("UPDATE snapshot SET state = ?2 WHERE epoch = ?1", epoch, state)
    }

    /// Removes a snapshot from the list. What only it needs becomes garbage.
    ///
    /// # Errors
    /// `NoSnapshot`, or if the disk does not let us.
    pub(crate) fn remove_snapshot(&mut self, epoch: Epoch) -> Result<(), CatalogError> {
        self.change_snapshot("DELETE FROM snapshot WHERE epoch = ?1 AND ?2 IS NULL", epoch, None::<i64>)
    }

    fn change_snapshot(
        &mut self,
        sql: &'static str,
        epoch: Epoch,
        value: impl ToSql,
    ) -> Result<(), CatalogError> {
        let change = || {
            let sql = format!("{sql} RETURNING 1");
            self.past.connection.prepare_cached(&sql)?.query_row(params![epoch, value], |_| Ok(())).optional()
        };
        match change().map_err(self.past.failed("change a snapshot"))? {
            Some(()) => Ok(()),
            None => Err(CatalogError::NoSnapshot { epoch: epoch.0 }),
        }
    }
}
