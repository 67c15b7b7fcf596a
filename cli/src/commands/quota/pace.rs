//! How fast scopes grow, from the growth of the workspaces below them, and where that leads.

use serde::Serialize;
use wsguard_api::{Forecast, ForecastReport, QuotaMode, QuotaReport, QuotaRow, ScopeRef};

/// Days that growth is asked for; the paces of the daemon do not depend on it.
pub(super) const GROWTH_DAYS: u32 = 7;

/// A scope, how fast it grows, and until when that goes well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Paced {
    pub(super) scope: ScopeRef,
    pub(super) name: Option<String>,
    pub(super) owner_uid: Option<u32>,
    /// Absent if nothing is known.
    pub(super) used_bytes: Option<u64>,
    pub(super) bytes_soft: Option<u64>,
    pub(super) bytes_hard: Option<u64>,
    /// What may still be written: of a workspace what its tightest limit or the disk leaves.
    pub(super) available_bytes: Option<u64>,
    /// Growth in the last 24 hours; absent while that of a workspace below is not known.
    pub(super) last_day_bytes: Option<i64>,
    /// Growth in the last 7 days; absent as the growth of a day is.
    pub(super) last_week_bytes: Option<i64>,
    /// The pace that the times follow from.
    pub(super) bytes_per_day: Option<i64>,
    /// Until a soft limit is reached, of the scope itself or, for a workspace, of its owner; 0 if one is.
    pub(super) seconds_to_soft: Option<u64>,
    /// Until nothing can be written any more.
    pub(super) seconds_to_full: Option<u64>,
    /// What the newest checkpoint of a workspace takes.
    pub(super) checkpoint_bytes: Option<u64>,
    /// How many more of that size fit.
    pub(super) checkpoints_fit: Option<u64>,
}

/// Puts both reports together: groups, users and workspaces, in the order of the quota report. Filesystems are left
/// out: what they leave is in the numbers of the workspaces.
pub(super) fn paced(report: &QuotaReport, growth: &ForecastReport) -> Vec<Paced> {
    let parents: Vec<Paced> = report
        .items
        .iter()
        .filter(|row| matches!(row.scope, ScopeRef::Group { .. } | ScopeRef::User { .. }))
        .map(|row| of_parent(row, report, growth))
        .collect();
    let workspaces = report.items.iter().filter_map(|row| {
        let ScopeRef::Project { id } = &row.scope else { return None };
        let mut own = of_workspace(row, forecast_of(growth, id));
        let above = parents.iter().filter(|parent| is_above(&parent.scope, row));
        for parent in above {
            own.seconds_to_soft = sooner(own.seconds_to_soft, parent.seconds_to_soft);
            own.seconds_to_full = sooner(own.seconds_to_full, parent.seconds_to_full);
        }
        Some(own)
    });
    let workspaces: Vec<Paced> = workspaces.collect();
    parents.into_iter().chain(workspaces).collect()
}

fn is_above(parent: &ScopeRef, project: &QuotaRow) -> bool {
    match parent {
        ScopeRef::User { uid } => project.owner_uid == Some(*uid),
        ScopeRef::Group { name } => project.group.as_deref() == Some(name),
        ScopeRef::Pool { .. } | ScopeRef::Project { .. } => false,
    }
}

fn forecast_of<'a>(growth: &'a ForecastReport, id: &str) -> Option<&'a Forecast> {
    growth.items.iter().find(|item| item.workspace == id)?.forecast.as_ref()
}

fn of_workspace(row: &QuotaRow, forecast: Option<&Forecast>) -> Paced {
    let pace = forecast.and_then(|forecast| forecast.bytes_per_day);
    let mut paced = with_pace(row, pace);
    paced.last_day_bytes = forecast.and_then(|forecast| forecast.last_day_bytes);
    paced.last_week_bytes = forecast.and_then(|forecast| forecast.last_week_bytes);
    if let Some(available) = forecast.and_then(|forecast| forecast.available_bytes) {
        // The daemon knows every limit above and the disk.
        paced.available_bytes = Some(available);
        paced.seconds_to_full = seconds_until(Some(available), pace);
    }
    paced.checkpoint_bytes = forecast.and_then(|forecast| forecast.checkpoint_bytes);
    paced.checkpoints_fit = paced
        .checkpoint_bytes
        .filter(|bytes| *bytes > 0)
        .zip(paced.available_bytes)
        .map(|(bytes, available)| available / bytes);
    paced
}

/// A parent's growth is the sum of its workspaces'. Of a group, only administrators see all of them.
fn of_parent(row: &QuotaRow, report: &QuotaReport, growth: &ForecastReport) -> Paced {
    let is_complete = report.is_admin || !matches!(row.scope, ScopeRef::Group { .. });
    let forecasts: Option<Vec<&Forecast>> = report
        .items
        .iter()
        .filter(|project| is_above(&row.scope, project))
        .filter_map(|project| match &project.scope {
            ScopeRef::Project { id } => Some(forecast_of(growth, id)),
            ScopeRef::Pool { .. } | ScopeRef::Group { .. } | ScopeRef::User { .. } => None,
        })
        .collect();
    let forecasts = forecasts.filter(|forecasts| is_complete && !forecasts.is_empty());
    let sum = |number: fn(&Forecast) -> Option<i64>| {
        let numbers = forecasts.as_ref()?.iter().map(|forecast| number(forecast));
        numbers.sum::<Option<i64>>()
    };
    let mut paced = with_pace(row, sum(|forecast| forecast.bytes_per_day));
    paced.last_day_bytes = sum(|forecast| forecast.last_day_bytes);
    paced.last_week_bytes = sum(|forecast| forecast.last_week_bytes);
    paced
}

fn with_pace(row: &QuotaRow, pace: Option<i64>) -> Paced {
    let used_bytes = row.used.map(|used| used.bytes);
    // A limit that is only tracked is no end.
    let enforced = |limit: Option<u64>| limit.filter(|_| row.limits.mode == QuotaMode::Enforce);
    let left = |limit: Option<u64>| {
        let taken = used_bytes?.saturating_add(row.reserved.bytes);
        Some(enforced(limit)?.saturating_sub(taken))
    };
    Paced {
        scope: row.scope.clone(),
        name: row.name.clone(),
        owner_uid: row.owner_uid,
        used_bytes,
        bytes_soft: enforced(row.bytes_soft),
        bytes_hard: enforced(row.bytes_hard),
        available_bytes: left(row.bytes_hard),
        last_day_bytes: None,
        last_week_bytes: None,
        bytes_per_day: pace,
        seconds_to_soft: seconds_until(left(row.bytes_soft), pace),
        seconds_to_full: seconds_until(left(row.bytes_hard), pace),
        checkpoint_bytes: None,
        checkpoints_fit: None,
    }
}

/// Returns when so much is used up; what is used up already is so without any growth.
fn seconds_until(left: Option<u64>, pace: Option<i64>) -> Option<u64> {
    match (left?, pace) {
        (0, _) => Some(0),
        (left, Some(pace)) if pace > 0 => {
            let seconds = u128::from(left) * 86_400 / u128::from(pace.unsigned_abs());
            Some(u64::try_from(seconds).unwrap_or(u64::MAX))
        }
        (_, _) => None,
    }
}

fn sooner(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
pub(super) mod tests {
    use wsguard_api::{IndexState, WorkspaceForecast};

    use super::super::rows::tests::row;
    use super::*;

    const GIB: u64 = 1 << 30;
    const DAY: u64 = 86_400;

    pub(in super::super) fn growth_of(
        id: &str,
        per_day: Option<i64>,
        available: Option<u64>,
    ) -> WorkspaceForecast {
        WorkspaceForecast {
            workspace: id.to_owned(),
            name: id.to_owned(),
            mount_point: "/home/alice/workspace".into(),
            state: IndexState::Current,
            forecast: Some(Forecast {
                used_bytes: 0,
                available_bytes: available,
                last_day_bytes: per_day,
                last_week_bytes: per_day.map(|pace| pace * 7),
                bytes_per_day: per_day,
                seconds_to_full: None,
                checkpoint_bytes: Some(4 * GIB),
            }),
            growing: Vec::new(),
            growth_since: None,
        }
    }

    /// Alice with 60 of 100 GiB in two workspaces that grow by 1 and 3 GiB a day; `b` alone may have 50 GiB.
    pub(in super::super) fn reports() -> (QuotaReport, ForecastReport) {
        let user = row(ScopeRef::User { uid: 1000 }, 60 * GIB, Some(100 * GIB));
        let mut a = row(ScopeRef::Project { id: "a".into() }, 20 * GIB, None);
        let mut b = row(ScopeRef::Project { id: "b".into() }, 40 * GIB, Some(50 * GIB));
        b.bytes_soft = Some(43 * GIB);
        (a.name, b.name) = (Some("a".into()), Some("b".into()));
        let report =
            QuotaReport { schema: 1, generated_at: String::new(), is_admin: true, items: vec![user, a, b] };
        let growth = ForecastReport {
            schema: 1,
            generated_at: String::new(),
            items: vec![
                growth_of("a", Some(1 << 30), Some(40 * GIB)),
                growth_of("b", Some(3 << 30), Some(9 * GIB)),
            ],
        };
        (report, growth)
    }

    #[test]
    fn a_user_grows_by_what_the_workspaces_grow() {
        let (report, growth) = reports();
        let [alice, a, b] = paced(&report, &growth).try_into().unwrap();
        assert_eq!(alice.bytes_per_day, Some(4 << 30));
        assert_eq!(alice.seconds_to_full, Some(10 * DAY));
        // Alone it would take 40 days; the other workspace of the same user does not leave it that long.
        assert_eq!(a.seconds_to_full, Some(10 * DAY));
        assert_eq!((b.seconds_to_soft, b.seconds_to_full), (Some(DAY), Some(3 * DAY)));
        assert_eq!((a.checkpoints_fit, b.checkpoints_fit), (Some(10), Some(2)));
    }

    #[test]
    fn an_unknown_workspace_makes_the_pace_of_its_parents_unknown() {
        let (report, mut growth) = reports();
        growth.items[0].forecast = None;
        let [alice, a, b] = paced(&report, &growth).try_into().unwrap();
        assert_eq!((alice.bytes_per_day, alice.seconds_to_full), (None, None));
        assert_eq!((a.bytes_per_day, a.checkpoints_fit), (None, None));
        assert_eq!(b.seconds_to_full, Some(3 * DAY));
    }

    #[test]
    fn the_pace_of_a_group_is_known_to_administrators_only() {
        let (mut report, growth) = reports();
        report.items.push(row(ScopeRef::Group { name: "lab".into() }, 60 * GIB, Some(64 * GIB)));
        for project in &mut report.items[1..3] {
            project.group = Some("lab".into());
        }
        let group = |report: &QuotaReport| {
            let all = paced(report, &growth);
            all.into_iter().find(|item| matches!(item.scope, ScopeRef::Group { .. })).unwrap()
        };
        assert_eq!(group(&report).seconds_to_full, Some(DAY));
        report.is_admin = false;
        assert_eq!(group(&report).bytes_per_day, None);
    }

    #[test]
    fn what_is_full_is_full_without_growth_and_tracked_limits_are_no_end() {
        let mut full = row(ScopeRef::User { uid: 1 }, 10, Some(10));
        assert_eq!(with_pace(&full, None).seconds_to_full, Some(0));
        full.limits.mode = QuotaMode::Track;
        assert_eq!(with_pace(&full, Some(1)).seconds_to_full, None);
        assert_eq!(seconds_until(Some(u64::MAX), Some(1)), Some(u64::MAX));
        assert_eq!(seconds_until(Some(5), Some(-1)), None);
    }
}
