//! The daemon's own facts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use rustix::process::Resource;
use wsguard_api::{DaemonStatus, DeliveryStatus, Program, SCHEMA_VERSION, WorkerEvent};

use super::routes::Shared;
use crate::config::Config;
use crate::keeper_link::{History, KeeperLink};
use crate::workspaces::Viewer;

/// How long a worker must live until the deaths before it are past.
const CRASH_LOOP_SHOWN: SignedDuration = SignedDuration::from_secs(60);

/// What the keeper told about itself, this worker and those before it.
#[derive(Clone, Debug)]
pub(crate) struct Greeted {
    pub(crate) keeper_pid: u32,
    pub(crate) generation: u64,
    pub(crate) keeper: Program,
    pub(crate) program: Program,
    pub(crate) history: Arc<History>,
}

/// What does not change as long as a worker runs.
#[derive(Clone, Debug)]
pub(crate) struct WorkerFacts {
    link: Arc<KeeperLink>,
    greeted: Greeted,
    started_at: Timestamp,
    state_dir: PathBuf,
    runtime_dir: PathBuf,
    config: Option<PathBuf>,
    admin_group: String,
    metrics_listen: Option<SocketAddr>,
}

impl WorkerFacts {
    /// Notes them for a worker that starts now.
    pub(crate) fn new(config: &Config, link: Arc<KeeperLink>, greeted: Greeted) -> Self {
        Self {
            link,
            greeted,
            started_at: Timestamp::now(),
            state_dir: config.state_dir.clone(),
            runtime_dir: config.runtime_dir.clone(),
            config: config.file.clone(),
            admin_group: config.admin_group.clone(),
            metrics_listen: config.metrics_listen,
        }
    }

    /// Returns where metrics are served beside the socket.
    pub(super) fn metrics_listen(&self) -> Option<SocketAddr> {
        self.metrics_listen
    }

    /// Returns the group whose members may set quotas.
    pub(super) fn admin_group(&self) -> &str {
        &self.admin_group
    }

    /// Returns what the keeper told.
    pub(super) fn greeted(&self) -> &Greeted {
        &self.greeted
    }

    /// Returns when the worker started.
    pub(super) fn started_at(&self) -> Timestamp {
        self.started_at
    }

    /// Returns the way to the keeper.
    pub(super) fn link(&self) -> Arc<KeeperLink> {
        Arc::clone(&self.link)
    }
}

pub(super) fn status(shared: &Shared, viewer: Viewer) -> DaemonStatus {
    let (facts, registry) = (&shared.facts, &shared.registry);
    DaemonStatus {
        schema: SCHEMA_VERSION,
        generated_at: Timestamp::now().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        worker: Some(facts.greeted.program.clone()),
        keeper: Some(facts.greeted.keeper.clone()),
        keeper_pid: facts.greeted.keeper_pid,
        worker_pid: std::process::id(),
        generation: facts.greeted.generation,
        restarts: facts.greeted.history.deaths(),
        events: events(facts, viewer),
        upgrades: facts.greeted.history.upgrades(),
        resent_requests: registry.resent_requests(),
        started_at: facts.started_at.to_string(),
        state_dir: facts.state_dir.clone(),
        runtime_dir: facts.runtime_dir.clone(),
        config: facts.config.clone(),
        roots: registry.roots(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        open_fds: open_fds(),
        fd_limit: rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        resident_bytes: resident_bytes(),
        delivery: delivery(shared, viewer),
        warnings: crash_loop_warning(facts).into_iter().chain(registry.warnings(viewer)).collect(),
        workspaces: registry.list(viewer),
    }
}

/// Errors name addresses and urls.
fn delivery(shared: &Shared, viewer: Viewer) -> Vec<DeliveryStatus> {
    let mut channels = shared.delivery.status();
    if viewer != Viewer::Root {
        channels.iter_mut().for_each(|channel| channel.last_error = None);
    }
    channels
}

/// Log lines name what belongs to other users.
fn events(facts: &WorkerFacts, viewer: Viewer) -> Vec<WorkerEvent> {
    let mut events = facts.greeted.history.events();
    if viewer != Viewer::Root {
        events.iter_mut().for_each(|event| event.log.clear());
    }
    events
}

/// Workers that die right after their start, again and again, show nothing else than this in the moments in
/// between.
fn crash_loop_warning(facts: &WorkerFacts) -> Option<String> {
    let deaths = facts.greeted.history.young_deaths();
    let is_new = Timestamp::now().duration_since(facts.started_at) < CRASH_LOOP_SHOWN;
    if deaths < 2 || !is_new {
        return None;
    }
    let last =
        facts.greeted.history.events().pop().map_or_else(String::new, |event| format!(" ({})", event.reason));
    Some(format!("the worker died {deaths} times right after its start{last}; see the daemon's log"))
}

/// The directory that is read is open itself and not counted.
pub(super) fn open_fds() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1) as u64)
}

pub(super) fn resident_bytes() -> u64 {
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
