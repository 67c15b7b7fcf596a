//! Processes as `/proc` shows them.

use std::path::{Path, PathBuf};

/// Characters of a container's id that are shown, as `docker ps` does.
const CONTAINER_ID_SHOWN: usize = 12;

/// Fewest hexadecimal digits that make a path component a container's id.
const CONTAINER_ID_LENGTH: usize = 64;

/// Returns the pids of all processes, ascending.
pub(crate) fn all() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// Returns the process's directory below `/proc`.
pub(crate) fn directory(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// Returns the process's command name, or `None` if it has ended.
pub(crate) fn command(process: &Path) -> Option<String> {
    let name = std::fs::read(process.join("comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

/// Returns the short id of the container that the process runs in.
pub(crate) fn container(process: &Path) -> Option<String> {
    let id = container_id(process)?;
    Some(id.get(..CONTAINER_ID_SHOWN).unwrap_or(&id).to_owned())
}

/// Returns the whole id of the container that the process runs in.
pub(crate) fn container_id(process: &Path) -> Option<String> {
    container_in(&std::fs::read_to_string(process.join("cgroup")).ok()?).map(str::to_owned)
}

/// Finds the id in a cgroup path such as `/docker/<id>` or `/system.slice/docker-<id>.scope`. Of a container in a
/// container it is the inner one.
fn container_in(cgroup: &str) -> Option<&str> {
    cgroup
        .split(['/', '\n', '-', '.', ':'])
        .rfind(|part| part.len() == CONTAINER_ID_LENGTH && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
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
            assert_eq!(container_in(&cgroup), Some(id.as_str()));
        }
        let (outer, inner) = ("a".repeat(64), "b".repeat(64));
        assert_eq!(container_in(&format!("0::/docker/{outer}/docker/{inner}\n")), Some(inner.as_str()));
        assert_eq!(container_in("0::/user.slice/user-1000.slice\n"), None);
    }
}
