//! One handler a route.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use wsguard_api::{
    API_PREFIX, ApiError, CleanPlan, DaemonStatus, ErrorCode, EventList, ForecastReport, LogReport,
    LogRequest, MountAllReport, MountRequest, SCHEMA_VERSION, ShutdownReport, SyncReport, SyncRequest,
    TopReport, UmountReport, UpgradeAccepted, UpgradeRequest, UsageReport, Workspace, WorkspaceList,
};

use super::Parts;
use super::history::{self, EventQuery};
use super::peer::Peer;
use super::quota;
use super::status::{WorkerFacts, status};
use super::usage::{self, ForecastParameters, PathParameter, UsageParameters};
use crate::catalog::CATALOG_FORMAT;
use crate::delivery::Delivery;
use crate::events::EventLog;
use crate::tracker::Recorder;
use crate::usage::UsageService;
use crate::workspaces::{AfterUnmount, Job, Jobs, Registry, Reply, stopping_error};

/// Largest request body, bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// What handlers work with.
pub(super) struct Shared {
    pub(super) facts: WorkerFacts,
    pub(super) registry: Arc<Registry>,
    pub(super) jobs: Jobs,
    pub(super) recorder: Arc<Recorder>,
    pub(super) usage: Arc<UsageService>,
    pub(super) delivery: Arc<Delivery>,
    events: Arc<EventLog>,
}

pub(super) type Context = State<Arc<Shared>>;
pub(super) type Caller = ConnectInfo<Peer>;

/// An [`ApiError`] as an answer.
pub(super) struct Refusal(ApiError);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

pub(super) type Answer<T> = Result<Json<T>, Refusal>;

/// Gathers what handlers work with.
pub(super) fn shared(facts: WorkerFacts, parts: Parts) -> Arc<Shared> {
    let Parts { registry, jobs, recorder, usage, events, delivery } = parts;
    Arc::new(Shared { facts, registry, jobs, recorder, usage, delivery, events })
}

/// Makes the routes of `wsguard_api`.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let routes = Router::new()
        .route("/status", get(get_status))
        .route("/workspaces", get(get_workspaces).post(post_workspace))
        .route("/workspaces/mount-all", post(post_mount_all))
        .route("/workspaces/{id}", delete(delete_workspace))
        .route("/log", post(post_log))
        .route("/top", get(get_top))
        .route("/events", get(get_events))
        .route("/usage", get(get_usage))
        .route("/usage/forecast", get(get_forecast))
        .route("/usage/clean", get(get_clean_plan))
        .route("/sync", post(post_sync))
        .route("/shutdown", post(post_shutdown))
        .merge(super::quota::router())
        .merge(super::past::router())
        .merge(super::restore::router())
        .merge(super::snapshots::router())
        .route("/versions", get(super::versions::get_versions))
        .route("/upgrade", post(post_upgrade))
        .method_not_allowed_fallback(wrong_method);
    Router::new()
        .nest(API_PREFIX, routes)
        .fallback(unknown_route)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(shared)
}

async fn unknown_route(uri: axum::http::Uri) -> Refusal {
    ApiError::new(ErrorCode::NotFound, format!("there is no route {}", uri.path()))
        .with_hint(
            "client and daemon may be of different versions; see `wsguard --version` and `wsguard status`",
        )
        .into()
}

async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Refusal {
    ApiError::new(ErrorCode::InvalidRequest, format!("{} does not take {method}", uri.path())).into()
}

async fn get_status(State(shared): Context, ConnectInfo(peer): Caller) -> Answer<DaemonStatus> {
    Ok(Json(status(&shared, peer.viewer()?)))
}

async fn get_workspaces(State(shared): Context, ConnectInfo(peer): Caller) -> Answer<WorkspaceList> {
    let viewer = peer.viewer()?;
    Ok(Json(WorkspaceList {
        schema: SCHEMA_VERSION,
        generated_at: Timestamp::now().to_string(),
        items: shared.registry.list(viewer),
        unguarded: shared.registry.unguarded(viewer),
    }))
}

async fn post_workspace(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Workspace> {
    peer.require_root()?;
    let request: MountRequest = parse(body, BODY_LIMIT)?;
    Ok(Json(ask(&shared.jobs, |reply| Job::Mount(request, reply)).await?))
}

async fn post_mount_all(State(shared): Context, ConnectInfo(peer): Caller) -> Answer<MountAllReport> {
    peer.require_root()?;
    Ok(Json(ask(&shared.jobs, Job::MountAll).await?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct UnmountQuery {
    forget: bool,
}

async fn delete_workspace(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    Path(id): Path<String>,
    query: Result<Query<UnmountQuery>, QueryRejection>,
) -> Answer<UmountReport> {
    peer.require_root()?;
    let Query(query) = query.map_err(|error| ApiError::new(ErrorCode::InvalidRequest, error.body_text()))?;
    let after = if query.forget { AfterUnmount::Forget } else { AfterUnmount::Keep };
    Ok(Json(ask(&shared.jobs, |reply| Job::Unmount(id, after, reply)).await?))
}

async fn post_log(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<LogReport> {
    let viewer = peer.viewer()?;
    let request: LogRequest = parse(body, BODY_LIMIT)?;
    // Its own thread: it waits for the recorder and reads files.
    let answer = tokio::task::spawn_blocking(move || {
        history::log(&shared.recorder, &shared.registry, viewer, &request)
    });
    match answer.await {
        Ok(answer) => Ok(Json(answer?)),
        Err(_) => Err(ApiError::new(ErrorCode::Internal, "the look into the history panicked").into()),
    }
}

async fn get_top(State(shared): Context, ConnectInfo(peer): Caller) -> Answer<TopReport> {
    Ok(Json(history::top(&shared.recorder, &shared.registry, peer.viewer()?)))
}

async fn get_events(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Answer<EventList> {
    let viewer = peer.viewer()?;
    let Query(query) = query.map_err(|error| ApiError::new(ErrorCode::InvalidRequest, error.body_text()))?;
    Ok(Json(history::events(&shared.events, viewer, query).await))
}

async fn get_usage(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<UsageParameters>, QueryRejection>,
) -> Answer<UsageReport> {
    let (viewer, query) = (peer.viewer()?, parameters(query)?);
    let answer = move || usage::report(&shared.usage, &shared.registry, viewer, &query);
    Ok(Json(look_up("the look into the usage index", answer).await?))
}

async fn get_forecast(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<ForecastParameters>, QueryRejection>,
) -> Answer<ForecastReport> {
    let viewers = (peer.viewer()?, quota::viewer(&peer, shared.facts.admin_group())?);
    let query = parameters(query)?;
    let answer = move || usage::forecast(&shared.usage, &shared.registry, viewers, &query);
    Ok(Json(look_up("the look into the usage index", answer).await?))
}

async fn get_clean_plan(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<PathParameter>, QueryRejection>,
) -> Answer<CleanPlan> {
    let (viewer, query) = (peer.viewer()?, parameters(query)?);
    let answer = move || usage::clean_plan(&shared.usage, &shared.recorder, &shared.registry, viewer, &query);
    Ok(Json(look_up("the search for what can be cleaned up", answer).await?))
}

pub(super) fn parameters<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::new(ErrorCode::InvalidRequest, error.body_text()))?;
    Ok(query)
}

/// Answers on a thread of its own: it reads files.
pub(super) async fn look_up<T: Send + 'static>(
    what: &str,
    answer: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(answer).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::new(ErrorCode::Internal, format!("{what} panicked"))),
    }
}

async fn post_sync(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<SyncReport> {
    let viewer = peer.viewer()?;
    let request: SyncRequest = parse(body, BODY_LIMIT)?;
    let (workspace, directory) = shared.registry.find_mounted(&request.path, viewer)?;
    let started = Instant::now();
    // Its own thread: syncfs waits for the disk, and other requests must not.
    let synced = tokio::task::spawn_blocking(move || rustix::fs::syncfs(directory)).await;
    match synced {
        Ok(Ok(())) => {
            let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            Ok(Json(SyncReport { schema: SCHEMA_VERSION, workspace, elapsed_ms }))
        }
        Ok(Err(errno)) => Err(ApiError::new(
            ErrorCode::Internal,
            format!("cannot sync the filesystem of {workspace}: {errno}"),
        )
        .with_hint("the disk may be broken: see the kernel's log with `dmesg`")
        .into()),
        Err(_) => Err(ApiError::new(ErrorCode::Internal, format!("sync of {workspace} panicked")).into()),
    }
}

async fn post_shutdown(State(shared): Context, ConnectInfo(peer): Caller) -> Answer<ShutdownReport> {
    peer.require_root()?;
    Ok(Json(ask(&shared.jobs, |reply| Job::Shutdown(Some(reply))).await?))
}

async fn post_upgrade(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<UpgradeAccepted> {
    peer.require_root()?;
    let request: UpgradeRequest = parse(body, BODY_LIMIT)?;
    if let Some(relative) = request.binary.as_ref().filter(|path| !path.is_absolute()) {
        let message = format!("the path of a program has to be absolute, not {}", relative.display());
        return Err(ApiError::new(ErrorCode::InvalidRequest, message).into());
    }
    let link = shared.facts.link();
    // Its own thread: the program is asked what it can do, and other requests must not wait for that.
    let answer = tokio::task::spawn_blocking(move || link.upgrade(request.binary, CATALOG_FORMAT)).await;
    match answer {
        Ok(Ok(accepted)) => Ok(Json(accepted)),
        Ok(Err(error)) => Err(error.to_api().into()),
        Err(_) => Err(ApiError::new(ErrorCode::Internal, "the request for an upgrade panicked").into()),
    }
}

/// Hands a job to the driver and waits for its result.
pub(super) async fn ask<T>(jobs: &Jobs, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, ApiError> {
    let (reply, result) = oneshot::channel();
    jobs.submit(job(reply))?;
    // The driver drops what is queued when it ends.
    result.await.map_err(|_| stopping_error())?
}

/// Reads a body of at most `limit` bytes.
pub(super) fn parse<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    limit: usize,
) -> Result<T, ApiError> {
    let body = body.map_err(|error| {
        ApiError::new(ErrorCode::InvalidRequest, error.body_text())
            .with_hint(format!("a request has at most {limit} bytes"))
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        ApiError::new(ErrorCode::InvalidRequest, format!("cannot understand the request: {error}"))
    })
}
