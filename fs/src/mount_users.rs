//! Who still uses a superblock: processes in this mount namespace, and mounts in others.
//!
//! Read from `/proc` without a request to the superblock itself, so a dead or hanging one can be asked about,
//! too. A process that ends meanwhile is left out; one of another pid namespace's children is seen under its
//! pid here.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags};
use wsguard_api::MountUser;

use crate::mounting::mountinfo::{DeviceNumber, MountTable};

/// Users that are listed at most; there may be thousands of threads' worth of them.
const MOST_USERS: usize = 100;

/// Characters of a container's id that are shown, as `docker ps` does.
const CONTAINER_ID_SHOWN: usize = 12;

/// Fewest hexadecimal digits that make a path component a container's id.
const CONTAINER_ID_LENGTH: usize = 64;

/// Returns the processes that hold something on `device`, and one process for each other mount namespace in
/// which it is mounted. The processes in `but` are left out.
pub(crate) fn find(device: DeviceNumber, but: &[u32]) -> Vec<MountUser> {
    let own_namespace = std::fs::read_link("/proc/self/ns/mnt").ok();
    let mut seen: BTreeSet<PathBuf> = own_namespace.into_iter().collect();
    let mut users = Vec::new();
    for pid in processes() {
        if but.contains(&pid) {
            continue;
        }
        if users.len() >= MOST_USERS {
            break;
        }
        let process = Path::new("/proc").join(pid.to_string());
        let mut holds = held(&process, device);
        if has_mount_elsewhere(&process, device, &mut seen) {
            holds.insert("mount in its namespace");
        }
        users.extend(holds.into_iter().map(|what| MountUser {
            pid,
            command: command(&process),
            container: container(&process),
            holds: what.to_owned(),
        }));
    }
    users
}

fn processes() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

fn held(process: &Path, device: DeviceNumber) -> BTreeSet<&'static str> {
    let mut holds = BTreeSet::new();
    for (link, what) in [("cwd", "working directory"), ("root", "root"), ("exe", "memory map")] {
        if is_on(&process.join(link), device) {
            holds.insert(what);
        }
    }
    let fds = std::fs::read_dir(process.join("fd"));
    if fds.is_ok_and(|mut fds| fds.any(|fd| fd.is_ok_and(|fd| is_on(&fd.path(), device)))) {
        holds.insert("open file");
    }
    if maps(process, device) {
        holds.insert("memory map");
    }
    holds
}

/// With DONT_SYNC and no fields asked for, the kernel answers from what it has: the device is always there.
fn is_on(link: &Path, device: DeviceNumber) -> bool {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(CWD, link, flags, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_dev_major == device.major && stat.stx_dev_minor == device.minor)
}

/// The fourth field of a line of maps is the device, hexadecimal.
fn maps(process: &Path, device: DeviceNumber) -> bool {
    let Ok(text) = std::fs::read(process.join("maps")) else { return false };
    let wanted = format!("{:02x}:{:02x}", device.major, device.minor);
    text.split(|byte| *byte == b'\n')
        .any(|line| line.split(|byte| *byte == b' ').nth(3) == Some(wanted.as_bytes()))
}

/// Looks once at each mount namespace.
fn has_mount_elsewhere(process: &Path, device: DeviceNumber, seen: &mut BTreeSet<PathBuf>) -> bool {
    let Ok(namespace) = std::fs::read_link(process.join("ns/mnt")) else { return false };
    if !seen.insert(namespace) {
        return false;
    }
    MountTable::read_from(&process.join("mountinfo"))
        .is_ok_and(|table| table.of_device(device).next().is_some())
}

fn command(process: &Path) -> String {
    std::fs::read(process.join("comm"))
        .map(|name| String::from_utf8_lossy(&name).trim_end().to_owned())
        .unwrap_or_else(|_| "?".to_owned())
}

fn container(process: &Path) -> Option<String> {
    container_in(&std::fs::read_to_string(process.join("cgroup")).ok()?)
}

/// Finds the id in a cgroup path such as `/docker/<id>` or `/system.slice/docker-<id>.scope`.
fn container_in(cgroup: &str) -> Option<String> {
    cgroup
        .split(['/', '\n', '-', '.', ':'])
        .rfind(|part| part.len() == CONTAINER_ID_LENGTH && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map(|id| id.chars().take(CONTAINER_ID_SHOWN).collect())
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
    fn container_id_is_found_in_both_cgroup_layouts() {
        let id = "0123456789abcdef".repeat(4);
        for cgroup in
            [format!("12:pids:/docker/{id}\n1:name=x:/\n"), format!("0::/system.slice/docker-{id}.scope\n")]
        {
            assert_eq!(container_in(&cgroup).as_deref(), Some("0123456789ab"));
        }
        assert_eq!(container_in("0::/user.slice/user-1000.slice\n"), None);
    }

    #[test]
    fn open_file_of_another_process_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let device =
            DeviceNumber { major: rustix::fs::major(stat.st_dev), minor: rustix::fs::minor(stat.st_dev) };
        let holds = held(Path::new("/proc/self"), device);
        assert!(holds.contains("open file"), "{holds:?}");
    }
}
