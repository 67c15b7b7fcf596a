//! What a run leaves on the machine, and its removal on every way out.
//!
//! One registry per process holds the daemons that were started and the directories that were made.
//! [`end_everything`] is the only teardown: the end of `main`, a stop signal and a stuck row all come here,
//! on whichever thread notices first. Nothing is deleted while a mount is still visible below it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    mount::UnmountFlags,
    process::{Pid, Signal},
};

/// How long a daemon may take to end by itself. wsguard promises 10 s.
const END_LIMIT: Duration = Duration::from_secs(12);

#[derive(Default)]
struct Registry {
    daemons: Vec<Daemon>,
    directories: Vec<PathBuf>,
}

struct Daemon {
    variant: String,
    pid: Pid,
    mount_point: PathBuf,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { daemons: Vec::new(), directories: Vec::new() });

fn registry() -> MutexGuard<'static, Registry> {
    // A panic elsewhere must not keep us from cleaning up; the lists are valid after each push.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes a daemon that leads its own process group, and where it mounts.
pub(crate) fn add_daemon(variant: &str, pid: Pid, mount_point: &Path) {
    registry().daemons.push(Daemon { variant: variant.to_owned(), pid, mount_point: mount_point.to_owned() });
}

/// Notes a directory to remove with all it holds.
pub(crate) fn add_directory(path: &Path) {
    registry().directories.push(path.to_owned());
}

/// Kills one variant's daemons and detaches its mount, so that a call stuck in it returns.
pub(crate) fn kill_variant(variant: &str) {
    let registry = registry();
    for daemon in registry.daemons.iter().filter(|daemon| daemon.variant == variant) {
        kill_group(daemon.pid);
        // Not mounted any more is what we want.
        rustix::mount::unmount(&daemon.mount_point, UnmountFlags::DETACH).ok();
    }
}

/// Ends all daemons, takes away all mounts, and removes all directories.
///
/// # Errors
/// If a mount stays below a directory that was to be removed: that directory is left, and named.
pub(crate) fn end_everything() -> Result<()> {
    let mut registry = registry();
    for daemon in &registry.daemons {
        // Gone already is what we want.
        rustix::process::kill_process(daemon.pid, Signal::TERM).ok();
    }
    let limit = Instant::now() + END_LIMIT;
    while registry.daemons.iter().any(|daemon| is_running(daemon.pid)) && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(20));
    }
    for daemon in registry.daemons.drain(..) {
        kill_group(daemon.pid);
        // Reaps it; another's child or one that is reaped already is not our concern.
        rustix::process::waitpid(Some(daemon.pid), rustix::process::WaitOptions::NOHANG).ok();
    }
    // One that cannot be removed does not keep the others.
    let removed: Vec<_> = registry.directories.drain(..).map(|directory| remove(&directory)).collect();
    removed.into_iter().collect()
}

fn kill_group(pid: Pid) {
    // Gone already is what we want; the group holds the workers of a daemon that died before them.
    rustix::process::kill_process_group(pid, Signal::KILL).ok();
}

fn remove(directory: &Path) -> Result<()> {
    for mount in mounts_below(directory)?.iter().rev() {
        rustix::mount::unmount(mount, UnmountFlags::DETACH)
            .with_context(|| format!("cannot unmount {mount:?}"))?;
    }
    let left = mounts_below(directory)?;
    if !left.is_empty() {
        bail!("{directory:?} is not removed, because {left:?} is still mounted below it");
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {directory:?}"))
        }
        _ => Ok(()),
    }
}

/// Returns whether the process exists and is more than a zombie.
pub(crate) fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The command name in parentheses may hold anything: the state follows the last one (proc(5)).
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

/// Returns the mount points at or below `directory`, in the order they were mounted, without touching any.
pub(crate) fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot list the mounts")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(directory)).collect())
}

/// Undoes the octal escapes of proc(5) for blanks and backslashes.
fn unescape(text: &str) -> PathBuf {
    PathBuf::from(
        text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"),
    )
}
