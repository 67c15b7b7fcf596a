//! Limits that the filesystem below enforces by itself: the quota group of a btrfs subvolume.
//!
//! What is set is read back before it counts as set. Numbers are read from `/sys/fs/btrfs`, which shows what the
//! kernel decides by at that moment: what is committed, and what dirty pages have reserved beside it.
//!
//! Project quota of ext4 and XFS is recognised, to say so, and not used.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::sys::{btrfs, mount};

/// `BTRFS_SUPER_MAGIC`.
const BTRFS: i64 = 0x9123_683e;
/// Where the kernel tells of btrfs filesystems, by their id.
const SYSFS: &str = "/sys/fs/btrfs";
/// Btrfs allocates and reserves in sectors.
const SECTOR: u64 = 4096;

/// Why the filesystem below does not enforce a limit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum KernelQuotaError {
    /// Another filesystem; whether it accounts project quota is told along.
    #[error(
        "the filesystem below enforces no limit that wsguard can set: it is not btrfs{}",
        if *.project_quota { " (project quota is on there, which this version does not use)" } else { "" }
    )]
    NotBtrfs { project_quota: bool },
    /// A directory within a subvolume shares that subvolume's quota group.
    #[error("the directory is not a btrfs subvolume of its own, so the kernel cannot limit it alone")]
    NotASubvolume,
    /// Nothing is counted on the filesystem.
    #[error("quotas are off on this btrfs")]
    QuotasOff,
    /// The kernel has not counted everything yet, or lost count; what it shows may be wrong until then.
    #[error("the kernel is still counting what is on this btrfs")]
    Counting,
    /// Somebody has removed what the kernel makes with each subvolume.
    #[error("the subvolume has no quota group 0/{id}")]
    NoGroup { id: u64 },
    /// Quota is off, and the worker would not go back to limits of its own.
    #[error("quota was off when the workspace was mounted")]
    NotCounted,
    /// The kernel shows another limit than the one that was just set.
    #[error("the kernel shows a limit of {found:?} bytes instead of {wanted:?}")]
    NotTaken { wanted: Option<u64>, found: Option<u64> },
    /// A call failed.
    #[error("cannot {action}: {errno}")]
    Call { action: &'static str, errno: Errno },
    /// sysfs does not say what is needed.
    #[error("cannot read {path}: {reason}", path = path.display())]
    Sysfs { path: PathBuf, reason: String },
}

fn call(action: &'static str) -> impl Fn(Errno) -> KernelQuotaError {
    move |errno| KernelQuotaError::Call { action, errno }
}

/// A subvolume whose quota group can limit it.
#[derive(Debug)]
pub(crate) struct Subvolume {
    root: OwnedFd,
    id: u64,
    qgroups: PathBuf,
}

impl Subvolume {
    /// Finds the subvolume whose root `dir`, no `O_PATH` descriptor, is. Says nothing about quotas.
    ///
    /// # Errors
    /// `NotBtrfs`, `NotASubvolume` or `Call`.
    pub(crate) fn at(dir: BorrowedFd<'_>) -> Result<Self, KernelQuotaError> {
        let magic = rustix::fs::fstatfs(dir).map_err(call("ask which filesystem it is"))?.f_type;
        // The field is signed on some architectures; all magic numbers have 32 bits.
        if (magic as i64) & 0xffff_ffff != BTRFS {
            return Err(KernelQuotaError::NotBtrfs { project_quota: mount::accounts_project_quota(dir) });
        }
        let stat = rustix::fs::fstat(dir).map_err(call("look at the directory"))?;
        if stat.st_ino != btrfs::SUBVOLUME_ROOT {
            return Err(KernelQuotaError::NotASubvolume);
        }
        let id = btrfs::subvolume_of(dir).map_err(call("ask for the subvolume"))?;
        let filesystem = btrfs::filesystem_id(dir).map_err(call("ask for the id of the filesystem"))?;
        let root = dir.try_clone_to_owned().map_err(|error| KernelQuotaError::Call {
            action: "copy a descriptor",
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        })?;
        Ok(Self { root, id, qgroups: Path::new(SYSFS).join(uuid(filesystem)).join("qgroups") })
    }

    /// Returns the name that btrfs tools know its quota group by.
    pub(crate) fn name(&self) -> String {
        format!("btrfs qgroup 0/{}", self.id)
    }

    /// Whether both are the same subvolume.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.qgroups == other.qgroups
    }

    /// Turns the quotas of the whole filesystem on.
    ///
    /// # Errors
    /// `Call`.
    pub(crate) fn enable(&self) -> Result<(), KernelQuotaError> {
        btrfs::enable_quotas(self.root.as_fd()).map_err(call("turn quotas on"))
    }

    /// Makes sure that the kernel counts this subvolume, and has finished counting.
    ///
    /// # Errors
    /// `QuotasOff`, `Counting`, `NoGroup` or `Sysfs`.
    pub(crate) fn check(&self) -> Result<(), KernelQuotaError> {
        // The directory is there while quotas are on.
        if !self.qgroups.is_dir() {
            return Err(KernelQuotaError::QuotasOff);
        }
        // Before Linux 6.1 these two files are missing.
        if self.read_optional("enabled")? == Some(0) {
            return Err(KernelQuotaError::QuotasOff);
        }
        if self.read_optional("inconsistent")? == Some(1) {
            return Err(KernelQuotaError::Counting);
        }
        if self.group().is_dir() { Ok(()) } else { Err(KernelQuotaError::NoGroup { id: self.id }) }
    }

    /// Returns the limit that the kernel enforces, bytes.
    ///
    /// # Errors
    /// `Sysfs`.
    pub(crate) fn limit(&self) -> Result<Option<u64>, KernelQuotaError> {
        /// `BTRFS_QGROUP_LIMIT_MAX_RFER`.
        const IS_LIMITED: u64 = 1;
        let flags = self.read("limit_flags")?;
        if flags & IS_LIMITED == 0 { Ok(None) } else { self.read("max_referenced").map(Some) }
    }

    /// Sets the limit, or takes it away, and reads it back.
    ///
    /// # Errors
    /// `Call`, `Sysfs` or `NotTaken`; the limit is then whatever the kernel says.
    pub(crate) fn set_limit(&self, bytes: Option<u64>) -> Result<(), KernelQuotaError> {
        btrfs::limit_qgroup(self.root.as_fd(), self.id, bytes).map_err(call("limit the subvolume"))?;
        let found = self.limit()?;
        if found == bytes { Ok(()) } else { Err(KernelQuotaError::NotTaken { wanted: bytes, found }) }
    }

    /// Returns what the kernel counts against the limit at this moment, bytes. What was deleted goes with the next
    /// commit of the filesystem, half a minute later at most.
    ///
    /// # Errors
    /// `Sysfs`.
    pub(crate) fn used(&self) -> Result<u64, KernelQuotaError> {
        let used = self.read("referenced")?.saturating_add(self.read("rsv_data")?);
        Ok(used.next_multiple_of(SECTOR))
    }

    fn group(&self) -> PathBuf {
        self.qgroups.join(format!("0_{}", self.id))
    }

    fn read(&self, name: &str) -> Result<u64, KernelQuotaError> {
        read_number(&self.group().join(name))
    }

    fn read_optional(&self, name: &str) -> Result<Option<u64>, KernelQuotaError> {
        let path = self.qgroups.join(name);
        if path.exists() { read_number(&path).map(Some) } else { Ok(None) }
    }
}

fn read_number(path: &Path) -> Result<u64, KernelQuotaError> {
    let failed = |reason: String| KernelQuotaError::Sysfs { path: path.to_path_buf(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    text.trim().parse().map_err(|_| failed(format!("{:?} is not a number", text.trim())))
}

/// Writes an id as sysfs does.
fn uuid(id: [u8; 16]) -> String {
    let hex: Vec<String> = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default().concat();
    [part(0..4), part(4..6), part(6..8), part(8..10), part(10..16)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_filesystem_says_what_it_is_not() {
        let dir = std::fs::File::open("/proc/self").unwrap();
        let error = Subvolume::at(dir.as_fd()).unwrap_err();
        assert_eq!(error, KernelQuotaError::NotBtrfs { project_quota: false });
        assert!(error.to_string().ends_with("it is not btrfs"), "{error}");
        let error = KernelQuotaError::NotBtrfs { project_quota: true };
        assert!(error.to_string().contains("project quota is on there"), "{error}");
    }

    #[test]
    fn ids_are_written_as_in_sysfs() {
        let id = std::array::from_fn(|index| index as u8 * 17);
        assert_eq!(uuid(id), "00112233-4455-6677-8899-aabbccddeeff");
    }
}
