//! Moments in the past as people write them.

use jiff::civil::{Date, DateTime, Time};
use jiff::{Span, Timestamp, ToSpan, ZonedDateTime};
use wsguard_api::ErrorCode;

use crate::error::CliError;

/// Understands a moment before `now`: a span ("2h", "2h ago", "3 days ago"), a time of today ("14:05"; of yesterday if
/// that has not come yet), "today" or "yesterday" with or without a time, a date with or without a time, or RFC 3339.
///
/// # Errors
/// Says what is wrong with it.
pub(crate) fn past_moment(option: &str, text: &str, now: &ZonedDateTime) -> Result<Timestamp, CliError> {
    let wrong = |reason: &str| {
        CliError::new(ErrorCode::InvalidRequest, format!("{option} {text:?} {reason}")).with_hint(
            "give a span (\"2h ago\"), a time (14:05), \"yesterday 18:00\", or a date (\"2030-01-31 09:00\")",
        )
    };
    let text = text.trim();
    let zone = now.time_zone();
    let in_zone = |at: DateTime| at.to_zoned_datetime(zone.clone()).ok().map(|at| at.timestamp());
    if let Ok(span) = text.parse::<Span>() {
        let before = if span.is_negative() { now.checked_add(span) } else { now.checked_sub(span) };
        return Ok(before.map_err(|_| wrong("is too long ago"))?.timestamp());
    }
    let day = |date: Date, time: &str| {
        let time = if time.is_empty() { Time::midnight() } else { time.parse().ok()? };
        in_zone(date.to_datetime(time))
    };
    let named = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let of_today = |time: Time| {
        let today = in_zone(now.date().to_datetime(time))?;
        if today <= now.timestamp() {
            return Some(today);
        }
        in_zone(now.date().checked_sub(1.day()).ok()?.to_datetime(time))
    };
    let parsed = match named.0.to_ascii_lowercase().as_str() {
        "now" if named.1.is_empty() => Some(now.timestamp()),
        "today" => day(now.date(), named.1.trim()),
        "yesterday" => now.date().checked_sub(1.day()).ok().and_then(|date| day(date, named.1.trim())),
        _ => text
            .parse::<Timestamp>()
            .ok()
            .or_else(|| text.parse::<DateTime>().ok().and_then(in_zone))
            .or_else(|| text.parse::<Time>().ok().and_then(of_today)),
    };
    match parsed {
        None => Err(wrong("is no moment")),
        Some(moment) if moment > now.timestamp() => Err(wrong("is in the future")),
        Some(moment) => Ok(moment),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_what_people_mean() {
        let now: ZonedDateTime = "2030-01-31T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        let ok = |text: &str| past_moment("--at", text, &now).unwrap().to_string();
        assert_eq!(ok("2h ago"), "2030-01-31T09:00:00Z");
        assert_eq!(ok("90m"), "2030-01-31T09:30:00Z");
        assert_eq!(ok("3 days ago"), "2030-01-28T11:00:00Z");
        assert_eq!(ok("09:00"), "2030-01-31T08:00:00Z");
        assert_eq!(ok("14:05"), "2030-01-30T13:05:00Z", "it has not come yet today");
        assert_eq!(ok("yesterday 18:00"), "2030-01-30T17:00:00Z");
        assert_eq!(ok("yesterday"), "2030-01-29T23:00:00Z");
        assert_eq!(ok("today"), "2030-01-30T23:00:00Z");
        assert_eq!(ok("2030-01-30"), "2030-01-29T23:00:00Z");
        assert_eq!(ok("2030-01-30 10:00"), "2030-01-30T09:00:00Z");
        assert_eq!(ok("2030-01-30T10:00:00Z"), "2030-01-30T10:00:00Z");
        assert_eq!(ok(" now "), "2030-01-31T11:00:00Z");
    }

    #[test]
    fn what_is_no_past_moment_is_refused() {
        let now: ZonedDateTime = "2030-01-31T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        for wrong in
            ["", "soon", "25:00", "99999999y", "tomorrow", "2031-01-01", "today 13:00", "yesterday x"]
        {
            let error = past_moment("--at", wrong, &now).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{wrong}");
        }
    }
}
