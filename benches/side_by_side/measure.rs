//! What one timed run yields, and the statistics over several.
//!
//! Each run is one number in its row's [`Unit`]. Ratios are always "native ÷ variant" in time, so that more
//! than 1 means faster than native whatever the unit is.

use std::{
    io,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What a row's number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    /// 10^6 bytes a second; more is better.
    MegabytesPerSecond,
    /// Microseconds an operation, the median of all operations of one run; less is better.
    Microseconds,
    /// Milliseconds for the whole job; less is better.
    Milliseconds,
}

impl Unit {
    /// Returns how many times faster `value` is than `native`.
    pub(crate) fn ratio(self, native: f64, value: f64) -> f64 {
        match self {
            Self::MegabytesPerSecond => value / native,
            Self::Microseconds | Self::Milliseconds => native / value,
        }
    }
}

/// One timed run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// In the row's unit.
    pub(crate) value: f64,
    /// The 99th percentile of single operations, microseconds; only for latency rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99: Option<f64>,
}

impl Measurement {
    /// A throughput.
    pub(crate) fn bytes(bytes: u64, elapsed: Duration) -> Self {
        Self { value: bytes as f64 / 1e6 / elapsed.as_secs_f64(), p99: None }
    }

    /// The duration of a whole job.
    pub(crate) fn job(elapsed: Duration) -> Self {
        Self { value: elapsed.as_secs_f64() * 1e3, p99: None }
    }
}

/// Times `job` as a whole.
pub(crate) fn time_job<E>(job: impl FnOnce() -> Result<(), E>) -> Result<Measurement, E> {
    let start = Instant::now();
    job()?;
    Ok(Measurement::job(start.elapsed()))
}

/// Times single operations until `max` of them are done or `budget` is used up; the index goes into `operation`.
///
/// One clock reading per operation: each sample holds about 25 ns of it.
pub(crate) fn time_operations<E: From<io::Error>>(
    max: usize,
    budget: Duration,
    mut operation: impl FnMut(usize) -> Result<(), E>,
) -> Result<Measurement, E> {
    let mut micros = vec![0.0_f64; max];
    let mut done = 0;
    let start = Instant::now();
    let mut before = start;
    for (index, slot) in micros.iter_mut().enumerate() {
        operation(index)?;
        let now = Instant::now();
        *slot = (now - before).as_secs_f64() * 1e6;
        before = now;
        done = index + 1;
        if now - start > budget {
            break;
        }
    }
    micros.truncate(done);
    micros.sort_unstable_by(f64::total_cmp);
    let (Some(value), Some(p99)) = (percentile(&micros, 0.50), percentile(&micros, 0.99)) else {
        return Err(io::Error::other("no operation was timed: the row asked for 0 operations").into());
    };
    Ok(Measurement { value, p99: Some(p99) })
}

/// Returns the value below which `fraction` of the ascending `sorted` values lie.
fn percentile(sorted: &[f64], fraction: f64) -> Option<f64> {
    let index = (sorted.len() as f64 * fraction) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied()
}

/// Returns the median, the mean of the middle two for an even count; `None` for no values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(*upper);
    }
    let lower = sorted.get(sorted.len() / 2 - 1)?;
    Some((lower + upper) / 2.0)
}
