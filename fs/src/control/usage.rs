//! Where the space went, how it grows, and what could be cleaned up.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;
use wsguard_api::{
    ApiError, CleanPlan, ErrorCode, ForecastReport, SCHEMA_VERSION, UsageReport, WorkspaceForecast,
};

use crate::error_chain::one_line;
use crate::tracker::Recorder;
use crate::usage::{self, CleanSubject, Subject, UsageError, UsageQuery, UsageService};
use crate::workspaces::{Registry, Viewer};

/// Most entries of a list.
const MOST_ENTRIES: u32 = 1_000;

/// Days that can be asked for at most; older samples are not kept.
const MOST_DAYS: u32 = 92;

/// Days without a change at most that make an entry cold.
const MOST_COLD_DAYS: u32 = 36_500;

/// What `GET /usage` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageParameters {
    path: PathBuf,
    #[serde(default = "ten")]
    top: u32,
    #[serde(default = "week")]
    days: u32,
    #[serde(default = "month")]
    cold_days: u32,
}

/// What `GET /usage/forecast` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ForecastParameters {
    #[serde(default = "week")]
    days: u32,
}

/// What `GET /usage/clean` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PathParameter {
    path: PathBuf,
}

fn ten() -> u32 {
    10
}

fn week() -> u32 {
    7
}

fn month() -> u32 {
    30
}

/// Answers `GET /usage`. Reads files: not for the event loop.
pub(super) fn report(
    service: &UsageService,
    registry: &Registry,
    viewer: Viewer,
    parameters: &UsageParameters,
) -> Result<UsageReport, ApiError> {
    let query = UsageQuery {
        top: within("top", parameters.top, MOST_ENTRIES)?,
        days: within("days", parameters.days, MOST_DAYS)?,
        cold_days: within("cold_days", parameters.cold_days, MOST_COLD_DAYS)?,
    };
    let place = registry.place_of(checked(&parameters.path)?, viewer)?;
    let subject = Subject {
        // Joined by components: an empty one would leave a slash at the end.
        path: place.mount_point.components().chain(place.relative.components()).collect(),
        relative: place.relative,
        state: service.state(&place.id),
        available_bytes: registry.available_bytes(&place.id),
        name: place.name.clone(),
        workspace: place.id,
    };
    let index = service.index_path(&subject.workspace);
    usage::report(&index, subject, query, Timestamp::now()).map_err(|error| refusal(&place.name, &error))
}

/// Answers `GET /usage/forecast`: the numbers of what `quota_viewer` sees, and what grows in it where `viewer` sees that.
pub(super) fn forecast(
    service: &UsageService,
    registry: &Registry,
    (viewer, quota_viewer): (Viewer, Viewer),
    parameters: &ForecastParameters,
) -> Result<ForecastReport, ApiError> {
    let query =
        UsageQuery { top: ten(), days: within("days", parameters.days, MOST_DAYS)?, cold_days: month() };
    let now = Timestamp::now();
    let mut items = Vec::new();
    let own: HashSet<String> = registry.places(viewer).into_iter().map(|place| place.id).collect();
    for place in registry.places(quota_viewer) {
        let available = registry.available_bytes(&place.id);
        let (forecast, growing, growth_since) =
            match usage::growth(&service.index_path(&place.id), query, available, now) {
                Ok((forecast, growing, since)) if own.contains(&place.id) => (Some(forecast), growing, since),
                // Who sets limits need not know the names of directories.
                Ok((forecast, _, since)) => (Some(forecast), Vec::new(), since),
                Err(UsageError::Missing) => (None, Vec::new(), None),
                Err(error) => return Err(refusal(&place.name, &error)),
            };
        items.push(WorkspaceForecast {
            state: service.state(&place.id),
            workspace: place.id,
            name: place.name,
            mount_point: place.mount_point,
            forecast,
            growing,
            growth_since,
        });
    }
    let seconds = |item: &WorkspaceForecast| {
        item.forecast.as_ref().and_then(|forecast| forecast.seconds_to_full).unwrap_or(u64::MAX)
    };
    items.sort_by_key(seconds);
    Ok(ForecastReport { schema: SCHEMA_VERSION, generated_at: now.to_string(), items })
}

/// Answers `GET /usage/clean`.
pub(super) fn clean_plan(
    service: &UsageService,
    recorder: &Recorder,
    registry: &Registry,
    viewer: Viewer,
    parameters: &PathParameter,
) -> Result<CleanPlan, ApiError> {
    let place = registry.place_of(checked(&parameters.path)?, viewer)?;
    let open = recorder.tracker(&place.id).open_tallies();
    let written: HashSet<u64> = open.into_iter().map(|tally| tally.node).collect();
    let subject = CleanSubject {
        state: service.state(&place.id),
        root: place.mount_point,
        relative: place.relative,
        name: place.name.clone(),
        workspace: place.id,
    };
    let index = service.index_path(&subject.workspace);
    usage::plan(&index, subject, &|ino| written.contains(&ino), Timestamp::now())
        .map_err(|error| refusal(&place.name, &error))
}

fn refusal(name: &str, error: &UsageError) -> ApiError {
    match error {
        UsageError::Missing => {
            ApiError::new(ErrorCode::Unavailable, format!("usage of {name} has not been counted yet"))
                .with_hint("it is counted in the background after the first mount; try again in a moment")
        }
        UsageError::NoDirectory { path } => ApiError::new(
            ErrorCode::NotFound,
            format!("{} is not a directory of {name} as it was last counted", path.display()),
        )
        .with_hint("name a directory; what was made in the last seconds is not counted yet"),
        UsageError::Database { .. } | UsageError::File { .. } | UsageError::Backing { .. } => ApiError::new(
            ErrorCode::Internal,
            format!("cannot look into usage of {name}: {}", one_line(error)),
        )
        .with_hint("see the daemon's log; the index is built anew when the daemon starts"),
    }
}

fn within(name: &str, value: u32, most: u32) -> Result<u32, ApiError> {
    if (1..=most).contains(&value) {
        return Ok(value);
    }
    Err(ApiError::new(ErrorCode::InvalidRequest, format!("{name} = {value} is not from 1 to {most}")))
}

fn checked(path: &Path) -> Result<&Path, ApiError> {
    if path.is_absolute() && path.components().all(|part| part != Component::ParentDir) {
        return Ok(path);
    }
    let message = format!("{} is not absolute or has .. in it", path.display());
    Err(ApiError::new(ErrorCode::InvalidRequest, message).with_hint("give an absolute path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_and_paths_that_climb_are_refused() {
        assert_eq!(within("top", 10, 1_000).unwrap(), 10);
        for wrong in [0, 1_001] {
            let error = within("top", wrong, 1_000).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest);
        }
        checked(Path::new("/a/b")).unwrap();
        for wrong in ["a", "/a/../b", ""] {
            assert_eq!(checked(Path::new(wrong)).unwrap_err().code, ErrorCode::InvalidRequest);
        }
    }
}
