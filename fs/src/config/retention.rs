//! Which snapshots an administrator wants kept: the table `[snapshots.retention]`.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// More of anything nobody means.
const MOST: u32 = 100_000;

/// How many snapshots stay, and for how long: the table `[snapshots.retention]` of `config.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RetentionPolicy {
    /// The newest so many.
    pub keep_last: u32,
    /// All that are not older than the newest by so many minutes.
    pub within_minutes: u32,
    /// The newest of each of the last so many hours that have one.
    pub hourly: u32,
    /// Days.
    pub daily: u32,
    /// Weeks.
    pub weekly: u32,
    /// Months.
    pub monthly: u32,
    /// Years.
    pub yearly: u32,
    /// Days for which those stay that were taken by hand or before something risky; two at least.
    pub event_days: u32,
    /// Days for which what was deleted or overwritten can be had back without a snapshot.
    pub trash_days: u32,
    /// So many that are whole stay, however old they get.
    pub min_count: u32,
    /// None goes before there is a copy of it off this machine.
    pub keep_until_uploaded: bool,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            keep_last: 1,
            within_minutes: 60,
            hourly: 24,
            daily: 14,
            weekly: 8,
            monthly: 6,
            yearly: 0,
            event_days: 14,
            trash_days: 7,
            min_count: 1,
            keep_until_uploaded: false,
        }
    }
}

/// Why a policy is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It keeps nothing.
    #[error(
        "retention keeps nothing: set one of keep-last, within-minutes, hourly, daily, weekly, monthly, yearly"
    )]
    Empty,
    /// A number is too large.
    #[error("retention {key} = {value} is more than {MOST}")]
    TooLarge {
        /// The key.
        key: &'static str,
        /// What was given.
        value: u32,
    },
}

impl RetentionPolicy {
    /// Returns the policy if it makes sense.
    ///
    /// # Errors
    /// `Empty` if no rule keeps anything, `TooLarge`.
    pub(crate) fn checked(self) -> Result<Self, PolicyError> {
        let rules = [
            ("keep-last", self.keep_last),
            ("within-minutes", self.within_minutes),
            ("hourly", self.hourly),
            ("daily", self.daily),
            ("weekly", self.weekly),
            ("monthly", self.monthly),
            ("yearly", self.yearly),
        ];
        let others =
            [("event-days", self.event_days), ("trash-days", self.trash_days), ("min-count", self.min_count)];
        if let Some((key, value)) = rules.iter().chain(&others).find(|(_, value)| *value > MOST) {
            return Err(PolicyError::TooLarge { key, value: *value });
        }
        if rules.iter().all(|(_, value)| *value == 0) {
            return Err(PolicyError::Empty);
        }
        Ok(self)
    }

    /// Returns how much older than the newest a snapshot may be to stay.
    pub(crate) fn within(&self) -> SignedDuration {
        SignedDuration::from_mins(self.within_minutes.into())
    }

    /// Returns how long snapshots stay that were taken by hand or before something risky.
    pub(crate) fn event_age(&self) -> SignedDuration {
        days(self.event_days)
    }

    /// Returns how long the trash is kept.
    pub(crate) fn trash_age(&self) -> SignedDuration {
        days(self.trash_days)
    }
}

fn days(days: u32) -> SignedDuration {
    SignedDuration::from_hours(24 * i64::from(days))
}
