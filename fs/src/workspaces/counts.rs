//! What has happened since this worker started, in numbers for whoever watches it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::quota;

/// Counters; each is exact, and no two of them are of the same moment.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    drifts: AtomicU64,
    drift_bytes: AtomicI64,
    samples: AtomicU64,
    sample_differences: AtomicU64,
    crossings: AtomicU64,
    saturated: AtomicU64,
    watermark_passed: AtomicU64,
    pending: AtomicU64,
}

impl Counts {
    /// Notes a difference that a recount found and nothing explains.
    pub(super) fn note_drift(&self, bytes: i64) {
        self.drifts.fetch_add(1, Ordering::Relaxed);
        self.drift_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Notes a comparison of the counters with the usage index.
    pub(super) fn note_sample(&self, differs: bool) {
        self.samples.fetch_add(1, Ordering::Relaxed);
        self.sample_differences.fetch_add(u64::from(differs), Ordering::Relaxed);
    }

    /// Notes what the ledger tells.
    pub(super) fn note_event(&self, kind: &quota::EventKind) {
        match kind {
            quota::EventKind::Threshold { .. } | quota::EventKind::HardReached { .. } => {
                self.crossings.fetch_add(1, Ordering::Relaxed);
            }
            quota::EventKind::Saturated { times } => {
                self.saturated.fetch_add(*times, Ordering::Relaxed);
            }
            quota::EventKind::WatermarkPassed { times } => {
                self.watermark_passed.fetch_add(*times, Ordering::Relaxed);
            }
            quota::EventKind::GraceStarted { .. }
            | quota::EventKind::GraceEnding { .. }
            | quota::EventKind::GraceExpired { .. }
            | quota::EventKind::GraceStopped { .. }
            | quota::EventKind::BoostExpired { .. }
            | quota::EventKind::ClockJumped { .. } => {}
        }
    }

    /// Notes how many requests wait for an administrator.
    pub(super) fn set_pending(&self, requests: usize) {
        self.pending.store(requests as u64, Ordering::Relaxed);
    }

    /// How often a recount found a difference that nothing explains.
    pub(crate) fn drifts(&self) -> u64 {
        self.drifts.load(Ordering::Relaxed)
    }

    /// The last of these differences, bytes: counted less booked.
    pub(crate) fn drift_bytes(&self) -> i64 {
        self.drift_bytes.load(Ordering::Relaxed)
    }

    /// How often counters were compared with the usage index, and how often they differed.
    pub(crate) fn samples(&self) -> (u64, u64) {
        (self.samples.load(Ordering::Relaxed), self.sample_differences.load(Ordering::Relaxed))
    }

    /// How often use reached a threshold or a hard limit.
    pub(crate) fn crossings(&self) -> u64 {
        self.crossings.load(Ordering::Relaxed)
    }

    /// How often a counter would have gone below 0.
    pub(crate) fn saturated(&self) -> u64 {
        self.saturated.load(Ordering::Relaxed)
    }

    /// How often use passed what was persisted.
    pub(crate) fn watermark_passed(&self) -> u64 {
        self.watermark_passed.load(Ordering::Relaxed)
    }

    /// How many requests wait for an administrator.
    pub(crate) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }
}
