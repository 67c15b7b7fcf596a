//! The nightly sample of the drift audit: whether the counters of quota agree with the usage index.
//!
//! The index is filled and followed independently of the counters, so comparing both costs no walk. It lags and may be
//! wrong by itself: a difference that stays is no finding, but a reason to count at once, and only what that count finds
//! and nothing explains is told ([`super::quota`]). The full count once a week is the session's own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{debug, info};
use wsguard_api::{IndexState, Usage};

use super::driver::Driver;
use super::registry::Registry;
use crate::error_chain::one_line;
use crate::tracker::Recorder;
use crate::usage::{self, Subject, UsageQuery, UsageService};

/// From one sample of a workspace to the next.
const INTERVAL: Duration = Duration::from_secs(86_400);

/// Workspaces are looked at in different minutes of the day.
const SPREAD_MINUTES: u64 = 24 * 60;

/// While somebody writes there is nothing to compare; then it is tried again.
const BUSY_PAUSE: Duration = Duration::from_secs(600);

/// A difference has to be there so often, so far apart: the index lags by seconds.
const CONFIRMATIONS: u32 = 3;
const CONFIRMATION_PAUSE: Duration = Duration::from_secs(30);

/// What a comparison says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sample {
    /// Something changes, or one of both is not known exactly at the moment.
    Busy,
    /// What the index says, and by how much it is more than the counters.
    Compared {
        /// The index.
        indexed: Usage,
        /// Bytes more.
        drift_bytes: i64,
        /// Inodes more.
        drift_inodes: i64,
    },
}

/// When each workspace is looked at next.
#[derive(Debug, Default)]
pub(super) struct SampleTimes(BTreeMap<String, (Instant, u32)>);

impl Driver {
    /// Compares those that are due.
    pub(super) fn take_samples(&mut self) {
        let ids = self.registry.ids();
        self.samples.0.retain(|id, _| ids.contains(id));
        let now = Instant::now();
        for id in ids {
            let (due, differed) = *self.samples.0.entry(id.clone()).or_insert_with(|| (now + first(&id), 0));
            if due > now {
                continue;
            }
            let next = match compare(&self.registry, &self.usage, &self.recorder, &id) {
                Some(Sample::Compared { drift_bytes: 0, drift_inodes: 0, .. }) => {
                    self.registry.counts().note_sample(false);
                    (now + INTERVAL, 0)
                }
                Some(Sample::Compared { drift_bytes, drift_inodes, .. }) if differed + 1 >= CONFIRMATIONS => {
                    self.registry.counts().note_sample(true);
                    info!(workspace = %id, drift_bytes, drift_inodes, "counters differ from the usage index; counting");
                    if let Some(mounted) = self.registry.mounted(&id) {
                        mounted.ask_recount();
                    }
                    (now + INTERVAL, 0)
                }
                Some(Sample::Compared { .. }) => (now + CONFIRMATION_PAUSE, differed + 1),
                Some(Sample::Busy) | None => (now + BUSY_PAUSE, 0),
            };
            self.samples.0.insert(id, next);
        }
    }
}

/// Spreads the workspaces over the day; ids are random.
fn first(id: &str) -> Duration {
    let sum = id.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    Duration::from_secs(sum % SPREAD_MINUTES * 60)
}

/// Compares the counters of a workspace with the index; `None` if it is not mounted or nothing is counted. Reads a file.
pub(crate) fn compare(
    registry: &Registry,
    service: &UsageService,
    recorder: &Recorder,
    id: &str,
) -> Option<Sample> {
    let mounted = registry.mounted(id)?;
    let account = mounted.account()?;
    let record = registry.record(id).ok()?;
    let is_busy = recorder.activity_of(id).is_some() || account.is_estimated();
    if is_busy || service.state(id) != IndexState::Current {
        return Some(Sample::Busy);
    }
    let counted = || (account.used_bytes(), account.used_inodes());
    let before = counted();
    let subject = Subject {
        workspace: id.to_owned(),
        name: record.name,
        path: record.dir,
        relative: PathBuf::new(),
        state: IndexState::Current,
        available_bytes: None,
    };
    let query = UsageQuery { top: 1, days: 1, cold_days: 30 };
    let report = usage::report(&service.index_path(id), subject, query, Timestamp::now())
        .inspect_err(|error| debug!(workspace = %id, error = %one_line(error), "no sample can be taken"))
        .ok()?;
    // What the last walk could not read is not in the index.
    if counted() != before || report.unreadable > 0 || recorder.activity_of(id).is_some() {
        return Some(Sample::Busy);
    }
    let more = |indexed: u64, counted: u64| indexed.cast_signed().wrapping_sub(counted.cast_signed());
    Some(Sample::Compared {
        indexed: Usage { bytes: report.bytes, inodes: report.inodes },
        drift_bytes: more(report.bytes, before.0),
        drift_inodes: more(report.inodes, before.1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_samples_are_spread_over_a_day() {
        let times: Vec<Duration> = (0..50).map(|n| first(&format!("w{n:016x}"))).collect();
        assert!(times.iter().all(|time| *time < INTERVAL));
        let distinct: std::collections::BTreeSet<_> = times.iter().collect();
        assert!(distinct.len() > 25, "{times:?}");
    }
}
