//! Whether the filesystem below compresses what is written to a workspace.
//!
//! Then its blocks depend on what the data is like and when it is written back, and a limit on them would be one on luck:
//! sizes are counted instead. Asked once, at the mount; a worker that takes over goes on with the answer.
//! Compression of a directory further down is not looked for.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::IFlags;

use super::mountinfo::MountTable;

/// Options of a btrfs mount that turn compression on.
const OPTIONS: [&str; 2] = ["compress", "compress-force"];

/// What the value of an option or a property is where it is turned off.
const OFF: [&str; 2] = ["no", "none"];

/// Where `btrfs property` keeps what a directory's new files are compressed with.
const PROPERTY: &str = "btrfs.compression";

/// Returns whether new files in the plain directory `dir`, which is open as `root`, are compressed.
pub(super) fn compresses(filesystem: &str, root: BorrowedFd<'_>, dir: &Path, table: &MountTable) -> bool {
    filesystem == "btrfs" && (is_mounted_so(dir, table) || is_set_for(root))
}

fn is_mounted_so(dir: &Path, table: &MountTable) -> bool {
    let Some(below) = table.below_guards(dir).filter(|below| below.filesystem == "btrfs") else {
        return false;
    };
    OPTIONS.iter().any(|name| below.filesystem_option(name).any(|value| !OFF.contains(&value)))
}

/// `btrfs property set DIR compression …`, or `chattr +c`.
fn is_set_for(root: BorrowedFd<'_>) -> bool {
    let mut value = [0_u8; 16];
    let property = rustix::fs::fgetxattr(root, PROPERTY, &mut value[..]).ok();
    let property = property.and_then(|length| std::str::from_utf8(value.get(..length)?).ok());
    let has_flag =
        || rustix::fs::ioctl_getflags(root.as_fd()).is_ok_and(|flags| flags.contains(IFlags::COMPRESSED));
    match property {
        Some(value) => !value.is_empty() && !OFF.contains(&value),
        None => has_flag(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed_by(filesystem: &str, options: &str) -> bool {
        let line = format!("40 21 0:50 / /data rw - {filesystem} /dev/vdb {options}\n");
        is_mounted_so(Path::new("/data/p"), &MountTable::parse(line.as_bytes()))
    }

    #[test]
    fn options_of_the_filesystem_turn_it_on_and_off() {
        assert!(compressed_by("btrfs", "rw,compress=zstd:3,ssd"));
        assert!(compressed_by("btrfs", "rw,compress-force=lzo"));
        assert!(!compressed_by("btrfs", "rw,compress=no"));
        assert!(!compressed_by("btrfs", "rw,ssd"));
        assert!(!compressed_by("f2fs", "rw,compress=lz4"));
    }

    #[test]
    fn a_directory_without_the_property_is_not_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::open(dir.path()).unwrap();
        assert!(!is_set_for(file.as_fd()));
    }
}
