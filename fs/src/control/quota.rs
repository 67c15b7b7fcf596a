//! The routes of quota. Everybody sees what is theirs; changes are for root and the group of the administrators.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Query, State};
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::Deserialize;
use wsguard_api::{
    ApiError, AuditList, CheckReport, CheckRequest, ErrorCode, Explanation, PolicyDocument, QuotaPlan,
    QuotaReport, QuotaRequest, SCHEMA_VERSION, Usage,
};

use super::peer::Peer;
use super::routes::{Answer, Caller, Context, Shared, ask, parse};
use crate::workspaces::{Guard, Job, Viewer};

/// Largest request body, bytes: a policy of 20,000 users.
const BODY_LIMIT: usize = 4 << 20;

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
        elapsed_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    }))
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
