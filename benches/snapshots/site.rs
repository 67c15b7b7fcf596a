//! A workspace with a daemon of its own, with history or without.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use harness::{Backing, Daemon, FsKind, GuardMount, Output};
use wsguard_api::{Ownership, SnapshotTaken};

/// Nothing happens by itself while it is measured.
const WITH: &str = "[snapshots]\nauto-seconds = 86400\nbudget-percent = 80\nkeep-free-percent = 1\n";
const WITHOUT: &str = "[snapshots]\nenabled = false\n";

/// See the module.
pub(crate) struct Site {
    mount: GuardMount,
}

impl Site {
    /// With history.
    pub(crate) fn with(kind: FsKind, bytes: u64, prepare: impl FnOnce(&Path)) -> Self {
        Self::new(kind, bytes, WITH, prepare)
    }

    /// One with and one without, the same otherwise.
    pub(crate) fn both(kind: FsKind, bytes: u64, prepare: impl Fn(&Path)) -> [Self; 2] {
        [WITH, WITHOUT].map(|config| Self::new(kind, bytes, config, &prepare))
    }

    fn new(kind: FsKind, bytes: u64, config: &str, prepare: impl FnOnce(&Path)) -> Self {
        let mount = GuardMount::builder()
            .backing(Backing::Loop(kind, bytes))
            .ownership(Ownership::Preserve)
            .daemon(Daemon::builder().config(config).deadline(Duration::from_secs(1_800)))
            .mount_prepared(prepare);
        Self { mount }
    }

    /// Returns a path in the workspace.
    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.mount.path().join(name)
    }

    /// Runs `wsguard` in the workspace.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        let command = self.mount.daemon().command().current_dir(self.mount.path());
        command.args(arguments).timeout(Duration::from_secs(300)).output()
    }

    /// Takes a snapshot and returns its name in `.snapshots`.
    pub(crate) fn snapshot(&self, name: &str) -> Result<String> {
        let text = self.cli(&["snapshot", "create", "--name", name, "--json"]).ok();
        let taken: SnapshotTaken = serde_json::from_str(&text)?;
        let id = taken.id.to_string();
        let listed = fs::read_dir(self.at(".snapshots"))?;
        let names: std::io::Result<Vec<_>> = listed.map(|entry| Ok(entry?.file_name())).collect();
        let names: Vec<String> = names?.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let found = names.iter().find(|listed| listed.contains(name)).cloned();
        Ok(found.unwrap_or(id))
    }

    /// Writes everything back that is dirty.
    pub(crate) fn settle(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(File::open(self.mount.backing_path())?)?)
    }
}

/// Fills a file with bytes that differ from block to block and from seed to seed.
pub(crate) fn fill(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut file = File::create(path)?;
    for block in 0..bytes.div_ceil(1 << 20) {
        let length = usize::try_from((bytes - (block << 20)).min(1 << 20))?;
        file.write_all(&block_of(seed, block)[..length])?;
    }
    Ok(())
}

/// A MiB that does not repeat (SplitMix64).
pub(crate) fn block_of(seed: u64, block: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    (0..1 << 17).flat_map(|_| next().to_le_bytes()).collect()
}

/// Times something.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let started = Instant::now();
    let result = work()?;
    Ok((started.elapsed(), result))
}

/// Returns the value at a share of a sorted list.
pub(crate) fn at_share(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64) * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// Returns the median.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    at_share(&sorted, 0.5)
}
