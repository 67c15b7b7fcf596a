//! What workers that died may not leave behind: open handles, known inodes, space of deleted files.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::ground::Ground;

/// How long the kernel and the worker may take to let go of everything. Lost references are looked for 4, 16 and 52
/// seconds after the last takeover.
const SETTLES_WITHIN: Duration = Duration::from_secs(70);

/// Space that a filesystem may keep for itself: larger directories, logs, preallocation.
const SPACE_TOLERANCE: u64 = 8 << 20;

/// What a mount uses while nobody uses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    handles: u64,
    inodes: u64,
    bytes: u64,
}

impl Usage {
    fn now(ground: &Ground) -> Self {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let workspace = ground.daemon().workspace(&ground.mount.workspace().id);
        let space = rustix::fs::statvfs(ground.mount.backing().path()).unwrap();
        let kept = Self::kept(&ground.mount.backing().path().join(".wsguard"));
        Self {
            handles: workspace.open_handles,
            inodes: workspace.inodes_known,
            bytes: ((space.f_blocks - space.f_bfree) * space.f_frsize).saturating_sub(kept),
        }
    }

    /// Bytes of what is kept of deleted and overwritten files, beside the workspace.
    fn kept(dir: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(dir) else { return 0 };
        let of_entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.ok()?;
            let meta = entry.metadata().ok()?;
            Some(meta.blocks() * 512 + if meta.is_dir() { Self::kept(&entry.path()) } else { 0 })
        };
        entries.filter_map(of_entry).sum()
    }

    /// Drops the kernel's caches until nothing goes down any more.
    pub(crate) fn settled(ground: &Ground) -> Self {
        let started = Instant::now();
        let mut last = Self::now(ground);
        loop {
            thread::sleep(Duration::from_millis(200));
            let now = Self::now(ground);
            let goes_down = (now.handles, now.inodes, now.bytes) != (last.handles, last.inodes, last.bytes);
            if !goes_down || started.elapsed() > SETTLES_WITHIN {
                return now;
            }
            last = now;
        }
    }

    /// Waits until a mount uses no more than `before`.
    pub(crate) fn assert_back_at(before: &Self, ground: &Ground, name: &str, killed: usize) {
        let started = Instant::now();
        let is_back = |now: &Self| {
            now.handles <= before.handles
                && now.inodes <= before.inodes
                && now.bytes <= before.bytes + SPACE_TOLERANCE
        };
        let mut now = Self::settled(ground);
        while !is_back(&now) && started.elapsed() < SETTLES_WITHIN {
            now = Self::settled(ground);
        }
        println!("{name}: before {before:?}, after {now:?}");
        assert_eq!(now.handles, before.handles, "open handles after {killed} kills");
        assert!(
            now.bytes <= before.bytes + SPACE_TOLERANCE,
            "{} bytes used, {} before: space of deleted files is not freed",
            now.bytes,
            before.bytes
        );
        assert!(now.inodes <= before.inodes, "{} inodes known, {} before", now.inodes, before.inodes);
    }
}
