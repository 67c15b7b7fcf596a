//! What the driver does once, before anything else: everything that was guarded is guarded again.
//!
//! Beside the catalog there is a file for each mount, `<runtime>/m/<id>.json`, with the request that it came
//! from. It is as old as the mount and gone after a reboot, like the mount; if the catalog is lost, dead mounts
//! find their directories by it.

use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::{error, info, warn};
use wsguard_api::MountRequest;

use super::driver::{Driver, Lingering, default_ownership};
use super::growth::GrowthKeeper;
use super::history_keeper::HistoryKeeper;
use super::pages;
use super::quota_board::ProjectView;
use super::registry::{Entry, Standing};
use crate::catalog::{WantedState, WorkspaceRecord};
use crate::error_chain::one_line;
use crate::keeper_link::InheritedSession;
use crate::mounting::mountinfo::{DeviceNumber, MountTable};
use crate::mounting::{self, Leftover, Mounted, check_form};

impl Driver {
    /// Reads the registry, finds dead mounts that it does not know, and guards what is to be guarded. A
    /// workspace that cannot be mounted stays registered and says why.
    ///
    /// First of all, sessions of a worker that died are taken over: whoever uses them is waiting. `taken_over` is
    /// called when nobody waits any more.
    pub(crate) fn restore(&mut self, inherited: Vec<InheritedSession>, taken_over: impl FnOnce()) {
        let records = match self.catalog.workspaces() {
            Ok(records) => records,
            Err(error) => {
                error!(error = %one_line(&error), "catalog cannot be read");
                self.registry.warn(format!("the registry could not be read: {}", one_line(&error)));
                Vec::new()
            }
        };
        if !self.recorder.is_on() {
            self.registry.warn(
                "changes are not recorded, history.enabled is false: `log`, `top` and `usage` tell nothing"
                    .to_owned(),
            );
        }
        // Before the first request is served: it must not pass a limit.
        self.start_quota(&records);
        self.restore_notices(&records);
        self.restore_requests(&records);
        let taken = self.take_over(inherited, &records);
        taken_over();
        for (_, mounted) in &taken {
            self.regroup_one(mounted);
            mounted.watch();
        }
        if let Err(error) = mounting::prepare_mounts_dir(&self.mounts_dir) {
            error!(error = %error, "mounts directory is not private");
            self.registry
                .warn(format!("mounts below {} may appear elsewhere: {error}", self.mounts_dir.display()));
        }
        self.registry.set_roots(&self.config.roots);
        for record in records {
            let standing = match record.wanted {
                WantedState::Mounted => Standing::Failed("not mounted yet".to_owned()),
                WantedState::Unmounted => Standing::Unmounted,
            };
            self.registry.put(Entry::idle(record, standing));
        }
        for (id, mounted) in taken {
            self.enter_taken(&id, mounted);
        }
        self.adopt_leftovers();
        for id in self.registry.ids() {
            if self.jobs.is_stopping() {
                return;
            }
            if self.registry.mounted(&id).is_none() {
                self.restore_one(&id);
            }
        }
        self.note_alive();
        self.scan_roots();
        self.start_growth();
        self.start_history();
    }

    /// Without it nothing is lost, but no snapshot is taken by itself and nothing is let go.
    fn start_history(&mut self) {
        let (registry, events) = (self.registry.clone(), self.events.clone());
        match HistoryKeeper::start(&self.config.snapshots, self.config.min_free, registry, events) {
            Ok(keeper) => self.history = Some(keeper),
            Err(error) => {
                error!(error = %error, "history is not looked after");
                self.registry.warn(format!("no automatic snapshots are taken: {error}"));
            }
        }
    }

    /// Without it the virtual directories tell less.
    fn start_growth(&mut self) {
        match GrowthKeeper::start(self.registry.clone(), self.usage.clone(), self.recorder.directory()) {
            Ok(keeper) => self.growth = Some(keeper),
            Err(error) => error!(error = %error, "growth is not looked up"),
        }
    }

    fn take_over(
        &self,
        inherited: Vec<InheritedSession>,
        records: &[WorkspaceRecord],
    ) -> Vec<(String, Mounted)> {
        let (recorder, registry, jobs) = (&self.recorder, &self.registry, &self.jobs);
        let tracker = |id: &str| recorder.tracker(id);
        let pages = |id: &str| {
            let known = records.iter().find(|record| record.id == id).map(ProjectView::of);
            pages::source(registry, recorder, jobs, id, known)
        };
        let ledger = registry.quota().ledger();
        let taken = mounting::take_over(&self.link, ledger, tracker, pages, inherited);
        taken
            .into_iter()
            .filter_map(|(id, result)| match result {
                Ok(mounted) => Some((id, mounted)),
                Err(error) => {
                    error!(workspace = %id, error = %one_line(&error), "session cannot be taken over; its mounts are dead");
                    None
                }
            })
            .collect()
    }

    /// Puts a workspace that was taken over into the registry. One that is unmounted or forgotten is served until
    /// whoever holds it lets go.
    fn enter_taken(&mut self, id: &str, mounted: Mounted) {
        let mounted = Arc::new(mounted);
        let is_shown = mounted.device() != DeviceNumber::NOWHERE;
        match self.registry.record(id) {
            Ok(record) if record.wanted == WantedState::Mounted && is_shown => {
                self.count_usage(&record, &mounted);
                let standing = Standing::Mounted(mounted);
                self.registry.put(Entry::idle(record, standing));
                self.follow_kernel(id);
                self.note_taken_over(id);
            }
            found => {
                let name = found.map_or_else(|_| id.to_owned(), |record| record.name);
                self.lingering.push(Lingering { name, mounted });
            }
        }
    }

    fn restore_one(&mut self, id: &str) {
        let Ok(record) = self.registry.record(id) else { return };
        if record.wanted == WantedState::Unmounted {
            return;
        }
        let name = record.name.clone();
        if let Err(error) = self.mount_record(record) {
            error!(workspace = %id, name, error = %error.message, "workspace cannot be mounted again");
        }
    }

    /// Registers the workspaces of dead mounts that the catalog does not know.
    fn adopt_leftovers(&mut self) {
        let table = match MountTable::read() {
            Ok(table) => table,
            Err(error) => {
                error!(error = %error, "mount table cannot be read");
                return;
            }
        };
        for leftover in mounting::leftovers(&table, &self.mounts_dir) {
            if self.registry.record(&leftover.id).is_ok() {
                continue;
            }
            match self.leftover_record(&leftover) {
                Ok(record) => {
                    info!(workspace = %record.id, dir = %record.dir.display(), "dead mount is registered again");
                    if let Err(error) = self.catalog.put(&record) {
                        error!(workspace = %record.id, error = %one_line(&error), "catalog does not take a workspace");
                    }
                    let standing = Standing::Failed("not mounted yet".to_owned());
                    self.registry.put(Entry::idle(record, standing));
                }
                Err(reason) => {
                    let places: Vec<String> =
                        leftover.elsewhere.iter().map(|path| path.display().to_string()).collect();
                    warn!(workspace = %leftover.id, name = %leftover.name, places = places.join(", "), reason, "dead mount stays in place");
                    self.registry.warn(format!(
                        "a dead mount of {} stays at {}: {reason}",
                        leftover.name,
                        places.join(", ")
                    ));
                }
            }
        }
    }

    fn leftover_record(&self, leftover: &Leftover) -> Result<WorkspaceRecord, String> {
        let path = self.sidecar(&leftover.id);
        let text =
            std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let request: MountRequest = serde_json::from_slice(&text)
            .map_err(|error| format!("cannot understand {}: {error}", path.display()))?;
        let dir = check_form(&request.dir).map_err(|error| error.to_string())?;
        let owner = mounting::owner_of(&dir).map_err(|error| error.to_string())?;
        let uid = request.owner.unwrap_or(owner.uid);
        let occupied = self.registry.occupied();
        if let Some(taken) = occupied.iter().find(|place| place.dir == dir) {
            return Err(format!("its directory is registered as {}", taken.name));
        }
        let name = match request.name.filter(|name| !occupied.iter().any(|place| place.name == *name)) {
            Some(name) => name,
            None => self.free_name(&dir, uid).map_err(|error| error.to_string())?,
        };
        Ok(WorkspaceRecord {
            id: leftover.id.clone(),
            name,
            from_roots: self.matches_roots(&dir),
            dir,
            at: request.at,
            owner_uid: uid,
            owner_gid: owner.gid,
            ownership: request.ownership.unwrap_or_else(|| default_ownership(uid)),
            wanted: WantedState::Mounted,
            created_at: jiff::Timestamp::now(),
            last_unmounted_at: None,
            last_alive_at: None,
            identity: None,
        })
    }

    fn sidecar(&self, id: &str) -> PathBuf {
        self.mounts_dir.join(format!("{id}.json"))
    }

    /// Without the file, only a mount whose catalog is lost as well cannot be found again: no reason to refuse.
    pub(super) fn write_sidecar(&self, record: &WorkspaceRecord) {
        let request = MountRequest {
            dir: record.dir.clone(),
            name: Some(record.name.clone()),
            owner: Some(record.owner_uid),
            ownership: Some(record.ownership),
            at: record.at.clone(),
            force: false,
        };
        let write = || -> std::io::Result<()> {
            let text = serde_json::to_vec(&request)?;
            let mut options = std::fs::OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(self.sidecar(&record.id))?;
            std::io::Write::write_all(&mut file, &text)
        };
        if let Err(error) = write() {
            warn!(workspace = %record.id, error = %error, "mount is not described beside the catalog");
        }
    }

    pub(super) fn remove_sidecar(&self, id: &str) {
        match std::fs::remove_file(self.sidecar(id)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => warn!(workspace = %id, error = %error, "description of a mount stays"),
        }
    }
}
