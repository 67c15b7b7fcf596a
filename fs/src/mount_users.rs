//! Who still uses a superblock: processes in this mount namespace, and mounts in others.
//!
//! Read from `/proc` without a request to the superblock itself, so a dead or hanging one can be asked about,
//! too. A process that ends meanwhile is left out; one of another pid namespace's children is seen under its
//! pid here.

mod plain;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use wsguard_api::MountUser;

pub(crate) use plain::{Bypassing, PlainDirectory, Writer, bypassing};

use crate::mounting::mountinfo::{DeviceNumber, MountTable};
use crate::processes;

/// Users that are listed at most; there may be thousands of threads' worth of them.
const MOST_USERS: usize = 100;

/// Returns for each of `devices`, in their order, the processes that hold something on it, and one process for
/// each other mount namespace in which it is mounted. The processes in `but` are left out.
pub(crate) fn find(devices: &[DeviceNumber], but: &[u32]) -> Vec<Vec<MountUser>> {
    let own_namespace = std::fs::read_link("/proc/self/ns/mnt").ok();
    let mut seen: BTreeSet<PathBuf> = own_namespace.into_iter().collect();
    let mut users = vec![Vec::new(); devices.len()];
    for pid in processes::all() {
        if but.contains(&pid) {
            continue;
        }
        let process = processes::directory(pid);
        let mut holds = held(&process);
        for device in mounted_elsewhere(&process, &mut seen) {
            holds.entry(device).or_default().insert("mount in its namespace");
        }
        for (device, users) in devices.iter().zip(&mut users) {
            add_users(users, pid, &process, holds.get(device).into_iter().flatten());
        }
    }
    users
}

/// Returns a process, the first one, of each container in whose mount namespace one of `devices` is mounted.
pub(crate) fn containers(devices: &[DeviceNumber]) -> Vec<u32> {
    let own_namespace = std::fs::read_link("/proc/self/ns/mnt").ok();
    let mut seen: BTreeSet<PathBuf> = own_namespace.into_iter().collect();
    let has_one = |pid: &u32| {
        let process = processes::directory(*pid);
        let mounted = mounted_elsewhere(&process, &mut seen);
        devices.iter().any(|device| mounted.contains(device)) && processes::container(&process).is_some()
    };
    processes::all().into_iter().filter(has_one).collect()
}

fn add_users<'a>(
    users: &mut Vec<MountUser>,
    pid: u32,
    process: &Path,
    holds: impl Iterator<Item = &'a &'static str>,
) {
    let mut holds = holds.take(MOST_USERS.saturating_sub(users.len())).peekable();
    if holds.peek().is_none() {
        return;
    }
    // One that has ended meanwhile holds nothing any more.
    let Some(command) = processes::command(process) else { return };
    let container = processes::container(process);
    users.extend(holds.map(|what| MountUser {
        pid,
        command: command.clone(),
        container: container.clone(),
        holds: (*what).to_owned(),
    }));
}

/// What a process holds on each superblock.
type Holds = BTreeMap<DeviceNumber, BTreeSet<&'static str>>;

fn held(process: &Path) -> Holds {
    let mut holds = Holds::new();
    let mut add = |link: &Path, what| {
        if let Some(device) = device_of(link) {
            holds.entry(device).or_default().insert(what);
        }
    };
    for (link, what) in [("cwd", "working directory"), ("root", "root"), ("exe", "memory map")] {
        add(&process.join(link), what);
    }
    // One that just ends, or a thread of the kernel.
    let fds = std::fs::read_dir(process.join("fd")).into_iter().flatten();
    for fd in fds.filter_map(Result::ok) {
        add(&fd.path(), "open file");
    }
    for device in mapped(process) {
        holds.entry(device).or_default().insert("memory map");
    }
    holds
}

/// With DONT_SYNC and no fields asked for, the kernel answers from what it has: the device is always there.
fn device_of(link: &Path) -> Option<DeviceNumber> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(CWD, link, flags, StatxFlags::empty()).ok()?;
    Some(DeviceNumber { major: stat.stx_dev_major, minor: stat.stx_dev_minor })
}

/// The fourth field of a line of maps is the device, hexadecimal.
fn mapped(process: &Path) -> BTreeSet<DeviceNumber> {
    let text = std::fs::read(process.join("maps")).unwrap_or_default();
    let device = |line: &[u8]| {
        let field = line.split(|byte| *byte == b' ').nth(3)?;
        let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
        let number = |digits| u32::from_str_radix(digits, 16).ok();
        Some(DeviceNumber { major: number(major)?, minor: number(minor)? })
    };
    text.split(|byte| *byte == b'\n').filter_map(device).collect()
}

/// Looks once at each mount namespace for the superblocks that are mounted in it.
fn mounted_elsewhere(process: &Path, seen: &mut BTreeSet<PathBuf>) -> BTreeSet<DeviceNumber> {
    let Ok(namespace) = std::fs::read_link(process.join("ns/mnt")) else { return BTreeSet::new() };
    if seen.contains(&namespace) {
        return BTreeSet::new();
    }
    // One that just ends has no table; another process may show the same namespace.
    let Ok(table) = MountTable::read_from(&process.join("mountinfo")) else { return BTreeSet::new() };
    seen.insert(namespace);
    table.entries().iter().filter(|entry| entry.is_wsguard()).map(|entry| entry.device).collect()
}

/// Returns the users as one line for a log.
pub(crate) fn summary(users: &[MountUser]) -> String {
    let mut text = OsString::new();
    for (index, user) in users.iter().enumerate() {
        if index > 0 {
            text.push(", ");
        }
        text.push(format!("{} ({}): {}", user.command, user.pid, user.holds));
    }
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_file_of_another_process_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let device =
            DeviceNumber { major: rustix::fs::major(stat.st_dev), minor: rustix::fs::minor(stat.st_dev) };
        let holds = held(Path::new("/proc/self"));
        assert!(holds[&device].contains("open file"), "{holds:?}");
    }
}
