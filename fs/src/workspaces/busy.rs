//! What is open in a plain directory when a guard is put over it.
//!
//! Whoever has a file open for writing there writes past the guard until it is closed, so a request to mount is
//! refused unless it insists. A working directory or a file that is only read does no harm to the files: it is
//! reported. Directories below roots are guarded in any case: unguarded, everybody would write past the guard.

use tracing::warn;
use wsguard_api::ApiError;

use super::driver::Driver;
use crate::catalog::WorkspaceRecord;
use crate::mount_users::{self, Bypassing, PlainDirectory, bypassing};
use crate::mounting::MountError;
use crate::mounting::mountinfo::MountTable;

impl Driver {
    /// Refuses a directory with files that are open for writing. With `--at` it stays reachable anyway.
    pub(super) fn check_not_busy(&self, record: &WorkspaceRecord) -> Result<(), ApiError> {
        if record.at.is_some() {
            return Ok(());
        }
        let table = MountTable::read().map_err(|error| MountError::MountTable(error).to_api())?;
        let Some(directory) = PlainDirectory::locate(&record.dir, &table) else { return Ok(()) };
        let found = bypassing(&[directory], &self.own_pids).pop().unwrap_or_default();
        if found.writers.is_empty() {
            return Ok(());
        }
        Err(MountError::Busy { path: record.dir.clone(), writers: found.writers }.to_api())
    }

    /// Notes who is past the guards that were just put up: once they are there, nobody new can get there.
    pub(super) fn note_bypassing(&self, ids: &[String]) {
        let table = match MountTable::read() {
            Ok(table) => table,
            Err(error) => {
                warn!(error = %error, "mount table cannot be read to find who gets past a guard");
                return;
            }
        };
        let located = |id: &String| {
            let record = self.registry.record(id).ok().filter(|record| record.at.is_none())?;
            PlainDirectory::locate(&record.dir, &table).map(|directory| (record.id, directory))
        };
        let (ids, directories): (Vec<String>, Vec<PlainDirectory>) = ids.iter().filter_map(located).unzip();
        if ids.is_empty() {
            return;
        }
        for (id, found) in ids.iter().zip(bypassing(&directories, &self.own_pids)) {
            self.note_bypassing_one(id, found);
        }
    }

    fn note_bypassing_one(&self, id: &str, found: Bypassing) {
        let noted = self.registry.with_entry(id, |entry| {
            entry.bypassing.clone_from(&found.users);
            entry.record.name.clone()
        });
        // Gone only if this thread removed it.
        let Ok(name) = noted else { return };
        if !found.users.is_empty() {
            let users = mount_users::summary(&found.users);
            warn!(workspace = %id, name, writers = found.writers.len(), users, "processes get past the guard");
        }
    }
}
