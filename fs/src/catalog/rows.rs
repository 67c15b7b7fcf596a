//! Rows of the catalog as the rest of the daemon sees them.

use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Row, Transaction, params};
use wsguard_api::Ownership;

/// Whether a workspace is mounted again at the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantedState {
    /// Guarded as long as the daemon runs.
    Mounted,
    /// Unmounted on request, until it is mounted on request.
    Unmounted,
}

/// Which directory was registered: tells it from another one that has its path now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryIdentity {
    /// `st_dev`; may change at a reboot, so it alone proves nothing.
    pub(crate) device: u64,
    /// `st_ino`.
    pub(crate) inode: u64,
    /// The file handle's type, length and bytes.
    pub(crate) handle: Vec<u8>,
}

impl DirectoryIdentity {
    /// Returns whether both are one directory. Device numbers may change at a reboot, handles do not.
    pub(crate) fn is_same_directory(&self, other: &Self) -> bool {
        self.inode == other.inode && self.handle == other.handle
    }
}

/// One registered workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkspaceRecord {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    /// Where it is mounted instead of in place.
    pub(crate) at: Option<PathBuf>,
    pub(crate) owner_uid: u32,
    pub(crate) owner_gid: u32,
    pub(crate) ownership: Ownership,
    pub(crate) from_roots: bool,
    pub(crate) wanted: WantedState,
    pub(crate) created_at: Timestamp,
    /// When the last clean unmount was complete.
    pub(crate) last_unmounted_at: Option<Timestamp>,
    /// When it was last known to be mounted; refreshed every few seconds.
    pub(crate) last_alive_at: Option<Timestamp>,
    pub(crate) identity: Option<DirectoryIdentity>,
}

impl WorkspaceRecord {
    /// Returns where users see it.
    pub(crate) fn mount_point(&self) -> &std::path::Path {
        self.at.as_deref().unwrap_or(&self.dir)
    }

    /// Returns since when nobody has been watching, or `None` if it was never mounted.
    pub(crate) fn unwatched_since(&self) -> Option<Timestamp> {
        self.last_unmounted_at.max(self.last_alive_at)
    }
}

pub(super) const SELECT: &str = "SELECT id, name, dir, at, owner_uid, owner_gid, ownership, from_roots, wanted, \
     created_us, last_unmounted_us, last_alive_us, identity_device, identity_inode, identity_handle \
     FROM workspace ORDER BY name";

pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<WorkspaceRecord> {
    let identity = match (row.get::<_, Option<i64>>(12)?, row.get::<_, Option<i64>>(13)?, row.get(14)?) {
        (Some(device), Some(inode), Some(handle)) => {
            Some(DirectoryIdentity { device: device.cast_unsigned(), inode: inode.cast_unsigned(), handle })
        }
        _ => None,
    };
    Ok(WorkspaceRecord {
        id: row.get(0)?,
        name: row.get(1)?,
        dir: PathBuf::from(row.get::<_, String>(2)?),
        at: row.get::<_, Option<String>>(3)?.map(PathBuf::from),
        owner_uid: row.get(4)?,
        owner_gid: row.get(5)?,
        ownership: match row.get::<_, String>(6)?.as_str() {
            "preserve" => Ownership::Preserve,
            "squash" => Ownership::Squash,
            other => return Err(unknown(6, other)),
        },
        from_roots: row.get(7)?,
        wanted: match row.get::<_, String>(8)?.as_str() {
            "mounted" => WantedState::Mounted,
            "unmounted" => WantedState::Unmounted,
            other => return Err(unknown(8, other)),
        },
        created_at: time(9, row.get(9)?)?,
        last_unmounted_at: row.get::<_, Option<i64>>(10)?.map(|value| time(10, value)).transpose()?,
        last_alive_at: row.get::<_, Option<i64>>(11)?.map(|value| time(11, value)).transpose()?,
        identity,
    })
}

pub(super) fn upsert(transaction: &Transaction<'_>, record: &WorkspaceRecord) -> rusqlite::Result<()> {
    let identity = record.identity.as_ref();
    transaction.execute(
        "INSERT INTO workspace VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
         ON CONFLICT (id) DO UPDATE SET name = ?2, dir = ?3, at = ?4, owner_uid = ?5, owner_gid = ?6, \
         ownership = ?7, from_roots = ?8, wanted = ?9, created_us = ?10, last_unmounted_us = ?11, \
         last_alive_us = ?12, identity_device = ?13, identity_inode = ?14, identity_handle = ?15",
        params![
            record.id,
            record.name,
            record.dir.to_string_lossy(),
            record.at.as_ref().map(|at| at.to_string_lossy()),
            record.owner_uid,
            record.owner_gid,
            match record.ownership {
                Ownership::Preserve => "preserve",
                Ownership::Squash => "squash",
            },
            record.from_roots,
            match record.wanted {
                WantedState::Mounted => "mounted",
                WantedState::Unmounted => "unmounted",
            },
            record.created_at.as_microsecond(),
            record.last_unmounted_at.map(Timestamp::as_microsecond),
            record.last_alive_at.map(Timestamp::as_microsecond),
            identity.map(|identity| identity.device.cast_signed()),
            identity.map(|identity| identity.inode.cast_signed()),
            identity.map(|identity| &identity.handle),
        ],
    )?;
    Ok(())
}

fn time(column: usize, microseconds: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_microsecond(microseconds)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(error)))
}

fn unknown(column: usize, value: &str) -> rusqlite::Error {
    let reason = format!("{value:?} is not a known value").into();
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, reason)
}
