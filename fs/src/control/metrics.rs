//! Numbers for monitoring, in the OpenMetrics text format that Prometheus reads. Made anew for each question, from
//! what is in memory.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry as Metrics;
use tracing::{error, info};
use wsguard_api::{QuotaRow, QuotaState, ScopeRef, Workspace, WorkspaceState};

use super::routes::Shared;
use super::status::{open_fds, resident_bytes};
use crate::workspaces::Viewer;

/// As the OpenMetrics specification has it.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// After an address could not be listened on, when to try again: a worker before this one may still have it.
const RETRY: Duration = Duration::from_secs(5);

type Labels = Vec<(&'static str, String)>;

/// Answers everybody who reaches `address`, as long as the runtime lives.
pub(super) async fn serve(address: SocketAddr, shared: Arc<Shared>) {
    let router: Router = Router::new().route("/metrics", get(get_metrics)).with_state(Arc::clone(&shared));
    let mut has_complained = false;
    loop {
        let served = match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => {
                info!(address = %address, "metrics are served");
                axum::serve(listener, router.clone()).await
            }
            Err(error) => Err(error),
        };
        if let (Err(error), false) = (served, has_complained) {
            error!(address = %address, error = %error, "metrics are not served there; trying again");
            has_complained = true;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn get_metrics(State(shared): State<Arc<Shared>>) -> Response {
    answer(&shared)
}

/// Returns all numbers as an answer.
pub(super) fn answer(shared: &Shared) -> Response {
    let mut text = String::new();
    match encode(&mut text, &collect(shared)) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            error!(error = %error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn collect(shared: &Shared) -> Metrics {
    let mut metrics = Metrics::with_prefix("wsguard");
    add_worker(&mut metrics, shared);
    add_workspaces(&mut metrics, shared);
    add_quota(&mut metrics, shared);
    add_audit(&mut metrics, shared);
    add_delivery(&mut metrics, shared);
    metrics
}

/// What may go down.
fn gauge(metrics: &mut Metrics, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) {
    signed(metrics, name, help, samples.into_iter().map(|(labels, value)| (labels, clamped(value))));
}

/// What may go below 0.
fn signed(metrics: &mut Metrics, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, i64)>) {
    let family = Family::<Labels, Gauge>::default();
    for (labels, value) in samples {
        family.get_or_create(&labels).set(value);
    }
    metrics.register(name, help, family);
}

/// What only grows as long as the worker lives. The format adds `_total` to the name.
fn counter(metrics: &mut Metrics, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels, u64)>) {
    let family = Family::<Labels, Counter<u64, AtomicU64>>::default();
    for (labels, value) in samples {
        family.get_or_create(&labels).inc_by(value);
    }
    metrics.register(name, help, family);
}

/// Limits may be set beyond what the format's integers hold.
fn clamped(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn alone<T>(value: T) -> [(Labels, T); 1] {
    [(Labels::new(), value)]
}

fn add_worker(metrics: &mut Metrics, shared: &Shared) {
    let greeted = shared.facts.greeted();
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    gauge(metrics, "build_info", "The worker's version", [(version, 1)]);
    signed(
        metrics,
        "worker_start_time_seconds",
        "When this worker started, seconds since 1970",
        alone(shared.facts.started_at().as_second()),
    );
    gauge(metrics, "worker_generation", "Workers that this keeper has started", alone(greeted.generation));
    counter(
        metrics,
        "worker_deaths",
        "Workers that died and were replaced, since the keeper started",
        alone(greeted.history.deaths()),
    );
    let stall = greeted.history.events().last().and_then(|event| event.stall_ms);
    gauge(
        metrics,
        "takeover_stall_milliseconds",
        "How long callers waited at the last death of a worker",
        stall.map(|stall| (Labels::new(), stall)),
    );
    counter(
        metrics,
        "resent_requests",
        "Requests that a worker died over and its successor carried out",
        alone(shared.registry.resent_requests()),
    );
    gauge(metrics, "resident_memory_bytes", "The worker's memory", alone(resident_bytes()));
    gauge(metrics, "open_fds", "The worker's open descriptors", alone(open_fds()));
    counter(
        metrics,
        "tracker_dropped_records",
        "Records of changes that were lost because too many waited",
        alone(shared.recorder.dropped()),
    );
}

fn add_workspaces(metrics: &mut Metrics, shared: &Shared) {
    let list = shared.registry.list(Viewer::Root);
    let states = ["mounted", "unmounted", "dead", "failed"];
    let number = |state: &&'static str| {
        let number = list.iter().filter(|workspace| state_word(workspace) == *state).count();
        (vec![("state", (*state).to_owned())], number as u64)
    };
    gauge(metrics, "workspaces", "Workspaces by state", states.iter().map(number));
    let unguarded = shared.registry.unguarded(Viewer::Root).len() as u64;
    gauge(metrics, "unguarded_directories", "Directories below roots that nobody guards", alone(unguarded));
    let each = |value: fn(&Workspace) -> u64| {
        list.iter().map(move |workspace| (of_workspace(&workspace.id, &workspace.name), value(workspace)))
    };
    gauge(metrics, "inodes_known", "Inodes that the kernel knows", each(|workspace| workspace.inodes_known));
    gauge(metrics, "open_handles", "Open files and directories", each(|workspace| workspace.open_handles));
    let forecasts: Vec<_> = list
        .iter()
        .filter_map(|workspace| {
            Some((workspace, shared.registry.latest_usage(&workspace.id)?.forecast.clone()))
        })
        .collect();
    gauge(
        metrics,
        "seconds_to_full",
        "When nothing is left at the present pace, as of the last look of the usage index",
        forecasts.iter().filter_map(|(workspace, forecast)| {
            Some((of_workspace(&workspace.id, &workspace.name), forecast.seconds_to_full?))
        }),
    );
    signed(
        metrics,
        "growth_day_bytes",
        "Growth in the last 24 hours, as of the last look of the usage index",
        forecasts.iter().filter_map(|(workspace, forecast)| {
            Some((of_workspace(&workspace.id, &workspace.name), forecast.last_day_bytes?))
        }),
    );
}

fn state_word(workspace: &Workspace) -> &'static str {
    match workspace.state {
        WorkspaceState::Mounted => "mounted",
        WorkspaceState::Unmounted => "unmounted",
        WorkspaceState::Dead => "dead",
        WorkspaceState::Failed { .. } => "failed",
    }
}

fn of_workspace(id: &str, name: &str) -> Labels {
    vec![("workspace", name.to_owned()), ("id", id.to_owned())]
}

fn add_quota(metrics: &mut Metrics, shared: &Shared) {
    let now = Timestamp::now();
    let rows = shared.registry.quota().report(&shared.registry.projects(), Viewer::Root, now).items;
    let each = |value: fn(&QuotaRow) -> Option<u64>| {
        rows.iter().filter_map(move |row| Some((of_row(row), value(row)?))).collect::<Vec<_>>()
    };
    let with_kind = |soft: fn(&QuotaRow) -> Option<u64>, hard: fn(&QuotaRow) -> Option<u64>| {
        let kinds = [("soft", soft), ("hard", hard)];
        let of_kind = |(kind, value): (&str, fn(&QuotaRow) -> Option<u64>)| {
            each(value)
                .into_iter()
                .map(|(mut labels, value)| {
                    labels.push(("kind", kind.to_owned()));
                    (labels, value)
                })
                .collect::<Vec<_>>()
        };
        kinds.into_iter().flat_map(of_kind).collect::<Vec<_>>()
    };
    gauge(metrics, "quota_used_bytes", "Bytes in use", each(|row| Some(row.used?.bytes)));
    gauge(metrics, "quota_used_inodes", "Inodes in use", each(|row| Some(row.used?.inodes)));
    gauge(metrics, "quota_reserved_bytes", "Bytes reserved", each(|row| Some(row.reserved.bytes)));
    gauge(
        metrics,
        "quota_limit_bytes",
        "Limits of bytes, boosts included",
        with_kind(|row| row.bytes_soft, |row| row.bytes_hard),
    );
    gauge(
        metrics,
        "quota_limit_inodes",
        "Limits of inodes, boosts included",
        with_kind(|row| row.inodes_soft, |row| row.inodes_hard),
    );
    counter(metrics, "quota_refused", "Operations that were refused", each(|row| Some(row.refused)));
    let left = |row: &QuotaRow| {
        let until = row.bytes_grace_until.as_ref().or(row.inodes_grace_until.as_ref())?;
        let until: Timestamp = until.parse().ok()?;
        Some((of_row(row), until.duration_since(now).as_secs()))
    };
    signed(metrics, "quota_grace_seconds", "What is left of a grace period", rows.iter().filter_map(left));
    gauge(
        metrics,
        "quota_growth_refused",
        "1 where nothing may grow: over the hard limit, or over the soft one for too long",
        rows.iter()
            .map(|row| (of_row(row), u64::from(matches!(row.state, QuotaState::Over | QuotaState::Expired)))),
    );
    signed(
        metrics,
        "quota_last_recount_drift_bytes",
        "Counted less booked at the last recount; after a mount, a crash or edits below it is expected",
        rows.iter()
            .filter_map(|row| Some((of_row(row), row.counting.as_ref()?.last_recount.as_ref()?.drift_bytes))),
    );
}

fn of_row(row: &QuotaRow) -> Labels {
    let (scope, name) = match &row.scope {
        ScopeRef::Pool { path } => ("pool", path.to_string_lossy().into_owned()),
        ScopeRef::Group { name } => ("group", name.clone()),
        ScopeRef::User { uid } => ("user", uid.to_string()),
        ScopeRef::Project { id } => ("project", row.name.clone().unwrap_or_else(|| id.clone())),
    };
    let mut labels = vec![("scope", scope.to_owned()), ("name", name)];
    if let ScopeRef::Project { id } = &row.scope {
        labels.push(("id", id.clone()));
    }
    if let Some(uid) = row.owner_uid {
        let mut owner = String::new();
        // Writing to a string does not fail.
        write!(owner, "{uid}").ok();
        labels.push(("uid", owner));
    }
    labels
}

fn add_audit(metrics: &mut Metrics, shared: &Shared) {
    let counts = shared.registry.counts();
    counter(
        metrics,
        "quota_drifts",
        "Recounts that found a difference which nothing explains",
        alone(counts.drifts()),
    );
    signed(metrics, "quota_drift_bytes", "The last of these differences", alone(counts.drift_bytes()));
    let (samples, differences) = counts.samples();
    counter(metrics, "quota_samples", "Comparisons of the counters with the usage index", alone(samples));
    counter(
        metrics,
        "quota_sample_differences",
        "Those that differed and led to a recount",
        alone(differences),
    );
    counter(
        metrics,
        "quota_crossings",
        "How often use reached a threshold or a hard limit",
        alone(counts.crossings()),
    );
    counter(
        metrics,
        "quota_saturated",
        "How often a counter would have gone below 0",
        alone(counts.saturated()),
    );
    counter(
        metrics,
        "quota_watermark_passed",
        "How often use passed what was persisted",
        alone(counts.watermark_passed()),
    );
    gauge(
        metrics,
        "quota_requests_pending",
        "Requests of users that wait for an administrator",
        alone(counts.pending()),
    );
}

fn add_delivery(metrics: &mut Metrics, shared: &Shared) {
    let channels = shared.delivery.status();
    let enabled = |status: &wsguard_api::DeliveryStatus| {
        (vec![("channel", status.channel.word().to_owned())], u64::from(status.is_enabled))
    };
    gauge(metrics, "delivery_enabled", "1 for a channel that is configured", channels.iter().map(enabled));
    let results = channels.iter().flat_map(|status| {
        let results = [
            ("delivered", status.delivered),
            ("failed", status.failed),
            ("suppressed", status.suppressed),
            ("dropped", status.dropped),
        ];
        let channel = status.channel.word();
        results.map(|(result, value)| {
            (vec![("channel", channel.to_owned()), ("result", result.to_owned())], value)
        })
    });
    counter(metrics, "delivery_notices", "Notices by channel and what became of them", results);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_those_of_the_format() {
        let mut metrics = Metrics::with_prefix("wsguard");
        gauge(
            &mut metrics,
            "quota_used_bytes",
            "Bytes in use",
            [(vec![("name", "a\"b\nc".to_owned())], u64::MAX)],
        );
        counter(&mut metrics, "quota_refused", "Refused", alone(3));
        signed(&mut metrics, "drift", "Drift", alone(-7));
        gauge(&mut metrics, "nothing", "Nothing", []);
        let mut text = String::new();
        encode(&mut text, &metrics).unwrap();
        assert!(
            text.contains("wsguard_quota_used_bytes{name=\"a\\\"b\\nc\"} 9223372036854775807\n"),
            "{text}"
        );
        assert!(text.contains("wsguard_quota_refused_total 3\n"), "{text}");
        assert!(text.contains("wsguard_drift -7\n"), "{text}");
        assert!(text.ends_with("# EOF\n") && !text.contains("nothing{"), "{text}");
    }
}
