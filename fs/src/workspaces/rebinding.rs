//! Remembering which superblocks a workspace had, and giving containers the new one in their place.
//!
//! `<runtime>/m/<id>.superblocks.json` lists the numbers of a workspace's superblocks, of this boot, that may still
//! be mounted in some container, the present one included. Written before a dead mount is replaced, so that a crash
//! in between forgets none. It outlives an unmount that left somebody behind, and an orderly stop of the daemon.

use std::collections::BTreeSet;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::driver::Driver;
use crate::catalog::WorkspaceRecord;
use crate::mounting::mountinfo::{DeviceNumber, MountTable};
use crate::rebind::{self, Superblock, Superseded};

/// How soon a container that could not be repaired is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Which workspaces have a new superblock that containers may not have yet.
#[derive(Debug, Default)]
pub(super) struct Rebinding {
    due: BTreeSet<String>,
    not_before: Option<Instant>,
}

impl Rebinding {
    fn add(&mut self, id: &str) {
        self.due.insert(id.to_owned());
        self.not_before = None;
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    boot: String,
    superblocks: Vec<(String, String)>,
}

impl Driver {
    /// Returns the superblocks that the workspace has had, and has them remembered. Called before it is mounted,
    /// while dead ones are still in their places.
    pub(super) fn former_superblocks(&self, record: &WorkspaceRecord) -> BTreeSet<Superblock> {
        let remembered = self.remembered(&record.id);
        let source = self.mounts_dir.join(&record.id);
        let mut all = remembered.clone();
        match MountTable::read() {
            Ok(table) => {
                let is_there = |path: &Path| path == record.mount_point() || path == source;
                all.extend(
                    table
                        .entries()
                        .iter()
                        .filter(|entry| is_there(&entry.mount_point))
                        .filter_map(Superblock::of),
                );
            }
            Err(error) => error!(error = %error, "mount table cannot be read"),
        }
        if all != remembered {
            self.remember(&record.id, &all);
        }
        all
    }

    /// Notes that a workspace has a new superblock now.
    pub(super) fn note_superseded(
        &mut self,
        record: &WorkspaceRecord,
        device: DeviceNumber,
        mut former: BTreeSet<Superblock>,
    ) {
        let present = Superblock { device, name: record.name.clone() };
        former.remove(&present);
        if !former.is_empty() {
            self.rebinding.add(&record.id);
        }
        former.insert(present);
        self.remember(&record.id, &former);
    }

    /// Notes that a session goes on that an earlier worker began; that one may not have come to repair containers.
    pub(super) fn note_taken_over(&mut self, id: &str) {
        if self.remembered(id).len() > 1 {
            self.rebinding.add(id);
        }
    }

    /// Notes that the superblock is gone: its number may be given to another one.
    pub(super) fn note_released(&self, id: &str, device: DeviceNumber) {
        let mut left = self.remembered(id);
        left.retain(|superblock| superblock.device != device);
        if left.is_empty() {
            self.forget_superblocks(id);
        } else {
            self.remember(id, &left);
        }
    }

    /// Binds new mounts into containers that have dead ones. What fails is shown and tried again later.
    pub(super) fn rebind_containers(&mut self) {
        if self.rebinding.due.is_empty() || self.rebinding.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let due = std::mem::take(&mut self.rebinding.due);
        self.rebinding.not_before = Some(Instant::now() + RETRY_INTERVAL);
        let superseded: Vec<Superseded> = due.iter().filter_map(|id| self.superseded(id)).collect();
        let known: Vec<String> = superseded.iter().map(|workspace| workspace.workspace.clone()).collect();
        let mut remainders = match rebind::rebind(superseded) {
            Ok(remainders) => remainders,
            Err(error) => {
                error!(error = %error, "containers with dead mounts cannot be looked for");
                self.rebinding.due = due;
                return;
            }
        };
        for id in known {
            let remainder = remainders.remove(&id).unwrap_or_default();
            if !remainder.failures.is_empty() {
                self.rebinding.due.insert(id.clone());
            }
            self.note_remainder(&id, remainder);
        }
    }

    fn superseded(&self, id: &str) -> Option<Superseded> {
        // Unmounted meanwhile, or lost again: what is remembered is used at the next mount.
        let mounted = self.registry.mounted(id)?;
        let mut former = self.remembered(id);
        former.retain(|superblock| superblock.device != mounted.device());
        match mounted.mount_root() {
            Ok(root) => Some(Superseded { workspace: id.to_owned(), former, root }),
            Err(error) => {
                error!(workspace = %id, error = %error, "containers cannot be given the new mount");
                None
            }
        }
    }

    fn note_remainder(&self, id: &str, remainder: rebind::Remainder) {
        let Ok(record) = self.registry.record(id) else { return };
        let mut superblocks = remainder.superblocks;
        if let Some(mounted) = self.registry.mounted(id) {
            superblocks.insert(Superblock { device: mounted.device(), name: record.name.clone() });
        }
        self.remember(id, &superblocks);
        let failures = remainder.failures;
        // Gone only if this thread removed it.
        let before = self
            .registry
            .with_entry(id, |entry| std::mem::replace(&mut entry.unrepaired, failures.clone()))
            .unwrap_or_default();
        for failure in failures.iter().filter(|failure| !before.contains(failure)) {
            warn!(workspace = %id, name = %record.name, reason = %failure, "workspace cannot be bound again");
        }
    }

    fn superblocks_file(&self, id: &str) -> PathBuf {
        self.mounts_dir.join(format!("{id}.superblocks.json"))
    }

    fn remembered(&self, id: &str) -> BTreeSet<Superblock> {
        let path = self.superblocks_file(id);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return BTreeSet::new(),
            Err(error) => {
                warn!(path = %path.display(), error = %error, "former superblocks cannot be read");
                return BTreeSet::new();
            }
        };
        match serde_json::from_slice::<Remembered>(&text) {
            Ok(remembered) if boot_id().is_ok_and(|boot| boot == remembered.boot) => {
                let superblock =
                    |(device, name): &(String, String)| Superblock::named(device.as_str(), name.as_str());
                remembered.superblocks.iter().filter_map(superblock).collect()
            }
            // Numbers of another boot are others' by now.
            Ok(_) => BTreeSet::new(),
            Err(error) => {
                warn!(path = %path.display(), error = %error, "former superblocks cannot be understood");
                BTreeSet::new()
            }
        }
    }

    /// Without the file, containers are only repaired as long as the dead mount is in its place: no reason to fail.
    fn remember(&self, id: &str, superblocks: &BTreeSet<Superblock>) {
        let path = self.superblocks_file(id);
        if let Err(error) = write(&path, superblocks) {
            warn!(path = %path.display(), error = %error, "superblocks of a workspace are not remembered");
        }
    }

    /// Forgets every superblock of a workspace that is not registered any more.
    pub(super) fn forget_superblocks(&self, id: &str) {
        match std::fs::remove_file(self.superblocks_file(id)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => warn!(workspace = %id, error = %error, "list of former superblocks stays"),
        }
    }
}

/// A crash leaves the old list or the new one. It need not survive a crash of the machine.
fn write(path: &Path, superblocks: &BTreeSet<Superblock>) -> std::io::Result<()> {
    let pairs = superblocks.iter().map(|superblock| (superblock.device.to_string(), superblock.name.clone()));
    let text = serde_json::to_vec(&Remembered { boot: boot_id()?, superblocks: pairs.collect() })?;
    let new = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    std::io::Write::write_all(&mut file, &text)?;
    std::fs::rename(&new, path)
}

fn boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
