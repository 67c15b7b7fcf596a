//! Snapshots: taking, listing, comparing, holding, deleting, checking.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{ConnectInfo, Query, State};
use axum::routing::{get, post};
use jiff::Timestamp;
use serde::Deserialize;
use wsguard_api::{
    ApiError, DamagedObject, DifferenceKind, DifferenceReport, ErrorCode, RetentionPreview, RetentionRow,
    SCHEMA_VERSION, Snapshot, SnapshotAction, SnapshotChange, SnapshotChanged, SnapshotDifference,
    SnapshotList, SnapshotRequest, SnapshotSafety, SnapshotTaken, VerifyReport, VerifyRequest,
};

use super::quota;
use super::routes::{Answer, Caller, Context, Shared, look_up, parameters, parse};
use crate::error_chain::one_line;
use crate::fs::GuardFs;
use crate::snapshot::{
    Actor, Archive, ArchiveError, Bounds, ClockFault, DamageKind, DifferenceOf, Epoch, Places, RetentionPlan,
    Sequence, SnapshotNote, SnapshotReason, SnapshotRecord, SnapshotState, View, compare, plan_now,
    trash_due, verify,
};
use crate::workspaces::{Place, Viewer, make_durable, shown_time};

/// Largest request body, bytes.
const BODY_LIMIT: usize = 64 * 1024;
/// Longest name and note of a snapshot, bytes.
const LONGEST_NAME: usize = 100;
const LONGEST_NOTE: usize = 2_000;
/// Most differences of an answer.
const MOST_DIFFERENCES: usize = 100_000;

pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/snapshots", get(get_snapshots).post(post_snapshot))
        .route("/snapshots/change", post(post_change))
        .route("/snapshots/diff", get(get_difference))
        .route("/retention/preview", get(get_preview))
        .route("/verify", post(post_verify))
}

/// What is only asked with a path.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PathQuery {
    pub(super) path: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DifferenceQuery {
    path: PathBuf,
    earlier: String,
    later: Option<String>,
}

/// A workspace and its past, without holding the session.
pub(super) struct Subject {
    pub(super) place: Place,
    pub(super) archive: Arc<Archive>,
    pub(super) fs: Arc<GuardFs>,
}

impl Subject {
    /// Finds the mounted workspace that `path` lies in. May open its past, which reads a file.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` if it is not mounted, `Unavailable` if there is no history.
    pub(super) fn find(shared: &Shared, viewer: Viewer, path: &Path) -> Result<Self, ApiError> {
        let place = shared.registry.place_of(checked(path)?, viewer)?;
        let guard = shared.registry.guard(&place.id, viewer).map_err(|error| match error.code {
            ErrorCode::Conflict => ApiError {
                hint: Some(format!("mount it with `wsguard mount {}`", place.mount_point.display())),
                ..error
            },
            _ => error,
        })?;
        let session = guard.mounted.session();
        let archive = session.archive().map_err(|reason| {
            ApiError::new(ErrorCode::Unavailable, format!("there is no history of {}: {reason}", place.name))
                .with_hint("see `wsguard status` and the daemon's log")
        })?;
        Ok(Self { place, archive, fs: session.filesystem().clone() })
    }

    /// Returns the snapshot with that number or name; of several of that name the newest.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn snapshot(&self, id: &str) -> Result<SnapshotRecord, ApiError> {
        let snapshots = self.archive.read().and_then(|past| Ok(past.snapshots()?)).map_err(|e| failed(&e))?;
        find_snapshot(&snapshots, id).cloned().ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("{} has no snapshot {id:?}", self.place.name))
                .with_hint("see `wsguard snapshot ls`")
        })
    }

    fn bounds(&self, shared: &Shared) -> Result<Bounds, ApiError> {
        shared.registry.history().bounds().ok_or_else(|| {
            ApiError::new(ErrorCode::Unavailable, "the daemon is still starting")
                .with_hint("try again in a moment")
        })
    }
}

fn find_snapshot<'a>(snapshots: &'a [SnapshotRecord], id: &str) -> Option<&'a SnapshotRecord> {
    let number: Option<u32> = id.parse().ok();
    snapshots
        .iter()
        .find(|snapshot| Some(snapshot.epoch.0) == number)
        .or_else(|| snapshots.iter().rev().find(|snapshot| snapshot.name.as_deref() == Some(id)))
}

/// Returns an error of the past as clients see it.
pub(super) fn failed(error: &ArchiveError) -> ApiError {
    match error {
        ArchiveError::NotKept => ApiError::new(ErrorCode::NotFound, one_line(error))
            .with_hint("see `wsguard snapshot ls` for what is kept"),
        ArchiveError::End(_) => ApiError::new(ErrorCode::Unavailable, one_line(error))
            .with_hint("see the kernel's log with `dmesg`: the disk may hang"),
        ArchiveError::Catalog(_) | ArchiveError::Roster(_) | ArchiveError::Log(_) => {
            ApiError::new(ErrorCode::Internal, format!("cannot look at the past: {}", one_line(error)))
                .with_hint("see the daemon's log")
        }
    }
}

pub(super) fn checked(path: &Path) -> Result<&Path, ApiError> {
    if path.is_absolute() && path.components().all(|part| part != Component::ParentDir) {
        return Ok(path);
    }
    let message = format!("{} is not absolute or has .. in it", path.display());
    Err(ApiError::new(ErrorCode::InvalidRequest, message).with_hint("give an absolute path"))
}

async fn post_snapshot(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<SnapshotTaken> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let uid = match peer.viewer()? {
        Viewer::Root => 0,
        Viewer::User(uid) => uid,
    };
    let request: SnapshotRequest = parse(body, BODY_LIMIT)?;
    let answer = move || create(&shared, viewer, uid, request);
    Ok(Json(look_up("the request for a snapshot", answer).await?))
}

fn create(
    shared: &Shared,
    viewer: Viewer,
    uid: u32,
    request: SnapshotRequest,
) -> Result<SnapshotTaken, ApiError> {
    check_text("name", request.name.as_deref(), LONGEST_NAME)?;
    check_text("note", request.note.as_deref(), LONGEST_NOTE)?;
    if let Some(name) = request.name.as_deref()
        && (name.parse::<u32>().is_ok() || name == "now" || name.contains('/'))
    {
        return Err(ApiError::new(ErrorCode::InvalidRequest, format!("{name:?} is no name for a snapshot"))
            .with_hint("give one that is neither a number nor `now` and has no /"));
    }
    let subject = Subject::find(shared, viewer, &request.path)?;
    if let Some(name) = request.name.as_deref() {
        let snapshots =
            subject.archive.read().and_then(|past| Ok(past.snapshots()?)).map_err(|e| failed(&e))?;
        if let Some(taken) = snapshots.iter().find(|snapshot| snapshot.name.as_deref() == Some(name)) {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("snapshot {} of {} is called {name:?} already", taken.epoch.0, subject.place.name),
            )
            .with_hint("choose another name, or delete that one with `wsguard snapshot rm`"));
        }
    }
    let note = SnapshotNote {
        reason: SnapshotReason::Manual,
        name: request.name,
        note: request.note,
        is_held: request.hold,
    };
    let actor = Actor { uid, pid: 0 };
    let ended =
        subject.archive.take_snapshot(subject.fs.backing(), actor, note).map_err(|error| failed(&error))?;
    let mut safety = SnapshotSafety::Sealed;
    if request.sync {
        make_durable(&subject.archive, &subject.fs, ended.epoch).map_err(|error| failed(&error))?;
        safety = SnapshotSafety::Durable;
    }
    Ok(SnapshotTaken {
        schema: SCHEMA_VERSION,
        workspace: subject.place.name,
        id: ended.epoch.0,
        at: shown_time(ended.time_ns),
        safety,
    })
}

fn check_text(what: &str, text: Option<&str>, longest: usize) -> Result<(), ApiError> {
    let Some(text) = text else { return Ok(()) };
    if text.is_empty() || text.len() > longest || text.chars().any(char::is_control) {
        return Err(ApiError::new(
            ErrorCode::InvalidRequest,
            format!(
                "a snapshot's {what} has 1 to {longest} bytes without control characters, not {}",
                text.len()
            ),
        ));
    }
    Ok(())
}

async fn get_snapshots(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<PathQuery>, QueryRejection>,
) -> Answer<SnapshotList> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let query = parameters(query)?;
    let answer = move || list(&shared, viewer, &query.path);
    Ok(Json(look_up("the look at snapshots", answer).await?))
}

fn list(shared: &Shared, viewer: Viewer, path: &Path) -> Result<SnapshotList, ApiError> {
    let subject = Subject::find(shared, viewer, path)?;
    let bounds = subject.bounds(shared)?;
    let (archive, place) = (&subject.archive, &subject.place);
    let look = || -> Result<_, ArchiveError> {
        let past = archive.read()?;
        let plan = plan_now(&past, &archive.pinned(), &bounds, Timestamp::now())?;
        let start = past.trash_start()?;
        let since = if start == Sequence::ZERO { None } else { past.time_of(start)? };
        Ok((past.snapshots()?, past.space(&past.kept()?)?, plan, since))
    };
    let (snapshots, space, plan, trash_since) = look().map_err(|error| failed(&error))?;
    let items = snapshots.iter().map(|snapshot| {
        let own = space.snapshots.iter().find(|own| own.moment == snapshot.moment());
        let (unique, shared) = own.map_or((0, 0), |own| (own.unique, own.shared));
        shown(snapshot, &plan, unique, shared)
    });
    let known = shared.registry.history().of(&place.id);
    Ok(SnapshotList {
        schema: SCHEMA_VERSION,
        generated_at: Timestamp::now().to_string(),
        workspace: place.id.clone(),
        name: place.name.clone(),
        mount_point: place.mount_point.clone(),
        items: items.collect(),
        stored_bytes: space.total,
        trash_bytes: space.trash,
        garbage_bytes: space.garbage,
        budget_bytes: known.map_or(0, |known| known.budget_bytes),
        trash_since: trash_since.map(shown_time),
        paused: paused(&plan),
    })
}

fn shown(snapshot: &SnapshotRecord, plan: &RetentionPlan, unique: u64, shared: u64) -> Snapshot {
    Snapshot {
        id: snapshot.epoch.0,
        at: shown_time(snapshot.time_ns),
        reason: snapshot.reason.as_str().to_owned(),
        name: snapshot.name.clone(),
        note: snapshot.note.clone(),
        uid: snapshot.actor.uid,
        held: snapshot.is_held,
        safety: safety(snapshot.state),
        kept_because: reasons(plan, snapshot.epoch),
        unique_bytes: unique,
        shared_bytes: shared,
    }
}

fn reasons(plan: &RetentionPlan, epoch: Epoch) -> Vec<String> {
    let RetentionPlan::Verdicts(verdicts) = plan else { return vec!["paused".to_owned()] };
    let verdict = verdicts.iter().find(|verdict| verdict.id == epoch);
    verdict.map_or_else(Vec::new, |verdict| verdict.reasons.iter().map(ToString::to_string).collect())
}

fn paused(plan: &RetentionPlan) -> Option<String> {
    match plan {
        RetentionPlan::Verdicts(_) => None,
        RetentionPlan::Paused(ClockFault::WentBack) => {
            Some("the clock shows less than when the last snapshot was taken".to_owned())
        }
        RetentionPlan::Paused(ClockFault::LeaptAhead) => {
            Some("the clock shows more than a day more than at the last change; it may be wrong".to_owned())
        }
    }
}

fn safety(state: SnapshotState) -> SnapshotSafety {
    match state {
        SnapshotState::Sealed => SnapshotSafety::Sealed,
        SnapshotState::Durable => SnapshotSafety::Durable,
        SnapshotState::Uploaded => SnapshotSafety::Uploaded,
        SnapshotState::Verified => SnapshotSafety::Verified,
        SnapshotState::Degraded => SnapshotSafety::Degraded,
        SnapshotState::Incomplete => SnapshotSafety::Incomplete,
    }
}

async fn post_change(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<SnapshotChanged> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let request: SnapshotChange = parse(body, BODY_LIMIT)?;
    let answer = move || change(&shared, viewer, &request);
    Ok(Json(look_up("the change of snapshots", answer).await?))
}

fn change(shared: &Shared, viewer: Viewer, request: &SnapshotChange) -> Result<SnapshotChanged, ApiError> {
    let subject = Subject::find(shared, viewer, &request.path)?;
    let mut snapshots = Vec::with_capacity(request.ids.len());
    for id in &request.ids {
        snapshots.push(subject.snapshot(id)?);
    }
    snapshots.sort_by_key(|snapshot| snapshot.epoch);
    snapshots.dedup_by_key(|snapshot| snapshot.epoch);
    let mut frees_bytes = 0;
    if request.action == SnapshotAction::Remove {
        if let Some(held) = snapshots.iter().find(|snapshot| snapshot.is_held) {
            let message = format!("snapshot {} of {} is held", held.epoch.0, subject.place.name);
            return Err(ApiError::new(ErrorCode::Conflict, message)
                .with_hint(format!("let it go first: `wsguard snapshot unhold {}`", held.epoch.0)));
        }
        let moments: Vec<Sequence> = snapshots.iter().map(SnapshotRecord::moment).collect();
        frees_bytes = subject
            .archive
            .kept()
            .and_then(|kept| Ok(subject.archive.read()?.frees(&moments, &kept)?))
            .map_err(|error| failed(&error))?;
    }
    let ids: Vec<u32> = snapshots.iter().map(|snapshot| snapshot.epoch.0).collect();
    if !request.dry_run {
        let epochs: Vec<Epoch> = snapshots.iter().map(|snapshot| snapshot.epoch).collect();
        let archive = &subject.archive;
        let done = match request.action {
            SnapshotAction::Remove => archive.remove_snapshots(&epochs),
            SnapshotAction::Hold => archive.set_held(&epochs, true),
            SnapshotAction::Unhold => archive.set_held(&epochs, false),
        };
        done.map_err(|error| failed(&error))?;
        if request.action == SnapshotAction::Remove {
            shared.registry.history().note_deleted(&subject.place.id);
        }
    }
    Ok(SnapshotChanged { schema: SCHEMA_VERSION, workspace: subject.place.name, ids, frees_bytes })
}

async fn get_difference(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<DifferenceQuery>, QueryRejection>,
) -> Answer<DifferenceReport> {
    let (viewer, query) = (peer.viewer()?, parameters(query)?);
    let answer = move || difference(&shared, viewer, &query);
    Ok(Json(look_up("the comparison of snapshots", answer).await?))
}

fn difference(
    shared: &Shared,
    viewer: Viewer,
    query: &DifferenceQuery,
) -> Result<DifferenceReport, ApiError> {
    let subject = Subject::find(shared, viewer, &query.path)?;
    let earlier = subject.snapshot(&query.earlier)?;
    let later = query.later.as_deref().map(|later| subject.snapshot(later)).transpose()?;
    let (archive, backing) = (&subject.archive, subject.fs.backing());
    let (first, last) = (earlier.moment(), later.as_ref().map_or(Epoch::LAST.end(), SnapshotRecord::moment));
    if first > last {
        return Err(ApiError::new(
            ErrorCode::InvalidRequest,
            format!(
                "snapshot {} is later than {}",
                query.earlier,
                query.later.as_deref().unwrap_or_default()
            ),
        )
        .with_hint("give the earlier one first"));
    }
    let look = || -> Result<_, ArchiveError> {
        let _pins = (archive.pin(first)?, archive.pin(last)?);
        let relative = &subject.place.relative;
        let below = if relative.as_os_str().is_empty() {
            None
        } else {
            let at_first = View::at(archive, backing, first)?.resolve(relative)?;
            let found = match at_first {
                Some(found) => Some(found),
                None => View::at(archive, backing, last)?.resolve(relative)?,
            };
            match found {
                Some(found) => Some(found.inode),
                None => return Ok(None),
            }
        };
        compare(archive, backing, (first, last), below).map(Some)
    };
    let Some(found) = look().map_err(|error| failed(&error))? else {
        let message = format!("{} is in neither of the two", query.path.display());
        return Err(
            ApiError::new(ErrorCode::NotFound, message).with_hint("give a path that was in one of them")
        );
    };
    let left_out = found.len().saturating_sub(MOST_DIFFERENCES) as u64;
    let item = |(path, kind, is_directory): (PathBuf, DifferenceOf, bool)| {
        let (kind, from) = match kind {
            DifferenceOf::Added => (DifferenceKind::Added, None),
            DifferenceOf::Removed => (DifferenceKind::Removed, None),
            DifferenceOf::RenamedFrom(from) => {
                (DifferenceKind::Renamed, Some(from.to_string_lossy().into_owned()))
            }
            DifferenceOf::Replaced => (DifferenceKind::Replaced, None),
            DifferenceOf::Modified => (DifferenceKind::Modified, None),
            DifferenceOf::Attributes => (DifferenceKind::Attributes, None),
        };
        SnapshotDifference { kind, path: path.to_string_lossy().into_owned(), from, is_directory }
    };
    Ok(DifferenceReport {
        schema: SCHEMA_VERSION,
        workspace: subject.place.name.clone(),
        earlier: earlier.epoch.0,
        later: later.map(|later| later.epoch.0),
        items: found.into_iter().take(MOST_DIFFERENCES).map(item).collect(),
        left_out,
    })
}

async fn get_preview(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    query: Result<Query<PathQuery>, QueryRejection>,
) -> Answer<RetentionPreview> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let query = parameters(query)?;
    let answer = move || preview(&shared, viewer, &query.path);
    Ok(Json(look_up("the look at retention", answer).await?))
}

fn preview(shared: &Shared, viewer: Viewer, path: &Path) -> Result<RetentionPreview, ApiError> {
    let subject = Subject::find(shared, viewer, path)?;
    let bounds = subject.bounds(shared)?;
    let archive = &subject.archive;
    let now = Timestamp::now();
    let look = || -> Result<_, ArchiveError> {
        let past = archive.read()?;
        let plan = plan_now(&past, &archive.pinned(), &bounds, now)?;
        let goes = |snapshot: &&SnapshotRecord| match &plan {
            RetentionPlan::Paused(_) => false,
            RetentionPlan::Verdicts(_) => reasons(&plan, snapshot.epoch).is_empty(),
        };
        let snapshots = past.snapshots()?;
        let going: Vec<Sequence> = snapshots.iter().filter(goes).map(SnapshotRecord::moment).collect();
        let due = trash_due(&past, &bounds.policy, now)?;
        let kept = archive.kept()?;
        let start = if matches!(plan, RetentionPlan::Paused(_)) { kept.window_start() } else { due };
        let after = kept.without(&going, start);
        let before = past.space(&kept)?;
        let frees = past.space(&after)?.garbage.saturating_sub(before.garbage);
        let since = if start == Sequence::ZERO { None } else { past.time_of(start)? };
        Ok((snapshots, plan, frees, since))
    };
    let (snapshots, plan, frees_bytes, since) = look().map_err(|error| failed(&error))?;
    let row = |snapshot: &SnapshotRecord| RetentionRow {
        id: snapshot.epoch.0,
        at: Timestamp::from_nanosecond(snapshot.time_ns.into())
            .unwrap_or(Timestamp::MIN)
            .to_zoned_datetime(bounds.zone.clone())
            .strftime("%Y-%m-%d %H:%M")
            .to_string(),
        reason: snapshot.reason.as_str().to_owned(),
        kept_because: reasons(&plan, snapshot.epoch),
    };
    Ok(RetentionPreview {
        schema: SCHEMA_VERSION,
        workspace: subject.place.name.clone(),
        zone: bounds.zone.iana_name().unwrap_or("local time").to_owned(),
        items: snapshots.iter().rev().map(row).collect(),
        frees_bytes,
        trash_since: since.map(shown_time),
        paused: paused(&plan),
    })
}

async fn post_verify(
    State(shared): Context,
    ConnectInfo(peer): Caller,
    body: Result<Bytes, BytesRejection>,
) -> Answer<VerifyReport> {
    let viewer = quota::viewer(&peer, shared.facts.admin_group())?;
    let request: VerifyRequest = parse(body, BODY_LIMIT)?;
    let answer = move || check(&shared, viewer, &request);
    Ok(Json(look_up("the check of the history", answer).await?))
}

fn check(shared: &Shared, viewer: Viewer, request: &VerifyRequest) -> Result<VerifyReport, ApiError> {
    let subject = Subject::find(shared, viewer, &request.path)?;
    let archive = &subject.archive;
    let id = subject.place.id.clone();
    let go_on = || shared.registry.guard(&id, viewer).is_ok();
    let look = || -> Result<_, ArchiveError> {
        let verified = verify(archive, request.deep, None, &go_on)?;
        let past = archive.read()?;
        let mut damaged = Vec::with_capacity(verified.damage.len());
        for damage in &verified.damage {
            let place =
                Places::at(subject.fs.backing(), damage.row.at.before()).of(&past, &damage.row.inode)?;
            damaged.push(DamagedObject {
                object: format!("{:016x}", damage.row.object.0),
                damage: match damage.kind {
                    DamageKind::Missing => "missing".to_owned(),
                    DamageKind::Changed => "changed since it was kept".to_owned(),
                    DamageKind::Unreadable(errno) => format!("unreadable: {errno}"),
                },
                path: place.map(|place| place.to_string_lossy().into_owned()),
                snapshots: damage.snapshots.iter().map(|epoch| epoch.0).collect(),
            });
        }
        Ok((verified, damaged))
    };
    let (verified, damaged) = look().map_err(|error| failed(&error))?;
    if verified.stopped_at.is_some() {
        return Err(ApiError::new(
            ErrorCode::Unavailable,
            format!("{} was unmounted while it was checked", subject.place.name),
        ));
    }
    Ok(VerifyReport {
        schema: SCHEMA_VERSION,
        workspace: subject.place.name,
        objects: verified.objects,
        bytes: verified.bytes,
        unhashed: verified.unhashed,
        damaged,
    })
}
