//! Restoring, undoing and cloning. Owners do it in their workspaces, root in all; the group of the administrators restores
//! and undoes in all, which puts files back under their owners.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, Path as UrlPath, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use wsguard_api::{
    ApiError, CloneRequest, ErrorCode, RestoreJob, RestoreJobs, RestorePlan, RestoreRequest, SCHEMA_VERSION,
    UndoBurst, UndoList, UndoPreview, UndoRequest,
};

use super::peer::Peer;
use super::quota;
use super::routes::{Answer, Caller, Context, Shared, look_up, parameters, parse};
use crate::mounting::Mounted;
use crate::restore::{CloneWanted, Credentials, Ground, Jobs, PastBurst, RestoreError, Wanted, bursts};
use crate::tracker::Recorder;
use crate::tracker::history::file_of;
use crate::tracker::history::reader::{By, Question, ask};
use crate::workspaces::{Place, Registry, Viewer};

/// Largest request body, bytes: some thousand paths.
pub(super) const BODY_LIMIT: usize = 4 << 20;
/// Largest request for a clone, bytes: a few paths.
const CLONE_BODY_LIMIT: usize = 64 << 10;
/// Bursts that are told at most.
const MOST_BURSTS: usize = 20;

/// The routes.
pub(super) fn router() -> Router<Arc<Shared>> {
    let limit = || axum::extract::DefaultBodyLimit::max(BODY_LIMIT);
    Router::new()
        .route("/restore/plan", post(post_plan).layer(limit()))
        .route("/restore/start", post(post_start).layer(limit()))
        .route("/restore/read", post(super::export::post_read).layer(limit()))
        .route("/restore/jobs", get(get_jobs))
        .route("/restore/jobs/{id}", get(get_job))
        .route("/restore/jobs/{id}/{action}", post(post_action))
        .route("/clone/plan", post(post_clone_plan))
        .route("/clone/start", post(post_clone))
        .route("/undo", get(get_undo))
        .route("/undo/preview", post(post_preview))
        .route("/undo/start", post(post_undo))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InWorkspace {
    path: PathBuf,
}

/// A workspace that somebody may restore in.
pub(super) struct Site {
    place: Place,
    mounted: Arc<Mounted>,
    ground: Ground,
}

impl Site {
    /// Finds it by a path in it.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if it is not mounted, `Unavailable` if there is no history.
    pub(super) fn find(registry: &Registry, viewer: Viewer, path: &Path) -> Result<Self, ApiError> {
        let place = registry.place_of(checked(path)?, viewer)?;
        let mounted = registry.guard(&place.id, viewer)?.mounted;
        let ground = mounted.ground().map_err(|reason| {
            ApiError::new(
                ErrorCode::Unavailable,
                format!("{} has no history to restore from: {reason}", place.name),
            )
            .with_hint("see `wsguard status` and the daemon's log")
        })?;
        Ok(Self { place, mounted, ground })
    }

    /// Returns the workspace and its past.
    pub(super) fn ground(&self) -> &Ground {
        &self.ground
    }

    /// Returns the workspace and where in it the path lies.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    fn jobs(&self) -> &Jobs {
        self.mounted.restores()
    }

    /// Runs something and names the workspace in the answer.
    fn job(
        &self,
        run: impl FnOnce(&Jobs, &Ground) -> Result<RestoreJob, RestoreError>,
    ) -> Result<RestoreJob, ApiError> {
        let mut job = run(self.jobs(), &self.ground).map_err(|error| error.to_api())?;
        self.name(&mut job);
        Ok(job)
    }

    fn name(&self, job: &mut RestoreJob) {
        job.workspace.clone_from(&self.place.name);
        for note in job.failures.iter_mut().chain(&mut job.notes) {
            self.show(&mut note.path);
        }
    }

    fn named(&self, mut plan: RestorePlan) -> RestorePlan {
        plan.workspace.clone_from(&self.place.name);
        plan.notes.iter_mut().for_each(|note| self.show(&mut note.path));
        plan.origins.iter_mut().for_each(|origin| self.show(&mut origin.path));
        plan
    }

    /// Makes a path absolute.
    fn show(&self, path: &mut String) {
        // Joined by components: an empty one would leave a slash at the end.
        let whole: PathBuf =
            self.place.mount_point.components().chain(Path::new(path.as_str()).components()).collect();
        *path = whole.to_string_lossy().into_owned();
    }
}

fn checked(path: &Path) -> Result<&Path, ApiError> {
    if path.is_absolute() && path.components().all(|part| part != Component::ParentDir) {
        return Ok(path);
    }
    let message = format!("{} is not absolute or has .. in it", path.display());
    Err(ApiError::new(ErrorCode::InvalidRequest, message).with_hint("give an absolute path"))
}

/// Finds the workspace of a request, and its paths in it.
pub(super) fn wanted(
    registry: &Registry,
    viewer: Viewer,
    request: RestoreRequest,
) -> Result<(Site, Wanted), ApiError> {
    let Some(first) = request.paths.first() else {
        return Err(ApiError::new(ErrorCode::InvalidRequest, "no path is named")
            .with_hint("name what is to be restored"));
    };
    let site = Site::find(registry, viewer, first)?;
    let relative = |path: &PathBuf| {
        let place = registry.place_of(checked(path)?, viewer)?;
        if place.id == site.place.id {
            return Ok(place.relative);
        }
        let message = format!("{} and {} are in different workspaces", first.display(), path.display());
        Err(ApiError::new(ErrorCode::InvalidRequest, message).with_hint("restore them one after the other"))
    };
    let paths = request.paths.iter().map(relative).collect::<Result<_, _>>()?;
    let to = request.to.as_ref().map(relative).transpose()?;
    Ok((site, Wanted { paths, to, request }))
}

async fn post_plan(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<RestorePlan> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let request = parse(body, BODY_LIMIT)?;
    let answer = move || {
        let (site, wanted) = wanted(&shared.registry, viewer, request)?;
        let plan = site.jobs().plan(&site.ground, &wanted).map_err(|error| error.to_api())?;
        Ok(site.named(plan))
    };
    Ok(Json(look_up("the search for what is to be restored", answer).await?))
}

async fn post_start(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<RestoreJob> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let request = parse(body, BODY_LIMIT)?;
    let (uid, ..) = peer.credentials()?;
    let answer = move || {
        let (site, wanted) = wanted(&shared.registry, viewer, request)?;
        site.job(|jobs, ground| jobs.start(ground, uid, &wanted))
    };
    Ok(Json(look_up("the begin of the restore", answer).await?))
}

async fn post_clone_plan(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<RestorePlan> {
    let request = parse(body, CLONE_BODY_LIMIT)?;
    let answer = move || {
        let (site, wanted) = clone_wanted(&shared.registry, &peer, request)?;
        let plan = site.jobs().plan_clone(&site.ground, &wanted).map_err(|error| error.to_api())?;
        Ok(site.named(plan))
    };
    Ok(Json(look_up("the search for what is to be cloned", answer).await?))
}

async fn post_clone(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<RestoreJob> {
    let request = parse(body, CLONE_BODY_LIMIT)?;
    let answer = move || {
        let (site, wanted) = clone_wanted(&shared.registry, &peer, request)?;
        site.job(|jobs, ground| jobs.start_clone(ground, &wanted))
    };
    Ok(Json(look_up("the begin of the clone", answer).await?))
}

/// Finds the workspace of a clone. Only who sees it by themselves may: what an administrator clones could be read as
/// their own.
fn clone_wanted(
    registry: &Registry,
    peer: &Peer,
    request: CloneRequest,
) -> Result<(Site, CloneWanted), ApiError> {
    let viewer = peer.viewer()?;
    let site = Site::find(registry, viewer, &request.path)?;
    let to = checked(&request.to)?.to_path_buf();
    let inside = registry.place_of(&to, viewer).ok().filter(|place| place.id == site.place.id);
    let (uid, gid, groups) = peer.credentials()?;
    let wanted = CloneWanted {
        from: if request.only_path { site.place.relative.clone() } else { PathBuf::new() },
        when: request.when,
        to,
        inside: inside.map(|place| place.relative),
        accepts_changed: request.accept_changed,
        caller: Credentials { uid, gid, groups },
    };
    Ok((site, wanted))
}

async fn get_jobs(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<InWorkspace>, QueryRejection>,
) -> Answer<RestoreJobs> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let InWorkspace { path } = parameters(query)?;
    let answer = move || {
        let site = Site::find(&shared.registry, viewer, &path)?;
        let mut items = site.jobs().list(&site.ground).map_err(|error| error.to_api())?;
        items.iter_mut().for_each(|job| site.name(job));
        Ok(RestoreJobs { schema: SCHEMA_VERSION, items })
    };
    Ok(Json(look_up("the look at restores", answer).await?))
}

async fn get_job(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    UrlPath(id): UrlPath<u64>,
    query: Result<Query<InWorkspace>, QueryRejection>,
) -> Answer<RestoreJob> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let InWorkspace { path } = parameters(query)?;
    let answer = move || {
        let site = Site::find(&shared.registry, viewer, &path)?;
        site.job(|jobs, ground| jobs.job(ground, id))
    };
    Ok(Json(look_up("the look at a restore", answer).await?))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    Cancel,
    Resume,
    Reverse,
}

async fn post_action(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    UrlPath((id, action)): UrlPath<(u64, Action)>,
    query: Result<Query<InWorkspace>, QueryRejection>,
) -> Answer<RestoreJob> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let InWorkspace { path } = parameters(query)?;
    let (uid, ..) = peer.credentials()?;
    let answer = move || {
        let site = Site::find(&shared.registry, viewer, &path)?;
        site.job(|jobs, ground| match action {
            Action::Cancel => jobs.cancel(ground, id),
            Action::Resume => jobs.resume(ground, id),
            // 0 is the last one.
            Action::Reverse => jobs.start_reversal(ground, uid, Some(id).filter(|id| *id > 0)),
        })
    };
    Ok(Json(look_up("the change of a restore", answer).await?))
}

async fn get_undo(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<InWorkspace>, QueryRejection>,
) -> Answer<UndoList> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let InWorkspace { path } = parameters(query)?;
    let answer = move || {
        let site = Site::find(&shared.registry, viewer, &path)?;
        let found = bursts(&site.ground).map_err(|error| error.to_api())?;
        let shown = found.iter().take(MOST_BURSTS).map(|burst| shown(&site, &shared.recorder, burst));
        let items = shown.collect::<Result<_, _>>()?;
        Ok(UndoList { schema: SCHEMA_VERSION, workspace: site.place.name.clone(), items })
    };
    Ok(Json(look_up("the search for deletions", answer).await?))
}

async fn post_preview(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<UndoPreview> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let request: UndoRequest = parse(body, BODY_LIMIT)?;
    let answer = move || {
        let site = Site::find(&shared.registry, viewer, &request.path)?;
        let (burst, plan) = site
            .jobs()
            .plan_undo(&site.ground, request.burst.as_deref(), request.conflict)
            .map_err(|error| error.to_api())?;
        let burst = shown(&site, &shared.recorder, &burst)?;
        Ok(UndoPreview { schema: SCHEMA_VERSION, burst, plan: site.named(plan) })
    };
    Ok(Json(look_up("the search for deletions", answer).await?))
}

async fn post_undo(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<RestoreJob> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let request: UndoRequest = parse(body, BODY_LIMIT)?;
    let (uid, ..) = peer.credentials()?;
    let answer = move || {
        let site = Site::find(&shared.registry, viewer, &request.path)?;
        let (burst, conflict) = (request.burst.as_deref(), request.conflict);
        site.job(|jobs, ground| jobs.start_undo(ground, uid, burst, conflict))
    };
    Ok(Json(look_up("the begin of the undo", answer).await?))
}

/// Tells of a burst what is known of it: what it took is in the history, who did it in the log.
fn shown(site: &Site, recorder: &Recorder, past: &PastBurst) -> Result<UndoBurst, ApiError> {
    let burst = &past.burst;
    let time = |ns: i64| Timestamp::from_nanosecond(ns.into()).unwrap_or(Timestamp::UNIX_EPOCH).to_string();
    let process = process_of(site, recorder, past);
    let mut paths = past.paths(&site.ground).map_err(|error| error.to_api())?;
    paths.iter_mut().for_each(|path| site.show(path));
    Ok(UndoBurst {
        id: past.id(),
        at: time(burst.first.time_ns),
        until: time(burst.last.time_ns),
        files: burst.unlinked,
        directories: burst.directories,
        replaced: burst.replaced,
        truncated: burst.truncated,
        bytes: burst.bytes,
        uid: burst.first.actor.uid,
        pid: process.as_ref().map_or(burst.first.actor.pid, |process| process.pid),
        command: process.as_ref().map_or_else(String::new, |process| process.command.clone()),
        command_line: process.as_ref().map_or_else(String::new, |process| process.command_line.clone()),
        container: process.and_then(|process| process.container),
        paths,
        undone_by: past.undone_by,
    })
}

/// Looks in the log for the process that did it. Threads have numbers of their own there and here, so that the log is
/// asked by time and user.
fn process_of(site: &Site, recorder: &Recorder, past: &PastBurst) -> Option<crate::tracker::Process> {
    let (first, last) = (past.burst.first, past.burst.last);
    // The log notes an operation when it is done, and its clock is another.
    let (since_us, until_us) = (first.time_ns / 1_000 - 20_000, last.time_ns / 1_000 + 200_000);
    let question = |by: By| Question {
        by: Some(by),
        since_us: Some(since_us),
        deletions_only: past.burst.unlinked + past.burst.directories + past.burst.replaced > 0,
        limit: 100_000,
        ..Question::default()
    };
    recorder.flush(std::time::Duration::from_secs(2));
    let file = file_of(recorder.directory(), &site.place.id);
    let asked = |by: By| match ask(&file, &question(by)) {
        Ok(answer) => answer.entries.into_iter().find(|entry| entry.at_us <= until_us),
        Err(error) => {
            tracing::warn!(error = %crate::error_chain::one_line(&error), "the log does not tell who deleted something");
            None
        }
    };
    let found = asked(By::Pid(first.actor.pid)).or_else(|| asked(By::Uid(first.actor.uid)));
    found.map(|entry| entry.process)
}
