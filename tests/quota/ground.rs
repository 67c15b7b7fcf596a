//! A guarded workspace whose books are compared with its plain files.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use harness::{Backing, GuardMount, wait_until};
use serde_json::Value;
use wsguard_api::{Ownership, QuotaReport, QuotaRow, QuotaState, ScopeRef, Usage};

/// The unit that charges come in.
pub(crate) const BLOCK: u64 = 4096;
/// A closed file is released a moment later, by another thread.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
/// The workspace's name.
const NAME: &str = "project";

/// A filesystem that keeps the plain files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Below {
    Ext4,
    Xfs,
    Btrfs,
    Tmpfs,
}

impl Below {
    /// Whether this machine can make one; says so if not.
    pub(crate) fn is_there(self) -> bool {
        harness::Facility::Fuse.check()
            && match self {
                Self::Ext4 => harness::Facility::Ext4.check(),
                Self::Xfs => harness::Facility::Xfs.check(),
                Self::Btrfs => harness::Facility::Btrfs.check(),
                Self::Tmpfs => true,
            }
    }

    fn backing(self) -> Backing {
        match self {
            Self::Ext4 => Backing::on(harness::FsKind::Ext4),
            Self::Xfs => Backing::on(harness::FsKind::Xfs),
            Self::Btrfs => Backing::on(harness::FsKind::Btrfs),
            Self::Tmpfs => Backing::Tmpfs(512 << 20),
        }
    }

    /// What a regular file is charged for (DESIGN: `allocated`; on XFS never more than the size).
    pub(crate) fn charge(self, meta: &fs::Metadata) -> u64 {
        if !meta.is_file() {
            return 0;
        }
        let allocated = (meta.blocks() * 512).next_multiple_of(BLOCK);
        if self == Self::Xfs { allocated.min(meta.len().next_multiple_of(BLOCK)) } else { allocated }
    }
}

/// A workspace that is counted and in use by nobody.
pub(crate) struct Ground {
    pub(crate) mount: GuardMount,
    pub(crate) below: Below,
}

impl Ground {
    pub(crate) fn new(below: Below) -> Self {
        Self::prepared(below, |_| {})
    }

    /// With plain files that were there before.
    pub(crate) fn prepared(below: Below, prepare: impl FnOnce(&Path)) -> Self {
        let mount = GuardMount::builder()
            .backing(below.backing())
            .ownership(Ownership::Preserve)
            .name(NAME)
            .deadline(Duration::from_secs(600))
            .mount_prepared(prepare);
        let ground = Self { mount, below };
        ground.wait_until_counted();
        ground
    }

    /// The mount.
    pub(crate) fn path(&self) -> &Path {
        self.mount.path()
    }

    /// A path in the mount.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The same file below the mount.
    pub(crate) fn below_at(&self, name: &str) -> PathBuf {
        self.mount.backing_path().join(name)
    }

    /// What `quota report` says of the project.
    #[track_caller]
    pub(crate) fn row(&self) -> QuotaRow {
        let text = self.mount.daemon().cli(["quota", "report", "--json"]).ok();
        let report: QuotaReport = serde_json::from_str(&text).unwrap();
        let is_project = |row: &QuotaRow| matches!(row.scope, ScopeRef::Project { .. });
        report.items.into_iter().find(is_project).expect("the project is in the report")
    }

    #[track_caller]
    pub(crate) fn used(&self) -> Usage {
        self.row().used.expect("it is mounted")
    }

    /// Sets limits of the project, as an administrator does.
    #[track_caller]
    pub(crate) fn set(&self, limits: &[&str]) {
        let project = format!("project:{NAME}");
        self.mount.daemon().command().args(["quota", "set", &project]).args(limits).ok();
    }

    /// What a walk of the plain files gives, the root included.
    pub(crate) fn walked(&self) -> Usage {
        let mut inodes = HashMap::new();
        self.walk(self.mount.backing_path(), &mut inodes);
        Usage { bytes: inodes.values().sum(), inodes: inodes.len() as u64 }
    }

    fn walk(&self, path: &Path, inodes: &mut HashMap<u64, u64>) {
        // What goes while others work is looked for again by whoever waits.
        let Ok(meta) = fs::symlink_metadata(path) else { return };
        inodes.insert(meta.ino(), self.below.charge(&meta));
        if meta.is_dir()
            && let Ok(entries) = fs::read_dir(path)
        {
            entries.flatten().for_each(|entry| self.walk(&entry.path(), inodes));
        }
    }

    /// Waits until the numbers are counted and not assumed.
    #[track_caller]
    pub(crate) fn wait_until_counted(&self) {
        wait_until("the project to be counted", Duration::from_secs(40), || {
            self.row().state != QuotaState::Estimated
        });
    }

    /// Compares the books with the plain files: what they say at this moment, then what a recount finds after
    /// everything was written back. Returns the first difference.
    pub(crate) fn difference(&self) -> Option<String> {
        self.difference_with(0, 0)
    }

    /// As [`Self::difference`], where so much more is charged than the walk sees.
    pub(crate) fn difference_with(&self, bytes: u64, inodes: u64) -> Option<String> {
        let begun = Instant::now();
        let (used, expected) = loop {
            let walked = self.walked();
            let expected = Usage { bytes: walked.bytes + bytes, inodes: walked.inodes + inodes };
            let row = self.row();
            let used = row.used.expect("it is mounted");
            if used == expected || begun.elapsed() > SETTLES_WITHIN {
                break (used, expected);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if used != expected {
            return Some(format!("the books say {used:?}, the files {expected:?}"));
        }
        let (drift, counted) = self.check();
        let walked = self.walked();
        let expected = Usage { bytes: walked.bytes + bytes, inodes: walked.inodes + inodes };
        if drift != (0, 0) || counted != expected {
            return Some(format!(
                "a recount finds {counted:?} with a drift of {drift:?}, a walk {expected:?}; the books said {used:?}"
            ));
        }
        None
    }

    /// Panics with the first difference between books and files.
    #[track_caller]
    pub(crate) fn assert_exact(&self, after: &str) {
        if let Some(difference) = self.difference() {
            panic!("{after} on {:?}: {difference}", self.below);
        }
    }

    /// Counts the project: drift of bytes and inodes, and what was counted.
    #[track_caller]
    pub(crate) fn check(&self) -> ((i64, i64), Usage) {
        let output = self.mount.daemon().cli(["quota", "check", NAME, "--json"]);
        // 10: there is a difference.
        assert!([0, 10].contains(&output.code), "{output:?}");
        let text = output.stdout;
        let report: Value = serde_json::from_str(&text).unwrap();
        let item = &report["items"][0];
        let drift = (item["drift_bytes"].as_i64().unwrap(), item["drift_inodes"].as_i64().unwrap());
        (drift, serde_json::from_value(item["counted"].clone()).unwrap())
    }
}

/// Tells threads to end, also while the one that started them panics: they would run for ever.
pub(crate) struct EndOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a check on every filesystem, as tests named `check::xfs` and so on. A macro, because the tests must exist by
/// name before any of them runs.
macro_rules! on_every_filesystem {
    ($($check:ident),+ $(,)?) => {$(
        mod $check {
            use crate::ground::{Below, Ground};
            fn on(below: Below) {
                if below.is_there() {
                    super::$check(&mut Ground::new(below));
                }
            }
            #[test]
            fn ext4() { on(Below::Ext4); }
            #[test]
            fn xfs() { on(Below::Xfs); }
            #[test]
            fn btrfs() { on(Below::Btrfs); }
            #[test]
            fn tmpfs() { on(Below::Tmpfs); }
        }
    )+};
}
pub(crate) use on_every_filesystem;
