//! How fast a workspace grows, and when it is full.

use wsguard_api::Forecast;

/// Hours in a day.
const DAY: i64 = 24;

/// Hours in a week.
const WEEK: i64 = 7 * DAY;

/// What is known of a workspace's growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Past {
    /// Bytes now.
    pub(super) used: i64,
    /// Bytes a day ago, or when watching began.
    pub(super) day_ago: i64,
    /// Bytes a week ago, or when watching began.
    pub(super) week_ago: i64,
    /// For how many hours it has been watched.
    pub(super) hours: i64,
}

/// Returns the pace and where it leads. The faster of both paces counts: a warning too early costs a look, one too
/// late a checkpoint.
pub(super) fn forecast(past: Past, available_bytes: Option<u64>) -> Forecast {
    let last_day = (past.hours >= 1).then_some(past.used - past.day_ago);
    let last_week = (past.hours >= DAY).then_some(past.used - past.week_ago);
    // Less than a day of history says how much came in that time; that it goes on for the whole day is a guess
    // that a single download would spoil, so what came so far counts as a day's.
    let day_pace = last_day;
    let week_pace = last_week.map(|bytes| bytes.saturating_mul(DAY) / past.hours.clamp(DAY, WEEK));
    let pace = day_pace.max(week_pace);
    let seconds_to_full =
        pace.filter(|pace| *pace > 0).zip(available_bytes).map(|(pace, available_bytes)| {
            let seconds = u128::from(available_bytes) * 86_400 / u128::from(pace.unsigned_abs());
            u64::try_from(seconds).unwrap_or(u64::MAX)
        });
    Forecast {
        used_bytes: u64::try_from(past.used).unwrap_or(0),
        available_bytes,
        last_day_bytes: last_day,
        last_week_bytes: last_week,
        bytes_per_day: pace,
        seconds_to_full,
        checkpoint_bytes: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: i64 = 1 << 30;

    fn past(used: i64, day_ago: i64, week_ago: i64, hours: i64) -> Past {
        Past { used: used * GIB, day_ago: day_ago * GIB, week_ago: week_ago * GIB, hours }
    }

    #[test]
    fn steady_growth_reaches_the_limit_in_time() {
        let forecast = forecast(past(100, 90, 30, 1000), Some(20 * GIB as u64));
        assert_eq!(forecast.bytes_per_day, Some(10 * GIB));
        assert_eq!(forecast.seconds_to_full, Some(2 * 86_400));
    }

    #[test]
    fn the_faster_pace_counts() {
        assert_eq!(forecast(past(100, 40, 30, 1000), Some(0)).bytes_per_day, Some(60 * GIB));
        assert_eq!(forecast(past(100, 100, 30, 1000), Some(0)).bytes_per_day, Some(10 * GIB));
    }

    #[test]
    fn a_shrinking_or_unwatched_workspace_is_never_full() {
        assert_eq!(forecast(past(10, 20, 30, 1000), Some(5)).seconds_to_full, None);
        let unwatched = forecast(past(10, 0, 0, 0), Some(5));
        assert_eq!((unwatched.last_day_bytes, unwatched.seconds_to_full), (None, None));
    }

    #[test]
    fn a_week_that_is_not_over_is_scaled_by_what_there_is() {
        let forecast = forecast(past(60, 60, 0, 3 * DAY), Some(20 * GIB as u64));
        assert_eq!(forecast.bytes_per_day, Some(20 * GIB));
    }

    #[test]
    fn a_full_workspace_is_full_now_and_extremes_do_not_overflow() {
        assert_eq!(forecast(past(100, 90, 90, 100), Some(0)).seconds_to_full, Some(0));
        let slow = Past { used: 1, day_ago: 0, week_ago: 0, hours: WEEK };
        assert_eq!(forecast(slow, Some(u64::MAX)).seconds_to_full, Some(u64::MAX));
    }
}
