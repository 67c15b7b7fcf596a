//! Whether the mount table of this machine agrees with the daemon.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use wsguard_api::{DaemonStatus, WorkspaceState};

use crate::commands::doctor::check::Check;
use crate::commands::doctor::mount_table::{GUARD_TYPE, MountEntry};
use crate::commands::doctor::probe;
use crate::target::quoted;

/// How long a mount may take to say that it is alive.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Names at the root of a workspace that are ours.
const VIRTUAL: [&str; 2] = [".wsguard", ".snapshots"];

/// The check for entries of these names.
const SHADOWED: &str = "workspace.shadowed";

/// How a guarded mount answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulse {
    Alive,
    Dead,
    Silent,
    Unknown,
}

/// Compares the mount table with what the daemon says it holds.
pub(super) fn checks(mounts: &[MountEntry], status: Option<&DaemonStatus>) -> Vec<Check> {
    let mut checks = status.map(|status| missing(mounts, status)).unwrap_or_default();
    checks.extend(status.map(shadowed).unwrap_or_default());
    let owned = owned_devices(mounts, status);
    let mut strangers: Vec<&MountEntry> = Vec::new();
    for mount in
        mounts.iter().filter(|mount| mount.filesystem == GUARD_TYPE && !owned.contains(&mount.device))
    {
        if !strangers.iter().any(|known| known.mount_point == mount.mount_point) {
            strangers.push(mount);
        }
    }
    checks.extend(strangers.iter().map(|mount| stranger(mount, pulse(mount.mount_point.clone()))));
    if checks.iter().all(|check| check.id == SHADOWED) {
        checks.push(Check::ok("mounts.table", "every guarded mount in the mount table has its daemon"));
    }
    checks
}

/// Returns the devices of the mounts that the daemon holds; binds of them elsewhere share the device.
fn owned_devices(mounts: &[MountEntry], status: Option<&DaemonStatus>) -> BTreeSet<String> {
    let workspaces = status.map(|status| status.workspaces.as_slice()).unwrap_or_default();
    let is_place = |mount: &&MountEntry| {
        workspaces.iter().any(|w| w.source == mount.mount_point || w.mount_point == mount.mount_point)
    };
    mounts
        .iter()
        .filter(|mount| mount.filesystem == GUARD_TYPE)
        .filter(is_place)
        .map(|mount| mount.device.clone())
        .collect()
}

/// Finds workspaces that the daemon calls mounted and this mount namespace does not have.
fn missing(mounts: &[MountEntry], status: &DaemonStatus) -> Vec<Check> {
    let is_mounted = |path: &PathBuf| {
        mounts.iter().any(|mount| mount.filesystem == GUARD_TYPE && mount.mount_point == *path)
    };
    let called_mounted = status.workspaces.iter().filter(|w| matches!(w.state, WorkspaceState::Mounted));
    called_mounted
        .filter(|workspace| !is_mounted(&workspace.mount_point))
        .map(|workspace| {
            Check::problem(
                "mounts.missing",
                format!("{} shows the plain files here: its mount is not in this mount table", workspace.mount_point.display()),
                format!(
                    "run this command in the daemon's mount namespace; there, mount it anew: `wsguard umount {}`, `wsguard mount {}`",
                    workspace.id,
                    quoted(workspace.dir.as_os_str())
                ),
            )
            .about(&workspace.name)
        })
        .collect()
}

/// Finds entries of users that hide ours: a virtual one is never listed, so what is listed is real.
fn shadowed(status: &DaemonStatus) -> Vec<Check> {
    let mounted = status.workspaces.iter().filter(|w| matches!(w.state, WorkspaceState::Mounted));
    mounted
        .flat_map(|workspace| {
            let root = workspace.mount_point.clone();
            let listed = probe::within(PROBE_LIMIT, move || own_entries(&root)).unwrap_or_default();
            listed.into_iter().map(|name| {
                Check::warning(
                    SHADOWED,
                    format!("the user's own {name} hides what wsguard shows under that name"),
                    format!("rename {}", quoted(workspace.mount_point.join(name).as_os_str())),
                )
                .about(&workspace.name)
            })
        })
        .collect()
}

/// Returns the names of ours that are listed in a directory; none if it cannot be read.
fn own_entries(root: &Path) -> Vec<&'static str> {
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    let names: Vec<std::ffi::OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
    VIRTUAL.into_iter().filter(|known| names.iter().any(|name| name == known)).collect()
}

fn stranger(mount: &MountEntry, pulse: Pulse) -> Check {
    let place = quoted(mount.mount_point.as_os_str());
    let check = match pulse {
        Pulse::Alive => Check::info("mounts.other", "guarded by another daemon"),
        Pulse::Unknown => Check::info("mounts.other", "guarded by a daemon that this user cannot ask"),
        Pulse::Dead => Check::problem(
            "mounts.stale",
            "a guarded mount without a daemon: every access fails with ENOTCONN",
            format!("start the daemon that left it, which mounts it anew, or run `umount -l {place}`"),
        ),
        Pulse::Silent => Check::problem(
            "mounts.silent",
            format!(
                "a guarded mount that does not answer within {} s: every access waits",
                PROBE_LIMIT.as_secs()
            ),
            format!(
                "look for its daemon (stopped, or waiting for a disk); as a last resort run `umount -f {place}`"
            ),
        ),
    };
    check.about(mount.mount_point.to_string_lossy())
}

fn pulse(mount_point: PathBuf) -> Pulse {
    match probe::within(PROBE_LIMIT, move || rustix::fs::statfs(&mount_point)) {
        None => Pulse::Silent,
        Some(Ok(_)) => Pulse::Alive,
        Some(Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::IO)) => Pulse::Dead,
        Some(Err(_)) => Pulse::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::check::Level;

    fn mount(device: &str, mount_point: &str) -> MountEntry {
        MountEntry {
            device: device.into(),
            mount_point: mount_point.into(),
            filesystem: GUARD_TYPE.into(),
            source: "wsguard".into(),
        }
    }

    #[test]
    fn a_mount_without_daemon_is_judged_by_its_pulse() {
        let level = |pulse| stranger(&mount("0:77", "/m/a"), pulse).level;
        assert_eq!(level(Pulse::Alive), Level::Info);
        assert_eq!(level(Pulse::Dead), Level::Problem);
        assert_eq!(level(Pulse::Silent), Level::Problem);
    }

    #[test]
    fn entries_that_hide_ours_are_found_by_being_listed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(own_entries(dir.path()), Vec::<&str>::new());
        std::fs::create_dir(dir.path().join(".wsguard")).unwrap();
        std::fs::write(dir.path().join(".snapshots"), "").unwrap();
        assert_eq!(own_entries(dir.path()), VIRTUAL);
        assert_eq!(own_entries(Path::new("/nonexistent")), Vec::<&str>::new());
    }

    #[test]
    fn no_guarded_mounts_are_fine() {
        let plain = MountEntry { filesystem: "ext4".into(), ..mount("254:0", "/") };
        assert_eq!(checks(&[plain], None)[0].level, Level::Ok);
    }
}
