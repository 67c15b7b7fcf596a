//! The restores of one workspace, one at a time, each on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use wsguard_api::{
    RestoreConflict, RestoreJob, RestoreNote, RestoreOrigin, RestorePlan, RestoreRequest, RestoreState,
    SCHEMA_VERSION,
};

use super::clone::{CloneTask, CloneWanted, Room, Target, Writer};
use super::execute::{Executor, Progress, planned_bytes};
use super::ledger::{Deed, Record, Records, Task};
use super::moment::roots;
use super::plan::{Plan, Planner, Where};
use super::undo::{self, PastBurst, Reversed};
use super::{Ground, RestoreError};
use crate::error_chain::one_line;
use crate::fs::Telling;
use crate::snapshot::{Actor, Epoch, Pin, Sequence, SnapshotNote, SnapshotReason, now_ns};

/// How long the end of a restore that is broken off is waited for.
const LONGEST_STOP: Duration = Duration::from_secs(20);

/// A request with paths relative to the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The paths.
    pub(crate) paths: Vec<PathBuf>,
    /// The directory that they are restored into.
    pub(crate) to: Option<PathBuf>,
    /// The rest.
    pub(crate) request: RestoreRequest,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Jobs {
    running: Mutex<Option<Running>>,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}

struct Running {
    id: u64,
    progress: Arc<Progress>,
    began: Instant,
    thread: JoinHandle<()>,
}

impl Jobs {
    /// Says what a restore would do.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) fn plan(&self, ground: &Ground, wanted: &Wanted) -> Result<RestorePlan, RestoreError> {
        let task = restore_task(ground, wanted)?;
        let plan = make_plan(ground, &task, None, &|| false)?;
        Ok(shown(ground, &task, &plan))
    }

    /// Begins a restore, of which `uid` is told to have asked for it.
    ///
    /// # Errors
    /// See [`RestoreError`]; nothing was changed then.
    pub(crate) fn start(
        &self,
        ground: &Ground,
        uid: u32,
        wanted: &Wanted,
    ) -> Result<RestoreJob, RestoreError> {
        self.begin(ground, uid, || restore_task(ground, wanted))
    }

    /// Says what the reversal of a burst would do, with the burst; the last one that was not undone unless `burst` names
    /// one.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) fn plan_undo(
        &self,
        ground: &Ground,
        burst: Option<&str>,
        conflict: RestoreConflict,
    ) -> Result<(PastBurst, RestorePlan), RestoreError> {
        let found = find_burst(ground, burst)?;
        let task = undo_task(&found, undo::checked(conflict)?);
        let plan = make_plan(ground, &task, None, &|| false)?;
        let shown = shown(ground, &task, &plan);
        Ok((found, shown))
    }

    /// Begins the reversal of a burst.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_undo(
        &self,
        ground: &Ground,
        uid: u32,
        burst: Option<&str>,
        conflict: RestoreConflict,
    ) -> Result<RestoreJob, RestoreError> {
        let conflict = undo::checked(conflict)?;
        self.begin(ground, uid, || Ok(undo_task(&find_burst(ground, burst)?, conflict)))
    }

    /// Begins the reversal of a restore; the last one unless `job` names one.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_reversal(
        &self,
        ground: &Ground,
        uid: u32,
        job: Option<u64>,
    ) -> Result<RestoreJob, RestoreError> {
        self.begin(ground, uid, || {
            let records = Records::open(ground.archive.history())?;
            let record = match job {
                Some(id) => records.read(id)?,
                None => {
                    let all = records.all()?;
                    let last = all.into_iter().rev().find(|record| record.snapshot.is_some());
                    last.ok_or(RestoreError::NoBurst("nothing was restored in this workspace"))?
                }
            };
            let snapshot = record
                .snapshot
                .ok_or_else(|| RestoreError::Invalid(format!("restore {} has changed nothing", record.id)))?;
            Ok(Task::Reversal { job: record.id, snapshot })
        })
    }

    /// Says what a clone would be.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) fn plan_clone(
        &self,
        ground: &Ground,
        wanted: &CloneWanted,
    ) -> Result<RestorePlan, RestoreError> {
        let clone = CloneTask::new(ground, wanted)?;
        let room = clone.check()?;
        let task = Task::Clone(clone);
        let plan = make_plan(ground, &task, None, &|| false)?;
        let shown = shown(ground, &task, &plan);
        Ok(RestorePlan { available_bytes: Some(room.bytes), available_inodes: room.inodes, ..shown })
    }

    /// Begins a clone.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_clone(
        &self,
        ground: &Ground,
        wanted: &CloneWanted,
    ) -> Result<RestoreJob, RestoreError> {
        self.begin(ground, wanted.caller.uid, || {
            let clone = CloneTask::new(ground, wanted)?;
            clone.check()?;
            Ok(Task::Clone(clone))
        })
    }

    /// Goes on with a restore that was interrupted, broken off or incomplete.
    ///
    /// # Errors
    /// As [`Self::start`]; `Invalid` if it is done.
    pub(crate) fn resume(&self, ground: &Ground, id: u64) -> Result<RestoreJob, RestoreError> {
        let mut running = self.running.lock();
        self.check_idle(&mut running)?;
        let record = Records::open(ground.archive.history())?.read(id)?;
        if record.state == RestoreState::Done {
            return Err(RestoreError::Invalid(format!("restore {id} is done")));
        }
        self.launch(ground, &mut running, record, true)
    }

    fn begin(
        &self,
        ground: &Ground,
        uid: u32,
        task: impl FnOnce() -> Result<Task, RestoreError>,
    ) -> Result<RestoreJob, RestoreError> {
        let mut running = self.running.lock();
        self.check_idle(&mut running)?;
        let task = task()?;
        let records = Records::open(ground.archive.history())?;
        let record = Record {
            version: 1,
            id: records.next_number()?,
            task,
            asked_by: uid,
            state: RestoreState::Planning,
            started_ns: now_ns(),
            finished_ns: None,
            snapshot: None,
            workers: [std::process::id()].into(),
            total: 0,
            done: 0,
            total_bytes: 0,
            counts: Default::default(),
            failures: Vec::new(),
            notes: Vec::new(),
            error: None,
            error_code: None,
        };
        self.launch(ground, &mut running, record, false)
    }

    fn check_idle(&self, running: &mut Option<Running>) -> Result<(), RestoreError> {
        let is_at_work =
            |job: &&Running| !job.progress.has_ended.load(Ordering::Acquire) && !job.thread.is_finished();
        if let Some(job) = running.as_ref().filter(is_at_work) {
            return Err(RestoreError::Busy(job.id));
        }
        if let Some(job) = running.take()
            && job.thread.join().is_err()
        {
            tracing::error!(restore = job.id, "a restore panicked");
        }
        Ok(())
    }

    fn launch(
        &self,
        ground: &Ground,
        running: &mut Option<Running>,
        mut record: Record,
        is_resumed: bool,
    ) -> Result<RestoreJob, RestoreError> {
        let records = Records::open(ground.archive.history())?;
        record.workers.insert(std::process::id());
        record.state = RestoreState::Planning;
        record.finished_ns = None;
        record.error = None;
        record.error_code = None;
        records.write(&record)?;
        let progress = Arc::new(Progress::default());
        let job = shown_job(&record, Some((&progress, 0.0)));
        let (ground, told, id) = (ground.clone(), progress.clone(), record.id);
        let thread = std::thread::Builder::new()
            .name("restore".to_owned())
            .spawn(move || run(&ground, &records, record, &told, is_resumed))
            .map_err(RestoreError::Record)?;
        *running = Some(Running { id, progress, began: Instant::now(), thread });
        Ok(job)
    }

    /// Returns how far a restore is.
    ///
    /// # Errors
    /// `NoJob` if there is none.
    pub(crate) fn job(&self, ground: &Ground, id: u64) -> Result<RestoreJob, RestoreError> {
        let running = self.running.lock();
        let record = Records::open(ground.archive.history())?.read(id)?;
        Ok(Self::shown(&running, &record))
    }

    /// Returns the restores of the workspace, latest first.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) fn list(&self, ground: &Ground) -> Result<Vec<RestoreJob>, RestoreError> {
        let running = self.running.lock();
        let records = Records::open(ground.archive.history())?.all()?;
        Ok(records.iter().rev().map(|record| Self::shown(&running, record)).collect())
    }

    fn shown(running: &Option<Running>, record: &Record) -> RestoreJob {
        let running =
            running.as_ref().filter(|running| running.id == record.id && !running.thread.is_finished());
        let progress =
            running.map(|running| (running.progress.as_ref(), running.began.elapsed().as_secs_f64()));
        shown_job(record, progress)
    }

    /// Breaks a restore off; what it has done stays.
    ///
    /// # Errors
    /// `NoJob` if there is none.
    pub(crate) fn cancel(&self, ground: &Ground, id: u64) -> Result<RestoreJob, RestoreError> {
        if let Some(running) = self.running.lock().as_ref().filter(|running| running.id == id) {
            running.progress.is_cancelled.store(true, Ordering::Release);
        }
        self.job(ground, id)
    }

    /// Breaks off what runs and waits for its end.
    pub(crate) fn stop(&self) {
        let Some(running) = self.running.lock().take() else { return };
        running.progress.is_cancelled.store(true, Ordering::Release);
        // A clone may wait for another workspace that is being stopped as well, and would wait for ever.
        let began = Instant::now();
        while !running.thread.is_finished() {
            if began.elapsed() > LONGEST_STOP {
                tracing::warn!(restore = running.id, "a restore does not end; it is left behind");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if running.thread.join().is_err() {
            tracing::error!(restore = running.id, "a restore panicked");
        }
    }
}

fn restore_task(ground: &Ground, wanted: &Wanted) -> Result<Task, RestoreError> {
    if wanted.paths.is_empty() {
        return Err(RestoreError::Invalid("no path is named".to_owned()));
    }
    let request = &wanted.request;
    let roots = roots(ground, &wanted.paths, &request.when, wanted.to.as_deref())?;
    Ok(Task::Restore { roots, conflict: request.conflict, accepts_changed: request.accept_changed })
}

fn find_burst(ground: &Ground, wanted: Option<&str>) -> Result<PastBurst, RestoreError> {
    let mut bursts = undo::bursts(ground)?.into_iter();
    let found = match wanted {
        Some(wanted) => bursts.find(|found| found.burst.first.at.to_i64().to_string() == wanted),
        None => bursts.find(|found| found.undone_by.is_none()),
    };
    found.ok_or(RestoreError::NoBurst(match wanted {
        Some(_) => "there is no such burst of deletions in the history",
        None => "nothing was deleted or overwritten that could be undone",
    }))
}

fn undo_task(found: &PastBurst, conflict: RestoreConflict) -> Task {
    let burst = &found.burst;
    Task::Undo {
        first: burst.first.at.to_i64(),
        last: burst.last.at.to_i64(),
        uid: burst.first.actor.uid,
        pid: burst.first.actor.pid,
        ended_ns: burst.last.time_ns,
        conflict,
    }
}

fn conflict_of(task: &Task) -> RestoreConflict {
    match task {
        Task::Restore { conflict, .. } | Task::Undo { conflict, .. } => *conflict,
        Task::Reversal { .. } => RestoreConflict::Exact,
        Task::Clone(_) => RestoreConflict::OnlyMissing,
    }
}

fn make_plan(
    ground: &Ground,
    task: &Task,
    resumed_ns: Option<i64>,
    is_cancelled: &dyn Fn() -> bool,
) -> Result<Plan, RestoreError> {
    let accepts_changed = match task {
        Task::Restore { accepts_changed, .. } => *accepts_changed,
        Task::Undo { .. } | Task::Reversal { .. } => true,
        Task::Clone(clone) => clone.accepts_changed,
    };
    let mut planner = Planner::new(ground, conflict_of(task), accepts_changed, is_cancelled);
    if let Some(began) = resumed_ns {
        planner.resume(began);
    }
    match task {
        Task::Restore { roots, .. } => {
            let mut missing = Vec::new();
            for root in roots {
                match planner.root(root) {
                    Err(error @ RestoreError::NotFound { .. }) => missing.push((root, error)),
                    result => result?,
                }
            }
            let is_all = missing.len() == roots.len();
            for (root, error) in missing {
                if is_all {
                    return Err(error);
                }
                planner.plan.fail(&root.to.path(), one_line(&error));
            }
        }
        Task::Undo { first, last, uid, pid, ended_ns, .. } => {
            let moment = |number: &i64| Sequence::from_i64(*number).unwrap_or(Sequence::ZERO);
            let actor = Actor { uid: *uid, pid: *pid };
            let burst = Reversed { actor, first: moment(first), last: moment(last), ended_ns: *ended_ns };
            undo::plan(&mut planner, &burst)?;
        }
        Task::Reversal { job, snapshot } => {
            let records = Records::open(ground.archive.history())?;
            let lines = records.lines(*job)?;
            let was_interrupted = records.read(*job).is_ok_and(|record| record.workers.len() > 1);
            super::reverse::plan(&mut planner, &lines, Epoch(*snapshot).end(), was_interrupted)?;
        }
        Task::Clone(clone) => {
            planner.lies(place_of(task));
            planner.root(&clone.root())?;
        }
    }
    Ok(planner.plan)
}

fn place_of(task: &Task) -> Where {
    match task {
        Task::Clone(clone) if clone.is_inside() => Where::HereCopied,
        Task::Clone(_) => Where::Elsewhere,
        Task::Restore { .. } | Task::Undo { .. } | Task::Reversal { .. } => Where::Here,
    }
}

/// Returns how much may still be written, and how many inodes made.
fn available(ground: &Ground) -> Option<Room> {
    let host = ground.fs.host_space().ok()?;
    let of_host = Room { bytes: host.available_bytes, inodes: Some(host.free_inodes) };
    let room = ground.fs.account().map_or(of_host, |account| {
        let left = account.statfs(host);
        let bytes = left.blocks_available.saturating_mul(crate::quota::BLOCK_BYTES);
        Room { bytes, inodes: Some(left.files_free) }
    });
    // A filesystem that makes inodes as they are needed says that it has none.
    let is_bounded = host.total_inodes > 0 || room.inodes.is_some_and(|inodes| inodes > 0);
    Some(Room { inodes: room.inodes.filter(|_| is_bounded), ..room })
}

fn check_room(room: Option<Room>, plan: &Plan) -> Result<(), RestoreError> {
    let Some(Room { bytes, inodes }) = room else { return Ok(()) };
    if bytes < plan.needed_bytes {
        return Err(RestoreError::NoRoom { needed: plan.needed_bytes, available: bytes });
    }
    match inodes {
        Some(available) if available < plan.needed_inodes => {
            Err(RestoreError::NoInodes { needed: plan.needed_inodes, available })
        }
        Some(_) | None => Ok(()),
    }
}

/// Runs a restore to its end and writes its record.
fn run(ground: &Ground, records: &Records, mut record: Record, progress: &Progress, is_resumed: bool) {
    let result = carry_out(ground, records, &mut record, progress, is_resumed);
    progress.has_ended.store(true, Ordering::Release);
    let told = progress.told.lock().clone();
    record.counts = told.counts;
    record.failures = told.failures;
    record.notes.extend(told.notes);
    record.done = progress.done.load(Ordering::Relaxed);
    record.finished_ns = Some(now_ns());
    record.state = match &result {
        Err(_) => RestoreState::Failed,
        Ok(()) if progress.is_cancelled() => RestoreState::Cancelled,
        Ok(()) if record.counts.failed > 0 => RestoreState::Partial,
        Ok(()) => RestoreState::Done,
    };
    if let Err(error) = result {
        let told = error.to_api();
        record.error_code = Some(told.code);
        record.error = Some(told.message);
        tracing::warn!(restore = record.id, error = %one_line(&error), "restore failed");
    }
    tracing::info!(
        restore = record.id,
        state = ?record.state,
        files = record.counts.files,
        bytes = record.counts.bytes,
        failed = record.counts.failed,
        "restore ended"
    );
    if let Err(error) = records.write(&record) {
        tracing::error!(restore = record.id, error = %one_line(&error), "record of a restore cannot be written");
    }
}

fn carry_out(
    ground: &Ground,
    records: &Records,
    record: &mut Record,
    progress: &Progress,
    is_resumed: bool,
) -> Result<(), RestoreError> {
    let resumed_ns = (is_resumed && record.snapshot.is_some()).then_some(record.started_ns);
    let is_cancelled = || progress.is_cancelled();
    let _pins = pins(ground, &record.task)?;
    let mut plan = make_plan(ground, &record.task, resumed_ns, &is_cancelled)?;
    if place_of(&record.task) != Where::Elsewhere {
        check_room(available(ground), &plan)?;
    }
    if progress.is_cancelled() {
        return Ok(());
    }
    record.total = (plan.items.len() + plan.failed.len()) as u64;
    record.total_bytes = plan.items.iter().map(planned_bytes).sum();
    record.notes = std::mem::take(&mut plan.notes);
    record.notes.retain(|note| !plan.failed.iter().any(|(path, _)| path.to_string_lossy() == note.path));
    progress.total.store(record.total, Ordering::Relaxed);
    progress.total_bytes.store(record.total_bytes, Ordering::Relaxed);
    {
        let mut told = progress.told.lock();
        // What is no item is counted here, the rest when it is done.
        told.counts.skipped = plan.counts.skipped;
        told.counts.unchanged = if resumed_ns.is_some() { 0 } else { plan.counts.unchanged };
        told.counts.failed = plan.counts.failed.saturating_sub(plan.failed.len() as u64);
    }
    if let Task::Clone(clone) = &record.task
        && !clone.is_inside()
    {
        let clone = clone.clone();
        record.state = RestoreState::Running;
        records.write(record)?;
        return make_clone(ground, &clone, progress, &plan);
    }
    if record.snapshot.is_none() && !plan.items.is_empty() {
        let note = SnapshotNote {
            reason: SnapshotReason::BeforeRestore,
            name: None,
            note: Some(format!("before restore {}", record.id)),
            is_held: false,
        };
        let actor = Actor { uid: record.asked_by, pid: 0 };
        let ended = ground.archive.take_snapshot(ground.backing(), actor, note)?;
        record.snapshot = Some(ended.epoch.0);
    }
    record.state = RestoreState::Running;
    records.write(record)?;
    let mut ledger = records.ledger(record.id)?;
    let telling = match record.task {
        // Tens of thousands of names, and each of them is quick.
        Task::Undo { .. } | Task::Reversal { .. } if ground.fs.can_tell_of_all() => Telling::AtTheEnd,
        _ => Telling::AtOnce,
    };
    let never = || false;
    let conflict = conflict_of(&record.task);
    let place = (place_of(&record.task), &never as &dyn Fn() -> bool);
    Executor::new(ground, record.id, progress, conflict, telling, place).run(&plan, &mut ledger)?;
    ground.archive.history().log().sync()?;
    Ok(())
}

/// Makes a clone outside the workspace.
fn make_clone(
    ground: &Ground,
    clone: &CloneTask,
    progress: &Progress,
    plan: &Plan,
) -> Result<(), RestoreError> {
    let hand = clone.hand()?;
    let target = Target::open(&hand, &clone.to(), &clone.temporary)?;
    check_room(Some(target.room(&hand)?), plan)?;
    for (path, reason) in &plan.failed {
        progress.tell(Deed::Failed, path, Some(reason));
    }
    let moment = Sequence::from_i64(clone.moment()).unwrap_or(Sequence::ZERO);
    let groups = (&hand, clone.caller.groups.as_slice());
    let mut writer = Writer::new(ground, groups, &target, progress, moment)?;
    writer.run(&plan.items, |item, done| {
        // A directory gets its attributes after it was counted.
        if done.deed == Deed::Attributes {
            progress.tell(done.deed, &done.path, done.reason.as_deref());
        } else {
            progress.count(item, &done);
            progress.done.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Keeps what a restore needs as long as it runs, whatever becomes of snapshots and trash.
fn pins(ground: &Ground, task: &Task) -> Result<Vec<Pin>, RestoreError> {
    let moment = |number: i64| Sequence::from_i64(number).unwrap_or(Sequence::ZERO);
    let mut moments: Vec<Sequence> = match task {
        Task::Restore { roots, .. } => roots.iter().map(|root| moment(root.moment)).collect(),
        // It looks at many moments, from before its first deletion on.
        Task::Undo { first, .. } => return Ok(vec![ground.archive.pin_since(moment(*first).before())?]),
        Task::Reversal { snapshot, .. } => vec![Epoch(*snapshot).end()],
        Task::Clone(clone) => vec![moment(clone.moment())],
    };
    moments.sort_unstable();
    moments.dedup();
    moments.into_iter().map(|moment| Ok(ground.archive.pin(moment)?)).collect()
}

fn time(ns: i64) -> String {
    Timestamp::from_nanosecond(ns.into()).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

fn shown(ground: &Ground, task: &Task, plan: &Plan) -> RestorePlan {
    let origin = |path: &Path, moment: i64| {
        let moment = Sequence::from_i64(moment).unwrap_or(Sequence::ZERO);
        let at = ground.view(moment).ok().and_then(|view| view.time_ns()).map(time);
        RestoreOrigin { path: path.to_string_lossy().into_owned(), at }
    };
    let origins = match task {
        Task::Restore { roots, .. } => {
            roots.iter().take(100).map(|root| origin(&root.from.path(), root.moment)).collect()
        }
        Task::Undo { first, .. } => vec![origin(Path::new(""), *first - 1)],
        Task::Reversal { snapshot, .. } => {
            vec![origin(Path::new(""), Epoch(*snapshot).end().to_i64())]
        }
        Task::Clone(clone) => vec![origin(&clone.from(), clone.moment())],
    };
    let room = available(ground);
    RestorePlan {
        schema: SCHEMA_VERSION,
        workspace: String::new(),
        origins,
        counts: plan.counts,
        needed_bytes: plan.needed_bytes,
        available_bytes: room.map(|room| room.bytes),
        needed_inodes: plan.needed_inodes,
        available_inodes: room.and_then(|room| room.inodes),
        notes: plan.notes.clone(),
    }
}

fn shown_job(record: &Record, running: Option<(&Progress, f64)>) -> RestoreJob {
    let mut job = RestoreJob {
        schema: SCHEMA_VERSION,
        id: record.id,
        workspace: String::new(),
        kind: record.task.kind(),
        state: record.state,
        started_at: time(record.started_ns),
        finished_at: record.finished_ns.map(time),
        snapshot: record.snapshot,
        total: record.total,
        done: record.done,
        total_bytes: record.total_bytes,
        done_bytes: record.counts.bytes,
        bytes_per_second: 0.0,
        eta_seconds: None,
        counts: record.counts,
        failures: record.failures.clone(),
        error: record.error.clone(),
        error_code: record.error_code,
        notes: record.notes.clone(),
    };
    match running {
        None if matches!(record.state, RestoreState::Planning | RestoreState::Running) => {
            job.state = RestoreState::Interrupted;
            job.notes.push(RestoreNote {
                path: String::new(),
                reason: format!(
                    "the daemon ended meanwhile; go on with `wsguard restore --resume {}`",
                    record.id
                ),
            });
        }
        None => {}
        Some((progress, seconds)) => {
            let told = progress.told.lock().clone();
            job.counts = told.counts;
            job.failures = told.failures;
            job.total = progress.total.load(Ordering::Relaxed);
            job.done = progress.done.load(Ordering::Relaxed);
            job.total_bytes = progress.total_bytes.load(Ordering::Relaxed);
            job.done_bytes = progress.done_bytes.load(Ordering::Relaxed);
            if seconds > 0.0 {
                job.bytes_per_second = job.done_bytes as f64 / seconds;
                let left = job.total.saturating_sub(job.done) as f64;
                let by_files = left * seconds / (job.done as f64).max(1.0);
                let bytes_left = job.total_bytes.saturating_sub(job.done_bytes) as f64;
                let by_bytes = bytes_left / job.bytes_per_second.max(1.0);
                job.eta_seconds = (job.done > 0).then_some(by_files.max(by_bytes).min(1e9) as u64);
            }
        }
    }
    job
}
