//! What is kept of the past, and for how long: the table `[snapshots]`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::Deserialize;

use super::retention::RetentionPolicy;
use super::{ConfigError, Lines, STORE_ENV, absolute, within};

/// Between two automatic snapshots by default.
const DEFAULT_AUTO_SECONDS: u64 = 60;
/// What can be asked for.
const AUTO_SECONDS: RangeInclusive<u64> = 1..=86_400;
/// How much history may take at most, of the workspace's limit or of the filesystem.
const DEFAULT_BUDGET_PERCENT: u64 = 20;
/// What can be asked for.
const BUDGET_PERCENT: RangeInclusive<u64> = 0..=80;
/// Of the filesystem, left free by history by default.
const DEFAULT_KEEP_FREE_PERCENT: u64 = 10;
/// What can be asked for.
const KEEP_FREE_PERCENT: RangeInclusive<u64> = 1..=90;
/// A budget of some per cent is at least so much.
const LEAST_BUDGET: u64 = 5 << 30;

/// Whether what is deleted and overwritten is kept, where, how often and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// Whether it is kept at all.
    pub is_enabled: bool,
    /// What is preserved is made durable before each change.
    pub(crate) is_strict: bool,
    /// A directory for what is kept of workspaces on its filesystem; `None` for `.wsguard` at the top of each.
    pub store: Option<PathBuf>,
    /// Between two automatic snapshots of a workspace that is being changed.
    pub auto_interval: Duration,
    /// What the history of a workspace may take.
    pub budget: Budget,
    /// Per cent of the filesystem that history leaves free.
    pub keep_free_percent: u64,
    /// Which snapshots stay.
    pub retention: RetentionPolicy,
    /// The time zone whose hours and days count; `None` for that of the system.
    pub zone: Option<String>,
}

/// What the history of a workspace may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So many bytes.
    Bytes(u64),
    /// So many per cent of the workspace's limit, or of the filesystem where it has none; 5 GiB at least.
    Percent(u64),
}

impl Budget {
    /// Returns it in bytes for a workspace that may hold so much.
    pub fn bytes(self, of: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(0) => 0,
            Self::Percent(percent) => (of / 100).saturating_mul(percent).max(LEAST_BUDGET),
        }
    }
}

impl SnapshotSettings {
    /// Returns the time zone whose hours and days count.
    pub(crate) fn time_zone(&self) -> TimeZone {
        // It was there when the settings were read.
        self.zone.as_deref().and_then(|name| TimeZone::get(name).ok()).unwrap_or_else(TimeZone::system)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct SnapshotsTable {
    enabled: Option<bool>,
    store: Option<PathBuf>,
    auto_seconds: Option<u64>,
    budget_percent: Option<u64>,
    budget_mebibytes: Option<u64>,
    keep_free_percent: Option<u64>,
    zone: Option<String>,
    strict: Option<bool>,
    retention: RetentionPolicy,
}

/// Checks the table.
pub(super) fn resolve(table: SnapshotsTable, lines: &Lines<'_>) -> Result<SnapshotSettings, ConfigError> {
    let store = std::env::var_os(STORE_ENV)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or(table.store)
        .map(|path| absolute("store", path, lines))
        .transpose()?;
    let auto_seconds = within("auto-seconds", table.auto_seconds, DEFAULT_AUTO_SECONDS, AUTO_SECONDS, lines)?;
    let percent =
        within("budget-percent", table.budget_percent, DEFAULT_BUDGET_PERCENT, BUDGET_PERCENT, lines)?;
    if let (Some(mebibytes), Some(_)) = (table.budget_mebibytes, table.budget_percent) {
        let reason = "give either budget-mebibytes or budget-percent".to_owned();
        return Err(lines.value("budget-mebibytes", mebibytes.to_string(), reason));
    }
    if let Some(zone) = table.zone.as_deref()
        && TimeZone::get(zone).is_err()
    {
        let reason = "give a name of the time zone database, such as Europe/London".to_owned();
        return Err(lines.value("zone", zone.to_owned(), reason));
    }
    let retention = table.retention.checked().map_err(|error| ConfigError::Value {
        origin: lines.path.display().to_string(),
        key: "snapshots.retention",
        value: "this table".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(SnapshotSettings {
        is_enabled: table.enabled.unwrap_or(true),
        is_strict: table.strict.unwrap_or(false),
        store,
        auto_interval: Duration::from_secs(auto_seconds),
        budget: table
            .budget_mebibytes
            .map_or(Budget::Percent(percent), |mebibytes| Budget::Bytes(mebibytes.saturating_mul(1 << 20))),
        keep_free_percent: within(
            "keep-free-percent",
            table.keep_free_percent,
            DEFAULT_KEEP_FREE_PERCENT,
            KEEP_FREE_PERCENT,
            lines,
        )?,
        retention,
        zone: table.zone,
    })
}
