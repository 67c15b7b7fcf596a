//! What is known of the past of each workspace, kept in memory for those who may not wait for a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use jiff::Timestamp;
use parking_lot::Mutex;
use wsguard_api::{HistoryState, HistoryStatus};

use crate::config::SnapshotSettings;
use crate::snapshot::Bounds;

/// What stands in `status` of each workspace, by id.
#[derive(Debug, Default)]
pub(crate) struct HistoryBoard {
    settings: OnceLock<SnapshotSettings>,
    facts: Mutex<BTreeMap<String, HistoryStatus>>,
    /// Workspaces of which snapshots were deleted by hand.
    deleted: Mutex<BTreeSet<String>>,
}

impl HistoryBoard {
    /// Sets what retention goes by; the first call counts.
    pub(super) fn set_settings(&self, settings: &SnapshotSettings) {
        self.settings.get_or_init(|| settings.clone());
    }

    /// Returns what retention goes by; `None` before anything is mounted.
    pub(crate) fn bounds(&self) -> Option<Bounds> {
        let settings = self.settings.get()?;
        Some(Bounds { policy: settings.retention.clone(), zone: settings.time_zone() })
    }

    /// Returns the numbers of a workspace.
    pub(crate) fn of(&self, id: &str) -> Option<HistoryStatus> {
        self.facts.lock().get(id).cloned()
    }

    /// Returns the numbers of a mounted workspace, which may not have been looked at yet.
    pub(super) fn of_mounted(&self, id: &str) -> HistoryStatus {
        self.of(id).unwrap_or_else(unknown)
    }

    /// Snapshots of a workspace were deleted: what only they needed can be collected.
    pub(crate) fn note_deleted(&self, id: &str) {
        self.deleted.lock().insert(id.to_owned());
    }

    pub(super) fn take_deleted(&self, id: &str) -> bool {
        self.deleted.lock().remove(id)
    }

    /// Changes the numbers of a workspace.
    pub(super) fn update(&self, id: &str, change: impl FnOnce(&mut HistoryStatus)) {
        let mut facts = self.facts.lock();
        change(facts.entry(id.to_owned()).or_insert_with(unknown));
    }

    pub(super) fn forget_others(&self, ids: &[String]) {
        self.facts.lock().retain(|id, _| ids.contains(id));
    }
}

fn unknown() -> HistoryStatus {
    HistoryStatus {
        state: HistoryState::Starting,
        snapshots: 0,
        last_automatic: None,
        stored_bytes: 0,
        trash_bytes: 0,
        budget_bytes: 0,
        lost: 0,
        damaged: 0,
    }
}

/// Returns a time that history keeps as clients see it.
pub(crate) fn shown_time(time_ns: i64) -> String {
    Timestamp::from_nanosecond(time_ns.into()).unwrap_or(Timestamp::MIN).to_string()
}
