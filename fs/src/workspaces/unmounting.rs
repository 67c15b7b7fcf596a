//! The driver's jobs that take guards away.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tracing::{error, info, warn};
use wsguard_api::{
    ApiError, ErrorCode, EventKind, MountUser, SCHEMA_VERSION, ShutdownReport, UmountReport, Workspace,
};

use super::driver::{Driver, Lingering, catalog_error};
use super::history_keeper;
use super::jobs::AfterUnmount;
use super::registry::{Standing, last_watched_moment};
use crate::catalog::{WantedState, WorkspaceRecord};
use crate::error_chain::one_line;
use crate::mount_users;
use crate::mounting::mountinfo::DeviceNumber;
use crate::mounting::{self, MountError, Mounted, Unmounted};

/// How long a superblock may take to go before whoever holds it is looked up.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long all of them together may take when the daemon stops.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

/// How long the filesystems may take to write everything back when the daemon stops. What was acknowledged is on
/// disk already, and the kernel goes on with the rest.
const SYNC_PATIENCE: Duration = Duration::from_secs(3);

/// Threads that unmount when the daemon stops. They wait for the kernel most of the time.
const UNMOUNT_THREADS: usize = 8;

/// What became of a guard that was taken away.
struct Outcome {
    detached: bool,
    users: Vec<MountUser>,
}

/// A guard that is about to be taken away.
struct Target {
    id: String,
    mounted: Arc<Mounted>,
}

impl Driver {
    /// Unmounts one workspace on request; it stays unmounted until it is mounted on request.
    pub(super) fn unmount_request(
        &mut self,
        id_or_name: &str,
        after: AfterUnmount,
    ) -> Result<UmountReport, ApiError> {
        let id = self.registry.resolve(id_or_name)?;
        let outcome = match self.registry.mounted(&id) {
            Some(mounted) => self.take_away(Target { id: id.clone(), mounted })?,
            None => self.take_away_dead(&id, after)?,
        };
        let workspace = self.registry.view_of(&id)?;
        let record = self.registry.record(&id)?;
        let forgotten = after == AfterUnmount::Forget;
        if forgotten {
            self.catalog.forget(&record, Timestamp::now()).map_err(|error| catalog_error(&error))?;
            self.registry.remove(&id);
            self.forget_quota(&id);
            if let Err(error) = self.usage.forget(&id) {
                warn!(workspace = %id, error = %one_line(&error), "usage index of a forgotten workspace stays");
            }
            self.forget_superblocks(&id);
            info!(workspace = %id, name = %record.name, "workspace forgotten");
        }
        self.note_unguarded(&record);
        Ok(report(workspace, outcome, forgotten))
    }

    /// Unmounts everything; what is registered as mounted is mounted again at the next start.
    ///
    /// All at once, not one after the other: with many workspaces under load, each wait for the disk, for a
    /// superblock or for `/proc` would add up to more than a service manager grants.
    pub(super) fn shutdown(&mut self) -> ShutdownReport {
        let guarded = |id: String| self.registry.mounted(&id).map(|mounted| Target { id, mounted });
        let targets: Vec<Target> = self.registry.ids().into_iter().filter_map(guarded).collect();
        // It must not hold what is about to go.
        self.history = None;
        sync_all(&targets);
        let (mut taken, mut records) = (Vec::new(), Vec::new());
        for (target, result) in unmount_all(targets) {
            match result {
                Ok(unmounted) => taken.push((target, unmounted)),
                Err(error) => {
                    error!(workspace = %target.id, error = %error, "workspace cannot be unmounted");
                }
            }
        }
        let devices: Vec<DeviceNumber> = taken
            .iter()
            .filter(|(_, how)| is_detached(*how))
            .map(|(target, _)| target.mounted.device())
            .collect();
        let mut users = self.find_users(&devices).into_iter();
        let mut unmounted = Vec::new();
        for (Target { id, mounted }, how) in taken {
            let detached = is_detached(how);
            let users = if detached { users.next().unwrap_or_default() } else { Vec::new() };
            let outcome = Outcome { detached, users };
            match self.note_unmounted(&id, mounted, WantedState::Mounted, &outcome) {
                Ok(record) => records.push(record),
                Err(error) => error!(workspace = %id, error = %error.message, "workspace vanished"),
            }
            unmounted.extend(self.registry.view_of(&id).map(|workspace| report(workspace, outcome, false)));
        }
        self.store_final_usage();
        if let Err(error) = self.catalog.put_all(&records) {
            error!(error = %one_line(&error), "catalog does not take when workspaces were unmounted");
        }
        self.finish_lingering();
        for lingering in &self.lingering {
            warn!(name = %lingering.name, "session ends while somebody still holds the mount");
        }
        if let Err(error) = mounting::release_mounts_dir(&self.mounts_dir) {
            warn!(error = %error, "mounts directory stays mounted");
        }
        ShutdownReport { schema: SCHEMA_VERSION, unmounted }
    }

    fn take_away(&mut self, target: Target) -> Result<Outcome, ApiError> {
        let Target { id, mounted } = target;
        // Before the mounts go: afterwards nobody could be told that it failed.
        if let Err(errno) = mounted.sync() {
            error!(workspace = %id, errno = errno.raw_os_error(), "backing filesystem cannot be synced");
        }
        let detached = is_detached(mounting::unmount(&mounted, PATIENCE).map_err(|error| error.to_api())?);
        let devices: &[DeviceNumber] = if detached { &[mounted.device()] } else { &[] };
        let users = self.find_users(devices).pop().unwrap_or_default();
        let outcome = Outcome { detached, users };
        let record = self.note_unmounted(&id, mounted, WantedState::Unmounted, &outcome)?;
        self.store_final_usage();
        let how = if outcome.detached {
            "unmounted on request, while it was in use"
        } else {
            "unmounted on request"
        };
        self.tell(&record, EventKind::Unmounted, how);
        self.finish_lingering();
        self.catalog.put(&record).map_err(|error| catalog_error(&error))?;
        Ok(outcome)
    }

    fn find_users(&self, devices: &[DeviceNumber]) -> Vec<Vec<MountUser>> {
        if devices.is_empty() { Vec::new() } else { mount_users::find(devices, &self.own_pids) }
    }

    /// Puts the end of a guard into the registry; the session lingers. Returns the row for the catalog.
    fn note_unmounted(
        &mut self,
        id: &str,
        mounted: Arc<Mounted>,
        wanted: WantedState,
        outcome: &Outcome,
    ) -> Result<WorkspaceRecord, ApiError> {
        let mut record = self.registry.record(id)?;
        let now = last_watched_moment();
        record.last_unmounted_at = Some(now);
        // A note from the last seconds must not hide what changes from now on.
        record.last_alive_at = record.last_alive_at.min(Some(now));
        record.wanted = wanted;
        self.remove_sidecar(id);
        self.usage.detach(id);
        history_keeper::settle(id, &mounted);
        if !outcome.detached {
            self.note_released(id, mounted.device());
            self.note_final_usage(id, &mounted);
        }
        let users = mount_users::summary(&outcome.users);
        info!(workspace = %id, name = %record.name, detached = outcome.detached, users, "workspace unmounted");
        self.lingering.push(Lingering { name: record.name.clone(), mounted });
        self.registry.with_entry(id, |entry| entry.record = record.clone())?;
        self.set_standing(id, Standing::Unmounted);
        Ok(record)
    }

    /// Takes dead mounts away, or does nothing for what is not mounted and only to be forgotten.
    fn take_away_dead(&mut self, id: &str, after: AfterUnmount) -> Result<Outcome, ApiError> {
        let mut record = self.registry.record(id)?;
        let source = self.mounts_dir.join(id);
        let removed =
            mounting::remove_dead_mounts(&[record.mount_point(), &source]).map_err(|error| error.to_api())?;
        if !removed && record.wanted == WantedState::Unmounted && after == AfterUnmount::Keep {
            return Err(ApiError::new(ErrorCode::Conflict, format!("{} is not mounted", record.name))
                .with_hint("`--forget` takes it out of the registry"));
        }
        record.wanted = WantedState::Unmounted;
        self.remove_sidecar(id);
        self.catalog.put(&record).map_err(|error| catalog_error(&error))?;
        if let Err(error) = self.registry.with_entry(id, |entry| entry.record = record) {
            warn!(error = %one_line(&error), "workspace vanished");
        }
        self.set_standing(id, Standing::Unmounted);
        Ok(Outcome { detached: false, users: Vec::new() })
    }
}

fn is_detached(unmounted: Unmounted) -> bool {
    unmounted == Unmounted::Detached
}

/// Writes back every filesystem that a guard lies on, each once and all at the same time.
fn sync_all(targets: &[Target]) {
    let mut seen = HashSet::new();
    let (done, finished) = channel::<()>();
    for Target { id, mounted } in targets {
        if !seen.insert(mounted.identity().device) {
            continue;
        }
        let (done, id) = (done.clone(), id.clone());
        let directory = match mounted.plain_directory() {
            Ok(directory) => directory,
            Err(errno) => {
                error!(workspace = %id, errno = errno.raw_os_error(), "backing filesystem cannot be reached");
                continue;
            }
        };
        // Not joined: one that hangs on its disk must not keep the daemon.
        let started = std::thread::Builder::new().name("sync".to_owned()).spawn(move || {
            if let Err(errno) = rustix::fs::syncfs(directory) {
                error!(workspace = %id, errno = errno.raw_os_error(), "backing filesystem cannot be synced");
            }
            drop(done);
        });
        if let Err(error) = started {
            error!(error = %error, "no thread to sync a filesystem");
        }
    }
    drop(done);
    // Nothing is ever sent: the last thread that ends closes the channel.
    if finished.recv_timeout(SYNC_PATIENCE) == Err(RecvTimeoutError::Timeout) {
        warn!(seconds = SYNC_PATIENCE.as_secs(), "not everything is written back yet");
    }
}

/// Takes all guards away, a few at a time.
fn unmount_all(targets: Vec<Target>) -> Vec<(Target, Result<Unmounted, MountError>)> {
    let deadline = Instant::now() + SHUTDOWN_PATIENCE;
    let count = targets.len().min(UNMOUNT_THREADS);
    let waiting = Mutex::new(targets);
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let Some(target) = waiting.lock().pop() else { return };
            let patience = PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
            let result = mounting::unmount(&target.mounted, patience);
            done.lock().push((target, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..count {
            let thread = std::thread::Builder::new().name("unmount".to_owned());
            if let Err(error) = thread.spawn_scoped(scope, work) {
                warn!(error = %error, "fewer threads unmount");
            }
        }
        work();
    });
    done.into_inner()
}

fn report(workspace: Workspace, outcome: Outcome, forgotten: bool) -> UmountReport {
    UmountReport {
        schema: SCHEMA_VERSION,
        workspace,
        detached: outcome.detached,
        users: outcome.users,
        forgotten,
    }
}
