//! The machine as a whole: caches, processors, memory, and how it is named in a report.

use std::{fs, io, time::Duration};

use anyhow::{Context, Result};
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use serde::{Deserialize, Serialize};

/// Which caches a row wants empty before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caches {
    /// Nothing is dropped.
    Keep,
    /// Dentries and inodes (`drop_caches` 2).
    DropMetadata,
    /// The page cache too (`drop_caches` 3).
    DropAll,
}

impl Caches {
    /// Drops what the row wants dropped, and waits until the daemons have worked off the FORGETs of it.
    pub(crate) fn apply(self) -> Result<()> {
        let level = match self {
            Self::Keep => return Ok(()),
            Self::DropMetadata => "2",
            Self::DropAll => "3",
        };
        fs::write("/proc/sys/vm/drop_caches", level)
            .context("cannot drop caches: the benchmark must run as root")?;
        std::thread::sleep(Duration::from_millis(60));
        Ok(())
    }
}

/// Keeps this process and the given daemons on one processor until dropped.
///
/// Wake-ups then never cross processors, which is the placement that the latency goals are stated for.
pub(crate) struct OneCpu {
    tasks: Vec<Pid>,
    before: CpuSet,
}

impl OneCpu {
    /// Pins every thread of `daemons` and the calling thread to the last processor we may use.
    pub(crate) fn pin(daemons: &[Pid]) -> Result<Self> {
        let before = sched_getaffinity(None)?;
        let last = (0..CpuSet::MAX_CPU)
            .rev()
            .find(|&cpu| before.is_set(cpu))
            .context("no processor is allowed to us")?;
        let mut only = CpuSet::new();
        only.set(last);
        let mut pinned = Self { tasks: Vec::new(), before };
        for &pid in daemons {
            for task in tasks_of(pid)? {
                sched_setaffinity(Some(task), &only).with_context(|| format!("cannot pin thread {task}"))?;
                pinned.tasks.push(task);
            }
        }
        sched_setaffinity(None, &only)?;
        Ok(pinned)
    }
}

impl Drop for OneCpu {
    fn drop(&mut self) {
        // A thread that ended meanwhile has no placement to restore; nothing else can fail here.
        for task in self.tasks.drain(..) {
            sched_setaffinity(Some(task), &self.before).ok();
        }
        sched_setaffinity(None, &self.before).ok();
    }
}

fn tasks_of(pid: Pid) -> Result<Vec<Pid>> {
    let dir = format!("/proc/{}/task", pid.as_raw_nonzero());
    let mut tasks = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {dir}"))? {
        let name = entry?.file_name();
        let task = name.to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
        tasks.push(task.with_context(|| format!("{dir} holds {name:?}, which is no thread id"))?);
    }
    Ok(tasks)
}

/// Touches memory once: a virtual machine's first touch of a page costs ten times a later one.
pub(crate) fn touch_memory_once(limit_bytes: u64) -> Result<()> {
    let wanted = (meminfo("MemAvailable:")? / 2).min(limit_bytes);
    let len = usize::try_from(wanted).context("memory to touch does not fit the address space")?;
    let mut pages = vec![0_u8; len];
    for page in pages.chunks_mut(4096) {
        if let Some(byte) = page.first_mut() {
            *byte = 1;
        }
    }
    std::hint::black_box(&pages);
    Ok(())
}

fn meminfo(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find(|line| line.starts_with(field))
        .with_context(|| format!("no {field} in /proc/meminfo"))?;
    let kib: u64 =
        line.split_whitespace().nth(1).context("a line of /proc/meminfo without a number")?.parse()?;
    Ok(kib * 1024)
}

/// The machine as a report names it: nothing that identifies it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Processors this process may run on.
    pub(crate) cores: usize,
    /// Major and minor version of the kernel.
    pub(crate) kernel: String,
    /// Memory, GiB.
    pub(crate) memory_gib: u64,
    /// The filesystem below every variant.
    pub(crate) filesystem: String,
}

impl Machine {
    /// Describes this machine with `base` as the place below all variants.
    pub(crate) fn describe(base: &std::path::Path) -> Result<Self> {
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy();
        let kernel = release.split('.').take(2).collect::<Vec<_>>().join(".");
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            kernel,
            memory_gib: (meminfo("MemTotal:")? + (1 << 29)) >> 30,
            filesystem: filesystem_name(base)?,
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cores, Linux {}, {} GiB, {}", self.cores, self.kernel, self.memory_gib, self.filesystem)
    }
}

fn filesystem_name(path: &std::path::Path) -> io::Result<String> {
    // statfs(2), "Filesystem type constants".
    let name = match u32::try_from(rustix::fs::statfs(path)?.f_type).unwrap_or(0) {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        other => return Ok(format!("filesystem {other:#x}")),
    };
    Ok(name.to_owned())
}
