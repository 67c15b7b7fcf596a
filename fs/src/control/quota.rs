//! The routes of quota. Everybody sees what is theirs; changes are for root and the group of the administrators.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::Deserialize;
use wsguard_api::{
    ApiError, AuditList, BoostAnswer, BoostDecision, BoostRequestList, CheckReport, CheckRequest, ErrorCode,
    Explanation, NotifyReport, NotifyRequest, NotifyResult, PolicyDocument, QuotaPlan, QuotaReport,
    QuotaRequest, SCHEMA_VERSION, Usage,
};

use super::metrics;
use super::peer::Peer;
use super::routes::{Answer, Caller, Context, Refusal, Shared, ask, look_up, parse};
use crate::workspaces::{Guard, Job, Sample, Viewer, compare};

/// Largest request body, bytes: a policy of 20,000 users.
const BODY_LIMIT: usize = 4 << 20;

/// How long a test notice may take: three attempts at a webhook of five seconds each, with the pauses.
const NOTIFY_PATIENCE: Duration = Duration::from_secs(25);

/// Changes that are told unless the question says how many.
const AUDIT_DEFAULT: u32 = 100;

/// Changes that are told at most.
const AUDIT_MOST: u32 = 10_000;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/quota", get(get_report))
        .route("/quota", post(post_change).layer(DefaultBodyLimit::max(BODY_LIMIT)))
        .route("/quota/policy", get(get_policy))
        .route("/quota/explain", get(get_explanation))
        .route("/quota/audit", get(get_audit))
        .route("/quota/check", post(post_check))
        .route("/quota/requests", get(get_requests))
        .route("/quota/requests/{id}", post(post_decision))
        .route("/quota/notify", post(post_notify))
        .route("/metrics", get(get_metrics))
}

/// Returns the number of the administrators' group as `/etc/group` has it now: it may be made after the start.
fn admins(group: &str) -> Option<u32> {
    let of_file = || {
        let text = std::fs::read("/etc/group").ok()?;
        gid_in(&String::from_utf8_lossy(&text), group)
    };
    group.parse().ok().or_else(of_file)
}

/// Returns what the peer may see of quota.
///
/// # Errors
/// `Permission` if the kernel does not say who it is.
pub(super) fn viewer(peer: &Peer, group: &str) -> Result<Viewer, ApiError> {
    peer.quota_viewer(admins(group))
}

fn gid_in(text: &str, group: &str) -> Option<u32> {
    let mut lines = text.lines().map(|line| line.split(':'));
    let mut fields = lines.find_map(|mut fields| (fields.next() == Some(group)).then_some(fields))?;
    fields.nth(1)?.parse().ok()
}

async fn get_report(State(shared): Context, ConnectInfo(peer): Caller) -> Answer<QuotaReport> {
    let seen_by = viewer(&peer, shared.facts.admin_group())?;
    let projects = shared.registry.projects();
    Ok(Json(shared.registry.quota().report(&projects, seen_by, Timestamp::now())))
}

async fn post_change(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<QuotaPlan> {
    let group = shared.facts.admin_group();
    let uid = peer.require_quota_admin(admins(group), group)?;
    let request: Box<QuotaRequest> = parse(body, BODY_LIMIT)?;
    Ok(Json(ask(&shared.jobs, |reply| Job::Quota(uid, request, reply)).await?))
}

async fn get_policy(State(shared): Context, ConnectInfo(peer): Caller) -> Answer<PolicyDocument> {
    let group = shared.facts.admin_group();
    peer.require_quota_admin(admins(group), group)?;
    Ok(Json(shared.registry.quota().document()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainQuery {
    path: PathBuf,
}

async fn get_explanation(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Answer<Explanation> {
    let Query(ExplainQuery { path }) = query.map_err(wrong_query)?;
    let seen_by = viewer(&peer, shared.facts.admin_group())?;
    let id = shared.registry.find_containing(&path, seen_by)?;
    let projects = shared.registry.projects();
    Ok(Json(shared.registry.quota().explain(&path, &id, &projects, Timestamp::now())?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AuditQuery {
    limit: Option<u32>,
}

async fn get_audit(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Answer<AuditList> {
    let Query(query) = query.map_err(wrong_query)?;
    let group = shared.facts.admin_group();
    peer.require_quota_admin(admins(group), group)?;
    let most = query.limit.unwrap_or(AUDIT_DEFAULT).min(AUDIT_MOST);
    let items = ask(&shared.jobs, |reply| Job::QuotaAudit(most, reply)).await?;
    Ok(Json(AuditList { schema: SCHEMA_VERSION, items }))
}

async fn post_check(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<CheckReport> {
    let seen_by = viewer(&peer, shared.facts.admin_group())?;
    let request: CheckRequest = parse(body, BODY_LIMIT)?;
    let Guard { id, name, mounted } = shared.registry.guard(&request.workspace, seen_by)?;
    let started = Instant::now();
    if request.is_sample {
        return Ok(Json(sample(shared, id, name, started).await?));
    }
    // Its own thread: a million files take seconds, and other requests must not wait.
    let counted = tokio::task::spawn_blocking(move || mounted.recount()).await;
    let found = match counted {
        Ok(Ok(found)) => found,
        Ok(Err(reason)) => {
            let message = format!("cannot count {name}: {reason}");
            return Err(ApiError::new(ErrorCode::Unavailable, message)
                .with_hint("see the daemon's log")
                .into());
        }
        Err(_) => {
            return Err(ApiError::new(ErrorCode::Internal, format!("the count of {name} panicked")).into());
        }
    };
    Ok(Json(CheckReport {
        schema: SCHEMA_VERSION,
        id,
        name,
        counted: Usage { bytes: found.bytes, inodes: found.inodes },
        drift_bytes: found.drift_bytes,
        drift_inodes: found.drift_inodes,
        elapsed_ms: elapsed_ms(started),
        is_sample: false,
    }))
}

fn elapsed_ms(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Compares the counters with the usage index, as the nightly sample does.
async fn sample(
    shared: Arc<Shared>,
    id: String,
    name: String,
    started: Instant,
) -> Result<CheckReport, ApiError> {
    let compared = look_up("the comparison with the usage index", {
        let id = id.clone();
        move || Ok(compare(&shared.registry, &shared.usage, &shared.recorder, &id))
    });
    match compared.await? {
        Some(Sample::Compared { indexed, drift_bytes, drift_inodes }) => Ok(CheckReport {
            schema: SCHEMA_VERSION,
            id,
            name,
            counted: indexed,
            drift_bytes,
            drift_inodes,
            elapsed_ms: elapsed_ms(started),
            is_sample: true,
        }),
        Some(Sample::Busy) | None => {
            let message = format!("there is nothing to compare in {name}: it is in use, or being counted");
            Err(ApiError::new(ErrorCode::Conflict, message)
                .with_hint("try again when nobody writes, or count it: `wsguard quota check`"))
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RequestsQuery {
    all: bool,
}

async fn get_requests(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<RequestsQuery>, QueryRejection>,
) -> Answer<BoostRequestList> {
    let Query(RequestsQuery { all }) = query.map_err(wrong_query)?;
    let seen_by = viewer(&peer, shared.facts.admin_group())?;
    let mut items = ask(&shared.jobs, |reply| Job::BoostRequests(!all, reply)).await?;
    items.retain(|request| seen_by.sees(request.owner_uid));
    Ok(Json(BoostRequestList { schema: SCHEMA_VERSION, items }))
}

async fn post_decision(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    Path(id): Path<u64>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<BoostAnswer> {
    let group = shared.facts.admin_group();
    let uid = peer.require_quota_admin(admins(group), group)?;
    let decision: Box<BoostDecision> = parse(body, BODY_LIMIT)?;
    Ok(Json(ask(&shared.jobs, |reply| Job::Decide(uid, id, decision, reply)).await?))
}

async fn post_notify(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<NotifyReport> {
    let group = shared.facts.admin_group();
    let uid = peer.require_quota_admin(admins(group), group)?;
    let request: NotifyRequest = parse(body, BODY_LIMIT)?;
    let notice = shared.registry.test_notice(request.workspace.as_deref(), uid)?;
    let delivery = Arc::clone(&shared.delivery);
    let sent = look_up("the test notice", move || {
        Ok(delivery.send_and_wait(notice, request.channel, NOTIFY_PATIENCE))
    });
    let items = sent.await?.into_iter().map(|(channel, outcome)| NotifyResult { channel, outcome }).collect();
    Ok(Json(NotifyReport { schema: SCHEMA_VERSION, items }))
}

async fn get_metrics(State(shared): Context, ConnectInfo(peer): Caller) -> Result<Response, Refusal> {
    let group = shared.facts.admin_group();
    peer.require_quota_admin(admins(group), group)?;
    Ok(metrics::answer(&shared))
}

fn wrong_query(error: QueryRejection) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, error.body_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_by_its_whole_name_or_by_number() {
        let text = "wsguard-admins:x:5:\nbroken\nwsguard-admin:x:990:alice,bob\n";
        assert_eq!(gid_in(text, "wsguard-admin"), Some(990));
        assert_eq!(gid_in(text, "wsguard"), None);
        assert_eq!(admins("77"), Some(77));
    }
}
