//! Giving containers their workspace back after its superblock died and another one took its place.
//!
//! A container that has a workspace bound has a mount of its own, in its own mount namespace, of the superblock
//! that was there when it started. What is mounted on the host afterwards never reaches it. [`rebind`] looks through
//! every mount namespace for mounts of superblocks that are known to be ours and dead, and puts a clone of the new
//! mount in the place of each: beneath the dead one first, so that the place never shows what lies below.
//!
//! Nothing is believed by its name. A mount is chosen by its id and its superblock's number, its place is opened
//! without following a symbolic link and compared with that id, the superblock must answer ENOTCONN itself, and the
//! process whose namespace is entered is held by a pidfd while it is looked at. Anything else in the namespace stays
//! as it is.
//!
//! What it does not do: files that are open on the dead superblock, and working directories there, stay dead.
//!
//! The driver's thread calls it. Each namespace is entered by a thread of its own that ends afterwards; one that
//! hangs there is left behind.

mod namespace;
mod plan;
mod repair;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::mounting::mountinfo::{DeviceNumber, MountEntry};

use namespace::Namespace;
use plan::DeadMount;
use repair::Repaired;

/// How long one group of namespaces may take.
const GROUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Namespaces that are repaired at the same time.
const GROUP: usize = 16;

/// A superblock of a workspace.
///
/// The name keeps workspaces apart: a number that is free again may be given to a superblock of another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Superblock {
    pub(crate) device: DeviceNumber,
    /// What the workspace was called when it was mounted.
    pub(crate) name: String,
}

impl Superblock {
    /// Returns the superblock of a wsguard mount.
    pub(crate) fn of(entry: &MountEntry) -> Option<Self> {
        let name = entry.workspace_name().filter(|_| entry.is_wsguard())?;
        Some(Self { device: entry.device, name: name.to_owned() })
    }

    /// Parses `major:minor`.
    pub(crate) fn named(device: &str, name: &str) -> Option<Self> {
        Some(Self { device: DeviceNumber::parse(device)?, name: name.to_owned() })
    }
}

/// A workspace that has a new superblock.
#[derive(Debug)]
pub(crate) struct Superseded {
    /// The workspace's id.
    pub(crate) workspace: String,
    /// Superblocks that it had before. They may be gone, and their numbers may be somebody else's by now.
    pub(crate) former: BTreeSet<Superblock>,
    /// The root of its new mount.
    pub(crate) root: OwnedFd,
}

/// What is left of a workspace's former superblocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remainder {
    /// Those that are still mounted somewhere, dead or alive.
    pub(crate) superblocks: BTreeSet<Superblock>,
    /// Who still has a dead one, and why; one line each.
    pub(crate) failures: Vec<String>,
}

/// What became of one dead mount.
type Attempt = (DeadMount, Result<Repaired, String>);

/// Replaces every dead mount of a former superblock in every other mount namespace. Returns for each workspace that
/// has something left what that is.
///
/// # Errors
/// `/proc` cannot be read; nothing was done then.
pub(crate) fn rebind(superseded: Vec<Superseded>) -> std::io::Result<BTreeMap<String, Remainder>> {
    let former: BTreeSet<Superblock> =
        superseded.iter().flat_map(|workspace| &workspace.former).cloned().collect();
    let mut remainders = BTreeMap::new();
    if former.is_empty() {
        return Ok(remainders);
    }
    let found = namespace::find(&former)?;
    let superseded = Arc::new(superseded);
    for group in found.chunks(GROUP) {
        let attempts: Vec<(&Namespace, Receiver<Vec<Attempt>>)> =
            group.iter().map(|namespace| (namespace, start(namespace, &superseded))).collect();
        let deadline = Instant::now() + GROUP_TIMEOUT;
        for (namespace, attempts) in attempts {
            let patience = deadline.saturating_duration_since(Instant::now());
            let attempts = attempts.recv_timeout(patience).unwrap_or_else(|_| unanswered(namespace));
            note(namespace, attempts, &superseded, &mut remainders);
        }
    }
    Ok(remainders)
}

/// Repairs a namespace on a thread that may enter it; the thread belongs to that namespace from then on.
fn start(namespace: &Namespace, superseded: &Arc<Vec<Superseded>>) -> Receiver<Vec<Attempt>> {
    let (done, attempts) = channel();
    let (entered, superseded) = (namespace.clone(), Arc::clone(superseded));
    let started = std::thread::Builder::new().name("rebind".to_owned()).spawn(move || {
        // Nobody listens any more if it took too long.
        done.send(repair::repair(&entered, &superseded)).ok();
    });
    if let Err(error) = started {
        // The channel is closed, which is told as a failure.
        warn!(error = %error, "no thread to repair a container's mounts");
    }
    attempts
}

fn unanswered(namespace: &Namespace) -> Vec<Attempt> {
    let reason = format!("it took longer than {} s", GROUP_TIMEOUT.as_secs());
    plan::dead_mounts(&namespace.table, &namespace.former)
        .into_iter()
        .map(|dead| (dead, Err(reason.clone())))
        .collect()
}

fn note(
    namespace: &Namespace,
    attempts: Vec<Attempt>,
    superseded: &[Superseded],
    remainders: &mut BTreeMap<String, Remainder>,
) {
    let workspace_of = |superblock: &Superblock| {
        let found = superseded.iter().find(|workspace| workspace.former.contains(superblock));
        found.map(|found| found.workspace.clone())
    };
    let mut left: BTreeMap<u64, Superblock> = plan::mounts(&namespace.table, &namespace.former)
        .map(|(entry, superblock)| (entry.id, superblock))
        .collect();
    for (dead, result) in attempts {
        let Some(workspace) = workspace_of(&dead.superblock) else { continue };
        let path = dead.mount_point.display();
        match result {
            Ok(Repaired::Replaced) => {
                info!(workspace, container = namespace.container, pid = namespace.pid, path = %path, "workspace is bound again");
                left.remove(&dead.id);
            }
            Ok(Repaired::Gone) => {
                left.remove(&dead.id);
            }
            Ok(Repaired::Alive) => {}
            Err(reason) => {
                let failure = format!("{} has a dead mount at {path}: {reason}", namespace.who());
                remainders.entry(workspace).or_default().failures.push(failure);
            }
        }
    }
    for superblock in left.into_values() {
        if let Some(workspace) = workspace_of(&superblock) {
            remainders.entry(workspace).or_default().superblocks.insert(superblock);
        }
    }
}

/// Where a descriptor of the calling thread is found, seen from `/proc`.
fn own_descriptor(kind: &str, fd: std::os::fd::RawFd) -> PathBuf {
    PathBuf::from("thread-self").join(kind).join(fd.to_string())
}
