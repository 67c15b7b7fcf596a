//! `/proc/<pid>/mountinfo`, parsed into bytes: mount points of users may hold any byte but NUL.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The filesystem type that our mounts show in mountinfo: `fuse` plus the subtype.
pub(crate) const WSGUARD_FILESYSTEM: &str = "fuse.wsguard";

/// What precedes a workspace's name in the source field of its mounts.
pub(crate) const SOURCE_PREFIX: &str = "wsguard:";

/// `major:minor` of a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceNumber {
    /// 0 for every filesystem without a block device.
    pub(crate) major: u32,
    /// Unique among living superblocks.
    pub(crate) minor: u32,
}

impl DeviceNumber {
    /// No filesystem: of a superblock that is mounted nowhere any more.
    pub(crate) const NOWHERE: Self = Self { major: 0, minor: 0 };

    /// Parses `major:minor`, decimal.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl std::fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// How a mount passes mounts and unmounts on to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// Member of a peer group: what is mounted on it appears elsewhere.
    Shared,
    /// Private, slave or unbindable.
    NotShared,
}

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// The mount's own id.
    pub(crate) id: u64,
    /// The id of the mount that it is mounted on.
    pub(crate) parent: u64,
    /// Its superblock.
    pub(crate) device: DeviceNumber,
    /// The directory of the filesystem that is mounted, `/` for all of it.
    pub(crate) root: PathBuf,
    /// Where it is mounted, as the reading process sees it.
    pub(crate) mount_point: PathBuf,
    /// Its own options, separated by commas: `ro`, `nosuid`, …
    pub(crate) options: String,
    /// Whether what is mounted below it appears elsewhere.
    pub(crate) propagation: Propagation,
    /// `ext4`, `fuse.wsguard`, …
    pub(crate) filesystem: String,
    /// The source field, `wsguard:<name>` for our mounts.
    pub(crate) source: OsString,
    /// The options of the filesystem itself, separated by commas: `rw`, `compress=zstd:3`, …
    pub(crate) filesystem_options: String,
}

impl MountEntry {
    /// Returns whether it is a mount of a wsguard daemon, dead or alive.
    pub(crate) fn is_wsguard(&self) -> bool {
        self.filesystem == WSGUARD_FILESYSTEM
    }

    /// Returns whether the mount itself, not its filesystem, has the option.
    pub(crate) fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|set| set == option)
    }

    /// Returns the values of the options of the filesystem with this name.
    pub(crate) fn filesystem_option<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let options = self.filesystem_options.split(',').filter_map(|option| option.split_once('='));
        options.filter(move |(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Returns whether it is a FUSE mount of any kind.
    pub(crate) fn is_fuse(&self) -> bool {
        self.filesystem == "fuse" || self.filesystem == "fuseblk" || self.filesystem.starts_with("fuse.")
    }

    /// Returns the workspace's name in the source field, if it is one of ours.
    pub(crate) fn workspace_name(&self) -> Option<&str> {
        self.source.to_str()?.strip_prefix(SOURCE_PREFIX)
    }
}

/// All mounts that one process sees, in the order of mounting.
#[derive(Clone, Debug, Default)]
pub(crate) struct MountTable {
    entries: Vec<MountEntry>,
}

impl MountTable {
    /// Reads the calling process's own table.
    ///
    /// # Errors
    /// As read(2) of `/proc/self/mountinfo`.
    pub(crate) fn read() -> std::io::Result<Self> {
        Self::read_from(Path::new("/proc/self/mountinfo"))
    }

    /// Reads the table in `path`, a process's mountinfo.
    ///
    /// # Errors
    /// As read(2).
    pub(crate) fn read_from(path: &Path) -> std::io::Result<Self> {
        Ok(Self::parse(&std::fs::read(path)?))
    }

    /// Parses the text of a mountinfo file; a line that is not understood is skipped, because a later kernel
    /// may add kinds that do not concern us.
    pub(crate) fn parse(text: &[u8]) -> Self {
        Self { entries: text.split(|byte| *byte == b'\n').filter_map(parse_line).collect() }
    }

    /// Returns every mount.
    pub(crate) fn entries(&self) -> &[MountEntry] {
        &self.entries
    }

    /// Returns the topmost mount exactly at `path`.
    pub(crate) fn top_at(&self, path: &Path) -> Option<&MountEntry> {
        // Later lines cover earlier ones, except for a mount that was put beneath another: then the one that
        // is nobody's parent at this place is on top.
        let here: Vec<&MountEntry> = self.entries.iter().filter(|entry| entry.mount_point == path).collect();
        here.iter().rev().find(|entry| !here.iter().any(|other| other.parent == entry.id)).copied()
    }

    /// Returns the mount that a lookup of `path` ends on, for a path without symbolic links.
    pub(crate) fn containing(&self, path: &Path) -> Option<&MountEntry> {
        path.ancestors().find_map(|ancestor| self.top_at(ancestor))
    }

    /// Returns the mount that plain files at `path` lie on: the nearest one that is no guard.
    pub(crate) fn below_guards(&self, path: &Path) -> Option<&MountEntry> {
        path.ancestors().find_map(|ancestor| {
            let here = self.entries.iter().filter(|entry| entry.mount_point == ancestor);
            here.rev().find(|entry| !entry.is_wsguard())
        })
    }

    /// Returns every mount of the superblock `device`.
    pub(crate) fn of_device(&self, device: DeviceNumber) -> impl Iterator<Item = &MountEntry> {
        self.entries.iter().filter(move |entry| entry.device == device)
    }

    /// Returns the mounts strictly below `path`.
    pub(crate) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a MountEntry> {
        self.entries
            .iter()
            .filter(move |entry| entry.mount_point != path && entry.mount_point.starts_with(path))
    }
}

/// Parses `id parent major:minor root mount_point options [optional …] - filesystem source super_options`.
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = DeviceNumber::parse(std::str::from_utf8(fields.next()?).ok()?)?;
    let root = PathBuf::from(unescape(fields.next()?));
    let mount_point = PathBuf::from(unescape(fields.next()?));
    let options = String::from_utf8_lossy(fields.next()?).into_owned();
    let mut propagation = Propagation::NotShared;
    loop {
        match fields.next()? {
            b"-" => break,
            optional if optional.starts_with(b"shared:") => propagation = Propagation::Shared,
            _ => {}
        }
    }
    let filesystem = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = unescape(fields.next()?);
    let filesystem_options =
        fields.next().map(|options| String::from_utf8_lossy(options).into_owned()).unwrap_or_default();
    Some(MountEntry {
        id,
        parent,
        device,
        root,
        mount_point,
        options,
        propagation,
        filesystem,
        source,
        filesystem_options,
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the kernel's `\ooo` escapes of space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match (first, octal(tail)) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

fn octal(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits.get(..3)?).ok()?;
    u8::from_str_radix(digits, 8).ok()
}

/// Returns the last component of `path` and everything before it.
pub(crate) fn split_last(path: &Path) -> Option<(&Path, &std::ffi::OsStr)> {
    let name = path.file_name()?;
    let parent = path.parent()?;
    (!name.as_bytes().is_empty()).then_some((parent, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        30 21 0:40 / /home/u/a\\040b\\134c rw,nosuid,nodev - fuse.wsguard wsguard:my\\040name rw,user_id=0\n\
        31 21 0:41 / /run/x rw - tmpfs none rw\n\
        32 31 0:42 /sub /run/x/m rw master:3 - fuse.bindfs /src rw\n\
        34 21 0:44 / /dup rw - tmpfs none rw\n\
        33 34 0:43 / /dup rw - ext4 /dev/vdb rw\n\
        nonsense\n";

    #[test]
    fn octal_escapes_are_undone() {
        let table = MountTable::parse(TABLE);
        let entry = table.top_at(Path::new("/home/u/a b\\c")).unwrap();
        assert_eq!(entry.workspace_name(), Some("my name"));
        assert!(entry.is_wsguard());
        assert_eq!(entry.device, DeviceNumber { major: 0, minor: 40 });
        assert!(entry.has_option("nosuid") && !entry.has_option("suid"));
    }

    #[test]
    fn bytes_that_are_not_utf8_survive() {
        let table = MountTable::parse(b"30 21 0:40 / /h/\xff\\011x rw - ext4 /dev/vda rw\n");
        assert_eq!(table.entries()[0].mount_point.as_os_str().as_bytes(), b"/h/\xff\tx");
    }

    #[test]
    fn optional_fields_tell_the_propagation() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.top_at(Path::new("/")).unwrap().propagation, Propagation::Shared);
        assert_eq!(table.top_at(Path::new("/run/x/m")).unwrap().propagation, Propagation::NotShared);
        assert_eq!(table.top_at(Path::new("/run/x/m")).unwrap().root, Path::new("/sub"));
    }

    #[test]
    fn top_of_a_stack_is_the_mount_without_a_child() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.top_at(Path::new("/dup")).unwrap().id, 33);
        // Mounted beneath afterwards: the older line stays on top.
        let beneath = MountTable::parse(
            b"30 36 0:40 / /p rw - fuse.wsguard wsguard:p rw\n36 21 0:45 / /p rw - fuse.wsguard wsguard:p rw\n",
        );
        assert_eq!(beneath.top_at(Path::new("/p")).unwrap().id, 30);
    }

    #[test]
    fn plain_files_lie_on_the_nearest_mount_that_is_no_guard() {
        let table = MountTable::parse(
            b"21 1 254:0 / / rw - ext4 /dev/vda rw\n\
            40 21 0:50 / /data rw - btrfs /dev/vdb rw,compress=zstd:3,space_cache=v2\n\
            41 40 0:51 / /data/p rw - fuse.wsguard wsguard:p rw\n",
        );
        let below = table.below_guards(Path::new("/data/p")).unwrap();
        assert_eq!((below.id, below.filesystem_option("compress").next()), (40, Some("zstd:3")));
        assert_eq!(below.filesystem_option("compress-force").next(), None);
        assert_eq!(table.below_guards(Path::new("/home/p")).unwrap().id, 21);
    }

    #[test]
    fn unparsable_lines_are_skipped() {
        assert_eq!(MountTable::parse(TABLE).entries().len(), 6);
        assert_eq!(MountTable::parse(b"1 2 3\n\n\\\n").entries().len(), 0);
    }

    #[test]
    fn containing_mount_is_the_nearest_ancestor() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.containing(Path::new("/run/x/other/deep")).unwrap().id, 31);
        assert_eq!(table.containing(Path::new("/etc")).unwrap().id, 21);
        assert_eq!(table.below(Path::new("/run/x")).count(), 1);
    }
}
