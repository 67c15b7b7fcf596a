use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::mount::{UnmountFlags, unmount};

/// One line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Mount id.
    pub id: u64,
    /// `major:minor` of the superblock.
    pub device: String,
    /// Which directory of the superblock is mounted.
    pub root: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// Options of this mount, such as `nosuid`.
    pub options: Vec<String>,
    /// `shared:N`, `master:N` and so on; empty for a private mount.
    pub propagation: Vec<String>,
    /// Filesystem type, such as `fuse` or `ext4`.
    pub fs_type: String,
    /// The source given to mount(2).
    pub source: String,
    /// Options of the superblock.
    pub super_options: Vec<String>,
}

/// Returns the mounts that this process sees, in the order of the kernel's list.
pub fn mounts() -> Vec<Mount> {
    mounts_of_process("self")
}

/// Returns the mounts that another process sees; none if it is gone.
pub fn mounts_of_process(pid: &str) -> Vec<Mount> {
    let bytes = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    bytes.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// Returns the mounts at `path` or below it.
pub fn mounts_below(path: &Path) -> Vec<Mount> {
    mounts().into_iter().filter(|mount| mount.mount_point.starts_with(path)).collect()
}

/// Detaches every mount at `path` or below it, the last one first; returns what is still there afterwards.
pub fn unmount_below(path: &Path) -> Vec<Mount> {
    // One round is enough unless somebody mounts at the same time; the bound keeps a bug from looping.
    for _ in 0..8 {
        let found = mounts_below(path);
        if found.is_empty() {
            return found;
        }
        for mount in found.iter().rev() {
            // A mount may go away with its parent, which makes this fail; the next round tells.
            unmount(&mount.mount_point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).ok();
        }
    }
    mounts_below(path)
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next();
    let id = text(next()?).parse().ok()?;
    let (_parent, device) = (next()?, text(next()?));
    let (root, mount_point) = (path(next()?), path(next()?));
    let options = list(next()?);
    let mut propagation = Vec::new();
    loop {
        match next()? {
            b"-" => break,
            field => propagation.push(text(field)),
        }
    }
    let (fs_type, source) = (text(next()?), text(next()?));
    let super_options = list(next()?);
    Some(Mount { id, device, root, mount_point, options, propagation, fs_type, source, super_options })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn list(field: &[u8]) -> Vec<String> {
    text(field).split(',').map(str::to_owned).collect()
}

/// Undoes the kernel's `\040`-style escapes of blanks and backslashes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = tail.get(..3).filter(|_| first == b'\\');
        let value = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(value.unwrap_or(first));
        rest = if value.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_mount_points_are_read_back() {
        let line =
            b"36 35 98:0 /a\\040b /mnt/x\\134y rw,nosuid shared:1 master:2 - fuse.x src\\011 rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!(mount.root, Path::new("/a b"));
        assert_eq!(mount.mount_point, Path::new("/mnt/x\\y"));
        assert_eq!(mount.propagation, ["shared:1", "master:2"]);
        assert_eq!((mount.fs_type.as_str(), mount.source.as_str()), ("fuse.x", "src\t"));
        assert_eq!(mount.options, ["rw", "nosuid"]);
    }
}
