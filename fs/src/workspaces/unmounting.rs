//! The driver's jobs that take guards away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{error, info, warn};
use wsguard_api::{ApiError, ErrorCode, SCHEMA_VERSION, ShutdownReport, UmountReport, Workspace};

use super::driver::{Driver, Lingering, catalog_error};
use super::jobs::AfterUnmount;
use super::registry::{Standing, last_watched_moment};
use crate::catalog::WantedState;
use crate::error_chain::one_line;
use crate::mount_users;
use crate::mounting::{self, Mounted, Unmounted};

/// How long a superblock may take to go before whoever holds it is looked up.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long all of them together may take when the daemon stops.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

impl Driver {
    /// Unmounts one workspace on request; it stays unmounted until it is mounted on request.
    pub(super) fn unmount_request(
        &mut self,
        id_or_name: &str,
        after: AfterUnmount,
    ) -> Result<UmountReport, ApiError> {
        let id = self.registry.resolve(id_or_name)?;
        let outcome = match self.registry.mounted(&id) {
            Some(mounted) => self.take_away(&id, mounted, WantedState::Unmounted, PATIENCE)?,
            None => self.take_away_dead(&id, after)?,
        };
        let workspace = self.registry.view_of(&id)?;
        let forgotten = after == AfterUnmount::Forget;
        if forgotten {
            let record = self.registry.record(&id)?;
            self.catalog.forget(&record, Timestamp::now()).map_err(|error| catalog_error(&error))?;
            self.registry.remove(&id);
            info!(workspace = %id, name = %record.name, "workspace forgotten");
        }
        Ok(report(workspace, outcome, forgotten))
    }

    /// Unmounts everything; what is registered as mounted is mounted again at the next start.
    pub(super) fn shutdown(&mut self) -> ShutdownReport {
        let mut unmounted = Vec::new();
        let deadline = Instant::now() + SHUTDOWN_PATIENCE;
        for id in self.registry.ids() {
            let Some(mounted) = self.registry.mounted(&id) else { continue };
            let patience = PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
            let result = self
                .take_away(&id, mounted, WantedState::Mounted, patience)
                .and_then(|outcome| Ok(report(self.registry.view_of(&id)?, outcome, false)));
            match result {
                Ok(report) => unmounted.push(report),
                Err(error) => {
                    error!(workspace = %id, error = %error.message, "workspace cannot be unmounted");
                }
            }
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

    fn take_away(
        &mut self,
        id: &str,
        mounted: Arc<Mounted>,
        wanted: WantedState,
        patience: Duration,
    ) -> Result<Unmounted, ApiError> {
        let mut record = self.registry.record(id)?;
        // Before the mounts go: afterwards nobody could be told that it failed.
        if let Err(errno) = mounted.sync() {
            error!(workspace = %id, errno = errno.raw_os_error(), "backing filesystem cannot be synced");
        }
        let outcome =
            mounting::unmount(&mounted, &self.own_pids, patience).map_err(|error| error.to_api())?;
        let now = last_watched_moment();
        record.last_unmounted_at = Some(now);
        // A note from the last seconds must not hide what changes from now on.
        record.last_alive_at = record.last_alive_at.min(Some(now));
        record.wanted = wanted;
        self.remove_sidecar(id);
        let users = mount_users::summary(&outcome.users);
        info!(workspace = %id, name = %record.name, detached = outcome.detached, users, "workspace unmounted");
        let stored = self.catalog.put(&record);
        let name = record.name.clone();
        self.registry.with_entry(id, |entry| entry.record = record)?;
        self.set_standing(id, Standing::Unmounted);
        self.lingering.push(Lingering { name, mounted });
        self.finish_lingering();
        stored.map_err(|error| catalog_error(&error))?;
        Ok(outcome)
    }

    /// Takes dead mounts away, or does nothing for what is not mounted and only to be forgotten.
    fn take_away_dead(&mut self, id: &str, after: AfterUnmount) -> Result<Unmounted, ApiError> {
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
        Ok(Unmounted { detached: false, users: Vec::new() })
    }
}

fn report(workspace: Workspace, outcome: Unmounted, forgotten: bool) -> UmountReport {
    UmountReport {
        schema: SCHEMA_VERSION,
        workspace,
        detached: outcome.detached,
        users: outcome.users,
        forgotten,
    }
}
