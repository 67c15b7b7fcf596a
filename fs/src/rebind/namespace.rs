//! The mount namespaces of other processes that have a mount of a former superblock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Superblock, plan};
use crate::mounting::mountinfo::MountTable;
use crate::processes;

/// A mount namespace, as one of its processes shows it.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    pub(super) pid: u32,
    /// The short id of the container that the process runs in.
    pub(super) container: Option<String>,
    /// The superblocks that were looked for.
    pub(super) former: BTreeSet<Superblock>,
    pub(super) table: MountTable,
    /// What `/proc/<pid>/ns/mnt` points to.
    link: PathBuf,
}

impl Namespace {
    /// Says whose it is.
    pub(super) fn who(&self) -> String {
        match &self.container {
            Some(container) => format!("container {container}"),
            None => format!("the mount namespace of process {}", self.pid),
        }
    }

    /// Opens the namespace, once it is certain that the process is still the one that was looked at.
    ///
    /// # Errors
    /// The process has ended, or is in another container or namespace now; one line.
    pub(super) fn open(&self) -> Result<OwnedFd, String> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).ok_or("its pid is out of range")?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|errno| format!("process {} cannot be held: {errno}", self.pid))?;
        let directory = processes::directory(self.pid);
        let opened = File::open(directory.join("ns/mnt"))
            .map_err(|error| format!("its namespace cannot be opened: {error}"))?;
        let is_same = std::fs::read_link(directory.join("ns/mnt")).is_ok_and(|link| link == self.link)
            && processes::container(&directory) == self.container;
        // As long as it lives nobody else has its pid, so all that was read above is about it.
        if !is_same || has_ended(&pidfd) {
            return Err(format!("process {} is not the same any more", self.pid));
        }
        Ok(opened.into())
    }
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    !matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0))
}

/// Returns every mount namespace but our own in which a superblock of `former` is mounted.
pub(super) fn find(former: &BTreeSet<Superblock>) -> std::io::Result<Vec<Namespace>> {
    let own = std::fs::read_link("/proc/self/ns/mnt")?;
    let mut seen: BTreeMap<PathBuf, Vec<u32>> = BTreeMap::new();
    for pid in processes::all() {
        // One that has just ended has none.
        let Ok(link) = std::fs::read_link(processes::directory(pid).join("ns/mnt")) else { continue };
        if link != own {
            seen.entry(link).or_default().push(pid);
        }
    }
    Ok(seen.into_iter().filter_map(|(link, pids)| look(link, &pids, former)).collect())
}

/// Takes the first process that sees the whole namespace; one below chroot(2) has a table of what it sees only.
fn look(link: PathBuf, pids: &[u32], former: &BTreeSet<Superblock>) -> Option<Namespace> {
    let sees_all = |pid: &&u32| {
        std::fs::read_link(processes::directory(**pid).join("root")).is_ok_and(|root| root == Path::new("/"))
    };
    let whole = pids.iter().filter(sees_all);
    let (pid, table) = whole.chain(pids).find_map(|pid| {
        let table = MountTable::read_from(&processes::directory(*pid).join("mountinfo")).ok()?;
        (!table.entries().is_empty()).then_some((*pid, table))
    })?;
    plan::mounts(&table, former).next()?;
    let container = processes::container(&processes::directory(pid));
    Some(Namespace { pid, container, former: former.clone(), table, link })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespace_is_never_found() {
        let table = MountTable::read().unwrap();
        let all = table.entries().iter().filter_map(Superblock::of).collect();
        let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        assert!(find(&all).unwrap().iter().all(|namespace| namespace.link != own));
    }

    #[test]
    fn process_that_is_another_one_by_now_is_not_entered() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let link = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        let container = processes::container(Path::new("/proc/self"));
        let table = MountTable::default();
        let namespace = Namespace { pid: child.id(), container, former: BTreeSet::new(), table, link };
        namespace.open().unwrap();
        let elsewhere = Namespace { link: "mnt:[1]".into(), ..namespace.clone() };
        elsewhere.open().unwrap_err();
        let moved = Namespace { container: Some("another".into()), ..namespace.clone() };
        moved.open().unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        namespace.open().unwrap_err();
    }
}
