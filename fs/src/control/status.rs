//! The daemon's own facts.

use std::path::PathBuf;

use jiff::Timestamp;
use rustix::process::Resource;
use wsguard_api::{DaemonStatus, SCHEMA_VERSION};

use crate::config::Config;
use crate::workspaces::{Registry, Viewer};

/// What does not change as long as a worker runs.
#[derive(Clone, Debug)]
pub(crate) struct WorkerFacts {
    keeper_pid: u32,
    generation: u64,
    started_at: Timestamp,
    state_dir: PathBuf,
    runtime_dir: PathBuf,
    config: Option<PathBuf>,
}

impl WorkerFacts {
    /// Notes them for a worker that starts now.
    pub(crate) fn new(config: &Config, keeper_pid: u32, generation: u64) -> Self {
        Self {
            keeper_pid,
            generation,
            started_at: Timestamp::now(),
            state_dir: config.state_dir.clone(),
            runtime_dir: config.runtime_dir.clone(),
            config: config.file.clone(),
        }
    }
}

pub(super) fn status(facts: &WorkerFacts, registry: &Registry, viewer: Viewer) -> DaemonStatus {
    DaemonStatus {
        schema: SCHEMA_VERSION,
        generated_at: Timestamp::now().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keeper_pid: facts.keeper_pid,
        worker_pid: std::process::id(),
        generation: facts.generation,
        started_at: facts.started_at.to_string(),
        state_dir: facts.state_dir.clone(),
        runtime_dir: facts.runtime_dir.clone(),
        config: facts.config.clone(),
        roots: registry.roots(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        open_fds: open_fds(),
        fd_limit: rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        resident_bytes: resident_bytes(),
        warnings: registry.warnings(viewer),
        workspaces: registry.list(viewer),
    }
}

/// The directory that is read is open itself and not counted.
fn open_fds() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1) as u64)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_has_descriptors_and_memory() {
        assert!(open_fds() >= 3);
        assert!(resident_bytes() > 100_000);
    }
}
